//! Commits and what Rooms read back.

use super::*;

fn txn(number: usize) -> ClientTxn {
    ClientTxn {
        device_id: "DEVICE".to_owned(),
        endpoint: TxnEndpoint::Send,
        txn_id: format!("t{number}"),
    }
}

#[actix::test]
async fn a_room_comes_back_after_a_restart() {
    let mut world = World::new();
    let r = room("r");
    assert!(world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().is_none());
    let (create, join) = (state(&r, "m.room.create", "x"), member(&r, OWN, "join"));
    let mut first = live(&r, &[&create, &join]);
    first.events[0].state_group = Some(1);
    first.events[1].state_group = Some(2);
    first.groups = vec![
        NewGroup { id: 1, parent: None, changes: changes(&[&create]) },
        NewGroup { id: 2, parent: Some(1), changes: changes(&[&join]) },
    ];
    let extremity = Extremity { event_id: id(&join), depth: 2, state_group: 2 };
    first.heads =
        Some(Heads { extremities: vec![extremity.clone()], current_group: 2, next_group: 3 });
    first.servers = Some(vec!["example.org".try_into().unwrap()]);
    let missing = BackwardExtremity { event_id: id(&create), followed_by: vec![id(&create)] };
    first.backward_extremities = Some(vec![missing.clone()]);
    assert_eq!(world.commit(first).await, 3, "two events and a membership");

    for _ in 0..2 {
        let loaded = world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().unwrap();
        let heads = loaded.heads.unwrap();
        assert_eq!(heads.extremities, std::slice::from_ref(&extremity));
        assert_eq!((heads.current_group, heads.next_group), (2, 3));
        assert_eq!(loaded.version, RoomVersionId::V11);
        assert_eq!(loaded.backward_extremities, std::slice::from_ref(&missing));
        assert_eq!(loaded.memberships[&user(OWN)].membership, MembershipState::Join);
        assert_eq!(ids(&loaded.state), [id(&create), id(&join)]);
        let state = world.ask(LoadState { room_id: r.clone(), group: 2 }).await.unwrap();
        assert_eq!(state, as_map(&[&create, &join]));
        let rooms = world.ask(ListRooms).await.unwrap();
        assert_eq!(rooms[0].servers, ["example.org"]);
        assert_eq!(rooms[0].locals[&user(OWN)].membership, MembershipState::Join);
        let stored = world.event(&r, &join).await;
        assert_eq!(*stored.json, *join.json);
        assert_eq!((stored.order, stored.state_group), (Some(Order::live(2)), Some(2)));
        world.restart().await;
    }
    assert_eq!(world.commit(live(&r, &[&message(&r, OWN, 1)])).await, 4, "positions go on");
}

#[actix::test]
async fn events_stand_where_they_were_put_last() {
    let world = World::new();
    let r = room("r");
    let pdu = message(&r, OWN, 1);
    for (place, expected) in [
        (Place::Outlier, (Place::Outlier, None)),
        (Place::Live, (Place::Live, Some(Order::live(1)))),
        (Place::Backfilled, (Place::Live, Some(Order::live(1)))),
        (Place::Rejected, (Place::Rejected, None)),
        (Place::Backfilled, (Place::Backfilled, Some(behind(-1, 1)))),
        (Place::SoftFailed, (Place::SoftFailed, None)),
    ] {
        let mut step = step(&r);
        step.events.push(NewEvent { state_group: Some(7), ..new_event(&pdu, place) });
        world.commit(step).await;
        let stored = world.event(&r, &pdu).await;
        assert_eq!((stored.place, stored.order), expected, "after {place:?}");
        assert_eq!(stored.state_group, Some(7));
    }
    let page = world.ask(timeline(&r, Direction::Forward, None)).await.unwrap();
    assert!(page.events.is_empty());
}

fn timeline(r: &OwnedRoomId, direction: Direction, from: Option<Order>) -> ReadTimeline {
    ReadTimeline { room_id: r.clone(), from, to: None, over_gap: false, direction, limit: 2 }
}

/// The `number`th place, counted from its end, of the history behind a position.
fn behind(position: i64, number: u64) -> Order {
    Order { position, history: (1 << 62) - number }
}

