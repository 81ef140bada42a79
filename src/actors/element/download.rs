//! Fetches the archive of a release, and goes on where an earlier try ended.
//!
//! What came is kept in a file beside Element's folder, with a note of what it is a part of. Invariants:
//! no archive is used whose SHA-256 is not that of the release; never more is written than an archive may
//! have.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::AsyncWriteExt as _,
};

use crate::config::Release;

/// Most bytes of an archive: Element's has some 40 MB.
const ARCHIVE_MAX: u64 = 256 * 1024 * 1024;
/// How long nothing may come.
const STALL: Duration = Duration::from_secs(60);
/// How often one call begins anew, or goes on, before it gives up.
const TRIES: usize = 3;

/// Why an archive was not fetched. What came so far is kept, unless it was wrong.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The host cannot be asked, or broke off.
    #[error("{url} cannot be fetched: {why}")]
    Host {
        /// The address.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The disk refused something.
    #[error("{file}: {why}; free or repair the disk")]
    Disk {
        /// The file.
        file: String,
        /// What the system said.
        why: io::Error,
    },
    /// It is longer than any release.
    #[error("{url} has more than {} MiB: it is no release of Element", ARCHIVE_MAX >> 20)]
    TooLong {
        /// The address.
        url: String,
    },
    /// It is another file than the release.
    #[error(
        "{file} is not Element {version}: its SHA-256 is {found}, and that of the release is {sha256}"
    )]
    Wrong {
        /// Where it came from.
        file: String,
        /// The release that it should be.
        version: String,
        /// What it is.
        found: String,
        /// What it should be.
        sha256: String,
    },
}

/// How much of an archive is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes of all of it; none where the host does not say.
    pub total: Option<u64>,
}

/// What a part of an archive is a part of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    release: Release,
    /// By what the host knows whether it still has the same: a strong ETag, or a date.
    validator: String,
}

/// Fetches the archive of a release into `part`, and checks it. `loaded` hears how far it is.
pub(super) async fn download(
    client: &Client,
    release: &Release,
    part: &Path,
    mut loaded: impl FnMut(Loaded),
) -> Result<(), DownloadError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match go_on(client, release, part, &mut loaded).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error @ DownloadError::Host { .. }) if tries < TRIES => {
                log::debug!("the download of Element goes on: {error}");
            }
            Err(error) => return Err(error),
        }
        if tries >= TRIES {
            return Err(host(release, "it ends before its end"));
        }
    }
    let checked = verify(release, part.to_owned(), &release.url).await;
    if matches!(checked, Err(DownloadError::Wrong { .. })) {
        forget(part).await;
    }
    checked
}

/// Checks an archive that is in a file. `from` is where it comes from, for whoever reads an error.
pub(super) async fn verify(
    release: &Release,
    file: PathBuf,
    from: &str,
) -> Result<(), DownloadError> {
    let path = file.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        let (mut hash, mut file) = (Sha256::new(), std::fs::File::open(&path)?);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hash.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    });
    let found = hashed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let found = found.map_err(|why| disk(&file, why))?;
    if found == release.sha256 {
        return Ok(());
    }
    Err(DownloadError::Wrong {
        file: from.to_owned(),
        version: release.version.clone(),
        found,
        sha256: release.sha256.clone(),
    })
}

/// Removes what came so far.
pub(super) async fn forget(part: &Path) {
    for file in [part.to_owned(), note_of(part)] {
        match fs::remove_file(&file).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("{} cannot be removed: {error}", file.display());
            }
            _ => {}
        }
    }
}

fn note_of(part: &Path) -> PathBuf {
    part.with_added_extension("json")
}

fn disk(file: &Path, why: io::Error) -> DownloadError {
    DownloadError::Disk { file: file.display().to_string(), why }
}

fn host(release: &Release, why: impl ToString) -> DownloadError {
    DownloadError::Host { url: release.url.clone(), why: why.to_string() }
}

