//! PDUs: what comes in, what we compose, and the checks that need nothing but the event itself.
//!
//! `server_keys` is a top-level field of every PDU on the wire and is treated like `unsigned`:
//! taken out before anything is hashed, signed, verified, counted or stored, and put back when
//! the event is sent on (`docs/PROTOCOL.md` §3). Everything else is ruma's.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId,
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    canonical_json::redact,
    events::{StateEventType, TimelineEventType},
    room::JoinRuleKind,
    room_version_rules::RoomVersionRules,
    signatures::{
        PublicKeyMap, PublicKeySet, Verified, reference_hash,
        required_server_signatures_to_verify_event, verify_event,
    },
    state_res::{Event, check_pdu_format},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ProtoError,
    certificates::Certificates,
    json::{self, MESSAGE_NESTING, NESTING, Unsound},
    names,
    server_keys::VerifiedServerKeys,
    signer::{Author, Signer},
};

/// Longest raw PDU that is parsed, in bytes: 64 KiB of event and as much again around it.
pub const MAX_RAW_LEN: usize = 128 * 1024;
/// Longest event in canonical JSON, in bytes: the specification's.
pub const MAX_EVENT_LEN: usize = 65_535;
/// Most `prev_events` that an event of ours names; the spec allows 20.
pub const MAX_PREV_EVENTS: usize = 20;
/// Most signatures of its sender's server on an event.
pub const MAX_SIGNATURES: usize = 4;

/// The key of a place in the room state.
pub type StateKey = (StateEventType, String);

/// A persistent data unit, parsed. The JSON is canonical and has neither `server_keys` nor
/// `unsigned`.
#[derive(Debug, Clone)]
pub struct Pdu {
    /// Reference hash.
    pub event_id: OwnedEventId,
    /// The room; of a version 12 create event it is derived from the event id.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// What the sender's clock said.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The event type.
    pub kind: TimelineEventType,
    /// Present on state events.
    pub state_key: Option<String>,
    /// The content as it was sent.
    pub content: Box<RawValue>,
    /// The events before.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the depth of the deepest prev event; a hint, never an order.
    pub depth: u64,
    /// What a redaction redacts.
    pub redacts: Option<OwnedEventId>,
    /// Whether it failed the checks on receipt.
    pub rejected: bool,
    /// Canonical JSON.
    pub json: Box<str>,
    /// A version 12 create event has no `room_id` of its own.
    names_room: bool,
}

#[derive(Deserialize)]
struct Fields {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    depth: u64,
    redacts: Option<OwnedEventId>,
}

#[derive(Deserialize)]
struct RedactsContent {
    redacts: Option<OwnedEventId>,
}

/// The room versions that this server takes part in, oldest first. Before version 6 numbers need
/// not be integers that every JSON reader takes for the same, and before version 4 event ids need
/// not fit into a path.
pub const ROOM_VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Returns the rules of a room version that this server takes part in.
pub fn rules_of(version: &RoomVersionId) -> Option<RoomVersionRules> {
    if ROOM_VERSIONS.contains(version) { version.rules() } else { None }
}

/// Returns the room id that a version 12 create event gives to its room.
pub fn room_id_of_create(event_id: &EventId) -> Result<OwnedRoomId, ProtoError> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::parse(format!("!{hash}")).map_err(|error| ProtoError::malformed("room id", error))
}

/// Tells whether the content of a join rules event lets anybody in.
pub fn is_public(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        join_rule: JoinRuleKind,
    }
    serde_json::from_str::<Content>(content.get())
        .is_ok_and(|content| content.join_rule == JoinRuleKind::Public)
}

/// Returns the canonical JSON of an event with `server_keys` attached.
pub fn with_server_keys(json: &str, server_keys: &str) -> Box<RawValue> {
    let rest = json.get(1..).unwrap_or("}");
    let text = format!("{{\"server_keys\":{server_keys},{rest}");
    RawValue::from_string(text)
        .unwrap_or_else(|_| unreachable!("two JSON objects spliced are a JSON object"))
}

