//! One history: a room's events reach a replica by gossip, backfill, catch-up and rejoins, in every
//! order, and its timeline in a real Store has each of them once, parents before children.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use actix::Addr;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::machine::tests::{
    Replica, come_in, draft, given_before, message, outside, received, room,
};
use crate::{
    actors::{
        room::machine::{Ingested, Machine},
        store::{Direction, ReadTimeline, StoreActor, start},
    },
    proto::{pdu::Received, signer::Signer},
};

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

/// A room with two members who are always there, and one who comes and goes.
struct World {
    ann: Replica,
    eve: Replica,
    bob: Replica,
    signers: Vec<Arc<Signer>>,
    said: Vec<Received>,
    bob_is_in: bool,
    store: Addr<StoreActor>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(version: &RoomVersionId) -> Self {
        let mut ann = room(version, 1);
        let mut eve = outside(&ann, 3);
        let bob = outside(&ann, 2);
        let signers =
            vec![Arc::clone(&ann.signer), Arc::clone(&bob.signer), Arc::clone(&eve.signer)];
        let mut said = Vec::new();
        for n in 0..3 {
            said.push(received(&ann.send(message(&format!("first {n}"))).unwrap(), &ann.signer));
        }
        let join = come_in(&mut ann, &mut eve, &signers);
        ann.ingest(&join);
        said.push(join);
        let folder = tempfile::tempdir().unwrap();
        let store = start(folder.path()).unwrap();
        Self { ann, eve, bob, signers, said, bob_is_in: false, store, _folder: folder }
    }

    async fn flush(&mut self) {
        for commit in std::mem::take(&mut self.bob.commits) {
            self.store.send(commit).await.unwrap().unwrap();
        }
    }

    /// Ann or Eve says something; sometimes the other does not hear of it before she speaks too.
    fn talk(&mut self, dice: &mut Dice) {
        let n = self.said.len();
        let by_ann = dice.below(2) == 0;
        let speaker = if by_ann { &mut self.ann } else { &mut self.eve };
        let said = match dice.below(6) {
            0 => draft("m.room.topic", Some(""), json!({"topic": n.to_string()})),
            _ => message(&n.to_string()),
        };
        let Ok(said) = speaker.send(said).or_else(|_| speaker.send(message(&n.to_string()))) else {
            return;
        };
        self.said.push(received(&said, &speaker.signer));
        if dice.below(3) > 0 {
            self.meet();
        }
    }

    /// Ann and Eve tell each other everything.
    fn meet(&mut self) {
        for received in &self.said {
            self.ann.ingest(received);
            self.eve.ingest(received);
        }
    }

    fn come(&mut self) {
        self.meet();
        let join = come_in(&mut self.ann, &mut self.bob, &self.signers);
        self.said.push(join);
        self.meet();
        self.bob_is_in = true;
    }

    fn leave(&mut self) {
        let me = self.bob.signer.user_id().to_string();
        let leave = draft("m.room.member", Some(&me), json!({"membership": "leave"}));
        let left = self.bob.send(leave).unwrap();
        self.said.push(received(&left, &self.bob.signer));
        self.bob_is_in = false;
    }

    /// Bob hears one event.
    fn hear(&mut self, number: usize) {
        let event = self.said[number].clone();
        if matches!(self.bob.ingest(&event), Ingested::Full) {
            panic!("there is no place for an event");
        }
    }

    /// Bob goes on behind a gap, with the state that Ann gives.
    fn step_over(&mut self, number: usize) {
        let event = self.said[number].clone();
        self.meet();
        if !self.bob.machine.is_parked(&event.pdu.event_id) {
            return;
        }
        let given = given_before(&mut self.ann, &event.pdu, &self.signers);
        let Ok((state, change)) = self.bob.run(|machine| machine.take_state(&event.pdu, &given))
        else {
            return;
        };
        self.bob.store(&change);
        let taken = self.bob.run(|machine| machine.ingest(&event, Some(state))).unwrap();
        self.bob.machine.unpark(&event.pdu.event_id);
        if let Ingested::New(change, _) = taken {
            self.bob.store(&change);
            let unparked = change.unparked.clone();
            for id in unparked {
                if let Some(parked) = self.bob.machine.unpark(&id) {
                    self.bob.ingest(&parked);
                }
            }
        }
    }

