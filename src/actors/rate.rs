//! How often something may happen, in bursts and in the long run: one token bucket for all who count.
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: f64,
    /// In the long run.
    pub per_second: f64,
}

/// A moment on a clock that only goes forward.
pub trait Moment: Copy {
    /// Seconds since an earlier one; 0 where it is a later one.
    fn seconds_since(self, earlier: Self) -> f64;
}

impl Moment for Instant {
    fn seconds_since(self, earlier: Self) -> f64 {
        self.saturating_duration_since(earlier).as_secs_f64()
    }
}

/// Milliseconds.
impl Moment for u64 {
    fn seconds_since(self, earlier: Self) -> f64 {
        self.saturating_sub(earlier) as f64 / 1000.0
    }
}

/// What somebody has left of a [`Rate`].
#[derive(Debug, Clone)]
pub struct Bucket<T> {
    rate: Rate,
    /// Below zero, so much was taken ahead of its time.
    left: f64,
    at: T,
}

impl<T: Moment> Bucket<T> {
    /// Begins with a whole burst.
    pub fn full(rate: Rate, now: T) -> Self {
        Self { rate, left: rate.burst, at: now }
    }

    fn refill(&mut self, now: T) {
        let seconds = now.seconds_since(self.at);
        if seconds > 0.0 {
            self.left = (self.left + seconds * self.rate.per_second).min(self.rate.burst);
            self.at = now;
        }
    }

    /// Tells whether so many are left.
    pub fn has(&mut self, count: f64, now: T) -> bool {
        self.refill(now);
        self.left >= count
    }

    /// Tells whether nothing was taken lately: to forget such a bucket changes nothing.
    pub fn is_full(&mut self, now: T) -> bool {
        self.has(self.rate.burst, now)
    }

    /// Takes so many, or none where not so many are left.
    pub fn take(&mut self, count: f64, now: T) -> bool {
        let granted = self.has(count, now);
        if granted {
            self.left -= count;
        }
        granted
    }

    /// Takes so many that were used already; what is not left is made up for later.
    pub fn charge(&mut self, count: f64) {
        self.left -= count;
    }

    /// Returns after how long one can be taken, if nobody takes any before.
    pub fn wait(&mut self, now: T) -> Duration {
        self.refill(now);
        Duration::try_from_secs_f64((1.0 - self.left).max(0.0) / self.rate.per_second)
            .unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3.0, per_second: 2.0 };

    #[test]
    fn a_burst_is_granted_and_then_so_many_a_second() {
        let mut bucket = Bucket::full(RATE, 0_u64);
        let mut granted = |now| (0..10).filter(|_| bucket.take(1.0, now)).count();
        assert_eq!(granted(0), 3);
        assert_eq!(granted(400), 0);
        assert_eq!(granted(500), 1);
        assert_eq!(granted(60_000), 3, "no more than a burst is saved up");
        assert_eq!(granted(0), 0);
        assert_eq!(granted(60_000), 0, "a clock that goes back and forth gives nothing");
        assert!(!bucket.take(3.5, 100_000) && bucket.take(3.0, 100_000), "all or none");
    }

    #[test]
    fn what_was_taken_ahead_is_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::full(RATE, start);
        assert!(bucket.is_full(start));
        bucket.charge(5.0);
        assert_eq!(bucket.wait(start), Duration::from_millis(1500));
        let later = start + Duration::from_millis(1500);
        assert_eq!(bucket.wait(later), Duration::ZERO);
        assert!(bucket.take(1.0, later) && !bucket.is_full(later));
    }
}
