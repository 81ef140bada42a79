//! PDUs and EDUs from other servers: checked, and taken in.

use std::sync::Arc;

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use ruma::{OwnedEventId, OwnedServerName};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    actor::RoomActor,
    fetch::Fetch,
    join::accepted,
    machine::Ingested,
    messages::{IngestTransaction, RoomError},
    operate::Whose,
    spoilt::Copy,
    whole::LookForWhole,
    worker::Worker,
};
use crate::{
    actors::{room::HeadsHeard, upward::TransactionVerdict},
    proto::{
        ProtoError,
        pdu::{Received, Unverified},
        server_keys::VerifiedServerKeys,
    },
};

impl RoomActor {
    /// Ingests a parked event again.
    pub(super) fn retry_parked(&mut self, event_id: &OwnedEventId, ctx: &mut Context<Self>) {
        let Some(received) = self.machine.as_mut().and_then(|machine| machine.unpark(event_id))
        else {
            return;
        };
        let from = received.pdu.sender.server_name().to_owned();
        let worker = self.worker_for(Whose::Events, ctx);
        ctx.spawn(async move { worker.ingest(received, &from).await }.into_actor(self));
    }

    /// Another member's server announced its heads: RoomState hears of those that are not known.
    pub(super) fn hear_heads(
        &self,
        server_name: OwnedServerName,
        heads: Vec<OwnedEventId>,
        ctx: &mut Context<Self>,
    ) {
        let worker = self.worker_for(Whose::Events, ctx);
        let work = async move {
            let extremities = worker.unknown(heads).await?;
            if !extremities.is_empty() {
                let (room_id, server_name) = (worker.room_id.clone(), server_name.clone());
                let heard = HeadsHeard { room_id, server_name, extremities };
                worker.links.heads_heard.do_send(heard);
            }
            worker.fetch_parked(&server_name).await
        };
        ctx.spawn(work.into_actor(self).map(|looked_at: Result<(), RoomError>, act, _| {
            if let Err(error) = looked_at {
                log::debug!(room_id:% = act.room_id; "heads not looked at: {error}");
            }
        }));
    }
}

impl Handler<IngestTransaction> for RoomActor {
    type Result = ResponseFuture<TransactionVerdict>;

    fn handle(&mut self, msg: IngestTransaction, ctx: &mut Context<Self>) -> Self::Result {
        let IngestTransaction { origin, pdus, edus, gossiped: by_gossip } = msg;
        let gossiped = by_gossip.is_some();
        if gossiped {
            self.fresh.heard(&origin);
        }
        let (verdict, decided) = oneshot::channel();
        let worker = self.worker_for(Whose::Events, ctx);
        let work = async move {
            let server_keys = by_gossip.as_ref().map(|gossiped| &gossiped.server_keys);
            // Who is shown out is told by those of whom he is no member any more.
            let departures = worker.departures_among(&pdus, server_keys.map(|keys| &**keys));
            let checked = worker.check(&origin, pdus, server_keys).await;
            let (answer, received) = match checked {
                Ok(received) => (TransactionVerdict::Accept, received),
                Err(refused) => (refused, Vec::new()),
            };
            if answer == TransactionVerdict::Ignore {
                for pdu in departures {
                    worker.hear_departure(&origin, pdu).await;
                }
            }
            // gossipsub waits for it. Whoever sent a request waits for all: that slows a flood down.
            let mut verdict = Some(verdict);
            if gossiped && let Some(verdict) = verdict.take() {
                let _ = verdict.send(answer);
            }
            if answer == TransactionVerdict::Accept && !edus.is_empty() {
                worker.room.do_send(TakeEdus { origin: origin.clone(), edus });
            }
            for received in received {
                worker.take(received, &origin, gossiped).await;
            }
            if let Some(verdict) = verdict {
                let _ = verdict.send(answer);
            }
            drop(by_gossip);
        };
        ctx.spawn(work.into_actor(self));
        Box::pin(async move { decided.await.unwrap_or(TransactionVerdict::Ignore) })
    }
}

