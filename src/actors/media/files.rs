//! Where media are on disk: `data/media/`, called by their hash, and nothing by a name that somebody else
//! chose.
//!
//! | folder | what |
//! |---|---|
//! | `<two digits of the hash>/` | `<hash>`: the bytes; `<hash>.pieces`: the hashes of its pieces, where there is more than one; `<hash>.<size>`: a thumbnail of it |
//! | `coming/` | what is being uploaded; emptied at start |
//! | `parts/` | `<hash>`: what is being fetched, or came in part |
//!
//! Invariant: a file gets its name when all of it is on disk, and the name is on disk before anybody hears
//! of it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    platform::files::{allocated, free_space, open_to_sync, sync_folder},
    proto::media::{Hash, Pieces},
};

const COMING: &str = "coming";
const PARTS: &str = "parts";
const PIECES: &str = "pieces";

/// The folder of media.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf);

/// A hash as files are called.
pub(super) fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// Removes a file, if it is there.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("{}: {error}", path.display());
    }
}

/// What hashes are there, and how many bytes were made of each.
type Swept = (HashSet<Hash>, Vec<(Hash, u64)>);

impl Files {
    /// Makes the folders, and empties that of what was on its way.
    pub(super) fn open(data: &Path) -> io::Result<Self> {
        let files = Self(data.join("media"));
        let coming = files.0.join(COMING);
        fs::create_dir_all(&coming)?;
        fs::create_dir_all(files.0.join(PARTS))?;
        for left in fs::read_dir(&coming)? {
            remove(&left?.path());
        }
        sync_folder(data)?;
        Ok(files)
    }

    /// Removes what belongs to no hash of these, and returns what is left.
    pub(super) fn sweep(&self, known: &HashSet<Hash>) -> io::Result<Swept> {
        let (mut there, mut derived) = (HashSet::new(), Vec::new());
        for folder in fs::read_dir(&self.0)? {
            let folder = folder?;
            if [COMING, PARTS].iter().any(|one| folder.file_name() == *one)
                || !folder.file_type()?.is_dir()
            {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                let name = name.to_str().unwrap_or_default();
                let (hash, made) =
                    name.split_once('.').map_or((name, None), |(hash, made)| (hash, Some(made)));
                let hash = blake3::Hash::from_hex(hash).ok().map(|hash| *hash.as_bytes());
                match hash.filter(|hash| known.contains(hash)) {
                    None => remove(&file.path()),
                    Some(hash) => match made {
                        None => drop(there.insert(hash)),
                        Some(PIECES) => {}
                        Some(_) => derived.push((hash, file.metadata()?.len())),
                    },
                }
            }
        }
        Ok((there, derived))
    }

    fn folder(&self, hash: &Hash) -> PathBuf {
        self.0.join(hex(hash).get(..2).unwrap_or_default())
    }

    /// Where the bytes of a hash are.
    pub(super) fn path(&self, hash: &Hash) -> PathBuf {
        self.folder(hash).join(hex(hash))
    }

    /// Where something that was made of them is.
    pub(super) fn made(&self, hash: &Hash, what: &str) -> PathBuf {
        self.folder(hash).join(format!("{}.{what}", hex(hash)))
    }

    /// Where an upload is written.
    pub(super) fn coming(&self, number: u64) -> PathBuf {
        self.0.join(COMING).join(number.to_string())
    }

    /// Where a file of others is put together.
    pub(super) fn part(&self, hash: &Hash) -> PathBuf {
        self.0.join(PARTS).join(hex(hash))
    }

    /// Removes parts that nobody wants now, the oldest first, where all of them take more than `most`.
    pub(super) fn tidy_parts(&self, wanted: &HashSet<Hash>, most: u64) {
        let Ok(parts) = fs::read_dir(self.0.join(PARTS)) else { return };
        let mut found = Vec::new();
        for part in parts.flatten() {
            let hash = part.file_name().to_str().and_then(|name| blake3::Hash::from_hex(name).ok());
            let Ok(about) = part.metadata() else { continue };
            if hash.is_none_or(|hash| !wanted.contains(hash.as_bytes())) {
                // Of a file with holes, what it takes.
                found.push((about.modified().ok(), allocated(&about), part.path()));
            }
        }
        found.sort();
        let mut all = found.iter().fold(0_u64, |all, (_, len, _)| all.saturating_add(*len));
        for (_, len, path) in found {
            if all <= most {
                break;
            }
            remove(&path);
            all = all.saturating_sub(len);
        }
    }

