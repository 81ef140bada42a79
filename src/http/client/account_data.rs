//! Account data, tags and filters.

use actix_web::Responder;
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{
        config::{
            get_global_account_data, get_room_account_data, set_global_account_data,
            set_room_account_data,
        },
        filter::{EventFormat, FilterDefinition, create_filter, get_filter},
        tag::{create_tag, delete_tag, get_tags},
    },
};
use serde_json::value::{RawValue, to_raw_value};

use super::{check_own, check_room};
use crate::{
    actors::accounts::{EditTag, ReadAccountData, ReadFilter, SaveFilter, SetAccountData},
    http::{
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Authed, Empty, Json},
    },
};

async fn read(
    gateway: &Gateway,
    user_id: OwnedUserId,
    room_id: Option<OwnedRoomId>,
    kind: String,
) -> Result<Json<Box<RawValue>>, HttpError> {
    let content = gateway.ask_accounts(ReadAccountData { user_id, room_id, kind }).await??;
    content.map(Json).ok_or_else(|| HttpError::not_found("no such account data"))
}

async fn write(
    gateway: &Gateway,
    user_id: OwnedUserId,
    room_id: Option<OwnedRoomId>,
    kind: String,
    content: &RawValue,
) -> Result<Json<Empty>, HttpError> {
    // These have endpoints of their own, which keep their content right.
    if matches!(kind.as_str(), "m.fully_read" | "m.push_rules") {
        return Err(HttpError::new(
            actix_web::http::StatusCode::METHOD_NOT_ALLOWED,
            "M_BAD_JSON",
            "this account data is managed by the server",
        ));
    }
    let message = SetAccountData { user_id, room_id, kind, content: content.to_owned() };
    gateway.ask_accounts(message).await??;
    Ok(Json(Empty {}))
}

/// Reads global account data.
pub async fn global(
    request: Authed<get_global_account_data::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    read(&gateway, body.user_id, None, body.event_type.to_string()).await
}

/// Writes global account data.
pub async fn set_global(
    request: Authed<set_global_account_data::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    write(&gateway, body.user_id, None, body.event_type.to_string(), body.data.json()).await
}

/// Reads account data of a room.
pub async fn of_room(
    request: Authed<get_room_account_data::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_room(&gateway, &session, &body.room_id).await?;
    read(&gateway, body.user_id, Some(body.room_id), body.event_type.to_string()).await
}

/// Writes account data of a room.
pub async fn set_of_room(
    request: Authed<set_room_account_data::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_room(&gateway, &session, &body.room_id).await?;
    write(&gateway, body.user_id, Some(body.room_id), body.event_type.to_string(), body.data.json())
        .await
}

/// Lists the tags of a room.
pub async fn tags(request: Authed<get_tags::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_room(&gateway, &session, &body.room_id).await?;
    let (user_id, room_id) = (session.user_id, Some(body.room_id));
    let wanted = ReadAccountData { user_id, room_id, kind: "m.tag".to_owned() };
    let none = || RawValue::from_string(r#"{"tags":{}}"#.to_owned());
    match gateway.ask_accounts(wanted).await?? {
        Some(content) => Ok(Json(content)),
        None => Ok(Json(none().map_err(HttpError::internal)?)),
    }
}

/// Tags a room.
pub async fn set_tag(
    request: Authed<create_tag::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_room(&gateway, &session, &body.room_id).await?;
    let info = to_raw_value(&body.tag_info).map_err(HttpError::internal)?;
    let create_tag::v3::Request { user_id, room_id, tag, .. } = body;
    let message = EditTag { user_id, room_id, tag, info: Some(info) };
    gateway.ask_accounts(message).await??;
    Ok(Json(Empty {}))
}

/// Takes a tag off a room.
pub async fn remove_tag(
    request: Authed<delete_tag::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_room(&gateway, &session, &body.room_id).await?;
    let delete_tag::v3::Request { user_id, room_id, tag, .. } = body;
    let message = EditTag { user_id, room_id, tag, info: None };
    gateway.ask_accounts(message).await??;
    Ok(Json(Empty {}))
}

/// Refuses a filter that asks for what there is not.
pub(super) fn check_filter(filter: &FilterDefinition) -> Result<(), HttpError> {
    match filter.event_format {
        EventFormat::Client | EventFormat::Federation => Ok(()),
        _ => Err(HttpError::invalid_param("event_format is client or federation")),
    }
}

/// Stores a filter.
pub async fn save_filter(
    request: Authed<create_filter::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_filter(&body.filter)?;
    let filter = to_raw_value(&body.filter).map_err(HttpError::internal)?;
    let id = gateway.ask_accounts(SaveFilter { user_id: body.user_id, filter }).await??;
    Ok(Json(serde_json::json!({"filter_id": id})))
}

/// Shows a filter.
pub async fn filter(request: Authed<get_filter::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    let filter = gateway
        .ask_accounts(ReadFilter { user_id: body.user_id, filter_id: body.filter_id })
        .await??;
    filter.map(Json).ok_or_else(|| HttpError::not_found("no such filter"))
}
