//! The rules of the Outbox: by table, and in any order of what can happen.

use proptest::prelude::*;
use ruma::{owned_event_id, owned_room_id, owned_server_name, owned_user_id};

use super::*;

const NOW: u64 = 1_000_000;
const TS: u64 = 1_790_000_000_000;

fn bob() -> OwnedServerName {
    owned_server_name!("bob.org")
}

fn to_device(id: usize) -> New {
    let matter = Matter::ToDevice { message_id: id.to_string() };
    New { matter, shape: Shape::Edu, len: 100, made_ts: TS, once: None }
}

fn membership(user: &str) -> New {
    let matter = Matter::Membership {
        room_id: owned_room_id!("!r:x"),
        user_id: user.try_into().unwrap(),
        event_id: owned_event_id!("$m"),
    };
    New { matter, shape: Shape::Pdu, len: 100, made_ts: TS, once: None }
}

fn invite(id: usize) -> New {
    let matter = Matter::Invite {
        room_id: owned_room_id!("!r:x"),
        user_id: owned_user_id!("@bob:bob.org"),
        event_id: format!("$i{id}").try_into().unwrap(),
    };
    New { matter, shape: Shape::Put, len: 100, made_ts: TS, once: None }
}

fn owe(machine: &mut Machine, new: New) -> Option<u64> {
    let number = machine.owe(&bob(), new, NOW).unwrap().number;
    if let Some(number) = number {
        machine.stored(&bob(), number);
    }
    number
}

fn sent(machine: &mut Machine, now: u64) -> Option<Vec<u64>> {
    machine.next(now).map(|send| send.numbers)
}

fn answer(machine: &mut Machine, outcome: Outcome, now: u64) -> Vec<Change> {
    machine.answered(&bob(), outcome, now, TS, 0.0)
}

fn refused() -> Outcome {
    Outcome::Refused { status: 403, errcode: "M_FORBIDDEN".to_owned() }
}

/// Checks what the machine says of itself against its parts.
fn check(machine: &Machine) {
    let items: usize = machine.queues.values().map(|queue| queue.items.len()).sum();
    let len: usize =
        machine.queues.values().flat_map(|queue| &queue.items).map(|item| item.len).sum();
    assert_eq!((machine.items, machine.len), (items, len));
    assert!(items <= limits::OWED_ALL && len <= limits::OWED_ALL_LEN);
    assert!(machine.ended.len() <= limits::OWED_ENDED);
    let flying = machine.queues.values().filter(|queue| !queue.flight.is_empty()).count();
    assert_eq!(machine.in_flight, flying);
    assert!(flying <= limits::OWED_AT_ONCE);
    for (server, queue) in &machine.queues {
        assert!(queue.items.len() <= limits::OWED_SERVER);
        assert!(queue.len <= limits::OWED_SERVER_LEN);
        let is_here = |number: &u64| queue.items.iter().any(|item| item.number == *number);
        assert!(queue.flight.iter().all(is_here) && queue.singly.iter().all(is_here));
        let lanes: BTreeSet<&Lane> = queue.items.iter().map(|item| &item.lane).collect();
        assert!(queue.held.keys().all(|lane| lanes.contains(lane)));
        assert!(queue.items.iter().is_sorted_by_key(|item| item.number));
        let planned = queue.planned.map(|due| (due, server.clone()));
        assert!(planned.is_none_or(|planned| machine.agenda.contains(&planned)));
    }
    assert_eq!(
        machine.agenda.len(),
        machine.queues.values().filter(|q| q.planned.is_some()).count()
    );
}

#[test]
fn one_request_at_a_time_in_the_order_in_which_they_were_owed() {
    let mut machine = Machine::default();
    for new in [to_device(1), to_device(2), invite(1), membership("@a:bob.org"), to_device(3)] {
        owe(&mut machine, new);
    }
    for expected in [vec![1, 2], vec![3], vec![4], vec![5]] {
        assert_eq!(sent(&mut machine, NOW), Some(expected.clone()));
        assert_eq!(sent(&mut machine, NOW), None, "one at a time");
        let changes = answer(&mut machine, Outcome::Delivered, NOW);
        let ended: Vec<u64> = changes.iter().map(|change| change.number).collect();
        assert_eq!(ended, expected);
        check(&machine);
    }
    assert_eq!(sent(&mut machine, u64::MAX), None);
    assert!(machine.queues.is_empty(), "nothing is remembered of who is owed nothing");
}

