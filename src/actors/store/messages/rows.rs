//! Small rows of whoever keeps some, and messages to devices.

use std::collections::{HashMap, HashSet};

use actix::Message;
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

use super::{Committed, StoreError};

/// Small rows whose value their owner encodes. The key parts are plain text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Row {
    /// Accounts: a device by its user and id.
    Device(OwnedUserId, String),
    /// Accounts: an access token by its SHA-256 in hexadecimal.
    AccessToken(String),
    /// Accounts: a refresh token by its SHA-256 in hexadecimal.
    RefreshToken(String),
    /// Accounts: who registered or has a password, by user.
    Account(OwnedUserId),
    /// Accounts: a user's key of the profile (`displayname`, `avatar_url`).
    Profile(OwnedUserId, String),
    /// Accounts: a user's filter by id.
    Filter(OwnedUserId, String),
    /// Accounts: a user's global account data by type. A write shows in the user's `/sync`.
    AccountData(OwnedUserId, String),
    /// Accounts: a user's room account data by room and type. A write shows in the user's `/sync`.
    RoomAccountData(OwnedUserId, OwnedRoomId, String),
    /// Accounts: a to-device message for a user's device; the Store adds the order, so two never
    /// collide, and the time. A write shows in the `/sync` of the device. See [`AckToDevice`].
    ToDevice(OwnedUserId, String),
    /// Accounts: a to-device transaction that was handled, by its sender's server, when it came
    /// (milliseconds) and the hash of its id.
    ToDeviceSeen(OwnedServerName, u64, String),
    /// Room: a receipt by room, user, type and thread; the value is a `Receipt` as JSON. A write
    /// shows in `/sync`; one of a user of ours lowers the user's unread counts.
    Receipt(OwnedRoomId, OwnedUserId, String, Option<String>),
    /// DeviceKeys: the device list of a user changed. Value-less; a write shows in `/sync` of whoever
    /// shares a room with the user.
    DeviceList(OwnedUserId),
    /// Identity: the newest server_keys of a server that are for the verify key of this id, as JSON.
    ServerKeys(OwnedServerName, String),
    /// Rendezvous: where a node of a server (its PeerId) was last reached, as JSON.
    Address(OwnedServerName, String),
    /// Identity: when our own server_keys were issued, as JSON.
    Issued,
    /// Outbox: what is owed to a server, by number, as JSON.
    Outbox(OwnedServerName, u64),
    /// Meeting, Outbox: the last events of ours in a room that another server has, as JSON.
    Spread(OwnedRoomId),
    /// DeviceKeys: the devices and cross-signing keys of a user, as JSON.
    KeyList(OwnedUserId),
    /// DeviceKeys: what a user's server signed of the user's keys, as JSON.
    KeyBundle(OwnedUserId),
    /// DeviceKeys: one-time and fallback keys of a user's device, as JSON.
    Keyring(OwnedUserId, String),
    /// DeviceKeys: how many of these there are; the value is `KeyCounts` as JSON, and every `/sync`
    /// of the device shows it.
    KeyCounts(OwnedUserId, String),
    /// DeviceKeys: what a user signed of others, as JSON.
    KeySignatures(OwnedUserId),
    /// Pushers: a pusher of a user by app and key, as JSON.
    Pusher(OwnedUserId, String, String),
    /// DeviceKeys: a backup of a user's room keys, by version, as JSON.
    Backup(OwnedUserId, u64),
    /// DeviceKeys: a room key of a backup, by room and session, as JSON.
    BackedUp(OwnedUserId, u64, OwnedRoomId, String),
    /// RoomDirectory: where an alias of ours leads, as JSON.
    Alias(OwnedRoomAliasId),
    /// RoomDirectory: a room in our list of public rooms. Value-less.
    PublishedRoom(OwnedRoomId),
    /// Media: what is known of a piece of media, by its server and id, as JSON.
    Media(OwnedServerName, String),
    /// Media: what its server signed of it, as JSON.
    MediaStatement(OwnedServerName, String),
}

