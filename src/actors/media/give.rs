//! Handlers: what other servers ask for.
//!
//! Whoever may have something gets a ticket in a signed answer, and with it pieces, from this node or
//! through others. Invariants: who may not is told what is told of media that are not there; nobody gets
//! more at once than their part.

use std::{num::NonZeroUsize, os::unix::fs::FileExt as _, path::PathBuf, time::Instant};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
    fut,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lru::LruCache;
use ruma::{CanonicalJsonObject, OwnedServerName};
use tokio::task::spawn_blocking;

use super::{
    actor::{MediaActor, MediaLinks},
    library::Entry,
    messages::{MediaError, MediaOffer, OfferMedia, ReadPiece},
};
use crate::{
    actors::{
        accounts::LocalProfile,
        clock::now_ms,
        error::AskError,
        identity::ReadSigner,
        rate::{Bucket, Rate},
        store::{ReadRow, ReadServersOf, Row, StoreError},
        swarm::{GivePieces, PiecesAsked},
        upward::FindSharing,
    },
    config::{ASK_WAIT, limits},
    proto::media::{
        Hash, MediaName, PIECE, Statement, len_of,
        piece::{Asked, Given, Ticket},
    },
};

/// Tickets that are known: the last that were given or used.
const TICKETS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Servers whose share is remembered.
const SERVERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const SHARE: Rate =
    Rate { burst: limits::MEDIA_GIVEN_BURST, per_second: limits::MEDIA_GIVEN_PER_SECOND };

/// What somebody may have.
#[derive(Debug, Clone)]
struct Right {
    server: OwnedServerName,
    hash: Hash,
    size: u64,
}

/// What was promised to whom, and how much they had.
#[derive(Debug)]
pub(super) struct Counter {
    rights: LruCache<Ticket, Right>,
    shares: LruCache<OwnedServerName, Bucket<Instant>>,
    /// Pieces that are being read.
    reading: usize,
}

impl Default for Counter {
    fn default() -> Self {
        Self { rights: LruCache::new(TICKETS), shares: LruCache::new(SERVERS), reading: 0 }
    }
}

impl Counter {
    /// Tells which part of which file is given, if it is.
    fn admit(&mut self, asked: Asked, now: Instant) -> Result<(Hash, u64, usize), Given> {
        let Right { server, hash, size } =
            self.rights.get(&asked.ticket).cloned().ok_or(Given::Unknown)?;
        let last = asked.first.saturating_add(asked.count.saturating_sub(1));
        let (start, _) = len_of(size, asked.first).ok_or(Given::Unknown)?;
        let (end, last) = len_of(size, last).ok_or(Given::Unknown)?;
        let len = end.saturating_sub(start).saturating_add(last as u64);
        let len = usize::try_from(len).map_err(|_| Given::Unknown)?;
        let share = self.shares.get_or_insert_mut(server, || Bucket::full(SHARE, now));
        if self.reading >= limits::MEDIA_GIVEN || !share.take(len as f64, now) {
            return Err(Given::Busy);
        }
        self.reading = self.reading.saturating_add(1);
        Ok((hash, start, len))
    }
}

