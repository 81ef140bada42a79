//! Keys for end-to-end encryption, as clients publish and ask for them, and backups of room keys.

use serde_json::{Value, json};

use super::{
    Homeserver, Reply,
    fake::{self, Told, other_server},
    get, logged_in, owner, post, put, send, served, with,
};
use crate::{
    http::tests::fake::Fake,
    proto::device_keys::tests::{cross, device, one_time, sign, signing_key},
};

struct Client {
    app: Homeserver,
    token: String,
    fake: actix::Addr<Fake>,
}

impl Client {
    async fn post(&self, path: &str, body: &Value) -> Reply {
        let request = post(&format!("/_matrix/client/v3/{path}"), body);
        send(&self.app, with(&self.token, request)).await
    }

    async fn put(&self, path: &str, body: &Value) -> Reply {
        let request = put(&format!("/_matrix/client/v3/{path}"), body);
        send(&self.app, with(&self.token, request)).await
    }

    async fn get(&self, path: &str) -> Reply {
        send(&self.app, with(&self.token, get(&format!("/_matrix/client/v3/{path}")))).await
    }

    async fn delete(&self, path: &str) -> Reply {
        let request = actix_web::test::TestRequest::delete();
        let request = request.uri(&format!("/_matrix/client/v3/{path}"));
        send(&self.app, with(&self.token, request)).await
    }

    async fn told(&self, what: &str) -> usize {
        let told = self.fake.send(Told).await.unwrap();
        told.iter().filter(|told| told.contains(what)).count()
    }
}

async fn client() -> Client {
    let (fake, gateway) = fake::start().await;
    let token = logged_in(&gateway, "D").await;
    Client { app: served(gateway).await, token, fake }
}

fn one_time_keys(from: u32, to: u32) -> Value {
    let key = |n: u32| {
        (format!("signed_curve25519:{n:03}"), json!(one_time(&owner(), "D", 1, &format!("k{n}"))))
    };
    (from..to).map(key).collect::<serde_json::Map<_, _>>().into()
}

#[actix_web::test]
async fn a_device_publishes_keys_and_others_are_told() {
    let me = client().await;
    let keys = device(&owner(), "D", 1);
    let body = json!({
        "device_keys": keys, "one_time_keys": one_time_keys(0, 5),
        "fallback_keys": one_time_keys(9, 10),
    });
    let uploaded = me.post("keys/upload", &body).await;
    assert_eq!(uploaded.json()["one_time_key_counts"], json!({"signed_curve25519": 5}));
    assert_eq!(me.told("m.device_list_update").await, 1);
    let again = me.post("keys/upload", &body).await;
    assert_eq!(again.json()["one_time_key_counts"]["signed_curve25519"], 5, "said twice");
    let sync = me.get("sync").await.json();
    assert_eq!(sync["device_one_time_keys_count"], json!({"signed_curve25519": 5}));
    assert_eq!(sync["device_unused_fallback_key_types"], json!(["signed_curve25519"]));

    let ask = json!({"device_keys": {owner(): []}});
    let found = me.post("keys/query", &ask).await.json();
    assert_eq!(found["device_keys"][owner().as_str()]["D"], json!(keys));
    assert_eq!(found["failures"], json!({}));
    me.put("devices/D", &json!({"display_name": "desk"})).await;
    let found = me.post("keys/query", &ask).await.json();
    let shown = &found["device_keys"][owner().as_str()]["D"]["unsigned"];
    assert_eq!(shown["device_display_name"], "desk");

    let claim = json!({"one_time_keys": {owner(): {"D": "signed_curve25519"}}});
    for n in [0, 1, 2, 3, 4, 9, 9] {
        let claimed = me.post("keys/claim", &claim).await.json();
        let key = &claimed["one_time_keys"][owner().as_str()]["D"];
        assert_eq!(*key, one_time_keys(n, n + 1), "the oldest first, then the fallback key");
    }
    let sync = me.get("sync").await.json();
    assert_eq!(sync["device_one_time_keys_count"], json!({"signed_curve25519": 0}));
    assert_eq!(sync["device_unused_fallback_key_types"], json!([]));

    for (bad, errcode) in [
        (json!({"device_keys": device(&owner(), "E", 1)}), "M_INVALID_PARAM"),
        (json!({"device_keys": device(ruma::user_id!("@eve:x"), "D", 1)}), "M_INVALID_PARAM"),
        (json!({"device_keys": 5}), "M_BAD_JSON"),
        (json!({"one_time_keys": {"signed_curve25519:a": {"key": 0.5}}}), "M_BAD_JSON"),
        (json!({"one_time_keys": {"signed_curve25519:a": {}}}), "M_INVALID_PARAM"),
    ] {
        let refused = me.post("keys/upload", &bad).await;
        assert_eq!(refused.errcode(), (400, errcode.to_owned()), "{bad}");
    }
    let changes = me.get("keys/changes?from=s1_0_0&to=s2_0_0").await.json();
    assert_eq!(changes, json!({"changed": ["@a:x"], "left": []}));
}

