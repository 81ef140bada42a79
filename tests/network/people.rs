//! Who is found.

use std::time::{Duration, Instant};

use messagehub::{
    actors::{
        rendezvous::{FoundPerson, ResolveServer},
        swarm::Provide,
    },
    proto::rendezvous::{record_key, strings},
};

use super::world::{Set, Start, log, pair, secret_keys, until};

#[actix::test]
async fn people_are_found_through_a_node_that_both_know() {
    log();
    let carl = Start::new(3).start();
    let ann = Start::new(1).near(&carl).await.start();
    let bob = Start::new(2).near(&carl).await.start();
    // Advertised to nobody at first.
    bob.advertise("Bob").await;
    ann.knows(&carl).await;
    bob.knows(&carl).await;
    let user = format!("@p2p:{}", bob.server());
    let expected = |found: &[FoundPerson]| {
        found.len() == 1
            && found[0].user_id == user
            && found[0].displayname.as_deref() == Some("Bob")
    };
    let mut terms = strings("Bob", &bob.server());
    assert_eq!(terms.len(), 9, "as it is written, and without case");
    let suffix = bob.server().as_str()[54..].to_owned();
    terms.extend([
        format!("BOB:{suffix}"),
        format!("bOb:{}", suffix.to_uppercase()),
        user.clone(),
        bob.server().to_string(),
        format!("/p2p/{}", bob.network.peer_id),
        bob.address().await.to_string(),
    ]);
    // The first one is found in the DHT; a fresh node for each keeps it so.
    for (number, term) in terms.iter().enumerate() {
        let seeker = Start::new(10 + u8::try_from(number).unwrap()).near(&carl).await.start();
        seeker.knows(&carl).await;
        let found = seeker.search(term).await;
        assert!(expected(&found), "{term}: {found:?}");
    }
    let begin = Instant::now();
    for nobody in ["Rob:", "Bobo:"] {
        assert_eq!(ann.search(&format!("{nobody}{suffix}")).await, []);
    }
    assert!(begin.elapsed() < Duration::from_secs(9), "nothing more could come");
    assert_eq!(ann.search("Bob").await, [], "names of strangers are no search term");
}

#[actix::test]
async fn a_dropped_name_finds_nobody() {
    let (ann, bob) = pair().await;
    bob.advertise("Bob").await;
    let old = format!("Bob:{}", &bob.server().as_str()[54..]);
    assert_eq!(ann.search(&old).await.len(), 1);
    bob.advertise("Robert").await;
    assert_eq!(ann.search(&old).await, [], "the old name is not shown any more");
    let new = format!("Robert:{}", &bob.server().as_str()[54..]);
    assert_eq!(ann.search(&new).await.len(), 1);
}

#[actix::test]
async fn who_does_not_advertise_publishes_nothing() {
    log();
    let carl = Start::new(3).start();
    let ann = Start::new(1).near(&carl).await.start();
    let bob = Start { hides: true, ..Start::new(2).near(&carl).await }.start();
    bob.advertise("Bob").await;
    ann.advertise("Ann").await;
    ann.knows(&carl).await;
    bob.knows(&carl).await;
    until("ann is advertised, who came first", async || {
        ann.status().await.dht.first().is_some_and(|dht| dht.published == 9).then_some(())
    })
    .await;
    for dht in bob.status().await.dht {
        assert_eq!((dht.strings, dht.published), (0, 0), "{}", dht.name);
    }
    // Whoever was told where to look finds them all the same.
    assert_eq!(ann.search(&bob.address().await.to_string()).await.len(), 1);
}

#[actix::test]
async fn a_search_waits_for_no_dead_node() {
    log();
    let carl = Start::new(3).start();
    let ann = Start::new(1).near(&carl).await.start();
    let bob = Start::new(2).near(&carl).await.start();
    let dead = Start::new(66).near(&carl).await.start();
    ann.knows(&carl).await;
    bob.advertise("Bob").await;
    let keys = strings("Bob", &bob.server()).iter().map(|string| record_key(string)).collect();
    dead.network.swarm.send(Provide(keys)).await.unwrap();
    until("both are advertised", async || {
        let published = async |of: &super::world::Node| {
            of.status().await.dht.first().is_some_and(|dht| dht.published == 9)
        };
        (published(&bob).await && published(&dead).await).then_some(())
    })
    .await;
    dead.network.stop().await;
    let suffix = bob.server().as_str()[54..].to_owned();
    let begin = Instant::now();
    let found = ann.search(&format!("Bob:{suffix}")).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].user_id.server_name(), bob.server());
    assert!(begin.elapsed() < Duration::from_millis(4500), "{:?}", begin.elapsed());
}

#[actix::test]
async fn a_provider_of_somebody_elses_name_is_not_that_person() {
    log();
    let carl = Start::new(3).start();
    let ann = Start::new(1).near(&carl).await.start();
    let eve = Start::new(66).near(&carl).await.start();
    ann.knows(&carl).await;
    eve.knows(&carl).await;
    let victim = secret_keys(2).server_name();
    let keys = strings("Bob", &victim).iter().map(|string| record_key(string)).collect();
    eve.network.swarm.send(Provide(keys)).await.unwrap();
    eve.world.send(Set::Name("Bob".to_owned())).await.unwrap();
    let resolve = || ResolveServer { server_name: victim.clone(), timeout: Duration::from_secs(5) };
    assert_eq!(ann.network.rendezvous.send(resolve()).await.unwrap(), None);
    for string in strings("Bob", &victim) {
        assert_eq!(ann.search(&string).await, [], "{string}");
    }
    // It was met, and is only who it is.
    ann.knows(&eve).await;
    assert_eq!(ann.network.rendezvous.send(resolve()).await.unwrap(), None);
}
