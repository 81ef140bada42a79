//! Rows of others: their keys, writes that show in `/sync`, scans.
//!
//! Invariant: a write that shows in `/sync` takes a position of the log, so that the position of
//! the answer covers it.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde::Deserialize;

use super::{
    Row, RowKind, RowPage, ScanPage, StoreError, ToDeviceCount,
    database::{Database, KeyValue, Rows as _, WriteSet},
    rooms::Counters,
    schema::{Change, Key, Parts, after, family},
    unread,
};
use crate::{actors::clock::now_ms, config::limits};

/// Returns the key of a row; of to-device messages the part that they have in common.
pub(super) fn key(row: &Row) -> Vec<u8> {
    let key = |family| Key::new(family);
    let own = |family, user: &UserId| Key::new(family).text(user.as_str());
    match row {
        Row::Device(user, id) => own(family::DEVICE, user).text(id),
        Row::AccessToken(hash) => key(family::ACCESS_TOKEN).text(hash),
        Row::RefreshToken(hash) => key(family::REFRESH_TOKEN).text(hash),
        Row::Account(user) => own(family::ACCOUNT, user),
        Row::Profile(user, name) => own(family::PROFILE, user).text(name),
        Row::Filter(user, id) => own(family::FILTER, user).text(id),
        Row::AccountData(user, kind) => own(family::ACCOUNT_DATA, user).text(kind),
        Row::RoomAccountData(user, room, kind) => {
            own(family::ROOM_ACCOUNT_DATA, user).text(room.as_str()).text(kind)
        }
        Row::ToDevice(user, device) => own(family::TO_DEVICE, user).text(device),
        Row::ToDeviceSeen(server, came, id) => {
            key(family::TO_DEVICE_SEEN).text(server.as_str()).number(*came).text(id)
        }
        Row::Receipt(room, user, kind, thread) => key(family::RECEIPT)
            .text(room.as_str())
            .text(user.as_str())
            .text(kind)
            .optional_text(thread.as_deref()),
        Row::DeviceList(user) => key(family::DEVICE_LIST).text(user.as_str()),
        Row::ServerKeys(server, key_id) => {
            key(family::SERVER_KEYS).text(server.as_str()).text(key_id)
        }
        Row::Address(server, peer) => key(family::ADDRESS).text(server.as_str()).text(peer),
        Row::Issued => key(family::ISSUED).text(""),
        Row::Outbox(server, number) => key(family::OUTBOX).text(server.as_str()).number(*number),
        Row::Spread(room) => key(family::SPREAD).text(room.as_str()),
        Row::KeyList(user) => own(family::KEY_LIST, user),
        Row::KeyBundle(user) => own(family::KEY_BUNDLE, user),
        Row::Keyring(user, device) => own(family::KEYRING, user).text(device),
        Row::KeyCounts(user, device) => own(family::KEY_COUNTS, user).text(device),
        Row::KeySignatures(user) => own(family::KEY_SIGNATURES, user),
        Row::Pusher(user, app, pushkey) => own(family::PUSHER, user).text(app).text(pushkey),
        Row::Backup(user, version) => own(family::BACKUP, user).number(*version),
        Row::BackedUp(user, version, room, session) => {
            own(family::BACKED_UP, user).number(*version).text(room.as_str()).text(session)
        }
        Row::Alias(alias) => key(family::ALIAS).text(alias.as_str()),
        Row::PublishedRoom(room) => key(family::PUBLISHED_ROOM).text(room.as_str()),
        Row::Media(server, id) => key(family::MEDIA).text(server.as_str()).text(id),
        Row::MediaStatement(server, id) => {
            key(family::MEDIA_STATEMENT).text(server.as_str()).text(id)
        }
    }
    .done()
}

