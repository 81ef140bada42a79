//! Opens the database of a data folder, alone, also after a crash.
//!
//! Invariants: the folder is locked before anything in it is touched, and the lock lives as long
//! as the database; a database that is damaged, cut off, of somebody else or of a newer program is
//! left as it is, or set aside for one that the journal made; once open, the folder entry of the
//! database and all that it shows are on disk.
//!
//! A damaged database is made anew without asking, where the journal is whole and reaches as far as the
//! database ever did: nothing is lost by that, the damaged one is kept beside it, and a household
//! does not have to wait for somebody who reads logs. In all other cases the node does not start.

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
    database::{Database, Rows as _, disk_error},
    disk::{Disk, Followed, followed_key, look_at_all},
    flusher::{Disks, Sizes},
    journal,
    mark::{Mark, Marked},
    migrations,
    owner::{Found, judge},
    recovery::{self, Plan},
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
    /// The ways to the disk.
    pub(super) disks: Disks,
    /// Held until the database is closed.
    pub(super) lock: File,
    /// The last stream position.
    pub(super) position: u64,
    /// The last room number.
    pub(super) room: u32,
}

/// Opens `<data>/db`, creating both where they are missing. `keys` is the server name of the keys
/// in the folder.
pub(super) fn open(
    data: &Path,
    keys: Option<&ServerName>,
    sizes: Sizes,
) -> Result<Opened, StoreError> {
    make_folder(data)?;
    let lock = lock(data)?;
    let marked = Marked::read(data)?;
    trial::remove(data)?;
    recovery::remove_folder(&data.join(recovery::NEW_DATABASE))?;
    let whose = Whose { data, keys, marked: &marked, trusts_mark: true };
    let (mut database, mut disk) = match whose.open(sizes) {
        Err(error) if is_damage(&error) => whose.rebuild(&error, sizes)?,
        opened => opened?,
    };
    let position = last_position(&database)?;
    // Before the layout says that there is one.
    let mark = Mark::open(data, position)?;
    migrations::run(&mut database, &mut disk, keys)?;
    // With or without something to write: what a killed process wrote may be in memory only, and
    // must be durable before it is shown.
    disk.write(&database.next_group())?;
    database.group_written();
    // A file whose name is not on disk is lost with all that is in it.
    journal::sync_folder(&data.join("db"))?;
    journal::sync_folder(data)?;
    if let Some(parent) = data.canonicalize().ok().as_deref().and_then(Path::parent) {
        // The parent may be closed to us; then it is not we who made the folder.
        let _ = journal::sync_folder(parent);
    }
    let journal = match disk.take_journal() {
        Some(journal) => journal,
        None => recovery::renew(data, &database, &mut disk, position, sizes)?,
    };
    let room = last_number(&database, family::ROOM_INFO)?.map_or(0, u32::from_be_bytes);
    let folder = data.join(journal::FOLDER);
    let disks = Disks { journal, disk, mark, folder, sizes };
    Ok(Opened { database, disks, lock, position, room })
}

/// Tells whether an error is one that a database without damage would not have.
pub(super) fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged { .. }
            | StoreError::Corrupt { .. }
            | StoreError::DatabaseLost { .. }
            | StoreError::DatabaseOlder { .. }
    )
}

pub(super) fn last_position(database: &Database) -> Result<u64, StoreError> {
    Ok(last_number(database, family::LOG)?.map_or(0, u64::from_be_bytes))
}

/// A data folder, and what says whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    /// The folder.
    pub(super) data: &'a Path,
    /// The server name of the keys in it.
    pub(super) keys: Option<&'a ServerName>,
    /// What the mark says.
    pub(super) marked: &'a Marked,
    /// Whether a database that is as it was when it was closed needs no look.
    pub(super) trusts_mark: bool,
}

