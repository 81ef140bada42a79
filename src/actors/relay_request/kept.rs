//! Recent answers, so that a request that came by two ways is executed once and answered twice,
//! and long answers can be fetched in pieces. Pure; who waits is opaque.
//!
//! Invariants: an answer is given again only for the very same request (origin, id and hash), a
//! few times, for a short while; number and bytes of what is kept are bounded, and the oldest of the
//! origin that has the most gives way, so that nobody has those of others forgotten: who fetches a
//! long answer in pieces goes on, whatever others ask.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ruma::{OwnedServerName, ServerName};

use crate::proto::{sealed::Piece, signed::MAX_ANSWER_LEN};

/// How long an answer is kept, in milliseconds, from when it was given or a piece of it was
/// fetched: as long as an asker waits.
pub(super) const KEEP_MS: u64 = 30_000;
/// Answers that are kept.
const ANSWERS_MAX: usize = 4096;
/// Bytes of them: the longest answer there is, and some shorter ones.
const BYTES_MAX: usize = MAX_ANSWER_LEN + 16 * 1024 * 1024;
/// Copies of one request that are answered: the asker tries two ways, each of them twice.
const COPIES_MAX: u8 = 4;

type Key = (OwnedServerName, String);

#[derive(Debug)]
enum Standing<W> {
    /// Being answered; these wait for it.
    InWork(Vec<W>),
    /// Answered.
    Done(Arc<[u8]>),
}

#[derive(Debug)]
struct Entry<W> {
    hash: String,
    standing: Standing<W>,
    copies: u8,
    until: u64,
}

/// What becomes of a copy.
#[derive(Debug)]
pub(super) enum Again<W> {
    /// It waits for the answer to the first one.
    Waits,
    /// This is the answer.
    Answered(W, Arc<[u8]>),
    /// It is a replay.
    Refused,
}

/// The answers.
#[derive(Debug)]
pub(super) struct Kept<W> {
    entries: HashMap<Key, Entry<W>>,
    /// Those that are done, in the order in which they will be forgotten.
    done: VecDeque<Key>,
    /// How much of these each origin has.
    shares: HashMap<OwnedServerName, Share>,
    bytes: usize,
}

/// Answers that are kept of one origin.
#[derive(Debug, Default)]
struct Share {
    number: usize,
    bytes: usize,
}

impl<W> Default for Kept<W> {
    fn default() -> Self {
        Self { entries: HashMap::new(), done: VecDeque::new(), shares: HashMap::new(), bytes: 0 }
    }
}

impl<W> Kept<W> {
    /// A request came for the first time; `waiter` gets its answer by [`Self::done`].
    pub(super) fn begin(&mut self, origin: &ServerName, id: &str, hash: &str, waiter: W) {
        let key = (origin.to_owned(), id.to_owned());
        let standing = Standing::InWork(vec![waiter]);
        let entry = Entry { hash: hash.to_owned(), standing, copies: 1, until: u64::MAX };
        self.entries.insert(key, entry);
    }

    /// A request came once more.
    pub(super) fn again(
        &mut self,
        origin: &ServerName,
        id: &str,
        hash: &str,
        waiter: W,
        now: u64,
    ) -> Again<W> {
        self.expire(now);
        let key = (origin.to_owned(), id.to_owned());
        let known = self.entries.get_mut(&key).filter(|entry| entry.hash == hash);
        let Some(entry) = known.filter(|entry| entry.copies < COPIES_MAX) else {
            return Again::Refused;
        };
        entry.copies += 1;
        match &mut entry.standing {
            Standing::InWork(waiters) => {
                waiters.push(waiter);
                Again::Waits
            }
            Standing::Done(bytes) => Again::Answered(waiter, Arc::clone(bytes)),
        }
    }

