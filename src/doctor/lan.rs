//! mDNS: whether this machine can speak to the LAN, and whether anybody answers.
//!
//! One query for the name that all libp2p nodes answer to, from each address of this machine and, with
//! IPv6, on each link. The sockets share port 5353 with whoever else listens there, since answers go to
//! the group.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use libp2p::PeerId;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
use tokio::time::{Instant, timeout_at};

use super::Finding;
use crate::{
    actors::swarm::{Link, links},
    config::Config,
};

const CHECK: &str = "mDNS";
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_SIX: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// How long answers are waited for.
const WAIT: Duration = Duration::from_secs(2);
/// Addresses of this machine that are asked from.
const INTERFACES_MAX: usize = 16;
/// Names that are counted; a LAN with more has mDNS that works.
const ANSWERS_MAX: usize = 64;
/// Characters of a PeerId that holds an Ed25519 key, and of one that holds a hash.
const ED25519_ID_LEN: usize = 52;
const HASHED_ID_LEN: usize = 46;
/// `_p2p._udp.local`, as it stands in a packet.
const NAME: &[u8] = b"\x04_p2p\x04_udp\x05local\x00";

/// Asks the LAN.
pub(super) async fn mdns(config: &Config, own_peer_id: Option<&str>) -> Finding {
    if !config.libp2p.mdns {
        return Finding::ok(CHECK, "it is turned off (libp2p.mdns): the LAN is not searched");
    }
    let (interfaces, links) = (own_addresses(), links());
    if interfaces.is_empty() && links.is_empty() {
        return Finding::warning(
            CHECK,
            "this machine is in no network",
            "connect it: nodes of the LAN cannot be found",
        );
    }
    let until = Instant::now() + WAIT;
    let asked = tokio::join!(async { gather(ask(&interfaces)?, until).await }, async {
        gather(ask_six(&links)?, until).await
    },);
    match asked {
        (Err(error), Err(_)) => Finding::warning(
            CHECK,
            format!("multicast is not possible here: {error}"),
            "let UDP 5353 to 224.0.0.251 and ff02::fb through the firewall of this machine; a \
             container needs the network of its host; without mDNS, nodes of the LAN are found \
             through the DHT",
        ),
        (four, six) => {
            let mut peers = four.unwrap_or_default();
            peers.extend(six.unwrap_or_default());
            judge(&peers, own_peer_id)
        }
    }
}

fn judge(peers: &BTreeSet<String>, own_peer_id: Option<&str>) -> Finding {
    let others = peers.iter().filter(|peer| Some(peer.as_str()) != own_peer_id).count();
    let own = own_peer_id.filter(|own| peers.contains(*own));
    match (others, own, own_peer_id) {
        (1.., ..) => Finding::ok(CHECK, format!("answered by {others} other nodes of the LAN")),
        (0, Some(_), _) => {
            Finding::ok(CHECK, "this node answers; there is no other node on the LAN now")
        }
        (0, None, Some(own)) if !own.is_empty() => Finding::warning(
            CHECK,
            "nobody answered within 2 s, not even this node",
            "let UDP 5353 to 224.0.0.251 and ff02::fb through the firewall of this machine; then \
             start the node anew",
        ),
        _ => Finding::new(
            CHECK,
            super::Level::Ok,
            "multicast is possible; nobody answered within 2 s",
            "where another node runs on this LAN: a guest Wi-Fi, or a router that isolates its \
             clients, keeps machines from finding each other"
                .to_owned(),
        ),
    }
}

/// Makes a socket for answers that go to the group.
fn listening(family: AddressFamily, at: SocketAddr) -> io::Result<UdpSocket> {
    let fd = socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &at)?;
    let socket = UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends the query from each address.
fn ask(interfaces: &[Ipv4Addr]) -> io::Result<UdpSocket> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let socket = listening(AddressFamily::INET, at)?;
    let sent = interfaces.iter().map(|interface| {
        sockopt::set_ip_add_membership(&socket, &GROUP, interface)?;
        sockopt::set_ip_multicast_if(&socket, interface)?;
        socket.send_to(&query(), (GROUP, PORT))
    });
    any_sent(sent.collect()).map(|()| socket)
}

