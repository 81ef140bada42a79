//! What a room commits, and what it reads of itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use actix::Message;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::{Receipt, StoreError};
use crate::proto::{
    annotation::Annotation,
    pdu::{Pdu, StateKey},
    stream::Order,
};

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

/// How an event notifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// It mentions the user.
    pub highlight: bool,
    /// What the push rules say is to be done, as JSON.
    pub actions: String,
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
    /// How it notifies who is invited, where nothing waited for an answer before. It is not given back.
    pub notify: Option<Notify>,
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