/// EDUs of a transaction whose origin is a member.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct TakeEdus {
    origin: OwnedServerName,
    edus: Vec<Box<RawValue>>,
}

impl Handler<TakeEdus> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: TakeEdus, ctx: &mut Context<Self>) {
        self.take_edus(&msg.origin, &msg.edus, ctx);
    }
}

impl Worker {
    /// The cheap checks, after which gossip may hand a transaction on: then there are server_keys
    /// of its origin.
    async fn check(
        &self,
        origin: &OwnedServerName,
        pdus: Vec<Box<RawValue>>,
        gossiped_beside: Option<&Arc<VerifiedServerKeys>>,
    ) -> Result<Vec<Received>, TransactionVerdict> {
        let server = origin.clone();
        let known = self
            .operate(move |machine| {
                let member = machine.is_resident() && machine.has_joined(&server);
                Ok(((member, machine.rules().clone()), None))
            })
            .await;
        let Ok((true, rules)) = known else { return Err(TransactionVerdict::Ignore) };
        if pdus.is_empty() {
            return Ok(Vec::new());
        }
        let refused = |error: ProtoError| match error {
            // Nobody is to blame for keys that this node has not seen, nor for its clock.
            ProtoError::MissingServerKeys(_)
            | ProtoError::KeysAhead(_)
            | ProtoError::NotFresh(_) => TransactionVerdict::Ignore,
            error => {
                log::debug!(room_id:% = self.room_id, origin:%; "transaction refused: {error}");
                TransactionVerdict::Reject
            }
        };
        let ours = |_| TransactionVerdict::Ignore;
        let (room_id, servers) = (self.room_id.clone(), vec![origin.clone()]);
        let results = if let Some(server_keys) = gossiped_beside {
            // What is handed on was verified here, each copy of it.
            self.links.receive_beside(pdus, room_id, rules, server_keys).await.map_err(ours)?
        } else {
            let read = self.links.read(pdus, room_id, rules.clone()).await.map_err(ours)?;
            let read = read.into_iter().collect::<Result<_, _>>().map_err(refused)?;
            let new = self.not_here(read).await.map_err(ours)?;
            self.links.verify(new, rules, servers).await.map_err(ours)?
        };
        let received: Vec<_> = results.into_iter().collect::<Result<_, _>>().map_err(refused)?;
        let pdus: Vec<_> = received.iter().map(|received| received.pdu.clone()).collect();
        let joined = self
            .operate(move |machine| Ok((pdus.iter().all(|pdu| machine.may_gossip(pdu)), None)))
            .await;
        if joined.unwrap_or(false) { Ok(received) } else { Err(TransactionVerdict::Ignore) }
    }

    /// Leaves out the events that are here whole: another copy of them is no news, whatever became of
    /// it on its way, and is not worth a verification.
    async fn not_here(&self, mut events: Vec<Unverified>) -> Result<Vec<Unverified>, RoomError> {
        let ids: Vec<_> = events.iter().map(|event| event.pdu.event_id.clone()).collect();
        let here = self
            .operate(move |machine| {
                machine.require(&ids)?;
                Ok((ids.iter().map(|id| machine.is_whole(id)).collect::<Vec<_>>(), None))
            })
            .await?;
        let mut here = here.into_iter();
        events.retain(|_| !here.next().unwrap_or(false));
        Ok(events)
    }

    /// Takes one event in that somebody sent. Of a spoilt copy a whole one is looked for first, on
    /// their account, where the event is not here.
    pub(super) async fn take(&self, received: Received, from: &OwnedServerName, gossiped: bool) {
        if !received.spoilt {
            return self.ingest(received, from).await;
        }
        let id = received.pdu.event_id.clone();
        if matches!(self.unknown(vec![id]).await, Ok(unknown) if !unknown.is_empty()) {
            let copy = Copy { received, gossiped };
            self.room.do_send(LookForWhole { copy, from: from.clone() });
        }
    }