impl Pdu {
    /// Reads an event that was checked before, such as one from the Store.
    pub fn from_json(
        event_id: OwnedEventId,
        json: &str,
        rules: &RoomVersionRules,
    ) -> Result<Self, ProtoError> {
        let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed("PDU", error);
        let fields: Fields = serde_json::from_str(json).map_err(|error| malformed(&error))?;
        let names_room = fields.room_id.is_none();
        let room_id = match fields.room_id {
            Some(room_id) => room_id,
            None if fields.kind == TimelineEventType::RoomCreate
                && rules.authorization.room_create_event_id_as_room_id =>
            {
                room_id_of_create(&event_id)?
            }
            None => return Err(malformed(&"no room_id")),
        };
        let redacts = if fields.kind != TimelineEventType::RoomRedaction {
            None
        } else if rules.redaction.content_field_redacts {
            serde_json::from_str::<RedactsContent>(fields.content.get())
                .map_err(|error| malformed(&error))?
                .redacts
        } else {
            fields.redacts
        };
        Ok(Self {
            event_id,
            room_id,
            sender: fields.sender,
            origin_server_ts: fields.origin_server_ts,
            kind: fields.kind,
            state_key: fields.state_key,
            content: fields.content,
            prev_events: fields.prev_events,
            auth_events: fields.auth_events,
            depth: fields.depth,
            redacts,
            rejected: false,
            json: json.into(),
            names_room,
        })
    }

