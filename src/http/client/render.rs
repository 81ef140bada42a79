//! Stored events as clients get them, and which of them a filter lets through.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    api::client::filter::{Filter, RoomEventFilter, UrlFilter},
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    actors::store::{Bundle, Bundles, EventFilter, StoredEvent, Thread},
    proto::client_event::{Unsigned, render, render_federation, shown_content},
};

/// In which form a client wants its events (`event_format` and `event_fields` of a filter).
#[derive(Debug, Default)]
pub(super) struct Form {
    /// As servers give them to one another.
    pub(super) federation: bool,
    /// Only these fields, each as the names on the way to it; none: all.
    pub(super) fields: Option<Vec<Vec<String>>>,
}

impl Form {
    /// Reads the fields: names on a way are parted by dots, and a dot in a name is written `\.`.
    pub(super) fn new(federation: bool, fields: Option<&[String]>) -> Self {
        let fields = fields.map(|fields| fields.iter().map(|field| way_to(field)).collect());
        Self { federation, fields }
    }

    /// Leaves out what is not wanted, but for what no event is understood without: a server may give
    /// more than it was asked for, and the definitions of events call it required.
    fn only(&self, event: Box<RawValue>) -> Option<Box<RawValue>> {
        let Some(fields) = &self.fields else { return Some(event) };
        let event: Value = serde_json::from_str(event.get()).ok()?;
        let mut kept = Map::new();
        for name in NEEDED {
            copy(&event, &[name.to_owned()], &mut kept);
        }
        copy(&event, &["unsigned".to_owned(), "redacted_because".to_owned()], &mut kept);
        kept.insert("content".to_owned(), needed_content(&event));
        for way in fields {
            copy(&event, way, &mut kept);
        }
        to_raw_value(&kept).ok()
    }
}

/// Fields of every event that are always shown.
const NEEDED: [&str; 7] =
    ["event_id", "origin_server_ts", "redacts", "room_id", "sender", "state_key", "type"];
/// Fields of the content of messages that are always shown.
const NEEDED_OF_MESSAGES: [&str; 6] = ["body", "file", "geo_uri", "info", "msgtype", "url"];

/// Returns the part of the content that is always shown: all of it where the specification defines
/// it, or where it is state.
fn needed_content(event: &Value) -> Value {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let content = event.get("content").unwrap_or(&Value::Null);
    match kind {
        _ if event.get("state_key").is_some() => content.clone(),
        "m.room.message" => {
            let mut kept = Map::new();
            for name in NEEDED_OF_MESSAGES {
                copy(content, &[name.to_owned()], &mut kept);
            }
            Value::Object(kept)
        }
        _ if kind.starts_with("m.") => content.clone(),
        _ => Value::Object(Map::new()),
    }
}

fn way_to(field: &str) -> Vec<String> {
    let mut way = vec![String::new()];
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        let name = match (letter, way.last_mut()) {
            ('.', _) => {
                way.push(String::new());
                continue;
            }
            (_, Some(name)) => name,
            (_, None) => break,
        };
        match letter {
            '\\' => name.extend(letters.next()),
            letter => name.push(letter),
        }
    }
    way
}

/// Copies what is at the end of a way, with all on the way; nothing where there is no such thing.
fn copy(from: &Value, way: &[String], to: &mut Map<String, Value>) {
    let Some((name, rest)) = way.split_first() else { return };
    let there = way.iter().try_fold(from, |at, name| at.get(name));
    let (Some(value), Some(_)) = (from.get(name), there) else { return };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
        return;
    }
    let inner = to.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        copy(value, rest, inner);
    }
}

/// How events are shown: to whom, when, and with what around them.
pub(super) struct View<'a> {
    /// The time, in milliseconds.
    pub(super) now: u64,
    /// The device that asks, which sees its own transaction ids.
    pub(super) user_id: &'a UserId,
    pub(super) device_id: &'a str,
    /// The room, where it is not known from around.
    pub(super) room_id: Option<&'a RoomId>,
    /// Redaction events by id.
    pub(super) redactions: &'a HashMap<OwnedEventId, StoredEvent>,
    /// Replaced state events by the id of the newer one.
    pub(super) replaced: Option<&'a HashMap<OwnedEventId, StoredEvent>>,
    /// What is added to events of those that relate to them.
    pub(super) bundles: Option<&'a Bundles>,
    /// The form of the events; none for that of clients, whole.
    pub(super) form: Option<&'a Form>,
}

