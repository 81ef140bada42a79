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
        EnsureIdentity, FindServerKeys, IdentityError, ReadSigner, SignerIssued, SubscribeSigner,
    },
};
use crate::{
    actors::{
        clock::now_ms,
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
    subscribers: Vec<Recipient<SignerIssued>>,
    known: LruCache<OwnedServerName, VerifiedServerKeys>,
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
}

impl Actor for IdentityActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(LOOK_EVERY, |act, _| act.renew());
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

impl Handler<KeysSeen> for IdentityActor {
    type Result = ();

    fn handle(&mut self, msg: KeysSeen, ctx: &mut Self::Context) {
        let keys = msg.0;
        let server = keys.server_name().to_owned();
        if self.known.get(&server).is_some_and(|known| known.issued_ts() >= keys.issued_ts()) {
            return;
        }
        // The newest may be on disk only: look there before it is replaced.
        let row = Row::ServerKeys(server.clone());
        let stored = self.read.send(ReadRow(row.clone()));
        let write = self.write.clone();
        let keep = async move {
            let stored = stored.await.ok().and_then(Result::ok).flatten();
            let older = |bytes: &[u8]| {
                read_row(bytes).is_none_or(|known| known.issued_ts() < keys.issued_ts())
            };
            if stored.as_deref().is_none_or(older) {
                if let Ok(bytes) = serde_json::to_vec(keys.json()) {
                    let _ = write.send(WriteRows(vec![(row, Some(bytes))])).await;
                }
                return Some(keys);
            }
            stored.as_deref().and_then(read_row)
        };
        ctx.spawn(keep.into_actor(self).map(move |newest, act, _| {
            if let Some(newest) = newest {
                act.known.put(server, newest);
            }
        }));
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
                Some(keys) => {
                    found.insert(server, keys.clone());
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
                act.known.put(server.clone(), keys.clone());
                found.insert(server, keys);
            }
            found
        }))
    }
}
