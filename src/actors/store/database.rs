//! The rows: reads, and writes on their way to the disk.
//!
//! What the actor writes goes into the *group* in memory, which all reads see. When the flusher is
//! free it takes the group into the journal; what is there waits in memory until the follower takes
//! it into sled, many groups as one batch. (sled rolls its write buffer twice for each batch, and
//! wakes its threads.) So a read looks through four layers: sled, what goes there now, what waits
//! for that, what goes into the journal, what gathers.
//!
//! There is one sled tree and no transaction: in 0.34.7 `apply_batch` pins the log, writes, and
//! seals the pin with its last position, exactly as a transaction over several trees does
//! (`Tree::apply_batch_inner` and `TransactionalTrees::commit` share `pin_log`), so recovery
//! takes a batch as a whole or not at all; and with one writer there is nothing to conflict with.
//! Invariants:
//!
//! - Commits reach sled in their order, and none in part.
//! - No value is over [`limits::ROW`]; what may be larger is a *long row*, cut into pieces.
//! - A leaf of sled has up to 16 rows, so its largest is below the quarter of a segment from
//!   which sled would put it into a file of its own, which does not survive a power cut.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    io::ErrorKind,
    iter::{Fuse, Peekable},
    ops::RangeBounds,
    sync::Arc,
};

use super::{StoreError, backwards::Numbered, schema::Parts};
use crate::config::limits;

/// Longest key: those that a client can choose are far shorter.
const KEY: usize = 4 * 1024;
/// Size of the pieces of a long row.
const PIECE: usize = 64 * 1024;

/// A row: key and value.
pub(super) type KeyValue = (Vec<u8>, Vec<u8>);

/// A row by key that is written, or removed where there is no value.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// Rows by key that are written, or removed where there is no value.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

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

/// The open database. Owned by the actor.
#[derive(Debug)]
pub(super) struct Database {
    sled: sled::Db,
    folder: String,
    /// What waits for the flusher.
    group: Changes,
    /// What the flusher writes into the journal at the moment.
    in_flight: Arc<Changes>,
    /// What is in the journal, and waits for the follower.
    journaled: Changes,
    /// Bytes of what was added to that.
    journaled_len: usize,
    /// What the follower writes at the moment; maybe in sled already.
    following: Arc<Changes>,
}

/// Says what an error of sled means for whoever runs the node.
pub(super) fn disk_error(folder: &str, error: &sled::Error) -> StoreError {
    let (folder, line) =
        (folder.to_owned(), |text: &str| text.lines().next().unwrap_or_default().trim().to_owned());
    match error {
        sled::Error::Io(error)
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            StoreError::DiskFull { folder }
        }
        sled::Error::Io(error) => StoreError::Disk { file: folder, why: line(&error.to_string()) },
        sled::Error::Corruption { .. } => {
            StoreError::Damaged { folder, why: "a checksum is wrong".to_owned() }
        }
        sled::Error::Unsupported(why) => StoreError::Damaged { folder, why: line(why) },
        sled::Error::ReportableBug(_) | sled::Error::CollectionNotFound(_) => {
            StoreError::Damaged { folder, why: "it contradicts itself".to_owned() }
        }
    }
}

impl Database {
    /// Takes over an open database.
    pub(super) fn new(sled: sled::Db, folder: String) -> Self {
        Self {
            sled,
            folder,
            group: Changes::new(),
            in_flight: Arc::default(),
            journaled: Changes::new(),
            journaled_len: 0,
            following: Arc::default(),
        }
    }

    /// Adds writes to the group. They show in all reads from now on.
    pub(super) fn add(&mut self, changes: Changes) {
        self.group.extend(changes);
    }

    /// Begins the next group, and gives away the last one to be written.
    pub(super) fn next_group(&mut self) -> Arc<Changes> {
        debug_assert!(self.in_flight.is_empty(), "one group is written at a time");
        self.in_flight = Arc::new(std::mem::take(&mut self.group));
        Arc::clone(&self.in_flight)
    }

    /// Forgets the group that was given away: it is in sled.
    pub(super) fn group_written(&mut self) {
        self.in_flight = Arc::default();
    }

