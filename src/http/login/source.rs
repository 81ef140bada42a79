//! Telling people from pages: what a browser says about where a request comes from.

use actix_web::HttpRequest;

use crate::http::gateway::Place;

/// What a browser says about where a request comes from.
pub(in crate::http) struct Source<'a> {
    site: Option<&'a str>,
    mode: Option<&'a str>,
    dest: Option<&'a str>,
    origin: Option<&'a str>,
    host: &'a str,
}

impl<'a> Source<'a> {
    pub(in crate::http) fn of(request: &'a HttpRequest) -> Self {
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

    pub(in crate::http) fn may_begin(&self, place: &Place) -> bool {
        // A navigation by GET has no Origin; whatever has a foreign one is a script.
        self.is_navigation()
            && self.origin.is_none_or(|origin| place.is_homeserver(origin, self.host))
    }

    pub(in crate::http) fn may_confirm(&self, place: &Place) -> bool {
        // The page forbids referrers, and then a browser writes `null` for its own origin too.
        let own = match self.origin {
            None | Some("null") => true,
            Some(origin) => place.is_homeserver(origin, self.host),
        };
        own && self.is_navigation() && self.site.is_none_or(|site| site == "same-origin")
    }
    /// Tells whether a page of our own fetches something, or a program that is no browser: with a foreign
    /// page comes its origin, or the site that it is of.
    pub(in crate::http) fn is_own_page(&self, place: &Place) -> bool {
        self.origin.is_none_or(|origin| place.is_homeserver(origin, self.host))
            && self.site.is_none_or(|site| site == "same-origin")
    }
}
