//! What is read of events that relate to others.

use std::collections::{HashMap, HashSet};

use actix::Message;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use super::{Direction, StoreError, StoredEvent};
use crate::proto::stream::Order;

/// What a server adds to an event of those that relate to it (Client-Server API, "Aggregations of
/// child events").
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    /// The newest edit, by who sent the event.
    pub edit: Option<StoredEvent>,
    /// The thread that begins with it.
    pub thread: Option<Thread>,
    /// What refers to it, the first that did.
    pub references: Vec<OwnedEventId>,
}

impl Bundle {
    /// Tells whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        self.edit.is_none() && self.thread.is_none() && self.references.is_empty()
    }
}

/// A thread, as its root shows it.
#[derive(Debug, Clone)]
pub struct Thread {
    /// The last that was said in it.
    pub latest: StoredEvent,
    /// The newest edit of that.
    pub latest_edit: Option<StoredEvent>,
    /// How much was said in it.
    pub count: u64,
    /// The reader said something in it, or began it.
    pub participated: bool,
}

/// What is added to events, by event.
pub type Bundles = HashMap<OwnedEventId, Bundle>;

/// Who reads relations, and up to where.
#[derive(Debug, Clone)]
pub struct Reader {
    /// A user of ours. What people said whom the user ignores counts for nothing.
    pub user_id: OwnedUserId,
    /// The last place that the user may see; none for a member.
    pub until: Option<Order>,
}

/// Reads what is added to some events of a room.
#[derive(Message, Debug)]
#[rtype(result = "Result<BundlesRead, StoreError>")]
pub struct ReadBundles {
    /// The room.
    pub room_id: OwnedRoomId,
    /// For whom.
    pub reader: Reader,
    /// Which events.
    pub event_ids: Vec<OwnedEventId>,
}

/// What is added to events, and whom the reader ignores.
#[derive(Debug, Clone, Default)]
pub struct BundlesRead {
    /// By event.
    pub bundles: Bundles,
    /// Whose events are not shown, state aside.
    pub ignored: HashSet<OwnedUserId>,
}

/// Reads a page of the events that relate to one.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<RelatedPage>, StoreError>")]
pub struct ReadRelated {
    /// The room.
    pub room_id: OwnedRoomId,
    /// For whom.
    pub reader: Reader,
    /// What they relate to. Answered with none where that is not to be seen.
    pub event_id: OwnedEventId,
    /// Only these relations.
    pub rel_type: Option<String>,
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Also what relates to these, and so on, `RELATED_DEPTH` deep.
    pub recurse: bool,
    /// As in [`super::ReadTimeline`].
    pub from: Option<Order>,
    /// As in [`super::ReadTimeline`].
    pub to: Option<Order>,
    /// Which way.
    pub direction: Direction,
    /// Most events in the answer.
    pub limit: usize,
}

/// A page of events that relate to another, or of roots of threads.
#[derive(Debug, Clone, Default)]
pub struct RelatedPage {
    /// In the direction that was asked for.
    pub events: Vec<StoredEvent>,
    /// What is added to them.
    pub bundles: Bundles,
    /// Redactions of them, by id.
    pub redactions: HashMap<OwnedEventId, StoredEvent>,
    /// Where the next page begins; none when the end was reached.
    pub next: Option<Order>,
}

/// Reads a page of the threads of a room, that with the newest words first.
#[derive(Message, Debug)]
#[rtype(result = "Result<RelatedPage, StoreError>")]
pub struct ReadThreads {
    /// The room.
    pub room_id: OwnedRoomId,
    /// For whom.
    pub reader: Reader,
    /// Only those in which the reader said something.
    pub participated: bool,
    /// The last words are here or before.
    pub from: Option<Order>,
    /// Most threads in the answer.
    pub limit: usize,
}
