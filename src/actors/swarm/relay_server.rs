//! Carrying connections for others: much for members of our rooms, a little for strangers.
//!
//! The library has one set of limits a behaviour, and a circuit's two ends must be known to the
//! same behaviour. So one of them keeps the books of all reservations and circuits, with the limits
//! of strangers, and a second one does nothing but make connection handlers with the limits of
//! members; a circuit runs in the handler of whoever opened it. Invariants: a connection changes to
//! the limits of members only before it was used for relaying, since reservations and circuits are
//! kept in its handler; addresses through other relays are never handed out.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, behaviour::ExternalAddrConfirmed, derive_prelude::Either, dummy,
        handler::ConnectionEvent,
    },
};
use lru::LruCache;

use super::address::{self, Reach};
use crate::config::{RelayConfig, RelayServe};

/// Circuits at once, of one peer; the same for both.
const CIRCUITS_PER_PEER: usize = 4;
/// Members that are remembered beyond their connection, which then starts with their limits.
const MEMBERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

type Inner = THandler<relay::Behaviour>;

/// A relay with two sets of limits.
pub(super) struct RelayServer {
    books: relay::Behaviour,
    /// Makes handlers with the limits of members; is told of no event.
    generous: relay::Behaviour,
    serves: RelayServe,
    stranger_circuits_max: u32,
    /// Whether we can be reached, so that a relay is of use.
    reachable: bool,
    members: LruCache<PeerId, ()>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    /// Circuits that strangers opened: from whom to whom.
    stranger_circuits: HashMap<(PeerId, PeerId), u32>,
    actions: VecDeque<(PeerId, ConnectionId, Command)>,
    waker: Option<Waker>,
}

/// What a handler is told by us.
#[derive(Debug, Clone, Copy)]
enum Command {
    Offer(bool),
    Promote,
}

