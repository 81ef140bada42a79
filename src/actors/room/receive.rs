//! PDUs from other servers: checked, ingested, and what is missing around them fetched.

use std::{sync::Arc, time::Duration};

use actix::{
    ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::oneshot;

use super::{
    actor::{RoomActor, operate_for},
    client::{federation, read},
    join::{accepted, receive_state},
    links::{Links, ask},
    machine::{Ingested, Machine, Stop},
    messages::{FollowHeads, IngestTransaction, RoomError, TakeMissing, TransactionVerdict},
    operate::Turn,
    spoilt::Copy,
};
use crate::{
    actors::{relay_request::FederationError, room_state::HeadsHeard, store::Place},
    config::limits,
    proto::{
        ProtoError,
        pdu::{Received, Unverified},
        signer::Signer,
    },
};

/// Events whose ancestors are fetched at the same time, in one room.
const FETCHES: usize = 8;
/// Of these, from one server: who answers slowly, or never, keeps nobody else from being asked.
const FETCHES_PEER: usize = 2;
/// Rest between two whole copies that are looked for on account of one server.
const SPOILT_REST: Duration = Duration::from_millis(250);
/// Those who were gossiped the same spoilt copy ask its author one after another: so long for each
/// member on average, and no longer than this.
const SPREAD: Duration = Duration::from_millis(100);
const SPREAD_MAX: Duration = Duration::from_secs(10);
/// State events that are fetched one by one; where more are missing, the whole state is.
const STATE_EVENTS: usize = 20;

/// What an actor's future needs to work for the room.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) room: Addr<RoomActor>,
    pub(super) links: Arc<Links>,
    pub(super) signer: Arc<Signer>,
    pub(super) room_id: OwnedRoomId,
    pub(super) turn: Turn,
}

/// What came of looking for a whole copy.
struct Looked {
    /// The event to take in: whole, or as it came where nobody has a whole one.
    event: Option<Received>,
    /// Whoever gave the spoilt copy does not answer.
    gone: bool,
}

#[derive(Deserialize)]
struct EventsAnswer {
    #[serde(alias = "events")]
    pdus: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct StateAnswer {
    pdus: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct StateIdsAnswer {
    pdu_ids: Vec<OwnedEventId>,
    auth_chain_ids: Vec<OwnedEventId>,
}

impl RoomActor {
    /// Returns what works for our user.
    pub(super) fn worker(&self, ctx: &Context<Self>) -> Worker {
        self.worker_for(Turn::Ours, ctx)
    }

    /// Returns what works for whoever asks.
    pub(super) fn worker_for(&self, turn: Turn, ctx: &Context<Self>) -> Worker {
        Worker {
            room: ctx.address(),
            links: Arc::clone(&self.links),
            signer: Arc::clone(&self.signer),
            room_id: self.room_id.clone(),
            turn,
        }
    }

    /// Ingests a parked event again.
    pub(super) fn retry_parked(&mut self, event_id: &OwnedEventId, ctx: &mut Context<Self>) {
        let Some(received) = self.machine.as_mut().and_then(|machine| machine.unpark(event_id))
        else {
            return;
        };
        let from = received.pdu.sender.server_name().to_owned();
        let worker = self.worker_for(Turn::Events, ctx);
        ctx.spawn(async move { worker.ingest(received, &from).await }.into_actor(self));
    }

    /// Another member's server announced its heads: RoomState hears of those that are not known.
    pub(super) fn hear_heads(
        &self,
        server_name: OwnedServerName,
        heads: Vec<OwnedEventId>,
        ctx: &mut Context<Self>,
    ) {
        let worker = self.worker_for(Turn::Events, ctx);
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

    /// Fetches what an event waits for, unless that is under way.
    fn fetch(&mut self, event_id: OwnedEventId, from: OwnedServerName, ctx: &mut Context<Self>) {
        let of_it = self.fetching.values().filter(|server| **server == from).count();
        if self.fetching.len() >= FETCHES
            || of_it >= FETCHES_PEER
            || self.fetching.contains_key(&event_id)
        {
            return;
        }
        self.fetching.insert(event_id.clone(), from.clone());
        let worker = self.worker_for(Turn::Events, ctx);
        let wanted = event_id.clone();
        let work = async move { worker.fetch_missing(wanted, from).await };
        ctx.spawn(work.into_actor(self).map(move |fetched, act, ctx| {
            act.fetching.remove(&event_id);
            if let Err(error) = fetched {
                log::debug!(room_id:% = act.room_id; "missing events not fetched: {error}");
            }
            let Some(machine) = act.machine.as_mut() else { return };
            machine.tried(&event_id);
            // Those that found no place to be fetched at once. Each is tried once here; then it
            // waits until somebody's heads show that there is more to be had.
            let next = machine.next_fetch(true);
            let from = next.as_ref().and_then(|next| machine.sender_of_parked(next));
            if let (Some(next), Some(from)) = (next, from) {
                act.fetch(next, from, ctx);
            }
        }));
    }

    /// Looks for a whole copy of the next event of which a server gave a spoilt one.
    fn look_for_whole(&mut self, from: OwnedServerName, ctx: &mut Context<Self>) {
        let Some(copy) = self.spoilt.begin(&from) else { return };
        let worker = self.worker_for(Turn::Events, ctx);
        let giver = from.clone();
        let work = async move {
            let Looked { event, gone } = worker.look_for_whole(copy, &giver).await;
            if let Some(event) = event {
                worker.ingest(event, &giver).await;
            }
            if !gone {
                tokio::time::sleep(SPOILT_REST).await;
            }
            gone
        };
        ctx.spawn(work.into_actor(self).map(move |gone, act, ctx| {
            act.spoilt.end(&from, gone);
            act.look_for_whole(from, ctx);
        }));
    }
}

/// Asks a room to look for a whole copy of an event.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct LookForWhole {
    copy: Copy,
    from: OwnedServerName,
}

impl Handler<LookForWhole> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: LookForWhole, ctx: &mut Context<Self>) {
        let LookForWhole { copy, from } = msg;
        self.spoilt.push(&from, copy);
        self.look_for_whole(from, ctx);
    }
}

