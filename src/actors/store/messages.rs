//! What the Store is asked. Sent by every other actor and by the http handlers.
//!
//! Writes are answered when they are safe from a power cut ([`CommitRoom`], [`WriteRows`]); reads
//! see every write that was applied, and [`ReadSync`] only what is durable. No sled type and no
//! key layout shows here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use actix::Message;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::proto::{
    annotation::Annotation,
    heads::{Gap, MissingIds},
    pdu::{Pdu, StateKey},
    stream::Order,
};

/// What went wrong in the Store. The node stops taking writes after a failed one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refused a write or a flush; the node ends.
    #[error("{file}: {why}; free or repair the disk, then start again")]
    Disk {
        /// File or folder.
        file: String,
        /// What the system said.
        why: String,
    },
    /// A value is over the limit of one row (100 KiB).
    #[error("a value of {0} bytes is too large to store")]
    TooLarge(usize),
    /// What was read cannot be understood.
    #[error("the database holds an unreadable {what} row: run with an older backup")]
    Corrupt {
        /// Which rows.
        what: &'static str,
    },
    /// Another process has the data folder.
    #[error(
        "the data folder {folder} is in use by another messagehub; stop it or choose another with \
         --data"
    )]
    InUse {
        /// The data folder.
        folder: String,
    },
    /// The database was written by a program that is newer than this one.
    #[error(
        "the database {folder} was written by a newer messagehub (layout {found}, this one knows \
         {known}); start that version, or choose another data folder with --data"
    )]
    NewerSchema {
        /// The database.
        folder: String,
        /// Its layout.
        found: u32,
        /// The newest layout that is understood.
        known: u32,
    },
    /// The database was damaged from outside.
    #[error(
        "the database {folder} is damaged ({why}); restore the data folder from a backup, or \
         choose another one with --data"
    )]
    Damaged {
        /// The database.
        folder: String,
        /// What is wrong.
        why: String,
    },
    /// The disk has no room left.
    #[error("the disk of {folder} is full: make room and start again; the data is whole")]
    DiskFull {
        /// The database.
        folder: String,
    },
    /// Something else says that there was a database.
    #[error(
        "the database {db} is missing or empty, though {witness} is there; restore the data \
         folder from a backup, or choose another one with --data to begin as a new user"
    )]
    DatabaseLost {
        /// The database.
        db: String,
        /// The file that says so.
        witness: String,
    },
    /// The database is older than it was once.
    #[error(
        "the database {db} lacks the newest of what was in it (it ends at {found}, not {known}); \
         restore the data folder from a backup, or go on with what is left by writing the word \
         adopt into {mark}"
    )]
    DatabaseOlder {
        /// The database.
        db: String,
        /// Its last position.
        found: u64,
        /// The last position that it had.
        known: u64,
        /// The file that says so.
        mark: String,
    },
    /// The file that says how far the database got cannot be read.
    #[error(
        "{mark} is missing or damaged, so nobody can tell whether the database beside it is whole; \
         restore the data folder from a backup, or go on by writing the word adopt into {mark}"
    )]
    MarkLost {
        /// The file.
        mark: String,
    },
    /// The keys are gone and the database is not.
    #[error(
        "{keys} is missing, though the database {db} belongs to {owner}; restore it from a backup, \
         or choose another data folder with --data to begin as a new user"
    )]
    KeysLost {
        /// The key file.
        keys: String,
        /// The database.
        db: String,
        /// Whose it is.
        owner: OwnedServerName,
    },
    /// Keys and database are of two servers.
    #[error(
        "{keys} belongs to {found}, and the database {db} to {owner}; put back the one that is \
         wrong, or choose another data folder with --data"
    )]
    ForeignKeys {
        /// The key file.
        keys: String,
        /// Whose it is.
        found: OwnedServerName,
        /// The database.
        db: String,
        /// Whose it is.
        owner: OwnedServerName,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

// ---------------------------------------------------------------- rooms: written by Room

/// How an event stands in its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the timeline, as the newest event: gets the next stream position.
    Live,
    /// In the timeline, before what follows it: gets a place between two positions.
    Backfilled,
    /// Known, but outside of the timeline (auth events, the state of a join answer).
    Outlier,
    /// Passed against its own state, not against the current one: not shown.
    SoftFailed,
    /// Failed the auth rules: never in state or timeline.
    Rejected,
}

/// The endpoint that a client's transaction id counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TxnEndpoint {
    /// `PUT send`.
    Send,
    /// `PUT redact`.
    Redact,
}

