//! Real nodes over loopback: who is believed, who is heard, who is found.
//!
//! Nothing here leaves the machine: loopback addresses, port 0, no mDNS, and no bootstrap nodes
//! but each other. Nothing waits for time, only for conditions.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::prelude::*;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use messagehub::{
    actors::{
        admission::Admission,
        clock::now_ms,
        cpu::Cpu,
        gossip::{GossipTransaction, JoinTopic, LeaveTopic, PublishTransaction},
        network::{self, Network, NetworkParts},
        relay_request::{FederationError, InboundAnswer, InboundRequest, KeysSeen, SendFederation},
        rendezvous::{
            Advertise, FoundPerson, NetworkStatus, ReadNetwork, ResolveServer, SearchPeople,
        },
        room::TransactionVerdict,
        room_state::ServerOnline,
        store::{Committed, Row, RowKind, ScanRows, StoreError, WriteRows},
        swarm::{self, Provide, Publish, SendRequest, Subscribe, SwarmFailed},
    },
    config::{Config, DhtConfig, ElementConfig, Libp2pConfig, limits},
    proto::{
        rendezvous::{record_key, strings},
        server_keys::LIFETIME_MS,
        signed::{Answer, FRESH_MS, Request},
        signer::{SecretKeys, Signer},
        topic,
    },
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, room_id};
use serde_json::{json, value::to_raw_value};

/// Everything that a network talks to, in one actor.
#[derive(Default)]
struct World {
    name: String,
    online: Vec<OwnedServerName>,
    keys: Vec<OwnedServerName>,
    requests: Vec<Request>,
    gossip: Vec<(OwnedServerName, usize, usize)>,
    verdict: Option<TransactionVerdict>,
    rows: HashMap<Row, Vec<u8>>,
    failures: Vec<String>,
}

impl Actor for World {
    type Context = Context<Self>;
}

/// Reads something of the world.
struct Look<T>(fn(&World) -> T);

impl<T: Send + 'static> Message for Look<T> {
    type Result = Box<T>;
}

impl<T: Send + 'static> Handler<Look<T>> for World {
    type Result = MessageResult<Look<T>>;

    fn handle(&mut self, look: Look<T>, _: &mut Context<Self>) -> Self::Result {
        MessageResult(Box::new((look.0)(self)))
    }
}

/// Changes the shown name, or the verdict on gossip.
#[derive(Message)]
#[rtype(result = "()")]
enum Set {
    Name(String),
    Verdict(Option<TransactionVerdict>),
}

impl Handler<Set> for World {
    type Result = ();

    fn handle(&mut self, set: Set, _: &mut Context<Self>) {
        match set {
            Set::Name(name) => self.name = name,
            Set::Verdict(verdict) => self.verdict = verdict,
        }
    }
}

impl Handler<KeysSeen> for World {
    type Result = ();

    fn handle(&mut self, KeysSeen(keys): KeysSeen, _: &mut Context<Self>) {
        self.keys.push(keys.server_name().to_owned());
    }
}

impl Handler<ServerOnline> for World {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, _: &mut Context<Self>) {
        self.online.push(server);
    }
}

impl Handler<WriteRows> for World {
    type Result = Result<Committed, StoreError>;

    fn handle(&mut self, WriteRows(rows): WriteRows, _: &mut Context<Self>) -> Self::Result {
        for (row, value) in rows {
            match value {
                Some(value) => self.rows.insert(row, value),
                None => self.rows.remove(&row),
            };
        }
        Ok(Committed { position: 1 })
    }
}

impl Handler<ScanRows> for World {
    type Result = Result<Vec<(Row, Vec<u8>)>, StoreError>;

    fn handle(&mut self, ScanRows(kind): ScanRows, _: &mut Context<Self>) -> Self::Result {
        assert!(matches!(kind, RowKind::Addresses));
        Ok(self.rows.iter().map(|(row, value)| (row.clone(), value.clone())).collect())
    }
}

impl Handler<SwarmFailed> for World {
    type Result = ();

    fn handle(&mut self, failed: SwarmFailed, _: &mut Context<Self>) {
        self.failures.push(failed.to_string());
    }
}

impl Handler<GossipTransaction> for World {
    type Result = ResponseFuture<TransactionVerdict>;

