//! Being handed a sealed request: open it where it is ours, else hand it on.
//!
//! Invariants: only those who share a room with us have something carried, and only to those who
//! do; a request that was sealed to us takes the way of any other from here on, and none of them
//! can have a further one carried.

use actix::prelude::*;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, canonical_json::to_canonical_value};
use ruma::{OwnedServerName, serde::Base64};
use tokio::sync::oneshot;

use super::{CarryRequest, InboundAnswer, actor::RelayRequestActor, machine::Denied};
use crate::{
    actors::{
        admission::Permit,
        clock::{now_ms, uptime_ms},
        upward::{FederationError, FindSharing},
    },
    proto::{
        ProtoError, endpoint,
        sealed::{self, AnswerSealer, HOPS_MAX, Parcel, Piece, SealedAnswer},
        signed::{Request, Verified},
    },
};

/// Why nothing was carried, as whoever handed it to us learns it.
#[derive(Debug)]
struct Refusal(u16, &'static str, &'static str);

const BUSY: Refusal = Refusal(429, "M_LIMIT_EXCEEDED", "too much is being carried");
const STRANGERS: Refusal = Refusal(403, "M_FORBIDDEN", "this is carried for room-mates only");
const TOO_FAR: Refusal = Refusal(400, "M_INVALID_PARAM", "it came over too many nodes");
const MALFORMED: Refusal = Refusal(400, "M_BAD_JSON", "this is no request that can be carried");
const AGAIN: Refusal = Refusal(409, "M_DUPLICATE", "it came before");
const REFUSED: Refusal = Refusal(403, "M_FORBIDDEN", "it does not open, or may not be served");
const UNREACHABLE: Refusal = Refusal(502, "M_CONNECTION_FAILED", "the destination is not reached");
const FAILED: Refusal = Refusal(500, "M_UNKNOWN", "the answer could not be made");

impl From<Refusal> for InboundAnswer {
    fn from(Refusal(status, errcode, error): Refusal) -> Self {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let content = [("errcode", text(errcode)), ("error", text(error))];
        let content = content.map(|(key, value)| (key.to_owned(), value));
        let content = CanonicalJsonValue::Object(CanonicalJsonObject::from(content));
        Self { status, content }
    }
}

impl From<SealedAnswer> for InboundAnswer {
    fn from(answer: SealedAnswer) -> Self {
        match to_canonical_value(&answer) {
            Ok(content) => Self { status: 200, content },
            Err(_) => FAILED.into(),
        }
    }
}

type Answered = ResponseActFuture<RelayRequestActor, InboundAnswer>;

fn now(refusal: Refusal) -> Answered {
    Box::pin(actix::fut::ready(refusal.into()))
}

impl Handler<CarryRequest> for RelayRequestActor {
    type Result = Answered;

    fn handle(&mut self, asked: CarryRequest, _: &mut Context<Self>) -> Answered {
        let CarryRequest { origin, destination, parcel, permit } = asked;
        if let Err(error) = parcel.check(now_ms()) {
            log::debug!(origin:%, error:%; "a sealed request was refused");
            return now(MALFORMED);
        }
        match &self.signer {
            Some(signer) if *signer.server_name() == destination => self.open(parcel, permit),
            Some(_) if parcel.hops >= HOPS_MAX => now(TOO_FAR),
            Some(_) => self.carry(origin, destination, parcel, permit),
            None => now(UNREACHABLE),
        }
    }
}

