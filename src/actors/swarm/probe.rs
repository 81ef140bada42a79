//! Dials some nodes from a throw-away node, to tell whether they can be reached from here.
//!
//! Used by the doctor, beside or without the node itself. Invariants: the key is new and forgotten
//! afterwards; nothing listens; nothing is said but who we are (identify).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, Transport as _,
    core::upgrade::Version,
    identify, noise,
    pnet::{PnetConfig, PreSharedKey},
    swarm::{ConnectionId, DialError, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};

use super::{
    SwarmError, address,
    behaviour::KAD_WAN,
    transport::{NetworkKey, PrivateOnly},
};

/// What identify calls us: nobody takes us for a node of the network.
const FAMILY: &str = "/messagehub-doctor/1";
/// Nodes that are dialled; more are left out.
const PROBED_MAX: usize = 32;

/// What came of one node.
#[derive(Debug, Clone)]
pub struct Probed {
    /// As it was given.
    pub address: Multiaddr,
    /// How it was reached, or why not, in one line.
    pub result: Result<Reached, String>,
}

/// How a node was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// From the dial until it said who it is.
    pub took: Duration,
    /// Whether it serves the public DHT.
    pub dht: bool,
    /// Our address as it sees us.
    pub observed: Multiaddr,
}

/// Dials nodes, all at once, and waits for what becomes of them.
pub async fn probe(
    addresses: &[Multiaddr],
    secret: Option<&str>,
    wait: Duration,
) -> Result<Vec<Probed>, SwarmError> {
    let mut swarm = build(secret.map(NetworkKey::derive))?;
    let begin = Instant::now();
    let mut results: Vec<Probed> = Vec::new();
    let mut dialled: HashMap<ConnectionId, usize> = HashMap::new();
    for address in addresses.iter().take(PROBED_MAX) {
        let waiting = Err(format!("no answer within {} s", wait.as_secs()));
        let mut probed = Probed { address: address.clone(), result: waiting };
        let options = match address::peer_of(address) {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address.clone()])
                .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                .build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let connection = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => {
                dialled.insert(connection, results.len());
            }
            Err(error) => probed.result = Err(in_words(&error)),
        }
        results.push(probed);
    }
    let done = async {
        while !dialled.is_empty() {
            let (connection, result) = match swarm.select_next_some().await {
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    (connection_id, Err(in_words(&error)))
                }
                SwarmEvent::Behaviour(identify::Event::Received {
                    connection_id, info, ..
                }) => {
                    let reached = Reached {
                        took: begin.elapsed(),
                        dht: info.protocols.contains(&KAD_WAN),
                        observed: info.observed_addr,
                    };
                    (connection_id, Ok(reached))
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } => {
                    (connection_id, Err("it closed the connection at once".to_owned()))
                }
                _ => continue,
            };
            if let Some(probed) = dialled.remove(&connection).and_then(|at| results.get_mut(at)) {
                probed.result = result;
            }
        }
    };
    // Whoever has not answered by then keeps the text above.
    let _ = tokio::time::timeout(wait, done).await;
    Ok(results)
}

fn build(network: Option<NetworkKey>) -> Result<Swarm<identify::Behaviour>, SwarmError> {
    let failed = |error: &dyn std::fmt::Display| SwarmError::Build(error.to_string());
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let tcp = || tcp::Config::default().nodelay(true);
    let who = |key: &libp2p::identity::Keypair| {
        identify::Behaviour::new(
            identify::Config::new(FAMILY.to_owned(), key.public())
                .with_agent_version(format!("messagehub/{}", env!("CARGO_PKG_VERSION"))),
        )
    };
    let swarm = match network {
        None => builder
            .with_tcp(tcp(), noise::Config::new, yamux::Config::default)
            .map_err(|error| failed(&error))?
            .with_quic()
            .with_dns()
            .map_err(|error| failed(&error))?
            .with_behaviour(who)
            .map_err(|error| failed(&error))?
            .build(),
        Some(network) => {
            let shared = PreSharedKey::new(network.0);
            builder
                .with_other_transport(|key| {
                    let noise = noise::Config::new(key)?;
                    let transport = PrivateOnly(tcp::tokio::Transport::new(tcp()))
                        .and_then(move |socket, _| PnetConfig::new(shared).handshake(socket))
                        .upgrade(Version::V1Lazy)
                        .authenticate(noise)
                        .multiplex(yamux::Config::default());
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(transport)
                })
                .map_err(|error| failed(&error))?
                .with_dns()
                .map_err(|error| failed(&error))?
                .with_behaviour(who)
                .map_err(|error| failed(&error))?
                .build()
        }
    };
    Ok(swarm)
}

/// Says why somebody was not reached. The library's own words hold every layer of it.
fn in_words(error: &DialError) -> String {
    if matches!(error, DialError::WrongPeerId { .. }) {
        return "another node is at this address".to_owned();
    }
    let text = error.to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let known = [
        ("refused", "nothing listens there"),
        ("unreachable", "no way leads there"),
        ("timed out", "no answer"),
        ("timeout", "no answer"),
        ("resolve", "its name was not found"),
        ("record", "its name was not found"),
        ("dns", "its name was not found"),
    ];
    let known = known.iter().find(|(sign, _)| line.contains(sign));
    known.map_or_else(|| line.chars().take(120).collect(), |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A node that says who it is, in the open or behind a secret.
    async fn node(secret: Option<&str>) -> Multiaddr {
        let mut swarm = build(secret.map(NetworkKey::derive)).unwrap();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let at = at.with(libp2p::multiaddr::Protocol::P2p(*swarm.local_peer_id()));
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        at
    }

    #[tokio::test]
    async fn who_is_there_is_told_from_who_is_not() {
        let there = node(None).await;
        let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nowhere: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", nowhere.port()).parse().unwrap();
        let mut somebody_else = there.clone();
        somebody_else.pop();
        let peer = libp2p::PeerId::random();
        let somebody_else = somebody_else.with(libp2p::multiaddr::Protocol::P2p(peer));
        let found = probe(&[there.clone(), nowhere, somebody_else], None, WAIT).await.unwrap();
        let reached = found[0].result.as_ref().unwrap();
        assert_eq!(address::reach(&reached.observed), address::Reach::Loopback);
        assert!(!reached.dht);
        assert_eq!(found[1].result, Err("nothing listens there".to_owned()));
        assert_eq!(found[2].result, Err("another node is at this address".to_owned()));
        assert_eq!(found[0].address, there);
    }

    #[tokio::test]
    async fn a_private_network_is_reached_with_its_secret_alone() {
        let there = [node(Some("a secret of this test")).await];
        for (secret, reached) in
            [(Some("a secret of this test"), true), (Some("another one"), false), (None, false)]
        {
            let found = probe(&there, secret, WAIT).await.unwrap();
            assert_eq!(found[0].result.is_ok(), reached, "{secret:?}: {found:?}");
        }
    }
}
