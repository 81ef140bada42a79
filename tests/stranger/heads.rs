//! Heads compared with somebody who is in some rooms and no more, and who lies (`docs/PROTOCOL.md` §5).

use super::{
    member::{Eve, Serve},
    *,
};

/// Where heads are compared.
const HEADS: &str = "/_messagehub/federation/v1/heads";
/// Where missing events are asked for.
const MISSING: &str = "/_messagehub/federation/v1/missing_events";
/// Where ids of missing events are asked for, and the events.
const MISSING_IDS: &str = "/_messagehub/federation/v1/missing_ids";
const EVENTS: &str = "/_messagehub/federation/v1/events";
/// Rooms that one message may name.
const HEADS_ROOMS: usize = 256;
/// Heads that are looked at.
const HEADS_MAX: usize = 20;

/// Rooms of Ann, of which Eve is in all but the last.
async fn rooms(ann: &Home, eve: &mut Eve, count: usize) -> Vec<String> {
    let mut rooms = Vec::new();
    for _ in 0..count {
        rooms.push(ann.me.create(json!({"preset": "public_chat"})).await);
    }
    for room in &rooms[..count - 1] {
        eve.join(ann, room).await;
    }
    rooms
}

/// The rooms that each of Ann's messages to Eve names, with their fingerprints.
fn compared(eve: &Eve) -> Vec<Value> {
    let asked = eve.told.iter().filter(|request| request.uri == HEADS);
    let content = asked.map(|request| serde_json::to_value(&request.content).unwrap());
    content.map(|content| content["rooms"].clone()).collect()
}

#[tokio::test]
async fn one_message_compares_all_rooms_that_are_shared_and_no_other() {
    let ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let rooms = rooms(&ann, &mut eve, 5).await;
    eve.told.clear();
    eve.come_back(&ann).await;
    eve.until("being asked", |eve| (!compared(eve).is_empty()).then_some(())).await;
    // Whatever else she is told on that account would come now.
    eve.during(tokio::time::sleep(Duration::from_secs(2))).await;
    let asked = compared(&eve);
    assert_eq!(asked.len(), 1, "{asked:?}");
    let named: Vec<&String> = asked[0].as_object().unwrap().keys().collect();
    let mut shared: Vec<&String> = rooms[..4].iter().collect();
    shared.sort();
    assert_eq!(named, shared);
}

#[tokio::test]
async fn who_asks_hears_of_rooms_that_differ_and_that_they_are_in() {
    let ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let rooms = rooms(&ann, &mut eve, 3).await;
    eve.come_back(&ann).await;
    eve.until("being asked", |eve| (!compared(eve).is_empty()).then_some(())).await;
    let ours = compared(&eve).remove(0);
    // Of one room she has the same, of another one not, in the third she is not, the last is nowhere.
    let mut asked = json!({});
    for (room, fingerprint) in [
        (&rooms[0], ours[&rooms[0]].clone()),
        (&rooms[1], json!("another")),
        (&rooms[2], json!("another")),
        (&"!nowhere:example.org".to_owned(), json!("another")),
    ] {
        asked[room] = fingerprint;
    }
    let (status, answer) = eve.ask(&ann, "POST", HEADS, json!({"rooms": asked})).await;
    assert_eq!(status, 200, "{answer}");
    let told: Vec<&String> = answer["rooms"].as_object().unwrap().keys().collect();
    assert_eq!(told, [&rooms[1]], "{answer}");
    assert_eq!(answer["rooms"][&rooms[1]].as_array().unwrap().len(), 1, "{answer}");

    let many: serde_json::Map<String, Value> =
        (0..=HEADS_ROOMS).map(|n| (format!("!{n}:example.org"), json!("x"))).collect();
    let (status, answer) = eve.ask(&ann, "POST", HEADS, json!({"rooms": many})).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_BAD_JSON")), "{answer}");
}

