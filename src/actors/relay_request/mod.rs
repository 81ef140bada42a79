//! RelayRequest: signed requests of the Server-Server API, out and in, directly and through others
//! (`docs/PROTOCOL.md` §4).
//!
//! Invariants: an answer is handed on only if it is of the asked server, for this request; a
//! request is handed on only if it verifies, is for us, and never came before, whichever way it
//! came; nothing else of this node can be reached from libp2p. What is carried for others is not
//! read, and costs them no more than their share.

mod actor;
mod carriage;
mod carried;
mod carry;
mod clocks;
mod inbound;
mod kept;
mod machine;
mod messages;
mod outbound;
mod pace;

pub use actor::{RelayRequestActor, RelayRequestParts};
pub use clocks::ClockStatus;
pub use messages::*;
