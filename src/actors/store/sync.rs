//! What changed for a device since a position.
//!
//! The log names what changed, and only that is read: an incremental answer costs what changed,
//! whatever the number of rooms. Everything is read at the last applied position; the actor
//! answers once that position is durable, so nothing is shown that a crash could take back.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    DeviceLists, KeyCounts, ReadDeviceLists, ReadSync, Row, RowKind, StoreError, SyncRows,
    database::Database,
    device_lists, relations,
    rooms::{MembershipRow, RoomInfo, room_number},
    rows,
    schema::{Change, Key, family},
    sync_room::RoomReader,
};

/// What the log says of one room.
#[derive(Debug, Default)]
pub(super) struct RoomChanges {
    /// The user's memberships, in order.
    pub(super) memberships: Vec<u8>,
    /// Keys of receipts.
    pub(super) receipts: BTreeSet<Vec<u8>>,
    /// Types of account data.
    pub(super) account_data: BTreeSet<String>,
}

/// What the log says.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) rooms: BTreeMap<u32, RoomChanges>,
    account_data: BTreeSet<String>,
    /// Users whose devices changed, whoever they are.
    pub(super) device_lists: BTreeSet<OwnedUserId>,
    to_device: bool,
}

/// Answers [`ReadSync`] as of `position`, the last one that is applied.
pub(super) fn read(
    database: &Database,
    position: u64,
    ask: &ReadSync,
) -> Result<SyncRows, StoreError> {
    let mut changes = match ask.since {
        Some(since) => {
            read_changes(database, since, position, (&ask.user_id, Some(&ask.device_id)))?
        }
        None => Changes { to_device: true, ..Changes::default() },
    };
    if ask.since.is_none() || ask.full_state {
        for row in MembershipRow::read_all(database, None) {
            let (room, user_id, _) = row?;
            if user_id == ask.user_id {
                changes.rooms.entry(room).or_default();
            }
        }
    }
    let ignored = &relations::ignored(database, &ask.user_id)?;
    let mut answer = SyncRows { position, ..SyncRows::default() };
    if let Some(since) = ask.since {
        answer.device_lists =
            device_lists::since(database, &ask.user_id, since, position, &changes)?;
    }
    answer.key_counts = key_counts(database, &ask.user_id, &ask.device_id)?;
    for (room, changes) in changes.rooms {
        let info = RoomInfo::read(database, room)?;
        let is_wanted = ask.rooms.as_ref().is_none_or(|rooms| rooms.contains(&info.room_id))
            && !ask.not_rooms.contains(&info.room_id);
        if is_wanted {
            RoomReader { database, ask, room, info, changes, ignored, position }
                .read(&mut answer)?;
        }
    }
    answer.account_data = match ask.since {
        None => all_account_data(database, &RowKind::AccountData(ask.user_id.clone()))?,
        Some(_) => {
            let kinds = changes.account_data.into_iter();
            let rows = kinds.map(|kind| Row::AccountData(ask.user_id.clone(), kind));
            some_account_data(database, rows)?
        }
    };
    let to_device_since = ask.to_device_since.or(ask.since);
    if changes.to_device || to_device_since < ask.since {
        let device = (&*ask.user_id, ask.device_id.as_str());
        let (messages, until) = rows::to_device(database, device, to_device_since.unwrap_or(0))?;
        answer.to_device = messages.into_iter().map(raw).collect::<Result<_, _>>()?;
        answer.to_device_until = until;
    }
    Ok(answer)
}

/// Reads what the log says between two positions: for a user of ours, and a device.
fn read_changes(
    database: &Database,
    since: u64,
    position: u64,
    (user_id, device_id): (&UserId, Option<&str>),
) -> Result<Changes, StoreError> {
    let key = |position: u64| Key::new(family::LOG).number(position.saturating_add(1)).done();
    let mut changes = Changes::default();
    if since >= position {
        return Ok(changes);
    }
    for row in database.scan(key(since), key(position)) {
        let change = Change::decode(&row?.1).ok_or(StoreError::Corrupt { what: "log" })?;
        match change {
            Change::Room(room) => {
                changes.rooms.entry(room).or_default();
            }
            Change::Membership(room, user, code) if user == user_id => {
                changes.rooms.entry(room).or_default().memberships.push(code);
            }
            Change::Membership(..) => {}
            Change::Row(key) => match rows::row_of(&key)? {
                Row::AccountData(user, kind) => {
                    if user == user_id {
                        changes.account_data.insert(kind);
                    }
                }
                Row::RoomAccountData(user, room_id, kind) => {
                    if user == user_id
                        && let Some(room) = room_number(database, &room_id)?
                    {
                        changes.rooms.entry(room).or_default().account_data.insert(kind);
                    }
                }
                Row::Receipt(room_id, ..) => {
                    if let Some(room) = room_number(database, &room_id)? {
                        changes.rooms.entry(room).or_default().receipts.insert(key);
                    }
                }
                Row::DeviceList(user) => {
                    changes.device_lists.insert(user);
                }
                Row::ToDevice(user, device) => {
                    changes.to_device |= user == user_id && device_id == Some(&*device);
                }
                _ => return Err(StoreError::Corrupt { what: "log" }),
            },
        }
    }
    Ok(changes)
}

/// Answers [`super::ReadDeviceLists`] as of `position`, the last one that is applied.
pub(super) fn device_lists(
    database: &Database,
    position: u64,
    ask: &ReadDeviceLists,
) -> Result<DeviceLists, StoreError> {
    let to = ask.to.min(position);
    let changes = read_changes(database, ask.from, to, (&ask.user_id, None))?;
    device_lists::since(database, &ask.user_id, ask.from, position, &changes)
}

fn key_counts(
    database: &Database,
    user_id: &UserId,
    device_id: &str,
) -> Result<KeyCounts, StoreError> {
    let row = Row::KeyCounts(user_id.to_owned(), device_id.to_owned());
    let Some(value) = rows::read(database, &row)? else { return Ok(KeyCounts::default()) };
    serde_json::from_slice(&value).map_err(|_| StoreError::Corrupt { what: "key counts" })
}

fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>, StoreError> {
    let text = String::from_utf8(bytes).ok();
    text.and_then(|text| RawValue::from_string(text).ok())
        .ok_or(StoreError::Corrupt { what: "JSON" })
}

fn account_data_of(row: (Row, Vec<u8>)) -> Option<Result<(String, Box<RawValue>), StoreError>> {
    match row {
        (Row::AccountData(_, kind) | Row::RoomAccountData(.., kind), value) => {
            Some(raw(value).map(|value| (kind, value)))
        }
        _ => None,
    }
}

/// Reads all account data of a kind.
pub(super) fn all_account_data(
    database: &Database,
    kind: &RowKind,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    rows::scan(database, kind)?.into_iter().filter_map(account_data_of).collect()
}

/// Reads the account data that is named.
pub(super) fn some_account_data(
    database: &Database,
    rows: impl Iterator<Item = Row>,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let mut found = Vec::new();
    for row in rows {
        if let Some(value) = rows::read(database, &row)? {
            found.extend(account_data_of((row, value)).transpose()?);
        }
    }
    Ok(found)
}
