//! Relays that take connections for us, while nobody can connect us directly.
//!
//! Configured ones first, then members of our rooms, then whoever offers it to everybody. The
//! library ends the process's network if a reservation is answered whose listener is gone, so one
//! is only given up after it was accepted. Invariants: never more reservations than the limit;
//! none before the relay has told how it sees us; none is begun while we are public.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    multiaddr::Protocol,
    relay,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

use super::{
    super::RelayKind,
    Backoff, EventLoop, Peer, Visibility,
    address::{self, Reach},
};

/// Relays at once: two, so that one can fail, and one more where a member of our rooms offers it.
const RESERVATIONS: usize = 2;
const RESERVATIONS_MAX: usize = 3;
/// A configured relay that ended its service is asked again after this.
const RELAY_REST: Duration = Duration::from_secs(5);
/// Any other is not asked again for this long.
const REFUSED: Duration = Duration::from_secs(60);
/// Relays that refused and are remembered.
const REFUSED_MAX: usize = 256;
/// The other side opens its gate about when we do, and only then gives us the limits of members.
const ADMITTED_SETTLE: Duration = Duration::from_millis(500);
/// One of ours may yet turn out to be a member; after this it is a stranger.
const UNDECIDED: Duration = Duration::from_secs(1);

/// A relay that takes connections for us, or is asked to.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) peer: PeerId,
    /// Where it is, its PeerId at the end.
    pub(super) address: Multiaddr,
    /// Where else it is: one relay that is configured by two addresses, for TCP and QUIC perhaps, is
    /// asked once, since a second reservation would end the first.
    others: Vec<Multiaddr>,
    pub(super) kind: RelayKind,
    listener: Option<ListenerId>,
    pub(super) accepted: bool,
    ask: Backoff,
    dial: Backoff,
}

/// Returns the configured relays.
pub(super) fn configured(addresses: &[Multiaddr], now: Instant) -> Vec<Relay> {
    let mut relays: Vec<Relay> = Vec::new();
    for address in addresses {
        let Some(peer) = address::peer_of(address) else {
            log::warn!(relay:% = address; "libp2p.staticRelays: not used, it lacks a /p2p/…");
            continue;
        };
        match relays.iter_mut().find(|relay| relay.peer == peer) {
            Some(relay) => relay.others.push(address.clone()),
            None => relays.push(Relay::new(peer, address.clone(), RelayKind::Static, now)),
        }
    }
    relays
}

impl Relay {
    fn new(peer: PeerId, address: Multiaddr, kind: RelayKind, now: Instant) -> Self {
        let (ask, dial) = (Backoff::new(now), Backoff::new(now));
        let others = Vec::new();
        Self { peer, address, others, kind, listener: None, accepted: false, ask, dial }
    }

    /// Tries again within a while.
    pub(super) fn hurry(&mut self, now: Instant, within: Duration) {
        self.ask.hurry(now, within);
        self.dial.hurry(now, within);
    }
}

impl EventLoop {
    /// Asks relays, as many as are needed.
    pub(super) fn reserve(&mut self, now: Instant) {
        self.refused.retain(|_, until| now < *until);
        if self.visibility == Visibility::Public {
            return self.release();
        }
        for index in 0..self.relays.len() {
            self.ask_relay(index, now);
        }
        let held = self.relays.iter().filter(|relay| relay.listener.is_some()).count();
        let Some((kind, peer, address)) = self.best_relay(now) else { return };
        let limit = if kind == RelayKind::Member { RESERVATIONS_MAX } else { RESERVATIONS };
        if held < limit {
            let address = address.with(Protocol::P2p(peer));
            self.relays.push(Relay::new(peer, address, kind, now));
            self.ask_relay(self.relays.len() - 1, now);
        }
    }

