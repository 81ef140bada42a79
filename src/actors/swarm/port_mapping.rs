//! Has the router send us what comes to our ports: by PCP or NAT-PMP, else by UPnP.
//!
//! Invariants: what a router claims makes an address a candidate and no more, since another router
//! may stand behind it; nothing is asked before we listen on a private address, nor where there is
//! no router; every port that was opened is closed again when the node stops.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, ExpiredListenAddr, FromSwarm, NetworkBehaviour,
        NewListenAddr, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
    upnp,
};
use tokio::sync::mpsc;

use super::{
    MappingProtocol, PortMapping,
    address::{self, Reach},
};

use pcp::{Carrier, Order, Port, Told};

mod pcp;

/// Orders that wait for the task, and news of it: there are never more than a few ports.
const CHANNEL: usize = 64;
/// Addresses of this machine that are mapped; the task has the same limit for ports.
const LISTENING_MAX: usize = 16;

/// After this, a router that was found by UPnP and opened nothing will not: it is searched for 10 s.
const UPNP_WAIT: Duration = Duration::from_secs(20);
const UPNP_REFUSED: &str = "it was found by UPnP and opened nothing";
const UPNP_NOT_PUBLIC: &str = "it is not public itself";

/// What a router did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// It sends to us what comes to this address.
    Opened(Multiaddr),
    /// It does so no longer.
    Closed(Multiaddr),
    /// All ports are closed, as was asked.
    Ended,
}

/// The port mappings of this node.
#[derive(Default)]
pub(super) struct Behaviour {
    /// To the task, and from it, while it runs.
    orders: Option<mpsc::Sender<Order>>,
    told: Option<mpsc::Receiver<Told>>,
    /// Only where the router does not speak the other protocols.
    upnp: Option<upnp::tokio::Behaviour>,
    listening: Vec<(ListenerId, Multiaddr)>,
    /// By address of ours, as others find it.
    opened: HashMap<Port, (Multiaddr, MappingProtocol)>,
    /// What else the router said.
    said: Said,
    /// Since when it is asked by UPnP, which tells of no refusal.
    upnp_since: Option<Instant>,
    actions: VecDeque<ToSwarm<Event, Infallible>>,
    closing: bool,
    waker: Option<Waker>,
}

/// What the router said last where it opened nothing.
#[derive(Debug, Default)]
enum Said {
    #[default]
    Nothing,
    Elsewhere,
    Silent,
    Refused(String),
    NotPublic(Multiaddr),
}

impl Behaviour {
    /// Returns what came of it.
    pub(super) fn status(&self, now: Instant) -> PortMapping {
        let mut opened: Vec<_> = self.opened.values().collect();
        opened.sort_by_key(|(at, _)| at);
        if let Some((_, protocol)) = opened.first() {
            let addresses = opened.iter().map(|(at, _)| at.clone()).collect();
            return PortMapping::Granted { protocol: *protocol, addresses };
        }
        let upnp = self.upnp_since.map(|since| now.duration_since(since) < UPNP_WAIT);
        match (&self.said, upnp) {
            _ if self.listening.is_empty() => PortMapping::NoRouter,
            (Said::NotPublic(address), _) => PortMapping::NotPublic { address: address.clone() },
            (_, Some(true)) | (Said::Nothing, None) => PortMapping::Asked,
            (Said::Refused(why), _) => PortMapping::Refused { why: why.clone() },
            (_, Some(false)) => PortMapping::Refused { why: UPNP_REFUSED.to_owned() },
            (Said::Silent, None) => PortMapping::Silent,
            (Said::Elsewhere, None) => PortMapping::NoRouter,
        }
    }

