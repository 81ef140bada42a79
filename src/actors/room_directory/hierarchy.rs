//! The rooms of a space, and of the spaces in it: depth first, each room once.
//!
//! Invariant: however spaces hold each other, and whatever other servers tell, a page looks at
//! [`limits::HIERARCHY_ROOMS`] rooms at most and asks other servers [`limits::HIERARCHY_ASKED`] times.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedServerName, room::RoomSummary};
use serde_json::{Value, value::RawValue};

use super::{
    actor::RoomDirectoryLinks,
    messages::{DirectoryError, Hierarchy, ReadHierarchy},
    remote::{Child, Told, child_of},
    seen::{self, Memberships},
};
use crate::{actors::store::Card, config::limits};

/// How long other servers are asked for one page.
const ASKING: Duration = Duration::from_secs(20);

/// Returns the rooms that a space holds, in their order.
pub(super) fn children_of(events: &[Box<RawValue>], suggested_only: bool) -> Vec<Child> {
    let parse = |event: &RawValue| child_of(&serde_json::from_str::<Value>(event.get()).ok()?);
    let mut children: Vec<Child> = events.iter().filter_map(|event| parse(event)).collect();
    children.retain(|child| child.suggested || !suggested_only);
    children.sort_by_key(Child::place);
    children
}

/// What is known of a room while a space is walked through.
enum Known {
    /// We are in it.
    Ours(Card),
    /// A server told all of it.
    Told(RoomSummary, Vec<Box<RawValue>>),
    /// A server told what it shows, as a room of another one; not which rooms it holds.
    Mentioned(RoomSummary),
}

struct Walk<'a> {
    links: &'a RoomDirectoryLinks,
    own: &'a Memberships,
    known: HashMap<OwnedRoomId, Known>,
    asked: usize,
    until: Instant,
}

impl Walk<'_> {
    /// Reads the cards of rooms that we are in.
    async fn read(&mut self, rooms: Vec<OwnedRoomId>) -> Result<(), DirectoryError> {
        let unknown = rooms.into_iter().filter(|room| !self.known.contains_key(room)).collect();
        for card in self.links.cards(unknown).await? {
            self.known.insert(card.summary.room_id.clone(), Known::Ours(card));
        }
        Ok(())
    }

    /// Returns what a room shows to who asks, and which rooms it holds.
    async fn see(
        &mut self,
        room_id: &OwnedRoomId,
        via: &[OwnedServerName],
    ) -> Option<(RoomSummary, Vec<Box<RawValue>>)> {
        let is_space = |room: &RoomSummary| room.room_type == Some(ruma::room::RoomType::Space);
        let seen = match self.known.get(room_id) {
            Some(Known::Ours(card)) => Some((card.summary.clone(), card.children.clone())),
            Some(Known::Told(summary, children)) => Some((summary.clone(), children.clone())),
            Some(Known::Mentioned(summary)) if !is_space(summary) => {
                Some((summary.clone(), Vec::new()))
            }
            Some(Known::Mentioned(_)) | None => {
                let mentioned = match self.known.get(room_id) {
                    Some(Known::Mentioned(summary)) => Some((summary.clone(), Vec::new())),
                    _ => None,
                };
                self.ask(room_id, via).await.or(mentioned)
            }
        };
        seen.filter(|(summary, _)| seen::by_user(summary, self.own))
    }

    async fn ask(
        &mut self,
        room_id: &OwnedRoomId,
        via: &[OwnedServerName],
    ) -> Option<(RoomSummary, Vec<Box<RawValue>>)> {
        if self.asked >= limits::HIERARCHY_ASKED || Instant::now() >= self.until {
            return None;
        }
        self.asked = self.asked.saturating_add(1);
        let Told { summary, children, of_children } =
            self.links.card_elsewhere(room_id, via).await?;
        for room in of_children {
            self.known.entry(room.room_id.clone()).or_insert(Known::Mentioned(room));
        }
        self.known.insert(room_id.clone(), Known::Told(summary.clone(), children.clone()));
        Some((summary, children))
    }
}

/// Reads a page.
pub(super) async fn read(
    links: &RoomDirectoryLinks,
    own: &Memberships,
    ask: ReadHierarchy,
) -> Result<Hierarchy, DirectoryError> {
    let ReadHierarchy { room_id: root, from, limit, max_depth, suggested_only, .. } = ask;
    let until = Instant::now() + ASKING;
    let mut walk = Walk { links, own, known: HashMap::new(), asked: 0, until };
    walk.read(vec![root.clone()]).await?;
    let mut waiting: Vec<(OwnedRoomId, Vec<OwnedServerName>, usize)> =
        vec![(root.clone(), Vec::new(), 0)];
    let (mut met, mut rooms, mut before) = (HashSet::new(), Vec::new(), 0_usize);
    while let Some((room_id, via, depth)) = waiting.pop() {
        if met.len() >= limits::HIERARCHY_ROOMS {
            break;
        }
        if !met.insert(room_id.clone()) {
            continue;
        }
        let Some((summary, events)) = walk.see(&room_id, &via).await else {
            if room_id == root {
                return Err(DirectoryError::Forbidden("there is no such room, or not for you"));
            }
            continue;
        };
        let children = children_of(&events, suggested_only);
        if before >= from {
            if rooms.len() >= limit {
                return Ok(Hierarchy { rooms, next: Some(before) });
            }
            let shown = events.into_iter().filter(|event| {
                let child = serde_json::from_str::<Value>(event.get()).ok();
                let child = child.and_then(|event| child_of(&event));
                child.is_some_and(|child| child.suggested || !suggested_only)
            });
            rooms.push((summary, shown.collect()));
        }
        before = before.saturating_add(1);
        if depth < max_depth {
            walk.read(children.iter().map(|child| child.room_id.clone()).collect()).await?;
            let deeper = depth.saturating_add(1);
            waiting
                .extend(children.into_iter().rev().map(|child| (child.room_id, child.via, deeper)));
        }
    }
    Ok(Hierarchy { rooms, next: None })
}
