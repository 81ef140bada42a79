//! How rows look on disk: the families of keys and the bytes of keys and values.
//!
//! Everything is in one key space whose first byte names the family, so that one batch, which
//! sled recovers as a whole or not at all, covers a commit. Invariants:
//!
//! - Numbers in keys are big-endian, so that key order is number order; orders of events are
//!   `i64` with the sign bit turned, so that history comes before what is live.
//! - Texts in keys end with a zero byte that no text contains unescaped, so that no key is the
//!   prefix of another one of its family by accident.
//! - What is read backwards is in families whose keys end with a number (`backwards.rs`).
//! - A change of layout raises [`SCHEMA_VERSION`] and comes with a step of `migrations.rs`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    EventId, OwnedEventId, OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::StoreError;
use crate::proto::pdu::StateKey;

/// The layout that this program writes, and the newest that it reads.
pub(super) const SCHEMA_VERSION: u32 = 8;

/// The first byte of each key.
pub(super) mod family {
    /// `name` → `schema_version`, `app_version`, `owner`.
    pub(in super::super) const META: u8 = b'M';
    /// `room id` → room number, the key of everything else about the room.
    pub(in super::super) const ROOM_NUMBER: u8 = b'#';
    /// `room` → id, version (JSON).
    pub(in super::super) const ROOM_INFO: u8 = b'i';
    /// `room` → front of the graph (JSON, long).
    pub(in super::super) const HEADS: u8 = b'h';
    /// `room` → servers with a joined user (JSON, long).
    pub(in super::super) const SERVERS: u8 = b's';
    /// `room` → keys that seal and open its gossip (JSON, long).
    pub(in super::super) const ROOM_KEYS: u8 = b'k';
    /// `room` → backward extremities, and what follows them (JSON, long).
    pub(in super::super) const BACKWARD: u8 = b'b';
    /// `room, user` → the membership of a user of ours (JSON).
    pub(in super::super) const MEMBERSHIP: u8 = b'w';
    /// `room, user` → the invite that waits for an answer (JSON, long).
    pub(in super::super) const INVITE: u8 = b'v';
    /// `room` → member counts, and how many client transactions there were.
    pub(in super::super) const COUNTS: u8 = b'c';
    /// `room, user` → unread counts.
    pub(in super::super) const UNREAD: u8 = b'u';
    /// `room, event hash` → event.
    pub(in super::super) const EVENT: u8 = b'e';
    /// `room, position` → event hash.
    pub(in super::super) const TIMELINE: u8 = b't';
    /// `room, position, number` → event hash: history that stands behind a position.
    pub(in super::super) const HISTORY: u8 = b'T';
    /// `room, group` → state group (long).
    pub(in super::super) const GROUP: u8 = b'g';
    /// `room, type, state key` → event hash and membership: the current state.
    pub(in super::super) const STATE: u8 = b'S';
    /// `room, position` → how the current state changed there (long).
    pub(in super::super) const STATE_LOG: u8 = b'l';
    /// `room, event hash` → hashes of the redactions that came before their target.
    pub(in super::super) const PENDING_REDACTION: u8 = b'p';
    /// `room, event hash, user, annotation` → hash of the annotation of the event by a user of ours.
    pub(in super::super) const ANNOTATION: u8 = b'n';
    /// `room, event id, place` → an event that relates to another one, and how.
    pub(in super::super) const RELATED: u8 = b'r';
    /// `room, event id, user, place` → an edit of the event by this user.
    pub(in super::super) const EDIT: u8 = b'E';
    /// `room, event id, place` → what was said in the thread that begins with the event.
    pub(in super::super) const THREAD: u8 = b'R';
    /// `room, event id, user` → how much of it this user said.
    pub(in super::super) const THREAD_SENDER: u8 = b'Q';
    /// `room, place` → the thread of which the last was said there.
    pub(in super::super) const THREAD_LATEST: u8 = b'q';
    /// `room, event id` → what relates to the event, in short.
    pub(in super::super) const RELATIONS: u8 = b'a';
    /// `room, number` → client transaction and event.
    pub(in super::super) const TXN: u8 = b'x';
    /// `room, user, order` → whether the unread event is a highlight, and its thread.
    pub(in super::super) const NOTIFY: u8 = b'y';
    /// `room, user, event id` → unread counts of a thread.
    pub(in super::super) const UNREAD_THREAD: u8 = b'U';
    /// `user, number` → an event that notified, read or not.
    pub(in super::super) const NOTIFIED: u8 = b'N';
    /// `user` → how many there were so far.
    pub(in super::super) const NOTIFIED_COUNT: u8 = b'm';
    /// `position` → what changed.
    pub(in super::super) const LOG: u8 = b'L';
    /// `user id` → entry of the user directory (JSON).
    pub(in super::super) const DIRECTORY: u8 = b'D';

