//! Bytes that have to come out exactly so: the vectors of the Matrix specification, through ruma,
//! and those of a second implementation of its rules, through our own `proto`.
//!
//! The specification signs its events as room versions up to 10 do (they keep `origin` when they
//! redact). What stands here for versions 11 and 12, and all event ids, was computed once by an
//! independent program from the text of the specification.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use ed25519_dalek::{Signer as _, SigningKey};
use messagehub::proto::{
    pdu::{self, Draft, Pdu, Position, room_id_of_create, rules_of},
    server_name::user_of,
    signer::{SecretKeys, Signer},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, RoomVersionId,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{
        KeyPair, PublicKeyMap, PublicKeySet, Signature, Verified, content_hash,
        hash_and_sign_event, reference_hash, sign_json, verify_event, verify_json,
    },
};
use serde_json::{Value, json};

/// The key of "Cryptographic Test Vectors" in the appendices.
const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";
/// Its public half.
const PUBLIC: &str = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";
const VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

fn seed() -> [u8; 32] {
    Base64::<Standard>::parse(SEED).unwrap().as_bytes().try_into().unwrap()
}

/// `ed25519:1` of `domain`.
struct SpecKey(SigningKey);

impl KeyPair for SpecKey {
    fn sign(&self, message: &[u8]) -> Signature {
        let id = "ed25519:1".to_owned().try_into().unwrap();
        Signature::new(id, self.0.sign(message).to_bytes().to_vec())
    }
}

fn spec_key() -> SpecKey {
    SpecKey(SigningKey::from_bytes(&seed()))
}

fn spec_keys() -> PublicKeyMap {
    let public = Base64::parse(PUBLIC).unwrap();
    PublicKeyMap::from([("domain".into(), PublicKeySet::from([("ed25519:1".into(), public)]))])
}

fn object(value: Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value).unwrap() {
        CanonicalJsonValue::Object(object) => object,
        _ => panic!("no object"),
    }
}

fn rules(version: &RoomVersionId) -> RoomVersionRules {
    rules_of(version).unwrap()
}

