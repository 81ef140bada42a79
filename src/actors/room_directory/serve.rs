//! What other servers ask of our rooms.

use actix::{Context, Handler, ResponseFuture};
use ruma::{
    CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomId, canonical_json::to_canonical_value,
    room::RoomSummary,
};
use serde_json::{Value, json};

use super::{
    actor::{RoomDirectoryActor, RoomDirectoryLinks},
    hierarchy::children_of,
    list,
    messages::{DirectoryError, DirectoryQuery, ServeDirectory},
    seen,
};
use crate::{actors::store::Card, config::limits};

impl Handler<ServeDirectory> for RoomDirectoryActor {
    type Result = ResponseFuture<Result<CanonicalJsonValue, DirectoryError>>;

    fn handle(&mut self, msg: ServeDirectory, _: &mut Context<Self>) -> Self::Result {
        let ServeDirectory { origin, query } = msg;
        let links = self.links.clone();
        match query {
            DirectoryQuery::Alias(alias) => {
                let room_id = self.aliases.get(&alias).map(|entry| entry.room_id.clone());
                Box::pin(async move {
                    let room_id = room_id.ok_or(DirectoryError::NotFound("alias"))?;
                    let servers = links.servers_in(&room_id).await?;
                    canonical(json!({"room_id": room_id, "servers": servers}))
                })
            }
            DirectoryQuery::PublicRooms { filter, limit, since } => {
                let published = self.aliases.published();
                Box::pin(async move {
                    let rooms = links.summaries(published).await?;
                    let page = list::page(rooms, &filter, limit, since.as_deref())?;
                    canonical(serde_json::to_value(page).unwrap_or_default())
                })
            }
            DirectoryQuery::Hierarchy { room_id, suggested_only } => {
                Box::pin(async move { hierarchy(&links, &origin, room_id, suggested_only).await })
            }
        }
    }
}

/// Numbers with a point, which canonical JSON has none of, are in no such answer.
fn canonical(answer: Value) -> Result<CanonicalJsonValue, DirectoryError> {
    to_canonical_value(answer).map_err(|_| DirectoryError::NotFound("room"))
}

/// Tells whether a room is shown to a server: whose people are in it, or may come in.
async fn is_shown(
    links: &RoomDirectoryLinks,
    origin: &OwnedServerName,
    card: &Card,
) -> Result<bool, DirectoryError> {
    if seen::is_open(&card.summary) || card.servers.contains(origin) {
        return Ok(true);
    }
    let allowed: Vec<OwnedRoomId> =
        seen::allowed(&card.summary).iter().take(limits::CARD_ALLOWED).cloned().collect();
    if allowed.is_empty() {
        return Ok(false);
    }
    let rooms = links.cards(allowed).await?;
    Ok(rooms.iter().any(|room| room.servers.contains(origin)))
}

fn shown(card: &Card, suggested_only: bool) -> Value {
    let mut room = serde_json::to_value(&card.summary).unwrap_or_default();
    let held = card.children.iter().filter_map(|event| serde_json::from_str(event.get()).ok());
    let held = held.filter(|event: &Value| {
        !suggested_only || event.pointer("/content/suggested") == Some(&Value::Bool(true))
    });
    if let Some(room) = room.as_object_mut() {
        room.insert("children_state".to_owned(), held.collect());
    }
    room
}

async fn hierarchy(
    links: &RoomDirectoryLinks,
    origin: &OwnedServerName,
    room_id: OwnedRoomId,
    suggested_only: bool,
) -> Result<CanonicalJsonValue, DirectoryError> {
    let nothing = || DirectoryError::NotFound("room");
    let card = links.cards(vec![room_id]).await?.into_iter().next().ok_or_else(nothing)?;
    // Whether it is not there or not for who asks is nobody's business.
    if !is_shown(links, origin, &card).await? {
        return Err(nothing());
    }
    let held = children_of(&card.children, suggested_only);
    let held = held.into_iter().map(|child| child.room_id).take(limits::SPACE_CHILDREN);
    let (mut children, mut inaccessible): (Vec<RoomSummary>, Vec<OwnedRoomId>) = Default::default();
    for child in links.cards(held.collect()).await? {
        match is_shown(links, origin, &child).await? {
            true => children.push(child.summary),
            false => inaccessible.push(child.summary.room_id),
        }
    }
    canonical(json!({
        "room": shown(&card, suggested_only),
        "children": children,
        "inaccessible_children": inaccessible,
    }))
}

impl RoomDirectoryLinks {
    /// Returns servers through which somebody can come into a room, ours first.
    pub(super) async fn servers_in(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedServerName>, DirectoryError> {
        let card = self.cards(vec![room_id.to_owned()]).await?.into_iter().next();
        let mut servers = card.ok_or(DirectoryError::NotFound("room"))?.servers;
        if let Some(own) = self.own_name().await? {
            servers.sort_by_key(|server| *server != own);
        }
        servers.truncate(limits::INVITE_VIA);
        Ok(servers)
    }
}
