//! Small rows, to-device messages, unread counts.

use ruma::ServerName;

use super::*;
use crate::config::limits;

#[actix::test]
async fn rows_are_written_read_scanned_and_deleted() {
    let mut world = World::new();
    let row = |id: &str| Row::Filter(user(OWN), id.to_owned());
    let rows = vec![
        (row("b"), Some(json!(2))),
        (row("a"), Some(json!(1))),
        (Row::Device(user(OWN), "D".to_owned()), Some(json!(3))),
    ];
    assert_eq!(world.write(rows).await, 0, "nothing of it shows in a sync");
    world.restart().await;
    assert_eq!(world.ask(ReadRow(row("a"))).await.unwrap(), Some(b"1".to_vec()));
    assert_eq!(world.ask(ReadRow(row("c"))).await.unwrap(), None);
    let found = world.ask(ScanRows(RowKind::Filters(user(OWN)))).await.unwrap();
    assert_eq!(found, [(row("a"), b"1".to_vec()), (row("b"), b"2".to_vec())]);
    world.write(vec![(row("a"), None)]).await;
    assert_eq!(world.ask(ScanRows(RowKind::Filters(user(OWN)))).await.unwrap().len(), 1);
}

#[actix::test]
async fn many_rows_are_read_at_once_and_a_kind_page_by_page() {
    let mut world = World::new();
    let room = ruma::room_id!("!r:x").to_owned();
    let row = |version, n: u32| {
        Row::BackedUp(user(OWN), version, room.clone(), format!("session {n:02}"))
    };
    let rows = |version| (0..20).map(move |n| (version, n));
    let all = rows(7).chain(rows(8)).map(|(version, n)| (row(version, n), Some(json!([n]))));
    world.write(all.collect()).await;
    let some = vec![row(7, 3), row(7, 99), Row::KeyList(user(OWN)), row(8, 12)];
    let read = world.ask(ReadRows(some)).await.unwrap();
    assert_eq!(read, [Some(b"[3]".to_vec()), None, None, Some(b"[12]".to_vec())]);

    for restarted in [false, true] {
        if restarted {
            world.restart().await;
        }
        let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let kind = RowKind::BackedUp(user(OWN), 7);
            let page = world.ask(ScanPage { kind, after, len: 10 }).await.unwrap();
            after = page.rows.last().map(|(row, _)| row.clone());
            found.extend(page.rows.into_iter().map(|(row, _)| row));
            pages += 1;
            if page.is_last {
                break;
            }
        }
        assert_eq!(found, (0..20).map(|n| row(7, n)).collect::<Vec<_>>());
        assert!(pages > 5, "{pages}");
    }
}

#[actix::test]
async fn what_is_owed_may_be_long_and_comes_back_in_its_order() {
    let mut world = World::new();
    let server = |name: &str| ServerName::parse(name).unwrap();
    let row = |name: &str, number| Row::Outbox(server(name), number);
    let long = json!("x".repeat(3 * limits::ROW));
    let rows = vec![
        (row("b.org", 300), Some(json!(3))),
        (row("b.org", 2), Some(long.clone())),
        (row("a.org", 9), Some(json!(1))),
        (row("b.org", 1), Some(json!(0))),
    ];
    assert_eq!(world.write(rows).await, 0, "nothing of it shows in a sync");
    world.restart().await;
    let found = world.ask(ScanRows(RowKind::Outbox)).await.unwrap();
    let order: Vec<_> = found.iter().map(|(row, _)| row.clone()).collect();
    assert_eq!(order, [row("a.org", 9), row("b.org", 1), row("b.org", 2), row("b.org", 300)]);
    let long = serde_json::to_vec(&long).unwrap();
    assert_eq!(found[2].1, long);
    assert_eq!(world.ask(ReadRow(row("b.org", 2))).await.unwrap(), Some(long));
    // A short value in its place leaves no piece of it behind.
    world.write(vec![(row("b.org", 2), Some(json!(7))), (row("b.org", 1), None)]).await;
    world.restart().await;
    let found = world.ask(ScanRows(RowKind::Outbox)).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[1], (row("b.org", 2), b"7".to_vec()));
}

