//! Events by id: their records, and reads of several of them.
//!
//! A record is a small binary head and the canonical JSON as it was received. Invariant: the
//! record alone tells where the event stands; the timeline only points at it.

use std::collections::HashSet;

use ruma::{OwnedEventId, OwnedUserId, UserId};
use serde::Deserialize;

use super::{
    ClientTxn, Lookup, Place, StoreError, StoredEvent, TxnEndpoint,
    database::{Database, Rows},
    schema::{HASH_LEN, Hash, Key, Parts, event_id_of, family, hash_of, put_text, take_text},
};
use crate::proto::{annotation::Annotation, stream::Order};

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventRecord {
    pub(super) place: Place,
    pub(super) spoilt: bool,
    pub(super) state_group: Option<u64>,
    pub(super) order: Option<Order>,
    pub(super) txn: Option<ClientTxn>,
    /// The redaction that applies.
    pub(super) redacted_because: Option<Hash>,
    /// The state event that was in force before this one.
    pub(super) replaces: Option<Hash>,
    pub(super) json: Box<str>,
}

/// What filters and indexes need of an event.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    /// Who sent it.
    pub(super) sender: OwnedUserId,
    /// The event type.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Present on state events.
    pub(super) state_key: Option<String>,
}

#[derive(Deserialize)]
struct AuthEvents {
    auth_events: Vec<OwnedEventId>,
}

mod flag {
    pub(super) const SPOILT: u8 = 1;
    pub(super) const STATE_GROUP: u8 = 1 << 1;
    pub(super) const ORDER: u8 = 1 << 2;
    pub(super) const TXN: u8 = 1 << 3;
    pub(super) const REDACTED: u8 = 1 << 4;
    pub(super) const REPLACES: u8 = 1 << 5;
    pub(super) const HISTORY: u8 = 1 << 6;
    /// The transaction is one of `PUT redact`.
    pub(super) const REDACT_TXN: u8 = 1 << 7;
}

impl EventRecord {
    /// Returns the value of its row.
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut flags = 0;
        let mut body = Vec::with_capacity(self.json.len().saturating_add(96));
        let place = match self.place {
            Place::Live => 0,
            Place::Backfilled => 1,
            Place::Outlier => 2,
            Place::SoftFailed => 3,
            Place::Rejected => 4,
        };
        body.extend_from_slice(&[place, 0]);
        if self.spoilt {
            flags |= flag::SPOILT;
        }
        if let Some(group) = self.state_group {
            flags |= flag::STATE_GROUP;
            body.extend_from_slice(&group.to_be_bytes());
        }
        if let Some(order) = self.order {
            flags |= flag::ORDER;
            body.extend_from_slice(&Key::new(0).order(order.position).done().split_off(1));
            if order.history > 0 {
                flags |= flag::HISTORY;
                body.extend_from_slice(&order.history.to_be_bytes());
            }
        }
        if let Some(txn) = &self.txn {
            flags |= flag::TXN;
            if txn.endpoint == TxnEndpoint::Redact {
                flags |= flag::REDACT_TXN;
            }
            put_text(&mut body, &txn.device_id)?;
            put_text(&mut body, &txn.txn_id)?;
        }
        if let Some(hash) = &self.redacted_because {
            flags |= flag::REDACTED;
            body.extend_from_slice(hash);
        }
        if let Some(hash) = &self.replaces {
            flags |= flag::REPLACES;
            body.extend_from_slice(hash);
        }
        if let Some(byte) = body.get_mut(1) {
            *byte = flags;
        }
        body.extend_from_slice(self.json.as_bytes());
        Ok(body)
    }

    /// Reads the value of its row.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = Parts(bytes);
        let place = match parts.byte()? {
            0 => Place::Live,
            1 => Place::Backfilled,
            2 => Place::Outlier,
            3 => Place::SoftFailed,
            4 => Place::Rejected,
            _ => return None,
        };
        let flags = parts.byte()?;
        let has = |flag| flags & flag != 0;
        let state_group = if has(flag::STATE_GROUP) { Some(parts.number()?) } else { None };
        let order = if has(flag::ORDER) {
            let position = parts.order()?;
            let history = if has(flag::HISTORY) { parts.number()? } else { 0 };
            Some(Order { position, history })
        } else {
            None
        };
        let txn = if has(flag::TXN) {
            let device_id = take_text(&mut parts)?.to_owned();
            let redact = has(flag::REDACT_TXN);
            let endpoint = if redact { TxnEndpoint::Redact } else { TxnEndpoint::Send };
            Some(ClientTxn { device_id, endpoint, txn_id: take_text(&mut parts)?.to_owned() })
        } else {
            None
        };
        let redacted_because = if has(flag::REDACTED) { Some(parts.hash()?) } else { None };
        let replaces = if has(flag::REPLACES) { Some(parts.hash()?) } else { None };
        let json = std::str::from_utf8(parts.0).ok()?.into();
        let spoilt = has(flag::SPOILT);
        Some(Self { place, spoilt, state_group, order, txn, redacted_because, replaces, json })
    }

    /// Reads what filters need.
    pub(super) fn head(&self) -> Result<Head, StoreError> {
        serde_json::from_str(&self.json).map_err(|_| StoreError::Corrupt { what: "event" })
    }

    /// Returns it as others see it.
    pub(super) fn into_stored(self, hash: &Hash) -> StoredEvent {
        StoredEvent {
            event_id: event_id_of(hash),
            json: self.json.into(),
            place: self.place,
            state_group: self.state_group,
            order: self.order,
            spoilt: self.spoilt,
            txn: self.txn,
            redacted_because: self.redacted_because.as_ref().map(event_id_of),
        }
    }
}

