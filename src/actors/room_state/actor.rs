//! RoomState: starts rooms when they are needed, drains them when they are not, and knows which
//! servers are in which.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Message, Recipient,
    ResponseActFuture, ResponseFuture, WeakAddr, WrapFuture as _, fut,
};
use futures::StreamExt as _;
use ruma::{
    CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId,
    events::room::member::MembershipState,
};

use tokio::sync::watch;

use super::{
    create::Births,
    index::{Changed, Index, Indexed},
    invites::{Admitted, Invite, Invites},
    messages::{
        Briefly, ForgetRoom, IngestIntoRoom, Listens, MeetWith, ProfileUpdated, ServeRoom,
        SharesTurned, ToRoom, UserGone,
    },
    presence::{self, OwnPresence},
};
use crate::{
    actors::{
        clock::now_ms,
        cpu::Cpu,
        down::{Down, DownGuard},
        ephemera::{Presence, Typing},
        error::AskError,
        gossip::{JoinTopic, LeaveTopic, PublishTransaction},
        identity::{FindServerKeys, KeepKeys, UseSigner},
        outbox::{Decided, InviteRefused, LeaveThrough, Owe},
        rendezvous::SharedServers,
        room::{
            Advanced, Carried, Drain, ExpireInvite, HeadsHeard, Links, People, ProfileChanged,
            Publish, RoomActor, RoomError, RoomQuery, Said, StoreLink,
        },
        store,
        upward::{FederationError, SendFederation, TransactionVerdict},
    },
    config::limits,
    proto::{push_rules::Listeners, signer::Signer},
};

/// How often idle rooms are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Panics of one room within [`CRASH_WINDOW`] after which it is not started any more.
const CRASHES_MAX: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(600);
/// Rooms that tell of a new profile at the same time.
const PROFILES_AT_ONCE: usize = 4;
/// How long a server with which the last room was left counts on as one of ours: whoever leaves a
/// room says so by gossip, and often comes into another at once.
const PARTING: Duration = Duration::from_secs(15);
/// Whom RoomState, and the rooms it starts, may talk to.
#[derive(Clone)]
pub struct RoomStateLinks {
    /// Keeps everything.
    pub store: StoreLink,
    /// Store: the index of rooms.
    pub list_rooms: Recipient<store::ListRooms>,
    /// Gossip.
    pub join_topic: Recipient<JoinTopic>,
    /// Gossip.
    pub leave_topic: Recipient<LeaveTopic>,
    /// Gossip.
    pub publish: Recipient<PublishTransaction>,
    /// RelayRequest.
    pub federation: Recipient<SendFederation>,
    /// Outbox: what another server has to get.
    pub owe: Recipient<Owe>,
    /// Outbox: whether an event came to be for which something waits there.
    pub decided: Recipient<Decided>,
    /// Meeting: servers that are reached through others alone.
    pub carried: watch::Receiver<Carried>,
    /// Rendezvous.
    pub shared: Recipient<SharedServers>,
    /// Identity.
    pub find_keys: Recipient<FindServerKeys>,
    /// Identity.
    pub keep_keys: Recipient<KeepKeys>,
    /// Ephemera.
    pub typing: Recipient<Typing>,
    /// Ephemera.
    pub presence: Recipient<Presence>,
    /// Signatures and state resolution.
    pub cpu: Cpu,
}

enum Slot {
    Live { room: Addr<RoomActor>, used: Instant },
    Draining(WeakAddr<RoomActor>),
}

/// The owner of all rooms.
pub struct RoomStateActor {
    pub(super) links: RoomStateLinks,
    room_links: Option<Arc<Links>>,
    pub(super) signer: Option<Arc<Signer>>,
    people: watch::Sender<People>,
    listeners: watch::Sender<Listeners>,
    slots: HashMap<OwnedRoomId, (u64, Slot)>,
    generation: u64,
    crashes: HashMap<OwnedRoomId, Vec<Instant>>,
    pub(super) rooms: Index,
    pub(super) births: Births,
    invites: Invites,
    /// Servers of which Rendezvous is to hear that no room is shared any more.
    parting: HashSet<OwnedServerName>,
    /// Of each of our users who showed a sign of life.
    own_presence: HashMap<OwnedUserId, OwnPresence>,
    /// Who meets the servers that rooms are shared with.
    meeting: Option<MeetWith>,
}

