//! Events of our own and of others: composed and signed, then checked up to the content hash.
//!
//! `cargo bench --bench verify`. A node checks every event of every room it is in, off the actor
//! threads, so what one check takes bounds what a node can take in.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::{collections::HashMap, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use messagehub::proto::{
    certificates::Certificates,
    pdu::{Draft, Pdu, Position, compose, receive, rules_of},
    server_keys::VerifiedServerKeys,
    server_name::user_of,
    signer::{SecretKeys, Signer},
};
use ruma::{
    EventId, OwnedRoomId, OwnedServerName, RoomVersionId, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde_json::{json, value::RawValue};

const NOW: u64 = 1_790_000_000_000;
/// Events that come together, as in an answer to `get_missing_events`.
const BATCH: u64 = 100;

/// A server with a room to send to.
struct Author {
    signer: Signer,
    room_id: OwnedRoomId,
    rules: RoomVersionRules,
}

impl Author {
    fn new() -> Self {
        let keys = SecretKeys { identity: [1; 32], verify: [2; 32], encryption: [3; 32] };
        Self {
            signer: Signer::new(&keys, &["peer".to_owned()], NOW).unwrap(),
            room_id: "!room:example.org".try_into().unwrap(),
            rules: rules_of(&RoomVersionId::V12).unwrap(),
        }
    }

    /// A message of `len` bytes that stands as messages do: one event before it, two that allow it.
    fn message(&self, number: u64, len: usize) -> (Draft, Position) {
        let content = json!({"msgtype": "m.text", "body": "x".repeat(len), "n": number});
        let id = |n: u64| EventId::parse(format!("${n:043}")).unwrap();
        let draft = Draft {
            kind: TimelineEventType::RoomMessage,
            state_key: None,
            content: serde_json::from_value(content).unwrap(),
            redacts: None,
        };
        let position = Position {
            room_id: Some(self.room_id.clone()),
            prev_events: vec![id(number)],
            auth_events: vec![id(1), id(2)],
            depth: number,
            origin_server_ts: NOW,
        };
        (draft, position)
    }

    fn compose(&self, (draft, position): (Draft, Position)) -> Pdu {
        let user = user_of(self.signer.server_name());
        compose(draft, &position, self.signer.author(&user).unwrap(), &self.rules).unwrap()
    }

    fn wire(&self, number: u64, len: usize) -> Box<RawValue> {
        let keys = serde_json::to_string(self.signer.server_keys()).unwrap();
        self.compose(self.message(number, len)).to_wire(&keys)
    }

    fn receive(&self, raw: &RawValue, known: &HashMap<OwnedServerName, Certificates>) {
        let received = receive(raw, &self.room_id, &self.rules, known, NOW).unwrap();
        assert!(!received.spoilt);
    }
}

fn verify(c: &mut Criterion) {
    let author = Author::new();
    let keys = VerifiedServerKeys::verify(author.signer.server_keys().clone(), NOW).unwrap();
    let server = author.signer.server_name();
    let known = HashMap::from([(server.clone(), Certificates::new(server, [keys]))]);
    let mut group = c.benchmark_group("event");
    group.throughput(Throughput::Elements(1));
    group.bench_function("compose and sign, 100 B", |b| {
        b.iter_batched(
            || author.message(7, 100),
            |message| author.compose(message),
            BatchSize::SmallInput,
        );
    });
    for (size, len) in [("100 B", 100), ("60 KiB", 60 * 1024)] {
        let raw = author.wire(7, len);
        group.bench_function(format!("verify, {size}, server_keys known"), |b| {
            b.iter(|| author.receive(&raw, &known));
        });
    }
    let raw = author.wire(7, 100);
    group.bench_function("verify, 100 B, server_keys never seen", |b| {
        b.iter(|| author.receive(&raw, &HashMap::new()));
    });
    let batch: Vec<_> = (1..=BATCH).map(|number| author.wire(number, 100)).collect();
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("verify a batch of 100, 100 B each", |b| {
        b.iter(|| batch.iter().for_each(|raw| author.receive(raw, &known)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = verify
}
criterion_main!(benches);