#[actix_web::test]
async fn who_cannot_be_asked_is_named() {
    let me = client().await;
    let user = format!("@bob:{}", other_server());
    let found = me.post("keys/query", &json!({"device_keys": {&user: []}, "timeout": 1000})).await;
    let found = found.json();
    assert!(found["failures"][other_server().as_str()].is_object(), "{found}");
    assert_eq!(found["device_keys"], json!({}));
    assert_eq!(me.told("/_matrix/federation/v1/user/devices/").await, 1);
    let claim = json!({"one_time_keys": {&user: {"E": "signed_curve25519"}}});
    let claimed = me.post("keys/claim", &claim).await.json();
    assert!(claimed["failures"][other_server().as_str()].is_object(), "{claimed}");
    let odd = me.post("keys/query", &json!({"device_keys": {"@a:example.org": []}})).await.json();
    assert!(odd["failures"]["example.org"].is_object(), "no server of this network: {odd}");
}

#[actix_web::test]
async fn cross_signing_keys_are_taken_once_and_signatures_where_they_are_right() {
    let me = client().await;
    let owner = owner();
    let keys = |n: u8| {
        json!({
            "master_key": cross(&owner, "master", n, None),
            "self_signing_key": cross(&owner, "self_signing", n + 1, Some(n)),
            "user_signing_key": cross(&owner, "user_signing", n + 2, Some(n)),
        })
    };
    me.post("keys/upload", &json!({"device_keys": device(&owner, "D", 1)})).await;
    assert_eq!(me.post("keys/device_signing/upload", &json!({})).await.status, 200, "a probe");
    assert_eq!(me.post("keys/device_signing/upload", &keys(10)).await.status, 200);
    assert_eq!(me.post("keys/device_signing/upload", &keys(10)).await.status, 200, "the same");
    assert_eq!(me.told("m.signing_key_update").await, 1);
    let other = me.post("keys/device_signing/upload", &keys(20)).await;
    assert_eq!(other.status, 401);
    assert_eq!(other.json()["flows"], json!([{"stages": ["m.login.sso"]}]));

    let mut signed = device(&owner, "D", 1);
    sign(&mut signed, &owner, &signing_key(11, None));
    let mut forged = device(&owner, "D", 1);
    sign(&mut forged, &owner, &signing_key(12, None));
    let answer = me.post("keys/signatures/upload", &json!({&owner: {"D": forged}})).await.json();
    let failure = &answer["failures"][owner.as_str()]["D"];
    assert_eq!(failure["errcode"], "M_INVALID_SIGNATURE");
    let answer = me.post("keys/signatures/upload", &json!({&owner: {"D": signed}})).await.json();
    assert_eq!(answer, json!({"failures": {}}));
    let found = me.post("keys/query", &json!({"device_keys": {&owner: []}})).await.json();
    assert_eq!(found["device_keys"][owner.as_str()]["D"], json!(signed));
    for name in ["master_keys", "self_signing_keys", "user_signing_keys"] {
        assert!(found[name][owner.as_str()].is_object(), "{name}");
    }
    // The end of the device is the end of its keys.
    assert_eq!(me.post("logout", &json!({})).await.status, 200);
    assert_eq!(me.told("\"deleted\":true").await, 1);
}

