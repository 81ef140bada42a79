//! What servers lack of each other's rooms.

use super::*;
use crate::{config::limits, proto::heads::Gap};

const OTHER: &str = "@other:example.net";

/// Makes a message that follows others.
fn after(room_id: &OwnedRoomId, body: &str, prev: &[&Arc<Pdu>]) -> Arc<Pdu> {
    says(room_id, OTHER, body, prev)
}

/// Makes a message of somebody that follows others.
fn says(room_id: &OwnedRoomId, sender: &str, body: &str, prev: &[&Arc<Pdu>]) -> Arc<Pdu> {
    let depth = prev.iter().map(|pdu| pdu.depth).max().unwrap_or_default() + 1;
    let json = json!({
        "room_id": room_id, "sender": sender, "type": "m.room.message", "content": {"body": body},
        "origin_server_ts": 1, "depth": depth, "auth_events": [],
        "prev_events": prev.iter().map(|pdu| &pdu.event_id).collect::<Vec<_>>(),
    })
    .to_string();
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&json));
    let event_id = EventId::parse(format!("${hash}")).unwrap();
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    Arc::new(Pdu::from_json(event_id, &json, &rules).unwrap())
}

/// Makes messages, each of which follows the one before.
fn chain(room_id: &OwnedRoomId, length: usize, body: &str) -> Vec<Arc<Pdu>> {
    let mut chain: Vec<Arc<Pdu>> = Vec::new();
    for number in 0..length {
        let prev: Vec<_> = chain.last().into_iter().collect();
        let next = after(room_id, &format!("{body} {number}"), &prev);
        chain.push(next);
    }
    chain
}

async fn keep(world: &World, room_id: &OwnedRoomId, events: &[&Arc<Pdu>]) {
    let mut commit = live(room_id, events);
    let heads = events.last().map(|head| Extremity {
        event_id: id(head),
        depth: head.depth,
        state_group: 1,
    });
    let extremities = heads.into_iter().collect();
    commit.heads = Some(Heads { extremities, current_group: 1, next_group: 2 });
    world.commit(commit).await;
}

fn gap(earliest: &[&Arc<Pdu>], latest: &[&Arc<Pdu>]) -> Gap {
    let ids = |pdus: &[&Arc<Pdu>]| pdus.iter().copied().map(id).collect();
    Gap { earliest_events: ids(earliest), latest_events: ids(latest) }
}

async fn missing(
    world: &World,
    rooms: &[(&OwnedRoomId, Gap)],
) -> Vec<(OwnedRoomId, Vec<MissingEvent>)> {
    let rooms = rooms.iter().map(|(room_id, gap)| ((*room_id).clone(), gap.clone())).collect();
    world.ask(ReadMissing(rooms)).await.unwrap()
}

fn texts(events: &[MissingEvent]) -> Vec<String> {
    let body = |event: &MissingEvent| {
        let event: Value = serde_json::from_str(&event.json).unwrap();
        event["content"]["body"].as_str().unwrap().to_owned()
    };
    events.iter().map(body).collect()
}

#[actix::test]
async fn a_gap_is_read_down_to_what_the_other_has() {
    let world = World::new();
    let r = room("r");
    let said = chain(&r, 40, "said");
    keep(&world, &r, &said.iter().collect::<Vec<_>>()).await;
    let elsewhere = after(&r, "elsewhere", &[&said[20]]);

    let found = world.ask(FindLacking(vec![(r.clone(), vec![id(&said[39])])])).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
    let heads = vec![id(&said[39]), id(&elsewhere)];
    let found = world.ask(FindLacking(vec![(r.clone(), heads)])).await.unwrap();
    let marks: Vec<_> = [39, 38, 37, 35, 31, 23, 7, 0].into_iter().map(|n| &said[n]).collect();
    assert_eq!(found, [(r.clone(), gap(&marks, &[&elsewhere]))]);

    // The other side does not know its own last events to be unknown here.
    let found = missing(&world, &[(&r, gap(&[&elsewhere, &said[20]], &[&said[23]]))]).await;
    assert_eq!(texts(&found[0].1), ["said 21", "said 22", "said 23"]);
    assert_eq!(found[0].1[0].sender, OTHER);
    let nothing = missing(&world, &[(&r, gap(&[], &[&elsewhere]))]).await;
    assert!(nothing[0].1.is_empty());
    assert!(missing(&world, &[(&room("other"), gap(&[], &[&said[1]]))]).await.is_empty());
}

