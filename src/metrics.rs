//! What Prometheus is told, in its words. Pure: what was read is an argument.
//!
//! Everything is in one table of families, so that a test can hold the dashboard (`assets/grafana/`) and the
//! documents to it. Invariant: no label names anybody: no server, no room, no user, no address.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    actors::{
        admission::WorkCount,
        swarm::{QueueCounts, Reachability, Way},
    },
    meters::{Dropped, Flow, Reading, SPANS_MS, SpansRead, Timed, Verdict},
    status::Status,
};

/// What begins the name of each family.
const PREFIX: &str = "messagehub";

/// All that was read of a node.
#[derive(Debug)]
pub struct Figures {
    /// What it is at.
    pub status: Status,
    /// What it counted.
    pub reading: Reading,
    /// The work of clients.
    pub clients: WorkCount,
    /// The work of others.
    pub others: WorkCount,
    /// What waits for the network task and its actor.
    pub queues: QueueCounts,
    /// Bytes of the database.
    pub store_bytes: u64,
    /// For how long the node runs, in milliseconds.
    pub uptime_ms: u64,
}

/// A value of a family.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// What only grows.
    Counter(u64),
    /// What comes and goes.
    Gauge(f64),
    /// How often something took how long.
    Spans(SpansRead),
}

impl Value {
    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Spans(_) => MetricType::Histogram,
        }
    }

    fn write(&self, metric: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Counter(count) => metric.encode_counter::<NoLabelSet, u64, f64>(count, None),
            Self::Gauge(value) => metric.encode_gauge(value),
            Self::Spans(spans) => {
                let bounds = SPANS_MS.iter().map(|ms| *ms as f64 / 1000.0);
                let buckets: Vec<(f64, u64)> =
                    bounds.chain([f64::INFINITY]).zip(spans.counts).collect();
                let seconds = spans.micros as f64 / 1_000_000.0;
                metric.encode_histogram::<NoLabelSet>(seconds, spans.count(), &buckets, None)
            }
        }
    }
}

/// Values of one kind.
#[derive(Debug, Clone, PartialEq)]
struct Family {
    name: &'static str,
    help: &'static str,
    /// What its values are told apart by; empty where there is one.
    label: &'static str,
    values: Vec<(&'static str, Value)>,
}

impl Family {
    fn one(name: &'static str, help: &'static str, value: Value) -> Self {
        Self { name, help, label: "", values: vec![("", value)] }
    }

    fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::one(name, help, Value::Gauge(value))
    }

