//! What a node counts of its work, for whoever watches it: the status page (`actors/status_page/`) and
//! Prometheus (`metrics.rs`).
//!
//! One small place, cloned to those who count. Invariants: counting never waits, and takes no lock; what is
//! counted names nobody: no server, no room, no content.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the spans that are told apart, in milliseconds; beyond the last there is one more.
pub const SPANS_MS: [u64; 13] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];
/// Spans that are told apart.
const SPANS: usize = SPANS_MS.len() + 1;

/// What goes over the network, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// What is said in rooms.
    Gossip,
    /// Requests between servers, and their answers.
    Requests,
    /// Pictures and files.
    Media,
}

impl Flow {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gossip, Self::Requests, Self::Media];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Requests => "requests",
            Self::Media => "media",
        }
    }
}

/// What became of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is handed on.
    Accepted,
    /// It is not, and nobody is to blame.
    Ignored,
    /// It is not, and who handed it on is to blame.
    Rejected,
    /// There was no time, place or key to look at it.
    NotLookedAt,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Ignored, Self::Rejected, Self::NotLookedAt];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ignored => "ignored",
            Self::Rejected => "rejected",
            Self::NotLookedAt => "not_looked_at",
        }
    }
}

/// Why work was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// What was said in a room was not gossiped: the network task was too far behind.
    PublishBehind,
    /// A verdict on gossip got lost for the same reason.
    VerdictBehind,
    /// A request or an answer was not sent for the same reason.
    RequestBehind,
    /// What came from the network was not taken in: the node was too far behind.
    ReceiveBehind,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::PublishBehind, Self::VerdictBehind, Self::RequestBehind, Self::ReceiveBehind];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PublishBehind => "publish_behind",
            Self::VerdictBehind => "verdict_behind",
            Self::RequestBehind => "request_behind",
            Self::ReceiveBehind => "receive_behind",
        }
    }
}

/// What takes a client's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// Sending an event: until it is on disk and answered.
    Send,
    /// Reading what a `/sync` is answered with, from the moment there is something to tell.
    Sync,
}

impl Timed {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Send, Self::Sync];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Sync => "sync",
        }
    }
}

/// How often something took how long.
#[derive(Debug, Default)]
struct Spans {
    counts: [AtomicU64; SPANS],
    micros: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    received: [AtomicU64; Flow::ALL.len()],
    sent: [AtomicU64; Flow::ALL.len()],
    verdicts: [AtomicU64; Verdict::ALL.len()],
    dropped: [AtomicU64; Dropped::ALL.len()],
    timed: [Spans; Timed::ALL.len()],
}

/// The counters of a node.
#[derive(Debug, Clone, Default)]
pub struct Meters(Arc<Counts>);

impl Meters {
    /// So many bytes came.
    pub fn received(&self, flow: Flow, bytes: usize) {
        add(&self.0.received, flow as usize, bytes as u64);
    }

    /// So many bytes were sent.
    pub fn sent(&self, flow: Flow, bytes: usize) {
        add(&self.0.sent, flow as usize, bytes as u64);
    }

    /// A gossip message was judged.
    pub fn judged(&self, verdict: Verdict) {
        add(&self.0.verdicts, verdict as usize, 1);
    }

    /// Something was dropped.
    pub fn dropped(&self, why: Dropped) {
        add(&self.0.dropped, why as usize, 1);
    }

    /// Something took so long.
    pub fn took(&self, what: Timed, span: Duration) {
        let Some(spans) = self.0.timed.get(what as usize) else { return };
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let at = SPANS_MS.iter().position(|most| micros <= most * 1000).unwrap_or(SPANS - 1);
        add(&spans.counts, at, 1);
        spans.micros.fetch_add(micros, Relaxed);
    }

    /// Reads all counters.
    pub fn read(&self) -> Reading {
        let Counts { received, sent, verdicts, dropped, timed } = &*self.0;
        Reading {
            received: received.each_ref().map(|count| count.load(Relaxed)),
            sent: sent.each_ref().map(|count| count.load(Relaxed)),
            verdicts: verdicts.each_ref().map(|count| count.load(Relaxed)),
            dropped: dropped.each_ref().map(|count| count.load(Relaxed)),
            timed: timed.each_ref().map(|spans| SpansRead {
                counts: spans.counts.each_ref().map(|count| count.load(Relaxed)),
                micros: spans.micros.load(Relaxed),
            }),
        }
    }
}

