//! From the method and path of a verified request to a typed query: the allow-list.
//!
//! Paths and bodies are read by ruma's types of the Server-Server API. What is not in the list
//! does not exist; there is no way from here to the client API.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    api::{
        IncomingRequest, IncomingRequestExt as _,
        federation::{
            authorization::get_event_authorization,
            backfill::get_backfill,
            device::get_devices,
            directory::{get_public_rooms, get_public_rooms_filtered},
            event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
            keys::{claim_keys, get_keys},
            membership::{
                create_invite, create_join_event, create_leave_event, prepare_join_event,
                prepare_leave_event,
            },
            query::{get_profile_information, get_room_information},
            space::get_hierarchy,
            transactions::send_transaction_message,
        },
        path_builder::PathBuilder as _,
    },
    directory::Filter,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    actors::{
        device_keys::KeysQuery,
        room::{Given, RoomQuery},
        room_directory::DirectoryQuery,
    },
    config::limits,
    proto::{
        endpoint,
        heads::Gap,
        media::MediaName,
        room_key::KeyId,
        sealed::{self, Parcel},
        server_name,
        signed::Request,
    },
};

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Query {
    /// Something of a room.
    Room(OwnedRoomId, RoomQuery),
    /// The profile of our user.
    Profile(OwnedUserId),
    /// How rooms of ours are found.
    Directory(DirectoryQuery),
    /// Whether we have some media; with the list of its pieces.
    Media(MediaName, bool),
    /// A piece of media, by ticket and number.
    MediaPiece(String, u64),
    /// Keys of devices of our users.
    Keys(KeysQuery),
    /// Our server_keys.
    ServerKeys,
    /// Where the heads of these rooms differ from the origin's, of which these are fingerprints.
    Heads(BTreeMap<OwnedRoomId, String>),
    /// Events of these rooms that the origin lacks.
    Missing(BTreeMap<OwnedRoomId, Gap>),
    /// Ids of events of these rooms that the origin lacks.
    MissingIds(BTreeMap<OwnedRoomId, Gap>),
    /// These events.
    Events(BTreeMap<OwnedRoomId, Vec<OwnedEventId>>),
    /// The server_keys of another server, of one of its verify keys or the newest, as far as we know
    /// them.
    ServerKeysOf(OwnedServerName, Option<String>),
    /// A sealed request for us, or for another server.
    Carry(OwnedServerName, Parcel),
    /// PDUs and EDUs that were not gossiped.
    Transaction(Transaction),
}

/// The body of a `send`.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) pdus: Vec<Box<RawValue>>,
    pub(super) edus: Vec<Box<RawValue>>,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RouteError {
    /// No such endpoint.
    Unrecognized,
    /// The endpoint is there; what it was given is not right.
    Malformed(String),
}

/// Returns who is invited by an event.
fn invited(event: &RawValue) -> Result<OwnedUserId, RouteError> {
    #[derive(Deserialize)]
    struct Event {
        state_key: OwnedUserId,
    }
    let event: Event = serde_json::from_str(event.get())
        .map_err(|error| RouteError::Malformed(format!("nobody is invited: {error}")))?;
    Ok(event.state_key)
}

/// Reads a request as `T`, if its method and path are those of `T`.
fn read<T: IncomingRequest>(request: &Request, body: &[u8]) -> Option<Result<T, RouteError>> {
    if T::METHOD.as_str() != request.method {
        return None;
    }
    let path = request.uri.split('?').next().unwrap_or_default();
    let arguments = T::PATH_BUILDER.all_paths().find_map(|pattern| arguments(pattern, path))?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let read = http::Request::builder()
        .method(request.method.as_str())
        .uri(request.uri.as_str())
        .body(body)
        .map_err(|error| RouteError::Malformed(error.to_string()))
        .and_then(|request| {
            T::try_from_http_request(request, &arguments)
                .map_err(|error| RouteError::Malformed(error.to_string()))
        });
    Some(read)
}

/// Returns the decoded arguments of a path, if it fits the pattern.
fn arguments(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut arguments = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(arguments),
            (Some(name), Some(value)) if name.starts_with('{') => {
                let value = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
                arguments.push(value.into_owned());
            }
            (Some(name), Some(value)) if name == value => {}
            _ => return None,
        }
    }
}

#[derive(Deserialize)]
struct InviteBody {
    room_version: RoomVersionId,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: Vec<Box<RawValue>>,
    #[serde(default, rename = "messagehub.via")]
    via: Vec<String>,
}