    /// The group that was given away is in the journal, and waits for sled.
    pub(super) fn group_journaled(&mut self) {
        let written = Arc::unwrap_or_clone(std::mem::take(&mut self.in_flight));
        let len = written
            .iter()
            .map(|(key, value)| key.len().saturating_add(value.as_ref().map_or(0, Vec::len)));
        self.journaled_len = len.fold(self.journaled_len, usize::saturating_add);
        self.journaled.extend(written);
    }

    /// Bytes that wait for sled.
    pub(super) fn journaled_len(&self) -> usize {
        self.journaled_len
    }

    /// Gives away what waits for sled.
    pub(super) fn next_to_follow(&mut self) -> Arc<Changes> {
        debug_assert!(self.following.is_empty(), "one batch is written at a time");
        self.journaled_len = 0;
        self.following = Arc::new(std::mem::take(&mut self.journaled));
        Arc::clone(&self.following)
    }

    /// Forgets what was given away to be written to sled: it is there.
    pub(super) fn followed(&mut self) {
        self.following = Arc::default();
    }

    /// Tells whether the group that gathers changes a row.
    pub(super) fn is_in_group(&self, key: &[u8]) -> bool {
        self.group.contains_key(key)
    }

    /// Lays the rows that are not in sled yet over those that are: both come in the same order.
    fn merge(
        &self,
        changes: Vec<Change>,
        rows: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
        later: Ordering,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> {
        let rows = rows.map(|row| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec()))
                .map_err(|error| disk_error(&self.folder, &error))
        });
        Merged::new(rows, changes, later)
    }

    /// Returns the rows of a range that are not in sled yet.
    fn changes(&self, range: impl RangeBounds<Vec<u8>> + Clone) -> Changes {
        let mut changes = Changes::new();
        for layer in [&*self.following, &self.journaled, &*self.in_flight, &self.group] {
            let rows = layer.range(range.clone());
            changes.extend(rows.map(|(key, value)| (key.clone(), value.clone())));
        }
        changes
    }

    /// Reads the rows from `start` on and before `end`, in key order.
    pub(super) fn scan(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> {
        let changes = if start < end { self.changes(&start..&end) } else { Changes::new() };
        let rows = self.sled.range(start..end);
        self.merge(changes.into_iter().collect(), rows, Ordering::Greater)
    }

    /// Reads rows by number, the last one first.
    pub(super) fn scan_back<const LEN: usize>(
        &self,
        numbered: &Numbered<LEN>,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> + use<'_, LEN> {
        let range = numbered.range();
        let changes = if range.is_empty() { Changes::new() } else { self.changes(range) };
        let mut changes: Vec<_> = changes.into_iter().collect();
        changes.reverse();
        self.merge(changes, numbered.rows(&self.sled), Ordering::Less)
    }

    /// Reads the rows whose keys begin with `prefix`.
    pub(super) fn scan_prefix<'a>(
        &'a self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> + use<'a> {
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
        let layers = [&self.group, &*self.in_flight, &self.journaled, &*self.following];
        if let Some(value) = layers.iter().find_map(|layer| layer.get(key)) {
            return Ok(value.clone());
        }
        let value = self.sled.get(key).map_err(|error| disk_error(&self.folder, &error))?;
        Ok(value.map(|value| value.to_vec()))
    }
}

/// Rows of sled with changes laid over them.
struct Merged<I> {
    /// Where they have ended they are not asked again: sled would go on, and show rows that came there
    /// since, which the changes gave out already.
    rows: Fuse<I>,
    /// Taken from `rows`, not given out yet.
    row: Option<KeyValue>,
    changes: Peekable<std::vec::IntoIter<Change>>,
    /// What a key that comes later is, compared with one that comes before it.
    later: Ordering,
}

impl<I: Iterator<Item = Result<KeyValue, StoreError>>> Merged<I> {
    fn new(rows: I, changes: Vec<Change>, later: Ordering) -> Self {
        Self { rows: rows.fuse(), row: None, changes: changes.into_iter().peekable(), later }
    }
}

