//! What notified our users lately, whether they read it since or not: for lists of notifications, and
//! for whoever pushes them to devices.
//!
//! Invariant: of each user the rows are numbered without a gap, and the oldest give way.

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::{
    Notifications, Notified, Notify, Place, ReadNotifications, StoreError, StoredEvent, Unread,
    backwards::Numbered,
    database::{Database, Rows, WriteSet},
    events::read_event,
    rooms::{InviteRow, MembershipRow, RoomInfo, StateRow},
    schema::{Hash, Key, Parts, family, hash_of, put_text, take_text},
    unread,
};
use crate::{actors::clock::now_ms, config::limits, proto::names};

/// The place of an invite, which is in no timeline of ours.
pub(super) const INVITE: i64 = i64::MIN;
/// Rows that are looked at for one page.
const LOOKED_AT: usize = 1000;

fn count_key(user_id: &UserId) -> Vec<u8> {
    Key::new(family::NOTIFIED_COUNT).text(user_id.as_str()).done()
}

fn prefix(user_id: &UserId) -> Key {
    Key::new(family::NOTIFIED).text(user_id.as_str())
}

/// Returns how often a user was notified so far.
pub(super) fn count(rows: &impl Rows, user_id: &UserId) -> Result<u64, StoreError> {
    let Some(bytes) = rows.get(&count_key(user_id))? else { return Ok(0) };
    Parts(&bytes).number().ok_or(StoreError::Corrupt { what: "notifications" })
}

/// Writes down that an event notifies a user.
pub(super) fn add(
    writes: &mut WriteSet<'_>,
    user_id: &UserId,
    (room, order, hash): (u32, i64, &Hash),
    notify: &Notify,
) -> Result<(), StoreError> {
    let number = count(writes, user_id)?.saturating_add(1);
    if let Some(old) = number.checked_sub(limits::NOTIFIED) {
        writes.remove(prefix(user_id).number(old).done());
    }
    // The row of a room is found by its number and the event by its hash, as long as they are there.
    let mut value = Key::room(0, room).order(order).hash(hash).number(now_ms()).done();
    value.push(u8::from(notify.highlight));
    put_text(&mut value, &notify.actions)?;
    writes.put(prefix(user_id).number(number).done(), value);
    writes.put(count_key(user_id), number.to_be_bytes().to_vec());
    Ok(())
}

struct Row {
    room: u32,
    order: i64,
    hash: Hash,
    ts: u64,
    highlight: bool,
    actions: String,
}

impl Row {
    fn decode(value: &[u8]) -> Option<Self> {
        let mut parts = Parts(value);
        parts.byte()?;
        Some(Self {
            room: parts.room()?,
            order: parts.order()?,
            hash: parts.hash()?,
            ts: parts.number()?,
            highlight: parts.byte()? != 0,
            actions: take_text(&mut parts)?.to_owned(),
        })
    }
}

/// Answers [`ReadNotifications`]: the newest first.
pub(super) fn read(
    database: &Database,
    ask: &ReadNotifications,
) -> Result<Notifications, StoreError> {
    let last = ask.up_to.unwrap_or(u64::MAX).to_be_bytes();
    let first = ask.after.saturating_add(1).to_be_bytes();
    let rows = Numbered::<8> { prefix: prefix(&ask.user_id).done(), first, last };
    let mut page = Notifications {
        newest: count(database, &ask.user_id)?,
        unread: if ask.count { count_unread(database, &ask.user_id)? } else { Unread::default() },
        ..Notifications::default()
    };
    for (looked_at, row) in database.scan_back(&rows).enumerate() {
        let (key, value) = row?;
        let corrupt = StoreError::Corrupt { what: "notifications" };
        let number = key.last_chunk().map(|number| u64::from_be_bytes(*number));
        let (Some(row), Some(number)) = (Row::decode(&value), number) else {
            return Err(corrupt);
        };
        if page.notified.len() >= ask.limit || looked_at >= LOOKED_AT {
            page.next = Some(number);
            return Ok(page);
        }
        if ask.only_highlights && !row.highlight {
            continue;
        }
        let is_read =
            row.order != INVITE && !unread::is_unread(database, row.room, &ask.user_id, row.order)?;
        if ask.only_unread && is_read {
            continue;
        }
        let Some(Shown { event, sender_name, room_name }) = shown(database, &ask.user_id, &row)?
        else {
            continue;
        };
        page.notified.push(Notified {
            number,
            room_id: RoomInfo::read(database, row.room)?.room_id,
            event,
            ts: row.ts,
            is_read,
            highlight: row.highlight,
            actions: row.actions,
            sender_name,
            room_name,
        });
    }
    Ok(page)
}

