//! The world outside: bootstrap nodes, how others reach us, who is there, and whose clock is right.

use std::time::Duration;

use super::{Finding, Level, router::list};
use crate::{
    actors::swarm::{NatKind, PortMapping, Probed, Reachability, Way, probe},
    config::Config,
    platform::words::System,
    status::{ClockStatus, Status},
};

/// Longest wait for the bootstrap nodes.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(10);
/// Clocks that are further apart deserve a look: requests count for 5 minutes either way.
const CLOCK_APART_MS: u64 = 60 * 1000;
/// From here on, others refuse what this node signs.
const CLOCK_BROKEN_MS: u64 = crate::proto::signed::FRESH_MS;

/// Tells whether nodes are dialled: those of the Internet are not from where no way leads there.
pub(super) fn is_probed(config: &Config, online: bool) -> bool {
    let public = config.libp2p.dht.bootstrap_peers.is_none();
    (online || !public) && !config.bootstrap_peers().is_empty()
}

/// Dials the nodes through which the network is entered.
pub(super) async fn bootstrap(config: &Config, online: bool) -> Finding {
    const CHECK: &str = "bootstrap";
    let addresses = config.bootstrap_peers();
    let secret = config.libp2p.private_network_secret.as_deref();
    if addresses.is_empty() {
        return Finding::ok(CHECK, "none is configured: only nodes of the LAN are found at first");
    }
    if !is_probed(config, online) {
        return Finding::not_tested(
            CHECK,
            "no way leads to the Internet, where these nodes are; nodes of this LAN are found \
             without them",
            "connect this machine, where you want to meet people elsewhere",
        );
    }
    match probe(&addresses, secret, BOOTSTRAP_WAIT).await {
        Ok(probed) => judge_bootstrap(&probed),
        Err(error) => {
            Finding::problem(CHECK, error.to_string(), System::HERE.names_are_looked_up())
        }
    }
}

fn judge_bootstrap(probed: &[Probed]) -> Finding {
    const CHECK: &str = "bootstrap";
    let all = probed.len();
    let reached: Vec<_> = probed.iter().filter_map(|one| one.result.as_ref().ok()).collect();
    let failed = probed
        .iter()
        .find_map(|one| one.result.as_ref().err().map(|why| format!("{}: {why}", one.address)));
    let Some(first) = reached.iter().min_by_key(|reached| reached.took) else {
        return Finding::problem(
            CHECK,
            format!("none of {all} nodes was reached; {}", failed.unwrap_or_default()),
            "look whether this machine is online and whether a firewall lets TCP and UDP out; \
             libp2p.dht.bootstrapPeers names other nodes",
        );
    };
    let text = format!(
        "{} of {all} nodes reached, the first in {} ms; it sees this machine at {}",
        reached.len(),
        first.took.as_millis(),
        first.observed
    );
    match failed {
        Some(failed) if reached.len() * 2 < all => Finding::warning(
            CHECK,
            format!("{text}; not reached: {failed}"),
            "one is enough; if this lasts, replace those that are gone \
             (libp2p.dht.bootstrapPeers)",
        ),
        _ => Finding::ok(CHECK, text),
    }
}

/// Says how others reach the node.
pub(super) fn reachability(config: Option<&Config>, node: Option<&Status>) -> Finding {
    const CHECK: &str = "reachable";
    let Some(node) = node else {
        let text = "only the running node knows how others reach it";
        return Finding::not_tested(CHECK, text, "start it, and ask again a minute later");
    };
    if node.network.listen_addresses.is_empty() {
        let text = "the network of the node is not up";
        return Finding::not_tested(CHECK, text, "log in first: the network begins with that");
    }
    let closed = config.is_some_and(|config| config.libp2p.private_network_secret.is_some());
    judge_reachability(node, closed)
}

