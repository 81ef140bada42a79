//! The devices and cross-signing keys of one user. Pure.
//!
//! Invariants: a list has a new number after each change that others are to see, greater than any that
//! it had; what others signed is added and never takes the place of anything; a new cross-signing
//! identity has none of the signatures of the one before.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};
use serde::{Deserialize, Serialize};

use super::messages::KeyError;
use crate::{
    config::limits,
    proto::device_keys::{
        Usage, add_signature, check_cross_signing, check_device, is_signed, public_key_of,
        same_but_signatures, signatures_by, signing_key_of,
    },
};

/// A device with keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListedDevice {
    /// What the device published, with all signatures.
    pub(super) keys: CanonicalJsonObject,
    /// Its name, as its server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Of another server's device: fallback keys by id, for when that server is off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) fallback: BTreeMap<String, CanonicalJsonValue>,
}

/// The devices and cross-signing keys of a user: the value of `Row::KeyList`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyList {
    /// The number of the list, as its server counts.
    #[serde(default)]
    pub(super) stream_id: u64,
    /// Ours: other servers have yet to be told of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) untold: bool,
    /// Another server's: it may be another by now, or was never there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) stale: bool,
    /// Another server's, and none of ours: the position in our stream at which it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) master_key: Option<CanonicalJsonObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) self_signing_key: Option<CanonicalJsonObject>,
    /// Ours: for the user's own devices alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user_signing_key: Option<CanonicalJsonObject>,
    #[serde(default)]
    pub(super) devices: BTreeMap<String, ListedDevice>,
}

/// Cross-signing keys that a client uploads.
#[derive(Debug, Clone, Default)]
pub(super) struct NewCrossSigning {
    pub(super) master_key: Option<CanonicalJsonObject>,
    pub(super) self_signing_key: Option<CanonicalJsonObject>,
    pub(super) user_signing_key: Option<CanonicalJsonObject>,
}

impl KeyList {
    /// Gives the list a new number: others are to be told. Clocks go backwards, numbers do not.
    fn changed(&mut self, now: u64) {
        self.stream_id = self.stream_id.saturating_add(1).max(now);
        self.untold = true;
    }

    /// Takes the keys that a device of our user published. Tells whether anything changed, and whether
    /// the device has another identity than before.
    pub(super) fn upload(
        &mut self,
        user_id: &UserId,
        device_id: &str,
        keys: CanonicalJsonObject,
        name: Option<String>,
        now: u64,
    ) -> Result<(bool, bool), KeyError> {
        let mut keys = check_device(keys, user_id, device_id)?;
        let known = self.devices.get(device_id);
        if known.is_none() && self.devices.len() >= limits::DEVICES_USER {
            return Err(KeyError::Full("devices with keys: log out of some"));
        }
        let same = known.is_some_and(|known| same_but_signatures(&known.keys, &keys));
        if let Some(known) = known.filter(|_| same) {
            // It knows nothing of what the self-signing key said of it since.
            for (key_id, signature) in signatures_by(&known.keys, user_id) {
                if !signatures_by(&keys, user_id).any(|(known, _)| known == key_id) {
                    let mut with = keys.clone();
                    add_signature(&mut with, user_id, key_id, signature.clone());
                    keys = with;
                }
            }
        }
        let new_identity = known.is_some_and(|known| {
            signing_key_of(&known.keys, device_id) != signing_key_of(&keys, device_id)
                || known.keys.get("keys") != keys.get("keys")
        });
        let device = ListedDevice { keys, name, fallback: BTreeMap::new() };
        if known == Some(&device) {
            return Ok((false, false));
        }
        self.devices.insert(device_id.to_owned(), device);
        self.changed(now);
        Ok((true, new_identity))
    }

    /// Forgets devices. Tells whether one of them was there.
    pub(super) fn forget(&mut self, device_ids: &[String], now: u64) -> bool {
        let before = self.devices.len();
        self.devices.retain(|device_id, _| !device_ids.contains(device_id));
        let changed = self.devices.len() != before;
        if changed {
            self.changed(now);
        }
        changed
    }

    /// Gives a device another name. Tells whether anything changed.
    pub(super) fn rename(&mut self, device_id: &str, name: Option<String>, now: u64) -> bool {
        match self.devices.get_mut(device_id) {
            Some(device) if device.name != name => {
                device.name = name;
                self.changed(now);
                true
            }
            _ => false,
        }
    }

