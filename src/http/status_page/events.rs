//! What the page shows, as server-sent events: sent when it changes, so that no page has to ask again and
//! again.
//!
//! Invariants: what a window has not taken yet is replaced by what is newer, never queued; a window that is gone
//! is noticed within [`STILL_HERE`], and has its place no longer.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, ResponseError as _, http::StatusCode, web};
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::access::check;
use crate::{
    actors::status_page::{WatchStatus, Watched, WindowsFull},
    http::{
        error::HttpError,
        gateway::{Gateway, Place, ask},
        login::{pages::answer, sso::Desk},
    },
};

/// How often a window hears something where nothing changes.
const STILL_HERE: Duration = Duration::from_secs(15);

/// One window.
struct Window {
    /// What is sent first.
    first: Option<String>,
    shown: watch::Receiver<Arc<str>>,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Window {
    /// Waits for what is sent next; none when the node stops.
    async fn next(&mut self) -> Option<web::Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first.into());
        }
        loop {
            tokio::select! {
                changed = self.shown.changed() => {
                    changed.ok()?;
                    let shown = Arc::clone(&self.shown.borrow_and_update());
                    if !shown.is_empty() {
                        return Some(event("shown", &shown).into());
                    }
                }
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
                () = tokio::time::sleep(STILL_HERE) => {
                    return Some(web::Bytes::from_static(b":\n\n"));
                }
            }
        }
    }
}

/// Writes an event. JSON has no line breaks but those that it escapes.
fn event(name: &str, json: &str) -> String {
    format!("event: {name}\ndata: {json}\n\n")
}

/// Shows what the node is at for as long as the window stays.
pub async fn events(
    request: HttpRequest,
    gateway: web::Data<Gateway>,
    place: web::Data<Place>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    if let Err(refusal) = check(&request, &desk).await {
        return refusal.error_response();
    }
    let Watched { history, mut shown, place: window } =
        match ask(&gateway.watch_status, WatchStatus).await {
            Ok(Ok(watched)) => watched,
            Ok(Err(full @ WindowsFull)) => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let why = full.to_string();
                return HttpError::new(status, "M_LIMIT_EXCEEDED", why).error_response();
            }
            Err(error) => return error.error_response(),
        };
    if !shown.borrow().is_empty() {
        shown.mark_changed();
    }
    let stopping = place.stopping.clone();
    let first = Some(event("history", &history));
    let window = Window { first, shown, stopping, _place: window };
    let sent = stream::unfold(window, async |mut window| {
        let next = window.next().await?;
        Some((Ok::<_, actix_web::Error>(next), window))
    });
    let mut answer = answer(StatusCode::OK, "default-src 'none'; frame-ancestors 'none'");
    answer.content_type("text/event-stream").streaming(Box::pin(sent))
}