    /// `user, device`.
    pub(in super::super) const DEVICE: u8 = 0x80;
    /// `hash`.
    pub(in super::super) const ACCESS_TOKEN: u8 = 0x81;
    /// `user, name`.
    pub(in super::super) const PROFILE: u8 = 0x82;
    /// `user, filter id`.
    pub(in super::super) const FILTER: u8 = 0x83;
    /// `user, type`.
    pub(in super::super) const ACCOUNT_DATA: u8 = 0x84;
    /// `user, room id, type`.
    pub(in super::super) const ROOM_ACCOUNT_DATA: u8 = 0x85;
    /// `user, device, position` → when it came, message (JSON).
    pub(in super::super) const TO_DEVICE: u8 = 0x86;
    /// `sender, txn` in layouts before 6.
    pub(in super::super) const TO_DEVICE_TXN: u8 = 0x87;
    /// `room id, user id, receipt type, thread`.
    pub(in super::super) const RECEIPT: u8 = 0x88;
    /// `user id`; only ever in the log.
    pub(in super::super) const DEVICE_LIST: u8 = 0x89;
    /// `server, key id` → server_keys (JSON).
    pub(in super::super) const SERVER_KEYS: u8 = 0x8a;
    /// `server, PeerId`.
    pub(in super::super) const ADDRESS: u8 = 0x8b;
    /// One row.
    pub(in super::super) const ISSUED: u8 = 0x8c;
    /// `server, number` → what is owed to another server (JSON, long).
    pub(in super::super) const OUTBOX: u8 = 0x8d;
    /// `room id` → events of ours that others have (JSON).
    pub(in super::super) const SPREAD: u8 = 0x98;
    /// `server, time, hash of an id` → nothing.
    pub(in super::super) const TO_DEVICE_SEEN: u8 = 0x90;
    /// `user id` → the devices and cross-signing keys of a user, ours or another server's (JSON, long).
    pub(in super::super) const KEY_LIST: u8 = 0xa0;
    /// `user id` → what a user's server signed of the user's keys (JSON, long).
    pub(in super::super) const KEY_BUNDLE: u8 = 0xa6;
    /// `user, device` → one-time and fallback keys (JSON, long).
    pub(in super::super) const KEYRING: u8 = 0xa1;
    /// `user, device` → how many of these there are (JSON).
    pub(in super::super) const KEY_COUNTS: u8 = 0xa2;
    /// `user` → what the user signed of others (JSON, long).
    pub(in super::super) const KEY_SIGNATURES: u8 = 0xa3;
    /// `user, app, push key` → a pusher (JSON).
    pub(in super::super) const PUSHER: u8 = 0xb8;
    /// `user, version` → a backup of room keys (JSON).
    pub(in super::super) const BACKUP: u8 = 0xa4;
    /// `user, version, room id, session` → a room key in it (JSON).
    pub(in super::super) const BACKED_UP: u8 = 0xa5;
    /// `server, media id` → what is known of a piece of media (JSON).
    pub(in super::super) const MEDIA: u8 = 0xb0;
    /// `server, media id` → what its server signed of it (JSON).
    pub(in super::super) const MEDIA_STATEMENT: u8 = 0xb1;
    /// `alias` → the room that it leads to (JSON).
    pub(in super::super) const ALIAS: u8 = 0xc0;
    /// `room id` → nothing: the room is in our list of public rooms.
    pub(in super::super) const PUBLISHED_ROOM: u8 = 0xc1;
    /// `user` → password, and whether the account ended (JSON).
    pub(in super::super) const ACCOUNT: u8 = 0xd0;
    /// `hash` → whose refresh token it is (JSON).
    pub(in super::super) const REFRESH_TOKEN: u8 = 0xd1;
}

/// The reference hash that an event id spells.
pub(super) type Hash = [u8; HASH_LEN];

/// Its length.
pub(super) const HASH_LEN: usize = 32;

