//! Where a login goes on to, and what of it a person is shown. Pure.

use url::Url;

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

/// The address to go on to, checked.
pub(super) struct Target {
    url: Url,
    /// What the person is shown and the page may submit to: an origin, or the scheme of an app.
    pub(super) shown: String,
    /// Whether it is an origin.
    pub(super) web: bool,
}

impl Target {
    pub(super) fn parse(redirect_url: &str) -> Result<Self, &'static str> {
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
    pub(super) fn with_token(mut self, token: &str) -> String {
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
}