    fn handle(&mut self, gossip: GossipTransaction, _: &mut Context<Self>) -> Self::Result {
        self.gossip.push((gossip.origin, gossip.pdus.len(), gossip.edus.len()));
        let verdict = self.verdict;
        Box::pin(async move {
            match verdict {
                Some(verdict) => verdict,
                None => std::future::pending().await,
            }
        })
    }
}

impl Handler<InboundRequest> for World {
    type Result = InboundAnswer;

    fn handle(&mut self, inbound: InboundRequest, _: &mut Context<Self>) -> InboundAnswer {
        let request = inbound.request.message;
        let profile = request.uri.starts_with("/_matrix/federation/v1/query/profile");
        let (status, content) = match profile {
            true => (200, json!({"displayname": self.name, "avatar_url": "mxc://x/y"})),
            false if request.uri.contains("forbidden") => {
                (403, json!({"errcode": "M_FORBIDDEN", "error": "no"}))
            }
            false => (200, json!({"echo": request.uri})),
        };
        self.requests.push(request);
        InboundAnswer { status, content: serde_json::from_value(content).unwrap() }
    }
}

fn secret_keys(seed: u8) -> SecretKeys {
    SecretKeys { identity: [seed; 32], verify: [seed ^ 0x55; 32], encryption: [seed ^ 0xaa; 32] }
}

/// How a node is started.
struct Start {
    seed: u8,
    listen: Vec<&'static str>,
    bootstrap: Vec<Multiaddr>,
    secret: Option<&'static str>,
    issued: u64,
    rows: HashMap<Row, Vec<u8>>,
    key: Option<swarm::NodeKey>,
    dial_late: bool,
}

impl Start {
    fn new(seed: u8) -> Self {
        Self {
            seed,
            listen: vec!["/ip4/127.0.0.1/tcp/0"],
            bootstrap: Vec::new(),
            secret: None,
            issued: now_ms(),
            rows: HashMap::new(),
            key: None,
            dial_late: false,
        }
    }

    fn quic(mut self) -> Self {
        self.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1"];
        self
    }

    async fn near(mut self, node: &Node) -> Self {
        self.bootstrap.push(node.address().await);
        self
    }

    fn start(self) -> Node {
        let world = World {
            name: format!("node {}", self.seed),
            verdict: Some(TransactionVerdict::Accept),
            rows: self.rows,
            ..World::default()
        };
        let world = world.start();
        let config = Config {
            listen_address: None,
            element: ElementConfig::default(),
            libp2p: Libp2pConfig {
                listen_addresses: self.listen.iter().map(|at| at.parse().unwrap()).collect(),
                mdns: false,
                private_network_secret: self.secret.map(str::to_owned),
                dht: DhtConfig { bootstrap_peers: Some(self.bootstrap), advertise: true },
                ..Libp2pConfig::default()
            },
        };
        let keypair = self.key.unwrap_or_else(|| {
            swarm::load_or_create_key(std::path::Path::new("/nowhere"), true).unwrap()
        });
        let network = network::start(NetworkParts {
            config: &config,
            keypair,
            cpu: Cpu::start().unwrap(),
            admission: Admission::new(limits::WORK_NODE),
            write_rows: world.clone().recipient(),
            scan_rows: world.clone().recipient(),
            keys_seen: world.clone().recipient(),
            server_online: world.clone().recipient(),
            failed: world.clone().recipient(),
        })
        .unwrap();
        network.bind(world.clone().recipient(), world.clone().recipient());
        let peer_ids = [network.peer_id.clone()];
        let signer = Signer::new(&secret_keys(self.seed), &peer_ids, self.issued).unwrap();
        let signer = Arc::new(signer);
        if !self.dial_late {
            network.use_signer(&signer);
        }
        Node { network, world, signer }
    }
}

struct Node {
    network: Network,
    world: Addr<World>,
    signer: Arc<Signer>,
}

impl Node {
    fn server(&self) -> OwnedServerName {
        self.signer.server_name().clone()
    }

    fn peer(&self) -> PeerId {
        self.network.peer_id.parse().unwrap()
    }

