//! `element.*`: where Element is served, and which release of it is on board.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{present, yes};

/// The release that this version of MessageHub was tried with. All three belong together.
const VERSION: &str = "1.12.24";
const SHA256: &str = "ec488fb01ce4e969e0a4fde7d83277a10a17309598459bf6445060ed393c2a42";
/// Where Element's project keeps its releases; `{}` is the version.
const URL: &str =
    "https://github.com/element-hq/element-web/releases/download/v{}/element-v{}.tar.gz";
/// Longest version and address.
const VERSION_MAX: usize = 32;
const URL_MAX: usize = 2048;

/// `element.*`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ElementConfig {
    /// Where Element is served: `None` where the key is missing (the default address), `Some(None)`
    /// where it is null (not at all).
    #[serde(default, deserialize_with = "present")]
    pub listen_address: Option<Option<SocketAddr>>,
    /// The folder with Element's files; `<data>/element` where it is missing. In a folder that is named
    /// here, nothing is installed.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Whether Element is fetched where it is missing.
    #[serde(default = "yes")]
    pub fetch: bool,
    /// Another release than the pinned one: its version, where its archive is, and its SHA-256.
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    sha256: Option<String>,
}

impl Default for ElementConfig {
    fn default() -> Self {
        Self {
            listen_address: None,
            path: None,
            fetch: true,
            version: None,
            url: None,
            sha256: None,
        }
    }
}

impl ElementConfig {
    /// Returns the release that is to be on board. Fails with a line that names the key.
    pub fn release(&self) -> Result<Release, String> {
        let [version, url, sha256] =
            [&self.version, &self.url, &self.sha256].map(|text| text.as_deref());
        Release::configured(version, url, sha256)
    }
}

/// A release of Element: where it is, and what its archive has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its version, as Element's project counts.
    pub version: String,
    /// Where its archive (`.tar.gz`) is.
    pub url: String,
    /// The SHA-256 of the archive, in small hexadecimal digits.
    pub sha256: String,
}

impl Default for Release {
    /// The release that is pinned in this version of MessageHub.
    fn default() -> Self {
        Self {
            version: VERSION.to_owned(),
            url: URL.replace("{}", VERSION),
            sha256: SHA256.to_owned(),
        }
    }
}

impl Release {
    /// Returns the release that a configuration names by what it has of `element.version`, `element.url`
    /// and `element.sha256`. An address alone is another place for the pinned release. Fails with a line
    /// that names the key.
    pub fn configured(
        version: Option<&str>,
        url: Option<&str>,
        sha256: Option<&str>,
    ) -> Result<Self, String> {
        let mut release = Self::default();
        if let Some(version) = version {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
            if version.is_empty() || version.len() > VERSION_MAX || !version.bytes().all(plain) {
                return Err(format!("element.version is not one: write it like \"{VERSION}\""));
            }
            let Some(sha256) = sha256 else {
                return Err(format!(
                    "element.version is given without element.sha256: write the SHA-256 of the \
                     archive of Element {version}"
                ));
            };
            release.version = version.to_owned();
            release.url = URL.replace("{}", version);
            release.sha256 = checksum(sha256)?;
        } else if sha256.is_some() {
            return Err("element.sha256 is given without element.version: write of which release \
                        of Element it is"
                .to_owned());
        }
        if let Some(url) = url {
            let good =
                url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !good || url.len() > URL_MAX {
                return Err("element.url is no http or https address".to_owned());
            }
            release.url = url.to_owned();
        }
        Ok(release)
    }
}

/// Returns a SHA-256 in small digits.
fn checksum(text: &str) -> Result<String, String> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("element.sha256 is not one: write the 64 hexadecimal digits that \
                    `sha256sum` prints for the archive"
            .to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_needs_its_checksum_and_another_place_does_not() {
        let pinned = Release::default();
        assert_eq!(Release::configured(None, None, None), Ok(pinned.clone()));
        assert!(pinned.url.contains(VERSION) && pinned.sha256.len() == 64);
        let sum = "AB".repeat(32);
        let other = Release::configured(Some("1.13.0"), None, Some(&sum)).unwrap();
        assert!(other.url.ends_with("/v1.13.0/element-v1.13.0.tar.gz"), "{}", other.url);
        assert_eq!(other.sha256, "ab".repeat(32));
        let mirror = Release::configured(None, Some("http://mirror.lan/e.tar.gz"), None).unwrap();
        assert_eq!((mirror.version, mirror.sha256), (pinned.version, pinned.sha256));
        for (version, url, sha256, key) in [
            (Some("1.13.0"), None, None, "element.sha256"),
            (Some("1.13.0"), Some("https://a.example/e"), None, "element.sha256"),
            (Some("../1"), None, Some(sum.as_str()), "element.version"),
            (Some(""), None, Some(sum.as_str()), "element.version"),
            (Some("1.13.0"), None, Some("abc"), "element.sha256"),
            (None, None, Some(sum.as_str()), "element.version"),
            (None, Some("file:///etc/passwd"), None, "element.url"),
            (None, Some("nonsense"), None, "element.url"),
        ] {
            let why = Release::configured(version, url, sha256).unwrap_err();
            assert!(why.contains(key), "{why}");
        }
    }
}
