//! Media: uploading, downloading, and how large a file may be.
//!
//! Invariants: nothing is given out without an access token; what was uploaded is offered as what it was
//! declared to be, shown only where the specification allows it, and never run by a browser; no file is in
//! memory as a whole.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    http::{
        Method as Verb, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    web::{self, Bytes},
};
use futures::StreamExt as _;
use ruma::{
    api::client::{
        authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
            get_media_preview,
        },
        media::create_mxc_uri,
    },
    media::Method,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    actors::{
        accounts::Session,
        media::{
            BeginUpload, CreateMedia, FindMedia, FinishUpload, FoundMedia, MakeThumbnail,
            MediaError, ReadMediaLimit, ThumbnailSize, Writer,
        },
        previews::{Preview, ReadPreview},
    },
    config::limits,
    http::{
        auth::authenticate,
        error::HttpError,
        file_body,
        gateway::{Gateway, ask},
        ruma_glue::{Authed, Empty, Json, gateway, path_arguments},
    },
    proto::media::{MediaName, UNKNOWN_TYPE},
};

/// How much of a body that is refused is read, so that the client reads our answer.
const DISCARDED: usize = 4 << 20;
/// How long it is read for that.
const DISCARD_WAIT: Duration = Duration::from_secs(2);

/// Tells how large a file may be.
pub async fn config(
    request: Authed<get_media_config::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let most = ask(&request.gateway.media.limit, ReadMediaLimit).await?;
    Ok(Json(json!({"m.upload.size": most})))
}

/// Gives out an id for something that is uploaded later.
pub async fn create(
    request: Authed<create_mxc_uri::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { session, gateway, permit: _permit, .. } = request;
    let created = CreateMedia { user_id: session.user_id };
    let (name, until) = ask(&gateway.media.create, created).await??;
    Ok(Json(json!({"content_uri": name.uri(), "unused_expires_at": until})))
}

/// Takes a file.
pub async fn upload(
    request: HttpRequest,
    payload: web::Payload,
) -> Result<impl Responder, HttpError> {
    let name = take(&request, payload, false).await?;
    Ok(Json(json!({"content_uri": name.uri()})))
}

/// Takes the file for an id that was given out.
pub async fn upload_created(
    request: HttpRequest,
    payload: web::Payload,
) -> Result<impl Responder, HttpError> {
    take(&request, payload, true).await?;
    Ok(Json(Empty {}))
}

