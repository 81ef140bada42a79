//! What Rendezvous is asked: who is where, and finding people.

use std::time::Duration;

use actix::Message;
use libp2p::PeerId;
use ruma::{OwnedServerName, OwnedUserId};

use crate::actors::swarm::{NetworkStatus, PeerKey};

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
    /// `@p2p:<server name>`, or who registered there.
    pub user_id: OwnedUserId,
    /// The name they show now.
    pub displayname: Option<String>,
    /// The avatar they show now.
    pub avatar_url: Option<String>,
}

/// Sets the names under which this node advertises its people; the strings of older names
/// are dropped. Sent by Accounts at start and after each change.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Advertise {
    /// The name that the owner shows; `p2p` where none was chosen.
    pub display_name: String,
    /// The names of those who registered here.
    pub others: Vec<String>,
}

/// Asks what `status` tells of the network.
#[derive(Message, Debug)]
#[rtype(result = "NetworkStatus")]
pub struct ReadNetwork;

/// Sets who asks other servers for profiles, and who compares clocks. Sent once, by whoever wires the
/// network.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AskWith {
    /// RelayRequest.
    pub federation: actix::Recipient<crate::actors::upward::SendFederation>,
    /// RelayRequest.
    pub clock_seen: actix::Recipient<crate::actors::rendezvous::ClockSeen>,
}

/// Which servers share a joined room with us, as a difference to what was told before. Gossip flows
/// with nodes of these alone. Sent by RoomState.
#[derive(Message, Debug, Default)]
#[rtype(result = "()")]
pub struct SharedServers {
    /// They do from now on.
    pub added: Vec<OwnedServerName>,
    /// They do no longer.
    pub removed: Vec<OwnedServerName>,
}

/// When a node signed what came from it, against our clock. Sent by this actor's own parts, and by
/// Rendezvous of server_keys that seem to come from another time.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct ClockSeen {
    /// Whose clock.
    pub peer: PeerKey,
    /// Theirs minus ours, in milliseconds.
    pub apart_ms: i64,
}
