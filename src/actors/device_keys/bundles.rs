//! Which key bundles of other servers' users are kept, and what they say beside the lists. Pure.
//!
//! Invariants: of each user the newest one is kept; a server that has many takes the places of its own, and
//! where all is full, whose server has most.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, OwnedUserId, UserId};

use super::list::{KeyList, ListedDevice};
use crate::{
    config::limits,
    proto::key_bundle::{KeyBundle, is_over},
};

/// What is known of a bundle that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) issued_ts: u64,
    /// The number of the list that it tells.
    pub(super) stream_id: u64,
    pub(super) len: usize,
}

/// The bundles that are on disk, by server and user.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    servers: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, Kept>>,
    len: usize,
}

fn len_of(users: &BTreeMap<OwnedUserId, Kept>) -> usize {
    users.values().map(|kept| kept.len).sum()
}

/// Returns who was said longest ago, but for one.
fn oldest(users: &BTreeMap<OwnedUserId, Kept>, but: &UserId) -> Option<OwnedUserId> {
    let others = users.iter().filter(|(user_id, _)| *user_id != but);
    others.min_by_key(|(_, kept)| kept.issued_ts).map(|(user_id, _)| user_id.clone())
}

impl Bundles {
    /// Returns what is kept of a user.
    pub(super) fn get(&self, user_id: &UserId) -> Option<Kept> {
        self.servers.get(user_id.server_name())?.get(user_id).copied()
    }

    /// Tells whether something is kept of a user that still counts.
    pub(super) fn is_fresh(&self, user_id: &UserId, now: u64) -> bool {
        self.get(user_id).is_some_and(|kept| !is_over(kept.issued_ts, now))
    }

    /// Returns the users of a server of whom something is kept that still counts.
    pub(super) fn of_server(&self, server: &OwnedServerName, now: u64) -> Vec<OwnedUserId> {
        let users = self.servers.get(server).into_iter().flatten();
        let fresh = users.filter(|(_, kept)| !is_over(kept.issued_ts, now));
        fresh.map(|(user_id, _)| user_id.clone()).collect()
    }

    /// Returns when the newest one of a server was signed.
    pub(super) fn newest_of(&self, server: &OwnedServerName) -> Option<u64> {
        self.servers.get(server)?.values().map(|kept| kept.issued_ts).max()
    }

    /// Takes a bundle, if it is newer than the one that is kept; returns who gives way to it.
    pub(super) fn put(&mut self, user_id: &UserId, new: Kept) -> Option<Vec<OwnedUserId>> {
        if self.get(user_id).is_some_and(|kept| kept.issued_ts >= new.issued_ts) {
            return None;
        }
        self.forget(user_id);
        let server = user_id.server_name().to_owned();
        self.servers.entry(server.clone()).or_default().insert(user_id.to_owned(), new);
        self.len += new.len;
        let mut gone = Vec::new();
        while let Some(users) = self.servers.get(&server)
            && (users.len() > limits::KEY_BUNDLES_SERVER
                || len_of(users) > limits::KEY_BUNDLES_SERVER_LEN)
            && let Some(oldest) = oldest(users, user_id)
        {
            self.forget(&oldest);
            gone.push(oldest);
        }
        while self.len > limits::KEY_BUNDLES_ALL_LEN
            && let Some(users) = self.servers.values().max_by_key(|users| len_of(users))
            && let Some(oldest) = oldest(users, user_id)
        {
            self.forget(&oldest);
            gone.push(oldest);
        }
        Some(gone)
    }

    fn forget(&mut self, user_id: &UserId) {
        let Some(users) = self.servers.get_mut(user_id.server_name()) else { return };
        if let Some(kept) = users.remove(user_id) {
            self.len = self.len.saturating_sub(kept.len);
        }
        if users.is_empty() {
            self.servers.remove(user_id.server_name());
        }
    }

    /// Forgets those that count no more, and returns whose they were.
    pub(super) fn forget_over(&mut self, now: u64) -> Vec<OwnedUserId> {
        let all = self.servers.values().flatten();
        let over = all.filter(|(_, kept)| is_over(kept.issued_ts, now));
        let over: Vec<OwnedUserId> = over.map(|(user_id, _)| user_id.clone()).collect();
        for user_id in &over {
            self.forget(user_id);
        }
        over
    }
}

