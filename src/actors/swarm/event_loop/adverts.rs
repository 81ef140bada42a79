//! Being found: which keys are published in which DHT, and when. Pure: time and chance are
//! arguments.
//!
//! Invariants: in the public DHT keys go out one after another, hours apart, and only once there is
//! an address to be found at (servers refuse a record without, and libp2p does not tell); what
//! nobody there gives back is published again soon, a few times.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::super::schedule::jittered;

/// Among nodes of our family records are short-lived, so that an old name is soon gone
/// (`docs/PROTOCOL.md` §6).
const AGAIN_FAMILY: Duration = Duration::from_secs(10 * 60);
/// In the public DHT records live two days: this often is enough, and what others do.
const AGAIN_WORLD: Duration = Duration::from_secs(3 * 60 * 60);
/// Between two keys: each asks dozens of strangers.
const STEP_WORLD: Duration = Duration::from_secs(2);
/// Between two keys in our family: all of them at once.
const STEP_FAMILY: Duration = Duration::ZERO;
/// A key that nobody gives back is published again after this.
const UNSEEN_AGAIN: Duration = Duration::from_secs(5 * 60);
/// And this often: a server that leaves the asker out of its answers looks the same.
const UNSEEN_MAX: u8 = 3;

/// What became of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Key {
    published: bool,
    seen: bool,
    unseen: u8,
}

/// What is published in one DHT.
#[derive(Debug)]
pub(super) struct Adverts {
    again: Duration,
    step: Duration,
    keys: BTreeMap<Vec<u8>, Key>,
    waiting: VecDeque<Vec<u8>>,
    /// When all keys are published again.
    due: Option<Instant>,
    /// When the next one is.
    next: Option<Instant>,
}

impl Adverts {
    pub(super) fn family() -> Self {
        Self::new(AGAIN_FAMILY, STEP_FAMILY)
    }

    pub(super) fn world() -> Self {
        Self::new(AGAIN_WORLD, STEP_WORLD)
    }

    fn new(again: Duration, step: Duration) -> Self {
        Self { again, step, keys: BTreeMap::new(), waiting: VecDeque::new(), due: None, next: None }
    }

    /// Sets the keys; returns those that are dropped.
    pub(super) fn set(&mut self, keys: &BTreeSet<Vec<u8>>, now: Instant) -> Vec<Vec<u8>> {
        let dropped: Vec<_> =
            self.keys.keys().filter(|key| !keys.contains(*key)).cloned().collect();
        let known = std::mem::take(&mut self.keys);
        let kept = |key: &Vec<u8>| known.get(key).copied().unwrap_or_default();
        self.keys = keys.iter().map(|key| (key.clone(), kept(key))).collect();
        self.waiting.retain(|key| keys.contains(key));
        self.due = (!self.keys.is_empty()).then_some(now);
        dropped
    }

    /// All is published again, at the latest after this.
    pub(super) fn hurry(&mut self, at: Instant) {
        self.due = self.due.map(|due| due.min(at));
    }

    /// Returns the keys to be published now.
    pub(super) fn take(&mut self, now: Instant, chance: f64) -> Vec<Vec<u8>> {
        if self.due.is_some_and(|due| due <= now) {
            self.due = Some(now + jittered(self.again, chance));
            self.waiting = self.keys.keys().cloned().collect();
        }
        let mut taken = Vec::new();
        while self.next.is_none_or(|next| next <= now) {
            let Some(key) = self.waiting.pop_front() else { break };
            self.next = Some(now + self.step);
            taken.push(key);
        }
        taken
    }

    /// A key went out.
    pub(super) fn published(&mut self, key: &[u8]) {
        if let Some(key) = self.keys.get_mut(key) {
            key.published = true;
        }
    }

