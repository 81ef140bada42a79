//! What many shared rooms cost two nodes: `cargo bench --bench rooms`. Prints a Markdown table for
//! `benches/README.md`; never judges. `MESSAGEHUB_ROOMS` is how many (1,000).
//!
//! Every loop is bounded; the whole takes some minutes, most of them for making the rooms. Nodes
//! run on loopback alone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Home, Node, client::segment, homes};

const ROOMS: usize = 1000;
/// Rooms that are made at the same time.
const LANES: usize = 8;
const IDLE: Duration = Duration::from_secs(60);
const MESHED_WAIT: Duration = Duration::from_secs(120);

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

/// Resident memory of a process in MiB.
fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Processor time that a process has used, in seconds (of 100 ticks each, as on every Linux).
fn used(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

async fn meshed(node: &Node) -> u64 {
    let status = node.status().await.unwrap_or(Value::Null);
    let count = status.pointer("/network/topics/meshed").and_then(Value::as_u64);
    count.unwrap_or(0)
}

/// Waits until every room is meshed, and returns how long that took.
async fn all_meshed(nodes: [&Node; 2], rooms: usize, since: Instant) -> Duration {
    for node in nodes {
        while (meshed(node).await as usize) < rooms {
            assert!(since.elapsed() < MESHED_WAIT, "{} rooms are meshed", meshed(node).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    since.elapsed()
}

/// Makes rooms that both are in: public ones, which the other joins by itself.
async fn share(ann: &Home, bob: &Home, rooms: usize) {
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (ann, bob) = (ann.me.clone(), bob.me.clone());
            tokio::spawn(async move {
                for _ in (lane..rooms).step_by(LANES) {
                    let room = ann.create(json!({"preset": "public_chat"})).await;
                    let path = format!("v3/join/{}?via={}", segment(&room), ann.server_name());
                    bob.post(&path, json!({})).await.ok();
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

async fn run() {
    let rooms = std::env::var("MESSAGEHUB_ROOMS").ok().and_then(|rooms| rooms.parse().ok());
    let rooms = rooms.unwrap_or(ROOMS);
    println!("| Work | Figure |\n|---|---|");
    let [mut ann, mut bob]: [Home; 2] = homes().await;
    ann.node.connected_to(&bob.me).await;
    for home in [&mut ann, &mut bob] {
        home.node.start_again().await;
    }
    ann.node.connected_to(&bob.me).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = [&ann, &bob].map(|home| resident_mib(home.node.pid()));
    row("resident memory without rooms", format!("{:.1} and {:.1} MiB", before[0], before[1]));

    let start = Instant::now();
    share(&ann, &bob, rooms).await;
    let each = start.elapsed().as_secs_f64() * 1e3 / rooms as f64;
    row(&format!("{rooms} rooms made and joined by the other"), format!("{each:.1} ms each"));
    let took = all_meshed([&ann.node, &bob.node], rooms, Instant::now()).await;
    row("... until all were meshed, after the last", format!("{:.2} s", took.as_secs_f64()));

    for home in [&mut ann, &mut bob] {
        home.node.stop().await;
    }
    let start = Instant::now();
    for home in [&mut ann, &mut bob] {
        home.node.spawn();
    }
    let took = all_meshed([&ann.node, &bob.node], rooms, start).await;
    row("both started anew: all rooms meshed", format!("{:.2} s", took.as_secs_f64()));

    // The exchanges that follow a start are over.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pids = [ann.node.pid(), bob.node.pid()];
    let begin = pids.map(used);
    tokio::time::sleep(IDLE).await;
    let shares: Vec<String> = pids
        .iter()
        .zip(begin)
        .map(|(pid, begin)| format!("{:.2} %", (used(*pid) - begin) * 100.0 / IDLE.as_secs_f64()))
        .collect();
    row("idle: share of one core", shares.join(" and "));
    let more: Vec<String> = pids
        .iter()
        .zip(before)
        .map(|(pid, before)| format!("{:.1} MiB", resident_mib(*pid) - before))
        .collect();
    row("more resident memory than without rooms", more.join(" and "));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
