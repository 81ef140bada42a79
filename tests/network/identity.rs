//! Who is believed.

use std::{path::Path, sync::Arc, time::Duration};

use messagehub::{
    actors::{clock::now_ms, store::Row, swarm},
    proto::{server_keys::LIFETIME_MS, signer::Signer},
};

use super::world::{Node, Start, log, pair, secret_keys, until};

#[actix::test]
async fn two_nodes_prove_who_they_are_over_tcp_and_quic() {
    log();
    for quic in [false, true] {
        let start = |seed| if quic { Start::new(seed).quic() } else { Start::new(seed) };
        let ann = start(1).start();
        let bob = start(2).near(&ann).await.start();
        ann.knows(&bob).await;
        bob.knows(&ann).await;
        assert_eq!(ann.look(|world| world.online.clone()).await, [bob.server()]);
        assert_eq!(bob.look(|world| world.online.clone()).await, [ann.server()]);
        assert!(ann.look(|world| world.keys.clone()).await.contains(&bob.server()));
        let rows = bob.look(|world| world.rows.keys().cloned().collect::<Vec<_>>()).await;
        assert_eq!(rows, [Row::Address(ann.server(), ann.network.peer_id.clone())]);
    }
}

#[actix::test]
async fn attack_08_expired_server_keys_and_those_of_another_node_prove_nothing() {
    log();
    let ann = Start::new(1).start();
    let old = Start { issued: now_ms() - LIFETIME_MS - 60_000, ..Start::new(2).near(&ann).await };
    let old = old.start();
    // Its server_keys name another PeerId.
    let thief = Start { waits: true, ..Start::new(4).near(&ann).await }.start();
    let stolen = Signer::new(&secret_keys(2), &["12D3KooWother".to_owned()], now_ms()).unwrap();
    thief.network.use_signer(&Arc::new(stolen));
    let carl = Start::new(3).near(&ann).await.start();
    for node in [&old, &thief, &carl] {
        until("it is connected", async || ann.sees(node).await.then_some(())).await;
    }
    ann.knows(&carl).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ann.look(|world| world.online.clone()).await, [carl.server()]);
    assert!(!ann.look(|world| world.keys.clone()).await.contains(&old.server()));
    assert!(ann.ask(&old, "/hello").await.is_err());
    // A request signed with expired server_keys is none.
    let bytes = old.sign(ann.server().as_str(), "1", now_ms());
    assert_eq!(old.send_raw(&ann, bytes).await, None);
}

#[actix::test]
async fn attack_08_newer_server_keys_end_an_old_node() {
    let (ann, bob) = pair().await;
    // The same person on another node: the old PeerId is named no more.
    let moved = Start { issued: now_ms() + 1000, ..Start::new(2).near(&ann).await }.start();
    until("the new node is known, the old one is not", async || {
        let status = ann.status().await;
        let of = |node: &Node| {
            status
                .peers
                .iter()
                .any(|peer| peer.peer_id == node.network.peer_id && peer.server_name.is_some())
        };
        (of(&moved) && !of(&bob)).then_some(())
    })
    .await;
}

#[actix::test]
async fn a_private_network_is_closed_to_those_without_its_secret() {
    log();
    let secret = Some("a secret of the test network");
    let listen = vec!["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let ann = Start { secret, listen, ..Start::new(1) }.start();
    let bob = Start { secret, ..Start::new(2).near(&ann).await }.start();
    let eve = Start::new(3).near(&ann).await.start();
    let mallory =
        Start { secret: Some("another secret, as long"), ..Start::new(4).near(&ann).await }.start();
    ann.knows(&bob).await;
    assert!(bob.ask(&ann, "/hello").await.is_ok());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ann.look(|world| world.online.clone()).await, [bob.server()]);
    for outsider in [&eve, &mallory] {
        assert!(outsider.status().await.peers.is_empty());
        assert!(outsider.ask(&ann, "/hello").await.is_err());
    }
    // Nor does anybody inside connect those outside, told where they are.
    for outsider in [&eve, &mallory] {
        assert_eq!(ann.search(&outsider.address().await.to_string()).await, []);
        assert_eq!(bob.search(&outsider.address().await.to_string()).await, []);
    }
    assert_eq!(ann.look(|world| world.online.clone()).await, [bob.server()]);
    let status = ann.status().await;
    assert!(status.listen_addresses.iter().all(|at| at.to_string().contains("/tcp/")), "no QUIC");
    assert!(status.dht.iter().all(|dht| dht.name != "public"), "no public DHT");
    let public = format!("/ip4/198.51.100.7/tcp/4848/p2p/{}", eve.network.peer_id);
    assert_eq!(ann.search(&public).await, []);
}

#[actix::test]
async fn the_address_book_leads_back() {
    log();
    let ann = Start::new(1).start();
    let key = || swarm::load_or_create_key(Path::new("/nowhere"), true).unwrap();
    let bob_key = key();
    let bob = Start { key: Some(bob_key.clone()), ..Start::new(2).near(&ann).await }.start();
    bob.knows(&ann).await;
    ann.knows(&bob).await;
    let rows = bob.look(|world| world.rows.clone()).await;
    bob.network.stop().await;
    // No bootstrap node this time.
    let bob = Start { key: Some(bob_key), rows, ..Start::new(2) }.start();
    bob.knows(&ann).await;
}

#[actix::test]
async fn an_address_in_use_is_named() {
    log();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let at: &'static str = at.leak();
    let ann = Start { listen: vec![at], ..Start::new(1) }.start();
    let failure =
        until("it fails", async || ann.look(|world| world.failures.first().cloned()).await).await;
    assert!(failure.contains(at) && failure.contains("in use"), "{failure}");
}

#[actix::test]
async fn new_server_keys_go_to_those_who_are_connected() {
    let (ann, bob) = pair().await;
    let count = async || bob.look(|world| world.keys.len()).await;
    let before = count().await;
    let peer_ids = [ann.network.peer_id.clone()];
    let renewed = Signer::new(&secret_keys(1), &peer_ids, now_ms() + 1000).unwrap();
    ann.network.use_signer(&Arc::new(renewed));
    until("bob has the new ones", async || (count().await > before).then_some(())).await;
    bob.knows(&ann).await;
    assert_eq!(bob.look(|world| world.online.len()).await, 1, "it never went away");
}
