//! Fuzz target: whatever a client sends gets an answer that clients can read, and no fault of ours.

use actix_web::{http::Method, test::TestRequest};
use serde_json::{Value, json};

use super::{node, send, with};

/// Requests with bodies, one of each kind of endpoint.
fn good() -> Vec<Value> {
    let r = "/_matrix/client/v3/rooms/!in:x";
    vec![
        json!(["PUT", format!("{r}/send/m.room.message/1"), {"msgtype": "m.text", "body": "hi"}]),
        json!(["PUT", format!("{r}/state/m.room.topic/"), {"topic": "x"}]),
        json!(["PUT", format!("{r}/redact/$e/2"), {"reason": "x"}]),
        json!(["PUT", format!("{r}/typing/@p2p:x"), {"typing": true, "timeout": 3000}]),
        json!(["POST", format!("{r}/receipt/m.read/$e"), {"thread_id": "main"}]),
        json!(["POST", format!("{r}/read_markers"), {"m.fully_read": "$e", "m.read": "$e"}]),
        json!(["POST", format!("{r}/invite"), {"user_id": "@a:x"}]),
        json!(["POST", format!("{r}/kick"), {"user_id": "@a:x", "reason": "x"}]),
        json!(["GET", format!("{r}/messages?dir=b&limit=10&filter=%7B%7D"), null]),
        json!(["GET", format!("{r}/context/$e?limit=10"), null]),
        json!(["POST", "/_matrix/client/v3/createRoom", {
            "preset": "private_chat", "invite": ["@a:x"], "creation_content": {},
            "initial_state": [{"type": "m.room.topic", "content": {"topic": "x"}}],
            "power_level_content_override": {"users": {"@a:x": 100}}, "room_version": "11",
        }]),
        json!(["POST", "/_matrix/client/v3/user/@p2p:x/filter", {
            "room": {"timeline": {"limit": 10, "types": ["m.*"]}, "rooms": ["!in:x"]},
            "event_fields": ["content.body"], "event_format": "client",
        }]),
        json!(["PUT", "/_matrix/client/v3/user/@p2p:x/account_data/m.direct", {"@a:x": ["!r:x"]}]),
        json!(["PUT", "/_matrix/client/v3/user/@p2p:x/rooms/!in:x/tags/u.x", {"order": 0.5}]),
        json!(["PUT", "/_matrix/client/v3/pushrules/global/override/x", {
            "actions": ["notify", {"set_tweak": "sound", "value": "default"}],
            "conditions": [{"kind": "event_match", "key": "type", "pattern": "m.*"}],
        }]),
        json!(["PUT", "/_matrix/client/v3/profile/@p2p:x/displayname", {"displayname": "Ann"}]),
        json!(["PUT", "/_matrix/client/v3/presence/@p2p:x/status", {
            "presence": "online", "status_msg": "here",
        }]),
        json!(["PUT", "/_matrix/client/v3/sendToDevice/m.x/3", {
            "messages": {"@p2p:x": {"*": {"a": 1}}},
        }]),
        json!(["POST", "/_matrix/client/v3/user_directory/search", {"search_term": "Ann"}]),
        json!(["POST", "/_matrix/client/v3/login", {
            "type": "m.login.token", "token": "x", "device_id": "D2",
        }]),
    ]
}

/// Makes a request, where it can be one.
fn request(method: &str, path: &str, body: Vec<u8>) -> Option<TestRequest> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    path.parse::<actix_web::http::Uri>().ok().filter(|uri| uri.path().starts_with('/'))?;
    // A long poll waits, which is no fault.
    let waits = path.contains("sync");
    (!waits).then(|| TestRequest::with_uri(path).method(method).set_payload(body))
}

/// A homeserver that answers a request with some words, and never with a fault of its own.
fn homeserver() -> impl FnMut(Option<TestRequest>) -> String {
    let system = actix_web::rt::System::new();
    let (app, fake, token) = system.block_on(node());
    move |request| {
        let _ = &fake;
        let Some(request) = request else { return "no request".to_owned() };
        let reply = system.block_on(send(&app, with(&token, request)));
        // 502 and 504 tell of other servers.
        assert!(![500, 501, 503].contains(&reply.status), "{reply:?}");
        if reply.status >= 400 {
            assert!(reply.json()["errcode"].is_string(), "{reply:?}");
        }
        format!("{} {}", reply.status, reply.text())
    }
}

#[test]
fn fuzz_requests_of_a_client() {
    let mut answer = homeserver();
    crate::fuzz::json("client", good(), |value| {
        let text = |at: usize| value[at].as_str().unwrap_or_default();
        answer(request(text(0), text(1), value[2].to_string().into_bytes()))
    });
}

#[test]
fn fuzz_bodies_of_a_client() {
    let mut answer = homeserver();
    let good = good().into_iter().map(|request| {
        let text = |at: usize| request[at].as_str().unwrap();
        format!("{} {}\n{}", text(0), text(1), request[2]).into_bytes()
    });
    crate::fuzz::bytes("client_bytes", good.collect(), |bytes| {
        let head = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let body = bytes.get(head.len() + 1..).unwrap_or_default().to_vec();
        let head = String::from_utf8_lossy(head);
        let (method, path) = head.split_once(' ').unwrap_or_default();
        answer(request(method, path, body))
    });
}
