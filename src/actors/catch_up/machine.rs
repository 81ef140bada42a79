//! What to ask of whom, in which order, and when it is done. Pure: what was answered comes in, what is
//! to be done goes out.
//!
//! Invariants: of each server one request at a time; each either brings what was asked for or leaves
//! less to ask; of all rooms no more events are on their way or wait than [`limits::CATCH_UP_EVENTS`],
//! and one request more where all of these wait for it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use super::room::{Load, Room};
use crate::{config::limits, proto::heads::Gap};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect<E> {
    /// Ask a server for the ids of what is missing: [`Machine::named`].
    AskIds(OwnedServerName, BTreeMap<OwnedRoomId, Gap>),
    /// Ask a server for events: [`Machine::given`].
    AskEvents(OwnedServerName, BTreeMap<OwnedRoomId, Vec<OwnedEventId>>),
    /// Look which of a server's heads are not here: [`Machine::looked`].
    Look(OwnedServerName, Vec<(OwnedRoomId, Vec<OwnedEventId>)>),
    /// Hand events to a room: [`Machine::taken`].
    Take(OwnedRoomId, OwnedServerName, Vec<E>),
    /// Nothing more is to be had of a server, or it failed.
    Done(OwnedServerName, Result<(), Failure>),
}

/// Why a server is asked no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It cannot be reached, or refused.
    NoAnswer,
    /// It knows no such requests.
    Unrecognized,
}

/// A page of ids, of which it was looked up what is here.
#[derive(Debug)]
pub(super) struct Page {
    /// Those that are not here.
    pub(super) missing: Vec<OwnedEventId>,
    /// How many were named.
    pub(super) named: usize,
    /// The last of them.
    pub(super) tail: Vec<OwnedEventId>,
    /// There are more.
    pub(super) more: bool,
}

/// Events of an answer.
#[derive(Debug)]
pub(super) struct Given<E> {
    pub(super) rooms: BTreeMap<OwnedRoomId, Vec<(OwnedEventId, E)>>,
    /// There was no place for more.
    pub(super) is_full: bool,
}

#[derive(Debug, Default)]
struct Peer {
    asked: Asked,
    /// Rooms that are waited for.
    rooms: BTreeSet<OwnedRoomId>,
}

#[derive(Debug, Default)]
enum Asked {
    #[default]
    Nothing,
    Ids(BTreeMap<OwnedRoomId, Gap>),
    Events(BTreeMap<OwnedRoomId, Vec<OwnedEventId>>),
}

/// All that is being caught up with.
#[derive(Debug)]
pub(super) struct Machine<E> {
    rooms: BTreeMap<OwnedRoomId, Room<E>>,
    peers: BTreeMap<OwnedServerName, Peer>,
    /// Servers that know no such requests.
    first_release: BTreeSet<OwnedServerName>,
    /// Who was asked last: the others come first.
    turn: Option<OwnedServerName>,
    /// Of all rooms.
    load: Load,
    /// Most events of a room that are fetched in one go.
    room_events: usize,
    /// Rooms of which something changed since it was last looked what comes next there.
    changed: BTreeSet<OwnedRoomId>,
}

impl<E> Default for Machine<E> {
    fn default() -> Self {
        Self::new(limits::CATCH_UP_ROOM)
    }
}

impl<E> Machine<E> {
    /// Makes one that fetches so many events of a room in one go.
    pub(super) fn new(room_events: usize) -> Self {
        let (rooms, peers) = (BTreeMap::new(), BTreeMap::new());
        let (first_release, changed) = (BTreeSet::new(), BTreeSet::new());
        let load = Load::default();
        Self { rooms, peers, first_release, turn: None, load, room_events, changed }
    }

    /// It was looked what of a server's heads is not here, in some rooms: in those of `gaps`
    /// something is.
    pub(super) fn looked(
        &mut self,
        server: &OwnedServerName,
        rooms: &[OwnedRoomId],
        gaps: Vec<(OwnedRoomId, Gap)>,
    ) -> Vec<Effect<E>> {
        if self.first_release.contains(server) {
            let done = Effect::Done(server.clone(), Err(Failure::Unrecognized));
            return vec![done];
        }
        let peer = self.peers.entry(server.clone()).or_default();
        for room_id in rooms {
            peer.rooms.remove(room_id);
        }
        peer.rooms.extend(gaps.iter().map(|(room_id, _)| room_id.clone()));
        for (room_id, gap) in gaps {
            if self.rooms.contains_key(&room_id) {
                self.change(&room_id, |room| room.has(server, gap.latest_events));
            } else {
                let room = Room::new(server.clone(), gap, self.room_events);
                self.rooms.insert(room_id, room);
            }
        }
        self.go_on()
    }

