//! To-device messages that wait for our devices, by the server that sent them. Pure.
//!
//! Invariants: those of servers that share no room with us are few, of each and of all of them;
//! nobody's messages give way to another's. What the devices have fetched meanwhile is seen when
//! it is counted anew, which is done where somebody would be refused, and not all the time.

use std::collections::HashMap;

use ruma::{OwnedServerName, ServerName};

use crate::config::limits;

/// Messages are not counted anew more often than this.
const COUNT_EVERY_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) messages: usize,
    /// Whether the server shares a room with us.
    pub(super) member: bool,
}

/// How many messages wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    shares: HashMap<OwnedServerName, Share>,
    counted_ms: Option<u64>,
}

impl Waiting {
    /// Tells whether there is a place for so many messages more.
    pub(super) fn fits(&self, server: &ServerName, member: bool, messages: usize) -> bool {
        let own = self.shares.get(server).map_or(0, |share| share.messages);
        if member {
            return own.saturating_add(messages) <= limits::TO_DEVICE_MEMBER;
        }
        let others = self.shares.iter().filter(|(name, share)| *name != server && !share.member);
        let all: usize = others.map(|(_, share)| share.messages).sum();
        own.saturating_add(messages) <= limits::TO_DEVICE_STRANGER
            && all.saturating_add(own).saturating_add(messages) <= limits::TO_DEVICE_STRANGERS
    }

    /// Messages were taken.
    pub(super) fn add(&mut self, server: &ServerName, member: bool, messages: usize) {
        let share = self.shares.entry(server.to_owned()).or_insert(Share { messages: 0, member });
        share.messages = share.messages.saturating_add(messages);
        share.member = member;
    }

    /// Tells whether it is worth counting anew.
    pub(super) fn is_stale(&self, now: u64) -> bool {
        self.counted_ms.is_none_or(|at| now.saturating_sub(at) >= COUNT_EVERY_MS)
    }

    /// They were counted.
    pub(super) fn count(&mut self, shares: HashMap<OwnedServerName, Share>, now: u64) {
        self.shares = shares;
        self.counted_ms = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    /// Sends as many messages as are taken, at most 10,000.
    fn fill(waiting: &mut Waiting, from: &str, member: bool) -> usize {
        let taken = (0..10_000).take_while(|_| {
            let fits = waiting.fits(&server(from), member, 1);
            if fits {
                waiting.add(&server(from), member, 1);
            }
            fits
        });
        taken.count()
    }

    #[test]
    fn attack_13_strangers_share_a_few_places_and_members_have_their_own() {
        let mut waiting = Waiting::default();
        assert_eq!(fill(&mut waiting, "eve", false), limits::TO_DEVICE_STRANGER);
        let crowd: usize = (0..100).map(|n| fill(&mut waiting, &format!("eve{n}"), false)).sum();
        assert_eq!(crowd, limits::TO_DEVICE_STRANGERS - limits::TO_DEVICE_STRANGER);
        assert_eq!(fill(&mut waiting, "friend", true), limits::TO_DEVICE_MEMBER);
        assert!(!waiting.fits(&server("late"), false, 1));
        assert!(!waiting.fits(&server("late"), false, usize::MAX));

        // The devices fetched them.
        assert!(waiting.is_stale(NOW));
        let left = Share { messages: 1, member: false };
        waiting.count(HashMap::from([(server("eve"), left)]), NOW);
        assert!(
            !waiting.is_stale(NOW + COUNT_EVERY_MS - 1) && waiting.is_stale(NOW + COUNT_EVERY_MS)
        );
        assert_eq!(fill(&mut waiting, "eve", false), limits::TO_DEVICE_STRANGER - 1);
    }
}