    /// Says that others are to see the list anew, though nothing in it changed: a fallback key did.
    pub(super) fn touch(&mut self, now: u64) {
        self.changed(now);
    }

    /// Takes cross-signing keys that a client of the user uploads. Tells whether anything changed. To
    /// replace a key that is there needs more than an access token.
    pub(super) fn set_cross_signing(
        &mut self,
        user_id: &UserId,
        new: NewCrossSigning,
        may_replace: bool,
        now: u64,
    ) -> Result<bool, KeyError> {
        let NewCrossSigning { master_key, self_signing_key, user_signing_key } = new;
        let mut list = self.clone();
        if let Some(key) = master_key {
            let mut key = check_cross_signing(key, user_id, Usage::Master, None)?;
            list.check_master_signatures(user_id, &mut key)?;
            let same = place(&mut list.master_key, key);
            if !same {
                // What hung on the key before is not vouched for by this one.
                list.self_signing_key = None;
                list.user_signing_key = None;
            }
        }
        let master = list.master_key.clone();
        for (key, usage, slot) in [
            (self_signing_key, Usage::SelfSigning, &mut list.self_signing_key),
            (user_signing_key, Usage::UserSigning, &mut list.user_signing_key),
        ] {
            if let Some(key) = key {
                place(slot, check_cross_signing(key, user_id, usage, master.as_ref())?);
            }
        }
        if list == *self {
            return Ok(false);
        }
        let replaces = |old: &Option<CanonicalJsonObject>, new: &Option<CanonicalJsonObject>| {
            old.is_some()
                && old.as_ref().and_then(public_key_of) != new.as_ref().and_then(public_key_of)
        };
        let replaced = replaces(&self.master_key, &list.master_key)
            || replaces(&self.self_signing_key, &list.self_signing_key)
            || replaces(&self.user_signing_key, &list.user_signing_key);
        if replaced && !may_replace {
            return Err(KeyError::NeedsAuth);
        }
        *self = list;
        self.changed(now);
        Ok(true)
    }

    /// A master key comes with the signature of the device that made it, or with none.
    fn check_master_signatures(
        &self,
        user_id: &UserId,
        key: &mut CanonicalJsonObject,
    ) -> Result<(), KeyError> {
        let by: Vec<String> = signatures_by(key, user_id).map(|(id, _)| id.clone()).collect();
        for key_id in by {
            let own = public_key_of(key).filter(|(own, _)| *own == key_id);
            let public = own.map(|(_, public)| public).or_else(|| self.device_key(&key_id));
            if !public.is_some_and(|public| is_signed(key, user_id, &key_id, public)) {
                return Err(KeyError::BadSignature(format!(
                    "the signature of the master key by {key_id} is wrong, or of no device"
                )));
            }
        }
        Ok(())
    }

    /// Returns the key of a device by its id, `ed25519:<device id>`.
    fn device_key(&self, key_id: &str) -> Option<&str> {
        let device_id = key_id.strip_prefix("ed25519:")?;
        let device = self.devices.get(device_id)?;
        signing_key_of(&device.keys, device_id).map(|(_, public)| public)
    }

    /// Takes what the user says of a device or of the own master key: `signed` is the object with new
    /// signatures, under its device id or its public key. Tells whether anything changed.
    pub(super) fn sign_own(
        &mut self,
        user_id: &UserId,
        name: &str,
        signed: &CanonicalJsonObject,
        now: u64,
    ) -> Result<bool, KeyError> {
        let signer = |list: &Self, key_id: &str, of_device: bool| {
            let slot = if of_device { &list.self_signing_key } else { &list.master_key };
            let cross = slot.as_ref().and_then(public_key_of).filter(|(id, _)| *id == key_id);
            cross.map(|(_, public)| public.to_owned())
        };
        let of_device = self.devices.contains_key(name);
        let known = match self.devices.get(name) {
            Some(device) => Some(&device.keys),
            None => self
                .master_key
                .as_ref()
                .filter(|key| public_key_of(key).is_some_and(|(_, public)| public == name)),
        };
        let Some(known) = known else {
            return Err(KeyError::NotFound("device or key of that name"));
        };
        if !same_but_signatures(known, signed) {
            return Err(KeyError::BadSignature("it is not what is known of it".to_owned()));
        }
        let mut with = known.clone();
        for (key_id, signature) in signatures_by(signed, user_id) {
            if signatures_by(known, user_id).any(|(id, old)| id == key_id && old == signature) {
                continue;
            }
            let own = self.device_key(key_id).map(ToOwned::to_owned);
            // A device is vouched for by the self-signing key, the master key by devices.
            let public = match of_device {
                true => signer(self, key_id, true)
                    .or_else(|| own.filter(|_| key_id.strip_prefix("ed25519:") == Some(name))),
                false => own.or_else(|| signer(self, key_id, false)),
            };
            if !public.is_some_and(|public| is_signed(signed, user_id, key_id, &public)) {
                return Err(KeyError::BadSignature(format!("the signature by {key_id} is wrong")));
            }
            add_signature(&mut with, user_id, key_id, signature.clone());
        }
        if with == *known {
            return Ok(false);
        }
        match self.devices.get_mut(name) {
            Some(device) => device.keys = with,
            None => self.master_key = Some(with),
        }
        self.changed(now);
        Ok(true)
    }

