//! What is owed to somebody who is off: kept over crashes, and there soon after he is back.

#![expect(
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod common;

use common::{Client, Home, PATIENCE, client::segment, eventually, homes};

/// Longest wait for an answer about somebody who is off: a tenth of what looking for him takes.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Sends a message to all devices of somebody.
async fn tell(from: &Client, to: &str, txn: &str, n: u64) {
    let asked = Instant::now();
    let body = json!({"messages": {to: {"*": {"n": n}}}});
    let path = format!("v3/sendToDevice/m.test/{}", segment(txn));
    from.put(&path, body).await.ok();
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

/// Syncs until so many messages to the device came, and returns what they say.
async fn hears(me: &mut Client, count: usize) -> Vec<u64> {
    let (mut heard, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while heard.len() < count {
        assert!(Instant::now() < deadline, "{} heard only {heard:?}", me.user_id);
        let news = me.sync(Duration::from_secs(1)).await;
        let events = news["to_device"]["events"].as_array().cloned().unwrap_or_default();
        heard.extend(events.iter().filter_map(|event| event["content"]["n"].as_u64()));
    }
    heard
}

/// Waits until a node owes so many items.
async fn owes(home: &Home, items: u64) -> Value {
    eventually(format_args!("{items} items owed"), async || {
        let outbox = home.node.outbox().await;
        (outbox["owed"]["items"] == items).then_some(outbox)
    })
    .await
}

#[tokio::test]
async fn messages_to_the_devices_of_who_is_off_arrive_once_and_in_their_order() {
    let [mut ann, mut bob] = homes().await;
    bob.me.sync(Duration::ZERO).await;
    bob.node.kill();
    for n in 0..5 {
        tell(&ann.me, &bob.me.user_id, &n.to_string(), n).await;
    }
    // A client that is not sure repeats itself.
    tell(&ann.me, &bob.me.user_id, "4", 4).await;
    // What was answered is on disk.
    ann.node.kill();
    ann.node.start_again().await;
    for n in 5..8 {
        tell(&ann.me, &bob.me.user_id, &n.to_string(), n).await;
    }
    let outbox = owes(&ann, 8).await;
    assert_eq!(outbox["servers"][0]["server_name"], bob.me.server_name(), "{outbox}");
    assert_eq!(outbox["servers"][0]["waiting"][0]["kind"], "to_device", "{outbox}");
    let words = ann.node.run(&["status"]).await;
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("8 to 1 server"), "{words}");

    bob.node.start_again().await;
    assert_eq!(hears(&mut bob.me, 8).await, (0..8).collect::<Vec<_>>());
    let outbox = owes(&ann, 0).await;
    let ended = outbox["ended"].as_array().unwrap();
    assert_eq!(ended.len(), 8, "{outbox}");
    assert!(ended.iter().all(|item| item["end"] == "delivered"), "{outbox}");
    // Neither remembers it wrong after a crash.
    ann.node.kill();
    bob.node.kill();
    ann.node.start_again().await;
    bob.node.start_again().await;
    tell(&ann.me, &bob.me.user_id, "3", 3).await;
    tell(&ann.me, &bob.me.user_id, "8", 8).await;
    assert_eq!(hears(&mut bob.me, 1).await, [8]);
    let outbox = owes(&ann, 0).await;
    assert_eq!(outbox["ended"].as_array().unwrap().len(), 10, "{outbox}");
}
