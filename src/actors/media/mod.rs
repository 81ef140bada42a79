//! Media: pictures and files, ours and those of others that somebody here looked at.
//!
//! Bytes are in files that are called by their BLAKE3 hash, what is known of them is in rows of the Store.
//! Invariants:
//!
//! - A row names a hash only when the file of that hash is whole and on disk; a file without a row is
//!   nobody's, and is gone with the next start.
//! - What is on its way has its room (`library`), so a full disk stops an upload and never the database.
//! - What came from another server was checked piece by piece against what the server whose media it is
//!   signed, whoever it came from.
//! - No file is ever in memory as a whole.
//!
//! | file | what |
//! |---|---|
//! | `library` | what there is, who has how much, what gives way |
//! | `files` | where it is on disk |
//! | `upload`, `find`, `give` | handlers: our users upload, and look for media; other servers ask for them |
//! | `offers`, `plan`, `fetch` | who has what is another server's; which piece is asked of whom; fetching it |
//! | `arrive` | handlers: what is another server's is looked for, comes, and is kept |
//! | `thumbnail`, `draw` | making thumbnails; handlers of them |
//! | `writer` | what comes: hashed and written, off the threads of actors |

mod actor;
mod arrive;
mod draw;
mod fetch;
mod files;
mod find;
mod give;
mod library;
mod messages;
mod offers;
mod plan;
mod thumbnail;
mod upload;
mod writer;

pub use actor::{MediaActor, MediaLinks};
pub use messages::*;
pub use thumbnail::ThumbnailSize;
pub use writer::Writer;

#[cfg(test)]
pub(crate) use thumbnail::tests as thumbnail_tests;
