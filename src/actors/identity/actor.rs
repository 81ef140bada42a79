//! The shell: issues server_keys in time, keeps the newest of every verify key of other servers.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseActFuture,
    WrapFuture as _, fut,
};
use futures::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use tokio::sync::watch;

use super::{
    elsewhere::Elsewhere,
    issued::Issued,
    keys::{self, NodeKeys},
    messages::{
        EnsureIdentity, FindServerKeys, IdentityError, KeepKeys, ReadSigner, SignerIssued,
        SubscribeSigner, UsedElsewhere,
    },
};
use crate::{
    actors::{
        clock::{ClockWatch, now_ms, uptime_ms},
        error::AskError,
        identity::KeysSeen,
        store::{NameOwner, ReadRow, Row, RowKind, ScanRows, StoreError, WriteRows},
    },
    config::{ASK_WAIT, limits},
    proto::{
        certificates::{CertificateCache, Certificates},
        delegation::{Generations, stored_generation},
        server_keys::{LIFETIME_MS, RENEW_BEFORE_MS, VerifiedServerKeys},
        server_name,
        signer::Signer,
    },
};

/// How often it is looked whether server_keys have to be issued anew.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often it is looked whether the clock of this machine was set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// server_keys of others that stay in memory, each counted by verify key.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Where Identity finds its keys, and whom it talks to.
#[derive(Debug)]
pub struct IdentityParts {
    /// The data folder.
    pub data: PathBuf,
    /// The libp2p node that speaks for this server.
    pub peer_id: String,
    /// Store: one row.
    pub read: Recipient<ReadRow>,
    /// Store: the server_keys of one server.
    pub scan: Recipient<ScanRows>,
    /// Store: writes.
    pub write: Recipient<WriteRows>,
    /// Store: told at the first login whose database it is.
    pub name_owner: Recipient<NameOwner>,
    /// Told when a copy of this node runs elsewhere.
    pub used_elsewhere: Recipient<UsedElsewhere>,
}

/// A signer that is being issued, for all who wait for it.
type Issuing = Shared<LocalBoxFuture<'static, Result<Current, IdentityError>>>;

/// Whether server_keys that are being issued are to be issued once more.
type Again = bool;

/// The signer in use.
#[derive(Debug, Clone)]
struct Current {
    keys: NodeKeys,
    signer: Arc<Signer>,
    issued_ts: u64,
    /// This and earlier ones.
    issued: Issued,
}

/// Owns the identity key and the verify key of this node.
pub struct IdentityActor {
    parts: IdentityParts,
    keys: Option<NodeKeys>,
    /// server_keys are being issued anew; again, where there was a reason meanwhile.
    renewing: Option<Again>,
    current: Option<Current>,
    issuing: Option<Issuing>,
    clock: ClockWatch,
    subscribers: Vec<Recipient<SignerIssued>>,
    known: CertificateCache,
    generations: watch::Sender<Generations>,
    pub(super) elsewhere: Elsewhere,
}

/// Writes down that server_keys are issued now, and then issues them: nobody may see any that are
/// not known again after a crash, nor with a key to seal to that is lost then.
async fn issue(
    mut keys: NodeKeys,
    data: PathBuf,
    peer_id: String,
    read: Recipient<ReadRow>,
    write: Recipient<WriteRows>,
) -> Result<Current, IdentityError> {
    let stored = read.send(ReadRow(Row::Issued)).timeout(ASK_WAIT).await;
    let stored = stored.map_err(AskError::from)??;
    let issued = stored.map_or_else(|| Ok(Issued::default()), |row| serde_json::from_slice(&row));
    let mut issued = issued.map_err(|_| StoreError::Corrupt { what: "issued" })?;
    let now = now_ms();
    issued.add(now);
    if keys.advance(now, rand::random()) {
        let (folder, kept) = (data.clone(), keys.clone());
        tokio::task::spawn_blocking(move || keys::keep(&folder, &kept))
            .await
            .map_err(|error| key_file(&data, &error))??;
    }
    let row = serde_json::to_vec(&issued).map_err(|_| StoreError::Corrupt { what: "issued" })?;
    let written = write.send(WriteRows(vec![(Row::Issued, Some(row))])).timeout(ASK_WAIT).await;
    written.map_err(AskError::from)??;
    let signer = Signer::new(keys.secret(), &[peer_id], now)
        .map_err(|error| key_file(&data, &error))?
        .opening_with(&keys.former_encryption());
    Ok(Current { signer: Arc::new(signer), issued_ts: now, issued, keys })
}

