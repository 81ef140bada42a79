//! `messagehub backup`: what makes this node the one that it is, in one sealed file.
//!
//! That is the journal up to a moment, and then the key files and media: each of these is there before
//! a row names it, so whatever the journal speaks of is in the backup. A node may run meanwhile; it is not
//! asked. Invariant: the file has its name when all of it is on disk.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

use super::{SafekeepingError, create, failed, sealed_file::Sealer};
use crate::{actors::store, data_folder::BACKED_UP, platform::files};

/// The folder of the journal.
pub(super) const JOURNAL: &str = "journal";
/// The folder of media.
pub(super) const MEDIA: &str = "media";

/// One file of a backup.
struct Item {
    name: String,
    source: Source,
    len: u64,
}

enum Source {
    Open(File),
    At(PathBuf),
}

/// Writes a backup of a data folder; `tell` is told how many bytes of how many are written. Returns the
/// bytes of what is in it.
pub(super) fn write(
    data: &Path,
    file: &Path,
    passphrase: &str,
    force: bool,
    tell: impl FnMut(u64, u64),
) -> Result<u64, SafekeepingError> {
    if file.exists() && !force {
        return Err(SafekeepingError::Exists(file.display().to_string()));
    }
    let items = items(data)?;
    let new = beside(file);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&new, &error)),
        _ => {}
    }
    let written = create(&new).and_then(|out| fill(out, items, passphrase, tell));
    let written = written.and_then(|total| {
        fs::rename(&new, file)?;
        if let Some(folder) = file.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            files::sync_folder(folder)?;
        }
        Ok(total)
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(file, &error)
    })
}

/// Returns the path of a backup while it is written.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn items(data: &Path) -> Result<Vec<Item>, SafekeepingError> {
    let mut items = Vec::new();
    // First: what comes later than this is not spoken of in it.
    for (name, file, len) in store::journal_cut(data)? {
        items.push(Item { name: format!("{JOURNAL}/{name}"), source: Source::Open(file), len });
    }
    for name in BACKED_UP {
        let path = data.join(name);
        if let Ok(meta) = fs::metadata(&path) {
            items.push(Item { name: name.to_owned(), source: Source::At(path), len: meta.len() });
        }
    }
    let media = data.join(MEDIA);
    for folder in list(&media)? {
        let Some(shard) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        // What is coming, and what came in part, is none of it.
        if shard.len() != 2 {
            continue;
        }
        for path in list(&folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Ok(meta) = fs::metadata(&path) else { continue };
            let name = format!("{MEDIA}/{shard}/{name}");
            items.push(Item { name, source: Source::At(path), len: meta.len() });
        }
    }
    Ok(items)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, SafekeepingError> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(folder, &error)),
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            Ok(paths)
        }
    }
}

fn fill(
    out: File,
    items: Vec<Item>,
    passphrase: &str,
    mut tell: impl FnMut(u64, u64),
) -> io::Result<u64> {
    let total: u64 = items.iter().map(|item| item.len).sum();
    let mut done = 0_u64;
    let out = BufWriter::with_capacity(1 << 20, out);
    let mut sealer = Sealer::new(out, passphrase, rand::random(), rand::random())?;
    for Item { name, source, len } in items {
        let file = match source {
            Source::Open(file) => file,
            Source::At(path) => match File::open(&path) {
                // A picture of others that gave way meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            },
        };
        let name_len = u16::try_from(name.len()).map_err(io::Error::other)?;
        sealer.write_all(&name_len.to_be_bytes())?;
        sealer.write_all(name.as_bytes())?;
        sealer.write_all(&len.to_be_bytes())?;
        let mut from = file.take(len);
        let mut copied = 0_u64;
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut piece)?;
            let Some(read_now) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
            sealer.write_all(read_now)?;
            copied = copied.saturating_add(read as u64);
            done = done.saturating_add(read as u64);
            tell(done, total);
        }
        if copied != len {
            return Err(io::Error::other(format!("{name} became shorter while it was read")));
        }
    }
    sealer.write_all(&0_u16.to_be_bytes())?;
    let out = sealer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.sync_all()?;
    Ok(done)
}
