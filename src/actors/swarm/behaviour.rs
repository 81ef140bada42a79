//! The protocols of a node, and their settings.
//!
//! Invariant: the limits come first, since a connection is denied by the first field that denies
//! it and everything after would have been told of it already.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol,
    allow_block_list::{self, BlockedPeers},
    connection_limits, gossipsub, identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping, relay, request_response,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use sha2::{Digest as _, Sha256};

use super::{
    codec::FrameCodec,
    gate::{Filter, Gate, Gossipsub},
};
use crate::{
    config::limits,
    proto::{server_keys, signed},
};

/// What identify calls our protocol family.
const FAMILY: &str = "/messagehub/1.0.0";
/// The exchange of server_keys.
pub(super) const IDENTITY: StreamProtocol = StreamProtocol::new("/messagehub/identity/1");
/// Signed requests.
const FEDERATION: StreamProtocol = StreamProtocol::new("/messagehub/federation/1");
/// The DHT among MessageHub nodes.
pub(super) const KAD_LAN: StreamProtocol = StreamProtocol::new("/messagehub/lan/kad/1.0.0");
/// The public IPFS DHT.
pub(super) const KAD_WAN: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

const CONNECTIONS_MAX: u32 = 320;
const CONNECTIONS_INBOUND_MAX: u32 = 160;
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
const PING_INTERVAL: Duration = Duration::from_secs(15);
const QUERY_WAIT: Duration = Duration::from_secs(30);
/// Provider records of nodes that are gone, and of names that were dropped, end after this.
const LAN_PROVIDER_TTL: Duration = Duration::from_secs(30 * 60);

/// Everything that this node speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad_lan: kad::Behaviour<kad::store::MemoryStore>,
    pub(super) kad_wan: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) gossip: Gate,
    pub(super) identity: request_response::Behaviour<FrameCodec>,
    pub(super) federation: request_response::Behaviour<FrameCodec>,
    relay: relay::client::Behaviour,
}

/// What differs from node to node.
pub(super) struct Choices {
    /// Never connected.
    pub(super) blocked: Vec<PeerId>,
    pub(super) mdns: bool,
    pub(super) wan: bool,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn build(
    key: &Keypair,
    relay: relay::client::Behaviour,
    choices: &Choices,
) -> Result<Behaviour, Fault> {
    let me = PeerId::from(key.public());
    let mdns = choices.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me));
    // A machine without multicast still has all the other ways.
    let mdns = mdns.and_then(|mdns| {
        mdns.inspect_err(|error| log::warn!(error:%; "no nodes of the LAN will be found")).ok()
    });
    let identify = identify::Config::new(FAMILY.to_owned(), key.public())
        .with_agent_version(format!("messagehub/{}", env!("CARGO_PKG_VERSION")))
        .with_cache_size(256)
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
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
        kad_lan: kad_lan(me),
        kad_wan: choices.wan.then(|| kad_wan(me)).into(),
        mdns: mdns.into(),
        gossip: Gate::new(gossipsub()?),
        identity: exchange(IDENTITY, server_keys::MAX_LEN, server_keys::MAX_LEN, IDENTITY_WAIT),
        federation: exchange(
            FEDERATION,
            signed::MAX_REQUEST_LEN,
            signed::MAX_ANSWER_LEN,
            REQUEST_WAIT,
        ),
        relay,
    })
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

fn kad_lan(me: PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(KAD_LAN);
    config
        .set_query_timeout(QUERY_WAIT)
        .set_provider_record_ttl(Some(LAN_PROVIDER_TTL))
        .set_provider_publication_interval(None);
    let store = kad::store::MemoryStore::with_config(
        me,
        // Nobody stores values here.
        kad::store::MemoryStoreConfig { max_records: 0, ..Default::default() },
    );
    let mut kad = kad::Behaviour::with_config(me, store, config);
    // Nodes of a LAN never learn that they can be reached, and all of them can.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn kad_wan(me: PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(KAD_WAN);
    config
        .set_query_timeout(QUERY_WAIT)
        .set_provider_publication_interval(None)
        // Else private addresses of whoever is connected would enter the table.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let mut kad = kad::Behaviour::with_config(me, kad::store::MemoryStore::new(me), config);
    kad.set_mode(Some(kad::Mode::Client));
    kad
}

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
    let gossipsub = Gossipsub::new_with_subscription_filter(
        gossipsub::MessageAuthenticity::Anonymous,
        config,
        filter,
    )?;
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
