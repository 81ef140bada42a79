//! StatusPage: what the page at the homeserver's address shows, gathered once for all who look at it.
//!
//! Invariants: while nobody looks, nothing is asked of anybody; however many look, everything is asked once
//! a second at most; the counters are read every 10 s, and an hour of that is kept, so that whoever opens the
//! page sees what was.

mod actor;
mod disk;
mod gather;
mod history;
mod messages;
mod room_view;
mod view;
mod words;

pub use actor::{StatusPageActor, StatusPageLinks};
pub use messages::{ReadFigures, WatchStatus, Watched, WindowsFull};

#[cfg(test)]
mod tests;
