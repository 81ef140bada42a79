//! Asking other servers what they know of rooms.

use std::time::Duration;

use ruma::{
    CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomId, ServerName,
    canonical_json::to_canonical_value, directory::Filter, room::RoomSummary,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

use super::{
    actor::RoomDirectoryLinks,
    messages::{DirectoryError, Found, PublicRooms},
};
use crate::{
    actors::{
        error::AskError,
        upward::{FederationError, SendFederation},
    },
    config::limits,
    proto::{endpoint::Endpoint, server_name},
};

/// Longest wait for one server.
const WAIT: Duration = Duration::from_secs(8);

/// What another server tells of a room.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) summary: RoomSummary,
    pub(super) children: Vec<Box<RawValue>>,
    /// What it tells of the rooms that the room holds.
    pub(super) of_children: Vec<RoomSummary>,
}

impl RoomDirectoryLinks {
    async fn ask_server<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        endpoint: Endpoint,
        content: Value,
    ) -> Result<T, DirectoryError> {
        let bad = |why: String| FederationError::BadAnswer { server: server.to_owned(), why };
        let content = to_canonical_value(content).map_err(|error| bad(error.to_string()))?;
        let send =
            SendFederation { destination: server.to_owned(), endpoint, content, timeout: WAIT };
        let answer = self.federation.send(send).await.map_err(AskError::from)?;
        let answer: CanonicalJsonValue = match answer {
            Err(FederationError::Refused { status: 404, .. }) => {
                return Err(DirectoryError::NotFound("room or alias"));
            }
            answer => answer?,
        };
        serde_json::from_value(answer.into()).map_err(|error| bad(error.to_string()).into())
    }

    /// Asks where an alias of another server leads.
    pub(super) async fn find_elsewhere(
        &self,
        alias: &OwnedRoomAliasId,
    ) -> Result<Found, DirectoryError> {
        let server = alias.server_name();
        let unknown = DirectoryError::NotFound("alias: no node has the name of its server");
        server_name::digest(server).map_err(|_| unknown)?;
        let mut found: Found =
            self.ask_server(server, Endpoint::directory(alias), json!({})).await?;
        found.servers.retain(|server| server_name::digest(server).is_ok());
        found.servers.truncate(limits::INVITE_VIA);
        if !found.servers.iter().any(|known| known == server) {
            found.servers.push(server.to_owned());
        }
        Ok(found)
    }

    /// Asks for the public rooms of another server.
    pub(super) async fn list_elsewhere(
        &self,
        server: &ServerName,
        filter: Filter,
        limit: Option<u64>,
        since: Option<String>,
    ) -> Result<PublicRooms, DirectoryError> {
        #[derive(Serialize)]
        struct Ask {
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            since: Option<String>,
            filter: Filter,
        }
        let unknown = DirectoryError::NotFound("server");
        server_name::digest(server).map_err(|_| unknown)?;
        let limit = limit.map(|limit| limit.min(limits::PAGE as u64));
        let ask = serde_json::to_value(Ask { limit, since, filter }).unwrap_or_default();
        let mut page: PublicRooms = self.ask_server(server, Endpoint::public_rooms(), ask).await?;
        page.chunk.truncate(limits::PAGE);
        Ok(page)
    }

    /// Asks one server after another what a room shows.
    pub(super) async fn card_elsewhere(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Option<Told> {
        for server in via.iter().take(limits::CARD_SERVERS) {
            if server_name::digest(server).is_err() {
                continue;
            }
            let asked = self.ask_server(server, Endpoint::hierarchy(room_id), json!({})).await;
            match asked.map(read_told) {
                Ok(Some(told)) if told.summary.room_id == room_id => return Some(told),
                Ok(_) => log::debug!("{server} tells of {room_id} what makes no sense"),
                Err(error) => log::debug!("{server} tells nothing of {room_id}: {error}"),
            }
        }
        None
    }
}

/// Reads what a server tells of a room, and leaves out what makes no sense.
fn read_told(answer: Value) -> Option<Told> {
    #[derive(Deserialize)]
    struct Answer {
        room: Value,
        #[serde(default)]
        children: Vec<Value>,
    }
    let Answer { room, children } = serde_json::from_value(answer).ok()?;
    let held = room.get("children_state").and_then(Value::as_array).cloned().unwrap_or_default();
    let held = held.into_iter().filter(|child| child_of(child).is_some());
    let held = held.take(limits::SPACE_CHILDREN);
    Some(Told {
        summary: serde_json::from_value(room).ok()?,
        children: held.filter_map(|child| serde_json::value::to_raw_value(&child).ok()).collect(),
        of_children: children
            .into_iter()
            .take(limits::SPACE_CHILDREN)
            .filter_map(|child| serde_json::from_value(child).ok())
            .collect(),
    })
}

