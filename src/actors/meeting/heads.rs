//! Heads of rooms compared with those of who is met, and with those of who asks: when, and with whom.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Instant,
};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use rand::{RngExt as _, seq::SliceRandom as _};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::value::RawValue;

use super::{
    actor::{MeetingActor, MeetingLinks},
    distant::AFTER_CHANGE,
    exchange::Exchange,
    meetings::{AGAIN, DIFFERENCES_MAX, Footing, Reason},
    messages::CompareHeads,
    missing::Keys,
    spreading::Compared,
};
use crate::{
    actors::{
        catch_up::ForgetServer,
        clock::uptime_ms,
        gossip::GossipLost,
        room::{RoomError, ask},
        room_state::{ReadShared, SharedRooms},
        store::{ReadDepartures, ReadHeads, RoomEvents},
        upward::{ServerOffline, ServerOnline},
    },
    config::limits,
    proto::{
        heads::{ComparedHeads, fingerprint},
        signer::Signer,
    },
};

impl MeetingActor {
    /// Makes an exchange with a server.
    pub(super) fn exchange(&self, server: OwnedServerName, ctx: &Context<Self>) -> Exchange {
        let (links, catch_up) = (self.links.clone(), self.catch_up.clone());
        let keys_heard = self.keys_heard.clone();
        Exchange { links, meeting: ctx.address(), server, catch_up, keys_heard }
    }

    /// Plans the next exchange with a server, unless there is one to come.
    pub(super) fn plan_meeting(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        let Some(meeting) = self.online.get_mut(server) else { return };
        if meeting.running || meeting.planned.is_some() {
            return;
        }
        let pause = meeting.pause(rand::rng().random());
        let server = server.clone();
        meeting.planned = Some(ctx.run_later(pause, move |act, ctx| act.compare(&server, ctx)));
    }

    /// Has heads compared with a server soon.
    pub(super) fn compare_soon(
        &mut self,
        server: &OwnedServerName,
        why: Reason,
        ctx: &mut Context<Self>,
    ) {
        let Some(meeting) = self.online.get_mut(server) else { return };
        if meeting.reason >= Some(why) {
            return;
        }
        meeting.reason = Some(why);
        if let Some(planned) = meeting.planned.take() {
            ctx.cancel_future(planned);
        }
        self.plan_meeting(server, ctx);
    }

    /// A server compared its heads with ours, and may have what we lack. When two connect, both ask;
    /// at a distance, one of them learns by this that the other is there.
    fn asked_by(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        self.distant.absent.hint(server, Instant::now());
        let lately = |at: Instant| at.elapsed() < AGAIN;
        let meeting = self.online.get_mut(server).filter(|meeting| {
            meeting.footing == Footing::Carried
                && !meeting.running
                && !meeting.ended.is_some_and(lately)
        });
        if let Some(planned) = meeting.and_then(|meeting| meeting.planned.take()) {
            ctx.cancel_future(planned);
            self.compare(server, ctx);
        }
    }

    /// Compares all rooms that are shared with a server.
    pub(super) fn compare(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        let Some(meeting) = self.online.get_mut(server).filter(|meeting| !meeting.running) else {
            return;
        };
        if let Some(planned) = meeting.planned.take() {
            ctx.cancel_future(planned);
        }
        meeting.running = true;
        meeting.reason = None;
        let number = meeting.number;
        let exchange = self.exchange(server.clone(), ctx);
        let compared = async move {
            let read = ReadShared(exchange.server.clone());
            let found = exchange.links.read_shared.send(read).await;
            let done = match found {
                // Of an invite it is asked whether it still stands.
                Ok(SharedRooms { shared, invited }) => {
                    let asked = [shared, invited].concat();
                    if asked.is_empty() { None } else { Some(exchange.run(asked).await) }
                }
                Err(error) => Some(Err(RoomError::Ask(error.into()))),
            };
            (exchange.server, done)
        };
        ctx.spawn(compared.into_actor(self).map(move |(server, done), act, ctx| {
            let meeting = act.online.get_mut(&server);
            let Some(meeting) = meeting.filter(|meeting| meeting.number == number) else { return };
            meeting.running = false;
            let is_connected = meeting.footing == Footing::Connected;
            let Some(done) = done else {
                // With the first shared room it is planned, which may be there by now.
                match act.shared.contains(&server) {
                    true => act.plan_meeting(&server, ctx),
                    false if is_connected => {}
                    false => act.lose_sight(&server),
                }
                return;
            };
            meeting.ended = Some(Instant::now());
            meeting.failures = match &done {
                Ok(()) => 0,
                Err(error) => {
                    log::debug!(server:%; "heads not compared: {error}");
                    meeting.failures.saturating_add(1)
                }
            };
            if !is_connected {
                act.compared_at_a_distance(&server, &done);
            }
            act.plan_meeting(&server, ctx);
        }));
    }
}

impl Handler<ServerOnline> for MeetingActor {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, ctx: &mut Self::Context) {
        if self.online.footing(&server) != Some(Footing::Connected) {
            if let Some(planned) = self.online.end(&server) {
                ctx.cancel_future(planned);
            }
            self.online.begin(&server, Footing::Connected);
            self.came_near(&server);
            return self.compare(&server, ctx);
        }
        self.compare_soon(&server, Reason::Changed, ctx);
    }
}

impl Handler<ServerOffline> for MeetingActor {
    type Result = ();

