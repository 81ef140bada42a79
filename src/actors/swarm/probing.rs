//! AutoNAT v2, kept to what it is good for.
//!
//! The library tests any address with any peer, and dials whatever it is asked to. This wrapper
//! keeps both to addresses of the whole world. It also tests an address once in its life, so that one
//! that failed stays failed (rust-libp2p#6203): to test it again, the library's part is made anew. The
//! new one would fail at news of a connection of which it was never told, so it is told nothing of those
//! that are older than itself. And it asks again and again, every few seconds for ever, where a server
//! needed too long to say no, as they do where packets are dropped: so it may ask a bounded number of
//! times before it is made anew. And it waits for ever for an answer over a connection that has ended:
//! so it is made anew after that too. Invariants: only such an address is tested, and only
//! with a node that we dialled at one (a neighbour on the LAN would test our router from inside);
//! for others we dial back only where we can be reached ourselves, a bounded number at once and a
//! minute, and never into a private network.

use std::{
    collections::{HashSet, VecDeque},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        derive_prelude::Either, dummy,
    },
};

use super::address::{self, Reach};

/// Dials back for others at once: a test takes seconds where the address is not reachable.
const DIALS_AT_ONCE: usize = 8;
/// Dials back for others within [`DIALS_WITHIN`]: as many as a busy public node is asked for.
const DIALS_MAX: u32 = 60;
const DIALS_WITHIN: Duration = Duration::from_secs(60);

/// Tests that are asked for before the library's part is made anew: some for each address.
const TESTS_MAX: u32 = 8;
/// Addresses that are remembered as untested or failed; a machine has a few, on TCP and QUIC.
const CANDIDATES_MAX: usize = 8;

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
    /// Connections of which the wrapped behaviour knows.
    known: HashSet<ConnectionId>,
    waker: Option<Waker>,
    /// Tests that it asked for.
    tests: u32,
    /// Connections over which it asked for them.
    asked: HashSet<ConnectionId>,
    /// One of these ended, most likely before the answer.
    unanswered: bool,
    /// What it was offered and did not confirm, the newest last.
    candidates: VecDeque<Multiaddr>,
    /// Dials of the wrapped behaviour.
    dials: HashSet<ConnectionId>,
    window: Instant,
    dialled: u32,
}

