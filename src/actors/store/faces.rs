//! What a room looks like to a person who sees a list of them: its name, and who is in it.
//!
//! Invariant: of each room no more members are read than are named.

use ruma::{OwnedRoomId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::{
    RoomFace, StoreError,
    database::Database,
    events::read_known,
    rooms::{StateRow, room_number},
    schema::{Key, Parts, family, membership_of_code},
    unread::Counts,
};
use crate::config::limits;

const MEMBER: &str = "m.room.member";

/// An event of which the content may name something. It is its sender's: what makes no sense names
/// nothing.
#[derive(Deserialize)]
struct Named {
    content: Names,
}

#[derive(Deserialize)]
struct Names {
    name: Option<String>,
    displayname: Option<String>,
}

/// Answers [`super::ReadFaces`].
pub(super) fn read(
    database: &Database,
    room_ids: Vec<OwnedRoomId>,
) -> Result<Vec<RoomFace>, StoreError> {
    let mut faces = Vec::with_capacity(room_ids.len());
    for room_id in room_ids {
        if let Some(room) = room_number(database, &room_id)? {
            faces.push(face(database, room, room_id)?);
        }
    }
    Ok(faces)
}

fn face(database: &Database, room: u32, room_id: OwnedRoomId) -> Result<RoomFace, StoreError> {
    let named = |row: &StateRow| -> Result<Option<Names>, StoreError> {
        let record = read_known(database, room, &row.hash)?;
        Ok(serde_json::from_str::<Named>(&record.json).ok().map(|named| named.content))
    };
    let name = match StateRow::read(database, room, ("m.room.name", ""))? {
        Some(row) => named(&row)?.and_then(|names| names.name),
        None => None,
    };
    let mut people = Vec::new();
    let prefix = Key::room(family::STATE, room).text(MEMBER).done();
    for row in database.scan_prefix(&prefix) {
        if people.len() >= limits::FACE_PEOPLE {
            break;
        }
        let (key, value) = row?;
        let row = StateRow::decode(&value)?;
        let user = Parts(key.get(prefix.len()..).unwrap_or_default()).text();
        if membership_of_code(row.membership) == Some(MembershipState::Join)
            && let Some(user) = user.and_then(|user| UserId::parse(user).ok())
        {
            people.push((user, named(&row)?.and_then(|names| names.displayname)));
        }
    }
    let joined = Counts::read(database, room)?.joined;
    Ok(RoomFace { room_id, name: name.filter(|name| !name.is_empty()), joined, people })
}
