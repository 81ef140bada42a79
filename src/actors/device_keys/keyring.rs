//! One-time and fallback keys of one device. Pure.
//!
//! Invariants: a one-time key is handed out once, the oldest first; a key that was claimed is not taken
//! again; an id stands for one key.

use std::collections::{BTreeMap, VecDeque};

use ruma::CanonicalJsonValue;
use serde::{Deserialize, Serialize};

use super::messages::KeyError;
use crate::{
    actors::store::KeyCounts,
    config::limits,
    proto::device_keys::{SIGNED_CURVE25519, algorithm_of, check_one_time},
};

/// Keys by id, `<algorithm>:<name>`.
pub(super) type KeysById = BTreeMap<String, CanonicalJsonValue>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fallback {
    id: String,
    key: CanonicalJsonValue,
    /// Somebody claimed it.
    used: bool,
    /// When it was uploaded, in milliseconds since 1970.
    since: u64,
}

/// The value of `Row::Keyring`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyring {
    /// Oldest first.
    one_time: VecDeque<(String, CanonicalJsonValue)>,
    /// Ids of those that were claimed lately.
    claimed: VecDeque<String>,
    /// By algorithm.
    fallback: BTreeMap<String, Fallback>,
}

impl Keyring {
    /// Takes keys that the device uploads. Tells whether a fallback key is new.
    pub(super) fn upload(
        &mut self,
        one_time: KeysById,
        fallback: KeysById,
        now: u64,
    ) -> Result<bool, KeyError> {
        for (id, key) in one_time.iter().chain(&fallback) {
            check_one_time(id, key)?;
        }
        let mut ring = self.clone();
        for (id, key) in one_time {
            match ring.one_time.iter().find(|(known, _)| *known == id) {
                Some((_, known)) if *known == key => continue,
                Some(_) => {
                    return Err(KeyError::BadRequest(format!("there is another key {id} already")));
                }
                None if ring.claimed.contains(&id) => continue,
                None => ring.one_time.push_back((id, key)),
            }
        }
        let counts = ring.counted();
        if counts.len() > limits::KEY_ALGORITHMS
            || counts.values().any(|count| *count > limits::ONE_TIME_KEYS as u64)
        {
            return Err(KeyError::Full("one-time keys wait to be claimed"));
        }
        let mut is_new = false;
        for (id, key) in fallback {
            let algorithm = algorithm_of(&id).unwrap_or_default().to_owned();
            let known = ring.fallback.get(&algorithm);
            if known.is_some_and(|known| known.id == id && known.key == key) {
                continue;
            }
            is_new = true;
            ring.fallback.insert(algorithm, Fallback { id, key, used: false, since: now });
        }
        if ring.fallback.len() > limits::KEY_ALGORITHMS {
            return Err(KeyError::Full("algorithms of fallback keys"));
        }
        *self = ring;
        Ok(is_new)
    }

    /// Hands out a key: the oldest one-time key, or the fallback key.
    pub(super) fn claim(&mut self, algorithm: &str) -> Option<(String, CanonicalJsonValue)> {
        let of_algorithm = |id: &str| algorithm_of(id) == Some(algorithm);
        if let Some(at) = self.one_time.iter().position(|(id, _)| of_algorithm(id)) {
            let (id, key) = self.one_time.remove(at)?;
            self.claimed.push_back(id.clone());
            while self.claimed.len() > limits::CLAIMED_KEYS {
                self.claimed.pop_front();
            }
            return Some((id, key));
        }
        self.claim_fallback(algorithm)
    }

    /// Hands out the fallback key.
    pub(super) fn claim_fallback(
        &mut self,
        algorithm: &str,
    ) -> Option<(String, CanonicalJsonValue)> {
        let fallback = self.fallback.get_mut(algorithm)?;
        fallback.used = true;
        Some((fallback.id.clone(), fallback.key.clone()))
    }

    /// Returns the fallback keys, for others to keep.
    pub(super) fn fallbacks(&self) -> KeysById {
        self.fallback.values().map(|one| (one.id.clone(), one.key.clone())).collect()
    }

