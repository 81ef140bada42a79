//! Signed requests that others carry.

use std::time::{Duration, Instant};

use messagehub::{
    actors::{clock::now_ms, identity::KeysSeen, swarm::Dismiss, upward::FederationError},
    proto::{
        endpoint::Endpoint,
        sealed::{self, LIFETIME_MS, PIECE_LEN, Parcel},
        server_keys::VerifiedServerKeys,
        signed::{Answer, Request},
    },
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, canonical_json::to_canonical_value};
use serde_json::json;

use super::{
    carriers::{Misdeed, mesh, spoil},
    world::{Node, Set, pair, until},
};

/// Ann – Bob – Cleo.
const ROW: [(usize, usize); 2] = [(1, 0), (2, 1)];
/// Ann – Bob or Dan – Cleo.
const DIAMOND: [(usize, usize); 4] = [(1, 0), (2, 0), (3, 1), (3, 2)];

fn echo(uri: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::try_from(json!({"echo": uri})).unwrap()
}

async fn uris(node: &Node) -> Vec<String> {
    let requests = node.look(|world| world.requests.clone()).await;
    requests.into_iter().map(|request| request.uri).collect()
}

impl Node {
    /// Seals a request to somebody, as an asker would.
    fn seal(&self, to: &Node, request: &[u8], expires_ts: u64) -> Parcel {
        let keys = VerifiedServerKeys::verify(to.signer.server_keys().clone(), now_ms()).unwrap();
        let key = keys.encryption_key().unwrap();
        let (sealed, _) =
            sealed::seal(request, &to.server(), &key, expires_ts, rand::random()).unwrap();
        sealed::parcel(sealed, expires_ts, 1000)
    }

    /// Hands a sealed request to a node, and returns the status that it answers.
    async fn hand(&self, to: &Node, destination: &Node, parcel: &Parcel) -> u16 {
        let request = Request {
            method: "PUT".to_owned(),
            uri: Endpoint::carry(&destination.server()).uri,
            origin: self.server(),
            destination: to.server().to_string(),
            origin_server_ts: now_ms(),
            request_id: format!("{:x}", rand::random::<u64>()),
            content: to_canonical_value(parcel).unwrap(),
        };
        let wire = request.sign(&self.signer).unwrap();
        let bytes = self.send_raw(to, wire.bytes).await.unwrap();
        let id = request.request_id;
        let answer = Answer::verify(&bytes, &to.server(), &id, &wire.hash, now_ms()).unwrap();
        answer.message.status
    }

    /// As from an event in a room.
    async fn has_keys_of(&self, other: &Node) {
        let keys = other.signer.server_keys().clone();
        let keys = VerifiedServerKeys::verify(keys, now_ms()).unwrap();
        self.world.send(KeysSeen(keys)).await.unwrap();
    }

    async fn does(&self, misdeed: Misdeed) {
        self.world.send(Set::Misdeed(misdeed)).await.unwrap();
    }
}

