//! Logging in and out, and devices.
//!
//! A login takes a login token and nothing else; tokens are handed out by the pages of
//! [`crate::http::login`] and by the control socket, so no web page can log in by itself.
//!
//! Deleting a device asks for no second proof (user-interactive authentication): the node has one
//! user and no password, and whoever holds an access token could fetch the second proof from the
//! very browser that asks for it.

use actix_web::{Responder, http::StatusCode, web};
use ruma::api::client::{
    account::{register, whoami},
    device::{delete_device, delete_devices, get_device, get_devices, update_device},
    session::{get_login_types, logout, logout_all},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    actors::accounts::{
        DeleteDevices, Device, ListDevices, LogIn, LoggedIn, RenameDevice, Session,
    },
    http::{
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Authed, Empty, Json, Open, parse},
    },
};

/// How one can log in.
pub async fn login_flows(_: Open<get_login_types::v3::Request>) -> impl Responder {
    Json(json!({"flows": [{"type": "m.login.sso"}, {"type": "m.login.token"}]}))
}

/// The body of a login. ruma's type is not used: it panics where there is no `type`.
#[derive(Deserialize)]
struct Login {
    #[serde(rename = "type")]
    kind: String,
    token: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
}

/// Logs in with a login token.
pub async fn log_in(
    gateway: web::Data<Gateway>,
    body: web::Bytes,
) -> Result<impl Responder, HttpError> {
    let _permit = gateway.admission.admit()?;
    let login: Login = parse(&body)?;
    if login.kind != "m.login.token" {
        return Err(HttpError::new(
            StatusCode::BAD_REQUEST,
            "M_UNKNOWN",
            "this server has no passwords: log in by m.login.sso, or with a token that \
             `messagehub login-token` prints",
        ));
    }
    let login_token = login.token.ok_or_else(|| HttpError::bad_json("the token is missing"))?;
    let message = LogIn {
        login_token,
        device_id: login.device_id,
        initial_display_name: login.initial_device_display_name,
    };
    let LoggedIn { session, access_token } = gateway.ask_accounts(message).await??;
    let Session { user_id, device_id } = session;
    let home_server = user_id.server_name().to_owned();
    Ok(Json(json!({
        "user_id": user_id,
        "device_id": device_id,
        "access_token": access_token,
        "home_server": home_server,
    })))
}

/// There is one user here, who logs in; nobody registers.
pub async fn register(_: Open<register::v3::Request>) -> Result<Json<Empty>, HttpError> {
    Err(HttpError::forbidden("nobody can register here: log in by m.login.sso"))
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
}

impl From<Device> for ShownDevice {
    fn from(device: Device) -> Self {
        let Device { device_id, display_name, last_seen_ts } = device;
        Self { device_id, display_name, last_seen_ts }
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
    request: Authed<delete_device::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let device_ids = Some(vec![request.body.device_id.to_string()]);
    let these = DeleteDevices { user_id: request.session.user_id, device_ids };
    request.gateway.ask_accounts(these).await??;
    Ok(Json(Empty {}))
}

/// Deletes devices.
pub async fn delete_some_devices(
    request: Authed<delete_devices::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let device_ids = Some(request.body.devices.iter().map(ToString::to_string).collect());
    let these = DeleteDevices { user_id: request.session.user_id, device_ids };
    request.gateway.ask_accounts(these).await??;
    Ok(Json(Empty {}))
}
