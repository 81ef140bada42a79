//! How rooms are found: aliases, lists of public rooms, summaries, spaces.

use actix_web::{Responder, http::StatusCode};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomVersionId, UserId,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{
            get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility,
        },
        room::{Visibility, aliases, get_summary},
        space::get_hierarchy,
    },
    directory::{Filter, RoomNetwork},
    events::{
        StateEventType,
        room::{
            member::MembershipState,
            power_levels::{RoomPowerLevels, RoomPowerLevelsSource},
        },
    },
    room::RoomSummary,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{check_joined, membership};
use crate::{
    actors::{
        accounts::Session,
        room::ReadState,
        room_directory::{
            DeleteAlias, DirectoryError, FindAlias, Found, Hierarchy, IsPublished, ListAliases,
            ListPublicRooms, Publish, ReadHierarchy, ReadSummary, SetAlias,
        },
        room_state::KnowsRoom,
    },
    http::{
        error::HttpError,
        gateway::{Gateway, ask, ask_room},
        ruma_glue::{Authed, Empty, Json, Open},
    },
    proto::pdu::rules_of,
};

/// Rooms of a page of a space where nobody says how many, and at most.
const PAGE: usize = 50;
const PAGE_MAX: usize = 100;
/// How deep spaces in spaces are looked into where nobody says so, and at most.
const DEPTH_MAX: usize = 20;

/// Refuses an alias of another server: only that one says where it leads.
fn check_ours(session: &Session, alias: &RoomAliasId) -> Result<(), HttpError> {
    if alias.server_name() != session.user_id.server_name() {
        return Err(HttpError::invalid_param(format!(
            "aliases that are made here end with :{}",
            session.user_id.server_name()
        )));
    }
    Ok(())
}

/// Tells whether somebody may set some state of a room that he is in.
async fn may_set(
    gateway: &Gateway,
    session: &Session,
    room_id: &OwnedRoomId,
    kind: StateEventType,
) -> Result<bool, HttpError> {
    #[derive(Deserialize)]
    struct Event<'a> {
        sender: OwnedUserId,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Created {
        room_version: Option<RoomVersionId>,
        #[serde(default)]
        additional_creators: Vec<OwnedUserId>,
    }
    if membership(gateway, session, room_id).await? != Some(MembershipState::Join) {
        return Ok(false);
    }
    let read = async |kind: &str| {
        let wanted = Some((kind.to_owned(), String::new()));
        let read = ReadState { by: session.user_id.clone(), wanted };
        ask_room(&gateway.rooms.read_state, room_id.clone(), read).await
    };
    let unreadable = |error: serde_json::Error| HttpError::internal(error);
    let created = read("m.room.create").await?;
    let created = created.first().ok_or_else(|| HttpError::not_found("no such room"))?;
    let created: Event<'_> = serde_json::from_str(&created.json).map_err(unreadable)?;
    let content: Created = serde_json::from_str(created.content.get()).map_err(unreadable)?;
    let version = content.room_version.unwrap_or(RoomVersionId::V1);
    let rules = rules_of(&version).ok_or_else(|| HttpError::internal("no such room version"))?;
    let rules = rules.authorization;
    let mut creators = vec![created.sender];
    if rules.explicitly_privilege_room_creators {
        creators.extend(content.additional_creators);
    }
    let levels = read("m.room.power_levels").await?;
    let source = match levels.first() {
        Some(levels) => {
            let levels: Event<'_> = serde_json::from_str(&levels.json).map_err(unreadable)?;
            let levels = serde_json::from_str(levels.content.get()).map_err(unreadable)?;
            RoomPowerLevelsSource::Original(levels)
        }
        None => RoomPowerLevelsSource::None,
    };
    let levels = RoomPowerLevels::new(source, &rules, creators);
    let user_id: &UserId = &session.user_id;
    Ok(levels.user_can_send_state(user_id, kind))
}

/// Has an alias lead to a room.
pub async fn set_alias(
    request: Authed<create_alias::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_ours(&session, &body.room_alias)?;
    check_joined(&gateway, &session, &body.room_id).await?;
    let set = SetAlias { alias: body.room_alias, room_id: body.room_id, by: session.user_id };
    ask(&gateway.directory.set_alias, set).await??;
    Ok(Json(Empty {}))
}

