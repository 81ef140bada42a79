//! RoomState: the owner of all rooms. Whoever wants something of a room sends `ToRoom` here.
//!
//! Invariant: at most one actor a room, so there is never a second writer. RoomState and the
//! rooms share one Arbiter; no address of a room leaves this folder.

mod actor;
mod create;
mod index;
mod invites;
mod keys;
mod messages;
mod presence;
mod reads;
mod sharing;

pub use actor::{RoomStateActor, RoomStateLinks};
pub use create::DEFAULT_VERSION;
pub use messages::*;
