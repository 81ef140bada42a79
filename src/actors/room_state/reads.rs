//! What others read of the rooms without waking one: who is in which, and which are shared with whom.

use std::collections::HashSet;

use actix::{Handler, MessageResult};
use ruma::{OwnedRoomId, events::room::member::MembershipState};

use super::{
    actor::RoomStateActor,
    index::Indexed,
    messages::{
        CountRooms, KnowsRoom, ListRooms, ReadMembership, ReadServers, ReadShared, RoomCounts,
        ServersIn, SharedRooms, SiftShared, SiftedRooms,
    },
    sharing,
};
use crate::{
    actors::upward::{FindSharing, Sharing},
    config::limits,
};

impl Handler<ListRooms> for RoomStateActor {
    type Result = Vec<(OwnedRoomId, MembershipState)>;

    fn handle(&mut self, ListRooms(user): ListRooms, _: &mut Self::Context) -> Self::Result {
        let known = self.rooms.iter();
        known.filter_map(|(id, room)| Some((id.clone(), room.locals.get(&user)?.clone()))).collect()
    }
}

impl Handler<ReadMembership> for RoomStateActor {
    type Result = MessageResult<ReadMembership>;

    fn handle(&mut self, msg: ReadMembership, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.rooms.membership(&msg.room_id, &msg.user_id).cloned())
    }
}

impl Handler<KnowsRoom> for RoomStateActor {
    type Result = bool;

    fn handle(&mut self, msg: KnowsRoom, _: &mut Self::Context) -> bool {
        self.rooms.knows(&msg.0)
    }
}

impl Handler<FindSharing> for RoomStateActor {
    type Result = Vec<Sharing>;

    fn handle(&mut self, msg: FindSharing, _: &mut Self::Context) -> Self::Result {
        let FindSharing { servers, with } = msg;
        let joined = self.rooms.joined().map(|(_, room)| (&room.servers, room.public));
        sharing::find(joined, servers, with.as_ref())
    }
}

impl Handler<ReadServers> for RoomStateActor {
    type Result = Vec<ServersIn>;

    fn handle(
        &mut self,
        ReadServers(room_ids): ReadServers,
        _: &mut Self::Context,
    ) -> Self::Result {
        let own = self.signer.as_ref().map(|signer| signer.server_name());
        let servers = |room_id: OwnedRoomId| {
            let room = self.rooms.get(&room_id)?;
            let others = room.servers.iter().filter(|server| Some(*server) != own);
            let servers = others.take(limits::OWED_MEMBERS + 1).cloned().collect();
            Some(ServersIn { room_id, servers, is_joined: room.is_joined() })
        };
        room_ids.into_iter().filter_map(servers).collect()
    }
}

impl Handler<ReadShared> for RoomStateActor {
    type Result = SharedRooms;

    fn handle(&mut self, ReadShared(server): ReadShared, _: &mut Self::Context) -> SharedRooms {
        let owned = |rooms: Vec<&OwnedRoomId>| rooms.into_iter().cloned().collect();
        SharedRooms {
            shared: owned(self.rooms.shared_with(&server)),
            invited: owned(self.rooms.invited_through(&server)),
        }
    }
}

impl Handler<SiftShared> for RoomStateActor {
    type Result = SiftedRooms;

    fn handle(&mut self, msg: SiftShared, _: &mut Self::Context) -> SiftedRooms {
        let SiftShared { server, room_ids } = msg;
        let (mut shared, mut unshared) = (HashSet::new(), Vec::new());
        for room_id in room_ids {
            if self.rooms.is_shared(&room_id, &server) {
                shared.insert(room_id);
            } else if self.rooms.get(&room_id).is_some_and(Indexed::is_joined) {
                unshared.push(room_id);
            }
        }
        SiftedRooms { shared, unshared }
    }
}

impl Handler<CountRooms> for RoomStateActor {
    type Result = RoomCounts;

    fn handle(&mut self, _: CountRooms, _: &mut Self::Context) -> RoomCounts {
        let all = self.rooms.iter().flat_map(|(_, room)| room.locals.values());
        RoomCounts {
            joined: self.rooms.joined().count(),
            invited: all.filter(|own| **own == MembershipState::Invite).count(),
            live: self.in_memory().count(),
        }
    }
}