/// Reads a key back.
pub(super) fn row_of(key: &[u8]) -> Result<Row, StoreError> {
    let mut parts = Parts(key);
    let mut parse = || {
        let family = parts.byte()?;
        let first = parts.text()?;
        let user = |text: &str| OwnedUserId::try_from(text).ok();
        Some(match family {
            family::DEVICE => Row::Device(user(&first)?, parts.text()?),
            family::ACCESS_TOKEN => Row::AccessToken(first),
            family::REFRESH_TOKEN => Row::RefreshToken(first),
            family::ACCOUNT => Row::Account(user(&first)?),
            family::PROFILE => Row::Profile(user(&first)?, parts.text()?),
            family::FILTER => Row::Filter(user(&first)?, parts.text()?),
            family::ACCOUNT_DATA => Row::AccountData(user(&first)?, parts.text()?),
            family::ROOM_ACCOUNT_DATA => {
                Row::RoomAccountData(user(&first)?, parts.text()?.try_into().ok()?, parts.text()?)
            }
            family::TO_DEVICE => Row::ToDevice(user(&first)?, parts.text()?),
            family::TO_DEVICE_SEEN => {
                Row::ToDeviceSeen(first.try_into().ok()?, parts.number()?, parts.text()?)
            }
            family::RECEIPT => Row::Receipt(
                first.try_into().ok()?,
                user(&parts.text()?)?,
                parts.text()?,
                parts.optional_text()?,
            ),
            family::DEVICE_LIST => Row::DeviceList(user(&first)?),
            family::SERVER_KEYS => Row::ServerKeys(first.try_into().ok()?, parts.text()?),
            family::ADDRESS => Row::Address(first.try_into().ok()?, parts.text()?),
            family::ISSUED => Row::Issued,
            family::OUTBOX => Row::Outbox(first.try_into().ok()?, parts.number()?),
            family::SPREAD => Row::Spread(first.try_into().ok()?),
            family::KEY_LIST => Row::KeyList(user(&first)?),
            family::KEY_BUNDLE => Row::KeyBundle(user(&first)?),
            family::KEYRING => Row::Keyring(user(&first)?, parts.text()?),
            family::KEY_COUNTS => Row::KeyCounts(user(&first)?, parts.text()?),
            family::KEY_SIGNATURES => Row::KeySignatures(user(&first)?),
            family::PUSHER => Row::Pusher(user(&first)?, parts.text()?, parts.text()?),
            family::BACKUP => Row::Backup(user(&first)?, parts.number()?),
            family::BACKED_UP => Row::BackedUp(
                user(&first)?,
                parts.number()?,
                parts.text()?.try_into().ok()?,
                parts.text()?,
            ),
            family::ALIAS => Row::Alias(first.try_into().ok()?),
            family::PUBLISHED_ROOM => Row::PublishedRoom(first.try_into().ok()?),
            family::MEDIA => Row::Media(first.try_into().ok()?, parts.text()?),
            family::MEDIA_STATEMENT => Row::MediaStatement(first.try_into().ok()?, parts.text()?),
            _ => return None,
        })
    };
    parse().ok_or(StoreError::Corrupt { what: "key" })
}

/// Returns what the keys of a kind begin with.
fn prefix(kind: &RowKind) -> Vec<u8> {
    let key = |family| Key::new(family);
    match kind {
        RowKind::Devices => key(family::DEVICE),
        RowKind::AccessTokens => key(family::ACCESS_TOKEN),
        RowKind::RefreshTokens => key(family::REFRESH_TOKEN),
        RowKind::Accounts => key(family::ACCOUNT),
        RowKind::Profiles => key(family::PROFILE),
        RowKind::Filters(user) => key(family::FILTER).text(user.as_str()),
        RowKind::AccountData(user) => key(family::ACCOUNT_DATA).text(user.as_str()),
        RowKind::RoomAccountData(user, room) => {
            key(family::ROOM_ACCOUNT_DATA).text(user.as_str()).text(room.as_str())
        }
        RowKind::Receipts(room) => key(family::RECEIPT).text(room.as_str()),
        RowKind::ReceiptsOf(room, user) => {
            key(family::RECEIPT).text(room.as_str()).text(user.as_str())
        }
        RowKind::ToDeviceSeen => key(family::TO_DEVICE_SEEN),
        RowKind::ServerKeys => key(family::SERVER_KEYS),
        RowKind::ServerKeysOf(server) => key(family::SERVER_KEYS).text(server.as_str()),
        RowKind::Addresses => key(family::ADDRESS),
        RowKind::Outbox => key(family::OUTBOX),
        RowKind::KeyLists => key(family::KEY_LIST),
        RowKind::KeyBundles => key(family::KEY_BUNDLE),
        RowKind::Keyrings(user) => key(family::KEYRING).text(user.as_str()),
        RowKind::Pushers => key(family::PUSHER),
        RowKind::Backups(user) => key(family::BACKUP).text(user.as_str()),
        RowKind::BackedUp(user, version) => {
            key(family::BACKED_UP).text(user.as_str()).number(*version)
        }
        RowKind::BackedUpOfRoom(user, version, room) => {
            key(family::BACKED_UP).text(user.as_str()).number(*version).text(room.as_str())
        }
        RowKind::Media => key(family::MEDIA),
        RowKind::Aliases => key(family::ALIAS),
        RowKind::PublishedRooms => key(family::PUBLISHED_ROOM),
    }
    .done()
}

