//! What other servers say of keys, checked; and what they are told of ours. Pure.
//!
//! Invariant: an answer is about who was asked for, and what in it is not signed as it has to be is
//! left out.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId,
    canonical_json::to_canonical_value,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    keyring::KeysById,
    list::{KeyList, ListedDevice},
    messages::{Claims, OneTimeKeys},
};
use crate::{
    config::limits,
    proto::{
        device_keys::{
            Usage, algorithm_of, check_cross_signing, check_device, check_one_time, is_of_device,
        },
        names,
    },
};

/// The name under which fallback keys go along with the devices of a user.
const FALLBACK_KEYS: &str = "messagehub.fallback_keys";

#[derive(Deserialize)]
struct DevicesAnswer {
    user_id: OwnedUserId,
    stream_id: u64,
    devices: Vec<CanonicalJsonValue>,
    master_key: Option<CanonicalJsonObject>,
    self_signing_key: Option<CanonicalJsonObject>,
}

#[derive(Deserialize)]
struct DeviceAnswer {
    device_id: String,
    keys: CanonicalJsonObject,
    device_display_name: Option<String>,
    #[serde(default, rename = "messagehub.fallback_keys")]
    fallback_keys: KeysById,
}

fn read<T: serde::de::DeserializeOwned>(value: CanonicalJsonValue) -> Result<T, String> {
    let text = serde_json::to_string(&value).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Makes the list of a user out of what the user's server answered.
pub(super) fn list_of(user_id: &UserId, answer: CanonicalJsonValue) -> Result<KeyList, String> {
    let len = serde_json::to_string(&answer).map_or(usize::MAX, |text| text.len());
    if len > limits::KEY_LIST_LEN {
        return Err(format!("the devices of {user_id} take {len} bytes"));
    }
    let answer: DevicesAnswer = read(answer)?;
    if answer.user_id != user_id {
        return Err(format!("it is about {}, not {user_id}", answer.user_id));
    }
    let mut list = KeyList { stream_id: answer.stream_id, ..KeyList::default() };
    for device in answer.devices.into_iter().take(limits::DEVICES_USER) {
        let Ok(DeviceAnswer { device_id, keys, device_display_name, fallback_keys }) = read(device)
        else {
            continue;
        };
        let Ok(keys) = check_device(keys, user_id, &device_id) else { continue };
        let fallback = fallback_keys.into_iter().filter(|(id, key)| {
            check_one_time(id, key).is_ok() && is_of_device(key, user_id, &device_id, &keys)
        });
        let fallback = fallback.take(limits::KEY_ALGORITHMS).collect();
        let name = device_display_name.map(|name| names::shown_name(&name).into_owned());
        list.devices.insert(device_id, ListedDevice { keys, name, fallback });
    }
    let master = answer.master_key;
    let master = master.and_then(|key| check_cross_signing(key, user_id, Usage::Master, None).ok());
    list.self_signing_key = answer.self_signing_key.and_then(|key| {
        check_cross_signing(key, user_id, Usage::SelfSigning, master.as_ref()).ok()
    });
    list.master_key = master;
    Ok(list)
}

/// Takes the one-time keys that another server answered with: those that were asked for, and signed by
/// their device, where the keys of the device are known.
pub(super) fn claimed(
    asked: &Claims,
    lists: &BTreeMap<OwnedUserId, KeyList>,
    answer: CanonicalJsonValue,
) -> Result<OneTimeKeys, String> {
    #[derive(Deserialize)]
    struct Answer {
        one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, KeysById>>,
    }
    let Answer { mut one_time_keys } = read(answer)?;
    let mut taken = OneTimeKeys::new();
    for (user_id, devices) in asked {
        let mut given = one_time_keys.remove(user_id).unwrap_or_default();
        for (device_id, algorithm) in devices {
            let known = lists.get(user_id).and_then(|list| list.devices.get(device_id));
            let mut keys = given.remove(device_id).unwrap_or_default().into_iter();
            let key = keys.find(|(id, key)| {
                algorithm_of(id) == Some(algorithm.as_str())
                    && check_one_time(id, key).is_ok()
                    && known.is_none_or(|known| is_of_device(key, user_id, device_id, &known.keys))
            });
            if let Some((id, key)) = key {
                let of_user = taken.entry(user_id.clone()).or_default();
                of_user.entry(device_id.clone()).or_default().insert(id, key);
            }
        }
    }
    Ok(taken)
}

/// Takes the fallback keys that are kept of devices whose server is off.
pub(super) fn kept_fallbacks(
    asked: &Claims,
    lists: &BTreeMap<OwnedUserId, KeyList>,
) -> OneTimeKeys {
    let mut taken = OneTimeKeys::new();
    for (user_id, devices) in asked {
        for (device_id, algorithm) in devices {
            let known = lists.get(user_id).and_then(|list| list.devices.get(device_id));
            let mut keys = known.into_iter().flat_map(|device| &device.fallback);
            if let Some((id, key)) = keys.find(|(id, _)| algorithm_of(id) == Some(algorithm)) {
                let of_user = taken.entry(user_id.clone()).or_default();
                let of_device = of_user.entry(device_id.clone()).or_default();
                of_device.insert(id.clone(), key.clone());
            }
        }
    }
    taken
}

/// Answers `user/devices/{userId}`, with the fallback keys of each device.
pub(super) fn devices_answer(
    user_id: &UserId,
    list: &KeyList,
    fallbacks: &BTreeMap<String, KeysById>,
) -> Result<CanonicalJsonValue, String> {
    let devices = list.devices.iter().map(|(device_id, device)| {
        let mut shown = json!({"device_id": device_id, "keys": device.keys});
        if let Some(shown) = shown.as_object_mut() {
            if let Some(name) = &device.name {
                shown.insert("device_display_name".to_owned(), json!(name));
            }
            if let Some(keys) = fallbacks.get(device_id).filter(|keys| !keys.is_empty()) {
                shown.insert(FALLBACK_KEYS.to_owned(), json!(keys));
            }
        }
        shown
    });
    let devices: Vec<_> = devices.collect();
    let mut answer = json!({"user_id": user_id, "stream_id": list.stream_id, "devices": devices});
    for (name, key) in
        [("master_key", &list.master_key), ("self_signing_key", &list.self_signing_key)]
    {
        if let (Some(answer), Some(key)) = (answer.as_object_mut(), key) {
            answer.insert(name.to_owned(), json!(key));
        }
    }
    to_canonical_value(answer).map_err(|error| error.to_string())
}

/// What changed of a user's list, as other servers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// A device: its keys are in the list, or it is gone.
    Device(String),
    /// The cross-signing keys.
    CrossSigning,
}