#[actix::test]
async fn nobody_is_given_what_a_room_has_to_look_at_first() {
    let world = World::new();
    let r = room("r");
    let said = chain(&r, 3, "said");
    let bad = after(&r, "bad", &[&said[2]]);
    keep(&world, &r, &said.iter().collect::<Vec<_>>()).await;
    let mut rejected = step(&r);
    rejected.events.push(new_event(&bad, Place::Rejected));
    world.commit(rejected).await;
    let ask = [(&r, gap(&[], &[&bad, &said[2]]))];
    assert_eq!(texts(&missing(&world, &ask).await[0].1), ["said 0", "said 1", "said 2"]);
    for (visibility, open) in [
        (json!("world_readable"), true),
        (json!("joined"), false),
        (json!("shared"), true),
        (json!("invited"), false),
        (json!("anything"), false),
        (json!(null), false),
    ] {
        let content = json!({"history_visibility": visibility});
        let kind = "m.room.history_visibility";
        world.commit(live(&r, &[&event(&r, OWN, kind, Some(""), content, &[])])).await;
        let found = missing(&world, &ask).await;
        assert_eq!(found[0].1.is_empty(), !open, "{visibility}");
    }
}

#[actix::test]
async fn an_answer_is_bounded_by_room_by_number_and_by_length() {
    let world = World::new();
    let rooms: Vec<OwnedRoomId> = (0..13).map(|number| room(&format!("r{number:02}"))).collect();
    let mut ask = Vec::new();
    for room_id in &rooms {
        let said = chain(room_id, limits::MISSING_PAGE + 10, "said");
        keep(&world, room_id, &said.iter().collect::<Vec<_>>()).await;
        ask.push((room_id, gap(&[], &[&said[said.len() - 1]])));
    }
    let found = missing(&world, &ask).await;
    assert_eq!(found.len(), limits::MISSING_EVENTS / limits::MISSING_PAGE);
    for ((room_id, events), expected) in found.iter().zip(&rooms) {
        assert_eq!(room_id, expected);
        assert_eq!(events.len(), limits::MISSING_PAGE);
        assert_eq!(texts(events)[0], "said 10", "the newest of a room, parents first");
    }

    let r = room("large");
    let large = chain(&r, 40, &"x".repeat(60_000));
    keep(&world, &r, &large.iter().collect::<Vec<_>>()).await;
    let found = missing(&world, &[(&r, gap(&[], &[&large[39]])), ask[0].clone()]).await;
    assert_eq!(found.len(), 1, "there is no place for another room");
    let len: usize = found[0].1.iter().map(|event| event.json.len()).sum();
    assert!((limits::MISSING_LEN..limits::MISSING_LEN + 64 * 1024).contains(&len), "{len}");
}

#[actix::test]
async fn of_more_than_a_page_the_first_part_comes_and_then_the_rest() {
    let world = World::new();
    let (r, other) = (room("r"), room("other"));
    let said = chain(&r, 1_500, "said");
    keep(&world, &r, &said.iter().collect::<Vec<_>>()).await;
    let elsewhere = after(&r, "elsewhere", &[&said[20]]);
    let last = &said[1_499];
    let mut have = 20;
    while have < 1_499 {
        let ask = [(&r, gap(&[&elsewhere, &said[have], &said[have - 1]], &[last]))];
        let found = texts(&missing(&world, &ask).await[0].1);
        let most = if 1_499 - have > limits::MISSING_PAGE { limits::MISSING_EVENTS } else { 100 };
        assert_eq!(found.len(), most.min(1_499 - have));
        assert_eq!(found[0], format!("said {}", have + 1));
        have += found.len();
    }

    // Each room has its share.
    let quiet = chain(&other, 5, "quiet");
    keep(&world, &other, &quiet.iter().collect::<Vec<_>>()).await;
    let ask = [(&r, gap(&[&said[20]], &[last])), (&other, gap(&[&quiet[1]], &[&quiet[4]]))];
    let found = missing(&world, &ask).await;
    assert_eq!((found[0].1.len(), found[1].1.len()), (limits::MISSING_EVENTS / 2, 3));

    // What is not whole here either is not given for whole.
    let rest = chain(&r, 300, "rest");
    let mut step = live(&r, &rest.iter().collect::<Vec<_>>());
    let [first, second] = [&rest[0], &rest[1]].map(id);
    let lacks = BackwardExtremity { event_id: first, followed_by: vec![second] };
    step.backward_extremities = Some(vec![lacks]);
    world.commit(step).await;
    let ask = [(&r, gap(&[&rest[0]], &[&rest[299]]))];
    let found = texts(&missing(&world, &ask).await[0].1);
    assert_eq!((found.len(), &*found[99]), (limits::MISSING_PAGE, "rest 299"));
}

/// Ids of what is missing, as many steps as it takes.
async fn named(
    world: &World,
    room_id: &OwnedRoomId,
    gap: Gap,
    most: usize,
) -> (Vec<OwnedEventId>, bool) {
    let mut walk = MissingWalk::Begin { room_id: room_id.clone(), gap, most };
    loop {
        match world.ask(walk).await.unwrap() {
            Ok(found) => return (found.ids, found.more),
            Err(under_way) => walk = under_way,
        }
    }
}

