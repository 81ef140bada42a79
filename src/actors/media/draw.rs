//! Handlers: thumbnails, made when they are asked for and kept beside their file.

use std::{fs, io::Read as _, num::NonZeroUsize, path::PathBuf, sync::Arc};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _, fut};
use lru::LruCache;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    actor::MediaActor,
    files::Files,
    messages::{FoundMedia, MakeThumbnail, MediaError},
    thumbnail::{self, Kind, ThumbnailSize},
};
use crate::{actors::cpu::Cpu, config::limits, platform::files::open_to_sync, proto::media::Hash};

/// Files that are known to be no pictures.
const REFUSED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What is known of drawing.
#[derive(Debug)]
pub(super) struct Drawing {
    /// Pictures that are in memory at once: each can take hundreds of MiB.
    places: Arc<Semaphore>,
    /// Those that cannot be drawn, and why.
    refused: LruCache<Hash, String>,
}

impl Default for Drawing {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(limits::MEDIA_THUMBNAILS));
        Self { places, refused: LruCache::new(REFUSED) }
    }
}

/// What came of it.
enum Drawn {
    /// It is its own.
    Itself(&'static str),
    /// It was made, and takes so many bytes, or was there.
    Made(fs::File, Kind, u64),
}

/// Opens a thumbnail that is there.
fn kept(files: &Files, hash: &Hash, size: ThumbnailSize) -> Option<(fs::File, Kind)> {
    Kind::ALL.into_iter().find_map(|kind| {
        let file = fs::File::open(files.made(hash, &size.file(kind))).ok()?;
        Some((file, kind))
    })
}

fn read(path: PathBuf) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(thumbnail::FILE_LEN.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write(files: &Files, hash: &Hash, what: &str, bytes: &[u8]) -> std::io::Result<fs::File> {
    let path = files.made(hash, what);
    let coming = files.coming_thumbnail(hash);
    fs::write(&coming, bytes)?;
    open_to_sync(&coming)?.sync_data()?;
    fs::rename(&coming, &path)?;
    fs::File::open(path)
}

async fn draw(
    files: Files,
    cpu: Cpu,
    places: Arc<Semaphore>,
    hash: Hash,
    msg: MakeThumbnail,
) -> Result<Drawn, MediaError> {
    let broken = |error: &dyn std::fmt::Display| MediaError::Files(error.to_string());
    let MakeThumbnail { size, animated, .. } = msg;
    let _place = places.acquire_owned().await.map_err(|error| broken(&error))?;
    // Somebody before us may have asked for the same.
    if !animated && let Some((file, kind)) = kept(&files, &hash, size) {
        return Ok(Drawn::Made(file, kind, 0));
    }
    let path = files.path(&hash);
    let bytes = spawn_blocking(move || read(path)).await.map_err(|error| broken(&error))??;
    let job = move || {
        if animated && let Some(kind) = thumbnail::moving(&bytes) {
            return Ok(Err(kind));
        }
        thumbnail::make(&bytes, size).map(Ok)
    };
    let drawn = cpu.run_for_others(job).await.map_err(|error| broken(&error))?;
    let (bytes, kind) = match drawn.map_err(MediaError::NoPicture)? {
        Err(content_type) => return Ok(Drawn::Itself(content_type)),
        Ok(made) => made,
    };
    let (len, what) = (bytes.len() as u64, size.file(kind));
    let written = spawn_blocking(move || write(&files, &hash, &what, &bytes)).await;
    let file = written.map_err(|error| broken(&error))??;
    Ok(Drawn::Made(file, kind, len))
}

impl Handler<MakeThumbnail> for MediaActor {
    type Result = ResponseActFuture<Self, Result<FoundMedia, MediaError>>;

    fn handle(&mut self, msg: MakeThumbnail, _: &mut Context<Self>) -> Self::Result {
        let found = match self.open(&msg.name) {
            Ok(found) => found,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let hash = found.hash;
        if let Some(why) = self.drawing.refused.get(&hash) {
            return Box::pin(fut::ready(Err(MediaError::NoPicture(why.clone()))));
        }
        if found.size > thumbnail::FILE_LEN {
            let why = "the file is too large for a thumbnail".to_owned();
            return Box::pin(fut::ready(Err(MediaError::NoPicture(why))));
        }
        let (files, cpu) = (self.files.clone(), self.links.cpu.clone());
        let places = Arc::clone(&self.drawing.places);
        let drawn = draw(files, cpu, places, hash, msg);
        Box::pin(drawn.into_actor(self).map(move |drawn, act, _| match drawn {
            Ok(Drawn::Itself(content_type)) => {
                let mut found = found;
                found.content_type = content_type.to_owned();
                Ok(found)
            }
            Ok(Drawn::Made(file, kind, len)) => {
                if len > 0 {
                    act.library.derived(&hash, len);
                }
                let size = file.metadata()?.len();
                let mut found = found;
                found.content_type = kind.content_type().to_owned();
                (found.file, found.size) = (Arc::new(file), size);
                Ok(found)
            }
            Err(MediaError::NoPicture(why)) => {
                act.drawing.refused.put(hash, why.clone());
                Err(MediaError::NoPicture(why))
            }
            Err(error) => Err(error),
        }))
    }
}
