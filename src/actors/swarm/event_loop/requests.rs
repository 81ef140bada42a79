//! Requests, ours and those of others, on whichever connection there is.
//!
//! The library sends on any connection of a peer, and its answers end with that. So once a circuit
//! could go, our requests to that peer are held back until those under way are over and it is gone;
//! the other side does the same. Invariants: as long as a request is under way with a peer, no
//! connection to it is given up; none is held back for longer than a moment; one that comes on a connection which is being given up is not taken.

use std::time::{Duration, Instant};

use libp2p::{
    PeerId,
    request_response::{self, Message, OutboundFailure},
};
use tokio::sync::oneshot;

use super::{
    super::{
        codec::Frame,
        peers::{Connection, Peer},
    },
    Answered, Discovery, Event, EventLoop, ReplyTicket, RequestFailed, RequestReceived,
};

/// Longest that requests are held back: then those under way are of the slow kind.
const HOLD: Duration = Duration::from_secs(2);
/// How long they are not held back again after that.
const HOLD_AGAIN: Duration = Duration::from_secs(5);
/// Requests to one peer that are held back; more than that are sent wherever they go.
const HELD_MAX: usize = 64;

type Exchanged = request_response::Event<Frame, Vec<u8>>;

/// Requests to a peer that wait until its circuit is gone.
#[derive(Debug)]
pub(super) struct Held {
    since: Instant,
    queue: Vec<(Vec<u8>, oneshot::Sender<Answered>)>,
}

impl EventLoop {
    /// A circuit to a peer could go: holds requests back, or goes on after a while.
    pub(super) fn hold_back(&mut self, id: PeerId, now: Instant) {
        match self.held_back.get(&id) {
            Some(held) if now.duration_since(held.since) >= HOLD => {
                self.peers.hold_back_after(&id, now + HOLD_AGAIN);
                self.go_on(id);
            }
            Some(_) => {}
            None if self.peers.may_hold_back(&id, now) => {
                self.held_back.insert(id, Held { since: now, queue: Vec::new() });
            }
            None => {}
        }
    }

    /// Sends what was held back.
    fn go_on(&mut self, peer: PeerId) {
        let held = self.held_back.remove(&peer);
        for (bytes, reply) in held.map(|held| held.queue).into_iter().flatten() {
            self.request(peer, bytes, reply);
        }
    }

    /// A connection to a peer was closed: where it was the last circuit, nothing waits any more.
    pub(super) fn circuit_gone(&mut self, id: PeerId) {
        let relayed = |peer: &Peer| peer.connections.iter().any(Connection::relayed);
        if !self.peers.get(&id).is_some_and(relayed) {
            self.go_on(id);
        }
    }

    pub(super) fn request(
        &mut self,
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Answered>,
    ) {
        if let Some(held) = self.held_back.get_mut(&peer)
            && held.queue.len() < HELD_MAX
        {
            return held.queue.push((bytes, reply));
        }
        let frame = Frame { bytes, budget: None };
        self.peers.begin(peer);
        let id = self.swarm.behaviour_mut().federation.send_request(&peer, frame);
        self.requests.insert(id, reply);
    }

    /// Sends our server_keys and asks for theirs.
    pub(super) fn exchange(&mut self, peer: PeerId, bytes: Vec<u8>) {
        self.peers.begin(peer);
        let frame = Frame { bytes, budget: None };
        self.swarm.behaviour_mut().identity.send_request(&peer, frame);
    }

    fn over(&mut self, peer: PeerId) {
        self.peers.over(&peer, Instant::now());
    }

    pub(super) fn on_identity(&mut self, event: Exchanged) {
        match event {
            Exchanged::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    self.peers.begin(peer);
                    let ours = self.identity.clone().unwrap_or_default();
                    let _ = self.swarm.behaviour_mut().identity.send_response(channel, ours);
                    if self.peers.may_introduce_itself(&peer) {
                        self.news(Discovery::IdentityReceived { peer, bytes: request.bytes });
                    }
                }
                Message::Response { response, .. } => {
                    self.over(peer);
                    self.news(Discovery::IdentityReceived { peer, bytes: response });
                }
            },
            Exchanged::OutboundFailure { peer, error, .. } => {
                self.over(peer);
                log::debug!(peer:%, error:%; "no server_keys");
                self.news(Discovery::IdentityFailed(peer));
            }
            Exchanged::InboundFailure { peer, .. } | Exchanged::ResponseSent { peer, .. } => {
                self.over(peer);
            }
        }
    }

    pub(super) fn on_federation(&mut self, event: Exchanged) {
        match event {
            Exchanged::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    self.peers.begin(peer);
                    if self.peers.is_closing(&connection_id) {
                        return log::debug!(peer:%; "a request came too late on a connection");
                    }
                    let Frame { bytes, budget } = request;
                    let ticket = ReplyTicket(channel);
                    let received = RequestReceived { peer, bytes, ticket, budget };
                    if self.work(Event::Request(received), 4).is_some() {
                        log::debug!(peer:%; "a request was dropped: too much is waiting");
                    }
                }
                Message::Response { request_id, response } => {
                    self.over(peer);
                    if let Some(reply) = self.requests.remove(&request_id) {
                        let _ = reply.send(Ok(response));
                    }
                }
            },
            Exchanged::OutboundFailure { peer, request_id, error, .. } => {
                self.over(peer);
                if matches!(error, OutboundFailure::Timeout) {
                    self.doubt(&peer);
                }
                if let Some(reply) = self.requests.remove(&request_id) {
                    let _ = reply.send(Err(failure(&error)));
                }
            }
            Exchanged::InboundFailure { peer, error, .. } => {
                self.over(peer);
                log::debug!(peer:%, error:%; "a request was not answered");
            }
            Exchanged::ResponseSent { peer, .. } => self.over(peer),
        }
    }
}

/// Why a request of ours got no answer. Where its connection broke, whoever asks sends the same bytes
/// once more: whoever took them already answers as it did then.
pub(super) fn failure(error: &OutboundFailure) -> RequestFailed {
    match error {
        OutboundFailure::Timeout => RequestFailed::TimedOut,
        OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => RequestFailed::Broken,
        error => RequestFailed::Unreachable(error.to_string()),
    }
}