    fn ask_relay(&mut self, index: usize, now: Instant) {
        let Some(relay) = self.relays.get(index) else { return };
        // One that is configured with several addresses is asked at one: the library has one
        // reservation a connection, and the second would end the first.
        let asked = |one: &Relay| one.peer == relay.peer && one.listener.is_some();
        if self.relays.iter().any(asked) {
            return;
        }
        let (ready, peer) = (self.relay_ready(&relay.peer), relay.peer);
        let connected = self.peers.get(&peer).is_some_and(Peer::is_direct);
        let Some(relay) = self.relays.get_mut(index) else { return };
        if ready && relay.ask.fire(now, rand::random()) {
            match self.swarm.listen_on(relay.address.clone().with(Protocol::P2pCircuit)) {
                Ok(listener) => relay.listener = Some(listener),
                Err(error) => log::warn!(relay:% = relay.address, error:%; "cannot use a relay"),
            }
        } else if !connected && relay.dial.fire(now, rand::random()) {
            let addresses = std::iter::once(&relay.address).chain(&relay.others);
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::NotDialing)
                .addresses(addresses.map(address::without_peer).collect())
                .build();
            if let Err(error) = self.swarm.dial(options) {
                log::debug!(relay:% = relay.address, error:%; "cannot dial a relay");
            }
        }
    }

    /// Ends all reservations: whoever looks for us finds us without.
    fn release(&mut self) {
        let held = self.relays.iter().filter(|relay| relay.accepted);
        let listeners: Vec<ListenerId> = held.filter_map(|relay| relay.listener).collect();
        for listener in listeners {
            self.swarm.remove_listener(listener);
        }
    }

    /// Tells whether a peer, as a relay, knows us: it has told how it sees us, and whether it takes
    /// us for a member is decided.
    pub(super) fn relay_ready(&self, relay: &PeerId) -> bool {
        let now = Instant::now();
        let Some(peer) = self.peers.get(relay).filter(|peer| peer.is_direct()) else {
            return false;
        };
        if self.measuring.as_ref().is_some_and(|measuring| measuring.holds_up(now)) {
            return false;
        }
        let Some(identified) = peer.identified else { return false };
        let settled = |admitted| now.duration_since(admitted) >= ADMITTED_SETTLE;
        !peer.ours
            || peer.admitted.is_some_and(settled)
            || (peer.admitted.is_none() && now.duration_since(identified) >= UNDECIDED)
    }

    fn best_relay(&self, now: Instant) -> Option<(RelayKind, PeerId, Multiaddr)> {
        let unknown = |id: &PeerId| {
            !self.relays.iter().any(|relay| relay.peer == *id)
                && self.refused.get(id).is_none_or(|until| *until <= now)
        };
        let offers = self.peers.iter().filter(|(id, peer)| peer.relays && unknown(id));
        let ready = offers.filter(|(id, _)| self.relay_ready(id));
        let usable = ready.filter_map(|(id, peer)| {
            let kind = match peer.admitted {
                Some(_) => RelayKind::Member,
                None => RelayKind::Stranger,
            };
            Some((kind, *id, self.address_of_relay(peer)?))
        });
        usable.min_by_key(|(kind, ..)| *kind)
    }

    /// Returns where others find a relay: where we found it, or where it says.
    fn address_of_relay(&self, peer: &Peer) -> Option<Multiaddr> {
        let private = self.settings.network.is_some();
        let good = |at: &&Multiaddr| match address::reach(at) {
            Reach::Global => !private,
            Reach::Private | Reach::Loopback => private,
            Reach::Relayed | Reach::None => false,
        };
        let dialled = peer.connections.iter().filter(|open| open.dialled).map(|open| &open.address);
        dialled.chain(&peer.addresses).find(good).map(address::without_peer)
    }

    /// A relay said yes.
    pub(super) fn on_relay(&mut self, event: &relay::client::Event) {
        let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal: false, .. } =
            event
        else {
            return;
        };
        let asked = |relay: &&mut Relay| relay.peer == *relay_peer_id && relay.listener.is_some();
        let Some(relay) = self.relays.iter_mut().find(asked) else { return };
        relay.accepted = true;
        relay.ask.rest(Instant::now(), RELAY_REST);
        if self.visibility == Visibility::Hidden {
            log::info!("reachable through the relay {}", relay.address);
        }
    }

    /// A relay takes no connections for us any more, or never did.
    pub(super) fn relay_closed(&mut self, listener: ListenerId) {
        let now = Instant::now();
        let Some(index) = self.relays.iter().position(|one| one.listener == Some(listener)) else {
            return;
        };
        let Some(relay) = self.relays.get_mut(index) else { return };
        relay.listener = None;
        if std::mem::take(&mut relay.accepted) {
            log::info!("not reachable any more through the relay {}", relay.address);
        }
        if relay.kind != RelayKind::Static {
            let peer = relay.peer;
            self.relays.swap_remove(index);
            if self.refused.len() < REFUSED_MAX {
                self.refused.insert(peer, now + REFUSED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_with_two_addresses_is_one_relay() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let at =
            |text: &str, peer: PeerId| text.parse::<Multiaddr>().unwrap().with(Protocol::P2p(peer));
        let told = [
            at("/ip4/203.0.113.10/udp/4848/quic-v1", one),
            at("/ip4/203.0.113.11/tcp/4848", other),
            at("/ip4/203.0.113.10/tcp/4848", one),
            "/ip4/203.0.113.12/tcp/4848".parse().unwrap(),
        ];
        let relays = configured(&told, Instant::now());
        let read: Vec<_> = relays.iter().map(|relay| (relay.peer, relay.others.len())).collect();
        assert_eq!(read, [(one, 1), (other, 0)]);
    }
}
