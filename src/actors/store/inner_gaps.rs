//! Where history is missing in the middle: a room that went on behind a gap, when too much was missing to
//! fetch it at once.
//!
//! What is older than the first event that came live is no such gap: it was said before we came, and is
//! fetched when somebody reads it.

use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use super::{
    GapsFound, StoreError,
    database::Database,
    events::read_event,
    rooms::{RoomInfo, backward_key, read_backward, room_number},
    schema::{Parts, family, hash_of},
    timeline,
};
use crate::{config::limits, proto::stream::Order};

/// Answers [`super::FindGaps`].
pub(super) fn look(database: &Database, after: Option<&RoomId>) -> Result<GapsFound, StoreError> {
    let after = after.map(|room_id| room_number(database, room_id)).transpose()?.flatten();
    let from = match after {
        Some(room) => backward_key(room.saturating_add(1)),
        None => vec![family::BACKWARD],
    };
    let mut found = GapsFound::default();
    let rows = database.scan_long(from, vec![family::BACKWARD + 1]);
    let mut last: Option<OwnedRoomId> = None;
    for (number, row) in rows.enumerate() {
        if number >= limits::GAPS_LOOK {
            found.last = last;
            break;
        }
        let (key, _) = row?;
        let mut parts = Parts(&key);
        let room = parts.byte().and_then(|_| parts.room());
        let room = room.ok_or(StoreError::Corrupt { what: "key" })?;
        let room_id = RoomInfo::read(database, room)?.room_id;
        if in_room(database, room)?.is_some() {
            found.rooms.push(room_id.clone());
        }
        last = Some(room_id);
    }
    Ok(found)
}

/// Answers [`super::FindGap`].
pub(super) fn find(
    database: &Database,
    room_id: &RoomId,
) -> Result<Option<OwnedEventId>, StoreError> {
    match room_number(database, room_id)? {
        Some(room) => in_room(database, room),
        None => Ok(None),
    }
}

fn in_room(database: &Database, room: u32) -> Result<Option<OwnedEventId>, StoreError> {
    let missing = read_backward(database, room)?;
    if missing.is_empty() {
        return Ok(None);
    }
    let Some(first) = timeline::first_live(database, room)? else { return Ok(None) };
    let mut newest: Option<(Order, OwnedEventId)> = None;
    for follower in missing.into_iter().flat_map(|event| event.followed_by) {
        let Some(hash) = hash_of(&follower) else { continue };
        let order = read_event(database, room, &hash)?.and_then(|event| event.order);
        let inner = order.filter(|order| order.stretch() >= first.position);
        if let Some(order) = inner
            && newest.as_ref().is_none_or(|(newest, _)| order > *newest)
        {
            newest = Some((order, follower));
        }
    }
    Ok(newest.map(|(_, follower)| follower))
}