#[actix::test]
async fn to_device_messages_reach_their_device_once_acknowledged() {
    let mut world = World::new();
    let to = |device: &str, n: u64| (Row::ToDevice(user(OWN), device.to_owned()), Some(json!(n)));
    let texts = |sync: &SyncRows| -> Vec<String> {
        sync.to_device.iter().map(|raw| raw.get().to_owned()).collect()
    };
    let first = world.write(vec![to("DEVICE", 1), to("OTHER", 2), to("DEVICE", 3)]).await;
    world.restart().await;
    assert_eq!(texts(&world.sync(None).await), ["1", "3"]);
    assert_eq!(texts(&world.sync(Some(0)).await), ["1", "3"], "not acknowledged: again");
    let second = world.write(vec![to("DEVICE", 4)]).await;
    let ack = AckToDevice { user_id: user(OWN), device_id: "DEVICE".to_owned(), position: first };
    world.ask(ack).await.unwrap();
    assert_eq!(texts(&world.sync(Some(0)).await), ["4"]);
    assert!(world.sync(Some(second)).await.is_empty());
    let other = ReadSync { device_id: "OTHER".to_owned(), ..read_sync(Some(0)) };
    assert_eq!(texts(&world.ask(other).await.unwrap()), ["2"]);
}

#[actix::test]
async fn old_to_device_messages_of_some_servers_are_dropped() {
    let mut world = World::new();
    let send = |server: &str, n: u64| {
        let event = json!({"sender": format!("@u:{server}"), "content": {"n": n}});
        (Row::ToDevice(user(OWN), "DEVICE".to_owned()), Some(event))
    };
    world.write(vec![send("eve.org", 1), send("bob.org", 2)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let between = crate::actors::clock::now_ms();
    world.write(vec![send("eve.org", 3), send("bob.org", 4)]).await;
    world.restart().await;
    let counts = world.ask(CountToDevice { old_before: between }).await.unwrap();
    let len = serde_json::to_vec(&send("eve.org", 1).1.unwrap()).unwrap().len();
    let expected = ToDeviceCount { all: (2, 2 * len), old: (1, len) };
    assert!(counts.len() == 2 && counts.values().all(|count| *count == expected), "{counts:?}");

    let of = [ServerName::parse("eve.org").unwrap()].into();
    world.ask(DropToDevice { of, before: between }).await.unwrap();
    let sync = world.sync(Some(0)).await;
    let left: Vec<u64> = sync
        .to_device
        .iter()
        .map(|event| serde_json::from_str::<Value>(event.get()).unwrap()["content"]["n"].as_u64())
        .map(Option::unwrap)
        .collect();
    assert_eq!(left, [2, 3, 4], "neither what is new nor what others sent");
}

#[actix::test]
async fn a_sync_takes_as_many_to_device_messages_as_it_has_room_for() {
    let world = World::new();
    let large = "x".repeat(60_000);
    let mut sent = 0;
    let mut last = 0;
    for (count, body) in [(limits::TO_DEVICE_SYNC + 20, "small"), (40, large.as_str())] {
        let rows = (0..count).map(|_| {
            sent += 1;
            let event = json!({"sender": "@eve:eve.org", "content": {"n": sent, "body": body}});
            (Row::ToDevice(user(OWN), "DEVICE".to_owned()), Some(event))
        });
        last = world.write(rows.collect()).await;
    }
    let counts = world.ask(CountToDevice { old_before: 0 }).await.unwrap();
    let ToDeviceCount { all: (number, len), old } = counts[&ServerName::parse("eve.org").unwrap()];
    assert_eq!((number, old), (sent, (0, 0)));
    assert!((40 * large.len()..41 * large.len() + 20_000).contains(&len), "{len}");

    let (mut seen, mut until, mut answers) = (Vec::new(), Some(0), Vec::new());
    while let Some(to_device_since) = until {
        // The rest of the answer is complete each time.
        let since = if seen.is_empty() { 0 } else { last };
        let ask = ReadSync { to_device_since: until, ..read_sync(Some(since)) };
        let sync = world.ask(ask).await.unwrap();
        assert_eq!(sync.position, last);
        let len: usize = sync.to_device.iter().map(|event| event.get().len()).sum();
        assert!(len < limits::TO_DEVICE_SYNC_LEN + limits::TO_DEVICE_LEN, "{len}");
        answers.push(sync.to_device.len());
        for event in &sync.to_device {
            let event: Value = serde_json::from_str(event.get()).unwrap();
            seen.push(event["content"]["n"].as_u64().unwrap());
        }
        until = sync.to_device_until;
        assert!(until.is_none_or(|until| until > to_device_since));
    }
    assert_eq!(seen, (1..=sent as u64).collect::<Vec<_>>(), "each once, in their order");
    assert_eq!(answers[0], limits::TO_DEVICE_SYNC);
    assert!(answers.len() >= 4, "{answers:?}");
    let done = ReadSync { to_device_since: Some(last), ..read_sync(Some(last)) };
    assert!(world.ask(done).await.unwrap().is_empty());
}

#[actix::test]
async fn receipts_of_our_user_lower_the_counts() {
    let mut world = World::new();
    let r = room("r");
    let unread = |notifications, highlights| Unread { notifications, highlights };
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    let pdus: Vec<_> = (0..4).map(|n| message(&r, "@ann:a.org", n)).collect();
    for (n, pdu) in pdus.iter().enumerate() {
        world.commit(notifying(&r, pdu, n % 2 == 1)).await;
    }
    // An event that comes again is not counted again.
    world.commit(notifying(&r, &pdus[0], true)).await;
    world.restart().await;
    let now = async |world: &World| world.sync(None).await.joined[0].unread;
    assert_eq!(now(&world).await, unread(4, 2));

    let unknown = message(&r, OWN, "unknown");
    let mut threaded = receipt(&r, OWN, "m.read", &pdus[3]);
    threaded.0 = Row::Receipt(r.clone(), user(OWN), "m.read".to_owned(), Some("$t".to_owned()));
    for (row, expected) in [
        (receipt(&r, "@ann:a.org", "m.read", &pdus[3]), unread(4, 2)),
        (receipt(&r, OWN, "m.read", &unknown), unread(4, 2)),
        (threaded, unread(4, 2)),
        (receipt(&r, OWN, "m.read", &pdus[1]), unread(2, 1)),
        (receipt(&r, OWN, "m.read", &pdus[0]), unread(2, 1)),
        (receipt(&r, OWN, "m.read.private", &pdus[2]), unread(1, 1)),
    ] {
        let since = world.sync(None).await.position;
        world.write(vec![row]).await;
        assert_eq!(now(&world).await, expected);
        let news = world.sync(Some(since)).await;
        assert_eq!(news.joined[0].receipts.len(), 1);
        assert_eq!(news.joined[0].unread, expected);
    }
    // Who writes has read.
    let since = world.commit(live(&r, &[&message(&r, OWN, "mine")])).await;
    assert_eq!(now(&world).await, unread(0, 0));
    let mut both = notifying(&r, &message(&r, "@ann:a.org", 10), true);
    both.events.push(new_event(&message(&r, OWN, 11), Place::Live));
    both.events.push(NewEvent {
        notify: vec![(user(OWN), notify(false))],
        ..new_event(&message(&r, "@ann:a.org", 12), Place::Live)
    });
    world.commit(both).await;
    assert_eq!(world.sync(Some(since)).await.joined[0].unread, unread(1, 0));
    world.commit(live(&r, &[&member(&r, OWN, "leave")])).await;
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    assert_eq!(now(&world).await, unread(0, 0));
}

#[actix::test]
async fn account_data_and_device_lists_show_when_they_change() {
    let world = World::new();
    let (r, other) = (room("r"), room("other"));
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    let since = world.sync(None).await.position;
    let global = |kind: &str, n: u64| {
        (Row::AccountData(user(OWN), kind.to_owned()), Some(json!({ "n": n })))
    };
    let rows = vec![
        global("a", 1),
        global("a", 2),
        (Row::RoomAccountData(user(OWN), r.clone(), "m.tag".to_owned()), Some(json!({}))),
        (Row::RoomAccountData(user(OWN), other, "m.tag".to_owned()), Some(json!({}))),
        (Row::DeviceList(user("@ann:a.org")), None),
    ];
    let middle = world.write(rows).await;
    world.write(vec![global("b", 1)]).await;
    let sync = world.sync(Some(since)).await;
    let kinds = |sync: &SyncRows| -> Vec<String> {
        sync.account_data.iter().map(|(kind, raw)| format!("{kind}{}", raw.get())).collect()
    };
    assert_eq!(kinds(&sync), [r#"a{"n":2}"#, r#"b{"n":1}"#]);
    assert!(sync.device_lists.is_empty(), "of nobody who shares a room");
    assert_eq!(sync.joined.len(), 1);
    assert_eq!(sync.joined[0].account_data[0].0, "m.tag");
    let later = world.sync(Some(middle)).await;
    assert_eq!(kinds(&later), [r#"b{"n":1}"#]);
    assert!(later.joined.is_empty() && later.device_lists.is_empty());
    let initial = world.sync(None).await;
    assert_eq!(initial.account_data.len(), 2);
    assert_eq!(initial.joined[0].account_data.len(), 1);
    assert!(initial.device_lists.is_empty());
}

#[actix::test]
async fn what_one_has_is_not_shown_to_another() {
    let world = World::new();
    let (r, bob) = (room("r"), user("@bob:example.org"));
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    let text = message(&r, "@ann:a.org", 1);
    let since = world.commit(live(&r, &[&text])).await;
    world
        .write(vec![
            (Row::AccountData(bob.clone(), "a".to_owned()), Some(json!({"bob": 1}))),
            (Row::RoomAccountData(bob.clone(), r.clone(), "m.tag".to_owned()), Some(json!({}))),
            (Row::ToDevice(bob.clone(), "DEVICE".to_owned()), Some(json!({"to": "bob"}))),
            receipt(&r, bob.as_str(), "m.read.private", &text),
        ])
        .await;
    assert!(world.sync(Some(since)).await.is_empty());
    let initial = world.sync(None).await;
    assert!(initial.account_data.is_empty() && initial.to_device.is_empty());
    let shown = &initial.joined[0];
    assert!(shown.account_data.is_empty() && shown.receipts.is_empty());
    let of_bob = ReadSync { user_id: bob.clone(), ..read_sync(Some(since)) };
    let of_bob = world.ask(of_bob).await.unwrap();
    assert_eq!(of_bob.account_data[0].1.get(), r#"{"bob":1}"#);
    assert_eq!(of_bob.to_device[0].get(), r#"{"to":"bob"}"#);
    // Whoever deletes a device deletes nothing of another's device of the same id.
    let ack = AckToDevice { user_id: user(OWN), device_id: "DEVICE".to_owned(), position: 99 };
    world.ask(ack).await.unwrap();
    let of_bob = world.ask(ReadSync { user_id: bob, ..read_sync(Some(since)) }).await.unwrap();
    assert_eq!(of_bob.to_device.len(), 1);
}

#[actix::test]
async fn each_user_has_memberships_and_unread_counts_of_their_own() {
    let mut world = World::new();
    let (r, bob) = (room("r"), user("@bob:example.org"));
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    let bob_joins = member(&r, bob.as_str(), "join");
    let mut step = live(&r, &[&bob_joins]);
    step.memberships.insert(bob.clone(), own(&bob_joins));
    let since = world.commit(step).await;
    let text = message(&r, "@ann:a.org", 1);
    let mut step = notifying(&r, &text, true);
    step.events[0].notify.push((bob.clone(), notify(false)));
    world.commit(step).await;
    world.restart().await;
    let of = async |world: &World, user_id: &OwnedUserId, since| {
        world.ask(ReadSync { user_id: user_id.clone(), ..read_sync(since) }).await.unwrap()
    };
    let unread = |sync: &SyncRows| {
        let unread = sync.joined[0].unread;
        (unread.notifications, unread.highlights)
    };
    assert_eq!(unread(&of(&world, &user(OWN), Some(since)).await), (1, 1));
    assert_eq!(unread(&of(&world, &bob, Some(since)).await), (1, 0));
    // Who reads, or writes, has read: nobody else has.
    world.write(vec![receipt(&r, OWN, "m.read", &text)]).await;
    assert_eq!(unread(&of(&world, &user(OWN), Some(since)).await), (0, 0));
    assert_eq!(unread(&of(&world, &bob, Some(since)).await), (1, 0));
    world.commit(live(&r, &[&message(&r, bob.as_str(), 2)])).await;
    assert_eq!(unread(&of(&world, &bob, Some(since)).await), (0, 0));
    // One leaves, and the other stays.
    let leaves = member(&r, bob.as_str(), "leave");
    let mut step = live(&r, &[&leaves]);
    step.memberships.insert(bob.clone(), own(&leaves));
    world.commit(step).await;
    let left = of(&world, &bob, Some(since)).await;
    assert_eq!((left.joined.len(), left.left.len()), (0, 1));
    assert_eq!(of(&world, &user(OWN), Some(since)).await.joined.len(), 1);
    let loaded = world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().unwrap();
    let memberships = loaded.memberships.into_iter().map(|(user, own)| (user, own.membership));
    let wanted = [(bob, MembershipState::Leave), (user(OWN), MembershipState::Join)];
    assert_eq!(memberships.collect::<Vec<_>>(), wanted);
}
