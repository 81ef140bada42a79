//! mDNS: whether this machine can speak to the LAN, and whether anybody answers.
//!
//! One query for the name that all libp2p nodes answer to, from each address of this machine and, with
//! IPv6, on each link. The sockets share port 5353 with whoever else listens there, since answers go to
//! the group.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use libp2p::PeerId;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{Instant, timeout_at};

use super::Finding;
use crate::{
    config::Config,
    platform::network::{Link, links, own_addresses, share_port},
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
    let mut links = links();
    links.truncate(INTERFACES_MAX);
    let interfaces: Vec<_> = own_addresses().into_iter().take(INTERFACES_MAX).collect();
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
fn listening(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
    share_port(&socket)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends the query from each address.
fn ask(interfaces: &[Ipv4Addr]) -> io::Result<UdpSocket> {
    let socket = listening(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let to = SockAddr::from(SocketAddr::from((GROUP, PORT)));
    let sent = interfaces.iter().map(|interface| {
        socket.join_multicast_v4(&GROUP, interface)?;
        socket.set_multicast_if_v4(interface)?;
        socket.send_to(&query(), &to)
    });
    any_sent(sent.collect()).map(|()| socket.into())
}

/// The same on each link.
fn ask_six(links: &[Link]) -> io::Result<UdpSocket> {
    let socket = listening(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
    let sent = links.iter().map(|link| {
        socket.join_multicast_v6(&GROUP_SIX, link.index)?;
        let to = SocketAddrV6::new(GROUP_SIX, PORT, 0, link.index);
        socket.send_to(&query(), &SockAddr::from(to))
    });
    any_sent(sent.collect()).map(|()| socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

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
