//! Comparing heads with the servers that we meet: one message for hundreds of rooms, and only rooms
//! that differ are started (`docs/PROTOCOL.md` §5).
//!
//! Invariants: of each server one exchange at a time; a room is compared only with servers
//! that are in it; what another server answers about rooms that were not asked for is not looked at.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, ResponseFuture, SpawnHandle,
    WrapFuture as _,
};
use futures::StreamExt as _;
use rand::{RngExt as _, seq::SliceRandom as _};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::{json, value::RawValue};

use super::{
    actor::{RoomStateActor, RoomStateLinks},
    distant::AFTER_CHANGE,
    index::Indexed,
    messages::{Briefly, CompareHeads, ToRoom},
    missing::Keys,
};
use crate::{
    actors::{
        catch_up::{CatchUp, CatchUpActor, CaughtUp, ForgetServer, TakeIn},
        gossip::GossipLost,
        room::{FollowHeads, RoomError, TakeDeparture, TakeMissing, ask, federation, read},
        store::{FindLacking, ReadDepartures, ReadHeads, RoomEvents},
        upward::{ServerOffline, ServerOnline},
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        heads::{ComparedHeads, Gap, fingerprint},
        signer::Signer,
    },
};

/// Heads are compared again this long after the last time, and up to half as much later.
const EVERY: Duration = Duration::from_secs(120);
/// The same after an exchange that failed; doubled each time, up to [`EVERY`].
const AGAIN: Duration = Duration::from_secs(5);
/// The same after gossip of the server was lost here, which its next announcement may be too.
const SOON: Duration = Duration::from_secs(3);
/// The same after a connection to it was made or lost beside others: several may be in a row.
const CHANGED: Duration = Duration::from_millis(500);
/// The same after it asked, and had other heads than we have.
const ASKED: Duration = Duration::from_secs(1);
/// What it asked with then is remembered, so many times: two nodes whose heads stay different (what
/// one refused, the other may have) do not ask each other for ever.
const DIFFERENCES_MAX: usize = 64;
/// Rooms that follow the heads of one server at the same time: a node in many rooms must not be
/// flooded by itself, nor use up what the other lets it ask.
const FOLLOWED_AT_ONCE: usize = 4;

/// How a server is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Footing {
    /// It is connected.
    Connected,
    /// It is not, and it is being found out whether others carry to it.
    Sought,
    /// Others carry to it.
    Carried,
}

/// The servers that are met.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    open: HashMap<OwnedServerName, Meeting>,
    /// Of the last meeting, so that an exchange knows whether its own still goes on.
    number: u64,
}

/// One server that is met.
#[derive(Debug)]
struct Meeting {
    footing: Footing,
    number: u64,
    running: bool,
    planned: Option<SpawnHandle>,
    /// Why the next exchange is to come soon, since the last one began.
    reason: Option<Reason>,
    failures: u32,
    /// When the last exchange ended.
    ended: Option<Instant>,
    /// The differences for which it was asked back, hashed.
    differences: HashSet<u64>,
}

/// Why heads are compared soon; the most urgent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Gossip was lost.
    Lost,
    /// The server has other heads.
    Differs,
    /// A connection to it was made or lost.
    Changed,
}

impl Meeting {
    /// Returns how long to wait for the next exchange; `chance` is between 0 and 1.
    fn pause(&self, chance: f64) -> Duration {
        let pause = match (self.failures.checked_sub(1), self.reason) {
            (_, Some(Reason::Changed)) => CHANGED,
            (None, Some(Reason::Differs)) => {
                let since = self.ended.map_or(AGAIN, |at| at.elapsed());
                ASKED.max(AGAIN.saturating_sub(since).mul_f64(0.5))
            }
            (None, Some(Reason::Lost)) => SOON,
            (None, None) => EVERY,
            (Some(before), _) => AGAIN.saturating_mul(1 << before.min(16)).min(EVERY),
        };
        pause.mul_f64(1.0 + chance / 2.0)
    }
}

impl Meetings {
    /// A meeting begins, in the place of one on another footing.
    pub(super) fn begin(&mut self, server: &OwnedServerName, footing: Footing) {
        self.number += 1;
        let meeting = Meeting {
            footing,
            number: self.number,
            running: false,
            planned: None,
            reason: None,
            failures: 0,
            ended: None,
            differences: HashSet::new(),
        };
        self.open.insert(server.clone(), meeting);
    }

    /// A meeting is over.
    pub(super) fn end(&mut self, server: &OwnedServerName) -> Option<SpawnHandle> {
        self.open.remove(server)?.planned
    }

