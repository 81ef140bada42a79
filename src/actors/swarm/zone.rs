//! IPv6 addresses of one link (`fe80::…`), which mean nothing without that link.
//!
//! On a LAN without a router they are all that machines with IPv6 alone have. libp2p tells and dials
//! them without their link, which the system refuses. Here they get it (`/ip6zone/<link>/ip6/…`), and
//! are dialled over TCP. Invariants: only addresses of a link are touched; few links are tried.

use std::{
    io,
    net::{SocketAddr, SocketAddrV6},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp::tokio::TcpStream,
};

use crate::platform::network::{Link, links};

/// Links that are tried.
const LINKS_MAX: usize = 4;

/// Tells whether an address is one of a link, and which link is not said.
fn lacks_zone(at: &Multiaddr) -> bool {
    matches!(at.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local())
}

/// Gives addresses of a link the links of this machine: it may be on any of them.
pub(super) fn with_zones(
    addresses: Vec<Multiaddr>,
    links: impl Fn() -> Vec<Link>,
) -> Vec<Multiaddr> {
    if !addresses.iter().any(lacks_zone) {
        return addresses;
    }
    let links = links();
    let zoned = |at: Multiaddr| {
        let tcp = at.iter().any(|part| matches!(part, Protocol::Tcp(_)));
        let zones: Vec<Multiaddr> = match (lacks_zone(&at), tcp) {
            (false, _) => vec![at],
            (true, false) => Vec::new(),
            (true, true) => {
                links.iter().take(LINKS_MAX).map(|link| with_zone(&at, &link.name)).collect()
            }
        };
        zones
    };
    let mut all: Vec<Multiaddr> = Vec::new();
    for at in addresses.into_iter().flat_map(zoned) {
        if !all.contains(&at) {
            all.push(at);
        }
    }
    all
}

fn with_zone(at: &Multiaddr, name: &str) -> Multiaddr {
    std::iter::once(Protocol::Ip6zone(name.into())).chain(at.iter()).collect()
}

/// Reads `/ip6zone/<link>/ip6/<address>/tcp/<port>`.
fn read(at: &Multiaddr, links: &[Link]) -> Option<SocketAddr> {
    let mut parts = at.iter();
    let (Protocol::Ip6zone(name), Protocol::Ip6(ip), Protocol::Tcp(port)) =
        (parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    let link = links.iter().find(|link| link.name == name)?;
    ip.is_unicast_link_local().then(|| SocketAddrV6::new(ip, port, 0, link.index).into())
}

/// TCP that dials addresses which name their link, too. (The library would overlook the link.)
#[derive(Debug)]
pub(super) struct Zoned<T>(pub(super) T);

impl<T> Transport for Zoned<T>
where
    T: Transport<Output = TcpStream, Error = io::Error> + Unpin,
    T::Dial: Send + 'static,
{
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        at: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.0.listen_on(id, at)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        at: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if !matches!(at.iter().next(), Some(Protocol::Ip6zone(_))) {
            return self.0.dial(at, options).map(|dial| dial.boxed());
        }
        let Some(to) = read(&at, &links()) else {
            return Err(TransportError::MultiaddrNotSupported(at));
        };
        let dialled = async move {
            let stream = tokio::net::TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(TcpStream(stream))
        };
        Ok(dialled.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_links() -> Vec<Link> {
        let link = |name: &str, index, address: &str| Link {
            name: name.to_owned(),
            index,
            address: address.parse().unwrap(),
        };
        vec![link("eth0", 2, "fe80::a4bb:6dff:fe1c:2233"), link("wlan0", 11, "fe80::5")]
    }

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_addresses_of_a_link_get_one_and_over_tcp_alone() {
        let told =
            ["/ip6/fe80::9/tcp/4848", "/ip6/fe80::9/udp/4848/quic-v1", "/ip4/10.0.0.1/tcp/1"];
        let zoned = with_zones(told.map(at).to_vec(), two_links);
        let expected = [
            "/ip6zone/eth0/ip6/fe80::9/tcp/4848",
            "/ip6zone/wlan0/ip6/fe80::9/tcp/4848",
            "/ip4/10.0.0.1/tcp/1",
        ];
        assert_eq!(zoned, expected.map(at));
        let again = with_zones(zoned.clone(), || panic!("nothing lacks its link"));
        assert_eq!(again, zoned);
    }

    #[test]
    fn an_address_with_its_link_can_be_dialled() {
        let links = two_links();
        let peer = libp2p::PeerId::random();
        let to = read(&at(&format!("/ip6zone/wlan0/ip6/fe80::9/tcp/4848/p2p/{peer}")), &links);
        assert_eq!(to, Some("[fe80::9%11]:4848".parse().unwrap()));
        for wrong in [
            "/ip6zone/eth7/ip6/fe80::9/tcp/4848",
            "/ip6zone/eth0/ip6/2001:db8::1/tcp/1",
            "/ip6/fe80::9/tcp/4848",
            "/ip6zone/eth0/ip6/fe80::9/udp/4848/quic-v1",
        ] {
            assert_eq!(read(&at(wrong), &links), None, "{wrong}");
        }
    }
}
