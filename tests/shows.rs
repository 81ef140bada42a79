//! What clients are shown around events, on two nodes: edits, threads, what is unread, what
//! notified, profiles; and phones that are told through a push gateway.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]
#![allow(clippy::disallowed_types, reason = "the gateway of the test is a thread of its own")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

mod common;

use common::{Client, Home, client::segment, eventually, homes, node::free_port};

async fn together(ann: &mut Home, bob: &mut Home) -> String {
    let room = ann.me.create(json!({"invite": [bob.me.user_id]})).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    room
}

async fn say(who: &Client, room: &str, body: &str, more: Value) -> String {
    let mut content = json!({"msgtype": "m.text", "body": body});
    content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = format!("v3/rooms/{}/send/m.room.message/{}", segment(room), segment(body));
    who.put(&path, content).await.ok()["event_id"].as_str().unwrap().to_owned()
}

fn relates(rel_type: &str, event_id: &str) -> Value {
    json!({"m.relates_to": {"rel_type": rel_type, "event_id": event_id}})
}

const APART: &str = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D";

#[tokio::test]
async fn edits_threads_and_their_receipts_are_the_same_on_both_nodes() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob).await;
    let path = segment(&room);
    let root = say(&ann.me, &room, "root", json!({})).await;
    bob.me.reads(&room, "root").await;
    let mut said = Vec::new();
    for body in ["one", "two", "three"] {
        said.push(say(&bob.me, &room, body, relates("m.thread", &root)).await);
        ann.me.reads(&room, body).await;
    }
    let mut edit = relates("m.replace", &said[2]);
    edit["m.new_content"] = json!({"msgtype": "m.text", "body": "better"});
    let edited = say(&bob.me, &room, "edit", edit).await;
    // An edit of what somebody else said is none.
    let mut forged = relates("m.replace", &said[2]);
    forged["m.new_content"] = json!({"msgtype": "m.text", "body": "forged"});
    say(&ann.me, &room, "forged", forged).await;
    ann.me.reads(&room, "edit").await;
    bob.me.reads(&room, "forged").await;
    for (who, has_part) in [(&ann.me, true), (&bob.me, true)] {
        let shown = who.event(&room, &root).await.ok();
        let thread = &shown["unsigned"]["m.relations"]["m.thread"];
        assert_eq!(thread["count"], 3, "{shown}");
        assert_eq!(thread["current_user_participated"], has_part);
        assert_eq!(thread["latest_event"]["event_id"], *said[2]);
        let latest = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(latest["event_id"], *edited);
        assert_eq!(latest["content"]["m.new_content"]["body"], "better");
        let threads = who.get(&format!("v1/rooms/{path}/threads?limit=5")).await.ok();
        assert_eq!(threads["chunk"][0]["event_id"], *root);
        let of_root = format!("v1/rooms/{path}/relations/{}", segment(&root));
        let first = who.get(&format!("{of_root}/m.thread?limit=2")).await.ok();
        let ids = |page: &Value| {
            let chunk = page["chunk"].as_array().unwrap().iter();
            chunk.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&first), [said[2].clone(), said[1].clone()]);
        let next = first["next_batch"].as_str().unwrap();
        let next = who.get(&format!("{of_root}/m.thread?limit=2&from={next}")).await.ok();
        assert_eq!((ids(&next), &next["next_batch"]), (vec![said[0].clone()], &Value::Null));
        let deep = who.get(&format!("{of_root}?recurse=true&dir=f&limit=50")).await.ok();
        assert_eq!((ids(&deep).len(), &deep["recursion_depth"]), (5, &json!(3)));
    }
    ann.me
        .get(&format!("v1/rooms/{path}/relations/{}", segment("$nothing")))
        .await
        .refused(404, "M_NOT_FOUND");
    ann.me
        .get(&format!("v1/rooms/{path}/threads?include=some"))
        .await
        .refused(400, "M_INVALID_PARAM");
    let nested = relates("m.thread", &said[0]);
    let send = format!("v3/rooms/{path}/send/m.room.message/nested");
    let mut content = json!({"msgtype": "m.text", "body": "nested"});
    content.as_object_mut().unwrap().extend(nested.as_object().unwrap().clone());
    assert_eq!(ann.me.put(&send, content).await.status, 400, "a thread within a thread");

    // What Ann has not read, in the thread and beside it: she read what was before she wrote.
    for body in ["four", "five"] {
        said.push(say(&bob.me, &room, body, relates("m.thread", &root)).await);
        ann.me.reads(&room, body).await;
    }
    say(&bob.me, &room, "beside", json!({})).await;
    ann.me.reads(&room, "beside").await;
    let unread = async |query: &str| {
        let sync = ann.me.get(&format!("v3/sync?timeout=0&{query}")).await.ok();
        let shown = &sync["rooms"]["join"][&room];
        (
            shown["unread_notifications"]["notification_count"].clone(),
            shown["unread_thread_notifications"][&root]["notification_count"].clone(),
        )
    };
    assert_eq!(unread(APART).await, (json!(1), json!(2)));
    assert_eq!(unread("").await, (json!(3), Value::Null));
    let receipt = |kind: &str, event_id: &str| {
        format!("v3/rooms/{path}/receipt/{kind}/{}", segment(event_id))
    };
    // Told to Bob with its thread; what is private is not told.
    let private = receipt("m.read.private", &said[3]);
    ann.me.post(&private, json!({"thread_id": root})).await.ok();
    assert_eq!(unread(APART).await, (json!(1), json!(1)));
    let public = receipt("m.read", &said[4]);
    ann.me.post(&public, json!({"thread_id": root})).await.ok();
    assert_eq!(unread(APART).await, (json!(1), Value::Null));
    let receipts = eventually("Ann's receipt at Bob's", async || {
        let sync = bob.me.get("v3/sync?timeout=0").await.ok();
        let events = sync["rooms"]["join"][&room]["ephemeral"]["events"].as_array()?.clone();
        let receipts = events.into_iter().find(|event| event["type"] == "m.receipt")?;
        let ours = receipts["content"][&said[4]]["m.read"][&ann.me.user_id].clone();
        (!ours.is_null()).then_some((ours, receipts.to_string()))
    })
    .await;
    assert_eq!(receipts.0["thread_id"], *root);
    assert!(!receipts.1.contains("m.read.private"), "{}", receipts.1);

    // Redacted: the last word is the one before.
    let redact = format!("v3/rooms/{path}/redact/{}/r", segment(&said[4]));
    bob.me.put(&redact, json!({})).await.ok();
    for who in [&ann.me, &bob.me] {
        eventually("a thread of four", async || {
            let shown = who.event(&room, &root).await.ok();
            let thread = &shown["unsigned"]["m.relations"]["m.thread"];
            (thread["count"] == 4 && thread["latest_event"]["event_id"] == *said[3]).then_some(())
        })
        .await;
    }
    // All of it is there after a restart.
    ann.node.stop().await;
    ann.node.start_again().await;
    let shown = ann.me.event(&room, &root).await.ok();
    assert_eq!(shown["unsigned"]["m.relations"]["m.thread"]["count"], 4);
}

