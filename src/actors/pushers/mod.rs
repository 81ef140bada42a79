//! Pushers: tells the devices of our users what notified them, through a push gateway of their
//! choice.
//!
//! Nothing is pushed unless a client sets a pusher. What is to be pushed is what the Store lists as
//! notified and unread (`store/notified.rs`), so nothing is lost by a crash; what could not be
//! delivered is tried again, the newest alone. Invariants: a gateway is asked at addresses of the
//! Internet alone, unless the person says otherwise (`src/web_ask.rs`); a pusher ends with its
//! device, or when the gateway says that nobody has its key.

mod actor;
mod machine;
mod messages;

pub use actor::{PushersActor, PushersLinks};
pub use messages::*;
