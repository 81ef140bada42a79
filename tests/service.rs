//! The node as a service: what systemd hears of it, and that a second start finds the first.

#![expect(clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{os::unix::net::UnixDatagram, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

mod common;

use common::node::{Node, command};

/// How often systemd wants to hear that the node gets on: three times in this.
const WATCHDOG: Duration = Duration::from_secs(3);

/// Returns the next word of the node; none where it says nothing for a while.
fn heard(socket: &UnixDatagram) -> Option<String> {
    let mut word = [0; 4096];
    let length = socket.recv(&mut word).ok()?;
    Some(String::from_utf8_lossy(&word[..length]).into_owned())
}

fn wait_for(socket: &UnixDatagram, word: &str) -> String {
    let mut said = Vec::new();
    for _ in 0..60 {
        match heard(socket) {
            Some(words) if words.lines().any(|line| line == word) => return words,
            other => said.push(other),
        }
    }
    panic!("systemd never heard {word}: {said:?}");
}

#[tokio::test]
async fn systemd_hears_that_the_node_is_there_gets_on_and_ends() {
    let node = Node::new(&[]);
    let place = node.data().with_extension("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut starting = command(node.data().parent().unwrap());
    starting
        .arg("--config")
        .arg(node.config_file())
        // What compose.yaml and the unit do in place of --data.
        .env("MESSAGEHUB_DATA", node.data())
        .env("NOTIFY_SOCKET", &place)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut child = tokio::process::Command::from(starting).kill_on_drop(true).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();

    let ready = wait_for(&socket, "READY=1");
    assert!(ready.contains(node.address()), "its status says where it is: {ready}");
    wait_for(&socket, "WATCHDOG=1");
    wait_for(&socket, "WATCHDOG=1");

    // What hangs is not heard, and that is what systemd goes by.
    kill_process(pid, Signal::STOP).unwrap();
    while heard(&socket).is_some() {}
    kill_process(pid, Signal::CONT).unwrap();
    wait_for(&socket, "WATCHDOG=1");

    let mut second = command(node.data().parent().unwrap());
    second.env("MESSAGEHUB_DATA", node.data());
    let second = second.output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(node.address()), "a second start names where the first is: {said}");

    kill_process(pid, Signal::TERM).unwrap();
    wait_for(&socket, "STOPPING=1");
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
