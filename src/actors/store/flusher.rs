//! Group commit: one thread makes writes durable and tells who waits for it.
//!
//! While one group is written, the next one gathers; each costs one batch, one flush and one
//! fdatasync, whatever its size, so many writers cost little more than one. Invariants:
//!
//! - Who is told `Ok` has its writes on disk.
//! - The durable position never runs ahead of the disk, and advances before anybody is told.
//! - After a failed write everybody is told so, for ever: what the kernel kept of it is unknown,
//!   and a second fsync would claim success.

use std::{
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
    database::{Changes, Database, Disk},
};

/// Most who wait for one group. More than the work budget of the node, so that it is never full
/// in practice; when it is, the actor waits for the group before.
const WAITING: usize = 4096;

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
    waiting: Vec<Waiter>,
}

/// The flush thread, from the actor's side.
#[derive(Debug)]
pub(super) struct Flusher {
    thread: JoinHandle<Result<(), StoreError>>,
    /// Holds one group at most: the next one is sent when this one is written.
    groups: SyncSender<Group>,
    written: Receiver<()>,
    is_busy: bool,
    /// Who waits for the group that gathers.
    waiting: Vec<Waiter>,
}

/// The actor, from the thread's side.
#[derive(Debug)]
pub(super) struct Tell {
    /// Told after each group.
    pub(super) written: Recipient<GroupWritten>,
    /// Told once, when the disk failed or the thread panicked.
    pub(super) failed: Recipient<DiskFailed>,
}

impl Flusher {
    /// Starts the thread.
    pub(super) fn start(
        disk: Disk,
        durable: watch::Sender<u64>,
        tell: Tell,
    ) -> Result<Self, StoreError> {
        let (groups, next) = sync_channel(1);
        let (done, written) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn(move || run(&disk, &next, durable, &done, tell))
            .map_err(|error| StoreError::Disk {
                file: "the flush thread".to_owned(),
                why: error.to_string(),
            })?;
        Ok(Self { thread, groups, written, is_busy: false, waiting: Vec::new() })
    }

    /// Asks to be told when all that was added to the database, up to `position`, is durable.
    pub(super) fn wait(
        &mut self,
        database: &mut Database,
        position: u64,
    ) -> oneshot::Receiver<Result<Committed, StoreError>> {
        let (reply, done) = oneshot::channel();
        self.waiting.push(Waiter { position, reply });
        if self.waiting.len() >= WAITING && self.is_busy {
            self.finish(database);
        }
        self.advance(database);
        done
    }

    /// Sends the group on its way if the thread is free.
    pub(super) fn advance(&mut self, database: &mut Database) {
        if self.is_busy && self.written.try_recv().is_ok() {
            self.is_busy = false;
            database.group_written();
        }
        if !self.is_busy && !self.waiting.is_empty() {
            self.send(database);
        }
    }

    fn send(&mut self, database: &mut Database) {
        let changes = database.next_group();
        let group = Group { changes, waiting: std::mem::take(&mut self.waiting) };
        // If the thread is gone, so are the replies, and those who wait learn it from that.
        self.is_busy = self.groups.send(group).is_ok();
    }

    /// Waits until the group on its way is written.
    fn finish(&mut self, database: &mut Database) {
        // An error says that the thread panicked; it is told to the actor in another way.
        let _ = self.written.recv();
        self.is_busy = false;
        database.group_written();
    }

    /// Writes all that is left, also what nobody waits for, and ends the thread.
    pub(super) fn close(mut self, mut database: Database) -> Result<(), StoreError> {
        if self.is_busy {
            self.finish(&mut database);
        }
        self.send(&mut database);
        drop(self.groups);
        self.thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

/// What is answered when the thread ended without being asked to.
pub(super) fn ended() -> StoreError {
    StoreError::Disk { file: "db".to_owned(), why: "the flush thread panicked".to_owned() }
}

/// Tells the actor if the thread ends by a panic, sled's for one.
struct Alarm(Recipient<DiskFailed>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.do_send(DiskFailed(ended()));
        }
    }
}

fn run(
    disk: &Disk,
    groups: &Receiver<Group>,
    durable: watch::Sender<u64>,
    done: &SyncSender<()>,
    tell: Tell,
) -> Result<(), StoreError> {
    let alarm = Alarm(tell.failed);
    let mut state = Ok(());
    // Closed at the first failure, so that those who watch it learn that nothing more comes.
    let mut durable = Some(durable);
    while let Ok(Group { changes, waiting }) = groups.recv() {
        if state.is_ok() {
            state = disk.write(&changes);
            if let Err(error) = &state {
                durable = None;
                alarm.0.do_send(DiskFailed(error.clone()));
            }
        }
        if let Some(durable) = &durable {
            let position = waiting.iter().map(|waiter| waiter.position).max().unwrap_or(0);
            durable.send_if_modified(|durable| {
                let is_newer = position > *durable;
                *durable = position.max(*durable);
                is_newer
            });
            disk.mark(*durable.borrow());
        }
        for Waiter { position, reply } in waiting {
            let _ = reply.send(state.clone().map(|()| Committed { position }));
        }
        drop(changes);
        let _ = done.send(());
        tell.written.do_send(GroupWritten);
    }
    state
}
