//! Media: how it is called, what may be said of it, and what of it browsers may show.
//!
//! Invariants: an id is an opaque name of letters and digits, never a path; a declared type is kept as
//! it came, cleaned of what no header may hold, and never decides more than how bytes are offered.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedServerName, ServerName};

use super::{ProtoError, server_name};

pub mod piece;
mod pieces;
mod statement;

pub use pieces::{Hash, PIECE, PieceHasher, Pieces, count_of, len_of, root_of};
pub use statement::Statement;

/// The random bytes of an id that is given out here: nobody guesses it.
pub const ID_RANDOM: usize = 24;
/// Longest id of another server that is looked for.
const ID_LEN: usize = 255;
/// Longest declared type.
const TYPE_LEN: usize = 255;
/// Longest name of a file, in characters.
const NAME_CHARS: usize = 255;
/// What is declared where nothing is.
pub const UNKNOWN_TYPE: &str = "application/octet-stream";

/// What the specification lets browsers show where they are asked to (v1.12, "Serving inline content").
const INLINE: [&str; 29] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
    "audio/x-m4a",
    "audio/x-aac",
    "audio/opus",
];

/// What a piece of media is called: `mxc://<server name>/<media id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaName {
    /// Whose it is.
    pub server_name: OwnedServerName,
    /// What it is called there.
    pub media_id: String,
}

impl MediaName {
    /// Reads the two parts of a name. A server name that is no hash of a key is nobody's here.
    pub fn read(server: &str, media_id: &str) -> Result<Self, ProtoError> {
        let server_name = <&ServerName>::try_from(server)
            .map_err(|error| ProtoError::malformed("server name", error))?;
        server_name::digest(server_name)?;
        check_id(media_id)?;
        Ok(Self { server_name: server_name.to_owned(), media_id: media_id.to_owned() })
    }

    /// Makes the name of something new of ours.
    pub fn new(server_name: OwnedServerName, random: [u8; ID_RANDOM]) -> Self {
        Self { server_name, media_id: URL_SAFE_NO_PAD.encode(random) }
    }

    /// Returns it as clients write it.
    pub fn uri(&self) -> String {
        format!("mxc://{}/{}", self.server_name, self.media_id)
    }
}

/// Refuses what cannot be a media id.
pub fn check_id(media_id: &str) -> Result<(), ProtoError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if media_id.is_empty() || media_id.len() > ID_LEN || !media_id.bytes().all(plain) {
        return Err(ProtoError::malformed("media id", "it has letters, digits, - and _ alone"));
    }
    Ok(())
}

/// Returns a declared type as it may stand in a header: printable ASCII with a slash in it.
pub fn content_type(declared: Option<&str>) -> String {
    let declared = declared.map(str::trim).unwrap_or_default();
    let printable = declared.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let essence = essence(declared);
    let parts: Vec<&str> = essence.split('/').collect();
    let token = |part: &&str| {
        let part = part.bytes();
        part.len() > 0
            && part.into_iter().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let good = declared.len() <= TYPE_LEN && printable && parts.len() == 2;
    if good && parts.iter().all(token) { declared.to_owned() } else { UNKNOWN_TYPE.to_owned() }
}

/// Returns a type without its parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Tells whether browsers may show it where they are asked to. Everything else is for downloading: a page
/// or a drawing can hold scripts.
pub fn is_inline(content_type: &str) -> bool {
    INLINE.contains(&essence(content_type).as_str())
}

/// Returns the name of a file as it is kept: the last part of a path, without control characters.
pub fn file_name(given: Option<&str>) -> Option<String> {
    let last = given?.rsplit(['/', '\\']).next().unwrap_or_default();
    let hidden = |c: &char| {
        // What turns the direction of writing hides what a name ends with.
        c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let name: String = last.chars().filter(|c| !hidden(c)).take(NAME_CHARS).collect();
    let name = name.trim();
    (!name.is_empty() && !name.bytes().all(|byte| byte == b'.')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::server_keys::tests::secret_keys;

    #[test]
    fn ids_are_names_and_never_paths() {
        let server = secret_keys(1).server_name();
        let longest = "a".repeat(ID_LEN);
        let mine = MediaName::new(server.clone(), [255; ID_RANDOM]);
        for id in ["a", "A-_9", &longest, &mine.media_id] {
            assert!(MediaName::read(server.as_str(), id).is_ok(), "{id}");
        }
        let over = format!("{longest}a");
        for id in ["", "..", "a/b", "a.b", "../../etc/passwd", "a\0", "ä", "%2e", "a b", &over] {
            assert!(MediaName::read(server.as_str(), id).is_err(), "{id}");
        }
        for server in ["example.org", "", "..", "127.0.0.1", "a/b"] {
            assert!(MediaName::read(server, "a").is_err(), "{server}");
        }
        assert_eq!(mine.uri(), format!("mxc://{server}/{}", mine.media_id));
        assert!(mine.media_id.len() >= 32);
    }

    #[test]
    fn declared_types_are_kept_unless_no_header_may_hold_them() {
        for (declared, kept) in [
            (Some("image/png"), "image/png"),
            (Some("Text/HTML; charset=utf-8"), "Text/HTML; charset=utf-8"),
            (Some(" audio/ogg;codecs=\"opus\" "), "audio/ogg;codecs=\"opus\""),
            (Some("image/png\r\nSet-Cookie: a"), UNKNOWN_TYPE),
            (Some("nonsense"), UNKNOWN_TYPE),
            (Some("a/b/c"), UNKNOWN_TYPE),
            (Some("/"), UNKNOWN_TYPE),
            (Some("im age/png"), UNKNOWN_TYPE),
            (Some(""), UNKNOWN_TYPE),
            (None, UNKNOWN_TYPE),
        ] {
            assert_eq!(content_type(declared), kept, "{declared:?}");
        }
        assert_eq!(content_type(Some(&format!("a/{}", "b".repeat(TYPE_LEN)))), UNKNOWN_TYPE);
    }

    #[test]
    fn only_what_holds_no_scripts_is_shown() {
        for (declared, shown) in [
            ("image/png", true),
            ("IMAGE/JPEG; q=1", true),
            ("text/plain; charset=utf-8", true),
            ("image/svg+xml", false),
            ("text/html", false),
            ("text/xml", false),
            ("application/pdf", false),
            ("application/javascript", false),
            (UNKNOWN_TYPE, false),
            ("", false),
        ] {
            assert_eq!(is_inline(declared), shown, "{declared}");
        }
    }

    #[test]
    fn names_of_files_are_names() {
        for (given, kept) in [
            (Some("cat.png"), Some("cat.png")),
            (Some("../../etc/passwd"), Some("passwd")),
            (Some("C:\\x\\y.exe"), Some("y.exe")),
            (Some("a\r\nb"), Some("ab")),
            (Some("gpj\u{202e}.exe"), Some("gpj.exe")),
            (Some("Bild für Äpfel.png"), Some("Bild für Äpfel.png")),
            (Some(".."), None),
            (Some(" "), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(file_name(given).as_deref(), kept, "{given:?}");
        }
        let long = "ü".repeat(1000);
        assert_eq!(file_name(Some(&long)).unwrap().chars().count(), NAME_CHARS);
    }
}
