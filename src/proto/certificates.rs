//! What certifies the keys of a server: of each of its verify keys the newest server_keys
//! (`docs/PROTOCOL.md` §2). Pure.
//!
//! A server can have several nodes, each with a verify key of its own, and events live longer than
//! keys. So the newest server_keys of one key say nothing of another. Invariants: of one server there
//! are at most [`KEYS_MAX`] verify keys, those whose server_keys are the newest; an order in which
//! server_keys come makes no difference to what is left of them.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName, serde::Base64, signatures::PublicKeySet,
};
use serde::{Deserialize, de::IgnoredAny};

use super::{delegation, server_keys::VerifiedServerKeys, signer::Signer};

/// Most verify keys of one server whose server_keys are kept.
pub const KEYS_MAX: usize = 16;

/// The newest server_keys of each verify key of one server.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    by_key: BTreeMap<String, Arc<VerifiedServerKeys>>,
}

/// What [`Certificates::add`] changed: ids of verify keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Those that have other server_keys now.
    pub put: Vec<String>,
    /// Those that are gone, since there were too many.
    pub gone: Vec<String>,
}

/// Which of two count as the newer ones; of two from the same moment all nodes take the same.
fn rank(keys: &VerifiedServerKeys) -> (u64, u64, &str) {
    (keys.generation(), keys.issued_ts(), keys.text())
}

impl Certificates {
    /// Returns those of one server, of which others are left out.
    pub fn new(server: &ServerName, all: impl IntoIterator<Item = VerifiedServerKeys>) -> Self {
        let mut certificates = Self::default();
        for keys in all.into_iter().filter(|keys| keys.server_name() == server) {
            certificates.add(&Arc::new(keys));
        }
        certificates
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Returns of how many verify keys there are some.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Takes server_keys of the same server; older ones than those that are here change nothing.
    pub fn add(&mut self, keys: &Arc<VerifiedServerKeys>) -> Changed {
        let mut changed = Changed::default();
        for id in keys.verify_key_ids() {
            if self.by_key.get(id).is_none_or(|old| rank(old) < rank(keys)) {
                self.by_key.insert(id.to_owned(), Arc::clone(keys));
                changed.put.push(id.to_owned());
            }
        }
        while self.by_key.len() > KEYS_MAX {
            // Of equal ones the id decides, so that all nodes are left with the same.
            let ranked = self.by_key.iter().map(|(id, keys)| (rank(keys), id));
            let least = ranked.min().map(|(_, id)| id.clone());
            let Some(id) = least else { break };
            self.by_key.remove(&id);
            match changed.put.iter().position(|put| *put == id) {
                // It was here before only if it was replaced: then its old row has to go as well.
                Some(at) => changed.gone.push(changed.put.remove(at)),
                None => changed.gone.push(id),
            }
        }
        changed
    }

    /// Tells whether [`Self::add`] would change anything.
    pub fn lacks(&self, keys: &VerifiedServerKeys) -> bool {
        let is_newer = |id| self.by_key.get(id).is_none_or(|old| rank(old) < rank(keys));
        keys.verify_key_ids().any(is_newer)
    }

    /// Returns all, by the id of the verify key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<VerifiedServerKeys>)> {
        self.by_key.iter().map(|(id, keys)| (id.as_str(), keys))
    }

    /// Returns the newest ones, whichever key they are of.
    pub fn newest(&self) -> Option<&Arc<VerifiedServerKeys>> {
        self.by_key.values().max_by(|a, b| rank(a).cmp(&rank(b)))
    }

    /// Returns the newest ones of a verify key.
    pub fn newest_of(&self, key_id: &str) -> Option<&Arc<VerifiedServerKeys>> {
        self.by_key.get(key_id)
    }

    /// Returns those that are this very JSON.
    pub fn same(&self, json: &CanonicalJsonObject) -> Option<&Arc<VerifiedServerKeys>> {
        self.by_key.values().find(|keys| keys.json() == json)
    }

    /// Returns the highest generation of the server that is known; 0 where there is only one.
    pub fn generation(&self) -> u64 {
        self.newest().map_or(0, |keys| keys.generation())
    }

    /// Tells whether server_keys could certify anything that was dated so: those of a generation that is
    /// over certify what was said before the one of today, and nothing later.
    pub fn allow(&self, keys: &VerifiedServerKeys, ts: u64) -> bool {
        let highest = self.generation();
        keys.generation() >= highest || ts < delegation::began(highest)
    }

    /// Returns the keys that could sign for the server at `ts`.
    pub fn keys_at(&self, ts: u64) -> PublicKeySet {
        let mut found = PublicKeySet::new();
        // Those that say it of their own key come last, and count.
        for keys in self.by_key.values().filter(|keys| self.allow(keys, ts)) {
            found.extend(keys.keys_at(ts));
        }
        for (id, keys) in self.by_key.iter().filter(|(_, keys)| self.allow(keys, ts)) {
            let own = keys.keys_at(ts).remove(id);
            found.extend(own.map(|key: Base64| (id.clone(), key)));
        }
        found
    }

