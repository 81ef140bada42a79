//! Events in the form that clients get (Client-Server API, "Room event format").

use std::{borrow::Cow, collections::BTreeMap};

use ruma::{EventId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{ProtoError, names};

/// The type of memberships, as it stands in JSON.
const MEMBER: &str = "\"m.room.member\"";

/// What the server adds to an event, none of it signed.
#[derive(Debug, Default, Clone)]
pub struct Unsigned {
    /// Milliseconds since the event was sent.
    pub age: Option<u64>,
    /// The client's own id, for the device that sent the event.
    pub transaction_id: Option<String>,
    /// The content that a state event replaced.
    pub prev_content: Option<Box<RawValue>>,
    /// The event that a state event replaced.
    pub replaces_state: Option<String>,
    /// Who sent that one. Not in the specification, and still what clients tell by who began a
    /// direct chat: whoever joins replaces an invite, whose sender it was.
    pub prev_sender: Option<Box<RawValue>>,
    /// The redaction of the event, already in client form.
    pub redacted_because: Option<Box<RawValue>>,
    /// What is added of the events that relate to it, already in client form.
    pub relations: Option<Box<RawValue>>,
}

impl Unsigned {
    fn rendered(&self) -> Option<RenderedUnsigned<'_>> {
        let Self {
            age,
            transaction_id,
            prev_content,
            replaces_state,
            prev_sender,
            redacted_because,
            relations,
        } = self;
        let empty = age.is_none()
            && transaction_id.is_none()
            && prev_content.is_none()
            && redacted_because.is_none()
            && relations.is_none();
        (!empty).then_some(RenderedUnsigned {
            age: *age,
            relations: relations.as_deref(),
            prev_content: prev_content.as_deref(),
            prev_sender: prev_sender.as_deref(),
            redacted_because: redacted_because.as_deref(),
            replaces_state: replaces_state.as_deref(),
            transaction_id: transaction_id.as_deref(),
        })
    }
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a RawValue,
    #[serde(borrow)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Rendered<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a RawValue>,
    #[serde(rename = "type")]
    kind: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsigned: Option<RenderedUnsigned<'a>>,
}

#[derive(Serialize)]
struct RenderedUnsigned<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    relations: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_sender: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct RedactsContent<'a> {
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

/// Returns the content of an event as clients get it. `kind` is its type as JSON. What people call
/// themselves is theirs to choose, and no reason to refuse an event; shown is what is a name, and
/// what is an avatar.
pub fn shown_content<'a>(kind: &str, content: &'a RawValue) -> Cow<'a, RawValue> {
    let unchanged = Cow::Borrowed(content);
    if kind != MEMBER {
        return unchanged;
    }
    let (mut changed, mut name) = (false, None);
    let Ok(mut fields) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(content.get())
    else {
        return unchanged;
    };
    if let Some(given) = fields.get("displayname") {
        match serde_json::from_str::<Option<Cow<'_, str>>>(given.get()) {
            Ok(None) => {}
            Ok(Some(given)) if names::check_name(&given).is_ok() => {}
            Ok(Some(given)) => name = to_raw_value(&names::shown_name(&given)).ok(),
            Err(_) => changed |= fields.remove("displayname").is_some(),
        }
    }
    if let Some(given) = fields.get("avatar_url") {
        let given = serde_json::from_str::<Option<Cow<'_, str>>>(given.get());
        let good = given.is_ok_and(|given| {
            given.is_none_or(|url| url.is_empty() || names::shown_avatar(&url).is_some())
        });
        changed |= !good && fields.remove("avatar_url").is_some();
    }
    if let Some(name) = &name {
        fields.insert(Cow::Borrowed("displayname"), name);
        changed = true;
    }
    match to_raw_value(&fields) {
        Ok(fields) if changed => Cow::Owned(fields),
        _ => unchanged,
    }
}

/// Renders the JSON of a PDU for a client: the fields of the spec, taken over byte for byte.
///
/// `room_id` is left out inside `/sync`, where the room is known from around. The target of a
/// redaction stands both at the top level and in the content, for clients from before room version
/// 11 and after.
pub fn render(
    json: &str,
    event_id: &EventId,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned,
) -> Result<Box<RawValue>, ProtoError> {
    let malformed = |error| ProtoError::malformed("stored event", error);
    let stored: Stored<'_> = serde_json::from_str(json).map_err(malformed)?;
    let redacts = match stored.redacts {
        None if stored.kind.get() == "\"m.room.redaction\"" => {
            serde_json::from_str::<RedactsContent<'_>>(stored.content.get())
                .ok()
                .and_then(|c| c.redacts)
        }
        redacts => redacts,
    };
    let content = match stored.redacts {
        // And in the content, where those since version 11 look.
        Some(target) if stored.kind.get() == "\"m.room.redaction\"" => {
            with_field(stored.content.get(), "redacts", target).map_err(malformed)?
        }
        _ => None,
    };
    let content = shown_content(stored.kind.get(), content.as_deref().unwrap_or(stored.content));
    let rendered = Rendered {
        content: &content,
        event_id,
        origin_server_ts: stored.origin_server_ts,
        redacts,
        room_id,
        sender: stored.sender,
        state_key: stored.state_key,
        kind: stored.kind,
        unsigned: unsigned.rendered(),
    };
    to_raw_value(&rendered).map_err(malformed)
}