/// The id that a client gave to its request. It counts for one device of one user, and one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientTxn {
    /// The device that sent it.
    pub device_id: String,
    /// Where.
    pub endpoint: TxnEndpoint,
    /// The `txnId` of the path.
    pub txn_id: String,
}

/// One event to be stored. Storing an event id again replaces place, group and JSON.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// How it stands.
    pub place: Place,
    /// The state group after the event; none for outliers.
    pub state_group: Option<u64>,
    /// This copy was changed on its way (`proto::pdu::Received::spoilt`).
    pub spoilt: bool,
    /// Set on events that a client of ours sent.
    pub txn: Option<ClientTxn>,
    /// Those of our users of whom the push rules say that they are notified.
    pub notify: Vec<(OwnedUserId, Notify)>,
}

/// How an event counts as unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// It mentions the user.
    pub highlight: bool,
}

/// A state group: a room state as changes against another one. Numbered by the room.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Its number, unique in the room.
    pub id: u64,
    /// The group it changes; none for a first one, whose changes are the whole state.
    pub parent: Option<u64>,
    /// New values; `None` removes the place.
    pub changes: Vec<(StateKey, Option<OwnedEventId>)>,
}

/// A forward extremity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extremity {
    /// The event that nothing follows yet.
    pub event_id: OwnedEventId,
    /// Its depth.
    pub depth: u64,
    /// The state group after it.
    pub state_group: u64,
}

/// A backward extremity: an event that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackwardExtremity {
    /// The event.
    pub event_id: OwnedEventId,
    /// The events of the timeline that follow it.
    pub followed_by: Vec<OwnedEventId>,
}

/// The front of the event graph after a commit.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Forward extremities.
    pub extremities: Vec<Extremity>,
    /// The resolved state of all of them.
    pub current_group: u64,
    /// The next free state group number.
    pub next_group: u64,
}

/// The redaction of an event.
#[derive(Debug, Clone)]
pub enum Redaction {
    /// It applies.
    Applies {
        /// The redaction event.
        because: OwnedEventId,
        /// The target as it is from now on.
        redacted: Arc<Pdu>,
    },
    /// The target is not here: which events redact it, as far as they may, is kept and reported by
    /// [`LoadEvents`].
    Waits {
        /// What is redacted.
        target: OwnedEventId,
        /// The redaction events, all of them.
        because: Vec<OwnedEventId>,
    },
}

/// The membership of one of our users, as `/sync` shows it.
#[derive(Debug, Clone)]
pub struct OwnMembership {
    /// join, invite, leave, ban, knock.
    pub membership: MembershipState,
    /// The membership event; none for an invite that was refused without anybody's help.
    pub event_id: Option<OwnedEventId>,
    /// Of an invite: what [`LoadRoom`] gives back and `/sync` shows.
    pub invite: Option<InviteData>,
    /// The user has left and forgot the room: no list and no `/sync` shows it.
    pub forgotten: bool,
}

/// An invite that came from another server.
#[derive(Debug, Clone)]
pub struct InviteData {
    /// The invite event as received, with our signature.
    pub event: Arc<Pdu>,
    /// Stripped state events, each a JSON object, the invite itself included.
    pub stripped_state: Vec<Box<RawValue>>,
    /// Servers that can be asked to join, the inviter's first.
    pub via: Vec<OwnedServerName>,
}

/// One step of one room: events, groups, heads, current state and all that hangs on them, in one
/// transaction. Answered once it is durable.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<Committed, StoreError>")]
pub struct CommitRoom {
    /// The room; created by its first commit.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// Events in the order in which they count.
    pub events: Vec<NewEvent>,
    /// New state groups, parents first.
    pub groups: Vec<NewGroup>,
    /// Set when the front of the graph moved.
    pub heads: Option<Heads>,
    /// How the current state changed; logged at the position of the commit's last event.
    pub state_changes: Vec<(StateKey, Option<OwnedEventId>)>,
    /// Redactions that apply.
    pub redactions: Vec<Redaction>,
    /// The memberships of our users that changed.
    pub memberships: BTreeMap<OwnedUserId, OwnMembership>,
    /// Set when the servers with a joined user changed: all of them.
    pub servers: Option<Vec<OwnedServerName>>,
    /// Events that those of the timeline refer to and that are not here: where backfill goes on.
    /// Replaces the list when set. The list of before says where history of this commit goes.
    pub backward_extremities: Option<Vec<BackwardExtremity>>,
    /// Set when the keys of the room changed: all of them, as the room writes them. With the
    /// servers in one step, so that no crash leaves a key to those who left.
    pub room_keys: Option<Vec<u8>>,
    /// Display names and avatars of joined members that changed, for the user directory:
    /// `None` removes the user when no room is shared any more.
    pub directory: Vec<(OwnedUserId, Option<DirectoryEntry>)>,
}

