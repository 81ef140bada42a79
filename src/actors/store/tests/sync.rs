//! What a sync shows.

use super::*;

fn message_ids(r: &OwnedRoomId, numbers: impl IntoIterator<Item = u64>) -> Vec<OwnedEventId> {
    numbers.into_iter().map(|n| id(&message(r, OWN, n))).collect()
}

/// A room with create, name, our join, and `messages` messages of ours.
async fn joined_room(world: &World, name: &str, messages: u64) -> OwnedRoomId {
    let r = room(name);
    world.commit(live(&r, &[&state(&r, "m.room.create", "x")])).await;
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    world.commit(live(&r, &[&state(&r, "m.room.name", "n")])).await;
    for n in 0..messages {
        world.commit(live(&r, &[&message(&r, OWN, n)])).await;
    }
    r
}

#[actix::test]
async fn an_initial_sync_shows_the_newest_and_the_state_before() {
    let mut world = World::new();
    let r = joined_room(&world, "r", 5).await;
    world.restart().await;
    let name = state(&r, "m.room.name", "n");
    let begin = [id(&state(&r, "m.room.create", "x")), id(&member(&r, OWN, "join"))];
    for (limit, timeline, limited, state_len) in [
        (3, message_ids(&r, 2..5), true, 3),
        (5, message_ids(&r, 0..5), true, 3),
        (6, [vec![id(&name)], message_ids(&r, 0..5)].concat(), true, 2),
        (8, [begin.to_vec(), vec![id(&name)], message_ids(&r, 0..5)].concat(), false, 0),
        (50, [begin.to_vec(), vec![id(&name)], message_ids(&r, 0..5)].concat(), false, 0),
        (0, vec![], true, 3),
    ] {
        let sync = world.ask(ReadSync { timeline_limit: limit, ..read_sync(None) }).await.unwrap();
        let joined = &sync.joined[0];
        assert_eq!(ids(&joined.timeline), timeline, "limit {limit}");
        assert_eq!((joined.limited, joined.state.len()), (limited, state_len), "limit {limit}");
        assert!(joined.prev_batch.is_some(), "limit {limit}: clients keep nothing without it");
        let summary = joined.summary.as_ref().unwrap();
        assert_eq!((summary.joined, summary.invited), (1, 0));
        // Together, the pages before and the timeline are everything.
        if let Some(from) = joined.prev_batch {
            let page = ReadTimeline {
                room_id: r.clone(),
                from: Some(from),
                to: None,
                over_gap: false,
                direction: Direction::Backward,
                limit: 100,
            };
            let older = world.ask(page).await.unwrap().events;
            assert_eq!(older.len() + timeline.len(), 8, "limit {limit}");
        }
        assert!(world.sync(Some(sync.position)).await.is_empty());
    }
}

#[actix::test]
async fn an_incremental_sync_shows_what_came_since() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    joined_room(&world, "quiet", 3).await;
    let since = world.sync(None).await.position;
    let topic = |n: u64| state(&r, "m.room.topic", &n.to_string());
    world.commit(live(&r, &[&topic(0)])).await;
    world.commit(live(&r, &[&topic(1)])).await;
    for n in 0..4 {
        world.commit(live(&r, &[&message(&r, OWN, n)])).await;
    }
    world.commit(live(&r, &[&topic(2)])).await;
    let all =
        [vec![id(&topic(0)), id(&topic(1))], message_ids(&r, 0..4), vec![id(&topic(2))]].concat();
    for (limit, shown, state) in [
        (10, 7, vec![]),
        (7, 7, vec![]),
        // The topic in force before the timeline, though a newer one is inside of it.
        (5, 5, vec![id(&topic(1))]),
        (1, 1, vec![id(&topic(1))]),
        (6, 6, vec![id(&topic(0))]),
    ] {
        let ask = ReadSync { timeline_limit: limit, ..read_sync(Some(since)) };
        let sync = world.ask(ask).await.unwrap();
        assert_eq!(sync.joined.len(), 1, "only the room with news");
        let joined = &sync.joined[0];
        assert_eq!(ids(&joined.timeline), all[7 - shown..], "limit {limit}");
        assert_eq!(joined.limited, shown < 7);
        assert_eq!(ids(&joined.state), state, "limit {limit}");
        assert!(joined.summary.is_none(), "no member changed");
        assert_eq!(joined.replaced[&id(&topic(2))].event_id, id(&topic(1)));
    }
    assert!(world.sync(Some(since + 1000)).await.is_empty(), "a since of the future");
}

