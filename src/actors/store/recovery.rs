//! The database from the journal, and the journal from the database.
//!
//! What a start does where the two meet is [`plan`]. Invariants: what takes the place of something
//! else is whole and on disk before it does; nothing is thrown away, what was damaged is set aside;
//! a crash at any step leaves what the next start goes on from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    database::{Changes, Database},
    disk::{Disk, Followed, look_at_all},
    flusher::Sizes,
    journal::{self, Journal, JournalFile, Place, Reader, Stop, path_of, sync_folder},
};
use crate::{actors::clock::now_ms, config::limits};

/// Name of a database that is being made.
pub(super) const NEW_DATABASE: &str = "db.new";
/// Rows that are written at once while a journal or a database is made.
const BATCH: usize = 1 << 20;
/// How often the log says how far it is.
const TELL_EVERY: u64 = 64 << 20;

/// What the journal has beyond a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Where it ends.
    pub(super) end: Place,
    /// The last record that the database has had for certain.
    pub(super) followed: u64,
}

/// What a start does with a database and its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Brings the database what the journal has beyond it.
    Replay(Tail),
    /// Makes a database from the journal.
    Rebuild(&'static str),
    /// Makes a journal from the database.
    Renew(&'static str),
}

/// How a journal was found beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The database ends in a file of it, and this follows.
    Behind(Tail),
    /// The journal ends before the database does.
    Ahead,
    /// The journal begins after the database ends.
    Before,
}

/// Decides. `followed` is what the database says of its journal, and `position` the last one in it.
pub(super) fn plan(followed: Option<&Followed>, position: u64, found: Found) -> Plan {
    let Some(followed) = followed else {
        return Plan::Rebuild("it does not know the journal beside it");
    };
    if position > followed.position {
        return Plan::Renew("an older messagehub wrote to the database");
    }
    match found {
        Found::Ahead => Plan::Renew("it lacks the newest of what the database has"),
        Found::Before => Plan::Rebuild("it is older than the journal beside it"),
        Found::Behind(tail) if tail.followed > followed.place.number => {
            Plan::Rebuild("it lacks what was in it once")
        }
        Found::Behind(tail) => Plan::Replay(tail),
    }
}

/// Looks for the place where a database ended. With `adopt`, a damaged journal counts as far as it is
/// whole.
pub(super) fn find(
    folder: &Path,
    files: &[JournalFile],
    followed: &Followed,
    adopt: bool,
) -> Result<Found, StoreError> {
    let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(Found::Ahead) };
    let place = followed.place;
    if first.first > place.number.saturating_add(1) {
        return Ok(Found::Before);
    }
    if place.file > last.first || (place.file == last.first && place.offset > last.len) {
        return Ok(Found::Ahead);
    }
    let Some(mut reader) = Reader::from_place(folder, followed.id, files, place)? else {
        return Err(damaged(folder, place, "a file is missing or unreadable"));
    };
    let mut known = 0;
    loop {
        match reader.next() {
            Ok(record) => known = record.followed.max(known),
            Err(Stop::Damaged { .. }) if adopt => break,
            Err(stop) => match stop.into_error() {
                Some(error) => return Err(error),
                None => break,
            },
        }
    }
    Ok(Found::Behind(Tail { end: reader.place(), followed: known }))
}

fn damaged(folder: &Path, place: Place, why: &str) -> StoreError {
    let file = path_of(folder, place.file).display().to_string();
    StoreError::JournalDamaged { file, at: place.offset, why: why.to_owned() }
}

/// Names the journal of a folder, after its newest file that has a name.
pub(super) fn id_of(folder: &Path, files: &[JournalFile]) -> Result<Option<[u8; 16]>, StoreError> {
    for file in files {
        if let Some(header) = journal::header(folder, file.first)? {
            return Ok(Some(header.id));
        }
    }
    Ok(None)
}

/// Brings a database what the journal has beyond it, and opens the journal at its end.
pub(super) fn replay(
    data: &Path,
    files: Vec<JournalFile>,
    disk: &mut Disk,
    tail: Tail,
    sizes: Sizes,
) -> Result<Journal, StoreError> {
    let folder = data.join(journal::FOLDER);
    let Some(followed) = disk.followed() else { return Err(StoreError::Closed) };
    if let Some(reader) = Reader::from_place(&folder, followed.id, &files, followed.place)? {
        bring(reader, disk, Some(tail.end.number))?;
    }
    Journal::open_at(&folder, followed.id, files, tail.end, tail.followed, sizes.journal_file)
}

/// Brings a database what a reader gives, up to a record where one is named.
fn bring(mut reader: Reader, disk: &mut Disk, until: Option<u64>) -> Result<(), StoreError> {
    let (mut batch, mut len, mut told, mut all) = (Changes::new(), 0, 0, 0_u64);
    loop {
        if until.is_some_and(|until| reader.place().number >= until) {
            break;
        }
        match reader.next() {
            Ok(record) => {
                len = record.changes.iter().fold(len, |len, (key, value)| {
                    let value = value.as_ref().map_or(0, Vec::len);
                    key.len().saturating_add(value).saturating_add(len)
                });
                batch.extend(record.changes);
            }
            Err(stop) => match stop.into_error() {
                Some(error) => return Err(error),
                None => break,
            },
        }
        if len >= BATCH {
            all = all.saturating_add(len as u64);
            disk.follow(&batch, reader.place())?;
            (batch, len) = (Changes::new(), 0);
            if all.saturating_sub(told) >= TELL_EVERY {
                told = all;
                log::info!("{} MiB of the journal are in the database", all >> 20);
            }
        }
    }
    // Also where nothing is left but the number of a record.
    if disk.followed().is_none_or(|followed| followed.place != reader.place()) {
        disk.follow(&batch, reader.place())?;
    }
    Ok(())
}

