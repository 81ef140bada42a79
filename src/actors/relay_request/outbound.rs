//! Asking another server: find it, sign, send, verify what comes back.

use std::sync::Arc;

use actix::Recipient;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};

use super::{ClockSeen, FederationError, KeysSeen, SendFederation};
use crate::{
    actors::{
        clock::now_ms,
        cpu::Cpu,
        rendezvous::ResolveServer,
        swarm::{RequestFailed, SendRequest},
    },
    proto::{
        signed::{Answer, Request},
        signer::Signer,
    },
};

/// Whom an outgoing request needs.
#[derive(Clone)]
pub(super) struct Outbound {
    pub(super) signer: Arc<Signer>,
    pub(super) cpu: Cpu,
    pub(super) resolve: Recipient<ResolveServer>,
    pub(super) send: Recipient<SendRequest>,
    pub(super) keys_seen: Recipient<KeysSeen>,
    pub(super) clock_seen: Recipient<ClockSeen>,
}

impl Outbound {
    /// Asks, within the time that the message gives.
    pub(super) async fn ask(
        self,
        ask: SendFederation,
    ) -> Result<CanonicalJsonValue, FederationError> {
        let server = ask.destination.clone();
        let asked = tokio::time::timeout(ask.timeout, Box::pin(self.ask_on(ask))).await;
        asked.unwrap_or(Err(FederationError::TimedOut(server)))
    }

    async fn ask_on(self, ask: SendFederation) -> Result<CanonicalJsonValue, FederationError> {
        let SendFederation { destination, method, uri, content, timeout } = ask;
        if destination == *self.signer.server_name() {
            return Err(FederationError::Unreachable(destination));
        }
        let resolve = ResolveServer { server_name: destination.clone(), timeout };
        let peer = self.resolve.send(resolve).await.ok().flatten();
        let peer = peer.ok_or_else(|| FederationError::Unreachable(destination.clone()))?;
        let request_id = format!("{:032x}", rand::random::<u128>());
        let request = Request {
            method: method.to_owned(),
            uri,
            origin: self.signer.server_name().clone(),
            destination: destination.to_string(),
            origin_server_ts: now_ms(),
            request_id: request_id.clone(),
            content,
        };
        let bad = |why: String| FederationError::BadAnswer { server: destination.clone(), why };
        let signer = Arc::clone(&self.signer);
        let signed = self.cpu.run(move || request.sign(&signer)).await;
        let wire = match signed {
            Ok(Ok(wire)) => wire,
            Ok(Err(error)) => return Err(bad(format!("the request cannot be signed: {error}"))),
            Err(error) => return Err(bad(error.to_string())),
        };
        let answer = self.send.send(SendRequest { peer, bytes: wire.bytes }).await;
        let bytes = match answer {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(RequestFailed::TimedOut)) => {
                return Err(FederationError::TimedOut(destination));
            }
            Ok(Err(RequestFailed::Unreachable(why))) => {
                log::debug!(server:% = destination, why; "unreachable");
                return Err(FederationError::Unreachable(destination));
            }
            Ok(Err(RequestFailed::Offline)) | Err(_) => return Err(FederationError::Offline),
        };
        let (from, hash) = (destination.clone(), wire.hash);
        let verified =
            self.cpu.run(move || Answer::verify(&bytes, &from, &request_id, &hash, now_ms())).await;
        let verified = match verified {
            Ok(Ok(verified)) => verified,
            Ok(Err(error)) => return Err(bad(error.to_string())),
            Err(error) => return Err(bad(error.to_string())),
        };
        let apart_ms = verified.message.origin_server_ts.cast_signed() - now_ms().cast_signed();
        self.clock_seen.do_send(ClockSeen { peer, apart_ms });
        self.keys_seen.do_send(KeysSeen(verified.server_keys));
        read(destination, verified.message)
    }
}

/// Returns the body of an answer, or the error that it tells.
fn read(server: OwnedServerName, answer: Answer) -> Result<CanonicalJsonValue, FederationError> {
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