#[actix::test]
async fn a_room_mate_carries_what_it_cannot_read() {
    let [ann, bob, cleo] = mesh(&ROW).await;
    let begin = Instant::now();
    let answer = ann.ask(&cleo, "/hello").await.unwrap();
    let first = begin.elapsed();
    assert_eq!(answer, echo("/hello"));
    assert_eq!(uris(&cleo).await, ["/hello"]);
    let asked = cleo.look(|world| world.requests[0].origin.clone()).await;
    assert_eq!(asked, ann.server());
    assert!(uris(&bob).await.is_empty(), "it was not for Bob");
    let carried = bob.look(|world| world.carried.clone()).await;
    let seen = serde_json::to_string(&carried).unwrap();
    let whole = carried.iter().map(|parcel| parcel.sealed.as_bytes());
    assert!(whole.clone().count() >= 1);
    for bytes in whole {
        for word in [&b"hello"[..], b"GET", b"content"] {
            assert!(!bytes.windows(word.len()).any(|at| at == word), "{seen}");
        }
    }
    assert!(first < Duration::from_secs(2), "the first one took {first:?}");

    let refused = ann.ask(&cleo, "/forbidden").await;
    assert!(
        matches!(&refused, Err(FederationError::Refused { status: 403, errcode, server, .. })
            if errcode == "M_FORBIDDEN" && *server == cleo.server()),
        "{refused:?}"
    );
    // Back the other way, and again and again.
    assert_eq!(cleo.ask(&ann, "/back").await.unwrap(), echo("/back"));
    let mut took = Vec::new();
    for number in 0..20 {
        let begin = Instant::now();
        ann.ask(&cleo, &format!("/{number}")).await.unwrap();
        took.push(begin.elapsed());
    }
    took.sort();
    eprintln!("carried by one: first {first:?}, then p50 {:?}, worst {:?}", took[10], took[19]);
    assert_eq!(cleo.look(|world| world.requests.len()).await, 22);
    assert!(!ann.sees(&cleo).await, "there is no other way");
}

#[actix::test]
async fn two_carriers_in_a_row_and_no_third() {
    let [ann, bob, dan, cleo] = mesh(&[(1, 0), (2, 1), (3, 2)]).await;
    ann.has_keys_of(&cleo).await;
    let begin = Instant::now();
    assert_eq!(ann.ask(&cleo, "/hello").await.unwrap(), echo("/hello"));
    let first = begin.elapsed();
    let begin = Instant::now();
    assert_eq!(ann.ask(&cleo, "/again").await.unwrap(), echo("/again"));
    eprintln!("carried by two: first {first:?}, then {:?}", begin.elapsed());
    assert!(first < Duration::from_secs(2), "the first one took {first:?}");
    for (node, hops) in [(&bob, 1), (&dan, 2), (&cleo, 3)] {
        let carried = node.look(|world| world.carried.clone()).await;
        assert!(carried.iter().any(|parcel| parcel.hops == hops), "{carried:?}");
    }

    let [ann, _, second, last, cleo] = mesh(&[(1, 0), (2, 1), (3, 2), (4, 3)]).await;
    ann.has_keys_of(&cleo).await;
    let asked = ann.ask(&cleo, "/hello").await;
    assert!(matches!(asked, Err(FederationError::Unreachable(_))), "{asked:?}");
    assert!(!second.look(|world| world.carried.is_empty()).await, "it came as far as that");
    assert!(last.look(|world| world.carried.is_empty()).await, "and no further");
    assert!(uris(&cleo).await.is_empty());
    // Nor four, whatever they say.
    let request = ann.sign(cleo.server().as_str(), "1", now_ms());
    let parcel = ann.seal(&cleo, &request, now_ms() + LIFETIME_MS);
    for hops in [3, 4] {
        let far = Parcel { hops, ..parcel.clone() };
        assert!(last.hand(&cleo, &cleo, &far).await == if hops == 3 { 200 } else { 400 });
    }
    let far = Parcel { hops: 3, ..parcel };
    assert_eq!(cleo.hand(&last, &ann, &far).await, 400);
}

#[actix::test]
async fn only_room_mates_are_served() {
    let [ann, bob, cleo] = mesh(&ROW).await;
    // Bob shares a room with Cleo alone, then with Ann alone.
    for shares in [vec![cleo.server()], vec![ann.server()]] {
        bob.world.send(Set::Shares(shares)).await.unwrap();
        let asked = ann.ask(&cleo, "/hello").await;
        assert!(matches!(asked, Err(FederationError::Unreachable(_))), "{asked:?}");
    }
    // Ann asks nobody with whom she shares no room.
    let before = bob.look(|world| world.carried.len()).await;
    bob.world.send(Set::Shares(vec![ann.server(), cleo.server()])).await.unwrap();
    ann.world.send(Set::Shares(vec![cleo.server()])).await.unwrap();
    assert!(ann.ask(&cleo, "/hello").await.is_err());
    assert_eq!(bob.look(|world| world.carried.len()).await, before);
    assert!(uris(&cleo).await.is_empty());
    // She need not share one with Cleo: an invite.
    ann.world.send(Set::Shares(vec![bob.server()])).await.unwrap();
    assert!(ann.ask(&cleo, "/hello").await.is_ok());
}

