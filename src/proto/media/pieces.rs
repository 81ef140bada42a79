//! Pieces of media, each of which can be checked on its own. Pure.
//!
//! BLAKE3 hashes a file as a tree. Cut into pieces of [`PIECE`] bytes, the hash of each piece is a node of
//! that tree, and the hashes of all pieces make the hash of the file. So whoever knows that one, and has
//! the list of the others, which proves itself by it, can take each piece from anybody. Invariant: what
//! [`Pieces::holds`] lets pass is what was hashed first, whoever it came from.

use blake3::{
    Hasher,
    hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

/// Bytes of a piece: a power of two of BLAKE3's chunks.
pub const PIECE: usize = 256 * 1024;
/// Bytes of a hash.
const HASH_LEN: usize = 32;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// Returns how many pieces so many bytes make: at least one.
pub fn count_of(size: u64) -> u64 {
    size.div_ceil(PIECE as u64).max(1)
}

/// Returns where a piece begins, and how long it is; none where there is no such piece.
pub fn len_of(size: u64, piece: u64) -> Option<(u64, usize)> {
    if piece >= count_of(size) {
        return None;
    }
    let start = piece.checked_mul(PIECE as u64)?;
    let len = size.saturating_sub(start).min(PIECE as u64);
    Some((start, usize::try_from(len).ok()?))
}

/// Hashes what comes, once and in order.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    done: Vec<Hash>,
    piece: Hasher,
    in_piece: usize,
    size: u64,
}

impl Default for PieceHasher {
    fn default() -> Self {
        Self { done: Vec::new(), piece: Hasher::new(), in_piece: 0, size: 0 }
    }
}

/// Returns a hasher for the piece that begins there.
fn hasher_at(start: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(start);
    hasher
}

impl PieceHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.in_piece == PIECE {
                self.done.push(self.piece.finalize_non_root());
                self.piece = hasher_at(self.size);
                self.in_piece = 0;
            }
            let (taken, left) = rest.split_at(rest.len().min(PIECE.saturating_sub(self.in_piece)));
            self.piece.update(taken);
            self.in_piece = self.in_piece.saturating_add(taken.len());
            self.size = self.size.saturating_add(taken.len() as u64);
            rest = left;
        }
    }

    /// Returns what came.
    pub fn finish(mut self) -> Pieces {
        if self.done.is_empty() {
            let hash = *self.piece.finalize().as_bytes();
            return Pieces { hash, size: self.size, list: Vec::new() };
        }
        self.done.push(self.piece.finalize_non_root());
        // There are two at least, so they have a root.
        let hash = root_of(&self.done).unwrap_or_default();
        Pieces { hash, size: self.size, list: self.done }
    }
}