/// Renders the JSON of a PDU as servers give it to one another, with what the server adds and the
/// event id, by which clients tell events apart.
pub fn render_federation(
    json: &str,
    event_id: &EventId,
    unsigned: &Unsigned,
) -> Result<Box<RawValue>, ProtoError> {
    let malformed = |error| ProtoError::malformed("stored event", error);
    let mut event: serde_json::Map<String, Value> =
        serde_json::from_str(json).map_err(malformed)?;
    event.insert("event_id".to_owned(), Value::from(event_id.as_str()));
    if let Some(unsigned) = unsigned.rendered() {
        let unsigned = serde_json::to_value(unsigned).map_err(malformed)?;
        event.insert("unsigned".to_owned(), unsigned);
    }
    serde_json::value::to_raw_value(&event).map_err(malformed)
}

/// Adds a field to an object that does not have it.
fn with_field(
    json: &str,
    name: &str,
    value: &RawValue,
) -> Result<Option<Box<RawValue>>, serde_json::Error> {
    let mut object: serde_json::Map<String, Value> = serde_json::from_str(json)?;
    if object.contains_key(name) {
        return Ok(None);
    }
    object.insert(name.to_owned(), serde_json::from_str(value.get())?);
    serde_json::value::to_raw_value(&object).map(Some)
}

/// Renders a state event as stripped state (`m.room.member` of an invite and the like).
pub fn stripped(json: &str) -> Result<Box<RawValue>, ProtoError> {
    #[derive(Serialize)]
    struct Stripped<'a> {
        content: &'a RawValue,
        sender: &'a RawValue,
        state_key: Option<&'a RawValue>,
        #[serde(rename = "type")]
        kind: &'a RawValue,
    }
    let malformed = |error| ProtoError::malformed("stored event", error);
    let Stored { kind, state_key, sender, content, .. } =
        serde_json::from_str(json).map_err(malformed)?;
    let content = shown_content(kind.get(), content);
    to_raw_value(&Stripped { content: &content, sender, state_key, kind }).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id};

    use super::*;

    const PDU: &str = r#"{"auth_events":[],"content":{"body":"x"},"depth":1,"hashes":{},"origin_server_ts":5,"prev_events":[],"room_id":"!r:x","sender":"@a:x","signatures":{},"type":"m.room.message"}"#;

    #[test]
    fn clients_see_the_fields_of_the_spec_only() {
        let bare = render(PDU, event_id!("$e"), None, &Unsigned::default()).unwrap();
        assert_eq!(
            bare.get(),
            r#"{"content":{"body":"x"},"event_id":"$e","origin_server_ts":5,"sender":"@a:x","type":"m.room.message"}"#
        );
        let unsigned =
            Unsigned { age: Some(3), transaction_id: Some("t".into()), ..Default::default() };
        let full = render(PDU, event_id!("$e"), Some(room_id!("!r:x")), &unsigned).unwrap();
        assert!(full.get().contains(r#""unsigned":{"age":3,"transaction_id":"t"}"#), "{full}");
        assert!(full.get().contains(r#""room_id":"!r:x""#), "{full}");
    }

    #[test]
    fn names_and_avatars_are_cleaned_in_memberships_only() {
        let shown = |kind: &str, content: &str| {
            let pdu = PDU.replace("m.room.message", kind).replace(r#"{"body":"x"}"#, content);
            let event = render(&pdu, event_id!("$e"), None, &Unsigned::default()).unwrap();
            let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
            event["content"].to_string()
        };
        let odd = r#"{"avatar_url":"javascript:alert(1)","displayname":"a\u202eb\nc","x":[1]}"#;
        assert_eq!(shown("m.room.member", odd), r#"{"displayname":"abc","x":[1]}"#);
        assert!(shown("m.other", odd).contains("javascript"));
        for good in [
            r#"{"avatar_url":"mxc://x/y","displayname":"Zoë","membership":"join"}"#,
            r#"{"displayname":null,"membership":"leave"}"#,
            r#"{"avatar_url":"","membership":"leave"}"#,
        ] {
            assert_eq!(shown("m.room.member", good), good);
        }
        let none = r#"{"avatar_url":["x"],"displayname":{"a":1}}"#;
        assert_eq!(shown("m.room.member", none), "{}");
        let long = format!(r#"{{"displayname":"{}"}}"#, "x".repeat(60_000));
        assert!(shown("m.room.member", &long).len() < 300);
    }

    #[test]
    fn the_form_of_servers_has_everything_that_was_signed() {
        let unsigned = Unsigned { age: Some(3), ..Default::default() };
        let event = render_federation(PDU, event_id!("$e"), &unsigned).unwrap();
        let mut event: Value = serde_json::from_str(event.get()).unwrap();
        let fields = event.as_object_mut().unwrap();
        assert_eq!(fields.remove("event_id").unwrap(), "$e");
        assert_eq!(fields.remove("unsigned").unwrap()["age"], 3);
        assert_eq!(event, serde_json::from_str::<Value>(PDU).unwrap());
    }

    #[test]
    fn a_redaction_of_version_10_names_its_target_in_the_content_too() {
        let pdu = PDU.replace("m.room.message", "m.room.redaction");
        let pdu = pdu.replace(r#""room_id""#, r#""redacts":"$t","room_id""#);
        let event = render(&pdu, event_id!("$e"), None, &Unsigned::default()).unwrap();
        let event: Value = serde_json::from_str(event.get()).unwrap();
        assert_eq!((&event["redacts"], &event["content"]["redacts"]), (&"$t".into(), &"$t".into()));
        assert_eq!(event["content"]["body"], "x");
    }

    #[test]
    fn a_redaction_of_version_11_names_its_target_at_the_top_too() {
        let pdu = PDU
            .replace("m.room.message", "m.room.redaction")
            .replace(r#"{"body":"x"}"#, r#"{"redacts":"$t"}"#);
        let event = render(&pdu, event_id!("$e"), None, &Unsigned::default()).unwrap();
        assert!(event.get().contains(r#""origin_server_ts":5,"redacts":"$t""#), "{event}");
    }
}
