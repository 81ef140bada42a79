//! Every request that one node makes of another: its method and its path, in one table.
//!
//! What is written here is what `federation/routes.rs` of the other node reads; a test there holds
//! the two together. Arguments are percent-encoded, since people may be called almost anything.

use std::fmt::{self, Display};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ruma::{EventId, RoomAliasId, RoomId, ServerName, UserId};

use super::pdu::ROOM_VERSIONS;

/// What has a meaning in a path or in a query.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'.')
    .add(b'/')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// Where the server_keys of a server are.
pub const OWN_SERVER_KEYS: &str = "/_matrix/key/v2/server";
/// Where the heads of many rooms are compared.
pub const HEADS: &str = "/_messagehub/federation/v1/heads";
/// Where the ids of what is missing in many rooms are.
pub const MISSING_IDS: &str = "/_messagehub/federation/v1/missing_ids";
/// Where events of many rooms are, by id.
pub const EVENTS: &str = "/_messagehub/federation/v1/events";
/// Where what is missing in many rooms is, as the first release has it.
pub const MISSING_EVENTS: &str = "/_messagehub/federation/v1/missing_events";
/// What the path of a transaction begins with.
pub const SEND: &str = "/_matrix/federation/v1/send/";
/// What the path of a request that is carried begins with.
pub const CARRY: &str = "/_messagehub/federation/v1/carry/";
/// What the path of a question for media begins with.
pub const MEDIA: &str = "/_messagehub/federation/v1/media/";
/// What the path of a question for key bundles begins with.
pub const KEY_BUNDLES: &str = "/_messagehub/federation/v1/keys/";
/// What the path of a request for a piece of media begins with.
pub const MEDIA_PIECE: &str = "/_messagehub/federation/v1/media_piece/";
const ANSWER: &str = "/_messagehub/federation/v1/answer/";

/// A method, with a path and its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `GET`, `PUT` or `POST`.
    pub method: &'static str,
    /// Path and query.
    pub uri: String,
}

/// An argument as it stands in a path or in a query.
fn arg(text: &(impl AsRef<str> + ?Sized)) -> impl Display {
    utf8_percent_encode(text.as_ref(), RESERVED)
}

impl Endpoint {
    fn get(uri: impl Into<String>) -> Self {
        Self { method: "GET", uri: uri.into() }
    }

    fn put(uri: impl Into<String>) -> Self {
        Self { method: "PUT", uri: uri.into() }
    }

    fn post(uri: impl Into<String>) -> Self {
        Self { method: "POST", uri: uri.into() }
    }

    /// `make_join`: a template of a join, of any version of rooms that is known here.
    pub fn make_join(room_id: &RoomId, user_id: &UserId) -> Self {
        let versions = ROOM_VERSIONS.map(|version| format!("ver={version}")).join("&");
        let (room_id, user_id) = (arg(room_id), arg(user_id));
        Self::get(format!("/_matrix/federation/v1/make_join/{room_id}/{user_id}?{versions}"))
    }

    /// `send_join`: a join that was made of a template.
    pub fn send_join(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::put(format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}"))
    }

    /// `make_leave`: a template of a leave.
    pub fn make_leave(room_id: &RoomId, user_id: &UserId) -> Self {
        let (room_id, user_id) = (arg(room_id), arg(user_id));
        Self::get(format!("/_matrix/federation/v1/make_leave/{room_id}/{user_id}"))
    }

    /// `send_leave`: a leave that was made of a template.
    pub fn send_leave(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::put(format!("/_matrix/federation/v2/send_leave/{room_id}/{event_id}"))
    }

    /// `invite`: an invite of a user of the server that is asked.
    pub fn invite(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::put(format!("/_matrix/federation/v2/invite/{room_id}/{event_id}"))
    }

    /// `send`: a transaction of PDUs and EDUs.
    pub fn send(txn_id: impl Display) -> Self {
        Self::put(format!("{SEND}{txn_id}"))
    }

    /// `event`: one event. Events are known by their room.
    pub fn event(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::get(format!("/_matrix/federation/v1/event/{event_id}?room_id={room_id}"))
    }

    /// `event_auth`: the auth chain of an event.
    pub fn event_auth(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::get(format!("/_matrix/federation/v1/event_auth/{room_id}/{event_id}"))
    }

    /// `state_ids`: the ids of the state before an event.
    pub fn state_ids(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::get(format!("/_matrix/federation/v1/state_ids/{room_id}?event_id={event_id}"))
    }

    /// `state`: the state before an event.
    pub fn state(room_id: &RoomId, event_id: &EventId) -> Self {
        let (room_id, event_id) = (arg(room_id), arg(event_id));
        Self::get(format!("/_matrix/federation/v1/state/{room_id}?event_id={event_id}"))
    }

    /// `get_missing_events`: what is between events.
    pub fn get_missing_events(room_id: &RoomId) -> Self {
        Self::post(format!("/_matrix/federation/v1/get_missing_events/{}", arg(room_id)))
    }

    /// `backfill`: what is before events.
    pub fn backfill<E: AsRef<EventId>>(room_id: &RoomId, before: &[E], limit: usize) -> Self {
        let mut uri = format!("/_matrix/federation/v1/backfill/{}?", arg(room_id));
        for event_id in before {
            uri.push_str(&format!("v={}&", arg(event_id.as_ref())));
        }
        uri.push_str(&format!("limit={limit}"));
        Self::get(uri)
    }

