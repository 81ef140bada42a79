//! Fifty nodes in one process: the real loop and behaviours over a transport without sockets.
//!
//! What the actors above would do (prove identities, judge gossip) is played by a few lines, so that
//! the figures are those of libp2p as it is set up here. Asserted is only what must hold on any
//! machine: everybody is found, every room meshes, also after some went and came back.

use std::{collections::HashMap, fs, time::Instant};

use actix::prelude::*;
use libp2p::{Multiaddr, identity::Keypair};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::{behaviour::Choices, transport},
    *,
};
use crate::{config::Config, proto::rendezvous::record_key};

const NODES: usize = 50;
const ROOMS: usize = 200;
const MEMBERS: usize = 3;
/// Members of a room are of so many neighbours.
const CIRCLE: usize = 6;
const LEAVERS: usize = 10;
/// For each phase, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Searches of one node at once: people do not type faster.
const SEARCHES: usize = 1;
/// Between the starts of two nodes.
const START_GAP: Duration = Duration::from_millis(20);
/// Before a search that found nothing, or a message that was not heard by all, is repeated.
const AGAIN: Duration = Duration::from_millis(700);

struct Nobody;

impl Actor for Nobody {
    type Context = Context<Self>;
}

impl Handler<SwarmFailed> for Nobody {
    type Result = ();

    fn handle(&mut self, failed: SwarmFailed, _: &mut Context<Self>) {
        panic!("{failed}");
    }
}

/// What a node saw.
#[derive(Debug)]
enum Saw {
    Peer(PeerId),
    Found { ticket: u64, done: bool },
    Message(String),
}