/// The hash that two or more hashes of pieces make together.
pub fn root_of(list: &[Hash]) -> Option<Hash> {
    let (left, right) = halves(list)?;
    Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

/// The left half of a tree is the largest full one.
fn halves(list: &[Hash]) -> Option<(Hash, Hash)> {
    let full = list.len().checked_sub(1)?.checked_ilog2()?;
    let (left, right) = list.split_at_checked(1_usize.checked_shl(full)?)?;
    Some((node_of(left)?, node_of(right)?))
}

fn node_of(list: &[Hash]) -> Option<Hash> {
    match list {
        [one] => Some(*one),
        _ => {
            let (left, right) = halves(list)?;
            Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

/// A file, by its hash and by those of its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// The hash of all of it.
    pub hash: Hash,
    /// Its bytes.
    pub size: u64,
    list: Vec<Hash>,
}

impl Pieces {
    /// Reads the list of the pieces of a file whose hash and size are known. One piece needs none.
    pub fn read(hash: Hash, size: u64, list: &[u8]) -> Option<Self> {
        let (hashes, rest) = list.as_chunks::<HASH_LEN>();
        let list = match count_of(size) {
            1 if list.is_empty() => Vec::new(),
            1 => return None,
            count if rest.is_empty() && hashes.len() as u64 == count => hashes.to_vec(),
            _ => return None,
        };
        let proven = list.is_empty() || root_of(&list) == Some(hash);
        proven.then_some(Self { hash, size, list })
    }

    /// Returns the list as it is kept and sent.
    pub fn list(&self) -> &[u8] {
        self.list.as_flattened()
    }

    /// Returns how many there are.
    pub fn count(&self) -> u64 {
        count_of(self.size)
    }

    /// Tells whether these bytes are that piece.
    pub fn holds(&self, piece: u64, bytes: &[u8]) -> bool {
        let Some((start, len)) = len_of(self.size, piece) else { return false };
        if bytes.len() != len {
            return false;
        }
        if self.list.is_empty() {
            return *blake3::hash(bytes).as_bytes() == self.hash;
        }
        let known = usize::try_from(piece).ok().and_then(|piece| self.list.get(piece));
        known == Some(&hasher_at(start).update(bytes).finalize_non_root())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        // No two pieces are alike.
        (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ (at / PIECE)) as u8).collect()
    }

    #[test]
    fn the_hash_is_blake3_and_each_piece_is_known_by_its_own() {
        for len in [
            0,
            1,
            1024,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            2 * PIECE,
            3 * PIECE + 7,
            5 * PIECE,
            8 * PIECE,
            9 * PIECE - 1,
        ] {
            let all = bytes(len);
            let mut hasher = PieceHasher::default();
            for part in all.chunks(70_001) {
                hasher.update(part);
            }
            let pieces = hasher.finish();
            assert_eq!(pieces.hash, *blake3::hash(&all).as_bytes(), "{len}");
            let read = Pieces::read(pieces.hash, len as u64, pieces.list()).unwrap();
            assert_eq!(read, pieces);
            for piece in 0..pieces.count() {
                let (start, len) = len_of(pieces.size, piece).unwrap();
                let part = &all[start as usize..][..len];
                assert!(pieces.holds(piece, part));
                assert!(!pieces.holds(piece + 1, part), "another place");
                if let Some(last) = part.last() {
                    let mut wrong = part.to_vec();
                    *wrong.last_mut().unwrap() = !last;
                    assert!(!pieces.holds(piece, &wrong), "one bit");
                    assert!(!pieces.holds(piece, &part[1..]), "too short");
                }
            }
        }
    }

    #[test]
    fn a_list_that_is_not_of_the_file_is_refused() {
        let mut hasher = PieceHasher::default();
        hasher.update(&bytes(3 * PIECE));
        let pieces = hasher.finish();
        let (hash, size, list) = (pieces.hash, pieces.size, pieces.list().to_vec());
        let mut turned = list.clone();
        turned.rotate_left(HASH_LEN);
        let mut longer = list.clone();
        longer.extend_from_slice(&list[..HASH_LEN]);
        for wrong in [&turned[..], &longer, &list[1..], &list[HASH_LEN..], &[]] {
            assert!(Pieces::read(hash, size, wrong).is_none());
        }
        assert!(Pieces::read(hash, size + PIECE as u64, &list).is_none());
        assert!(Pieces::read(hash, 7, &list).is_none());
        assert!(Pieces::read([0; HASH_LEN], size, &list).is_none());
        assert_eq!(root_of(&[]), None);
        assert_eq!(root_of(&[hash]), None);
    }

    #[test]
    fn there_is_no_piece_behind_the_last() {
        assert_eq!(len_of(0, 0), Some((0, 0)));
        assert_eq!(len_of(1, 1), None);
        assert_eq!(len_of(PIECE as u64 + 1, 1), Some((PIECE as u64, 1)));
        assert_eq!(len_of(u64::MAX, u64::MAX), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However the bytes are cut when they come, they are the same file.
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(1..400_000_usize, 1..8)) {
            let all = bytes(cuts.iter().sum());
            let (mut hasher, mut rest) = (PieceHasher::default(), &all[..]);
            for cut in cuts {
                let (part, left) = rest.split_at(cut);
                hasher.update(part);
                rest = left;
            }
            prop_assert_eq!(hasher.finish().hash, *blake3::hash(&all).as_bytes());
        }
    }
}
