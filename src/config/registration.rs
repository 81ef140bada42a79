//! Who may register on this node: `accounts.registration`. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// The key of the token, within that of the registration.
const TOKEN: &str = "token";

/// Who may register on this node.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Registration {
    /// Nobody.
    #[default]
    Off,
    /// Whoever reaches the node.
    Open,
    /// Who has this token.
    Token(String),
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Open => "Open",
            Self::Token(_) => "Token(..)",
        })
    }
}

/// Reads false, true, or an object with the token and nothing else.
fn read(value: &Value) -> Option<Registration> {
    match value {
        Value::Bool(false) => Some(Registration::Off),
        Value::Bool(true) => Some(Registration::Open),
        Value::Object(fields) if fields.len() == 1 => {
            let token = fields.get(TOKEN)?.as_str().filter(|token| !token.is_empty())?;
            Some(Registration::Token(token.to_owned()))
        }
        _ => None,
    }
}

/// Tells whether a value says who may register.
pub(super) fn is_well_formed(value: &Value) -> bool {
    read(value).is_some()
}

/// Makes of a text of the environment what the file would hold: what is neither true nor false is a
/// token.
pub(super) fn of_text(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        token => Value::Object([(TOKEN.to_owned(), Value::from(token))].into_iter().collect()),
    }
}

impl<'de> Deserialize<'de> for Registration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        read(&value).ok_or_else(|| D::Error::custom("accounts.registration is not well formed"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_ways_to_say_it_and_no_other() {
        let token = || Registration::Token("secret".to_owned());
        for (value, expected) in [
            (json!(false), Some(Registration::Off)),
            (json!(true), Some(Registration::Open)),
            (json!({"token": "secret"}), Some(token())),
            (json!({"token": ""}), None),
            (json!({"token": 5}), None),
            (json!({"token": "secret", "more": 1}), None),
            (json!({}), None),
            (json!("true"), None),
            (json!(null), None),
        ] {
            assert_eq!(read(&value), expected, "{value}");
            assert_eq!(serde_json::from_value::<Registration>(value).ok(), expected);
        }
        for (text, expected) in
            [("true", Registration::Open), ("false", Registration::Off), ("secret", token())]
        {
            assert_eq!(read(&of_text(text)), Some(expected));
        }
        assert!(!is_well_formed(&of_text("")), "an empty token is none");
        assert!(!format!("{:?}", token()).contains("secret"));
    }
}
