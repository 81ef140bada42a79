//! Which ways lead out of this machine: IPv4, IPv6, or none.
//!
//! Nothing is sent: connecting a UDP socket only asks the system which way it would go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::Finding;

/// Addresses of nobody (documentation): what leads to them leads everywhere.
const ANYWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ANYWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Looks for ways to the Internet.
pub(super) fn look() -> Vec<Finding> {
    judge(way_to(ANYWHERE_V4), way_to(ANYWHERE_V6))
}

/// Tells whether any way leads to the Internet.
pub(super) fn is_online() -> bool {
    let global_v6 = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if is_global_v6(*ip));
    way_to(ANYWHERE_V4).is_some() || way_to(ANYWHERE_V6).filter(global_v6).is_some()
}

/// Returns the address of this machine that would be used.
fn way_to(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn judge(v4: Option<IpAddr>, v6: Option<IpAddr>) -> Vec<Finding> {
    let v6 = v6.filter(|ip| matches!(ip, IpAddr::V6(ip) if is_global_v6(*ip)));
    let first = match v4 {
        Some(IpAddr::V4(ip)) if is_shared(ip) => Finding::ok(
            "IPv4",
            format!("{ip}: your provider shares one address among many of its customers"),
        ),
        Some(ip @ IpAddr::V4(inner)) if inner.is_private() => {
            Finding::ok("IPv4", format!("{ip}, behind a router"))
        }
        Some(ip) => Finding::ok("IPv4", format!("{ip}, without a router in between")),
        None if v6.is_some() => Finding::ok("IPv4", "none, and IPv6 is there instead"),
        None => Finding::warning(
            "IPv4",
            "there is no way to the Internet: nodes of the LAN can be found, others cannot",
            "connect this machine, where you want to meet people elsewhere",
        ),
    };
    let second = match v6 {
        Some(ip) => Finding::ok("IPv6", format!("{ip}")),
        None => Finding::ok(
            "IPv6",
            "none; that does no harm, and with it others would need no help to reach you",
        ),
    };
    vec![first, second]
}

fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, _, _])
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn ways_are_told_apart() {
        let v4 = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        let v6 = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        for (four, six, level, words) in [
            (None, None, Level::Warning, "no way"),
            (None, v6("2001:db8::1"), Level::Ok, "IPv6 is there"),
            (None, v6("fd00::1"), Level::Warning, "no way"),
            (v4("192.168.1.7"), None, Level::Ok, "behind a router"),
            (v4("100.64.3.4"), None, Level::Ok, "shares one address"),
            (v4("8.8.8.8"), v6("fe80::1"), Level::Ok, "without a router"),
        ] {
            let found = judge(four, six);
            assert_eq!(found[0].level, level, "{found:?}");
            assert!(found[0].text.contains(words), "{found:?}");
            assert_eq!(found[1].level, Level::Ok);
        }
    }
}