/// Returns the key of an event.
pub(super) fn event_key(room: u32, hash: &Hash) -> Vec<u8> {
    Key::room(family::EVENT, room).hash(hash).done()
}

/// Returns the key of the redaction that waits for an event.
pub(super) fn pending_key(room: u32, hash: &Hash) -> Vec<u8> {
    Key::room(family::PENDING_REDACTION, room).hash(hash).done()
}

/// Reads an event.
pub(super) fn read_event(
    rows: &impl Rows,
    room: u32,
    hash: &Hash,
) -> Result<Option<EventRecord>, StoreError> {
    let Some(bytes) = rows.get(&event_key(room, hash))? else {
        return Ok(None);
    };
    EventRecord::decode(&bytes).map(Some).ok_or(StoreError::Corrupt { what: "event" })
}

/// Reads an event that another row points at.
pub(super) fn read_known(
    rows: &impl Rows,
    room: u32,
    hash: &Hash,
) -> Result<EventRecord, StoreError> {
    read_event(rows, room, hash)?.ok_or(StoreError::Corrupt { what: "event" })
}

/// Answers [`super::LoadEvents`]. An id that no event of ours can have is absent, no error: peers
/// choose the ids that we look up.
pub(super) fn look_up(
    database: &Database,
    room: u32,
    event_id: &OwnedEventId,
) -> Result<Lookup, StoreError> {
    let Some(hash) = hash_of(event_id) else {
        return Ok(Lookup::Absent);
    };
    if let Some(record) = read_event(database, room, &hash)? {
        return Ok(Lookup::Found(record.into_stored(&hash)));
    }
    let Some(because) = database.get(&pending_key(room, &hash))? else {
        return Ok(Lookup::Absent);
    };
    let hash = |bytes: &[u8]| Parts(bytes).hash().ok_or(StoreError::Corrupt { what: "redaction" });
    let because: Vec<Hash> = because.chunks(HASH_LEN).map(hash).collect::<Result<_, _>>()?;
    Ok(Lookup::RedactedBy(because.iter().map(event_id_of).collect()))
}

/// Returns the key of an annotation of a user of ours.
pub(super) fn annotation_key(
    room: u32,
    target: &Hash,
    user_id: &UserId,
    annotation: &Annotation,
) -> Vec<u8> {
    let key = Key::room(family::ANNOTATION, room).hash(target).text(user_id.as_str());
    key.hash(&annotation.digest).done()
}

/// Answers [`super::FindAnnotation`].
pub(super) fn is_annotated(
    database: &Database,
    room: u32,
    user_id: &UserId,
    annotation: &Annotation,
) -> Result<bool, StoreError> {
    let Some(target) = hash_of(&annotation.target) else { return Ok(false) };
    let Some(hash) = database.get(&annotation_key(room, &target, user_id, annotation))? else {
        return Ok(false);
    };
    let hash = Parts(&hash).hash().ok_or(StoreError::Corrupt { what: "annotation" })?;
    let event = read_event(database, room, &hash)?;
    Ok(event.is_some_and(|event| event.redacted_because.is_none()))
}

/// Answers [`super::LoadAuthChain`].
pub(super) fn auth_chain(
    database: &Database,
    room: u32,
    roots: &[OwnedEventId],
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut chain = Vec::new();
    let mut next: Vec<Hash> = roots.iter().filter_map(|id| hash_of(id)).collect();
    let mut seen: HashSet<Hash> = HashSet::new();
    while let Some(hash) = next.pop() {
        if !seen.insert(hash) {
            continue;
        }
        let Some(record) = read_event(database, room, &hash)? else {
            continue;
        };
        let parents: AuthEvents = serde_json::from_str(&record.json)
            .map_err(|_| StoreError::Corrupt { what: "event" })?;
        next.extend(parents.auth_events.iter().filter_map(|id| hash_of(id)));
        chain.push(record.into_stored(&hash));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive() {
        let bare = EventRecord {
            place: Place::Rejected,
            spoilt: false,
            state_group: None,
            order: None,
            txn: None,
            redacted_because: None,
            replaces: None,
            json: "{}".into(),
        };
        let full = EventRecord {
            place: Place::Backfilled,
            spoilt: true,
            state_group: Some(7),
            order: Some(Order { position: 3, history: 4 }),
            txn: Some(ClientTxn {
                device_id: "D".to_owned(),
                endpoint: TxnEndpoint::Redact,
                txn_id: "ä".to_owned(),
            }),
            redacted_because: Some([1; 32]),
            replaces: Some([2; 32]),
            json: r#"{"a":"b"}"#.into(),
        };
        for record in [bare, full] {
            let bytes = record.encode().unwrap();
            assert_eq!(EventRecord::decode(&bytes), Some(record));
            assert_eq!(EventRecord::decode(&bytes[..1]), None);
        }
    }
}