impl Handler<IngestTransaction> for RoomActor {
    type Result = ResponseFuture<TransactionVerdict>;

    fn handle(&mut self, msg: IngestTransaction, ctx: &mut Context<Self>) -> Self::Result {
        let IngestTransaction { origin, pdus, edus, gossiped, permit } = msg;
        if gossiped {
            self.fresh.heard(&origin);
        }
        let (verdict, decided) = oneshot::channel();
        let worker = self.worker_for(Turn::Events, ctx);
        let work = async move {
            // Who is shown out is told by those of whom he is no member any more.
            let departure = worker.departure_among(&pdus);
            let checked = worker.check(&origin, pdus, gossiped).await;
            let (answer, received) = match checked {
                Ok(received) => (TransactionVerdict::Accept, received),
                Err(refused) => (refused, Vec::new()),
            };
            if let Some(pdu) = departure.filter(|_| answer == TransactionVerdict::Ignore) {
                worker.hear_departure(&origin, pdu).await;
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
            drop(permit);
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

/// Asks a room to fetch what an event waits for.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Fetch {
    event_id: OwnedEventId,
    from: OwnedServerName,
}

impl Handler<Fetch> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: Fetch, ctx: &mut Context<Self>) {
        self.fetch(msg.event_id, msg.from, ctx);
    }
}

impl Handler<FollowHeads> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: FollowHeads, ctx: &mut Context<Self>) -> Self::Result {
        let worker = self.worker_for(Turn::Events, ctx);
        Box::pin(async move { worker.follow_heads(&msg.server_name, msg.extremities).await })
    }
}

impl Handler<TakeMissing> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: TakeMissing, ctx: &mut Context<Self>) -> Self::Result {
        let TakeMissing { server_name, pdus } = msg;
        let worker = self.worker_for(Turn::Events, ctx);
        Box::pin(async move {
            let mut received = worker.receive_new(pdus, &server_name).await?;
            // A whole copy is looked for where the heads are followed.
            received.retain(|received| !received.spoilt);
            received.sort_by_key(|received| received.pdu.depth);
            worker.ingest_all(received).await;
            Ok(())
        })
    }
}

impl Worker {
    /// Runs an operation of the room.
    pub(super) async fn operate<T, F>(&self, closure: F) -> Result<T, RoomError>
    where
        T: Send + 'static,
        F: FnMut(&mut Machine) -> Result<(T, Option<Box<super::machine::Change>>), Stop>
            + Send
            + 'static,
    {
        operate_for(self.turn, &self.room, None, closure).await
    }

    /// Sends a request about the room and reads its answer.
    pub(super) async fn request<T: serde::de::DeserializeOwned>(
        &self,
        server: &OwnedServerName,
        method: &'static str,
        uri: String,
        content: serde_json::Value,
    ) -> Result<T, RoomError> {
        let request = federation(server, method, uri, content, limits::FEDERATION_WAIT)?;
        read(server, ask(&self.links.federation, request).await?)
    }

