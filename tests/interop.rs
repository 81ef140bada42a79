//! Nodes with a libp2p that is not ours: js-libp2p. Each test runs a script of `tests/interop`, which
//! `tests/interop/install` installs, and prints its steps and how long they took.
//!
//! All but one test run on loopback. There the public DHT knows machines by the name `localhost`,
//! since an address of loopback never enters it, and a name may be anybody's.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

mod common;

use common::{
    Client, Home, Node, PATIENCE, eventually, home,
    netns::{Network, Running},
    skip,
};

/// Where the scripts are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
/// A server name that nobody can have: its key is public (docs/PROTOCOL.md §1).
const NOBODY: &str = "bahwqceraeh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q";
/// Longest a search may take: its 5 s, and a loaded machine.
const SEARCH_WAIT: Duration = Duration::from_secs(10);
/// Connections that strangers hold (`door/guests.rs`), and how many come.
const STRANGERS_MAX: usize = 96;
const CROWD: usize = 110;
/// The machines of the network with a relay: its own, and two that cannot reach each other. (Not of
/// the addresses kept for documentation, which js-libp2p rightly takes for nobody's.)
const MACHINES: [&str; 3] = ["11.0.113.10", "11.0.113.2", "11.0.113.3"];

/// A script that runs.
struct Script {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    begin: Instant,
}

impl Script {
    /// Starts a script; none where js-libp2p is not there, which it says.
    fn start(name: &'static str) -> Option<Self> {
        Self::start_by(name, std::process::Command::new("node"))
    }

    fn start_by(name: &'static str, command: std::process::Command) -> Option<Self> {
        if std::process::Command::new("node").arg("--version").output().is_err() {
            skip("node is not installed");
            return None;
        }
        if !Path::new(FOLDER).join("node_modules/libp2p").exists() {
            skip("js-libp2p is not installed: run tests/interop/install");
            return None;
        }
        let mut child = Command::from(command)
            .arg(name)
            .current_dir(FOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { name, child, input, output, begin: Instant::now() })
    }

    async fn line(&mut self) -> Option<String> {
        let line = timeout(2 * PATIENCE, self.output.next_line()).await;
        line.unwrap_or_else(|_| panic!("{} says nothing any more", self.name)).unwrap()
    }

    /// Waits for what the script has to tell; its steps are shown.
    async fn tells(&mut self) -> Value {
        while let Some(line) = self.line().await {
            match line.starts_with('{') {
                true => return serde_json::from_str(&line).unwrap(),
                false => eprintln!("{line}"),
            }
        }
        panic!("{} ended", self.name);
    }

    /// Tells the script something.
    async fn hears(&mut self, news: Value) {
        self.input.write_all(format!("{news}\n").as_bytes()).await.unwrap();
    }