    /// Bob fetches some events of what is missing before the timeline.
    fn backfill(&mut self, dice: &mut Dice, most: usize) -> bool {
        let missing = self.bob.machine.missing_before(None);
        if missing.is_empty() {
            return false;
        }
        let all: HashMap<&OwnedEventId, &Received> =
            self.said.iter().map(|received| (&received.pdu.event_id, received)).collect();
        let first = self.ann.machine.create_event().unwrap().event_id.clone();
        let mut level = vec![missing[dice.below(missing.len())].clone()];
        let mut page: Vec<Received> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(id) = level.pop() {
            if page.len() >= most || !seen.insert(id.clone()) {
                continue;
            }
            let received = match all.get(&id) {
                Some(received) => (*received).clone(),
                // The first events of the room.
                None => received(&self.ann.known_event(&id).unwrap().pdu, &self.ann.signer),
            };
            if id != first {
                level.extend(received.pdu.prev_events.iter().cloned());
            }
            page.push(received);
        }
        let change = self.bob.run(|machine: &mut Machine| machine.backfilled(&page)).unwrap();
        self.bob.store(&change);
        true
    }

    async fn page(&self, direction: Direction) -> Vec<(OwnedEventId, Vec<OwnedEventId>)> {
        let (mut from, mut seen) = (None, Vec::new());
        loop {
            let ask = ReadTimeline {
                room_id: self.ann.machine.room_id.clone(),
                from,
                to: None,
                over_gap: false,
                direction,
                limit: 7,
            };
            let page = self.store.send(ask).await.unwrap().unwrap();
            assert!(page.gap.is_none(), "there is a gap left");
            for event in page.events {
                #[derive(serde::Deserialize)]
                struct Parents {
                    prev_events: Vec<OwnedEventId>,
                }
                let parents: Parents = serde_json::from_str(&event.json).unwrap();
                seen.push((event.event_id, parents.prev_events));
            }
            from = page.next;
            if from.is_none() {
                return seen;
            }
        }
    }
}

async fn play(version: &RoomVersionId, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new(version);
    world.come();
    for _ in 0..120 {
        let (number, chance) = (dice.below(world.said.len()), dice.below(20));
        let newest = world.said.len() - 1 - dice.below(world.said.len().min(6));
        match chance {
            0..8 => world.talk(&mut dice),
            8 if world.bob_is_in => world.leave(),
            8 => world.come(),
            9..13 if world.bob_is_in => world.hear(newest),
            13..15 if world.bob_is_in => world.hear(number),
            15..17 if world.bob_is_in => world.step_over(newest),
            17..20 if world.bob_is_in => {
                let most = 1 + dice.below(9);
                world.backfill(&mut dice, most);
            }
            _ => {}
        }
        world.flush().await;
    }
    if !world.bob_is_in {
        world.come();
    }
    for _ in 0..3 {
        for number in 0..world.said.len() {
            world.hear(number);
            world.step_over(number);
        }
        while world.backfill(&mut dice, 5) {}
    }
    world.flush().await;
    let forward = world.page(Direction::Forward).await;
    let mut backward = world.page(Direction::Backward).await;
    backward.reverse();
    assert_eq!(forward, backward, "seed {seed}: one order both ways");
    let mut places = HashMap::new();
    for (place, (id, _)) in forward.iter().enumerate() {
        assert!(places.insert(id.clone(), place).is_none(), "seed {seed}: {id} comes twice");
    }
    for (id, parents) in &forward {
        for parent in parents {
            assert!(
                places.get(parent).is_none_or(|place| *place < places[id]),
                "seed {seed}: {id} stands before its parent {parent}"
            );
        }
    }
    use crate::actors::store::Place::{Backfilled, Live};
    for received in &world.said {
        let id = &received.pdu.event_id;
        let known =
            world.bob.known_event(id).unwrap_or_else(|| panic!("seed {seed}: {id} is lost"));
        assert_eq!(
            places.contains_key(id),
            matches!(known.place, Live | Backfilled),
            "seed {seed}: {id} is {:?}",
            known.place
        );
    }
}

#[actix::test]
async fn whatever_comes_in_whichever_way_there_is_one_history() {
    for seed in 0..24 {
        let version = if seed % 2 == 0 { RoomVersionId::V12 } else { RoomVersionId::V11 };
        play(&version, seed).await;
    }
}
