//! Members whose servers are not connected: which of them to look for next, and when. Somebody whom we
//! share a room with may carry what we ask them. Pure: the time and chance are arguments.
//!
//! Invariant: whoever is not found is looked for ever more rarely, however often others come and go.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use ruma::OwnedServerName;

/// After the first search that found nobody; doubled each time, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
/// How soon those are looked for again whom somebody who just came may carry to.
const SOON: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Search {
    next: Instant,
    last: Option<Instant>,
    failures: u32,
}

/// Those who are not connected.
#[derive(Debug, Default)]
pub(super) struct Absent {
    searches: HashMap<OwnedServerName, Search>,
    order: BTreeSet<(Instant, OwnedServerName)>,
}

impl Absent {
    /// Somebody is not connected: they are looked for at `at`, or before where that is planned.
    pub(super) fn add(&mut self, server: &OwnedServerName, at: Instant) {
        if !self.searches.contains_key(server) {
            let search = Search { next: at, last: None, failures: 0 };
            self.searches.insert(server.clone(), search);
            self.order.insert((at, server.clone()));
        }
        self.bring_forward(server, at);
    }

    /// Somebody is connected, was reached, or shares no room any more.
    pub(super) fn remove(&mut self, server: &OwnedServerName) {
        if let Some(search) = self.searches.remove(server) {
            self.order.remove(&(search.next, server.clone()));
        }
    }

    /// Tells whether a server is absent.
    pub(super) fn contains(&self, server: &OwnedServerName) -> bool {
        self.searches.contains_key(server)
    }

    /// Returns who is to be looked for now, and plans their next search. `chance` is between 0
    /// and 1.
    pub(super) fn next(&mut self, now: Instant, chance: f64) -> Option<OwnedServerName> {
        let (due, _) = self.order.first()?;
        if *due > now {
            return None;
        }
        let (_, server) = self.order.pop_first()?;
        let search = self.searches.get_mut(&server)?;
        let pause = PAUSE.saturating_mul(1 << search.failures.min(16)).min(PAUSE_MAX);
        search.failures = search.failures.saturating_add(1);
        search.last = Some(now);
        search.next = now + pause.mul_f64(1.0 + chance / 2.0);
        self.order.insert((search.next, server.clone()));
        Some(server)
    }

    /// Somebody came who may carry: all are looked for soon, but for those who just were.
    pub(super) fn hurry(&mut self, now: Instant) {
        let servers: Vec<_> = self.searches.keys().cloned().collect();
        for server in servers {
            self.hint(&server, now);
        }
    }

    /// There may be a way to somebody: they are looked for soon, unless they just were.
    pub(super) fn hint(&mut self, server: &OwnedServerName, now: Instant) {
        let search = self.searches.get(server);
        if search.is_some_and(|search| search.last.is_none_or(|last| last + PAUSE <= now)) {
            self.bring_forward(server, now + SOON);
        }
    }

    fn bring_forward(&mut self, server: &OwnedServerName, at: Instant) {
        let Some(search) = self.searches.get_mut(server).filter(|search| at < search.next) else {
            return;
        };
        self.order.remove(&(search.next, server.clone()));
        search.next = at;
        self.order.insert((at, server.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_not_found_is_looked_for_ever_more_rarely() {
        let (start, ann) = (Instant::now(), server("ann"));
        let mut absent = Absent::default();
        absent.add(&ann, start);
        let mut searches = Vec::new();
        for second in 0..4 * 3600 {
            if let Some(found) = absent.next(after(start, second), 0.0) {
                assert_eq!(found, ann);
                searches.push(second);
            }
        }
        assert_eq!(searches, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]);
        absent.remove(&ann);
        assert_eq!(absent.next(after(start, 100_000), 0.0), None);
        assert!(absent.order.is_empty() && !absent.contains(&ann));
    }

    #[test]
    fn who_comes_brings_the_searches_forward_once_a_while() {
        let (start, ann, bob) = (Instant::now(), server("ann"), server("bob"));
        let mut absent = Absent::default();
        absent.add(&ann, start);
        absent.add(&bob, after(start, 500));
        assert_eq!(absent.next(start, 1.0), Some(ann.clone()));
        assert_eq!(absent.next(after(start, 10), 0.0), None);
        absent.hurry(after(start, 10));
        assert_eq!(absent.next(after(start, 11), 0.0), None);
        assert_eq!(absent.next(after(start, 12), 0.0), Some(bob.clone()));
        assert_eq!(absent.next(after(start, 12), 0.0), None, "she was just looked for");
        absent.hurry(after(start, 80));
        assert_eq!(absent.next(after(start, 82), 0.0), Some(bob), "as it was planned");
        assert_eq!(absent.next(after(start, 82), 0.0), Some(ann), "since somebody came");
        assert_eq!(absent.next(after(start, 82), 0.0), None);
    }

    #[test]
    fn what_is_planned_is_not_put_off() {
        let (start, ann) = (Instant::now(), server("ann"));
        let mut absent = Absent::default();
        absent.add(&ann, after(start, 5));
        absent.add(&ann, after(start, 50));
        assert_eq!(absent.next(after(start, 4), 0.0), None);
        assert_eq!(absent.next(after(start, 5), 0.0), Some(ann.clone()));
        absent.add(&ann, after(start, 7));
        assert_eq!(absent.next(after(start, 7), 0.0), Some(ann));
        assert_eq!(absent.order.len(), 1);
    }
}