    /// A request was answered, or could not be. Returns who waits for it.
    pub(super) fn done(
        &mut self,
        origin: &ServerName,
        id: &str,
        answer: Option<Arc<[u8]>>,
        now: u64,
    ) -> Vec<W> {
        self.expire(now);
        let key = (origin.to_owned(), id.to_owned());
        let Some(entry) = self.entries.get_mut(&key) else { return Vec::new() };
        let Standing::InWork(waiters) = &mut entry.standing else { return Vec::new() };
        let waiters = std::mem::take(waiters);
        match answer {
            Some(answer) => {
                let share = self.shares.entry(origin.to_owned()).or_default();
                share.number += 1;
                share.bytes += answer.len();
                self.bytes += answer.len();
                entry.standing = Standing::Done(answer);
                entry.until = now.saturating_add(KEEP_MS);
                self.done.push_back(key);
                while self.bytes > BYTES_MAX || self.done.len() > ANSWERS_MAX {
                    self.make_room();
                }
            }
            None => {
                self.entries.remove(&key);
            }
        }
        waiters
    }

    /// Returns a piece of an answer that this origin was given.
    pub(super) fn piece(
        &mut self,
        origin: &ServerName,
        id: &str,
        from: usize,
        now: u64,
    ) -> Option<Piece> {
        self.expire(now);
        let key = (origin.to_owned(), id.to_owned());
        let entry = self.entries.get_mut(&key)?;
        let Standing::Done(answer) = &entry.standing else { return None };
        let piece = Piece::cut(answer, from)?;
        entry.until = now.saturating_add(KEEP_MS);
        self.done.retain(|known| *known != key);
        self.done.push_back(key);
        Some(piece)
    }

    /// Forgets what is old.
    pub(super) fn expire(&mut self, now: u64) {
        let old = |key: &Key| self.entries.get(key).is_none_or(|entry| entry.until < now);
        let old = self.done.iter().take_while(|key| old(key)).count();
        for _ in 0..old {
            self.forget(0);
        }
    }

    /// Forgets an answer of whoever has the most. An origin that has a single one is spared while
    /// others have several: it may be long, and on its way.
    fn make_room(&mut self) {
        let too_long = self.bytes > BYTES_MAX;
        let most = self.shares.iter().max_by_key(|(_, share)| {
            (share.number > 1, if too_long { share.bytes } else { share.number })
        });
        let Some((most, _)) = most else { return };
        let oldest = self.done.iter().position(|(origin, _)| origin == most);
        self.forget(oldest.unwrap_or_default());
    }

