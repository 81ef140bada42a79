//! What the page says of the network, in plain words. Pure.

use serde::Serialize;

use crate::actors::swarm::{
    NatKind, NetworkStatus, PeerStatus, PortMapping, Reachability, RelayKind, Way,
};

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// It works, and could be better; or it is not known yet.
    Fair,
    /// It does not work.
    Bad,
}

/// A sentence, and how good what it says is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Said {
    pub(super) level: Level,
    pub(super) text: String,
}

impl Said {
    pub(super) fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into() }
    }
}

/// Says whether others can reach the node, and then why not and what would help.
pub(super) fn reach(network: &NetworkStatus) -> (Said, Vec<String>) {
    let mut why = Vec::new();
    let said = match network.reachability {
        Reachability::Public => {
            Said::new(Level::Good, "Anybody can reach you directly, from anywhere.")
        }
        Reachability::Relayed => {
            why.push(
                "Nothing is wrong with that, it is only slower. The relay sees who talks to whom and \
                 when, and cannot read anything."
                    .to_owned(),
            );
            Said::new(Level::Fair, "Others reach you through a relay.")
        }
        Reachability::Private => {
            Said::new(Level::Fair, "Only devices on your own network reach you directly.")
        }
        Reachability::Unknown => {
            why.push("Nobody has told yet how you are seen from outside.".to_owned());
            Said::new(Level::Fair, "It is not known yet whether others can reach you.")
        }
    };
    why.extend(nat(network.nat).map(str::to_owned));
    why.extend(mapping(&network.port_mapping));
    if matches!(network.reachability, Reachability::Relayed | Reachability::Private) {
        why.push(
            "To be reached directly, have your router send TCP and UDP port 4848 to this computer, or \
             the port that you set. You find each other on the same network without that."
                .to_owned(),
        );
    }
    (said, why)
}

fn nat(kind: NatKind) -> Option<&'static str> {
    match kind {
        NatKind::None => Some("No router stands between you and the others."),
        NatKind::Cone => Some(
            "Your router is of the friendly kind: where both sides begin at the same moment, they \
             connect directly.",
        ),
        NatKind::Symmetric => Some(
            "Your router is of the strict kind: it gives you another address towards everybody, so only \
             those who can be reached themselves connect with you directly.",
        ),
        NatKind::Unknown => None,
    }
}

fn mapping(mapping: &PortMapping) -> Option<String> {
    match mapping {
        PortMapping::Off | PortMapping::Asked => None,
        PortMapping::NoRouter => None,
        PortMapping::Granted { protocol, .. } => {
            Some(format!("Your router lets others in at our ports (asked by {protocol})."))
        }
        PortMapping::NotPublic { .. } => Some(
            "Your router lets others in at our ports, but there is another router behind it, which \
             does not."
                .to_owned(),
        ),
        PortMapping::Refused { why } => {
            Some(format!("Your router was asked to let others in at our ports, and said no: {why}."))
        }
        PortMapping::Silent => Some(
            "Your router was asked to let others in at our ports, and does not answer. Most have a \
             setting for that, called UPnP or NAT-PMP."
                .to_owned(),
        ),
    }
}

/// How a peer is connected, as the picture shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    /// On this network.
    Lan,
    /// One side dialled the other.
    Direct,
    /// By hole punching.
    Punched,
    /// Who was called dialled back.
    Reversed,
    /// Through a relay.
    Relayed,
}

impl Path {
    pub(super) fn of(peer: &PeerStatus) -> Self {
        match peer.way {
            Way::Relayed => Self::Relayed,
            _ if peer.near => Self::Lan,
            Way::Direct => Self::Direct,
            Way::Punched => Self::Punched,
            Way::Reversed => Self::Reversed,
        }
    }

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Lan => "on your network",
            Self::Direct => "directly",
            Self::Punched => "directly, through both routers",
            Self::Reversed => "directly, called back",
            Self::Relayed => "through a relay",
        }
    }
}

/// Says why a relay was chosen.
pub(super) fn relay(kind: RelayKind) -> &'static str {
    match kind {
        RelayKind::Static => "a relay that you set",
        RelayKind::Member => "the node of somebody in your rooms",
        RelayKind::Stranger => "a node that does it for everybody",
    }
}

/// Says how many of something there are.
pub(super) fn many(count: usize, one: &str, more: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_how_others_reach_us_and_what_would_help() {
        let say = |reachability, nat, port_mapping| {
            let network =
                NetworkStatus { reachability, nat, port_mapping, ..NetworkStatus::default() };
            let (said, why) = reach(&network);
            (said.level, format!("{} {}", said.text, why.join(" ")))
        };
        let (level, text) = say(Reachability::Public, NatKind::None, PortMapping::Off);
        assert_eq!(level, Level::Good);
        assert!(!text.contains("4848"), "nothing has to be done: {text}");
        let silent = PortMapping::Silent;
        let (level, text) = say(Reachability::Relayed, NatKind::Symmetric, silent);
        assert_eq!(level, Level::Fair);
        for part in ["relay", "strict kind", "does not answer", "4848", "cannot read"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (_, text) = say(Reachability::Unknown, NatKind::Unknown, PortMapping::Asked);
        assert!(text.contains("Nobody has told yet") && !text.contains("4848"), "{text}");
    }

    #[test]
    fn a_path_is_near_before_it_is_anything_but_relayed() {
        let path = |way, near| {
            let address = "/ip4/192.168.1.2/tcp/1".parse().unwrap();
            Path::of(&PeerStatus {
                peer_id: String::new(),
                server_name: None,
                address,
                way,
                relayed: way == Way::Relayed,
                relay: None,
                near,
                gossips: true,
                answers: true,
                rtt_ms: None,
            })
        };
        assert_eq!(path(Way::Direct, true), Path::Lan);
        assert_eq!(path(Way::Direct, false), Path::Direct);
        assert_eq!(path(Way::Punched, false), Path::Punched);
        assert_eq!(path(Way::Reversed, false), Path::Reversed);
        assert_eq!(path(Way::Relayed, true), Path::Relayed);
    }
}
