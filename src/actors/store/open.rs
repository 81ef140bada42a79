//! Opens the database of a data folder, alone, also after a crash.
//!
//! Invariants: the folder is locked before anything in it is touched, and the lock lives as long
//! as the database; a database that is damaged, cut off, of somebody else or of a newer program is
//! left as it is; once open, the folder entry of the database and all that it shows are on disk.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
    time::Duration,
};

use ruma::ServerName;

use super::{
    StoreError,
    backwards::Numbered,
    database::{Database, Disk, disk_error},
    mark::{Mark, Marked},
    migrations,
    owner::{Found, judge},
    schema::{Change, Parts, family},
    timeline, trial,
};
use crate::{data_folder, platform::files};

/// Segment of the log. Rows of up to 100 KiB stay inside, and so survive a power cut; fixed when
/// the database is made.
const SEGMENT: usize = 8 << 20;
/// What sled may keep in memory.
const CACHE: u64 = 64 << 20;
/// Newest timeline entries that are checked at start. Torn commits can only be among the newest
/// ones; what rows contain is covered by sled's own checksums.
const CHECKED: usize = 1000;

/// With less room than this on the disk, 16 MiB, sled cannot open anything.
const ROOM_MIN: u64 = 16 << 20;

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

/// Opens `<data>/db`, creating both where they are missing. `keys` is the server name of the keys
/// in the folder.
pub(super) fn open(data: &Path, keys: Option<&ServerName>) -> Result<Opened, StoreError> {
    make_folder(data)?;
    let lock = lock(data)?;
    let folder = data.join("db");
    let marked = Marked::read(data)?;
    trial::remove(data)?;
    if !folder.exists() {
        let nothing = Found { layout: None, owner: None, position: 0 };
        judge(data, keys, &marked, &nothing)?;
    } else if !marked.is_closed_as(&folder) && trial::copy(data)? {
        let looked = examine(data, &data.join(trial::COPY), keys, &marked).map(drop);
        trial::remove(data)?;
        looked?;
    }
    let (mut database, mut writer, found) = examine(data, &folder, keys, &marked)?;
    // Before the layout says that there is one.
    writer.keep_mark(Mark::open(data, found.position)?);
    migrations::run(&mut database, &writer, keys)?;
    // With or without something to write: what a killed process wrote may be in memory only, and
    // must be durable before it is shown.
    writer.write(&database.next_group())?;
    database.group_written();
    // A file whose name is not on disk is lost with all that is in it.
    for folder in [folder.as_path(), data] {
        files::sync_folder(folder).map_err(|error| disk(folder, &error))?;
    }
    if let Some(parent) = data.canonicalize().ok().as_deref().and_then(Path::parent) {
        // The parent may be closed to us; then it is not we who made the folder.
        let _ = files::sync_folder(parent);
    }
    let room = last_number(&database, family::ROOM_INFO)?.map_or(0, u32::from_be_bytes);
    Ok(Opened { database, disk: writer, lock, position: found.position, room })
}

/// Opens the database in `folder`, which may be a copy, and looks whether it is whole and belongs
/// to the rest of the data folder.
fn examine(
    data: &Path,
    folder: &Path,
    keys: Option<&ServerName>,
    marked: &Marked,
) -> Result<(Database, Disk, Found), StoreError> {
    let name = data.join("db").display().to_string();
    let damaged = |why: String| StoreError::Damaged { folder: name.clone(), why };
    let looked = quietly(|| {
        let sled = open_sled(folder).map_err(|error| disk_error(&name, &error))?;
        let file = folder.join("db");
        let file = files::open_to_sync(&file).map_err(|error| disk(&file, &error))?;
        let (database, writer) = Database::new(sled, file, name.clone());
        let layout = migrations::layout(&database)?;
        let owner = migrations::owner(&database)?;
        let position = last_number(&database, family::LOG)?.map_or(0, u64::from_be_bytes);
        let found = Found { layout, owner, position };
        judge(data, keys, marked, &found)?;
        check_newest(&database)?;
        Ok((database, writer, found))
    });
    let looked = looked.unwrap_or_else(|| Err(damaged("it contradicts itself".to_owned())));
    looked.map_err(|error| match error {
        StoreError::Corrupt { what } => damaged(format!("an unreadable row: {what}")),
        // sled panics in some of the places where it finds no room.
        StoreError::Damaged { .. } if trial::free(data) < ROOM_MIN => {
            StoreError::DiskFull { folder: name.clone() }
        }
        other => other,
    })
}

/// Runs what may panic where data is damaged; none if it did. Nothing is printed then: who asked
/// says it in one line.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                print(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    done.ok()
}

fn disk(file: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk { file: file.display().to_string(), why: error.to_string() }
}

fn make_folder(data: &Path) -> Result<(), StoreError> {
    files::make_private_folder(data).map_err(|error| disk(data, &error))
}

fn lock(data: &Path) -> Result<File, StoreError> {
    let path = data.join(data_folder::LOCK);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = files::owner_only(&mut options).open(&path).map_err(|error| disk(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::InUse { folder: data.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(disk(&path, &error)),
    }
}

fn remove(folder: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&which) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Opens sled, without a snapshot of its index where that is damaged: the log says the same.
fn open_sled(folder: &Path) -> Result<sled::Db, sled::Error> {
    let removed = |which: fn(&str) -> bool| remove(folder, which).map_err(sled::Error::Io);
    removed(|name| name.starts_with("snap.") && name.ends_with(".generating"))?;
    match open_lingering(folder) {
        Err(sled::Error::Corruption { .. }) => {
            removed(|name| name.starts_with("snap."))?;
            open_lingering(folder)
        }
        opened => opened,
    }
}

/// Opens sled. Our own lock says that nobody else has the folder; sled's may linger a moment after
/// a database was closed in this very process, until its threads have let go.
fn open_lingering(folder: &Path) -> Result<sled::Db, sled::Error> {
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
    sled::Config::new()
        .path(folder)
        .segment_size(SEGMENT)
        .cache_capacity(CACHE)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .use_compression(false)
        .open()
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
        // Of other changes, older layouts have other values.
        if value.first() == Some(&family::TIMELINE) {
            let Some(Change::Room(room)) = Change::decode(&value) else { return Err(corrupt()) };
            timeline::check(database, room, position.cast_signed())?;
        }
    }
    Ok(())
}
