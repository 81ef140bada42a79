//! The counters of the last hour, for plots. Pure: readings and their times are arguments.
//!
//! Invariant: no more than [`limits::STATUS_SAMPLES`] are kept; a span in which nothing happened has no
//! latency, which is not the same as none that could be noticed.

use std::collections::VecDeque;

use serde::Serialize;

use crate::{config::limits, meters::Reading};

/// What was between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Sample {
    /// When it ended, in seconds since 1970.
    pub(super) at: u64,
    /// Bytes a second that came.
    pub(super) received: u64,
    /// Bytes a second that were sent.
    pub(super) sent: u64,
    /// Within how many milliseconds half of what clients sent was answered; none where nothing was.
    pub(super) send_ms: Option<u64>,
    /// The same of nineteen in twenty.
    pub(super) send_slow_ms: Option<u64>,
    /// How many milliseconds news were on their way to clients, on average.
    pub(super) sync_ms: Option<f64>,
}

/// The last samples, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    last: Option<(u64, Reading)>,
    samples: VecDeque<Sample>,
}

impl History {
    /// Takes in a reading, made at this time in milliseconds since 1970.
    pub(super) fn read(&mut self, at_ms: u64, reading: Reading) {
        let Some((before_ms, before)) = self.last.replace((at_ms, reading.clone())) else {
            return;
        };
        // The clock may have been set back.
        let Some(ms) = at_ms.checked_sub(before_ms).filter(|ms| *ms > 0) else { return };
        let rate = |now: &[u64], before: &[u64]| {
            let bytes = now.iter().sum::<u64>().saturating_sub(before.iter().sum());
            bytes.saturating_mul(1000) / ms
        };
        let [send, sync] = &reading.timed;
        let [send_before, sync_before] = &before.timed;
        let send = send.since(send_before);
        if self.samples.len() >= limits::STATUS_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at: at_ms / 1000,
            received: rate(&reading.received, &before.received),
            sent: rate(&reading.sent, &before.sent),
            send_ms: send.within_ms(0.5),
            send_slow_ms: send.within_ms(0.95),
            sync_ms: sync.since(sync_before).mean_ms().map(|ms| (ms * 10.0).round() / 10.0),
        });
    }

    /// Returns the newest sample.
    pub(super) fn newest(&self) -> Option<Sample> {
        self.samples.back().copied()
    }

    /// Returns all samples as JSON.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(&self.samples).unwrap_or_else(|_| "[]".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::meters::{Flow, Meters, Timed};

    #[test]
    fn rates_and_latencies_are_of_what_was_between_two_readings() {
        let (meters, mut history) = (Meters::default(), History::default());
        meters.received(Flow::Media, 1_000_000);
        history.read(5_000, meters.read());
        assert_eq!(history.newest(), None, "one reading is no span");
        meters.received(Flow::Gossip, 20_000);
        meters.sent(Flow::Requests, 5_000);
        meters.took(Timed::Send, Duration::from_millis(2));
        meters.took(Timed::Sync, Duration::from_micros(340));
        history.read(15_000, meters.read());
        let expected = Sample {
            at: 15,
            received: 2000,
            sent: 500,
            send_ms: Some(2),
            send_slow_ms: Some(2),
            sync_ms: Some(0.3),
        };
        assert_eq!(history.newest(), Some(expected));
        history.read(25_000, meters.read());
        let quiet = history.newest().unwrap();
        assert_eq!((quiet.received, quiet.send_ms, quiet.sync_ms), (0, None, None));
    }

    #[test]
    fn an_hour_is_kept_and_a_clock_that_is_set_back_makes_no_sample() {
        let mut history = History::default();
        for second in 0..=limits::STATUS_SAMPLES as u64 + 10 {
            history.read(second * 1000, Reading::default());
        }
        assert_eq!(history.samples.len(), limits::STATUS_SAMPLES);
        assert_eq!(history.samples.front().unwrap().at, 11);
        let newest = history.newest();
        history.read(0, Reading::default());
        assert_eq!(history.newest(), newest);
        let samples: Vec<serde_json::Value> = serde_json::from_str(&history.to_json()).unwrap();
        assert_eq!(samples.len(), limits::STATUS_SAMPLES);
    }
}
