//! Where history goes that is fetched later: before what follows it, and after all that came before.
//!
//! The commit names what is missing and what follows it (backward extremities); what is before that
//! follows from the events. A stretch of history is put together from its end: each event takes the
//! lowest place of its stretch. Where one turns out to come before something that was put lower, or
//! to be known as something that came live though others followed it before, it moves down, and
//! what comes before it with it.
//!
//! Invariant: an event of the timeline stands before all that follow it, whatever came first.

use std::collections::HashMap;

use ruma::{OwnedEventId, ServerName};
use serde::Deserialize;

use super::{
    BackwardExtremity, StoreError,
    database::WriteSet,
    events::{event_key, read_event},
    relations,
    rooms::{BackwardRow, backward_key, read_backward, to_json},
    schema::{Hash, family, hash_of},
    timeline,
};
use crate::proto::stream::Order;

/// Events that one commit moves at most: more than are ever known late, in a room without liars.
const MOVED: usize = 2000;
/// The number after the first one that history of a stretch takes: they count down from here.
const TOP: u64 = 1 << 62;

#[derive(Deserialize)]
struct Parents {
    prev_events: Vec<OwnedEventId>,
}

/// Finds places for the history of one commit. Events have to come last one first.
pub(super) struct Placing {
    room: u32,
    /// What follows an event in the timeline.
    followed_by: HashMap<Hash, Vec<Hash>>,
    /// The lowest places that were given away, by stretch.
    lowest: HashMap<i64, u64>,
    moved: usize,
}

impl Placing {
    /// Begins, with what is missing before the commit.
    pub(super) fn begin(writes: &WriteSet<'_>, room: u32) -> Result<Self, StoreError> {
        let mut followed_by = HashMap::new();
        for BackwardExtremity { event_id, followed_by: by } in read_backward(writes, room)? {
            let by: Vec<Hash> = by.iter().filter_map(|id| hash_of(id)).collect();
            followed_by.extend(hash_of(&event_id).map(|hash| (hash, by)));
        }
        Ok(Self { room, followed_by, lowest: HashMap::new(), moved: 0 })
    }

    /// Returns the place of an event that is not in the timeline yet.
    pub(super) fn place(
        &mut self,
        writes: &WriteSet<'_>,
        hash: &Hash,
    ) -> Result<Order, StoreError> {
        let mut first: Option<Order> = None;
        for follower in self.followed_by.get(hash).into_iter().flatten() {
            let order = read_event(writes, self.room, follower)?.and_then(|event| event.order);
            first = first.into_iter().chain(order).min();
        }
        let first = match first {
            Some(first) => first,
            None => timeline::oldest(writes.database(), self.room)?.unwrap_or(Order::live(0)),
        };
        self.lower(writes, first)
    }

    /// Takes the lowest place of the stretch before an event, or of that in which it is.
    fn lower(&mut self, writes: &WriteSet<'_>, before: Order) -> Result<Order, StoreError> {
        let position = before.stretch();
        let lowest = match self.lowest.get(&position) {
            Some(lowest) => *lowest,
            None => timeline::lowest(writes.database(), self.room, position)?.unwrap_or(TOP),
        };
        let history = lowest.saturating_sub(1).max(1);
        self.lowest.insert(position, history);
        Ok(Order { position, history })
    }

    /// Takes note of an event that now stands in the timeline, and moves down what comes before it
    /// and stands behind it.
    pub(super) fn stands(
        &mut self,
        writes: &mut WriteSet<'_>,
        hash: Hash,
        prev_events: &[OwnedEventId],
        order: Order,
    ) -> Result<(), StoreError> {
        let mut todo: Vec<(Hash, Order)> = Vec::new();
        for prev in prev_events.iter().filter_map(|id| hash_of(id)) {
            self.followed_by.entry(prev).or_default().push(hash);
            todo.push((prev, order));
        }
        while let Some((hash, before)) = todo.pop() {
            let Some(mut record) = read_event(writes, self.room, &hash)? else { continue };
            let Some(was) = record.order.filter(|was| *was > before) else { continue };
            if self.moved >= MOVED {
                log::warn!("more history is out of order than is put right at once");
                return Ok(());
            }
            self.moved += 1;
            let order = self.lower(writes, before)?;
            writes.remove(timeline::key(self.room, was));
            writes.put(timeline::key(self.room, order), hash.to_vec());
            record.order = Some(order);
            relations::remove(writes, self.room, was, &record.json)?;
            relations::add(writes, self.room, (&hash, order), &record.json)?;
            let parents: Parents = serde_json::from_str(&record.json)
                .map_err(|_| StoreError::Corrupt { what: "event" })?;
            todo.extend(
                parents.prev_events.iter().filter_map(|id| hash_of(id)).map(|prev| (prev, order)),
            );
            writes.put(event_key(self.room, &hash), record.encode()?);
        }
        Ok(())
    }
}

/// Finds what follows the events that are missing where an older program left it out.
pub(super) fn name_followers(
    writes: &mut WriteSet<'_>,
    _: Option<&ServerName>,
) -> Result<(), StoreError> {
    let mut rooms = Vec::new();
    for row in writes.database().scan_long(vec![family::BACKWARD], vec![family::BACKWARD + 1]) {
        let (key, value) = row?;
        let rows: Vec<BackwardRow> = serde_json::from_slice(&value)
            .map_err(|_| StoreError::Corrupt { what: "backward extremities" })?;
        let old = |row: &BackwardRow| matches!(row, BackwardRow::Unnamed(_));
        if rows.iter().any(old) {
            let mut parts = super::schema::Parts(&key);
            parts.byte();
            let room = parts.room().ok_or(StoreError::Corrupt { what: "key" })?;
            rooms.push((room, rows));
        }
    }
    for (room, rows) in rooms {
        let mut missing: HashMap<OwnedEventId, Vec<OwnedEventId>> =
            rows.into_iter().map(BackwardRow::into_parts).collect();
        for row in timeline::scan(writes.database(), room, Order::FIRST, Order::LAST) {
            let (_, hash) = row?;
            let Some(record) = read_event(writes.database(), room, &hash)? else { continue };
            let parents: Parents = serde_json::from_str(&record.json)
                .map_err(|_| StoreError::Corrupt { what: "event" })?;
            for prev in &parents.prev_events {
                if let Some(followers) = missing.get_mut(prev) {
                    followers.push(super::schema::event_id_of(&hash));
                }
            }
        }
        let rows: Vec<BackwardRow> =
            missing.into_iter().map(|(id, by)| BackwardRow::Named(id, by)).collect();
        writes.put_long(&backward_key(room), &to_json(&rows)?)?;
    }
    Ok(())
}