#[tokio::test]
async fn push_rules_and_who_is_ignored_decide_what_notifies() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob).await;
    let rule = |kind: &str, id: &str| format!("v3/pushrules/global/{kind}/{}", segment(id));
    let word = json!({"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]});
    ann.me.put(&rule("content", "cake"), word).await.ok();
    let counts = async |ann: &Client| {
        let sync = ann.get("v3/sync?timeout=0").await.ok();
        let unread = &sync["rooms"]["join"][&room]["unread_notifications"];
        (unread["notification_count"].clone(), unread["highlight_count"].clone())
    };
    say(&bob.me, &room, "plain", json!({})).await;
    say(&bob.me, &room, "there is cake", json!({})).await;
    ann.me.reads(&room, "there is cake").await;
    assert_eq!(counts(&ann.me).await, (json!(2), json!(1)));
    let listed = ann.me.get("v3/notifications?only=highlight").await.ok();
    let listed = listed["notifications"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["event"]["content"]["body"], "there is cake");
    assert_eq!((&listed[0]["read"], &listed[0]["room_id"]), (&json!(false), &json!(room)));
    assert_eq!(listed[0]["actions"], json!(["notify", {"set_tweak": "highlight"}]));
    // The room is muted: nothing counts but what is said before.
    ann.me.put(&rule("room", &room), json!({"actions": []})).await.ok();
    ann.me
        .put(&format!("{}/enabled", rule("content", "cake")), json!({"enabled": false}))
        .await
        .ok();
    say(&bob.me, &room, "more cake", json!({})).await;
    ann.me.reads(&room, "more cake").await;
    assert_eq!(counts(&ann.me).await, (json!(2), json!(1)));
    ann.me.request(reqwest::Method::DELETE, &rule("room", &room), json!({})).await.ok();
    // Rules outlive a restart, and so does who is ignored.
    let ignored = format!("v3/user/{}/account_data/m.ignored_user_list", segment(&ann.me.user_id));
    ann.me.put(&ignored, json!({"ignored_users": {&bob.me.user_id: {}}})).await.ok();
    ann.node.stop().await;
    ann.node.start_again().await;
    ann.node.connected_to(&bob.me).await;
    let unheard = say(&bob.me, &room, "to nobody", json!({})).await;
    eventually("what is ignored, where it is asked for", async || {
        (ann.me.event(&room, &unheard).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(counts(&ann.me).await, (json!(2), json!(1)));
    assert!(!ann.me.texts(&room).await.iter().any(|text| text == "to nobody"));
    ann.me.put(&ignored, json!({"ignored_users": {}})).await.ok();
    assert!(ann.me.texts(&room).await.iter().any(|text| text == "to nobody"));
}

#[tokio::test]
async fn a_profile_has_fields_of_every_kind_for_both_nodes() {
    let [mut ann, mut bob] = homes().await;
    let room = together(&mut ann, &mut bob).await;
    let field = |name: &str| format!("v3/profile/{}/{name}", segment(&ann.me.user_id));
    ann.me.put(&field("displayname"), json!({"displayname": "Ann"})).await.ok();
    ann.me.put(&field("m.tz"), json!({"m.tz": "Europe/Paris"})).await.ok();
    ann.me.put(&field("org.x"), json!({"org.x": {"a": [1, null]}})).await.ok();
    ann.me.put(&field("m.tz"), json!({"m.tz": 7})).await.refused(400, "M_BAD_JSON");
    let large = json!({"org.y": "y".repeat(70_000)});
    ann.me.put(&field("org.y"), large).await.refused(400, "M_PROFILE_TOO_LARGE");
    let long = "z".repeat(256);
    ann.me.put(&field(&long), json!({&long: 1})).await.refused(400, "M_KEY_TOO_LARGE");
    let whole = format!("v3/profile/{}", segment(&ann.me.user_id));
    let expected = json!({"displayname": "Ann", "m.tz": "Europe/Paris", "org.x": {"a": [1, null]}});
    ann.node.stop().await;
    ann.node.start_again().await;
    ann.node.connected_to(&bob.me).await;
    assert_eq!(ann.me.get(&whole).await.ok(), expected);
    eventually("the profile at Bob's", async || {
        (bob.me.get(&whole).await.body == expected).then_some(())
    })
    .await;
    assert_eq!(bob.me.get(&field("m.tz")).await.ok(), json!({"m.tz": "Europe/Paris"}));
    ann.me.request(reqwest::Method::DELETE, &field("m.tz"), json!({})).await.ok();
    ann.me.get(&field("m.tz")).await.refused(404, "M_NOT_FOUND");
    eventually("the name in the room", async || {
        let member = bob.me.state(&room, "m.room.member", &ann.me.user_id).await;
        (member["displayname"] == "Ann").then_some(())
    })
    .await;
    let now = ann.me.get(&format!("v3/rooms/{}/initialSync", segment(&room))).await.ok();
    assert_eq!((&now["room_id"], &now["membership"]), (&json!(room), &json!("join")));
    let chunk = now["messages"]["chunk"].as_array().unwrap();
    assert!(chunk.iter().any(|event| event["type"] == "m.room.member"), "{now}");
}

/// A push gateway that writes down what it is told, and answers as it is told to.
struct Gateway {
    url: String,
    told: Arc<Mutex<Vec<Value>>>,
    is_down: Arc<AtomicBool>,
    rejects: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
        let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr().unwrap());
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (is_down, rejects) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let gateway = Self { url, told, is_down, rejects };
        let (told, is_down) = (Arc::clone(&gateway.told), Arc::clone(&gateway.is_down));
        let rejects = Arc::clone(&gateway.rejects);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut bytes = Vec::new();
                let body = loop {
                    let mut part = [0; 4096];
                    let Ok(len) = stream.read(&mut part) else { break None };
                    bytes.extend_from_slice(&part[..len]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let head = head.to_ascii_lowercase();
                    let wanted = head.split("content-length: ").nth(1).unwrap();
                    let wanted: usize = wanted.lines().next().unwrap().parse().unwrap();
                    if body.len() >= wanted || len == 0 {
                        break serde_json::from_str::<Value>(body).ok();
                    }
                };
                let answer = if is_down.load(Ordering::SeqCst) {
                    "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n".to_owned()
                } else {
                    told.lock().unwrap().extend(body);
                    let answer = json!({"rejected": *rejects.lock().unwrap()}).to_string();
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        gateway
    }

    fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().iter().map(|told| told["notification"].clone()).collect()
    }
}

#[tokio::test]
async fn a_phone_is_told_through_the_gateway_that_its_owner_chose() {
    let [mut ann, mut bob] = homes().await;
    let gateway = Gateway::start();
    let pusher = |url: &str| {
        json!({
            "app_id": "org.example.app", "pushkey": "key", "kind": "http", "lang": "en",
            "app_display_name": "App", "device_display_name": "Phone",
            "data": {"url": url, "format": "event_id_only"},
        })
    };
    // Machines at home are not asked, unless their owner says so.
    ann.me.post("v3/pushers/set", pusher(&gateway.url)).await.refused(400, "M_INVALID_PARAM");
    ann.node.stop().await;
    ann.node.configure(|config| config["push"] = json!({"allowPrivateAddresses": true}));
    ann.node.start_again().await;
    ann.node.connected_to(&bob.me).await;
    let room = together(&mut ann, &mut bob).await;
    say(&bob.me, &room, "before", json!({})).await;
    ann.me.reads(&room, "before").await;
    for bad in ["https://push.example.org/elsewhere", "ftp://x/_matrix/push/v1/notify", "x"] {
        let refused = ann.me.post("v3/pushers/set", pusher(bad)).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
    ann.me.post("v3/pushers/set", pusher(&gateway.url)).await.ok();
    let set = ann.me.get("v3/pushers").await.ok();
    assert_eq!(set["pushers"][0]["pushkey"], "key", "{set}");
    let said = say(&bob.me, &room, "hello", json!({})).await;
    let told = eventually("a push", async || gateway.told().first().cloned()).await;
    assert_eq!(
        (&told["event_id"], &told["room_id"], &told["counts"]["unread"]),
        (&json!(said), &json!(room), &json!(2)),
        "what was before is no news"
    );
    assert!(told.get("content").is_none(), "{told}");
    assert_eq!(told["devices"][0]["data"], json!({"format": "event_id_only"}));
    // Read elsewhere: the number is told.
    let read = format!("v3/rooms/{}/receipt/m.read/{}", segment(&room), segment(&said));
    ann.me.post(&read, json!({})).await.ok();
    eventually("a badge", async || {
        gateway.told().iter().any(|told| told["counts"]["unread"] == 0).then_some(())
    })
    .await;
    // While it is down, and the node is killed, nothing is lost; of several the newest is told.
    gateway.is_down.store(true, Ordering::SeqCst);
    say(&bob.me, &room, "one", json!({})).await;
    ann.me.reads(&room, "one").await;
    let last = say(&bob.me, &room, "two", json!({})).await;
    ann.me.reads(&room, "two").await;
    ann.node.kill();
    ann.node.start_again().await;
    gateway.is_down.store(false, Ordering::SeqCst);
    eventually("what waited", async || {
        gateway.told().iter().any(|told| told["event_id"] == *last).then_some(())
    })
    .await;
    // An invite is told with what it says of the room, before anybody is in it.
    let other = bob.me.create(json!({"preset": "private_chat", "name": "Tea"})).await;
    bob.me.invite(&other, &ann.me.user_id).await.ok();
    eventually("the invite", async || {
        let told = gateway.told();
        let told = told.iter().find(|told| told["room_id"] == *other)?;
        assert_eq!(told["prio"], "high", "{told}");
        Some(())
    })
    .await;
    let listed = ann.me.get("v3/notifications?limit=1").await.ok();
    let newest = &listed["notifications"][0];
    assert_eq!(newest["event"]["content"]["membership"], "invite", "{newest}");
    assert_eq!((&newest["room_id"], &newest["read"]), (&json!(other), &json!(false)));
    // Nobody has the key any more.
    *gateway.rejects.lock().unwrap() = vec!["key".to_owned()];
    say(&bob.me, &room, "three", json!({})).await;
    eventually("no pusher", async || {
        let set = ann.me.get("v3/pushers").await.ok();
        set["pushers"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    // One more, which is taken away again.
    gateway.rejects.lock().unwrap().clear();
    ann.me.post("v3/pushers/set", pusher(&gateway.url)).await.ok();
    let mut none = pusher(&gateway.url);
    none["kind"] = Value::Null;
    ann.me.post("v3/pushers/set", none).await.ok();
    assert_eq!(ann.me.get("v3/pushers").await.ok()["pushers"], json!([]));
}
