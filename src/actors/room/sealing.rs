//! What the room publishes, and the keys that it is sealed with: made when they are first needed,
//! handed to the other members, asked for when somebody uses one that is not here.
//!
//! Which key seals and who is given one is decided in `keys`. Nothing here has to succeed: whoever
//! is handed no key asks for it, and whoever is given none exchanges heads.

use std::time::Duration;

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, MessageResult,
    ResponseActFuture, ResponseFuture, WrapFuture as _,
};
use futures::{FutureExt as _, StreamExt as _};
use rand::seq::IteratorRandom as _;
use ruma::OwnedServerName;
use serde_json::{json, value::RawValue};
use tokio::sync::oneshot;

use super::{
    actor::{RoomActor, tell_directly, transaction},
    asking::{federation, read},
    edus::is_of_people,
    keys::Given,
    links::ask,
    messages::{FindKey, Publish, RoomError},
    operate::Whose,
    worker::Worker,
};
use crate::{
    actors::{
        clock::now_ms, gossip::PublishTransaction, store::CommitRoom, upward::FederationError,
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        room_key::{KeyId, RoomKey, Secret},
    },
};

/// Servers that an event is carried to; further ones learn of it by the next exchange of heads.
const CARRIED_MAX: usize = 8;
/// Servers that a new key is handed to; in larger rooms the others ask whoever hands a message on.
const PUSHES: usize = 32;
/// Of these, at the same time.
const PUSHES_AT_ONCE: usize = 8;
/// Longest wait for one of them: whoever cannot be reached now asks later.
const PUSH_WAIT: Duration = Duration::from_secs(5);
/// Who joins is handed a key before the join has come back to them: then they know nothing of the
/// room yet, and are handed it again after this.
const PUSH_AGAIN: Duration = Duration::from_secs(1);
/// Servers that are asked for one key, the one that handed the message on first.
const PULLS: usize = 3;
/// Longest wait for each: the verdict on the message waits too.
const PULL_WAIT: Duration = Duration::from_millis(1500);
/// Keys that are asked for at the same time: whoever makes ids up has no more of it.
const WANTED: usize = 4;

/// Asks which keys a server may be given: those with these ids, or all that seal.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Given>")]
pub(super) struct GiveKeys {
    pub(super) to: OwnedServerName,
    pub(super) ids: Vec<KeyId>,
}

/// Takes keys that another server gave. Answered with whether any was new.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub(super) struct TakeKeys {
    pub(super) from: OwnedServerName,
    pub(super) keys: Vec<Given>,
}

impl RoomActor {
    /// Publishes PDUs and EDUs: sealed with `farewell`, or for those who have joined now.
    fn publish(&mut self, publish: Publish, ctx: &mut Context<Self>) {
        let Publish { pdus, mut edus, farewell } = publish;
        self.publish_beyond(&pdus, &edus);
        let (pdus, large): (Vec<_>, Vec<_>) =
            pdus.into_iter().partition(|pdu| pdu.get().len() <= limits::GOSSIP_INLINE);
        if !large.is_empty() {
            // Whoever hears of them asks us, at once.
            edus.extend(self.heads_edu());
        }
        if pdus.is_empty() && edus.is_empty() {
            return;
        }
        let Some(key) = farewell.or_else(|| self.sealing_key(None, ctx)) else { return };
        let room_id = self.room_id.clone();
        self.links.gossip.do_send(PublishTransaction { room_id, pdus, edus, key });
    }

    /// Sends to members whose servers are reached through others alone: gossip comes to them only
    /// where one of those is in the room too.
    fn publish_beyond(&self, pdus: &[Box<RawValue>], edus: &[Box<RawValue>]) {
        let Some(machine) = self.machine.as_ref() else { return };
        let carried = self.links.carried.borrow();
        let mut members = carried.iter().filter(|server| machine.has_joined(server)).peekable();
        if members.peek().is_none() {
            return;
        }
        let edus: Vec<&RawValue> =
            edus.iter().map(|edu| &**edu).filter(|edu| is_of_people(edu)).collect();
        if pdus.is_empty() && edus.is_empty() {
            return;
        }
        let content = transaction(&self.signer, pdus, &edus);
        for server in members.take(CARRIED_MAX) {
            tell_directly(&self.links, &self.room_id, server, content.clone());
        }
    }

