//! Who shares rooms with whom, for the keys of devices: for whom clients encrypt, and who is to learn
//! of new devices.
//!
//! Who is invited counts as being in the room: others encrypt for them. Invariants: what `/sync` tells
//! costs what changed, and looks at all rooms only where somebody's devices changed or somebody left;
//! whoever was not in any shared room all the time is told as changed, since what changed meanwhile
//! may have been said to nobody here.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, OwnedUserId, UserId, events::room::member::MembershipState};

use super::{
    DeviceLists, FindRoommates, ReadServersOf, Roommates, StoreError,
    commit::membership_in,
    database::Database,
    events::read_event,
    rooms::{InviteRow, MembershipRow, StateRow, servers},
    schema::{Hash, Key, Parts, family, membership_code, membership_of_code, take_changes},
    sync::Changes,
    unread::Counts,
};
use crate::proto::stream::Order;

const MEMBER: &str = "m.room.member";

/// Tells whether a membership counts as being in the room.
fn is_in(code: u8) -> bool {
    matches!(membership_of_code(code), Some(MembershipState::Join | MembershipState::Invite))
}

/// Reads who is in a room or invited.
fn members(database: &Database, room: u32) -> Result<Vec<(OwnedUserId, u8)>, StoreError> {
    let prefix = Key::room(family::STATE, room).text(MEMBER).done();
    let mut members = Vec::new();
    for row in database.scan_prefix(&prefix) {
        let (key, value) = row?;
        let code = StateRow::decode(&value)?.membership;
        let user = Parts(key.get(prefix.len()..).unwrap_or_default()).text();
        if let Some(user) = user.and_then(|user| UserId::parse(user).ok())
            && is_in(code)
        {
            members.push((user, code));
        }
    }
    Ok(members)
}

fn member(database: &Database, room: u32, user: &str) -> Result<Option<StateRow>, StoreError> {
    let row = StateRow::read(database, room, (MEMBER, user))?;
    Ok(row.filter(|row| is_in(row.membership)))
}

/// The rooms that a user of ours has joined, looked up when they are needed.
struct Joined<'a> {
    database: &'a Database,
    user_id: &'a UserId,
    rooms: Option<Vec<u32>>,
}

