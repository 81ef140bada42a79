//! The journal beside the database: each from the other, whatever befell one of them.

use std::{collections::BTreeMap, fs, path::Path};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{ServerName, server_name};

use super::{
    life::{files, mark_of, whole},
    *,
};
use crate::actors::store::{
    disk::look_at_all,
    journal,
    open::{Opened, open},
};

fn ann() -> &'static ServerName {
    server_name!("ann.org")
}

/// All rows of a folder, as a start finds them; and closes it again.
fn rows(data: &Path, keys: Option<&ServerName>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    let Opened { database, .. } = open(data, keys, Sizes::default())?;
    let mut rows = BTreeMap::new();
    look_at_all(&database, |key, value| {
        rows.insert(key, value);
        Ok(())
    })?;
    Ok(rows)
}

/// Puts a folder back as it was.
fn put_back(data: &Path, whole: &BTreeMap<std::path::PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(data).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    for (path, bytes) in whole {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn is_aside(data: &Path, name: &str) -> bool {
    let prefix = format!("{name}.damaged-");
    fs::read_dir(data)
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_str().unwrap().starts_with(&prefix))
}

/// What becomes of files of a data folder.
type Harm = fn(&Path);

#[actix::test]
async fn a_database_that_is_lost_damaged_or_old_is_made_anew_from_the_journal() {
    let folder = whole(ann()).await;
    let data = folder.path();
    let before = files(data);
    let truth = rows(data, Some(ann())).unwrap();
    let cases: [(&str, Harm); 4] = [
        ("lost", |data| fs::remove_dir_all(data.join("db")).unwrap()),
        ("emptied", |data| fs::write(data.join("db/db"), "").unwrap()),
        ("cut off", |data| {
            let db = fs::read(data.join("db/db")).unwrap();
            let used = db.iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
            fs::write(data.join("db/db"), &db[..used / 2]).unwrap();
        }),
        ("of another configuration", |data| {
            fs::write(data.join("db/conf"), "nonsense".repeat(8)).unwrap();
        }),
    ];
    for (what, harm) in cases {
        put_back(data, &before);
        harm(data);
        assert!(rows(data, Some(ann())).unwrap() == truth, "{what}");
        assert_eq!(is_aside(data, "db"), what != "lost", "{what}: the damaged one is kept");
    }
    put_back(data, &before);
    fs::remove_dir_all(data.join("db")).unwrap();
    fs::write(data.join("db.mark"), mark_of(301)).unwrap();
    let error = rows(data, Some(ann())).unwrap_err();
    assert!(matches!(error, StoreError::DatabaseLost { .. }), "it lacks something, too: {error}");
    fs::write(data.join("db.mark"), mark_of(300)).unwrap();
    let error = rows(data, Some(server_name!("bob.org"))).unwrap_err();
    assert!(matches!(error, StoreError::DatabaseLost { .. }), "of somebody else: {error}");
    assert!(rows(data, Some(ann())).unwrap() == truth);
}

#[actix::test]
async fn a_journal_that_is_lost_or_old_is_made_anew_from_the_database() {
    let folder = whole(ann()).await;
    let data = folder.path();
    let before = files(data);
    let truth = rows(data, Some(ann())).unwrap();
    let cases: [(&str, Harm); 3] = [
        ("lost", |data| fs::remove_dir_all(data.join("journal")).unwrap()),
        ("cut off", |data| {
            let log = journal::path_of(&data.join("journal"), 1);
            let bytes = fs::read(&log).unwrap();
            fs::write(&log, &bytes[..bytes.len() / 2]).unwrap();
        }),
        // Killed after the database was told of a new one, and before that had its name.
        ("not in its place yet", |data| {
            fs::rename(data.join("journal"), data.join("journal.new")).unwrap();
            journal::Journal::create(&data.join("journal"), [9; 16], u64::MAX).unwrap();
        }),
    ];
    for (what, harm) in cases {
        put_back(data, &before);
        harm(data);
        assert!(rows(data, Some(ann())).unwrap() == truth, "{what}");
        assert_eq!(is_aside(data, "journal"), what != "lost", "{what}");
        fs::remove_dir_all(data.join("db")).unwrap();
        assert!(rows(data, Some(ann())).unwrap() == truth, "{what}: it is whole");
    }
    put_back(data, &before);
    fs::remove_dir_all(data.join("journal")).unwrap();
    journal::Journal::create(&data.join("journal"), [9; 16], u64::MAX).unwrap();
    let error = rows(data, Some(ann())).unwrap_err();
    assert!(matches!(error, StoreError::JournalForeign { .. }), "{error}");
}

#[actix::test]
async fn what_the_database_had_not_yet_comes_from_the_journal() {
    let world = World::new();
    let r = room("r");
    world.commit(live(&r, &[&message(&r, OWN, 1)])).await;
    // Nothing is brought to the database before 200 ms are over, so these are in the journal alone.
    let pdus: Vec<_> = (2..40).map(|n| message(&r, OWN, n)).collect();
    for pdu in &pdus {
        world.commit(live(&r, &[pdu])).await;
    }
    let copy = tempfile::tempdir().unwrap();
    let data = copy.path().join("data");
    let at = |path: &Path| data.join(path.strip_prefix(world.folder.path()).unwrap());
    for (path, bytes) in files(world.folder.path()) {
        fs::create_dir_all(at(&path).parent().unwrap()).unwrap();
        fs::write(at(&path), bytes).unwrap();
    }
    let after = World { folder: copy, store: start(&data).unwrap() };
    for (pdu, order) in pdus.iter().zip(2..) {
        assert_eq!(after.event(&r, pdu).await.order, Some(Order::live(order)));
    }
    after.ask(Close).await.unwrap();
}

#[actix::test]
async fn a_damaged_end_of_the_journal_that_the_database_lacks_is_named() {
    let folder = whole(ann()).await;
    let data = folder.path();
    let old = files(&data.join("db"));
    let store = start_for(data, Some(ann())).unwrap();
    let r = room("r");
    for n in 300..310 {
        store.send(live(&r, &[&message(&r, OWN, n)])).await.unwrap().unwrap();
    }
    store.send(Close).await.unwrap().unwrap();
    // The database as it was before these.
    fs::remove_dir_all(data.join("db")).unwrap();
    fs::create_dir(data.join("db")).unwrap();
    old.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let log = journal::path_of(&data.join("journal"), 1);
    let mut bytes = fs::read(&log).unwrap();
    let whole = bytes.clone();
    let at = bytes.len() - 3000;
    bytes[at] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let error = start_for(data, Some(ann())).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, StoreError::JournalDamaged { .. }), "{said}");
    assert!(said.contains(log.to_str().unwrap()) && said.lines().count() == 1, "{said}");
    fs::write(&log, whole).unwrap();
    let store = start_for(data, Some(ann())).unwrap();
    store.send(Close).await.unwrap().unwrap();
}