impl CommitRoom {
    /// Makes a step that changes nothing yet.
    pub fn new(room_id: OwnedRoomId, version: RoomVersionId) -> Self {
        Self {
            room_id,
            version,
            events: Vec::new(),
            groups: Vec::new(),
            heads: None,
            state_changes: Vec::new(),
            redactions: Vec::new(),
            memberships: BTreeMap::new(),
            servers: None,
            backward_extremities: None,
            room_keys: None,
            directory: Vec::new(),
        }
    }
}

/// What the user directory knows of somebody from shared rooms.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DirectoryEntry {
    /// The shown name.
    pub displayname: Option<String>,
    /// The avatar, `mxc://`.
    pub avatar_url: Option<String>,
}

/// A commit that is durable.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    /// The stream position after it: a `/sync` from here does not show it again.
    pub position: u64,
}

// ---------------------------------------------------------------- rooms: read

/// Reads what a Room needs to go on. `None` where nothing is stored of the room.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<LoadedRoom>, StoreError>")]
pub struct LoadRoom {
    /// The room.
    pub room_id: OwnedRoomId,
}

/// The stored front of a room.
#[derive(Debug, Clone)]
pub struct LoadedRoom {
    /// Its version.
    pub version: RoomVersionId,
    /// Front of the graph; none for a room that we were only invited to.
    pub heads: Option<Heads>,
    /// The events of the current state.
    pub state: Vec<StoredEvent>,
    /// The memberships of our users.
    pub memberships: BTreeMap<OwnedUserId, OwnMembership>,
    /// Where backfill goes on.
    pub backward_extremities: Vec<BackwardExtremity>,
    /// The keys of the room, as they were committed.
    pub room_keys: Option<Vec<u8>>,
    /// The newest 1,000 client transactions.
    pub txns: Vec<(Option<OwnedUserId>, ClientTxn, OwnedEventId)>,
}

/// A stored event.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Canonical JSON, without `server_keys` and `unsigned`.
    pub json: Arc<str>,
    /// How it stands.
    pub place: Place,
    /// The state group after it; none for outliers and backfilled events.
    pub state_group: Option<u64>,
    /// Place in the timeline; none outside of it.
    pub order: Option<Order>,
    /// This copy was changed on its way.
    pub spoilt: bool,
    /// The transaction of the client that sent it.
    pub txn: Option<ClientTxn>,
    /// The redaction that applies to it.
    pub redacted_because: Option<OwnedEventId>,
}

/// What is known of an event id.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The event.
    Found(StoredEvent),
    /// Nothing, but redactions of it came already.
    RedactedBy(Vec<OwnedEventId>),
    /// Nothing.
    Absent,
}

/// Reads events of one room by id; the answer has their order.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<Lookup>, StoreError>")]
pub struct LoadEvents {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which events.
    pub event_ids: Vec<OwnedEventId>,
}

/// Reads the state of a state group.
#[derive(Message, Debug)]
#[rtype(result = "Result<HashMap<StateKey, OwnedEventId>, StoreError>")]
pub struct LoadState {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The group.
    pub group: u64,
}

/// Reads the events that can be reached from `roots` along auth events, roots included. Missing
/// ones are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<StoredEvent>, StoreError>")]
pub struct LoadAuthChain {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Where to begin.
    pub roots: Vec<OwnedEventId>,
}

/// Which way a timeline is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From old to new.
    Forward,
    /// From new to old.
    Backward,
}

/// Reads a page of a room's timeline.
#[derive(Message, Debug)]
#[rtype(result = "Result<TimelinePage, StoreError>")]
pub struct ReadTimeline {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Where to begin. Forward: events with a greater order. Backward: events with this order or
    /// a smaller one; none begins at the respective end.
    pub from: Option<Order>,
    /// Where to stop: forward includes this order, backward excludes it.
    pub to: Option<Order>,
    /// Go on where history is missing at the begin of the page.
    pub over_gap: bool,
    /// Which way.
    pub direction: Direction,
    /// Most events in the answer.
    pub limit: usize,
}

/// A page of a timeline. It ends where history is missing.
#[derive(Debug, Clone, Default)]
pub struct TimelinePage {
    /// In the direction that was asked for.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins; none when the end was reached.
    pub next: Option<Order>,
    /// The event before which history is missing, where the page ends there.
    pub gap: Option<OwnedEventId>,
}

/// Reads the forward extremities of rooms, started or not; those that are not known are left out.
#[derive(Message, Debug)]
#[rtype(result = "Result<RoomEvents, StoreError>")]
pub struct ReadHeads(pub Vec<OwnedRoomId>);

