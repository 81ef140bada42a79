//! What was said here and is not known to be anywhere else. Pure: time, in milliseconds, is an argument.
//!
//! The next event of anybody follows what is here, so an event of ours that nobody follows is the only one
//! of which it has to be found out. 30 s after it was said, members who are met are asked for their heads;
//! where none of them has it, or none is met, it is owed.
//!
//! Invariants: one entry a room, whatever is said in it; each member is asked once for what was said.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use crate::config::limits;

/// How long what was said has to come to others by itself.
const SPREAD_MS: u64 = 30_000;
/// How long a member has to take in what it was given, before it is asked for its heads.
const TAKEN_MS: u64 = 3_000;

/// A room with something of ours that nobody else is known to have.
#[derive(Debug, Default)]
struct Entry {
    /// When something was said there last.
    said: u64,
    /// When it is looked at next; none while that waits for something else to happen.
    due: Option<u64>,
    /// Members that were asked since.
    asked: BTreeSet<OwnedServerName>,
    /// The last event that was found to be nowhere else.
    last: Option<OwnedEventId>,
    /// That it is owed was said, for this event.
    owed: Option<OwnedEventId>,
}

/// All such rooms.
#[derive(Debug, Default)]
pub(super) struct Unspread {
    rooms: BTreeMap<OwnedRoomId, Entry>,
    agenda: BTreeSet<(u64, OwnedRoomId)>,
}

/// What another server has of a room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Has<'a> {
    /// The heads that we had at this time.
    Ours(u64),
    /// These events, and all before them.
    Heads(&'a [OwnedEventId]),
}

/// What is to be done about a room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Ask a member for its heads.
    Ask(OwnedServerName),
    /// Let it be owed to all members.
    Owe,
    /// It is not owed any more.
    Settle,
}

impl Unspread {
    /// Something was said in a room.
    pub(super) fn said(&mut self, room_id: OwnedRoomId, now: u64) {
        let entry = self.rooms.entry(room_id.clone()).or_default();
        entry.said = now;
        entry.asked.clear();
        // Whoever goes on talking does not put it off.
        let due = entry.due.unwrap_or(u64::MAX).min(now.saturating_add(SPREAD_MS));
        self.plan(&room_id, Some(due));
    }

    /// Tells whether anything is looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Returns the rooms that are to be looked at now; what was found comes by [`Self::looked`].
    pub(super) fn due(&mut self, now: u64) -> Vec<OwnedRoomId> {
        let due = self.agenda.iter().take_while(|(due, _)| *due <= now);
        let due: Vec<_> =
            due.take(limits::HEADS_ROOMS).map(|(_, room_id)| room_id.clone()).collect();
        for room_id in &due {
            self.plan(room_id, None);
        }
        due
    }

    /// It was looked at a room: the last event of ours that nobody follows, unless others are known to
    /// have it; the members' servers, and who of them is met.
    pub(super) fn looked(
        &mut self,
        room_id: &OwnedRoomId,
        last: Option<OwnedEventId>,
        servers: usize,
        met: &[OwnedServerName],
        now: u64,
    ) -> Option<Todo> {
        let entry = self.rooms.get_mut(room_id)?;
        let Some(last) = last.filter(|_| servers > 0) else { return self.end(room_id) };
        entry.last = Some(last.clone());
        if let Some(server) = met.iter().find(|server| !entry.asked.contains(*server)) {
            entry.asked.insert(server.clone());
            self.plan(room_id, Some(now.saturating_add(SPREAD_MS)));
            return Some(Todo::Ask(server.clone()));
        }
        if servers > limits::OWED_MEMBERS || entry.owed.as_ref() == Some(&last) {
            return None;
        }
        entry.owed = Some(last);
        Some(Todo::Owe)
    }

    /// It could not be looked at a room.
    pub(super) fn not_looked(&mut self, room_id: &OwnedRoomId, now: u64) {
        self.plan(room_id, Some(now.saturating_add(SPREAD_MS)));
    }

    /// Another server has something of a room. Returns what of it is to be kept in mind, and what to do.
    pub(super) fn has(&mut self, room_id: &OwnedRoomId, has: Has<'_>) -> Option<Option<Todo>> {
        let entry = self.rooms.get(room_id)?;
        let is_known = match has {
            Has::Ours(at) => entry.said < at,
            Has::Heads(heads) => entry.last.as_ref().is_some_and(|last| heads.contains(last)),
        };
        is_known.then(|| self.end(room_id))
    }

    /// A server was given these events of a room: it is asked soon whether it has them.
    pub(super) fn gave(
        &mut self,
        room_id: &OwnedRoomId,
        server: &OwnedServerName,
        events: &[OwnedEventId],
        now: u64,
    ) {
        let Some(entry) = self.rooms.get_mut(room_id) else { return };
        if entry.last.as_ref().is_some_and(|last| events.contains(last)) {
            entry.asked.remove(server);
            let due = entry.due.unwrap_or(u64::MAX).min(now.saturating_add(TAKEN_MS));
            self.plan(room_id, Some(due));
        }
    }

    fn end(&mut self, room_id: &OwnedRoomId) -> Option<Todo> {
        self.plan(room_id, None);
        let entry = self.rooms.remove(room_id)?;
        entry.owed.map(|_| Todo::Settle)
    }

