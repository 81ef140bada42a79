//! What a server says of its media, signed, so that anybody may hand it on (`docs/PROTOCOL.md` §11).
//!
//! Invariants: a statement is of the server whose name its media has, and of nobody else; whoever holds
//! it and the bytes that it is of is as good a source as that server itself.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::to_canonical_value,
    signatures::{PublicKeyMap, verify_json},
};
use serde::{Deserialize, Serialize};

use super::{Hash, MediaName, content_type, file_name};
use crate::proto::{ProtoError, json, server_keys::VerifiedServerKeys, signer::Signer};

const WHAT: &str = "statement on media";
/// What no other signed object of ours has: so none passes for another.
const FORMAT: &str = "messagehub.media.1";
/// Largest statement: server_keys, a type and a name.
const MAX_LEN: usize = 16 * 1024;
/// How far in the future one may be signed, in milliseconds.
const AHEAD_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What a server says of a piece of its media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Which.
    pub name: MediaName,
    /// The BLAKE3 hash of its bytes.
    pub hash: Hash,
    /// How many there are.
    pub size: u64,
    /// What its uploader declared it to be.
    pub content_type: String,
    /// What its uploader called it.
    pub file_name: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    format: String,
    server_name: String,
    media_id: String,
    hash: String,
    size: u64,
    content_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file_name: Option<String>,
    origin_server_ts: u64,
}

impl Statement {
    /// Signs it. `now` is in milliseconds.
    pub fn sign(&self, signer: &Signer, now: u64) -> Result<CanonicalJsonObject, ProtoError> {
        let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed(WHAT, error);
        if self.name.server_name != *signer.server_name() {
            return Err(malformed(&"it is another server's"));
        }
        let fields = Fields {
            format: FORMAT.to_owned(),
            server_name: self.name.server_name.to_string(),
            media_id: self.name.media_id.clone(),
            hash: URL_SAFE_NO_PAD.encode(self.hash),
            size: self.size,
            content_type: self.content_type.clone(),
            file_name: self.file_name.clone(),
            origin_server_ts: now,
        };
        let CanonicalJsonValue::Object(mut object) =
            to_canonical_value(fields).map_err(|error| malformed(&error))?
        else {
            return Err(malformed(&"no object"));
        };
        let keys = CanonicalJsonValue::Object(signer.server_keys().clone());
        object.insert("server_keys".to_owned(), keys);
        signer.sign_json(&mut object)?;
        Ok(object)
    }

