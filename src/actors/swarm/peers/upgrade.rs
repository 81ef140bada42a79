//! From a relayed connection to a direct one: where a peer is called back, when a hole is punched
//! anew, and which connections are not needed any more.
//!
//! Invariant: only addresses of the whole world are dialled back, since the peer could name any of
//! our neighbours.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::{
    super::{
        Way,
        address::{self, Reach},
        reachability::Visibility,
        surplus::{Link, is_ripe, surplus},
    },
    Peer, Peers,
};

/// The same addresses of a peer are dialled back no more often than this.
const DIAL_BACK_EVERY: Duration = Duration::from_secs(30);
/// A hole is punched when a circuit is new and at no other time. Where that failed, or the direct
/// connection was lost, a new circuit is made after this, then more and more rarely.
const PUNCH_AGAIN: Duration = Duration::from_secs(30);
const PUNCH_RAREST: Duration = Duration::from_secs(30 * 60);
/// The same where a direct connection was just lost: it worked before.
const PUNCH_SOON: Duration = Duration::from_secs(2);
/// Addresses that are dialled back.
const DIAL_BACK_MAX: usize = 8;

/// How a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Arrival {
    /// Through a relay.
    Relayed,
    /// We dialled back somebody who had called through a relay.
    DialledBack,
    /// We dialled.
    Dialled,
    /// The peer did.
    Received,
}

/// What is not needed beside something better.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct NotNeeded {
    /// Peers of which a circuit could go once nothing is under way.
    pub(in super::super) ripe: Vec<PeerId>,
    /// Connections to be closed.
    pub(in super::super) close: Vec<ConnectionId>,
}

/// Returns the addresses by which a peer that called through a relay may be called back.
fn back_to(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let global = addresses.iter().filter(|at| address::reach(at) == Reach::Global);
    global.take(DIAL_BACK_MAX).cloned().collect()
}

impl Peers {
    /// Tells how a new connection came about. `visibility` is how we can be reached.
    pub(in super::super) fn way_of(
        &self,
        id: &PeerId,
        arrival: Arrival,
        visibility: Visibility,
    ) -> Way {
        let called = self.all.get(id).is_some_and(|peer| !peer.is_direct());
        match arrival {
            Arrival::Relayed => Way::Relayed,
            Arrival::DialledBack => Way::Reversed,
            // It was called through a relay, and came: by our address, or by the hole.
            Arrival::Received if called && visibility == Visibility::Hidden => Way::Punched,
            Arrival::Received if called => Way::Reversed,
            Arrival::Received | Arrival::Dialled => Way::Direct,
        }
    }

    /// A hole was punched.
    pub(in super::super) fn punched(&mut self, id: &PeerId, connection: ConnectionId) {
        if let Some(open) = self.connection_mut(id, connection) {
            open.way = Way::Punched;
        }
    }

    /// Returns where a peer is to be called back that is connected through a relay alone.
    pub(in super::super) fn call_back(
        &mut self,
        id: &PeerId,
        now: Instant,
    ) -> Option<Vec<Multiaddr>> {
        let peer = self.all.get_mut(id).filter(|peer| !peer.is_direct())?;
        let addresses = back_to(&peer.addresses);
        let again = peer.dialled_back.as_ref().is_some_and(|(at, tried)| {
            let new = addresses.iter().any(|address| !tried.contains(address));
            !new && now.duration_since(*at) < DIAL_BACK_EVERY
        });
        if addresses.is_empty() || again {
            return None;
        }
        peer.dialled_back = Some((now, addresses.clone()));
        Some(addresses)
    }

    /// A connection ended and others are left: where these are circuits, a direct one is missed.
    pub(in super::super) fn direct_lost(&mut self, id: &PeerId, now: Instant) {
        if let Some(peer) = self.all.get_mut(id).filter(|peer| !peer.is_direct()) {
            peer.punch = Some((now + PUNCH_SOON, PUNCH_SOON));
        }
    }