    /// A meeting goes on, on this footing.
    pub(super) fn settle(&mut self, server: &OwnedServerName, footing: Footing) {
        if let Some(meeting) = self.open.get_mut(server) {
            meeting.footing = footing;
        }
    }

    /// Returns how a server is met.
    pub(super) fn footing(&self, server: &OwnedServerName) -> Option<Footing> {
        self.open.get(server).map(|meeting| meeting.footing)
    }

    /// Returns how many are met on a footing.
    pub(super) fn count(&self, footing: Footing) -> usize {
        self.open.values().filter(|meeting| meeting.footing == footing).count()
    }
}

impl RoomStateActor {
    /// Begins an exchange with a server.
    pub(super) fn exchange(&self, server: OwnedServerName, ctx: &Context<Self>) -> Exchange {
        let (links, rooms) = (self.links.clone(), ctx.address());
        Exchange { links, rooms, server, catch_up: self.catch_up.clone() }
    }

    /// Plans the next exchange with a server, unless there is one to come.
    pub(super) fn plan_meeting(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        let Some(meeting) = self.online.open.get_mut(server) else { return };
        if meeting.running || meeting.planned.is_some() {
            return;
        }
        let pause = meeting.pause(rand::rng().random());
        let server = server.clone();
        meeting.planned = Some(ctx.run_later(pause, move |act, ctx| act.compare(&server, ctx)));
    }

    /// Has heads compared with a server soon.
    fn compare_soon(&mut self, server: &OwnedServerName, why: Reason, ctx: &mut Context<Self>) {
        let Some(meeting) = self.online.open.get_mut(server) else { return };
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
        let meeting = self.online.open.get_mut(server).filter(|meeting| {
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
        // Of an invite it is asked whether it still stands.
        let invited = self.rooms.invited_through(server);
        let asked: Vec<OwnedRoomId> =
            self.rooms.shared_with(server).into_iter().chain(invited).cloned().collect();
        let Some(meeting) = self.online.open.get_mut(server).filter(|meeting| !meeting.running)
        else {
            return;
        };
        if let Some(planned) = meeting.planned.take() {
            ctx.cancel_future(planned);
        }
        // With the first shared room it is planned.
        if asked.is_empty() {
            if meeting.footing != Footing::Connected {
                self.lose_sight(server);
            }
            return;
        }
        meeting.running = true;
        meeting.reason = None;
        let number = meeting.number;
        let exchange = self.exchange(server.clone(), ctx);
        let compared = async move {
            let done = exchange.run(asked).await;
            (exchange.server, done)
        };
        ctx.spawn(compared.into_actor(self).map(move |(server, done), act, ctx| {
            let meeting = act.online.open.get_mut(&server);
            let Some(meeting) = meeting.filter(|meeting| meeting.number == number) else { return };
            meeting.running = false;
            meeting.ended = Some(Instant::now());
            meeting.failures = match &done {
                Ok(()) => 0,
                Err(error) => {
                    log::debug!(server:%; "heads not compared: {error}");
                    meeting.failures.saturating_add(1)
                }
            };
            if meeting.footing != Footing::Connected {
                act.compared_at_a_distance(&server, &done);
            }
            act.plan_meeting(&server, ctx);
        }));
    }
}

impl Handler<ServerOnline> for RoomStateActor {
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

impl Handler<ServerOffline> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, ServerOffline(server): ServerOffline, ctx: &mut Self::Context) {
        if let Some(planned) = self.online.end(&server) {
            ctx.cancel_future(planned);
        }
        if let Some(catch_up) = &self.catch_up {
            catch_up.do_send(ForgetServer(server.clone()));
        }
        if self.rooms.shares(&server) {
            self.miss([&server], AFTER_CHANGE);
        }
    }
}

impl Handler<GossipLost> for RoomStateActor {
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

impl Handler<HeadsDiffer> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: HeadsDiffer, ctx: &mut Self::Context) {
        let Some(meeting) = self.online.open.get_mut(&msg.server) else { return };
        if meeting.differences.len() >= DIFFERENCES_MAX {
            meeting.differences.clear();
        }
        if meeting.differences.insert(msg.difference) {
            self.compare_soon(&msg.server, Reason::Differs, ctx);
        }
    }
}

impl Handler<CompareHeads> for RoomStateActor {
    type Result = ResponseFuture<Result<ComparedHeads, RoomError>>;

