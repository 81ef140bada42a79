//! What simulated nodes owe to others who may be away.

use ruma::OwnedEventId;

use super::{
    messages::{Asked, Request},
    node::Behaves,
    world::{Action, SECOND, World},
};
use crate::actors::outbox::sim::{Open, Writing};

/// How long a row is on its way to the disk, in milliseconds.
const DISK: u64 = 10;

impl World {
    /// A node comes to owe something to another one.
    pub(super) fn owe(&mut self, node: usize) {
        let to = self.dice.below(self.nodes.len() as u64) as usize;
        if to == node || !self.nodes[node].is_up {
            return;
        }
        self.number += 1;
        let name = format!("{}", self.number);
        // Some of it waits for an event, which comes to be or does not.
        let once = self.dice.percent(40).then(|| {
            let event_id = OwnedEventId::try_from(format!("$invite_{name}")).unwrap();
            self.stands.insert(event_id.clone(), self.dice.percent(70));
            (self.room_id.clone(), event_id)
        });
        let (now, server) = (self.now, self.names[to].clone());
        let time = self.nodes[node].time(now);
        let outbox = &mut self.nodes[node].outbox;
        let Some(writing) = outbox.owe(&server, &name, once, now, time) else { return };
        let starts = self.nodes[node].starts;
        self.after(DISK, Action::Written { node, starts, to, name, writing });
    }

    /// It is on disk: whoever wanted it is told so.
    pub(super) fn written(&mut self, node: usize, to: usize, name: String, writing: Writing) {
        let event = OwnedEventId::try_from(format!("$invite_{name}")).unwrap();
        if self.stands.get(&event) != Some(&false) {
            self.owed.entry((node, to)).or_default().push(name);
        }
        self.nodes[node].outbox.written(writing);
        self.pump(node);
    }

    /// Sends what is due, and looks again as long as something is owed.
    pub(super) fn pump(&mut self, node: usize) {
        let starts = self.nodes[node].starts;
        for open in self.nodes[node].outbox.undecided(self.now) {
            let wait = self.dice.below(2 * SECOND);
            self.after(wait, Action::Decide { node, starts, open });
        }
        if self.nodes[node].is_up {
            while let Some((server, names)) = self.nodes[node].outbox.next(self.now) {
                let of = self.index[&server];
                self.request(node, of, Asked::Owed(server), Request::Owed(names));
            }
        }
        let is_owed = self.nodes[node].outbox.count().items > 0;
        if is_owed && !self.nodes[node].is_pumping {
            self.nodes[node].is_pumping = true;
            self.after(SECOND, Action::Pump { node, starts });
        }
    }

    pub(super) fn decide(&mut self, node: usize, open: &Open) {
        let stands = self.stands[&open.event_id];
        let keeping = self.nodes[node].outbox.decide(open, stands);
        let starts = self.nodes[node].starts;
        self.after(DISK, Action::Keep { node, starts, keeping });
        self.pump(node);
    }

    /// What was owed came: each counts once. Returns what is answered.
    pub(super) fn told(&mut self, from: usize, to: usize, names: Vec<String>) -> Option<u16> {
        match self.nodes[to].way {
            Behaves::Silent => return None,
            Behaves::Withholds => return Some(403),
            _ if self.dice.percent(5) => return Some(429),
            _ => {}
        }
        let told = self.nodes[to].told.entry(from).or_default();
        for name in names {
            if !told.contains(&name) {
                told.push(name);
            }
        }
        Some(200)
    }

    /// What was sent came to this.
    pub(super) fn sent(&mut self, node: usize, server: &ruma::ServerName, status: Option<u16>) {
        let (now, chance, server) = (self.now, self.dice.chance(), server.to_owned());
        let time = self.nodes[node].time(now);
        let keeping = self.nodes[node].outbox.answered(&server, status, now, time, chance);
        let starts = self.nodes[node].starts;
        self.after(DISK, Action::Keep { node, starts, keeping });
        self.pump(node);
    }
}
