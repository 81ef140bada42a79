//! EDUs as they come from other servers: read, and held to limits (`docs/PROTOCOL.md` §5).
//!
//! Every field that is kept, shown or handed to a client has a longest length. What is over it, or
//! not of the grammar, is not there; what people say of themselves is cut instead.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, presence::PresenceState,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    ProtoError,
    json::{self, NESTING, Unsound},
    names,
};

/// The type of our own EDU: forward extremities of a room.
pub const HEADS: &str = "messagehub.heads";
/// Longest type, id of a message, device id and thread id, in bytes: as all ids.
pub const FIELD_LEN: usize = 255;
/// Deepest content of a to-device message: four levels of the EDU are around it.
pub const TO_DEVICE_NESTING: usize = NESTING - 4;

const WHAT: &str = "EDU";

/// An EDU.
#[derive(Debug)]
pub enum Edu {
    /// Somebody types, or stopped.
    Typing {
        /// Where.
        room_id: OwnedRoomId,
        /// Who.
        user_id: OwnedUserId,
        /// Whether.
        typing: bool,
    },
    /// How far people have read, by room.
    Receipt(BTreeMap<OwnedRoomId, Vec<ReadUpTo>>),
    /// Who is there.
    Presence(Vec<PresenceUpdate>),
    /// The forward extremities of a room, as its sender has them.
    Heads {
        /// Which.
        room_id: OwnedRoomId,
        /// Those.
        extremities: Vec<OwnedEventId>,
    },
    /// A message to devices.
    ToDevice(ToDevice),
    /// The devices or cross-signing keys of a user of the sender changed: what they are now, the
    /// sender is asked.
    DeviceList {
        /// Whose.
        user_id: OwnedUserId,
        /// The number of the list, where it is said.
        stream_id: Option<u64>,
    },
}

/// How far somebody has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadUpTo {
    /// Who.
    pub user_id: OwnedUserId,
    /// Up to where.
    pub event_id: OwnedEventId,
    /// In which thread; none: in all of the room.
    pub thread_id: Option<String>,
    /// When, in milliseconds.
    pub ts: Option<u64>,
}

/// Who is there.
#[derive(Debug, Clone)]
pub struct PresenceUpdate {
    /// Who.
    pub user_id: OwnedUserId,
    /// online, unavailable or offline.
    pub presence: PresenceState,
    /// What they say.
    pub status_msg: Option<String>,
    /// Milliseconds since they last did something.
    pub last_active_ago: u64,
    /// Whether they are at it now.
    pub currently_active: bool,
}

/// A message to devices of our users.
#[derive(Debug, Clone, Deserialize)]
pub struct ToDevice {
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The same for copies.
    pub message_id: String,
    /// The event type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The contents, by user and device.
    pub messages: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
}

