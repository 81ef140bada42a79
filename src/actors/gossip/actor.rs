//! The shell of Gossip: messages in, verdicts and publications out.

use std::{fmt, sync::Arc, time};

use actix::prelude::*;
use ruma::{OwnedRoomId, OwnedServerName};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    DeliverTo, FindRoomKey, GossipLost, GossipTransaction, JoinTopic, LeaveTopic, PeerForgotten,
    PeerVerified, PublishTransaction, ReadRoomMeshes,
    backlog::Backlog,
    keyring::Keyring,
    machine::{self, Cut, Machine, Refusal, Transaction},
};
use crate::{
    actors::{
        admission::{Admission, Permit},
        clock::now_ms,
        cpu::Cpu,
        identity::{KeysSeen, UseSigner},
        swarm::{
            GossipReceived, GossipTicket, PeerKey, Publish, ReadMeshes, ReportVerdict, Subscribe,
            SwarmRestarted, Unsubscribe,
        },
        upward::TransactionVerdict,
    },
    config::limits,
    meters::{Meters, Verdict},
    proto::{
        ProtoError,
        delegation::Generations,
        endpoint::Endpoint,
        room_key::{self, RoomKey},
        signed::Request,
        signer::Signer,
    },
};

/// What Gossip may say, and to whom.
#[derive(Clone)]
pub struct GossipParts {
    /// The processor pool.
    pub cpu: Cpu,
    /// The work budget of the node.
    pub admission: Admission,
    /// Identity.
    pub keys_seen: Recipient<KeysSeen>,
    /// Identity: of which generation servers are.
    pub generations: watch::Receiver<Generations>,
    /// Swarm.
    pub subscribe: Recipient<Subscribe>,
    /// Swarm.
    pub unsubscribe: Recipient<Unsubscribe>,
    /// Swarm.
    pub publish: Recipient<Publish>,
    /// Swarm.
    pub report: Recipient<ReportVerdict>,
    /// Swarm.
    pub meshes: Recipient<ReadMeshes>,
    /// What is counted.
    pub meters: Meters,
}

/// Gossips rooms.
pub struct GossipActor {
    parts: GossipParts,
    machine: Machine<PeerKey>,
    backlog: Backlog<PeerKey, GossipReceived>,
    keyring: Keyring,
    deliver: Option<DeliverTo>,
    signer: Option<Arc<Signer>>,
}

impl fmt::Debug for GossipActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipActor").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// A message that waits for its verdict.
struct InWork {
    ticket: GossipTicket,
    source: PeerKey,
    room: OwnedRoomId,
    topic: String,
    permit: Permit,
    deadline: Instant,
}

impl GossipActor {
    /// Makes the actor.
    pub fn new(parts: GossipParts) -> Self {
        Self {
            parts,
            machine: Machine::default(),
            backlog: Backlog::default(),
            keyring: Keyring::default(),
            deliver: None,
            signer: None,
        }
    }

    /// Reports the verdict on a message; none where there was no time, place or key to look at it.
    fn report(&self, ticket: GossipTicket, source: &PeerKey, verdict: Option<TransactionVerdict>) {
        if let (None, Some(server), Some(deliver)) =
            (verdict, self.machine.server_of(source), &self.deliver)
        {
            deliver.lost.do_send(GossipLost(server.clone()));
        }
        self.parts.meters.judged(match verdict {
            Some(TransactionVerdict::Accept) => Verdict::Accepted,
            Some(TransactionVerdict::Ignore) => Verdict::Ignored,
            Some(TransactionVerdict::Reject) => Verdict::Rejected,
            None => Verdict::NotLookedAt,
        });
        let verdict = verdict.unwrap_or(TransactionVerdict::Ignore);
        self.parts.report.do_send(ReportVerdict { ticket, verdict });
    }

    /// Gives the verdict on a message, and goes on with the next one of its peer.
    fn finish(
        &mut self,
        ticket: GossipTicket,
        source: PeerKey,
        verdict: Option<TransactionVerdict>,
        ctx: &mut Context<Self>,
    ) {
        self.machine.done(&source);
        if verdict == Some(TransactionVerdict::Reject) {
            log::debug!(peer:% = source; "gossip was rejected");
        }
        self.report(ticket, &source, verdict);
        while let Some(next) = self.backlog.pop(&source, time::Instant::now()) {
            match next {
                Ok(next) => {
                    if self.take(next, ctx) {
                        return;
                    }
                }
                Err(stale) => self.report(stale.ticket, &source, None),
            }
        }
    }