/// What is told of a notification.
struct Shown {
    event: StoredEvent,
    sender_name: Option<String>,
    room_name: Option<String>,
}

/// Reads what is told, as far as the user may see it today: an invite while it waits for an answer, what
/// was said while the user is in the room.
fn shown(database: &Database, user_id: &UserId, row: &Row) -> Result<Option<Shown>, StoreError> {
    let own = MembershipRow::read(database, row.room, user_id)?;
    match own.map(|own| own.membership) {
        Some(MembershipState::Join) if row.order != INVITE => {
            let Some(event) = read_event(database, row.room, &row.hash)? else { return Ok(None) };
            let sender = event.head()?.sender;
            Ok(Some(Shown {
                event: event.into_stored(&row.hash),
                sender_name: name_in(database, row.room, ("m.room.member", sender.as_str()))?,
                room_name: name_in(database, row.room, ("m.room.name", ""))?,
            }))
        }
        Some(MembershipState::Invite) if row.order == INVITE => {
            let invite = InviteRow::read(database, row.room, user_id)?;
            let waits = |invite: &InviteRow| hash_of(&invite.event_id) == Some(row.hash);
            Ok(invite.filter(waits).map(shown_invite))
        }
        _ => Ok(None),
    }
}

/// Reads what an invite tells: before anybody is in a room, its names are those that the invite has.
fn shown_invite(invite: InviteRow) -> Shown {
    #[derive(Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        content: Named,
    }
    let sender = serde_json::from_str::<Sent>(invite.event.get()).ok().map(|sent| sent.sender);
    let stripped: Vec<Stripped> = invite
        .stripped_state
        .iter()
        .filter_map(|event| serde_json::from_str(event.get()).ok())
        .collect();
    let named = |kind: &str, key: &str| {
        let event = stripped.iter().find(|event| event.kind == kind && event.state_key == key);
        let name = event.and_then(|event| event.content.name.as_deref());
        name.map(|name| names::shown_name(name).into_owned())
    };
    Shown {
        sender_name: sender.and_then(|sender| named("m.room.member", sender.as_str())),
        room_name: named("m.room.name", ""),
        event: StoredEvent {
            event_id: invite.event_id,
            json: invite.event.get().into(),
            place: Place::Outlier,
            state_group: None,
            order: None,
            spoilt: false,
            txn: None,
            redacted_because: None,
        },
    }
}

/// What something is called.
#[derive(Deserialize)]
struct Named {
    #[serde(alias = "displayname")]
    name: Option<String>,
}

/// Reads how somebody, or a room, is called at a place of the current state.
fn name_in(
    database: &Database,
    room: u32,
    place: (&str, &str),
) -> Result<Option<String>, StoreError> {
    #[derive(Deserialize)]
    struct Event {
        content: Named,
    }
    let Some(row) = StateRow::read(database, room, place)? else { return Ok(None) };
    let Some(record) = read_event(database, room, &row.hash)? else { return Ok(None) };
    // The content is the sender's: one that makes no sense is no name.
    let name =
        serde_json::from_str::<Event>(&record.json).ok().and_then(|event| event.content.name);
    Ok(name.map(|name| names::shown_name(&name).into_owned()))
}

/// Counts what a user has not read of all rooms.
fn count_unread(database: &Database, user_id: &UserId) -> Result<Unread, StoreError> {
    let mut all = Unread::default();
    for row in database.scan_prefix(&[family::UNREAD]) {
        let (key, _) = row?;
        let (room, user) = super::rooms::room_and_user(&key)?;
        if user == user_id {
            let unread = unread::read(database, room, user_id)?;
            all.notifications = all.notifications.saturating_add(unread.notifications);
            all.highlights = all.highlights.saturating_add(unread.highlights);
        }
    }
    Ok(all)
}
