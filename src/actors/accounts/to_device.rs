//! To-device messages: who gets what, as rows of the devices' queues.

use std::collections::BTreeMap;

use ruma::UserId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    messages::{AccountError, ToDeviceTarget},
    sessions::{Rows, to_json},
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

/// Returns the rows that queue messages. A device that does not exist gets nothing. One that is too
/// large makes all of them refused: whoever sends it must learn of it.
pub(super) fn queue<'a>(
    devices: impl Iterator<Item = &'a str>,
    sender: &UserId,
    kind: &str,
    messages: &BTreeMap<ToDeviceTarget, Box<RawValue>>,
) -> Result<Rows, AccountError> {
    let to_all = messages.get(&ToDeviceTarget::All);
    let mut rows = Rows::new();
    for device in devices {
        let to_one = messages.get(&ToDeviceTarget::One(device.to_owned()));
        for content in to_one.into_iter().chain(to_all) {
            let event = Event { content, sender, kind };
            let event = to_json(&event);
            if event.len() > limits::TO_DEVICE_LEN {
                return Err(AccountError::TooLarge(event.len()));
            }
            rows.push((Row::ToDevice(device.to_owned()), Some(event)));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn one_device_or_all_of_them() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let messages = BTreeMap::from([
            (target("*".into()), raw(r#"{"to":"all"}"#)),
            (target("B".into()), raw(r#"{"to":"B"}"#)),
            (target("nobody".into()), raw("{}")),
        ]);
        let rows = queue(["A", "B"].into_iter(), user_id!("@a:x"), "m.dummy", &messages).unwrap();
        let shown: Vec<_> = rows
            .iter()
            .map(|(row, value)| (row.clone(), String::from_utf8(value.clone().unwrap()).unwrap()))
            .collect();
        let event =
            |to| format!(r#"{{"content":{{"to":"{to}"}},"sender":"@a:x","type":"m.dummy"}}"#);
        assert_eq!(
            shown,
            [
                (Row::ToDevice("A".into()), event("all")),
                (Row::ToDevice("B".into()), event("B")),
                (Row::ToDevice("B".into()), event("all")),
            ]
        );
        let large = raw(&format!(r#"{{"x":"{}"}}"#, "x".repeat(limits::TO_DEVICE_LEN)));
        let messages = BTreeMap::from([(target("A".into()), large)]);
        let sent = queue(["A"].into_iter(), user_id!("@a:x"), "m.dummy", &messages);
        assert!(matches!(sent, Err(AccountError::TooLarge(_))), "{sent:?}");
        let elsewhere = queue(["B"].into_iter(), user_id!("@a:x"), "m.dummy", &messages);
        assert_eq!(elsewhere.unwrap(), []);
    }
}
