//! What is asked of many rooms at once.

use std::collections::{BTreeMap, BTreeSet};

use actix::Message;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState, room::RoomSummary,
};
use serde_json::value::RawValue;

use super::{DirectoryEntry, StoreError};
use crate::proto::heads::{Gap, MissingIds};

/// Reads the forward extremities of rooms, started or not; those that are not known are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<RoomEvents, StoreError>")]
pub struct ReadHeads(pub Vec<OwnedRoomId>);

/// Rooms, each with ids of events.
pub type RoomEvents = Vec<(OwnedRoomId, Vec<OwnedEventId>)>;

/// Reads what rooms look like to a person, started or not; those that are not known are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<RoomFace>, StoreError>")]
pub struct ReadFaces(pub Vec<OwnedRoomId>);

/// What a room looks like to a person who sees a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFace {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Its name; none where it was given none.
    pub name: Option<String>,
    /// How many people have joined it.
    pub joined: u64,
    /// The first of them, [`crate::config::limits::FACE_PEOPLE`] at most, each with the shown name.
    pub people: Vec<(OwnedUserId, Option<String>)>,
}

/// Finds in each of some rooms the last events of ours that nobody followed and that no other server is
/// known to have (`Row::Spread`), the oldest first: `limits::OWED_EVENTS` and
/// `limits::OWED_EVENTS_LEN` at most. Rooms without any are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<RoomEvents, StoreError>")]
pub struct FindUnspread {
    /// Our server.
    pub server_name: OwnedServerName,
    /// What was said before this time, in milliseconds, is let be.
    pub since_ts: u64,
    /// Which rooms.
    pub room_ids: Vec<OwnedRoomId>,
}

/// Finds the rooms of which at least one of these events is not stored: which, and what is.
#[derive(Message, Debug)]
#[rtype(result = "Result<RoomGaps, StoreError>")]
pub struct FindLacking(pub RoomEvents);

/// Looks for rooms with history missing in their middle: [`FindGap`] finds something there.
#[derive(Message, Debug)]
#[rtype(result = "Result<GapsFound, StoreError>")]
pub struct FindGaps {
    /// The last room that was looked at; none to begin.
    pub after: Option<OwnedRoomId>,
}

/// What [`FindGaps`] found in some rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GapsFound {
    /// Rooms with gaps.
    pub rooms: Vec<OwnedRoomId>,
    /// The last room that was looked at; none where that was the last one of all.
    pub last: Option<OwnedRoomId>,
}

/// Finds the newest event before which history is missing, although older history is here.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<OwnedEventId>, StoreError>")]
pub struct FindGap(pub OwnedRoomId);

/// Rooms, each with what is missing in it.
pub type RoomGaps = Vec<(OwnedRoomId, Gap)>;

/// Reads the events that another server lacks, of many rooms, started or not, within
/// `limits::MISSING_EVENTS` and `limits::MISSING_LEN`: rooms that are not known, or for which
/// nothing is left, are left out. Of rooms whose history is not for all members there are none.
///
/// `limits::MISSING_EVENTS`: crate::config::limits::MISSING_EVENTS
/// `limits::MISSING_LEN`: crate::config::limits::MISSING_LEN
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(OwnedRoomId, Vec<MissingEvent>)>, StoreError>")]
pub struct ReadMissing(pub RoomGaps);

/// An event of [`ReadMissing`] (of each room, parents first) or of [`ReadDepartures`].
#[derive(Debug, Clone)]
pub struct MissingEvent {
    /// Whose server vouches for it.
    pub sender: OwnedUserId,
    /// Canonical JSON, without `server_keys` and `unsigned`.
    pub json: Box<str>,
}

/// Finds what another server lacks of a room, by id, as [`ReadMissing`] reads it; some milliseconds at a
/// time, so it has to be sent again with what it answered until it is done.
#[derive(Message, Debug)]
#[rtype(result = "Result<Result<MissingIds, MissingWalk>, StoreError>")]
pub enum MissingWalk {
    /// Begin.
    Begin {
        /// Which room.
        room_id: OwnedRoomId,
        /// What the other has, and what it asks for.
        gap: Gap,
        /// How many to name at most.
        most: usize,
    },
    /// Go on.
    Under(UnderWay),
}