#[test]
fn what_is_not_on_disk_or_not_decided_is_not_sent_and_nothing_overtakes_it() {
    let mut machine = Machine::default();
    let first = machine.owe(&bob(), to_device(1), NOW).unwrap().number.unwrap();
    owe(&mut machine, to_device(2));
    assert_eq!(sent(&mut machine, NOW), None);
    machine.stored(&bob(), first);
    assert_eq!(sent(&mut machine, NOW), Some(vec![1, 2]));
    answer(&mut machine, Outcome::Delivered, NOW);

    let event = owned_event_id!("$e");
    let once = Some((owned_room_id!("!r:x"), event.clone()));
    for stands in [true, false] {
        let number = owe(&mut machine, New { once: once.clone(), ..invite(1) }).unwrap();
        assert_eq!(sent(&mut machine, NOW), None);
        assert_eq!(machine.undecided(NOW + 1), [], "it is given time");
        assert_eq!(machine.undecided(NOW + DECIDE_MS).len(), 1);
        assert_eq!(machine.undecided(NOW + DECIDE_MS + 1), [], "and not looked for at once again");
        assert_eq!(machine.waiting_for(&bob(), &event), [number]);
        let change = machine.decide(&bob(), number, stands);
        assert_eq!(change.is_some(), !stands);
        assert_eq!(sent(&mut machine, NOW), stands.then(|| vec![number]));
        answer(&mut machine, Outcome::Delivered, NOW);
        check(&machine);
    }
}

#[test]
fn who_is_off_is_tried_less_and_less_and_at_once_when_met() {
    let mut machine = Machine::default();
    owe(&mut machine, to_device(1));
    let mut now = NOW;
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(sent(&mut machine, now), Some(vec![1]));
        assert_eq!(answer(&mut machine, Outcome::Unreached, now), []);
        assert_eq!(sent(&mut machine, now + minutes * 60_000 - 1), None);
        now += minutes * 60_000;
    }
    machine.met(&bob(), NOW);
    assert_eq!(sent(&mut machine, NOW), Some(vec![1]), "met");
    // Met while a search goes on that ends with nothing.
    machine.met(&bob(), NOW);
    answer(&mut machine, Outcome::Unreached, NOW);
    assert_eq!(sent(&mut machine, NOW + MET_MS), Some(vec![1]));
    answer(&mut machine, Outcome::Unreached, NOW);
    assert_eq!(sent(&mut machine, NOW + AGAIN_MS - 1), None, "and only once");
    // Chance makes it earlier, never later.
    sent(&mut machine, NOW + AGAIN_MS);
    machine.answered(&bob(), Outcome::Unreached, NOW, TS, 1.0);
    assert_eq!(sent(&mut machine, NOW + AGAIN_MS * 2 * 3 / 4), Some(vec![1]));
}

#[test]
fn of_several_parts_only_the_one_that_is_refused_comes_to_nothing() {
    let mut machine = Machine::default();
    for id in 1..=3 {
        owe(&mut machine, to_device(id));
    }
    assert_eq!(sent(&mut machine, NOW), Some(vec![1, 2, 3]));
    assert_eq!(answer(&mut machine, refused(), NOW), []);
    for (number, outcome) in [(1, Outcome::Delivered), (2, refused()), (3, Outcome::Delivered)] {
        owe(&mut machine, to_device(10 + number as usize));
        assert_eq!(sent(&mut machine, NOW), Some(vec![number]));
        let changes = answer(&mut machine, outcome.clone(), NOW);
        let end = &changes[0].ended.as_ref().unwrap().end;
        assert_eq!(*end == End::Delivered, outcome == Outcome::Delivered);
        check(&machine);
    }
    assert_eq!(sent(&mut machine, NOW), Some(vec![4, 5, 6]), "together again");
}

