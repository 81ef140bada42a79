//! Group commit: one thread makes writes durable and tells who waits for it.
//!
//! While one group is written, the next one gathers; each costs one append to the journal and one
//! fdatasync, whatever its size, so many writers cost little more than one. What is in the journal
//! goes on to the database (`follower.rs`). Invariants:
//!
//! - Who is told `Ok` has its writes on disk.
//! - The durable position never runs ahead of the disk, and advances before anybody is told.
//! - After a failed write everybody is told so, for ever: what the kernel kept of it is unknown,
//!   and a second fsync would claim success.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use actix::Recipient;
use tokio::sync::{oneshot, watch};

use super::{
    Committed, StoreError,
    actor::{DiskFailed, GroupWritten},
    compaction::Compaction,
    database::{Changes, Database},
    disk::Disk,
    follower::Follower,
    journal::{Journal, JournalFile, Place},
    mark::Mark,
};
use crate::config::limits;

/// Most who wait for one group. More than the work budget of the node, so that it is never full
/// in practice; when it is, the actor waits for the group before.
const WAITING: usize = 4096;

/// How much is done at once.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of a file of the journal.
    pub journal_file: u64,
    /// Bytes of rows that are brought to the database together.
    pub follow: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { journal_file: limits::JOURNAL_FILE, follow: limits::FOLLOW_LEN }
    }
}

/// Somebody who waits until what was written so far is durable.
#[derive(Debug)]
struct Waiter {
    position: u64,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
}

/// What is written at once, and who waits for it.
#[derive(Debug)]
struct Group {
    changes: Arc<Changes>,
    /// Rows that are written again as they were.
    kept: Changes,
    /// The last record that the database has for certain.
    followed: u64,
    /// A file of the journal that is no longer needed once this is written.
    remove: Option<u64>,
    waiting: Vec<Waiter>,
}

/// How the journal is after a group.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Where it ends.
    pub(super) place: Place,
    /// Bytes of all its files.
    pub(super) len: u64,
    /// The oldest file, and the number of its last record; none while there is only one.
    pub(super) oldest: Option<(JournalFile, u64)>,
}

impl Written {
    fn of(journal: &Journal) -> Self {
        let oldest = match journal.files() {
            [oldest, next, ..] => Some((oldest.clone(), next.first.saturating_sub(1))),
            _ => None,
        };
        Self { place: journal.place(), len: journal.len(), oldest }
    }
}

/// The flush thread, from the actor's side.
#[derive(Debug)]
pub(super) struct Flusher {
    thread: JoinHandle<Result<(), StoreError>>,
    /// Holds one group at most: the next one is sent when this one is written.
    groups: SyncSender<Group>,
    /// Said after each group; nothing where it was not written.
    written: Receiver<Option<Written>>,
    is_busy: bool,
    is_failed: bool,
    /// Who waits for the group that gathers.
    waiting: Vec<Waiter>,
    /// How the journal was after the last group.
    journal: Written,
    follower: Follower,
    compaction: Compaction,
    sizes: Sizes,
}

/// The actor, from a thread's side.
#[derive(Debug, Clone)]
pub(super) struct Tell {
    /// Told after each group.
    pub(super) written: Recipient<GroupWritten>,
    /// Told once, when the disk failed or the thread panicked.
    pub(super) failed: Recipient<DiskFailed>,
}

/// What the threads write to.
#[derive(Debug)]
pub(super) struct Disks {
    /// The journal, at its end.
    pub(super) journal: Journal,
    /// The database.
    pub(super) disk: Disk,
    /// How far it got, told from beside it.
    pub(super) mark: Mark,
    /// The folder of the journal.
    pub(super) folder: PathBuf,
    /// How much of each.
    pub(super) sizes: Sizes,
}

impl Flusher {
    /// Starts the threads.
    pub(super) fn start(
        disks: Disks,
        durable: watch::Sender<u64>,
        tell: Tell,
    ) -> Result<Self, StoreError> {
        let Disks { journal, disk, mark, folder, sizes } = disks;
        let follower = Follower::start(disk, folder, tell.clone())?;
        let state = Written::of(&journal);
        let (groups, next) = sync_channel(1);
        let (done, written) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn(move || run(journal, &mark, &next, durable, &done, tell))
            .map_err(|error| StoreError::Disk {
                file: "the flush thread".to_owned(),
                why: error.to_string(),
            })?;
        Ok(Self {
            thread,
            groups,
            written,
            is_busy: false,
            is_failed: false,
            sizes,
            waiting: Vec::new(),
            journal: state,
            follower,
            compaction: Compaction::default(),
        })
    }

    /// Asks to be told when all that was added to the database, up to `position`, is durable.
    pub(super) fn wait(
        &mut self,
        database: &mut Database,
        position: u64,
    ) -> oneshot::Receiver<Result<Committed, StoreError>> {
        let (reply, done) = oneshot::channel();
        self.waiting.push(Waiter { position, reply });
        if self.waiting.len() >= WAITING {
            self.finish(database);
        }
        if database.journaled_len() > limits::FOLLOW_MAX {
            // A disk that is slower than those who write: they wait for it.
            self.follower.finish(database);
        }
        self.advance(database);
        done
    }

