//! A node, and everything that its network talks to.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use messagehub::{
    actors::{
        admission::Admission,
        clock::now_ms,
        cpu::Cpu,
        gossip::{
            DeliverTo, FindRoomKey, GossipLost, GossipTransaction, JoinTopic, PublishTransaction,
        },
        identity::{FindServerKeys, KeysSeen},
        network::{self, Network, NetworkParts},
        relay_request::{CarryRequest, CarryWith, InboundAnswer, InboundRequest},
        rendezvous::{Advertise, FoundPerson, ReadNetwork, SearchPeople, SharedServers},
        store::{Committed, Row, RowKind, ScanRows, StoreError, WriteRows},
        swarm::{self, NetworkStatus, SendRequest, SwarmFailed},
        upward::{
            FederationError, FindSharing, SendFederation, ServerOffline, ServerOnline, Sharing,
            TransactionVerdict,
        },
    },
    config::{Config, DhtConfig, Libp2pConfig, RelayConfig, RelayServe, limits},
    proto::{
        certificates::Certificates,
        delegation::Generations,
        endpoint::{self, Endpoint},
        room_key::{RoomKey, Secret},
        sealed::{self, Parcel},
        server_keys::VerifiedServerKeys,
        signed::Request,
        signer::{SecretKeys, Signer},
    },
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomId};
use serde_json::{json, value::to_raw_value};

use super::carriers::Misdeed;

/// Everything that a network talks to, in one actor.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) online: Vec<OwnedServerName>,
    pub(crate) offline: Vec<OwnedServerName>,
    pub(crate) keys: Vec<OwnedServerName>,
    pub(crate) requests: Vec<Request>,
    pub(crate) gossip: Vec<(OwnedServerName, usize, usize)>,
    pub(crate) verdict: Option<TransactionVerdict>,
    pub(crate) rows: HashMap<Row, Vec<u8>>,
    pub(crate) failures: Vec<String>,
    /// Keys that were asked for.
    pub(crate) asked: Vec<(RoomKey, OwnedServerName)>,
    /// Servers of which gossip was lost.
    pub(crate) lost: Vec<OwnedServerName>,
    /// Those who share a room with this node.
    pub(crate) shares: HashSet<OwnedServerName>,
    pub(crate) known: HashMap<OwnedServerName, VerifiedServerKeys>,
    pub(crate) carry: Option<Recipient<CarryRequest>>,
    pub(crate) misdeed: Misdeed,
    /// What was handed to this node to carry, or sealed to it.
    pub(crate) carried: Vec<Parcel>,
    pub(crate) carried_answers: Vec<CanonicalJsonValue>,
}

/// The key of a room, which all nodes of the tests have.
pub(crate) fn key(room_id: &RoomId) -> RoomKey {
    RoomKey::new(room_id, Secret([7; 32]))
}

impl Actor for World {
    type Context = Context<Self>;
}

/// Reads something of the world.
pub(crate) struct Look<T>(pub(crate) fn(&World) -> T);

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
pub(crate) enum Set {
    Name(String),
    Verdict(Option<TransactionVerdict>),
    Shares(Vec<OwnedServerName>),
    Misdeed(Misdeed),
    Carry(Recipient<CarryRequest>),
}

impl Handler<Set> for World {
    type Result = ();

    fn handle(&mut self, set: Set, _: &mut Context<Self>) {
        match set {
            Set::Name(name) => self.name = name,
            Set::Verdict(verdict) => self.verdict = verdict,
            Set::Shares(servers) => self.shares = servers.into_iter().collect(),
            Set::Misdeed(misdeed) => self.misdeed = misdeed,
            Set::Carry(recipient) => self.carry = Some(recipient),
        }
    }
}

impl Handler<KeysSeen> for World {
    type Result = ();

    fn handle(&mut self, KeysSeen(keys): KeysSeen, _: &mut Context<Self>) {
        self.keys.push(keys.server_name().to_owned());
        self.known.insert(keys.server_name().to_owned(), keys);
    }
}

impl Handler<FindServerKeys> for World {
    type Result = MessageResult<FindServerKeys>;

