//! Asking others no faster than they answer: what they would drop waits here instead, and is sent in
//! its turn.
//!
//! Invariant: of what a server takes of one peer (`machine.rs`), a part is left for what does not
//! wait here: carried requests, and proofs of identity.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;
use ruma::OwnedServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::machine::LET_IN;
use crate::{
    actors::rate::{Bucket, Rate},
    config::limits,
};

/// Share of what a server takes that is made use of.
const SHARE: f64 = 0.75;
const RATE: Rate = Rate { burst: LET_IN.burst * SHARE, per_second: LET_IN.per_second * SHARE };
/// Requests to one server under way at once.
const PLACES: usize = limits::WORK_PEER / 4 * 3;
/// Servers that are remembered; a forgotten one may be asked as if for the first time.
const SERVERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How much one server was asked.
#[derive(Debug)]
struct Load {
    /// Requests that may be sent now; below zero, so many wait.
    left: Bucket<u64>,
    places: Arc<Semaphore>,
}

/// When one request may start.
#[derive(Debug)]
pub(super) struct Start {
    wait: Duration,
    places: Arc<Semaphore>,
}

impl Start {
    /// Comes when it is there; what is returned is held until the request is over.
    pub(super) async fn comes(self) -> Option<OwnedSemaphorePermit> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        // Nobody closes it.
        self.places.acquire_owned().await.ok()
    }
}

/// When servers may be asked.
#[derive(Debug)]
pub(super) struct Pace(LruCache<OwnedServerName, Load>);

impl Default for Pace {
    fn default() -> Self {
        Self(LruCache::new(SERVERS_MAX))
    }
}

impl Pace {
    /// A server is to be asked, in the turn that is returned: none where it would come after
    /// `patience`, and then nothing waits the longer for it.
    pub(super) fn begin(
        &mut self,
        server: &OwnedServerName,
        patience: Duration,
        now: u64,
    ) -> Option<Start> {
        let new =
            || Load { left: Bucket::full(RATE, now), places: Arc::new(Semaphore::new(PLACES)) };
        let load = self.0.get_or_insert_mut_ref(server, new);
        let wait = Some(load.left.wait(now)).filter(|wait| *wait < patience)?;
        load.left.charge(1.0);
        Some(Start { wait, places: Arc::clone(&load.places) })
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::{super::machine::Machine, *};

    #[test]
    fn what_is_sent_in_its_turn_is_let_in() {
        let ann = owned_server_name!("ann");
        let (mut pace, mut theirs) = (Pace::default(), Machine::default());
        // All at once at first, then for a minute some at any time.
        let asked = (0..1000).map(|_| 0).chain((0..3000).map(|number| number * 20));
        let ever = Duration::MAX;
        let mut sent: Vec<u64> = asked
            .map(|now| (now, pace.begin(&ann, ever, now).unwrap().wait.as_millis()))
            .map(|(now, wait)| now + u64::try_from(wait).unwrap())
            .collect();
        assert!(sent.iter().filter(|at| **at == 0).count() > 100, "a burst is sent at once");
        sent.sort_unstable();
        for at in &sent {
            assert_eq!(theirs.begin(1, 1000, *at), Ok(()), "sent at {at} ms");
            theirs.end(&1, 1000);
        }
        let last = sent.last().unwrap() / 1000;
        assert!((4000 / 50..4000 / 35).contains(&last), "all are sent after {last} s");
        // Others are asked meanwhile.
        assert_eq!(pace.begin(&owned_server_name!("bob"), ever, 0).unwrap().wait, Duration::ZERO);
    }

    #[test]
    fn what_nobody_would_wait_for_takes_no_turn() {
        let ann = owned_server_name!("ann");
        let (mut pace, patience) = (Pace::default(), Duration::from_secs(1));
        let turns = (0..1000).filter_map(|_| pace.begin(&ann, patience, 0)).count();
        assert!((150..200).contains(&turns), "{turns}");
        let patient = pace.begin(&ann, 2 * patience, 0).unwrap();
        assert!(patient.wait <= patience + Duration::from_millis(100), "{patient:?}");
    }
}
