//! Scenarios: programs that drive nodes by other people's clients. What only the test can do (a login
//! token, the end and the start of a node) they ask for by a line on standard output, and get an answer
//! on standard input.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use super::Node;

/// Names of nodes: the first is A.
pub(crate) const SIDES: [&str; 3] = ["A", "B", "C"];

/// Runs a scenario and shows what it says. It is told where each node is, by `HOMESERVER_A` and so on.
pub(crate) async fn run(mut command: Command, nodes: &mut [&mut Node]) {
    command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
    for (side, node) in SIDES.iter().zip(&*nodes) {
        command.env(format!("HOMESERVER_{side}"), node.base());
    }
    let mut scenario = command.spawn().unwrap();
    let mut answers = scenario.stdin.take().unwrap();
    let mut lines = BufReader::new(scenario.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        eprintln!("{line}");
        if let Some(what) = line.strip_prefix("ask: ") {
            let answer = does(what, nodes).await;
            answers.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }
    let status = scenario.wait().await.unwrap();
    assert!(status.success(), "{status}");
}

/// Does what a scenario asks for: `token A`, `kill A`, `start A`, `freeze A`, `thaw A`.
async fn does(what: &str, nodes: &mut [&mut Node]) -> String {
    let (verb, side) = what.split_once(' ').unwrap();
    let number = SIDES.iter().position(|name| *name == side).unwrap();
    let node = &mut nodes[number];
    match verb {
        "token" => return node.login_token().await,
        "kill" => node.kill(),
        "start" => node.start_again().await,
        "freeze" => node.freeze(true),
        "thaw" => node.freeze(false),
        _ => panic!("nobody knows how to {what}"),
    }
    "done".to_owned()
}
