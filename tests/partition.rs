//! A room cut in two goes on on both sides, and is one room again afterwards.
//!
//! The cut: one side's node is down while the other writes, then the other way round, so that
//! neither has seen the other's events when both are up again.

#![expect(
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::time::Duration;

use serde_json::json;

mod common;

use common::{Home, client::segment, eventually, homes};

/// Ann and Bob in a room, both allowed to change it.
async fn together() -> (Home, Home, String) {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let mut levels = ann.me.state(&room, "m.room.power_levels", "").await;
    levels["users"][&bob.me.user_id] = json!(50);
    ann.me.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
    eventually("Bob's power on his side", async || {
        let seen = bob.me.state(&room, "m.room.power_levels", "").await;
        (seen["users"] == levels["users"]).then_some(())
    })
    .await;
    (ann, bob, room)
}

/// Bob's node goes down; Ann's stays up alone.
async fn ann_alone(_: &Home, bob: &mut Home) {
    bob.node.stop().await;
}

/// Ann's node goes down before Bob's comes back.
async fn bob_alone(ann: &mut Home, bob: &mut Home) {
    ann.node.stop().await;
    bob.node.start_again().await;
}

/// Both are up; waits until both have one and the same state and history.
async fn healed(ann: &mut Home, bob: &mut Home, room: &str) {
    ann.node.start_again().await;
    ann.node.connected_to(&bob.me).await;
    eventually("one state on both sides", async || {
        (ann.me.whole_state(room).await == bob.me.whole_state(room).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_of_both_sides_reach_both_sides() {
    let (mut ann, mut bob, room) = together().await;
    ann_alone(&ann, &mut bob).await;
    for n in 0..10 {
        ann.me.send(&room, &format!("ann {n}")).await;
    }
    bob_alone(&mut ann, &mut bob).await;
    for n in 0..10 {
        bob.me.send(&room, &format!("bob {n}")).await;
    }
    healed(&mut ann, &mut bob, &room).await;
    for name in ["ann", "bob"] {
        for n in 0..10 {
            ann.me.reads(&room, &format!("{name} {n}")).await;
            bob.me.reads(&room, &format!("{name} {n}")).await;
        }
    }
    ann.me.send(&room, "together again").await;
    bob.me.reads(&room, "together again").await;
}

#[tokio::test]
async fn one_name_is_left_where_both_sides_chose_one() {
    let (mut ann, mut bob, room) = together().await;
    ann_alone(&ann, &mut bob).await;
    ann.me.set_state(&room, "m.room.name", "", json!({"name": "Ann's"})).await.ok();
    ann.me.set_state(&room, "m.room.topic", "", json!({"topic": "only Ann's"})).await.ok();
    bob_alone(&mut ann, &mut bob).await;
    bob.me.set_state(&room, "m.room.name", "", json!({"name": "Bob's"})).await.ok();
    bob.me.set_state(&room, "org.example.note", "n", json!({"note": "only Bob's"})).await.ok();
    healed(&mut ann, &mut bob, &room).await;
    eventually("both notes and one name, the same on both sides", async || {
        let mut sides = Vec::new();
        for person in [&ann.me, &bob.me] {
            let name = person.state(&room, "m.room.name", "").await["name"].clone();
            let topic = person.state(&room, "m.room.topic", "").await["topic"].clone();
            let note = person.state(&room, "org.example.note", "n").await["note"].clone();
            sides.push([name, topic, note]);
        }
        let [name, topic, note] = &sides[0];
        let complete = topic == "only Ann's" && note == "only Bob's";
        let one = name == "Ann's" || name == "Bob's";
        (sides[0] == sides[1] && complete && one).then_some(())
    })
    .await;
}

/// Comparing heads costs a quiet room nothing: neither side wakes it.
#[tokio::test]
async fn after_a_cut_only_rooms_that_differ_are_woken() {
    let [mut ann, mut bob] = homes().await;
    let mut rooms = Vec::new();
    for _ in 0..6 {
        let room = ann.me.create_with(&[&bob.me]).await;
        bob.me.is(&room, "invite").await;
        bob.me.join(&room).await.ok();
        ann.me.sees_member(&room, &bob.me.user_id, "join").await;
        rooms.push(room);
    }
    ann_alone(&ann, &mut bob).await;
    let missed = ann.me.send(&rooms[3], "while you were away").await;
    ann.node.stop().await;
    bob.node.start_again().await;
    ann.node.start_again().await;
    let live = async |home: &Home| {
        let status = home.node.status().await;
        status.and_then(|status| status["rooms"]["live"].as_u64()).unwrap_or(0)
    };
    // Bob's room takes in what is given to it; Ann's need not be woken to give it.
    eventually("the event on Bob's side", async || {
        let awake = (live(&ann).await, live(&bob).await);
        assert!(awake.0 <= 1 && awake.1 <= 1, "{awake:?} rooms are awake");
        (bob.me.event(&rooms[3], &missed).await.status == 200).then_some(())
    })
    .await;
    // More would follow at once, and stay awake for minutes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let awake = (live(&ann).await, live(&bob).await);
    assert!(awake.0 <= 1 && awake.1 <= 1, "{awake:?} rooms are awake");
}

/// Ann takes Bob's power away while he, not knowing, renames the room: power decides first, so the
/// rename does not count on either side.
#[tokio::test]
async fn a_demotion_beats_what_the_demoted_did_meanwhile() {
    let (mut ann, mut bob, room) = together().await;
    ann.me.set_state(&room, "m.room.name", "", json!({"name": "ours"})).await.ok();
    eventually("the name on Bob's side", async || {
        (bob.me.state(&room, "m.room.name", "").await["name"] == "ours").then_some(())
    })
    .await;
    ann_alone(&ann, &mut bob).await;
    let mut levels = ann.me.state(&room, "m.room.power_levels", "").await;
    levels["users"][&bob.me.user_id] = json!(0);
    ann.me.set_state(&room, "m.room.power_levels", "", levels.clone()).await.ok();
    bob_alone(&mut ann, &mut bob).await;
    bob.me.set_state(&room, "m.room.name", "", json!({"name": "Bob's"})).await.ok();
    bob.me.send(&room, "I renamed it").await;
    healed(&mut ann, &mut bob, &room).await;
    for person in [&mut ann.me, &mut bob.me] {
        person.reads(&room, "I renamed it").await;
        eventually("the old name, and Bob without power", async || {
            let name = person.state(&room, "m.room.name", "").await;
            let power = person.state(&room, "m.room.power_levels", "").await;
            (name["name"] == "ours" && power["users"] == levels["users"]).then_some(())
        })
        .await;
    }
    assert_eq!(ann.me.whole_state(&room).await, bob.me.whole_state(&room).await);
}

/// The cut is found again and again: no round loses anything.
#[tokio::test]
async fn three_cuts_in_a_row() {
    let (mut ann, mut bob, room) = together().await;
    for round in 0..3 {
        ann_alone(&ann, &mut bob).await;
        ann.me.send(&room, &format!("ann {round}")).await;
        let topic = json!({"topic": format!("ann {round}")});
        ann.me.set_state(&room, "m.room.topic", "", topic).await.ok();
        bob_alone(&mut ann, &mut bob).await;
        bob.me.send(&room, &format!("bob {round}")).await;
        let topic = json!({"topic": format!("bob {round}")});
        bob.me.set_state(&room, "m.room.topic", "", topic).await.ok();
        healed(&mut ann, &mut bob, &room).await;
        for name in ["ann", "bob"] {
            ann.me.reads(&room, &format!("{name} {round}")).await;
            bob.me.reads(&room, &format!("{name} {round}")).await;
        }
    }
    let mut said = [ann.me.texts(&room).await, bob.me.texts(&room).await];
    said.iter_mut().for_each(|texts| texts.sort());
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0].len(), 6, "each once: {:?}", said[0]);
}

/// What was said in many rooms comes by a few messages: who gives it wakes no room for it, and what
/// only a room can decide to give comes all the same.
#[tokio::test]
async fn many_rooms_are_whole_again_after_a_cut() {
    const ROOMS: usize = 20;
    let [mut ann, mut bob] = homes().await;
    let mut rooms = Vec::new();
    for number in 0..ROOMS {
        // One tells its history to who was there alone.
        let visibility = if number == 0 { "joined" } else { "shared" };
        let history = json!({
            "type": "m.room.history_visibility",
            "content": {"history_visibility": visibility},
        });
        let body = json!({"preset": "public_chat", "initial_state": [history]});
        let room = ann.me.create(body).await;
        let via = ann.me.server_name();
        bob.me.post(&format!("v3/join/{}?via={via}", segment(&room)), json!({})).await.ok();
        rooms.push(room);
    }
    bob.node.stop().await;
    for (number, room) in rooms.iter().enumerate() {
        for n in 0..=number % 3 {
            ann.me.send(room, &format!("ann {n}")).await;
        }
    }
    ann.node.stop().await;
    bob.node.start_again().await;
    for room in &rooms {
        bob.me.send(room, "bob").await;
    }
    ann.node.start_again().await;
    for (number, room) in rooms.iter().enumerate() {
        for n in 0..=number % 3 {
            bob.me.reads(room, &format!("ann {n}")).await;
        }
        ann.me.reads(room, "bob").await;
    }
    bob.node.stop().await;
    for room in &rooms {
        ann.me.send(room, "one more").await;
    }
    // From here on no room of Ann's is awake before somebody needs it.
    ann.node.stop().await;
    ann.node.start_again().await;
    bob.node.start_again().await;
    for room in &rooms {
        bob.me.reads(room, "one more").await;
    }
    let status = ann.node.status().await.unwrap();
    let awake = status["rooms"]["live"].as_u64().unwrap();
    // The one that decides for each event, and one by which she hears that Bob is there.
    assert!(awake <= 2, "{awake} rooms of Ann's were woken");
}
