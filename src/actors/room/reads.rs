//! What our users read of the room.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use actix::{Context as ActorContext, Handler, ResponseFuture};
use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use tokio::time::{Instant, timeout_at};

use super::{
    actor::RoomActor,
    client::state_type,
    links::ask,
    machine::MemberContent,
    messages::{Context, Page, ReadContext, ReadMembers, ReadMessages, ReadState, RoomError},
    related::without_ignored,
    worker::Worker,
};
use crate::{
    actors::store::{
        Direction, LoadEvents, LoadState, Lookup, Place, ReadTimeline, StoredEvent, TimelinePage,
    },
    config::limits,
    proto::stream::Order,
};

/// Pages of history that are fetched from others for one request.
const BACKFILL_ROUNDS: usize = 3;
/// How long that may take: somebody waits, and may be the only one who is there.
pub(super) const BACKFILL_WAIT: Duration = Duration::from_secs(10);

/// What a user of ours may see of the room.
pub(super) enum Sight {
    /// All that is here.
    Member,
    /// What was before the leave or ban, and the state at it.
    Former {
        /// The state group of the leave.
        group: u64,
        /// Its place in the timeline.
        order: Order,
    },
}

impl Worker {
    /// Returns what a user of ours may see.
    pub(super) async fn sight(&self, user: OwnedUserId) -> Result<Sight, RoomError> {
        let left = self
            .operate(move |machine| {
                let own = machine.membership(&user).ok_or(RoomError::NotFound)?;
                match own.membership {
                    MembershipState::Join => Ok((None, None)),
                    MembershipState::Leave | MembershipState::Ban => {
                        let id = own.event_id.clone().ok_or(RoomError::NotFound)?;
                        Ok((Some(id), None))
                    }
                    _ => Err(RoomError::NotFound.into()),
                }
            })
            .await?;
        let Some(event_id) = left else { return Ok(Sight::Member) };
        let leave = self.stored(&[event_id]).await?.into_iter().next();
        match leave {
            Some(StoredEvent { state_group: Some(group), order: Some(order), .. }) => {
                Ok(Sight::Former { group, order })
            }
            _ => Err(RoomError::NotFound),
        }
    }

    /// Reads stored events by id.
    async fn stored(&self, ids: &[OwnedEventId]) -> Result<Vec<StoredEvent>, RoomError> {
        let load = LoadEvents { room_id: self.room_id.clone(), event_ids: ids.to_vec() };
        let found = ask(&self.links.store.load_events, load).await?;
        let keep = |found| match found {
            Lookup::Found(event) => Some(event),
            Lookup::RedactedBy(_) | Lookup::Absent => None,
        };
        Ok(found.into_iter().filter_map(keep).collect())
    }

    /// Reads the state events of a group that a test lets through.
    async fn state_at(
        &self,
        group: u64,
        wanted: impl Fn(&StateEventType, &str) -> bool,
    ) -> Result<Vec<StoredEvent>, RoomError> {
        let load = LoadState { room_id: self.room_id.clone(), group };
        let state = ask(&self.links.store.load_state, load).await?;
        let ids: Vec<_> = state
            .into_iter()
            .filter(|((kind, key), _)| wanted(kind, key))
            .map(|(_, id)| id)
            .collect();
        self.stored(&ids).await
    }

    /// Reads the events of the current state that a test lets through.
    async fn current(
        &self,
        wanted: impl Fn(&StateEventType, &str) -> bool + Send + 'static,
    ) -> Result<Vec<StoredEvent>, RoomError> {
        let events = self
            .operate(move |machine| {
                let state = machine.state().filter(|pdu| {
                    let kind = StateEventType::from(pdu.kind.to_string());
                    pdu.state_key.as_deref().is_some_and(|key| wanted(&kind, key))
                });
                let events: Vec<_> = state.map(|pdu| shown(pdu)).collect();
                Ok((events, None))
            })
            .await?;
        Ok(events)
    }

    async fn read_state(
        &self,
        by: OwnedUserId,
        wanted: Option<(String, String)>,
    ) -> Result<Vec<StoredEvent>, RoomError> {
        let wanted = wanted.map(|(kind, key)| (state_type(&kind), key));
        let test = move |kind: &StateEventType, key: &str| {
            wanted.as_ref().is_none_or(|(wanted, at)| wanted == kind && at == key)
        };
        match self.sight(by).await? {
            Sight::Member => self.current(test).await,
            Sight::Former { group, .. } => self.state_at(group, test).await,
        }
    }

