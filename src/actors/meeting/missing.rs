//! Events that one server lacks of rooms that it shares with another one: asked for, and given, for
//! hundreds of rooms in one message (`docs/PROTOCOL.md` §5).
//!
//! Invariants: what comes is nothing but copies of events, each checked by its room like any other;
//! what was not asked for is not looked at; every further request is one that the answer before
//! made fewer rooms of.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use actix::{Context, Handler, Recipient, ResponseFuture};
use futures::StreamExt as _;
use ruma::{OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{actor::MeetingActor, exchange::Exchange, messages::FindMissing};
use crate::{
    actors::{
        identity::FindServerKeys,
        room::{RoomError, TakeMissing, ask, federation, read},
        room_state::{Briefly, ToRoom},
        store::{MissingEvent, ReadMissing, RoomGaps},
    },
    config::limits,
    proto::{
        certificates::{Certificates, text_for},
        endpoint::Endpoint,
        heads::Gap,
        json,
        pdu::with_server_keys,
        signer::Signer,
    },
};

/// Rooms that take events in at the same time: so many share one sync of the disk.
const TAKING_AT_ONCE: usize = 32;

#[derive(Deserialize)]
struct MissingAnswer {
    rooms: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

impl Exchange {
    /// Fetches what is missing in some rooms, as far as it comes by this request.
    pub(super) async fn fetch_missing(&self, gaps: RoomGaps) -> Result<(), RoomError> {
        let mut left: BTreeMap<OwnedRoomId, Gap> = gaps.into_iter().collect();
        while !left.is_empty() {
            let before = left.len();
            let content = json!({"rooms": left});
            let wait = limits::FEDERATION_WAIT;
            let request = federation(&self.server, Endpoint::missing_events(), content, wait)?;
            let answer = ask(&self.links.federation, request).await?;
            let answer: MissingAnswer = read(&self.server, answer)?;
            let given =
                answer.rooms.into_iter().filter(|(room_id, _)| left.remove(room_id).is_some());
            let taken = given.filter(|(_, pdus)| !pdus.is_empty()).map(|(room_id, mut pdus)| {
                pdus.truncate(limits::MISSING_EVENTS);
                let message = TakeMissing { server_name: self.server.clone(), pdus };
                let asked = self.links.take_missing.send(Briefly(ToRoom { room_id, message }));
                async move {
                    // What one room refuses is no matter of the others.
                    if let Ok(Ok(Err(error))) = asked.await {
                        log::debug!("missing events not taken in: {error}");
                    }
                }
            });
            let taken: Vec<_> = taken.collect();
            futures::stream::iter(taken)
                .buffer_unordered(TAKING_AT_ONCE)
                .collect::<Vec<()>>()
                .await;
            if left.len() == before {
                break;
            }
        }
        Ok(())
    }
}

impl Handler<FindMissing> for MeetingActor {
    type Result = ResponseFuture<Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, RoomError>>;

    fn handle(&mut self, msg: FindMissing, _: &mut Context<Self>) -> Self::Result {
        let FindMissing { origin, mut rooms, permit } = msg;
        let links = self.links.clone();
        let signer = self.signer.clone();
        Box::pin(async move {
            let _permit = permit;
            let signer = signer.ok_or(RoomError::NotFound)?;
            links.keep_shared(&origin, &mut rooms).await?;
            let found = ask(&links.read_missing, ReadMissing(rooms.into_iter().collect())).await?;
            let senders = found.iter().flat_map(|(_, events)| events);
            let keys = Keys::find(&links.find_keys, signer, senders).await?;
            let rooms = found.into_iter().map(|(room_id, events)| {
                (room_id, events.iter().filter_map(|event| keys.attach(event)).collect())
            });
            Ok(rooms.collect())
        })
    }
}

/// The server_keys of those who sent some events.
pub(super) struct Keys {
    signer: Arc<Signer>,
    known: HashMap<OwnedServerName, Certificates>,
}

impl Keys {
    /// Finds them, as far as they are known.
    pub(super) async fn find<'a>(
        find_keys: &Recipient<FindServerKeys>,
        signer: Arc<Signer>,
        events: impl Iterator<Item = &'a MissingEvent>,
    ) -> Result<Self, RoomError> {
        let servers: HashSet<OwnedServerName> =
            events.map(|event| event.sender.server_name().to_owned()).collect();
        let find = FindServerKeys(servers.into_iter().collect());
        let known = find_keys.send(find).await.map_err(|error| RoomError::Ask(error.into()))?;
        Ok(Self { signer, known })
    }

    /// Puts server_keys back on an event; nobody could verify one whose keys are not known any more.
    pub(super) fn attach(&self, event: &MissingEvent) -> Option<Box<RawValue>> {
        // Too deep for others: the room hands such an event on redacted, when it is asked.
        if json::nesting(&event.json) > json::NESTING {
            return None;
        }
        let server = event.sender.server_name();
        let keys = text_for(&self.signer, &self.known, server, &event.json)?;
        Some(with_server_keys(&event.json, keys))
    }
}