#[actix::test]
async fn what_is_missing_is_named_page_by_page_from_its_begin() {
    let world = World::new();
    let r = room("r");
    let said = chain(&r, 6_000, "said");
    keep(&world, &r, &said.iter().collect::<Vec<_>>()).await;
    // What was said beside it came in later, and so stands behind it here.
    let mut beside: Vec<Arc<Pdu>> = Vec::new();
    for number in 0..3_000 {
        let prev = beside.last().unwrap_or(&said[99]);
        beside.push(after(&r, &format!("beside {number}"), &[prev]));
    }
    keep(&world, &r, &beside.iter().collect::<Vec<_>>()).await;
    let both = after(&r, "both", &[&said[5_999], &beside[2_999]]);
    keep(&world, &r, &[&both]).await;

    // Who was here when the room went apart, and has one side of it.
    for (has, lacks) in [(&said, &beside), (&beside, &said)] {
        let (mut got, mut tail): (Vec<OwnedEventId>, Vec<OwnedEventId>) = (Vec::new(), Vec::new());
        let elsewhere = after(&r, "elsewhere", &[&has[has.len() - 1]]);
        for _ in 0..10 {
            let mut ask = gap(&[&elsewhere, &has[has.len() - 1], &said[0]], &[&both]);
            ask.earliest_events.extend(tail.clone());
            let (ids, more) = named(&world, &r, ask, 1_000).await;
            assert!(ids.len() <= 1_000);
            tail = ids[ids.len().saturating_sub(20)..].to_vec();
            got.extend(ids);
            if !more {
                break;
            }
        }
        let from = if lacks.len() == 6_000 { 100 } else { 0 };
        let mut expected: Vec<OwnedEventId> = lacks[from..].iter().map(id).collect();
        expected.push(id(&both));
        assert_eq!(got, expected, "each once, in its order, and nothing else");
    }

    let nothing = named(&world, &r, gap(&[], &[&both]), 1_000).await;
    assert_eq!(nothing, (Vec::new(), false), "there is no place to go on from");
    let other = named(&world, &room("other"), gap(&[&said[0]], &[&both]), 1_000).await;
    assert!(other.0.is_empty());
    let closed = json!({"history_visibility": "joined"});
    world
        .commit(live(&r, &[&event(&r, OWN, "m.room.history_visibility", Some(""), closed, &[])]))
        .await;
    let ask = gap(&[&said[5_990]], &[&both]);
    assert!(named(&world, &r, ask, 1_000).await.0.is_empty(), "the room has to look at it");
    let read = world.ask(ReadEvents(vec![(r.clone(), vec![id(&both)])])).await.unwrap();
    assert!(read.is_empty());
}

#[actix::test]
async fn events_are_given_by_id_as_many_as_an_answer_takes() {
    let world = World::new();
    let r = room("r");
    let said = chain(&r, limits::MISSING_EVENTS + 10, "said");
    keep(&world, &r, &said.iter().collect::<Vec<_>>()).await;
    let elsewhere = after(&r, "elsewhere", &[&said[20]]);
    let bad = after(&r, "bad", &[&said[20]]);
    let mut rejected = step(&r);
    rejected.events.push(new_event(&bad, Place::Rejected));
    world.commit(rejected).await;
    let ids = |events: &[&Arc<Pdu>]| events.iter().copied().map(id).collect::<Vec<_>>();
    let ask = ids(&[&said[7], &elsewhere, &bad, &said[3]]);
    let read = world.ask(ReadEvents(vec![(r.clone(), ask.clone())])).await.unwrap();
    assert_eq!(texts(&read[0].1), ["said 7", "said 3"], "in the order of the ids");
    let sifted = world.ask(SiftIds(vec![(r.clone(), ask), (room("other"), vec![])])).await.unwrap();
    assert_eq!((sifted.len(), &sifted[0].missing), (1, &ids(&[&elsewhere])));
    let all = said.iter().map(id).collect();
    let read = world.ask(ReadEvents(vec![(r.clone(), all)])).await.unwrap();
    assert_eq!(read[0].1.len(), limits::MISSING_EVENTS);
    let large = chain(&r, 40, &"x".repeat(60_000));
    keep(&world, &r, &large.iter().collect::<Vec<_>>()).await;
    let read =
        world.ask(ReadEvents(vec![(r.clone(), large.iter().map(id).collect())])).await.unwrap();
    let len: usize = read[0].1.iter().map(|event| event.json.len()).sum();
    assert!((limits::MISSING_LEN..limits::MISSING_LEN + 64 * 1024).contains(&len), "{len}");
}

