//! Whether and how we can be reached, from what others tell. Pure.
//!
//! Three sources count: AutoNAT servers that connected us back, whoever connected us without our
//! having been in touch with their host, and what is configured. Invariants: an address through a
//! relay never counts as being reachable; what one peer sees of us is a candidate and nothing more;
//! only what several independent ones showed makes us a server for others.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    net::IpAddr,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::{
    NatKind,
    address::{self, Reach},
};

/// What others saw of us that is remembered: the newest of each host and protocol.
const OBSERVATIONS_MAX: usize = 32;
/// Hosts that we were in touch with, so that a connection from there proves nothing.
const HOSTS_MAX: usize = 4096;
/// Nodes or hosts that have to show that we can be reached before we serve others.
const WITNESSES: usize = 2;
/// Witnesses that are remembered.
const WITNESSES_MAX: usize = 64;
/// Hosts that have to see another address of ours before the one that they do not see is given up.
const CHANGED_OBSERVERS: usize = 2;

/// Over what an address was observed; a router maps each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Tcp,
    Udp,
}

/// What one host saw.
#[derive(Debug, Clone)]
struct Observation {
    host: IpAddr,
    carrier: Carrier,
    ip: IpAddr,
    port: u16,
}

/// Whether others can connect us directly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Visibility {
    /// Nobody showed it.
    #[default]
    Hidden,
    /// Somebody did.
    Reachable,
    /// Several did: we serve others.
    Public,
}

/// What is known of our addresses.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// Addresses on which we listen, none through a relay.
    listening: HashSet<Multiaddr>,
    /// Configured ones.
    fixed: BTreeSet<Multiaddr>,
    /// Confirmed ones, and who connected us back there.
    confirmed: BTreeMap<Multiaddr, BTreeSet<PeerId>>,
    /// Addresses that a router opened for us.
    mapped: HashSet<Multiaddr>,
    /// Hosts that connected us although we had never been in touch with them.
    visitors: HashSet<IpAddr>,
    /// Hosts that we were in touch with, and in which order.
    hosts: HashSet<IpAddr>,
    host_order: VecDeque<IpAddr>,
    observations: VecDeque<Observation>,
}

