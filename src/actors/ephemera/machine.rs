//! Who types where, and who is there.
//!
//! Invariants: the position grows with each change that somebody can see, and with nothing else;
//! nobody types for longer than two minutes without saying so again; both maps are bounded.

use std::collections::{BTreeMap, HashMap};

use ruma::{OwnedRoomId, OwnedUserId};

use super::messages::{EphemeralRows, Presence, Typing};

/// Longest time for which somebody types, in milliseconds.
const TYPING_MS: u64 = 120_000;
/// Most people who type in a room at once; the others are not shown.
const TYPING_ROOM: usize = 100;
/// Most people whose presence is known; who was heard of longest ago gives way.
const PRESENCE: usize = 10_000;

/// Who types in one room.
#[derive(Debug, Default)]
struct Room {
    /// When the list changed last, as a position.
    changed: u64,
    /// By user, until when.
    typing: BTreeMap<OwnedUserId, u64>,
}

#[derive(Debug)]
struct Known {
    changed: u64,
    /// When it was heard, in milliseconds.
    heard: u64,
    presence: Presence,
}

/// The state of Ephemera.
#[derive(Debug, Default)]
pub(super) struct Machine {
    position: u64,
    rooms: HashMap<OwnedRoomId, Room>,
    presence: HashMap<OwnedUserId, Known>,
}

impl Machine {
    /// Returns the position.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Somebody types, or stopped. Returns whether anybody can see a change.
    pub(super) fn typing(&mut self, msg: Typing, now: u64) -> bool {
        let Typing { room_id, user_id, timeout_ms } = msg;
        let changed = match timeout_ms {
            Some(ms) => {
                let room = self.rooms.entry(room_id.clone()).or_default();
                let known = room.typing.contains_key(&user_id);
                if !known && room.typing.len() >= TYPING_ROOM {
                    return false;
                }
                let until = now.saturating_add(ms.min(TYPING_MS));
                room.typing.insert(user_id, until);
                !known
            }
            None => {
                let room = self.rooms.get_mut(&room_id);
                room.is_some_and(|room| room.typing.remove(&user_id).is_some())
            }
        };
        if changed {
            self.position += 1;
            if let Some(room) = self.rooms.get_mut(&room_id) {
                room.changed = self.position;
            }
        }
        changed
    }

    /// Ends what has expired. Returns whether anybody can see a change.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let mut any = false;
        for room in self.rooms.values_mut() {
            let before = room.typing.len();
            room.typing.retain(|_, until| *until > now);
            if room.typing.len() < before {
                self.position += 1;
                room.changed = self.position;
                any = true;
            }
        }
        any
    }

    /// Returns when the next one expires.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.rooms.values().flat_map(|room| room.typing.values()).min().copied()
    }

    /// Somebody's presence. Returns whether anybody can see a change: being active again a moment
    /// later is none.
    pub(super) fn presence(&mut self, msg: Presence, now: u64) -> bool {
        let known = self.presence.get(&msg.user_id);
        let changed = known.is_none_or(|known| {
            let old = &known.presence;
            old.presence != msg.presence
                || old.status_msg != msg.status_msg
                || old.currently_active != msg.currently_active
        });
        if known.is_none() && self.presence.len() >= PRESENCE {
            let oldest = self.presence.iter().min_by_key(|(_, known)| known.heard);
            if let Some(user_id) = oldest.map(|(user_id, _)| user_id.clone()) {
                self.presence.remove(&user_id);
            }
        }
        let mut at = known_change(self.presence.get(&msg.user_id));
        if changed {
            self.position += 1;
            at = self.position;
        }
        self.presence.insert(msg.user_id.clone(), Known { changed: at, heard: now, presence: msg });
        changed
    }

    /// Returns somebody's presence as it is now.
    pub(super) fn read_presence(&self, user_id: &OwnedUserId, now: u64) -> Option<Presence> {
        self.presence.get(user_id).map(|known| aged(known, now))
    }

    /// Returns what changed after a position.
    pub(super) fn read(&self, since: u64, now: u64) -> EphemeralRows {
        let typing = self.rooms.iter().filter(|(_, room)| {
            // Who knows nothing yet need not be told that nobody types.
            room.changed > since && (since > 0 || !room.typing.is_empty())
        });
        let typing = typing
            .map(|(room_id, room)| (room_id.clone(), room.typing.keys().cloned().collect()))
            .collect();
        let presence = self.presence.values().filter(|known| known.changed > since);
        let presence = presence.map(|known| aged(known, now)).collect();
        EphemeralRows { position: self.position, typing, presence }
    }
}