/// A walk of [`MissingWalk`] that is not over.
#[derive(Debug)]
pub struct UnderWay(pub(in super::super) Box<super::super::missing_ids::Walk>);

/// Reads events by id, in the order of the ids, as [`ReadMissing`] does. Those that are not here are
/// left out, and so are rooms with none.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(OwnedRoomId, Vec<MissingEvent>)>, StoreError>")]
pub struct ReadEvents(pub RoomEvents);

/// Finds which of these events are not in their rooms. Rooms that are not known are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<SiftedIds>, StoreError>")]
pub struct SiftIds(pub RoomEvents);

/// One room of [`SiftIds`].
#[derive(Debug, Clone)]
pub struct SiftedIds {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The events that are not here.
    pub missing: Vec<OwnedEventId>,
}

/// Reads the events by which users of a server are out of rooms (`leave` or `ban`), started or not, within `limits::MISSING_LEN`: the server that is out lacks it.
///
/// `limits::MISSING_LEN`: crate::config::limits::MISSING_LEN
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(OwnedRoomId, MissingEvent)>, StoreError>")]
pub struct ReadDepartures {
    /// Whose users.
    pub server_name: OwnedServerName,
    /// Which rooms.
    pub room_ids: Vec<OwnedRoomId>,
}

/// Reads all rooms, for those who keep an index of them.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<RoomRow>, StoreError>")]
pub struct ListRooms;

/// One room of [`ListRooms`].
#[derive(Debug, Clone)]
pub struct RoomRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Our users' part in it; none in a room of which there are only leftovers.
    pub locals: BTreeMap<OwnedUserId, LocalRow>,
    /// Servers with a joined user.
    pub servers: Vec<OwnedServerName>,
    /// Whether anybody may come in.
    pub public: bool,
}

/// The part of one of our users in a room.
#[derive(Debug, Clone)]
pub struct LocalRow {
    /// The membership.
    pub membership: MembershipState,
    /// Who invites the user, and the date of that, where an invite waits.
    pub invited_by: Option<(OwnedServerName, u64)>,
    /// Who can be asked about an invite that waits, the inviter's server first.
    pub via: Vec<OwnedServerName>,
}

/// Finds people in the directory of shared rooms, by a part of name or id, any case.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(OwnedUserId, DirectoryEntry)>, StoreError>")]
pub struct SearchDirectory {
    /// The part.
    pub term: String,
    /// Most results.
    pub limit: usize,
}

/// Reads what rooms show of themselves. Rooms of which nothing is here are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<Card>, StoreError>")]
pub struct ReadCards(pub Vec<OwnedRoomId>);

/// What a room shows of itself to those who are not in it.
#[derive(Debug, Clone)]
pub struct Card {
    /// What it is called, who may come in, how many are there.
    pub summary: RoomSummary,
    /// Servers with somebody in it.
    pub servers: Vec<OwnedServerName>,
    /// Of a space: which rooms it holds, as the events that say so.
    pub children: Vec<Box<RawValue>>,
}

/// Finds those of some users who are in a joined room of a user of ours: in it, or invited to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Roommates, StoreError>")]
pub struct FindRoommates {
    /// Who, and since when at the latest they have to be there: where they are, no further room is
    /// looked at.
    pub users: BTreeMap<OwnedUserId, u64>,
}

/// Answer to [`FindRoommates`].
#[derive(Debug, Clone, Default)]
pub struct Roommates {
    /// The position as of which this is so.
    pub position: u64,
    /// Since which position they share a room, as far as is known.
    pub since: BTreeMap<OwnedUserId, u64>,
}

/// Reads which other servers have to do with a user of ours.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeSet<OwnedServerName>, StoreError>")]
pub struct ReadServersOf {
    /// Our user.
    pub user_id: OwnedUserId,
    /// Also those that invited the user.
    pub inviters: bool,
}

/// Reads which servers are in a room that any user of ours has joined, together with a user of another server
/// who is in it or invited to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeSet<OwnedServerName>, StoreError>")]
pub struct ReadServersWith(pub OwnedUserId);