    async fn look<T: Send + 'static>(&self, look: fn(&World) -> T) -> T {
        *self.world.send(Look(look)).await.unwrap()
    }

    async fn status(&self) -> NetworkStatus {
        self.network.rendezvous.send(ReadNetwork).await.unwrap()
    }

    /// Where it listens, its PeerId included.
    async fn address(&self) -> Multiaddr {
        until("it listens", async || {
            let address = self.status().await.listen_addresses.first().cloned();
            address.map(|address| address.with(Protocol::P2p(self.peer())))
        })
        .await
    }

    async fn knows(&self, other: &Node) {
        let server = other.server();
        until("they know each other", async || {
            let status = self.status().await;
            status.peers.iter().any(|peer| peer.server_name.as_ref() == Some(&server)).then_some(())
        })
        .await;
    }

    async fn advertise(&self, name: &str) {
        self.world.send(Set::Name(name.to_owned())).await.unwrap();
        let advertise = Advertise { display_name: name.to_owned() };
        self.network.rendezvous.send(advertise).await.unwrap();
    }

    async fn search(&self, term: &str) -> Vec<FoundPerson> {
        let search =
            SearchPeople { term: term.to_owned(), limit: 10, timeout: Duration::from_secs(5) };
        self.network.rendezvous.send(search).await.unwrap()
    }

    async fn ask(&self, to: &Node, uri: &str) -> Result<CanonicalJsonValue, FederationError> {
        let ask = SendFederation {
            destination: to.server(),
            method: "GET",
            uri: uri.to_owned(),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            timeout: Duration::from_secs(10),
        };
        self.network.relay_request.send(ask).await.unwrap()
    }

    /// Signs a request to somebody.
    fn sign(&self, destination: &str, id: &str, ts: u64) -> Vec<u8> {
        let request = Request {
            method: "GET".to_owned(),
            uri: "/hello".to_owned(),
            origin: self.server(),
            destination: destination.to_owned(),
            origin_server_ts: ts,
            request_id: id.to_owned(),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        };
        request.sign(&self.signer).unwrap().bytes
    }

    async fn send_raw(&self, to: &Node, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let send = SendRequest { peer: to.peer(), bytes };
        self.network.swarm.send(send).await.unwrap().ok()
    }

    async fn publish(&self, pdus: usize) {
        let pdu = || to_raw_value(&json!({"a": rand::random::<u32>()})).unwrap();
        let publish = PublishTransaction {
            room_id: room_id!("!room:x").to_owned(),
            pdus: (0..pdus).map(|_| pdu()).collect(),
            edus: Vec::new(),
        };
        self.network.gossip.send(publish).await.unwrap();
    }

    async fn join(&self) {
        self.network.gossip.send(JoinTopic(room_id!("!room:x").to_owned())).await.unwrap();
    }
}

/// Waits until something is there.
async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), waited).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long until {what}"),
    }
}

fn log() {
    let _ = env_logger::builder().is_test(true).try_init();
}

async fn pair() -> (Node, Node) {
    log();
    let ann = Start::new(1).start();
    let bob = Start::new(2).near(&ann).await.start();
    ann.knows(&bob).await;
    bob.knows(&ann).await;
    (ann, bob)
}

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
        assert_eq!(rows, [Row::Address(ann.server())]);
    }
}

#[actix::test]
async fn a_request_is_answered_and_an_error_is_told() {
    let (ann, bob) = pair().await;
    let answer = ann.ask(&bob, "/hello").await.unwrap();
    assert_eq!(serde_json::to_value(answer).unwrap(), json!({"echo": "/hello"}));
    let requests = bob.look(|world| world.requests.clone()).await;
    assert_eq!(requests[0].origin, ann.server());
    let refused = ann.ask(&bob, "/forbidden").await;
    assert!(
        matches!(&refused, Err(FederationError::Refused { status: 403, errcode, .. })
            if errcode == "M_FORBIDDEN"),
        "{refused:?}"
    );
}