    /// `query/profile`: how somebody is called.
    pub fn profile(user_id: &UserId) -> Self {
        Self::get(format!("/_matrix/federation/v1/query/profile?user_id={}", arg(user_id)))
    }

    /// `query/directory`: where an alias leads.
    pub fn directory(alias: &RoomAliasId) -> Self {
        Self::get(format!("/_matrix/federation/v1/query/directory?room_alias={}", arg(alias)))
    }

    /// `publicRooms`: a page of the public rooms of a server.
    pub fn public_rooms() -> Self {
        Self::post("/_matrix/federation/v1/publicRooms")
    }

    /// `hierarchy`: what a room shows of itself, and which rooms it holds.
    pub fn hierarchy(room_id: &RoomId) -> Self {
        Self::get(format!("/_matrix/federation/v1/hierarchy/{}", arg(room_id)))
    }

    /// `user/devices`: the keys of all devices of somebody.
    pub fn user_devices(user_id: &UserId) -> Self {
        Self::get(format!("/_matrix/federation/v1/user/devices/{}", arg(user_id)))
    }

    /// Asks for the key bundles of users of a server: any server may have them.
    pub fn key_bundles(server: &ServerName, user_id: Option<&UserId>) -> Self {
        let query = user_id.map(|user_id| format!("?user_id={}", arg(user_id)));
        Self::get(format!("{KEY_BUNDLES}{}{}", arg(server), query.unwrap_or_default()))
    }

    /// `user/keys/claim`: one-time keys of devices.
    pub fn claim_keys() -> Self {
        Self::post("/_matrix/federation/v1/user/keys/claim")
    }

    /// Hands room keys over.
    pub fn room_keys(room_id: &RoomId) -> Self {
        Self::put(format!("/_messagehub/federation/v1/room_keys/{}", arg(room_id)))
    }

    /// Asks for room keys.
    pub fn room_keys_query(room_id: &RoomId) -> Self {
        Self::post(format!("/_messagehub/federation/v1/room_keys/{}/query", arg(room_id)))
    }

    /// Compares the heads of many rooms.
    pub fn heads() -> Self {
        Self::post(HEADS)
    }

    /// Asks for the ids of what is missing in many rooms.
    pub fn missing_ids() -> Self {
        Self::post(MISSING_IDS)
    }

    /// Asks for events of many rooms by their ids.
    pub fn events() -> Self {
        Self::post(EVENTS)
    }

    /// Asks for what is missing in many rooms, as the first release does.
    pub fn missing_events() -> Self {
        Self::post(MISSING_EVENTS)
    }

    /// Asks a server for those of its own server_keys that are the newest.
    pub fn own_server_keys() -> Self {
        Self::get(OWN_SERVER_KEYS)
    }

    /// Asks for the newest server_keys of a third server.
    pub fn server_keys(server: &ServerName) -> Self {
        Self::get(format!("/_messagehub/federation/v1/server_keys/{}", arg(server)))
    }

    /// Asks for the server_keys of one verify key of a server. A node of the first release answers
    /// the newest.
    pub fn server_keys_of_key(server: &ServerName, verify_key_id: &str) -> Self {
        let Self { method, uri } = Self::server_keys(server);
        Self { method, uri: format!("{uri}?verify_key={}", arg(verify_key_id)) }
    }

    /// Asks whether a server has some media, and what it is. Any server may have it.
    pub fn media(server: &ServerName, media_id: &str) -> Self {
        Self::post(format!("{MEDIA}{}/{}", arg(server), arg(media_id)))
    }

    /// Asks for one piece of media: a way for those who are not connected.
    pub fn media_piece(ticket: &str, piece: u64) -> Self {
        Self::get(format!("{MEDIA_PIECE}{}?piece={piece}", arg(ticket)))
    }

    /// Hands a sealed request to a carrier, or to its destination.
    pub fn carry(destination: &ServerName) -> Self {
        Self::put(format!("{CARRY}{}", arg(destination)))
    }

    /// Asks for a later piece of an answer.
    pub fn piece(request_id: &str, from: usize) -> Self {
        Self::get(format!("{ANSWER}{request_id}?from={from}"))
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}

/// Reads the path of a request for a later piece: which request, and from where.
pub fn read_piece(uri: &str) -> Option<(&str, usize)> {
    let (request_id, from) = uri.strip_prefix(ANSWER)?.split_once("?from=")?;
    Some((request_id, from.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};

    use super::*;

    #[test]
    fn arguments_cannot_become_more_of_the_path() {
        let user = user_id!("@a/b?c=d&e%20:x");
        let profile = Endpoint::profile(user);
        assert_eq!(
            profile.to_string(),
            "GET /_matrix/federation/v1/query/profile?user_id=@a%2Fb%3Fc%3Dd%26e%2520:x"
        );
        let before = [event_id!("$a+b/c"), event_id!("$d")];
        let backfill = Endpoint::backfill(room_id!("!r:x"), &before, 20);
        assert_eq!(backfill.uri, "/_matrix/federation/v1/backfill/!r:x?v=$a%2Bb%2Fc&v=$d&limit=20");
    }

    #[test]
    fn pieces_are_asked_for_and_read_alike() {
        assert_eq!(read_piece(&Endpoint::piece("0af", 512).uri), Some(("0af", 512)));
        for wrong in ["/x", "/_messagehub/federation/v1/answer/1", OWN_SERVER_KEYS] {
            assert_eq!(read_piece(wrong), None);
        }
    }
}
