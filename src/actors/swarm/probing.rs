//! AutoNAT v2, kept to what it is good for.
//!
//! The library tests any address with any peer, and dials whatever it is asked to. This wrapper
//! keeps both to addresses of the whole world. Invariants: only such an address is tested, and only
//! with a node that we dialled at one (a neighbour on the LAN would test our router from inside);
//! for others we dial back only where we can be reached ourselves, a bounded number at once and a
//! minute, and never into a private network.

use std::{
    collections::HashSet,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, derive_prelude::Either, dummy,
    },
};

use super::address::{self, Reach};

/// Dials back for others at once: a test takes seconds where the address is not reachable.
const DIALS_AT_ONCE: usize = 8;
/// Dials back for others within [`DIALS_WITHIN`]: as many as a busy public node is asked for.
const DIALS_MAX: u32 = 60;
const DIALS_WITHIN: Duration = Duration::from_secs(60);

/// Which side of AutoNAT is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One side of AutoNAT v2, wrapped.
pub(super) struct Probing<B> {
    inner: B,
    side: Side,
    /// Whether we dial back for others.
    serving: bool,
    /// Dials of the wrapped behaviour.
    dials: HashSet<ConnectionId>,
    window: Instant,
    dialled: u32,
}

impl<B> Probing<B> {
    /// Tests our own addresses.
    pub(super) fn client(inner: B) -> Self {
        Self::new(inner, Side::Client)
    }

    /// Tests those of others.
    pub(super) fn server(inner: B) -> Self {
        Self::new(inner, Side::Server)
    }

    fn new(inner: B, side: Side) -> Self {
        let window = Instant::now();
        Self { inner, side, serving: false, dials: HashSet::new(), window, dialled: 0 }
    }

    /// Begins or ends dialling back for those who connect from now on.
    pub(super) fn serve(&mut self, serving: bool) {
        self.serving = serving;
    }

    /// Counts a dial back; false where there were too many.
    fn allow(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window) >= DIALS_WITHIN {
            (self.window, self.dialled) = (now, 0);
        }
        let allowed = self.dials.len() <= DIALS_AT_ONCE && self.dialled < DIALS_MAX;
        self.dialled += u32::from(allowed);
        allowed
    }
}

/// Why a dial back is not made.
#[derive(Debug, thiserror::Error)]
#[error("not dialled back for AutoNAT")]
struct Refused;

impl<B: NetworkBehaviour> NetworkBehaviour for Probing<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.side == Side::Server && !self.serving {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(Either::Left)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.dials.contains(&connection) {
            let global = addresses.iter().all(|at| address::reach(at) == Reach::Global);
            if !global || !self.allow(Instant::now()) {
                return Err(ConnectionDenied::new(Refused));
            }
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.side == Side::Client && address::reach(address) != Reach::Global {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(candidate)
                if address::reach(candidate.addr) != Reach::Global =>
            {
                return;
            }
            FromSwarm::ConnectionEstablished(made) => {
                self.dials.remove(&made.connection_id);
            }
            FromSwarm::DialFailure(failed) => {
                self.dials.remove(&failed.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Either::Right(event) => match event {},
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = self.inner.poll(cx).map(|action| action.map_in(Either::Left));
        if let Poll::Ready(ToSwarm::Dial { opts }) = &polled {
            self.dials.insert(opts.connection_id());
        }
        polled
    }
}
