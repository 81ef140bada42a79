//! Events changed on the way, in every way: nothing panics, and nothing that was changed passes
//! for what was sent.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{tests::NOW, *};
use crate::proto::server_keys::tests::secret_keys;

/// An event as it was sent, and the room that it was sent to.
struct Sent {
    pdu: Pdu,
    wire: Value,
    rules: RoomVersionRules,
}

fn sent(version: &RoomVersionId, create: bool) -> Sent {
    let rules = rules_of(version).unwrap();
    let signer = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
    let id = |name: &str| EventId::parse(format!("${name:0>43}")).unwrap();
    let (kind, state_key, content) = if create {
        (TimelineEventType::RoomCreate, Some(String::new()), json!({"room_version": version}))
    } else {
        let content = json!({"msgtype": "m.text", "body": "hi", "of": [1, {"two": null}]});
        (TimelineEventType::RoomMessage, None, content)
    };
    let nameless = create && rules.authorization.room_create_event_id_as_room_id;
    let position = Position {
        room_id: (!nameless).then(|| RoomId::parse("!room:example.org").unwrap()),
        prev_events: if create { vec![] } else { vec![id("p"), id("q")] },
        auth_events: if create { vec![] } else { vec![id("a")] },
        depth: 7,
        origin_server_ts: NOW,
    };
    let content = serde_json::from_value(content).unwrap();
    let draft = Draft { kind, state_key, content, redacts: None };
    let pdu = compose(draft, &position, signer.owner(), &rules).unwrap();
    let keys = serde_json::to_string(signer.server_keys()).unwrap();
    let wire = serde_json::from_str(pdu.to_wire(&keys).get()).unwrap();
    Sent { pdu, wire, rules }
}

impl Sent {
    /// Receives a text in the place of what was sent. Whatever is accepted is what was sent, or
    /// what is left of it once it is redacted.
    fn check(&self, text: String) -> Result<(), TestCaseError> {
        let Ok(raw) = RawValue::from_string(text) else { return Ok(()) };
        let room_id = &self.pdu.room_id;
        let Ok(received) = receive(&raw, room_id, &self.rules, &HashMap::new(), NOW) else {
            return Ok(());
        };
        // Signatures are not part of what is signed: more of them change nothing.
        let said = |json: &str| {
            let mut object: CanonicalJsonObject = serde_json::from_str(json).unwrap();
            object.remove("signatures");
            object
        };
        let Received { pdu, spoilt, .. } = received;
        prop_assert_eq!(&pdu.event_id, &self.pdu.event_id, "{}", pdu.json);
        let right = if spoilt {
            self.pdu.redacted(&self.rules).unwrap().json
        } else {
            self.pdu.json.clone()
        };
        prop_assert_eq!(said(&pdu.json), said(&right), "spoilt: {}", spoilt);
        Ok(())
    }
}

/// Any JSON, and often what stands in events.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop_oneof![
            Just("$other"),
            Just("@a:example.org"),
            Just("!room:example.org"),
            Just("m.room.create"),
            Just("m.room.redaction"),
            Just("m.room.member"),
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..25).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A change of an object: of what is found at some place of it, counted through.
#[derive(Debug, Clone)]
enum Change {
    Replace(usize, Value),
    Remove(usize),
    Add(usize, String, Value),
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = prop_oneof![
        4 => prop_oneof![
            Just("state_key"), Just("redacts"), Just("room_id"), Just("event_id"),
            Just("unsigned"), Just("origin"), Just("server_keys"), Just("hashes"),
            Just("membership"), Just("prev_state"),
        ]
        .prop_map(ToOwned::to_owned),
        1 => any::<String>(),
    ];
    prop_oneof![
        (any::<usize>(), any_json()).prop_map(|(at, value)| Change::Replace(at, value)),
        any::<usize>().prop_map(Change::Remove),
        (any::<usize>(), name, any_json())
            .prop_map(|(at, name, value)| Change::Add(at, name, value)),
    ]
}

/// Returns the JSON pointers of all places of a value but the whole.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (escaped(key), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in inner {
        let place = format!("{at}/{key}");
        places(value, &place, into);
        into.push(place);
    }
}