struct Node {
    peer: PeerId,
    key: Keypair,
    address: Multiaddr,
    commands: mpsc::Sender<Command>,
    ended: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Waits until it can be found in the family's DHT.
    async fn published(&self) {
        let begin = Instant::now();
        loop {
            let (reply, status) = oneshot::channel();
            self.commands.send(Command::Status(reply)).await.unwrap();
            let dht = status.await.unwrap().dht;
            let family = dht.iter().find(|dht| dht.name == "family").unwrap();
            if family.published == 1 && family.nodes > 1 {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "not advertised: {family:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

struct World {
    runtime: Option<Runtime>,
    failed: Recipient<SwarmFailed>,
    /// Memory addresses are of the whole process.
    port: u64,
    /// Each start is at a new one, as with whoever moves.
    starts: u64,
    wan: bool,
    bootstrap: Vec<Multiaddr>,
    saw: mpsc::Sender<(usize, Saw)>,
    news: mpsc::Receiver<(usize, Saw)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn string(number: usize) -> Vec<u8> {
    record_key(&format!("p2p:node {number}"))
}

impl World {
    fn new(wan: bool) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (saw, news) = mpsc::channel(1 << 16);
        Self {
            runtime: Some(runtime),
            failed: Nobody.start().recipient(),
            port: match wan {
                true => rand::random_range(1_u64..address::MEMORY_WORLD / 2),
                false => rand::random_range(address::MEMORY_WORLD..1 << 60),
            },
            starts: 0,
            wan,
            bootstrap: Vec::new(),
            saw,
            news,
        }
    }

    fn start(&mut self, number: usize, key: Keypair, data: Option<&std::path::Path>) -> Node {
        let config = serde_json::json!({"libp2p": {"mdns": false, "dht": {"bootstrapPeers": []}}});
        let config: Config = serde_json::from_value(config).unwrap();
        let mut settings = SwarmSettings::new(&config, key.clone(), self.failed.clone());
        self.starts += 1;
        let address: Multiaddr = format!("/memory/{}", self.port + self.starts).parse().unwrap();
        settings.listen = vec![address.clone()];
        settings.bootstrap = self.bootstrap.clone();
        settings.data = data.map(ToOwned::to_owned);
        let runtime = self.runtime.as_ref().unwrap();
        let inside = runtime.enter();
        if self.wan {
            settings.external = settings.listen.clone();
        }
        let choices = Choices { wan: self.wan, ..settings.choices() };
        let swarm = transport::in_memory(key.clone(), &choices).unwrap();
        let peer = *swarm.local_peer_id();
        let (commands, receiver) = mpsc::channel(limits::SWARM_COMMANDS);
        let (sender, mut events) = mpsc::channel(limits::SWARM_EVENTS);
        let ended = tokio::spawn(EventLoop::new(swarm, settings, receiver, sender).run());
        let (saw, answers) = (self.saw.clone(), commands.downgrade());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(commands) = answers.upgrade() else { return };
                let seen = match event {
                    Event::Discovery(Discovery::PeerSeen { peer, ours, .. }) => {
                        if ours {
                            commands.send(Command::Keep(peer)).await.unwrap_or_default();
                            commands.send(Command::Admit(peer)).await.unwrap_or_default();
                        }
                        Saw::Peer(peer)
                    }
                    Event::Discovery(Discovery::Found { ticket, done, .. }) => {
                        Saw::Found { ticket, done }
                    }
                    Event::Gossip(GossipReceived { ticket, topic, .. }) => {
                        let verdict = TransactionVerdict::Accept;
                        let report = Command::ReportVerdict { ticket, verdict };
                        commands.send(report).await.unwrap_or_default();
                        Saw::Message(topic)
                    }
                    _ => continue,
                };
                let _ = saw.send((number, seen)).await;
            }
        });
        drop(inside);
        let identity = Command::SetIdentity(b"server_keys".to_vec());
        commands.try_send(identity).unwrap();
        commands.try_send(Command::Provide(vec![string(number)])).unwrap();
        Node { peer, key, address, commands, ended }
    }

    /// Starts many nodes that know the first one only.
    async fn start_all(&mut self, count: usize) -> Vec<Node> {
        let first = self.start(0, Keypair::generate_ed25519(), None);
        self.bootstrap = vec![first.address.clone().with_p2p(first.peer).unwrap()];
        let mut nodes = vec![first];
        for number in 1..count {
            nodes.push(self.start(number, Keypair::generate_ed25519(), None));
            tokio::time::sleep(START_GAP).await;
        }
        nodes
    }

    /// Has nodes look for others by their strings; returns how long each search took.
    async fn find(&mut self, nodes: &[Node], wanted: &[(usize, usize)]) -> Vec<Duration> {
        let begin = Instant::now();
        let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
        for (seeker, sought) in wanted {
            waiting.entry(*seeker).or_default().push(*sought);
        }
        // Whom a seeker looks for, since when, and when once more.
        let mut open: HashMap<(usize, usize), (Instant, Instant)> = HashMap::new();
        let mut took = Vec::new();
        let numbers: HashMap<PeerId, usize> =
            nodes.iter().enumerate().map(|(number, node)| (node.peer, number)).collect();
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        while took.len() < wanted.len() {
            assert!(begin.elapsed() < PATIENCE, "{} of {} found", took.len(), wanted.len());
            tokio::select! {
                _ = beat.tick() => {
                    let now = Instant::now();
                    for (seeker, list) in &mut waiting {
                        let busy = open.keys().filter(|(by, _)| by == seeker).count();
                        for _ in busy..SEARCHES {
                            let Some(sought) = list.pop() else { break };
                            open.insert((*seeker, sought), (now, now));
                        }
                    }
                    for ((seeker, sought), (_, again)) in &mut open {
                        if *again <= now {
                            *again = now + PATIENCE;
                            let (ticket, key) = (*sought as u64, string(*sought));
                            let find = Command::FindProviders { ticket, keys: vec![key] };
                            nodes[*seeker].commands.send(find).await.unwrap();
                        }
                    }
                }
                Some((seeker, saw)) = self.news.recv() => match saw {
                    Saw::Peer(peer) => {
                        let sought = numbers.get(&peer).copied().unwrap_or(usize::MAX);
                        if let Some((since, _)) = open.remove(&(seeker, sought)) {
                            took.push(since.elapsed());
                        }
                    }
                    Saw::Found { ticket, done: true } => {
                        let key = (seeker, usize::try_from(ticket).unwrap());
                        if let Some((_, again)) = open.get_mut(&key) {
                            *again = Instant::now() + AGAIN;
                        }
                    }
                    _ => {}
                },
            }
        }
        took
    }

    /// Has one member of each room speak, again and again until all others have heard.
    async fn mesh(&mut self, nodes: &[Node], rooms: &[Vec<usize>], only: &[usize]) -> Duration {
        let begin = Instant::now();
        let mut deaf: HashMap<String, HashSet<usize>> = HashMap::new();
        for (room, members) in rooms.iter().enumerate() {
            if members.iter().any(|member| only.contains(member)) {
                deaf.insert(topic(room), members.iter().skip(1).copied().collect());
            }
        }
        let mut again = tokio::time::interval(AGAIN);
        while !deaf.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "{} rooms are not meshed", deaf.len());
            tokio::select! {
                _ = again.tick() => {
                    for (room, members) in rooms.iter().enumerate() {
                        if deaf.contains_key(&topic(room)) {
                            let bytes = rand::random::<[u8; 32]>().to_vec();
                            let publish = Command::Publish { topic: topic(room), bytes };
                            nodes[members[0]].commands.send(publish).await.unwrap();
                        }
                    }
                }
                Some((node, saw)) = self.news.recv() => {
                    if let Saw::Message(topic) = saw
                        && let Some(members) = deaf.get_mut(&topic)
                    {
                        members.remove(&node);
                        if members.is_empty() {
                            deaf.remove(&topic);
                        }
                    }
                }
            }
        }
        begin.elapsed()
    }
}

