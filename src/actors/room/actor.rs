//! The shell around one room's machine: its queue, its needs, its effects.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler,
    Message, SpawnHandle, WrapFuture as _,
};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, events::StateEventType,
};
use serde_json::{json, value::RawValue};
use tokio::sync::oneshot;

use super::{
    asking::federation,
    fresh::Fresh,
    invite::Inviting,
    keys::Keys,
    links::{Links, ask},
    machine::{Change, Machine, Need, departure, event_map},
    messages::{Drain, Publish, RoomError},
    operate::{Next, Operation, Outcome, Queue, Queued, Step, Whose, operation, outcome},
    receipts::{WaitingReceipts, keep_all},
    spoilt::Spoilt,
    worker::Worker,
};
use crate::{
    actors::{
        clock::now_ms,
        down::DownGuard,
        identity::UseSigner,
        outbox::{Debt, Form, Matter, Owe},
        room::{Advanced, Said},
        store::{
            CommitRoom, FindAnnotation, LoadAuthChain, LoadEvents, LoadRoom, LoadState, StoreError,
        },
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        pdu::Pdu,
        room_key::{KeyId, RoomKey},
        signer::Signer,
        state_res,
    },
};

/// How long after our newest event the heads are announced: gossip that came before the mesh was
/// up is lost, and this is what brings it.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(2);

/// Longest wait for the answer to what is sent to a server that came into the room, or left it,
/// just now.
const DIRECT_WAIT: Duration = Duration::from_secs(10);

/// One room. Its messages come through RoomState.
pub struct RoomActor {
    pub(super) room_id: OwnedRoomId,
    pub(super) links: Arc<Links>,
    pub(super) signer: Arc<Signer>,
    pub(super) inviting: Inviting,
    pub(super) machine: Option<Machine>,
    pub(super) keys: Keys,
    /// Keys that are being asked for, and who waits for them.
    pub(super) wanted: HashMap<KeyId, Vec<oneshot::Sender<RoomKey>>>,
    queue: Queue,
    /// The operation that waits for what it needs.
    in_work: Option<Queued>,
    /// An operation waits for what it needs, or the room is being loaded.
    waiting: bool,
    settling: Settling,
    /// Events whose missing ancestors are being fetched, and from whom.
    pub(super) fetching: HashMap<OwnedEventId, OwnedServerName>,
    /// Spoilt copies of which whole ones are looked for.
    pub(super) spoilt: Spoilt,
    /// Servers to which gossip may not flow yet.
    pub(super) fresh: Fresh,
    /// Receipts whose events have not come.
    pub(super) receipts: WaitingReceipts,
    /// The announcement of our newest event.
    announce: Option<SpawnHandle>,
    _down: DownGuard<OwnedRoomId>,
}

/// An operation from a future of the room itself.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Operate(Queued);

/// When states are resolved for what others said. It costs as much as they like, up to what is
/// bounded in the machine: so it takes a part of the time, however much they say.
struct Settling {
    /// When it began, while it goes on.
    begun: Option<Instant>,
    /// Not before.
    due: Instant,
    /// Goes on when it is due.
    planned: Option<SpawnHandle>,
}

/// Rest after a resolution for others, in times of what it took; single events come long after.
const SETTLE_REST: u32 = 4;
/// Longest such rest.
const SETTLE_REST_MAX: Duration = Duration::from_secs(2);

impl RoomActor {
    /// Makes the actor; it loads the room when it starts.
    pub fn new(
        room_id: OwnedRoomId,
        links: Arc<Links>,
        signer: Arc<Signer>,
        down: DownGuard<OwnedRoomId>,
    ) -> Self {
        Self {
            keys: Keys::new(room_id.clone(), signer.server_name().clone()),
            wanted: HashMap::new(),
            room_id,
            links,
            signer,
            inviting: Inviting::default(),
            machine: None,
            queue: Queue::default(),
            in_work: None,
            waiting: true,
            settling: Settling { begun: None, due: Instant::now(), planned: None },
            fetching: HashMap::new(),
            spoilt: Spoilt::default(),
            fresh: Fresh::default(),
            receipts: WaitingReceipts::default(),
            announce: None,
            _down: down,
        }
    }

    /// Queues the operation that makes the room.
    pub(super) fn enqueue(
        &mut self,
        operation: Box<dyn Operation>,
        begin: RoomVersionId,
        ctx: &mut Context<Self>,
    ) {
        self.queue.push(Queued { operation, begin: Some(begin), turn: Whose::Ours });
        self.pump(ctx);
    }

