//! Cards: what rooms show of themselves to those who are not in them.

use std::collections::BTreeMap;

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, RoomId, UInt,
    room::{JoinRule, JoinRuleSummary, RoomSummary},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Card, StoreError,
    database::Database,
    events::read_event,
    rooms::{RoomInfo, StateRow, room_number, servers},
    schema::{Key, family},
    unread::Counts,
};
use crate::config::limits;

const CHILD: &str = "m.space.child";

/// Reads the content of a place of the current state, where it makes sense.
fn content<T: DeserializeOwned>(
    database: &Database,
    room: u32,
    kind: &str,
) -> Result<Option<T>, StoreError> {
    #[derive(Deserialize)]
    struct Event<T> {
        content: T,
    }
    let Some(row) = StateRow::read(database, room, (kind, ""))? else { return Ok(None) };
    let Some(event) = read_event(database, room, &row.hash)? else { return Ok(None) };
    // Contents are their senders': one that makes no sense says nothing.
    Ok(serde_json::from_str::<Event<T>>(&event.json).ok().map(|event| event.content))
}

/// Reads one field of such a content.
fn field<T: DeserializeOwned>(
    database: &Database,
    room: u32,
    (kind, name): (&str, &str),
) -> Result<Option<T>, StoreError> {
    let fields: Option<BTreeMap<String, serde_json::Value>> = content(database, room, kind)?;
    let value = fields.and_then(|mut fields| fields.remove(name));
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// Answers [`super::ReadCards`] for one room; none where nothing is known of its state.
pub(super) fn read(database: &Database, room_id: &RoomId) -> Result<Option<Card>, StoreError> {
    let Some(room) = room_number(database, room_id)? else { return Ok(None) };
    if StateRow::read(database, room, ("m.room.create", ""))?.is_none() {
        return Ok(None);
    }
    let text = |place| field::<String>(database, room, place);
    let join_rule: Option<JoinRule> = content(database, room, "m.room.join_rules")?;
    // A room without a rule is one that people are invited to.
    let join_rule = join_rule.map_or(JoinRuleSummary::Invite, JoinRuleSummary::from);
    let visibility = text(("m.room.history_visibility", "history_visibility"))?;
    let guests = text(("m.room.guest_access", "guest_access"))?;
    let joined = UInt::try_from(Counts::read(database, room)?.joined).unwrap_or(UInt::MAX);
    let mut summary = RoomSummary::new(
        room_id.to_owned(),
        join_rule,
        guests.as_deref() == Some("can_join"),
        joined,
        visibility.as_deref() == Some("world_readable"),
    );
    summary.name = text(("m.room.name", "name"))?.filter(|name| !name.is_empty());
    summary.topic = text(("m.room.topic", "topic"))?.filter(|topic| !topic.is_empty());
    summary.canonical_alias =
        field::<OwnedRoomAliasId>(database, room, ("m.room.canonical_alias", "alias"))?;
    summary.avatar_url = field::<OwnedMxcUri>(database, room, ("m.room.avatar", "url"))?;
    summary.room_type = field(database, room, ("m.room.create", "type"))?;
    summary.encryption = field(database, room, ("m.room.encryption", "algorithm"))?;
    summary.room_version = Some(RoomInfo::read(database, room)?.version);
    let is_space = summary.room_type == Some(ruma::room::RoomType::Space);
    let children = if is_space { children(database, room)? } else { Vec::new() };
    Ok(Some(Card { summary, servers: servers(database, room)?, children }))
}

/// Reads which rooms a space holds: those that it says a way to.
fn children(database: &Database, room: u32) -> Result<Vec<Box<RawValue>>, StoreError> {
    #[derive(Deserialize)]
    struct Via {
        via: Vec<String>,
    }
    #[derive(Serialize, Deserialize)]
    struct Child<'a> {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        sender: String,
        origin_server_ts: u64,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let mut children = Vec::new();
    let prefix = Key::room(family::STATE, room).text(CHILD).done();
    for row in database.scan_prefix(&prefix).take(limits::SPACE_CHILDREN) {
        let hash = StateRow::decode(&row?.1)?.hash;
        let Some(event) = read_event(database, room, &hash)? else { continue };
        let Ok(child) = serde_json::from_str::<Child<'_>>(&event.json) else { continue };
        let via = serde_json::from_str::<Via>(child.content.get());
        if via.is_ok_and(|content| !content.via.is_empty()) {
            children.push(to_raw_value(&child).map_err(|_| StoreError::Corrupt { what: "child" })?);
        }
    }
    Ok(children)
}
