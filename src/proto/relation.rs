//! Relations: what an event says of another one (Client-Server API, "Forming relationships between
//! events").
//!
//! What is related to need not be there, nor be an event: whoever writes chooses.

use ruma::OwnedEventId;
use serde::Deserialize;

/// The relation of a reaction.
pub const ANNOTATION: &str = "m.annotation";
/// The relation of an edit.
pub const REPLACE: &str = "m.replace";
/// The relation of what is said in a thread.
pub const THREAD: &str = "m.thread";
/// The relation of what refers to something, such as an answer to a poll.
pub const REFERENCE: &str = "m.reference";

/// Longest relation type that is kept, in bytes: those of the specification are far shorter.
const REL_TYPE_LEN: usize = 255;
/// How many events are followed from one to what it relates to, to find its thread: as the
/// specification has it for receipts.
pub const THREAD_HOPS: usize = 3;

/// What an event relates to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Relation {
    /// In which way.
    pub rel_type: String,
    /// The event.
    pub event_id: OwnedEventId,
}

impl Relation {
    /// Reads the relation of an event; none where it has none that anybody understands.
    pub fn of_event(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            content: Content,
        }
        // Nearly all events relate to nothing: they are not parsed for it.
        if !json.contains("m.relates_to") {
            return None;
        }
        let event = serde_json::from_str::<Event>(json).ok()?;
        event.content.relation()
    }

    /// Reads the relation of the content of an event.
    pub fn of_content(content: &str) -> Option<Self> {
        if !content.contains("m.relates_to") {
            return None;
        }
        serde_json::from_str::<Content>(content).ok()?.relation()
    }

    /// Tells whether it puts the event into a thread.
    pub fn is_thread(&self) -> bool {
        self.rel_type == THREAD
    }
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Relation,
}

impl Content {
    fn relation(self) -> Option<Relation> {
        Some(self.relates_to).filter(|relation| relation.rel_type.len() <= REL_TYPE_LEN)
    }
}

/// Finds the thread in which an event is: it says so itself, or is about what is in it. `next` reads
/// the relation of another event. None is the main timeline, in which the root of a thread is too.
pub fn thread_of(
    relation: Option<Relation>,
    mut next: impl FnMut(&OwnedEventId) -> Option<Relation>,
) -> Option<OwnedEventId> {
    let mut relation = relation;
    for _ in 0..THREAD_HOPS {
        match relation? {
            found if found.is_thread() => return Some(found.event_id),
            found => relation = next(&found.event_id),
        }
    }
    relation.filter(Relation::is_thread).map(|found| found.event_id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ruma::owned_event_id;

    use super::*;

    fn relation(rel_type: &str, target: &str) -> Relation {
        Relation { rel_type: rel_type.to_owned(), event_id: target.try_into().unwrap() }
    }

    #[test]
    fn relations_are_read_where_there_are_any() {
        let of = |content: &str| Relation::of_event(&format!(r#"{{"content":{content}}}"#));
        let thread = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}"#;
        assert_eq!(of(thread), Some(relation(THREAD, "$root")));
        assert_eq!(Relation::of_content(thread), of(thread));
        let long = format!(
            r#"{{"m.relates_to":{{"rel_type":"{}","event_id":"$root"}}}}"#,
            "x".repeat(REL_TYPE_LEN + 1)
        );
        for none in [
            "{}",
            "7",
            r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"root"}}"#,
            r#"{"m.relates_to":{"rel_type":7,"event_id":"$root"}}"#,
            r#"{"m.relates_to":"m.thread"}"#,
            &long,
        ] {
            assert_eq!(of(none), None, "{none:.99}");
        }
    }

    #[test]
    fn an_event_is_in_the_thread_of_what_it_is_about() {
        let known = HashMap::from([
            (owned_event_id!("$said"), relation(THREAD, "$root")),
            (owned_event_id!("$liked"), relation(ANNOTATION, "$said")),
            (owned_event_id!("$edited"), relation(REPLACE, "$liked")),
            (owned_event_id!("$far"), relation(REFERENCE, "$edited")),
            (owned_event_id!("$round"), relation(REFERENCE, "$round")),
        ]);
        let thread = |first: Option<Relation>| {
            thread_of(first, |id| known.get(id).cloned()).map(|root| root.to_string())
        };
        for (first, expected) in [
            (None, None),
            (Some(relation(THREAD, "$root")), Some("$root")),
            (Some(relation(ANNOTATION, "$said")), Some("$root")),
            (Some(relation(REPLACE, "$liked")), Some("$root")),
            (Some(relation(REPLACE, "$edited")), Some("$root")),
            (Some(relation(REPLACE, "$far")), None),
            (Some(relation(REPLACE, "$round")), None),
            (Some(relation(REPLACE, "$root")), None),
        ] {
            assert_eq!(thread(first.clone()).as_deref(), expected, "{first:?}");
        }
    }
}
