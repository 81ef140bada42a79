//! Invites that wait for our user, and from whom. Anybody can send one, and each is kept until it is
//! answered. Pure.
//!
//! Invariants: of people who share no room with us few invites wait, of one server fewer still; who
//! shares a room has places of their own. Where there is no place the newcomer is refused, and told:
//! nobody's invite gives way to another's.

use std::collections::HashMap;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use crate::config::limits;

/// The rooms that our user is invited to, with the server that invites.
#[derive(Debug, Default)]
pub(super) struct Invites(HashMap<OwnedRoomId, OwnedServerName>);

impl Invites {
    /// Takes a place for an invite, if there is one. Another invite to the same room takes no more.
    pub(super) fn admit(
        &mut self,
        room_id: &RoomId,
        from: &ServerName,
        shares: impl Fn(&OwnedServerName) -> bool,
    ) -> bool {
        let (mut of_it, mut of_strangers) = (0, 0);
        for (_, server) in self.0.iter().filter(|(waiting, _)| *waiting != room_id) {
            of_it += usize::from(server == from);
            of_strangers += usize::from(!shares(server));
        }
        let from = from.to_owned();
        let full = match shares(&from) {
            true => of_it >= limits::INVITES_MEMBER,
            false => of_it >= limits::INVITES_STRANGER || of_strangers >= limits::INVITES_STRANGERS,
        };
        if !full {
            self.waits(room_id.to_owned(), from);
        }
        !full
    }

    /// An invite waits.
    pub(super) fn waits(&mut self, room_id: OwnedRoomId, from: OwnedServerName) {
        self.0.entry(room_id).or_insert(from);
    }

    /// An invite was answered, or was none.
    pub(super) fn over(&mut self, room_id: &RoomId) {
        self.0.remove(room_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!{number}:x")).unwrap()
    }

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    #[test]
    fn attack_10_strangers_have_few_places_and_members_their_own() {
        let mut invites = Invites::default();
        let friend = server("friend");
        let shares = |server: &OwnedServerName| *server == friend;
        let mut number = 0;
        let mut fill = |invites: &mut Invites, from: &OwnedServerName, most: usize| {
            let taken = (0..most).filter(|_| {
                number += 1;
                invites.admit(&room(number), from, shares)
            });
            taken.count()
        };
        assert_eq!(fill(&mut invites, &server("eve"), 1000), limits::INVITES_STRANGER);
        let crowd: usize =
            (0..1000).map(|n| fill(&mut invites, &server(&format!("eve{n}")), 1)).sum();
        assert_eq!(crowd, limits::INVITES_STRANGERS - limits::INVITES_STRANGER);
        assert_eq!(fill(&mut invites, &friend, 1000), limits::INVITES_MEMBER);

        // The same room again is no other place; an answer frees one.
        assert!(invites.admit(&room(1), &server("eve"), shares));
        assert!(!invites.admit(&room(0), &server("eve"), shares));
        invites.over(&room(1));
        assert!(invites.admit(&room(0), &server("eve"), shares));
        // Who comes to share a room takes no place of strangers any more.
        let all = |_: &OwnedServerName| true;
        assert!(invites.admit(&room(9_999), &server("late"), all));
    }
}
