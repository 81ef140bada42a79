//! The shell of RelayRequest.

use std::{fmt, sync::Arc};

use actix::prelude::*;
use ruma::CanonicalJsonValue;

use super::{
    AnswerWith, ClockSeen, ClockStatus, FederationError, InboundRequest, KeysSeen, ReadClock,
    SendFederation, UseSigner, clocks::Clocks, machine::Machine, outbound::Outbound,
};
use crate::{
    actors::{
        admission::Admission,
        cpu::Cpu,
        rendezvous::ResolveServer,
        swarm::{PeerKey, SendReply, SendRequest},
    },
    config::limits,
    proto::signer::Signer,
};

/// What RelayRequest may say, and to whom.
#[derive(Clone)]
pub struct RelayRequestParts {
    /// The processor pool.
    pub cpu: Cpu,
    /// The work budget of the node.
    pub admission: Admission,
    /// Identity.
    pub keys_seen: Recipient<KeysSeen>,
    /// Rendezvous.
    pub resolve: Recipient<ResolveServer>,
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
            answer_with: None,
            signer: None,
        }
    }
}

impl Actor for RelayRequestActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
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

impl Handler<SendFederation> for RelayRequestActor {
    type Result = ResponseFuture<Result<CanonicalJsonValue, FederationError>>;

    fn handle(&mut self, ask: SendFederation, ctx: &mut Context<Self>) -> Self::Result {
        let Some(signer) = self.signer.clone() else {
            return Box::pin(async { Err(FederationError::Offline) });
        };
        let outbound = Outbound {
            signer,
            cpu: self.parts.cpu.clone(),
            resolve: self.parts.resolve.clone(),
            send: self.parts.send.clone(),
            keys_seen: self.parts.keys_seen.clone(),
            clock_seen: ctx.address().recipient(),
        };
        Box::pin(outbound.ask(ask))
    }
}
