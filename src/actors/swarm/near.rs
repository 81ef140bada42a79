//! Nodes of the LAN that mDNS told of, and when each is dialled. Pure: time and chance are arguments.
//!
//! Invariant: each is dialled a few times, since mDNS does not tell of it again for minutes, and a dial
//! may get lost, or meet one from there.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use super::schedule::jittered;

/// Nodes that are dialled at once; of more, those that came first.
const NEAR_MAX: usize = 64;
/// How often each is dialled, and how long after another.
const TRIES: u8 = 5;
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Found {
    addresses: Vec<Multiaddr>,
    /// Dials that are left.
    tries: u8,
    due: Instant,
}

/// Who is near and not connected yet.
#[derive(Debug, Default)]
pub(super) struct Near {
    found: HashMap<PeerId, Found>,
}

impl Near {
    /// A node was found.
    pub(super) fn found(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if self.found.len() < NEAR_MAX || self.found.contains_key(&peer) {
            self.found.insert(peer, Found { addresses, tries: TRIES, due: now });
        }
    }

    /// It is connected.
    pub(super) fn over(&mut self, peer: &PeerId) {
        self.found.remove(peer);
    }

    /// Returns who is to be dialled now. `chance` is between 0 and 1, for each.
    pub(super) fn due(
        &mut self,
        now: Instant,
        mut chance: impl FnMut() -> f64,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut due = Vec::new();
        for (peer, found) in self.found.iter_mut().filter(|(_, found)| found.due <= now) {
            found.due = now + jittered(AGAIN, chance());
            found.tries = found.tries.saturating_sub(1);
            due.push((*peer, found.addresses.clone()));
        }
        self.found.retain(|_, found| found.tries > 0);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_near_is_dialled_a_few_times_until_it_is_connected() {
        let start = Instant::now();
        let mut near = Near::default();
        let (deaf, hears) = (PeerId::random(), PeerId::random());
        let at: Vec<Multiaddr> = vec!["/ip4/192.0.2.1/tcp/4848".parse().unwrap()];
        for peer in [deaf, hears] {
            near.found(peer, at.clone(), start);
        }
        let mut dials = Vec::new();
        for tenth in 0..600 {
            dials.extend(near.due(start + Duration::from_millis(100 * tenth), || 0.5));
            near.over(&hears);
        }
        let of = |peer: PeerId| dials.iter().filter(|(dialled, _)| *dialled == peer).count();
        assert_eq!((of(deaf), of(hears)), (usize::from(TRIES), 1));
        assert!(dials.iter().all(|(_, addresses)| *addresses == at));
        for _ in 0..2 * NEAR_MAX {
            near.found(PeerId::random(), at.clone(), start);
        }
        assert_eq!(near.due(start, || 0.5).len(), NEAR_MAX);
    }
}
