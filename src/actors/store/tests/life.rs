//! Opening, closing, group commit.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use ruma::{ServerName, server_name};

use super::*;

#[actix::test]
async fn one_process_a_folder() {
    let world = World::new();
    let error = start(world.folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let folder = world.folder.path().display().to_string();
    assert!(error.to_string().contains(&folder) && error.to_string().contains("--data"));
    world.ask(Close).await.unwrap();
    let again = start(world.folder.path()).unwrap();
    again.send(Close).await.unwrap().unwrap();
}

#[actix::test]
async fn the_folder_is_made_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new/data");
    start(&data).unwrap().send(Close).await.unwrap().unwrap();
    let mode = fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[actix::test]
async fn nothing_is_done_after_close() {
    let world = World::new();
    let mut watch = world.ask(WatchStream).await;
    world.ask(Close).await.unwrap();
    world.ask(Close).await.unwrap();
    let r = room("r");
    let written = world.ask(live(&r, &[&message(&r, OWN, 1)])).await;
    assert!(matches!(written, Err(StoreError::Closed)), "{written:?}");
    let read = world.ask(LoadRoom { room_id: r }).await;
    assert!(matches!(read, Err(StoreError::Closed)), "{read:?}");
    assert!(watch.changed().await.is_err(), "who watches learns it");
}

#[actix::test]
async fn writes_without_an_answer_yet_are_kept_by_close() {
    let mut world = World::new();
    let r = room("r");
    let pdus: Vec<_> = (0..50).map(|n| message(&r, OWN, n)).collect();
    for pdu in &pdus {
        world.store.do_send(live(&r, &[pdu]));
    }
    world.restart().await;
    for (pdu, order) in pdus.iter().zip(1..) {
        assert_eq!(world.event(&r, pdu).await.order, Some(Order::live(order)));
    }
}

#[actix::test]
async fn many_writers_share_a_flush_and_the_watch_follows() {
    let world = World::new();
    let mut watch = world.ask(WatchStream).await;
    assert_eq!(*watch.borrow_and_update(), 0);
    let r = room("r");
    let sends = (0..200).map(|n| world.ask(live(&r, &[&message(&r, OWN, n)])));
    let follow = async {
        let mut seen = vec![0];
        while *watch.borrow() < 200 {
            watch.changed().await.unwrap();
            seen.push(*watch.borrow_and_update());
        }
        seen
    };
    let (answers, seen) = futures::join!(join_all(sends), follow);
    let positions: Vec<_> = answers.into_iter().map(|done| done.unwrap().position).collect();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() < 100, "a group is more than one write: {} groups", seen.len());
}

#[actix::test]
async fn a_newer_layout_is_refused() {
    let world = World::new();
    world.ask(Close).await.unwrap();
    let key = schema::Key::new(schema::family::META).text("schema_version").done();
    let found = schema::SCHEMA_VERSION + 1;
    {
        let sled = sled::Config::new()
            .path(world.folder.path().join("db"))
            .segment_size(8 << 20)
            .open()
            .unwrap();
        sled.insert(key, &found.to_be_bytes()).unwrap();
        sled.flush().unwrap();
    }
    let error = start(world.folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
    let error = start(world.folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }), "the lock is free: {error}");
}

#[actix::test]
async fn a_damaged_snapshot_is_rebuilt_from_the_log() {
    let mut world = World::new();
    let r = room("r");
    let pdu = message(&r, OWN, 1);
    world.commit(live(&r, &[&pdu])).await;
    world.ask(Close).await.unwrap();
    let db = world.folder.path().join("db");
    fs::write(db.join("snap.0000000000000001.generating"), b"half").unwrap();
    let snapshots: Vec<_> = fs::read_dir(&db)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    for path in snapshots.iter().filter(|path| path.extension().is_none_or(|e| e != "generating")) {
        fs::write(path, b"broken").unwrap();
    }
    world.store = start(world.folder.path()).unwrap();
    assert_eq!(world.event(&r, &pdu).await.order, Some(Order::live(1)));
}

