//! Crashes: what was acknowledged is there after `kill -9`, whenever it comes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::time::Duration;

use serde_json::json;

mod common;

use common::{Home, home};

/// How often the node is killed while a client sends.
const KILLS: usize = 6;

/// A message that a client has sent: its number, and its event id once it was acknowledged.
type Sent = Vec<Option<String>>;

fn text(number: usize) -> String {
    format!("message {number}")
}

/// Sends messages one after another from `sent.len()` on until the node is gone; the last one
/// stays without an event id. Tells of each acknowledgement.
async fn send_until_dead(
    home: &Home,
    room: &str,
    sent: &mut Sent,
    acknowledged: tokio::sync::mpsc::Sender<()>,
) {
    loop {
        let number = sent.len();
        sent.push(None);
        let Ok(answer) = home.me.try_send(room, &text(number), &text(number)).await else {
            return;
        };
        sent[number] = Some(answer.ok()["event_id"].as_str().unwrap().to_owned());
        // Nobody listens any more once the kill was decided.
        let _ = acknowledged.try_send(());
    }
}

#[tokio::test]
async fn every_acknowledged_event_survives_kill_9() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    let mut sent: Sent = Vec::new();
    for round in 0..KILLS {
        let (acknowledged, mut acknowledgements) = tokio::sync::mpsc::channel(1024);
        let pid = rustix::process::Pid::from_raw(home.node.pid().try_into().unwrap()).unwrap();
        // Rounds differ in how far the node gets before it dies in the middle of the next send.
        let kill = async {
            for _ in 0..=round * 7 {
                acknowledgements.recv().await;
            }
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        tokio::join!(send_until_dead(&home, &room, &mut sent, acknowledged), kill);
        home.node.kill();
        home.node.start_again().await;

        let recent = sent.len().saturating_sub(4);
        for (number, id) in sent.iter_mut().enumerate() {
            // A client sends again what it had no answer to, under the same transaction id.
            if number >= recent {
                let answer = home.me.try_send(&room, &text(number), &text(number)).await;
                let again = answer.unwrap().ok()["event_id"].as_str().unwrap().to_owned();
                assert_eq!(id.get_or_insert_with(|| again.clone()), &again, "{}", text(number));
            }
            let id = id.as_ref().unwrap();
            let event = home.me.event(&room, id).await.ok();
            assert_eq!(event["content"]["body"], text(number));
        }
    }
    let all: Vec<String> = (0..sent.len()).map(text).collect();
    assert_eq!(home.me.texts(&room).await, all, "each once, in the order of sending");
}

#[tokio::test]
async fn a_kill_during_the_start_does_no_harm() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({"name": "here"})).await;
    let event = home.me.send(&room, "kept").await;
    let state = home.me.whole_state(&room).await;
    home.node.kill();
    // The moments of the kill are the fault that is injected; nothing waits for them.
    for delay_ms in [0, 2, 5, 10, 20, 40, 80, 160] {
        home.node.spawn();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        home.node.kill();
    }
    home.node.start_again().await;
    assert_eq!(home.me.whole_state(&room).await, state);
    assert_eq!(home.me.event(&room, &event).await.ok()["content"]["body"], "kept");
}

#[tokio::test]
async fn a_kill_during_the_very_first_start_does_no_harm() {
    let mut node = common::Node::new(&[]);
    for delay_ms in [0, 2, 5, 10, 20, 40, 80, 160] {
        node.spawn();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        node.kill();
    }
    node.start_again().await;
    let me = node.log_in().await;
    let room = me.create(json!({})).await;
    me.send(&room, "all is well").await;
}

#[tokio::test]
async fn an_identity_that_was_shown_once_is_kept() {
    let mut node = common::Node::start(&[]).await;
    for _ in 0..3 {
        let me = node.log_in().await;
        node.kill();
        node.start_again().await;
        assert_eq!(node.log_in().await.user_id, me.user_id);
        me.get("v3/account/whoami").await.ok();
    }
}
