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
mod file_body;
pub mod gateway;
pub mod login;
pub mod metrics;
mod quirks;
pub mod ruma_glue;
pub mod status_page;
mod uia;

use std::{any::Any, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use actix_web::{
    Error, HttpMessage as _, HttpResponse, ResponseError as _,
    body::{BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::{InternalError, PayloadError},
    http::{
        Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderMap, HeaderValue,
        },
    },
    middleware::Next,
    web::{self, Bytes, BytesMut},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use percent_encoding::percent_decode_str;
use ruma::api::client as api;

use self::{
    client::{
        account, account_data, backup, create, directory, discovery, initial, keys, media,
        membership, notifications, profile, push, pushers, read, relations, send, session, sync,
        to_device,
    },
    error::HttpError,
    gateway::Place,
    login::{approve, sso},
    ruma_glue::Routes,
};
use crate::config::limits;

/// Longest wait for a body.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read, so that the client reads our answer: 4 MiB.
const DISCARDED: usize = 4 << 20;

type PayloadStream = Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>>;

/// Every route of the homeserver.
fn routes() -> Routes {
    // Routes are tried in order: those that clients ask all the time come first.
    Routes::default()
        .endpoint::<api::message::send_message_event::v3::Request, _, _>(send::event)
        .endpoint::<api::sync::sync_events::v3::Request, _, _>(sync::sync)
        .endpoint::<api::message::get_message_events::v3::Request, _, _>(read::messages)
        // discovery
        .at("GET", "/", status_page::home)
        .at("POST", status_page::OPEN_PATH, status_page::open)
        .at("GET", "/_messagehub/status/events", status_page::events)
        .at("GET", "/_messagehub/status/qr.svg", status_page::qr)
        .at("POST", "/_messagehub/status/doctor", status_page::examine)
        .at("GET", "/_messagehub/status/files/{name}", status_page::file)
        .endpoint::<api::discovery::get_supported_versions::Request, _, _>(discovery::versions)
        .at("GET", "/.well-known/matrix/client", discovery::well_known)
        .at("GET", "/_matrix/key/v2/server", discovery::server_keys)
        .endpoint::<api::discovery::get_capabilities::v3::Request, _, _>(discovery::capabilities)
        .endpoint::<api::voip::get_turn_server_info::v3::Request, _, _>(discovery::turn_server)
        .endpoint::<api::thirdparty::get_protocols::v3::Request, _, _>(discovery::protocols)
        .endpoint::<api::account::get_3pids::v3::Request, _, _>(discovery::third_party_ids)
        // finding rooms
        .endpoint::<api::directory::get_public_rooms::v3::Request, _, _>(directory::public_rooms)
        .endpoint::<api::directory::get_public_rooms_filtered::v3::Request, _, _>(
            directory::public_rooms_filtered,
        )
        .endpoint::<api::directory::get_room_visibility::v3::Request, _, _>(
            directory::room_visibility,
        )
        .endpoint::<api::directory::set_room_visibility::v3::Request, _, _>(
            directory::set_room_visibility,
        )
        .endpoint::<api::alias::get_alias::v3::Request, _, _>(directory::alias)
        .endpoint::<api::alias::create_alias::v3::Request, _, _>(directory::set_alias)
        .endpoint::<api::alias::delete_alias::v3::Request, _, _>(directory::remove_alias)
        .endpoint::<api::room::aliases::v3::Request, _, _>(directory::aliases_of_room)
        .endpoint::<api::room::get_summary::v1::Request, _, _>(directory::summary)
        .endpoint::<api::space::get_hierarchy::v1::Request, _, _>(directory::hierarchy)
        // sessions and devices
        .endpoint::<api::session::get_login_types::v3::Request, _, _>(session::login_flows)
        .endpoint::<api::session::login::v3::Request, _, _>(session::log_in)
        .endpoint::<api::session::logout::v3::Request, _, _>(session::log_out)
        .endpoint::<api::session::logout_all::v3::Request, _, _>(session::log_out_all)
        .endpoint::<api::session::sso_login::v3::Request, _, _>(sso::redirect)
        .at("POST", sso::CONFIRM_PATH, sso::confirm)
        .endpoint::<api::session::refresh_token::v3::Request, _, _>(session::refresh)
        .at("GET", "/_matrix/client/v3/auth/{auth_type}/fallback/web", approve::page)
        .at("GET", "/_matrix/client/r0/auth/{auth_type}/fallback/web", approve::page)
        .at("POST", approve::APPROVE_PATH, approve::approve)
        // accounts
        .endpoint::<api::account::register::v3::Request, _, _>(account::register)
        .endpoint::<api::account::get_username_availability::v3::Request, _, _>(
            account::is_available,
        )
        .endpoint::<api::account::check_registration_token_validity::v1::Request, _, _>(
            account::is_token_valid,
        )
        .endpoint::<api::account::change_password::v3::Request, _, _>(account::set_password)
        .endpoint::<api::account::deactivate::v3::Request, _, _>(account::deactivate)
        // ruma has lost this one, which the specification deprecates.
        .at("POST", "/_matrix/client/v3/account/3pid", account::old_third_party)
        .endpoint::<api::account::add_3pid::v3::Request, _, _>(account::add_third_party)
        .endpoint::<api::account::bind_3pid::v3::Request, _, _>(account::bind_third_party)
        .endpoint::<api::account::delete_3pid::v3::Request, _, _>(account::delete_third_party)
        .endpoint::<api::account::unbind_3pid::v3::Request, _, _>(account::unbind_third_party)
        .endpoint::<api::account::request_3pid_management_token_via_email::v3::Request, _, _>(
            account::mail_token,
        )
        .endpoint::<api::account::request_3pid_management_token_via_msisdn::v3::Request, _, _>(
            account::phone_token,
        )
        .endpoint::<api::account::whoami::v3::Request, _, _>(session::who_am_i)
        .endpoint::<api::device::get_devices::v3::Request, _, _>(session::devices)
        .endpoint::<api::device::get_device::v3::Request, _, _>(session::device)
        .endpoint::<api::device::update_device::v3::Request, _, _>(session::rename_device)
        .endpoint::<api::device::delete_device::v3::Request, _, _>(session::delete_one_device)
        .endpoint::<api::device::delete_devices::v3::Request, _, _>(session::delete_some_devices)
        // profile, presence, people
        .endpoint::<api::profile::get_profile::v3::Request, _, _>(profile::profile)
        .endpoint::<api::profile::get_profile_field::v3::Request, _, _>(profile::profile_field)
        .endpoint::<api::profile::set_profile_field::v3::Request, _, _>(profile::set_field)
        .endpoint::<api::profile::delete_profile_field::v3::Request, _, _>(profile::delete_field)
        // ruma has the fields of before v1.16 as endpoints of their own; the handlers are the same.
        .at("GET", "/_matrix/client/r0/profile/{user_id}/{field}", profile::profile_field)
        .at("PUT", "/_matrix/client/r0/profile/{user_id}/{field}", profile::set_field)
        .endpoint::<api::presence::get_presence::v3::Request, _, _>(profile::presence)
        .endpoint::<api::presence::set_presence::v3::Request, _, _>(profile::set_own_presence)
        .endpoint::<api::user_directory::search_users::v3::Request, _, _>(profile::search_people)
        // account data
        .endpoint::<api::config::get_global_account_data::v3::Request, _, _>(account_data::global)
        .endpoint::<api::config::set_global_account_data::v3::Request, _, _>(
            account_data::set_global,
        )
        .endpoint::<api::config::get_room_account_data::v3::Request, _, _>(account_data::of_room)
        .endpoint::<api::config::set_room_account_data::v3::Request, _, _>(
            account_data::set_of_room,
        )
        .endpoint::<api::tag::get_tags::v3::Request, _, _>(account_data::tags)
        .endpoint::<api::tag::create_tag::v3::Request, _, _>(account_data::set_tag)
        .endpoint::<api::tag::delete_tag::v3::Request, _, _>(account_data::remove_tag)
        .endpoint::<api::filter::create_filter::v3::Request, _, _>(account_data::save_filter)
        .endpoint::<api::filter::get_filter::v3::Request, _, _>(account_data::filter)
        .endpoint::<api::push::get_pushrules_all::v3::Request, _, _>(push::all)
        .endpoint::<api::push::get_pushrules_global_scope::v3::Request, _, _>(push::global)
        .endpoint::<api::push::get_pushrule::v3::Request, _, _>(push::rule)
        .endpoint::<api::push::set_pushrule::v3::Request, _, _>(push::put)
        .endpoint::<api::push::delete_pushrule::v3::Request, _, _>(push::delete)
        .endpoint::<api::push::get_pushrule_enabled::v3::Request, _, _>(push::enabled)
        .endpoint::<api::push::set_pushrule_enabled::v3::Request, _, _>(push::set_enabled)
        .endpoint::<api::push::get_pushrule_actions::v3::Request, _, _>(push::actions)
        .endpoint::<api::push::set_pushrule_actions::v3::Request, _, _>(push::set_actions)
        .endpoint::<api::push::get_notifications::v3::Request, _, _>(notifications::list)
        .endpoint::<api::push::get_pushers::v3::Request, _, _>(pushers::list)
        .endpoint::<api::push::set_pusher::v3::Request, _, _>(pushers::set)
        // rooms: membership
        .endpoint::<api::room::create_room::v3::Request, _, _>(create::create_room)
        .endpoint::<api::membership::joined_rooms::v3::Request, _, _>(membership::joined)
        .endpoint::<api::membership::join_room_by_id::v3::Request, _, _>(membership::join_by_id)
        .endpoint::<api::membership::join_room_by_id_or_alias::v3::Request, _, _>(
            membership::join_by_id_or_alias,
        )
        .endpoint::<api::membership::invite_user::v3::Request, _, _>(membership::invite)
        .endpoint::<api::membership::kick_user::v3::Request, _, _>(membership::kick)
        .endpoint::<api::membership::ban_user::v3::Request, _, _>(membership::ban)
        .endpoint::<api::membership::unban_user::v3::Request, _, _>(membership::unban)
        .endpoint::<api::membership::leave_room::v3::Request, _, _>(membership::leave)
        .endpoint::<api::membership::forget_room::v3::Request, _, _>(membership::forget)
        // rooms: sending
        .endpoint::<api::state::send_state_event::v3::Request, _, _>(send::state)
        .endpoint::<api::redact::redact_event::v3::Request, _, _>(send::redact)
        .endpoint::<api::typing::create_typing_event::v3::Request, _, _>(send::typing)
        .endpoint::<api::receipt::create_receipt::v3::Request, _, _>(send::receipt)
        .endpoint::<api::read_marker::set_read_marker::v3::Request, _, _>(send::read_markers)
        .endpoint::<api::to_device::send_event_to_device::v3::Request, _, _>(to_device::send)
        // keys for end-to-end encryption
        .endpoint::<api::keys::upload_keys::v3::Request, _, _>(keys::upload)
        .endpoint::<api::keys::get_keys::v3::Request, _, _>(keys::query)
        .endpoint::<api::keys::claim_keys::v3::Request, _, _>(keys::claim)
        .endpoint::<api::keys::get_key_changes::v3::Request, _, _>(keys::changes)
        .endpoint::<api::keys::upload_signing_keys::v3::Request, _, _>(keys::upload_signing)
        .endpoint::<api::keys::upload_signatures::v3::Request, _, _>(keys::upload_signatures)
        // backups of room keys
        .endpoint::<api::backup::create_backup_version::v3::Request, _, _>(backup::create)
        .endpoint::<api::backup::get_latest_backup_info::v3::Request, _, _>(backup::latest)
        .endpoint::<api::backup::get_backup_info::v3::Request, _, _>(backup::info)
        .endpoint::<api::backup::update_backup_version::v3::Request, _, _>(backup::update)
        .endpoint::<api::backup::delete_backup_version::v3::Request, _, _>(backup::delete)
        .endpoint::<api::backup::add_backup_keys::v3::Request, _, _>(backup::put)
        .endpoint::<api::backup::add_backup_keys_for_room::v3::Request, _, _>(backup::put_room)
        .endpoint::<api::backup::add_backup_keys_for_session::v3::Request, _, _>(
            backup::put_session,
        )
        .endpoint::<api::backup::get_backup_keys::v3::Request, _, _>(backup::get)
        .endpoint::<api::backup::get_backup_keys_for_room::v3::Request, _, _>(backup::get_room)
        .endpoint::<api::backup::get_backup_keys_for_session::v3::Request, _, _>(
            backup::get_session,
        )
        .endpoint::<api::backup::delete_backup_keys::v3::Request, _, _>(backup::clear)
        .endpoint::<api::backup::delete_backup_keys_for_room::v3::Request, _, _>(backup::clear_room)
        .endpoint::<api::backup::delete_backup_keys_for_session::v3::Request, _, _>(
            backup::clear_session,
        )
        // media
        .endpoint::<api::media::create_content::v3::Request, _, _>(media::upload)
        .endpoint::<api::media::create_mxc_uri::v1::Request, _, _>(media::create)
        .endpoint::<api::media::create_content_async::v3::Request, _, _>(media::upload_created)
        .endpoint::<api::authenticated_media::get_media_config::v1::Request, _, _>(media::config)
        .at("GET", "/_matrix/media/v3/config", media::config)
        .at("GET", "/_matrix/media/r0/config", media::config)
        .endpoint::<api::authenticated_media::get_media_preview::v1::Request, _, _>(media::preview)
        .at("GET", "/_matrix/media/v3/preview_url", media::preview)
        .at("GET", "/_matrix/media/r0/preview_url", media::preview)
        .endpoint::<api::authenticated_media::get_content::v1::Request, _, _>(media::download)
        .endpoint::<api::authenticated_media::get_content_as_filename::v1::Request, _, _>(
            media::download_as,
        )
        .endpoint::<api::authenticated_media::get_content_thumbnail::v1::Request, _, _>(
            media::thumbnail,
        )
        .at("GET", "/_matrix/media/{version}/download/{server}/{id}", media::without_token)
        .at("GET", "/_matrix/media/{version}/download/{server}/{id}/{name}", media::without_token)
        .at("GET", "/_matrix/media/{version}/thumbnail/{server}/{id}", media::without_token)
        // rooms: reading
        .endpoint::<api::peeking::get_current_state::v3::Request, _, _>(initial::snapshot)
        .endpoint::<api::state::get_state_events::v3::Request, _, _>(read::state)
        .endpoint::<api::state::get_state_event_for_key::v3::Request, _, _>(read::state_at)
        .endpoint::<api::membership::get_member_events::v3::Request, _, _>(read::members)
        .endpoint::<api::membership::joined_members::v3::Request, _, _>(read::joined)
        .endpoint::<api::room::get_room_event::v3::Request, _, _>(read::event)
        .endpoint::<api::context::get_context::v3::Request, _, _>(read::context)
        .endpoint::<api::relations::get_relating_events::v1::Request, _, _>(relations::all)
        .endpoint::<api::relations::get_relating_events_with_rel_type::v1::Request, _, _>(
            relations::of_relation,
        )
        .endpoint::<
            api::relations::get_relating_events_with_rel_type_and_event_type::v1::Request,
            _,
            _,
        >(relations::of_type)
        .endpoint::<api::threads::get_threads::v1::Request, _, _>(relations::threads)
}

/// Configures the homeserver. [`gateway::Gateway`], [`Place`] and [`sso::Desk`] have to be
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
    let mut request = request;
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
    // A file is read by its handler, as it comes.
    let body = match media::is_upload(request.method(), request.path()) {
        true => Ok(request.take_payload()),
        false => read_body(request.take_payload()).await,
    };
    let mut answer = match body {
        Ok(body) => {
            request.set_payload(body);
            // Called within the future, so that whatever panics is caught.
            let answered = async move { next.call(request).await };
            match AssertUnwindSafe(answered).catch_unwind().await {
                Ok(answer) => answer?.map_into_boxed_body(),
                Err(panic) => return Err(panicked(panic.as_ref(), private)),
            }
        }
        Err(error) => request.into_response(error.error_response()),
    };
    if !private {
        allow_all_origins(answer.headers_mut());
    }
    Ok(answer)
}

/// Answers a request that made a handler panic: a fault of ours, of which the client hears, and
/// which the panic hook has written to standard error.
fn panicked(panic: &(dyn Any + Send), private: bool) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    log::error!(why = text.unwrap_or("unknown"); "a request made a handler panic; please report it");
    let why = "this request met a fault of the server, which its log describes";
    let error = HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", why);
    let mut answer = error.error_response();
    if !private {
        allow_all_origins(answer.headers_mut());
    }
    InternalError::from_response(why, answer).into()
}

