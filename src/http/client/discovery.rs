//! What this server is and can do, and true answers about what it does not have.

use actix_web::{Responder, web};
use ruma::api::client::{
    account::get_3pids,
    alias::get_alias,
    directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility},
    discovery::{get_capabilities, get_supported_versions},
    room::aliases,
    thirdparty::get_protocols,
    voip::get_turn_server_info,
};
use serde_json::{Map, Value, json};

use super::check_joined;
use crate::{
    actors::{
        accounts::ListPeople,
        identity::ReadSigner,
        room_state::{DEFAULT_VERSION, KnowsRoom},
    },
    http::{
        error::HttpError,
        gateway::{Gateway, Place, ask},
        ruma_glue::{Authed, Empty, Json, Open},
    },
    proto::pdu::ROOM_VERSIONS,
};

/// Which versions of the spec are met. What an endpoint does not do yet it does not pretend: its
/// path answers `M_UNRECOGNIZED`.
pub async fn versions(_: Open<get_supported_versions::Request>) -> impl Responder {
    let versions: Vec<String> = (1..=13).map(|minor| format!("v1.{minor}")).collect();
    Json(json!({
        "versions": versions,
        "unstable_features": {
            // Private read receipts, under the name by which older clients ask for them.
            "org.matrix.msc2285.stable": true,
            // Element sets up cross-signing at the first login where this is said.
            "org.matrix.e2e_cross_signing": true,
        },
    }))
}

/// `.well-known/matrix/client`.
pub async fn well_known(place: web::Data<Place>) -> impl Responder {
    Json(json!({"m.homeserver": {"base_url": place.homeserver_url()}}))
}

/// What the user can do here. Who has no password can set one, but not in clients that ask for the old one.
pub async fn capabilities(
    request: Authed<get_capabilities::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let people = request.gateway.ask_accounts(ListPeople).await?;
    let me = people.into_iter().find(|person| person.user_id == request.session.user_id);
    let has_password = me.is_some_and(|me| me.has_password);
    let available: Map<String, Value> =
        ROOM_VERSIONS.iter().map(|version| (version.to_string(), Value::from("stable"))).collect();
    Ok(Json(json!({"capabilities": {
        "m.room_versions": {"default": DEFAULT_VERSION, "available": available},
        "m.change_password": {"enabled": has_password},
        "m.set_displayname": {"enabled": true},
        "m.set_avatar_url": {"enabled": true},
        "m.profile_fields": {"enabled": true},
        "m.3pid_changes": {"enabled": false},
        "m.get_login_token": {"enabled": false},
    }})))
}

/// Our server_keys, for whoever wants to look at them.
pub async fn server_keys(gateway: web::Data<Gateway>) -> Result<impl Responder, HttpError> {
    let signer = ask(&gateway.read_signer, ReadSigner).await?;
    let missing = || HttpError::not_found("there is no identity before the first login");
    Ok(Json(signer.ok_or_else(missing)?.server_keys().clone()))
}

/// There is no TURN server.
pub async fn turn_server(_: Authed<get_turn_server_info::v3::Request>) -> impl Responder {
    Json(Empty {})
}

/// There are no bridges.
pub async fn protocols(_: Authed<get_protocols::v3::Request>) -> impl Responder {
    Json(Empty {})
}

/// There are no third-party identifiers.
pub async fn third_party_ids(_: Authed<get_3pids::v3::Request>) -> impl Responder {
    Json(json!({"threepids": []}))
}

/// No room is published.
pub async fn public_rooms(_: Open<get_public_rooms::v3::Request>) -> impl Responder {
    Json(json!({"chunk": [], "total_room_count_estimate": 0}))
}

/// No room is published.
pub async fn public_rooms_filtered(
    _: Authed<get_public_rooms_filtered::v3::Request>,
) -> impl Responder {
    Json(json!({"chunk": [], "total_room_count_estimate": 0}))
}

/// Rooms have no aliases here, so none leads anywhere.
pub async fn alias(_: Open<get_alias::v3::Request>) -> Result<Json<Empty>, HttpError> {
    Err(HttpError::not_found("there are no room aliases here"))
}

/// Rooms have no aliases here, as members of one are told.
pub async fn aliases_of_room(
    request: Authed<aliases::v3::Request>,
) -> Result<impl Responder, HttpError> {
    check_joined(&request.gateway, &request.session, &request.body.room_id).await?;
    Ok(Json(json!({"aliases": []})))
}

/// No room is published.
pub async fn room_visibility(
    request: Open<get_room_visibility::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let known = ask(&request.gateway.rooms.knows, KnowsRoom(request.body.room_id)).await?;
    known.then_some(()).ok_or_else(|| HttpError::not_found("no such room"))?;
    Ok(Json(json!({"visibility": "private"})))
}
