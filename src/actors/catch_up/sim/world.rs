//! Simulated time: the nodes, and what happens to them and to the links between them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId};
use serde_json::json;

use super::{
    messages::{Asked, Envelope, Message, Request},
    network::{Dice, Links},
    node::{Behaves, Node},
};
use crate::{
    actors::{
        outbox::sim::{Keeping, Open, Writing},
        room::machine::tests::{NOW, Resolutions, add, draft, room},
        store::Place,
    },
    proto::{
        pdu::{Pdu, Received},
        server_keys::VerifiedServerKeys,
        signer::{SecretKeys, Signer},
    },
};

pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
/// What is asked and not answered fails after this long.
pub(super) const WAIT: u64 = 30 * SECOND;
/// The same where there are others to ask.
const HISTORY_WAIT: u64 = 5 * SECOND;
/// How long there is trouble.
pub(super) const TROUBLE: u64 = 10 * MINUTE;
/// From when everything is well again until it has to be whole.
pub(super) const QUIET: u64 = 15 * MINUTE;
/// How often a page of what is missing behind a gap is fetched.
pub(super) const FILL_EVERY: u64 = 10 * SECOND;
/// Ids in a page: few, so that there are several.
pub(super) const PAGE: usize = 16;
/// Events in an answer.
pub(super) const ANSWER: usize = 24;
/// Events of the room that are fetched in one go, where that is seen at all.
const FEW: usize = 32;
/// Changes after which a replica is checked.
const CHECK_EVERY: usize = 64;

/// What is to be played.
pub(super) struct Plan {
    nodes: usize,
    sayings: usize,
    room_events: usize,
    dice: Dice,
}

impl Plan {
    pub(super) fn of(seed: u64, nodes: usize) -> Self {
        let mut dice = Dice::new(seed);
        let sayings = if nodes > 12 { 40 } else { 60 + dice.below(100) as usize };
        // In every third play whoever was away for long goes on behind a gap.
        let room_events = if seed.is_multiple_of(3) { FEW } else { 50_000 };
        Self { nodes, sayings, room_events, dice }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Action {
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
    /// The room took in what it was handed.
    Taken {
        node: usize,
        starts: u64,
    },
    /// A message of gossip has its verdict.
    Worked {
        node: usize,
        starts: u64,
        peer: usize,
        envelope: Envelope,
    },
    Say(usize),
    Announce(usize),
    /// Compares heads with everybody who is connected.
    Meet(usize),
    /// Compares them with one.
    MeetOne(usize, usize),
    Fill {
        node: usize,
        starts: u64,
    },
    /// A node comes to owe something.
    Owe(usize),
    Written {
        node: usize,
        starts: u64,
        to: usize,
        name: String,
        writing: Writing,
    },
    Keep {
        node: usize,
        starts: u64,
        keeping: Keeping,
    },
    Decide {
        node: usize,
        starts: u64,
        open: Open,
    },
    Pump {
        node: usize,
        starts: u64,
    },
    /// Something happens to the network.
    Turn,
    Heal,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) room_id: OwnedRoomId,
    pub(super) names: Arc<Vec<OwnedServerName>>,
    pub(super) index: HashMap<OwnedServerName, usize>,
    keys: Vec<VerifiedServerKeys>,
    pub(super) links: Links,
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) number: u64,
    queue: BTreeMap<(u64, u64), Action>,
    /// What was said, as it goes over the wire; each was signed once.
    pub(super) said: HashMap<OwnedEventId, Received>,
    /// What states resolve to.
    shared: Resolutions,
    sayings: usize,
    /// Events from before the play.
    pub(super) before: usize,
    pub(super) messages: usize,
    /// What somebody owes to another and was told that it is on disk.
    pub(super) owed: BTreeMap<(usize, usize), Vec<String>>,
    /// Which of the events that something owed waits for came to be.
    pub(super) stands: BTreeMap<OwnedEventId, bool>,
    end: u64,
}