impl RoomStateActor {
    /// Makes the actor; the rooms start once there is a signer.
    pub fn new(links: RoomStateLinks) -> Self {
        Self {
            links,
            room_links: None,
            signer: None,
            people: watch::channel(People::default()).0,
            listeners: watch::channel(Listeners::default()).0,
            slots: HashMap::new(),
            generation: 0,
            crashes: HashMap::new(),
            rooms: Index::default(),
            births: Births::default(),
            invites: Invites::default(),
            parting: HashSet::new(),
            own_presence: HashMap::new(),
            meeting: None,
        }
    }

    /// Tells whether a room id means something here: a room that is known, or is being made.
    pub(super) fn is_taken(&self, room_id: &OwnedRoomId) -> bool {
        self.rooms.knows(room_id) || self.slots.contains_key(room_id)
    }

    /// Returns the actor of a room, starting it if need be.
    pub(super) fn room(
        &mut self,
        room_id: &OwnedRoomId,
        ctx: &mut Context<Self>,
    ) -> Result<Addr<RoomActor>, RoomError> {
        if let Some((_, slot)) = self.slots.get_mut(room_id) {
            let live = match slot {
                Slot::Live { room, .. } if room.connected() => Some(room.clone()),
                Slot::Draining(room) => room.upgrade().filter(Addr::connected),
                Slot::Live { .. } => None,
            };
            if let Some(room) = live {
                *slot = Slot::Live { room: room.clone(), used: Instant::now() };
                return Ok(room);
            }
        }
        if self.crashes.get(room_id).is_some_and(|crashes| crashes.len() >= CRASHES_MAX) {
            log::warn!(room_id:%; "room is quarantined after repeated crashes");
            return Err(RoomError::Ask(AskError::Ended));
        }
        let signer = self.signer.clone().ok_or(RoomError::NotFound)?;
        self.generation += 1;
        let down = DownGuard::new(room_id.clone(), self.generation, ctx.address().recipient());
        let links = self.links_of_rooms(ctx);
        let room = RoomActor::new(room_id.clone(), links, signer, down).start();
        let slot = Slot::Live { room: room.clone(), used: Instant::now() };
        self.slots.insert(room_id.clone(), (self.generation, slot));
        Ok(room)
    }

    /// Returns whom rooms may talk to: one set for all, since a set takes some KiB.
    fn links_of_rooms(&mut self, ctx: &Context<Self>) -> Arc<Links> {
        let links = self.room_links.get_or_insert_with(|| {
            let RoomStateLinks {
                store,
                publish: gossip,
                federation,
                owe,
                decided,
                find_keys,
                keep_keys,
                typing,
                presence,
                carried,
                cpu,
                ..
            } = self.links.clone();
            let (advanced, heads_heard) = (ctx.address().recipient(), ctx.address().recipient());
            let said = ctx.address().recipient();
            Arc::new(Links {
                store,
                gossip,
                federation,
                owe,
                decided,
                find_keys,
                keep_keys,
                typing,
                presence,
                advanced,
                heads_heard,
                said,
                people: self.people.subscribe(),
                listeners: self.listeners.subscribe(),
                carried,
                cpu,
            })
        });
        Arc::clone(links)
    }

    /// Tells whether a room is in memory for a reason of its own.
    pub(super) fn is_awake(&self, room_id: &OwnedRoomId) -> bool {
        matches!(self.slots.get(room_id), Some((_, Slot::Live { room, .. })) if room.connected())
    }

    /// Lets go of a room that was woken for one thing, unless it was used for another since.
    fn let_go(&mut self, room_id: &OwnedRoomId, since: Instant) {
        if let Some((_, slot)) = self.slots.get_mut(room_id)
            && let Slot::Live { room, used } = slot
            && *used <= since
        {
            room.do_send(Drain);
            *slot = Slot::Draining(room.downgrade());
        }
    }