#[actix::test]
async fn replayed_stale_misaddressed_and_forged_requests_get_no_answer() {
    let (ann, bob) = pair().await;
    let good = ann.sign(bob.server().as_str(), "1", now_ms());
    let answer = ann.send_raw(&bob, good.clone()).await.unwrap();
    assert!(Answer::verify(&answer, &bob.server(), "2", "x", now_ms()).is_err());
    let text = String::from_utf8(good.clone()).unwrap();
    let refused = [
        ("replayed", good),
        ("for another server", ann.sign(ann.server().as_str(), "2", now_ms())),
        ("for a room", ann.sign("!room:x", "3", now_ms())),
        ("stale", ann.sign(bob.server().as_str(), "4", now_ms() - FRESH_MS - 1000)),
        ("changed", text.replace("/hello", "/other").into_bytes()),
        ("garbage", b"GET /_matrix/client/v3/login HTTP/1.1\r\n\r\n".to_vec()),
        ("empty", Vec::new()),
    ];
    for (what, bytes) in refused {
        assert_eq!(ann.send_raw(&bob, bytes).await, None, "{what} was answered");
    }
    assert_eq!(bob.look(|world| world.requests.len()).await, 1);
    assert!(ann.ask(&bob, "/hello").await.is_ok(), "the connection still serves");
}

#[actix::test]
async fn nobody_answers_who_is_not_there() {
    let (ann, bob) = pair().await;
    let carl = Start { dial_late: true, ..Start::new(3) }.start();
    let asked = ann.ask(&carl, "/hello").await;
    assert!(matches!(asked, Err(FederationError::Unreachable(_))), "{asked:?}");
    let itself = ann.ask(&ann, "/hello").await;
    assert!(matches!(itself, Err(FederationError::Unreachable(_))), "{itself:?}");
    let offline = carl.ask(&bob, "/hello").await;
    assert!(matches!(offline, Err(FederationError::Offline)), "{offline:?}");
}

