//! What clients reach: the Client-Server API, the login pages and Element.
//!
//! Here is every route in one table, and the guard that all requests pass. Invariants: a request
//! whose `Host` is not ours gets nothing; every Matrix answer, errors included, may be read by web
//! clients of any origin, since nothing is given out without an access token that no page has;
//! what the login pages answer may be read by no other origin.

pub mod auth;
pub mod client;
pub mod element;
pub mod error;
pub mod gateway;
pub mod ruma_glue;
pub mod sso;

use actix_web::{
    Error, HttpResponse, ResponseError as _,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderMap, HeaderValue,
        },
    },
    middleware::Next,
    web,
};
use percent_encoding::percent_decode_str;
use ruma::api::client as api;

use self::{
    client::{
        account_data, create, discovery, membership, profile, push, read, send, session, sync,
        to_device,
    },
    error::HttpError,
    gateway::Place,
    ruma_glue::Routes,
};
use crate::config::limits;

/// Every route of the homeserver.
fn routes() -> Routes {
    Routes::default()
        // discovery
        .add::<api::discovery::get_supported_versions::Request, _, _>(discovery::versions)
        .at("GET", "/.well-known/matrix/client", discovery::well_known)
        .at("GET", "/_matrix/key/v2/server", discovery::server_keys)
        .add::<api::discovery::get_capabilities::v3::Request, _, _>(discovery::capabilities)
        .add::<api::voip::get_turn_server_info::v3::Request, _, _>(discovery::turn_server)
        .add::<api::thirdparty::get_protocols::v3::Request, _, _>(discovery::protocols)
        .add::<api::push::get_pushers::v3::Request, _, _>(discovery::pushers)
        .add::<api::account::get_3pids::v3::Request, _, _>(discovery::third_party_ids)
        .add::<api::directory::get_public_rooms::v3::Request, _, _>(discovery::public_rooms)
        .add::<api::directory::get_public_rooms_filtered::v3::Request, _, _>(
            discovery::public_rooms_filtered,
        )
        // sessions and devices
        .add::<api::session::get_login_types::v3::Request, _, _>(session::login_flows)
        .add::<api::session::login::v3::Request, _, _>(session::log_in)
        .add::<api::session::logout::v3::Request, _, _>(session::log_out)
        .add::<api::session::logout_all::v3::Request, _, _>(session::log_out_all)
        .add::<api::session::sso_login::v3::Request, _, _>(sso::redirect)
        .at("POST", sso::CONFIRM_PATH, sso::confirm)
        .add::<api::account::register::v3::Request, _, _>(session::register)
        .add::<api::account::whoami::v3::Request, _, _>(session::who_am_i)
        .add::<api::device::get_devices::v3::Request, _, _>(session::devices)
        .add::<api::device::get_device::v3::Request, _, _>(session::device)
        .add::<api::device::update_device::v3::Request, _, _>(session::rename_device)
        .add::<api::device::delete_device::v3::Request, _, _>(session::delete_one_device)
        .add::<api::device::delete_devices::v3::Request, _, _>(session::delete_some_devices)
        // profile, presence, people
        .add::<api::profile::get_profile::v3::Request, _, _>(profile::profile)
        .add::<api::profile::get_profile_field::v3::Request, _, _>(profile::profile_field)
        .add::<api::profile::set_profile_field::v3::Request, _, _>(profile::set_field)
        .add::<api::profile::delete_profile_field::v3::Request, _, _>(profile::delete_field)
        // ruma has the fields of before v1.16 as endpoints of their own; the handlers are the same.
        .at("GET", "/_matrix/client/r0/profile/{user_id}/{field}", profile::profile_field)
        .at("PUT", "/_matrix/client/r0/profile/{user_id}/{field}", profile::set_field)
        .add::<api::presence::get_presence::v3::Request, _, _>(profile::presence)
        .add::<api::presence::set_presence::v3::Request, _, _>(profile::set_own_presence)
        .add::<api::user_directory::search_users::v3::Request, _, _>(profile::search_people)
        // account data
        .add::<api::config::get_global_account_data::v3::Request, _, _>(account_data::global)
        .add::<api::config::set_global_account_data::v3::Request, _, _>(account_data::set_global)
        .add::<api::config::get_room_account_data::v3::Request, _, _>(account_data::of_room)
        .add::<api::config::set_room_account_data::v3::Request, _, _>(account_data::set_of_room)
        .add::<api::tag::get_tags::v3::Request, _, _>(account_data::tags)
        .add::<api::tag::create_tag::v3::Request, _, _>(account_data::set_tag)
        .add::<api::tag::delete_tag::v3::Request, _, _>(account_data::remove_tag)
        .add::<api::filter::create_filter::v3::Request, _, _>(account_data::save_filter)
        .add::<api::filter::get_filter::v3::Request, _, _>(account_data::filter)
        .add::<api::push::get_pushrules_all::v3::Request, _, _>(push::all)
        .add::<api::push::get_pushrules_global_scope::v3::Request, _, _>(push::global)
        .add::<api::push::get_pushrule::v3::Request, _, _>(push::rule)
        .add::<api::push::set_pushrule::v3::Request, _, _>(push::put)
        .add::<api::push::delete_pushrule::v3::Request, _, _>(push::delete)
        .add::<api::push::get_pushrule_enabled::v3::Request, _, _>(push::enabled)
        .add::<api::push::set_pushrule_enabled::v3::Request, _, _>(push::set_enabled)
        .add::<api::push::get_pushrule_actions::v3::Request, _, _>(push::actions)
        .add::<api::push::set_pushrule_actions::v3::Request, _, _>(push::set_actions)
        // rooms: membership
        .add::<api::room::create_room::v3::Request, _, _>(create::create_room)
        .add::<api::membership::joined_rooms::v3::Request, _, _>(membership::joined)
        .add::<api::membership::join_room_by_id::v3::Request, _, _>(membership::join_by_id)
        .add::<api::membership::join_room_by_id_or_alias::v3::Request, _, _>(
            membership::join_by_id_or_alias,
        )
        .add::<api::membership::invite_user::v3::Request, _, _>(membership::invite)
        .add::<api::membership::kick_user::v3::Request, _, _>(membership::kick)
        .add::<api::membership::ban_user::v3::Request, _, _>(membership::ban)
        .add::<api::membership::unban_user::v3::Request, _, _>(membership::unban)
        .add::<api::membership::leave_room::v3::Request, _, _>(membership::leave)
        .add::<api::membership::forget_room::v3::Request, _, _>(membership::forget)
        // rooms: sending
        .add::<api::message::send_message_event::v3::Request, _, _>(send::event)
        .add::<api::state::send_state_event::v3::Request, _, _>(send::state)
        .add::<api::redact::redact_event::v3::Request, _, _>(send::redact)
        .add::<api::typing::create_typing_event::v3::Request, _, _>(send::typing)
        .add::<api::receipt::create_receipt::v3::Request, _, _>(send::receipt)
        .add::<api::read_marker::set_read_marker::v3::Request, _, _>(send::read_markers)
        .add::<api::to_device::send_event_to_device::v3::Request, _, _>(to_device::send)
        // rooms: reading
        .add::<api::state::get_state_events::v3::Request, _, _>(read::state)
        .add::<api::state::get_state_event_for_key::v3::Request, _, _>(read::state_at)
        .add::<api::membership::get_member_events::v3::Request, _, _>(read::members)
        .add::<api::membership::joined_members::v3::Request, _, _>(read::joined)
        .add::<api::message::get_message_events::v3::Request, _, _>(read::messages)
        .add::<api::room::get_room_event::v3::Request, _, _>(read::event)
        .add::<api::context::get_context::v3::Request, _, _>(read::context)
        .add::<api::sync::sync_events::v3::Request, _, _>(sync::sync)
}

