//! Heads that other servers announced, of which something is not known here: fetched for many rooms at
//! once, of each server one batch at a time. What it announces meanwhile goes into the next one, so
//! a server that announces without end keeps itself busy and nobody else.
//!
//! Invariant: of each room the newest announcement alone waits, and only rooms have any that the
//! server is in: they, not what it says, bound what waits.

use std::collections::{BTreeMap, HashMap};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use super::actor::MeetingActor;
use crate::{
    actors::{room::HeadsHeard, store::RoomEvents},
    config::limits,
};

/// What waits, for each server of which something is being fetched.
#[derive(Debug, Default)]
pub(super) struct Heard(HashMap<OwnedServerName, BTreeMap<OwnedRoomId, Vec<OwnedEventId>>>);

impl Heard {
    /// Takes heads in; returns them if they can be fetched now.
    pub(super) fn begin(
        &mut self,
        server: &OwnedServerName,
        room_id: OwnedRoomId,
        heads: Vec<OwnedEventId>,
    ) -> Option<RoomEvents> {
        if let Some(waiting) = self.0.get_mut(server) {
            waiting.insert(room_id, heads);
            return None;
        }
        self.0.insert(server.clone(), BTreeMap::new());
        Some(vec![(room_id, heads)])
    }

    /// A batch is fetched: returns the next one, of no more rooms than one message has place for.
    pub(super) fn end(&mut self, server: &OwnedServerName) -> Option<RoomEvents> {
        let waiting = self.0.get_mut(server)?;
        let batch: RoomEvents =
            std::iter::from_fn(|| waiting.pop_first()).take(limits::HEADS_ROOMS).collect();
        if batch.is_empty() {
            self.0.remove(server);
            return None;
        }
        Some(batch)
    }
}

impl MeetingActor {
    /// Fetches what a server announced, then what it announced meanwhile.
    fn fetch_heard(&mut self, server: OwnedServerName, heads: RoomEvents, ctx: &mut Context<Self>) {
        let exchange = self.exchange(server, ctx);
        let fetched = async move {
            let done = exchange.fetch(heads).await;
            (exchange.server, done)
        };
        ctx.spawn(fetched.into_actor(self).map(|(server, done), act, ctx| {
            if let Err(error) | Ok(Err(error)) = done {
                log::debug!(server:%; "announced heads not fetched: {error}");
            }
            if let Some(next) = act.heard.end(&server) {
                act.fetch_heard(server, next, ctx);
            }
        }));
    }
}

impl Handler<HeadsHeard> for MeetingActor {
    type Result = ();

    fn handle(&mut self, msg: HeadsHeard, ctx: &mut Self::Context) {
        let HeadsHeard { room_id, server_name, extremities } = msg;
        if let Some(heads) = self.heard.begin(&server_name, room_id, extremities) {
            self.fetch_heard(server_name, heads, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_server_name};

    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!{number:04}")).unwrap()
    }

    #[test]
    fn of_each_server_one_batch_at_a_time_and_of_each_room_the_newest() {
        let (ann, eve) = (owned_server_name!("ann"), owned_server_name!("eve"));
        let (old, new) = (vec![owned_event_id!("$1")], vec![owned_event_id!("$2")]);
        let mut heard = Heard::default();
        assert_eq!(heard.begin(&eve, room(0), old.clone()), Some(vec![(room(0), old.clone())]));
        for heads in [&old, &new] {
            for number in 0..=limits::HEADS_ROOMS {
                assert_eq!(heard.begin(&eve, room(number), heads.clone()), None);
            }
        }
        assert!(heard.begin(&ann, room(0), old).is_some(), "the others do not wait for it");
        let batch: RoomEvents =
            (0..limits::HEADS_ROOMS).map(|number| (room(number), new.clone())).collect();
        assert_eq!(heard.end(&eve), Some(batch));
        assert_eq!(heard.end(&eve), Some(vec![(room(limits::HEADS_ROOMS), new.clone())]));
        assert_eq!(heard.end(&eve), None);
        assert_eq!(heard.end(&ann), None);
        assert!(heard.begin(&eve, room(0), new).is_some());
    }
}
