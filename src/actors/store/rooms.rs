//! Rooms: their rows, and what a Room needs to go on.
//!
//! Invariant: a room that has a number has an info row; all others are there when the commits
//! set them.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    BackwardExtremity, ClientTxn, Extremity, Heads, InviteData, LoadedRoom, LocalRow,
    OwnMembership, RoomEvents, RoomRow, StoreError, TxnEndpoint,
    database::{Database, Rows, WriteSet},
    events::{read_event, read_known},
    schema::{Change, Hash, Key, Parts, event_id_of, family, state_key, take_text},
};
use crate::proto::pdu::{self, Pdu};

/// Client transactions of a room that are kept, and given back to it.
pub(super) const TXNS: u64 = 1000;

/// What the actor counts. Kept by it only once a write set is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    /// The last stream position.
    pub(super) position: u64,
    /// The last room number.
    pub(super) room: u32,
}

impl Counters {
    /// Takes the next position for a change.
    pub(super) fn log(&mut self, writes: &mut WriteSet<'_>, change: &Change) -> u64 {
        self.position = self.position.saturating_add(1);
        writes.put(Key::new(family::LOG).number(self.position).done(), change.encode());
        self.position
    }
}

/// What never changes about a room.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RoomInfo {
    pub(super) room_id: OwnedRoomId,
    pub(super) version: RoomVersionId,
}

/// The membership of a user of ours.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembershipRow {
    pub(super) membership: MembershipState,
    pub(super) event_id: Option<OwnedEventId>,
    /// Place of the event in the timeline, or the position at which it came.
    pub(super) order: i64,
}

/// An invite.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InviteRow {
    pub(super) event_id: OwnedEventId,
    pub(super) event: Box<RawValue>,
    pub(super) stripped_state: Vec<Box<RawValue>>,
    pub(super) via: Vec<OwnedServerName>,
}

/// [`Heads`], short: event, depth, group.
#[derive(Serialize, Deserialize)]
pub(super) struct HeadsRow {
    pub(super) extremities: Vec<(OwnedEventId, u64, u64)>,
    pub(super) current_group: u64,
    pub(super) next_group: u64,
}

/// Writes the value of a JSON row.
pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|_| StoreError::Corrupt { what: "room" })
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::Corrupt { what: "room" })
}

fn read_json<T: DeserializeOwned>(rows: &impl Rows, key: &[u8]) -> Result<Option<T>, StoreError> {
    rows.get(key)?.map(|bytes| from_json(&bytes)).transpose()
}

fn read_long_json<T: DeserializeOwned>(
    rows: &impl Rows,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    rows.get_long(key)?.map(|bytes| from_json(&bytes)).transpose()
}

/// Returns the key of a client transaction, numbered in its room.
pub(super) fn txn_key(room: u32, number: u64) -> Vec<u8> {
    Key::room(family::TXN, room).number(number).done()
}

/// Returns the number of a room, if anything is stored of it.
pub(super) fn room_number(rows: &impl Rows, room_id: &RoomId) -> Result<Option<u32>, StoreError> {
    let key = Key::new(family::ROOM_NUMBER).text(room_id.as_str()).done();
    let Some(bytes) = rows.get(&key)? else {
        return Ok(None);
    };
    Parts(&bytes).room().map(Some).ok_or(StoreError::Corrupt { what: "room" })
}

impl RoomInfo {
    /// Returns its key.
    pub(super) fn key(room: u32) -> Vec<u8> {
        Key::room(family::ROOM_INFO, room).done()
    }

    /// Reads the info of a room that has a number.
    pub(super) fn read(rows: &impl Rows, room: u32) -> Result<Self, StoreError> {
        read_json(rows, &Self::key(room))?.ok_or(StoreError::Corrupt { what: "room" })
    }
}

/// Reads the room and the user of a key of a family where these come first.
pub(super) fn room_and_user(key: &[u8]) -> Result<(u32, OwnedUserId), StoreError> {
    let mut parts = Parts(key);
    let mut parse = || {
        parts.byte()?;
        Some((parts.room()?, parts.text()?.try_into().ok()?))
    };
    parse().ok_or(StoreError::Corrupt { what: "key" })
}

