//! How much each server may say: PDUs and EDUs, by gossip and by transactions together, in all rooms.
//! Pure.
//!
//! Invariant: whatever one server sends, others have their own share. What is refused is lost to
//! nobody: events come when heads are compared, at the pace of whoever asks for them.

use std::time::Instant;

use lru::LruCache;
use ruma::{OwnedServerName, ServerName};

use crate::{
    actors::rate::{Bucket, Rate},
    config::limits,
};

/// Servers that are remembered, the last that said something.
const SERVERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(4096).unwrap();

const RATE: Rate = Rate { burst: limits::SAID_BURST, per_second: limits::SAID_PER_SECOND };

/// What each server may still say.
#[derive(Debug)]
pub(super) struct Shares(LruCache<OwnedServerName, Bucket<Instant>>);

impl Default for Shares {
    fn default() -> Self {
        Self(LruCache::new(SERVERS))
    }
}

impl Shares {
    /// Takes so many off the share of a server, or none where it has not so many left.
    pub(super) fn take(&mut self, server: &ServerName, count: usize, now: Instant) -> bool {
        let whole = || Bucket::full(RATE, now);
        self.0.get_or_insert_mut_ref(server, whole).take(count as f64, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::server_name;

    use super::*;

    #[test]
    fn attack_13_who_says_too_much_is_not_heard_for_a_while_and_others_are() {
        let (eve, bob) = (server_name!("eve"), server_name!("bob"));
        let mut shares = Shares::default();
        let start = Instant::now();
        let fill =
            |shares: &mut Shares, now| (0..10_000).filter(|_| shares.take(eve, 1, now)).count();
        assert_eq!(fill(&mut shares, start), limits::SAID_BURST as usize);
        assert!(shares.take(bob, 50, start));
        let later = start + Duration::from_secs(2);
        assert!(!shares.take(eve, 2 * limits::SAID_PER_SECOND as usize + 1, later), "all or none");
        assert_eq!(fill(&mut shares, later), 2 * limits::SAID_PER_SECOND as usize);
        // Who forgets nobody has no crowd in memory.
        for number in 0..5000 {
            let name = ServerName::parse(format!("s{number}")).unwrap();
            shares.take(&name, 1, later);
        }
        assert_eq!(shares.0.len(), SERVERS.get());
    }
}
