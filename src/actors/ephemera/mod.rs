//! Ephemera: typing and presence, which no disk ever sees.

mod actor;
mod machine;
mod messages;

pub use actor::EphemeraActor;
pub use messages::*;