#[actix::test]
async fn a_dishonest_carrier_is_harmless() {
    let [ann, bob, dan, cleo] = mesh(&DIAMOND).await;
    // One to give again later.
    while bob.look(|world| world.carried_answers.is_empty()).await {
        ann.ask(&cleo, "/before").await.unwrap();
    }
    let misdeeds = [
        Misdeed::Withhold,
        Misdeed::WithholdAnswer,
        Misdeed::SpoilRequest,
        Misdeed::SpoilAnswer,
        Misdeed::OldAnswer,
        Misdeed::Nonsense,
    ];
    for misdeed in misdeeds {
        bob.does(misdeed).await;
        let before = bob.look(|world| world.carried.len()).await;
        let mut number = 0;
        // Until Bob was asked at least twice.
        while bob.look(|world| world.carried.len()).await < before + 2 {
            let uri = format!("/{misdeed:?}/{number}");
            assert_eq!(ann.ask(&cleo, &uri).await.unwrap(), echo(&uri), "{misdeed:?}");
            let times = uris(&cleo).await.into_iter().filter(|seen| *seen == uri).count();
            assert_eq!(times, 1, "{uri} was executed {times} times");
            number += 1;
        }
    }
    // Alone, it can keep Ann from Cleo and do nothing else.
    dan.does(Misdeed::Withhold).await;
    for misdeed in [Misdeed::SpoilRequest, Misdeed::SpoilAnswer, Misdeed::OldAnswer] {
        bob.does(misdeed).await;
        let asked = tokio::time::timeout(Duration::from_secs(1), ann.ask(&cleo, "/alone")).await;
        assert!(!matches!(&asked, Ok(Ok(_))), "{misdeed:?}: {asked:?}");
    }
}

#[actix::test]
async fn tampered_replayed_expired_and_misaddressed_seals_are_refused() {
    let [ann, bob, cleo] = mesh(&ROW).await;
    let live = || now_ms() + LIFETIME_MS;
    let request = |id: &str| ann.sign(cleo.server().as_str(), id, now_ms());
    let first = request("1");
    let good = ann.seal(&cleo, &first, live());
    assert_eq!(bob.hand(&cleo, &cleo, &good).await, 200);
    assert_eq!(bob.hand(&cleo, &cleo, &good).await, 409, "replayed by a carrier");
    assert_eq!(cleo.look(|world| world.requests.len()).await, 1);
    // Ann may seal it once more, and is answered as before.
    assert_eq!(bob.hand(&cleo, &cleo, &ann.seal(&cleo, &first, live())).await, 200);
    assert_eq!(cleo.look(|world| world.requests.len()).await, 1);

    let sealed = |request: &[u8]| ann.seal(&cleo, request, live());
    let good = sealed(&request("2"));
    let text = String::from_utf8(request("3")).unwrap();
    let nested = Request {
        method: "PUT".to_owned(),
        uri: Endpoint::carry(&bob.server()).uri,
        origin: ann.server(),
        destination: cleo.server().to_string(),
        origin_server_ts: now_ms(),
        request_id: "4".to_owned(),
        content: to_canonical_value(&good).unwrap(),
    };
    let for_ann = {
        let for_ann = ann.sign(ann.server().as_str(), "5", now_ms());
        sealed(&for_ann)
    };
    let refused = [
        ("tampered", Parcel { sealed: spoil(&good.sealed), ..good.clone() }),
        ("with another lifetime", Parcel { expires_ts: good.expires_ts - 1, ..good.clone() }),
        ("expired", ann.seal(&cleo, &request("6"), now_ms() - 1)),
        ("sealed to another", bob.seal(&ann, &request("7"), live())),
        ("for another inside", for_ann),
        ("a changed request inside", sealed(text.replace("/hello", "/other").as_bytes())),
        ("a stale request inside", {
            let old = now_ms() - LIFETIME_MS - 1000;
            sealed(&ann.sign(cleo.server().as_str(), "8", old))
        }),
        ("garbage inside", sealed(b"GET / HTTP/1.1\r\n\r\n")),
        ("one more carriage inside", sealed(&nested.sign(&ann.signer).unwrap().bytes)),
        ("without a hop", Parcel { hops: 0, ..good.clone() }),
    ];
    for (what, parcel) in refused {
        let status = bob.hand(&cleo, &cleo, &parcel).await;
        assert!((400..500).contains(&status), "{what}: {status}");
    }
    assert_eq!(cleo.look(|world| world.requests.len()).await, 1);
    // What is carried by Bob is carried once.
    assert_eq!(ann.hand(&bob, &cleo, &good).await, 200);
    assert_eq!(ann.hand(&bob, &cleo, &good).await, 409);
    assert_eq!(ann.hand(&bob, &ann, &good).await, 403, "back to where it came from");
}

