//! What servers lack of each other's rooms: found, and read, for many rooms at once and without
//! starting any.
//!
//! Invariants: what is given away of a room is what any member may read of it; the work is bounded
//! by what was asked for and by the limits of an answer, whatever ids others make up.

use std::collections::HashSet;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId,
    events::room::member::MembershipState,
};
use serde::Deserialize;

use super::{
    Lookup, MissingEvent, Place, ReadDepartures, RoomEvents, RoomGaps, StoreError,
    database::Database,
    events::{look_up, read_event, read_known},
    rooms::{StateRow, read_heads, room_number},
    schema::{Hash, Key, Parts, event_id_of, family, hash_of, membership_of_code},
    timeline,
};
use crate::{
    config::limits,
    proto::{
        heads::{Gap, LANDMARKS, LANDMARKS_FAR},
        stream::Order,
    },
};

/// What is looked at of an event on the way.
#[derive(Deserialize)]
struct Step {
    sender: OwnedUserId,
    depth: u64,
    prev_events: Vec<OwnedEventId>,
}

impl Step {
    fn read(json: &str) -> Result<Self, StoreError> {
        serde_json::from_str(json).map_err(|_| StoreError::Corrupt { what: "event" })
    }

    fn before(&self) -> impl Iterator<Item = Hash> {
        self.prev_events.iter().filter_map(|id| hash_of(id))
    }
}

/// Answers [`super::FindLacking`].
pub(super) fn lacking(database: &Database, rooms: RoomEvents) -> Result<RoomGaps, StoreError> {
    let mut lacking = Vec::new();
    for (room_id, event_ids) in rooms {
        let Some(room) = room_number(database, &room_id)? else { continue };
        let mut latest_events = Vec::new();
        for event_id in event_ids {
            if !matches!(look_up(database, room, &event_id)?, Lookup::Found(_)) {
                latest_events.push(event_id);
            }
        }
        if !latest_events.is_empty() {
            let earliest_events = landmarks(database, room)?;
            lacking.push((room_id, Gap { earliest_events, latest_events }));
        }
    }
    Ok(lacking)
}

/// Returns the forward extremities and the events at some places behind them ([`LANDMARKS`]).
fn landmarks(database: &Database, room: u32) -> Result<Vec<OwnedEventId>, StoreError> {
    let heads = read_heads(database, room)?;
    let heads = heads.into_iter().flat_map(|row| row.extremities).map(|(id, ..)| id);
    let mut marks: Vec<OwnedEventId> = heads.take(limits::HEADS).collect();
    let (mut first, mut last) = (None, None);
    for (distance, row) in
        timeline::scan_back(database, room, Order::LAST, Order::FIRST).enumerate()
    {
        let (order, hash) = row?;
        first = first.or(Some(order.position));
        last = Some(order);
        if LANDMARKS.contains(&distance) {
            marks.push(event_id_of(&hash));
        }
        if LANDMARKS.last() == Some(&distance) {
            break;
        }
    }
    let (Some(first), Some(mut last)) = (first, last) else { return Ok(marks) };
    let mut behind = first.saturating_sub(last.position).max(1);
    for _ in 0..LANDMARKS_FAR {
        behind = behind.saturating_mul(2);
        let from = Order::live(first.saturating_sub(behind)).min(last.before());
        let next = timeline::scan_back(database, room, from, Order::FIRST).next().transpose()?;
        let Some((order, hash)) = next else { break };
        marks.push(event_id_of(&hash));
        last = order;
    }
    if let Some(row) = timeline::scan(database, room, Order::FIRST, Order::LAST).next() {
        marks.push(event_id_of(&row?.1));
    }
    let mut seen = HashSet::new();
    marks.retain(|id| seen.insert(id.clone()));
    Ok(marks)
}

/// Answers [`super::ReadMissing`].
pub(super) fn missing(
    database: &Database,
    rooms: RoomGaps,
) -> Result<Vec<(OwnedRoomId, Vec<MissingEvent>)>, StoreError> {
    let mut left = Left { events: limits::MISSING_EVENTS, len: limits::MISSING_LEN };
    let mut found = Vec::new();
    let mut others = rooms.len();
    for (room_id, gap) in rooms {
        if left.is_over() {
            break;
        }
        // Of few rooms more comes at once.
        let share = limits::MISSING_PAGE.max(left.events / others.max(1));
        others = others.saturating_sub(1);
        let Some(room) = room_number(database, &room_id)? else { continue };
        let events = match is_open(database, room)? {
            true => between(database, room, &gap, share, &mut left)?,
            false => Vec::new(),
        };
        found.push((room_id, events));
    }
    Ok(found)
}

/// Answers [`ReadDepartures`].
pub(super) fn departures(
    database: &Database,
    ask: ReadDepartures,
) -> Result<Vec<(OwnedRoomId, MissingEvent)>, StoreError> {
    let mut left = Left { events: limits::MISSING_EVENTS, len: limits::MISSING_LEN };
    let mut found = Vec::new();
    for room_id in ask.room_ids {
        if left.is_over() {
            break;
        }
        let Some(room) = room_number(database, &room_id)? else { continue };
        for row in departed(database, room, &ask.server_name)? {
            let record = read_known(database, room, &row.hash)?;
            left.take(record.json.len());
            let sender = Step::read(&record.json)?.sender;
            found.push((room_id.clone(), MissingEvent { sender, json: record.json }));
        }
    }
    Ok(found)
}

