//! CatchUp: carries out what the machine decides.

use std::collections::{BTreeMap, HashMap};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseFuture,
    WrapFuture as _,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::{json, value::RawValue};
use tokio::sync::oneshot;

use super::{
    filling::Filling,
    machine::{Effect, Failure, Given, Machine, Page},
    messages::{CatchUp, CaughtUp, FillGap, ForgetServer, TakeIn},
    wire::{EventsAnswer, IdsAnswer},
};
use crate::{
    actors::{
        cpu::Cpu,
        error::AskError,
        room::{RoomError, ask, federation, read},
        store::{FindGap, FindGaps, FindLacking, RoomEvents, SiftIds},
        upward::{FederationError, SendFederation},
    },
    config::limits,
    proto::{endpoint::Endpoint, heads::Gap, pdu},
};

/// Ids of a page that are remembered, so that the next one goes on behind them.
const TAIL: usize = 20;

/// Whom CatchUp may talk to.
#[derive(Clone)]
pub struct CatchUpLinks {
    /// RelayRequest.
    pub federation: Recipient<SendFederation>,
    /// Store.
    pub find_lacking: Recipient<FindLacking>,
    /// Store.
    pub sift_ids: Recipient<SiftIds>,
    /// Store.
    pub find_gaps: Recipient<FindGaps>,
    /// Store.
    pub find_gap: Recipient<FindGap>,
    /// Meeting.
    pub take_in: Recipient<TakeIn>,
    /// Meeting.
    pub fill: Recipient<FillGap>,
    /// Event ids.
    pub cpu: Cpu,
}

type Effects = Vec<Effect<Box<RawValue>>>;

/// Fetches what is missing in rooms.
pub struct CatchUpActor {
    pub(super) links: CatchUpLinks,
    machine: Machine<Box<RawValue>>,
    /// Who waits for what is to be had of a server.
    waiting: HashMap<OwnedServerName, Vec<oneshot::Sender<Result<CaughtUp, RoomError>>>>,
    /// Why a server is asked no more.
    errors: HashMap<OwnedServerName, RoomError>,
    /// Rooms with gaps.
    pub(super) filling: Filling,
    /// The last room that was looked at for gaps.
    pub(super) looked_up_to: Option<OwnedRoomId>,
}

impl CatchUpActor {
    /// Makes the actor.
    pub fn new(links: CatchUpLinks) -> Self {
        Self {
            links,
            machine: Machine::default(),
            waiting: HashMap::new(),
            errors: HashMap::new(),
            filling: Filling::default(),
            looked_up_to: None,
        }
    }

    fn carry_out(&mut self, effects: Effects, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::AskIds(server, rooms) => self.ask_ids(server, rooms, ctx),
                Effect::AskEvents(server, rooms) => self.ask_events(server, rooms, ctx),
                Effect::Look(server, heads) => self.look(server, heads, ctx),
                Effect::Take(room_id, server_name, pdus) => {
                    let take = TakeIn { room_id: room_id.clone(), server_name, pdus };
                    let taken = self.links.take_in.send(take).into_actor(self);
                    ctx.spawn(taken.map(move |taken, act, ctx| {
                        if let Ok(Err(error)) = taken {
                            log::debug!(room_id:%; "missing events not taken in: {error}");
                        }
                        let effects = act.machine.taken(&room_id);
                        act.carry_out(effects, ctx);
                    }));
                }
                Effect::Done(server, done) => self.done(&server, done),
            }
        }
    }

    fn done(&mut self, server: &OwnedServerName, done: Result<(), Failure>) {
        let mut error = self.errors.remove(server);
        for waiting in self.waiting.remove(server).unwrap_or_default() {
            let answer = match done {
                Ok(()) => Ok(CaughtUp::Done),
                Err(Failure::Unrecognized) => Ok(CaughtUp::Unknown),
                Err(Failure::NoAnswer) => {
                    Err(error.take().unwrap_or(RoomError::Ask(AskError::TimedOut)))
                }
            };
            let _ = waiting.send(answer);
        }
    }

    /// Notes why a server is asked no more.
    fn failure(&mut self, server: &OwnedServerName, error: RoomError) -> Failure {
        match &error {
            RoomError::Federation(FederationError::Refused { errcode, .. })
                if errcode == "M_UNRECOGNIZED" =>
            {
                Failure::Unrecognized
            }
            _ => {
                log::debug!(server:%; "missing events not fetched: {error}");
                self.errors.insert(server.clone(), error);
                Failure::NoAnswer
            }
        }
    }

    fn look(&mut self, server: OwnedServerName, heads: RoomEvents, ctx: &mut Context<Self>) {
        let rooms: Vec<OwnedRoomId> = heads.iter().map(|(room_id, _)| room_id.clone()).collect();
        let find = self.links.find_lacking.clone();
        let looked = async move { ask(&find, FindLacking(heads)).await }.into_actor(self);
        ctx.spawn(looked.map(move |found: Result<_, RoomError>, act, ctx| {
            let gaps = found.unwrap_or_else(|error| {
                log::debug!(server:%; "what is missing is not found: {error}");
                Vec::new()
            });
            let effects = act.machine.looked(&server, &rooms, gaps);
            act.carry_out(effects, ctx);
        }));
    }

    fn ask_ids(
        &mut self,
        server: OwnedServerName,
        rooms: BTreeMap<OwnedRoomId, Gap>,
        ctx: &mut Context<Self>,
    ) {
        let (links, of) = (self.links.clone(), server.clone());
        let asked = async move { links.ids(&of, &rooms).await }.into_actor(self);
        ctx.spawn(asked.map(move |answer, act, ctx| {
            let answer = answer.map_err(|error| act.failure(&server, error));
            let effects = act.machine.named(&server, answer);
            act.carry_out(effects, ctx);
        }));
    }

    fn ask_events(
        &mut self,
        server: OwnedServerName,
        rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
        ctx: &mut Context<Self>,
    ) {
        let (links, of) = (self.links.clone(), server.clone());
        let asked = async move { links.events(&of, rooms).await }.into_actor(self);
        ctx.spawn(asked.map(move |answer, act, ctx| {
            let answer = answer.map_err(|error| act.failure(&server, error));
            let effects = act.machine.given(&server, answer);
            act.carry_out(effects, ctx);
        }));
    }
}

