//! Events that relate to others: pages, threads, what is added to an event, unread threads, lists of
//! what notified.

use std::collections::BTreeMap;

use super::*;

const ANN: &str = "@ann:a.org";
const BOB: &str = "@bob:b.org";

fn related(r: &OwnedRoomId, sender: &str, rel: &str, to: &Arc<Pdu>, body: &str) -> Arc<Pdu> {
    let content = json!({
        "body": body, "m.new_content": {"body": body},
        "m.relates_to": {"rel_type": rel, "event_id": to.event_id},
    });
    event(r, sender, "m.room.message", None, content, &[])
}

fn reader() -> Reader {
    Reader { user_id: user(OWN), until: None }
}

async fn bundle(world: &World, r: &OwnedRoomId, of: &Arc<Pdu>) -> Bundle {
    let event_ids = vec![id(of)];
    let ask = ReadBundles { room_id: r.clone(), reader: reader(), event_ids };
    world.ask(ask).await.unwrap().bundles.remove(&of.event_id).unwrap_or_default()
}

fn ask(r: &OwnedRoomId, of: &Arc<Pdu>) -> ReadRelated {
    ReadRelated {
        room_id: r.clone(),
        reader: reader(),
        event_id: id(of),
        rel_type: None,
        event_type: None,
        recurse: false,
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 100,
    }
}

async fn pages(world: &World, ask: impl Fn(Option<Order>) -> ReadRelated) -> Vec<OwnedEventId> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = world.ask(ask(from)).await.unwrap().unwrap();
        found.extend(ids(&page.events));
        from = page.next;
        if from.is_none() {
            return found;
        }
    }
}

fn redaction(target: &Arc<Pdu>, because: &Arc<Pdu>) -> Redaction {
    let mut bare: Value = serde_json::from_str(&target.json).unwrap();
    bare["content"] = json!({});
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    let redacted = Pdu::from_json(id(target), &bare.to_string(), &rules).unwrap();
    Redaction::Applies { because: id(because), redacted: Arc::new(redacted) }
}

async fn redact(world: &World, r: &OwnedRoomId, target: &Arc<Pdu>) {
    let because = message(r, ANN, format!("redacts {}", target.event_id));
    let mut step = live(r, &[&because]);
    step.redactions.push(redaction(target, &because));
    world.commit(step).await;
}

async fn ignore(world: &World, users: &[&str]) {
    let users: BTreeMap<_, _> = users.iter().map(|user| (*user, json!({}))).collect();
    let row = Row::AccountData(user(OWN), "m.ignored_user_list".to_owned());
    world.write(vec![(row, Some(json!({ "ignored_users": users })))]).await;
}

async fn joined(name: &str) -> (World, OwnedRoomId) {
    let (world, r) = (World::new(), room(name));
    world.commit(live(&r, &[&member(&r, OWN, "join")])).await;
    (world, r)
}

#[actix::test]
async fn an_event_shows_the_newest_edit_by_its_sender() {
    let (world, r) = joined("r").await;
    let said = message(&r, ANN, "one");
    let of_other = related(&r, BOB, "m.replace", &said, "not mine");
    let of_neighbour = related(&r, "@eve:a.org", "m.replace", &said, "nor of my server");
    let mut content = json!({"m.relates_to": {"rel_type": "m.replace", "event_id": said.event_id}});
    let without = event(&r, ANN, "m.room.message", None, content.clone(), &[]);
    content["m.new_content"] = json!({});
    let of_type = event(&r, ANN, "m.sticker", None, content.clone(), &[]);
    let of_state = event(&r, ANN, "m.room.message", Some("x"), content, &[]);
    world.commit(live(&r, &[&said, &of_other, &of_neighbour, &without, &of_type])).await;
    world.commit(live(&r, &[&of_state])).await;
    assert!(bundle(&world, &r, &said).await.edit.is_none());
    let (two, three) = (
        related(&r, ANN, "m.replace", &said, "two"),
        related(&r, ANN, "m.replace", &said, "three"),
    );
    // Both were sent in the same millisecond: the greater id counts.
    let (first, newest) = if two.event_id < three.event_id { (two, three) } else { (three, two) };
    world.commit(live(&r, &[&newest, &first])).await;
    let shown = bundle(&world, &r, &said).await.edit.unwrap();
    assert_eq!(shown.event_id, newest.event_id);
    assert!(bundle(&world, &r, &newest).await.is_empty(), "an edit is edited by nobody");
    let sync = world.sync(None).await;
    assert!(sync.joined[0].bundles[&said.event_id].edit.is_some());
    redact(&world, &r, &newest).await;
    let shown = bundle(&world, &r, &said).await.edit.unwrap();
    assert_eq!(shown.event_id, first.event_id, "what was redacted is gone");
    redact(&world, &r, &said).await;
    assert!(bundle(&world, &r, &said).await.edit.is_none(), "nothing shows what was redacted");
}

