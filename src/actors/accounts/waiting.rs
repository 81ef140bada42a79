//! To-device messages that wait for our devices, by the server that sent them. Pure.
//!
//! Invariants: those of servers that share no room with us are few, of each and of all of them;
//! nobody's messages give way to another's, unless they are a stranger's and waited for weeks. What the
//! devices have fetched meanwhile is seen when it is counted anew, which is done where somebody would
//! be refused, and not all the time.

use std::collections::HashMap;

use ruma::{OwnedServerName, ServerName};

use crate::config::limits;

/// Messages are not counted anew more often than this.
const COUNT_EVERY_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) messages: usize,
    /// Bytes of these.
    pub(super) len: usize,
    /// Whether the server shares a room with us.
    pub(super) member: bool,
}

/// What may wait of one server, or of several: messages and bytes.
type Most = (usize, usize);

const MEMBER: Most = (limits::TO_DEVICE_MEMBER, limits::TO_DEVICE_MEMBER_LEN);
const STRANGER: Most = (limits::TO_DEVICE_STRANGER, limits::TO_DEVICE_STRANGER_LEN);
const STRANGERS: Most = (limits::TO_DEVICE_STRANGERS, limits::TO_DEVICE_STRANGERS_LEN);
const ALL: Most = (usize::MAX, limits::TO_DEVICE_ALL_LEN);

/// How many messages wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    shares: HashMap<OwnedServerName, Share>,
    counted_ms: Option<u64>,
}

impl Waiting {
    /// Tells whether there is a place for so many messages more, and for their bytes.
    pub(super) fn fits(&self, server: &ServerName, member: bool, new: (usize, usize)) -> bool {
        // What is new, with all that waits of some servers.
        let with = |of: &dyn Fn(&ServerName, &Share) -> bool| {
            let shares = self.shares.iter().filter(|(name, share)| of(name, share));
            shares.fold(new, |(messages, len), (_, share)| {
                (messages.saturating_add(share.messages), len.saturating_add(share.len))
            })
        };
        let within = |(messages, len): Most, most: Most| messages <= most.0 && len <= most.1;
        let own = with(&|name, _| name == server);
        let fits = match member {
            true => within(own, MEMBER),
            false => {
                let strangers = with(&|name, share| name == server || !share.member);
                within(own, STRANGER) && within(strangers, STRANGERS)
            }
        };
        fits && within(with(&|_, _| true), ALL)
    }

    /// Messages were taken.
    pub(super) fn add(&mut self, server: &ServerName, member: bool, new: (usize, usize)) {
        let none = Share { messages: 0, len: 0, member };
        let share = self.shares.entry(server.to_owned()).or_insert(none);
        share.messages = share.messages.saturating_add(new.0);
        share.len = share.len.saturating_add(new.1);
        share.member = member;
    }

    /// Tells whether it is to be counted: for the first time, since more may wait from an earlier start,
    /// and then where somebody would be refused (`full`).
    pub(super) fn is_worth_counting(&self, full: bool, now: u64) -> bool {
        self.counted_ms.is_none_or(|at| full && now.saturating_sub(at) >= COUNT_EVERY_MS)
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

    /// Sends as many messages of a length as are taken, at most 10,000.
    fn fill(waiting: &mut Waiting, from: &str, member: bool, len: usize) -> usize {
        let taken = (0..10_000).take_while(|_| {
            let fits = waiting.fits(&server(from), member, (1, len));
            if fits {
                waiting.add(&server(from), member, (1, len));
            }
            fits
        });
        taken.count()
    }

    #[test]
    fn attack_13_strangers_share_a_few_places_and_members_have_their_own() {
        let mut waiting = Waiting::default();
        assert_eq!(fill(&mut waiting, "eve", false, 1), limits::TO_DEVICE_STRANGER);
        let crowd: usize = (0..100).map(|n| fill(&mut waiting, &format!("eve{n}"), false, 1)).sum();
        assert_eq!(crowd, limits::TO_DEVICE_STRANGERS - limits::TO_DEVICE_STRANGER);
        assert_eq!(fill(&mut waiting, "friend", true, 1), limits::TO_DEVICE_MEMBER);
        assert!(!waiting.fits(&server("late"), false, (1, 1)));
        assert!(!waiting.fits(&server("late"), false, (usize::MAX, 1)));

        // The devices fetched them.
        assert!(waiting.is_worth_counting(false, NOW), "since the start nobody did");
        let left = Share { messages: 1, len: 1, member: false };
        waiting.count(HashMap::from([(server("eve"), left)]), NOW);
        for (full, later, worth) in [
            (true, COUNT_EVERY_MS - 1, false),
            (true, COUNT_EVERY_MS, true),
            (false, u64::MAX, false),
        ] {
            let at = NOW.saturating_add(later);
            assert_eq!(waiting.is_worth_counting(full, at), worth, "{full} {later}");
        }
        assert_eq!(fill(&mut waiting, "eve", false, 1), limits::TO_DEVICE_STRANGER - 1);
    }

    #[test]
    fn attack_13_large_messages_fill_their_senders_share_and_no_disk() {
        let mut waiting = Waiting::default();
        let len = limits::TO_DEVICE_LEN;
        let bytes = |messages: usize| messages * len;
        let stranger = fill(&mut waiting, "eve", false, len);
        assert_eq!(bytes(stranger), limits::TO_DEVICE_STRANGER_LEN);
        let crowd: usize = (0..99).map(|n| fill(&mut waiting, &format!("e{n}"), false, len)).sum();
        assert_eq!(bytes(stranger + crowd), limits::TO_DEVICE_STRANGERS_LEN);
        let friend = fill(&mut waiting, "friend", true, len);
        assert_eq!(bytes(friend), limits::TO_DEVICE_MEMBER_LEN);
        let all: usize = (0..99).map(|n| fill(&mut waiting, &format!("f{n}"), true, len)).sum();
        assert_eq!(bytes(stranger + crowd + friend + all), limits::TO_DEVICE_ALL_LEN);
        assert!(!waiting.fits(&server("friend"), true, (1, usize::MAX)));
    }
}
