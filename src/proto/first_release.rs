//! What the first release (e80ed5b) said on the wire, as it was recorded
//! (`tests/fixtures/wire-first-release`), and what becomes of each message here.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedRoomId, OwnedServerName, RoomVersionId,
    signatures::reference_hash,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;

use super::{
    edu::Edu,
    pdu::{self, Received, room_id_of_create, rules_of},
    room_key::{RoomKey, Secret},
    sealed::Parcel,
    server_keys::{LIFETIME_MS, VerifiedServerKeys},
    signed::{Answer, Request, Verified},
    signer::{SecretKeys, Signer},
    topic,
};

/// A signed request, and the signed answer.
#[derive(Deserialize)]
pub(crate) struct Exchange {
    /// What was asked for.
    pub(crate) what: String,
    request: CanonicalJsonObject,
    answer: CanonicalJsonObject,
}

/// A message that was gossiped.
#[derive(Deserialize)]
pub(crate) struct Gossip {
    /// What is in it: types of events and EDUs.
    pub(crate) what: Vec<String>,
    key: Secret,
    sealed: String,
    opened: CanonicalJsonObject,
}

/// A node, with its secret keys.
#[derive(Deserialize)]
struct Person {
    server_name: OwnedServerName,
    peer_id: String,
    keys: BTreeMap<String, Secret>,
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-first-release");
    serde_json::from_str(&fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

fn when(object: &CanonicalJsonObject, field: &str) -> u64 {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(ts)) => u64::try_from(i64::from(*ts)).unwrap(),
        other => panic!("{field}: {other:?}"),
    }
}

fn bytes(object: &CanonicalJsonObject) -> Vec<u8> {
    serde_json::to_vec(object).unwrap()
}

impl Exchange {
    /// Returns all that were recorded.
    pub(crate) fn all() -> Vec<Self> {
        let all: Vec<Self> = read("requests.json");
        assert!(all.len() >= 13, "{} were recorded", all.len());
        all
    }

    /// Verifies the request at its time.
    pub(crate) fn request(&self) -> Verified<Request> {
        let now = when(&self.request, "origin_server_ts");
        Request::verify(&bytes(&self.request), now).unwrap()
    }
}

impl Gossip {
    /// Returns all that were recorded.
    pub(crate) fn all() -> Vec<Self> {
        read("gossip.json")
    }

    /// Returns the message as it was signed, and when.
    pub(crate) fn opened(&self) -> (Vec<u8>, u64) {
        (bytes(&self.opened), when(&self.opened, "origin_server_ts"))
    }
}

/// Takes an event in that came with its server_keys, and nothing else is known.
fn receive(mut object: CanonicalJsonObject) -> Received {
    let rules = rules_of(&RoomVersionId::V12).unwrap();
    let raw = to_raw_value(&object).unwrap();
    let now = when(&object, "origin_server_ts") + LIFETIME_MS / 2;
    let room_id: OwnedRoomId = match object.get("room_id") {
        Some(room_id) => room_id.as_str().unwrap().try_into().unwrap(),
        None => {
            object.remove("server_keys");
            let hash = reference_hash(&object, &rules).unwrap();
            room_id_of_create(&EventId::parse(format!("${hash}")).unwrap()).unwrap()
        }
    };
    pdu::receive(&raw, &room_id, &rules, &Default::default(), now).unwrap()
}

/// Finds the events in a message.
fn events(value: &CanonicalJsonValue, found: &mut Vec<CanonicalJsonObject>) {
    match value {
        CanonicalJsonValue::Object(object) if object.contains_key("server_keys") => {
            found.push(object.clone());
        }
        CanonicalJsonValue::Object(object) => {
            object.values().for_each(|value| events(value, found))
        }
        CanonicalJsonValue::Array(list) => list.iter().for_each(|value| events(value, found)),
        _ => {}
    }
}