impl CatchUpLinks {
    /// Asks a server what is missing in some rooms, and looks what of it is.
    async fn ids(
        &self,
        server: &OwnedServerName,
        rooms: &BTreeMap<OwnedRoomId, Gap>,
    ) -> Result<BTreeMap<OwnedRoomId, Page>, RoomError> {
        let content = json!({"rooms": rooms});
        let wait = limits::FEDERATION_WAIT;
        let request = federation(server, Endpoint::missing_ids(), content, wait)?;
        let answer: IdsAnswer = read(server, ask(&self.federation, request).await?)?;
        let mut left = limits::MISSING_IDS;
        let mut pages = BTreeMap::new();
        for (room_id, mut missing) in answer.rooms {
            if left == 0 || !rooms.contains_key(&room_id) {
                continue;
            }
            missing.ids.truncate(limits::MISSING_IDS_ROOM.min(left));
            let named = missing.ids.len();
            left -= named;
            let tail = missing.ids.get(named.saturating_sub(TAIL)..).unwrap_or_default().to_vec();
            let sift = SiftIds(vec![(room_id.clone(), missing.ids)]);
            for sifted in ask(&self.sift_ids, sift).await? {
                let (missing, tail, more) = (sifted.missing, tail.clone(), missing.more);
                pages.insert(room_id.clone(), Page { missing, named, tail, more });
            }
        }
        Ok(pages)
    }

    /// Asks a server for events, and works their ids out.
    async fn events(
        &self,
        server: &OwnedServerName,
        rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    ) -> Result<Given<Box<RawValue>>, RoomError> {
        let content = json!({"rooms": rooms});
        let wait = limits::FEDERATION_WAIT;
        let request = federation(server, Endpoint::events(), content, wait)?;
        let answer: EventsAnswer = read(server, ask(&self.federation, request).await?)?;
        let is_full = answer.is_full();
        let versions = rooms.into_keys().map(|room_id| (room_id, Vec::new())).collect();
        let versions = ask(&self.sift_ids, SiftIds(versions)).await?;
        let versions: BTreeMap<_, _> =
            versions.into_iter().map(|it| (it.room_id, it.version)).collect();
        let job = move || {
            let mut rooms: BTreeMap<OwnedRoomId, Vec<_>> = BTreeMap::new();
            for (room_id, event) in answer.with_keys() {
                let rules = versions.get(&room_id).and_then(pdu::rules_of);
                let id = rules.and_then(|rules| pdu::read(&event, &room_id, &rules).ok());
                if let Some(id) = id.map(|read| read.pdu.event_id) {
                    rooms.entry(room_id).or_default().push((id, event));
                }
            }
            rooms
        };
        let rooms = self.cpu.run_for_others(job).await.map_err(RoomError::internal)?;
        Ok(Given { rooms, is_full })
    }
}

impl Actor for CatchUpActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(limits::FILL_EVERY, Self::fill);
    }
}

impl Handler<CatchUp> for CatchUpActor {
    type Result = ResponseFuture<Result<CaughtUp, RoomError>>;

    fn handle(&mut self, msg: CatchUp, ctx: &mut Self::Context) -> Self::Result {
        let CatchUp { server, heads } = msg;
        let (answer, answered) = oneshot::channel();
        self.waiting.entry(server.clone()).or_default().push(answer);
        self.look(server, heads, ctx);
        Box::pin(async move { answered.await.unwrap_or(Err(RoomError::Ask(AskError::Ended))) })
    }
}

impl Handler<ForgetServer> for CatchUpActor {
    type Result = ();

    fn handle(&mut self, ForgetServer(server): ForgetServer, _: &mut Self::Context) {
        self.machine.forget(&server);
    }
}
