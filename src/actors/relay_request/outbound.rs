//! Asking another server: find it, sign, send, verify what comes back; where it cannot be reached
//! directly, or not soon, through others.
//!
//! Invariant: one request is one signed object, however often and by whichever way it is sent, so
//! the destination executes it once.

use std::{pin::pin, sync::Arc, time::Duration};

use actix::Recipient;
use libp2p::PeerId;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{CarryWith, pace::Start};
use crate::{
    actors::{
        clock::now_ms,
        cpu::Cpu,
        identity::KeysSeen,
        rendezvous::{ClockSeen, ReadProven, ResolveServer},
        swarm::{RequestFailed, SendRequest},
        upward::{FederationError, SendFederation},
    },
    proto::{
        delegation::Generations,
        endpoint::Endpoint,
        server_keys::VerifiedServerKeys,
        signed::{Answer, Request, Verified, Wire},
        signer::Signer,
    },
};

/// How long finding and connecting a server may take before others are asked to carry: looking
/// one up that is known takes a few round trips, and looking one up that is off takes seconds.
const FIND_HEAD_START: Duration = Duration::from_millis(250);
/// The same for a server that was reached through others lately: as long as it takes to see that
/// it is connected now.
const KNOWN_HEAD_START: Duration = Duration::from_millis(20);
/// A connected server that has not answered after this share of the time may be behind a
/// connection that is dead, so others are asked too.
const ANSWER_SHARE: u32 = 3;

/// What is wrong with server_keys of a node that its server has ended.
pub(super) const OVER: &str = "it is of a node that its server has ended";

/// Whom an outgoing request needs.
#[derive(Clone)]
pub(super) struct Outbound {
    pub(super) signer: Arc<Signer>,
    pub(super) cpu: Cpu,
    pub(super) resolve: Recipient<ResolveServer>,
    pub(super) proven: Recipient<ReadProven>,
    pub(super) send: Recipient<SendRequest>,
    pub(super) keys_seen: Recipient<KeysSeen>,
    pub(super) generations: watch::Receiver<Generations>,
    pub(super) clock_seen: Recipient<ClockSeen>,
    pub(super) carry_with: Option<CarryWith>,
    /// Memory for answers that come in pieces.
    pub(super) assembly: Arc<Semaphore>,
}

/// By which way an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Over a connection of our own.
    Direct,
    /// Through others.
    Carried,
}

type Body = Result<CanonicalJsonValue, FederationError>;

/// A signed request.
pub(super) struct Asked {
    pub(super) destination: OwnedServerName,
    pub(super) request_id: String,
    pub(super) wire: Wire,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
}

impl Asked {
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn unreachable(&self) -> FederationError {
        FederationError::Unreachable(self.destination.clone())
    }

    pub(super) fn bad(&self, why: impl ToString) -> FederationError {
        let why = why.to_string();
        FederationError::BadAnswer { server: self.destination.clone(), why }
    }
}

/// Awaits `first`; from when `patience` is over, or `first` has failed, also `second`. The first
/// good one counts; where both fail, the error of `first` tells.
pub(super) async fn either<T, E>(
    first: impl Future<Output = Result<T, E>>,
    patience: impl Future<Output = ()>,
    second: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    tokio::select! {
        biased;
        done = &mut first => {
            return match done {
                Ok(value) => Ok(value),
                Err(error) => second.await.map_err(|_| error),
            };
        }
        () = patience => {}
    }
    tokio::select! {
        biased;
        done = &mut first => match done {
            Ok(value) => Ok(value),
            Err(error) => second.await.map_err(|_| error),
        },
        done = &mut second => match done {
            Ok(value) => Ok(value),
            Err(_) => first.await,
        },
    }
}

/// Returns how long finding a server may take before others are asked to carry, by how it was
/// reached last.
pub(super) fn head_start(lately: Option<Route>) -> Duration {
    match lately {
        Some(Route::Carried) => KNOWN_HEAD_START,
        Some(Route::Direct) | None => FIND_HEAD_START,
    }
}

