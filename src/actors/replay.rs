//! Which signed requests came already: each counts once (`docs/PROTOCOL.md` §4). Pure.
//!
//! Invariants: bounded; what is remembered is kept for as long as the request could count as
//! fresh. A server that fills its share is refused rather than forgotten, since a forgotten
//! request could be replayed.

use std::{
    collections::{HashSet, VecDeque},
    num::NonZeroUsize,
};

use lru::LruCache;
use ruma::{OwnedServerName, ServerName};

use crate::proto::signed::FRESH_MS;

/// Requests of one server within the time they are fresh.
const PER_ORIGIN: usize = 8192;
/// Servers that are remembered.
const ORIGINS: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// Longest request id that is looked at.
const ID_MAX: usize = 64;

/// Why a request does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It came before.
    Seen,
    /// Its server sends too many.
    TooMany,
    /// Its id is empty or too long.
    BadId,
}

/// What came from one server.
#[derive(Debug, Default)]
struct Window {
    ids: HashSet<String>,
    order: VecDeque<(u64, String)>,
}

/// The requests that came.
#[derive(Debug)]
pub struct Replay {
    origins: LruCache<OwnedServerName, Window>,
}

impl Default for Replay {
    fn default() -> Self {
        Self { origins: LruCache::new(ORIGINS) }
    }
}

impl Replay {
    /// Tells whether a verified request counts, and remembers it. Times are in milliseconds; `ts`
    /// was found to be fresh.
    pub fn admit(
        &mut self,
        origin: &ServerName,
        request_id: &str,
        ts: u64,
        now: u64,
    ) -> Result<(), Refused> {
        if request_id.is_empty() || request_id.len() > ID_MAX {
            return Err(Refused::BadId);
        }
        let window = self.origins.get_or_insert_mut(origin.to_owned(), Window::default);
        while let Some((until, _)) = window.order.front() {
            if *until >= now {
                break;
            }
            if let Some((_, id)) = window.order.pop_front() {
                window.ids.remove(&id);
            }
        }
        if window.ids.contains(request_id) {
            return Err(Refused::Seen);
        }
        if window.order.len() >= PER_ORIGIN {
            return Err(Refused::TooMany);
        }
        // A clock that is ahead keeps a request fresh for longer; twice the time covers it, and
        // makes the order of arrival the order of expiry.
        let until = now.max(ts).saturating_add(2 * FRESH_MS);
        window.ids.insert(request_id.to_owned());
        window.order.push_back((until, request_id.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn each_request_counts_once_for_each_origin() {
        let (ann, bob) = (ruma::server_name!("ann"), ruma::server_name!("bob"));
        let mut replay = Replay::default();
        for (origin, id, now, expected) in [
            (ann, "1", NOW, Ok(())),
            (ann, "1", NOW, Err(Refused::Seen)),
            (bob, "1", NOW, Ok(())),
            (ann, "2", NOW, Ok(())),
            (ann, "1", NOW + FRESH_MS, Err(Refused::Seen)),
            (ann, "", NOW, Err(Refused::BadId)),
            // Not fresh any more, so somebody else refuses it; the place is free again.
            (ann, "1", NOW + 2 * FRESH_MS + 1, Ok(())),
        ] {
            assert_eq!(replay.admit(origin, id, NOW, now), expected, "{origin} {id} {now}");
        }
        assert_eq!(replay.admit(ann, &"x".repeat(65), NOW, NOW), Err(Refused::BadId));
    }

    #[test]
    fn a_flood_is_refused_and_makes_nothing_forgotten() {
        let (ann, eve) = (ruma::server_name!("ann"), ruma::server_name!("eve"));
        let mut replay = Replay::default();
        replay.admit(ann, "1", NOW, NOW).unwrap();
        for id in 0..PER_ORIGIN {
            replay.admit(eve, &id.to_string(), NOW, NOW).unwrap();
        }
        assert_eq!(replay.admit(eve, "more", NOW, NOW), Err(Refused::TooMany));
        assert_eq!(replay.admit(eve, "0", NOW, NOW), Err(Refused::Seen));
        assert_eq!(replay.admit(ann, "1", NOW, NOW), Err(Refused::Seen));
        let later = NOW + 2 * FRESH_MS + 1;
        assert_eq!(replay.admit(eve, "more", later, later), Ok(()));
    }
}
