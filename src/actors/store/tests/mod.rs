//! Tests of the Store through its messages, as the others use it.

use std::{collections::HashMap, sync::Arc};

use actix::Addr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    events::room::member::MembershipState,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::proto::{
    annotation::Annotation,
    pdu::{Pdu, StateKey, rules_of},
    stream::Order,
};

mod device_lists;
mod gaps;
mod journal;
mod life;
mod relations;
mod rooms;
mod rows;
mod sync;

pub(super) const OWN: &str = "@own:example.org";

/// A Store in a folder of its own.
struct World {
    folder: tempfile::TempDir,
    store: Addr<StoreActor>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = start(folder.path()).unwrap();
        Self { folder, store }
    }

    async fn ask<M>(&self, message: M) -> M::Result
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        StoreActor: actix::Handler<M>,
    {
        self.store.send(message).await.unwrap()
    }

    async fn commit(&self, step: CommitRoom) -> u64 {
        self.ask(step).await.unwrap().position
    }

    async fn write(&self, rows: Vec<(Row, Option<Value>)>) -> u64 {
        let rows = rows.into_iter().map(|(row, value)| (row, value.map(bytes))).collect();
        self.ask(WriteRows(rows)).await.unwrap().position
    }

    async fn restart(&mut self) {
        self.ask(Close).await.unwrap();
        self.store = start(self.folder.path()).unwrap();
    }

    async fn sync(&self, since: Option<u64>) -> SyncRows {
        self.ask(read_sync(since)).await.unwrap()
    }

    async fn events(&self, room_id: &OwnedRoomId, ids: &[&Arc<Pdu>]) -> Vec<Lookup> {
        let event_ids = ids.iter().map(|pdu| pdu.event_id.clone()).collect();
        self.ask(LoadEvents { room_id: room_id.clone(), event_ids }).await.unwrap()
    }

    async fn event(&self, room_id: &OwnedRoomId, pdu: &Arc<Pdu>) -> StoredEvent {
        match self.events(room_id, &[pdu]).await.remove(0) {
            Lookup::Found(event) => event,
            other => panic!("{other:?}"),
        }
    }
}

fn bytes(value: Value) -> Vec<u8> {
    serde_json::to_vec(&value).unwrap()
}

fn read_sync(since: Option<u64>) -> ReadSync {
    ReadSync {
        device_id: "DEVICE".to_owned(),
        user_id: user(OWN),
        since,
        to_device_since: None,
        full_state: false,
        state_after: false,
        timeline_limit: 10,
        timeline_filter: EventFilter::default(),
        state_filter: EventFilter::default(),
        lazy_load_members: false,
        include_leave: false,
        rooms: None,
        not_rooms: Vec::new(),
    }
}

fn user(id: &str) -> OwnedUserId {
    id.try_into().unwrap()
}

fn room(name: &str) -> OwnedRoomId {
    format!("!{name}:example.org").try_into().unwrap()
}

fn id(pdu: &Arc<Pdu>) -> OwnedEventId {
    pdu.event_id.clone()
}

fn ids(events: &[StoredEvent]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// Makes an event; its id is a hash of all that is given.
fn event(
    room_id: &OwnedRoomId,
    sender: &str,
    kind: &str,
    state_key: Option<&str>,
    content: Value,
    auth_events: &[&Arc<Pdu>],
) -> Arc<Pdu> {
    let mut object = json!({
        "room_id": room_id, "sender": sender, "type": kind, "content": content,
        "origin_server_ts": 1, "depth": 1, "prev_events": [],
        "auth_events": auth_events.iter().map(|pdu| &pdu.event_id).collect::<Vec<_>>(),
    });
    if let Some(state_key) = state_key {
        object["state_key"] = state_key.into();
    }
    let json = object.to_string();
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&json));
    let event_id = EventId::parse(format!("${hash}")).unwrap();
    let rules = rules_of(&RoomVersionId::V11).unwrap();
    Arc::new(Pdu::from_json(event_id, &json, &rules).unwrap())
}

fn message(room_id: &OwnedRoomId, sender: &str, body: impl Into<Value>) -> Arc<Pdu> {
    event(room_id, sender, "m.room.message", None, json!({ "body": body.into() }), &[])
}

fn member(room_id: &OwnedRoomId, user: &str, membership: &str) -> Arc<Pdu> {
    let content = json!({ "membership": membership });
    event(room_id, user, "m.room.member", Some(user), content, &[])
}

fn state(room_id: &OwnedRoomId, kind: &str, value: &str) -> Arc<Pdu> {
    let key = kind.rsplit('.').next().unwrap();
    event(room_id, OWN, kind, Some(""), json!({ key: value }), &[])
}

fn new_event(pdu: &Arc<Pdu>, place: Place) -> NewEvent {
    NewEvent {
        pdu: Arc::clone(pdu),
        place,
        state_group: None,
        spoilt: false,
        txn: None,
        notify: Vec::new(),
    }
}

fn step(room_id: &OwnedRoomId) -> CommitRoom {
    CommitRoom::new(room_id.clone(), RoomVersionId::V11)
}

fn place_of(pdu: &Arc<Pdu>) -> StateKey {
    pdu.state_place().unwrap()
}

/// Events as the newest of their room; state events take effect.
fn live(room_id: &OwnedRoomId, events: &[&Arc<Pdu>]) -> CommitRoom {
    let mut step = step(room_id);
    for pdu in events {
        step.events.push(new_event(pdu, Place::Live));
        if pdu.state_key.is_some() {
            step.state_changes.retain(|(place, _)| *place != place_of(pdu));
            step.state_changes.push((place_of(pdu), Some(id(pdu))));
        }
        if pdu.state_key.as_deref() == Some(OWN) {
            step.memberships.insert(user(OWN), own(pdu));
        }
    }
    step
}

fn own(pdu: &Arc<Pdu>) -> OwnMembership {
    let content: Value = serde_json::from_str(pdu.content.get()).unwrap();
    let membership = MembershipState::from(content["membership"].as_str().unwrap());
    OwnMembership { membership, event_id: Some(id(pdu)), invite: None, forgotten: false }
}

fn notify(highlight: bool) -> Notify {
    Notify { highlight, actions: r#"["notify"]"#.to_owned() }
}

/// One message of somebody else that notifies.
fn notifying(room_id: &OwnedRoomId, pdu: &Arc<Pdu>, highlight: bool) -> CommitRoom {
    let mut step = live(room_id, &[pdu]);
    step.events[0].notify = vec![(user(OWN), notify(highlight))];
    step
}

fn receipt(
    room_id: &OwnedRoomId,
    user_id: &str,
    kind: &str,
    at: &Arc<Pdu>,
) -> (Row, Option<Value>) {
    let receipt = json!({
        "user_id": user_id, "receipt_type": kind, "event_id": at.event_id,
        "thread_id": null, "ts": 1,
    });
    (Row::Receipt(room_id.clone(), user(user_id), kind.to_owned(), None), Some(receipt))
}

fn changes(pdus: &[&Arc<Pdu>]) -> Vec<(StateKey, Option<OwnedEventId>)> {
    pdus.iter().map(|pdu| (place_of(pdu), Some(id(pdu)))).collect()
}

fn as_map(pdus: &[&Arc<Pdu>]) -> HashMap<StateKey, OwnedEventId> {
    pdus.iter().map(|pdu| (place_of(pdu), id(pdu))).collect()
}
