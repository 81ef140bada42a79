//! EDUs: typing, receipts, presence, and our own announcement of heads.

use std::collections::BTreeMap;

use actix::{AsyncContext as _, Context};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
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
    proto::edu::{self, Edu, HEADS, PresenceUpdate, ReadUpTo},
};

/// How long somebody types unless told otherwise, in milliseconds (as servers commonly take it).
const TYPING_MS: u64 = 30_000;
/// Most receipts that are taken from one EDU.
const RECEIPTS_MAX: usize = 20;

fn raw(value: &serde_json::Value) -> Result<Box<RawValue>, RoomError> {
    serde_json::value::to_raw_value(value).map_err(RoomError::internal)
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
    edu::is_of_type(edu, &["m.typing", "m.receipt"])
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
        let machine = self.machine.as_ref().filter(|machine| machine.is_resident())?;
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
            match Edu::read(edu) {
                Ok(Edu::Heads { room_id, mut extremities }) if room_id == self.room_id => {
                    extremities.truncate(limits::HEADS);
                    heads = Some(extremities);
                }
                Ok(Edu::Typing { room_id, user_id, typing }) if room_id == self.room_id => {
                    self.take_typing(origin, user_id, typing);
                }
                Ok(Edu::Receipt(rooms)) => self.take_receipts(origin, rooms, ctx),
                Ok(Edu::Presence(updates)) => self.take_presence(origin, updates),
                Ok(
                    Edu::Heads { .. }
                    | Edu::Typing { .. }
                    | Edu::ToDevice(_)
                    | Edu::DeviceList { .. },
                ) => {}
                Err(error) => {
                    log::debug!(room_id:% = self.room_id, origin:%; "an EDU is passed over: {error}");
                }
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

    fn take_typing(&mut self, origin: &OwnedServerName, user_id: OwnedUserId, typing: bool) {
        if !self.is_members(origin, &user_id) {
            return;
        }
        self.links.typing.do_send(Typing {
            room_id: self.room_id.clone(),
            user_id,
            timeout_ms: typing.then_some(TYPING_MS),
        });
    }

    fn take_receipts(
        &mut self,
        origin: &OwnedServerName,
        mut rooms: BTreeMap<OwnedRoomId, Vec<ReadUpTo>>,
        ctx: &mut Context<Self>,
    ) {
        let told = rooms.remove(&self.room_id).unwrap_or_default();
        let receipts: Vec<Receipt> = told
            .into_iter()
            .filter(|told| self.is_members(origin, &told.user_id))
            .map(|ReadUpTo { user_id, event_id, thread_id, ts }| Receipt {
                user_id,
                receipt_type: "m.read".to_owned(),
                event_id,
                thread_id,
                ts: ts.unwrap_or_else(now_ms),
            })
            .take(RECEIPTS_MAX)
            .collect();
        self.hear_receipts(receipts, ctx);
    }

    fn take_presence(&mut self, origin: &OwnedServerName, updates: Vec<PresenceUpdate>) {
        for update in updates {
            if !self.is_members(origin, &update.user_id) {
                continue;
            }
            self.links.presence.do_send(Presence {
                user_id: update.user_id,
                presence: update.presence,
                status_msg: update.status_msg,
                last_active_ago: Some(update.last_active_ago),
                currently_active: update.currently_active,
            });
        }
    }
}
