//! What a commit changes.
//!
//! Invariants: a commit is one write set, so the events, groups, current state, heads and
//! positions of a room always belong together; every live event has a position of its own, which
//! is its order; the current state rows are what all `state_changes` add up to.

use std::collections::HashMap;

use ruma::{EventId, OwnedEventId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ClientTxn, CommitRoom, NewEvent, OwnMembership, Place, Redaction, StoreError,
    database::{Rows, WriteSet},
    directory,
    events::{EventRecord, annotation_key, event_key, pending_key, read_event, read_known},
    groups,
    history::Placing,
    notified, relations,
    rooms::{
        Counters, HeadsRow, InviteRow, MembershipRow, RoomInfo, StateRow, TXNS, endpoint_code,
        room_number, to_json, txn_key, write_backward,
    },
    schema::{
        Change, Hash, Key, family, hash_of, hash_to_store, membership_code, put_changes, put_text,
        state_key,
    },
    timeline,
    unread::{self, Counts, Scope},
};
use crate::proto::{
    annotation::Annotation,
    pdu::{Pdu, StateKey},
    stream::Order,
};

/// Adds a commit to a write set.
pub(super) fn write(
    writes: &mut WriteSet<'_>,
    counters: &mut Counters,
    step: CommitRoom,
) -> Result<(), StoreError> {
    let before = counters.position;
    let room = find_or_number(writes, counters, &step)?;
    let mut counts = Counts::read(writes, room)?;
    write_events(writes, counters, room, &mut counts, &step)?;
    for group in &step.groups {
        groups::write(writes, room, group)?;
    }
    for redaction in &step.redactions {
        redact(writes, room, redaction)?;
    }
    if !step.state_changes.is_empty() {
        if counters.position == before {
            // State can change without a new event in the timeline: make it show all the same.
            counters.log(writes, &Change::Room(room));
        }
        change_state(writes, room, counters.position, &mut counts, &step.state_changes)?;
    }
    if let Some(heads) = &step.heads {
        let extremities = heads.extremities.iter();
        let row = HeadsRow {
            extremities: extremities
                .map(|head| (head.event_id.clone(), head.depth, head.state_group))
                .collect(),
            current_group: heads.current_group,
            next_group: heads.next_group,
        };
        writes.put_long(&Key::room(family::HEADS, room).done(), &to_json(&row)?)?;
    }
    if let Some(servers) = &step.servers {
        writes.put_long(&Key::room(family::SERVERS, room).done(), &to_json(servers)?)?;
    }
    if let Some(events) = &step.backward_extremities {
        write_backward(writes, room, events)?;
    }
    if let Some(keys) = &step.room_keys {
        writes.put_long(&Key::room(family::ROOM_KEYS, room).done(), keys)?;
    }
    for (user_id, own) in &step.memberships {
        change_membership(writes, counters, room, user_id, own)?;
    }
    for (user_id, entry) in &step.directory {
        directory::write(writes, user_id, entry.as_ref())?;
    }
    counts.write(writes, room);
    Ok(())
}

fn find_or_number(
    writes: &mut WriteSet<'_>,
    counters: &mut Counters,
    step: &CommitRoom,
) -> Result<u32, StoreError> {
    if let Some(room) = room_number(writes, &step.room_id)? {
        let mut info = RoomInfo::read(writes, room)?;
        // Before we are in the room, its version is what an invite claimed.
        if info.version != step.version {
            info.version = step.version.clone();
            writes.put(RoomInfo::key(room), to_json(&info)?);
        }
        return Ok(room);
    }
    counters.room = counters.room.saturating_add(1);
    let room = counters.room;
    let key = Key::new(family::ROOM_NUMBER).text(step.room_id.as_str()).done();
    writes.put(key, room.to_be_bytes().to_vec());
    let info = RoomInfo { room_id: step.room_id.clone(), version: step.version.clone() };
    writes.put(RoomInfo::key(room), to_json(&info)?);
    Ok(room)
}

