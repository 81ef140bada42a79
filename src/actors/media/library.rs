//! What media there are, who has how much of the disk, and what gives way. Pure.
//!
//! A file belongs to its hash: what was uploaded twice is there once, for as long as one name is left that
//! it has. Invariants: what our users uploaded never gives way; what is on its way has its room already,
//! so that all together never takes more than is configured; who has used up their part is told so, and
//! takes nothing from others.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::messages::MediaError;
use crate::{
    config::{MediaConfig, limits},
    proto::media::{Hash, MediaName},
};

/// How often it is written down that something was looked at, in milliseconds.
const USED_EVERY_MS: u64 = 24 * 60 * 60 * 1000;

/// What is known of a piece of media; a row of the Store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The hash of its bytes; none while its id waits for an upload.
    pub(super) hash: Option<Hash>,
    /// Its bytes.
    pub(super) size: u64,
    /// What it was declared to be.
    pub(super) content_type: String,
    /// What its uploader called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file_name: Option<String>,
    /// Our user who uploaded it; none of what is another server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<OwnedUserId>,
    /// When it came, in milliseconds.
    pub(super) created: u64,
    /// When somebody here looked at it last, to a day.
    pub(super) used: u64,
}

/// For whom there is to be room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// A user of ours.
    User(OwnedUserId),
    /// Another server.
    Server(OwnedServerName),
}

impl Party {
    fn of(name: &MediaName, entry: &Entry) -> Self {
        match &entry.owner {
            Some(user_id) => Self::User(user_id.clone()),
            None => Self::Server(name.server_name.clone()),
        }
    }
}

/// Room that is kept for what is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reservation {
    party: Party,
    most: u64,
    /// The name that is being filled.
    name: Option<MediaName>,
}

/// How much somebody has.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    bytes: u64,
    media: usize,
    /// Ids without content.
    waiting: usize,
    /// On their way: how many, and the room that they have.
    coming: usize,
    reserved: u64,
}

/// A file, by its hash.
#[derive(Debug, Clone, Copy, Default)]
struct File {
    names: usize,
    size: u64,
    /// What was made of it: thumbnails.
    derived: u64,
}

/// What became of names that were dropped: these files are nobody's any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) names: Vec<MediaName>,
    pub(super) files: Vec<Hash>,
}

/// All media.
#[derive(Debug)]
pub(super) struct Library {
    config: MediaConfig,
    media: HashMap<MediaName, Entry>,
    /// Those of others, by when they were used last.
    by_use: BTreeSet<(u64, MediaName)>,
    files: HashMap<Hash, File>,
    parts: HashMap<Party, Part>,
    reservations: HashMap<u64, Reservation>,
    next: u64,
    bytes: u64,
    reserved: u64,
}

impl Library {
    pub(super) fn new(config: MediaConfig) -> Self {
        Self {
            config,
            media: HashMap::new(),
            by_use: BTreeSet::new(),
            files: HashMap::new(),
            parts: HashMap::new(),
            reservations: HashMap::new(),
            next: 0,
            bytes: 0,
            reserved: 0,
        }
    }

    pub(super) fn get(&self, name: &MediaName) -> Option<&Entry> {
        self.media.get(name)
    }

    pub(super) fn config(&self) -> &MediaConfig {
        &self.config
    }

    /// How many pieces of media there are, of how many bytes on disk.
    pub(super) fn totals(&self) -> (usize, u64) {
        (self.media.len(), self.bytes)
    }

    pub(super) fn has_file(&self, hash: &Hash) -> bool {
        self.files.contains_key(hash)
    }

    /// Returns which files there should be.
    pub(super) fn files(&self) -> HashSet<Hash> {
        self.files.keys().copied().collect()
    }

    /// Adds, or replaces, what is known of a piece of media.
    pub(super) fn insert(&mut self, name: MediaName, entry: Entry) {
        if self.media.contains_key(&name) {
            self.forget(&name);
        }
        let part = self.parts.entry(Party::of(&name, &entry)).or_default();
        part.media = part.media.saturating_add(1);
        match entry.hash {
            None => part.waiting = part.waiting.saturating_add(1),
            Some(hash) => {
                part.bytes = part.bytes.saturating_add(entry.size);
                let file = self.files.entry(hash).or_default();
                if file.names == 0 {
                    file.size = entry.size;
                    self.bytes = self.bytes.saturating_add(entry.size);
                }
                file.names = file.names.saturating_add(1);
            }
        }
        if entry.owner.is_none() {
            self.by_use.insert((entry.used, name.clone()));
        }
        self.media.insert(name, entry);
    }

