//! Gossip.

use std::time::Duration;

use messagehub::{
    actors::{
        clock::now_ms,
        gossip::{JoinTopic, LeaveTopic},
        rendezvous::SharedServers,
        swarm::Publish,
        upward::TransactionVerdict,
    },
    config::limits,
    proto::{
        room_key::{RoomKey, Secret},
        topic,
    },
};
use ruma::RoomId;

use super::world::{Node, Set, Start, key, log, pair, room, until};

/// A pair in one room whose mesh stands.
async fn talking() -> (Node, Node) {
    let (ann, bob) = pair().await;
    ann.join().await;
    bob.join().await;
    until("they hear each other", async || {
        ann.publish(1).await;
        (bob.heard().await > 0).then_some(())
    })
    .await;
    (ann, bob)
}

#[actix::test]
async fn gossip_is_handed_on_only_when_it_was_accepted() {
    log();
    // Ann and carl cannot be connected: all goes through bob.
    let bob = Start::new(2).start();
    let ann = Start::new(1).hidden().near(&bob).await.start();
    let carl = Start::new(3).hidden().near(&bob).await.start();
    for node in [&ann, &carl] {
        node.knows(&bob).await;
        bob.knows(node).await;
    }
    for node in [&ann, &bob, &carl] {
        node.join().await;
    }
    // Published again and again: before the mesh is there, nobody hears it.
    until("bob and carl hear ann", async || {
        ann.publish(2).await;
        let first = async |node: &Node| node.look(|world| world.gossip.first().cloned()).await;
        let expected = Some((ann.server(), 2, 0));
        (first(&bob).await == expected && first(&carl).await == expected).then_some(())
    })
    .await;

    for verdict in [Some(TransactionVerdict::Reject), Some(TransactionVerdict::Ignore), None] {
        bob.world.send(Set::Verdict(verdict)).await.unwrap();
        // What was published before is through once nothing new comes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, at_bob) = (carl.heard().await, bob.heard().await);
        ann.publish(1).await;
        until("bob has it", async || (bob.heard().await > at_bob).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(carl.heard().await, before, "{verdict:?}");
    }
    bob.world.send(Set::Verdict(Some(TransactionVerdict::Accept))).await.unwrap();
    let before = carl.heard().await;
    until("it flows again", async || {
        ann.publish(1).await;
        (carl.heard().await > before).then_some(())
    })
    .await;
}

#[actix::test]
async fn attack_08_gossip_of_a_node_that_its_server_has_ended_is_ignored_and_its_bearer_is_not_blamed()
 {
    log();
    // Bob has not heard of it, and hands on what ann says; carl has.
    let bob = Start::new(2).start();
    let ann = Start::new(1).hidden().near(&bob).await.start();
    let carl = Start { ended: vec![1], ..Start::new(3) }.hidden().near(&bob).await.start();
    for node in [&ann, &carl] {
        node.knows(&bob).await;
        bob.knows(node).await;
    }
    for node in [&ann, &bob, &carl] {
        node.join().await;
    }
    until("carl hears bob, and bob hears ann", async || {
        bob.publish(1).await;
        ann.publish(1).await;
        (carl.heard().await > 0 && bob.heard().await > 0).then_some(())
    })
    .await;
    // More than would silence bob if they were his fault.
    let before = bob.heard().await;
    for _ in 0..20 {
        ann.publish(2).await;
    }
    until("bob has them", async || (bob.heard().await >= before + 20).then_some(())).await;
    bob.publish(3).await;
    until("carl still hears bob", async || {
        (carl.look(|world| world.gossip.last().map(|last| last.1)).await == Some(3)).then_some(())
    })
    .await;
    let origins = carl.look(|world| world.gossip.clone()).await;
    assert!(origins.iter().all(|(origin, ..)| *origin == bob.server()), "{origins:?}");
    assert!(!carl.look(|world| world.keys.clone()).await.contains(&ann.server()));
}

#[actix::test]
async fn a_burst_waits_for_its_turn_and_what_is_lost_is_told() {
    const BURST: usize = 200;
    let (ann, bob) = talking().await;
    // What was published before is through once nothing new comes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bob.world.send(Set::Verdict(None)).await.unwrap();
    let before = bob.heard().await;
    for _ in 0..BURST {
        ann.publish(1).await;
    }
    until("bob works on some", async || (bob.heard().await > before).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bob.heard().await, before + limits::WORK_PEER, "the others wait");
    assert!(bob.look(|world| world.lost.is_empty()).await);
    bob.world.send(Set::Verdict(Some(TransactionVerdict::Accept))).await.unwrap();
    // Those that got no verdict are lost; then come all the others.
    until("the burst", async || (bob.heard().await == before + BURST).then_some(())).await;
    let lost = bob.look(|world| world.lost.clone()).await;
    assert_eq!(lost, vec![ann.server(); limits::WORK_PEER]);
}

#[actix::test]
async fn forged_and_misplaced_gossip_is_not_delivered() {
    let (ann, bob) = talking().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = bob.heard().await;
    let topic = topic::of_room(&room());
    let seal =
        |key: RoomKey, on: &str, message: &[u8]| key.seal(on, rand::random(), message).unwrap();
    let transaction = |id| ann.sign("!room:x", id, now_ms());
    let right = key(&room());
    let unknown = RoomKey::new(&room(), Secret([8; 32]));
    let mut changed = seal(right, &topic, &transaction("5"));
    *changed.last_mut().unwrap() ^= 1;
    for bytes in [
        b"garbage".to_vec(),
        seal(right, &topic, b"garbage"),
        seal(right, &topic, &ann.sign("!other:x", "1", now_ms())),
        transaction("2"),
        seal(unknown, &topic, &transaction("3")),
        seal(right, "another topic", &transaction("4")),
        changed,
    ] {
        ann.network.swarm.send(Publish { topic: topic.clone(), bytes }).await.unwrap();
    }
    // Behind all of these in the same stream.
    ann.publish(3).await;
    until("the next one comes", async || {
        (bob.look(|world| world.gossip.last().map(|last| last.1)).await == Some(3)).then_some(())
    })
    .await;
    assert_eq!(bob.heard().await, before + 1);

    bob.network.gossip.send(LeaveTopic(room())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    ann.publish(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bob.heard().await, before + 1, "bob left the room");
}

#[actix::test]
async fn a_node_with_a_thousand_rooms_is_heard_in_the_last_one() {
    log();
    let rooms: Vec<_> = (0..1000).map(|n| RoomId::parse(format!("!{n}:x")).unwrap()).collect();
    let last = rooms.last().unwrap();
    let ann = Start::new(1).start();
    let bob = Start::new(2).near(&ann).await.start();
    for node in [&ann, &bob] {
        for room in &rooms {
            node.network.gossip.do_send(JoinTopic(room.clone()));
        }
    }
    ann.knows(&bob).await;
    until("bob hears ann in the last room", async || {
        ann.publish_in(last, 1, 10).await;
        (bob.heard().await > 0).then_some(())
    })
    .await;
    // Neither of gossipsub's walls (100 topics, 16 KiB of subscriptions) cuts any of them off.
    until("all rooms are meshed at both", async || {
        let meshed = async |node: &Node| node.status().await.topics.meshed;
        (meshed(&ann).await == rooms.len() && meshed(&bob).await == rooms.len()).then_some(())
    })
    .await;
}

#[actix::test]
async fn the_largest_events_arrive_and_harm_nothing_after_them() {
    let (ann, bob) = talking().await;
    // More than one message can hold.
    ann.publish_in(&room(), 20, 64_000).await;
    ann.publish(7).await;
    until("all came", async || {
        let sizes = bob.look(|world| world.gossip.iter().map(|got| got.1).collect::<Vec<_>>());
        let sizes = sizes.await;
        let large: usize = sizes.iter().filter(|size| ![1, 7].contains(*size)).sum();
        (sizes.contains(&7) && large + 7 * (sizes.iter().filter(|s| **s == 7).count() - 1) == 20)
            .then_some(())
    })
    .await;
}

/// Publishes until somebody hears it.
async fn hears(writer: &Node, reader: &Node) {
    let before = reader.heard().await;
    until("it is heard", async || {
        writer.publish(1).await;
        (reader.heard().await > before).then_some(())
    })
    .await;
}

#[actix::test]
async fn gossip_opens_with_the_first_shared_room_and_shuts_with_the_last() {
    log();
    let ann = Start { shares: 1..1, ..Start::new(1) }.start();
    let bob = Start { shares: 1..1, ..Start::new(2).near(&ann).await }.start();
    ann.knows(&bob).await;
    bob.knows(&ann).await;
    ann.join().await;
    bob.join().await;
    for _ in 0..10 {
        ann.publish(1).await;
        bob.publish(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((ann.heard().await, bob.heard().await), (0, 0), "they share no room yet");
    assert!(bob.ask(&ann, "/hello").await.is_ok(), "requests need no room");

    // Both hear of it in their own time, as with a join.
    let shares = async |node: &Node, other: &Node, yes: bool| {
        let (server, none) = (vec![other.server()], Vec::new());
        let (added, removed) = if yes { (server, none) } else { (none, server) };
        node.network.rendezvous.send(SharedServers { added, removed }).await.unwrap();
    };
    shares(&ann, &bob, true).await;
    ann.publish(1).await;
    shares(&bob, &ann, true).await;
    hears(&ann, &bob).await;
    hears(&bob, &ann).await;

    shares(&ann, &bob, false).await;
    until("the old connection is gone", async || {
        let _ = bob.ask(&ann, "/again").await;
        let open = ann.status().await.peers.into_iter().any(|peer| peer.gossips);
        (!open && ann.sees(&bob).await).then_some(())
    })
    .await;
    let (at_ann, at_bob) = (ann.heard().await, bob.heard().await);
    for _ in 0..10 {
        ann.publish(1).await;
        bob.publish(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((ann.heard().await, bob.heard().await), (at_ann, at_bob), "ann left it");

    shares(&ann, &bob, true).await;
    hears(&ann, &bob).await;
    hears(&bob, &ann).await;
}