fn key_file(data: &Path, why: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::KeyFile { file: data.display().to_string(), why: why.to_string() }
}

impl IdentityActor {
    /// Reads the identity of a data folder, if there is one.
    pub async fn load(parts: IdentityParts) -> Result<Self, IdentityError> {
        let keys = keys::read(&parts.data)?;
        let mut identity = Self {
            parts,
            keys,
            renewing: None,
            current: None,
            issuing: None,
            clock: ClockWatch::new(now_ms(), uptime_ms()),
            subscribers: Vec::new(),
            known: CertificateCache::new(KNOWN_MAX),
            generations: watch::channel(Generations::default()).0,
            elsewhere: Elsewhere::default(),
        };
        identity.load_generations().await?;
        if let Some(keys) = identity.keys.clone() {
            let current = identity.issue(keys).await?;
            identity.keys = Some(current.keys.clone());
            identity.current = Some(current);
        }
        Ok(identity)
    }

    /// Reads which generation of nodes each server has come to: whoever is of an older one is refused
    /// from the first moment on.
    async fn load_generations(&mut self) -> Result<(), IdentityError> {
        let rows = self.parts.scan.send(ScanRows(RowKind::ServerKeys)).timeout(ASK_WAIT).await;
        for (row, value) in rows.map_err(AskError::from)?? {
            let Row::ServerKeys(server, _) = row else { continue };
            let generation = stored_generation(&value);
            self.generations.send_if_modified(|all| all.note(&server, generation, true));
        }
        Ok(())
    }

    /// Returns the highest generation of each server, as it becomes known.
    pub fn generations(&self) -> watch::Receiver<Generations> {
        self.generations.subscribe()
    }

    /// Notes of which generation the nodes of a server are now.
    fn note_generation(&self, server: &ServerName) {
        let Some(known) = self.known.peek(server) else { return };
        let (generation, kept) = (known.certificates.generation(), known.kept);
        self.generations.send_if_modified(|all| all.note(server, generation, kept));
    }

    /// Issues server_keys.
    fn issue(
        &self,
        keys: NodeKeys,
    ) -> impl Future<Output = Result<Current, IdentityError>> + use<> {
        let IdentityParts { data, peer_id, read, write, .. } = &self.parts;
        issue(keys, data.clone(), peer_id.clone(), read.clone(), write.clone())
    }

    /// Makes the identity of this node: once in its life. The keys are on disk before the database
    /// says whose it is, and that before anybody else learns it.
    fn create(&mut self) -> Result<Issuing, IdentityError> {
        // The write may block for a moment.
        let keys = keys::create(&self.parts.data, now_ms())?;
        let owner = NameOwner(keys.secret().server_name());
        let named = self.parts.name_owner.send(owner).timeout(ASK_WAIT);
        let issued = self.issue(keys.clone());
        self.keys = Some(keys);
        let made = async move {
            named.await.map_err(AskError::from)??;
            issued.await
        };
        Ok(made.boxed_local().shared())
    }

    /// Uses server_keys from now on, and tells everybody who signs.
    fn use_signer(&mut self, current: &Current) {
        self.issuing = None;
        if self.current.as_ref().is_some_and(|used| used.issued_ts == current.issued_ts) {
            return;
        }
        for subscriber in &self.subscribers {
            subscriber.do_send(SignerIssued(Arc::clone(&current.signer)));
        }
        self.keys = Some(current.keys.clone());
        self.current = Some(current.clone());
    }

    /// Issues server_keys anew when those that there are run out soon.
    fn renew(&mut self, ctx: &mut Context<Self>) {
        let Some(current) = &self.current else { return };
        let until = current.issued_ts.saturating_add(LIFETIME_MS);
        if now_ms().saturating_add(RENEW_BEFORE_MS) < until {
            return;
        }
        self.issue_anew(ctx);
    }

    /// Issues server_keys anew, one after another: each may come with a new key to seal to, and two that
    /// are made at once would be one too many.
    fn issue_anew(&mut self, ctx: &mut Context<Self>) {
        let Some(keys) = self.keys.clone() else { return };
        if let Some(again) = &mut self.renewing {
            *again = true;
            return;
        }
        self.renewing = Some(false);
        let issued = self.issue(keys).into_actor(self).map(|issued, act, ctx| {
            match issued {
                Ok(current) => act.use_signer(&current),
                Err(error) => log::error!("cannot issue new server_keys: {error}"),
            }
            if act.renewing.take() == Some(true) {
                act.issue_anew(ctx);
            }
        });
        ctx.spawn(issued);
    }

