//! The login pages: who sits at this machine gets a login token, a web page does not.
//!
//! There is no password, so the whole defence is in telling people from pages:
//! - only top-level navigation gets anything; whatever a page can fetch or frame is refused;
//! - Element, which this node serves itself, gets its token at once; any other address is named on
//!   a page, and the person has to press a button there;
//! - pressing it sends a token that only the page held, bound to a `SameSite=Strict` cookie and to
//!   that very address;
//! - no answer here carries a CORS header (`mod.rs`), and a `Host` that is not ours is refused for
//!   the whole server, so no page can get our origin by rebinding its domain.

use std::borrow::Cow;

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::StatusCode, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use url::Url;

use super::{
    error::HttpError,
    gateway::{Gateway, Place},
};
use crate::actors::accounts::MintLoginToken;

/// Where the button of the page leads.
pub const CONFIRM_PATH: &str = "/_messagehub/login/confirm";
const COOKIE: &str = "messagehub_login";
const PAGE: &str = include_str!("../../assets/login.html");
/// Longest address that is taken, in bytes.
const REDIRECT_LEN: usize = 4096;
/// Schemes that are no app: code, content of pages, files, and what the browser itself handles.
const REFUSED_SCHEMES: [&str; 19] = [
    "about",
    "blob",
    "chrome",
    "content",
    "data",
    "edge",
    "feed",
    "file",
    "filesystem",
    "ftp",
    "intent",
    "jar",
    "javascript",
    "mailto",
    "resource",
    "vbscript",
    "view-source",
    "ws",
    "wss",
];

/// The secret that binds form tokens to cookies: new at each start.
#[derive(Clone)]
pub struct PageSecret([u8; 32]);

impl PageSecret {
    /// Makes one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    fn token(&self, cookie: &str, redirect_url: &str) -> String {
        // Any key length fits HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(cookie.as_bytes());
        mac.update(b"\n");
        mac.update(redirect_url.as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }
}

/// The address to go on to, checked.
struct Target {
    url: Url,
    /// What the person is shown and the page may submit to: an origin, or the scheme of an app.
    shown: String,
    /// Whether it is an origin.
    web: bool,
}

impl Target {
    fn parse(redirect_url: &str) -> Result<Self, &'static str> {
        if redirect_url.len() > REDIRECT_LEN {
            return Err("the address to go on to is too long");
        }
        let url = Url::parse(redirect_url).map_err(|_| "the address to go on to is no URL")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address to go on to may not hold a user name");
        }
        let web = matches!(url.scheme(), "http" | "https");
        if REFUSED_SCHEMES.contains(&url.scheme()) {
            return Err("the address to go on to is neither a web page nor an app");
        }
        let shown =
            if web { url.origin().ascii_serialization() } else { format!("{}:", url.scheme()) };
        Ok(Self { url, shown, web })
    }

    /// Returns the address with the login token: in the query, where Element and all others look.
    fn with_token(mut self, token: &str) -> String {
        let kept: Vec<(String, String)> = self
            .url
            .query_pairs()
            .filter(|(name, _)| name != "loginToken")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        self.url.query_pairs_mut().clear().extend_pairs(kept).append_pair("loginToken", token);
        self.url.into()
    }
}

/// What a browser says about where a request comes from.
struct Source<'a> {
    site: Option<&'a str>,
    mode: Option<&'a str>,
    dest: Option<&'a str>,
    origin: Option<&'a str>,
    host: &'a str,
}

impl<'a> Source<'a> {
    fn of(request: &'a HttpRequest) -> Self {
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        Self {
            site: header("sec-fetch-site"),
            mode: header("sec-fetch-mode"),
            dest: header("sec-fetch-dest"),
            origin: header("origin"),
            host: header("host").unwrap_or_default(),
        }
    }

    /// Tells whether this is somebody's browser going to a page, and no page fetching or framing
    /// one. Browsers from before 2023, and what is no browser, send none of these headers.
    fn is_navigation(&self) -> bool {
        self.mode.is_none_or(|mode| mode == "navigate")
            && self.dest.is_none_or(|dest| dest == "document")
    }

    fn may_begin(&self, place: &Place) -> bool {
        // A navigation by GET has no Origin; whatever has a foreign one is a script.
        self.is_navigation()
            && self.origin.is_none_or(|origin| place.is_homeserver(origin, self.host))
    }

