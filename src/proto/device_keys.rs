//! Keys for end-to-end encryption: what a device or a user publishes, and who has to have signed it
//! (Client-Server API, "End-to-end encryption").
//!
//! Objects are kept as they came, since signatures cover all that is in them. Invariant: what passed
//! here says itself whose it is, and who it says it is has signed it; `unsigned` is never kept.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, UserId,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

use super::{ProtoError, edu::FIELD_LEN};

/// Largest keys of a device, or cross-signing key, in bytes, with all signatures.
pub const KEY_LEN: usize = 16 * 1024;
/// Largest one-time or fallback key, in bytes.
pub const ONE_TIME_KEY_LEN: usize = 2 * 1024;
/// The algorithm of one-time keys that clients use, of which they want to know the count always.
pub const SIGNED_CURVE25519: &str = "signed_curve25519";

const WHAT: &str = "keys of a device";
const CROSS: &str = "cross-signing key";
const ONE_TIME: &str = "one-time key";

/// Clients write base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a cross-signing key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It vouches for the other two.
    Master,
    /// It signs the devices of its user.
    SelfSigning,
    /// It signs the master keys of other users.
    UserSigning,
}

impl Usage {
    fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// Tells whether an object bears a signature by a key, which is right.
pub fn is_signed(
    object: &CanonicalJsonObject,
    user_id: &UserId,
    key_id: &str,
    public_key: &str,
) -> bool {
    let check = || {
        let signatures = object.get("signatures")?.as_object()?;
        let signature = signatures.get(user_id.as_str())?.as_object()?.get(key_id)?.as_str()?;
        let signature = BASE64.decode(signature).ok()?;
        let public_key = BASE64.decode(public_key).ok()?;
        let signed = to_canonical_json_string_for_signing(object).ok()?;
        let ed25519 = SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(&ed25519, &public_key, &signature, signed.as_bytes()).ok()
    };
    check().is_some()
}

/// Returns the key by which a device signs: its id and the key.
pub fn signing_key_of<'a>(
    keys: &'a CanonicalJsonObject,
    device_id: &str,
) -> Option<(String, &'a str)> {
    let key_id = format!("ed25519:{device_id}");
    let key = keys.get("keys")?.as_object()?.get(&key_id)?.as_str()?;
    Some((key_id, key))
}

/// Returns the only key of a cross-signing key: its id and the key.
pub fn public_key_of(key: &CanonicalJsonObject) -> Option<(&str, &str)> {
    let keys = key.get("keys")?.as_object()?;
    let (key_id, key) = keys.iter().next().filter(|_| keys.len() == 1)?;
    Some((key_id, key.as_str()?))
}

fn text<'a>(object: &'a CanonicalJsonObject, name: &str) -> Option<&'a str> {
    object.get(name).and_then(CanonicalJsonValue::as_str)
}

fn check_len(
    what: &'static str,
    object: &CanonicalJsonObject,
    limit: usize,
) -> Result<(), ProtoError> {
    let len = serde_json::to_string(object).map_or(usize::MAX, |text| text.len());
    if len > limit { Err(ProtoError::TooLarge { what, len, limit }) } else { Ok(()) }
}

fn check_owner(
    what: &'static str,
    object: &CanonicalJsonObject,
    user_id: &UserId,
) -> Result<(), ProtoError> {
    match text(object, "user_id") {
        Some(owner) if owner == user_id => Ok(()),
        _ => Err(ProtoError::malformed(what, format!("its user_id is not {user_id}"))),
    }
}

/// Checks the keys of a device, and returns what is kept of them.
pub fn check_device(
    mut keys: CanonicalJsonObject,
    user_id: &UserId,
    device_id: &str,
) -> Result<CanonicalJsonObject, ProtoError> {
    keys.remove("unsigned");
    check_len(WHAT, &keys, KEY_LEN)?;
    check_owner(WHAT, &keys, user_id)?;
    if device_id.is_empty() || device_id.len() > FIELD_LEN {
        return Err(ProtoError::malformed(WHAT, "no device has such an id"));
    }
    if text(&keys, "device_id") != Some(device_id) {
        return Err(ProtoError::malformed(WHAT, format!("its device_id is not {device_id}")));
    }
    if keys.get("algorithms").and_then(CanonicalJsonValue::as_array).is_none() {
        return Err(ProtoError::malformed(WHAT, "it has no list of algorithms"));
    }
    let Some((key_id, key)) = signing_key_of(&keys, device_id) else {
        return Err(ProtoError::malformed(WHAT, format!("it has no ed25519:{device_id}")));
    };
    if !is_signed(&keys, user_id, &key_id, key) {
        return Err(ProtoError::BadSignature(format!(
            "the keys of {device_id} are not signed by it"
        )));
    }
    Ok(keys)
}