    /// Returns who signs, if there is an identity.
    pub(super) fn signer(&self) -> Option<&Signer> {
        self.current.as_ref().map(|current| &*current.signer)
    }

    /// Looks whether a copy of this node runs elsewhere.
    pub(super) fn look_at_own(&self, keys: &VerifiedServerKeys) {
        let Some(Current { signer, issued_ts, issued, .. }) = &self.current else { return };
        if !keys.verify_key_ids().any(|id| id == signer.verify_key_id()) {
            // Another node of ours, with keys of its own.
            return;
        }
        let us = (signer.server_name(), *issued_ts);
        if let Some(copy) = issued.used_elsewhere(keys, us, now_ms()) {
            self.parts.used_elsewhere.do_send(copy);
        }
    }

    /// Where the clock was set, issues server_keys anew: others refused those that seemed to come
    /// from the future, or to be over, and everybody who signs has to begin anew with them.
    fn look_at_clock(&mut self, ctx: &mut Context<Self>) {
        let Some(step_ms) = self.clock.look(now_ms(), uptime_ms()) else { return };
        let way = if step_ms > 0 { "forward" } else { "back" };
        let seconds = step_ms.unsigned_abs() / 1000;
        log::warn!("the clock of this machine was set {way} by {seconds} s; greeting others anew");
        // At the first login they are being issued already.
        if self.current.is_some() {
            self.issue_anew(ctx);
        }
    }
}

impl Actor for IdentityActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(LOOK_EVERY, Self::renew);
        ctx.run_interval(LOOK_AT_CLOCK, Self::look_at_clock);
        Self::ask_elsewhere_often(ctx);
    }
}

impl Handler<EnsureIdentity> for IdentityActor {
    type Result = ResponseActFuture<Self, Result<Arc<Signer>, IdentityError>>;

    fn handle(&mut self, _: EnsureIdentity, _: &mut Self::Context) -> Self::Result {
        if let Some(current) = &self.current {
            return Box::pin(fut::ready(Ok(Arc::clone(&current.signer))));
        }
        let issuing = match (&self.issuing, self.keys.clone()) {
            (Some(issuing), _) => Ok(issuing.clone()),
            (None, None) => self.create(),
            // The keys were made, and then the Store failed.
            (None, Some(keys)) => Ok(self.issue(keys).boxed_local().shared()),
        };
        let issuing = match issuing {
            Ok(issuing) => issuing,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        self.issuing = Some(issuing.clone());
        Box::pin(issuing.into_actor(self).map(|issued, act, _| match issued {
            Ok(current) => {
                if act.current.is_none() {
                    let user_id = server_name::user_of(current.signer.server_name());
                    log::info!("from now on you are {user_id}");
                }
                act.use_signer(&current);
                Ok(current.signer)
            }
            Err(error) => {
                act.issuing = None;
                Err(error)
            }
        }))
    }
}

impl Handler<ReadSigner> for IdentityActor {
    type Result = Option<Arc<Signer>>;

    fn handle(&mut self, _: ReadSigner, _: &mut Self::Context) -> Self::Result {
        self.current.as_ref().map(|current| Arc::clone(&current.signer))
    }
}

impl Handler<SubscribeSigner> for IdentityActor {
    type Result = ();

    fn handle(&mut self, msg: SubscribeSigner, _: &mut Self::Context) {
        if let Some(current) = &self.current {
            msg.0.do_send(SignerIssued(Arc::clone(&current.signer)));
        }
        self.subscribers.push(msg.0);
    }
}

impl IdentityActor {
    /// Takes server_keys that were seen. On disk they come where a room needs them (`keep`) or has
    /// needed some of this server before: identities cost nothing, and rows are for ever.
    fn take(&mut self, keys: VerifiedServerKeys, keep: bool, ctx: &mut Context<Self>) {
        self.look_at_own(&keys);
        if let Some(known) = self.known.get(keys.server_name()) {
            if (!keep || known.kept) && !known.certificates.lacks(&keys) {
                return;
            }
            return self.add(keys, keep, ctx);
        }
        // Newer ones may be on disk: look there before anything is replaced.
        let stored = read_stored(self.parts.scan.clone(), keys.server_name().to_owned());
        ctx.spawn(stored.into_actor(self).map(move |stored, act, ctx| {
            act.take_stored(keys.server_name(), stored);
            act.add(keys, keep, ctx);
        }));
    }

