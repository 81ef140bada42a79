//! Servers that came into the room just now. Gossip with them may not flow yet: both ends first have
//! to learn of the join, open gossip to each other and subscribe. Until then what is published goes
//! to them by a request of their own too. What comes from one of them by gossip shows that it flows:
//! whoever publishes subscribed before. Pure: the time is an argument.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use ruma::OwnedServerName;

/// How long a server is fresh, if nothing is heard of it: opening gossip takes some round trips.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// Servers that are fresh at the same time: who joins a large room is told by the first of them, and
/// tells them; gossip has the rest.
const FRESH_MAX: usize = 8;

/// Who is in the room, and who came just now.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    present: HashSet<OwnedServerName>,
    since: HashMap<OwnedServerName, Instant>,
}

impl Fresh {
    /// Starts with those that were there before.
    pub(super) fn new(present: impl IntoIterator<Item = OwnedServerName>) -> Self {
        Self { present: present.into_iter().collect(), since: HashMap::new() }
    }

    /// Takes who is in the room now.
    pub(super) fn update(&mut self, servers: &[OwnedServerName], now: Instant) {
        self.lapse(now);
        let present: HashSet<OwnedServerName> = servers.iter().cloned().collect();
        self.since.retain(|server, _| present.contains(server));
        for server in present.difference(&self.present) {
            if self.since.len() < FRESH_MAX {
                self.since.insert(server.clone(), now);
            }
        }
        self.present = present;
    }

    /// Gossip of a server came.
    pub(super) fn heard(&mut self, server: &OwnedServerName) {
        self.since.remove(server);
    }

    /// Returns those that came just now, but for `own`.
    pub(super) fn servers(&mut self, own: &OwnedServerName, now: Instant) -> Vec<OwnedServerName> {
        self.lapse(now);
        self.since.keys().filter(|server| *server != own).cloned().collect()
    }

    fn lapse(&mut self, now: Instant) {
        self.since.retain(|_, since| now.duration_since(*since) < FRESH_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: usize) -> OwnedServerName {
        OwnedServerName::try_from(format!("s{number}")).unwrap()
    }

    fn servers(numbers: std::ops::Range<usize>) -> Vec<OwnedServerName> {
        numbers.map(server).collect()
    }

    #[test]
    fn who_came_is_fresh_for_a_while_and_few_are_at_once() {
        let (own, start) = (server(0), Instant::now());
        let mut fresh = Fresh::new(servers(0..2));
        assert!(fresh.servers(&own, start).is_empty(), "they were there before");
        fresh.update(&servers(0..3), start);
        assert_eq!(fresh.servers(&own, start), servers(2..3));
        fresh.update(&servers(0..3), start + Duration::from_secs(1));
        assert_eq!(fresh.servers(&own, start + FRESH_FOR - Duration::from_millis(1)).len(), 1);
        assert!(fresh.servers(&own, start + FRESH_FOR).is_empty());
        fresh.update(&servers(0..100), start);
        assert_eq!(fresh.servers(&own, start).len(), FRESH_MAX);
        fresh.update(&servers(0..2), start);
        assert!(fresh.servers(&own, start).is_empty(), "they left");
        fresh.update(&servers(0..4), start);
        fresh.heard(&server(2));
        assert_eq!(fresh.servers(&own, start), servers(3..4));
    }

    #[test]
    fn we_are_not_fresh_to_ourselves() {
        let (own, now) = (server(0), Instant::now());
        let mut fresh = Fresh::default();
        fresh.update(&servers(0..2), now);
        assert_eq!(fresh.servers(&own, now), servers(1..2));
    }
}
