//! Reads a journal, a record at a time, and says where it ends or is damaged.
//!
//! Invariants: nothing after a damage is given out; what is read into memory at once is one record,
//! and no longer than the file that it stands in.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Place,
    format::{self, Chain, HASH, HEAD, HEADER, Head, Header, RECORD_MIN},
};
use crate::actors::store::{StoreError, database::Changes};

/// A file of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct JournalFile {
    /// Number of its first record, by which it is named.
    pub(in super::super) first: u64,
    /// Its length in bytes.
    pub(in super::super) len: u64,
}

/// Returns the path of the file whose first record has this number.
pub(in super::super) fn path_of(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

/// Says what an error at a file means for whoever runs the node.
pub(in super::super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { folder: path.display().to_string() }
        }
        _ => StoreError::Disk { file: path.display().to_string(), why: error.to_string() },
    }
}

/// Returns the files of a journal in order; none where there is no such folder.
pub(in super::super) fn files(folder: &Path) -> Result<Vec<JournalFile>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(folder, &error))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(folder, &error))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let Some(first) = number.filter(|number| number.len() == 20) else { continue };
        let Ok(first) = first.parse() else { continue };
        let meta = entry.metadata().map_err(|error| failed(&entry.path(), &error))?;
        files.push(JournalFile { first, len: meta.len() });
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// A record that was read and is whole.
#[derive(Debug)]
pub(in super::super) struct Record {
    /// The last record that the database had for certain when this one was written.
    pub(in super::super) followed: u64,
    /// Its rows.
    pub(in super::super) changes: Changes,
}

/// Why no record follows.
#[derive(Debug)]
pub(in super::super) enum Stop {
    /// The journal ends here.
    End,
    /// The last write was cut short; all before it is there.
    Torn {
        /// The file.
        file: PathBuf,
        /// Where the last whole record ends.
        at: u64,
    },
    /// Something is wrong, and there is or was more behind it.
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        at: u64,
        /// What.
        why: &'static str,
    },
    /// The disk refused.
    Failed(StoreError),
}

impl Stop {
    /// Says it as an error, where it is one.
    pub(in super::super) fn into_error(self) -> Option<StoreError> {
        match self {
            Self::End | Self::Torn { .. } => None,
            Self::Damaged { file, at, why } => Some(StoreError::JournalDamaged {
                file: file.display().to_string(),
                at,
                why: why.to_owned(),
            }),
            Self::Failed(error) => Some(error),
        }
    }
}

/// Reads on from a place.
#[derive(Debug)]
pub(in super::super) struct Reader {
    folder: PathBuf,
    id: [u8; 16],
    /// Those after the one that is read, the next one last.
    later: Vec<JournalFile>,
    file: BufReader<File>,
    path: PathBuf,
    len: u64,
    place: Place,
}

/// Opens a file and reads its header; none where that is damaged.
fn open(path: &Path) -> Result<(BufReader<File>, Option<Header>), StoreError> {
    let file = File::open(path).map_err(|error| failed(path, &error))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut bytes = Vec::new();
    let read = file.by_ref().take(HEADER as u64).read_to_end(&mut bytes);
    read.map_err(|error| failed(path, &error))?;
    Ok((file, Header::decode(&bytes)))
}

/// Reads the header of a file.
pub(in super::super) fn header(folder: &Path, file: u64) -> Result<Option<Header>, StoreError> {
    Ok(open(&path_of(folder, file))?.1)
}

impl Reader {
    /// Reads from the first record on; none where the header of the first file is damaged.
    pub(in super::super) fn from_start(
        folder: &Path,
        files: &[JournalFile],
    ) -> Result<Option<Self>, StoreError> {
        let Some((first, later)) = files.split_first() else { return Ok(None) };
        let path = path_of(folder, first.first);
        let (file, header) = open(&path)?;
        let Some(header) = header.filter(|header| header.first == first.first) else {
            return Ok(None);
        };
        let place = Place {
            number: header.first.saturating_sub(1),
            file: header.first,
            offset: HEADER as u64,
            chain: header.chain,
        };
        let mut later = later.to_vec();
        later.reverse();
        let (folder, id, len) = (folder.to_owned(), header.id, first.len);
        Ok(Some(Self { folder, id, later, file, path, len, place }))
    }

