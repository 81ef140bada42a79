//! What is answered to requests for ids and for events (`docs/PROTOCOL.md` §5).

use std::collections::{BTreeMap, HashMap};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    config::limits,
    proto::{heads::MissingIds, pdu::with_server_keys},
};

/// Longest server_keys that are looked at: they are put on each event again.
const KEYS_LEN: usize = 8 * 1024;
/// Server_keys of one server in an answer.
const KEYS_SERVER: usize = 16;

/// The answer to a request for ids.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct IdsAnswer {
    /// What the origin lacks of each.
    pub rooms: BTreeMap<OwnedRoomId, MissingIds>,
}

/// The answer to a request for events.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Events without server_keys.
    pub rooms: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
    /// What certifies their senders' keys, once each.
    #[serde(default)]
    pub server_keys: BTreeMap<OwnedServerName, Vec<Box<RawValue>>>,
}

/// The part of an event by which its server_keys are found.
#[derive(Deserialize)]
struct Signed {
    sender: OwnedUserId,
    #[serde(default)]
    signatures: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
}

/// The part of server_keys that names keys.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    verify_keys: BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, IgnoredAny>,
}

impl EventsAnswer {
    /// Tells whether there may have been no place for more.
    pub fn is_full(&self) -> bool {
        let events = || self.rooms.values().flatten();
        let len: usize = events().map(|event| event.get().len()).sum();
        // What was left out, since nobody could verify it, took its place too.
        len >= limits::MISSING_LEN / 2 || events().count() >= limits::MISSING_EVENTS / 2
    }

    /// Returns the events with server_keys on each, as they are checked everywhere; the first ones
    /// where somebody gave too many.
    pub fn with_keys(self) -> Vec<(OwnedRoomId, Box<RawValue>)> {
        let Self { rooms, server_keys } = self;
        let keys: HashMap<OwnedServerName, Vec<(Named, Box<RawValue>)>> = server_keys
            .into_iter()
            .map(|(server, keys)| {
                let keys = keys.into_iter().filter(|keys| keys.get().len() <= KEYS_LEN);
                let named =
                    |keys: Box<RawValue>| Some((serde_json::from_str(keys.get()).ok()?, keys));
                (server, keys.filter_map(named).take(KEYS_SERVER).collect())
            })
            .collect();
        let attach = |event: Box<RawValue>| {
            let Ok(Signed { sender, signatures }) = serde_json::from_str(event.get()) else {
                return event;
            };
            let server = sender.server_name();
            let Some(of_server) = keys.get(server) else { return event };
            let signed_by = signatures.get(server.as_str());
            let has = |(named, _): &&(Named, _)| {
                let has = |id: &String| {
                    named.verify_keys.contains_key(id) || named.old_verify_keys.contains_key(id)
                };
                signed_by.is_some_and(|ids| ids.keys().any(has))
            };
            match of_server.iter().find(has).or(of_server.first()) {
                Some((_, keys)) => with_server_keys(event.get(), keys.get()),
                None => event,
            }
        };
        let events = rooms.into_iter().flat_map(|(room_id, events)| {
            events.into_iter().map(move |event| (room_id.clone(), event))
        });
        let events = events.take(limits::MISSING_EVENTS);
        events.map(|(room_id, event)| (room_id, attach(event))).collect()
    }
}