/// Eve answers with heads that do not exist, for rooms that she was not asked about too.
#[tokio::test]
async fn heads_of_other_rooms_are_not_looked_at_and_false_ones_change_nothing() {
    let ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let rooms = rooms(&ann, &mut eve, 2).await;
    let (shared, secret) = (rooms[0].clone(), rooms[1].clone());
    let state = ann.me.whole_state(&shared).await;
    let heads = |count: usize| (0..count).map(|n| format!("$false{n}")).collect::<Vec<_>>();
    let lies = json!({"rooms": {
        &shared: heads(5 * HEADS_MAX), &secret: heads(1), "!nowhere:example.org": heads(1),
    }});
    let serve: Serve = Box::new(move |request| {
        let is = |path: &str| request.uri.contains(path);
        match () {
            () if is(HEADS) => Some((200, lies.clone())),
            // An answer, but none with an event: each of the heads is asked for.
            () if is("/event/") => Some((200, json!({"pdus": []}))),
            () => None,
        }
    });
    eve.serve = serve;
    eve.told.clear();
    eve.come_back(&ann).await;
    let asked_for = |eve: &Eve| {
        let uris = eve.told.iter().map(|request| request.uri.clone());
        uris.filter(|uri| uri.contains("/event/")).collect::<Vec<_>>()
    };
    eve.until("being asked for heads", |eve| (!asked_for(eve).is_empty()).then_some(())).await;
    eve.during(tokio::time::sleep(Duration::from_secs(3))).await;
    let asked = asked_for(&eve);
    assert!(asked.len() <= HEADS_MAX, "{} heads are looked for", asked.len());
    assert!(asked.iter().all(|uri| uri.ends_with(&shared)), "{asked:?}");
    assert!(compared(&eve).len() <= 2, "she is asked again and again");
    assert_eq!(ann.me.whole_state(&shared).await, state);
    eve.during(ann.me.send(&shared, "unharmed")).await;
    eve.during(ann.me.send(&secret, "unharmed")).await;
}

/// Eve gives events that nobody sent, and some of a room that she was not asked about.
#[tokio::test]
async fn missing_events_that_are_none_change_nothing() {
    let ann = home(&[]).await;
    let mut eve = Eve::meet(&ann).await;
    let rooms = rooms(&ann, &mut eve, 2).await;
    let (shared, secret) = (rooms[0].clone(), rooms[1].clone());
    let said = eve.during(ann.me.send(&shared, "as it was")).await;
    let uri = format!("/_matrix/federation/v1/event/{said}?room_id={shared}");
    let (status, answer) = eve.ask(&ann, "GET", &uri, json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let copy = |key: &str, value: Value| {
        let mut copy = answer["pdus"][0].clone();
        copy[key] = value;
        copy
    };
    let given = json!([
        1,
        "event",
        {},
        copy("content", json!({"msgtype": "m.text", "body": "forged"})),
        copy("origin_server_ts", json!(1)),
        copy("room_id", json!(secret)),
        copy("sender", json!(eve.user_id())),
    ]);
    let state = ann.me.whole_state(&shared).await;
    let page = format!("v3/rooms/{}/messages?dir=b&limit=100", client::segment(&shared));
    let history = async || {
        let page = ann.me.get(&page).await.ok();
        let events = page["chunk"].as_array().unwrap().iter();
        events
            .map(|event| (event["event_id"].clone(), event["content"].clone()))
            .collect::<Vec<_>>()
    };
    let before = history().await;
    let lies = json!({"rooms": {&shared: given, &secret: given, "!nowhere:example.org": given}});
    let heads = json!({"rooms": {&shared: ["$false"]}});
    let some = ["$false", &said, "$F7e6iZWBRFJpEnM5Jy9i8UmMLP9zh_wQnnYCSb0rMT0"];
    let ids = json!({"ids": some, "more": false});
    let ids = json!({"rooms": {&shared: ids, &secret: ids, "!nowhere:example.org": ids}});
    // By ids first, and as a node of the first release is asked.
    for (is_new, path) in [(true, EVENTS), (false, MISSING)] {
        let (heads, ids, lies, given) = (heads.clone(), ids.clone(), lies.clone(), given.clone());
        let serve: Serve = Box::new(move |request| {
            let is = |path: &str| request.uri.contains(path);
            match () {
                () if is(HEADS) => Some((200, heads.clone())),
                () if is(MISSING_IDS) && is_new => Some((200, ids.clone())),
                () if is(MISSING_IDS) => Some((404, json!({"errcode": "M_UNRECOGNIZED"}))),
                () if is(EVENTS) || is(MISSING) => Some((200, lies.clone())),
                () if is("/event/") => Some((200, json!({"pdus": given}))),
                () => None,
            }
        });
        eve.serve = serve;
        eve.told.clear();
        eve.come_back(&ann).await;
        let asked = |eve: &Eve| eve.told.iter().filter(|request| request.uri == path).count();
        eve.until(path, |eve| (asked(eve) > 0).then_some(())).await;
        eve.during(tokio::time::sleep(Duration::from_secs(3))).await;
        assert!(asked(&eve) <= 2, "she is asked again and again: {path}");
        assert_eq!(ann.me.whole_state(&shared).await, state);
        assert_eq!(history().await, before);
    }
    eve.during(ann.me.send(&shared, "unharmed")).await;
    eve.during(ann.me.send(&secret, "unharmed")).await;
}
