//! Which requests of others are let in. Pure; peers are opaque keys.
//!
//! Invariant: a peer costs at most its share, in work at once and over time, whatever it claims.

use std::{collections::HashMap, hash::Hash};

use ruma::ServerName;

use crate::{
    actors::{
        rate::{Bucket, Rate},
        replay::{Refused, Replay},
    },
    config::limits,
    proto::signed::Request,
};

/// Requests of one peer.
pub(super) const LET_IN: Rate = Rate { burst: 200.0, per_second: 50.0 };
/// Peers that are remembered.
const PEERS_MAX: usize = 4096;

/// Why a request is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Its peer has too many in work, or sends too many.
    Busy,
    /// It is for somebody else.
    Misaddressed,
    /// It is of a node that its server has ended.
    Over,
    /// It came before, or its server sends too many.
    Refused(Refused),
}

#[derive(Debug)]
struct Load {
    in_work: usize,
    /// Bytes of these.
    len: usize,
    left: Bucket<u64>,
}

/// What is known of those who ask.
#[derive(Debug)]
pub(super) struct Machine<P> {
    peers: HashMap<P, Load>,
    replay: Replay,
}

impl<P> Default for Machine<P> {
    fn default() -> Self {
        Self { peers: HashMap::new(), replay: Replay::default() }
    }
}

impl<P: Eq + Hash> Machine<P> {
    /// A request of so many bytes came, unverified. Where it is let in, [`Self::end`] is owed.
    pub(super) fn begin(&mut self, peer: P, len: usize, now: u64) -> Result<(), Denied> {
        if self.peers.len() >= PEERS_MAX {
            self.peers.retain(|_, load| load.in_work > 0 || !load.left.is_full(now));
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return Err(Denied::Busy);
        }
        let new = || Load { in_work: 0, len: 0, left: Bucket::full(LET_IN, now) };
        let load = self.peers.entry(peer).or_insert_with(new);
        if load.in_work >= limits::WORK_PEER
            || load.len.saturating_add(len) > limits::WORK_PEER_LEN
            || !load.left.take(1.0, now)
        {
            return Err(Denied::Busy);
        }
        load.in_work += 1;
        load.len += len;
        Ok(())
    }

    /// The request of a peer is done with.
    pub(super) fn end(&mut self, peer: &P, len: usize) {
        if let Some(load) = self.peers.get_mut(peer) {
            load.in_work = load.in_work.saturating_sub(1);
            load.len = load.len.saturating_sub(len);
        }
    }

    /// Tells whether a verified request is for us and new.
    pub(super) fn admit(
        &mut self,
        request: &Request,
        us: &ServerName,
        now: u64,
    ) -> Result<(), Denied> {
        if request.destination != us.as_str() {
            return Err(Denied::Misaddressed);
        }
        self.replay
            .admit(&request.origin, &request.request_id, request.origin_server_ts, now)
            .map_err(Denied::Refused)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonValue, server_name};

    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn requests_count_once_and_only_for_us() {
        let (us, other) = (server_name!("us"), server_name!("other"));
        let request = |destination: &ServerName, id: &str| Request {
            method: "GET".into(),
            uri: "/".into(),
            origin: server_name!("ann").to_owned(),
            destination: destination.to_string(),
            origin_server_ts: NOW,
            request_id: id.into(),
            content: CanonicalJsonValue::Null,
        };
        let mut machine = Machine::<u8>::default();
        for (destination, id, expected) in [
            (us, "1", Ok(())),
            (us, "1", Err(Denied::Refused(Refused::Seen))),
            (other, "2", Err(Denied::Misaddressed)),
            (us, "2", Ok(())),
        ] {
            assert_eq!(machine.admit(&request(destination, id), us, NOW), expected);
        }
    }

    #[test]
    fn attack_13_a_peer_gets_its_share_at_once_and_over_time() {
        let mut machine = Machine::<u8>::default();
        for _ in 0..limits::WORK_PEER {
            machine.begin(1, 100, NOW).unwrap();
        }
        assert_eq!(machine.begin(1, 100, NOW), Err(Denied::Busy));
        assert_eq!(machine.begin(2, 100, NOW), Ok(()));
        for _ in 0..limits::WORK_PEER {
            machine.end(&1, 100);
        }
        let mut burst = 0;
        while machine.begin(1, 100, NOW).is_ok() {
            machine.end(&1, 100);
            burst += 1;
        }
        assert_eq!(burst, LET_IN.burst as usize - limits::WORK_PEER);
        assert_eq!(machine.begin(1, 100, NOW + 1000), Ok(()));
    }

    #[test]
    fn attack_13_large_requests_of_a_peer_are_few_at_once() {
        let mut machine = Machine::<u8>::default();
        let largest = crate::proto::signed::MAX_REQUEST_LEN;
        assert_eq!(machine.begin(1, largest, NOW), Ok(()));
        assert_eq!(machine.begin(1, limits::WORK_PEER_LEN - largest, NOW), Ok(()));
        assert_eq!(machine.begin(1, 1, NOW), Err(Denied::Busy));
        assert_eq!(machine.begin(2, largest, NOW), Ok(()), "each peer has its own");
        machine.end(&1, largest);
        assert_eq!(machine.begin(1, largest, NOW), Ok(()));
    }

    #[test]
    fn the_table_of_peers_is_bounded() {
        let mut machine = Machine::<usize>::default();
        for peer in 0..PEERS_MAX {
            machine.begin(peer, 100, NOW).unwrap();
        }
        assert_eq!(machine.begin(PEERS_MAX, 100, NOW), Err(Denied::Busy));
        machine.end(&0, 100);
        assert_eq!(machine.begin(PEERS_MAX, 100, NOW + 60_000), Ok(()));
    }
}