fn signature_of(object: &CanonicalJsonObject, server: &str, key: &str) -> String {
    let text = serde_json::to_value(object).unwrap();
    text.pointer(&format!("/signatures/{server}/{key}")).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn canonical_json_of_the_specification() {
    let vectors = [
        ("{}", "{}"),
        (r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#),
        (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
                "display_name": "John Doe", "three_pids": [
                    {"medium": "email", "address": "john.doe@example.org"},
                    {"medium": "msisdn", "address": "123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{ "a": "日本語" }"#, r#"{"a":"日本語"}"#),
        (r#"{ "本": 2, "日": 1 }"#, r#"{"日":1,"本":2}"#),
        (r#"{ "a": "\u65E5" }"#, r#"{"a":"日"}"#),
        (r#"{ "a": null }"#, r#"{"a":null}"#),
    ];
    for (given, expected) in vectors {
        let parsed: CanonicalJsonValue = serde_json::from_str(given).unwrap();
        assert_eq!(parsed.to_string(), expected);
    }
    // Sorted by code point, as UTF-8 is: U+E000 before U+1F600, which UTF-16 has the other way.
    let parsed: CanonicalJsonValue = serde_json::from_str("{\"😀\":1,\"\u{e000}\":2}").unwrap();
    assert_eq!(parsed.to_string(), "{\"\u{e000}\":2,\"😀\":1}");
    for refused in ["1.5", "9007199254740992", "-9007199254740992", "1e400"] {
        let text = format!("{{\"a\":{refused}}}");
        assert!(serde_json::from_str::<CanonicalJsonObject>(&text).is_err(), "{refused}");
    }
}

#[test]
fn signed_json_of_the_specification() {
    let vectors = [
        (
            json!({}),
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            json!({"one": 1, "two": "Two"}),
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ];
    for (value, expected) in vectors {
        let mut signed = object(value);
        sign_json("domain", &spec_key(), &mut signed).unwrap();
        assert_eq!(signature_of(&signed, "domain", "ed25519:1"), expected);
        verify_json(&spec_keys(), &signed).unwrap();
        signed.insert("three".to_owned(), CanonicalJsonValue::Bool(true));
        verify_json(&spec_keys(), &signed).unwrap_err();
    }
}

/// "Event Signing": a minimal event, and one with content that a redaction takes away.
#[test]
fn hashed_and_signed_events_of_the_specification() {
    let minimal = json!({
        "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
        "origin_server_ts": 1_000_000, "type": "X", "content": {}, "prev_events": [],
        "auth_events": [], "depth": 3, "unsigned": {"age_ts": 1_000_000},
    });
    let message = json!({
        "content": {"body": "Here is the message content"}, "event_id": "$0:domain",
        "origin": "domain", "origin_server_ts": 1_000_000, "type": "m.room.message",
        "room_id": "!r:domain", "sender": "@u:domain", "unsigned": {"age_ts": 1_000_000},
    });
    // Of each: the content hash; the signature as the specification has it, and as from version 11
    // on; the reference hashes.
    let vectors = [
        (
            minimal,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            [
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
                "Jxp+1glFcZM+nnHpY0EkedRR7u0VmKsJYGnQqIvqus3UvL5X/p1y6wSkLhGoTBel6MZ9lrMIzUqrjqFquWJKBw",
            ],
            [
                "8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc",
                "70O_oKlXzFbkfu0KE88USi98DjSWrOELrPj-8tisl8I",
            ],
        ),
        (
            message,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            [
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
                "4WQB/6LN2OtkUN/+18xUNB/U4RTX1N3EeKBdlCxux08YO8izKDrSRqML1XB8V97IK7AujkNO1xMl7TaBLA4kDw",
            ],
            [
                "oFAil2fHTGY66j9PIsC3hnc-_6r2SQGxCzd1_FUgtOE",
                "4Wse3wARkU3vfz3WvvTUUlWan9kETgdNEiY6CTbJGTQ",
            ],
        ),
    ];
    for (event, hash, signatures, ids) in vectors {
        for (version, at) in VERSIONS.iter().zip([0, 1, 1]) {
            let rules = rules(version);
            let mut event = object(event.clone());
            assert_eq!(content_hash(&event).unwrap().encode(), hash);
            hash_and_sign_event("domain", &spec_key(), &mut event, &rules.redaction).unwrap();
            let signature = signature_of(&event, "domain", "ed25519:1");
            assert_eq!(signature, signatures[at], "version {version}");
            assert_eq!(reference_hash(&event, &rules).unwrap(), ids[at], "version {version}");
            if event.contains_key("depth") {
                let verified = verify_event(&spec_keys(), &event, &rules).unwrap();
                assert_eq!(verified, Verified::All);
            }
        }
    }
}

const SERVER: &str = "bahwqcera72asyextvngonlc5w2nmguxza3frweppip5thyss5577kurghceq";
const NOW: u64 = 1_790_000_000_000;

fn signer() -> Signer {
    let keys = SecretKeys { identity: [7; 32], verify: seed(), encryption: [9; 32] };
    Signer::new(&keys, &["12D3KooWpeer".to_owned()], NOW).unwrap()
}

struct Place<'a> {
    room: Option<&'a RoomId>,
    after: &'a [&'a Pdu],
    auth: &'a [&'a Pdu],
    depth: u64,
    ts: u64,
}

fn composed(
    version: &RoomVersionId,
    kind: &str,
    content: Value,
    redacts: Option<&Pdu>,
    place: &Place<'_>,
) -> Pdu {
    let state_key = matches!(kind, "m.room.create" | "m.room.power_levels").then(String::new);
    let ids = |pdus: &[&Pdu]| pdus.iter().map(|pdu| pdu.event_id.clone()).collect();
    let draft = Draft {
        kind: kind.into(),
        state_key,
        content: object(content),
        redacts: redacts.map(|pdu| pdu.event_id.clone()),
    };
    let position = Position {
        room_id: place.room.map(ToOwned::to_owned),
        prev_events: ids(place.after),
        auth_events: ids(place.auth),
        depth: place.depth,
        origin_server_ts: place.ts,
    };
    let signer = signer();
    let user = user_of(signer.server_name());
    pdu::compose(draft, &position, signer.author(&user).unwrap(), &rules(version)).unwrap()
}

/// What we compose has the ids, hashes and signatures that everybody else computes, in every
/// version, for the events whose redaction differs from version to version.
#[test]
fn our_events_in_every_room_version() {
    let signer = signer();
    assert_eq!(signer.server_name(), SERVER);
    let vectors = [
        (
            RoomVersionId::V10,
            [
                "$Q-xUOWngQhbTO4BeYf23eI5szMufOSWgT_Z8KrfsOhs",
                "$rLwDUCTN4geQeAhrDRk_TH8JeU2xON3XHbwe9ZvQtZg",
                "$IdqHnj2hck3DMkhL6MW3lRo-nQy6cheGwwbP-owRCI8",
                "$5c_OZZskINi1bYuYRZgfMCMPILC5m0SDxW8R3O4eExE",
            ],
            [
                "obpyOC8libUJ7QRTZxHWD7KpkjM0imKYsG3tlJ1B5GVP7Ce5D2VOHxFKxK+5J+DNlujiFasMY8IBaTCpOXTlCg",
                "S20s3i9/cR4IU/PiDhksHzv8wDLZ4NSqjzHqvEpEfVL9m22K/JFsEbX4/COSBgvOnVNox2JJTX5sT27ANG5RCg",
                "9tHKYk2Wi2Jpp9MbG5EpeXjaueop3Y4Y1cs10SuwjthcyZvYmGN+V/Mr9ZB5e8TdqbicqOaZsm6C1W8N+30MAQ",
                "PhHkF549HN0hAQWvme5D6DaFf83AF7+W85Ei+LrjoZMIavosELZ9aCUKiaP8PswKOLa8S9LhfHH+2KDXQLxYAw",
            ],
        ),
        (
            RoomVersionId::V11,
            [
                "$ab-uRZt_iDdSldgyKTxI6M39LPv2FGvstg2U28xnooU",
                "$bWKTH_W2cWjHkqLWp3X2UQ8AlCl03u8UN_9Tg7JheTI",
                "$DL7h76Sy1lowinurs5vOnp-QGr0Zu556clQ3cA6uBJ0",
                "$_tk7n-i217obGrEFMnH-GP1qlufq4DznrM3guWTwOGM",
            ],
            [
                "NW+hXtIG7x6nTlzQSLfIAC81nTTO2UcWvJt4DNIgM+Pv9FUe2dFbrFbMyCcEwhAgH0Fkh67kHe4c3MKZjJmOAg",
                "+NLY82zBly6XyggWDEsIoIeMG3PFEVz2g07Bl2LSLSmOMhQrxlgASsFSyNVsqu6MlB0rLc18kGKeBf/UxN0VAg",
                "tNK4dZZU4eR0QFQWGfr4t3Ujn76AX2oFmBrlisNxl+mKPj2dscAOkwzKyeeJ62imW+lUPuZbtTLU6gpOro6UAg",
                "nLOgDpRMcztY+auzpz1/9Fq8WnNXZ2c1MFUvtKLABvCcCXLZftczODSvEr4dEnVLqz82atN9EhOoViHVLkQeAg",
            ],
        ),
        (
            RoomVersionId::V12,
            [
                "$lIYmJEIxlaJVCe9JpL7B1oGTMueXZmPjCK69-ldW5Eo",
                "$KOpGpIC0acwvN0zatZ4gXfZGHixoatGL4OrQlHNUfXw",
                "$Pp-0fBwlQx-KBe-OHaB95lkPAsHtuJWklIvKHyDdVd0",
                "$XIaYIrgVt51wC8U8O-I0s2HTNBOHY1FLP3XWGJpKFQw",
            ],
            [
                "hnLeRlrGaV455gc6+lIPtKX2QrmoopIwmPm3TCVHwGH74HiIMiU7+oIrc4JKukVV15pEqZN70vQPLHZ/zNdhBQ",
                "3X3WWQY1ocamR2FW9hYxGW6GlqSClySc0shWhHSXVuAtWBQdvxGoWomtNkb66fsfU7Guzh0SNdy5lVoQ/cbuCA",
                "DieObJD5pVtH99WAQnfPS2QQeE6aDW0L6wPsaNFku9Qu96nHZq0uvHmYnpXdEbozYL0NugA5C/3GkL9TCpNjDw",
                "cDEYLneD57NO6a/NQLNSLljmmw9v2AzqjgEhzZYI9XG1271bsAwLJ6Zr88p4A8FsCJ48X07DbGo+xmqcQZeEAg",
            ],
        ),
    ];
    for (version, ids, signatures) in vectors {
        let named = RoomId::parse(format!("!room:{SERVER}")).unwrap();
        let v12 = version == RoomVersionId::V12;
        let mut content = json!({"room_version": version, "m.federate": true});
        if version == RoomVersionId::V10 {
            content["creator"] = json!(user_of(signer.server_name()));
        }
        let first =
            Place { room: (!v12).then_some(&*named), after: &[], auth: &[], depth: 1, ts: NOW };
        let create = composed(&version, "m.room.create", content, None, &first);
        // From version 12 on, the room has its name from its create event.
        if v12 {
            assert_eq!(create.room_id, room_id_of_create(&create.event_id).unwrap());
            assert_eq!(create.room_id, "!lIYmJEIxlaJVCe9JpL7B1oGTMueXZmPjCK69-ldW5Eo");
            assert!(!create.json.contains("\"room_id\""), "it cannot name its own hash");
        } else {
            assert_eq!(create.room_id, named);
        }
        let auth: &[&Pdu] = if v12 { &[] } else { &[&create] };
        let room = Some(&*create.room_id);
        let text = json!({"msgtype": "m.text", "body": "日本 \"1\"\n"});
        let place = Place { room, after: &[&create], auth, depth: 2, ts: NOW + 1 };
        let message = composed(&version, "m.room.message", text, None, &place);
        let place = Place { after: &[&message], depth: 3, ts: NOW + 2, ..place };
        let reason = json!({"reason": "typo"});
        let redaction = composed(&version, "m.room.redaction", reason, Some(&message), &place);
        assert_eq!(redaction.redacts.as_ref(), Some(&message.event_id));
        let levels = json!({"invite": 50, "users_default": 0, "notifications": {"room": 50}});
        let place = Place { ts: NOW + 3, ..place };
        let levels = composed(&version, "m.room.power_levels", levels, None, &place);
        for (at, pdu) in [&create, &message, &redaction, &levels].into_iter().enumerate() {
            assert_eq!(pdu.event_id, ids[at], "version {version}, event {at}");
            let event: CanonicalJsonObject = serde_json::from_str(&pdu.json).unwrap();
            let signature = signature_of(&event, SERVER, "ed25519:5c65f425");
            assert_eq!(signature, signatures[at], "version {version}, event {at}");
            // Redacted, it is the same event.
            let redacted = pdu.redacted(&rules(&version)).unwrap();
            let redacted: CanonicalJsonObject = serde_json::from_str(&redacted.json).unwrap();
            let hash = reference_hash(&redacted, &rules(&version)).unwrap();
            assert_eq!(format!("${hash}"), ids[at], "version {version}, event {at} redacted");
        }
    }
}
