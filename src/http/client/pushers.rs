//! Pushers: where notifications of a device go.

use actix_web::Responder;
use ruma::api::client::push::{
    get_pushers,
    set_pusher::{self, v3::PusherAction},
};
use serde_json::json;

use crate::{
    actors::pushers::{DeletePusher, ListPushers, SetPusher},
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Empty, Json},
    },
};

/// The pushers of the user.
pub async fn list(request: Authed<get_pushers::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { session, gateway, permit: _permit, .. } = request;
    let pushers = ask(&gateway.pushers.list, ListPushers(session.user_id)).await?;
    Ok(Json(json!({ "pushers": pushers })))
}

/// Sets one, or takes it away.
pub async fn set(request: Authed<set_pusher::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    match body.action {
        PusherAction::Post(post) => {
            let (pusher, append) = (Box::new(post.pusher), post.append);
            ask(&gateway.pushers.set, SetPusher { session, pusher, append }).await??;
        }
        PusherAction::Delete(ids) => {
            let user_id = session.user_id;
            ask(&gateway.pushers.delete, DeletePusher { user_id, ids }).await??;
        }
        _ => return Err(HttpError::bad_json("no such pusher")),
    }
    Ok(Json(Empty {}))
}