    /// Returns what runs next.
    fn next(&mut self, ctx: &mut Context<Self>) -> Option<Queued> {
        if let Some(next) = self.in_work.take() {
            return Some(next);
        }
        let unsettled = self.machine.as_ref().is_some_and(Machine::is_unsettled);
        let now = Instant::now();
        match self.queue.next(unsettled, now >= self.settling.due) {
            Next::Run(next) => Some(next),
            Next::Settle => {
                self.settling.begun = Some(now);
                let (operation, _) = operation(|machine| Ok(((), machine.settle()?)));
                Some(Queued { operation, begin: None, turn: Whose::Ours })
            }
            Next::Later => {
                if self.settling.planned.is_none() {
                    let rest = self.settling.due.saturating_duration_since(now);
                    self.settling.planned = Some(ctx.run_later(rest, |act, ctx| {
                        act.settling.planned = None;
                        act.pump(ctx);
                    }));
                }
                None
            }
            Next::Nothing => None,
        }
    }

    /// Notes the end of an operation.
    fn ended(&mut self) {
        let Some(machine) = self.machine.as_mut() else { return };
        machine.tidy();
        if let Some(begun) = self.settling.begun.take() {
            // However it ended: what cannot be resolved is not tried without end.
            machine.leave_unsettled();
            let rest = begun.elapsed().saturating_mul(SETTLE_REST).min(SETTLE_REST_MAX);
            self.settling.due = Instant::now() + rest;
        }
    }

