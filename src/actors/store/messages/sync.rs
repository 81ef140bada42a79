//! What a `/sync` reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use actix::Message;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{Bundles, StoreError, StoredEvent};
use crate::proto::stream::Order;

/// Which events a filter lets through (Client-Server API, "Filtering"). `*` in `types` stands for
/// any characters.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Events of these rooms only.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// Events of none of these rooms.
    pub not_rooms: Vec<OwnedRoomId>,
    /// Only events with (or without) a `url` in their content.
    pub contains_url: Option<bool>,
    /// Only these types.
    pub types: Option<Vec<String>>,
    /// None of these types.
    pub not_types: Vec<String>,
    /// Only these senders.
    pub senders: Option<Vec<OwnedUserId>>,
    /// None of these senders.
    pub not_senders: Vec<OwnedUserId>,
}

/// Reads what changed for a device since a position. The cost follows what changed.
#[derive(Message, Debug)]
#[rtype(result = "Result<SyncRows, StoreError>")]
pub struct ReadSync {
    /// The device, for its to-device messages and transaction ids.
    pub device_id: String,
    /// Our user.
    pub user_id: OwnedUserId,
    /// Position of the last answer; none for an initial sync.
    pub since: Option<u64>,
    /// Position up to which to-device messages came, where that is another one.
    pub to_device_since: Option<u64>,
    /// Send the whole state of each room.
    pub full_state: bool,
    /// Show the state after the timeline, as it is, instead of the state before it, to which a
    /// client adds what the timeline sets.
    pub state_after: bool,
    /// Most timeline events a room.
    pub timeline_limit: usize,
    /// Timeline events.
    pub timeline_filter: EventFilter,
    /// State events.
    pub state_filter: EventFilter,
    /// Leave members out of the state who did not send any of the timeline, the user aside. Those
    /// who changed since the last answer are shown all the same: clients encrypt for them.
    pub lazy_load_members: bool,
    /// Show rooms that were left, in an initial sync too.
    pub include_leave: bool,
    /// Only these rooms.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// None of these rooms.
    pub not_rooms: Vec<OwnedRoomId>,
}

/// What changed, as rows.
#[derive(Debug, Clone, Default)]
pub struct SyncRows {
    /// Position up to which this is complete.
    pub position: u64,
    /// Joined rooms with changes.
    pub joined: Vec<JoinedRoom>,
    /// New invites.
    pub invited: Vec<InvitedRoom>,
    /// Rooms that were left since.
    pub left: Vec<JoinedRoom>,
    /// Global account data by type.
    pub account_data: Vec<(String, Box<RawValue>)>,
    /// To-device messages, each a JSON object, oldest first: within `limits::TO_DEVICE_SYNC` and
    /// `limits::TO_DEVICE_SYNC_LEN`.
    ///
    /// `limits::TO_DEVICE_SYNC`: crate::config::limits::TO_DEVICE_SYNC
    /// `limits::TO_DEVICE_SYNC_LEN`: crate::config::limits::TO_DEVICE_SYNC_LEN
    pub to_device: Vec<Box<RawValue>>,
    /// The position of the last of them, where more wait; none where that was all.
    pub to_device_until: Option<u64>,
    /// Users whose devices changed, and users with whom a room is shared that was not.
    pub device_lists: DeviceLists,
    /// What is left of the keys of the device.
    pub key_counts: KeyCounts,
}

/// Whose device lists a client has to ask for, and whose it can forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Users whose devices or cross-signing keys changed, or with whom a room is shared anew.
    pub changed: BTreeSet<OwnedUserId>,
    /// Users with whom no room is shared any more.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Tells whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// What is left of the one-time and fallback keys of a device: the value of `Row::KeyCounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyCounts {
    /// One-time keys by algorithm.
    pub one_time: BTreeMap<String, u64>,
    /// Fallback keys that nobody claimed, by algorithm: until when they count as unused, in
    /// milliseconds since 1970.
    pub unused_fallback: BTreeMap<String, u64>,
}

/// Reads whose devices changed for a user between two positions, as [`ReadSync`] tells it.
#[derive(Message, Debug)]
#[rtype(result = "Result<DeviceLists, StoreError>")]
pub struct ReadDeviceLists {
    /// Our user.
    pub user_id: OwnedUserId,
    /// After this position.
    pub from: u64,
    /// Up to this one, or the newest.
    pub to: u64,
}

impl SyncRows {
    /// Tells whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty()
            && self.invited.is_empty()
            && self.left.is_empty()
            && self.account_data.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
    }
}

/// Changes of one joined or left room.
#[derive(Debug, Clone)]
pub struct JoinedRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// New events, oldest first.
    pub timeline: Vec<StoredEvent>,
    /// Events between `since` and the timeline were left out, or are missing.
    pub limited: bool,
    /// Where `/messages` goes on backwards; none when the timeline is all there is.
    pub prev_batch: Option<Order>,
    /// State between `since` and the begin of the timeline, or its end
    /// ([`ReadSync::state_after`]).
    pub state: Vec<StoredEvent>,
    /// Room account data that changed, by type.
    pub account_data: Vec<(String, Box<RawValue>)>,
    /// Receipts that changed.
    pub receipts: Vec<Receipt>,
    /// Unread counts, threads included.
    pub unread: Unread,
    /// Those of threads, by root.
    pub unread_threads: Vec<(OwnedEventId, Unread)>,
    /// What is added to events of the timeline.
    pub bundles: Bundles,
    /// Set when members or the name changed.
    pub summary: Option<Summary>,
    /// Redaction events by id, for `redacted_because` of the events above.
    pub redactions: HashMap<OwnedEventId, StoredEvent>,
    /// The events that state events of the timeline replaced, by the id of the newer event, for
    /// `prev_content`.
    pub replaced: HashMap<OwnedEventId, StoredEvent>,
}

/// Unread counts of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Events that notify.
    pub notifications: u64,
    /// Events that mention the user.
    pub highlights: u64,
}

/// Who is in a room (`summary` of `/sync`).
#[derive(Debug, Clone)]
pub struct Summary {
    /// Up to 5 others to name the room after; empty where it has a name.
    pub heroes: Vec<OwnedUserId>,
    /// Joined members.
    pub joined: u64,
    /// Invited members.
    pub invited: u64,
}

/// A new invite.
#[derive(Debug, Clone)]
pub struct InvitedRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Stripped state events.
    pub stripped_state: Vec<Box<RawValue>>,
}

/// A receipt: stored with `Row::Receipt`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// Who read.
    pub user_id: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub receipt_type: String,
    /// Up to where.
    pub event_id: OwnedEventId,
    /// `main`, a thread root, or none.
    pub thread_id: Option<String>,
    /// When, in milliseconds.
    pub ts: u64,
}

/// Asks for the watch of the durable stream position: it changes after each durable write that a
/// `/sync` can show. It closes with the Store, and when the disk failed.
#[derive(Message, Debug)]
#[rtype(result = "watch::Receiver<u64>")]
pub struct WatchStream;