    /// It was looked for; true where all keys were given back for the first time.
    pub(super) fn read_back(&mut self, key: &[u8], seen: bool, now: Instant) -> bool {
        let before = self.all_seen();
        let Some(state) = self.keys.get_mut(key) else { return false };
        state.seen = seen;
        if seen {
            state.unseen = 0;
        } else if state.unseen < UNSEEN_MAX {
            state.unseen += 1;
            self.hurry(now + UNSEEN_AGAIN);
        }
        !before && self.all_seen()
    }

    fn all_seen(&self) -> bool {
        !self.keys.is_empty() && self.keys.values().all(|key| key.seen)
    }

    /// Returns how many keys there are, how many went out, and how many others gave back.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let count = |good: fn(&Key) -> bool| self.keys.values().filter(|key| good(key)).count();
        (self.keys.len(), count(|key| key.published), count(|key| key.seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(all: &[u8]) -> BTreeSet<Vec<u8>> {
        all.iter().map(|key| vec![*key]).collect()
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn in_the_family_all_go_out_at_once_every_ten_minutes() {
        let start = Instant::now();
        let mut adverts = Adverts::family();
        assert_eq!(adverts.take(start, 0.5), Vec::<Vec<u8>>::new());
        adverts.set(&keys(&[1, 2, 3]), start);
        assert_eq!(adverts.take(start, 0.5).len(), 3);
        assert_eq!(adverts.take(at(start, 599), 0.5).len(), 0);
        assert_eq!(adverts.take(at(start, 601), 0.5).len(), 3);
        adverts.hurry(at(start, 700));
        assert_eq!(adverts.take(at(start, 700), 0.5).len(), 3);
    }

    #[test]
    fn the_public_dht_gets_one_after_another_every_three_hours() {
        let start = Instant::now();
        let mut adverts = Adverts::world();
        adverts.set(&keys(&[1, 2]), start);
        assert_eq!(adverts.take(start, 0.5), [[1]]);
        assert_eq!(adverts.take(at(start, 1), 0.5).len(), 0);
        assert_eq!(adverts.take(at(start, 2), 0.5), [[2]]);
        assert_eq!(adverts.take(at(start, 3 * 3600 - 1), 0.5).len(), 0);
        assert_eq!(adverts.take(at(start, 3 * 3600 + 1), 0.5), [[1]]);
    }

    #[test]
    fn dropped_keys_are_named_and_stay_away() {
        let start = Instant::now();
        let mut adverts = Adverts::world();
        adverts.set(&keys(&[1, 2]), start);
        assert_eq!(adverts.take(start, 0.5), [[1]]);
        assert_eq!(adverts.set(&keys(&[1, 3]), start), [[2]]);
        assert_eq!(adverts.take(at(start, 2), 0.5), [[1]]);
        assert_eq!(adverts.take(at(start, 4), 0.5), [[3]]);
        assert_eq!(adverts.set(&keys(&[]), start).len(), 2);
        assert_eq!(adverts.take(at(start, 100_000), 0.5).len(), 0);
    }

    #[test]
    fn what_nobody_gives_back_is_published_again_a_few_times() {
        let mut now = Instant::now();
        let mut adverts = Adverts::world();
        adverts.set(&keys(&[1]), now);
        for _ in 0..UNSEEN_MAX {
            assert_eq!(adverts.take(now, 0.5), [[1]]);
            adverts.published(&[1]);
            assert!(!adverts.read_back(&[1], false, now));
            assert_eq!(adverts.take(at(now, 299), 0.5).len(), 0);
            now = at(now, 300);
        }
        assert_eq!(adverts.take(now, 0.5), [[1]]);
        adverts.read_back(&[1], false, now);
        assert_eq!(adverts.take(at(now, 300), 0.5).len(), 0, "patience has an end");
        assert_eq!(adverts.counts(), (1, 1, 0));
        assert!(adverts.read_back(&[1], true, now), "told once");
        assert!(!adverts.read_back(&[1], true, now));
        assert_eq!(adverts.counts(), (1, 1, 1));
    }
}
