//! What is known of every room without starting it: what our users are in it, and which servers have
//! a joined user. Pure.
//!
//! Invariant: a server is *shared with* while it is in at least one room that a user of ours has joined;
//! each change of that is told once, as a difference.

use std::collections::{BTreeMap, HashMap, HashSet};

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::room::member::MembershipState,
};

/// One room.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// Those of our users who have to do with it.
    pub(super) locals: BTreeMap<OwnedUserId, MembershipState>,
    pub(super) servers: HashSet<OwnedServerName>,
    /// Anybody may come in.
    pub(super) public: bool,
    /// Who can be asked about an invite that waits.
    via: Vec<OwnedServerName>,
}

impl Indexed {
    pub(super) fn is_joined(&self) -> bool {
        self.locals.values().any(|own| *own == MembershipState::Join)
    }
}

/// What a change of a room changed around it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The first of our users came in (`true`), or none is in any longer.
    pub(super) joined: Option<bool>,
    /// Servers that share a joined room now, and shared none before.
    pub(super) gained: Vec<OwnedServerName>,
    /// Servers that share none any more.
    pub(super) lost: Vec<OwnedServerName>,
}

/// All rooms.
#[derive(Debug, Default)]
pub(super) struct Index {
    rooms: BTreeMap<OwnedRoomId, Indexed>,
    /// How many joined rooms are shared with a server: one at least.
    shared: HashMap<OwnedServerName, usize>,
}

impl Index {
    /// Tells whether a room is known.
    pub(super) fn knows(&self, room_id: &RoomId) -> bool {
        self.rooms.contains_key(room_id)
    }

    /// Returns a room.
    pub(super) fn get(&self, room_id: &RoomId) -> Option<&Indexed> {
        self.rooms.get(room_id)
    }