    fn handle(&mut self, ServerOffline(server): ServerOffline, ctx: &mut Self::Context) {
        if let Some(planned) = self.online.end(&server) {
            ctx.cancel_future(planned);
        }
        if let Some(catch_up) = &self.catch_up {
            catch_up.do_send(ForgetServer(server.clone()));
        }
        if self.shared.contains(&server) {
            self.miss([&server], AFTER_CHANGE);
        }
    }
}

impl Handler<GossipLost> for MeetingActor {
    type Result = ();

    fn handle(&mut self, GossipLost(server): GossipLost, ctx: &mut Self::Context) {
        self.compare_soon(&server, Reason::Lost, ctx);
    }
}

/// A server was found to have other heads than we have.
#[derive(actix::Message, Debug)]
#[rtype(result = "()")]
pub(super) struct HeadsDiffer {
    server: OwnedServerName,
    /// A hash of which heads those were, theirs and ours.
    difference: u64,
}

impl Handler<HeadsDiffer> for MeetingActor {
    type Result = ();

    fn handle(&mut self, msg: HeadsDiffer, ctx: &mut Self::Context) {
        let Some(meeting) = self.online.get_mut(&msg.server) else { return };
        if meeting.differences.len() >= DIFFERENCES_MAX {
            meeting.differences.clear();
        }
        if meeting.differences.insert(msg.difference) {
            self.compare_soon(&msg.server, Reason::Differs, ctx);
        }
    }
}

impl Handler<CompareHeads> for MeetingActor {
    type Result = ResponseFuture<Result<ComparedHeads, RoomError>>;

    fn handle(&mut self, msg: CompareHeads, ctx: &mut Self::Context) -> Self::Result {
        let CompareHeads { origin, mut rooms, permit } = msg;
        self.asked_by(&origin, ctx);
        let (links, signer) = (self.links.clone(), self.signer.clone());
        let (this, keys_ts) = (ctx.address(), self.keys_ts);
        Box::pin(async move {
            let _permit = permit;
            let sifted = links.sift(&origin, rooms.keys().cloned().collect()).await?;
            rooms.retain(|room_id, _| sifted.shared.contains(room_id));
            let (is_shared, unshared) = (!rooms.is_empty(), sifted.unshared);
            let asked_at = uptime_ms();
            let ours = ask(&links.read_heads, ReadHeads(rooms.keys().cloned().collect())).await?;
            let mut hash = DefaultHasher::new();
            let (same, differ): (RoomEvents, RoomEvents) =
                ours.into_iter().partition(|(id, heads)| {
                    let (theirs, ours) = (rooms.get(id), fingerprint(heads));
                    let is_same = theirs == Some(&ours);
                    if !is_same {
                        (id, theirs, ours).hash(&mut hash);
                    }
                    is_same
                });
            let count = same.len();
            let server = origin.clone();
            this.do_send(Compared { server, asked_at, same, others: Vec::new() });
            let differ: BTreeMap<_, _> =
                differ.into_iter().map(|(room_id, heads)| (room_id, told(heads))).collect();
            let departures = match signer {
                Some(signer) if !unshared.is_empty() => {
                    departures(&links, signer, &origin, unshared).await?
                }
                _ => BTreeMap::new(),
            };
            if !differ.is_empty() {
                this.do_send(HeadsDiffer { server: origin, difference: hash.finish() });
            }
            let mut compared = ComparedHeads {
                rooms: differ,
                same: Some(count),
                keys_ts: keys_ts.filter(|_| is_shared),
                ..ComparedHeads::default()
            };
            for (room_id, mut events) in departures {
                if let Some(last) = events.pop() {
                    compared.left.insert(room_id.clone(), last);
                }
                if !events.is_empty() {
                    compared.also_left.insert(room_id, events);
                }
            }
            Ok(compared)
        })
    }
}

/// Returns the events by which a server's users are out of rooms that it asks about.
async fn departures(
    links: &MeetingLinks,
    signer: Arc<Signer>,
    server: &OwnedServerName,
    room_ids: Vec<OwnedRoomId>,
) -> Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, RoomError> {
    let read = ReadDepartures { server_name: server.clone(), room_ids };
    let found = ask(&links.read_departures, read).await?;
    let keys = Keys::find(&links.find_keys, signer, found.iter().map(|(_, event)| event)).await?;
    let mut departures: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    for (room_id, event) in &found {
        if let Some(event) = keys.attach(event) {
            departures.entry(room_id.clone()).or_default().push(event);
        }
    }
    Ok(departures)
}

/// Chooses the heads that are told of a room: others each time where there are too many.
fn told(mut heads: Vec<OwnedEventId>) -> Vec<OwnedEventId> {
    if heads.len() > limits::HEADS {
        heads.shuffle(&mut rand::rng());
        heads.truncate(limits::HEADS);
    }
    heads
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn few_heads_are_told_and_others_each_time() {
        let heads = |count: usize| {
            (0..count).map(|n| OwnedEventId::try_from(format!("${n}")).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(told(heads(limits::HEADS)), heads(limits::HEADS));
        let seen: HashSet<_> = (0..200).flat_map(|_| told(heads(limits::HEADS + 5))).collect();
        assert_eq!(seen.len(), limits::HEADS + 5);
        assert_eq!(told(heads(500)).len(), limits::HEADS);
    }
}
