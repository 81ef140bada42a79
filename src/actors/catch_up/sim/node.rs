//! A simulated node: a replica of the room, what it fetches, and what it answers.

use std::{collections::BTreeMap, convert::Infallible};

use ruma::OwnedEventId;

use super::super::machine::Machine;
use crate::{
    actors::{room::machine::tests::Replica, store::Place},
    config::limits,
    proto::{
        behind::{Behind, Node as Event},
        heads::{Gap, LANDMARKS, MissingIds},
    },
};

/// How a node behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Honest,
    /// Answers nothing.
    Silent,
    /// Names what it does not give.
    Withholds,
    /// Announces and names what nobody said.
    Invents,
}

pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) way: Way,
    pub(super) machine: Machine<OwnedEventId>,
    /// The timeline, and the place of each event in it.
    pub(super) timeline: Vec<OwnedEventId>,
    places: BTreeMap<OwnedEventId, usize>,
    pub(super) is_up: bool,
    /// Milliseconds by which its clock is wrong.
    pub(super) skew: i64,
    /// Requests that are not answered yet.
    pub(super) pending: BTreeMap<u64, usize>,
    pub(super) requests: usize,
    /// Events that came, those that were here among them.
    pub(super) came: usize,
    /// Starts, so that what is of an earlier one is known.
    pub(super) starts: u64,
}

impl Node {
    pub(super) fn new(replica: Replica, way: Way) -> Self {
        let mut node = Self {
            replica,
            way,
            machine: Machine::default(),
            timeline: Vec::new(),
            places: BTreeMap::new(),
            is_up: true,
            skew: 0,
            pending: BTreeMap::new(),
            requests: 0,
            came: 0,
            starts: 0,
        };
        node.keep();
        node
    }

    /// Puts what was stored into the timeline.
    pub(super) fn keep(&mut self) {
        for commit in std::mem::take(&mut self.replica.commits) {
            for new in commit.events.iter().filter(|new| new.place == Place::Live) {
                let id = &new.pdu.event_id;
                if !self.places.contains_key(id) {
                    self.places.insert(id.clone(), self.timeline.len());
                    self.timeline.push(id.clone());
                }
            }
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
        let mut earliest_events = self.heads();
        let mut distances = LANDMARKS.to_vec();
        distances.extend((6..19).map(|power| 1 << power));
        for distance in distances {
            let place = self.timeline.len().checked_sub(1 + distance);
            earliest_events.extend(place.and_then(|place| self.timeline.get(place)).cloned());
        }
        earliest_events.extend(self.timeline.first().cloned());
        (!latest_events.is_empty()).then_some(Gap { earliest_events, latest_events })
    }

    fn event(&self, id: &OwnedEventId) -> Option<Event<OwnedEventId, usize>> {
        let known = self.replica.known_event(id)?;
        let is_here = known.place != Place::Rejected;
        let order = self.places.get(id).copied();
        is_here.then(|| Event { order, prev: known.pdu.prev_events.clone() })
    }

    /// Names what another node lacks, as the Store does.
    pub(super) fn name(&self, gap: &Gap, page: usize) -> MissingIds {
        let last = gap.earliest_events.iter().filter_map(|id| self.places.get(id)).max();
        let Some(last) = last else { return MissingIds::default() };
        let mut wanted: Vec<OwnedEventId> =
            self.timeline.iter().skip(last + 1).take(page).cloned().collect();
        let more = self.timeline.len() > last + 1 + page;
        if !more {
            wanted.extend(gap.latest_events.iter().cloned());
        }
        let read = |id: &OwnedEventId| Ok::<_, Infallible>(self.event(id));
        let mut walk = Behind::begin(&wanted, &gap.earliest_events, read).unwrap();
        while !walk.go_on(100, read).unwrap() {}
        let (ids, cut) = walk.first(page);
        MissingIds { ids, more: more || cut }
    }

    /// Ends and starts again: what is not on disk is gone.
    pub(super) fn restart(&mut self) {
        self.starts += 1;
        self.replica.forget();
        self.machine = Machine::default();
        self.pending.clear();
    }
}