/// Configures the homeserver. [`gateway::Gateway`], [`Place`] and [`sso::PageSecret`] have to be
/// there as app data, and [`guard`] around all of it.
pub fn configure(config: &mut web::ServiceConfig) {
    config.app_data(web::PayloadConfig::new(limits::CLIENT_BODY));
    config.app_data(web::FormConfig::default().error_handler(|_, _| sso::bad_form().into()));
    routes().configure(config);
    config.default_service(web::to(unknown_path));
}

async fn unknown_path() -> HttpResponse {
    HttpError::unrecognized().error_response()
}

/// Passes what is addressed to us, and tells browsers who may read the answer.
pub async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !is_for_us(&request) {
        let why = "the Host header names another server than this one";
        return Ok(request.into_response(HttpError::forbidden(why).error_response()));
    }
    let private = is_page(request.path());
    if request.method() == Method::OPTIONS {
        let mut answer = request.into_response(HttpResponse::NoContent().finish());
        if !private {
            allow_all_origins(answer.headers_mut());
        }
        return Ok(answer);
    }
    let mut answer = next.call(request).await?.map_into_boxed_body();
    if !private {
        allow_all_origins(answer.headers_mut());
    }
    Ok(answer)
}

fn is_for_us(request: &ServiceRequest) -> bool {
    let Some(place) = request.app_data::<web::Data<Place>>() else { return false };
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| Place::is_our_host(host, place.homeserver))
}

/// Tells whether a path is one of the login pages; no other origin reads those. Decoded, since
/// routes match decoded paths.
fn is_page(path: &str) -> bool {
    let path = percent_decode_str(path).decode_utf8_lossy();
    path.contains("/login/sso") || path.starts_with("/_messagehub/")
}

fn allow_all_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests;