/// The same on each link.
fn ask_six(links: &[Link]) -> io::Result<UdpSocket> {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let socket = listening(AddressFamily::INET6, at)?;
    let sent = links.iter().map(|link| {
        sockopt::set_ipv6_add_membership(&socket, &GROUP_SIX, link.index)?;
        socket.send_to(&query(), SocketAddrV6::new(GROUP_SIX, PORT, 0, link.index))
    });
    any_sent(sent.collect()).map(|()| socket)
}

/// One way is enough.
fn any_sent(sent: Vec<io::Result<usize>>) -> io::Result<()> {
    if sent.iter().any(Result::is_ok) {
        return Ok(());
    }
    let failure = sent.into_iter().find_map(Result::err);
    Err(failure.unwrap_or_else(|| io::ErrorKind::NetworkUnreachable.into()))
}

/// Returns the PeerIds of those who answered.
async fn gather(socket: UdpSocket, until: Instant) -> io::Result<BTreeSet<String>> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut peers = BTreeSet::new();
    let mut packet = vec![0; 9000];
    while let Ok(Ok((length, _))) = timeout_at(until, socket.recv_from(&mut packet)).await {
        peers.extend(packet.get(..length).map(answer).unwrap_or_default());
        if peers.len() >= ANSWERS_MAX {
            break;
        }
    }
    Ok(peers)
}

/// A question for the PTR records of [`NAME`].
fn query() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(NAME);
    packet.extend_from_slice(&[0, 12, 0, 1]);
    packet
}

/// Returns the PeerIds that an answer names; nothing where it is none, or about something else.
fn answer(packet: &[u8]) -> Vec<String> {
    let is_answer = packet.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !is_answer || !packet.windows(NAME.len()).any(|window| window == NAME) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(packet);
    // What follows an id is the length of the next string, and may look like one more letter.
    let ids = text.split("/p2p/").skip(1).filter_map(|rest| match rest.get(..2)? {
        "12" => rest.get(..ED25519_ID_LEN),
        "Qm" => rest.get(..HASHED_ID_LEN),
        _ => None,
    });
    ids.filter(|id| id.parse::<PeerId>().is_ok()).map(str::to_owned).collect()
}

/// Returns the IPv4 addresses of this machine, loopback aside, as the kernel's table has them.
fn own_addresses() -> Vec<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut addresses = read_table(&table);
    addresses.truncate(INTERFACES_MAX);
    addresses
}

/// An address stands on one line, and `host LOCAL` on the next.
fn read_table(table: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut addresses = BTreeSet::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.ends_with("host LOCAL") {
            addresses.extend(last.filter(|address| !address.is_loopback()));
        }
    }
    addresses.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

    #[test]
    fn the_kernels_table_of_addresses() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
            Local:\n     |-- 10.84.48.1\n        /32 host LOCAL\n     |-- 10.84.48.255\n        \
            /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(read_table(table), [Ipv4Addr::new(10, 84, 48, 1)]);
    }

    #[test]
    fn only_answers_of_libp2p_nodes_count() {
        assert!(answer(&query()).is_empty(), "a question is no answer");
        let mut packet = query();
        packet[2] = 0x84;
        let record = format!("dnsaddr=/ip4/10.0.0.1/tcp/4848/p2p/{PEER}");
        packet.extend_from_slice(record.as_bytes());
        packet.extend_from_slice(b"7the next record");
        assert_eq!(answer(&packet), [PEER]);
        let printer: Vec<u8> =
            packet.iter().map(|byte| if *byte == b'_' { b'x' } else { *byte }).collect();
        assert!(answer(&printer).is_empty());
        assert!(answer(&[]).is_empty());
    }

    #[test]
    fn silence_means_different_things() {
        let peers = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(judge(&peers(&[]), None).level, Level::Ok);
        assert_eq!(judge(&peers(&[]), Some("")).level, Level::Ok, "no network yet");
        assert_eq!(judge(&peers(&[]), Some(PEER)).level, Level::Warning);
        assert!(judge(&peers(&[PEER]), Some(PEER)).text.contains("no other"));
        assert!(judge(&peers(&[PEER, "other"]), Some(PEER)).text.contains("1 other"));
    }
}
