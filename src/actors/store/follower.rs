//! The thread that brings the database what the journal has, and reads old files of the journal.
//!
//! One job at a time. Invariants: who is told that something is followed has it in the database, on
//! disk; after the first error nothing more is written.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::{
    StoreError,
    database::{Changes, Database, KeyValue},
    disk::{Disk, Followed},
    flusher::{Alarm, Tell, ended},
    journal::{JournalFile, Place, Reader, Stop},
};
use crate::config::limits;

/// What the thread does next.
#[derive(Debug)]
enum Job {
    /// Writes rows into the database, which has the journal up to a place then.
    Follow(Arc<Changes>, Place),
    /// Reads on in the oldest file of the journal.
    Read(JournalFile),
}

/// What came of it.
#[derive(Debug)]
enum Done {
    Followed(Followed),
    Read(OldRows),
    Failed,
}

/// Rows that stand in an old file of the journal.
#[derive(Debug)]
pub(super) struct OldRows {
    /// The file.
    pub(super) file: u64,
    /// The rows: some may be live still.
    pub(super) rows: Vec<KeyValue>,
    /// Whether these are the last ones.
    pub(super) is_end: bool,
}

/// The thread, from the actor's side.
#[derive(Debug)]
pub(super) struct Follower {
    thread: JoinHandle<Result<(), StoreError>>,
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    is_busy: bool,
    is_failed: bool,
    /// What the database has for certain.
    followed: Followed,
    /// What was read and nobody looked at yet.
    old: Option<OldRows>,
}

impl Follower {
    /// Starts the thread.
    pub(super) fn start(disk: Disk, journal: PathBuf, tell: Tell) -> Result<Self, StoreError> {
        let followed = disk.followed().ok_or(StoreError::Closed)?;
        let (jobs, next) = sync_channel(1);
        let (results, done) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-follow".to_owned())
            .spawn(move || Worker { disk, journal, old: None }.run(&next, &results, tell))
            .map_err(|error| StoreError::Disk {
                file: "the thread of the database".to_owned(),
                why: error.to_string(),
            })?;
        Ok(Self { thread, jobs, done, is_busy: false, is_failed: false, followed, old: None })
    }

    /// What the database has for certain.
    pub(super) fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Tells whether it can be given nothing to do now.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy || self.is_failed
    }

    /// Returns what was read of an old file.
    pub(super) fn take_old(&mut self) -> Option<OldRows> {
        self.old.take()
    }

    /// Brings the database all that is in the journal, up to its end at `place`.
    pub(super) fn follow(&mut self, database: &mut Database, place: Place) {
        self.send(Job::Follow(database.next_to_follow(), place));
    }

    /// Reads on in an old file.
    pub(super) fn read(&mut self, file: JournalFile) {
        self.send(Job::Read(file));
    }

    fn send(&mut self, job: Job) {
        // If the thread is gone, the actor learns it in another way.
        match self.jobs.send(job) {
            Ok(()) => self.is_busy = true,
            Err(_) => self.is_failed = true,
        }
    }

    /// Takes in what was done, without waiting.
    pub(super) fn look(&mut self, database: &mut Database) {
        if self.is_busy
            && let Ok(done) = self.done.try_recv()
        {
            self.take(database, done);
        }
    }

    /// Waits until what it does is done.
    pub(super) fn finish(&mut self, database: &mut Database) {
        if self.is_busy {
            let done = self.done.recv().unwrap_or(Done::Failed);
            self.take(database, done);
        }
    }

    fn take(&mut self, database: &mut Database, done: Done) {
        self.is_busy = false;
        match done {
            Done::Followed(followed) => {
                self.followed = followed;
                database.followed();
            }
            Done::Read(rows) => self.old = Some(rows),
            // The rows stay in sight: nothing that was answered is ever taken back.
            Done::Failed => self.is_failed = true,
        }
    }

    /// Ends the thread.
    pub(super) fn close(self) -> Result<(), StoreError> {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

/// The thread.
struct Worker {
    disk: Disk,
    journal: PathBuf,
    old: Option<(Reader, VecDeque<KeyValue>)>,
}

impl Worker {
    fn run(
        mut self,
        jobs: &Receiver<Job>,
        results: &SyncSender<Done>,
        tell: Tell,
    ) -> Result<(), StoreError> {
        let alarm = Alarm(tell.failed);
        let mut state = Ok(());
        while let Ok(job) = jobs.recv() {
            if state.is_err() {
                continue;
            }
            let done = match job {
                Job::Follow(changes, place) => match self.disk.follow(&changes, place) {
                    Ok(followed) => Done::Followed(followed),
                    Err(error) => {
                        alarm.tell(error.clone());
                        state = Err(error);
                        Done::Failed
                    }
                },
                Job::Read(file) => match self.read(&file) {
                    Ok(rows) => Done::Read(rows),
                    Err(error) => {
                        // All of it is in the database as well, and nothing more is read.
                        log::error!(error:%; "the journal is damaged; run `messagehub fsck`");
                        Done::Read(OldRows { file: 0, rows: Vec::new(), is_end: true })
                    }
                },
            };
            let _ = results.send(done);
            tell.written.do_send(super::actor::GroupWritten);
        }
        state
    }

    /// Reads the next rows of a file: a portion, so that nobody waits long for what is done with it.
    fn read(&mut self, file: &JournalFile) -> Result<OldRows, StoreError> {
        let is_same = |reader: &Reader| reader.place().file == file.first;
        let (mut reader, mut waiting) = match self.old.take() {
            Some((reader, waiting)) if is_same(&reader) => (reader, waiting),
            _ => {
                let reader = Reader::from_start(&self.journal, std::slice::from_ref(file))?;
                let damaged = StoreError::JournalDamaged {
                    file: super::journal::path_of(&self.journal, file.first).display().to_string(),
                    at: 0,
                    why: "its beginning is unreadable".to_owned(),
                };
                (reader.ok_or(damaged)?, VecDeque::new())
            }
        };
        let (mut rows, mut len) = (Vec::new(), 0_usize);
        let mut is_end = false;
        while len < limits::JOURNAL_PORTION {
            if let Some((key, value)) = waiting.pop_front() {
                len = len.saturating_add(key.len()).saturating_add(value.len());
                rows.push((key, value));
                continue;
            }
            match reader.next() {
                Ok(record) => {
                    // What was removed in the oldest file is nowhere before it.
                    let there = |(key, value): (_, Option<_>)| Some((key, value?));
                    waiting.extend(record.changes.into_iter().filter_map(there));
                }
                Err(Stop::End) => {
                    is_end = true;
                    break;
                }
                Err(Stop::Torn { file, at }) => {
                    let damage = Stop::Damaged { file, at, why: "a record is not whole" };
                    return Err(damage.into_error().unwrap_or(StoreError::Closed));
                }
                Err(stop) => return Err(stop.into_error().unwrap_or(StoreError::Closed)),
            }
        }
        if !is_end {
            self.old = Some((reader, waiting));
        }
        Ok(OldRows { file: file.first, rows, is_end })
    }
}
