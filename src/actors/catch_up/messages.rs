//! What CatchUp is asked, and what it tells.

use actix::Message;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::value::RawValue;

use crate::actors::{room::RoomError, store::RoomEvents};

/// Asks for what leads to these heads of another server. Answered when all of it that could be had is
/// with the rooms.
#[derive(Message, Debug)]
#[rtype(result = "Result<CaughtUp, RoomError>")]
pub struct CatchUp {
    /// Whose heads they are.
    pub server: OwnedServerName,
    /// The heads of each room.
    pub heads: RoomEvents,
}

/// How far that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaughtUp {
    /// As far as it goes.
    Done,
    /// The server knows no such requests.
    Unknown,
}

/// A server is met no more: another program may be there next time.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ForgetServer(pub OwnedServerName);

/// Told to Meeting: events for a room, parents first, with server_keys.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct TakeIn {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Who gave them.
    pub server_name: OwnedServerName,
    /// The events.
    pub pdus: Vec<Box<RawValue>>,
}

/// Asked of RoomState: some of what is missing before an event of a room. Answered with whether any came.
#[derive(Message, Debug)]
#[rtype(result = "Result<bool, RoomError>")]
pub struct FillGap {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub before: OwnedEventId,
}
