//! The addresses of this machine, and its router.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

#[cfg(any(target_os = "linux", test))]
mod routes;

/// A network card, or what looks like one, on which this machine has an IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number, for the system.
    pub index: u32,
    /// The address of this machine on it.
    pub address: Ipv6Addr,
}

/// Returns the links on which this machine has an IPv6 address that counts there alone.
pub fn links() -> Vec<Link> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let links = all.into_iter().filter_map(|card| match card.ip() {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some(Link { index: card.index?, name: card.name, address })
        }
        _ => None,
    });
    links.collect()
}

/// Returns the IPv4 addresses of this machine, loopback aside, in order.
pub fn own_addresses() -> BTreeSet<Ipv4Addr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let mine = all.iter().filter_map(|card| match card.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    });
    mine.collect()
}

/// What the system says of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// It is this one.
    At(Ipv4Addr),
    /// There is none.
    None,
    /// The system does not tell.
    Unknown,
}

/// Looks for the router behind the default route of IPv4. Blocks for a moment.
#[cfg(target_os = "linux")]
pub fn router() -> Router {
    let Ok(routes) = std::fs::read_to_string(routes::TABLE) else { return Router::Unknown };
    routes::default_gateway(&routes).map_or(Router::None, Router::At)
}

/// Looks for the router behind the default route of IPv4. Blocks for a moment.
#[cfg(not(target_os = "linux"))]
pub fn router() -> Router {
    match netdev::get_default_gateway() {
        Ok(gateway) => gateway.ipv4.first().copied().map_or(Router::None, Router::At),
        Err(_) => Router::Unknown,
    }
}

/// Lets a socket share its port with whoever else wants to hear the same group.
pub fn share_port(socket: &socket2::Socket) -> std::io::Result<()> {
    socket.set_reuse_address(true)?;
    // On Windows the first says it all.
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// Lets a port be taken anew though connections through it have not quite ended, and by nobody else.
pub fn take_port_anew(socket: &socket2::Socket) -> std::io::Result<()> {
    // On Windows the option would let two programs have one port, and the rest goes without saying.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(windows)]
    let _ = socket;
    Ok(())
}

/// Tells whether the system refused a socket because it does not know that kind of address at all.
pub fn no_such_family(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    let number = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    // `WSAEAFNOSUPPORT`.
    #[cfg(windows)]
    let number = 10047;
    error.raw_os_error() == Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_says_of_itself() {
        assert!(own_addresses().iter().all(|address| !address.is_loopback()));
        for link in links() {
            assert!(link.address.is_unicast_link_local() && link.index > 0, "{link:?}");
        }
        if cfg!(target_os = "linux") {
            assert_ne!(router(), Router::Unknown);
        }
    }
}
