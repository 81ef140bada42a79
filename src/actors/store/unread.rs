//! Counts of a room: members, client transactions, and the unread events of each of our users.
//!
//! Invariant: `notifications` and `highlights` count exactly the rows of a user's unread events, which
//! go when a receipt or an event of the user passes them. The cost of reading is bounded
//! by what was unread.

use ruma::{OwnedRoomId, UserId};

use super::{
    Notify, Receipt, StoreError, Unread,
    database::{Rows, WriteSet},
    events::read_event,
    rooms::room_number,
    schema::{Key, Parts, family, hash_of},
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

/// Reads what a user has not read of a room.
pub(super) fn read(rows: &impl Rows, room: u32, user_id: &UserId) -> Result<Unread, StoreError> {
    let Some(bytes) = rows.get(&unread_key(room, user_id))? else {
        return Ok(Unread::default());
    };
    let mut parts = Parts(&bytes);
    let mut parse = || Some(Unread { notifications: parts.number()?, highlights: parts.number()? });
    parse().ok_or(StoreError::Corrupt { what: "counts" })
}

fn write(writes: &mut WriteSet<'_>, room: u32, user_id: &UserId, unread: Unread) {
    let Unread { notifications, highlights } = unread;
    let key = unread_key(room, user_id);
    if unread == Unread::default() {
        writes.remove(key);
    } else {
        writes.put(key, [notifications, highlights].map(u64::to_be_bytes).concat());
    }
}

/// Counts an event as unread by a user.
pub(super) fn add(
    writes: &mut WriteSet<'_>,
    room: u32,
    user_id: &UserId,
    order: i64,
    notify: Notify,
) -> Result<(), StoreError> {
    let key = notify_key(room, user_id).order(order).done();
    writes.put(key, vec![u8::from(notify.highlight)]);
    let mut unread = read(writes, room, user_id)?;
    unread.notifications = unread.notifications.saturating_add(1);
    unread.highlights = unread.highlights.saturating_add(notify.highlight.into());
    write(writes, room, user_id, unread);
    Ok(())
}

/// Takes everything up to an order as read by a user.
pub(super) fn clear(
    writes: &mut WriteSet<'_>,
    room: u32,
    user_id: &UserId,
    order: i64,
) -> Result<(), StoreError> {
    let mut unread = read(writes, room, user_id)?;
    if unread == Unread::default() {
        return Ok(());
    }
    let start = notify_key(room, user_id).done();
    let mut end = notify_key(room, user_id).order(order).done();
    end.push(0);
    for (key, value) in writes.scan(start, end)? {
        unread.notifications = unread.notifications.saturating_sub(1);
        let highlight = u64::from(value.first().copied().unwrap_or(0));
        unread.highlights = unread.highlights.saturating_sub(highlight);
        writes.remove(key);
    }
    write(writes, room, user_id, unread);
    Ok(())
}

/// Lowers what a user of ours has not read of a room, by a receipt. Those of others lower nothing. Threads other than the main
/// one have no counts of their own here, so their receipts change none.
pub(super) fn on_receipt(
    writes: &mut WriteSet<'_>,
    room_id: &OwnedRoomId,
    user_id: &UserId,
    thread_id: Option<&str>,
    value: &[u8],
) -> Result<(), StoreError> {
    if !matches!(thread_id, None | Some("main")) {
        return Ok(());
    }
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
        clear(writes, room, user_id, order)?;
    }
    Ok(())
}
