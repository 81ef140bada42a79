//! To-device transactions that were handled, so that none is delivered twice. Pure.
//!
//! Invariants: each is remembered for as long as its sender may try again; where there are too many,
//! the oldest of whoever has the most gives way, so that nobody has those of others forgotten.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::OwnedServerName;

use crate::actors::store::Row;

/// How long a sender may try again: a week, the longest that its keys are good for.
const REMEMBERED_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Most that are remembered of all senders: 2 MiB.
const TXNS: usize = 20_000;

/// The handled transactions.
#[derive(Debug, Default)]
pub(super) struct Txns {
    known: HashSet<Row>,
    /// By server, ours too; oldest first.
    by_sender: HashMap<OwnedServerName, VecDeque<(Row, u64)>>,
}

/// Returns who may have others of theirs forgotten: all users of a server are one.
fn sender_of(row: &Row) -> Option<OwnedServerName> {
    let Row::ToDeviceTxn(sender, _) = row else { return None };
    Some(sender.server_name().to_owned())
}

/// Returns the id of a transaction of a device of ours, told apart from those of its other devices.
pub(super) fn own_id(device_id: &str, txn_id: &str, kind: &str) -> String {
    serde_json::json!([device_id, txn_id, kind]).to_string()
}

/// Returns the value of a row.
pub(super) fn encode(now: u64) -> Vec<u8> {
    now.to_be_bytes().to_vec()
}

impl Txns {
    /// Takes what is stored; also says which rows may go.
    pub(super) fn load(rows: Vec<(Row, Vec<u8>)>, now: u64) -> (Self, Vec<Row>) {
        let mut rows: Vec<(u64, Row)> = rows
            .into_iter()
            // An older program wrote no time.
            .map(|(row, value)| (value.try_into().map_or(0, u64::from_be_bytes), row))
            .collect();
        rows.sort_by_key(|(at, _)| *at);
        let mut txns = Self::default();
        let mut gone = Vec::new();
        for (at, row) in rows {
            // A clock that was ahead must not keep them for ever.
            let at = at.min(now);
            if now.saturating_sub(at) >= REMEMBERED_MS {
                gone.push(row);
            } else {
                gone.extend(txns.add(row, at));
            }
        }
        (txns, gone)
    }

    /// Tells whether a transaction was handled.
    pub(super) fn knows(&self, row: &Row) -> bool {
        self.known.contains(row)
    }

    /// Remembers one; returns those that may go.
    pub(super) fn add(&mut self, row: Row, now: u64) -> Vec<Row> {
        let mut gone = Vec::new();
        let Some(sender) = sender_of(&row) else { return gone };
        if !self.known.insert(row.clone()) {
            return gone;
        }
        let own = self.by_sender.entry(sender).or_default();
        own.push_back((row, now));
        while let Some((row, _)) =
            own.pop_front_if(|(_, at)| now.saturating_sub(*at) >= REMEMBERED_MS)
        {
            gone.push(row);
        }
        while self.known.len().saturating_sub(gone.len()) > TXNS
            && let Some(most) = self.by_sender.values_mut().max_by_key(|txns| txns.len())
            && let Some((row, _)) = most.pop_front()
        {
            gone.push(row);
        }
        for row in &gone {
            self.known.remove(row);
        }
        self.by_sender.retain(|_, txns| !txns.is_empty());
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn txn(sender: &str, id: usize) -> Row {
        Row::ToDeviceTxn(sender.try_into().unwrap(), id.to_string())
    }

    #[test]
    fn attack_13_a_flood_has_nothing_of_others_forgotten() {
        let mut txns = Txns::default();
        assert!(txns.add(txn("@friend:friend.org", 0), NOW).is_empty());
        assert!(txns.add(txn("@own:here", 0), NOW).is_empty());
        let gone: Vec<Row> = (0..2 * TXNS)
            .flat_map(|id| txns.add(txn(&format!("@eve{}:eve.org", id % 9), id), NOW + 1))
            .collect();
        assert!(txns.knows(&txn("@friend:friend.org", 0)) && txns.knows(&txn("@own:here", 0)));
        assert_eq!((txns.known.len(), gone.len()), (TXNS, TXNS + 2));
        assert!(gone.iter().all(|row| !txns.knows(row)));
        assert!(txns.knows(&txn(&format!("@eve{}:eve.org", (2 * TXNS - 1) % 9), 2 * TXNS - 1)));
    }

    #[test]
    fn they_go_after_a_week_and_a_restart_changes_nothing() {
        let mut txns = Txns::default();
        txns.add(txn("@a:x", 1), NOW);
        assert!(txns.add(txn("@a:x", 2), NOW + REMEMBERED_MS - 1).is_empty());
        assert_eq!(txns.add(txn("@a:x", 3), NOW + REMEMBERED_MS), [txn("@a:x", 1)]);
        let rows = vec![
            (txn("@a:x", 1), encode(NOW)),
            (txn("@a:x", 2), encode(NOW + REMEMBERED_MS)),
            (txn("@a:x", 3), Vec::new()),
            (txn("@a:x", 4), encode(u64::MAX)),
        ];
        let (loaded, mut gone) = Txns::load(rows, NOW + REMEMBERED_MS);
        gone.sort_by_key(|row| format!("{row:?}"));
        assert_eq!(gone, [txn("@a:x", 1), txn("@a:x", 3)]);
        assert!(loaded.knows(&txn("@a:x", 2)) && loaded.knows(&txn("@a:x", 4)));
    }
}
