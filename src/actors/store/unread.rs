//! Counts of a room: unread events of our user, members, client transactions.
//!
//! Invariant: `notifications` and `highlights` count exactly the rows of unread events, which go
//! when a receipt of our user or an event of theirs passes them. The cost of reading is bounded
//! by what was unread.

use ruma::{OwnedRoomId, UserId};

use super::{
    Notify, Receipt, StoreError, Unread,
    database::{Rows, WriteSet},
    events::read_event,
    rooms::{RoomInfo, room_number},
    schema::{Key, Parts, family, hash_of},
};

/// The counts of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) unread: Unread,
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
            let unread = Unread { notifications: parts.number()?, highlights: parts.number()? };
            let (joined, invited) = (parts.number()?, parts.number()?);
            Some(Self { unread, joined, invited, txns: parts.number()? })
        };
        parse().ok_or(StoreError::Corrupt { what: "counts" })
    }

    /// Writes the counts of a room.
    pub(super) fn write(&self, writes: &mut WriteSet<'_>, room: u32) {
        let Unread { notifications, highlights } = self.unread;
        let value = [notifications, highlights, self.joined, self.invited, self.txns];
        writes.put(key(room), value.map(u64::to_be_bytes).concat());
    }
}

/// Counts an event as unread.
pub(super) fn add(
    writes: &mut WriteSet<'_>,
    counts: &mut Counts,
    room: u32,
    order: i64,
    notify: Notify,
) {
    let key = Key::room(family::NOTIFY, room).order(order).done();
    writes.put(key, vec![u8::from(notify.highlight)]);
    let unread = &mut counts.unread;
    unread.notifications = unread.notifications.saturating_add(1);
    unread.highlights = unread.highlights.saturating_add(notify.highlight.into());
}

/// Takes everything up to an order as read.
pub(super) fn clear(
    writes: &mut WriteSet<'_>,
    counts: &mut Counts,
    room: u32,
    order: i64,
) -> Result<(), StoreError> {
    if counts.unread == Unread::default() {
        return Ok(());
    }
    let start = Key::room(family::NOTIFY, room).done();
    let mut end = Key::room(family::NOTIFY, room).order(order).done();
    end.push(0);
    for (key, value) in writes.scan(start, end)? {
        let unread = &mut counts.unread;
        unread.notifications = unread.notifications.saturating_sub(1);
        let highlight = u64::from(value.first().copied().unwrap_or(0));
        unread.highlights = unread.highlights.saturating_sub(highlight);
        writes.remove(key);
    }
    Ok(())
}

/// Lowers the counts of a room if `value` is a receipt of our user. Threads other than the main
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
    if RoomInfo::read(writes, room)?.user.as_deref() != Some(user_id) {
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
        let mut counts = Counts::read(writes, room)?;
        clear(writes, &mut counts, room, order)?;
        counts.write(writes, room);
    }
    Ok(())
}