#[actix::test]
async fn pages_go_both_ways_over_live_and_backfilled() {
    let mut world = World::new();
    let r = room("r");
    let pdus: Vec<_> = (0..7).map(|n| message(&r, OWN, n)).collect();
    world.commit(live(&r, &[&pdus[4], &pdus[5]])).await;
    world.commit(live(&room("other"), &[&message(&room("other"), OWN, 0)])).await;
    // History comes newest first, in two pages, around a restart.
    for page in [[3, 2], [1, 0]] {
        let mut older = step(&r);
        older.events = page.map(|n| new_event(&pdus[n], Place::Backfilled)).into();
        world.commit(older).await;
        world.restart().await;
    }
    world.commit(live(&r, &[&pdus[6]])).await;
    let live = Order::live;
    let orders =
        [behind(0, 4), behind(0, 3), behind(0, 2), behind(0, 1), live(1), live(2), live(4)];
    for (pdu, order) in pdus.iter().zip(orders) {
        assert_eq!(world.event(&r, pdu).await.order, Some(order));
    }
    let mut expected: Vec<_> = pdus.iter().map(id).collect();
    for direction in [Direction::Forward, Direction::Backward] {
        let (mut seen, mut from, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = world.ask(timeline(&r, direction, from)).await.unwrap();
            seen.extend(ids(&page.events));
            pages += 1;
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (expected.clone(), 4), "{direction:?}");
        expected.reverse();
    }
    for (direction, from, to, expected) in [
        (
            Direction::Forward,
            Some(behind(0, 3)),
            Some(live(1)),
            vec![orders[2], orders[3], live(1)],
        ),
        (
            Direction::Backward,
            Some(live(1)),
            Some(behind(0, 3)),
            vec![live(1), orders[3], orders[2]],
        ),
        (Direction::Forward, Some(live(4)), None, vec![]),
        (Direction::Backward, Some(behind(0, 5)), None, vec![]),
        (Direction::Forward, Some(live(2)), Some(behind(0, 2)), vec![]),
        (Direction::Backward, Some(live(4).before()), Some(live(1)), vec![live(2)]),
    ] {
        let over_gap = false;
        let ask = ReadTimeline { room_id: r.clone(), from, to, over_gap, direction, limit: 10 };
        let page = world.ask(ask).await.unwrap();
        let orders: Vec<_> = page.events.iter().filter_map(|event| event.order).collect();
        assert_eq!(orders, expected, "{direction:?} {from:?} {to:?}");
        assert_eq!(page.next, None);
    }
}

#[actix::test]
async fn state_groups_add_up_over_snapshots_and_removals() {
    let mut world = World::new();
    let r = room("r");
    let topics: Vec<_> = (0..250).map(|n| state(&r, "m.room.topic", &n.to_string())).collect();
    let name = state(&r, "m.room.name", "n");
    let mut first = step(&r);
    first.events = topics.iter().chain([&name]).map(|p| new_event(p, Place::Outlier)).collect();
    first.groups.push(NewGroup { id: 0, parent: None, changes: changes(&[&name]) });
    world.commit(first).await;
    // A chain of 250, half of it in one commit; group 150 takes the name away.
    let group = |n: usize| {
        let mut changes = changes(&[&topics[n - 1]]);
        if n == 150 {
            changes.push((place_of(&name), None));
        }
        NewGroup { id: n as u64, parent: Some(n as u64 - 1), changes }
    };
    world.commit(CommitRoom { groups: (1..=120).map(group).collect(), ..step(&r) }).await;
    for n in 121..=250 {
        world.ask(CommitRoom { groups: vec![group(n)], ..step(&r) }).await.unwrap();
    }
    world.restart().await;
    for n in [1, 99, 100, 101, 149, 150, 151, 200, 250] {
        let found = world.ask(LoadState { room_id: r.clone(), group: n }).await.unwrap();
        let mut expected = as_map(&[&topics[n as usize - 1]]);
        if n < 150 {
            expected.extend(as_map(&[&name]));
        }
        assert_eq!(found, expected, "group {n}");
    }
    assert!(world.ask(LoadState { room_id: r.clone(), group: 999 }).await.is_err());
}

#[actix::test]
async fn a_room_of_thousands_is_stored_whole() {
    let mut world = World::new();
    let r = room("large");
    let members: Vec<_> =
        (0..3000).map(|n| member(&r, &format!("@user{n}:example.org"), "join")).collect();
    let own_join = member(&r, OWN, "join");
    let mut all: Vec<_> = members.iter().collect();
    all.push(&own_join);
    let mut first = step(&r);
    first.events = all.iter().map(|pdu| new_event(pdu, Place::Outlier)).collect();
    first.state_changes = changes(&all);
    first.groups.push(NewGroup { id: 1, parent: None, changes: changes(&all) });
    first.memberships.insert(user(OWN), own(&own_join));
    first.servers = Some((0..9000).map(|n| format!("s{n}.org").try_into().unwrap()).collect());
    world.commit(first).await;
    world.restart().await;
    let found = world.ask(LoadState { room_id: r.clone(), group: 1 }).await.unwrap();
    assert_eq!(found, as_map(&all));
    let sync = world.sync(None).await;
    let joined = &sync.joined[0];
    assert_eq!(joined.state.len(), 3001);
    let summary = joined.summary.as_ref().unwrap();
    assert_eq!((summary.joined, summary.heroes.len()), (3001, 5));
    assert_eq!(world.ask(ListRooms).await.unwrap()[0].servers.len(), 9000);
    // A long row that becomes short leaves nothing behind.
    let few = Some(vec!["example.org".try_into().unwrap()]);
    world.commit(CommitRoom { servers: few, ..step(&r) }).await;
    assert_eq!(world.ask(ListRooms).await.unwrap()[0].servers.len(), 1);
}

