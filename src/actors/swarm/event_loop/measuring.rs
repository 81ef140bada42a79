//! How a public node sees us over the protocol by which we are not connected to it.
//!
//! A router maps TCP and UDP by itself, and a connection is made over one of them, most often UDP.
//! Towards somebody whose network lets no UDP through, hole punching needs to know what our router
//! makes of TCP. Invariants: only a public node that we dialled is dialled again, and one at a time;
//! the connection that comes of it is closed like any other that is not needed.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    super::reachability::ip_of,
    EventLoop, Visibility,
    address::{self, Reach},
};

/// Nobody is dialled through a relay for this long, since hole punching offers what is known then.
const HOLD_UP: Duration = Duration::from_secs(1);
/// What did not work is not tried again for this long: UDP may be blocked.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// A connection that is made to learn how we are seen.
#[derive(Debug)]
pub(super) struct Measuring {
    connection: ConnectionId,
    since: Instant,
    over: bool,
}

impl Measuring {
    /// Tells whether it is worth to wait for what comes of it.
    pub(super) fn holds_up(&self, now: Instant) -> bool {
        !self.over && now.duration_since(self.since) < HOLD_UP
    }
}

/// Returns where a peer is reached over the other protocol, on the host where we found it.
fn other_way(found_at: &Multiaddr, told: &[Multiaddr]) -> Option<Multiaddr> {
    let same_host = |at: &&Multiaddr| ip_of(at).is_some() && ip_of(at) == ip_of(found_at);
    let direct = |at: &&Multiaddr| address::reach(at) == Reach::Global;
    let other = |at: &&Multiaddr| address::is_udp(at) != address::is_udp(found_at);
    told.iter().filter(direct).filter(same_host).find(other).cloned()
}

impl EventLoop {
    /// A peer that we dialled told how it sees us: asks it once more, over the other protocol.
    pub(super) fn measure(&mut self, peer: PeerId, found_at: &Multiaddr) {
        let now = Instant::now();
        let recent = self
            .measuring
            .as_ref()
            .is_some_and(|measuring| now.duration_since(measuring.since) < AGAIN);
        let private = self.settings.network.is_some();
        if private
            || recent
            || self.visibility == Visibility::Public
            || self.reach.observed_over(!address::is_udp(found_at))
        {
            return;
        }
        let told = self.peers.get(&peer).map(|peer| peer.addresses.as_slice()).unwrap_or_default();
        let Some(at) = other_way(found_at, told) else { return };
        let options =
            DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![at]).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => self.measuring = Some(Measuring { connection, since: now, over: false }),
            Err(error) => log::debug!(peer:%, error:%; "cannot dial a second time"),
        }
    }

    /// It was answered, or failed.
    pub(super) fn measured(&mut self, connection: ConnectionId) {
        if let Some(measuring) = &mut self.measuring {
            measuring.over |= measuring.connection == connection;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_protocol_of_the_same_public_host_is_tried() {
        let at = |text: &str| text.parse::<Multiaddr>().unwrap();
        let relay = PeerId::random();
        let told = [
            at("/ip4/192.168.1.2/tcp/1"),
            at("/ip4/203.0.113.11/tcp/2"),
            at(&format!("/ip4/203.0.113.10/tcp/3/p2p/{relay}/p2p-circuit")),
            at("/ip4/203.0.113.10/udp/4/quic-v1"),
            at("/ip4/203.0.113.10/tcp/5"),
        ];
        let found = |text: &str| other_way(&at(text), &told);
        assert_eq!(found("/ip4/203.0.113.10/udp/4/quic-v1"), Some(at("/ip4/203.0.113.10/tcp/5")));
        assert_eq!(found("/ip4/203.0.113.10/tcp/5"), Some(at("/ip4/203.0.113.10/udp/4/quic-v1")));
        assert_eq!(found("/ip4/203.0.113.12/tcp/5"), None);
        assert_eq!(found("/ip4/192.168.1.2/udp/1/quic-v1"), None);
    }
}