    /// Returns the actor of a room that is known here: whoever made up room ids could fill the
    /// memory with them.
    pub(super) fn known_room(
        &mut self,
        room_id: &OwnedRoomId,
        ctx: &mut Context<Self>,
    ) -> Result<Addr<RoomActor>, RoomError> {
        match self.rooms.knows(room_id) {
            true => self.room(room_id, ctx),
            false => Err(RoomError::NotFound),
        }
    }

    /// An invite was none: whoever sends such must neither take a place nor fill the memory with rooms
    /// that nothing is known of.
    fn not_invited(&mut self, invite: &Invite) {
        let (room_id, user) = invite;
        if self.rooms.membership(room_id, user) != Some(&MembershipState::Invite) {
            self.invites.over(invite);
        }
        if !self.rooms.knows(room_id)
            && let Some((_, slot)) = self.slots.get_mut(room_id)
            && let Slot::Live { room, .. } = slot
        {
            room.do_send(Drain);
            *slot = Slot::Draining(room.downgrade());
        }
    }

    /// Returns the rooms in memory, those that drain included: one may be asked again.
    pub(super) fn in_memory(&self) -> impl Iterator<Item = Addr<RoomActor>> {
        self.slots.values().filter_map(|(_, slot)| match slot {
            Slot::Live { room, .. } => Some(room.clone()),
            Slot::Draining(room) => room.upgrade(),
        })
    }

    /// Lets go of rooms that had nothing to do for a while: each ends once its work is done.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        for (_, slot) in self.slots.values_mut() {
            if let Slot::Live { room, used } = slot
                && used.elapsed() > limits::ROOM_IDLE
            {
                room.do_send(Drain);
                *slot = Slot::Draining(room.downgrade());
            }
        }
        for crashes in self.crashes.values_mut() {
            crashes.retain(|at| at.elapsed() < CRASH_WINDOW);
        }
        let now = Instant::now();
        let away: Vec<_> =
            self.own_presence.values_mut().filter_map(|own| own.lapse(now)).collect();
        for away in away {
            self.publish_presence(&away, ctx);
            self.links.presence.do_send(away);
        }
    }

    /// Tells everybody who shares a room with a user of ours what his presence is.
    fn publish_presence(&self, presence: &Presence, ctx: &mut Context<Self>) {
        let Some(signer) = &self.signer else { return };
        let is_in =
            |room: &Indexed| room.locals.get(&presence.user_id) == Some(&MembershipState::Join);
        let rooms = self.rooms.iter().filter(|(_, room)| is_in(room));
        let rooms = rooms.map(|(room_id, room)| (room_id, &room.servers)).collect();
        let edu = match presence::edu(presence) {
            Ok(edu) => edu,
            Err(error) => return log::error!("presence cannot be written: {error}"),
        };
        for room_id in presence::cover(&rooms, signer.server_name()) {
            let message = Publish::new(Vec::new(), vec![edu.clone()]);
            ctx.notify(ToRoom { room_id: room_id.clone(), message });
        }
    }

    /// Tells who has to hear of it what a change of a room changed.
    fn turned(&mut self, room_id: OwnedRoomId, changed: Changed, ctx: &mut Context<Self>) {
        match changed.joined {
            Some(true) => {
                self.tell_entered(&room_id);
                self.links.join_topic.do_send(JoinTopic(room_id));
            }
            Some(false) => self.links.leave_topic.do_send(LeaveTopic(room_id)),
            None => {}
        }
        self.tell_meeting(&changed.gained, &changed.lost, Vec::new());
        self.tell_gained(changed.gained);
        self.part_later(changed.lost, ctx);
    }

    fn tell_meeting(
        &self,
        gained: &[OwnedServerName],
        lost: &[OwnedServerName],
        at_start: Vec<OwnedRoomId>,
    ) {
        if let Some(meeting) = &self.meeting
            && !(gained.is_empty() && lost.is_empty() && at_start.is_empty())
        {
            let (gained, lost) = (gained.to_vec(), lost.to_vec());
            let turned = SharesTurned { gained, lost, at_start, ..SharesTurned::default() };
            meeting.turned.do_send(turned);
        }
    }

    /// What members said while they let us in was for nobody else, or went out before we listened.
    fn tell_entered(&self, room_id: &OwnedRoomId) {
        let (Some(meeting), Some(room)) = (&self.meeting, self.rooms.get(room_id)) else { return };
        let entered = room.servers.iter().take(limits::COMPARED_ON_JOIN).cloned().collect();
        meeting.turned.do_send(SharesTurned { entered, ..SharesTurned::default() });
    }

    /// At once: whoever just joined speaks next.
    fn tell_gained(&mut self, gained: Vec<OwnedServerName>) {
        let added: Vec<_> =
            gained.into_iter().filter(|server| !self.parting.remove(server)).collect();
        if !added.is_empty() {
            self.links.shared.do_send(SharedServers { added, removed: Vec::new() });
        }
    }

    fn part_later(&mut self, lost: Vec<OwnedServerName>, ctx: &mut Context<Self>) {
        if lost.is_empty() {
            return;
        }
        self.parting.extend(lost.iter().cloned());
        ctx.run_later(PARTING, |act, _| {
            let removed: Vec<_> =
                lost.into_iter().filter(|server| act.parting.remove(server)).collect();
            if !removed.is_empty() {
                act.links.shared.do_send(SharedServers { added: Vec::new(), removed });
            }
        });
    }
}

