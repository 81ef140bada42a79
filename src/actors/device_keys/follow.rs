//! Following the lists of other servers' users.
//!
//! An EDU says that a list is another; what it is now its server is asked, at once, or when the server
//! is met again. Invariants: of each user one question is under way; what is said meanwhile is asked
//! again after it; until then the list is marked on disk, so that no restart forgets it.

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use ruma::{OwnedServerName, OwnedUserId};

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks, Rows, bytes},
    bundles::learned as learned_by,
    list::KeyList,
    messages::{DeviceListChanged, KeyError},
    query::Fetched,
};
use crate::{
    actors::{store::Row, turn::Turn, upward::ServerOnline},
    config::limits,
};

impl DeviceKeysLinks {
    /// Keeps what servers answered, or that they did not, and what was handed on then. What changed for clients
    /// is logged with it.
    async fn keep(&self, fetched: &mut [Fetched], gone: Vec<OwnedUserId>) -> Result<(), KeyError> {
        let mut rows: Rows = gone.into_iter().map(|user| (Row::KeyBundle(user), None)).collect();
        for Fetched { user_id, list, shared, position, again, bundle, learned, .. } in fetched {
            // Nobody tells us of changes of those with whom no room is shared.
            if !*shared {
                continue;
            }
            let known = self.list(user_id).await?;
            let row = Row::KeyList(user_id.clone());
            match (list, known) {
                (Ok(list), known) => {
                    let newer = known.as_ref().is_some_and(|known| {
                        !known.stale
                            && known.stream_id > list.stream_id
                            && known.position > Some(*position)
                    });
                    if newer {
                        continue;
                    }
                    if known.is_some_and(|known| !known.shows_same(list)) {
                        rows.push((Row::DeviceList(user_id.clone()), Some(Vec::new())));
                    }
                    let (position, stale) = (Some(*position), *again);
                    let kept = KeyList { position, stale, ..list.clone() };
                    rows.push((row, bytes(&kept)?));
                }
                (Err(_), known)
                    if let Some(list) =
                        bundle.as_ref().and_then(|one| learned_by(known.as_ref(), &one.bundle)) =>
                {
                    if !known.unwrap_or_default().shows_same(&list) {
                        rows.push((Row::DeviceList(user_id.clone()), Some(Vec::new())));
                    }
                    rows.push((row, bytes(&list)?));
                    *learned = Some(list);
                }
                (Err(_), Some(known)) if known.stale => {}
                (Err(_), known) => {
                    let known = known.unwrap_or_default();
                    let position = Some(known.position.unwrap_or(0));
                    rows.push((row, bytes(&KeyList { stale: true, position, ..known })?));
                }
            }
            if let Some(one) = bundle.take().filter(|one| one.is_new) {
                rows.push(one.row());
            }
        }
        self.write(rows).await
    }

    /// Marks a list as old. Tells whether it is.
    async fn mark(&self, msg: &DeviceListChanged) -> Result<bool, KeyError> {
        let Some(list) = self.list(&msg.user_id).await? else { return Ok(false) };
        if list.stale {
            return Ok(true);
        }
        if msg.stream_id.is_some_and(|said| said <= list.stream_id) {
            return Ok(false);
        }
        let row = Row::KeyList(msg.user_id.clone());
        self.write(vec![(row, bytes(&KeyList { stale: true, ..list })?)]).await?;
        Ok(true)
    }

    /// Forgets the lists of those with whom no room is shared any more; returns whose.
    async fn forget_strangers(&self, kept: Vec<OwnedUserId>) -> Result<Vec<OwnedUserId>, KeyError> {
        let wanted = kept.iter().map(|user_id| (user_id.clone(), u64::MAX));
        let found = self.roommates(wanted.collect()).await?.since;
        let gone = kept.into_iter().filter(|user_id| !found.contains_key(user_id));
        let gone: Vec<OwnedUserId> = gone.collect();
        let rows = gone.iter().map(|user_id| (Row::KeyList(user_id.clone()), None));
        self.write(rows.collect()).await?;
        Ok(gone)
    }
}

