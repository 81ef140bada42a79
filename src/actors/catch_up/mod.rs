//! CatchUp: fetches what was said in our rooms while we did not hear it: ids first, then the events,
//! oldest first, from all members who have them at once.
//!
//! Invariants: no event is asked of two servers at a time, nor handed to a room before what comes before
//! it; whoever names what he does not give costs two requests. Where more is missing than is fetched in one
//! go, the room goes on behind a gap, and what is in it comes in the background, from its end.

mod actor;
mod fill;
mod filling;
mod machine;
mod messages;
mod room;
#[cfg(test)]
mod sim;
mod wire;

pub use actor::{CatchUpActor, CatchUpLinks};
pub use messages::{CatchUp, CaughtUp, FillGap, ForgetServer, TakeIn};
pub use wire::{EventsAnswer, IdsAnswer};
