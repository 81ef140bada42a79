//! To-device transactions that were handled, so that none is delivered twice. Pure.
//!
//! They are remembered by sender, and all users of a server are one: a server can have any number of
//! users, and make any number of ids. Invariants: each is remembered for as long as what is kept for
//! somebody who is off can still come; a sender has those of nobody else forgotten, unless there are too
//! many senders, and then whoever has most loses the oldest; work on one message is bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedServerName, UserId};
use sha2::{Digest as _, Sha256};

use crate::{
    actors::store::Row,
    config::limits::{TO_DEVICE_SEEN, TO_DEVICE_SEEN_ALL, TO_DEVICE_SEEN_MS},
};

/// Most that are forgotten by age with one message.
const FORGOTTEN_AT_ONCE: usize = 32;

/// What is left of an id: enough that nobody finds two with the same.
type Id = [u8; 16];

/// One transaction: whose, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Txn {
    server: OwnedServerName,
    id: Id,
}

impl Txn {
    /// Names a message of another server's user.
    pub(super) fn of(sender: &UserId, id: &str) -> Self {
        let text = [sender.as_str(), "\0", id].concat();
        let digest = Sha256::digest(text.as_bytes());
        let id = digest.first_chunk().copied().unwrap_or_default();
        Self { server: sender.server_name().to_owned(), id }
    }

    /// Names a message of a user of ours, told apart from those of their other devices.
    pub(super) fn own(user_id: &UserId, device_id: &str, txn_id: &str, kind: &str) -> Self {
        Self::of(user_id, &serde_json::json!([device_id, txn_id, kind]).to_string())
    }
}

fn row(server: &OwnedServerName, at: u64, id: &Id) -> Row {
    Row::ToDeviceSeen(server.clone(), at, URL_SAFE_NO_PAD.encode(id))
}

/// Those of one server.
#[derive(Debug, Default)]
struct Sender {
    known: BTreeMap<Id, u64>,
    oldest_first: VecDeque<(u64, Id)>,
}

/// The handled transactions.
#[derive(Debug, Default)]
pub(super) struct Txns {
    senders: BTreeMap<OwnedServerName, Sender>,
    /// Of how many each has, for who has most.
    by_len: BTreeSet<(usize, OwnedServerName)>,
    total: usize,
    /// Whose old ones were looked for last.
    looked_at: Option<OwnedServerName>,
}

fn is_old(at: u64, now: u64) -> bool {
    now.saturating_sub(at) >= TO_DEVICE_SEEN_MS
}

impl Txns {
    /// Takes what is stored; also says which rows may go.
    pub(super) fn load(rows: Vec<(Row, Vec<u8>)>) -> (Self, Vec<Row>) {
        let mut read: Vec<(u64, OwnedServerName, Id)> = Vec::new();
        let mut gone = Vec::new();
        for (row, _) in rows {
            let Row::ToDeviceSeen(server, at, id) = row else { continue };
            match URL_SAFE_NO_PAD.decode(&id).ok().and_then(|id| id.try_into().ok()) {
                Some(id) => read.push((at, server, id)),
                None => gone.push(Row::ToDeviceSeen(server, at, id)),
            }
        }
        read.sort_unstable();
        let mut txns = Self::default();
        for (at, server, id) in read {
            txns.put(server, at, id, &mut gone);
        }
        (txns, gone)
    }

    /// Tells whether a transaction was handled.
    pub(super) fn knows(&self, txn: &Txn, now: u64) -> bool {
        let sender = self.senders.get(&txn.server);
        sender.and_then(|sender| sender.known.get(&txn.id)).is_some_and(|at| !is_old(*at, now))
    }