/// Returns the IP address of a multiaddress.
pub(super) fn ip_of(at: &Multiaddr) -> Option<IpAddr> {
    match at.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn endpoint_of(at: &Multiaddr) -> Option<(Carrier, IpAddr, u16)> {
    let ip = ip_of(at)?;
    match at.iter().nth(1)? {
        Protocol::Tcp(port) => Some((Carrier::Tcp, ip, port)),
        Protocol::Udp(port) => Some((Carrier::Udp, ip, port)),
        _ => None,
    }
}

impl Reachability {
    /// Takes the configured addresses.
    pub(super) fn new(fixed: &[Multiaddr]) -> Self {
        Self { fixed: fixed.iter().cloned().collect(), ..Self::default() }
    }

    /// We listen here, or do not any more.
    pub(super) fn listening(&mut self, at: &Multiaddr, listening: bool) {
        if address::reach(at) == Reach::Relayed {
            return;
        }
        match listening {
            true => self.listening.insert(at.clone()),
            false => self.listening.remove(at),
        };
    }

    /// A router opened an address for us, or closed it.
    pub(super) fn mapped(&mut self, at: &Multiaddr, open: bool) {
        match open {
            true => self.mapped.insert(at.clone()),
            false => self.mapped.remove(at),
        };
    }

    /// We dialled or were dialled by a host. True where that shows that anybody can reach us:
    /// nobody there had heard of us, so that no router can have waited for it.
    pub(super) fn met(&mut self, host: IpAddr, inbound: bool) -> bool {
        if !self.hosts.insert(host) {
            return false;
        }
        self.host_order.push_back(host);
        if self.host_order.len() > HOSTS_MAX
            && let Some(oldest) = self.host_order.pop_front()
        {
            self.hosts.remove(&oldest);
        }
        inbound && self.visitors.len() < WITNESSES_MAX && self.visitors.insert(host)
    }

    /// A host that we dialled saw us here.
    pub(super) fn observed(&mut self, host: IpAddr, at: &Multiaddr) {
        let Some((carrier, ip, port)) = endpoint_of(at) else { return };
        if address::reach(at) != Reach::Global {
            return;
        }
        let same = |known: &Observation| {
            known.host == host && known.carrier == carrier && known.ip.is_ipv4() == ip.is_ipv4()
        };
        self.observations.retain(|known| !same(known));
        self.observations.push_back(Observation { host, carrier, ip, port });
        if self.observations.len() > OBSERVATIONS_MAX {
            self.observations.pop_front();
        }
    }

    /// An address was confirmed; by whom is told by [`Self::witnessed`]. True where that is news.
    pub(super) fn confirmed(&mut self, at: &Multiaddr) -> bool {
        let news = address::reach(at) == Reach::Global && !self.confirmed.contains_key(at);
        if news {
            self.confirmed.insert(at.clone(), BTreeSet::new());
        }
        news
    }

    /// An AutoNAT server connected us back at an address.
    pub(super) fn witnessed(&mut self, at: &Multiaddr, server: PeerId) {
        if let Some(servers) = self.confirmed.get_mut(at)
            && servers.len() < WITNESSES_MAX
        {
            servers.insert(server);
        }
    }

    /// An address is gone.
    pub(super) fn expired(&mut self, at: &Multiaddr) {
        self.confirmed.remove(at);
    }

    /// Returns confirmed addresses whose host several others do not see any more: the router got
    /// another one, or we moved. They are to be given up.
    pub(super) fn outdated(&self) -> Vec<Multiaddr> {
        let outdated = |at: &&Multiaddr| {
            let Some(ip) = ip_of(at) else { return false };
            let listens = self.listening.iter().any(|listening| ip_of(listening) == Some(ip));
            let of_kind = self.observations.iter().filter(|seen| seen.ip.is_ipv4() == ip.is_ipv4());
            let (same, others): (Vec<_>, Vec<_>) = of_kind.partition(|seen| seen.ip == ip);
            let hosts: BTreeSet<IpAddr> = others.iter().map(|seen| seen.host).collect();
            !listens && same.is_empty() && hosts.len() >= CHANGED_OBSERVERS
        };
        self.confirmed.keys().filter(outdated).cloned().collect()
    }

    /// Tells whether anybody far away has said how they see us over UDP, or over TCP.
    pub(super) fn observed_over(&self, udp: bool) -> bool {
        let carrier = if udp { Carrier::Udp } else { Carrier::Tcp };
        self.observations.iter().any(|seen| seen.carrier == carrier)
    }

    /// Tells whether anybody far away has said how they see us.
    pub(super) fn was_observed(&self) -> bool {
        !self.observations.is_empty()
    }

    /// Returns the addresses by which we are reached directly.
    pub(super) fn direct(&self) -> Vec<Multiaddr> {
        let all: BTreeSet<&Multiaddr> = self.fixed.iter().chain(self.confirmed.keys()).collect();
        all.into_iter().cloned().collect()
    }

    /// Tells whether we can be reached.
    pub(super) fn visibility(&self) -> Visibility {
        if !self.fixed.is_empty() {
            return Visibility::Public;
        }
        if self.confirmed.is_empty() {
            return Visibility::Hidden;
        }
        let servers: BTreeSet<&PeerId> = self.confirmed.values().flatten().collect();
        // An AutoNAT server calls back from the very host that we called, which a router that lets
        // in whoever was called takes for an answer. So where a router is in the way, it needs a
        // host that we never called, or to have opened the port itself.
        let open = self.confirmed.keys().any(|at| {
            self.mapped.contains(at) || self.listening.iter().any(|one| ip_of(one) == ip_of(at))
        });
        let shown = servers.len() + self.visitors.len();
        match shown >= WITNESSES && (open || !self.visitors.is_empty()) {
            true => Visibility::Public,
            false => Visibility::Reachable,
        }
    }

    /// Tells what the router does, from what hosts that we dialled saw.
    pub(super) fn nat(&self) -> NatKind {
        let listens = |ip: IpAddr| self.listening.iter().any(|one| ip_of(one) == Some(ip));
        if self.observations.iter().any(|seen| listens(seen.ip)) {
            return NatKind::None;
        }
        // UDP first: a TCP connection leaves from another port wherever ours could not be reused.
        let kinds = [Carrier::Udp, Carrier::Tcp].map(|carrier| self.nat_of(carrier));
        kinds.into_iter().find(|kind| *kind != NatKind::Unknown).unwrap_or_default()
    }

    fn nat_of(&self, carrier: Carrier) -> NatKind {
        let seen: Vec<&Observation> =
            self.observations.iter().filter(|seen| seen.carrier == carrier).collect();
        let pairs = seen.iter().enumerate().flat_map(|(index, one)| {
            let rest = seen.iter().skip(index + 1);
            rest.filter(|other| other.host != one.host && other.ip == one.ip)
                .map(|other| other.port == one.port)
        });
        let pairs: Vec<bool> = pairs.collect();
        match (pairs.contains(&true), pairs.is_empty()) {
            (true, _) => NatKind::Cone,
            (false, false) => NatKind::Symmetric,
            (false, true) => NatKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn host(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    fn watched(seen: &[(u8, &str)]) -> Reachability {
        let mut known = Reachability::default();
        known.listening(&at("/ip4/10.0.1.2/udp/4848/quic-v1"), true);
        for (by, text) in seen {
            known.observed(host(*by), &at(text));
        }
        known
    }

    #[test]
    fn the_router_is_told_by_what_two_hosts_see() {
        let udp = |port: u16| format!("/ip4/203.0.113.2/udp/{port}/quic-v1");
        let tcp = |port: u16| format!("/ip4/203.0.113.2/tcp/{port}");
        for (seen, kind) in [
            (vec![], NatKind::Unknown),
            (vec![(1, udp(4848))], NatKind::Unknown),
            (vec![(1, udp(4848)), (2, udp(4848))], NatKind::Cone),
            (vec![(1, udp(50000)), (2, udp(50000))], NatKind::Cone),
            (vec![(1, udp(50000)), (2, udp(50001))], NatKind::Symmetric),
            // One host that sees two ports says nothing: the newer counts.
            (vec![(1, udp(50000)), (1, udp(50001))], NatKind::Unknown),
            (vec![(1, tcp(50000)), (2, tcp(50001))], NatKind::Symmetric),
            // TCP may have left from another port.
            (vec![(1, tcp(1)), (2, tcp(2)), (1, udp(9)), (2, udp(9))], NatKind::Cone),
            // Each by itself.
            (vec![(1, tcp(4848)), (2, udp(50001))], NatKind::Unknown),
            (vec![(1, "/ip4/10.0.1.2/udp/4848/quic-v1".to_owned())], NatKind::Unknown),
        ] {
            let seen: Vec<(u8, &str)> = seen.iter().map(|(by, at)| (*by, at.as_str())).collect();
            assert_eq!(watched(&seen).nat(), kind, "{seen:?}");
        }
        let mut open = Reachability::default();
        open.listening(&at("/ip4/203.0.113.2/udp/4848/quic-v1"), true);
        open.observed(host(1), &at("/ip4/203.0.113.2/udp/4848/quic-v1"));
        assert_eq!(open.nat(), NatKind::None);
    }

    #[test]
    fn one_server_makes_reachable_and_only_several_make_a_server() {
        let public = at("/ip4/203.0.113.2/tcp/4848");
        let mut known = Reachability::default();
        known.listening(&public, true);
        assert_eq!(known.visibility(), Visibility::Hidden, "listening shows nothing");
        known.confirmed(&public);
        known.witnessed(&public, PeerId::random());
        assert_eq!(known.visibility(), Visibility::Reachable);
        known.witnessed(&public, PeerId::random());
        assert_eq!(known.visibility(), Visibility::Public);
        assert_eq!(known.direct(), std::slice::from_ref(&public));
        known.expired(&public);
        assert_eq!(known.visibility(), Visibility::Hidden);
    }

    #[test]
    fn behind_a_router_somebody_unknown_has_to_have_come_or_the_port_be_mapped() {
        let outside = at("/ip4/203.0.113.2/tcp/4848");
        let mut known = watched(&[]);
        known.confirmed(&outside);
        known.witnessed(&outside, PeerId::random());
        known.witnessed(&outside, PeerId::random());
        assert_eq!(known.visibility(), Visibility::Reachable);
        assert!(!known.met(host(1), false), "we went there");
        assert!(!known.met(host(1), true), "and so it came back");
        assert_eq!(known.visibility(), Visibility::Reachable);
        assert!(known.met(host(2), true));
        assert_eq!(known.visibility(), Visibility::Public);
        let mut mapped = watched(&[]);
        mapped.confirmed(&outside);
        mapped.witnessed(&outside, PeerId::random());
        mapped.witnessed(&outside, PeerId::random());
        mapped.mapped(&outside, true);
        assert_eq!(mapped.visibility(), Visibility::Public);
        mapped.mapped(&outside, false);
        assert_eq!(mapped.visibility(), Visibility::Reachable);
    }

    #[test]
    fn an_address_through_a_relay_is_never_reachable() {
        let relay = PeerId::random();
        let circuit = at(&format!("/ip4/203.0.113.10/tcp/1/p2p/{relay}/p2p-circuit"));
        let mut known = Reachability::default();
        known.listening(&circuit, true);
        known.confirmed(&circuit);
        known.witnessed(&circuit, PeerId::random());
        known.witnessed(&circuit, PeerId::random());
        assert_eq!(known.visibility(), Visibility::Hidden);
        assert!(known.direct().is_empty());
        assert_eq!(Reachability::new(&[at("/ip4/9.9.9.9/tcp/1")]).visibility(), Visibility::Public);
    }

    #[test]
    fn an_address_that_nobody_sees_any_more_is_given_up() {
        let old = at("/ip4/203.0.113.2/tcp/4848");
        let mut known = watched(&[(1, "/ip4/203.0.113.2/tcp/4848")]);
        known.confirmed(&old);
        assert!(known.outdated().is_empty());
        known.observed(host(2), &at("/ip4/203.0.113.9/tcp/4848"));
        assert!(known.outdated().is_empty(), "one still sees it");
        known.observed(host(1), &at("/ip4/203.0.113.9/tcp/4848"));
        assert_eq!(known.outdated(), [old]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Reachability::default();
        for number in 0..2 * u32::try_from(HOSTS_MAX).unwrap() {
            let host = IpAddr::from(std::net::Ipv4Addr::from(0x0b00_0000 + number));
            known.met(host, true);
            known.observed(host, &at("/ip4/203.0.113.2/tcp/4848"));
        }
        assert_eq!(known.hosts.len(), HOSTS_MAX);
        assert_eq!(known.observations.len(), OBSERVATIONS_MAX);
        assert_eq!(known.visitors.len(), WITNESSES_MAX);
    }
}