/// Returns what is known of a user's devices after a bundle that tells a newer list. It is marked as old: what
/// is today is asked of the user's server when that is there.
pub(super) fn learned(known: Option<&KeyList>, bundle: &KeyBundle) -> Option<KeyList> {
    if known.is_some_and(|known| known.stream_id >= bundle.stream_id) {
        return None;
    }
    // Names are not in a bundle.
    let name =
        |device_id: &String| known.and_then(|list| list.devices.get(device_id)?.name.clone());
    let devices = bundle.devices.iter().map(|(device_id, device)| {
        let fallback = device.fallback_keys.clone();
        let listed = ListedDevice { keys: device.keys.clone(), name: name(device_id), fallback };
        (device_id.clone(), listed)
    });
    Some(KeyList {
        stream_id: bundle.stream_id,
        stale: true,
        position: Some(known.and_then(|known| known.position).unwrap_or(0)),
        master_key: bundle.master_key.clone(),
        self_signing_key: bundle.self_signing_key.clone(),
        devices: devices.collect(),
        ..KeyList::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::key_bundle::tests::{bundle, signer};

    const NOW: u64 = 1_790_000_000_000;

    fn user(server: usize, number: usize) -> OwnedUserId {
        format!("@u{number:04}:s{server:04}").try_into().unwrap()
    }

    fn said(issued_ts: u64, len: usize) -> Kept {
        Kept { issued_ts, stream_id: 1, len }
    }

    #[test]
    fn the_newest_bundle_of_a_user_stays() {
        let mut bundles = Bundles::default();
        let ann = user(1, 1);
        for (issued_ts, taken) in [(NOW, true), (NOW, false), (NOW - 1, false), (NOW + 1, true)] {
            assert_eq!(bundles.put(&ann, said(issued_ts, 10)).is_some(), taken, "{issued_ts}");
        }
        assert_eq!((bundles.get(&ann), bundles.len), (Some(said(NOW + 1, 10)), 10));
        let server = ann.server_name().to_owned();
        assert_eq!(bundles.newest_of(&server), Some(NOW + 1));
        let over = NOW + 2 + limits::KEY_BUNDLE_MS;
        assert!(bundles.of_server(&server, over - 1).contains(&ann));
        assert!(bundles.of_server(&server, over).is_empty() && !bundles.is_fresh(&ann, over));
        assert!(bundles.forget_over(over - 1).is_empty());
        assert_eq!(bundles.forget_over(over), [ann]);
        assert!(bundles.servers.is_empty() && bundles.len == 0);
    }

    #[test]
    fn attack_13_one_server_does_not_push_the_bundles_of_others_out() {
        let mut bundles = Bundles::default();
        let ann = user(1, 1);
        bundles.put(&ann, said(NOW - 9, 1000)).unwrap();
        for number in 0..3 * limits::KEY_BUNDLES_SERVER {
            bundles.put(&user(2, number), said(NOW + number as u64, 1000)).unwrap();
        }
        let of_two = user(2, 0).server_name().to_owned();
        let kept = bundles.of_server(&of_two, NOW);
        assert_eq!(kept.len(), limits::KEY_BUNDLES_SERVER, "users of one");
        assert_eq!(kept[0], user(2, 2 * limits::KEY_BUNDLES_SERVER), "the newest");
        let large = limits::KEY_BUNDLES_SERVER_LEN / 4 + 1;
        for number in 0..8 {
            bundles.put(&user(3, number), said(NOW, large)).unwrap();
        }
        assert_eq!(bundles.of_server(&user(3, 0).server_name().to_owned(), NOW).len(), 3, "bytes");
        for server in 4..4 + 2 * limits::KEY_BUNDLES_ALL_LEN / (3 * large) {
            for number in 0..3 {
                bundles.put(&user(server, number), said(NOW, large)).unwrap();
            }
            assert!(bundles.len <= limits::KEY_BUNDLES_ALL_LEN);
        }
        assert!(bundles.get(&ann).is_some(), "the oldest of all, of a server that has little");
        let all: usize = bundles.servers.values().map(len_of).sum();
        assert_eq!(all, bundles.len);
    }

    #[test]
    fn a_bundle_that_tells_a_newer_list_takes_its_place_and_no_other_does() {
        let ann = signer(1);
        let mut bundle = bundle(&ann, NOW);
        let first = learned(None, &bundle).unwrap();
        assert!(first.stale && first.position == Some(0) && first.devices["D"].fallback.len() == 1);
        assert!(learned(Some(&first), &bundle).is_none(), "the same list");
        let mut known = KeyList { position: Some(9), stale: false, ..first };
        known.devices.get_mut("D").unwrap().name = Some("phone".into());
        bundle.stream_id -= 1;
        assert!(learned(Some(&known), &bundle).is_none(), "an older one");
        bundle.stream_id += 2;
        let next = learned(Some(&known), &bundle).unwrap();
        assert!(next.stale && next.position == Some(9) && next.shows_same(&known));
    }
}
