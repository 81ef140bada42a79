//! `messagehub fsck` and `rebuild`: says what of a data folder is damaged, and makes one half from
//! the other. For a node that does not run.
//!
//! Invariants: a look changes nothing; nothing takes the place of something before it is whole.

use std::{fs::File, io, path::Path};

use ruma::ServerName;

use super::{
    StoreError,
    flusher::Sizes,
    journal::{self, Reader, Stop},
    mark::{Mark, Marked},
    open::{Whose, is_damage, last_position, lock, open},
    recovery, trial,
};

/// What was found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What of the journal: in words, or what is wrong with it.
    pub journal: Result<String, StoreError>,
    /// What of the database.
    pub database: Result<String, StoreError>,
}

/// What was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilt {
    /// Both are whole.
    Nothing,
    /// The database, from the journal.
    Database,
    /// The journal, from the database.
    Journal,
}

/// Looks at all of a journal and a database. `keys` is the server name of the keys beside them.
pub fn check(data: &Path, keys: Option<&ServerName>) -> Result<Checked, StoreError> {
    let _lock = lock(data)?;
    let journal = check_journal(data);
    let marked = Marked::read(data)?;
    let whose = Whose { data, keys, marked: &marked, trusts_mark: false };
    let known = journal.as_ref().map_or(0, |journal| journal.followed);
    let database = check_database(&whose, known);
    Ok(Checked { journal: journal.map(|journal| journal.words), database })
}

/// A journal that is whole.
struct Whole {
    /// How much it is.
    words: String,
    /// The last record that the database has had for certain.
    followed: u64,
}

fn check_journal(data: &Path) -> Result<Whole, StoreError> {
    let folder = data.join(journal::FOLDER);
    let files = journal::files(&folder)?;
    let Some(first) = files.first() else {
        let words = "there is none yet: the next start makes it".to_owned();
        return Ok(Whole { words, followed: 0 });
    };
    let len: u64 = files.iter().map(|file| file.len).sum();
    let Some(mut reader) = Reader::from_start(&folder, &files)? else {
        return Err(StoreError::JournalDamaged {
            file: journal::path_of(&folder, first.first).display().to_string(),
            at: 0,
            why: "its beginning is unreadable".to_owned(),
        });
    };
    let mut followed = 0;
    loop {
        match reader.next() {
            Ok(record) => followed = record.followed.max(followed),
            Err(stop) => {
                let torn = match &stop {
                    Stop::Torn { .. } => "; its last write was cut short, which does no harm",
                    _ => "",
                };
                return stop.into_error().map_or_else(
                    || {
                        let last = reader.place().number.saturating_add(1);
                        let groups = last.saturating_sub(first.first);
                        let (files, kib) = (files.len(), len.div_ceil(1024));
                        let words =
                            format!("{groups} groups of writes, {files} files, {kib} KiB{torn}");
                        Ok(Whole { words, followed })
                    },
                    Err,
                );
            }
        }
    }
}

/// Looks at a copy, so that the database stays as it is. `known` is the last record of the journal that it
/// has had for certain: one that was cut off can be whole up to there.
fn check_database(whose: &Whose<'_>, known: u64) -> Result<String, StoreError> {
    let data = whose.data;
    let db = data.join("db");
    trial::remove(data)?;
    if !db.exists() {
        return whose.nothing().map(|()| "there is none yet".to_owned());
    }
    if !trial::copy(data)? {
        return Err(StoreError::DiskFull { folder: db.display().to_string() });
    }
    let looked = whose.look(&data.join(trial::COPY), known);
    trial::remove(data)?;
    looked
}

