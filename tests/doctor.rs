//! `messagehub doctor` and `messagehub network-secret`: what they say of real nodes, and what of
//! machines on which something is wrong.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process::Output,
};

use serde_json::{Value, json};
use tempfile::TempDir;

mod common;

use common::{
    Home, Node, eventually, home, homes,
    netns::{Network, Running},
    node::{free_port, own_address},
};

/// What the doctor said: exit code, and level and text by check.
#[derive(Debug)]
struct Said {
    code: i32,
    findings: Vec<Value>,
}

impl Said {
    fn read(output: &Output) -> Self {
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(report["exit_code"], output.status.code().unwrap());
        let findings = report["findings"].as_array().unwrap().clone();
        for finding in &findings {
            let good = finding["level"] == "ok";
            assert!(good || finding["advice"].is_string(), "no advice: {finding}");
        }
        Self { code: output.status.code().unwrap(), findings }
    }

    /// Returns the level of the worst finding of a check, and its text.
    fn of(&self, check: &str) -> (&str, &str) {
        let found = self.findings.iter().filter(|finding| finding["check"] == check);
        let rank = |level: &str| {
            ["ok", "not-tested", "warning", "problem"].iter().position(|l| *l == level)
        };
        let worst = found.max_by_key(|finding| rank(finding["level"].as_str().unwrap()));
        let worst = worst.unwrap_or_else(|| panic!("nothing about {check}: {self:?}"));
        (worst["level"].as_str().unwrap(), worst["text"].as_str().unwrap())
    }

    #[track_caller]
    fn is(&self, check: &str, level: &str, words: &str) {
        let (is, text) = self.of(check);
        assert!(is == level && text.contains(words), "{check} is {is}: {text}\n{self:?}");
    }
}

async fn ask_doctor(node: &Node) -> Said {
    let config = node.config_file();
    Said::read(&node.run(&["doctor", "--json", "--config", config.to_str().unwrap()]).await)
}

