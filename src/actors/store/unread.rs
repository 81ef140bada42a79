//! Counts of a room: members, client transactions, and the unread events of each of our users.
//!
//! Invariant: `notifications` and `highlights` count exactly the rows of a user's unread events, in all and
//! in each thread; the rows go when a receipt or an event of the user in the same thread passes them. The cost of reading is bounded
//! by what was unread.

use ruma::{EventId, OwnedEventId, OwnedRoomId, UserId};

use super::{
    Receipt, StoreError, Unread,
    database::{Database, Rows, WriteSet},
    events::read_event,
    rooms::{room_and_user, room_number},
    schema::{Key, Parts, after, family, hash_of, put_text, take_text},
};

/// The counts of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) joined: u64,
    pub(super) invited: u64,
    /// Client transactions so far.
    pub(super) txns: u64,
}

fn key(room: u32) -> Vec<u8> {
    Key::room(family::COUNTS, room).done()
}

impl Counts {
    /// Reads the counts of a room.
    pub(super) fn read(rows: &impl Rows, room: u32) -> Result<Self, StoreError> {
        let Some(bytes) = rows.get(&key(room))? else {
            return Ok(Self::default());
        };
        let mut parts = Parts(&bytes);
        let mut parse = || {
            let (joined, invited) = (parts.number()?, parts.number()?);
            Some(Self { joined, invited, txns: parts.number()? })
        };
        parse().ok_or(StoreError::Corrupt { what: "counts" })
    }

    /// Writes the counts of a room.
    pub(super) fn write(&self, writes: &mut WriteSet<'_>, room: u32) {
        let value = [self.joined, self.invited, self.txns];
        writes.put(key(room), value.map(u64::to_be_bytes).concat());
    }
}

fn unread_key(room: u32, user_id: &UserId) -> Vec<u8> {
    Key::room(family::UNREAD, room).text(user_id.as_str()).done()
}

fn notify_key(room: u32, user_id: &UserId) -> Key {
    Key::room(family::NOTIFY, room).text(user_id.as_str())
}

fn threads_key(room: u32, user_id: &UserId) -> Key {
    Key::room(family::UNREAD_THREAD, room).text(user_id.as_str())
}

/// Which of the unread events of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// All.
    All,
    /// Those that are in no thread.
    Main,
    /// Those of the thread with this root.
    Thread(&'a str),
}

impl<'a> Scope<'a> {
    /// The scope of a receipt, or of an event, by its thread.
    pub(super) fn of_thread(thread: Option<&'a str>) -> Self {
        thread.map_or(Self::Main, Self::Thread)
    }

