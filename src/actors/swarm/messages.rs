//! What the Swarm is told, and what it tells.

use actix::Message;
use libp2p::{Multiaddr, PeerId, gossipsub::MessageId, request_response::ResponseChannel};
use tokio::sync::OwnedSemaphorePermit;

use super::NetworkStatus;
use crate::actors::upward::TransactionVerdict;

// ---------------------------------------------------------------- from Gossip

/// Subscribes to a gossip topic.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Subscribe(pub String);

/// Unsubscribes from a gossip topic.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unsubscribe(pub String);

/// Publishes bytes on a topic. That nobody listens is no error.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Publish {
    /// Where.
    pub topic: String,
    /// What.
    pub bytes: Vec<u8>,
}

/// Which gossip message a verdict is about.
#[derive(Debug, Clone)]
pub struct GossipTicket {
    pub(super) message_id: MessageId,
    pub(super) source: PeerId,
}

/// Decides whether a gossip message is handed on.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ReportVerdict {
    /// Which message.
    pub ticket: GossipTicket,
    /// What becomes of it.
    pub verdict: TransactionVerdict,
}

// ---------------------------------------------------------------- from RelayRequest

/// Sends a signed request to a node, which is connected first where that is needed. Answered with
/// the bytes of its answer.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<u8>, RequestFailed>")]
pub struct SendRequest {
    /// To whom.
    pub peer: PeerId,
    /// The signed request.
    pub bytes: Vec<u8>,
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailed {
    /// The node cannot be connected, or closed the stream.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// The connection closed while the answer was awaited: the request may have arrived.
    #[error("the connection broke")]
    Broken,
    /// It did not answer in time.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The network of this node is overloaded or down.
    #[error("the network of this node is not up")]
    Offline,
}

/// The stream on which a request came. Dropped without [`SendReply`], the stream is closed.
#[derive(Debug)]
pub struct ReplyTicket(pub(super) ResponseChannel<Vec<u8>>);

/// Answers a request.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SendReply {
    /// Which.
    pub ticket: ReplyTicket,
    /// The signed answer.
    pub bytes: Vec<u8>,
}

// ---------------------------------------------------------------- from Media

/// A node, for those who hand on whom they were told of.
pub type NodeId = PeerId;

/// Asks a node for pieces of media (`proto::media::piece`). Answered with what it gave.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<u8>, RequestFailed>")]
pub struct AskPieces {
    /// Whom.
    pub peer: PeerId,
    /// What is asked.
    pub bytes: Vec<u8>,
}

/// Gives pieces of media to who asked.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GivePieces {
    /// Who.
    pub ticket: ReplyTicket,
    /// What is given.
    pub bytes: Vec<u8>,
}

/// Sets who is told of [`PiecesAsked`]. Sent once.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GivePiecesWith(pub actix::Recipient<PiecesAsked>);

// ---------------------------------------------------------------- from Rendezvous

/// Sets our server_keys, as canonical JSON. The first ones start the network: listening, dialling
/// and discovery.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetIdentity(pub Vec<u8>);

/// Sends our server_keys to a node and asks for its own.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Exchange(pub PeerId);

/// Keeps a node connected that proved its identity: within a limit, since identities cost nothing.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Keep(pub PeerId);

/// Opens gossip with a node that proved its identity and shares a room with us, and keeps it
/// connected.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Admit(pub PeerId);

/// Disconnects a node whose proof expired or was superseded, or that shares no room any more: on
/// the next connection, gossip with it is shut.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Dismiss(pub PeerId);

/// Connects a node: at these addresses, or wherever it is known to be. Followed by
/// [`Discovery::PeerSeen`] or [`Discovery::DialFailed`].
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Dial {
    /// Whom.
    pub peer: PeerId,
    /// Where.
    pub addresses: Vec<Multiaddr>,
}

/// Looks for the providers of some keys in every DHT, and connects those that it finds.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct FindProviders {
    /// Comes back in [`Discovery::Found`].
    pub ticket: u64,
    /// The keys: multihashes.
    pub keys: Vec<Vec<u8>>,
}

