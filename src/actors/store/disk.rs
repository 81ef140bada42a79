//! The way to the disk: what the journal has goes into the database, a batch at a time.
//!
//! The database follows the journal. In the batch that brings it a number of groups, a row says up
//! to which record it has them, how much is live, and the fingerprint of all rows. Invariants:
//!
//! - A batch is whole groups, so the database alone is as it was after one of them.
//! - What it was given is in the journal, durable, before.
//! - A batch is flushed and synced before the next one begins, so a power cut finds sled as it is
//!   found after a single write.

use std::fs::File;

use super::{
    StoreError,
    database::{Changes, Database, disk_error},
    journal::{self, Journal, Place},
    schema::{Key, family},
};

/// What the database says of itself and of its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    /// Names the journal.
    pub(super) id: [u8; 16],
    /// Up to where it has it.
    pub(super) place: Place,
    /// The last position in it.
    pub(super) position: u64,
    /// Bytes that its rows take in a journal.
    pub(super) live: u64,
    /// Sum of the hashes of its rows.
    pub(super) print: u128,
}

/// Returns the key of the row that has it.
pub(super) fn followed_key() -> Vec<u8> {
    Key::new(family::META).text("journal").done()
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes()).update(key).update(value);
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |first| u128::from_be_bytes(*first))
}

impl Followed {
    /// Of an empty database beside a new journal.
    pub(super) fn nothing(id: [u8; 16], place: Place) -> Self {
        Self { id, place, position: 0, live: 0, print: 0 }
    }

    /// Counts a row that is there from now on.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.live = self.live.saturating_add(journal::row_len(key, value));
        self.print = self.print.wrapping_add(hash(key, value));
    }

    /// Counts a row that is there no more.
    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.live = self.live.saturating_sub(journal::row_len(key, value));
        self.print = self.print.wrapping_sub(hash(key, value));
    }

    fn encode(&self) -> Vec<u8> {
        let Self { id, place, position, live, print } = self;
        let mut bytes = id.to_vec();
        for number in [place.number, place.file, place.offset, *position, *live] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(place.chain);
        bytes.extend(print.to_be_bytes());
        bytes
    }

    /// Reads it from its row.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (file, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (position, rest) = rest.split_first_chunk()?;
        let (live, rest) = rest.split_first_chunk()?;
        let (chain, rest) = rest.split_first_chunk()?;
        Some(Self {
            id: *id,
            place: Place {
                number: u64::from_be_bytes(*number),
                file: u64::from_be_bytes(*file),
                offset: u64::from_be_bytes(*offset),
                chain: *chain,
            },
            position: u64::from_be_bytes(*position),
            live: u64::from_be_bytes(*live),
            print: u128::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// The way to the disk. Owned by one thread.
#[derive(Debug)]
pub(super) struct Disk {
    sled: sled::Db,
    /// A handle of sled's own file.
    file: File,
    folder: String,
    followed: Option<Followed>,
    /// The journal, until the threads begin.
    journal: Option<Journal>,
}

impl Disk {
    /// Takes a way to a database that followed a journal, or did not yet.
    pub(super) fn new(
        sled: sled::Db,
        file: File,
        folder: String,
        followed: Option<Followed>,
    ) -> Self {
        Self { sled, file, folder, followed, journal: None }
    }

    /// Writes into this journal first, from now on.
    pub(super) fn use_journal(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// Gives the journal away, to who writes it from now on.
    pub(super) fn take_journal(&mut self) -> Option<Journal> {
        self.journal.take()
    }

    /// What the database says of its journal.
    pub(super) fn followed(&self) -> Option<Followed> {
        self.followed
    }

    /// Writes a group before the node runs: first into the journal, where there is one already.
    pub(super) fn write(&mut self, group: &Changes) -> Result<(), StoreError> {
        match (&mut self.journal, self.followed) {
            (Some(journal), Some(followed)) => {
                let place = journal.append(followed.place.number, &Changes::new(), group)?;
                self.follow(group, place).map(drop)
            }
            _ => self.apply(group, None),
        }
    }

    /// Brings the database groups that the journal has, up to a place; durable when it returns.
    pub(super) fn follow(
        &mut self,
        changes: &Changes,
        place: Place,
    ) -> Result<Followed, StoreError> {
        let mut followed = self.followed.ok_or(StoreError::Closed)?;
        followed.place = place;
        for (key, value) in changes {
            let before = self.sled.get(key).map_err(|error| disk_error(&self.folder, &error))?;
            if let Some(before) = before {
                followed.remove(key, &before);
            }
            if let Some(value) = value {
                followed.add(key, value);
            }
            if let [family::LOG, number @ ..] = key.as_slice()
                && let Ok(number) = <[u8; 8]>::try_from(number)
            {
                followed.position = followed.position.max(u64::from_be_bytes(number));
            }
        }
        self.apply(changes, Some(followed))?;
        Ok(followed)
    }

    /// Says of a database that it has all of a new journal.
    pub(super) fn begin(&mut self, followed: Followed) -> Result<(), StoreError> {
        self.apply(&Changes::new(), Some(followed))
    }

    /// Writes a batch, all or nothing. Durable when it returns.
    ///
    /// sled's `flush` ends in `sync_file_range`, which does not make anything durable, so an
    /// `fdatasync` of its file follows. (`flush_async` is never used: it deadlocks with several
    /// callers in sled 0.34.7.)
    fn apply(&mut self, changes: &Changes, followed: Option<Followed>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        if let Some(followed) = followed {
            batch.insert(followed_key(), followed.encode());
        }
        let written = self.sled.apply_batch(batch).and_then(|()| self.sled.flush());
        written.map_err(|error| disk_error(&self.folder, &error))?;
        let synced = self.file.sync_data();
        synced.map_err(|error| StoreError::Disk {
            file: format!("{}/db", self.folder),
            why: error.to_string(),
        })?;
        self.followed = followed.or(self.followed);
        Ok(())
    }
}

/// Looks at every row of a database: how much is live, and the fingerprint, as they should be said by
/// it. `tell` is given each row.
pub(super) fn look_at_all(
    database: &Database,
    mut tell: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
) -> Result<Followed, StoreError> {
    let nowhere = Place { number: 0, file: 0, offset: 0, chain: [0; 32] };
    let mut found = Followed::nothing([0; 16], nowhere);
    let own = followed_key();
    for row in database.scan(Vec::new(), vec![0xff; 8]) {
        let (key, value) = row?;
        if key != own {
            found.add(&key, &value);
            tell(key, value)?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_of_its_journal_is_read_back() {
        let place = Place { number: 1, file: 2, offset: 3, chain: [4; 32] };
        let mut followed = Followed::nothing([5; 16], place);
        followed.add(b"key", b"value");
        assert_eq!(followed.live, 3 + 5 + 6);
        assert_eq!(Followed::decode(&followed.encode()), Some(followed));
        assert_eq!(Followed::decode(&followed.encode()[1..]), None);
        let before = followed;
        followed.add(b"ke", b"yvalue");
        assert_ne!(followed.print, before.print.wrapping_mul(2), "where a key ends counts");
        followed.remove(b"ke", b"yvalue");
        assert_eq!(followed, before);
    }
}