#[derive(Deserialize)]
struct SendBody {
    #[serde(default)]
    pdus: Vec<Box<RawValue>>,
    #[serde(default)]
    edus: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct KeysBody {
    keys: Vec<Given>,
}

#[derive(Deserialize)]
struct KeysQueryBody {
    ids: Vec<KeyId>,
}

#[derive(Deserialize)]
struct MediaBody {
    #[serde(default)]
    pieces: bool,
}

#[derive(Deserialize)]
struct HeadsBody {
    rooms: BTreeMap<OwnedRoomId, String>,
}

#[derive(Deserialize)]
struct MissingBody {
    rooms: BTreeMap<OwnedRoomId, Gap>,
}

#[derive(Deserialize)]
struct EventsBody {
    rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
}

fn body_as<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, RouteError> {
    serde_json::from_slice(body).map_err(|error| RouteError::Malformed(error.to_string()))
}

fn count(limit: impl Into<u64>) -> usize {
    usize::try_from(limit.into()).unwrap_or(usize::MAX)
}

/// Finds out what a request asks for.
pub(super) fn route(request: &Request) -> Result<Query, RouteError> {
    let body = serde_json::to_vec(&request.content)
        .map_err(|error| RouteError::Malformed(error.to_string()))?;
    let body = body.as_slice();
    if let Some(asked) = read::<prepare_join_event::v1::Request>(request, body) {
        let prepare_join_event::v1::Request { room_id, user_id, ver, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::MakeJoin { user_id, versions: ver }));
    }
    if let Some(asked) = read::<create_join_event::v2::Request>(request, body) {
        let create_join_event::v2::Request { room_id, event_id, pdu, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::SendJoin { event_id, pdu }));
    }
    if let Some(asked) = read::<prepare_leave_event::v1::Request>(request, body) {
        let prepare_leave_event::v1::Request { room_id, user_id, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::MakeLeave { user_id }));
    }
    if let Some(asked) = read::<create_leave_event::v2::Request>(request, body) {
        let create_leave_event::v2::Request { room_id, event_id, pdu, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::SendLeave { event_id, pdu }));
    }
    if let Some(asked) = read::<create_invite::v2::Request>(request, body) {
        let create_invite::v2::Request { room_id, event_id, .. } = asked?;
        // ruma's type of the stripped state refuses the whole for one odd event; ours looks at
        // each on its own.
        let InviteBody { room_version, event, invite_room_state, via } = body_as(body)?;
        let query = RoomQuery::Invite {
            user_id: invited(&event)?,
            event_id,
            pdu: event,
            version: room_version,
            stripped_state: invite_room_state,
            via: servers_of(via),
        };
        return Ok(Query::Room(room_id, query));
    }
    if let Some(asked) = read::<get_backfill::v1::Request>(request, body) {
        let get_backfill::v1::Request { room_id, v, limit, .. } = asked?;
        let query = RoomQuery::Backfill { from: v, limit: count(limit) };
        return Ok(Query::Room(room_id, query));
    }
    if let Some(asked) = read::<get_missing_events::v1::Request>(request, body) {
        let get_missing_events::v1::Request {
            room_id, earliest_events, latest_events, limit, ..
        } = asked?;
        let (earliest, latest) = (earliest_events, latest_events);
        let query = RoomQuery::MissingEvents { earliest, latest, limit: count(limit) };
        return Ok(Query::Room(room_id, query));
    }
    if let Some(asked) = read::<get_room_state_ids::v1::Request>(request, body) {
        let get_room_state_ids::v1::Request { room_id, event_id, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::StateIds { event_id }));
    }
    if let Some(asked) = read::<get_room_state::v1::Request>(request, body) {
        let get_room_state::v1::Request { room_id, event_id, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::State { event_id }));
    }
    if let Some(asked) = read::<get_event_authorization::v1::Request>(request, body) {
        let get_event_authorization::v1::Request { room_id, event_id, .. } = asked?;
        return Ok(Query::Room(room_id, RoomQuery::EventAuth { event_id }));
    }
    if let Some(asked) = read::<get_profile_information::v1::Request>(request, body) {
        return Ok(Query::Profile(asked?.user_id));
    }
    if let Some(asked) = read::<get_room_information::v1::Request>(request, body) {
        return Ok(Query::Directory(DirectoryQuery::Alias(asked?.room_alias)));
    }
    if let Some(asked) = read::<get_public_rooms::v1::Request>(request, body) {
        let get_public_rooms::v1::Request { limit, since, .. } = asked?;
        let (filter, limit) = (Filter::new(), limit.map(Into::into));
        return Ok(Query::Directory(DirectoryQuery::PublicRooms { filter, limit, since }));
    }
    if let Some(asked) = read::<get_public_rooms_filtered::v1::Request>(request, body) {
        let get_public_rooms_filtered::v1::Request { limit, since, filter, .. } = asked?;
        let limit = limit.map(Into::into);
        return Ok(Query::Directory(DirectoryQuery::PublicRooms { filter, limit, since }));
    }
    if let Some(asked) = read::<get_hierarchy::v1::Request>(request, body) {
        let get_hierarchy::v1::Request { room_id, suggested_only, .. } = asked?;
        return Ok(Query::Directory(DirectoryQuery::Hierarchy { room_id, suggested_only }));
    }
    if let Some(asked) = read::<get_devices::v1::Request>(request, body) {
        return Ok(Query::Keys(KeysQuery::Devices(asked?.user_id)));
    }
    if let Some(asked) = read::<get_keys::v1::Request>(request, body) {
        let asked = asked?.device_keys.into_iter().map(|(user_id, devices)| {
            (user_id, devices.into_iter().map(|device| device.to_string()).collect())
        });
        return Ok(Query::Keys(KeysQuery::Keys(asked.collect())));
    }
    if let Some(asked) = read::<claim_keys::v1::Request>(request, body) {
        let asked = asked?.one_time_keys.into_iter().map(|(user_id, devices)| {
            let devices = devices.into_iter();
            let devices = devices.map(|(device, name)| (device.to_string(), name.to_string()));
            (user_id, devices.collect())
        });
        return Ok(Query::Keys(KeysQuery::Claim(asked.collect())));
    }
    if let Some(asked) = read::<send_transaction_message::v1::Request>(request, body) {
        asked?;
        let SendBody { pdus, edus } = body_as(body)?;
        return Ok(Query::Transaction(Transaction { pdus, edus }));
    }
    if let Some(asked) = read::<get_event::v1::Request>(request, body) {
        let get_event::v1::Request { event_id, .. } = asked?;
        return Ok(Query::Room(room_of_query(request)?, RoomQuery::Event { event_id }));
    }
    ours(request, body)
}

