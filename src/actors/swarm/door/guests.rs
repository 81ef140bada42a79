//! Who holds how many of the places for connections. Pure: time is an argument.
//!
//! Invariants: strangers and acquaintances have budgets of their own, so that members of shared
//! rooms always find a place; within a budget, who goes is who was quiet longest, and who is still
//! new goes last.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Connections to peers that do not speak our protocol, or have not proven who they are: DHT
/// servers, mostly.
const STRANGERS_MAX: usize = 96;
/// Connections to proven people with whom no room is shared. Identities cost nothing, so a proof
/// alone pins no place.
const ACQUAINTANCES_MAX: usize = 96;
/// A newcomer has this long to show server_keys.
const PROBATION: Duration = Duration::from_secs(10);

/// What a peer has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// Nothing.
    #[default]
    Stranger,
    /// Live server_keys that name it.
    Acquaintance,
    /// And a room is shared.
    Member,
}

#[derive(Debug)]
struct Guest<C> {
    connections: Vec<C>,
    standing: Standing,
    since: Instant,
    used: Instant,
}

/// Everybody who is connected.
#[derive(Debug)]
pub(super) struct Guests<P, C> {
    guests: HashMap<P, Guest<C>>,
    /// Peers that are needed, whoever they are: relays that carry connections to us.
    kept: Vec<P>,
}

impl<P: Copy + Eq + Hash, C: Copy + PartialEq> Guests<P, C> {
    pub(super) fn new() -> Self {
        Self { guests: HashMap::new(), kept: Vec::new() }
    }

    pub(super) fn came(&mut self, peer: P, connection: C, now: Instant) {
        let guest = self.guests.entry(peer).or_insert_with(|| Guest {
            connections: Vec::new(),
            standing: Standing::default(),
            since: now,
            used: now,
        });
        guest.connections.push(connection);
    }

    pub(super) fn left(&mut self, peer: &P, connection: C) {
        if let Some(guest) = self.guests.get_mut(peer) {
            guest.connections.retain(|open| *open != connection);
            if guest.connections.is_empty() {
                self.guests.remove(peer);
            }
        }
    }

    /// Something was said.
    pub(super) fn used(&mut self, peer: &P, now: Instant) {
        if let Some(guest) = self.guests.get_mut(peer) {
            guest.used = now;
        }
    }

    pub(super) fn rank(&mut self, peer: &P, standing: Standing) {
        if let Some(guest) = self.guests.get_mut(peer) {
            guest.standing = standing;
        }
    }

    pub(super) fn standing(&self, peer: &P) -> Option<Standing> {
        self.guests.get(peer).map(|guest| guest.standing)
    }

    /// These are not closed, whoever they are.
    pub(super) fn keep(&mut self, peers: Vec<P>) {
        self.kept = peers;
    }

    /// Returns how many connections those of a standing hold.
    pub(super) fn held(&self, standing: Standing) -> usize {
        let held = self.guests.values().filter(|guest| guest.standing == standing);
        held.map(|guest| guest.connections.len()).sum()
    }

    /// Returns the connections that are too many.
    pub(super) fn surplus(&self, now: Instant) -> Vec<(P, C)> {
        let strangers = self.over(Standing::Stranger, STRANGERS_MAX, now);
        strangers.chain(self.over(Standing::Acquaintance, ACQUAINTANCES_MAX, now)).collect()
    }

    fn over(
        &self,
        standing: Standing,
        budget: usize,
        now: Instant,
    ) -> impl Iterator<Item = (P, C)> {
        let surplus = self.held(standing).saturating_sub(budget);
        let mut guests: Vec<_> = match surplus {
            0 => Vec::new(),
            _ => self
                .guests
                .iter()
                .filter(|(peer, guest)| guest.standing == standing && !self.kept.contains(peer))
                .collect(),
        };
        guests.sort_by_key(|(_, guest)| {
            let new = now.saturating_duration_since(guest.since) < PROBATION;
            (new, guest.used)
        });
        let connections = guests.into_iter().flat_map(|(peer, guest)| {
            guest.connections.iter().map(|connection| (*peer, *connection))
        });
        connections.take(surplus).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn guests(number: u32, at: Instant) -> Guests<u32, u32> {
        let mut guests = Guests::new();
        for peer in 0..number {
            guests.came(peer, peer, at + SECOND * peer);
        }
        guests
    }

    #[test]
    fn the_longest_quiet_stranger_goes_first() {
        let start = Instant::now();
        let mut guests = guests(98, start);
        let late = start + SECOND * 200;
        assert_eq!(guests.surplus(late), [(0, 0), (1, 1)]);
        guests.used(&0, late);
        assert_eq!(guests.surplus(late), [(1, 1), (2, 2)]);
        guests.keep(vec![1, 2]);
        assert_eq!(guests.surplus(late), [(3, 3), (4, 4)], "a relay of ours stays");
        guests.left(&50, 50);
        guests.left(&51, 51);
        assert_eq!(guests.surplus(late), []);
    }

    #[test]
    fn a_newcomer_may_prove_itself_first() {
        let start = Instant::now();
        let mut guests = Guests::new();
        for peer in 0..96_u32 {
            guests.came(peer, peer, start);
            guests.used(&peer, start + SECOND * 60);
        }
        guests.came(100, 100, start + SECOND * 55);
        let first = guests.surplus(start + SECOND * 60);
        assert_eq!(first.len(), 1);
        assert_ne!(first, [(100, 100)], "it is new");
        assert_eq!(guests.surplus(start + SECOND * 66), [(100, 100)], "it had its time");
    }

    #[test]
    fn attack_13_no_crowd_takes_the_places_of_members() {
        let start = Instant::now();
        let late = start + SECOND * 1000;
        let mut guests = guests(300, start);
        for peer in 0..200 {
            guests.rank(&peer, Standing::Acquaintance);
        }
        for peer in 0..50 {
            guests.rank(&peer, Standing::Member);
        }
        let surplus = guests.surplus(late);
        let of = |range: std::ops::Range<u32>| {
            surplus.iter().filter(|(peer, _)| range.contains(peer)).count()
        };
        assert_eq!((of(0..50), of(50..200), of(200..300)), (0, 150 - 96, 100 - 96));
        assert_eq!(guests.held(Standing::Member), 50);
        assert_eq!(guests.standing(&0), Some(Standing::Member));
        guests.left(&0, 0);
        assert_eq!(guests.standing(&0), None);
    }
}