    /// Tells whether clients see the same in both.
    pub(super) fn shows_same(&self, other: &Self) -> bool {
        let devices = |list: &Self| -> Vec<(String, CanonicalJsonObject, Option<String>)> {
            let devices = list.devices.iter();
            devices.map(|(id, d)| (id.clone(), d.keys.clone(), d.name.clone())).collect()
        };
        self.master_key == other.master_key
            && self.self_signing_key == other.self_signing_key
            && devices(self) == devices(other)
    }
}

/// Puts a cross-signing key where one was; one that differs in signatures alone keeps those it had.
/// Tells whether it is the same key.
fn place(slot: &mut Option<CanonicalJsonObject>, mut key: CanonicalJsonObject) -> bool {
    let same = slot.as_ref().is_some_and(|old| same_but_signatures(old, &key));
    if let Some(old) = slot.as_ref().filter(|_| same) {
        let owner = old.get("user_id").and_then(CanonicalJsonValue::as_str);
        if let Some(owner) = owner.and_then(|owner| UserId::parse(owner).ok()) {
            let missing: Vec<_> = signatures_by(old, &owner)
                .filter(|(id, _)| !signatures_by(&key, &owner).any(|(known, _)| known == *id))
                .map(|(id, signature)| (id.clone(), signature.clone()))
                .collect();
            for (id, signature) in missing {
                add_signature(&mut key, &owner, &id, signature);
            }
        }
    }
    *slot = Some(key);
    same
}

/// What one of our users signed of others: the value of `Row::KeySignatures`, by user and by the public
/// key that is signed, then by the key that signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GivenSignatures(
    BTreeMap<String, BTreeMap<String, BTreeMap<String, CanonicalJsonValue>>>,
);

impl GivenSignatures {
    /// Takes what a user says of another one's master key. Tells whether anything changed.
    pub(super) fn sign(
        &mut self,
        by: &UserId,
        own: &KeyList,
        of: &UserId,
        known: Option<&CanonicalJsonObject>,
        signed: &CanonicalJsonObject,
    ) -> Result<bool, KeyError> {
        let known = known.ok_or(KeyError::NotFound("master key of that user"))?;
        if !same_but_signatures(known, signed) {
            return Err(KeyError::BadSignature(
                "it is not the master key that is known".to_owned(),
            ));
        }
        let user_signing = own.user_signing_key.as_ref().and_then(public_key_of);
        let Some((key_id, public)) = user_signing else {
            return Err(KeyError::BadSignature("there is no user-signing key".to_owned()));
        };
        let Some((_, of_key)) = public_key_of(known) else {
            return Err(KeyError::NotFound("master key of that user"));
        };
        if signatures_by(signed, by).any(|(id, _)| id != key_id)
            || !is_signed(signed, by, key_id, public)
        {
            return Err(KeyError::BadSignature(
                "it is not signed by the user-signing key".to_owned(),
            ));
        }
        if !self.0.contains_key(of.as_str()) && self.0.len() >= limits::KEY_SIGNATURES {
            return Err(KeyError::Full("users whose keys were signed"));
        }
        let Some((_, signature)) = signatures_by(signed, by).next() else { return Ok(false) };
        // Of a key that was replaced nobody asks again.
        let of_user = self.0.entry(of.to_string()).or_default();
        of_user.retain(|public, _| public == of_key);
        let before = of_user
            .entry(of_key.to_owned())
            .or_default()
            .insert(key_id.to_owned(), signature.clone());
        Ok(before.as_ref() != Some(signature))
    }