    /// Returns all rooms.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&OwnedRoomId, &Indexed)> {
        self.rooms.iter()
    }

    /// Returns the joined rooms.
    pub(super) fn joined(&self) -> impl Iterator<Item = (&OwnedRoomId, &Indexed)> {
        self.rooms.iter().filter(|(_, room)| room.is_joined())
    }

    /// Tells whether a joined room is shared with a server.
    pub(super) fn shares(&self, server: &OwnedServerName) -> bool {
        self.shared.contains_key(server)
    }

    /// Tells whether a server was let into a joined room: one that is not public.
    pub(super) fn is_close(&self, server: &OwnedServerName) -> bool {
        self.shares(server)
            && self.joined().any(|(_, room)| !room.public && room.servers.contains(server))
    }

    /// Notes whether anybody may come into a room.
    pub(super) fn set_public(&mut self, room_id: &RoomId, public: bool) {
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.public = public;
        }
    }

    /// Tells whether a user of ours has joined a room that a server is in.
    pub(super) fn is_shared(&self, room_id: &RoomId, server: &OwnedServerName) -> bool {
        let room = self.rooms.get(room_id);
        room.is_some_and(|room| room.is_joined() && room.servers.contains(server))
    }

    /// Returns the joined rooms that a server is in.
    pub(super) fn shared_with(&self, server: &OwnedServerName) -> Vec<&OwnedRoomId> {
        if !self.shares(server) {
            return Vec::new();
        }
        let with_it = self.joined().filter(|(_, room)| room.servers.contains(server));
        with_it.map(|(room_id, _)| room_id).collect()
    }

    /// Returns the rooms with an invite of which a server knows whether it still stands.
    pub(super) fn invited_through(&self, server: &OwnedServerName) -> Vec<&OwnedRoomId> {
        let waits = |room: &Indexed| {
            room.locals.values().any(|own| *own == MembershipState::Invite)
                && room.via.contains(server)
        };
        self.rooms.iter().filter(|(_, room)| waits(room)).map(|(room_id, _)| room_id).collect()
    }

    /// Takes note of who can be asked about an invite.
    pub(super) fn invited(&mut self, room_id: &RoomId, via: Vec<OwnedServerName>) {
        if let Some(room) = self.rooms.get_mut(room_id).filter(|_| !via.is_empty()) {
            room.via = via;
        }
    }

    /// Takes what changed of a room; what is `None` stays as it was.
    pub(super) fn advance(
        &mut self,
        room_id: OwnedRoomId,
        memberships: Vec<(OwnedUserId, MembershipState)>,
        servers: Option<Vec<OwnedServerName>>,
    ) -> Changed {
        let room = self.rooms.entry(room_id).or_default();
        let was = room.is_joined();
        room.locals.extend(memberships);
        let is = room.is_joined();
        let before = match servers {
            Some(servers) => std::mem::replace(&mut room.servers, servers.into_iter().collect()),
            None if was == is => return Changed::default(),
            None => room.servers.clone(),
        };
        let mut changed = Changed { joined: (was != is).then_some(is), ..Changed::default() };
        if is {
            for server in room.servers.iter().filter(|server| !(was && before.contains(*server))) {
                match self.shared.get_mut(server) {
                    Some(count) => *count += 1,
                    None => {
                        self.shared.insert(server.clone(), 1);
                        changed.gained.push(server.clone());
                    }
                }
            }
        }
        if was {
            for server in before.into_iter().filter(|server| !(is && room.servers.contains(server)))
            {
                match self.shared.get_mut(&server) {
                    Some(count) if *count > 1 => *count -= 1,
                    Some(_) => {
                        self.shared.remove(&server);
                        changed.lost.push(server);
                    }
                    None => {}
                }
            }
        }
        changed
    }

    /// Returns what a user of ours is in a room.
    pub(super) fn membership(&self, room_id: &RoomId, user: &UserId) -> Option<&MembershipState> {
        self.rooms.get(room_id)?.locals.get(user)
    }

    /// Forgets a room for a user of ours who is not in it; altogether where no other has to do with it.
    pub(super) fn forget(&mut self, room_id: &RoomId, user: &UserId) {
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.locals.remove(user);
            if room.locals.is_empty() {
                self.rooms.remove(room_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use MembershipState::{Ban, Invite, Join, Leave};

    use super::*;

    fn room(name: &str) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!{name}:x")).unwrap()
    }

    fn servers(names: &str) -> Vec<OwnedServerName> {
        names.split(' ').map(|name| OwnedServerName::try_from(name).unwrap()).collect()
    }

    fn of_me(membership: Option<MembershipState>) -> Vec<(OwnedUserId, MembershipState)> {
        let me = OwnedUserId::try_from("@p2p:me").unwrap();
        membership.map(|membership| (me, membership)).into_iter().collect()
    }

    #[test]
    fn a_room_is_ours_as_long_as_one_of_us_is_in_it() {
        let mut index = Index::default();
        let [ann, bob] = ["@ann:me", "@bob:me"].map(|id| OwnedUserId::try_from(id).unwrap());
        let both = vec![(ann.clone(), Join), (bob.clone(), Invite)];
        let changed = index.advance(room("a"), both, Some(servers("me carl")));
        assert_eq!((changed.joined, sorted(changed.gained)), (Some(true), "carl me".to_owned()));
        let changed = index.advance(room("a"), vec![(bob.clone(), Join)], None);
        assert_eq!(changed, Changed::default(), "one of us was there");
        assert_eq!(index.advance(room("a"), vec![(ann.clone(), Ban)], None), Changed::default());
        assert_eq!(index.membership(&room("a"), &ann), Some(&Ban));
        index.forget(&room("a"), &ann);
        assert!(index.knows(&room("a")) && index.membership(&room("a"), &ann).is_none());
        let changed = index.advance(room("a"), vec![(bob.clone(), Leave)], None);
        assert_eq!((changed.joined, sorted(changed.lost)), (Some(false), "carl me".to_owned()));
        index.forget(&room("a"), &bob);
        assert!(!index.knows(&room("a")));
    }

    fn sorted(mut names: Vec<OwnedServerName>) -> String {
        names.sort();
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_shared_changes_with_the_first_room_and_the_last() {
        type Step = (&'static str, Option<MembershipState>, Option<&'static str>);
        let steps: [(Step, Option<bool>, &str, &str); 12] = [
            (("a", Some(Invite), Some("me ann")), None, "", ""),
            (("a", Some(Join), Some("me ann")), Some(true), "ann me", ""),
            (("b", Some(Join), Some("me ann bob")), Some(true), "bob", ""),
            (("b", None, Some("me ann")), None, "", "bob"),
            (("b", None, Some("me ann")), None, "", ""),
            (("b", None, Some("me ann bob carl")), None, "bob carl", ""),
            (("c", Some(Join), Some("me")), Some(true), "", ""),
            (("b", Some(Leave), Some("ann bob carl")), Some(false), "", "bob carl"),
            (("b", None, Some("ann dora")), None, "", ""),
            (("a", Some(Ban), None), Some(false), "", "ann"),
            (("b", Some(Join), Some("me ann dora")), Some(true), "ann dora", ""),
            (("b", Some(Leave), None), Some(false), "", "ann dora"),
        ];
        let mut index = Index::default();
        for (number, ((name, membership, names), joined, gained, lost)) in
            steps.into_iter().enumerate()
        {
            let changed = index.advance(room(name), of_me(membership), names.map(servers));
            let told = (changed.joined, sorted(changed.gained), sorted(changed.lost));
            assert_eq!(told, (joined, gained.to_owned(), lost.to_owned()), "step {number}");
        }
        assert!(index.shares(&servers("me")[0]));
        assert!(!index.shares(&servers("ann")[0]));
    }

    #[test]
    fn only_joined_rooms_are_shared() {
        let mut index = Index::default();
        for (name, membership) in [("a", Join), ("b", Invite), ("c", Leave), ("d", Join)] {
            let names = if name == "d" { "me" } else { "me ann" };
            index.advance(room(name), of_me(Some(membership)), Some(servers(names)));
        }
        assert_eq!(index.shared_with(&servers("ann")[0]), [&room("a")]);
        assert!(index.shared_with(&servers("bob")[0]).is_empty());
        let shared = |name| index.is_shared(&room(name), &servers("ann")[0]);
        assert_eq!(["a", "b", "c", "d", "e"].map(shared), [true, false, false, false, false]);
        assert_eq!(index.joined().count(), 2);
        // In a public room anybody can be.
        assert!(index.is_close(&servers("ann")[0]) && !index.is_close(&servers("bob")[0]));
        index.set_public(&room("a"), true);
        assert!(index.shares(&servers("ann")[0]) && !index.is_close(&servers("ann")[0]));
        index.forget(&room("c"), &of_me(Some(Leave))[0].0);
        assert!(index.knows(&room("b")) && !index.knows(&room("c")));
    }
}