#[actix::test]
async fn a_thread_is_counted_for_who_reads_it() {
    let (mut world, r) = joined("r").await;
    let root = message(&r, ANN, "root");
    let other = message(&r, OWN, "other");
    let said: Vec<_> = [ANN, BOB, ANN, BOB]
        .iter()
        .enumerate()
        .map(|(n, sender)| related(&r, sender, "m.thread", &root, &n.to_string()))
        .collect();
    let aside = related(&r, BOB, "m.thread", &other, "aside");
    world.commit(live(&r, &[&root, &other])).await;
    world.commit(live(&r, &said.iter().collect::<Vec<_>>())).await;
    world.commit(live(&r, &[&aside])).await;
    world.restart().await;
    let thread = async |world: &World| bundle(world, &r, &root).await.thread.unwrap();
    let shown = thread(&world).await;
    let short = |thread: &Thread| (thread.count, thread.latest.event_id.clone());
    assert_eq!(short(&shown), (4, id(&said[3])));
    assert!(!shown.participated);
    assert!(bundle(&world, &r, &other).await.thread.unwrap().participated, "the reader began it");
    let threads = async |world: &World, participated: bool, limit: usize| {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let ask =
                ReadThreads { room_id: r.clone(), reader: reader(), participated, from, limit };
            let page = world.ask(ask).await.unwrap();
            assert!(page.events.iter().all(|event| page.bundles.contains_key(&event.event_id)));
            found.extend(ids(&page.events));
            from = page.next;
            if from.is_none() {
                return found;
            }
        }
    };
    for limit in [1, 2, 10] {
        assert_eq!(threads(&world, false, limit).await, [id(&other), id(&root)]);
        assert_eq!(threads(&world, true, limit).await, [id(&other)]);
    }
    // What is said last comes first; an edit of it is shown with it.
    let edit = related(&r, BOB, "m.replace", &said[3], "better");
    let last = related(&r, OWN, "m.thread", &root, "last");
    world.commit(live(&r, &[&edit])).await;
    assert_eq!(thread(&world).await.latest_edit.unwrap().event_id, edit.event_id);
    world.commit(live(&r, &[&last])).await;
    assert_eq!(threads(&world, true, 1).await, [id(&root), id(&other)]);
    redact(&world, &r, &last).await;
    redact(&world, &r, &said[1]).await;
    assert_eq!(short(&thread(&world).await), (3, id(&said[3])));
    assert_eq!(threads(&world, true, 1).await, [id(&other)]);
    ignore(&world, &[BOB]).await;
    assert_eq!(short(&thread(&world).await), (2, id(&said[2])));
    assert!(bundle(&world, &r, &other).await.is_empty());
    for said in [&said[0], &said[2], &said[3]] {
        redact(&world, &r, said).await;
    }
    assert!(bundle(&world, &r, &root).await.thread.is_none());
}

