//! Several people on one node, and people of another one, in one room: each is invited, reads, is
//! notified and shown out apart from the others.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use serde_json::{Value, json};

mod common;

use common::{Client, Home, client::segment, eventually, homes};

/// Has people register on somebody's node. The devices of all have the same id.
async fn household<const N: usize>(home: &mut Home, names: [&str; N]) -> [Client; N] {
    home.node.stop().await;
    home.node.configure(|config| config["accounts"] = json!({"registration": true}));
    home.node.start_again().await;
    let base = home.node.base();
    let mut people = Vec::new();
    for name in names {
        people.push(Client::register(&base, name, &format!("password of {name}")).await);
    }
    people.try_into().unwrap()
}

fn unread(sync: &Value, room: &str) -> Option<u64> {
    sync["rooms"]["join"][room]["unread_notifications"]["notification_count"].as_u64()
}

async fn all_unread(of: &Client, room: &str) -> Option<u64> {
    unread(&of.get("v3/sync").await.ok(), room)
}

async fn receipt(of: &Client, room: &str, kind: &str, event: &str) {
    let path = format!("v3/rooms/{}/receipt/{kind}/{}", segment(room), segment(event));
    of.post(&path, json!({})).await.ok();
}

/// Returns who is shown to have read, and how.
fn readers(sync: &Value, room: &str) -> Vec<(String, String)> {
    let mut readers = Vec::new();
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array();
    for event in events.into_iter().flatten().filter(|event| event["type"] == "m.receipt") {
        for kinds in event["content"].as_object().unwrap().values() {
            for (kind, users) in kinds.as_object().unwrap() {
                let users = users.as_object().unwrap().keys();
                readers.extend(users.map(|user| (kind.clone(), user.clone())));
            }
        }
    }
    readers.sort();
    readers
}

