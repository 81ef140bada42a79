//! The journal: what makes a group of writes durable, and the second truth beside the database.
//!
//! One append and one `fdatasync` a group; the database follows (`follower.rs`), and a start brings
//! to it what it lacks. From the journal alone a whole database can be made. Invariants:
//!
//! - A group is one record, whole or not there; what was cut short is removed before anything is
//!   written behind it.
//! - The database never has what the journal has not.
//! - A file is removed when nothing in it is live any more: what was live was written again.
//!
//! The format is in docs/journal.md, and in `format`; `read` reads it.

mod format;
mod read;

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

pub(super) use self::read::failed;
pub(super) use self::{
    format::{Chain, HEADER, Header},
    read::{JournalFile, Reader, Stop, files, header, path_of},
};
use super::{StoreError, database::Changes};
use crate::platform;

/// Name of the folder in the data folder.
pub(super) const FOLDER: &str = "journal";
/// Name of a journal that is not whole yet.
pub(super) const NEW: &str = "journal.new";

/// A place in a journal: the end of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the record.
    pub(super) number: u64,
    /// Number of the first record in its file.
    pub(super) file: u64,
    /// How far into the file it reaches.
    pub(super) offset: u64,
    /// Its hash.
    pub(super) chain: Chain,
}

/// An open journal, at its end. Owned by who writes.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    id: [u8; 16],
    file: File,
    files: Vec<JournalFile>,
    place: Place,
    /// Bytes after which the next file is begun.
    file_max: u64,
    /// The last record that the database had, as the last record says.
    followed: u64,
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    platform::files::sync_folder(folder).map_err(|error| failed(folder, &error))
}

fn begin(folder: &Path, header: &Header) -> Result<File, StoreError> {
    let path = path_of(folder, header.first);
    let begun =
        OpenOptions::new().create_new(true).append(true).open(&path).and_then(|mut file| {
            file.write_all(&header.encode())?;
            file.sync_all()?;
            Ok(file)
        });
    let file = begun.map_err(|error| failed(&path, &error))?;
    sync_folder(folder)?;
    Ok(file)
}

impl Journal {
    /// Begins a journal in a folder that is made for it.
    pub(super) fn create(folder: &Path, id: [u8; 16], file_max: u64) -> Result<Self, StoreError> {
        fs::create_dir(folder).map_err(|error| failed(folder, &error))?;
        let header = Header { id, first: 1, chain: [0; 32] };
        let file = begin(folder, &header)?;
        let place = Place { number: 0, file: 1, offset: HEADER as u64, chain: [0; 32] };
        let files = vec![JournalFile { first: 1, len: HEADER as u64 }];
        Ok(Self { folder: folder.to_owned(), id, file, files, place, file_max, followed: 0 })
    }

    /// Opens a journal that was read up to `place`, its end: what is behind that was cut short, and is
    /// removed.
    pub(super) fn open_at(
        folder: &Path,
        id: [u8; 16],
        mut files: Vec<JournalFile>,
        place: Place,
        followed: u64,
        file_max: u64,
    ) -> Result<Self, StoreError> {
        while let Some(last) = files.pop_if(|file| file.first > place.file) {
            let path = path_of(folder, last.first);
            log::warn!(file:% = path.display(); "a file of the journal was begun and not finished; removed");
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
            sync_folder(folder)?;
        }
        let path = path_of(folder, place.file);
        let opened = OpenOptions::new().append(true).open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            if len > place.offset {
                let cut = len - place.offset;
                log::warn!(
                    file:% = path.display(), bytes = cut;
                    "the last write was cut short and had not been acknowledged; removed"
                );
                file.set_len(place.offset)?;
                file.sync_all()?;
            }
            Ok(file)
        });
        let file = opened.map_err(|error| failed(&path, &error))?;
        if let Some(last) = files.last_mut() {
            last.len = place.offset;
        }
        Ok(Self { folder: folder.to_owned(), id, file, files, place, file_max, followed })
    }

    /// Names the journal.
    pub(super) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Where it ends.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The files, the last of which is written to.
    pub(super) fn files(&self) -> &[JournalFile] {
        &self.files
    }

    /// Its folder was renamed.
    pub(super) fn moved(&mut self, folder: PathBuf) {
        self.folder = folder;
    }

    /// Adds a group, durable when it returns: rows that are written again as they were, and those
    /// that change. `followed` is the last record that the database has for certain.
    pub(super) fn append(
        &mut self,
        followed: u64,
        kept: &Changes,
        changes: &Changes,
    ) -> Result<Place, StoreError> {
        self.write(followed, kept, changes)?;
        self.sync()?;
        Ok(self.place)
    }

    /// Adds a group that is durable after the next [`Journal::sync`].
    pub(super) fn write(
        &mut self,
        followed: u64,
        kept: &Changes,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        let number = self.place.number.saturating_add(1);
        let tag = format::tag(&self.id);
        let record = format::encode(tag, number, followed, &self.place.chain, &[kept, changes]);
        let (record, chain) = record.ok_or(StoreError::TooLarge(usize::MAX))?;
        let len = record.len() as u64;
        let is_full = self.place.offset.saturating_add(len) > self.file_max;
        if is_full && self.place.offset > HEADER as u64 {
            self.begin_next(number)?;
        }
        let path = || path_of(&self.folder, self.place.file);
        self.file.write_all(&record).map_err(|error| failed(&path(), &error))?;
        let offset = self.place.offset.saturating_add(len);
        self.place = Place { number, offset, chain, ..self.place };
        self.followed = followed;
        if let Some(last) = self.files.last_mut() {
            last.len = offset;
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|error| failed(&path_of(&self.folder, self.place.file), &error))
    }

    fn begin_next(&mut self, first: u64) -> Result<(), StoreError> {
        self.sync()?;
        let header = Header { id: self.id, first, chain: self.place.chain };
        self.file = begin(&self.folder, &header)?;
        self.place.file = first;
        self.place.offset = HEADER as u64;
        self.files.push(JournalFile { first, len: HEADER as u64 });
        Ok(())
    }

    /// Writes down that the database has all of it, where that is not known yet.
    pub(super) fn settle(&mut self, followed: u64) -> Result<(), StoreError> {
        if self.followed >= followed {
            return Ok(());
        }
        self.append(followed, &Changes::new(), &Changes::new()).map(drop)
    }

    /// Removes the oldest file, of which nothing is live any more, if it is this one.
    pub(super) fn remove_oldest(&mut self, first: u64) -> Result<(), StoreError> {
        if self.files.len() < 2 || self.files.first().is_none_or(|file| file.first != first) {
            return Ok(());
        }
        let path = path_of(&self.folder, first);
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        self.files.remove(0);
        sync_folder(&self.folder)
    }

    /// Bytes of all files.
    pub(super) fn len(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }
}

/// Bytes that a row takes in a journal.
pub(super) fn row_len(key: &[u8], value: &[u8]) -> u64 {
    (key.len() as u64).saturating_add(value.len() as u64).saturating_add(6)
}

#[cfg(test)]
mod tests;
