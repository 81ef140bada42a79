//! server_keys: the certificate by which a server vouches for its own keys (`docs/PROTOCOL.md` §2).
//!
//! It is the key object of the Server-Server API, signed by the identity key whose hash is the
//! server name. Where a copy came from proves nothing and costs nothing: [`VerifiedServerKeys`]
//! exists only once everything in it was checked against the name.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    canonical_json::to_canonical_value,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, PublicKeySet, sign_json, verify_json},
};
use serde::{Deserialize, Serialize};

use super::{
    ProtoError,
    delegation::{self, Delegation},
    json::{self, NESTING, Unsound},
    server_name,
    signer::{NamedKey, SecretKeys},
};

/// Longest validity of server_keys: 7 days.
pub const LIFETIME_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// New server_keys are issued when this much validity or less remains: 3 days.
pub const RENEW_BEFORE_MS: u64 = 3 * 24 * 60 * 60 * 1000;
/// How far the clock of another server may be ahead of ours: 5 minutes.
pub const CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;
/// Largest server_keys that are read, in bytes of canonical JSON.
pub const MAX_LEN: usize = 8 * 1024;
/// The id of the identity key, which signs nothing but server_keys.
pub(super) const IDENTITY: &str = "ed25519:identity";
/// Most PeerIds and most keys of a kind in one server_keys.
const MAX_ENTRIES: usize = 16;
/// Most mailboxes in one server_keys.
const MAX_MAILBOXES: usize = 3;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Key {
    key: Base64<Standard>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct OldKey {
    key: Base64<Standard>,
    expired_ts: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    server_name: OwnedServerName,
    identity_key: Base64<Standard>,
    verify_keys: BTreeMap<String, Key>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldKey>,
    #[serde(default)]
    encryption_keys: BTreeMap<String, Key>,
    peer_ids: Vec<String>,
    issued_ts: u64,
    valid_until_ts: u64,
    /// Where it is not the identity key that has signed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delegation: Option<CanonicalJsonObject>,
    /// In those that the identity key has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// Servers that keep what is sent to this one while it is off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mailboxes: Vec<OwnedServerName>,
}

impl Content {
    /// Checks who has signed, and returns the generation.
    fn check_signer(
        &self,
        json: &CanonicalJsonObject,
        identity: &[u8; 32],
    ) -> Result<u64, ProtoError> {
        let bad = |why: &str| ProtoError::BadServerKeys(why.to_owned());
        let check = |id: &str, key: &[u8]| {
            let keys = PublicKeySet::from([(id.to_owned(), Base64::new(key.to_vec()))]);
            let map = PublicKeyMap::from([(self.server_name.to_string(), keys)]);
            verify_json(&map, json).map_err(|error| ProtoError::BadServerKeys(error.to_string()))
        };
        let Some(delegation) = &self.delegation else {
            check(IDENTITY, identity)?;
            return Ok(self.generation.unwrap_or(0));
        };
        // Whoever is not the identity certifies its own key, and no other.
        let mut keys = self.verify_keys.iter();
        let (Some((id, key)), None) = (keys.next(), keys.next()) else {
            return Err(bad("with a delegation there is one verify key"));
        };
        let key = key.key.as_bytes();
        let public = key.try_into().map_err(|_| bad("the verify key is not 32 bytes long"))?;
        if *id != format!("ed25519:{}", key_name(public)) {
            return Err(bad("with a delegation the id of the verify key is its beginning"));
        }
        if !self.old_verify_keys.is_empty() || self.generation.is_some() {
            return Err(bad("old keys and generations are for the identity key to tell"));
        }
        check(id, key)?;
        let (server, issued_ts) = (&self.server_name, self.issued_ts);
        Ok(Delegation::verify(delegation, server, identity, key, issued_ts)?.generation)
    }
}

/// Returns the name of a verify key: the first 4 bytes of its public half in hexadecimal.
pub(super) fn verify_key_name(seed: &[u8; 32]) -> String {
    key_name(&SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

fn key_name(public: &[u8; 32]) -> String {
    public.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Issues server_keys: signed by the identity key, and by the verify key as the spec's key object
/// is. Valid for [`LIFETIME_MS`] from `now` (milliseconds).
pub fn issue(
    keys: &SecretKeys,
    peer_ids: &[String],
    now: u64,
) -> Result<CanonicalJsonObject, ProtoError> {
    let name = keys.server_name();
    let verify = SigningKey::from_bytes(&keys.verify).verifying_key().to_bytes();
    let secret = x25519_dalek::StaticSecret::from(keys.encryption);
    let encryption = x25519_dalek::PublicKey::from(&secret).to_bytes();
    let verify_name = key_name(&verify);
    let key = |public: [u8; 32]| Key { key: Base64::new(public.to_vec()) };
    let content = Content {
        server_name: name.clone(),
        identity_key: Base64::new(keys.identity_public().to_vec()),
        verify_keys: BTreeMap::from([(format!("ed25519:{verify_name}"), key(verify))]),
        old_verify_keys: BTreeMap::new(),
        encryption_keys: BTreeMap::from([(
            format!("x25519:{}", key_name(&encryption)),
            key(encryption),
        )]),
        peer_ids: peer_ids.to_vec(),
        issued_ts: now,
        valid_until_ts: now.saturating_add(LIFETIME_MS),
        delegation: None,
        generation: None,
        mailboxes: Vec::new(),
    };
    let malformed = |error: &dyn std::fmt::Display| ProtoError::malformed("server_keys", error);
    let CanonicalJsonValue::Object(mut object) =
        to_canonical_value(&content).map_err(|error| malformed(&error))?
    else {
        return Err(ProtoError::malformed("server_keys", "not an object"));
    };
    for (seed, key_name) in [(&keys.identity, "identity"), (&keys.verify, verify_name.as_str())] {
        sign_json(name.as_str(), &NamedKey::new(seed, key_name), &mut object)
            .map_err(|error| malformed(&error))?;
    }
    Ok(object)
}

/// server_keys whose signature, server name and lifetime were found to be right.
///
/// That they are still valid at some moment is asked of [`Self::is_live`] and [`Self::keys_at`].
#[derive(Debug, Clone)]
pub struct VerifiedServerKeys {
    content: Content,
    json: CanonicalJsonObject,
    text: String,
    generation: u64,
}

impl VerifiedServerKeys {
    /// Checks server_keys from anywhere. `now` is in milliseconds.
    pub fn verify(json: CanonicalJsonObject, now: u64) -> Result<Self, ProtoError> {
        let bad = |why: &str| ProtoError::BadServerKeys(why.to_owned());
        let text = serde_json::to_string(&json)
            .map_err(|error| ProtoError::malformed("server_keys", error))?;
        if text.len() > MAX_LEN {
            return Err(ProtoError::TooLarge {
                what: "server_keys",
                len: text.len(),
                limit: MAX_LEN,
            });
        }
        // They travel within events, and must not make those too deep.
        if json::nesting(&text) > NESTING {
            return Err(Unsound::TooDeep(NESTING).of("server_keys"));
        }
        let content: Content = serde_json::from_str(&text)
            .map_err(|error| ProtoError::malformed("server_keys", error))?;
        let identity: [u8; 32] = content
            .identity_key
            .as_bytes()
            .try_into()
            .map_err(|_| bad("the identity key is not 32 bytes long"))?;
        if !server_name::belongs_to(&content.server_name, &identity) {
            return Err(bad("the server name is not the CID of the identity key"));
        }
        let generation = content.check_signer(&json, &identity)?;
        if content.issued_ts > now.saturating_add(CLOCK_SKEW_MS) {
            let ahead = content.issued_ts.saturating_sub(now);
            return Err(ProtoError::KeysAhead(i64::try_from(ahead).unwrap_or(i64::MAX)));
        }
        match content.valid_until_ts.checked_sub(content.issued_ts) {
            Some(1..=LIFETIME_MS) => {}
            _ => return Err(bad("they are not valid for 7 days or less")),
        }
        let most =
            [content.peer_ids.len(), content.verify_keys.len(), content.old_verify_keys.len()];
        if most.iter().any(|entries| *entries > MAX_ENTRIES) {
            return Err(bad("they have too many entries"));
        }
        if content.mailboxes.len() > MAX_MAILBOXES {
            return Err(bad("they name more than 3 mailboxes"));
        }
        if content.mailboxes.iter().any(|name| server_name::digest(name).is_err()) {
            return Err(bad("a mailbox is no server name of this network"));
        }
        delegation::check_generation(generation, content.issued_ts)?;
        Ok(Self { content, json, text, generation })
    }

    /// Returns whose they are.
    pub fn server_name(&self) -> &ServerName {
        &self.content.server_name
    }

    /// Returns the JSON, to send on.
    pub fn json(&self) -> &CanonicalJsonObject {
        &self.json
    }

    /// Returns them as canonical JSON, as they go on events.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the ids of the verify keys that they are for, `ed25519:<id>`.
    pub fn verify_key_ids(&self) -> impl Iterator<Item = &str> {
        self.content.verify_keys.keys().map(String::as_str).filter(|id| *id != IDENTITY)
    }

    /// Tells whether a key, one of today or an old one, could sign for the server at `ts`.
    pub fn certifies(&self, key_id: &str, ts: u64) -> bool {
        let Content { verify_keys, old_verify_keys, valid_until_ts, .. } = &self.content;
        let today = verify_keys.contains_key(key_id) && ts <= *valid_until_ts;
        let before = || old_verify_keys.get(key_id).is_some_and(|old| ts <= old.expired_ts);
        key_id != IDENTITY && (today || before())
    }

    /// Returns when they were issued, in milliseconds. Newer ones supersede older ones.
    pub fn issued_ts(&self) -> u64 {
        self.content.issued_ts
    }

    /// Returns until when they are valid, in milliseconds.
    pub fn valid_until_ts(&self) -> u64 {
        self.content.valid_until_ts
    }

    /// Returns of which generation of nodes of the server they are; 0 where there is only one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the servers that keep what is sent to this one while it is off.
    pub fn mailboxes(&self) -> &[OwnedServerName] {
        &self.content.mailboxes
    }

    /// Returns the PeerIds that speak for the server, as text.
    pub fn peer_ids(&self) -> &[String] {
        &self.content.peer_ids
    }

    /// Tells whether they may be used for requests and connections now.
    pub fn is_live(&self, now: u64) -> bool {
        now <= self.content.valid_until_ts
    }

    /// Tells whether the libp2p node speaks for the server now.
    pub fn speaks(&self, peer_id: &str, now: u64) -> bool {
        self.is_live(now) && self.content.peer_ids.iter().any(|known| known == peer_id)
    }

    /// Returns the key that requests to the server are sealed to, if it names one.
    pub fn encryption_key(&self) -> Option<[u8; 32]> {
        let keys = self.content.encryption_keys.iter();
        let mut fitting = keys.filter(|(id, _)| id.starts_with("x25519:"));
        fitting.find_map(|(_, key)| key.key.as_bytes().try_into().ok())
    }

    /// Returns the keys that could sign for the server at `ts` (room version 5 and later: a key
    /// signs only what is not younger than `valid_until_ts`).
    pub fn keys_at(&self, ts: u64) -> PublicKeySet {
        let current = self.content.verify_keys.iter().filter(|_| ts <= self.content.valid_until_ts);
        let old = self.content.old_verify_keys.iter().filter(|(_, old)| ts <= old.expired_ts);
        current
            .map(|(id, key)| (id, &key.key))
            .chain(old.map(|(id, key)| (id, &key.key)))
            .filter(|(id, _)| *id != IDENTITY)
            .map(|(id, key)| (id.clone(), Base64::new(key.as_bytes().to_vec())))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    pub(crate) fn secret_keys(seed: u8) -> SecretKeys {
        SecretKeys {
            identity: [seed; 32],
            verify: [seed ^ 0x55; 32],
            encryption: [seed ^ 0xaa; 32],
        }
    }

    /// Signs server_keys with the identity key, whatever they say.
    pub(crate) fn sign(
        keys: &SecretKeys,
        json: &mut CanonicalJsonObject,
    ) -> Result<(), ProtoError> {
        json.remove("signatures");
        let identity = NamedKey::new(&keys.identity, "identity");
        sign_json(keys.server_name().as_str(), &identity, json)
            .map_err(|error| ProtoError::malformed("server_keys", error))
    }

    fn issued() -> CanonicalJsonObject {
        issue(&secret_keys(1), &["12D3KooWpeer".to_owned()], NOW).unwrap()
    }

    #[test]
    fn what_is_issued_verifies() {
        let keys = VerifiedServerKeys::verify(issued(), NOW).unwrap();
        assert_eq!(keys.server_name(), secret_keys(1).server_name());
        assert_eq!(keys.valid_until_ts() - keys.issued_ts(), LIFETIME_MS);
        assert!(keys.speaks("12D3KooWpeer", NOW + LIFETIME_MS));
        assert!(!keys.speaks("12D3KooWpeer", NOW + LIFETIME_MS + 1), "an old PeerId must die");
        assert!(!keys.speaks("12D3KooWother", NOW));
        assert_eq!(keys.keys_at(NOW).len(), 1);
        let secret = x25519_dalek::StaticSecret::from(secret_keys(1).encryption);
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        assert_eq!(keys.encryption_key(), Some(public));
        assert!(keys.keys_at(NOW + LIFETIME_MS + 1).is_empty(), "an expired key must not sign");
    }

    #[test]
    fn the_key_object_carries_the_signature_of_its_own_verify_key() {
        let json = issued();
        let keys = VerifiedServerKeys::verify(json.clone(), NOW).unwrap();
        let map = PublicKeyMap::from([(keys.server_name().to_string(), keys.keys_at(NOW))]);
        verify_json(&map, &json).unwrap();
    }

    #[test]
    fn anything_forged_is_refused() {
        type Forge = fn(&mut CanonicalJsonObject);
        let forgeries: [(&str, Forge); 6] = [
            ("another name", |json| {
                let name = secret_keys(2).server_name().to_string();
                json.insert("server_name".into(), CanonicalJsonValue::String(name));
            }),
            ("another identity", |json| {
                let key = Base64::<Standard>::new(secret_keys(2).identity_public().to_vec());
                json.insert("identity_key".into(), CanonicalJsonValue::String(key.encode()));
            }),
            ("another peer", |json| {
                let peers = vec![CanonicalJsonValue::String("12D3KooWevil".into())];
                json.insert("peer_ids".into(), CanonicalJsonValue::Array(peers));
            }),
            ("a longer life", |json| {
                let until = ruma::Int::new_saturating((NOW + LIFETIME_MS + 1) as i64);
                json.insert("valid_until_ts".into(), CanonicalJsonValue::Integer(until));
            }),
            ("no signature", |json| {
                json.remove("signatures");
            }),
            ("an unknown field of 8 KiB", |json| {
                json.insert("x".into(), CanonicalJsonValue::String("x".repeat(MAX_LEN)));
            }),
        ];
        for (what, forge) in forgeries {
            let mut json = issued();
            forge(&mut json);
            assert!(VerifiedServerKeys::verify(json, NOW).is_err(), "{what} was accepted");
        }
        assert!(
            VerifiedServerKeys::verify(issued(), NOW - CLOCK_SKEW_MS - 1).is_err(),
            "issued in the future"
        );
    }

    /// Recorded from a node of the first release.
    #[test]
    fn those_of_the_first_release_are_taken_and_are_of_the_first_generation() {
        let text = include_str!("../../tests/fixtures/wire-first-release/server_keys.json");
        let json: CanonicalJsonObject = serde_json::from_str(text).unwrap();
        let issued_ts = 1_795_780_457_094;
        let keys = VerifiedServerKeys::verify(json.clone(), issued_ts).unwrap();
        assert_eq!((keys.generation(), keys.mailboxes().len()), (0, 0));
        assert!(keys.speaks("12D3KooWHXNWmhiUstdHra3tqimy8giAGVX5mcqLK3pD722GHwTH", issued_ts));
        let ids: Vec<&str> = keys.verify_key_ids().collect();
        assert_eq!(ids, ["ed25519:d3908b80"]);
        assert_eq!(keys.text(), text.trim_end(), "what is handed on is what came");
        assert!(keys.encryption_key().is_some());
        let ours = issue(&secret_keys(1), &[], issued_ts).unwrap();
        assert_eq!(ours.keys().collect::<Vec<_>>(), json.keys().collect::<Vec<_>>());
    }

    #[test]
    fn mailboxes_are_three_servers_at_most() {
        let names: Vec<String> =
            (1..=4).map(|seed| secret_keys(seed).server_name().to_string()).collect();
        for (mailboxes, good) in [
            (serde_json::json!([]), true),
            (serde_json::json!(names[..3]), true),
            (serde_json::json!(names), false),
            (serde_json::json!(["example.org"]), false),
            (serde_json::json!([1]), false),
            (serde_json::json!("x"), false),
            (serde_json::json!(null), false),
        ] {
            let mut json = issued();
            json.insert("mailboxes".into(), mailboxes.clone().try_into().unwrap());
            sign(&secret_keys(1), &mut json).unwrap();
            let verified = VerifiedServerKeys::verify(json, NOW);
            assert_eq!(verified.is_ok(), good, "{mailboxes}: {verified:?}");
            if let Ok(keys) = verified {
                let found: Vec<&str> = keys.mailboxes().iter().map(|name| name.as_str()).collect();
                assert_eq!(serde_json::json!(found), mailboxes);
            }
        }
    }

    #[test]
    fn attack_08_nobody_gets_more_than_seven_days_even_by_signing_so() {
        let mut json = issued();
        let until = ruma::Int::new_saturating((NOW + LIFETIME_MS + 1) as i64);
        json.insert("valid_until_ts".into(), CanonicalJsonValue::Integer(until));
        sign(&secret_keys(1), &mut json).unwrap();
        assert!(VerifiedServerKeys::verify(json, NOW).is_err());
    }
}