fn known_change(known: Option<&Known>) -> u64 {
    known.map_or(0, |known| known.changed)
}

/// Returns presence with the time that has passed since it was heard.
fn aged(known: &Known, now: u64) -> Presence {
    let passed = now.saturating_sub(known.heard);
    let mut presence = known.presence.clone();
    presence.last_active_ago = presence.last_active_ago.map(|ago| ago.saturating_add(passed));
    presence
}

#[cfg(test)]
mod tests {
    use ruma::{presence::PresenceState, room_id, user_id};

    use super::*;

    fn typing(timeout_ms: Option<u64>) -> Typing {
        Typing {
            room_id: room_id!("!r:x").to_owned(),
            user_id: user_id!("@a:x").to_owned(),
            timeout_ms,
        }
    }

    fn online(active: bool) -> Presence {
        Presence {
            user_id: user_id!("@a:x").to_owned(),
            presence: PresenceState::Online,
            status_msg: None,
            last_active_ago: Some(0),
            currently_active: active,
        }
    }

    #[test]
    fn typing_begins_goes_on_and_ends() {
        let mut machine = Machine::default();
        assert!(machine.typing(typing(Some(1000)), 0));
        let begun = machine.read(0, 0);
        assert_eq!(begun.typing.len(), 1);
        assert!(!machine.typing(typing(Some(1000)), 500), "going on is no change");
        assert!(machine.read(begun.position, 500).typing.is_empty());
        assert!(!machine.expire(1400));
        assert_eq!(machine.next_expiry(), Some(1500));
        assert!(machine.expire(1500));
        let ended = machine.read(begun.position, 1500);
        assert_eq!(ended.typing[room_id!("!r:x")], Vec::<OwnedUserId>::new());
        assert!(machine.read(0, 1500).typing.is_empty(), "nothing to tell who knows nothing");
        assert!(!machine.typing(typing(None), 1600), "stopped already");
    }

    #[test]
    fn nobody_types_for_ever() {
        let mut machine = Machine::default();
        machine.typing(typing(Some(u64::MAX)), 7);
        assert_eq!(machine.next_expiry(), Some(7 + TYPING_MS));
    }

    #[test]
    fn a_crowd_that_types_is_bounded() {
        let mut machine = Machine::default();
        for number in 0..1000 {
            let user_id = format!("@u{number}:x").try_into().unwrap();
            machine.typing(Typing { user_id, ..typing(Some(1000)) }, 0);
        }
        assert_eq!(machine.read(0, 0).typing[room_id!("!r:x")].len(), TYPING_ROOM);
    }

    #[test]
    fn presence_changes_and_ages() {
        let mut machine = Machine::default();
        assert!(machine.presence(online(true), 1000));
        assert!(!machine.presence(online(true), 2000), "still online is no change");
        let rows = machine.read(0, 5000);
        assert_eq!(rows.presence[0].last_active_ago, Some(3000));
        assert!(machine.read(rows.position, 5000).presence.is_empty());
        assert!(machine.presence(online(false), 6000));
        assert_eq!(machine.read(rows.position, 6000).presence.len(), 1);
        assert!(machine.read_presence(&user_id!("@b:x").to_owned(), 0).is_none());
    }
}