#[test]
fn what_is_owed_already_is_not_owed_twice_and_what_is_newer_replaces() {
    let mut machine = Machine::default();
    assert_eq!(owe(&mut machine, to_device(1)), Some(1));
    assert_eq!(owe(&mut machine, to_device(1)), None);
    assert_eq!(owe(&mut machine, invite(1)), Some(2));
    assert_eq!(owe(&mut machine, invite(1)), None);
    assert_eq!(owe(&mut machine, membership("@a:bob.org")), Some(3));
    assert_eq!(owe(&mut machine, membership("@b:bob.org")), Some(4));
    let taken = machine.owe(&bob(), membership("@a:bob.org"), NOW).unwrap();
    let gone = Change { server: bob(), number: 3, ended: None };
    assert_eq!(taken, Taken { number: Some(5), changes: vec![gone] });
    machine.stored(&bob(), 5);
    check(&machine);
    // What is under way is left alone: it may have arrived.
    sent(&mut machine, NOW);
    answer(&mut machine, Outcome::Delivered, NOW);
    sent(&mut machine, NOW);
    answer(&mut machine, Outcome::Delivered, NOW);
    assert_eq!(sent(&mut machine, NOW), Some(vec![4, 5]));
    let taken = machine.owe(&bob(), membership("@a:bob.org"), NOW).unwrap();
    assert_eq!(taken, Taken { number: Some(6), changes: Vec::new() });
}

#[test]
fn a_full_server_takes_new_messages_to_devices_for_old_ones_and_nothing_else() {
    let mut machine = Machine::default();
    owe(&mut machine, invite(0));
    for id in 1..limits::OWED_SERVER {
        owe(&mut machine, to_device(id));
    }
    assert_eq!(machine.owe(&bob(), invite(1), NOW), Err(Full::Server));
    let taken = machine.owe(&bob(), to_device(9999), NOW).unwrap();
    assert_eq!(taken.changes[0].number, 2, "the oldest");
    assert_eq!(taken.changes[0].ended.as_ref().unwrap().end, End::GaveWay);
    check(&machine);
    // By bytes as well, and never more than it takes.
    let large = New { len: limits::OWED_LEN, ..to_device(10_000) };
    let mut ended = 0;
    for id in 0..12 {
        let matter = Matter::ToDevice { message_id: format!("large {id}") };
        let taken = machine.owe(&bob(), New { matter, ..large.clone() }, NOW).unwrap();
        machine.stored(&bob(), taken.number.unwrap());
        ended += taken.changes.iter().filter(|change| change.ended.is_some()).count();
        check(&machine);
    }
    assert!(ended >= 12, "{ended}");
    assert_eq!(machine.matter(&bob(), 1), Some(&invite(0).matter), "an invite stays");
}

#[test]
fn all_servers_together_have_a_bound() {
    let mut machine = Machine::default();
    let server = |n: usize| OwnedServerName::try_from(format!("s{n}.org")).unwrap();
    let mut taken = 0;
    for n in 0..200 {
        for id in 0..10 {
            let new = New { len: limits::OWED_LEN, ..invite(id) };
            taken += usize::from(machine.owe(&server(n), new, NOW).is_ok());
        }
    }
    assert_eq!(taken, limits::OWED_ALL_LEN / limits::OWED_LEN);
    assert_eq!(
        machine.owe(&bob(), New { len: limits::OWED_LEN, ..invite(1) }, NOW),
        Err(Full::All)
    );
    check(&machine);
}