#[actix::test]
async fn a_torn_timeline_is_refused() {
    let world = World::new();
    let r = room("r");
    let pdu = message(&r, OWN, 1);
    world.commit(live(&r, &[&pdu])).await;
    world.ask(Close).await.unwrap();
    fs::remove_dir_all(world.folder.path().join("journal")).unwrap();
    {
        let sled = sled::Config::new()
            .path(world.folder.path().join("db"))
            .segment_size(8 << 20)
            .open()
            .unwrap();
        let hash = schema::hash_of(&pdu.event_id).unwrap();
        assert!(sled.remove(events::event_key(1, &hash)).unwrap().is_some());
        sled.flush().unwrap();
    }
    let error = start(world.folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("timeline"), "{error}");
}

#[actix::test]
async fn who_asks_and_leaves_harms_nobody() {
    let world = World::new();
    let r = room("r");
    for n in 0..20 {
        drop(world.store.send(live(&r, &[&message(&r, OWN, n)])));
    }
    let last = message(&r, OWN, 99);
    world.commit(live(&r, &[&last])).await;
    assert!(world.event(&r, &last).await.order.is_some());
}

/// All files below a folder, with what is in them.
pub(super) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    found
}

/// Checks that a folder is refused in one line that names `culprit`, and left as it is.
fn refuses(data: &Path, keys: Option<&ServerName>, culprit: &str) -> StoreError {
    let before = files(data);
    let error = start_for(data, keys).expect_err(culprit);
    let said = error.to_string();
    assert!(said.contains(culprit) && said.lines().count() == 1, "{culprit}: {said}");
    let remedies = ["restore", "--data", "make room"];
    assert!(remedies.iter().any(|remedy| said.contains(remedy)), "{said}");
    assert!(files(data) == before, "{culprit}: something was written: {said}");
    error
}

/// A folder with an owner and 300 messages and without a journal; closed, or as a killed process
/// leaves it.
async fn lived_in(owner: &ServerName, closed: bool) -> tempfile::TempDir {
    let folder = whole(owner).await;
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    if !closed {
        fs::write(folder.path().join("db.mark"), mark_of(300)).unwrap();
    }
    folder
}

/// The mark of a database that is open and got that far.
pub(super) fn mark_of(position: u64) -> String {
    format!("position {position:020}\nclosed {:->32}\n", "-")
}

