//! Whole copies of events that came spoilt: somebody on the way changed them, or had them redacted.
//!
//! Invariant: of each server that gives spoilt copies one is looked after at a time, with a rest in
//! between, so that they cost nobody much, neither us nor those who are asked.

use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use ruma::OwnedServerName;

use super::{actor::RoomActor, messages::RoomError, operate::Whose, spoilt::Copy, worker::Worker};
use crate::{actors::upward::FederationError, proto::pdu::Received};

/// Rest between two whole copies that are looked for on account of one server.
const SPOILT_REST: Duration = Duration::from_millis(250);
/// Those who were gossiped the same spoilt copy ask its author one after another: so long for each
/// member on average, and no longer than this.
const SPREAD: Duration = Duration::from_millis(100);
const SPREAD_MAX: Duration = Duration::from_secs(10);

/// What came of looking for a whole copy.
pub(super) struct Looked {
    /// The event to take in: whole, or as it came where nobody has a whole one.
    pub(super) event: Option<Received>,
    /// Whoever gave the spoilt copy does not answer.
    gone: bool,
}

impl RoomActor {
    /// Looks for a whole copy of the next event of which a server gave a spoilt one.
    fn look_for_whole(&mut self, from: OwnedServerName, ctx: &mut Context<Self>) {
        let Some(copy) = self.spoilt.begin(&from) else { return };
        let worker = self.worker_for(Whose::Events, ctx);
        let giver = from.clone();
        let work = async move {
            let Looked { event, gone } = worker.look_for_whole(copy, &giver).await;
            if let Some(event) = event {
                worker.ingest(event, &giver).await;
            }
            if !gone {
                tokio::time::sleep(SPOILT_REST).await;
            }
            gone
        };
        ctx.spawn(work.into_actor(self).map(move |gone, act, ctx| {
            act.spoilt.end(&from, gone);
            act.look_for_whole(from, ctx);
        }));
    }
}

/// Asks a room to look for a whole copy of an event.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct LookForWhole {
    pub(super) copy: Copy,
    pub(super) from: OwnedServerName,
}

impl Handler<LookForWhole> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: LookForWhole, ctx: &mut Context<Self>) {
        let LookForWhole { copy, from } = msg;
        self.spoilt.push(&from, copy);
        self.look_for_whole(from, ctx);
    }
}

impl Worker {
    /// Somebody on the way changed or redacted the copy: asks whoever gave it for a whole one, then
    /// the author. Where none is to be had the spoilt one counts, until a whole one comes.
    pub(super) async fn look_for_whole(&self, copy: Copy, from: &OwnedServerName) -> Looked {
        let Copy { received, gossiped } = copy;
        let id = received.pdu.event_id.clone();
        match self.fetch_event(from, &id).await {
            Ok(whole) if !whole.spoilt => return Looked { event: Some(whole), gone: false },
            Err(
                RoomError::Ask(_)
                | RoomError::Federation(
                    FederationError::Unreachable(_) | FederationError::TimedOut(_),
                ),
            ) => return Looked { event: None, gone: true },
            Ok(_) | Err(_) => {}
        }
        let author = received.pdu.sender.server_name().to_owned();
        if author == *from {
            return Looked { event: Some(received), gone: false };
        }
        if gossiped {
            tokio::time::sleep(self.spread().await).await;
        }
        // It may have come meanwhile, as its author said it.
        if !matches!(self.unknown(vec![id.clone()]).await, Ok(unknown) if !unknown.is_empty()) {
            return Looked { event: None, gone: false };
        }
        let found = self.fetch_event(&author, &id).await.ok().filter(|whole| !whole.spoilt);
        Looked { event: Some(found.unwrap_or(received)), gone: false }
    }

    /// Returns how long to wait so that all members do not ask the same one at once.
    async fn spread(&self) -> Duration {
        let members = self.operate(|machine| Ok((machine.servers().count(), None))).await;
        let members = u32::try_from(members.unwrap_or(1)).unwrap_or(u32::MAX);
        SPREAD.saturating_mul(members).min(SPREAD_MAX).mul_f64(rand::random())
    }
}
