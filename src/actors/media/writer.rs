//! Writing what comes: hashed and written on a thread that may block, while the next bytes are awaited.
//!
//! Invariant: whoever sends is slowed down to what the disk takes; two blocks wait at most.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::messages::{MediaError, Upload};
use crate::proto::media::{PieceHasher, Pieces};

/// Bytes that are written at once.
const BLOCK: usize = 512 * 1024;
/// Blocks that wait for the disk.
const BLOCKS: usize = 2;
/// Bytes after which the disk is set to work, so that little is left for the end.
const SYNC_EVERY: usize = 64 * 1024 * 1024;

/// Writes an upload.
#[derive(Debug)]
pub struct Writer {
    upload: Upload,
    block: Vec<u8>,
    size: u64,
    blocks: mpsc::Sender<Vec<u8>>,
    /// Blocks that were written come back to be filled again.
    empty: mpsc::Receiver<Vec<u8>>,
    done: JoinHandle<io::Result<Pieces>>,
}

/// Awaits what is being written to the disk.
fn synced(syncing: Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(syncing) = syncing else { return Ok(()) };
    Handle::current().block_on(syncing).map_err(io::Error::other)?
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

impl Writer {
    /// Begins.
    pub fn new(upload: Upload) -> Self {
        let (blocks, mut full) = mpsc::channel::<Vec<u8>>(BLOCKS);
        let (written, empty) = mpsc::channel(BLOCKS);
        let path = upload.path.clone();
        let done = spawn_blocking(move || {
            let (mut file, mut hasher) = (create(&path)?, PieceHasher::default());
            let (mut unsynced, mut syncing) = (0_usize, None);
            while let Some(mut block) = full.blocking_recv() {
                hasher.update(&block);
                file.write_all(&block)?;
                unsynced = unsynced.saturating_add(block.len());
                block.clear();
                let _ = written.try_send(block);
                if unsynced >= SYNC_EVERY && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
                    synced(syncing.take())?;
                    let file = file.try_clone()?;
                    syncing = Some(spawn_blocking(move || file.sync_data()));
                    unsynced = 0;
                }
            }
            // The system tells of a failed write once: whoever asked first has to be heard.
            synced(syncing)?;
            file.sync_data()?;
            Ok(hasher.finish())
        });
        Self { upload, block: Vec::new(), size: 0, blocks, empty, done }
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), MediaError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.upload.most {
            return Err(MediaError::TooLarge(self.upload.most));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let free = BLOCK.saturating_sub(self.block.len());
            let (taken, left) = rest.split_at(rest.len().min(free));
            self.block.extend_from_slice(taken);
            rest = left;
            if self.block.len() >= BLOCK {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<(), MediaError> {
        let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        let block = std::mem::replace(&mut self.block, next);
        if self.blocks.send(block).await.is_err() {
            // The writer gave up; why, it says at its end.
            let done =
                (&mut self.done).await.map_err(|error| io::Error::other(error.to_string()))?;
            done?;
            return Err(MediaError::Files("the writer ended".to_owned()));
        }
        Ok(())
    }

    /// Awaits that all of it is on disk.
    pub async fn finish(mut self) -> Result<(Upload, Pieces), MediaError> {
        if !self.block.is_empty() {
            self.hand_over().await?;
        }
        let Self { upload, blocks, done, .. } = self;
        drop(blocks);
        let pieces = done.await.map_err(|error| io::Error::other(error.to_string()))??;
        Ok((upload, pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(folder: &Path, most: u64) -> Upload {
        Upload { number: 1, path: folder.join("1"), most, abandon: None }
    }

    #[actix::test]
    async fn what_came_is_on_disk_and_hashed() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, BLOCK, 3 * BLOCK + 5] {
            let all: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
            let mut writer = Writer::new(upload(folder.path(), len as u64));
            for part in all.chunks(100_000) {
                writer.write(part).await.unwrap();
            }
            let (_, pieces) = writer.finish().await.unwrap();
            assert_eq!((pieces.hash, pieces.size), (*blake3::hash(&all).as_bytes(), len as u64));
            assert_eq!(std::fs::read(folder.path().join("1")).unwrap(), all);
            std::fs::remove_file(folder.path().join("1")).unwrap();
        }
    }

    #[actix::test]
    async fn nobody_writes_more_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(upload(folder.path(), 10));
        writer.write(&[0; 10]).await.unwrap();
        assert!(matches!(writer.write(&[0]).await, Err(MediaError::TooLarge(10))));
    }

    #[actix::test]
    async fn a_disk_that_fails_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(upload(&folder.path().join("no such folder"), u64::MAX));
        let block = vec![0; BLOCK];
        let failed = async {
            for _ in 0..10 {
                writer.write(&block).await?;
            }
            Ok::<_, MediaError>(())
        };
        assert!(matches!(failed.await, Err(MediaError::Files(_))));
    }
}