/// Takes an alias away.
pub async fn remove_alias(
    request: Authed<delete_alias::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let alias = body.room_alias;
    if alias.server_name() != session.user_id.server_name() {
        return Err(HttpError::forbidden("that is an alias of another server"));
    }
    let Found { room_id, .. } =
        ask(&gateway.directory.find_alias, FindAlias(alias.clone())).await??;
    let kind = StateEventType::RoomCanonicalAlias;
    let has_power = may_set(&gateway, &session, &room_id, kind).await?;
    let delete = DeleteAlias { alias, by: session.user_id, has_power };
    ask(&gateway.directory.delete_alias, delete).await??;
    Ok(Json(Empty {}))
}

/// Tells where an alias leads.
pub async fn alias(request: Open<get_alias::v3::Request>) -> Result<Json<Found>, HttpError> {
    let Open { body, gateway, permit: _permit } = request;
    Ok(Json(ask(&gateway.directory.find_alias, FindAlias(body.room_alias)).await??))
}

/// Tells which aliases of this server lead to a room.
pub async fn aliases_of_room(
    request: Authed<aliases::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_joined(&gateway, &session, &body.room_id).await?;
    let aliases = ask(&gateway.directory.list_aliases, ListAliases(body.room_id)).await?;
    Ok(Json(json!({"aliases": aliases})))
}

/// Puts a room into the list of public rooms, or takes it out.
pub async fn set_room_visibility(
    request: Authed<set_room_visibility::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let is_public = match body.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(HttpError::invalid_param("visibility is private or public")),
    };
    let room_id = body.room_id;
    if !ask(&gateway.rooms.knows, KnowsRoom(room_id.clone())).await? {
        return Err(HttpError::not_found("no such room"));
    }
    let kind = StateEventType::RoomCanonicalAlias;
    if !may_set(&gateway, &session, &room_id, kind).await? {
        let why = "a room is published by who may say what it is called";
        return Err(HttpError::forbidden(why));
    }
    ask(&gateway.directory.publish, Publish { room_id, is_public }).await??;
    Ok(Json(Empty {}))
}

/// Tells whether a room is in the list of public rooms.
pub async fn room_visibility(
    request: Open<get_room_visibility::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Open { body, gateway, permit: _permit } = request;
    let room_id = body.room_id;
    if !ask(&gateway.rooms.knows, KnowsRoom(room_id.clone())).await? {
        return Err(HttpError::not_found("no such room"));
    }
    let is_public = ask(&gateway.directory.is_published, IsPublished(room_id)).await?;
    Ok(Json(json!({"visibility": if is_public { "public" } else { "private" }})))
}

/// A page of the public rooms of this server, or of another one: for those with a session here alone.
pub async fn public_rooms(
    request: Open<get_public_rooms::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Open { body, gateway, permit: _permit } = request;
    if body.server.is_some() {
        return Err(HttpError::forbidden("rooms of another server are listed by POST, logged in"));
    }
    let list = ListPublicRooms {
        server: None,
        filter: Filter::new(),
        limit: body.limit.map(Into::into),
        since: body.since,
    };
    Ok(Json(ask(&gateway.directory.list_public_rooms, list).await??))
}

/// Those of the public rooms that somebody is looking for.
pub async fn public_rooms_filtered(
    request: Authed<get_public_rooms_filtered::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, gateway, permit: _permit, .. } = request;
    if matches!(&body.room_network, RoomNetwork::ThirdParty(_)) {
        return Err(HttpError::invalid_param("there are no networks of bridges here"));
    }
    let list = ListPublicRooms {
        server: body.server,
        filter: body.filter,
        limit: body.limit.map(Into::into),
        since: body.since,
    };
    Ok(Json(ask(&gateway.directory.list_public_rooms, list).await??))
}

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    summary: RoomSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<MembershipState>,
}

/// What a room shows of itself.
pub async fn summary(
    request: Authed<get_summary::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let read = ReadSummary { room: body.room_id_or_alias, via: body.via, by: session.user_id };
    let (summary, membership) = ask(&gateway.directory.read_summary, read).await??;
    Ok(Json(Summary { summary, membership }))
}

