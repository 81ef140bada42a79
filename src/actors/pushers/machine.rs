//! What is pushed, in which words, and when it is tried again. Pure.

use ruma::{OwnedUserId, api::client::push::Pusher};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    actors::store::{Notifications, Notified},
    config::limits,
};

/// Pause after a first failure; it doubles with each.
const PAUSE_MS: u64 = 5_000;
/// Longest pause.
const PAUSE_MAX_MS: u64 = 60 * 60 * 1000;
/// The path that a push gateway has (Push Gateway API).
const PATH: &str = "/_matrix/push/v1/notify";
/// Longest URL of a gateway, in bytes.
const URL_LEN: usize = 2048;
/// Longest push key and app id, in bytes, as the specification has them.
const PUSHKEY_LEN: usize = 512;
const APP_ID_LEN: usize = 64;
/// Largest pusher, in bytes of JSON.
const PUSHER_LEN: usize = 16 * 1024;

/// A pusher as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What the client said.
    pub(super) pusher: Pusher,
    /// Whose it is.
    pub(super) user_id: OwnedUserId,
    /// The device that set it: it ends with the device.
    pub(super) device_id: String,
    /// When it was set, in seconds since 1970.
    pub(super) set_ts: u64,
    /// The number of the last notification that was pushed, or read before it was.
    pub(super) pushed: u64,
    /// The count of unread notifications that the device was told last.
    pub(super) badge: u64,
}

impl Kept {
    /// Returns the data of the pusher, the URL and the format included.
    fn data(&self) -> Map<String, Value> {
        let pusher = serde_json::to_value(&self.pusher).unwrap_or_default();
        match pusher.get("data") {
            Some(Value::Object(data)) => data.clone(),
            _ => Map::new(),
        }
    }

    /// Returns where the gateway is.
    pub(super) fn url(&self) -> Option<url::Url> {
        self.data().get("url")?.as_str()?.parse().ok()
    }
}

/// Checks a pusher; says what is wrong with it.
pub(super) fn check(kept: &Kept) -> Result<url::Url, String> {
    let shown = serde_json::to_value(&kept.pusher).map_err(|error| error.to_string())?;
    if shown.get("kind") != Some(&json!("http")) {
        return Err("kind is http: nothing else is pushed by this server".to_owned());
    }
    if shown.to_string().len() > PUSHER_LEN {
        return Err(format!("a pusher has {PUSHER_LEN} bytes at most"));
    }
    let ids = &kept.pusher.ids;
    for (name, text, most) in
        [("pushkey", &ids.pushkey, PUSHKEY_LEN), ("app_id", &ids.app_id, APP_ID_LEN)]
    {
        if text.is_empty() || text.len() > most {
            return Err(format!("{name} has between 1 and {most} bytes"));
        }
    }
    let url = kept.url().ok_or("data.url is no URL")?;
    if url.path() != PATH || url.as_str().len() > URL_LEN {
        return Err(format!("data.url is that of a push gateway: it ends with {PATH}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("data.url names no user".to_owned());
    }
    Ok(url)
}

/// What is to be pushed.
#[derive(Debug)]
pub(super) enum Push<'a> {
    /// Nothing; what was read by itself needs no push.
    Nothing,
    /// An event.
    Event(&'a Notified),
    /// A number of unread notifications that got less.
    Badge,
}

/// Decides what is pushed next. Of what waits while the gateway cannot be reached, the newest.
pub(super) fn next<'a>(kept: &Kept, failures: u32, news: &'a Notifications) -> Push<'a> {
    let waiting = news.notified.iter().filter(|one| one.number > kept.pushed && !one.is_read);
    let event = if failures > 0 {
        waiting.max_by_key(|one| one.number)
    } else {
        waiting.min_by_key(|one| one.number)
    };
    match event {
        Some(event) => Push::Event(event),
        None if news.unread.notifications < kept.badge => Push::Badge,
        None => Push::Nothing,
    }
}

fn is_loud(event: &Notified) -> bool {
    let actions: Vec<Value> = serde_json::from_str(&event.actions).unwrap_or_default();
    let tweaks = || actions.iter().filter_map(|action| action.get("set_tweak"));
    // What is encrypted may be a mention: nobody here can tell.
    event.highlight || tweaks().any(|tweak| tweak == "sound") || kind_of(event) == ENCRYPTED
}

const ENCRYPTED: &str = "m.room.encrypted";

