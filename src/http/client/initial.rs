//! A room as it is now, with its last events: what clients asked for before there was `/sync`.

use actix_web::Responder;
use ruma::{
    OwnedRoomId, api::client::peeking::get_current_state, events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::{json, value::RawValue, value::to_raw_value};

use super::{membership, render::View};
use crate::{
    actors::{
        clock::now_ms,
        store::{EventFilter, JoinedRoom, ReadSync},
    },
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Json},
    },
    proto::stream::{Order, TimelineToken},
};

/// Events that are shown.
const EVENTS: usize = 20;

#[derive(Serialize)]
struct Snapshot {
    room_id: OwnedRoomId,
    membership: MembershipState,
    visibility: &'static str,
    messages: Messages,
    state: Vec<Box<RawValue>>,
    account_data: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Messages {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// The state of a room, its last events, and the user's account data of it.
pub async fn snapshot(
    request: Authed<get_current_state::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let room_id = body.room_id;
    let none = || HttpError::forbidden("you are not in the room");
    let membership = membership(&gateway, &session, &room_id).await?.ok_or_else(none)?;
    let wanted = ReadSync {
        device_id: session.device_id.clone(),
        user_id: session.user_id.clone(),
        since: None,
        // Messages to the device are for its `/sync`.
        to_device_since: Some(u64::MAX / 2),
        full_state: true,
        state_after: true,
        timeline_limit: EVENTS,
        timeline_filter: EventFilter::default(),
        state_filter: EventFilter::default(),
        lazy_load_members: false,
        include_leave: true,
        rooms: Some(vec![room_id.clone()]),
        not_rooms: Vec::new(),
    };
    let rows = ask(&gateway.store.read_sync, wanted).await??;
    let position = rows.position.cast_signed();
    let room: JoinedRoom = rows.joined.into_iter().chain(rows.left).next().ok_or_else(none)?;
    let view = View {
        now: now_ms(),
        user_id: &session.user_id,
        device_id: &session.device_id,
        room_id: Some(&room_id),
        redactions: &room.redactions,
        replaced: Some(&room.replaced),
        bundles: Some(&room.bundles),
        form: None,
    };
    let data = room.account_data.iter();
    let data = data.filter_map(|(kind, content)| {
        to_raw_value(&json!({"type": kind, "content": content})).ok()
    });
    let start = room.prev_batch.unwrap_or(Order::live(0));
    let snapshot = Snapshot {
        membership,
        visibility: "private",
        messages: Messages {
            start: TimelineToken(start).to_string(),
            end: TimelineToken(Order::live(position)).to_string(),
            chunk: view.events(&room.timeline),
        },
        state: view.events(&room.state),
        account_data: data.collect(),
        room_id: room_id.clone(),
    };
    Ok(Json(snapshot))
}