    fn has(self, thread: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Main => thread.is_none(),
            Self::Thread(root) => thread == Some(root),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Unread, StoreError> {
    let mut parts = Parts(bytes);
    let mut parse = || Some(Unread { notifications: parts.number()?, highlights: parts.number()? });
    parse().ok_or(StoreError::Corrupt { what: "counts" })
}

fn read_row(rows: &impl Rows, key: &[u8]) -> Result<Unread, StoreError> {
    rows.get(key)?.map_or(Ok(Unread::default()), |bytes| decode(&bytes))
}

/// Reads what a user has not read of a room, threads included.
pub(super) fn read(rows: &impl Rows, room: u32, user_id: &UserId) -> Result<Unread, StoreError> {
    read_row(rows, &unread_key(room, user_id))
}

/// Reads what a user has not read of the threads of a room, by root.
pub(super) fn read_threads(
    database: &Database,
    room: u32,
    user_id: &UserId,
) -> Result<Vec<(OwnedEventId, Unread)>, StoreError> {
    let prefix = threads_key(room, user_id).done();
    let mut threads = Vec::new();
    for row in database.scan_prefix(&prefix) {
        let (key, value) = row?;
        let root = key.get(prefix.len()..).and_then(|key| Parts(key).text());
        let root = root.and_then(|root| EventId::parse(root).ok());
        threads.push((root.ok_or(StoreError::Corrupt { what: "key" })?, decode(&value)?));
    }
    Ok(threads)
}

fn write(writes: &mut WriteSet<'_>, key: Vec<u8>, unread: Unread) {
    let Unread { notifications, highlights } = unread;
    if unread == Unread::default() {
        writes.remove(key);
    } else {
        writes.put(key, [notifications, highlights].map(u64::to_be_bytes).concat());
    }
}

/// An unread event, as its row has it.
struct Event {
    highlight: bool,
    thread: Option<String>,
}

impl Event {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut value = vec![u8::from(self.highlight)];
        if let Some(root) = &self.thread {
            put_text(&mut value, root)?;
        }
        Ok(value)
    }

    /// Reads a row. An older program wrote no threads.
    fn decode(value: &[u8]) -> Option<Self> {
        let mut parts = Parts(value);
        let highlight = parts.byte()? != 0;
        let thread =
            if parts.0.is_empty() { None } else { Some(take_text(&mut parts)?.to_owned()) };
        Some(Self { highlight, thread })
    }

    /// Adds it to the counts, or takes it away.
    fn count(
        &self,
        writes: &mut WriteSet<'_>,
        (room, user_id): (u32, &UserId),
        change: i64,
    ) -> Result<(), StoreError> {
        let thread = self.thread.as_deref().map(|root| threads_key(room, user_id).text(root));
        let keys = std::iter::once(unread_key(room, user_id)).chain(thread.map(Key::done));
        for key in keys {
            let mut unread = read_row(writes, &key)?;
            unread.notifications = unread.notifications.saturating_add_signed(change);
            if self.highlight {
                unread.highlights = unread.highlights.saturating_add_signed(change);
            }
            write(writes, key, unread);
        }
        Ok(())
    }
}

/// Counts an event as unread by a user.
pub(super) fn add(
    writes: &mut WriteSet<'_>,
    (room, user_id): (u32, &UserId),
    order: i64,
    highlight: bool,
    thread: Option<&EventId>,
) -> Result<(), StoreError> {
    let event = Event { highlight, thread: thread.map(ToString::to_string) };
    writes.put(notify_key(room, user_id).order(order).done(), event.encode()?);
    event.count(writes, (room, user_id), 1)
}

/// Takes everything up to an order as read by a user.
pub(super) fn clear(
    writes: &mut WriteSet<'_>,
    (room, user_id): (u32, &UserId),
    order: i64,
    scope: Scope<'_>,
) -> Result<(), StoreError> {
    if read(writes, room, user_id)? == Unread::default() {
        return Ok(());
    }
    let start = notify_key(room, user_id).done();
    let mut end = notify_key(room, user_id).order(order).done();
    end.push(0);
    for (key, value) in writes.scan(start, end)? {
        let event = Event::decode(&value).ok_or(StoreError::Corrupt { what: "unread" })?;
        if scope.has(event.thread.as_deref()) {
            event.count(writes, (room, user_id), -1)?;
            writes.remove(key);
        }
    }
    Ok(())
}

/// Tells whether an event is unread by a user.
pub(super) fn is_unread(
    rows: &impl Rows,
    room: u32,
    user_id: &UserId,
    order: i64,
) -> Result<bool, StoreError> {
    Ok(rows.get(&notify_key(room, user_id).order(order).done())?.is_some())
}

/// Takes an event that was redacted as read by everybody.
pub(super) fn forget(writes: &mut WriteSet<'_>, room: u32, order: i64) -> Result<(), StoreError> {
    let unread = Key::room(family::UNREAD, room).done();
    for (key, _) in writes.scan(unread.clone(), after(&unread))? {
        let (_, user_id) = room_and_user(&key)?;
        let key = notify_key(room, &user_id).order(order).done();
        if let Some(value) = writes.get(&key)? {
            let event = Event::decode(&value).ok_or(StoreError::Corrupt { what: "unread" })?;
            event.count(writes, (room, &user_id), -1)?;
            writes.remove(key);
        }
    }
    Ok(())
}

/// Lowers what a user of ours has not read of a room, by a receipt: one without a thread, all;
/// another one, what is in its thread, or in none. Those of others lower nothing.
pub(super) fn on_receipt(
    writes: &mut WriteSet<'_>,
    room_id: &OwnedRoomId,
    user_id: &UserId,
    thread_id: Option<&str>,
    value: &[u8],
) -> Result<(), StoreError> {
    let scope = match thread_id {
        None => Scope::All,
        Some("main") => Scope::Main,
        Some(root) => Scope::Thread(root),
    };
    let Some(room) = room_number(writes, room_id)? else {
        return Ok(());
    };
    if read(writes, room, user_id)? == Unread::default() {
        return Ok(());
    }
    let Ok(receipt) = serde_json::from_slice::<Receipt>(value) else {
        return Ok(());
    };
    let event = match hash_of(&receipt.event_id) {
        Some(hash) => read_event(writes, room, &hash)?,
        None => None,
    };
    if let Some(order) = event.and_then(|event| event.order).map(|order| order.position) {
        clear(writes, (room, user_id), order, scope)?;
    }
    Ok(())
}
