//! A look at a copy of the database, before the database itself is touched.
//!
//! sled repairs what it opens: what it takes for the torn end of its log it overwrites, and it does
//! not tell. In a database that was cut off or damaged that would be the last of the data. So a
//! database is opened in a copy first, and left alone where something is wrong with that. A
//! database whose files are as they were when it was closed needs no such look, and of one that
//! has no room for a copy beside it there is none.

use std::{fs, io, path::Path};

use super::StoreError;
use crate::platform::files;

/// Name of the copy in the data folder. It is gone when the start is over.
pub(super) const COPY: &str = "db.trial";
/// What must be left of the disk beside a copy: 64 MiB.
const SPARE: u64 = 64 << 20;

/// Makes a copy of the database of a data folder; tells whether there was room for it.
pub(super) fn copy(data: &Path) -> Result<bool, StoreError> {
    let (folder, copy) = (data.join("db"), data.join(COPY));
    let copied = size(&folder).and_then(|size| {
        if free(data) < size.saturating_add(SPARE) {
            return Ok(false);
        }
        copy_files(&folder, &copy).map(|()| true)
    });
    copied.map_err(|error| StoreError::Disk {
        file: folder.display().to_string(),
        why: error.to_string(),
    })
}

/// Removes the copy, if there is one.
pub(super) fn remove(data: &Path) -> Result<(), StoreError> {
    let copy = data.join(COPY);
    match fs::remove_dir_all(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Disk { file: copy.display().to_string(), why: error.to_string() })
        }
        _ => Ok(()),
    }
}

/// Returns how much room is left on the disk of a folder.
pub(super) fn free(folder: &Path) -> u64 {
    files::free_space(folder).unwrap_or(u64::MAX)
}

fn size(folder: &Path) -> io::Result<u64> {
    let mut size = 0_u64;
    for entry in fs::read_dir(folder)? {
        size = size.saturating_add(entry?.metadata()?.len());
    }
    Ok(size)
}

/// Copies the files of a folder. (sled has a folder of its own for large values; there are none.)
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    files::make_private_folder(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
