//! Which events a filter lets through.

use std::collections::HashMap;

use ruma::{OwnedUserId, RoomId};
use serde::{Deserialize, de::IgnoredAny};

use super::{EventFilter, events::Head};

impl EventFilter {
    /// Tells whether an event passes. One without a sender passes whatever the senders are.
    pub fn allows(&self, kind: &str, sender: Option<&str>) -> bool {
        let is_one_of = |types: &[String]| types.iter().any(|pattern| matches(pattern, kind));
        let is_from = |users: &[OwnedUserId]| {
            sender.is_some_and(|sender| users.iter().any(|user| user == sender))
        };
        self.types.as_deref().is_none_or(is_one_of)
            && !is_one_of(&self.not_types)
            && self.senders.as_deref().is_none_or(|users| sender.is_none() || is_from(users))
            && !is_from(&self.not_senders)
    }

    /// Tells whether events of a room pass at all.
    pub fn allows_room(&self, room_id: &RoomId) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|room| room == room_id))
            && !self.not_rooms.iter().any(|room| room == room_id)
    }

    /// Tells whether a stored event of a room that passes does.
    pub fn allows_event(&self, json: &str) -> bool {
        serde_json::from_str(json).is_ok_and(|head| self.allows_head(&head, json))
    }

    /// Tells the same, where the head of the event was read before.
    pub(super) fn allows_head(&self, head: &Head, json: &str) -> bool {
        self.allows(&head.kind, Some(head.sender.as_str()))
            && self.contains_url.is_none_or(|wanted| has_url(json) == wanted)
    }

    /// Tells whether nothing is left out.
    pub(super) fn allows_all(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.not_senders.is_empty()
            && self.contains_url.is_none()
            && self.rooms.is_none()
            && self.not_rooms.is_empty()
    }
}

/// Tells whether the content of an event has a `url`.
fn has_url(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Event {
        content: HashMap<String, IgnoredAny>,
    }
    serde_json::from_str::<Event>(json).is_ok_and(|event| event.content.contains_key("url"))
}

/// Tells whether `text` is `pattern`, whose stars stand for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place is as good as any later one, for what follows has more to choose from.
        match text.find(part).and_then(|at| text.get(at..)?.strip_prefix(part)) {
            Some(rest) => text = rest,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("m.room.member", "m.room.member", true),
            ("m.room.member", "m.room.members", false),
            ("*", "", true),
            ("m.room.*", "m.room.member", true),
            ("m.room.*", "m.rooms", false),
            ("*.member", "m.room.member", true),
            ("*.member", "m.room.member.x", false),
            ("m.*.*", "m.room.member", true),
            ("m.*om*er", "m.room.member", true),
            ("m.*x*er", "m.room.member", false),
            ("a*a", "a", false),
            ("a**a", "aa", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "ac", false),
            ("m.*.name", "m.room.topic", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn every_part_of_a_filter_counts() {
        let json = r#"{"sender":"@ann:example.org","type":"m.room.message","content":{"url":"mxc://x/y"}}"#;
        let head: Head = serde_json::from_str(json).unwrap();
        let strings = |text: &str| vec![text.to_owned()];
        let ann = || vec!["@ann:example.org".try_into().unwrap()];
        let none = EventFilter::default;
        for (filter, expected) in [
            (none(), true),
            (EventFilter { types: Some(strings("m.*")), ..none() }, true),
            (EventFilter { types: Some(vec![]), ..none() }, false),
            (EventFilter { not_types: strings("*.message"), ..none() }, false),
            (EventFilter { senders: Some(ann()), ..none() }, true),
            (EventFilter { senders: Some(vec![]), ..none() }, false),
            (EventFilter { not_senders: ann(), ..none() }, false),
            (EventFilter { contains_url: Some(true), ..none() }, true),
            (EventFilter { contains_url: Some(false), ..none() }, false),
        ] {
            assert_eq!(filter.allows_head(&head, json), expected, "{filter:?}");
            assert_eq!(filter.allows_event(json), expected, "{filter:?}");
        }
        assert!(none().allows_room(room_id!("!a:x")));
        let only = EventFilter { rooms: Some(vec![room_id!("!a:x").to_owned()]), ..none() };
        assert!(only.allows_room(room_id!("!a:x")) && !only.allows_room(room_id!("!b:x")));
        let not = EventFilter { not_rooms: vec![room_id!("!a:x").to_owned()], ..only };
        assert!(!not.allows_room(room_id!("!a:x")), "what is excluded stays out");
    }
}