/// Rooms, each with ids of events.
pub type RoomEvents = Vec<(OwnedRoomId, Vec<OwnedEventId>)>;

/// Finds in each of some rooms the last events of ours that nobody followed and that no other server is
/// known to have ([`Row::Spread`]), the oldest first: [`limits::OWED_EVENTS`] and
/// [`limits::OWED_EVENTS_LEN`] at most. Rooms without any are left out.
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
/// [`limits::MISSING_EVENTS`] and [`limits::MISSING_LEN`]: rooms that are not known, or for which
/// nothing is left, are left out. Of rooms whose history is not for all members there are none.
///
/// [`limits::MISSING_EVENTS`]: crate::config::limits::MISSING_EVENTS
/// [`limits::MISSING_LEN`]: crate::config::limits::MISSING_LEN
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
pub struct UnderWay(pub(super) Box<super::missing_ids::Walk>);

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

/// Reads the events by which users of a server are out of rooms (`leave` or `ban`), started or not, within [`limits::MISSING_LEN`]: the server that is out lacks it.
///
/// [`limits::MISSING_LEN`]: crate::config::limits::MISSING_LEN
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

// ---------------------------------------------------------------- sync: read by http

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
    /// To-device messages, each a JSON object, oldest first: within [`limits::TO_DEVICE_SYNC`] and
    /// [`limits::TO_DEVICE_SYNC_LEN`].
    ///
    /// [`limits::TO_DEVICE_SYNC`]: crate::config::limits::TO_DEVICE_SYNC
    /// [`limits::TO_DEVICE_SYNC_LEN`]: crate::config::limits::TO_DEVICE_SYNC_LEN
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

/// What is left of the one-time and fallback keys of a device: the value of [`Row::KeyCounts`].
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
    /// Unread counts.
    pub unread: Unread,
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

/// A receipt: stored with [`Row::Receipt`].
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

/// Keeps a receipt unless that would take somebody back: it counts only where its event stands after
/// the one that is read already. Answered once durable.
#[derive(Message, Debug)]
#[rtype(result = "Result<ReceiptPlace, StoreError>")]
pub struct KeepReceipt {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The receipt.
    pub receipt: Receipt,
}

/// Asks whether one of our users has an annotation in a room, one that was not redacted.
#[derive(Message, Debug)]
#[rtype(result = "Result<bool, StoreError>")]
pub struct FindAnnotation {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// Which.
    pub annotation: Annotation,
}

/// Where the event of a receipt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptPlace {
    /// After what was read before: the receipt is kept.
    Ahead,
    /// There, or before it: nothing changed.
    Behind,
    /// Not in the timeline, so that nobody can tell: nothing changed.
    Unknown,
}

/// Asks for the watch of the durable stream position: it changes after each durable write that a
/// `/sync` can show. It closes with the Store, and when the disk failed.
#[derive(Message, Debug)]
#[rtype(result = "watch::Receiver<u64>")]
pub struct WatchStream;

// ---------------------------------------------------------------- rows: small things of others

/// Small rows whose value their owner encodes. The key parts are plain text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Row {
    /// Accounts: a device by its user and id.
    Device(OwnedUserId, String),
    /// Accounts: an access token by its SHA-256 in hexadecimal.
    AccessToken(String),
    /// Accounts: a user's key of the profile (`displayname`, `avatar_url`).
    Profile(OwnedUserId, String),
    /// Accounts: a user's filter by id.
    Filter(OwnedUserId, String),
    /// Accounts: a user's global account data by type. A write shows in the user's `/sync`.
    AccountData(OwnedUserId, String),
    /// Accounts: a user's room account data by room and type. A write shows in the user's `/sync`.
    RoomAccountData(OwnedUserId, OwnedRoomId, String),
    /// Accounts: a to-device message for a user's device; the Store adds the order, so two never
    /// collide, and the time. A write shows in the `/sync` of the device. See [`AckToDevice`].
    ToDevice(OwnedUserId, String),
    /// Accounts: a to-device transaction that was handled, by its sender's server, when it came
    /// (milliseconds) and the hash of its id.
    ToDeviceSeen(OwnedServerName, u64, String),
    /// Room: a receipt by room, user, type and thread; the value is a [`Receipt`] as JSON. A write
    /// shows in `/sync`; one of a user of ours lowers the user's unread counts.
    Receipt(OwnedRoomId, OwnedUserId, String, Option<String>),
    /// DeviceKeys: the device list of a user changed. Value-less; a write shows in `/sync` of whoever
    /// shares a room with the user.
    DeviceList(OwnedUserId),
    /// Identity: the newest server_keys of a server that are for the verify key of this id, as JSON.
    ServerKeys(OwnedServerName, String),
    /// Rendezvous: where a node of a server (its PeerId) was last reached, as JSON.
    Address(OwnedServerName, String),
    /// Identity: when our own server_keys were issued, as JSON.
    Issued,
    /// Outbox: what is owed to a server, by number, as JSON.
    Outbox(OwnedServerName, u64),
    /// Meeting, Outbox: the last events of ours in a room that another server has, as JSON.
    Spread(OwnedRoomId),
    /// DeviceKeys: the devices and cross-signing keys of a user, as JSON.
    KeyList(OwnedUserId),
    /// DeviceKeys: one-time and fallback keys of a user's device, as JSON.
    Keyring(OwnedUserId, String),
    /// DeviceKeys: how many of these there are; the value is [`KeyCounts`] as JSON, and every `/sync`
    /// of the device shows it.
    KeyCounts(OwnedUserId, String),
    /// DeviceKeys: what a user signed of others, as JSON.
    KeySignatures(OwnedUserId),
    /// DeviceKeys: a backup of a user's room keys, by version, as JSON.
    Backup(OwnedUserId, u64),
    /// DeviceKeys: a room key of a backup, by room and session, as JSON.
    BackedUp(OwnedUserId, u64, OwnedRoomId, String),
}

