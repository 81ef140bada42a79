//! Key bundles (`proto::key_bundle`): signed for our users, fetched from room-mates' servers while these
//! are there, and handed on.
//!
//! Invariants: a bundle is on disk before others hear of it, and it takes a place only where it is newer than what
//! is here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
    fut,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use ruma::{OwnedServerName, OwnedUserId};

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks},
    bundle_asks::SignedBundle,
    messages::{KeyError, KeysHeard, KeysIssued},
    query::Fetched,
    remote::Told,
};
use crate::{
    actors::{clock::now_ms, identity::UseSigner, store::Row},
    config::limits,
};

/// The bundle of a user of ours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnBundle {
    /// When the last one was signed.
    pub(super) issued_ts: Option<u64>,
    /// It does not say what is so today.
    pub(super) due: bool,
}

/// Whose server is to be asked for bundles: of all its users that have to do with us, or of one.
pub(super) type Wanted = (OwnedServerName, Option<OwnedUserId>);

impl DeviceKeysActor {
    /// Signs the keys of a user of ours anew, as they are when all that came before is done.
    fn issue(&mut self, user_id: OwnedUserId) -> ResponseActFuture<Self, ()> {
        let Some(signer) = self.signer.clone() else { return Box::pin(fut::ready(())) };
        let last = self.own.get(&user_id).and_then(|own| own.issued_ts);
        let issuer = user_id.clone();
        let issued = self.in_turn(async move |links| links.issue(&signer, &issuer, last).await);
        Box::pin(issued.into_actor(self).map(move |issued, act, _| match issued {
            Ok(Some(issued_ts)) => {
                let own = OwnBundle { issued_ts: Some(issued_ts), due: false };
                act.own.insert(user_id, own);
                act.links.keys_issued.do_send(KeysIssued(issued_ts));
            }
            Ok(None) => drop(act.own.remove(&user_id)),
            Err(error) => {
                log::warn!(user_id:%; "keys are not signed for others to hand on: {error}");
            }
        }))
    }

    /// Sees to it that others learn of a list that changed and is on disk: first it is signed, so that
    /// who hears of it finds it.
    pub(super) fn publish(&mut self, user_id: OwnedUserId, told: Told, ctx: &mut Context<Self>) {
        self.own.entry(user_id.clone()).or_default().due = true;
        let issued = self.issue(user_id.clone());
        ctx.spawn(issued.map(move |(), act, ctx| act.tell(user_id, told, ctx)));
    }

    /// Signs what changed, or was signed long ago.
    pub(super) fn issue_due(&mut self, ctx: &mut Context<Self>) {
        let now = now_ms();
        let is_due = |own: &OwnBundle| {
            let since = own.issued_ts.unwrap_or(0);
            own.due || since.saturating_add(limits::KEY_BUNDLE_RENEWED_MS) < now
        };
        let due = self.own.iter().filter(|(_, own)| is_due(own));
        let due: Vec<OwnedUserId> = due.map(|(user_id, _)| user_id.clone()).collect();
        for user_id in due {
            let issued = self.issue(user_id);
            ctx.spawn(issued);
        }
    }

    /// Answers a server that asks for bundles.
    pub(super) fn serve_bundles(
        &mut self,
        origin: OwnedServerName,
        server: &OwnedServerName,
        user_id: Option<OwnedUserId>,
    ) -> ResponseActFuture<Self, Result<serde_json::Value, KeyError>> {
        let own_name = self.signer.as_ref().map(|signer| signer.server_name());
        let are_ours = own_name == Some(server);
        let users = match (user_id, are_ours) {
            // Names that were made up cost nothing more.
            (Some(user_id), true) if self.own.contains_key(&user_id) => vec![user_id],
            (Some(user_id), false) if self.bundles.is_fresh(&user_id, now_ms()) => vec![user_id],
            (Some(_), _) => Vec::new(),
            (None, true) => self.own.keys().cloned().collect(),
            (None, false) => self.bundles.of_server(server, now_ms()),
        };
        let links = self.links.clone();
        let read = async move { links.read_bundles(&origin, users, are_ours).await };
        Box::pin(read.into_actor(self))
    }

    /// Has a server asked for bundles of its users, when its turn comes.
    pub(super) fn want_bundles(&mut self, wanted: Wanted, ctx: &mut Context<Self>) {
        if self.wanted.len() < limits::KEY_BUNDLES_WANTED {
            self.wanted.insert(wanted);
        }
        while self.fetching < limits::KEYS_AT_ONCE
            && let Some(next) = self.wanted.pop_first()
        {
            self.fetching += 1;
            let links = self.links.clone();
            let fetched = async move { (links.fetch_bundles(&next).await, next) };
            ctx.spawn(fetched.into_actor(self).map(|(fetched, asked), act, ctx| {
                act.fetching = act.fetching.saturating_sub(1);
                act.fetched_bundles(fetched, asked, ctx);
            }));
        }
    }

