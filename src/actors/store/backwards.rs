//! Reads rows of the database from the end of a range. Nothing else turns a range around.
//!
//! sled 0.34.7 steps from a leaf of its tree to the one before by a guess (`possible_predecessor`
//! in its `iter.rs`): it lowers the last byte of the key at which the leaf begins, and adds four
//! bytes `ff`. That is right unless yet another leaf begins between the guess and that key. Then
//! it lands on a leaf that is too low, seeks anew, lands there again, and panics after a million
//! rounds. The key at which a leaf begins is that of a row, cut after the first byte in which it
//! differs from the row before. So what sled cannot step over are rows whose keys have four bytes
//! `ff` behind a byte that is counted up: where `7f ff ff ff ff …` is followed by `80`.
//!
//! Invariants:
//!
//! - Only rows by number are read backwards: keys that are a prefix and a number of fixed length.
//!   A hash can have any bytes, and somebody else may have looked for one that does harm.
//! - A range never reaches over the middle of its numbers, where history (`7f ff …`) ends and what
//!   is live (`80 …`) begins. It is read in two pieces, and the lower one ends *with* its last
//!   number, so that sled is never asked for the leaf before `80`. The other places of that kind
//!   are 2⁴⁰ numbers away from the middle and from the ends, and no counter gets there.

use std::ops::RangeInclusive;

/// Keys that are `prefix` and then a number, big-endian, from `first` to `last`, both included.
#[derive(Debug, Clone)]
pub(super) struct Numbered<const LEN: usize> {
    /// What the keys have in common.
    pub(super) prefix: Vec<u8>,
    /// The first number.
    pub(super) first: [u8; LEN],
    /// The last number.
    pub(super) last: [u8; LEN],
}

impl<const LEN: usize> Numbered<LEN> {
    /// All numbers after a prefix.
    pub(super) fn all(prefix: Vec<u8>) -> Self {
        Self { prefix, first: [0; LEN], last: [u8::MAX; LEN] }
    }

    /// Returns the ranges of keys that sled can read backwards, the last one first.
    fn pieces(&self) -> impl Iterator<Item = RangeInclusive<Vec<u8>>> + use<LEN> {
        let (mut below, mut above) = ([u8::MAX; LEN], [0; LEN]);
        if let (Some(below), Some(above)) = (below.first_mut(), above.first_mut()) {
            (*below, *above) = (0x7f, 0x80);
        }
        let key = |number: &[u8; LEN]| [self.prefix.as_slice(), number].concat();
        let upper = key(&self.first.max(above))..=key(&self.last);
        let lower = key(&self.first)..=key(&self.last.min(below));
        [upper, lower].into_iter().filter(|piece| !piece.is_empty())
    }

    /// Reads the rows, the last one first.
    pub(super) fn rows(
        &self,
        tree: &sled::Tree,
    ) -> impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>> + use<LEN> {
        let tree = tree.clone();
        self.pieces().flat_map(move |piece| tree.range(piece).rev())
    }