#[derive(Serialize)]
struct Held {
    #[serde(flatten)]
    summary: RoomSummary,
    children_state: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Page {
    rooms: Vec<Held>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// The rooms of a space. A token says how many rooms come before the page, and what was asked for.
pub async fn hierarchy(
    request: Authed<get_hierarchy::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let number = |number: ruma::UInt| usize::try_from(u64::from(number)).unwrap_or(usize::MAX);
    let max_depth = body.max_depth.map_or(DEPTH_MAX, number).min(DEPTH_MAX);
    let limit = body.limit.map_or(PAGE, number).clamp(1, PAGE_MAX);
    let suggested_only = body.suggested_only;
    let asked = format!("{max_depth}_{suggested_only}");
    let from = match body.from.as_deref() {
        None => 0,
        Some(token) => {
            let (from, same) = token.split_once('_').unwrap_or_default();
            let from = from.parse().ok().filter(|_| same == asked);
            // The specification: one who changes max_depth or suggested_only begins anew.
            from.ok_or_else(|| HttpError::invalid_param("from is no token of this listing"))?
        }
    };
    let by = session.user_id;
    let read = ReadHierarchy { room_id: body.room_id, by, from, limit, max_depth, suggested_only };
    let Hierarchy { rooms, next } = ask(&gateway.directory.read_hierarchy, read).await??;
    let held = |(summary, children_state)| Held { summary, children_state };
    Ok(Json(Page {
        rooms: rooms.into_iter().map(held).collect(),
        next_batch: next.map(|next| format!("{next}_{asked}")),
    }))
}

/// Checks what somebody wants a room to be called: each new alias has to lead to it.
pub(super) async fn check_canonical_alias(
    gateway: &Gateway,
    session: &Session,
    room_id: &OwnedRoomId,
    content: &ruma::CanonicalJsonObject,
) -> Result<(), HttpError> {
    #[derive(Default, Deserialize)]
    struct Names {
        #[serde(default)]
        alias: Option<String>,
        #[serde(default)]
        alt_aliases: Vec<String>,
    }
    impl Names {
        fn all(self) -> impl Iterator<Item = String> {
            self.alias.into_iter().chain(self.alt_aliases).filter(|alias| !alias.is_empty())
        }
    }
    let wanted: Names = serde_json::to_value(content)
        .and_then(serde_json::from_value)
        .map_err(|error| HttpError::bad_json(format!("m.room.canonical_alias: {error}")))?;
    let place = Some(("m.room.canonical_alias".to_owned(), String::new()));
    let read = ReadState { by: session.user_id.clone(), wanted: place };
    let current = ask_room(&gateway.rooms.read_state, room_id.clone(), read).await?;
    let known: Vec<String> = current
        .first()
        .and_then(|event| {
            #[derive(Deserialize)]
            struct Event {
                content: Names,
            }
            serde_json::from_str::<Event>(&event.json).ok()
        })
        .map(|event| event.content.all().collect())
        .unwrap_or_default();
    for alias in wanted.all().filter(|alias| !known.contains(alias)) {
        let alias: OwnedRoomAliasId = alias
            .as_str()
            .try_into()
            .map_err(|_| HttpError::invalid_param(format!("{alias} is no alias")))?;
        let found = ask(&gateway.directory.find_alias, FindAlias(alias.clone())).await?;
        if found.is_ok_and(|found| found.room_id == *room_id) {
            continue;
        }
        let why = format!("{alias} does not lead to this room");
        return Err(HttpError::new(StatusCode::BAD_REQUEST, "M_BAD_ALIAS", why));
    }
    Ok(())
}

/// Refuses to make a room whose alias leads somewhere already.
pub(super) async fn check_free(gateway: &Gateway, alias: &RoomAliasId) -> Result<(), HttpError> {
    match ask(&gateway.directory.find_alias, FindAlias(alias.to_owned())).await? {
        Err(DirectoryError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(in_use()),
    }
}

/// What who makes a room is told where its alias leads somewhere.
pub(super) fn in_use() -> HttpError {
    let why = "room_alias_name: this alias leads to a room already";
    HttpError::new(StatusCode::BAD_REQUEST, "M_ROOM_IN_USE", why)
}
