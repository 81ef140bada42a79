//! What JSON from outside may be: the one place that says it.
//!
//! Whatever a client or another server sends comes through here before anything is made of it.
//! Invariants: what passed can be read again by every parser of this node, wrapped as deep as its
//! answers wrap it; looking at it builds no tree, and goes no deeper than the limit.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::ProtoError;

/// Deepest nesting of what clients and other servers send: a body, an event, an EDU. Parsers end at
/// 127 levels, and an event is wrapped in up to 4 more on its way, so that what would not fit must
/// not come in: it would spoil everything that it is sent along with.
pub const NESTING: usize = 64;
/// Deepest nesting of a message between servers, which is as deep as the parser goes. The events in
/// it are judged one by one, so that one that is too deep spoils no other.
pub const MESSAGE_NESTING: usize = 127;

/// A name by which serde_json would read a string as JSON of its own, whose depth nobody saw.
const HIDDEN: &str = "$serde_json::private::";

/// What is wrong with JSON from outside.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Unsound {
    /// Bytes that are no text.
    #[error("it is no UTF-8")]
    NoText,
    /// Text that is no JSON, or has what cannot be kept: half of a character, an endless number.
    #[error("it is no JSON: {0}")]
    NoJson(String),
    /// Something else than an object.
    #[error("it is no JSON object")]
    NoObject,
    /// Nested deeper than the limit, which is named.
    #[error("it is nested deeper than {0} levels")]
    TooDeep(usize),
    /// A name that is not for use.
    #[error("it has a name that begins with {HIDDEN}")]
    Reserved,
}

impl Unsound {
    /// Makes the error for a format.
    pub fn of(self, what: &'static str) -> ProtoError {
        ProtoError::malformed(what, self)
    }
}

/// Returns how deep a JSON text is nested: 0 for a number or a string. The text is walked, not
/// parsed, so that no depth can do harm; of what is no JSON the answer means nothing.
pub fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Checks what a client or another server sent: a sound JSON object within the limit of depth.
pub fn check_object(bytes: &[u8]) -> Result<&str, Unsound> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unsound::NoText)?;
    check(text, NESTING)?;
    if !text.trim_start().starts_with('{') {
        return Err(Unsound::NoObject);
    }
    Ok(text)
}

/// Checks that a text is JSON that every parser here takes, and no deeper than `most`.
pub fn check(text: &str, most: usize) -> Result<(), Unsound> {
    if nesting(text) > most.min(MESSAGE_NESTING) {
        return Err(Unsound::TooDeep(most.min(MESSAGE_NESTING)));
    }
    let mut reserved = false;
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = Sound(&mut reserved).deserialize(&mut parser).and_then(|()| parser.end());
    match read {
        Ok(()) => Ok(()),
        Err(_) if reserved => Err(Unsound::Reserved),
        Err(error) => Err(Unsound::NoJson(error.to_string())),
    }
}

/// Reads a value and keeps nothing of it. Notes whether a reserved name was the trouble.
struct Sound<'a>(&'a mut bool);

impl<'de> DeserializeSeed<'de> for Sound<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Sound(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Name(&mut *self.0))?.is_some() {
            map.next_value_seed(Sound(&mut *self.0))?;
        }
        Ok(())
    }
}

