//! What the node takes of the disk, and what is left of it. Blocks: called on threads that may.

use std::path::{Path, PathBuf};

use crate::platform::files::free_space;

/// Most files that are looked at: the database has a few, large ones.
const FILES_MAX: usize = 10_000;

/// What the node takes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Disk {
    /// Bytes of the database.
    pub(super) database: u64,
    /// Bytes of Element's files.
    pub(super) element: u64,
    /// Bytes that are free; none where the system does not tell.
    pub(super) free: Option<u64>,
}

impl Disk {
    /// Looks at a folder with a node's data.
    pub(super) fn look(data: &Path) -> Self {
        let (database, element) = (size_of(data.join("db")), size_of(data.join("element")));
        Self { database, element, free: free_space(data).ok() }
    }
}

/// Returns the bytes of the database in a folder with a node's data. Blocks.
pub(super) fn database_bytes(data: &Path) -> u64 {
    size_of(data.join("db"))
}

/// Adds up the files of a folder, and of those in it; links are not followed.
fn size_of(folder: PathBuf) -> u64 {
    let (mut bytes, mut looked, mut folders) = (0_u64, 0, vec![folder]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            looked += 1;
            if looked > FILES_MAX {
                return bytes;
            }
            match entry.metadata() {
                Ok(about) if about.is_dir() => folders.push(entry.path()),
                Ok(about) if about.is_file() => bytes = bytes.saturating_add(about.len()),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_added_up_in_all_folders() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Disk::look(data.path()).database, 0);
        std::fs::create_dir_all(data.path().join("db/blobs")).unwrap();
        std::fs::write(data.path().join("db/db"), [0; 100]).unwrap();
        std::fs::write(data.path().join("db/blobs/1"), [0; 11]).unwrap();
        std::fs::write(data.path().join("keys.json"), [0; 7]).unwrap();
        let disk = Disk::look(data.path());
        assert_eq!((disk.database, disk.element), (111, 0));
        assert!(disk.free.is_some_and(|free| free > 0));
    }
}
