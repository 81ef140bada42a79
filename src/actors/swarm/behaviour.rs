//! The protocols of a node, and their settings.
//!
//! Invariant: the limits come first, since a connection is denied by the first field that denies
//! it and everything after would have been told of it already.

use std::{num::NonZeroUsize, time::Duration};

use libp2p::{
    PeerId, StreamProtocol,
    allow_block_list::{self, BlockedPeers},
    autonat, connection_limits, dcutr, gossipsub, identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping, relay, request_response,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use sha2::{Digest as _, Sha256};

use super::{
    codec::FrameCodec,
    door::Door,
    gate::{Filter, Gate, Gossipsub},
    kademlia::{self, Kademlia, Scope},
    observed, port_mapping,
    probing::Probing,
    pulse,
    relay_server::RelayServer,
    score,
};
use crate::{
    config::{RelayConfig, RelayServe, limits},
    proto::{media::piece, server_keys, signed},
};

/// What identify calls our protocol family.
const FAMILY: &str = "/messagehub/1.0.0";
/// The exchange of server_keys.
pub(super) const IDENTITY: StreamProtocol = StreamProtocol::new("/messagehub/identity/1");
/// Signed requests.
const FEDERATION: StreamProtocol = StreamProtocol::new("/messagehub/federation/1");
/// Pieces of media.
const MEDIA: StreamProtocol = StreamProtocol::new("/messagehub/media/1");
/// The DHT among MessageHub nodes.
pub(super) const KAD_LAN: StreamProtocol = StreamProtocol::new("/messagehub/lan/kad/1.0.0");
/// What a relay speaks (circuit relay v2).
pub(super) const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// What a node speaks that tests for others whether they can be reached (AutoNAT v2).
pub(super) const AUTONAT: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-request");
/// The public IPFS DHT.
pub(super) const KAD_WAN: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

const CONNECTIONS_MAX: u32 = 320;
/// Strangers and acquaintances together never hold as many (`door/guests.rs`): the rest is for
/// members of shared rooms, whoever connected whom.
const CONNECTIONS_INBOUND_MAX: u32 = 256;
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
const CONNECTIONS_PENDING_MAX: u32 = 64;
/// Share of the machine's memory above which no new connection is made.
const MEMORY_SHARE: f64 = 0.6;
/// Topics of one peer; the default of 100 would cut a node with more rooms off.
const TOPICS_MAX: usize = 8192;
const CONTROL_MAX: usize = 512 * 1024;
const IDENTITY_WAIT: Duration = Duration::from_secs(10);
/// Longer than any deadline of those who ask.
const REQUEST_WAIT: Duration = Duration::from_secs(60);
/// Four pieces through a slow link.
const PIECES_WAIT: Duration = Duration::from_secs(60);
const PING_INTERVAL: Duration = Duration::from_secs(15);
const QUERY_WAIT: Duration = Duration::from_secs(30);
/// How often the table of the public DHT is refreshed; strangers pay for each time.
const REFRESH_WORLD: Duration = Duration::from_secs(20 * 60);
/// Nodes that keep a record of the family's DHT, and that a query asks. It is renewed every 10
/// minutes by nodes that mean well, so the usual 20 would only cost more than twice as much.
const FAMILY_REPLICATION: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Provider records of nodes that are gone, and of names that were dropped, end after this.
const LAN_PROVIDER_TTL: Duration = Duration::from_secs(30 * 60);

/// Everything that this node speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    limits: connection_limits::Behaviour,
    pub(super) door: Door,
    memory: memory_connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) pulse: pulse::Behaviour,
    pub(super) kad_lan: Kademlia,
    pub(super) kad_wan: Toggle<Kademlia>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    /// The library does one of the two.
    pub(super) mdns_six: Toggle<mdns::tokio::Behaviour>,
    pub(super) gossip: Gate,
    pub(super) identity: request_response::Behaviour<FrameCodec>,
    pub(super) federation: request_response::Behaviour<FrameCodec>,
    pub(super) media: request_response::Behaviour<FrameCodec>,
    pub(super) relay: relay::client::Behaviour,
    pub(super) relay_server: Toggle<RelayServer>,
    pub(super) observed: Toggle<observed::Behaviour>,
    pub(super) probe: Toggle<Probing<autonat::v2::client::Behaviour>>,
    pub(super) probed: Toggle<Probing<autonat::v2::server::Behaviour>>,
    pub(super) dcutr: Toggle<dcutr::Behaviour>,
    pub(super) port_mapping: Toggle<port_mapping::Behaviour>,
}

