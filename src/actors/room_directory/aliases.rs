//! Which aliases lead where, and which rooms are published. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId};
use serde::{Deserialize, Serialize};

use super::messages::DirectoryError;
use crate::config::limits;

/// Where an alias leads; a row of the Store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) room_id: OwnedRoomId,
    /// Who made it.
    pub(super) by: OwnedUserId,
}

/// All of this server.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    entries: BTreeMap<OwnedRoomAliasId, Entry>,
    of_rooms: BTreeMap<OwnedRoomId, BTreeSet<OwnedRoomAliasId>>,
    published: BTreeSet<OwnedRoomId>,
}

impl Aliases {
    pub(super) fn insert(&mut self, alias: OwnedRoomAliasId, entry: Entry) {
        self.of_rooms.entry(entry.room_id.clone()).or_default().insert(alias.clone());
        self.entries.insert(alias, entry);
    }

    pub(super) fn get(&self, alias: &RoomAliasId) -> Option<&Entry> {
        self.entries.get(alias)
    }

    pub(super) fn of_room(&self, room_id: &RoomId) -> Vec<OwnedRoomAliasId> {
        self.of_rooms.get(room_id).into_iter().flatten().cloned().collect()
    }

    /// Checks whether one more may be. The same one twice is none more.
    pub(super) fn check(&self, alias: &RoomAliasId, entry: &Entry) -> Result<(), DirectoryError> {
        if let Some(known) = self.entries.get(alias) {
            return if known.room_id == entry.room_id {
                Ok(())
            } else {
                Err(DirectoryError::Taken)
            };
        }
        let of_room = self.of_rooms.get(&entry.room_id).map_or(0, BTreeSet::len);
        if of_room >= limits::ALIASES_ROOM || self.entries.len() >= limits::ALIASES {
            return Err(DirectoryError::Full("aliases"));
        }
        Ok(())
    }

    /// Takes one away, where that may be.
    pub(super) fn remove(
        &mut self,
        alias: &RoomAliasId,
        by: &OwnedUserId,
        has_power: bool,
    ) -> Result<(), DirectoryError> {
        let entry = self.entries.get(alias).ok_or(DirectoryError::NotFound("alias"))?;
        if entry.by != *by && !has_power {
            return Err(DirectoryError::Forbidden(
                "an alias is taken away by who made it, or may say what the room is called",
            ));
        }
        self.forget(alias);
        Ok(())
    }

    pub(super) fn forget(&mut self, alias: &RoomAliasId) {
        if let Some(entry) = self.entries.remove(alias)
            && let Some(of_room) = self.of_rooms.get_mut(&entry.room_id)
        {
            of_room.remove(alias);
            if of_room.is_empty() {
                self.of_rooms.remove(&entry.room_id);
            }
        }
    }

    /// Publishes a room, or not. Tells whether that is new.
    pub(super) fn publish(
        &mut self,
        room_id: OwnedRoomId,
        is_public: bool,
    ) -> Result<bool, DirectoryError> {
        if !is_public {
            return Ok(self.published.remove(&room_id));
        }
        if self.published.len() >= limits::PUBLISHED {
            return Err(DirectoryError::Full("public rooms"));
        }
        Ok(self.published.insert(room_id))
    }

    pub(super) fn is_published(&self, room_id: &RoomId) -> bool {
        self.published.contains(room_id)
    }

    pub(super) fn published(&self) -> Vec<OwnedRoomId> {
        self.published.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(name: &str) -> OwnedRoomAliasId {
        format!("#{name}:x").try_into().unwrap()
    }

    fn entry(room: &str, by: &str) -> Entry {
        Entry { room_id: format!("!{room}:x").try_into().unwrap(), by: by.try_into().unwrap() }
    }

    #[test]
    fn an_alias_leads_to_one_room_until_who_may_takes_it_away() {
        let (mut aliases, ann, bob) = (Aliases::default(), "@ann:x", "@bob:x");
        let tea = entry("tea", ann);
        aliases.check(&alias("a"), &tea).unwrap();
        aliases.insert(alias("a"), tea.clone());
        aliases.check(&alias("a"), &tea).unwrap();
        let taken = aliases.check(&alias("a"), &entry("cake", ann));
        assert!(matches!(taken, Err(DirectoryError::Taken)));
        assert_eq!(aliases.of_room(&tea.room_id), [alias("a")]);
        let bob: OwnedUserId = bob.try_into().unwrap();
        let refused = aliases.remove(&alias("a"), &bob, false);
        assert!(matches!(refused, Err(DirectoryError::Forbidden(_))));
        aliases.remove(&alias("a"), &bob, true).unwrap();
        assert!(aliases.get(&alias("a")).is_none() && aliases.of_room(&tea.room_id).is_empty());
        let gone = aliases.remove(&alias("a"), &bob, true);
        assert!(matches!(gone, Err(DirectoryError::NotFound(_))));
    }

    #[test]
    fn nobody_makes_aliases_without_end() {
        let mut aliases = Aliases::default();
        for n in 0..limits::ALIASES_ROOM {
            aliases.insert(alias(&n.to_string()), entry("tea", "@ann:x"));
        }
        let full = aliases.check(&alias("more"), &entry("tea", "@ann:x"));
        assert!(matches!(full, Err(DirectoryError::Full(_))));
        aliases.check(&alias("more"), &entry("cake", "@ann:x")).unwrap();
    }
}
