//! Catching up: what was said while this node was away comes from its begin, in the order in which
//! it stands with whoever gives it. So each event finds here what it follows, and nothing waits for
//! all that is before it, however much was missed.

use std::collections::BTreeMap;

use actix::{Context, Handler, ResponseFuture};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::RoomActor,
    links::ask,
    messages::{RoomError, TakeMissing},
    operate::Whose,
    spoilt::Copy,
    worker::Worker,
};
use crate::{actors::store::FindLacking, config::limits, proto::endpoint::Endpoint};

/// Spoilt copies in one answer of which whole ones are looked for there and then: what was redacted
/// is one. The others come when heads are followed.
const SPOILT_MISSING: usize = 20;

#[derive(Deserialize)]
struct MissingAnswer {
    rooms: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

impl Handler<TakeMissing> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: TakeMissing, ctx: &mut Context<Self>) -> Self::Result {
        let TakeMissing { server_name, pdus } = msg;
        let worker = self.worker_for(Whose::Events, ctx);
        Box::pin(async move { worker.take_missing(pdus, &server_name).await.map(drop) })
    }
}

impl Worker {
    /// Fetches what comes after the events that are here and leads to `latest`, as long as some comes.
    pub(super) async fn catch_up(
        &self,
        mut latest: Vec<OwnedEventId>,
        from: &OwnedServerName,
    ) -> Result<(), RoomError> {
        latest.truncate(limits::HEADS);
        for _ in 0..limits::MISSING_ROUNDS {
            let heads = vec![(self.room_id.clone(), latest.clone())];
            let lacking = ask(&self.links.store.find_lacking, FindLacking(heads)).await?;
            if lacking.is_empty() {
                return Ok(());
            }
            let lacking: BTreeMap<_, _> = lacking.into_iter().collect();
            let content = json!({"rooms": lacking});
            let mut answer: MissingAnswer =
                self.request(from, Endpoint::missing_events(), content).await?;
            let mut pdus = answer.rooms.remove(&self.room_id).unwrap_or_default();
            pdus.truncate(limits::MISSING_EVENTS);
            if pdus.is_empty() || !self.take_missing(pdus, from).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes in what a server gave of what is missing. Tells whether any was new.
    async fn take_missing(
        &self,
        pdus: Vec<Box<RawValue>>,
        from: &OwnedServerName,
    ) -> Result<bool, RoomError> {
        let mut events = Vec::new();
        let mut looks = 0;
        for received in self.receive_new(pdus, from).await? {
            if !received.spoilt {
                events.push(received);
            } else if looks < SPOILT_MISSING {
                looks += 1;
                let copy = Copy { received, gossiped: false };
                events.extend(self.look_for_whole(copy, from).await.event);
            }
        }
        // They stand in the order in which they were given, parents first. One that does not waits for
        // its parents.
        Ok(self.ingest_all(events).await)
    }
}