    /// Returns the server_keys by which one of these keys could sign at `ts`: the newest of the key,
    /// else the newest in which it is an old one.
    pub fn certifying<'i>(
        &self,
        key_ids: impl IntoIterator<Item = &'i str>,
        ts: u64,
    ) -> Option<&Arc<VerifiedServerKeys>> {
        let certifies =
            |keys: &VerifiedServerKeys, id: &str| keys.certifies(id, ts) && self.allow(keys, ts);
        key_ids.into_iter().find_map(|id| {
            let own = self.by_key.get(id).filter(|keys| certifies(keys, id));
            own.or_else(|| {
                let others = self.by_key.values().filter(|keys| certifies(keys, id));
                others.max_by(|a, b| rank(a).cmp(&rank(b)))
            })
        })
    }

    /// Tells whether the libp2p node speaks for the server now, by the server_keys of any of its keys.
    pub fn speaks(&self, peer_id: &str, now: u64) -> bool {
        let highest = self.generation();
        let live = self.by_key.values().filter(|keys| keys.generation() == highest);
        live.into_iter().any(|keys| keys.speaks(peer_id, now))
    }

    /// Returns the server_keys to put on an event of the server: those of the key that signed it, else
    /// the newest, of which whoever gets it may know more.
    pub fn of_event(&self, server: &ServerName, json: &str) -> Option<&Arc<VerifiedServerKeys>> {
        if self.by_key.len() < 2 {
            return self.newest();
        }
        let (key_ids, ts) = signed_by(server, json);
        self.certifying(key_ids.iter().map(String::as_str), ts).or_else(|| self.newest())
    }
}

/// Returns which keys of a server an event says to be signed by, and when.
fn signed_by(server: &ServerName, json: &str) -> (Vec<String>, u64) {
    #[derive(Deserialize)]
    struct Event {
        origin_server_ts: u64,
        signatures: HashMap<String, HashMap<String, IgnoredAny>>,
    }
    let Ok(mut event) = serde_json::from_str::<Event>(json) else { return (Vec::new(), 0) };
    let ids = event.signatures.remove(server.as_str()).unwrap_or_default();
    (ids.into_keys().collect(), event.origin_server_ts)
}

/// Returns the server_keys, as text, to put on an event that goes on the wire: the signer's on what it
/// signed, and what is `known` of others. None: nobody could verify it.
pub fn text_for<'a>(
    signer: &'a Signer,
    known: &'a HashMap<OwnedServerName, Certificates>,
    sender: &ServerName,
    json: &str,
) -> Option<&'a str> {
    let certificates = known.get(sender);
    if sender == signer.server_name() {
        let own = signer.verify_key_id();
        // Another node of this server may have signed it.
        let other = certificates
            .filter(|all| all.iter().any(|(id, _)| id != own))
            .filter(|_| !signed_by(sender, json).0.iter().any(|id| id == own));
        let Some(other) = other else { return Some(signer.server_keys_text()) };
        let keys = other.of_event(sender, json)?;
        return Some(keys.text());
    }
    Some(certificates?.of_event(sender, json)?.text())
}

/// server_keys of many servers, of which those that were not needed for longest give way.
#[derive(Debug)]
pub struct CertificateCache {
    servers: LruCache<OwnedServerName, Cached>,
    /// Of all servers together: identities cost nothing, and each may have many keys.
    total: usize,
    most: usize,
}

/// What is known of one server.
#[derive(Debug, Clone, Default)]
pub struct Cached {
    /// Its server_keys.
    pub certificates: Certificates,
    /// They are on disk.
    pub kept: bool,
}

