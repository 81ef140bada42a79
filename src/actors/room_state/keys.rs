//! Asks the room for the key that a gossip message is sealed with.

use actix::{Handler, ResponseFuture};

use super::actor::RoomStateActor;
use crate::{
    actors::{gossip::FindRoomKey, room::FindKey},
    proto::room_key::RoomKey,
};

impl Handler<FindRoomKey> for RoomStateActor {
    type Result = ResponseFuture<Option<RoomKey>>;

    fn handle(&mut self, msg: FindRoomKey, ctx: &mut Self::Context) -> Self::Result {
        let FindRoomKey { room_id, id, from } = msg;
        let room = self.known_room(&room_id, ctx);
        Box::pin(async move { room.ok()?.send(FindKey { id, from }).await.ok().flatten() })
    }
}
