//! The data folder: keys and every message of a person, and so for the eyes of one account alone.
//!
//! A folder that was there before, made by `mkdir` or as a volume, is closed to others at each
//! start, with what this program keeps in it. What cannot be closed is not used.

use std::{fs, io, path::Path};

use crate::platform::files;

/// What this program keeps in the folder; nothing else in it is touched.
const OURS: [&str; 8] =
    ["db", LOCK, "db.mark", "db.trial", "journal", "keys.json", "libp2p.key", "dht-peers.json"];
/// The file that whoever uses the folder holds locked.
pub const LOCK: &str = "db.lock";
/// Files of it that a backup has, beside journal and media, where they are there.
pub const BACKED_UP: [&str; 4] = ["keys.json", "libp2p.key", "dht-peers.json", "config.json"];
/// Why the node ended, where that is for its person to decide; gone at the next start.
const LAST_WORD: &str = "stopped.txt";
/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused something.
    #[error("the data folder {folder} cannot be used: {why}; choose another with --data")]
    Unusable {
        /// The folder.
        folder: String,
        /// What it said.
        why: String,
    },
    /// It belongs to another account, and lets this one not in: a folder that was mounted.
    #[error(
        "the data folder {folder} belongs to uid {owner}, and this program runs as uid {me}: run \
         `chown -R {me} {folder}` as root (of a container: on the folder that is mounted there), or \
         choose another with --data"
    )]
    Foreign {
        /// The folder.
        folder: String,
        /// Whose it is.
        owner: u32,
        /// Who runs.
        me: u32,
    },
    /// Many share it.
    #[error(
        "the data folder {0} is one that everybody may write to: choose one of your own with --data"
    )]
    Shared(String),
    /// It is open to others, and belongs to somebody else.
    #[error(
        "{file} may be read by other accounts (mode {mode:o}) and cannot be closed to them: {why}; \
         run `chmod go= {file}` as its owner, or choose another data folder with --data"
    )]
    Open {
        /// File or folder.
        file: String,
        /// Its mode.
        mode: u32,
        /// What the system said.
        why: String,
    },
}

/// Leaves word of why the node ends, for `messagehub doctor`.
pub fn leave_last_word(data: &Path, why: &str) {
    if let Err(error) = fs::write(data.join(LAST_WORD), why) {
        log::warn!(error:%; "the reason of the end could not be written down");
    }
}

/// Reads why the last run of the node ended, if it left word.
pub fn last_word(data: &Path) -> Option<String> {
    fs::read_to_string(data.join(LAST_WORD)).ok()
}

/// Forgets why the last run ended.
pub fn forget_last_word(data: &Path) {
    let _ = fs::remove_file(data.join(LAST_WORD));
}

/// Makes the data folder where it is missing, and closes it to other accounts.
pub fn prepare(data: &Path) -> Result<(), FolderError> {
    let unusable = |error: io::Error| FolderError::Unusable {
        folder: data.display().to_string(),
        why: error.to_string(),
    };
    files::make_private_folder(data).map_err(unusable)?;
    if files::is_shared_by_all(&fs::metadata(data).map_err(unusable)?) {
        return Err(FolderError::Shared(data.display().to_string()));
    }
    if let Err(error) = fs::read_dir(data).map(drop).and_then(|()| try_to_write(data)) {
        return Err(match files::foreign_owner(data) {
            Some((owner, me)) => {
                FolderError::Foreign { folder: data.display().to_string(), owner, me }
            }
            None => unusable(error),
        });
    }
    close(data)?;
    if !files::is_private_by_place(data) {
        log::warn!(
            "the data folder {} is outside of your own folders: whether other accounts of this machine \
             can read it is up to you (Properties, Security)",
            data.display()
        );
    }
    for name in OURS {
        close_all(&data.join(name))?;
    }
    Ok(())
}

/// A folder that can be read and not written to is of no use, and better named now than by whoever fails
/// to write first.
fn try_to_write(data: &Path) -> io::Result<()> {
    if files::may_write_in(data) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Closes a file, or a folder with all that is in it. Links are not followed.
fn close_all(path: &Path) -> Result<(), FolderError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if meta.is_symlink() {
        return Ok(());
    }
    close(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            close_all(&entry.path())?;
        }
    }
    Ok(())
}

fn close(path: &Path) -> Result<(), FolderError> {
    let refused = |mode: u32, error: io::Error| FolderError::Open {
        file: path.display().to_string(),
        mode,
        why: error.to_string(),
    };
    let meta = fs::metadata(path).map_err(|error| refused(0, error))?;
    let Some(mode) = files::open_mode(&meta) else { return Ok(()) };
    files::close_to_others(path).map_err(|error| refused(mode, error))?;
    log::warn!(path:% = path.display(); "others could read this; they cannot any more");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn an_open_folder_is_closed_and_what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("db/blobs")).unwrap();
        for (file, open) in [("db/db", 0o644), ("keys.json", 0o640), ("notes.txt", 0o644)] {
            fs::write(data.join(file), "x").unwrap();
            fs::set_permissions(data.join(file), Permissions::from_mode(open)).unwrap();
        }
        for folder in ["", "db", "db/blobs"] {
            fs::set_permissions(data.join(folder), Permissions::from_mode(0o755)).unwrap();
        }
        prepare(&data).unwrap();
        for (path, expected) in [
            ("", 0o700),
            ("db", 0o700),
            ("db/blobs", 0o700),
            ("db/db", 0o600),
            ("keys.json", 0o600),
            ("notes.txt", 0o644),
        ] {
            assert_eq!(mode(&data.join(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_folder_that_everybody_shares_is_refused_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let said = prepare(folder.path()).unwrap_err().to_string();
        assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
        assert_eq!(mode(folder.path()), 0o777);
    }
}