    /// Remembers one; returns its row, and those that may go.
    pub(super) fn add(&mut self, txn: Txn, now: u64) -> (Row, Vec<Row>) {
        let mut gone = Vec::new();
        let Txn { server, id } = txn;
        self.forget_old(&server, now, &mut gone);
        // Somebody else's as well, in turn: who never sends again has a row go all the same.
        let after = self.looked_at.take();
        let next = after.and_then(|after| {
            let mut others = self.senders.range::<OwnedServerName, _>(after..);
            others.nth(1).map(|(server, _)| server.clone())
        });
        let next = next.or_else(|| self.senders.keys().next().cloned());
        if let Some(next) = &next {
            self.forget_old(next, now, &mut gone);
        }
        self.looked_at = next;
        self.put(server.clone(), now, id, &mut gone);
        (row(&server, now, &id), gone)
    }

    /// Forgets the oldest of a server that are too old, some at a time.
    fn forget_old(&mut self, server: &OwnedServerName, now: u64, gone: &mut Vec<Row>) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let oldest = self.senders.get(server).and_then(|sender| sender.oldest_first.front());
            if !oldest.is_some_and(|(at, _)| is_old(*at, now)) {
                return;
            }
            self.drop_oldest(server, gone);
        }
    }

    fn drop_oldest(&mut self, server: &OwnedServerName, gone: &mut Vec<Row>) {
        let Some(sender) = self.senders.get_mut(server) else { return };
        let len = sender.oldest_first.len();
        let Some((at, id)) = sender.oldest_first.pop_front() else { return };
        // It may have been handled again since, once it was too old to be known.
        if sender.known.get(&id) == Some(&at) {
            sender.known.remove(&id);
        }
        gone.push(row(server, at, &id));
        self.counted(server, len, len.saturating_sub(1));
    }

    fn put(&mut self, server: OwnedServerName, at: u64, id: Id, gone: &mut Vec<Row>) {
        let sender = self.senders.entry(server.clone()).or_default();
        let len = sender.oldest_first.len();
        if sender.known.insert(id, at) == Some(at) {
            return;
        }
        sender.oldest_first.push_back((at, id));
        self.counted(&server, len, len.saturating_add(1));
        if len >= TO_DEVICE_SEEN {
            self.drop_oldest(&server, gone);
        }
        while self.total > TO_DEVICE_SEEN_ALL
            && let Some((_, most)) = self.by_len.last().cloned()
        {
            self.drop_oldest(&most, gone);
        }
    }

    fn counted(&mut self, server: &OwnedServerName, before: usize, after: usize) {
        self.by_len.remove(&(before, server.clone()));
        if after > 0 {
            self.by_len.insert((after, server.clone()));
        } else {
            self.senders.remove(server);
        }
        self.total = self.total.saturating_sub(before).saturating_add(after);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn txn(sender: &str, id: usize) -> Txn {
        Txn::of(<&UserId>::try_from(sender).unwrap(), &id.to_string())
    }

    fn check(txns: &Txns) {
        let lens = txns.senders.iter().map(|(server, sender)| {
            assert!(sender.known.len() <= sender.oldest_first.len());
            (sender.oldest_first.len(), server.clone())
        });
        assert_eq!(lens.collect::<BTreeSet<_>>(), txns.by_len);
        assert_eq!(txns.by_len.iter().map(|(len, _)| len).sum::<usize>(), txns.total);
        assert!(txns.total <= TO_DEVICE_SEEN_ALL);
    }

    #[test]
    fn attack_13_a_flood_has_nothing_of_others_forgotten() {
        let mut txns = Txns::default();
        txns.add(txn("@friend:friend.org", 0), NOW);
        txns.add(txn("@own:here", 0), NOW);
        let gone: usize = (0..2 * TO_DEVICE_SEEN)
            .map(|id| txns.add(txn(&format!("@eve{}:eve.org", id % 9), id), NOW + 1).1.len())
            .sum();
        let knows = |txns: &Txns, sender: &str, id| txns.knows(&txn(sender, id), NOW + 2);
        assert!(knows(&txns, "@friend:friend.org", 0) && knows(&txns, "@own:here", 0));
        assert_eq!((txns.total, gone), (TO_DEVICE_SEEN + 2, TO_DEVICE_SEEN));
        let last = 2 * TO_DEVICE_SEEN - 1;
        assert!(knows(&txns, &format!("@eve{}:eve.org", last % 9), last));
        assert!(!knows(&txns, "@eve0:eve.org", 0));
        check(&txns);
    }

    #[test]
    fn attack_13_many_senders_fill_no_memory_and_whoever_has_most_loses_first() {
        let mut txns = Txns::default();
        txns.add(txn("@friend:friend.org", 0), NOW);
        let servers = TO_DEVICE_SEEN_ALL / TO_DEVICE_SEEN + 2;
        for id in 0..TO_DEVICE_SEEN {
            for server in 0..servers {
                txns.add(txn(&format!("@eve:eve{server}.org"), id), NOW + 1);
            }
        }
        assert_eq!(txns.total, TO_DEVICE_SEEN_ALL);
        assert!(txns.knows(&txn("@friend:friend.org", 0), NOW + 1));
        check(&txns);
    }

    #[test]
    fn they_go_after_45_days_some_at_a_time_and_a_restart_changes_nothing() {
        let mut txns = Txns::default();
        let mut rows = BTreeMap::new();
        let note = |rows: &mut BTreeMap<String, Row>, (row, gone): (Row, Vec<Row>)| {
            rows.insert(format!("{row:?}"), row);
            for row in &gone {
                assert!(rows.remove(&format!("{row:?}")).is_some(), "{row:?} is no row");
            }
            gone.len()
        };
        for id in 0..100 {
            let sender = if id % 2 == 0 { "@a:x" } else { "@b:y" };
            note(&mut rows, txns.add(txn(sender, id), NOW + id as u64));
        }
        let late = NOW + TO_DEVICE_SEEN_MS;
        assert!(!txns.knows(&txn("@a:x", 0), late) && txns.knows(&txn("@b:y", 1), late));
        assert!(txns.knows(&txn("@a:x", 0), late - 1));
        let stored = |rows: &BTreeMap<String, Row>| {
            rows.values().map(|row| (row.clone(), Vec::new())).collect::<Vec<_>>()
        };
        let (loaded, gone) = Txns::load(stored(&rows));
        assert_eq!((loaded.total, gone), (100, Vec::new()));
        assert!(loaded.knows(&txn("@b:y", 1), late));
        check(&loaded);
        // All are old now, of whoever sends and of who does not. The same id counts anew.
        let mut txns = loaded;
        let later = late + 100;
        let mut most = 0;
        for id in 0..8 {
            most = most.max(note(&mut rows, txns.add(txn("@a:x", 98 + id), later + id as u64)));
            check(&txns);
        }
        assert!((1..=2 * FORGOTTEN_AT_ONCE).contains(&most), "{most}");
        assert_eq!((txns.total, rows.len()), (8, 8), "nothing old is left");
        assert!(txns.knows(&txn("@a:x", 98), later));
        let nonsense = Row::ToDeviceSeen("x".try_into().unwrap(), 1, "?".to_owned());
        let (loaded, gone) = Txns::load(vec![(nonsense.clone(), Vec::new())]);
        assert_eq!((loaded.total, gone), (0, vec![nonsense]));
    }

    #[test]
    fn ids_are_told_apart_by_who_sent_them() {
        let user = <&UserId>::try_from("@a:x").unwrap();
        let all = [
            Txn::of(user, "1"),
            Txn::of(<&UserId>::try_from("@b:x").unwrap(), "1"),
            Txn::own(user, "D", "1", "m.dummy"),
            Txn::own(user, "D", "1", "m.other"),
            Txn::own(user, "E", "1", "m.dummy"),
        ];
        let ids: HashSet<Id> = all.iter().map(|txn| txn.id).collect();
        assert_eq!(ids.len(), all.len());
    }
}