/// Answers [`super::WriteRows`].
pub(super) fn write(
    writes: &mut WriteSet<'_>,
    counters: &mut Counters,
    rows: Vec<(Row, Option<Vec<u8>>)>,
) -> Result<(), StoreError> {
    for (row, value) in rows {
        let key = key(&row);
        match &row {
            Row::ToDevice(..) => {
                // The log names the device; the message itself is found by its position.
                let position = counters.log(writes, &Change::Row(key.clone()));
                if let Some(message) = value {
                    let value = [&now_ms().to_be_bytes()[..], &message].concat();
                    writes.put([key.as_slice(), &position.to_be_bytes()].concat(), value);
                }
                continue;
            }
            Row::DeviceList(_) => {
                counters.log(writes, &Change::Row(key));
                continue;
            }
            Row::AccountData(..) | Row::RoomAccountData(..) => {
                counters.log(writes, &Change::Row(key.clone()));
            }
            Row::Receipt(room_id, user_id, _, thread_id) => {
                counters.log(writes, &Change::Row(key.clone()));
                if let Some(value) = &value {
                    unread::on_receipt(writes, room_id, user_id, thread_id.as_deref(), value)?;
                }
            }
            // What is owed can be a request with the state of a room in it.
            Row::Outbox(..)
            | Row::KeyList(_)
            | Row::KeyBundle(_)
            | Row::Keyring(..)
            | Row::KeySignatures(_) => {
                match value {
                    Some(value) => writes.put_long(&key, &value)?,
                    None => writes.remove_long(&key)?,
                }
                continue;
            }
            Row::Device(..)
            | Row::AccessToken(_)
            | Row::RefreshToken(_)
            | Row::Account(_)
            | Row::Profile(..)
            | Row::Filter(..)
            | Row::ToDeviceSeen(..)
            | Row::ServerKeys(..)
            | Row::Address(..)
            | Row::Spread(_)
            | Row::Issued
            | Row::KeyCounts(..)
            | Row::Pusher(..)
            | Row::Backup(..)
            | Row::BackedUp(..)
            | Row::Alias(_)
            | Row::PublishedRoom(_)
            | Row::Media(..)
            | Row::MediaStatement(..) => {}
        }
        match value {
            Some(value) => writes.put(key, value),
            None => writes.remove(key),
        }
    }
    Ok(())
}

/// Answers [`super::ReadRow`].
pub(super) fn read(database: &Database, row: &Row) -> Result<Option<Vec<u8>>, StoreError> {
    match row {
        Row::Outbox(..)
        | Row::KeyList(_)
        | Row::KeyBundle(_)
        | Row::Keyring(..)
        | Row::KeySignatures(_) => database.get_long(&key(row)),
        _ => database.get(&key(row)),
    }
}

/// Answers [`super::ScanRows`].
pub(super) fn scan(database: &Database, kind: &RowKind) -> Result<Vec<(Row, Vec<u8>)>, StoreError> {
    let prefix = prefix(kind);
    let read = |row: Result<KeyValue, _>| row.and_then(|(key, value)| Ok((row_of(&key)?, value)));
    match kind {
        RowKind::Outbox | RowKind::KeyLists | RowKind::KeyBundles | RowKind::Keyrings(_) => {
            let end = after(&prefix);
            database.scan_long(prefix, end).map(read).collect()
        }
        _ => database.scan_prefix(&prefix).map(read).collect(),
    }
}