    /// Forgets an answer by its place.
    fn forget(&mut self, at: usize) {
        let Some(key) = self.done.remove(at) else { return };
        let Some(Entry { standing: Standing::Done(answer), .. }) = self.entries.remove(&key) else {
            return;
        };
        self.bytes -= answer.len();
        if let Some(share) = self.shares.get_mut(&key.0) {
            share.number -= 1;
            share.bytes -= answer.len();
            if share.number == 0 {
                self.shares.remove(&key.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn answer(length: usize) -> Option<Arc<[u8]>> {
        Some(vec![b'x'; length].into())
    }

    #[test]
    fn copies_get_the_same_answer_and_replays_none() {
        let (ann, eve) = (server_name!("ann"), server_name!("eve"));
        let mut kept = Kept::<u8>::default();
        kept.begin(ann, "1", "hash", 1);
        assert!(matches!(kept.again(ann, "1", "hash", 2, NOW), Again::Waits));
        assert!(matches!(kept.again(ann, "1", "other", 9, NOW), Again::Refused), "another request");
        assert!(matches!(kept.again(eve, "1", "hash", 9, NOW), Again::Refused), "another server");
        assert!(matches!(kept.again(ann, "2", "hash", 9, NOW), Again::Refused), "never came");
        assert_eq!(kept.done(ann, "1", answer(3), NOW), [1, 2]);
        assert!(kept.done(ann, "1", answer(4), NOW).is_empty(), "answered once");
        let again = kept.again(ann, "1", "hash", 3, NOW + KEEP_MS);
        assert!(matches!(again, Again::Answered(3, bytes) if bytes.len() == 3));
        let later = kept.again(ann, "1", "hash", 3, NOW + KEEP_MS + 1);
        assert!(matches!(later, Again::Refused), "later it is a replay");
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn copies_are_counted() {
        let ann = server_name!("ann");
        let mut kept = Kept::<u8>::default();
        kept.begin(ann, "1", "hash", 0);
        kept.done(ann, "1", answer(1), NOW);
        for copy in 1..COPIES_MAX {
            assert!(matches!(kept.again(ann, "1", "hash", copy, NOW), Again::Answered(..)));
        }
        assert!(matches!(kept.again(ann, "1", "hash", 9, NOW), Again::Refused));
    }

    #[test]
    fn what_could_not_be_answered_is_forgotten() {
        let ann = server_name!("ann");
        let mut kept = Kept::<u8>::default();
        kept.begin(ann, "1", "hash", 1);
        assert_eq!(kept.done(ann, "1", None, NOW), [1]);
        assert!(matches!(kept.again(ann, "1", "hash", 2, NOW), Again::Refused));
        assert!(kept.entries.is_empty());
    }

    #[test]
    fn bytes_and_number_are_bounded_and_the_oldest_goes_first() {
        let ann = server_name!("ann");
        let mut kept = Kept::<u8>::default();
        for id in 0..ANSWERS_MAX + 10 {
            kept.begin(ann, &id.to_string(), "hash", 0);
            kept.done(ann, &id.to_string(), answer(1), NOW);
        }
        assert_eq!((kept.done.len(), kept.entries.len()), (ANSWERS_MAX, ANSWERS_MAX));
        assert!(matches!(kept.again(ann, "9", "hash", 1, NOW), Again::Refused));
        for id in ["a", "b"] {
            kept.begin(ann, id, "hash", 0);
            kept.done(ann, id, answer(MAX_ANSWER_LEN), NOW);
        }
        assert!(kept.bytes <= BYTES_MAX);
        assert!(kept.piece(ann, "a", 0, NOW).is_none());
        assert!(kept.piece(ann, "b", 0, NOW).is_some());
    }

    #[test]
    fn attack_13_a_flood_has_no_answers_of_others_forgotten() {
        let (ann, bob) = (server_name!("ann"), server_name!("bob"));
        // One fetches a long answer in pieces, the other asked for something short twice.
        let mut kept = Kept::<u8>::default();
        kept.begin(ann, "long", "hash", 0);
        kept.done(ann, "long", answer(MAX_ANSWER_LEN), NOW);
        for id in ["1", "2"] {
            kept.begin(bob, id, "hash", 0);
            kept.done(bob, id, answer(10), NOW);
        }
        for (name, each, length) in [("eve", 100, 1024 * 1024), ("mallory", 2 * ANSWERS_MAX, 1)] {
            let eve = OwnedServerName::try_from(name).unwrap();
            for id in 0..each {
                kept.begin(&eve, &id.to_string(), "hash", 0);
                kept.done(&eve, &id.to_string(), answer(length), NOW);
            }
            let newest = (each - 1).to_string();
            assert!(kept.piece(&eve, &newest, 0, NOW).is_some(), "and she has her own share");
        }
        assert!(kept.bytes <= BYTES_MAX && kept.done.len() <= ANSWERS_MAX);
        assert!(kept.piece(ann, "long", MAX_ANSWER_LEN - 1, NOW).is_some());
        for id in ["1", "2"] {
            assert!(matches!(kept.again(bob, id, "hash", 1, NOW), Again::Answered(..)), "{id}");
        }
        kept.expire(NOW + KEEP_MS + 1);
        assert!(kept.shares.is_empty() && kept.entries.is_empty() && kept.bytes == 0);
    }

    #[test]
    fn pieces_are_for_who_was_answered_and_keep_the_answer() {
        let (ann, eve) = (server_name!("ann"), server_name!("eve"));
        let mut kept = Kept::<u8>::default();
        kept.begin(ann, "1", "hash", 0);
        assert_eq!(kept.piece(ann, "1", 0, NOW), None, "not answered yet");
        kept.done(ann, "1", answer(10), NOW);
        kept.begin(ann, "2", "hash", 0);
        kept.done(ann, "2", answer(10), NOW);
        assert_eq!(kept.piece(eve, "1", 0, NOW), None);
        assert_eq!(kept.piece(ann, "1", 11, NOW), None);
        assert_eq!(kept.piece(ann, "1", 4, NOW + KEEP_MS).unwrap().bytes.len(), 6);
        kept.expire(NOW + KEEP_MS + 1);
        assert!(kept.piece(ann, "1", 4, NOW + 2 * KEEP_MS).is_some());
        assert!(kept.piece(ann, "2", 4, NOW + 2 * KEEP_MS).is_none());
    }
}
