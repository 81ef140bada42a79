//! To-device messages: who gets what, as rows of the devices' queues.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    messages::{AccountError, ToDeviceTarget, ToDevices},
    sessions::{Rows, Sessions, to_json},
};
use crate::{actors::store::Row, config::limits};

#[derive(Serialize)]
struct Event<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// Reads the device key of a message: `*` is all devices.
pub(super) fn target(device: String) -> ToDeviceTarget {
    if device == "*" { ToDeviceTarget::All } else { ToDeviceTarget::One(device) }
}

/// Returns the rows that queue messages for devices of our users. Whoever has no device, and a device
/// that does not exist, gets nothing. One that is too large makes all of them refused: whoever sends it
/// must learn of it.
pub(super) fn queue(
    sessions: &Sessions,
    sender: &UserId,
    kind: &str,
    messages: &BTreeMap<OwnedUserId, ToDevices>,
) -> Result<Rows, AccountError> {
    let mut rows = Rows::new();
    for (user_id, messages) in messages {
        let to_all = messages.get(&ToDeviceTarget::All);
        for device in sessions.devices_of(user_id) {
            let to_one = messages.get(&ToDeviceTarget::One(device.device_id.clone()));
            for content in to_one.into_iter().chain(to_all) {
                let event = to_json(&Event { content, sender, kind });
                if event.len() > limits::TO_DEVICE_LEN {
                    return Err(AccountError::TooLarge(event.len()));
                }
                let row = Row::ToDevice(user_id.clone(), device.device_id.clone());
                rows.push((row, Some(event)));
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::actors::accounts::{Session, TokenHash, tokens::Pair};

    fn sessions(devices: &[(&UserId, &str)]) -> Sessions {
        let mut sessions = Sessions::default();
        for (user_id, device_id) in devices {
            let (user_id, device_id) = ((*user_id).to_owned(), (*device_id).to_owned());
            let session = Session { user_id, device_id };
            let access = TokenHash::of(&format!("{session:?}"));
            let pair = Pair { access, refresh: None };
            let (_, begun) = sessions.begin(pair, &session, None, 5).unwrap();
            sessions.open(session, begun);
        }
        sessions
    }

    #[test]
    fn one_device_or_all_of_them() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let messages = BTreeMap::from([
            (target("*".into()), raw(r#"{"to":"all"}"#)),
            (target("B".into()), raw(r#"{"to":"B"}"#)),
            (target("nobody".into()), raw("{}")),
        ]);
        let (ann, bob) = (user_id!("@ann:x"), user_id!("@bob:x"));
        let sessions = sessions(&[(ann, "A"), (ann, "B"), (bob, "A")]);
        let to_ann = BTreeMap::from([(ann.to_owned(), messages)]);
        let sender = user_id!("@a:x");
        let rows = queue(&sessions, sender, "m.dummy", &to_ann).unwrap();
        let shown: Vec<_> = rows
            .iter()
            .map(|(row, value)| (row.clone(), String::from_utf8(value.clone().unwrap()).unwrap()))
            .collect();
        let event =
            |to| format!(r#"{{"content":{{"to":"{to}"}},"sender":"@a:x","type":"m.dummy"}}"#);
        assert_eq!(
            shown,
            [
                (Row::ToDevice(ann.into(), "A".into()), event("all")),
                (Row::ToDevice(ann.into(), "B".into()), event("B")),
                (Row::ToDevice(ann.into(), "B".into()), event("all")),
            ]
        );
        let large = raw(&format!(r#"{{"x":"{}"}}"#, "x".repeat(limits::TO_DEVICE_LEN)));
        let to = |user: &UserId, device: &str| {
            let content = BTreeMap::from([(target(device.into()), large.clone())]);
            BTreeMap::from([(user.to_owned(), content)])
        };
        let sent = queue(&sessions, sender, "m.dummy", &to(bob, "A"));
        assert!(matches!(sent, Err(AccountError::TooLarge(_))), "{sent:?}");
        for (user, device) in [(bob, "B"), (user_id!("@nobody:x"), "A")] {
            assert_eq!(queue(&sessions, sender, "m.dummy", &to(user, device)).unwrap(), []);
        }
    }
}
