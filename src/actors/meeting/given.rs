//! What another server lacks, named by id and then given (`docs/PROTOCOL.md` §5).
//!
//! Invariants: as in `missing.rs`; of each server one walk at a time, and what is walked through for
//! others has half of the Store's time at most.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, ResponseFuture,
    WrapFuture as _,
};
use ruma::OwnedServerName;
use serde_json::value::RawValue;

use super::{
    actor::MeetingActor,
    messages::{FindEvents, FindMissingIds},
    spreading::Gave,
};
use crate::{
    actors::{
        catch_up::{EventsAnswer, IdsAnswer},
        identity::FindServerKeys,
        room::{RoomError, ask},
        store::{MissingWalk, ReadEvents},
    },
    config::limits,
    proto::json,
};

impl Handler<FindMissingIds> for MeetingActor {
    type Result = ResponseActFuture<Self, Result<IdsAnswer, RoomError>>;

    fn handle(&mut self, msg: FindMissingIds, _: &mut Context<Self>) -> Self::Result {
        let FindMissingIds { origin, mut rooms, permit } = msg;
        let is_first = self.walking.insert(origin.clone());
        let (links, of) = (self.links.clone(), origin.clone());
        let named = async move {
            let _permit = permit;
            if !is_first {
                return Err(RoomError::Full("requests for ids at once; ask again later"));
            }
            links.keep_shared(&of, &mut rooms).await?;
            let mut left = limits::MISSING_IDS;
            let mut answer = IdsAnswer::default();
            for (room_id, gap) in rooms {
                if left == 0 {
                    break;
                }
                let most = limits::MISSING_IDS_ROOM.min(left);
                let mut next = MissingWalk::Begin { room_id: room_id.clone(), gap, most };
                let found = loop {
                    let began = Instant::now();
                    match ask(&links.missing_walk, next).await? {
                        Ok(found) => break found,
                        Err(under_way) => next = under_way,
                    }
                    tokio::time::sleep(began.elapsed()).await;
                };
                left -= found.ids.len();
                answer.rooms.insert(room_id, found);
            }
            Ok(answer)
        };
        Box::pin(named.into_actor(self).map(move |answer, act, _| {
            if is_first {
                act.walking.remove(&origin);
            }
            answer
        }))
    }
}

impl Handler<FindEvents> for MeetingActor {
    type Result = ResponseFuture<Result<EventsAnswer, RoomError>>;

    fn handle(&mut self, msg: FindEvents, ctx: &mut Context<Self>) -> Self::Result {
        let FindEvents { origin, mut rooms, permit } = msg;
        let (links, meeting) = (self.links.clone(), ctx.address());
        let is_awaited = !self.unspread.is_empty();
        let signer = self.signer.clone();
        Box::pin(async move {
            let _permit = permit;
            let signer = signer.ok_or(RoomError::NotFound)?;
            links.keep_shared(&origin, &mut rooms).await?;
            if is_awaited {
                meeting.do_send(Gave { server: origin, rooms: rooms.clone() });
            }
            let found = ask(&links.read_events, ReadEvents(rooms.into_iter().collect())).await?;
            let mut servers: HashSet<OwnedServerName> = found
                .iter()
                .flat_map(|(_, events)| events)
                .map(|event| event.sender.server_name().to_owned())
                .collect();
            let is_ours = servers.remove(signer.server_name());
            let find = FindServerKeys(servers.into_iter().collect());
            let known =
                links.find_keys.send(find).await.map_err(|error| RoomError::Ask(error.into()))?;
            let mut server_keys = BTreeMap::new();
            for (server, keys) in known {
                // Events are signed by several keys of a server; who asks chooses by the id of the key.
                let all = keys.iter().map(|(_, keys)| serde_json::value::to_raw_value(keys.json()));
                let all = all.collect::<Result<Vec<_>, _>>().map_err(RoomError::internal)?;
                server_keys.insert(server, all);
            }
            if is_ours {
                let keys = RawValue::from_string(signer.server_keys_text().to_owned());
                let keys = vec![keys.map_err(RoomError::internal)?];
                server_keys.insert(signer.server_name().to_owned(), keys);
            }
            // Nobody could verify an event whose keys are not known any more; one that is too deep
            // the room hands on redacted, when it is asked.
            let is_good = |event: &crate::actors::store::MissingEvent| {
                server_keys.contains_key(event.sender.server_name())
                    && json::nesting(&event.json) <= json::NESTING
            };
            let raw = |event: crate::actors::store::MissingEvent| {
                RawValue::from_string(event.json.into()).map_err(RoomError::internal)
            };
            let mut rooms = BTreeMap::new();
            for (room_id, events) in found {
                let events: Result<Vec<_>, _> =
                    events.into_iter().filter(|event| is_good(event)).map(raw).collect();
                rooms.insert(room_id, events?);
            }
            Ok(EventsAnswer { rooms, server_keys })
        })
    }
}
