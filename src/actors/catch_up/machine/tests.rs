//! Catching up with servers that are slow, go away, withhold and lie, in every order.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Chance from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

fn server(number: usize) -> OwnedServerName {
    OwnedServerName::try_from(format!("server{number}")).unwrap()
}

fn room(number: usize) -> OwnedRoomId {
    OwnedRoomId::try_from(format!("!room{number:03}")).unwrap()
}

fn event(room: usize, number: usize) -> OwnedEventId {
    OwnedEventId::try_from(format!("${room:03}_{number:06}")).unwrap()
}

fn gap(room: usize, have: usize, last: usize) -> Gap {
    Gap { earliest_events: vec![event(room, have)], latest_events: vec![event(room, last)] }
}

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaves {
    Honest,
    /// Gives no event of those that it names.
    Withholds,
    /// Gives every other one.
    Halves,
    /// Names what nobody has, without end.
    Invents,
    /// Goes away at its third answer.
    Leaves,
    /// Answers with errors.
    Old,
}

/// Servers with the same rooms, each a chain of events of which the first ones are here.
struct World {
    machine: Machine<OwnedEventId>,
    ways: Vec<Behaves>,
    rooms: Vec<usize>,
    here: BTreeMap<OwnedRoomId, BTreeSet<OwnedEventId>>,
    got: Vec<OwnedEventId>,
    todo: Vec<Effect<OwnedEventId>>,
    answers: BTreeMap<OwnedServerName, usize>,
    done: Vec<(OwnedServerName, Result<(), Failure>)>,
    requests: usize,
}

impl World {
    fn new(ways: &[Behaves], rooms: &[usize]) -> Self {
        let here = (0..rooms.len()).map(|it| (room(it), BTreeSet::from([event(it, 0)]))).collect();
        Self {
            machine: Machine::default(),
            ways: ways.to_vec(),
            rooms: rooms.to_vec(),
            here,
            got: Vec::new(),
            todo: Vec::new(),
            answers: BTreeMap::new(),
            done: Vec::new(),
            requests: 0,
        }
    }

    fn last_here(&self, room_id: &OwnedRoomId) -> usize {
        self.here[room_id].len() - 1
    }

    fn number(room_id: &OwnedRoomId) -> usize {
        room_id.as_str()[5..].parse().unwrap()
    }

    fn meet(&mut self, of: usize) {
        let rooms: Vec<OwnedRoomId> = (0..self.rooms.len()).map(room).collect();
        let effect = Effect::Look(server(of), rooms.into_iter().map(|it| (it, vec![])).collect());
        self.todo.push(effect);
    }

    fn play(&mut self, dice: &mut Dice) {
        for _ in 0..100_000 {
            let most = limits::CATCH_UP_EVENTS + limits::MISSING_EVENTS;
            assert!(self.machine.held() <= most);
            if dice.below(20) == 0 {
                self.check_counts();
            }
            if self.todo.is_empty() {
                return;
            }
            let effect = self.todo.swap_remove(dice.below(self.todo.len()));
            let next = self.carry_out(effect);
            self.todo.extend(next);
        }
        panic!("it never ends");
    }

    /// The counts are what is counted.
    fn check_counts(&self) {
        let mut sum = Load::default();
        for room in self.machine.rooms.values() {
            room.check();
            sum.in_line += room.load().in_line;
            sum.held += room.load().held;
        }
        assert_eq!(self.machine.load, sum);
    }