    fn gauges<const N: usize>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [(&'static str, f64); N],
    ) -> Self {
        let values = values.map(|(of, value)| (of, Value::Gauge(value))).to_vec();
        Self { name, help, label, values }
    }

    fn counters<const N: usize>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        names: [&'static str; N],
        counts: [u64; N],
    ) -> Self {
        let values = names.into_iter().zip(counts.map(Value::Counter)).collect();
        Self { name, help, label, values }
    }
}

/// Puts together what is told.
fn families(figures: &Figures) -> Vec<Family> {
    let Figures { status, reading, clients, others, queues, store_bytes, uptime_ms } = figures;
    let Status { network, rooms, owed, media, .. } = status;
    let count = |count: usize| count as f64;
    let peers = |way: Way, near: bool| {
        count(network.peers.iter().filter(|peer| peer.way == way && peer.near == near).count())
    };
    let near = [Way::Direct, Way::Punched, Way::Reversed].map(|way| peers(way, true));
    let is = |state: Reachability| f64::from(u8::from(network.reachability == state));
    let timed = Timed::ALL.iter().zip(&reading.timed);
    let timed = timed.map(|(what, spans)| (what.name(), Value::Spans(spans.clone())));
    vec![
        Family::gauge("uptime_seconds", "For how long the node runs", *uptime_ms as f64 / 1000.0),
        Family::gauges(
            "peers",
            "Connected nodes, by kind of path",
            "path",
            [
                ("lan", near.iter().sum()),
                ("direct", peers(Way::Direct, false)),
                ("punched", peers(Way::Punched, false)),
                ("reversed", peers(Way::Reversed, false)),
                ("relayed", peers(Way::Relayed, false) + peers(Way::Relayed, true)),
            ],
        ),
        Family::gauge(
            "members",
            "Connected nodes that share a room with us",
            count(network.peers.iter().filter(|peer| peer.gossips).count()),
        ),
        Family::gauge(
            "strangers",
            "Connections to nodes that are not ours, or did not prove who they are",
            count(network.strangers),
        ),
        Family::gauges(
            "reachability",
            "How others reach us: 1 for what is so",
            "state",
            [
                ("public", is(Reachability::Public)),
                ("relayed", is(Reachability::Relayed)),
                ("private", is(Reachability::Private)),
                ("unknown", is(Reachability::Unknown)),
            ],
        ),
        Family::gauge("relays", "Relays that take connections for us", count(network.relays.len())),
        Family::gauges(
            "topics",
            "Topics of rooms, and those through which somebody hears us",
            "state",
            [
                ("subscribed", count(network.topics.subscribed)),
                ("meshed", count(network.topics.meshed)),
            ],
        ),
        Family::gauge(
            "dht_nodes",
            "Nodes in our tables of the DHTs",
            count(network.dht.iter().map(|dht| dht.nodes).sum()),
        ),
        Family::gauges(
            "rooms",
            "Rooms of our users",
            "state",
            [
                ("joined", count(rooms.joined)),
                ("invited", count(rooms.invited)),
                ("awake", count(rooms.live)),
            ],
        ),
        Family::gauge("owed_items", "What waits for servers that are off", count(owed.items)),
        Family::gauge(
            "owed_bytes",
            "Bytes of what waits for servers that are off",
            count(owed.bytes),
        ),
        Family::gauge("owed_servers", "Servers that something waits for", count(owed.servers)),
        Family::gauge("media", "Pictures and files that are here", count(media.media)),
        Family::gauge("media_bytes", "Bytes of pictures and files", media.bytes as f64),
        Family::gauge(
            "media_fetching",
            "Files that are being fetched",
            count(media.fetching.len()),
        ),
        Family::gauge("store_bytes", "Bytes of the database on disk", *store_bytes as f64),
        Family::gauges(
            "work",
            "Work in hand, by whose it is",
            "of",
            [("clients", count(clients.in_hand)), ("others", count(others.in_hand))],
        ),
        Family::gauges(
            "work_places",
            "Work that may be in hand at once",
            "of",
            [("clients", count(clients.places)), ("others", count(others.places))],
        ),
        Family::counters(
            "work_refused",
            "Work for which there was no place",
            "of",
            ["clients", "others"],
            [clients.refused, others.refused],
        ),
        Family::gauges(
            "queue",
            "What waits between the network task and its actor",
            "of",
            [
                ("commands", count(queues.commands)),
                ("events", count(queues.events)),
                ("backlog", count(queues.backlog)),
            ],
        ),
        Family::counters(
            "received_bytes",
            "Bytes that came from other nodes, by what they were",
            "kind",
            Flow::ALL.map(Flow::name),
            reading.received,
        ),
        Family::counters(
            "sent_bytes",
            "Bytes that were sent to other nodes, by what they were",
            "kind",
            Flow::ALL.map(Flow::name),
            reading.sent,
        ),
        Family::counters(
            "gossip_verdicts",
            "Gossip that was judged",
            "verdict",
            Verdict::ALL.map(Verdict::name),
            reading.verdicts,
        ),
        Family::counters(
            "dropped",
            "Work that was dropped, by why",
            "reason",
            Dropped::ALL.map(Dropped::name),
            reading.dropped,
        ),
        Family {
            name: "client_seconds",
            help: "How long a client waited: to send an event; for news of a sync to be gathered",
            label: "what",
            values: timed.collect(),
        },
    ]
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Family { name, help, label, values } in families(self) {
            let Some((_, first)) = values.first() else { continue };
            let mut family = encoder.encode_descriptor(name, help, None, first.kind())?;
            for (of, value) in &values {
                match label {
                    "" => value.write(&mut family)?,
                    label => value.write(&mut family.encode_family(&[(label, *of)])?)?,
                }
            }
        }
        Ok(())
    }
}

