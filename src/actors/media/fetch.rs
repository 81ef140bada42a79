//! Fetching what is another server's, from whoever has it.
//!
//! One task a file. It asks the server whose it is, after a moment or for a long file others too, and takes
//! pieces of all that have it. Invariants: a piece is written when its hash is right, so the part of a file
//! on disk proves itself: after a break, or `kill -9`, what is right of it is not fetched again, and nothing
//! has to be remembered. Who gave a wrong piece is asked for no more of this file.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{
    actor::{MediaActor, MediaLinks},
    messages::{BeginFetch, EndFetch, FetchOver, FoundMedia, MediaError, Place, Progress},
    offers::Offer,
    plan::{Plan, Run},
};
use crate::{
    actors::{
        error::AskError,
        swarm::{AskPieces, NodeId},
        upward::SendFederation,
    },
    proto::{
        endpoint::Endpoint,
        media::{
            MediaName, PIECE, Pieces, len_of,
            piece::{AT_ONCE, Asked, Given},
        },
    },
};

/// How long the server whose it is has for itself.
const ALONE: Duration = Duration::from_secs(1);
/// From how many bytes on others are asked at once.
const LONG: u64 = 4 * 1024 * 1024;
/// Questions for pieces to one node that are under way.
const WINDOW: usize = 3;
/// How often one who has it may fail, in a row.
const FAULTS: usize = 4;
/// Pause before who failed is asked again.
const PAUSE: Duration = Duration::from_millis(400);
/// How long a piece may take through others.
const PIECE_WAIT: Duration = Duration::from_secs(30);
/// How often all is begun anew after a break that it was under way before; each pause is longer.
const TRIES: u32 = 6;

/// Fetches one file.
pub(super) struct Fetch {
    pub(super) links: MediaLinks,
    pub(super) this: Addr<MediaActor>,
    pub(super) name: MediaName,
    pub(super) progress: watch::Sender<Progress>,
}

/// One who has it.
struct Source {
    server: OwnedServerName,
    ticket: [u8; 16],
    /// Where it is connected; else it is asked through others.
    node: Option<NodeId>,
    flying: usize,
    faults: usize,
}

/// Why pieces did not come.
enum Fault {
    /// Too much is asked of it.
    Busy,
    /// The way to it broke.
    Broken,
    /// It has it no more, or gave something else.
    Useless,
    /// Our own disk.
    Ours(MediaError),
}

enum Event {
    Offer(Result<Offer, MediaError>),
    Others(Vec<OwnedServerName>),
    Pieces(OwnedServerName, Run, Result<(), Fault>),
}

type Events<'a> = FuturesUnordered<LocalBoxFuture<'a, Event>>;

/// Opens the part of a file that is here, and finds out which of its pieces are.
fn open(path: &Path, pieces: &Pieces) -> io::Result<(File, Vec<bool>)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let fresh = file.metadata()?.len() == 0;
    file.set_len(pieces.size)?;
    let mut block = vec![0; PIECE];
    let mut here = |piece| {
        if fresh && pieces.size > 0 {
            return false;
        }
        let Some((start, len)) = len_of(pieces.size, piece) else { return false };
        let Some(block) = block.get_mut(..len) else { return false };
        file.read_exact_at(block, start).is_ok() && pieces.holds(piece, block)
    };
    let here = (0..pieces.count()).map(&mut here).collect();
    Ok((file, here))
}

/// Writes pieces, if all of them are right.
fn write(file: &File, pieces: &Pieces, (first, count): Run, bytes: &[u8]) -> Result<(), Fault> {
    let start = len_of(pieces.size, first).map(|(start, _)| start).ok_or(Fault::Useless)?;
    let mut parts = bytes.chunks(PIECE);
    for piece in first..first.saturating_add(count) {
        let part = parts.next().unwrap_or_default();
        if !pieces.holds(piece, part) {
            return Err(Fault::Useless);
        }
    }
    if parts.next().is_some() {
        return Err(Fault::Useless);
    }
    file.write_all_at(bytes, start).map_err(|error| Fault::Ours(error.into()))
}

