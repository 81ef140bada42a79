//! What catching up costs, with real Stores and real answers: many rooms in which both sides went on.
//!
//! `tests/simulate --figures`

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    time::Instant,
};

use actix::Addr;
use futures::future::join_all;
use ruma::{CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};
use serde_json::value::RawValue;

use super::super::{
    machine::{Effect, Given, Machine, Page},
    wire::{EventsAnswer, IdsAnswer},
};
use crate::{
    actors::{
        room::machine::tests::{NOW, Replica, join, message, room_of, signer},
        store::{FindLacking, MissingWalk, ReadEvents, ReadHeads, SiftIds, StoreActor, start},
    },
    config::limits,
    proto::{
        heads::Gap,
        pdu::{self, Received},
        server_keys::VerifiedServerKeys,
        signed::Request,
        signer::Signer,
    },
};

const ROOMS: usize = 300;
/// Events that the largest room lacks; the one at rank N has a part of N of them.
const LARGEST: usize = 8000;
/// What one who is away says meanwhile, as a part of what the others say.
const OWN_PART: usize = 4;
/// Commits that are written at once.
const COMMITS: usize = 2000;

type Effects = Vec<Effect<Box<RawValue>>>;

/// One room, as who was away has it.
struct Mine {
    bob: Replica,
    lacks: Vec<OwnedEventId>,
    /// What was missing before: what is older than the join.
    gaps: BTreeMap<OwnedEventId, BTreeSet<OwnedEventId>>,
}

struct World {
    rooms: BTreeMap<OwnedRoomId, Mine>,
    ann: Addr<StoreActor>,
    bob: Addr<StoreActor>,
    machine: Machine<Box<RawValue>>,
    server: OwnedServerName,
    keys: BTreeMap<OwnedServerName, (VerifiedServerKeys, Box<RawValue>)>,
    /// Bytes around what is asked and answered.
    envelope: usize,
    requests: usize,
    bytes: usize,
    came: usize,
    twice: usize,
}

async fn write(store: &Addr<StoreActor>, replica: &mut Replica) {
    let commits = std::mem::take(&mut replica.commits);
    for part in commits.chunks(COMMITS) {
        let written = part.iter().map(|commit| store.send(commit.clone()));
        for written in join_all(written).await {
            written.unwrap().unwrap();
        }
    }
}

