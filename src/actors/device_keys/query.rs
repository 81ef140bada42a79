//! What our clients ask: the keys of others, and one-time keys.
//!
//! What is known and current is answered at once; other servers are asked for the rest, several at a
//! time, and who does not answer in time is named, unless what is known of them serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _};
use futures::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, UserId,
    canonical_json::to_canonical_value,
};
use serde_json::json;

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks, Rows},
    bundle_asks::{Found, SignedBundle},
    keyring::{Keyring, KeysById},
    list::{GivenSignatures, KeyList},
    messages::{ClaimKeys, ClaimedKeys, Claims, FoundKeys, KeyError, OneTimeKeys, QueryKeys},
    remote,
    upload::keyring_rows,
};
use crate::{
    actors::upward::{FederationError, SendFederation},
    config::limits,
    proto::{endpoint::Endpoint, server_name},
};

/// What another server answered about a user.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) user_id: OwnedUserId,
    /// The list, or why there is none.
    pub(super) list: Result<KeyList, String>,
    /// Since which position a room is shared, where one is.
    pub(super) shared: bool,
    /// The position before the server was asked.
    pub(super) position: u64,
    /// The list changed while it was asked for.
    pub(super) again: bool,
    /// What its server signed of it before, where it did not tell it now.
    pub(super) bundle: Option<SignedBundle>,
    /// Room-mates of the user were asked for that.
    pub(super) others_asked: bool,
    /// What is known by it.
    pub(super) learned: Option<KeyList>,
}

impl Fetched {
    /// What a user's server answered.
    pub(super) fn new(
        user_id: OwnedUserId,
        list: Result<KeyList, String>,
        shared: bool,
        position: u64,
    ) -> Self {
        let (again, others_asked) = (false, false);
        Self { user_id, list, shared, position, again, bundle: None, others_asked, learned: None }
    }
}

/// What is answered, and what has to be kept of what was fetched.
struct Asked {
    lists: BTreeMap<OwnedUserId, KeyList>,
    fetched: Vec<Fetched>,
}

