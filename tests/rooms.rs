//! What clients see of rooms, on two nodes: every version that is offered, receipts, counts, state.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use serde_json::{Value, json};

mod common;

use common::{Client, Home, client::segment, eventually, home, homes};

/// Puts two people into a room of Ann's.
async fn together(ann: &mut Home, bob: &mut Home, mut settings: Value) -> String {
    settings["invite"] = json!([bob.me.user_id]);
    let room = ann.me.create(settings).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    room
}

#[tokio::test]
async fn rooms_of_every_version_are_made_joined_and_agreed_on() {
    let [mut ann, mut bob] = homes().await;
    let capabilities = ann.me.get("v3/capabilities").await.ok();
    let offered = &capabilities["capabilities"]["m.room_versions"]["available"];
    for version in (6..=12).map(|version: u8| version.to_string()) {
        assert_eq!(offered[&version], "stable", "{version}");
        let room = together(&mut ann, &mut bob, json!({"room_version": version})).await;
        let create = bob.me.state(&room, "m.room.create", "").await;
        assert_eq!(create["room_version"], *version);
        ann.me.send(&room, "from ann").await;
        bob.me.reads(&room, "from ann").await;
        let said = bob.me.send(&room, "from bob").await;
        ann.me.reads(&room, "from bob").await;

        let mut levels = ann.me.state(&room, "m.room.power_levels", "").await;
        levels["users"][&bob.me.user_id] = json!(50);
        ann.me.set_state(&room, "m.room.power_levels", "", levels).await.ok();
        let name = json!({"name": version});
        eventually(format_args!("power for Bob in version {version}"), async || {
            let named = bob.me.set_state(&room, "m.room.name", "", name.clone()).await;
            (named.status == 200).then_some(())
        })
        .await;
        let redact = format!("v3/rooms/{}/redact/{}/r", segment(&room), segment(&said));
        ann.me.put(&redact, json!({"reason": "so"})).await.ok();
        eventually(format_args!("the redaction in version {version}"), async || {
            let event = bob.me.event(&room, &said).await.ok();
            let because = &event["unsigned"]["redacted_because"];
            // Where clients of every age look for it.
            (event["content"] == json!({})
                && because["redacts"] == *said
                && because["content"]["redacts"] == *said)
                .then_some(())
        })
        .await;
        eventually(format_args!("one state in version {version}"), async || {
            let state = ann.me.whole_state(&room).await;
            (state == bob.me.whole_state(&room).await
                && ann.me.state(&room, "m.room.name", "").await == name)
                .then_some(())
        })
        .await;
    }
    let refused = ann.me.post("v3/createRoom", json!({"room_version": "5"})).await;
    refused.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
}

/// Returns up to where a first sync says that somebody has read.
async fn read_up_to(of: &Client, room: &str, user: &str) -> Vec<String> {
    let sync = of.get("v3/sync?timeout=0").await.ok();
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned();
    let receipts = events.unwrap_or_default().into_iter().filter(|e| e["type"] == "m.receipt");
    receipts
        .flat_map(|event| event["content"].as_object().unwrap().clone())
        .filter(|(_, types)| !types["m.read"][user].is_null())
        .map(|(event_id, _)| event_id)
        .collect()
}

#[tokio::test]
async fn receipts_never_go_back_on_either_node() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob, json!({})).await;
    let mut said = Vec::new();
    for text in ["one", "two", "three"] {
        said.push(ann.me.send(&room, text).await);
        bob.me.reads(&room, text).await;
    }
    let read = async |event_id: &str, body: Value| {
        let (room, event_id) = (segment(&room), segment(event_id));
        bob.me.post(&format!("v3/rooms/{room}/receipt/m.read/{event_id}"), body).await
    };
    read(&said[1], json!({})).await.ok();
    read(&said[2], json!({})).await.ok();
    read(&said[0], json!({})).await.ok();
    // What Bob says later comes after all that he read.
    bob.me.send(&room, "read it").await;
    ann.me.reads(&room, "read it").await;
    for (whose, of) in [("Ann's", &ann.me), ("Bob's", &bob.me)] {
        eventually(format_args!("the receipt on {whose} node"), async || {
            (read_up_to(of, &room, &bob.me.user_id).await == [said[2].clone()]).then_some(())
        })
        .await;
    }
    read("$nothing", json!({})).await.refused(404, "M_NOT_FOUND");
    for thread in ["", "nonsense", "$unrelated"] {
        let refused = read(&said[0], json!({"thread_id": thread})).await;
        refused.refused(400, "M_INVALID_PARAM");
    }
    let thread = json!({"msgtype": "m.text", "body": "in it", "m.relates_to":
        {"rel_type": "m.thread", "event_id": said[0]}});
    let path = format!("v3/rooms/{}/send/m.room.message/thread", segment(&room));
    let answer = bob.me.put(&path, thread).await.ok();
    let inside = answer["event_id"].as_str().unwrap();
    read(inside, json!({"thread_id": said[0]})).await.ok();
    read(inside, json!({"thread_id": "main"})).await.refused(400, "M_INVALID_PARAM");
    read(&said[2], json!({"thread_id": "main"})).await.ok();
}

