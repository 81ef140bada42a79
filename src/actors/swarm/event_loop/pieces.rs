//! Pieces of media, ours and those that others ask for: a protocol of its own, so that no request waits
//! behind a picture.
//!
//! One exchange is one bounded frame each way, so whoever is killed, cut off or moved to another network
//! has lost a MiB at most, and several nodes give pieces of one file at once. What holds of requests holds
//! here: no connection is given up while one is under way, and none begins while a circuit is to go.

use std::time::Instant;

use libp2p::{
    PeerId,
    request_response::{self, Message},
};
use tokio::sync::oneshot;

use super::{
    super::codec::Frame, Answered, Event, EventLoop, PiecesAsked, ReplyTicket, RequestFailed,
    requests::failure,
};

impl EventLoop {
    pub(super) fn ask_pieces(
        &mut self,
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Answered>,
    ) {
        // Pieces are asked for again in a moment; on a circuit that never rests, it would never go.
        if self.held_back.contains_key(&peer) {
            let _ = reply.send(Err(RequestFailed::Broken));
            return;
        }
        self.peers.begin(peer);
        let frame = Frame { bytes, budget: None };
        let id = self.swarm.behaviour_mut().media.send_request(&peer, frame);
        self.pieces.insert(id, reply);
    }

    pub(super) fn on_pieces(&mut self, event: request_response::Event<Frame, Vec<u8>>) {
        use request_response::Event::{InboundFailure, OutboundFailure, ResponseSent};
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request, channel, .. } => {
                    self.peers.begin(peer);
                    if self.peers.is_closing(&connection_id) {
                        return;
                    }
                    let (bytes, ticket) = (request.bytes, ReplyTicket(channel));
                    // Before requests and gossip have no room any more.
                    if self.work(Event::Pieces(PiecesAsked { bytes, ticket }), 2).is_some() {
                        log::debug!(peer:%; "no piece is given: too much is waiting");
                    }
                }
                Message::Response { request_id, response } => {
                    self.peers.over(&peer, Instant::now());
                    if let Some(reply) = self.pieces.remove(&request_id) {
                        let _ = reply.send(Ok(response));
                    }
                }
            },
            OutboundFailure { peer, request_id, error, .. } => {
                self.peers.over(&peer, Instant::now());
                if let Some(reply) = self.pieces.remove(&request_id) {
                    let _ = reply.send(Err(failure(&error)));
                }
            }
            InboundFailure { peer, .. } | ResponseSent { peer, .. } => {
                self.peers.over(&peer, Instant::now());
            }
        }
    }
}