#[actix::test]
async fn a_long_answer_comes_in_pieces() {
    let [ann, bob, cleo] = mesh(&ROW).await;
    for length in [PIECE_LEN, 5 * PIECE_LEN + 17] {
        let before = bob.look(|world| world.carried.len()).await;
        let begin = Instant::now();
        let answer = ann.ask(&cleo, &format!("/long/{length}")).await.unwrap();
        eprintln!("{length} bytes came in {:?}", begin.elapsed());
        let long = answer.as_object().unwrap()["long"].as_str().unwrap();
        assert_eq!(long.len(), length);
        let pieces = bob.look(|world| world.carried.len()).await - before;
        assert_eq!(pieces, length / PIECE_LEN + 1);
    }
    assert_eq!(cleo.look(|world| world.requests.len()).await, 2, "executed once");
    let longest =
        bob.look(|world| world.carried_answers.iter().map(|one| one.to_string().len()).max()).await;
    assert!(longest.unwrap() < PIECE_LEN * 3 / 2, "{longest:?}");
}

/// Both ways at once: direct, and carried since the direct answer takes long.
#[actix::test]
async fn a_request_by_two_ways_is_executed_once() {
    let [ann, bob, cleo] = mesh(&[(1, 0), (2, 0), (2, 1)]).await;
    let ask = messagehub::actors::upward::SendFederation {
        destination: cleo.server(),
        endpoint: Endpoint { method: "GET", uri: "/slow".to_owned() },
        content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        // A third of it passes before Bob is asked.
        timeout: Duration::from_millis(1500),
    };
    let answer = ann.network.relay_request.send(ask).await.unwrap().unwrap();
    assert_eq!(answer, echo("/slow"));
    assert!(!bob.look(|world| world.carried.is_empty()).await, "Bob was asked too");
    assert_eq!(uris(&cleo).await, ["/slow"]);
}

#[actix::test]
async fn a_connection_that_breaks_costs_no_request() {
    let (ann, bob) = pair().await;
    let asked = ann.ask(&bob, "/slow");
    let cut = async {
        until("the request is there", async || {
            bob.look(|world| (!world.requests.is_empty()).then_some(())).await
        })
        .await;
        bob.network.swarm.send(Dismiss(ann.peer())).await.unwrap();
    };
    let (answer, ()) = futures::future::join(asked, cut).await;
    assert_eq!(answer.unwrap(), echo("/slow"));
    assert_eq!(uris(&bob).await, ["/slow"]);
}