    /// Waits for the end of the script, which must be a good one.
    async fn passes(mut self) {
        while let Some(line) = self.line().await {
            eprintln!("{line}");
        }
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{}: {status}", self.name);
        eprintln!("{}: {:.1} s in all", self.name, self.begin.elapsed().as_secs_f64());
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Returns the TCP address of a node, with its PeerId, and that.
async fn place(node: &Node) -> (String, String) {
    let addresses = node.addresses().await;
    let address = addresses.into_iter().find(|address| address.contains("/tcp/")).unwrap();
    let peer_id = address.rsplit('/').next().unwrap().to_owned();
    (address, peer_id)
}

/// A home in a public DHT that is entered through one address and is found by the name `localhost`;
/// its person has a name from the first record on. Returns its address too.
async fn in_public_dht(bootstrap: &str) -> (Home, String) {
    let mut home = home(&[]).await;
    home.me.call_oneself("Ann").await;
    home.node.stop().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    home.node.configure(|config| {
        let libp2p = &mut config["libp2p"];
        libp2p["listenAddresses"] = json!([format!("/ip4/127.0.0.1/tcp/{port}")]);
        libp2p["externalAddresses"] = json!([format!("/dns4/localhost/tcp/{port}")]);
        libp2p["dht"]["bootstrapPeers"] = json!([bootstrap]);
    });
    home.node.start_again().await;
    let (_, peer_id) = place(&home.node).await;
    (home, format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}"))
}

fn person(me: &Client, address: &str) -> Value {
    json!({
        "server_name": me.server_name(),
        "displayname": "Ann",
        "peer_id": address.rsplit('/').next().unwrap(),
        "address": address,
    })
}

/// Waits until the public DHT looks so, by `status`.
async fn public_dht(node: &Node, what: &str, is: impl Fn(&Value) -> bool) {
    eventually(what, async || {
        let status = node.status().await?;
        let all = status["dht"].as_array()?.clone();
        all.iter().find(|dht| dht["name"] == "public").filter(|dht| is(dht)).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_dht_that_js_libp2p_serves_keeps_our_strings_and_gives_them_back() {
    let Some(mut script) = Script::start("dht_of_js.mjs") else { return };
    let bootstrap = text(&script.tells().await["address"]);
    let (ann, address) = in_public_dht(&bootstrap).await;
    script.hears(person(&ann.me, &address)).await;
    script.tells().await;
    public_dht(&ann.node, "all strings read back", |dht| {
        dht["strings"] == 9 && dht["published"] == 9 && dht["read_back"] == 9
    })
    .await;
    script.hears(json!({})).await;
    script.passes().await;
}

#[tokio::test]
async fn a_dht_that_we_serve_keeps_records_of_js_libp2p_and_gives_them_to_others() {
    let Some(mut script) = Script::start("dht_of_ours.mjs") else { return };
    // Without any the public DHT is off; nobody is there.
    let nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let (ann, address) = in_public_dht(nobody).await;
    public_dht(&ann.node, "a server", |dht| dht["server"] == true).await;
    script.hears(person(&ann.me, &address)).await;
    script.passes().await;
}

#[tokio::test]
async fn a_provider_that_proves_nothing_is_found_and_not_shown() {
    let Some(mut script) = Script::start("provider_of_js.mjs") else { return };
    let bootstrap = text(&script.tells().await["address"]);
    let (ann, address) = in_public_dht(&bootstrap).await;
    let (_, peer_id) = address.rsplit_once('/').unwrap();
    let by_name = format!("Bob:{}", &NOBODY[NOBODY.len() - 7..]);
    let strings = [format!("p2p:{NOBODY}"), by_name.clone()];
    script.hears(json!({"peer_id": peer_id, "strings": strings})).await;
    assert_eq!(script.tells().await["provided"], 2);
    for term in [format!("@p2p:{NOBODY}"), by_name] {
        let begin = Instant::now();
        let found = ann.me.search(&term).await;
        eprintln!("{term}: nobody after {:.1} s", begin.elapsed().as_secs_f64());
        assert!(found.is_empty(), "{term}: {found:?}");
        assert!(begin.elapsed() < SEARCH_WAIT, "{:?}", begin.elapsed());
    }
    script.hears(json!({})).await;
    script.passes().await;
}

#[tokio::test]
async fn js_libp2p_and_we_identify_and_ping_each_other_and_it_spoils_nothing() {
    let Some(mut script) = Script::start("identify_and_ping.mjs") else { return };
    let mut node = Node::new(&[text(&script.tells().await["address"])]);
    node.start_again().await;
    let me = node.log_in().await;
    let (address, peer_id) = place(&node).await;
    script.hears(json!({"address": address, "peer_id": peer_id})).await;
    let told = script.tells().await;
    eprintln!("pinged {} times", told["pings"]);
    let status = node.status().await.unwrap();
    // Who sent something by our protocols is listed, and proved nothing.
    let unproven = |peer: &Value| peer["server_name"].is_null() && peer["gossips"] == false;
    assert!(status["peers"].as_array().unwrap().iter().all(unproven), "{status}");
    assert_eq!(status["strangers"], 2, "{status}");
    me.get("v3/account/whoami").await.ok();
    script.hears(json!({})).await;
    script.passes().await;
}

#[tokio::test]
async fn a_crowd_of_js_libp2p_nodes_holds_the_places_of_strangers_and_no_more() {
    let Some(mut script) = Script::start("crowd.mjs") else { return };
    let ann = home(&[]).await;
    let (address, _) = place(&ann.node).await;
    script.hears(json!({"address": address, "places": STRANGERS_MAX, "crowd": CROWD})).await;
    script.tells().await;
    let status = ann.node.status().await.unwrap();
    let strangers = status["strangers"].as_u64().unwrap();
    assert!(strangers <= STRANGERS_MAX as u64, "{status}");
    // One of ours is not a stranger.
    let bob = home(&[&ann.node]).await;
    ann.node.connected_to(&bob.me).await;
    script.hears(json!({})).await;
    script.passes().await;
}

/// A node on a machine of a network.
struct Far<'network> {
    network: &'network Network,
    machine: usize,
    folder: TempDir,
    _running: Running,
}

impl<'network> Far<'network> {
    /// Starts a node that knows a relay and nobody else.
    fn start(network: &'network Network, machine: usize, relay: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let ip = MACHINES[machine];
        let listen = [format!("/ip4/{ip}/tcp/4848"), format!("/ip4/{ip}/udp/4848/quic-v1")];
        let config = json!({
            "listenAddress": format!("{ip}:8008"),
            "element": {"listenAddress": null},
            "libp2p": {
                "listenAddresses": listen,
                "mdns": false,
                "portMapping": false,
                "staticRelays": [relay],
                "dht": {"bootstrapPeers": []},
            },
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let mut command = network.messagehub(machine, folder.path());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let running = command
            .env("RUST_LOG", "warn,messagehub=info")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { network, machine, folder, _running: Running(running) }
    }

    fn run(&self, arguments: &[&str]) -> Option<String> {
        let output = self.network.run(self.machine, self.folder.path(), arguments);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn status(&self) -> Option<Value> {
        self.run(&["status", "--json"]).map(|status| serde_json::from_str(&status).unwrap())
    }

    /// Returns how the script logs in.
    async fn way_in(&self) -> Value {
        let login_token = eventually("a login token", async || self.run(&["login-token"])).await;
        json!({"base": format!("http://{}:8008", MACHINES[self.machine]), "login_token": login_token})
    }

    /// Returns the PeerId: there is one once somebody has logged in.
    async fn peer_id(&self) -> String {
        eventually("a PeerId in the status", async || {
            let peer_id = text(&self.status()?["peer_id"]);
            Some(peer_id).filter(|peer_id| !peer_id.is_empty())
        })
        .await
    }
}

impl Drop for Far<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- log of machine {}\n{log}", self.machine);
        }
    }
}

#[tokio::test]
async fn a_relay_of_js_libp2p_carries_between_two_nodes_that_have_no_other_way() {
    let with_length = MACHINES.map(|ip| format!("{ip}/24"));
    let Some(network) = Network::new(&with_length.each_ref().map(String::as_str)) else { return };
    network.part((1, MACHINES[1]), (2, MACHINES[2]));
    let node = network.command(0, "node");
    let Some(mut script) = Script::start_by("relay_of_js.mjs", node) else { return };
    script.hears(json!({"listen": format!("/ip4/{}/tcp/4848", MACHINES[0])})).await;
    let relay = text(&script.tells().await["address"]);
    let far = [1, 2].map(|machine| Far::start(&network, machine, &relay));
    script.hears(json!([far[0].way_in().await, far[1].way_in().await])).await;
    script.tells().await;
    script.hears(json!([far[0].peer_id().await, far[1].peer_id().await])).await;
    script.tells().await;
    for one in &far {
        // One circuit may just have ended, and the next one not have begun.
        let status = eventually("the other one in the status", async || {
            one.status()
                .filter(|status| status["peers"].as_array().is_some_and(|all| !all.is_empty()))
        })
        .await;
        let peers = status["peers"].as_array().unwrap();
        assert!(peers.iter().all(|peer| peer["relayed"] == true), "{status}");
        assert_eq!(status["reachability"], "relayed", "{status}");
        assert_eq!(status["relays"][0]["kind"], "static", "{status}");
    }
    script.hears(json!({})).await;
    script.passes().await;
}

#[tokio::test]
async fn we_carry_between_two_js_libp2p_nodes_as_much_as_strangers_may() {
    let Some(mut script) = Script::start("relay_of_ours.mjs") else { return };
    let mut node = Node::new(&[]);
    node.configure(|config| config["libp2p"]["relay"] = json!({"serve": "always"}));
    node.start_again().await;
    node.log_in().await;
    let (address, peer_id) = place(&node).await;
    script.hears(json!({"address": address, "peer_id": peer_id})).await;
    script.passes().await;
}

#[tokio::test]
async fn a_private_network_is_open_to_js_libp2p_with_the_secret_and_shut_without() {
    let Some(mut script) = Script::start("private_network.mjs") else { return };
    let mut node = Node::new(&[]);
    let secret = node.run(&["network-secret"]).await;
    let secret = String::from_utf8(secret.stdout).unwrap().trim().to_owned();
    script.hears(json!({"secret": secret})).await;
    let known = script.tells().await["addresses"].clone();
    node.configure(|config| {
        config["libp2p"]["privateNetworkSecret"] = json!(secret);
        config["libp2p"]["dht"]["bootstrapPeers"] = known;
    });
    node.start_again().await;
    node.log_in().await;
    let (address, peer_id) = place(&node).await;
    script.hears(json!({"address": address, "peer_id": peer_id})).await;
    script.passes().await;
}