/// Returns the places of the state that show users of a server out, a few of them.
fn departed(
    database: &Database,
    room: u32,
    server: &ServerName,
) -> Result<Vec<StateRow>, StoreError> {
    let mut rows = Vec::new();
    for row in database.scan_prefix(&Key::room(family::STATE, room).text("m.room.member").done()) {
        let (key, value) = row?;
        let row = StateRow::decode(&value)?;
        let is_out = matches!(
            membership_of_code(row.membership),
            Some(MembershipState::Leave | MembershipState::Ban)
        );
        let user = is_out.then(|| state_key_of(&key)).flatten();
        let user = user.and_then(|user| UserId::parse(&user).ok());
        if user.is_some_and(|user| user.server_name() == server) {
            rows.push(row);
            if rows.len() >= limits::ROOM_USERS_OF_SERVER {
                break;
            }
        }
    }
    Ok(rows)
}

/// Returns the state key of a key of the state family.
fn state_key_of(key: &[u8]) -> Option<String> {
    let mut parts = Parts(key);
    parts.byte()?;
    parts.room()?;
    parts.text()?;
    parts.text()
}

/// What an answer has place for.
struct Left {
    events: usize,
    len: usize,
}

impl Left {
    fn is_over(&self) -> bool {
        self.events == 0 || self.len == 0
    }

    fn take(&mut self, len: usize) {
        self.events = self.events.saturating_sub(1);
        self.len = self.len.saturating_sub(len);
    }
}

/// Tells whether every member may read the whole history. Where it is not so, each event has to be
/// looked at by the room itself.
pub(super) fn is_open(database: &Database, room: u32) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        history_visibility: String,
    }
    let place = ("m.room.history_visibility", "");
    let Some(row) = StateRow::read(database, room, place)? else { return Ok(true) };
    let record = read_known(database, room, &row.hash)?;
    let visibility = serde_json::from_str(&record.json)
        .map(|Event { content: Content { history_visibility } }| history_visibility);
    Ok(visibility.is_ok_and(|it| matches!(it.as_str(), "shared" | "world_readable")))
}

/// Returns what lies between what the other has and what it lacks, parents first: all of it, or of
/// more than a page the first part, which it can take in at once.
fn between(
    database: &Database,
    room: u32,
    gap: &Gap,
    share: usize,
    left: &mut Left,
) -> Result<Vec<MissingEvent>, StoreError> {
    let newest = walk_back(database, room, gap, left)?;
    let found = match newest.is_all {
        true => newest.events,
        false => {
            let first = first_after(database, room, gap, share, left)?;
            if first.is_empty() { newest.events } else { first }
        }
    };
    for event in &found {
        left.take(event.json.len());
    }
    Ok(found)
}

/// Events from the end backwards.
struct Newest {
    /// Parents first.
    events: Vec<MissingEvent>,
    /// There are no more before them.
    is_all: bool,
}

/// Walks the graph backwards, breadth first, for a page.
fn walk_back(database: &Database, room: u32, gap: &Gap, left: &Left) -> Result<Newest, StoreError> {
    let hashes = |ids: &[OwnedEventId]| -> Vec<Hash> {
        ids.iter().take(2 * limits::HEADS).filter_map(|id| hash_of(id)).collect()
    };
    let mut seen: HashSet<Hash> = hashes(&gap.earliest_events).into_iter().collect();
    let mut level = hashes(&gap.latest_events);
    let mut found: Vec<(u64, MissingEvent)> = Vec::new();
    let (mut len, mut is_all) = (0, true);
    while !level.is_empty() {
        let mut next = Vec::new();
        for hash in level {
            if found.len() >= limits::MISSING_PAGE.min(left.events) || len >= left.len {
                is_all = false;
                break;
            }
            if !seen.insert(hash) {
                continue;
            }
            let record = read_event(database, room, &hash)?;
            let Some(record) = record.filter(|record| record.place != Place::Rejected) else {
                continue;
            };
            let step = Step::read(&record.json)?;
            len += record.json.len();
            next.extend(step.before());
            found.push((step.depth, MissingEvent { sender: step.sender, json: record.json }));
        }
        level = next;
    }
    found.sort_by_key(|(depth, _)| *depth);
    Ok(Newest { events: found.into_iter().map(|(_, event)| event).collect(), is_all })
}

/// Reads the timeline on from the last event that the other has, as far as it is whole here. What
/// stands before that and the other lacks, a fork, comes when its end is asked for.
fn first_after(
    database: &Database,
    room: u32,
    gap: &Gap,
    share: usize,
    left: &Left,
) -> Result<Vec<MissingEvent>, StoreError> {
    let mut last = None;
    for hash in gap.earliest_events.iter().take(2 * limits::HEADS).filter_map(|id| hash_of(id)) {
        last = last.max(read_event(database, room, &hash)?.and_then(|record| record.order));
    }
    let Some(last) = last else { return Ok(Vec::new()) };
    let gaps = timeline::before_gaps(database, room)?;
    let (mut found, mut len) = (Vec::new(), 0);
    for row in timeline::scan(database, room, last, Order::LAST) {
        let (order, hash) = row?;
        if found.len() >= share.min(left.events) || len >= left.len || gaps.contains(&hash) {
            break;
        }
        if order > last {
            let json = read_known(database, room, &hash)?.json;
            len += json.len();
            found.push(MissingEvent { sender: Step::read(&json)?.sender, json });
        }
    }
    Ok(found)
}