fn kind_of(event: &Notified) -> String {
    field(event, "type").and_then(|kind| kind.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

fn field(event: &Notified, name: &str) -> Option<Value> {
    serde_json::from_str::<Map<String, Value>>(&event.event.json).ok()?.remove(name)
}

fn tweaks(event: &Notified) -> Map<String, Value> {
    let actions: Vec<Value> = serde_json::from_str(&event.actions).unwrap_or_default();
    let named = actions.iter().filter_map(|action| {
        let name = action.get("set_tweak")?.as_str()?.to_owned();
        Some((name, action.get("value").cloned().unwrap_or(Value::Bool(true))))
    });
    named.collect()
}

/// Writes what a gateway is told.
pub(super) fn body(kept: &Kept, event: Option<&Notified>, unread: u64) -> Vec<u8> {
    let mut data = kept.data();
    data.remove("url");
    let by_id = data.get("format").and_then(Value::as_str) == Some("event_id_only");
    let mut device = json!({
        "app_id": kept.pusher.ids.app_id,
        "pushkey": kept.pusher.ids.pushkey,
        "pushkey_ts": kept.set_ts,
        "data": data,
    });
    let mut told = json!({"counts": {"unread": unread}});
    if let (Some(event), Some(told)) = (event, told.as_object_mut()) {
        told.insert("event_id".to_owned(), json!(event.event.event_id));
        told.insert("room_id".to_owned(), json!(event.room_id));
        told.insert("prio".to_owned(), json!(if is_loud(event) { "high" } else { "low" }));
        if !by_id {
            told.insert("type".to_owned(), json!(kind_of(event)));
            let member = field(event, "state_key");
            let is_target = member.is_some_and(|key| key == kept.user_id.as_str());
            told.insert("user_is_target".to_owned(), Value::Bool(is_target));
            for name in ["sender", "content"] {
                told.extend(field(event, name).map(|value| (name.to_owned(), value)));
            }
            let names =
                [("sender_display_name", &event.sender_name), ("room_name", &event.room_name)];
            for (name, value) in names {
                told.extend(value.clone().map(|value| (name.to_owned(), Value::String(value))));
            }
            if let Some(device) = device.as_object_mut() {
                device.insert("tweaks".to_owned(), Value::Object(tweaks(event)));
            }
        }
    }
    if let Some(told) = told.as_object_mut() {
        told.insert("devices".to_owned(), json!([device]));
    }
    let mut whole = json!({ "notification": told });
    // A gateway takes so much: what is larger is told by its id.
    if whole.to_string().len() > limits::PUSH_LEN
        && let Some(told) = whole.get_mut("notification").and_then(Value::as_object_mut)
    {
        told.remove("content");
    }
    whole.to_string().into_bytes()
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken.
    Delivered,
    /// Nobody has this key any more.
    Rejected,
    /// It has to be tried again.
    Failed,
}

/// Reads the answer of a gateway.
pub(super) fn outcome(status: u16, answer: &[u8], pushkey: &str) -> Outcome {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        rejected: Vec<String>,
    }
    if !(200..300).contains(&status) {
        return Outcome::Failed;
    }
    match serde_json::from_slice::<Answer>(answer) {
        Ok(answer) if answer.rejected.iter().any(|key| key == pushkey) => Outcome::Rejected,
        // A gateway that says nothing has taken it.
        Ok(_) | Err(_) => Outcome::Delivered,
    }
}

/// Returns how long to wait after so many failures. `chance` from 0 to 1 keeps those apart who failed
/// together.
pub(super) fn pause_ms(failures: u32, chance: f64) -> u64 {
    let pause = PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(PAUSE_MAX_MS);
    let part = std::time::Duration::from_millis(pause).mul_f64(0.75 + chance.clamp(0.0, 1.0) / 4.0);
    u64::try_from(part.as_millis()).unwrap_or(PAUSE_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::{Place, StoredEvent, Unread};

    fn kept(data: &Value) -> Kept {
        let pusher = json!({
            "app_id": "app", "pushkey": "key", "kind": "http", "lang": "en",
            "app_display_name": "App", "device_display_name": "Phone", "data": data,
        });
        Kept {
            pusher: serde_json::from_value(pusher).unwrap(),
            user_id: "@me:x".try_into().unwrap(),
            device_id: "D".to_owned(),
            set_ts: 7,
            pushed: 2,
            badge: 1,
        }
    }

    fn gateway() -> Value {
        json!({"url": "https://push.example.org/_matrix/push/v1/notify", "brand": "b"})
    }

    fn notified(number: u64, kind: &str, actions: &Value) -> Notified {
        let json = json!({
            "type": kind, "sender": "@a:x", "content": {"body": "hello"}, "auth_events": [],
        });
        Notified {
            number,
            room_id: "!r:x".try_into().unwrap(),
            event: StoredEvent {
                event_id: "$e".try_into().unwrap(),
                json: json.to_string().into(),
                place: Place::Live,
                state_group: None,
                order: None,
                spoilt: false,
                txn: None,
                redacted_because: None,
            },
            ts: 1,
            is_read: false,
            highlight: false,
            actions: actions.to_string(),
            sender_name: Some("Ann".to_owned()),
            room_name: None,
        }
    }

    fn news(numbers: &[u64], unread: u64) -> Notifications {
        let one = |number: &u64| notified(*number, "m.room.message", &json!(["notify"]));
        Notifications {
            notified: numbers.iter().map(one).collect(),
            unread: Unread { notifications: unread, highlights: 0 },
            ..Notifications::default()
        }
    }

    #[test]
    fn the_oldest_comes_first_and_after_a_failure_the_newest_alone() {
        let kept = kept(&gateway());
        let number = |failures, news: &Notifications| match next(&kept, failures, news) {
            Push::Event(event) => Some(event.number),
            Push::Badge => Some(0),
            Push::Nothing => None,
        };
        assert_eq!(number(0, &news(&[5, 4, 3], 3)), Some(3));
        assert_eq!(number(2, &news(&[5, 4, 3], 3)), Some(5));
        assert_eq!(number(0, &news(&[2, 1], 2)), None, "both were pushed");
        assert_eq!(number(0, &news(&[], 1)), None);
        assert_eq!(number(0, &news(&[], 0)), Some(0), "it was read elsewhere");
        let mut read = news(&[3], 1);
        read.notified[0].is_read = true;
        assert_eq!(number(0, &read), None);
    }

    #[test]
    fn a_gateway_is_told_what_the_pusher_asks_for() {
        let told = |data: &Value, event: Option<&Notified>| {
            let body = body(&kept(data), event, 4);
            let body: Value = serde_json::from_slice(&body).unwrap();
            body["notification"].clone()
        };
        let loud = json!(["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}]);
        let event = notified(3, "m.room.message", &loud);
        let whole = told(&gateway(), Some(&event));
        assert_eq!(
            whole,
            json!({
                "event_id": "$e", "room_id": "!r:x", "type": "m.room.message", "sender": "@a:x",
                "sender_display_name": "Ann", "user_is_target": false, "prio": "high",
                "content": {"body": "hello"}, "counts": {"unread": 4},
                "devices": [{
                    "app_id": "app", "pushkey": "key", "pushkey_ts": 7, "data": {"brand": "b"},
                    "tweaks": {"sound": "default", "highlight": true},
                }],
            })
        );
        let mut by_id = gateway();
        by_id["format"] = json!("event_id_only");
        let quiet = notified(3, "m.room.message", &json!(["notify"]));
        assert_eq!(
            told(&by_id, Some(&quiet)),
            json!({
                "event_id": "$e", "room_id": "!r:x", "prio": "low", "counts": {"unread": 4},
                "devices": [{
                    "app_id": "app", "pushkey": "key", "pushkey_ts": 7,
                    "data": {"brand": "b", "format": "event_id_only"},
                }],
            })
        );
        let secret = notified(3, "m.room.encrypted", &json!(["notify"]));
        assert_eq!(told(&by_id, Some(&secret))["prio"], "high");
        let badge = told(&gateway(), None);
        assert_eq!(badge.as_object().unwrap().keys().collect::<Vec<_>>(), ["counts", "devices"]);
        let mut long = event;
        long.event.json = json!({"type": "m.x", "content": {"body": "x".repeat(limits::PUSH_LEN)}})
            .to_string()
            .into();
        assert!(told(&gateway(), Some(&long)).get("content").is_none());
    }

    #[test]
    fn only_what_can_be_a_pusher_is_one() {
        assert!(check(&kept(&gateway())).is_ok());
        for bad in [
            json!({"url": "https://push.example.org/elsewhere"}),
            json!({"url": "push.example.org"}),
            json!({"url": "https://me:secret@push.example.org/_matrix/push/v1/notify"}),
            json!({"url": "https://push.example.org/_matrix/push/v1/notify", "x": "y".repeat(PUSHER_LEN)}),
        ] {
            assert!(check(&kept(&bad)).is_err(), "{bad:.99}");
        }
        let mut long = kept(&gateway());
        long.pusher.ids.pushkey = "x".repeat(PUSHKEY_LEN + 1);
        assert!(check(&long).is_err());
        let mut none = kept(&gateway());
        none.pusher.ids.app_id.clear();
        assert!(check(&none).is_err());
    }

    #[test]
    fn answers_of_gateways() {
        for (status, answer, expected) in [
            (200, r#"{"rejected":[]}"#, Outcome::Delivered),
            (200, r#"{"rejected":["other"]}"#, Outcome::Delivered),
            (200, r#"{"rejected":["other","key"]}"#, Outcome::Rejected),
            (200, "", Outcome::Delivered),
            (204, "{}", Outcome::Delivered),
            (302, "{}", Outcome::Failed),
            (404, r#"{"rejected":["key"]}"#, Outcome::Failed),
            (502, "", Outcome::Failed),
        ] {
            assert_eq!(outcome(status, answer.as_bytes(), "key"), expected, "{status} {answer}");
        }
    }

    #[test]
    fn pauses_grow_up_to_an_hour() {
        let pauses: Vec<u64> = [1, 2, 3, 10, 11, 99].map(|n| pause_ms(n, 1.0)).into();
        assert_eq!(pauses, [5_000, 10_000, 20_000, 2_560_000, 3_600_000, 3_600_000]);
        assert_eq!(pause_ms(1, 0.0), 3_750);
    }
}
