//! Gossip: one topic a room, signed transactions sealed with a key of the room, and a verdict owed
//! for each message.
//!
//! Invariants: nothing leaves unsealed, and what was not sealed is not read; what came from a peer without a proven identity, is addressed to another room, or
//! came before is never delivered; a message without a verdict in time counts as ignored; nothing
//! here is relied on for delivery.

mod actor;
mod backlog;
#[cfg(test)]
mod bytes;
mod keyring;
mod machine;
mod messages;
#[cfg(test)]
pub(crate) mod sim;

pub use actor::{GossipActor, GossipParts};
pub use messages::*;
