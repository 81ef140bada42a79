//! Members of our rooms whose connection was lost, and when each is dialled again. Pure: time and
//! chance are arguments.
//!
//! Invariants: a member is dialled often at first, since most cuts are short, then more and more
//! rarely, and in the end not until somebody asks for it; never more than a few of them often.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

/// Members that are remembered; of more, those lost first are forgotten.
const LOST_MAX: usize = 256;
/// Members that are dialled often at once: with the time that a dial takes to fail they have to fit
/// into the limit of pending connections.
const OFTEN_MAX: usize = 8;
/// How often, and for how long.
const OFTEN: Duration = Duration::from_secs(2);
const OFTEN_FOR: Duration = Duration::from_secs(2 * 60);
/// The longest delay, to which it doubles after that.
const RAREST: Duration = Duration::from_secs(5 * 60);
/// After this, the member is left to the address book and the DHT.
const GIVEN_UP: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
struct Lost {
    addresses: Vec<Multiaddr>,
    since: Instant,
    due: Instant,
    wait: Duration,
}

/// A member to be dialled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// Even where an earlier dial still waits: what it waits for may have been lost in the cut.
    pub(super) often: bool,
}

/// Who was lost.
#[derive(Debug, Default)]
pub(super) struct Reunions {
    lost: HashMap<PeerId, Lost>,
}

impl Reunions {
    /// A member's last connection ended.
    pub(super) fn lost(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if addresses.is_empty() {
            return;
        }
        // The first time at once: it may only have changed its connection.
        self.lost.insert(peer, Lost { addresses, since: now, due: now, wait: OFTEN });
        if self.lost.len() > LOST_MAX {
            let oldest = self.lost.iter().min_by_key(|(_, lost)| lost.since);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.lost.remove(&oldest);
            }
        }
    }

    /// It is back, or no member any more.
    pub(super) fn over(&mut self, peer: &PeerId) {
        self.lost.remove(peer);
    }

    /// The network is back: everybody may be.
    pub(super) fn hurry(&mut self, now: Instant) {
        for lost in self.lost.values_mut() {
            lost.due = lost.due.min(now);
        }
    }

    /// Returns who is to be dialled now. `chance` is between 0 and 1, for each.
    pub(super) fn due(&mut self, now: Instant, mut chance: impl FnMut() -> f64) -> Vec<Due> {
        self.lost.retain(|_, lost| now.duration_since(lost.since) < GIVEN_UP);
        let mut newest: Vec<(Instant, PeerId)> =
            self.lost.iter().map(|(peer, lost)| (lost.since, *peer)).collect();
        newest.sort_by(|one, other| other.cmp(one));
        let mut due = Vec::new();
        for (place, (since, peer)) in newest.into_iter().enumerate() {
            let Some(lost) = self.lost.get_mut(&peer).filter(|lost| lost.due <= now) else {
                continue;
            };
            let often = place < OFTEN_MAX && now.duration_since(since) < OFTEN_FOR;
            lost.wait = if often { OFTEN } else { (lost.wait * 2).min(RAREST) };
            lost.due = now + lost.wait.mul_f64(0.5 + chance().clamp(0.0, 1.0));
            due.push(Due { peer, addresses: lost.addresses.clone(), often });
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somewhere() -> Vec<Multiaddr> {
        vec!["/ip4/203.0.113.2/tcp/4848".parse().unwrap()]
    }

    #[test]
    fn a_lost_member_is_dialled_often_then_rarely_then_not_at_all() {
        let start = Instant::now();
        let mut reunions = Reunions::default();
        let peer = PeerId::random();
        reunions.lost(peer, somewhere(), start);
        let mut dials = Vec::new();
        for second in 0..2 * GIVEN_UP.as_secs() {
            let due = reunions.due(start + Duration::from_secs(second), || 0.5);
            dials.extend(due.into_iter().map(|due| (second, due.often)));
        }
        let often = dials.iter().filter(|(_, often)| *often).count();
        assert_eq!(often, 60, "every 2 s for 2 minutes");
        assert_eq!(dials.first(), Some(&(0, true)));
        let rare: Vec<u64> = dials.iter().filter(|(_, often)| !often).map(|(at, _)| *at).collect();
        assert_eq!(rare.iter().take(4).collect::<Vec<_>>(), [&120, &124, &132, &148]);
        assert!(rare.iter().all(|second| *second < GIVEN_UP.as_secs()));
        let gaps = rare.windows(2).map(|pair| pair[1] - pair[0]);
        assert_eq!(gaps.max(), Some(RAREST.as_secs()));
    }

    #[test]
    fn who_is_back_is_not_dialled_and_a_sign_of_life_hurries_the_others() {
        let start = Instant::now();
        let mut reunions = Reunions::default();
        let (back, gone) = (PeerId::random(), PeerId::random());
        for peer in [back, gone] {
            reunions.lost(peer, somewhere(), start);
        }
        reunions.lost(PeerId::random(), Vec::new(), start);
        assert_eq!(reunions.due(start, || 0.5).len(), 2, "nobody without an address");
        reunions.over(&back);
        assert!(reunions.due(start, || 0.5).is_empty());
        reunions.hurry(start);
        let due = reunions.due(start, || 0.5);
        assert_eq!(due, [Due { peer: gone, addresses: somewhere(), often: true }]);
    }

    #[test]
    fn the_lost_are_bounded_and_few_are_dialled_often() {
        let start = Instant::now();
        let mut reunions = Reunions::default();
        for number in 0..2 * LOST_MAX {
            let then = start + Duration::from_millis(u64::try_from(number).unwrap());
            reunions.lost(PeerId::random(), somewhere(), then);
        }
        let due = reunions.due(start + Duration::from_secs(1), || 0.5);
        assert_eq!(due.len(), LOST_MAX);
        assert_eq!(due.iter().filter(|due| due.often).count(), OFTEN_MAX);
    }
}