    /// Returns the whole range of keys; it may be empty.
    pub(super) fn range(&self) -> RangeInclusive<Vec<u8>> {
        let key = |number: &[u8; LEN]| [self.prefix.as_slice(), number].concat();
        key(&self.first)..=key(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::schema::{Key, family},
        *,
    };

    fn tree() -> sled::Db {
        sled::Config::new().temporary(true).open().unwrap()
    }

    /// A key of a family as a function of a number, and the bytes that its keys have in common.
    type Family = (Vec<u8>, fn(i64) -> Vec<u8>);

    fn unsigned(order: i64) -> u64 {
        // As far apart as orders are, and from zero on.
        order.saturating_add(1 << 20).cast_unsigned()
    }

    /// All families whose keys end with a number of eight bytes; orders are those with a sign.
    fn families() -> Vec<Family> {
        vec![
            (Key::room(family::TIMELINE, 7).done(), |order| {
                Key::room(family::TIMELINE, 7).order(order).done()
            }),
            (Key::room(family::NOTIFY, 255).done(), |order| {
                Key::room(family::NOTIFY, 255).order(order).done()
            }),
            (Key::room(family::TXN, u32::MAX).done(), |number| {
                Key::room(family::TXN, u32::MAX).number(unsigned(number)).done()
            }),
            (Key::new(family::LOG).done(), |number| {
                Key::new(family::LOG).number(unsigned(number)).done()
            }),
            (Key::new(family::TO_DEVICE).text("\0\0\0\0").done(), |number| {
                Key::new(family::TO_DEVICE).text("\0\0\0\0").number(unsigned(number)).done()
            }),
        ]
    }

    /// Checks that the rows of a range come backwards as they come forwards, in whole and from
    /// and to some places inside.
    fn check(tree: &sled::Db, (prefix, key): &Family, history: i64, live: i64) {
        let whole = Numbered::<8>::all(prefix.clone());
        let number = |order| -> [u8; 8] { key(order)[prefix.len()..].try_into().unwrap() };
        let upper = Numbered { first: number(-history / 2), ..whole.clone() };
        let lower = Numbered { last: number(live / 2), ..whole.clone() };
        for range in [whole, upper, lower] {
            let back: Vec<_> = range.rows(tree).map(|row| row.unwrap().0).collect();
            let mut forth: Vec<_> = tree.range(range.range()).map(|row| row.unwrap().0).collect();
            forth.reverse();
            assert_eq!(back, forth, "{history} of history and {live} live: {range:?}");
        }
    }

    /// Rows before and behind those of a family, as other rooms and families have them.
    fn surround(tree: &sled::Db, (prefix, _): &Family) {
        for step in [-1, 1] {
            let mut beside = prefix.clone();
            let last = beside.last_mut().unwrap();
            *last = last.wrapping_add_signed(step);
            for number in 0..40_u64 {
                let low = [beside.as_slice(), &number.to_be_bytes()].concat();
                let high = [beside.as_slice(), &(u64::MAX - number).to_be_bytes()].concat();
                tree.insert(low, b"").unwrap();
                tree.insert(high, b"").unwrap();
            }
        }
    }

    /// Grows a tree by history and then by live rows, or the other way round, and looks at it
    /// after every row: every pair from these ranges up to (160, 80) is a shape of its own.
    fn table(family: &Family, histories: &[i64], lives: &[i64], looks: impl Fn(i64, i64) -> bool) {
        for &history in histories {
            let tree = tree();
            surround(&tree, family);
            (1..=history).for_each(|n| drop(tree.insert((family.1)(-n), b"").unwrap()));
            for live in 0..=80 {
                if live > 0 {
                    tree.insert((family.1)(live), b"").unwrap();
                }
                if looks(history, live) {
                    check(&tree, family, history, live);
                }
            }
        }
        for &live in lives {
            let tree = tree();
            surround(&tree, family);
            (1..=live).for_each(|n| drop(tree.insert((family.1)(n), b"").unwrap()));
            for history in 0..=160 {
                if history > 0 {
                    tree.insert((family.1)(-history), b"").unwrap();
                }
                if looks(history, live) {
                    check(&tree, family, history, live);
                }
            }
        }
    }

    #[test]
    fn what_is_read_backwards_is_what_is_read_forwards() {
        for family in &families() {
            table(family, &[0, 20, 37, 160], &[0, 16, 80], |history, live| {
                (history + live) % 4 == 0
            });
        }
    }

    #[test]
    #[ignore = "the complete table takes minutes: cargo nextest run --run-ignored only backwards"]
    fn what_is_read_backwards_is_what_is_read_forwards_in_every_shape() {
        let (histories, lives): (Vec<i64>, Vec<i64>) = ((0..=160).collect(), (0..=80).collect());
        for family in &families() {
            table(family, &histories, &lives, |_, _| true);
        }
    }

    /// Rows that go away leave leaves behind that begin where no row is.
    #[test]
    fn rows_that_were_removed_are_stepped_over() {
        for family in &families() {
            for keep in [1, 3, 7] {
                let tree = tree();
                surround(&tree, family);
                (-90..90).for_each(|n| drop(tree.insert((family.1)(n), b"").unwrap()));
                for n in (-90..90).filter(|n| n % keep == 0) {
                    tree.remove((family.1)(n)).unwrap();
                    check(&tree, family, 90, 90);
                }
            }
        }
    }

    #[test]
    fn short_numbers_and_empty_ranges() {
        let tree = tree();
        for room in [1_u32, 2, 300, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            tree.insert(Key::room(family::ROOM_INFO, room).done(), b"").unwrap();
        }
        let rooms = Numbered::<4>::all(vec![family::ROOM_INFO]);
        let found = rooms.rows(&tree).map(|row| row.unwrap().0[1..].to_vec());
        let expected = [u32::MAX, 0x8000_0000, 0x7fff_ffff, 300, 2, 1];
        assert!(found.eq(expected.map(|room| room.to_be_bytes().to_vec())));
        let none = Numbered { first: [9; 4], last: [8; 4], ..rooms };
        assert_eq!(none.rows(&tree).count(), 0);
    }
}