/// Answers [`super::ScanPage`].
pub(super) fn scan_page(database: &Database, ask: &ScanPage) -> Result<RowPage, StoreError> {
    let prefix = prefix(&ask.kind);
    let end = after(&prefix);
    // The least key that is greater than the last one.
    let start = match &ask.after {
        Some(row) => [&key(row)[..], &[0]].concat(),
        None => prefix,
    };
    let (mut rows, mut len) = (Vec::new(), 0_usize);
    for row in database.scan(start, end) {
        if len >= ask.len {
            return Ok(RowPage { rows, is_last: false });
        }
        let (key, value) = row?;
        len = len.saturating_add(value.len());
        rows.push((row_of(&key)?, value));
    }
    Ok(RowPage { rows, is_last: true })
}

/// A device of one of our users.
pub(super) type OwnDevice<'a> = (&'a UserId, &'a str);

/// Returns the key of a to-device message of a device.
fn to_device_key((user_id, device_id): OwnDevice<'_>, position: u64) -> Vec<u8> {
    let key = Key::new(family::TO_DEVICE).text(user_id.as_str()).text(device_id);
    key.number(position).done()
}

/// Returns when a to-device message came, in milliseconds, and the message. An older program wrote no
/// time; it was long ago. A message is JSON, and a time begins with a zero byte for millions of years.
fn queued(value: &[u8]) -> (u64, &[u8]) {
    match value.split_first_chunk() {
        Some((time, message)) if time.first() == Some(&0) => (u64::from_be_bytes(*time), message),
        _ => (0, value),
    }
}

/// To-device messages, and the position of the last one where more wait.
pub(super) type Queued = (Vec<Vec<u8>>, Option<u64>);

/// Reads the to-device messages of a device that came after `since`, oldest first, as many as one
/// answer takes.
pub(super) fn to_device(
    database: &Database,
    device: OwnDevice<'_>,
    since: u64,
) -> Result<Queued, StoreError> {
    let start = to_device_key(device, since.saturating_add(1));
    let end = to_device_key(device, u64::MAX);
    let (mut messages, mut len, mut last) = (Vec::new(), 0_usize, None);
    for row in database.scan(start, end) {
        let (key, value) = row?;
        let (_, message) = queued(&value);
        if messages.len() >= limits::TO_DEVICE_SYNC || len >= limits::TO_DEVICE_SYNC_LEN {
            return Ok((messages, last));
        }
        let number = key.last_chunk().map(|number| u64::from_be_bytes(*number));
        last = Some(number.ok_or(StoreError::Corrupt { what: "key" })?);
        len = len.saturating_add(message.len());
        messages.push(message.to_vec());
    }
    Ok((messages, None))
}

/// Returns the server that sent a to-device message; none where an older program kept what nobody can
/// read, which counts for nobody.
fn sent_by(message: &[u8]) -> Option<OwnedServerName> {
    #[derive(Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }
    let sent: Sent = serde_json::from_slice(message).ok()?;
    Some(sent.sender.server_name().to_owned())
}

/// Answers [`super::CountToDevice`].
pub(super) fn count_to_device(
    database: &Database,
    old_before: u64,
) -> Result<HashMap<OwnedServerName, ToDeviceCount>, StoreError> {
    let mut counts: HashMap<_, ToDeviceCount> = HashMap::new();
    for row in database.scan_prefix(&[family::TO_DEVICE]) {
        let (_, value) = row?;
        let (came, message) = queued(&value);
        let Some(server) = sent_by(message) else { continue };
        let count = counts.entry(server).or_default();
        let old = (came < old_before).then_some(&mut count.old);
        for (number, len) in std::iter::once(&mut count.all).chain(old) {
            *number = number.saturating_add(1);
            *len = len.saturating_add(message.len());
        }
    }
    Ok(counts)
}