#[test]
fn a_month_later_nothing_is_owed_any_more() {
    let mut machine = Machine::default();
    for id in 0..300 {
        owe(&mut machine, to_device(id));
    }
    assert_eq!(machine.expire(TS + limits::OWED_MS - 1), []);
    sent(&mut machine, NOW);
    assert_eq!(machine.expire(TS + limits::OWED_MS).len(), 200 + (200 - limits::OWED_ENDED));
    answer(&mut machine, Outcome::Unreached, NOW);
    machine.expire(TS + limits::OWED_MS);
    check(&machine);
    assert!(machine.queues.is_empty() && machine.agenda.is_empty());
    assert_eq!(machine.status(NOW).ended.len(), limits::OWED_ENDED);
}

#[test]
fn what_there_is_no_place_for_holds_back_its_lane_and_nothing_else() {
    let mut machine = Machine::default();
    let room = |room: &str, id: usize| {
        let Matter::Invite { user_id, event_id, .. } = invite(id).matter else { unreachable!() };
        let matter = Matter::Invite { room_id: room.try_into().unwrap(), user_id, event_id };
        New { matter, ..invite(id) }
    };
    for new in [room("!a:x", 1), room("!a:x", 2), to_device(3), room("!b:x", 4), to_device(5)] {
        owe(&mut machine, new);
    }
    assert_eq!(sent(&mut machine, NOW), Some(vec![1]));
    answer(&mut machine, Outcome::Busy, NOW);
    check(&machine);
    assert_eq!(sent(&mut machine, NOW + STEP_MS - 1), None, "the server has a moment");
    assert_eq!(sent(&mut machine, NOW + STEP_MS), Some(vec![3]), "the others go on");
    answer(&mut machine, Outcome::Delivered, NOW + STEP_MS);
    assert_eq!(sent(&mut machine, NOW + STEP_MS), Some(vec![4]));
    answer(&mut machine, Outcome::Delivered, NOW + STEP_MS);
    assert_eq!(sent(&mut machine, NOW + STEP_MS), Some(vec![5]));
    answer(&mut machine, Outcome::Delivered, NOW + STEP_MS);
    assert_eq!(sent(&mut machine, NOW + BUSY_MS - 1), None, "the second waits behind the first");
    // What was not tried yet goes before what there was no place for.
    owe(&mut machine, to_device(6));
    assert_eq!(sent(&mut machine, NOW + BUSY_MS), Some(vec![6]));
    answer(&mut machine, Outcome::Delivered, NOW + BUSY_MS);
    assert_eq!(sent(&mut machine, NOW + BUSY_MS), Some(vec![1]));
    answer(&mut machine, Outcome::Busy, NOW);
    machine.met(&bob(), NOW);
    for number in [1, 2] {
        assert_eq!(sent(&mut machine, NOW), Some(vec![number]), "at once when met");
        answer(&mut machine, Outcome::Delivered, NOW);
    }
    check(&machine);
    assert!(machine.queues.is_empty());
}

fn events(room: usize, last: usize) -> New {
    let room_id = format!("!{room}:x").try_into().unwrap();
    let event_id = format!("$l{last}").try_into().unwrap();
    let matter = Matter::Events { room_id, event_id, count: last };
    New { matter, shape: Shape::Events, len: 100, made_ts: TS, once: None }
}

