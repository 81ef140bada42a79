//! What the user does in a room: events, state, redactions, typing and reading.

use std::time::Instant;

use actix_web::Responder;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId,
    api::client::{
        message::send_message_event,
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType},
        redact::redact_event,
        state::send_state_event,
        typing::create_typing_event::{self, v3::Typing},
    },
    events::{TimelineEventType, receipt::ReceiptThread},
};
use serde_json::{json, value::to_raw_value};

use super::{canonical_of, check_joined, check_own, directory::check_canonical_alias};
use crate::{
    actors::{
        accounts::{Session, SetAccountData},
        room::{SendEvent, SetReceipt, SetTyping},
        store::{ClientTxn, TxnEndpoint},
    },
    http::{
        error::HttpError,
        gateway::{Gateway, ask_room},
        ruma_glue::{Authed, Empty, Json},
    },
    meters::Timed,
    proto::names,
};

/// Longest time for which somebody types after one request, in milliseconds.
const TYPING_MS: u64 = 120_000;

fn sent(event_id: &OwnedEventId) -> Json<serde_json::Value> {
    Json(json!({"event_id": event_id}))
}

/// Sends an event. The same transaction of the same device answers the same event id.
pub async fn event(
    request: Authed<send_message_event::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let since = Instant::now();
    let kind = TimelineEventType::from(body.event_type.to_string());
    let mut content = canonical_of(&body.body)?;
    let redacts = match kind {
        TimelineEventType::RoomRedaction => Some(take_redacts(&mut content)?),
        _ => None,
    };
    let txn = ClientTxn {
        device_id: session.device_id,
        endpoint: TxnEndpoint::Send,
        txn_id: body.txn_id.to_string(),
    };
    let message = SendEvent {
        by: session.user_id,
        kind,
        state_key: None,
        content,
        redacts,
        txn: Some(txn),
        permit,
    };
    let event_id = ask_room(&gateway.rooms.send, body.room_id, message).await?;
    gateway.meters.took(Timed::Send, since.elapsed());
    Ok(sent(&event_id))
}

/// Checks what a client calls somebody in a membership: as it would be in a profile.
fn check_member(content: &CanonicalJsonObject) -> Result<(), HttpError> {
    type Check = fn(&str) -> Result<(), String>;
    let fields: [(&str, Check); 2] =
        [("displayname", names::check_name), ("avatar_url", names::check_avatar)];
    for (key, check) in fields {
        match content.get(key) {
            None | Some(CanonicalJsonValue::Null) => {}
            Some(CanonicalJsonValue::String(value)) if value.is_empty() => {}
            Some(CanonicalJsonValue::String(value)) => {
                check(value).map_err(HttpError::invalid_param)?;
            }
            Some(_) => return Err(HttpError::bad_json(format!("{key} is no string"))),
        }
    }
    Ok(())
}

/// Takes the target of a redaction out of its content: where it stands in the event the room version
/// says.
fn take_redacts(content: &mut CanonicalJsonObject) -> Result<OwnedEventId, HttpError> {
    let target = match content.remove("redacts") {
        Some(CanonicalJsonValue::String(target)) => OwnedEventId::try_from(target).ok(),
        _ => None,
    };
    target.ok_or_else(|| HttpError::bad_json("a redaction says in `redacts` what it redacts"))
}

/// Sets state.
pub async fn state(
    request: Authed<send_state_event::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let kind = body.event_type.to_string();
    let kind = TimelineEventType::from(kind);
    let content = canonical_of(&body.body)?;
    match kind {
        TimelineEventType::RoomMember => check_member(&content)?,
        TimelineEventType::RoomCanonicalAlias => {
            check_canonical_alias(&gateway, &session, &body.room_id, &content).await?;
        }
        _ => {}
    }
    let message = SendEvent {
        by: session.user_id,
        kind,
        state_key: Some(body.state_key),
        content,
        redacts: None,
        txn: None,
        permit,
    };
    Ok(sent(&ask_room(&gateway.rooms.send, body.room_id, message).await?))
}

