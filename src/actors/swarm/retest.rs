//! Which of our addresses are tested once more, and when. Pure: time and chance are arguments.
//!
//! Somebody may have a router forward a port at any time, and AutoNAT says no for good the first time
//! (`probing.rs`). So what failed is tested again after a while, then more and more rarely, and soon
//! where our network changed. Invariants: a bounded number of addresses; never more often than
//! [`AGAIN`], but for a change of our network.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libp2p::Multiaddr;

/// The first time that what failed is tested again. Each time costs a connection to a public node, and
/// a dial of that node.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest that somebody who set a router up has to wait for it to be noticed.
const RAREST: Duration = Duration::from_secs(8 * 60);
/// The same where our network changed: until what comes of it has come.
const SOON: Duration = Duration::from_secs(5);
/// A test begins this long before a connection is made for it. The library looks every 5 s, and a
/// second connection to a node is given up when it is as old: this way it is used before.
const HEAD_START: Duration = Duration::from_secs(3);
/// Addresses that are tested again; a machine has a few, on TCP and QUIC.
const ADDRESSES_MAX: usize = 8;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Forget what failed, and offer these.
    Offer(Vec<Multiaddr>),
    /// Connect somebody who tests them.
    Connect,
}

/// The addresses that failed.
#[derive(Debug)]
pub(super) struct Retests {
    /// The newest last.
    failed: VecDeque<Multiaddr>,
    wait: Duration,
    due: Option<Instant>,
    connect: Option<Instant>,
}

impl Default for Retests {
    fn default() -> Self {
        Self { failed: VecDeque::new(), wait: AGAIN, due: None, connect: None }
    }
}

impl Retests {
    /// Nobody could connect us here. `chance` is between 0 and 1.
    pub(super) fn failed(&mut self, at: &Multiaddr, now: Instant, chance: f64) {
        if !self.failed.contains(at) {
            self.failed.push_back(at.clone());
        }
        if self.failed.len() > ADDRESSES_MAX {
            self.failed.pop_front();
        }
        if self.due.is_none() {
            self.due = Some(now + self.spread(chance));
        }
    }

    /// Somebody did.
    pub(super) fn passed(&mut self, at: &Multiaddr) {
        self.failed.retain(|known| known != at);
        if self.failed.is_empty() {
            self.connect = None;
        }
    }

    /// Our network changed, or the router did something.
    pub(super) fn changed(&mut self, now: Instant) {
        self.wait = AGAIN;
        if !self.failed.is_empty() {
            self.due = Some(self.due.map_or(now + SOON, |due| due.min(now + SOON)));
        }
    }

    /// Returns what is to be done now, if anything is.
    pub(super) fn step(&mut self, now: Instant, chance: f64) -> Option<Step> {
        if self.connect.is_some_and(|at| at <= now) {
            self.connect = None;
            return Some(Step::Connect);
        }
        self.due.filter(|due| *due <= now)?;
        if self.failed.is_empty() {
            (self.due, self.wait) = (None, AGAIN);
            return None;
        }
        self.wait = (self.wait * 2).min(RAREST);
        self.due = Some(now + self.spread(chance));
        self.connect = Some(now + HEAD_START);
        Some(Step::Offer(self.failed.iter().cloned().collect()))
    }

    /// Nodes that lost their router together do not come back at once.
    fn spread(&self, chance: f64) -> Duration {
        super::schedule::jittered(self.wait, chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: usize) -> Multiaddr {
        format!("/ip4/203.0.113.2/tcp/{port}").parse().unwrap()
    }

    /// Runs a while; returns the seconds at which something was offered, and at which somebody was
    /// connected.
    fn run(tests: &mut Retests, start: Instant, seconds: std::ops::Range<u64>) -> [Vec<u64>; 2] {
        let (mut offered, mut connected) = (Vec::new(), Vec::new());
        for second in seconds {
            match tests.step(start + Duration::from_secs(second), 0.5) {
                Some(Step::Offer(_)) => offered.push(second),
                Some(Step::Connect) => connected.push(second),
                None => {}
            }
        }
        [offered, connected]
    }

    #[test]
    fn what_failed_is_tested_again_and_more_and_more_rarely() {
        let (start, mut tests) = (Instant::now(), Retests::default());
        assert_eq!(run(&mut tests, start, 0..1000), [[0; 0]; 2], "nothing failed");
        tests.failed(&at(1), start, 0.5);
        let [offered, connected] = run(&mut tests, start, 0..2000);
        assert_eq!(offered, [60, 180, 420, 900, 1380, 1860]);
        assert_eq!(connected, offered.iter().map(|at| at + 3).collect::<Vec<_>>());
    }

    #[test]
    fn what_passed_is_not_and_then_it_begins_anew() {
        let (start, mut tests) = (Instant::now(), Retests::default());
        for port in [1, 2] {
            tests.failed(&at(port), start, 0.5);
        }
        tests.passed(&at(1));
        let later = start + Duration::from_secs(60);
        assert_eq!(tests.step(later, 0.5), Some(Step::Offer(vec![at(2)])));
        tests.passed(&at(2));
        assert_eq!(run(&mut tests, start, 64..2000), [[0; 0]; 2]);
        tests.failed(&at(3), start, 0.5);
        assert_eq!(run(&mut tests, start, 0..100)[0], [60]);
    }

    #[test]
    fn a_change_of_the_network_hurries_it() {
        let (start, mut tests) = (Instant::now(), Retests::default());
        tests.changed(start);
        assert_eq!(run(&mut tests, start, 0..100), [[0; 0]; 2], "nothing failed");
        tests.failed(&at(1), start, 0.5);
        run(&mut tests, start, 0..1000);
        tests.changed(start + Duration::from_secs(1000));
        assert_eq!(run(&mut tests, start, 1000..1200)[0], [1005, 1125]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest() {
        let (start, mut tests) = (Instant::now(), Retests::default());
        for port in 1..=100 {
            tests.failed(&at(port), start, 0.5);
            tests.failed(&at(port), start, 0.5);
        }
        let Some(Step::Offer(offered)) = tests.step(start + RAREST, 0.5) else { panic!() };
        assert_eq!(offered, (93..=100).map(at).collect::<Vec<_>>());
    }
}
