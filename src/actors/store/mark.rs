//! `<data>/db.mark`: how far the database got, told from beside it.
//!
//! A database that was emptied, cut off or put back looks to itself like a whole one that is
//! younger. The mark has the last position that was durable, and what the files looked like when
//! the database was closed. Invariants:
//!
//! - It never runs ahead of the database: it is written after a group is durable, and no fsync
//!   makes it outlive the group. After a power cut it may lag, which does no harm.
//! - It is written in place, and its length never changes: no write of it can fail half-way.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::StoreError;
use crate::platform::files;

/// Name of the file in the data folder.
const FILE: &str = "db.mark";
/// What somebody writes into it who wants to go on with the database as it is.
const ADOPT: &str = "adopt";
/// Length of the name for a state of the files, in hexadecimal.
const STATE_LEN: usize = 32;

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marked {
    /// There is none: a new folder, or one of a release without marks.
    Absent,
    /// The person says that the database is as it should be.
    Adopt,
    /// How far the database got.
    At {
        /// The last position that was durable.
        position: u64,
        /// What the files were like when the database was closed; none while it is open.
        closed: Option<String>,
    },
}

/// Returns the path of the mark.
pub(super) fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk { file: path.display().to_string(), why: error.to_string() }
}

fn text(position: u64, closed: Option<&str>) -> String {
    let closed = closed.unwrap_or("-");
    format!("position {position:020}\nclosed {closed:->STATE_LEN$}\n")
}

impl Marked {
    /// Reads the mark of a data folder.
    pub(super) fn read(data: &Path) -> Result<Self, StoreError> {
        let path = path(data);
        match fs::read_to_string(&path) {
            Ok(found) => Self::parse(&found)
                .ok_or_else(|| StoreError::MarkLost { mark: path.display().to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(StoreError::MarkLost { mark: path.display().to_string() })
            }
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn parse(found: &str) -> Option<Self> {
        if found.trim() == ADOPT {
            return Some(Self::Adopt);
        }
        let (position, closed) = found.split_once('\n')?;
        let position = position.strip_prefix("position ")?.parse().ok()?;
        let closed = closed.strip_prefix("closed ")?.strip_suffix('\n')?;
        let closed = Some(closed).filter(|closed| !closed.starts_with('-')).map(str::to_owned);
        // Only what is written here letter by letter is a mark.
        (text(position, closed.as_deref()) == found).then_some(Self::At { position, closed })
    }

    /// Returns the last position that was durable, as far as it is known.
    pub(super) fn position(&self) -> u64 {
        match self {
            Self::At { position, .. } => *position,
            Self::Absent | Self::Adopt => 0,
        }
    }

    /// Tells whether the files of the database are those that were closed.
    pub(super) fn is_closed_as(&self, folder: &Path) -> bool {
        let Self::At { closed: Some(closed), .. } = self else { return false };
        state_of(folder).is_ok_and(|state| state == *closed)
    }
}

/// Names a state of the files of a folder: their names, lengths and times.
fn state_of(folder: &Path) -> io::Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            let (seconds, nanoseconds) = files::changed_at(&meta);
            found.push((entry.file_name(), meta.len(), seconds, nanoseconds));
        }
    }
    found.sort();
    let digest = Sha256::digest(format!("{found:?}").as_bytes());
    Ok(digest.iter().take(STATE_LEN / 2).map(|byte| format!("{byte:02x}")).collect())
}

/// The mark of an open database.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Begins to follow a database that was opened at a position.
    pub(super) fn open(data: &Path, position: u64) -> Result<Self, StoreError> {
        let path = path(data);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let opened = files::owner_only(&mut options).open(&path).and_then(|file| {
            let text = text(position, None);
            files::write_all_at(&file, text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            file.sync_all()?;
            files::sync_folder(data)?;
            Ok(Self(file))
        });
        opened.map_err(|error| failed(&path, &error))
    }

    /// A group up to this position is durable.
    pub(super) fn advance(&self, position: u64) {
        if let Err(error) = files::write_all_at(&self.0, text(position, None).as_bytes(), 0) {
            // It lags, and the next one is tried again.
            log::debug!(error:%; "the mark of the database was not written");
        }
    }
}

/// Says that a database was closed, once nobody has it open any more.
pub(super) fn close(data: &Path, position: u64) {
    let closed = state_of(&data.join("db")).and_then(|state| {
        let file = OpenOptions::new().write(true).open(path(data))?;
        files::write_all_at(&file, text(position, Some(&state)).as_bytes(), 0)
    });
    if let Err(error) = closed {
        log::debug!(error:%; "the mark of the database was not closed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_nothing_else_is_one() {
        let data = tempfile::tempdir().unwrap();
        let read = || Marked::read(data.path());
        assert_eq!(read().unwrap(), Marked::Absent);
        let mark = Mark::open(data.path(), 7).unwrap();
        assert_eq!(read().unwrap(), Marked::At { position: 7, closed: None });
        mark.advance(u64::MAX);
        assert_eq!(read().unwrap(), Marked::At { position: u64::MAX, closed: None });
        let db = data.path().join("db");
        fs::create_dir(&db).unwrap();
        fs::write(db.join("a"), "x").unwrap();
        close(data.path(), 9);
        let closed = read().unwrap();
        assert!(closed.position() == 9 && closed.is_closed_as(&db), "{closed:?}");
        fs::write(db.join("a"), "xy").unwrap();
        assert!(!closed.is_closed_as(&db));

        let whole = fs::read_to_string(path(data.path())).unwrap();
        for damaged in ["", "position 7\n", &whole[1..], &whole[..whole.len() - 1], "\u{0}\u{0}"] {
            fs::write(path(data.path()), damaged).unwrap();
            assert!(matches!(read(), Err(StoreError::MarkLost { .. })), "{damaged:?}");
        }
        fs::write(path(data.path()), [0xff; 60]).unwrap();
        assert!(matches!(read(), Err(StoreError::MarkLost { .. })));
        fs::write(path(data.path()), "adopt\n").unwrap();
        assert_eq!(read().unwrap(), Marked::Adopt);
    }
}
