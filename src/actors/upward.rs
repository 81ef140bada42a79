//! What is said upward: messages and answers between actors of which the one below must not know the
//! one above. Everything else lives with an actor: what is asked with who answers it, what is told
//! upward with who tells it (`tests/tidy.rs` keeps the folders without a circle).

use std::time::Duration;

use actix::Message;
use ruma::{CanonicalJsonValue, OwnedServerName};

use crate::proto::endpoint::Endpoint;

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
/// Sent by whoever has something to ask of another server, from a room down to Identity. The answer was verified: it is of `destination`, for this
/// very request, and fresh; its status is 2xx.
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, FederationError>")]
pub struct SendFederation {
    /// Whom.
    pub destination: OwnedServerName,
    /// What of it is asked.
    pub endpoint: Endpoint,
    /// Body; an empty object where there is none.
    pub content: CanonicalJsonValue,
    /// Longest wait, finding and connecting included.
    pub timeout: Duration,
}

/// Asks which servers share a joined room with us.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Sharing>")]
pub struct FindSharing {
    /// Whose sharing is asked for.
    pub servers: Vec<OwnedServerName>,
    /// A server of which it is asked too whether it is there with them.
    pub with: Option<OwnedServerName>,
}

/// A server that shares a joined room with us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Which.
    pub server_name: OwnedServerName,
    /// Whether the other one, where one was named, is in one of these rooms.
    pub with: bool,
    /// Whether one of these rooms is not public: then somebody let them in.
    pub close: bool,
}

/// A member's server was connected and proved its identity.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ServerOnline(pub OwnedServerName);

/// No node of a server is connected any more.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ServerOffline(pub OwnedServerName);

/// Whether gossip hands a transaction on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionVerdict {
    /// Hand it on.
    Accept,
    /// Do not hand it on, nobody is to blame (unknown yet, or not joined any more).
    Ignore,
    /// Do not hand it on: it is forged or malformed; whoever passed it on did not check.
    Reject,
}