#[tokio::test]
async fn who_types_leaves_the_counts_alone() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob, json!({})).await;
    let since = ann.me.get("v3/sync?timeout=0").await.ok()["next_batch"].clone();
    bob.me.send(&room, "unread").await;
    let path = |since: &Value| format!("v3/sync?timeout=1000&since={}", since.as_str().unwrap());
    let mut since = eventually("an unread message", async || {
        let sync = ann.me.get(&path(&since)).await.ok();
        let unread = &sync["rooms"]["join"][&room]["unread_notifications"];
        (unread["notification_count"] == 1).then(|| sync["next_batch"].clone())
    })
    .await;
    // Typing may take two words: what was lost while a room is new does not come again.
    let typing = format!("v3/rooms/{}/typing/{}", segment(&room), segment(&bob.me.user_id));
    eventually("Bob types, and nothing is said of counts", async || {
        bob.me.put(&typing, json!({"typing": false})).await.ok();
        bob.me.put(&typing, json!({"typing": true})).await.ok();
        let sync = ann.me.get(&path(&since)).await.ok();
        since = sync["next_batch"].clone();
        let joined = &sync["rooms"]["join"][&room];
        let events = joined["ephemeral"]["events"].as_array()?;
        let types = events.iter().any(|event| event["type"] == "m.typing");
        let quiet = joined["timeline"]["events"].as_array()?.is_empty();
        if types && quiet {
            assert!(joined["unread_notifications"].is_null(), "{joined}");
        }
        (types && quiet).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_transaction_id_counts_for_its_endpoint_and_a_reaction_once() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob, json!({})).await;
    let said = ann.me.send(&room, "t").await;
    let others = bob.me.send(&room, "bob").await;
    ann.me.reads(&room, "bob").await;
    let redact = |event_id: &str, txn: &str| {
        format!("v3/rooms/{}/redact/{}/{txn}", segment(&room), segment(event_id))
    };
    let redaction = ann.me.put(&redact(&said, "t"), json!({})).await.ok();
    assert_ne!(redaction["event_id"], *said, "the same id at another endpoint is another request");
    let again = ann.me.put(&redact(&said, "t"), json!({})).await.ok();
    assert_eq!(redaction, again);
    assert_eq!(ann.me.event(&room, &said).await.ok()["content"], json!({}));
    // Without power over others' events.
    bob.me.reads(&room, "bob").await;
    let hers = ann.me.send(&room, "hers").await;
    bob.me.reads(&room, "hers").await;
    bob.me.put(&redact(&hers, "r"), json!({})).await.refused(403, "M_FORBIDDEN");
    bob.me.put(&redact(&others, "own"), json!({})).await.ok();

    let react = async |txn: &str| {
        let content = json!({"m.relates_to":
            {"rel_type": "m.annotation", "event_id": hers, "key": "👍"}});
        bob.me.put(&format!("v3/rooms/{}/send/m.reaction/{txn}", segment(&room)), content).await
    };
    let first = react("a").await.ok();
    assert_eq!(react("a").await.ok(), first, "the same request");
    react("b").await.refused(400, "M_DUPLICATE_ANNOTATION");
    let first = first["event_id"].as_str().unwrap();
    bob.me.put(&redact(first, "back"), json!({})).await.ok();
    react("c").await.ok();
}

#[tokio::test]
async fn a_client_that_waits_too_often_is_answered() {
    let ann = home(&[]).await;
    let since = ann.me.get("v3/sync?timeout=0").await.ok()["next_batch"].clone();
    let path = format!("v3/sync?timeout=30000&since={}", since.as_str().unwrap());
    let polls = (0..60).map(|_| ann.me.get(&path));
    let mut polls: Vec<_> = polls.map(Box::pin).collect();
    // All but a few are answered long before their time: 60 would wait together otherwise.
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        let (answer, _, rest) = futures::future::select_all(polls).await;
        answer.ok();
        polls = rest;
    }
    assert!(begun.elapsed().as_secs() < 25, "they waited: {:?}", begun.elapsed());
}

#[tokio::test]
async fn whose_node_is_off_is_still_known_by_name_to_who_shares_a_room() {
    let [mut ann, mut bob] = homes().await;
    bob.me.call_oneself("Bob").await;
    together(&mut ann, &mut bob, json!({})).await;
    let profile = format!("v3/profile/{}", segment(&bob.me.user_id));
    eventually("the name in the room", async || {
        (ann.me.get(&profile).await.ok()["displayname"] == "Bob").then_some(())
    })
    .await;
    bob.node.stop().await;
    assert_eq!(ann.me.get(&profile).await.ok()["displayname"], "Bob");
    ann.me.get("v3/profile/@p2p:example.org").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_context_of_an_event_leaves_out_who_says_nothing_in_it() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob, json!({})).await;
    for number in 0..3 {
        ann.me.send(&room, &format!("{number}")).await;
    }
    let said = ann.me.send(&room, "here").await;
    let path = format!("v3/rooms/{}/context/{}?limit=3", segment(&room), segment(&said));
    let members = |context: &Value| -> Vec<String> {
        let state = context["state"].as_array().unwrap().iter();
        let state = state.filter(|event| event["type"] == "m.room.member");
        state.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect()
    };
    let whole = ann.me.get(&path).await.ok();
    assert_eq!(members(&whole).len(), 2, "{whole}");
    let lazy = segment(&json!({"lazy_load_members": true}).to_string());
    let lazy = ann.me.get(&format!("{path}&filter={lazy}")).await.ok();
    assert_eq!(members(&lazy), [ann.me.user_id.clone()], "{lazy}");
}
