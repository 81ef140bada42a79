//! What this node carries for others, and how much of it. Pure.
//!
//! Invariants: an origin costs at most its share, in work at once and over time; a sealed request
//! is carried once, so that none goes in circles; what is remembered is bounded, and where that is
//! full, what is new is refused.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::{OwnedServerName, ServerName};

use crate::actors::rate::{Bucket, Rate};

/// Requests of one origin, a minute's in a burst: the pieces of a large room's state, and some more.
const REQUESTS: Rate = Rate { burst: 240.0, per_second: 240.0 / 60.0 };
/// Bytes of one origin, there and back, a minute's in a burst: the same in base64.
const BYTES: Rate = Rate { burst: 96.0 * MIB, per_second: 96.0 * MIB / 60.0 };
const MIB: f64 = 1024.0 * 1024.0;
/// Carried at once, for everybody. Each holds a request of 1.4 MiB at most, or its answer.
const IN_WORK_MAX: usize = 64;
/// Carried at once for one origin.
const IN_WORK_ORIGIN: usize = 16;
/// Origins whose share is counted.
const ORIGINS_MAX: usize = 1024;
/// Sealed requests that are remembered.
const CARRIED_MAX: usize = 16 * 1024;

/// Why something is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Its origin, or all together, have too much carried.
    Busy,
    /// It came before.
    Carried,
}

#[derive(Debug)]
struct Share {
    in_work: usize,
    requests: Bucket<u64>,
    bytes: Bucket<u64>,
}

impl Share {
    fn is_idle(&mut self, now: u64) -> bool {
        self.in_work == 0 && self.requests.is_full(now) && self.bytes.is_full(now)
    }
}

/// Sealed requests that came, until they are dead.
#[derive(Debug, Default)]
struct Seen {
    hashes: HashSet<[u8; 32]>,
    order: VecDeque<(u64, [u8; 32])>,
}

impl Seen {
    fn expire(&mut self, now: u64) {
        // The order is that of arrival; one that lives longer keeps those after it a little.
        while self.order.front().is_some_and(|(until, _)| *until < now) {
            if let Some((_, hash)) = self.order.pop_front() {
                self.hashes.remove(&hash);
            }
        }
    }

    fn insert(&mut self, hash: [u8; 32], until: u64) {
        if self.hashes.insert(hash) {
            self.order.push_back((until, hash));
        }
    }
}

/// What is being carried, and what was.
#[derive(Debug, Default)]
pub(super) struct Carriage {
    origins: HashMap<OwnedServerName, Share>,
    carried: Seen,
    opened: Seen,
    in_work: usize,
}

impl Carriage {
    /// Takes a sealed request to carry. Where it is taken, [`Self::end`] is owed.
    pub(super) fn begin(
        &mut self,
        origin: &ServerName,
        hash: [u8; 32],
        len: usize,
        expires_ts: u64,
        now: u64,
    ) -> Result<(), Denied> {
        self.carried.expire(now);
        if self.carried.hashes.contains(&hash) {
            return Err(Denied::Carried);
        }
        if self.origins.len() >= ORIGINS_MAX {
            self.origins.retain(|_, share| !share.is_idle(now));
        }
        let full = self.origins.len() >= ORIGINS_MAX && !self.origins.contains_key(origin);
        if full || self.carried.order.len() >= CARRIED_MAX || self.in_work >= IN_WORK_MAX {
            return Err(Denied::Busy);
        }
        let share = self.origins.entry(origin.to_owned()).or_insert(Share {
            in_work: 0,
            requests: Bucket::full(REQUESTS, now),
            bytes: Bucket::full(BYTES, now),
        });
        let len = len as f64;
        if share.in_work >= IN_WORK_ORIGIN
            || !share.bytes.has(len, now)
            || !share.requests.take(1.0, now)
        {
            return Err(Denied::Busy);
        }
        share.in_work += 1;
        share.bytes.charge(len);
        self.in_work += 1;
        self.carried.insert(hash, expires_ts);
        Ok(())
    }

    /// Something that was carried is done with; `len` is that of its answer, which counts too.
    pub(super) fn end(&mut self, origin: &ServerName, len: usize) {
        self.in_work = self.in_work.saturating_sub(1);
        if let Some(share) = self.origins.get_mut(origin) {
            share.in_work = share.in_work.saturating_sub(1);
            share.bytes.charge(len as f64);
        }
    }