fn read(path: PathBuf, start: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

impl MediaLinks {
    /// Tells whether a server may have something of ours: where it has to do with who uploaded it, or where
    /// it is a picture that who uploaded it shows to everybody.
    async fn may_have(
        &self,
        origin: &OwnedServerName,
        name: &MediaName,
        entry: &Entry,
    ) -> Result<bool, MediaError> {
        let Some(owner) = entry.owner.clone() else {
            // Others' we hand on to those with whom we share a room.
            let find = FindSharing { servers: vec![origin.clone()], with: None };
            let sharing = self.sharing.send(find).timeout(ASK_WAIT).await;
            return Ok(!sharing.map_err(AskError::from)?.is_empty());
        };
        let read = ReadServersOf { user_id: owner.clone(), inviters: true };
        let servers = self.servers_of.send(read).timeout(ASK_WAIT).await;
        if servers.map_err(AskError::from)??.contains(origin) {
            return Ok(true);
        }
        let profile = self.profile.send(LocalProfile(owner)).timeout(ASK_WAIT).await;
        let profile = profile.map_err(AskError::from)?;
        Ok(profile.and_then(|profile| profile.avatar_url) == Some(name.uri()))
    }

    /// What the server whose it is says of it.
    async fn statement(
        &self,
        name: &MediaName,
        entry: &Entry,
        hash: Hash,
    ) -> Result<CanonicalJsonObject, MediaError> {
        let MediaName { server_name, media_id } = name.clone();
        if entry.owner.is_none() {
            let row = ReadRow(Row::MediaStatement(server_name, media_id));
            let row = self.read_row.send(row).timeout(ASK_WAIT).await.map_err(AskError::from)??;
            let row = row.ok_or(MediaError::NotFound)?;
            let corrupt = |_| StoreError::Corrupt { what: "statement on media" };
            return Ok(serde_json::from_slice(&row).map_err(corrupt)?);
        }
        let signer =
            self.signer.send(ReadSigner).timeout(ASK_WAIT).await.map_err(AskError::from)?;
        let signer = signer.ok_or(MediaError::NotFound)?;
        let statement = Statement {
            name: name.clone(),
            hash,
            size: entry.size,
            content_type: entry.content_type.clone(),
            file_name: entry.file_name.clone(),
        };
        statement.sign(&signer, now_ms()).map_err(|error| MediaError::Files(error.to_string()))
    }
}

impl Handler<OfferMedia> for MediaActor {
    type Result = ResponseActFuture<Self, Result<MediaOffer, MediaError>>;

    fn handle(&mut self, msg: OfferMedia, _: &mut Context<Self>) -> Self::Result {
        let OfferMedia { origin, name, pieces } = msg;
        let Some(entry) = self.library.get(&name).cloned() else {
            return Box::pin(fut::ready(Err(MediaError::NotFound)));
        };
        let settled = !self.unsettled.contains(&name);
        let (links, files) = (self.links.clone(), self.files.clone());
        let offered = async move {
            if !links.may_have(&origin, &name, &entry).await? {
                return Err(MediaError::NotFound);
            }
            let hash = entry.hash.filter(|_| settled).ok_or(MediaError::NotYet)?;
            let statement = links.statement(&name, &entry, hash).await?;
            let size = entry.size;
            let list = match pieces {
                true => {
                    let read = spawn_blocking(move || files.pieces(&hash, size)).await;
                    let read = read.map_err(|error| MediaError::Files(error.to_string()))?;
                    Some(
                        read.map_err(|error| MediaError::Files(error.to_string()))?.list().to_vec(),
                    )
                }
                false => None,
            };
            Ok((Right { server: origin, hash, size }, statement, list))
        };
        Box::pin(offered.into_actor(self).map(|offered, act, _| {
            let (right, statement, list) = offered?;
            let ticket: Ticket = rand::random();
            act.counter.rights.put(ticket, right);
            Ok(MediaOffer { statement, ticket: URL_SAFE_NO_PAD.encode(ticket), list })
        }))
    }
}

impl Handler<ReadPiece> for MediaActor {
    type Result = ResponseActFuture<Self, Result<Vec<u8>, MediaError>>;

    fn handle(&mut self, msg: ReadPiece, _: &mut Context<Self>) -> Self::Result {
        let ReadPiece { origin, ticket, piece } = msg;
        let ticket = URL_SAFE_NO_PAD.decode(ticket).ok().and_then(|ticket| ticket.try_into().ok());
        // A ticket is for whom it was given to.
        let ticket: Option<Ticket> = ticket.filter(|ticket| {
            self.counter.rights.peek(ticket).is_some_and(|right| right.server == origin)
        });
        let Some(ticket) = ticket else {
            return Box::pin(fut::ready(Err(MediaError::NotFound)));
        };
        let asked = Asked { ticket, first: piece, count: 1 };
        match self.counter.admit(asked, Instant::now()) {
            Ok((hash, start, len)) => {
                let path = self.files.path(&hash);
                let read = spawn_blocking(move || read(path, start, len));
                Box::pin(read.into_actor(self).map(|read, act, _| {
                    act.counter.reading = act.counter.reading.saturating_sub(1);
                    let read = read.map_err(|error| MediaError::Files(error.to_string()))?;
                    read.map_err(|_| MediaError::NotFound)
                }))
            }
            Err(Given::Busy) => {
                Box::pin(fut::ready(Err(MediaError::Busy("pieces of media in a short time"))))
            }
            Err(_) => Box::pin(fut::ready(Err(MediaError::NotFound))),
        }
    }
}

impl Handler<PiecesAsked> for MediaActor {
    type Result = ();

    fn handle(&mut self, PiecesAsked { bytes, ticket }: PiecesAsked, ctx: &mut Context<Self>) {
        let admitted = Asked::read(&bytes).ok_or(Given::Unknown);
        let admitted = admitted.and_then(|asked| self.counter.admit(asked, Instant::now()));
        let (hash, start, len) = match admitted {
            Ok(part) => part,
            Err(given) => {
                let bytes = given.into_bytes();
                return self.links.give_pieces.do_send(GivePieces { ticket, bytes });
            }
        };
        let path = self.files.path(&hash);
        let read = spawn_blocking(move || read(path, start, len));
        ctx.spawn(read.into_actor(self).map(move |read, act, _| {
            act.counter.reading = act.counter.reading.saturating_sub(1);
            // What gave way meanwhile is not here any more.
            let given = read.ok().and_then(Result::ok).map_or(Given::Unknown, Given::Pieces);
            let bytes = given.into_bytes();
            act.links.give_pieces.do_send(GivePieces { ticket, bytes });
        }));
    }
}

const _: () = assert!(limits::MEDIA_GIVEN_BURST >= 4.0 * PIECE as f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::server_keys::tests::secret_keys;

    #[test]
    fn a_ticket_is_for_one_file_and_its_pieces_and_a_share_ends() {
        let (mut counter, now) = (Counter::default(), Instant::now());
        let server = secret_keys(2).server_name();
        let size = 5 * PIECE as u64 + 10;
        counter.rights.put([1; 16], Right { server, hash: [7; 32], size });
        let ask = |ticket: u8, first, count| Asked { ticket: [ticket; 16], first, count };
        let end = 4 * PIECE as u64;
        assert_eq!(counter.admit(ask(1, 0, 4), now), Ok(([7; 32], 0, 4 * PIECE)));
        assert_eq!(counter.admit(ask(1, 4, 2), now), Ok(([7; 32], end, PIECE + 10)));
        for wrong in [ask(2, 0, 1), ask(1, 6, 1), ask(1, 5, 2), ask(1, u64::MAX, 4)] {
            assert_eq!(counter.admit(wrong, now), Err(Given::Unknown));
        }
        let mut given = 0;
        while counter.admit(ask(1, 0, 4), now).is_ok() {
            counter.reading = 0;
            given += 4 * PIECE;
        }
        assert!(given as f64 <= limits::MEDIA_GIVEN_BURST, "{given}");
        let later = now + std::time::Duration::from_secs(2);
        assert!(counter.admit(ask(1, 0, 4), later).is_ok());
        counter.reading = limits::MEDIA_GIVEN;
        assert_eq!(counter.admit(ask(1, 0, 1), later), Err(Given::Busy));
    }
}
