//! What is read of events that notified our users.

use actix::Message;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{StoreError, StoredEvent, Unread};

/// Reads what notified a user, the newest first.
#[derive(Message, Debug)]
#[rtype(result = "Result<Notifications, StoreError>")]
pub struct ReadNotifications {
    /// Our user.
    pub user_id: OwnedUserId,
    /// Up to this number; none from the newest on.
    pub up_to: Option<u64>,
    /// Those after this number.
    pub after: u64,
    /// Only highlights.
    pub only_highlights: bool,
    /// Only what was not read yet.
    pub only_unread: bool,
    /// Count what is unread in all rooms, too.
    pub count: bool,
    /// Most of them in the answer.
    pub limit: usize,
}

/// What notified a user.
#[derive(Debug, Clone, Default)]
pub struct Notifications {
    /// The newest first.
    pub notified: Vec<Notified>,
    /// Where the next page begins; none at the end.
    pub next: Option<u64>,
    /// How often the user was notified so far.
    pub newest: u64,
    /// What is unread in all rooms, if that was asked for.
    pub unread: Unread,
}

/// An event that notified a user.
#[derive(Debug, Clone)]
pub struct Notified {
    /// Counted for the user.
    pub number: u64,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event: StoredEvent,
    /// When, in milliseconds.
    pub ts: u64,
    /// It was read since.
    pub is_read: bool,
    /// It mentions the user.
    pub highlight: bool,
    /// What the push rules said, as JSON.
    pub actions: String,
    /// How the sender is called in the room.
    pub sender_name: Option<String>,
    /// How the room is called.
    pub room_name: Option<String>,
}
