//! What the Store is asked. Sent by every other actor and by the http handlers.
//!
//! Writes are answered when they are safe from a power cut ([`CommitRoom`], [`WriteRows`]); reads
//! see every write that was applied, and [`ReadSync`] only what is durable. No sled type and no
//! key layout shows here.

use ruma::OwnedServerName;

mod notified;
mod relations;
mod room;
mod rooms;
mod rows;
mod sync;

pub use notified::*;
pub use relations::*;
pub use room::*;
pub use rooms::*;
pub use rows::*;
pub use sync::*;

/// What went wrong in the Store. The node stops taking writes after a failed one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refused a write or a flush; the node ends.
    #[error("{file}: {why}; free or repair the disk, then start again")]
    Disk {
        /// File or folder.
        file: String,
        /// What the system said.
        why: String,
    },
    /// A value is over the limit of one row (100 KiB).
    #[error("a value of {0} bytes is too large to store")]
    TooLarge(usize),
    /// What was read cannot be understood.
    #[error("the database holds an unreadable {what} row: run with an older backup")]
    Corrupt {
        /// Which rows.
        what: &'static str,
    },
    /// Another process has the data folder.
    #[error(
        "the data folder {folder} is in use by another messagehub; stop it or choose another with \
         --data"
    )]
    InUse {
        /// The data folder.
        folder: String,
    },
    /// The database was written by a program that is newer than this one.
    #[error(
        "the database {folder} was written by a newer messagehub (layout {found}, this one knows \
         {known}); start that version, or choose another data folder with --data"
    )]
    NewerSchema {
        /// The database.
        folder: String,
        /// Its layout.
        found: u32,
        /// The newest layout that is understood.
        known: u32,
    },
    /// The database was damaged from outside.
    #[error(
        "the database {folder} is damaged ({why}); restore the data folder from a backup, or \
         choose another one with --data"
    )]
    Damaged {
        /// The database.
        folder: String,
        /// What is wrong.
        why: String,
    },
    /// The journal was damaged from outside.
    #[error(
        "the journal is damaged at byte {at} of {file} ({why}); run `messagehub rebuild` with the same \
         --data, which makes it anew where the database is whole, or restore the data folder from a \
         backup"
    )]
    JournalDamaged {
        /// The file.
        file: String,
        /// Where in it.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// Database and journal are of two copies of a data folder.
    #[error(
        "{journal} is not the journal of the database {db}: restore both from one backup, or move away \
         the one of the two that is wrong, and it is made anew from the other"
    )]
    JournalForeign {
        /// The journal.
        journal: String,
        /// The database.
        db: String,
    },
    /// The disk has no room left.
    #[error("the disk of {folder} is full: make room and start again; the data is whole")]
    DiskFull {
        /// The database.
        folder: String,
    },
    /// Something else says that there was a database.
    #[error(
        "the database {db} is missing or empty, though {witness} is there; restore the data \
         folder from a backup, or choose another one with --data to begin as a new user"
    )]
    DatabaseLost {
        /// The database.
        db: String,
        /// The file that says so.
        witness: String,
    },
    /// The database is older than it was once.
    #[error(
        "the database {db} lacks the newest of what was in it (it ends at {found}, not {known}); \
         restore the data folder from a backup, or go on with what is left by writing the word \
         adopt into {mark}"
    )]
    DatabaseOlder {
        /// The database.
        db: String,
        /// Its last position.
        found: u64,
        /// The last position that it had.
        known: u64,
        /// The file that says so.
        mark: String,
    },
    /// The file that says how far the database got cannot be read.
    #[error(
        "{mark} is missing or damaged, so nobody can tell whether the database beside it is whole; \
         restore the data folder from a backup, or go on by writing the word adopt into {mark}"
    )]
    MarkLost {
        /// The file.
        mark: String,
    },
    /// The keys are gone and the database is not.
    #[error(
        "{keys} is missing, though the database {db} belongs to {owner}; restore it from a backup, \
         or choose another data folder with --data to begin as a new user"
    )]
    KeysLost {
        /// The key file.
        keys: String,
        /// The database.
        db: String,
        /// Whose it is.
        owner: OwnedServerName,
    },
    /// Keys and database are of two servers.
    #[error(
        "{keys} belongs to {found}, and the database {db} to {owner}; put back the one that is \
         wrong, or choose another data folder with --data"
    )]
    ForeignKeys {
        /// The key file.
        keys: String,
        /// Whose it is.
        found: OwnedServerName,
        /// The database.
        db: String,
        /// Whose it is.
        owner: OwnedServerName,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}
