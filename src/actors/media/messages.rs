//! What Media is asked and told.

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use actix::{Message, Recipient};
use ruma::{CanonicalJsonObject, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::thumbnail::ThumbnailSize;
use crate::{
    actors::{error::AskError, store::StoreError},
    proto::media::{Hash, MediaName, Pieces, Statement},
};

/// Why Media refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MediaError {
    /// It is not there, or not for who asks.
    #[error("there is no such media")]
    NotFound,
    /// It is not there yet.
    #[error("this media is not here yet: it has not been uploaded, or is still on its way")]
    NotYet,
    /// Not for who asks.
    #[error("{0}")]
    Forbidden(&'static str),
    /// It was uploaded before.
    #[error("this media is there already: what was uploaded once is never changed")]
    CannotOverwrite,
    /// One file is too large.
    #[error("a file has {0} bytes at most here (media.maxUploadBytes)")]
    TooLarge(u64),
    /// A user has used up their part.
    #[error("you have used up your part of what this node keeps (media.maxUserBytes)")]
    UserFull,
    /// All media together have used up their part.
    #[error("this node keeps no more media (media.maxBytes)")]
    Full,
    /// The disk is full.
    #[error("the disk of this node is full: free some of it, or ask whose node it is to")]
    DiskFull,
    /// Too much at once.
    #[error("too many {0}: try again when some are done")]
    Busy(&'static str),
    /// No server that has it can be reached.
    #[error("nobody who has this media can be reached now")]
    Unreachable,
    /// No thumbnail can be made of it.
    #[error("no thumbnail can be made: {0}")]
    NoPicture(String),
    /// The file system failed.
    #[error("media cannot be kept or read: {0}")]
    Files(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl From<std::io::Error> for MediaError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Files(error.to_string()),
        }
    }
}

// ---------------------------------------------------------------- from http

/// Asks to upload something. Answered with where it is to be written.
#[derive(Message, Debug)]
#[rtype(result = "Result<Upload, MediaError>")]
pub struct BeginUpload {
    /// Who uploads.
    pub user_id: OwnedUserId,
    /// The id that was given out for it; without one, a new one is.
    pub name: Option<MediaName>,
    /// Its bytes, where that was said.
    pub announced: Option<u64>,
}

/// Asks to keep a picture of a web page. It is nobody's upload: it gives way as what others sent does, and
/// no other server gets it. Answered with where it is to be written.
#[derive(Message, Debug)]
#[rtype(result = "Result<Upload, MediaError>")]
pub struct BeginCopy {
    /// Our server.
    pub server_name: OwnedServerName,
    /// Its bytes, where that was said.
    pub announced: Option<u64>,
}

/// Place for what comes. Dropped before [`FinishUpload`], it is as if there had been none.
#[derive(Debug)]
pub struct Upload {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// How many bytes may come.
    pub most: u64,
    pub(super) abandon: Option<Recipient<AbandonUpload>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(abandon) = self.abandon.take() {
            abandon.do_send(AbandonUpload(self.number));
        }
    }
}

/// Nothing more comes of an upload.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct AbandonUpload(pub(super) u64);

/// All of an upload was written. Answered with its name once it would survive a power cut.
#[derive(Message, Debug)]
#[rtype(result = "Result<MediaName, MediaError>")]
pub struct FinishUpload {
    /// Which.
    pub upload: Upload,
    /// What was written.
    pub pieces: Pieces,
    /// What it was declared to be.
    pub content_type: String,
    /// What its uploader calls it.
    pub file_name: Option<String>,
}

/// Gives out an id for something that is uploaded later. Answered with it, and with until when it waits,
/// in milliseconds.
#[derive(Message, Debug)]
#[rtype(result = "Result<(MediaName, u64), MediaError>")]
pub struct CreateMedia {
    /// For whom.
    pub user_id: OwnedUserId,
}

/// Looks for something.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<FoundMedia, MediaError>")]
pub struct FindMedia {
    /// What.
    pub name: MediaName,
    /// How long to wait where it is not here yet.
    pub timeout: Duration,
    /// For whom.
    pub by: OwnedUserId,
}

/// Something that was found.
#[derive(Debug, Clone)]
pub struct FoundMedia {
    /// Its bytes.
    pub file: Arc<File>,
    /// How many there are.
    pub size: u64,
    /// Their hash.
    pub hash: Hash,
    /// What it was declared to be.
    pub content_type: String,
    /// What its uploader called it.
    pub file_name: Option<String>,
    /// How far it has come, where it is still being fetched.
    pub arrival: Option<watch::Receiver<Progress>>,
}

/// Asks for a thumbnail of something that is here.
#[derive(Message, Debug)]
#[rtype(result = "Result<FoundMedia, MediaError>")]
pub struct MakeThumbnail {
    /// Of what.
    pub name: MediaName,
    /// How large.
    pub size: ThumbnailSize,
    /// Whether it may move.
    pub animated: bool,
}

/// How far a file has come that is being fetched.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What it is, once the server whose it is, or somebody for it, has told.
    pub found: Option<FoundMedia>,
    /// How many of its bytes are here, from the first on.
    pub prefix: u64,
    /// How it ended.
    pub over: Option<Result<(), MediaError>>,
}

// ---------------------------------------------------------------- from Federation

/// Asks for another server what we have.
#[derive(Message, Debug)]
#[rtype(result = "Result<MediaOffer, MediaError>")]
pub struct OfferMedia {
    /// Who asks.
    pub origin: OwnedServerName,
    /// For what.
    pub name: MediaName,
    /// Whether the list of its pieces is wanted.
    pub pieces: bool,
}

/// What we have for who asked.
#[derive(Debug, Clone)]
pub struct MediaOffer {
    /// What the server says whose it is.
    pub statement: CanonicalJsonObject,
    /// By what pieces are asked for.
    pub ticket: String,
    /// The hashes of its pieces.
    pub list: Option<Vec<u8>>,
}

/// Asks for a piece.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<u8>, MediaError>")]
pub struct ReadPiece {
    /// Who asks.
    pub origin: OwnedServerName,
    /// From the offer.
    pub ticket: String,
    /// Which piece.
    pub piece: u64,
}

// ---------------------------------------------------------------- from itself

/// It is known what somebody waits for. Answered with where it is written, and for how many bytes there
/// is room; with nothing where it is here already.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<Place>, MediaError>")]
pub struct BeginFetch {
    pub(super) statement: Statement,
    pub(super) signed: CanonicalJsonObject,
}

/// Where a file is put together.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// A fetch came to its end.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), MediaError>")]
pub struct EndFetch {
    pub(super) place: Place,
    pub(super) statement: Statement,
    pub(super) signed: CanonicalJsonObject,
    /// All of it, where it came.
    pub(super) pieces: Option<Pieces>,
}

/// Nobody works any more for what somebody waits for.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct FetchOver(pub(super) MediaName);

/// Asks how much there is, and what is on its way.
#[derive(Message, Debug)]
#[rtype(result = "MediaStatus")]
pub struct ReadMedia;

/// How much there is, and what is on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaStatus {
    /// Pieces of media, ours and others'.
    pub media: usize,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Of which server something is being fetched, how many bytes came, of how many.
    pub fetching: Vec<(OwnedServerName, u64, u64)>,
}

/// Asks how large a file may be.
#[derive(Message, Debug)]
#[rtype(result = "u64")]
pub struct ReadMediaLimit;
