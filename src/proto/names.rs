//! How people may be called: user ids, shown names, avatars and what they say of themselves.
//!
//! A user id that breaks the grammar makes an event malformed, everywhere and for good. What
//! somebody calls themselves does not, since the event is right all the same: it is cleaned where
//! it is shown.

use std::borrow::Cow;

use ruma::{MxcUri, UserId};

use super::ProtoError;

/// Longest shown name, in characters.
pub const NAME_CHARS: usize = 256;
/// Longest address of an avatar, in bytes.
pub const AVATAR_LEN: usize = 1000;
/// Longest message beside somebody's presence, in bytes.
pub const STATUS_LEN: usize = 1024;

/// Checks a user id: the grammar of today, nothing historical.
pub fn check_user_id(user_id: &UserId) -> Result<(), ProtoError> {
    user_id.validate_strict().map_err(|error| ProtoError::malformed("user id", error))
}

/// Tells whether a character steers how text is shown instead of being shown: a control character,
/// the end of a line, or an order to write from right to left.
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks a name that our user chooses.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.chars().count() > NAME_CHARS {
        return Err(format!("a name has {NAME_CHARS} characters at most"));
    }
    match name.chars().find(|character| is_control(*character)) {
        Some(control) => {
            Err(format!("a name has no control characters ({})", control.escape_unicode()))
        }
        None => Ok(()),
    }
}

/// Checks an avatar that our user chooses.
pub fn check_avatar(url: &str) -> Result<(), String> {
    if is_avatar(url) {
        return Ok(());
    }
    Err(format!("an avatar is an mxc:// address of {AVATAR_LEN} bytes at most"))
}

fn is_avatar(url: &str) -> bool {
    url.len() <= AVATAR_LEN && !url.chars().any(is_control) && <&MxcUri>::from(url).is_valid()
}

/// Checks what our user says beside their presence.
pub fn check_status(message: &str) -> Result<(), String> {
    if message.len() > STATUS_LEN {
        return Err(format!("a status message has {STATUS_LEN} bytes at most"));
    }
    Ok(())
}

/// Returns somebody's name as it is shown: without control characters, and cut.
pub fn shown_name(name: &str) -> Cow<'_, str> {
    if check_name(name).is_ok() {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().filter(|character| !is_control(*character)).take(NAME_CHARS).collect())
}

/// Returns somebody's avatar, if it is one.
pub fn shown_avatar(url: &str) -> Option<&str> {
    is_avatar(url).then_some(url)
}

/// Returns what somebody says beside their presence, cut.
pub fn shown_status(message: &str) -> &str {
    let end = (0..=STATUS_LEN.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_follow_the_grammar() {
        for (id, good) in [
            ("@p2p:example.org", true),
            ("@a-b.c=d_e/f+0:example.org", true),
            ("@P2P:example.org", false),
            ("@a b:example.org", false),
            ("@:example.org", false),
            ("@p2p\u{202e}:example.org", false),
            ("@p\n2p:example.org", false),
        ] {
            let read = <&UserId>::try_from(id).map_err(|error| error.to_string());
            let found = read.and_then(|id| check_user_id(id).map_err(|error| error.to_string()));
            assert_eq!(found.is_ok(), good, "{id:?}: {found:?}");
        }
    }

    #[test]
    fn names_are_refused_at_home_and_cleaned_from_elsewhere() {
        let long = "x".repeat(60_000);
        for (name, shown) in [
            ("Ann", "Ann"),
            ("Zoë 👩‍👩‍👧 עברית\u{200f}", "Zoë 👩‍👩‍👧 עברית\u{200f}"),
            ("a\u{202e}b\nc\u{0}d\u{2066}", "abcd"),
            (long.as_str(), &long[..NAME_CHARS]),
        ] {
            assert_eq!(shown_name(name), shown);
            assert_eq!(check_name(name).is_ok(), name == shown, "{name:?}");
        }
        for (url, good) in [
            ("mxc://example.org/abc", true),
            ("javascript:alert(1)", false),
            ("http://example.org/a.png", false),
            ("mxc://example.org/a b", false),
            ("mxc://", false),
            ("", false),
        ] {
            assert_eq!(shown_avatar(url).is_some(), good, "{url}");
            assert_eq!(check_avatar(url).is_ok(), good, "{url}");
        }
        assert!(check_avatar(&format!("mxc://example.org/{long}")).is_err());
    }

    #[test]
    fn a_status_is_cut_between_characters() {
        assert_eq!(shown_status("away"), "away");
        let long = "é".repeat(STATUS_LEN);
        assert_eq!(shown_status(&long).len(), STATUS_LEN);
        let odd = format!("x{long}");
        assert_eq!(shown_status(&odd).len(), STATUS_LEN - 1);
        assert!(check_status(&long).is_err());
    }
}
