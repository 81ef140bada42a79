//! Making a preview: the page is asked for and read, its picture fetched and kept.

use std::{sync::Arc, time::Duration};

use http::header;
use ruma::OwnedServerName;
use tokio::time::timeout;
use url::Url;

use super::{
    actor::PreviewsLinks,
    messages::{Preview, PreviewError},
    page::{self, Page},
    picture::{self, measure},
};
use crate::{
    actors::{
        error::AskError,
        media::{BeginCopy, FinishUpload, MediaError, Writer},
    },
    config::ASK_WAIT,
    proto::media::essence,
    web_ask::{WebClient, WebError, WebStream},
};

/// Bytes of a page that are read: what it says of itself is at its beginning.
const PAGE_LEN: usize = 1024 * 1024;
/// Longest wait for a page, and for a picture.
const WAIT: Duration = Duration::from_secs(15);
/// Largest picture.
const PICTURE_LEN: u64 = 8 * 1024 * 1024;
/// What is asked for.
const PAGE: &str = "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.1";
const PICTURE: &str = "image/webp,image/png,image/jpeg,image/gif";

/// Why a picture is left out.
#[derive(Debug, thiserror::Error)]
enum NoPicture {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("its server answers {0}")]
    Refused(u16),
    #[error("it is larger than {PICTURE_LEN} bytes")]
    TooLarge,
    #[error("it is no png, jpeg, gif or webp")]
    Unknown,
    #[error("it takes too long")]
    TimedOut,
}

/// Makes the preview of a page.
pub(super) async fn make(
    links: PreviewsLinks,
    client: WebClient,
    server_name: OwnedServerName,
    url: Url,
) -> Result<Arc<Preview>, PreviewError> {
    let name = url.host_str().unwrap_or_default().to_owned();
    let web = |error: WebError| PreviewError::Web(error.to_string());
    let late = |_| PreviewError::TimedOut(name.clone());
    let answer = timeout(WAIT, client.get(url, PAGE)).await.map_err(late)?.map_err(web)?;
    if !(200..300).contains(&answer.status) {
        return Err(PreviewError::Refused(name, answer.status));
    }
    let content_type = answer.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let mut preview = Preview::new();
    let kept = match essence(&content_type).as_str() {
        "text/html" | "application/xhtml+xml" => {
            let at = answer.url.clone();
            let html =
                timeout(WAIT, answer.beginning(PAGE_LEN)).await.map_err(late)?.map_err(web)?;
            let read = links.cpu.run_for_others(move || page::read(&html, &content_type, &at));
            let page = read.await.map_err(|error| PreviewError::Web(error.to_string()))?;
            let Page { preview: of_page, picture } = page;
            preview = of_page;
            match picture {
                Some(at) => Some(fetch(&links, &client, server_name, at).await),
                None => None,
            }
        }
        kind if kind.starts_with("image/") => {
            Some(in_time(keep(&links, server_name, answer)).await)
        }
        _ => None,
    };
    match kept {
        Some(Ok(picture)) => preview.extend(picture),
        Some(Err(why)) => log::debug!("a preview of {name} has no picture: {why}"),
        None => {}
    }
    Ok(Arc::new(preview))
}

async fn in_time<T>(work: impl Future<Output = Result<T, NoPicture>>) -> Result<T, NoPicture> {
    timeout(WAIT, work).await.unwrap_or(Err(NoPicture::TimedOut))
}

async fn fetch(
    links: &PreviewsLinks,
    client: &WebClient,
    server_name: OwnedServerName,
    at: Url,
) -> Result<Preview, NoPicture> {
    in_time(async { keep(links, server_name, client.get(at, PICTURE).await?).await }).await
}

/// Keeps a picture; returns what is told of it.
async fn keep(
    links: &PreviewsLinks,
    server_name: OwnedServerName,
    mut answer: WebStream,
) -> Result<Preview, NoPicture> {
    if !(200..300).contains(&answer.status) {
        return Err(NoPicture::Refused(answer.status));
    }
    let announced = answer.header(&header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
    if announced.is_some_and(|len: u64| len > PICTURE_LEN) {
        return Err(NoPicture::TooLarge);
    }
    let begin = BeginCopy { server_name, announced };
    let upload = links.begin.send(begin).timeout(ASK_WAIT).await.map_err(AskError::from)??;
    let (mut writer, mut beginning, mut len) = (Writer::new(upload), Vec::new(), 0_u64);
    while let Some(bytes) = answer.next().await {
        let bytes = bytes?;
        len = len.saturating_add(bytes.len() as u64);
        if len > PICTURE_LEN {
            return Err(NoPicture::TooLarge);
        }
        let wanted = picture::BEGINNING.saturating_sub(beginning.len()).min(bytes.len());
        beginning.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
        writer.write(&bytes).await?;
    }
    let (upload, pieces) = writer.finish().await?;
    let picture = measure(&beginning).ok_or(NoPicture::Unknown)?;
    let content_type = picture.content_type.to_owned();
    let finish = FinishUpload { upload, pieces, content_type, file_name: None };
    let name = links.finish.send(finish).timeout(ASK_WAIT).await.map_err(AskError::from)??;
    Ok([
        ("og:image".to_owned(), name.uri().into()),
        ("og:image:type".to_owned(), picture.content_type.into()),
        ("og:image:width".to_owned(), picture.width.into()),
        ("og:image:height".to_owned(), picture.height.into()),
        ("matrix:image:size".to_owned(), len.into()),
    ]
    .into_iter()
    .collect())
}