    /// Runs operations until one needs something.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        while !self.waiting {
            let Some(mut next) = self.next(ctx) else { return };
            if self.machine.is_none() {
                let Some(version) = next.begin.clone() else {
                    next.operation.fail(RoomError::NotFound);
                    continue;
                };
                let server = self.signer.server_name().clone();
                match Machine::new(self.room_id.clone(), version, server) {
                    Ok(machine) => self.machine = Some(machine),
                    Err(error) => {
                        next.operation.fail(error);
                        continue;
                    }
                }
            }
            let Some(machine) = self.machine.as_mut() else { return };
            machine.listen(&self.links.listeners.borrow());
            match next.operation.run(machine) {
                Step::Done(change) => {
                    self.ended();
                    self.carry_out(change, next.operation, ctx);
                }
                Step::Refused(error) => {
                    self.ended();
                    next.operation.fail(error);
                }
                Step::Need(need) => {
                    self.in_work = Some(next);
                    self.waiting = true;
                    self.provide(need, ctx);
                }
            }
        }
    }

    /// Stores a change, then lets it be known.
    fn carry_out(
        &mut self,
        change: Option<Box<Change>>,
        operation: Box<dyn Operation>,
        ctx: &mut Context<Self>,
    ) {
        let Some(change) = change else { return operation.finish() };
        let Change { mut commit, mut publish, unparked } = *change;
        // Whoever was the last other one to leave, or was made to, has to hear of it.
        let out = self.shown_out(&publish);
        if self.is_alone() && commit.servers.is_none() && out.is_empty() {
            publish.clear();
        }
        // From here on nothing is sealed any more with a key of those who left by it.
        let (gone, farewell) = self.members_changed(&mut commit);
        for event_id in unparked {
            self.retry_parked(&event_id, ctx);
        }
        let advanced = Advanced {
            room_id: self.room_id.clone(),
            memberships: commit
                .memberships
                .iter()
                .map(|(user, own)| (user.clone(), own.membership.clone()))
                .collect(),
            servers: commit.servers.clone(),
            public: self.public_now(&commit),
            via: commit
                .memberships
                .values()
                .filter_map(|own| own.invite.as_ref())
                .flat_map(|invite| invite.via.clone())
                .collect(),
        };
        let now = Instant::now();
        if let Some(servers) = &commit.servers {
            self.fresh.update(servers, now);
        }
        let mut directly = self.fresh.servers(self.signer.server_name(), now);
        // Nobody gossips any more with those who left, and what told them may have passed them by.
        let gone: BTreeSet<OwnedServerName> =
            gone.into_iter().filter(|server| !out.contains(server)).collect();
        directly.extend(gone.into_iter().filter(|server| server != self.signer.server_name()));
        let resident = self.machine.as_ref().is_some_and(Machine::is_resident);
        let leaves = !advanced.memberships.is_empty() && !resident;
        let read_up_to = self.receipts.arrived(&commit.events);
        // Sent now, so that commits and the reads after them keep their order.
        let stored = self.links.store.commit.send(commit);
        let worker = self.worker(ctx);
        let published = !publish.is_empty();
        let own = self.signer.server_name();
        let said = publish.iter().any(|pdu| pdu.sender.server_name() == own);
        let work = async move {
            let refused = match stored.await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(StoreError::Closed),
            };
            if let Some(error) = refused {
                operation.fail(error.into());
                return false;
            }
            if !read_up_to.is_empty() {
                let (links, room_id) = (worker.links.clone(), worker.room_id.clone());
                actix::spawn(async move { keep_all(&links, &room_id, read_up_to).await });
            }
            // Who leaves says so before the topic is left; who joins, after it was joined.
            if leaves {
                publish_all(&worker, &publish, farewell, &directly, &out).await;
            }
            if !advanced.is_nothing() {
                let _ = worker.links.advanced.send(advanced).await;
            }
            operation.finish();
            if said {
                worker.links.said.do_send(Said(worker.room_id.clone()));
            }
            if !leaves {
                publish_all(&worker, &publish, farewell, &directly, &out).await;
            }
            true
        };
        ctx.spawn(work.into_actor(self).map(|stored, act, ctx| {
            if !stored {
                // What is in memory is ahead of the disk: the next message loads the room anew.
                log::error!(room_id:% = act.room_id; "a change was not stored; the room restarts");
                ctx.stop();
            }
        }));
        if published {
            self.announce_soon(ctx);
        }
    }

    /// Returns whether anybody may come in, where a commit may have changed that.
    fn public_now(&self, commit: &CommitRoom) -> Option<bool> {
        let mut changes = commit.state_changes.iter();
        let changed = changes.any(|((kind, _), _)| *kind == StateEventType::RoomJoinRules);
        self.machine.as_ref().filter(|_| changed).map(Machine::is_public)
    }

    /// Returns the servers of those whom events of ours show out: who was invited only hears
    /// nothing of the room.
    fn shown_out(&self, publish: &[Arc<Pdu>]) -> Vec<OwnedServerName> {
        let joined = |server: &OwnedServerName| {
            self.machine.as_ref().is_some_and(|machine| machine.has_joined(server))
        };
        publish
            .iter()
            .filter(|pdu| departure(pdu).is_some())
            .filter_map(|pdu| OwnedUserId::try_from(pdu.state_key.as_deref()?).ok())
            .map(|user| user.server_name().to_owned())
            .filter(|server| server != self.signer.server_name() && !joined(server))
            .collect()
    }

    /// Tells whether nobody else could hear what is published.
    fn is_alone(&self) -> bool {
        let own = self.signer.server_name();
        self.machine.as_ref().is_none_or(|machine| machine.servers().all(|server| server == own))
    }

    /// Announces the heads a while after an event of ours, once for all that come until then.
    fn announce_soon(&mut self, ctx: &mut Context<Self>) {
        if self.announce.is_none() {
            self.announce = Some(ctx.run_later(ANNOUNCE_AFTER, |act, ctx| {
                act.announce = None;
                act.announce_heads(ctx);
            }));
        }
    }

    /// Loads what an operation needs, then goes on.
    fn provide(&mut self, need: Need, ctx: &mut Context<Self>) {
        let links = Arc::clone(&self.links);
        let room_id = self.room_id.clone();
        match need {
            Need::Events(event_ids) => {
                let load = async move {
                    let load = LoadEvents { room_id, event_ids: event_ids.clone() };
                    let found = ask(&links.store.load_events, load).await?;
                    Ok((event_ids, found))
                };
                self.resume(load, |machine, (ids, found)| machine.provide_events(ids, found), ctx);
            }
            Need::State(group) => {
                let load =
                    async move { ask(&links.store.load_state, LoadState { room_id, group }).await };
                let provide = move |machine: &mut Machine, state| {
                    machine.provide_state(group, state);
                    Ok(())
                };
                self.resume(load, provide, ctx);
            }
            Need::Resolve(groups) => self.resolve(groups, ctx),
            Need::Annotation(by, annotation) => {
                let (user_id, annotation_of) = (by.clone(), annotation.clone());
                let wanted = FindAnnotation { room_id, user_id, annotation: annotation_of };
                let load = async move { ask(&links.store.find_annotation, wanted).await };
                let provide = move |machine: &mut Machine, is_there| {
                    machine.provide_annotation(by, annotation, is_there);
                    Ok(())
                };
                self.resume(load, provide, ctx);
            }
        }
    }

    /// Resolves diverged states off this thread.
    fn resolve(&mut self, groups: Vec<u64>, ctx: &mut Context<Self>) {
        let Some(machine) = self.machine.as_mut() else { return };
        let states = match machine.states_of(&groups) {
            Ok(states) => states,
            Err(super::machine::Stop::Need(need)) => return self.provide(need, ctx),
            Err(super::machine::Stop::Refused(error)) => return self.give_up(error, ctx),
        };
        let states: Vec<_> = states.iter().map(|state| (**state).clone()).collect();
        let roots: HashSet<OwnedEventId> =
            states.iter().flat_map(|state| state.values().cloned()).collect();
        let rules = machine.rules().clone();
        let links = Arc::clone(&self.links);
        let load =
            LoadAuthChain { room_id: self.room_id.clone(), roots: roots.into_iter().collect() };
        let loaded = async move { ask(&links.store.load_auth_chain, load).await };
        let cpu = self.links.cpu.clone();
        let work = loaded.into_actor(self).then(move |chain: Result<_, RoomError>, act, _| {
            let resolved = async move {
                let chain = chain?;
                let job = cpu.run(move || -> Result<_, RoomError> {
                    let events = event_map(&chain, &rules)?;
                    Ok(state_res::resolve(&states, &events, &rules)?)
                });
                job.await.map_err(RoomError::internal)?
            };
            resolved.into_actor(act)
        });
        ctx.spawn(work.map(move |resolved, act, ctx| match resolved {
            Ok(state) => act.go_on(ctx, |machine| {
                machine.provide_resolved(groups, state);
                Ok(())
            }),
            Err(error) => act.give_up(error, ctx),
        }));
    }

    fn resume<T: 'static>(
        &mut self,
        load: impl Future<Output = Result<T, RoomError>> + 'static,
        provide: impl FnOnce(&mut Machine, T) -> Result<(), RoomError> + 'static,
        ctx: &mut Context<Self>,
    ) {
        ctx.spawn(load.into_actor(self).map(|loaded, act, ctx| match loaded {
            Ok(value) => act.go_on(ctx, |machine| provide(machine, value)),
            Err(error) => act.give_up(error, ctx),
        }));
    }

    fn go_on(
        &mut self,
        ctx: &mut Context<Self>,
        provide: impl FnOnce(&mut Machine) -> Result<(), RoomError>,
    ) {
        self.waiting = false;
        match self.machine.as_mut().map(provide) {
            Some(Err(error)) => self.give_up(error, ctx),
            _ => self.pump(ctx),
        }
    }

    /// Ends the operation that could not be given what it needs.
    fn give_up(&mut self, error: RoomError, ctx: &mut Context<Self>) {
        log::error!(room_id:% = self.room_id; "room operation failed: {error}");
        self.waiting = false;
        self.ended();
        if let Some(next) = self.in_work.take() {
            next.operation.fail(error);
        }
        self.pump(ctx);
    }

    /// Returns the outcome of an operation for our user, as a future that needs no actor.
    pub(super) fn operate<T, F>(
        &mut self,
        ctx: &mut Context<Self>,
        closure: F,
    ) -> impl Future<Output = Result<T, RoomError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), super::machine::Stop>
            + Send
            + 'static,
    {
        self.operate_for(Whose::Ours, ctx, closure)
    }

    /// The same for whoever asks.
    pub(super) fn operate_for<T, F>(
        &mut self,
        turn: Whose,
        ctx: &mut Context<Self>,
        closure: F,
    ) -> impl Future<Output = Result<T, RoomError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), super::machine::Stop>
            + Send
            + 'static,
    {
        let (operation, done): (_, Outcome<T>) = operation(closure);
        self.queue.push(Queued { operation, begin: None, turn });
        self.pump(ctx);
        outcome(done)
    }
}