#[test]
fn what_nobody_else_has_is_owed_by_its_last_event_until_somebody_has_it() {
    let mut machine = Machine::default();
    let ann = owned_server_name!("ann.org");
    assert_eq!(owe(&mut machine, events(1, 1)), Some(1));
    assert_eq!(owe(&mut machine, events(1, 1)), None, "it is owed");
    assert_eq!(owe(&mut machine, events(1, 2)), Some(2));
    assert_eq!(owe(&mut machine, events(2, 1)), Some(3));
    for new in [events(1, 2), events(2, 1)] {
        let number = machine.owe(&ann, new, NOW).unwrap().number.unwrap();
        machine.stored(&ann, number);
    }
    check(&machine);
    // Whoever is met fetches it first.
    owe(&mut machine, to_device(9));
    machine.met(&bob(), NOW);
    check(&machine);
    let next = machine.next(NOW).unwrap();
    assert_eq!((next.server, next.numbers), (ann.clone(), vec![4]), "she was not met");
    assert_eq!(sent(&mut machine, NOW), Some(vec![6]));
    answer(&mut machine, Outcome::Delivered, NOW);
    assert_eq!(sent(&mut machine, NOW + FETCH_MS - 1), None);
    // She has it, so he is not owed it.
    let changes = machine.answered(&ann, Outcome::Delivered, NOW, TS, 0.0);
    let gone = Change { server: bob(), number: 2, ended: None };
    assert!(changes.contains(&gone) && changes.len() == 2, "{changes:?}");
    check(&machine);
    assert_eq!(sent(&mut machine, NOW + FETCH_MS), Some(vec![5]));
    assert_eq!(sent(&mut machine, NOW + FETCH_MS), Some(vec![3]));
    // What is under way comes to its own end.
    assert_eq!(machine.spread(ruma::room_id!("!2:x")), []);
    answer(&mut machine, Outcome::Unreached, NOW);
    assert_eq!(machine.spread(ruma::room_id!("!2:x")).len(), 1);
    machine.answered(&ann, Outcome::Delivered, NOW, TS, 0.0);
    check(&machine);
    assert!(machine.queues.is_empty() && machine.agenda.is_empty());
}

#[test]
fn who_lacks_more_than_is_sent_has_more_time_to_fetch_it() {
    for (count, wait) in [(limits::OWED_EVENTS - 1, FETCH_MS), (limits::OWED_EVENTS, FETCH_LONG_MS)]
    {
        let mut machine = Machine::default();
        owe(&mut machine, events(1, count));
        machine.met(&bob(), NOW);
        assert_eq!(sent(&mut machine, NOW + wait - 1), None);
        assert_eq!(sent(&mut machine, NOW + wait), Some(vec![1]));
    }
}

#[test]
fn what_the_graph_brings_anyway_gives_way_to_all_else() {
    let mut machine = Machine::default();
    for room in 0..limits::OWED_SERVER {
        owe(&mut machine, events(room, 1));
    }
    assert_eq!(machine.owe(&bob(), events(9_999, 1), NOW), Err(Full::Server));
    for (new, gone) in [(invite(1), 1), (to_device(1), 2), (membership("@a:bob.org"), 3)] {
        let taken = machine.owe(&bob(), new, NOW).unwrap();
        machine.stored(&bob(), taken.number.unwrap());
        assert_eq!(taken.changes[0].number, gone);
        check(&machine);
    }
    // A newer one of its own room has its place.
    assert!(machine.owe(&bob(), events(100, 2), NOW).is_ok());
}

#[test]
fn an_invite_is_turned_down_by_one_server_and_stays_so() {
    let mut machine = Machine::default();
    let ann = owned_server_name!("ann.org");
    let declined = |invite: &str| {
        let matter = Matter::Declined {
            room_id: owned_room_id!("!r:x"),
            user_id: owned_user_id!("@me:me.org"),
            event_id: Some(invite.try_into().unwrap()),
        };
        New { matter, shape: Shape::Leave, len: 100, made_ts: TS, once: None }
    };
    for server in [ann.clone(), bob()] {
        let number = machine.owe(&server, declined("$1"), NOW).unwrap().number.unwrap();
        machine.stored(&server, number);
    }
    assert_eq!(owe(&mut machine, declined("$1")), None, "once");
    assert_eq!(owe(&mut machine, declined("$2")), Some(3), "another invite");
    assert_eq!(machine.next(NOW).unwrap().numbers, [1]);
    let changes = machine.answered(&ann, Outcome::Delivered, NOW, TS, 0.0);
    assert!(changes.contains(&Change { server: bob(), number: 2, ended: None }), "{changes:?}");
    assert_eq!(sent(&mut machine, NOW), Some(vec![3]));
    answer(&mut machine, refused(), NOW);
    check(&machine);
    assert!(machine.queues.is_empty());
}

