//! Signed requests and answers: the Server-Server API without HTTPS (`docs/PROTOCOL.md` §4).
//!
//! Both carry the server_keys of who signed them, so any node may hand them on and any node can
//! check them. An answer names the request that it answers by id and by hash.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    canonical_json::to_canonical_value,
    signatures::{PublicKeyMap, to_canonical_json_string_for_signing, verify_json},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ProtoError,
    json::{self, MESSAGE_NESTING, Unsound},
    server_keys::VerifiedServerKeys,
    signer::Signer,
};

/// How long a signed request or answer counts as fresh, in milliseconds, either way.
pub const FRESH_MS: u64 = 5 * 60 * 1000;
/// Largest request, in bytes: 50 PDUs of 64 KiB would be more, but senders cut before.
pub const MAX_REQUEST_LEN: usize = 2 * 1024 * 1024;
/// Largest answer, in bytes: the state and auth chain of a large room.
pub const MAX_ANSWER_LEN: usize = 48 * 1024 * 1024;

/// A request of one server to another, before it is signed and once it is verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// `GET`, `PUT` or `POST`.
    pub method: String,
    /// Path and query of the Server-Server API.
    pub uri: String,
    /// Who asks.
    pub origin: OwnedServerName,
    /// A server name, or a room id that origin and receiver have joined (gossip).
    pub destination: String,
    /// When it was signed, in milliseconds.
    pub origin_server_ts: u64,
    /// Chosen by the origin; seen once by each receiver.
    pub request_id: String,
    /// The body; an empty object where there is none.
    #[serde(default)]
    pub content: CanonicalJsonValue,
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The id of the request.
    pub request_id: String,
    /// Unpadded base64 of the SHA-256 of the request's canonical JSON without `signatures`.
    pub request_hash: String,
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub content: CanonicalJsonValue,
    /// Who answers.
    pub origin: OwnedServerName,
    /// When it was signed, in milliseconds.
    pub origin_server_ts: u64,
}

/// A request or answer whose signature was found to be right, and what certifies it.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    /// What was signed.
    pub message: T,
    /// The server_keys that came with it.
    pub server_keys: VerifiedServerKeys,
    /// SHA-256 of what was signed, as [`Answer::request_hash`] has it.
    pub hash: String,
}

/// What both messages have in common.
trait Signed: Serialize + serde::de::DeserializeOwned {
    const WHAT: &'static str;
    fn origin(&self) -> &ServerName;
    fn origin_server_ts(&self) -> u64;
}

impl Signed for Request {
    const WHAT: &'static str = "signed request";
    fn origin(&self) -> &ServerName {
        &self.origin
    }
    fn origin_server_ts(&self) -> u64 {
        self.origin_server_ts
    }
}

impl Signed for Answer {
    const WHAT: &'static str = "signed answer";
    fn origin(&self) -> &ServerName {
        &self.origin
    }
    fn origin_server_ts(&self) -> u64 {
        self.origin_server_ts
    }
}

/// A signed message in the form that travels.
#[derive(Debug, Clone)]
pub struct Wire {
    /// Canonical JSON.
    pub bytes: Vec<u8>,
    /// SHA-256 of what was signed.
    pub hash: String,
}

fn hash_of(object: &CanonicalJsonObject) -> Result<String, ProtoError> {
    let text = to_canonical_json_string_for_signing(object)
        .map_err(|error| ProtoError::malformed("signed object", error))?;
    let digest = Sha256::digest(text.as_bytes());
    Ok(ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(digest.to_vec()).encode())
}

fn sign<T: Signed>(message: &T, signer: &Signer) -> Result<Wire, ProtoError> {
    let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed(T::WHAT, error);
    let CanonicalJsonValue::Object(mut object) =
        to_canonical_value(message).map_err(|error| malformed(&error))?
    else {
        return Err(malformed(&"not an object"));
    };
    let keys = CanonicalJsonValue::Object(signer.server_keys().clone());
    object.insert("server_keys".to_owned(), keys);
    let hash = hash_of(&object)?;
    signer.sign_json(&mut object)?;
    let bytes = serde_json::to_vec(&object).map_err(|error| malformed(&error))?;
    Ok(Wire { bytes, hash })
}

fn verify<T: Signed>(bytes: &[u8], limit: usize, now: u64) -> Result<Verified<T>, ProtoError> {
    if bytes.len() > limit {
        return Err(ProtoError::TooLarge { what: T::WHAT, len: bytes.len(), limit });
    }
    let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed(T::WHAT, error);
    let text = std::str::from_utf8(bytes).map_err(|_| Unsound::NoText.of(T::WHAT))?;
    json::check(text, MESSAGE_NESTING).map_err(|unsound| unsound.of(T::WHAT))?;
    let mut object: CanonicalJsonObject =
        serde_json::from_str(text).map_err(|error| malformed(&error))?;
    let Some(CanonicalJsonValue::Object(keys)) = object.get("server_keys") else {
        return Err(ProtoError::MissingServerKeys(T::WHAT.to_owned()));
    };
    let server_keys = VerifiedServerKeys::verify(keys.clone(), now)?;
    let keys = server_keys.keys_at(now);
    let map = PublicKeyMap::from([(server_keys.server_name().to_string(), keys)]);
    verify_json(&map, &object).map_err(|error| ProtoError::BadSignature(error.to_string()))?;
    let hash = hash_of(&object)?;
    object.remove("server_keys");
    object.remove("signatures");
    let message: T = serde_json::from_value(CanonicalJsonValue::Object(object).into())
        .map_err(|error| malformed(&error))?;
    if message.origin() != server_keys.server_name() {
        return Err(ProtoError::BadSignature(format!(
            "signed by {}, but in the name of {}",
            server_keys.server_name(),
            message.origin()
        )));
    }
    let apart = message.origin_server_ts().cast_signed().saturating_sub(now.cast_signed());
    if apart.unsigned_abs() > FRESH_MS {
        return Err(ProtoError::NotFresh(apart));
    }
    Ok(Verified { message, server_keys, hash })
}

