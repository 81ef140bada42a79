//! libp2p nodes that are none of ours.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, gossipsub, identify, kad,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use messagehub::{
    actors::{
        clock::now_ms,
        swarm::{Publish, Subscribe},
    },
    proto::{server_keys::LIFETIME_MS, topic},
};

use super::world::{Start, log, pair, room, until};

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    gossip: gossipsub::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
}

#[actix::test]
async fn a_foreign_node_hears_and_reaches_nothing() {
    let (ann, bob) = pair().await;
    ann.join().await;
    bob.join().await;
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let me = key.public().to_peer_id();
            let config = gossipsub::ConfigBuilder::default()
                .validation_mode(gossipsub::ValidationMode::Anonymous)
                .build()
                .unwrap();
            Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    "/ipfs/0.1.0".to_owned(),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
                gossip: gossipsub::Behaviour::new(
                    gossipsub::MessageAuthenticity::Anonymous,
                    config,
                )
                .unwrap(),
                kad: kad::Behaviour::new(me, kad::store::MemoryStore::new(me)),
            }
        })
        .unwrap()
        .build();
    let topic = gossipsub::IdentTopic::new(topic::of_room(&room()));
    swarm.behaviour_mut().gossip.subscribe(&topic).unwrap();
    swarm.dial(ann.address().await).unwrap();
    let me = swarm.local_peer_id().to_string();
    let mut protocols = Vec::new();
    let mut beats = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..15 {
        loop {
            tokio::select! {
                _ = beats.tick() => break,
                event = swarm.select_next_some() => match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Identify(
                        identify::Event::Received { info, .. },
                    )) => protocols = info.protocols,
                    SwarmEvent::Behaviour(BehaviourEvent::Gossip(
                        gossipsub::Event::Message { .. } | gossipsub::Event::Subscribed { .. },
                    )) => panic!("a stranger heard gossip"),
                    _ => {}
                },
            }
        }
        ann.publish(1).await;
        let _ = swarm.behaviour_mut().gossip.publish(topic.clone(), b"spam".to_vec());
    }
    assert!(!protocols.is_empty(), "it was never connected");
    assert!(
        !protocols.iter().any(|name| name.as_ref().starts_with("/meshsub")),
        "gossip is offered to strangers"
    );
    assert!(swarm.behaviour().gossip.all_peers().all(|(_, topics)| topics.is_empty()));
    assert!(!ann.status().await.peers.iter().any(|peer| peer.peer_id == me));
    assert_eq!(ann.look(|world| world.online.clone()).await, [bob.server()]);
    assert_eq!(ann.heard().await, 0);
    until("members still hear", async || (bob.heard().await > 0).then_some(())).await;
}

#[actix::test]
async fn a_topic_alone_opens_nothing_for_one_of_ours_without_identity() {
    let (ann, _bob) = pair().await;
    ann.join().await;
    // Speaks our protocols, knows the topic, but its server_keys expired.
    let eve = Start { issued: now_ms() - LIFETIME_MS - 60_000, ..Start::new(66).near(&ann).await };
    let eve = eve.start();
    let topic = topic::of_room(&room());
    eve.network.swarm.send(Subscribe(topic.clone())).await.unwrap();
    eve.knows(&ann).await;
    for _ in 0..10 {
        let publish = Publish { topic: topic.clone(), bytes: eve.sign("!room:x", "1", 0) };
        eve.network.swarm.send(publish).await.unwrap();
        ann.publish(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(eve.heard().await, 0);
    assert_eq!(ann.heard().await, 0);
}

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
    fn from(_: relay::Event) -> Self {
        Self::Any
    }
}

/// Starts a relay as anybody may run one.
async fn relay() -> Multiaddr {
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
    actix::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    address
}

#[actix::test]
async fn a_relay_carries_connections_to_a_node_that_cannot_be_reached() {
    log();
    let relay = relay().await;
    let ann = Start { relays: vec![relay.clone()], ..Start::new(1).hidden() }.start();
    let at = until("the relay takes connections for ann", async || {
        let listening = ann.status().await.listen_addresses;
        listening.into_iter().find(|at| at.iter().any(|part| part == Protocol::P2pCircuit))
    })
    .await;
    let bob = Start::new(2).hidden().start();
    let at = match at.iter().last() {
        Some(Protocol::P2p(peer)) if peer == ann.peer() => at,
        _ => at.with(Protocol::P2p(ann.peer())),
    };
    let found = bob.search(&at.to_string()).await;
    assert_eq!(found.len(), 1, "{at}");
    assert!(bob.status().await.peers.iter().all(|peer| peer.relayed));
    assert!(bob.ask(&ann, "/hello").await.is_ok());
}
