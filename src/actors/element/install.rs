//! Puts an unpacked release in the place of Element's folder. Blocks.
//!
//! Killed at any moment, there is the old release or the new one: the new one is made in a folder beside,
//! where a note is written last, and [`recover`] finishes what was begun. Files that somebody put into the
//! folder by hand have no note, and are replaced only where a person asks for it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::unpack::{self, UnpackError};
use crate::{config::Release, platform::files::sync_all_in};

/// What says that all of a release is in a folder. It is hidden, so it is not served.
const NOTE: &str = ".release.json";
const INDEX: &str = "index.html";

/// Why a release was not installed. What was there before still is.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The archive cannot be unpacked.
    #[error("Element cannot be unpacked into {folder}: {why}")]
    Unpack {
        /// The folder.
        folder: String,
        /// What is wrong.
        why: UnpackError,
    },
    /// The system refused something.
    #[error("Element cannot be put into {folder}: {why}")]
    Folder {
        /// The folder.
        folder: String,
        /// What it said.
        why: io::Error,
    },
    /// Another process is at it.
    #[error("Element is being installed by another process right now; wait for its end")]
    Busy,
}

/// What is in Element's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing that could be served.
    Nothing,
    /// Files that somebody put there.
    ByHand,
    /// A release that was installed here.
    Installed(Release),
}

/// Held while Element is installed: by one process at a time.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, if nobody else has it.
    pub(super) fn take(folder: &Path) -> Result<Self, InstallError> {
        let path = beside(folder, "lock");
        let file = File::create(&path).map_err(|why| refused(&path, why))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(InstallError::Busy),
            Err(TryLockError::Error(why)) => Err(refused(&path, why)),
        }
    }
}

/// Returns the place where the archive is while it comes.
pub(super) fn part_of(folder: &Path) -> PathBuf {
    beside(folder, "part")
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    folder.with_added_extension(what)
}

fn refused(folder: &Path, why: io::Error) -> InstallError {
    InstallError::Folder { folder: folder.display().to_string(), why }
}

/// Looks what is in Element's folder.
pub fn look(folder: &Path) -> Found {
    if !folder.join(INDEX).is_file() {
        return Found::Nothing;
    }
    let note = fs::read(folder.join(NOTE)).ok();
    match note.and_then(|note| serde_json::from_slice(&note).ok()) {
        Some(release) => Found::Installed(release),
        None => Found::ByHand,
    }
}

/// Ends what was begun and not ended: afterwards there is one release, or none. Only for who has the
/// [`Lock`].
pub(super) fn recover(folder: &Path) -> Result<(), InstallError> {
    let (new, old) = (beside(folder, "new"), beside(folder, "old"));
    let rename = |from: &Path| fs::rename(from, folder).map_err(|why| refused(folder, why));
    if !folder.exists() {
        if matches!(look(&new), Found::Installed(_)) {
            rename(&new)?;
        } else if old.exists() {
            rename(&old)?;
        }
    }
    remove(&new)?;
    remove(&old)
}

/// Unpacks an archive that was verified, and puts it in the place of what is in Element's folder. Only for
/// who has the [`Lock`].
pub(super) fn install(
    archive: &Path,
    release: &Release,
    folder: &Path,
) -> Result<(), InstallError> {
    recover(folder)?;
    let (new, old) = (beside(folder, "new"), beside(folder, "old"));
    let fault = |why: io::Error| refused(folder, why);
    if let Err(why) = unpack::unpack(archive, &new) {
        // What cannot be unpacked takes no place.
        let _ = fs::remove_dir_all(&new);
        return Err(InstallError::Unpack { folder: folder.display().to_string(), why });
    }
    // All of it is on disk before the note says so.
    sync_all_in(&new).map_err(fault)?;
    let note = serde_json::to_vec(release).map_err(|error| fault(error.into()))?;
    fs::write(new.join(NOTE), note).map_err(fault)?;
    sync_all_in(&new).map_err(fault)?;
    if folder.exists() {
        fs::rename(folder, &old).map_err(fault)?;
    }
    if let Err(why) = fs::rename(&new, folder) {
        let _ = fs::rename(&old, folder);
        return Err(fault(why));
    }
    remove(&old)
}

