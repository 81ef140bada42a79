//! The fallback page of `m.login.sso` in user-interactive authentication: the person says again, in a
//! browser, that it is them who wants something.
//!
//! Whoever may log in by being there (`presence.rs`) presses a button; anybody else needs a token that
//! `messagehub login-token` prints. People are told from pages as on the login pages: top-level navigation
//! alone, a form token bound to a `SameSite=Strict` cookie and to the very session, no CORS, no frames.
//! Unlike those, this page may know who opened it: clients wait for its word that it is done.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::SET_COOKIE},
    web,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    pages::{answer, escape, refused},
    presence::Visitor,
    source::Source,
    sso::Desk,
};
use crate::{
    actors::accounts::{AccountError, Approve, Matter, ReadMatter, RenewLoginToken},
    http::{error::HttpError, gateway::Gateway},
};

/// Where the form of the page leads.
pub const APPROVE_PATH: &str = "/_messagehub/login/approve";
const COOKIE: &str = "messagehub_approve";
const PAGE: &str = include_str!("../../../assets/approve.html");
const DONE: &str = include_str!("../../../assets/approved.html");
const OVER: &str = "what you were to confirm is over, or was done: begin it again in your client";

/// What a client wants, as the page says it.
fn in_words(matter: Matter) -> &'static str {
    match matter {
        Matter::ReplaceKeys => {
            "replace the keys by which others know your devices. They will be warned until they have \
             verified you again"
        }
        Matter::DeleteDevices => "log out some of your devices",
        Matter::SetPassword => "set your password",
        Matter::Deactivate => "end your account for good",
        Matter::Register => "register",
    }
}

/// The query of the page.
#[derive(Deserialize)]
pub struct Shown {
    session: Option<String>,
}

/// `auth/m.login.sso/fallback/web`: the page that asks.
pub async fn page(
    request: HttpRequest,
    query: web::Query<Shown>,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    if !Source::of(&request).may_begin(&desk.place) {
        let why = "this address is for people, not for pages: open it in a browser tab";
        return refused(&request, why);
    }
    if request.match_info().get("auth_type") != Some("m.login.sso") {
        let why = "no such page: clients ask for everything else themselves";
        return HttpResponse::from_error(HttpError::not_found(why));
    }
    let session = query.into_inner().session.unwrap_or_default();
    let matter = match matter_of(&request, &gateway, &session).await {
        Ok(matter) => matter,
        Err(over) => return over,
    };
    let visitor = desk.persons.visitor(&request).await;
    form(&desk, visitor, matter, &session, false)
}

/// Returns what a session is about; the answer, where it is over.
async fn matter_of(
    request: &HttpRequest,
    gateway: &Gateway,
    session: &str,
) -> Result<Matter, HttpResponse> {
    match gateway.ask_accounts(ReadMatter(session.to_owned())).await {
        Ok(Some(matter)) => Ok(matter),
        Ok(None) => Err(refused(request, OVER)),
        Err(error) => Err(HttpResponse::from_error(error)),
    }
}

/// The page with the button, or with the field for a token.
fn form(desk: &Desk, visitor: Visitor, matter: Matter, session: &str, wrong: bool) -> HttpResponse {
    let is_person = visitor == Visitor::Person && !wrong;
    let more = if is_person {
        String::new()
    } else {
        let reason = if wrong {
            "The token was wrong, was used already, or is older than two minutes. "
        } else {
            ""
        };
        format!(
            "<p>{reason}Who you are cannot be told from here: this wants a token that \
             <code>{}</code> prints on the computer where this node runs, in the account \
             <code>{}</code>.</p>\n<p><label>Token<br><input name=\"token\" type=\"text\" required \
             autofocus spellcheck=\"false\"></label></p>",
            escape(&desk.command.0),
            escape(&desk.persons.owner())
        )
    };
    let cookie = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let page = PAGE
        .replace("{{matter}}", in_words(matter))
        .replace("{{csrf}}", &desk.secret.token(&cookie, &bound_to(session)))
        .replace("{{more}}", &more)
        // Last: it is whatever somebody wrote into a link.
        .replace("{{session}}", &escape(session));
    let status = if wrong { StatusCode::FORBIDDEN } else { StatusCode::OK };
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; \
         base-uri 'none'; form-action 'self'";
    let mut page = opened(status, policy, page);
    let cookie = format!("{COOKIE}={cookie}; Path={APPROVE_PATH}; HttpOnly; SameSite=Strict");
    if let Ok(cookie) = cookie.parse() {
        page.headers_mut().insert(SET_COOKIE, cookie);
    }
    page
}

/// Answers with a page that knows who opened it.
fn opened(status: StatusCode, policy: &str, page: String) -> HttpResponse {
    let mut answer = answer(status, policy);
    answer.insert_header(("Cross-Origin-Opener-Policy", "unsafe-none"));
    answer.content_type("text/html; charset=utf-8").body(page)
}

/// What a form token is bound to beside its cookie: no address, which those of the login pages are.
fn bound_to(session: &str) -> String {
    format!("approve {session}")
}

/// The form of the page.
#[derive(Deserialize)]
pub struct Pressed {
    session: String,
    csrf: String,
    /// Of the page that wants one.
    token: Option<String>,
}

/// The button of the page.
pub async fn approve(
    request: HttpRequest,
    form_data: web::Form<Pressed>,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    let Pressed { session, csrf, token } = form_data.into_inner();
    if !desk.is_pressed(&request, COOKIE, &bound_to(&session), &csrf) {
        let why = "this did not come from the button of the page: open it again from your client";
        return refused(&request, why);
    }
    let matter = match matter_of(&request, &gateway, &session).await {
        Ok(matter) => matter,
        Err(over) => return over,
    };
    let visitor = desk.persons.visitor(&request).await;
    let is_them = match token {
        Some(token) => {
            // Used up; the one that takes its place is given to nobody.
            match gateway.ask_accounts(RenewLoginToken(token.trim().to_owned())).await {
                Ok(Ok(_)) => true,
                Ok(Err(AccountError::BadLoginToken)) => {
                    return form(&desk, visitor, matter, &session, true);
                }
                Ok(Err(error)) => return HttpResponse::from_error(HttpError::from(error)),
                Err(error) => return HttpResponse::from_error(error),
            }
        }
        None => visitor == Visitor::Person,
    };
    if !is_them {
        return form(&desk, visitor, matter, &session, false);
    }
    match gateway.ask_accounts(Approve(session)).await {
        Ok(true) => done(),
        Ok(false) => refused(&request, OVER),
        Err(error) => HttpResponse::from_error(error),
    }
}

fn done() -> HttpResponse {
    let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    opened(StatusCode::OK, &policy, DONE.replace("{{nonce}}", &nonce))
}
