//! What Meeting is asked.

use std::collections::BTreeMap;

use actix::Message;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::value::RawValue;

use crate::{
    actors::{
        admission::Permit,
        catch_up::{EventsAnswer, IdsAnswer},
        device_keys::KeysHeard,
        room::RoomError,
    },
    proto::heads::{ComparedHeads, Gap},
};

/// Sets who is told when another server has signed keys of its users anew. Sent once by `node.rs`.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct TellKeys(pub actix::Recipient<KeysHeard>);

/// Compares the heads of rooms with those of another server, of which fingerprints came
/// (`proto::heads`). Only rooms that our user has joined are looked at, and none is started.
#[derive(Message, Debug)]
#[rtype(result = "Result<ComparedHeads, RoomError>")]
pub struct CompareHeads {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with the fingerprint of the origin's heads.
    pub rooms: BTreeMap<OwnedRoomId, String>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for events that another server lacks. Only rooms that our user and the origin's have joined
/// are looked at, and none is started; those for which the answer has no place are left out, and
/// those whose history is not for all members have no events in it.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, RoomError>")]
pub struct FindMissing {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with what it lacks.
    pub rooms: BTreeMap<OwnedRoomId, Gap>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for the ids of what another server lacks, as [`FindMissing`] for events.
#[derive(Message, Debug)]
#[rtype(result = "Result<IdsAnswer, RoomError>")]
pub struct FindMissingIds {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with what it lacks.
    pub rooms: BTreeMap<OwnedRoomId, Gap>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks for events by id, of rooms as [`FindMissing`].
#[derive(Message, Debug)]
#[rtype(result = "Result<EventsAnswer, RoomError>")]
pub struct FindEvents {
    /// Who asks.
    pub origin: OwnedServerName,
    /// Rooms with ids.
    pub rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    /// Place in the work budget.
    pub permit: Permit,
}

/// Asks how many servers are known to have all that we have of each of some rooms: the fingerprint of our
/// heads, and the servers that are in it.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Holders>")]
pub struct CountHolders(pub Vec<(OwnedRoomId, String, Vec<OwnedServerName>)>);

/// Of one room of [`CountHolders`]: how many of its servers are known to have all of it, and how many
/// are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holders {
    /// Have what we have.
    pub have: usize,
    /// Are met, connected or through others.
    pub met: usize,
}
