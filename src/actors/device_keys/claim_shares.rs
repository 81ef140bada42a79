//! How many one-time keys of a device another server may claim. Pure.
//!
//! Each claim takes a key for good. Whoever took all would have everybody else begin with the fallback
//! key, which is the same for all; so each server has a share of each device's keys, and gets the fallback
//! key beyond it. Clients upload new ones as they go.

use std::collections::HashMap;

use ruma::{OwnedServerName, OwnedUserId};

use crate::{
    actors::rate::{Bucket, Moment, Rate},
    config::limits,
};

fn share() -> Rate {
    let per_second = limits::CLAIM_EVERY.as_secs_f64().recip();
    Rate { burst: f64::from(limits::CLAIMS), per_second }
}

/// What each server has left of the keys of each device.
#[derive(Debug)]
pub(super) struct ClaimShares<T = std::time::Instant> {
    left: HashMap<OwnedServerName, HashMap<(OwnedUserId, String), Bucket<T>>>,
}

impl<T> Default for ClaimShares<T> {
    fn default() -> Self {
        Self { left: HashMap::new() }
    }
}

impl<T: Moment> ClaimShares<T> {
    /// Tells whether a server may have a one-time key of a device, and takes it from its share.
    pub(super) fn take(
        &mut self,
        origin: &OwnedServerName,
        user_id: &OwnedUserId,
        device_id: &str,
        now: T,
    ) -> bool {
        let device = (user_id.clone(), device_id.to_owned());
        if !self.left.get(origin).is_some_and(|of_server| of_server.contains_key(&device)) {
            if self.len() >= limits::CLAIM_SHARES {
                self.forget(now);
            }
            if self.len() >= limits::CLAIM_SHARES {
                return false;
            }
        }
        let of_server = self.left.entry(origin.clone()).or_default();
        let full = || Bucket::full(share(), now);
        of_server.entry(device).or_insert_with(full).take(1.0, now)
    }

    fn len(&self) -> usize {
        self.left.values().map(HashMap::len).sum()
    }

    /// Forgets who claimed nothing lately.
    fn forget(&mut self, now: T) {
        self.left.retain(|_, of_server| {
            of_server.retain(|_, bucket| !bucket.is_full(now));
            !of_server.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const DAY: u64 = 24 * 60 * 60 * 1000;

    #[test]
    fn attack_16_one_server_takes_its_share_of_one_time_keys_and_leaves_the_rest() {
        let mut shares = ClaimShares::default();
        let (eve, bob) = (server_name!("eve.org").to_owned(), server_name!("bob.org").to_owned());
        let ann = user_id!("@ann:x").to_owned();
        let mut taken = |server: &_, device: &str, now| {
            (0..1000).filter(|_| shares.take(server, &ann, device, now)).count()
        };
        let share = limits::CLAIMS as usize;
        assert_eq!(taken(&eve, "D", NOW), share);
        assert_eq!(taken(&eve, "D", NOW), 0);
        assert_eq!(taken(&eve, "E", NOW), share, "of another device");
        assert_eq!(taken(&bob, "D", NOW), share, "another server");
        assert_eq!(taken(&eve, "D", NOW + DAY), share, "another day");
        assert!(2 * share <= limits::ONE_TIME_KEYS);
    }

    #[test]
    fn attack_16_who_is_counted_are_so_many() {
        let mut shares = ClaimShares::default();
        let eve = server_name!("eve.org").to_owned();
        let ann = user_id!("@ann:x").to_owned();
        for n in 0..limits::CLAIM_SHARES {
            assert!(shares.take(&eve, &ann, &n.to_string(), NOW));
        }
        assert!(!shares.take(&eve, &ann, "one more", NOW));
        assert!(shares.take(&eve, &ann, "one more", NOW + DAY), "the others are forgotten");
        assert_eq!(shares.len(), 1);
    }
}
