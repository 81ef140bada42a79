//! The servers that are met: on which footing, and when heads are compared with each next.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use actix::SpawnHandle;
use ruma::{OwnedServerName, ServerName};

/// Heads are compared again this long after the last time, and up to half as much later.
const EVERY: Duration = Duration::from_secs(120);
/// The same after an exchange that failed; doubled each time, up to [`EVERY`].
pub(super) const AGAIN: Duration = Duration::from_secs(5);
/// The same after gossip of the server was lost here, which its next announcement may be too.
const SOON: Duration = Duration::from_secs(3);
/// The same after a connection to it was made or lost beside others: several may be in a row.
const CHANGED: Duration = Duration::from_millis(500);
/// The same after it asked, and had other heads than we have.
const ASKED: Duration = Duration::from_secs(1);
/// What it asked with then is remembered, so many times: two nodes whose heads stay different (what
/// one refused, the other may have) do not ask each other for ever.
pub(super) const DIFFERENCES_MAX: usize = 64;

/// How a server is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Footing {
    /// It is connected.
    Connected,
    /// It is not, and it is being found out whether others carry to it.
    Sought,
    /// Others carry to it.
    Carried,
}

/// The servers that are met.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    open: HashMap<OwnedServerName, Meeting>,
    /// Of the last meeting, so that an exchange knows whether its own still goes on.
    number: u64,
}

/// One server that is met.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) footing: Footing,
    pub(super) number: u64,
    pub(super) running: bool,
    pub(super) planned: Option<SpawnHandle>,
    /// Why the next exchange is to come soon, since the last one began.
    pub(super) reason: Option<Reason>,
    pub(super) failures: u32,
    /// When the last exchange ended.
    pub(super) ended: Option<Instant>,
    /// The differences for which it was asked back, hashed.
    pub(super) differences: HashSet<u64>,
}

/// Why heads are compared soon; the most urgent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Gossip was lost, or went out before we listened.
    Lost,
    /// The server has other heads.
    Differs,
    /// A connection to it was made or lost.
    Changed,
}

impl Meeting {
    /// Returns how long to wait for the next exchange; `chance` is between 0 and 1.
    pub(super) fn pause(&self, chance: f64) -> Duration {
        let pause = match (self.failures.checked_sub(1), self.reason) {
            (_, Some(Reason::Changed)) => CHANGED,
            (None, Some(Reason::Differs)) => {
                let since = self.ended.map_or(AGAIN, |at| at.elapsed());
                ASKED.max(AGAIN.saturating_sub(since).mul_f64(0.5))
            }
            (None, Some(Reason::Lost)) => SOON,
            (None, None) => EVERY,
            (Some(before), _) => AGAIN.saturating_mul(1 << before.min(16)).min(EVERY),
        };
        pause.mul_f64(1.0 + chance / 2.0)
    }
}

impl Meetings {
    /// A meeting begins, in the place of one on another footing.
    pub(super) fn begin(&mut self, server: &OwnedServerName, footing: Footing) {
        self.number += 1;
        let meeting = Meeting {
            footing,
            number: self.number,
            running: false,
            planned: None,
            reason: None,
            failures: 0,
            ended: None,
            differences: HashSet::new(),
        };
        self.open.insert(server.clone(), meeting);
    }

    /// A meeting is over.
    pub(super) fn end(&mut self, server: &OwnedServerName) -> Option<SpawnHandle> {
        self.open.remove(server)?.planned
    }

    /// A meeting goes on, on this footing.
    pub(super) fn settle(&mut self, server: &OwnedServerName, footing: Footing) {
        if let Some(meeting) = self.open.get_mut(server) {
            meeting.footing = footing;
        }
    }

    /// Returns a meeting that goes on.
    pub(super) fn get_mut(&mut self, server: &ServerName) -> Option<&mut Meeting> {
        self.open.get_mut(server)
    }

    /// Returns how a server is met.
    pub(super) fn footing(&self, server: &OwnedServerName) -> Option<Footing> {
        self.open.get(server).map(|meeting| meeting.footing)
    }

    /// Tells whether a server is there, by itself or through others.
    pub(super) fn is_met(&self, server: &ServerName) -> bool {
        let meeting = self.open.get(server);
        meeting.is_some_and(|meeting| meeting.footing != Footing::Sought)
    }

    /// Returns how many are met on a footing.
    pub(super) fn count(&self, footing: Footing) -> usize {
        self.open.values().filter(|meeting| meeting.footing == footing).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until the next exchange.
    fn pause_after(failures: u32, reason: Option<Reason>, chance: f64) -> u128 {
        let mut meetings = Meetings::default();
        let server = ruma::owned_server_name!("ann");
        meetings.begin(&server, Footing::Connected);
        let meeting = meetings.open.get_mut(&server).unwrap();
        (meeting.failures, meeting.reason) = (failures, reason);
        meeting.pause(chance).as_millis()
    }

    #[test]
    fn what_may_have_gone_astray_is_compared_within_five_seconds() {
        for reason in [Reason::Changed, Reason::Differs, Reason::Lost] {
            assert!(pause_after(0, Some(reason), 1.0) < 5_000, "{reason:?}");
        }
        assert!(pause_after(9, Some(Reason::Changed), 1.0) < 5_000, "whoever failed is back");
        assert!(Reason::Changed > Reason::Differs && Reason::Differs > Reason::Lost);
    }

    #[test]
    fn lost_gossip_is_made_up_for_soon() {
        let lost = Some(Reason::Lost);
        assert_eq!([0.0, 1.0].map(|chance| pause_after(0, lost, chance)), [3000, 4500]);
        assert_eq!(pause_after(2, lost, 0.0), 10_000, "who cannot be reached is not asked sooner");
    }

    #[test]
    fn failures_are_tried_again_soon_and_ever_later() {
        let pause = |failures, chance| pause_after(failures, None, chance) / 1000;
        assert_eq!([0, 1, 2, 3, 5, 6, 40].map(|n| pause(n, 0.0)), [120, 5, 10, 20, 80, 120, 120]);
        assert_eq!((pause(0, 1.0), pause(1, 0.5)), (180, 6));
    }
}