#[actix::test]
async fn what_is_too_large_or_not_ours_is_refused() {
    let world = World::new();
    let large = vec![0; crate::config::limits::ROW + 1];
    let error =
        world.ask(WriteRows(vec![(Row::Filter(user(OWN), "f".to_owned()), Some(large))])).await;
    assert!(matches!(error, Err(StoreError::TooLarge(_))), "{error:?}");
    let largest = vec![0; crate::config::limits::ROW];
    world
        .ask(WriteRows(vec![(Row::Filter(user(OWN), "f".to_owned()), Some(largest))]))
        .await
        .unwrap();

    let r = room("r");
    let good = message(&r, OWN, 1);
    let old = EventId::parse("$old:example.org").unwrap();
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let old_pdu = Arc::new(Pdu::from_json(old.clone(), &good.json, &rules).unwrap());
    let error = world.ask(live(&r, &[&good, &old_pdu])).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { what: "event id" }), "{error}");
    assert!(world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().is_none(), "nothing of it");
    // Peers can name any id in their events: looking it up is no error.
    world.commit(live(&r, &[&good])).await;
    let ask = LoadEvents { room_id: r.clone(), event_ids: vec![old.clone(), id(&good)] };
    let found = world.ask(ask).await.unwrap();
    assert!(matches!(found[..], [Lookup::Absent, Lookup::Found(_)]), "{found:?}");
    let redaction = Redaction::Waits { target: old, because: vec![id(&good)] };
    world.commit(CommitRoom { redactions: vec![redaction], ..step(&r) }).await;
    assert_eq!(world.sync(None).await.position, 1, "failed commits take no position");
}

#[actix::test]
async fn rooms_do_not_see_each_others_events() {
    let world = World::new();
    let (a, b) = (room("a"), room("b"));
    let (in_a, in_b) = (message(&a, OWN, 1), message(&b, OWN, 1));
    world.commit(live(&a, &[&in_a])).await;
    world.commit(live(&b, &[&in_b])).await;
    let found = world.events(&a, &[&in_b, &in_a]).await;
    assert!(matches!(found[..], [Lookup::Absent, Lookup::Found(_)]), "{found:?}");
}

#[actix::test]
async fn auth_chains_are_walked_once_and_over_gaps() {
    let world = World::new();
    let r = room("r");
    let lost = state(&r, "m.room.lost", "x");
    let create = event(&r, OWN, "m.room.create", Some(""), json!({}), &[&lost]);
    let join = event(&r, OWN, "m.room.member", Some(OWN), json!({}), &[&create]);
    let levels = event(&r, OWN, "m.room.power_levels", Some(""), json!({}), &[&create, &join]);
    let outside = message(&r, OWN, 1);
    let mut first = step(&r);
    first.events =
        [&create, &join, &levels, &outside].map(|pdu| new_event(pdu, Place::Outlier)).into();
    world.commit(first).await;
    let roots = vec![id(&levels), id(&join), id(&lost)];
    let chain = world.ask(LoadAuthChain { room_id: r.clone(), roots }).await.unwrap();
    let mut found = ids(&chain);
    found.sort();
    let mut expected = vec![id(&create), id(&join), id(&levels)];
    expected.sort();
    assert_eq!(found, expected);
}

