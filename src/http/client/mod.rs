//! The Client-Server API by family: each handler parses, asks and renders.

pub mod account;
pub mod account_data;
pub mod backup;
pub mod create;
pub mod directory;
pub mod discovery;
pub mod initial;
pub mod keys;
pub mod media;
pub mod membership;
pub mod notifications;
pub mod profile;
pub mod push;
pub mod pushers;
pub mod read;
pub mod relations;
mod render;
pub mod send;
pub mod session;
pub mod sync;
mod sync_body;
pub mod to_device;

use ruma::{
    CanonicalJsonObject, OwnedRoomId, UserId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter},
    events::room::member::MembershipState,
    presence::PresenceState,
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    error::HttpError,
    gateway::{Gateway, ask},
};
use crate::actors::{accounts::Session, room_state::ReadMembership};

/// Refuses what concerns another user than the one who asks.
fn check_own(session: &Session, user_id: &UserId) -> Result<(), HttpError> {
    if session.user_id != user_id {
        return Err(HttpError::forbidden("that is another user's"));
    }
    Ok(())
}

/// Returns what the user is in a room.
async fn membership(
    gateway: &Gateway,
    session: &Session,
    room_id: &OwnedRoomId,
) -> Result<Option<MembershipState>, HttpError> {
    let (user_id, room_id) = (session.user_id.clone(), room_id.clone());
    ask(&gateway.rooms.membership, ReadMembership { user_id, room_id }).await
}

/// Refuses what concerns a room that the user has nothing to do with, whether or not it is.
async fn check_room(
    gateway: &Gateway,
    session: &Session,
    room_id: &OwnedRoomId,
) -> Result<(), HttpError> {
    let membership = membership(gateway, session, room_id).await?;
    membership.map(drop).ok_or_else(|| HttpError::forbidden("you are in no such room"))
}

/// Refuses what only members may ask.
async fn check_joined(
    gateway: &Gateway,
    session: &Session,
    room_id: &OwnedRoomId,
) -> Result<(), HttpError> {
    let membership = membership(gateway, session, room_id).await?;
    if membership != Some(MembershipState::Join) {
        return Err(HttpError::forbidden("you are not in the room"));
    }
    Ok(())
}

/// Refuses a presence that the specification does not have.
fn known_presence(presence: &PresenceState) -> Result<(), HttpError> {
    use PresenceState::{Offline, Online, Unavailable};
    match presence {
        Offline | Online | Unavailable => Ok(()),
        _ => Err(HttpError::invalid_param("presence is online, offline or unavailable")),
    }
}

/// Refuses a membership that the specification does not have.
fn known_membership(membership: Option<&MembershipState>) -> Result<(), HttpError> {
    use MembershipState::{Ban, Invite, Join, Knock, Leave};
    match membership {
        None | Some(Ban | Invite | Join | Knock | Leave) => Ok(()),
        _ => Err(HttpError::invalid_param("membership is join, invite, knock, leave or ban")),
    }
}

/// Tells whether a client loads members lazily.
fn is_lazy(filter: &RoomEventFilter) -> bool {
    filter.lazy_load_options != LazyLoadOptions::Disabled
}

/// Reads content that goes into an event: an object in canonical JSON, so without floats.
fn canonical(content: &RawValue) -> Result<CanonicalJsonObject, HttpError> {
    serde_json::from_str(content.get())
        .map_err(|error| HttpError::bad_json(format!("no content for an event: {error}")))
}

fn canonical_of<T>(content: &Raw<T>) -> Result<CanonicalJsonObject, HttpError> {
    canonical(content.json())
}
