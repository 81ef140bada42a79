//! How far our clock is from those of others, by what they signed just now. Pure; peers are opaque
//! keys.
//!
//! Only for telling a person: nothing is decided by it. Invariant: a peer counts once, by what it
//! signed last, so that one with a wrong clock, or a liar, moves the median as little as anybody.

use std::{collections::HashMap, hash::Hash};

/// Peers that are compared with: enough for a median, and little to keep.
const PEERS_MAX: usize = 64;

/// What the clocks of others say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClockStatus {
    /// The median of their clocks minus ours, in milliseconds: above zero where ours is behind.
    pub apart_ms: i64,
    /// How many nodes it is of.
    pub nodes: usize,
}

#[derive(Debug)]
struct Sample {
    apart_ms: i64,
    at: u64,
}

/// The clocks of others.
#[derive(Debug)]
pub(super) struct Clocks<P> {
    samples: HashMap<P, Sample>,
    count: u64,
}

impl<P> Default for Clocks<P> {
    fn default() -> Self {
        Self { samples: HashMap::new(), count: 0 }
    }
}

impl<P: Eq + Hash + Copy> Clocks<P> {
    /// Notes what a peer's clock showed minus what ours did.
    pub(super) fn note(&mut self, peer: P, apart_ms: i64) {
        self.count += 1;
        if self.samples.len() >= PEERS_MAX && !self.samples.contains_key(&peer) {
            let oldest = self.samples.iter().min_by_key(|(_, sample)| sample.at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.samples.remove(&oldest);
            }
        }
        self.samples.insert(peer, Sample { apart_ms, at: self.count });
    }

    /// Returns the median; nothing where nobody was heard yet.
    pub(super) fn read(&self) -> Option<ClockStatus> {
        let mut apart: Vec<i64> = self.samples.values().map(|sample| sample.apart_ms).collect();
        apart.sort_unstable();
        let apart_ms = *apart.get(apart.len() / 2)?;
        Some(ClockStatus { apart_ms, nodes: apart.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_last_words_counts() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.read(), None);
        for (peer, apart) in [(1, 9_000_000), (1, 20), (2, -10), (3, i64::MAX)] {
            clocks.note(peer, apart);
        }
        assert_eq!(
            clocks.read(),
            Some(ClockStatus { apart_ms: 20, nodes: 3 }),
            "a liar moves little"
        );
    }

    #[test]
    fn who_was_heard_longest_ago_makes_room() {
        let mut clocks = Clocks::default();
        clocks.note(0, 1_000_000);
        for peer in 1..=2 * PEERS_MAX {
            clocks.note(peer, 5);
        }
        assert_eq!(clocks.read(), Some(ClockStatus { apart_ms: 5, nodes: PEERS_MAX }));
        assert!(!clocks.samples.contains_key(&0));
    }
}
