//! Servers that lie about keys of devices, and messages to devices that are said again: attacks 9 and 16 of
//! `docs/PROTOCOL.md` §9.

#![allow(clippy::indexing_slicing, reason = "a failed test may panic")]

use messagehub::proto::{endpoint::Endpoint, key_bundle::KeyBundle};
use ruma::UserId;

use super::{common::device::Device, floods::Pen, member::Eve, *};

/// How long a client waits for keys, in milliseconds.
const WAIT_MS: u64 = 3000;

async fn query(me: &Client, of: &str) -> Value {
    let asked = json!({"device_keys": {of: []}, "timeout": WAIT_MS});
    me.post("v3/keys/query", asked).await.ok()
}

fn devices_of(user_id: &str) -> String {
    Endpoint::user_devices(&UserId::parse(user_id).unwrap()).uri
}

fn bundles_of(user_id: &str) -> String {
    let user_id = UserId::parse(user_id).unwrap();
    Endpoint::key_bundles(user_id.server_name(), Some(&user_id)).uri
}

fn send(eve: &Eve, edus: &[Value]) -> Value {
    let origin = eve.node.signer.server_name().clone();
    json!({"origin": origin, "origin_server_ts": now_ms(), "pdus": [], "edus": edus})
}

fn to_device(sender: &str, to: &str, message_id: &str, number: usize) -> Value {
    json!({"edu_type": "m.direct_to_device", "content": {
        "sender": sender, "type": "org.example.secret", "message_id": message_id,
        "messages": {to: {"*": {"number": number}}},
    }})
}

/// Returns the numbers that came to a device.
async fn heard(me: &mut Client) -> Vec<u64> {
    let news = me.sync(Duration::ZERO).await;
    let events = news["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["number"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn attack_16_a_server_says_keys_of_its_own_users_alone_and_signed_ones() {
    let bob = home(&[]).await;
    let own = Device::publish(&bob.me, 1).await;
    let room = bob.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&bob).await;
    Pen::new(&mut eve, &bob, &room).await;
    let (me, bobs) = (eve.user_id(), bob.me.user_id.clone());
    let (good, other) = (Device::new(&me, "GOOD"), Device::new(&me, "OTHER"));
    let mut changed = good.keys();
    changed["algorithms"] = json!([]);
    let lie = json!({
        "user_id": me, "stream_id": 1,
        "devices": [
            {"device_id": "GOOD", "keys": good.keys()},
            {"device_id": "OTHER", "keys": good.keys()},
            {"device_id": own.device_id, "keys": own.keys()},
            {"device_id": "CHANGED", "keys": changed},
        ],
        "master_key": {"user_id": bobs, "usage": ["master"], "keys": {"ed25519:A": "A"}},
    });
    // One-time keys: of a device that is not asked for, signed by another device, and of Bob.
    let claimed = json!({"one_time_keys": {
        &me: {"GOOD": {"signed_curve25519:A": other.one_time("A")}, "OTHER": {"signed_curve25519:A": other.one_time("A")}},
        &bobs: {&own.device_id: {"signed_curve25519:A": good.one_time("A")}},
    }});
    let whose = json!({"user_id": bobs, "stream_id": 9, "devices": [{"device_id": "GOOD", "keys": good.keys()}]});
    let uri = devices_of(&me);
    let asked = uri.clone();
    eve.serve = Box::new(move |request| (request.uri == asked).then(|| (200, whose.clone())));
    let found = eve.during(query(&bob.me, &me)).await;
    let devices = &found["device_keys"][&me];
    assert!(devices.as_object().is_none_or(|all| all.is_empty()), "of another user: {found}");
    assert!(eve.told.iter().any(|request| request.uri == uri), "she was asked");

    eve.serve = Box::new(move |request| {
        let is_claim = request.uri.ends_with("/keys/claim");
        let content = if request.uri == uri { &lie } else { &claimed };
        (request.uri == uri || is_claim).then(|| (200, content.clone()))
    });
    let found = eve.during(query(&bob.me, &me)).await;
    let devices = found["device_keys"][&me].as_object().unwrap();
    assert_eq!(devices.keys().collect::<Vec<_>>(), ["GOOD"], "{found}");
    assert_eq!(devices["GOOD"], good.keys());
    assert!(found["master_keys"].get(&me).is_none(), "{found}");
    let wanted = json!({&me: {"GOOD": "signed_curve25519"}});
    let claim = bob.me.post("v3/keys/claim", json!({"one_time_keys": wanted}));
    let given = eve.during(claim).await.ok();
    let keys = given["one_time_keys"].to_string();
    assert!(!keys.contains("signed_curve25519"), "not its device's: {given}");
    assert!(eve.told.iter().any(|request| request.uri.ends_with("/keys/claim")), "she was asked");
    // And says that Bob's keys are others.
    let master = json!({"user_id": bobs, "usage": ["master"], "keys": {"ed25519:A": "A"}});
    let edus = [
        json!({"edu_type": "m.device_list_update", "content": {
            "user_id": bobs, "device_id": "GOOD", "stream_id": 1u64 << 52, "prev_id": [], "keys": good.keys(),
        }}),
        json!({"edu_type": "m.signing_key_update", "content": {"user_id": bobs, "master_key": master}}),
        json!({"edu_type": "m.device_list_update", "content": {
            "user_id": bobs, "device_id": own.device_id, "stream_id": 1u64 << 52, "prev_id": [], "deleted": true,
        }}),
    ];
    let transaction = send(&eve, &edus);
    let (status, answer) =
        eve.ask(&bob, "PUT", "/_matrix/federation/v1/send/bobs", transaction).await;
    assert_eq!(status, 200, "{answer}");
    let found = query(&bob.me, &bobs).await;
    let mut shown = found["device_keys"][&bobs].clone();
    shown[&own.device_id].as_object_mut().unwrap().remove("unsigned");
    assert_eq!(shown, json!({&own.device_id: own.keys()}), "{found}");
    assert!(found["master_keys"].get(&bobs).is_none(), "{found}");
}