impl DeviceKeysActor {
    /// Keeps what servers answered, as far as there is room; resolves to it when it is on disk.
    pub(super) fn keep(
        &mut self,
        mut fetched: Vec<Fetched>,
        ctx: &mut Context<Self>,
    ) -> LocalBoxFuture<'static, Result<Vec<Fetched>, KeyError>> {
        for one in &mut fetched {
            if one.shared && !self.kept.contains(&one.user_id) {
                if self.kept.len() >= limits::KEY_LISTS {
                    self.make_room(ctx);
                    one.shared = false;
                    continue;
                }
                self.kept.insert(one.user_id.clone());
            }
            if !one.shared {
                continue;
            }
            match &one.list {
                Ok(list) => {
                    self.stale.remove(&one.user_id);
                    let signed = self.bundles.get(&one.user_id);
                    if signed.is_none_or(|signed| signed.stream_id < list.stream_id) {
                        let server = one.user_id.server_name().to_owned();
                        self.want_bundles((server, Some(one.user_id.clone())), ctx);
                    }
                }
                Err(_) => drop(self.stale.entry(one.user_id.clone()).or_default()),
            }
        }
        let gone = self.take_bundles(&mut fetched);
        let (links, mut turn) = (self.links.clone(), self.turn());
        async move {
            turn.wait().await;
            links.keep(&mut fetched, gone).await?;
            Ok(fetched)
        }
        .boxed_local()
    }

    fn make_room(&mut self, ctx: &mut Context<Self>) {
        let (links, mut turn): (_, Turn) = (self.links.clone(), self.turn());
        let kept = self.kept.iter().cloned().collect();
        let forgot = async move {
            turn.wait().await;
            links.forget_strangers(kept).await
        };
        ctx.spawn(forgot.into_actor(self).map(|forgot, act, _| match forgot {
            Ok(gone) => {
                for user_id in gone {
                    act.kept.remove(&user_id);
                    act.stale.remove(&user_id);
                }
            }
            Err(error) => log::warn!("old lists of devices cannot be forgotten: {error}"),
        }));
    }

    /// A list is another by now: it is asked for when its server is there.
    pub(super) fn is_old(&mut self, user_id: OwnedUserId, ctx: &mut Context<Self>) {
        let said = self.stale.entry(user_id.clone()).or_default();
        *said = said.saturating_add(1);
        self.follow(user_id, ctx);
    }

    /// Asks for a list that may be old, unless that is under way or too many are.
    fn follow(&mut self, user_id: OwnedUserId, ctx: &mut Context<Self>) {
        if self.asking.len() >= limits::KEYS_AT_ONCE || !self.asking.insert(user_id.clone()) {
            return;
        }
        let said = self.stale.get(&user_id).copied();
        let links = self.links.clone();
        let asked = async move {
            let latest = [(user_id.clone(), u64::MAX)].into();
            let roommates = match links.roommates(latest).await {
                Ok(roommates) => roommates,
                Err(error) => return (user_id, Err(error.to_string()), false, 0),
            };
            let shared = roommates.since.contains_key(&user_id);
            let list = match shared {
                true => links.fetch(&user_id, limits::FEDERATION_WAIT).await,
                false => Err("no room is shared any more".to_owned()),
            };
            (user_id, list, shared, roommates.position)
        };
        let kept =
            asked.into_actor(self).then(move |(user_id, list, shared, position), act, ctx| {
                act.asking.remove(&user_id);
                let again = act.stale.get(&user_id).copied() != said;
                let failed = list.as_ref().err().cloned();
                if !shared {
                    // Asked for when somebody wants it.
                    act.stale.remove(&user_id);
                }
                let known = user_id.clone();
                let fetched = Fetched { again, ..Fetched::new(user_id, list, shared, position) };
                let kept = act.keep(vec![fetched], ctx);
                let server = known.server_name().to_owned();
                async move { (kept.await, known, server, again, failed) }.into_actor(act)
            });
        ctx.spawn(kept.map(|(kept, user_id, server, again, failed), act, ctx| {
            if let Err(error) = kept {
                log::warn!(user_id:%; "a list of devices cannot be kept: {error}");
            }
            match failed {
                Some(why) => log::debug!(user_id:%; "devices are asked for later: {why}"),
                None if again => {
                    act.stale.entry(user_id.clone()).or_default();
                    act.follow(user_id, ctx);
                }
                None => act.follow_of(&server, ctx),
            }
        }));
    }

    /// Asks a server that is there for what may be old.
    fn follow_of(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        let of_server = self.stale.keys().filter(|user_id| user_id.server_name() == server);
        let waiting = of_server.filter(|user_id| !self.asking.contains(*user_id));
        let some: Vec<OwnedUserId> = waiting.take(limits::KEYS_AT_ONCE).cloned().collect();
        for user_id in some {
            self.follow(user_id, ctx);
        }
    }

    /// Asks for some of what may be old: servers that are reached through others come unseen.
    pub(super) fn follow_some(&mut self, ctx: &mut Context<Self>) {
        let start = rand::random_range(0..self.stale.len().max(1));
        let some: Vec<OwnedUserId> =
            self.stale.keys().cycle().skip(start).take(limits::KEYS_AT_ONCE).cloned().collect();
        for user_id in some {
            self.follow(user_id, ctx);
        }
    }
}

impl Handler<DeviceListChanged> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, msg: DeviceListChanged, _: &mut Context<Self>) -> Self::Result {
        // Each server speaks for its own users; of whom nobody here asked, nothing is kept.
        let is_kept = msg.user_id.server_name() == msg.origin && self.kept.contains(&msg.user_id);
        let (links, mut turn) = (self.links.clone(), self.turn());
        let marked = async move {
            if !is_kept {
                return (Ok(false), msg.user_id);
            }
            turn.wait().await;
            (links.mark(&msg).await, msg.user_id)
        };
        Box::pin(marked.into_actor(self).map(|(marked, user_id), act, ctx| match marked {
            Ok(true) => act.is_old(user_id, ctx),
            Ok(false) => {}
            Err(error) => log::warn!(user_id:%; "a list of devices cannot be marked: {error}"),
        }))
    }
}

impl Handler<ServerOnline> for DeviceKeysActor {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, ctx: &mut Context<Self>) {
        self.follow_of(&server, ctx);
    }
}
