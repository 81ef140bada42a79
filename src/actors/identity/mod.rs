//! Identity: who this node is, and which keys speak for others.
//!
//! Invariants: the identity key never leaves this folder; server_keys are issued anew 3 days
//! before they run out, and written down before anybody sees them
//! (`issued.rs`); of the server_keys of another server the newest of each verify key are kept.

mod actor;
mod elsewhere;
mod encryption;
mod issued;
mod keys;
mod messages;

pub use actor::{IdentityActor, IdentityParts};
pub use elsewhere::AskWith;
pub use keys::{create_from_seed, read_seed, read_server_name};
pub use messages::*;
