//! The libp2p node: the only place that speaks libp2p.
//!
//! [`SwarmActor`] is a thin shell around a spawned task that owns the libp2p `Swarm`
//! (`event_loop.rs`): commands go in by a bounded channel, events come out by another. Neither
//! side ever waits for the other. Invariants: nothing listens or dials before an identity is
//! there; gossip reaches only peers that proved an identity (`gate.rs`); what a peer sends is
//! bounded before it is read (`codec.rs`); no address that a DHT named is dialled or kept unseen
//! (`kademlia.rs`); whoever shares no room makes room for who does (`door.rs`).

mod actor;
mod address;
mod behaviour;
mod codec;
mod door;
mod event_loop;
mod gate;
mod good_peers;
mod hasty;
mod kademlia;
mod key;
mod listening;
mod messages;
mod near;
mod network_status;
mod observed;
mod peers;
mod port_mapping;
mod probe;
mod probing;
mod pulse;
mod reachability;
mod relay_server;
mod retest;
mod reunion;
mod schedule;
mod score;
mod surplus;
mod transport;
mod zone;

pub use actor::{SwarmActor, SwarmSettings};
pub use address::read_address;
pub use key::{load_or_create_key, peer_id};
pub use messages::*;
pub use network_status::*;
pub use probe::{Probed, Reached, probe};
pub use transport::SwarmError;

/// A libp2p node, for those who only compare and hand it on.
pub type PeerKey = libp2p::PeerId;
/// The libp2p key of this node.
pub type NodeKey = libp2p::identity::Keypair;
