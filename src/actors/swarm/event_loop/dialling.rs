//! Connecting a peer: where it is, and through the relays that take connections for it.
//!
//! Invariant: nobody is dialled through a relay before that relay has told us how it sees us, since
//! hole punching offers what is known at that moment and nothing that is learnt later.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    super::zone::with_zones,
    Discovery, EventLoop, Peer, WANTED_MAX,
    address::{self, Reach},
};
use crate::platform::network::links;

/// Dials that wait for a relay.
const THROUGH_MAX: usize = 256;
/// How long they wait.
const THROUGH_WAIT: Duration = Duration::from_secs(10);
/// A node that lost everybody tries its bootstrap nodes and relays this often, for this long.
const ALONE_EVERY: Duration = Duration::from_secs(3);
const ALONE_FOR: Duration = Duration::from_secs(10 * 60);

/// A peer that is dialled once its relay is connected.
#[derive(Debug)]
pub(super) struct Through {
    relay: PeerId,
    peer: PeerId,
    address: Multiaddr,
    until: Instant,
}

/// Cuts an address through a relay into the relay, and where that is.
fn relay_of(at: &Multiaddr) -> Option<(PeerId, Multiaddr)> {
    let mut base: Multiaddr = at.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
    let Some(Protocol::P2p(relay)) = base.pop() else { return None };
    Some((relay, base))
}