#[actix::test]
async fn who_comes_in_through_others_is_told_of_the_invite_that_the_join_replaced() {
    let world = World::new();
    let r = room("r");
    let invite = member(&r, OWN, "invite");
    let mut join = Pdu::clone(&member(&r, OWN, "join"));
    join.auth_events = vec![id(&invite)];
    let join = Arc::new(join);
    let mut comes_in = live(&r, &[&join]);
    comes_in.events.insert(0, new_event(&invite, Place::Outlier));
    comes_in.memberships.insert(user(OWN), own(&join));
    world.commit(comes_in).await;
    let sync = world.sync(None).await;
    let [room] = &sync.joined[..] else { panic!("{sync:?}") };
    assert_eq!(ids(&room.timeline), [id(&join)]);
    assert_eq!(room.replaced[&id(&join)].event_id, id(&invite));
}

#[actix::test]
async fn state_that_changes_without_the_timeline_shows() {
    let world = World::new();
    let r = joined_room(&world, "r", 1).await;
    let since = world.sync(None).await.position;
    let topic = state(&r, "m.room.topic", "resolved");
    let mut resolved = step(&r);
    resolved.events.push(new_event(&topic, Place::Outlier));
    resolved.state_changes = changes(&[&topic]);
    assert_eq!(world.commit(resolved).await, since + 1);
    let sync = world.sync(Some(since)).await;
    assert_eq!(ids(&sync.joined[0].state), [id(&topic)]);
    assert!(sync.joined[0].timeline.is_empty());
    // Taken away again: nothing that could be shown, and nothing in the next initial sync.
    let removed = vec![(place_of(&topic), None)];
    world.commit(CommitRoom { state_changes: removed, ..step(&r) }).await;
    assert!(world.sync(Some(since + 1)).await.joined.is_empty());
    assert!(!ids(&world.sync(None).await.joined[0].state).contains(&id(&topic)));
}

#[actix::test]
async fn backfill_and_outliers_do_not_show() {
    let world = World::new();
    let r = joined_room(&world, "r", 1).await;
    let since = world.sync(None).await.position;
    let mut hidden = step(&r);
    for (n, place) in [Place::Backfilled, Place::Outlier, Place::SoftFailed, Place::Rejected]
        .into_iter()
        .enumerate()
    {
        hidden.events.push(new_event(&message(&r, OWN, 100 + n), place));
    }
    assert_eq!(world.commit(hidden).await, since, "no position is used");
    assert!(world.sync(Some(since)).await.is_empty());
}

#[actix::test]
async fn a_room_joined_since_is_shown_whole() {
    let world = World::new();
    joined_room(&world, "old", 1).await;
    let since = world.sync(None).await.position;
    let r = room("new");
    // A join through another server: the state is outside of the timeline.
    let outside = [state(&r, "m.room.create", "x"), state(&r, "m.room.topic", "t")];
    let join = member(&r, OWN, "join");
    let mut joins = live(&r, &[&join]);
    joins.events.splice(0..0, outside.iter().map(|pdu| new_event(pdu, Place::Outlier)));
    joins.state_changes.extend(changes(&[&outside[0], &outside[1]]));
    let followed_by = vec![id(&join)];
    joins.backward_extremities =
        Some(vec![BackwardExtremity { event_id: id(&message(&r, OWN, 0)), followed_by }]);
    world.commit(joins).await;
    let sync = world.sync(Some(since)).await;
    let joined = &sync.joined[0];
    assert_eq!(ids(&joined.timeline), [id(&join)]);
    assert_eq!(joined.state.len(), 2);
    assert!(joined.limited && joined.prev_batch.is_some(), "there is history elsewhere");
    assert!(joined.summary.is_some());
    let after = world.commit(live(&r, &[&message(&r, OWN, 1)])).await;
    let next = world.sync(Some(after - 1)).await;
    assert!(next.joined[0].state.is_empty() && !next.joined[0].limited);
}