    /// Begins to close all ports; [`Event::Ended`] follows.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.orders = None;
        if let Some(upnp) = &mut self.upnp {
            for (listener_id, addr) in &self.listening {
                let expired = ExpiredListenAddr { listener_id: *listener_id, addr };
                upnp.on_swarm_event(FromSwarm::ExpiredListenAddr(expired));
            }
        }
        self.end();
    }

    /// Tells whether no port is open, or being opened.
    pub(super) fn is_idle(&self) -> bool {
        self.told.is_none() && self.opened.is_empty()
    }

    fn end(&mut self) {
        if self.closing && self.is_idle() {
            self.act(ToSwarm::GenerateEvent(Event::Ended));
        }
    }

    fn act(&mut self, action: ToSwarm<Event, Infallible>) {
        self.actions.push_back(action);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn order(&mut self, order: Order) {
        let orders = self.orders.get_or_insert_with(|| {
            let (orders, receiver) = mpsc::channel(CHANNEL);
            let (sender, told) = mpsc::channel(CHANNEL);
            self.told = Some(told);
            tokio::spawn(pcp::run(receiver, sender));
            orders
        });
        if orders.try_send(order).is_err() {
            log::debug!("a port is not asked for: the router is slow");
        }
    }

    fn listens(&mut self, listener_id: ListenerId, addr: &Multiaddr) {
        let Some(port) = port_of(addr) else { return };
        if self.closing || self.listening.len() >= LISTENING_MAX {
            return;
        }
        // On another network there is another router.
        if self.opened.is_empty() && !self.listening.iter().any(|(_, at)| same_host(at, addr)) {
            (self.upnp, self.upnp_since, self.said) = (None, None, Said::Nothing);
        }
        self.listening.push((listener_id, addr.clone()));
        self.order(Order::Open(port));
        if let Some(upnp) = &mut self.upnp {
            upnp.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
    }

    fn listens_no_more(&mut self, listener_id: ListenerId, addr: &Multiaddr) {
        let Some(port) = port_of(addr) else { return };
        let before = self.listening.len();
        self.listening.retain(|(_, at)| at != addr);
        if self.listening.len() == before || self.closing {
            return;
        }
        self.order(Order::Close(port));
        if let Some(upnp) = &mut self.upnp {
            let expired = ExpiredListenAddr { listener_id, addr };
            upnp.on_swarm_event(FromSwarm::ExpiredListenAddr(expired));
        }
        self.closed(&port);
    }

    fn on_told(&mut self, told: Told) {
        match told {
            Told::Opened(port, external, protocol) => {
                self.opened(port, at(port.carrier, external), protocol);
            }
            Told::Closed(port) => self.closed(&port),
            Told::Refused(why) => {
                self.said = Said::Refused(why);
                self.use_upnp();
            }
            Told::Silent => {
                // What another port heard is more than silence.
                if matches!(self.said, Said::Nothing | Said::Elsewhere) {
                    self.said = Said::Silent;
                }
                self.use_upnp();
            }
            Told::Elsewhere => {
                if matches!(self.said, Said::Nothing) {
                    self.said = Said::Elsewhere;
                }
            }
        }
    }

    fn use_upnp(&mut self) {
        if self.upnp.is_some() || self.closing {
            return;
        }
        let mut upnp = upnp::tokio::Behaviour::default();
        for (listener_id, addr) in &self.listening {
            let new = NewListenAddr { listener_id: *listener_id, addr };
            upnp.on_swarm_event(FromSwarm::NewListenAddr(new));
        }
        self.upnp = Some(upnp);
        self.upnp_since = Some(Instant::now());
    }

    /// The library would have its word taken for a proof.
    fn on_upnp(&mut self, action: ToSwarm<upnp::Event, Infallible>) {
        let ToSwarm::GenerateEvent(event) = action else { return };
        match event {
            upnp::Event::NewExternalAddr { local_addr, external_addr } => {
                if let Some(port) = port_of(&local_addr) {
                    self.opened(port, external_addr, MappingProtocol::Upnp);
                }
            }
            upnp::Event::ExpiredExternalAddr { local_addr, .. } => {
                if let Some(port) = port_of(&local_addr) {
                    self.closed(&port);
                }
            }
            // It would not look again.
            upnp::Event::GatewayNotFound => (self.upnp, self.upnp_since) = (None, None),
            upnp::Event::NonRoutableGateway => {
                (self.upnp, self.upnp_since) = (None, None);
                self.said = Said::Refused(UPNP_NOT_PUBLIC.to_owned());
            }
        }
    }

    fn opened(&mut self, port: Port, at: Multiaddr, protocol: MappingProtocol) {
        // Behind a carrier's router, whose other side is as private as ours.
        if address::reach(&at) != Reach::Global {
            log::debug!(address:% = at; "the router opened a port, and is not public itself");
            self.said = Said::NotPublic(at);
            return;
        }
        self.said = Said::Nothing;
        self.opened.insert(port, (at.clone(), protocol));
        self.act(ToSwarm::NewExternalAddrCandidate(at.clone()));
        self.act(ToSwarm::GenerateEvent(Event::Opened(at)));
    }

    fn closed(&mut self, port: &Port) {
        let Some((at, _)) = self.opened.remove(port) else { return };
        self.act(ToSwarm::ExternalAddrExpired(at.clone()));
        self.act(ToSwarm::GenerateEvent(Event::Closed(at)));
        self.end();
    }
}

/// Returns the port of a TCP or QUIC address behind a router.
fn port_of(at: &Multiaddr) -> Option<Port> {
    let mut parts = at.iter();
    let Some(Protocol::Ip4(ip)) = parts.next() else { return None };
    if address::reach(at) != Reach::Private || ip.is_link_local() {
        return None;
    }
    let (carrier, port) = match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None) => (Carrier::Tcp, port),
        (Protocol::Udp(port), Some(Protocol::QuicV1)) => (Carrier::Udp, port),
        _ => return None,
    };
    Some(Port { carrier, ip, port: NonZeroU16::new(port)? })
}

fn same_host(one: &Multiaddr, other: &Multiaddr) -> bool {
    one.iter().next() == other.iter().next()
}

/// Returns the address of a port outside.
fn at(carrier: Carrier, external: SocketAddrV4) -> Multiaddr {
    let ip: Ipv4Addr = *external.ip();
    let at = Multiaddr::from(ip);
    match carrier {
        Carrier::Tcp => at.with(Protocol::Tcp(external.port())),
        Carrier::Udp => at.with(Protocol::Udp(external.port())).with(Protocol::QuicV1),
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
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
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listens(listener_id, addr);
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr }) => {
                self.listens_no_more(listener_id, addr);
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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.told.as_mut().map(|told| told.poll_recv(cx)) {
                Some(Poll::Ready(Some(told))) => {
                    self.on_told(told);
                    continue;
                }
                Some(Poll::Ready(None)) => {
                    // The task closed what was open before it ended.
                    self.told = None;
                    if self.upnp.is_none() {
                        self.opened.clear();
                    }
                    self.end();
                    continue;
                }
                Some(Poll::Pending) | None => {}
            }
            match self.upnp.as_mut().map(|upnp| upnp.poll(cx)) {
                Some(Poll::Ready(action)) => self.on_upnp(action),
                Some(Poll::Pending) | None => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
