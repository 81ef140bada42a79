//! A connected peer and its connections.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, swarm::ConnectionId};

use super::super::Way;

/// After this without an answer, a connection counts as silent.
pub(super) const SILENT: Duration = Duration::from_secs(2);

/// A connected peer.
#[derive(Debug, Default)]
pub(in super::super) struct Peer {
    pub(in super::super) connections: Vec<Connection>,
    /// When identify first came.
    pub(in super::super) identified: Option<Instant>,
    /// It is a node of our kind.
    pub(in super::super) ours: bool,
    /// When the gate was opened to it.
    pub(in super::super) admitted: Option<Instant>,
    /// It carries connections for others.
    pub(in super::super) relays: bool,
    /// It tells others whether they can be reached (AutoNAT).
    pub(in super::super) tests: bool,
    /// Where it says that it is.
    pub(in super::super) addresses: Vec<Multiaddr>,
    pub(in super::super) rtt: Option<Duration>,
    /// When the last request to or from it was over.
    pub(super) calm_since: Option<Instant>,
    /// Before this, requests to it are not held back again.
    pub(super) hold_again: Option<Instant>,
    /// The last time that it was dialled back, and where.
    pub(super) dialled_back: Option<(Instant, Vec<Multiaddr>)>,
    /// When a new circuit is made to punch a hole, and the delay before that.
    pub(super) punch: Option<(Instant, Duration)>,
    /// How it was connected when that was last said in the log.
    pub(super) told: Option<Way>,
    pub(super) identity_budget: u8,
}

impl Peer {
    /// Tells whether it is a member of a room of ours.
    pub(in super::super) fn is_member(&self) -> bool {
        self.ours && self.admitted.is_some()
    }

    /// Tells whether a connection without a relay is there.
    pub(in super::super) fn is_direct(&self) -> bool {
        self.connections.iter().any(|open| !open.relayed())
    }

    /// Returns the best connection: one that answers, a direct one, and of these the oldest.
    pub(in super::super) fn best(&self, now: Instant) -> Option<&Connection> {
        let rank = |open: &Connection| (open.is_silent(now), open.relayed());
        self.connections.iter().min_by_key(|open| (rank(open), open.opened))
    }

    /// Tells whether none of its connections answers.
    pub(in super::super) fn is_silent(&self, now: Instant) -> bool {
        self.connections.iter().all(|open| open.is_silent(now))
    }

    /// Returns since when no request has been under way.
    pub(super) fn calm_since(&self, now: Instant) -> Instant {
        let first = self.connections.iter().map(|open| open.opened).min();
        self.calm_since.or(first).unwrap_or(now)
    }
}

/// A connection.
#[derive(Debug, Clone)]
pub(in super::super) struct Connection {
    pub(in super::super) id: ConnectionId,
    /// Where the other end is.
    pub(in super::super) address: Multiaddr,
    /// We made it.
    pub(in super::super) dialled: bool,
    pub(in super::super) way: Way,
    pub(super) opened: Instant,
    /// When identify came on it.
    pub(super) identified: Option<Instant>,
    /// When a ping or a beat was last answered on it.
    pub(super) answered: Option<Instant>,
    /// The address of ours that it comes from.
    pub(super) from: Option<IpAddr>,
    /// Since when it has been asked whether it is alive.
    pub(super) asked: Option<Instant>,
    /// When it is asked next.
    pub(super) ask_due: Instant,
    /// When it is asked by a beat that fills a packet, instead of a short one.
    pub(super) whole_due: Instant,
    /// The beat that is under way fills a packet.
    pub(super) asked_whole: bool,
}

impl Connection {
    /// A new one, to be asked at once whether it is alive. `from` is the address of ours that it comes
    /// from.
    pub(in super::super) fn new(
        id: ConnectionId,
        (address, dialled): (Multiaddr, bool),
        way: Way,
        from: Option<IpAddr>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            address,
            dialled,
            way,
            opened: now,
            identified: None,
            answered: None,
            from,
            asked: None,
            ask_due: now,
            whole_due: now,
            asked_whole: false,
        }
    }

    pub(in super::super) fn relayed(&self) -> bool {
        self.way == Way::Relayed
    }

    /// Tells whether what was asked last waits for an answer for too long to call it alive.
    pub(in super::super) fn is_silent(&self, now: Instant) -> bool {
        self.asked.is_some_and(|since| now.duration_since(since) >= SILENT)
    }
}
