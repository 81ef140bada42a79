//! What Ephemera is asked: typing and presence, which no disk ever sees.

use std::collections::HashMap;

use actix::Message;
use ruma::{OwnedRoomId, OwnedUserId, presence::PresenceState};
use tokio::sync::watch;

/// Somebody types in a room, or stopped. Sent by Room for our user and for others.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Typing {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// How long, in milliseconds, at most 2 minutes; none: stopped.
    pub timeout_ms: Option<u64>,
}

/// Somebody's presence. Sent by http for our user, by Room for others.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Presence {
    /// Who.
    pub user_id: OwnedUserId,
    /// online, unavailable or offline.
    pub presence: PresenceState,
    /// What they say.
    pub status_msg: Option<String>,
    /// Milliseconds since they last did something.
    pub last_active_ago: Option<u64>,
    /// Whether they are at it now.
    pub currently_active: bool,
}

/// Asks for what changed after a place in the ephemeral stream.
#[derive(Message, Debug)]
#[rtype(result = "EphemeralRows")]
pub struct ReadEphemera {
    /// The place; 0 for everything.
    pub since: u64,
}

/// What changed.
#[derive(Debug, Clone, Default, actix::dev::MessageResponse)]
pub struct EphemeralRows {
    /// The place after it.
    pub position: u64,
    /// Rooms whose typing list changed, each with all who type.
    pub typing: HashMap<OwnedRoomId, Vec<OwnedUserId>>,
    /// Presence that changed.
    pub presence: Vec<Presence>,
}

/// Asks for somebody's presence.
#[derive(Message, Debug)]
#[rtype(result = "Option<Presence>")]
pub struct ReadPresence(pub OwnedUserId);

/// Asks for the watch of the ephemeral position.
#[derive(Message, Debug)]
#[rtype(result = "watch::Receiver<u64>")]
pub struct WatchEphemera;
