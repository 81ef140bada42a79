//! The timelines: place in a room → event.
//!
//! Invariants: live events stand at their stream position, history that was fetched later between
//! two of these (`history.rs`); an event has one place at most, and its record names it. Places
//! name no rows but what lies between, so a page token is good for ever. A page never reaches over
//! a gap, unless it is told to.

use std::{collections::HashSet, ops::RangeInclusive};

use super::{
    Direction, ReadTimeline, StoreError, TimelinePage,
    backwards::Numbered,
    database::{Database, KeyValue, Rows as _},
    events::{event_key, read_known},
    rooms::read_backward,
    schema::{Hash, Key, Parts, event_id_of, family, hash_of, order_bytes},
};
use crate::proto::stream::Order;

/// Returns the key of a place in a timeline.
pub(super) fn key(room: u32, order: Order) -> Vec<u8> {
    match order.history {
        0 => Key::room(family::TIMELINE, room).order(order.position).done(),
        number => Key::room(family::HISTORY, room).order(order.position).number(number).done(),
    }
}

/// A place, and the event that stands there.
type Standing = Result<(Order, Hash), StoreError>;

/// Reads places of a timeline in their order, from `from` to `to`, both included.
pub(super) fn scan(
    database: &Database,
    room: u32,
    from: Order,
    to: Order,
) -> impl Iterator<Item = Standing> {
    let range = |range: RangeInclusive<Vec<u8>>| {
        let (start, mut end) = range.into_inner();
        // A key with one byte more is the first after the last one.
        end.push(0);
        // An empty range must have its ends in order.
        database.scan(start.min(end.clone()), end)
    };
    let live = range(live_range(room, from, to).range()).map(|row| live_place(row?));
    let history = range(history_range(room, from, to).range()).map(|row| history_place(row?));
    merge(live, history, Order::lt)
}

/// Reads places of a timeline from `from` down to `to`, both included.
pub(super) fn scan_back(
    database: &Database,
    room: u32,
    from: Order,
    to: Order,
) -> impl Iterator<Item = Standing> {
    let live = database.scan_back(&live_range(room, to, from)).map(|row| live_place(row?));
    let history = database.scan_back(&history_range(room, to, from));
    merge(live, history.map(|row| history_place(row?)), Order::gt)
}

/// Returns the rows at positions between two places.
fn live_range(room: u32, from: Order, to: Order) -> Numbered<8> {
    let first = from.position.saturating_add(i64::from(from.history > 0));
    let prefix = Key::room(family::TIMELINE, room).done();
    Numbered { prefix, first: order_bytes(first), last: order_bytes(to.position) }
}

/// Returns the rows of history between two places.
fn history_range(room: u32, from: Order, to: Order) -> Numbered<16> {
    let bytes = |order: Order| {
        let mut bytes = [0; 16];
        let (position, history) = bytes.split_at_mut(8);
        position.copy_from_slice(&order_bytes(order.position));
        history.copy_from_slice(&order.history.to_be_bytes());
        bytes
    };
    let prefix = Key::room(family::HISTORY, room).done();
    Numbered { prefix, first: bytes(from), last: bytes(to) }
}

fn live_place((key, hash): KeyValue) -> Standing {
    let parse = || {
        let mut parts = Parts(&key);
        parts.byte()?;
        parts.room()?;
        Some((Order::live(parts.order()?), Parts(&hash).hash()?))
    };
    parse().ok_or(StoreError::Corrupt { what: "timeline" })
}

fn history_place((key, hash): KeyValue) -> Standing {
    let parse = || {
        let mut parts = Parts(&key);
        parts.byte()?;
        parts.room()?;
        let order = Order { position: parts.order()?, history: parts.number()? };
        Some((order, Parts(&hash).hash()?))
    };
    parse().ok_or(StoreError::Corrupt { what: "timeline" })
}

/// Brings two lists of places into one, as both are ordered.
fn merge(
    one: impl Iterator<Item = Standing>,
    other: impl Iterator<Item = Standing>,
    comes_first: impl Fn(&Order, &Order) -> bool,
) -> impl Iterator<Item = Standing> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || {
        let first = match (one.peek(), other.peek()) {
            (Some(Ok((a, _))), Some(Ok((b, _)))) => comes_first(a, b),
            (Some(_), _) => true,
            (None, _) => false,
        };
        if first { one.next() } else { other.next() }
    })
}

/// Returns the place of the oldest event.
pub(super) fn oldest(database: &Database, room: u32) -> Result<Option<Order>, StoreError> {
    let first = scan(database, room, Order::FIRST, Order::LAST).next().transpose();
    first.map(|place| place.map(|(order, _)| order))
}

