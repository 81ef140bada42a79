//! The task that owns the libp2p Swarm.
//!
//! Invariants: it awaits nothing but its own `select!`; when the actor is behind, gossip is
//! ignored and requests are dropped, so that news of peers always have room; what is found in a
//! DHT is dialled here and at once, since its addresses are forgotten with the query.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, gossipsub, kad,
    request_response::OutboundRequestId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use self::adverts::Adverts;
use super::{
    Discovery, GossipReceived, GossipTicket, ReplyTicket, RequestFailed, RequestReceived,
    SwarmFailed, SwarmSettings, address, behaviour::Behaviour, codec::Frame, good_peers::GoodPeer,
    listening, schedule::Backoff,
};
use crate::{
    actors::{
        rendezvous::{DhtStatus, NetworkStatus, PeerStatus},
        room::TransactionVerdict,
    },
    config::limits,
};

mod adverts;
mod discovery;
#[cfg(test)]
mod swarms;
mod translate;

/// How often backoffs and republishing are looked at.
const TICK: Duration = Duration::from_millis(250);
/// News that wait where the event channel is full.
const HELD_MAX: usize = 4096;
/// Peers that somebody wants to hear about.
const WANTED_MAX: usize = 1024;
/// Ticks after which a peer may send one more time its server_keys.
const IDENTITY_TICKS: u32 = 4;
/// Times that a peer may send its server_keys in a burst.
const IDENTITY_BURST: u8 = 8;

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Command {
    SetIdentity(Vec<u8>),
    Exchange(PeerId),
    Vouch(PeerId),
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
    Dial {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    FindProviders {
        ticket: u64,
        key: Vec<u8>,
    },
    FindNode {
        ticket: u64,
        peer: PeerId,
    },
    Provide(Vec<Vec<u8>>),
    Status(oneshot::Sender<NetworkStatus>),
    #[cfg(test)]
    Fail,
}

pub(super) type Answered = Result<Vec<u8>, RequestFailed>;

/// What the loop tells.
#[derive(Debug)]
pub(super) enum Event {
    Gossip(GossipReceived),
    Request(RequestReceived),
    Discovery(Discovery),
}

/// A connected peer.
#[derive(Debug, Default)]
struct Peer {
    connections: Vec<Connection>,
    /// Set by identify.
    identified: bool,
    ours: bool,
    addresses: Vec<Multiaddr>,
    rtt: Option<Duration>,
    identity_budget: u8,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    address: Multiaddr,
    dialled: bool,
    relayed: bool,
}

/// A node through which the network is entered.
#[derive(Debug)]
struct Anchor {
    address: Multiaddr,
    peer: Option<PeerId>,
    backoff: Backoff,
}

/// A relay that takes connections for us.
#[derive(Debug)]
struct Relay {
    address: Multiaddr,
    listener: Option<libp2p::core::transport::ListenerId>,
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
    peers: HashMap<PeerId, Peer>,
    wanted: HashSet<PeerId>,
    requests: HashMap<OutboundRequestId, oneshot::Sender<Answered>>,
    queries: HashMap<(Dht, kad::QueryId), Query>,
    adverts_lan: Adverts,
    adverts_wan: Adverts,
    /// Nodes of the public DHT that were good, and when they are written down next.
    good: Vec<GoodPeer>,
    good_due: Instant,
    anchors: Vec<Anchor>,
    relays: Vec<Relay>,
    /// Our address as others see it, and who said so.
    observed: HashMap<Multiaddr, HashSet<PeerId>>,
    /// Somebody from afar connected us directly.
    reached: bool,
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
        let relays = settings.static_relays.iter().map(|address| Relay {
            address: address.clone(),
            listener: None,
            backoff: Backoff::new(now),
        });
        Self {
            anchors: anchors.collect(),
            relays: relays.collect(),
            swarm,
            commands,
            events,
            held: VecDeque::new(),
            settings,
            identity: None,
            peers: HashMap::new(),
            wanted: HashSet::new(),
            requests: HashMap::new(),
            queries: HashMap::new(),
            adverts_lan: Adverts::family(),
            adverts_wan: Adverts::world(),
            good: Vec::new(),
            good_due: now + discovery::GOOD_FIRST,
            observed: HashMap::new(),
            reached: false,
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
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::SetIdentity(server_keys) => self.set_identity(server_keys),
            Command::Exchange(peer) => {
                if let Some(bytes) = self.identity.clone() {
                    let frame = Frame { bytes, budget: None };
                    self.swarm.behaviour_mut().identity.send_request(&peer, frame);
                }
            }
            Command::Vouch(peer) => self.swarm.behaviour_mut().door.vouch(&peer),
            Command::Admit(peer) => {
                self.swarm.behaviour_mut().door.admit(&peer);
                // Else the next connection would be open before its own proof.
                if self.peers.contains_key(&peer) {
                    self.swarm.behaviour_mut().gossip.admit(peer);
                }
            }
            Command::Dismiss(peer) => {
                self.swarm.behaviour_mut().door.dismiss(&peer);
                self.swarm.behaviour_mut().gossip.dismiss(&peer);
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
            Command::Request { peer, bytes, reply } => {
                let frame = Frame { bytes, budget: None };
                let id = self.swarm.behaviour_mut().federation.send_request(&peer, frame);
                self.requests.insert(id, reply);
            }
            Command::Reply { ticket, bytes } => {
                let _ = self.swarm.behaviour_mut().federation.send_response(ticket.0, bytes);
            }
            Command::Dial { peer, addresses } => self.dial(peer, addresses),
            Command::FindProviders { ticket, key } => self.find_providers(ticket, key),
            Command::FindNode { ticket, peer } => self.find_node(ticket, peer),
            Command::Provide(keys) => self.provide(keys),
            Command::Status(reply) => {
                let status = self.status();
                let _ = reply.send(status);
            }
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
        self.enter_dht();
        self.tick();
    }

    fn tell_failure(&self, failure: SwarmFailed) {
        self.settings.failed.do_send(failure);
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
        gossip.report_message_validation_result(&ticket.message_id, &ticket.source, acceptance);
    }

    /// Connects a peer that somebody waits for.
    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == *self.swarm.local_peer_id() {
            return self.news(Discovery::DialFailed(peer));
        }
        if let Some(known) = self.peers.get(&peer) {
            if known.identified {
                let (ours, addresses) = (known.ours, known.addresses.clone());
                self.news(Discovery::PeerSeen { peer, ours, addresses });
            } else {
                self.want(peer);
            }
            return;
        }
        self.want(peer);
        let addresses = addresses.into_iter().take(address::ADDRESSES_MAX);
        let options = DialOpts::peer_id(peer)
            .addresses(addresses.collect())
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                log::debug!(peer:%, error:%; "cannot dial");
                self.wanted.remove(&peer);
                self.news(Discovery::DialFailed(peer));
            }
        }
    }

    fn want(&mut self, peer: PeerId) {
        if self.wanted.len() < WANTED_MAX {
            self.wanted.insert(peer);
        }
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
        if self.events.capacity() < limits::SWARM_EVENTS / share {
            return Some(event);
        }
        self.events.try_send(event).err().map(mpsc::error::TrySendError::into_inner)
    }

    fn status(&mut self) -> NetworkStatus {
        let dht = self.dht_status();
        let external: HashSet<Multiaddr> = self
            .swarm
            .external_addresses()
            .chain(self.observed.keys())
            .map(address::without_peer)
            .collect();
        let private = self.settings.network.is_some();
        let reachability = match (self.reached, external.is_empty()) {
            (true, _) => "public",
            (false, _) if private => "private",
            (false, false) => "private",
            (false, true) => "unknown",
        };
        let peers = self.peers.iter().filter(|(_, peer)| peer.ours).filter_map(|(id, peer)| {
            let best = peer.connections.iter().min_by_key(|connection| connection.relayed)?;
            Some(PeerStatus {
                peer_id: id.to_string(),
                server_name: None,
                address: best.address.clone(),
                relayed: best.relayed,
                rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            })
        });
        NetworkStatus {
            peer_id: self.swarm.local_peer_id().to_string(),
            listen_addresses: self.swarm.listeners().cloned().collect(),
            external_addresses: external.into_iter().collect(),
            reachability: reachability.to_owned(),
            peers: peers.collect(),
            strangers: self.swarm.behaviour().door.strangers(),
            dht,
        }
    }
}