impl MembershipRow {
    /// Returns its key.
    pub(super) fn key(room: u32, user_id: &UserId) -> Vec<u8> {
        Key::room(family::MEMBERSHIP, room).text(user_id.as_str()).done()
    }

    /// Reads the membership of a user of ours.
    pub(super) fn read(
        rows: &impl Rows,
        room: u32,
        user_id: &UserId,
    ) -> Result<Option<Self>, StoreError> {
        read_json(rows, &Self::key(room, user_id))
    }

    /// Tells whether a user of ours has to do with a room.
    pub(super) fn exists(
        rows: &impl Rows,
        room: u32,
        user_id: &UserId,
    ) -> Result<bool, StoreError> {
        Ok(rows.get(&Self::key(room, user_id))?.is_some())
    }

    /// Reads all memberships of our users, in one room or in all of them.
    pub(super) fn read_all(
        database: &Database,
        room: Option<u32>,
    ) -> impl Iterator<Item = Result<(u32, OwnedUserId, Self), StoreError>> {
        let all = Key::new(family::MEMBERSHIP);
        let prefix = room.map_or(all, |room| Key::room(family::MEMBERSHIP, room)).done();
        database.scan_prefix(&prefix).map(|row| {
            let (key, value) = row?;
            let (room, user_id) = room_and_user(&key)?;
            Ok((room, user_id, from_json(&value)?))
        })
    }
}

impl InviteRow {
    /// Returns its key.
    pub(super) fn key(room: u32, user_id: &UserId) -> Vec<u8> {
        Key::room(family::INVITE, room).text(user_id.as_str()).done()
    }

    /// Reads the invite of a user of ours to a room.
    pub(super) fn read(
        rows: &impl Rows,
        room: u32,
        user_id: &UserId,
    ) -> Result<Option<Self>, StoreError> {
        read_long_json(rows, &Self::key(room, user_id))
    }
}

/// A place of the current state: the event, and the membership that it sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateRow {
    pub(super) hash: Hash,
    pub(super) membership: u8,
}

impl StateRow {
    /// Reads the value of a row.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut parts = Parts(bytes);
        let mut parse = || Some(Self { hash: parts.hash()?, membership: parts.byte()? });
        parse().ok_or(StoreError::Corrupt { what: "state" })
    }

    /// Reads a place.
    pub(super) fn read(
        rows: &impl Rows,
        room: u32,
        (kind, key): (&str, &str),
    ) -> Result<Option<Self>, StoreError> {
        rows.get(&state_key(room, kind, key))?.map(|bytes| Self::decode(&bytes)).transpose()
    }
}

/// Answers [`super::LoadRoom`].
pub(super) fn load(
    database: &Database,
    room_id: &RoomId,
) -> Result<Option<LoadedRoom>, StoreError> {
    let Some(room) = room_number(database, room_id)? else {
        return Ok(None);
    };
    let info = RoomInfo::read(database, room)?;
    let heads = read_heads(database, room)?;
    let mut state = Vec::new();
    for row in database.scan_prefix(&Key::room(family::STATE, room).done()) {
        let hash = StateRow::decode(&row?.1)?.hash;
        state.push(read_known(database, room, &hash)?.into_stored(&hash));
    }
    Ok(Some(LoadedRoom {
        heads: heads.map(|row| Heads {
            extremities: row
                .extremities
                .into_iter()
                .map(|(event_id, depth, state_group)| Extremity { event_id, depth, state_group })
                .collect(),
            current_group: row.current_group,
            next_group: row.next_group,
        }),
        state,
        memberships: load_memberships(database, room, &info)?,
        backward_extremities: read_backward(database, room)?,
        room_keys: database.get_long(&Key::room(family::ROOM_KEYS, room).done())?,
        txns: load_txns(database, room)?,
        version: info.version,
    }))
}