fn judge_reachability(node: &Status, closed: bool) -> Finding {
    const CHECK: &str = "reachable";
    const FORWARD: &str = "let your router forward TCP and UDP port 4848 to this machine";
    let network = &node.network;
    let relays = network.relays.len();
    match (network.reachability, network.nat) {
        (Reachability::Public, _) => {
            let at = list(&network.confirmed_addresses);
            let at = if at.is_empty() { at } else { format!(": {at}") };
            let mapped = matches!(&network.port_mapping, PortMapping::Granted { addresses, .. }
                if network.confirmed_addresses.iter().any(|one| addresses.contains(one)));
            let how = match mapped {
                true => "mapped: from everywhere, by ports that the router opened",
                false => "directly, from everywhere",
            };
            Finding::ok(CHECK, format!("{how}{at}"))
        }
        _ if closed => {
            Finding::ok(CHECK, "by nodes of the private network that are on the same LAN")
        }
        (Reachability::Relayed, NatKind::Cone | NatKind::None) => Finding::new(
            CHECK,
            Level::Ok,
            format!(
                "hole-punched: through {relays} relays at first, then directly, since the router \
                 lets a hole be punched"
            ),
            format!("{FORWARD} and others need no relay"),
        ),
        (Reachability::Relayed, NatKind::Symmetric) => Finding::warning(
            CHECK,
            format!(
                "relayed, by {relays} relays: the router takes another port towards everybody, so only \
                 whoever can be reached directly is connected without one"
            ),
            FORWARD,
        ),
        (Reachability::Relayed, NatKind::Unknown) => Finding::warning(
            CHECK,
            format!("relayed, by {relays} relays; whether a hole can be punched is not known yet"),
            format!("{FORWARD} and others need no relay"),
        ),
        (Reachability::Private, _) => Finding::warning(
            CHECK,
            "from this LAN alone, as far as is known: nobody outside could connect, and no relay \
             takes connections for this node",
            format!("{FORWARD}, or name a relay in libp2p.staticRelays"),
        ),
        (Reachability::Unknown, _) => Finding::not_tested(
            CHECK,
            "nobody has said yet where this node can be reached",
            "ask again in some minutes; on a LAN without the Internet this stays so",
        ),
    }
}

/// Says who is connected.
pub(super) fn peers(node: Option<&Status>) -> Finding {
    const CHECK: &str = "peers";
    let Some(node) = node else {
        return Finding::not_tested(CHECK, "no node runs", "start it");
    };
    let proven = node.network.peers.iter().filter(|peer| peer.server_name.is_some());
    let count = |way: Way| proven.clone().filter(|peer| peer.way == way).count();
    match proven.clone().count() {
        0 => Finding::new(
            CHECK,
            Level::Ok,
            "nobody is connected now",
            "search for a person by their whole id; messages wait until you meet".to_owned(),
        ),
        all => {
            let ways = [
                (Way::Direct, "directly"),
                (Way::Punched, "by a punched hole"),
                (Way::Reversed, "by calling back"),
                (Way::Relayed, "through a relay"),
            ];
            let ways = ways.into_iter().map(|(way, words)| (count(way), words));
            let ways = ways.filter(|(count, _)| *count > 0);
            let ways: Vec<String> = ways.map(|(count, words)| format!("{count} {words}")).collect();
            Finding::ok(CHECK, format!("{all} connected: {}", ways.join(", ")))
        }
    }
}

/// Compares our clock with those of others.
pub(super) fn clock(node: Option<&Status>) -> Finding {
    const CHECK: &str = "clock";
    match node.and_then(|node| node.clock.as_ref()) {
        Some(clock) => judge_clock(clock),
        None => Finding::not_tested(
            CHECK,
            "nobody has signed anything for this node yet that it could be compared with",
            "see to it that this machine sets its clock by the network (`timedatectl`)",
        ),
    }
}

fn judge_clock(clock: &ClockStatus) -> Finding {
    const CHECK: &str = "clock";
    let apart = clock.apart_ms.unsigned_abs();
    let way = if clock.apart_ms > 0 { "behind" } else { "ahead of" };
    let text = format!(
        "{}.{} s {way} that of others ({} nodes)",
        apart / 1000,
        apart % 1000 / 100,
        clock.nodes
    );
    let advice = "set the clock of this machine by the network (`timedatectl set-ntp true`)";
    match apart {
        CLOCK_BROKEN_MS.. => {
            let advice = format!("{advice}: what is signed more than 5 minutes off is refused");
            Finding::problem(CHECK, text, advice)
        }
        CLOCK_APART_MS.. => Finding::warning(CHECK, text, advice),
        _ => Finding::ok(CHECK, text),
    }
}

#[cfg(test)]
mod tests {
    use ruma::ServerName;

    use super::*;
    use crate::{
        actors::room_state::RoomCounts,
        actors::swarm::{
            MappingProtocol, NetworkStatus, PeerStatus, Reached, RelayKind, RelayStatus,
        },
    };

    fn node(reachability: Reachability, nat: NatKind, listen: &[&str]) -> Status {
        const RELAY: &str = "/ip4/8.8.8.8/tcp/4001";
        let relay = || RelayStatus {
            peer_id: String::new(),
            address: RELAY.parse().unwrap(),
            kind: RelayKind::Static,
        };
        let relays = (reachability == Reachability::Relayed).then(relay);
        let public = reachability == Reachability::Public;
        Status {
            server_name: None,
            user_id: None,
            display_name: None,
            found_as: Vec::new(),
            has_password: false,
            people: Vec::new(),
            web: None,
            network: NetworkStatus {
                listen_addresses: listen.iter().map(|text| text.parse().unwrap()).collect(),
                confirmed_addresses: public.then(|| WORLD.parse().unwrap()).into_iter().collect(),
                relays: relays.into_iter().collect(),
                reachability,
                nat,
                ..NetworkStatus::default()
            },
            rooms: RoomCounts { joined: 0, invited: 0, live: 0 },
            clock: None,
            owed: crate::actors::outbox::OwedCount::default(),
            media: Default::default(),
        }
    }