    /// Begins to work on a message, or has it wait; returns whether it did either.
    fn take(&mut self, received: GossipReceived, ctx: &mut Context<Self>) -> bool {
        let source = received.source;
        let (ticket, verdict) = match self.machine.begin(source, &received.topic) {
            Ok((room, from)) => match self.start(received, room, from, ctx) {
                Ok(()) => return true,
                Err((ticket, verdict)) => {
                    self.machine.done(&source);
                    (ticket, verdict)
                }
            },
            Err(Refusal::Busy) => {
                let len = received.bytes.len();
                match self.backlog.push(source, len, received, time::Instant::now()) {
                    None => return true,
                    Some(received) => (received.ticket, None),
                }
            }
            Err(Refusal::Unknown) => (received.ticket, Some(TransactionVerdict::Ignore)),
        };
        self.report(ticket, &source, verdict);
        false
    }

    /// Opens a message, with a key that may have to be found first; or says what is wrong with it.
    fn start(
        &mut self,
        received: GossipReceived,
        room: OwnedRoomId,
        from: OwnedServerName,
        ctx: &mut Context<Self>,
    ) -> Result<(), (GossipTicket, Option<TransactionVerdict>)> {
        let GossipReceived { ticket, source, topic, bytes } = received;
        let Ok(permit) = self.parts.admission.admit() else {
            return Err((ticket, None));
        };
        let deadline = Instant::now() + limits::VERDICT_WAIT;
        let Ok(id) = room_key::key_id(&bytes) else {
            return Err((ticket, Some(TransactionVerdict::Reject)));
        };
        let known = self.keyring.get(&room, &id);
        let Some(deliver) = &self.deliver else {
            return Err((ticket, None));
        };
        let work = InWork { ticket, source, room, topic, permit, deadline };
        if let Some(key) = known {
            self.open(work, key, bytes, ctx);
            return Ok(());
        }
        let asked = deliver.keys.send(FindRoomKey { room_id: work.room.clone(), id, from });
        let found = timeout_at(deadline, asked).into_actor(self).map(|found, actor, ctx| {
            // Nobody is to blame for a key that this node was not given.
            let Some(key) = found.ok().and_then(Result::ok).flatten() else {
                return actor.finish(work.ticket, work.source, None, ctx);
            };
            if actor.machine.topic_of(&work.room).is_some() {
                actor.keyring.keep(&work.room, key);
            }
            actor.open(work, key, bytes, ctx);
        });
        ctx.spawn(found);
        Ok(())
    }

    /// Opens a message and reads it.
    fn open(&mut self, work: InWork, key: RoomKey, bytes: Vec<u8>, ctx: &mut Context<Self>) {
        let topic = work.topic.clone();
        let job = self.parts.cpu.run_for_others(move || {
            let opened = key.open(&topic, &bytes).map_err(|_| TransactionVerdict::Reject)?;
            machine::read(&opened, now_ms())
        });
        let read =
            timeout_at(work.deadline, job).into_actor(self).map(|done, actor, ctx| match done {
                Ok(Ok(Ok(transaction))) => actor.verified(work, transaction, ctx),
                Ok(Ok(Err(verdict))) => {
                    actor.finish(work.ticket, work.source, Some(verdict), ctx);
                }
                Ok(Err(_)) | Err(_) => actor.finish(work.ticket, work.source, None, ctx),
            });
        ctx.spawn(read);
    }

    fn verified(&mut self, work: InWork, transaction: Transaction, ctx: &mut Context<Self>) {
        let InWork { ticket, source, room, permit, deadline, .. } = work;
        let Transaction { request, server_keys, pdus, edus } = transaction;
        if let Err(verdict) = self.machine.judge(&room, &request, now_ms()) {
            return self.finish(ticket, source, Some(verdict), ctx);
        }
        if !self.parts.generations.borrow().admit(&server_keys) {
            // Whoever handed it on need not know yet that this node was ended by its server.
            return self.finish(ticket, source, Some(TransactionVerdict::Ignore), ctx);
        }
        self.parts.keys_seen.do_send(KeysSeen(server_keys.clone()));
        let Some(deliver) = &self.deliver else {
            return self.finish(ticket, source, None, ctx);
        };
        let (origin, server_keys) = (request.origin, Arc::new(server_keys));
        let transaction =
            GossipTransaction { room_id: room, origin, server_keys, pdus, edus, permit };
        let verdict = timeout_at(deadline, deliver.transactions.send(transaction));
        let reported = verdict.into_actor(self).map(move |verdict, actor, ctx| {
            actor.finish(ticket, source, verdict.ok().and_then(Result::ok), ctx);
        });
        ctx.spawn(reported);
    }
}

impl Actor for GossipActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

