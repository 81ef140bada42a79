//! What the Outbox is told and asked, and what it tells those who owed something.

use std::fmt;

use actix::{Message, Recipient};
use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
};
use serde::{Deserialize, Serialize};

use crate::actors::{error::AskError, store::StoreError, upward::FederationError};

/// What something that is owed is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Matter {
    /// An invite of a user of the server.
    Invite {
        /// To which room.
        room_id: OwnedRoomId,
        /// Who is invited.
        user_id: OwnedUserId,
        /// The invite.
        event_id: OwnedEventId,
    },
    /// The membership of a user of the server that somebody else changed. A newer one takes the
    /// place of one that waits.
    Membership {
        /// In which room.
        room_id: OwnedRoomId,
        /// Whose.
        user_id: OwnedUserId,
        /// The event that changed it.
        event_id: OwnedEventId,
    },
    /// A message to devices. The oldest ones give way where a server is owed too much.
    ToDevice {
        /// By which the server knows it again.
        message_id: String,
    },
    /// The devices of a user of ours changed. A newer one takes the place of one that waits.
    DeviceList {
        /// Whose devices.
        user_id: OwnedUserId,
    },
    /// A user of ours is out of a room that only others can take him out of: he turned an invite down. It
    /// is owed to each server that may do it, until one has.
    Declined {
        /// Which room.
        room_id: OwnedRoomId,
        /// Who.
        user_id: OwnedUserId,
        /// The invite; a newer one is another matter.
        event_id: Option<OwnedEventId>,
    },
    /// Events of ours that nobody else is known to have. They are owed to each member's server until one
    /// has them; newer ones take their place, and they give way to all else.
    Events {
        /// Of which room.
        room_id: OwnedRoomId,
        /// The last one.
        event_id: OwnedEventId,
        /// How many, as far as they are looked for.
        count: usize,
    },
}

impl fmt::Display for Matter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invite { room_id, user_id, .. } => write!(f, "invite of {user_id} to {room_id}"),
            Self::Membership { room_id, user_id, .. } => {
                write!(f, "membership of {user_id} in {room_id}")
            }
            Self::ToDevice { .. } => f.write_str("message to devices"),
            Self::DeviceList { user_id } => write!(f, "device list of {user_id}"),
            Self::Declined { room_id, user_id, .. } => {
                write!(f, "{user_id} does not come to {room_id}")
            }
            Self::Events { room_id, count: 1, .. } => {
                write!(f, "an event in {room_id} that nobody else has")
            }
            Self::Events { room_id, count, .. } => {
                write!(f, "{count} events in {room_id} that nobody else has")
            }
        }
    }
}

/// How something that is owed travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A request of its own, which is always a PUT.
    Put {
        /// Path and query.
        uri: String,
        /// Body.
        content: CanonicalJsonValue,
    },
    /// A PDU of a transaction; with others, where others are owed.
    Pdu(CanonicalJsonValue),
    /// An EDU of a transaction; with others, where others are owed.
    Edu(CanonicalJsonValue),
    /// Requests that the room makes: a template, and the leave composed at it.
    Leave {
        /// Version of the room.
        version: RoomVersionId,
    },
    /// Events of ours in a transaction of their own, read from the Store when they are sent.
    Events {
        /// Of which room.
        room_id: OwnedRoomId,
        /// Which, the oldest first.
        event_ids: Vec<OwnedEventId>,
    },
}

/// Something that is owed to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// To which.
    pub destination: OwnedServerName,
    /// About what.
    pub matter: Matter,
    /// What is sent.
    pub form: Form,
    /// It is owed from when this event is part of its room: until [`Decided`] comes, or it is found in
    /// the Store, it waits. So it can be on disk before the event is.
    pub once: Option<(OwnedRoomId, OwnedEventId)>,
}

/// Takes over what is owed. Answered when it is on disk; what had no place is named by the error, and
/// the rest of it is owed. What waits already is not owed twice.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), OutboxError>")]
pub struct Owe(pub Vec<Debt>);

