//! Group commit: one thread makes writes durable and tells who waits for it.
//!
//! While one flush runs, the actor applies what comes and queues those who wait; the next flush
//! covers all of them. Invariants:
//!
//! - Who is told `Ok` has its writes on disk: sled's `flush` ends in `sync_file_range`, which
//!   is not enough, so an `fdatasync` of its file follows. (`flush_async` is never used: it
//!   deadlocks with several callers in sled 0.34.7.)
//! - The durable position never runs ahead of the disk, and advances before anybody is told.
//! - After a failed flush everybody is told so, for ever: what the kernel kept of the failed
//!   write is unknown, and a second fsync would claim success.

use std::{
    fs::File,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use actix::Recipient;
use tokio::sync::{oneshot, watch};

use super::{Committed, StoreError, actor::DiskFailed, database::Database};

/// Most who wait at once. More than the work budget of the node, so it is never full in practice;
/// when it is, the actor waits for the flush that runs.
const WAITING: usize = 4096;

/// Somebody who waits until what was applied so far is durable.
#[derive(Debug)]
struct Waiter {
    position: u64,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
}

/// The flush thread, from the actor's side.
#[derive(Debug)]
pub(super) struct Flusher {
    queue: SyncSender<Waiter>,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl Flusher {
    /// Starts the thread.
    pub(super) fn start(
        database: Database,
        file: File,
        durable: watch::Sender<u64>,
        failed: Recipient<DiskFailed>,
    ) -> Result<Self, StoreError> {
        let (queue, waiting) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn(move || run(&database, &file, &waiting, durable, failed))
            .map_err(|error| StoreError::Disk {
                file: "the flush thread".to_owned(),
                why: error.to_string(),
            })?;
        Ok(Self { queue, thread })
    }

    /// Asks to be told when all that is applied, up to `position`, is durable.
    pub(super) fn wait(&self, position: u64) -> oneshot::Receiver<Result<Committed, StoreError>> {
        let (reply, done) = oneshot::channel();
        // If the thread is gone, so is `reply`, and the waiter learns it from that.
        let _ = self.queue.send(Waiter { position, reply });
        done
    }

    /// Flushes what is left and ends the thread.
    pub(super) fn close(self) -> Result<(), StoreError> {
        drop(self.queue);
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
    database: &Database,
    file: &File,
    waiting: &Receiver<Waiter>,
    durable: watch::Sender<u64>,
    failed: Recipient<DiskFailed>,
) -> Result<(), StoreError> {
    let alarm = Alarm(failed);
    let mut state = Ok(());
    // Closed at the first failure, so that those who watch it learn that nothing more comes.
    let mut durable = Some(durable);
    let mut group = Vec::new();
    while let Ok(first) = waiting.recv() {
        group.push(first);
        group.extend(waiting.try_iter());
        if state.is_ok() {
            state = flush(database, file);
            if let Err(error) = &state {
                durable = None;
                alarm.0.do_send(DiskFailed(error.clone()));
            }
        }
        if let Some(durable) = &durable {
            let position = group.iter().map(|waiter| waiter.position).max().unwrap_or(0);
            durable.send_if_modified(|durable| {
                let is_newer = position > *durable;
                *durable = position.max(*durable);
                is_newer
            });
        }
        for Waiter { position, reply } in group.drain(..) {
            let _ = reply.send(state.clone().map(|()| Committed { position }));
        }
    }
    // Also covers what nobody waited for.
    state.and_then(|()| flush(database, file))
}

fn flush(database: &Database, file: &File) -> Result<(), StoreError> {
    database.flush()?;
    file.sync_data()
        .map_err(|error| StoreError::Disk { file: "db".to_owned(), why: error.to_string() })
}