    fn plan(&mut self, room_id: &OwnedRoomId, due: Option<u64>) {
        let Some(entry) = self.rooms.get_mut(room_id) else { return };
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.agenda.remove(&(old, room_id.clone()));
        }
        if let Some(due) = due {
            self.agenda.insert((due, room_id.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, owned_server_name};

    use super::*;

    const NOW: u64 = 1_000_000;
    const LATER: u64 = NOW + SPREAD_MS;

    fn room() -> OwnedRoomId {
        owned_room_id!("!r:x")
    }

    fn said() -> Unspread {
        let mut unspread = Unspread::default();
        unspread.said(room(), NOW);
        unspread
    }

    fn last() -> Option<OwnedEventId> {
        Some(owned_event_id!("$last"))
    }

    #[test]
    fn what_nobody_has_after_a_while_is_owed_once_and_what_is_said_after_it_too() {
        let mut unspread = said();
        unspread.said(room(), NOW + SPREAD_MS / 2);
        assert!(unspread.due(LATER - 1).is_empty());
        assert_eq!(unspread.due(LATER), [room()], "whoever goes on talking does not put it off");
        assert!(unspread.due(LATER).is_empty());
        assert_eq!(unspread.looked(&room(), last(), 3, &[], LATER), Some(Todo::Owe));
        assert!(unspread.due(u64::MAX).is_empty(), "that is all");
        unspread.said(room(), LATER);
        assert_eq!(unspread.due(LATER + SPREAD_MS), [room()]);
        let more = Some(owned_event_id!("$more"));
        assert_eq!(unspread.looked(&room(), more.clone(), 3, &[], LATER), Some(Todo::Owe));
        unspread.said(room(), LATER);
        assert_eq!(unspread.looked(&room(), more, 3, &[], LATER), None, "it is owed");
        // Somebody followed it.
        assert_eq!(unspread.looked(&room(), None, 3, &[], LATER), Some(Todo::Settle));
        assert!(unspread.is_empty() && unspread.agenda.is_empty());
    }

    #[test]
    fn members_who_are_met_are_asked_one_after_the_other_before_it_is_owed() {
        let met = [owned_server_name!("ann"), owned_server_name!("bob")];
        let mut unspread = said();
        let mut now = LATER;
        for server in &met {
            assert_eq!(unspread.due(now), [room()]);
            let todo = unspread.looked(&room(), last(), 3, &met, now);
            assert_eq!(todo, Some(Todo::Ask(server.clone())));
            let others = [owned_event_id!("$other")];
            assert_eq!(unspread.has(&room(), Has::Heads(&others)), None);
            now += SPREAD_MS;
        }
        assert_eq!(unspread.due(now), [room()]);
        assert_eq!(unspread.looked(&room(), last(), 3, &met, now), Some(Todo::Owe));
        // One of them fetches it.
        unspread.gave(&room(), &met[1], &[owned_event_id!("$other")], now);
        assert!(unspread.due(now + TAKEN_MS).is_empty());
        unspread.gave(&room(), &met[1], &last().into_iter().collect::<Vec<_>>(), now);
        assert_eq!(unspread.due(now + TAKEN_MS), [room()]);
        let todo = unspread.looked(&room(), last(), 3, &met, now);
        assert_eq!(todo, Some(Todo::Ask(met[1].clone())));
        assert_eq!(unspread.has(&room(), Has::Ours(now)), Some(Some(Todo::Settle)));
        assert!(unspread.is_empty() && unspread.agenda.is_empty());
    }

    #[test]
    fn what_a_server_had_before_something_was_said_says_nothing_of_it() {
        let mut unspread = said();
        for (has, known) in [(Has::Ours(NOW), false), (Has::Ours(NOW + 1), true)] {
            assert_eq!(unspread.has(&room(), has).is_some(), known);
        }
        assert_eq!(unspread.has(&room(), Has::Ours(NOW + 1)), None, "it is looked for no more");
        let mut unspread = said();
        unspread.looked(&room(), last(), 1, &[], LATER);
        let heads = [owned_event_id!("$other"), owned_event_id!("$last")];
        assert_eq!(unspread.has(&room(), Has::Heads(&heads)), Some(Some(Todo::Settle)));
    }

    #[test]
    fn nothing_is_owed_where_nobody_else_or_a_crowd_is() {
        let mut unspread = said();
        assert_eq!(unspread.looked(&room(), last(), 0, &[], LATER), None);
        assert!(unspread.is_empty());
        let mut unspread = said();
        assert_eq!(unspread.looked(&room(), last(), limits::OWED_MEMBERS + 1, &[], LATER), None);
        assert!(!unspread.is_empty(), "it may be asked about");
        unspread.not_looked(&room(), LATER);
        assert_eq!(unspread.due(LATER + SPREAD_MS), [room()]);
    }

    #[test]
    fn many_rooms_are_looked_at_some_at_a_time() {
        let mut unspread = Unspread::default();
        for n in 0..limits::HEADS_ROOMS + 1 {
            unspread.said(format!("!{n}:x").try_into().unwrap(), NOW);
        }
        assert_eq!(unspread.due(LATER).len(), limits::HEADS_ROOMS);
        assert_eq!(unspread.due(LATER).len(), 1);
    }
}