/// A folder with an owner, 300 messages, and a journal; closed.
pub(super) async fn whole(owner: &ServerName) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let World { folder: source, store } = World::new();
    let world = World { folder: source, store };
    world.ask(NameOwner(owner.to_owned())).await.unwrap();
    let r = room("r");
    for n in 0..300 {
        world.commit(live(&r, &[&message(&r, OWN, n)])).await;
    }
    world.ask(Close).await.unwrap();
    for (path, bytes) in files(world.folder.path()) {
        let to = folder.path().join(path.strip_prefix(world.folder.path()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    folder
}

/// What is named, for whose keys, and what is done to a folder.
type Case = (&'static str, Option<&'static ServerName>, fn(&Path));

#[actix::test]
async fn what_is_missing_cut_off_or_of_somebody_else_is_refused_and_left_alone() {
    let (ann, bob) = (server_name!("ann.org"), server_name!("bob.org"));
    for closed in [true, false] {
        let cases: [Case; 9] = [
            ("/db is missing", Some(ann), |data| fs::remove_dir_all(data.join("db")).unwrap()),
            ("/db is missing", None, |data| fs::remove_dir_all(data.join("db")).unwrap()),
            ("/db is", Some(ann), |data| fs::write(data.join("db/db"), "").unwrap()),
            ("/db ", Some(ann), |data| {
                let db = fs::read(data.join("db/db")).unwrap();
                let used = db.iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
                fs::write(data.join("db/db"), &db[..used / 2]).unwrap();
            }),
            ("/db ", Some(ann), |data| {
                fs::write(data.join("db/conf"), "nonsense".repeat(8)).unwrap()
            }),
            ("/keys.json is missing", None, |_| ()),
            ("/keys.json belongs to bob.org", Some(bob), |_| ()),
            ("/db.mark is missing", Some(ann), |data| {
                fs::remove_file(data.join("db.mark")).unwrap()
            }),
            ("/db.mark is missing or damaged", Some(ann), |data| {
                fs::write(data.join("db.mark"), "x").unwrap();
            }),
        ];
        for (culprit, keys, harm) in cases {
            let folder = lived_in(ann, closed).await;
            harm(folder.path());
            refuses(folder.path(), keys, culprit);
        }
        let whole = lived_in(ann, closed).await;
        start_for(whole.path(), Some(ann)).unwrap().send(Close).await.unwrap().unwrap();
    }
}

#[actix::test]
async fn a_flipped_bit_is_found_or_does_no_harm() {
    let ann = server_name!("ann.org");
    let folder = lived_in(ann, false).await;
    let db = folder.path().join("db/db");
    let whole = files(folder.path());
    let used = whole[&db].iter().rposition(|byte| ![0, 255].contains(byte)).unwrap();
    let mut refused = 0;
    for part in 1..40 {
        let at = used * part / 40;
        let mut damaged = whole[&db].clone();
        damaged[at] ^= 1 << (part % 8);
        fs::write(&db, &damaged).unwrap();
        match start_for(folder.path(), Some(ann)) {
            Ok(store) => {
                // What it hit is in use no more: all is there.
                let r = room("r");
                let ask = ReadTimeline {
                    room_id: r,
                    from: None,
                    to: None,
                    over_gap: false,
                    direction: Direction::Forward,
                    limit: 1000,
                };
                let page = store.send(ask).await.unwrap().unwrap();
                assert_eq!(page.events.len(), 300, "byte {at}");
                store.send(Close).await.unwrap().unwrap();
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(said.contains("restore the data folder"), "byte {at}: {said}");
                assert_eq!(said.lines().count(), 1, "{said}");
                assert!(fs::read(&db).unwrap() == damaged, "byte {at}: it was written to");
            }
        }
        for file in files(folder.path()).keys().filter(|file| !whole.contains_key(*file)) {
            fs::remove_file(file).unwrap();
        }
        whole.iter().for_each(|(file, bytes)| fs::write(file, bytes).unwrap());
    }
    assert!(refused > 0, "no bit that was flipped was looked at");
}

#[actix::test]
async fn who_wants_to_go_on_with_what_is_left_can() {
    let ann = server_name!("ann.org");
    let folder = lived_in(ann, true).await;
    let mark = folder.path().join("db.mark");
    fs::write(&mark, mark_of(301)).unwrap();
    let error = refuses(folder.path(), Some(ann), "/db lacks the newest");
    assert!(matches!(error, StoreError::DatabaseOlder { found: 300, known: 301, .. }), "{error}");
    fs::write(&mark, "adopt\n").unwrap();
    start_for(folder.path(), Some(ann)).unwrap().send(Close).await.unwrap().unwrap();
    start_for(folder.path(), Some(ann)).unwrap().send(Close).await.unwrap().unwrap();
}

#[actix::test]
async fn a_folder_that_was_closed_is_known_to_be_whole() {
    let world = World::new();
    let r = room("r");
    world.commit(live(&r, &[&message(&r, OWN, 1)])).await;
    let marked = || mark::Marked::read(world.folder.path()).unwrap();
    assert_eq!(marked(), mark::Marked::At { position: 1, closed: None });
    world.ask(Close).await.unwrap();
    // sled's threads may take a moment to let go.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(marked().is_closed_as(&world.folder.path().join("db")), "{:?}", marked());
}
