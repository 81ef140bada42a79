//! What somebody gets who asks for what is none of their business: attacks 12 and 16
//! of `docs/PROTOCOL.md` §9.

use super::{floods::Pen, member::Eve, *};

#[tokio::test]
async fn attack_12_media_are_no_other_servers_to_read() {
    let ann = home(&[]).await;
    let mut eve = Stranger::meet(&ann).await;
    eve.prove_itself().await;
    let server = ann.me.server_name();
    for uri in [
        "/_matrix/federation/v1/media/download/abc".to_owned(),
        "/_matrix/federation/v1/media/thumbnail/abc?width=1&height=1".to_owned(),
        format!("/_matrix/media/v3/download/{server}/abc"),
        format!("/_matrix/media/r0/thumbnail/{server}/abc"),
        format!("/_matrix/client/v1/media/download/{server}/abc"),
        "/_matrix/media/v3/config".to_owned(),
    ] {
        let (status, answer) = eve.request(&ann, "GET", &uri).await.expect("an answer");
        assert_eq!((status, &answer["errcode"]), (404, &json!("M_UNRECOGNIZED")), "{uri}");
    }
}

/// Who asks for a profile says who they are, and proves it.
#[tokio::test]
async fn attack_12_nobody_reads_a_profile_without_a_name() {
    let [mut ann, mut bob] = common::homes().await;
    ann.me.call_oneself("Ann").await;
    let mut eve = Stranger::meet(&ann).await;
    eve.prove_itself().await;
    let (request, good, _) = eve.signed(&ann, "GET", &profile_of(&ann));
    let signed: Value = serde_json::from_slice(&good).unwrap();
    let without = |key: &str| {
        let mut request = signed.clone();
        request.as_object_mut().unwrap().remove(key);
        serde_json::to_vec(&request).unwrap()
    };
    let in_the_name_of = |origin: &str| {
        let origin = ServerName::parse(origin).unwrap();
        let request = Request { origin, request_id: "other".to_owned(), ..request.clone() };
        request.sign(&eve.signer).unwrap().bytes
    };
    let anonymous = [
        ("bare", serde_json::to_vec(&request).unwrap()),
        ("without a signature", without("signatures")),
        ("without server_keys", without("server_keys")),
        ("without an origin", without("origin")),
        ("in Bob's name", in_the_name_of(bob.me.server_name())),
    ];
    for (what, bytes) in anonymous {
        assert_eq!(eve.ask(&FEDERATION, bytes).await, None, "{what} it was answered");
    }
    // Of people who share a room with us nobody is told by us.
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let (status, answer) = eve.request(&ann, "GET", &profile_of(&bob)).await.expect("an answer");
    assert_eq!(status, 404, "{answer}");

    let (status, answer) = eve.request(&ann, "GET", &profile_of(&ann)).await.expect("an answer");
    assert_eq!(
        (status, &answer["displayname"]),
        (200, &json!("Ann")),
        "the name they are found by"
    );
    let told: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(told, ["displayname"], "and nothing that was not set");
}

/// What a room is called, and who may come in, is shown by what the room says of itself.
#[tokio::test]
async fn attack_12_rooms_show_themselves_to_whom_they_let_in() {
    let ann = home(&[]).await;
    let space = json!({
        "preset": "public_chat", "visibility": "public", "name": "Open space",
        "creation_content": {"type": "m.space"}, "room_alias_name": "open",
    });
    let space = ann.me.create(space).await;
    let secret =
        json!({"preset": "private_chat", "name": "Secret garden", "room_alias_name": "secret"});
    let secret = ann.me.create(secret).await;
    let via = json!({"via": [ann.me.server_name()]});
    ann.me.set_state(&space, "m.space.child", &secret, via).await.ok();
    let mut eve = Eve::meet(&ann).await;
    let of = |room: &str| format!("/_matrix/federation/v1/hierarchy/{}", client::segment(room));
    let (status, answer) = eve.ask(&ann, "GET", &of(&space), json!({})).await;
    assert_eq!((status, &answer["room"]["name"]), (200, &json!("Open space")), "{answer}");
    assert_eq!(answer["children"], json!([]));
    assert_eq!(answer["inaccessible_children"], json!([secret]));
    for nothing in [&secret, "!nothing:x"] {
        let (status, answer) = eve.ask(&ann, "GET", &of(nothing), json!({})).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (404, &json!("M_NOT_FOUND")),
            "{nothing}: {answer}"
        );
    }
    let listed = "/_matrix/federation/v1/publicRooms";
    for method in ["GET", "POST"] {
        let (_, answer) = eve.ask(&ann, method, listed, json!({})).await;
        let rooms: Vec<&Value> = answer["chunk"].as_array().unwrap().iter().collect();
        assert_eq!((rooms.len(), &rooms[0]["room_id"]), (1, &json!(space)), "{method}: {answer}");
    }
}

