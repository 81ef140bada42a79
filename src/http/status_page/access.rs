//! Who may look at the status page: the person at the machine, and a browser that was opened it with a login
//! token.
//!
//! Such a browser gets a pass: until when it counts, and a code that only this node makes, new at each start.
//! Nothing is kept of it here.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{LOCATION, SET_COOKIE},
    },
    web,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::page::{Ask, ask_for_token};
use crate::{
    actors::{
        accounts::{AccountError, RenewLoginToken},
        clock::now_ms,
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::Gateway,
        login::{
            pages::{answer, refused},
            presence::Visitor,
            source::Source,
            sso::{Desk, cookie_of},
        },
    },
};

/// Where the form with a token leads.
pub const OPEN_PATH: &str = "/_messagehub/status/open";
/// The cookie with the pass.
const PASS: &str = "messagehub_status";
/// The cookie that the form is bound to.
const FORM: &str = "messagehub_status_form";
/// What codes and form tokens are about, beside their cookie.
const MATTER: &str = "status page";

/// What somebody may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// All of it.
    All,
    /// Nothing; another account of this machine.
    OtherAccount,
    /// Nothing.
    Nothing,
}

/// Tells what whoever sends a request may see.
pub(super) async fn sight(request: &HttpRequest, desk: &Desk) -> Sight {
    if has_pass(request, desk, now_ms() / 1000) {
        return Sight::All;
    }
    match desk.persons.visitor(request).await {
        Visitor::Person => Sight::All,
        Visitor::OtherAccount => Sight::OtherAccount,
        Visitor::Elsewhere => Sight::Nothing,
    }
}

/// Answers a request of something that only our own page fetches: the refusal, where it may not.
pub(super) async fn check(request: &HttpRequest, desk: &Desk) -> Result<(), HttpError> {
    if !Source::of(request).is_own_page(&desk.place) {
        return Err(HttpError::forbidden("this is for the status page of this node alone"));
    }
    match sight(request, desk).await {
        Sight::All => Ok(()),
        Sight::OtherAccount | Sight::Nothing => {
            Err(HttpError::forbidden("this is for the person at the computer alone"))
        }
    }
}

fn has_pass(request: &HttpRequest, desk: &Desk, now_s: u64) -> bool {
    let Some((until, code)) = cookie_of(request, PASS).and_then(|pass| pass.split_once('.')) else {
        return false;
    };
    let made = desk.secret.token(until, MATTER);
    let is_ours = !made.is_empty() && bool::from(made.as_bytes().ct_eq(code.as_bytes()));
    is_ours && until.parse::<u64>().is_ok_and(|until| now_s < until)
}

/// Makes the cookie with a new pass.
fn pass(desk: &Desk, now_s: u64) -> String {
    let seconds = limits::STATUS_PASS.as_secs();
    let until = now_s.saturating_add(seconds).to_string();
    let code = desk.secret.token(&until, MATTER);
    format!("{PASS}={until}.{code}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
}

/// Makes what binds a form to a browser: the cookie, and the token of the form.
pub(super) fn bind_form(desk: &Desk) -> (String, String) {
    let cookie = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let csrf = desk.secret.token(&cookie, MATTER);
    (format!("{FORM}={cookie}; Path={OPEN_PATH}; HttpOnly; SameSite=Strict"), csrf)
}

/// The form with a token.
#[derive(Deserialize)]
pub struct Opened {
    csrf: String,
    token: String,
}

/// Opens the page for a browser whose person has a login token.
pub async fn open(
    request: HttpRequest,
    form: web::Form<Opened>,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    let Opened { csrf, token } = form.into_inner();
    if !desk.is_pressed(&request, FORM, MATTER, &csrf) {
        let why = "this did not come from the button of the page: open it again";
        return refused(&request, why);
    }
    // Used up; the one that takes its place is given to nobody.
    match gateway.ask_accounts(RenewLoginToken(token.trim().to_owned())).await {
        Ok(Ok(_)) => answer(StatusCode::SEE_OTHER, "default-src 'none'; frame-ancestors 'none'")
            .insert_header((LOCATION, "/"))
            .insert_header((SET_COOKIE, pass(&desk, now_ms() / 1000)))
            .finish(),
        Ok(Err(AccountError::BadLoginToken)) => ask_for_token(&request, &desk, Ask::Again),
        Ok(Err(error)) => HttpResponse::from_error(HttpError::from(error)),
        Err(error) => HttpResponse::from_error(error),
    }
}
