//! Figures for Prometheus, at an address of their own.
//!
//! Off unless `metrics.listenAddress` says where. Whoever reaches that address may read them, so they name nobody
//! (`src/metrics.rs`). Invariants: a request whose `Host` is not ours gets nothing, so that no web page reads them
//! by rebinding its domain; no answer has a CORS header; one look at a time is made, whoever asks.

use std::{net::SocketAddr, sync::Arc};

use actix::Recipient;
use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header::HOST},
    web,
};
use tokio::sync::Semaphore;

use super::gateway::{Place, ask};
use crate::{actors::status_page::ReadFigures, metrics};

/// What the text format is called.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the server of figures needs.
#[derive(Clone)]
pub struct MetricsDesk {
    /// StatusPage: what is told.
    pub figures: Recipient<ReadFigures>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// One place: a look costs the same whoever asks.
    pub looks: Arc<Semaphore>,
}

/// Configures the server of figures. [`MetricsDesk`] has to be there as app data.
pub fn configure(config: &mut web::ServiceConfig) {
    config.default_service(web::to(serve));
}

async fn serve(request: HttpRequest, desk: web::Data<MetricsDesk>) -> HttpResponse {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| Place::is_our_host(host, desk.listen)) {
        return HttpResponse::Forbidden()
            .body("the Host header names another server than this one");
    }
    if request.path() != "/metrics" {
        return HttpResponse::NotFound().body("figures are at /metrics");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed().insert_header(("Allow", "GET, HEAD")).finish();
    }
    let Ok(_look) = desk.looks.acquire().await else {
        return HttpResponse::ServiceUnavailable().finish();
    };
    match ask(&desk.figures, ReadFigures).await {
        Ok(Ok(figures)) => match metrics::write(*figures) {
            Ok(text) => HttpResponse::Ok()
                .insert_header(("X-Content-Type-Options", "nosniff"))
                .insert_header(("Cache-Control", "no-store"))
                .content_type(TEXT)
                .body(text),
            Err(error) => {
                log::error!(error:%; "figures cannot be written");
                HttpResponse::InternalServerError().finish()
            }
        },
        Ok(Err(why)) => HttpResponse::ServiceUnavailable().body(why),
        Err(error) => HttpResponse::from_error(error),
    }
}