    /// Takes a name away; returns the hash of its file where nothing else is called so.
    fn forget(&mut self, name: &MediaName) -> Option<Hash> {
        let entry = self.media.remove(name)?;
        self.by_use.remove(&(entry.used, name.clone()));
        let party = Party::of(name, &entry);
        if let Some(part) = self.parts.get_mut(&party) {
            part.media = part.media.saturating_sub(1);
            match entry.hash {
                None => part.waiting = part.waiting.saturating_sub(1),
                Some(_) => part.bytes = part.bytes.saturating_sub(entry.size),
            }
            if part.media == 0 && part.coming == 0 {
                self.parts.remove(&party);
            }
        }
        let hash = entry.hash?;
        let file = self.files.get_mut(&hash)?;
        file.names = file.names.saturating_sub(1);
        if file.names > 0 {
            return None;
        }
        let file = self.files.remove(&hash)?;
        self.bytes = self.bytes.saturating_sub(file.size).saturating_sub(file.derived);
        Some(hash)
    }

    pub(super) fn drop_all(&mut self, names: Vec<MediaName>) -> Dropped {
        let files = names.iter().filter_map(|name| self.forget(name)).collect();
        Dropped { names, files }
    }

    /// Takes note of what was made of a file.
    pub(super) fn derived(&mut self, hash: &Hash, bytes: u64) {
        if let Some(file) = self.files.get_mut(hash) {
            file.derived = file.derived.saturating_add(bytes);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Gives out an id that waits for its content.
    pub(super) fn create(
        &mut self,
        name: MediaName,
        owner: OwnedUserId,
        now: u64,
    ) -> Result<&Entry, MediaError> {
        let part = self.part(&Party::User(owner.clone()));
        if part.waiting >= limits::MEDIA_CREATED {
            return Err(MediaError::Busy("ids wait for an upload already"));
        }
        self.check_number(part)?;
        let entry = Entry {
            hash: None,
            size: 0,
            content_type: String::new(),
            file_name: None,
            owner: Some(owner),
            created: now,
            used: now,
        };
        self.insert(name.clone(), entry);
        self.media.get(&name).ok_or(MediaError::NotFound)
    }

    fn part(&self, party: &Party) -> Part {
        self.parts.get(party).copied().unwrap_or_default()
    }

    fn check_number(&self, part: Part) -> Result<(), MediaError> {
        if part.media.saturating_add(part.coming) >= limits::MEDIA_USER {
            return Err(MediaError::UserFull);
        }
        if self.media.len().saturating_add(self.reservations.len()) >= limits::MEDIA
            && self.by_use.is_empty()
        {
            return Err(MediaError::Full);
        }
        Ok(())
    }

    /// Keeps room for what is to come: of so many bytes, or of nobody knows how many. `free` is what the
    /// disk has left. Returns a number for it and how much may come; and what gives way.
    pub(super) fn reserve(
        &mut self,
        party: Party,
        name: Option<MediaName>,
        announced: Option<u64>,
        free: u64,
    ) -> Result<(u64, u64, Dropped), MediaError> {
        let one = self.config.max_upload_bytes;
        if announced.is_some_and(|announced| announced > one) {
            return Err(MediaError::TooLarge(one));
        }
        let part = self.part(&party);
        let (left_of_part, left_of_user) = match &party {
            Party::User(_) => {
                if part.coming >= limits::MEDIA_UPLOADS_USER
                    || self.reservations.len() >= limits::MEDIA_UPLOADS
                {
                    return Err(MediaError::Busy("uploads at once"));
                }
                self.check_number(part)?;
                let had = part.bytes.saturating_add(part.reserved);
                let left = self.config.max_user_bytes.saturating_sub(had);
                (left, Some(left))
            }
            Party::Server(_) => {
                let most = self.config.max_bytes.checked_div(limits::MEDIA_SERVER_SHARE);
                (most.unwrap_or_default().saturating_sub(part.reserved), None)
            }
        };
        let disk = free.saturating_sub(limits::MEDIA_DISK_LEFT).saturating_sub(self.reserved);
        let wanted = announced.unwrap_or(one).min(one);
        let least = announced.unwrap_or(1);
        if left_of_part < least {
            return Err(match left_of_user {
                Some(_) => MediaError::UserFull,
                None => MediaError::Full,
            });
        }
        let wanted = wanted.min(left_of_part);
        let before = self.bytes;
        let dropped = self.make_room(&party, wanted, disk);
        let disk = disk.saturating_add(before.saturating_sub(self.bytes));
        let left = self.config.max_bytes.saturating_sub(self.bytes).saturating_sub(self.reserved);
        if left < least {
            return Err(MediaError::Full);
        }
        if disk < least {
            return Err(MediaError::DiskFull);
        }
        let most = wanted.min(left).min(disk);
        self.next = self.next.wrapping_add(1);
        let part = self.parts.entry(party.clone()).or_default();
        part.coming = part.coming.saturating_add(1);
        part.reserved = part.reserved.saturating_add(most);
        self.reserved = self.reserved.saturating_add(most);
        self.reservations.insert(self.next, Reservation { party, most, name });
        Ok((self.next, most, dropped))
    }

    /// Drops what others sent and nobody looked at for longest, until so many bytes fit: of the same
    /// server where it has its part, of anybody where all is full.
    fn make_room(&mut self, party: &Party, wanted: u64, disk: u64) -> Dropped {
        let mut dropped = Dropped::default();
        if let Party::Server(server) = party {
            let most = self.config.max_bytes.checked_div(limits::MEDIA_SERVER_SHARE);
            let most = most.unwrap_or_default();
            let of_it = |(_, name): &&(u64, MediaName)| name.server_name == *server;
            let has = |part: Part| part.bytes.saturating_add(part.reserved).saturating_add(wanted);
            while has(self.part(party)) > most {
                let Some((_, name)) = self.by_use.iter().find(of_it).cloned() else { break };
                self.drop_into(&mut dropped, name);
            }
        }
        let short = |library: &Self, freed: u64| {
            let taken = library.bytes.saturating_add(library.reserved).saturating_add(wanted);
            taken > library.config.max_bytes
                || wanted > disk.saturating_add(freed)
                || library.media.len().saturating_add(library.reservations.len()) >= limits::MEDIA
        };
        let before = self.bytes;
        while short(self, before.saturating_sub(self.bytes)) {
            let Some((_, name)) = self.by_use.first().cloned() else { break };
            self.drop_into(&mut dropped, name);
        }
        dropped
    }

    fn drop_into(&mut self, dropped: &mut Dropped, name: MediaName) {
        dropped.files.extend(self.forget(&name));
        dropped.names.push(name);
    }

    /// Tells whether somebody is filling a name right now.
    pub(super) fn is_coming(&self, name: &MediaName) -> bool {
        self.reservations.values().any(|one| one.name.as_ref() == Some(name))
    }

    /// Gives room back: what it was for is there, or never will be. Returns for whom it was, and what.
    pub(super) fn release(&mut self, number: u64) -> Option<(Party, Option<MediaName>)> {
        let Reservation { party, most, name } = self.reservations.remove(&number)?;
        self.reserved = self.reserved.saturating_sub(most);
        if let Some(part) = self.parts.get_mut(&party) {
            part.coming = part.coming.saturating_sub(1);
            part.reserved = part.reserved.saturating_sub(most);
        }
        Some((party, name))
    }

    /// Somebody here looks at it. Returns the entry where that is to be written down.
    pub(super) fn touch(&mut self, name: &MediaName, now: u64) -> Option<Entry> {
        let entry = self.media.get_mut(name)?;
        if now < entry.used.saturating_add(USED_EVERY_MS) {
            return None;
        }
        if entry.owner.is_none() {
            self.by_use.remove(&(entry.used, name.clone()));
            self.by_use.insert((now, name.clone()));
        }
        entry.used = now;
        Some(entry.clone())
    }

    /// Drops ids for which nothing came, and what others sent and nobody looked at for long.
    pub(super) fn drop_old(&mut self, now: u64) -> Dropped {
        let days = u64::from(self.config.remote_days);
        let kept = days.saturating_mul(24 * 60 * 60 * 1000).max(USED_EVERY_MS);
        let old = self.by_use.iter().take_while(|(used, _)| used.saturating_add(kept) < now);
        let mut names: Vec<MediaName> = old.map(|(_, name)| name.clone()).collect();
        let waits = self.media.iter().filter(|(name, entry)| {
            let until = entry.created.saturating_add(limits::MEDIA_CREATED_MS);
            entry.hash.is_none() && until < now && !self.is_coming(name)
        });
        names.extend(waits.map(|(name, _)| name.clone()));
        self.drop_all(names)
    }

    /// Drops what others sent and of which the file is gone.
    pub(super) fn drop_lost(&mut self, there: &HashSet<Hash>) -> Dropped {
        let lost = self.media.iter().filter(|(_, entry)| {
            entry.owner.is_none() && entry.hash.is_none_or(|hash| !there.contains(&hash))
        });
        let lost = lost.map(|(name, _)| name.clone()).collect();
        self.drop_all(lost)
    }
}

#[cfg(test)]
mod tests;