    fn carry_out(&mut self, effect: Effect<OwnedEventId>) -> Vec<Effect<OwnedEventId>> {
        match effect {
            Effect::Look(server, heads) => {
                let rooms: Vec<OwnedRoomId> = heads.into_iter().map(|(id, _)| id).collect();
                let lacking = rooms.iter().filter_map(|id| {
                    let number = Self::number(id);
                    let (have, last) = (self.last_here(id), self.rooms[number]);
                    (have < last).then(|| (id.clone(), gap(number, have, last)))
                });
                let lacking = lacking.collect();
                self.machine.looked(&server, &rooms, lacking)
            }
            Effect::Take(room_id, _, events) => {
                // Behind a hole an event waits, and is let go of.
                for id in events {
                    let next = event(Self::number(&room_id), self.here[&room_id].len());
                    if id == next {
                        self.got.push(id.clone());
                        self.here.get_mut(&room_id).unwrap().insert(id);
                    }
                }
                self.machine.taken(&room_id)
            }
            Effect::Done(server, done) => {
                self.done.push((server, done));
                Vec::new()
            }
            Effect::AskIds(server, rooms) => {
                self.requests += 1;
                assert!(rooms.len() <= limits::HEADS_ROOMS);
                let answer = self.answer(&server, |world, way| world.ids(way, &rooms));
                self.machine.named(&server, answer)
            }
            Effect::AskEvents(server, rooms) => {
                self.requests += 1;
                assert!(rooms.values().map(Vec::len).sum::<usize>() <= limits::MISSING_EVENTS);
                let answer = self.answer(&server, |_, way| Self::events(way, &rooms));
                self.machine.given(&server, answer)
            }
        }
    }

    fn answer<T>(
        &mut self,
        of: &OwnedServerName,
        answer: impl FnOnce(&Self, Behaves) -> T,
    ) -> Result<T, Failure> {
        let count = self.answers.entry(of.clone()).or_default();
        *count += 1;
        let way = self.ways[of.as_str()[6..].parse::<usize>().unwrap()];
        match way {
            Behaves::Old => Err(Failure::Unrecognized),
            Behaves::Leaves if *count >= 3 => Err(Failure::NoAnswer),
            way => Ok(answer(self, way)),
        }
    }

    fn ids(&self, way: Behaves, rooms: &BTreeMap<OwnedRoomId, Gap>) -> BTreeMap<OwnedRoomId, Page> {
        let mut left = limits::MISSING_IDS;
        let mut pages = BTreeMap::new();
        for (room_id, gap) in rooms {
            let number = Self::number(room_id);
            let most = limits::MISSING_IDS_ROOM.min(left);
            if most == 0 {
                break;
            }
            let numbers = gap.earliest_events.iter().filter_map(|id| id.as_str()[5..].parse().ok());
            let last = self.rooms[number];
            let from = numbers.max().unwrap_or(0) + 1;
            let (ids, more): (Vec<_>, bool) = match way {
                Behaves::Invents => {
                    let made_up =
                        |it| OwnedEventId::try_from(format!("$made_up_{}_{it}", self.requests));
                    ((0..most).map(|it| made_up(it).unwrap()).collect(), true)
                }
                _ => {
                    let ids = (from..=last).take(most).map(|it| event(number, it));
                    (ids.collect(), last + 1 - from > most)
                }
            };
            left -= ids.len();
            let missing = ids.iter().filter(|id| !self.here[room_id].contains(*id)).cloned();
            let (missing, named) = (missing.collect(), ids.len());
            let tail = ids[ids.len().saturating_sub(20)..].to_vec();
            pages.insert(room_id.clone(), Page { missing, named, tail, more });
        }
        pages
    }

    fn events(
        way: Behaves,
        rooms: &BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    ) -> Given<OwnedEventId> {
        let mut rooms: BTreeMap<OwnedRoomId, Vec<_>> = rooms
            .iter()
            .map(|(id, events)| {
                (id.clone(), events.iter().map(|id| (id.clone(), id.clone())).collect())
            })
            .collect();
        let (mut is_full, mut left) = (false, 700);
        for events in rooms.values_mut() {
            events.retain(|(id, _)| !id.as_str().starts_with("$made_up"));
            match way {
                Behaves::Withholds | Behaves::Invents => events.clear(),
                Behaves::Halves => {
                    let mut number = 0;
                    events.retain(|_| {
                        number += 1;
                        number % 2 == 0
                    });
                }
                // An answer has place for so many: what is behind them comes next.
                _ => {
                    is_full |= events.len() > left;
                    events.truncate(left);
                    left -= events.len();
                }
            }
            events.push((event(999, 1), event(999, 1)));
        }
        Given { rooms, is_full }
    }
}