fn remove(folder: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(folder) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(refused(folder, why)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;
    use crate::actors::element::unpack::tests::archive_of;

    fn release(version: &str) -> Release {
        Release { version: version.to_owned(), ..Release::default() }
    }

    /// A folder of a person, with an archive in which `index.html` says its version.
    fn begin(version: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let data = tempfile::tempdir().unwrap();
        let archive = data.path().join("archive");
        pack(&archive, version);
        let folder = data.path().join("element");
        (data, archive, folder)
    }

    fn pack(archive: &Path, version: &str) {
        let index = ("e/index.html", EntryType::Regular, version.as_bytes());
        fs::write(archive, archive_of(&[index])).unwrap();
    }

    fn shown(folder: &Path) -> String {
        fs::read_to_string(folder.join(INDEX)).unwrap_or_default()
    }

    #[test]
    fn a_release_takes_the_place_of_another() {
        let (data, archive, folder) = begin("one");
        assert_eq!(look(&folder), Found::Nothing);
        install(&archive, &release("1"), &folder).unwrap();
        assert_eq!(
            (look(&folder), shown(&folder).as_str()),
            (Found::Installed(release("1")), "one")
        );
        pack(&archive, "two");
        install(&archive, &release("2"), &folder).unwrap();
        assert_eq!(
            (look(&folder), shown(&folder).as_str()),
            (Found::Installed(release("2")), "two")
        );
        let mut left: Vec<_> =
            fs::read_dir(data.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["archive", "element"]);
    }

    #[test]
    fn what_cannot_be_unpacked_leaves_what_was_there() {
        let (data, archive, folder) = begin("one");
        install(&archive, &release("1"), &folder).unwrap();
        fs::write(&archive, archive_of(&[("e/../../x", EntryType::Regular, b"")])).unwrap();
        let why = install(&archive, &release("2"), &folder).unwrap_err().to_string();
        assert!(why.contains("would not be in Element's folder"), "{why}");
        assert_eq!(look(&folder), Found::Installed(release("1")));
        assert!(!data.path().join("element.new").exists());
    }

    #[test]
    fn killed_at_any_moment_there_is_the_old_one_or_the_new_one() {
        // What can be on disk: (the folder, the new one, the old one), of which each may be whole (a
        // note), half (no note), or not there.
        let make = |path: &Path, what: char, version: &str| {
            if what == '-' {
                return;
            }
            fs::create_dir_all(path).unwrap();
            fs::write(path.join(INDEX), version).unwrap();
            if what == 'w' {
                let note = serde_json::to_vec(&release(version)).unwrap();
                fs::write(path.join(NOTE), note).unwrap();
            }
        };
        for (on_disk, expected) in [
            ("w--", "folder"), // Before it began.
            ("wh-", "folder"), // While it was unpacked.
            ("ww-", "folder"), // When it was whole.
            ("-ww", "new"),    // Between the two names.
            ("w-w", "folder"), // Before the old one was gone.
            ("w-h", "folder"), // While it went.
            ("-h-", ""),       // The first one, while it was unpacked.
            ("-w-", "new"),    // The first one, before it had its name.
            ("-hw", "old"),    // A new one that is not whole is none.
            ("h--", "folder"), // Files by hand.
            ("---", ""),
        ] {
            let (_data, _, folder) = begin("x");
            let mut each = on_disk.chars();
            let mut next = || each.next().unwrap();
            make(&folder, next(), "folder");
            make(&beside(&folder, "new"), next(), "new");
            make(&beside(&folder, "old"), next(), "old");
            for _ in 0..2 {
                recover(&folder).unwrap();
                assert_eq!(shown(&folder), expected, "{on_disk}");
                assert!(!beside(&folder, "new").exists() && !beside(&folder, "old").exists());
            }
        }
    }

    #[test]
    fn two_do_not_install_at_once() {
        let (_data, _, folder) = begin("one");
        let lock = Lock::take(&folder).unwrap();
        assert!(matches!(Lock::take(&folder), Err(InstallError::Busy)));
        drop(lock);
        Lock::take(&folder).unwrap();
    }
}
