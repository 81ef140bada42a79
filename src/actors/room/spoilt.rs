//! Spoilt copies of events that are not here: a whole one is looked for before the redacted one counts.
//! Pure.
//!
//! Invariants: the work is charged to whoever handed the copies over. Of each few wait, one is looked
//! for at a time, and what waits is dropped where they do not answer: what is real comes again when
//! heads are compared. Nobody's copies take the place of another's.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::{EventId, OwnedServerName, ServerName};

use crate::proto::pdu::Received;

/// Copies of one server that wait.
const PEER: usize = 32;
/// Copies that wait in a room: 8 MiB at worst.
const ROOM: usize = 128;

/// A spoilt copy.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) received: Received,
    /// It came by gossip, so others look for a whole one at the same moment.
    pub(super) gossiped: bool,
}

/// What waits, by who handed it over.
#[derive(Debug, Default)]
pub(super) struct Spoilt {
    waiting: HashMap<OwnedServerName, VecDeque<Copy>>,
    /// Those of whose copies one is being looked for.
    busy: HashSet<OwnedServerName>,
}

impl Spoilt {
    /// Lets a copy wait, unless there is no place for it or the event waits already.
    pub(super) fn push(&mut self, from: &ServerName, copy: Copy) {
        let id = &copy.received.pdu.event_id;
        let all: usize = self.waiting.values().map(VecDeque::len).sum();
        let own = self.waiting.get(from).map_or(0, VecDeque::len);
        if all < ROOM && own < PEER && !self.has(id) {
            self.waiting.entry(from.to_owned()).or_default().push_back(copy);
        }
    }

    fn has(&self, id: &EventId) -> bool {
        self.waiting.values().flatten().any(|copy| copy.received.pdu.event_id == *id)
    }

    /// Returns the next copy of a server to be looked for; [`Self::end`] is owed then.
    pub(super) fn begin(&mut self, from: &ServerName) -> Option<Copy> {
        if self.busy.contains(from) {
            return None;
        }
        let waiting = self.waiting.get_mut(from)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(from);
        }
        if next.is_some() {
            self.busy.insert(from.to_owned());
        }
        next
    }

    /// A copy was looked for. `gone`: whoever handed it over does not answer.
    pub(super) fn end(&mut self, from: &ServerName, gone: bool) {
        self.busy.remove(from);
        if gone {
            self.waiting.remove(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, server_name};

    use super::*;
    use crate::actors::room::machine::tests::{draft, room};

    /// As many spoilt copies of different events.
    fn copies(count: usize) -> Vec<Copy> {
        let mut ann = room(&RoomVersionId::V12, 1);
        let keys = ann.signer.server_keys().clone();
        let keys = crate::proto::server_keys::VerifiedServerKeys::verify(
            keys,
            crate::actors::room::machine::tests::NOW,
        );
        let keys = keys.unwrap();
        let copy = |number: usize| {
            let content = serde_json::json!({"body": number});
            let pdu = (*ann.send(draft("m.room.message", None, content)).unwrap()).clone();
            let received = Received { pdu, spoilt: true, server_keys: keys.clone() };
            Copy { received, gossiped: false }
        };
        (0..count).map(copy).collect()
    }

    #[test]
    fn attack_13_few_copies_of_each_wait_and_one_is_looked_for_at_a_time() {
        let (eve, bob) = (server_name!("eve"), server_name!("bob"));
        let all = copies(PEER + 2);
        let mut spoilt = Spoilt::default();
        for copy in all.iter().chain(&all) {
            spoilt.push(eve, copy.clone());
        }
        // Hers are not his too, but he has places of his own.
        for copy in &all {
            spoilt.push(bob, copy.clone());
        }
        let first = spoilt.begin(eve).unwrap();
        assert_eq!(first.received.pdu.event_id, all[0].received.pdu.event_id);
        assert!(spoilt.begin(eve).is_none(), "one at a time");
        assert!(spoilt.begin(bob).is_some());
        spoilt.end(eve, false);
        let mut looked_for = 1;
        while spoilt.begin(eve).is_some() {
            looked_for += 1;
            spoilt.end(eve, false);
        }
        assert_eq!(looked_for, PEER);
        // Who does not answer is asked no more.
        for copy in &all {
            spoilt.push(eve, copy.clone());
        }
        assert!(spoilt.begin(eve).is_some());
        spoilt.end(eve, true);
        assert!(spoilt.begin(eve).is_none());
        assert!(!spoilt.waiting.contains_key(eve) && spoilt.waiting.contains_key(bob));
    }

    #[test]
    fn attack_13_a_crowd_fills_no_memory() {
        let all = copies(ROOM + 10);
        let mut spoilt = Spoilt::default();
        for (number, copy) in all.into_iter().enumerate() {
            let from = ServerName::parse(format!("eve{}", number / PEER)).unwrap();
            spoilt.push(&from, copy);
        }
        assert_eq!(spoilt.waiting.values().map(VecDeque::len).sum::<usize>(), ROOM);
    }
}
