//! The nodes of the public DHT that were good the last time, in a file of the data folder.
//!
//! With them a node finds its way back while every bootstrap node is down. Invariants: a few, of
//! different networks, so that nobody fills the list with nodes of one's own; what cannot be read
//! is an empty list; the file is replaced, never half written.

use std::{collections::HashMap, fs, io, net::IpAddr, path::Path};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

use super::address;

const FILE: &str = "dht-peers.json";
/// Nodes that are kept.
const KEPT_MAX: usize = 20;
/// Of these, nodes of one /16, or /32 with IPv6: one provider of servers, roughly.
const SAME_NET_MAX: usize = 3;
/// Addresses of one node.
const ADDRESSES_MAX: usize = 4;
/// A file that is longer is none of ours.
const FILE_MAX: u64 = 64 * 1024;
/// After this a node has moved.
const AGE_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// A node that was good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GoodPeer {
    peer_id: String,
    addresses: Vec<Multiaddr>,
    seen_ts: u64,
}

impl GoodPeer {
    /// None where no address reaches everywhere.
    pub(super) fn new(peer: PeerId, addresses: &[Multiaddr], seen_ts: u64) -> Option<Self> {
        let good = addresses.iter().filter(|at| address::reach(at) == address::Reach::Global);
        let addresses: Vec<_> = good.take(ADDRESSES_MAX).cloned().collect();
        let known = !addresses.is_empty();
        known.then(|| Self { peer_id: peer.to_string(), addresses, seen_ts })
    }

    /// Returns who and where.
    pub(super) fn place(&self) -> Option<(PeerId, &[Multiaddr])> {
        Some((self.peer_id.parse().ok()?, &self.addresses))
    }
}

/// Chooses whom to keep: those that were seen last, few of one net.
pub(super) fn choose(known: Vec<GoodPeer>, now_ms: u64) -> Vec<GoodPeer> {
    let mut known = known;
    known.retain(|one| one.seen_ts <= now_ms && now_ms - one.seen_ts <= AGE_MS);
    known.sort_by_key(|one| std::cmp::Reverse(one.seen_ts));
    let mut nets: HashMap<Option<u32>, usize> = HashMap::new();
    let mut chosen: Vec<GoodPeer> = Vec::new();
    for one in known {
        let net = one.addresses.first().and_then(net);
        let same = nets.entry(net).or_default();
        let again = chosen.iter().any(|other| other.peer_id == one.peer_id);
        if *same < SAME_NET_MAX && !again && chosen.len() < KEPT_MAX {
            *same += 1;
            chosen.push(one);
        }
    }
    chosen
}

fn net(at: &Multiaddr) -> Option<u32> {
    let ip: IpAddr = match at.iter().next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    Some(match ip {
        IpAddr::V4(ip) => ip.to_bits() >> 16,
        IpAddr::V6(ip) => u32::try_from(ip.to_bits() >> 96).unwrap_or_default(),
    })
}

/// Reads the list of a data folder.
pub(super) fn load(data: &Path, now_ms: u64) -> Vec<GoodPeer> {
    let path = data.join(FILE);
    let short = fs::metadata(&path).is_ok_and(|file| file.len() <= FILE_MAX);
    let bytes = if short { fs::read(&path).unwrap_or_default() } else { Vec::new() };
    let known: Vec<GoodPeer> = serde_json::from_slice(&bytes).unwrap_or_default();
    choose(known, now_ms)
}

/// Writes the list of a data folder. Lost in a power cut, it is built anew.
pub(super) fn save(data: &Path, peers: &[GoodPeer]) -> io::Result<()> {
    let path = data.join(FILE);
    let draft = path.with_extension("json.new");
    fs::write(&draft, serde_json::to_vec(peers)?)?;
    fs::rename(&draft, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn peer(at: &str, seen_ts: u64) -> GoodPeer {
        GoodPeer::new(PeerId::random(), &[at.parse().unwrap()], seen_ts).unwrap()
    }

    #[test]
    fn the_last_seen_of_different_nets_are_kept() {
        let mut known: Vec<_> =
            (0..50_u64).map(|n| peer(&format!("/ip4/8.{n}.0.1/tcp/1"), NOW - n)).collect();
        known.extend((0..50_u64).map(|n| peer(&format!("/ip4/9.9.{n}.1/tcp/1"), NOW)));
        known.push(peer("/ip4/11.0.0.1/tcp/1", NOW - AGE_MS - 1));
        known.push(peer("/ip4/12.0.0.1/tcp/1", NOW + 1));
        known.push(known[0].clone());
        let chosen = choose(known.clone(), NOW);
        assert_eq!(chosen.len(), KEPT_MAX);
        let of_nine = chosen.iter().filter(|one| net(&one.addresses[0]) == Some(0x0909)).count();
        assert_eq!(of_nine, SAME_NET_MAX);
        assert!(chosen.contains(&known[0]) && chosen.contains(&known[16]));
        assert!(!chosen.contains(&known[17]), "it was seen earlier than the others");
    }

    #[test]
    fn no_private_address_is_kept() {
        let lan = ["/ip4/192.168.1.2/tcp/1".parse().unwrap()];
        assert_eq!(GoodPeer::new(PeerId::random(), &lan, NOW), None);
    }

    #[test]
    fn the_list_survives_and_nonsense_is_nothing() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(load(data.path(), NOW), []);
        let peers = [peer("/ip4/8.8.8.8/tcp/1", NOW), peer("/ip6/2001:db8::1/tcp/1", NOW - 1)];
        save(data.path(), &peers).unwrap();
        assert_eq!(load(data.path(), NOW), peers);
        assert!(peers[0].place().is_some());
        for nonsense in ["{", "[1]", &"[".repeat(100_000)] {
            fs::write(data.path().join(FILE), nonsense).unwrap();
            assert_eq!(load(data.path(), NOW), []);
        }
    }
}