/// Returns the keys of the to-device messages that [`super::DropToDevice`] deletes.
pub(super) fn old_to_device(
    database: &Database,
    of: &HashSet<OwnedServerName>,
    before: u64,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = Vec::new();
    for row in database.scan_prefix(&[family::TO_DEVICE]) {
        let (key, value) = row?;
        let (came, message) = queued(&value);
        if came < before && sent_by(message).is_some_and(|server| of.contains(&server)) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Removes the to-device messages of a device up to `position`.
pub(super) fn remove_to_device(
    writes: &mut WriteSet<'_>,
    device: OwnDevice<'_>,
    position: u64,
) -> Result<(), StoreError> {
    let end = to_device_key(device, position.saturating_add(1));
    for (key, _) in writes.scan(to_device_key(device, 0), end)? {
        writes.remove(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_an_older_program_have_no_time() {
        let timed = [&1_790_000_000_000_u64.to_be_bytes()[..], b"{}"].concat();
        assert_eq!(queued(&timed), (1_790_000_000_000, &b"{}"[..]));
        for old in [&b"{}"[..], b"{\"sender\":\"@a:b\"}", b""] {
            assert_eq!(queued(old), (0, old));
        }
    }

    #[test]
    fn keys_survive_and_lie_in_their_kinds() {
        let room = || "!r:example.org".try_into().unwrap();
        let server = || "example.org".try_into().unwrap();
        let text = || "a\0b".to_owned();
        let user = || OwnedUserId::try_from("@a:b").unwrap();
        for (row, kind) in [
            (Row::Device(user(), text()), Some(RowKind::Devices)),
            (Row::AccessToken(text()), Some(RowKind::AccessTokens)),
            (Row::RefreshToken(text()), Some(RowKind::RefreshTokens)),
            (Row::Account(user()), Some(RowKind::Accounts)),
            (Row::Profile(user(), text()), Some(RowKind::Profiles)),
            (Row::Filter(user(), text()), Some(RowKind::Filters(user()))),
            (Row::AccountData(user(), text()), Some(RowKind::AccountData(user()))),
            (
                Row::RoomAccountData(user(), room(), text()),
                Some(RowKind::RoomAccountData(user(), room())),
            ),
            (Row::ToDevice(user(), text()), None),
            (Row::ToDeviceSeen(server(), 1_790_000_000_000, text()), Some(RowKind::ToDeviceSeen)),
            (
                Row::Receipt(room(), "@a:b".try_into().unwrap(), text(), None),
                Some(RowKind::Receipts(room())),
            ),
            (
                Row::Receipt(room(), "@a:b".try_into().unwrap(), text(), Some(text())),
                Some(RowKind::ReceiptsOf(room(), "@a:b".try_into().unwrap())),
            ),
            (Row::DeviceList("@a:b".try_into().unwrap()), None),
            (Row::ServerKeys(server(), text()), Some(RowKind::ServerKeys)),
            (Row::ServerKeys(server(), text()), Some(RowKind::ServerKeysOf(server()))),
            (Row::Address(server(), text()), Some(RowKind::Addresses)),
            (Row::Issued, None),
            (Row::Outbox(server(), 7), Some(RowKind::Outbox)),
            (Row::Spread(room()), None),
            (Row::KeyList(user()), Some(RowKind::KeyLists)),
            (Row::KeyBundle(user()), Some(RowKind::KeyBundles)),
            (Row::Keyring(user(), text()), Some(RowKind::Keyrings(user()))),
            (Row::KeyCounts(user(), text()), None),
            (Row::KeySignatures(user()), None),
            (Row::Pusher(user(), text(), text()), Some(RowKind::Pushers)),
            (Row::Backup(user(), 7), Some(RowKind::Backups(user()))),
            (Row::BackedUp(user(), 7, room(), text()), Some(RowKind::BackedUp(user(), 7))),
            (
                Row::BackedUp(user(), 7, room(), text()),
                Some(RowKind::BackedUpOfRoom(user(), 7, room())),
            ),
            (Row::Alias("#a:b".try_into().unwrap()), Some(RowKind::Aliases)),
            (Row::PublishedRoom(room()), Some(RowKind::PublishedRooms)),
            (Row::Media(server(), text()), Some(RowKind::Media)),
            (Row::MediaStatement(server(), text()), None),
        ] {
            assert_eq!(row_of(&key(&row)).unwrap(), row);
            assert!(kind.is_none_or(|kind| key(&row).starts_with(&prefix(&kind))), "{row:?}");
        }
    }
}