/// Takes a body, and where it is refused reads on for a little: a connection on which an answer overtakes
/// the body is closed with a reset, which can reach the client before the answer does.
async fn take(
    request: &HttpRequest,
    mut payload: web::Payload,
    created: bool,
) -> Result<MediaName, HttpError> {
    let taken = try_take(request, &mut payload, created).await;
    if taken.is_err() {
        let discard = async {
            let mut discarded = 0_usize;
            while let Some(Ok(bytes)) = payload.next().await {
                discarded = discarded.saturating_add(bytes.len());
                if discarded > DISCARDED {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DISCARD_WAIT, discard).await;
    }
    taken
}

#[derive(Deserialize)]
struct UploadQuery {
    filename: Option<String>,
}

async fn try_take(
    request: &HttpRequest,
    payload: &mut web::Payload,
    created: bool,
) -> Result<MediaName, HttpError> {
    let gateway = gateway(request)?;
    let session = authenticate(request, &gateway).await?;
    let name = match created {
        true => Some(named(&path_arguments(request)?)?),
        false => None,
    };
    let query = web::Query::<UploadQuery>::from_query(request.query_string());
    let file_name = query.ok().and_then(|query| query.into_inner().filename);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let content_type = header(CONTENT_TYPE).unwrap_or(UNKNOWN_TYPE).to_owned();
    let announced = header(CONTENT_LENGTH).and_then(|len| len.parse().ok());
    let begin = BeginUpload { user_id: session.user_id, name, announced };
    let upload = ask(&gateway.media.begin, begin).await??;
    let mut writer = Writer::new(upload);
    loop {
        let next = tokio::time::timeout(limits::MEDIA_UPLOAD_IDLE, payload.next());
        let next = next.await.map_err(|_| {
            let why = "nothing more of the file came";
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", why)
        })?;
        let Some(bytes) = next else { break };
        let bytes: Bytes = bytes.map_err(|error| {
            HttpError::new(
                StatusCode::BAD_REQUEST,
                "M_UNKNOWN",
                format!("the file broke off: {error}"),
            )
        })?;
        writer.write(&bytes).await?;
    }
    let (upload, pieces) = writer.finish().await?;
    let finish = FinishUpload { upload, pieces, content_type, file_name };
    Ok(ask(&gateway.media.finish, finish).await??)
}

/// Reads the name of media in a path. One that cannot be is nobody's.
fn named(arguments: &[String]) -> Result<MediaName, HttpError> {
    let (Some(server), Some(id)) = (arguments.first(), arguments.get(1)) else {
        return Err(HttpError::not_found("no media is named"));
    };
    MediaName::read(server, id).map_err(|_| MediaError::NotFound.into())
}

async fn find(
    gateway: &Gateway,
    request: &HttpRequest,
    session: Session,
    timeout: Duration,
) -> Result<FoundMedia, HttpError> {
    let name = named(&path_arguments(request)?)?;
    let timeout = timeout.min(limits::MEDIA_WAIT);
    Ok(ask(&gateway.media.find, FindMedia { name, timeout, by: session.user_id }).await??)
}

/// Offers a file.
pub async fn download(
    http: HttpRequest,
    request: Authed<get_content::v1::Request>,
) -> Result<HttpResponse, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let found = find(&gateway, &http, session, body.timeout_ms).await?;
    drop(permit);
    let file_name = found.file_name.clone();
    file_body::answer(&http, &gateway, found, file_name)
}

/// Offers a file under another name.
pub async fn download_as(
    http: HttpRequest,
    request: Authed<get_content_as_filename::v1::Request>,
) -> Result<HttpResponse, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let found = find(&gateway, &http, session, body.timeout_ms).await?;
    drop(permit);
    file_body::answer(&http, &gateway, found, Some(body.filename))
}

/// Offers a thumbnail.
pub async fn thumbnail(
    http: HttpRequest,
    request: Authed<get_content_thumbnail::v1::Request>,
) -> Result<HttpResponse, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let (width, height) = (u64::from(body.width), u64::from(body.height));
    if width == 0 || height == 0 {
        return Err(HttpError::invalid_param("a thumbnail has a pixel each way at least"));
    }
    let size = ThumbnailSize::for_request(width, height, body.method == Some(Method::Crop));
    let found = find(&gateway, &http, session, body.timeout_ms).await?;
    if let Some(mut arrival) = found.arrival {
        let over = arrival.wait_for(|progress| progress.over.is_some());
        let over = tokio::time::timeout(body.timeout_ms.min(limits::MEDIA_WAIT), over).await;
        over.map_err(|_| MediaError::NotYet)?.map_err(|_| MediaError::Unreachable)?;
    }
    let name = named(&path_arguments(&http)?)?;
    let make = MakeThumbnail { name, size, animated: body.animated == Some(true) };
    let made = ask(&gateway.media.thumbnail, make).await??;
    drop(permit);
    file_body::answer(&http, &gateway, made, None)
}

/// Tells what is behind a link, where the person wants that.
pub async fn preview(
    request: Authed<get_media_preview::v1::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let Some(previews) = &gateway.read_preview else { return Err(HttpError::unrecognized()) };
    let url = body.url.parse().map_err(|_| HttpError::invalid_param("url is no link"))?;
    let read = ReadPreview { url, user_id: session.user_id };
    let preview = ask(previews, read).await??;
    Ok(Json(Preview::clone(&preview)))
}

/// What needed no access token once: from v1.11 of the specification on, nothing is found there.
pub async fn without_token() -> Result<HttpResponse, HttpError> {
    Err(HttpError::not_found("media are below /_matrix/client/v1/media, with an access token"))
}

/// Tells whether the body of a request is a file.
pub fn is_upload(method: &Verb, path: &str) -> bool {
    let path = path.strip_prefix("/_matrix/media/").and_then(|path| path.split_once('/'));
    let Some((_, path)) = path else { return false };
    let after = path.strip_prefix("upload");
    match *method {
        Verb::POST => after.is_some_and(|after| matches!(after, "" | "/")),
        Verb::PUT => after.is_some_and(|after| after.starts_with('/')),
        _ => false,
    }
}