/// Looks for a node in every DHT, and connects it.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct FindNode {
    /// Comes back in [`Discovery::Found`].
    pub ticket: u64,
    /// Which.
    pub peer: PeerId,
}

/// Sets the keys that this node is a provider of; those that are missing here are dropped.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Provide(pub Vec<Vec<u8>>);

/// Asks for addresses and peers; server names are left empty.
#[derive(Message, Debug)]
#[rtype(result = "NetworkStatus")]
pub struct ReadSwarm;

/// Asks what waits between the task that owns libp2p and its actor.
#[derive(Message, Debug)]
#[rtype(result = "QueueCounts")]
pub struct ReadQueues;

/// What waits between the task that owns libp2p and its actor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, actix::dev::MessageResponse)]
pub struct QueueCounts {
    /// Commands for the task.
    pub commands: usize,
    /// Events of it.
    pub events: usize,
    /// Commands that may not be lost, and for which there was no room.
    pub backlog: usize,
}

/// Asks for the PeerIds of those to whom we hand on what is said on each of some topics.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Vec<String>>")]
pub struct ReadMeshes(pub Vec<String>);

// ---------------------------------------------------------------- from node.rs

/// Sets who is told what. Sent once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Bind {
    /// Takes gossip.
    pub gossip: actix::Recipient<GossipReceived>,
    /// Takes requests.
    pub requests: actix::Recipient<RequestReceived>,
    /// Takes news of peers.
    pub discovery: actix::Recipient<Discovery>,
    /// Are told that the Swarm was rebuilt and has forgotten its topics.
    pub restarted: Vec<actix::Recipient<SwarmRestarted>>,
}

/// Ends the network.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct StopSwarm;

// ---------------------------------------------------------------- events

/// Gossip came; a [`ReportVerdict`] is owed.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GossipReceived {
    /// For the verdict.
    pub ticket: GossipTicket,
    /// Who handed it to us.
    pub source: PeerId,
    /// Where.
    pub topic: String,
    /// What.
    pub bytes: Vec<u8>,
}

/// A request came.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct RequestReceived {
    /// Whose connection it came on.
    pub peer: PeerId,
    /// The signed request.
    pub bytes: Vec<u8>,
    /// For the answer.
    pub ticket: ReplyTicket,
    /// Place in the memory budget of requests that are not verified yet.
    pub budget: Option<OwnedSemaphorePermit>,
}

/// Pieces of media are asked for.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PiecesAsked {
    /// What is asked.
    pub bytes: Vec<u8>,
    /// For the answer.
    pub ticket: ReplyTicket,
}

/// The Swarm was rebuilt: topics and provided keys have to be set again.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct SwarmRestarted;

/// A configured address cannot be listened on; the node has to end.
#[derive(Message, Debug, Clone, thiserror::Error)]
#[rtype(result = "()")]
#[error("libp2p.listenAddresses: cannot listen on {address}: {why}")]
pub struct SwarmFailed {
    /// Which address.
    pub address: String,
    /// What the system said.
    pub why: String,
}

/// News of peers.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum Discovery {
    /// A node was connected and told what it speaks; again when that changed.
    PeerSeen {
        /// Who.
        peer: PeerId,
        /// Whether it speaks our protocols.
        ours: bool,
        /// Where it can be reached, the address of the connection first.
        addresses: Vec<Multiaddr>,
    },
    /// A connection to a node was made or lost beside others.
    PathChanged(PeerId),
    /// The last connection to a node was closed.
    PeerGone(PeerId),
    /// A node that we wanted cannot be connected.
    DialFailed(PeerId),
    /// server_keys came from a node, unverified.
    IdentityReceived {
        /// Who sent them, proven by the connection.
        peer: PeerId,
        /// Canonical JSON, or anything else.
        bytes: Vec<u8>,
    },
    /// A node did not answer our server_keys.
    IdentityFailed(PeerId),
    /// A search in the DHTs made progress.
    Found {
        /// As in the command.
        ticket: u64,
        /// Who was found; each is being connected.
        peers: Vec<PeerId>,
        /// Nothing more will come.
        done: bool,
    },
}