/// What a space says of a room that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) room_id: OwnedRoomId,
    pub(super) via: Vec<OwnedServerName>,
    pub(super) suggested: bool,
    order: Option<String>,
    since: u64,
}

impl Child {
    /// In which order rooms of a space are shown (v1.2, "Ordering of children within a space").
    pub(super) fn place(&self) -> impl Ord + use<> {
        let Self { order, since, room_id, .. } = self.clone();
        (order.is_none(), order, since, room_id)
    }
}

/// Reads an `m.space.child` event.
pub(super) fn child_of(event: &Value) -> Option<Child> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        state_key: OwnedRoomId,
        #[serde(default)]
        origin_server_ts: u64,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        via: Vec<String>,
        #[serde(default)]
        order: Value,
        #[serde(default)]
        suggested: Value,
    }
    let event: Event = serde_json::from_value(event.clone()).ok()?;
    let via = event.content.via.into_iter().filter_map(|server| server.try_into().ok());
    let via: Vec<OwnedServerName> = via.take(limits::INVITE_VIA).collect();
    if event.kind != "m.space.child" || via.is_empty() {
        return None;
    }
    // An order is up to 50 printable characters; any other one is none.
    let order = event.content.order.as_str().filter(|order| {
        order.len() <= 50 && order.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    });
    Some(Child {
        room_id: event.state_key,
        via,
        suggested: event.content.suggested == Value::Bool(true),
        order: order.map(ToOwned::to_owned),
        since: event.origin_server_ts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(room: &str, ts: u64, content: Value) -> Value {
        json!({
            "type": "m.space.child", "state_key": room, "origin_server_ts": ts,
            "sender": "@ann:x", "content": content,
        })
    }

    #[test]
    fn rooms_of_a_space_have_an_order() {
        let via = ["x"];
        let mut children: Vec<Child> = [
            child("!none-late:x", 9, json!({"via": via})),
            child("!b:x", 1, json!({"via": via, "order": "b"})),
            child("!none-early:x", 2, json!({"via": via})),
            child("!bad:x", 1, json!({"via": via, "order": "\u{7f}"})),
            child("!a:x", 5, json!({"via": via, "order": "a"})),
        ]
        .iter()
        .map(|event| child_of(event).unwrap())
        .collect();
        children.sort_by_key(Child::place);
        let order: Vec<&str> = children.iter().map(|child| child.room_id.as_str()).collect();
        assert_eq!(order, ["!a:x", "!b:x", "!bad:x", "!none-early:x", "!none-late:x"]);
    }

    #[test]
    fn what_leads_nowhere_is_held_by_no_space() {
        for content in [json!({}), json!({"via": []}), json!({"via": "x"}), json!({"via": [7]})] {
            assert_eq!(child_of(&child("!a:x", 1, content.clone())), None, "{content}");
        }
        assert_eq!(child_of(&child("no room", 1, json!({"via": ["x"]}))), None);
        let mut other = child("!a:x", 1, json!({"via": ["x"]}));
        other["type"] = json!("m.space.parent");
        assert_eq!(child_of(&other), None);
    }

    #[test]
    fn a_liar_tells_little() {
        assert!(read_told(json!({})).is_none());
        assert!(read_told(json!({"room": {"room_id": "!r:x"}})).is_none());
        let room = |id: &str| {
            json!({
                "room_id": id, "num_joined_members": 3, "world_readable": false,
                "guest_can_join": false, "join_rule": "public",
                "children_state": [7, child("!a:x", 1, json!({"via": ["x"]})), {}],
            })
        };
        let told = read_told(json!({"room": room("!r:x"), "children": [room("!a:x"), 7]})).unwrap();
        assert_eq!((told.children.len(), told.of_children.len()), (1, 1));
        let many: Vec<Value> = (0..limits::SPACE_CHILDREN + 9)
            .map(|n| child(&format!("!{n}:x"), 1, json!({"via": ["x"]})))
            .collect();
        let mut flood = room("!r:x");
        flood["children_state"] = json!(many);
        assert_eq!(
            read_told(json!({"room": flood})).unwrap().children.len(),
            limits::SPACE_CHILDREN
        );
    }
}
