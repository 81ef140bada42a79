//! Events that relate to others, and threads.

use std::str::FromStr as _;

use actix_web::Responder;
use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        Direction as AskedDirection,
        client::{
            relations::{
                get_relating_events, get_relating_events_with_rel_type,
                get_relating_events_with_rel_type_and_event_type,
            },
            threads::get_threads::{self, v1::IncludeThreads},
        },
    },
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::render::View;
use crate::{
    actors::{
        accounts::Session,
        clock::now_ms,
        room::{ReadRelations, ReadThreadList},
        store::{Direction, ReadRelated, ReadThreads, Reader, RelatedPage},
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::{Gateway, ask_room},
        ruma_glue::{Authed, Json},
    },
    proto::stream::{Order, TimelineToken},
};

/// Events in a page where the client does not say.
const PAGE: usize = 10;
/// How deep relations of relations are followed.
const DEPTH: u64 = 3;

#[derive(Serialize)]
struct Page {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u64>,
}

fn place(token: Option<&str>) -> Result<Option<Order>, HttpError> {
    Ok(token.map(TimelineToken::from_str).transpose()?.map(|token| token.0))
}

fn limit(limit: Option<UInt>) -> Result<usize, HttpError> {
    let Some(limit) = limit else { return Ok(PAGE) };
    match usize::try_from(u64::from(limit)).unwrap_or(usize::MAX).min(limits::PAGE) {
        0 => Err(HttpError::invalid_param("limit is greater than zero")),
        limit => Ok(limit),
    }
}

fn shown(session: &Session, room_id: &OwnedRoomId, page: &RelatedPage) -> Vec<Box<RawValue>> {
    let view = View {
        now: now_ms(),
        user_id: &session.user_id,
        device_id: &session.device_id,
        room_id: Some(room_id),
        redactions: &page.redactions,
        replaced: None,
        bundles: Some(&page.bundles),
        form: None,
    };
    view.events(&page.events)
}

/// What the three endpoints for relations have in common.
struct Asked {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dir: AskedDirection,
    limit: Option<UInt>,
    recurse: bool,
}

async fn related(
    gateway: &Gateway,
    session: &Session,
    asked: Asked,
) -> Result<Json<Page>, HttpError> {
    let room_id = asked.room_id;
    let wanted = ReadRelations(ReadRelated {
        room_id: room_id.clone(),
        reader: Reader { user_id: session.user_id.clone(), until: None },
        event_id: asked.event_id,
        rel_type: asked.rel_type,
        event_type: asked.event_type,
        recurse: asked.recurse,
        from: place(asked.from.as_deref())?,
        to: place(asked.to.as_deref())?,
        direction: match asked.dir {
            AskedDirection::Forward => Direction::Forward,
            AskedDirection::Backward => Direction::Backward,
        },
        limit: limit(asked.limit)?,
    });
    let page = ask_room(&gateway.rooms.read_relations, room_id.clone(), wanted).await?;
    Ok(Json(Page {
        chunk: shown(session, &room_id, &page),
        next_batch: page.next.map(|next| TimelineToken(next).to_string()),
        prev_batch: asked.from,
        recursion_depth: asked.recurse.then_some(DEPTH),
    }))
}

/// Events that relate to one.
pub async fn all(
    request: Authed<get_relating_events::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let get_relating_events::v1::Request {
        room_id, event_id, from, dir, to, limit, recurse, ..
    } = body;
    let (rel_type, event_type) = (None, None);
    let asked = Asked { room_id, event_id, rel_type, event_type, from, to, dir, limit, recurse };
    related(&gateway, &session, asked).await
}

/// Those that relate to it in one way.
pub async fn of_relation(
    request: Authed<get_relating_events_with_rel_type::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let get_relating_events_with_rel_type::v1::Request {
        room_id,
        event_id,
        rel_type,
        from,
        dir,
        to,
        limit,
        recurse,
        ..
    } = body;
    let (rel_type, event_type) = (Some(rel_type.to_string()), None);
    let asked = Asked { room_id, event_id, rel_type, event_type, from, to, dir, limit, recurse };
    related(&gateway, &session, asked).await
}

/// Those of one type among them.
pub async fn of_type(
    request: Authed<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let get_relating_events_with_rel_type_and_event_type::v1::Request {
        room_id,
        event_id,
        rel_type,
        event_type,
        from,
        to,
        dir,
        limit,
        recurse,
        ..
    } = body;
    let (rel_type, event_type) = (Some(rel_type.to_string()), Some(event_type.to_string()));
    let asked = Asked { room_id, event_id, rel_type, event_type, from, to, dir, limit, recurse };
    related(&gateway, &session, asked).await
}

/// The threads of a room, that with the newest words first.
pub async fn threads(
    request: Authed<get_threads::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let participated = match body.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(HttpError::invalid_param("include is all or participated")),
    };
    let room_id = body.room_id;
    let wanted = ReadThreadList(ReadThreads {
        room_id: room_id.clone(),
        reader: Reader { user_id: session.user_id.clone(), until: None },
        participated,
        from: place(body.from.as_deref())?,
        limit: limit(body.limit)?,
    });
    let page = ask_room(&gateway.rooms.read_threads, room_id.clone(), wanted).await?;
    Ok(Json(Page {
        chunk: shown(&session, &room_id, &page),
        next_batch: page.next.map(|next| TimelineToken(next).to_string()),
        prev_batch: None,
        recursion_depth: None,
    }))
}