impl Actor for RoomStateActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(SWEEP_EVERY, Self::sweep);
    }
}

impl<M> Handler<ToRoom<M>> for RoomStateActor
where
    M: Message + Send + 'static,
    M::Result: Send + 'static,
    RoomActor: Handler<M>,
{
    type Result = ResponseFuture<Result<M::Result, RoomError>>;

    fn handle(&mut self, msg: ToRoom<M>, ctx: &mut Self::Context) -> Self::Result {
        match self.room(&msg.room_id, ctx) {
            Ok(room) => {
                let answer = room.send(msg.message);
                Box::pin(async move { answer.await.map_err(|error| RoomError::Ask(error.into())) })
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }
}

impl<M> Handler<Briefly<M>> for RoomStateActor
where
    M: Message + Send + 'static,
    M::Result: Send + 'static,
    RoomActor: Handler<M>,
{
    type Result = ResponseActFuture<Self, Result<M::Result, RoomError>>;

    fn handle(&mut self, Briefly(msg): Briefly<M>, ctx: &mut Self::Context) -> Self::Result {
        let room_id = msg.room_id.clone();
        let woken = !self.is_awake(&room_id);
        let answer = Handler::<ToRoom<M>>::handle(self, msg, ctx);
        let since = Instant::now();
        Box::pin(answer.into_actor(self).map(move |answer, act, _| {
            if woken {
                act.let_go(&room_id, since);
            }
            answer
        }))
    }
}

impl Handler<IngestIntoRoom> for RoomStateActor {
    type Result = ResponseFuture<Result<TransactionVerdict, RoomError>>;

    fn handle(&mut self, msg: IngestIntoRoom, ctx: &mut Self::Context) -> Self::Result {
        let IngestIntoRoom { room_id, transaction } = msg;
        let room = self.known_room(&room_id, ctx);
        Box::pin(async move {
            room?.send(transaction).await.map_err(|error| RoomError::Ask(error.into()))
        })
    }
}

impl Handler<ServeRoom> for RoomStateActor {
    type Result = ResponseActFuture<Self, Result<CanonicalJsonValue, RoomError>>;

    fn handle(&mut self, msg: ServeRoom, ctx: &mut Self::Context) -> Self::Result {
        let ServeRoom { room_id, request } = msg;
        let invite = match &request.query {
            RoomQuery::Invite { user_id, .. } => Some((room_id.clone(), user_id.clone())),
            _ => None,
        };
        if let Some(invite) = &invite {
            let close = |server: &OwnedServerName| self.rooms.is_close(server);
            match self.invites.admit(invite, &request.origin, close, now_ms()) {
                Admitted::Free => {}
                Admitted::InsteadOf((room_id, user)) => {
                    if let Ok(room) = self.known_room(&room_id, ctx) {
                        room.do_send(ExpireInvite(user));
                    }
                }
                Admitted::None => {
                    log::debug!(origin:% = request.origin; "an invite is refused: no place for it");
                    let full = RoomError::Full("invites wait already; send yours again later");
                    return Box::pin(fut::ready(Err(full)));
                }
            }
        }
        let room = if invite.is_some() || self.rooms.knows(&room_id) {
            self.room(&room_id, ctx)
        } else {
            Err(RoomError::NotFound)
        };
        let answer =
            async move { room?.send(request).await.map_err(|error| RoomError::Ask(error.into()))? };
        Box::pin(answer.into_actor(self).map(move |answer, act, _| {
            if let Some(invite) = invite.filter(|_| answer.is_err()) {
                act.not_invited(&invite);
            }
            answer
        }))
    }
}

impl Handler<InviteRefused> for RoomStateActor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, msg: InviteRefused, ctx: &mut Self::Context) -> Self::Result {
        let room = match self.known_room(&msg.room_id, ctx) {
            // A room that was forgotten has no invites.
            Err(RoomError::NotFound) if self.signer.is_some() => {
                return Box::pin(async { true });
            }
            room => room,
        };
        Box::pin(async move {
            match room {
                Ok(room) => room.send(msg).await.unwrap_or(false),
                Err(_) => false,
            }
        })
    }
}