fn write_events(
    writes: &mut WriteSet<'_>,
    counters: &mut Counters,
    room: u32,
    counts: &mut Counts,
    step: &CommitRoom,
) -> Result<(), StoreError> {
    let events = &step.events;
    let mut placing = match events.iter().any(|event| event.place == Place::Backfilled) {
        true => Some(Placing::begin(writes, room)?),
        false => None,
    };
    let mut newest_state: HashMap<StateKey, Hash> = HashMap::new();
    for event in events {
        let hash = hash_to_store(&event.pdu.event_id)?;
        let stored = read_event(writes, room, &hash)?;
        let had = stored.as_ref().and_then(|record| record.order);
        let order = match (event.place, had) {
            // Who has a place keeps it, or clients would see the event twice.
            (Place::Live | Place::Backfilled, Some(order)) => Some(order),
            (Place::Live, None) => {
                Some(Order::live(counters.log(writes, &Change::Room(room)).cast_signed()))
            }
            (Place::Backfilled, None) => match &mut placing {
                Some(placing) => Some(placing.place(writes, &hash)?),
                None => None,
            },
            (Place::Outlier | Place::SoftFailed | Place::Rejected, had) => {
                if let (Some(order), Some(stored)) = (had, &stored) {
                    writes.remove(timeline::key(room, order));
                    relations::remove(writes, room, order, &stored.json)?;
                }
                None
            }
        };
        let place = match order {
            Some(order) if order.is_history() => Place::Backfilled,
            Some(_) => Place::Live,
            None => event.place,
        };
        let mut record = EventRecord {
            place,
            spoilt: event.spoilt,
            state_group: event.state_group,
            order,
            txn: event.txn.clone(),
            redacted_because: None,
            replaces: None,
            json: event.pdu.json.clone(),
        };
        let mut is_known_txn = false;
        let before = stored.as_ref().map(|stored| stored.json.clone());
        if let Some(stored) = stored {
            is_known_txn = stored.txn.is_some();
            record.txn = record.txn.or(stored.txn);
            record.replaces = stored.replaces;
            if stored.redacted_because.is_some() {
                // Redacted stays redacted, whatever copy comes again.
                record.redacted_because = stored.redacted_because;
                record.json = stored.json;
            }
        }
        if place == Place::Live
            && had.is_none()
            && let Some((kind, key)) = event.pdu.state_place()
        {
            let in_force = StateRow::read(writes, room, (&kind.to_string(), &key))?;
            let in_force = in_force.map(|state| state.hash).filter(|before| *before != hash);
            let before = newest_state.insert((kind, key), hash).or(in_force);
            record.replaces =
                before.map_or_else(|| named_before(events, event), |it| Ok(Some(it)))?;
        }
        if let Some(order) = order.filter(|_| had.is_none()) {
            writes.put(timeline::key(room, order), hash.to_vec());
            relations::add(writes, room, (&hash, order), &record.json)?;
            if place == Place::Live {
                on_live(writes, room, step, event, &hash, order.position)?;
            }
        }
        // A whole copy takes the place of one that said nothing of what it relates to.
        if let (Some(order), Some(before)) = (order.filter(|_| had.is_some()), before)
            && before != record.json
        {
            relations::remove(writes, room, order, &before)?;
            relations::add(writes, room, (&hash, order), &record.json)?;
        }
        if let Some(txn) = event.txn.as_ref().filter(|_| !is_known_txn) {
            write_txn(writes, room, counts, (&event.pdu.sender, txn), &hash)?;
        }
        writes.put(event_key(room, &hash), record.encode()?);
        if let (Some(placing), Some(order)) = (&mut placing, order) {
            placing.stands(writes, hash, &event.pdu.prev_events, order)?;
        }
    }
    Ok(())
}