impl Supervised for GossipActor {}

impl Handler<JoinTopic> for GossipActor {
    type Result = ();

    fn handle(&mut self, JoinTopic(room): JoinTopic, _: &mut Context<Self>) {
        if let Some(topic) = self.machine.join(room) {
            self.parts.subscribe.do_send(Subscribe(topic));
        }
    }
}

impl Handler<LeaveTopic> for GossipActor {
    type Result = ();

    fn handle(&mut self, LeaveTopic(room): LeaveTopic, _: &mut Context<Self>) {
        self.keyring.forget(&room);
        if let Some(topic) = self.machine.leave(&room) {
            self.parts.unsubscribe.do_send(Unsubscribe(topic));
        }
    }
}

impl Handler<SwarmRestarted> for GossipActor {
    type Result = ();

    fn handle(&mut self, _: SwarmRestarted, _: &mut Context<Self>) {
        self.machine.forget_all();
        for topic in self.machine.topics() {
            self.parts.subscribe.do_send(Subscribe(topic.clone()));
        }
    }
}

impl Handler<DeliverTo> for GossipActor {
    type Result = ();

    fn handle(&mut self, deliver: DeliverTo, _: &mut Context<Self>) {
        self.deliver = Some(deliver);
    }
}

impl Handler<UseSigner> for GossipActor {
    type Result = ();

    fn handle(&mut self, UseSigner(signer): UseSigner, _: &mut Context<Self>) {
        self.signer = Some(signer);
    }
}

impl Handler<PeerVerified> for GossipActor {
    type Result = ();

    fn handle(&mut self, PeerVerified(peer, server): PeerVerified, _: &mut Context<Self>) {
        self.machine.verified(peer, server);
    }
}

impl Handler<PeerForgotten> for GossipActor {
    type Result = ();

    fn handle(&mut self, PeerForgotten(peer): PeerForgotten, _: &mut Context<Self>) {
        self.machine.forgotten(&peer);
        self.backlog.forget(&peer);
    }
}

impl Handler<PublishTransaction> for GossipActor {
    type Result = ();

    fn handle(&mut self, publish: PublishTransaction, ctx: &mut Context<Self>) {
        let PublishTransaction { room_id, pdus, edus, key } = publish;
        let (Some(signer), Some(topic)) = (&self.signer, self.machine.topic_of(&room_id)) else {
            log::debug!(room_id:%; "not gossiped: no identity, or the room is not joined");
            return;
        };
        for cut in machine::cut(pdus, edus) {
            let (signer, room, topic) = (Arc::clone(signer), room_id.clone(), topic.clone());
            let on = topic.clone();
            let job = self
                .parts
                .cpu
                .run(move || key.seal(&on, rand::random(), &sign(&cut, &room, &signer, now_ms())?));
            let published = job.into_actor(self).map(move |done, actor, _| match done {
                Ok(Ok(bytes)) => actor.parts.publish.do_send(Publish { topic, bytes }),
                Ok(Err(error)) => log::error!(error:%; "a transaction cannot be signed"),
                Err(error) => log::error!(error:%; "a transaction cannot be signed"),
            });
            ctx.spawn(published);
        }
    }
}

impl Handler<ReadRoomMeshes> for GossipActor {
    type Result = ResponseFuture<Vec<Vec<String>>>;

    fn handle(&mut self, ask: ReadRoomMeshes, _: &mut Context<Self>) -> Self::Result {
        // Nobody is on a topic without a name.
        let topic = |room: &OwnedRoomId| self.machine.topic_of(room).unwrap_or_default();
        let topics: Vec<String> = ask.0.iter().map(topic).collect();
        let asked = self.parts.meshes.send(ReadMeshes(topics));
        Box::pin(async move { asked.await.unwrap_or_default() })
    }
}

/// Signs a transaction for a room.
pub(super) fn sign(
    cut: &Cut,
    room: &OwnedRoomId,
    signer: &Signer,
    now: u64,
) -> Result<Vec<u8>, ProtoError> {
    let request_id = format!("{:032x}", rand::random::<u128>());
    let send = Endpoint::send(&request_id);
    let request = Request {
        method: send.method.to_owned(),
        uri: send.uri,
        origin: signer.server_name().clone(),
        destination: room.to_string(),
        origin_server_ts: now,
        request_id,
        content: machine::content(cut, signer, now)?,
    };
    Ok(request.sign(signer)?.bytes)
}

impl Handler<GossipReceived> for GossipActor {
    type Result = ();

    fn handle(&mut self, received: GossipReceived, ctx: &mut Context<Self>) {
        self.take(received, ctx);
    }
}