impl Handler<LeaveThrough> for RoomStateActor {
    type Result = ResponseActFuture<Self, Result<(), FederationError>>;

    fn handle(&mut self, msg: LeaveThrough, ctx: &mut Self::Context) -> Self::Result {
        let room = ToRoom { room_id: msg.room_id.clone(), message: msg };
        let left = Handler::<Briefly<LeaveThrough>>::handle(self, Briefly(room), ctx);
        Box::pin(left.map(|left, _, _| left.unwrap_or(Err(FederationError::Offline))))
    }
}

impl Handler<UseSigner> for RoomStateActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, msg: UseSigner, _: &mut Self::Context) -> Self::Result {
        for room in self.in_memory() {
            room.do_send(msg.clone());
        }
        let first = self.signer.replace(msg.0).is_none();
        let list_rooms = self.links.list_rooms.clone();
        let load =
            async move { if first { list_rooms.send(store::ListRooms).await.ok() } else { None } };
        Box::pin(load.into_actor(self).map(move |rooms, act, _| match rooms {
            None => {}
            Some(Err(error)) => log::error!("cannot read the list of rooms: {error}"),
            Some(Ok(rooms)) => {
                let mut gained = Vec::new();
                for row in rooms {
                    let (room_id, mut via) = (row.room_id, Vec::new());
                    let mut memberships = Vec::new();
                    for (user, local) in row.locals {
                        if let Some((server, since)) = local.invited_by {
                            // The date is the inviter's: one from the future would never be over.
                            let invite = (room_id.clone(), user.clone());
                            act.invites.waits(invite, server, since.min(now_ms()));
                        }
                        via.extend(local.via);
                        memberships.push((user, local.membership));
                    }
                    let changed =
                        act.rooms.advance(room_id.clone(), memberships, Some(row.servers));
                    act.rooms.set_public(&room_id, row.public);
                    act.rooms.invited(&room_id, via);
                    if changed.joined == Some(true) {
                        act.links.join_topic.do_send(JoinTopic(room_id));
                    }
                    gained.extend(changed.gained);
                }
                // Whoever left one may have been heard by nobody.
                let with_others = act.rooms.iter().filter(|(_, room)| !room.servers.is_empty());
                let with_others = with_others.map(|(room_id, _)| room_id.clone()).collect();
                act.tell_meeting(&gained, &[], with_others);
                act.tell_gained(gained);
            }
        }))
    }
}

