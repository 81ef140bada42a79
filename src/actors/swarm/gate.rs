//! Gossip only for those who proved who they are and share a room with us.
//!
//! gossipsub tells every connected peer all of our topics and takes messages from anybody. This
//! wrapper keeps its stream shut, both ways, until a peer is admitted; it is never shut again on an
//! open connection, whoever shares no room any more is disconnected.
//!
//! gossipsub tells its topics with the first connection of a peer and never again. A peer that was
//! started anew, or that had given its end up, is connected beside a connection that is dead and not
//! yet known to be: it would never learn them. So they are told again when one of several connections
//! is closed. Invariants: before a peer is admitted no topic is told and nothing is read; the outbound
//! stream waits until the peer told (by identify) that it opened its own side, since gossipsub gives a
//! peer up that refuses once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    gossipsub,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        derive_prelude::Either,
        handler::{ConnectionEvent, ProtocolsChange},
    },
};

use super::TopicCounts;

/// Filter of subscriptions: only their number.
pub(super) type Filter =
    gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>;
/// The gossipsub that is kept behind the gate.
pub(super) type Gossipsub = gossipsub::Behaviour<gossipsub::IdentityTransform, Filter>;

/// Proven peers that are kept without a shared room. Identities cost nothing, so the rest of the
/// places for inbound connections stays free for whoever comes next.
const KEPT_MAX: usize = 128;

/// How often a connection looks whether there is something to send for the first time. All
/// connections of a peer share one queue, and the library wakes none that has sent nothing yet.
const LOOK_FIRST: Duration = Duration::from_secs(1);
/// The same once another connection was closed (a circuit, when there is a better way), which may
/// have been the one that sent: nothing would go out until something else happens.
const LOOK_ALONE: Duration = Duration::from_millis(50);
/// How often after that: its stream may have failed, with the same effect.
const LOOK: Duration = Duration::from_secs(5);

type Inner = THandler<Gossipsub>;

/// gossipsub behind the gate.
pub(super) struct Gate {
    inner: Gossipsub,
    admitted: HashSet<PeerId>,
    connections: HashMap<PeerId, Vec<(ConnectionId, ConnectedPoint)>>,
    /// Peers that we connected.
    dialled: HashSet<PeerId>,
    kept: HashSet<PeerId>,
    telling: VecDeque<(PeerId, ConnectionId)>,
    /// Connections that are left after another one of their peer was closed.
    alone: VecDeque<(PeerId, ConnectionId)>,
}

impl Gate {
    pub(super) fn new(inner: Gossipsub) -> Self {
        Self {
            inner,
            admitted: HashSet::new(),
            connections: HashMap::new(),
            dialled: HashSet::new(),
            kept: HashSet::new(),
            telling: VecDeque::new(),
            alone: VecDeque::new(),
        }
    }

    /// Returns what is behind the gate.
    pub(super) fn gossip(&mut self) -> &mut Gossipsub {
        &mut self.inner
    }

    /// Counts our topics, and those that have a mesh, of peers that are not silent.
    pub(super) fn topics(&self, silent: impl Fn(&PeerId) -> bool) -> TopicCounts {
        let meshed =
            |topic: &&gossipsub::TopicHash| self.inner.mesh_peers(topic).any(|peer| !silent(peer));
        TopicCounts {
            subscribed: self.inner.topics().count(),
            meshed: self.inner.topics().filter(meshed).count(),
        }
    }

    /// Returns the PeerIds of those to whom we hand on what is said on a topic.
    pub(super) fn mesh(&self, topic: String) -> Vec<String> {
        let topic = gossipsub::IdentTopic::new(topic).hash();
        self.inner.mesh_peers(&topic).map(PeerId::to_string).collect()
    }

    /// Returns the admitted peers of which no topic is known, though we have some: they do not hear us.
    pub(super) fn deaf(&self) -> HashSet<PeerId> {
        if self.inner.topics().next().is_none() {
            return HashSet::new();
        }
        let silent = self.inner.all_peers().filter(|(_, topics)| topics.is_empty());
        silent.map(|(peer, _)| *peer).filter(|peer| self.admitted.contains(peer)).collect()
    }

