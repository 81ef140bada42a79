//! EDUs: typing, receipts, presence, and our own announcement of heads.

use actix::{AsyncContext as _, Context};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    api::federation::transactions::edu::{Edu, PresenceContent, ReceiptContent, TypingContent},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::RoomActor,
    messages::{Publish, RoomError},
};
use crate::{
    actors::{
        clock::now_ms,
        ephemera::{Presence, Typing},
        store::{Extremity, Receipt},
    },
    config::limits,
};

/// How long somebody types unless told otherwise, in milliseconds (as servers commonly take it).
const TYPING_MS: u64 = 30_000;
/// The type of our own EDU: forward extremities of a room.
const HEADS: &str = "messagehub.heads";
/// Most receipts that are taken from one EDU.
const RECEIPTS_MAX: usize = 20;

fn raw(value: &serde_json::Value) -> Result<Box<RawValue>, RoomError> {
    serde_json::value::to_raw_value(value).map_err(|error| RoomError::BadRequest(error.to_string()))
}

/// Makes the EDU that somebody types or stopped.
pub(super) fn typing(
    room_id: &RoomId,
    user_id: &UserId,
    typing: bool,
) -> Result<Box<RawValue>, RoomError> {
    let content = json!({"room_id": room_id, "user_id": user_id, "typing": typing});
    raw(&json!({"edu_type": "m.typing", "content": content}))
}

/// Makes the EDU of a public receipt.
pub(super) fn receipt(room_id: &RoomId, receipt: &Receipt) -> Result<Box<RawValue>, RoomError> {
    let data = match &receipt.thread_id {
        Some(thread) => json!({"ts": receipt.ts, "thread_id": thread}),
        None => json!({"ts": receipt.ts}),
    };
    let one = json!({"event_ids": [receipt.event_id], "data": data});
    let content = json!({room_id.as_str(): {"m.read": {receipt.user_id.as_str(): one}}});
    raw(&json!({"edu_type": "m.receipt", "content": content}))
}

/// Tells whether an EDU shows what somebody does in a room, rather than what servers tell each other.
pub(super) fn is_of_people(edu: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        edu_type: &'a str,
    }
    let kind = serde_json::from_str::<Kind<'_>>(edu.get());
    kind.is_ok_and(|kind| ["m.typing", "m.receipt"].contains(&kind.edu_type))
}

#[derive(Deserialize)]
struct Heads {
    edu_type: String,
    content: HeadsContent,
}

#[derive(Deserialize)]
struct HeadsContent {
    room_id: OwnedRoomId,
    extremities: Vec<OwnedEventId>,
}

impl RoomActor {
    /// Tells the other members our forward extremities, by gossip.
    pub(super) fn announce_heads(&mut self, ctx: &mut Context<Self>) {
        if let Some(edu) = self.heads_edu() {
            ctx.notify(Publish::new(Vec::new(), vec![edu]));
        }
    }

    /// Makes the EDU that tells our forward extremities.
    pub(super) fn heads_edu(&self) -> Option<Box<RawValue>> {
        let machine = self.machine.as_ref().filter(|machine| machine.is_joined())?;
        let extremities: Vec<&OwnedEventId> = machine
            .extremities()
            .iter()
            .take(limits::HEADS)
            .map(|Extremity { event_id, .. }| event_id)
            .collect();
        let content = json!({"room_id": self.room_id, "extremities": extremities});
        raw(&json!({"edu_type": HEADS, "content": content})).ok()
    }

    /// Takes the EDUs of a transaction: only what is about this room and of the origin's users.
    pub(super) fn take_edus(
        &mut self,
        origin: &OwnedServerName,
        edus: &[Box<RawValue>],
        ctx: &mut Context<Self>,
    ) {
        let mut heads = None;
        for edu in edus {
            if let Ok(told) = serde_json::from_str::<Heads>(edu.get())
                && told.edu_type == HEADS
            {
                if told.content.room_id == self.room_id {
                    let mut extremities = told.content.extremities;
                    extremities.truncate(limits::HEADS);
                    heads = Some(extremities);
                }
                continue;
            }
            match serde_json::from_str::<Edu>(edu.get()) {
                Ok(Edu::Typing(content)) => self.take_typing(origin, content),
                Ok(Edu::Receipt(content)) => self.take_receipts(origin, content, ctx),
                Ok(Edu::Presence(content)) => self.take_presence(origin, content),
                Ok(_) | Err(_) => {}
            }
        }
        // Each announcement says all of it: the last one counts.
        if let Some(heads) = heads {
            self.hear_heads(origin.clone(), heads, ctx);
        }
    }

    /// Tells whether a user of the origin is joined here.
    fn is_members(&self, origin: &OwnedServerName, user: &OwnedUserId) -> bool {
        let joined = self.machine.as_ref().and_then(|machine| machine.member(user));
        user.server_name() == *origin
            && joined.is_some_and(|member| {
                member.membership == ruma::events::room::member::MembershipState::Join
            })
    }

    fn take_typing(&mut self, origin: &OwnedServerName, content: TypingContent) {
        if content.room_id != self.room_id || !self.is_members(origin, &content.user_id) {
            return;
        }
        self.links.typing.do_send(Typing {
            room_id: content.room_id,
            user_id: content.user_id,
            timeout_ms: content.typing.then_some(TYPING_MS),
        });
    }

    fn take_receipts(
        &mut self,
        origin: &OwnedServerName,
        content: ReceiptContent,
        ctx: &mut Context<Self>,
    ) {
        let Some(map) = content.receipts.get(&self.room_id) else { return };
        let receipts: Vec<Receipt> = map
            .read
            .iter()
            .filter(|(user, _)| self.is_members(origin, user))
            .filter_map(|(user, data)| {
                let receipt = serde_json::to_value(&data.data).ok()?;
                let thread = receipt.get("thread_id").and_then(|id| id.as_str());
                Some(Receipt {
                    user_id: user.clone(),
                    receipt_type: "m.read".to_owned(),
                    event_id: data.event_ids.first()?.clone(),
                    thread_id: thread.map(ToOwned::to_owned),
                    ts: receipt.get("ts").and_then(serde_json::Value::as_u64).unwrap_or(now_ms()),
                })
            })
            .take(RECEIPTS_MAX)
            .collect();
        self.hear_receipts(receipts, ctx);
    }

    fn take_presence(&mut self, origin: &OwnedServerName, content: PresenceContent) {
        for update in content.push {
            if !self.is_members(origin, &update.user_id) {
                continue;
            }
            self.links.presence.do_send(Presence {
                user_id: update.user_id,
                presence: update.presence,
                status_msg: update.status_msg,
                last_active_ago: Some(u64::from(update.last_active_ago)),
                currently_active: update.currently_active,
            });
        }
    }
}