/// Reads the name of a field.
struct Name<'a>(&'a mut bool);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<(), E> {
        *self.0 = name.starts_with(HIDDEN);
        if *self.0 { Err(E::custom("a reserved name")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize as _;
    use serde_json::Value;

    use super::*;

    /// JSON that is nested so deep: lists, objects, or both.
    fn nested(levels: usize, of: &str) -> String {
        let (open, close) = match of {
            "lists" => ("[", "]"),
            _ => (r#"{"a":"#, "}"),
        };
        let inner = if of == "lists" { "" } else { "{}" };
        let levels = if inner.is_empty() { levels } else { levels - 1 };
        format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
    }

    #[test]
    fn depth_is_counted_outside_of_strings_only() {
        for (text, levels) in [
            ("5", 0),
            (r#""[[[[""#, 0),
            (r#""\"[[[""#, 0),
            (r#"["\\",[]]"#, 2),
            ("{}", 1),
            (r#"{"a":[{"]":"}"}]}"#, 3),
            (&nested(100_000, "lists"), 100_000),
            ("]]]]]][", 1),
            ("\"\\", 0),
        ] {
            assert_eq!(nesting(text), levels, "{text:.40}");
        }
    }

    #[test]
    fn what_may_come_in() {
        let deepest = |of| match of {
            "lists" => format!(r#"{{"a":{}}}"#, nested(NESTING - 1, "lists")),
            _ => nested(NESTING, "objects"),
        };
        for text in ["{}", " {\"a\": [1, -2.5e10, null, true, \"\\ud83d\\ude00\"]}\n"] {
            assert_eq!(check_object(text.as_bytes()), Ok(text));
        }
        for of in ["lists", "objects"] {
            assert!(check_object(deepest(of).as_bytes()).is_ok(), "{of}");
            let deeper = format!(r#"{{"a":{}}}"#, deepest(of));
            assert_eq!(check_object(deeper.as_bytes()), Err(Unsound::TooDeep(NESTING)), "{of}");
        }
        let endless = nested(200_000, "objects");
        assert_eq!(check_object(endless.as_bytes()), Err(Unsound::TooDeep(NESTING)));
        for list in ["[true,3000]", "5", "null", r#""{}""#] {
            assert_eq!(check_object(list.as_bytes()), Err(Unsound::NoObject), "{list}");
        }
        assert_eq!(check_object(b"{\"a\":\"\xff\"}"), Err(Unsound::NoText));
        for broken in [
            "",
            "{",
            "{}{}",
            r#"{"a":"\ud800"}"#,
            r#"{"\udc00":1}"#,
            r#"{"a":1e400}"#,
            r#"{"a":01}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":1,}"#,
        ] {
            let found = check_object(broken.as_bytes());
            assert!(matches!(found, Err(Unsound::NoJson(_))), "{broken}: {found:?}");
        }
    }

    #[test]
    fn no_depth_hides_in_a_string() {
        // serde_json reads the string as JSON of its own.
        let inner = nested(100, "lists");
        for name in ["$serde_json::private::RawValue", r"\u0024serde_json::private::RawValue"] {
            let text = format!(r#"{{"a":{{"{name}":"{inner}"}}}}"#);
            let read: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(nesting(&read.to_string()), 101, "the parser is as it was");
            assert_eq!(check_object(text.as_bytes()), Err(Unsound::Reserved));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_passed_is_read_by_the_parser_as_deep_as_it_looks(text in hostile()) {
            if check(&text, NESTING).is_ok() {
                let read: Value = serde_json::from_str(&text).unwrap();
                prop_assert!(nesting(&read.to_string()) <= NESTING);
                let wrapped = serde_json::json!({"content": {"pdus": [read]}}).to_string();
                prop_assert!(serde_json::from_str::<Value>(&wrapped).is_ok());
            }
        }

        #[test]
        fn what_the_parser_reads_passes_unless_it_is_too_deep(text in hostile()) {
            if let Ok(read) = serde_json::from_str::<Value>(&text) {
                let found = check(&text, NESTING);
                let deep = nesting(&text) > NESTING;
                prop_assert!(found.is_ok() || deep || text.contains("private"), "{:?} {}", found, read);
            }
        }
    }

    /// Pieces of JSON, put together in any way.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{\"a\":".to_owned()),
            Just("[".to_owned()),
            Just("]".to_owned()),
            Just("}".to_owned()),
            Just(",".to_owned()),
            Just("{\"$serde_json::private::RawValue\":\"".to_owned()),
            Just("\"".to_owned()),
            Just("\\ud800".to_owned()),
            Just("1e400".to_owned()),
            Just("9007199254740993".to_owned()),
            (1..140_usize).prop_map(|levels| nested(levels, "lists")),
            (1..140_usize).prop_map(|levels| nested(levels, "objects")),
            any::<String>(),
            any::<f64>().prop_map(|number| number.to_string()),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    /// What the door lets in is what the parsers behind it take; besides, all words that are read
    /// from text.
    #[test]
    fn fuzz_json_and_words() {
        use crate::proto::{
            endpoint::read_piece,
            names,
            rendezvous::{SearchTerm, strings},
            sealed::destination,
            stream::{SyncToken, TimelineToken},
        };
        let values = [
            serde_json::json!({"a": [1, {"b": null}], "c": "x", "d": {"e": [[]]}}),
            serde_json::json!({"room": {"timeline": {"limit": 5, "types": ["m.*"]}}}),
        ];
        let mut samples: Vec<Vec<u8>> =
            values.iter().map(|value| value.to_string().into_bytes()).collect();
        for word in [
            "s12_5_af",
            "t-5",
            "Ann:iwqjdna",
            "@p2p:bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna",
            "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW",
            "/_messagehub/federation/v1/answer/1?from=5",
        ] {
            samples.push(word.as_bytes().to_vec());
        }
        crate::fuzz::bytes("json", samples, |input| {
            let found = check_object(input);
            if let Ok(text) = found {
                let read: Value = serde_json::from_str(text).unwrap();
                // Of a key that is there twice the last counts: the text may be the deeper one.
                assert!((nesting(&read.to_string())..=NESTING).contains(&nesting(text)));
                let raw = serde_json::value::RawValue::from_string(text.trim().to_owned()).unwrap();
                let _ = serde_json::json!({"content": {"pdus": [raw]}});
                let filter = ruma::api::client::filter::FilterDefinition::deserialize(&read);
                let _ = filter.map(|filter| serde_json::to_value(filter).unwrap());
            }
            if let Ok(text) = std::str::from_utf8(input) {
                if let Ok(token) = text.parse::<SyncToken>() {
                    assert_eq!(token.to_string().parse(), Ok(token));
                }
                if let Ok(token) = text.parse::<TimelineToken>() {
                    assert!(token.to_string().parse::<TimelineToken>().is_ok());
                }
                if let SearchTerm::Server(server) = SearchTerm::parse(text) {
                    let _ = strings(text, &server);
                }
                let _ = (destination(text), read_piece(text));
                let name = names::shown_name(text);
                assert!(names::check_name(&name).is_ok());
                assert!(names::check_status(names::shown_status(text)).is_ok());
            }
            crate::fuzz::said(found)
        });
    }
}
