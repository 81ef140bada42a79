//! What a server says of the keys of one of its users, signed, so that others may hand it on while that
//! server is off (`docs/PROTOCOL.md` §4, "Key bundles").
//!
//! Invariants: a bundle is of a user of the server that signed it, and of nobody else; what in it is not
//! signed as it has to be (a device by itself, the self-signing key by the master key, a fallback key by its
//! device) is left out; there are no one-time keys in it, so that nobody hands out one twice, and no
//! names of devices, which are not for everybody.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, ServerName,
    canonical_json::to_canonical_value,
    signatures::{PublicKeyMap, verify_json},
};
use serde::{Deserialize, Serialize};

use super::{
    ProtoError,
    certificates::Certificates,
    device_keys::{Usage, check_cross_signing, check_device, check_one_time, is_of_device},
    json,
    server_keys::VerifiedServerKeys,
    signer::Signer,
};
use crate::config::limits;

const WHAT: &str = "key bundle";
/// What no other signed object of ours has: so none passes for another.
const FORMAT: &str = "messagehub.keys.1";
/// What server_keys, signatures and names take beside the keys.
const FRAME_LEN: usize = 16 * 1024;
/// Largest bundle, in bytes.
pub const MAX_LEN: usize = limits::KEY_LIST_LEN + FRAME_LEN;
/// How far in the future one may be dated, in milliseconds.
pub const AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// The keys of a device, as a bundle has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledDevice {
    /// What the device published, with all signatures.
    pub keys: CanonicalJsonObject,
    /// Its fallback keys by id.
    pub fallback_keys: BTreeMap<String, CanonicalJsonValue>,
}

/// The keys of a user, as the user's server says them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBundle {
    /// Whose.
    pub user_id: OwnedUserId,
    /// When it was said, in milliseconds: it never goes back.
    pub issued_ts: u64,
    /// The number of the device list that it tells.
    pub stream_id: u64,
    /// By id.
    pub devices: BTreeMap<String, BundledDevice>,
    /// The master key.
    pub master_key: Option<CanonicalJsonObject>,
    /// The self-signing key.
    pub self_signing_key: Option<CanonicalJsonObject>,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    format: String,
    user_id: OwnedUserId,
    issued_ts: u64,
    stream_id: u64,
    devices: BTreeMap<String, Device>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    master_key: Option<CanonicalJsonObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    self_signing_key: Option<CanonicalJsonObject>,
}

#[derive(Serialize, Deserialize)]
struct Device {
    device_keys: CanonicalJsonObject,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    fallback_keys: BTreeMap<String, CanonicalJsonValue>,
}

fn malformed(error: impl std::fmt::Display) -> ProtoError {
    ProtoError::malformed(WHAT, error)
}

/// Returns when the next bundle of a user is dated: later than the last one, and now.
///
/// Who dated one in the future, by a clock that went wrong, begins anew, since nobody took that one.
pub fn next_issued_ts(last: Option<u64>, now: u64) -> u64 {
    match last.filter(|last| *last <= now.saturating_add(AHEAD_MS)) {
        Some(last) => now.max(last.saturating_add(1)),
        None => now,
    }
}

/// Tells whether a bundle of that date is too old to go by.
pub fn is_over(issued_ts: u64, now: u64) -> bool {
    issued_ts.saturating_add(limits::KEY_BUNDLE_MS) < now
}