/// Returns the hash of an event id; none for the ids of room versions before 4 and other text.
pub(super) fn hash_of(event_id: &EventId) -> Option<Hash> {
    let text = event_id.as_str().strip_prefix('$')?;
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Returns the hash of an event that is to be stored.
pub(super) fn hash_to_store(event_id: &EventId) -> Result<Hash, StoreError> {
    hash_of(event_id).ok_or(StoreError::Corrupt { what: "event id" })
}

/// Returns the event id of a hash.
pub(super) fn event_id_of(hash: &Hash) -> OwnedEventId {
    EventId::parse(format!("${}", URL_SAFE_NO_PAD.encode(hash)))
        .unwrap_or_else(|_| unreachable!("a dollar sign and base64 are an event id"))
}

/// A key under construction.
#[derive(Debug, Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// Begins a key.
    pub(super) fn new(family: u8) -> Self {
        Self(vec![family])
    }

    /// Begins a key of a room.
    pub(super) fn room(family: u8, room: u32) -> Self {
        let mut key = Self::new(family);
        key.0.extend_from_slice(&room.to_be_bytes());
        key
    }

    /// Adds an event hash.
    pub(super) fn hash(mut self, hash: &Hash) -> Self {
        self.0.extend_from_slice(hash);
        self
    }

    /// Adds a number.
    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Adds the order of an event.
    pub(super) fn order(mut self, order: i64) -> Self {
        self.0.extend_from_slice(&order_bytes(order));
        self
    }

    /// Adds a text and its end.
    pub(super) fn text(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            self.0.push(byte);
            if byte == 0 {
                // 0xff is in no UTF-8 text, so a zero byte before it cannot be an end.
                self.0.push(0xff);
            }
        }
        self.0.push(0);
        self
    }

    /// Adds a text that can be missing.
    pub(super) fn optional_text(mut self, text: Option<&str>) -> Self {
        self.0.push(u8::from(text.is_some()));
        match text {
            Some(text) => self.text(text),
            None => self,
        }
    }

    /// Returns the bytes.
    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Returns an order as keys have it.
pub(super) fn order_bytes(order: i64) -> [u8; 8] {
    (order.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Returns the first key after all those that begin with `prefix`.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// Takes bytes apart; every step returns none where they end too soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Parts<'a> {
    /// Takes the next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// Takes one byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    /// Takes a number of two bytes.
    pub(super) fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a room number.
    pub(super) fn room(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a number.
    pub(super) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes the order of an event.
    pub(super) fn order(&mut self) -> Option<i64> {
        self.number().map(|number| (number ^ (1 << 63)).cast_signed())
    }

    /// Takes a hash.
    pub(super) fn hash(&mut self) -> Option<Hash> {
        self.array()
    }

    /// Takes a text that [`Key::text`] wrote.
    pub(super) fn text(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                0 if self.0.first() == Some(&0xff) => {
                    self.byte()?;
                    text.push(0);
                }
                0 => return String::from_utf8(text).ok(),
                byte => text.push(byte),
            }
        }
    }

    /// Takes a text that [`Key::optional_text`] wrote.
    pub(super) fn optional_text(&mut self) -> Option<Option<String>> {
        if self.byte()? == 0 { Some(None) } else { self.text().map(Some) }
    }
}

/// Appends a text of a value: its length in two bytes, then it.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) -> Result<(), StoreError> {
    let len = u16::try_from(text.len()).map_err(|_| StoreError::TooLarge(text.len()))?;
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Takes a text that [`put_text`] wrote.
pub(super) fn take_text<'a>(parts: &mut Parts<'a>) -> Option<&'a str> {
    let len = parts.short()?;
    std::str::from_utf8(parts.bytes(len.into())?).ok()
}

/// Returns the byte of a membership; 0 is none.
pub(super) fn membership_code(membership: &MembershipState) -> u8 {
    match membership {
        MembershipState::Join => 1,
        MembershipState::Invite => 2,
        MembershipState::Leave => 3,
        MembershipState::Ban => 4,
        MembershipState::Knock => 5,
        _ => 0,
    }
}

/// Returns the membership of a byte.
pub(super) fn membership_of_code(code: u8) -> Option<MembershipState> {
    Some(match code {
        1 => MembershipState::Join,
        2 => MembershipState::Invite,
        3 => MembershipState::Leave,
        4 => MembershipState::Ban,
        5 => MembershipState::Knock,
        _ => return None,
    })
}

/// Appends changes of a state, as state groups and the state log have them.
pub(super) fn put_changes(
    bytes: &mut Vec<u8>,
    changes: &[(StateKey, Option<Hash>)],
) -> Result<(), StoreError> {
    for ((kind, state_key), hash) in changes {
        put_text(bytes, &kind.to_string())?;
        put_text(bytes, state_key)?;
        bytes.push(u8::from(hash.is_some()));
        if let Some(hash) = hash {
            bytes.extend_from_slice(hash);
        }
    }
    Ok(())
}

