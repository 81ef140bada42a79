//! Figures for Prometheus: where they are, what they say, and that a real Prometheus takes them
//! (`tests/metrics/install` brings Debian's).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

mod common;

use common::{
    Home, Node, eventually, home,
    node::{free_port, own_address},
    skip,
};

/// The dashboard that comes with the node.
const DASHBOARD: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/grafana/messagehub.json"));

/// Has a node tell its figures; returns where.
async fn with_figures(home: &mut Home) -> String {
    let address = format!("{}:{}", own_address(), free_port());
    home.node.stop().await;
    home.node.configure(|config| config["metrics"] = json!({"listenAddress": address}));
    home.node.start_again().await;
    address
}

async fn read(address: &str) -> String {
    let answer = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

/// Returns the value of one line.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn figures_grow_with_what_is_done_and_name_nobody() {
    let mut ann = home(&[]).await;
    let address = with_figures(&mut ann).await;
    let mut bob = home(&[&ann.node]).await;
    ann.node.connected_to(&bob.me).await;
    let before = read(&address).await;
    assert_eq!(value(&before, "messagehub_peers{path=\"lan\"}"), 1.0, "{before}");
    assert_eq!(value(&before, "messagehub_client_seconds_count{what=\"send\"}"), 0.0);

    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    bob.me.send(&room, "the secret text").await;
    ann.me.reads(&room, "the secret text").await;
    ann.me.send(&room, "another one").await;
    bob.me.reads(&room, "another one").await;

    let after = read(&address).await;
    for (name, least) in [
        ("messagehub_client_seconds_count{what=\"send\"}", 1.0),
        ("messagehub_client_seconds_count{what=\"sync\"}", 1.0),
        ("messagehub_rooms{state=\"joined\"}", 1.0),
        ("messagehub_members", 1.0),
        ("messagehub_gossip_verdicts_total{verdict=\"accepted\"}", 1.0),
        ("messagehub_received_bytes_total{kind=\"gossip\"}", 100.0),
        ("messagehub_sent_bytes_total{kind=\"gossip\"}", 100.0),
        ("messagehub_received_bytes_total{kind=\"requests\"}", 100.0),
        ("messagehub_store_bytes", 1000.0),
        ("messagehub_work_places{of=\"clients\"}", 256.0),
    ] {
        assert!(value(&after, name) >= least, "{name}\n{after}");
    }
    let ids = [ann.me.server_name(), bob.me.server_name(), &room, "secret", "127.", "12D3KooW"];
    for name in ids {
        assert!(!after.contains(name), "{name} in\n{after}");
    }
}

#[tokio::test]
async fn they_are_off_and_for_nobody_who_comes_by_a_foreign_name() {
    let mut ann = home(&[]).await;
    let own = reqwest::get(format!("{}/metrics", ann.node.base())).await.unwrap();
    assert_eq!(own.status(), 404, "not at the homeserver's address");
    let address = with_figures(&mut ann).await;
    let client = reqwest::Client::new();
    let ask = |method: reqwest::Method, path: &str, host: &str| {
        let request = client.request(method, format!("http://{address}{path}"));
        request.header("Host", host.to_owned()).header("Origin", "http://evil.example").send()
    };
    for (method, path, host, status) in [
        (reqwest::Method::GET, "/metrics", address.as_str(), 200),
        (reqwest::Method::GET, "/metrics", "evil.example", 403),
        (reqwest::Method::GET, "/metrics", "10.1.2.3", 403),
        (reqwest::Method::GET, "/", address.as_str(), 404),
        (reqwest::Method::POST, "/metrics", address.as_str(), 405),
    ] {
        let answer = ask(method, path, host).await.unwrap();
        assert_eq!(answer.status(), status, "{path} of {host}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        let text = answer.text().await.unwrap();
        assert_eq!(text.contains("messagehub_"), status == 200, "{text}");
    }
}

#[tokio::test]
async fn where_they_cannot_be_told_the_node_does_not_start() {
    let ann = Node::start(&[]).await;
    let mut bob = Node::new(&[]);
    bob.configure(|config| config["metrics"] = json!({"listenAddress": ann.address()}));
    let arguments = ["--config", bob.config_file().to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = TempDir::new().unwrap();
    let (status, said) = common::node::refused_start(folder.path(), &arguments).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("metrics.listenAddress") && said.contains(ann.address()), "{said}");
}

/// Prometheus, ended with this.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary() -> Option<PathBuf> {
    let ours =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/prometheus/usr/bin/prometheus");
    [ours, "/usr/bin/prometheus".into()].into_iter().find(|path| path.exists())
}

#[tokio::test]
async fn a_real_prometheus_takes_them_and_answers_all_that_the_dashboard_asks() {
    let Some(binary) = binary() else {
        return skip("there is no Prometheus: run tests/metrics/install");
    };
    let mut ann = home(&[]).await;
    let figures = with_figures(&mut ann).await;
    let room = ann.me.create(json!({})).await;
    ann.me.send(&room, "hello").await;
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: messagehub\n  \
             static_configs: [{{targets: ['{figures}']}}]\n"
        ),
    )
    .unwrap();
    let address = format!("{}:{}", own_address(), free_port());
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let started = Command::new(binary)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let _prometheus = Prometheus(started.unwrap());
    let client = reqwest::Client::new();
    let query = async |expr: &str| -> Option<Value> {
        let url = format!("http://{address}/api/v1/query");
        let mut url = url::Url::parse(&url).unwrap();
        url.query_pairs_mut().append_pair("query", expr);
        client.get(url).send().await.ok()?.json().await.ok()
    };
    eventually("Prometheus reads the node's figures", async || {
        let answer = query("up{job=\"messagehub\"}").await?;
        (answer["data"]["result"][0]["value"][1] == "1").then_some(())
    })
    .await;
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            // Rates want two readings.
            eventually(expr, async || {
                let answer = query(expr).await?;
                assert_eq!(answer["status"], "success", "{expr}: {answer}");
                (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
            })
            .await;
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked} questions");
}