    /// Returns to whom, and by which address, a new circuit is made now: members that are connected by
    /// a circuit alone, so that a hole is punched anew; the older circuit is given up then. Only who made
    /// the old one does so.
    pub(in super::super) fn new_circuits(
        &mut self,
        now: Instant,
        mut chance: impl FnMut() -> f64,
    ) -> Vec<(PeerId, Multiaddr)> {
        let mut due = Vec::new();
        for (id, peer) in &mut self.all {
            if peer.is_direct() {
                peer.punch = None;
                continue;
            }
            let circuit = peer.connections.iter().find(|open| open.relayed() && open.dialled);
            let Some(circuit) = circuit.filter(|_| peer.admitted.is_some()) else { continue };
            match peer.punch {
                None => peer.punch = Some((now + PUNCH_AGAIN, PUNCH_AGAIN)),
                Some((at, wait)) if at <= now => {
                    let wait = (wait * 2).clamp(PUNCH_AGAIN, PUNCH_RAREST);
                    peer.punch = Some((now + wait.mul_f64(0.75 + chance() / 2.0), wait));
                    due.push((*id, circuit.address.clone()));
                }
                Some(_) => {}
            }
        }
        due
    }

    /// Returns what is not needed beside a better connection; it is given up from now on. `me` is our
    /// own PeerId.
    pub(in super::super) fn not_needed(&mut self, me: &PeerId, now: Instant) -> NotNeeded {
        let mut not_needed = NotNeeded::default();
        for (id, peer) in self.all.iter().filter(|(_, peer)| peer.connections.len() > 1) {
            let links = self.links(peer);
            let calm = match self.work.contains_key(id) {
                true => None,
                false => Some(peer.calm_since(now)),
            };
            not_needed.close.extend(surplus(&links, me < id, calm, now));
            if is_ripe(&links, now) {
                not_needed.ripe.push(*id);
            }
        }
        self.closing.extend(&not_needed.close);
        not_needed
    }

    /// Returns which members are connected in another way than was last said, where that is not simply
    /// directly. A new circuit in the place of another one changes nothing.
    pub(in super::super) fn changed_ways(&mut self, now: Instant) -> Vec<(PeerId, Way)> {
        let mut changed = Vec::new();
        for (id, peer) in self.all.iter_mut().filter(|(_, peer)| peer.admitted.is_some()) {
            let Some(way) = peer.best(now).map(|open| open.way) else { continue };
            if peer.told.unwrap_or(Way::Direct) != way {
                changed.push((*id, way));
            }
            peer.told = Some(way);
        }
        changed
    }

    fn links(&self, peer: &Peer) -> Vec<Link> {
        let open = peer.connections.iter().filter(|open| !self.closing.contains(&open.id));
        open.map(|open| Link {
            id: open.id,
            relayed: open.relayed(),
            tcp: !address::is_udp(&open.address),
            opened: open.opened,
            identified: open.identified,
            answered: open.answered,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_whole_world_are_dialled_back() {
        let at = |text: &str| text.parse::<Multiaddr>().unwrap();
        let relay = PeerId::random();
        let told = [
            at("/ip4/127.0.0.1/tcp/4848"),
            at("/ip4/192.168.1.1/tcp/80"),
            at("/ip6/fe80::1/tcp/4848"),
            at(&format!("/ip4/203.0.113.10/tcp/1/p2p/{relay}/p2p-circuit")),
            at("/ip4/203.0.113.2/udp/4848/quic-v1"),
        ];
        assert_eq!(back_to(&told), [at("/ip4/203.0.113.2/udp/4848/quic-v1")]);
        let many: Vec<_> = (1..=100).map(|port| at(&format!("/ip4/8.8.8.8/tcp/{port}"))).collect();
        assert_eq!(back_to(&many).len(), DIAL_BACK_MAX);
    }
}