#[actix::test]
async fn what_nobody_else_has_is_what_nobody_followed_and_nobody_is_known_to_have() {
    let world = World::new();
    let room_id = room("a");
    let find = async |since_ts| {
        let server_name = user(OWN).server_name().to_owned();
        let room_ids = vec![room("unknown"), room_id.clone()];
        world.ask(FindUnspread { server_name, since_ts, room_ids }).await.unwrap()
    };
    let first = message(&room_id, OTHER, "first");
    let one = says(&room_id, OWN, "one", &[&first]);
    let two = says(&room_id, OWN, "two", &[&one]);
    keep(&world, &room_id, &[&first]).await;
    assert_eq!(find(0).await, [], "it came from somebody");
    keep(&world, &room_id, &[&one, &two]).await;
    assert_eq!(find(0).await, [(room_id.clone(), vec![id(&one), id(&two)])], "oldest first");
    assert_eq!(find(2).await, [], "what is too old is let be");
    world.write(vec![(Row::Spread(room_id.clone()), Some(json!([id(&one)])))]).await;
    assert_eq!(find(0).await, [(room_id.clone(), vec![id(&two)])]);
    let theirs = after(&room_id, "theirs", &[&two]);
    keep(&world, &room_id, &[&theirs]).await;
    assert_eq!(find(0).await, [], "who follows it has it");

    let long = chain_of(&room_id, OWN, limits::OWED_EVENTS + 5, &theirs);
    keep(&world, &room_id, &long.iter().collect::<Vec<_>>()).await;
    let newest: Vec<_> = long[5..].iter().map(id).collect();
    assert_eq!(find(0).await, [(room_id.clone(), newest)]);
    world.ask(Close).await.unwrap();
}

/// Makes messages of somebody, each of which follows the one before.
fn chain_of(room_id: &OwnedRoomId, sender: &str, length: usize, first: &Arc<Pdu>) -> Vec<Arc<Pdu>> {
    let mut chain: Vec<Arc<Pdu>> = Vec::new();
    for number in 0..length {
        let prev = chain.last().unwrap_or(first);
        let next = says(room_id, sender, &number.to_string(), &[prev]);
        chain.push(next);
    }
    chain
}

#[actix::test]
async fn what_is_missing_in_the_middle_is_found_and_what_is_older_than_we_is_not() {
    let mut world = World::new();
    // In each room history is missing before the first event that came, as for all who join.
    let rooms: Vec<OwnedRoomId> =
        (0..limits::GAPS_LOOK + 3).map(|n| room(&n.to_string())).collect();
    let of = |room_id: &OwnedRoomId| chain(room_id, 9, "said");
    for room_id in &rooms {
        let said = of(room_id);
        let mut step = live(room_id, &said[3..5].iter().collect::<Vec<_>>());
        let older = BackwardExtremity { event_id: id(&said[2]), followed_by: vec![id(&said[3])] };
        step.backward_extremities = Some(vec![older]);
        world.commit(step).await;
    }
    let look = |after| FindGaps { after };
    let first = world.ask(look(None)).await.unwrap();
    assert_eq!((first.rooms, &first.last), (vec![], &Some(rooms[limits::GAPS_LOOK - 1].clone())));
    // One goes on behind a gap.
    let jumped = &rooms[limits::GAPS_LOOK + 1];
    let said = of(jumped);
    let mut step = live(jumped, &[&said[8]]);
    let lacks = |missing: usize, by: usize| BackwardExtremity {
        event_id: id(&said[missing]),
        followed_by: vec![id(&said[by])],
    };
    step.backward_extremities = Some(vec![lacks(2, 3), lacks(7, 8)]);
    world.commit(step).await;
    for _ in 0..2 {
        let found = world.ask(look(first.last.clone())).await.unwrap();
        assert_eq!(found, GapsFound { rooms: vec![jumped.clone()], last: None });
        assert_eq!(world.ask(FindGap(jumped.clone())).await.unwrap(), Some(id(&said[8])));
        world.restart().await;
    }
    // It is filled from its end, then what is older than all of it.
    for (page, left) in [(vec![7, 6], vec![lacks(2, 3), lacks(5, 6)]), (vec![5], vec![lacks(2, 3)])]
    {
        let before = world.ask(FindGap(jumped.clone())).await.unwrap();
        assert_eq!(before, Some(id(&said[page[0] + 1])));
        let mut step = super::step(jumped);
        step.events = page.iter().map(|n| new_event(&said[*n], Place::Backfilled)).collect();
        step.backward_extremities = Some(left);
        world.commit(step).await;
    }
    let mut step = super::step(jumped);
    step.events = vec![new_event(&said[2], Place::Backfilled)];
    step.backward_extremities = Some(vec![lacks(1, 2)]);
    world.commit(step).await;
    assert_eq!(world.ask(FindGap(jumped.clone())).await.unwrap(), None);
    assert_eq!(world.ask(FindGap(room("unknown"))).await.unwrap(), None);
}
