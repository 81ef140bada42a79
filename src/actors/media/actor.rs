//! The shell of Media: on a thread of its own, on which it gives files their names and takes them away;
//! bytes are written and read elsewhere.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use actix::{Actor, AsyncContext as _, Context, Handler, MessageResult, Recipient};
use tokio::sync::watch;

use super::{
    draw::Drawing,
    files::Files,
    give::Counter,
    library::{Dropped, Entry, Library},
    messages::{MediaError, MediaStatus, Progress, ReadMedia, ReadMediaLimit},
};
use crate::{
    actors::{
        accounts::LocalProfile,
        clock::now_ms,
        cpu::Cpu,
        error::AskError,
        identity::ReadSigner,
        rendezvous::ReadProven,
        store::{ReadRow, ReadServersOf, Row, RowKind, ScanRows, StoreError, WriteRows},
        swarm::{AskPieces, GivePieces},
        upward::{FindSharing, SendFederation},
    },
    config::{ASK_WAIT, MediaConfig, limits},
    proto::media::MediaName,
};

/// How often it is looked what is too old.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Rows to be written.
pub(super) type Rows = Vec<(Row, Option<Vec<u8>>)>;

/// Whom Media talks to.
#[derive(Debug, Clone)]
pub struct MediaLinks {
    /// Store.
    pub write_rows: Recipient<WriteRows>,
    /// Store.
    pub scan_rows: Recipient<ScanRows>,
    /// Store.
    pub read_row: Recipient<ReadRow>,
    /// Store: which servers have to do with a user.
    pub servers_of: Recipient<ReadServersOf>,
    /// Accounts: whose picture it is.
    pub profile: Recipient<LocalProfile>,
    /// Identity.
    pub signer: Recipient<ReadSigner>,
    /// RoomState: who shares a room with us.
    pub sharing: Recipient<FindSharing>,
    /// Rendezvous: who is connected.
    pub proven: Recipient<ReadProven>,
    /// RelayRequest: asking other servers.
    pub federation: Recipient<SendFederation>,
    /// Work for the processor.
    pub cpu: Cpu,
    /// Swarm.
    pub ask_pieces: Recipient<AskPieces>,
    /// Swarm.
    pub give_pieces: Recipient<GivePieces>,
}

impl MediaLinks {
    pub(super) async fn write(&self, rows: Rows) -> Result<(), MediaError> {
        if !rows.is_empty() {
            let asked = self.write_rows.send(WriteRows(rows)).timeout(ASK_WAIT).await;
            asked.map_err(AskError::from)??;
        }
        Ok(())
    }
}

/// Returns the row of a piece of media.
pub(super) fn row_of(
    name: &MediaName,
    entry: &Entry,
) -> Result<(Row, Option<Vec<u8>>), MediaError> {
    let bytes = serde_json::to_vec(entry).map_err(|_| StoreError::Corrupt { what: "media" })?;
    let MediaName { server_name, media_id } = name.clone();
    Ok((Row::Media(server_name, media_id), Some(bytes)))
}

/// Returns the rows by which names are forgotten.
fn forgotten(names: &[MediaName]) -> Rows {
    let rows = names.iter().flat_map(|MediaName { server_name, media_id }| {
        [
            (Row::Media(server_name.clone(), media_id.clone()), None),
            (Row::MediaStatement(server_name.clone(), media_id.clone()), None),
        ]
    });
    rows.collect()
}

/// Owns media.
#[derive(Debug)]
pub struct MediaActor {
    pub(super) links: MediaLinks,
    pub(super) library: Library,
    pub(super) files: Files,
    /// Those of which the row is not on disk yet.
    pub(super) unsettled: HashSet<MediaName>,
    /// Tells that something came.
    pub(super) came: watch::Sender<()>,
    /// What was promised to other servers.
    pub(super) counter: Counter,
    /// What is known of thumbnails.
    pub(super) drawing: Drawing,
    /// What is being fetched.
    pub(super) fetches: HashMap<MediaName, watch::Receiver<Progress>>,
}

impl MediaActor {
    /// Reads what is stored below the data folder, and clears away what is nobody's.
    pub async fn load(
        data: PathBuf,
        config: MediaConfig,
        links: MediaLinks,
    ) -> Result<Self, MediaError> {
        let rows = links.scan_rows.send(ScanRows(RowKind::Media)).timeout(ASK_WAIT).await;
        let mut library = Library::new(config);
        for (row, value) in rows.map_err(AskError::from)?? {
            let Row::Media(server_name, media_id) = row else { continue };
            let entry: Entry = serde_json::from_slice(&value)
                .map_err(|_| StoreError::Corrupt { what: "media" })?;
            library.insert(MediaName { server_name, media_id }, entry);
        }
        let known = library.files();
        let (files, there, derived) = tokio::task::spawn_blocking(move || {
            let files = Files::open(&data).map_err(|error| in_folder(&data, &error))?;
            let (there, derived) = files.sweep(&known).map_err(|error| in_folder(&data, &error))?;
            Ok::<_, MediaError>((files, there, derived))
        })
        .await
        .map_err(|error| MediaError::Files(error.to_string()))??;
        let lost = library.drop_lost(&there);
        for (hash, bytes) in derived {
            library.derived(&hash, bytes);
        }
        for hash in library.files().difference(&there) {
            log::error!(hash = super::files::hex(hash); "a file that was uploaded here is gone");
        }
        links.write(forgotten(&lost.names)).await?;
        let (unsettled, came) = (HashSet::new(), watch::Sender::new(()));
        let (counter, drawing) = (Counter::default(), Drawing::default());
        let fetches = HashMap::new();
        Ok(Self { links, library, files, unsettled, came, counter, drawing, fetches })
    }

    /// Lets go of what gave way.
    pub(super) fn clear(&self, dropped: &Dropped) {
        if dropped.names.is_empty() {
            return;
        }
        log::debug!(media = dropped.names.len(); "media give way");
        for hash in &dropped.files {
            self.files.remove(hash);
        }
        // Should this be lost, the files are not there at the next start, and the rows go then.
        self.links.write_rows.do_send(WriteRows(forgotten(&dropped.names)));
    }

    fn look(&mut self) {
        self.tidy_parts();
        let dropped = self.library.drop_old(now_ms());
        self.clear(&dropped);
    }
}

fn in_folder(data: &Path, error: &std::io::Error) -> MediaError {
    MediaError::Files(format!("{}: {error}", data.join("media").display()))
}

impl Actor for MediaActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        self.look();
        ctx.run_interval(LOOK_EVERY, |act, _| act.look());
    }
}

impl Handler<ReadMediaLimit> for MediaActor {
    type Result = u64;

    fn handle(&mut self, _: ReadMediaLimit, _: &mut Self::Context) -> u64 {
        self.library.config().max_upload_bytes
    }
}

impl Handler<ReadMedia> for MediaActor {
    type Result = MessageResult<ReadMedia>;

    fn handle(&mut self, _: ReadMedia, _: &mut Self::Context) -> Self::Result {
        let (media, bytes) = self.library.totals();
        let fetching = self.fetches.iter().map(|(name, progress)| {
            let progress = progress.borrow();
            let size = progress.found.as_ref().map_or(0, |found| found.size);
            (name.server_name.clone(), progress.prefix, size)
        });
        MessageResult(MediaStatus { media, bytes, fetching: fetching.collect() })
    }
}
