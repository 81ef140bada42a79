//! What simulated nodes say, and how it reaches the others by gossip.

use std::sync::Arc;

use ruma::OwnedEventId;
use serde_json::json;

use super::{
    messages::{Envelope, Gossip, Message},
    node::Behaves,
    world::{Action, SECOND, World},
};
use crate::{
    actors::{
        gossip::sim::Heard,
        room::machine::tests::{draft, message},
    },
    proto::pdu::{Draft, Pdu},
};

/// Bytes of a message of gossip.
const LEN: usize = 1500;
/// Events of a flood.
const FLOOD: u64 = 60;

impl World {
    pub(super) fn say(&mut self, number: usize) {
        if !self.nodes[number].is_up {
            return;
        }
        let time = self.nodes[number].time(self.now);
        self.nodes[number].replica.at(time);
        match self.nodes[number].way {
            Behaves::Forks if self.dice.percent(60) => self.fork(number),
            Behaves::Floods if self.dice.percent(15) => {
                for _ in 0..FLOOD {
                    self.say_one(number);
                }
            }
            _ => self.say_one(number),
        }
        self.after(2 * SECOND, Action::Announce(number));
        if self.nodes[number].way == Behaves::Invents {
            let made_up = OwnedEventId::try_from(format!("$made_up_{}", self.number)).unwrap();
            self.gossip(number, &Gossip::Heads(Arc::new(vec![made_up])));
        }
    }

    /// Chooses what is said; state where the second is something.
    fn words(&mut self, number: usize) -> (Draft, Option<Draft>) {
        let (is_state, chance) = (self.dice.percent(25), self.dice.below(1000));
        let text = format!("{chance} at {}", self.nodes[number].time(self.now));
        let topic = || draft("m.room.topic", Some(""), json!({"topic": text}));
        (message(&text), is_state.then(topic))
    }

    fn say_one(&mut self, number: usize) {
        let (words, topic) = self.words(number);
        let said: Arc<Pdu> = self.with(number, |node| {
            let said = topic.and_then(|topic| node.replica.send(topic).ok());
            let said = said.unwrap_or_else(|| node.replica.send(words).unwrap());
            node.keep();
            said
        });
        self.tell(&said);
        self.gossip(number, &Gossip::Said(said.event_id.clone()));
    }

    /// Says several things at one place, each to some.
    fn fork(&mut self, number: usize) {
        let me = self.nodes[number].replica.me.to_string();
        let count = 2 + self.dice.below(4) as usize;
        let drafts = (0..count).map(|fork| match self.dice.percent(30) {
            true => {
                let content = json!({"membership": "join", "displayname": format!("fork {fork}")});
                draft("m.room.member", Some(&me), content)
            }
            false => message(&format!("fork {fork} at {}", self.now)),
        });
        let drafts = drafts.collect();
        let forks = self.with(number, |node| {
            let forks = node.replica.fork(drafts);
            node.keep();
            forks
        });
        for (fork, pdu) in forks.iter().enumerate() {
            self.tell(pdu);
            let envelope = self.envelope(number, &Gossip::Said(pdu.event_id.clone()));
            for to in (0..self.nodes.len()).filter(|to| to % count == fork) {
                self.send(number, to, Message::Gossip(envelope.clone()));
            }
        }
    }

    fn envelope(&mut self, origin: usize, gossip: &Gossip) -> Envelope {
        self.number += 1;
        let ts = self.nodes[origin].time(self.now);
        Envelope { origin, number: self.number, ts, gossip: gossip.clone() }
    }

    /// Tells all, and some of them twice.
    fn gossip(&mut self, origin: usize, gossip: &Gossip) {
        let envelope = self.envelope(origin, gossip);
        for to in 0..self.nodes.len() {
            self.send(origin, to, Message::Gossip(envelope.clone()));
            if self.dice.percent(3) {
                self.send(origin, to, Message::Gossip(envelope.clone()));
            }
        }
    }

    pub(super) fn announce(&mut self, node: usize) {
        if self.nodes[node].is_up {
            let heads = Arc::new(self.nodes[node].heads());
            self.gossip(node, &Gossip::Heads(heads));
        }
    }

    /// A message of gossip came in.
    pub(super) fn heard(&mut self, node: usize, peer: usize, envelope: Envelope) {
        match self.nodes[node].door.hear(peer, LEN, envelope, self.now) {
            Heard::Begun(envelope) => self.work(node, peer, envelope),
            Heard::Waits => {}
            Heard::Lost => self.lost(node, peer),
        }
    }

    fn work(&mut self, node: usize, peer: usize, envelope: Envelope) {
        let (wait, starts) = (5 + self.dice.below(100), self.nodes[node].starts);
        self.after(wait, Action::Worked { node, starts, peer, envelope });
    }

    /// Gossip was lost here, so heads are compared soon.
    fn lost(&mut self, node: usize, peer: usize) {
        let wait = 3 * SECOND + self.dice.below(1500);
        self.after(wait, Action::MeetOne(node, peer));
    }

    /// A message of gossip was looked at.
    pub(super) fn worked(&mut self, node: usize, peer: usize, envelope: &Envelope) {
        let Envelope { origin, number, ts, gossip } = envelope;
        let (now, name) = (self.nodes[node].time(self.now), self.names[*origin].clone());
        if self.nodes[node].door.counts(&name, &number.to_string(), *ts, now) {
            match gossip {
                Gossip::Said(id) => {
                    self.nodes[node].came += 1;
                    self.take(node, std::slice::from_ref(id));
                    if self.nodes[node].replica.machine.is_parked(id) {
                        self.fetch(node, id, *origin);
                    }
                }
                Gossip::Heads(heads) => {
                    let machine = &self.nodes[node].replica.machine;
                    let waits = |id: &&OwnedEventId| !machine.is_parked(id);
                    let heads: Vec<_> = heads.iter().filter(waits).cloned().collect();
                    self.catch_up(node, *origin, Arc::new(heads));
                    self.fetch_parked(node, *origin);
                }
            }
        }
        let (next, lost) = self.nodes[node].door.done(peer, self.now);
        if lost > 0 {
            self.lost(node, peer);
        }
        if let Some(next) = next {
            self.work(node, peer, next);
        }
    }
}
