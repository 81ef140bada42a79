//! Who is connected, by which connections, and what follows from it. Pure: what libp2p tells goes in,
//! what to do comes out, time and chance are arguments; the event loop carries it out.
//!
//! Invariants: a peer that is known here has a connection; a connection that is being given up is
//! neither asked nor counted; as long as a request is under way with a peer, none of its connections
//! counts as not needed, within a limit.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

mod alive;
mod peer;
mod upgrade;

pub(super) use alive::{After, Ask};
use alive::{Beside, Deaf};
pub(super) use peer::{Connection, Peer};
pub(super) use upgrade::Arrival;

/// Times that a peer may send its server_keys in a burst.
const IDENTITY_BURST: u8 = 8;

/// All who are connected.
#[derive(Debug, Default)]
pub(super) struct Peers {
    all: HashMap<PeerId, Peer>,
    /// Connections that are being given up: nothing that still comes of them is taken.
    closing: HashSet<ConnectionId>,
    /// Requests under way, to and from a peer; they can outlive its connections.
    work: HashMap<PeerId, u32>,
    beside: Beside,
    /// Members that share no topic with us.
    deaf: HashMap<PeerId, Deaf>,
}

/// What identify tells of a peer.
#[derive(Debug)]
pub(super) struct Told {
    /// It is a node of our kind.
    pub(super) ours: bool,
    /// It carries connections for others.
    pub(super) relays: bool,
    /// It tells others whether they can be reached.
    pub(super) tests: bool,
    /// Where it listens, as far as that is of use.
    pub(super) addresses: Vec<Multiaddr>,
}

/// What is new since identify came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identified {
    /// It came on this connection for the first time.
    pub(super) first: bool,
    /// The peer has other connections.
    pub(super) beside: bool,
}

impl Peers {
    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.all.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.all.iter()
    }

    pub(super) fn contains(&self, id: &PeerId) -> bool {
        self.all.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells whether a peer is a node of our kind.
    pub(super) fn is_ours(&self, id: &PeerId) -> bool {
        self.all.get(id).is_some_and(|peer| peer.ours)
    }

    /// Returns a connection of a peer.
    pub(super) fn connection(&self, id: &PeerId, connection: ConnectionId) -> Option<&Connection> {
        self.all.get(id)?.connections.iter().find(|open| open.id == connection)
    }

    fn connection_mut(&mut self, id: &PeerId, connection: ConnectionId) -> Option<&mut Connection> {
        self.all.get_mut(id)?.connections.iter_mut().find(|open| open.id == connection)
    }

    /// Tells whether a connection is being given up.
    pub(super) fn is_closing(&self, connection: &ConnectionId) -> bool {
        self.closing.contains(connection)
    }

    /// A connection was made.
    pub(super) fn opened(&mut self, id: PeerId, open: Connection) {
        let new = || Peer { identity_budget: IDENTITY_BURST, ..Peer::default() };
        self.all.entry(id).or_insert_with(new).connections.push(open);
    }

    /// A connection ended. Returns the peer where it was the last one.
    pub(super) fn closed(
        &mut self,
        id: &PeerId,
        connection: ConnectionId,
        remaining: u32,
    ) -> Option<Peer> {
        self.closing.remove(&connection);
        if remaining == 0 {
            return self.all.remove(id);
        }
        if let Some(peer) = self.all.get_mut(id) {
            peer.connections.retain(|open| open.id != connection);
        }
        None
    }

    /// Identify came on a connection.
    pub(super) fn identified(
        &mut self,
        id: &PeerId,
        connection: ConnectionId,
        told: Told,
        now: Instant,
    ) -> Option<Identified> {
        let open = self.connection_mut(id, connection)?;
        let first = open.identified.replace(now).is_none();
        let peer = self.all.get_mut(id)?;
        peer.identified.get_or_insert(now);
        peer.ours = told.ours;
        peer.relays = told.relays;
        // Not on the connections that it makes to test us.
        peer.tests |= told.tests;
        peer.addresses = told.addresses;
        Some(Identified { first, beside: peer.connections.len() > 1 })
    }

    /// The gate is opened to a peer. Returns whether it is connected.
    pub(super) fn admitted(&mut self, id: &PeerId, now: Instant) -> bool {
        let Some(peer) = self.all.get_mut(id) else { return false };
        peer.admitted.get_or_insert(now);
        true
    }

    /// A peer sends its server_keys. Returns whether they are looked at: each costs a signature check,
    /// so nobody may send them without end.
    pub(super) fn may_introduce_itself(&mut self, id: &PeerId) -> bool {
        let Some(peer) = self.all.get_mut(id) else { return false };
        peer.ours = true;
        let left = peer.identity_budget.checked_sub(1);
        peer.identity_budget = left.unwrap_or_default();
        left.is_some()
    }

    /// Lets all send their server_keys one more time.
    pub(super) fn forgive_introductions(&mut self) {
        for peer in self.all.values_mut() {
            peer.identity_budget = (peer.identity_budget + 1).min(IDENTITY_BURST);
        }
    }

    /// A request to or from a peer is under way.
    pub(super) fn begin(&mut self, id: PeerId) {
        *self.work.entry(id).or_default() += 1;
    }

    /// It is over.
    pub(super) fn over(&mut self, id: &PeerId, now: Instant) {
        if let Some(count) = self.work.get_mut(id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.work.remove(id);
            }
        }
        if let Some(peer) = self.all.get_mut(id) {
            peer.calm_since = Some(now);
        }
    }

    /// Tells whether requests to a peer may be held back now.
    pub(super) fn may_hold_back(&self, id: &PeerId, now: Instant) -> bool {
        let peer = self.all.get(id);
        peer.is_some_and(|peer| peer.hold_again.is_none_or(|again| again <= now))
    }

    /// Requests to a peer are not held back before `again`.
    pub(super) fn hold_back_after(&mut self, id: &PeerId, again: Instant) {
        if let Some(peer) = self.all.get_mut(id) {
            peer.hold_again = Some(again);
        }
    }
}

#[cfg(test)]
mod tests;