/// Tells the other members, and those who leave by them, of events that are durable: by gossip, and
/// some servers by themselves.
async fn publish_all(
    worker: &Worker,
    pdus: &[Arc<Pdu>],
    farewell: Option<RoomKey>,
    directly: &[OwnedServerName],
    out: &[OwnedServerName],
) {
    if pdus.is_empty() {
        return;
    }
    owe_departures(worker, pdus, out).await;
    let pdus = worker.links.wire(pdus, &worker.signer).await;
    if !directly.is_empty() {
        let content = transaction(&worker.signer, &pdus, &[]);
        for server in directly {
            tell_directly(&worker.links, &worker.room_id, server, content.clone());
        }
    }
    // Gossip has it when this is done: the topic may be left after it.
    let _ = worker.room.send(Publish { pdus, edus: Vec::new(), farewell }).await;
}

/// Has those told who were shown out, whenever they are there.
async fn owe_departures(worker: &Worker, pdus: &[Arc<Pdu>], out: &[OwnedServerName]) {
    let mut debts = Vec::new();
    for pdu in pdus.iter().filter(|pdu| departure(pdu).is_some()) {
        let user_id = pdu.state_key.as_deref().map(OwnedUserId::try_from);
        let Some(Ok(user_id)) = user_id else { continue };
        let destination = user_id.server_name().to_owned();
        if !out.contains(&destination) || destination == *worker.signer.server_name() {
            continue;
        }
        let wire = worker.links.wire(std::slice::from_ref(pdu), &worker.signer).await;
        let wire = wire.first().map(|wire| serde_json::from_str(wire.get()));
        let Some(Ok(wire)) = wire else { continue };
        let (room_id, event_id) = (pdu.room_id.clone(), pdu.event_id.clone());
        let matter = Matter::Membership { room_id, user_id, event_id };
        debts.push(Debt { destination, matter, form: Form::Pdu(wire), once: None });
    }
    if debts.is_empty() {
        return;
    }
    let (room_id, owed) = (worker.room_id.clone(), worker.links.owe.send(Owe(debts)));
    actix::spawn(async move {
        // Whoever is not told learns of it when he meets a member.
        if let Ok(Err(error)) = owed.await {
            log::warn!(room_id:%; "somebody was shown out, and is not told: {error}");
        }
    });
}

