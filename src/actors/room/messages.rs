//! What a Room is asked, always through RoomState: `ToRoom { room_id, message }`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use actix::Message;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::keys::Given;
use crate::{
    actors::{
        admission::Permit,
        error::AskError,
        outbox::OutboxError,
        store::{
            Bundles, ClientTxn, Direction, ReadRelated, ReadThreads, RelatedPage, StoreError,
            StoredEvent,
        },
        upward::{FederationError, TransactionVerdict},
    },
    proto::{
        ProtoError,
        pdu::{Draft, Pdu},
        room_key::{KeyId, RoomKey},
        server_keys::VerifiedServerKeys,
        stream::Order,
    },
};

/// Why a Room refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RoomError {
    /// Nothing is known of the room, or who asks may not know of it.
    #[error("no such room, or you are not in it")]
    NotFound,
    /// Nobody of this server is called that.
    #[error("there is no user {0} on this server")]
    NoSuchUser(OwnedUserId),
    /// The event, or the event type in the state, is not there.
    #[error("no such event")]
    EventNotFound,
    /// The auth rules do not allow it.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// Something of ours is broken: a computation panicked, or what we made cannot be written.
    #[error("internal error: {0}")]
    Internal(String),
    /// The room version is not one that this server takes part in.
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// Who asks has said the same of the event already.
    #[error("you have this reaction to the event already")]
    DuplicateAnnotation,
    /// There is no place for it.
    #[error("too many {0}")]
    Full(&'static str),
    /// The event is malformed or too large.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// People who were to be invited to a new room.
    #[error("{outcome}: {} could not be invited: {why}", names(users))]
    NotInvited {
        /// Who.
        users: Vec<OwnedUserId>,
        /// Whether there is a room now.
        outcome: &'static str,
        /// Why the first one was not.
        why: Box<RoomError>,
    },
    /// No other server could be asked, or all refused.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// What another server has to get could not be kept for it.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The room restarted, or is overloaded.
    #[error(transparent)]
    Ask(#[from] AskError),
}

fn names(users: &[OwnedUserId]) -> String {
    users.iter().map(|user| user.as_str()).collect::<Vec<_>>().join(", ")
}

impl RoomError {
    /// Tells whether another server was not reached at all, or not in time.
    pub fn is_unreachable(&self) -> bool {
        use FederationError::{Offline, TimedOut, Unreachable};
        matches!(self, Self::Federation(Unreachable(_) | TimedOut(_) | Offline))
    }

    /// Makes the error for a fault of ours.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::Internal(why.to_string())
    }
}

// ---------------------------------------------------------------- from http: changes

/// Asks the room to send an event of a user of ours. Answered when it is on disk.
#[derive(Message, Debug)]
#[rtype(result = "Result<OwnedEventId, RoomError>")]
pub struct SendEvent {
    /// Who sends it.
    pub by: OwnedUserId,
    /// The event type.
    pub kind: TimelineEventType,
    /// Set for a state event.
    pub state_key: Option<String>,
    /// The content.
    pub content: CanonicalJsonObject,
    /// Set for a redaction.
    pub redacts: Option<OwnedEventId>,
    /// The transaction of the client: the same one answers the same event id.
    pub txn: Option<ClientTxn>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// What a user of ours does to somebody else's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// Invites him.
    Invite,
    /// Shows out who is in the room, or takes back an invite or refuses a knock.
    Kick,
    /// Keeps him out.
    Ban,
    /// Ends a ban.
    Unban,
}