    async fn rules(&self) -> Result<ruma::room_version_rules::RoomVersionRules, RoomError> {
        self.operate(|machine| Ok((machine.rules().clone(), None))).await
    }

    /// The cheap checks, after which gossip may hand a transaction on.
    async fn check(
        &self,
        origin: &OwnedServerName,
        pdus: Vec<Box<RawValue>>,
        gossiped: bool,
    ) -> Result<Vec<Received>, TransactionVerdict> {
        let server = origin.clone();
        let known = self
            .operate(move |machine| {
                let member = machine.is_joined() && machine.has_joined(&server);
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
        let results = if gossiped {
            // What is handed on was verified here, each copy of it.
            self.links.receive(pdus, room_id, rules, servers).await.map_err(ours)?
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
    async fn take(&self, received: Received, from: &OwnedServerName, gossiped: bool) {
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
    async fn ingest(&self, received: Received, from: &OwnedServerName) {
        let event_id = received.pdu.event_id.clone();
        // Nobody gives what comes before it to whom it shows out.
        let departs = self.is_departure(&received.pdu);
        let taken = self
            .operate(move |machine| {
                Ok(match machine.ingest(&received, None)? {
                    Ingested::New(change, _) => (false, Some(change)),
                    Ingested::Parked => (true, None),
                    Ingested::Duplicate | Ingested::Full => (false, None),
                })
            })
            .await;
        match taken {
            Ok(true) if departs => {
                if let Err(error) = self.take_parked_departure(event_id, from).await {
                    log::debug!(room_id:% = self.room_id; "not taken for a departure: {error}");
                }
            }
            Ok(true) => self.room.do_send(Fetch { event_id, from: from.clone() }),
            Ok(false) => {}
            Err(error) => {
                log::debug!(room_id:% = self.room_id, event_id:%; "event not taken in: {error}");
            }
        }
    }

    /// Somebody on the way changed or redacted the copy: asks whoever gave it for a whole one, then
    /// the author. Where none is to be had the spoilt one counts, until a whole one comes.
    async fn look_for_whole(&self, copy: Copy, from: &OwnedServerName) -> Looked {
        let Copy { received, gossiped } = copy;
        let id = received.pdu.event_id.clone();
        match self.fetch_event(from, &id).await {
            Ok(whole) if !whole.spoilt => return Looked { event: Some(whole), gone: false },
            Err(
                RoomError::Ask(_)
                | RoomError::Federation(
                    FederationError::Unreachable(_) | FederationError::TimedOut(_),
                ),
            ) => return Looked { event: None, gone: true },
            Ok(_) | Err(_) => {}
        }
        let author = received.pdu.sender.server_name().to_owned();
        if author == *from {
            return Looked { event: Some(received), gone: false };
        }
        if gossiped {
            tokio::time::sleep(self.spread().await).await;
        }
        // It may have come meanwhile, as its author said it.
        if !matches!(self.unknown(vec![id.clone()]).await, Ok(unknown) if !unknown.is_empty()) {
            return Looked { event: None, gone: false };
        }
        let found = self.fetch_event(&author, &id).await.ok().filter(|whole| !whole.spoilt);
        Looked { event: Some(found.unwrap_or(received)), gone: false }
    }

    /// Returns how long to wait so that all members do not ask the same one at once.
    async fn spread(&self) -> Duration {
        let members = self.operate(|machine| Ok((machine.servers().count(), None))).await;
        let members = u32::try_from(members.unwrap_or(1)).unwrap_or(u32::MAX);
        SPREAD.saturating_mul(members).min(SPREAD_MAX).mul_f64(rand::random())
    }

    async fn fetch_event(
        &self,
        server: &OwnedServerName,
        event_id: &OwnedEventId,
    ) -> Result<Received, RoomError> {
        let uri = format!("/_matrix/federation/v1/event/{event_id}?room_id={}", self.room_id);
        let answer: EventsAnswer = self.request(server, "GET", uri, json!({})).await?;
        let received = self.receive(answer.pdus, server).await?;
        received
            .into_iter()
            .find(|received| received.pdu.event_id == *event_id)
            .ok_or(RoomError::EventNotFound)
    }

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
    async fn receive_new(
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

    /// Returns those of some heads that are neither here nor wait here for others.
    async fn unknown(&self, heads: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>, RoomError> {
        self.operate(move |machine| {
            machine.require(&heads)?;
            let unknown = heads
                .iter()
                .filter(|id| machine.known(id).is_none() && !machine.is_parked(id))
                .cloned()
                .collect();
            Ok((unknown, None))
        })
        .await
    }

    /// Fetches the events that another member's server has at its front and we lack.
    pub(super) async fn follow_heads(
        &self,
        server: &OwnedServerName,
        mut heads: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        heads.truncate(limits::HEADS);
        let wanted = self.unknown(heads).await?;
        for event_id in wanted {
            match self.fetch_event(server, &event_id).await {
                Ok(received) => self.take(received, server, false).await,
                // Another head may be good, but whoever cannot be reached has none.
                Err(error @ (RoomError::Federation(_) | RoomError::Ask(_))) => return Err(error),
                Err(error) => {
                    log::debug!(room_id:% = self.room_id, event_id:%; "head not fetched: {error}");
                }
            }
        }
        self.fetch_parked(server).await
    }

    /// Fetches what a parked event waits for: what could not be had before, this server may have.
    async fn fetch_parked(&self, server: &OwnedServerName) -> Result<(), RoomError> {
        let parked = self.operate(|machine| Ok((machine.next_fetch(false), None))).await?;
        if let Some(event_id) = parked {
            self.room.do_send(Fetch { event_id, from: server.clone() });
        }
        Ok(())
    }

    /// Fetches the ancestors of a parked event: page after page backwards until they meet what is
    /// here; where they do not, the state before the oldest.
    async fn fetch_missing(
        &self,
        event_id: OwnedEventId,
        from: OwnedServerName,
    ) -> Result<(), RoomError> {
        for _ in 0..limits::MISSING_ROUNDS {
            let id = event_id.clone();
            let (earliest, latest) = self
                .operate(move |machine| {
                    let earliest: Vec<_> =
                        machine.extremities().iter().map(|head| head.event_id.clone()).collect();
                    Ok(((earliest, machine.frontier_of(&id)), None))
                })
                .await?;
            if latest.is_empty() {
                return Ok(());
            }
            let latest: Vec<_> = latest.into_iter().take(limits::HEADS).collect();
            let uri = format!("/_matrix/federation/v1/get_missing_events/{}", self.room_id);
            let content = json!({
                "earliest_events": earliest,
                "latest_events": latest,
                "limit": limits::MISSING_PAGE,
            });
            let answer: EventsAnswer = self.request(&from, "POST", uri, content).await?;
            let mut received = self.receive_new(answer.pdus, &from).await?;
            received.sort_by_key(|received| received.pdu.depth);
            self.ingest_all(received).await;
            // Others may fetch the same: what counts is whether the way back got any further.
            let id = event_id.clone();
            let waits = self.operate(move |machine| Ok((machine.frontier_of(&id), None))).await?;
            if waits.iter().take(limits::HEADS).eq(&latest) {
                break;
            }
        }
        let oldest = self
            .operate(move |machine| Ok((machine.frontier_of(&event_id).into_iter().next(), None)))
            .await?;
        match oldest {
            Some(oldest) => self.fetch_state(oldest, &from).await,
            None => Ok(()),
        }
    }

    /// Takes several events in, oldest first. Tells whether any was new.
    async fn ingest_all(&self, events: Vec<Received>) -> bool {
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
    async fn take_history(&self, events: &[Received]) -> bool {
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

    /// Takes the state before a parked event from another server, and the event with it.
    async fn fetch_state(
        &self,
        event_id: OwnedEventId,
        from: &OwnedServerName,
    ) -> Result<(), RoomError> {
        let uri = |what: &str| {
            format!("/_matrix/federation/v1/{what}/{}?event_id={event_id}", self.room_id)
        };
        let ids: StateIdsAnswer = self.request(from, "GET", uri("state_ids"), json!({})).await?;
        let all: Vec<_> = ids.pdu_ids.iter().chain(&ids.auth_chain_ids).cloned().collect();
        let (known, missing) = self
            .operate(move |machine| {
                machine.require(&all)?;
                let known: Vec<_> = all
                    .iter()
                    .filter_map(|id| machine.known(id).map(|known| Arc::clone(&known.pdu)))
                    .collect();
                let missing: Vec<_> =
                    all.iter().filter(|id| machine.known(id).is_none()).cloned().collect();
                Ok(((known, missing), None))
            })
            .await?;
        let rules = self.rules().await?;
        let given = if missing.len() > STATE_EVENTS {
            let state: StateAnswer = self.request(from, "GET", uri("state"), json!({})).await?;
            receive_state(&self.links, &self.room_id, &rules, from, state.pdus, state.auth_chain)
                .await?
        } else {
            let mut pdus = self.wire(&known).await?;
            for id in &missing {
                let uri = format!("/_matrix/federation/v1/event/{id}?room_id={}", self.room_id);
                let answer: EventsAnswer = self.request(from, "GET", uri, json!({})).await?;
                pdus.extend(answer.pdus);
            }
            let received = self.receive(pdus, from).await?;
            let in_state: std::collections::HashSet<_> = ids.pdu_ids.into_iter().collect();
            let (state, auth_chain) =
                received.into_iter().partition(|one| in_state.contains(&one.pdu.event_id));
            super::machine::GivenState { state, auth_chain }
        };
        let id = event_id.clone();
        let taken = self
            .operate(move |machine| {
                let Some(pdu) = machine.parked_pdu(&id) else { return Ok((None, None)) };
                let (state, change) = machine.take_state(&pdu, &given)?;
                Ok((Some(state), Some(Box::new(change))))
            })
            .await?;
        let Some(state) = taken else { return Ok(()) };
        self.operate(move |machine| {
            let Some(received) = machine.parked_event(&event_id) else { return Ok(((), None)) };
            let done = match machine.ingest(&received, Some(state))? {
                Ingested::New(change, place) => {
                    if place == Place::Rejected {
                        log::debug!(event_id:%; "event with fetched state rejected");
                    }
                    Some(change)
                }
                _ => None,
            };
            machine.unpark(&event_id);
            Ok(((), done))
        })
        .await
    }

    /// Fetches history before an event, from any member. Tells whether some came.
    pub(super) async fn backfill(
        &self,
        before: OwnedEventId,
        limit: usize,
    ) -> Result<bool, RoomError> {
        let (gaps, servers) = self
            .operate(move |machine| {
                let gaps = machine.missing_before(Some(&before));
                Ok(((gaps, machine.candidates(&[])), None))
            })
            .await?;
        if gaps.is_empty() {
            return Ok(false);
        }
        let limit = limit.clamp(20, limits::MISSING_PAGE);
        let from: Vec<String> = gaps.iter().map(|id| format!("v={id}")).collect();
        let uri = format!(
            "/_matrix/federation/v1/backfill/{}?{}&limit={limit}",
            self.room_id,
            from.join("&")
        );
        for server in servers.into_iter().take(super::client::CANDIDATES) {
            let answer: Result<EventsAnswer, _> =
                self.request(&server, "GET", uri.clone(), json!({})).await;
            let Ok(answer) = answer else { continue };
            let received = self.receive(answer.pdus, &server).await?;
            if received.is_empty() {
                continue;
            }
            if self.take_history(&received).await {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonValue;

    use super::*;
    use crate::actors::room::{keys::Given, serve::shown_state};

    /// What other servers answer, and the state that comes with an invite.
    #[test]
    fn fuzz_answers() {
        let pdu = json!({"type": "m.room.name", "state_key": "", "sender": "@a:x", "content": {}});
        let list = [
            json!({"pdus": [pdu], "origin": "x"}),
            json!({"events": [pdu]}),
            json!({"pdus": [pdu], "auth_chain": [pdu, pdu]}),
            json!({"pdu_ids": ["$e"], "auth_chain_ids": ["$a", "$b"]}),
            json!({"keys": [{"key": "AAAA", "made_ts": 1, "servers": ["x"]}]}),
            json!({"rooms": {"!r:x": ["$e"]}}),
            json!([pdu, {"type": "m.room.member", "state_key": "@a:x", "sender": "@a:x",
                "content": {"displayname": "A", "avatar_url": "mxc://x/y"}}]),
        ];
        let server: OwnedServerName = "x".try_into().unwrap();
        crate::fuzz::bytes(
            "answers",
            list.iter().map(|value| value.to_string().into_bytes()).collect(),
            |input| {
                let Ok(answer) = serde_json::from_slice::<CanonicalJsonValue>(input) else {
                    return "no answer".to_owned();
                };
                let mut said = String::new();
                said += &crate::fuzz::said(read::<EventsAnswer>(&server, answer.clone()));
                said += &crate::fuzz::said(read::<StateAnswer>(&server, answer.clone()));
                said += &crate::fuzz::said(read::<StateIdsAnswer>(&server, answer.clone()));
                said += &crate::fuzz::said(read::<Vec<Given>>(&server, answer.clone()));
                if let Ok(given) = read::<Vec<Box<RawValue>>>(&server, answer) {
                    for event in shown_state(given) {
                        assert!(
                            crate::proto::json::nesting(event.get()) <= crate::proto::json::NESTING
                        );
                        let _ = json!({"invite_state": [event]});
                    }
                    said += "state";
                }
                said.chars().rev().take(60).collect()
            },
        );
    }
}
