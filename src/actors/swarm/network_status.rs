//! What `messagehub status` tells of the network.

use libp2p::Multiaddr;
use ruma::OwnedServerName;

/// What `status` tells of the network.
#[derive(
    Debug, Clone, Default, serde::Serialize, serde::Deserialize, actix::dev::MessageResponse,
)]
pub struct NetworkStatus {
    /// Our PeerId; empty before the network is up.
    pub peer_id: String,
    /// Where we listen.
    pub listen_addresses: Vec<Multiaddr>,
    /// Where we tell others that we can be reached, relays included.
    pub external_addresses: Vec<Multiaddr>,
    /// Those of them that need no relay: configured, or confirmed by nodes that connected back.
    #[serde(default)]
    pub confirmed_addresses: Vec<Multiaddr>,
    /// Whether and how others reach us.
    pub reachability: Reachability,
    /// What our router does to our addresses.
    #[serde(default)]
    pub nat: NatKind,
    /// What came of asking the router for ports.
    #[serde(default)]
    pub port_mapping: PortMapping,
    /// Relays that take connections for us now.
    #[serde(default)]
    pub relays: Vec<RelayStatus>,
    /// Topics of gossip.
    pub topics: TopicCounts,
    /// Connected nodes that speak our protocol.
    pub peers: Vec<PeerStatus>,
    /// Connections to nodes that do not, or have not proven who they are.
    #[serde(default)]
    pub strangers: usize,
    /// The DHTs.
    #[serde(default)]
    pub dht: Vec<DhtStatus>,
}

/// One DHT, and how we are found in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DhtStatus {
    /// `family` or `public`.
    pub name: String,
    /// Whether we serve others in it.
    pub server: bool,
    /// Nodes in our table.
    pub nodes: usize,
    /// Strings under which we want to be found.
    pub strings: usize,
    /// Those that were published.
    pub published: usize,
    /// Those that others gave back. Nodes of our own kind never tell us of ourselves, so that in
    /// the `family` it stays 0.
    pub read_back: usize,
}

/// Whether and how a node can be reached from outside of its own network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Directly, by anybody.
    Public,
    /// Through a relay alone.
    Relayed,
    /// From its own network alone: by choice, or since a router is in the way and no relay is there.
    Private,
    /// Nobody told anything yet.
    #[default]
    Unknown,
}

impl std::fmt::Display for Reachability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Relayed => "relayed",
            Self::Private => "private",
            Self::Unknown => "unknown",
        })
    }
}

/// What the router between a node and the others does to its addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NatKind {
    /// Nothing: others see the address on which we listen.
    None,
    /// The same address towards everybody (endpoint-independent mapping): hole punching works.
    Cone,
    /// Another port towards everybody: only whoever is reachable can be connected directly.
    Symmetric,
    /// Too few nodes have said what they see.
    #[default]
    Unknown,
}

impl std::fmt::Display for NatKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::Unknown => "unknown",
        })
    }
}

/// What came of asking the router to send to us what comes to our ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum PortMapping {
    /// It is not asked: turned off, or in a private network.
    #[default]
    Off,
    /// There is none on the side of any address of ours.
    NoRouter,
    /// It was asked, and has said nothing yet.
    Asked,
    /// It does so.
    Granted {
        /// How it was asked.
        protocol: MappingProtocol,
        /// Where what comes to us arrives.
        addresses: Vec<Multiaddr>,
    },
    /// It did so at an address that is as private as ours: behind it is another router.
    NotPublic {
        /// That address.
        address: Multiaddr,
    },
    /// It said no.
    Refused {
        /// In its words.
        why: String,
    },
    /// It speaks none of the protocols, or does not answer.
    Silent,
}

/// How a router is asked for ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MappingProtocol {
    /// The Port Control Protocol.
    #[serde(rename = "PCP")]
    Pcp,
    /// What was before it.
    #[serde(rename = "NAT-PMP")]
    NatPmp,
    /// Universal Plug and Play.
    #[serde(rename = "UPnP")]
    Upnp,
}

impl std::fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// A relay that takes connections for us.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct RelayStatus {
    /// Its PeerId.
    pub peer_id: String,
    /// Where it is.
    pub address: Multiaddr,
    /// Why it was chosen.
    pub kind: RelayKind,
}

/// Why a relay was chosen; the best first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum RelayKind {
    /// It is configured.
    Static,
    /// It speaks for somebody in a room of ours.
    Member,
    /// It was met, in the DHT or otherwise, and offers it to everybody.
    Stranger,
}

/// How a connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// One side simply dialled the other.
    Direct,
    /// Both dialled at the same moment, which they agreed on through a relay (DCUtR).
    Punched,
    /// Whoever was called through a relay dialled back.
    Reversed,
    /// Through a relay.
    Relayed,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Reversed => "reversed",
            Self::Relayed => "relayed",
        })
    }
}

/// Counts of topics: a joined room has one.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct TopicCounts {
    /// Subscribed ones.
    pub subscribed: usize,
    /// Those of them through which somebody hears us at once: at least one node is in the mesh.
    pub meshed: usize,
}

/// One connected node.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct PeerStatus {
    /// Its PeerId.
    pub peer_id: String,
    /// The server that it speaks for, once proven.
    pub server_name: Option<OwnedServerName>,
    /// Where it is connected.
    pub address: Multiaddr,
    /// How it is connected; the best way where there are several.
    pub way: Way,
    /// Whether the connection goes through a relay.
    pub relayed: bool,
    /// The PeerId of that relay.
    #[serde(default)]
    pub relay: Option<String>,
    /// Whether it is connected at an address of this machine or of its own network.
    #[serde(default)]
    pub near: bool,
    /// Whether it shares a room with us, so that gossip is open to it.
    pub gossips: bool,
    /// Whether it answered in time when it was last asked whether it is there.
    #[serde(default)]
    pub answers: bool,
    /// Round trip of the last ping, in milliseconds.
    pub rtt_ms: Option<f64>,
}