#[tokio::test]
async fn attack_16_a_liar_hands_on_no_keys_of_others() {
    let mut ann = home(&[]).await;
    let mut bob = home(&[&ann.node]).await;
    bob.node.connected_to(&ann.me).await;
    let body = json!({"preset": "public_chat", "invite": [ann.me.user_id]});
    let room = bob.me.create(body).await;
    ann.me.is(&room, "invite").await;
    ann.me.join(&room).await.ok();
    bob.me.sees_member(&room, &ann.me.user_id, "join").await;
    let keys = fresh_keys();
    let mut eve = Eve::with_keys(&bob, &keys).await;
    Pen::new(&mut eve, &bob, &room).await;
    let me = eve.user_id();
    eve.during(ann.me.sees_member(&room, &me, "join")).await;
    // Ann publishes keys, of which Bob hears nothing.
    bob.node.freeze(true);
    let device = Device::publish(&ann.me, 3).await;
    let name = format!("v3/devices/{}", ann.me.device_id);
    ann.me.put(&name, json!({"display_name": "a secret name"})).await.ok();
    // Another node of Eve's asks Ann.
    let another = SecretKeys { identity: keys.identity, ..fresh_keys() };
    let mut node = Eve::with_keys(&ann, &another).await;
    let uri = bundles_of(&ann.me.user_id);
    let (status, told) = node.ask(&ann, "GET", &uri, json!({})).await;
    assert_eq!(status, 200, "{told}");
    let truth = told["bundles"][0].clone();
    assert_eq!(truth["devices"][&device.device_id]["device_keys"], device.keys());
    let text = truth.to_string();
    assert!(!text.contains("once") && !text.contains("secret name"), "{text}");
    ann.node.kill();
    bob.node.freeze(false);

    let signer = &eve.node.signer;
    let theirs: CanonicalJsonObject = serde_json::from_value(truth.clone()).unwrap();
    let by_eve = |keys: &CanonicalJsonObject| {
        let mut forged = theirs.clone();
        forged.remove("signatures");
        forged.insert("server_keys".into(), CanonicalJsonValue::Object(keys.clone()));
        signer.sign_json(&mut forged).unwrap();
        serde_json::to_value(forged).unwrap()
    };
    let with = |name: &str, value: Value| {
        let mut changed = truth.clone();
        changed[name] = value;
        changed
    };
    let own = KeyBundle {
        user_id: UserId::parse(&me).unwrap(),
        issued_ts: now_ms(),
        stream_id: 1,
        devices: [].into(),
        master_key: None,
        self_signing_key: None,
    };
    let of_ann = truth["server_keys"].clone();
    let forged = [
        by_eve(signer.server_keys()),
        by_eve(&serde_json::from_value(of_ann).unwrap()),
        serde_json::to_value(own.sign(signer).unwrap()).unwrap(),
        with("issued_ts", json!(now_ms())),
        with(
            "devices",
            json!({"EVE": {"device_keys": Device::new(&ann.me.user_id, "EVE").keys()}}),
        ),
        with("extra", json!("x".repeat(2_000_000))),
        json!("no bundle"),
    ];
    for (number, bundle) in forged.into_iter().enumerate() {
        let (asked, answer) = (uri.clone(), json!({"bundles": [bundle]}));
        eve.serve = Box::new(move |request| (request.uri == asked).then(|| (200, answer.clone())));
        let found = eve.during(query(&bob.me, &ann.me.user_id)).await;
        let devices = &found["device_keys"][&ann.me.user_id];
        assert!(devices.as_object().is_none_or(|all| all.is_empty()), "forgery {number}: {found}");
        assert!(found["failures"].get(ann.me.server_name()).is_some(), "{number}: {found}");
        let times = eve.told.iter().filter(|request| request.uri == uri).count();
        assert!(times > number, "Eve was asked for it");
    }
    // What is true counts, though it is a liar who hands it on.
    let (asked, answer) = (uri.clone(), json!({"bundles": [truth]}));
    eve.serve = Box::new(move |request| (request.uri == asked).then(|| (200, answer.clone())));
    let found = eve.during(query(&bob.me, &ann.me.user_id)).await;
    assert_eq!(found["device_keys"][&ann.me.user_id][&device.device_id], device.keys());
}

