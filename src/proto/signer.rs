//! The keys of this node as those who sign use them.
//!
//! A [`Signer`] is a value: Identity makes one whenever server_keys are issued and hands it to
//! whoever signs, so signing an event crosses no thread.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{
    AnyKeyName, CanonicalJsonObject, OwnedServerName, OwnedSigningKeyId, UserId,
    room_version_rules::RedactionRules,
    signatures::{KeyPair, Signature, hash_and_sign_event, sign_event, sign_json},
};

use super::{
    ProtoError,
    sealed::{self, AnswerSealer, OpeningKey, Parcel},
    server_keys, server_name,
};

/// The secret halves of a node's keys: 32-byte seeds.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKeys {
    /// Ed25519 seed of the identity key, whose public half names the server. Kept for good.
    pub identity: [u8; 32],
    /// Ed25519 seed of the verify key, which signs events and requests.
    pub verify: [u8; 32],
    /// X25519 secret that others seal to.
    pub encryption: [u8; 32],
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKeys(..)")
    }
}

impl SecretKeys {
    /// Returns the public identity key.
    pub fn identity_public(&self) -> [u8; 32] {
        SigningKey::from_bytes(&self.identity).verifying_key().to_bytes()
    }

    /// Returns the server name that the identity key gives.
    pub fn server_name(&self) -> OwnedServerName {
        server_name::from_identity_key(&self.identity_public())
    }
}

/// One Ed25519 key under its id, for ruma to sign with.
pub(in crate::proto) struct NamedKey {
    key: SigningKey,
    id: OwnedSigningKeyId<AnyKeyName>,
}

impl NamedKey {
    /// Names a seed `ed25519:<name>`.
    pub(super) fn new(seed: &[u8; 32], name: &str) -> Self {
        let id = OwnedSigningKeyId::try_from(format!("ed25519:{name}"))
            .unwrap_or_else(|_| unreachable!("key names here are hexadecimal or `identity`"));
        Self { key: SigningKey::from_bytes(seed), id }
    }
}

impl KeyPair for NamedKey {
    fn sign(&self, message: &[u8]) -> Signature {
        Signature::new(self.id.clone(), self.key.sign(message).to_bytes().to_vec())
    }
}

/// Signs as this server, and carries the server_keys that prove it.
pub struct Signer {
    server_name: OwnedServerName,
    verify: NamedKey,
    verify_key_id: String,
    /// That of today first.
    opening: Vec<OpeningKey>,
    server_keys: CanonicalJsonObject,
    server_keys_text: String,
}

/// Who says an event: a user of this server, for whom the server signs.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    user_id: &'a UserId,
    signer: &'a Signer,
}

impl<'a> Author<'a> {
    /// Returns the user.
    pub fn user_id(&self) -> &'a UserId {
        self.user_id
    }

    /// Returns who signs.
    pub fn signer(&self) -> &'a Signer {
        self.signer
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Signer {
    /// Makes the signer of `keys` and issues the server_keys that it carries.
    ///
    /// `peer_ids` are the libp2p nodes that speak for the server; `now` is in milliseconds.
    pub fn new(keys: &SecretKeys, peer_ids: &[String], now: u64) -> Result<Self, ProtoError> {
        let server_name = keys.server_name();
        let server_keys = server_keys::issue(keys, peer_ids, now)?;
        let verify = NamedKey::new(&keys.verify, &server_keys::verify_key_name(&keys.verify));
        Ok(Self {
            verify_key_id: verify.id.to_string(),
            verify,
            opening: OpeningKey::new(&keys.encryption).into_iter().collect(),
            server_keys_text: serde_json::to_string(&server_keys)
                .map_err(|error| ProtoError::malformed("server_keys", error))?,
            server_keys,
            server_name,
        })
    }

    /// Adds keys of before: what was sealed to them is still opened.
    pub fn opening_with(mut self, former: &[[u8; 32]]) -> Self {
        self.opening.extend(former.iter().filter_map(OpeningKey::new));
        self
    }

    /// Returns the name of this server.
    pub fn server_name(&self) -> &OwnedServerName {
        &self.server_name
    }

    /// Returns the id of the verify key, `ed25519:<id>`.
    pub fn verify_key_id(&self) -> &str {
        &self.verify_key_id
    }

    /// Returns the server_keys that certify the key this signs with.
    pub fn server_keys(&self) -> &CanonicalJsonObject {
        &self.server_keys
    }

    /// Returns them as canonical JSON, as they go on events.
    pub fn server_keys_text(&self) -> &str {
        &self.server_keys_text
    }

    /// Adds content hash and signature to an event that this server composed.
    pub fn hash_and_sign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Result<(), ProtoError> {
        hash_and_sign_event(self.server_name.as_str(), &self.verify, event, rules)
            .map_err(|error| ProtoError::malformed("event", error))
    }

    /// Returns a user of this server as the author of events.
    pub fn author<'a>(&'a self, user_id: &'a UserId) -> Result<Author<'a>, ProtoError> {
        if user_id.server_name() != self.server_name {
            return Err(ProtoError::BadSignature(format!(
                "{} does not speak for {user_id}",
                self.server_name
            )));
        }
        Ok(Author { user_id, signer: self })
    }

    /// Adds our signature to an event of somebody else (an invite that we accept to hold).
    pub fn countersign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Result<(), ProtoError> {
        sign_event(self.server_name.as_str(), &self.verify, event, rules)
            .map_err(|error| ProtoError::malformed("event", error))
    }

    /// Opens a request that was sealed to this server: its bytes, and what its answer is to be
    /// sealed with. `now` is in milliseconds.
    pub fn unseal(&self, parcel: &Parcel, now: u64) -> Result<(Vec<u8>, AnswerSealer), ProtoError> {
        sealed::open(parcel, &self.server_name, &self.opening, now)
    }

    /// Adds our signature to a JSON object.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), ProtoError> {
        sign_json(self.server_name.as_str(), &self.verify, object)
            .map_err(|error| ProtoError::malformed("object", error))
    }
}

#[cfg(test)]
impl Signer {
    /// Returns the user of tests with one user a server.
    pub fn user_id(&self) -> &'static ruma::OwnedUserId {
        Box::leak(Box::new(server_name::user_of(&self.server_name)))
    }

    /// Returns him as the author of events.
    pub fn owner(&self) -> Author<'_> {
        Author { user_id: self.user_id(), signer: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::server_keys::tests::secret_keys;

    #[test]
    fn a_signer_speaks_for_all_users_of_its_server_and_for_no_other() {
        let signer = Signer::new(&secret_keys(1), &[], 1_790_000_000_000).unwrap();
        let server = signer.server_name();
        let bob = UserId::parse(format!("@bob:{server}")).unwrap();
        assert_eq!(signer.author(&bob).unwrap().user_id(), bob);
        assert_eq!(signer.owner().user_id(), signer.user_id());
        let other = UserId::parse(format!("@bob:{server}.org")).unwrap();
        assert!(signer.author(&other).is_err());
    }
}
