//! Registering, passwords, and the end of an account.

use actix_web::{HttpResponse, Responder, http::StatusCode, web};
use ruma::api::client::account::{
    add_3pid, bind_3pid, change_password, check_registration_token_validity, deactivate,
    delete_3pid, get_username_availability, register,
    request_3pid_management_token_via_email as mail_token,
    request_3pid_management_token_via_msisdn as phone_token, unbind_3pid,
};
use serde_json::json;

use super::session::shown_session;
use crate::{
    actors::accounts::{
        CheckName, CheckRegistrationToken, Deactivate, LogOut, Matter, NewDevice, Register,
        Registered, SetPassword, Whose, check_password,
    },
    http::{
        auth::authenticate,
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Authed, Empty, Json, Open},
        uia::Guarded,
    },
};

/// Registers a new user, where the node is configured to let people do that.
pub async fn register(
    guarded: Guarded<Open<register::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request: Open { body, gateway, permit: _permit }, asked } = guarded;
    if body.kind != register::RegistrationKind::User {
        let (status, errcode) = (StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN");
        return Err(HttpError::new(status, errcode, "there are no guests here"));
    }
    // What cannot be is said before anything is to be proven; Accounts looks again when it is done.
    let localpart = body.username;
    if let Some(name) = &localpart {
        gateway.ask_accounts(CheckName(name.clone())).await??;
    }
    if let Some(password) = &body.password {
        check_password(password)?;
    }
    if let Some(wanted) = asked.confirm(&gateway, Matter::Register, None).await? {
        return Ok(wanted);
    }
    let password = body.password.ok_or_else(|| {
        let why = "a password is needed: there is no other way to log in here";
        HttpError::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", why)
    })?;
    let device = (!body.inhibit_login).then(|| NewDevice {
        device_id: body.device_id.map(|device_id| device_id.to_string()),
        display_name: body.initial_device_display_name,
        refreshes: body.refresh_token,
    });
    let registered = gateway.ask_accounts(Register { localpart, password, device }).await??;
    let Registered { user_id, session } = registered;
    Ok(HttpResponse::Ok().json(match session {
        Some(session) => shown_session(session),
        None => json!({"user_id": user_id, "home_server": user_id.server_name()}),
    }))
}

/// Tells whether a name can be registered.
pub async fn is_available(
    request: Open<get_username_availability::v3::Request>,
) -> Result<impl Responder, HttpError> {
    request.gateway.ask_accounts(CheckName(request.body.username)).await??;
    Ok(Json(json!({"available": true})))
}

/// Tells whether a token lets people register.
pub async fn is_token_valid(
    http: actix_web::HttpRequest,
    request: Open<check_registration_token_validity::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let from = crate::http::auth::source_of(&http);
    let check = CheckRegistrationToken { token: request.body.token, from };
    let valid = request.gateway.ask_accounts(check).await??;
    Ok(Json(json!({"valid": valid})))
}

/// Sets the password of the user.
pub async fn set_password(
    guarded: Guarded<Authed<change_password::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request, asked } = guarded;
    let Authed { body, session, gateway, permit: _permit } = request;
    check_password(&body.new_password)?;
    if let Some(wanted) = asked.confirm(&gateway, Matter::SetPassword, Some(&session)).await? {
        return Ok(wanted);
    }
    let log_out = match body.logout_devices {
        true => LogOut::AllBut(session.device_id),
        false => LogOut::Nobody,
    };
    let whose = Whose::User(session.user_id);
    let message = SetPassword { whose, password: body.new_password, log_out };
    gateway.ask_accounts(message).await??;
    Ok(HttpResponse::Ok().json(Empty {}))
}

/// Ends the account.
pub async fn deactivate(
    guarded: Guarded<Authed<deactivate::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request, asked } = guarded;
    let Authed { body: _, session, gateway, permit: _permit } = request;
    if let Some(wanted) = asked.confirm(&gateway, Matter::Deactivate, Some(&session)).await? {
        return Ok(wanted);
    }
    gateway.ask_accounts(Deactivate(session.user_id)).await??;
    Ok(HttpResponse::Ok().json(json!({"id_server_unbind_result": "no-support"})))
}

fn no_third_party<T>() -> Result<T, HttpError> {
    let why = "there are no mail addresses and phone numbers here";
    Err(HttpError::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", why))
}

/// There are no third-party identifiers.
pub async fn old_third_party(
    http: actix_web::HttpRequest,
    gateway: web::Data<Gateway>,
) -> Result<Json<Empty>, HttpError> {
    authenticate(&http, &gateway).await?;
    no_third_party()
}

/// There are no third-party identifiers.
pub async fn add_third_party(_: Authed<add_3pid::v3::Request>) -> Result<Json<Empty>, HttpError> {
    no_third_party()
}

/// There are no third-party identifiers.
pub async fn bind_third_party(_: Authed<bind_3pid::v3::Request>) -> Result<Json<Empty>, HttpError> {
    no_third_party()
}

/// There are no third-party identifiers.
pub async fn mail_token(_: Open<mail_token::v3::Request>) -> Result<Json<Empty>, HttpError> {
    no_third_party()
}

/// There are no third-party identifiers.
pub async fn phone_token(_: Open<phone_token::v3::Request>) -> Result<Json<Empty>, HttpError> {
    no_third_party()
}

/// It is not there, as was asked for.
pub async fn delete_third_party(_: Authed<delete_3pid::v3::Request>) -> impl Responder {
    Json(json!({"id_server_unbind_result": "no-support"}))
}

/// It is not there, as was asked for.
pub async fn unbind_third_party(_: Authed<unbind_3pid::v3::Request>) -> impl Responder {
    Json(json!({"id_server_unbind_result": "no-support"}))
}
