//! The scripts and styles of the page: all of them in the executable.
//!
//! They say nothing of the node, so whoever reaches it may have them. A browser asks again each time, and is told
//! that nothing changed.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH},
    },
    web,
};

use crate::http::{error::HttpError, login::pages::answer};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Names a file beside the page.
macro_rules! status_file {
    ($name:literal, $kind:expr) => {
        ($name, $kind, include_str!(concat!("../../../assets/status/", $name)))
    };
}

/// All files, each with its kind and content.
const FILES: [(&str, &str, &str); 13] = [
    status_file!("icon.svg", "image/svg+xml"),
    status_file!("page.css", STYLE),
    status_file!("page.js", SCRIPT),
    status_file!("parts.js", SCRIPT),
    status_file!("network.js", SCRIPT),
    status_file!("plots.js", SCRIPT),
    status_file!("care.js", SCRIPT),
    status_file!("uPlot.min.css", STYLE),
    status_file!("uPlot.iife.min.js", SCRIPT),
    status_file!("d3-dispatch.min.js", SCRIPT),
    status_file!("d3-quadtree.min.js", SCRIPT),
    status_file!("d3-timer.min.js", SCRIPT),
    status_file!("d3-force.min.js", SCRIPT),
];

/// Serves a file of the page.
pub async fn file(request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    let found = FILES.iter().find(|(file, ..)| *file == name.as_str());
    let Some((_, kind, content)) = found else {
        return HttpError::not_found("no such file").error_response();
    };
    let tag = format!("\"{}\"", blake3::hash(content.as_bytes()).to_hex());
    let known = request.headers().get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known = known.is_some_and(|tags| tags.contains(&tag));
    let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut answer = answer(status, "default-src 'none'; frame-ancestors 'none'");
    answer.insert_header((CACHE_CONTROL, "no-cache")).insert_header((ETAG, tag));
    match is_known {
        true => answer.finish(),
        false => answer.content_type(*kind).body(*content),
    }
}