impl EventLoop {
    /// Connects a peer that somebody waits for.
    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == *self.swarm.local_peer_id() {
            return self.news(Discovery::DialFailed(peer));
        }
        if let Some(known) = self.peers.get(&peer) {
            if known.identified.is_some() {
                let (ours, addresses) = (known.ours, known.addresses.clone());
                self.news(Discovery::PeerSeen { peer, ours, addresses });
            } else {
                self.want(peer);
            }
            return;
        }
        self.want(peer);
        match self.connect(peer, addresses, PeerCondition::DisconnectedAndNotDialing) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                log::debug!(peer:%, error:%; "cannot dial");
                self.dial_failed(peer);
            }
        }
    }

    /// Dials nodes of the LAN that are not connected yet.
    pub(super) fn meet_near(&mut self, now: Instant) {
        for (peer, addresses) in self.near.due(now, rand::random) {
            // Both may dial at the same moment. From the ports that they listen on, that would be one
            // TCP connection, of which both think that they began it. And even where a dial still waits
            // for an answer from where the node was before.
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::Disconnected)
                .addresses(
                    with_zones(addresses, links).into_iter().take(address::ADDRESSES_MAX).collect(),
                )
                .extend_addresses_through_behaviour()
                .allocate_new_port()
                .build();
            match self.swarm.dial(options) {
                Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
                Err(error) => log::debug!(peer:%, error:%; "cannot dial a node of the LAN"),
            }
        }
    }

    /// Dials a peer: at once, or by way of a relay that has yet to be connected.
    pub(super) fn connect(
        &mut self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        condition: PeerCondition,
    ) -> Result<(), DialError> {
        let addresses = with_zones(addresses, links).into_iter().take(address::ADDRESSES_MAX);
        let (now, later): (Vec<_>, Vec<_>) = addresses.partition(|at| self.is_ready(at));
        for at in later {
            self.dial_later(peer, at);
        }
        let options = DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(now)
            .extend_addresses_through_behaviour()
            .build();
        self.swarm.dial(options)
    }

    /// A peer's last connection ended.
    pub(super) fn lost(&mut self, id: PeerId, peer: &Peer, now: Instant) {
        if peer.admitted.is_some() {
            self.reunions.lost(id, peer.addresses.clone(), now);
        }
        if self.peers.is_empty() {
            self.alone_since = Some(now);
        }
    }

    /// A peer is connected: where it is the first, the network is back.
    pub(super) fn found(&mut self, id: &PeerId, now: Instant) {
        self.near.over(id);
        self.reunions.over(id);
        if self.alone_since.take().is_some() {
            self.reunions.hurry(now);
        }
    }

    /// Dials members that were lost; and where everybody was, the ways into the network too.
    pub(super) fn meet_again(&mut self, now: Instant) {
        for due in self.reunions.due(now, rand::random) {
            let condition = match due.often {
                true => PeerCondition::Disconnected,
                false => PeerCondition::DisconnectedAndNotDialing,
            };
            if let Err(error) = self.connect(due.peer, due.addresses, condition) {
                log::debug!(peer:% = due.peer, error:%; "cannot dial a member again");
            }
        }
        if self.alone_since.is_some_and(|since| now.duration_since(since) < ALONE_FOR) {
            for anchor in &mut self.anchors {
                anchor.backoff.hurry(now, ALONE_EVERY);
            }
            for relay in &mut self.relays {
                relay.hurry(now, ALONE_EVERY);
            }
        }
    }

    pub(super) fn want(&mut self, peer: PeerId) {
        if self.wanted.len() < WANTED_MAX {
            self.wanted.insert(peer);
        }
    }

    /// A dial came to nothing: told to whoever waits, unless another way is still open.
    pub(super) fn dial_failed(&mut self, peer: PeerId) {
        let waits = self.through.iter().any(|through| through.peer == peer);
        if !waits && !self.peers.contains(&peer) && self.wanted.remove(&peer) {
            self.news(Discovery::DialFailed(peer));
        }
    }

    /// Tells whether an address can be dialled at once: it leads through no relay, or through one
    /// that knows us.
    fn is_ready(&self, at: &Multiaddr) -> bool {
        match relay_of(at) {
            Some((relay, _)) if address::reach(at) == Reach::Relayed => self.relay_ready(&relay),
            _ => true,
        }
    }

    fn dial_later(&mut self, peer: PeerId, at: Multiaddr) {
        let Some((relay, base)) = relay_of(&at) else { return };
        let pointless = relay == *self.swarm.local_peer_id() || relay == peer;
        if pointless || self.through.len() >= THROUGH_MAX {
            return;
        }
        let until = Instant::now() + THROUGH_WAIT;
        self.through.push(Through { relay, peer, address: at, until });
        let options = DialOpts::peer_id(relay)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(vec![base])
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                log::debug!(peer:% = relay, error:%; "cannot dial a relay");
                self.relay_unreachable(relay);
            }
        }
    }

    /// A relay cannot be connected: whoever was to be reached by it is not, by it.
    pub(super) fn relay_unreachable(&mut self, relay: PeerId) {
        let mut lost = Vec::new();
        self.through.retain(|through| {
            let keep = through.relay != relay;
            if !keep {
                lost.push(through.peer);
            }
            keep
        });
        for peer in lost {
            self.dial_failed(peer);
        }
    }

    /// Dials those whose relay is there by now; gives up on those that waited too long.
    pub(super) fn dial_through(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.through);
        let (ready, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|through| self.relay_ready(&through.relay));
        let (waiting, over): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|through| now < through.until);
        self.through = waiting;
        for through in ready {
            if self.peers.contains(&through.peer) {
                continue;
            }
            let options = DialOpts::peer_id(through.peer)
                // A dial of its direct addresses may still be under way, and take long to fail.
                .condition(PeerCondition::Disconnected)
                .addresses(vec![through.address])
                .build();
            if let Err(error) = self.swarm.dial(options) {
                log::debug!(peer:% = through.peer, error:%; "cannot dial through a relay");
                self.dial_failed(through.peer);
            }
        }
        for through in over {
            self.dial_failed(through.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_read_out_of_an_address() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let base: Multiaddr = "/ip4/203.0.113.10/udp/4848/quic-v1".parse().unwrap();
        let circuit = base.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        assert_eq!(relay_of(&circuit), Some((relay, base.clone())));
        assert_eq!(relay_of(&circuit.with(Protocol::P2p(peer))), Some((relay, base.clone())));
        assert_eq!(relay_of(&base.with(Protocol::P2pCircuit)), None);
    }
}