impl CertificateCache {
    /// Makes one with a place for so many, of all servers together.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { servers: LruCache::new(most), total: 0, most: most.get() }
    }

    /// Returns what is known of a server.
    pub fn get(&mut self, server: &ServerName) -> Option<&Cached> {
        self.servers.get(server)
    }

    /// Returns the same, without it counting as needed.
    pub fn peek(&self, server: &ServerName) -> Option<&Cached> {
        self.servers.peek(server)
    }

    /// Changes what is known of a server.
    pub fn change<T>(&mut self, server: &ServerName, change: impl FnOnce(&mut Cached) -> T) -> T {
        let mut cached = self.servers.pop(server).unwrap_or_default();
        let before = cached.certificates.len();
        let done = change(&mut cached);
        let after = cached.certificates.len();
        self.total = self.total.saturating_sub(before).saturating_add(after);
        let mut gone = self.servers.push(server.to_owned(), cached);
        loop {
            let len = gone.map_or(0, |(_, cached)| cached.certificates.len());
            self.total = self.total.saturating_sub(len);
            if self.total <= self.most || self.servers.len() < 2 {
                return done;
            }
            gone = self.servers.pop_lru();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::{
        server_keys::{LIFETIME_MS, issue, tests::secret_keys},
        signer::SecretKeys,
    };

    const NOW: u64 = 1_790_000_000_000;

    /// The keys of a node of the server of `seed`: each has its own, but for the identity.
    pub(crate) fn node_keys(seed: u8, node: u8) -> SecretKeys {
        SecretKeys { identity: [seed; 32], ..secret_keys(seed.wrapping_add(node.wrapping_mul(3))) }
    }

    pub(crate) fn issued_by(keys: &SecretKeys, peers: &[&str], at: u64) -> VerifiedServerKeys {
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        VerifiedServerKeys::verify(issue(keys, &peers, at).unwrap(), at).unwrap()
    }

    fn id_of(keys: &VerifiedServerKeys) -> String {
        keys.verify_key_ids().next().unwrap().to_owned()
    }

    #[test]
    fn each_verify_key_has_its_own_newest_and_the_order_is_no_matter() {
        let server = secret_keys(1).server_name();
        let (one, two) = (node_keys(1, 1), node_keys(1, 2));
        let all = [
            issued_by(&one, &["1"], NOW - 5),
            issued_by(&one, &["1"], NOW),
            issued_by(&two, &["2"], NOW - 1),
            issued_by(&two, &["2b"], NOW - 3),
        ];
        let mut backwards = all.clone();
        backwards.reverse();
        for all in [all, backwards] {
            let certificates = Certificates::new(&server, all);
            assert_eq!(certificates.len(), 2);
            assert_eq!(certificates.newest().unwrap().issued_ts(), NOW);
            for (peer, speaks) in [("1", true), ("2", true), ("2b", false), ("3", false)] {
                assert_eq!(certificates.speaks(peer, NOW), speaks, "{peer}");
                assert!(!certificates.speaks(peer, NOW + LIFETIME_MS + 1));
            }
            assert_eq!(certificates.keys_at(NOW).len(), 2);
        }
        let stranger = issued_by(&node_keys(2, 1), &["1"], NOW);
        assert!(Certificates::new(&server, [stranger]).is_empty(), "of another server");
    }

    #[test]
    fn attack_13_a_server_has_sixteen_keys_at_most_and_old_ones_push_none_out() {
        let server = secret_keys(1).server_name();
        let keys = |node: u8| issued_by(&node_keys(1, node), &["p"], NOW + u64::from(node));
        let mut certificates = Certificates::new(&server, (10..10 + KEYS_MAX as u8).map(keys));
        assert_eq!(certificates.len(), KEYS_MAX);
        let old = keys(1);
        let changed = certificates.add(&Arc::new(old.clone()));
        assert_eq!(changed, Changed { put: Vec::new(), gone: vec![id_of(&old)] });
        assert!(certificates.newest_of(&id_of(&old)).is_none());
        let new = keys(60);
        let changed = certificates.add(&Arc::new(new.clone()));
        assert_eq!(changed, Changed { put: vec![id_of(&new)], gone: vec![id_of(&keys(10))] });
        assert!(!certificates.lacks(&new));
        assert_eq!(certificates.len(), KEYS_MAX);
    }

    #[test]
    fn an_event_gets_the_server_keys_of_the_key_that_signed_it() {
        let server = secret_keys(1).server_name();
        let nodes = [node_keys(1, 1), node_keys(1, 2)];
        let signers = nodes.clone().map(|keys| Signer::new(&keys, &[], NOW).unwrap());
        let all = nodes.map(|keys| issued_by(&keys, &[], NOW));
        let known =
            HashMap::from([(server.clone(), Certificates::new(&server, all.iter().cloned()))]);
        let event = |key_id: &str| {
            format!(
                r#"{{"origin_server_ts":{NOW},"signatures":{{"{server}":{{"{key_id}":"x"}}}}}}"#
            )
        };
        let stranger = Signer::new(&secret_keys(9), &[], NOW).unwrap();
        for keys in &all {
            let json = event(&id_of(keys));
            for signer in signers.iter().chain([&stranger]) {
                assert_eq!(text_for(signer, &known, &server, &json), Some(keys.text()));
            }
        }
        // Of who knows no other node it is the signer's; of a key that nobody knows, the newest.
        let none = HashMap::new();
        let own = Some(signers[0].server_keys_text());
        assert_eq!(text_for(&signers[0], &none, &server, &event(&id_of(&all[1]))), own);
        assert_eq!(text_for(&stranger, &none, &server, &event("ed25519:x")), None);
        assert!(text_for(&stranger, &known, &server, &event("ed25519:x")).is_some());
    }

    #[test]
    fn attack_13_servers_with_many_keys_take_no_more_places_than_others() {
        let mut cache = CertificateCache::new(NonZeroUsize::new(20).unwrap());
        for seed in 1..=10 {
            for node in 1..=5 {
                let keys = Arc::new(issued_by(&node_keys(seed, node), &[], NOW));
                let server = keys.server_name().to_owned();
                cache.change(&server, |cached| cached.certificates.add(&keys));
            }
        }
        assert_eq!((cache.total, cache.servers.len()), (20, 4));
        assert!(cache.peek(&secret_keys(10).server_name()).is_some());
        assert!(cache.get(&secret_keys(6).server_name()).is_none());
    }
}