fn topic(room: usize) -> String {
    format!("room {room}")
}

async fn subscribe(node: &Node, number: usize, rooms: &[Vec<usize>]) {
    for (room, _) in rooms.iter().enumerate().filter(|(_, members)| members.contains(&number)) {
        node.commands.send(Command::Subscribe(topic(room))).await.unwrap();
    }
}

/// Everybody whom these share a room with.
fn fellows(of: &[usize], rooms: &[Vec<usize>]) -> Vec<(usize, usize)> {
    let mut pairs = HashSet::new();
    for members in rooms {
        for one in members.iter().filter(|one| of.contains(one)) {
            // Whoever was found has met the seeker too.
            let others = members.iter().filter(|other| one < *other || !of.contains(other));
            pairs.extend(others.map(|other| (*one, *other)));
        }
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_unstable();
    pairs
}

fn share(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    format!("p50 {:.0?}, p99 {:.0?}, {} searches", at(50), at(99), took.len())
}

/// Memory of this process in KiB, and processor time in milliseconds.
fn cost() -> (u64, u64) {
    let memory = fs::read_to_string("/proc/self/status").unwrap();
    let memory = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    let times = fs::read_to_string("/proc/self/stat").unwrap();
    let times: Vec<&str> = times.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Ticks of 10 ms, in user and in system mode.
    let ticks: u64 = times[11..13].iter().map(|text| text.parse::<u64>().unwrap()).sum();
    (memory, ticks * 10)
}

fn spent(what: &str, since: (u64, u64)) -> (u64, u64) {
    let now = cost();
    let nodes = NODES as u64;
    let memory = now.0.saturating_sub(since.0) / nodes;
    let processor = (now.1 - since.1) / nodes;
    eprintln!("{what}: {memory} KiB and {processor} ms of processor time a node");
    now
}

#[actix::test]
async fn fifty_nodes_find_each_other_mesh_200_rooms_and_survive_churn() {
    let mut random = StdRng::seed_from_u64(48);
    let mut world = World::new(false);
    let before = cost();
    let begin = Instant::now();
    let mut nodes = world.start_all(NODES).await;
    let rooms: Vec<Vec<usize>> = (0..ROOMS)
        .map(|_| {
            // People share many rooms with few others.
            let circle = random.random_range(0..NODES);
            let mut all: Vec<usize> = (0..CIRCLE).map(|one| (circle + one) % NODES).collect();
            let (some, _) = all.partial_shuffle(&mut random, MEMBERS);
            some.to_vec()
        })
        .collect();
    for (number, node) in nodes.iter().enumerate() {
        subscribe(node, number, &rooms).await;
    }
    for node in &nodes {
        node.published().await;
    }
    eprintln!(
        "{NODES} nodes from one bootstrap node, all advertised after {:.1?}",
        begin.elapsed()
    );
    let up = spent("started and advertised", before);
    let begin = Instant::now();
    let everybody: Vec<usize> = (0..NODES).collect();
    let pairs = fellows(&everybody, &rooms);
    let took = world.find(&nodes, &pairs).await;
    eprintln!("all fellows found after {:.1?}", begin.elapsed());
    eprintln!("found by string: {}", share(took));
    let found = spent("found each other", up);

    let took = world.mesh(&nodes, &rooms, &everybody).await;
    eprintln!("{ROOMS} rooms of {MEMBERS}: a message to all members of each after {took:.1?}");
    let meshed = spent("meshed", found);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = spent("5 s of quiet", meshed);

    let mut leavers: Vec<usize> = (1..NODES).collect();
    let leavers = leavers.partial_shuffle(&mut random, LEAVERS).0.to_vec();
    let mut keys = Vec::new();
    for number in &leavers {
        let node = &mut nodes[*number];
        // Without a sender the loop ends, and so do its connections.
        node.commands = mpsc::channel(1).0;
        (&mut node.ended).await.unwrap();
        keys.push(node.key.clone());
    }
    for (number, key) in leavers.iter().zip(keys) {
        nodes[*number] = world.start(*number, key, None);
        subscribe(&nodes[*number], *number, &rooms).await;
    }
    let begin = Instant::now();
    let took = world.find(&nodes, &fellows(&leavers, &rooms)).await;
    eprintln!("{LEAVERS} nodes came back and found their fellows after {:.1?}", begin.elapsed());
    eprintln!("found by string: {}", share(took));
    let took = world.mesh(&nodes, &rooms, &leavers).await;
    eprintln!("their rooms meshed again after {took:.1?}");
    spent("churn", idle);
}

#[actix::test]
async fn a_node_finds_its_way_back_while_every_bootstrap_node_is_down() {
    let mut world = World::new(true);
    let data = tempfile::tempdir().unwrap();
    let mut nodes = world.start_all(6).await;
    let key = Keypair::generate_ed25519();
    let back = world.start(6, key.clone(), Some(data.path()));
    nodes.push(back);
    let wanted: Vec<_> = (1..6).map(|sought| (6, sought)).collect();
    world.find(&nodes, &wanted).await;
    // Its end writes down whom it met in the public DHT.
    nodes[6].commands = mpsc::channel(1).0;
    (&mut nodes[6].ended).await.unwrap();
    let known = super::super::good_peers::load(data.path(), crate::actors::clock::now_ms());
    assert!(known.len() >= 2, "{known:?}");
    // The bootstrap node is gone.
    nodes[0].commands = mpsc::channel(1).0;
    (&mut nodes[0].ended).await.unwrap();
    let stranger = world.start(7, Keypair::generate_ed25519(), None);
    nodes[6] = world.start(6, key, Some(data.path()));
    let begin = Instant::now();
    let wanted: Vec<_> = (1..6).map(|sought| (6, sought)).collect();
    let took = world.find(&nodes, &wanted).await;
    eprintln!("back without a bootstrap node after {:.1?}: {}", begin.elapsed(), share(took));
    let (reply, status) = oneshot::channel();
    stranger.commands.send(Command::Status(reply)).await.unwrap();
    assert!(status.await.unwrap().peers.is_empty(), "without a list there is no way in");
}

#[actix::test]
async fn the_public_dht_says_how_we_are_found() {
    let mut world = World::new(true);
    let nodes = world.start_all(5).await;
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE);
        let (reply, status) = oneshot::channel();
        nodes[3].commands.send(Command::Status(reply)).await.unwrap();
        let dht = status.await.unwrap().dht;
        let public = dht.iter().find(|dht| dht.name == "public").unwrap();
        let family = dht.iter().find(|dht| dht.name == "family").unwrap();
        assert!(public.server && family.server);
        assert_eq!((public.strings, family.strings), (1, 1));
        if public.published == 1 && family.published == 1 && public.nodes > 2 && family.nodes > 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
