//! What Previews is asked.

use std::sync::Arc;

use actix::Message;
use ruma::OwnedUserId;
use serde_json::{Map, Value};
use url::Url;

use crate::actors::error::AskError;

/// What is shown of a link: the properties of OpenGraph, and `matrix:image:size`.
pub type Preview = Map<String, Value>;

/// Asks what is behind a link.
#[derive(Message, Debug)]
#[rtype(result = "Result<Arc<Preview>, PreviewError>")]
pub struct ReadPreview {
    /// The link.
    pub url: Url,
    /// Who asks.
    pub user_id: OwnedUserId,
}

/// Why there is no preview.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PreviewError {
    /// It is no link to a web page.
    #[error("{0} is no link to a web page, or too long")]
    NoLink(String),
    /// The server cannot be asked.
    #[error("{0}")]
    Web(String),
    /// The server does not give it.
    #[error("{0} answers {1}")]
    Refused(String, u16),
    /// It takes too long.
    #[error("{0} takes too long")]
    TimedOut(String),
    /// Too much at once.
    #[error("too many previews in a short time: try again in a while")]
    Busy,
    /// Another part did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}