impl KeyBundle {
    /// Signs it.
    pub fn sign(&self, signer: &Signer) -> Result<CanonicalJsonObject, ProtoError> {
        if self.user_id.server_name() != signer.server_name() {
            return Err(malformed("it is of another server's user"));
        }
        let device = |device: &BundledDevice| Device {
            device_keys: device.keys.clone(),
            fallback_keys: device.fallback_keys.clone(),
        };
        let fields = Fields {
            format: FORMAT.to_owned(),
            user_id: self.user_id.clone(),
            issued_ts: self.issued_ts,
            stream_id: self.stream_id,
            devices: self.devices.iter().map(|(id, one)| (id.clone(), device(one))).collect(),
            master_key: self.master_key.clone(),
            self_signing_key: self.self_signing_key.clone(),
        };
        let CanonicalJsonValue::Object(mut object) =
            to_canonical_value(fields).map_err(malformed)?
        else {
            return Err(malformed("no object"));
        };
        let keys = CanonicalJsonValue::Object(signer.server_keys().clone());
        object.insert("server_keys".to_owned(), keys);
        signer.sign_json(&mut object)?;
        let len = serde_json::to_string(&object).map_or(usize::MAX, |text| text.len());
        if len > MAX_LEN {
            return Err(ProtoError::TooLarge { what: WHAT, len, limit: MAX_LEN });
        }
        Ok(object)
    }

    /// Checks what somebody handed on as a bundle of a user of `server`, of which `known` are the server_keys that
    /// are known here; `now` is in milliseconds.
    pub fn verify(
        text: &str,
        server: &ServerName,
        known: Option<&Certificates>,
        now: u64,
    ) -> Result<Self, ProtoError> {
        if text.len() > MAX_LEN {
            return Err(ProtoError::TooLarge { what: WHAT, len: text.len(), limit: MAX_LEN });
        }
        // It is handed on within other messages.
        json::check(text, json::NESTING).map_err(|unsound| unsound.of(WHAT))?;
        let fields: Fields = serde_json::from_str(text).map_err(malformed)?;
        if fields.format != FORMAT {
            return Err(malformed("it has another format"));
        }
        let Fields { user_id, issued_ts, stream_id, .. } = fields;
        if issued_ts > now.saturating_add(AHEAD_MS) || is_over(issued_ts, now) {
            return Err(ProtoError::NotFresh(issued_ts.cast_signed() - now.cast_signed()));
        }
        if user_id.server_name() != server {
            return Err(ProtoError::Misaddressed(format!("of {user_id}, and not of {server}")));
        }
        let object: CanonicalJsonObject = serde_json::from_str(text).map_err(malformed)?;
        let Some(CanonicalJsonValue::Object(keys)) = object.get("server_keys") else {
            return Err(ProtoError::MissingServerKeys(server.to_string()));
        };
        let keys = VerifiedServerKeys::verify(keys.clone(), now)?;
        if keys.server_name() != server {
            return Err(ProtoError::BadServerKeys(format!("they are of {}", keys.server_name())));
        }
        if !known.is_none_or(|known| known.allow(&keys, issued_ts)) {
            return Err(ProtoError::BadServerKeys("they are of a generation that is over".into()));
        }
        let map = PublicKeyMap::from([(server.to_string(), keys.keys_at(issued_ts))]);
        verify_json(&map, &object).map_err(|error| ProtoError::BadSignature(error.to_string()))?;
        let mut bundle = Self {
            issued_ts,
            stream_id,
            devices: BTreeMap::new(),
            master_key: None,
            self_signing_key: None,
            user_id,
        };
        bundle.take(fields.devices, fields.master_key, fields.self_signing_key);
        Ok(bundle)
    }

    /// Takes what is signed as it has to be.
    fn take(
        &mut self,
        devices: BTreeMap<String, Device>,
        master_key: Option<CanonicalJsonObject>,
        self_signing_key: Option<CanonicalJsonObject>,
    ) {
        let user_id = &self.user_id;
        for (device_id, device) in devices.into_iter().take(limits::DEVICES_USER) {
            let Ok(keys) = check_device(device.device_keys, user_id, &device_id) else { continue };
            let of_device = |(id, key): &(String, CanonicalJsonValue)| {
                check_one_time(id, key).is_ok() && is_of_device(key, user_id, &device_id, &keys)
            };
            let offered = device.fallback_keys.into_iter().take(limits::KEY_ALGORITHMS);
            let fallback_keys = offered.filter(of_device).collect();
            self.devices.insert(device_id, BundledDevice { keys, fallback_keys });
        }
        let master_key =
            master_key.and_then(|key| check_cross_signing(key, user_id, Usage::Master, None).ok());
        self.self_signing_key = self_signing_key.and_then(|key| {
            check_cross_signing(key, user_id, Usage::SelfSigning, master_key.as_ref()).ok()
        });
        self.master_key = master_key;
    }
}

