//! Stored events as clients get them, and which of them a filter lets through.

use std::collections::HashMap;

use ruma::{
    OwnedEventId, RoomId,
    api::client::filter::{Filter, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    actors::store::{EventFilter, StoredEvent},
    proto::client_event::{Unsigned, render, shown_content},
};

/// How events are shown: to whom, when, and with what around them.
pub(super) struct View<'a> {
    /// The time, in milliseconds.
    pub(super) now: u64,
    /// The device that asks, which sees its own transaction ids.
    pub(super) device_id: &'a str,
    /// The room, where it is not known from around.
    pub(super) room_id: Option<&'a RoomId>,
    /// Redaction events by id.
    pub(super) redactions: &'a HashMap<OwnedEventId, StoredEvent>,
    /// Replaced state events by the id of the newer one.
    pub(super) replaced: Option<&'a HashMap<OwnedEventId, StoredEvent>>,
}

#[derive(Deserialize)]
struct Sent {
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
            unsigned.replaces_state = Some(older.event_id.to_string());
        }
        self.write(event, &unsigned)
    }

    /// Renders events.
    pub(super) fn events<'e>(
        &self,
        events: impl IntoIterator<Item = &'e StoredEvent>,
    ) -> Vec<Box<RawValue>> {
        events.into_iter().filter_map(|event| self.event(event)).collect()
    }

    fn bare(&self, event: &StoredEvent) -> Unsigned {
        let sent = serde_json::from_str::<Sent>(&event.json).ok();
        let txn = event.txn.as_ref().filter(|txn| txn.device_id == self.device_id);
        Unsigned {
            age: sent.map(|sent| self.now.saturating_sub(sent.origin_server_ts)),
            transaction_id: txn.map(|txn| txn.txn_id.clone()),
            ..Unsigned::default()
        }
    }

    fn write(&self, event: &StoredEvent, unsigned: &Unsigned) -> Option<Box<RawValue>> {
        match render(&event.json, &event.event_id, self.room_id, unsigned) {
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
    /// `types`, `not_types`, `senders`, `not_senders`.
    fn parts(&self) -> EventFilter;

    /// Tells whether an event with this type and sender is let through.
    fn allows(&self, kind: &str, sender: Option<&str>) -> bool {
        self.parts().allows(kind, sender)
    }
}

impl Sieve for RoomEventFilter {
    fn parts(&self) -> EventFilter {
        EventFilter {
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
        }
    }
}

#[derive(Deserialize)]
struct Filtered<'a> {
    #[serde(rename = "type")]
    kind: String,
    sender: String,
    #[serde(borrow)]
    content: HashMap<String, &'a RawValue>,
}

/// Tells whether a filter lets a stored event through.
pub(super) fn passes(filter: &RoomEventFilter, event: &StoredEvent) -> bool {
    if filter.is_empty() {
        return true;
    }
    let Ok(seen) = serde_json::from_str::<Filtered<'_>>(&event.json) else { return false };
    let url = seen.content.contains_key("url");
    filter.allows(&seen.kind, Some(&seen.sender))
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => url,
            Some(UrlFilter::EventsWithoutUrl) => !url,
        }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use ruma::{event_id, room_id};

    use super::*;
    use crate::actors::store::{ClientTxn, Place};

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
        event.txn = Some(ClientTxn { device_id: "D".into(), txn_id: "t".into() });
        event.redacted_because = Some(event_id!("$r").to_owned());
        let old = stored("$old", &TOPIC.replace("new", "old"));
        let redaction = stored(
            "$r",
            r#"{"content":{},"origin_server_ts":50,"sender":"@a:x","type":"m.room.redaction"}"#,
        );
        let redactions = HashMap::from([(event_id!("$r").to_owned(), redaction)]);
        let replaced = HashMap::from([(event_id!("$e").to_owned(), old)]);
        let view = |device_id| View {
            now: 100,
            device_id,
            room_id: Some(room_id!("!r:x")),
            redactions: &redactions,
            replaced: Some(&replaced),
        };
        let shown: serde_json::Value =
            serde_json::from_str(view("D").event(&event).unwrap().get()).unwrap();
        let unsigned = &shown["unsigned"];
        assert_eq!(unsigned["age"], 60);
        assert_eq!(unsigned["transaction_id"], "t");
        assert_eq!(unsigned["prev_content"]["topic"], "old");
        assert_eq!(unsigned["replaces_state"], "$old");
        assert_eq!(unsigned["redacted_because"]["event_id"], "$r");
        let other = view("E").event(&event).unwrap();
        assert!(!other.get().contains("transaction_id"), "another device saw it: {other}");
    }

    #[test]
    fn an_unreadable_event_does_not_spoil_the_others() {
        let view = View {
            now: 0,
            device_id: "D",
            room_id: None,
            redactions: &HashMap::new(),
            replaced: None,
        };
        assert_eq!(view.events(&[stored("$a", "{}"), stored("$b", TOPIC)]).len(), 1);
    }

    #[test]
    fn filters_look_at_type_sender_and_url() {
        let image = stored(
            "$i",
            r#"{"content":{"url":"mxc://x/y"},"sender":"@a:x","type":"m.room.message"}"#,
        );
        let mut filter = RoomEventFilter::default();
        assert!(passes(&filter, &image));
        filter.url_filter = Some(UrlFilter::EventsWithUrl);
        assert!(passes(&filter, &image));
        filter.not_senders = vec!["@a:x".try_into().unwrap()];
        assert!(!passes(&filter, &image));
        let types = Some(vec!["m.room.member".to_owned()]);
        let mut filter = RoomEventFilter::default();
        filter.types = types;
        assert!(!passes(&filter, &image));
    }
}
