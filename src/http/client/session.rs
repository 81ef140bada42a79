//! Logging in and out, and devices.
//!
//! A login takes a login token, which the pages of [`crate::http::login`] and the control socket hand out,
//! or the password of who has one; so no web page can log in by itself.

use actix_web::{HttpRequest, HttpResponse, Responder, http::StatusCode, web};
use ruma::api::client::{
    account::whoami,
    device::{delete_device, delete_devices, get_device, get_devices, update_device},
    session::{get_login_types, logout, logout_all, refresh_token},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    actors::accounts::{
        AnyPassword, DeleteDevices, Device, ListDevices, LogIn, LogInBy, LoggedIn, Matter,
        NewDevice, RefreshTokens, RenameDevice, Session,
    },
    config::limits,
    http::{
        auth::source_of,
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Authed, Empty, Json, Open, parse},
        uia::{ByPassword, Guarded},
    },
};

/// How one can log in: by password only where somebody has one.
pub async fn login_flows(
    request: Open<get_login_types::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let mut flows = vec!["m.login.sso", "m.login.token"];
    if request.gateway.ask_accounts(AnyPassword).await? {
        flows.push("m.login.password");
    }
    let flows: Value = flows.into_iter().map(|flow| json!({"type": flow})).collect();
    Ok(Json(json!({"flows": flows})))
}

