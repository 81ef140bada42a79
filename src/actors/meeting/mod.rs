//! Meeting: compares what we have of rooms with the servers that we meet, gives them what they lack, and
//! finds out whether others carry to those who are not connected (`docs/PROTOCOL.md` §5).
//!
//! Invariants: of each server one exchange of all rooms at a time; a room is compared only with servers that are in
//! it, and only rooms that differ are started; what another server answers about rooms that were not
//! asked for is not looked at.

mod absent;
mod actor;
mod distant;
mod exchange;
mod given;
mod heads;
mod heard;
mod held;
mod meetings;
mod messages;
mod missing;
mod spreading;
mod unspread;

pub use actor::{MeetingActor, MeetingLinks};
pub use messages::*;
