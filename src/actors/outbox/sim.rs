//! The Outbox for simulations: its rules and rows are the real ones, the disk is a map.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName};

use super::{
    Form, Matter, OwedCount,
    kept::{self, Kept, Read},
    machine::{Change, Machine, New, Outcome, Shape},
};
use crate::config::limits;

/// What was taken over and is being written.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    server: OwnedServerName,
    number: u64,
    value: Vec<u8>,
    changes: Vec<Change>,
}

/// What became of something, to be written. A crash before that loses it.
#[derive(Debug, Clone)]
pub(crate) struct Keeping(Vec<Change>);

/// What waits for an event.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    server: OwnedServerName,
    number: u64,
    pub(crate) event_id: OwnedEventId,
}

/// The Outbox of one node.
#[derive(Debug, Default)]
pub(crate) struct SimOutbox {
    machine: Machine,
    disk: BTreeMap<(OwnedServerName, u64), Vec<u8>>,
}

impl SimOutbox {
    /// Takes over what is owed; none where there is no place. `now` is the uptime.
    pub(crate) fn owe(
        &mut self,
        server: &OwnedServerName,
        name: &str,
        once: Option<(OwnedRoomId, OwnedEventId)>,
        now: u64,
        now_ts: u64,
    ) -> Option<Writing> {
        let content = CanonicalJsonValue::String(name.to_owned());
        let form = match once {
            Some(_) => Form::Put { uri: "/invite".to_owned(), content },
            None => Form::Edu(content),
        };
        let matter = Matter::ToDevice { message_id: name.to_owned() };
        let shape = Shape::from(&form);
        let kept = Kept {
            request_id: name.to_owned(),
            matter: matter.clone(),
            form,
            made_ts: now_ts,
            expires_ts: now_ts + limits::OWED_MS,
            once: once.clone(),
        };
        let value = kept::waiting(kept).unwrap();
        let new = New { matter, shape, len: value.len(), made_ts: now_ts, once };
        let taken = self.machine.owe(server, new, now).ok()?;
        let (server, changes) = (server.clone(), taken.changes);
        Some(Writing { server, number: taken.number?, value, changes })
    }

    /// What was taken over is on disk.
    pub(crate) fn written(&mut self, writing: Writing) {
        let Writing { server, number, value, changes } = writing;
        self.keep(Keeping(changes));
        self.disk.insert((server.clone(), number), value);
        self.machine.stored(&server, number);
    }

    /// Writes down what became of something.
    pub(crate) fn keep(&mut self, Keeping(changes): Keeping) {
        for Change { server, number, ended } in changes {
            match ended {
                Some(ended) => {
                    self.disk.insert((server, number), kept::ended(&ended).unwrap());
                }
                None => {
                    self.disk.remove(&(server, number));
                }
            }
        }
    }

    /// Returns what is to be sent now, as what it is named.
    pub(crate) fn next(&mut self, now: u64) -> Option<(OwnedServerName, Vec<String>)> {
        let send = self.machine.next(now)?;
        let name = |number: &u64| match kept::read(
            &send.server,
            &self.disk[&(send.server.clone(), *number)],
        ) {
            Ok(Read::Waiting(kept)) => kept.request_id,
            other => panic!("{other:?} is sent"),
        };
        let names = send.numbers.iter().map(name).collect();
        Some((send.server, names))
    }

    /// A server answered with this status, or did not.
    pub(crate) fn answered(
        &mut self,
        server: &OwnedServerName,
        status: Option<u16>,
        now: u64,
        now_ts: u64,
        chance: f64,
    ) -> Keeping {
        let outcome = match status {
            None => Outcome::Unreached,
            Some(200) => Outcome::Delivered,
            Some(429) => Outcome::Busy,
            Some(status) => Outcome::Refused { status, errcode: "M_FORBIDDEN".to_owned() },
        };
        Keeping(self.machine.answered(server, outcome, now, now_ts, chance))
    }

    pub(crate) fn met(&mut self, server: &OwnedServerName, now: u64) {
        self.machine.met(server, now);
    }

    /// Returns what waits for an event for so long that it is looked for.
    pub(crate) fn undecided(&mut self, now: u64) -> Vec<Open> {
        let open = self.machine.undecided(now).into_iter();
        open.map(|it| Open { server: it.server, number: it.number, event_id: it.event_id })
            .collect()
    }

    /// The event that something waits for is part of its room, or is not.
    pub(crate) fn decide(&mut self, open: &Open, stands: bool) -> Keeping {
        Keeping(self.machine.decide(&open.server, open.number, stands).into_iter().collect())
    }

    /// Ends and starts again: what is on disk is there.
    pub(crate) fn restart(&mut self) {
        self.machine = Machine::default();
        for ((server, number), value) in &self.disk {
            match kept::read(server, value).unwrap() {
                Read::Waiting(kept) => self.machine.load(server, *number, kept, value.len()),
                Read::Ended(ended) => self.machine.load_ended(*number, ended),
            }
        }
    }

    pub(crate) fn count(&self) -> OwedCount {
        self.machine.count()
    }

    /// Returns how much a server is owed.
    pub(crate) fn owed_to(&self, server: &OwnedServerName) -> usize {
        let status = self.machine.status(0);
        status.servers.iter().filter(|it| it.server_name == *server).map(|it| it.items).sum()
    }
}
