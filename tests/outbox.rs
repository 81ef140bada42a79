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

/// Accepts an invite. The node through which it is accepted may be starting too.
async fn joins(me: &Client, room: &str) {
    eventually("the invite accepted", async || (me.join(room).await.status == 200).then_some(()))
        .await;
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

#[tokio::test]
async fn who_was_off_when_invited_has_the_invite_and_all_that_was_said_soon_after() {
    let [mut ann, mut bob] = homes().await;
    bob.node.kill();
    // Before the event, with it, and after it: nothing is lost by a crash.
    let (room, other) = (ann.me.create(json!({})).await, ann.me.create(json!({})).await);
    for room in [&room, &other] {
        let asked = Instant::now();
        ann.me.invite(room, &bob.me.user_id).await.ok();
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        ann.node.kill();
        ann.node.start_again().await;
        let member = ann.me.state(room, "m.room.member", &bob.me.user_id).await;
        assert_eq!(member["membership"], "invite");
    }
    owes(&ann, 2).await;
    for n in 0..100 {
        ann.me.send(&room, &format!("said {n}")).await;
    }
    ann.me.leave(&other).await.ok();
    bob.node.start_again().await;
    let back = Instant::now();
    bob.me.is(&room, "invite").await;
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
    bob.me.is(&other, "invite").await;
    // He crashes before he has answered.
    bob.node.kill();
    bob.node.start_again().await;
    bob.me.next_batch = None;
    bob.me.is(&room, "invite").await;
    joins(&bob.me, &room).await;
    for n in [0, 50, 99] {
        bob.me.reads(&room, &format!("said {n}")).await;
    }
    let texts = bob.me.texts(&room).await;
    let said = texts.iter().filter(|text| text.starts_with("said ")).count();
    assert_eq!(said, 100, "{texts:?}");
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    owes(&ann, 0).await;
}

#[tokio::test]
async fn crashes_while_an_invite_is_handed_over_lose_and_double_nothing() {
    let [mut ann, mut bob] = homes().await;
    let mut rooms = Vec::new();
    for pause in [5, 40, 120, 250] {
        bob.node.kill();
        let room = ann.me.create(json!({})).await;
        ann.me.invite(&room, &bob.me.user_id).await.ok();
        bob.node.start_again().await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        ann.node.kill();
        bob.node.kill();
        ann.node.start_again().await;
        bob.node.start_again().await;
        bob.me.is(&room, "invite").await;
        // One is turned down, one accepted; neither comes back.
        match rooms.len() % 2 {
            0 => {
                eventually("the invite turned down", async || {
                    (bob.me.leave(&room).await.status == 200).then_some(())
                })
                .await;
            }
            _ => joins(&bob.me, &room).await,
        }
        owes(&ann, 0).await;
        rooms.push(room);
    }
    bob.me.next_batch = None;
    let news = bob.me.sync(Duration::ZERO).await;
    assert!(news["rooms"]["invite"].as_object().is_none_or(|rooms| rooms.is_empty()), "{news}");
    for room in rooms.iter().skip(1).step_by(2) {
        ann.me.sees_member(room, &bob.me.user_id, "join").await;
    }
}

#[tokio::test]
async fn the_first_message_of_a_chat_with_somebody_who_is_off_is_not_lost() {
    let [mut ann, mut bob] = homes().await;
    bob.node.stop().await;
    let asked = Instant::now();
    let chat =
        json!({"invite": [bob.me.user_id], "is_direct": true, "preset": "trusted_private_chat"});
    let room = ann.me.create(chat).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    ann.me.send(&room, "are you there?").await;
    ann.node.kill();
    ann.node.start_again().await;
    bob.node.start_again().await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    bob.me.reads(&room, "are you there?").await;
    bob.me.send(&room, "now I am").await;
    ann.me.reads(&room, "now I am").await;
}

#[tokio::test]
async fn who_was_off_when_shown_out_knows_it_on_return() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let waits = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&waits, "invite").await;
    bob.node.kill();
    for room in [&room, &waits] {
        let path = format!("v3/rooms/{}/kick", segment(room));
        ann.me.post(&path, json!({"user_id": bob.me.user_id})).await.ok();
    }
    let outbox = owes(&ann, 2).await;
    assert_eq!(outbox["servers"][0]["waiting"][1]["kind"], "membership", "{outbox}");
    ann.node.kill();
    ann.node.start_again().await;
    bob.node.start_again().await;
    bob.me.is(&room, "leave").await;
    bob.me.is(&waits, "leave").await;
    owes(&ann, 0).await;
}