    /// Adds to a master key what a user said of it.
    pub(super) fn show(&self, by: &UserId, of: &UserId, master_key: &mut CanonicalJsonObject) {
        let Some(public) = public_key_of(master_key).map(|(_, public)| public.to_owned()) else {
            return;
        };
        let given = self.0.get(of.as_str()).and_then(|of_user| of_user.get(&public));
        for (key_id, signature) in given.into_iter().flatten() {
            add_signature(master_key, by, key_id, signature.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::proto::device_keys::tests::{cross, device, object, sign, signing_key};

    const NOW: u64 = 1_790_000_000_000;

    fn ann() -> &'static UserId {
        user_id!("@ann:x")
    }

    /// A list with a device and cross-signing keys: device 1, master 2, self-signing 3,
    /// user-signing 4.
    fn list() -> KeyList {
        let mut list = KeyList::default();
        list.upload(ann(), "D", device(ann(), "D", 1), None, NOW).unwrap();
        assert!(list.set_cross_signing(ann(), keys(2, 3, 4), false, NOW).unwrap());
        list
    }

    fn keys(master: u8, self_signing: u8, user_signing: u8) -> NewCrossSigning {
        NewCrossSigning {
            master_key: Some(cross(ann(), "master", master, None)),
            self_signing_key: Some(cross(ann(), "self_signing", self_signing, Some(master))),
            user_signing_key: Some(cross(ann(), "user_signing", user_signing, Some(master))),
        }
    }

    #[test]
    fn a_list_has_a_new_number_after_each_change_and_after_no_other_upload() {
        let mut list = KeyList::default();
        let mut upload = |id: &str, seed, name: Option<&str>, now| {
            let (changed, identity) = list
                .upload(ann(), id, device(ann(), id, seed), name.map(ToOwned::to_owned), now)
                .unwrap();
            (changed, identity, list.stream_id)
        };
        assert_eq!(upload("D", 1, None, NOW), (true, false, NOW));
        assert_eq!(upload("D", 1, None, NOW + 9), (false, false, NOW), "the same");
        assert_eq!(upload("D", 1, Some("x"), NOW), (true, false, NOW + 1), "a name");
        assert_eq!(upload("E", 2, None, 5), (true, false, NOW + 2), "the clock went back");
        assert_eq!(upload("D", 3, Some("x"), NOW + 9), (true, true, NOW + 9), "other keys");
        assert!(!list.forget(&["F".to_owned()], NOW + 20));
        assert!(list.rename("D", None, NOW + 20) && !list.rename("D", None, NOW + 20));
        assert!(list.forget(&["D".to_owned()], NOW + 30) && list.devices.len() == 1);
        assert_eq!(list.stream_id, NOW + 30);
    }

    #[test]
    fn attack_16_nobody_uploads_for_another() {
        let eve = user_id!("@eve:x");
        let mut list = list();
        let before = list.clone();
        for (id, keys) in
            [("D", device(eve, "D", 9)), ("E", device(ann(), "D", 9)), ("", device(ann(), "", 9))]
        {
            assert!(list.upload(ann(), id, keys, None, NOW).is_err(), "{id}");
        }
        let of_eve = NewCrossSigning {
            self_signing_key: Some(cross(eve, "self_signing", 5, Some(2))),
            ..NewCrossSigning::default()
        };
        assert!(list.set_cross_signing(ann(), of_eve, true, NOW).is_err());
        let mut signed = list.devices["D"].keys.clone();
        sign(&mut signed, eve, &signing_key(9, None));
        assert!(!list.sign_own(ann(), "D", &signed, NOW).unwrap(), "what eve says is not taken");
        assert_eq!(list, before);
        let many = (0..limits::DEVICES_USER + 9).filter(|n| {
            let id = format!("D{n}");
            list.upload(ann(), &id, device(ann(), &id, 7), None, NOW).is_ok()
        });
        assert_eq!(many.count(), limits::DEVICES_USER - 1);
    }

    #[test]
    fn the_first_cross_signing_keys_are_free_and_others_need_proof() {
        let mut list = list();
        let before = list.clone();
        assert!(!list.set_cross_signing(ann(), keys(2, 3, 4), false, NOW).unwrap(), "the same");
        assert!(!list.set_cross_signing(ann(), NewCrossSigning::default(), false, NOW).unwrap());
        for other in [keys(5, 3, 4), keys(2, 5, 4), keys(2, 3, 5)] {
            let refused = list.set_cross_signing(ann(), other.clone(), false, NOW);
            assert!(matches!(refused, Err(KeyError::NeedsAuth)), "{refused:?}");
            assert_eq!(list, before);
            assert!(list.clone().set_cross_signing(ann(), other, true, NOW).unwrap());
        }
        // A new master key alone has nothing that the old one vouched for.
        let alone = NewCrossSigning {
            master_key: Some(cross(ann(), "master", 6, None)),
            ..NewCrossSigning::default()
        };
        assert!(list.set_cross_signing(ann(), alone, true, NOW).unwrap());
        assert!(list.self_signing_key.is_none() && list.user_signing_key.is_none());
        let unsigned = NewCrossSigning {
            self_signing_key: Some(cross(ann(), "self_signing", 3, Some(2))),
            ..NewCrossSigning::default()
        };
        assert!(list.set_cross_signing(ann(), unsigned, true, NOW).is_err(), "by the old one");
    }

    #[test]
    fn signatures_are_added_where_they_are_right() {
        let mut list = list();
        // The self-signing key vouches for the device, the device for the master key.
        let mut signed = list.devices["D"].keys.clone();
        sign(&mut signed, ann(), &signing_key(3, None));
        assert!(list.sign_own(ann(), "D", &signed, NOW).unwrap());
        assert!(!list.sign_own(ann(), "D", &signed, NOW).unwrap(), "said twice");
        let master = signing_key(2, None).public;
        let mut of_master = list.master_key.clone().unwrap();
        sign(&mut of_master, ann(), &signing_key(1, Some("D")));
        assert!(list.sign_own(ann(), &master, &of_master, NOW).unwrap());
        assert_eq!(signatures_by(list.master_key.as_ref().unwrap(), ann()).count(), 1);
        // A device that uploads its keys again, or a master key that comes again, loses none of it.
        assert!(!list.upload(ann(), "D", device(ann(), "D", 1), None, NOW).unwrap().0);
        assert!(!list.set_cross_signing(ann(), keys(2, 3, 4), false, NOW).unwrap());

        let before = list.clone();
        let mut by_other = list.devices["D"].keys.clone();
        sign(&mut by_other, ann(), &signing_key(4, None));
        let mut forged = list.devices["D"].keys.clone();
        add_signature(&mut forged, ann(), "ed25519:E", CanonicalJsonValue::String("AAAA".into()));
        let mut other = signed.clone();
        other.insert("extra".into(), CanonicalJsonValue::Bool(true));
        for (what, name, signed) in [
            ("by the user-signing key", "D", by_other),
            ("by no device", "D", forged),
            ("another object", "D", other),
            ("of no device", "E", signed),
        ] {
            assert!(list.sign_own(ann(), name, &signed, NOW).is_err(), "{what}");
            assert_eq!(list, before, "{what}");
        }
    }

    #[test]
    fn what_one_signed_of_another_is_shown_to_nobody_else_and_ends_with_the_key() {
        let bob = user_id!("@bob:y");
        let own = list();
        let master = cross(bob, "master", 7, None);
        let mut given = GivenSignatures::default();
        let mut signed = master.clone();
        sign(&mut signed, ann(), &signing_key(4, None));
        assert!(given.sign(ann(), &own, bob, Some(&master), &signed).unwrap());
        assert!(!given.sign(ann(), &own, bob, Some(&master), &signed).unwrap());
        let mut shown = master.clone();
        given.show(ann(), bob, &mut shown);
        assert_eq!(shown, signed);
        let mut other = cross(bob, "master", 8, None);
        let before = other.clone();
        given.show(ann(), bob, &mut other);
        assert_eq!(other, before, "another key of his");

        let mut by_device = master.clone();
        sign(&mut by_device, ann(), &signing_key(1, Some("D")));
        let mut changed = signed.clone();
        changed.insert("x".into(), object(json!({})).into());
        for (known, signed) in [
            (Some(&master), &by_device),
            (Some(&master), &changed),
            (Some(&master), &master),
            (Some(&before), &signed),
            (None, &signed),
        ] {
            assert!(given.sign(ann(), &own, bob, known, signed).is_err());
        }
        assert!(given.sign(ann(), &KeyList::default(), bob, Some(&master), &signed).is_err());
    }
}
