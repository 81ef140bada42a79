//! The Client-Server API by family: each handler parses, asks and renders.

pub mod account_data;
pub mod create;
pub mod discovery;
pub mod membership;
pub mod profile;
pub mod push;
pub mod read;
mod render;
pub mod send;
pub mod session;
pub mod sync;
mod sync_body;
pub mod to_device;

use ruma::{CanonicalJsonObject, UserId, serde::Raw};
use serde_json::value::RawValue;

use super::error::HttpError;
use crate::actors::accounts::Session;

/// Refuses what concerns another user than the one who asks.
fn check_own(session: &Session, user_id: &UserId) -> Result<(), HttpError> {
    if session.user_id != user_id {
        return Err(HttpError::forbidden("that is another user's"));
    }
    Ok(())
}

/// Reads content that goes into an event: an object in canonical JSON, so without floats.
fn canonical(content: &RawValue) -> Result<CanonicalJsonObject, HttpError> {
    serde_json::from_str(content.get())
        .map_err(|error| HttpError::bad_json(format!("no content for an event: {error}")))
}

fn canonical_of<T>(content: &Raw<T>) -> Result<CanonicalJsonObject, HttpError> {
    canonical(content.json())
}
