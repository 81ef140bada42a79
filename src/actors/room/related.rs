//! What our users read of events that relate to others: pages of them, threads, and what is added to
//! an event that is shown.

use actix::{Context as ActorContext, Handler, ResponseFuture};
use ruma::OwnedUserId;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    actor::RoomActor,
    links::ask,
    messages::{ReadRelations, ReadThreadList, RoomError},
    reads::Sight,
    worker::Worker,
};
use crate::{
    actors::store::{BundlesRead, ReadBundles, Reader, RelatedPage, StoredEvent},
    config::limits,
};

impl Sight {
    /// Returns who reads, and up to where.
    fn reader(&self, user_id: OwnedUserId) -> Reader {
        let until = match self {
            Self::Member => None,
            Self::Former { order, .. } => Some(*order),
        };
        Reader { user_id, until }
    }
}

impl Worker {
    /// Reads what is added to events for a user of ours, and whom the user ignores.
    pub(super) async fn bundled(
        &self,
        sight: &Sight,
        user_id: OwnedUserId,
        events: impl IntoIterator<Item = &StoredEvent>,
    ) -> Result<BundlesRead, RoomError> {
        let event_ids = events.into_iter().map(|event| event.event_id.clone()).collect();
        let (room_id, reader) = (self.room_id.clone(), sight.reader(user_id));
        ask(&self.links.store.read_bundles, ReadBundles { room_id, reader, event_ids }).await
    }

    async fn read_relations(&self, msg: ReadRelations) -> Result<RelatedPage, RoomError> {
        let ReadRelations(mut wanted) = msg;
        let sight = self.sight(wanted.reader.user_id.clone()).await?;
        wanted.reader = sight.reader(wanted.reader.user_id);
        wanted.room_id = self.room_id.clone();
        wanted.limit = wanted.limit.clamp(1, limits::PAGE);
        let page = ask(&self.links.store.read_related, wanted).await?;
        page.ok_or(RoomError::EventNotFound)
    }

    async fn read_threads(&self, msg: ReadThreadList) -> Result<RelatedPage, RoomError> {
        let ReadThreadList(mut wanted) = msg;
        let sight = self.sight(wanted.reader.user_id.clone()).await?;
        wanted.reader = sight.reader(wanted.reader.user_id);
        wanted.room_id = self.room_id.clone();
        wanted.limit = wanted.limit.clamp(1, limits::PAGE);
        ask(&self.links.store.read_threads, wanted).await
    }
}

/// Leaves out what people said whom the reader ignores; state is shown whoever set it.
pub(super) fn without_ignored(events: &mut Vec<StoredEvent>, read: &BundlesRead) {
    #[derive(Deserialize)]
    struct Event {
        sender: OwnedUserId,
        state_key: Option<IgnoredAny>,
    }
    if read.ignored.is_empty() {
        return;
    }
    events.retain(|event| {
        serde_json::from_str::<Event>(&event.json)
            .is_ok_and(|event| event.state_key.is_some() || !read.ignored.contains(&event.sender))
    });
}

impl Handler<ReadRelations> for RoomActor {
    type Result = ResponseFuture<Result<RelatedPage, RoomError>>;

    fn handle(&mut self, msg: ReadRelations, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_relations(msg).await })
    }
}

impl Handler<ReadThreadList> for RoomActor {
    type Result = ResponseFuture<Result<RelatedPage, RoomError>>;

    fn handle(&mut self, msg: ReadThreadList, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_threads(msg).await })
    }
}