/// Finds what a state event replaces where nothing is in force yet: whoever comes in through others gets
/// the state in the same step, and his membership names the one before it, as all memberships do.
fn named_before(events: &[NewEvent], event: &NewEvent) -> Result<Option<Hash>, StoreError> {
    let place = event.pdu.state_place();
    let named = events.iter().map(|other| &other.pdu).find(|other| {
        event.pdu.auth_events.contains(&other.event_id) && other.state_place() == place
    });
    named.map(|pdu| hash_to_store(&pdu.event_id)).transpose()
}

/// Whoever of us writes has read, and may have annotated something; the others are notified.
fn on_live(
    writes: &mut WriteSet<'_>,
    room: u32,
    step: &CommitRoom,
    event: &NewEvent,
    hash: &Hash,
    order: i64,
) -> Result<(), StoreError> {
    let Pdu { kind, content, sender, .. } = &*event.pdu;
    let is_ours = event.txn.is_some()
        || step.memberships.contains_key(sender)
        || MembershipRow::exists(writes, room, sender)?;
    let thread = relations::thread_of(writes, room, &event.pdu.json)?;
    if is_ours {
        let scope = Scope::of_thread(thread.as_deref().map(EventId::as_str));
        unread::clear(writes, (room, sender), order, scope)?;
        let annotation = Annotation::of(&kind.to_string(), content.get());
        if let Some(annotation) = annotation
            && let Some(target) = hash_of(&annotation.target)
        {
            let key = annotation_key(room, &target, sender, &annotation);
            writes.put(key, hash.to_vec());
        }
    }
    for (user_id, notify) in event.notify.iter().filter(|(user_id, _)| user_id != sender) {
        unread::add(writes, (room, user_id), order, notify.highlight, thread.as_deref())?;
        notified::add(writes, user_id, (room, order, hash), notify)?;
    }
    Ok(())
}

fn write_txn(
    writes: &mut WriteSet<'_>,
    room: u32,
    counts: &mut Counts,
    (user_id, txn): (&UserId, &ClientTxn),
    hash: &Hash,
) -> Result<(), StoreError> {
    let number = counts.txns;
    counts.txns = number.saturating_add(1);
    if let Some(old) = number.checked_sub(TXNS) {
        writes.remove(txn_key(room, old));
    }
    let mut value = hash.to_vec();
    put_text(&mut value, &txn.device_id)?;
    put_text(&mut value, &txn.txn_id)?;
    value.push(endpoint_code(txn.endpoint));
    put_text(&mut value, user_id.as_str())?;
    writes.put(txn_key(room, number), value);
    Ok(())
}

fn redact(writes: &mut WriteSet<'_>, room: u32, redaction: &Redaction) -> Result<(), StoreError> {
    // What is redacted is named by others: an id that no event can have redacts nothing.
    match redaction {
        Redaction::Applies { because, redacted } => {
            let (Some(target), Some(because)) = (hash_of(&redacted.event_id), hash_of(because))
            else {
                return Ok(());
            };
            if let Some(mut record) = read_event(writes, room, &target)? {
                if let Some(order) = record.order {
                    relations::remove(writes, room, order, &record.json)?;
                    unread::forget(writes, room, order.position)?;
                }
                record.json = redacted.json.clone();
                record.redacted_because = Some(because);
                writes.put(event_key(room, &target), record.encode()?);
                writes.remove(pending_key(room, &target));
            }
        }
        Redaction::Waits { target, because } => {
            let Some(target) = hash_of(target) else { return Ok(()) };
            if read_event(writes, room, &target)?.is_none() {
                let because: Vec<Hash> = because.iter().filter_map(|id| hash_of(id)).collect();
                writes.put(pending_key(room, &target), because.concat());
            }
        }
    }
    Ok(())
}