impl Request {
    /// Signs the request.
    pub fn sign(&self, signer: &Signer) -> Result<Wire, ProtoError> {
        sign(self, signer)
    }

    /// Verifies a request: size, server_keys, signature, origin and freshness. That it was not
    /// seen before, and that it is for us, the caller has to know. `now` is in milliseconds.
    pub fn verify(bytes: &[u8], now: u64) -> Result<Verified<Self>, ProtoError> {
        verify(bytes, MAX_REQUEST_LEN, now)
    }
}

impl Answer {
    /// Signs the answer.
    pub fn sign(&self, signer: &Signer) -> Result<Wire, ProtoError> {
        sign(self, signer)
    }

    /// Verifies the answer of `from` to the request with this id and hash.
    pub fn verify(
        bytes: &[u8],
        from: &ServerName,
        request_id: &str,
        request_hash: &str,
        now: u64,
    ) -> Result<Verified<Self>, ProtoError> {
        let answer: Verified<Self> = verify(bytes, MAX_ANSWER_LEN, now)?;
        if answer.message.origin != from {
            return Err(ProtoError::Misaddressed(answer.message.origin.to_string()));
        }
        if answer.message.request_id != request_id || answer.message.request_hash != request_hash {
            return Err(ProtoError::Misaddressed("another request".to_owned()));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::server_keys::{LIFETIME_MS, tests::secret_keys};

    const NOW: u64 = 1_790_000_000_000;

    fn signer(seed: u8) -> Signer {
        Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap()
    }

    fn request(from: &Signer, to: &Signer) -> Request {
        Request {
            method: "GET".into(),
            uri: "/_matrix/federation/v1/query/profile?user_id=x".into(),
            origin: from.server_name().clone(),
            destination: to.server_name().to_string(),
            origin_server_ts: NOW,
            request_id: "1".into(),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        }
    }

    fn answer(from: &Signer, request: &Wire) -> Answer {
        Answer {
            request_id: "1".into(),
            request_hash: request.hash.clone(),
            status: 200,
            content: to_canonical_value(json!({"a": 1})).unwrap(),
            origin: from.server_name().clone(),
            origin_server_ts: NOW,
        }
    }

    #[test]
    fn a_request_and_its_answer() {
        let (ann, bob) = (signer(1), signer(2));
        let sent = request(&ann, &bob).sign(&ann).unwrap();
        let got = Request::verify(&sent.bytes, NOW).unwrap();
        assert_eq!(got.message.origin, *ann.server_name());
        assert_eq!(got.hash, sent.hash);
        let back = answer(&bob, &sent).sign(&bob).unwrap();
        let got = Answer::verify(&back.bytes, bob.server_name(), "1", &sent.hash, NOW).unwrap();
        assert_eq!(got.message.status, 200);
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        let (ann, bob) = (signer(1), signer(2));
        let sent = request(&ann, &bob).sign(&ann).unwrap();
        let text = String::from_utf8(sent.bytes).unwrap();
        for (from, to) in
            [("profile", "proFile"), ("GET", "PUT"), (r#""request_id":"1""#, r#""request_id":"2""#)]
        {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert!(Request::verify(changed.as_bytes(), NOW).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn nobody_signs_for_another() {
        let (ann, eve) = (signer(1), signer(3));
        let forged = request(&ann, &ann).sign(&eve).unwrap();
        assert!(matches!(Request::verify(&forged.bytes, NOW), Err(ProtoError::BadSignature(_))));
    }

    #[test]
    fn attack_08_expired_keys_and_stale_requests_are_refused() {
        let ann = signer(1);
        let sent = request(&ann, &ann).sign(&ann).unwrap();
        let late = Request::verify(&sent.bytes, NOW + FRESH_MS + 1);
        assert!(matches!(late, Err(ProtoError::NotFresh(_))), "{late:?}");
        let mut old = request(&ann, &ann);
        old.origin_server_ts = NOW + LIFETIME_MS + 1;
        let sent = old.sign(&ann).unwrap();
        let expired = Request::verify(&sent.bytes, NOW + LIFETIME_MS + 1);
        assert!(matches!(expired, Err(ProtoError::BadSignature(_))), "{expired:?}");
    }

    #[test]
    fn an_answer_counts_only_for_its_request_and_its_server() {
        let (ann, bob, eve) = (signer(1), signer(2), signer(3));
        let sent = request(&ann, &bob).sign(&ann).unwrap();
        let back = answer(&bob, &sent).sign(&bob).unwrap();
        let verify = |from: &Signer, id: &str, hash: &str| {
            Answer::verify(&back.bytes, from.server_name(), id, hash, NOW)
        };
        assert!(verify(&bob, "1", &sent.hash).is_ok());
        assert!(verify(&eve, "1", &sent.hash).is_err());
        assert!(verify(&bob, "2", &sent.hash).is_err());
        assert!(verify(&bob, "1", "another").is_err());
    }

    #[test]
    fn no_depth_of_a_message_does_harm() {
        let ann = signer(1);
        for levels in [126, 128, 1000, 500_000] {
            let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let bytes = format!(r#"{{"content":{deep},"server_keys":{}}}"#, ann.server_keys_text());
            assert!(Request::verify(bytes.as_bytes(), NOW).is_err(), "{levels}");
        }
    }
}
