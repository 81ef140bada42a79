//! Never losing who one is, nor what was said: backups, and the identity in 24 words.
//!
//! Invariants: a backup is readable with its passphrase alone, and by nobody in part; nothing is put
//! into a data folder before all of it was checked; the words are shown to who asks for them, and to no
//! log.

mod backup;
mod passphrase;
mod restore;
mod sealed_file;
pub mod terminal;
mod words;

/// Why something could not be kept or brought back: one line, naming the file.
#[derive(Debug, thiserror::Error)]
pub enum SafekeepingError {
    /// A file or folder cannot be used.
    #[error("{file}: {why}")]
    File {
        /// Which.
        file: String,
        /// What the system said, or what is wrong.
        why: String,
    },
    /// The passphrase does not open a backup.
    #[error("{0}: the passphrase is not the one that it was made with")]
    Passphrase(String),
    /// A backup is damaged.
    #[error("{file} is damaged or cut off ({why}): nothing was restored; take another copy of it")]
    Damaged {
        /// The backup.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// What should be overwritten is there.
    #[error("{0} is there already; choose another name, or add --force to overwrite it")]
    Exists(String),
    /// There is something in a data folder that should be empty.
    #[error(
        "the data folder {0} is not empty: a backup is restored into an empty one; choose another \
         with --data, or move what is in it away"
    )]
    NotEmpty(String),
    /// Database or journal cannot be used.
    #[error(transparent)]
    Store(#[from] crate::actors::store::StoreError),
    /// The keys cannot be used.
    #[error(transparent)]
    Identity(#[from] crate::actors::identity::IdentityError),
}

/// Says what a file's error means.
fn failed(path: &std::path::Path, why: &dyn std::fmt::Display) -> SafekeepingError {
    SafekeepingError::File { file: path.display().to_string(), why: why.to_string() }
}

/// Opens a new file for its owner alone.
fn create(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    crate::platform::files::owner_only(options.write(true).create_new(true)).open(path)
}