    async fn read_members(&self, msg: ReadMembers) -> Result<Vec<StoredEvent>, RoomError> {
        let members = |kind: &StateEventType, _: &str| *kind == StateEventType::RoomMember;
        let sight = self.sight(msg.by.clone()).await?;
        let events = match (sight, msg.at) {
            (Sight::Member, None) => self.current(members).await?,
            (Sight::Former { group, .. }, None) => self.state_at(group, members).await?,
            (sight, Some(at)) => {
                let at = match sight {
                    Sight::Member => at,
                    Sight::Former { order, .. } => at.min(order),
                };
                let page = self.page(Some(at), None, Direction::Backward, 1, true).await?;
                match page.events.first().and_then(|event| event.state_group) {
                    Some(group) => self.state_at(group, members).await?,
                    None => Vec::new(),
                }
            }
        };
        let keep = |event: &StoredEvent| {
            let Some(membership) = membership_of(event) else { return false };
            msg.membership.as_ref().is_none_or(|wanted| *wanted == membership)
                && msg.not_membership.as_ref().is_none_or(|not| *not != membership)
        };
        Ok(events.into_iter().filter(keep).collect())
    }

    async fn page(
        &self,
        from: Option<Order>,
        to: Option<Order>,
        direction: Direction,
        limit: usize,
        over_gap: bool,
    ) -> Result<TimelinePage, RoomError> {
        let room_id = self.room_id.clone();
        let read = ReadTimeline { room_id, from, to, over_gap, direction, limit };
        ask(&self.links.store.read_timeline, read).await
    }

    async fn read_messages(&self, msg: ReadMessages) -> Result<Page, RoomError> {
        let limit = msg.limit.clamp(1, limits::PAGE);
        let (mut from, mut to) = (msg.from, msg.to);
        let sight = self.sight(msg.by.clone()).await?;
        if let Sight::Former { order, .. } = sight {
            match msg.direction {
                Direction::Backward => from = Some(from.map_or(order, |from| from.min(order))),
                Direction::Forward => to = Some(to.map_or(order, |to| to.min(order))),
            }
        }
        let mut page = self.page_with_history(from, to, msg.direction, limit).await?;
        let start = from.or_else(|| page.events.first().and_then(|event| event.order));
        let start = start.unwrap_or(Order::live(0));
        let read = self.bundled(&sight, msg.by, &page.events).await?;
        without_ignored(&mut page.events, &read);
        let redactions = self.redactions(page.events.iter()).await?;
        let members = self.members_of(&page.events).await?;
        let (events, next, bundles) = (page.events, page.next, read.bundles);
        Ok(Page { events, start, next, redactions, members, bundles })
    }

    /// Reads a page, and fetches what is missing of it. What nobody can give now is left out once
    /// there is nothing else before it: it may be there at the next try, and who is alone can read
    /// what is older all the same.
    async fn page_with_history(
        &self,
        from: Option<Order>,
        to: Option<Order>,
        direction: Direction,
        limit: usize,
    ) -> Result<TimelinePage, RoomError> {
        let rounds = match direction {
            Direction::Backward => BACKFILL_ROUNDS,
            // What is missing is fetched from its end, and the page begins with its begin.
            Direction::Forward => limits::MISSING_ROUNDS,
        };
        let until = Instant::now() + BACKFILL_WAIT;
        let mut page = self.page(from, to, direction, limit, false).await?;
        for _ in 0..rounds {
            let Some(before) = page.gap.clone().filter(|_| page.events.len() < limit) else {
                return Ok(page);
            };
            let missing = match direction {
                Direction::Backward => limit.saturating_sub(page.events.len()),
                Direction::Forward => limits::MISSING_PAGE,
            };
            let came = timeout_at(until, self.backfill(before, missing)).await;
            if !matches!(came, Ok(Ok(true))) {
                break;
            }
            page = self.page(from, to, direction, limit, false).await?;
        }
        if page.events.is_empty() && page.gap.is_some() {
            page = self.page(from, to, direction, limit, true).await?;
        }
        Ok(page)
    }

    /// Reads the redactions of some events.
    async fn redactions(
        &self,
        events: impl Iterator<Item = &StoredEvent>,
    ) -> Result<HashMap<OwnedEventId, StoredEvent>, RoomError> {
        let ids: Vec<_> = events.filter_map(|event| event.redacted_because.clone()).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.stored(&ids).await?;
        Ok(found.into_iter().map(|event| (event.event_id.clone(), event)).collect())
    }

