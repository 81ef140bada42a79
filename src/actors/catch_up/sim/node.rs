//! A simulated node: a replica of the room, what it fetches, what it owes, and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use super::{
    super::{filling::Filling, machine::Machine},
    messages::{Asked, Envelope},
};
use crate::{
    actors::{
        gossip::sim::Door, outbox::sim::SimOutbox, room::machine::tests::Replica, store::Place,
    },
    config::limits,
    proto::{
        behind::{Behind, Node as Event},
        heads::{Gap, LANDMARKS, MissingIds},
        pdu::Received,
    },
};

/// How a node behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaves {
    Honest,
    /// Answers nothing.
    Silent,
    /// Names what it does not give.
    Withholds,
    /// Announces and names what nobody said.
    Invents,
    /// Says several things at one place, to each a part of them.
    Forks,
    /// Says much at once.
    Floods,
}

impl Behaves {
    /// Tells whether what is asked is answered as it should be.
    pub(super) fn gives(self) -> bool {
        matches!(self, Self::Honest | Self::Forks | Self::Floods)
    }
}

/// An event whose ancestors are being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) round: usize,
    pub(super) latest: Vec<OwnedEventId>,
    /// Who is asked next, where this one does not give it.
    pub(super) others: Vec<usize>,
}

pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) way: Behaves,
    pub(super) machine: Machine<OwnedEventId>,
    /// The timeline, and the place of each event in it.
    pub(super) timeline: Vec<OwnedEventId>,
    places: HashMap<OwnedEventId, usize>,
    /// What follows each event.
    followers: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    pub(super) is_up: bool,
    /// Milliseconds by which its clock is wrong.
    pub(super) skew: i64,
    /// Requests that are not answered yet.
    pub(super) pending: BTreeMap<u64, Asked>,
    /// The heads that each server told last.
    pub(super) theirs: BTreeMap<usize, Arc<Vec<OwnedEventId>>>,
    pub(super) fetching: BTreeMap<OwnedEventId, Fetch>,
    pub(super) filling: Filling,
    pub(super) door: Door<Envelope>,
    pub(super) outbox: SimOutbox,
    /// It is looked what of it is due.
    pub(super) is_pumping: bool,
    /// What came of what others owed, by whom, in its order.
    pub(super) told: BTreeMap<usize, Vec<String>>,
    pub(super) requests: usize,
    /// Requests with what is owed.
    pub(super) tries: usize,
    /// Events that came, those that were here among them.
    pub(super) came: usize,
    /// Times that it went on behind a gap.
    pub(super) jumps: usize,
    /// Starts, so that what is of an earlier one is known.
    pub(super) starts: u64,
    room_events: usize,
    room_id: OwnedRoomId,
    names: Arc<Vec<OwnedServerName>>,
}

impl Node {
    pub(super) fn new(
        replica: Replica,
        way: Behaves,
        room_events: usize,
        room_id: &OwnedRoomId,
        names: &Arc<Vec<OwnedServerName>>,
    ) -> Self {
        let peers = || names.iter().cloned().enumerate();
        Self {
            replica,
            way,
            machine: Machine::new(room_events),
            timeline: Vec::new(),
            places: HashMap::new(),
            followers: HashMap::new(),
            is_up: true,
            skew: 0,
            pending: BTreeMap::new(),
            theirs: BTreeMap::new(),
            fetching: BTreeMap::new(),
            filling: Filling::default(),
            door: Door::new(room_id, peers()),
            outbox: SimOutbox::default(),
            is_pumping: false,
            told: BTreeMap::new(),
            requests: 0,
            tries: 0,
            came: 0,
            jumps: 0,
            starts: 0,
            room_events,
            room_id: room_id.clone(),
            names: Arc::clone(names),
        }
    }

    /// Begins with the timeline of another node.
    pub(super) fn begin(&mut self, timeline: &[OwnedEventId]) {
        for id in timeline {
            self.stand(id, self.timeline.len());
        }
    }

    /// Puts what was stored into the timeline.
    pub(super) fn keep(&mut self) {
        for commit in std::mem::take(&mut self.replica.commits) {
            for new in &commit.events {
                let id = &new.pdu.event_id;
                if self.places.contains_key(id) {
                    continue;
                }
                match new.place {
                    Place::Live => self.stand(id, self.timeline.len()),
                    // Before what follows it.
                    Place::Backfilled => {
                        let followers = self.followers.get(id).into_iter().flatten();
                        let first = followers.filter_map(|id| self.places.get(id)).min();
                        self.stand(id, first.copied().unwrap_or_default());
                    }
                    Place::Outlier | Place::SoftFailed | Place::Rejected => {}
                }
            }
        }
    }

    /// Puts an event where it stands, and before it what comes before it and stood behind.
    fn stand(&mut self, id: &OwnedEventId, place: usize) {
        self.put(id, place);
        let mut todo = vec![id.clone()];
        while let Some(id) = todo.pop() {
            let prev = self.replica.known_event(&id).unwrap().pdu.prev_events.clone();
            for prev in prev {
                let followers = self.followers.entry(prev.clone()).or_default();
                if !followers.contains(&id) {
                    followers.push(id.clone());
                }
                let (was, before) = (self.places.get(&prev).copied(), self.places[&id]);
                if let Some(was) = was.filter(|was| *was > before) {
                    self.timeline.remove(was);
                    self.put(&prev, before);
                    todo.push(prev);
                }
            }
        }
    }