#[tokio::test]
async fn attack_16_names_of_devices_and_bundles_are_for_who_shares_a_room() {
    let ann = home(&[]).await;
    let device = Device::publish(&ann.me, 2).await;
    let path = format!("v3/devices/{}", ann.me.device_id);
    ann.me.put(&path, json!({"display_name": "Ann's phone"})).await.ok();
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let user = ann.me.user_id.clone();
    let wanted = json!({"device_keys": {&user: []}});
    for shares_a_room in [false, true] {
        if shares_a_room {
            Pen::new(&mut eve, &ann, &room).await;
        }
        let (status, listed) = eve.ask(&ann, "GET", &devices_of(&user), json!({})).await;
        assert_eq!(status, 200, "{listed}");
        assert_eq!(listed["devices"][0]["keys"], device.keys());
        let uri = "/_matrix/federation/v1/user/keys/query";
        let (_, queried) = eve.ask(&ann, "POST", uri, wanted.clone()).await;
        assert!(queried["device_keys"][&user][&device.device_id].is_object(), "{queried}");
        let (status, bundles) = eve.ask(&ann, "GET", &bundles_of(&user), json!({})).await;
        assert_eq!(status, if shares_a_room { 200 } else { 404 }, "{bundles}");
        for answer in [&listed, &queried] {
            let is_named = answer.to_string().contains("Ann's phone");
            assert_eq!(is_named, shares_a_room, "{answer}");
        }
        assert!(!bundles.to_string().contains("Ann's phone"), "{bundles}");
        let fallback = listed.to_string().contains("signed_curve25519:again");
        assert_eq!(fallback, shares_a_room, "{listed}");
    }
}

#[tokio::test]
async fn attack_09_a_message_to_devices_counts_once_and_from_its_senders_server() {
    let mut ann = home(&[]).await;
    let keys = fresh_keys();
    let mut eve = Eve::with_keys(&ann, &keys).await;
    let (me, user) = (eve.user_id(), ann.me.user_id.clone());
    let message = send(&eve, &[to_device(&me, &user, "one", 1)]);
    let sign = |ann: &Home, eve: &Eve, uri: &str, age_ms: u64| {
        let (mut request, ..) = eve.node.signed(ann, "PUT", uri);
        request.content = serde_json::from_value(message.clone()).unwrap();
        request.origin_server_ts -= age_ms;
        request.sign(&eve.node.signer).unwrap().bytes
    };
    let uri = |number: usize| format!("/_matrix/federation/v1/send/{number}");
    let first = sign(&ann, &eve, &uri(1), 0);
    eve.node.ask(&FEDERATION, first.clone()).await.expect("an answer");
    // The very same request, and the same message in a new one.
    eve.node.ask(&FEDERATION, first.clone()).await.expect("the old answer");
    let (status, answer) = eve.ask(&ann, "PUT", &uri(2), message.clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(heard(&mut ann.me).await, [1]);
    // After it was delivered, acknowledged and forgotten, and after a crash.
    assert_eq!(heard(&mut ann.me).await, [] as [u64; 0]);
    ann.node.kill();
    ann.node.start_again().await;
    let mut eve = Eve::with_keys(&ann, &keys).await;
    let old = sign(&ann, &eve, &uri(3), 6 * 60 * 1000);
    assert_eq!(eve.node.ask(&FEDERATION, old).await, None, "signed 6 minutes ago");
    let (status, answer) = eve.ask(&ann, "PUT", &uri(4), message.clone()).await;
    assert_eq!(status, 200, "{answer}");
    // In the name of Ann, and of somebody whose server is another.
    let other = format!("@p2p:{}", fresh_keys().server_name());
    let spoofed = [to_device(&user, &user, "two", 2), to_device(&other, &user, "three", 3)];
    let transaction = send(&eve, &spoofed);
    let (status, answer) = eve.ask(&ann, "PUT", &uri(5), transaction).await;
    assert_eq!(status, 200, "{answer}");
    // The id counts for its sender: another message is another one.
    let next = send(&eve, &[to_device(&me, &user, "four", 4)]);
    eve.ask(&ann, "PUT", &uri(6), next).await;
    assert_eq!(heard(&mut ann.me).await, [4]);
}