fn load_memberships(
    database: &Database,
    room: u32,
    info: &RoomInfo,
) -> Result<BTreeMap<OwnedUserId, OwnMembership>, StoreError> {
    let mut memberships = BTreeMap::new();
    for row in MembershipRow::read_all(database, Some(room)) {
        let (_, user_id, row) = row?;
        let mut own = OwnMembership {
            membership: row.membership,
            event_id: row.event_id,
            invite: None,
            forgotten: false,
        };
        if let Some(invite) = InviteRow::read(database, room, &user_id)? {
            let corrupt = || StoreError::Corrupt { what: "invite" };
            let rules = info.version.rules().ok_or_else(corrupt)?;
            let event = Pdu::from_json(invite.event_id, invite.event.get(), &rules);
            own.invite = Some(InviteData {
                event: event.map_err(|_| corrupt())?.into(),
                stripped_state: invite.stripped_state,
                via: invite.via,
                notify: None,
            });
        }
        memberships.insert(user_id, own);
    }
    Ok(memberships)
}

/// Returns how the endpoint of a transaction is written.
pub(super) fn endpoint_code(endpoint: TxnEndpoint) -> u8 {
    match endpoint {
        TxnEndpoint::Send => 0,
        TxnEndpoint::Redact => 1,
    }
}

fn endpoint_of(code: u8) -> TxnEndpoint {
    if code == endpoint_code(TxnEndpoint::Redact) { TxnEndpoint::Redact } else { TxnEndpoint::Send }
}

/// Reads event, device, id and endpoint of a transaction. 0.1.0 wrote no endpoint.
/// A client transaction as a row: the hash of its event, device, id, endpoint, user. The last two came
/// later, one after the other.
type TxnRow = (Hash, String, String, Option<u8>, Option<OwnedUserId>);

fn parse_txn(value: &[u8]) -> Option<TxnRow> {
    let mut parts = Parts(value);
    let hash = parts.hash()?;
    let device_id = take_text(&mut parts)?.to_owned();
    let txn_id = take_text(&mut parts)?.to_owned();
    let endpoint = parts.byte();
    let user_id = take_text(&mut parts).and_then(|user| OwnedUserId::try_from(user).ok());
    Some((hash, device_id, txn_id, endpoint, user_id))
}

/// Reads the client transactions, oldest first.
fn load_txns(
    database: &Database,
    room: u32,
) -> Result<Vec<(Option<OwnedUserId>, ClientTxn, OwnedEventId)>, StoreError> {
    let mut txns = Vec::new();
    for row in database.scan_prefix(&Key::room(family::TXN, room).done()) {
        let (_, value) = row?;
        let (hash, device_id, txn_id, endpoint, user_id) =
            parse_txn(&value).ok_or(StoreError::Corrupt { what: "transaction" })?;
        let endpoint = match endpoint {
            Some(code) => endpoint_of(code),
            // Written by 0.1.0, which did not say: the event does.
            None => match read_known(database, room, &hash)?.head()?.kind.as_str() {
                "m.room.redaction" => TxnEndpoint::Redact,
                _ => TxnEndpoint::Send,
            },
        };
        txns.push((user_id, ClientTxn { device_id, endpoint, txn_id }, event_id_of(&hash)));
    }
    Ok(txns)
}

#[derive(Deserialize)]
struct Dated {
    #[serde(default)]
    origin_server_ts: u64,
}

/// Tells whether anybody may come into a room.
fn is_public(database: &Database, room: u32) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct Rules<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let Some(row) = StateRow::read(database, room, ("m.room.join_rules", ""))? else {
        return Ok(false);
    };
    let Some(record) = read_event(database, room, &row.hash)? else { return Ok(false) };
    let rules = serde_json::from_str::<Rules<'_>>(&record.json);
    Ok(rules.is_ok_and(|rules| pdu::is_public(rules.content)))
}

/// Reads the servers with a joined user.
pub(super) fn servers(rows: &impl Rows, room: u32) -> Result<Vec<OwnedServerName>, StoreError> {
    let servers = read_long_json(rows, &Key::room(family::SERVERS, room).done())?;
    Ok(servers.unwrap_or_default())
}

