//! The task that owns the libp2p Swarm.
//!
//! Invariants: it awaits nothing but its own `select!`, until it ends; when the actor is behind, gossip is
//! ignored and requests are dropped, so that news of peers always have room; what is found in a
//! DHT is dialled here and at once, since its addresses are forgotten with the query.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, gossipsub, kad, request_response::OutboundRequestId,
    swarm::ConnectionId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use self::adverts::Adverts;
use super::{
    DhtStatus, Discovery, GossipReceived, GossipTicket, NatKind, NetworkStatus, PiecesAsked,
    ReplyTicket, RequestFailed, RequestReceived, SwarmFailed, SwarmSettings, address,
    behaviour::Behaviour,
    good_peers::GoodPeer,
    listening,
    near::Near,
    peers::{Peer, Peers},
    reachability::{Reachability, Visibility},
    retest::Retests,
    reunion::Reunions,
    schedule::Backoff,
    score::Scores,
};
use crate::{actors::upward::TransactionVerdict, config::limits, meters::Dropped};

mod adverts;
mod alive;
mod dialling;
mod discovery;
mod mapping;
mod measuring;
mod pieces;
mod reaching;
mod relays;
mod requests;
mod retesting;
mod status;
#[cfg(test)]
mod swarms;
mod translate;
mod upgrade;

use dialling::Through;
use measuring::Measuring;
use relays::Relay;
use requests::Held;

/// How often backoffs and republishing are looked at.
const TICK: Duration = Duration::from_millis(250);
/// News that wait where the event channel is full.
const HELD_MAX: usize = 4096;
/// Peers that somebody wants to hear about.
const WANTED_MAX: usize = 1024;
/// Ticks after which a peer may send one more time its server_keys.
const IDENTITY_TICKS: u32 = 4;

/// How often peers are forgiven.
const FORGIVE: Duration = Duration::from_secs(60);

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Command {
    SetIdentity(Vec<u8>),
    Exchange(PeerId),
    Keep(PeerId),
    Admit(PeerId),
    Dismiss(PeerId),
    Subscribe(String),
    Unsubscribe(String),
    Publish {
        topic: String,
        bytes: Vec<u8>,
    },
    ReportVerdict {
        ticket: GossipTicket,
        verdict: TransactionVerdict,
    },
    Request {
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Answered>,
    },
    Reply {
        ticket: ReplyTicket,
        bytes: Vec<u8>,
    },
    AskPieces {
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Answered>,
    },
    GivePieces {
        ticket: ReplyTicket,
        bytes: Vec<u8>,
    },
    Dial {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    FindProviders {
        ticket: u64,
        keys: Vec<Vec<u8>>,
    },
    FindNode {
        ticket: u64,
        peer: PeerId,
    },
    Provide(Vec<Vec<u8>>),
    Status(oneshot::Sender<NetworkStatus>),
    /// Asks who is in the meshes of some topics.
    Meshes {
        topics: Vec<String>,
        reply: oneshot::Sender<Vec<Vec<String>>>,
    },
    /// Asks whether the task gets on.
    Beat(oneshot::Sender<()>),
    #[cfg(test)]
    Fail,
}

pub(super) type Answered = Result<Vec<u8>, RequestFailed>;

/// What the loop tells.
#[derive(Debug)]
pub(super) enum Event {
    Gossip(GossipReceived),
    Request(RequestReceived),
    Pieces(PiecesAsked),
    Discovery(Discovery),
}

/// A node through which the network is entered.
#[derive(Debug)]
struct Anchor {
    address: Multiaddr,
    peer: Option<PeerId>,
    backoff: Backoff,
}

/// What a query in a DHT is for.
#[derive(Debug)]
enum Query {
    /// Somebody looks for somebody; so many were found and dialled.
    Hunt { ticket: u64, found: usize },
    /// A key goes out.
    Publish(Vec<u8>),
    /// Whether others give it back.
    ReadBack { key: Vec<u8>, seen: bool },
}

/// Which DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Dht {
    Lan,
    Wan,
}

