//! What servers lack of each other's rooms, by id: found a few thousand events at a time, so that
//! whoever reads and writes here besides never waits long.
//!
//! Invariants: as in `gaps.rs`; of a long gap the first part is found without looking at the rest.

use ruma::OwnedEventId;
use serde::Deserialize;

use super::{
    MissingEvent, MissingWalk, Place, RoomEvents, SiftedIds, StoreError, UnderWay,
    database::Database,
    events::read_event,
    gaps::is_open,
    rooms::{RoomInfo, room_number},
    schema::{Hash, event_id_of, hash_of},
    timeline,
};
use crate::{
    config::limits,
    proto::{
        behind::{Behind, Node},
        heads::{Gap, MissingIds},
        stream::Order,
    },
};

/// Events that are looked at before others have their turn: some milliseconds.
const STEPS: usize = 1000;

/// A walk through one room.
#[derive(Debug)]
pub(super) struct Walk {
    room: u32,
    behind: Behind<Hash, Order>,
    most: usize,
    /// What follows the events that the walk began from.
    more: bool,
}

#[derive(Deserialize)]
struct Parents {
    prev_events: Vec<OwnedEventId>,
}

fn node(
    database: &Database,
    room: u32,
    hash: &Hash,
) -> Result<Option<Node<Hash, Order>>, StoreError> {
    let record = read_event(database, room, hash)?;
    let Some(record) = record.filter(|record| record.place != Place::Rejected) else {
        return Ok(None);
    };
    let parents: Parents =
        serde_json::from_str(&record.json).map_err(|_| StoreError::Corrupt { what: "event" })?;
    let prev = parents.prev_events.iter().filter_map(|id| hash_of(id)).collect();
    Ok(Some(Node { order: record.order, prev }))
}

/// Answers [`MissingWalk`].
pub(super) fn go_on(
    database: &Database,
    walk: MissingWalk,
) -> Result<Result<MissingIds, MissingWalk>, StoreError> {
    let mut walk = match walk {
        MissingWalk::Begin { room_id, gap, most } => {
            let nothing = Ok(Ok(MissingIds::default()));
            let Some(room) = room_number(database, &room_id)? else { return nothing };
            if !is_open(database, room)? {
                return nothing;
            }
            match begin(database, room, &gap, most)? {
                Some(walk) => walk,
                None => return nothing,
            }
        }
        MissingWalk::Under(UnderWay(walk)) => *walk,
    };
    let room = walk.room;
    if !walk.behind.go_on(STEPS, |hash| node(database, room, hash))? {
        return Ok(Err(MissingWalk::Under(UnderWay(Box::new(walk)))));
    }
    let (ids, cut) = walk.behind.first(walk.most);
    let ids = ids.iter().map(event_id_of).collect();
    Ok(Ok(MissingIds { ids, more: cut || walk.more }))
}

/// Begins with what stands behind the last event that the other has, as far as history is whole
/// there, and with what it asked for where that is all.
fn begin(
    database: &Database,
    room: u32,
    gap: &Gap,
    most: usize,
) -> Result<Option<Walk>, StoreError> {
    let hashes = |ids: &[OwnedEventId]| -> Vec<Hash> {
        ids.iter().take(3 * limits::HEADS).filter_map(|id| hash_of(id)).collect()
    };
    let had = hashes(&gap.earliest_events);
    let mut last = None;
    for hash in &had {
        last = last.max(read_event(database, room, hash)?.and_then(|record| record.order));
    }
    // Who knows nothing of what is here has no place from which to go on.
    let Some(last) = last else { return Ok(None) };
    let gaps = timeline::before_gaps(database, room)?;
    let (mut wanted, mut more, mut whole) = (Vec::new(), false, true);
    for row in timeline::scan(database, room, last, Order::LAST) {
        let (order, hash) = row?;
        if order == last {
            continue;
        }
        whole = !gaps.contains(&hash);
        more = wanted.len() >= most;
        if more || !whole {
            break;
        }
        wanted.push(hash);
    }
    more &= whole;
    if !more && whole {
        wanted.extend(hashes(&gap.latest_events));
    }
    let behind = Behind::begin(&wanted, &had, |hash| node(database, room, hash))?;
    Ok(Some(Walk { room, behind, most, more }))
}

/// Answers [`super::ReadEvents`].
pub(super) fn events(
    database: &Database,
    rooms: RoomEvents,
) -> Result<Vec<(ruma::OwnedRoomId, Vec<MissingEvent>)>, StoreError> {
    #[derive(Deserialize)]
    struct Sender {
        sender: ruma::OwnedUserId,
    }
    let (mut events_left, mut len_left) = (limits::MISSING_EVENTS, limits::MISSING_LEN);
    let mut found = Vec::new();
    for (room_id, ids) in rooms {
        let Some(room) = room_number(database, &room_id)? else { continue };
        let mut events = Vec::new();
        let hashes = ids.iter().filter_map(|id| hash_of(id));
        let hashes: Vec<Hash> =
            if is_open(database, room)? { hashes.collect() } else { Vec::new() };
        for hash in hashes {
            if events_left == 0 || len_left == 0 {
                break;
            }
            let record = read_event(database, room, &hash)?;
            let Some(record) = record.filter(|it| it.place != Place::Rejected) else { continue };
            let Sender { sender } = serde_json::from_str(&record.json)
                .map_err(|_| StoreError::Corrupt { what: "event" })?;
            events_left -= 1;
            len_left = len_left.saturating_sub(record.json.len());
            events.push(MissingEvent { sender, json: record.json });
        }
        if !events.is_empty() {
            found.push((room_id, events));
        }
    }
    Ok(found)
}

/// Answers [`super::SiftIds`].
pub(super) fn sift(database: &Database, rooms: RoomEvents) -> Result<Vec<SiftedIds>, StoreError> {
    let mut sifted = Vec::new();
    for (room_id, mut event_ids) in rooms {
        let Some(room) = room_number(database, &room_id)? else { continue };
        let RoomInfo { version, .. } = RoomInfo::read(database, room)?;
        let mut missing = Vec::new();
        for id in event_ids.drain(..) {
            let Some(hash) = hash_of(&id) else { continue };
            let record = read_event(database, room, &hash)?;
            if record.is_none_or(|record| record.place == Place::Outlier) {
                missing.push(id);
            }
        }
        sifted.push(SiftedIds { room_id, version, missing });
    }
    Ok(sifted)
}