    /// Tells a peer all of our topics, as with a first connection.
    fn greet(&mut self, peer_id: PeerId) {
        let open = self.connections.get(&peer_id).and_then(|open| open.first()).cloned();
        let Some((connection_id, endpoint)) = open else { return };
        let greeting = ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        };
        self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(greeting));
    }

    /// Tells whether a peer shares a room with us.
    pub(super) fn is_admitted(&self, peer: &PeerId) -> bool {
        self.admitted.contains(peer)
    }

    /// Keeps a proven peer connected, room or not, while there are places.
    pub(super) fn keep(&mut self, peer: PeerId) {
        let place = self.dialled.contains(&peer) || self.kept.len() < KEPT_MAX;
        if place && !self.admitted.contains(&peer) && self.kept.insert(peer) {
            self.tell(peer);
        }
    }

    /// Opens the gate for a peer, which stays connected.
    pub(super) fn admit(&mut self, peer: PeerId) {
        if self.admitted.insert(peer) {
            self.kept.remove(&peer);
            self.tell(peer);
        }
    }

    fn tell(&mut self, peer: PeerId) {
        let connections = self.connections.get(&peer).into_iter().flatten();
        self.telling.extend(connections.map(|(connection, _)| (peer, *connection)));
    }

    /// Shuts it for connections to come; those that are must be closed by the caller.
    pub(super) fn dismiss(&mut self, peer: &PeerId) {
        self.admitted.remove(peer);
        self.kept.remove(peer);
    }

    fn handler(&self, peer: &PeerId, inner: Inner) -> GateHandler {
        let (admitted, kept) = (self.admitted.contains(peer), self.kept.contains(peer));
        GateHandler {
            inner,
            admitted,
            kept,
            remote_open: false,
            sends: false,
            alone: false,
            look: None,
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = GateHandler;
    type ToSwarm = <Gossipsub as NetworkBehaviour>::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<GateHandler, ConnectionDenied> {
        let inner =
            self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.handler(&peer, inner))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<GateHandler, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.handler(&peer, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(made) => {
                let open = self.connections.entry(made.peer_id).or_default();
                open.push((made.connection_id, made.endpoint.clone()));
                if made.endpoint.is_dialer() {
                    self.dialled.insert(made.peer_id);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(open) = self.connections.get_mut(&closed.peer_id) {
                    open.retain(|(connection, _)| *connection != closed.connection_id);
                    self.alone.extend(open.iter().map(|(left, _)| (closed.peer_id, *left)));
                }
                if closed.remaining_established == 0 {
                    self.connections.remove(&closed.peer_id);
                    self.dialled.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
        let left = match &event {
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established > 0 => {
                Some(closed.peer_id)
            }
            _ => None,
        };
        self.inner.on_swarm_event(event);
        if let Some(peer) = left {
            self.greet(peer);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.telling.pop_front() {
            let handler = NotifyHandler::One(connection);
            let event = match self.admitted.contains(&peer_id) {
                true => GateIn::Open,
                false => GateIn::Keep,
            };
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        if let Some((peer_id, connection)) = self.alone.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: GateIn::Alone });
        }
        self.inner.poll(cx).map(|action| action.map_in(GateIn::Inner))
    }
}

/// What the gate tells a connection.
#[derive(Debug)]
pub(super) enum GateIn<T> {
    /// The peer was admitted.
    Open,
    /// Its connections stay, used or not.
    Keep,
    /// Another connection of the peer was closed.
    Alone,
    /// What gossipsub says.
    Inner(T),
}

/// The gate of one connection.
pub(super) struct GateHandler {
    inner: Inner,
    admitted: bool,
    kept: bool,
    remote_open: bool,
    /// It has a stream for what goes out.
    sends: bool,
    /// Another connection of the peer was closed.
    alone: bool,
    look: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl ConnectionHandler for GateHandler {
    type FromBehaviour = GateIn<<Inner as ConnectionHandler>::FromBehaviour>;
    type ToBehaviour = <Inner as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = <Inner as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <Inner as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        if self.admitted {
            self.inner.listen_protocol()
        } else {
            SubstreamProtocol::new(Either::Right(DeniedUpgrade), ())
        }
    }

    fn connection_keep_alive(&self) -> bool {
        // People are few: whoever proved an identity stays connected, without a room within a limit.
        self.admitted || self.kept || self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if !self.admitted || !self.remote_open {
            return Poll::Pending;
        }
        loop {
            if let Poll::Ready(event) = self.inner.poll(cx) {
                return Poll::Ready(event);
            }
            let wait = match (self.sends, self.alone) {
                (true, _) => LOOK,
                (false, true) => LOOK_ALONE,
                (false, false) => LOOK_FIRST,
            };
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.look = None;
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            GateIn::Open => self.admitted = true,
            GateIn::Keep => self.kept = true,
            GateIn::Alone => (self.alone, self.look) = (true, None),
            GateIn::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(mut added)) => {
                self.remote_open |= added.any(|name| name.as_ref().starts_with("/meshsub/"));
            }
            ConnectionEvent::RemoteProtocolsChange(_) => {}
            event => {
                self.remote_open |= matches!(event, ConnectionEvent::FullyNegotiatedInbound(_));
                self.sends |= matches!(event, ConnectionEvent::FullyNegotiatedOutbound(_));
                self.inner.on_connection_event(event);
            }
        }
    }
}
