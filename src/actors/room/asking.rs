//! Asking another server: what a request is made of, and what its answer says.

use std::time::Duration;

use ruma::{CanonicalJsonValue, OwnedServerName};

use super::messages::RoomError;
use crate::{
    actors::upward::{FederationError, SendFederation},
    config::limits,
    proto::endpoint::Endpoint,
};

/// Makes a request to another server.
pub(in crate::actors) fn federation(
    destination: &OwnedServerName,
    endpoint: Endpoint,
    content: serde_json::Value,
    timeout: Duration,
) -> Result<SendFederation, RoomError> {
    let content = CanonicalJsonValue::try_from(content).map_err(RoomError::internal)?;
    Ok(SendFederation { destination: destination.clone(), endpoint, content, timeout })
}

/// Reads the body of an answer.
pub(in crate::actors) fn read<T: serde::de::DeserializeOwned>(
    server: &OwnedServerName,
    answer: CanonicalJsonValue,
) -> Result<T, RoomError> {
    let text =
        serde_json::to_string(&answer).map_err(|error| bad_answer(server, &error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| bad_answer(server, &error.to_string()))
}

/// Says that an answer is of no use.
pub(super) fn bad_answer(server: &OwnedServerName, why: &str) -> RoomError {
    RoomError::Federation(FederationError::BadAnswer {
        server: server.clone(),
        why: why.to_owned(),
    })
}

/// Most servers that are asked one after another.
pub(super) const CANDIDATES: usize = 8;

/// Longest wait for one server when several can be asked.
pub(super) fn each_wait(servers: usize) -> Duration {
    if servers > 1 { limits::FEDERATION_WAIT / 2 } else { limits::FEDERATION_WAIT }
}
