//! Links between simulated nodes: latency, loss, partitions, one way or both.

use std::collections::BTreeMap;

/// Chance from a seed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns something between 0 and 1.
    pub(super) fn chance(&mut self) -> f64 {
        self.below(1000) as f64 / 1000.0
    }
}

/// What the links do now.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Per cent of what is lost.
    pub(super) loss: u64,
    /// Milliseconds, and up to three times that.
    pub(super) latency: u64,
    /// Which side of a partition each node is on.
    pub(super) sides: Vec<u64>,
    /// Per cent of what is lost on one way; nothing comes through where it is 100.
    pub(super) one_way: BTreeMap<(usize, usize), u64>,
}

impl Links {
    /// Links on which nothing is wrong.
    pub(super) fn whole(nodes: usize) -> Self {
        Self { latency: 40, sides: vec![0; nodes], ..Self::default() }
    }

    /// Tells whether two nodes are connected.
    pub(super) fn connects(&self, one: usize, other: usize) -> bool {
        one != other && self.sides.get(one) == self.sides.get(other)
    }

    /// Returns how long a message is on its way; none where it is lost.
    pub(super) fn way(&self, from: usize, to: usize, dice: &mut Dice) -> Option<u64> {
        let latency = self.latency + dice.below(2 * self.latency + 1);
        let one_way = self.one_way.get(&(from, to)).copied().unwrap_or_default();
        let lost = !self.connects(from, to) || dice.percent(one_way) || dice.percent(self.loss);
        (!lost).then_some(latency)
    }
}
