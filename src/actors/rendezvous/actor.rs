//! The shell of Rendezvous: runs what the machine decides.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use actix::prelude::*;
use libp2p::{Multiaddr, PeerId};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId};
use tokio::sync::oneshot;

use super::{
    Advertise, AskWith, FoundPerson, ReadNetwork, ReadProven, ResolveServer, SearchPeople,
    SharedServers, book,
    hunt::{Goal, Profile},
    machine::{Effect, Input, Machine},
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        cpu::Cpu,
        gossip::{PeerForgotten, PeerVerified},
        identity::{KeysSeen, UseSigner},
        rendezvous::ClockSeen,
        store::{Row, RowKind, ScanRows, WriteRows},
        swarm::{
            Admit, Dial, Discovery, Dismiss, Exchange, FindNode, FindProviders, Keep,
            NetworkStatus, Provide, ReadSwarm, SetIdentity, SwarmRestarted, read_address,
        },
        upward::{SendFederation, ServerOffline, ServerOnline},
    },
    config::limits,
    proto::{
        ProtoError,
        endpoint::Endpoint,
        names,
        rendezvous::{SearchTerm, record_key},
        server_keys::VerifiedServerKeys,
        server_name,
        signer::Signer,
    },
};

const TICK: Duration = Duration::from_secs(10);
/// Before a DHT that answered nothing is asked again.
const RETRY: Duration = Duration::from_millis(700);
/// Who was found is shown after this long without news: a public DHT that is slow, or a node that is
/// gone, is not waited for. Long enough for most lookups there.
const SETTLE: Duration = Duration::from_secs(2);
/// Somebody else's clock may be the wrong one: it is not said more often.
const CLOCK_TOLD_MS: u64 = 60_000;
/// Longest wait for a profile; the search goes on with the others.
const PROFILE_WAIT: Duration = Duration::from_secs(4);

/// What Rendezvous may say, and to whom.
#[derive(Clone)]
pub struct RendezvousParts {
    /// The processor pool.
    pub cpu: Cpu,
    /// Whether the rendezvous strings are advertised.
    pub advertise: bool,
    /// Identity.
    pub keys_seen: Recipient<KeysSeen>,
    /// RoomState.
    pub server_online: Recipient<ServerOnline>,
    /// RoomState.
    pub server_offline: Recipient<ServerOffline>,
    /// Store.
    pub write_rows: Recipient<WriteRows>,
    /// Store.
    pub scan_rows: Recipient<ScanRows>,
    /// Gossip.
    pub verified: Recipient<PeerVerified>,
    /// Gossip.
    pub forgotten: Recipient<PeerForgotten>,
    /// Swarm.
    pub set_identity: Recipient<SetIdentity>,
    /// Swarm.
    pub exchange: Recipient<Exchange>,
    /// Swarm.
    pub keep: Recipient<Keep>,
    /// Swarm.
    pub admit: Recipient<Admit>,
    /// Swarm.
    pub dismiss: Recipient<Dismiss>,
    /// Swarm.
    pub dial: Recipient<Dial>,
    /// Swarm.
    pub find_providers: Recipient<FindProviders>,
    /// Swarm.
    pub find_node: Recipient<FindNode>,
    /// Swarm.
    pub provide: Recipient<Provide>,
    /// Swarm.
    pub read: Recipient<ReadSwarm>,
}

/// Who waits for a hunt.
enum Asker {
    Node(oneshot::Sender<Option<PeerId>>),
    People(oneshot::Sender<Vec<FoundPerson>>),
}

/// Finds servers and people.
pub struct RendezvousActor {
    parts: RendezvousParts,
    machine: Machine<PeerId, Multiaddr>,
    askers: HashMap<u64, Asker>,
    next_ticket: u64,
    with: Option<AskWith>,
    /// When it was last said that a clock is wrong, by the uptime.
    clock_told: Option<u64>,
    signer: Option<Arc<Signer>>,
    /// Who shares a room with us and is connected: what a person reads of in the log.
    members: HashMap<PeerId, OwnedServerName>,
}

impl fmt::Debug for RendezvousActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RendezvousActor").field("machine", &self.machine).finish_non_exhaustive()
    }
}

type In = Input<PeerId, Multiaddr>;

impl RendezvousActor {
    /// Makes the actor.
    pub fn new(parts: RendezvousParts) -> Self {
        Self {
            parts,
            machine: Machine::default(),
            askers: HashMap::new(),
            next_ticket: 0,
            with: None,
            clock_told: None,
            signer: None,
            members: HashMap::new(),
        }
    }

    fn step(&mut self, input: In, ctx: &mut Context<Self>) {
        for effect in self.machine.handle(input, now_ms()) {
            self.run(effect, ctx);
        }
    }