#[derive(Deserialize)]
struct Sent {
    sender: OwnedUserId,
    origin_server_ts: u64,
}

#[derive(Deserialize)]
struct WithContent<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Returns the content of a stored event as clients get it.
pub(super) fn content_of(json: &str) -> serde_json::Result<Box<RawValue>> {
    let WithContent { kind, content } = serde_json::from_str(json)?;
    Ok(shown_content(kind.get(), content).into_owned())
}

fn sender_of(json: &str) -> serde_json::Result<Box<RawValue>> {
    #[derive(Deserialize)]
    struct WithSender {
        sender: Box<RawValue>,
    }
    serde_json::from_str::<WithSender>(json).map(|event| event.sender)
}

impl View<'_> {
    /// Renders an event; one that cannot be read is left out rather than all that came with it.
    pub(super) fn event(&self, event: &StoredEvent) -> Option<Box<RawValue>> {
        let mut unsigned = self.bare(event);
        unsigned.redacted_because = event
            .redacted_because
            .as_ref()
            .and_then(|id| self.redactions.get(id))
            .and_then(|redaction| self.write(redaction, &self.bare(redaction)));
        if let Some(older) = self.replaced.and_then(|replaced| replaced.get(&event.event_id)) {
            unsigned.prev_content = content_of(&older.json).ok();
            unsigned.prev_sender = sender_of(&older.json).ok();
            unsigned.replaces_state = Some(older.event_id.to_string());
        }
        if let Some(bundle) = self.bundles.and_then(|bundles| bundles.get(&event.event_id)) {
            unsigned.relations = self.relations(bundle);
        }
        let shown = self.write(event, &unsigned)?;
        match self.form {
            Some(form) => form.only(shown),
            None => Some(shown),
        }
    }

    /// Renders events.
    pub(super) fn events<'e>(
        &self,
        events: impl IntoIterator<Item = &'e StoredEvent>,
    ) -> Vec<Box<RawValue>> {
        events.into_iter().filter_map(|event| self.event(event)).collect()
    }

    /// Renders what is added to an event.
    fn relations(&self, bundle: &Bundle) -> Option<Box<RawValue>> {
        let Bundle { edit, thread, references } = bundle;
        let mut relations: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
        if let Some(edit) = edit {
            relations.insert("m.replace", self.write(edit, &self.bare(edit))?);
        }
        if let Some(Thread { latest, latest_edit, count, participated }) = thread {
            let mut unsigned = self.bare(latest);
            if let Some(edit) = latest_edit {
                let edit = Bundle { edit: Some(edit.clone()), ..Bundle::default() };
                unsigned.relations = self.relations(&edit);
            }
            #[derive(Serialize)]
            struct Shown {
                latest_event: Box<RawValue>,
                count: u64,
                current_user_participated: bool,
            }
            let latest_event = self.write(latest, &unsigned)?;
            let (count, current_user_participated) = (*count, *participated);
            let shown = Shown { latest_event, count, current_user_participated };
            relations.insert("m.thread", to_raw_value(&shown).ok()?);
        }
        if !references.is_empty() {
            let chunk = references.iter().map(|event_id| json!({"event_id": event_id}));
            let chunk: Vec<Value> = chunk.collect();
            relations.insert("m.reference", to_raw_value(&json!({"chunk": chunk})).ok()?);
        }
        to_raw_value(&relations).ok().filter(|_| !relations.is_empty())
    }

    fn bare(&self, event: &StoredEvent) -> Unsigned {
        let sent = serde_json::from_str::<Sent>(&event.json).ok();
        // Two of our users may have given their devices the same id.
        let txn = event.txn.as_ref().filter(|txn| {
            txn.device_id == self.device_id
                && sent.as_ref().is_some_and(|sent| sent.sender == self.user_id)
        });
        Unsigned {
            age: sent.map(|sent| self.now.saturating_sub(sent.origin_server_ts)),
            transaction_id: txn.map(|txn| txn.txn_id.clone()),
            ..Unsigned::default()
        }
    }

    fn write(&self, event: &StoredEvent, unsigned: &Unsigned) -> Option<Box<RawValue>> {
        let written = match self.form {
            Some(Form { federation: true, .. }) => {
                render_federation(&event.json, &event.event_id, unsigned)
            }
            _ => render(&event.json, &event.event_id, self.room_id, unsigned),
        };
        match written {
            Ok(shown) => Some(shown),
            Err(why) => {
                log::error!(event_id:% = event.event_id, why:%; "a stored event is unreadable");
                None
            }
        }
    }
}

