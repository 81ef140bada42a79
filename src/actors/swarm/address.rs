//! Which addresses are good for what. Pure.
//!
//! Invariants: an address that is not reachable from everywhere never enters the public DHT; a
//! loopback address is believed only when it came over loopback.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Most addresses of one peer that are kept.
pub(super) const ADDRESSES_MAX: usize = 16;

/// Memory addresses below play the whole world, those above one machine. (Whoever dials comes from a
/// random one, hardly ever below.)
pub(super) const MEMORY_WORLD: u64 = 1 << 32;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This machine.
    Loopback,
    /// A link or a private network.
    Private,
    /// Everywhere (names are taken to be so).
    Global,
    /// Through a relay.
    Relayed,
    /// Nothing can be told.
    None,
}

/// Tells how far an address reaches.
pub(super) fn reach(address: &Multiaddr) -> Reach {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return Reach::Relayed;
    }
    // A zone says on which link of this machine an address is.
    match address.iter().find(|part| !matches!(part, Protocol::Ip6zone(_))) {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => Reach::Loopback,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => Reach::Loopback,
        Some(Protocol::Ip4(ip)) if ip.is_unspecified() || ip.is_multicast() => Reach::None,
        Some(Protocol::Ip6(ip)) if ip.is_unspecified() || ip.is_multicast() => Reach::None,
        Some(Protocol::Ip4(ip)) => {
            let shared = matches!(ip.octets(), [100, 64..=127, _, _]);
            let private = ip.is_private() || ip.is_link_local() || shared;
            if private { Reach::Private } else { Reach::Global }
        }
        Some(Protocol::Ip6(ip)) => {
            let private = ip.is_unique_local() || ip.is_unicast_link_local();
            if private { Reach::Private } else { Reach::Global }
        }
        // Of the tests that run many nodes in one process; nothing else speaks it.
        Some(Protocol::Memory(port)) if cfg!(test) => {
            if port < MEMORY_WORLD {
                Reach::Global
            } else {
                Reach::Loopback
            }
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => {
            Reach::Global
        }
        _ => Reach::None,
    }
}

/// Tells whether everybody can use an address: directly, or through a relay that everybody reaches.
pub(super) fn worldwide(address: &Multiaddr) -> bool {
    let first: Multiaddr =
        address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
    reach(&first) == Reach::Global
}

/// Tells whether two private addresses may be of one place: the same /16, or /48 with IPv6. (A
/// link-local address means nothing without its link.)
pub(super) fn near(one: &Multiaddr, other: &Multiaddr) -> bool {
    match (one.iter().next(), other.iter().next()) {
        (Some(Protocol::Ip4(one)), Some(Protocol::Ip4(other))) => {
            one.to_bits() >> 16 == other.to_bits() >> 16
        }
        (Some(Protocol::Ip6(one)), Some(Protocol::Ip6(other))) => {
            !other.is_unicast_link_local() && one.to_bits() >> 80 == other.to_bits() >> 80
        }
        _ => false,
    }
}

/// Tells whether an address may be used in a private network.
pub(super) fn is_private(address: &Multiaddr) -> bool {
    matches!(reach(address), Reach::Loopback | Reach::Private)
}