/// Returns the names that a server can have, as many as an invite is kept with.
fn servers_of(names: Vec<String>) -> Vec<OwnedServerName> {
    let server = |name: String| {
        OwnedServerName::try_from(name).ok().filter(|name| server_name::digest(name).is_ok())
    };
    names.into_iter().take(limits::INVITE_VIA).filter_map(server).collect()
}

/// Returns an argument of the query.
fn of_query(request: &Request, name: &str) -> Option<String> {
    let query = request.uri.split_once('?').map_or("", |(_, query)| query);
    let mut arguments = url::form_urlencoded::parse(query.as_bytes());
    arguments.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A node knows events by their room, so a request for one names it: `event/{id}?room_id=…`.
fn room_of_query(request: &Request) -> Result<OwnedRoomId, RouteError> {
    of_query(request, "room_id")
        .and_then(|value| OwnedRoomId::try_from(value).ok())
        .ok_or_else(|| RouteError::Malformed("the query names no room_id".to_owned()))
}

/// The requests that the Server-Server API does not have, or that need no more than their path.
fn ours(request: &Request, body: &[u8]) -> Result<Query, RouteError> {
    let path = request.uri.split('?').next().unwrap_or_default();
    let is = |method: &str, pattern: &str| {
        (request.method == method).then(|| arguments(pattern, path)).flatten()
    };
    if is("GET", endpoint::OWN_SERVER_KEYS).is_some() {
        return Ok(Query::ServerKeys);
    }
    let room = |arguments: Vec<String>| {
        let room_id = arguments.first().and_then(|id| OwnedRoomId::try_from(id.as_str()).ok());
        room_id.ok_or_else(|| RouteError::Malformed("no room id".to_owned()))
    };
    if let Some(arguments) = is("PUT", "/_messagehub/federation/v1/room_keys/{room_id}") {
        let KeysBody { keys } = body_as(body)?;
        return Ok(Query::Room(room(arguments)?, RoomQuery::TakeKeys { keys }));
    }
    if let Some(arguments) = is("POST", "/_messagehub/federation/v1/room_keys/{room_id}/query") {
        let KeysQueryBody { ids } = body_as(body)?;
        return Ok(Query::Room(room(arguments)?, RoomQuery::FindKeys { ids }));
    }
    if is("POST", endpoint::HEADS).is_some() {
        let HeadsBody { rooms } = body_as(body)?;
        if rooms.len() > limits::HEADS_ROOMS {
            return Err(RouteError::Malformed("too many rooms".to_owned()));
        }
        return Ok(Query::Heads(rooms));
    }
    if is("POST", endpoint::MISSING_EVENTS).is_some() {
        let MissingBody { rooms } = body_as(body)?;
        if rooms.len() > limits::HEADS_ROOMS {
            return Err(RouteError::Malformed("too many rooms".to_owned()));
        }
        return Ok(Query::Missing(rooms));
    }
    if is("POST", endpoint::MISSING_IDS).is_some() {
        let MissingBody { rooms } = body_as(body)?;
        if rooms.len() > limits::HEADS_ROOMS {
            return Err(RouteError::Malformed("too many rooms".to_owned()));
        }
        return Ok(Query::MissingIds(rooms));
    }
    if is("POST", endpoint::EVENTS).is_some() {
        let EventsBody { rooms } = body_as(body)?;
        let events: usize = rooms.values().map(Vec::len).sum();
        if rooms.len() > limits::HEADS_ROOMS || events > limits::MISSING_EVENTS {
            return Err(RouteError::Malformed("too many rooms or events".to_owned()));
        }
        return Ok(Query::Events(rooms));
    }
    let server = |arguments: Vec<String>| {
        let name = arguments.first().map(String::as_str).unwrap_or_default();
        sealed::destination(name).map_err(|error| RouteError::Malformed(error.to_string()))
    };
    if let Some(arguments) = is("GET", "/_messagehub/federation/v1/server_keys/{server_name}") {
        return Ok(Query::ServerKeysOf(server(arguments)?, of_query(request, "verify_key")));
    }
    if let Some(arguments) = is("GET", "/_messagehub/federation/v1/keys/{server_name}") {
        let server = server(arguments)?;
        let user_id = of_query(request, "user_id").map(OwnedUserId::try_from).transpose();
        let user_id = user_id.map_err(|error| RouteError::Malformed(error.to_string()))?;
        if user_id.as_ref().is_some_and(|user_id| user_id.server_name() != server) {
            return Err(RouteError::Malformed("it is another server's user".to_owned()));
        }
        return Ok(Query::Keys(KeysQuery::Bundles(server, user_id)));
    }
    if let Some(arguments) = is("POST", "/_messagehub/federation/v1/media/{server}/{media_id}") {
        let MediaBody { pieces } = body_as(body)?;
        let argument = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
        let name = MediaName::read(argument(0), argument(1));
        let name = name.map_err(|error| RouteError::Malformed(error.to_string()))?;
        return Ok(Query::Media(name, pieces));
    }
    if let Some(arguments) = is("GET", "/_messagehub/federation/v1/media_piece/{ticket}") {
        let piece = of_query(request, "piece").and_then(|piece| piece.parse().ok());
        let piece = piece.ok_or_else(|| RouteError::Malformed("no piece is named".to_owned()))?;
        return Ok(Query::MediaPiece(arguments.into_iter().next().unwrap_or_default(), piece));
    }
    if let Some(arguments) = is("PUT", "/_messagehub/federation/v1/carry/{destination}") {
        return Ok(Query::Carry(server(arguments)?, body_as(body)?));
    }
    Err(RouteError::Unrecognized)
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonValue, OwnedRoomAliasId};
    use serde_json::json;

    use super::*;
    use crate::proto::{endpoint::Endpoint, pdu::ROOM_VERSIONS, server_keys::tests::secret_keys};

    fn ask(method: &str, uri: &str, body: serde_json::Value) -> Result<Query, RouteError> {
        route(&Request {
            method: method.into(),
            uri: uri.into(),
            origin: "x".try_into().unwrap(),
            destination: "y".into(),
            origin_server_ts: 0,
            request_id: "1".into(),
            content: CanonicalJsonValue::try_from(body).unwrap(),
        })
    }

    #[test]
    fn fuzz_routes() {
        let f = "/_matrix/federation";
        let ours = "/_messagehub/federation/v1";
        let pdu = json!({"type": "m.room.member", "state_key": "@a:x"});
        let good = [
            ("GET", format!("{f}/v1/make_join/!r:x/@a:x?ver=11&ver=12"), json!({})),
            ("PUT", format!("{f}/v2/send_join/!r:x/$e"), pdu.clone()),
            (
                "PUT",
                format!("{f}/v2/invite/!r:x/$e"),
                json!({"room_version": "12", "event": pdu, "invite_room_state": [pdu]}),
            ),
            ("GET", format!("{f}/v1/backfill/!r:x?v=$e&limit=10"), json!({})),
            (
                "POST",
                format!("{f}/v1/get_missing_events/!r:x"),
                json!({"earliest_events": [], "latest_events": ["$e"], "limit": 5}),
            ),
            ("GET", format!("{f}/v1/event/$e?room_id=!r:x"), json!({})),
            ("GET", format!("{f}/v1/query/profile?user_id=@a:x"), json!({})),
            ("PUT", format!("{f}/v1/send/1"), json!({"pdus": [pdu], "edus": [{"edu_type": "x"}]})),
            ("GET", format!("{f}/v1/user/devices/@a:x"), json!({})),
            ("POST", format!("{f}/v1/user/keys/query"), json!({"device_keys": {"@a:x": ["D"]}})),
            (
                "POST",
                format!("{f}/v1/user/keys/claim"),
                json!({"one_time_keys": {"@a:x": {"D": "signed_curve25519"}}}),
            ),
            ("POST", endpoint::HEADS.to_owned(), json!({"rooms": {"!r:x": "abc"}})),
            (
                "POST",
                endpoint::MISSING_EVENTS.to_owned(),
                json!({"rooms": {"!r:x": {"have": ["$a"], "want": []}}}),
            ),
            (
                "POST",
                endpoint::MISSING_IDS.to_owned(),
                json!({"rooms": {"!r:x": {"earliest_events": ["$a"], "latest_events": ["$b"]}}}),
            ),
            ("POST", endpoint::EVENTS.to_owned(), json!({"rooms": {"!r:x": ["$a", "$b"]}})),
            ("GET", format!("{ours}/keys/x?user_id=@a:x"), json!({})),
            ("PUT", format!("{ours}/room_keys/!r:x"), json!({"keys": [{"secret": "AAAA"}]})),
            ("PUT", format!("{ours}/carry/x"), json!({"hops": 1, "sealed": "AAAA"})),
        ];
        let good = good.into_iter().map(|(method, uri, body)| json!([method, uri, body]));
        crate::fuzz::json("routes", good.collect(), |value| {
            let text = |at: usize| value[at].as_str().unwrap_or_default().to_owned();
            let content = value.get(2).cloned().unwrap_or_default();
            let Ok(content) = CanonicalJsonValue::try_from(content) else {
                return "no canonical JSON".to_owned();
            };
            let request = Request {
                method: text(0),
                uri: text(1),
                origin: "x".try_into().unwrap(),
                destination: "y".into(),
                origin_server_ts: 0,
                request_id: "1".into(),
                content,
            };
            match route(&request) {
                Ok(query) => format!("{query:?}").chars().take(24).collect(),
                Err(error) => format!("{error:?}"),
            }
        });
    }

    #[test]
    fn whatever_we_ask_of_others_is_in_the_list() {
        let room: OwnedRoomId = "!r:x".try_into().unwrap();
        let event: OwnedEventId = "$e+/%20".try_into().unwrap();
        let user: OwnedUserId = "@a/b?c=d&e%20:x".try_into().unwrap();
        let name = secret_keys(1).server_name();
        let found = |endpoint: Endpoint, body: serde_json::Value| {
            let found = ask(endpoint.method, &endpoint.uri, body);
            found.unwrap_or_else(|error| panic!("{endpoint}: {error:?}"))
        };
        let of_room = |endpoint: Endpoint, body: serde_json::Value| match found(endpoint, body) {
            Query::Room(of, query) if of == room => query,
            other => panic!("{other:?}"),
        };
        let member = json!({"type": "m.room.member", "state_key": user});
        let nothing = || json!({});
        assert!(matches!(
            of_room(Endpoint::make_join(&room, &user), nothing()),
            RoomQuery::MakeJoin { user_id, versions }
                if user_id == user && versions.len() == ROOM_VERSIONS.len()
        ));
        assert!(matches!(
            of_room(Endpoint::make_leave(&room, &user), nothing()),
            RoomQuery::MakeLeave { user_id } if user_id == user
        ));
        assert!(matches!(
            of_room(Endpoint::send_join(&room, &event), member.clone()),
            RoomQuery::SendJoin { .. }
        ));
        assert!(matches!(
            of_room(Endpoint::send_leave(&room, &event), member.clone()),
            RoomQuery::SendLeave { .. }
        ));
        let invite = json!({"room_version": "12", "event": member, "invite_room_state": []});
        assert!(matches!(
            of_room(Endpoint::invite(&room, &event), invite),
            RoomQuery::Invite { .. }
        ));
        assert!(matches!(
            of_room(Endpoint::event(&room, &event), nothing()),
            RoomQuery::Event { event_id } if event_id == event
        ));
        assert!(matches!(
            of_room(Endpoint::event_auth(&room, &event), nothing()),
            RoomQuery::EventAuth { event_id } if event_id == event
        ));
        assert!(matches!(
            of_room(Endpoint::state_ids(&room, &event), nothing()),
            RoomQuery::StateIds { event_id } if event_id == event
        ));
        assert!(matches!(
            of_room(Endpoint::state(&room, &event), nothing()),
            RoomQuery::State { event_id } if event_id == event
        ));
        let before = vec![event.clone(), "$other".try_into().unwrap()];
        assert!(matches!(
            of_room(Endpoint::backfill(&room, &before, 10), nothing()),
            RoomQuery::Backfill { from, limit: 10 } if from == before
        ));
        let gap = json!({"earliest_events": [], "latest_events": [event], "limit": 5});
        assert!(matches!(
            of_room(Endpoint::get_missing_events(&room), gap),
            RoomQuery::MissingEvents { latest, .. } if latest == [event]
        ));
        assert!(matches!(
            of_room(Endpoint::room_keys(&room), json!({"keys": []})),
            RoomQuery::TakeKeys { .. }
        ));
        assert!(matches!(
            of_room(Endpoint::room_keys_query(&room), json!({"ids": ["1fXwhac8v7StirecZZKr2w"]})),
            RoomQuery::FindKeys { ids } if ids.len() == 1
        ));

        assert!(matches!(
            found(Endpoint::profile(&user), nothing()),
            Query::Profile(user_id) if user_id == user
        ));
        let alias: OwnedRoomAliasId = "#a/b?c=d&e%20:x".try_into().unwrap();
        assert!(matches!(
            found(Endpoint::directory(&alias), nothing()),
            Query::Directory(DirectoryQuery::Alias(asked)) if asked == alias
        ));
        let filter = json!({"limit": 7, "filter": {"generic_search_term": "tea"}});
        assert!(matches!(
            found(Endpoint::public_rooms(), filter),
            Query::Directory(DirectoryQuery::PublicRooms { filter, limit: Some(7), since: None })
                if filter.generic_search_term.as_deref() == Some("tea")
        ));
        let all = ask("GET", "/_matrix/federation/v1/publicRooms?limit=3", nothing());
        assert!(matches!(
            all,
            Ok(Query::Directory(DirectoryQuery::PublicRooms { limit: Some(3), .. }))
        ));
        assert!(matches!(
            found(Endpoint::hierarchy(&room), nothing()),
            Query::Directory(DirectoryQuery::Hierarchy { room_id, suggested_only: false })
                if room_id == room
        ));
        let transaction = json!({"origin": "x", "origin_server_ts": 1, "pdus": [], "edus": []});
        assert!(matches!(found(Endpoint::send(1), transaction), Query::Transaction(_)));
        assert!(matches!(found(Endpoint::own_server_keys(), nothing()), Query::ServerKeys));
        assert!(matches!(
            found(Endpoint::server_keys(&name), nothing()),
            Query::ServerKeysOf(server, None) if server == name
        ));
        assert!(matches!(
            found(Endpoint::server_keys_of_key(&name, "ed25519:12ab34cd"), nothing()),
            Query::ServerKeysOf(server, Some(id)) if server == name && id == "ed25519:12ab34cd"
        ));
        assert!(matches!(
            found(Endpoint::media(&name, "a-b_c"), json!({"pieces": true})),
            Query::Media(media, true) if media.server_name == name && media.media_id == "a-b_c"
        ));
        assert!(matches!(
            found(Endpoint::media_piece("dGlja2V0", 7), nothing()),
            Query::MediaPiece(ticket, 7) if ticket == "dGlja2V0"
        ));
        let parcel = json!({"hops": 1, "sealed": "AAAA", "expires_ts": 1, "wait_ms": 1});
        assert!(matches!(
            found(Endpoint::carry(&name), parcel.clone()),
            Query::Carry(server, parcel)
                if server == name && parcel.hops == 1 && parcel.sealed.as_bytes() == [0; 3]
        ));
        let elsewhere: OwnedServerName = "example.org".try_into().unwrap();
        for (endpoint, body) in
            [(Endpoint::carry(&name), json!({"hops": 1})), (Endpoint::carry(&elsewhere), parcel)]
        {
            let refused = ask(endpoint.method, &endpoint.uri, body);
            assert!(matches!(refused, Err(RouteError::Malformed(_))), "{endpoint}");
        }
        assert!(matches!(
            found(Endpoint::user_devices(&user), nothing()),
            Query::Keys(KeysQuery::Devices(user_id)) if user_id == user
        ));
        let claim = json!({"one_time_keys": {"@a:x": {"D": "signed_curve25519"}}});
        assert!(matches!(
            found(Endpoint::claim_keys(), claim),
            Query::Keys(KeysQuery::Claim(claims)) if claims.len() == 1
        ));
        let ann: OwnedUserId = format!("@a/b?c=d&e%20:{name}").try_into().unwrap();
        for user_id in [None, Some(ann)] {
            let asked = found(Endpoint::key_bundles(&name, user_id.as_deref()), nothing());
            assert!(matches!(
                asked,
                Query::Keys(KeysQuery::Bundles(server, of)) if server == name && of == user_id
            ));
        }
        let other = Endpoint::key_bundles(&name, Some(&user));
        assert!(matches!(ask("GET", &other.uri, nothing()), Err(RouteError::Malformed(_))));
        let query = json!({"device_keys": {"@a:x": ["D"]}});
        let query = ask("POST", "/_matrix/federation/v1/user/keys/query", query);
        assert!(matches!(query, Ok(Query::Keys(KeysQuery::Keys(_)))), "{query:?}");
    }

    #[test]
    fn many_rooms_are_asked_for_at_once_and_not_too_many() {
        let gap = json!({"earliest_events": [], "latest_events": ["$e"]});
        for (endpoint, value) in [
            (Endpoint::heads(), json!("fingerprint")),
            (Endpoint::missing_events(), gap.clone()),
            (Endpoint::missing_ids(), gap),
            (Endpoint::events(), json!(["$e"])),
        ] {
            let rooms = |count| {
                let rooms = (0..count).map(|n| (format!("!r{n}:x"), value.clone()));
                let body = json!({"rooms": rooms.collect::<serde_json::Map<_, _>>()});
                ask(endpoint.method, &endpoint.uri, body)
            };
            let few = rooms(limits::HEADS_ROOMS);
            assert!(
                matches!(
                    few,
                    Ok(Query::Heads(_)
                        | Query::Missing(_)
                        | Query::MissingIds(_)
                        | Query::Events(_))
                ),
                "{endpoint}: {few:?}"
            );
            let many = rooms(limits::HEADS_ROOMS + 1);
            assert!(matches!(many, Err(RouteError::Malformed(_))), "{endpoint}: {many:?}");
        }
    }

    #[test]
    fn nothing_else_exists_and_no_client_api() {
        for (method, uri) in [
            ("GET", "/_matrix/client/v3/sync"),
            ("POST", "/_matrix/client/v3/login"),
            ("GET", "/_matrix/client/versions"),
            ("POST", "/_matrix/federation/v1/make_join/!r:x/@a:x"),
            ("GET", "http://127.0.0.1/_matrix/key/v2/server"),
            ("GET", "/_matrix/federation/v1/../../client/v3/sync"),
            ("GET", ""),
        ] {
            let found = ask(method, uri, json!({}));
            assert_eq!(found.err(), Some(RouteError::Unrecognized), "{method} {uri}");
        }
    }

    #[test]
    fn arguments_are_decoded_once() {
        let found = arguments("/a/{x}/b", "/a/%40u%252F%2F/b").unwrap();
        assert_eq!(found, ["@u%2F/"]);
        assert!(arguments("/a/{x}/b", "/a/x/y/b").is_none());
    }
}