impl Handler<Advanced> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: Advanced, ctx: &mut Self::Context) {
        let Advanced { room_id, memberships, servers, public, via } = msg;
        for (user, membership) in &memberships {
            if *membership != MembershipState::Invite {
                self.invites.over(&(room_id.clone(), user.clone()));
            }
        }
        let changed = self.rooms.advance(room_id.clone(), memberships, servers);
        if let Some(public) = public {
            self.rooms.set_public(&room_id, public);
        }
        self.rooms.invited(&room_id, via);
        self.turned(room_id, changed, ctx);
    }
}

impl Handler<Down<OwnedRoomId>> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: Down<OwnedRoomId>, _: &mut Self::Context) {
        let Down { key, generation, panicked } = msg;
        if self.slots.get(&key).is_some_and(|(current, _)| *current == generation) {
            self.slots.remove(&key);
        }
        if panicked {
            let crashes = self.crashes.entry(key.clone()).or_default();
            crashes.push(Instant::now());
            log::error!(room_id:% = key, crashes = crashes.len(); "room crashed");
        }
    }
}

/// The presence of a user of ours, from http.
impl Handler<Presence> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: Presence, ctx: &mut Self::Context) {
        let own = self.own_presence.entry(msg.user_id.clone()).or_default();
        if own.sign(&msg, Instant::now()) {
            self.publish_presence(&msg, ctx);
        }
        self.links.presence.do_send(msg);
    }
}

impl Handler<Listens> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: Listens, _: &mut Self::Context) {
        let Listens { user_id, listener } = msg;
        self.listeners.send_modify(|listeners| {
            Arc::make_mut(listeners).insert(user_id, Arc::new(listener));
        });
    }
}

impl Handler<ProfileUpdated> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: ProfileUpdated, ctx: &mut Self::Context) {
        let ProfileUpdated { user_id, shown, changed } = msg;
        self.people.send_modify(|people| {
            people.insert(user_id.clone(), shown);
        });
        if !changed {
            return;
        }
        let is_in = |room: &Indexed| room.locals.get(&user_id) == Some(&MembershipState::Join);
        let joined = self.rooms.iter().filter(|(_, room)| is_in(room));
        let joined: Vec<OwnedRoomId> = joined.map(|(room_id, _)| room_id.clone()).collect();
        let rooms = ctx.address();
        actix::spawn(async move {
            let sends = joined.into_iter().map(|room_id| {
                let message = ProfileChanged(user_id.clone());
                rooms.send(ToRoom { room_id, message })
            });
            futures::stream::iter(sends)
                .buffer_unordered(PROFILES_AT_ONCE)
                .collect::<Vec<_>>()
                .await;
        });
    }
}

impl Handler<UserGone> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, UserGone(user_id): UserGone, _: &mut Self::Context) {
        self.people.send_modify(|people| {
            people.remove(&user_id);
        });
    }
}

impl Handler<ForgetRoom> for RoomStateActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: ForgetRoom, ctx: &mut Self::Context) -> Self::Result {
        let ForgetRoom { user_id, room_id } = msg;
        match self.rooms.membership(&room_id, &user_id) {
            None => Box::pin(async { Err(RoomError::NotFound) }),
            Some(MembershipState::Leave | MembershipState::Ban) => {
                let room = self.room(&room_id, ctx);
                self.rooms.forget(&room_id, &user_id);
                Box::pin(async move {
                    let forgotten = room?.send(crate::actors::room::Forget(user_id)).await;
                    forgotten.map_err(|error| RoomError::Ask(error.into()))?
                })
            }
            Some(_) => Box::pin(async {
                Err(RoomError::BadRequest("leave the room before you forget it".to_owned()))
            }),
        }
    }
}

impl Handler<MeetWith> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: MeetWith, _: &mut Self::Context) {
        self.meeting = Some(msg);
    }
}

impl Handler<HeadsHeard> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: HeadsHeard, _: &mut Self::Context) {
        if let Some(meeting) = &self.meeting {
            meeting.heads_heard.do_send(msg);
        }
    }
}

impl Handler<Said> for RoomStateActor {
    type Result = ();

    fn handle(&mut self, msg: Said, _: &mut Self::Context) {
        if let Some(meeting) = &self.meeting {
            meeting.said.do_send(msg);
        }
    }
}