/// Makes a database in `db.new` from the journal alone. `open` opens the database of a folder.
pub(super) fn build(
    data: &Path,
    open: impl FnOnce(&Path) -> Result<(Database, Disk), StoreError>,
) -> Result<(Database, Disk), StoreError> {
    let folder = data.join(journal::FOLDER);
    let files = journal::files(&folder)?;
    let start = Reader::from_start(&folder, &files)?;
    let Some(reader) = start else {
        let place = Place {
            number: 0,
            file: files.first().map_or(1, |file| file.first),
            offset: 0,
            chain: [0; 32],
        };
        return Err(damaged(&folder, place, "its beginning is unreadable"));
    };
    let new = data.join(NEW_DATABASE);
    remove_folder(&new)?;
    let (database, mut disk) = open(&new)?;
    disk.begin(Followed::nothing(reader.id(), reader.place()))?;
    bring(reader, &mut disk, None)?;
    Ok((database, disk))
}

/// Puts the database that was made in the place of the one that was there. Nobody has either open.
pub(super) fn swap(data: &Path) -> Result<Option<PathBuf>, StoreError> {
    let (db, new) = (data.join("db"), data.join(NEW_DATABASE));
    sync_folder(&new)?;
    let aside = set_aside(data, "db")?;
    fs::rename(&new, &db).map_err(|error| journal::failed(&db, &error))?;
    sync_folder(data)?;
    Ok(aside)
}

/// Makes a journal of all that is in a database, in the place of the one that was there.
pub(super) fn renew(
    data: &Path,
    database: &Database,
    disk: &mut Disk,
    position: u64,
    sizes: Sizes,
) -> Result<Journal, StoreError> {
    let (folder, new) = (data.join(journal::FOLDER), data.join(journal::NEW));
    remove_folder(&new)?;
    let mut journal = Journal::create(&new, rand::random(), sizes.journal_file)?;
    let (mut batch, mut len, mut told, mut all) = (Changes::new(), 0, 0, 0_u64);
    let nothing = Changes::new();
    let mut followed = look_at_all(database, |key, value| {
        len = key.len().saturating_add(value.len()).saturating_add(len);
        batch.insert(key, Some(value));
        if len >= BATCH {
            all = all.saturating_add(len as u64);
            journal.write(0, &nothing, &std::mem::take(&mut batch))?;
            len = 0;
            if all.saturating_sub(told) >= TELL_EVERY {
                told = all;
                log::info!("{} MiB of the database are in the journal", all >> 20);
            }
        }
        Ok(())
    })?;
    journal.write(0, &nothing, &batch)?;
    journal.sync()?;
    (followed.id, followed.place, followed.position) = (journal.id(), journal.place(), position);
    disk.begin(followed)?;
    put_in_place(data)?;
    journal.moved(folder);
    Ok(journal)
}

/// Puts a new journal in its place, that of which the database says that it is its.
pub(super) fn put_in_place(data: &Path) -> Result<(), StoreError> {
    let (folder, new) = (data.join(journal::FOLDER), data.join(journal::NEW));
    set_aside(data, journal::FOLDER)?;
    fs::rename(&new, &folder).map_err(|error| journal::failed(&folder, &error))?;
    sync_folder(data)
}

/// Renames what is damaged, so that nothing is lost that somebody could save yet. Of those that were
/// set aside before, the last is kept.
pub(super) fn set_aside(data: &Path, name: &str) -> Result<Option<PathBuf>, StoreError> {
    let from = data.join(name);
    if !from.exists() {
        return Ok(None);
    }
    let prefix = format!("{name}.damaged-");
    let entries = fs::read_dir(data).map_err(|error| journal::failed(data, &error))?;
    let mut before: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    before.sort();
    while before.len() >= limits::SET_ASIDE {
        let oldest = before.remove(0);
        log::warn!(folder:% = oldest.display(); "removed what was set aside long ago");
        remove_folder(&oldest)?;
    }
    let to = data.join(format!("{prefix}{}", now_ms()));
    fs::rename(&from, &to).map_err(|error| journal::failed(&from, &error))?;
    Ok(Some(to))
}

/// Removes a folder, if it is there.
pub(super) fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(journal::failed(folder, &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_does_with_a_database_and_its_journal() {
        let place = |number| Place { number, file: 1, offset: 96, chain: [0; 32] };
        let mut at = Followed::nothing([1; 16], place(7));
        at.position = 30;
        let tail = |followed| Tail { end: place(9), followed };
        for (followed, position, found, expected) in [
            (Some(&at), 30, Found::Behind(tail(7)), Plan::Replay(tail(7))),
            (Some(&at), 30, Found::Behind(tail(0)), Plan::Replay(tail(0))),
            (Some(&at), 30, Found::Behind(tail(8)), Plan::Rebuild("it lacks what was in it once")),
            (Some(&at), 30, Found::Before, Plan::Rebuild("it is older than the journal beside it")),
            (
                Some(&at),
                30,
                Found::Ahead,
                Plan::Renew("it lacks the newest of what the database has"),
            ),
            (
                Some(&at),
                31,
                Found::Behind(tail(7)),
                Plan::Renew("an older messagehub wrote to the database"),
            ),
            (
                None,
                30,
                Found::Behind(tail(7)),
                Plan::Rebuild("it does not know the journal beside it"),
            ),
        ] {
            assert_eq!(plan(followed, position, found), expected);
        }
    }
}
