//! TEMP.

mod messages;

pub use messages::*;