    fn counted(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (id, _) in &self.one_time {
            *counts.entry(algorithm_of(id).unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// Says what is left. Of the algorithm that clients use it is always said, where it is none too.
    pub(super) fn counts(&self) -> KeyCounts {
        let mut one_time = self.counted();
        one_time.entry(SIGNED_CURVE25519.to_owned()).or_insert(0);
        let unused = self.fallback.iter().filter(|(_, fallback)| !fallback.used);
        let until = |since: u64| since.saturating_add(limits::FALLBACK_UNUSED_MS);
        let unused_fallback = unused.map(|(name, one)| (name.clone(), until(one.since))).collect();
        KeyCounts { one_time, unused_fallback }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::proto::device_keys::tests::one_time;

    const NOW: u64 = 1_790_000_000_000;

    fn keys(ids: impl IntoIterator<Item = u32>) -> KeysById {
        let key = |n: u32| one_time(user_id!("@ann:x"), "D", 1, &format!("key{n}"));
        ids.into_iter().map(|n| (format!("{SIGNED_CURVE25519}:{n:04}"), key(n))).collect()
    }

    fn none() -> KeysById {
        KeysById::new()
    }

    #[test]
    fn attack_16_each_one_time_key_is_handed_out_once_whatever_is_uploaded_again() {
        let mut ring = Keyring::default();
        ring.upload(keys(2..4), none(), NOW).unwrap();
        ring.upload(keys(0..2), none(), NOW).unwrap();
        let ids: Vec<_> =
            (0..4).map(|_| ring.claim(SIGNED_CURVE25519).unwrap().0.split_off(18)).collect();
        assert_eq!(ids, ["0002", "0003", "0000", "0001"], "the oldest first");
        assert!(ring.claim(SIGNED_CURVE25519).is_none() && ring.claim("curve25519").is_none());
        ring.upload(keys(0..6), none(), NOW).unwrap();
        assert_eq!(ring.counts().one_time[SIGNED_CURVE25519], 2, "those that are new");
        let mut other = keys(5..6);
        other.values_mut().for_each(|key| *key = keys(6..7).into_values().next().unwrap());
        assert!(ring.upload(other, none(), NOW).is_err(), "one id, two keys");
    }

    #[test]
    fn attack_16_a_device_has_so_many_one_time_keys() {
        let mut ring = Keyring::default();
        let most = u32::try_from(limits::ONE_TIME_KEYS).unwrap();
        ring.upload(keys(0..most), none(), NOW).unwrap();
        let before = ring.clone();
        assert!(matches!(ring.upload(keys(most..=most), none(), NOW), Err(KeyError::Full(_))));
        assert_eq!(ring, before);
        let odd = (0..9).map(|n| (format!("a{n}:x"), CanonicalJsonValue::String("k".into())));
        assert!(ring.upload(odd.clone().collect(), none(), NOW).is_err(), "algorithms");
        assert!(ring.upload(none(), odd.collect(), NOW).is_err(), "of fallback keys");
        for _ in 0..3 * limits::CLAIMED_KEYS {
            let (id, _) = ring.claim(SIGNED_CURVE25519).unwrap();
            let next: u32 = id.split_off_number() + 10_000;
            ring.upload(keys(next..=next), none(), NOW).unwrap();
        }
        assert_eq!(ring.claimed.len(), limits::CLAIMED_KEYS);
    }

    trait SplitNumber {
        fn split_off_number(&self) -> u32;
    }

    impl SplitNumber for String {
        fn split_off_number(&self) -> u32 {
            self.rsplit(':').next().unwrap().parse().unwrap()
        }
    }

    #[test]
    fn a_fallback_key_stays_and_is_said_to_be_used() {
        let mut ring = Keyring::default();
        assert!(ring.upload(none(), keys(0..1), NOW).unwrap());
        assert!(!ring.upload(none(), keys(0..1), NOW + 5).unwrap(), "the same");
        let until = NOW + limits::FALLBACK_UNUSED_MS;
        assert_eq!(ring.counts().unused_fallback[SIGNED_CURVE25519], until);
        assert_eq!(ring.counts().one_time[SIGNED_CURVE25519], 0, "said, though there are none");
        let first = ring.claim(SIGNED_CURVE25519).unwrap();
        assert_eq!(ring.claim(SIGNED_CURVE25519).unwrap(), first);
        assert!(ring.counts().unused_fallback.is_empty());
        assert!(ring.upload(keys(1..2), keys(2..3), NOW + 9).unwrap());
        assert!(ring.claim(SIGNED_CURVE25519).unwrap().0.ends_with("0001"), "one-time keys first");
        assert!(ring.claim(SIGNED_CURVE25519).unwrap().0.ends_with("0002"));
        assert_eq!(ring.fallbacks(), keys(2..3));
    }
}
