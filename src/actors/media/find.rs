//! Handlers: looking for media.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Addr, AsyncContext as _, Context, Handler, ResponseFuture};
use tokio::{sync::watch, time::timeout_at};

use super::{
    actor::{MediaActor, row_of},
    messages::{FindMedia, FoundMedia, MediaError, Progress},
};
use crate::{
    actors::{clock::now_ms, error::AskError, store::WriteRows},
    proto::media::MediaName,
};

/// How often a server is asked for what it waits for itself.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl MediaActor {
    /// Opens what is here.
    pub(super) fn open(&mut self, name: &MediaName) -> Result<FoundMedia, MediaError> {
        let entry = self.library.get(name).ok_or(MediaError::NotFound)?;
        if self.unsettled.contains(name) {
            return Err(MediaError::NotYet);
        }
        let hash = entry.hash.ok_or(MediaError::NotYet)?;
        let file = File::open(self.files.path(&hash)).inspect_err(|error| {
            log::error!(hash = super::files::hex(&hash); "a file cannot be opened: {error}");
        })?;
        let found = FoundMedia {
            file: Arc::new(file),
            size: entry.size,
            hash,
            content_type: entry.content_type.clone(),
            file_name: entry.file_name.clone(),
            arrival: None,
        };
        if let Some(entry) = self.library.touch(name, now_ms())
            && let Ok(row) = row_of(name, &entry)
        {
            self.links.write_rows.do_send(WriteRows(vec![row]));
        }
        Ok(found)
    }
}

impl Handler<FindMedia> for MediaActor {
    type Result = ResponseFuture<Result<FoundMedia, MediaError>>;

    fn handle(&mut self, msg: FindMedia, ctx: &mut Context<Self>) -> Self::Result {
        let deadline = Instant::now() + msg.timeout;
        let found = self.open(&msg.name);
        if matches!(found, Err(MediaError::NotFound))
            && msg.name.server_name != msg.by.server_name()
        {
            let arrival = self.arrival(&msg.name, ctx);
            let this = ctx.address();
            return Box::pin(async move { wait_for(arrival?, deadline, this, msg).await });
        }
        if !matches!(found, Err(MediaError::NotYet)) {
            return Box::pin(async { found });
        }
        let (mut came, this) = (self.came.subscribe(), ctx.address());
        Box::pin(async move {
            let changed = timeout_at(deadline.into(), came.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(MediaError::NotYet);
            }
            let timeout = deadline.saturating_duration_since(Instant::now());
            this.send(FindMedia { timeout, ..msg }).await.map_err(AskError::from)?
        })
    }
}

/// Waits until what is being fetched can be read from the beginning.
async fn wait_for(
    mut arrival: watch::Receiver<Progress>,
    deadline: Instant,
    this: Addr<MediaActor>,
    msg: FindMedia,
) -> Result<FoundMedia, MediaError> {
    let begun = |progress: &Progress| progress.found.is_some() || progress.over.is_some();
    let seen = timeout_at(deadline.into(), arrival.wait_for(begun)).await;
    let progress = match seen {
        Err(_) => return Err(MediaError::NotYet),
        Ok(Err(_)) => return Err(MediaError::Unreachable),
        Ok(Ok(progress)) => Progress::clone(&progress),
    };
    match (progress.over, progress.found) {
        (None, Some(found)) => return Ok(found),
        (Some(Err(MediaError::NotYet)), _) => {
            // Its server waits for the upload as we do.
            tokio::time::sleep(ASK_AGAIN).await;
        }
        (Some(Err(error)), _) => return Err(error),
        _ => {}
    }
    let timeout = deadline.saturating_duration_since(Instant::now());
    if timeout.is_zero() {
        return Err(MediaError::NotYet);
    }
    this.send(FindMedia { timeout, ..msg }).await.map_err(AskError::from)?
}