    /// Tells whether a request that was sealed to us is opened for the first time. Only verified
    /// ones are asked for; where too many are remembered, the oldest is forgotten, since the
    /// request inside is remembered by its origin too.
    pub(super) fn open(&mut self, hash: [u8; 32], expires_ts: u64, now: u64) -> bool {
        self.opened.expire(now);
        if self.opened.hashes.contains(&hash) {
            return false;
        }
        if self.opened.order.len() >= CARRIED_MAX
            && let Some((_, oldest)) = self.opened.order.pop_front()
        {
            self.opened.hashes.remove(&oldest);
        }
        self.opened.insert(hash, expires_ts);
        true
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const UNTIL: u64 = NOW + 300_000;

    fn hash(number: usize) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn nothing_is_carried_twice_while_it_lives() {
        let (ann, bob) = (server_name!("ann"), server_name!("bob"));
        let mut carriage = Carriage::default();
        for (origin, at, expected) in [
            (ann, NOW, Ok(())),
            (ann, NOW, Err(Denied::Carried)),
            (bob, UNTIL, Err(Denied::Carried)),
            (bob, UNTIL + 1, Ok(())),
        ] {
            assert_eq!(carriage.begin(origin, hash(1), 10, UNTIL, at), expected);
        }
        assert!(carriage.open(hash(1), UNTIL, NOW));
        assert!(!carriage.open(hash(1), UNTIL, NOW), "a carrier replays it");
        assert!(carriage.open(hash(2), UNTIL, NOW));
    }

    #[test]
    fn an_origin_gets_its_share_of_requests() {
        let (ann, bob) = (server_name!("ann"), server_name!("bob"));
        let mut carriage = Carriage::default();
        let mut carried = 0;
        while carriage.begin(ann, hash(carried), 10, UNTIL, NOW).is_ok() {
            carriage.end(ann, 10);
            carried += 1;
        }
        assert_eq!(carried, REQUESTS.burst as usize);
        assert_eq!(carriage.begin(bob, hash(carried), 10, UNTIL, NOW), Ok(()));
        let later = NOW + 1000;
        assert_eq!(carriage.begin(ann, hash(carried + 1), 10, UNTIL, later), Ok(()));
    }

    #[test]
    fn an_origin_gets_its_share_of_bytes() {
        let ann = server_name!("ann");
        let mut carriage = Carriage::default();
        let half = BYTES.burst as usize / 2 + 1;
        assert_eq!(carriage.begin(ann, hash(1), half, UNTIL, NOW), Ok(()));
        carriage.end(ann, half);
        assert_eq!(carriage.begin(ann, hash(2), 1, UNTIL, NOW), Err(Denied::Busy));
        assert_eq!(carriage.begin(ann, hash(2), 1, UNTIL, NOW + 1000), Ok(()));
    }

    #[test]
    fn work_at_once_is_bounded_for_one_and_for_all() {
        let mut carriage = Carriage::default();
        let mut number = 0;
        for origin in 0..IN_WORK_MAX / IN_WORK_ORIGIN {
            let origin = OwnedServerName::try_from(format!("s{origin}")).unwrap();
            for _ in 0..IN_WORK_ORIGIN {
                assert_eq!(carriage.begin(&origin, hash(number), 1, UNTIL, NOW), Ok(()));
                number += 1;
            }
            assert_eq!(carriage.begin(&origin, hash(number), 1, UNTIL, NOW), Err(Denied::Busy));
        }
        let next = server_name!("next");
        assert_eq!(carriage.begin(next, hash(number), 1, UNTIL, NOW), Err(Denied::Busy));
        carriage.end(server_name!("s0"), 0);
        assert_eq!(carriage.begin(next, hash(number), 1, UNTIL, NOW), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut carriage = Carriage::default();
        for number in 0..ORIGINS_MAX {
            let origin = OwnedServerName::try_from(format!("s{number}")).unwrap();
            assert_eq!(carriage.begin(&origin, hash(number), 1, UNTIL, NOW), Ok(()));
            carriage.end(&origin, 1);
        }
        let next = server_name!("next");
        let refused = carriage.begin(next, hash(ORIGINS_MAX), 1, UNTIL, NOW);
        assert_eq!(refused, Err(Denied::Busy));
        let later = NOW + 60_000;
        assert_eq!(carriage.begin(next, hash(ORIGINS_MAX), 1, UNTIL, later), Ok(()));
        for number in 0..CARRIED_MAX + 10 {
            assert!(carriage.open(hash(number), UNTIL, NOW));
        }
        assert_eq!(carriage.opened.hashes.len(), CARRIED_MAX);
    }
}