impl<I: Iterator<Item = Result<KeyValue, StoreError>>> Iterator for Merged<I> {
    type Item = Result<KeyValue, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.row.is_none() {
                self.row = match self.rows.next() {
                    Some(Ok(row)) => Some(row),
                    Some(Err(error)) => return Some(Err(error)),
                    None => None,
                };
            }
            let is_change_next = match (self.changes.peek(), &self.row) {
                (Some((change, _)), Some((row, _))) => change.cmp(row) != self.later,
                (change, _) => change.is_some(),
            };
            if !is_change_next {
                return self.row.take().map(Ok);
            }
            let (key, value) = self.changes.next()?;
            self.row.take_if(|(row, _)| *row == key);
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// Writes that are applied together. Reads through it see them.
#[derive(Debug)]
pub(super) struct WriteSet<'a> {
    database: &'a Database,
    writes: Changes,
}

impl<'a> WriteSet<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        Self { database, writes: Changes::new() }
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

    /// Reads the last of some rows by number as they will be.
    pub(super) fn last<const LEN: usize>(
        &self,
        numbered: &Numbered<LEN>,
    ) -> Result<Option<KeyValue>, StoreError> {
        let range = numbered.range();
        if range.is_empty() {
            return Ok(None);
        }
        let written = self.writes.range(range);
        let written = written.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let written = written.max();
        let mut stored = self.database.scan_back(numbered);
        let stored = stored
            .find(|row| row.as_ref().map_or(true, |(key, _)| !self.writes.contains_key(key)))
            .transpose()?;
        Ok(written.max(stored))
    }

    /// Returns the writes, for [`Database::add`].
    pub(super) fn finish(self) -> Result<Changes, StoreError> {
        for (key, value) in &self.writes {
            let len = value.as_ref().map_or(0, Vec::len);
            // The one place where sizes are checked.
            if len > limits::ROW || key.len() > KEY {
                return Err(StoreError::TooLarge(len.max(key.len())));
            }
        }
        Ok(self.writes)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(keys: &BTreeMap<u8, Option<u8>>) -> Changes {
        keys.iter().map(|(key, value)| (vec![*key], value.map(|value| vec![value]))).collect()
    }

    #[test]
    fn rows_that_reach_sled_amid_a_scan_are_given_out_once() {
        let row = |key: u8| (vec![key], vec![key]);
        let changes = [1, 2, 3].map(|key| (vec![key], Some(vec![key]))).to_vec();
        // There is nothing, and then all of it.
        let mut calls = 0;
        let mut reached = vec![row(3), row(2), row(1)];
        let rows = std::iter::from_fn(|| {
            calls += 1;
            if calls == 1 { None } else { reached.pop().map(Ok) }
        });
        let merged = Merged::new(rows, changes, Ordering::Greater);
        let seen: Result<Vec<_>, StoreError> = merged.collect();
        assert_eq!(seen.unwrap(), [row(1), row(2), row(3)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn changes_are_laid_over_rows_in_both_directions(
            stored in prop::collection::btree_map(0..20_u8, 0..9_u8, 0..15),
            changed in prop::collection::btree_map(0..20_u8, prop::option::of(9..20_u8), 0..15),
            is_back: bool,
        ) {
            let mut expected = stored.clone();
            for (key, value) in &changed {
                match value {
                    Some(value) => expected.insert(*key, *value),
                    None => expected.remove(key),
                };
            }
            let mut stored: Vec<_> =
                stored.into_iter().map(|(key, value)| Ok((vec![key], vec![value]))).collect();
            let mut changes: Vec<_> = rows(&changed).into_iter().collect();
            let mut expected: Vec<_> =
                expected.into_iter().map(|(key, value)| (vec![key], vec![value])).collect();
            if is_back {
                stored.reverse();
                changes.reverse();
                expected.reverse();
            }
            let later = if is_back { Ordering::Less } else { Ordering::Greater };
            let merged = Merged::new(stored.into_iter(), changes, later);
            prop_assert_eq!(merged.collect::<Result<Vec<_>, _>>().unwrap(), expected);
        }
    }
}
