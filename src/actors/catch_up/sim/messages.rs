//! What simulated nodes say to each other.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedServerName};

use crate::{
    actors::room::machine::GivenState,
    proto::heads::{Gap, MissingIds},
};

/// Event ids that go to many.
pub(super) type Ids = Arc<Vec<OwnedEventId>>;

/// What is told to all.
#[derive(Debug, Clone)]
pub(super) enum Gossip {
    Said(OwnedEventId),
    Heads(Ids),
}

/// The same in its envelope.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) origin: usize,
    /// The same for all who get it.
    pub(super) number: u64,
    /// When it was signed, by the clock of its origin.
    pub(super) ts: u64,
    pub(super) gossip: Gossip,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Gossip(Envelope),
    /// Compare heads: those of the asker.
    Compare(Ids),
    Heads(Ids),
    Request(u64, Request),
    Answer(u64, Answer),
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    /// Ids of what is missing.
    Ids(Gap),
    /// Events by id.
    Events(Ids),
    /// Events before some.
    Before { latest: Vec<OwnedEventId>, earliest: Vec<OwnedEventId> },
    /// The state before an event.
    State(OwnedEventId),
    /// What was owed.
    Owed(Vec<String>),
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Ids(MissingIds),
    /// Events, and whether there was no place for more.
    Events(Vec<OwnedEventId>, bool),
    State(Arc<GivenState>),
    Status(u16),
}

/// What a node asked, and waits for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Ids(usize),
    Events(usize),
    /// A head that is not here.
    Head(usize),
    /// The ancestors of an event that waits.
    Before(usize, OwnedEventId),
    /// The state before the second, for the sake of the first.
    State(OwnedEventId, OwnedEventId),
    /// What is missing before an event; and who is asked next.
    History(Vec<usize>),
    Owed(OwnedServerName),
}
