//! Fuzz targets: what is read of strangers before anything is known of it (`src/fuzz.rs`).

use std::collections::HashMap;

use ruma::{
    CanonicalJsonObject, OwnedRoomId, RoomId, RoomVersionId, room_version_rules::RoomVersionRules,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    certificates::Certificates,
    client_event::{self, Unsigned},
    endpoint,
    pdu::{self, Received},
    rendezvous::SearchTerm,
    room_key::{RoomKey, Secret},
    sealed::{self, AnswerOpener, Parcel, Piece},
    server_keys::{VerifiedServerKeys, tests::secret_keys},
    server_name,
    signed::{Answer, Request},
    signer::Signer,
    stream::{SyncToken, TimelineToken},
};
use crate::fuzz;

const NOW: u64 = 1_790_000_000_000;
const EXPIRES: u64 = NOW + 60_000;

fn signer(seed: u8) -> Signer {
    Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap()
}

fn said<T>(result: Result<T, impl std::fmt::Display>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "good".to_owned())
}

fn room_id() -> OwnedRoomId {
    OwnedRoomId::try_from(format!("!room:{}", signer(1).server_name())).unwrap()
}

/// Events as a member could compose them, before hash and signature.
fn events() -> Vec<Value> {
    let (ann, bob) = (signer(1), signer(2));
    let event = |kind: &str, state_key: Option<&str>, content: Value| {
        let mut event = json!({
            "type": kind,
            "room_id": room_id(),
            "sender": ann.user_id(),
            "origin_server_ts": NOW,
            "depth": 3,
            "prev_events": ["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
            "auth_events": ["$bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],
            "content": content,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        event
    };
    let (ann, bob) = (ann.user_id().as_str(), bob.user_id().as_str());
    let restricted = json!({"membership": "join", "join_authorised_via_users_server": bob});
    let invite = json!({
        "membership": "invite",
        "third_party_invite": {"signed": {"mxid": bob, "token": "t", "signatures": {}}},
    });
    vec![
        event("m.room.message", None, json!({"msgtype": "m.text", "body": "hi"})),
        event("m.room.member", Some(ann), json!({"membership": "join", "displayname": "Ann"})),
        event("m.room.member", Some(ann), restricted),
        event("m.room.member", Some(bob), invite),
        event("m.room.power_levels", Some(""), json!({"users": {ann: 100}, "events": {"x": 50}})),
        event("m.room.join_rules", Some(""), json!({"join_rule": "public"})),
        event("m.room.redaction", None, json!({"redacts": "$x"})),
        event("m.room.create", Some(""), json!({"room_version": "12", "creator": ann})),
    ]
}

fn versions() -> impl Iterator<Item = RoomVersionRules> {
    ["6", "7", "8", "9", "10", "11", "12"]
        .into_iter()
        .filter_map(|version| pdu::rules_of(&RoomVersionId::try_from(version).unwrap()))
}

fn known() -> HashMap<ruma::OwnedServerName, Certificates> {
    let keys = |seed| {
        let signer = signer(seed);
        let keys = VerifiedServerKeys::verify(signer.server_keys().clone(), NOW).unwrap();
        (signer.server_name().clone(), Certificates::new(signer.server_name(), [keys]))
    };
    HashMap::from([keys(1), keys(2)])
}

/// What is done with whatever passed: it is redacted, shown and handed on.
fn use_it(received: &Received, room_id: &RoomId, rules: &RoomVersionRules) {
    let pdu = &received.pdu;
    let redacted = pdu.redacted(rules).unwrap();
    assert_eq!(redacted.event_id, pdu.event_id, "redacting keeps the id");
    for pdu in [pdu, &redacted] {
        client_event::render(&pdu.json, &pdu.event_id, Some(room_id), &Unsigned::default())
            .unwrap();
        client_event::stripped(&pdu.json).unwrap();
    }
    if !received.spoilt {
        let keys = serde_json::to_string(received.server_keys.json()).unwrap();
        let again = pdu::receive(&pdu.to_wire(&keys), room_id, rules, &known(), NOW).unwrap();
        assert_eq!(again.pdu.event_id, pdu.event_id, "on the wire it stays the same event");
    }
}

#[test]
fn fuzz_events_that_a_member_signed() {
    let (ann, room_id, known) = (signer(1), room_id(), known());
    fuzz::json("events", events(), |event| {
        let mut answers = String::new();
        for rules in versions() {
            let Ok(mut object) = serde_json::from_value::<CanonicalJsonObject>(event.clone())
            else {
                return "no object".to_owned();
            };
            if let Err(error) = ann.hash_and_sign(&mut object, &rules.redaction) {
                return error.to_string();
            }
            let raw = serde_json::value::to_raw_value(&object).unwrap();
            let received = pdu::receive(&raw, &room_id, &rules, &known, NOW);
            if let Ok(received) = &received {
                use_it(received, &room_id, &rules);
            }
            answers = said(received);
        }
        answers
    });
}

#[test]
fn fuzz_events_that_somebody_changed() {
    let (ann, room_id, known) = (signer(1), room_id(), known());
    let rules = pdu::rules_of(&RoomVersionId::V11).unwrap();
    let good = events().into_iter().map(|event| {
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        ann.hash_and_sign(&mut object, &rules.redaction).unwrap();
        let json = serde_json::to_string(&object).unwrap();
        pdu::with_server_keys(&json, ann.server_keys_text()).get().as_bytes().to_vec()
    });
    fuzz::bytes("changed_events", good.collect(), |bytes| {
        let Ok(text) = String::from_utf8(bytes.to_vec()) else { return "no text".to_owned() };
        let Ok(raw) = RawValue::from_string(text) else { return "no JSON".to_owned() };
        let received = pdu::receive(&raw, &room_id, &rules, &known, NOW);
        if let Ok(received) = &received {
            use_it(received, &room_id, &rules);
        }
        said(received)
    });
}

fn request() -> Request {
    Request {
        method: "PUT".into(),
        uri: "/_matrix/federation/v1/send/1".into(),
        origin: signer(1).server_name().clone(),
        destination: signer(2).server_name().to_string(),
        origin_server_ts: NOW,
        request_id: "1".into(),
        content: serde_json::from_value(json!({"pdus": [{"a": 1}], "edus": []})).unwrap(),
    }
}

#[test]
fn fuzz_requests_and_answers() {
    let (ann, bob) = (signer(1), signer(2));
    let sent = request().sign(&ann).unwrap();
    let answer = Answer {
        request_id: "1".into(),
        request_hash: sent.hash.clone(),
        status: 200,
        content: serde_json::from_value(json!({"pdus": {}})).unwrap(),
        origin: bob.server_name().clone(),
        origin_server_ts: NOW,
    };
    let good = vec![sent.bytes.clone(), answer.sign(&bob).unwrap().bytes];
    fuzz::bytes("signed", good, |bytes| {
        let asked = Request::verify(bytes, NOW);
        let answered = Answer::verify(bytes, bob.server_name(), "1", &sent.hash, NOW);
        format!("{} {}", said(answered), said(asked))
    });
}

#[test]
fn fuzz_requests_that_were_signed() {
    let ann = signer(1);
    fuzz::json("requests", vec![serde_json::to_value(request()).unwrap()], |value| {
        let Ok(request) = serde_json::from_value::<Request>(value.clone()) else {
            return "no request".to_owned();
        };
        match request.sign(&ann) {
            Ok(sent) => said(Request::verify(&sent.bytes, NOW)),
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_server_keys() {
    let good = serde_json::to_value(signer(1).server_keys()).unwrap();
    let keys = secret_keys(1);
    fuzz::json("server_keys", vec![good], |value| {
        let Ok(mut object) = serde_json::from_value::<CanonicalJsonObject>(value.clone()) else {
            return "no object".to_owned();
        };
        let changed = said(VerifiedServerKeys::verify(object.clone(), NOW));
        // And as their own server may have signed them.
        let signed = super::server_keys::tests::sign(&keys, &mut object)
            .and_then(|()| VerifiedServerKeys::verify(object, NOW));
        if let Ok(keys) = &signed {
            assert!(keys.issued_ts() <= NOW + 10 * 60 * 1000, "they come from the future");
            assert!(keys.keys_at(u64::MAX).is_empty());
        }
        format!("{} {changed}", said(signed))
    });
}

#[test]
fn fuzz_what_is_sealed() {
    let (bob, keys) = (signer(2), secret_keys(2));
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(keys.encryption));
    let (request, opener): (Vec<u8>, AnswerOpener) =
        sealed::seal(b"request", bob.server_name(), &public.to_bytes(), EXPIRES, [7; 32]).unwrap();
    let parcel = sealed::parcel(request.clone(), EXPIRES, 1000);
    let (_, sealer) = bob.unseal(&parcel, NOW).unwrap();
    let answer = sealer.seal(&Piece::cut(b"answer", 0).unwrap(), [9; 32]).unwrap();
    let room_key = RoomKey::new(&room_id(), Secret([5; 32]));
    let gossip = room_key.seal("topic", [1; 24], b"message").unwrap();
    let parcel = serde_json::to_vec(&parcel).unwrap();
    fuzz::bytes("sealed", vec![request, answer, gossip, parcel], |bytes| {
        let parcel = serde_json::from_slice::<Parcel>(bytes)
            .unwrap_or_else(|_| sealed::parcel(bytes.to_vec(), EXPIRES, 1000));
        let checked = parcel.check(NOW);
        let opened = bob.unseal(&parcel, NOW);
        let answered = opener.open(bytes);
        let heard = room_key.open("topic", bytes);
        format!("{} {} {} {}", said(opened), said(answered), said(heard), said(checked))
    });
}

#[test]
fn fuzz_names_and_tokens() {
    let name = signer(1).server_name().to_string();
    let user = format!("@p2p:{name}");
    let good = [
        "s1_2_3",
        "t-5",
        "Ann:iwqjdna",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW",
        &name,
        &user,
        "/_messagehub/federation/v1/answer/abc?from=12",
    ];
    fuzz::text("names", &good, |text| {
        let token = text.parse::<SyncToken>();
        if let Ok(token) = &token {
            assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), *token);
        }
        let place = text.parse::<TimelineToken>();
        let name = sealed::destination(text);
        if let Ok(name) = &name {
            server_name::digest(name).unwrap();
        }
        let term = format!("{:?}", SearchTerm::parse(text));
        let piece = endpoint::read_piece(text).is_some();
        let term = term.split('(').next().unwrap_or_default().to_owned();
        format!("{} {} {} {term} {piece}", said(token), said(place), said(name))
    });
}
