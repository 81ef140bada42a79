//! One Matrix room each: validates PDUs, keeps the event graph and the state, publishes.

mod machine;
mod messages;

pub use messages::*;