/// What differs from node to node.
pub(super) struct Choices {
    /// Never connected.
    pub(super) blocked: Vec<PeerId>,
    pub(super) mdns: bool,
    pub(super) wan: bool,
    /// In a private network.
    pub(super) closed: bool,
    /// Routers may be in the way: not so in a private network.
    pub(super) traversal: bool,
    pub(super) relay: RelayConfig,
    /// Whether the router is asked to send to us what comes to our ports.
    pub(super) port_mapping: bool,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn build(
    key: &Keypair,
    relay: relay::client::Behaviour,
    choices: &Choices,
) -> Result<Behaviour, Fault> {
    let me = PeerId::from(key.public());
    let identify = identify::Config::new(FAMILY.to_owned(), key.public())
        .with_agent_version(format!("messagehub/{}", env!("CARGO_PKG_VERSION")))
        // What peers say of themselves is filtered first (`address::usable`), then told to the
        // Swarm: a stranger may name machines of our LAN, or our own
        // loopback address, where we find ourselves, which ends the whole dial.
        .with_cache_size(0)
        .with_push_listen_addr_updates(true);
    let mut blocked = allow_block_list::Behaviour::default();
    for peer in &choices.blocked {
        blocked.block_peer(*peer);
    }
    Ok(Behaviour {
        blocked,
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default()
                .with_max_pending_incoming(Some(CONNECTIONS_PENDING_MAX))
                .with_max_pending_outgoing(Some(CONNECTIONS_PENDING_MAX))
                .with_max_established_incoming(Some(CONNECTIONS_INBOUND_MAX))
                .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
                .with_max_established(Some(CONNECTIONS_MAX)),
        ),
        door: Door::new(),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
        pulse: pulse::Behaviour::default(),
        kad_lan: kad_lan(me, choices.closed),
        kad_wan: choices.wan.then(|| kad_wan(me)).into(),
        mdns: choices.mdns.then(|| mdns(me, false)).flatten().into(),
        mdns_six: choices.mdns.then(|| mdns(me, true)).flatten().into(),
        gossip: Gate::new(gossipsub()?),
        identity: exchange(IDENTITY, server_keys::MAX_LEN, server_keys::MAX_LEN, IDENTITY_WAIT),
        federation: exchange(
            FEDERATION,
            signed::MAX_REQUEST_LEN,
            signed::MAX_ANSWER_LEN,
            REQUEST_WAIT,
        ),
        media: exchange(MEDIA, piece::REQUEST_LEN, piece::ANSWER_LEN, PIECES_WAIT),
        relay,
        relay_server: (choices.relay.serve != RelayServe::Off)
            .then(|| RelayServer::new(me, &choices.relay))
            .into(),
        observed: choices.traversal.then(observed::Behaviour::default).into(),
        probe: choices
            .traversal
            .then(|| Probing::client(autonat::v2::client::Behaviour::default()))
            .into(),
        probed: choices
            .traversal
            .then(|| Probing::server(autonat::v2::server::Behaviour::default()))
            .into(),
        dcutr: choices.traversal.then(|| dcutr::Behaviour::new(me)).into(),
        port_mapping: choices.port_mapping.then(port_mapping::Behaviour::default).into(),
    })
}

/// Looks for nodes of the LAN. A machine without multicast still has all the other ways.
fn mdns(me: PeerId, enable_ipv6: bool) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { enable_ipv6, ..mdns::Config::default() };
    let mdns = mdns::tokio::Behaviour::new(config, me);
    mdns.inspect_err(|error| log::warn!(error:%; "no nodes of the LAN will be found")).ok()
}