impl Fetch {
    /// Fetches it, and tells whoever waits.
    pub(super) async fn run(self) {
        let mut tries = 0;
        let over = loop {
            let fetched = Box::pin(self.fetch()).await;
            let begun = self.progress.borrow().found.is_some();
            match fetched {
                Err(MediaError::Unreachable) if begun && tries < TRIES => {
                    tries = tries.saturating_add(1);
                    sleep(Duration::from_secs(1 << tries)).await;
                }
                over => break over,
            }
        };
        if let Err(error) = &over {
            log::debug!(media:% = self.name.uri(), error:%; "not fetched");
        }
        self.progress.send_modify(|progress| progress.over = Some(over));
        self.this.do_send(FetchOver(self.name));
    }

    async fn fetch(&self) -> Result<(), MediaError> {
        let mut events = Events::new();
        events.push(self.ask(self.name.server_name.clone()));
        events.push(self.ask_others(ALONE));
        let (mut others, mut worst) = (false, MediaError::Unreachable);
        let mut asked = vec![self.name.server_name.clone()];
        let first = loop {
            match events.next().await {
                Some(Event::Offer(Ok(offer))) => break offer,
                Some(Event::Offer(Err(error))) => {
                    // What the server whose it is says counts for more than that others do not know.
                    if !matches!(worst, MediaError::NotYet) {
                        worst = error;
                    }
                    if !std::mem::replace(&mut others, true) {
                        events.push(self.ask_others(Duration::ZERO));
                    }
                }
                Some(Event::Others(servers)) => {
                    others = true;
                    self.ask_new(servers, &mut asked, &mut events);
                }
                Some(Event::Pieces(..)) => {}
                None => return Err(worst),
            }
        };
        let (statement, signed) = (first.statement.clone(), first.signed.clone());
        let begin = BeginFetch { statement: statement.clone(), signed: signed.clone() };
        let Some(place) = self.this.send(begin).await.map_err(AskError::from)?? else {
            return Ok(());
        };
        if statement.size > LONG && !others {
            events.push(self.ask_others(Duration::ZERO));
        }
        let pieces = Arc::new(first.pieces.clone());
        let fetched = self.pieces(first, &pieces, &place, (events, asked)).await;
        let whole = fetched.is_ok().then(|| Pieces::clone(&pieces));
        let end = EndFetch { place, statement, signed, pieces: whole };
        self.this.send(end).await.map_err(AskError::from)??;
        fetched
    }

