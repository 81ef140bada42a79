//! Through relays, and from them to a direct connection.

use std::{cell::Cell, rc::Rc, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use messagehub::{
    actors::swarm::{Reachability, Way},
    config::RelayServe,
};

use super::world::{Node, Start, log, until};

#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "RelayEvent")]
struct RelayBehaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::Behaviour,
}

#[derive(Debug)]
enum RelayEvent {
    Any,
    CircuitOpened,
    CircuitClosed,
}

impl From<identify::Event> for RelayEvent {
    fn from(_: identify::Event) -> Self {
        Self::Any
    }
}

impl From<ping::Event> for RelayEvent {
    fn from(_: ping::Event) -> Self {
        Self::Any
    }
}

impl From<relay::Event> for RelayEvent {
    fn from(event: relay::Event) -> Self {
        match event {
            relay::Event::CircuitReqAccepted { .. } => Self::CircuitOpened,
            relay::Event::CircuitClosed { .. } => Self::CircuitClosed,
            _ => Self::Any,
        }
    }
}

/// Circuits that a relay opened and closed.
#[derive(Debug, Default)]
struct Circuits {
    opened: Cell<usize>,
    closed: Cell<usize>,
}

/// Starts a relay as anybody may run one.
async fn relay() -> (Multiaddr, Rc<Circuits>) {
    let mut swarm: Swarm<RelayBehaviour> = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| RelayBehaviour {
            identify: identify::Behaviour::new(identify::Config::new(
                "/ipfs/0.1.0".to_owned(),
                key.public(),
            )),
            ping: ping::Behaviour::default(),
            relay: relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()),
        })
        .unwrap()
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(address.clone());
    let address = address.with(Protocol::P2p(*swarm.local_peer_id()));
    let circuits = Rc::new(Circuits::default());
    let counted = Rc::clone(&circuits);
    actix::spawn(async move {
        loop {
            let count = match swarm.select_next_some().await {
                SwarmEvent::Behaviour(RelayEvent::CircuitOpened) => &counted.opened,
                SwarmEvent::Behaviour(RelayEvent::CircuitClosed) => &counted.closed,
                _ => continue,
            };
            count.set(count.get() + 1);
        }
    });
    (address, circuits)
}

/// Waits until relays take connections for a node; returns where.
async fn reserved(node: &Node) -> Multiaddr {
    let at = until("a relay takes connections", async || {
        let listening = node.status().await.listen_addresses;
        listening.into_iter().find(|at| at.iter().any(|part| part == Protocol::P2pCircuit))
    })
    .await;
    match at.iter().last() {
        Some(Protocol::P2p(peer)) if peer == node.peer() => at,
        _ => at.with(Protocol::P2p(node.peer())),
    }
}

#[actix::test]
async fn a_relay_carries_connections_to_a_node_that_cannot_be_reached() {
    log();
    let (relay, _) = relay().await;
    let ann = Start { relays: vec![relay.clone()], ..Start::new(1).hidden() }.start();
    let at = reserved(&ann).await;
    let status = ann.status().await;
    assert_eq!(status.reachability, Reachability::Relayed, "{status:?}");
    assert!(status.confirmed_addresses.is_empty(), "{status:?}");
    assert_eq!(status.relays.len(), 1, "{status:?}");
    let bob = Start::new(2).hidden().start();
    let found = bob.search(&at.to_string()).await;
    assert_eq!(found.len(), 1, "{at}");
    let peers = bob.status().await.peers;
    assert!(peers.iter().all(|peer| peer.relayed && peer.way == Way::Relayed), "{peers:?}");
    assert!(bob.ask(&ann, "/hello").await.is_ok());
}

#[actix::test]
async fn no_request_is_lost_while_a_circuit_gives_way_to_a_direct_connection() {
    log();
    let (relay, circuits) = relay().await;
    let ann = Start { relays: vec![relay.clone()], ..Start::new(1) }.start();
    let at = reserved(&ann).await;
    // Bob is told the way through the relay and nothing else.
    let bob = Start { relays: vec![relay], ..Start::new(2) }.start();
    reserved(&bob).await;
    assert_eq!(bob.search(&at.to_string()).await.len(), 1, "{at}");
    let mut asked = 0;
    // Slower than what one peer is served; both ways, so that streams stand on either connection.
    until("the circuit is closed", async || {
        for _ in 0..4 {
            let uri = format!("/{asked}");
            let (there, back) = futures::join!(bob.ask(&ann, &uri), ann.ask(&bob, &uri));
            assert!(there.is_ok() && back.is_ok(), "{asked}: {there:?} {back:?}");
            asked += 1;
        }
        (circuits.opened.get() > 0 && circuits.closed.get() == circuits.opened.get()).then_some(())
    })
    .await;
    for node in [&ann, &bob] {
        let peers = node.status().await.peers;
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert!(peers.iter().all(|peer| peer.way == Way::Punched), "{peers:?}");
    }
    // Each came once.
    let seen = ann.look(|world| world.requests.len()).await;
    assert!((asked..=asked + 2).contains(&seen), "{asked} were asked, {seen} came");
    assert!(bob.ask(&ann, "/after").await.is_ok());
}

/// Sends more through a circuit of one of our own relays than a stranger is allowed.
async fn carried(shares: std::ops::Range<u8>) -> bool {
    log();
    let relay = Start { serve: RelayServe::Always, shares, ..Start::new(3) }.start();
    let relays = vec![relay.address().await];
    let ann = Start { relays: relays.clone(), ..Start::new(1).hidden() }.start();
    let at = reserved(&ann).await;
    let bob = Start { relays, ..Start::new(2).hidden() }.start();
    reserved(&bob).await;
    assert_eq!(bob.search(&at.to_string()).await.len(), 1, "{at}");
    // One alone, since what a circuit breaks off is asked once more through the next one.
    let long = format!("/{}", "x".repeat(200_000));
    bob.ask(&ann, &long).await.is_ok()
}

#[actix::test]
async fn a_relay_of_ours_carries_much_for_members_of_its_rooms() {
    assert!(carried(1..3).await);
}

#[actix::test]
async fn a_relay_of_ours_carries_little_for_strangers() {
    assert!(!carried(20..21).await);
}

#[actix::test]
async fn a_node_that_nobody_can_reach_is_no_relay_and_neither_is_one_that_is_switched_off() {
    log();
    for serve in [RelayServe::Auto, RelayServe::Members, RelayServe::Off] {
        let relay = Start { serve, ..Start::new(3) }.start();
        let relays = vec![relay.address().await];
        let ann = Start { relays, ..Start::new(1).hidden() }.start();
        ann.knows(&relay).await;
        // Long enough for several tries.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let status = ann.status().await;
        assert!(status.relays.is_empty() && status.external_addresses.is_empty(), "{status:?}");
        assert_ne!(status.reachability, Reachability::Relayed);
    }
}