/// Event ids are hashes, so nobody can make a cycle; that is no reason to walk one for ever.
#[actix::test]
async fn attack_13_a_cycle_of_auth_events_is_walked_once() {
    let world = World::new();
    let r = room("r");
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|body| message(&r, OWN, body));
    let follows = |pdu: &Arc<Pdu>, other: &Arc<Pdu>| {
        let auth_events = format!("\"auth_events\":[\"{}\"]", other.event_id);
        let json = pdu.json.replace("\"auth_events\":[]", &auth_events);
        assert_ne!(*json, *pdu.json);
        Arc::new(Pdu::from_json(pdu.event_id.clone(), &json, &rules).unwrap())
    };
    let cycle = [follows(&one, &two), follows(&two, &three), follows(&three, &one)];
    let itself = follows(&message(&r, OWN, "itself"), &message(&r, OWN, "itself"));
    let mut first = step(&r);
    first.events =
        cycle.iter().chain([&itself]).map(|pdu| new_event(pdu, Place::Outlier)).collect();
    world.commit(first).await;
    let roots = vec![id(&one), id(&itself)];
    let chain = world.ask(LoadAuthChain { room_id: r.clone(), roots }).await.unwrap();
    assert_eq!(chain.len(), 4);
}

#[actix::test]
async fn redactions_apply_before_and_after_their_target() {
    let mut world = World::new();
    let r = room("r");
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let (early, late) = (message(&r, OWN, "early"), message(&r, OWN, "late"));
    let redacts = event(&r, OWN, "m.room.redaction", None, json!({ "redacts": id(&early) }), &[]);
    let redaction = |target: &Arc<Pdu>, is_here: bool| match is_here {
        true => Redaction::Applies {
            because: id(&redacts),
            redacted: Arc::new(target.redacted(&rules).unwrap()),
        },
        false => Redaction::Waits { target: id(target), because: vec![id(&redacts), id(&early)] },
    };
    world.commit(live(&r, &[&early, &member(&r, OWN, "join")])).await;
    let mut both = live(&r, &[&redacts]);
    both.redactions = vec![redaction(&early, true), redaction(&late, false)];
    world.commit(both).await;
    world.restart().await;

    let found = world.events(&r, &[&late]).await;
    assert!(
        matches!(&found[0], Lookup::RedactedBy(by) if *by == [id(&redacts), id(&early)]),
        "{found:?}"
    );
    let mut arrives = live(&r, &[&late]);
    arrives.redactions = vec![redaction(&late, true)];
    world.commit(arrives).await;
    // A copy of the original that comes again changes nothing.
    world.commit(live(&r, &[&early])).await;
    for pdu in [&early, &late] {
        let stored = world.event(&r, pdu).await;
        assert_eq!(stored.redacted_because, Some(id(&redacts)));
        assert_eq!(*stored.json, *pdu.redacted(&rules).unwrap().json);
    }
    let sync = world.sync(None).await;
    assert_eq!(sync.joined[0].redactions.keys().collect::<Vec<_>>(), [&id(&redacts)]);
}

#[actix::test]
async fn the_newest_transactions_come_back() {
    let mut world = World::new();
    let r = room("r");
    let mut many = step(&r);
    for n in 0..1100 {
        let pdu = message(&r, OWN, n);
        many.events.push(NewEvent { txn: Some(txn(n)), ..new_event(&pdu, Place::Live) });
    }
    let last = many.events[1099].pdu.clone();
    world.commit(many).await;
    // The same event without its transaction keeps it, and is not listed twice.
    world.commit(live(&r, &[&last])).await;
    world.restart().await;
    let loaded = world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().unwrap();
    assert_eq!(loaded.txns.len(), 1000);
    assert_eq!(loaded.txns[0].1, txn(100));
    let (by, newest, event_id) = &loaded.txns[999];
    assert_eq!((newest, event_id), (&txn(1099), &id(&last)));
    assert_eq!(by.as_ref(), Some(&last.sender));
    assert_eq!(world.event(&r, &last).await.txn, Some(txn(1099)));
}

#[actix::test]
async fn an_invite_comes_back_until_it_is_answered() {
    let mut world = World::new();
    let r = room("r");
    let pdu =
        event(&r, "@ann:a.org", "m.room.member", Some(OWN), json!({"membership":"invite"}), &[]);
    let stripped: Vec<_> = (0..300)
        .map(|n| serde_json::value::to_raw_value(&json!({ "n": n, "x": "y".repeat(900) })).unwrap())
        .collect();
    let invite = InviteData {
        event: Arc::clone(&pdu),
        stripped_state: stripped.clone(),
        via: vec!["a.org".try_into().unwrap()],
        notify: None,
    };
    let membership = OwnMembership { invite: Some(invite), ..own(&pdu) };
    world.commit(CommitRoom { memberships: [(user(OWN), membership)].into(), ..step(&r) }).await;
    world.restart().await;
    let loaded = world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().unwrap();
    assert!(loaded.heads.is_none());
    let invite = loaded.memberships[&user(OWN)].invite.clone().unwrap();
    assert_eq!(invite.event.json, pdu.json);
    assert_eq!(invite.via, ["a.org"]);
    assert_eq!(invite.stripped_state.len(), 300);
    assert_eq!(invite.stripped_state[299].get(), stripped[299].get());

    let refused = OwnMembership {
        membership: MembershipState::Leave,
        event_id: None,
        invite: None,
        forgotten: false,
    };
    world.commit(CommitRoom { memberships: [(user(OWN), refused)].into(), ..step(&r) }).await;
    let loaded = world.ask(LoadRoom { room_id: r.clone() }).await.unwrap().unwrap();
    assert!(loaded.memberships[&user(OWN)].invite.clone().is_none());
}