/// Answers [`super::ListRooms`].
pub(super) fn list(database: &Database) -> Result<Vec<RoomRow>, StoreError> {
    let mut rooms = Vec::new();
    for row in database.scan_prefix(&[family::ROOM_INFO]) {
        let (key, value) = row?;
        let mut parts = Parts(&key);
        parts.byte();
        let room = parts.room().ok_or(StoreError::Corrupt { what: "key" })?;
        let info: RoomInfo = from_json(&value)?;
        let mut locals = BTreeMap::new();
        for row in MembershipRow::read_all(database, Some(room)) {
            let (_, user_id, row) = row?;
            let invite = match row.membership {
                MembershipState::Invite => InviteRow::read(database, room, &user_id)?,
                _ => None,
            };
            let local = LocalRow {
                membership: row.membership,
                invited_by: invite.as_ref().and_then(|invite| {
                    let date: Dated = serde_json::from_str(invite.event.get()).ok()?;
                    Some((invite.via.first()?.clone(), date.origin_server_ts))
                }),
                via: invite.map(|invite| invite.via).unwrap_or_default(),
            };
            locals.insert(user_id, local);
        }
        rooms.push(RoomRow {
            public: is_public(database, room)?,
            room_id: info.room_id,
            locals,
            servers: servers(database, room)?,
        });
    }
    Ok(rooms)
}

/// Answers [`super::ReadHeads`].
pub(super) fn heads(
    database: &Database,
    room_ids: Vec<OwnedRoomId>,
) -> Result<RoomEvents, StoreError> {
    let mut found = Vec::with_capacity(room_ids.len());
    for room_id in room_ids {
        let Some(room) = room_number(database, &room_id)? else { continue };
        let row = read_heads(database, room)?;
        let ids = row.into_iter().flat_map(|row| row.extremities).map(|(id, ..)| id).collect();
        found.push((room_id, ids));
    }
    Ok(found)
}

/// Reads the front of the graph.
pub(super) fn read_heads(database: &Database, room: u32) -> Result<Option<HeadsRow>, StoreError> {
    read_long_json(database, &Key::room(family::HEADS, room).done())
}

/// A backward extremity as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum BackwardRow {
    /// With what follows it.
    Named(OwnedEventId, Vec<OwnedEventId>),
    /// As older programs wrote it.
    Unnamed(OwnedEventId),
}

impl BackwardRow {
    /// Returns the event, and what follows it.
    pub(super) fn into_parts(self) -> (OwnedEventId, Vec<OwnedEventId>) {
        match self {
            Self::Named(event_id, followed_by) => (event_id, followed_by),
            Self::Unnamed(event_id) => (event_id, Vec::new()),
        }
    }
}

/// Returns the key of the backward extremities.
pub(super) fn backward_key(room: u32) -> Vec<u8> {
    Key::room(family::BACKWARD, room).done()
}

/// Reads the backward extremities: where history goes on of which we have none.
pub(super) fn read_backward(
    rows: &impl Rows,
    room: u32,
) -> Result<Vec<BackwardExtremity>, StoreError> {
    let rows: Option<Vec<BackwardRow>> = read_long_json(rows, &backward_key(room))?;
    let extremity = |row: BackwardRow| {
        let (event_id, followed_by) = row.into_parts();
        BackwardExtremity { event_id, followed_by }
    };
    Ok(rows.into_iter().flatten().map(extremity).collect())
}

/// Writes the backward extremities.
pub(super) fn write_backward(
    writes: &mut WriteSet<'_>,
    room: u32,
    events: &[BackwardExtremity],
) -> Result<(), StoreError> {
    let row = |event: &BackwardExtremity| {
        BackwardRow::Named(event.event_id.clone(), event.followed_by.clone())
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    writes.put_long(&backward_key(room), &to_json(&rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::schema::put_text;

    #[test]
    fn transactions_of_0_1_0_are_read() {
        let mut value = [7; 32].to_vec();
        put_text(&mut value, "DEVICE").unwrap();
        put_text(&mut value, "t1").unwrap();
        let (hash, device_id, txn_id, endpoint, user) = parse_txn(&value).unwrap();
        assert_eq!((hash, endpoint, user), ([7; 32], None, None));
        assert_eq!((device_id.as_str(), txn_id.as_str()), ("DEVICE", "t1"));
        value.push(endpoint_code(TxnEndpoint::Redact));
        let (.., endpoint, user) = parse_txn(&value).unwrap();
        assert_eq!(endpoint.map(endpoint_of), Some(TxnEndpoint::Redact));
        assert_eq!(user, None);
        put_text(&mut value, "@bob:x").unwrap();
        let (.., user) = parse_txn(&value).unwrap();
        assert_eq!(user.unwrap(), "@bob:x");
    }
}