#[test]
fn its_requests_and_answers_are_taken_and_so_is_every_event_in_them() {
    let mut count = 0;
    for exchange in Exchange::all() {
        let what = &exchange.what;
        let Verified { message: request, hash, .. } = exchange.request();
        let from: OwnedServerName = request.destination.as_str().try_into().unwrap();
        let now = when(&exchange.answer, "origin_server_ts");
        let answer =
            Answer::verify(&bytes(&exchange.answer), &from, &request.request_id, &hash, now);
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}")).message;
        assert_eq!(answer.status, 200, "{what}");
        let mut found = Vec::new();
        events(&request.content, &mut found);
        events(&answer.content, &mut found);
        count += found.len();
        for event in found {
            assert!(!receive(event).spoilt, "{what}");
        }
    }
    assert!(count > 30, "{count} events");
}

#[test]
fn its_gossip_opens_and_is_read() {
    for gossip in Gossip::all() {
        let (opened, now) = gossip.opened();
        let request = Request::verify(&opened, now).unwrap().message;
        let room: OwnedRoomId = request.destination.as_str().try_into().unwrap();
        let sealed = STANDARD_NO_PAD.decode(&gossip.sealed).unwrap();
        let key = RoomKey::new(&room, gossip.key);
        assert_eq!(key.open(&topic::of_room(&room), &sealed).unwrap(), opened);
        let CanonicalJsonValue::Object(content) = &request.content else { panic!("no object") };
        let list = |field| content.get(field).and_then(CanonicalJsonValue::as_array).unwrap();
        let mut what = Vec::new();
        for pdu in list("pdus") {
            let CanonicalJsonValue::Object(pdu) = pdu else { panic!("no object") };
            what.push(receive(pdu.clone()).pdu.kind.to_string());
        }
        for edu in list("edus") {
            let kind = match Edu::read(&to_raw_value(edu).unwrap()).unwrap() {
                Edu::Heads { .. } => "messagehub.heads",
                Edu::Typing { .. } => "m.typing",
                Edu::Receipt(_) => "m.receipt",
                Edu::Presence(_) => "m.presence",
                Edu::ToDevice(_) => "m.direct_to_device",
                Edu::DeviceList { .. } => "m.device_list_update",
            };
            what.push(kind.to_owned());
        }
        assert_eq!(what, gossip.what);
    }
}

#[test]
fn what_it_sealed_for_a_node_opens_there() {
    let people: BTreeMap<String, Person> = read("people.json");
    let mut opened = 0;
    for exchange in Exchange::all().into_iter().filter(|exchange| exchange.what == "carry") {
        let request = exchange.request().message;
        let to = request.uri.rsplit('/').next().unwrap();
        let person = people.values().find(|person| person.server_name == to).unwrap();
        let seed = |name: &str| person.keys[name].0;
        let keys = SecretKeys {
            identity: seed("identity_key"),
            verify: seed("verify_key"),
            encryption: seed("encryption_key"),
        };
        let now = request.origin_server_ts;
        let signer = Signer::new(&keys, std::slice::from_ref(&person.peer_id), now).unwrap();
        let parcel = serde_json::to_value(&request.content).unwrap();
        let parcel: Parcel = serde_json::from_value(parcel).unwrap();
        parcel.check(now).unwrap();
        let (inside, _) = signer.unseal(&parcel, now).unwrap();
        let inside = Request::verify(&inside, now).unwrap().message;
        assert_eq!(inside.destination, *to);
        opened += 1;
    }
    assert!(opened >= 1, "none was recorded");
}

#[test]
fn the_server_keys_by_which_its_nodes_prove_themselves_are_taken() {
    let all: Vec<CanonicalJsonObject> = read("identity.json");
    assert!(all.len() >= 2);
    let people: BTreeMap<String, Person> = read("people.json");
    for json in all {
        let now = when(&json, "issued_ts");
        let keys = VerifiedServerKeys::verify(json, now).unwrap();
        let person = people.values().find(|person| person.server_name == keys.server_name());
        assert!(keys.speaks(&person.unwrap().peer_id, now));
        assert_eq!(keys.generation(), 0);
    }
}
