//! How much a gossiping peer is trusted: less with each forged message that it handed on. Pure: the
//! time is an argument.
//!
//! gossipsub counts forged messages only by topic, with parameters for each of them, and rewards
//! and demands traffic there: in rooms where nobody may speak for days, that punishes the silent. So
//! they are counted here, whatever the topic, and given to gossipsub as the score of the application.
//! Invariants: who hands on nothing wrong has the score 0, however silent; a fault weighs the same
//! whoever it is of, and is forgotten.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

/// What a forged message costs.
const FORGED: f64 = -50.0;
/// After this, half of it is forgotten; after ten minutes two thirds.
const HALF_LIFE: Duration = Duration::from_secs(6 * 60);
/// Below this, a peer is not told of messages that it may ask for: two forged ones.
pub(super) const GOSSIP: f64 = -99.0;
/// Below this, it gets no messages of ours: four.
pub(super) const PUBLISH: f64 = -199.0;
/// Below this, nothing of it is read: eight. Requests still are.
pub(super) const GRAYLIST: f64 = -399.0;
/// A peer can get no worse: else a flood of an hour would never be forgiven.
const WORST: f64 = -2_000.0;
/// What is above this is forgotten.
const FORGIVEN: f64 = -1.0;
/// Peers with faults that are remembered, connected or not.
const PEERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The scores of peers that are not perfect.
#[derive(Debug)]
pub(super) struct Scores<P: Eq + Hash>(LruCache<P, (f64, Instant)>);

impl<P: Eq + Hash> Default for Scores<P> {
    fn default() -> Self {
        Self(LruCache::new(PEERS_MAX))
    }
}

fn decayed((score, at): (f64, Instant), now: Instant) -> f64 {
    let halves = now.saturating_duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
    let score = score * 0.5_f64.powf(halves);
    if score > FORGIVEN { 0.0 } else { score }
}

impl<P: Copy + Eq + Hash> Scores<P> {
    /// A peer handed on a forged message: returns its score.
    pub(super) fn forged(&mut self, peer: P, now: Instant) -> f64 {
        let score = (self.of(&peer, now) + FORGED).max(WORST);
        self.0.put(peer, (score, now));
        score
    }

    /// Returns the score of a peer.
    pub(super) fn of(&self, peer: &P, now: Instant) -> f64 {
        self.0.peek(peer).map_or(0.0, |entry| decayed(*entry, now))
    }

    /// Returns all scores, and forgets those that are perfect again.
    pub(super) fn all(&mut self, now: Instant) -> Vec<(P, f64)> {
        let all: Vec<_> =
            self.0.iter().map(|(peer, entry)| (*peer, decayed(*entry, now))).collect();
        for (peer, score) in &all {
            if *score == 0.0 {
                self.0.pop(peer);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_is_shut_out_and_forgiven_and_nobody_else_is_touched() {
        let (mut scores, start) = (Scores::<u8>::default(), Instant::now());
        let after: Vec<f64> = (0..8).map(|_| scores.forged(1, start)).collect();
        let below = |limit: f64| after.iter().filter(|score| **score >= limit).count() + 1;
        assert_eq!([GOSSIP, PUBLISH, GRAYLIST].map(below), [2, 4, 8]);
        assert_eq!(scores.of(&2, start), 0.0, "silent and honest");
        for _ in 0..1000 {
            scores.forged(1, start);
        }
        assert_eq!(scores.of(&1, start), WORST);
        assert!(scores.of(&1, start + HALF_LIFE) < GRAYLIST);
        assert!(scores.of(&1, start + HALF_LIFE * 3) > GRAYLIST, "heard again");
        let late = start + HALF_LIFE * 12;
        assert_eq!(scores.all(late), [(1, 0.0)]);
        assert!(scores.all(late).is_empty(), "forgotten");
    }

    #[test]
    fn one_mistake_shuts_nobody_out() {
        let (mut scores, start) = (Scores::<u8>::default(), Instant::now());
        for number in 0..20 {
            assert!(scores.forged(1, start + HALF_LIFE * number * 2) > GOSSIP);
        }
    }
}
