//! The clocks of the actors. Pure code gets the time as an argument instead.
//!
//! The time of day is what others sign by, and may be set at any moment: a machine without a battery
//! learns it from the network. Spans are measured by the other clock, which nobody sets.

use std::time::{SystemTime, UNIX_EPOCH};

pub use crate::platform::clock::uptime_ms;

/// A smaller step of the clock concerns nobody: what is signed counts for minutes either way.
const STEP_MS: u64 = 1000;

/// Returns the milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Notices when the clock of this machine is set.
#[derive(Debug)]
pub struct ClockWatch {
    /// The time of day minus the uptime.
    apart_ms: i64,
}

impl ClockWatch {
    /// Begins at this moment.
    pub fn new(now: u64, uptime: u64) -> Self {
        Self { apart_ms: apart(now, uptime) }
    }

    /// Returns by how much the clock was set since the last look, forward above zero. A sleep of the
    /// machine is none of it: both clocks go on.
    pub fn look(&mut self, now: u64, uptime: u64) -> Option<i64> {
        let before = std::mem::replace(&mut self.apart_ms, apart(now, uptime));
        let step = self.apart_ms.saturating_sub(before);
        (step.unsigned_abs() >= STEP_MS).then_some(step)
    }
}

fn apart(now: u64, uptime: u64) -> i64 {
    now.cast_signed().saturating_sub(uptime.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_set_is_noticed() {
        let mut watch = ClockWatch::new(1_000_000, 50);
        for (now, uptime, step) in [
            (1_002_000, 2_050, None),
            // It slept for a day.
            (87_402_000, 86_402_050, None),
            // It is slewed.
            (87_404_010, 86_404_050, None),
            // It is put right by an hour, one way and the other.
            (91_006_010, 86_406_050, Some(3_600_000)),
            (87_408_010, 86_408_050, Some(-3_600_000)),
            (87_410_010, 86_410_050, None),
            (0, 86_412_050, Some(-87_412_010)),
        ] {
            assert_eq!(watch.look(now, uptime), step, "{now}");
        }
    }

    #[test]
    fn spans_go_on() {
        let before = uptime_ms();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(uptime_ms() >= before + 20);
    }
}
