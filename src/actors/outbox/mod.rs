//! Outbox: what is owed to other servers, on disk until they have it, have refused it, or it is too old.
//!
//! Whoever owes something to a server that may be off says so here, once, and is answered when that
//! is on disk. Invariants:
//!
//! - What one server is owed reaches it in the order in which it was owed, one request at a time.
//! - What is owed is idempotent, so that a request which arrived while its answer did not can be sent
//!   again: an event counts by its id, a message to devices by its `message_id`.
//! - Number, bytes and age of what is owed are bounded, for one server and for all; who cannot be
//!   reached costs one search an hour.

mod actor;
mod kept;
mod machine;
mod messages;
#[cfg(test)]
pub(crate) mod sim;

pub use actor::{OutboxActor, OutboxLinks};
pub use messages::*;