/// Returns the addresses of a peer that are worth dialling, given where it is connected now.
pub(super) fn usable(
    told: &[Multiaddr],
    connected_at: &Multiaddr,
    dialled: bool,
) -> Vec<Multiaddr> {
    let here = reach(connected_at) == Reach::Loopback;
    let near = here || reach(connected_at) == Reach::Private;
    let mut addresses: Vec<Multiaddr> = Vec::new();
    let first = dialled.then(|| without_peer(connected_at));
    for address in first.into_iter().chain(told.iter().map(without_peer)) {
        let good = match reach(&address) {
            Reach::Loopback => here,
            Reach::Private => near,
            Reach::Global => true,
            Reach::Relayed => true,
            Reach::None => false,
        };
        if good && !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    addresses
}

/// Cuts a `/p2p/<PeerId>` off the end.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Returns the relay that an address goes through.
pub(super) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => relay = Some(peer),
            Protocol::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

/// Returns the peer that an address ends with.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Reads `/p2p/<PeerId>` or a full multiaddress that ends so.
pub fn read_address(text: &str) -> Option<(PeerId, Vec<Multiaddr>)> {
    let mut address: Multiaddr = text.parse().ok()?;
    let Some(Protocol::P2p(peer)) = address.pop() else { return None };
    let addresses = if address.is_empty() { Vec::new() } else { vec![address] };
    Some((peer, addresses))
}

/// Puts another port into a TCP or UDP address.
pub(super) fn with_port(address: &Multiaddr, port: u16) -> Multiaddr {
    let parts = address.iter().map(|part| match part {
        Protocol::Tcp(_) => Protocol::Tcp(port),
        Protocol::Udp(_) => Protocol::Udp(port),
        part => part,
    });
    parts.collect()
}

/// Tells whether an address is a UDP one.
pub(super) fn is_udp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Udp(_)))
}

/// Tells whether an address is a TCP one, and no relay is in between.
pub(super) fn is_plain_tcp(address: &Multiaddr) -> bool {
    let tcp = address.iter().any(|part| matches!(part, Protocol::Tcp(_)));
    tcp && reach(address) != Reach::Relayed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn reaches() {
        for (text, expected) in [
            ("/ip4/127.0.0.1/tcp/1", Reach::Loopback),
            ("/ip6/::1/udp/1/quic-v1", Reach::Loopback),
            ("/ip4/192.168.1.2/tcp/1", Reach::Private),
            ("/ip4/10.0.0.1/tcp/1", Reach::Private),
            ("/ip4/100.64.0.1/tcp/1", Reach::Private),
            ("/ip4/169.254.0.1/tcp/1", Reach::Private),
            ("/ip6/fe80::1/tcp/1", Reach::Private),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", Reach::Private),
            ("/ip6/fd00::1/tcp/1", Reach::Private),
            ("/ip4/104.131.131.82/tcp/4001", Reach::Global),
            ("/ip6/2001:db8::1/tcp/1", Reach::Global),
            ("/dnsaddr/bootstrap.libp2p.io", Reach::Global),
            ("/ip4/0.0.0.0/tcp/1", Reach::None),
            ("/unix/x", Reach::None),
            ("/ip4/1.2.3.4/tcp/1/p2p-circuit", Reach::Relayed),
        ] {
            assert_eq!(reach(&parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn nobody_makes_us_dial_ourselves_or_our_neighbours_from_afar() {
        let told = [
            parse("/ip4/127.0.0.1/tcp/1"),
            parse("/ip4/192.168.1.2/tcp/1"),
            parse("/ip4/8.8.8.8/tcp/1"),
        ];
        let far = usable(&told, &parse("/ip4/9.9.9.9/tcp/5"), true);
        assert_eq!(far, [parse("/ip4/9.9.9.9/tcp/5"), parse("/ip4/8.8.8.8/tcp/1")]);
        let lan = usable(&told, &parse("/ip4/192.168.1.3/tcp/5"), false);
        assert_eq!(lan, [parse("/ip4/192.168.1.2/tcp/1"), parse("/ip4/8.8.8.8/tcp/1")]);
        assert_eq!(usable(&told, &parse("/ip4/127.0.0.1/tcp/5"), false).len(), 3);
    }

    #[test]
    fn ports() {
        let address = with_port(&parse("/ip4/0.0.0.0/udp/4848/quic-v1"), 0);
        assert_eq!(address, parse("/ip4/0.0.0.0/udp/0/quic-v1"));
    }

    #[test]
    fn addresses_that_people_type() {
        let peer = PeerId::random();
        assert_eq!(read_address(&format!("/p2p/{peer}")), Some((peer, vec![])));
        let full = read_address(&format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}"));
        assert_eq!(full, Some((peer, vec![parse("/ip4/127.0.0.1/tcp/1")])));
        assert_eq!(read_address("/ip4/127.0.0.1/tcp/1"), None);
        assert_eq!(read_address("/p2p/nonsense"), None);
    }
}