/// Returns the place of the oldest event that came live.
pub(super) fn first_live(database: &Database, room: u32) -> Result<Option<Order>, StoreError> {
    let (start, mut end) = live_range(room, Order::live(0), Order::LAST).range().into_inner();
    end.push(0);
    let first = database.scan(start, end).next().map(|row| live_place(row?)).transpose();
    first.map(|place| place.map(|(order, _)| order))
}

/// Returns the lowest number of the history behind a position.
pub(super) fn lowest(
    database: &Database,
    room: u32,
    position: i64,
) -> Result<Option<u64>, StoreError> {
    let (first, last) = (Order { position, history: 1 }, Order { position, history: u64::MAX });
    let lowest = scan(database, room, first, last).next().transpose();
    lowest.map(|place| place.map(|(order, _)| order.history))
}

/// Returns the events of a timeline before which history is missing.
pub(super) fn before_gaps(database: &Database, room: u32) -> Result<HashSet<Hash>, StoreError> {
    let missing = read_backward(database, room)?;
    let followers = missing.iter().flat_map(|event| &event.followed_by);
    Ok(followers.filter_map(|id| hash_of(id)).collect())
}

/// Answers [`ReadTimeline`].
pub(super) fn page(
    database: &Database,
    room: u32,
    ask: &ReadTimeline,
) -> Result<TimelinePage, StoreError> {
    let gaps = before_gaps(database, room)?;
    match ask.direction {
        Direction::Forward => forward(database, room, ask, &gaps),
        Direction::Backward => backward(database, room, ask, &gaps),
    }
}

fn forward(
    database: &Database,
    room: u32,
    ask: &ReadTimeline,
    gaps: &HashSet<Hash>,
) -> Result<TimelinePage, StoreError> {
    let from = ask.from.map_or(Order::FIRST, |from| Order {
        position: from.position.saturating_add(i64::from(from.history == u64::MAX)),
        history: from.history.wrapping_add(1),
    });
    let mut page = TimelinePage::default();
    for row in scan(database, room, from, ask.to.unwrap_or(Order::LAST)) {
        let (order, hash) = row?;
        let is_begin = page.events.is_empty();
        if gaps.contains(&hash) && !(is_begin && ask.over_gap) {
            page.gap = Some(event_id_of(&hash));
            page.next = page.next.or(ask.from).or(Some(order.before()));
            return Ok(page);
        }
        if page.events.len() >= ask.limit {
            return Ok(page);
        }
        page.events.push(read_known(database, room, &hash)?.into_stored(&hash));
        page.next = Some(order);
    }
    page.next = None;
    Ok(page)
}

fn backward(
    database: &Database,
    room: u32,
    ask: &ReadTimeline,
    gaps: &HashSet<Hash>,
) -> Result<TimelinePage, StoreError> {
    let from = ask.from.unwrap_or(Order::LAST);
    let to = ask.to.map_or(Order::FIRST, |to| Order {
        position: to.position.saturating_add(i64::from(to.history == u64::MAX)),
        history: to.history.wrapping_add(1),
    });
    let mut page = TimelinePage::default();
    // What was shown last may have been the event before which history is missing.
    if let Some(row) = scan(database, room, from, Order::LAST)
        .find(|row| row.as_ref().map_or(true, |(order, _)| *order > from))
    {
        let (order, hash) = row?;
        let lacks_here = from >= Order { position: order.stretch(), history: 1 };
        if gaps.contains(&hash) && lacks_here && !ask.over_gap {
            page.gap = Some(event_id_of(&hash));
            page.next = Some(from);
            return Ok(page);
        }
    }
    for row in scan_back(database, room, from, to) {
        let (order, hash) = row?;
        if page.events.len() >= ask.limit {
            return Ok(page);
        }
        page.events.push(read_known(database, room, &hash)?.into_stored(&hash));
        page.next = Some(order.before());
        if gaps.contains(&hash) {
            page.gap = Some(event_id_of(&hash));
            return Ok(page);
        }
    }
    page.next = None;
    Ok(page)
}

/// Checks that the event at a position, if there is one, exists.
pub(super) fn check(database: &Database, room: u32, position: i64) -> Result<(), StoreError> {
    let Some(hash) = database.get(&key(room, Order::live(position)))? else {
        return Ok(());
    };
    let corrupt = StoreError::Corrupt { what: "timeline" };
    let Some(hash) = Parts(&hash).hash() else {
        return Err(corrupt);
    };
    database.get(&event_key(room, &hash))?.map(drop).ok_or(corrupt)
}
