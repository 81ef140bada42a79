//! What is wrong with a configuration or a folder ends the start: one line that names the culprit,
//! an exit code, and nothing half-written.

use std::{fs, net::TcpListener, path::Path};

use serde_json::json;
use tempfile::TempDir;

mod common;

use common::{
    Node, eventually, home,
    node::{free_port, own_address, refused_start},
    skip,
};

/// Starts a node that must refuse, and checks how it says so.
async fn refuses(folder: &Path, arguments: &[&str], culprit: &str) {
    let (status, said) = refused_start(folder, arguments).await;
    assert!(!status.success(), "{culprit}: it ended with {status}");
    assert!(status.code().is_some(), "{culprit}: a signal ended it: {status}");
    assert_eq!(said.trim_end().lines().count(), 1, "{culprit}: {said}");
    assert!(said.contains(culprit), "{culprit} is not named: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_wrong_configuration_is_named_and_nothing_is_written() {
    for (config, culprit) in [
        (r#"{"listenAdress": "127.0.0.1:80"}"#, "listenAdress"),
        (r#"{"listenAddress": "nowhere"}"#, "listenAddress"),
        (r#"{"libp2p": {"relays": []}}"#, "relays"),
        (r#"{"libp2p": {"staticRelays": ["nowhere"]}}"#, "staticRelays"),
        (r#"{"libp2p": {"listenAddresses": []}}"#, "listenAddresses"),
        (r#"{"libp2p": {"privateNetworkSecret": ""}}"#, "privateNetworkSecret"),
        (r#"{"libp2p": {"relay": {"serve": "friends"}}}"#, "libp2p.relay.serve"),
        (r#"{"libp2p": {"relay": {"circuits": 3}}}"#, "circuits"),
        (r#"{"libp2p": {"relay": {"maxReservations": 0}}}"#, "libp2p.relay.maxReservations"),
        (r#"{"libp2p": {"relay": {"maxCircuits": -1}}}"#, "libp2p.relay.maxCircuits"),
        (
            r#"{"libp2p": {"relay": {"memberCircuitSeconds": "an hour"}}}"#,
            "libp2p.relay.memberCircuitSeconds",
        ),
        (
            r#"{"libp2p": {"relay": {"strangerCircuits": 9, "maxCircuits": 8}}}"#,
            "libp2p.relay.strangerCircuits",
        ),
        (r#"{"listenAddress": "#, "config.json"),
        (r#"{"listenAddress": "localhost:80"}"#, "such as \"127.0.0.1:8480\""),
        (r#"{"libp2p": {"mdns": "yes"}}"#, "libp2p.mdns (in config.json) is \"yes\": write true"),
        (r#"{"libp2p": {"privateNetworkSecret": 7}}"#, "write a text in quotes"),
        (r#"{"libp2p": {"staticRelays": ["/ip4/1.2.3.4/tcp/1"]}}"#, "end with whose they are"),
        (r#"{"libp2p": {"relay": {"serve": "always "}}}"#, "write one of \"auto\""),
        (r#"{"login": {"localAccounts": ["no-such-account"]}}"#, "no-such-account"),
    ] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        refuses(folder.path(), &["--config", "config.json", "--data", "data"], culprit).await;
        assert!(!folder.path().join("data").exists(), "{culprit}: a data folder was made");
    }
}

#[tokio::test]
async fn a_missing_configuration_file_and_an_unknown_flag_are_named() {
    let folder = TempDir::new().unwrap();
    refuses(folder.path(), &["--config", "absent.json", "--data", "data"], "absent.json").await;
    let (status, said) = refused_start(folder.path(), &["--absent"]).await;
    assert!(!status.success());
    assert!(said.contains("--absent"), "{said}");
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn a_port_in_use_is_named_and_the_folder_stays_good() {
    let mut node = Node::new(&[]);
    let taken = TcpListener::bind(node.address()).unwrap();
    let (config, data) = (node.config_file(), node.data());
    let arguments = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    refuses(Path::new("/"), &arguments, node.address()).await;
    drop(taken);
    node.start_again().await;
    node.log_in().await;
}

#[tokio::test]
async fn a_libp2p_port_in_use_is_named() {
    let mut node = Node::new(&[]);
    let port = free_port();
    let _taken = TcpListener::bind((own_address(), port)).unwrap();
    let address = format!("/ip4/{}/tcp/{port}", own_address());
    node.configure(|config| config["libp2p"]["listenAddresses"] = json!([address]));
    node.start_again().await;
    // The network starts with the identity, at the first login: by then the node runs, so that
    // whoever asks may get a token or the end of the node.
    node.run(&["login-token"]).await;
    eventually("an error in the log that names the address", async || {
        let log = node.log();
        let mut errors = log.lines().filter(|line| line.to_lowercase().contains("in use"));
        errors.any(|line| line.contains(&port.to_string())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_in_use_is_named_and_its_node_goes_on() {
    let home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    let folder = TempDir::new().unwrap();
    let config = json!({
        "listenAddress": format!("{}:{}", own_address(), free_port()),
        "element": {"listenAddress": null},
        "libp2p": {
            "listenAddresses": [format!("/ip4/{}/tcp/{}", own_address(), free_port())],
            "mdns": false,
            "dht": {"bootstrapPeers": []},
        },
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let data = home.node.data();
    let data = data.to_str().unwrap();
    refuses(folder.path(), &["--config", "config.json", "--data", data], data).await;
    home.me.send(&room, "still here").await;
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_named() {
    let node = Node::new(&[]);
    fs::write(node.data(), "not a folder").unwrap();
    let (config, data) = (node.config_file(), node.data());
    let arguments = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    refuses(Path::new("/"), &arguments, data.to_str().unwrap()).await;
    assert_eq!(fs::read_to_string(&data).unwrap(), "not a folder");
}

#[tokio::test]
async fn an_unreadable_data_folder_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    if rustix::process::geteuid().is_root() {
        // Not `skip`: as root this has nothing to show, and another run shows it.
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    let node = Node::new(&[]);
    fs::create_dir(node.data()).unwrap();
    fs::set_permissions(node.data(), fs::Permissions::from_mode(0o000)).unwrap();
    let (config, data) = (node.config_file(), node.data());
    let arguments = ["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()];
    refuses(Path::new("/"), &arguments, data.to_str().unwrap()).await;
    fs::set_permissions(node.data(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn the_environment_wins_over_the_file() {
    let folder = TempDir::new().unwrap();
    let address = format!("{}:{}", own_address(), free_port());
    let taken = TcpListener::bind(&address).unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let mut command = common::node::command(folder.path());
    command
        .args(["--data", "data"])
        .env("MESSAGEHUB__LISTEN_ADDRESS", &address)
        .env("MESSAGEHUB__LIBP2P__MDNS", "false")
        .env("MESSAGEHUB__LIBP2P__LISTEN_ADDRESSES", format!("/ip4/{}/tcp/0", own_address()))
        .env("MESSAGEHUB__LIBP2P__DHT__BOOTSTRAP_PEERS", "")
        .env("RUST_LOG", "error");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    drop(taken);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&address), "{said}");
}

#[tokio::test]
async fn the_data_folder_is_for_its_owner_alone() {
    use std::os::unix::fs::MetadataExt as _;

    let home = home(&[]).await;
    let mut folders = vec![home.node.data()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        let mode = fs::metadata(&folder).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            files += 1;
            let kind = entry.file_type().unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let mode = entry.metadata().unwrap().mode() & 0o777;
            if kind.is_file() && (name.contains("key") || name.contains("identity")) {
                assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
            }
        }
    }
    if files == 0 {
        skip("the data folder is empty");
    }
}
