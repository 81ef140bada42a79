//! From a relayed connection to a direct one: dialling back, hole punching, and giving the circuit
//! up.
//!
//! Invariant: only addresses of the whole world are dialled back, since the peer could name any of
//! our neighbours.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    dcutr,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    super::{
        Way,
        surplus::{Link, is_ripe, surplus},
    },
    EventLoop, Peer, Standing,
    address::{self, Reach},
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

/// Returns the addresses by which a peer that called through a relay may be called back.
fn back_to(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let global = addresses.iter().filter(|at| address::reach(at) == Reach::Global);
    global.take(DIAL_BACK_MAX).cloned().collect()
}

impl EventLoop {
    /// Tells how a new connection came about.
    pub(super) fn way_of(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) -> Way {
        let reversed = self.dials_back.remove(&connection);
        if endpoint.is_relayed() {
            return Way::Relayed;
        }
        let called = self.peers.get(peer).is_some_and(|peer| !peer.is_direct());
        match (reversed, called && endpoint.is_listener(), self.standing) {
            (true, ..) => Way::Reversed,
            // It was called through a relay, and came: by our address, or by the hole.
            (false, true, Standing::Hidden) => Way::Punched,
            (false, true, _) => Way::Reversed,
            (false, false, _) => Way::Direct,
        }
    }

    /// Hole punching succeeded, or did not.
    pub(super) fn on_dcutr(&mut self, event: &dcutr::Event) {
        let peer = event.remote_peer_id;
        match &event.result {
            Ok(connection) => {
                let known = self.peers.get_mut(&peer);
                let open = known.map(|peer| &mut peer.connections).into_iter().flatten();
                for open in open.filter(|open| open.id == *connection) {
                    open.way = Way::Punched;
                }
            }
            Err(error) => log::debug!(peer:%, error:%; "no hole could be punched"),
        }
    }

    /// Calls a peer back that is connected through a relay alone, where it says that it is.
    pub(super) fn dial_back(&mut self, id: PeerId) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.is_direct()) else { return };
        let addresses = back_to(&peer.addresses);
        let again = peer.dialled_back.as_ref().is_some_and(|(at, tried)| {
            let new = addresses.iter().any(|address| !tried.contains(address));
            !new && now.duration_since(*at) < DIAL_BACK_EVERY
        });
        if addresses.is_empty() || again {
            return;
        }
        peer.dialled_back = Some((now, addresses.clone()));
        let options =
            DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials_back.insert(connection);
            }
            Err(error) => log::debug!(peer:% = id, error:%; "cannot dial back"),
        }
    }

    /// A connection ended and others are left: where these are circuits, a direct one is missed.
    pub(super) fn direct_lost(&mut self, id: &PeerId) {
        if let Some(peer) = self.peers.get_mut(id).filter(|peer| !peer.is_direct()) {
            peer.punch = Some((Instant::now() + PUNCH_SOON, PUNCH_SOON));
        }
    }

    /// Makes new circuits to members that are connected by a circuit alone, so that a hole is
    /// punched anew; the older circuit is given up then. Only who made the old one does so.
    pub(super) fn punch_again(&mut self, now: Instant) {
        let mut dials = Vec::new();
        for (id, peer) in &mut self.peers {
            let circuit = peer.connections.iter().find(|open| open.relayed() && open.dialled);
            let (Some(circuit), false, true) = (circuit, peer.is_direct(), peer.admitted.is_some())
            else {
                if peer.is_direct() {
                    peer.punch = None;
                }
                continue;
            };
            match peer.punch {
                None => peer.punch = Some((now + PUNCH_AGAIN, PUNCH_AGAIN)),
                Some((due, wait)) if due <= now => {
                    let wait = (wait * 2).clamp(PUNCH_AGAIN, PUNCH_RAREST);
                    peer.punch =
                        Some((now + wait.mul_f64(0.75 + rand::random::<f64>() / 2.0), wait));
                    dials.push((*id, circuit.address.clone()));
                }
                Some(_) => {}
            }
        }
        for (id, address) in dials {
            let options = DialOpts::peer_id(id)
                .condition(PeerCondition::Always)
                .addresses(vec![address])
                .build();
            if let Err(error) = self.swarm.dial(options) {
                log::debug!(peer:% = id, error:%; "no new circuit");
            }
        }
    }

    /// Closes connections that are not needed beside a better one.
    pub(super) fn give_up(&mut self, now: Instant) {
        let me = *self.swarm.local_peer_id();
        let mut closing = Vec::new();
        let mut ripe = Vec::new();
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.connections.len() > 1) {
            let links = self.links(peer);
            let calm = match self.work.contains_key(id) {
                true => None,
                false => Some(peer.calm_since(now)),
            };
            closing.extend(surplus(&links, me < *id, calm, now));
            if is_ripe(&links, now) {
                ripe.push(*id);
            }
        }
        for peer in ripe {
            self.hold_back(peer, now);
        }
        for connection in closing {
            log::debug!(connection:%; "closing a connection that is not needed any more");
            self.closing.insert(connection);
            self.swarm.close_connection(connection);
        }
    }

    /// Says how members are connected, where that is not simply directly, and when it changes. A new
    /// circuit in the place of another one changes nothing.
    pub(super) fn tell_ways(&mut self) {
        for (id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.admitted.is_some()) {
            let Some(way) = peer.best().map(|open| open.way) else { continue };
            if peer.told.unwrap_or(Way::Direct) != way {
                log::info!("how node {id} is connected now: {way}");
            }
            peer.told = Some(way);
        }
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

impl Peer {
    /// Returns since when no request has been under way.
    fn calm_since(&self, now: Instant) -> Instant {
        let first = self.connections.iter().map(|open| open.opened).min();
        self.calm_since.or(first).unwrap_or(now)
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