#[actix::test]
async fn memberships_move_a_room_between_the_sections() {
    let world = World::new();
    let r = room("r");
    let ann = "@ann:a.org";
    let invited = event(&r, ann, "m.room.member", Some(OWN), json!({"membership":"invite"}), &[]);
    let stripped = serde_json::value::to_raw_value(&json!({"type": "x"})).unwrap();
    let invite = || {
        let data = InviteData {
            event: Arc::clone(&invited),
            stripped_state: vec![stripped.clone()],
            via: vec![],
            notify: None,
        };
        let membership = OwnMembership { invite: Some(data), ..own(&invited) };
        CommitRoom { memberships: [(user(OWN), membership)].into(), ..step(&r) }
    };
    let refused = || {
        let leave = OwnMembership {
            membership: MembershipState::Leave,
            event_id: None,
            invite: None,
            forgotten: false,
        };
        CommitRoom { memberships: [(user(OWN), leave)].into(), ..step(&r) }
    };
    let kick = event(&r, ann, "m.room.member", Some(OWN), json!({"membership":"leave"}), &[]);
    let ban = event(&r, ann, "m.room.member", Some(OWN), json!({"membership":"ban"}), &[]);
    let join = member(&r, OWN, "join");
    let mut since = 0;
    for (what, commit, sections) in [
        ("invite", invite(), (0, 1, 0)),
        ("refused", refused(), (0, 0, 1)),
        ("invited again", invite(), (0, 1, 0)),
        ("join", live(&r, &[&join]), (1, 0, 0)),
        ("message", live(&r, &[&message(&r, ann, 1)]), (1, 0, 0)),
        ("kick", live(&r, &[&kick]), (0, 0, 1)),
        ("after the kick", live(&r, &[&message(&r, ann, 2)]), (0, 0, 0)),
        ("ban", live(&r, &[&ban]), (0, 0, 1)),
    ] {
        let position = world.commit(commit).await;
        let sync = world.sync(Some(since)).await;
        let found = (sync.joined.len(), sync.invited.len(), sync.left.len());
        assert_eq!(found, sections, "{what}");
        if let [invited] = &sync.invited[..] {
            assert_eq!(invited.stripped_state.len(), 1, "{what}");
        }
        if what == "kick" {
            assert_eq!(ids(&sync.left[0].timeline), [id(&kick)]);
        }
        since = position;
    }
    let initial = world.sync(None).await;
    assert!(initial.joined.is_empty() && initial.invited.is_empty() && initial.left.is_empty());
    let ask = ReadSync { include_leave: true, ..read_sync(None) };
    assert_eq!(world.ask(ask).await.unwrap().left.len(), 1);
    // All of it at once: joined and left between two syncs.
    let whole = world.sync(Some(0)).await;
    assert_eq!((whole.joined.len(), whole.invited.len(), whole.left.len()), (0, 0, 1));
}

#[actix::test]
async fn a_left_room_shows_nothing_from_after_the_leave() {
    let world = World::new();
    let r = joined_room(&world, "r", 1).await;
    let since = world.sync(None).await.position;
    let leave = member(&r, OWN, "leave");
    world.commit(live(&r, &[&leave])).await;
    let later = [&message(&r, "@ann:a.org", 7), &state(&r, "m.room.name", "later")];
    world.commit(live(&r, &later)).await;
    for ask in [read_sync(Some(since)), ReadSync { include_leave: true, ..read_sync(None) }] {
        let sync = world.ask(ask).await.unwrap();
        let left = &sync.left[0];
        assert_eq!(ids(&left.timeline).last(), Some(&id(&leave)));
        for pdu in later {
            assert!(
                !ids(&left.timeline).contains(&id(pdu)) && !ids(&left.state).contains(&id(pdu))
            );
        }
    }
}