/// Checks a cross-signing key, and returns what is kept of it. `master` is the master key of the user,
/// which has to have signed the other two.
pub fn check_cross_signing(
    mut key: CanonicalJsonObject,
    user_id: &UserId,
    usage: Usage,
    master: Option<&CanonicalJsonObject>,
) -> Result<CanonicalJsonObject, ProtoError> {
    key.remove("unsigned");
    check_len(CROSS, &key, KEY_LEN)?;
    check_owner(CROSS, &key, user_id)?;
    let name = usage.name();
    let usages = key.get("usage").and_then(CanonicalJsonValue::as_array);
    if !usages.is_some_and(|usages| usages.iter().any(|usage| usage.as_str() == Some(name))) {
        return Err(ProtoError::malformed(CROSS, format!("its usage is not {name}")));
    }
    let of_32_bytes = |key: &str| BASE64.decode(key).is_ok_and(|key| key.len() == 32);
    match public_key_of(&key) {
        Some((key_id, public))
            if of_32_bytes(public) && key_id.strip_prefix("ed25519:") == Some(public) => {}
        _ => return Err(ProtoError::malformed(CROSS, "it is not exactly one ed25519 key")),
    }
    if usage == Usage::Master {
        return Ok(key);
    }
    let master = master.and_then(public_key_of);
    let (key_id, public) =
        master.ok_or_else(|| ProtoError::malformed(CROSS, "there is no master key"))?;
    if !is_signed(&key, user_id, key_id, public) {
        return Err(ProtoError::BadSignature(format!(
            "the {name} key is not signed by the master key"
        )));
    }
    Ok(key)
}

/// Returns the algorithm of the id of a one-time key, `<algorithm>:<name>`.
pub fn algorithm_of(key_id: &str) -> Option<&str> {
    let (algorithm, name) = key_id.split_once(':')?;
    let fits = !algorithm.is_empty() && !name.is_empty() && key_id.len() <= FIELD_LEN;
    fits.then_some(algorithm)
}

/// Checks the form of a one-time or fallback key.
pub fn check_one_time(key_id: &str, key: &CanonicalJsonValue) -> Result<(), ProtoError> {
    let wrong = |why: &str| Err(ProtoError::malformed(ONE_TIME, format!("{why}: {key_id:.80}")));
    let Some(algorithm) = algorithm_of(key_id) else {
        return wrong("its id is not <algorithm>:<name>");
    };
    match key {
        CanonicalJsonValue::Object(object) => {
            check_len(ONE_TIME, object, ONE_TIME_KEY_LEN)?;
            if text(object, "key").is_none() {
                return wrong("it has no key");
            }
            Ok(())
        }
        CanonicalJsonValue::String(key) if algorithm != SIGNED_CURVE25519 => match key.len() {
            len @ ..=ONE_TIME_KEY_LEN if len > 0 => Ok(()),
            _ => wrong("it is empty or too long"),
        },
        _ => wrong("it is no key"),
    }
}

/// Tells whether a device signed a one-time or fallback key that another server hands out for it.
pub fn is_of_device(
    key: &CanonicalJsonValue,
    user_id: &UserId,
    device_id: &str,
    device: &CanonicalJsonObject,
) -> bool {
    let Some((key_id, public)) = signing_key_of(device, device_id) else { return false };
    key.as_object().is_some_and(|key| is_signed(key, user_id, &key_id, public))
}

/// Tells whether two objects differ in nothing but signatures.
pub fn same_but_signatures(a: &CanonicalJsonObject, b: &CanonicalJsonObject) -> bool {
    let signed = |object| to_canonical_json_string_for_signing(object).ok();
    signed(a).is_some() && signed(a) == signed(b)
}

