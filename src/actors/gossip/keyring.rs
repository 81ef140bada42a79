//! The keys that messages came with lately, so that not every message asks its room. Pure.
//!
//! Invariant: what is here was given by the room, and is only ever used to open: who may still
//! seal is not known here.

use std::collections::{HashMap, VecDeque};

use ruma::{OwnedRoomId, RoomId};

use crate::proto::room_key::{KeyId, RoomKey};

/// Keys that are kept of one room: the one in use, and those of who is late or cut off.
const KEPT: usize = 4;

/// Keys by room, the newest last. As many rooms as are joined.
#[derive(Debug, Default)]
pub(super) struct Keyring(HashMap<OwnedRoomId, VecDeque<RoomKey>>);

impl Keyring {
    /// Returns a key of a room.
    pub(super) fn get(&self, room: &RoomId, id: &KeyId) -> Option<RoomKey> {
        self.0.get(room)?.iter().find(|key| key.id() == *id).copied()
    }

    /// Keeps a key of a joined room.
    pub(super) fn keep(&mut self, room: &RoomId, key: RoomKey) {
        let keys = self.0.entry(room.to_owned()).or_default();
        if keys.iter().any(|known| known.id() == key.id()) {
            return;
        }
        keys.push_back(key);
        if keys.len() > KEPT {
            keys.pop_front();
        }
    }

    /// Lets go of the keys of a room that was left.
    pub(super) fn forget(&mut self, room: &RoomId) {
        self.0.remove(room);
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;
    use crate::proto::room_key::Secret;

    #[test]
    fn the_newest_keys_of_each_room_are_kept() {
        let (room, other) = (room_id!("!a:x"), room_id!("!b:x"));
        let key = |byte| RoomKey::new(room, Secret([byte; 32]));
        let mut ring = Keyring::default();
        for byte in 0..=4 {
            ring.keep(room, key(byte));
            ring.keep(room, key(4));
        }
        let kept = |ring: &Keyring, byte| ring.get(room, &key(byte).id()).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(|byte| kept(&ring, byte)), [false, true, true, true, true]);
        assert_eq!(ring.get(other, &key(4).id()), None);
        ring.forget(room);
        assert!(!kept(&ring, 4));
    }
}