/// What the filters here and in the Store look at.
pub(super) trait Sieve {
    /// All that is looked at.
    fn parts(&self) -> EventFilter;

    /// Tells whether an event with this type and sender is let through.
    fn allows(&self, kind: &str, sender: Option<&str>) -> bool {
        self.parts().allows(kind, sender)
    }
}

impl Sieve for RoomEventFilter {
    fn parts(&self) -> EventFilter {
        EventFilter {
            rooms: self.rooms.clone(),
            not_rooms: self.not_rooms.clone(),
            contains_url: self.url_filter.as_ref().map(|url| *url == UrlFilter::EventsWithUrl),
            types: self.types.clone(),
            not_types: self.not_types.clone(),
            senders: self.senders.clone(),
            not_senders: self.not_senders.clone(),
        }
    }
}

impl Sieve for Filter {
    fn parts(&self) -> EventFilter {
        EventFilter {
            types: self.types.clone(),
            not_types: self.not_types.clone(),
            senders: self.senders.clone(),
            not_senders: self.not_senders.clone(),
            ..EventFilter::default()
        }
    }
}

/// Returns the events of a room that a filter lets through.
pub(super) fn passing<'e>(
    filter: &RoomEventFilter,
    room_id: &RoomId,
    events: &'e [StoredEvent],
) -> Vec<&'e StoredEvent> {
    if filter.is_empty() {
        return events.iter().collect();
    }
    let parts = filter.parts();
    if !parts.allows_room(room_id) {
        return Vec::new();
    }
    events.iter().filter(|event| parts.allows_event(&event.json)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use ruma::{event_id, room_id, user_id};

    use super::*;
    use crate::actors::store::{ClientTxn, Place, TxnEndpoint};

    pub(crate) fn stored(event_id: &str, json: &str) -> StoredEvent {
        StoredEvent {
            event_id: event_id.try_into().unwrap(),
            json: Arc::from(json),
            place: Place::Live,
            state_group: None,
            order: Some(crate::proto::stream::Order::live(1)),
            spoilt: false,
            txn: None,
            redacted_because: None,
        }
    }

    const TOPIC: &str = r#"{"content":{"topic":"new"},"origin_server_ts":40,"sender":"@a:x","state_key":"","type":"m.room.topic"}"#;

    #[test]
    fn unsigned_has_age_txn_prev_content_and_redaction() {
        let mut event = stored("$e", TOPIC);
        event.txn = Some(ClientTxn {
            device_id: "D".into(),
            endpoint: TxnEndpoint::Send,
            txn_id: "t".into(),
        });
        event.redacted_because = Some(event_id!("$r").to_owned());
        let old = stored("$old", &TOPIC.replace("new", "old").replace("@a:x", "@b:x"));
        let redaction = stored(
            "$r",
            r#"{"content":{},"origin_server_ts":50,"sender":"@a:x","type":"m.room.redaction"}"#,
        );
        let redactions = HashMap::from([(event_id!("$r").to_owned(), redaction)]);
        let replaced = HashMap::from([(event_id!("$e").to_owned(), old)]);
        let view = |device_id| View {
            now: 100,
            user_id: user_id!("@a:x"),
            device_id,
            room_id: Some(room_id!("!r:x")),
            redactions: &redactions,
            replaced: Some(&replaced),
            bundles: None,
            form: None,
        };
        let shown: serde_json::Value =
            serde_json::from_str(view("D").event(&event).unwrap().get()).unwrap();
        let unsigned = &shown["unsigned"];
        assert_eq!(unsigned["age"], 60);
        assert_eq!(unsigned["transaction_id"], "t");
        assert_eq!(unsigned["prev_content"]["topic"], "old");
        assert_eq!(unsigned["replaces_state"], "$old");
        assert_eq!(unsigned["prev_sender"], "@b:x", "who invited, where this is the join");
        assert_eq!(unsigned["redacted_because"]["event_id"], "$r");
        let other = view("E").event(&event).unwrap();
        assert!(!other.get().contains("transaction_id"), "another device saw it: {other}");
    }

    #[test]
    fn an_unreadable_event_does_not_spoil_the_others() {
        let view = View {
            now: 0,
            user_id: user_id!("@a:x"),
            device_id: "D",
            room_id: None,
            redactions: &HashMap::new(),
            replaced: None,
            bundles: None,
            form: None,
        };
        assert_eq!(view.events(&[stored("$a", "{}"), stored("$b", TOPIC)]).len(), 1);
    }

    #[test]
    fn filters_look_at_room_type_sender_and_url() {
        let image = stored(
            "$i",
            r#"{"content":{"url":"mxc://x/y"},"sender":"@a:x","type":"m.room.message"}"#,
        );
        let passes = |filter: &RoomEventFilter| {
            !passing(filter, room_id!("!r:x"), std::slice::from_ref(&image)).is_empty()
        };
        let mut filter = RoomEventFilter::default();
        assert!(passes(&filter));
        filter.url_filter = Some(UrlFilter::EventsWithUrl);
        assert!(passes(&filter));
        filter.not_senders = vec!["@a:x".try_into().unwrap()];
        assert!(!passes(&filter));
        let types = Some(vec!["m.room.member".to_owned()]);
        let mut filter = RoomEventFilter::default();
        filter.types = types;
        assert!(!passes(&filter));
        let mut filter = RoomEventFilter::default();
        filter.not_rooms = vec![room_id!("!r:x").to_owned()];
        assert!(!passes(&filter));
    }

    fn only(event: &Value, fields: &[&str]) -> Value {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let only = Form::new(false, Some(&fields)).only(to_raw_value(event).unwrap()).unwrap();
        serde_json::from_str(only.get()).unwrap()
    }

    #[test]
    fn fields_are_chosen_by_the_way_to_them() {
        let event = serde_json::json!({
            "type": "org.x", "sender": "@a:x", "unsigned": {"age": 5},
            "content": {"a.b": 1, "c": {"d": 2, "e": 3}, "f": 4},
        });
        for (fields, content) in [
            (&["content.c.d", "content.f"][..], serde_json::json!({"c": {"d": 2}, "f": 4})),
            (&[r"content.a\.b"], serde_json::json!({"a.b": 1})),
            (&["content.f.g", "none", ""], serde_json::json!({})),
            (&[], serde_json::json!({})),
            (&["content"], event["content"].clone()),
        ] {
            let shown = only(&event, fields);
            let expected =
                serde_json::json!({"type": "org.x", "sender": "@a:x", "content": content});
            assert_eq!(shown, expected, "{fields:?}");
        }
        assert_eq!(only(&event, &["unsigned.age"])["unsigned"]["age"], 5);
    }

    #[test]
    fn an_event_keeps_what_it_is_not_understood_without() {
        let message = serde_json::json!({
            "type": "m.room.message",
            "content": {"msgtype": "m.text", "body": "x", "format": "f", "m.mentions": {}},
            "unsigned": {"age": 5, "redacted_because": {"type": "m.room.redaction"}},
        });
        let shown = only(&message, &["type"]);
        assert_eq!(shown["content"], serde_json::json!({"msgtype": "m.text", "body": "x"}));
        assert!(shown["unsigned"]["age"].is_null(), "{shown}");
        assert!(shown["unsigned"]["redacted_because"].is_object(), "{shown}");
        let member = serde_json::json!({
            "type": "m.room.member", "state_key": "@a:x", "content": {"membership": "join"},
        });
        assert_eq!(only(&member, &["type"]), member);
    }
}