    /// Reads an event that is new here: the one door through which every event comes in, ours and
    /// those of others. What it refuses is refused by every node, and for good.
    fn from_object(
        object: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Self, ProtoError> {
        let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed("PDU", error);
        let json = serde_json::to_string(object).map_err(|error| malformed(&error))?;
        if json.len() > MAX_EVENT_LEN {
            let (len, limit) = (json.len(), MAX_EVENT_LEN);
            return Err(ProtoError::TooLarge { what: "event", len, limit });
        }
        if json::nesting(&json) > NESTING {
            return Err(Unsound::TooDeep(NESTING).of("PDU"));
        }
        check_pdu_format(object, &rules.event_format).map_err(|error| malformed(&error))?;
        let hash = reference_hash(object, rules).map_err(|error| malformed(&error))?;
        let event_id = EventId::parse(format!("${hash}")).map_err(|error| malformed(&error))?;
        let pdu = Self::from_json(event_id, &json, rules)?;
        names::check_user_id(&pdu.sender)?;
        if pdu.kind == TimelineEventType::RoomMember {
            let of = UserId::parse(pdu.state_key.as_deref().unwrap_or_default());
            names::check_user_id(&of.map_err(|error| malformed(&error))?)?;
        }
        Ok(pdu)
    }

    /// Tells whether the event may be handed to others. Those from before there was a limit of
    /// depth may not: nobody would take them.
    pub fn fits(&self) -> bool {
        json::nesting(&self.json) <= NESTING
    }

    /// Returns the place in the room state that the event fills, if it is a state event.
    pub fn state_place(&self) -> Option<StateKey> {
        let state_key = self.state_key.clone()?;
        Some((self.kind.to_string().into(), state_key))
    }

    /// Returns the event with `server_keys` attached, as it goes on the wire.
    ///
    /// A text splice: canonical JSON objects of PDUs are never empty.
    pub fn to_wire(&self, server_keys: &str) -> Box<RawValue> {
        with_server_keys(&self.json, server_keys)
    }

    /// Returns what is left of the event once a redaction applies.
    pub fn redacted(&self, rules: &RoomVersionRules) -> Result<Self, ProtoError> {
        let object: CanonicalJsonObject = serde_json::from_str(&self.json)
            .map_err(|error| ProtoError::malformed("PDU", error))?;
        let object = redact(object, &rules.redaction, None)
            .map_err(|error| ProtoError::malformed("PDU", error))?;
        let json =
            serde_json::to_string(&object).map_err(|error| ProtoError::malformed("PDU", error))?;
        let mut pdu = Self::from_json(self.event_id.clone(), &json, rules)?;
        pdu.rejected = self.rejected;
        Ok(pdu)
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        (!self.names_room).then_some(&*self.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// An event from outside that is well formed and signed by whom it says.
#[derive(Debug, Clone)]
pub struct Received {
    /// The event; redacted where `spoilt`.
    pub pdu: Pdu,
    /// The content hash did not match: somebody on the way changed or redacted this copy. A full
    /// copy, when one comes, takes its place.
    pub spoilt: bool,
    /// What certifies the sender's key: what came along, else what was known.
    pub server_keys: VerifiedServerKeys,
}

/// Checks an event from outside up to the content hash: size, shape, server_keys, signature.
///
/// `known` has server_keys learnt before: they serve where the event carries none, and for the
/// second signature of a restricted join. `now` is in milliseconds.
pub fn receive(
    raw: &RawValue,
    room_id: &RoomId,
    rules: &RoomVersionRules,
    known: &HashMap<OwnedServerName, Certificates>,
    now: u64,
) -> Result<Received, ProtoError> {
    read(raw, room_id, rules)?.verify(rules, known, now)
}

/// An event from outside that is well formed, and whose id is known by that; nobody vouches for it yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    /// The event.
    pub pdu: Pdu,
    object: CanonicalJsonObject,
    attached: Option<Attached>,
}

/// The server_keys that come with an event.
#[derive(Debug, Clone)]
enum Attached {
    /// In the event itself.
    Inside(CanonicalJsonObject),
    /// Once beside several events, and verified there.
    Beside(Arc<VerifiedServerKeys>),
}

/// Checks size and shape of an event from outside, which is quick, and works its id out.
pub fn read(
    raw: &RawValue,
    room_id: &RoomId,
    rules: &RoomVersionRules,
) -> Result<Unverified, ProtoError> {
    let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed("PDU", error);
    let len = raw.get().len();
    if len > MAX_RAW_LEN {
        return Err(ProtoError::TooLarge { what: "PDU", len, limit: MAX_RAW_LEN });
    }
    // As deep as a message: what is around the event is no part of it, and is not counted.
    json::check(raw.get(), MESSAGE_NESTING).map_err(|unsound| unsound.of("PDU"))?;
    let mut object: CanonicalJsonObject =
        serde_json::from_str(raw.get()).map_err(|error| malformed(&error))?;
    let attached = match object.remove("server_keys") {
        Some(CanonicalJsonValue::Object(json)) => Some(Attached::Inside(json)),
        _ => None,
    };
    object.remove("unsigned");

    let pdu = Pdu::from_object(&object, rules)?;
    if pdu.room_id != room_id {
        return Err(malformed(&"it is of another room"));
    }
    Ok(Unverified { pdu, object, attached })
}

impl Unverified {
    /// Takes server_keys that came once beside several events for those of this one, where it has none
    /// and is of their server.
    pub fn beside(mut self, server_keys: &Arc<VerifiedServerKeys>) -> Self {
        if self.attached.is_none() && self.pdu.sender.server_name() == server_keys.server_name() {
            self.attached = Some(Attached::Beside(Arc::clone(server_keys)));
        }
        self
    }

    /// Checks server_keys, signature and content hash; see [`receive`].
    pub fn verify(
        self,
        rules: &RoomVersionRules,
        known: &HashMap<OwnedServerName, Certificates>,
        now: u64,
    ) -> Result<Received, ProtoError> {
        let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed("PDU", error);
        let Self { mut pdu, object, attached } = self;
        let sender = pdu.sender.server_name();
        let mut certificates = known.get(sender).cloned().unwrap_or_default();
        let brought = matches!(attached, Some(Attached::Inside(_)));
        let attached = match attached {
            Some(Attached::Inside(json)) => match certificates.same(&json) {
                // The same certificate comes with every event of a server: verify it once.
                Some(keys) => Some(Arc::clone(keys)),
                None => Some(Arc::new(VerifiedServerKeys::verify(json, now)?)),
            },
            Some(Attached::Beside(keys)) => Some(keys),
            None => None,
        };
        if let Some(keys) = &attached {
            if keys.server_name() != sender {
                return Err(ProtoError::BadServerKeys(format!(
                    "they are those of {}, not of the sender's server",
                    keys.server_name()
                )));
            }
            certificates.add(keys);
        }
        if certificates.is_empty() && attached.is_none() {
            return Err(ProtoError::MissingServerKeys(sender.to_string()));
        }

        let ts = u64::from(pdu.origin_server_ts.get());
        if ts > now.saturating_add(super::server_keys::LIFETIME_MS) {
            return Err(ProtoError::NotFresh(ts.saturating_sub(now).cast_signed()));
        }
        let mut keys = PublicKeyMap::new();
        let required = required_server_signatures_to_verify_event(&object, &rules.signatures)
            .map_err(|error| malformed(&error))?;
        for server in required.iter().filter(|server| *server != sender) {
            let other = known
                .get(server)
                .ok_or_else(|| ProtoError::MissingServerKeys(server.to_string()))?;
            keys.insert(server.to_string(), other.keys_at(ts));
        }
        let (server_keys, verified) = if required.contains(sender) {
            let mut own = certificates.keys_at(ts);
            // What came along may name old keys that newer ones do not name any more.
            let attached = attached.filter(|attached| certificates.allow(attached, ts));
            for (key_id, key) in attached.iter().flat_map(|attached| attached.keys_at(ts)) {
                own.entry(key_id).or_insert(key);
            }
            let signed_by = signatures_of(&object, sender)?;
            let known = |id: &String| own.contains_key(id) || certificates.newest_of(id).is_some();
            if !brought && !signed_by.keys().any(known) {
                // Another node of that server signed it, of which this one has not heard.
                return Err(ProtoError::MissingServerKeys(sender.to_string()));
            }
            let (key_id, verified) = verify_by_any(&object, rules, sender, &own, keys)?;
            let by = certificates.certifying([key_id.as_str()], ts).cloned().or(attached);
            (by, verified)
        } else {
            // An invite by a third party's token: whoever gave that vouches for it.
            let verified = verify_event(&keys, &object, rules)
                .map_err(|error| ProtoError::BadSignature(error.to_string()))?;
            (attached.or_else(|| certificates.newest().cloned()), verified)
        };
        let server_keys = server_keys
            .map(|keys| VerifiedServerKeys::clone(&keys))
            .ok_or_else(|| ProtoError::MissingServerKeys(sender.to_string()))?;
        let spoilt = matches!(verified, Verified::Signatures);
        if spoilt {
            pdu = pdu.redacted(rules)?;
        }
        Ok(Received { pdu, spoilt, server_keys })
    }
}

/// Returns the signatures of its sender's server on an event, by the id of the key.
fn signatures_of<'a>(
    object: &'a CanonicalJsonObject,
    sender: &ServerName,
) -> Result<&'a CanonicalJsonObject, ProtoError> {
    let signatures = object.get("signatures").and_then(|all| match all {
        CanonicalJsonValue::Object(all) => all.get(sender.as_str()),
        _ => None,
    });
    match signatures {
        Some(CanonicalJsonValue::Object(signatures)) => Ok(signatures),
        _ => Err(ProtoError::BadSignature(format!("there is none of {sender}"))),
    }
}

/// Verifies an event by one of the keys of its sender's server. One good signature is enough, whatever
/// else claims to be one: else who knows more keys would refuse what others take. Returns which key it
/// was.
fn verify_by_any(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    sender: &ServerName,
    keys: &PublicKeySet,
    others: PublicKeyMap,
) -> Result<(String, Verified), ProtoError> {
    let bad = |why: &dyn std::fmt::Display| ProtoError::BadSignature(why.to_string());
    let signatures = signatures_of(object, sender)?;
    if signatures.len() > MAX_SIGNATURES {
        return Err(bad(&format!("there are more than {MAX_SIGNATURES} of {sender}")));
    }
    let mut why = bad(&format!("no key of {sender} that is certified for its time"));
    let mut map = others;
    for (key_id, key) in signatures.keys().filter_map(|id| keys.get_key_value(id)) {
        map.insert(sender.to_string(), PublicKeySet::from([(key_id.clone(), key.clone())]));
        match verify_event(&map, object, rules) {
            Ok(verified) => return Ok((key_id.clone(), verified)),
            Err(error) => why = bad(&error),
        }
    }
    Err(why)
}

/// An event that this server composes: what a client may choose.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The event type.
    pub kind: TimelineEventType,
    /// Present on state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: CanonicalJsonObject,
    /// What a redaction redacts.
    pub redacts: Option<OwnedEventId>,
}

