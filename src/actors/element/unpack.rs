//! Unpacks an archive of Element into a new folder. Blocks.
//!
//! The archive was verified before, but it may be one that somebody was talked into pinning.
//! Invariants: nothing is written outside of the folder, and nothing but folders and plain files; their
//! number, their sizes and their depth are bounded; of two files of one name neither is believed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

/// Files and folders: Element has some 2,500.
const ENTRIES_MAX: usize = 20_000;
/// Bytes of one file, and of all.
const FILE_MAX: u64 = 64 * 1024 * 1024;
const ALL_MAX: u64 = 512 * 1024 * 1024;
/// Folders in folders.
const DEPTH_MAX: usize = 16;
/// What has to be in it.
const INDEX: &str = "index.html";

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read, or there is no place for what is in it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It has a link or a device in it.
    #[error("{0} in the archive is neither a file nor a folder")]
    Kind(String),
    /// It has a file that would lie somewhere else.
    #[error("{0} in the archive would not be in Element's folder")]
    Path(String),
    /// It has the same file twice.
    #[error("{0} is in the archive twice")]
    Twice(String),
    /// There is too much in it.
    #[error("the archive has more in it than Element could have")]
    TooMuch,
    /// It is of something else.
    #[error("the archive has no {INDEX}: it is not Element's")]
    NotElement,
}

/// Unpacks `archive` (`.tar.gz`, with everything in one folder, whose name does not matter) into `folder`,
/// which is made. Returns how many bytes there are in it.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<u64, UnpackError> {
    fs::create_dir_all(folder)?;
    let mut archive = Archive::new(GzDecoder::new(File::open(archive)?));
    let (mut count, mut bytes) = (0_usize, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        count += 1;
        let name = entry.path()?.into_owned();
        let shown = || name.display().to_string();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let path = inside(&name).ok_or_else(|| UnpackError::Path(shown()))?;
        bytes = bytes.saturating_add(entry.size());
        if count > ENTRIES_MAX || bytes > ALL_MAX || entry.size() > FILE_MAX {
            return Err(UnpackError::TooMuch);
        }
        let to = folder.join(&path);
        match kind {
            EntryType::Directory => fs::create_dir_all(&to)?,
            EntryType::Regular if path.as_os_str().is_empty() => {
                return Err(UnpackError::Path(shown()));
            }
            EntryType::Regular => {
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent)?;
                }
                // New: no link that an entry before it made is followed, and nothing is replaced.
                let file = OpenOptions::new().write(true).create_new(true).open(&to);
                let mut file = match file {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Err(UnpackError::Twice(shown()));
                    }
                    file => file?,
                };
                io::copy(&mut entry.by_ref().take(FILE_MAX), &mut file)?;
                file.flush()?;
            }
            _ => return Err(UnpackError::Kind(shown())),
        }
    }
    if folder.join(INDEX).is_file() { Ok(bytes) } else { Err(UnpackError::NotElement) }
}

/// Returns where an entry belongs, without the folder that everything is in; none where its name leads
/// elsewhere.
fn inside(name: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for (depth, part) in name.components().filter(|part| *part != Component::CurDir).enumerate() {
        let Component::Normal(part) = part else { return None };
        let plain = part.to_str().is_some_and(|part| !part.contains(['\\', ':', '\0']));
        if !plain || depth > DEPTH_MAX {
            return None;
        }
        if depth > 0 {
            path.push(part);
        }
    }
    Some(path)
}

#[cfg(test)]
pub(super) mod tests {
    use flate2::{Compression, write::GzEncoder};
    use tar::{Builder, Header};

    use super::*;

    /// Makes an archive of these files, as [`tar`] itself would not: names are taken as they are.
    pub(in super::super) fn archive_of(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_size(content.len() as u64);
            header.set_mode(0o777);
            header.set_cksum();
            archive.append(&header, *content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<u64, UnpackError>) {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar.gz");
        fs::write(&archive, bytes).unwrap();
        let done = unpack(&archive, &folder.path().join("to/element"));
        (folder, done)
    }

    const FILE: EntryType = EntryType::Regular;
    const INDEX_FILE: (&str, EntryType, &[u8]) = ("element-v1/index.html", FILE, b"<title>");

    #[test]
    fn what_is_in_the_folder_of_the_archive_is_in_ours() {
        let (folder, done) = unpacked(&archive_of(&[
            ("element-v1/", EntryType::Directory, b""),
            INDEX_FILE,
            ("./element-v1/bundles/abc/a.js", FILE, b"js"),
            ("element-v1/empty/", EntryType::Directory, b""),
        ]));
        assert_eq!(done.unwrap(), 9);
        let at = folder.path().join("to/element");
        assert_eq!(fs::read(at.join("bundles/abc/a.js")).unwrap(), b"js");
        assert!(at.join("index.html").is_file() && at.join("empty").is_dir());
    }

    #[test]
    fn nothing_leaves_the_folder_and_nothing_but_files_is_made() {
        let deep = format!("e/{}x", "a/".repeat(DEPTH_MAX));
        for (name, kind) in [
            ("element-v1/../../escape", FILE),
            ("../escape", FILE),
            ("/escape", FILE),
            ("element-v1/a\\..\\..\\escape", FILE),
            ("element-v1/c:escape", FILE),
            ("escape", FILE),
            (deep.as_str(), FILE),
            ("element-v1/link", EntryType::Symlink),
            ("element-v1/hard", EntryType::Link),
            ("element-v1/pipe", EntryType::Fifo),
            ("element-v1/device", EntryType::Char),
            ("element-v1/index.html", FILE),
        ] {
            let (folder, done) = unpacked(&archive_of(&[INDEX_FILE, (name, kind, b"")]));
            assert!(
                matches!(
                    done,
                    Err(UnpackError::Path(_) | UnpackError::Kind(_) | UnpackError::Twice(_))
                ),
                "{name}: {done:?}"
            );
            let mut made =
                fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
            assert!(made.all(|name| name == "a.tar.gz" || name == "to"), "{name}");
        }
    }

    #[test]
    fn too_much_is_not_unpacked() {
        let bomb = vec![0; FILE_MAX as usize + 1];
        let (folder, done) = unpacked(&archive_of(&[INDEX_FILE, ("e/bomb", FILE, &bomb)]));
        assert!(matches!(done, Err(UnpackError::TooMuch)), "{done:?}");
        assert!(!folder.path().join("to/element/bomb").exists());
        // A header can say more than there is.
        let mut lies = archive_of(&[INDEX_FILE]);
        lies.truncate(lies.len() / 2);
        assert!(unpacked(&lies).1.is_err());
        assert!(unpacked(b"not an archive").1.is_err());
        let other = unpacked(&archive_of(&[("other/readme", FILE, b"x")])).1;
        assert!(matches!(other, Err(UnpackError::NotElement)), "{other:?}");
    }
}
