//! What RelayRequest is asked: signed requests of the Server-Server API, out and in.

use std::{sync::Arc, time::Duration};

use actix::Message;
use ruma::{CanonicalJsonValue, OwnedServerName};

use super::ClockStatus;
use crate::{
    actors::{
        admission::Permit, identity::FindServerKeys, room_state::FindSharing, swarm::PeerKey,
    },
    proto::{
        sealed::Parcel,
        server_keys::VerifiedServerKeys,
        signed::{Request, Verified},
        signer::Signer,
    },
};

/// Why another server gave no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FederationError {
    /// It could not be found or connected.
    #[error("{0} cannot be reached now")]
    Unreachable(OwnedServerName),
    /// It did not answer in time.
    #[error("{0} did not answer in time")]
    TimedOut(OwnedServerName),
    /// What it answered does not verify.
    #[error("the answer of {server} was refused: {why}")]
    BadAnswer {
        /// Who.
        server: OwnedServerName,
        /// Why.
        why: String,
    },
    /// It answered with an error of its own.
    #[error("{server} answered {status}: {errcode} {message}")]
    Refused {
        /// Who.
        server: OwnedServerName,
        /// HTTP status.
        status: u16,
        /// Matrix error code.
        errcode: String,
        /// What it said.
        message: String,
    },
    /// This node has no identity yet, or its network is down.
    #[error("the network of this node is not up")]
    Offline,
}

/// Asks to send a signed request and to await its signed answer.
///
/// Sent by Room, Rendezvous and http. The answer was verified: it is of `destination`, for this
/// very request, and fresh; its status is 2xx.
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, FederationError>")]
pub struct SendFederation {
    /// Whom.
    pub destination: OwnedServerName,
    /// `GET`, `PUT` or `POST`.
    pub method: &'static str,
    /// Path and query.
    pub uri: String,
    /// Body; an empty object where there is none.
    pub content: CanonicalJsonValue,
    /// Longest wait, finding and connecting included.
    pub timeout: Duration,
}

/// A request of another server, verified: signature, freshness, never seen before, and addressed
/// to us. Sent to the recipient of [`AnswerWith`].
#[derive(Message, Debug)]
#[rtype(result = "InboundAnswer")]
pub struct InboundRequest {
    /// The request and what certifies it.
    pub request: Verified<Request>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// What is answered: status and body, still to be signed.
#[derive(Debug, Clone, actix::dev::MessageResponse)]
pub struct InboundAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub content: CanonicalJsonValue,
}

/// Sets who answers requests of other servers. Sent once by `node.rs`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AnswerWith(pub actix::Recipient<InboundRequest>);

/// Asks to hand a sealed request on, or to open one that is for us. Sent by Federation.
#[derive(Message, Debug)]
#[rtype(result = "InboundAnswer")]
pub struct CarryRequest {
    /// Who handed it to us.
    pub origin: OwnedServerName,
    /// Whom it is for.
    pub destination: OwnedServerName,
    /// The sealed request.
    pub parcel: Parcel,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Sets who knows what carrying needs. Sent once; until then nothing is carried.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct CarryWith {
    /// RoomState.
    pub sharing: actix::Recipient<FindSharing>,
    /// Identity.
    pub find_keys: actix::Recipient<FindServerKeys>,
}

/// Sets the signer; again whenever server_keys were issued anew.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct UseSigner(pub Arc<Signer>);

/// Asks how far our clock is from those of others.
#[derive(Message, Debug)]
#[rtype(result = "Option<ClockStatus>")]
pub struct ReadClock;

/// When a node signed what came from it, against our clock. Sent by this actor's own parts, and by
/// Rendezvous of server_keys that seem to come from another time.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct ClockSeen {
    /// Whose clock.
    pub peer: PeerKey,
    /// Theirs minus ours, in milliseconds.
    pub apart_ms: i64,
}

/// server_keys that came with something verified. Sent to Identity, which keeps the newest.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct KeysSeen(pub VerifiedServerKeys);
