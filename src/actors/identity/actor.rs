//! The shell: issues server_keys in time, keeps the newest of every other server.

use std::{collections::HashMap, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseActFuture,
    WrapFuture as _,
};
use lru::LruCache;
use ruma::{CanonicalJsonObject, OwnedServerName};

use super::{
    keys,
    messages::{
        EnsureIdentity, FindServerKeys, IdentityError, KeepKeys, ReadSigner, SignerIssued,
        SubscribeSigner,
    },
};
use crate::{
    actors::{
        clock::{ClockWatch, now_ms, uptime_ms},
        relay_request::KeysSeen,
        store::{ReadRow, Row, WriteRows},
    },
    config::limits,
    proto::{
        server_keys::{LIFETIME_MS, RENEW_BEFORE_MS, VerifiedServerKeys},
        signer::{SecretKeys, Signer},
    },
};

/// How often it is looked whether server_keys have to be issued anew.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often it is looked whether the clock of this machine was set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// server_keys of others that stay in memory.
const KNOWN_MAX: usize = 4096;

/// Owns the identity key and the verify key of this node.
pub struct IdentityActor {
    data: PathBuf,
    /// The libp2p nodes that speak for this server.
    peer_ids: Vec<String>,
    keys: Option<SecretKeys>,
    signer: Option<Arc<Signer>>,
    issued_ms: u64,
    clock: ClockWatch,
    subscribers: Vec<Recipient<SignerIssued>>,
    known: LruCache<OwnedServerName, Known>,
    read: Recipient<ReadRow>,
    write: Recipient<WriteRows>,
}

impl IdentityActor {
    /// Reads the identity of a data folder, if there is one.
    pub fn load(
        data: PathBuf,
        peer_id: String,
        read: Recipient<ReadRow>,
        write: Recipient<WriteRows>,
    ) -> Result<Self, IdentityError> {
        let mut identity = Self {
            keys: keys::read(&data)?,
            data,
            peer_ids: vec![peer_id],
            signer: None,
            issued_ms: 0,
            clock: ClockWatch::new(now_ms(), uptime_ms()),
            subscribers: Vec::new(),
            known: LruCache::new(NonZeroUsize::new(KNOWN_MAX).unwrap_or(NonZeroUsize::MIN)),
            read,
            write,
        };
        if let Some(keys) = identity.keys.clone() {
            identity.issue(&keys)?;
        }
        Ok(identity)
    }

    /// Issues server_keys and tells everybody who signs.
    fn issue(&mut self, keys: &SecretKeys) -> Result<Arc<Signer>, IdentityError> {
        let now = now_ms();
        let signer = Signer::new(keys, &self.peer_ids, now).map_err(|error| {
            IdentityError::KeyFile { file: self.data.display().to_string(), why: error.to_string() }
        })?;
        let signer = Arc::new(signer);
        self.signer = Some(Arc::clone(&signer));
        self.issued_ms = now;
        for subscriber in &self.subscribers {
            subscriber.do_send(SignerIssued(Arc::clone(&signer)));
        }
        Ok(signer)
    }

    /// Issues server_keys anew when those that there are run out soon.
    fn renew(&mut self) {
        let until = self.issued_ms.saturating_add(LIFETIME_MS);
        if let Some(keys) = self.keys.clone()
            && now_ms().saturating_add(RENEW_BEFORE_MS) >= until
            && let Err(error) = self.issue(&keys)
        {
            log::error!("cannot issue new server_keys: {error}");
        }
    }

    /// Where the clock was set, issues server_keys anew: others refused those that seemed to come
    /// from the future, or to be over, and everybody who signs has to begin anew with them.
    fn look_at_clock(&mut self) {
        let Some(step_ms) = self.clock.look(now_ms(), uptime_ms()) else { return };
        let way = if step_ms > 0 { "forward" } else { "back" };
        let seconds = step_ms.unsigned_abs() / 1000;
        log::warn!("the clock of this machine was set {way} by {seconds} s; greeting others anew");
        if let Some(keys) = self.keys.clone()
            && let Err(error) = self.issue(&keys)
        {
            log::error!("cannot issue new server_keys: {error}");
        }
    }
}

impl Actor for IdentityActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(LOOK_EVERY, |act, _| act.renew());
        ctx.run_interval(LOOK_AT_CLOCK, |act, _| act.look_at_clock());
    }
}

impl Handler<EnsureIdentity> for IdentityActor {
    type Result = Result<Arc<Signer>, IdentityError>;

    fn handle(&mut self, _: EnsureIdentity, _: &mut Self::Context) -> Self::Result {
        if let Some(signer) = &self.signer {
            return Ok(Arc::clone(signer));
        }
        // Once in the life of a node: the write may block for a moment.
        let keys = keys::create(&self.data)?;
        let signer = self.issue(&keys)?;
        self.keys = Some(keys);
        log::info!("this node is {}", signer.user_id());
        Ok(signer)
    }
}

impl Handler<ReadSigner> for IdentityActor {
    type Result = Option<Arc<Signer>>;

    fn handle(&mut self, _: ReadSigner, _: &mut Self::Context) -> Self::Result {
        self.signer.clone()
    }
}

impl Handler<SubscribeSigner> for IdentityActor {
    type Result = ();

    fn handle(&mut self, msg: SubscribeSigner, _: &mut Self::Context) {
        if let Some(signer) = &self.signer {
            msg.0.do_send(SignerIssued(Arc::clone(signer)));
        }
        self.subscribers.push(msg.0);
    }
}

