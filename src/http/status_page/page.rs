//! The page, the picture with the owner's id, and the doctor.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    http::{StatusCode, header::SET_COOKIE},
    web,
};
use askama::Template;
use fast_qr::{
    ECL, QRBuilder,
    convert::{Builder as _, Shape, svg::SvgBuilder},
};
use serde_json::json;

use super::access::{OPEN_PATH, Sight, bind_form, check, sight};
use crate::{
    actors::identity::ReadSigner,
    doctor,
    http::{
        error::HttpError,
        gateway::{Gateway, ask},
        login::{
            pages::{answer, is_browser, refused},
            source::Source,
            sso::{Desk, Patient},
        },
    },
    proto::server_name::user_of,
};

/// What the page may do: load its own files, and fetch from where it came.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// What the page that asks for a token may do.
const FORM_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; \
     base-uri 'none'; form-action 'self'";

#[derive(Template)]
#[template(path = "status/page.html")]
struct Page<'a> {
    version: &'a str,
    homeserver: &'a str,
    element: Option<&'a str>,
    data: &'a str,
}

/// Why a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Who it is cannot be told.
    First,
    /// It is another account of this machine.
    OtherAccount,
    /// The one that came was no good.
    Again,
}

#[derive(Template)]
#[template(path = "status/token.html")]
struct Token<'a> {
    reason: String,
    homeserver: &'a str,
    element: Option<&'a str>,
    owner: &'a str,
    command: &'a str,
    action: &'a str,
    csrf: &'a str,
}

/// `/`: the page, for who may see it; what this is and where to go, for everybody else.
pub async fn home(request: HttpRequest, desk: web::Data<Desk>) -> HttpResponse {
    if !is_browser(&request) {
        return HttpError::unrecognized().error_response();
    }
    if !Source::of(&request).may_begin(&desk.place) {
        let why = "this address is for people, not for pages: open it in a browser tab";
        return refused(&request, why);
    }
    match sight(&request, &desk).await {
        Sight::All => show(&request, &desk),
        Sight::OtherAccount => ask_for_token(&request, &desk, Ask::OtherAccount),
        Sight::Nothing => ask_for_token(&request, &desk, Ask::First),
    }
}

fn show(request: &HttpRequest, desk: &Desk) -> HttpResponse {
    let place = &desk.place;
    let homeserver = place.url_seen_by(request, place.homeserver);
    let element = place.element.map(|element| place.url_seen_by(request, element));
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        homeserver: &homeserver,
        element: element.as_deref(),
        data: &desk.patient.data.display().to_string(),
    };
    html(StatusCode::OK, POLICY, page.render())
}

/// Answers with the page that asks for a login token.
pub(super) fn ask_for_token(request: &HttpRequest, desk: &Desk, ask: Ask) -> HttpResponse {
    let place = &desk.place;
    let homeserver = place.url_seen_by(request, place.homeserver);
    let element = place.element.map(|element| place.url_seen_by(request, element));
    let owner = desk.persons.owner();
    let (cookie, csrf) = bind_form(desk);
    let (status, reason) = match ask {
        Ask::First => (StatusCode::OK, "Who you are cannot be told from here.".to_owned()),
        Ask::OtherAccount => (
            StatusCode::FORBIDDEN,
            format!(
                "This node belongs to the account {owner} of this computer, and you are in another \
                 one."
            ),
        ),
        Ask::Again => (
            StatusCode::FORBIDDEN,
            "The token was wrong, was used already, or is older than two minutes.".to_owned(),
        ),
    };
    let page = Token {
        reason,
        homeserver: &homeserver,
        element: element.as_deref(),
        owner: &owner,
        command: &desk.command.0,
        action: OPEN_PATH,
        csrf: &csrf,
    };
    let mut page = html(status, FORM_POLICY, page.render());
    if let Ok(cookie) = cookie.parse() {
        page.headers_mut().insert(SET_COOKIE, cookie);
    }
    page
}

fn html(status: StatusCode, policy: &str, page: askama::Result<String>) -> HttpResponse {
    match page {
        Ok(page) => answer(status, policy).content_type("text/html; charset=utf-8").body(page),
        Err(error) => HttpError::internal(error).error_response(),
    }
}

/// The owner's id as a picture that a phone reads: a `matrix:` link, as the specification has it.
pub async fn qr(
    request: HttpRequest,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> Result<HttpResponse, HttpError> {
    check(&request, &desk).await?;
    let signer = ask(&gateway.read_signer, ReadSigner).await?;
    let signer = signer.ok_or_else(|| HttpError::not_found("nobody has logged in yet"))?;
    let user_id = user_of(signer.server_name());
    let link = format!("matrix:u/{}?action=chat", user_id.as_str().trim_start_matches('@'));
    let code = QRBuilder::new(link).ecl(ECL::M).build();
    let code = code.map_err(|error| HttpError::internal(format!("{error:?}")))?;
    let picture = SvgBuilder::default().shape(Shape::Square).margin(2).to_str(&code);
    let mut answer = answer(StatusCode::OK, "default-src 'none'; frame-ancestors 'none'");
    Ok(answer.content_type("image/svg+xml").body(picture))
}

/// Has the doctor look, as `messagehub doctor` does, and answers what was found.
pub async fn examine(
    request: HttpRequest,
    desk: web::Data<Desk>,
) -> Result<HttpResponse, HttpError> {
    check(&request, &desk).await?;
    let Patient { config, data, place } = desk.patient.clone();
    let Ok(_place) = Arc::clone(&place).try_acquire_owned() else {
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(HttpError::new(status, "M_LIMIT_EXCEEDED", "the doctor is at work already"));
    };
    // It reads files and tries ports, which may block.
    let examined = web::block(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut untold = |_: doctor::Step<'_>| {};
        let report = doctor::examine(config.as_deref(), &data, &mut untold);
        Ok::<_, std::io::Error>(runtime.block_on(report))
    });
    let report = examined.await.map_err(HttpError::internal)?.map_err(HttpError::internal)?;
    let findings = report.findings.iter().map(|finding| {
        json!({
            "level": finding.level,
            "word": finding.level.word(),
            "check": finding.check,
            "text": finding.text,
            "advice": finding.advice,
        })
    });
    let findings: Vec<_> = findings.collect();
    let mut answer = answer(StatusCode::OK, "default-src 'none'; frame-ancestors 'none'");
    Ok(answer.json(json!({"findings": findings})))
}