    /// Returns the key that seals now; makes one, and hands it out, where there is none. `asker`
    /// is given it otherwise.
    fn sealing_key(
        &mut self,
        asker: Option<&OwnedServerName>,
        ctx: &mut Context<Self>,
    ) -> Option<RoomKey> {
        let joined = self.machine.as_ref().is_some_and(|machine| machine.is_resident());
        if !joined || self.keys.is_alone() {
            return None;
        }
        let now = now_ms();
        if let Some(key) = self.keys.sealing(now) {
            return Some(key);
        }
        let key = self.keys.make(Secret(rand::random()), now);
        log::debug!(room_id:% = self.room_id, key:% = key.id(); "made a room key");
        self.store_keys();
        let to: Vec<OwnedServerName> = self
            .keys
            .others()
            .filter(|server| asker != Some(server))
            .cloned()
            .sample(&mut rand::rng(), PUSHES);
        self.push(key.id(), to, ctx);
        Some(key)
    }

    /// Hands a key to other servers.
    fn push(&self, id: KeyId, to: Vec<OwnedServerName>, ctx: &mut Context<Self>) {
        let now = now_ms();
        let worker = self.worker(ctx);
        let pushes: Vec<_> =
            to.into_iter().map(|server| (self.keys.give(&server, &[id], now), server)).collect();
        let work = async move {
            let pushes = pushes.into_iter().map(|(keys, server)| {
                let worker = &worker;
                async move {
                    let given = json!({"keys": keys});
                    let endpoint = Endpoint::room_keys(&worker.room_id);
                    let push = || federation(&server, endpoint.clone(), given.clone(), PUSH_WAIT);
                    let pushed = ask(&worker.links.federation, push()?).await.map(drop);
                    let Err(RoomError::Federation(FederationError::Refused {
                        status: 404, ..
                    })) = pushed
                    else {
                        return pushed;
                    };
                    tokio::time::sleep(PUSH_AGAIN).await;
                    ask(&worker.links.federation, push()?).await.map(drop)
                }
            });
            let mut pushes = futures::stream::iter(pushes).buffer_unordered(PUSHES_AT_ONCE);
            while let Some(pushed) = pushes.next().await {
                if let Err(error) = pushed {
                    log::debug!(room_id:% = worker.room_id; "a room key was not handed over: {error}");
                }
            }
        };
        ctx.spawn(work.into_actor(self));
    }

    /// Keeps the keys over a restart. Nobody waits for it: whoever lost one asks for it.
    fn store_keys(&self) {
        let Some(machine) = self.machine.as_ref() else { return };
        match self.keys.store() {
            Ok(keys) => {
                let mut commit = CommitRoom::new(self.room_id.clone(), machine.version().clone());
                commit.room_keys = Some(keys);
                self.links.store.commit.do_send(commit);
            }
            Err(error) => log::error!(room_id:% = self.room_id; "keys cannot be written: {error}"),
        }
    }

    /// Takes note of who has joined after a step, and adds the keys to its commit. Returns who
    /// has left by it, and the key that sealed before: they still have to hear of it.
    pub(super) fn members_changed(
        &mut self,
        commit: &mut CommitRoom,
    ) -> (Vec<OwnedServerName>, Option<RoomKey>) {
        let (Some(machine), Some(_)) = (self.machine.as_ref(), &commit.servers) else {
            return (Vec::new(), None);
        };
        let now = now_ms();
        let before = self.keys.sealing(now);
        let gone = self.keys.set_joined(machine.servers(), now);
        match self.keys.store() {
            Ok(keys) => commit.room_keys = Some(keys),
            Err(error) => log::error!(room_id:% = self.room_id; "keys cannot be written: {error}"),
        }
        let farewell = before.filter(|_| !gone.is_empty());
        (gone, farewell)
    }

    /// Begins with the keys that were stored.
    pub(super) fn load_keys(&mut self, stored: Option<&[u8]>) {
        if let Some(Err(error)) = stored.map(|stored| self.keys.load(stored)) {
            log::error!(room_id:% = self.room_id; "the stored keys cannot be read: {error}");
        }
        if let Some(machine) = self.machine.as_ref() {
            self.keys.set_joined(machine.servers(), now_ms());
        }
    }