    fn handle(&mut self, find: FindServerKeys, _: &mut Context<Self>) -> Self::Result {
        let known = find.0.into_iter().filter_map(|server| self.known.get_key_value(&server));
        MessageResult(
            known
                .map(|(server, keys)| (server.clone(), Certificates::new(server, [keys.clone()])))
                .collect(),
        )
    }
}

/// All whom this world shares rooms with share one room with each other.
impl Handler<FindSharing> for World {
    type Result = Vec<Sharing>;

    fn handle(&mut self, find: FindSharing, _: &mut Context<Self>) -> Self::Result {
        let FindSharing { servers, with } = find;
        let with = with.is_none_or(|with| self.shares.contains(&with));
        let sharing = servers.into_iter().filter(|server| self.shares.contains(server));
        sharing.map(|server_name| Sharing { server_name, with, close: true }).collect()
    }
}

impl Handler<ServerOnline> for World {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, _: &mut Context<Self>) {
        self.online.push(server);
    }
}

impl Handler<ServerOffline> for World {
    type Result = ();

    fn handle(&mut self, ServerOffline(server): ServerOffline, _: &mut Context<Self>) {
        self.offline.push(server);
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
        if !matches!(kind, RowKind::Addresses) {
            return Ok(Vec::new());
        }
        Ok(self.rows.iter().map(|(row, value)| (row.clone(), value.clone())).collect())
    }
}

impl Handler<SwarmFailed> for World {
    type Result = ();

    fn handle(&mut self, failed: SwarmFailed, _: &mut Context<Self>) {
        self.failures.push(failed.to_string());
    }
}

impl Handler<FindRoomKey> for World {
    type Result = Option<RoomKey>;

    fn handle(&mut self, ask: FindRoomKey, _: &mut Context<Self>) -> Option<RoomKey> {
        let key = key(&ask.room_id);
        self.asked.push((key, ask.from));
        (key.id() == ask.id).then_some(key)
    }
}

impl Handler<GossipLost> for World {
    type Result = ();