/// The body of a login. ruma's type is not used: it panics where there is no `type`.
#[derive(Deserialize)]
struct Login {
    #[serde(rename = "type")]
    kind: String,
    token: Option<String>,
    #[serde(flatten)]
    by_password: ByPassword,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

/// Logs in with a login token or a password.
pub async fn log_in(
    request: HttpRequest,
    gateway: web::Data<Gateway>,
    body: web::Bytes,
) -> Result<impl Responder, HttpError> {
    let _permit = gateway.admission.admit()?;
    let login: Login = parse(&body)?;
    let by = match login.kind.as_str() {
        "m.login.token" => {
            let token = login.token.ok_or_else(|| HttpError::bad_json("the token is missing"))?;
            LogInBy::Token(token)
        }
        "m.login.password" if gateway.ask_accounts(AnyPassword).await? => {
            let (user, password) = login.by_password.read()?;
            LogInBy::Password { user, password, from: source_of(&request) }
        }
        "m.login.password" => {
            return Err(unknown_login(
                "nobody here has a password yet: `messagehub password` sets one; or log in by \
                 m.login.sso, or with a token that `messagehub login-token` prints",
            ));
        }
        _ => {
            return Err(unknown_login(
                "log in by password, by m.login.sso, or with a token that `messagehub \
                 login-token` prints",
            ));
        }
    };
    let device = NewDevice {
        device_id: login.device_id,
        display_name: login.initial_device_display_name,
        refreshes: login.refresh_token,
    };
    Ok(Json(shown_session(gateway.ask_accounts(LogIn { by, device }).await??)))
}

fn unknown_login(why: &'static str) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", why)
}

/// Returns a new session as clients get it.
pub(super) fn shown_session(session: LoggedIn) -> Value {
    let LoggedIn { session: Session { user_id, device_id }, access_token, refresh_token } = session;
    let mut shown = json!({
        "home_server": user_id.server_name(),
        "user_id": user_id,
        "device_id": device_id,
        "access_token": access_token,
    });
    // Only to who asked: clients that did not take it for a mistake, and log out again.
    if let (Some(token), Some(fields)) = (refresh_token, shown.as_object_mut()) {
        fields.insert("refresh_token".to_owned(), Value::from(token));
        fields.insert("expires_in_ms".to_owned(), Value::from(limits::ACCESS_TOKEN_MS));
    }
    shown
}

/// Gives the next access token and refresh token.
pub async fn refresh(
    request: Open<refresh_token::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let refresh = RefreshTokens(request.body.refresh_token);
    let LoggedIn { access_token, refresh_token, .. } =
        request.gateway.ask_accounts(refresh).await??;
    Ok(Json(json!({
        "access_token": access_token,
        "refresh_token": refresh_token,
        "expires_in_ms": limits::ACCESS_TOKEN_MS,
    })))
}

/// Ends the session, and with it the device.
pub async fn log_out(request: Authed<logout::v3::Request>) -> Result<impl Responder, HttpError> {
    let Session { user_id, device_id } = request.session;
    let this = DeleteDevices { user_id, device_ids: Some(vec![device_id]) };
    request.gateway.ask_accounts(this).await??;
    Ok(Json(Empty {}))
}

/// Ends all sessions.
pub async fn log_out_all(
    request: Authed<logout_all::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let all = DeleteDevices { user_id: request.session.user_id, device_ids: None };
    request.gateway.ask_accounts(all).await??;
    Ok(Json(Empty {}))
}

/// Tells whose the access token is.
pub async fn who_am_i(request: Authed<whoami::v3::Request>) -> impl Responder {
    let Session { user_id, device_id } = request.session;
    Json(json!({"user_id": user_id, "device_id": device_id, "is_guest": false}))
}

#[derive(Serialize)]
struct ShownDevice {
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    last_seen_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<String>,
}

impl From<Device> for ShownDevice {
    fn from(device: Device) -> Self {
        let Device { device_id, display_name, last_seen_ts, last_seen_ip } = device;
        Self { device_id, display_name, last_seen_ts, last_seen_ip }
    }
}

/// Lists the devices.
pub async fn devices(
    request: Authed<get_devices::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let devices = request.gateway.ask_accounts(ListDevices(request.session.user_id)).await?;
    let devices: Vec<ShownDevice> = devices.into_iter().map(Into::into).collect();
    Ok(Json(json!({"devices": devices})))
}

/// Shows one device.
pub async fn device(request: Authed<get_device::v3::Request>) -> Result<impl Responder, HttpError> {
    let wanted = request.body.device_id;
    let devices = request.gateway.ask_accounts(ListDevices(request.session.user_id)).await?;
    let found = devices.into_iter().find(|device| device.device_id == wanted.as_str());
    let found = found.ok_or_else(|| HttpError::not_found("no such device"))?;
    Ok(Json(ShownDevice::from(found)))
}

/// Renames a device.
pub async fn rename_device(
    request: Authed<update_device::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let update_device::v3::Request { device_id, display_name, .. } = request.body;
    let device = Session { user_id: request.session.user_id, device_id: device_id.to_string() };
    let message = RenameDevice { device, display_name };
    request.gateway.ask_accounts(message).await??;
    Ok(Json(Empty {}))
}

/// Deletes a device.
pub async fn delete_one_device(
    guarded: Guarded<Authed<delete_device::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request, asked } = guarded;
    let Authed { body, session, gateway, permit: _permit } = request;
    if let Some(wanted) = asked.confirm(&gateway, Matter::DeleteDevices, Some(&session)).await? {
        return Ok(wanted);
    }
    let device_ids = Some(vec![body.device_id.to_string()]);
    gateway.ask_accounts(DeleteDevices { user_id: session.user_id, device_ids }).await??;
    Ok(HttpResponse::Ok().json(Empty {}))
}

/// Deletes devices.
pub async fn delete_some_devices(
    guarded: Guarded<Authed<delete_devices::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request, asked } = guarded;
    let Authed { body, session, gateway, permit: _permit } = request;
    if let Some(wanted) = asked.confirm(&gateway, Matter::DeleteDevices, Some(&session)).await? {
        return Ok(wanted);
    }
    let device_ids = Some(body.devices.iter().map(ToString::to_string).collect());
    gateway.ask_accounts(DeleteDevices { user_id: session.user_id, device_ids }).await??;
    Ok(HttpResponse::Ok().json(Empty {}))
}