/// Keys of a member.
fn person(number: usize) -> Arc<Signer> {
    let bytes = |kind: u8| {
        let mut bytes = [kind; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        bytes
    };
    let keys = SecretKeys { identity: bytes(1), verify: bytes(2), encryption: bytes(3) };
    Arc::new(Signer::new(&keys, &["peer".to_owned()], NOW).unwrap())
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let Plan { nodes: count, sayings, room_events, mut dice } = plan;
        let mut first = room(&RoomVersionId::V12, 1);
        let mut signers = vec![Arc::clone(&first.signer)];
        signers.extend((1..count).map(person));
        let verified = |signer: &Arc<Signer>| {
            VerifiedServerKeys::verify(signer.server_keys().clone(), NOW).unwrap()
        };
        let keys: Vec<_> = signers.iter().map(verified).collect();
        for (signer, keys) in signers.iter().zip(&keys).skip(1) {
            add(&mut first, signer, keys);
        }
        // Some may change the state, so that states have to be resolved.
        let users = signers.iter().skip(1).take(2);
        let users: serde_json::Map<_, _> =
            users.map(|signer| (signer.user_id().to_string(), json!(60))).collect();
        let levels = draft("m.room.power_levels", Some(""), json!({"users": users}));
        first.send(levels).unwrap();
        let commits = std::mem::take(&mut first.commits);
        let live = commits.iter().flat_map(|commit| &commit.events);
        let live = live.filter(|new| new.place == Place::Live);
        let timeline: Vec<_> = live.map(|new| new.pdu.event_id.clone()).collect();
        let names: Vec<_> = signers.iter().map(|signer| signer.server_name().clone()).collect();
        let room_id = first.machine.create_event().unwrap().room_id.clone();
        let mut world = Self {
            nodes: Vec::new(),
            room_id: room_id.clone(),
            index: names.iter().cloned().zip(0..).collect(),
            names: Arc::new(names),
            keys,
            links: Links::whole(count),
            now: 0,
            number: 0,
            queue: BTreeMap::new(),
            said: HashMap::new(),
            shared: Resolutions::new(),
            sayings,
            before: timeline.len(),
            messages: 0,
            owed: BTreeMap::new(),
            stands: BTreeMap::new(),
            end: TROUBLE + QUIET,
            dice: Dice::new(dice.below(u64::MAX / 2)),
        };
        for (number, signer) in signers.into_iter().enumerate() {
            let way = match world.dice.below(14) {
                _ if number < 3 => Behaves::Honest,
                0 => Behaves::Silent,
                1 => Behaves::Withholds,
                2 => Behaves::Invents,
                3 => Behaves::Forks,
                4 => Behaves::Floods,
                _ => Behaves::Honest,
            };
            let replica = first.copy(signer, CHECK_EVERY);
            let mut node = Node::new(replica, way, room_events, &room_id, &world.names);
            node.begin(&timeline);
            // Most clocks are right to some seconds; some are wrong by so much that no gossip counts.
            node.skew = match world.dice.below(12) {
                0 => world.dice.below(60 * MINUTE) as i64 - 30 * MINUTE as i64,
                _ => world.dice.below(20_000) as i64 - 10_000,
            };
            world.nodes.push(node);
        }
        for id in &timeline {
            let pdu = Arc::clone(&world.nodes[0].replica.known_event(id).unwrap().pdu);
            world.tell(&pdu);
        }
        world
    }

    /// Keeps what was said for those who ask.
    pub(super) fn tell(&mut self, pdu: &Pdu) {
        let by = self.index[pdu.sender.server_name()];
        let server_keys = self.keys[by].clone();
        let received = Received { pdu: pdu.clone(), spoilt: false, server_keys };
        self.said.insert(pdu.event_id.clone(), received);
    }

    /// Does something with a node, which resolves no states that another one has.
    pub(super) fn with<T>(&mut self, node: usize, act: impl FnOnce(&mut Node) -> T) -> T {
        let node = &mut self.nodes[node];
        std::mem::swap(&mut self.shared, &mut node.replica.shared);
        let done = act(node);
        std::mem::swap(&mut self.shared, &mut node.replica.shared);
        done
    }

    pub(super) fn after(&mut self, wait: u64, action: Action) {
        self.number += 1;
        self.queue.insert((self.now + wait, self.number), action);
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        self.messages += 1;
        if let Some(wait) = self.links.way(from, to, &mut self.dice) {
            self.after(wait, Action::Deliver { from, to, message });
        }
    }

    /// Asks a server for something.
    pub(super) fn request(&mut self, node: usize, of: usize, asked: Asked, request: Request) {
        self.number += 1;
        let number = self.number;
        match asked {
            Asked::Owed(_) => self.nodes[node].tries += 1,
            _ => self.nodes[node].requests += 1,
        }
        let wait = if matches!(asked, Asked::History(_)) { HISTORY_WAIT } else { WAIT };
        self.nodes[node].pending.insert(number, asked);
        self.after(wait, Action::GiveUp { node, request: number });
        self.send(node, of, Message::Request(number, request));
    }

    pub(super) fn play(&mut self) {
        let count = self.nodes.len() as u64;
        for _ in 0..self.sayings {
            let (at, by) = (self.dice.below(TROUBLE), self.dice.below(count));
            self.after(at, Action::Say(by as usize));
            if self.dice.percent(40) {
                let (at, by) = (self.dice.below(TROUBLE), self.dice.below(count));
                self.after(at, Action::Owe(by as usize));
            }
        }
        for number in 0..self.nodes.len() {
            let wait = self.dice.below(SECOND);
            self.after(wait, Action::Meet(number));
        }
        for _ in 0..8 {
            let at = self.dice.below(TROUBLE);
            self.after(at, Action::Turn);
        }
        self.after(TROUBLE, Action::Heal);
        while let Some(((at, _), action)) = self.queue.pop_first() {
            if at > self.end {
                return;
            }
            self.now = at;
            self.act(action);
        }
    }

    /// Tells whether a node is the same as at the time of something.
    pub(super) fn is_still(&self, node: usize, starts: u64) -> bool {
        self.nodes[node].starts == starts
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { from, to, message } => {
                if self.nodes[to].is_up {
                    self.hear(from, to, message);
                }
            }
            Action::GiveUp { node, request } => {
                if let Some(asked) = self.nodes[node].pending.remove(&request) {
                    self.answered(node, asked, None);
                }
            }
            Action::Taken { node, starts } => {
                if self.is_still(node, starts) {
                    let effects = self.nodes[node].machine.taken(&self.room_id);
                    self.carry_out(node, effects);
                }
            }
            Action::Worked { node, starts, peer, envelope } => {
                if self.is_still(node, starts) {
                    self.worked(node, peer, &envelope);
                }
            }
            Action::Say(node) => self.say(node),
            Action::Announce(node) => self.announce(node),
            Action::Meet(node) => {
                self.meet_all(node);
                let wait = 2 * MINUTE + self.dice.below(MINUTE);
                self.after(wait, Action::Meet(node));
            }
            Action::MeetOne(node, other) => {
                if self.nodes[node].is_up {
                    let heads = Arc::new(self.nodes[node].heads());
                    self.send(node, other, Message::Compare(heads));
                }
            }
            Action::Fill { node, starts } => {
                if self.is_still(node, starts) {
                    self.fill(node);
                }
            }
            Action::Owe(node) => self.owe(node),
            Action::Written { node, starts, to, name, writing } => {
                if self.is_still(node, starts) {
                    self.written(node, to, name, writing);
                }
            }
            Action::Keep { node, starts, keeping } => {
                if self.is_still(node, starts) {
                    self.nodes[node].outbox.keep(keeping);
                }
            }
            Action::Decide { node, starts, open } => {
                if self.is_still(node, starts) {
                    self.decide(node, &open);
                }
            }
            Action::Pump { node, starts } => {
                if self.is_still(node, starts) {
                    self.nodes[node].is_pumping = false;
                    self.pump(node);
                }
            }
            Action::Turn => self.turn(),
            Action::Heal => {
                self.links = Links::whole(self.nodes.len());
                for node in 0..self.nodes.len() {
                    self.nodes[node].is_up = true;
                    self.connect(node, SECOND);
                }
            }
        }
    }

    fn meet_all(&mut self, node: usize) {
        if !self.nodes[node].is_up {
            return;
        }
        let heads = Arc::new(self.nodes[node].heads());
        for to in 0..self.nodes.len() {
            self.send(node, to, Message::Compare(Arc::clone(&heads)));
        }
    }

    /// A node is connected anew with whom it can be.
    fn connect(&mut self, node: usize, wait: u64) {
        for other in 0..self.nodes.len() {
            if self.links.connects(node, other) && self.nodes[other].is_up {
                let (name, now) = (self.names[other].clone(), self.now);
                self.nodes[node].outbox.met(&name, now);
                self.after(wait, Action::MeetOne(node, other));
            }
        }
        if self.nodes[node].is_up {
            self.pump(node);
        }
    }

    /// Something happens to the network, or to a node.
    fn turn(&mut self) {
        let count = self.nodes.len() as u64;
        let some = |dice: &mut Dice| dice.below(count) as usize;
        match self.dice.below(8) {
            0 => self.links.loss = self.dice.below(60),
            1 => self.links.latency = 5 + self.dice.below(3000),
            2 | 3 => {
                let sides = 1 + self.dice.below(3);
                for number in 0..self.nodes.len() {
                    self.links.sides[number] = self.dice.below(sides);
                }
            }
            4 => {
                let way = (some(&mut self.dice), some(&mut self.dice));
                self.links.one_way.insert(way, 100);
            }
            5 => {
                // Nothing, or little, comes through to a node.
                let (node, loss) = (some(&mut self.dice), 50 + self.dice.below(51));
                for from in 0..self.nodes.len() {
                    self.links.one_way.insert((from, node), loss);
                }
            }
            6 => {
                let node = some(&mut self.dice);
                self.nodes[node].is_up ^= true;
            }
            _ => {
                let node = some(&mut self.dice);
                self.nodes[node].restart();
                self.fill_soon(node);
            }
        }
        // Whoever is connected anew meets.
        for number in 0..self.nodes.len() {
            let wait = 500 + self.dice.below(500);
            self.connect(number, wait);
        }
    }
}