    fn handle(&mut self, GossipLost(server): GossipLost, _: &mut Context<Self>) {
        self.lost.push(server);
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
    type Result = ResponseActFuture<Self, InboundAnswer>;

    fn handle(&mut self, inbound: InboundRequest, _: &mut Context<Self>) -> Self::Result {
        let InboundRequest { request, permit } = inbound;
        let request = request.message;
        if let Some(server) = request.uri.strip_prefix(endpoint::CARRY) {
            let destination = sealed::destination(server).unwrap();
            return self.carry(request, destination, permit);
        }
        if let Some(known) = self.server_keys_of(&request.uri) {
            return Box::pin(actix::fut::ready(known));
        }
        let profile = request.uri.starts_with("/_matrix/federation/v1/query/profile");
        // Nobody registers here: there is the owner alone.
        let of_owner = ["@p2p", "%40p2p"].iter().any(|owner| request.uri.contains(owner));
        let (status, content) = match profile {
            true if !of_owner => (404, json!({"errcode": "M_NOT_FOUND", "error": "nobody"})),
            true => (200, json!({"displayname": self.name, "avatar_url": "mxc://x/y"})),
            false if request.uri.contains("forbidden") => {
                (403, json!({"errcode": "M_FORBIDDEN", "error": "no"}))
            }
            false if request.uri.starts_with("/long") => {
                let length = request.uri.rsplit('/').next().unwrap().parse().unwrap();
                (200, json!({"long": "x".repeat(length)}))
            }
            false => (200, json!({"echo": request.uri})),
        };
        let wait = match request.uri.starts_with("/slow") {
            true => Duration::from_secs(1),
            false => Duration::ZERO,
        };
        self.requests.push(request);
        let answer = InboundAnswer { status, content: serde_json::from_value(content).unwrap() };
        let answered = async move {
            tokio::time::sleep(wait).await;
            answer
        };
        Box::pin(answered.into_actor(self))
    }
}

pub(crate) fn secret_keys(seed: u8) -> SecretKeys {
    SecretKeys { identity: [seed; 32], verify: [seed ^ 0x55; 32], encryption: [seed ^ 0xaa; 32] }
}

/// How a node is started.
pub(crate) struct Start {
    pub(crate) seed: u8,
    pub(crate) listen: Vec<&'static str>,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) secret: Option<&'static str>,
    pub(crate) issued: u64,
    pub(crate) rows: HashMap<Row, Vec<u8>>,
    pub(crate) key: Option<swarm::NodeKey>,
    pub(crate) relays: Vec<Multiaddr>,
    /// For whom it relays.
    pub(crate) serve: RelayServe,
    pub(crate) blocked: Vec<PeerId>,
    /// Work at once.
    pub(crate) places: usize,
    /// Has no identity yet.
    pub(crate) waits: bool,
    /// Does not want to be found.
    pub(crate) hides: bool,
    /// Shares a room with the nodes of these seeds.
    pub(crate) shares: std::ops::Range<u8>,
    /// Knows that the nodes of these seeds were ended by their servers.
    pub(crate) ended: Vec<u8>,
}

impl Start {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            seed,
            listen: vec!["/ip4/127.0.0.1/tcp/0"],
            bootstrap: Vec::new(),
            secret: None,
            issued: now_ms(),
            rows: HashMap::new(),
            key: None,
            relays: Vec::new(),
            serve: RelayServe::Auto,
            blocked: Vec::new(),
            places: limits::WORK_NODE,
            waits: false,
            hides: false,
            shares: 1..10,
            ended: Vec::new(),
        }
    }

    pub(crate) fn quic(mut self) -> Self {
        self.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1"];
        self
    }

    /// Cannot be connected by others.
    pub(crate) fn hidden(mut self) -> Self {
        self.listen = Vec::new();
        self
    }

    pub(crate) async fn near(mut self, node: &Node) -> Self {
        self.bootstrap.push(node.address().await);
        self
    }

    pub(crate) fn start(self) -> Node {
        let world = World {
            name: format!("node {}", self.seed),
            verdict: Some(TransactionVerdict::Accept),
            rows: self.rows,
            ..World::default()
        };
        let world = world.start();
        let config = Config {
            libp2p: Libp2pConfig {
                listen_addresses: self.listen.iter().map(|at| at.parse().unwrap()).collect(),
                mdns: false,
                static_relays: self.relays,
                relay: RelayConfig { serve: self.serve, ..RelayConfig::default() },
                blocked_peers: self.blocked,
                private_network_secret: self.secret.map(str::to_owned),
                dht: DhtConfig { bootstrap_peers: Some(self.bootstrap), advertise: !self.hides },
                ..Libp2pConfig::default()
            },
            ..Config::default()
        };
        let keypair = self.key.unwrap_or_else(|| {
            swarm::load_or_create_key(std::path::Path::new("/nowhere"), true).unwrap()
        });
        let mut generations = Generations::default();
        for seed in self.ended {
            generations.note(&secret_keys(seed).server_name(), 1, true);
        }
        let network = network::start(NetworkParts {
            config: &config,
            keypair,
            data: None,
            cpu: Cpu::start().unwrap(),
            admission: Admission::new(self.places),
            meters: messagehub::meters::Meters::default(),
            write_rows: world.clone().recipient(),
            scan_rows: world.clone().recipient(),
            keys_seen: world.clone().recipient(),
            generations: tokio::sync::watch::channel(generations).1,
            server_online: world.clone().recipient(),
            server_offline: world.clone().recipient(),
            failed: world.clone().recipient(),
        })
        .unwrap();
        let added = self.shares.map(|seed| secret_keys(seed).server_name()).collect();
        network.rendezvous.do_send(SharedServers { added, removed: Vec::new() });
        let deliver = DeliverTo {
            transactions: world.clone().recipient(),
            keys: world.clone().recipient(),
            lost: world.clone().recipient(),
        };
        network.bind(deliver, world.clone().recipient());
        network.carry(CarryWith {
            sharing: world.clone().recipient(),
            find_keys: world.clone().recipient(),
        });
        world.do_send(Set::Carry(network.relay_request.clone().recipient()));
        let peer_ids = [network.peer_id.clone()];
        let signer = Signer::new(&secret_keys(self.seed), &peer_ids, self.issued).unwrap();
        let signer = Arc::new(signer);
        if !self.waits {
            network.use_signer(&signer);
        }
        Node { network, world, signer }
    }
}