/// Takes all changes that [`put_changes`] wrote.
pub(super) fn take_changes(mut parts: Parts<'_>) -> Option<Vec<(StateKey, Option<Hash>)>> {
    let mut changes = Vec::new();
    while !parts.0.is_empty() {
        let kind = StateEventType::from(take_text(&mut parts)?);
        let state_key = take_text(&mut parts)?.to_owned();
        let hash = if parts.byte()? == 0 { None } else { Some(parts.hash()?) };
        changes.push(((kind, state_key), hash));
    }
    Some(changes)
}

/// Returns the key of a place in the current state.
pub(super) fn state_key(room: u32, kind: &str, state_key: &str) -> Vec<u8> {
    Key::room(family::STATE, room).text(kind).text(state_key).done()
}

/// What a position of the log says. What is behind it is read where it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// An event of the timeline or the state of a room.
    Room(u32),
    /// The membership of a user of ours in a room, with its code.
    Membership(u32, OwnedUserId, u8),
    /// A row of `rows.rs`: its key.
    Row(Vec<u8>),
}

impl Change {
    /// Returns the value of a log row.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Room(room) => Key::room(family::TIMELINE, *room).done(),
            Self::Membership(room, user_id, code) => {
                let key = Key::room(family::MEMBERSHIP, *room).text(user_id.as_str());
                let mut bytes = key.done();
                bytes.push(*code);
                bytes
            }
            Self::Row(key) => key.clone(),
        }
    }

    /// Reads the value of a log row.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = Parts(bytes);
        match parts.byte()? {
            family::TIMELINE => parts.room().map(Self::Room),
            family::MEMBERSHIP => {
                let (room, user_id) = (parts.room()?, parts.text()?.try_into().ok()?);
                Some(Self::Membership(room, user_id, parts.byte()?))
            }
            _ => Some(Self::Row(bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_sort_as_numbers() {
        let keys: Vec<_> = [i64::MIN, -2, -1, 0, 1, i64::MAX]
            .map(|order| Key::room(family::TIMELINE, 7).order(order).done())
            .into();
        assert!(keys.is_sorted());
        for (key, order) in keys.iter().zip([i64::MIN, -2, -1, 0, 1, i64::MAX]) {
            let mut parts = Parts(key);
            assert_eq!(parts.byte(), Some(family::TIMELINE));
            assert_eq!(parts.room(), Some(7));
            assert_eq!(parts.order(), Some(order));
        }
    }

    #[test]
    fn texts_in_keys_survive_and_do_not_run_into_each_other() {
        for (a, b) in [("", ""), ("a", "b"), ("a\0", "b"), ("\0\0", "\0"), ("ä", "\u{ff}")] {
            let key = Key::new(b'k').text(a).text(b).optional_text(None).optional_text(Some(a));
            let key = key.done();
            let mut parts = Parts(&key[1..]);
            assert_eq!(parts.text().as_deref(), Some(a));
            assert_eq!(parts.text().as_deref(), Some(b));
            assert_eq!(parts.optional_text(), Some(None));
            assert_eq!(parts.optional_text(), Some(Some(a.to_owned())));
            assert!(parts.0.is_empty());
        }
        assert_ne!(Key::new(b'k').text("a").text("b").done(), Key::new(b'k').text("ab").done());
    }

    #[test]
    fn the_key_after_a_prefix() {
        assert_eq!(after(&[1, 2]), [1, 3]);
        assert_eq!(after(&[1, 255, 255]), [2]);
    }

    #[test]
    fn event_ids_are_hashes() {
        let hash = [7; 32];
        assert_eq!(hash_of(&event_id_of(&hash)), Some(hash));
        for bad in ["$short", "$old:example.org"] {
            assert_eq!(hash_of(&EventId::parse(bad).unwrap()), None, "{bad}");
        }
    }

    #[test]
    fn changes_survive() {
        for change in [
            Change::Room(3),
            Change::Membership(4, ruma::user_id!("@a:b").to_owned(), 1),
            Change::Row(vec![family::PROFILE, 1]),
        ] {
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
        let changes = vec![
            ((StateEventType::RoomMember, "@a:b".to_owned()), Some([1; 32])),
            ((StateEventType::from("x.y"), String::new()), None),
        ];
        let mut bytes = Vec::new();
        put_changes(&mut bytes, &changes).unwrap();
        assert_eq!(take_changes(Parts(&bytes)), Some(changes));
    }
}