    /// A server named what is missing, or did not.
    pub(super) fn named(
        &mut self,
        server: &OwnedServerName,
        answer: Result<BTreeMap<OwnedRoomId, Page>, Failure>,
    ) -> Vec<Effect<E>> {
        let Some(peer) = self.peers.get_mut(server) else { return Vec::new() };
        let Asked::Ids(asked) = std::mem::take(&mut peer.asked) else { return Vec::new() };
        let mut pages = match answer {
            Ok(pages) => pages,
            Err(failure) => return self.fail(server, failure),
        };
        pages.retain(|room_id, _| asked.contains_key(room_id));
        let answered_none = pages.is_empty();
        for room_id in asked.keys() {
            match pages.remove(room_id) {
                Some(Page { missing, named, tail, more }) => {
                    self.change(room_id, |room| room.name(server, missing, named, tail, more));
                }
                // There was no place for it, or it has nothing to say of any.
                None if answered_none => {
                    self.change(room_id, |room| room.lose(server));
                }
                None => {}
            }
        }
        self.go_on()
    }

    /// A server gave events, or did not.
    pub(super) fn given(
        &mut self,
        server: &OwnedServerName,
        answer: Result<Given<E>, Failure>,
    ) -> Vec<Effect<E>> {
        let Some(peer) = self.peers.get_mut(server) else { return Vec::new() };
        let Asked::Events(asked) = std::mem::take(&mut peer.asked) else { return Vec::new() };
        let Given { mut rooms, is_full } = match answer {
            Ok(given) => given,
            Err(failure) => return self.fail(server, failure),
        };
        let mut given: BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, E>> = BTreeMap::new();
        for (room_id, ids) in &asked {
            let ids: BTreeSet<&OwnedEventId> = ids.iter().collect();
            let events = rooms.remove(room_id).unwrap_or_default();
            let events = events.into_iter().filter(|(id, _)| ids.contains(id));
            given.insert(room_id.clone(), events.collect());
        }
        // What comes behind the last one of a full answer is asked for again.
        let gave = |room_id: &OwnedRoomId| given.get(room_id).is_some_and(|it| !it.is_empty());
        let last_room = asked.keys().rev().find(|room_id| gave(room_id)).cloned();
        for (room_id, ids) in &asked {
            let events = given.remove(room_id).unwrap_or_default();
            let cut = match &last_room {
                Some(last) if is_full && room_id == last => {
                    let last = ids.iter().rposition(|id| events.contains_key(id));
                    last.map_or(ids.len(), |last| last + 1)
                }
                Some(last) if is_full && room_id > last => 0,
                _ => ids.len(),
            };
            self.change(room_id, |room| room.give(server, ids, events, cut));
        }
        self.go_on()
    }

    /// A room took in what it was handed.
    pub(super) fn taken(&mut self, room_id: &OwnedRoomId) -> Vec<Effect<E>> {
        self.change(room_id, |room| room.is_taking = false);
        self.go_on()
    }

    /// A server is met no more: another program may be there next time.
    pub(super) fn forget(&mut self, server: &OwnedServerName) {
        self.first_release.remove(server);
    }