    const LAN: &str = "/ip4/192.168.1.2/tcp/4848";
    const WORLD: &str = "/ip4/8.8.8.8/tcp/4848";

    #[test]
    fn ways_in() {
        use NatKind as Nat;
        use Reachability as Reach;
        for (reach, nat, closed, level, words) in [
            (Reach::Public, Nat::None, false, Level::Ok, WORLD),
            (Reach::Relayed, Nat::Cone, false, Level::Ok, "a hole be punched"),
            (Reach::Relayed, Nat::Symmetric, false, Level::Warning, "another port"),
            (Reach::Relayed, Nat::Unknown, false, Level::Warning, "1 relays"),
            (Reach::Private, Nat::Cone, false, Level::Warning, "from this LAN alone"),
            (Reach::Unknown, Nat::Unknown, false, Level::NotTested, "nobody has said"),
            (Reach::Private, Nat::Unknown, true, Level::Ok, "private network"),
        ] {
            let finding = judge_reachability(&node(reach, nat, &[LAN]), closed);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(words), "{finding:?}");
        }
        let mut mapped = node(Reach::Public, Nat::Cone, &[LAN]);
        let addresses = mapped.network.confirmed_addresses.clone();
        let protocol = MappingProtocol::Pcp;
        mapped.network.port_mapping = PortMapping::Granted { protocol, addresses };
        let finding = judge_reachability(&mapped, false);
        assert!(finding.text.starts_with("mapped") && finding.text.contains(WORLD), "{finding:?}");
        assert_eq!(reachability(None, None).level, Level::NotTested);
        let silent = node(Reach::Private, Nat::Unknown, &[]);
        assert_eq!(reachability(None, Some(&silent)).level, Level::NotTested);
    }

    #[test]
    fn how_others_are_connected_is_said() {
        let mut status = node(Reachability::Public, NatKind::None, &[LAN]);
        assert!(peers(Some(&status)).text.contains("nobody"));
        let peer = |way: Way| PeerStatus {
            peer_id: String::new(),
            server_name: ServerName::parse("x").ok(),
            address: LAN.parse().unwrap(),
            way,
            relayed: way == Way::Relayed,
            relay: None,
            near: false,
            gossips: true,
            answers: true,
            rtt_ms: None,
        };
        let ways = [Way::Relayed, Way::Direct, Way::Punched, Way::Direct];
        status.network.peers = ways.map(peer).into();
        let text = "4 connected: 2 directly, 1 by a punched hole, 1 through a relay";
        assert_eq!(peers(Some(&status)).text, text);
        assert_eq!(peers(None).level, Level::NotTested);
    }

    #[test]
    fn one_bootstrap_node_is_enough_and_none_is_a_problem() {
        let probed = |good: bool| Probed {
            address: "/ip4/8.8.8.8/tcp/1".parse().unwrap(),
            result: match good {
                true => Ok(Reached {
                    took: Duration::from_millis(12),
                    dht: true,
                    observed: "/ip4/9.9.9.9/tcp/2".parse().unwrap(),
                }),
                false => Err("refused".to_owned()),
            },
        };
        for (good, bad, level) in
            [(1, 0, Level::Ok), (1, 1, Level::Ok), (1, 4, Level::Warning), (0, 2, Level::Problem)]
        {
            let mut all: Vec<_> = (0..good).map(|_| probed(true)).collect();
            all.extend((0..bad).map(|_| probed(false)));
            let finding = judge_bootstrap(&all);
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.text.contains("refused"), level >= Level::Warning, "{finding:?}");
        }
    }

    #[tokio::test]
    async fn without_the_internet_its_nodes_are_not_looked_for() {
        let finding = bootstrap(&Config::default(), false).await;
        assert_eq!(finding.level, Level::NotTested);
        assert!(finding.text.contains("no way leads to the Internet"), "{finding:?}");
        let mut own = Config::default();
        own.libp2p.dht.bootstrap_peers = Some(vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        assert!(is_probed(&own, false), "one's own may be on this LAN");
        assert!(is_probed(&Config::default(), true));
    }

    #[test]
    fn clocks() {
        for (apart_ms, level, words) in [
            (0, Level::Ok, "0.0 s"),
            (-1500, Level::Ok, "1.5 s ahead of"),
            (61_000, Level::Warning, "61.0 s behind"),
            (-400_000, Level::Problem, "400.0 s ahead of"),
        ] {
            let finding = judge_clock(&ClockStatus { apart_ms, nodes: 3 });
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(words), "{finding:?}");
        }
        assert_eq!(clock(None).level, Level::NotTested);
    }
}
