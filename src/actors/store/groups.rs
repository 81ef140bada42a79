//! State groups: the state after an event, as changes against an older group.
//!
//! Invariants: a group is never changed; from any group, [`limits::GROUP_CHAIN`] steps lead to a
//! full snapshot, so that a read costs no more the older a room gets.

use std::collections::HashMap;

use ruma::OwnedEventId;

use super::{
    NewGroup, StoreError,
    database::{Rows, WriteSet},
    schema::{Hash, Key, Parts, event_id_of, family, hash_to_store, put_changes, take_changes},
};
use crate::{config::limits, proto::pdu::StateKey};

/// A state by event hashes.
type State = HashMap<StateKey, Hash>;

/// A group as it is stored: steps to the snapshot, the parent, and the changes.
struct GroupRow {
    depth: u32,
    parent: Option<u64>,
    changes: Vec<(StateKey, Option<Hash>)>,
}

fn key(room: u32, group: u64) -> Vec<u8> {
    Key::room(family::GROUP, room).number(group).done()
}

impl GroupRow {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self.depth.to_be_bytes().to_vec();
        bytes.push(u8::from(self.parent.is_some()));
        bytes.extend_from_slice(&self.parent.unwrap_or(0).to_be_bytes());
        put_changes(&mut bytes, &self.changes)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = Parts(bytes);
        let depth = parts.room()?;
        let has_parent = parts.byte()? != 0;
        let parent = parts.number().filter(|_| has_parent);
        Some(Self { depth, parent, changes: take_changes(parts)? })
    }

    fn read(rows: &impl Rows, room: u32, group: u64) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = rows.get_long(&key(room, group))? else {
            return Ok(None);
        };
        Self::decode(&bytes).map(Some).ok_or(StoreError::Corrupt { what: "state group" })
    }
}

/// Stores a group, as changes or as a snapshot.
pub(super) fn write(
    writes: &mut WriteSet<'_>,
    room: u32,
    group: &NewGroup,
) -> Result<(), StoreError> {
    let mut changes = Vec::with_capacity(group.changes.len());
    for (place, event_id) in &group.changes {
        let hash = event_id.as_deref().map(hash_to_store).transpose()?;
        changes.push((place.clone(), hash));
    }
    let missing = StoreError::Corrupt { what: "state group" };
    let depth = match group.parent {
        None => 0,
        Some(parent) => {
            let parent = GroupRow::read(writes, room, parent)?.ok_or(missing)?;
            parent.depth.saturating_add(1)
        }
    };
    let row = match group.parent.filter(|_| depth >= limits::GROUP_CHAIN) {
        None => GroupRow { depth, parent: group.parent, changes },
        Some(parent) => {
            let mut state = read(writes, room, parent)?;
            apply(&mut state, changes);
            let changes = state.into_iter().map(|(place, hash)| (place, Some(hash))).collect();
            GroupRow { depth: 0, parent: None, changes }
        }
    };
    writes.put_long(&key(room, group.id), &row.encode()?)
}

fn apply(state: &mut State, changes: Vec<(StateKey, Option<Hash>)>) {
    for (place, hash) in changes {
        match hash {
            Some(hash) => state.insert(place, hash),
            None => state.remove(&place),
        };
    }
}

/// Reads the state of a group.
pub(super) fn read(rows: &impl Rows, room: u32, group: u64) -> Result<State, StoreError> {
    let mut chain = Vec::new();
    let mut next = Some(group);
    while let Some(group) = next {
        let row = GroupRow::read(rows, room, group)?;
        let row = row.ok_or(StoreError::Corrupt { what: "state group" })?;
        next = row.parent;
        chain.push(row.changes);
    }
    let mut state = State::new();
    while let Some(changes) = chain.pop() {
        apply(&mut state, changes);
    }
    Ok(state)
}

/// Answers [`super::LoadState`].
pub(super) fn load(
    rows: &impl Rows,
    room: u32,
    group: u64,
) -> Result<HashMap<StateKey, OwnedEventId>, StoreError> {
    let state = read(rows, room, group)?;
    Ok(state.into_iter().map(|(place, hash)| (place, event_id_of(&hash))).collect())
}
