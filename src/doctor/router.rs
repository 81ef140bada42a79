//! The router: whether it opened ports for the node when it was asked, by PCP, NAT-PMP or UPnP.

use libp2p::Multiaddr;

use super::{Finding, Level};
use crate::{
    actors::swarm::{NatKind, PortMapping, Reachability},
    config::Config,
    status::Status,
};

/// Says what came of asking the router for ports.
pub(super) fn port_mapping(config: Option<&Config>, node: Option<&Status>) -> Finding {
    const CHECK: &str = "port mapping";
    let closed = config.is_some_and(|config| config.libp2p.private_network_secret.is_some());
    if closed {
        return Finding::ok(CHECK, "not asked for: in a private network no router is asked");
    }
    if config.is_some_and(|config| !config.libp2p.port_mapping) {
        return Finding::ok(CHECK, "it is turned off (libp2p.portMapping): no router is asked");
    }
    match node.filter(|node| !node.network.listen_addresses.is_empty()) {
        Some(node) => judge_port_mapping(node),
        None => Finding::not_tested(
            CHECK,
            "only the running node asks the router, once somebody has logged in",
            "start it, log in, and ask again a minute later",
        ),
    }
}

fn judge_port_mapping(node: &Status) -> Finding {
    const CHECK: &str = "port mapping";
    // Where others get in anyway, or by a hole, an open port would only spare them a relay.
    let needed = match (node.network.reachability, node.network.nat) {
        (Reachability::Public, _) => Level::Ok,
        (Reachability::Relayed, NatKind::Cone | NatKind::None) => Level::Ok,
        _ => Level::Warning,
    };
    let failed = |text: String, advice: &str| Finding::new(CHECK, needed, text, advice.to_owned());
    match &node.network.port_mapping {
        PortMapping::Off => Finding::ok(CHECK, "the node asks no router"),
        PortMapping::NoRouter => Finding::ok(CHECK, "there is no router to ask"),
        PortMapping::Asked => Finding::not_tested(
            CHECK,
            "the router was asked and has not answered yet",
            "ask again in half a minute",
        ),
        PortMapping::Granted { protocol, addresses } => Finding::ok(
            CHECK,
            format!(
                "granted by {protocol}: the router sends to this node what comes to {}",
                list(addresses)
            ),
        ),
        PortMapping::NotPublic { address } => failed(
            format!("the router opened {address}, which is no public address: another is behind"),
            "only your provider, or whoever runs the other router, can open a port there; IPv6, \
             where you have it, needs none",
        ),
        PortMapping::Refused { why } => failed(
            format!("the router refused: {why}"),
            "allow it in the settings of your router (UPnP, NAT-PMP or PCP), or have it forward \
             TCP and UDP port 4848 to this machine",
        ),
        PortMapping::Silent => failed(
            "no router answered: not by PCP, NAT-PMP or UPnP".to_owned(),
            "turn one of them on in the settings of your router, or have it forward TCP and UDP \
             port 4848 to this machine",
        ),
    }
}

/// Writes addresses one after another.
pub(super) fn list(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::room_state::RoomCounts,
        actors::swarm::{MappingProtocol, NetworkStatus},
    };

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn node(port_mapping: PortMapping, reachability: Reachability, nat: NatKind) -> Status {
        Status {
            server_name: None,
            user_id: None,
            display_name: None,
            found_as: Vec::new(),
            has_password: false,
            people: Vec::new(),
            web: None,
            network: NetworkStatus {
                listen_addresses: vec![at("/ip4/192.168.1.2/tcp/4848")],
                port_mapping,
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

    #[test]
    fn what_the_router_said_is_a_warning_only_where_it_is_needed() {
        let granted = PortMapping::Granted {
            protocol: MappingProtocol::NatPmp,
            addresses: vec![at("/ip4/8.8.8.8/tcp/4848")],
        };
        let carrier = PortMapping::NotPublic { address: at("/ip4/100.64.1.2/tcp/4848") };
        let refused = PortMapping::Refused { why: "Not authorized".to_owned() };
        for (said, hidden, punched, words) in [
            (PortMapping::Off, Level::Ok, Level::Ok, "asks no router"),
            (PortMapping::NoRouter, Level::Ok, Level::Ok, "no router to ask"),
            (PortMapping::Asked, Level::NotTested, Level::NotTested, "not answered yet"),
            (granted, Level::Ok, Level::Ok, "NAT-PMP: the router sends"),
            (carrier, Level::Warning, Level::Ok, "/ip4/100.64.1.2/tcp/4848"),
            (refused, Level::Warning, Level::Ok, "refused: Not authorized"),
            (PortMapping::Silent, Level::Warning, Level::Ok, "no router answered"),
        ] {
            for (reachability, nat, level) in [
                (Reachability::Private, NatKind::Cone, hidden),
                (Reachability::Relayed, NatKind::Symmetric, hidden),
                (Reachability::Relayed, NatKind::Cone, punched),
                (Reachability::Public, NatKind::Symmetric, punched),
            ] {
                let finding = port_mapping(None, Some(&node(said.clone(), reachability, nat)));
                assert_eq!(finding.level, level, "{finding:?}");
                assert!(finding.text.contains(words), "{finding:?}");
                assert_eq!(finding.advice.is_some(), level != Level::Ok || hidden != level);
            }
        }
    }

    #[test]
    fn why_no_router_is_asked_is_said() {
        let mut config = Config::default();
        assert_eq!(port_mapping(Some(&config), None).level, Level::NotTested);
        config.libp2p.port_mapping = false;
        assert!(port_mapping(Some(&config), None).text.contains("turned off"));
        config.libp2p.private_network_secret = Some("x".to_owned());
        assert!(port_mapping(Some(&config), None).text.contains("private network"));
    }
}
