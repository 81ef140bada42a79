//! All that the page shows, as it gets it: sentences and figures, put together from a look. Pure.
//!
//! What others chose (names of rooms and people) is text among the rest; the page writes it as text.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    gather::Look,
    history::Sample,
    room_view::{self, RoomShown, short},
    words::{self, Level, Path, Said, many},
};
use crate::{
    actors::{
        element::{Loaded, Work},
        http_gateway::WebStatus,
    },
    status::{self, Status},
};

/// A setting, and what it is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    name: &'static str,
    words: String,
}

impl From<(&'static str, String)> for Setting {
    fn from((name, words): (&'static str, String)) -> Self {
        Self { name, words }
    }
}

/// Who the owner is.
#[derive(Debug, PartialEq, Serialize)]
struct You {
    user_id: String,
    name: Option<String>,
    found_as: Vec<String>,
    /// What the owner sends to somebody who is to find them.
    invite: String,
    has_password: bool,
}

/// Somebody else who is at home on the node.
#[derive(Debug, PartialEq, Serialize)]
struct Housemate {
    name: String,
    found_as: Vec<String>,
    devices: usize,
}

/// A connected node.
#[derive(Debug, PartialEq, Serialize)]
struct Peer {
    id: String,
    name: String,
    server: Option<String>,
    path: Path,
    path_words: &'static str,
    relay: Option<String>,
    member: bool,
    answers: bool,
    rtt_ms: Option<f64>,
    address: String,
}

/// A relay that takes connections for us.
#[derive(Debug, PartialEq, Serialize)]
struct Relay {
    id: String,
    address: String,
    words: &'static str,
}

/// What waits for a server that is off.
#[derive(Debug, PartialEq, Serialize)]
struct Owed {
    name: String,
    items: usize,
    bytes: usize,
    next: String,
    waiting: Vec<String>,
}

/// Something on its way, with how many bytes came and how many there are, as far as that is known.
#[derive(Debug, PartialEq, Serialize)]
struct Transfer {
    what: String,
    came: u64,
    all: Option<u64>,
}

/// What takes place on the disk.
#[derive(Debug, PartialEq, Serialize)]
struct Storage {
    database: u64,
    media: u64,
    media_count: usize,
    element: u64,
    free: Option<u64>,
}

/// All that is shown.
#[derive(Debug, Serialize)]
pub(super) struct View {
    headline: Said,
    next: Vec<String>,
    element: Option<String>,
    element_words: String,
    you: Option<You>,
    household: Vec<Housemate>,
    reach: Said,
    why: Vec<String>,
    details: Vec<(&'static str, Vec<String>)>,
    peers: Vec<Peer>,
    relays: Vec<Relay>,
    strangers: usize,
    rooms: Vec<RoomShown>,
    more_rooms: usize,
    invites: usize,
    owed: Vec<Owed>,
    lately: Vec<String>,
    transfers: Vec<Transfer>,
    storage: Storage,
    settings: Vec<Setting>,
    sample: Option<Sample>,
}

impl View {
    /// Says that a part of the node does not answer.
    pub(super) fn trouble(why: String) -> serde_json::Value {
        serde_json::json!({
            "headline": Said::new(Level::Bad, "A part of this node does not answer."),
            "trouble": why,
        })
    }

    /// Puts together what is shown. `now` is in milliseconds since 1970.
    pub(super) fn of(
        look: &Look,
        settings: &[Setting],
        sample: Option<Sample>,
        now: u64,
    ) -> serde_json::Value {
        let view = Self::new(look, settings, sample, now);
        serde_json::to_value(view).unwrap_or_default()
    }

    fn new(look: &Look, settings: &[Setting], sample: Option<Sample>, now: u64) -> Self {
        let Look { status, outbox, rooms, disk } = look;
        let Status { network, .. } = status;
        let names = room_view::names(rooms);
        let mut peers: Vec<Peer> = network
            .peers
            .iter()
            .map(|peer| {
                let server = peer.server_name.as_ref();
                let path = Path::of(peer);
                Peer {
                    id: peer.peer_id.clone(),
                    name: match server {
                        Some(server) => names.get(server).cloned().unwrap_or_else(|| short(server)),
                        None => "somebody who has not said yet who they are".to_owned(),
                    },
                    server: server.map(ToString::to_string),
                    path,
                    path_words: path.in_words(),
                    relay: peer.relay.clone(),
                    member: peer.gossips,
                    answers: peer.answers,
                    rtt_ms: peer.rtt_ms.map(|ms| (ms * 10.0).round() / 10.0),
                    address: peer.address.to_string(),
                }
            })
            .collect();
        peers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let connected: BTreeSet<_> =
            network.peers.iter().filter_map(|peer| peer.server_name.as_ref()).collect();
        let shown = match &status.user_id {
            Some(own) => room_view::rooms(rooms, own, &connected),
            None => Vec::new(),
        };
        let (reach, why) = match status.user_id {
            Some(_) => words::reach(network),
            None => {
                (Said::new(Level::Fair, "The network is off until you have logged in."), vec![])
            }
        };
        let web = status.web.as_ref();
        Self {
            headline: headline(status),
            next: web.map(|web| web.open()).unwrap_or_default(),
            element: web.and_then(|web| web.element_url.clone()),
            element_words: web.map(element_in_words).unwrap_or_default(),
            you: you(status),
            household: status
                .people
                .iter()
                .map(|person| Housemate {
                    name: person.user_id.localpart().to_owned(),
                    found_as: person.found_as.clone(),
                    devices: person.devices,
                })
                .collect(),
            reach,
            why,
            details: details(status),
            peers,
            relays: network
                .relays
                .iter()
                .map(|relay| Relay {
                    id: relay.peer_id.clone(),
                    address: relay.address.to_string(),
                    words: words::relay(relay.kind),
                })
                .collect(),
            strangers: network.strangers,
            more_rooms: status.rooms.joined.saturating_sub(shown.len()),
            rooms: shown,
            invites: status.rooms.invited,
            owed: outbox
                .servers
                .iter()
                .map(|owed| Owed {
                    name: names
                        .get(&owed.server_name)
                        .cloned()
                        .unwrap_or_else(|| short(&owed.server_name)),
                    items: owed.items,
                    bytes: owed.bytes,
                    next: status::next_try(owed.in_flight, owed.next_try_ms),
                    waiting: owed.waiting.iter().map(|item| item.matter.to_string()).collect(),
                })
                .collect(),
            lately: status::ended_in_words(outbox, now),
            transfers: transfers(status, |server| {
                names.get(server).cloned().unwrap_or_else(|| short(server))
            }),
            storage: Storage {
                database: disk.database,
                media: status.media.bytes,
                media_count: status.media.media,
                element: disk.element,
                free: disk.free,
            },
            settings: settings.to_vec(),
            sample,
        }
    }
}

/// Says in one sentence how it goes.
fn headline(status: &Status) -> Said {
    let network = &status.network;
    if status.user_id.is_none() {
        return Said::new(
            Level::Fair,
            "Nobody has logged in yet: the first login makes who you are.",
        );
    }
    let members: BTreeSet<_> = network
        .peers
        .iter()
        .filter(|peer| peer.gossips)
        .filter_map(|peer| peer.server_name.as_ref())
        .collect();
    match (members.len(), network.peers.len()) {
        (0, 0) => Said::new(Level::Fair, "You are on, and nobody else is connected right now."),
        (0, others) => {
            let others = many(others, "other node", "other nodes");
            Said::new(
                Level::Fair,
                format!("You are connected to {others}, and nobody of your rooms is on right now."),
            )
        }
        (members, _) => Said::new(
            Level::Good,
            format!(
                "You are connected with {} of your rooms.",
                many(members, "other household", "other households")
            ),
        ),
    }
}

fn you(status: &Status) -> Option<You> {
    let user_id = status.user_id.as_ref()?;
    Some(You {
        user_id: user_id.to_string(),
        name: status.display_name.clone(),
        found_as: status.found_as.clone(),
        invite: invite(status),
        has_password: status.has_password,
    })
}

/// Writes what the owner sends to somebody who is to find them: the sure name first, then where the node
/// is, for where no DHT is.
fn invite(status: &Status) -> String {
    let Status { user_id: Some(user_id), network, .. } = status else { return String::new() };
    let mut lines = vec!["Find me on MessageHub. Search for my whole id:".to_owned()];
    lines.push(user_id.to_string());
    if let Some(short) = status.found_as.first() {
        lines.push(format!("or for {short}, and then compare the whole id."));
    }
    if !network.peer_id.is_empty() {
        let all = network.confirmed_addresses.iter().chain(&network.external_addresses);
        let mut seen = BTreeSet::new();
        let addresses: Vec<String> = all
            .map(|address| address.to_string())
            .filter(|address| seen.insert(address.clone()))
            .take(INVITE_ADDRESSES)
            .map(|address| format!("{address}/p2p/{}", network.peer_id))
            .collect();
        lines.push(match addresses.is_empty() {
            true => format!("My node: /p2p/{}", network.peer_id),
            false => format!("My node, which you can search for too:\n{}", addresses.join("\n")),
        });
    }
    if let Some(element) = status.web.as_ref().and_then(|web| web.element_url.as_deref()) {
        lines.push(format!("With MessageHub on your computer: {element}/#/user/{user_id}"));
    }
    lines.join("\n")
}

/// Addresses in an invite: enough for each kind of network.
const INVITE_ADDRESSES: usize = 4;

fn details(status: &Status) -> Vec<(&'static str, Vec<String>)> {
    let network = &status.network;
    let texts = |all: &[_]| {
        let mut texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    };
    let dht = network.dht.iter().map(|dht| {
        let role = if dht.server { "serves others too" } else { "asks only" };
        format!(
            "{}: {} known, {role}; {} of {} of your names are published",
            dht.name,
            many(dht.nodes, "node", "nodes"),
            dht.published,
            dht.strings
        )
    });
    let mut details = vec![
        ("Your node's PeerId", vec![network.peer_id.clone()]),
        ("It listens on", texts(&network.listen_addresses)),
        ("Others are told", texts(&network.external_addresses)),
        ("Others confirmed", texts(&network.confirmed_addresses)),
        ("Found through (DHT)", dht.collect()),
    ];
    if let Some(clock) = &status.clock {
        let (seconds, nodes) = (clock.apart_ms / 1000, many(clock.nodes, "node", "nodes"));
        details.push(("Clock", vec![format!("{seconds} s apart from that of {nodes}")]));
    }
    details.retain(|(_, texts)| texts.iter().any(|text| !text.is_empty()));
    details
}

fn element_in_words(web: &WebStatus) -> String {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    match (&web.element_url, &web.element_missing, &web.element_work) {
        (None, ..) => "It is not served here (element.listenAddress is null).".to_owned(),
        (Some(_), _, Work::Loading(Loaded { bytes, total })) if *bytes > 0 || total.is_some() => {
            format!("It is on its way: {} MiB so far.", mib(*bytes))
        }
        (Some(_), _, Work::Unpacking) => "It came, and is being unpacked.".to_owned(),
        (Some(_), _, Work::Failed(why, seconds)) => {
            format!("It did not come: {why}. It is tried again within {seconds} s.")
        }
        (Some(_), None, _) => {
            "It is on board, and is brought up to date with this program by itself.".to_owned()
        }
        (Some(_), Some(_), _) => {
            "It is not there yet. `messagehub element install` gets it.".to_owned()
        }
    }
}

fn transfers(status: &Status, name: impl Fn(&ruma::OwnedServerName) -> String) -> Vec<Transfer> {
    let media = status.media.fetching.iter().map(|(server, came, all)| Transfer {
        what: format!("A file of {}", name(server)),
        came: *came,
        all: Some(*all).filter(|all| *all > 0),
    });
    let work = status.web.as_ref().map(|web| &web.element_work);
    let element = match work {
        Some(Work::Loading(Loaded { bytes, total })) => {
            Some(Transfer { what: "Element, the client".to_owned(), came: *bytes, all: *total })
        }
        _ => None,
    };
    element.into_iter().chain(media).collect()
}
