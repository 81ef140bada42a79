//! The bytes of a journal (docs/journal.md). Pure.
//!
//! Invariants: a record is whole or none: its hash covers all of it, and the hash of the record
//! before it. Each record begins with a tag that only this journal has, which nobody outside knows,
//! so no content that a stranger sent can look like one.

use crate::actors::store::database::Changes;

/// First bytes of a file.
pub(in super::super) const MAGIC: [u8; 8] = *b"MHJOURN1";
/// Length of the header of a file.
pub(in super::super) const HEADER: usize = 8 + 16 + 8 + 32 + 32;
/// Length of what stands before the rows of a record.
pub(super) const HEAD: usize = 8 + 4 + 8 + 8;
/// Length of the hash after them.
pub(super) const HASH: usize = 32;
/// Shortest record.
pub(super) const RECORD_MIN: usize = HEAD + HASH;

/// The hash of a record, which covers all records before it.
pub(in super::super) type Chain = [u8; HASH];

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Header {
    /// Names the journal: random, of the time when it was begun.
    pub(in super::super) id: [u8; 16],
    /// Number of the first record in the file.
    pub(in super::super) first: u64,
    /// Hash of the record before that; zeros where there is none.
    pub(in super::super) chain: Chain,
}

impl Header {
    /// Returns its bytes.
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.id);
        bytes.extend(self.first.to_be_bytes());
        bytes.extend(self.chain);
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Reads it from the first bytes of a file.
    pub(in super::super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..HEADER)?;
        let hashed = rest.get(..HEADER - HASH)?;
        if take::<8>(&mut rest)? != MAGIC {
            return None;
        }
        let header = Self {
            id: take(&mut rest)?,
            first: u64::from_be_bytes(take(&mut rest)?),
            chain: take(&mut rest)?,
        };
        (take::<HASH>(&mut rest)? == *blake3::hash(hashed).as_bytes()).then_some(header)
    }
}

/// Returns what each record of a journal begins with.
pub(super) fn tag(id: &[u8; 16]) -> [u8; 8] {
    let hash = blake3::hash(id);
    let mut tag = [0; 8];
    tag.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    tag
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> Option<[u8; LEN]> {
    let (first, more) = rest.split_first_chunk::<LEN>()?;
    *rest = more;
    Some(*first)
}

/// What stands before the rows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Length of the rows.
    pub(super) len: u32,
    /// Number of the record, from 1.
    pub(super) number: u64,
    /// The last record that the database had for certain when this one was written.
    pub(super) followed: u64,
}

impl Head {
    /// Reads it.
    pub(super) fn decode(tag: [u8; 8], bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != tag {
            return None;
        }
        Some(Self {
            len: u32::from_be_bytes(take(&mut rest)?),
            number: u64::from_be_bytes(take(&mut rest)?),
            followed: u64::from_be_bytes(take(&mut rest)?),
        })
    }
}

/// Returns the hash of a record without its own hash, after one with the hash `before`.
pub(super) fn hash(before: &Chain, record: &[u8]) -> Chain {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(record);
    *hasher.finalize().as_bytes()
}

/// Writes a record of these rows, those of a later list counting more. None where they are too many
/// for one.
pub(super) fn encode(
    tag: [u8; 8],
    number: u64,
    followed: u64,
    before: &Chain,
    lists: &[&Changes],
) -> Option<(Vec<u8>, Chain)> {
    let mut record = tag.to_vec();
    record.extend([0; 4]);
    record.extend(number.to_be_bytes());
    record.extend(followed.to_be_bytes());
    for (key, value) in lists.iter().copied().flatten() {
        record.extend(u16::try_from(key.len()).ok()?.to_be_bytes());
        // One more than the length; a removed row has none.
        let len = value.as_ref().map_or(Some(0), |value| value.len().checked_add(1))?;
        record.extend(u32::try_from(len).ok()?.to_be_bytes());
        record.extend(key);
        record.extend(value.iter().flatten());
    }
    let len = u32::try_from(record.len().checked_sub(HEAD)?).ok()?;
    record.get_mut(8..12)?.copy_from_slice(&len.to_be_bytes());
    let chain = hash(before, &record);
    record.extend(chain);
    Some((record, chain))
}

/// Reads the rows of a record.
pub(super) fn rows(mut bytes: &[u8]) -> Option<Changes> {
    let mut changes = Changes::new();
    while !bytes.is_empty() {
        let key = usize::from(u16::from_be_bytes(take(&mut bytes)?));
        let value = usize::try_from(u32::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (key, rest) = bytes.split_at_checked(key)?;
        let value = match value.checked_sub(1) {
            None => {
                bytes = rest;
                None
            }
            Some(len) => {
                let (value, rest) = rest.split_at_checked(len)?;
                bytes = rest;
                Some(value.to_vec())
            }
        };
        changes.insert(key.to_vec(), value);
    }
    Some(changes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: [u8; 16] = *b"an id of journal";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_vector_of_the_document() {
        let header = Header { id: ID, first: 1, chain: [0; 32] };
        let changes = Changes::from([
            (b"a".to_vec(), Some(b"one".to_vec())),
            (b"b".to_vec(), Some(Vec::new())),
            (b"c".to_vec(), None),
        ]);
        let (record, chain) = encode(tag(&ID), 1, 0, &[0; 32], &[&changes]).unwrap();
        let document = include_str!("../../../../docs/journal.md");
        for (what, bytes) in [("header", header.encode()), ("record", record.clone())] {
            let line = format!("{what}: {}", hex(&bytes));
            let words: String = document.split_whitespace().collect();
            let found = words.contains(&line.replace(' ', ""));
            assert!(found, "docs/journal.md has another {line}");
        }
        assert_eq!(Header::decode(&header.encode()), Some(header));
        let head = Head::decode(tag(&ID), &record).unwrap();
        assert_eq!((head.number, head.followed), (1, 0));
        assert_eq!(rows(&record[HEAD..record.len() - HASH]), Some(changes));
        assert_eq!(chain, hash(&[0; 32], &record[..record.len() - HASH]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn rows_are_read_back_and_anything_else_is_read_or_refused(
            changes in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..20),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), 0..10),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (record, _) = encode(tag(&ID), 7, 3, &[1; 32], &[&changes]).unwrap();
            prop_assert_eq!(rows(&record[HEAD..record.len() - HASH]), Some(changes));
            let _ = rows(&noise);
            let _ = Header::decode(&noise);
        }
    }
}
