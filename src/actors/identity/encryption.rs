//! The keys that others seal to: when there is a new one, and when an old one is destroyed.
//!
//! Pure; time and chance are arguments. What was recorded on its way, or at somebody who kept it for
//! us, is unreadable for good once its key is destroyed. Invariants: there is always a key of today, the
//! last one; a key that was certified opens what is sealed to it for as long as that may still come; there
//! are never more than [`KEYS_MAX`].

use ruma::serde::{Base64, base64::Standard};
use serde::{Deserialize, Serialize};

/// A new key is made when server_keys are issued and that of today is as old as this: 12 days, which is
/// every third time where a node runs all the time.
const RENEW_AFTER_MS: u64 = 12 * 24 * 60 * 60 * 1000;
/// A key is destroyed so long after it was last certified: 120 days.
const DESTROY_AFTER_MS: u64 = 120 * 24 * 60 * 60 * 1000;
/// Most keys: a clock that jumps makes no more.
const KEYS_MAX: usize = 16;

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EncryptionKey {
    /// X25519 secret.
    key: Base64<Standard>,
    /// When it was made, in milliseconds; 0 where nobody knows.
    made_ts: u64,
    /// When server_keys named it for the last time at the latest, in milliseconds. Of the key of today it
    /// is when it was made.
    certified_ts: u64,
}

/// All keys, the oldest first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct EncryptionKeys(Vec<EncryptionKey>);

impl std::fmt::Debug for EncryptionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncryptionKeys(.. {})", self.0.len())
    }
}

impl EncryptionKeys {
    /// Makes the first key, or takes one that was made at an unknown time (0).
    pub(super) fn new(key: [u8; 32], made_ts: u64) -> Self {
        let key = Base64::new(key.to_vec());
        Self(vec![EncryptionKey { key, made_ts, certified_ts: made_ts }])
    }

    /// Tells whether they are what this program writes.
    pub(super) fn are_sound(&self) -> bool {
        (1..=KEYS_MAX).contains(&self.0.len()) && self.secrets().count() == self.0.len()
    }

    fn secrets(&self) -> impl DoubleEndedIterator<Item = [u8; 32]> {
        self.0.iter().filter_map(|one| one.key.as_bytes().try_into().ok())
    }

    /// Returns the key of today, which server_keys name.
    pub(super) fn today(&self) -> Option<[u8; 32]> {
        self.secrets().next_back()
    }

    /// Returns the keys of before that still open.
    pub(super) fn former(&self) -> Vec<[u8; 32]> {
        self.secrets().rev().skip(1).collect()
    }

    /// Makes a new key of `random` bytes and destroys old ones, where it is time, before server_keys are
    /// issued at `now` (milliseconds). Tells whether anything changed.
    pub(super) fn advance(&mut self, now: u64, random: [u8; 32]) -> bool {
        let mut changed = false;
        // One that was made in the future is of a time when the clock was ahead.
        let is_due = |key: &EncryptionKey| {
            now.checked_sub(key.made_ts).is_none_or(|age| age >= RENEW_AFTER_MS)
        };
        if self.0.last().is_none_or(is_due) {
            if let Some(last) = self.0.last_mut() {
                // It was certified until now.
                last.certified_ts = now;
            }
            let key = Base64::new(random.to_vec());
            self.0.push(EncryptionKey { key, made_ts: now, certified_ts: now });
            changed = true;
        }
        let before = self.0.len();
        let last = before.saturating_sub(1);
        let mut at = 0;
        self.0.retain(|key| {
            at += 1;
            at > last || now.saturating_sub(key.certified_ts) < DESTROY_AFTER_MS
        });
        let over = self.0.len().saturating_sub(KEYS_MAX);
        self.0.drain(..over);
        changed || self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const DAY: u64 = 24 * 60 * 60 * 1000;

    fn key(n: u8) -> [u8; 32] {
        [n; 32]
    }

    #[test]
    fn a_node_that_runs_has_a_new_key_with_every_third_issue() {
        let mut keys = EncryptionKeys::new(key(0), NOW);
        let mut made = Vec::new();
        for issue in 1..=12_u8 {
            if keys.advance(NOW + u64::from(issue) * 4 * DAY, key(issue)) {
                made.push(issue);
            }
        }
        assert_eq!(made, [3, 6, 9, 12]);
        assert_eq!(keys.today(), Some(key(12)));
        assert_eq!(keys.former(), [9, 6, 3, 0].map(key));
    }

    #[test]
    fn starts_make_no_key_and_a_key_of_an_unknown_time_is_renewed() {
        let mut keys = EncryptionKeys::new(key(0), NOW);
        for start in 0..100 {
            assert!(!keys.advance(NOW + start * 1000, key(1)));
        }
        let mut keys = EncryptionKeys::new(key(0), 0);
        assert!(keys.advance(NOW, key(1)));
        assert_eq!((keys.today(), keys.former()), (Some(key(1)), vec![key(0)]));
        assert!(!keys.advance(NOW + 1, key(2)));
    }

    #[test]
    fn a_key_is_destroyed_120_days_after_it_was_last_certified_and_that_of_today_never() {
        let mut keys = EncryptionKeys::new(key(0), NOW);
        // Off for a year, then on.
        let back = NOW + 365 * DAY;
        keys.advance(back, key(1));
        assert_eq!(
            keys.former(),
            [key(0)],
            "it was certified until then, for all that others know"
        );
        for days in 0..119 {
            keys.advance(back + days * DAY, key(2));
            assert!(keys.former().contains(&key(0)), "{days}");
        }
        keys.advance(back + 120 * DAY, key(3));
        assert!(!keys.former().contains(&key(0)));
        assert!(keys.are_sound());
        // Nothing else is left of it.
        let text = serde_json::to_string(&keys).unwrap();
        assert!(!text.contains(&Base64::<Standard>::new(key(0).to_vec()).encode()));
    }

    #[test]
    fn clocks_that_jump_make_no_more_keys_than_there_are_places() {
        let mut keys = EncryptionKeys::new(key(0), NOW);
        for jump in 0..200_u8 {
            let at = if jump % 2 == 0 { NOW + 1000 * DAY } else { NOW };
            keys.advance(at + u64::from(jump), key(jump));
            assert!(keys.are_sound());
        }
        assert!(!EncryptionKeys(Vec::new()).are_sound());
        let short = EncryptionKey { key: Base64::new(vec![1]), made_ts: 0, certified_ts: 0 };
        assert!(!EncryptionKeys(vec![short]).are_sound());
    }
}
