//! Being asked by another server: verify, hand on, sign what is answered.
//!
//! Invariants: nothing is answered to what does not verify; the stream is closed. A request is
//! executed once; a copy that its origin sends by another way, or after its connection broke, gets
//! the same answer.

use std::sync::Arc;

use actix::prelude::*;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use tokio::sync::oneshot;

use super::{
    InboundAnswer, InboundRequest, actor::RelayRequestActor, kept::Again, machine::Denied,
};
use crate::{
    actors::{
        admission::Permit,
        clock::{now_ms, uptime_ms},
        identity::KeysSeen,
        replay::Refused,
        swarm::{PeerKey, ReplyTicket, RequestReceived, SendReply},
    },
    config::limits,
    proto::{
        ProtoError,
        signed::{Answer, MAX_ANSWER_LEN, Request, Verified},
        signer::Signer,
    },
};

impl Handler<RequestReceived> for RelayRequestActor {
    type Result = ();

    fn handle(&mut self, received: RequestReceived, ctx: &mut Context<Self>) {
        let RequestReceived { peer, bytes, ticket, budget } = received;
        let len = bytes.len();
        if let Err(denied) = self.machine.begin(peer, len, uptime_ms()) {
            log::debug!(peer:%, denied:?; "a request was dropped");
            return;
        }
        let Ok(permit) = self.parts.admission.admit() else {
            log::debug!(peer:%; "a request was dropped: the node is overloaded");
            return self.machine.end(&peer, len);
        };
        let job = self.parts.cpu.run_for_others(move || {
            let verified = Request::verify(&bytes, now_ms());
            // The bytes are gone with this; until here they counted.
            drop((bytes, budget));
            verified
        });
        let verified = job.into_actor(self).map(move |done, actor, ctx| match done {
            Ok(Ok(request)) => actor.verified((peer, len), request, ticket, permit, ctx),
            Ok(Err(error)) => {
                log::debug!(peer:%, error:%; "a request was refused");
                // Whoever's clock it is that is wrong: ours may be.
                if let ProtoError::NotFresh(apart_ms) = error {
                    actor.clocks.note(peer, apart_ms);
                }
                actor.machine.end(&peer, len);
            }
            Err(_) => actor.machine.end(&peer, len),
        });
        ctx.spawn(verified);
    }
}

impl RelayRequestActor {
    fn verified(
        &mut self,
        (peer, len): (PeerKey, usize),
        request: Verified<Request>,
        ticket: ReplyTicket,
        permit: Permit,
        ctx: &mut Context<Self>,
    ) {
        let ts = request.message.origin_server_ts;
        self.clocks.note(peer, ts.cast_signed() - now_ms().cast_signed());
        // A copy from anybody but its origin is a replay.
        let copies = request.server_keys.speaks(&peer.to_string(), now_ms());
        let answer = match self.respond(request, permit, copies, ctx) {
            Ok(answer) => answer,
            Err(denied) => {
                log::debug!(peer:%, denied:?; "a request was refused");
                return self.machine.end(&peer, len);
            }
        };
        let replied = answer.into_actor(self).map(move |answer, actor, _| {
            actor.machine.end(&peer, len);
            if let Ok(answer) = answer {
                actor.parts.reply.do_send(SendReply { ticket, bytes: answer.to_vec() });
            }
        });
        ctx.spawn(replied);
    }

    /// Tells whether a verified request is for us and new.
    pub(super) fn admit(&mut self, request: &Request, now: u64) -> Result<(), Denied> {
        let signer = self.signer.as_ref().ok_or(Denied::Busy)?;
        self.machine.admit(request, signer.server_name(), now)
    }

    /// Has a verified request answered. Returns where its signed answer will come; nothing comes
    /// where none can be made. `copies`: what came before is answered as it was then.
    pub(super) fn respond(
        &mut self,
        request: Verified<Request>,
        permit: Permit,
        copies: bool,
        ctx: &mut Context<Self>,
    ) -> Result<oneshot::Receiver<Arc<[u8]>>, Denied> {
        let (Some(signer), Some(answer_with)) = (self.signer.clone(), self.answer_with.clone())
        else {
            return Err(Denied::Busy);
        };
        if !self.parts.generations.borrow().admit(&request.server_keys) {
            return Err(Denied::Over);
        }
        let now = now_ms();
        let (reply, answered) = oneshot::channel();
        let Request { origin, request_id, .. } = &request.message;
        match self.admit(&request.message, now) {
            Ok(()) => self.kept.begin(origin, request_id, &request.hash, reply),
            Err(seen @ Denied::Refused(Refused::Seen)) if copies => {
                match self.kept.again(origin, request_id, &request.hash, reply, uptime_ms()) {
                    Again::Waits => {}
                    Again::Answered(reply, answer) => {
                        let _ = reply.send(answer);
                    }
                    Again::Refused => return Err(seen),
                }
                return Ok(answered);
            }
            Err(denied) => return Err(denied),
        }
        self.parts.keys_seen.do_send(KeysSeen(request.server_keys.clone()));
        let (origin, id) = (origin.clone(), request_id.clone());
        let (request_id, hash) = (id.clone(), request.hash.clone());
        let cpu = self.parts.cpu.clone();
        let work = async move {
            let asked = answer_with.send(InboundRequest { request, permit });
            let answer = match tokio::time::timeout(limits::FEDERATION_WAIT, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => failed("the answer could not be made"),
                Err(_) => failed("the answer took too long"),
            };
            cpu.run_for_others(move || sign(answer, request_id, hash, &signer)).await
        };
        let done = work.into_actor(self).map(move |done, actor, _| {
            let answer = match done {
                Ok(Ok(bytes)) => Some(Arc::from(bytes)),
                Ok(Err(error)) => {
                    log::error!(error:%; "an answer cannot be signed");
                    None
                }
                Err(error) => {
                    log::error!(error:%; "an answer cannot be signed");
                    None
                }
            };
            for waiter in actor.kept.done(&origin, &id, answer.clone(), uptime_ms()) {
                if let Some(answer) = &answer {
                    let _ = waiter.send(Arc::clone(answer));
                }
            }
        });
        ctx.spawn(done);
        Ok(answered)
    }
}

fn failed(why: &str) -> InboundAnswer {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let content = CanonicalJsonObject::from([
        ("errcode".to_owned(), text("M_UNKNOWN")),
        ("error".to_owned(), text(why)),
    ]);
    InboundAnswer { status: 503, content: CanonicalJsonValue::Object(content) }
}

fn sign(
    answer: InboundAnswer,
    request_id: String,
    request_hash: String,
    signer: &Arc<Signer>,
) -> Result<Vec<u8>, ProtoError> {
    let InboundAnswer { status, content } = answer;
    let mut answer = Answer {
        request_id,
        request_hash,
        status,
        content,
        origin: signer.server_name().clone(),
        origin_server_ts: now_ms(),
    };
    let wire = answer.sign(signer)?;
    if wire.bytes.len() <= MAX_ANSWER_LEN {
        return Ok(wire.bytes);
    }
    let failure = failed("the answer is too large to be sent");
    (answer.status, answer.content) = (failure.status, failure.content);
    Ok(answer.sign(signer)?.bytes)
}