/// Lets time pass until `end`, in milliseconds since now, with a server that answers so. Returns how often
/// it was asked.
fn days_with(machine: &mut Machine, end: u64, outcome: &Outcome) -> usize {
    let (mut now, mut asked) = (NOW, 0);
    while now < NOW + end {
        while machine.next(now).is_some() {
            asked += 1;
            machine.answered(&bob(), outcome.clone(), now, TS + now - NOW, 0.0);
        }
        machine.expire(TS + now - NOW);
        let due = machine.agenda.first().map_or(u64::MAX, |(due, _)| *due);
        now = due.clamp(now + 1, now + HOUR_MS);
    }
    check(machine);
    asked
}

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

#[test]
fn a_thousand_messages_to_who_is_off_for_29_days_keep_their_order_and_their_bound() {
    let mut machine = Machine::default();
    let mut gone = Vec::new();
    for id in 0..1_000 {
        let taken = machine.owe(&bob(), to_device(id), NOW).unwrap();
        machine.stored(&bob(), taken.number.unwrap());
        gone.extend(taken.changes.into_iter().filter_map(|change| change.ended));
        check(&machine);
    }
    assert_eq!(gone.len(), 1_000 - limits::OWED_SERVER);
    assert!(gone.iter().all(|ended| ended.end == End::GaveWay));
    let asked = days_with(&mut machine, 29 * DAY_MS, &Outcome::Unreached);
    assert!(asked <= 29 * 24 + 7, "one search an hour: {asked}");
    assert_eq!(machine.count().items, limits::OWED_SERVER, "all of it is owed yet");
    let now = NOW + 29 * DAY_MS;
    machine.met(&bob(), now);
    let (mut got, mut requests) = (Vec::new(), 0);
    while let Some(numbers) = sent(&mut machine, now) {
        requests += 1;
        got.extend(numbers);
        answer(&mut machine, Outcome::Delivered, now);
    }
    let expected: Vec<u64> = (1_000 - limits::OWED_SERVER as u64 + 1..=1_000).collect();
    assert_eq!(got, expected, "in order, each once");
    assert_eq!(requests, limits::OWED_SERVER.div_ceil(limits::TRANSACTION_EDUS));
    assert!(machine.queues.is_empty() && machine.agenda.is_empty());
}

#[test]
fn who_never_comes_and_who_never_has_a_place_cost_no_more_than_their_bound() {
    for (outcome, most) in [(Outcome::Unreached, 24), (Outcome::Busy, 60 * 24)] {
        let mut machine = Machine::default();
        for id in 0..limits::OWED_SERVER {
            let new = match id % 2 {
                0 => to_device(id),
                _ => {
                    let mut new = invite(id);
                    if let Matter::Invite { room_id, .. } = &mut new.matter {
                        *room_id = format!("!{}:x", id % 64).try_into().unwrap();
                    }
                    new
                }
            };
            owe(&mut machine, new);
        }
        let asked = days_with(&mut machine, 31 * DAY_MS, &outcome);
        assert!(asked <= 30 * most + 100, "{outcome:?}: {asked}");
        assert!(machine.queues.is_empty() && machine.agenda.is_empty(), "nothing is left of it");
        assert_eq!(machine.count(), OwedCount::default());
        assert_eq!(machine.status(NOW).ended.len(), limits::OWED_ENDED);
    }
}