#[actix::test]
async fn lazy_loading_shows_who_spoke_and_ourselves() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    let users: Vec<_> = (0..20).map(|n| format!("@u{n:02}:a.org")).collect();
    let members: Vec<_> = users.iter().map(|user| member(&r, user, "join")).collect();
    world.commit(live(&r, &members.iter().collect::<Vec<_>>())).await;
    let since = world.sync(None).await.position;
    let members_of = |sync: &SyncRows| -> Vec<OwnedEventId> {
        let of_room = &sync.joined[0].state;
        let is_member = |event: &&StoredEvent| event.json.contains("m.room.member");
        of_room.iter().filter(is_member).map(|event| event.event_id.clone()).collect()
    };
    let lazy = |since| ReadSync { lazy_load_members: true, timeline_limit: 2, ..read_sync(since) };

    for user in [3, 7] {
        world.commit(live(&r, &[&message(&r, &users[user], 1)])).await;
    }
    let initial = world.ask(lazy(None)).await.unwrap();
    let expected = vec![id(&member(&r, OWN, "join")), id(&members[3]), id(&members[7])];
    assert_eq!(members_of(&initial), expected);
    assert_eq!(initial.joined[0].state.len(), 5, "create and name are there too");
    let next = world.ask(lazy(Some(since))).await.unwrap();
    assert_eq!(members_of(&next), expected[1..]);
    assert!(next.joined[0].summary.is_none());

    // Who left in a gap is shown, and a filter hides what it names.
    let gone = member(&r, &users[9], "leave");
    world.commit(live(&r, &[&gone])).await;
    for n in 10..14 {
        world.commit(live(&r, &[&message(&r, OWN, n)])).await;
    }
    let gap = world.ask(lazy(Some(since))).await.unwrap();
    assert!(gap.joined[0].limited && members_of(&gap).contains(&id(&gone)));
    assert_eq!(gap.joined[0].summary.as_ref().unwrap().joined, 20);
    let mut filtered = lazy(Some(since));
    filtered.state_filter.not_types = vec!["m.room.mem*".to_owned()];
    assert_eq!(members_of(&world.ask(filtered).await.unwrap()), [] as [OwnedEventId; 0]);
}

#[actix::test]
async fn filters_apply_before_the_limit() {
    let world = World::new();
    let r = joined_room(&world, "r", 3).await;
    let other = joined_room(&world, "other", 1).await;
    for n in 0..30 {
        let noise = event(&r, OWN, "x.noise", None, json!({ "n": n }), &[]);
        world.commit(live(&r, &[&noise])).await;
    }
    let mut ask = ReadSync { timeline_limit: 3, ..read_sync(None) };
    ask.timeline_filter.types = Some(vec!["m.room.mess*".to_owned()]);
    ask.state_filter.types = Some(vec!["m.room.name".to_owned()]);
    ask.rooms = Some(vec![r.clone()]);
    let sync = world.ask(ask).await.unwrap();
    assert_eq!(ids(&sync.joined[0].timeline), message_ids(&r, 0..3));
    assert_eq!(ids(&sync.joined[0].state), [id(&state(&r, "m.room.name", "n"))]);
    assert_eq!(sync.joined.len(), 1);
    let ask = ReadSync { not_rooms: vec![r.clone()], ..read_sync(None) };
    assert_eq!(world.ask(ask).await.unwrap().joined[0].room_id, other);
    // News that no filter lets through are no news.
    let since = world.sync(None).await.position;
    world.commit(live(&r, &[&event(&r, OWN, "x.noise", None, json!({}), &[])])).await;
    let mut ask = read_sync(Some(since));
    ask.timeline_filter.not_types = vec!["x.*".to_owned()];
    let sync = world.ask(ask).await.unwrap();
    assert!(sync.is_empty());
    assert_eq!(sync.position, since + 1);
}