impl Whose<'_> {
    /// Opens the database that is there, and brings it what the journal has beyond it.
    pub(super) fn open(&self, sizes: Sizes) -> Result<(Database, Disk), StoreError> {
        let Self { data, marked, .. } = *self;
        let db = data.join("db");
        let folder = data.join(journal::FOLDER);
        let files = journal::files(&folder)?;
        // What the journal has beyond it counts.
        let told = if files.is_empty() { Told::All } else { Told::InPart };
        let is_known = self.trusts_mark && marked.is_closed_as(&db);
        let mut is_looked_at = is_known;
        if !db.exists() {
            self.nothing()?;
            if !files.is_empty() {
                let (db, witness) = (db.display().to_string(), folder.display().to_string());
                return Err(StoreError::DatabaseLost { db, witness });
            }
        } else if !is_known && trial::copy(data)? {
            let looked = self.examine(&data.join(trial::COPY), told, true).map(drop);
            trial::remove(data)?;
            looked?;
            is_looked_at = true;
        }
        let (database, mut disk) = self.examine(&db, told, !is_looked_at)?;
        if files.is_empty() {
            if disk.followed().is_some() {
                log::warn!("the journal of the database is missing; it is made anew");
            }
            return Ok((database, disk));
        }
        let position = last_position(&database)?;
        let plan = match disk.followed() {
            None => recovery::plan(None, position, recovery::Found::Before),
            Some(followed) => {
                let files = self.journal_of(&followed, &files)?;
                let adopt = *marked == Marked::Adopt;
                let found = recovery::find(&folder, &files, &followed, adopt)?;
                recovery::plan(Some(&followed), position, found)
            }
        };
        match plan {
            Plan::Rebuild(why) => {
                let folder = db.display().to_string();
                return Err(StoreError::Damaged { folder, why: why.to_owned() });
            }
            Plan::Renew(why) => log::warn!("the journal is made anew: {why}"),
            Plan::Replay(tail) => {
                let files = journal::files(&folder)?;
                let journal = recovery::replay(data, files, &mut disk, tail, sizes)?;
                disk.use_journal(journal);
            }
        }
        self.judge(&database)?;
        Ok((database, disk))
    }

    /// Checks that there may be no database.
    pub(super) fn nothing(&self) -> Result<(), StoreError> {
        let nothing = Found { layout: None, owner: None, position: 0 };
        judge(self.data, self.keys, self.marked, &nothing)
    }

    /// Looks at all of a copy of the database, and says how much it is. `known` is the last record of the
    /// journal that it has had for certain.
    pub(super) fn look(&self, copy: &Path, known: u64) -> Result<String, StoreError> {
        let files = journal::files(&self.data.join(journal::FOLDER))?;
        let told = if files.is_empty() { Told::All } else { Told::InPart };
        let (_, disk) = self.examine(copy, told, true)?;
        if disk.followed().is_some_and(|followed| followed.place.number < known) {
            let folder = self.data.join("db").display().to_string();
            let why = "it lacks what was in it once".to_owned();
            return Err(StoreError::Damaged { folder, why });
        }
        Ok(disk.followed().map_or_else(
            || "whole as far as its own checksums go; the next start makes it a journal".to_owned(),
            |followed| {
                let (number, kib) = (followed.place.number, followed.live.div_ceil(1024));
                format!("all rows are there, {kib} KiB, up to group {number}")
            },
        ))
    }

    /// Makes the journal anew from the database.
    pub(super) fn renew(&self, sizes: Sizes) -> Result<(), StoreError> {
        let name = self.data.join("db").display().to_string();
        let (database, mut disk) = open_files(&self.data.join("db"), name)?;
        self.judge(&database)?;
        let position = last_position(&database)?;
        recovery::renew(self.data, &database, &mut disk, position, sizes).map(drop)
    }

    /// Returns the files of the journal that a database names. One that was made and not put in its
    /// place yet is put there.
    fn journal_of(
        &self,
        followed: &Followed,
        files: &[journal::JournalFile],
    ) -> Result<Vec<journal::JournalFile>, StoreError> {
        let folder = self.data.join(journal::FOLDER);
        let id = recovery::id_of(&folder, files)?;
        if id.is_none() || id == Some(followed.id) {
            return Ok(files.to_vec());
        }
        let new = self.data.join(journal::NEW);
        if recovery::id_of(&new, &journal::files(&new)?)? == Some(followed.id) {
            recovery::put_in_place(self.data)?;
            return journal::files(&folder);
        }
        Err(StoreError::JournalForeign {
            journal: folder.display().to_string(),
            db: self.data.join("db").display().to_string(),
        })
    }

    /// Compares what is in a database with keys and mark.
    fn judge(&self, database: &Database) -> Result<(), StoreError> {
        let found = Found {
            layout: migrations::layout(database)?,
            owner: migrations::owner(database)?,
            position: last_position(database)?,
        };
        judge(self.data, self.keys, self.marked, &found)
    }

    /// Makes the database anew from the journal, where that is whole and reaches as far as the database
    /// ever did; else nothing is changed, and `error` stands.
    pub(super) fn rebuild(
        &self,
        error: &StoreError,
        sizes: Sizes,
    ) -> Result<(Database, Disk), StoreError> {
        if journal::files(&self.data.join(journal::FOLDER))?.is_empty() {
            return Err(error.clone());
        }
        let reason = match error {
            StoreError::Damaged { why, .. } => why.as_str(),
            StoreError::DatabaseOlder { .. } => "it lacks the newest",
            _ => "it is missing or empty",
        };
        let db = self.data.join("db");
        log::warn!("{} is damaged: {reason}; it is being made anew from the journal", db.display());
        if let Err(why) = self.build() {
            log::error!("the journal cannot make the database anew: {why}");
            return Err(error.clone());
        }
        self.open(sizes)
    }

    /// Puts a database that is made from the journal in the place of the one that is there.
    pub(super) fn build(&self) -> Result<(), StoreError> {
        let data = self.data;
        let name = data.join("db").display().to_string();
        let built = recovery::build(data, |folder| open_files(folder, name));
        let judged = built.and_then(|(database, disk)| {
            let judged = self.judge(&database);
            drop((database, disk));
            judged
        });
        if let Err(why) = judged {
            recovery::remove_folder(&data.join(recovery::NEW_DATABASE))?;
            return Err(why);
        }
        if let Some(aside) = recovery::swap(data)? {
            log::warn!(
                "the database was made anew from the journal, nothing is lost; the damaged one is \
                 {}, and can be removed",
                aside.display()
            );
        }
        Ok(())
    }

    /// Opens the database in `folder`, which may be a copy, and looks whether it is whole and belongs
    /// to the rest of the data folder. `thorough` looks at every row, where there is a journal.
    fn examine(
        &self,
        folder: &Path,
        told: Told,
        thorough: bool,
    ) -> Result<(Database, Disk), StoreError> {
        let Self { data, keys, marked, .. } = *self;
        let name = data.join("db").display().to_string();
        let damaged = |why: String| StoreError::Damaged { folder: name.clone(), why };
        let looked = quietly(|| {
            let (database, disk) = open_files(folder, name.clone())?;
            let layout = migrations::layout(&database)?;
            let owner = migrations::owner(&database)?;
            let position = match told {
                Told::All => last_position(&database)?,
                Told::InPart => u64::MAX,
            };
            judge(data, keys, marked, &Found { layout, owner, position })?;
            check_newest(&database)?;
            if let Some(followed) = disk.followed().filter(|_| thorough) {
                check_all(&database, &followed)?;
            }
            Ok((database, disk))
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
}

/// Whether all that was ever told is in the database, or in part in the journal alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    InPart,
}

/// Opens the database of a folder, without a look at what is in it.
fn open_files(folder: &Path, name: String) -> Result<(Database, Disk), StoreError> {
    let sled = open_sled(folder).map_err(|error| disk_error(&name, &error))?;
    let file = folder.join("db");
    let file = files::open_to_sync(&file).map_err(|error| disk(&file, &error))?;
    let database = Database::new(sled.clone(), name.clone());
    let followed = database.get(&followed_key())?;
    let corrupt = StoreError::Corrupt { what: "journal" };
    let followed = followed.map(|row| Followed::decode(&row).ok_or(corrupt)).transpose()?;
    let disk = Disk::new(sled, file, name, followed);
    Ok((database, disk))
}

/// Checks that all rows are there, and nothing else is.
fn check_all(database: &Database, followed: &Followed) -> Result<(), StoreError> {
    let found = look_at_all(database, |_, _| Ok(()))?;
    match (found.live, found.print) == (followed.live, followed.print) {
        true => Ok(()),
        false => Err(StoreError::Corrupt { what: "database" }),
    }
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

/// Takes a data folder for this process alone.
pub(super) fn lock(data: &Path) -> Result<File, StoreError> {
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
