//! Which rooms have history missing in their middle, and when the next page of it is fetched: a room that
//! went on behind a gap becomes whole in the background. Pure; times are milliseconds of the uptime.
//!
//! Invariants: what is left is found in the Store, so a restart forgets nothing; one page is fetched at a
//! time; a room of which nothing comes is tried ever more seldom, and one of which more comes than any
//! absence makes rests for a day.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId};

use crate::config::limits;

/// A room.
#[derive(Debug)]
struct Gap {
    /// When the next page is due.
    due: u64,
    /// Tries in a row that brought nothing.
    failures: u32,
    /// Pages that came since it last rested.
    pages: u32,
}

/// The rooms that are not whole, as far as they were found.
#[derive(Debug, Default)]
pub(super) struct Filling {
    rooms: BTreeMap<OwnedRoomId, Gap>,
    is_busy: bool,
}

/// What came of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Some of it came.
    Some,
    /// Nobody gave any.
    Nothing,
    /// There is nothing missing.
    Whole,
}

impl Filling {
    /// A room was found to have a gap.
    pub(super) fn found(&mut self, room_id: OwnedRoomId, now: u64) {
        if self.rooms.len() < limits::GAPS_ROOMS {
            self.rooms.entry(room_id).or_insert(Gap { due: now, failures: 0, pages: 0 });
        }
    }

    /// Returns the room of which a page is to be fetched now; [`Self::done`] is owed then.
    pub(super) fn next(&mut self, now: u64) -> Option<OwnedRoomId> {
        if self.is_busy {
            return None;
        }
        let (room_id, gap) = self.rooms.iter().min_by_key(|(_, gap)| gap.due)?;
        if gap.due > now {
            return None;
        }
        self.is_busy = true;
        Some(room_id.clone())
    }

    /// A page was fetched, or not. Rooms come in turn.
    pub(super) fn done(&mut self, room_id: &RoomId, came: Came, now: u64) {
        self.is_busy = false;
        let Some(gap) = self.rooms.get_mut(room_id) else { return };
        match came {
            Came::Some => {
                (gap.due, gap.failures, gap.pages) = (now, 0, gap.pages.saturating_add(1));
                if gap.pages >= limits::FILL_PAGES {
                    (gap.due, gap.pages) = (now.saturating_add(limits::FILL_REST_MS), 0);
                }
            }
            Came::Nothing => {
                gap.failures = gap.failures.saturating_add(1);
                let pause = limits::GAP_AGAIN_MS.saturating_mul(1 << gap.failures.min(16));
                gap.due = now.saturating_add(pause.min(limits::GAP_AGAIN_MAX_MS));
            }
            Came::Whole => {
                self.rooms.remove(room_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!{number:04}")).unwrap()
    }

    #[test]
    fn rooms_take_turns_one_page_at_a_time() {
        let mut filling = Filling::default();
        assert_eq!(filling.next(0), None);
        for number in [1, 0, 1] {
            filling.found(room(number), 5);
        }
        assert_eq!(filling.next(4), None);
        assert_eq!(filling.next(5), Some(room(0)));
        assert_eq!(filling.next(5), None, "one page at a time");
        filling.done(&room(0), Came::Some, 6);
        assert_eq!(filling.next(6), Some(room(1)), "the other one was due before");
        filling.done(&room(1), Came::Some, 7);
        assert_eq!(filling.next(7), Some(room(0)));
        filling.done(&room(0), Came::Whole, 8);
        assert_eq!(filling.next(8), Some(room(1)));
        filling.done(&room(1), Came::Whole, 8);
        assert_eq!(filling.next(u64::MAX), None);
    }

    #[test]
    fn who_gives_nothing_is_asked_ever_more_seldom() {
        let (mut filling, mut now, mut tries) = (Filling::default(), 0, 0);
        filling.found(room(0), 0);
        while now < 4 * 60 * 60 * 1000 {
            // It is found again all the time.
            filling.found(room(0), now);
            if let Some(room_id) = filling.next(now) {
                tries += 1;
                filling.done(&room_id, Came::Nothing, now);
            }
            now += 10_000;
        }
        assert!((24..32).contains(&tries), "{tries}");
        filling.next(u64::MAX).unwrap();
        filling.done(&room(0), Came::Some, now);
        assert_eq!(filling.next(now), Some(room(0)), "what comes again goes on at once");
    }

    #[test]
    fn history_without_end_has_an_end_each_day() {
        let mut filling = Filling::default();
        filling.found(room(0), 0);
        let (day, mut pages) = (limits::FILL_REST_MS, 0);
        for now in (0..3 * day).step_by(10_000) {
            filling.found(room(0), now);
            if let Some(room_id) = filling.next(now) {
                pages += 1;
                filling.done(&room_id, Came::Some, now);
            }
        }
        assert_eq!(pages, 3 * limits::FILL_PAGES);
    }

    #[test]
    fn no_more_rooms_are_kept_than_there_is_place_for() {
        let mut filling = Filling::default();
        for number in 0..2 * limits::GAPS_ROOMS {
            filling.found(room(number), 0);
        }
        assert_eq!(filling.rooms.len(), limits::GAPS_ROOMS);
    }
}
