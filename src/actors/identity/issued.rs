//! Which server_keys this node has issued, so that those of a copy of it are told apart.
//!
//! Pure. Our own older ones come back from others for as long as they are valid, also after a
//! restart, under another PeerId, or from a time when our clock was ahead. Who runs from a copy of
//! the data folder issues its own, and nobody here has written those down. Only newer ones than
//! ours count: others listen to the newest, so of two copies it is the older that ends; and what a
//! backup, put back, no longer knows of is older.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::UsedElsewhere;
use crate::proto::server_keys::VerifiedServerKeys;

/// Most times that are remembered; the ones written down first give way. A node that is started
/// anew every ten minutes needs this many in the 7 days in which its keys are valid.
const REMEMBERED: usize = 1024;

/// When server_keys were issued, in milliseconds, in the order of issuing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Issued(Vec<u64>);

impl Issued {
    /// Adds a time.
    pub(super) fn add(&mut self, issued_ts: u64) {
        self.0.push(issued_ts);
        let over = self.0.len().saturating_sub(REMEMBERED);
        self.0.drain(..over);
    }

    /// Tells whether server_keys of our own name are those of a copy that came after us. `us` is
    /// this server, and when the server_keys in use were issued.
    pub(super) fn used_elsewhere(
        &self,
        keys: &VerifiedServerKeys,
        us: (&OwnedServerName, u64),
        now: u64,
    ) -> Option<UsedElsewhere> {
        let (server_name, current) = us;
        let is_copy = keys.server_name() == server_name
            && keys.is_live(now)
            && keys.issued_ts() > current
            && !self.0.contains(&keys.issued_ts());
        is_copy.then(|| UsedElsewhere {
            server_name: server_name.clone(),
            peer_ids: keys.peer_ids().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::server_keys::{LIFETIME_MS, issue, tests::secret_keys};

    const NOW: u64 = 1_790_000_000_000;

    fn keys(seed: u8, peer: &str, issued_ts: u64) -> VerifiedServerKeys {
        let json = issue(&secret_keys(seed), &[peer.to_owned()], issued_ts).unwrap();
        VerifiedServerKeys::verify(json, issued_ts).unwrap()
    }

    #[test]
    fn only_newer_keys_that_nobody_here_issued_are_those_of_a_copy() {
        let mut issued = Issued::default();
        // Issued, in this order, before the clock was put back; after it; and at this start.
        for at in [NOW + 500, NOW - 900, NOW] {
            issued.add(at);
        }
        let us = secret_keys(1).server_name();
        for (seed, peer, issued_ts, now, is_copy) in [
            (1, "other", NOW + 1, NOW + 10, true),
            (1, "same", NOW + 1, NOW + 10, true),
            (1, "same", NOW, NOW + 10, false),
            (1, "earlier", NOW - 900, NOW + 10, false),
            (1, "ahead", NOW + 500, NOW + 10, false),
            // What a backup that was put back does not know of any more.
            (1, "same", NOW - 5, NOW + 10, false),
            (1, "other", NOW + 1, NOW + 2 + LIFETIME_MS, false),
            (2, "other", NOW + 1, NOW + 10, false),
        ] {
            let found = issued.used_elsewhere(&keys(seed, peer, issued_ts), (&us, NOW), now);
            assert_eq!(found.is_some(), is_copy, "{seed} {peer} {issued_ts}");
        }
    }

    #[test]
    fn as_many_are_remembered_as_can_come_back() {
        let mut issued = Issued::default();
        (0..3 * REMEMBERED as u64).for_each(|at| issued.add(at));
        assert_eq!(issued.0.len(), REMEMBERED);
        assert_eq!(issued.0.last(), Some(&(3 * REMEMBERED as u64 - 1)));
    }
}
