//! The heads of a room in short, so that two nodes can compare a thousand rooms in some messages
//! (`docs/PROTOCOL.md` §5).

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::config::limits;

/// Bytes of a fingerprint. Whoever finds two sets with the same one makes a room that both know look
/// whole until its next event, and nothing more.
const LEN: usize = 16;

/// What one server lacks of a room that another one has: the events from `latest_events` backwards,
/// these included, down to what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What it has: its forward extremities, and some events behind them ([`LANDMARKS`]).
    pub earliest_events: Vec<OwnedEventId>,
    /// What it lacks: heads of the other one.
    pub latest_events: Vec<OwnedEventId>,
}

/// How many events before the end of the timeline the other events of [`Gap::earliest_events`] are: the
/// next ones are each twice as far behind, by the position at which they came, and the last one
/// is the first of all. Where both sides went on, neither knows the other's extremities, and what both
/// know is behind them: so at most as much again is named needlessly as was said on the own side.
pub const LANDMARKS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Landmarks that are each twice as far behind as the one before: room for 100,000 events and more.
pub const LANDMARKS_FAR: usize = 13;

/// What one server lacks of a room, named by who has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingIds {
    /// The events, parents first; the first part of them where they are many.
    pub ids: Vec<OwnedEventId>,
    /// There are more after these.
    pub more: bool,
}

/// Returns the fingerprint of the forward extremities of a room, in whatever order they come.
pub fn fingerprint(extremities: &[OwnedEventId]) -> String {
    let mut sorted: Vec<&str> = extremities.iter().map(|id| id.as_str()).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut hash = Sha256::new();
    for id in sorted {
        hash.update(id.as_bytes());
        // No event id has one, so ids cannot run into each other.
        hash.update(b"\n");
    }
    let digest = hash.finalize();
    URL_SAFE_NO_PAD.encode(digest.get(..LEN).unwrap_or_default())
}

/// What a comparison of heads tells the other server; its answer on the wire.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ComparedHeads {
    /// Our heads, at most [`crate::config::limits::HEADS`] a room, of the rooms that both users have
    /// joined and in which the heads differ.
    pub rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    /// How many of the rooms that both users have joined have the same heads; none of the first release
    /// says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same: Option<usize>,
    /// When the newest key bundle of ours was signed ([`super::key_bundle`]), where a room is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_ts: Option<u64>,
    /// Rooms in which no user of the other server is any more: an event by which one of them is out,
    /// which they may have missed.
    #[serde(default)]
    pub left: BTreeMap<OwnedRoomId, Box<RawValue>>,
    /// The same of its other users.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also_left: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

impl ComparedHeads {
    /// Returns the events by which users of ours are out of a room, as many as are looked at.
    pub fn left_in(&mut self, room_id: &OwnedRoomId) -> Vec<Box<RawValue>> {
        let others = self.also_left.remove(room_id).into_iter().flatten();
        let all = self.left.remove(room_id).into_iter().chain(others);
        all.take(limits::ROOM_USERS_OF_SERVER).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;

    use super::*;

    #[test]
    fn the_same_heads_have_the_same_fingerprint() {
        let (one, two) = (owned_event_id!("$one"), owned_event_id!("$two"));
        let both = fingerprint(&[one.clone(), two.clone()]);
        assert_eq!(both, fingerprint(&[two.clone(), one.clone(), one.clone()]));
        assert_eq!(both.len(), 22);
        assert_ne!(both, fingerprint(std::slice::from_ref(&one)));
        assert_ne!(both, fingerprint(&[owned_event_id!("$onetwo")]));
        // The vector of `docs/PROTOCOL.md`.
        assert_eq!(both, "A0oWNh8qp5z3buyjwZu_JQ");
    }
}
