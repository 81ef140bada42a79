//! Who comes in, and who has to make room.
//!
//! libp2p limits connections by number alone, so whoever is quick holds them all. This behaviour
//! has a say before the handshake (how often an address may knock, how many places it may hold) and
//! after it (who has proven something, who is only passing by). Invariants: nobody who shares a
//! room is closed from here; every table is bounded by the number of connections or by its own
//! limit; this machine itself (loopback) is not limited.

mod buckets;
mod guests;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    fmt,
    net::IpAddr,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};

use self::{
    buckets::{Buckets, HOUSE, NEAR, NET, RELAY, Source},
    guests::{Guests, Standing},
};
use super::address::{self, Reach};

/// Inbound connections that one public address holds: a household, or a company behind one.
const HOUSE_HELD_MAX: u32 = 24;
/// And one private address.
const NEAR_HELD_MAX: u32 = 128;

/// The door.
pub(super) struct Door {
    buckets: Buckets,
    guests: Guests<PeerId, ConnectionId>,
    /// Inbound connections by address.
    held: HashMap<Source, u32>,
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self {
            buckets: Buckets::new(),
            guests: Guests::new(),
            held: HashMap::new(),
            closing: VecDeque::new(),
        }
    }

    /// A peer proved who it is.
    pub(super) fn vouch(&mut self, peer: &PeerId) {
        if self.guests.standing(peer) == Some(Standing::Stranger) {
            self.guests.rank(peer, Standing::Acquaintance);
            self.make_room();
        }
    }

    /// A peer shares a room with us.
    pub(super) fn admit(&mut self, peer: &PeerId) {
        self.guests.rank(peer, Standing::Member);
    }

    /// What a peer proved is over.
    pub(super) fn dismiss(&mut self, peer: &PeerId) {
        self.guests.rank(peer, Standing::Stranger);
        self.make_room();
    }

    /// A peer said something of use.
    pub(super) fn used(&mut self, peer: &PeerId) {
        self.guests.used(peer, Instant::now());
    }

    /// Peers that are needed, whoever they are; replaces those that were named before.
    pub(super) fn keep(&mut self, peers: Vec<PeerId>) {
        self.guests.keep(peers);
    }

    /// Returns how many connections to strangers there are.
    pub(super) fn strangers(&self) -> usize {
        self.guests.held(Standing::Stranger)
    }

    fn make_room(&mut self) {
        let surplus = self.guests.surplus(Instant::now());
        self.closing = surplus.into();
    }
}

/// Returns where a connection counts, and how many places there are.
fn place(local: &Multiaddr, remote: &Multiaddr) -> Option<(Source, u32)> {
    let relayed = [local, remote].iter().any(|at| address::reach(at) == Reach::Relayed);
    if relayed {
        // The relay bounds what it carries.
        return None;
    }
    let source = Source::house(ip_of(remote)?);
    match address::reach(remote) {
        Reach::Loopback => None,
        Reach::Private => Some((source, NEAR_HELD_MAX)),
        _ => Some((source, HOUSE_HELD_MAX)),
    }
}

fn ip_of(at: &Multiaddr) -> Option<IpAddr> {
    match at.iter().next() {
        Some(libp2p::multiaddr::Protocol::Ip4(ip)) => Some(ip.into()),
        Some(libp2p::multiaddr::Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
enum Shut {
    TooOften,
    TooMany,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooOften => "this address connects too often",
            Self::TooMany => "this address has too many connections",
        })
    }
}