/// Adds a signature to an object.
pub fn add_signature(
    object: &mut CanonicalJsonObject,
    user_id: &UserId,
    key_id: &str,
    signature: CanonicalJsonValue,
) {
    let none = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = object.entry("signatures".to_owned()).or_insert_with(none);
    let CanonicalJsonValue::Object(signatures) = signatures else { return };
    let of_user = signatures.entry(user_id.to_string()).or_insert_with(none);
    let CanonicalJsonValue::Object(of_user) = of_user else { return };
    of_user.insert(key_id.to_owned(), signature);
}

/// Returns the signatures of an object by a user, by key.
pub fn signatures_by<'a>(
    object: &'a CanonicalJsonObject,
    user_id: &UserId,
) -> impl Iterator<Item = (&'a String, &'a CanonicalJsonValue)> {
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let of_user = signatures.and_then(|signatures| signatures.get(user_id.as_str()));
    of_user.and_then(CanonicalJsonValue::as_object).into_iter().flatten()
}

#[cfg(test)]
pub(crate) mod tests {
    use ruma::{serde::Base64, signatures::Ed25519KeyPair, user_id};
    use serde_json::json;

    use super::*;

    /// A key that signs, made of a number.
    pub(crate) struct SigningKey {
        pair: Ed25519KeyPair,
        version: String,
        pub(crate) public: String,
    }

    /// Makes the key of a device; a cross-signing key where there is no device.
    pub(crate) fn signing_key(seed: u8, device: Option<&str>) -> SigningKey {
        // PKCS#8 of an Ed25519 key is this prefix and the seed.
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let document = [&prefix[..], &[seed; 32]].concat();
        let make = |version: &str| Ed25519KeyPair::from_der(&document, version.to_owned()).unwrap();
        let public: Base64 = Base64::new(make("x").public_key().to_vec());
        let public = public.encode();
        let version = device.unwrap_or(&public).to_owned();
        SigningKey { pair: make("x"), version, public }
    }

    /// Signs an object for a user.
    pub(crate) fn sign(object: &mut CanonicalJsonObject, user_id: &UserId, by: &SigningKey) {
        use ruma::signatures::KeyPair as _;
        let text = to_canonical_json_string_for_signing(object).unwrap();
        let signature = by.pair.sign(text.as_bytes()).base64();
        let key_id = format!("ed25519:{}", by.version);
        add_signature(object, user_id, &key_id, CanonicalJsonValue::String(signature));
    }