/// Where a [`Draft`] stands in the room.
#[derive(Debug, Clone)]
pub struct Position {
    /// The room; none for a create event of version 12.
    pub room_id: Option<OwnedRoomId>,
    /// The events before.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the deepest prev event's.
    pub depth: u64,
    /// Milliseconds.
    pub origin_server_ts: u64,
}

/// Composes, hashes and signs an event of a user of ours: the only way to get our signature on one.
///
/// Every field is set here from the draft and the position, so nothing that another server
/// composed (the template of a make_join, CVE-2026-24471) is ever signed.
pub fn compose(
    draft: Draft,
    position: &Position,
    author: Author<'_>,
    rules: &RoomVersionRules,
) -> Result<Pdu, ProtoError> {
    let text = |value: &str| CanonicalJsonValue::String(value.to_owned());
    let ids = |ids: &[OwnedEventId]| {
        CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect())
    };
    let number = |value: u64| {
        let value = i64::try_from(value).ok().and_then(ruma::Int::new);
        value
            .map(CanonicalJsonValue::Integer)
            .ok_or_else(|| ProtoError::malformed("event", "a number is beyond 2^53"))
    };
    let mut content = draft.content;
    let mut event = CanonicalJsonObject::new();
    if let Some(redacts) = &draft.redacts {
        if rules.redaction.content_field_redacts {
            content.insert("redacts".to_owned(), text(redacts.as_str()));
        } else {
            event.insert("redacts".to_owned(), text(redacts.as_str()));
        }
    }
    if let Some(room_id) = &position.room_id {
        event.insert("room_id".to_owned(), text(room_id.as_str()));
    }
    if let Some(state_key) = &draft.state_key {
        event.insert("state_key".to_owned(), text(state_key));
    }
    event.insert("type".to_owned(), text(&draft.kind.to_string()));
    event.insert("sender".to_owned(), text(author.user_id().as_str()));
    event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    event.insert("prev_events".to_owned(), ids(&position.prev_events));
    event.insert("auth_events".to_owned(), ids(&position.auth_events));
    event.insert("depth".to_owned(), number(position.depth)?);
    event.insert("origin_server_ts".to_owned(), number(position.origin_server_ts)?);
    // Said here with its size; with hash and signature it is looked at once more.
    let len = serde_json::to_string(&event).map_or(0, |json| json.len());
    if len > MAX_EVENT_LEN {
        return Err(ProtoError::TooLarge { what: "event", len, limit: MAX_EVENT_LEN });
    }
    author.signer().hash_and_sign(&mut event, &rules.redaction)?;
    Pdu::from_object(&event, rules)
}