#[tokio::test]
async fn three_people_of_one_node_and_two_of_another_are_apart_in_one_room() {
    let [mut home, mut away] = homes().await;
    let [mut bob, mut carl] = household(&mut home, ["bob", "carl"]).await;
    let [mut dora] = household(&mut away, ["dora"]).await;
    home.node.connected_to(&away.me).await;
    let (ann, eve) = (&mut home.me, &mut away.me);

    // Invites among them: each sees his own, none that of another.
    let room = ann.create(json!({"preset": "private_chat", "name": "Kitchen"})).await;
    for guest in [&bob, &dora] {
        ann.invite(&room, &guest.user_id).await.ok();
    }
    bob.is(&room, "invite").await;
    dora.is(&room, "invite").await;
    assert!(carl.get("v3/sync").await.ok()["rooms"]["invite"].get(&room).is_none());
    let shown = bob.get("v3/sync").await.ok()["rooms"]["invite"][&room]["invite_state"].clone();
    assert!(shown.to_string().contains("Kitchen"), "{shown}");
    let path = format!("v3/rooms/{}/messages?dir=b", segment(&room));
    carl.get(&path).await.refused(403, "M_FORBIDDEN");
    carl.join(&room).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    dora.join(&room).await.ok();
    // Guests invite: one whose node is in the room, and one of the first node.
    for (host, guest) in [(&dora, &eve.user_id), (&bob, &carl.user_id)] {
        ann.sees_member(&room, &host.user_id, "join").await;
        host.invite(&room, guest).await.ok();
    }
    eve.is(&room, "invite").await;
    carl.is(&room, "invite").await;
    eve.join(&room).await.ok();
    carl.join(&room).await.ok();
    let everybody = [&bob.user_id, &carl.user_id, &dora.user_id, &eve.user_id].map(Clone::clone);
    for user in &everybody {
        ann.sees_member(&room, user, "join").await;
    }
    for user in &everybody[..2] {
        eve.sees_member(&room, user, "join").await;
    }
    let nobody = format!("@nobody:{}", eve.server_name());
    ann.invite(&room, &nobody).await.refused(404, "M_NOT_FOUND");
    let nobody = format!("@nobody:{}", ann.server_name());
    ann.invite(&room, &nobody).await.refused(404, "M_NOT_FOUND");

    // What one says, the others read; it is unread for them and not for him.
    let said = bob.send(&room, "dinner is ready").await;
    for reader in [&mut *ann, &mut carl, &mut dora, &mut *eve] {
        reader.reads(&room, "dinner is ready").await;
    }
    assert_eq!(all_unread(&bob, &room).await, Some(0));
    let before = [all_unread(ann, &room).await, all_unread(&carl, &room).await];
    assert!(before.iter().all(|count| count.is_some_and(|count| count > 0)), "{before:?}");
    // A receipt is of one, and a private one is shown to nobody else.
    receipt(ann, &room, "m.read", &said).await;
    receipt(&carl, &room, "m.read.private", &said).await;
    assert_eq!(all_unread(ann, &room).await, Some(0));
    assert_eq!(all_unread(&carl, &room).await, Some(0));
    assert_eq!(all_unread(&dora, &room).await, all_unread(eve, &room).await);
    let public = ("m.read".to_owned(), ann.user_id.clone());
    let private = ("m.read.private".to_owned(), carl.user_id.clone());
    let seen_by_carl = readers(&carl.get("v3/sync").await.ok(), &room);
    assert_eq!(seen_by_carl, [public.clone(), private]);
    for other in [&bob, ann, &dora, eve] {
        eventually("Ann's receipt", async || {
            let seen = readers(&other.get("v3/sync").await.ok(), &room);
            assert!(seen.iter().all(|(kind, _)| kind == "m.read"), "{seen:?}");
            (seen == [public.clone()]).then_some(())
        })
        .await;
    }

    // The same transaction id of devices with the same id: two people, two messages.
    let path = format!("v3/rooms/{}/send/m.room.message/same", segment(&room));
    let text = json!({"msgtype": "m.text", "body": "twice"});
    let first = bob.put(&path, text.clone()).await.ok()["event_id"].clone();
    let second = carl.put(&path, text.clone()).await.ok()["event_id"].clone();
    assert_ne!(first, second);
    assert_eq!(bob.put(&path, text).await.ok()["event_id"], first);
    let event = carl.event(&room, first.as_str().unwrap()).await.ok();
    assert!(event["unsigned"].get("transaction_id").is_none(), "it is not his: {event}");

    // One is banned, by somebody of the other node, and the others stay.
    let mut levels = ann.state(&room, "m.room.power_levels", "").await;
    levels["users"][&eve.user_id] = json!(60);
    ann.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    let ban = format!("v3/rooms/{}/ban", segment(&room));
    eventually("power for Eve", async || {
        let banned = eve.post(&ban, json!({"user_id": carl.user_id})).await;
        (banned.status == 200).then_some(())
    })
    .await;
    carl.is(&room, "leave").await;
    ann.sees_member(&room, &carl.user_id, "ban").await;
    bob.sees_member(&room, &carl.user_id, "ban").await;
    let path = format!("v3/rooms/{}/send/m.room.message/out", segment(&room));
    carl.put(&path, json!({"body": "x"})).await.refused(403, "M_FORBIDDEN");
    bob.send(&room, "he is out").await;
    dora.reads(&room, "he is out").await;
    eve.reads(&room, "he is out").await;
    assert!(!carl.texts(&room).await.contains(&"he is out".to_owned()));

    // Who made the room leaves it: the rest of the household goes on.
    ann.leave(&room).await.ok();
    bob.sees_member(&room, &ann.user_id, "leave").await;
    eve.send(&room, "bye").await;
    bob.reads(&room, "bye").await;
    dora.sees_member(&room, &ann.user_id, "leave").await;

    // All of that outlives a restart.
    home.node.stop().await;
    home.node.start_again().await;
    assert_eq!(bob.get("v3/joined_rooms").await.ok()["joined_rooms"], json!([room]));
    assert_eq!(home.me.get("v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
    bob.send(&room, "back again").await;
    dora.reads(&room, "back again").await;
}

#[tokio::test]
async fn a_whole_household_that_was_shown_out_while_it_was_away_learns_of_it() {
    let [mut home, mut away] = homes().await;
    let [mut bob] = household(&mut home, ["bob"]).await;
    home.node.connected_to(&away.me).await;
    let eve = &mut away.me;
    let room = eve.create(json!({"preset": "public_chat"})).await;
    for guest in [&home.me, &bob] {
        let path = format!("v3/join/{}?via={}", segment(&room), eve.server_name());
        guest.post(&path, json!({})).await.ok();
        eve.sees_member(&room, &guest.user_id, "join").await;
    }
    home.me.is(&room, "join").await;
    bob.is(&room, "join").await;
    home.node.stop().await;
    for (user, how) in [(&home.me.user_id, "kick"), (&bob.user_id, "ban")] {
        let path = format!("v3/rooms/{}/{how}", segment(&room));
        eve.post(&path, json!({"user_id": user})).await.ok();
    }
    eve.send(&room, "they are gone").await;
    home.node.start_again().await;
    home.me.is(&room, "leave").await;
    bob.is(&room, "leave").await;
    assert!(!bob.texts(&room).await.contains(&"they are gone".to_owned()));
}
