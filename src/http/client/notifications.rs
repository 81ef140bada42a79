//! What notified the user.

use actix_web::Responder;
use ruma::{OwnedRoomId, api::client::push::get_notifications};
use serde::Serialize;
use serde_json::value::RawValue;

use super::render::View;
use crate::{
    actors::{
        clock::now_ms,
        store::{Notified, ReadNotifications},
    },
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Json},
    },
};

/// Notifications in a page where the client does not say, and at most.
const PAGE: usize = 20;
const PAGE_MAX: usize = 100;

#[derive(Serialize)]
struct Page {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
    notifications: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    actions: Box<RawValue>,
    event: Box<RawValue>,
    read: bool,
    room_id: OwnedRoomId,
    ts: u64,
}

/// What notified the user, the newest first.
pub async fn list(
    request: Authed<get_notifications::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let up_to = body.from.as_deref().map(str::parse::<u64>).transpose();
    let up_to = up_to.map_err(|_| HttpError::invalid_param("from is no token of this server"))?;
    let limit = body.limit.map_or(PAGE, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(usize::MAX).clamp(1, PAGE_MAX)
    });
    let wanted = ReadNotifications {
        user_id: session.user_id.clone(),
        up_to,
        after: 0,
        only_highlights: body.only.as_deref() == Some("highlight"),
        only_unread: false,
        count: false,
        limit,
    };
    let page = ask(&gateway.store.read_notifications, wanted).await??;
    let show = |one: Notified| {
        let view = View {
            now: now_ms(),
            user_id: &session.user_id,
            device_id: &session.device_id,
            room_id: None,
            redactions: &std::collections::HashMap::new(),
            replaced: None,
            bundles: None,
            form: None,
        };
        Some(Shown {
            actions: RawValue::from_string(one.actions).ok()?,
            event: view.event(&one.event)?,
            read: one.is_read,
            room_id: one.room_id,
            ts: one.ts,
        })
    };
    Ok(Json(Page {
        next_token: page.next.map(|next| next.to_string()),
        notifications: page.notified.into_iter().filter_map(show).collect(),
    }))
}
