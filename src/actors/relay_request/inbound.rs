//! Being asked by another server: verify, hand on, sign what is answered.
//!
//! Invariant: nothing is answered to what does not verify; the stream is closed.

use std::sync::Arc;

use actix::prelude::*;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use super::{InboundAnswer, InboundRequest, KeysSeen, actor::RelayRequestActor};
use crate::{
    actors::{
        admission::Permit,
        clock::now_ms,
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
        if let Err(denied) = self.machine.begin(peer, now_ms()) {
            log::debug!(peer:%, denied:?; "a request was dropped");
            return;
        }
        let Ok(permit) = self.parts.admission.admit() else {
            log::debug!(peer:%; "a request was dropped: the node is overloaded");
            return self.machine.end(&peer);
        };
        let job = self.parts.cpu.run(move || {
            let verified = Request::verify(&bytes, now_ms());
            // The bytes are gone with this; until here they counted.
            drop((bytes, budget));
            verified
        });
        let verified = job.into_actor(self).map(move |done, actor, ctx| match done {
            Ok(Ok(request)) => actor.verified(peer, request, ticket, permit, ctx),
            Ok(Err(error)) => {
                log::debug!(peer:%, error:%; "a request was refused");
                // Whoever's clock it is that is wrong: ours may be.
                if let ProtoError::NotFresh(apart_ms) = error {
                    actor.clocks.note(peer, apart_ms);
                }
                actor.machine.end(&peer);
            }
            Err(_) => actor.machine.end(&peer),
        });
        ctx.spawn(verified);
    }
}

impl RelayRequestActor {
    fn verified(
        &mut self,
        peer: PeerKey,
        request: Verified<Request>,
        ticket: ReplyTicket,
        permit: Permit,
        ctx: &mut Context<Self>,
    ) {
        let (Some(signer), Some(answer_with)) = (self.signer.clone(), self.answer_with.clone())
        else {
            return self.machine.end(&peer);
        };
        let admitted = self.machine.admit(&request.message, signer.server_name(), now_ms());
        if let Err(denied) = admitted {
            log::debug!(peer:%, denied:?; "a request was refused");
            return self.machine.end(&peer);
        }
        self.parts.keys_seen.do_send(KeysSeen(request.server_keys.clone()));
        let ts = request.message.origin_server_ts;
        self.clocks.note(peer, ts.cast_signed() - now_ms().cast_signed());
        let (id, hash) = (request.message.request_id.clone(), request.hash.clone());
        let cpu = self.parts.cpu.clone();
        let answered = async move {
            let asked = answer_with.send(InboundRequest { request, permit });
            let answer = match tokio::time::timeout(limits::FEDERATION_WAIT, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => failed("the answer could not be made"),
                Err(_) => failed("the answer took too long"),
            };
            cpu.run(move || sign(answer, id, hash, &signer)).await
        };
        let replied = answered.into_actor(self).map(move |done, actor, _| {
            actor.machine.end(&peer);
            match done {
                Ok(Ok(bytes)) => actor.parts.reply.do_send(SendReply { ticket, bytes }),
                Ok(Err(error)) => log::error!(error:%; "an answer cannot be signed"),
                Err(error) => log::error!(error:%; "an answer cannot be signed"),
            }
        });
        ctx.spawn(replied);
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
