//! What a short message takes on the wire, part by part: the figures of `benches/README.md`, printed by
//! `cargo nextest run --lib --no-capture the_bytes_of_a_short_message`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{EventId, OwnedRoomId, RoomVersionId, events::TimelineEventType};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{
    actor::sign,
    machine::{self, Cut},
};
use crate::proto::{
    first_release::Gossip,
    pdu::{Draft, Pdu, Position, compose, rules_of},
    room_key::{RoomKey, Secret},
    server_keys::tests::secret_keys,
    signer::Signer,
    topic,
};

const NOW: u64 = 1_790_000_000_000;
/// What the first release made of any short message: 4 KiB, and what is around them.
const FIRST_RELEASE: usize = 1 + 16 + 24 + 4096 + 16;

fn signer(seed: u8) -> Signer {
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp".to_owned();
    Signer::new(&secret_keys(seed), &[peer], NOW).unwrap()
}

fn hash(n: u8) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest([n]))
}

fn room() -> OwnedRoomId {
    format!("!{}", hash(0)).try_into().unwrap()
}

/// A line that somebody says in a room of a few.
fn line(signer: &Signer) -> Pdu {
    let event = |n| EventId::parse(format!("${}", hash(n))).unwrap();
    let body = "Shall we meet at eight, at the usual place?";
    let content = json!({"msgtype": "m.text", "body": body, "m.mentions": {}});
    let draft = Draft {
        kind: TimelineEventType::RoomMessage,
        state_key: None,
        content: serde_json::from_value(content).unwrap(),
        redacts: None,
    };
    let position = Position {
        room_id: Some(room()),
        prev_events: vec![event(1)],
        auth_events: vec![event(2), event(3)],
        depth: 31,
        origin_server_ts: NOW,
    };
    compose(draft, &position, signer.owner(), &rules_of(&RoomVersionId::V12).unwrap()).unwrap()
}

/// What is said, and how it is sealed.
fn published(signer: &Signer, pdus: Vec<Box<RawValue>>, edus: &[Value]) -> (Vec<u8>, Vec<u8>) {
    let edus = edus.iter().map(|edu| serde_json::value::to_raw_value(edu).unwrap()).collect();
    let said = sign(&Cut { pdus, edus }, &room(), signer, NOW).unwrap();
    let key = RoomKey::new(&room(), Secret([7; 32]));
    let sealed = key.seal(&topic::of_room(&room()), [1; 24], &said).unwrap();
    (said, sealed)
}

#[test]
fn the_bytes_of_a_short_message_are_a_third_of_those_of_the_first_release() {
    let ann = signer(1);
    let keys = ann.server_keys_text();
    let pdu = line(&ann);
    let (said, sealed) = published(&ann, vec![pdu.to_wire(keys)], &[]);
    eprintln!("the event                     {:5}", pdu.json.len());
    eprintln!("its server_keys               {:5}", keys.len());
    eprintln!("its transaction, signed       {:5}", said.len());
    eprintln!("... deflated, sealed, padded  {:5}", sealed.len());
    eprintln!("the first release             {FIRST_RELEASE:5}");
    assert!(said.len() < pdu.json.len() + 2 * keys.len(), "server_keys stand there once");
    assert!(sealed.len() * 3 <= FIRST_RELEASE);
    // Whoever listens cannot tell what it is.
    let user = ann.user_id();
    let heads = json!({"room_id": room(), "extremities": [pdu.event_id]});
    let typing = json!({"room_id": room(), "user_id": user, "typing": true});
    let read = json!({"event_ids": [pdu.event_id], "data": {"ts": NOW}});
    let read = json!({room().as_str(): {"m.read": {user.as_str(): read}}});
    for (kind, content) in [("messagehub.heads", heads), ("m.typing", typing), ("m.receipt", read)]
    {
        let (_, same) =
            published(&ann, Vec::new(), &[json!({"edu_type": kind, "content": content})]);
        assert_eq!(same.len(), sealed.len(), "{kind}");
    }
}

#[test]
fn only_the_server_keys_that_stand_beside_are_left_out() {
    let (ann, bob) = (signer(1), signer(2));
    // Those of before they were issued anew.
    let before = Signer::new(&secret_keys(1), &[], NOW - 1000).unwrap();
    let wire = [
        line(&ann).to_wire(ann.server_keys_text()),
        line(&bob).to_wire(bob.server_keys_text()),
        line(&ann).to_wire(before.server_keys_text()),
    ];
    let (said, _) = published(&ann, wire.to_vec(), &[]);
    let read = machine::read(&said, NOW).unwrap();
    assert_eq!(read.server_keys.text(), ann.server_keys_text());
    let has: Vec<Value> =
        read.pdus.iter().map(|pdu| serde_json::from_str(pdu.get()).unwrap()).collect();
    let keys = |signer: &Signer| serde_json::to_value(signer.server_keys()).unwrap();
    assert_eq!(has[0].get("server_keys"), None);
    assert_eq!(has[1]["server_keys"], keys(&bob));
    assert_eq!(has[2]["server_keys"], keys(&before));
}

#[test]
fn what_the_first_release_gossiped_is_read() {
    for gossip in Gossip::all() {
        let (said, now) = gossip.opened();
        let read = machine::read(&said, now).unwrap();
        assert_eq!(read.pdus.len() + read.edus.len(), gossip.what.len());
    }
}
