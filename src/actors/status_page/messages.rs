//! What StatusPage is asked.

use std::sync::Arc;

use actix::Message;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::metrics::Figures;

/// Asks to be shown what a node is at, for one window.
#[derive(Message, Debug)]
#[rtype(result = "Result<Watched, WindowsFull>")]
pub struct WatchStatus;

/// What one window is shown.
#[derive(Debug)]
pub struct Watched {
    /// The counters as they were, as JSON: told once.
    pub history: String,
    /// All that is shown, as JSON, each time that it changes; empty before the first look.
    pub shown: watch::Receiver<Arc<str>>,
    /// Its place among the windows, free again when this is dropped.
    pub place: OwnedSemaphorePermit,
}

/// As many windows show it as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many windows show this page already: close one of them")]
pub struct WindowsFull;

/// Asks for all figures, as Prometheus is told them. Fails with a line that names the part which does not
/// answer.
#[derive(Message, Debug)]
#[rtype(result = "Result<Box<Figures>, String>")]
pub struct ReadFigures;