    /// Waits for a key, which is asked for unless that is under way.
    fn want(
        &mut self,
        id: KeyId,
        servers: Vec<OwnedServerName>,
        ctx: &mut Context<Self>,
    ) -> Option<oneshot::Receiver<RoomKey>> {
        let (found, waits) = oneshot::channel();
        if let Some(waiting) = self.wanted.get_mut(&id) {
            waiting.push(found);
            return Some(waits);
        }
        if self.wanted.len() >= WANTED {
            return None;
        }
        self.wanted.insert(id, vec![found]);
        let worker = self.worker(ctx);
        let work = async move {
            for server in servers.into_iter().take(PULLS) {
                match worker.pull(&server, id).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        log::debug!(room_id:% = worker.room_id, server:%; "no room key: {error}");
                    }
                }
            }
        };
        // Whoever still waits then has waited in vain.
        ctx.spawn(work.into_actor(self).map(move |(), act, _| drop(act.wanted.remove(&id))));
        Some(waits)
    }
}

impl Worker {
    /// Asks a server for a key.
    async fn pull(&self, server: &OwnedServerName, id: KeyId) -> Result<bool, RoomError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            keys: Vec<Given>,
        }
        let content = json!({"ids": [id]});
        let request =
            federation(server, Endpoint::room_keys_query(&self.room_id), content, PULL_WAIT)?;
        let answer: Answer = read(server, ask(&self.links.federation, request).await?)?;
        let take = TakeKeys { from: server.clone(), keys: answer.keys };
        self.room.send(take).await.map_err(|error| RoomError::Ask(error.into()))
    }

    /// Publishes PDUs in the room, for those who have joined now.
    pub(super) fn publish(&self, pdus: Vec<Box<RawValue>>) {
        self.room.do_send(Publish::new(pdus, Vec::new()));
    }
}

impl Handler<Publish> for RoomActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, publish: Publish, ctx: &mut Context<Self>) -> Self::Result {
        if self.machine.is_some() {
            self.publish(publish, ctx);
        } else {
            // The room was just woken by this.
            let loaded = self.operate(ctx, |_| Ok(((), None)));
            ctx.spawn(loaded.into_actor(self).map(|loaded, act, ctx| {
                if loaded.is_ok() {
                    act.publish(publish, ctx);
                }
            }));
        }
        Box::pin(async {})
    }
}

impl Handler<FindKey> for RoomActor {
    type Result = ResponseActFuture<Self, Option<RoomKey>>;

    fn handle(&mut self, FindKey { id, from }: FindKey, ctx: &mut Context<Self>) -> Self::Result {
        let first = from.clone();
        let member = self.operate_for(Whose::Events, ctx, move |machine| {
            let member = machine.is_resident() && machine.has_joined(&first);
            Ok((member.then(|| machine.candidates(std::slice::from_ref(&first))), None))
        });
        let found = member.into_actor(self).then(move |servers, act, ctx| {
            let waits = match (act.keys.opening(&id), servers) {
                (Some(key), Ok(_)) => {
                    return async move { Some(key) }.boxed_local().into_actor(act);
                }
                // Members alone hand on what is sealed for members.
                (None, Ok(Some(servers))) => act.want(id, servers, ctx),
                (_, Ok(None) | Err(_)) => None,
            };
            async move { waits?.await.ok() }.boxed_local().into_actor(act)
        });
        Box::pin(found)
    }
}

impl Handler<TakeKeys> for RoomActor {
    type Result = bool;

    fn handle(&mut self, TakeKeys { from, keys }: TakeKeys, _: &mut Context<Self>) -> bool {
        let new = self.keys.take(&from, keys, now_ms());
        for key in &new {
            for waits in self.wanted.remove(&key.id()).unwrap_or_default() {
                // Whoever has no time any more is gone.
                let _ = waits.send(*key);
            }
        }
        if !new.is_empty() {
            self.store_keys();
        }
        !new.is_empty()
    }
}

impl Handler<GiveKeys> for RoomActor {
    type Result = MessageResult<GiveKeys>;

    fn handle(&mut self, GiveKeys { to, ids }: GiveKeys, ctx: &mut Context<Self>) -> Self::Result {
        if ids.is_empty() {
            self.sealing_key(Some(&to), ctx);
        }
        MessageResult(self.keys.give(&to, &ids, now_ms()))
    }
}
