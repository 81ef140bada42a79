//! Files as answers: ranges, names, what browsers may do with them, and their bytes, block by block.

use std::{fs::File, io, os::unix::fs::FileExt as _, pin::Pin, str::FromStr as _, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody, SizedStream},
    http::{
        Method, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE,
            CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, Range,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    web::{self, Bytes},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, stream};
use ruma::http_headers::{ContentDisposition, ContentDispositionType};
use tokio::sync::watch;

use super::{error::HttpError, gateway::Gateway};
use crate::{
    actors::media::{FoundMedia, MediaError, Progress},
    proto::media::{file_name, is_inline},
};

/// Bytes that are read at once.
const BLOCK: usize = 256 * 1024;
/// Blocks that are read ahead.
const BLOCKS: usize = 2;
/// What the specification has browsers do with media of strangers: nothing.
const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
/// It needs a token, so nothing between us and the client keeps it; and it never changes.
const CACHE: &str = "private, max-age=31536000, immutable";

/// What of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// From the first byte to the last one.
    Some(u64, u64),
    /// Nothing that there is.
    None,
}

/// Returns which part of a file a `Range` asks for. What makes no sense, or asks for several parts, gets
/// all of it.
fn part(range: Option<&str>, size: u64) -> Part {
    let Some(Ok(Range::Bytes(ranges))) = range.map(Range::from_str) else { return Part::All };
    let [range] = ranges.as_slice() else { return Part::All };
    range.to_satisfiable_range(size).map_or(Part::None, |(first, last)| Part::Some(first, last))
}

/// Answers with a file.
pub(super) fn answer(
    request: &HttpRequest,
    gateway: &Gateway,
    found: FoundMedia,
    called: Option<String>,
) -> Result<HttpResponse, HttpError> {
    let FoundMedia { file, size, hash, content_type, arrival, .. } = found;
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(hash));
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let known = header(IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',').any(|one| matches!(one.trim(), "*") || one.trim() == tag)
    });
    // Part of what has become another file is no use.
    let same = header(IF_RANGE).is_none_or(|one| one == tag);
    let part = part(header(RANGE).filter(|_| same), size);
    let (status, range) = match part {
        _ if known => (StatusCode::NOT_MODIFIED, None),
        Part::All => (StatusCode::OK, None),
        Part::Some(first, last) => {
            (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {first}-{last}/{size}")))
        }
        Part::None => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{size}"))),
    };
    let kind = match is_inline(&content_type) {
        true => ContentDispositionType::Inline,
        false => ContentDispositionType::Attachment,
    };
    let disposition = ContentDisposition::new(kind).with_filename(file_name(called.as_deref()));
    let mut answer = HttpResponse::build(status);
    answer
        .insert_header((ETAG, tag))
        .insert_header((CACHE_CONTROL, CACHE))
        .insert_header((ACCEPT_RANGES, "bytes"))
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CONTENT_DISPOSITION, disposition.to_string()))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header(("Cross-Origin-Resource-Policy", "cross-origin"));
    if let Some(range) = range {
        answer.insert_header((CONTENT_RANGE, range));
    }
    let (from, len) = match part {
        _ if known => return Ok(answer.finish()),
        Part::None => return Ok(answer.finish()),
        Part::All => (0, size),
        Part::Some(first, last) => (first, last.saturating_sub(first).saturating_add(1)),
    };
    if request.method() == Method::HEAD {
        return Ok(answer.body(Announced(len)));
    }
    let place = Arc::clone(&gateway.downloads).try_acquire_owned();
    let place = place.map_err(|_| MediaError::Busy("downloads at once"))?;
    let blocks = stream::iter(blocks(from, len)).map(move |(start, len)| {
        let (file, arrival) = (Arc::clone(&file), arrival.clone());
        async move {
            if let Some(arrival) = arrival {
                arrived(arrival, start.saturating_add(len as u64)).await?;
            }
            read(file, start, len).await
        }
    });
    // The place is taken for as long as the bytes are on their way.
    let bytes = blocks.buffered(BLOCKS).map(move |bytes| {
        let _place = &place;
        bytes
    });
    Ok(answer.body(SizedStream::new(len, bytes)))
}

/// Cuts a part of a file into blocks: where each begins, and how long it is.
fn blocks(from: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let count = len.div_ceil(BLOCK as u64);
    (0..count).map(move |number| {
        let before = number.saturating_mul(BLOCK as u64);
        let left = len.saturating_sub(before).min(BLOCK as u64);
        (from.saturating_add(before), usize::try_from(left).unwrap_or(BLOCK))
    })
}

/// Waits until so much of a file is here.
async fn arrived(mut arrival: watch::Receiver<Progress>, end: u64) -> io::Result<()> {
    let here = |progress: &Progress| progress.prefix >= end || progress.over.is_some();
    let progress = arrival.wait_for(here).await.map_err(io::Error::other)?;
    match &progress.over {
        Some(Err(error)) if progress.prefix < end => Err(io::Error::other(error.to_string())),
        _ => Ok(()),
    }
}

async fn read(file: Arc<File>, start: u64, len: usize) -> io::Result<Bytes> {
    let read = web::block(move || {
        let mut block = vec![0; len];
        file.read_exact_at(&mut block, start).map(|()| Bytes::from(block))
    });
    read.await.map_err(io::Error::other)?
}

/// A body of which only the length is told, as `HEAD` asks.
struct Announced(u64);

impl MessageBody for Announced {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, Self::Error>>> {
        std::task::Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_file() {
        for (range, wanted) in [
            (None, Part::All),
            (Some("bytes=0-9"), Part::Some(0, 9)),
            (Some("bytes=0-"), Part::Some(0, 99)),
            (Some("bytes=90-1000"), Part::Some(90, 99)),
            (Some("bytes=-10"), Part::Some(90, 99)),
            (Some("bytes=-1000"), Part::Some(0, 99)),
            (Some("bytes=100-"), Part::None),
            (Some("bytes=99-99"), Part::Some(99, 99)),
            (Some("bytes=18446744073709551615-"), Part::None),
            (Some("bytes=0-9,20-29"), Part::All),
            (Some("bytes=9-0"), Part::All),
            (Some("bytes=x"), Part::All),
            (Some("lines=0-9"), Part::All),
            (Some(""), Part::All),
        ] {
            assert_eq!(part(range, 100), wanted, "{range:?}");
        }
        assert_eq!(part(Some("bytes=0-"), 0), Part::None);
        assert_eq!(part(Some("bytes=-0"), 10), Part::None);
    }

    #[test]
    fn blocks_are_the_part_without_a_gap() {
        for (from, len) in [(0, 0), (0, 1), (7, BLOCK as u64), (3, 5 * BLOCK as u64 + 1)] {
            let mut at = from;
            for (start, len) in blocks(from, len) {
                assert_eq!(start, at);
                assert!(len > 0 && len <= BLOCK);
                at += len as u64;
            }
            assert_eq!(at, from + len);
        }
    }
}
