//! What a person is told of a node: the first lines of its log, and `messagehub status`. Pure.
//!
//! First comes what to do next: which address to open, then who one is and how others find one; what
//! only somebody who looks for a fault wants to know comes last.

use std::net::SocketAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{PersonStatus, Status};
use crate::{
    actors::{
        element::{Loaded, Work},
        http_gateway::WebStatus,
        media::MediaStatus,
        outbox::{End, Ended, OutboxStatus, ServerOwed, Waiting},
        swarm::PeerStatus,
    },
    config::{DEFAULT_LISTEN, FALLBACK_PORT},
    platform::{low_ports, words::System},
    proto::rendezvous,
};

impl WebStatus {
    /// What to open, in one sentence or two.
    pub fn open(&self) -> Vec<String> {
        let Self { homeserver_url, element_url, element_missing, element_work, .. } = self;
        let client = format!("give a Matrix client the homeserver {homeserver_url}");
        match (element_url, element_missing) {
            (Some(element), None) => {
                vec![format!("open {element} in your browser (Element), or {client}")]
            }
            (Some(element), Some(folder)) => vec![
                format!("open {element} in your browser: it says how to get Element, or {client}"),
                match element_work {
                    Work::None => format!(
                        "Element is not there yet: `messagehub element install` gets it, or its \
                         files belong into {}",
                        folder.display()
                    ),
                    Work::Loading(Loaded { bytes, .. }) => {
                        format!("Element is being fetched: {} KiB so far", bytes >> 10)
                    }
                    Work::Unpacking => "Element is being unpacked".to_owned(),
                    Work::Failed(why, _) => format!("Element is not there yet: {why}"),
                },
            ],
            (None, _) => vec![client],
        }
    }

    /// What follows from where the homeserver listens, where anything does.
    pub fn exposure(&self) -> Option<String> {
        let ip = self.homeserver.ip();
        let whose = match ip {
            ip if ip.is_loopback() => return None,
            ip if ip.is_unspecified() => "every address of this machine",
            _ => "an address that other machines can reach",
        };
        Some(format!(
            "the homeserver listens on {}, which is {whose}: whoever can reach it sees the login \
             page, where only a token of `messagehub login-token`, or a password where one is set, lets \
             anybody in, and messages pass unencrypted between client and node",
            self.homeserver
        ))
    }

    /// Why the port is another than the usual one, where that has a reason.
    fn other_port(&self) -> Option<String> {
        let usual: SocketAddr = DEFAULT_LISTEN.parse().ok()?;
        let fell_back =
            self.homeserver.ip() == usual.ip() && self.homeserver.port() == FALLBACK_PORT;
        fell_back.then(|| {
            format!(
                "the port is {FALLBACK_PORT} because this account may not listen on {}, as most \
                 may not: {}",
                usual.port(),
                System::HERE.allow_port(usual.port(), &low_ports::this_program())
            )
        })
    }
}

/// Returns the lines with which a node begins: `config` is the file that was read.
pub fn banner(
    web: &WebStatus,
    config: Option<&std::path::Path>,
    data: &std::path::Path,
    logged_in: bool,
) -> Vec<String> {
    let config = match config {
        Some(file) => format!("configured by {}", file.display()),
        None => "no config.json here: everything is as by default".to_owned(),
    };
    let mut lines = vec![format!("{config}; keys and rooms are in {}", data.display())];
    if !logged_in {
        lines.push(
            "nobody has logged in yet: the first login makes who you are, and until then this node \
             speaks to no other"
                .to_owned(),
        );
    }
    let mut open = web.open();
    if let (false, Some(first)) = (logged_in, open.first_mut()) {
        *first = format!("to log in, {first}");
    }
    lines.extend(open);
    lines.extend(web.other_port());
    lines
}

/// Returns how others find somebody: the short string, and the sure one.
pub fn found_as(display_name: &str, server_name: &ruma::ServerName) -> Vec<String> {
    let all = rendezvous::strings(display_name, server_name);
    let whole = all.first().cloned();
    all.into_iter().nth(1).into_iter().chain(whole).collect()
}

