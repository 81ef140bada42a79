//! Delegations: by one, the identity key lets a node of its server issue server_keys with its verify key
//! alone (`docs/PROTOCOL.md` §2). And generations: by a higher one, the identity key ends all nodes that
//! are not of it.
//!
//! Pure. Nobody issues delegations so far; everybody understands them. Invariants: only the identity key
//! delegates, so what is delegated cannot be handed further; a generation is a time that has come.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde::Deserialize;

use super::{
    ProtoError,
    server_keys::{CLOCK_SKEW_MS, IDENTITY, VerifiedServerKeys},
};

/// Longest time for which a delegation may still be good when server_keys are issued by it: 400 days.
pub const DELEGATED_MS: u64 = 400 * 24 * 60 * 60 * 1000;
/// Most servers that share no room with ours whose generations are remembered.
const GENERATIONS_MAX: usize = 4096;

/// What the identity key lets a verify key do. The signatures beside it were found to be right.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Delegation {
    server_name: OwnedServerName,
    verify_key: Base64<Standard>,
    /// Seconds since 1970 when this generation of nodes was begun.
    pub(super) generation: u64,
    valid_until_ts: u64,
}

fn bad(why: &str) -> ProtoError {
    ProtoError::BadServerKeys(format!("delegation: {why}"))
}

impl Delegation {
    /// Checks the delegation in the server_keys of a server: that the identity key has signed it, and
    /// that it is for the verify key and the moment.
    pub(super) fn verify(
        json: &CanonicalJsonObject,
        server: &ServerName,
        identity: &[u8; 32],
        verify_key: &[u8],
        issued_ts: u64,
    ) -> Result<Self, ProtoError> {
        let value = CanonicalJsonValue::Object(json.clone());
        let delegation: Self = serde_json::from_value(value.into())
            .map_err(|error| ProtoError::malformed("delegation", error))?;
        if delegation.server_name != server {
            return Err(bad("it is of another server"));
        }
        // The identity key and no other, so that nobody hands on what was delegated to them.
        let keys = PublicKeySet::from([(IDENTITY.to_owned(), Base64::new(identity.to_vec()))]);
        let map = PublicKeyMap::from([(server.to_string(), keys)]);
        verify_json(&map, json).map_err(|error| bad(&error.to_string()))?;
        if delegation.verify_key.as_bytes() != verify_key {
            return Err(bad("it is for another verify key"));
        }
        let Some(left) = delegation.valid_until_ts.checked_sub(issued_ts) else {
            return Err(bad("it was over when they were issued"));
        };
        if left > DELEGATED_MS {
            return Err(bad("it is valid for more than 400 days"));
        }
        Ok(delegation)
    }
}

/// Returns when a generation began, in milliseconds.
pub(super) fn began(generation: u64) -> u64 {
    generation.saturating_mul(1000)
}

/// Checks that a generation had begun when server_keys of it were issued. One from the future would end
/// all others, and for good.
pub(super) fn check_generation(generation: u64, issued_ts: u64) -> Result<(), ProtoError> {
    if began(generation) > issued_ts.saturating_add(CLOCK_SKEW_MS) {
        return Err(ProtoError::BadServerKeys("their generation has not begun".to_owned()));
    }
    Ok(())
}

/// Returns the generation of server_keys that were verified before, such as those from the Store.
pub fn stored_generation(json: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Generation {
        generation: u64,
    }
    #[derive(Deserialize)]
    struct ServerKeys {
        delegation: Option<Generation>,
        generation: Option<u64>,
    }
    let read = serde_json::from_slice::<ServerKeys>(json).ok();
    let read = read.and_then(|keys| {
        keys.delegation.map(|delegation| delegation.generation).or(keys.generation)
    });
    read.unwrap_or(0)
}

/// The highest generation of each server of which one is known. A server without has none but 0.
#[derive(Debug, Clone, Default)]
pub struct Generations {
    highest: Arc<HashMap<OwnedServerName, u64>>,
}

impl Generations {
    /// Notes the generation of a server, which is remembered in any case if it is `kept`; returns whether
    /// anything changed.
    pub fn note(&mut self, server: &ServerName, generation: u64, kept: bool) -> bool {
        if generation <= self.highest.get(server).copied().unwrap_or(0) {
            return false;
        }
        let full = self.highest.len() >= GENERATIONS_MAX;
        match Arc::make_mut(&mut self.highest).entry(server.to_owned()) {
            Entry::Occupied(mut known) => {
                known.insert(generation);
            }
            // Identities cost nothing.
            Entry::Vacant(_) if full && !kept => return false,
            Entry::Vacant(place) => {
                place.insert(generation);
            }
        }
        true
    }

