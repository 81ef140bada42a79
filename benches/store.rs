//! The Store against the disk below it: durable commits beside a bare append and fdatasync of the
//! same run and beside the database without a journal, and reads that must not grow with the number of rooms.
//!
//! `cargo bench --bench store`; ratios to the floor hold on a noisy machine, times do not.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Addr, System, SystemRunner};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use messagehub::{
    actors::store::{
        Close, CommitRoom, EventFilter, Extremity, Heads, LoadRoom, NewEvent, NewGroup,
        OwnMembership, Place, ReadSync, StoreActor, start,
    },
    proto::pdu::{Pdu, rules_of},
};
use ruma::{EventId, OwnedRoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const OWN: &str = "@own:example.org";
/// Body of a message: with the rest of the event about 1 KiB.
const BODY: usize = 700;

struct World {
    system: SystemRunner,
    store: Addr<StoreActor>,
    next: u64,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let system = System::new();
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = system.block_on(async { start(folder.path()).unwrap() });
        Self { system, store, next: 0, _folder: folder }
    }

    /// Makes joined rooms with 20 messages each.
    fn with_rooms(rooms: u64) -> Self {
        let mut world = Self::new();
        let steps: Vec<_> = (0..rooms).map(|number| world.room(number)).collect();
        world.commit_all(steps);
        world
    }

    fn room(&mut self, number: u64) -> CommitRoom {
        let room_id = room(number);
        let join = event(&room_id, "m.room.member", Some(OWN), &json!({ "membership": "join" }));
        let place = join.state_place().unwrap();
        let change = vec![(place, Some(join.event_id.clone()))];
        let mut step = step(&room_id, &join, 1);
        step.groups = vec![NewGroup { id: 1, parent: None, changes: change.clone() }];
        step.state_changes = change;
        let own = OwnMembership {
            membership: MembershipState::Join,
            event_id: Some(join.event_id.clone()),
            invite: None,
            forgotten: false,
        };
        step.memberships.insert(UserId::parse(OWN).unwrap(), own);
        for _ in 0..20 {
            step.events.push(live(&self.message(&room_id), 1));
        }
        step
    }

    fn message(&mut self, room_id: &OwnedRoomId) -> Arc<Pdu> {
        self.next += 1;
        let content = json!({ "n": self.next, "body": "x".repeat(BODY) });
        event(room_id, "m.room.message", None, &content)
    }

    fn messages(&mut self, count: u64, rooms: u64) -> Vec<CommitRoom> {
        (0..count)
            .map(|n| {
                let room_id = room(n % rooms);
                let pdu = self.message(&room_id);
                step(&room_id, &pdu, 1)
            })
            .collect()
    }

    fn commit_all(&self, steps: Vec<CommitRoom>) {
        let all = async { join_all(steps.into_iter().map(|step| self.store.send(step))).await };
        for answer in self.system.block_on(all) {
            answer.unwrap().unwrap();
        }
    }

    fn sync(&self, since: Option<u64>) -> u64 {
        let ask = ReadSync {
            device_id: "DEVICE".to_owned(),
            user_id: UserId::parse(OWN).unwrap(),
            since,
            to_device_since: None,
            full_state: false,
            timeline_limit: 10,
            timeline_filter: EventFilter::default(),
            state_filter: EventFilter::default(),
            state_after: false,
            lazy_load_members: true,
            include_leave: false,
            rooms: None,
            not_rooms: Vec::new(),
        };
        self.system.block_on(self.store.send(ask)).unwrap().unwrap().position
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.system.block_on(self.store.send(Close));
    }
}

fn room(number: u64) -> OwnedRoomId {
    format!("!room{number}:example.org").try_into().unwrap()
}

fn event(room_id: &OwnedRoomId, kind: &str, state_key: Option<&str>, content: &Value) -> Arc<Pdu> {
    let mut object = json!({
        "room_id": room_id, "sender": OWN, "type": kind, "content": content,
        "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
    });
    if let Some(key) = state_key {
        object.as_object_mut().unwrap().insert("state_key".to_owned(), key.into());
    }
    let json = object.to_string();
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&json));
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    Arc::new(Pdu::from_json(EventId::parse(format!("${hash}")).unwrap(), &json, &rules).unwrap())
}

fn live(pdu: &Arc<Pdu>, group: u64) -> NewEvent {
    NewEvent {
        pdu: Arc::clone(pdu),
        place: Place::Live,
        state_group: Some(group),
        spoilt: false,
        txn: None,
        notify: Vec::new(),
    }
}

fn step(room_id: &OwnedRoomId, pdu: &Arc<Pdu>, group: u64) -> CommitRoom {
    let extremity = Extremity { event_id: pdu.event_id.clone(), depth: 1, state_group: group };
    CommitRoom {
        events: vec![live(pdu, group)],
        heads: Some(Heads { extremities: vec![extremity], current_group: group, next_group: 2 }),
        ..CommitRoom::new(room_id.clone(), RoomVersionId::V11)
    }
}

fn append(folder: &Path, times: u64) -> Duration {
    let mut file = File::create(folder.join("floor")).unwrap();
    let begin = Instant::now();
    for _ in 0..times {
        file.write_all(&[7; 1024]).unwrap();
        file.sync_data().unwrap();
    }
    begin.elapsed()
}

/// What made a commit durable before there was a journal: a batch of rows, flushed, and synced.
fn without_journal(folder: &Path, times: u64) -> Duration {
    let folder = folder.join("without");
    let sled = sled::Config::new()
        .path(&folder)
        .segment_size(8 << 20)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .open()
        .unwrap();
    let file = File::open(folder.join("db")).unwrap();
    let begin = Instant::now();
    for n in 0..times {
        let mut batch = sled::Batch::default();
        for row in 0..8_u64 {
            let key = [row.to_be_bytes(), n.to_be_bytes()].concat();
            batch.insert(key, vec![7; if row == 0 { 1024 } else { 60 }]);
        }
        sled.apply_batch(batch).unwrap();
        sled.flush().unwrap();
        file.sync_data().unwrap();
    }
    begin.elapsed()
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    group.throughput(Throughput::Elements(1));
    group.bench_function("floor: append 1 KiB, fdatasync", |b| {
        b.iter_custom(|times| append(folder.path(), times));
    });
    group.bench_function("without a journal: 8 rows into the database, flush, fdatasync", |b| {
        b.iter_custom(|times| without_journal(folder.path(), times));
    });
    let mut world = World::with_rooms(8);
    for in_flight in [1, 32] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("{in_flight} commits in flight"), |b| {
            b.iter_custom(|times| {
                let groups: Vec<_> = (0..times).map(|_| world.messages(in_flight, 8)).collect();
                let begin = Instant::now();
                for steps in groups {
                    world.commit_all(steps);
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for rooms in [100, 1000] {
        let mut world = World::with_rooms(rooms);
        let now = world.sync(Some(u64::MAX - 1));
        group.bench_function(format!("empty sync, {rooms} rooms"), |b| {
            b.iter(|| world.sync(Some(now)));
        });
        let news = world.messages(1, 1);
        world.commit_all(news);
        group.bench_function(format!("sync of one event, {rooms} rooms"), |b| {
            b.iter(|| world.sync(Some(now)));
        });
        if rooms == 100 {
            group.bench_function("initial sync, 100 rooms", |b| {
                b.iter(|| world.sync(None));
            });
            group.bench_function("load a room", |b| {
                b.iter(|| {
                    let load = world.store.send(LoadRoom { room_id: room(5) });
                    world.system.block_on(load).unwrap().unwrap().unwrap()
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = store;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = commits, reads
}
criterion_main!(store);
