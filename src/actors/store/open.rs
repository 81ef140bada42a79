//! Opens the database of a data folder, alone, also after a crash.
//!
//! Invariants: the folder is locked before anything in it is touched, and the lock lives as long
//! as the database; a database of a newer program is left as it is; once open, the folder entry of
//! the database and all that it shows are on disk.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use super::{
    StoreError,
    backwards::Numbered,
    database::{Database, Disk, Rows as _, WriteSet},
    schema::{Change, Key, Parts, SCHEMA_VERSION, family},
    timeline,
};

/// Segment of the log. Rows of up to 100 KiB stay inside, and so survive a power cut; fixed when
/// the database is made.
const SEGMENT: usize = 8 << 20;
/// What sled may keep in memory.
const CACHE: u64 = 64 << 20;
/// Newest timeline entries that are checked at start. Torn commits can only be among the newest
/// ones; what rows contain is covered by sled's own checksums.
const CHECKED: usize = 1000;

/// How often, and how far apart, a folder is tried that sled still holds.
const LINGER_TRIES: usize = 40;
const LINGER_PAUSE: Duration = Duration::from_millis(50);

/// The database and what hangs on its being open.
#[derive(Debug)]
pub(super) struct Opened {
    /// The rows.
    pub(super) database: Database,
    /// The way to the disk.
    pub(super) disk: Disk,
    /// Held until the database is closed.
    pub(super) lock: File,
    /// The last stream position.
    pub(super) position: u64,
    /// The last room number.
    pub(super) room: u32,
}

/// Opens `<data>/db`, creating both where they are missing.
pub(super) fn open(data: &Path) -> Result<Opened, StoreError> {
    make_folder(data)?;
    let lock = lock(data)?;
    let folder = data.join("db");
    remove(&folder, |name| name.starts_with("snap.") && name.ends_with(".generating"))?;
    let sled = match open_sled(&folder) {
        Err(sled::Error::Corruption { .. }) => {
            log::warn!(folder:% = folder.display(); "the snapshot is damaged; replaying the log");
            remove(&folder, |name| name.starts_with("snap."))?;
            open_sled(&folder)
        }
        opened => opened,
    };
    let sled = sled.map_err(|error| StoreError::Open {
        folder: folder.display().to_string(),
        why: error.to_string(),
    })?;
    let file = folder.join("db");
    let file = File::open(&file).map_err(|error| disk(&file, &error))?;
    let (mut database, writer) = Database::new(sled, file, folder.display().to_string());
    write_version(&mut database, &folder)?;
    // With or without a version to write: what a killed process wrote may be in memory only, and
    // must be durable before it is shown.
    writer.write(&database.next_group())?;
    database.group_written();
    // A file whose name is not on disk is lost with all that is in it.
    for folder in [folder.as_path(), data] {
        let handle = File::open(folder).and_then(|handle| handle.sync_all());
        handle.map_err(|error| disk(folder, &error))?;
    }
    if let Some(parent) = data.canonicalize().ok().as_deref().and_then(Path::parent) {
        // The parent may be closed to us; then it is not we who made the folder.
        let _ = File::open(parent).and_then(|handle| handle.sync_all());
    }
    check_newest(&database)?;
    let position = last_number(&database, family::LOG)?.map_or(0, u64::from_be_bytes);
    let room = last_number(&database, family::ROOM_INFO)?.map_or(0, u32::from_be_bytes);
    Ok(Opened { database, disk: writer, lock, position, room })
}

fn disk(file: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk { file: file.display().to_string(), why: error.to_string() }
}

fn make_folder(data: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|error| disk(data, &error))
}

fn lock(data: &Path) -> Result<File, StoreError> {
    let path = data.join("db.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path).map_err(|error| disk(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::InUse { folder: data.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(disk(&path, &error)),
    }
}

fn remove(folder: &Path, which: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(disk(folder, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| disk(folder, &error))?;
        if entry.file_name().to_str().is_some_and(&which) {
            fs::remove_file(entry.path()).map_err(|error| disk(&entry.path(), &error))?;
        }
    }
    Ok(())
}

/// Opens sled. Our own lock says that nobody else has the folder; sled's may linger a moment after
/// a database was closed in this very process, until its threads have let go.
fn open_sled(folder: &Path) -> Result<sled::Db, sled::Error> {
    for _ in 0..LINGER_TRIES {
        match open_once(folder) {
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") => {
                std::thread::sleep(LINGER_PAUSE);
            }
            opened => return opened,
        }
    }
    open_once(folder)
}

fn open_once(folder: &Path) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::new()
        .path(folder)
        .segment_size(SEGMENT)
        .cache_capacity(CACHE)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .use_compression(false);
    // Some damage makes sled panic instead of answering.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    opened.unwrap_or_else(|_| {
        Err(sled::Error::ReportableBug("it panicked, see the log lines before this one".to_owned()))
    })
}

/// Refuses the database of a newer program, and writes down who uses it from now on.
fn write_version(database: &mut Database, folder: &Path) -> Result<(), StoreError> {
    let meta = |name| Key::new(family::META).text(name).done();
    let found = database.get(&meta("schema_version"))?;
    if let Some(found) = &found {
        let found = Parts(found).room().ok_or(StoreError::Corrupt { what: "schema_version" })?;
        if found > SCHEMA_VERSION {
            return Err(StoreError::NewerSchema {
                folder: folder.display().to_string(),
                found,
                known: SCHEMA_VERSION,
            });
        }
    }
    let app_version = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
    if found.is_none() || database.get(&meta("app_version"))? != Some(app_version.clone()) {
        let mut writes = WriteSet::new(database);
        writes.put(meta("schema_version"), SCHEMA_VERSION.to_be_bytes().to_vec());
        writes.put(meta("app_version"), app_version);
        let changes = writes.finish()?;
        database.add(changes);
    }
    Ok(())
}

fn last_number<const LEN: usize>(
    database: &Database,
    family: u8,
) -> Result<Option<[u8; LEN]>, StoreError> {
    let Some(row) = database.scan_back(&Numbered::<LEN>::all(vec![family])).next() else {
        return Ok(None);
    };
    let (key, _) = row?;
    let number = key.get(1..).and_then(|number| number.try_into().ok());
    number.map(Some).ok_or(StoreError::Corrupt { what: "key" })
}

/// Checks that the newest live events are in their timelines and readable.
fn check_newest(database: &Database) -> Result<(), StoreError> {
    for row in database.scan_back(&Numbered::<8>::all(vec![family::LOG])).take(CHECKED) {
        let (key, value) = row?;
        let corrupt = || StoreError::Corrupt { what: "log" };
        let mut parts = Parts(&key);
        parts.byte();
        let position = parts.number().ok_or_else(corrupt)?;
        if let Change::Room(room) = Change::decode(&value).ok_or_else(corrupt)? {
            timeline::check(database, room, position.cast_signed())?;
        }
    }
    Ok(())
}
