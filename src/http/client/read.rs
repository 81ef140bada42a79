//! Reading a room: state, members, history.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr as _,
};

use actix_web::Responder;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    api::{
        Direction as AskedDirection,
        client::{
            context::get_context,
            membership::{get_member_events, joined_members},
            message::get_message_events,
            room::get_room_event,
            state::{
                get_state_event_for_key::{self, v3::StateEventFormat},
                get_state_events,
            },
        },
    },
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    check_joined, is_lazy, known_membership,
    render::{View, content_of, passing},
};
use crate::{
    actors::{
        accounts::Session,
        clock::now_ms,
        room::{self, ReadContext, ReadMembers, ReadMessages, ReadState},
        store::{Bundles, Direction, StoredEvent},
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::{Gateway, ask_room},
        ruma_glue::{Authed, Json},
    },
    proto::stream::{Order, TimelineToken},
};

type Redactions = HashMap<OwnedEventId, StoredEvent>;

fn view<'a>(
    session: &'a Session,
    room_id: &'a RoomId,
    redactions: &'a Redactions,
    bundles: Option<&'a Bundles>,
) -> View<'a> {
    View {
        now: now_ms(),
        user_id: &session.user_id,
        device_id: &session.device_id,
        room_id: Some(room_id),
        redactions,
        replaced: None,
        bundles,
        form: None,
    }
}

fn token(token: Option<&str>) -> Result<Option<Order>, HttpError> {
    Ok(token.map(TimelineToken::from_str).transpose()?.map(|token| token.0))
}

fn page_limit(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX).min(limits::PAGE)
}

/// The whole state that the user may see.
pub async fn state(
    request: Authed<get_state_events::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let room_id = body.room_id;
    let wanted = ReadState { by: session.user_id.clone(), wanted: None };
    let state = ask_room(&gateway.rooms.read_state, room_id.clone(), wanted).await?;
    Ok(Json(view(&session, &room_id, &Redactions::new(), None).events(&state)))
}

/// One place of the state: its content, or the event with `format=event`.
pub async fn state_at(
    request: Authed<get_state_event_for_key::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let whole = match body.format {
        StateEventFormat::Content => false,
        StateEventFormat::Event => true,
        _ => return Err(HttpError::invalid_param("format is content or event")),
    };
    let room_id = body.room_id;
    let wanted = ReadState {
        by: session.user_id.clone(),
        wanted: Some((body.event_type.to_string(), body.state_key)),
    };
    let state = ask_room(&gateway.rooms.read_state, room_id.clone(), wanted).await?;
    let event = state.first().ok_or_else(|| HttpError::not_found("no such state"))?;
    if whole {
        let shown = view(&session, &room_id, &Redactions::new(), None).event(event);
        return Ok(Json(shown.ok_or_else(|| HttpError::internal("unreadable state"))?));
    }
    Ok(Json(content_of(&event.json).map_err(HttpError::internal)?))
}

#[derive(Serialize)]
struct Members {
    chunk: Vec<Box<RawValue>>,
}

/// Membership events.
pub async fn members(
    request: Authed<get_member_events::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    known_membership(body.membership.as_ref())?;
    known_membership(body.not_membership.as_ref())?;
    let wanted = ReadMembers {
        by: session.user_id.clone(),
        membership: body.membership,
        not_membership: body.not_membership,
        at: token(body.at.as_deref())?,
    };
    let members = ask_room(&gateway.rooms.read_members, body.room_id.clone(), wanted).await?;
    let chunk = view(&session, &body.room_id, &Redactions::new(), None).events(&members);
    Ok(Json(Members { chunk }))
}

#[derive(Deserialize)]
struct Member {
    state_key: String,
}

#[derive(Deserialize)]
struct MemberContent {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

#[derive(Serialize)]
struct ShownMember {
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// Who is in the room, with their profiles.
pub async fn joined(
    request: Authed<joined_members::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_joined(&gateway, &session, &body.room_id).await?;
    let membership = Some(MembershipState::Join);
    let wanted = ReadMembers { by: session.user_id, membership, not_membership: None, at: None };
    let members = ask_room(&gateway.rooms.read_members, body.room_id, wanted).await?;
    let joined: BTreeMap<String, ShownMember> = members
        .iter()
        .filter_map(|event| {
            let Member { state_key } = serde_json::from_str(&event.json).ok()?;
            let content = content_of(&event.json).ok()?;
            let MemberContent { displayname, avatar_url } =
                serde_json::from_str(content.get()).ok()?;
            Some((state_key, ShownMember { display_name: displayname, avatar_url }))
        })
        .collect();
    Ok(Json(json!({"joined": joined})))
}

#[derive(Serialize)]
struct Page {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Box<RawValue>>,
}

/// A page of history. The filter is applied to the page, so it may come back short; `end` tells
/// whether there is more.
pub async fn messages(
    request: Authed<get_message_events::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let wanted = ReadMessages {
        by: session.user_id.clone(),
        from: token(body.from.as_deref())?,
        to: token(body.to.as_deref())?,
        direction: match body.dir {
            AskedDirection::Forward => Direction::Forward,
            AskedDirection::Backward => Direction::Backward,
        },
        limit: page_limit(body.filter.limit.map_or(body.limit, |of| of.min(body.limit))).max(1),
    };
    let room_id = body.room_id;
    let page = ask_room(&gateway.rooms.read_messages, room_id.clone(), wanted).await?;
    let view = view(&session, &room_id, &page.redactions, Some(&page.bundles));
    let events = passing(&body.filter, &room_id, &page.events);
    Ok(Json(Page {
        start: TimelineToken(page.start).to_string(),
        end: page.next.map(|next| TimelineToken(next).to_string()),
        chunk: view.events(events),
        state: if is_lazy(&body.filter) { view.events(&page.members) } else { Vec::new() },
    }))
}

async fn read_context(
    gateway: &Gateway,
    by: OwnedUserId,
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    limit: usize,
    lazy_load_members: bool,
) -> Result<room::Context, HttpError> {
    let wanted = ReadContext { by, event_id, limit, lazy_load_members };
    ask_room(&gateway.rooms.read_context, room_id, wanted).await
}

/// One event.
pub async fn event(
    request: Authed<get_room_event::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let context = read_context(
        &gateway,
        session.user_id.clone(),
        body.room_id.clone(),
        body.event_id,
        0,
        false,
    )
    .await?;
    let view = view(&session, &body.room_id, &context.redactions, Some(&context.bundles));
    let shown = view.event(&context.event);
    Ok(Json(shown.ok_or_else(|| HttpError::internal("unreadable event"))?))
}

/// One event with what is around it. Events are written as they are: to make values of them would
/// be to parse them again.
#[derive(Serialize)]
struct Around {
    start: String,
    end: String,
    event: Option<Box<RawValue>>,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    state: Vec<Box<RawValue>>,
}

/// One event with what is around it.
pub async fn context(
    request: Authed<get_context::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let limit = page_limit(body.limit);
    let lazy = is_lazy(&body.filter);
    let (by, room_id) = (session.user_id.clone(), body.room_id.clone());
    let context = read_context(&gateway, by, room_id, body.event_id, limit, lazy).await?;
    let view = view(&session, &body.room_id, &context.redactions, Some(&context.bundles));
    let filtered =
        |events: &[StoredEvent]| view.events(passing(&body.filter, &body.room_id, events));
    Ok(Json(Around {
        start: TimelineToken(context.start).to_string(),
        end: TimelineToken(context.end).to_string(),
        event: view.event(&context.event),
        events_before: filtered(&context.before),
        events_after: filtered(&context.after),
        state: view.events(&context.state),
    }))
}