/// What a peer and the disk do, in any order; a restart at any point.
#[derive(Debug, Clone)]
enum Step {
    Owe(usize, u8),
    Send,
    Answer(u8),
    Met(usize),
    Restart,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_usize, 0..6_u8).prop_map(|(server, what)| Step::Owe(server, what)),
        4 => Just(Step::Send),
        4 => (0..6_u8).prop_map(Step::Answer),
        1 => (0..3_usize).prop_map(Step::Met),
        1 => Just(Step::Restart),
        1 => (0..4_000_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, a server gets what it is owed in its order, and all of it in the end.
    #[test]
    fn order_is_kept_and_nothing_is_lost(steps in steps()) {
        let server = |n: usize| OwnedServerName::try_from(format!("s{n}.org")).unwrap();
        let mut machine = Machine::default();
        // What the disk has, and what each server has got.
        let mut disk: BTreeMap<(OwnedServerName, u64), Kept> = BTreeMap::new();
        let mut got: BTreeMap<OwnedServerName, Vec<u64>> = BTreeMap::new();
        let mut owed: BTreeMap<OwnedServerName, BTreeSet<u64>> = BTreeMap::new();
        let mut flying: Vec<Send> = Vec::new();
        let (mut now, mut count) = (NOW, 0);
        let mut past: BTreeMap<u64, Ended> = BTreeMap::new();
        let mut puts = BTreeSet::new();
        let quiet = std::iter::repeat_n([Step::Send, Step::Answer(0), Step::Wait(0)], 400);
        for step in steps.into_iter().chain(quiet.flatten()) {
            match step {
                Step::Owe(to, what) => {
                    count += 1;
                    let (new, form) = match what {
                        0 => (invite(count), Form::Put { uri: String::new(), content: ruma::CanonicalJsonValue::Null }),
                        _ => (to_device(count), Form::Edu(ruma::CanonicalJsonValue::Null)),
                    };
                    let number = machine.owe(&server(to), new.clone(), now).unwrap().number.unwrap();
                    if new.shape == Shape::Put {
                        puts.insert(number);
                    }
                    let kept = Kept {
                        request_id: String::new(),
                        matter: new.matter,
                        form,
                        made_ts: TS,
                        expires_ts: TS + limits::OWED_MS,
                        once: None,
                    };
                    disk.insert((server(to), number), kept);
                    machine.stored(&server(to), number);
                    owed.entry(server(to)).or_default().insert(number);
                }
                Step::Send => {
                    while let Some(send) = machine.next(now) {
                        prop_assert!(!flying.iter().any(|other| other.server == send.server));
                        for number in &send.numbers {
                            prop_assert!(disk.contains_key(&(send.server.clone(), *number)));
                        }
                        flying.push(send);
                    }
                }
                Step::Answer(how) => {
                    let Some(Send { server, numbers }) = flying.pop() else { continue };
                    let has = got.entry(server.clone()).or_default();
                    // An answer that is lost: the server has it all the same.
                    if matches!(how, 0 | 3) {
                        let new = numbers.iter().filter(|number| !has.contains(number));
                        let new: Vec<u64> = new.copied().collect();
                        has.extend(new);
                    }
                    let outcome = match how {
                        0 => Outcome::Delivered,
                        1 | 3 => Outcome::Unreached,
                        2 => Outcome::Busy,
                        _ => refused(),
                    };
                    if matches!(outcome, Outcome::Refused { .. }) && numbers.len() == 1 {
                        owed.entry(server.clone()).or_default().remove(&numbers[0]);
                    }
                    for change in machine.answered(&server, outcome, now, TS, 0.5) {
                        disk.remove(&(change.server, change.number));
                        past.remove(&change.number);
                        past.extend(change.ended.map(|ended| (change.number, ended)));
                    }
                }
                Step::Met(who) => machine.met(&server(who), now),
                Step::Restart => {
                    flying.clear();
                    machine = Machine::default();
                    for (number, ended) in &past {
                        machine.load_ended(*number, ended.clone());
                    }
                    for ((server, number), kept) in &disk {
                        machine.load(server, *number, kept.clone(), 100);
                    }
                }
                Step::Wait(ms) => {
                    now += ms.max(1000);
                    for who in 0..3 {
                        if ms == 0 {
                            machine.met(&server(who), now);
                        }
                    }
                }
            }
            check(&machine);
        }
        prop_assert!(disk.is_empty(), "all came to an end");
        for (server, numbers) in owed {
            let has = got.remove(&server).unwrap_or_default();
            for lane in [true, false] {
                let of_lane = has.iter().filter(|number| puts.contains(*number) == lane);
                prop_assert!(of_lane.is_sorted(), "in order: {has:?}");
            }
            prop_assert!(numbers.iter().all(|number| has.contains(number)), "{numbers:?} {has:?}");
        }
    }
}
