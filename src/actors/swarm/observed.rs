//! Our addresses as others see them, raw, as candidates for hole punching and for AutoNAT.
//!
//! identify puts our listen port in the place of the port that was observed, so behind a router
//! that gives another port (most carriers' do), hole punching would offer a port that nobody
//! mapped. Invariant: only an address that can be dialled is offered; neither one through a relay
//! nor a bare PeerId, which identify reports of relayed connections.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use super::address::{self, Reach};

/// Candidates that wait for the Swarm; it takes them at once, unless it is stuck.
const QUEUE_MAX: usize = 64;

/// Offers addresses to whoever tests or punches.
#[derive(Default)]
pub(super) struct Behaviour {
    queue: VecDeque<Multiaddr>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Offers an address that a peer saw over a direct connection.
    pub(super) fn offer(&mut self, observed: &Multiaddr) {
        let observed = address::without_peer(observed);
        if !is_candidate(&observed) || self.queue.len() >= QUEUE_MAX {
            return;
        }
        self.queue.push_back(observed);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Tells whether somebody could dial this.
fn is_candidate(observed: &Multiaddr) -> bool {
    let has_port = observed.iter().any(|part| matches!(part, Protocol::Tcp(_) | Protocol::Udp(_)));
    has_port && !matches!(address::reach(observed), Reach::Relayed | Reach::None)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

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

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(candidate) = self.queue.pop_front() {
            return Poll::Ready(ToSwarm::NewExternalAddrCandidate(candidate));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dialled_is_no_candidate() {
        let peer = PeerId::random();
        for (text, good) in [
            ("/ip4/203.0.113.2/udp/50000/quic-v1".to_owned(), true),
            ("/ip4/203.0.113.2/tcp/50000".to_owned(), true),
            (format!("/p2p/{peer}"), false),
            (format!("/ip4/203.0.113.10/tcp/1/p2p/{peer}/p2p-circuit"), false),
            ("/ip4/203.0.113.2".to_owned(), false),
        ] {
            assert_eq!(is_candidate(&text.parse().unwrap()), good, "{text}");
        }
    }

    #[test]
    fn the_observed_port_is_offered_as_it_is() {
        let mut behaviour = Behaviour::default();
        let observed: Multiaddr = "/ip4/203.0.113.2/udp/50000/quic-v1".parse().unwrap();
        behaviour.offer(&observed.clone().with(Protocol::P2p(PeerId::random())));
        let mut cx = Context::from_waker(Waker::noop());
        let polled = behaviour.poll(&mut cx);
        assert!(
            matches!(polled, Poll::Ready(ToSwarm::NewExternalAddrCandidate(at)) if at == observed)
        );
        assert!(behaviour.poll(&mut cx).is_pending());
    }
}
