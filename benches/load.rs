//! Figures of the real binary, over HTTP, beside the floor of the disk in the same minute:
//! `cargo bench --bench load`. Prints a Markdown table for `benches/README.md`; never judges.
//!
//! Every loop is bounded; the whole takes about a minute. Nodes run on loopback alone.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]

use std::{
    fs::{self, File},
    io::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Client, Home, Node, client::segment, homes};

const FLOOR_WRITES: usize = 2000;
const STARTS: usize = 5;
const SEQUENTIAL: usize = 500;
const WRITERS: usize = 8;
const SENDS_EACH: usize = 250;
const DELIVERIES: usize = 200;

/// Durations, to be told by their quantiles.
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        sorted[index]
    }

    fn told(&self) -> String {
        let [middle, worst] = [0.5, 0.99].map(|share| self.quantile(share).as_secs_f64() * 1e3);
        format!("p50 {middle:.2} ms, p99 {worst:.2} ms")
    }
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

/// Appends 1 KiB and waits until the disk has it, again and again.
fn floor() -> Times {
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("floor")).unwrap();
    let block = [0x5a; 1024];
    let mut times = Vec::with_capacity(FLOOR_WRITES);
    for _ in 0..FLOOR_WRITES {
        let start = Instant::now();
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
        times.push(start.elapsed());
    }
    Times(times)
}

/// From the start of the process to the first answer, on an existing data folder.
async fn cold_start(node: &mut Node) -> Times {
    let url = format!("{}/_matrix/client/versions", node.base());
    let http = reqwest::Client::new();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        node.stop().await;
        let start = Instant::now();
        node.spawn();
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
                break;
            }
            assert!(start.elapsed() < common::PATIENCE, "the node does not serve");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(start.elapsed());
    }
    Times(times)
}

/// Resident memory of a process in MiB.
fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Bytes that a process had written to the disk.
fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find(|line| line.starts_with("write_bytes:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn timed_sends(me: &Client, room: &str, name: &str, count: usize) -> Times {
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let start = Instant::now();
        me.send(room, &format!("{name} {number}")).await;
        times.push(start.elapsed());
    }
    Times(times)
}

/// Eight connections, each sending one message after another.
async fn writers(me: &Client, room: &str) -> (f64, Times) {
    let start = Instant::now();
    let lanes: Vec<_> = (0..WRITERS)
        .map(|lane| {
            let (me, room) = (me.clone(), room.to_owned());
            tokio::spawn(async move {
                timed_sends(&me, &room, &format!("lane {lane}"), SENDS_EACH).await
            })
        })
        .collect();
    let mut times = Vec::new();
    for lane in lanes {
        times.extend(lane.await.unwrap().0);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    (rate, Times(times))
}

/// From the send to the answer of the waiting `/sync`.
async fn deliveries(writer: &Client, reader: &mut Client, room: &str, name: &str) -> Times {
    reader.sync(Duration::ZERO).await;
    let mut times = Vec::with_capacity(DELIVERIES);
    for number in 0..DELIVERIES {
        let body = format!("{name} {number}");
        let start = Instant::now();
        let ((), _) = tokio::join!(
            async {
                reader.reads(room, &body).await;
                times.push(start.elapsed());
            },
            writer.send(room, &body),
        );
        // What was read is not searched again.
        reader.seen.timeline.clear();
    }
    Times(times)
}

async fn run() {
    println!("| Work | Figure |\n|---|---|");
    let disk = floor();
    row("floor: append 1 KiB and fdatasync", disk.told());

    let [mut ann, mut bob]: [Home; 2] = homes().await;
    let start = cold_start(&mut ann.node).await;
    row(
        "cold start to the first 200, existing data",
        format!("{:.0} ms (median of {STARTS})", start.quantile(0.5).as_secs_f64() * 1e3),
    );
    ann.node.connected_to(&bob.me).await;
    row("resident memory, idle", format!("{:.1} MiB", resident_mib(ann.node.pid())));

    let room = ann.me.create(json!({})).await;
    let one = timed_sends(&ann.me, &room, "one", SEQUENTIAL).await;
    row("send, one after another: acknowledged, durable", one.told());
    row(
        "... against the floor, p50",
        format!("{:.1} x", one.quantile(0.5).as_secs_f64() / disk.quantile(0.5).as_secs_f64()),
    );
    let before = written(ann.node.pid());
    let (rate, times) = writers(&ann.me, &room).await;
    row("send, 8 writers, one room: durable", format!("{rate:.0} a second, {}", times.told()));
    let bytes = (written(ann.node.pid()) - before) / (WRITERS * SENDS_EACH) as u64;
    row("... written to the disk for each", format!("{bytes} bytes"));

    let mut other = ann.node.log_in().await;
    let local = deliveries(&ann.me, &mut other, &room, "local").await;
    row("send -> another device's /sync, same node", local.told());

    let shared = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&shared, "invite").await;
    bob.me.join(&shared).await.ok();
    ann.me.sees_member(&shared, &bob.me.user_id, "join").await;
    let there = deliveries(&ann.me, &mut bob.me, &shared, "there").await;
    row("send -> the other node's /sync, loopback", there.told());

    let start = Instant::now();
    let history = ann.me.messages(&room).await;
    let rate = history.len() as f64 / start.elapsed().as_secs_f64();
    row("/messages, pages of 100", format!("{rate:.0} events a second"));
    ann.me.invite(&room, &bob.me.user_id).await.ok();
    bob.me.is(&room, "invite").await;
    let start = Instant::now();
    bob.me.join(&room).await.ok();
    let took = start.elapsed().as_secs_f64();
    row(&format!("join of a room with {} events", history.len()), format!("{took:.3} s"));
    let path = format!("v3/rooms/{}/joined_members", segment(&room));
    bob.me.get(&path).await.ok();
    row("resident memory, after all this", format!("{:.1} MiB", resident_mib(ann.node.pid())));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