    /// Reads from a place on that is in one of the files.
    pub(in super::super) fn from_place(
        folder: &Path,
        id: [u8; 16],
        files: &[JournalFile],
        place: Place,
    ) -> Result<Option<Self>, StoreError> {
        let Some(at) = files.iter().position(|file| file.first == place.file) else {
            // Its file is given up, and nothing that came after is.
            let follows =
                files.first().filter(|file| Some(file.first) == place.number.checked_add(1));
            let reader = follows.map_or(Ok(None), |_| Self::from_start(folder, files))?;
            return Ok(reader.filter(|reader| reader.id == id && reader.place.chain == place.chain));
        };
        let Some((first, later)) = files.get(at..).and_then(<[_]>::split_first) else {
            return Ok(None);
        };
        let path = path_of(folder, first.first);
        let (mut file, header) = open(&path)?;
        if header.is_none_or(|header| header.id != id) || place.offset > first.len {
            return Ok(None);
        }
        let sought = file.seek(SeekFrom::Start(place.offset));
        sought.map_err(|error| failed(&path, &error))?;
        let mut later = later.to_vec();
        later.reverse();
        Ok(Some(Self { folder: folder.to_owned(), id, later, file, path, len: first.len, place }))
    }

    /// Where the last record ended that was given out.
    pub(in super::super) fn place(&self) -> Place {
        self.place
    }

    /// Names the journal.
    pub(in super::super) fn id(&self) -> [u8; 16] {
        self.id
    }

    fn damaged(&self, why: &'static str) -> Stop {
        Stop::Damaged { file: self.path.clone(), at: self.place.offset, why }
    }

    /// Returns the next record.
    pub(in super::super) fn next(&mut self) -> Result<Record, Stop> {
        while self.place.offset >= self.len {
            let Some(next) = self.later.pop() else { return Err(Stop::End) };
            self.open_next(&next)?;
        }
        let left = self.len.saturating_sub(self.place.offset);
        let tag = format::tag(&self.id);
        let mut bytes = vec![0; HEAD];
        if left < RECORD_MIN as u64 {
            return Err(self.bad("a record is cut short"));
        }
        self.read(&mut bytes)?;
        let Some(head) = Head::decode(tag, &bytes) else {
            return Err(self.bad("no record begins where one should"));
        };
        let whole = u64::from(head.len).saturating_add(RECORD_MIN as u64);
        let len = usize::try_from(head.len).unwrap_or(usize::MAX);
        if whole > left || head.number != self.place.number.saturating_add(1) {
            return Err(self.bad("a record is cut short or not the next one"));
        }
        bytes.resize(HEAD.saturating_add(len), 0);
        let mut chain: Chain = [0; HASH];
        if let Some(rest) = bytes.get_mut(HEAD..) {
            self.file.read_exact(rest).map_err(|error| Stop::Failed(failed(&self.path, &error)))?;
        }
        self.read(&mut chain)?;
        if format::hash(&self.place.chain, &bytes) != chain {
            return Err(self.bad("the hash of a record is wrong"));
        }
        let rows = bytes.get(HEAD..).and_then(format::rows);
        let Some(changes) = rows else { return Err(self.damaged("the rows of a record are not")) };
        self.place = Place {
            number: head.number,
            offset: self.place.offset.saturating_add(whole),
            chain,
            ..self.place
        };
        Ok(Record { followed: head.followed, changes })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        self.file.read_exact(bytes).map_err(|error| Stop::Failed(failed(&self.path, &error)))
    }

    fn open_next(&mut self, next: &JournalFile) -> Result<(), Stop> {
        let path = path_of(&self.folder, next.first);
        let (file, header) = open(&path).map_err(Stop::Failed)?;
        let expected = Header {
            id: self.id,
            first: self.place.number.saturating_add(1),
            chain: self.place.chain,
        };
        if header != Some(expected) {
            // The last file may have been begun when the power went; then nothing is in it.
            let torn = self.later.is_empty() && next.len <= HEADER as u64 && header.is_none();
            return Err(match torn {
                true => Stop::Torn { file: path, at: 0 },
                false => Stop::Damaged {
                    file: path,
                    at: 0,
                    why: "its beginning is not that of the next file",
                },
            });
        }
        self.place.file = next.first;
        self.place.offset = HEADER as u64;
        (self.file, self.path, self.len) = (file, path, next.len);
        Ok(())
    }

    /// Tells a write that was cut short from a damage: behind the first there is nothing, since the
    /// next write begins when the one before it is on disk.
    fn bad(&self, why: &'static str) -> Stop {
        if !self.later.is_empty() {
            return self.damaged(why);
        }
        let rest = fs::File::open(&self.path).and_then(|mut file| {
            let mut rest = Vec::new();
            file.seek(SeekFrom::Start(self.place.offset))?;
            file.take(self.len.saturating_sub(self.place.offset)).read_to_end(&mut rest)?;
            Ok(rest)
        });
        match rest {
            Err(error) => Stop::Failed(failed(&self.path, &error)),
            Ok(rest) if has_record(format::tag(&self.id), &rest) => self.damaged(why),
            Ok(_) => Stop::Torn { file: self.path.clone(), at: self.place.offset },
        }
    }
}

/// Tells whether another record begins behind the first byte.
fn has_record(tag: [u8; 8], bytes: &[u8]) -> bool {
    bytes.windows(tag.len()).skip(1).any(|window| window == tag)
}