impl std::error::Error for Shut {}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let now = Instant::now();
        let relayed = address::reach(local) == Reach::Relayed;
        let granted = match (relayed, address::reach(remote), ip_of(remote)) {
            (true, ..) => self.buckets.take(Source::Relay(ip_of(local)), RELAY, now),
            (false, Reach::Loopback, _) | (false, _, None) => true,
            (false, Reach::Private, Some(ip)) => self.buckets.take(Source::house(ip), NEAR, now),
            (false, _, Some(ip)) => {
                self.buckets.take(Source::house(ip), HOUSE, now)
                    && self.buckets.take(Source::net(ip), NET, now)
            }
        };
        if granted { Ok(()) } else { Err(ConnectionDenied::new(Shut::TooOften)) }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        match place(local, remote) {
            Some((source, max)) if self.held.get(&source).is_some_and(|held| *held >= max) => {
                Err(ConnectionDenied::new(Shut::TooMany))
            }
            _ => Ok(dummy::ConnectionHandler),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(made) => {
                if let Some((source, _)) = inbound(made.endpoint) {
                    *self.held.entry(source).or_default() += 1;
                }
                self.guests.came(made.peer_id, made.connection_id, Instant::now());
                self.make_room();
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some((source, _)) = inbound(closed.endpoint)
                    && let Some(held) = self.held.get_mut(&source)
                {
                    *held = held.saturating_sub(1);
                    if *held == 0 {
                        self.held.remove(&source);
                    }
                }
                self.guests.left(&closed.peer_id, closed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.closing.pop_front() {
            Some((peer_id, connection)) => {
                log::debug!(peer:% = peer_id; "a connection makes room for others");
                let connection = CloseConnection::One(connection);
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection })
            }
            None => Poll::Pending,
        }
    }
}

/// Returns the place that an inbound connection takes.
fn inbound(endpoint: &libp2p::core::ConnectedPoint) -> Option<(Source, u32)> {
    match endpoint {
        libp2p::core::ConnectedPoint::Listener { local_addr, send_back_addr } => {
            place(local_addr, send_back_addr)
        }
        libp2p::core::ConnectedPoint::Dialer { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(door: &mut Door, remote: &str) -> bool {
        let local: Multiaddr = "/ip4/198.51.100.1/tcp/4848".parse().unwrap();
        let remote = remote.parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        door.handle_pending_inbound_connection(id, &local, &remote).is_ok()
    }

    #[test]
    fn attack_13_who_knocks_too_often_is_not_answered() {
        let mut door = Door::new();
        let granted = (0..1000).filter(|_| knock(&mut door, "/ip4/203.0.113.5/tcp/9")).count();
        assert!((32..40).contains(&granted), "{granted}");
        assert!(knock(&mut door, "/ip4/203.0.113.6/tcp/9"), "a neighbour is not to blame");
        let mut granted = 0;
        for host in 0..250 {
            for _ in 0..10 {
                granted += usize::from(knock(&mut door, &format!("/ip4/192.0.2.{host}/tcp/9")));
            }
        }
        assert!((128..160).contains(&granted), "one net, many addresses: {granted}");
        assert!((0..1000).all(|_| knock(&mut door, "/ip4/127.0.0.1/tcp/9")));
        let near = (0..1000).filter(|_| knock(&mut door, "/ip4/192.168.1.5/tcp/9")).count();
        assert!((256..300).contains(&near), "{near}");
    }

    #[test]
    fn attack_13_one_address_holds_few_places() {
        let mut door = Door::new();
        let local: Multiaddr = "/ip4/198.51.100.1/tcp/4848".parse().unwrap();
        let remote: Multiaddr = "/ip4/203.0.113.5/tcp/9".parse().unwrap();
        let endpoint = libp2p::core::ConnectedPoint::Listener {
            local_addr: local.clone(),
            send_back_addr: remote.clone(),
        };
        let mut places = Vec::new();
        for number in 0..100 {
            let id = ConnectionId::new_unchecked(number);
            let peer = PeerId::random();
            if door.handle_established_inbound_connection(id, peer, &local, &remote).is_err() {
                continue;
            }
            door.on_swarm_event(FromSwarm::ConnectionEstablished(
                libp2p::swarm::behaviour::ConnectionEstablished {
                    peer_id: peer,
                    connection_id: id,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established: 0,
                },
            ));
            places.push((peer, id));
        }
        assert_eq!(places.len(), HOUSE_HELD_MAX as usize);
        let (peer, id) = places[0];
        door.on_swarm_event(FromSwarm::ConnectionClosed(libp2p::swarm::ConnectionClosed {
            peer_id: peer,
            connection_id: id,
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
        let id = ConnectionId::new_unchecked(1000);
        let again = door.handle_established_inbound_connection(id, peer, &local, &remote);
        assert!(again.is_ok(), "its place is free again");
    }
}