/// Says what is wrong with the causes of it, which are what a person can act on.
fn in_words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

/// Asks once for what is missing. Returns whether all of it is there.
async fn go_on(
    client: &Client,
    release: &Release,
    part: &Path,
    loaded: &mut impl FnMut(Loaded),
) -> Result<bool, DownloadError> {
    let (have, validator) = match kept(release, part).await {
        Some((have, validator)) => (have, Some(validator)),
        None => (0, None),
    };
    let mut asked = client.get(&release.url);
    if let Some(validator) = &validator {
        asked = asked.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, validator);
    }
    let answer = tokio::time::timeout(STALL, asked.send()).await;
    let answer = answer
        .map_err(|_| host(release, "no answer"))?
        .map_err(|error| host(release, in_words(&error)))?;
    let from = match (answer.status(), ranges(answer.headers())) {
        (StatusCode::OK, _) => 0,
        (StatusCode::PARTIAL_CONTENT, Some((Some(first), _))) if first == have => have,
        (StatusCode::RANGE_NOT_SATISFIABLE, Some((None, Some(total)))) if total == have => {
            return Ok(true);
        }
        (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
            forget(part).await;
            return Ok(false);
        }
        (status, _) => return Err(host(release, format!("its host answers {status}"))),
    };
    save(release, answer, part, from, loaded).await
}

/// Returns how much of a release is here, and by what its host knows it.
async fn kept(release: &Release, part: &Path) -> Option<(u64, String)> {
    let note = fs::read(note_of(part)).await.ok()?;
    let note: Note = serde_json::from_slice(&note).ok()?;
    let have = fs::metadata(part).await.ok()?.len();
    (note.release == *release && have > 0).then_some((have, note.validator))
}

/// Returns the first byte and the length of all, as `Content-Range` says.
fn ranges(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) =
        headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, total.parse().ok()))
}

/// Returns by what a host knows whether it still has the same file.
fn validator(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// Writes what comes behind the first `from` bytes. Returns whether all of it came.
async fn save(
    release: &Release,
    mut answer: Response,
    part: &Path,
    from: u64,
    loaded: &mut impl FnMut(Loaded),
) -> Result<bool, DownloadError> {
    let too_long = || DownloadError::TooLong { url: release.url.clone() };
    let total = answer.content_length().map(|rest| from.saturating_add(rest));
    if total.is_some_and(|total| total > ARCHIVE_MAX) {
        return Err(too_long());
    }
    let fault = |why| disk(part, why);
    if from == 0 {
        forget(part).await;
        if let Some(validator) = validator(answer.headers()).map(str::to_owned) {
            let note = serde_json::to_vec(&Note { release: release.clone(), validator });
            fs::write(note_of(part), note.unwrap_or_default()).await.map_err(fault)?;
        }
    }
    let mut file = open(part, from).await.map_err(fault)?;
    let mut bytes = from;
    loaded(Loaded { bytes, total });
    let ended = loop {
        match tokio::time::timeout(STALL, answer.chunk()).await {
            Err(_) => break Err(host(release, "nothing more comes")),
            Ok(Err(error)) => break Err(host(release, in_words(&error))),
            Ok(Ok(None)) => break Ok(()),
            Ok(Ok(Some(chunk))) => {
                bytes = bytes.saturating_add(chunk.len() as u64);
                if bytes > ARCHIVE_MAX {
                    drop(file);
                    forget(part).await;
                    return Err(too_long());
                }
                file.write_all(&chunk).await.map_err(fault)?;
                loaded(Loaded { bytes, total });
            }
        }
    };
    file.flush().await.map_err(fault)?;
    file.sync_all().await.map_err(fault)?;
    ended?;
    Ok(total.is_none_or(|total| bytes == total))
}

async fn open(part: &Path, from: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(part).await?;
    file.set_len(from).await?;
    Ok(file)
}