/// Returns the body of a transaction for one server.
pub(super) fn transaction(
    signer: &Signer,
    pdus: &[Box<RawValue>],
    edus: &[&RawValue],
) -> serde_json::Value {
    json!({
        "origin": signer.server_name(),
        "origin_server_ts": now_ms(),
        "pdus": pdus,
        "edus": edus,
    })
}

/// Sends a transaction to one server and waits for nothing.
pub(super) fn tell_directly(
    links: &Links,
    room_id: &OwnedRoomId,
    server: &OwnedServerName,
    content: serde_json::Value,
) {
    let endpoint = Endpoint::send(format_args!("{:032x}", rand::random::<u128>()));
    match federation(server, endpoint, content, DIRECT_WAIT) {
        Ok(send) => links.federation.do_send(send),
        Err(error) => log::error!(room_id:%; "a transaction cannot be written: {error}"),
    }
}

/// Runs an operation of the room for our user, from one of its futures.
pub(super) async fn operate<T, F>(
    room: &Addr<RoomActor>,
    begin: Option<RoomVersionId>,
    closure: F,
) -> Result<T, RoomError>
where
    T: Send + 'static,
    F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), super::machine::Stop>
        + Send
        + 'static,
{
    operate_for(Whose::Ours, room, begin, closure).await
}

/// The same for whoever asks.
pub(super) async fn operate_for<T, F>(
    turn: Whose,
    room: &Addr<RoomActor>,
    begin: Option<RoomVersionId>,
    closure: F,
) -> Result<T, RoomError>
where
    T: Send + 'static,
    F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), super::machine::Stop>
        + Send
        + 'static,
{
    let (operation, done) = operation(closure);
    room.do_send(Operate(Queued { operation, begin, turn }));
    outcome(done).await
}

impl Actor for RoomActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        let links = Arc::clone(&self.links);
        let room_id = self.room_id.clone();
        let load = async move { ask(&links.store.load_room, LoadRoom { room_id }).await };
        ctx.spawn(load.into_actor(self).map(|loaded, act, ctx| {
            let server = act.signer.server_name().clone();
            let machine = loaded.and_then(|mut loaded| {
                let keys = loaded.as_mut().and_then(|loaded| loaded.room_keys.take());
                let load = |loaded| Machine::load(act.room_id.clone(), server, loaded);
                Ok((loaded.map(load).transpose()?, keys))
            });
            match machine {
                Ok((machine, keys)) => {
                    let present = machine.iter().flat_map(Machine::servers).cloned();
                    act.fresh = Fresh::new(present);
                    act.machine = machine;
                    act.load_keys(keys.as_deref());
                    act.waiting = false;
                    act.pump(ctx);
                }
                Err(error) => {
                    log::error!(room_id:% = act.room_id; "cannot load the room: {error}");
                    ctx.stop();
                }
            }
        }));
    }
}

impl Handler<Operate> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: Operate, ctx: &mut Self::Context) {
        self.queue.push(msg.0);
        self.pump(ctx);
    }
}

impl Handler<UseSigner> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: UseSigner, _: &mut Self::Context) {
        self.signer = msg.0;
    }
}

impl Handler<Drain> for RoomActor {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        // It would keep the actor alive; whoever missed the event learns of it by the next exchange.
        if let Some(planned) = self.announce.take() {
            ctx.cancel_future(planned);
        }
    }
}