    fn ask(&self, server: OwnedServerName) -> LocalBoxFuture<'static, Event> {
        self.links.clone().offer_of(server, self.name.clone()).map(Event::Offer).boxed_local()
    }

    /// Asks those that were not asked yet.
    fn ask_new(
        &self,
        servers: Vec<OwnedServerName>,
        asked: &mut Vec<OwnedServerName>,
        events: &mut Events<'static>,
    ) {
        for server in servers {
            if !asked.contains(&server) {
                asked.push(server.clone());
                events.push(self.ask(server));
            }
        }
    }

    fn ask_others(&self, after: Duration) -> LocalBoxFuture<'static, Event> {
        let (links, name) = (self.links.clone(), self.name.clone());
        async move {
            sleep(after).await;
            Event::Others(links.others(&name).await)
        }
        .boxed_local()
    }

    /// Takes the pieces of all that have them.
    async fn pieces(
        &self,
        first: Offer,
        pieces: &Arc<Pieces>,
        place: &Place,
        (mut events, mut asked): (Events<'static>, Vec<OwnedServerName>),
    ) -> Result<(), MediaError> {
        let (path, known) = (place.path.clone(), Arc::clone(pieces));
        let opened = spawn_blocking(move || open(&path, &known)).await.map_err(io::Error::other)?;
        let (file, here) = opened?;
        let file = Arc::new(file);
        let mut plan = Plan::new(here.into_iter());
        self.tell(&first, &file, pieces, &plan);
        let mut sources: VecDeque<Source> = [self.source(first).await].into();
        while !plan.is_done() {
            let several = sources.len() > 1;
            for source in &mut sources {
                let (window, most) = if source.node.is_some() { (WINDOW, AT_ONCE) } else { (1, 1) };
                while source.flying < window
                    && let Some(run) = plan.next(most, several)
                {
                    source.flying = source.flying.saturating_add(1);
                    events.push(self.ask_run(source, run, pieces, &file));
                }
            }
            // Who was asked first this time is last the next.
            sources.rotate_left(1.min(sources.len()));
            match events.next().await {
                None => return Err(MediaError::Unreachable),
                Some(Event::Offer(Ok(offer))) if offer.pieces == **pieces => {
                    sources.push_back(self.source(offer).await);
                }
                Some(Event::Offer(_)) => {}
                Some(Event::Others(servers)) => {
                    self.ask_new(servers, &mut asked, &mut events);
                }
                Some(Event::Pieces(server, run, result)) => {
                    match result {
                        Ok(()) => plan.came(run),
                        Err(_) => plan.failed(run),
                    }
                    self.judge(&mut sources, &server, result)?;
                    let prefix = plan.prefix().saturating_mul(PIECE as u64).min(pieces.size);
                    self.progress.send_if_modified(|progress| {
                        std::mem::replace(&mut progress.prefix, prefix) != prefix
                    });
                }
            }
        }
        let synced = spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?;
        Ok(synced?)
    }

    /// Lets clients begin.
    fn tell(&self, offer: &Offer, file: &Arc<File>, pieces: &Pieces, plan: &Plan) {
        let statement = &offer.statement;
        let found = FoundMedia {
            file: Arc::clone(file),
            size: pieces.size,
            hash: pieces.hash,
            content_type: statement.content_type.clone(),
            file_name: statement.file_name.clone(),
            arrival: Some(self.progress.subscribe()),
        };
        let prefix = plan.prefix().saturating_mul(PIECE as u64).min(pieces.size);
        self.progress.send_modify(|progress| {
            progress.prefix = prefix;
            progress.found.get_or_insert(found);
        });
    }

    async fn source(&self, offer: Offer) -> Source {
        let node = self.links.node_of(&offer.server).await;
        Source { server: offer.server, ticket: offer.ticket, node, flying: 0, faults: 0 }
    }

    /// Takes note of what somebody gave.
    fn judge(
        &self,
        sources: &mut VecDeque<Source>,
        server: &OwnedServerName,
        result: Result<(), Fault>,
    ) -> Result<(), MediaError> {
        let Some(at) = sources.iter().position(|source| source.server == *server) else {
            return Ok(());
        };
        let Some(source) = sources.get_mut(at) else { return Ok(()) };
        source.flying = source.flying.saturating_sub(1);
        match result {
            Ok(()) => source.faults = 0,
            Err(Fault::Busy) => {}
            Err(Fault::Ours(error)) => return Err(error),
            Err(Fault::Useless) => {
                log::warn!(server:%, media:% = self.name.uri(); "it gave no piece, or a wrong one");
                sources.remove(at);
            }
            Err(Fault::Broken) => {
                source.faults = source.faults.saturating_add(1);
                if source.faults >= FAULTS {
                    // What no connection brings may come through others.
                    match source.node.take() {
                        Some(_) if source.server == self.name.server_name => source.faults = 0,
                        _ => drop(sources.remove(at)),
                    }
                }
            }
        }
        Ok(())
    }

    fn ask_run(
        &self,
        source: &Source,
        run: Run,
        pieces: &Arc<Pieces>,
        file: &Arc<File>,
    ) -> LocalBoxFuture<'static, Event> {
        let (links, server) = (self.links.clone(), source.server.clone());
        let (ticket, node) = (source.ticket, source.node);
        let (pieces, file) = (Arc::clone(pieces), Arc::clone(file));
        async move {
            let given = match node {
                Some(node) => direct(&links, node, ticket, run).await,
                None => through_others(&links, &server, ticket, run).await,
            };
            let written = match given {
                Ok(bytes) => {
                    let written = spawn_blocking(move || write(&file, &pieces, run, &bytes)).await;
                    written.unwrap_or_else(|error| Err(Fault::Ours(io::Error::other(error).into())))
                }
                Err(fault) => {
                    sleep(PAUSE).await;
                    Err(fault)
                }
            };
            Event::Pieces(server, run, written)
        }
        .boxed_local()
    }
}

