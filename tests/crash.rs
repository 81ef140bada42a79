//! Kills a process that writes to the Store, and cuts its power, again and again: nothing that
//! was acknowledged is lost, and no commit is there in part.
//!
//! The writer is this very binary, started anew with a variable set. Each of its commits writes
//! what must belong together: two events, a state group, the current state, heads, a transaction.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::Duration,
};

use actix::{Addr, System};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, stream::FuturesOrdered};
use messagehub::{
    actors::store::{
        ClientTxn, Close, CommitRoom, Direction, Extremity, Heads, LoadRoom, LoadState, NewEvent,
        NewGroup, Place, ReadRow, ReadTimeline, Row, Sizes, StoreActor, TxnEndpoint, WatchStream,
        WriteRows, start, start_sized,
    },
    proto::pdu::{Pdu, rules_of},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{EventId, OwnedRoomId, RoomVersionId, user_id};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The data folder of the writer.
const WRITER: &str = "MESSAGEHUB_TEST_STORE_WRITER";
const ROOMS: u64 = 3;
/// Commits that wait for an answer at once.
const IN_FLIGHT: usize = 8;
/// Rounds on one database, so that later ones recover what earlier ones recovered.
const ROUNDS_A_FOLDER: usize = 5;

fn room(number: u64) -> OwnedRoomId {
    format!("!room{number}:example.org").try_into().unwrap()
}

fn event(room_id: &OwnedRoomId, is_state: bool, n: u64) -> Arc<Pdu> {
    // Mostly small, and some near the largest that an event can be.
    let len = if n.is_multiple_of(8) { 60_000 } else { 200 + n * 37 % 1500 };
    let mut object = json!({
        "room_id": room_id, "sender": "@own:example.org", "origin_server_ts": n, "depth": n,
        "prev_events": [], "auth_events": [], "type": "x.message",
        "content": { "n": n, "body": "x".repeat(usize::try_from(len).unwrap()) },
    });
    if is_state {
        object["type"] = "x.counter".into();
        object["state_key"] = "".into();
        object["content"] = json!({ "n": n });
    }
    let json = object.to_string();
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&json));
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    Arc::new(Pdu::from_json(EventId::parse(format!("${hash}")).unwrap(), &json, &rules).unwrap())
}

fn txn(n: u64) -> ClientTxn {
    ClientTxn { device_id: "DEVICE".to_owned(), endpoint: TxnEndpoint::Send, txn_id: n.to_string() }
}

/// The commit number `n` of a room, counted from 1.
fn commit(room_id: &OwnedRoomId, n: u64) -> CommitRoom {
    let (counter, message) = (event(room_id, true, n), event(room_id, false, n));
    let place = counter.state_place().unwrap();
    let live = |pdu: &Arc<Pdu>, txn| NewEvent {
        pdu: Arc::clone(pdu),
        place: Place::Live,
        state_group: Some(n),
        spoilt: false,
        txn,
        notify: Vec::new(),
    };
    let extremity = Extremity { event_id: message.event_id.clone(), depth: n, state_group: n };
    CommitRoom {
        room_id: room_id.clone(),
        version: RoomVersionId::V11,
        events: vec![live(&counter, None), live(&message, Some(txn(n)))],
        groups: vec![NewGroup {
            id: n,
            parent: (n > 1).then(|| n - 1),
            changes: vec![(place.clone(), Some(counter.event_id.clone()))],
        }],
        heads: Some(Heads { extremities: vec![extremity], current_group: n, next_group: n + 1 }),
        state_changes: vec![(place, Some(counter.event_id.clone()))],
        redactions: vec![],
        memberships: std::collections::BTreeMap::new(),
        servers: None,
        backward_extremities: None,
        room_keys: None,
        directory: vec![],
    }
}

async fn commits_of(store: &Addr<StoreActor>, room_id: &OwnedRoomId) -> u64 {
    let room = store.send(LoadRoom { room_id: room_id.clone() }).await.unwrap().unwrap();
    room.and_then(|room| room.heads).map_or(0, |heads| heads.current_group)
}

/// Writes until it is killed; says on standard output what was answered.
#[test]
fn writer() {
    let Ok(data) = std::env::var(WRITER) else {
        return;
    };
    let system = System::new();
    system.block_on(async { drop(actix::spawn(write(data))) });
    // Only the Store ends it, when the disk fails.
    std::process::exit(system.run_with_code().unwrap());
}