#[tokio::test]
async fn a_network_secret_is_one_line_and_strong_enough_for_no_warning() {
    let mut node = Node::new(&[]);
    let first = node.run(&["network-secret"]).await;
    let second = node.run(&["network-secret"]).await;
    assert!(first.status.success() && second.status.success());
    assert_ne!(first.stdout, second.stdout);
    let line = String::from_utf8(first.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    let secret = line.trim();
    assert!(secret.len() >= 26, "{secret} has less than 128 bits");
    let hint = String::from_utf8(first.stderr).unwrap();
    assert!(hint.contains("libp2p.privateNetworkSecret") && !hint.contains(secret), "{hint}");
    node.configure(|config| config["libp2p"]["privateNetworkSecret"] = json!(secret));
    ask_doctor(&node).await.is("network", "ok", "private");
    node.start_again().await;
    assert!(!node.log().contains("is short"), "{}", node.log());
}

#[tokio::test]
async fn before_the_first_start_nothing_is_wrong_and_nothing_is_made() {
    let node = Node::new(&[]);
    let said = ask_doctor(&node).await;
    assert_eq!(said.code, 0, "{said:?}");
    for check in ["configuration", "data folder", "disk space", "homeserver", "libp2p ports"] {
        said.is(check, "ok", "");
    }
    said.is("homeserver", "ok", "is free");
    for check in ["node", "reachable", "peers", "clock"] {
        said.is(check, "not-tested", "");
    }
    assert!(!node.data().exists());
    let words = node.run(&["doctor", "--config", node.config_file().to_str().unwrap()]).await;
    let text = String::from_utf8(words.stdout).unwrap();
    assert_eq!(words.status.code(), Some(0));
    assert!(text.contains("homeserver") && text.contains("->"), "{text}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_named() {
    let node = Node::new(&[]);
    fs::write(node.config_file(), r#"{"listenAdress": "127.0.0.1:80"}"#).unwrap();
    let said = ask_doctor(&node).await;
    assert_eq!(said.code, 2);
    said.is("configuration", "problem", "listenAdress");
    said.is("data folder", "ok", "");
}

#[tokio::test]
async fn a_weak_secret_is_a_warning() {
    let mut node = Node::new(&[]);
    node.configure(|config| config["libp2p"]["privateNetworkSecret"] = json!("hunter2"));
    let said = ask_doctor(&node).await;
    assert_eq!(said.code, 1, "{said:?}");
    said.is("network", "warning", "short");
    assert!(!format!("{said:?}").contains("hunter2"), "the secret is shown");
}

#[tokio::test]
async fn ports_that_others_took_are_named() {
    let mut node = Node::new(&[]);
    let (tcp, udp) = (free_port(), free_port());
    let _http = TcpListener::bind(node.address()).unwrap();
    let _tcp = TcpListener::bind((own_address(), tcp)).unwrap();
    let _udp = UdpSocket::bind((own_address(), udp)).unwrap();
    let at = own_address();
    node.configure(|config| {
        config["libp2p"]["listenAddresses"] =
            json!([format!("/ip4/{at}/tcp/{tcp}"), format!("/ip4/{at}/udp/{udp}/quic-v1")]);
    });
    let said = ask_doctor(&node).await;
    assert_eq!(said.code, 2);
    said.is("homeserver", "problem", node.address());
    let ports: Vec<&Value> =
        said.findings.iter().filter(|finding| finding["check"] == "libp2p ports").collect();
    assert_eq!(ports.len(), 2, "{ports:?}");
    for (finding, port) in ports.iter().zip([tcp, udp]) {
        assert_eq!(finding["level"], "problem");
        assert!(finding["text"].as_str().unwrap().contains(&format!("{at}:{port}")), "{finding}");
    }
}

#[tokio::test]
async fn a_running_node_is_asked() {
    let [ann, bob]: [Home; 2] = homes().await;
    let search = ann.me.search(&bob.me.user_id).await;
    assert_eq!(search, std::slice::from_ref(&bob.me.user_id));
    let said = ask_doctor(&bob.node).await;
    said.is("node", "ok", &bob.me.user_id);
    said.is("homeserver", "ok", "the node serves");
    said.is("libp2p ports", "ok", "the node listens");
    said.is("bootstrap", "ok", "of 2 nodes reached");
    said.is("peers", "ok", "1 connected");
    // Ann asked for Bob's profile, and Bob's node for nothing: one of them has heard the other.
    eventually("a clock to compare with", async || {
        let said = ask_doctor(&ann.node).await;
        (said.of("clock").0 == "ok").then_some(())
    })
    .await;
    assert!(said.code < 2, "{said:?}");
}

#[tokio::test]
async fn bootstrap_nodes_that_are_not_there_are_a_problem() {
    let nowhere = format!("/ip4/{}/tcp/{}", own_address(), free_port());
    let node = Node::new(std::slice::from_ref(&nowhere));
    let said = ask_doctor(&node).await;
    assert_eq!(said.code, 2);
    said.is("bootstrap", "problem", &nowhere);
}

#[tokio::test]
async fn another_program_on_the_port_of_a_running_node_is_no_node() {
    let home = home(&[]).await;
    let mut other = Node::new(&[]);
    // The doctor is told of an address that is not where the node serves.
    let taken = TcpListener::bind((own_address(), 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    other.configure(|config| config["listenAddress"] = json!(address));
    let config = other.config_file();
    let arguments = ["doctor", "--json", "--config", config.to_str().unwrap()];
    let output = home.node.run(&arguments);
    let accepting = std::thread::spawn(move || {
        let (_stream, _) = taken.accept().unwrap();
    });
    let said = Said::read(&output.await);
    accepting.join().unwrap();
    said.is("homeserver", "problem", "another program");
}

/// Two machines on a LAN without the Internet, nodes in their default settings.
#[tokio::test]
async fn on_a_lan_without_the_internet_it_says_what_works_and_what_does_not() {
    let Some(network) = Network::new(&["10.84.49.1/24", "10.84.49.2/24"]) else { return };
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let doctor = |number: usize| {
        let output = network.run(number, folders[number].path(), &["doctor", "--json"]);
        Said::read(&output)
    };
    let before = doctor(0);
    assert_eq!(before.code, 1, "a LAN without the Internet is no fault: {before:?}");
    before.is("IPv4", "warning", "no way to the Internet");
    before.is("mDNS", "ok", "nobody answered");
    before.is("homeserver", "ok", "127.84.48.2:80 is free");
    before.is("libp2p ports", "ok", "TCP 0.0.0.0:4848, UDP 0.0.0.0:4848");
    before.is("bootstrap", "not-tested", "no way leads to the Internet");

    let start = |number: usize| {
        let folder = folders[number].path();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = network.messagehub(number, folder);
        Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    };
    let _first = start(0);
    let log_in = async |number: usize| {
        eventually("a login token", async || {
            let output = network.run(number, folders[number].path(), &["login-token"]);
            output.status.success().then_some(())
        })
        .await;
    };
    log_in(0).await;
    eventually("an answer of the node itself", async || {
        let said = doctor(0);
        said.of("mDNS").1.contains("this node answers").then_some(())
    })
    .await;
    let _second = start(1);
    log_in(1).await;
    eventually("an answer of the other node", async || {
        let said = doctor(0);
        let heard = said.of("mDNS").1.contains("by 1 other");
        (heard && said.of("peers").1.contains("1 connected")).then_some(())
    })
    .await;
    let after = doctor(0);
    after.is("homeserver", "ok", "the node serves on http://127.84.48.2:80");
    after.is("Element", "ok", "the node serves on http://127.84.48.1:80");
    after.is("libp2p ports", "ok", "UDP [::]:4848");
}
