//! The key space: reads, and write sets that are applied as one.
//!
//! One sled tree and `apply_batch`: in 0.34.7 a batch pins the log, writes, and seals the pin
//! with its last position, exactly as a transaction over several trees does (`Tree::
//! apply_batch_inner` and `TransactionalTrees::commit` share `pin_log`), so recovery takes it as
//! a whole or not at all; and there is one writer, the actor, so there is nothing for a
//! transaction to conflict with. Invariants:
//!
//! - No value is over [`limits::ROW`]; what may be larger is a *long row*, cut into pieces.
//! - A leaf of sled has up to 16 rows, so its largest is below the quarter of a segment from
//!   which sled would put it into a file of its own, which does not survive a power cut.

use std::{collections::BTreeMap, ops::Bound};

use super::{StoreError, schema::Parts};
use crate::config::limits;

/// Longest key: those that a client can choose are far shorter.
const KEY: usize = 4 * 1024;
/// Size of the pieces of a long row.
const PIECE: usize = 64 * 1024;

/// A row: key and value.
pub(super) type KeyValue = (Vec<u8>, Vec<u8>);

/// Reads single rows: from the database, or with what a write set is about to change.
pub(super) trait Rows {
    /// Reads a row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads a long row.
    fn get_long(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(first) = self.get(&piece_key(key, 0))? else {
            return Ok(None);
        };
        let (pieces, mut value) = first_piece(&first)?;
        for piece in 1..pieces {
            let more = self.get(&piece_key(key, piece))?;
            value.extend(more.ok_or(StoreError::Corrupt { what: "long" })?);
        }
        Ok(Some(value))
    }
}

fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    [key, &piece.to_be_bytes()].concat()
}

fn first_piece(bytes: &[u8]) -> Result<(u16, Vec<u8>), StoreError> {
    let mut parts = Parts(bytes);
    let pieces = parts.short().ok_or(StoreError::Corrupt { what: "long" })?;
    Ok((pieces, parts.0.to_vec()))
}

/// The open database.
#[derive(Debug, Clone)]
pub(super) struct Database {
    sled: sled::Db,
    folder: String,
}

impl Database {
    pub(super) fn new(sled: sled::Db, folder: String) -> Self {
        Self { sled, folder }
    }

    fn disk(&self, error: &sled::Error) -> StoreError {
        StoreError::Disk { file: self.folder.clone(), why: error.to_string() }
    }

    /// Writes what sled holds back to the file. Not durable without an fdatasync of the file.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.sled.flush().map(drop).map_err(|error| self.disk(&error))
    }

    /// Reads the rows from `start` on and before `end`, in key order or from the back.
    pub(super) fn scan(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> {
        self.sled.range((Bound::Included(start), Bound::Excluded(end))).map(|row| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec()))
                .map_err(|error| self.disk(&error))
        })
    }

    /// Reads the rows whose keys begin with `prefix`.
    pub(super) fn scan_prefix<'a>(
        &'a self,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> + use<'a> {
        self.scan(prefix.to_vec(), super::schema::after(prefix))
    }

    /// Reads long rows of a range, in key order. `start` and `end` are keys without piece number.
    pub(super) fn scan_long(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> {
        let mut rows = self.scan(start, end);
        std::iter::from_fn(move || {
            let (mut key, first) = match rows.next()? {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            key.truncate(key.len().saturating_sub(2));
            let long = first_piece(&first).and_then(|(pieces, mut value)| {
                for _ in 1..pieces {
                    let (_, more) =
                        rows.next().unwrap_or(Err(StoreError::Corrupt { what: "long" }))?;
                    value.extend(more);
                }
                Ok((key, value))
            });
            Some(long)
        })
    }
}

impl Rows for Database {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.sled.get(key).map_err(|error| self.disk(&error))?;
        Ok(value.map(|value| value.to_vec()))
    }
}

/// Writes that are applied together. Reads through it see them.
#[derive(Debug)]
pub(super) struct WriteSet<'a> {
    database: &'a Database,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> WriteSet<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        Self { database, writes: BTreeMap::new() }
    }

    /// Returns what is stored without these writes.
    pub(super) fn database(&self) -> &'a Database {
        self.database
    }

    /// Writes a row.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    /// Removes a row.
    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// Writes a long row.
    pub(super) fn put_long(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let pieces = value.len().div_ceil(PIECE).max(1);
        let pieces = u16::try_from(pieces).map_err(|_| StoreError::TooLarge(value.len()))?;
        self.remove_pieces(key, pieces)?;
        let mut chunks = value.chunks(PIECE);
        let first = [&pieces.to_be_bytes(), chunks.next().unwrap_or_default()].concat();
        self.put(piece_key(key, 0), first);
        for (piece, chunk) in (1..pieces).zip(chunks) {
            self.put(piece_key(key, piece), chunk.to_vec());
        }
        Ok(())
    }

    /// Removes a long row.
    pub(super) fn remove_long(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.remove_pieces(key, 0)
    }

    fn remove_pieces(&mut self, key: &[u8], from: u16) -> Result<(), StoreError> {
        if let Some(first) = self.get(&piece_key(key, 0))? {
            for piece in from..first_piece(&first)?.0 {
                self.remove(piece_key(key, piece));
            }
        }
        Ok(())
    }

    /// Reads the rows from `start` on and before `end` as they will be.
    pub(super) fn scan(&self, start: Vec<u8>, end: Vec<u8>) -> Result<Vec<KeyValue>, StoreError> {
        let stored = self.database.scan(start.clone(), end.clone());
        let mut rows = stored.collect::<Result<BTreeMap<_, _>, _>>()?;
        for (key, value) in self.writes.range(start..end) {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().collect())
    }

    /// Applies everything at once. Visible to all reads after it, and durable after the next
    /// flush.
    pub(super) fn apply(self) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in self.writes {
            let len = value.as_ref().map_or(0, Vec::len);
            // The one place where sizes are checked.
            if len > limits::ROW || key.len() > KEY {
                return Err(StoreError::TooLarge(len.max(key.len())));
            }
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.database.sled.apply_batch(batch).map_err(|error| self.database.disk(&error))
    }
}

impl Rows for WriteSet<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.database.get(key),
        }
    }
}