fn apply(value: &mut Value, change: &Change) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    let pick = |at: usize| all[at % all.len()].clone();
    match change {
        _ if all.is_empty() => {}
        Change::Replace(at, new) => *value.pointer_mut(&pick(*at)).unwrap() = new.clone(),
        Change::Remove(at) => {
            let place = pick(*at);
            let (parent, key) = place.rsplit_once('/').unwrap();
            match value.pointer_mut(parent).unwrap() {
                Value::Object(map) => {
                    map.remove(&key.replace("~1", "/").replace("~0", "~"));
                }
                Value::Array(list) => {
                    list.remove(key.parse().unwrap());
                }
                _ => {}
            }
        }
        Change::Add(at, name, new) => {
            let mut objects: Vec<_> =
                all.iter().filter(|place| value.pointer(place).unwrap().is_object()).collect();
            let top = String::new();
            objects.extend([&top, &top]);
            let place = objects[at % objects.len()].clone();
            let object = value.pointer_mut(&place).and_then(Value::as_object_mut).unwrap();
            object.insert(name.clone(), new.clone());
        }
    }
}

fn version(number: usize) -> RoomVersionId {
    ROOM_VERSIONS[number].clone()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_json_passes_for_what_was_sent(
        of in 0..ROOM_VERSIONS.len(),
        create in any::<bool>(),
        changes in proptest::collection::vec(any_change(), 1..4),
    ) {
        let sent = sent(&version(of), create);
        let mut wire = sent.wire.clone();
        for change in &changes {
            apply(&mut wire, change);
        }
        sent.check(wire.to_string())?;
    }

    #[test]
    fn no_changed_bytes_pass_for_what_was_sent(
        of in 0..3_usize,
        edits in proptest::collection::vec((any::<usize>(), any::<u8>(), 0..3_u8), 1..4),
        doubled in any::<bool>(),
    ) {
        let sent = sent(&version(of), false);
        let mut bytes = sent.wire.to_string().into_bytes();
        if doubled {
            // A name that comes twice: one reader takes the first, another the last.
            bytes.splice(1..1, br#""content":{"body":"first"},"type":"m.room.name","#.iter().copied());
        }
        for (at, byte, what) in edits {
            let at = at % bytes.len();
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        if let Ok(text) = String::from_utf8(bytes) {
            sent.check(text)?;
        }
    }

    #[test]
    fn any_json_is_refused_or_read(value in any_json()) {
        let sent = sent(&RoomVersionId::V12, false);
        sent.check(value.to_string())?;
    }
}

#[test]
fn what_was_sent_passes() {
    for (of, create) in (0..3).flat_map(|of| [(of, true), (of, false)]) {
        let sent = sent(&version(of), create);
        let raw = RawValue::from_string(sent.wire.to_string()).unwrap();
        let known = HashMap::new();
        let received = receive(&raw, &sent.pdu.room_id, &sent.rules, &known, NOW).unwrap();
        assert!(!received.spoilt);
        assert_eq!(received.pdu.json, sent.pdu.json);
    }
}

/// Signs a changed event anew, as its hostile author would.
fn signed_anew(value: &Value, signer: &Signer, rules: &RoomVersionRules) -> Option<Box<RawValue>> {
    let mut object: CanonicalJsonObject = serde_json::from_value(value.clone()).ok()?;
    for field in ["server_keys", "hashes", "signatures"] {
        object.remove(field);
    }
    signer.hash_and_sign(&mut object, &rules.redaction).ok()?;
    let keys = CanonicalJsonValue::Object(signer.server_keys().clone());
    object.insert("server_keys".to_owned(), keys);
    serde_json::value::to_raw_value(&object).ok()
}

/// Events by somebody who writes what he likes and signs it: refused, or whole in every way in
/// which this node uses them.
#[test]
fn fuzz_pdus() {
    use crate::proto::client_event::{Unsigned, render, stripped};
    let signer = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
    let all: Vec<Sent> =
        (0..3).flat_map(|of| [sent(&version(of), true), sent(&version(of), false)]).collect();
    let mut samples: Vec<Value> = all.iter().map(|sent| sent.wire.clone()).collect();
    let mut member = samples[1].clone();
    member["type"] = json!("m.room.member");
    member["state_key"] = member["sender"].clone();
    member["content"] =
        json!({"membership": "join", "displayname": "Ann", "avatar_url": "mxc://x/y"});
    samples.push(member);
    crate::fuzz::bytes(
        "pdus",
        samples.iter().map(|value| value.to_string().into_bytes()).collect(),
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
            let Ok(raw) = RawValue::from_string(text.to_owned()) else {
                return "no JSON".to_owned();
            };
            let mut said = String::new();
            let value: Option<Value> = serde_json::from_str(text).ok();
            for Sent { pdu, rules, .. } in all.iter().step_by(2) {
                let anew = value.as_ref().and_then(|value| signed_anew(value, &signer, rules));
                for raw in [Some(raw.clone()), anew].into_iter().flatten() {
                    let room_id = match value.as_ref().and_then(|value| value["room_id"].as_str()) {
                        Some(room_id) => RoomId::parse(room_id).unwrap_or(pdu.room_id.clone()),
                        None => pdu.room_id.clone(),
                    };
                    let received = match receive(&raw, &room_id, rules, &HashMap::new(), NOW) {
                        Ok(received) => received,
                        Err(error) => {
                            said = error.to_string();
                            continue;
                        }
                    };
                    said = format!("good {} {}", received.pdu.kind, received.spoilt);
                    let taken = &received.pdu;
                    assert!(taken.fits());
                    assert!(taken.json.len() <= MAX_EVENT_LEN);
                    let again = Pdu::from_json(taken.event_id.clone(), &taken.json, rules).unwrap();
                    assert_eq!(again.json, taken.json);
                    let wire = taken.to_wire(signer.server_keys_text());
                    let theirs = receive(&wire, &room_id, rules, &HashMap::new(), NOW).unwrap();
                    assert_eq!(theirs.pdu.event_id, taken.event_id, "the same at every node");
                    let answer = json!({"content": {"pdus": [wire]}}).to_string();
                    assert!(json::check(&answer, MESSAGE_NESTING).is_ok());
                    taken.redacted(rules).unwrap();
                    render(&taken.json, &taken.event_id, None, &Unsigned::default()).unwrap();
                    let _ = stripped(&taken.json);
                }
            }
            said
        },
    );
}

/// An event nested so deep, by whoever signs what he likes.
fn nested(levels: usize, signer: &Signer, rules: &RoomVersionRules) -> Option<Box<RawValue>> {
    let mut wire = sent(&RoomVersionId::V12, false).wire;
    wire["content"] = (2..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    signed_anew(&wire, signer, rules)
}

#[test]
fn an_event_that_is_too_deep_is_malformed_everywhere() {
    let Sent { pdu, rules, .. } = sent(&RoomVersionId::V12, false);
    let signer = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
    let take = |raw: &RawValue| receive(raw, &pdu.room_id, &rules, &HashMap::new(), NOW);
    let deepest = take(&nested(NESTING, &signer, &rules).unwrap()).unwrap();
    assert!(!deepest.spoilt);
    for levels in [NESTING + 1, 100, 124, 126] {
        let deep = nested(levels, &signer, &rules).unwrap();
        let found = take(&deep);
        assert!(matches!(found, Err(ProtoError::Malformed { .. })), "{levels}: {found:?}");
        // What is left of it once it is redacted is no deeper than others: it may be handed on.
        let mut object: CanonicalJsonObject = serde_json::from_str(deep.get()).unwrap();
        object.remove("server_keys");
        let json = serde_json::to_string(&object).unwrap();
        let kept = Pdu::from_json(pdu.event_id.clone(), &json, &rules).unwrap();
        assert!(!kept.fits());
        let redacted = kept.redacted(&rules).unwrap();
        assert!(redacted.fits());
        let taken = take(&redacted.to_wire(signer.server_keys_text())).unwrap();
        assert!(taken.spoilt, "it counts as redacted");
    }
}

#[test]
fn around_an_event_nothing_is_counted() {
    let Sent { pdu, rules, wire } = sent(&RoomVersionId::V12, false);
    let deep = (0..100).fold(json!({}), |inner, _| json!({"a": inner}));
    let mut odd = wire;
    odd["unsigned"] = deep;
    let raw = serde_json::value::to_raw_value(&odd).unwrap();
    let received = receive(&raw, &pdu.room_id, &rules, &HashMap::new(), NOW).unwrap();
    assert_eq!(received.pdu.json, pdu.json);
}

#[test]
fn no_user_has_an_id_that_is_none() {
    let Sent { pdu, rules, wire } = sent(&RoomVersionId::V12, false);
    let signer = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
    let server = pdu.sender.server_name();
    let take = |wire: &Value| {
        let raw = signed_anew(wire, &signer, &rules)?;
        Some(receive(&raw, &pdu.room_id, &rules, &HashMap::new(), NOW).is_ok())
    };
    for (localpart, good) in [
        ("p2p", true),
        ("ann.b-c", true),
        ("p2p\u{202e}", false),
        ("a b", false),
        ("", false),
        ("Ann", false),
    ] {
        let id = json!(format!("@{localpart}:{server}"));
        let mut sent = wire.clone();
        sent["sender"] = id.clone();
        assert_eq!(take(&sent).unwrap_or(false), good, "{id} sends");
        let mut joined = wire.clone();
        joined["type"] = json!("m.room.member");
        joined["state_key"] = id.clone();
        joined["content"] = json!({"membership": "invite"});
        assert_eq!(take(&joined).unwrap_or(false), good, "{id} is invited");
    }
}