    fn may_confirm(&self, place: &Place) -> bool {
        // The page forbids referrers, and then a browser writes `null` for its own origin too.
        let own = match self.origin {
            None | Some("null") => true,
            Some(origin) => place.is_homeserver(origin, self.host),
        };
        own && self.is_navigation() && self.site.is_none_or(|site| site == "same-origin")
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
    place: web::Data<Place>,
    secret: web::Data<PageSecret>,
) -> HttpResponse {
    if !Source::of(&request).may_begin(&place) {
        return refused("this address is for people, not for pages: open it in a browser tab");
    }
    let redirect_url = query.into_inner().redirect_url.unwrap_or_default();
    let target = match Target::parse(&redirect_url) {
        Ok(target) => target,
        Err(why) => return refused(why),
    };
    if target.web && place.is_element(&target.shown) {
        return go_on(target, &gateway, StatusCode::FOUND).await;
    }
    let cookie = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let page = PAGE
        .replace("{{target}}", &escape(&target.shown))
        .replace("{{redirect_url}}", &escape(&redirect_url))
        .replace("{{csrf}}", &secret.token(&cookie, &redirect_url));
    // The redirect that follows the form is a form action too.
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; \
         form-action 'self' {}",
        target.shown
    );
    answer(StatusCode::OK, &policy)
        .insert_header((
            "Set-Cookie",
            format!("{COOKIE}={cookie}; Path={CONFIRM_PATH}; HttpOnly; SameSite=Strict"),
        ))
        .content_type("text/html; charset=utf-8")
        .body(page)
}

/// The form of the page.
#[derive(Deserialize)]
pub struct Confirm {
    redirect_url: String,
    csrf: String,
}

/// The button of the page.
pub async fn confirm(
    request: HttpRequest,
    form: web::Form<Confirm>,
    gateway: web::Data<Gateway>,
    place: web::Data<Place>,
    secret: web::Data<PageSecret>,
) -> HttpResponse {
    let Confirm { redirect_url, csrf } = form.into_inner();
    let bound = login_cookie(&request).is_some_and(|cookie| {
        let expected = secret.token(cookie, &redirect_url);
        !expected.is_empty() && bool::from(expected.as_bytes().ct_eq(csrf.as_bytes()))
    });
    if !bound || !Source::of(&request).may_confirm(&place) {
        return refused("this did not come from the button of the login page: begin again there");
    }
    match Target::parse(&redirect_url) {
        Ok(target) => go_on(target, &gateway, StatusCode::SEE_OTHER).await,
        Err(why) => refused(why),
    }
}

fn login_cookie(request: &HttpRequest) -> Option<&str> {
    let cookies = request.headers().get("cookie")?.to_str().ok()?;
    let mut cookies = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

async fn go_on(target: Target, gateway: &Gateway, status: StatusCode) -> HttpResponse {
    match gateway.ask_accounts(MintLoginToken).await {
        Ok(token) => answer(status, "default-src 'none'; frame-ancestors 'none'")
            .insert_header(("Location", target.with_token(&token)))
            .finish(),
        Err(error) => HttpResponse::from_error(error),
    }
}

fn refused(why: &'static str) -> HttpResponse {
    let policy = "default-src 'none'; frame-ancestors 'none'";
    let mut answer = answer(StatusCode::FORBIDDEN, policy);
    answer.json(serde_json::json!({"errcode": "M_FORBIDDEN", "error": why}))
}

fn answer(status: StatusCode, policy: &str) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer
        .insert_header(("Content-Security-Policy", policy.to_owned()))
        .insert_header(("X-Frame-Options", "DENY"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        .insert_header(("Cache-Control", "no-store"));
    answer
}

/// What a form that cannot be read gets.
pub fn bad_form() -> HttpError {
    HttpError::forbidden("this did not come from the login page")
}

/// Escapes text for HTML.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;");
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_pages_and_apps_are_gone_on_to() {
        for good in [
            "http://127.0.0.1:1/",
            "https://a.example/x?y#z",
            "element://connect",
            "im.fluffychat://login",
        ] {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            " javascript:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "blob:http://a/b",
            "file:///etc/passwd",
            "view-source:http://a",
            "http://127.84.48.1@evil.example/",
            "//evil.example",
            "/relative",
            "",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_token_goes_into_the_query_before_the_fragment() {
        let with = |url: &str| Target::parse(url).unwrap().with_token("T");
        assert_eq!(with("http://a.example/#/x"), "http://a.example/?loginToken=T#/x");
        assert_eq!(with("http://a.example/?q=1"), "http://a.example/?q=1&loginToken=T");
        assert_eq!(with("http://a.example/?loginToken=old"), "http://a.example/?loginToken=T");
        assert_eq!(with("element://connect"), "element://connect?loginToken=T");
    }

    #[test]
    fn a_form_token_is_bound_to_cookie_and_address() {
        let secret = PageSecret::random();
        let token = secret.token("cookie", "http://a/");
        assert_ne!(token, secret.token("cookie", "http://b/"));
        assert_ne!(token, secret.token("other", "http://a/"));
        assert_ne!(token, PageSecret::random().token("cookie", "http://a/"));
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(escape(r#"<a href="x">'&"#), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