#[actix::test]
async fn full_state_shows_all_rooms_with_their_state() {
    let world = World::new();
    joined_room(&world, "a", 1).await;
    joined_room(&world, "b", 1).await;
    let since = world.sync(None).await.position;
    let ask = ReadSync { full_state: true, ..read_sync(Some(since)) };
    let sync = world.ask(ask).await.unwrap();
    assert_eq!(sync.joined.len(), 2);
    for joined in &sync.joined {
        assert!(joined.timeline.is_empty() && !joined.limited);
        assert_eq!(joined.state.len(), 3);
    }
}

#[actix::test]
async fn summaries_name_others_where_the_room_has_no_name() {
    let world = World::new();
    let r = room("r");
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    let heroes = async |world: &World, since| {
        let summary = world.sync(since).await.joined.remove(0).summary.unwrap();
        let heroes: Vec<String> = summary.heroes.iter().map(ToString::to_string).collect();
        (heroes.join(" "), summary.joined, summary.invited)
    };
    let mut since = None;
    for (user, membership, expected) in [
        ("@ann:a.org", "join", ("@ann:a.org", 2, 0)),
        ("@bob:a.org", "invite", ("@ann:a.org @bob:a.org", 2, 1)),
        ("@bob:a.org", "join", ("@ann:a.org @bob:a.org", 3, 0)),
        ("@ann:a.org", "leave", ("@bob:a.org", 2, 0)),
        ("@bob:a.org", "ban", ("@ann:a.org @bob:a.org", 1, 0)),
    ] {
        let position = world.commit(live(&r, &[&member(&r, user, membership)])).await;
        let (names, joined, invited) = heroes(&world, since).await;
        assert_eq!((names.as_str(), joined, invited), expected);
        since = Some(position);
    }
    for kind in ["m.room.name", "m.room.canonical_alias"] {
        let content = json!({ "name": "n", "alias": "#n:example.org" });
        let named = event(&r, OWN, kind, Some(""), content, &[]);
        let unnamed = event(&r, OWN, kind, Some(""), json!({ "name": 7 }), &[]);
        world.commit(live(&r, &[&named])).await;
        assert_eq!(heroes(&world, None).await.0, "");
        world.commit(live(&r, &[&unnamed])).await;
        assert_ne!(heroes(&world, None).await.0, "");
    }
}

#[actix::test]
async fn a_sync_never_runs_ahead_of_the_disk() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    let watch = world.ask(WatchStream).await;
    for n in 0..100 {
        world.store.do_send(live(&r, &[&message(&r, OWN, n)]));
        let sync = world.sync(Some(0)).await;
        assert!(*watch.borrow() >= sync.position);
        assert_eq!(ids(&sync.joined[0].timeline).last(), message_ids(&r, [n]).first());
    }
}

/// After both sides of a cut have set the topic, one of the two events is in the timeline and not in
/// the state: a client must not take it for the topic.
#[actix::test]
async fn a_timeline_never_ends_with_state_that_lost() {
    let world = World::new();
    let r = joined_room(&world, "r", 1).await;
    let (won, lost) = (
        state(&r, "m.room.topic", "won"),
        event(&r, "@ann:a.org", "m.room.topic", Some(""), json!({"topic": "lost"}), &[]),
    );
    world.commit(live(&r, &[&won])).await;
    let since = world.sync(None).await.position;
    let mut beaten = step(&r);
    beaten.events.push(new_event(&lost, Place::Live));
    world.commit(beaten).await;
    for (later, timeline) in [(false, vec![]), (true, message_ids(&r, [9]))] {
        if later {
            world.commit(live(&r, &[&message(&r, OWN, 9)])).await;
        }
        for from in [Some(since), None] {
            let sync = world.ask(ReadSync { timeline_limit: 50, ..read_sync(from) }).await.unwrap();
            let joined = &sync.joined[0];
            assert_eq!(ids(&joined.timeline), timeline, "from {from:?}");
            assert!(joined.limited && ids(&joined.state).contains(&id(&won)), "from {from:?}");
            assert!(!ids(&joined.state).contains(&id(&lost)));
            let back = ReadTimeline {
                room_id: r.clone(),
                from: joined.prev_batch,
                to: None,
                over_gap: false,
                direction: Direction::Backward,
                limit: 1,
            };
            assert_eq!(ids(&world.ask(back).await.unwrap().events), [id(&lost)]);
        }
        // Who asks for the state after the timeline gets both.
        let ask = ReadSync { state_after: true, ..read_sync(Some(since)) };
        let joined = world.ask(ask).await.unwrap().joined.remove(0);
        assert_eq!(ids(&joined.timeline), [vec![id(&lost)], timeline].concat());
        assert!(!joined.limited && joined.state.is_empty(), "the topic did not change");
    }
}