    fn fetched_bundles(
        &mut self,
        fetched: Result<Vec<SignedBundle>, String>,
        (server, user_id): Wanted,
        ctx: &mut Context<Self>,
    ) {
        match fetched {
            Ok(bundles) => {
                if bundles.is_empty() && user_id.is_none() {
                    // It does not know yet that a room is shared: it is asked at the next meeting.
                    self.heard.remove(&server);
                }
                let kept = self.keep_bundles(bundles);
                ctx.spawn(kept.into_actor(self).map(|kept, act, ctx| match kept {
                    Ok(newer) => newer.into_iter().for_each(|user_id| act.is_old(user_id, ctx)),
                    Err(error) => log::warn!("key bundles cannot be kept: {error}"),
                }));
            }
            Err(why) => {
                log::debug!(server:%; "key bundles are asked for later: {why}");
                if user_id.is_none() {
                    self.heard.remove(&server);
                }
            }
        }
        if let Some(next) = self.wanted.pop_first() {
            self.want_bundles(next, ctx);
        }
    }

    /// Keeps bundles that are newer than what is here; resolves, when they are on disk, to whose lists
    /// are others by them.
    fn keep_bundles(
        &mut self,
        bundles: Vec<SignedBundle>,
    ) -> LocalBoxFuture<'static, Result<Vec<OwnedUserId>, KeyError>> {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for one in bundles {
            if let Some(others) = self.bundles.put(&one.bundle.user_id, one.kept()) {
                gone.extend(others);
                let (user_id, issued_ts) = (&one.bundle.user_id, one.bundle.issued_ts);
                log::debug!(user_id:%, issued_ts; "a key bundle is kept");
                kept.push(one);
            }
        }
        kept.retain(|one| !gone.contains(&one.bundle.user_id));
        self.in_turn(async move |links| links.keep_bundles(kept, gone).await).boxed_local()
    }

    /// Takes the bundles that came in the place of lists, but for those that are older than what is here;
    /// returns whose give way.
    pub(super) fn take_bundles(&mut self, fetched: &mut [Fetched]) -> Vec<OwnedUserId> {
        let mut gone = Vec::new();
        for Fetched { user_id, shared, bundle, others_asked, .. } in fetched {
            let Some(one) = bundle else { continue };
            let known = self.bundles.get(user_id);
            if !*shared || known.is_some_and(|known| known.issued_ts > one.bundle.issued_ts) {
                *bundle = None;
                continue;
            }
            if *others_asked {
                if self.told_by_others.len() >= limits::KEY_LISTS {
                    self.told_by_others.clear();
                }
                self.told_by_others.insert(user_id.clone(), Instant::now());
            }
            if let Some(others) = self.bundles.put(user_id, one.kept()) {
                one.is_new = true;
                gone.extend(others);
            }
        }
        gone
    }

    /// Forgets bundles that count no more.
    pub(super) fn forget_old_bundles(&mut self, ctx: &mut Context<Self>) {
        let over = self.bundles.forget_over(now_ms());
        if over.is_empty() {
            return;
        }
        let rows = over.into_iter().map(|user_id| (Row::KeyBundle(user_id), None)).collect();
        let forgotten = self.in_turn(async move |links: DeviceKeysLinks| links.write(rows).await);
        ctx.spawn(forgotten.into_actor(self).map(|forgotten: Result<(), KeyError>, _, _| {
            if let Err(error) = forgotten {
                log::warn!("old key bundles cannot be forgotten: {error}");
            }
        }));
    }

    /// Returns of whom room-mates may be asked now: not of those of whom they told lately.
    pub(super) fn not_asked_lately(
        &self,
        users: &BTreeMap<OwnedUserId, Vec<String>>,
    ) -> BTreeSet<OwnedUserId> {
        let lately = |user_id: &OwnedUserId| {
            let at = self.told_by_others.get(user_id);
            at.is_some_and(|at| at.elapsed() < limits::KEY_BUNDLE_EVERY)
        };
        users.keys().filter(|user_id| !lately(user_id)).cloned().collect()
    }
}

impl Handler<KeysHeard> for DeviceKeysActor {
    type Result = ();

    fn handle(&mut self, msg: KeysHeard, ctx: &mut Context<Self>) {
        let KeysHeard { server, keys_ts } = msg;
        let known = self.heard.get(&server).copied().max(self.bundles.newest_of(&server));
        if known >= Some(keys_ts) {
            return;
        }
        if self.heard.len() >= limits::KEY_BUNDLES_WANTED {
            // They are asked anew, which is all that is lost.
            self.heard.clear();
        }
        self.heard.insert(server.clone(), keys_ts);
        self.want_bundles((server, None), ctx);
    }
}

impl Handler<UseSigner> for DeviceKeysActor {
    type Result = ();

    fn handle(&mut self, UseSigner(signer): UseSigner, ctx: &mut Context<Self>) {
        self.signer = Some(Arc::clone(&signer));
        self.issue_due(ctx);
    }
}
