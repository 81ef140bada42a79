//! Events of ours that nobody else is known to have: found from the ends of a room's graph.
//!
//! Invariant: what is looked at is bounded by what is found, not by the room.

use std::collections::{HashSet, VecDeque};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;

use super::{
    Place, RoomEvents, Row, StoreError,
    database::{Database, Rows as _},
    events::read_event,
    rooms::{read_heads, room_number},
    rows,
    schema::{Hash, event_id_of, hash_of},
};
use crate::config::limits;

#[derive(Deserialize)]
struct Fields {
    sender: OwnedUserId,
    origin_server_ts: u64,
    prev_events: Vec<OwnedEventId>,
}

/// Answers [`super::FindUnspread`].
pub(super) fn find(
    database: &Database,
    server: &ServerName,
    since_ts: u64,
    room_ids: Vec<OwnedRoomId>,
) -> Result<RoomEvents, StoreError> {
    let mut found = Vec::new();
    for room_id in room_ids {
        let events = find_in(database, server, since_ts, &room_id)?;
        if !events.is_empty() {
            found.push((room_id, events));
        }
    }
    Ok(found)
}

/// Goes back from the heads as long as events are of `server`: who follows an event has it.
fn find_in(
    database: &Database,
    server: &ServerName,
    since_ts: u64,
    room_id: &OwnedRoomId,
) -> Result<Vec<OwnedEventId>, StoreError> {
    let corrupt = |what| move |_| StoreError::Corrupt { what };
    let Some(room) = room_number(database, room_id)? else { return Ok(Vec::new()) };
    let Some(heads) = read_heads(database, room)? else { return Ok(Vec::new()) };
    let spread = database.get(&rows::key(&Row::Spread(room_id.clone())))?;
    let spread: Vec<OwnedEventId> = match &spread {
        Some(spread) => serde_json::from_slice(spread).map_err(corrupt("spread"))?,
        None => Vec::new(),
    };
    let mut seen: HashSet<Hash> = spread.iter().filter_map(|id| hash_of(id)).collect();
    let heads = heads.extremities.iter().filter_map(|(id, ..)| hash_of(id));
    let (mut next, mut found, mut len): (VecDeque<Hash>, _, _) = (heads.collect(), Vec::new(), 0);
    while let Some(hash) = next.pop_front() {
        if found.len() >= limits::OWED_EVENTS || len >= limits::OWED_EVENTS_LEN {
            break;
        }
        if !seen.insert(hash) {
            continue;
        }
        let record = read_event(database, room, &hash)?;
        let Some(record) = record.filter(|record| record.place == Place::Live) else { continue };
        let fields: Fields = serde_json::from_str(&record.json).map_err(corrupt("event"))?;
        if fields.sender.server_name() != server || fields.origin_server_ts < since_ts {
            continue;
        }
        len += record.json.len();
        found.push((record.order, event_id_of(&hash)));
        next.extend(fields.prev_events.iter().filter_map(|id| hash_of(id)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, event_id)| event_id).collect())
}