pub(super) struct EventLoop {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    held: VecDeque<Event>,
    settings: SwarmSettings,
    identity: Option<Vec<u8>>,
    peers: Peers,
    wanted: HashSet<PeerId>,
    scores: Scores<PeerId>,
    scores_due: Instant,
    requests: HashMap<OutboundRequestId, oneshot::Sender<Answered>>,
    /// Pieces of media that were asked for.
    pieces: HashMap<OutboundRequestId, oneshot::Sender<Answered>>,
    /// Requests that wait until a circuit is gone.
    held_back: HashMap<PeerId, Held>,
    /// Dials to peers that called through a relay.
    dials_back: HashSet<ConnectionId>,
    /// The last connection that was made to learn how we are seen.
    measuring: Option<Measuring>,
    /// Peers that are dialled once their relay is there.
    through: Vec<Through>,
    queries: HashMap<(Dht, kad::QueryId), Query>,
    adverts_lan: Adverts,
    adverts_wan: Adverts,
    /// Nodes of the public DHT that were good, and when they are written down next.
    good: Vec<GoodPeer>,
    good_due: Instant,
    anchors: Vec<Anchor>,
    /// Nodes of the LAN that are not connected yet.
    near: Near,
    /// Members that were lost.
    reunions: Reunions,
    /// Since when nobody at all is connected any more.
    alone_since: Option<Instant>,
    relays: Vec<Relay>,
    /// Relays that refused or were lost, until when.
    refused: HashMap<PeerId, Instant>,
    reach: Reachability,
    retests: Retests,
    visibility: Visibility,
    nat: NatKind,
    /// Our addresses changed and peers are to be told.
    tell_addresses: bool,
    ticks: u32,
}

