//! A node of which a part hangs says which, and ends with its code instead of hanging with it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;

mod common;

use common::{Home, PATIENCE, home, skip};

/// Threads of a node with their names, in the order in which they were started.
fn threads(pid: u32) -> Vec<(u32, String)> {
    let mut threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = fs::read_to_string(entry.path().join("comm")).unwrap();
            (entry.file_name().to_str().unwrap().parse().unwrap(), name.trim().to_owned())
        })
        .collect();
    threads.sort();
    threads
}

/// Stops threads, until the process that is returned ends.
fn stop(threads: &[u32]) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/stop_threads.py");
    let mut stopper = Command::new("python3")
        .arg(script)
        .args(threads.iter().map(u32::to_string))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(stopper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "they stand\n");
    stopper
}

/// Stops some threads of a node and returns what it says when it ends.
async fn ends_with(which: impl Fn(&[(u32, String)]) -> Vec<u32>) -> String {
    let Home { mut node, me: _ } = home(&[]).await;
    let stopped = which(&threads(node.pid()));
    let mut stopper = stop(&stopped);
    let deadline = Instant::now() + 2 * PATIENCE;
    while !node.log().contains("this node ends") {
        assert!(Instant::now() < deadline, "nothing was noticed");
        sleep(Duration::from_millis(200)).await;
    }
    // It ends with its thread standing; only that others learn of it takes who let it stand.
    sleep(Duration::from_secs(8)).await;
    drop(stopper.stdin.take());
    stopper.wait().unwrap();
    let status = node.ends().await;
    let log = node.log();
    assert_eq!(status.code(), Some(70), "{log}");
    log
}

/// The thread of an actor: those of the Store, the network and the rooms start in this order.
fn arbiter(number: usize) -> impl Fn(&[(u32, String)]) -> Vec<u32> {
    move |threads| {
        let mut arbiters = threads.iter().filter(|(_, name)| name.starts_with("actix-rt"));
        vec![arbiters.nth(number).unwrap().0]
    }
}

#[tokio::test]
async fn a_node_of_which_a_part_hangs_says_which_and_ends() {
    if let Err(error) = Command::new("python3").arg("-V").output() {
        return skip(format_args!("python3 cannot be started: {error}"));
    }
    let (store, network, rooms, swarm, main) = tokio::join!(
        ends_with(arbiter(0)),
        ends_with(arbiter(1)),
        ends_with(arbiter(2)),
        ends_with(|threads| {
            let workers = threads.iter().filter(|(_, name)| name == "net");
            workers.map(|(tid, _)| *tid).collect()
        }),
        ends_with(|threads| vec![threads[0].0]),
    );
    for (log, part) in [(store, "Store"), (rooms, "RoomState"), (swarm, "Swarm")] {
        let said = format!("{part} has not answered for 60 s; this node ends");
        assert!(log.contains(&said), "{part}: {log}");
    }
    assert!(network.contains(" has not answered for 60 s"), "{network}");
    assert!(main.contains("the main thread has not got on for 60 s"), "{main}");
}
