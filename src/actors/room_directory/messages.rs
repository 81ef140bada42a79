//! What RoomDirectory is asked.

use actix::Message;
use ruma::{
    CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName,
    OwnedUserId,
    directory::{Filter, PublicRoomsChunk},
    events::room::member::MembershipState,
    room::RoomSummary,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::actors::{error::AskError, store::StoreError, upward::FederationError};

/// Why RoomDirectory refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// There is none.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The alias leads somewhere.
    #[error("this alias leads to a room already")]
    Taken,
    /// Somebody may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// It makes no sense.
    #[error("{0}")]
    BadRequest(&'static str),
    /// There are too many.
    #[error("there are too many {0}")]
    Full(&'static str),
    /// Another server did not tell.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Has an alias of this server lead to a room. Answered once it is on disk.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), DirectoryError>")]
pub struct SetAlias {
    /// The alias.
    pub alias: OwnedRoomAliasId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who wants it.
    pub by: OwnedUserId,
}

/// Takes an alias of this server away.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), DirectoryError>")]
pub struct DeleteAlias {
    /// The alias.
    pub alias: OwnedRoomAliasId,
    /// Who wants it.
    pub by: OwnedUserId,
    /// Whether that may be done with any alias of the room, not with one's own alone.
    pub has_power: bool,
}

/// Asks where an alias leads, of this server or another one.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<Found, DirectoryError>")]
pub struct FindAlias(pub OwnedRoomAliasId);

/// Where an alias leads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that are in it.
    pub servers: Vec<OwnedServerName>,
}

/// Asks for the aliases of this server that lead to a room.
#[derive(Message, Debug)]
#[rtype(result = "Vec<OwnedRoomAliasId>")]
pub struct ListAliases(pub OwnedRoomId);

/// Puts a room into the list of public rooms of this server, or takes it out.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), DirectoryError>")]
pub struct Publish {
    /// The room.
    pub room_id: OwnedRoomId,
    /// In, or out.
    pub is_public: bool,
}

/// Asks whether a room is in the list.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct IsPublished(pub OwnedRoomId);

/// Asks for a page of a list of public rooms.
#[derive(Message, Debug)]
#[rtype(result = "Result<PublicRooms, DirectoryError>")]
pub struct ListPublicRooms {
    /// Whose list; none: ours.
    pub server: Option<OwnedServerName>,
    /// Which of them.
    pub filter: Filter,
    /// Most rooms.
    pub limit: Option<u64>,
    /// Where the page begins.
    pub since: Option<String>,
}

/// A page of public rooms.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PublicRooms {
    /// The rooms, those with most members first.
    pub chunk: Vec<PublicRoomsChunk>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the page before begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_room_count_estimate: Option<u64>,
}

/// Asks for what a room shows of itself.
#[derive(Message, Debug)]
#[rtype(result = "Result<(RoomSummary, Option<MembershipState>), DirectoryError>")]
pub struct ReadSummary {
    /// Which room.
    pub room: OwnedRoomOrAliasId,
    /// Who can be asked.
    pub via: Vec<OwnedServerName>,
    /// For whom.
    pub by: OwnedUserId,
}

/// Asks for a page of the rooms of a space.
#[derive(Message, Debug)]
#[rtype(result = "Result<Hierarchy, DirectoryError>")]
pub struct ReadHierarchy {
    /// The space.
    pub room_id: OwnedRoomId,
    /// For whom.
    pub by: OwnedUserId,
    /// Rooms that come before the page.
    pub from: usize,
    /// Most rooms.
    pub limit: usize,
    /// How deep spaces in spaces are looked into.
    pub max_depth: usize,
    /// Only rooms that their space suggests.
    pub suggested_only: bool,
}

/// A page of the rooms of a space.
#[derive(Debug)]
pub struct Hierarchy {
    /// The rooms, and which rooms each holds.
    pub rooms: Vec<(RoomSummary, Vec<Box<RawValue>>)>,
    /// Rooms that come before the next page.
    pub next: Option<usize>,
}

/// What another server asks.
#[derive(Debug)]
pub enum DirectoryQuery {
    /// Where an alias of ours leads.
    Alias(OwnedRoomAliasId),
    /// A page of our public rooms.
    PublicRooms {
        /// Which of them.
        filter: Filter,
        /// Most rooms.
        limit: Option<u64>,
        /// Where the page begins.
        since: Option<String>,
    },
    /// What a room shows of itself, and which rooms it holds.
    Hierarchy {
        /// The room.
        room_id: OwnedRoomId,
        /// Only rooms that it suggests.
        suggested_only: bool,
    },
}

/// Answers another server.
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, DirectoryError>")]
pub struct ServeDirectory {
    /// Who asks.
    pub origin: OwnedServerName,
    /// For what.
    pub query: DirectoryQuery,
}
