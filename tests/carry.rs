//! Rooms of people whose nodes cannot connect: what they ask each other goes through a common
//! friend, who need not be in the room.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::time::{Duration, Instant};

use serde_json::json;

mod common;

use common::{Home, client::segment, eventually, home};

/// Ann – Bob – Cleo: Ann's node and Cleo's block each other. Each shares a room with Bob, and none
/// with the other.
async fn row() -> [Home; 3] {
    let [mut ann, mut cleo] = [home(&[]).await, home(&[]).await];
    let mut bob = home(&[]).await;
    let peer_id = async |home: &Home| {
        let addresses = home.node.addresses().await;
        addresses[0].rsplit('/').next().unwrap().to_owned()
    };
    let (of_ann, of_cleo) = (peer_id(&ann).await, peer_id(&cleo).await);
    let known = bob.node.addresses().await;
    for (friend, other) in [(&mut ann, of_cleo), (&mut cleo, of_ann)] {
        friend.node.stop().await;
        friend.node.configure(|config| {
            config["libp2p"]["blockedPeers"] = json!([other]);
            config["libp2p"]["dht"]["bootstrapPeers"] = json!(known);
        });
        friend.node.start_again().await;
        friend.node.connected_to(&bob.me).await;
        bob.node.connected_to(&friend.me).await;
        let room = bob.me.create_with(&[&friend.me]).await;
        friend.me.is(&room, "invite").await;
        friend.me.join(&room).await.ok();
        bob.me.sees_member(&room, &friend.me.user_id, "join").await;
    }
    [ann, bob, cleo]
}

async fn apart(one: &Home, other: &Home) {
    let status = one.node.status().await.unwrap();
    let peers = status["peers"].as_array().unwrap();
    let name = other.me.server_name();
    assert!(!peers.iter().any(|peer| peer["server_name"] == name), "they are connected: {status}");
}

/// Everything between Ann and Cleo: Bob is not in their room, and no gossip reaches it.
#[tokio::test]
async fn invite_join_history_and_refusal_go_through_a_friend() {
    let [mut ann, bob, mut cleo] = row().await;
    let room = ann.me.create_with(&[]).await;
    for text in ["one", "two", "three"] {
        ann.me.send(&room, text).await;
    }
    let begin = Instant::now();
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    let invited = begin.elapsed();
    cleo.me.is(&room, "invite").await;
    let begin = Instant::now();
    cleo.me.join(&room).await.ok();
    eprintln!("invite in {invited:?}, join in {:?}", begin.elapsed());
    ann.me.sees_member(&room, &cleo.me.user_id, "join").await;
    eventually("the history", async || {
        let texts = cleo.me.texts(&room).await;
        ["one", "two", "three"].iter().all(|text| texts.iter().any(|one| one == text)).then_some(())
    })
    .await;
    assert_eq!(ann.me.whole_state(&room).await, cleo.me.whole_state(&room).await);

    let other = ann.me.create_with(&[]).await;
    ann.me.invite(&other, &cleo.me.user_id).await.ok();
    cleo.me.is(&other, "invite").await;
    cleo.me.leave(&other).await.ok();
    ann.me.sees_member(&other, &cleo.me.user_id, "leave").await;

    // A profile, the other way.
    ann.me.call_oneself("Ann").await;
    let path = format!("v3/profile/{}", ann.me.user_id);
    assert_eq!(cleo.me.get(&path).await.ok()["displayname"], "Ann");
    apart(&ann, &cleo).await;
    assert_eq!(
        bob.me.get("v3/joined_rooms").await.ok()["joined_rooms"].as_array().unwrap().len(),
        2
    );
}

/// The state of a room that is longer than what is carried at once.
#[tokio::test]
async fn a_room_with_a_long_state_is_joined_through_a_friend() {
    let [ann, _bob, mut cleo] = row().await;
    let room = ann.me.create_with(&[]).await;
    let filling = "x".repeat(40_000);
    for key in 0..20 {
        let content = json!({"filling": filling});
        ann.me.set_state(&room, "org.example.long", &key.to_string(), content).await.ok();
    }
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    let begin = Instant::now();
    cleo.me.join(&room).await.ok();
    eprintln!("a state of 800 kB came in {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_eq!(ann.me.whole_state(&room).await, cleo.me.whole_state(&room).await);
    apart(&ann, &cleo).await;
}

/// All three in one room: gossip goes through Bob, and what Cleo lacks she asks of Ann.
#[tokio::test]
async fn a_room_of_three_talks_though_two_cannot_connect() {
    let [mut ann, mut bob, mut cleo] = row().await;
    let room = ann.me.create_with(&[&bob.me, &cleo.me]).await;
    for friend in [&mut bob, &mut cleo] {
        friend.me.is(&room, "invite").await;
        friend.me.join(&room).await.ok();
    }
    for person in [&mut ann, &mut bob, &mut cleo] {
        person.me.send(&room, &format!("from {}", person.me.user_id)).await;
    }
    let said = [&ann, &bob, &cleo].map(|person| format!("from {}", person.me.user_id));
    for person in [&mut ann, &mut bob, &mut cleo] {
        for text in &said {
            person.me.reads(&room, text).await;
        }
    }
    apart(&ann, &cleo).await;
}

/// Nobody is in their room but they, so no gossip comes from one to the other.
#[tokio::test]
async fn two_who_cannot_connect_talk_in_a_room_of_their_own() {
    let [mut ann, _bob, mut cleo] = row().await;
    let room = ann.me.create_with(&[&cleo.me]).await;
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    ann.me.sees_member(&room, &cleo.me.user_id, "join").await;
    // Who just came is told by requests anyway, for some seconds.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let mut took = Vec::new();
    for number in 0..10 {
        for ann_speaks in [true, false] {
            let (from, to) = if ann_speaks { (&mut ann, &mut cleo) } else { (&mut cleo, &mut ann) };
            let text = format!("{number} from {}", from.me.user_id);
            let begin = Instant::now();
            from.me.send(&room, &text).await;
            to.me.reads(&room, &text).await;
            took.push(begin.elapsed());
        }
    }
    took.sort();
    eprintln!("from one to the other: p50 {:?}, worst {:?}", took[10], took[19]);
    let event_id = cleo.me.send(&room, "seen?").await;
    ann.me.reads(&room, "seen?").await;
    let path = format!("v3/rooms/{}/receipt/m.read/{}", segment(&room), segment(&event_id));
    ann.me.post(&path, json!({})).await.ok();
    let ann_id = ann.me.user_id.clone();
    cleo.me
        .until("her receipt", |seen| {
            let mut receipts = seen.ephemeral.get(&room)?.iter();
            receipts.find(|edu| {
                edu["type"] == "m.receipt"
                    && edu["content"][&event_id]["m.read"][&ann_id].is_object()
            })?;
            Some(())
        })
        .await;

    cleo.node.stop().await;
    ann.me.send(&room, "while you were off").await;
    cleo.node.start_again().await;
    let begin = Instant::now();
    cleo.me.reads(&room, "while you were off").await;
    eprintln!("caught up {:?} after the start", begin.elapsed());
    cleo.me.send(&room, "here I am").await;
    ann.me.reads(&room, "here I am").await;
    apart(&ann, &cleo).await;
}
