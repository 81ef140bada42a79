//! Single sign-on: from a client to a page here, and back to the client with a login token.

use std::{path::PathBuf, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::{
    pages::{Form, TokenCommand, answer, refused},
    presence::{Persons, Visitor},
    source::Source,
    target::Target,
};
use crate::{
    actors::accounts::{AccountError, MintLoginToken, RenewLoginToken},
    http::{
        error::HttpError,
        gateway::{Gateway, Place},
    },
};

/// Where the forms of the pages lead.
pub const CONFIRM_PATH: &str = "/_messagehub/login/confirm";
const COOKIE: &str = "messagehub_login";

/// The secret that binds form tokens to cookies: new at each start.
#[derive(Clone)]
pub struct PageSecret([u8; 32]);

impl PageSecret {
    /// Makes one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the token of a form that is bound to a cookie, and to what the form is about.
    pub(in crate::http) fn token(&self, cookie: &str, bound_to: &str) -> String {
        // Any key length fits HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(cookie.as_bytes());
        mac.update(b"\n");
        mac.update(bound_to.as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }
}

/// What the pages know of this node.
pub struct Desk {
    /// Where the servers are.
    pub place: Place,
    /// Whom the node takes for its person.
    pub persons: Persons,
    /// How the person gets a login token.
    pub command: TokenCommand,
    /// What binds forms to cookies.
    pub secret: PageSecret,
    /// What the doctor looks at.
    pub patient: Patient,
}

/// What the doctor looks at, one of whom may be at work.
#[derive(Debug, Clone)]
pub struct Patient {
    /// The configuration that was read; none where there is no file.
    pub config: Option<PathBuf>,
    /// The folder with keys and rooms.
    pub data: PathBuf,
    /// One place.
    pub place: Arc<Semaphore>,
}

impl Desk {
    /// Tells whether a form came from the button of its page: its token is that of the cookie, and no other
    /// page sent it.
    pub(in crate::http) fn is_pressed(
        &self,
        request: &HttpRequest,
        cookie: &str,
        bound_to: &str,
        csrf: &str,
    ) -> bool {
        let bound = cookie_of(request, cookie).is_some_and(|cookie| {
            let expected = self.secret.token(cookie, bound_to);
            !expected.is_empty() && bool::from(expected.as_bytes().ct_eq(csrf.as_bytes()))
        });
        bound && Source::of(request).may_confirm(&self.place)
    }

    /// Answers with the page that the visitor needs, and the cookie that its form is bound to.
    fn page(
        &self,
        visitor: Visitor,
        target: &Target,
        redirect_url: &str,
        wrong: bool,
    ) -> HttpResponse {
        let cookie = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let csrf = self.secret.token(&cookie, redirect_url);
        let form = Form { target, redirect_url, csrf };
        let owner = self.persons.owner();
        let (status, reason) = match visitor {
            _ if wrong => (
                StatusCode::FORBIDDEN,
                "The token was wrong, was used already, or is older than two minutes.".to_owned(),
            ),
            Visitor::OtherAccount => (
                StatusCode::FORBIDDEN,
                format!(
                    "This node belongs to the account {owner} of this computer, and you are in \
                     another one."
                ),
            ),
            Visitor::Person | Visitor::Elsewhere => (
                StatusCode::OK,
                "Who you are cannot be told from here: only in the account that runs the node, on \
                 its own computer, nothing more is needed."
                    .to_owned(),
            ),
        };
        let mut page = match visitor {
            Visitor::Person if !wrong => form.button(),
            _ => form.token(status, &reason, &owner, &self.command),
        };
        let cookie = format!("{COOKIE}={cookie}; Path={CONFIRM_PATH}; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = cookie.parse() {
            page.headers_mut().insert(actix_web::http::header::SET_COOKIE, cookie);
        }
        page
    }
}

/// The query of the redirect.
#[derive(Deserialize)]
pub struct Begin {
    #[serde(rename = "redirectUrl")]
    redirect_url: Option<String>,
}

/// `login/sso/redirect`: on to Element, or the page that asks.
pub async fn redirect(
    request: HttpRequest,
    query: web::Query<Begin>,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    if !Source::of(&request).may_begin(&desk.place) {
        let why = "this address is for people, not for pages: open it in a browser tab";
        return refused(&request, why);
    }
    let redirect_url = query.into_inner().redirect_url.unwrap_or_default();
    let target = match Target::parse(&redirect_url) {
        Ok(target) => target,
        Err(why) => return refused(&request, why),
    };
    let visitor = desk.persons.visitor(&request).await;
    let is_element = target.web && desk.place.is_element(&target.shown);
    if visitor == Visitor::Person && is_element {
        return match gateway.ask_accounts(MintLoginToken).await {
            Ok(token) => go_on(target, StatusCode::FOUND, &token),
            Err(error) => HttpResponse::from_error(error),
        };
    }
    desk.page(visitor, &target, &redirect_url, false)
}

/// The form of a page.
#[derive(Deserialize)]
pub struct Confirm {
    redirect_url: String,
    csrf: String,
    /// Of the page that wants one.
    token: Option<String>,
}

/// The button of a page.
pub async fn confirm(
    request: HttpRequest,
    form: web::Form<Confirm>,
    gateway: web::Data<Gateway>,
    desk: web::Data<Desk>,
) -> HttpResponse {
    let Confirm { redirect_url, csrf, token } = form.into_inner();
    if !desk.is_pressed(&request, COOKIE, &redirect_url, &csrf) {
        let why = "this did not come from the button of the login page: begin again there";
        return refused(&request, why);
    }
    let target = match Target::parse(&redirect_url) {
        Ok(target) => target,
        Err(why) => return refused(&request, why),
    };
    let visitor = desk.persons.visitor(&request).await;
    let minted = match token {
        Some(token) => gateway.ask_accounts(RenewLoginToken(token.trim().to_owned())).await,
        None if visitor == Visitor::Person => gateway.ask_accounts(MintLoginToken).await.map(Ok),
        None => return desk.page(visitor, &target, &redirect_url, false),
    };
    match minted {
        Ok(Ok(token)) => go_on(target, StatusCode::SEE_OTHER, &token),
        Ok(Err(AccountError::BadLoginToken)) => desk.page(visitor, &target, &redirect_url, true),
        Ok(Err(error)) => HttpResponse::from_error(HttpError::from(error)),
        Err(error) => HttpResponse::from_error(error),
    }
}

pub(in crate::http) fn cookie_of<'a>(request: &'a HttpRequest, wanted: &str) -> Option<&'a str> {
    let cookies = request.headers().get("cookie")?.to_str().ok()?;
    let mut cookies = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

fn go_on(target: Target, status: StatusCode, token: &str) -> HttpResponse {
    answer(status, "default-src 'none'; frame-ancestors 'none'")
        .insert_header(("Location", target.with_token(token)))
        .finish()
}

/// What a form that cannot be read gets.
pub fn bad_form() -> HttpError {
    HttpError::forbidden("this did not come from the login page")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_token_is_bound_to_cookie_and_address() {
        let secret = PageSecret::random();
        let token = secret.token("cookie", "http://a/");
        assert_ne!(token, secret.token("cookie", "http://b/"));
        assert_ne!(token, secret.token("other", "http://a/"));
        assert_ne!(token, PageSecret::random().token("cookie", "http://a/"));
    }
}
