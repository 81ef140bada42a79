//! The rules of gossip for simulations: which message is looked at when, and which counts. The machine and
//! what waits before it are the real ones; what is said, by whom and when, the simulation says.

use std::time::{Duration, Instant};

use ruma::{CanonicalJsonValue, OwnedRoomId, OwnedServerName};

use super::{
    backlog::Backlog,
    machine::{Machine, Refusal},
};
use crate::proto::{
    endpoint::SEND,
    signed::{FRESH_MS, Request},
};

/// What becomes of a message that came.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    /// It is worked on; then [`Door::done`] is owed.
    Begun(T),
    /// It waits for its turn.
    Waits,
    /// There was no place for it.
    Lost,
}

/// Messages of one room, of which each carries a `T`. Peers are numbers.
pub(crate) struct Door<T> {
    machine: Machine<usize>,
    backlog: Backlog<usize, T>,
    room_id: OwnedRoomId,
    topic: String,
    began: Instant,
}

impl<T> Door<T> {
    pub(crate) fn new(
        room_id: &OwnedRoomId,
        peers: impl Iterator<Item = (usize, OwnedServerName)>,
    ) -> Self {
        let mut machine = Machine::default();
        let topic = machine.join(room_id.clone()).unwrap();
        for (peer, server) in peers {
            machine.verified(peer, server);
        }
        let (backlog, room_id) = (Backlog::default(), room_id.clone());
        Self { machine, backlog, room_id, topic, began: Instant::now() }
    }

    fn at(&self, now: u64) -> Instant {
        self.began + Duration::from_millis(now)
    }

    /// A message of so many bytes came. `now` is in milliseconds since the begin.
    pub(crate) fn hear(&mut self, peer: usize, len: usize, message: T, now: u64) -> Heard<T> {
        match self.machine.begin(peer, &self.topic) {
            Ok(_) => Heard::Begun(message),
            Err(Refusal::Busy) => match self.backlog.push(peer, len, message, self.at(now)) {
                None => Heard::Waits,
                Some(_) => Heard::Lost,
            },
            Err(Refusal::Unknown) => Heard::Lost,
        }
    }

    /// A message has its verdict. Returns the next one to be worked on of its peer, and how many
    /// before that had waited for too long.
    pub(crate) fn done(&mut self, peer: usize, now: u64) -> (Option<T>, usize) {
        self.machine.done(&peer);
        let mut lost = 0;
        while let Some(next) = self.backlog.pop(&peer, self.at(now)) {
            match next {
                Ok(message) => match self.machine.begin(peer, &self.topic) {
                    Ok(_) => return (Some(message), lost),
                    Err(_) => lost += 1,
                },
                Err(_) => lost += 1,
            }
        }
        (None, lost)
    }

    /// Tells whether a message counts. Times are those of the day, there and here.
    pub(crate) fn counts(&mut self, origin: &OwnedServerName, id: &str, ts: u64, now: u64) -> bool {
        if ts.abs_diff(now) > FRESH_MS {
            return false;
        }
        let request = Request {
            method: "PUT".to_owned(),
            uri: SEND.to_owned(),
            origin: origin.clone(),
            destination: self.room_id.to_string(),
            origin_server_ts: ts,
            request_id: id.to_owned(),
            content: CanonicalJsonValue::Null,
        };
        self.machine.judge(&self.room_id, &request, now).is_ok()
    }
}
