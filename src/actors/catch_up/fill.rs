//! Carries out which gaps are filled when ([`Filling`](super::filling::Filling)).

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use ruma::OwnedRoomId;

use super::{
    actor::{CatchUpActor, CatchUpLinks},
    filling::Came,
    messages::FillGap,
};
use crate::{
    actors::{
        clock::uptime_ms,
        room::{RoomError, ask},
        store::{FindGap, FindGaps},
    },
    config::limits,
};

impl CatchUpActor {
    /// Looks at some rooms, and fetches a page of one that is not whole.
    pub(super) fn fill(&mut self, ctx: &mut Context<Self>) {
        let (find, after) = (self.links.find_gaps.clone(), self.looked_up_to.take());
        let looked = async move { ask(&find, FindGaps { after }).await }.into_actor(self);
        ctx.spawn(looked.map(|found: Result<_, RoomError>, act, ctx| {
            match found {
                Ok(found) => {
                    act.looked_up_to = found.last;
                    for room_id in found.rooms {
                        act.filling.found(room_id, uptime_ms());
                    }
                }
                Err(error) => log::debug!("gaps are not found: {error}"),
            }
            act.fill_next(ctx);
        }));
    }

    fn fill_next(&mut self, ctx: &mut Context<Self>) {
        let Some(room_id) = self.filling.next(uptime_ms()) else { return };
        let links = self.links.clone();
        let filled = async move {
            let came = links.fill_page(&room_id).await;
            (room_id, came)
        };
        ctx.spawn(filled.into_actor(self).map(|(room_id, came), act, _| {
            let came = came.unwrap_or_else(|error| {
                log::debug!(room_id:%; "missing history not fetched: {error}");
                Came::Nothing
            });
            act.filling.done(&room_id, came, uptime_ms());
        }));
    }
}

impl CatchUpLinks {
    /// Fetches a page of what is missing in the middle of a room.
    async fn fill_page(&self, room_id: &OwnedRoomId) -> Result<Came, RoomError> {
        let mut came = Came::Nothing;
        for _ in 0..limits::FILL_REQUESTS {
            let gap: Option<_> = ask(&self.find_gap, FindGap(room_id.clone())).await?;
            let Some(before) = gap else { return Ok(Came::Whole) };
            if !ask(&self.fill, FillGap { room_id: room_id.clone(), before }).await? {
                break;
            }
            came = Came::Some;
        }
        Ok(came)
    }
}
