//! RelayRequest: signed requests of the Server-Server API, out and in (`docs/PROTOCOL.md` §4).
//!
//! Invariants: an answer is handed on only if it is of the asked server, for this request; a
//! request is handed on only if it verifies, is for us, and never came before; nothing else of
//! this node can be reached from libp2p.

mod actor;
mod clocks;
mod inbound;
mod machine;
mod messages;
mod outbound;

pub use actor::{RelayRequestActor, RelayRequestParts};
pub use clocks::ClockStatus;
pub use messages::*;
