//! When to try again. Pure: time and chance are arguments.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// A doubling delay with jitter, so that nodes which lost the same peer do not come back at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    due: Instant,
    wait: Duration,
}

impl Backoff {
    /// Due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, wait: FIRST }
    }

    /// Tells whether it is time; then the next time is set. `chance` is between 0 and 1.
    pub(super) fn fire(&mut self, now: Instant, chance: f64) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + self.wait.mul_f64(0.5 + chance.clamp(0.0, 1.0));
        self.wait = (self.wait * 2).min(LONGEST);
        true
    }

    /// The next try comes within a while, however often it failed.
    pub(super) fn hurry(&mut self, now: Instant, within: Duration) {
        self.due = self.due.min(now + within);
    }

    /// It worked: the next failure is followed by a try after `wait`.
    pub(super) fn rest(&mut self, now: Instant, wait: Duration) {
        self.due = now + wait;
        self.wait = FIRST;
    }
}

/// Spreads a wait from nine to eleven tenths, so that nodes which started together do not stay so.
/// `chance` is between 0 and 1.
pub(super) fn jittered(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_start_over() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(backoff.fire(now, 0.5));
            assert!(!backoff.fire(now, 0.5));
            waits.push((backoff.due - now).as_secs());
            now = backoff.due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        backoff.rest(now, Duration::ZERO);
        assert!(backoff.fire(now, 0.0));
        assert!(!backoff.fire(now + Duration::from_millis(499), 0.0));
        assert!(backoff.fire(now + Duration::from_millis(500), 0.0));
    }

    #[test]
    fn a_hurry_shortens_a_delay_and_never_lengthens_one() {
        let start = Instant::now();
        let mut backoff = Backoff::new(start);
        backoff.rest(start, LONGEST);
        backoff.hurry(start, FIRST);
        assert_eq!(backoff.due, start + FIRST);
        backoff.hurry(start, LONGEST);
        assert_eq!(backoff.due, start + FIRST);
    }
}