    /// Checks what somebody handed on as the statement on `name`. `now` is in milliseconds.
    pub fn verify(
        object: &CanonicalJsonObject,
        name: &MediaName,
        now: u64,
    ) -> Result<Self, ProtoError> {
        let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed(WHAT, error);
        let text = serde_json::to_string(object).map_err(|error| malformed(&error))?;
        if text.len() > MAX_LEN {
            return Err(ProtoError::TooLarge { what: WHAT, len: text.len(), limit: MAX_LEN });
        }
        json::check(&text, json::NESTING).map_err(|unsound| unsound.of(WHAT))?;
        let fields: Fields = serde_json::from_str(&text).map_err(|error| malformed(&error))?;
        if fields.format != FORMAT {
            return Err(malformed(&"it has another format"));
        }
        if fields.server_name != name.server_name.as_str() || fields.media_id != name.media_id {
            return Err(ProtoError::Misaddressed(format!("other media than {}", name.uri())));
        }
        let Some(CanonicalJsonValue::Object(keys)) = object.get("server_keys") else {
            return Err(ProtoError::MissingServerKeys(fields.server_name));
        };
        let keys = VerifiedServerKeys::verify(keys.clone(), now)?;
        if keys.server_name() != name.server_name {
            return Err(ProtoError::BadServerKeys(format!("they are of {}", keys.server_name())));
        }
        let ts = fields.origin_server_ts;
        if ts > now.saturating_add(AHEAD_MS) {
            return Err(ProtoError::NotFresh(ts.saturating_sub(now).cast_signed()));
        }
        let map = PublicKeyMap::from([(name.server_name.to_string(), keys.keys_at(ts))]);
        verify_json(&map, object).map_err(|error| ProtoError::BadSignature(error.to_string()))?;
        let hash = URL_SAFE_NO_PAD.decode(&fields.hash).ok().and_then(|hash| hash.try_into().ok());
        Ok(Self {
            name: name.clone(),
            hash: hash.ok_or_else(|| malformed(&"its hash is none"))?,
            size: fields.size,
            content_type: content_type(Some(&fields.content_type)),
            file_name: file_name(fields.file_name.as_deref()),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::server_keys::{LIFETIME_MS, tests::secret_keys};

    const NOW: u64 = 1_790_000_000_000;

    fn signer(seed: u8) -> Signer {
        Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap()
    }

    fn statement(signer: &Signer) -> Statement {
        Statement {
            name: MediaName::read(signer.server_name().as_str(), "abc").unwrap(),
            hash: [7; 32],
            size: 12,
            content_type: "image/png".to_owned(),
            file_name: Some("cat.png".to_owned()),
        }
    }

    #[test]
    fn a_statement_counts_for_whoever_has_it_and_for_years() {
        let ann = signer(1);
        let said = statement(&ann);
        let signed = said.sign(&ann, NOW).unwrap();
        let name = &said.name;
        assert_eq!(Statement::verify(&signed, name, NOW).unwrap(), said);
        assert_eq!(Statement::verify(&signed, name, NOW + 100 * LIFETIME_MS).unwrap(), said);
    }

    #[test]
    fn nobody_states_anything_of_the_media_of_others() {
        let (ann, eve) = (signer(1), signer(2));
        let said = statement(&ann);
        assert!(said.sign(&eve, NOW).is_err());
        let signed = said.sign(&ann, NOW).unwrap();
        // Signed by eve in the name of ann, with the keys of eve and with those of ann.
        for keys in [eve.server_keys(), ann.server_keys()] {
            let mut forged = signed.clone();
            forged.remove("signatures");
            forged.insert("server_keys".to_owned(), CanonicalJsonValue::Object(keys.clone()));
            eve.sign_json(&mut forged).unwrap();
            assert!(Statement::verify(&forged, &said.name, NOW).is_err());
        }
        // True, but of another one.
        let other = MediaName::read(ann.server_name().as_str(), "abd").unwrap();
        assert!(Statement::verify(&signed, &other, NOW).is_err());
        let other = MediaName::read(eve.server_name().as_str(), "abc").unwrap();
        assert!(Statement::verify(&signed, &other, NOW).is_err());
    }

    #[test]
    fn what_was_changed_is_refused() {
        let ann = signer(1);
        let said = statement(&ann);
        let signed = said.sign(&ann, NOW).unwrap();
        for (field, value) in [
            ("hash", json!(URL_SAFE_NO_PAD.encode([8; 32]))),
            ("size", json!(13)),
            ("content_type", json!("text/html")),
            ("file_name", json!("cat.exe")),
            ("origin_server_ts", json!(NOW + 1)),
            ("format", json!("messagehub.media.2")),
            ("more", json!(1)),
        ] {
            let mut changed = signed.clone();
            changed.insert(field.to_owned(), to_canonical_value(value).unwrap());
            assert!(Statement::verify(&changed, &said.name, NOW).is_err(), "{field}");
        }
        for field in ["signatures", "server_keys", "hash", "size", "format"] {
            let mut changed = signed.clone();
            changed.remove(field);
            assert!(Statement::verify(&changed, &said.name, NOW).is_err(), "{field}");
        }
        // A key signs nothing that is younger than its certificate.
        let late = said.sign(&ann, NOW + LIFETIME_MS + 1).unwrap();
        assert!(Statement::verify(&late, &said.name, NOW + LIFETIME_MS + 1).is_err());
    }
}
