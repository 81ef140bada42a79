//! Identity with a Store that only remembers.

use actix::Addr;

use super::*;
use crate::{
    actors::store::{self, StoreActor},
    proto::{
        certificates::{
            KEYS_MAX,
            tests::{issued_by, node_keys},
        },
        delegation::tests::of_generation,
        sealed,
        server_keys::{issue, tests::secret_keys},
        signer::SecretKeys,
    },
};

fn keys(seed: u8, issued_ts: u64) -> VerifiedServerKeys {
    let json = issue(&secret_keys(seed), &["peer".to_owned()], issued_ts).unwrap();
    VerifiedServerKeys::verify(json, now_ms()).unwrap()
}

/// What is in memory, and what is on disk: when each was issued.
async fn known(
    identity: &Addr<IdentityActor>,
    store: &Addr<StoreActor>,
    seed: u8,
) -> (Option<u64>, Option<u64>) {
    let server = secret_keys(seed).server_name();
    let found = identity.send(FindServerKeys(vec![server.clone()])).await.unwrap();
    let stored = read_stored(store.clone().recipient(), server.clone()).await;
    let stored = stored.iter().map(VerifiedServerKeys::issued_ts).max();
    (found.get(&server).and_then(|known| Some(known.newest()?.issued_ts())), stored)
}

/// Keeps what it is told.
#[derive(Default)]
struct Node(Vec<UsedElsewhere>);

impl Actor for Node {
    type Context = Context<Self>;
}

impl Handler<UsedElsewhere> for Node {
    type Result = ();

    fn handle(&mut self, msg: UsedElsewhere, _: &mut Self::Context) {
        self.0.push(msg);
    }
}

#[derive(actix::Message)]
#[rtype(result = "usize")]
struct Told;

impl Handler<Told> for Node {
    type Result = usize;

    fn handle(&mut self, _: Told, _: &mut Self::Context) -> usize {
        self.0.len()
    }
}

fn parts(data: &Path, store: &Addr<StoreActor>, node: &Addr<Node>) -> IdentityParts {
    IdentityParts {
        data: data.to_owned(),
        peer_id: "peer".to_owned(),
        read: store.clone().recipient(),
        scan: store.clone().recipient(),
        write: store.clone().recipient(),
        name_owner: store.clone().recipient(),
        used_elsewhere: node.clone().recipient(),
    }
}

async fn start(data: &Path, store: &Addr<StoreActor>, node: &Addr<Node>) -> Addr<IdentityActor> {
    IdentityActor::load(parts(data, store, node)).await.unwrap().start()
}

#[actix::test]
async fn a_copy_that_issues_newer_keys_is_told_of_and_what_was_issued_here_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (store, node) = (store::start(folder.path()).unwrap(), Node::default().start());
    let first = start(folder.path(), &store, &node).await;
    // Two at once make one identity.
    let both = tokio::join!(first.send(EnsureIdentity), first.send(EnsureIdentity));
    let signers = (both.0.unwrap().unwrap(), both.1.unwrap().unwrap());
    assert!(Arc::ptr_eq(&signers.0, &signers.1));
    let verify =
        |signer: &Signer| VerifiedServerKeys::verify(signer.server_keys().clone(), now_ms());
    let own = verify(&signers.0).unwrap();

    // Started again, it issues others, and hears of both.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = start(folder.path(), &store, &node).await;
    let newer = verify(&second.send(ReadSigner).await.unwrap().unwrap()).unwrap();
    assert!(newer.issued_ts() > own.issued_ts());
    for seen in [&own, &newer] {
        second.send(KeysSeen(seen.clone())).await.unwrap();
        second.send(KeepKeys(seen.clone())).await.unwrap();
    }
    assert_eq!(node.send(Told).await.unwrap(), 0);

    // The first has not written the second's down: to it, that is a copy.
    first.send(KeysSeen(newer)).await.unwrap();
    assert_eq!(node.send(Told).await.unwrap(), 1);
}

#[actix::test]
async fn attack_13_whoever_comes_along_leaves_nothing_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::start(folder.path()).unwrap();
    let identity = start(folder.path(), &store, &Node::default().start()).await;
    let now = now_ms();
    let settle = || tokio::time::sleep(Duration::from_millis(300));

    identity.send(KeysSeen(keys(2, now - 1000))).await.unwrap();
    settle().await;
    assert_eq!(known(&identity, &store, 2).await, (Some(now - 1000), None));
    // A room needs the same ones, and then somebody shows newer ones.
    identity.send(KeepKeys(keys(2, now - 1000))).await.unwrap();
    settle().await;
    assert_eq!(known(&identity, &store, 2).await, (Some(now - 1000), Some(now - 1000)));
    identity.send(KeysSeen(keys(2, now))).await.unwrap();
    settle().await;
    assert_eq!(known(&identity, &store, 2).await, (Some(now), Some(now)));
    // Old ones change nothing.
    identity.send(KeepKeys(keys(2, now - 500))).await.unwrap();
    settle().await;
    assert_eq!(known(&identity, &store, 2).await, (Some(now), Some(now)));
}

