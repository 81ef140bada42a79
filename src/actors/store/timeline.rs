//! The timelines: order of a room → event.
//!
//! Invariants: live events have their stream position as order, history counts down from -1; an
//! event has one place at most, and its record names it; orders never change, so a page token is
//! good for ever.

use super::{
    Direction, ReadTimeline, StoreError, StoredEvent, TimelinePage,
    backwards::Numbered,
    database::{Database, KeyValue, Rows as _},
    events::{event_key, read_known},
    schema::{Hash, Key, Parts, family, order_bytes},
};

/// Returns the key of a place in a timeline.
pub(super) fn key(room: u32, order: i64) -> Vec<u8> {
    Key::room(family::TIMELINE, room).order(order).done()
}

/// Reads places of a timeline in their order, from `from` to `to`, both included.
pub(super) fn scan(
    database: &Database,
    room: u32,
    from: i64,
    to: i64,
) -> impl Iterator<Item = Result<(i64, Hash), StoreError>> {
    // A key with one byte more is the first after the last one.
    let mut end = key(room, to);
    end.push(0);
    // An empty range must have its ends in order.
    let start = key(room, from).min(end.clone());
    database.scan(start, end).map(|row| place_of(row?))
}

/// Reads places of a timeline from `from` down to `to`, both included.
pub(super) fn scan_back(
    database: &Database,
    room: u32,
    from: i64,
    to: i64,
) -> impl Iterator<Item = Result<(i64, Hash), StoreError>> {
    let prefix = Key::room(family::TIMELINE, room).done();
    let range = Numbered { prefix, first: order_bytes(to), last: order_bytes(from) };
    database.scan_back(&range).map(|row| place_of(row?))
}

fn place_of((key, hash): KeyValue) -> Result<(i64, Hash), StoreError> {
    let parse = || {
        let mut parts = Parts(&key);
        parts.byte()?;
        parts.room()?;
        Some((parts.order()?, Parts(&hash).hash()?))
    };
    parse().ok_or(StoreError::Corrupt { what: "timeline" })
}

/// Returns the order of the oldest event.
pub(super) fn oldest(database: &Database, room: u32) -> Result<Option<i64>, StoreError> {
    scan(database, room, i64::MIN, i64::MAX)
        .next()
        .transpose()
        .map(|place| place.map(|(order, _)| order))
}

/// Answers [`ReadTimeline`].
pub(super) fn page(
    database: &Database,
    room: u32,
    ask: &ReadTimeline,
) -> Result<TimelinePage, StoreError> {
    // Both ways as "from this order to that one, both included".
    match ask.direction {
        Direction::Forward => {
            let from = ask.from.map_or(i64::MIN, |from| from.saturating_add(1));
            let rows = scan(database, room, from, ask.to.unwrap_or(i64::MAX));
            collect(database, room, rows, ask.limit, |order| order)
        }
        Direction::Backward => {
            let to = ask.to.map_or(i64::MIN, |to| to.saturating_add(1));
            let rows = scan_back(database, room, ask.from.unwrap_or(i64::MAX), to);
            collect(database, room, rows, ask.limit, |order| order.saturating_sub(1))
        }
    }
}

fn collect(
    database: &Database,
    room: u32,
    mut rows: impl Iterator<Item = Result<(i64, Hash), StoreError>>,
    limit: usize,
    token: impl Fn(i64) -> i64,
) -> Result<TimelinePage, StoreError> {
    let mut events: Vec<StoredEvent> = Vec::new();
    let mut last = None;
    for row in rows.by_ref().take(limit) {
        let (order, hash) = row?;
        events.push(read_known(database, room, &hash)?.into_stored(&hash));
        last = Some(token(order));
    }
    let has_more = rows.next().transpose()?.is_some();
    Ok(TimelinePage { events, next: last.filter(|_| has_more) })
}

/// Checks that the event at an order, if there is one, exists.
pub(super) fn check(database: &Database, room: u32, order: i64) -> Result<(), StoreError> {
    let Some(hash) = database.get(&key(room, order))? else {
        return Ok(());
    };
    let corrupt = StoreError::Corrupt { what: "timeline" };
    let Some(hash) = Parts(&hash).hash() else {
        return Err(corrupt);
    };
    database.get(&event_key(room, &hash))?.map(drop).ok_or(corrupt)
}