    fn handle(&mut self, msg: CompareHeads, ctx: &mut Self::Context) -> Self::Result {
        let CompareHeads { origin, mut rooms, permit } = msg;
        self.asked_by(&origin, ctx);
        let joined = |room_id| self.rooms.get(room_id).is_some_and(Indexed::is_joined);
        let unshared: Vec<OwnedRoomId> = rooms
            .keys()
            .filter(|room_id| joined(*room_id) && !self.rooms.is_shared(room_id, &origin))
            .cloned()
            .collect();
        rooms.retain(|room_id, _| self.rooms.is_shared(room_id, &origin));
        let (links, signer) = (self.links.clone(), self.signer.clone());
        let this = ctx.address();
        Box::pin(async move {
            let _permit = permit;
            let ours = ask(&links.read_heads, ReadHeads(rooms.keys().cloned().collect())).await?;
            let mut hash = DefaultHasher::new();
            let differ = ours.into_iter().filter(|(id, heads)| {
                let (theirs, ours) = (rooms.get(id), fingerprint(heads));
                let differs = theirs != Some(&ours);
                if differs {
                    (id, theirs, ours).hash(&mut hash);
                }
                differs
            });
            let differ: BTreeMap<_, _> =
                differ.map(|(room_id, heads)| (room_id, told(heads))).collect();
            let departures = match signer {
                Some(signer) if !unshared.is_empty() => {
                    departures(&links, signer, &origin, unshared).await?
                }
                _ => BTreeMap::new(),
            };
            if !differ.is_empty() {
                this.do_send(HeadsDiffer { server: origin, difference: hash.finish() });
            }
            let mut compared = ComparedHeads { rooms: differ, ..ComparedHeads::default() };
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
    links: &RoomStateLinks,
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

/// An exchange with one server.
pub(super) struct Exchange {
    pub(super) links: RoomStateLinks,
    pub(super) rooms: Addr<RoomStateActor>,
    pub(super) server: OwnedServerName,
    pub(super) catch_up: Option<Addr<CatchUpActor>>,
}

impl Handler<TakeIn> for RoomStateActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: TakeIn, ctx: &mut Self::Context) -> Self::Result {
        let TakeIn { room_id, server_name, pdus } = msg;
        let message = TakeMissing { server_name, pdus };
        let asked = ctx.address().send(Briefly(ToRoom { room_id, message }));
        Box::pin(async move { asked.await.map_err(|error| RoomError::Ask(error.into()))?? })
    }
}

impl Exchange {
    async fn run(&self, shared: Vec<OwnedRoomId>) -> Result<(), RoomError> {
        let mut result = Ok(());
        for part in shared.chunks(limits::HEADS_ROOMS) {
            result = result.and(self.compare(part.to_vec()).await?);
        }
        result
    }

    /// Compares rooms that fit into one message. The inner error is that of a room; the others go on.
    async fn compare(
        &self,
        room_ids: Vec<OwnedRoomId>,
    ) -> Result<Result<(), RoomError>, RoomError> {
        let ours = ask(&self.links.read_heads, ReadHeads(room_ids)).await?;
        let asked: HashSet<&OwnedRoomId> = ours.iter().map(|(room_id, _)| room_id).collect();
        let prints: BTreeMap<&OwnedRoomId, String> =
            ours.iter().map(|(room_id, heads)| (room_id, fingerprint(heads))).collect();
        let content = json!({"rooms": prints});
        let request =
            federation(&self.server, Endpoint::heads(), content, limits::FEDERATION_WAIT)?;
        let mut answer: ComparedHeads =
            read(&self.server, ask(&self.links.federation, request).await?)?;
        let left = asked.iter().map(|room_id| ((*room_id).clone(), answer.left_in(room_id)));
        self.take_departures(left.filter(|(_, events)| !events.is_empty()).collect()).await;
        let theirs = answer.rooms.into_iter().filter(|(room_id, _)| asked.contains(room_id));
        let theirs = theirs.map(|(room_id, mut heads)| {
            heads.truncate(limits::HEADS);
            (room_id, heads)
        });
        self.fetch(theirs.collect()).await
    }

    /// Hands rooms the events by which users of ours are out of them, as the other server sees it.
    async fn take_departures(&self, left: Vec<(OwnedRoomId, Vec<Box<RawValue>>)>) {
        let taken = left.into_iter().map(|(room_id, pdus)| async move {
            for pdu in pdus {
                let message = TakeDeparture { server_name: self.server.clone(), pdu };
                let room_id = room_id.clone();
                let asked = self.rooms.send(Briefly(ToRoom { room_id, message }));
                if let Ok(Ok(Err(error))) = asked.await {
                    log::debug!("not taken for a departure: {error}");
                }
            }
        });
        let taken: Vec<_> = taken.collect();
        let taken = futures::stream::iter(taken).buffer_unordered(FOLLOWED_AT_ONCE);
        taken.collect::<Vec<()>>().await;
    }

    /// Fetches what is not here of the heads of another server. The inner error is that of a room.
    pub(super) async fn fetch(
        &self,
        theirs: RoomEvents,
    ) -> Result<Result<(), RoomError>, RoomError> {
        // Where we are ahead, or refused what they have, there is no need to wake a room.
        let mut lacking = ask(&self.links.find_lacking, FindLacking(theirs.clone())).await?;
        let mut rounds = limits::MISSING_ROUNDS;
        if !lacking.is_empty()
            && let Some(catch_up) = &self.catch_up
        {
            let heads = lacking.iter().map(|(id, gap)| (id.clone(), gap.latest_events.clone()));
            let ask_for = CatchUp { server: self.server.clone(), heads: heads.collect() };
            let asked = catch_up.send(ask_for).await.map_err(|error| RoomError::Ask(error.into()));
            match asked.flatten() {
                Ok(CaughtUp::Unknown) => {}
                Err(error) if error.is_unreachable() || matches!(error, RoomError::Ask(_)) => {
                    return Err(error);
                }
                // What it refuses all rooms together it may give to one.
                Ok(CaughtUp::Done) | Err(_) => {
                    rounds = 0;
                    lacking = ask(&self.links.find_lacking, FindLacking(theirs)).await?;
                }
            }
        }
        let mut left = Vec::new();
        // A node of the first release is asked for events at once. Of what is more than a page the
        // first part comes first, and the rest on top of that.
        for _ in 0..rounds {
            if lacking.is_empty() {
                break;
            }
            let heads = lacking.iter().map(|(id, gap)| (id.clone(), gap.latest_events.clone()));
            let heads = FindLacking(heads.collect());
            let before: HashMap<_, _> = lacking.iter().cloned().collect();
            if let Err(error) = self.fetch_missing(lacking).await {
                log::debug!(server:% = self.server; "missing events not fetched: {error}");
            }
            let still = ask(&self.links.find_lacking, heads).await?;
            let got_on = |(id, gap): &(_, Gap)| before.get(id) != Some(gap);
            let (further, stuck): (Vec<_>, Vec<_>) = still.into_iter().partition(got_on);
            (lacking, left) = (further, [left, stuck].concat());
        }
        // What did not come so, each room fetches by itself.
        left.extend(lacking);
        let followed = left.into_iter().map(|(room_id, gap)| {
            let extremities = gap.latest_events;
            let server_name = self.server.clone();
            let message = FollowHeads { server_name, extremities };
            let asked = self.rooms.send(Briefly(ToRoom { room_id, message }));
            async move { asked.await.map_err(|error| RoomError::Ask(error.into()))?? }
        });
        let results = futures::stream::iter(followed).buffer_unordered(FOLLOWED_AT_ONCE);
        Ok(results.collect::<Vec<Result<(), RoomError>>>().await.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until the next exchange.
    fn pause_after(failures: u32, reason: Option<Reason>, chance: f64) -> u128 {
        let mut meetings = Meetings::default();
        let server = ruma::owned_server_name!("ann");
        meetings.begin(&server, Footing::Connected);
        let meeting = meetings.open.get_mut(&server).unwrap();
        (meeting.failures, meeting.reason) = (failures, reason);
        meeting.pause(chance).as_millis()
    }

    #[test]
    fn what_may_have_gone_astray_is_compared_within_five_seconds() {
        for reason in [Reason::Changed, Reason::Differs, Reason::Lost] {
            assert!(pause_after(0, Some(reason), 1.0) < 5_000, "{reason:?}");
        }
        assert!(pause_after(9, Some(Reason::Changed), 1.0) < 5_000, "whoever failed is back");
        assert!(Reason::Changed > Reason::Differs && Reason::Differs > Reason::Lost);
    }

    #[test]
    fn lost_gossip_is_made_up_for_soon() {
        let lost = Some(Reason::Lost);
        assert_eq!([0.0, 1.0].map(|chance| pause_after(0, lost, chance)), [3000, 4500]);
        assert_eq!(pause_after(2, lost, 0.0), 10_000, "who cannot be reached is not asked sooner");
    }

    #[test]
    fn failures_are_tried_again_soon_and_ever_later() {
        let pause = |failures, chance| pause_after(failures, None, chance) / 1000;
        assert_eq!([0, 1, 2, 3, 5, 6, 40].map(|n| pause(n, 0.0)), [120, 5, 10, 20, 80, 120, 120]);
        assert_eq!((pause(0, 1.0), pause(1, 0.5)), (180, 6));
    }

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