fn exchange(
    name: StreamProtocol,
    request_limit: usize,
    answer_limit: usize,
    wait: Duration,
) -> request_response::Behaviour<FrameCodec> {
    request_response::Behaviour::with_codec(
        FrameCodec::new(request_limit, answer_limit),
        [(name, request_response::ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(wait)
            .with_max_concurrent_streams(limits::WORK_PEER),
    )
}

fn kad_lan(me: PeerId, closed: bool) -> Kademlia {
    let mut config = kad::Config::new(KAD_LAN);
    config
        .set_replication_factor(FAMILY_REPLICATION)
        .set_query_timeout(QUERY_WAIT)
        .set_provider_record_ttl(Some(LAN_PROVIDER_TTL))
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_provider_publication_interval(None);
    let scope = if closed { Scope::Closed } else { Scope::Family };
    let mut kad = kad::Behaviour::with_config(me, kademlia::store(me, scope), config);
    // Nodes of a LAN never learn that they can be reached, and all of them can.
    kad.set_mode(Some(kad::Mode::Server));
    Kademlia::new(me, kad, scope)
}

fn kad_wan(me: PeerId) -> Kademlia {
    let mut config = kad::Config::new(KAD_WAN);
    config
        .set_query_timeout(QUERY_WAIT)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(REFRESH_WORLD))
        // Else private addresses of whoever is connected would enter the table.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let store = kademlia::store(me, Scope::World);
    let mut kad = kad::Behaviour::with_config(me, store, config);
    kad.set_mode(Some(kad::Mode::Client));
    Kademlia::new(me, kad, Scope::World)
}

/// Promises of messages that a peer may break, and grafts that may come too early, within some seconds:
/// as a cut leaves behind. The clients of Ethereum's beacon chain allow as many.
const BROKEN_PROMISES: f64 = 6.0;

fn gossipsub() -> Result<Gossipsub, Fault> {
    let config = gossipsub::ConfigBuilder::default()
        .validate_messages()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(message_id)
        .max_transmit_size(limits::GOSSIP_MESSAGE + 1024)
        .max_control_message_size(CONTROL_MAX)
        .mesh_n_low(2)
        .mesh_n(4)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .history_length(12)
        .history_gossip(3)
        .duplicate_cache_time(Duration::from_secs(10 * 60))
        .heartbeat_initial_delay(Duration::from_secs(1))
        .build()?;
    let filter = Filter {
        filter: gossipsub::AllowAllSubscriptionFilter {},
        max_subscribed_topics: TOPICS_MAX,
        max_subscriptions_per_request: TOPICS_MAX,
    };
    let mut gossipsub = Gossipsub::new_with_subscription_filter(
        gossipsub::MessageAuthenticity::Anonymous,
        config,
        filter,
    )?;
    // No parameters by topic: they reward traffic, and rooms are silent. Forged messages are counted
    // in `score.rs`; how many come from one address is the business of `door.rs`.
    let scoring = gossipsub::PeerScoreParams {
        app_specific_weight: 1.0,
        ip_colocation_factor_weight: 0.0,
        // What waited for a dead connection too long is no fault of the peer's: to prune it for that
        // would keep it out of the mesh for a minute after each bad day.
        slow_peer_weight: 0.0,
        // Nor are some promises that were given before the connection broke.
        behaviour_penalty_threshold: BROKEN_PROMISES,
        ..Default::default()
    };
    let thresholds = gossipsub::PeerScoreThresholds {
        gossip_threshold: score::GOSSIP,
        publish_threshold: score::PUBLISH,
        graylist_threshold: score::GRAYLIST,
        ..Default::default()
    };
    gossipsub.with_peer_score(scoring, thresholds)?;
    Ok(gossipsub)
}

/// Messages name nobody, so the id is of what they say: a hash of topic and data.
fn message_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let digest = Sha256::new()
        .chain_update(message.topic.as_str().as_bytes())
        .chain_update(&message.data)
        .finalize();
    gossipsub::MessageId::from(digest.iter().take(20).copied().collect::<Vec<u8>>())
}