fn change_state(
    writes: &mut WriteSet<'_>,
    room: u32,
    position: u64,
    counts: &mut Counts,
    changes: &[(StateKey, Option<OwnedEventId>)],
) -> Result<(), StoreError> {
    let mut log = Vec::with_capacity(changes.len());
    for (place, event_id) in changes {
        let (kind, key) = (place.0.to_string(), place.1.as_str());
        let row = state_key(room, &kind, key);
        let before = StateRow::read(writes, room, (&kind, key))?.map_or(0, |row| row.membership);
        let hash = event_id.as_deref().map(hash_to_store).transpose()?;
        let mut after = 0;
        match &hash {
            Some(hash) => {
                if kind == "m.room.member" {
                    after = membership_in(writes, room, hash)?;
                }
                writes.put(row, [hash.as_slice(), &[after]].concat());
            }
            None => writes.remove(row),
        }
        for (membership, count) in [
            (MembershipState::Join, &mut counts.joined),
            (MembershipState::Invite, &mut counts.invited),
        ] {
            let code = membership_code(&membership);
            *count = count
                .saturating_add(u64::from(after == code))
                .saturating_sub(u64::from(before == code));
        }
        log.push((place.clone(), hash));
    }
    let mut value = Vec::new();
    put_changes(&mut value, &log)?;
    writes.put_long(&Key::room(family::STATE_LOG, room).number(position).done(), &value)
}

/// Returns the code of the membership that a member event sets.
pub(super) fn membership_in(rows: &impl Rows, room: u32, hash: &Hash) -> Result<u8, StoreError> {
    #[derive(Deserialize)]
    struct Content {
        membership: Option<MembershipState>,
    }
    #[derive(Deserialize)]
    struct Member {
        content: Content,
    }
    let record = read_known(rows, room, hash)?;
    // The content is the sender's: one that makes no sense is no membership.
    let member = serde_json::from_str::<Member>(&record.json).ok();
    let membership = member.and_then(|member| member.content.membership);
    Ok(membership.as_ref().map_or(0, membership_code))
}

fn change_membership(
    writes: &mut WriteSet<'_>,
    counters: &mut Counters,
    room: u32,
    user_id: &UserId,
    own: &OwnMembership,
) -> Result<(), StoreError> {
    if own.forgotten {
        writes.remove(MembershipRow::key(room, user_id));
        return writes.remove_long(&InviteRow::key(room, user_id));
    }
    let code = membership_code(&own.membership);
    let was =
        MembershipRow::read(writes, room, user_id)?.map(|row| membership_code(&row.membership));
    if was != Some(code) || own.membership == MembershipState::Invite {
        counters.log(writes, &Change::Membership(room, user_id.to_owned(), code));
    }
    let event = match own.event_id.as_deref().and_then(hash_of) {
        Some(hash) => read_event(writes, room, &hash)?,
        None => None,
    };
    let order = event.and_then(|event| event.order).map(|order| order.position);
    let order = order.unwrap_or(counters.position.cast_signed());
    let row =
        MembershipRow { membership: own.membership.clone(), event_id: own.event_id.clone(), order };
    writes.put(MembershipRow::key(room, user_id), to_json(&row)?);
    match &own.invite {
        Some(invite) => {
            let event = RawValue::from_string(invite.event.json.to_string());
            let row = InviteRow {
                event_id: invite.event.event_id.clone(),
                event: event.map_err(|_| StoreError::Corrupt { what: "invite" })?,
                stripped_state: invite.stripped_state.clone(),
                via: invite.via.clone(),
            };
            writes.put_long(&InviteRow::key(room, user_id), &to_json(&row)?)?;
            if was != Some(code)
                && let Some(notify) = &invite.notify
                && let Some(hash) = hash_of(&row.event_id)
            {
                notified::add(writes, user_id, (room, notified::INVITE, &hash), notify)?;
            }
        }
        None => writes.remove_long(&InviteRow::key(room, user_id))?,
    }
    if own.membership != MembershipState::Join {
        unread::clear(writes, (room, user_id), i64::MAX, Scope::All)?;
    }
    Ok(())
}
