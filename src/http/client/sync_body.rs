//! The answer of `/sync`, out of rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::filter::FilterDefinition,
};
use serde::Serialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    profile::shown_presence,
    render::{Form, Sieve as _, View},
};
use crate::{
    actors::{
        ephemera::EphemeralRows,
        store::{JoinedRoom, Receipt, Summary, SyncRows, Unread},
    },
    http::ruma_glue::Empty,
    proto::stream::{SyncToken, TimelineToken},
};

/// The body of a `/sync` answer.
#[derive(Serialize)]
pub(super) struct Body {
    next_batch: String,
    rooms: Rooms,
    presence: Events,
    account_data: Events,
    to_device: Events,
    device_lists: ShownLists,
    device_one_time_keys_count: BTreeMap<String, u64>,
    device_unused_fallback_key_types: Vec<String>,
}

#[derive(Serialize, Default)]
struct Events {
    events: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct ShownLists {
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
}

#[derive(Serialize)]
struct Rooms {
    join: BTreeMap<OwnedRoomId, Joined>,
    invite: BTreeMap<OwnedRoomId, Invited>,
    leave: BTreeMap<OwnedRoomId, Left>,
    knock: Empty,
}

#[derive(Serialize, Default)]
struct Joined {
    summary: ShownSummary,
    timeline: Timeline,
    #[serde(flatten)]
    state: ShownState,
    account_data: Events,
    ephemeral: Events,
    /// Left out where the room was not looked at: a count is right, or it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_notifications: Option<ShownUnread>,
    /// Where the client wants threads apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_thread_notifications: Option<BTreeMap<OwnedEventId, ShownUnread>>,
}

/// State, under the name that says where it stands.
#[derive(Serialize, Default)]
struct ShownState {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Events>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_after: Option<Events>,
    #[serde(rename = "org.matrix.msc4222.state_after", skip_serializing_if = "Option::is_none")]
    unstable_state_after: Option<Events>,
}

/// Where the state of a room stands that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateAt {
    /// Before the timeline.
    Begin,
    /// After it (`use_state_after`).
    End,
    /// After it, under the name from before version 1.16 of the specification.
    UnstableEnd,
}

impl ShownState {
    fn new(at: StateAt, events: Vec<Box<RawValue>>) -> Self {
        let events = Some(Events { events });
        match at {
            StateAt::Begin => Self { state: events, ..Self::default() },
            StateAt::End => Self { state_after: events, ..Self::default() },
            StateAt::UnstableEnd => Self { unstable_state_after: events, ..Self::default() },
        }
    }
}

#[derive(Serialize)]
struct Left {
    timeline: Timeline,
    #[serde(flatten)]
    state: ShownState,
    account_data: Events,
}

#[derive(Serialize)]
struct Invited {
    invite_state: Events,
}

#[derive(Serialize, Default)]
struct Timeline {
    events: Vec<Box<RawValue>>,
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
}

#[derive(Serialize, Default)]
struct ShownSummary {
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    heroes: Option<Vec<OwnedUserId>>,
    #[serde(rename = "m.joined_member_count", skip_serializing_if = "Option::is_none")]
    joined: Option<u64>,
    #[serde(rename = "m.invited_member_count", skip_serializing_if = "Option::is_none")]
    invited: Option<u64>,
}

impl From<Summary> for ShownSummary {
    fn from(summary: Summary) -> Self {
        Self {
            heroes: Some(summary.heroes),
            joined: Some(summary.joined),
            invited: Some(summary.invited),
        }
    }
}

#[derive(Serialize, Default)]
struct ShownUnread {
    notification_count: u64,
    highlight_count: u64,
}

impl From<Unread> for ShownUnread {
    fn from(unread: Unread) -> Self {
        Self { notification_count: unread.notifications, highlight_count: unread.highlights }
    }
}

#[derive(Serialize)]
struct Event<C> {
    content: C,
    #[serde(rename = "type")]
    kind: String,
}

/// To whom, and by which filter.
pub(super) struct Reader<'a> {
    /// The time, in milliseconds.
    pub(super) now: u64,
    /// The device.
    pub(super) user_id: &'a UserId,
    pub(super) device_id: &'a str,
    /// Its filter.
    pub(super) filter: &'a FilterDefinition,
    /// The form of its events.
    pub(super) form: Form,
    /// Which state it wants.
    pub(super) state_at: StateAt,
}