    /// Takes one event in. What it misses is fetched from `from`.
    pub(super) async fn ingest(&self, received: Received, from: &OwnedServerName) {
        let event_id = received.pdu.event_id.clone();
        let taken = self
            .operate(move |machine| {
                // Nobody gives what comes before it to a server whose last user it shows out.
                let departs = machine.departs_with_all(&received.pdu)?;
                Ok(match machine.ingest(&received, None)? {
                    Ingested::New(change, _) => ((false, departs), Some(change)),
                    Ingested::Parked => ((true, departs), None),
                    Ingested::Duplicate | Ingested::Full => ((false, departs), None),
                })
            })
            .await;
        match taken {
            Ok((true, true)) => {
                if let Err(error) = self.take_parked_departure(event_id, from).await {
                    log::debug!(room_id:% = self.room_id; "not taken for a departure: {error}");
                }
            }
            Ok((true, false)) => self.room.do_send(Fetch { event_id, from: from.clone() }),
            Ok((false, _)) => {}
            Err(error) => {
                log::debug!(room_id:% = self.room_id, event_id:%; "event not taken in: {error}");
            }
        }
    }

    /// Reads and verifies what a server gave; what is no good is left out.
    pub(super) async fn receive(
        &self,
        pdus: Vec<Box<RawValue>>,
        from: &OwnedServerName,
    ) -> Result<Vec<Received>, RoomError> {
        let rules = self.rules().await?;
        let servers = vec![from.clone()];
        let results = self.links.receive(pdus, self.room_id.clone(), rules, servers).await?;
        Ok(accepted(&self.room_id, results))
    }

    /// The same, less what is here whole: that is not even verified.
    pub(super) async fn receive_new(
        &self,
        pdus: Vec<Box<RawValue>>,
        from: &OwnedServerName,
    ) -> Result<Vec<Received>, RoomError> {
        let rules = self.rules().await?;
        let read = self.links.read(pdus, self.room_id.clone(), rules.clone()).await?;
        let read = self.not_here(accepted(&self.room_id, read)).await?;
        let results = self.links.verify(read, rules, vec![from.clone()]).await?;
        Ok(accepted(&self.room_id, results))
    }

    /// Takes several events in, oldest first. Tells whether any was new.
    pub(super) async fn ingest_all(&self, events: Vec<Received>) -> bool {
        let mut progress = self.take_history(&events).await;
        for received in events {
            let event_id = received.pdu.event_id.clone();
            let taken = self
                .operate(move |machine| {
                    let parked_before = machine.is_parked(&received.pdu.event_id);
                    Ok(match machine.ingest(&received, None)? {
                        Ingested::New(change, _) => (true, Some(change)),
                        Ingested::Parked => (!parked_before, None),
                        Ingested::Duplicate | Ingested::Full => (false, None),
                    })
                })
                .await;
            match taken {
                Ok(fresh) => progress |= fresh,
                // One bad event spoils no other; a disk that fails ends the node anyway.
                Err(error) => {
                    log::debug!(room_id:% = self.room_id, event_id:%; "event not taken in: {error}");
                }
            }
        }
        progress
    }

    /// Takes in those of some events that a gap leads to: they are older than what stands here, and
    /// would come behind it if each were taken for new. Tells whether any was such.
    pub(super) async fn take_history(&self, events: &[Received]) -> bool {
        if !self.has_gap().await.unwrap_or(false) {
            return false;
        }
        let events = events.to_vec();
        let taken = self.operate(move |machine| {
            let change = machine.backfilled(&events)?;
            let some = !change.commit.events.is_empty();
            Ok((some, some.then(|| Box::new(change))))
        });
        taken.await.unwrap_or(false)
    }

    /// Tells whether history is missing.
    pub(super) async fn has_gap(&self) -> Result<bool, RoomError> {
        self.operate(|machine| Ok((!machine.missing_before(None).is_empty(), None))).await
    }
}