fn add(counts: &[AtomicU64], at: usize, much: u64) {
    if let Some(count) = counts.get(at) {
        count.fetch_add(much, Relaxed);
    }
}

/// All counters at one moment; each in the order of its kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that came.
    pub received: [u64; Flow::ALL.len()],
    /// Bytes that were sent.
    pub sent: [u64; Flow::ALL.len()],
    /// Gossip that was judged.
    pub verdicts: [u64; Verdict::ALL.len()],
    /// What was dropped.
    pub dropped: [u64; Dropped::ALL.len()],
    /// What took how long.
    pub timed: [SpansRead; Timed::ALL.len()],
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpansRead {
    /// How often no longer than each of [`SPANS_MS`] and longer than the one before; the last: longer.
    pub counts: [u64; SPANS],
    /// All together, in microseconds.
    pub micros: u64,
}

impl SpansRead {
    /// Returns what came since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        Self { counts, micros: self.micros.saturating_sub(earlier.micros) }
    }

    /// Returns how often it was.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns how long it took on average, in milliseconds; none where it never was.
    pub fn mean_ms(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.micros as f64 / 1000.0 / count as f64)
    }

    /// Returns the span within which this part of them was done, as far as spans are told apart, in
    /// milliseconds.
    pub fn within_ms(&self, part: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut so_far = 0;
        let mut sums = self.counts.iter().map(|count| {
            so_far += count;
            so_far
        });
        let at = sums.position(|sum| sum > 0 && sum >= wanted)?;
        SPANS_MS.get(at).or(SPANS_MS.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read() {
        let meters = Meters::default();
        meters.clone().received(Flow::Media, 5);
        meters.received(Flow::Media, 7);
        meters.sent(Flow::Gossip, 1);
        meters.judged(Verdict::Rejected);
        meters.dropped(Dropped::ReceiveBehind);
        let read = meters.read();
        assert_eq!((read.received, read.sent), ([0, 0, 12], [1, 0, 0]));
        assert_eq!((read.verdicts, read.dropped), ([0, 0, 1, 0], [0, 0, 0, 1]));
    }

    #[test]
    fn spans_fall_into_the_first_that_holds_them() {
        let meters = Meters::default();
        for micros in [0, 1000, 1001, 10_000_000, 10_000_001, u64::MAX / 4] {
            meters.took(Timed::Sync, Duration::from_micros(micros));
        }
        let [send, sync] = meters.read().timed;
        assert_eq!(send, SpansRead::default());
        assert_eq!((sync.counts[0], sync.counts[1]), (2, 1), "{sync:?}");
        assert_eq!((sync.counts[12], sync.counts[13]), (1, 2), "{sync:?}");
        assert_eq!((send.mean_ms(), send.within_ms(0.5)), (None, None));
    }

    #[test]
    fn what_came_since_has_a_mean_and_parts() {
        let meters = Meters::default();
        meters.took(Timed::Send, Duration::from_secs(100));
        let before = meters.read();
        for ms in [1, 2, 3, 994] {
            meters.took(Timed::Send, Duration::from_millis(ms));
        }
        let since = meters.read().timed[0].since(&before.timed[0]);
        assert_eq!((since.count(), since.mean_ms()), (4, Some(250.0)));
        assert_eq!((since.within_ms(0.5), since.within_ms(0.95)), (Some(2), Some(1000)));
    }

    #[test]
    fn each_kind_has_a_place_and_a_name_of_its_own() {
        let mut names: Vec<&str> = Flow::ALL.map(Flow::name).to_vec();
        names.extend(Verdict::ALL.map(Verdict::name));
        names.extend(Dropped::ALL.map(Dropped::name));
        names.extend(Timed::ALL.map(Timed::name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(at, verdict as usize);
        }
    }
}