    /// Makes an object of JSON.
    pub(crate) fn object(value: serde_json::Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    /// Makes the keys of a device, signed by it.
    pub(crate) fn device(user_id: &UserId, device_id: &str, seed: u8) -> CanonicalJsonObject {
        let key = signing_key(seed, Some(device_id));
        let mut keys = object(json!({
            "user_id": user_id, "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{device_id}"): key.public,
                format!("curve25519:{device_id}"): key.public,
            },
        }));
        sign(&mut keys, user_id, &key);
        keys
    }

    /// Makes a cross-signing key; signed by the master key of `by`, where one is given.
    pub(crate) fn cross(
        user_id: &UserId,
        usage: &str,
        seed: u8,
        by: Option<u8>,
    ) -> CanonicalJsonObject {
        let public = signing_key(seed, None).public;
        let mut key = object(json!({
            "user_id": user_id, "usage": [usage], "keys": {format!("ed25519:{public}"): public},
        }));
        if let Some(by) = by {
            sign(&mut key, user_id, &signing_key(by, None));
        }
        key
    }

    /// Makes a one-time key, signed by a device.
    pub(crate) fn one_time(
        user_id: &UserId,
        device_id: &str,
        seed: u8,
        key: &str,
    ) -> CanonicalJsonValue {
        let mut object = object(json!({"key": key}));
        sign(&mut object, user_id, &signing_key(seed, Some(device_id)));
        CanonicalJsonValue::Object(object)
    }

    #[test]
    fn the_keys_of_a_device_say_whose_they_are_and_are_signed_by_it() {
        let ann = user_id!("@ann:x");
        let good = device(ann, "D", 1);
        assert_eq!(check_device(good.clone(), ann, "D").unwrap(), good);
        let mut named = good.clone();
        named.insert("unsigned".into(), object(json!({"device_display_name": "x"})).into());
        assert_eq!(check_device(named, ann, "D").unwrap(), good, "unsigned is of the server");
        // Further fields are signed, so they are kept.
        let mut odd = good.clone();
        odd.remove("signatures");
        odd.insert("dehydrated".into(), CanonicalJsonValue::Bool(true));
        sign(&mut odd, ann, &signing_key(1, Some("D")));
        assert_eq!(check_device(odd.clone(), ann, "D").unwrap(), odd);

        let with = |change: &dyn Fn(&mut CanonicalJsonObject)| {
            let mut keys = good.clone();
            change(&mut keys);
            keys
        };
        let set = |name: &'static str, value: serde_json::Value| {
            let value = CanonicalJsonValue::try_from(value).unwrap();
            with(&move |keys| drop(keys.insert(name.into(), value.clone())))
        };
        for (what, bad) in [
            ("of another user", set("user_id", json!("@eve:x"))),
            ("of another device", set("device_id", json!("E"))),
            ("no algorithms", set("algorithms", json!({}))),
            ("another key", set("keys", json!({"ed25519:D": signing_key(2, None).public}))),
            ("no key", set("keys", json!({}))),
            ("something added", set("extra", json!(1))),
            ("no signatures", with(&|keys| drop(keys.remove("signatures")))),
            ("odd signatures", set("signatures", json!([]))),
            ("too long", set("extra", json!("x".repeat(KEY_LEN)))),
        ] {
            assert!(check_device(bad, ann, "D").is_err(), "{what}");
        }
        assert!(check_device(good.clone(), user_id!("@eve:x"), "D").is_err());
        let eve = device(user_id!("@eve:x"), "D", 1);
        assert!(check_device(eve, ann, "D").is_err());
    }

    #[test]
    fn cross_signing_keys_are_signed_by_the_master_key() {
        let ann = user_id!("@ann:x");
        let master = cross(ann, "master", 1, None);
        let check = |key, usage| check_cross_signing(key, ann, usage, Some(&master));
        assert!(check_cross_signing(master.clone(), ann, Usage::Master, None).is_ok());
        for (usage, name) in
            [(Usage::SelfSigning, "self_signing"), (Usage::UserSigning, "user_signing")]
        {
            let good = cross(ann, name, 2, Some(1));
            assert!(check(good.clone(), usage).is_ok());
            assert!(check_cross_signing(good.clone(), ann, usage, None).is_err(), "no master key");
            assert!(check(good.clone(), Usage::Master).is_err(), "another usage");
            assert!(check(cross(ann, name, 2, None), usage).is_err(), "not signed");
            assert!(check(cross(ann, name, 2, Some(3)), usage).is_err(), "signed by another");
            assert!(check(cross(user_id!("@eve:x"), name, 2, Some(1)), usage).is_err());
            let mut two = good;
            two.insert("keys".into(), object(json!({"ed25519:a": "a", "ed25519:b": "b"})).into());
            assert!(check(two, usage).is_err(), "two keys");
        }
    }

    #[test]
    fn one_time_keys_have_an_algorithm_and_few_bytes() {
        let ann = user_id!("@ann:x");
        let signed = one_time(ann, "D", 1, "AAAA");
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        for (id, key, good) in [
            ("signed_curve25519:AAAAAQ", &signed, true),
            ("curve25519:AAAAAQ", &text("key"), true),
            ("signed_curve25519:AAAAAQ", &text("key"), false),
            ("signed_curve25519", &signed, false),
            (":x", &signed, false),
            ("signed_curve25519:", &signed, false),
            ("curve25519:A", &text(&"x".repeat(ONE_TIME_KEY_LEN + 1)), false),
            ("curve25519:A", &text(""), false),
            ("signed_curve25519:A", &object(json!({})).into(), false),
            ("signed_curve25519:A", &CanonicalJsonValue::Null, false),
            (&format!("signed_curve25519:{}", "x".repeat(300)), &signed, false),
        ] {
            assert_eq!(check_one_time(id, key).is_ok(), good, "{id:.40} {key:?}");
        }
        assert!(is_of_device(&signed, ann, "D", &device(ann, "D", 1)));
        assert!(!is_of_device(&signed, ann, "D", &device(ann, "D", 2)));
        assert!(!is_of_device(&text("key"), ann, "D", &device(ann, "D", 1)));
    }
}