pub(crate) struct Node {
    pub(crate) network: Network,
    pub(crate) world: Addr<World>,
    pub(crate) signer: Arc<Signer>,
}

impl Node {
    pub(crate) fn server(&self) -> OwnedServerName {
        self.signer.server_name().clone()
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.network.peer_id.parse().unwrap()
    }

    pub(crate) async fn look<T: Send + 'static>(&self, look: fn(&World) -> T) -> T {
        *self.world.send(Look(look)).await.unwrap()
    }

    pub(crate) async fn status(&self) -> NetworkStatus {
        self.network.rendezvous.send(ReadNetwork).await.unwrap()
    }

    /// Where it listens, its PeerId included.
    pub(crate) async fn address(&self) -> Multiaddr {
        until("it listens", async || {
            let address = self.status().await.listen_addresses.first().cloned();
            address.map(|address| address.with(Protocol::P2p(self.peer())))
        })
        .await
    }

    pub(crate) async fn knows(&self, other: &Node) {
        let server = other.server();
        until("they know each other", async || {
            let status = self.status().await;
            status.peers.iter().any(|peer| peer.server_name.as_ref() == Some(&server)).then_some(())
        })
        .await;
    }

    pub(crate) async fn advertise(&self, name: &str) {
        self.world.send(Set::Name(name.to_owned())).await.unwrap();
        let advertise = Advertise { display_name: name.to_owned(), others: Vec::new() };
        self.network.rendezvous.send(advertise).await.unwrap();
    }

    pub(crate) async fn search(&self, term: &str) -> Vec<FoundPerson> {
        let search =
            SearchPeople { term: term.to_owned(), limit: 10, timeout: Duration::from_secs(5) };
        self.network.rendezvous.send(search).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        to: &Node,
        uri: &str,
    ) -> Result<CanonicalJsonValue, FederationError> {
        let ask = SendFederation {
            destination: to.server(),
            endpoint: Endpoint { method: "GET", uri: uri.to_owned() },
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            // Longer than a node that has just started goes on looking.
            timeout: Duration::from_secs(15),
        };
        self.network.relay_request.send(ask).await.unwrap()
    }

    /// Signs a request to somebody.
    pub(crate) fn sign(&self, destination: &str, id: &str, ts: u64) -> Vec<u8> {
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

    pub(crate) async fn send_raw(&self, to: &Node, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let send = SendRequest { peer: to.peer(), bytes };
        self.network.swarm.send(send).await.unwrap().ok()
    }

    pub(crate) async fn publish(&self, pdus: usize) {
        self.publish_in(&room(), pdus, 10).await;
    }

    pub(crate) async fn publish_in(&self, room_id: &RoomId, pdus: usize, length: usize) {
        let filling = "x".repeat(length);
        let pdu = || to_raw_value(&json!({"a": rand::random::<u32>(), "b": filling})).unwrap();
        let publish = PublishTransaction {
            room_id: room_id.to_owned(),
            pdus: (0..pdus).map(|_| pdu()).collect(),
            edus: Vec::new(),
            key: key(room_id),
        };
        self.network.gossip.send(publish).await.unwrap();
    }

    pub(crate) async fn join(&self) {
        self.network.gossip.send(JoinTopic(room())).await.unwrap();
    }

    pub(crate) async fn heard(&self) -> usize {
        self.look(|world| world.gossip.len()).await
    }

    /// Whether it is connected to a node, whoever that is.
    pub(crate) async fn sees(&self, other: &Node) -> bool {
        self.status().await.peers.iter().any(|peer| peer.peer_id == other.network.peer_id)
    }
}

/// The room of most tests.
pub(crate) fn room() -> OwnedRoomId {
    RoomId::parse("!room:x").unwrap()
}

/// Waits until something is there.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
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

pub(crate) fn log() {
    let _ = env_logger::builder().is_test(true).try_init();
}

pub(crate) async fn pair() -> (Node, Node) {
    log();
    let ann = Start::new(1).start();
    let bob = Start::new(2).near(&ann).await.start();
    ann.knows(&bob).await;
    bob.knows(&ann).await;
    (ann, bob)
}