/// Reads the body of a request before anything is answered.
///
/// A connection on which an answer overtakes the body is closed with a reset, which can reach the
/// client before the answer does: it would see a broken network instead of a 401 or 404.
async fn read_body(mut payload: Payload) -> Result<Payload, HttpError> {
    let read = async {
        let (mut body, mut len) = (BytesMut::new(), 0_usize);
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| HttpError::not_json(error.to_string()))?;
            len = len.saturating_add(chunk.len());
            if len <= limits::CLIENT_BODY {
                body.extend_from_slice(&chunk);
            } else if len > DISCARDED {
                break;
            }
        }
        if len > limits::CLIENT_BODY {
            let why = format!("the body is larger than {} bytes", limits::CLIENT_BODY);
            return Err(HttpError::too_large(why));
        }
        Ok(payload_of(body.freeze()))
    };
    let late =
        || HttpError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "the body came too slowly");
    tokio::time::timeout(BODY_WAIT, read).await.unwrap_or_else(|_| Err(late()))
}

/// Makes a body of bytes.
fn payload_of(bytes: Bytes) -> Payload {
    let body: PayloadStream = Box::pin(stream::iter([Ok(bytes)]));
    Payload::from(body)
}

fn is_for_us(request: &ServiceRequest) -> bool {
    let Some(place) = request.app_data::<web::Data<Place>>() else { return false };
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| Place::is_our_host(host, place.homeserver))
}

/// Tells whether a path is one of the login pages or the status page; no other origin reads those.
/// Decoded, since routes match decoded paths.
fn is_page(path: &str) -> bool {
    let path = percent_decode_str(path).decode_utf8_lossy();
    path == "/"
        || path.contains("/login/sso")
        || path.contains("/fallback/web")
        || path.starts_with("/_messagehub/")
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