impl Reader<'_> {
    /// Makes the body.
    pub(super) fn body(
        &self,
        rows: SyncRows,
        ephemeral: EphemeralRows,
        next_batch: SyncToken,
    ) -> Body {
        let invite = rows.invited.into_iter().map(|room| {
            (room.room_id, Invited { invite_state: Events { events: room.stripped_state } })
        });
        let invite: BTreeMap<_, _> = invite.collect();
        let leave = rows.left.into_iter().map(|room| self.left(room));
        let leave: BTreeMap<_, _> = leave.collect();
        let mut join: BTreeMap<_, _> =
            rows.joined.into_iter().map(|room| self.joined(room)).collect();
        for (room_id, typing) in ephemeral.typing {
            // Nobody types for somebody who is not in the room.
            let elsewhere = leave.contains_key(&room_id) || invite.contains_key(&room_id);
            if elsewhere
                || !self.wants_room(&room_id)
                || !self.wants_ephemeral(&room_id, "m.typing")
            {
                continue;
            }
            let room = join.entry(room_id).or_insert_with(|| self.untouched());
            room.ephemeral.events.extend(event("m.typing", json!({"user_ids": typing})));
        }
        let presence = ephemeral.presence.iter().filter(|presence| {
            self.filter.presence.allows("m.presence", Some(presence.user_id.as_str()))
        });
        let presence = presence.filter_map(|presence| {
            let content = shown_presence(presence);
            to_raw_value(&json!({
                "type": "m.presence", "sender": presence.user_id, "content": content,
            }))
            .ok()
        });
        let account_data = rows.account_data.into_iter();
        let account_data =
            account_data.filter(|(kind, _)| self.filter.account_data.allows(kind, None));
        let fallback = rows.key_counts.unused_fallback.into_iter();
        let unused_fallback = fallback.filter(|(_, until)| *until > self.now);
        let unused_fallback = unused_fallback.map(|(algorithm, _)| algorithm).collect();
        Body {
            next_batch: next_batch.to_string(),
            rooms: Rooms { join, invite, leave, knock: Empty {} },
            presence: Events { events: presence.collect() },
            account_data: data_events(account_data),
            to_device: Events { events: rows.to_device },
            device_lists: ShownLists {
                changed: rows.device_lists.changed,
                left: rows.device_lists.left,
            },
            device_one_time_keys_count: rows.key_counts.one_time,
            device_unused_fallback_key_types: unused_fallback,
        }
    }

    fn wants_room(&self, room_id: &OwnedRoomId) -> bool {
        let room = &self.filter.room;
        room.rooms.as_ref().is_none_or(|rooms| rooms.contains(room_id))
            && !room.not_rooms.contains(room_id)
    }

    fn wants_ephemeral(&self, room_id: &RoomId, kind: &str) -> bool {
        let filter = self.filter.room.ephemeral.parts();
        filter.allows_room(room_id) && filter.allows(kind, None)
    }

    /// A room of which nothing was read.
    fn untouched(&self) -> Joined {
        Joined { state: ShownState::new(self.state_at, Vec::new()), ..Joined::default() }
    }

    fn timeline(&self, room: &JoinedRoom) -> (Timeline, ShownState) {
        let view = View {
            now: self.now,
            user_id: self.user_id,
            device_id: self.device_id,
            room_id: None,
            redactions: &room.redactions,
            replaced: Some(&room.replaced),
            bundles: Some(&room.bundles),
            form: Some(&self.form),
        };
        let timeline = Timeline {
            events: view.events(&room.timeline),
            limited: room.limited,
            prev_batch: room.prev_batch.map(|order| TimelineToken(order).to_string()),
        };
        (timeline, ShownState::new(self.state_at, view.events(&room.state)))
    }

    fn room_data(&self, room_id: &RoomId, account_data: Vec<(String, Box<RawValue>)>) -> Events {
        let filter = self.filter.room.account_data.parts();
        let passes = |kind: &str| filter.allows_room(room_id) && filter.allows(kind, None);
        data_events(account_data.into_iter().filter(|(kind, _)| passes(kind)))
    }

    fn joined(&self, room: JoinedRoom) -> (OwnedRoomId, Joined) {
        let (timeline, state) = self.timeline(&room);
        let mut ephemeral = Events::default();
        if !room.receipts.is_empty() && self.wants_ephemeral(&room.room_id, "m.receipt") {
            ephemeral.events.extend(event("m.receipt", receipts(&room.receipts)));
        }
        let (mut unread, mut threads) = (room.unread, None);
        if self.filter.room.timeline.unread_thread_notifications {
            for (_, thread) in &room.unread_threads {
                unread.notifications = unread.notifications.saturating_sub(thread.notifications);
                unread.highlights = unread.highlights.saturating_sub(thread.highlights);
            }
            let shown = room.unread_threads.into_iter();
            let shown: BTreeMap<_, _> = shown.map(|(root, unread)| (root, unread.into())).collect();
            threads = Some(shown).filter(|shown| !shown.is_empty());
        }
        let joined = Joined {
            summary: room.summary.map(Into::into).unwrap_or_default(),
            timeline,
            state,
            account_data: self.room_data(&room.room_id, room.account_data),
            ephemeral,
            unread_notifications: Some(unread.into()),
            unread_thread_notifications: threads,
        };
        (room.room_id, joined)
    }

    fn left(&self, room: JoinedRoom) -> (OwnedRoomId, Left) {
        let (timeline, state) = self.timeline(&room);
        let account_data = self.room_data(&room.room_id, room.account_data);
        (room.room_id, Left { timeline, state, account_data })
    }
}

fn event(kind: &str, content: impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(&Event { content, kind: kind.to_owned() }).ok()
}

fn data_events(data: impl Iterator<Item = (String, Box<RawValue>)>) -> Events {
    Events { events: data.filter_map(|(kind, content)| event(&kind, content)).collect() }
}

/// Returns the content of `m.receipt`: event id, receipt type, user.
fn receipts(receipts: &[Receipt]) -> Value {
    let mut content: HashMap<&str, HashMap<&str, Map<String, Value>>> = HashMap::new();
    for receipt in receipts {
        let mut data = json!({"ts": receipt.ts});
        if let (Some(thread), Some(data)) = (&receipt.thread_id, data.as_object_mut()) {
            data.insert("thread_id".to_owned(), Value::from(thread.as_str()));
        }
        let of_event = content.entry(receipt.event_id.as_str()).or_default();
        let of_type = of_event.entry(receipt.receipt_type.as_str()).or_default();
        of_type.insert(receipt.user_id.to_string(), data);
    }
    json!(content)
}
