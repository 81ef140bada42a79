//! Rendezvous: who is where, and finding people (`docs/PROTOCOL.md` §6).
//!
//! Invariants: a node speaks for a server only by live server_keys that name its PeerId, checked
//! on every connection; a provider record is a hint and never more, so what was asked for must be
//! what was proven; every search is bounded in time and number.

mod actor;
mod book;
mod hunt;
mod machine;
mod messages;
mod places;

pub use actor::{RendezvousActor, RendezvousParts};
pub use messages::*;