    /// Gives what came, and is on disk, its name.
    pub(super) fn keep(&self, coming: &Path, pieces: &Pieces) -> io::Result<()> {
        let folder = self.folder(&pieces.hash);
        if !folder.is_dir() {
            fs::create_dir_all(&folder)?;
            sync_folder(&self.0)?;
        }
        if !pieces.list().is_empty() {
            let made = coming.with_extension(PIECES);
            fs::write(&made, pieces.list())?;
            open_to_sync(&made)?.sync_all()?;
            fs::rename(&made, self.made(&pieces.hash, PIECES))?;
        }
        fs::rename(coming, self.path(&pieces.hash))?;
        sync_folder(&folder)
    }

    /// Reads the list of the pieces of a hash.
    pub(super) fn pieces(&self, hash: &Hash, size: u64) -> io::Result<Pieces> {
        let list = match fs::read(self.made(hash, PIECES)) {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Pieces::read(*hash, size, &list)
            .ok_or_else(|| io::Error::other("its list of pieces is spoilt"))
    }

    /// Where a thumbnail is written.
    pub(super) fn coming_thumbnail(&self, hash: &Hash) -> PathBuf {
        self.0.join(COMING).join(hex(hash))
    }

    /// Takes note that nothing more comes of an upload.
    pub(super) fn abandon(&self, number: u64) {
        let coming = self.coming(number);
        remove(&coming);
    }

    /// Removes the bytes of a hash and all that was made of them.
    pub(super) fn remove(&self, hash: &Hash) {
        let name = hex(hash);
        let Ok(folder) = fs::read_dir(self.folder(hash)) else { return };
        for file in folder.flatten() {
            let is_of_it = file
                .file_name()
                .to_str()
                .is_some_and(|file| file.split('.').next() == Some(name.as_str()));
            if is_of_it {
                remove(&file.path());
            }
        }
    }

    /// How many bytes the disk has left for us.
    pub(super) fn free(&self) -> u64 {
        free_space(&self.0).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::media::{PIECE, PieceHasher};

    fn came(files: &Files, number: u64, bytes: &[u8]) -> Pieces {
        let mut hasher = PieceHasher::default();
        hasher.update(bytes);
        fs::write(files.coming(number), bytes).unwrap();
        hasher.finish()
    }

    #[test]
    fn what_nobody_knows_is_gone_after_a_start() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::open(data.path()).unwrap();
        let (small, large) = (came(&files, 1, b"small"), came(&files, 2, &vec![7; 3 * PIECE]));
        files.keep(&files.coming(1), &small).unwrap();
        files.keep(&files.coming(2), &large).unwrap();
        fs::write(files.made(&small.hash, "96c"), b"thumb").unwrap();
        came(&files, 3, b"half");
        assert_eq!(files.pieces(&large.hash, large.size).unwrap(), large);
        assert_eq!(files.pieces(&small.hash, small.size).unwrap(), small);
        fs::write(files.path(&large.hash).with_file_name("passwd"), b"x").unwrap();

        let files = Files::open(data.path()).unwrap();
        assert!(!files.coming(3).exists());
        let (there, derived) = files.sweep(&[small.hash, [9; 32]].into()).unwrap();
        assert_eq!((there, derived), ([small.hash].into(), vec![(small.hash, 5)]));
        assert_eq!(fs::read(files.path(&small.hash)).unwrap(), b"small");
        assert!(!files.path(&large.hash).exists() && !files.made(&large.hash, PIECES).exists());
        files.remove(&small.hash);
        files.remove(&small.hash);
        assert_eq!(fs::read_dir(files.folder(&small.hash)).unwrap().count(), 0);
        assert!(files.free() > 0);
    }
}