#[actix::test]
async fn relations_are_paged_filtered_and_followed() {
    let (world, r) = joined("r").await;
    let root = message(&r, ANN, "root");
    world.commit(live(&r, &[&root])).await;
    let mut all = Vec::new();
    for n in 0..9 {
        let rel = ["m.thread", "m.reference", "m.x"][n % 3];
        let pdu = related(&r, [ANN, BOB][n % 2], rel, &root, &n.to_string());
        world.commit(live(&r, &[&pdu, &message(&r, ANN, format!("between {n}"))])).await;
        all.push(pdu);
    }
    let deep = related(&r, ANN, "m.annotation", &all[8], "deep");
    let deeper = related(&r, ANN, "m.annotation", &deep, "deeper");
    let deepest = related(&r, ANN, "m.annotation", &deeper, "deepest");
    world.commit(live(&r, &[&deep, &deeper, &deepest])).await;
    let forward: Vec<_> = all.iter().map(id).collect();
    let mut backward = forward.clone();
    backward.reverse();
    for limit in [1, 2, 3, 9, 50] {
        let asked = |direction| {
            let (r, root) = (&r, &root);
            move |from| ReadRelated { from, direction, limit, ..ask(r, root) }
        };
        assert_eq!(pages(&world, asked(Direction::Forward)).await, forward, "{limit}");
        assert_eq!(pages(&world, asked(Direction::Backward)).await, backward, "{limit}");
        let threads = pages(&world, |from| ReadRelated {
            rel_type: Some("m.thread".to_owned()),
            ..asked(Direction::Forward)(from)
        });
        assert_eq!(threads.await, [id(&all[0]), id(&all[3]), id(&all[6])]);
        let none = pages(&world, |from| ReadRelated {
            event_type: Some("m.sticker".to_owned()),
            ..asked(Direction::Forward)(from)
        });
        assert_eq!(none.await, Vec::<OwnedEventId>::new());
        let followed = pages(&world, |from| ReadRelated {
            recurse: true,
            rel_type: Some("m.annotation".to_owned()),
            ..asked(Direction::Forward)(from)
        });
        assert_eq!(followed.await, [id(&deep), id(&deeper)], "three deep");
    }
    // From one place to another, both ways.
    let place = async |pdu: &Arc<Pdu>| world.event(&r, pdu).await.order.unwrap();
    let (from, to) = (place(&all[2]).await, place(&all[5]).await);
    let between = ReadRelated {
        from: Some(from),
        to: Some(to),
        direction: Direction::Forward,
        ..ask(&r, &root)
    };
    let page = world.ask(between).await.unwrap().unwrap();
    assert_eq!(ids(&page.events), &forward[3..=5]);
    let back = ReadRelated { from: Some(to), to: Some(from), ..ask(&r, &root) };
    let page = world.ask(back).await.unwrap().unwrap();
    assert_eq!(ids(&page.events), [id(&all[5]), id(&all[4]), id(&all[3])]);
    // Who left sees what was before.
    let former = Reader { user_id: user(OWN), until: Some(to) };
    let until = ReadRelated { reader: former.clone(), ..ask(&r, &root) };
    assert_eq!(ids(&world.ask(until).await.unwrap().unwrap().events), &backward[3..]);
    let of_former = ReadBundles { room_id: r.clone(), reader: former, event_ids: vec![id(&root)] };
    let seen = world.ask(of_former).await.unwrap().bundles.remove(&root.event_id).unwrap();
    assert_eq!(seen.references, [id(&all[1]), id(&all[4])]);
    let thread = seen.thread.unwrap();
    assert_eq!((thread.count, thread.latest.event_id), (2, id(&all[3])));
    ignore(&world, &[BOB]).await;
    let page = world.ask(ask(&r, &root)).await.unwrap().unwrap();
    assert_eq!(page.events.len(), 5);
    let unknown = message(&r, ANN, "unknown");
    assert!(world.ask(ask(&r, &unknown)).await.unwrap().is_none());
}

