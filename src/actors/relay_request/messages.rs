//! What RelayRequest is asked: signed requests of the Server-Server API, out and in.

use actix::Message;
use ruma::{CanonicalJsonValue, OwnedServerName};

use super::ClockStatus;
use crate::{
    actors::{admission::Permit, identity::FindServerKeys, upward::FindSharing},
    proto::{
        sealed::Parcel,
        signed::{Request, Verified},
    },
};

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

/// Asks how far our clock is from those of others.
#[derive(Message, Debug)]
#[rtype(result = "Option<ClockStatus>")]
pub struct ReadClock;