async fn write(data: String) {
    // So that many files are begun and given up, and the database is brought what it lacks, all the time.
    let sizes = Sizes { journal_file: 300_000, follow: 60_000 };
    let store = start_sized(Path::new(&data), None, sizes).unwrap();
    let mut next = Vec::new();
    for number in 0..ROOMS {
        next.push(commits_of(&store, &room(number)).await + 1);
    }
    let mut waiting = FuturesOrdered::new();
    for number in (0..ROOMS).cycle() {
        let n = next[usize::try_from(number).unwrap()];
        next[usize::try_from(number).unwrap()] += 1;
        let done = store.send(commit(&room(number), n));
        waiting.push_back(async move { (number, n, done.await.unwrap()) });
        if number == 0 {
            let row = Row::Filter(user_id!("@p2p:example.org").to_owned(), "counter".to_owned());
            // So large that most of the journal is not live any more.
            let rows = vec![(row, Some(format!("{n:<60000}").into_bytes()))];
            if store.send(WriteRows(rows)).await.unwrap().is_ok() {
                say(&format!("ack row {n} 0"));
            }
        }
        while waiting.len() >= IN_FLIGHT {
            let (number, n, done) = waiting.next().await.unwrap();
            match done {
                Ok(committed) => say(&format!("ack {number} {n} {}", committed.position)),
                Err(error) => say(&format!("refused: {error}")),
            }
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// What a writer was answered.
#[derive(Debug, Default, Clone)]
struct Acked {
    commits: [u64; 3],
    row: u64,
    position: u64,
}

impl Acked {
    /// Adds a line of a writer.
    fn add(&mut self, line: &str) {
        // The test harness may have begun the first line.
        let Some(at) = line.find("ack ") else {
            return;
        };
        let words: Vec<_> = line[at..].split(' ').collect();
        let number = |word: usize| words[word].parse::<u64>().unwrap();
        match words[1] {
            "row" => self.row = number(2),
            _ => self.commits[usize::try_from(number(1)).unwrap()] = number(2),
        }
        self.position = self.position.max(number(3));
    }
}

/// Starts a writer.
fn spawn_writer(data: &Path, environment: &[(&str, PathBuf)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
        .env(WRITER, data)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a writer for a while, kills it, and adds what it was answered to `acked`.
fn run_writer(data: &Path, lifetime: Duration, environment: &[(&str, PathBuf)], acked: &mut Acked) {
    let mut writer = spawn_writer(data, environment);
    let lines = BufReader::new(writer.stdout.take().unwrap());
    let reader = std::thread::spawn(move || lines.lines().map(Result::unwrap).collect::<Vec<_>>());
    sleep(lifetime);
    assert!(writer.try_wait().unwrap().is_none(), "{:?}", writer.wait_with_output());
    writer.kill().unwrap();
    writer.wait().unwrap();
    for line in reader.join().unwrap() {
        acked.add(&line);
    }
}

/// Opens the database and checks all that is in it.
fn verify(data: &Path, acked: &Acked) {
    System::new().block_on(async {
        let store = start(data).unwrap();
        let watch = store.send(WatchStream).await.unwrap();
        let position = *watch.borrow();
        assert!(position >= acked.position, "{acked:?}, but the position is {position}");
        let row = store
            .send(ReadRow(Row::Filter(
                user_id!("@p2p:example.org").to_owned(),
                "counter".to_owned(),
            )))
            .await
            .unwrap()
            .unwrap();
        let row = row.map_or(0, |row| String::from_utf8(row).unwrap().trim().parse().unwrap());
        assert!(row >= acked.row, "{acked:?}, but the row says {row}");
        let mut orders = Vec::new();
        for number in 0..ROOMS {
            let room_id = room(number);
            let commits = commits_of(&store, &room_id).await;
            let is_acked = acked.commits[usize::try_from(number).unwrap()];
            assert!(commits >= is_acked, "{room_id}: {is_acked} acknowledged, {commits} there");
            check_room(&store, &room_id, commits, &mut orders).await;
        }
        orders.sort_unstable();
        let expected: Vec<_> = (1..=i64::try_from(position).unwrap()).collect();
        assert!(orders == expected, "each position has one event");
        store.send(Close).await.unwrap().unwrap();
    });
}

async fn check_room(
    store: &Addr<StoreActor>,
    room_id: &OwnedRoomId,
    commits: u64,
    orders: &mut Vec<i64>,
) {
    let ask = ReadTimeline {
        room_id: room_id.clone(),
        from: None,
        to: None,
        over_gap: false,
        direction: Direction::Forward,
        limit: usize::MAX,
    };
    let events = store.send(ask).await.unwrap().unwrap().events;
    assert_eq!(events.len() as u64, 2 * commits, "{room_id}: events and heads belong together");
    for (pair, n) in events.chunks(2).zip(1..) {
        for (stored, is_state) in pair.iter().zip([true, false]) {
            let expected = event(room_id, is_state, n);
            assert_eq!(stored.event_id, expected.event_id, "{room_id} {n}");
            assert!(*stored.json == *expected.json, "{room_id} {n}");
            assert_eq!(stored.state_group, Some(n));
        }
    }
    orders.extend(events.iter().filter_map(|event| event.order).map(|order| order.position));
    if commits == 0 {
        return;
    }
    let loaded = store.send(LoadRoom { room_id: room_id.clone() }).await.unwrap().unwrap();
    let loaded = loaded.unwrap();
    let counter = event(room_id, true, commits).event_id.clone();
    assert_eq!(loaded.state.len(), 1);
    assert_eq!(loaded.state[0].event_id, counter, "{room_id}: the current state");
    let (_, last, newest) = loaded.txns.last().unwrap();
    assert_eq!((last, newest), (&txn(commits), &event(room_id, false, commits).event_id));
    for n in [1, commits.div_ceil(2), commits] {
        let ask = LoadState { room_id: room_id.clone(), group: n };
        let state = store.send(ask).await.unwrap().unwrap();
        let expected = event(room_id, true, n);
        assert_eq!(state.get(&expected.state_place().unwrap()), Some(&expected.event_id));
    }
}

/// How long a writer lives: half of them die while they open the database.
fn lifetime(random: &mut StdRng) -> Duration {
    let is_short = random.random_bool(0.5);
    Duration::from_millis(if is_short {
        random.random_range(0..80)
    } else {
        random.random_range(80..700)
    })
}

fn seeded() -> StdRng {
    let seed = rand::random();
    eprintln!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn a_killed_writer_loses_nothing() {
    let mut random = seeded();
    let mut total = 0;
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let mut acked = Acked::default();
        for _ in 0..ROUNDS_A_FOLDER {
            run_writer(folder.path(), lifetime(&mut random), &[], &mut acked);
            verify(folder.path(), &acked);
        }
        total += acked.commits.iter().sum::<u64>();
    }
    eprintln!("{total} commits acknowledged, none lost");
    assert!(total > 0, "the writers lived too short to write anything");
}

/// Builds the library of `power_cut/shadow.c`; none where there is no compiler.
fn build_shadow(folder: &Path) -> Option<PathBuf> {
    let shadow = folder.join("shadow.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut/shadow.c");
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .args([&shadow, &source])
        .arg("-ldl")
        .status();
    match cc {
        Ok(status) => assert!(status.success(), "{} does not compile", source.display()),
        Err(error) => {
            eprintln!("SKIPPED: no C compiler to build {}: {error}", source.display());
            return None;
        }
    }
    Some(shadow)
}

#[test]
fn a_failed_disk_ends_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let Some(shadow) = build_shadow(folder.path()) else {
        return;
    };
    let (data, survives) = (folder.path().join("data"), folder.path().join("survives"));
    let environment = [
        ("LD_PRELOAD", shadow),
        ("SHADOW_FROM", data.join("")),
        ("SHADOW_TO", survives.join("")),
        ("SHADOW_FAIL_AFTER", PathBuf::from("20")),
    ];
    let ended = spawn_writer(&data, &environment).wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(74), "{ended:?}");
    let said = String::from_utf8(ended.stdout).unwrap();
    let mut acked = Acked::default();
    said.lines().for_each(|line| acked.add(line));
    let is_refused = |line: &&str| line.starts_with("refused");
    let after = said.lines().skip_while(|line| !is_refused(line));
    assert!(after.clone().all(|line| is_refused(&line)), "acknowledged after a failure: {said}");
    let needle = "Input/output error";
    assert!(after.clone().all(|line| line.contains(needle)), "{said}");
    verify(&data, &acked);
    verify(&survives, &acked);
}

#[test]
fn a_power_cut_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(shadow) = build_shadow(folder.path()) else {
        return;
    };
    let mut random = seeded();
    let mut total = 0;
    for series in 0..3 {
        let mut acked = Acked::default();
        let mut data = folder.path().join(format!("{series}-start"));
        fs::create_dir(&data).unwrap();
        for round in 0..ROUNDS_A_FOLDER {
            // What survived the last cut is on disk, and survives the next one, too.
            let survives = folder.path().join(format!("{series}-{round}"));
            copy(&data, &survives);
            let environment = [
                ("LD_PRELOAD", shadow.clone()),
                ("SHADOW_FROM", data.join("")),
                ("SHADOW_TO", survives.join("")),
            ];
            run_writer(&data, lifetime(&mut random) * 2, &environment, &mut acked);
            fs::remove_dir_all(&data).unwrap();
            let half = survives.join("db/db.half");
            let _ = fs::remove_file(half);
            verify(&survives, &acked);
            data = survives;
        }
        fs::remove_dir_all(&data).unwrap();
        total += acked.commits.iter().sum::<u64>();
    }
    eprintln!("{total} commits acknowledged, none lost");
    assert!(total > 0, "the writers lived too short to write anything");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the disk has room");
        }
    }
}