    /// Takes what was on disk. Others may have come meanwhile.
    fn take_stored(&mut self, server: &ServerName, stored: Vec<VerifiedServerKeys>) {
        self.known.change(server, |known| {
            known.kept |= !stored.is_empty();
            for keys in stored {
                known.certificates.add(&Arc::new(keys));
            }
        });
        self.note_generation(server);
    }

    /// Adds server_keys to what is in memory, and where they are kept to what is on disk.
    fn add(&mut self, keys: VerifiedServerKeys, keep: bool, ctx: &mut Context<Self>) {
        let keys = Arc::new(keys);
        let rows = self.known.change(keys.server_name(), |known| {
            let mut changed = known.certificates.add(&keys);
            if !(keep || known.kept) {
                return Vec::new();
            }
            if !std::mem::replace(&mut known.kept, true) {
                changed.put = known.certificates.iter().map(|(id, _)| id.to_owned()).collect();
            }
            let server = keys.server_name();
            let row = |id: String| Row::ServerKeys(server.to_owned(), id);
            let put = changed.put.into_iter().filter_map(|id| {
                let text = known.certificates.newest_of(&id)?.text();
                Some((row(id), Some(text.as_bytes().to_vec())))
            });
            let put: Vec<_> = put.collect();
            put.into_iter().chain(changed.gone.into_iter().map(|id| (row(id), None))).collect()
        });
        self.note_generation(keys.server_name());
        if rows.is_empty() {
            return;
        }
        let written = self.parts.write.send(WriteRows(rows)).into_actor(self);
        ctx.spawn(written.map(|written, _, _| {
            if !matches!(written, Ok(Ok(_))) {
                log::warn!("server_keys of another server were not written down");
            }
        }));
    }
}

impl Handler<KeysSeen> for IdentityActor {
    type Result = ();

    fn handle(&mut self, KeysSeen(keys): KeysSeen, ctx: &mut Self::Context) {
        self.take(keys, false, ctx);
    }
}

impl Handler<KeepKeys> for IdentityActor {
    type Result = ();

    fn handle(&mut self, KeepKeys(keys): KeepKeys, ctx: &mut Self::Context) {
        self.take(keys, true, ctx);
    }
}

/// Reads stored server_keys. They were verified when they came; that they were issued in the past
/// then is all that could have changed, and only for the better.
fn read_row(bytes: &[u8]) -> Option<VerifiedServerKeys> {
    let json: CanonicalJsonObject = serde_json::from_slice(bytes).ok()?;
    VerifiedServerKeys::verify(json, now_ms()).ok()
}

/// Reads the stored server_keys of one server.
async fn read_stored(
    scan: Recipient<ScanRows>,
    server: OwnedServerName,
) -> Vec<VerifiedServerKeys> {
    let rows = scan.send(ScanRows(RowKind::ServerKeysOf(server))).await;
    let rows = rows.ok().and_then(Result::ok).unwrap_or_default();
    rows.iter().filter_map(|(_, value)| read_row(value)).collect()
}

impl Handler<FindServerKeys> for IdentityActor {
    type Result = ResponseActFuture<Self, HashMap<OwnedServerName, Certificates>>;

    fn handle(&mut self, msg: FindServerKeys, _: &mut Self::Context) -> Self::Result {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        for server in msg.0 {
            match self.known.get(&server) {
                Some(known) => {
                    found.insert(server, known.certificates.clone());
                }
                None => unknown.push(server),
            }
        }
        let scan = self.parts.scan.clone();
        let load = async move {
            let mut loaded = Vec::new();
            for server in unknown {
                let stored = read_stored(scan.clone(), server.clone()).await;
                if !stored.is_empty() {
                    loaded.push((server, stored));
                }
            }
            loaded
        };
        Box::pin(load.into_actor(self).map(move |loaded, act, _| {
            for (server, stored) in loaded {
                act.take_stored(&server, stored);
                if let Some(known) = act.known.peek(&server) {
                    found.insert(server, known.certificates.clone());
                }
            }
            found
        }))
    }
}

#[cfg(test)]
mod tests;