#[actix::test]
async fn gossip_is_delivered_to_members_and_handed_on_only_when_accepted() {
    log();
    // Ann and carl know only bob.
    let bob = Start::new(2).start();
    let ann = Start::new(1).near(&bob).await.start();
    let carl = Start::new(3).near(&bob).await.start();
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
        let heard = [&bob, &carl].map(|node| node.look(|world| world.gossip.first().cloned()));
        let heard = futures::future::join_all(heard).await;
        heard.iter().all(|heard| *heard == Some((ann.server(), 2, 0))).then_some(())
    })
    .await;

    for verdict in [Some(TransactionVerdict::Reject), Some(TransactionVerdict::Ignore), None] {
        bob.world.send(Set::Verdict(verdict)).await.unwrap();
        // What was published before is through once nothing new comes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = carl.look(|world| world.gossip.len()).await;
        let at_bob = bob.look(|world| world.gossip.len()).await;
        ann.publish(1).await;
        until("bob has it", async || {
            (bob.look(|world| world.gossip.len()).await > at_bob).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !carl.status().await.peers.iter().any(|peer| peer.peer_id == ann.network.peer_id) {
            assert_eq!(carl.look(|world| world.gossip.len()).await, before, "{verdict:?}");
        }
    }
}

#[actix::test]
async fn forged_and_misplaced_gossip_is_not_delivered() {
    let (ann, bob) = pair().await;
    ann.join().await;
    bob.join().await;
    until("they hear each other", async || {
        ann.publish(1).await;
        (bob.look(|world| world.gossip.len()).await > 0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = bob.look(|world| world.gossip.len()).await;
    let topic = topic::of_room(room_id!("!room:x"));
    for bytes in [
        b"garbage".to_vec(),
        ann.sign("!room:x", "1", now_ms()),
        ann.sign("!other:x", "2", now_ms()),
    ] {
        ann.network.swarm.send(Publish { topic: topic.clone(), bytes }).await.unwrap();
    }
    // Behind the three in the same stream.
    ann.publish(3).await;
    until("the next one comes", async || {
        (bob.look(|world| world.gossip.last().map(|last| last.1)).await == Some(3)).then_some(())
    })
    .await;
    assert_eq!(bob.look(|world| world.gossip.len()).await, before + 1);
    bob.network.gossip.send(LeaveTopic(room_id!("!room:x").to_owned())).await.unwrap();
}

#[actix::test]
async fn people_are_found_through_a_node_that_both_know() {
    log();
    let carl = Start::new(3).start();
    let ann = Start::new(1).near(&carl).await.start();
    let bob = Start::new(2).near(&carl).await.start();
    ann.knows(&carl).await;
    bob.knows(&carl).await;
    bob.advertise("Bob").await;
    let user = format!("@p2p:{}", bob.server());
    let expected = |found: &[FoundPerson]| {
        found.len() == 1
            && found[0].user_id == user
            && found[0].displayname.as_deref() == Some("Bob")
    };
    let mut terms = strings("Bob", &bob.server());
    assert_eq!(terms.len(), 5);
    terms.extend([
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
    for nobody in ["Rob:", "bob:"] {
        let server = bob.server();
        let suffix = &server.as_str()[54..];
        assert_eq!(ann.search(&format!("{nobody}{suffix}")).await, []);
    }
    assert_eq!(ann.search("Bob").await, [], "names of strangers are no search term");
}

#[actix::test]
async fn two_people_behind_one_rendezvous_string_and_a_dropped_name() {
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

#[actix::test]
async fn expired_server_keys_and_those_of_another_node_prove_nothing() {
    log();
    let ann = Start::new(1).start();
    let old = Start { issued: now_ms() - LIFETIME_MS - 60_000, ..Start::new(2).near(&ann).await };
    let old = old.start();
    // Its server_keys name another PeerId.
    let thief = Start { dial_late: true, ..Start::new(4).near(&ann).await }.start();
    let stolen = Signer::new(&secret_keys(2), &["12D3KooWother".to_owned()], now_ms()).unwrap();
    thief.network.use_signer(&Arc::new(stolen));
    let carl = Start::new(3).near(&ann).await.start();
    for node in [&old, &thief, &carl] {
        let peer = node.network.peer_id.clone();
        until("it is connected", async || {
            ann.status().await.peers.iter().any(|known| known.peer_id == peer).then_some(())
        })
        .await;
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
async fn newer_server_keys_end_an_old_node() {
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
    let ann = Start { secret, ..Start::new(1) }.start();
    let bob = Start { secret, ..Start::new(2).near(&ann).await }.start();
    let eve = Start::new(3).near(&ann).await.start();
    let mallory =
        Start { secret: Some("another secret, as long"), ..Start::new(4).near(&ann).await }.start();
    ann.knows(&bob).await;
    assert!(bob.ask(&ann, "/hello").await.is_ok());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ann.look(|world| world.online.clone()).await, [bob.server()]);
    for outsider in [eve, mallory] {
        assert!(outsider.status().await.peers.is_empty());
        assert!(outsider.ask(&ann, "/hello").await.is_err());
    }
}

#[actix::test]
async fn the_address_book_leads_back() {
    log();
    let ann = Start::new(1).start();
    let key = || swarm::load_or_create_key(std::path::Path::new("/nowhere"), true).unwrap();
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

mod stranger {
    //! A libp2p node that is none of ours.

    use futures::StreamExt as _;
    use libp2p::{
        SwarmBuilder, gossipsub, identify, kad, noise, ping,
        swarm::{NetworkBehaviour, SwarmEvent},
        tcp, yamux,
    };

    use super::*;

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
        let topic = gossipsub::IdentTopic::new(topic::of_room(room_id!("!room:x")));
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
        assert_eq!(ann.look(|world| world.gossip.len()).await, 0);
        until("members still hear", async || {
            (bob.look(|world| world.gossip.len()).await > 0).then_some(())
        })
        .await;
    }

    #[actix::test]
    async fn a_topic_alone_opens_nothing_for_one_of_ours_without_identity() {
        let (ann, _bob) = pair().await;
        ann.join().await;
        // Speaks our protocols, knows the topic, but its server_keys expired.
        let eve =
            Start { issued: now_ms() - LIFETIME_MS - 60_000, ..Start::new(66).near(&ann).await };
        let eve = eve.start();
        let topic = topic::of_room(room_id!("!room:x"));
        eve.network.swarm.send(Subscribe(topic.clone())).await.unwrap();
        eve.knows(&ann).await;
        for _ in 0..10 {
            let publish = Publish { topic: topic.clone(), bytes: eve.sign("!room:x", "1", 0) };
            eve.network.swarm.send(publish).await.unwrap();
            ann.publish(1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(eve.look(|world| world.gossip.len()).await, 0);
        assert_eq!(ann.look(|world| world.gossip.len()).await, 0);
    }
}