/// Asks over a connection of our own.
async fn direct(
    links: &MediaLinks,
    peer: NodeId,
    ticket: [u8; 16],
    (first, count): Run,
) -> Result<Vec<u8>, Fault> {
    let bytes = Asked { ticket, first, count }.to_bytes();
    let answer = links.ask_pieces.send(AskPieces { peer, bytes }).await;
    match answer.ok().and_then(Result::ok).map(Given::read) {
        Some(Some(Given::Pieces(bytes))) => Ok(bytes),
        Some(Some(Given::Busy)) => Err(Fault::Busy),
        Some(Some(Given::Unknown) | None) => Err(Fault::Useless),
        None => Err(Fault::Broken),
    }
}

/// Asks by a signed request, which others may carry.
async fn through_others(
    links: &MediaLinks,
    server: &OwnedServerName,
    ticket: [u8; 16],
    (piece, _): Run,
) -> Result<Vec<u8>, Fault> {
    let ask = SendFederation {
        destination: server.clone(),
        endpoint: Endpoint::media_piece(&URL_SAFE_NO_PAD.encode(ticket), piece),
        content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        timeout: PIECE_WAIT,
    };
    let Ok(Ok(CanonicalJsonValue::Object(answer))) = links.federation.send(ask).await else {
        return Err(Fault::Broken);
    };
    let bytes = answer.get("bytes").and_then(CanonicalJsonValue::as_str);
    bytes.and_then(|bytes| STANDARD_NO_PAD.decode(bytes).ok()).ok_or(Fault::Useless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::media::PieceHasher;

    #[test]
    fn what_is_on_disk_proves_itself_and_nothing_wrong_gets_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let all: Vec<u8> = (0..3 * PIECE + 5).map(|at| (at ^ (at >> 11)) as u8).collect();
        let mut hasher = PieceHasher::default();
        hasher.update(&all);
        let pieces = hasher.finish();
        let (file, here) = open(&path, &pieces).unwrap();
        assert_eq!(here, [false; 4]);
        let good = |first: usize, end: usize| &all[first * PIECE..(end * PIECE).min(all.len())];
        assert!(write(&file, &pieces, (1, 1), good(1, 2)).is_ok());
        assert!(write(&file, &pieces, (2, 2), good(2, 4)).is_ok());
        for (run, bytes) in [
            ((0, 1), good(1, 2)),
            ((0, 1), good(0, 2)),
            ((0, 2), good(0, 1)),
            ((0, 1), &[][..]),
            ((4, 1), good(0, 1)),
            ((u64::MAX, 2), good(0, 2)),
        ] {
            assert!(matches!(write(&file, &pieces, run, bytes), Err(Fault::Useless)), "{run:?}");
        }
        // As after `kill -9`, and a power cut that took a block.
        file.write_all_at(&[0; 512], 2 * PIECE as u64 + 100).unwrap();
        drop(file);
        let (_, here) = open(&path, &pieces).unwrap();
        assert_eq!(here, [false, true, false, true]);
    }

    #[test]
    fn an_empty_file_is_whole_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pieces = PieceHasher::default().finish();
        let (_, here) = open(&folder.path().join("part"), &pieces).unwrap();
        assert_eq!(here, [true]);
    }
}
