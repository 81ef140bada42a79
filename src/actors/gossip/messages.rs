//! What Gossip is asked.

use std::sync::Arc;

use actix::{Message, Recipient};
use ruma::{OwnedRoomId, OwnedServerName};
use serde_json::value::RawValue;

use crate::{
    actors::{admission::Permit, swarm::PeerKey, upward::TransactionVerdict},
    proto::{
        room_key::{KeyId, RoomKey},
        server_keys::VerifiedServerKeys,
    },
};

/// Subscribes to the topic of a room. Sent by RoomState for every joined room.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct JoinTopic(pub OwnedRoomId);

/// Unsubscribes from the topic of a room.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct LeaveTopic(pub OwnedRoomId);

/// Publishes PDUs and EDUs to a room as one signed transaction. Sent by Room after the commit.
///
/// Nothing is answered: gossip is never relied on for delivery (head exchange is).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PublishTransaction {
    /// Where.
    pub room_id: OwnedRoomId,
    /// PDUs with their `server_keys`; those that the transaction carries itself are left out of it.
    pub pdus: Vec<Box<RawValue>>,
    /// EDUs.
    pub edus: Vec<Box<RawValue>>,
    /// What seals it: the room knows who may read.
    pub key: RoomKey,
}

/// Asks a room for the key that a message is sealed with; where the room has it not, it asks
/// `from`, then others. Sent to the recipient in [`DeliverTo`].
#[derive(Message, Debug)]
#[rtype(result = "Option<RoomKey>")]
pub struct FindRoomKey {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which key.
    pub id: KeyId,
    /// The server whose node handed the message on.
    pub from: OwnedServerName,
}

/// A transaction that came by gossip: its envelope is signed by `origin`, fresh, never seen
/// before, addressed to the room whose topic it came by, and was handed on by a peer that proved
/// its identity. Sent to the recipient in [`DeliverTo`], whose answer within 4 s decides whether
/// gossipsub hands it on; silence is `Ignore`.
#[derive(Message, Debug)]
#[rtype(result = "TransactionVerdict")]
pub struct GossipTransaction {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who signed it.
    pub origin: OwnedServerName,
    /// What certifies that, and those of its PDUs that come without server_keys.
    pub server_keys: Arc<VerifiedServerKeys>,
    /// PDUs.
    pub pdus: Vec<Box<RawValue>>,
    /// EDUs.
    pub edus: Vec<Box<RawValue>>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Messages that this server's node handed on came faster than they could be looked at, and were
/// not: what was in them has to be learnt in another way.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GossipLost(pub OwnedServerName);

/// Asks for the PeerIds of those to whom we hand on what is said in each of some rooms; of a room
/// that is not joined, nobody.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Vec<String>>")]
pub struct ReadRoomMeshes(pub Vec<OwnedRoomId>);

/// Sets who takes transactions, who knows the keys of rooms, and who is told that gossip was lost.
/// Sent once by `node.rs`.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct DeliverTo {
    /// Federation.
    pub transactions: Recipient<GossipTransaction>,
    /// RoomState.
    pub keys: Recipient<FindRoomKey>,
    /// Meeting.
    pub lost: Recipient<GossipLost>,
}

/// A node of a member of a shared room proved that it speaks for that server: gossip that it hands
/// on is looked at. Sent by Rendezvous.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerVerified(pub PeerKey, pub OwnedServerName);

/// A node is gone, its proof expired, or it shares no room any more. Sent by Rendezvous.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct PeerForgotten(pub PeerKey);