impl Outbound {
    /// Asks in its turn, within the time that the message gives. `lately` is how the server was
    /// reached when it was asked last. Returns by which way its answer came, if one came.
    pub(super) async fn ask(
        self,
        ask: SendFederation,
        lately: Option<Route>,
        start: Start,
    ) -> (Body, Option<Route>) {
        let (server, wait) = (ask.destination.clone(), ask.timeout);
        let asked = async {
            let _place = start.comes().await;
            Box::pin(self.ask_on(ask, lately)).await
        };
        match timeout(wait, asked).await {
            Ok(Ok((body, way))) => (body, Some(way)),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err(FederationError::TimedOut(server)), None),
        }
    }

    async fn ask_on(
        self,
        ask: SendFederation,
        lately: Option<Route>,
    ) -> Result<(Body, Route), FederationError> {
        let SendFederation { destination, endpoint, content, timeout } = ask;
        if destination == *self.signer.server_name() {
            return Err(FederationError::Unreachable(destination));
        }
        let asked = self.signed(&destination, endpoint, content, timeout).await?;
        let (found, was_found) = oneshot::channel();
        let patience = async {
            let found = tokio::time::timeout(head_start(lately), was_found).await;
            if matches!(found, Ok(Ok(()))) {
                sleep(timeout / ANSWER_SHARE).await;
            }
        };
        let direct = async { Ok((self.direct(&asked, found).await?, Route::Direct)) };
        let carried = async { Ok((Box::pin(self.carried(&asked)).await?, Route::Carried)) };
        let (answer, way) = either(direct, patience, carried).await?;
        self.keys_seen.do_send(KeysSeen(answer.server_keys));
        Ok((read(destination, answer.message), way))
    }

    /// Signs a request.
    pub(super) async fn signed(
        &self,
        destination: &ServerName,
        endpoint: Endpoint,
        content: CanonicalJsonValue,
        timeout: Duration,
    ) -> Result<Asked, FederationError> {
        let request_id = format!("{:032x}", rand::random::<u128>());
        let request = Request {
            method: endpoint.method.to_owned(),
            uri: endpoint.uri,
            origin: self.signer.server_name().clone(),
            destination: destination.to_string(),
            origin_server_ts: now_ms(),
            request_id: request_id.clone(),
            content,
        };
        let bad = |why: String| FederationError::BadAnswer { server: destination.to_owned(), why };
        let signer = Arc::clone(&self.signer);
        let wire = match self.cpu.run(move || request.sign(&signer)).await {
            Ok(Ok(wire)) => wire,
            Ok(Err(error)) => return Err(bad(format!("the request cannot be signed: {error}"))),
            Err(error) => return Err(bad(error.to_string())),
        };
        let deadline = Instant::now() + timeout;
        Ok(Asked { destination: destination.to_owned(), request_id, wire, deadline })
    }

    /// Asks over a connection of our own; `found` is told once there is one.
    async fn direct(
        &self,
        asked: &Asked,
        found: oneshot::Sender<()>,
    ) -> Result<Verified<Answer>, FederationError> {
        let peer = self.find(asked, asked.left()).await?;
        let _ = found.send(());
        self.exchange(asked, peer).await
    }

    /// Finds and connects the node of a server.
    pub(super) async fn find(
        &self,
        asked: &Asked,
        timeout: Duration,
    ) -> Result<PeerId, FederationError> {
        let resolve = ResolveServer { server_name: asked.destination.clone(), timeout };
        self.resolve.send(resolve).await.ok().flatten().ok_or_else(|| asked.unreachable())
    }

    /// Sends a request to a node, and verifies what it answers.
    pub(super) async fn exchange(
        &self,
        asked: &Asked,
        peer: PeerId,
    ) -> Result<Verified<Answer>, FederationError> {
        let mut answer = self.send_bytes(asked, peer).await;
        // A connection can close while a better one opens. The request may have arrived: the same
        // bytes are answered with the same answer.
        if matches!(answer, Err(RequestFailed::Broken)) {
            let peer = self.find(asked, asked.left()).await?;
            answer = self.send_bytes(asked, peer).await;
        }
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(RequestFailed::TimedOut) => {
                return Err(FederationError::TimedOut(asked.destination.clone()));
            }
            Err(RequestFailed::Offline) => return Err(FederationError::Offline),
            Err(error) => {
                log::debug!(server:% = asked.destination, error:%; "unreachable");
                return Err(asked.unreachable());
            }
        };
        let verified = self.verify(asked, bytes).await?;
        let apart_ms = verified.message.origin_server_ts.cast_signed() - now_ms().cast_signed();
        self.clock_seen.do_send(ClockSeen { peer, apart_ms });
        Ok(verified)
    }

    async fn send_bytes(&self, asked: &Asked, peer: PeerId) -> Result<Vec<u8>, RequestFailed> {
        let request = SendRequest { peer, bytes: asked.wire.bytes.clone() };
        self.send.send(request).await.unwrap_or(Err(RequestFailed::Offline))
    }

    /// Verifies what came back, whichever way it came.
    pub(super) async fn verify(
        &self,
        asked: &Asked,
        bytes: Vec<u8>,
    ) -> Result<Verified<Answer>, FederationError> {
        let (from, id) = (asked.destination.clone(), asked.request_id.clone());
        let hash = asked.wire.hash.clone();
        let job = move || Answer::verify(&bytes, &from, &id, &hash, now_ms());
        match self.cpu.run(job).await {
            Ok(Ok(verified)) if !self.admits(&verified.server_keys) => Err(asked.bad(OVER)),
            Ok(Ok(verified)) => Ok(verified),
            Ok(Err(error)) => Err(asked.bad(error)),
            Err(error) => Err(asked.bad(error)),
        }
    }

    /// Tells whether server_keys may be used now, as far as their generation goes.
    pub(super) fn admits(&self, keys: &VerifiedServerKeys) -> bool {
        self.generations.borrow().admit(keys)
    }
}

