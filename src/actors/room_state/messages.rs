//! What RoomState is asked.

use std::collections::BTreeMap;

use actix::{Message, dev::MessageResponse};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomVersionId, events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    actors::{
        admission::Permit,
        catch_up::{EventsAnswer, IdsAnswer},
        room::{IngestTransaction, RoomError, RoomRequest, ShownAs},
        upward::TransactionVerdict,
    },
    proto::heads::{ComparedHeads, Gap},
};

/// Hands a message to the Room actor of a room, which is started if need be.
///
/// Answered with the answer of the room, or [`RoomError::Ask`].
#[derive(Debug)]
pub struct ToRoom<M> {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// What for.
    pub message: M,
}

impl<M> Message for ToRoom<M>
where
    M: Message,
    M::Result: Send + 'static,
{
    type Result = Result<M::Result, RoomError>;
}

/// The same, for what a node does on its own account: where the room was asleep, it sleeps again
/// when it is done. So a node that was away needs no memory for all of its rooms at once.
#[derive(Debug)]
pub struct Briefly<M>(pub ToRoom<M>);

impl<M> Message for Briefly<M>
where
    M: Message,
    M::Result: Send + 'static,
{
    type Result = Result<M::Result, RoomError>;
}

/// A transaction of another server for a room. Only rooms that are known here are started for it:
/// whoever made up room ids could fill the memory with them.
#[derive(Message, Debug)]
#[rtype(result = "Result<TransactionVerdict, RoomError>")]
pub struct IngestIntoRoom {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// What came.
    pub transaction: IngestTransaction,
}

/// A request of another server about a room. Only rooms that are known here are started for it,
/// but for an invite, which makes a room known.
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, RoomError>")]
pub struct ServeRoom {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// What is asked.
    pub request: RoomRequest,
}

/// Asks for a new room of a user of ours. Answered when all of its first events are on disk.
#[derive(Message, Debug)]
#[rtype(result = "Result<OwnedRoomId, RoomError>")]
pub struct CreateRoom {
    /// Who makes it.
    pub by: OwnedUserId,
    /// Room version; none: the default.
    pub version: Option<RoomVersionId>,
    /// Additional content of the create event.
    pub creation_content: CanonicalJsonObject,
    /// The state events after create and our join, in order: type, state key, content. Power
    /// levels have to be the first.
    pub initial_state: Vec<(String, String, CanonicalJsonObject)>,
    /// Who is invited once the room stands. Where somebody cannot be reached there is no room.
    pub invite: Vec<OwnedUserId>,
    /// Mark the invites as a direct chat.
    pub is_direct: bool,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for the rooms of a user of ours by membership.
#[derive(Message, Debug)]
#[rtype(result = "Vec<(OwnedRoomId, MembershipState)>")]
pub struct ListRooms(pub OwnedUserId);

/// Asks what a user of ours is in a room; none where he has nothing to do with it.
#[derive(Message, Debug)]
#[rtype(result = "Option<MembershipState>")]
pub struct ReadMembership {
    /// Who.
    pub user_id: OwnedUserId,
    /// Where.
    pub room_id: OwnedRoomId,
}

/// Asks whether a user of ours has to do with a room.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct KnowsRoom(pub OwnedRoomId);

/// Forgets a room that a user of ours has left: it shows in no list of his any more.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct ForgetRoom {
    /// Who.
    pub user_id: OwnedUserId,
    /// Which room.
    pub room_id: OwnedRoomId,
}

/// Compares the heads of rooms with those of another server, of which fingerprints came
/// (`proto::heads`). Only rooms that our user has joined are looked at, and none is started.
#[derive(Message, Debug)]
#[rtype(result = "Result<ComparedHeads, RoomError>")]
pub struct CompareHeads {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with the fingerprint of the origin's heads.
    pub rooms: BTreeMap<OwnedRoomId, String>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for events that another server lacks. Only rooms that our user and the origin's have joined
/// are looked at, and none is started; those for which the answer has no place are left out, and
/// those whose history is not for all members have no events in it.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, RoomError>")]
pub struct FindMissing {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with what it lacks.
    pub rooms: BTreeMap<OwnedRoomId, Gap>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for the ids of what another server lacks, as [`FindMissing`] for events.
#[derive(Message, Debug)]
#[rtype(result = "Result<IdsAnswer, RoomError>")]
pub struct FindMissingIds {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with what it lacks.
    pub rooms: BTreeMap<OwnedRoomId, Gap>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for events by id, of rooms as [`FindMissing`].
#[derive(Message, Debug)]
#[rtype(result = "Result<EventsAnswer, RoomError>")]
pub struct FindEvents {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with ids.
    pub rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// How a user of ours is shown: those that are known at the start, and each that changes. Of a change
/// every room that he has joined sends a membership event.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ProfileUpdated {
    /// Who.
    pub user_id: OwnedUserId,
    /// How.
    pub shown: ShownAs,
    /// Whether it was another before.
    pub changed: bool,
}

/// Counts for `status`.
#[derive(Debug, Clone, Copy, MessageResponse, Serialize, Deserialize)]
pub struct RoomCounts {
    /// Joined rooms.
    pub joined: usize,
    /// Invites.
    pub invited: usize,
    /// Room actors that are running.
    pub live: usize,
}

/// Asks for [`RoomCounts`].
#[derive(Message, Debug)]
#[rtype(result = "RoomCounts")]
pub struct CountRooms;