    fn fail(&mut self, server: &OwnedServerName, failure: Failure) -> Vec<Effect<E>> {
        self.peers.remove(server);
        if failure == Failure::Unrecognized {
            self.first_release.insert(server.clone());
        }
        for room_id in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.change(&room_id, |room| room.lose(server));
        }
        let mut effects = vec![Effect::Done(server.clone(), Err(failure))];
        effects.extend(self.go_on());
        effects
    }

    /// Changes a room, and keeps count.
    fn change<T>(
        &mut self,
        room_id: &OwnedRoomId,
        change: impl FnOnce(&mut Room<E>) -> T,
    ) -> Option<T> {
        let room = self.rooms.get_mut(room_id)?;
        let before = room.load();
        let changed = change(room);
        let after = room.load();
        self.load.in_line = self.load.in_line + after.in_line - before.in_line;
        self.load.held = self.load.held + after.held - before.held;
        self.changed.insert(room_id.clone());
        Some(changed)
    }

    /// Does what can be done.
    fn go_on(&mut self) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        let changed = std::mem::take(&mut self.changed);
        for room_id in &changed {
            let next = self.change(room_id, Room::next_events).flatten();
            if let Some((server, events)) = next {
                effects.push(Effect::Take(room_id.clone(), server, events));
            }
        }
        self.changed.clear();
        self.end_rooms(changed, &mut effects);
        // Whoever was asked last comes last, so that all are asked.
        let after = |last: &OwnedServerName| {
            let (before, behind): (Vec<_>, Vec<_>) =
                self.peers.keys().cloned().partition(|server| server <= last);
            [behind, before].concat()
        };
        let servers = match &self.turn {
            Some(last) => after(last),
            None => self.peers.keys().cloned().collect(),
        };
        for server in servers {
            if let Some(effect) = self.ask(&server) {
                self.turn = Some(server);
                effects.push(effect);
            }
        }
        let done = |peer: &Peer| matches!(peer.asked, Asked::Nothing) && peer.rooms.is_empty();
        let ended: Vec<_> = self.peers.extract_if(.., |_, peer| done(peer)).collect();
        effects.extend(ended.into_iter().map(|(server, _)| Effect::Done(server, Ok(()))));
        effects
    }

    /// Ends those of some rooms in which there is nothing left to do.
    fn end_rooms(&mut self, among: BTreeSet<OwnedRoomId>, effects: &mut Vec<Effect<E>>) {
        let mut looks: BTreeMap<OwnedServerName, Vec<_>> = BTreeMap::new();
        for room_id in among {
            if !self.rooms.get(&room_id).is_some_and(Room::is_done) {
                continue;
            }
            let Some(room) = self.rooms.remove(&room_id) else { continue };
            for (server, peer) in &mut self.peers {
                match room.others.get(server) {
                    Some(heads) => looks
                        .entry(server.clone())
                        .or_default()
                        .push((room_id.clone(), heads.clone())),
                    None => {
                        peer.rooms.remove(&room_id);
                    }
                }
            }
        }
        effects.extend(looks.into_iter().map(|(server, heads)| Effect::Look(server, heads)));
    }

    /// Chooses what a server is asked next.
    fn ask(&mut self, server: &OwnedServerName) -> Option<Effect<E>> {
        if !matches!(self.peers.get(server)?.asked, Asked::Nothing) {
            return None;
        }
        let pages = self
            .rooms
            .iter()
            .filter_map(|(id, room)| room.next_page(server).map(|gap| (id.clone(), gap)));
        let rooms = if self.load.in_line < limits::MISSING_IDS { limits::HEADS_ROOMS } else { 0 };
        let pages: BTreeMap<_, _> = pages.take(rooms).collect();
        if !pages.is_empty() {
            self.peers.get_mut(server)?.asked = Asked::Ids(pages.clone());
            return Some(Effect::AskIds(server.clone(), pages));
        }
        let place = limits::CATCH_UP_EVENTS.saturating_sub(self.load.held);
        let mut most = limits::MISSING_EVENTS.min(place);
        // Where events are handed over one by one, they are not asked for one by one. Where nothing is on
        // its way, what all the others wait for has to come.
        if most < limits::MISSING_EVENTS / 4 {
            let is_at_work = self.rooms.values().any(|room| room.is_taking)
                || self.peers.values().any(|peer| !matches!(peer.asked, Asked::Nothing));
            if is_at_work {
                return None;
            }
            most = limits::MISSING_EVENTS;
        }
        let mut asked = BTreeMap::new();
        for (room_id, room) in &mut self.rooms {
            if most == 0 || asked.len() >= limits::HEADS_ROOMS {
                break;
            }
            let ids = room.ask(server, most);
            most -= ids.len();
            self.load.held += ids.len();
            if !ids.is_empty() {
                asked.insert(room_id.clone(), ids);
            }
        }
        if asked.is_empty() {
            return None;
        }
        self.peers.get_mut(server)?.asked = Asked::Events(asked.clone());
        Some(Effect::AskEvents(server.clone(), asked))
    }

    /// Tells whether there is nothing to do.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.rooms.is_empty() && self.peers.is_empty()
    }

    /// Returns how many events are on their way or wait.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.load.held
    }
}

#[cfg(test)]
mod tests;