/// Keys of devices are for servers that have to do with their user.
#[tokio::test]
async fn attack_16_one_time_keys_are_for_who_shares_a_room() {
    let ann = home(&[]).await;
    let public = "A".repeat(43);
    let master = json!({
        "user_id": ann.me.user_id, "usage": ["master"],
        "keys": {format!("ed25519:{public}"): public},
    });
    ann.me.post("v3/keys/device_signing/upload", json!({"master_key": master})).await.ok();
    let fallback = json!({"curve25519:again": public});
    let one_time = json!({"one_time_keys": {"curve25519:once": public}, "fallback_keys": fallback});
    ann.me.post("v3/keys/upload", one_time).await.ok();
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    let user = ann.me.user_id.clone();
    let devices = format!("/_matrix/federation/v1/user/devices/{}", client::segment(&user));
    let query = json!({"device_keys": {&user: []}});
    let claim = json!({"one_time_keys": {&user: {&ann.me.device_id: "curve25519"}}});
    for shares_a_room in [false, true] {
        let (status, answer) = eve.ask(&ann, "GET", &devices, json!({})).await;
        assert_eq!(status, 200, "who invites has to know for which devices to encrypt: {answer}");
        let uri = "/_matrix/federation/v1/user/keys/query";
        let (_, answer) = eve.ask(&ann, "POST", uri, query.clone()).await;
        assert!(answer["master_keys"][&user].is_object(), "{answer}");
        let uri = "/_matrix/federation/v1/user/keys/claim";
        let (_, answer) = eve.ask(&ann, "POST", uri, claim.clone()).await;
        let given = &answer["one_time_keys"][&user][&ann.me.device_id];
        let key = if shares_a_room { "curve25519:once" } else { "curve25519:again" };
        assert!(given.get(key).is_some(), "{answer}");
        if !shares_a_room {
            Pen::new(&mut eve, &ann, &room).await;
        }
    }
}

/// One server gets a share of the one-time keys of a device, and the fallback key beyond it.
#[tokio::test]
async fn attack_16_one_server_does_not_take_all_one_time_keys() {
    let ann = home(&[]).await;
    let key = |n: usize| format!("{n:A>43}");
    let one_time = (0..60).map(|n| (format!("curve25519:one{n}"), json!(key(n))));
    let one_time: serde_json::Map<String, Value> = one_time.collect();
    let fallback = json!({"curve25519:again": key(99)});
    let keys = json!({"one_time_keys": one_time, "fallback_keys": fallback});
    ann.me.post("v3/keys/upload", keys).await.ok();
    let public = "A".repeat(43);
    let master = json!({
        "user_id": ann.me.user_id, "usage": ["master"],
        "keys": {format!("ed25519:{public}"): public},
    });
    ann.me.post("v3/keys/device_signing/upload", json!({"master_key": master})).await.ok();
    let room = ann.me.create(json!({"preset": "public_chat"})).await;
    let mut eve = Eve::meet(&ann).await;
    Pen::new(&mut eve, &ann, &room).await;
    let user = ann.me.user_id.clone();
    let claim = json!({"one_time_keys": {&user: {&ann.me.device_id: "curve25519"}}});
    let mut given = Vec::new();
    for _ in 0..45 {
        let uri = "/_matrix/federation/v1/user/keys/claim";
        let (status, answer) = eve.ask(&ann, "POST", uri, claim.clone()).await;
        let keys = &answer["one_time_keys"][&user][&ann.me.device_id];
        let id = keys.as_object().unwrap_or_else(|| panic!("{status} {answer}")).keys().next();
        given.push(id.unwrap().clone());
    }
    let again = given.iter().filter(|id| *id == "curve25519:again").count();
    assert_eq!(again, 5, "{given:?}");
    let counts = ann.me.post("v3/keys/upload", json!({})).await.ok();
    assert_eq!(counts["one_time_key_counts"]["curve25519"], 20, "{counts}");
}