/// Which rows to scan: all of a kind, or those with the first key part given.
#[derive(Debug, Clone)]
pub enum RowKind {
    /// All devices.
    Devices,
    /// All access tokens.
    AccessTokens,
    /// The profiles of all our users.
    Profiles,
    /// All filters of a user.
    Filters(OwnedUserId),
    /// All global account data of a user.
    AccountData(OwnedUserId),
    /// All account data that a user has of a room.
    RoomAccountData(OwnedUserId, OwnedRoomId),
    /// All receipts of a room.
    Receipts(OwnedRoomId),
    /// Those of one person in a room.
    ReceiptsOf(OwnedRoomId, OwnedUserId),
    /// The to-device transactions that were handled.
    ToDeviceSeen,
    /// All server_keys.
    ServerKeys,
    /// Those of one server.
    ServerKeysOf(OwnedServerName),
    /// All addresses.
    Addresses,
    /// All that is owed to other servers.
    Outbox,
    /// The devices and keys of all users.
    KeyLists,
    /// The one-time and fallback keys of all devices of a user.
    Keyrings(OwnedUserId),
    /// All backups of a user.
    Backups(OwnedUserId),
    /// The room keys of a backup.
    BackedUp(OwnedUserId, u64),
    /// Those of one room.
    BackedUpOfRoom(OwnedUserId, u64, OwnedRoomId),
}

/// Writes rows in one transaction; `None` deletes. Answered once durable.
#[derive(Message, Debug)]
#[rtype(result = "Result<Committed, StoreError>")]
pub struct WriteRows(pub Vec<(Row, Option<Vec<u8>>)>);

/// Reads one row.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<Vec<u8>>, StoreError>")]
pub struct ReadRow(pub Row);

/// Reads rows of a kind, in key order.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(Row, Vec<u8>)>, StoreError>")]
pub struct ScanRows(pub RowKind);

/// Counts the to-device messages that wait, by the server of their sender.
#[derive(Message, Debug)]
#[rtype(result = "Result<HashMap<OwnedServerName, ToDeviceCount>, StoreError>")]
pub struct CountToDevice {
    /// What came before this time, in milliseconds, is old.
    pub old_before: u64,
}

/// The to-device messages of one server that wait: how many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToDeviceCount {
    /// All of them.
    pub all: (usize, usize),
    /// The old ones among them.
    pub old: (usize, usize),
}

/// Deletes the to-device messages of some servers that came before a time, whatever device they wait
/// for. Not made durable on its own: what comes back is deleted again.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct DropToDevice {
    /// The servers of their senders.
    pub of: HashSet<OwnedServerName>,
    /// In milliseconds.
    pub before: u64,
}

/// Deletes the to-device messages of a device up to a position that it has synced from: they
/// arrived. Not answered before it is applied, and not made durable on its own: a message that
/// comes twice does no harm.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct AckToDevice {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: String,
    /// The `since` of its request.
    pub position: u64,
}

// ---------------------------------------------------------------- life: node.rs

/// Writes down whose database it is, at the first login ever. Answered once durable.
#[derive(Message, Debug)]
#[rtype(result = "Result<Committed, StoreError>")]
pub struct NameOwner(pub OwnedServerName);

/// Flushes everything and refuses what comes after. The last message of a node.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Close;