impl RelayServer {
    pub(super) fn new(me: PeerId, limits: &RelayConfig) -> Self {
        let serves = limits.serve;
        let mut books = relay::Behaviour::new(me, for_strangers(limits));
        let mut generous = relay::Behaviour::new(me, for_members(limits));
        // What is offered to whom is decided here.
        books.set_status(Some(relay::Status::Enable));
        generous.set_status(Some(relay::Status::Enable));
        Self {
            books,
            generous,
            serves,
            stranger_circuits_max: limits.stranger_circuits,
            reachable: serves == RelayServe::Always,
            members: LruCache::new(MEMBERS_MAX),
            connections: HashMap::new(),
            stranger_circuits: HashMap::new(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Takes note of an address that others can be given for this relay.
    pub(super) fn known_at(&mut self, at: &Multiaddr) {
        let confirmed = ExternalAddrConfirmed { addr: at };
        self.books.on_swarm_event(FromSwarm::ExternalAddrConfirmed(confirmed));
    }

    /// Begins to relay, or ends it for whoever does not use it yet.
    pub(super) fn set_reachable(&mut self, reachable: bool) {
        let reachable = reachable || self.serves == RelayServe::Always;
        if self.reachable != reachable {
            self.reachable = reachable;
            self.offer_anew();
        }
    }

    /// Gives a peer the limits of members.
    pub(super) fn admit(&mut self, peer: PeerId) {
        self.members.put(peer, ());
        let offered = self.offers(&peer);
        for connection in self.connections.get(&peer).into_iter().flatten() {
            self.actions.push_back((peer, *connection, Command::Promote));
            self.actions.push_back((peer, *connection, Command::Offer(offered)));
        }
        self.wake();
    }

    /// Takes them away, for connections to come.
    pub(super) fn dismiss(&mut self, peer: &PeerId) {
        self.members.pop(peer);
    }

    fn offers(&self, peer: &PeerId) -> bool {
        let member = self.members.contains(peer);
        let strangers: u32 = self.stranger_circuits.values().sum();
        let room = self.serves != RelayServe::Members && strangers < self.stranger_circuits_max;
        self.reachable && self.serves != RelayServe::Off && (member || room)
    }

    fn offer_anew(&mut self) {
        let connections = self.connections.iter();
        let all = connections.flat_map(|(peer, open)| open.iter().map(|id| (*peer, *id)));
        let offers: Vec<_> = all
            .map(|(peer, connection)| (peer, connection, Command::Offer(self.offers(&peer))))
            .collect();
        self.actions.extend(offers);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&self, peer: &PeerId, small: Inner, large: Inner) -> RelayHandler {
        let offered = self.offers(peer);
        match self.members.contains(peer) {
            true => RelayHandler { inner: large, spare: None, offered },
            false => RelayHandler { inner: small, spare: Some(large), offered },
        }
    }

    /// Counts circuits of strangers; at the limit nobody else of them is offered any.
    fn count(&mut self, event: &relay::Event) {
        let before: u32 = self.stranger_circuits.values().sum();
        match event {
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id }
                if !self.members.contains(src_peer_id) =>
            {
                let open = self.stranger_circuits.entry((*src_peer_id, *dst_peer_id)).or_default();
                *open += 1;
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                let ends = (*src_peer_id, *dst_peer_id);
                if let Some(open) = self.stranger_circuits.get_mut(&ends) {
                    *open = open.saturating_sub(1);
                    if *open == 0 {
                        self.stranger_circuits.remove(&ends);
                    }
                }
            }
            _ => return,
        }
        let after: u32 = self.stranger_circuits.values().sum();
        let limit = self.stranger_circuits_max;
        if (before < limit) != (after < limit) {
            self.offer_anew();
        }
    }
}

/// What counts for everybody, and for each circuit of a stranger.
fn for_strangers(limits: &RelayConfig) -> relay::Config {
    let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    relay::Config {
        max_reservations: count(limits.max_reservations),
        max_circuits: count(limits.max_circuits),
        max_circuits_per_peer: CIRCUITS_PER_PEER,
        max_circuit_duration: Duration::from_secs(limits.stranger_circuit_seconds.into()),
        max_circuit_bytes: limits.stranger_circuit_bytes,
        ..relay::Config::default()
    }
}

fn for_members(limits: &RelayConfig) -> relay::Config {
    relay::Config {
        max_circuit_duration: Duration::from_secs(limits.member_circuit_seconds.into()),
        max_circuit_bytes: limits.member_circuit_bytes,
        ..for_strangers(limits)
    }
}

impl NetworkBehaviour for RelayServer {
    type ConnectionHandler = RelayHandler;
    type ToSwarm = relay::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<RelayHandler, ConnectionDenied> {
        let small =
            self.books.handle_established_inbound_connection(connection, peer, local, remote)?;
        let large =
            self.generous.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.handler(&peer, small, large))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<RelayHandler, ConnectionDenied> {
        let small = self
            .books
            .handle_established_outbound_connection(connection, peer, address, role, port)?;
        let large = self
            .generous
            .handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.handler(&peer, small, large))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ExternalAddrConfirmed(confirmed)
                if address::reach(confirmed.addr) == Reach::Relayed =>
            {
                return;
            }
            FromSwarm::ConnectionEstablished(made) => {
                self.connections.entry(made.peer_id).or_default().push(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(open) = self.connections.get_mut(&closed.peer_id) {
                    open.retain(|connection| *connection != closed.connection_id);
                }
                if closed.remaining_established == 0 {
                    self.connections.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
        self.books.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.books.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, command)) = self.actions.pop_front() {
            let handler = NotifyHandler::One(connection);
            let event = RelayIn::Ours(command);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        let polled = self.books.poll(cx).map(|action| action.map_in(RelayIn::Inner));
        if let Poll::Ready(ToSwarm::GenerateEvent(event)) = &polled {
            self.count(event);
        }
        self.waker = Some(cx.waker().clone());
        polled
    }
}

/// What a connection is told.
#[derive(Debug)]
pub(super) enum RelayIn<T> {
    /// By us.
    #[expect(private_interfaces, reason = "nobody else makes them")]
    Ours(Command),
    /// By the library.
    Inner(T),
}

/// Relaying on one connection.
pub(super) struct RelayHandler {
    inner: Inner,
    /// Takes its place when the peer turns out to be a member; gone once relaying was used.
    spare: Option<Inner>,
    offered: bool,
}

impl ConnectionHandler for RelayHandler {
    type FromBehaviour = RelayIn<<Inner as ConnectionHandler>::FromBehaviour>;
    type ToBehaviour = <Inner as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Inner as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Inner as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = <Inner as ConnectionHandler>::InboundOpenInfo;
    type OutboundOpenInfo = <Inner as ConnectionHandler>::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        if self.offered {
            return self.inner.listen_protocol();
        }
        let shut: Inner = Either::Right(dummy::ConnectionHandler);
        shut.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            RelayIn::Ours(Command::Offer(offered)) => self.offered = offered,
            RelayIn::Ours(Command::Promote) => {
                if let Some(large) = self.spare.take() {
                    self.inner = large;
                }
            }
            RelayIn::Inner(event) => {
                self.spare = None;
                self.inner.on_behaviour_event(event);
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            // It may be of the shut protocol, and says nothing that the library heeds.
            ConnectionEvent::ListenUpgradeError(_) => {}
            event => {
                if matches!(event, ConnectionEvent::FullyNegotiatedInbound(_)) {
                    self.spare = None;
                }
                self.inner.on_connection_event(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(serve: RelayServe) -> RelayServer {
        let limits = RelayConfig { serve, stranger_circuits: STRANGERS, ..RelayConfig::default() };
        RelayServer::new(PeerId::random(), &limits)
    }

    const STRANGERS: u32 = 3;

    /// Returns whether a relay offers itself to a member, and to a stranger.
    fn offers(serves: RelayServe, reachable: bool, circuits: u32) -> (bool, bool) {
        let (member, stranger, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut relay = relay(serves);
        relay.set_reachable(reachable);
        relay.admit(member);
        let accepted = relay::Event::CircuitReqAccepted { src_peer_id: other, dst_peer_id: member };
        for _ in 0..circuits {
            relay.count(&accepted);
        }
        (relay.offers(&member), relay.offers(&stranger))
    }

    #[test]
    fn who_is_carried_follows_from_the_setting_and_from_being_reachable() {
        for (serves, reachable, expected) in [
            (RelayServe::Auto, false, (false, false)),
            (RelayServe::Auto, true, (true, true)),
            (RelayServe::Members, false, (false, false)),
            (RelayServe::Members, true, (true, false)),
            (RelayServe::Always, false, (true, true)),
            (RelayServe::Off, true, (false, false)),
        ] {
            assert_eq!(offers(serves, reachable, 0), expected, "{serves:?} {reachable}");
        }
    }

    #[test]
    fn strangers_leave_room_for_members() {
        assert_eq!(offers(RelayServe::Auto, true, STRANGERS - 1), (true, true));
        assert_eq!(offers(RelayServe::Auto, true, STRANGERS), (true, false));
    }

    #[test]
    fn an_end_of_a_circuit_makes_room_again() {
        let mut relay = relay(RelayServe::Always);
        let (from, to) = (PeerId::random(), PeerId::random());
        for _ in 0..STRANGERS {
            let event = relay::Event::CircuitReqAccepted { src_peer_id: from, dst_peer_id: to };
            relay.count(&event);
        }
        assert!(!relay.offers(&PeerId::random()));
        let event = relay::Event::CircuitClosed { src_peer_id: from, dst_peer_id: to, error: None };
        relay.count(&event);
        assert!(relay.offers(&PeerId::random()));
        // A member is forgotten only when its proof is over.
        relay.admit(from);
        relay.dismiss(&from);
        assert!(!relay.members.contains(&from));
    }

    #[test]
    fn a_circuit_of_a_member_and_one_of_a_stranger_have_the_limits_that_are_configured() {
        let limits = RelayConfig {
            max_reservations: 1,
            max_circuits: 2,
            member_circuit_seconds: 3,
            member_circuit_bytes: 4,
            stranger_circuit_seconds: 5,
            stranger_circuit_bytes: 6,
            ..RelayConfig::default()
        };
        for (made, seconds, bytes) in [(for_members(&limits), 3, 4), (for_strangers(&limits), 5, 6)]
        {
            assert_eq!((made.max_reservations, made.max_circuits), (1, 2));
            assert_eq!(made.max_circuit_duration, Duration::from_secs(seconds));
            assert_eq!(made.max_circuit_bytes, bytes);
        }
        // Without a word in the configuration, strangers get what the library gives.
        let (ours, library) = (for_strangers(&RelayConfig::default()), relay::Config::default());
        assert_eq!(ours.max_reservations, library.max_reservations);
        assert_eq!(ours.max_circuit_duration, library.max_circuit_duration);
        assert_eq!(ours.max_circuit_bytes, library.max_circuit_bytes);
    }
}
