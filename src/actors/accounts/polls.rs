//! The requests of clients that wait for news. Knows no clock and no network.
//!
//! Invariant: of one device a few wait at once. A client that begins one more has given the oldest
//! up, or should have: it is answered, and holds no connection any longer.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::sessions::Session;

/// Most waiting requests of one device: those of several tabs, and of some that were given up.
const WAITING: usize = 8;

/// All that wait, by device, oldest first.
#[derive(Debug, Default)]
pub(super) struct Polls(HashMap<Session, VecDeque<oneshot::Sender<()>>>);

impl Polls {
    /// Takes a place; it is lost when what is returned closes.
    pub(super) fn begin(&mut self, device: Session) -> oneshot::Receiver<()> {
        self.0.retain(|_, waiting| {
            waiting.retain(|poll| !poll.is_closed());
            !waiting.is_empty()
        });
        let waiting = self.0.entry(device).or_default();
        if waiting.len() >= WAITING {
            waiting.pop_front();
        }
        let (poll, place) = oneshot::channel();
        waiting.push_back(poll);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> Session {
        Session { user_id: ruma::user_id!("@p2p:x").to_owned(), device_id: id.to_owned() }
    }

    fn is_lost(place: &mut oneshot::Receiver<()>) -> bool {
        matches!(place.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn one_too_many_ends_the_oldest_of_its_device_alone() {
        let mut polls = Polls::default();
        let mut other = polls.begin(device("B"));
        let mut places: Vec<_> = (0..WAITING).map(|_| polls.begin(device("A"))).collect();
        assert!(!places.iter_mut().any(is_lost));
        let mut newest = polls.begin(device("A"));
        let lost: Vec<bool> = places.iter_mut().map(is_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
        assert!(lost[0] && !is_lost(&mut newest) && !is_lost(&mut other));
        // Those who were answered leave their places.
        drop(places);
        let mut again: Vec<_> = (1..WAITING).map(|_| polls.begin(device("A"))).collect();
        assert!(!is_lost(&mut newest) && !again.iter_mut().any(is_lost));
        drop((newest, again, other));
        drop(polls.begin(device("C")));
        assert_eq!(polls.0.len(), 1);
    }
}