#[actix::test]
async fn each_verify_key_of_a_server_is_kept_apart_and_a_restart_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::start(folder.path()).unwrap();
    let node = Node::default().start();
    let identity = start(folder.path(), &store, &node).await;
    let now = now_ms();
    let server = secret_keys(2).server_name();
    let issued =
        |node, before: u64| issued_by(&node_keys(2, node), &["peer"], now.saturating_sub(before));
    let settle = || tokio::time::sleep(Duration::from_millis(300));
    // At once, the newest first: the second has to wait for what is on disk.
    for keys in [issued(1, 0), issued(1, 900), issued(2, 5000), issued(3, 100)] {
        identity.do_send(KeepKeys(keys));
    }
    // Of a server whose keys are kept, those of another node are as well.
    settle().await;
    identity.send(KeysSeen(issued(4, 7000))).await.unwrap();
    settle().await;
    let wanted = [0, 100, 5000, 7000].map(|before| now - before);
    for identity in [identity, start(folder.path(), &store, &node).await] {
        let mut found = identity.send(FindServerKeys(vec![server.clone()])).await.unwrap();
        let found = found.remove(&server).unwrap();
        let mut at: Vec<u64> = found.iter().map(|(_, keys)| keys.issued_ts()).collect();
        at.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        assert_eq!(at, wanted);
    }
    // What gives way in memory goes from disk.
    let identity = start(folder.path(), &store, &node).await;
    for node in 5..30 {
        identity.send(KeysSeen(issued(node, 50))).await.unwrap();
        identity.send(KeepKeys(issued(node, 50))).await.unwrap();
    }
    settle().await;
    let stored = read_stored(store.clone().recipient(), server.clone()).await;
    assert_eq!(stored.len(), KEYS_MAX);
    assert!(stored.iter().all(|keys| keys.issued_ts() >= now - 50));
}

#[actix::test]
async fn attack_08_a_raised_generation_is_told_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::start(folder.path()).unwrap();
    let node = Node::default().start();
    let now = now_ms();
    let generation = now / 1000 - 10;
    let (stays, goes) = (node_keys(2, 1), node_keys(2, 2));
    let stolen = issued_by(&goes, &["peer"], now);
    let load = || IdentityActor::load(parts(folder.path(), &store, &node));
    let identity = load().await.unwrap();
    let generations = identity.generations();
    let identity = identity.start();
    identity.send(KeepKeys(stolen.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(generations.borrow().admit(&stolen));
    let raised = of_generation(&stays, generation, now);
    identity.send(KeysSeen(raised.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let admitted = |generations: &watch::Receiver<Generations>| {
        let generations = generations.borrow();
        (generations.admit(&stolen), generations.admit(&raised))
    };
    assert_eq!(admitted(&generations), (false, true));
    let again = load().await.unwrap().generations();
    assert_eq!(admitted(&again), (false, true));
}

#[actix::test]
async fn a_new_key_to_seal_to_is_on_disk_before_it_is_certified_and_the_old_one_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let (store, node) = (store::start(folder.path()).unwrap(), Node::default().start());
    let secret = secret_keys(1);
    let encode =
        |key: &[u8; 32]| ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(key.to_vec());
    // The file of the first release: when its key was made nobody knows.
    let before = serde_json::json!({
        "identity_key": encode(&secret.identity),
        "verify_key": encode(&secret.verify),
        "encryption_key": encode(&secret.encryption),
    });
    std::fs::write(folder.path().join("keys.json"), before.to_string()).unwrap();
    let identity = start(folder.path(), &store, &node).await;
    let signer = identity.send(ReadSigner).await.unwrap().unwrap();
    let public = |secret: [u8; 32]| {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret)).to_bytes()
    };
    let named = |signer: &Signer| {
        VerifiedServerKeys::verify(signer.server_keys().clone(), now_ms())
            .unwrap()
            .encryption_key()
            .unwrap()
    };
    let stored = keys::read(folder.path()).unwrap().unwrap();
    assert_eq!(named(&signer), public(stored.secret().encryption));
    assert_ne!(named(&signer), public(secret.encryption));
    let sealed_to = |key: [u8; 32]| {
        let until = now_ms() + sealed::LIFETIME_MS;
        let (sealed, _) =
            sealed::seal(b"request", signer.server_name(), &key, until, [7; 32]).unwrap();
        sealed::parcel(sealed, until, 1000)
    };
    // Who knows the server_keys of before seals to the key of before.
    for key in [public(secret.encryption), named(&signer)] {
        assert_eq!(signer.unseal(&sealed_to(key), now_ms()).unwrap().0, b"request");
    }
    assert!(signer.unseal(&sealed_to(public([5; 32])), now_ms()).is_err());
    // The next start needs no new one.
    let again = start(folder.path(), &store, &node).await;
    let again = again.send(ReadSigner).await.unwrap().unwrap();
    assert_eq!(named(&again), named(&signer));
}

#[actix::test]
async fn another_node_of_ours_is_no_copy_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (store, node) = (store::start(folder.path()).unwrap(), Node::default().start());
    let identity = start(folder.path(), &store, &node).await;
    identity.send(EnsureIdentity).await.unwrap().unwrap();
    let ours = keys::read(folder.path()).unwrap().unwrap();
    let later = now_ms() + 1000;
    let ours = ours.secret();
    let sibling = SecretKeys { verify: [9; 32], ..ours.clone() };
    let json = issue(&sibling, &["other".to_owned()], later).unwrap();
    let seen = VerifiedServerKeys::verify(json, later).unwrap();
    identity.send(KeysSeen(seen)).await.unwrap();
    assert_eq!(node.send(Told).await.unwrap(), 0);
    let json = issue(ours, &["other".to_owned()], later).unwrap();
    let copy = VerifiedServerKeys::verify(json, later).unwrap();
    identity.send(KeysSeen(copy)).await.unwrap();
    assert_eq!(node.send(Told).await.unwrap(), 1);
}