    /// Tells whether server_keys may be used for requests and connections: they are of the highest
    /// generation of their server that is known.
    pub fn admit(&self, keys: &VerifiedServerKeys) -> bool {
        let highest = self.highest.get(keys.server_name()).copied().unwrap_or(0);
        keys.generation() >= highest
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ed25519_dalek::SigningKey;
    use ruma::signatures::sign_json;
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::{
        certificates::{Certificates, tests::node_keys},
        server_keys::{LIFETIME_MS, issue, tests::sign},
        signer::{NamedKey, SecretKeys},
    };

    const NOW: u64 = 1_790_000_000_000;
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    const GENERATION: u64 = NOW / 1000 - 1000;

    fn object(value: Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    fn signed(keys: &SecretKeys, seed: &[u8; 32], id: &str, value: Value) -> CanonicalJsonObject {
        let mut object = object(value);
        sign_json(keys.server_name().as_str(), &NamedKey::new(seed, id), &mut object).unwrap();
        object
    }

    fn public(seed: &[u8; 32]) -> String {
        Base64::<Standard>::new(SigningKey::from_bytes(seed).verifying_key().to_bytes().to_vec())
            .encode()
    }

    /// What a delegation says, before it is signed.
    fn saying(keys: &SecretKeys, generation: u64, valid_until_ts: u64) -> Value {
        json!({
            "server_name": keys.server_name(),
            "verify_key": public(&keys.verify),
            "generation": generation,
            "valid_until_ts": valid_until_ts,
        })
    }

    /// server_keys of a node with a delegation, changed before the node signs them.
    fn issued_with(
        keys: &SecretKeys,
        delegation: &CanonicalJsonObject,
        at: u64,
        change: impl FnOnce(&mut CanonicalJsonObject),
    ) -> CanonicalJsonObject {
        let mut object = issue(keys, &["peer".to_owned()], at).unwrap();
        object.remove("signatures");
        object.insert("delegation".into(), CanonicalJsonValue::Object(delegation.clone()));
        change(&mut object);
        let id = format!("ed25519:{}", crate::proto::server_keys::verify_key_name(&keys.verify));
        let name = id.strip_prefix("ed25519:").unwrap();
        let key = NamedKey::new(&keys.verify, name);
        sign_json(keys.server_name().as_str(), &key, &mut object).unwrap();
        object
    }

    pub(crate) fn delegated(keys: &SecretKeys, generation: u64, at: u64) -> VerifiedServerKeys {
        let said = saying(keys, generation, at + 100 * DAY_MS);
        let delegation = signed(keys, &keys.identity, "identity", said);
        VerifiedServerKeys::verify(issued_with(keys, &delegation, at, |_| {}), at).unwrap()
    }

    /// server_keys that the identity key signed, of a generation.
    pub(crate) fn of_generation(keys: &SecretKeys, generation: u64, at: u64) -> VerifiedServerKeys {
        let mut object = issue(keys, &["peer".to_owned()], at).unwrap();
        object.insert("generation".into(), json!(generation).try_into().unwrap());
        sign(keys, &mut object).unwrap();
        VerifiedServerKeys::verify(object, at).unwrap()
    }

    #[test]
    fn a_delegated_node_issues_its_own_server_keys() {
        let keys = node_keys(1, 2);
        let found = delegated(&keys, GENERATION, NOW);
        assert_eq!(found.generation(), GENERATION);
        assert!(found.speaks("peer", NOW));
        assert_eq!(found.keys_at(NOW).len(), 1);
        let until = signed(
            &keys,
            &keys.identity,
            "identity",
            saying(&keys, GENERATION, NOW + DELEGATED_MS),
        );
        assert!(VerifiedServerKeys::verify(issued_with(&keys, &until, NOW, |_| {}), NOW).is_ok());
        let bytes = serde_json::to_vec(found.json()).unwrap();
        assert_eq!(stored_generation(&bytes), GENERATION);
        let own = of_generation(&keys, GENERATION, NOW);
        assert_eq!(stored_generation(&serde_json::to_vec(own.json()).unwrap()), GENERATION);
        assert_eq!(stored_generation(b"{}"), 0);
    }

    #[test]
    fn attack_05_nobody_but_the_identity_key_delegates_and_only_what_it_says() {
        let (keys, other, stranger) = (node_keys(1, 2), node_keys(1, 3), node_keys(2, 2));
        let good = saying(&keys, GENERATION, NOW + DAY_MS);
        let by_identity = |said: Value| signed(&keys, &keys.identity, "identity", said);
        let change = |field: &str, value: Value| {
            let mut said = good.clone();
            said[field] = value;
            by_identity(said)
        };
        let without = |field: &str| {
            let mut said = good.clone();
            said.as_object_mut().unwrap().remove(field);
            by_identity(said)
        };
        let name = "identity";
        let delegations = [
            ("signed by a stranger", signed(&keys, &stranger.identity, name, good.clone())),
            ("signed by a delegated key", signed(&keys, &other.verify, name, good.clone())),
            (
                "signed by a delegated key in its own name",
                signed(&keys, &other.verify, "12345678", good.clone()),
            ),
            ("not signed", object(good.clone())),
            ("of another server", change("server_name", json!(stranger.server_name()))),
            ("for another verify key", change("verify_key", json!(public(&other.verify)))),
            ("over", change("valid_until_ts", json!(NOW - 1))),
            ("longer than 400 days", change("valid_until_ts", json!(NOW + DELEGATED_MS + 1))),
            ("of a generation to come", change("generation", json!(NOW / 1000 + 301))),
            ("of the last generation ever", change("generation", json!(9_007_199_254_740_991_u64))),
            ("of a generation below zero", change("generation", json!(-1))),
            ("without a generation", without("generation")),
            ("without an end", without("valid_until_ts")),
            ("without a key", without("verify_key")),
        ];
        for (what, delegation) in &delegations {
            let issued = issued_with(&keys, delegation, NOW, |_| {});
            let refused = VerifiedServerKeys::verify(issued, NOW);
            assert!(refused.is_err(), "{what}");
        }

        type Change = fn(&mut CanonicalJsonObject);
        let delegation = by_identity(good.clone());
        let changes: [(&str, bool, Change); 7] = [
            ("as it should be", true, |_| {}),
            ("a second verify key", false, |keys| {
                let Some(CanonicalJsonValue::Object(verify)) = keys.get_mut("verify_keys") else {
                    panic!()
                };
                let key = verify.values().next().unwrap().clone();
                verify.insert("ed25519:00000000".into(), key);
            }),
            ("a key under another id", false, |keys| {
                let Some(CanonicalJsonValue::Object(verify)) = keys.get_mut("verify_keys") else {
                    panic!()
                };
                let (_, key) = verify.pop_first().unwrap();
                verify.insert("ed25519:00000000".into(), key);
            }),
            ("an old key", false, |keys| {
                let old = json!({"ed25519:1": {"key": "AAAA", "expired_ts": 1}});
                keys.insert("old_verify_keys".into(), old.try_into().unwrap());
            }),
            ("a generation of its own", false, |keys| {
                keys.insert("generation".into(), json!(GENERATION + 1).try_into().unwrap());
            }),
            ("no delegation", false, |keys| {
                keys.remove("delegation");
            }),
            ("a delegation that is none", false, |keys| {
                keys.insert("delegation".into(), json!("yes").try_into().unwrap());
            }),
        ];
        for (what, good, change) in changes {
            let issued = issued_with(&keys, &delegation, NOW, change);
            assert_eq!(VerifiedServerKeys::verify(issued, NOW).is_ok(), good, "{what}");
        }
        let unsigned = {
            let mut issued = issued_with(&keys, &delegation, NOW, |_| {});
            issued.remove("signatures");
            issued
        };
        assert!(VerifiedServerKeys::verify(unsigned, NOW).is_err());
    }

    #[test]
    fn attack_08_a_higher_generation_ends_what_was_stolen_and_history_stays() {
        let (ours, thief) = (node_keys(1, 1), node_keys(1, 2));
        let server = ours.server_name();
        let stolen = delegated(&thief, GENERATION, NOW);
        let raised = GENERATION + 500;
        let newer = of_generation(&ours, raised, NOW);
        // Whatever the order, and however new what the thief issues.
        let later = delegated(&thief, GENERATION, NOW + DAY_MS);
        for all in [
            vec![stolen.clone(), newer.clone(), later.clone()],
            vec![later.clone(), newer.clone()],
            vec![newer.clone(), later.clone(), stolen.clone()],
        ] {
            let known = Certificates::new(&server, all);
            let thief_id = stolen.verify_key_ids().next().unwrap();
            let signs = |ts| known.keys_at(ts).contains_key(thief_id);
            assert!(signs(raised * 1000 - 1), "what was said before stays verifiable");
            assert!(!signs(raised * 1000) && !signs(NOW), "nothing later does");
            assert!(known.certifying([thief_id], raised * 1000 - 1).is_some());
            assert!(known.certifying([thief_id], raised * 1000).is_none());
            assert_eq!(known.newest().unwrap().text(), newer.text());
            assert_eq!(known.generation(), raised);
        }
        // Of one key, the generation counts before the date.
        let mut known = Certificates::new(&server, [of_generation(&ours, raised, NOW)]);
        let back = Arc::new(of_generation(&ours, GENERATION, NOW + 1000));
        assert!(!known.lacks(&back));
        known.add(&back);
        assert_eq!(known.generation(), raised);
        // Its PeerIds are dead with it.
        let known = Certificates::new(&server, [stolen.clone()]);
        assert!(known.speaks("peer", NOW));
        let other = {
            let mut object = issue(&ours, &["ours".to_owned()], NOW).unwrap();
            object.insert("generation".into(), json!(raised).try_into().unwrap());
            sign(&ours, &mut object).unwrap();
            VerifiedServerKeys::verify(object, NOW).unwrap()
        };
        let known = Certificates::new(&server, [stolen.clone(), other]);
        assert!(!known.speaks("peer", NOW) && known.speaks("ours", NOW));

        let mut generations = Generations::default();
        assert!(generations.admit(&stolen));
        assert!(generations.note(&server, raised, true));
        assert!(!generations.note(&server, GENERATION, true), "it never goes back");
        assert!(!generations.admit(&stolen) && generations.admit(&newer));
    }

    #[test]
    fn attack_13_strangers_fill_no_memory_with_generations_and_hide_no_friends() {
        let mut generations = Generations::default();
        let name = |n: usize| OwnedServerName::try_from(format!("s{n}.org")).unwrap();
        (0..2 * GENERATIONS_MAX).for_each(|n| {
            generations.note(&name(n), 1, false);
        });
        assert_eq!(generations.highest.len(), GENERATIONS_MAX);
        let friend = delegated(&node_keys(1, 2), GENERATION, NOW);
        assert!(generations.note(friend.server_name(), GENERATION + 1, true));
        assert!(!generations.admit(&friend));
    }

    /// The vectors of `tests/fixtures/delegation.json`: server_keys, and whether they are accepted.
    /// `tests/fixtures/make` writes the file anew.
    #[test]
    fn the_vectors_come_out_as_they_are_in_the_file() {
        let (keys, other) = (node_keys(1, 2), node_keys(1, 3));
        let said = |generation, until| saying(&keys, generation, until);
        let by = |seed: &[u8; 32], said| signed(&keys, seed, "identity", said);
        let good = said(GENERATION, NOW + LIFETIME_MS);
        let mut of_other = good.clone();
        of_other["verify_key"] = json!(public(&other.verify));
        let cases = [
            ("delegated", by(&keys.identity, good.clone())),
            ("delegated by another key", by(&other.verify, good.clone())),
            ("delegated to another key", by(&keys.identity, of_other)),
            ("delegated until a moment ago", by(&keys.identity, said(GENERATION, NOW - 1))),
            (
                "delegated for too long",
                by(&keys.identity, said(GENERATION, NOW + DELEGATED_MS + 1)),
            ),
            (
                "of a generation to come",
                by(&keys.identity, said(NOW / 1000 + 301, NOW + LIFETIME_MS)),
            ),
        ];
        let vector = |what: &str, server_keys: CanonicalJsonObject| {
            let accepted = VerifiedServerKeys::verify(server_keys.clone(), NOW).is_ok();
            json!({"what": what, "now": NOW, "accepted": accepted, "server_keys": server_keys})
        };
        let mut vectors: Vec<Value> = cases
            .into_iter()
            .map(|(what, delegation)| vector(what, issued_with(&keys, &delegation, NOW, |_| {})))
            .collect();
        let mailboxes = |n: u8| {
            let names: Vec<_> = (1..=n).map(|seed| node_keys(seed, 1).server_name()).collect();
            let mut object = issue(&keys, &["peer".to_owned()], NOW).unwrap();
            object.insert("mailboxes".into(), json!(names).try_into().unwrap());
            sign(&keys, &mut object).unwrap();
            object
        };
        vectors.push(vector("with three mailboxes", mailboxes(3)));
        vectors.push(vector("with four mailboxes", mailboxes(4)));
        let raised = of_generation(&keys, GENERATION, NOW).json().clone();
        vectors.push(vector("of a generation", raised));
        let accepted: Vec<bool> =
            vectors.iter().map(|vector| vector["accepted"] == json!(true)).collect();
        let wanted = [true, false, false, false, false, false, true, false, true];
        assert_eq!(accepted, wanted);
        crate::proto::fixtures::check("delegation.json", &json!(vectors));
    }
}
