//! Requests, ours and those of others, on whichever connection there is.
//!
//! Invariants: as long as one is under way with a peer, no connection to it is given up; one that
//! comes on a connection which is being given up is not taken, so its sender may send the same
//! bytes again on another, once, although whoever takes a request takes it once.

use std::time::Instant;

use libp2p::{
    PeerId,
    request_response::{self, Message, OutboundFailure},
};
use tokio::sync::oneshot;

use super::{
    super::codec::Frame, Answered, Discovery, Event, EventLoop, Peer, ReplyTicket, RequestFailed,
    RequestReceived,
};

type Exchanged = request_response::Event<Frame, Vec<u8>>;

/// A request of ours under way.
#[derive(Debug)]
pub(super) struct Asked {
    peer: PeerId,
    reply: oneshot::Sender<Answered>,
    /// What to send again if its connection is given up for a better one.
    again: Option<Vec<u8>>,
}

impl EventLoop {
    pub(super) fn request(
        &mut self,
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Answered>,
    ) {
        let relayed = |peer: &Peer| peer.connections.iter().any(super::Connection::relayed);
        let again = self.peers.get(&peer).is_some_and(relayed).then(|| bytes.clone());
        self.send(bytes, Asked { peer, reply, again });
    }

    fn send(&mut self, bytes: Vec<u8>, asked: Asked) {
        let frame = Frame { bytes, budget: None };
        self.begin(asked.peer);
        let id = self.swarm.behaviour_mut().federation.send_request(&asked.peer, frame);
        self.requests.insert(id, asked);
    }

    /// Sends our server_keys and asks for theirs.
    pub(super) fn exchange(&mut self, peer: PeerId, bytes: Vec<u8>) {
        self.begin(peer);
        let frame = Frame { bytes, budget: None };
        self.swarm.behaviour_mut().identity.send_request(&peer, frame);
    }

    /// A request to or from a peer is under way.
    fn begin(&mut self, peer: PeerId) {
        *self.work.entry(peer).or_default() += 1;
    }

    /// It is over.
    fn over(&mut self, peer: PeerId) {
        if let Some(count) = self.work.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.work.remove(&peer);
            }
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.calm_since = Some(Instant::now());
        }
    }

    pub(super) fn on_identity(&mut self, event: Exchanged) {
        match event {
            Exchanged::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    self.begin(peer);
                    let ours = self.identity.clone().unwrap_or_default();
                    let _ = self.swarm.behaviour_mut().identity.send_response(channel, ours);
                    let Some(known) = self.peers.get_mut(&peer) else { return };
                    known.ours = true;
                    // Each costs a signature check, so nobody may send them without end.
                    if let Some(left) = known.identity_budget.checked_sub(1) {
                        known.identity_budget = left;
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
                    self.begin(peer);
                    if self.closing.contains(&connection_id) {
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
                    if let Some(asked) = self.requests.remove(&request_id) {
                        let _ = asked.reply.send(Ok(response));
                    }
                }
            },
            Exchanged::OutboundFailure { peer, request_id, error, .. } => {
                self.over(peer);
                if let Some(asked) = self.requests.remove(&request_id) {
                    self.failed(asked, &error);
                }
            }
            Exchanged::InboundFailure { peer, error, .. } => {
                self.over(peer);
                log::debug!(peer:%, error:%; "a request was not answered");
            }
            Exchanged::ResponseSent { peer, .. } => self.over(peer),
        }
    }

    /// A request of ours got no answer.
    fn failed(&mut self, mut asked: Asked, error: &OutboundFailure) {
        let broke = matches!(error, OutboundFailure::ConnectionClosed | OutboundFailure::Io(_));
        let direct = self.peers.get(&asked.peer).is_some_and(Peer::is_direct);
        if broke
            && direct
            && let Some(bytes) = asked.again.take()
        {
            log::debug!(peer:% = asked.peer; "sending a request again on the direct connection");
            return self.send(bytes, asked);
        }
        let _ = asked.reply.send(Err(match error {
            OutboundFailure::Timeout => RequestFailed::TimedOut,
            error => RequestFailed::Unreachable(error.to_string()),
        }));
    }
}
