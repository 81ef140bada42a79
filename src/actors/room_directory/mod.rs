//! RoomDirectory: how rooms are found: by alias, in lists of public rooms, in spaces.
//!
//! An alias is of one server, which alone says where it leads. What a list or a space shows of a room is
//! its card, read from the current state (`store/cards.rs`) or told by a server that is in it.
//! Invariants: a room that neither its members nor its rules show to somebody is not there for them,
//! whichever way they ask; what another server tells of a room is shown and never believed further.
//!
//! | file | what |
//! |---|---|
//! | `aliases` | which aliases there are, which rooms are published. Pure |
//! | `list` | what of a list somebody is looking for, page by page. Pure |
//! | `seen` | who may see a card. Pure |
//! | `hierarchy` | the rooms of a space, and of the spaces in it |
//! | `remote` | asking other servers |
//! | `serve` | what other servers ask |

mod actor;
mod aliases;
mod hierarchy;
mod list;
mod messages;
mod remote;
mod seen;
mod serve;

pub use actor::{RoomDirectoryActor, RoomDirectoryLinks};
pub use messages::*;
