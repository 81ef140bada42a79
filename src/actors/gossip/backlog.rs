//! Gossip that waits while its peer has enough in work: who speaks in a thousand rooms at once is
//! heard faster than rooms wake. Pure: the time is an argument.
//!
//! Invariants: what waits is bounded, of one peer and of all; of one peer the oldest is next; nothing
//! is kept for which gossipsub would take no verdict any more.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// Messages of one peer that wait.
const PEER_MAX: usize = 1024;
/// Bytes of these.
const PEER_LEN: usize = 2 * 1024 * 1024;
/// Bytes of all that waits.
const NODE_LEN: usize = 16 * 1024 * 1024;
/// Longest wait. With that for the verdict it is less than the 12 s after which gossipsub has
/// forgotten a message.
const WAIT: Duration = Duration::from_secs(6);

struct Waiting<T> {
    len: usize,
    since: Instant,
    message: T,
}

/// What waits of one peer.
struct Queue<T> {
    len: usize,
    waiting: VecDeque<Waiting<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { len: 0, waiting: VecDeque::new() }
    }
}

/// What waits.
pub(super) struct Backlog<P, T> {
    peers: HashMap<P, Queue<T>>,
    len: usize,
}

impl<P, T> Default for Backlog<P, T> {
    fn default() -> Self {
        Self { peers: HashMap::new(), len: 0 }
    }
}

impl<P: Eq + Hash, T> Backlog<P, T> {
    /// Has a message of so many bytes wait; returns it where there is no place.
    pub(super) fn push(&mut self, peer: P, len: usize, message: T, now: Instant) -> Option<T> {
        let queue = self.peers.entry(peer).or_default();
        let full = queue.waiting.len() >= PEER_MAX
            || queue.len + len > PEER_LEN
            || self.len + len > NODE_LEN;
        if full {
            return Some(message);
        }
        queue.len += len;
        self.len += len;
        queue.waiting.push_back(Waiting { len, since: now, message });
        None
    }

    /// Takes the next message of a peer out: `Err` where it waited too long to be looked at.
    pub(super) fn pop(&mut self, peer: &P, now: Instant) -> Option<Result<T, T>> {
        let queue = self.peers.get_mut(peer)?;
        let next = queue.waiting.pop_front();
        if let Some(next) = &next {
            queue.len -= next.len;
            self.len -= next.len;
        }
        if queue.waiting.is_empty() {
            self.peers.remove(peer);
        }
        let Waiting { since, message, .. } = next?;
        Some(if now.duration_since(since) < WAIT { Ok(message) } else { Err(message) })
    }

    /// Drops what waits of a peer that is gone.
    pub(super) fn forget(&mut self, peer: &P) {
        self.len -= self.peers.remove(peer).map_or(0, |queue| queue.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_next_and_the_stale_are_told() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        for number in 0..3 {
            let at = now + Duration::from_secs(number);
            assert_eq!(backlog.push("ann", 1, number, at), None);
        }
        assert_eq!(backlog.pop(&"bob", now), None);
        assert_eq!(backlog.pop(&"ann", now + WAIT), Some(Err(0)));
        assert_eq!(backlog.pop(&"ann", now + WAIT), Some(Ok(1)));
        assert_eq!(backlog.pop(&"ann", now + WAIT), Some(Ok(2)));
        assert_eq!(backlog.pop(&"ann", now), None);
        assert!(backlog.peers.is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        let mut fill = |peer: usize, len: usize| {
            let filled = (0..2 * PEER_MAX).map(|_| backlog.push(peer, len, (), now));
            filled.filter(Option::is_none).count()
        };
        assert_eq!(fill(0, 1), PEER_MAX);
        assert_eq!(fill(1, PEER_LEN / 4), 4);
        let peers = (2..100).map(|peer| fill(peer, PEER_LEN / 4)).sum::<usize>();
        assert_eq!(peers, (NODE_LEN - PEER_LEN) / (PEER_LEN / 4) - 1);
        // Whoever is gone leaves place for others.
        backlog.forget(&1);
        assert_eq!(backlog.push(200, PEER_LEN, (), now), None);
        while backlog.pop(&0, now).is_some() {}
        for peer in 1..=200 {
            backlog.forget(&peer);
        }
        assert_eq!(backlog.len, 0);
    }
}