#[actix::test]
async fn the_state_after_a_timeline_has_what_the_timeline_set() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    let since = world.sync(None).await.position;
    let topic = |n: u64| state(&r, "m.room.topic", &n.to_string());
    for n in 0..3 {
        world.commit(live(&r, &[&topic(n)])).await;
    }
    for (from, limit, state) in
        [(Some(since), 10, vec![id(&topic(2))]), (Some(since), 1, vec![id(&topic(2))])]
    {
        let ask = ReadSync { state_after: true, timeline_limit: limit, ..read_sync(from) };
        assert_eq!(ids(&world.ask(ask).await.unwrap().joined[0].state), state);
    }
    let ask = ReadSync { state_after: true, timeline_limit: 50, ..read_sync(None) };
    let whole = world.ask(ask).await.unwrap().joined.remove(0);
    assert_eq!((whole.timeline.len(), whole.state.len()), (6, 4), "all of both");
    assert!(ids(&whole.state).contains(&id(&topic(2))));
}

#[actix::test]
async fn whom_a_room_is_named_after_is_in_its_state() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    let users: Vec<_> = (0..9).map(|n| format!("@u{n}:a.org")).collect();
    let members: Vec<_> = users.iter().map(|user| member(&r, user, "join")).collect();
    world.commit(live(&r, &members.iter().collect::<Vec<_>>())).await;
    for n in 0..3 {
        world.commit(live(&r, &[&message(&r, OWN, n)])).await;
    }
    let lazy = |since| ReadSync { lazy_load_members: true, timeline_limit: 1, ..read_sync(since) };
    let since = world.sync(None).await.position;
    // Named: nobody is needed. Then the name goes, by a new event or by a redaction.
    let unnamed = state(&r, "m.room.name", "");
    world.commit(live(&r, &[&unnamed])).await;
    for ask in [lazy(None), lazy(Some(since)), ReadSync { state_after: true, ..lazy(Some(since)) }]
    {
        let joined = world.ask(ask).await.unwrap().joined.remove(0);
        let summary = joined.summary.unwrap();
        assert_eq!(summary.heroes.len(), 5);
        let shown = ids(&joined.state);
        assert!(members[..5].iter().all(|member| shown.contains(&id(member))), "{shown:?}");
        assert!(!shown.contains(&id(&members[5])), "the others are loaded when they speak");
    }
    world.commit(live(&r, &[&state(&r, "m.room.name", "again")])).await;
    let since = world.sync(None).await.position;
    let redaction = event(&r, OWN, "m.room.redaction", None, json!({"redacts": "$x"}), &[]);
    world.commit(live(&r, &[&redaction])).await;
    assert!(world.sync(Some(since)).await.joined[0].summary.is_some());
}

#[actix::test]
async fn filters_look_at_rooms_and_urls() {
    let world = World::new();
    let r = joined_room(&world, "r", 2).await;
    let image = event(&r, OWN, "m.room.message", None, json!({"url": "mxc://x/y"}), &[]);
    world.commit(live(&r, &[&image])).await;
    let mut ask = read_sync(None);
    ask.timeline_filter.contains_url = Some(true);
    assert_eq!(ids(&world.ask(ask).await.unwrap().joined[0].timeline), [id(&image)]);
    let mut ask = read_sync(None);
    ask.timeline_filter.contains_url = Some(false);
    assert!(!ids(&world.ask(ask).await.unwrap().joined[0].timeline).contains(&id(&image)));
    let mut ask = ReadSync { timeline_limit: 1, ..read_sync(None) };
    ask.timeline_filter.not_rooms = vec![r.clone()];
    ask.state_filter.rooms = Some(vec![room("other")]);
    let joined = world.ask(ask).await.unwrap().joined.remove(0);
    assert!(joined.timeline.is_empty() && joined.state.is_empty());
}