impl RelayRequestActor {
    /// Hands a sealed request on.
    fn carry(
        &mut self,
        origin: OwnedServerName,
        destination: OwnedServerName,
        parcel: Parcel,
        permit: Permit,
    ) -> Answered {
        let Some(with) = &self.carry_with else { return now(UNREACHABLE) };
        let servers = vec![origin.clone(), destination.clone()];
        let both = with.sharing.send(FindSharing { servers, with: None });
        Box::pin(both.into_actor(self).then(move |sharing, actor, ctx| {
            let sharing = sharing.unwrap_or_default();
            let share =
                |server: &OwnedServerName| sharing.iter().any(|one| one.server_name == *server);
            if !share(&origin) || origin == destination {
                return now(STRANGERS);
            }
            // With whom we share rooms is nobody's business: as if it were not there.
            if !share(&destination) {
                return now(UNREACHABLE);
            }
            let Some(signer) = actor.signer.clone() else { return now(UNREACHABLE) };
            let (hash, len) = (parcel.hash(), parcel.sealed.as_bytes().len());
            let taken = actor.carriage.begin(&origin, hash, len, parcel.expires_ts, now_ms());
            match taken {
                Ok(()) => {}
                Err(super::carriage::Denied::Busy) => return now(BUSY),
                Err(super::carriage::Denied::Carried) => return now(AGAIN),
            }
            let outbound = actor.outbound(signer, ctx);
            let lately = actor.ways.get(&destination).copied();
            let (from, to) = (origin.clone(), destination.clone());
            let work = async move {
                let _permit = permit;
                outbound.forward(&from, &to, parcel, lately).await
            };
            let done = work.into_actor(actor).map(move |done, actor: &mut Self, _| {
                let len = done.as_ref().map_or(0, |(answer, _)| answer.sealed.as_bytes().len());
                actor.carriage.end(&origin, len);
                match done {
                    Ok(_) if len > sealed::MAX_SEALED_ANSWER_LEN => FAILED.into(),
                    Ok((answer, way)) => {
                        actor.ways.put(destination, way);
                        answer.into()
                    }
                    Err(error) => {
                        log::debug!(origin:%, destination:%, error:%; "nothing was carried");
                        match error {
                            FederationError::Refused { status: 409, .. } => AGAIN.into(),
                            _ => UNREACHABLE.into(),
                        }
                    }
                }
            });
            Box::pin(done) as Answered
        }))
    }

    /// Opens what was sealed to us, and has it answered like any request.
    fn open(&mut self, parcel: Parcel, permit: Permit) -> Answered {
        let Some(signer) = self.signer.clone() else { return now(UNREACHABLE) };
        let (hash, expires_ts) = (parcel.hash(), parcel.expires_ts);
        let job = self.parts.cpu.run_for_others(move || {
            let now = now_ms();
            let (bytes, sealer) = signer.unseal(&parcel, now)?;
            Ok::<_, ProtoError>((Request::verify(&bytes, now)?, sealer))
        });
        Box::pin(job.into_actor(self).then(move |opened, actor, ctx| {
            let (request, sealer) = match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => {
                    log::debug!(error:%; "a sealed request was refused");
                    return now(REFUSED);
                }
                Err(_) => return now(FAILED),
            };
            // A carrier may repeat a seal, and nobody else can make another one of the request.
            if !actor.carriage.open(hash, expires_ts, now_ms()) {
                return now(AGAIN);
            }
            match actor.opened(request, permit, ctx) {
                Ok(piece) => actor.seal(piece, sealer),
                Err(denied) => {
                    log::debug!(denied:?; "a sealed request was refused");
                    now(REFUSED)
                }
            }
        }))
    }

    /// Has the request inside a seal answered. Returns the first piece of the answer, or the
    /// piece that it asks for.
    fn opened(
        &mut self,
        request: Verified<Request>,
        permit: Permit,
        ctx: &mut Context<Self>,
    ) -> Result<oneshot::Receiver<Piece>, Denied> {
        let asked = &request.message;
        if asked.uri.starts_with(endpoint::CARRY) {
            return Err(Denied::Misaddressed);
        }
        let (reply, piece) = oneshot::channel();
        let later = endpoint::read_piece(&asked.uri).filter(|_| asked.method == "GET");
        if let Some((request_id, from)) = later {
            let now = now_ms();
            self.admit(asked, now)?;
            if let Some(piece) = self.kept.piece(&asked.origin, request_id, from, uptime_ms()) {
                let _ = reply.send(piece);
            }
            return Ok(piece);
        }
        let answer = self.respond(request, permit, true, ctx)?;
        actix::spawn(async move {
            let first = answer.await.ok().and_then(|answer| Piece::cut(&answer, 0));
            if let Some(first) = first {
                let _ = reply.send(first);
            }
        });
        Ok(piece)
    }

    fn seal(&mut self, piece: oneshot::Receiver<Piece>, sealer: AnswerSealer) -> Answered {
        let cpu = self.parts.cpu.clone();
        let sealed = async move {
            let Ok(piece) = piece.await else { return FAILED.into() };
            match cpu.run_for_others(move || sealer.seal(&piece, rand::random())).await {
                Ok(Ok(sealed)) => SealedAnswer { sealed: Base64::new(sealed) }.into(),
                _ => FAILED.into(),
            }
        };
        Box::pin(sealed.into_actor(self))
    }
}