    /// Reads the membership events of those who sent some events.
    async fn members_of(&self, events: &[StoredEvent]) -> Result<Vec<StoredEvent>, RoomError> {
        let senders: HashSet<String> =
            events.iter().filter_map(sender_of).map(|sender| sender.to_string()).collect();
        self.current(move |kind, key| *kind == StateEventType::RoomMember && senders.contains(key))
            .await
    }

    async fn read_context(&self, msg: ReadContext) -> Result<Context, RoomError> {
        let sight = self.sight(msg.by.clone()).await?;
        let event = self.stored(std::slice::from_ref(&msg.event_id)).await?.into_iter().next();
        let event = event
            .filter(|event| matches!(event.place, Place::Live | Place::Backfilled))
            .ok_or(RoomError::EventNotFound)?;
        let order = event.order.ok_or(RoomError::EventNotFound)?;
        let end = match sight {
            Sight::Member => None,
            Sight::Former { order: last, .. } if order > last => {
                return Err(RoomError::EventNotFound);
            }
            Sight::Former { order: last, .. } => Some(last),
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let limit = msg.limit.min(limits::PAGE);
        if limit > 0 {
            let half = limit.div_ceil(2);
            let page =
                self.page(Some(order.before()), None, Direction::Backward, half, false).await?;
            before = page.events;
            let page = self
                .page(Some(order), end, Direction::Forward, limit - half.min(limit), false)
                .await?;
            after = page.events;
        }
        let last = after.last().unwrap_or(&event);
        let state = match (limit, last.state_group) {
            (0, _) | (_, None) => Vec::new(),
            (_, Some(group)) => {
                let shown = before.iter().chain(&after).chain(std::iter::once(&event));
                let senders: HashSet<String> =
                    shown.filter_map(sender_of).map(|sender| sender.to_string()).collect();
                let is_shown = |kind: &StateEventType, key: &str| {
                    !msg.lazy_load_members
                        || *kind != StateEventType::RoomMember
                        || senders.contains(key)
                };
                self.state_at(group, is_shown).await?
            }
        };
        let start = before.last().and_then(|event| event.order).unwrap_or(order).before();
        let end = last.order.unwrap_or(order);
        let around = before.iter().chain(&after).chain(std::iter::once(&event));
        let read = self.bundled(&sight, msg.by, around).await?;
        without_ignored(&mut before, &read);
        without_ignored(&mut after, &read);
        let around = before.iter().chain(&after).chain(std::iter::once(&event));
        let redactions = self.redactions(around).await?;
        Ok(Context { start, end, event, before, after, state, redactions, bundles: read.bundles })
    }
}

/// Returns an event of the current state as one from the Store.
fn shown(pdu: &crate::proto::pdu::Pdu) -> StoredEvent {
    StoredEvent {
        event_id: pdu.event_id.clone(),
        json: pdu.json.as_ref().into(),
        place: Place::Live,
        state_group: None,
        order: None,
        spoilt: false,
        txn: None,
        redacted_because: None,
    }
}

fn membership_of(event: &StoredEvent) -> Option<MembershipState> {
    #[derive(serde::Deserialize)]
    struct Member {
        content: MemberContent,
    }
    serde_json::from_str::<Member>(&event.json).ok().map(|member| member.content.membership)
}

fn sender_of(event: &StoredEvent) -> Option<OwnedUserId> {
    #[derive(serde::Deserialize)]
    struct Sender {
        sender: OwnedUserId,
    }
    serde_json::from_str::<Sender>(&event.json).ok().map(|event| event.sender)
}

impl Handler<ReadState> for RoomActor {
    type Result = ResponseFuture<Result<Vec<StoredEvent>, RoomError>>;

    fn handle(&mut self, msg: ReadState, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_state(msg.by, msg.wanted).await })
    }
}

impl Handler<ReadMembers> for RoomActor {
    type Result = ResponseFuture<Result<Vec<StoredEvent>, RoomError>>;

    fn handle(&mut self, msg: ReadMembers, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_members(msg).await })
    }
}

impl Handler<ReadMessages> for RoomActor {
    type Result = ResponseFuture<Result<Page, RoomError>>;

    fn handle(&mut self, msg: ReadMessages, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_messages(msg).await })
    }
}

impl Handler<ReadContext> for RoomActor {
    type Result = ResponseFuture<Result<Context, RoomError>>;

    fn handle(&mut self, msg: ReadContext, ctx: &mut ActorContext<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        Box::pin(async move { worker.read_context(msg).await })
    }
}