/// Redacts an event.
pub async fn redact(
    request: Authed<redact_event::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let mut content = CanonicalJsonObject::new();
    if let Some(reason) = body.reason {
        content.insert("reason".to_owned(), CanonicalJsonValue::String(reason));
    }
    let txn = ClientTxn {
        device_id: session.device_id,
        endpoint: TxnEndpoint::Redact,
        txn_id: body.txn_id.to_string(),
    };
    let message = SendEvent {
        by: session.user_id,
        kind: TimelineEventType::RoomRedaction,
        state_key: None,
        content,
        redacts: Some(body.event_id),
        txn: Some(txn),
        permit,
    };
    Ok(sent(&ask_room(&gateway.rooms.send, body.room_id, message).await?))
}

/// Says that the user types, or stopped.
pub async fn typing(
    request: Authed<create_typing_event::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    let timeout_ms = match body.state {
        Typing::No => None,
        Typing::Yes(info) => {
            Some(u64::try_from(info.timeout.as_millis()).unwrap_or(u64::MAX).min(TYPING_MS))
        }
    };
    ask_room(
        &gateway.rooms.set_typing,
        body.room_id,
        SetTyping { by: session.user_id, timeout_ms },
    )
    .await?;
    Ok(Json(Empty {}))
}

async fn set_receipt(
    gateway: &Gateway,
    session: &Session,
    room_id: OwnedRoomId,
    receipt_type: &str,
    event_id: OwnedEventId,
    thread_id: Option<String>,
) -> Result<(), HttpError> {
    let (by, receipt_type) = (session.user_id.clone(), receipt_type.to_owned());
    let message = SetReceipt { by, receipt_type, event_id, thread_id };
    ask_room(&gateway.rooms.set_receipt, room_id, message).await
}

async fn set_fully_read(
    gateway: &Gateway,
    session: &Session,
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
) -> Result<(), HttpError> {
    check_joined(gateway, session, &room_id).await?;
    let content = to_raw_value(&json!({"event_id": event_id})).map_err(HttpError::internal)?;
    let kind = "m.fully_read".to_owned();
    let (user_id, room_id) = (session.user_id.clone(), Some(room_id));
    let message = SetAccountData { user_id, room_id, kind, content };
    Ok(gateway.ask_accounts(message).await??)
}

/// Says up to where the user has read.
pub async fn receipt(
    request: Authed<create_receipt::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let thread_id = match &body.thread {
        ReceiptThread::Unthreaded => None,
        thread => thread.as_str().map(ToOwned::to_owned),
    };
    if thread_id.as_deref().is_some_and(|thread| thread != "main" && !thread.starts_with('$')) {
        return Err(HttpError::invalid_param("thread_id is `main` or the id of an event"));
    }
    match body.receipt_type {
        ReceiptType::FullyRead => {
            if thread_id.is_some() {
                return Err(HttpError::invalid_param("m.fully_read has no threads"));
            }
            set_fully_read(&gateway, &session, body.room_id, body.event_id).await?;
        }
        ReceiptType::Read | ReceiptType::ReadPrivate => {
            let kind = body.receipt_type.to_string();
            set_receipt(&gateway, &session, body.room_id, &kind, body.event_id, thread_id).await?;
        }
        _ => return Err(HttpError::invalid_param("no such receipt type")),
    }
    Ok(Json(Empty {}))
}

/// Sets the read marker and receipts at once.
pub async fn read_markers(
    request: Authed<set_read_marker::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_joined(&gateway, &session, &body.room_id).await?;
    if let Some(event_id) = body.fully_read {
        set_fully_read(&gateway, &session, body.room_id.clone(), event_id).await?;
    }
    let receipts = [("m.read", body.read_receipt), ("m.read.private", body.private_read_receipt)];
    for (kind, event_id) in receipts {
        if let Some(event_id) = event_id {
            set_receipt(&gateway, &session, body.room_id.clone(), kind, event_id, None).await?;
        }
    }
    Ok(Json(Empty {}))
}
