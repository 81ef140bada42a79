//! What is missing around the events of a room, fetched from other servers: their ancestors, the state
//! before them, and history.

use std::{collections::HashSet, sync::Arc};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use rand::seq::SliceRandom as _;
use ruma::{OwnedEventId, OwnedServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::RoomActor,
    asking::CANDIDATES,
    join::receive_state,
    machine::{GivenState, Ingested},
    messages::{FetchHistory, FollowHeads, RoomError},
    operate::Whose,
    reads::BACKFILL_WAIT,
    worker::Worker,
};
use crate::{
    actors::store::Place,
    config::limits,
    proto::{endpoint::Endpoint, pdu::Received},
};

/// Events whose ancestors are fetched at the same time, in one room.
const FETCHES: usize = 8;
/// Of these, from one server: who answers slowly, or never, keeps nobody else from being asked.
const FETCHES_PEER: usize = 2;
/// Other members that are asked where that one does not give what an event waits for.
const OTHERS: usize = 2;
/// State events that are fetched one by one; where more are missing, the whole state is.
const STATE_EVENTS: usize = 20;

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
        let worker = self.worker_for(Whose::Events, ctx);
        let wanted = event_id.clone();
        let work = async move { worker.fetch_from_any(wanted, from).await };
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
}

/// Asks a room to fetch what an event waits for.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Fetch {
    pub(super) event_id: OwnedEventId,
    pub(super) from: OwnedServerName,
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
        let worker = self.worker_for(Whose::Events, ctx);
        Box::pin(async move { worker.follow_heads(&msg.server_name, msg.extremities).await })
    }
}

impl Handler<FetchHistory> for RoomActor {
    type Result = ResponseFuture<Result<bool, RoomError>>;

    fn handle(&mut self, msg: FetchHistory, ctx: &mut Context<Self>) -> Self::Result {
        let worker = self.worker_for(Whose::Events, ctx);
        Box::pin(async move { worker.backfill(msg.before, limits::MISSING_PAGE).await })
    }
}

impl Worker {
    /// Asks a server for an event.
    pub(super) async fn fetch_event(
        &self,
        server: &OwnedServerName,
        event_id: &OwnedEventId,
    ) -> Result<Received, RoomError> {
        let endpoint = Endpoint::event(&self.room_id, event_id);
        let answer: EventsAnswer = self.request(server, endpoint, json!({})).await?;
        let received = self.receive(answer.pdus, server).await?;
        received
            .into_iter()
            .find(|received| received.pdu.event_id == *event_id)
            .ok_or(RoomError::EventNotFound)
    }

    /// Returns those of some heads that are neither here nor wait here for others.
    pub(super) async fn unknown(
        &self,
        heads: Vec<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
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
    pub(super) async fn fetch_parked(&self, server: &OwnedServerName) -> Result<(), RoomError> {
        let parked = self.operate(|machine| Ok((machine.next_fetch(false), None))).await?;
        if let Some(event_id) = parked {
            self.room.do_send(Fetch { event_id, from: server.clone() });
        }
        Ok(())
    }

    /// Fetches what a parked event waits for from a server, and where it comes to nothing from other
    /// members: whoever gave the event may keep back what comes before it.
    async fn fetch_from_any(
        &self,
        event_id: OwnedEventId,
        from: OwnedServerName,
    ) -> Result<(), RoomError> {
        let mut others = self.operate(|machine| Ok((machine.candidates(&[]), None))).await?;
        others.retain(|server| *server != from);
        others.shuffle(&mut rand::rng());
        others.truncate(OTHERS);
        let mut fetched = self.fetch_missing(event_id.clone(), from).await;
        for server in others {
            let id = event_id.clone();
            if !self.operate(move |machine| Ok((machine.is_parked(&id), None))).await? {
                return Ok(());
            }
            fetched = self.fetch_missing(event_id.clone(), server).await;
        }
        fetched
    }

    /// Fetches the ancestors of a parked event: the last page of them, and if these do not meet what
    /// is here, what comes after that; then page after page backwards. Where they still do not meet,
    /// the state before the oldest.
    async fn fetch_missing(
        &self,
        event_id: OwnedEventId,
        from: OwnedServerName,
    ) -> Result<(), RoomError> {
        for round in 0..limits::MISSING_ROUNDS {
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
            let endpoint = Endpoint::get_missing_events(&self.room_id);
            let content = json!({
                "earliest_events": earliest,
                "latest_events": latest,
                "limit": limits::MISSING_PAGE,
            });
            let answer: EventsAnswer = self.request(&from, endpoint, content).await?;
            let mut received = self.receive_new(answer.pdus, &from).await?;
            received.sort_by_key(|received| received.pdu.depth);
            self.ingest_all(received).await;
            // Others may fetch the same: what counts is whether the way back got any further.
            let id = event_id.clone();
            let waits = self.operate(move |machine| Ok((machine.frontier_of(&id), None))).await?;
            if waits.is_empty() {
                return Ok(());
            }
            if round == 0 {
                // More than a page is missing.
                if let Err(error) = self.catch_up(waits, &from).await {
                    log::debug!(room_id:% = self.room_id; "not caught up: {error}");
                }
            } else if waits.iter().take(limits::HEADS).eq(&latest) {
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

    /// Takes the state before a parked event from another server, and the event with it.
    async fn fetch_state(
        &self,
        event_id: OwnedEventId,
        from: &OwnedServerName,
    ) -> Result<(), RoomError> {
        let endpoint = Endpoint::state_ids(&self.room_id, &event_id);
        let ids: StateIdsAnswer = self.request(from, endpoint, json!({})).await?;
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
            let endpoint = Endpoint::state(&self.room_id, &event_id);
            let state: StateAnswer = self.request(from, endpoint, json!({})).await?;
            receive_state(&self.links, &self.room_id, &rules, from, state.pdus, state.auth_chain)
                .await?
        } else {
            let mut pdus = self.wire(&known).await?;
            for id in &missing {
                let endpoint = Endpoint::event(&self.room_id, id);
                let answer: EventsAnswer = self.request(from, endpoint, json!({})).await?;
                pdus.extend(answer.pdus);
            }
            let received = self.receive(pdus, from).await?;
            let in_state: HashSet<_> = ids.pdu_ids.into_iter().collect();
            let (state, auth_chain) =
                received.into_iter().partition(|one| in_state.contains(&one.pdu.event_id));
            GivenState { state, auth_chain }
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
        let (gaps, mut servers) = self
            .operate(move |machine| {
                let gaps = machine.missing_before(Some(&before));
                Ok(((gaps, machine.candidates(&[])), None))
            })
            .await?;
        if gaps.is_empty() {
            return Ok(false);
        }
        let limit = limit.clamp(20, limits::MISSING_PAGE);
        let endpoint = Endpoint::backfill(&self.room_id, &gaps, limit);
        // Of many members those may be off who come first by their names.
        servers.shuffle(&mut rand::rng());
        for server in servers.into_iter().take(CANDIDATES) {
            // Some members are off: the next one is asked in time too.
            let (endpoint, wait) = (endpoint.clone(), BACKFILL_WAIT / 2);
            let answer: Result<EventsAnswer, _> =
                self.request_within(&server, endpoint, json!({}), wait).await;
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
    use crate::actors::room::{asking::read, keys::Given, serve::shown_state};

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
