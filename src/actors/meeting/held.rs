//! Who is known to have how much of which room: the last that each server told of its heads. Pure.
//!
//! It is for people to look at, and nothing is decided by it: what was said since a server told is not
//! known to be there, though it mostly is. Invariants: a fingerprint a server and room that are shared, and of
//! each room no more than [`limits::HELD_SERVERS`]; who told of other heads later has those.

use std::collections::HashMap;

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use crate::{config::limits, proto::heads::fingerprint};

/// The heads that each server told of each room, by their fingerprint.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<OwnedRoomId, HashMap<OwnedServerName, String>>);

impl Held {
    /// A server told its heads of a room.
    pub(super) fn told(
        &mut self,
        server: &OwnedServerName,
        room_id: &OwnedRoomId,
        heads: &[OwnedEventId],
    ) {
        let servers = self.0.entry(room_id.clone()).or_default();
        if servers.len() < limits::HELD_SERVERS || servers.contains_key(server) {
            servers.insert(server.clone(), fingerprint(heads));
        }
    }

    /// Nothing is shared with a server any more.
    pub(super) fn forget(&mut self, server: &OwnedServerName) {
        self.0.retain(|_, servers| {
            servers.remove(server);
            !servers.is_empty()
        });
    }

    /// Returns the servers that have these heads of a room, of those that are in it.
    pub(super) fn holders<'a>(
        &self,
        room_id: &OwnedRoomId,
        heads: &str,
        servers: impl Iterator<Item = &'a OwnedServerName>,
    ) -> usize {
        let Some(told) = self.0.get(room_id) else { return 0 };
        servers.filter(|server| told.get(*server).is_some_and(|has| has == heads)).count()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_room_id, owned_server_name};

    use super::*;

    #[test]
    fn who_told_the_same_heads_last_holds_the_latest() {
        let (ann, eve, room) =
            (owned_server_name!("ann"), owned_server_name!("eve"), owned_room_id!("!r:x"));
        let (old, new) = ([owned_event_id!("$1")], [owned_event_id!("$2")]);
        let mut held = Held::default();
        let both = [ann.clone(), eve.clone()];
        let count = |held: &Held, heads: &[OwnedEventId]| {
            held.holders(&room, &fingerprint(heads), both.iter())
        };
        assert_eq!(count(&held, &new), 0);
        held.told(&ann, &room, &old);
        held.told(&eve, &room, &new);
        assert_eq!((count(&held, &old), count(&held, &new)), (1, 1));
        held.told(&ann, &room, &new);
        assert_eq!((count(&held, &old), count(&held, &new)), (0, 2));
        assert_eq!(held.holders(&room, &fingerprint(&new), [&eve].into_iter()), 1, "of members");
        held.forget(&ann);
        assert_eq!(count(&held, &new), 1);
        held.forget(&eve);
        assert!(held.0.is_empty());
    }

    #[test]
    fn of_a_room_so_many_servers_are_kept_and_those_go_on() {
        let (room, mut held) = (owned_room_id!("!r:x"), Held::default());
        let server = |number: usize| OwnedServerName::try_from(format!("s{number}")).unwrap();
        for number in 0..limits::HELD_SERVERS + 5 {
            held.told(&server(number), &room, &[]);
        }
        assert_eq!(held.0[&room].len(), limits::HELD_SERVERS);
        held.told(&server(0), &room, &[owned_event_id!("$new")]);
        let heads = fingerprint(&[owned_event_id!("$new")]);
        assert_eq!(held.holders(&room, &heads, [&server(0)].into_iter()), 1);
    }
}
