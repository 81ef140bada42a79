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
/// Requests of all servers; beyond, each gets [`SHARE`] only.
const TOTAL: usize = 256 * 1024;
/// What a server gets in any case.
const SHARE: usize = 64;
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

impl Window {
    /// Drops what cannot be fresh any more; returns how much that was.
    fn expire(&mut self, now: u64) -> usize {
        let before = self.order.len();
        while self.order.front().is_some_and(|(until, _)| *until < now) {
            if let Some((_, id)) = self.order.pop_front() {
                self.ids.remove(&id);
            }
        }
        before - self.order.len()
    }
}

/// The requests that came.
#[derive(Debug)]
pub struct Replay {
    origins: LruCache<OwnedServerName, Window>,
    total: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self { origins: LruCache::new(ORIGINS), total: 0 }
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
        if self.origins.len() == self.origins.cap().get() && !self.origins.contains(origin) {
            let (_, oldest) = self.origins.pop_lru().unzip();
            self.total -= oldest.map_or(0, |window| window.order.len());
        }
        if self.total >= TOTAL {
            let expired: usize =
                self.origins.iter_mut().map(|(_, window)| window.expire(now)).sum();
            self.total -= expired;
        }
        let window = self.origins.get_or_insert_mut(origin.to_owned(), Window::default);
        self.total -= window.expire(now);
        if window.ids.contains(request_id) {
            return Err(Refused::Seen);
        }
        let most = if self.total < TOTAL { PER_ORIGIN } else { SHARE };
        if window.order.len() >= most {
            return Err(Refused::TooMany);
        }
        // A clock that is ahead keeps a request fresh for longer; twice the time covers it, and
        // makes the order of arrival the order of expiry.
        let until = now.max(ts).saturating_add(2 * FRESH_MS);
        window.ids.insert(request_id.to_owned());
        window.order.push_back((until, request_id.to_owned()));
        self.total += 1;
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

    #[test]
    fn many_servers_together_do_not_fill_the_memory() {
        let mut replay = Replay::default();
        let names = (0..64).map(|n| OwnedServerName::try_from(format!("eve{n}")).unwrap());
        for eve in names {
            for id in 0..PER_ORIGIN {
                let _ = replay.admit(&eve, &id.to_string(), NOW, NOW);
            }
        }
        assert!(replay.total < TOTAL + 64 * SHARE, "{}", replay.total);
        let ann = ruma::server_name!("ann");
        for id in 0..SHARE {
            assert_eq!(replay.admit(ann, &id.to_string(), NOW, NOW), Ok(()), "her share is hers");
        }
        assert_eq!(replay.admit(ann, "more", NOW, NOW), Err(Refused::TooMany));
        let later = NOW + 2 * FRESH_MS + 1;
        assert_eq!(replay.admit(ann, "more", later, later), Ok(()));
        assert_eq!(replay.total, 1);
    }
}
