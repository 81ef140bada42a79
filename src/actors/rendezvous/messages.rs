//! What Rendezvous is asked: who is where, and finding people.

use std::{sync::Arc, time::Duration};

use actix::Message;
use libp2p::{Multiaddr, PeerId};
use ruma::{OwnedServerName, OwnedUserId};

use crate::proto::signer::Signer;

/// Asks for the libp2p node that speaks for a server, connected and checked: live connections
/// first, then the address book, then the rendezvous `p2p:<server name>`.
#[derive(Message, Debug)]
#[rtype(result = "Option<PeerId>")]
pub struct ResolveServer {
    /// Which server.
    pub server_name: OwnedServerName,
    /// Longest wait.
    pub timeout: Duration,
}

/// Asks for all servers whose node is connected and proven now.
#[derive(Message, Debug)]
#[rtype(result = "Vec<(OwnedServerName, PeerId)>")]
pub struct ReadProven;

/// Finds people by what somebody typed (`proto::rendezvous::SearchTerm`). Every result was
/// connected, its server_keys checked, and the shown profile asked by a signed request. Answers
/// what was found when the time is over, earlier where nothing more can come.
#[derive(Message, Debug)]
#[rtype(result = "Vec<FoundPerson>")]
pub struct SearchPeople {
    /// What was typed.
    pub term: String,
    /// Most results.
    pub limit: usize,
    /// Longest wait.
    pub timeout: Duration,
}

/// A person that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPerson {
    /// `@p2p:<server name>`.
    pub user_id: OwnedUserId,
    /// The name they show now.
    pub displayname: Option<String>,
    /// The avatar they show now.
    pub avatar_url: Option<String>,
}

/// Sets the display name under which this node advertises itself; the strings of an older name
/// are dropped. Sent by Accounts at start and after each change.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Advertise {
    /// The shown name; `p2p` where none was chosen.
    pub display_name: String,
}

/// Sets the signer; again whenever server_keys were issued anew (they go to every peer then).
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct UseSigner(pub Arc<Signer>);

/// Asks what `status` tells of the network.
#[derive(Message, Debug)]
#[rtype(result = "NetworkStatus")]
pub struct ReadNetwork;

/// What `status` tells of the network.
#[derive(
    Debug, Clone, Default, serde::Serialize, serde::Deserialize, actix::dev::MessageResponse,
)]
pub struct NetworkStatus {
    /// Our PeerId; empty before the network is up.
    pub peer_id: String,
    /// Where we listen.
    pub listen_addresses: Vec<Multiaddr>,
    /// Where others say that we can be reached.
    pub external_addresses: Vec<Multiaddr>,
    /// `public`, `private` or `unknown`.
    pub reachability: String,
    /// Connected nodes that speak our protocol.
    pub peers: Vec<PeerStatus>,
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
    /// Whether the connection goes through a relay.
    pub relayed: bool,
    /// Round trip of the last ping, in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// Sets who asks other servers for profiles. Sent once, by whoever wires the network.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AskWith(pub actix::Recipient<crate::actors::relay_request::SendFederation>);