/// Makes anew what is damaged of the two.
pub fn rebuild(data: &Path, keys: Option<&ServerName>) -> Result<Rebuilt, StoreError> {
    let _lock = lock(data)?;
    let marked = Marked::read(data)?;
    let whose = Whose { data, keys, marked: &marked, trusts_mark: false };
    recovery::remove_folder(&data.join(recovery::NEW_DATABASE))?;
    let journal = check_journal(data);
    let sizes = Sizes::default();
    let known = journal.as_ref().map_or(0, |journal| journal.followed);
    match (check_database(&whose, known), journal) {
        (Err(error), Ok(_)) => whose.rebuild(&error, sizes).map(|_| Rebuilt::Database),
        (Err(error), Err(journal)) => {
            log::error!("{journal}");
            Err(error)
        }
        (Ok(_), Err(_)) => whose.renew(sizes).map(|()| Rebuilt::Journal),
        (Ok(_), Ok(_)) => match whose.open(sizes) {
            Err(error) if is_damage(&error) => {
                whose.rebuild(&error, sizes).map(|_| Rebuilt::Database)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Rebuilt::Nothing),
        },
    }
}

/// Makes a database from the journal of a folder that has none, as it is restored from a backup: what is
/// in that is what there is.
pub fn make_from_journal(data: &Path, keys: Option<&ServerName>) -> Result<(), StoreError> {
    let _lock = lock(data)?;
    let whose = Whose { data, keys, marked: &Marked::Adopt, trusts_mark: false };
    whose.build()?;
    let (database, _) = whose.open(Sizes::default())?;
    Mark::open(data, last_position(&database)?).map(drop)
}

/// Makes the database of a new data folder, which nobody owns yet.
pub fn begin(data: &Path) -> Result<(), StoreError> {
    open(data, None, Sizes::default()).map(drop)
}

/// How often files are listed anew of which one was given up meanwhile.
const CUT_TRIES: usize = 5;

/// Opens the files of a journal as they are at a moment: name, file, and how much of it counts. All of it
/// is whole. The node may run: what it writes meanwhile is behind the end, and a file that it gives up
/// stays readable.
pub fn journal_cut(data: &Path) -> Result<Vec<(String, File, u64)>, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_cut(data) {
            Err(None) if tries < CUT_TRIES => {}
            Err(None) => {
                let file = data.join(journal::FOLDER).display().to_string();
                let why = "its files change too often to be read".to_owned();
                return Err(StoreError::Disk { file, why });
            }
            Err(Some(error)) => return Err(error),
            Ok(cut) => return Ok(cut),
        }
    }
}

/// Tries it once; no error where a file was given up between two steps.
fn try_cut(data: &Path) -> Result<Vec<(String, File, u64)>, Option<StoreError>> {
    let folder = data.join(journal::FOLDER);
    let mut files = journal::files(&folder).map_err(Some)?;
    let Some(first) = files.first().map(|file| file.first) else {
        let why = "there is nothing to keep yet: start messagehub with this data folder once";
        let (file, why) = (folder.display().to_string(), why.to_owned());
        return Err(Some(StoreError::Disk { file, why }));
    };
    let mut open = Vec::new();
    for file in &mut files {
        let path = journal::path_of(&folder, file.first);
        let handle = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
            handle => handle.map_err(|error| Some(journal::failed(&path, &error)))?,
        };
        let meta = handle.metadata().map_err(|error| Some(journal::failed(&path, &error)))?;
        file.len = meta.len();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        open.push((name.to_owned(), handle));
    }
    let gone = |error: StoreError| {
        // A file that was given up after it was opened here: it is found missing by its path.
        files.iter().all(|file| journal::path_of(&folder, file.first).exists()).then_some(error)
    };
    let damaged = StoreError::JournalDamaged {
        file: journal::path_of(&folder, first).display().to_string(),
        at: 0,
        why: "its beginning is unreadable".to_owned(),
    };
    let mut reader =
        Reader::from_start(&folder, &files).map_err(gone)?.ok_or(damaged).map_err(gone)?;
    let stop = loop {
        if let Err(stop) = reader.next() {
            break stop;
        }
    };
    if let Some(error) = stop.into_error() {
        return Err(gone(error));
    }
    // A write that was under way is no part of it.
    let end = reader.place();
    let cut = open.into_iter().zip(files).filter(|(_, file)| file.first <= end.file);
    let cut = cut.map(|((name, handle), file)| {
        let len = if file.first == end.file { end.offset } else { file.len };
        (name, handle, len)
    });
    Ok(cut.collect())
}