/// Which rows to scan: all of a kind, or those with the first key part given.
#[derive(Debug, Clone)]
pub enum RowKind {
    /// All devices.
    Devices,
    /// All access tokens.
    AccessTokens,
    /// All refresh tokens.
    RefreshTokens,
    /// All who registered or have a password.
    Accounts,
    /// The profiles of all our users.
    Profiles,
    /// All filters of a user.
    Filters(OwnedUserId),
    /// All global account data of a user.
    AccountData(OwnedUserId),
    /// All account data that a user has of a room.
    RoomAccountData(OwnedUserId, OwnedRoomId),
    /// All receipts of a room.
    Receipts(OwnedRoomId),
    /// Those of one person in a room.
    ReceiptsOf(OwnedRoomId, OwnedUserId),
    /// The to-device transactions that were handled.
    ToDeviceSeen,
    /// All server_keys.
    ServerKeys,
    /// Those of one server.
    ServerKeysOf(OwnedServerName),
    /// All addresses.
    Addresses,
    /// All that is owed to other servers.
    Outbox,
    /// The devices and keys of all users.
    KeyLists,
    /// The key bundles of all users.
    KeyBundles,
    /// The one-time and fallback keys of all devices of a user.
    Keyrings(OwnedUserId),
    /// All pushers.
    Pushers,
    /// All backups of a user.
    Backups(OwnedUserId),
    /// The room keys of a backup.
    BackedUp(OwnedUserId, u64),
    /// Those of one room.
    BackedUpOfRoom(OwnedUserId, u64, OwnedRoomId),
    /// All media.
    Media,
    /// All aliases.
    Aliases,
    /// All rooms in our list of public rooms.
    PublishedRooms,
}

/// Writes rows in one transaction; `None` deletes. Answered once durable.
#[derive(Message, Debug)]
#[rtype(result = "Result<Committed, StoreError>")]
pub struct WriteRows(pub Vec<(Row, Option<Vec<u8>>)>);

/// Reads one row.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<Vec<u8>>, StoreError>")]
pub struct ReadRow(pub Row);

/// Reads rows of a kind, in key order.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<(Row, Vec<u8>)>, StoreError>")]
pub struct ScanRows(pub RowKind);

/// Reads some rows, each as [`ReadRow`] does.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<Option<Vec<u8>>>, StoreError>")]
pub struct ReadRows(pub Vec<Row>);

/// Reads rows of a kind whose values are short, in key order, until there are so many bytes: what is left
/// is read by the next page, so that no reader keeps all others waiting.
#[derive(Message, Debug)]
#[rtype(result = "Result<RowPage, StoreError>")]
pub struct ScanPage {
    /// The kind.
    pub kind: RowKind,
    /// The last row of the page before.
    pub after: Option<Row>,
    /// Bytes of values after which the page ends.
    pub len: usize,
}

/// Some rows of a kind.
#[derive(Debug, Default)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<(Row, Vec<u8>)>,
    /// There are no more.
    pub is_last: bool,
}

/// Counts the to-device messages that wait, by the server of their sender.
#[derive(Message, Debug)]
#[rtype(result = "Result<HashMap<OwnedServerName, ToDeviceCount>, StoreError>")]
pub struct CountToDevice {
    /// What came before this time, in milliseconds, is old.
    pub old_before: u64,
}

/// The to-device messages of one server that wait: how many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToDeviceCount {
    /// All of them.
    pub all: (usize, usize),
    /// The old ones among them.
    pub old: (usize, usize),
}

/// Deletes the to-device messages of some servers that came before a time, whatever device they wait
/// for. Not made durable on its own: what comes back is deleted again.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct DropToDevice {
    /// The servers of their senders.
    pub of: HashSet<OwnedServerName>,
    /// In milliseconds.
    pub before: u64,
}

/// Deletes the to-device messages of a device up to a position that it has synced from: they
/// arrived. Not answered before it is applied, and not made durable on its own: a message that
/// comes twice does no harm.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct AckToDevice {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: String,
    /// The `since` of its request.
    pub position: u64,
}

/// Writes down whose database it is, at the first login ever. Answered once durable.
#[derive(Message, Debug)]
#[rtype(result = "Result<Committed, StoreError>")]
pub struct NameOwner(pub OwnedServerName);

/// Flushes everything and refuses what comes after. The last message of a node.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Close;