/// Returns the body of an answer, or the error that it tells.
pub(super) fn read(server: OwnedServerName, answer: Answer) -> Body {
    if (200..300).contains(&answer.status) {
        return Ok(answer.content);
    }
    let empty = CanonicalJsonObject::new();
    let body = match &answer.content {
        CanonicalJsonValue::Object(body) => body,
        _ => &empty,
    };
    let text = |key: &str, otherwise: &str| {
        let value = body.get(key).and_then(CanonicalJsonValue::as_str).unwrap_or(otherwise);
        value.chars().take(256).collect::<String>()
    };
    Err(FederationError::Refused {
        status: answer.status,
        errcode: text("errcode", "M_UNKNOWN"),
        message: text("error", "no reason was given"),
        server,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[actix::test]
    async fn the_first_good_answer_counts() {
        let never = || std::future::pending::<Result<u8, &str>>();
        let ready = |result: Result<u8, &'static str>| async move { result };
        let now = || async {};
        let not_yet = || std::future::pending::<()>();
        assert_eq!(either(ready(Ok(1)), now(), ready(Ok(2))).await, Ok(1));
        assert_eq!(either(never(), now(), ready(Ok(2))).await, Ok(2));
        assert_eq!(either(ready(Err("a")), not_yet(), ready(Ok(2))).await, Ok(2));
        assert_eq!(either(ready(Err("a")), now(), ready(Err("b"))).await, Err("a"));
        let late = async {
            tokio::task::yield_now().await;
            Ok(1)
        };
        assert_eq!(either(late, now(), ready(Err("b"))).await, Ok(1));
        let late = async {
            tokio::task::yield_now().await;
            Ok(1)
        };
        assert_eq!(either(late, not_yet(), ready(Ok(2))).await, Ok(1), "not asked before its time");
    }

    #[test]
    fn errors_of_others_are_told_apart_from_answers() {
        let server = ruma::server_name!("ann");
        let answer = |status, content| Answer {
            request_id: "1".into(),
            request_hash: "x".into(),
            status,
            content: serde_json::from_value(content).unwrap(),
            origin: server.to_owned(),
            origin_server_ts: 0,
        };
        assert!(read(server.to_owned(), answer(200, json!({}))).is_ok());
        let refused =
            read(server.to_owned(), answer(403, json!({"errcode": "M_FORBIDDEN", "error": "no"})));
        assert!(matches!(
            refused,
            Err(FederationError::Refused { status: 403, errcode, message, .. })
                if errcode == "M_FORBIDDEN" && message == "no"
        ));
        let silent = read(server.to_owned(), answer(500, json!("x")));
        assert!(matches!(
            silent,
            Err(FederationError::Refused { errcode, .. }) if errcode == "M_UNKNOWN"
        ));
    }
}