#[actix_web::test]
async fn a_backup_counts_what_is_in_it_and_is_kept_by_version() {
    let me = client().await;
    assert_eq!(me.get("room_keys/version").await.errcode(), (404, "M_NOT_FOUND".into()));
    let algorithm = "m.megolm_backup.v1.curve25519-aes-sha2";
    let described = |key: &str| json!({"algorithm": algorithm, "auth_data": {"public_key": key, "signatures": {}}});
    let made = me.post("room_keys/version", &described("AAAA")).await.json();
    assert_eq!(made, json!({"version": "1"}));
    let key = |index: u64| {
        json!({
            "first_message_index": index, "forwarded_count": 0, "is_verified": false,
            "session_data": {"ciphertext": "AA", "ephemeral": "AA", "mac": "AA"},
        })
    };
    let put = async |path: &str, body: Value| {
        let answer = me.put(&format!("room_keys/keys{path}"), &body).await.json();
        (answer["count"].as_u64(), answer["etag"].as_str().map(ToOwned::to_owned))
    };
    let rooms = json!({"rooms": {"!r:x": {"sessions": {"a": key(5), "b": key(5)}}}});
    let first = put("?version=1", rooms.clone()).await;
    assert_eq!(first.0, Some(2));
    assert_eq!(put("?version=1", rooms).await, first, "nothing is new");
    let better = put("/!r:x/a?version=1", key(3)).await;
    assert_eq!(better.0, Some(2));
    assert_ne!(better.1, first.1);
    assert_eq!(put("/!r:x/a?version=1", key(4)).await, better, "the better one stays");
    let third = put("/!s:x?version=1", json!({"sessions": {"c": key(0)}})).await;
    assert_eq!(third.0, Some(3));
    let info = me.get("room_keys/version").await.json();
    assert_eq!((info["count"].as_u64(), info["version"].as_str()), (Some(3), Some("1")));
    assert_eq!(me.get("room_keys/keys/!r:x/a?version=1").await.json(), key(3));
    let all = me.get("room_keys/keys?version=1").await.json();
    assert_eq!(all["rooms"]["!r:x"]["sessions"].as_object().unwrap().len(), 2);
    assert_eq!(all["rooms"]["!s:x"]["sessions"]["c"], key(0));
    let of_room = me.get("room_keys/keys/!s:x?version=1").await.json();
    assert_eq!(of_room, json!({"sessions": {"c": key(0)}}));
    let none = me.get("room_keys/keys/!none:x?version=1").await.json();
    assert_eq!(none, json!({"sessions": {}}));
    let none = me.get("room_keys/keys/!r:x/none?version=1").await;
    assert_eq!(none.errcode(), (404, "M_NOT_FOUND".into()));

    let made = me.post("room_keys/version", &described("BBBB")).await.json();
    assert_eq!(made, json!({"version": "2"}));
    let old = me.put("room_keys/keys/!r:x/a?version=1", &key(0)).await;
    assert_eq!(old.errcode(), (403, "M_WRONG_ROOM_KEYS_VERSION".into()));
    assert_eq!(old.json()["current_version"], "2");
    assert_eq!(me.get("room_keys/version/1").await.json()["count"], 3);
    let changed = me.put("room_keys/version/2", &described("CCCC")).await;
    assert_eq!(changed.status, 200);
    assert_eq!(me.get("room_keys/version/2").await.json()["auth_data"]["public_key"], "CCCC");
    let other = json!({"algorithm": "m.other", "auth_data": {}});
    assert_eq!(me.put("room_keys/version/2", &other).await.status, 400);

    let left = me.delete("room_keys/keys/!r:x/b?version=1").await.json();
    assert_eq!(left["count"], 2);
    assert_eq!(me.delete("room_keys/keys?version=1").await.json()["count"], 0);
    assert_eq!(me.delete("room_keys/version/2").await.status, 200);
    assert_eq!(me.get("room_keys/version").await.json()["version"], "1");
    assert_eq!(me.get("room_keys/version/2").await.status, 404);
    let made = me.post("room_keys/version", &described("DDDD")).await.json();
    assert_eq!(made, json!({"version": "3"}), "a version is used once");
}
