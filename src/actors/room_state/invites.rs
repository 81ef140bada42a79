//! Invites that wait for our users, and from whom. Anybody can send one, and each is kept until it is
//! answered. Pure.
//!
//! Invariants: of people who share no room with us few invites wait, of one server fewer still; who
//! was let into one of our rooms has places of their own. Where there is no place the newcomer is
//! refused, and told: nobody's invite gives way to another's, unless it is a stranger's and waited for
//! weeks.

use std::collections::HashMap;

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};

use crate::config::limits;

/// An invite that waits.
#[derive(Debug)]
struct Waiting {
    from: OwnedServerName,
    /// Milliseconds.
    since: u64,
}

/// An invite: to which room, and of whom.
pub(super) type Invite = (OwnedRoomId, OwnedUserId);

/// The rooms that our users are invited to.
#[derive(Debug, Default)]
pub(super) struct Invites(HashMap<Invite, Waiting>);

/// Whether an invite has a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It has one.
    Free,
    /// It has that of an invite that waited long enough.
    InsteadOf(Invite),
    /// There is none.
    None,
}

impl Invites {
    /// Takes a place for an invite, if there is one. Another one of the same takes no more.
    /// `close`: who shares a room with us that is not public.
    pub(super) fn admit(
        &mut self,
        invited: &Invite,
        from: &ServerName,
        close: impl Fn(&OwnedServerName) -> bool,
        now: u64,
    ) -> Admitted {
        let (mut of_it, mut of_strangers) = (0, 0);
        let mut oldest: Option<(&Invite, &Waiting)> = None;
        let from = from.to_owned();
        let stranger = !close(&from);
        for (waiting, invite) in self.0.iter().filter(|(waiting, _)| *waiting != invited) {
            of_it += usize::from(invite.from == from);
            if close(&invite.from) {
                continue;
            }
            of_strangers += 1;
            if oldest.is_none_or(|(_, oldest)| invite.since < oldest.since) {
                oldest = Some((waiting, invite));
            }
        }
        let full = match stranger {
            false => of_it >= limits::INVITES_MEMBER,
            true => of_it >= limits::INVITES_STRANGER || of_strangers >= limits::INVITES_STRANGERS,
        };
        let mut place = Admitted::Free;
        if full {
            let expired = oldest.filter(|(_, invite)| {
                stranger && now.saturating_sub(invite.since) >= limits::STRANGER_KEPT_MS
            });
            // Of its own invites, where it has too many of these.
            let of_it_too = of_it >= limits::INVITES_STRANGER;
            let Some((other, invite)) = expired else { return Admitted::None };
            if of_it_too && invite.from != from {
                return Admitted::None;
            }
            place = Admitted::InsteadOf(other.clone());
        }
        if let Admitted::InsteadOf(other) = &place {
            self.0.remove(other);
        }
        self.waits(invited.clone(), from, now);
        place
    }

    /// An invite waits.
    pub(super) fn waits(&mut self, invited: Invite, from: OwnedServerName, since: u64) {
        self.0.entry(invited).or_insert(Waiting { from, since });
    }

    /// An invite was answered, or was none.
    pub(super) fn over(&mut self, invited: &Invite) {
        self.0.remove(invited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: usize) -> Invite {
        let room = OwnedRoomId::try_from(format!("!{number}:x")).unwrap();
        (room, OwnedUserId::try_from("@p2p:x").unwrap())
    }

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    const NOW: u64 = 1_790_000_000_000;
    const LATER: u64 = NOW + limits::STRANGER_KEPT_MS;

    #[test]
    fn attack_10_strangers_have_few_places_and_members_their_own() {
        let mut invites = Invites::default();
        let friend = server("friend");
        let close = |server: &OwnedServerName| *server == friend;
        let mut number = 0;
        let mut fill = |invites: &mut Invites, from: &OwnedServerName, most: usize| {
            let taken = (0..most).filter(|_| {
                number += 1;
                invites.admit(&room(number), from, close, NOW) == Admitted::Free
            });
            taken.count()
        };
        assert_eq!(fill(&mut invites, &server("eve"), 1000), limits::INVITES_STRANGER);
        let crowd: usize =
            (0..1000).map(|n| fill(&mut invites, &server(&format!("eve{n}")), 1)).sum();
        assert_eq!(crowd, limits::INVITES_STRANGERS - limits::INVITES_STRANGER);
        assert_eq!(fill(&mut invites, &friend, 1000), limits::INVITES_MEMBER);

        // The same room again is no other place; an answer frees one.
        assert_eq!(invites.admit(&room(1), &server("eve"), close, NOW), Admitted::Free);
        assert_eq!(invites.admit(&room(0), &server("eve"), close, NOW), Admitted::None);
        invites.over(&room(1));
        assert_eq!(invites.admit(&room(0), &server("eve"), close, NOW), Admitted::Free);
        // Who comes to share a room takes no place of strangers any more.
        let all = |_: &OwnedServerName| true;
        assert_eq!(invites.admit(&room(9_999), &server("late"), all, NOW), Admitted::Free);
    }

    #[test]
    fn attack_10_what_strangers_left_weeks_ago_keeps_no_honest_one_out() {
        let mut invites = Invites::default();
        let friend = server("friend");
        let close = |server: &OwnedServerName| *server == friend;
        invites.waits(room(0), friend.clone(), 0);
        for number in 1..=limits::INVITES_STRANGERS {
            let from = server(&format!("eve{number}"));
            let since = NOW + number as u64;
            assert_eq!(invites.admit(&room(number), &from, close, since), Admitted::Free);
        }
        let bob = server("bob");
        let mut ask = |number, now| invites.admit(&room(number), &bob, close, now);
        assert_eq!(ask(1000, LATER), Admitted::None, "not yet");
        assert_eq!(ask(1000, LATER + 1), Admitted::InsteadOf(room(1)), "the oldest of a stranger");
        assert_eq!(ask(1001, LATER + 1), Admitted::None);
        assert_eq!(ask(1001, LATER + 2), Admitted::InsteadOf(room(2)));
    }
}