impl DeviceKeysLinks {
    /// Asks a user's server for all devices of the user.
    pub(super) async fn fetch(
        &self,
        user_id: &UserId,
        timeout: Duration,
    ) -> Result<KeyList, String> {
        server_name::check_user(user_id).map_err(|error| error.to_string())?;
        let request = SendFederation {
            destination: user_id.server_name().to_owned(),
            endpoint: Endpoint::user_devices(user_id),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            timeout,
        };
        match self.federation.send(request).await {
            Ok(Ok(answer)) => remote::list_of(user_id, answer),
            // There is nobody of that name, who has no devices either.
            Ok(Err(FederationError::Refused { status: 404, .. })) => Ok(KeyList::default()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Finds the lists of users: those that are current, and those that are not after asking. Of those in
    /// `may_ask` room-mates are asked where the user's server does not answer.
    async fn lists(
        &self,
        by: &UserId,
        users: impl Iterator<Item = &OwnedUserId>,
        may_ask: &BTreeSet<OwnedUserId>,
        timeout: Duration,
    ) -> Result<Asked, KeyError> {
        let (mut lists, mut others) = (BTreeMap::new(), BTreeMap::new());
        let users: Vec<OwnedUserId> = users.cloned().collect();
        let mut known = self.lists_of(users.clone()).await?;
        for user_id in &users {
            let list = known.remove(user_id);
            if user_id.server_name() == by.server_name() {
                lists.insert(user_id.clone(), list.unwrap_or_default());
            } else {
                others.insert(user_id.clone(), list);
            }
        }
        let latest = |list: &Option<KeyList>| list.as_ref().and_then(|list| list.position);
        let wanted = others.iter().map(|(user, list)| (user.clone(), latest(list).unwrap_or(0)));
        let roommates = self.roommates(wanted.collect()).await?;
        let mut missing = Vec::new();
        for (user_id, list) in others {
            let since = roommates.since.get(&user_id).copied();
            let current = list
                .as_ref()
                .is_some_and(|list| !list.stale && since.is_some() && since <= list.position);
            if !current {
                missing.push((user_id.clone(), since.is_some()));
            }
            lists.extend(list.map(|list| (user_id, list)));
        }
        let names: Vec<_> = missing.clone();
        let position = roommates.position;
        let asked = missing.into_iter().enumerate().map(|(number, (user_id, shared))| async move {
            if !shared {
                let list = self.fetch(&user_id, timeout).await;
                return Fetched::new(user_id, list, shared, position);
            }
            let ask = number < limits::KEY_BUNDLES_LOOKED && may_ask.contains(&user_id);
            let Found { list, bundle } =
                self.find_list(by.server_name(), &user_id, ask, timeout).await;
            let others_asked = ask && bundle.is_some();
            Fetched { bundle, others_asked, ..Fetched::new(user_id, list, shared, position) }
        });
        let mut fetched = Vec::new();
        let mut answers =
            std::pin::pin!(stream::iter(asked).buffer_unordered(limits::KEYS_AT_ONCE));
        let all = async {
            while let Some(answer) = answers.next().await {
                fetched.push(answer);
            }
        };
        let in_time = tokio::time::timeout(timeout, all).await.is_ok();
        if !in_time {
            let done: BTreeSet<OwnedUserId> =
                fetched.iter().map(|fetched| fetched.user_id.clone()).collect();
            for (user_id, shared) in names {
                if !done.contains(&user_id) {
                    let list = Err("it did not answer in time".to_owned());
                    fetched.push(Fetched::new(user_id, list, shared, position));
                }
            }
        }
        Ok(Asked { lists, fetched })
    }

    /// Claims keys of our own devices. Each is gone from the disk before it is handed out; where
    /// `whole` says no, the fallback key is.
    pub(super) async fn claim_own(
        &self,
        claims: &Claims,
        mut whole: impl FnMut(&OwnedUserId, &str) -> bool,
    ) -> Result<OneTimeKeys, KeyError> {
        let each = || {
            let of_user = claims.iter().map(|(user_id, devices)| (user_id, devices.iter()));
            of_user
                .flat_map(|(user_id, devices)| devices.map(move |(id, name)| (user_id, id, name)))
        };
        let devices = each().map(|(user_id, device_id, _)| (user_id.clone(), device_id.clone()));
        let rings = self.keyrings(devices).await?;
        let (mut taken, mut rows) = (OneTimeKeys::new(), Rows::new());
        for ((user_id, device_id, algorithm), mut ring) in each().zip(rings) {
            let before = ring.clone();
            let claimed = match whole(user_id, device_id) {
                true => ring.claim(algorithm),
                false => ring.claim_fallback(algorithm),
            };
            let Some((id, key)) = claimed else { continue };
            if ring != before {
                rows.extend(keyring_rows(user_id, device_id, &ring)?);
            }
            let of_user = taken.entry(user_id.clone()).or_default();
            of_user.entry(device_id.clone()).or_default().insert(id, key);
        }
        self.write(rows).await?;
        Ok(taken)
    }

    /// Claims keys of the devices of another server; where it cannot be asked, fallback keys that were
    /// kept serve.
    async fn claim_of(
        &self,
        server: &OwnedServerName,
        claims: &Claims,
        timeout: Duration,
    ) -> (OneTimeKeys, Option<String>) {
        let lists = match self.lists_of(claims.keys().cloned().collect()).await {
            Ok(lists) => lists,
            Err(error) => return (OneTimeKeys::new(), Some(error.to_string())),
        };
        let request = || {
            let content = to_canonical_value(json!({"one_time_keys": claims})).ok()?;
            Some(SendFederation {
                destination: server.clone(),
                endpoint: Endpoint::claim_keys(),
                content,
                timeout,
            })
        };
        let Some(request) = request() else { return (OneTimeKeys::new(), None) };
        let answer = match tokio::time::timeout(timeout, self.federation.send(request)).await {
            Ok(Ok(Ok(answer))) => remote::claimed(claims, &lists, answer),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        match answer {
            Ok(keys) => (keys, None),
            Err(why) => {
                let kept = remote::kept_fallbacks(claims, &lists);
                let (asked, got) = (claims.values(), kept.values());
                let all = asked.map(BTreeMap::len).sum::<usize>()
                    == got.map(BTreeMap::len).sum::<usize>();
                (kept, (!all).then_some(why))
            }
        }
    }
}

/// Renders the keys of users as our user sees them.
fn found(
    by: &UserId,
    asked: &BTreeMap<OwnedUserId, Vec<String>>,
    lists: BTreeMap<OwnedUserId, KeyList>,
    given: &GivenSignatures,
) -> FoundKeys {
    let mut found = FoundKeys::default();
    for (user_id, list) in lists {
        let wanted = asked.get(&user_id).map(Vec::as_slice).unwrap_or_default();
        let devices = list.devices.into_iter();
        let devices = devices.filter(|(id, _)| wanted.is_empty() || wanted.contains(id));
        let shown = devices.map(|(id, device)| (id, shown_device(device.keys, device.name)));
        found.device_keys.insert(user_id.clone(), shown.collect());
        if let Some(mut master_key) = list.master_key {
            given.show(by, &user_id, &mut master_key);
            found.master_keys.insert(user_id.clone(), master_key);
        }
        if let Some(key) = list.self_signing_key {
            found.self_signing_keys.insert(user_id.clone(), key);
        }
        if let Some(key) = list.user_signing_key.filter(|_| user_id == by) {
            found.user_signing_keys.insert(user_id, key);
        }
    }
    found
}

/// Adds the name of a device, which its server tells and nobody signs.
pub(super) fn shown_device(
    mut keys: CanonicalJsonObject,
    name: Option<String>,
) -> CanonicalJsonObject {
    if let Some(name) = name {
        let named = ("device_display_name".to_owned(), CanonicalJsonValue::String(name));
        let unsigned = CanonicalJsonObject::from([named]);
        keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
    }
    keys
}

/// Refuses requests about too many.
pub(super) fn check_count(count: usize) -> Result<(), KeyError> {
    if count > limits::KEYS_ASKED {
        return Err(KeyError::BadRequest("too many users or devices in one request".to_owned()));
    }
    Ok(())
}

impl Handler<QueryKeys> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<FoundKeys, KeyError>>;

    fn handle(&mut self, msg: QueryKeys, _: &mut Context<Self>) -> Self::Result {
        let QueryKeys { by, device_keys, timeout } = msg;
        let count = device_keys.len().saturating_add(device_keys.values().map(Vec::len).sum());
        if let Err(error) = check_count(count) {
            return Self::refuse(error);
        }
        let timeout = timeout.min(limits::FEDERATION_WAIT);
        let (links, users) = (self.links.clone(), device_keys.clone());
        let (asker, may_ask) = (by.clone(), self.not_asked_lately(&users));
        let asked = async move { links.lists(&asker, users.keys(), &may_ask, timeout).await };
        Box::pin(asked.into_actor(self).then(move |asked: Result<Asked, KeyError>, act, ctx| {
            let (links, kept) = (act.links.clone(), Vec::new());
            let (mut lists, kept, fetched) = match asked {
                Ok(Asked { lists, fetched }) => (Ok(lists), act.keep(fetched, ctx), true),
                Err(error) => (Err(error), act.keep(kept, ctx), false),
            };
            let answer = async move {
                let kept = kept.await;
                let mut failures = BTreeMap::new();
                if let (Ok(lists), true) = (&mut lists, fetched) {
                    for Fetched { user_id, list, learned, .. } in kept? {
                        match list.or_else(|why| learned.ok_or(why)) {
                            Ok(list) => drop(lists.insert(user_id, list)),
                            // What is known serves until the server is there again, whereupon
                            // clients hear of what changed.
                            Err(why) => match lists.get(&user_id) {
                                Some(known) if !known.devices.is_empty() => {}
                                _ => {
                                    lists.remove(&user_id);
                                    failures.insert(user_id.server_name().to_owned(), why);
                                }
                            },
                        }
                    }
                }
                let given = links.given(&by).await?;
                Ok(FoundKeys { failures, ..found(&by, &device_keys, lists?, &given) })
            };
            answer.into_actor(act)
        }))
    }
}

impl Handler<ClaimKeys> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<ClaimedKeys, KeyError>>;

    fn handle(&mut self, msg: ClaimKeys, _: &mut Context<Self>) -> Self::Result {
        let ClaimKeys { by, one_time_keys, timeout } = msg;
        if let Err(error) = check_count(one_time_keys.values().map(BTreeMap::len).sum()) {
            return Self::refuse(error);
        }
        let timeout = timeout.min(limits::FEDERATION_WAIT);
        let (links, mut turn) = (self.links.clone(), self.turn());
        let claimed = async move {
            let mut own = Claims::new();
            let mut others: BTreeMap<OwnedServerName, Claims> = BTreeMap::new();
            for (user_id, devices) in one_time_keys {
                let server = user_id.server_name().to_owned();
                let of_server = match server == by.server_name() {
                    true => &mut own,
                    false => others.entry(server).or_default(),
                };
                of_server.insert(user_id, devices);
            }
            turn.wait().await;
            let mut claimed = ClaimedKeys {
                one_time_keys: links.claim_own(&own, |_, _| true).await?,
                ..ClaimedKeys::default()
            };
            // Others have their turn while other servers are asked.
            drop(turn);
            let asked = others.into_iter().map(|(server, claims)| {
                let links = &links;
                async move {
                    let (keys, failure) = links.claim_of(&server, &claims, timeout).await;
                    (server, keys, failure)
                }
            });
            let mut answers =
                std::pin::pin!(stream::iter(asked).buffer_unordered(limits::KEYS_AT_ONCE));
            while let Some((server, keys, failure)) = answers.next().await {
                claimed.one_time_keys.extend(keys);
                claimed.failures.extend(failure.map(|why| (server, why)));
            }
            Ok(claimed)
        };
        Box::pin(claimed.into_actor(self))
    }
}

/// The fallback keys of the devices of a user of ours, for `user/devices`.
pub(super) async fn fallbacks(
    links: &DeviceKeysLinks,
    user_id: &UserId,
    list: &KeyList,
) -> Result<BTreeMap<String, KeysById>, KeyError> {
    let devices = list.devices.keys();
    let rings = links.keyrings(devices.clone().map(|id| (user_id.to_owned(), id.clone()))).await?;
    Ok(devices.cloned().zip(rings.iter().map(Keyring::fallbacks)).collect())
}