impl<B: NetworkBehaviour> Probing<B> {
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
        Self {
            inner,
            side,
            serving: false,
            known: HashSet::new(),
            waker: None,
            tests: 0,
            asked: HashSet::new(),
            unanswered: false,
            candidates: VecDeque::new(),
            dials: HashSet::new(),
            window,
            dialled: 0,
        }
    }

    /// Makes the wrapped behaviour anew, and offers it addresses. It tests them with nodes that are
    /// connected from now on.
    pub(super) fn renew(&mut self, inner: B, offered: &[Multiaddr]) {
        self.inner = inner;
        self.known.clear();
        self.dials.clear();
        self.asked.clear();
        (self.tests, self.unanswered) = (0, false);
        for addr in offered {
            let candidate = NewExternalAddrCandidate { addr };
            self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns what was not confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Multiaddr> {
        self.candidates.iter()
    }

    /// The same, where no more tests are asked for, or one has lost its answer. Of which address, the
    /// library does not tell.
    pub(super) fn given_up(&self) -> impl Iterator<Item = &Multiaddr> {
        self.unconfirmed().filter(|_| self.tests >= TESTS_MAX || self.unanswered)
    }

    fn offered(&mut self, at: &Multiaddr) {
        if self.candidates.contains(at) {
            return;
        }
        self.candidates.push_back(at.clone());
        if self.candidates.len() > CANDIDATES_MAX {
            self.candidates.pop_front();
        }
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
            FromSwarm::NewExternalAddrCandidate(candidate) => self.offered(candidate.addr),
            FromSwarm::ExternalAddrConfirmed(confirmed) => {
                self.candidates.retain(|at| at != confirmed.addr);
            }
            FromSwarm::ConnectionEstablished(made) => {
                self.dials.remove(&made.connection_id);
                self.known.insert(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.unanswered |= self.asked.remove(&closed.connection_id);
                if !self.known.remove(&closed.connection_id) {
                    return;
                }
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
            Either::Left(_) if !self.known.contains(&connection) => {}
            Either::Left(event) => self.inner.on_connection_handler_event(peer, connection, event),
            Either::Right(event) => match event {},
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = loop {
            let polled = self.inner.poll(cx);
            if self.side == Side::Client
                && let Poll::Ready(ToSwarm::NotifyHandler { handler, .. }) = &polled
            {
                // It waits for what comes of it then, and asks no more.
                if self.tests >= TESTS_MAX {
                    continue;
                }
                self.tests += 1;
                if let NotifyHandler::One(connection) = handler {
                    self.asked.insert(*connection);
                }
            }
            break polled.map(|action| action.map_in(Either::Left));
        };
        if let Poll::Ready(ToSwarm::Dial { opts }) = &polled {
            self.dials.insert(opts.connection_id());
        }
        self.waker = Some(cx.waker().clone());
        polled
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        autonat,
        core::ConnectedPoint,
        swarm::{ConnectionClosed, behaviour::ConnectionEstablished},
    };

    use super::super::pulse;
    use super::*;

    const OLD: usize = 1;
    const NEW: usize = 2;

    fn renewed() -> autonat::v2::client::Behaviour {
        autonat::v2::client::Behaviour::default()
    }

    fn endpoint() -> ConnectedPoint {
        ConnectedPoint::Listener {
            local_addr: "/ip4/10.0.1.2/tcp/4848".parse().unwrap(),
            send_back_addr: "/ip4/203.0.113.10/tcp/4848".parse().unwrap(),
        }
    }

    fn made<B: NetworkBehaviour>(probing: &mut Probing<B>, connection: usize) {
        probing.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(connection),
            endpoint: &endpoint(),
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn closed<B: NetworkBehaviour>(probing: &mut Probing<B>, connection: usize) {
        probing.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(connection),
            endpoint: &endpoint(),
            cause: None,
            remaining_established: 0,
        }));
    }

    #[test]
    fn who_is_made_anew_hears_nothing_of_older_connections() {
        let mut probing = Probing::client(renewed());
        made(&mut probing, OLD);
        probing.renew(renewed(), &[]);
        made(&mut probing, NEW);
        assert_eq!(probing.known, HashSet::from([ConnectionId::new_unchecked(NEW)]));
        // The library panics where it is told of the end of a connection that it does not know.
        closed(&mut probing, OLD);
        closed(&mut probing, NEW);
        assert!(probing.known.is_empty());
    }

    #[test]
    fn a_test_that_lost_its_connection_has_come_to_nothing() {
        // What it asks of whom is all that matters here.
        let mut probing = Probing::client(pulse::Behaviour::default());
        let at: Multiaddr = "/ip4/203.0.113.2/tcp/4848".parse().unwrap();
        let candidate = NewExternalAddrCandidate { addr: &at };
        probing.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        for connection in [OLD, NEW] {
            made(&mut probing, connection);
        }
        let beat = pulse::Beat { wide: false, within: Duration::from_secs(1) };
        probing.inner.beat(PeerId::random(), ConnectionId::new_unchecked(NEW), beat);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(probing.poll(&mut cx).is_ready(), "it asks");
        closed(&mut probing, OLD);
        assert_eq!(probing.given_up().count(), 0, "the answer may still come");
        closed(&mut probing, NEW);
        assert_eq!(probing.given_up().collect::<Vec<_>>(), [&at]);
        probing.renew(pulse::Behaviour::default(), &[at]);
        assert_eq!(probing.given_up().count(), 0, "it begins anew");
    }
}
