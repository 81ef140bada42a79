//! What this server is and can do, and true answers about what it does not have.

use actix_web::{Responder, web};
use ruma::api::client::{
    account::get_3pids,
    discovery::{get_capabilities, get_supported_versions},
    thirdparty::get_protocols,
    voip::get_turn_server_info,
};
use serde_json::{Map, Value, json};

use crate::{
    actors::{accounts::ListPeople, identity::ReadSigner, room_state::DEFAULT_VERSION},
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
