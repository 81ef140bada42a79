//! Finding somebody among fifty whole nodes: from what was typed to a proven person and their name.

use std::time::{Duration, Instant};

use messagehub::proto::rendezvous::strings;

use super::world::{Node, Start, log, until};

const NODES: u8 = 50;
/// Generous, for a slow and busy machine; the figures are printed.
const P50_MAX: Duration = Duration::from_secs(3);

fn share(what: &str, took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    eprintln!("{what}: p50 {:.0?}, p99 {:.0?}, {} searches", at(50), at(99), took.len());
    at(50)
}

#[actix::test]
#[ignore = "a minute of two processors; run by name, it is for the figures that it prints"]
async fn people_are_found_through_a_dht_of_fifty_nodes() {
    log();
    let begin = Instant::now();
    let first = Start::new(1).start();
    let mut nodes: Vec<Node> = vec![first];
    for seed in 2..=NODES {
        let node = Start::new(seed).near(&nodes[0]).await.start();
        nodes.push(node);
    }
    for (number, node) in nodes.iter().enumerate() {
        node.advertise(&format!("Person {number}")).await;
    }
    for node in &nodes {
        until("its strings are published", async || {
            let dht = node.status().await.dht;
            dht.first().is_some_and(|dht| dht.published == 9 && dht.nodes > 1).then_some(())
        })
        .await;
    }
    eprintln!("{NODES} nodes are up and advertised after {:.1?}", begin.elapsed());
    let (mut by_id, mut by_name) = (Vec::new(), Vec::new());
    for seeker in 0..usize::from(NODES) {
        // A different one for each, and not the bootstrap node.
        let sought = 1 + (seeker * 7 + 3) % (usize::from(NODES) - 1);
        if seeker == sought {
            continue;
        }
        let all = strings(&format!("Person {sought}"), &nodes[sought].server());
        let (string, took) = match seeker % 2 {
            0 => (&all[0], &mut by_id),
            _ => (&all[1], &mut by_name),
        };
        let begin = Instant::now();
        let mut found = nodes[seeker].search(string).await;
        while found.is_empty() && begin.elapsed() < Duration::from_secs(30) {
            found = nodes[seeker].search(string).await;
        }
        took.push(begin.elapsed());
        assert_eq!(found.len(), 1, "{seeker} looks for {string}");
        assert_eq!(found[0].user_id.server_name(), nodes[sought].server());
    }
    assert!(share("found by p2p:<server name>", &mut by_id) < P50_MAX);
    assert!(share("found by <display name>:<suffix>", &mut by_name) < P50_MAX);
}