    /// Sends on their way whatever can go, to the journal and to the database.
    pub(super) fn advance(&mut self, database: &mut Database) {
        if self.is_busy
            && let Ok(written) = self.written.try_recv()
        {
            self.journaled(database, written);
        }
        self.follower.look(database);
        // First, since it takes a turn only after a group: the database has its turn in between.
        let Self { compaction, journal, follower, sizes, .. } = self;
        compaction.advance(database, journal, follower, sizes.journal_file);
        if database.journaled_len() >= self.sizes.follow {
            self.follow(database);
        }
        if !self.is_busy && (!self.waiting.is_empty() || self.compaction.has_work()) {
            self.send(database);
        }
    }

    /// Brings the database what waits for it, be it ever so little, unless it is busy.
    pub(super) fn follow(&mut self, database: &mut Database) {
        if !self.is_failed && !self.follower.is_busy() && database.journaled_len() > 0 {
            self.follower.follow(database, self.journal.place);
        }
    }

    fn journaled(&mut self, database: &mut Database, written: Option<Written>) {
        self.is_busy = false;
        let Some(written) = written else {
            // What the journal has not, the database never gets.
            self.is_failed = true;
            return database.group_written();
        };
        self.journal = written;
        self.compaction.written();
        database.group_journaled();
    }

    fn send(&mut self, database: &mut Database) {
        let changes = database.next_group();
        let (kept, remove) = self.compaction.take();
        let followed = self.follower.followed().place.number;
        let waiting = std::mem::take(&mut self.waiting);
        let group = Group { changes, kept, followed, remove, waiting };
        // If the thread is gone, so are the replies, and those who wait learn it from that.
        self.is_busy = self.groups.send(group).is_ok();
    }

    /// Waits until the group on its way is written.
    fn finish(&mut self, database: &mut Database) {
        if self.is_busy {
            // An error says that the thread panicked; it is told to the actor in another way.
            let written = self.written.recv().unwrap_or_default();
            self.journaled(database, written);
        }
    }

    /// Writes all that is left, also what nobody waits for, and ends the threads: the database has
    /// all that the journal has then, and the journal says so.
    pub(super) fn close(mut self, mut database: Database) -> Result<(), StoreError> {
        self.finish(&mut database);
        self.send(&mut database);
        self.finish(&mut database);
        self.follower.finish(&mut database);
        self.follow(&mut database);
        self.follower.finish(&mut database);
        self.send(&mut database);
        drop(self.groups);
        let flushed = self.thread.join().unwrap_or_else(|_| Err(ended()));
        let followed = self.follower.close();
        flushed.and(followed)
    }
}

/// What is answered when the thread ended without being asked to.
pub(super) fn ended() -> StoreError {
    StoreError::Disk { file: "db".to_owned(), why: "the flush thread panicked".to_owned() }
}

/// Tells the actor if the thread ends by a panic, sled's for one.
pub(super) struct Alarm(pub(super) Recipient<DiskFailed>);

impl Alarm {
    /// Tells of a failed write.
    pub(super) fn tell(&self, error: StoreError) {
        self.0.do_send(DiskFailed(error));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.do_send(DiskFailed(ended()));
        }
    }
}

fn run(
    mut journal: Journal,
    mark: &Mark,
    groups: &Receiver<Group>,
    durable: watch::Sender<u64>,
    done: &SyncSender<Option<Written>>,
    tell: Tell,
) -> Result<(), StoreError> {
    let alarm = Alarm(tell.failed);
    let mut state = Ok(());
    // Closed at the first failure, so that those who watch it learn that nothing more comes.
    let mut durable = Some(durable);
    while let Ok(Group { changes, kept, followed, remove, waiting }) = groups.recv() {
        if state.is_ok() {
            state = write(&mut journal, &changes, &kept, followed, remove);
            if let Err(error) = &state {
                durable = None;
                alarm.tell(error.clone());
            }
        }
        if let Some(durable) = &durable {
            let position = waiting.iter().map(|waiter| waiter.position).max().unwrap_or(0);
            durable.send_if_modified(|durable| {
                let is_newer = position > *durable;
                *durable = position.max(*durable);
                is_newer
            });
            mark.advance(*durable.borrow());
        }
        for Waiter { position, reply } in waiting {
            let _ = reply.send(state.clone().map(|()| Committed { position }));
        }
        drop(changes);
        let _ = done.send(state.is_ok().then(|| Written::of(&journal)));
        tell.written.do_send(GroupWritten);
    }
    state
}

fn write(
    journal: &mut Journal,
    changes: &Changes,
    kept: &Changes,
    followed: u64,
    remove: Option<u64>,
) -> Result<(), StoreError> {
    match changes.is_empty() && kept.is_empty() {
        // Nothing but how far the database got: that is worth a record when all is at rest.
        true if followed >= journal.place().number => journal.settle(followed)?,
        true => {}
        false => drop(journal.append(followed, kept, changes)?),
    }
    remove.map_or(Ok(()), |file| journal.remove_oldest(file))
}
