//! Identity: who this node is, and which keys speak for others.
//!
//! Invariants: the identity key never leaves this folder; server_keys are issued anew 3 days
//! before they run out; of the server_keys of another server the newest are kept.

mod actor;
mod keys;
mod messages;

pub use actor::IdentityActor;
pub use messages::*;