#[actix::test]
async fn receipts_only_go_forward() {
    let world = World::new();
    let r = joined_room(&world, "r", 0).await;
    let said: Vec<_> = (0..3).map(|n| message(&r, OWN, n)).collect();
    for pdu in &said {
        world.commit(live(&r, &[pdu])).await;
    }
    let old = message(&r, OWN, 100);
    world.commit(CommitRoom { events: vec![new_event(&old, Place::Backfilled)], ..step(&r) }).await;
    let unknown = message(&r, OWN, 200);
    let outlier = message(&r, OWN, 300);
    world
        .commit(CommitRoom { events: vec![new_event(&outlier, Place::Outlier)], ..step(&r) })
        .await;
    let keep = async |at: &Arc<Pdu>, thread: Option<&str>| {
        let receipt = Receipt {
            user_id: user("@ann:a.org"),
            receipt_type: "m.read".to_owned(),
            event_id: id(at),
            thread_id: thread.map(ToOwned::to_owned),
            ts: 1,
        };
        world.ask(KeepReceipt { room_id: r.clone(), receipt }).await.unwrap()
    };
    // One of 0.1.0, of an event that is not here.
    world.write(vec![receipt(&r, "@ann:a.org", "m.read", &unknown)]).await;
    for (at, place) in [
        (&unknown, ReceiptPlace::Unknown),
        (&outlier, ReceiptPlace::Unknown),
        (&said[1], ReceiptPlace::Ahead),
        (&said[1], ReceiptPlace::Behind),
        (&said[0], ReceiptPlace::Behind),
        (&old, ReceiptPlace::Behind),
        (&said[2], ReceiptPlace::Ahead),
        (&said[1], ReceiptPlace::Behind),
    ] {
        let before = world.sync(None).await.position;
        assert_eq!(keep(at, None).await, place);
        let told = !world.sync(Some(before)).await.joined.is_empty();
        assert_eq!(told, place == ReceiptPlace::Ahead, "what changes nothing is not told");
    }
    assert_eq!(keep(&said[0], Some("main")).await, ReceiptPlace::Ahead, "threads by themselves");
    let receipts = world.sync(None).await.joined.remove(0).receipts;
    let at: Vec<_> = receipts.iter().map(|receipt| receipt.event_id.clone()).collect();
    assert_eq!(at, [id(&said[2]), id(&said[0])]);
}

#[actix::test]
async fn an_annotation_is_found_until_it_is_redacted() {
    let world = World::new();
    let r = joined_room(&world, "r", 1).await;
    let target = id(&message(&r, OWN, 0));
    let content = |key: &str| json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": key}});
    let mine = event(&r, OWN, "m.reaction", None, content("+"), &[]);
    let theirs = event(&r, "@ann:a.org", "m.reaction", None, content("-"), &[]);
    world.commit(live(&r, &[&mine, &theirs])).await;
    let find = async |key: &str| {
        let annotation = Annotation::of("m.reaction", &content(key).to_string()).unwrap();
        world
            .ask(FindAnnotation { room_id: r.clone(), user_id: user(OWN), annotation })
            .await
            .unwrap()
    };
    assert!(find("+").await && !find("-").await && !find("?").await);
    let redaction = event(&r, OWN, "m.room.redaction", None, json!({}), &[]);
    let mut step = live(&r, &[&redaction]);
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let redacted = Arc::new(mine.redacted(&rules).unwrap());
    step.redactions = vec![Redaction::Applies { because: id(&redaction), redacted }];
    world.commit(step).await;
    assert!(!find("+").await);
}