#[actix::test]
async fn an_invite_notifies_once_and_for_as_long_as_it_waits() {
    let mut world = World::new();
    let r = room("r");
    let ann = "@ann:a.org";
    let invites = |n: u64| {
        let content = json!({"membership": "invite", "n": n});
        event(&r, ann, "m.room.member", Some(OWN), content, &[])
    };
    let raw = |json| serde_json::value::to_raw_value(&json).unwrap();
    let stripped = vec![
        raw(json!({"type": "m.room.name", "state_key": "", "content": {"name": "Tea"}})),
        raw(json!({"type": "m.room.member", "state_key": ann, "content": {"displayname": "Ann"}})),
        raw(json!({"type": "m.room.name", "state_key": "x", "content": {"name": "not it"}})),
    ];
    let invite = |pdu: &Arc<Pdu>| {
        let data = InviteData {
            event: Arc::clone(pdu),
            stripped_state: stripped.clone(),
            via: Vec::new(),
            notify: Some(Notify { highlight: false, actions: "[\"notify\"]".to_owned() }),
        };
        let membership = OwnMembership { invite: Some(data), ..own(pdu) };
        CommitRoom { memberships: [(user(OWN), membership)].into(), ..step(&r) }
    };
    let read = async |world: &World| {
        let ask = ReadNotifications {
            user_id: user(OWN),
            up_to: None,
            after: 0,
            only_highlights: false,
            only_unread: true,
            count: true,
            limit: 9,
        };
        let page = world.ask(ask).await.unwrap();
        let told = |one: Notified| (one.event.event_id, one.sender_name, one.room_name);
        page.notified.into_iter().map(told).collect::<Vec<_>>()
    };
    let first = invites(1);
    world.commit(invite(&first)).await;
    world.commit(invite(&first)).await;
    let told = [(id(&first), Some("Ann".to_owned()), Some("Tea".to_owned()))];
    assert_eq!(read(&world).await, told, "said twice, told once");
    world.restart().await;
    assert_eq!(read(&world).await, told);
    let refused = OwnMembership {
        membership: MembershipState::Leave,
        event_id: None,
        invite: None,
        forgotten: false,
    };
    world.commit(CommitRoom { memberships: [(user(OWN), refused)].into(), ..step(&r) }).await;
    assert_eq!(read(&world).await, []);
    let second = invites(2);
    world.commit(invite(&second)).await;
    let told = read(&world).await;
    assert_eq!(told.iter().map(|one| &one.0).collect::<Vec<_>>(), [&id(&second)]);
    // Who came in has read it.
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    assert_eq!(read(&world).await, []);
}

#[actix::test]
async fn the_directory_finds_parts_of_names_and_ids() {
    let world = World::new();
    let entry = |name: Option<&str>| {
        Some(DirectoryEntry { displayname: name.map(str::to_owned), avatar_url: None })
    };
    let (ann, bob) = (user("@ann:a.org"), user("@bob:b.org"));
    let directory = vec![(ann.clone(), entry(Some("Änne Gram"))), (bob.clone(), entry(None))];
    world.commit(CommitRoom { directory, ..step(&room("r")) }).await;
    for (term, limit, expected) in [
        ("änne", 9, vec![&ann]),
        ("gRAM", 9, vec![&ann]),
        ("B.ORG", 9, vec![&bob]),
        ("", 9, vec![&ann, &bob]),
        ("", 1, vec![&ann]),
        ("nobody", 9, vec![]),
    ] {
        let found = world.ask(SearchDirectory { term: term.to_owned(), limit }).await.unwrap();
        assert_eq!(found.iter().map(|(user, _)| user).collect::<Vec<_>>(), expected, "{term}");
    }
    let directory = vec![(ann, None)];
    world.commit(CommitRoom { directory, ..step(&room("r")) }).await;
    let found = world.ask(SearchDirectory { term: "gram".to_owned(), limit: 9 }).await.unwrap();
    assert!(found.is_empty());
}