impl Joined<'_> {
    fn shares_room_with(&mut self, other: &UserId) -> Result<bool, StoreError> {
        let database = self.database;
        let rooms = match &mut self.rooms {
            Some(rooms) => rooms,
            none => none.insert(joined_by(database, self.user_id)?),
        };
        for room in rooms {
            if member(database, *room, other.as_str())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn joined_by(database: &Database, user_id: &UserId) -> Result<Vec<u32>, StoreError> {
    let mut rooms = Vec::new();
    for row in MembershipRow::read_all(database, None) {
        let (room, user, row) = row?;
        if user == user_id && row.membership == MembershipState::Join {
            rooms.push(room);
        }
    }
    Ok(rooms)
}

/// Says whose devices a user of ours has to look at, and whose not any more, after what the log says
/// since a position.
pub(super) fn since(
    database: &Database,
    user_id: &UserId,
    since: u64,
    position: u64,
    changes: &Changes,
) -> Result<DeviceLists, StoreError> {
    let mut joined = Joined { database, user_id, rooms: None };
    let mut lists = DeviceLists::default();
    let mut gone = BTreeSet::new();
    let join = membership_code(&MembershipState::Join);
    for (room, of_room) in &changes.rooms {
        let own = MembershipRow::read(database, *room, user_id)?.map(|row| row.membership);
        let is_joined = own == Some(MembershipState::Join);
        if is_joined && of_room.memberships.contains(&join) {
            lists.changed.extend(members(database, *room)?.into_iter().map(|(user, _)| user));
        } else if !of_room.memberships.is_empty()
            && !matches!(own, Some(MembershipState::Join | MembershipState::Invite))
        {
            gone.extend(members(database, *room)?.into_iter().map(|(user, _)| user));
        } else if is_joined {
            for user in changed_members(database, *room, since, position)? {
                let row = StateRow::read(database, *room, (MEMBER, user.as_str()))?;
                match row.filter(|row| is_in(row.membership)) {
                    Some(row) if was_there_since(database, *room, row.hash, since)? => {}
                    Some(_) => drop(lists.changed.insert(user)),
                    None => drop(gone.insert(user)),
                }
            }
        }
    }
    for user in &changes.device_lists {
        if user == user_id || joined.shares_room_with(user)? {
            lists.changed.insert(user.clone());
        }
    }
    if !changes.device_lists.contains(user_id) {
        lists.changed.remove(user_id);
    }
    for user in gone {
        if user != user_id && !joined.shares_room_with(&user)? {
            lists.changed.remove(&user);
            lists.left.insert(user);
        }
    }
    Ok(lists)
}

/// Reads whose membership of a room changed after `since`.
fn changed_members(
    database: &Database,
    room: u32,
    since: u64,
    position: u64,
) -> Result<BTreeSet<OwnedUserId>, StoreError> {
    let key = |position: u64| {
        Key::room(family::STATE_LOG, room).number(position.saturating_add(1)).done()
    };
    let mut users = BTreeSet::new();
    if since >= position {
        return Ok(users);
    }
    for row in database.scan_long(key(since), key(position)) {
        let changes = take_changes(Parts(&row?.1));
        let changes = changes.ok_or(StoreError::Corrupt { what: "state log" })?;
        let of_members = changes.into_iter().filter(|((kind, _), _)| kind.to_string() == MEMBER);
        users.extend(of_members.filter_map(|((_, user), _)| UserId::parse(user).ok()));
    }
    Ok(users)
}

/// Tells whether somebody who is in a room was in it at a position, and ever since.
fn was_there_since(
    database: &Database,
    room: u32,
    hash: Hash,
    since: u64,
) -> Result<bool, StoreError> {
    let mut next = Some(hash);
    while let Some(hash) = next {
        let Some(record) = read_event(database, room, &hash)? else { return Ok(false) };
        if !is_in(membership_in(database, room, &hash)?) {
            return Ok(false);
        }
        match record.order {
            // What came behind another way says nothing of when it came to be in force.
            None => return Ok(false),
            Some(order) if order.is_history() => return Ok(false),
            Some(order) if order <= Order::live(since.cast_signed()) => return Ok(true),
            Some(_) => next = record.replaces,
        }
    }
    Ok(false)
}

/// Answers [`FindRoommates`] as of `position`.
pub(super) fn roommates(
    database: &Database,
    position: u64,
    ask: FindRoommates,
) -> Result<Roommates, StoreError> {
    let mut wanted = ask.users;
    let mut since: BTreeMap<OwnedUserId, u64> = BTreeMap::new();
    for row in MembershipRow::read_all(database, None) {
        if wanted.is_empty() {
            break;
        }
        let (room, _, own) = row?;
        if own.membership != MembershipState::Join {
            continue;
        }
        let mut found = Vec::new();
        for (user, latest) in &wanted {
            let Some(state) = member(database, room, user.as_str())? else { continue };
            let record = read_event(database, room, &state.hash)?;
            let came = record.and_then(|record| record.order).filter(|order| !order.is_history());
            let came = came.map_or(0, |order| order.position).max(own.order);
            let came = u64::try_from(came).unwrap_or(0);
            let earliest = since.entry(user.clone()).or_insert(came);
            *earliest = came.min(*earliest);
            if *earliest <= *latest {
                found.push(user.clone());
            }
        }
        for user in found {
            wanted.remove(&user);
        }
    }
    Ok(Roommates { position, since })
}

/// Answers [`ReadServersOf`]: the servers of who is in a joined room of the user, or invited to one.
pub(super) fn servers_of(
    database: &Database,
    ask: &ReadServersOf,
) -> Result<BTreeSet<OwnedServerName>, StoreError> {
    let mut found = BTreeSet::new();
    for row in MembershipRow::read_all(database, None) {
        let (room, user, own) = row?;
        match own.membership {
            _ if user != ask.user_id => {}
            MembershipState::Join => {
                found.extend(servers(database, room)?);
                if Counts::read(database, room)?.invited > 0 {
                    let users = members(database, room)?;
                    found.extend(users.into_iter().map(|(user, _)| user.server_name().to_owned()));
                }
            }
            MembershipState::Invite if ask.inviters => {
                let invite = InviteRow::read(database, room, &user)?;
                found.extend(invite.and_then(|invite| invite.via.into_iter().next()));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Answers [`ReadServersWith`](super::ReadServersWith).
pub(super) fn servers_with(
    database: &Database,
    user_id: &UserId,
) -> Result<BTreeSet<OwnedServerName>, StoreError> {
    let (mut found, mut last) = (BTreeSet::new(), None);
    for row in MembershipRow::read_all(database, None) {
        let (room, _, own) = row?;
        if own.membership != MembershipState::Join || last == Some(room) {
            continue;
        }
        last = Some(room);
        if member(database, room, user_id.as_str())?.is_some() {
            found.extend(servers(database, room)?);
        }
    }
    Ok(found)
}