/// Asks the room to change somebody's membership.
/// An invite of a user on another server is handed to that server first where it is there, and may be
/// refused by it; otherwise the Outbox owes it.
#[derive(Message, Debug)]
#[rtype(result = "Result<OwnedEventId, RoomError>")]
pub struct ChangeMembership {
    /// Who does it.
    pub by: OwnedUserId,
    /// Whose.
    pub user_id: OwnedUserId,
    /// What becomes of it.
    pub change: MemberChange,
    /// Shown to people.
    pub reason: Option<String>,
    /// Mark of a direct chat (`is_direct` of an invite).
    pub is_direct: bool,
    /// Of an invite: whether the invited server is there, where that was found out already.
    pub invitee: Option<Invitee>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Who is to be invited.
#[derive(Debug, Clone)]
pub enum Invitee {
    /// His server is there, and this is what it says of him.
    There(ShownAs),
    /// His server is off, or takes too long.
    Away,
    /// His server says that there is nobody of that name.
    Nobody,
}

/// Asks the room to let a user of ours join, through another server where that is needed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct Join {
    /// Who does it.
    pub by: OwnedUserId,
    /// Servers to ask; the inviter's and known members' are tried too.
    pub via: Vec<OwnedServerName>,
    /// Shown to people.
    pub reason: Option<String>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks the room to let a user of ours leave, or refuse an invite. Works without the other servers.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct Leave {
    /// Who does it.
    pub by: OwnedUserId,
    /// Shown to people.
    pub reason: Option<String>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// How somebody is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShownAs {
    /// The name.
    pub displayname: Option<String>,
    /// The picture.
    pub avatar_url: Option<String>,
}

/// The people of this node, as they are shown.
pub type People = HashMap<OwnedUserId, ShownAs>;

/// Tells the room that the profile of a user of ours changed; it sends a new membership event.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ProfileChanged(pub OwnedUserId);

/// Tells the room that a user of ours types, or stopped.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct SetTyping {
    /// Who does it.
    pub by: OwnedUserId,
    /// How long, in milliseconds; none: stopped.
    pub timeout_ms: Option<u64>,
}

/// Tells the room how far a user of ours has read.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct SetReceipt {
    /// Who does it.
    pub by: OwnedUserId,
    /// `m.read` (told to others) or `m.read.private`.
    pub receipt_type: String,
    /// Up to where.
    pub event_id: OwnedEventId,
    /// `main`, a thread root, or none.
    pub thread_id: Option<String>,
}

// ---------------------------------------------------------------- from http: reads

/// Asks for the state that a user of ours may see: the current one while joined, the one at the leave
/// after it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<StoredEvent>, RoomError>")]
pub struct ReadState {
    /// Who asks.
    pub by: OwnedUserId,
    /// Only this place; none: all of it.
    pub wanted: Option<(String, String)>,
}

/// Asks for membership events that a user of ours may see, filtered.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<StoredEvent>, RoomError>")]
pub struct ReadMembers {
    /// Who asks.
    pub by: OwnedUserId,
    /// Only this membership.
    pub membership: Option<MembershipState>,
    /// Not this membership.
    pub not_membership: Option<MembershipState>,
    /// The state at this place of the timeline (`at`), instead of the current one.
    pub at: Option<Order>,
}

/// Asks for a page of history. Backwards, what is not here is fetched from other members.
#[derive(Message, Debug)]
#[rtype(result = "Result<Page, RoomError>")]
pub struct ReadMessages {
    /// Who asks.
    pub by: OwnedUserId,
    /// As `ReadTimeline::from`.
    pub from: Option<Order>,
    /// As `ReadTimeline::to`.
    pub to: Option<Order>,
    /// Which way.
    pub direction: Direction,
    /// Most events.
    pub limit: usize,
}

/// A page of history.
#[derive(Debug)]
pub struct Page {
    /// Events that he may see, in the direction asked for.
    pub events: Vec<StoredEvent>,
    /// Where the page begins.
    pub start: Order,
    /// Where the next page begins; none at the end.
    pub next: Option<Order>,
    /// Redaction events by id.
    pub redactions: HashMap<OwnedEventId, StoredEvent>,
    /// Membership events of the senders, for lazy loading.
    pub members: Vec<StoredEvent>,
    /// What is added to events.
    pub bundles: Bundles,
}

/// Asks for a page of events that relate to one that a user of ours may see. The room, and up to
/// where the reader sees it, are the room's to say.
#[derive(Message, Debug)]
#[rtype(result = "Result<RelatedPage, RoomError>")]
pub struct ReadRelations(pub ReadRelated);

/// Asks for a page of the threads that a user of ours may see.
#[derive(Message, Debug)]
#[rtype(result = "Result<RelatedPage, RoomError>")]
pub struct ReadThreadList(pub ReadThreads);

/// Asks for one event that a user of ours may see, with events around it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Context, RoomError>")]
pub struct ReadContext {
    /// Who asks.
    pub by: OwnedUserId,
    /// The event.
    pub event_id: OwnedEventId,
    /// Most events around it, before and after taken together; 0 for the event alone.
    pub limit: usize,
    /// Leave members out of the state who sent none of these events.
    pub lazy_load_members: bool,
}