/// `messagehub status`, for people.
pub fn status_in_words(status: &Status) -> String {
    let Status { user_id, network, rooms, web, found_as, .. } = status;
    let mut lines = Vec::new();
    let mut tell = |name: &str, text: String| lines.push(format!("{name:<13} {text}"));
    if let Some(web) = web {
        for (at, line) in web.open().into_iter().chain(web.exposure()).enumerate() {
            tell(if at == 0 { "next" } else { "" }, line);
        }
    }
    let Some(user_id) = user_id else {
        tell("you are", "nobody yet: the first login makes who you are".to_owned());
        tell("network", "off until then: this node speaks to no other yet".to_owned());
        return lines.join("\n");
    };
    tell("you are", user_id.to_string());
    if !found_as.is_empty() {
        tell("found as", format!("others find you as {}", found_as.join(", ")));
    }
    for (at, person) in status.people.iter().enumerate() {
        let PersonStatus { user_id, found_as, devices, .. } = person;
        let plural = if *devices == 1 { "" } else { "s" };
        let name = user_id.localpart();
        let found = found_as.join(", ");
        let text = format!("{name}, with {devices} device{plural}; found as {found}");
        tell(if at == 0 { "others here" } else { "" }, text);
    }
    tell("rooms", format!("{} joined, {} invites", rooms.joined, rooms.invited));
    if status.owed.items > 0 {
        let (items, servers) = (status.owed.items, status.owed.servers);
        let plural = if servers == 1 { "" } else { "s" };
        let text = format!("{items} to {servers} server{plural}; `messagehub outbox` says what");
        tell("owed", text);
    }
    if status.media.media > 0 || !status.media.fetching.is_empty() {
        let MediaStatus { media, bytes, fetching } = &status.media;
        tell("media", format!("{media}, {} MiB", bytes.div_ceil(1024 * 1024)));
        for (server_name, came, all) in fetching {
            let percent = came.saturating_mul(100).checked_div(*all);
            let text =
                percent.map_or("looked for".to_owned(), |percent| format!("{percent} % here"));
            tell("", format!("one of {server_name}: {text}"));
        }
    }
    tell("reachability", network.reachability.to_string());
    tell("router (NAT)", network.nat.to_string());
    tell(
        "gossip",
        format!("{} topics, {} of them meshed", network.topics.subscribed, network.topics.meshed),
    );
    tell("peers", network.peers.len().to_string());
    let mut peers: Vec<_> = network.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.server_name.is_none(), peer.server_name.clone()));
    for peer in peers {
        let name = peer.server_name.as_ref().map_or("not identified yet", |name| name.as_str());
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        let silent = if peer.answers { "" } else { "  (does not answer now)" };
        let PeerStatus { way, address, peer_id, .. } = peer;
        tell("", format!("{name}  {way}  {rtt}  {address}  {peer_id}{silent}"));
    }
    for relay in &network.relays {
        tell("relay", relay.address.to_string());
    }
    tell("peer id", network.peer_id.clone());
    for (name, addresses) in
        [("listening on", &network.listen_addresses), ("reachable as", &network.external_addresses)]
    {
        for (at, address) in sorted(addresses).into_iter().enumerate() {
            tell(if at == 0 { name } else { "" }, address.to_string());
        }
    }
    lines.join("\n")
}

/// `messagehub outbox`, for people. `now` is in milliseconds since 1970.
pub fn outbox_in_words(outbox: &OutboxStatus, now: u64) -> String {
    let mut lines = Vec::new();
    if outbox.servers.is_empty() {
        lines.push("nothing is owed to anybody".to_owned());
    }
    for server in &outbox.servers {
        let ServerOwed { server_name, items, bytes, in_flight, next_try_ms, waiting, .. } = server;
        let next = next_try(*in_flight, *next_try_ms);
        let kib = bytes.div_ceil(1024);
        lines.push(format!("{server_name}  {items} owed, {kib} KiB, {next}"));
        for Waiting { matter, made_ts, expires_ts, tries, .. } in waiting {
            let (since, left) = (now.saturating_sub(*made_ts), expires_ts.saturating_sub(now));
            let (since, left) = (span(since), span(left));
            lines.push(format!("    {matter}, for {since}, {tries} tries, kept for {left} more"));
        }
        match items.saturating_sub(waiting.len()) {
            0 => {}
            more => lines.push(format!("    and {more} more")),
        }
    }
    let not_told = outbox.owed.servers.saturating_sub(outbox.servers.len());
    if not_told > 0 {
        lines.push(format!("and {not_told} more servers"));
    }
    if !outbox.ended.is_empty() {
        lines.push("lately:".to_owned());
    }
    lines.extend(ended_in_words(outbox, now).into_iter().map(|line| format!("    {line}")));
    lines.join("\n")
}