impl EventLoop {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        settings: SwarmSettings,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let now = Instant::now();
        let anchors = settings.bootstrap.iter().map(|address| Anchor {
            peer: address::peer_of(address),
            address: address.clone(),
            backoff: Backoff::new(now),
        });
        let relays = relays::configured(&settings.static_relays, now);
        let reach = Reachability::new(&settings.external);
        Self {
            anchors: anchors.collect(),
            near: Near::default(),
            reunions: Reunions::default(),
            alone_since: None,
            relays,
            swarm,
            commands,
            events,
            held: VecDeque::new(),
            settings,
            identity: None,
            peers: Peers::default(),
            wanted: HashSet::new(),
            scores: Scores::default(),
            scores_due: now,
            requests: HashMap::new(),
            pieces: HashMap::new(),
            queries: HashMap::new(),
            adverts_lan: Adverts::family(),
            adverts_wan: Adverts::world(),
            good: Vec::new(),
            good_due: now + discovery::GOOD_FIRST,
            held_back: HashMap::new(),
            dials_back: HashSet::new(),
            measuring: None,
            through: Vec::new(),
            refused: HashMap::new(),
            reach,
            retests: Retests::default(),
            visibility: Visibility::Hidden,
            nat: NatKind::Unknown,
            tell_addresses: false,
            ticks: 0,
        }
    }

    /// Runs until the actor is gone.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    #[cfg(test)]
                    Some(Command::Fail) => return,
                    Some(command) => self.command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.translate(event),
                _ = ticks.tick() => self.tick(),
            }
            self.hand_on_held();
        }
        self.write_good_down();
        Box::pin(self.leave()).await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::SetIdentity(server_keys) => self.set_identity(server_keys),
            Command::Exchange(peer) => {
                if let Some(bytes) = self.identity.clone() {
                    self.exchange(peer, bytes);
                }
            }
            Command::Keep(peer) => {
                if self.peers.contains(&peer) {
                    let behaviour = self.swarm.behaviour_mut();
                    behaviour.door.vouch(&peer);
                    behaviour.gossip.keep(peer);
                }
            }
            Command::Admit(peer) => {
                self.swarm.behaviour_mut().door.admit(&peer);
                // Else the next connection would be open before its own proof.
                if self.peers.admitted(&peer, Instant::now()) {
                    let behaviour = self.swarm.behaviour_mut();
                    behaviour.gossip.admit(peer);
                    // What it did on an earlier connection still counts.
                    let score = self.scores.of(&peer, Instant::now());
                    behaviour.gossip.gossip().set_application_score(&peer, score);
                    if let Some(relay) = behaviour.relay_server.as_mut() {
                        relay.admit(peer);
                    }
                }
            }
            Command::Dismiss(peer) => {
                self.reunions.over(&peer);
                let behaviour = self.swarm.behaviour_mut();
                behaviour.door.dismiss(&peer);
                behaviour.gossip.dismiss(&peer);
                if let Some(relay) = behaviour.relay_server.as_mut() {
                    relay.dismiss(&peer);
                }
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Subscribe(topic) => {
                let topic = gossipsub::IdentTopic::new(topic);
                let gossip = self.swarm.behaviour_mut().gossip.gossip();
                if let Err(error) = gossip.subscribe(&topic) {
                    log::error!(error:%; "cannot subscribe");
                }
            }
            Command::Unsubscribe(topic) => {
                let topic = gossipsub::IdentTopic::new(topic);
                self.swarm.behaviour_mut().gossip.gossip().unsubscribe(&topic);
            }
            Command::Publish { topic, bytes } => self.publish(topic, bytes),
            Command::ReportVerdict { ticket, verdict } => self.report(&ticket, verdict),
            Command::Request { peer, bytes, reply } => self.request(peer, bytes, reply),
            Command::Reply { ticket, bytes } => {
                let _ = self.swarm.behaviour_mut().federation.send_response(ticket.0, bytes);
            }
            Command::AskPieces { peer, bytes, reply } => self.ask_pieces(peer, bytes, reply),
            Command::GivePieces { ticket, bytes } => {
                let _ = self.swarm.behaviour_mut().media.send_response(ticket.0, bytes);
            }
            Command::Dial { peer, addresses } => self.dial(peer, addresses),
            Command::FindProviders { ticket, keys } => self.find_providers(ticket, &keys),
            Command::FindNode { ticket, peer } => self.find_node(ticket, peer),
            Command::Provide(keys) => self.provide(keys),
            Command::Status(reply) => {
                let status = self.status();
                let _ = reply.send(status);
            }
            Command::Meshes { topics, reply } => {
                let gate = &self.swarm.behaviour().gossip;
                let meshes = topics.into_iter().map(|topic| gate.mesh(topic)).collect();
                let _ = reply.send(meshes);
            }
            Command::Beat(reply) => drop(reply.send(())),
            #[cfg(test)]
            Command::Fail => {}
        }
    }

    fn set_identity(&mut self, server_keys: Vec<u8>) {
        let first = self.identity.replace(server_keys).is_none();
        if !first {
            return;
        }
        let tcp_only = self.settings.network.is_some();
        let result = listening::listen(&mut self.swarm, &self.settings.listen, tcp_only);
        if let Err(failure) = result {
            log::error!("{failure}");
            self.tell_failure(failure);
        }
        for at in self.settings.external.clone() {
            log::info!("reachable as configured: {at}");
            self.swarm.add_external_address(at);
        }
        self.weigh();
        self.enter_dht();
        self.tick();
    }

    fn tell_failure(&self, failure: SwarmFailed) {
        self.settings.failed.do_send(failure);
    }

    /// Tells gossipsub what was forgiven meanwhile.
    pub(super) fn forgive(&mut self, now: Instant) {
        if self.scores_due > now {
            return;
        }
        self.scores_due = now + FORGIVE;
        let gossip = self.swarm.behaviour_mut().gossip.gossip();
        for (peer, score) in self.scores.all(now) {
            gossip.set_application_score(&peer, score);
        }
    }

    fn publish(&mut self, topic: String, bytes: Vec<u8>) {
        let topic = gossipsub::IdentTopic::new(topic);
        let gossip = self.swarm.behaviour_mut().gossip.gossip();
        match gossip.publish(topic, bytes) {
            Ok(_) => {}
            Err(
                gossipsub::PublishError::NoPeersSubscribedToTopic
                | gossipsub::PublishError::Duplicate,
            ) => log::debug!("nobody hears what is published"),
            Err(error) => log::warn!(error:%; "gossip was not published"),
        }
    }

    fn report(&mut self, ticket: &GossipTicket, verdict: TransactionVerdict) {
        let acceptance = match verdict {
            TransactionVerdict::Accept => gossipsub::MessageAcceptance::Accept,
            TransactionVerdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            TransactionVerdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        let gossip = self.swarm.behaviour_mut().gossip.gossip();
        if verdict == TransactionVerdict::Reject {
            let score = self.scores.forged(ticket.source, Instant::now());
            gossip.set_application_score(&ticket.source, score);
        }
        gossip.report_message_validation_result(&ticket.message_id, &ticket.source, acceptance);
    }

    /// Hands news on, later where the actor is behind.
    fn news(&mut self, news: Discovery) {
        let event = Event::Discovery(news);
        let event = match self.held.is_empty() {
            true => match self.events.try_send(event) {
                Ok(()) => return,
                Err(error) => error.into_inner(),
            },
            false => event,
        };
        if self.held.len() < HELD_MAX {
            self.held.push_back(event);
        } else {
            log::error!("news of peers were lost: the node is overloaded");
        }
    }

    fn hand_on_held(&mut self) {
        while let Some(event) = self.held.pop_front() {
            if let Err(error) = self.events.try_send(event) {
                self.held.push_front(error.into_inner());
                return;
            }
        }
    }

    /// Hands work on; returns it where less than this share of the channel is free.
    fn work(&mut self, event: Event, share: usize) -> Option<Event> {
        let lost = match self.events.capacity() < limits::SWARM_EVENTS / share {
            true => Some(event),
            false => self.events.try_send(event).err().map(mpsc::error::TrySendError::into_inner),
        };
        if lost.is_some() {
            self.settings.meters.dropped(Dropped::ReceiveBehind);
        }
        lost
    }
}