/// An event with its surroundings.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: StoredEvent,
    /// Before it, newest first.
    pub before: Vec<StoredEvent>,
    /// After it, oldest first.
    pub after: Vec<StoredEvent>,
    /// Token for what is before `before`.
    pub start: Order,
    /// Token for what is after `after`.
    pub end: Order,
    /// State at the last event.
    pub state: Vec<StoredEvent>,
    /// Redaction events by id.
    pub redactions: HashMap<OwnedEventId, StoredEvent>,
    /// What is added to events.
    pub bundles: Bundles,
}

// ---------------------------------------------------------------- from RoomState, and itself

/// Publishes PDUs and EDUs in the room, sealed for those who have joined. Answered when Gossip has
/// them, or nobody is there to hear them.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Publish {
    /// PDUs with their `server_keys`.
    pub pdus: Vec<Box<RawValue>>,
    /// EDUs.
    pub edus: Vec<Box<RawValue>>,
    /// Seals it instead: with what those can open who leave by it.
    pub(super) farewell: Option<RoomKey>,
}

impl Publish {
    /// Makes a publication for those who have joined.
    pub fn new(pdus: Vec<Box<RawValue>>, edus: Vec<Box<RawValue>>) -> Self {
        Self { pdus, edus, farewell: None }
    }
}

/// Asks for a key that a gossip message is sealed with.
#[derive(Message, Debug)]
#[rtype(result = "Option<RoomKey>")]
pub struct FindKey {
    /// Which.
    pub id: KeyId,
    /// The server whose node handed the message on.
    pub from: OwnedServerName,
}

// ---------------------------------------------------------------- from Federation

/// A transaction of another server: PDUs and EDUs of this room.
///
/// What was gossiped is answered as soon as it is known whether the transaction may be handed on:
/// every PDU is well formed, signed by the key of its server_keys, and its sender's server is joined.
/// Auth rules and disk come after that answer; what came by a request is answered after them. What is
/// fetched (missing events, whole copies) comes after either.
#[derive(Message, Debug)]
#[rtype(result = "TransactionVerdict")]
pub struct IngestTransaction {
    /// The server that signed the transaction.
    pub origin: OwnedServerName,
    /// PDUs with their `server_keys`.
    pub pdus: Vec<Box<RawValue>>,
    /// EDUs of the origin's own users.
    pub edus: Vec<Box<RawValue>>,
    /// What is besides where it came by gossip, and not by a request to this server alone.
    pub gossiped: Option<Gossiped>,
}

/// What comes with a transaction that was gossiped.
#[derive(Debug)]
pub struct Gossiped {
    /// The server_keys of its origin: they are those of PDUs that have none.
    pub server_keys: Arc<VerifiedServerKeys>,
    /// Place in the work budget, held until all is ingested; that of a request is held by whoever
    /// answers it.
    pub permit: Permit,
}

/// A request of another server about this room, verified and fresh (`docs/PROTOCOL.md` §4).
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, RoomError>")]
pub struct RoomRequest {
    /// Who asks.
    pub origin: OwnedServerName,
    /// What.
    pub query: RoomQuery,
    /// Place in the work budget.
    pub permit: Permit,
}

/// The requests that a room answers, as in the Server-Server API.
#[derive(Debug)]
pub enum RoomQuery {
    /// `make_join`: a template for the user's join event.
    MakeJoin {
        /// Who wants to join; of the origin's server.
        user_id: OwnedUserId,
        /// Versions that the origin supports.
        versions: Vec<RoomVersionId>,
    },
    /// `send_join`: the signed join event; answered with state and auth chain.
    SendJoin {
        /// Id in the path.
        event_id: OwnedEventId,
        /// The event.
        pdu: Box<RawValue>,
    },
    /// `make_leave`.
    MakeLeave {
        /// Who wants to leave.
        user_id: OwnedUserId,
    },
    /// `send_leave`.
    SendLeave {
        /// Id in the path.
        event_id: OwnedEventId,
        /// The event.
        pdu: Box<RawValue>,
    },
    /// `invite` v2: an invite for a user of ours.
    Invite {
        /// Who is invited.
        user_id: OwnedUserId,
        /// Id in the path.
        event_id: OwnedEventId,
        /// The event.
        pdu: Box<RawValue>,
        /// The room version that the inviter claims.
        version: RoomVersionId,
        /// Stripped state, untrusted: shown, never acted on.
        stripped_state: Vec<Box<RawValue>>,
        /// Servers that can let him in beside the inviter's.
        via: Vec<OwnedServerName>,
    },
    /// `backfill`.
    Backfill {
        /// Where to begin.
        from: Vec<OwnedEventId>,
        /// Most events.
        limit: usize,
    },
    /// `get_missing_events`.
    MissingEvents {
        /// What the origin has.
        earliest: Vec<OwnedEventId>,
        /// What it wants the ancestors of.
        latest: Vec<OwnedEventId>,
        /// Most events.
        limit: usize,
    },
    /// `event`.
    Event {
        /// Which.
        event_id: OwnedEventId,
    },
    /// `state_ids` before an event.
    StateIds {
        /// Which.
        event_id: OwnedEventId,
    },
    /// `state` before an event.
    State {
        /// Which.
        event_id: OwnedEventId,
    },
    /// `event_auth`.
    EventAuth {
        /// Which.
        event_id: OwnedEventId,
    },
    /// Our own `room_keys` request: the origin hands over keys of the room.
    TakeKeys {
        /// The keys.
        keys: Vec<Given>,
    },
    /// Our own `room_keys/query` request: the origin asks for keys of the room.
    FindKeys {
        /// Which; none: those that seal now.
        ids: Vec<KeyId>,
    },
}

