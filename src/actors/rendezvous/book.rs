//! The address book on disk: a row of the Store for each node of a server.

use libp2p::{Multiaddr, PeerId};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::places::Place;

/// The value of a row, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    addresses: Vec<Multiaddr>,
    valid_until_ts: u64,
    seen_ts: u64,
}

/// Encodes the value of a row.
pub(super) fn encode(place: &Place<PeerId, Multiaddr>) -> Option<Vec<u8>> {
    let entry = Entry {
        addresses: place.addresses.clone(),
        valid_until_ts: place.valid_until_ts,
        seen_ts: place.seen_ts,
    };
    serde_json::to_vec(&entry).ok()
}

/// Decodes a row; one that cannot be read is nothing lost.
pub(super) fn decode(
    server: OwnedServerName,
    peer_id: &str,
    value: &[u8],
) -> Option<(OwnedServerName, Place<PeerId, Multiaddr>)> {
    let entry: Entry = serde_json::from_slice(value).ok()?;
    let place = Place {
        peer: peer_id.parse().ok()?,
        addresses: entry.addresses,
        valid_until_ts: entry.valid_until_ts,
        seen_ts: entry.seen_ts,
    };
    Some((server, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_and_nonsense_is_nothing() {
        let place = Place {
            peer: PeerId::random(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()],
            valid_until_ts: 1,
            seen_ts: 2,
        };
        let name = ruma::server_name!("ann").to_owned();
        let row = encode(&place).unwrap();
        let peer = place.peer.to_string();
        assert_eq!(decode(name.clone(), &peer, &row), Some((name.clone(), place)));
        assert_eq!(decode(name.clone(), &peer, b"{}"), None);
        assert_eq!(decode(name, "nobody", &row), None);
    }
}
