//! What a service manager is told: that the node is there, that it gets on, that it ends.
//!
//! systemd says by its environment that it wants to know (`Type=notify`, `WatchdogSec`). Others do not, and are
//! told nothing.

/// Says that the node is there, and in a line where.
#[cfg(target_os = "linux")]
pub fn ready(line: &str) {
    tell(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(line)]);
}

/// Says that the node is there: nobody asks.
#[cfg(not(target_os = "linux"))]
pub fn ready(_: &str) {}

/// Says that the node ends.
#[cfg(target_os = "linux")]
pub fn stopping() {
    tell(&[sd_notify::NotifyState::Stopping]);
}

/// Says that the node ends: nobody asks.
#[cfg(not(target_os = "linux"))]
pub fn stopping() {}

#[cfg(target_os = "linux")]
fn tell(what: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        log::debug!(error:%; "the service manager cannot be told anything");
    }
}

/// Tells the service manager from time to time that the node gets on. Time is an argument.
#[derive(Debug)]
pub struct Watchdog {
    /// How often it wants to hear it, in milliseconds; none where it does not.
    every: Option<u64>,
    next: u64,
}

impl Watchdog {
    /// Looks whether anybody wants to know.
    pub fn asked_for() -> Self {
        #[cfg(target_os = "linux")]
        let within = sd_notify::watchdog_enabled();
        #[cfg(not(target_os = "linux"))]
        let within: Option<std::time::Duration> = None;
        // Three times in the time that it waits: one may be late.
        let every = within.and_then(|within| u64::try_from(within.as_millis() / 3).ok());
        Self::every(every)
    }

    fn every(every: Option<u64>) -> Self {
        Self { every, next: 0 }
    }

    /// The node gets on at `now`, milliseconds of the uptime.
    pub fn gets_on(&mut self, now: u64) {
        if self.is_due(now) {
            #[cfg(target_os = "linux")]
            tell(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    fn is_due(&mut self, now: u64) -> bool {
        let Some(every) = self.every else { return false };
        let due = now >= self.next;
        if due {
            self.next = now.saturating_add(every);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_as_often_as_was_asked_and_no_more() {
        let told = |watchdog: &mut Watchdog| -> Vec<u64> {
            (0..30).map(|look| 5_000 + look * 1000).filter(|now| watchdog.is_due(*now)).collect()
        };
        assert_eq!(told(&mut Watchdog::every(Some(10_000))), [5_000, 15_000, 25_000]);
        assert!(told(&mut Watchdog::every(None)).is_empty());
    }
}
