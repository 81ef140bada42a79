//! The client API: paths, errors, and what reaches the actors.

use std::time::Duration;

use actix_web::{http::Method, test::TestRequest};
use serde_json::{Value, json, value::RawValue};

use super::{
    fake::{self, Told, other_server},
    get, logged_in, node, post, put, send, served, with,
};
use crate::{actors::admission::Admission, config::limits};

async fn told(fake: &actix::Addr<fake::Fake>) -> Vec<String> {
    fake.send(Told).await.unwrap()
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_unrecognized_and_readable_everywhere() {
    let (app, _, token) = node().await;
    for (request, status) in [
        (get("/_matrix/client/v3/no_such_endpoint"), 404),
        (post("/_matrix/media/v3/no_such_endpoint", &json!({})), 404),
        (get("/_matrix/client/v1/auth_metadata"), 404),
        (TestRequest::delete().uri("/_matrix/client/v3/login"), 405),
        (post("/_matrix/client/versions", &json!({})), 405),
        (put("/_matrix/client/v3/sync", &json!({})), 405),
    ] {
        let reply = send(&app, with(&token, request)).await;
        assert_eq!(reply.errcode(), (status, "M_UNRECOGNIZED".into()));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
    let preflight = TestRequest::with_uri("/_matrix/client/v3/sync").method(Method::OPTIONS);
    let reply = send(&app, preflight).await;
    assert_eq!(reply.status, 204);
    assert_eq!(
        reply.header("access-control-allow-headers"),
        Some("X-Requested-With, Content-Type, Authorization")
    );
    let unauthorised = send(&app, get("/_matrix/client/v3/sync")).await;
    assert_eq!(unauthorised.header("access-control-allow-origin"), Some("*"));
}

#[actix_web::test]
async fn discovery() {
    let (app, _, token) = node().await;
    let versions = send(&app, get("/_matrix/client/versions")).await.json();
    assert_eq!(versions["versions"][0], "v1.1");
    assert_eq!(versions["versions"][12], "v1.13");
    let well_known = send(&app, get("/.well-known/matrix/client")).await.json();
    assert_eq!(well_known["m.homeserver"]["base_url"], "http://127.84.48.2");
    let capabilities = send(&app, with(&token, get("/_matrix/client/v3/capabilities"))).await;
    let versions = &capabilities.json()["capabilities"]["m.room_versions"];
    assert_eq!(
        *versions,
        json!({"default": "12", "available": {
            "6": "stable", "7": "stable", "8": "stable", "9": "stable",
            "10": "stable", "11": "stable", "12": "stable",
        }})
    );
    for (path, expected) in [
        ("/_matrix/client/v3/voip/turnServer", json!({})),
        ("/_matrix/client/v3/thirdparty/protocols", json!({})),
        ("/_matrix/client/v3/pushers", json!({"pushers": []})),
        ("/_matrix/client/v3/account/3pid", json!({"threepids": []})),
        ("/_matrix/client/r0/joined_rooms", json!({"joined_rooms": ["!in:x"]})),
    ] {
        assert_eq!(send(&app, with(&token, get(path))).await.json(), expected, "{path}");
    }
}

#[actix_web::test]
async fn bodies_that_are_wrong_say_how() {
    let (app, _, token) = node().await;
    let raw = |body: Vec<u8>| {
        let request = TestRequest::post().uri("/_matrix/client/v3/createRoom").set_payload(body);
        with(&token, request)
    };
    let not_json = send(&app, raw(b"{".to_vec())).await;
    assert_eq!(not_json.errcode(), (400, "M_NOT_JSON".into()));
    let bad_json = send(&app, raw(br#"{"invite":5}"#.to_vec())).await;
    assert_eq!(bad_json.errcode(), (400, "M_BAD_JSON".into()));
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(limits::CLIENT_BODY));
    let large = send(&app, raw(large.into_bytes())).await;
    assert_eq!(large.errcode(), (413, "M_TOO_LARGE".into()));
    assert_eq!(large.header("access-control-allow-origin"), Some("*"));
    let no_object = put("/_matrix/client/v3/rooms/!r:x/send/m.x/1", &json!([]));
    assert_eq!(send(&app, with(&token, no_object)).await.errcode(), (400, "M_BAD_JSON".into()));
    let float = put("/_matrix/client/v3/rooms/!r:x/send/m.x/1", &json!({"a": 0.5}));
    assert_eq!(send(&app, with(&token, float)).await.errcode(), (400, "M_BAD_JSON".into()));
    let no_room = put("/_matrix/client/v3/rooms/nonsense/send/m.x/1", &json!({}));
    let no_room = send(&app, with(&token, no_room)).await;
    assert_eq!(no_room.errcode(), (400, "M_INVALID_PARAM".into()));
    let stranger =
        send(&app, raw(b"{".to_vec()).insert_header(("Authorization", "Bearer x"))).await;
    assert_eq!(stranger.status, 401, "strangers are asked who they are first");
}

#[actix_web::test]
async fn a_body_may_be_left_out_where_nothing_in_it_is_needed() {
    let (app, _, token) = node().await;
    for path in ["join/!r:x", "rooms/!r:x/join", "rooms/!r:x/leave", "rooms/!r:x/receipt/m.read/$e"]
    {
        let request = TestRequest::post().uri(&format!("/_matrix/client/v3/{path}"));
        let reply = send(&app, with(&token, request)).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
}

#[actix_web::test]
async fn an_overloaded_node_says_so() {
    let (_, mut gateway) = fake::start().await;
    gateway.admission = Admission::new(0);
    let app = served(gateway).await;
    let reply = send(&app, get("/_matrix/client/versions")).await;
    assert_eq!(reply.errcode(), (429, "M_LIMIT_EXCEEDED".into()));
    assert!(reply.json()["retry_after_ms"].as_u64().is_some());
}

#[actix_web::test]
async fn path_arguments_are_decoded_once() {
    let (app, fake, token) = node().await;
    let path = "/_matrix/client/v3/rooms/%21a%2Fb%3Ax/state/m.x/%40a%2Fb%2520c";
    let reply = send(&app, with(&token, put(path, &json!({})))).await;
    assert_eq!(reply.json(), json!({"event_id": "$sent"}));
    let last = told(&fake).await.pop().unwrap();
    assert!(last.starts_with("!a/b:x "), "{last}");
    assert!(last.contains(r#"state_key: Some("@a/b%20c")"#), "{last}");
}

#[actix_web::test]
async fn an_empty_state_key_has_three_forms() {
    let (app, fake, token) = node().await;
    for path in ["m.room.topic", "m.room.topic/"] {
        let path = format!("/_matrix/client/v3/rooms/!r:x/state/{path}");
        assert_eq!(send(&app, with(&token, put(&path, &json!({"topic": "T"})))).await.status, 200);
        let last = told(&fake).await.pop().unwrap();
        assert!(last.contains(r#"state_key: Some("")"#), "{last}");
        let read = send(&app, with(&token, get(&path))).await;
        assert_eq!(read.json(), json!({"topic": "T"}));
    }
    let event = get("/_matrix/client/v3/rooms/!r:x/state/m.room.topic/?format=event");
    assert_eq!(send(&app, with(&token, event)).await.json()["event_id"], "$t");
}

#[actix_web::test]
async fn a_transaction_names_its_device() {
    let (app, fake, token) = node().await;
    let path = "/_matrix/client/v3/rooms/!r:x/send/m.room.message/txn1";
    send(&app, with(&token, put(path, &json!({"body": "x"})))).await;
    let last = told(&fake).await.pop().unwrap();
    assert!(
        last.contains(r#"ClientTxn { device_id: "D", endpoint: Send, txn_id: "txn1" }"#),
        "{last}"
    );
    let path = "/_matrix/client/v3/rooms/!r:x/redact/%24e/txn2";
    send(&app, with(&token, put(path, &json!({"reason": "R"})))).await;
    let last = told(&fake).await.pop().unwrap();
    assert!(last.contains(r#"redacts: Some("$e")"#), "{last}");
    assert!(last.contains(r#"endpoint: Redact, txn_id: "txn2""#), "{last}");
}

#[actix_web::test]
async fn rooms_are_made_joined_and_read() {
    let (app, fake, token) = node().await;
    let made = post("/_matrix/client/v3/createRoom", &json!({"name": "N"}));
    assert_eq!(send(&app, with(&token, made)).await.json(), json!({"room_id": "!new"}));
    let path = "/_matrix/client/v3/join/!r:x?via=a.example&via=b.example";
    assert_eq!(
        send(&app, with(&token, post(path, &json!({})))).await.json(),
        json!({"room_id": "!r:x"})
    );
    let last = told(&fake).await.pop().unwrap();
    assert!(last.contains(r#"via: ["a.example", "b.example"]"#), "{last}");
    let alias = post("/_matrix/client/v3/join/%23a:x", &json!({}));
    assert_eq!(send(&app, with(&token, alias)).await.errcode(), (404, "M_NOT_FOUND".into()));
    let kick = post("/_matrix/client/v3/rooms/!r:x/kick", &json!({"user_id": "@a:x"}));
    assert_eq!(send(&app, with(&token, kick)).await.errcode(), (403, "M_FORBIDDEN".into()));
    let event = get("/_matrix/client/v3/rooms/!r:x/event/%24e");
    assert_eq!(send(&app, with(&token, event)).await.errcode(), (404, "M_NOT_FOUND".into()));

    let filter = "%7B%22types%22%3A%5B%22m.room.message%22%5D%2C%22lazy_load_members%22%3Atrue%7D";
    let path = format!("/_matrix/client/v3/rooms/!r:x/messages?dir=b&from=s9_0_7&filter={filter}");
    let page = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(page["chunk"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!((&page["start"], &page["end"]), (&json!("t9.0"), &json!("t-4")));
    assert_eq!(page["state"][0]["type"], "m.room.member");
    let last = told(&fake).await.pop().unwrap();
    assert!(last.contains("from: Some(Order { position: 9, history: 0 })"), "{last}");
    let bad = get("/_matrix/client/v3/rooms/!r:x/messages?dir=b&from=nonsense");
    assert_eq!(send(&app, with(&token, bad)).await.errcode(), (400, "M_INVALID_PARAM".into()));
}

#[actix_web::test]
async fn a_profile_is_shown_changed_and_asked_for() {
    let (app, fake, token) = node().await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    let me = me["user_id"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/profile/{me}");
    assert_eq!(send(&app, with(&token, get(&path))).await.json(), json!({"displayname": "p2p"}));
    for version in ["v3", "r0"] {
        let path = format!("/_matrix/client/{version}/profile/{me}/displayname");
        let name = json!({"displayname": version});
        assert_eq!(send(&app, with(&token, put(&path, &name))).await.status, 200);
        assert_eq!(send(&app, with(&token, get(&path))).await.json(), name);
    }
    let lines = told(&fake).await;
    assert!(lines.contains(&"advertise p2p".to_owned()), "at start: {lines:?}");
    assert!(lines.contains(&r#"profile Some("v3")"#.to_owned()), "{lines:?}");
    assert!(lines.contains(&"advertise v3".to_owned()), "{lines:?}");

    let other = format!("@p2p:{}", other_server());
    let path = format!("/_matrix/client/v3/profile/{other}");
    let shown = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(shown, json!({"displayname": "Other"}), "another's profile, not one's own");
    // Nobody can tell whether there is such a person, who may be invited all the same.
    let away = crate::proto::server_keys::tests::secret_keys(9).server_name();
    let away = get(&format!("/_matrix/client/v3/profile/@p2p:{away}"));
    assert_eq!(send(&app, with(&token, away)).await.errcode(), (403, "M_FORBIDDEN".into()));
    let path = format!("{path}/displayname");
    let theirs = put(&path, &json!({"displayname": "mine"}));
    assert_eq!(send(&app, with(&token, theirs)).await.errcode(), (403, "M_FORBIDDEN".into()));
}

#[actix_web::test]
async fn attack_3_what_a_client_names_cannot_become_another_request() {
    let (app, fake, token) = node().await;
    let user = format!("@a%2F..%2F..%2Fsend%3Fx=1%26user_id=y%23:{}", other_server());
    let path = format!("/_matrix/client/v3/profile/{user}");
    let reply = send(&app, with(&token, get(&path))).await;
    let lines = told(&fake).await;
    let sent = lines.iter().find(|line| line.starts_with("GET "));
    let sent = sent.unwrap_or_else(|| panic!("{reply:?}"));
    let (_, query) = sent.split_once("/_matrix/federation/v1/query/profile?user_id=").unwrap();
    let query = query.split(' ').next().unwrap();
    assert!(!query.contains(['/', '?', '&', '#', '=', '.']), "{query}");
}

#[actix_web::test]
async fn account_data_tags_filters_and_push_rules() {
    let (app, _, token) = node().await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    let me = format!("/_matrix/client/v3/user/{}", me["user_id"].as_str().unwrap());
    let direct = format!("{me}/account_data/m.direct");
    let none = send(&app, with(&token, get(&direct))).await;
    assert_eq!(none.errcode(), (404, "M_NOT_FOUND".into()));
    let content = json!({"@a:x": ["!r:x"], "f": 0.5});
    assert_eq!(send(&app, with(&token, put(&direct, &content))).await.status, 200);
    assert_eq!(send(&app, with(&token, get(&direct))).await.json(), content);
    let rules = put(&format!("{me}/account_data/m.push_rules"), &json!({}));
    assert_eq!(send(&app, with(&token, rules)).await.errcode(), (405, "M_BAD_JSON".into()));
    let other = put("/_matrix/client/v3/user/@a:x/account_data/m.x", &json!({}));
    assert_eq!(send(&app, with(&token, other)).await.errcode(), (403, "M_FORBIDDEN".into()));

    let tag = format!("{me}/rooms/!r:x/tags/m.favourite");
    assert_eq!(send(&app, with(&token, put(&tag, &json!({"order": 0.25})))).await.status, 200);
    let tags = send(&app, with(&token, get(&format!("{me}/rooms/!r:x/tags")))).await.json();
    assert_eq!(tags, json!({"tags": {"m.favourite": {"order": 0.25}}}));
    send(&app, with(&token, TestRequest::delete().uri(&tag))).await;
    let tags = send(&app, with(&token, get(&format!("{me}/rooms/!r:x/tags")))).await.json();
    assert_eq!(tags, json!({"tags": {}}));

    let filter = json!({"room": {"timeline": {"limit": 3}}});
    let saved = send(&app, with(&token, post(&format!("{me}/filter"), &filter))).await.json();
    let id = saved["filter_id"].as_str().unwrap();
    let read = send(&app, with(&token, get(&format!("{me}/filter/{id}")))).await.json();
    assert_eq!(read, filter);

    let rule = "/_matrix/client/v3/pushrules/global/content/cake";
    let body = json!({"pattern": "cake", "actions": ["notify"]});
    assert_eq!(send(&app, with(&token, put(rule, &body))).await.status, 200);
    let off = put(&format!("{rule}/enabled"), &json!({"enabled": false}));
    assert_eq!(send(&app, with(&token, off)).await.status, 200);
    let all = send(&app, with(&token, get("/_matrix/client/v3/pushrules/"))).await.json();
    let cake = all["global"]["content"].as_array().unwrap();
    let cake = cake.iter().find(|rule| rule["rule_id"] == "cake").unwrap();
    assert_eq!(cake["enabled"], false);
    send(&app, with(&token, TestRequest::delete().uri(rule))).await;
    let gone = send(&app, with(&token, get(rule))).await;
    assert_eq!(gone.errcode(), (404, "M_NOT_FOUND".into()));
}

#[actix_web::test]
async fn people_are_found_once_by_their_whole_ids_and_the_limit_limits() {
    let (app, _, token) = node().await;
    let search = |limit: u32| {
        let body = json!({"search_term": "o", "limit": limit});
        with(&token, post("/_matrix/client/v3/user_directory/search", &body))
    };
    let all = send(&app, search(10)).await.json();
    assert_eq!(
        all,
        json!({"limited": false, "results": [
            {"user_id": "@found:x", "display_name": "Found"},
            {"user_id": "@double:x", "display_name": "Found"},
            {"user_id": "@known:x", "display_name": "Known"},
        ]})
    );
    let one = send(&app, search(1)).await.json();
    assert_eq!(one["results"].as_array().unwrap().len(), 1);
    assert_eq!(one["limited"], true);
}

#[actix_web::test]
async fn to_device_messages_reach_own_devices_and_other_servers() {
    let (fake, gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    let phone = logged_in(&gateway, "PHONE").await;
    let app = served(gateway).await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    let other = format!("@p2p:{}", other_server());
    let body = json!({"messages": {
        me["user_id"].as_str().unwrap(): {"*": {"n": 1}},
        other.clone(): {"X": {"n": 2}},
    }});
    for _ in 0..2 {
        let path = "/_matrix/client/v3/sendToDevice/m.test/txn1";
        let reply = send(&app, with(&token, put(path, &body))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let synced = send(&app, with(&phone, get("/_matrix/client/v3/sync"))).await.json();
    let events = synced["to_device"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "the transaction was sent twice: {events:?}");
    assert_eq!(events[0]["content"], json!({"n": 1}));
    assert_eq!(events[0]["sender"], me["user_id"]);
    let sent: Vec<_> =
        told(&fake).await.into_iter().filter(|line| line.starts_with("owe ")).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1], "known again by its message id");
    assert!(sent[0].contains(r#""edu_type":"m.direct_to_device""#), "{}", sent[0]);

    // What was synced is dropped once the next sync says that it arrived.
    let since = synced["next_batch"].as_str().unwrap();
    let again =
        send(&app, with(&phone, get(&format!("/_matrix/client/v3/sync?since={since}")))).await;
    assert_eq!(again.json()["to_device"]["events"], json!([]));
}

#[actix_web::test]
async fn sync_has_the_shape_of_the_spec() {
    let (app, _, token) = node().await;
    let body = send(&app, with(&token, get("/_matrix/client/v3/sync?timeout=30000"))).await.json();
    let room = &body["rooms"]["join"]["!r:x"];
    assert_eq!(room["timeline"]["prev_batch"], "t-3");
    assert_eq!(room["timeline"]["limited"], true);
    assert_eq!(room["timeline"]["events"][0]["content"], json!({"topic": "T"}));
    assert_eq!(room["timeline"]["events"][0].get("room_id"), None);
    assert_eq!(
        room["unread_notifications"],
        json!({"notification_count": 0, "highlight_count": 0})
    );
    assert_eq!(
        room["ephemeral"]["events"][0],
        json!({"type": "m.receipt", "content": {
            "$e": {"m.read": {"@a:x": {"ts": 9, "thread_id": "main"}}}
        }})
    );
    assert_eq!(body["account_data"]["events"][0]["type"], "m.push_rules");
    assert_eq!(body["device_lists"], json!({"changed": [], "left": []}));
    assert_eq!(body["device_one_time_keys_count"], json!({}));
    assert_eq!(body["presence"]["events"][0]["content"]["presence"], "online");
    let filter = "%7B%22presence%22%3A%7B%22not_types%22%3A%5B%22*%22%5D%7D%7D";
    let path = format!("/_matrix/client/v3/sync?filter={filter}");
    let body = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(body["presence"]["events"], json!([]));
    for bad in ["since=nonsense", "filter=nonsense"] {
        let reply = send(&app, with(&token, get(&format!("/_matrix/client/v3/sync?{bad}")))).await;
        assert_eq!(reply.errcode(), (400, "M_INVALID_PARAM".into()), "{bad}");
    }
}

#[actix_web::test]
async fn a_sync_waits_for_news_and_holds_no_place_while_it_does() {
    let (_, mut gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    gateway.admission = Admission::new(1);
    let app = served(gateway).await;
    let first = send(&app, with(&token, get("/_matrix/client/v3/sync"))).await.json();
    let since = first["next_batch"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=50");
    let quiet = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(quiet["next_batch"], since, "nothing happened");

    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=30000");
    let waiting = send(&app, with(&token, get(&path)));
    let acting = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await;
        assert_eq!(me.status, 200, "the sync that waits took the only place");
        let me = me.json();
        let me = me["user_id"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{}", "t");
        let body = json!({"messages": {me: {"D": {}}}});
        assert_eq!(send(&app, with(&token, put(&path, &body))).await.status, 200);
    };
    let both = futures::future::join(waiting, acting);
    let (woken, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    let woken = woken.json();
    assert_eq!(woken["to_device"]["events"][0]["type"], "m.test", "{woken}");
    assert_ne!(woken["next_batch"], since);
}

#[actix_web::test]
async fn a_token_of_another_start_begins_the_ephemeral_stream_anew() {
    let (app, _, token) = node().await;
    let first = send(&app, with(&token, get("/_matrix/client/v3/sync"))).await.json();
    let since = first["next_batch"].as_str().unwrap();
    assert!(since.ends_with("_7"), "{since}");
    let older = since.replace("_7", "_6");
    let path = format!("/_matrix/client/v3/sync?since={older}&timeout=20000");
    let body = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(body["presence"]["events"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn reading_and_typing_reach_the_room() {
    let (app, fake, token) = node().await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    let me = me["user_id"].as_str().unwrap();
    let room = "/_matrix/client/v3/rooms/!r:x";
    let markers = json!({"m.fully_read": "$a", "m.read": "$b", "m.read.private": "$c"});
    let reply = send(&app, with(&token, post(&format!("{room}/read_markers"), &markers))).await;
    assert_eq!(reply.status, 200);
    let path = format!("{room}/receipt/m.read/%24d");
    let reply = send(&app, with(&token, post(&path, &json!({"thread_id": "main"})))).await;
    assert_eq!(reply.status, 200);
    let body = json!({"typing": true, "timeout": 999_999_999});
    let reply = send(&app, with(&token, put(&format!("{room}/typing/{me}"), &body))).await;
    assert_eq!(reply.status, 200);
    let reply = send(&app, with(&token, put(&format!("{room}/typing/@a:x"), &body))).await;
    assert_eq!(reply.errcode(), (403, "M_FORBIDDEN".into()));
    let lines = told(&fake).await.join("\n");
    for needle in [
        r#"receipt_type: "m.read", event_id: "$b", thread_id: None"#,
        r#"receipt_type: "m.read.private", event_id: "$c""#,
        r#"event_id: "$d", thread_id: Some("main")"#,
        "timeout_ms: Some(120000)",
    ] {
        assert!(lines.contains(needle), "{needle}: {lines}");
    }
    let path = format!("/_matrix/client/v3/user/{me}/rooms/!r:x/account_data/m.fully_read");
    let fully = send(&app, with(&token, get(&path))).await.json();
    assert_eq!(fully, json!({"event_id": "$a"}));
}

/// JSON that is nested so deep.
fn nested(levels: usize) -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(levels - 1), "}".repeat(levels - 1))
}

fn raw(method: Method, path: &str, body: impl Into<Vec<u8>>) -> TestRequest {
    TestRequest::with_uri(path).method(method).set_payload(body.into())
}

#[actix_web::test]
async fn json_that_is_too_deep_or_no_object_is_refused_at_every_door() {
    let (app, _, token) = node().await;
    let p = "/_matrix/client/v3";
    let user = super::owner();
    let doors = [
        (Method::PUT, format!("{p}/rooms/!r:x/send/m.x/1")),
        (Method::PUT, format!("{p}/rooms/!r:x/state/m.x/")),
        (Method::PUT, format!("{p}/user/{user}/account_data/m.x")),
        (Method::PUT, format!("{p}/user/{user}/rooms/!r:x/account_data/m.x")),
        (Method::POST, format!("{p}/user/{user}/filter")),
        (Method::PUT, format!("{p}/sendToDevice/m.x/1")),
        (Method::PUT, format!("{p}/rooms/!r:x/typing/{user}")),
        (Method::PUT, format!("{p}/presence/{user}/status")),
        (Method::PUT, format!("{p}/profile/{user}/displayname")),
        (Method::PUT, format!("{p}/pushrules/global/override/x")),
        (Method::POST, format!("{p}/createRoom")),
        (Method::POST, format!("{p}/user_directory/search")),
        (Method::POST, format!("{p}/login")),
    ];
    let wrong: [(Vec<u8>, &str); 8] = [
        (nested(65).into(), "M_BAD_JSON"),
        (
            nested(100_000).into_bytes().into_iter().take(limits::CLIENT_BODY).collect(),
            "M_BAD_JSON",
        ),
        (b"[true,3000]".to_vec(), "M_BAD_JSON"),
        (b"{\"unread\":\"\xff\"}".to_vec(), "M_NOT_JSON"),
        (br#"{"a":"\ud800"}"#.to_vec(), "M_NOT_JSON"),
        (br#"{"a":1e400}"#.to_vec(), "M_NOT_JSON"),
        (br#"{"a":{"$serde_json::private::RawValue":"[[[]]]"}}"#.to_vec(), "M_BAD_JSON"),
        (b"{\"a\":".to_vec(), "M_NOT_JSON"),
    ];
    for (method, path) in doors {
        for (body, errcode) in &wrong {
            let shown: String = String::from_utf8_lossy(body).chars().take(40).collect();
            let request = with(&token, raw(method.clone(), &path, body.clone()));
            let reply = send(&app, request).await;
            assert_eq!(reply.errcode(), (400, (*errcode).into()), "{method} {path} {shown}");
        }
    }
}

#[actix_web::test]
async fn a_message_to_devices_is_checked_alike_for_whomever_it_is() {
    let (app, fake, token) = node().await;
    let user = super::owner();
    let other = format!("@p2p:{}", other_server());
    let mut number = 0;
    for to in [user.as_str(), &other] {
        for (content, good) in [
            (r#"{"a":9007199254740991}"#.to_owned(), true),
            (nested(60), true),
            (nested(61), false),
            (r#"{"a":9007199254740993}"#.to_owned(), false),
            (r#"{"a":0.5}"#.to_owned(), false),
            (r#"{"a":"\ud83d"}"#.to_owned(), false),
            ("5".to_owned(), false),
        ] {
            number += 1;
            let body = format!(r#"{{"messages":{{"{to}":{{"D":{content}}}}}}}"#);
            let path = format!("/_matrix/client/v3/sendToDevice/m.x/{number}");
            let reply = send(&app, with(&token, raw(Method::PUT, &path, body))).await;
            let shown: String = content.chars().take(40).collect();
            assert_eq!(reply.status, if good { 200 } else { 400 }, "{to} {shown}: {reply:?}");
        }
    }
    let told = told(&fake).await;
    assert_eq!(told.iter().filter(|told| told.contains("m.direct_to_device")).count(), 2);
}

#[actix_web::test]
async fn what_people_say_of_themselves_has_a_form() {
    let (app, _, token) = node().await;
    let user = super::owner();
    let long = "x".repeat(50_000);
    let presence = format!("presence/{user}/status");
    for (path, body, good) in [
        (&*presence, json!({"presence": "unavailable", "status_msg": "away"}), true),
        (&presence, json!({"presence": "asleep"}), false),
        (&presence, json!({"presence": long}), false),
        (&presence, json!({"presence": "online", "status_msg": long}), false),
        (&format!("profile/{user}/displayname"), json!({"displayname": "Zoë"}), true),
        (&format!("profile/{user}/displayname"), json!({"displayname": long}), false),
        (&format!("profile/{user}/displayname"), json!({"displayname": "a\u{202e}b"}), false),
        (&format!("profile/{user}/avatar_url"), json!({"avatar_url": "mxc://x/y"}), true),
        (&format!("profile/{user}/avatar_url"), json!({"avatar_url": ""}), true),
        (&format!("profile/{user}/avatar_url"), json!({"avatar_url": "http://x"}), false),
        (
            &format!("rooms/!r:x/state/m.room.member/{user}"),
            json!({"membership": "join", "avatar_url": "javascript:alert(1)"}),
            false,
        ),
    ] {
        let request = put(&format!("/_matrix/client/v3/{path}"), &body);
        let reply = send(&app, with(&token, request)).await;
        assert_eq!(reply.status, if good { 200 } else { 400 }, "{path} {body:.60}: {reply:?}");
    }
    let asleep = send(&app, with(&token, get("/_matrix/client/v3/sync?set_presence=asleep"))).await;
    assert_eq!(asleep.errcode(), (400, "M_INVALID_PARAM".into()));
}

/// What strangers send waits for a device that nobody uses any more, and for good.
#[actix_web::test]
async fn attack_13_to_device_messages_that_strangers_left_weeks_ago_keep_no_honest_one_out() {
    use crate::{
        actors::accounts::{AccountError, AccountsActor, ReceiveToDevice},
        proto::edu::ToDevice,
    };
    let (fake, gateway) = fake::start().await;
    super::logged_in(&gateway, "A").await;
    let user = super::owner();
    let receive = async |accounts: &actix::Addr<AccountsActor>, server: usize, id: usize| {
        let device = ("A".to_owned(), RawValue::from_string("{}".to_owned()).unwrap());
        let message = ToDevice {
            sender: format!("@eve:eve{server}").try_into().unwrap(),
            message_id: id.to_string(),
            kind: "m.dummy".to_owned(),
            messages: [(user.as_str().try_into().unwrap(), [device].into())].into(),
        };
        let origin = format!("eve{server}").try_into().unwrap();
        accounts.send(ReceiveToDevice { origin, messages: vec![message] }).await.unwrap()
    };
    for id in 0..limits::TO_DEVICE_STRANGERS {
        let taken = receive(&gateway.accounts, id / limits::TO_DEVICE_STRANGER, id).await;
        assert!(taken.is_ok(), "{id}: {taken:?}");
    }
    // What waits from an earlier start counts from the first message on.
    let again = fake::start_accounts(&fake).await;
    for accounts in [&gateway.accounts, &again] {
        let refused = receive(accounts, 99, 0).await;
        assert!(matches!(refused, Err(AccountError::Full(_))), "{refused:?}");
    }
    fake.send(fake::WeeksPass).await.unwrap();
    let later = fake::start_accounts(&fake).await;
    for id in 0..limits::TO_DEVICE_STRANGER {
        let taken = receive(&later, 99, id).await;
        assert!(taken.is_ok(), "{id}: {taken:?}");
    }
    assert!(
        receive(&later, 99, limits::TO_DEVICE_STRANGER).await.is_err(),
        "its own share is full"
    );
}

#[actix_web::test]
async fn a_handler_that_panics_answers() {
    use actix_web::{App, middleware::from_fn, web};
    let app = App::new()
        .app_data(web::Data::new(super::place()))
        .wrap(from_fn(super::guard))
        .route("/boom", web::get().to(async || -> &'static str { panic!("as if by a bug") }));
    let app = actix_web::test::init_service(app).await;
    let request = get("/boom").insert_header(("Host", super::HOST)).to_request();
    let error = actix_web::test::try_call_service(&app, request).await;
    let answer = error.map_or_else(|error| error.error_response(), |answer| answer.into());
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.headers().get("access-control-allow-origin").unwrap(), "*");
    let body = actix_web::body::to_bytes(answer.into_body()).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["errcode"], "M_UNKNOWN");
}

#[actix_web::test]
async fn what_is_not_there_is_neither_shown_nor_kept() {
    let (app, _, token) = node().await;
    let me = send(&app, with(&token, get("/_matrix/client/v3/account/whoami"))).await.json();
    let me = format!("user/{}", me["user_id"].as_str().unwrap());
    let filter = "%7B%22event_format%22%3A%22nonsense%22%7D";
    let none = Value::Null;
    for (path, body, expected) in [
        ("directory/list/room/!r:none", &none, (404, "M_NOT_FOUND")),
        ("rooms/!r:none/aliases", &none, (403, "M_FORBIDDEN")),
        ("rooms/!r:none/joined_members", &none, (403, "M_FORBIDDEN")),
        ("presence/@a:x/status", &none, (404, "M_NOT_FOUND")),
        ("profile/@a:example.org", &none, (404, "M_NOT_FOUND")),
        ("POST rooms/!r:none/read_markers", &json!({"m.fully_read": "$e"}), (403, "M_FORBIDDEN")),
        (&format!("PUT {me}/rooms/!r:none/account_data/m.x"), &json!({}), (403, "M_FORBIDDEN")),
        (&format!("PUT {me}/rooms/!r:none/tags/u.x"), &json!({}), (403, "M_FORBIDDEN")),
        ("rooms/!r:x/members?membership=nonsense", &none, (400, "M_INVALID_PARAM")),
        ("rooms/!r:x/members?not_membership=nonsense", &none, (400, "M_INVALID_PARAM")),
        ("rooms/!r:x/state/m.x/?format=nonsense", &none, (400, "M_INVALID_PARAM")),
        ("POST createRoom", &json!({"preset": "nonsense"}), (400, "M_INVALID_PARAM")),
        ("POST createRoom", &json!({"visibility": "nonsense"}), (400, "M_INVALID_PARAM")),
        ("sync?set_presence=asleep", &none, (400, "M_INVALID_PARAM")),
        (&format!("sync?filter={filter}"), &none, (400, "M_INVALID_PARAM")),
        (&format!("POST {me}/filter"), &json!({"event_format": "x"}), (400, "M_INVALID_PARAM")),
        ("POST rooms/!r:x/receipt/m.read/$e", &json!({"thread_id": ""}), (400, "M_INVALID_PARAM")),
        ("PUT rooms/!r:x/send/m.room.redaction/1", &json!({}), (400, "M_BAD_JSON")),
        ("POST publicRooms", &json!({"include_all_networks": 1}), (400, "M_BAD_JSON")),
    ] {
        let (method, path) = path.split_once(' ').unwrap_or(("GET", path));
        let path = format!("/_matrix/client/v3/{path}");
        let request = match method {
            "PUT" => put(&path, body),
            "POST" => post(&path, body),
            _ => get(&path),
        };
        let (status, errcode) = send(&app, with(&token, request)).await.errcode();
        assert_eq!((status, errcode.as_str()), expected, "{method} {path}");
    }
    for (path, body) in [
        (format!("rooms/!r:x/typing/{}", me.trim_start_matches("user/")), json!({"typing": true})),
        ("pushrules/global/override/always".to_owned(), json!({"actions": []})),
    ] {
        let request = put(&format!("/_matrix/client/v3/{path}"), &body);
        let reply = send(&app, with(&token, request)).await;
        assert_eq!(reply.status, 200, "what is optional may be left out: {path}: {reply:?}");
    }
}

#[actix_web::test]
async fn a_sync_has_the_state_and_the_form_that_were_asked_for() {
    let (app, _, token) = node().await;
    let room = async |query: &str| {
        let path = format!("/_matrix/client/v3/sync?{query}");
        let sync = send(&app, with(&token, get(&path))).await.json();
        sync["rooms"]["join"]["!r:x"].clone()
    };
    for (query, name) in [
        ("", "state"),
        ("use_state_after=true", "state_after"),
        ("org.matrix.msc4222.use_state_after=true", "org.matrix.msc4222.state_after"),
    ] {
        let shown = room(query).await;
        let names = ["state", "state_after", "org.matrix.msc4222.state_after"];
        for other in names {
            assert_eq!(shown[other].is_object(), other == name, "{query}: {other}");
        }
    }
    let only =
        room("filter=%7B%22event_fields%22%3A%5B%22type%22%2C%22content.topic%22%5D%7D").await;
    let event = &only["timeline"]["events"][0];
    assert_eq!(event["content"]["topic"], "T");
    assert!(event["unsigned"].is_null(), "nobody asked for it: {event}");
    let raw = room("filter=%7B%22event_format%22%3A%22federation%22%7D").await;
    assert_eq!(raw["timeline"]["events"][0]["event_id"], "$e");
}
