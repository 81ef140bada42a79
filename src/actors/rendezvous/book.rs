//! The address book: where servers were last reached, a row of the Store each.
//!
//! Invariant: a row is a place to look, never a proof.

use libp2p::{Multiaddr, PeerId};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::machine::Place;

/// The value of a row, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    peer_id: String,
    addresses: Vec<Multiaddr>,
    valid_until_ts: u64,
    seen_ts: u64,
}

/// Encodes a row.
pub(super) fn encode(place: &Place<PeerId, Multiaddr>) -> Option<Vec<u8>> {
    let entry = Entry {
        peer_id: place.peer.to_string(),
        addresses: place.addresses.clone(),
        valid_until_ts: place.valid_until_ts,
        seen_ts: place.seen_ts,
    };
    serde_json::to_vec(&entry).ok()
}

/// Decodes a row; one that cannot be read is nothing lost.
pub(super) fn decode(
    server: OwnedServerName,
    value: &[u8],
) -> Option<(OwnedServerName, Place<PeerId, Multiaddr>)> {
    let entry: Entry = serde_json::from_slice(value).ok()?;
    let place = Place {
        peer: entry.peer_id.parse().ok()?,
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
        assert_eq!(decode(name.clone(), &row), Some((name.clone(), place)));
        assert_eq!(decode(name, b"{}"), None);
    }
}
