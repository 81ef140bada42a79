//! Pages for people, and the headers that keep other pages out of them.

use std::borrow::Cow;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{StatusCode, header::ACCEPT},
};

use super::target::Target;
const CONFIRM: &str = include_str!("../../../assets/login.html");
const TOKEN: &str = include_str!("../../../assets/login-token.html");
const NOTICE: &str = include_str!("../../../assets/notice.html");
/// What a page without a form may do: show itself.
const NOTHING_ELSE: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; \
     form-action 'none'";

/// The command that prints a login token, for whoever is to be told.
#[derive(Debug, Clone)]
pub struct TokenCommand(pub String);

/// A form that leads on to `target`: what was asked for, and the token that binds it to the cookie.
pub(super) struct Form<'a> {
    pub(super) target: &'a Target,
    pub(super) redirect_url: &'a str,
    pub(super) csrf: String,
}

impl Form<'_> {
    /// The page with the button.
    pub(super) fn button(&self) -> HttpResponse {
        self.answer(StatusCode::OK, CONFIRM.to_owned())
    }

    /// The page that wants a token.
    pub(super) fn token(
        &self,
        status: StatusCode,
        reason: &str,
        owner: &str,
        command: &TokenCommand,
    ) -> HttpResponse {
        let page = TOKEN
            .replace("{{reason}}", &escape(reason))
            .replace("{{owner}}", &escape(owner))
            .replace("{{command}}", &escape(&command.0));
        self.answer(status, page)
    }

    fn answer(&self, status: StatusCode, page: String) -> HttpResponse {
        let page = page
            .replace("{{target}}", &escape(&self.target.shown))
            .replace("{{csrf}}", &self.csrf)
            // Last: it is whatever somebody wrote into a link.
            .replace("{{redirect_url}}", &escape(self.redirect_url));
        // The redirect that follows the form is a form action too.
        let policy = format!(
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; \
             base-uri 'none'; form-action 'self' {}",
            self.target.shown
        );
        html(status, &policy, page)
    }
}

/// Refuses: a page for people, and an error of the Client-Server API for programs.
pub(in crate::http) fn refused(request: &HttpRequest, why: &'static str) -> HttpResponse {
    if is_browser(request) {
        let more = "<p>Go back to your Matrix client, and begin to log in once more.</p>";
        let text = format!("Nobody was logged in: {why}.");
        return notice(StatusCode::FORBIDDEN, "This link does not log in", &text, more);
    }
    let mut answer = answer(StatusCode::FORBIDDEN, NOTHING_ELSE);
    answer.json(serde_json::json!({"errcode": "M_FORBIDDEN", "error": why}))
}

/// Tells whether somebody would look at the answer.
pub(in crate::http) fn is_browser(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// `more` is HTML.
fn notice(status: StatusCode, title: &str, text: &str, more: &str) -> HttpResponse {
    let page = NOTICE
        .replace("{{title}}", &escape(title))
        .replace("{{text}}", &escape(text))
        .replace("{{more}}", more);
    html(status, NOTHING_ELSE, page)
}

fn html(status: StatusCode, policy: &str, page: String) -> HttpResponse {
    answer(status, policy).content_type("text/html; charset=utf-8").body(page)
}

/// Begins an answer that no other page may read, frame or learn of.
pub(in crate::http) fn answer(status: StatusCode, policy: &str) -> HttpResponseBuilder {
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
    fn html_is_escaped() {
        assert_eq!(escape(r#"<a href="x">'&"#), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