fn check(ways: &[Behaves], rooms: &[usize], seed: u64) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new(ways, rooms);
    for number in 0..ways.len() {
        world.meet(number);
    }
    world.play(&mut dice);
    let context = format!("seed {seed}, {ways:?}, {rooms:?}");
    assert!(world.machine.rooms.is_empty() && world.machine.peers.is_empty(), "{context}");
    let answered: BTreeSet<_> = world.done.iter().map(|(server, _)| server.clone()).collect();
    assert_eq!(answered.len(), ways.len(), "whoever waits is answered: {context}");
    let distinct: BTreeSet<_> = world.got.iter().collect();
    assert_eq!(distinct.len(), world.got.len(), "no event twice: {context}");
    let mut last: BTreeMap<&str, &OwnedEventId> = BTreeMap::new();
    for id in &world.got {
        let before = last.insert(&id.as_str()[..4], id);
        let is_next = before.is_none_or(|before| before < id);
        assert!(is_next, "{id} behind {before:?}: {context}");
    }
    world
}

#[test]
fn what_one_honest_server_has_comes_whatever_the_others_do() {
    let all = [
        Behaves::Honest,
        Behaves::Withholds,
        Behaves::Halves,
        Behaves::Invents,
        Behaves::Leaves,
        Behaves::Old,
    ];
    for seed in 0..60 {
        let mut dice = Dice(seed + 1);
        let mut ways = vec![Behaves::Honest];
        ways.extend((0..dice.below(5)).map(|_| all[dice.below(all.len())]));
        let by = seed as usize % 3 % ways.len();
        ways.rotate_right(by);
        let rooms: Vec<usize> = (0..1 + dice.below(6)).map(|_| dice.below(2000)).collect();
        let mut world = check(&ways, &rooms, seed);
        // What somebody's lies hid comes when the honest one is met again.
        let honest = ways.iter().position(|way| *way == Behaves::Honest).unwrap();
        for _ in 0..ways.len() {
            world.meet(honest);
            world.play(&mut dice);
        }
        for (number, last) in rooms.iter().enumerate() {
            let context = format!("seed {seed}, {ways:?}, {rooms:?}");
            assert_eq!(world.last_here(&room(number)), *last, "{context}");
        }
        let events: usize = rooms.iter().sum();
        let bound = 6 * ways.len() + 3 * (events / 700 + 1) * ways.len() + 8 * rooms.len();
        assert!(
            world.requests <= bound,
            "{} of {bound} requests, seed {seed} {ways:?}",
            world.requests
        );
    }
}

#[test]
fn fifty_thousand_events_in_three_hundred_rooms_take_few_requests() {
    // As many as some rooms have: a few large ones, many small.
    let rooms: Vec<usize> = (1..=300).map(|rank| 8_000 / rank).collect();
    let events: usize = rooms.iter().sum();
    let world = check(&[Behaves::Honest], &rooms, 7);
    assert_eq!(world.got.len(), events);
    assert!(world.requests <= events / 700 + 12, "{} requests", world.requests);
}

#[test]
fn who_knows_no_such_request_is_asked_once() {
    let mut world = check(&[Behaves::Old], &[10, 20], 1);
    assert_eq!((world.requests, world.done.len()), (1, 1));
    world.meet(0);
    world.play(&mut Dice(1));
    assert_eq!((world.requests, world.done.len()), (1, 2));
    assert_eq!(world.done[1].1, Err(Failure::Unrecognized));
    world.machine.forget(&server(0));
    world.meet(0);
    world.play(&mut Dice(1));
    assert_eq!(world.requests, 2, "another program may be there now");
}
