//! The Store: rooms, their events and timelines, and the small rows of others, on disk.
//!
//! An actor alone on its thread owns the database and blocks it freely. A write shows in all reads
//! at once and is answered when it is safe from a power cut: while one group of writes goes to the
//! disk, the next one gathers. Invariants:
//!
//! - What was answered is on disk; what is shown by `/sync` was answered or is durable anyway.
//! - A commit is there as a whole or not at all, after any crash.
//! - No other part of the program knows what database it is.
//!
//! | file | what |
//! |---|---|
//! | `actor` | takes the messages of `messages` |
//! | `flusher`, `journal` | the thread that makes writes durable, and what it writes |
//! | `follower`, `disk` | the thread that brings them to the database |
//! | `compaction` | the journal does not grow for ever |
//! | `recovery`, `mend` | the database from the journal, and the journal from the database |
//! | `open`, `trial` | lock, recovery; first on a copy, where it is not certain to be whole |
//! | `owner`, `mark` | whether keys and database belong together, and how far it got |
//! | `migrations` | from older layouts to that of today |
//! | `database`, `schema` | rows, groups of writes; keys and values |
//! | `backwards` | ranges that are read from their end |
//! | `commit` | what a step of a room changes |
//! | `rooms`, `events`, `groups`, `timeline`, `unread` | the rows behind it, and reads of them |
//! | `history` | where history goes that is fetched later |
//! | `gaps`, `missing_ids` | what servers lack of each other's rooms |
//! | `inner_gaps` | where history is missing in the middle |
//! | `unspread` | what nobody else is known to have |
//! | `relations` | which events relate to which: edits, threads, references |
//! | `notified` | what notified our users lately |
//! | `sync`, `sync_room`, `filter` | what changed since a position |
//! | `device_lists` | who shares rooms with whom, and whose devices changed for a user |
//! | `rows`, `directory`, `receipts` | small rows of others, the user directory, who read how far |

mod actor;
mod backwards;
mod cards;
mod commit;
mod compaction;
mod database;
mod device_lists;
mod directory;
mod disk;
mod events;
mod faces;
mod filter;
mod flusher;
mod follower;
mod gaps;
mod groups;
mod history;
mod inner_gaps;
mod journal;
mod mark;
mod mend;
mod messages;
mod migrations;
mod missing_ids;
mod notified;
mod open;
mod owner;
mod receipts;
mod recovery;
mod relations;
mod rooms;
mod rows;
mod schema;
mod sync;
mod sync_room;
mod timeline;
mod trial;
mod unread;
mod unspread;

#[cfg(test)]
mod tests;

pub use actor::{StoreActor, start, start_for, start_sized};
pub use flusher::Sizes;
pub use mend::{Checked, Rebuilt, begin, check, journal_cut, make_from_journal, rebuild};
pub use messages::*;

/// The name under which the database writes to the log. What it says of damage is said by
/// [`StoreError`] in words that help.
pub const DATABASE_LOG: &str = "sled";