#[tokio::test]
async fn an_invite_that_is_refused_later_is_taken_back() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create(json!({})).await;
    bob.node.kill();
    // Nobody knows it yet, but there is no such person.
    let nobody = format!("@nobody:{}", bob.me.server_name());
    ann.me.invite(&room, &nobody).await.ok();
    ann.me.sees_member(&room, &nobody, "invite").await;
    ann.node.kill();
    ann.node.start_again().await;
    bob.node.start_again().await;
    ann.me.sees_member(&room, &nobody, "leave").await;
    let outbox = owes(&ann, 0).await;
    let ended = outbox["ended"].as_array().unwrap();
    assert!(
        ended.iter().any(|item| item["kind"] == "invite" && item["end"] == "refused"),
        "{outbox}"
    );
    let words = ann.node.run(&["outbox"]).await;
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains(&format!("invite of {nobody}")), "{words}");
    assert!(words.contains("refused (404"), "{words}");
}

/// Waits until a node owes so many items of a kind.
async fn owes_of(home: &Home, kind: &str, items: usize) -> Value {
    eventually(format_args!("{items} items of {kind} owed"), async || {
        let outbox = home.node.outbox().await;
        let waiting = outbox["servers"].as_array().into_iter().flatten();
        let waiting = waiting.flat_map(|server| server["waiting"].as_array().into_iter().flatten());
        let of_kind = waiting.filter(|item| item["kind"] == kind).count();
        (of_kind == items).then_some(outbox)
    })
    .await
}

#[tokio::test]
async fn what_nobody_else_has_is_owed_over_crashes_until_somebody_has_it() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    bob.node.kill();
    for n in 0..3 {
        ann.me.send(&room, &format!("said {n}")).await;
    }
    // It is known again after a crash, whether it was owed already or not.
    ann.node.kill();
    ann.node.start_again().await;
    let outbox = owes_of(&ann, "events", 1).await;
    let item = &outbox["servers"][0]["waiting"][0];
    assert!(item["count"].as_u64().is_some_and(|count| count >= 3), "{outbox}");
    assert_eq!(item["room_id"], room.as_str(), "{outbox}");
    let words = ann.node.run(&["outbox"]).await;
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains(&format!("events in {room} that nobody else has")), "{words}");
    ann.node.kill();
    ann.node.start_again().await;
    owes_of(&ann, "events", 1).await;
    bob.node.start_again().await;
    bob.me.reads(&room, "said 2").await;
    owes_of(&ann, "events", 0).await;
    // He has it, which is remembered though nobody said anything since.
    bob.node.kill();
    ann.node.kill();
    ann.node.start_again().await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    owes_of(&ann, "events", 0).await;
    let texts = ann.me.texts(&room).await;
    assert_eq!(texts.iter().filter(|text| text.starts_with("said ")).count(), 3, "{texts:?}");
}

#[tokio::test]
async fn an_invite_is_turned_down_while_the_inviter_is_off() {
    let [mut ann, mut bob] = homes().await;
    let (room, again) =
        (ann.me.create_with(&[&bob.me]).await, ann.me.create_with(&[&bob.me]).await);
    for room in [&room, &again] {
        bob.me.is(room, "invite").await;
    }
    ann.node.kill();
    for room in [&room, &again] {
        let asked = Instant::now();
        bob.me.leave(room).await.ok();
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }
    let outbox = owes_of(&bob, "declined", 2).await;
    assert_eq!(outbox["servers"][0]["server_name"], ann.me.server_name(), "{outbox}");
    // Neither loses it, whoever is killed while it is handed over.
    bob.node.kill();
    bob.node.start_again().await;
    owes_of(&bob, "declined", 2).await;
    ann.node.start_again().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    bob.node.kill();
    ann.node.kill();
    ann.node.start_again().await;
    bob.node.start_again().await;
    for room in [&room, &again] {
        ann.me.sees_member(room, &bob.me.user_id, "leave").await;
    }
    owes_of(&bob, "declined", 0).await;
    // What was turned down once is not turned down for ever.
    ann.me.invite(&again, &bob.me.user_id).await.ok();
    bob.me.is(&again, "invite").await;
    joins(&bob.me, &again).await;
    ann.me.sees_member(&again, &bob.me.user_id, "join").await;
}

#[tokio::test]
async fn who_leaves_while_all_others_are_off_is_out_for_them_too() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    bob.node.kill();
    ann.me.send(&room, "I leave").await;
    ann.me.leave(&room).await.ok();
    ann.node.kill();
    ann.node.start_again().await;
    owes_of(&ann, "events", 1).await;
    bob.node.start_again().await;
    bob.me.reads(&room, "I leave").await;
    bob.me.sees_member(&room, &ann.me.user_id, "leave").await;
    owes_of(&ann, "events", 0).await;
}
