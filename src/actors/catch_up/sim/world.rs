//! Simulated time: what happens to the nodes, and what must be so when it is over.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};
use serde_json::json;

use super::{
    super::machine::{Effect, Failure, Given, Page},
    network::{Dice, Links},
    node::{Node, Way},
};
use crate::{
    actors::room::machine::tests::{draft, join, message, received, room},
    config::limits,
    proto::{
        heads::{Gap, MissingIds},
        pdu::Received,
        signer::Signer,
    },
};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// What is asked and not answered fails after this long.
const WAIT: u64 = 30 * SECOND;
/// From when everything is well again until it has to be whole.
const QUIET: u64 = 12 * MINUTE;
/// Ids in a page: few, so that there are several.
const PAGE: usize = 16;
/// Events in an answer.
const ANSWER: usize = 24;

/// What is to be played.
pub(super) struct Plan {
    nodes: usize,
    sayings: usize,
    dice: Dice,
}

impl Plan {
    pub(super) fn of(seed: u64, nodes: usize) -> Self {
        let mut dice = Dice::new(seed);
        let sayings = if nodes > 12 { 40 } else { 60 + dice.below(100) as usize };
        Self { nodes, sayings, dice }
    }
}

/// A message on its way.
#[derive(Debug, Clone)]
enum Message {
    Said(OwnedEventId),
    Heads(Vec<OwnedEventId>),
    /// Compare heads: those of the asker.
    Compare(Vec<OwnedEventId>),
    Ids(u64, Gap),
    IdsAnswer(u64, MissingIds),
    Events(u64, Vec<OwnedEventId>),
    EventsAnswer(u64, Vec<OwnedEventId>, bool),
}

#[derive(Debug, Clone)]
enum Action {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    /// A request is given up.
    GiveUp {
        node: usize,
        request: u64,
    },
    Taken {
        node: usize,
        starts: u64,
    },
    Say(usize),
    Announce(usize),
    /// Compares heads with everybody who is connected.
    Meet(usize),
    /// Something happens to the network.
    Turn,
    Heal,
}