/// Reads the date and the number of the list of a bundle that was checked before.
pub fn dates(text: &[u8]) -> Option<(u64, u64)> {
    #[derive(Deserialize)]
    struct Said {
        issued_ts: u64,
        stream_id: u64,
    }
    let said: Said = serde_json::from_slice(text).ok()?;
    Some((said.issued_ts, said.stream_id))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{
        delegation::tests::of_generation,
        device_keys::tests::{cross, device, one_time},
        server_keys::{LIFETIME_MS, tests::secret_keys},
        server_name::user_of,
    };

    const NOW: u64 = 1_790_000_000_000;

    pub(crate) fn signer(seed: u8) -> Signer {
        Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap()
    }

    /// A bundle of the owner of a node.
    pub(crate) fn bundle(signer: &Signer, issued_ts: u64) -> KeyBundle {
        let user_id = user_of(signer.server_name());
        let key = one_time(&user_id, "D", 1, "fallback");
        let fallback_keys = BTreeMap::from([("signed_curve25519:AAAA".to_owned(), key)]);
        let keys = device(&user_id, "D", 1);
        KeyBundle {
            issued_ts,
            stream_id: 7,
            devices: [("D".to_owned(), BundledDevice { keys, fallback_keys })].into(),
            master_key: Some(cross(&user_id, "master", 2, None)),
            self_signing_key: Some(cross(&user_id, "self_signing", 3, Some(2))),
            user_id,
        }
    }

    pub(crate) fn text(object: &CanonicalJsonObject) -> String {
        serde_json::to_string(object).unwrap()
    }

    fn verify(object: &CanonicalJsonObject, now: u64) -> Result<KeyBundle, ProtoError> {
        KeyBundle::verify(&text(object), signer(1).server_name(), None, now)
    }

    #[test]
    fn a_bundle_counts_for_whoever_has_it_and_for_a_month() {
        let ann = signer(1);
        let said = bundle(&ann, NOW);
        let signed = said.sign(&ann).unwrap();
        assert_eq!(verify(&signed, NOW).unwrap(), said);
        // Its server is off: the server_keys in it are not live any more, and were when it was said.
        assert_eq!(verify(&signed, NOW + 2 * LIFETIME_MS).unwrap(), said);
        let over = NOW + limits::KEY_BUNDLE_MS;
        assert!(verify(&signed, over).is_ok() && verify(&signed, over + 1).is_err());
        let early = NOW - AHEAD_MS - 1;
        assert!(verify(&signed, early).is_err());
        assert_eq!(dates(text(&signed).as_bytes()), Some((NOW, 7)));
        let none = KeyBundle {
            devices: BTreeMap::new(),
            master_key: None,
            self_signing_key: None,
            ..said
        };
        assert_eq!(verify(&none.sign(&ann).unwrap(), NOW).unwrap(), none, "all logged out");
    }

    #[test]
    fn attack_16_nobody_bundles_the_keys_of_others() {
        let (ann, eve) = (signer(1), signer(2));
        let said = bundle(&ann, NOW);
        assert!(said.sign(&eve).is_err());
        let signed = said.sign(&ann).unwrap();
        // Signed by eve in the name of ann, with the keys of eve and with those of ann.
        for keys in [eve.server_keys(), ann.server_keys()] {
            let mut forged = signed.clone();
            forged.remove("signatures");
            forged.insert("server_keys".to_owned(), CanonicalJsonValue::Object(keys.clone()));
            eve.sign_json(&mut forged).unwrap();
            assert!(verify(&forged, NOW).is_err());
        }
        let of_eve = text(&bundle(&eve, NOW).sign(&eve).unwrap());
        assert!(KeyBundle::verify(&of_eve, ann.server_name(), None, NOW).is_err(), "as ann's");
        // A key signs nothing that is younger than its certificate.
        let late = bundle(&ann, NOW + LIFETIME_MS + 1).sign(&ann).unwrap();
        assert!(verify(&late, NOW + LIFETIME_MS + 1).is_err());
    }

    #[test]
    fn attack_08_a_generation_that_is_over_bundles_nothing() {
        let ann = signer(1);
        let signed = text(&bundle(&ann, NOW).sign(&ann).unwrap());
        let check = |generation: u64, at: u64| {
            let raised = of_generation(&secret_keys(1), generation, at);
            let known = Certificates::new(ann.server_name(), [raised]);
            KeyBundle::verify(&signed, ann.server_name(), Some(&known), NOW + 60_000).is_ok()
        };
        assert!(!check(NOW / 1000 - 10, NOW), "said after the key was ended");
        assert!(check(NOW / 1000 + 10, NOW + 20_000), "said before");
    }

    #[test]
    fn attack_16_what_was_changed_is_refused_and_what_was_forged_by_its_server_is_left_out() {
        let ann = signer(1);
        let said = bundle(&ann, NOW);
        let signed = said.sign(&ann).unwrap();
        let eve = user_of(signer(2).server_name());
        for (field, value) in [
            ("user_id", json!(eve)),
            ("issued_ts", json!(NOW + 1)),
            ("stream_id", json!(8)),
            ("devices", json!({})),
            ("master_key", json!(null)),
            ("format", json!("messagehub.keys.2")),
            ("more", json!(1)),
        ] {
            let mut changed = signed.clone();
            changed.insert(field.to_owned(), to_canonical_value(value).unwrap());
            assert!(verify(&changed, NOW).is_err(), "{field}");
        }
        for field in ["signatures", "server_keys", "user_id", "issued_ts", "stream_id", "devices"] {
            let mut changed = signed.clone();
            changed.remove(field);
            assert!(verify(&changed, NOW).is_err(), "{field}");
        }
        let mut long = said.clone();
        long.devices = (0..400).map(|n| (format!("D{n}"), said.devices["D"].clone())).collect();
        long.devices.values_mut().for_each(|device| {
            let more = CanonicalJsonValue::String("x".repeat(2000));
            device.keys.insert("more".into(), more);
        });
        assert!(long.sign(&ann).is_err(), "too long");

        // A server that forges the keys of its own user is believed what is signed by the user's keys.
        let with = |change: &dyn Fn(&mut KeyBundle)| {
            let mut forged = said.clone();
            change(&mut forged);
            verify(&forged.sign(&ann).unwrap(), NOW).unwrap()
        };
        let of = |bundle: &mut KeyBundle, keys| bundle.devices.get_mut("D").unwrap().keys = keys;
        assert!(with(&|forged| of(forged, device(&eve, "D", 1))).devices.is_empty());
        assert!(with(&|forged| of(forged, device(&said.user_id, "E", 1))).devices.is_empty());
        let other = with(&|forged| of(forged, device(&said.user_id, "D", 9)));
        assert!(other.devices["D"].fallback_keys.is_empty(), "of another device");
        let forged = cross(&said.user_id, "self_signing", 3, Some(9));
        assert!(
            with(&|one| one.self_signing_key = Some(forged.clone())).self_signing_key.is_none()
        );
        assert!(with(&|one| one.master_key = None).self_signing_key.is_none());
    }

    #[test]
    fn the_date_of_a_bundle_never_goes_back() {
        for (last, now, next) in [
            (None, NOW, NOW),
            (Some(NOW - 5), NOW, NOW),
            (Some(NOW), NOW, NOW + 1),
            (Some(NOW + AHEAD_MS), NOW, NOW + AHEAD_MS + 1),
            // A clock that went wrong and was set right: nobody took that one.
            (Some(NOW + AHEAD_MS + 1), NOW, NOW),
        ] {
            assert_eq!(next_issued_ts(last, now), next, "{last:?}");
        }
    }
}
