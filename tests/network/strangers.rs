//! libp2p nodes that are none of ours.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify,
    identity::Keypair,
    kad, noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use messagehub::{
    actors::clock::now_ms,
    proto::{
        rendezvous::{record_key, strings},
        signer::Signer,
        topic,
    },
};

use super::world::{Node, Start, pair, room, secret_keys, until};

/// Starts a Swarm of such a node over TCP.
fn foreign<B: NetworkBehaviour>(behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| behaviour(key))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

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
    let mut swarm = foreign(|key| {
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
            gossip: gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config)
                .unwrap(),
            kad: kad::Behaviour::new(me, kad::store::MemoryStore::new(me)),
        }
    });
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
async fn a_topic_alone_opens_nothing_for_one_of_ours_without_proof() {
    let (ann, bob) = pair().await;
    ann.join().await;
    bob.join().await;
    // Speaks our protocols, knows the room, and shows good server_keys: of another node.
    let eve = Start { waits: true, ..Start::new(66).near(&ann).await }.start();
    let stolen = Signer::new(&secret_keys(66), &["12D3KooWother".to_owned()], now_ms()).unwrap();
    eve.network.use_signer(&Arc::new(stolen));
    eve.join().await;
    eve.knows(&ann).await;
    for _ in 0..10 {
        ann.publish(1).await;
        eve.publish(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(bob.heard().await > 0, "members hear each other");
    assert_eq!(eve.heard().await, 0);
    assert_eq!(ann.heard().await, 0);
}

/// A node of the DHT, as anybody may run one to see who looks for what.
#[derive(NetworkBehaviour)]
struct Watcher {
    identify: identify::Behaviour,
    kad: kad::Behaviour<kad::store::MemoryStore>,
}

#[actix::test]
async fn attack_12_the_dht_is_told_the_strings_of_a_name_and_nothing_else() {
    let (ann, bob) = pair().await;
    ann.join().await;
    bob.join().await;
    let mut swarm = foreign(|key| {
        let me = key.public().to_peer_id();
        let mut config = kad::Config::new(StreamProtocol::new("/messagehub/lan/kad/1.0.0"));
        config.set_record_filtering(kad::StoreInserts::FilterBoth);
        let store = kad::store::MemoryStore::new(me);
        let mut kad = kad::Behaviour::with_config(me, store, config);
        kad.set_mode(Some(kad::Mode::Server));
        let config = identify::Config::new("/ipfs/0.1.0".to_owned(), key.public());
        Watcher { identify: identify::Behaviour::new(config), kad }
    });
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    // Identify tells where it listens only when it is asked: a server without an address is none.
    while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
    for node in [&ann, &bob] {
        swarm.dial(node.address().await).unwrap();
    }
    let allowed = |name: &str, node: &Node| {
        strings(name, &node.server()).iter().map(|one| record_key(one)).collect::<HashSet<_>>()
    };
    let expected: HashSet<Vec<u8>> =
        allowed("Ann", &ann).into_iter().chain(allowed("Bob", &bob)).collect();
    ann.advertise("Ann").await;
    bob.advertise("Bob").await;
    let mut told: HashSet<Vec<u8>> = HashSet::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut enough = None;
    // Whatever else there is to be told comes with them, or soon after.
    while enough.is_none_or(|enough| tokio::time::Instant::now() < enough) {
        assert!(tokio::time::Instant::now() < deadline, "only {} strings came", told.len());
        let event = tokio::time::timeout(Duration::from_millis(100), swarm.select_next_some());
        if let Ok(SwarmEvent::Behaviour(WatcherEvent::Kad(kad::Event::InboundRequest {
            request,
        }))) = event.await
        {
            match request {
                kad::InboundRequest::AddProvider { record: Some(record) } => {
                    told.insert(record.key.to_vec());
                }
                kad::InboundRequest::PutRecord { record, .. } => panic!("a value: {record:?}"),
                _ => {}
            }
        }
        ann.publish(1).await;
        if expected.is_subset(&told) && enough.is_none() {
            enough = Some(tokio::time::Instant::now() + Duration::from_secs(3));
        }
    }
    assert_eq!(told, expected);
}
