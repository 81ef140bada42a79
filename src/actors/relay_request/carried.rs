//! Asking another server through others: seal the request, find who may carry it, open what comes
//! back, fetch the rest of a long answer.
//!
//! Invariants: each carrier gets a seal of its own, so what one of them withholds or repeats spoils
//! no other way; a piece counts only where it opens; memory for long answers has one budget.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use libp2p::PeerId;
use rand::seq::SliceRandom as _;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    canonical_json::to_canonical_value,
};
use tokio::time::{sleep, timeout};

use super::{
    CarryWith,
    outbound::{Asked, OVER, Outbound, Route, either, head_start, read},
};
use crate::{
    actors::{
        clock::now_ms,
        identity::{FindServerKeys, KeysSeen},
        rendezvous::{ReadProven, ResolveServer},
        upward::{FederationError, FindSharing},
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        sealed::{self, HOPS_MAX, LIFETIME_MS, MAX_CARRIED_LEN, Parcel, Piece, SealedAnswer},
        server_keys::VerifiedServerKeys,
        signed::{Answer, Verified},
    },
};

/// Carriers that are asked for one request.
const CARRIERS_MAX: usize = 4;
/// Carriers that a carrier asks, where it has no connection to the destination itself.
const FORWARD_MAX: usize = 2;
/// Carriers that are asked at once.
const AT_ONCE: usize = 2;
/// Before the next carrier is asked while the first has not answered.
const STAGGER: Duration = Duration::from_millis(400);
/// Longest wait for somebody else's server_keys.
const KEYS_WAIT: Duration = Duration::from_secs(2);
/// How long a carrier waits for a connection to a destination that it is not connected to.
const FORWARD_FIND: Duration = Duration::from_millis(1500);

/// Somebody who may carry: connected, proven, and in a room with us.
type Carrier = (OwnedServerName, PeerId);