/// Says when what a server is owed is tried again.
pub fn next_try(in_flight: bool, next_try_ms: u64) -> String {
    match (in_flight, next_try_ms) {
        (true, _) => "being tried now".to_owned(),
        (false, 0) => "tried next".to_owned(),
        (false, ms) => format!("tried again in {}", span(ms)),
    }
}

/// Says what became of what was owed. `now` is in milliseconds since 1970.
pub fn ended_in_words(outbox: &OutboxStatus, now: u64) -> Vec<String> {
    let line = |ended: &Ended| {
        let how = match &ended.end {
            End::Delivered => "delivered".to_owned(),
            End::Refused { status, errcode } => format!("refused ({status} {errcode})"),
            End::Expired => "given up, since the server was not reached for too long".to_owned(),
            End::GaveWay => "given up, since the server is owed too much".to_owned(),
        };
        let ago = span(now.saturating_sub(ended.ended_ts));
        format!("{} for {}: {how}, {ago} ago", ended.matter, ended.server_name)
    };
    outbox.ended.iter().map(line).collect()
}

/// Says how long something is, in the largest unit of which it has one.
fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    for (unit, of) in [("d", 24 * 60 * 60), ("h", 60 * 60), ("min", 60)] {
        if seconds >= of {
            return format!("{} {unit}", seconds / of);
        }
    }
    format!("{seconds} s")
}