impl Edu {
    /// Reads an EDU from anywhere. One of a type that is not for us is malformed.
    pub fn read(raw: &RawValue) -> Result<Self, ProtoError> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            edu_type: String,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        json::check(raw.get(), NESTING).map_err(|unsound| unsound.of(WHAT))?;
        let Fields { edu_type, content } = parse(raw.get())?;
        let content = content.get();
        match edu_type.as_str() {
            "m.typing" => typing(content),
            "m.receipt" => receipt(content),
            "m.presence" => presence(content),
            "m.direct_to_device" => to_device(content),
            "m.device_list_update" | "m.signing_key_update" => device_list(content),
            HEADS => heads(content),
            _ => Err(ProtoError::malformed(WHAT, "of no type that is taken here")),
        }
    }

    /// Returns the room that the EDU is about: where it is about several, the first.
    pub fn room_id(&self) -> Option<&RoomId> {
        match self {
            Self::Typing { room_id, .. } | Self::Heads { room_id, .. } => Some(room_id),
            Self::Receipt(rooms) => rooms.keys().next().map(|room_id| &**room_id),
            Self::Presence(_) | Self::ToDevice(_) | Self::DeviceList { .. } => None,
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ProtoError> {
    serde_json::from_str(text).map_err(|error| ProtoError::malformed(WHAT, error))
}

fn check_len(what: &'static str, text: &str) -> Result<(), ProtoError> {
    let (len, limit) = (text.len(), FIELD_LEN);
    if len > limit { Err(ProtoError::TooLarge { what, len, limit }) } else { Ok(()) }
}

fn typing(content: &str) -> Result<Edu, ProtoError> {
    #[derive(Deserialize)]
    struct Typing {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        typing: bool,
    }
    let Typing { room_id, user_id, typing } = parse(content)?;
    names::check_user_id(&user_id)?;
    Ok(Edu::Typing { room_id, user_id, typing })
}

fn heads(content: &str) -> Result<Edu, ProtoError> {
    #[derive(Deserialize)]
    struct Heads {
        room_id: OwnedRoomId,
        extremities: Vec<OwnedEventId>,
    }
    let Heads { room_id, extremities } = parse(content)?;
    Ok(Edu::Heads { room_id, extremities })
}

fn receipt(content: &str) -> Result<Edu, ProtoError> {
    #[derive(Deserialize)]
    struct OfRoom {
        #[serde(rename = "m.read", default)]
        read: BTreeMap<OwnedUserId, One>,
    }
    #[derive(Deserialize)]
    struct One {
        event_ids: Vec<OwnedEventId>,
        #[serde(default)]
        data: Data,
    }
    #[derive(Deserialize, Default)]
    struct Data {
        ts: Option<u64>,
        thread_id: Option<String>,
    }
    let rooms: BTreeMap<OwnedRoomId, OfRoom> = parse(content)?;
    let one = |(user_id, One { event_ids, data }): (OwnedUserId, One)| {
        names::check_user_id(&user_id).ok()?;
        let thread = data.thread_id.as_deref();
        let known = |thread: &str| thread == "main" || thread.starts_with('$');
        if thread.is_some_and(|thread| !known(thread) || thread.len() > FIELD_LEN) {
            return None;
        }
        let event_id = event_ids.into_iter().next()?;
        Some(ReadUpTo { user_id, event_id, thread_id: data.thread_id, ts: data.ts })
    };
    let of_room =
        |(room_id, OfRoom { read })| (room_id, read.into_iter().filter_map(one).collect());
    Ok(Edu::Receipt(rooms.into_iter().map(of_room).collect()))
}

fn presence(content: &str) -> Result<Edu, ProtoError> {
    #[derive(Deserialize)]
    struct Presence {
        push: Vec<Update>,
    }
    #[derive(Deserialize)]
    struct Update {
        user_id: OwnedUserId,
        presence: String,
        status_msg: Option<String>,
        #[serde(default)]
        last_active_ago: u64,
        #[serde(default)]
        currently_active: bool,
    }
    let Presence { push } = parse(content)?;
    let good = push.into_iter().filter(|update| names::check_user_id(&update.user_id).is_ok());
    let updates = good.map(|update| PresenceUpdate {
        user_id: update.user_id,
        presence: state_of(&update.presence),
        status_msg: update.status_msg.map(|said| names::shown_status(&said).to_owned()),
        last_active_ago: update.last_active_ago,
        currently_active: update.currently_active,
    });
    Ok(Edu::Presence(updates.collect()))
}

/// Reads a state of presence: there are three, and whoever is in another one is not there.
fn state_of(presence: &str) -> PresenceState {
    match presence {
        "online" => PresenceState::Online,
        "unavailable" => PresenceState::Unavailable,
        _ => PresenceState::Offline,
    }
}

fn device_list(content: &str) -> Result<Edu, ProtoError> {
    #[derive(Deserialize)]
    struct DeviceList {
        user_id: OwnedUserId,
        stream_id: Option<u64>,
    }
    let DeviceList { user_id, stream_id } = parse(content)?;
    names::check_user_id(&user_id)?;
    Ok(Edu::DeviceList { user_id, stream_id })
}

fn to_device(content: &str) -> Result<Edu, ProtoError> {
    let message: ToDevice = parse(content)?;
    names::check_user_id(&message.sender)?;
    check_len("type of a to-device message", &message.kind)?;
    check_len("id of a to-device message", &message.message_id)?;
    for (device, content) in message.messages.values().flatten() {
        check_len("device id", device)?;
        if !content.get().starts_with('{') {
            return Err(Unsound::NoObject.of(WHAT));
        }
    }
    Ok(Edu::ToDevice(message))
}

/// Checks the content of a to-device message of our user, and returns what is sent: the same for
/// devices here and elsewhere, so that no number means one thing here and another there.
pub fn to_device_content(content: &RawValue) -> Result<CanonicalJsonObject, ProtoError> {
    const CONTENT: &str = "content of a to-device message";
    json::check(content.get(), TO_DEVICE_NESTING).map_err(|unsound| unsound.of(CONTENT))?;
    serde_json::from_str(content.get()).map_err(|error| ProtoError::malformed(CONTENT, error))
}

/// Tells the type of an EDU that this node made.
pub fn is_of_type(edu: &RawValue, types: &[&str]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        edu_type: String,
        #[serde(rename = "content")]
        _content: IgnoredAny,
    }
    let kind = serde_json::from_str::<Kind>(edu.get());
    kind.is_ok_and(|kind| types.contains(&kind.edu_type.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(kind: &str, content: &Value) -> Result<Edu, ProtoError> {
        let text = json!({"edu_type": kind, "content": content}).to_string();
        Edu::read(&RawValue::from_string(text).unwrap())
    }

    #[test]
    fn presence_has_three_states_and_a_short_message() {
        let of = |state: &str, said: &str| {
            let update = json!({
                "user_id": "@a:x", "presence": state, "last_active_ago": 5, "status_msg": said,
            });
            match read("m.presence", &json!({"push": [update]})) {
                Ok(Edu::Presence(mut updates)) => updates.remove(0),
                other => panic!("{other:?}"),
            }
        };
        for state in ["asleep", "", "ONLINE", &"x".repeat(50_000)] {
            assert_eq!(of(state, "").presence, PresenceState::Offline, "{state:.20}");
        }
        assert_eq!(of("unavailable", "").presence, PresenceState::Unavailable);
        let said = of("online", &"x".repeat(480_000)).status_msg.unwrap();
        assert_eq!(said.len(), names::STATUS_LEN);
        let odd = json!({"user_id": "@a b:x", "presence": "online"});
        let good = json!({"user_id": "@a:x", "presence": "online", "status_msg": null});
        let both = read("m.presence", &json!({"push": [odd, good]}));
        assert!(matches!(&both, Ok(Edu::Presence(updates)) if updates.len() == 1), "{both:?}");
    }

    #[test]
    fn receipts_are_of_threads_that_can_be() {
        let long = format!("${}", "x".repeat(300));
        for (thread, kept) in [
            (json!(null), true),
            (json!("main"), true),
            (json!("$root"), true),
            (json!(""), false),
            (json!("anything"), false),
            (json!(long), false),
        ] {
            let one = json!({"event_ids": ["$e"], "data": {"ts": 5, "thread_id": thread}});
            let found = read("m.receipt", &json!({"!r:x": {"m.read": {"@a:x": one}}}));
            let Ok(Edu::Receipt(rooms)) = found else { panic!("{found:?}") };
            assert_eq!(rooms.values().flatten().count() == 1, kept, "{thread:.20}");
        }
        let typing = json!({"room_id": "!r:x", "user_id": "@A:x", "typing": true});
        assert!(read("m.typing", &typing).is_err(), "a user id of old");
    }

    #[test]
    fn to_device_messages_have_short_fields_and_objects() {
        let message = |kind: &str, id: &str, device: &str, content: Value| {
            json!({
                "sender": "@a:x", "type": kind, "message_id": id,
                "messages": {"@b:y": {device: content}},
            })
        };
        let long = "x".repeat(FIELD_LEN + 1);
        let good = message("m.x", "1", "D", json!({"a": 1}));
        assert!(matches!(read("m.direct_to_device", &good), Ok(Edu::ToDevice(_))));
        for bad in [
            message(&long, "1", "D", json!({})),
            message("m.x", &long, "D", json!({})),
            message("m.x", "1", &long, json!({})),
            message("m.x", "1", "D", json!([])),
        ] {
            assert!(read("m.direct_to_device", &bad).is_err(), "{:.80}", bad.to_string());
        }
    }

    #[test]
    fn what_fits_a_to_device_message_fits_the_edu() {
        let nested = |levels: usize| {
            let inner = (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
            RawValue::from_string(inner.to_string()).unwrap()
        };
        let deepest = to_device_content(&nested(TO_DEVICE_NESTING)).unwrap();
        let edu = json!({
            "sender": "@a:x", "type": "m.x", "message_id": "1",
            "messages": {"@b:y": {"D": deepest}},
        });
        assert!(matches!(read("m.direct_to_device", &edu), Ok(Edu::ToDevice(_))));
        assert!(to_device_content(&nested(TO_DEVICE_NESTING + 1)).is_err());
        for bad in [
            r#"{"a":9007199254740993}"#,
            r#"{"a":0.5}"#,
            r#"{"a":"\ud800"}"#,
            "[]",
            "{\"a\":1e400}",
        ] {
            let content = RawValue::from_string(bad.to_owned()).unwrap();
            assert!(to_device_content(&content).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_edu_of_any_depth_is_refused_without_harm() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(r#"{{"edu_type":"m.presence","content":{{"push":{deep}}}}}"#);
        let found = Edu::read(&RawValue::from_string(text).unwrap());
        assert!(matches!(found, Err(ProtoError::Malformed { .. })));
    }

    #[test]
    fn fuzz_edus() {
        let receipt = json!({"event_ids": ["$e"], "data": {"ts": 5, "thread_id": "main"}});
        let edu = |kind: &str, content: Value| json!({"edu_type": kind, "content": content});
        let list = [
            edu("m.typing", json!({"room_id": "!r:x", "user_id": "@a:x", "typing": true})),
            edu("m.receipt", json!({"!r:x": {"m.read": {"@a:x": receipt}}})),
            edu(
                "m.presence",
                json!({"push": [{
                    "user_id": "@a:x", "presence": "online", "last_active_ago": 5,
                    "status_msg": "here", "currently_active": true,
                }]}),
            ),
            edu(HEADS, json!({"room_id": "!r:x", "extremities": ["$e"]})),
            edu("m.device_list_update", json!({"user_id": "@a:x", "stream_id": 5})),
            edu(
                "m.direct_to_device",
                json!({
                    "sender": "@a:x", "type": "m.x", "message_id": "1",
                    "messages": {"@b:y": {"*": {"a": 1}}},
                }),
            ),
        ];
        crate::fuzz::bytes(
            "edus",
            list.iter().map(|value| value.to_string().into_bytes()).collect(),
            |input| {
                let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
                let Ok(raw) = RawValue::from_string(text.to_owned()) else {
                    return "no JSON".to_owned();
                };
                let found = Edu::read(&raw);
                let _ = is_of_type(&raw, &["m.typing"]);
                match &found {
                    Ok(Edu::Presence(updates)) => {
                        for update in updates {
                            let said = update.status_msg.as_deref().unwrap_or_default();
                            assert!(said.len() <= names::STATUS_LEN);
                            assert!(update.presence.as_str().len() < 20);
                        }
                    }
                    Ok(Edu::Receipt(rooms)) => {
                        for told in rooms.values().flatten() {
                            let thread = told.thread_id.as_deref().unwrap_or_default();
                            assert!(thread.len() <= FIELD_LEN);
                        }
                    }
                    Ok(Edu::ToDevice(message)) => {
                        for content in message.messages.values().flat_map(BTreeMap::values) {
                            let _ = json!({"content": content});
                            let _ = to_device_content(content);
                        }
                    }
                    Ok(edu) => drop(edu.room_id()),
                    Err(_) => {}
                }
                crate::fuzz::said(found)
            },
        );
    }
}