/// Asks one after another, the next one where the one before failed or takes long; the first
/// good answer counts.
async fn through<'a, T, F>(
    carriers: &'a [Carrier],
    nobody: FederationError,
    ask: impl Fn(&'a Carrier) -> F,
) -> Result<T, FederationError>
where
    F: Future<Output = Result<T, FederationError>>,
{
    let mut waiting = carriers.iter();
    let mut asked = FuturesUnordered::new();
    let mut failure = nobody;
    loop {
        match waiting.next() {
            Some(carrier) => asked.push(ask(carrier)),
            None if asked.is_empty() => return Err(failure),
            None => {}
        }
        let more = asked.len() < AT_ONCE && waiting.len() > 0;
        tokio::select! {
            Some(done) = asked.next() => match done {
                Ok(value) => return Ok(value),
                Err(error) => {
                    log::debug!(error:%; "a carrier could not help");
                    failure = error;
                }
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

impl Outbound {
    /// Asks through others, where somebody may carry it.
    pub(super) async fn carried(&self, asked: &Asked) -> Result<Verified<Answer>, FederationError> {
        let with = self.carry_with.as_ref().ok_or_else(|| asked.unreachable())?;
        if asked.wire.bytes.len() > MAX_CARRIED_LEN {
            return Err(asked.unreachable());
        }
        let mut carriers =
            self.carriers(with, &asked.destination, None, CARRIERS_MAX).await.unwrap_or_default();
        let key = self.sealing_key(with, asked, &carriers).await?;
        let ask = |carrier| self.carry_by(carrier, asked, key);
        let (carrier, piece) = through(&carriers, asked.unreachable(), ask).await?;
        if piece.from != 0 {
            return Err(asked.bad("it begins in the middle"));
        }
        // Whoever could carry the first piece is asked first for the others.
        carriers.sort_by_key(|other| *other != carrier);
        let bytes = self.fetch_rest(asked, &carriers, key, piece).await?;
        self.verify(asked, bytes).await
    }

    /// Returns who may carry something to a destination: those known to share a room with it
    /// first, in random order else.
    async fn carriers(
        &self,
        with: &CarryWith,
        destination: &OwnedServerName,
        origin: Option<&ServerName>,
        most: usize,
    ) -> Option<Vec<Carrier>> {
        let mut proven = self.proven.send(ReadProven).await.ok()?;
        proven.retain(|(server, _)| server != destination && Some(server.as_ref()) != origin);
        proven.shuffle(&mut rand::rng());
        let servers = proven.iter().map(|(server, _)| server.clone()).collect();
        let find = FindSharing { servers, with: Some(destination.clone()) };
        let mut sharing = with.sharing.send(find).await.ok()?;
        sharing.sort_by_key(|one| !one.with);
        let carriers = sharing.into_iter().filter_map(|one| {
            let (_, peer) = proven.iter().find(|(server, _)| *server == one.server_name)?;
            Some((one.server_name, *peer))
        });
        Some(carriers.take(most).collect())
    }

    /// Returns the key to seal to: from the server_keys that are known, or that a carrier has.
    async fn sealing_key(
        &self,
        with: &CarryWith,
        asked: &Asked,
        carriers: &[Carrier],
    ) -> Result<[u8; 32], FederationError> {
        let server = &asked.destination;
        if carriers.is_empty() {
            return Err(asked.unreachable());
        }
        let key_of = |keys: &VerifiedServerKeys| {
            keys.is_live(now_ms()).then(|| keys.encryption_key()).flatten()
        };
        let known = with.find_keys.send(FindServerKeys(vec![server.clone()])).await;
        let known = known.ok().and_then(|known| key_of(known.get(server)?.newest()?));
        if let Some(key) = known {
            return Ok(key);
        }
        let ask = |carrier| self.server_keys_by(carrier, server);
        let keys = through(carriers, asked.unreachable(), ask).await?;
        let key = key_of(&keys).ok_or_else(|| asked.unreachable())?;
        self.keys_seen.do_send(KeysSeen(keys));
        Ok(key)
    }

    /// Asks one carrier for the server_keys of a server, which prove themselves.
    async fn server_keys_by(
        &self,
        carrier: &Carrier,
        server: &OwnedServerName,
    ) -> Result<VerifiedServerKeys, FederationError> {
        let endpoint = Endpoint::server_keys(server);
        let nothing = CanonicalJsonValue::Object(CanonicalJsonObject::new());
        let asked = self.signed(&carrier.0, endpoint, nothing, KEYS_WAIT).await?;
        let answer = timeout(KEYS_WAIT, self.exchange(&asked, carrier.1)).await;
        let answer = answer.map_err(|_| FederationError::TimedOut(carrier.0.clone()))??;
        let CanonicalJsonValue::Object(keys) = read(carrier.0.clone(), answer.message)? else {
            return Err(asked.bad("it is no object"));
        };
        let verified = self.cpu.run(move || VerifiedServerKeys::verify(keys, now_ms())).await;
        match verified {
            Ok(Ok(keys)) if !self.admits(&keys) => Err(asked.bad(OVER)),
            Ok(Ok(keys)) if keys.server_name() == server && keys.is_live(now_ms()) => Ok(keys),
            Ok(Ok(_)) => Err(asked.bad("these are not the server_keys that were asked for")),
            Ok(Err(error)) => Err(asked.bad(error)),
            Err(error) => Err(asked.bad(error)),
        }
    }

    /// Has one carrier carry a request. Returns the first piece of the answer.
    async fn carry_by(
        &self,
        carrier: &Carrier,
        asked: &Asked,
        key: [u8; 32],
    ) -> Result<(Carrier, Piece), FederationError> {
        let expires_ts = now_ms().saturating_add(LIFETIME_MS);
        let (request, destination) = (asked.wire.bytes.clone(), asked.destination.clone());
        let job = move || sealed::seal(&request, &destination, &key, expires_ts, rand::random());
        let (sealed, opener) = match self.cpu.run(job).await {
            Ok(Ok(sealed)) => sealed,
            Ok(Err(error)) => return Err(asked.bad(error)),
            Err(error) => return Err(asked.bad(error)),
        };
        let wait_ms = u64::try_from(asked.left().as_millis()).unwrap_or_default();
        let parcel = sealed::parcel(sealed, expires_ts, wait_ms);
        let answer = self.hop(carrier, &asked.destination, &parcel).await?;
        let job = move || opener.open(answer.sealed.as_bytes());
        match self.cpu.run(job).await {
            Ok(Ok(piece)) => Ok((carrier.clone(), piece)),
            Ok(Err(error)) => Err(asked.bad(format!("through {}: {error}", carrier.0))),
            Err(error) => Err(asked.bad(error)),
        }
    }

    /// Hands a sealed request to a carrier, or to its destination.
    async fn hop(
        &self,
        to: &Carrier,
        destination: &ServerName,
        parcel: &Parcel,
    ) -> Result<SealedAnswer, FederationError> {
        let wait = Duration::from_millis(parcel.wait_ms).min(limits::FEDERATION_WAIT);
        let bad = |why: String| FederationError::BadAnswer { server: to.0.clone(), why };
        let content = to_canonical_value(parcel).map_err(|error| bad(error.to_string()))?;
        let asked = self.signed(&to.0, Endpoint::carry(destination), content, wait).await?;
        let answer = timeout(wait, self.exchange(&asked, to.1)).await;
        let answer = answer.map_err(|_| FederationError::TimedOut(to.0.clone()))??;
        self.keys_seen.do_send(KeysSeen(answer.server_keys));
        let content = read(to.0.clone(), answer.message)?;
        serde_json::from_value(content.into()).map_err(|error| bad(error.to_string()))
    }

    /// Fetches what the first piece of an answer left out.
    async fn fetch_rest(
        &self,
        asked: &Asked,
        carriers: &[Carrier],
        key: [u8; 32],
        first: Piece,
    ) -> Result<Vec<u8>, FederationError> {
        let Piece { total, mut bytes, .. } = first;
        if bytes.len() >= total {
            return Ok(bytes);
        }
        let kib = u32::try_from(total / 1024 + 1).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.assembly).try_acquire_many_owned(kib);
        let _budget = budget.map_err(|_| asked.bad("too many long answers are being fetched"))?;
        while bytes.len() < total {
            let endpoint = Endpoint::piece(&asked.request_id, bytes.len());
            let nothing = CanonicalJsonValue::Object(CanonicalJsonObject::new());
            let more = self.signed(&asked.destination, endpoint, nothing, asked.left()).await?;
            let ask = |carrier| self.carry_by(carrier, &more, key);
            let (_, piece) = through(carriers, asked.unreachable(), ask).await?;
            if piece.total != total || piece.from != bytes.len() {
                return Err(asked.bad("its pieces do not fit"));
            }
            bytes.extend_from_slice(&piece.bytes);
        }
        Ok(bytes)
    }

    /// Hands a sealed request on for another server: to its destination, and where that is not
    /// connected, to somebody nearer to it while hops are left. `lately` is how the destination
    /// was reached when it was asked last.
    pub(super) async fn forward(
        &self,
        origin: &ServerName,
        destination: &OwnedServerName,
        parcel: Parcel,
        lately: Option<Route>,
    ) -> Result<(SealedAnswer, Route), FederationError> {
        let wait = Duration::from_millis(parcel.wait_ms).min(limits::FEDERATION_WAIT);
        let next = Parcel { hops: parcel.hops.saturating_add(1), ..parcel };
        let forwarded = self.forward_on(origin, destination, &next, lately);
        let forwarded = timeout(wait, Box::pin(forwarded)).await;
        forwarded.map_err(|_| FederationError::TimedOut(destination.clone()))?
    }

    async fn forward_on(
        &self,
        origin: &ServerName,
        destination: &OwnedServerName,
        next: &Parcel,
        lately: Option<Route>,
    ) -> Result<(SealedAnswer, Route), FederationError> {
        let unreachable = || FederationError::Unreachable(destination.clone());
        let proven = self.proven.send(ReadProven).await.unwrap_or_default();
        let live = proven.into_iter().find(|(server, _)| server == destination);
        let connected = live.is_some();
        let direct = async {
            let to = match live {
                Some(to) => to,
                // Only the first carrier looks further: else one request would set many to work.
                None if next.hops <= 2 => (destination.clone(), self.look(destination).await?),
                None => return Err(unreachable()),
            };
            Ok((self.hop(&to, destination, next).await?, Route::Direct))
        };
        let others = async {
            let with = self.carry_with.as_ref().ok_or_else(unreachable)?;
            if next.hops >= HOPS_MAX {
                return Err(unreachable());
            }
            let carriers = self.carriers(with, destination, Some(origin), FORWARD_MAX).await;
            let carriers = carriers.unwrap_or_default();
            let ask = |carrier| self.hop(carrier, destination, next);
            Ok((through(&carriers, unreachable(), ask).await?, Route::Carried))
        };
        let patience = async {
            match connected {
                true => std::future::pending().await,
                false => sleep(head_start(lately)).await,
            }
        };
        either(direct, patience, others).await
    }

    async fn look(&self, destination: &OwnedServerName) -> Result<PeerId, FederationError> {
        // The search itself has its usual time, though nobody waits for all of it: one that is cut
        // short would count as failed for those here who look for the same server.
        let server_name = destination.clone();
        let resolve =
            self.resolve.send(ResolveServer { server_name, timeout: limits::SEARCH_WAIT });
        let found = timeout(FORWARD_FIND, resolve).await.ok().and_then(Result::ok).flatten();
        found.ok_or_else(|| FederationError::Unreachable(destination.clone()))
    }
}