impl World {
    async fn new(folder: &Path) -> Self {
        let store = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir(&path).unwrap();
            start(&path).unwrap()
        };
        let (ann, bob) = (store("ann"), store("bob"));
        let signers = [signer(1), signer(2)];
        let keys = signers.iter().map(|signer: &std::sync::Arc<Signer>| {
            let verified = VerifiedServerKeys::verify(signer.server_keys().clone(), NOW).unwrap();
            let text = RawValue::from_string(signer.server_keys_text().to_owned()).unwrap();
            (signer.server_name().clone(), (verified, text))
        });
        let empty = Request {
            method: "POST".into(),
            uri: crate::proto::endpoint::EVENTS.into(),
            origin: signers[0].server_name().clone(),
            destination: signers[1].server_name().to_string(),
            origin_server_ts: NOW,
            request_id: "0".repeat(32),
            content: CanonicalJsonValue::Null,
        };
        let mut world = Self {
            rooms: BTreeMap::new(),
            machine: Machine::default(),
            server: signers[0].server_name().clone(),
            keys: keys.collect(),
            envelope: empty.sign(&signers[0]).unwrap().bytes.len(),
            requests: 0,
            bytes: 0,
            came: 0,
            twice: 0,
            ann,
            bob,
        };
        for rank in 1..=ROOMS {
            world.add_room(rank).await;
        }
        world
    }

    async fn add_room(&mut self, rank: usize) {
        let mut ann = room_of(&RoomVersionId::V12, signer(1), NOW + rank as u64);
        let mut bob = join(&mut ann, 2, &[]);
        for replica in [&mut ann, &mut bob] {
            replica.check_seldom();
        }
        // As long as people write, more or less.
        let text = |number: usize| "what one says of this and that ".repeat(1 + number % 6);
        let said = |of: &mut Replica, count: usize| -> Vec<OwnedEventId> {
            let said = (0..count).map(|number| of.send(message(&text(number))).unwrap());
            said.map(|pdu| pdu.event_id.clone()).collect()
        };
        let lacks = said(&mut ann, LARGEST / rank);
        said(&mut bob, (LARGEST / rank / OWN_PART).max(1));
        write(&self.ann, &mut ann).await;
        write(&self.bob, &mut bob).await;
        let room_id = ann.machine.create_event().unwrap().room_id.clone();
        let gaps = bob.gaps().clone();
        self.rooms.insert(room_id, Mine { bob, lacks, gaps });
    }

    async fn meet(&mut self) {
        let rooms: Vec<OwnedRoomId> = self.rooms.keys().cloned().collect();
        for part in rooms.chunks(limits::HEADS_ROOMS) {
            let heads = self.ann.send(ReadHeads(part.to_vec())).await.unwrap().unwrap();
            self.requests += 1;
            self.bytes += 2 * self.envelope + 120 * part.len();
            let mut todo: VecDeque<_> = VecDeque::from([Effect::Look(self.server.clone(), heads)]);
            while let Some(effect) = todo.pop_front() {
                let effects = self.carry_out(effect).await;
                todo.extend(effects);
            }
            assert!(self.machine.is_idle());
        }
    }

    fn count(&mut self, asked: &impl serde::Serialize, answered: &impl serde::Serialize) {
        let len = |text: serde_json::Result<String>| text.unwrap().len();
        self.requests += 1;
        self.bytes += len(serde_json::to_string(asked)) + len(serde_json::to_string(answered));
        self.bytes += 2 * self.envelope;
    }

    async fn carry_out(&mut self, effect: Effect<Box<RawValue>>) -> Effects {
        match effect {
            Effect::Look(server, heads) => {
                let rooms: Vec<_> = heads.iter().map(|(id, _)| id.clone()).collect();
                let gaps = self.bob.send(FindLacking(heads)).await.unwrap().unwrap();
                self.machine.looked(&server, &rooms, gaps)
            }
            Effect::AskIds(server, rooms) => {
                let pages = self.ids(rooms).await;
                self.machine.named(&server, Ok(pages))
            }
            Effect::AskEvents(server, rooms) => {
                let given = self.events(rooms).await;
                self.machine.given(&server, Ok(given))
            }
            Effect::Take(room_id, _, events) => {
                let room = self.rooms.get_mut(&room_id).unwrap();
                let rules = room.bob.machine.rules().clone();
                for event in events {
                    let pdu = pdu::read(&event, &room_id, &rules).unwrap().pdu;
                    let server_keys = self.keys[pdu.sender.server_name()].0.clone();
                    room.bob.ingest(&Received { pdu, spoilt: false, server_keys });
                }
                write(&self.bob, &mut room.bob).await;
                self.machine.taken(&room_id)
            }
            Effect::Done(_, done) => {
                assert_eq!(done, Ok(()));
                Vec::new()
            }
        }
    }

    /// What `room_state/given.rs` answers, and what is looked up of that.
    async fn ids(&mut self, rooms: BTreeMap<OwnedRoomId, Gap>) -> BTreeMap<OwnedRoomId, Page> {
        let mut left = limits::MISSING_IDS;
        let mut answer = IdsAnswer::default();
        for (room_id, gap) in rooms.clone() {
            if left == 0 {
                break;
            }
            let most = limits::MISSING_IDS_ROOM.min(left);
            let mut next = MissingWalk::Begin { room_id: room_id.clone(), gap, most };
            let found = loop {
                match self.ann.send(next).await.unwrap().unwrap() {
                    Ok(found) => break found,
                    Err(under_way) => next = under_way,
                }
            };
            left -= found.ids.len();
            answer.rooms.insert(room_id, found);
        }
        self.count(&rooms, &answer);
        let mut pages = BTreeMap::new();
        for (room_id, missing) in answer.rooms {
            let named = missing.ids.len();
            let tail = missing.ids[named.saturating_sub(20)..].to_vec();
            let sift = SiftIds(vec![(room_id.clone(), missing.ids)]);
            let sifted = self.bob.send(sift).await.unwrap().unwrap().remove(0);
            let (missing, more) = (sifted.missing, missing.more);
            pages.insert(room_id, Page { missing, named, tail, more });
        }
        pages
    }

    async fn events(
        &mut self,
        rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    ) -> Given<Box<RawValue>> {
        let read = ReadEvents(rooms.clone().into_iter().collect());
        let found = self.ann.send(read).await.unwrap().unwrap();
        let mut answer = EventsAnswer::default();
        for (room_id, events) in found {
            for event in &events {
                let server = event.sender.server_name().to_owned();
                let keys = self.keys[&server].1.clone();
                answer.server_keys.entry(server).or_insert_with(|| vec![keys]);
            }
            let raw = events.into_iter().map(|it| RawValue::from_string(it.json.into()).unwrap());
            answer.rooms.insert(room_id, raw.collect());
        }
        self.count(&rooms, &answer);
        let is_full = answer.is_full();
        let mut given: BTreeMap<OwnedRoomId, Vec<_>> = BTreeMap::new();
        for (room_id, event) in answer.with_keys() {
            let bob = &self.rooms[&room_id].bob;
            let id = pdu::read(&event, &room_id, bob.machine.rules()).unwrap().pdu.event_id;
            self.came += 1;
            self.twice += usize::from(bob.known_event(&id).is_some());
            given.entry(room_id).or_default().push((id, event));
        }
        Given { rooms: given, is_full }
    }
}

#[actix::test]
#[ignore = "it takes minutes: tests/simulate --figures"]
async fn fifty_thousand_events_in_three_hundred_rooms_of_which_both_sides_went_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path()).await;
    let began = Instant::now();
    world.meet().await;
    let lacked: usize = world.rooms.values().map(|room| room.lacks.len()).sum();
    let rooms = || world.rooms.values();
    let left =
        |room: &Mine| room.lacks.iter().filter(|id| room.bob.known_event(id).is_none()).count();
    let left: usize = rooms().map(left).sum();
    let gaps = rooms().filter(|room| *room.bob.gaps() != room.gaps).count();
    let mb = world.bytes as f64 / 1e6;
    eprintln!(
        "{lacked} events in {ROOMS} rooms: {} requests, {mb:.1} MB, {} came, {} twice, {left} left out, \
         {gaps} rooms with gaps, {:.1} s",
        world.requests,
        world.came,
        world.twice,
        began.elapsed().as_secs_f64(),
    );
    assert_eq!((left, world.twice), (0, 0));
    assert!(world.requests < 60 && mb < 50.0);
}