/// Makes the EDU by which other servers learn that a list changed.
pub(super) fn edu(
    user_id: &UserId,
    list: &KeyList,
    told: &Told,
) -> Result<CanonicalJsonValue, String> {
    let edu = match told {
        Told::Device(device_id) => {
            let device = list.devices.get(device_id);
            let mut content = json!({
                "user_id": user_id, "device_id": device_id, "stream_id": list.stream_id,
                "prev_id": [], "deleted": device.is_none(),
            });
            if let (Some(content), Some(device)) = (content.as_object_mut(), device) {
                content.insert("keys".to_owned(), json!(device.keys));
                if let Some(name) = &device.name {
                    content.insert("device_display_name".to_owned(), json!(name));
                }
            }
            json!({"edu_type": "m.device_list_update", "content": content})
        }
        Told::CrossSigning => {
            let mut content = json!({"user_id": user_id});
            for (name, key) in
                [("master_key", &list.master_key), ("self_signing_key", &list.self_signing_key)]
            {
                if let (Some(content), Some(key)) = (content.as_object_mut(), key) {
                    content.insert(name.to_owned(), json!(key));
                }
            }
            json!({"edu_type": "m.signing_key_update", "content": content})
        }
    };
    to_canonical_value(edu).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::proto::device_keys::tests::{cross, device, one_time};

    fn bob() -> &'static UserId {
        user_id!("@bob:y")
    }

    /// A user's list and fallback keys, and the answer about them.
    fn answered() -> (KeyList, serde_json::Value) {
        let mut list = KeyList { stream_id: 7, ..KeyList::default() };
        let fallback = BTreeMap::from([(
            "signed_curve25519:AAAA".to_owned(),
            one_time(bob(), "D", 1, "fallback"),
        )]);
        let named = ListedDevice {
            keys: device(bob(), "D", 1),
            name: Some("phone".into()),
            fallback: fallback.clone(),
        };
        list.devices.insert("D".into(), named);
        list.master_key = Some(cross(bob(), "master", 2, None));
        list.self_signing_key = Some(cross(bob(), "self_signing", 3, Some(2)));
        let fallbacks = BTreeMap::from([("D".to_owned(), fallback)]);
        let answer = devices_answer(bob(), &list, &fallbacks).unwrap();
        (list, answer.into())
    }

    #[test]
    fn what_one_server_answers_the_other_understands() {
        let (list, answer) = answered();
        assert_eq!(list_of(bob(), answer.try_into().unwrap()).unwrap(), list);
        for told in [Told::Device("D".into()), Told::Device("gone".into()), Told::CrossSigning] {
            let edu = edu(bob(), &list, &told).unwrap();
            let text = serde_json::to_string(&edu).unwrap();
            let raw = serde_json::value::RawValue::from_string(text).unwrap();
            let read = crate::proto::edu::Edu::read(&raw).unwrap();
            assert!(
                matches!(&read, crate::proto::edu::Edu::DeviceList { user_id, stream_id }
                    if user_id == bob()
                        && *stream_id == (told != Told::CrossSigning).then_some(7)),
                "{read:?}"
            );
        }
    }

    #[test]
    fn attack_16_what_another_server_forges_is_left_out() {
        let (list, answer) = answered();
        let with = |pointer: &str, value: serde_json::Value| {
            let mut answer = answer.clone();
            *answer.pointer_mut(pointer).unwrap() = value;
            list_of(bob(), answer.try_into().unwrap())
        };
        let eve = user_id!("@eve:y");
        assert!(with("/user_id", json!(eve)).is_err());
        assert!(with("/devices", json!("x")).is_err());
        assert!(with("/stream_id", json!(-1)).is_err());
        assert!(with("/devices/0/keys", json!(device(eve, "D", 1))).unwrap().devices.is_empty());
        assert!(with("/devices/0/device_id", json!("E")).unwrap().devices.is_empty());
        assert!(with("/devices/0", json!(5)).unwrap().devices.is_empty());
        let forged = with("/self_signing_key", json!(cross(bob(), "self_signing", 3, Some(9))));
        assert!(forged.unwrap().self_signing_key.is_none());
        let alone = with("/master_key", json!(cross(bob(), "master", 9, None))).unwrap();
        assert!(alone.self_signing_key.is_none(), "of another master key");
        let pointer = "/devices/0/messagehub.fallback_keys";
        let key = one_time(bob(), "D", 9, "forged");
        let forged = with(pointer, json!({"signed_curve25519:AAAA": key})).unwrap();
        assert!(forged.devices["D"].fallback.is_empty());
        let many: Vec<_> = (0..limits::DEVICES_USER + 5)
            .map(|n| {
                let id = format!("D{n}");
                json!({"device_id": id, "keys": device(bob(), &id, 1)})
            })
            .collect();
        assert_eq!(with("/devices", json!(many)).unwrap().devices.len(), limits::DEVICES_USER);
        let long = json!([{"device_id": "x", "keys": {"x": "x".repeat(limits::KEY_LIST_LEN)}}]);
        assert!(with("/devices", long).is_err());

        // One-time keys: of who was asked for, of that device, of that algorithm.
        let lists = BTreeMap::from([(bob().to_owned(), list)]);
        let asked: Claims = BTreeMap::from([(
            bob().to_owned(),
            BTreeMap::from([("D".to_owned(), "signed_curve25519".to_owned())]),
        )]);
        let take = |user: &UserId, device: &str, id: &str, key: CanonicalJsonValue| {
            let answer = json!({"one_time_keys": {user: {device: {id: key}}}});
            claimed(&asked, &lists, answer.try_into().unwrap()).unwrap().len()
        };
        let good = || one_time(bob(), "D", 1, "key");
        assert_eq!(take(bob(), "D", "signed_curve25519:A", good()), 1);
        assert_eq!(take(eve, "D", "signed_curve25519:A", good()), 0);
        assert_eq!(take(bob(), "E", "signed_curve25519:A", good()), 0);
        assert_eq!(take(bob(), "D", "curve25519:A", good()), 0);
        let forged = one_time(bob(), "D", 9, "key");
        assert_eq!(take(bob(), "D", "signed_curve25519:A", forged), 0);
        assert_eq!(kept_fallbacks(&asked, &lists)[bob()]["D"].len(), 1);
    }
}