impl RoomQuery {
    /// Tells whether the request may come before the origin's server has joined.
    pub fn open_to_strangers(&self) -> bool {
        matches!(
            self,
            Self::MakeJoin { .. }
                | Self::SendJoin { .. }
                | Self::MakeLeave { .. }
                | Self::SendLeave { .. }
                | Self::Invite { .. }
        )
    }
}

/// Has the room fetch what it lacks of a member's server. Answered when that is done, or failed.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<(), RoomError>")]
pub struct FollowHeads {
    /// Whose.
    pub server_name: OwnedServerName,
    /// Its forward extremities.
    pub extremities: Vec<OwnedEventId>,
}

/// Has the room fetch some of what is missing before an event, from any member. Answered with whether
/// any came.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<bool, RoomError>")]
pub struct FetchHistory {
    /// The event.
    pub before: OwnedEventId,
}

/// Events that a member's server gave of what is missing here. Answered when they are taken in as
/// far as they can be; what they miss is not fetched.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct TakeMissing {
    /// Who gave them.
    pub server_name: OwnedServerName,
    /// As they came.
    pub pdus: Vec<Box<RawValue>>,
}

/// An event by which a user of ours is out of the room, or not invited any more, as a member's server sees
/// it. Answered when that is so here too, or it is refused.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct TakeDeparture {
    /// Who told it.
    pub server_name: OwnedServerName,
    /// The event.
    pub pdu: Box<RawValue>,
}

// ---------------------------------------------------------------- from RoomState

/// Makes the room: its create event was composed by RoomState, since it can name the room.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct CreateInRoom {
    /// Who makes it.
    pub by: OwnedUserId,
    /// The version.
    pub version: RoomVersionId,
    /// The create event.
    pub create: Box<Pdu>,
    /// Events that follow our join.
    pub drafts: Vec<Draft>,
}

/// Forgets a room that a user of ours has left.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), RoomError>")]
pub struct Forget(pub OwnedUserId);

/// Tells the room that it is not needed: it ends once its work is done, unless asked again.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;

// ---------------------------------------------------------------- to RoomState

/// Told by a Room: a member's server announced forward extremities, of which these are not known.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct HeadsHeard {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Who announced them.
    pub server_name: OwnedServerName,
    /// Those that are not known, at most [`crate::config::limits::HEADS`].
    pub extremities: Vec<OwnedEventId>,
}

/// Told by a Room after a commit: something was said by a user of ours that others are to have.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Said(pub OwnedRoomId);

/// Told by a Room after a commit that changed what RoomState indexes.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Advanced {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// What users of ours are in it, as far as that changed.
    pub memberships: Vec<(OwnedUserId, MembershipState)>,
    /// Servers with a joined user, if they changed.
    pub servers: Option<Vec<OwnedServerName>>,
    /// Whether anybody may come in, if that changed.
    pub public: Option<bool>,
    /// Of new invites: who can be asked about them.
    pub via: Vec<OwnedServerName>,
}

impl Advanced {
    /// Tells whether there is nothing to index.
    pub fn is_nothing(&self) -> bool {
        self.memberships.is_empty() && self.servers.is_none() && self.public.is_none()
    }
}

/// Servers that are reached through others, as rooms are told of them.
pub type Carried = Arc<HashSet<OwnedServerName>>;
