//! Opening, closing, group commit.

use std::{fs, os::unix::fs::PermissionsExt as _};

use futures::future::join_all;

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
        assert_eq!(world.event(&r, pdu).await.order, Some(order));
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
    assert_eq!(world.event(&r, &pdu).await.order, Some(1));
}

#[actix::test]
async fn a_torn_timeline_is_refused() {
    let world = World::new();
    let r = room("r");
    let pdu = message(&r, OWN, 1);
    world.commit(live(&r, &[&pdu])).await;
    world.ask(Close).await.unwrap();
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
    assert!(matches!(error, StoreError::Corrupt { what: "timeline" }), "{error}");
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