/// Returns `pdu` with this server's signature beside that of its author (an invite's answer).
pub fn countersigned(
    pdu: &Pdu,
    signer: &Signer,
    rules: &RoomVersionRules,
) -> Result<Pdu, ProtoError> {
    let mut object: CanonicalJsonObject =
        serde_json::from_str(&pdu.json).map_err(|error| ProtoError::malformed("PDU", error))?;
    signer.countersign(&mut object, &rules.redaction)?;
    Pdu::from_object(&object, rules)
}

#[cfg(test)]
mod beside;
#[cfg(test)]
mod mutations;

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{
        certificates::tests::{issued_by, node_keys},
        server_keys::{LIFETIME_MS, tests::secret_keys},
        signer::SecretKeys,
    };

    pub(crate) const NOW: u64 = 1_790_000_000_000;

    pub(super) fn rules() -> RoomVersionRules {
        rules_of(&RoomVersionId::V11).unwrap()
    }

    fn signer(seed: u8) -> Signer {
        Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap()
    }

    pub(super) fn room() -> OwnedRoomId {
        RoomId::parse("!room:example.org").unwrap()
    }

    pub(super) fn message(signer: &Signer, ts: u64) -> Pdu {
        let content = serde_json::from_value(json!({"msgtype": "m.text", "body": "hi"})).unwrap();
        let draft =
            Draft { kind: TimelineEventType::RoomMessage, state_key: None, content, redacts: None };
        let position = Position {
            room_id: Some(room()),
            prev_events: vec![],
            auth_events: vec![],
            depth: 1,
            origin_server_ts: ts,
        };
        compose(draft, &position, signer.owner(), &rules()).unwrap()
    }

    fn wire(pdu: &Pdu, signer: &Signer) -> Box<RawValue> {
        pdu.to_wire(&serde_json::to_string(signer.server_keys()).unwrap())
    }

    fn get(raw: &str) -> Result<Received, ProtoError> {
        let raw = RawValue::from_string(raw.to_owned()).unwrap();
        receive(&raw, &room(), &rules(), &HashMap::new(), NOW)
    }

    #[test]
    fn our_events_are_accepted_by_others_with_the_same_id() {
        let ann = signer(1);
        let sent = message(&ann, NOW);
        let got = get(wire(&sent, &ann).get()).unwrap();
        assert_eq!(got.pdu.event_id, sent.event_id);
        assert_eq!(got.pdu.json, sent.json, "server_keys are no part of the event");
        assert!(!got.spoilt);
    }

    #[test]
    fn each_node_of_a_server_signs_with_a_key_of_its_own() {
        let nodes = [node_keys(1, 1), node_keys(1, 2), node_keys(1, 3)];
        let [ann, second, third] = nodes.clone().map(|keys| Signer::new(&keys, &[], NOW).unwrap());
        let server = ann.server_name();
        let certificates = |of: &[&SecretKeys]| {
            let all = of.iter().map(|keys| issued_by(keys, &[], NOW));
            HashMap::from([(server.clone(), Certificates::new(server, all))])
        };
        let none = HashMap::new();
        let one = certificates(&[&nodes[0]]);
        let two = certificates(&[&nodes[0], &nodes[1]]);
        let sent = message(&second, NOW);
        let bare = RawValue::from_string(sent.json.to_string()).unwrap();
        let (right, wrong) = (wire(&sent, &second), wire(&sent, &ann));
        let receive = |raw: &RawValue, known| receive(raw, &room(), &rules(), known, NOW);
        for (what, raw, known, good) in [
            ("its own came along", &right, &none, true),
            ("its own came along, others are known", &right, &one, true),
            ("those of another node came along", &wrong, &none, false),
            ("the same, and none but these are known", &wrong, &one, false),
            ("the same, and its own are known", &wrong, &two, true),
            ("nothing came along", &bare, &two, true),
            ("nothing came along, and others are known", &bare, &one, false),
        ] {
            match receive(raw, known) {
                Ok(received) => {
                    assert!(good, "{what}");
                    let key_id = received.server_keys.verify_key_ids().next();
                    assert_eq!(key_id, Some(second.verify_key_id()), "{what}");
                }
                Err(error) => assert!(!good, "{what}: {error}"),
            }
        }

        // Whoever knows more keys refuses no more: one good signature is enough, among a few.
        let signed = |add: &[(&str, &str)]| {
            let mut event: serde_json::Value = serde_json::from_str(&sent.json).unwrap();
            for (id, signature) in add {
                event["signatures"][server.as_str()][id] = (*signature).into();
            }
            serde_json::value::to_raw_value(&event).unwrap()
        };
        let forged = [(ann.verify_key_id(), "AAAA"), (third.verify_key_id(), "")];
        for known in [&two, &certificates(&[&nodes[0], &nodes[1], &nodes[2]])] {
            assert!(receive(&signed(&forged), known).is_ok());
            let many = ["a", "b", "c", "d"].map(|id| (id, "AAAA"));
            let refused = receive(&signed(&many), known);
            assert!(matches!(refused, Err(ProtoError::BadSignature(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_changed_content_spoils_the_copy_but_not_the_id() {
        let ann = signer(1);
        let sent = message(&ann, NOW);
        let got = get(&wire(&sent, &ann).get().replace("\"hi\"", "\"ho\"")).unwrap();
        assert!(got.spoilt);
        assert_eq!(got.pdu.event_id, sent.event_id);
        assert_eq!(got.pdu.content.get(), "{}");
    }

    #[test]
    fn forgeries_are_refused() {
        let (ann, eve) = (signer(1), signer(3));
        let sent = message(&ann, NOW);
        let stranger = get(wire(&sent, &eve).get());
        assert!(matches!(stranger, Err(ProtoError::BadServerKeys(_))), "{stranger:?}");
        let none = get(&sent.json);
        assert!(matches!(none, Err(ProtoError::MissingServerKeys(_))), "{none:?}");
        let text = wire(&sent, &ann).get().replace("\"depth\":1", "\"depth\":2");
        assert!(matches!(get(&text), Err(ProtoError::BadSignature(_))));
        let own_name = sent.json.replace(ann.server_name().as_str(), eve.server_name().as_str());
        let pdu = Pdu::from_json(sent.event_id.clone(), &own_name, &rules()).unwrap();
        assert!(get(wire(&pdu, &eve).get()).is_err(), "signed by another server");
        let elsewhere = wire(&sent, &ann);
        let other = RoomId::parse("!other:example.org").unwrap();
        assert!(receive(&elsewhere, &other, &rules(), &HashMap::new(), NOW).is_err());
    }

    #[test]
    fn attack_08_keys_sign_nothing_after_they_expired() {
        let ann = signer(1);
        let sent = message(&ann, NOW + LIFETIME_MS + 1);
        let raw = wire(&sent, &ann);
        let late = receive(&raw, &room(), &rules(), &HashMap::new(), NOW + LIFETIME_MS + 1);
        assert!(matches!(late, Err(ProtoError::BadSignature(_))), "{late:?}");
    }

    #[test]
    fn limits_of_the_spec() {
        let ann = signer(1);
        let text = wire(&message(&ann, NOW), &ann).get().to_owned();
        for (what, bad) in [
            ("float", text.replace("\"depth\":1", "\"depth\":1.5")),
            ("negative depth", text.replace("\"depth\":1", "\"depth\":-1")),
            ("beyond 2^53", text.replace("\"depth\":1", "\"depth\":9007199254740993")),
            ("no content", text.replace("\"content\":", "\"kontent\":")),
            ("too large", text.replace("\"hi\"", &format!("\"{}\"", "x".repeat(70_000)))),
            ("long type", text.replace("m.room.message", &"m".repeat(256))),
        ] {
            assert!(get(&bad).is_err(), "{what}");
        }
    }

    #[test]
    fn redacted_events_stay_verifiable() {
        let ann = signer(1);
        let sent = message(&ann, NOW);
        let redacted = sent.redacted(&rules()).unwrap();
        let got = get(wire(&redacted, &ann).get()).unwrap();
        assert_eq!(got.pdu.event_id, sent.event_id);
        assert!(got.spoilt, "a redacted copy says so, and a full one may replace it");
    }
}