/// Returns addresses in an order that does not change: IPv4 first, loopback last, then by number.
fn sorted(addresses: &[Multiaddr]) -> Vec<&Multiaddr> {
    let mut sorted: Vec<_> = addresses.iter().collect();
    sorted.sort_by_cached_key(|address| {
        let (loopback, kind, ip) = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => (ip.is_loopback(), 0, ip.to_ipv6_mapped().octets()),
            Some(Protocol::Ip6(ip)) => (ip.is_loopback(), 1, ip.octets()),
            _ => (false, 2, [0; 16]),
        };
        (loopback, kind, ip, address.to_string())
    });
    sorted
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::actors::{
        outbox::{Matter, OwedCount},
        room_state::RoomCounts,
        swarm::NetworkStatus,
    };

    fn web(homeserver: &str) -> WebStatus {
        WebStatus {
            homeserver: homeserver.parse().unwrap(),
            homeserver_url: "http://127.84.48.2".to_owned(),
            element_url: Some("http://127.84.48.1".to_owned()),
            element_missing: None,
            element_work: Work::None,
        }
    }

    #[test]
    fn the_first_lines_say_what_to_open_and_what_is_missing() {
        let say = |web: &WebStatus, logged_in| {
            banner(web, None, Path::new("/home/ann/data"), logged_in).join("\n")
        };
        let fresh = say(&web("127.84.48.2:80"), false);
        assert!(fresh.contains("no config.json here"), "{fresh}");
        assert!(fresh.contains("keys and rooms are in /home/ann/data"), "{fresh}");
        assert!(fresh.contains("nobody has logged in yet"), "{fresh}");
        assert!(fresh.contains("to log in, open http://127.84.48.1 in your browser"), "{fresh}");
        let known = say(&web("127.84.48.2:80"), true);
        assert!(
            known.contains("\nopen http://127.84.48.1") && !known.contains("nobody"),
            "{known}"
        );
        let file = banner(&web("127.0.0.1:1"), Some(Path::new("c.json")), Path::new("d"), true);
        assert!(file.join("\n").contains("configured by c.json"), "{file:?}");

        let mut odd = web("127.84.48.2:8480");
        odd.element_missing = Some("/home/ann/data/element".into());
        let odd = say(&odd, true);
        assert!(odd.contains("may not listen on 80"), "{odd}");
        assert!(odd.contains("its files belong into /home/ann/data/element"), "{odd}");
        let mut off = web("127.84.48.2:80");
        off.element_url = None;
        let off = say(&off, false);
        assert!(off.contains("to log in, give a Matrix client the homeserver http://127"), "{off}");
    }

    #[test]
    fn what_an_address_means_is_said() {
        assert_eq!(web("127.84.48.2:80").exposure(), None);
        assert_eq!(web("[::1]:80").exposure(), None);
        for (at, words) in [
            ("0.0.0.0:8008", "0.0.0.0:8008, which is every address of this machine"),
            ("[::]:8008", "every address"),
            ("192.168.1.5:80", "192.168.1.5:80, which is an address that other machines can reach"),
        ] {
            let said = web(at).exposure().unwrap();
            assert!(said.contains(words) && said.contains("login-token"), "{said}");
        }
    }

    #[test]
    fn status_begins_with_the_address_to_open() {
        let addresses = [
            "/ip6/::1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.2/udp/1/quic-v1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/10.0.0.9/tcp/1",
        ];
        let name: ruma::OwnedServerName =
            "bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna".try_into().unwrap();
        let mut status = Status {
            server_name: None,
            user_id: None,
            display_name: None,
            found_as: Vec::new(),
            has_password: false,
            people: Vec::new(),
            web: Some(web("127.84.48.2:80")),
            network: NetworkStatus::default(),
            rooms: RoomCounts { joined: 0, invited: 0, live: 0 },
            clock: None,
            owed: OwedCount::default(),
            media: MediaStatus::default(),
        };
        let early = status_in_words(&status);
        assert!(early.starts_with("next          open http://127.84.48.1"), "{early}");
        assert!(early.contains("nobody yet") && !early.contains("peer id"), "{early}");

        status.user_id = Some(crate::proto::server_name::user_of(&name));
        status.found_as = found_as("Ann", &name);
        status.network.listen_addresses =
            addresses.map(|address| address.parse().unwrap()).to_vec();
        let later = status_in_words(&status);
        assert!(later.starts_with("next          open http://127.84.48.1"), "{later}");
        let found = format!("others find you as Ann:iwqjdna, p2p:{name}");
        assert!(later.contains(&found), "{later}");
        assert!(!later.contains("others here"), "{later}");
        let person = |localpart: &str, devices| crate::actors::accounts::LocalPerson {
            user_id: format!("@{localpart}:{name}").try_into().unwrap(),
            profile: crate::actors::accounts::Profile::default(),
            devices,
            has_password: true,
        };
        status.people = vec![person("bob", 1).into(), person("carl", 2).into()];
        let later = status_in_words(&status);
        let bob =
            format!("\nothers here   bob, with 1 device; found as bob:iwqjdna, @bob:{name}\n");
        assert!(later.contains(&bob), "{later}");
        assert!(later.contains("\n              carl, with 2 devices; found as"), "{later}");
        let order = [
            "/ip4/10.0.0.9/tcp/1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/192.168.1.2/udp/1/quic-v1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/::1/tcp/1",
        ];
        let at: Vec<_> = order.iter().map(|address| later.find(address).unwrap()).collect();
        assert!(at.is_sorted(), "{later}");
    }

    #[test]
    fn what_is_owed_is_told_by_server_with_what_became_of_the_rest() {
        const NOW: u64 = 1_790_000_000_000;
        let server: ruma::OwnedServerName = "bob.org".try_into().unwrap();
        let invite = || Matter::Invite {
            room_id: "!r:x".try_into().unwrap(),
            user_id: "@bob:bob.org".try_into().unwrap(),
            event_id: "$e".try_into().unwrap(),
        };
        let nobody = outbox_in_words(&OutboxStatus::default(), NOW);
        assert_eq!(nobody, "nothing is owed to anybody");
        let ended = |matter, end| Ended {
            server_name: server.clone(),
            matter,
            made_ts: NOW - 1000,
            ended_ts: NOW - 90_000,
            end,
        };
        let refused = End::Refused { status: 403, errcode: "M_FORBIDDEN".to_owned() };
        let outbox = OutboxStatus {
            owed: OwedCount { items: 12, bytes: 5000, servers: 1 },
            servers: vec![ServerOwed {
                server_name: server.clone(),
                items: 12,
                bytes: 5000,
                in_flight: false,
                failures: 3,
                next_try_ms: 240_000,
                waiting: vec![Waiting {
                    matter: invite(),
                    bytes: 400,
                    made_ts: NOW - 7_300_000,
                    expires_ts: NOW + 86_400_000 * 29,
                    tries: 3,
                }],
            }],
            ended: vec![
                ended(Matter::ToDevice { message_id: "m".to_owned() }, End::Delivered),
                ended(invite(), refused),
            ],
        };
        let expected = "\
bob.org  12 owed, 5 KiB, tried again in 4 min
    invite of @bob:bob.org to !r:x, for 2 h, 3 tries, kept for 29 d more
    and 11 more
lately:
    message to devices for bob.org: delivered, 1 min ago
    invite of @bob:bob.org to !r:x for bob.org: refused (403 M_FORBIDDEN), 1 min ago";
        assert_eq!(outbox_in_words(&outbox, NOW), expected);
        let json = serde_json::to_string(&outbox).unwrap();
        let read: OutboxStatus = serde_json::from_str(&json).unwrap();
        assert_eq!(outbox_in_words(&read, NOW), expected);
    }
}