    fn put(&mut self, id: &OwnedEventId, place: usize) {
        self.timeline.insert(place, id.clone());
        for (at, id) in self.timeline.iter().enumerate().skip(place) {
            self.places.insert(id.clone(), at);
        }
    }

    pub(super) fn has(&self, id: &OwnedEventId) -> bool {
        self.replica.known_event(id).is_some_and(|known| known.place != Place::Outlier)
    }

    pub(super) fn heads(&self) -> Vec<OwnedEventId> {
        let heads = self.replica.machine.extremities();
        heads.iter().take(limits::HEADS).map(|head| head.event_id.clone()).collect()
    }

    /// Returns which of some heads are not here, and what is.
    pub(super) fn lacking(&self, heads: &[OwnedEventId]) -> Option<Gap> {
        let latest_events: Vec<_> = heads.iter().filter(|id| !self.has(id)).cloned().collect();
        if latest_events.is_empty() {
            return None;
        }
        let mut earliest_events = self.heads();
        let mut distances = LANDMARKS.to_vec();
        distances.extend((6..19).map(|power| 1 << power));
        for distance in distances {
            let place = self.timeline.len().checked_sub(1 + distance);
            earliest_events.extend(place.and_then(|place| self.timeline.get(place)).cloned());
        }
        earliest_events.extend(self.timeline.first().cloned());
        Some(Gap { earliest_events, latest_events })
    }

    fn event(&self, id: &OwnedEventId) -> Option<Event<OwnedEventId, usize>> {
        let known = self.replica.known_event(id)?;
        let is_here = known.place != Place::Rejected;
        let order = self.places.get(id).copied();
        is_here.then(|| Event { order, prev: known.pdu.prev_events.clone() })
    }

    /// Returns the events before which history is missing.
    pub(super) fn before_gaps(&self) -> BTreeSet<OwnedEventId> {
        self.replica.gaps().values().flatten().cloned().collect()
    }

    /// Names what another node lacks, as the Store does.
    pub(super) fn name(&self, gap: &Gap, page: usize) -> MissingIds {
        let last = gap.earliest_events.iter().filter_map(|id| self.places.get(id)).max();
        let Some(last) = last else { return MissingIds::default() };
        let gaps = self.before_gaps();
        let (mut wanted, mut more, mut whole) = (Vec::new(), false, true);
        for id in self.timeline.iter().skip(last + 1) {
            whole = !gaps.contains(id);
            more = wanted.len() >= page;
            if more || !whole {
                break;
            }
            wanted.push(id.clone());
        }
        more &= whole;
        if !more && whole {
            wanted.extend(gap.latest_events.iter().cloned());
        }
        let read = |id: &OwnedEventId| Ok::<_, Infallible>(self.event(id));
        let mut walk = Behind::begin(&wanted, &gap.earliest_events, read).unwrap();
        while !walk.go_on(100, read).unwrap() {}
        let (ids, cut) = walk.first(page);
        MissingIds { ids, more: more || cut }
    }

    /// Returns the events before some, these included, that are not behind others: the last ones.
    pub(super) fn walk_back(
        &self,
        latest: &[OwnedEventId],
        earliest: &[OwnedEventId],
        page: usize,
    ) -> Vec<OwnedEventId> {
        let mut seen: BTreeSet<OwnedEventId> = earliest.iter().cloned().collect();
        let (mut level, mut found) = (latest.to_vec(), Vec::new());
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in level {
                if found.len() >= page {
                    return found;
                }
                let Some(event) = self.event(&id).filter(|_| seen.insert(id.clone())) else {
                    continue;
                };
                next.extend(event.prev);
                found.push(id);
            }
            level = next;
        }
        found
    }

    /// Takes events in, parents first, with what waited for them.
    pub(super) fn take(&mut self, events: &[Received]) {
        if !self.replica.gaps().is_empty() {
            self.replica.backfill(events);
        }
        for received in events {
            self.replica.ingest(received);
            assert!(self.replica.parked() <= limits::ROOM_PARKED);
        }
        self.keep();
    }

    /// Returns the time of day, as its clock has it.
    pub(super) fn time(&self, now: u64) -> u64 {
        (crate::actors::room::machine::tests::NOW + now).saturating_add_signed(self.skew)
    }

    /// Ends and starts again: what is not on disk is gone.
    pub(super) fn restart(&mut self) {
        self.starts += 1;
        self.replica.forget();
        self.machine = Machine::new(self.room_events);
        self.door = Door::new(&self.room_id, self.names.iter().cloned().enumerate());
        self.outbox.restart();
        self.is_pumping = false;
        self.pending.clear();
        self.fetching.clear();
        self.filling = Filling::default();
        self.theirs.clear();
    }
}