/// Writes what is told, in Prometheus' text format.
pub fn write(figures: Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(figures));
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::meters::Meters;

    fn figures() -> Figures {
        let status = serde_json::json!({
            "server_name": "secretserver", "user_id": "@p2p:secretserver",
            "peer_id": "12D3Secret", "listen_addresses": [], "external_addresses": [],
            "reachability": "relayed", "topics": {"subscribed": 2, "meshed": 1},
            "peers": [{
                "peer_id": "12D3Secret", "server_name": "secretserver",
                "address": "/ip4/192.168.7.7/tcp/1", "way": "direct", "relayed": false,
                "gossips": true, "near": true, "rtt_ms": 1.5,
            }],
            "rooms": {"joined": 3, "invited": 0, "live": 1},
        });
        let meters = Meters::default();
        meters.received(Flow::Gossip, 1234);
        meters.judged(Verdict::Rejected);
        meters.dropped(Dropped::PublishBehind);
        meters.took(Timed::Send, std::time::Duration::from_millis(7));
        meters.took(Timed::Send, std::time::Duration::from_secs(100));
        Figures {
            status: serde_json::from_value(status).unwrap(),
            reading: meters.read(),
            clients: WorkCount { in_hand: 1, places: 256, refused: 0 },
            others: WorkCount { in_hand: 0, places: 1024, refused: 9 },
            queues: QueueCounts { commands: 4, events: 0, backlog: 0 },
            store_bytes: 4096,
            uptime_ms: 1500,
        }
    }

    #[test]
    fn figures_are_told_in_prometheus_words() {
        let text = write(figures()).unwrap();
        for line in [
            "# TYPE messagehub_peers gauge",
            "messagehub_peers{path=\"lan\"} 1",
            "messagehub_peers{path=\"relayed\"} 0",
            "messagehub_reachability{state=\"relayed\"} 1",
            "messagehub_uptime_seconds 1.5",
            "messagehub_rooms{state=\"joined\"} 3",
            "# TYPE messagehub_received_bytes counter",
            "messagehub_received_bytes_total{kind=\"gossip\"} 1234",
            "messagehub_gossip_verdicts_total{verdict=\"rejected\"} 1",
            "messagehub_dropped_total{reason=\"publish_behind\"} 1",
            "messagehub_work_refused_total{of=\"others\"} 9",
            "messagehub_queue{of=\"commands\"} 4",
            "# TYPE messagehub_client_seconds histogram",
            "messagehub_client_seconds_sum{what=\"send\"} 100.007",
            "messagehub_client_seconds_count{what=\"send\"} 2",
            "messagehub_client_seconds_bucket{le=\"0.005\",what=\"send\"} 0",
            "messagehub_client_seconds_bucket{le=\"0.01\",what=\"send\"} 1",
            "messagehub_client_seconds_bucket{le=\"10.0\",what=\"send\"} 1",
            "messagehub_client_seconds_bucket{le=\"+Inf\",what=\"send\"} 2",
            "# EOF",
        ] {
            let stands = |told: &str| told == line || told.strip_suffix(".0") == Some(line);
            assert!(text.lines().any(stands), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn nobody_is_named() {
        let text = write(figures()).unwrap();
        for name in ["secretserver", "12D3", "192.168", "p2p"] {
            assert!(!text.contains(name), "{name} in\n{text}");
        }
    }

    /// Names of metrics in a text: what begins with ours, and goes on as names do.
    fn named(text: &str) -> BTreeSet<String> {
        let places = text.match_indices("messagehub_").map(|(at, _)| &text[at..]);
        let name = |rest: &str| {
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        places.map(name).collect()
    }

    #[test]
    fn the_dashboard_asks_for_what_there_is_and_for_all_of_it() {
        let told = named(&write(figures()).unwrap());
        let dashboard = include_str!("../assets/grafana/messagehub.json");
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        let mut asked = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap();
                let names = named(expr);
                assert!(!names.is_empty(), "{expr}");
                for name in &names {
                    assert!(told.contains(name), "{name} of {expr} is told by nobody");
                }
                asked.extend(names);
            }
        }
        for family in families(&figures()) {
            let name = format!("messagehub_{}", family.name);
            assert!(asked.iter().any(|asked| asked.starts_with(&name)), "{name} is shown nowhere");
        }
    }

    #[test]
    fn the_readme_names_what_there_is() {
        let told = named(&write(figures()).unwrap());
        let readme = include_str!("../README.md");
        let (_, part) = readme.split_once("\n### Watch it\n").unwrap();
        let (part, _) = part.split_once("\n## ").unwrap();
        let names = named(part);
        assert!(!names.is_empty());
        for name in names {
            assert!(told.contains(&name), "README names {name}");
        }
    }
}
