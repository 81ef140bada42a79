//! The keys of one room: which one seals, which ones open, and who is given one. Pure: time and
//! randomness are arguments.
//!
//! A key is for one set of servers, its *audience*: those that had joined when it was made. It
//! seals exactly while that set is the one that has joined, as this node sees it. So nothing has
//! to be retired by agreement: whoever learns that somebody left, or came, has another set and
//! needs another key, and a key that comes back from somebody who lags behind seals nothing.
//! Where several are for the set of today (two were made at the same time, or on both sides of a
//! cut), the smallest id seals, so that all who hold the same ones choose the same.
//!
//! Invariants: a key is given to nobody outside of its audience; no key seals whose audience has
//! somebody in it who has not joined; there are never more than [`HELD`] keys.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};

use crate::proto::room_key::{KeyId, RoomKey, Secret};

/// Keys that are held of one room. A room needs one; more come of cuts, of keys made at the same
/// time, and of sets that were.
const HELD: usize = 16;
/// Of these, keys for the set of today: those with the smallest ids.
const CURRENT: usize = 8;
/// A key seals this long, then a new one is made: whoever gets hold of one reads a week.
const LIFE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// A key that does not seal any more opens this long: what was sealed with it and comes later is
/// refused as too old anyway (`docs/PROTOCOL.md` §4), clocks that differ included.
const OPENS_MS: u64 = 10 * 60 * 1000;
/// How far the clock of a maker may be ahead of ours.
const SKEW_MS: u64 = 5 * 60 * 1000;
/// Most servers of an audience.
const SERVERS: usize = 10_000;

/// A key as it is sent to a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The key.
    pub key: Secret,
    /// When it was made.
    pub made_ts: u64,
    /// Its audience.
    pub servers: BTreeSet<OwnedServerName>,
}

/// A key as it is held, and stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    given: Given,
    /// Since when it does not seal any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_since: Option<u64>,
}

/// The keys of one room.
#[derive(Debug)]
pub(crate) struct Keys {
    room_id: OwnedRoomId,
    own: OwnedServerName,
    /// The servers that have joined.
    joined: BTreeSet<OwnedServerName>,
    held: BTreeMap<KeyId, Held>,
}

impl Keys {
    /// Makes the keys of a room of which none are known.
    pub(crate) fn new(room_id: OwnedRoomId, own: OwnedServerName) -> Self {
        Self { room_id, own, joined: BTreeSet::new(), held: BTreeMap::new() }
    }

    /// Takes the stored keys.
    pub(crate) fn load(&mut self, stored: &[u8]) -> Result<(), serde_json::Error> {
        let held: Vec<Held> = serde_json::from_slice(stored)?;
        for held in held {
            self.held.insert(RoomKey::new(&self.room_id, held.given.key).id(), held);
        }
        Ok(())
    }

    /// Returns what is stored.
    pub(crate) fn store(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.held.values().collect::<Vec<_>>())
    }

    /// Tells whether nobody else has joined.
    pub(crate) fn is_alone(&self) -> bool {
        self.joined.iter().all(|server| *server == self.own)
    }

    /// Returns the other servers that have joined.
    pub(crate) fn others(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.joined.iter().filter(|server| **server != self.own)
    }

    /// Notes which servers have joined now. Returns those that had and have not any more.
    pub(crate) fn set_joined<'a>(
        &mut self,
        servers: impl Iterator<Item = &'a OwnedServerName>,
        now: u64,
    ) -> Vec<OwnedServerName> {
        let joined: BTreeSet<OwnedServerName> = servers.cloned().collect();
        let gone = self.joined.difference(&joined).cloned().collect();
        self.joined = joined;
        if !self.joined.contains(&self.own) {
            // What is said from here on is nothing to us, and what comes after a return has
            // another key.
            self.held.clear();
        }
        self.tidy(now);
        gone
    }

    /// Returns the key that seals now.
    pub(crate) fn sealing(&self, now: u64) -> Option<RoomKey> {
        let mut seals = self.held.iter().filter(|(_, held)| self.seals(&held.given, now));
        seals.next().map(|(_, held)| RoomKey::new(&self.room_id, held.given.key))
    }

    /// Returns a key that opens.
    pub(crate) fn opening(&self, id: &KeyId) -> Option<RoomKey> {
        self.held.get(id).map(|held| RoomKey::new(&self.room_id, held.given.key))
    }

    /// Makes a key for the servers that have joined.
    pub(crate) fn make(&mut self, secret: Secret, now: u64) -> RoomKey {
        let key = RoomKey::new(&self.room_id, secret);
        let given = Given { key: secret, made_ts: now, servers: self.joined.clone() };
        self.held.insert(key.id(), Held { given, idle_since: None });
        self.tidy(now);
        key
    }

    /// Takes keys that another server gave. Returns those that are new and kept.
    pub(crate) fn take(
        &mut self,
        from: &OwnedServerName,
        given: Vec<Given>,
        now: u64,
    ) -> Vec<RoomKey> {
        let mut new = Vec::new();
        for given in given.into_iter().take(HELD) {
            let key = RoomKey::new(&self.room_id, given.key);
            let theirs = given.servers.contains(from) && self.joined.contains(from);
            let ours = given.servers.contains(&self.own);
            let sound = given.made_ts <= now + SKEW_MS && given.servers.len() <= SERVERS;
            if theirs && ours && sound && !self.held.contains_key(&key.id()) {
                self.held.insert(key.id(), Held { given, idle_since: None });
                new.push(key);
            }
        }
        self.tidy(now);
        new.retain(|key| self.held.contains_key(&key.id()));
        new
    }

    /// Returns what a server may be given of some keys, or of those that seal now where none are
    /// named.
    pub(crate) fn give(&self, to: &OwnedServerName, ids: &[KeyId], now: u64) -> Vec<Given> {
        if !self.joined.contains(to) {
            return Vec::new();
        }
        let asked = |id: &KeyId, given: &Given| match ids {
            [] => self.seals(given, now),
            ids => ids.contains(id),
        };
        self.held
            .iter()
            .filter(|(id, held)| held.given.servers.contains(to) && asked(id, &held.given))
            .map(|(_, held)| held.given.clone())
            .collect()
    }

    fn seals(&self, given: &Given, now: u64) -> bool {
        given.servers == self.joined && now < given.made_ts.saturating_add(LIFE_MS)
    }

    /// Lets go of keys that are of no use any more, and of those that are too many.
    fn tidy(&mut self, now: u64) {
        let mut held = std::mem::take(&mut self.held);
        let mut current = 0;
        // The map is in the order of ids: the smallest stay.
        held.retain(|_, held| {
            if self.seals(&held.given, now) {
                held.idle_since = None;
                current += 1;
                return current <= CURRENT;
            }
            let since = *held.idle_since.get_or_insert(now);
            now < since.saturating_add(OPENS_MS)
        });
        while held.len() > HELD {
            let idle = held.iter().filter_map(|(id, held)| Some((held.idle_since?, *id))).min();
            let Some((_, longest)) = idle else { break };
            held.remove(&longest);
        }
        self.held = held;
    }
}

#[cfg(test)]
mod tests;
