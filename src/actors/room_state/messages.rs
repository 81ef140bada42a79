//! What RoomState is asked.

use std::collections::HashSet;

use actix::{Message, Recipient, dev::MessageResponse};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId,
    RoomVersionId, events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};

use crate::{
    actors::{
        admission::Permit,
        room::{HeadsHeard, IngestTransaction, RoomError, RoomRequest, Said, ShownAs},
        upward::TransactionVerdict,
    },
    proto::push_rules::Listener,
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

/// Tells of what a user of ours is notified from now on.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Listens {
    /// Who.
    pub user_id: OwnedUserId,
    /// The user's push rules, and whom the user ignores.
    pub listener: Listener,
}

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

/// Asks which rooms have to do with a server.
#[derive(Message, Debug)]
#[rtype(result = "SharedRooms")]
pub struct ReadShared(pub OwnedServerName);

/// The rooms that have to do with a server.
#[derive(Debug, Default, MessageResponse)]
pub struct SharedRooms {
    /// Those that a user of ours has joined and one of the server.
    pub shared: Vec<OwnedRoomId>,
    /// Those with an invite of which the server knows whether it still stands.
    pub invited: Vec<OwnedRoomId>,
}

/// Asks which of some rooms are shared with a server.
#[derive(Message, Debug)]
#[rtype(result = "SiftedRooms")]
pub struct SiftShared {
    /// With whom.
    pub server: OwnedServerName,
    /// Which may be.
    pub room_ids: Vec<OwnedRoomId>,
}

/// Which of some rooms are shared with a server.
#[derive(Debug, Default, MessageResponse)]
pub struct SiftedRooms {
    /// Those that a user of ours has joined and one of the server.
    pub shared: HashSet<OwnedRoomId>,
    /// Those that a user of ours has joined and none of the server.
    pub unshared: Vec<OwnedRoomId>,
}

/// Told by RoomState: with which servers a joined room is shared now, and with which none is any more.
#[derive(Message, Debug, Clone, Default)]
#[rtype(result = "()")]
pub struct SharesTurned {
    /// Those that shared none before.
    pub gained: Vec<OwnedServerName>,
    /// Those that share none any more.
    pub lost: Vec<OwnedServerName>,
    /// They are those of the rooms that were on disk: which of these others are in.
    pub at_start: Vec<OwnedRoomId>,
    /// Some of those of a room that we have just come into.
    pub entered: Vec<OwnedServerName>,
}

/// Asks for the other servers in some rooms, [`crate::config::limits::OWED_MEMBERS`] and one more at most.
/// Rooms that are not known are left out.
#[derive(Message, Debug)]
#[rtype(result = "Vec<ServersIn>")]
pub struct ReadServers(pub Vec<OwnedRoomId>);

/// The other servers in a room.
#[derive(Debug, Clone)]
pub struct ServersIn {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// They have a joined user, as far as it is known here.
    pub servers: Vec<OwnedServerName>,
    /// So have we, and heads are compared.
    pub is_joined: bool,
}

/// Sets who meets the servers that rooms are shared with. Sent once, before the first signer.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct MeetWith {
    /// Who shares rooms with us.
    pub turned: Recipient<SharesTurned>,
    /// What they announced.
    pub heads_heard: Recipient<HeadsHeard>,
    /// What was said here.
    pub said: Recipient<Said>,
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

/// There is no such user of ours any more: nobody is invited by this name.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct UserGone(pub OwnedUserId);

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