    fn run(&mut self, effect: Effect<PeerId, Multiaddr>, ctx: &mut Context<Self>) {
        match effect {
            Effect::Own(keys) => self.parts.keys_seen.do_send(KeysSeen(*keys)),
            Effect::Exchange(peer) => self.parts.exchange.do_send(Exchange(peer)),
            Effect::Proven { peer, keys, first } => self.proven(peer, *keys, first),
            Effect::Admit(peer, server) => {
                log::info!("connected to {}", server_name::user_of(&server));
                log::debug!(server:%, peer:%; "the node of a member");
                self.members.insert(peer, server.clone());
                // In this order: gossip flows once the gate is open.
                self.parts.verified.do_send(PeerVerified(peer, server));
                self.parts.admit.do_send(Admit(peer));
            }
            Effect::Part(peer) => {
                self.members.remove(&peer);
                self.parts.forgotten.do_send(PeerForgotten(peer));
                self.parts.dismiss.do_send(Dismiss(peer));
            }
            Effect::Reconnected(server) => self.parts.server_online.do_send(ServerOnline(server)),
            Effect::Offline(server) => self.parts.server_offline.do_send(ServerOffline(server)),
            Effect::Over { peer, disconnect } => {
                if let Some(server) = self.members.remove(&peer) {
                    log::info!("not connected any more to {}", server_name::user_of(&server));
                }
                self.parts.forgotten.do_send(PeerForgotten(peer));
                if disconnect {
                    log::debug!(peer:%; "the proof of a node is over");
                    self.parts.dismiss.do_send(Dismiss(peer));
                }
            }
            Effect::Dial { peer, addresses } => self.parts.dial.do_send(Dial { peer, addresses }),
            Effect::FindProviders { ticket, rendezvous } => {
                let keys = rendezvous.iter().map(|string| record_key(string)).collect();
                self.parts.find_providers.do_send(FindProviders { ticket, keys });
            }
            Effect::FindNode { ticket, peer } => {
                self.parts.find_node.do_send(FindNode { ticket, peer });
            }
            Effect::AskProfile { ticket, user } => self.ask_profile(ticket, user, ctx),
            Effect::RetryLater(ticket) => {
                let wait = RETRY.mul_f64(0.75 + rand::random::<f64>() / 2.0);
                ctx.run_later(wait, move |actor, ctx| actor.step(Input::Retry(ticket), ctx));
            }
            Effect::SettleLater { ticket, stirred } => {
                ctx.run_later(SETTLE, move |actor, ctx| {
                    actor.step(Input::Settled { ticket, stirred }, ctx);
                });
            }
            Effect::Resolved { ticket, peer } => {
                if let Some(Asker::Node(reply)) = self.askers.remove(&ticket) {
                    let _ = reply.send(peer);
                }
            }
            Effect::Searched { ticket, found } => {
                if let Some(Asker::People(reply)) = self.askers.remove(&ticket) {
                    let _ = reply.send(found);
                }
            }
            Effect::Write { server, peer, place } => {
                let value = place.as_ref().and_then(book::encode);
                let row = Row::Address(server, peer.to_string());
                let write = self.parts.write_rows.send(WriteRows(vec![(row, value)]));
                let written = write.into_actor(self).map(|done, _, _| {
                    if !matches!(done, Ok(Ok(_))) {
                        log::warn!("an address was not written down");
                    }
                });
                ctx.spawn(written);
            }
            Effect::Provide(strings) => {
                if self.parts.advertise {
                    let keys = strings.iter().map(|string| record_key(string)).collect();
                    self.parts.provide.do_send(Provide(keys));
                }
            }
        }
    }

    fn proven(&self, peer: PeerId, keys: VerifiedServerKeys, first: bool) {
        if first {
            let server = keys.server_name().to_owned();
            log::debug!(server:%, peer:%; "proven to speak for");
            self.parts.keep.do_send(Keep(peer));
            self.parts.server_online.do_send(ServerOnline(server));
        }
        self.parts.keys_seen.do_send(KeysSeen(keys));
    }

    fn ask_profile(&mut self, ticket: u64, user: OwnedUserId, ctx: &mut Context<Self>) {
        let federation = self.with.as_ref().map(|with| with.federation.clone());
        let ask = SendFederation {
            destination: user.server_name().to_owned(),
            endpoint: Endpoint::profile(&user),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            timeout: PROFILE_WAIT,
        };
        let asked = async move {
            match federation?.send(ask).await {
                Ok(Ok(CanonicalJsonValue::Object(body))) => Some(read_profile(&body)),
                Ok(Ok(_)) | Err(_) => None,
                Ok(Err(error)) => {
                    log::debug!(error:%; "no profile");
                    None
                }
            }
        };
        let answered = asked.into_actor(self).map(move |profile, actor, ctx| {
            actor.step(Input::Profile { ticket, user, profile }, ctx);
        });
        ctx.spawn(answered);
    }