/// Whatever comes in whatever order, late, twice or redacted, the index says what the timeline does.
#[actix::test]
async fn the_index_is_what_the_timeline_says() {
    for seed in 0..12_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let (mut world, r) = joined("r").await;
        let roots: Vec<_> = (0..3).map(|n| message(&r, ANN, format!("root {n}"))).collect();
        let mut known: Vec<(Arc<Pdu>, &str, usize)> = Vec::new();
        let mut redacted: Vec<OwnedEventId> = Vec::new();
        for n in 0..40 {
            let target = random(3);
            let rel = ["m.thread", "m.replace", "m.reference"][random(3)];
            let pdu = related(&r, [ANN, BOB, OWN][random(3)], rel, &roots[target], &n.to_string());
            let place = [Place::Live, Place::Live, Place::Backfilled, Place::Outlier][random(4)];
            let mut step = step(&r);
            step.events.push(new_event(&pdu, place));
            if random(3) == 0 {
                step.events.push(new_event(&roots[target], Place::Live));
            }
            if random(4) == 0 && !known.is_empty() {
                // Something comes again, and may come out of the timeline or into it.
                let (again, ..) = &known[random(known.len())];
                let place = [Place::Live, Place::Rejected, Place::SoftFailed][random(3)];
                step.events.push(new_event(again, place));
            }
            world.commit(step).await;
            known.push((pdu, rel, target));
            if random(5) == 0 {
                let (target, ..) = known[random(known.len())].clone();
                redact(&world, &r, &target).await;
                redacted.push(id(&target));
            }
        }
        world.restart().await;
        for (number, root) in roots.iter().enumerate() {
            let Lookup::Found(StoredEvent { order: Some(_), .. }) =
                world.events(&r, &[root]).await.remove(0)
            else {
                continue;
            };
            let mut standing = BTreeMap::new();
            for (pdu, rel, target) in &known {
                let event = world.event(&r, pdu).await;
                if let Some(order) = event.order
                    && *target == number
                    && !redacted.contains(&pdu.event_id)
                {
                    standing.insert(order, (id(pdu), *rel));
                }
            }
            let page = world.ask(ask(&r, root)).await.unwrap().unwrap();
            let mut expected: Vec<_> = standing.values().map(|(id, _)| id.clone()).collect();
            expected.reverse();
            assert_eq!(ids(&page.events), expected, "seed {seed}");
            let of = |rel: &str| {
                let rel = rel.to_owned();
                standing.values().filter(move |(_, of)| *of == rel).map(|(id, _)| id.clone())
            };
            let shown = bundle(&world, &r, root).await;
            let thread = shown.thread.map(|thread| (thread.count, thread.latest.event_id));
            let said = of("m.thread").count() as u64;
            assert_eq!(
                thread,
                of("m.thread").collect::<Vec<_>>().pop().map(|last| (said, last)),
                "seed {seed}"
            );
            assert_eq!(shown.references, of("m.reference").collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

#[actix::test]
async fn history_that_moves_takes_its_relations_along() {
    let (world, r) = joined("r").await;
    let root = message(&r, ANN, "root");
    let late = related(&r, BOB, "m.thread", &root, "late");
    // The newer event was here first, and names the late one as what it follows.
    let newer = {
        let json = related(&r, ANN, "m.thread", &root, "newer").json.clone();
        let mut value: Value = serde_json::from_str(&json).unwrap();
        value["prev_events"] = json!([late.event_id]);
        let rules = rules_of(&RoomVersionId::V11).unwrap();
        let json = value.to_string();
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&json));
        Arc::new(
            Pdu::from_json(EventId::parse(format!("${hash}")).unwrap(), &json, &rules).unwrap(),
        )
    };
    world.commit(live(&r, &[&root])).await;
    let mut step = live(&r, &[&newer]);
    step.backward_extremities =
        Some(vec![BackwardExtremity { event_id: id(&late), followed_by: vec![id(&newer)] }]);
    world.commit(step).await;
    let mut step = self::step(&r);
    step.events.push(new_event(&late, Place::Backfilled));
    step.backward_extremities = Some(Vec::new());
    world.commit(step).await;
    let page = world.ask(ask(&r, &root)).await.unwrap().unwrap();
    assert_eq!(ids(&page.events), [id(&newer), id(&late)]);
    let thread = bundle(&world, &r, &root).await.thread.unwrap();
    assert_eq!((thread.count, thread.latest.event_id), (2, id(&newer)));
}

#[actix::test]
async fn threads_are_unread_apart() {
    let (mut world, r) = joined("r").await;
    let root = message(&r, ANN, "root");
    let said: Vec<_> =
        (0..3).map(|n| related(&r, ANN, "m.thread", &root, &n.to_string())).collect();
    let liked = related(&r, BOB, "m.annotation", &said[0], "liked");
    let aside = message(&r, ANN, "aside");
    for (pdu, highlight) in [
        (&root, false),
        (&said[0], true),
        (&said[1], false),
        (&liked, false),
        (&aside, false),
        (&said[2], false),
    ] {
        world.commit(notifying(&r, pdu, highlight)).await;
    }
    world.restart().await;
    let counts = async |world: &World| {
        let sync = world.sync(None).await;
        let of = |unread: Unread| (unread.notifications, unread.highlights);
        let threads = sync.joined[0].unread_threads.iter();
        let threads: Vec<_> = threads.map(|(root, of)| (root.clone(), of.notifications)).collect();
        (of(sync.joined[0].unread), threads)
    };
    assert_eq!(counts(&world).await, ((6, 1), vec![(id(&root), 4)]));
    let read = |at: &Arc<Pdu>, thread: Option<&str>| {
        let receipt = json!({
            "user_id": OWN, "receipt_type": "m.read", "event_id": at.event_id,
            "thread_id": thread, "ts": 1,
        });
        let thread = thread.map(ToOwned::to_owned);
        vec![(Row::Receipt(r.clone(), user(OWN), "m.read".to_owned(), thread), Some(receipt))]
    };
    world.write(read(&root, Some("main"))).await;
    assert_eq!(counts(&world).await, ((5, 1), vec![(id(&root), 4)]));
    world.write(read(&said[1], Some(root.event_id.as_str()))).await;
    assert_eq!(counts(&world).await, ((3, 0), vec![(id(&root), 2)]), "what comes later stays");
    // What was redacted is nothing to read.
    redact(&world, &r, &liked).await;
    assert_eq!(counts(&world).await, ((2, 0), vec![(id(&root), 1)]));
    // Who writes in a thread has read it, and no other.
    world.commit(live(&r, &[&related(&r, OWN, "m.thread", &root, "mine")])).await;
    assert_eq!(counts(&world).await, ((1, 0), vec![]));
    world.commit(notifying(&r, &related(&r, ANN, "m.thread", &root, "more"), false)).await;
    let last = message(&r, ANN, "last");
    world.commit(notifying(&r, &last, false)).await;
    assert_eq!(counts(&world).await, ((3, 0), vec![(id(&root), 1)]));
    world.write(read(&last, None)).await;
    assert_eq!(counts(&world).await, ((0, 0), vec![]), "one without a thread reads all");
}

#[actix::test]
async fn what_notified_is_listed_whether_it_was_read_or_not() {
    let (mut world, r) = joined("r").await;
    let pdus: Vec<_> = (0..5).map(|n| message(&r, ANN, n)).collect();
    for (n, pdu) in pdus.iter().enumerate() {
        world.commit(notifying(&r, pdu, n % 2 == 1)).await;
    }
    world.write(vec![receipt(&r, OWN, "m.read", &pdus[1])]).await;
    world.restart().await;
    let ask = || ReadNotifications {
        user_id: user(OWN),
        up_to: None,
        after: 0,
        only_highlights: false,
        only_unread: false,
        count: true,
        limit: 2,
    };
    let short = |page: &Notifications| {
        let shown = page.notified.iter().map(|one| (one.event.event_id.clone(), one.is_read));
        shown.collect::<Vec<_>>()
    };
    let page = world.ask(ask()).await.unwrap();
    assert_eq!(short(&page), [(id(&pdus[4]), false), (id(&pdus[3]), false)]);
    assert_eq!((page.newest, page.unread.notifications, page.unread.highlights), (5, 3, 1));
    assert_eq!(page.notified[0].actions, r#"["notify"]"#);
    let next = world.ask(ReadNotifications { up_to: page.next, ..ask() }).await.unwrap();
    assert_eq!(short(&next), [(id(&pdus[2]), false), (id(&pdus[1]), true)]);
    let last = world.ask(ReadNotifications { up_to: next.next, ..ask() }).await.unwrap();
    assert_eq!((short(&last), last.next), (vec![(id(&pdus[0]), true)], None));
    let highlights = ReadNotifications { only_highlights: true, limit: 9, ..ask() };
    let highlights = world.ask(highlights).await.unwrap();
    assert_eq!(short(&highlights), [(id(&pdus[3]), false), (id(&pdus[1]), true)]);
    let unread = ReadNotifications { only_unread: true, after: 3, limit: 9, ..ask() };
    let unread = world.ask(unread).await.unwrap();
    assert_eq!(short(&unread), [(id(&pdus[4]), false), (id(&pdus[3]), false)]);
    // Of a room that was left, nothing is told.
    world.commit(live(&r, &[&member(&r, OWN, "leave")])).await;
    assert!(world.ask(ask()).await.unwrap().notified.is_empty());
}

#[actix::test]
async fn who_is_ignored_says_nothing_to_who_ignores() {
    let (world, r) = joined("r").await;
    ignore(&world, &[BOB]).await;
    let since = world.sync(None).await.position;
    let topic = event(&r, BOB, "m.room.topic", Some(""), json!({"topic": "x"}), &[]);
    world.commit(live(&r, &[&message(&r, BOB, 1), &topic, &message(&r, ANN, 2)])).await;
    let shown = world.sync(Some(since)).await;
    assert_eq!(shown.joined[0].timeline.len(), 2, "state is shown, whoever set it");
    ignore(&world, &[]).await;
    assert_eq!(world.sync(Some(since)).await.joined[0].timeline.len(), 3);
}
