//! What many shared rooms cost two nodes: `cargo bench --bench rooms`. Prints a Markdown table for
//! `benches/README.md`; never judges. `MESSAGEHUB_ROOMS` is how many (1,000).
//!
//! Every loop is bounded; the whole takes some minutes, most of them for making the rooms. Nodes
//! run on loopback alone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::{
    collections::HashSet,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Client, Home, Node, client::segment, homes};

const ROOMS: usize = 1000;
/// Rooms in which something is done at the same time.
const LANES: usize = 8;
/// What follows a start, or a message in all rooms, is over then.
const SETTLED: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait until all rooms are meshed, or all messages have come.
const WAIT: Duration = Duration::from_secs(180);
const DELIVERIES: usize = 200;

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
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

async fn count(node: &Node, pointer: &str) -> usize {
    let status = node.status().await.unwrap_or(Value::Null);
    let count = status.pointer(pointer).and_then(Value::as_u64);
    count.and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// Waits until every room is meshed, and returns how long that took.
async fn all_meshed(homes: [&Home; 2], rooms: usize, since: Instant) -> Duration {
    for home in homes {
        loop {
            let meshed = count(&home.node, "/topics/meshed").await;
            if meshed >= rooms {
                break;
            }
            assert!(since.elapsed() < WAIT, "{meshed} of {rooms} rooms are meshed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    since.elapsed()
}

/// Runs something for each of some rooms, in some lanes at once.
async fn for_each<T, F>(items: Vec<T>, work: impl Fn(T) -> F + Clone + Send + 'static)
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let mut parts: Vec<Vec<T>> = (0..LANES).map(|_| Vec::new()).collect();
    for (number, item) in items.into_iter().enumerate() {
        if let Some(part) = parts.get_mut(number % LANES) {
            part.push(item);
        }
    }
    let lanes: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let work = work.clone();
            tokio::spawn(async move {
                for item in part {
                    work(item).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

/// Makes rooms that both are in: public ones, which the other joins by itself.
async fn share(ann: &Client, bob: &Client, rooms: usize) {
    // Shared: a copy of a client is one of all that it has seen.
    let (ann, bob) = (Arc::new(ann.clone()), Arc::new(bob.clone()));
    let make = move |_| {
        let (ann, bob) = (Arc::clone(&ann), Arc::clone(&bob));
        async move {
            let room = ann.create(json!({"preset": "public_chat"})).await;
            let path = format!("v3/join/{}?via={}", segment(&room), ann.server_name());
            bob.post(&path, json!({})).await.ok();
        }
    };
    for_each((0..rooms).collect(), make).await;
}

/// Says something in every room.
async fn say_everywhere(me: &Client, rooms: &[String], body: &'static str) {
    let me = Arc::new(me.clone());
    let say = move |room: String| {
        let me = Arc::clone(&me);
        async move {
            // A connection that was idle may be closed just now; the same transaction counts once.
            let sent = match me.try_send(&room, body, body).await {
                Err(_) => me.try_send(&room, body, body).await,
                sent => sent,
            };
            sent.unwrap().ok();
        }
    };
    for_each(rooms.to_vec(), say).await;
}

/// Syncs until a text was read in every room; returns how long that took.
async fn read_everywhere(
    me: &mut Client,
    rooms: &[String],
    body: &str,
    since: Instant,
) -> Duration {
    let mut missing: HashSet<&String> = rooms.iter().collect();
    while !missing.is_empty() {
        assert!(since.elapsed() < WAIT, "{body:?} is missing in {} rooms", missing.len());
        me.sync(Duration::from_secs(1)).await;
        missing.retain(|room| me.seen.text(room, body).is_none());
        // What was read is not searched again.
        me.seen.timeline.clear();
    }
    since.elapsed()
}

/// From the send to the answer of the waiting `/sync`, p50 and p99 in ms.
async fn deliveries(writer: &Client, reader: &mut Client, room: &str) -> String {
    reader.sync(Duration::ZERO).await;
    let mut times = Vec::with_capacity(DELIVERIES);
    for number in 0..DELIVERIES {
        let body = format!("one of many {number}");
        let start = Instant::now();
        let ((), _) = tokio::join!(
            async {
                reader.reads(room, &body).await;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            },
            writer.send(room, &body),
        );
        reader.seen.timeline.clear();
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get((times.len() - 1) * share / 100).copied().unwrap_or(f64::NAN);
    format!("p50 {:.2} ms, p99 {:.2} ms", at(50), at(99))
}

/// Resident memory beyond what it was before, and how many rooms are in memory.
async fn more_memory(what: &str, homes: [&Home; 2], before: [f64; 2]) {
    let mut told = Vec::new();
    for (home, before) in homes.into_iter().zip(before) {
        let more = resident_mib(home.node.pid()) - before;
        let awake = count(&home.node, "/rooms/live").await;
        told.push(format!("{more:.1} MiB ({awake} rooms awake)"));
    }
    row(what, told.join(" and "));
}

async fn run() {
    let rooms = std::env::var("MESSAGEHUB_ROOMS").ok().and_then(|rooms| rooms.parse().ok());
    let rooms = rooms.unwrap_or(ROOMS);
    println!("| Work | Figure |\n|---|---|");
    let [mut ann, mut bob]: [Home; 2] = homes().await;
    for home in [&mut ann, &mut bob] {
        home.node.stop().await;
        home.node.start_again().await;
    }
    ann.node.connected_to(&bob.me).await;
    tokio::time::sleep(SETTLED).await;
    let before = [&ann, &bob].map(|home| resident_mib(home.node.pid()));
    row("resident memory without rooms", format!("{:.1} and {:.1} MiB", before[0], before[1]));

    let start = Instant::now();
    share(&ann.me, &bob.me, rooms).await;
    let each = start.elapsed().as_secs_f64() * 1e3 / rooms as f64;
    row(&format!("{rooms} rooms made and joined by the other"), format!("{each:.1} ms each"));
    let took = all_meshed([&ann, &bob], rooms, Instant::now()).await;
    row("... until all were meshed, after the last", seconds(took));
    tokio::time::sleep(SETTLED).await;
    more_memory("... more resident memory than without", [&ann, &bob], before).await;

    for home in [&mut ann, &mut bob] {
        home.node.stop().await;
    }
    let start = Instant::now();
    for home in [&mut ann, &mut bob] {
        home.node.spawn();
    }
    let took = all_meshed([&ann, &bob], rooms, start).await;
    row("both started anew: all rooms meshed", seconds(took));
    tokio::time::sleep(SETTLED).await;
    let pids = [ann.node.pid(), bob.node.pid()];
    let begin = pids.map(used);
    tokio::time::sleep(IDLE).await;
    let shares: Vec<String> = pids
        .iter()
        .zip(begin)
        .map(|(pid, begin)| format!("{:.2} %", (used(*pid) - begin) * 100.0 / IDLE.as_secs_f64()))
        .collect();
    row("... idle: share of one core", shares.join(" and "));
    more_memory("... more resident memory than without", [&ann, &bob], before).await;

    let all: Vec<String> = {
        let joined = ann.me.get("v3/joined_rooms").await.ok();
        let joined = joined.pointer("/joined_rooms").and_then(Value::as_array).unwrap().clone();
        joined.iter().map(|room| room.as_str().unwrap().to_owned()).collect()
    };
    // The first sync tells of all rooms at once; those that are timed tell of what is new.
    for home in [&mut ann, &mut bob] {
        home.me.sync(Duration::ZERO).await;
    }
    let start = Instant::now();
    let (took, said) = tokio::join!(read_everywhere(&mut bob.me, &all, "now", start), async {
        say_everywhere(&ann.me, &all, "now").await;
        start.elapsed()
    });
    row("a message in each room, all asleep: sent", seconds(said));
    row("... read by the other", seconds(took));
    tokio::time::sleep(SETTLED).await;
    more_memory("... more resident memory than without", [&ann, &bob], before).await;
    let times = match all.first() {
        Some(room) => deliveries(&ann.me, &mut bob.me, room).await,
        None => "no rooms".to_owned(),
    };
    row("send -> the other node's /sync, in one of them", times);

    for away in ["away", "away again"] {
        bob.node.stop().await;
        say_everywhere(&ann.me, &all, away).await;
        let start = Instant::now();
        bob.node.start_again().await;
        let took = read_everywhere(&mut bob.me, &all, away, start).await;
        row("away while a message was said in each room: all read after the start", seconds(took));
    }
    tokio::time::sleep(SETTLED).await;
    more_memory("... more resident memory than without", [&ann, &bob], before).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
