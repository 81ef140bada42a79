//! Carries out which gaps are filled when ([`Filling`](super::filling::Filling)).

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Recipient, WrapFuture as _};
use ruma::OwnedRoomId;

use super::{actor::CatchUpActor, filling::Came, messages::FillGap};
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
        let (find_gap, fill) = (self.links.find_gap.clone(), self.links.fill.clone());
        let filled = async move {
            let came = fill_page(&find_gap, &fill, &room_id).await;
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

/// Fetches a page of what is missing in the middle of a room.
async fn fill_page(
    find_gap: &Recipient<FindGap>,
    fill: &Recipient<FillGap>,
    room_id: &OwnedRoomId,
) -> Result<Came, RoomError> {
    let mut came = Came::Nothing;
    for _ in 0..limits::FILL_REQUESTS {
        let gap: Option<_> = ask(find_gap, FindGap(room_id.clone())).await?;
        let Some(before) = gap else { return Ok(Came::Whole) };
        if !ask(fill, FillGap { room_id: room_id.clone(), before }).await? {
            break;
        }
        came = Came::Some;
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Handler};
    use ruma::{OwnedEventId, room_id};

    use super::*;
    use crate::actors::store::StoreError;

    /// A room with gaps, and members that fill some of them.
    struct Room {
        gaps: usize,
        /// How many pages the members give before they have no more.
        given: usize,
        broken: bool,
    }

    impl Actor for Room {
        type Context = Context<Self>;
    }

    impl Handler<FindGap> for Room {
        type Result = Result<Option<OwnedEventId>, StoreError>;

        fn handle(&mut self, _: FindGap, _: &mut Self::Context) -> Self::Result {
            let gap = format!("$gap{}", self.gaps).try_into().unwrap();
            Ok((self.gaps > 0).then_some(gap))
        }
    }

    impl Handler<FillGap> for Room {
        type Result = Result<bool, RoomError>;

        fn handle(&mut self, msg: FillGap, _: &mut Self::Context) -> Self::Result {
            if self.broken {
                return Err(RoomError::NotFound);
            }
            let gap: OwnedEventId = format!("$gap{}", self.gaps).try_into().unwrap();
            assert_eq!(msg.before, gap, "what the Store finds is asked for");
            let comes = self.given > 0;
            self.given = self.given.saturating_sub(1);
            self.gaps -= usize::from(comes);
            Ok(comes)
        }
    }

    async fn page_of(gaps: usize, given: usize, broken: bool) -> Result<Came, RoomError> {
        let room = Room { gaps, given, broken }.start();
        let (find_gap, fill) = (room.clone().recipient(), room.recipient());
        fill_page(&find_gap, &fill, &room_id!("!room:example.org").to_owned()).await
    }

    #[actix::test]
    async fn a_page_goes_on_until_the_room_is_whole_or_nobody_gives_more() {
        let many = limits::FILL_REQUESTS + 5;
        for (gaps, given, came) in [
            (0, 0, Came::Whole),
            (3, 3, Came::Whole),
            (3, 2, Came::Some),
            (3, 0, Came::Nothing),
            (many, many, Came::Some),
        ] {
            assert_eq!(
                page_of(gaps, given, false).await.unwrap(),
                came,
                "{gaps} gaps, {given} given"
            );
        }
        assert!(page_of(1, 1, true).await.is_err());
    }
}