/// Why something cannot be owed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// The server is owed as much as is kept for one.
    #[error(
        "{0} was not reached for a while, and what waits for it is as much as is kept for one server"
    )]
    ServerFull(OwnedServerName),
    /// All servers together are.
    #[error("too much waits for servers that cannot be reached")]
    Full,
    /// It is too long.
    #[error("what is to be sent has {0} bytes, which is too long")]
    TooLarge(usize),
    /// The Store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// The event that something waits for ([`Debt::once`]) is part of its room, or will not be.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Decided {
    /// To whom it is owed.
    pub destination: OwnedServerName,
    /// The event.
    pub event_id: OwnedEventId,
    /// Whether it is part of its room.
    pub stands: bool,
}

/// A server was met in another way than by a connection to it: others carry to it.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ServerReached(pub OwnedServerName);

/// Events of ours in a room that nobody else was known to have are somewhere else: they are not owed any more.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct EventsSpread(pub OwnedRoomId);

/// A server refused an invite that is part of its room already. Sent to RoomState, again until it
/// answers that nothing is left to be done.
#[derive(Message, Debug, Clone)]
#[rtype(result = "bool")]
pub struct InviteRefused {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who was invited.
    pub user_id: OwnedUserId,
    /// The invite.
    pub event_id: OwnedEventId,
    /// What the server said.
    pub why: String,
}

/// Has a user of ours taken out of a room by a server that is in it, unless he was invited anew. Sent to
/// RoomState.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<(), FederationError>")]
pub struct LeaveThrough {
    /// By which server.
    pub server_name: OwnedServerName,
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// The invite that he turned down.
    pub event_id: Option<OwnedEventId>,
    /// Version of the room.
    pub version: RoomVersionId,
}

/// Sets who does for rooms what only they can. Sent once; until then that waits.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct TellRooms {
    /// An invite was refused.
    pub refused: Recipient<InviteRefused>,
    /// A leave is owed.
    pub leave: Recipient<LeaveThrough>,
}

/// Counts what is owed.
#[derive(Message, Debug)]
#[rtype(result = "OwedCount")]
pub struct CountOwed;

/// How much is owed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, actix::dev::MessageResponse,
)]
pub struct OwedCount {
    /// Items.
    pub items: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Servers that they are for.
    pub servers: usize,
}

/// Reads what is owed, and what became of what was owed lately.
#[derive(Message, Debug)]
#[rtype(result = "OutboxStatus")]
pub struct ReadOutbox;

/// What is owed, and what became of what was owed lately.
#[derive(Debug, Clone, Default, Serialize, Deserialize, actix::dev::MessageResponse)]
pub struct OutboxStatus {
    /// All that is owed.
    pub owed: OwedCount,
    /// By server: those that are owed most, where there are too many to tell all.
    pub servers: Vec<ServerOwed>,
    /// What came to an end lately, the newest last.
    pub ended: Vec<Ended>,
}

/// What one server is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerOwed {
    /// Which.
    pub server_name: OwnedServerName,
    /// Items.
    pub items: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Whether a request is under way.
    pub in_flight: bool,
    /// How often in a row it was not reached.
    pub failures: u32,
    /// Milliseconds until it is tried again.
    pub next_try_ms: u64,
    /// The oldest items.
    pub waiting: Vec<Waiting>,
}

/// Something that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// About what.
    #[serde(flatten)]
    pub matter: Matter,
    /// Bytes.
    pub bytes: usize,
    /// Since when, in milliseconds since 1970.
    pub made_ts: u64,
    /// Until when.
    pub expires_ts: u64,
    /// How often it was sent since the node started.
    pub tries: u32,
}

/// Something that is not owed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// To whom it was owed.
    pub server_name: OwnedServerName,
    /// About what.
    #[serde(flatten)]
    pub matter: Matter,
    /// Since when, in milliseconds since 1970.
    pub made_ts: u64,
    /// When it came to an end.
    pub ended_ts: u64,
    /// How.
    #[serde(flatten)]
    pub end: End,
}

/// How something came to an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum End {
    /// The server has it.
    Delivered,
    /// The server does not want it.
    Refused {
        /// HTTP status.
        status: u16,
        /// Matrix error code.
        errcode: String,
    },
    /// The server was not reached for too long.
    Expired,
    /// It gave way to what was newer.
    GaveWay,
}
