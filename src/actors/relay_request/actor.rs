//! The shell of RelayRequest.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use actix::prelude::*;
use lru::LruCache;
use ruma::{CanonicalJsonValue, OwnedServerName};
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    AnswerWith, CarryWith, ClockStatus, InboundRequest, ReadClock,
    carriage::Carriage,
    clocks::Clocks,
    kept::Kept,
    machine::Machine,
    outbound::{Outbound, Route},
    pace::Pace,
};
use crate::{
    actors::{
        admission::Admission,
        clock::uptime_ms,
        cpu::Cpu,
        identity::{KeysSeen, UseSigner},
        rendezvous::{ClockSeen, ReadProven, ResolveServer},
        swarm::{PeerKey, SendReply, SendRequest},
        upward::{FederationError, SendFederation},
    },
    config::limits,
    proto::{delegation::Generations, signer::Signer},
};

/// How often it is looked whether kept answers can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Servers of which it is remembered how they were reached.
const WAYS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Memory for answers that are being fetched in pieces, in KiB, all together.
const ASSEMBLY_KIB: usize = 96 * 1024;

/// What RelayRequest may say, and to whom.
#[derive(Clone)]
pub struct RelayRequestParts {
    /// The processor pool.
    pub cpu: Cpu,
    /// The work budget of the node.
    pub admission: Admission,
    /// Identity.
    pub keys_seen: Recipient<KeysSeen>,
    /// Identity: of which generation servers are.
    pub generations: watch::Receiver<Generations>,
    /// Rendezvous.
    pub resolve: Recipient<ResolveServer>,
    /// Rendezvous.
    pub proven: Recipient<ReadProven>,
    /// Swarm.
    pub send: Recipient<SendRequest>,
    /// Swarm.
    pub reply: Recipient<SendReply>,
}

/// Asks other servers, and is asked by them.
pub struct RelayRequestActor {
    pub(super) parts: RelayRequestParts,
    pub(super) machine: Machine<PeerKey>,
    pub(super) clocks: Clocks<PeerKey>,
    pub(super) kept: Kept<oneshot::Sender<Arc<[u8]>>>,
    pub(super) carriage: Carriage,
    pub(super) carry_with: Option<CarryWith>,
    /// By which way servers answered last.
    pub(super) ways: LruCache<OwnedServerName, Route>,
    pace: Pace,
    assembly: Arc<Semaphore>,
    pub(super) answer_with: Option<Recipient<InboundRequest>>,
    pub(super) signer: Option<Arc<Signer>>,
}

impl fmt::Debug for RelayRequestActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayRequestActor").finish_non_exhaustive()
    }
}

impl RelayRequestActor {
    /// Makes the actor.
    pub fn new(parts: RelayRequestParts) -> Self {
        Self {
            parts,
            machine: Machine::default(),
            clocks: Clocks::default(),
            kept: Kept::default(),
            carriage: Carriage::default(),
            carry_with: None,
            ways: LruCache::new(WAYS_MAX),
            pace: Pace::default(),
            assembly: Arc::new(Semaphore::new(ASSEMBLY_KIB)),
            answer_with: None,
            signer: None,
        }
    }

    /// Returns what asking others needs, in the name of this signer.
    pub(super) fn outbound(&self, signer: Arc<Signer>, ctx: &Context<Self>) -> Outbound {
        Outbound {
            signer,
            cpu: self.parts.cpu.clone(),
            resolve: self.parts.resolve.clone(),
            proven: self.parts.proven.clone(),
            send: self.parts.send.clone(),
            keys_seen: self.parts.keys_seen.clone(),
            generations: self.parts.generations.clone(),
            clock_seen: ctx.address().recipient(),
            carry_with: self.carry_with.clone(),
            assembly: Arc::clone(&self.assembly),
        }
    }
}

impl Actor for RelayRequestActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(FORGET_EVERY, |actor, _| actor.kept.expire(uptime_ms()));
    }
}

impl Supervised for RelayRequestActor {}

impl Handler<UseSigner> for RelayRequestActor {
    type Result = ();

    fn handle(&mut self, UseSigner(signer): UseSigner, _: &mut Context<Self>) {
        self.signer = Some(signer);
    }
}

impl Handler<AnswerWith> for RelayRequestActor {
    type Result = ();

    fn handle(&mut self, AnswerWith(recipient): AnswerWith, _: &mut Context<Self>) {
        self.answer_with = Some(recipient);
    }
}

impl Handler<ClockSeen> for RelayRequestActor {
    type Result = ();

    fn handle(&mut self, seen: ClockSeen, _: &mut Context<Self>) {
        self.clocks.note(seen.peer, seen.apart_ms);
    }
}

impl Handler<ReadClock> for RelayRequestActor {
    type Result = Option<ClockStatus>;

    fn handle(&mut self, _: ReadClock, _: &mut Context<Self>) -> Self::Result {
        self.clocks.read()
    }
}

impl Handler<CarryWith> for RelayRequestActor {
    type Result = ();

    fn handle(&mut self, with: CarryWith, _: &mut Context<Self>) {
        self.carry_with = Some(with);
    }
}

impl Handler<SendFederation> for RelayRequestActor {
    type Result = ResponseActFuture<Self, Result<CanonicalJsonValue, FederationError>>;

    fn handle(&mut self, ask: SendFederation, ctx: &mut Context<Self>) -> Self::Result {
        let Some(signer) = self.signer.clone() else {
            return Box::pin(actix::fut::ready(Err(FederationError::Offline)));
        };
        let server = ask.destination.clone();
        let Some(turn) = self.pace.begin(&server, ask.timeout, uptime_ms()) else {
            return Box::pin(actix::fut::ready(Err(FederationError::TimedOut(server))));
        };
        let lately = self.ways.get(&server).copied();
        let asked = self.outbound(signer, ctx).ask(ask, lately, turn);
        Box::pin(asked.into_actor(self).map(|(answer, way), actor, _| {
            if let Some(way) = way {
                actor.ways.put(server, way);
            }
            answer
        }))
    }
}
