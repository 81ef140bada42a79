//! Where ruma's request types take less, or more, than the specification's definitions say.
//!
//! A table, so that it is seen at a glance and what ruma mends can go.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{error::HttpError, ruma_glue::parse};

/// What is so about a field of a body.
enum Field {
    /// ruma wants it, the specification does not: what it is where it is left out.
    Optional(fn() -> Value),
    /// ruma takes any JSON type: these are right.
    Of(fn(&Value) -> bool, &'static str),
}

/// End of the path with its arguments unnamed, field, what is so about it.
const FIELDS: [(&str, &str, Field); 6] = [
    ("/rooms/{}/typing/{}", "timeout", Field::Optional(|| Value::from(30_000))),
    // A rule without conditions always matches.
    ("/pushrules/global/{}/{}", "conditions", Field::Optional(|| Value::Array(Vec::new()))),
    ("/directory/list/room/{}", "visibility", Field::Optional(|| Value::from("public"))),
    ("/publicRooms", "include_all_networks", Field::Of(Value::is_boolean, "a boolean")),
    ("/publicRooms", "third_party_instance_id", Field::Of(Value::is_string, "a string")),
    ("/publicRooms", "filter", Field::Of(Value::is_object, "an object")),
];

/// Makes a body what ruma's type for a path takes, or refuses it where that takes too much.
pub(super) fn settle<'a>(path: &str, body: &'a [u8]) -> Result<Cow<'a, [u8]>, HttpError> {
    let mut rows = FIELDS.iter().filter(|(end, ..)| path.ends_with(end)).peekable();
    if rows.peek().is_none() || body.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    let mut fields: Map<String, Value> = parse(body)?;
    let mut changed = false;
    for (_, name, field) in rows {
        match (field, fields.get(*name)) {
            (Field::Optional(default), None) => {
                fields.insert((*name).to_owned(), default());
                changed = true;
            }
            (Field::Of(is_right, what), Some(value)) if !value.is_null() && !is_right(value) => {
                return Err(HttpError::bad_json(format!("{name} has to be {what}")));
            }
            (Field::Optional(_) | Field::Of(..), _) => {}
        }
    }
    if !changed {
        return Ok(Cow::Borrowed(body));
    }
    serde_json::to_vec(&fields).map(Cow::Owned).map_err(HttpError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_optional_may_be_left_out_and_wrong_types_are_refused() {
        let typing = "/_matrix/client/v3/rooms/{}/typing/{}";
        let settled = |path: &str, body: &str| {
            settle(path, body.as_bytes()).map(|body| String::from_utf8(body.into_owned()).unwrap())
        };
        assert_eq!(
            settled(typing, r#"{"typing":true}"#).unwrap(),
            r#"{"timeout":30000,"typing":true}"#
        );
        let whole = r#"{"typing": true, "timeout": 5}"#;
        assert_eq!(settled(typing, whole).unwrap(), whole, "as it came");
        assert_eq!(settled("/elsewhere", "{").unwrap(), "{", "left to others");
        let listed = "/_matrix/client/v3/directory/list/room/{}";
        assert_eq!(settled(listed, "{}").unwrap(), r#"{"visibility":"public"}"#);
        let rooms = "/_matrix/client/v3/publicRooms";
        for bad in [r#"{"include_all_networks":1}"#, r#"{"filter":[]}"#] {
            assert!(settled(rooms, bad).is_err(), "{bad}");
        }
        assert!(settled(rooms, r#"{"include_all_networks":true,"filter":{}}"#).is_ok());
    }
}