pub(super) struct World {
    nodes: Vec<Node>,
    room_id: OwnedRoomId,
    names: Vec<OwnedServerName>,
    signers: Vec<Arc<Signer>>,
    links: Links,
    dice: Dice,
    now: u64,
    number: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    actions: BTreeMap<u64, Action>,
    /// What was said, as it goes over the wire; each was signed once.
    said: HashMap<OwnedEventId, Received>,
    sayings: usize,
    /// Events from before the play.
    before: BTreeSet<OwnedEventId>,
    kinds: BTreeMap<u64, bool>,
    messages: usize,
    end: u64,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let Plan { nodes: count, sayings, mut dice } = plan;
        let mut first = room(&RoomVersionId::V12, 1);
        let mut others: Vec<_> = Vec::new();
        let mut signers = vec![Arc::clone(&first.signer)];
        for number in 1..count {
            let replica = join(&mut first, u8::try_from(number + 1).unwrap(), &signers);
            signers.push(Arc::clone(&replica.signer));
            others.push(replica);
        }
        let room_id = first.machine.create_event().unwrap().room_id.clone();
        // Some may change the state, so that states have to be resolved.
        let users = signers.iter().skip(1).take(2);
        let users: serde_json::Map<_, _> =
            users.map(|signer| (signer.user_id().to_string(), json!(60))).collect();
        let levels = draft("m.room.power_levels", Some(""), json!({"users": users}));
        first.send(levels).unwrap();
        let names = signers.iter().map(|signer| signer.server_name().to_owned()).collect();
        let mut world = Self {
            nodes: Vec::new(),
            room_id,
            names,
            signers,
            links: Links { latency: 40, sides: vec![0; count], ..Links::default() },
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            actions: BTreeMap::new(),
            said: HashMap::new(),
            sayings,
            before: BTreeSet::new(),
            kinds: BTreeMap::new(),
            messages: 0,
            end: 0,
            dice: Dice::new(dice.below(u64::MAX / 2)),
        };
        for (number, replica) in std::iter::once(first).chain(others).enumerate() {
            let way = match world.dice.below(10) {
                _ if number < 3 => Way::Honest,
                0 => Way::Silent,
                1 => Way::Withholds,
                2 => Way::Invents,
                _ => Way::Honest,
            };
            let mut node = Node::new(replica, way);
            node.skew = world.dice.below(20_000) as i64 - 10_000;
            world.nodes.push(node);
        }
        for number in 0..count {
            world.learn(number);
        }
        // Everybody hears of everybody who came in: whoever speaks before that speaks beside their joins,
        // which takes the state from others (`room/fetch.rs`).
        let come_in = world.nodes[0].timeline.clone();
        for number in 1..count {
            for id in &come_in {
                world.take(number, id);
            }
        }
        world.before = world.said.keys().cloned().collect();
        world
    }

    /// Keeps what a node said for those who ask.
    fn learn(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.keep();
        for id in &node.timeline {
            if !self.said.contains_key(id) {
                let pdu = &node.replica.known_event(id).unwrap().pdu;
                let of = pdu.sender.server_name();
                let signer = self.signers.iter().find(|signer| signer.server_name() == of);
                self.said.insert(id.clone(), received(pdu, signer.unwrap()));
            }
        }
    }

    fn after(&mut self, wait: u64, action: Action) {
        self.number += 1;
        self.queue.push(Reverse((self.now + wait, self.number)));
        self.actions.insert(self.number, action);
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.messages += 1;
        if let Some(wait) = self.links.way(from, to, &mut self.dice) {
            self.after(wait, Action::Deliver { from, to, message });
        }
    }

    pub(super) fn play(&mut self) {
        let trouble = 10 * MINUTE;
        for _ in 0..self.sayings {
            let (at, by) = (self.dice.below(trouble), self.dice.below(self.nodes.len() as u64));
            self.after(at, Action::Say(by as usize));
        }
        for number in 0..self.nodes.len() {
            self.after(0, Action::Meet(number));
        }
        for _ in 0..8 {
            let at = self.dice.below(trouble);
            self.after(at, Action::Turn);
        }
        self.after(trouble, Action::Heal);
        self.end = trouble + QUIET;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > self.end {
                return;
            }
            self.now = at;
            if let Some(action) = self.actions.remove(&number) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { from, to, message } => {
                if self.nodes[to].is_up {
                    self.hear(from, to, message);
                }
            }
            Action::GiveUp { node, request } => {
                let Some(of) = self.nodes[node].pending.remove(&request) else { return };
                let (of, is_ids) = (self.names[of].clone(), self.kinds[&request]);
                let machine = &mut self.nodes[node].machine;
                let effects = match is_ids {
                    true => machine.named(&of, Err(Failure::NoAnswer)),
                    false => machine.given(&of, Err(Failure::NoAnswer)),
                };
                self.carry_out(node, effects);
            }
            Action::Taken { node, starts } => {
                if self.nodes[node].starts == starts {
                    let effects = self.nodes[node].machine.taken(&self.room_id);
                    self.carry_out(node, effects);
                }
            }
            Action::Say(node) => self.say(node),
            Action::Announce(node) => {
                let heads = self.nodes[node].heads();
                for to in 0..self.nodes.len() {
                    self.send(node, to, Message::Heads(heads.clone()));
                }
            }
            Action::Meet(node) => {
                if self.nodes[node].is_up {
                    let heads = self.nodes[node].heads();
                    for to in 0..self.nodes.len() {
                        self.send(node, to, Message::Compare(heads.clone()));
                    }
                }
                let wait = 2 * MINUTE + self.dice.below(MINUTE);
                self.after(wait, Action::Meet(node));
            }
            Action::Turn => self.turn(),
            Action::Heal => {
                self.links =
                    Links { latency: 40, sides: vec![0; self.nodes.len()], ..Links::default() };
                for node in 0..self.nodes.len() {
                    self.nodes[node].is_up = true;
                    self.after(SECOND, Action::Meet(node));
                }
            }
        }
    }

    /// Something happens to the network, or to a node.
    fn turn(&mut self) {
        let count = self.nodes.len() as u64;
        match self.dice.below(7) {
            0 => self.links.loss = self.dice.below(60),
            1 => self.links.latency = 5 + self.dice.below(3000),
            2 | 3 => {
                let sides = 1 + self.dice.below(3);
                for number in 0..self.nodes.len() {
                    self.links.sides[number] = self.dice.below(sides);
                }
            }
            4 => {
                let (one, other) = (self.dice.below(count), self.dice.below(count));
                self.links.cut.insert((one as usize, other as usize));
            }
            5 => {
                let node = self.dice.below(count) as usize;
                self.nodes[node].is_up ^= true;
            }
            _ => {
                let node = self.dice.below(count) as usize;
                self.nodes[node].restart();
            }
        }
        // Whoever is connected anew meets.
        for number in 0..self.nodes.len() {
            let wait = 500 + self.dice.below(500);
            self.after(wait, Action::Meet(number));
        }
    }

    fn say(&mut self, number: usize) {
        let (state, chance) = (self.dice.percent(25), self.dice.below(1000));
        let now = self.now;
        let node = &mut self.nodes[number];
        if !node.is_up {
            return;
        }
        let text = format!("{chance} at {}", now as i64 + node.skew);
        let topic = draft("m.room.topic", Some(""), json!({"topic": text}));
        let said = match state {
            true => node.replica.send(topic).or_else(|_| node.replica.send(message(&text))),
            false => node.replica.send(message(&text)),
        };
        let id = said.unwrap().event_id.clone();
        self.learn(number);
        for to in 0..self.nodes.len() {
            self.send(number, to, Message::Said(id.clone()));
        }
        self.after(2 * SECOND, Action::Announce(number));
        if self.nodes[number].way == Way::Invents {
            let made_up = OwnedEventId::try_from(format!("$made_up_{}", self.number)).unwrap();
            for to in 0..self.nodes.len() {
                self.send(number, to, Message::Heads(vec![made_up.clone()]));
            }
        }
    }

    fn hear(&mut self, from: usize, to: usize, message: Message) {
        let way = self.nodes[to].way;
        match message {
            Message::Said(id) => {
                self.nodes[to].came += 1;
                self.take(to, &id);
                if !self.nodes[to].has(&id) {
                    self.catch_up(to, from, vec![id]);
                }
            }
            Message::Heads(heads) => self.catch_up(to, from, heads),
            Message::Compare(heads) => {
                let ours = self.nodes[to].heads();
                if way != Way::Silent
                    && ours.iter().collect::<BTreeSet<_>>() != heads.iter().collect()
                {
                    self.send(to, from, Message::Heads(ours));
                }
            }
            Message::Ids(request, gap) => {
                let answer = match way {
                    Way::Silent => return,
                    Way::Invents => {
                        let made_up = |it| OwnedEventId::try_from(format!("$no_{request}_{it}"));
                        let ids = (0..PAGE).map(|it| made_up(it).unwrap()).collect();
                        MissingIds { ids, more: true }
                    }
                    Way::Honest | Way::Withholds => self.nodes[to].name(&gap, PAGE),
                };
                self.send(to, from, Message::IdsAnswer(request, answer));
            }
            Message::Events(request, ids) => {
                let mut given: Vec<OwnedEventId> = match way {
                    Way::Silent => return,
                    Way::Invents | Way::Withholds => Vec::new(),
                    Way::Honest => ids.into_iter().filter(|id| self.nodes[to].has(id)).collect(),
                };
                let is_full = given.len() > ANSWER;
                given.truncate(ANSWER);
                self.send(to, from, Message::EventsAnswer(request, given, is_full));
            }
            Message::IdsAnswer(request, answer) => {
                if self.nodes[to].pending.remove(&request).is_none() {
                    return;
                }
                let named = answer.ids.len();
                let tail = answer.ids[named.saturating_sub(20)..].to_vec();
                let missing = answer.ids.into_iter().filter(|id| !self.nodes[to].has(id)).collect();
                let page = Page { missing, named, tail, more: answer.more };
                let pages = BTreeMap::from([(self.room_id.clone(), page)]);
                let effects = self.nodes[to].machine.named(&self.names[from], Ok(pages));
                self.carry_out(to, effects);
            }
            Message::EventsAnswer(request, ids, is_full) => {
                if self.nodes[to].pending.remove(&request).is_none() {
                    return;
                }
                self.nodes[to].came += ids.len();
                let events = ids.into_iter().map(|id| (id.clone(), id)).collect();
                let rooms = BTreeMap::from([(self.room_id.clone(), events)]);
                let given = Given { rooms, is_full };
                let effects = self.nodes[to].machine.given(&self.names[from], Ok(given));
                self.carry_out(to, effects);
            }
        }
    }

    /// A node takes an event in, and what waited for it.
    fn take(&mut self, number: usize, id: &OwnedEventId) {
        let Some(received) = self.said.get(id) else { return };
        let node = &mut self.nodes[number];
        node.replica.ingest(received);
        node.keep();
        assert!(node.replica.parked() <= limits::ROOM_PARKED);
    }

    fn catch_up(&mut self, number: usize, of: usize, heads: Vec<OwnedEventId>) {
        let Some(gap) = self.nodes[number].lacking(&heads) else { return };
        let (rooms, name) = ([self.room_id.clone()], self.names[of].clone());
        let gaps = vec![(self.room_id.clone(), gap)];
        let effects = self.nodes[number].machine.looked(&name, &rooms, gaps);
        self.carry_out(number, effects);
    }

    fn carry_out(&mut self, number: usize, effects: Vec<Effect<OwnedEventId>>) {
        let index = |names: &[OwnedServerName], name: &OwnedServerName| {
            names.iter().position(|it| it == name).unwrap()
        };
        for effect in effects {
            match effect {
                Effect::AskIds(server, rooms) => {
                    let of = index(&self.names, &server);
                    let request = self.request(number, of, true);
                    let gap = rooms.into_values().next().unwrap();
                    self.send(number, of, Message::Ids(request, gap));
                }
                Effect::AskEvents(server, rooms) => {
                    let of = index(&self.names, &server);
                    let request = self.request(number, of, false);
                    let ids = rooms.into_values().next().unwrap();
                    self.send(number, of, Message::Events(request, ids));
                }
                Effect::Look(server, heads) => {
                    let rooms: Vec<_> = heads.iter().map(|(id, _)| id.clone()).collect();
                    let gaps = heads
                        .into_iter()
                        .filter_map(|(id, heads)| Some((id, self.nodes[number].lacking(&heads)?)));
                    let gaps = gaps.collect();
                    let effects = self.nodes[number].machine.looked(&server, &rooms, gaps);
                    self.carry_out(number, effects);
                }
                Effect::Take(_, _, ids) => {
                    for id in ids {
                        self.take(number, &id);
                    }
                    let starts = self.nodes[number].starts;
                    let wait = 1 + self.dice.below(50);
                    self.after(wait, Action::Taken { node: number, starts });
                }
                Effect::Done(..) => {}
            }
        }
    }

    fn request(&mut self, node: usize, of: usize, is_ids: bool) -> u64 {
        self.number += 1;
        let request = self.number;
        self.nodes[node].pending.insert(request, of);
        self.nodes[node].requests += 1;
        self.kinds.insert(request, is_ids);
        self.after(WAIT, Action::GiveUp { node, request });
        request
    }

    /// What must be so in the end, of those who are honest: what a liar alone has is not theirs.
    pub(super) fn check(&self) {
        let honest: Vec<(usize, &Node)> =
            self.nodes.iter().enumerate().filter(|(_, node)| node.way == Way::Honest).collect();
        let (_, first) = honest[0];
        let all: BTreeSet<&OwnedEventId> = honest
            .iter()
            .flat_map(|(_, node)| &node.timeline)
            .filter(|id| !self.before.contains(*id))
            .collect();
        for (number, node) in &honest {
            for id in &all {
                let prev = &self.said[*id].pdu.prev_events;
                let prev: Vec<_> = prev.iter().map(|prev| (prev, node.has(prev))).collect();
                assert!(
                    node.has(id),
                    "node {number} lacks {id} by {} behind {prev:?}; parked {}, pending {:?}, {:?}",
                    self.said[*id].pdu.sender,
                    node.replica.parked(),
                    node.pending,
                    node.machine,
                );
            }
            assert!(node.replica.view() == first.replica.view(), "node {number} sees another room");
            let is_idle = node.machine.is_idle() || !node.pending.is_empty();
            assert!(is_idle, "node {number} is at work still: {:?}", node.machine);
            let here: BTreeSet<_> = node.timeline.iter().collect();
            let mut before = BTreeSet::new();
            for id in &node.timeline {
                let pdu = &node.replica.known_event(id).unwrap().pdu;
                for prev in pdu.prev_events.iter().filter(|prev| here.contains(prev)) {
                    assert!(before.contains(prev), "node {number}: {id} stands before {prev}");
                }
                assert!(before.insert(id), "node {number}: {id} stands twice");
            }
        }
        // What came twice, and what was asked, is bounded by what was said and by whom one met.
        let count = self.nodes.len();
        for (number, node) in honest {
            let bound = 3 * self.said.len() + 20 * count;
            assert!(node.came <= bound, "{} of {bound} events came to node {number}", node.came);
            let bound = 60 * count + 4 * self.said.len();
            let requests = node.requests;
            assert!(requests <= bound, "{requests} of {bound} requests of node {number}");
        }
    }

    /// What it took.
    pub(super) fn figures(&self) -> String {
        let sum = |of: fn(&Node) -> usize| self.nodes.iter().map(of).sum::<usize>();
        format!(
            "{} events, {} messages, {} requests, {} events came (of {})",
            self.said.len(),
            self.messages,
            sum(|node| node.requests),
            sum(|node| node.came),
            self.said.len() * (self.nodes.len() - 1),
        )
    }
}