#[actix::test]
async fn the_journal_holds_at_most_twice_what_is_live_and_all_of_that() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let sizes = Sizes { journal_file: 100_000, follow: 20_000 };
    let mut store = start_sized(data, None, sizes).unwrap();
    let mut random = StdRng::seed_from_u64(5);
    let row = |n: u64| Row::Filter(user_id(OWN), n.to_string());
    let mut truth = BTreeMap::new();
    for round in 0..6_u32 {
        for _ in 0..150 {
            let rows: Vec<_> = (0..8)
                .map(|_| {
                    let n = random.random_range(0..200_u64);
                    let value = random
                        .random_bool(0.8)
                        .then(|| vec![random.random::<u8>(); random.random_range(1..2000)]);
                    match &value {
                        Some(value) => drop(truth.insert(n, value.clone())),
                        None => drop(truth.remove(&n)),
                    }
                    (row(n), value)
                })
                .collect();
            store.send(WriteRows(rows)).await.unwrap().unwrap();
        }
        store.send(Close).await.unwrap().unwrap();
        let found = journal::files(&data.join("journal")).unwrap();
        let len: u64 = found.iter().map(|file| file.len).sum();
        let live: u64 = truth.values().map(|value| value.len() as u64 + 40).sum();
        assert!(len < 3 * live + 400_000, "{len} bytes, {live} live: {found:?}");
        if round == 5 {
            assert!(found[0].first > 1, "old files are gone: {found:?}");
        }
        if round % 2 == 1 {
            fs::remove_dir_all(data.join("db")).unwrap();
        }
        store = start_sized(data, None, sizes).unwrap();
        for n in 0..200 {
            let found = store.send(ReadRow(row(n))).await.unwrap().unwrap();
            assert!(found.as_ref() == truth.get(&n), "row {n} in round {round}");
        }
    }
    store.send(Close).await.unwrap().unwrap();
}

fn user_id(text: &str) -> OwnedUserId {
    text.try_into().unwrap()
}

/// Damages of the database: so many, of so many bytes each.
async fn damages(single: usize, multiple: usize, seed: u64) {
    let folder = whole(ann()).await;
    let data = folder.path();
    // As if it was killed: a start looks at all of it.
    fs::write(data.join("db.mark"), mark_of(300)).unwrap();
    let before = files(data);
    let db = data.join("db/db");
    let used = before[&db].iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
    let truth = rows(data, Some(ann())).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut rebuilt = 0;
    for number in 0..single + multiple {
        put_back(data, &before);
        let mut bytes = before[&db].clone();
        let mut places = Vec::new();
        let blocks = if number < single { 1 } else { random.random_range(2..6) };
        for _ in 0..blocks {
            let at = random.random_range(0..used);
            places.push(at);
            if number < single {
                bytes[at] ^= 1 << random.random_range(0..8);
            } else {
                let end = (at + random.random_range(1..8192)).min(bytes.len());
                bytes[at..end].fill(random.random());
            }
        }
        fs::write(&db, &bytes).unwrap();
        let found = rows(data, Some(ann())).unwrap();
        assert!(found == truth, "seed {seed}, damage {number} at {places:?}: rows differ");
        rebuilt += usize::from(is_aside(data, "db"));
    }
    eprintln!(
        "{} damages, {rebuilt} of them named and rebuilt, none lost anything",
        single + multiple
    );
    assert!(rebuilt > 0, "no damage was looked at");
}

#[actix::test]
async fn a_damaged_database_is_whole_after_the_next_start() {
    damages(12, 6, rand::random()).await;
}

/// `cargo test --lib two_hundred_and_fifty -- --ignored --nocapture`
#[actix::test]
#[ignore = "takes minutes"]
async fn two_hundred_and_fifty_damages_lose_nothing() {
    damages(200, 50, rand::random()).await;
}