    fn ask(&mut self, asker: Asker, timeout: Duration, ctx: &mut Context<Self>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.askers.insert(ticket, asker);
        ctx.run_later(timeout, move |actor, ctx| {
            if actor.askers.contains_key(&ticket) {
                actor.step(Input::TimeUp(ticket), ctx);
            }
        });
        ticket
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.step(Input::Tick, ctx);
        ctx.run_later(TICK, Self::tick);
    }

    /// Reads which server_keys are the newest, so that older ones stay superseded.
    fn load_newest(&self, ctx: &mut Context<Self>) {
        let scan = self.parts.scan_rows.send(ScanRows(RowKind::ServerKeys));
        let cpu = self.parts.cpu.clone();
        let loaded = async move {
            let rows = scan.await.ok()?.ok()?;
            let job = cpu.run(move || {
                let keys = rows.iter().filter_map(|(_, value)| {
                    let json = serde_json::from_slice(value).ok()?;
                    VerifiedServerKeys::verify(json, now_ms()).ok()
                });
                keys.collect::<Vec<_>>()
            });
            job.await.ok()
        };
        let told = loaded.into_actor(self).map(|keys, actor, ctx| {
            actor.step(Input::Newest(keys.unwrap_or_default()), ctx);
        });
        ctx.spawn(told);
    }

    fn identity_came(&mut self, peer: PeerId, bytes: Vec<u8>, ctx: &mut Context<Self>) {
        self.step(Input::KeysCame(peer), ctx);
        let job = self.parts.cpu.run_for_others(move || {
            let json = serde_json::from_slice(&bytes)
                .map_err(|error| ProtoError::malformed("server_keys", error))?;
            VerifiedServerKeys::verify(json, now_ms())
        });
        let verified = job.into_actor(self).map(move |done, actor, ctx| {
            let keys = match done {
                Ok(Ok(keys)) => {
                    // Whoever shows them takes them for live.
                    let left_ms = keys.valid_until_ts().cast_signed() - now_ms().cast_signed();
                    if left_ms < 0 {
                        actor.clocks_differ(peer, left_ms);
                    }
                    Some(keys)
                }
                Ok(Err(error)) => {
                    log::debug!(peer:%, error:%; "server_keys were refused");
                    if let ProtoError::KeysAhead(apart_ms) = error {
                        actor.clocks_differ(peer, apart_ms);
                    }
                    None
                }
                Err(_) => None,
            };
            actor.step(Input::Keys { peer, keys }, ctx);
        });
        ctx.spawn(verified);
    }

    /// Says that our clock or that of a node is wrong, by so much at least: theirs minus ours.
    fn clocks_differ(&mut self, peer: PeerId, apart_ms: i64) {
        if let Some(with) = &self.with {
            with.clock_seen.do_send(ClockSeen { peer, apart_ms });
        }
        let now = uptime_ms();
        if self.clock_told.is_some_and(|told| now < told.saturating_add(CLOCK_TOLD_MS)) {
            return;
        }
        self.clock_told = Some(now);
        let way = if apart_ms > 0 { "behind" } else { "ahead" };
        let seconds = apart_ms.unsigned_abs() / 1000;
        log::warn!(
            peer:%;
            "the clock of this machine is {way} by {seconds} s or more, or that of the other node is \
             wrong: they cannot believe each other until it is put right"
        );
    }
}

fn read_profile(body: &CanonicalJsonObject) -> Profile {
    let text = |key: &str| body.get(key).and_then(CanonicalJsonValue::as_str);
    let name = text("displayname").filter(|name| !name.is_empty());
    Profile {
        displayname: name.map(|name| names::shown_name(name).into_owned()),
        avatar_url: text("avatar_url").and_then(names::shown_avatar).map(str::to_owned),
    }
}

impl Actor for RendezvousActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_later(TICK, Self::tick);
        let scan = self.parts.scan_rows.send(ScanRows(RowKind::Addresses));
        let scanned = scan.into_actor(self).map(|rows, actor, ctx| match rows {
            Ok(Ok(rows)) => {
                let rows = rows.into_iter().filter_map(|(row, value)| match row {
                    Row::Address(server, peer) => book::decode(server, &peer, &value),
                    _ => None,
                });
                actor.step(Input::Book(rows.collect()), ctx);
            }
            Ok(Err(error)) => log::warn!(error:%; "no address book"),
            Err(error) => log::warn!(error:%; "no address book"),
        });
        ctx.spawn(scanned);
        self.load_newest(ctx);
    }
}

impl Supervised for RendezvousActor {}

