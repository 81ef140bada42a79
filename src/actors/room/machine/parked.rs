//! Events that wait for others: their prev or auth events are not here yet.
//!
//! The places are few and shared: no server can take those of the others, and an event that
//! cannot be completed gives its place up. What is dropped comes again when heads are compared.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::{Ingested, Machine};
use crate::{
    config::limits,
    proto::pdu::{Pdu, Received},
};

/// Fetches after which an event that still waits is dropped.
const TRIES: u8 = 5;

/// An event that waits for others.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) received: Received,
    pub(super) missing: Vec<OwnedEventId>,
    /// Fetches that did not complete it.
    tries: u8,
}

impl Machine {
    /// Tells whether an event is waiting for others.
    pub(crate) fn is_parked(&self, event_id: &EventId) -> bool {
        self.parked.contains_key(event_id)
    }

    /// Lets an event wait for others.
    pub(super) fn park(&mut self, received: &Received, missing: Vec<OwnedEventId>) -> Ingested {
        let event_id = &received.pdu.event_id;
        if let Some(parked) = self.parked.get_mut(event_id) {
            parked.missing = missing;
            if parked.received.spoilt {
                parked.received = received.clone();
            }
            return Ingested::Parked;
        }
        if !self.make_place(received) {
            return Ingested::Full;
        }
        let parked = Parked { received: received.clone(), missing, tries: 0 };
        self.parked.insert(event_id.clone(), parked);
        Ingested::Parked
    }

    /// Finds a place for an event, if need be that of another: of somebody who is not in the room,
    /// else of the server that has most.
    fn make_place(&mut self, received: &Received) -> bool {
        let len = |pdu: &Pdu| pdu.json.len();
        let mut bytes: usize = self.parked.values().map(|parked| len(&parked.received.pdu)).sum();
        bytes += len(&received.pdu);
        while self.parked.len() >= limits::ROOM_PARKED || bytes > limits::ROOM_PARKED_LEN {
            let own = received.pdu.sender.server_name();
            let mut shares: HashMap<&ruma::ServerName, usize> = HashMap::new();
            for parked in self.parked.values() {
                *shares.entry(parked.received.pdu.sender.server_name()).or_default() += 1;
            }
            let weight =
                |server: &ruma::ServerName, count: usize| (!self.has_joined(server), count);
            let ours = weight(own, shares.get(own).copied().unwrap_or_default());
            let most =
                shares.iter().max_by_key(|(server, count)| (weight(server, **count), *server));
            let Some((&server, &count)) = most else { return false };
            if weight(server, count) <= ours {
                return false;
            }
            let dropped = self
                .parked
                .values()
                .map(|parked| &parked.received.pdu)
                .filter(|pdu| pdu.sender.server_name() == server)
                .max_by_key(|pdu| (pdu.depth, &pdu.event_id))
                .map(|pdu| (pdu.event_id.clone(), len(pdu)));
            let Some((event_id, len)) = dropped else { return false };
            self.parked.remove(&event_id);
            bytes = bytes.saturating_sub(len);
        }
        true
    }

    /// Takes a parked event out, to be ingested again.
    pub(crate) fn unpark(&mut self, event_id: &EventId) -> Option<Received> {
        self.parked.remove(event_id).map(|parked| parked.received)
    }

    /// Returns a parked event.
    pub(crate) fn parked_event(&self, event_id: &EventId) -> Option<Received> {
        self.parked.get(event_id).map(|parked| parked.received.clone())
    }

    /// Returns the PDU of a parked event.
    pub(crate) fn parked_pdu(&self, event_id: &EventId) -> Option<Pdu> {
        self.parked.get(event_id).map(|parked| parked.received.pdu.clone())
    }

    /// Returns the server that sent a parked event.
    pub(crate) fn sender_of_parked(&self, event_id: &EventId) -> Option<OwnedServerName> {
        let parked = self.parked.get(event_id)?;
        Some(parked.received.pdu.sender.server_name().to_owned())
    }

    /// Returns the parked events that wait for some of `ids`.
    pub(super) fn waiting_for(&self, ids: &HashSet<&OwnedEventId>) -> Vec<OwnedEventId> {
        self.parked
            .iter()
            .filter(|(_, parked)| parked.missing.iter().any(|missing| ids.contains(missing)))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Notes that a fetch for a parked event has ended and it waits still. After some of these it
    /// is dropped.
    pub(crate) fn tried(&mut self, event_id: &EventId) {
        let Some(parked) = self.parked.get_mut(event_id) else { return };
        parked.tries += 1;
        if parked.tries >= TRIES {
            self.parked.remove(event_id);
        }
    }

    fn waits_outside(&self, parked: &Parked) -> bool {
        parked.missing.iter().any(|missing| !self.parked.contains_key(missing))
    }

    /// Returns the parked event to fetch the ancestors of next: it waits for something that is not
    /// parked itself, was tried least, and is oldest. With `fresh`, only if it was never tried.
    pub(crate) fn next_fetch(&self, fresh: bool) -> Option<OwnedEventId> {
        self.parked
            .values()
            .filter(|parked| !(fresh && parked.tries > 0) && self.waits_outside(parked))
            .min_by_key(|parked| {
                let pdu = &parked.received.pdu;
                (parked.tries, pdu.depth, &pdu.event_id)
            })
            .map(|parked| parked.received.pdu.event_id.clone())
    }

    /// Returns what the ancestors of a parked event wait for outside: the parked events, itself
    /// included, that miss something that is not parked, oldest first. Events that others parked
    /// beside it, with whatever depth they claim, have no part in this.
    pub(crate) fn frontier_of(&self, event_id: &EventId) -> Vec<OwnedEventId> {
        let mut seen: HashSet<&EventId> = HashSet::new();
        let mut todo: Vec<&EventId> = vec![event_id];
        let mut frontier: Vec<&Pdu> = Vec::new();
        while let Some(id) = todo.pop() {
            let Some(parked) = self.parked.get(id).filter(|_| seen.insert(id)) else { continue };
            todo.extend(parked.missing.iter().map(|missing| &**missing));
            if self.waits_outside(parked) {
                frontier.push(&parked.received.pdu);
            }
        }
        frontier.sort_by_key(|pdu| (pdu.depth, &pdu.event_id));
        frontier.into_iter().map(|pdu| pdu.event_id.clone()).collect()
    }
}