/// server_keys of another server.
#[derive(Debug, Clone)]
struct Known {
    keys: VerifiedServerKeys,
    /// They, or older ones, are on disk.
    kept: bool,
}

impl IdentityActor {
    /// Takes server_keys that were seen. On disk they come where a room needs them (`keep`) or has
    /// needed those of this server before: identities cost nothing, and rows are for ever.
    fn take(&mut self, keys: VerifiedServerKeys, keep: bool, ctx: &mut Context<Self>) {
        let server = keys.server_name().to_owned();
        let known = self.known.get(&server);
        let newest = known.is_some_and(|known| known.keys.issued_ts() >= keys.issued_ts());
        if newest && known.is_some_and(|known| known.kept || !keep) {
            return;
        }
        let keys = known.filter(|_| newest).map_or(keys, |known| known.keys.clone());
        // The newest may be on disk only: look there before it is replaced.
        let row = Row::ServerKeys(server.clone());
        let stored = self.read.send(ReadRow(row.clone()));
        let write = self.write.clone();
        let taken = async move {
            let stored = stored.await.ok().and_then(Result::ok).flatten();
            let kept = keep || stored.is_some();
            match stored.as_deref().and_then(read_row) {
                Some(stored) if stored.issued_ts() >= keys.issued_ts() => {
                    return Known { keys: stored, kept };
                }
                _ => {}
            }
            if kept && let Ok(bytes) = serde_json::to_vec(keys.json()) {
                let _ = write.send(WriteRows(vec![(row, Some(bytes))])).await;
            }
            Known { keys, kept }
        };
        ctx.spawn(taken.into_actor(self).map(move |taken, act, _| {
            // Others may have come meanwhile.
            let newer = |known: &Known| {
                (known.keys.issued_ts(), known.kept) > (taken.keys.issued_ts(), taken.kept)
            };
            if !act.known.peek(&server).is_some_and(newer) {
                act.known.put(server, taken);
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

impl Handler<FindServerKeys> for IdentityActor {
    type Result = ResponseActFuture<Self, HashMap<OwnedServerName, VerifiedServerKeys>>;

    fn handle(&mut self, msg: FindServerKeys, _: &mut Self::Context) -> Self::Result {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        for server in msg.0 {
            match self.known.get(&server) {
                Some(known) => {
                    found.insert(server, known.keys.clone());
                }
                None => unknown.push(server),
            }
        }
        let read = self.read.clone();
        let load = async move {
            let mut loaded = Vec::new();
            for server in unknown {
                let row = read.send(ReadRow(Row::ServerKeys(server.clone()))).await;
                if let Ok(Ok(Some(bytes))) = row
                    && let Some(keys) = read_row(&bytes)
                {
                    loaded.push((server, keys));
                }
            }
            loaded
        };
        Box::pin(load.into_actor(self).map(move |loaded, act, _| {
            for (server, keys) in loaded {
                act.known.put(server.clone(), Known { keys: keys.clone(), kept: true });
                found.insert(server, keys);
            }
            found
        }))
    }
}

#[cfg(test)]
mod tests {
    use actix::Addr;

    use super::*;
    use crate::{
        actors::store::{self, StoreActor},
        proto::server_keys::{issue, tests::secret_keys},
    };

    fn keys(seed: u8, issued_ts: u64) -> VerifiedServerKeys {
        let json = issue(&secret_keys(seed), &["peer".to_owned()], issued_ts).unwrap();
        VerifiedServerKeys::verify(json, now_ms()).unwrap()
    }

    /// What is in memory, and what is on disk: when each was issued.
    async fn known(
        identity: &Addr<IdentityActor>,
        store: &Addr<StoreActor>,
        seed: u8,
    ) -> (Option<u64>, Option<u64>) {
        let server = secret_keys(seed).server_name();
        let found = identity.send(FindServerKeys(vec![server.clone()])).await.unwrap();
        let row = store.send(ReadRow(Row::ServerKeys(server.clone()))).await.unwrap().unwrap();
        let stored = row.as_deref().and_then(read_row);
        (found.get(&server).map(VerifiedServerKeys::issued_ts), stored.map(|keys| keys.issued_ts()))
    }

    #[actix::test]
    async fn attack_13_whoever_comes_along_leaves_nothing_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::start(folder.path()).unwrap();
        let (read, write) = (store.clone().recipient(), store.clone().recipient());
        let data = folder.path().to_owned();
        let identity = IdentityActor::load(data, "peer".to_owned(), read, write).unwrap().start();
        let now = now_ms();
        let settle = || tokio::time::sleep(Duration::from_millis(300));

        identity.send(KeysSeen(keys(2, now - 1000))).await.unwrap();
        settle().await;
        assert_eq!(known(&identity, &store, 2).await, (Some(now - 1000), None));
        // A room needs the same ones, and then somebody shows newer ones.
        identity.send(KeepKeys(keys(2, now - 1000))).await.unwrap();
        settle().await;
        assert_eq!(known(&identity, &store, 2).await, (Some(now - 1000), Some(now - 1000)));
        identity.send(KeysSeen(keys(2, now))).await.unwrap();
        settle().await;
        assert_eq!(known(&identity, &store, 2).await, (Some(now), Some(now)));
        // Old ones change nothing.
        identity.send(KeepKeys(keys(2, now - 500))).await.unwrap();
        settle().await;
        assert_eq!(known(&identity, &store, 2).await, (Some(now), Some(now)));
    }
}