impl Handler<UseSigner> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, UseSigner(signer): UseSigner, ctx: &mut Context<Self>) {
        match serde_json::to_vec(signer.server_keys()) {
            Ok(bytes) => self.parts.set_identity.do_send(SetIdentity(bytes)),
            Err(error) => return log::error!(error:%; "our server_keys cannot be encoded"),
        }
        let us = signer.server_name().clone();
        self.signer = Some(signer);
        self.step(Input::Signer(us), ctx);
    }
}

impl Handler<AskWith> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, with: AskWith, _: &mut Context<Self>) {
        self.with = Some(with);
    }
}

impl Handler<Advertise> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, msg: Advertise, ctx: &mut Context<Self>) {
        let Advertise { display_name, others } = msg;
        self.step(Input::Advertise { display_name, others }, ctx);
    }
}

impl Handler<SharedServers> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, shared: SharedServers, ctx: &mut Context<Self>) {
        let SharedServers { added, removed } = shared;
        self.step(Input::Shared { added, removed }, ctx);
    }
}

impl Handler<Discovery> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, news: Discovery, ctx: &mut Context<Self>) {
        let input = match news {
            Discovery::PeerSeen { peer, ours, addresses } => Input::Seen { peer, ours, addresses },
            Discovery::PathChanged(peer) => Input::PathChanged(peer),
            Discovery::PeerGone(peer) => Input::Gone(peer),
            Discovery::DialFailed(peer) => Input::DialFailed(peer),
            Discovery::IdentityFailed(peer) => Input::IdentityFailed(peer),
            Discovery::Found { ticket, peers, done } => Input::Found { ticket, peers, done },
            Discovery::IdentityReceived { peer, bytes } => {
                return self.identity_came(peer, bytes, ctx);
            }
        };
        self.step(input, ctx);
    }
}

impl Handler<SwarmRestarted> for RendezvousActor {
    type Result = ();

    fn handle(&mut self, _: SwarmRestarted, ctx: &mut Context<Self>) {
        self.step(Input::Restarted, ctx);
    }
}

impl Handler<ResolveServer> for RendezvousActor {
    type Result = ResponseFuture<Option<PeerId>>;

    fn handle(&mut self, resolve: ResolveServer, ctx: &mut Context<Self>) -> Self::Result {
        let ResolveServer { server_name, timeout } = resolve;
        let (reply, resolved) = oneshot::channel();
        let ticket = self.ask(Asker::Node(reply), timeout, ctx);
        self.step(Input::Resolve { ticket, server: server_name }, ctx);
        Box::pin(async move { resolved.await.ok().flatten() })
    }
}

impl Handler<ReadProven> for RendezvousActor {
    type Result = Vec<(OwnedServerName, PeerId)>;

    fn handle(&mut self, _: ReadProven, _: &mut Context<Self>) -> Self::Result {
        self.machine.proven_now(now_ms())
    }
}

impl Handler<SearchPeople> for RendezvousActor {
    type Result = ResponseFuture<Vec<FoundPerson>>;

    fn handle(&mut self, search: SearchPeople, ctx: &mut Context<Self>) -> Self::Result {
        let SearchPeople { term, limit, timeout } = search;
        let goal = match SearchTerm::parse(&term) {
            SearchTerm::Server(server) => Some((Goal::Server(server), Vec::new())),
            SearchTerm::User(user) => Some((Goal::User(user), Vec::new())),
            SearchTerm::Suffix { display_name, suffix } => {
                Some((Goal::Suffix { display_name, suffix }, Vec::new()))
            }
            SearchTerm::Address(text) => {
                read_address(&text).map(|(peer, addresses)| (Goal::Node(peer), addresses))
            }
            // Names of people in shared rooms are the Store's to search.
            SearchTerm::Text(_) => None,
        };
        let Some((goal, addresses)) = goal else { return Box::pin(async { Vec::new() }) };
        let (reply, found) = oneshot::channel();
        let ticket = self.ask(Asker::People(reply), timeout, ctx);
        self.step(Input::Search { ticket, goal, addresses, limit }, ctx);
        Box::pin(async move { found.await.unwrap_or_default() })
    }
}

impl Handler<ReadNetwork> for RendezvousActor {
    type Result = ResponseActFuture<Self, NetworkStatus>;

    fn handle(&mut self, _: ReadNetwork, _: &mut Context<Self>) -> Self::Result {
        let read = self.parts.read.send(ReadSwarm).into_actor(self);
        Box::pin(read.map(|status, actor, _| {
            let mut status = status.unwrap_or_default();
            for peer in &mut status.peers {
                let id = peer.peer_id.parse::<PeerId>().ok();
                peer.server_name = id.and_then(|id| actor.machine.server_of(&id).cloned());
            }
            status
        }))
    }
}
