//! What other servers ask of our users' keys.
//!
//! The keys of devices are for every server, since clients look at them before they invite somebody: without
//! them they would begin a chat that is not encrypted, and claim a key, to share what was said before. Names of
//! devices and one-time keys are for who has something to do with the user: a server in one of the user's
//! rooms, one that was invited there, or one that invited the user. Everybody else gets the fallback key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _};
use ruma::{
    CanonicalJsonValue, OwnedServerName, OwnedUserId, UserId, canonical_json::to_canonical_value,
};
use serde_json::json;

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks},
    list::KeyList,
    messages::{Claims, KeyError, KeysQuery, ServeKeys},
    query::{check_count, fallbacks, shown_device},
    remote,
};
use crate::actors::store::Row;

impl DeviceKeysLinks {
    /// Reads the list of a user of ours for another server, if there is one, and whether that server has
    /// something to do with the user; without names where it has not. A user without a list costs a look, so
    /// that names that were made up cost nothing more.
    async fn list_for(
        &self,
        origin: &OwnedServerName,
        user_id: &UserId,
    ) -> Result<Option<(KeyList, bool)>, KeyError> {
        let list = self.list(user_id).await?.filter(|list| list.position.is_none());
        let Some(mut list) = list else { return Ok(None) };
        let is_related = self.servers_of(user_id, true).await?.contains(origin);
        if !is_related {
            list.devices.values_mut().for_each(|device| device.name = None);
        }
        Ok(Some((list, is_related)))
    }

    async fn serve(
        &self,
        origin: &OwnedServerName,
        query: KeysQuery,
    ) -> Result<serde_json::Value, KeyError> {
        match query {
            KeysQuery::Devices(user_id) => {
                let Some((list, is_related)) = self.list_for(origin, &user_id).await? else {
                    return Err(KeyError::NotFound("device with keys"));
                };
                let fallbacks = match is_related {
                    true => fallbacks(self, &user_id, &list).await?,
                    false => BTreeMap::new(),
                };
                let answer = remote::devices_answer(&user_id, &list, &fallbacks);
                answer.map(Into::into).map_err(KeyError::TooLarge)
            }
            KeysQuery::Keys(wanted) => {
                check_count(wanted.values().map(Vec::len).sum::<usize>() + wanted.len())?;
                let mut devices = BTreeMap::new();
                let (mut master, mut self_signing) = (BTreeMap::new(), BTreeMap::new());
                for (user_id, ids) in wanted {
                    let Some((list, _)) = self.list_for(origin, &user_id).await? else { continue };
                    let shown = list.devices.into_iter();
                    let shown = shown.filter(|(id, _)| ids.is_empty() || ids.contains(id));
                    let shown = shown.map(|(id, one)| (id, shown_device(one.keys, one.name)));
                    devices.insert(user_id.clone(), shown.collect::<BTreeMap<_, _>>());
                    master.extend(list.master_key.map(|key| (user_id.clone(), key)));
                    self_signing.extend(list.self_signing_key.map(|key| (user_id, key)));
                }
                Ok(json!({
                    "device_keys": devices, "master_keys": master,
                    "self_signing_keys": self_signing,
                }))
            }
            KeysQuery::Claim(_) | KeysQuery::Bundles(..) => {
                Err(KeyError::Forbidden("that is answered by who knows what is in memory"))
            }
        }
    }

    /// Returns what of a claim is about users and devices that have keys, and of which users the server has
    /// nothing to do with.
    async fn may_claim(
        &self,
        origin: &OwnedServerName,
        wanted: Claims,
    ) -> Result<(Claims, BTreeSet<OwnedUserId>), KeyError> {
        check_count(wanted.values().map(BTreeMap::len).sum::<usize>() + wanted.len())?;
        let (mut claims, mut unrelated) = (Claims::new(), BTreeSet::new());
        for (user_id, mut devices) in wanted {
            let Some((_, is_related)) = self.list_for(origin, &user_id).await? else { continue };
            if !is_related {
                unrelated.insert(user_id.clone());
            }
            // Names that were made up are counted nowhere.
            let names = devices.keys().cloned();
            let rows = names.map(|device_id| Row::Keyring(user_id.clone(), device_id)).collect();
            let mut there = self.read_all(rows).await?.into_iter();
            devices.retain(|_, _| there.next().flatten().is_some());
            claims.insert(user_id, devices);
        }
        Ok((claims, unrelated))
    }
}

impl DeviceKeysActor {
    /// Hands one-time keys to another server, in turn, and out of its share of them.
    fn serve_claim(
        &mut self,
        origin: OwnedServerName,
        wanted: Claims,
    ) -> ResponseActFuture<Self, Result<serde_json::Value, KeyError>> {
        let (links, mut turn) = (self.links.clone(), self.turn());
        let asker = origin.clone();
        let may_claim = async move {
            turn.wait().await;
            (links.may_claim(&asker, wanted).await, turn)
        };
        Box::pin(may_claim.into_actor(self).then(move |(claims, turn), act, _| {
            let now = Instant::now();
            let mut beyond = BTreeSet::new();
            if let Ok((claims, unrelated)) = &claims {
                let devices = claims.iter().flat_map(|(user_id, devices)| {
                    devices.keys().map(move |device_id| (user_id, device_id))
                });
                for (user_id, device_id) in devices {
                    if unrelated.contains(user_id)
                        || !act.shares.take(&origin, user_id, device_id, now)
                    {
                        beyond.insert((user_id.clone(), device_id.clone()));
                    }
                }
            }
            let links = act.links.clone();
            let claimed = async move {
                let _turn = turn;
                let (claims, _) = claims?;
                let whole = |user_id: &OwnedUserId, device_id: &str| {
                    !beyond.contains(&(user_id.clone(), device_id.to_owned()))
                };
                Ok(json!({"one_time_keys": links.claim_own(&claims, whole).await?}))
            };
            claimed.into_actor(act)
        }))
    }
}

impl Handler<ServeKeys> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<CanonicalJsonValue, KeyError>>;

    /// What is only read takes no turn: others who ask for much do not keep our own clients waiting.
    fn handle(&mut self, msg: ServeKeys, _: &mut Context<Self>) -> Self::Result {
        let ServeKeys { origin, query } = msg;
        let served = match query {
            KeysQuery::Claim(wanted) => self.serve_claim(origin, wanted),
            KeysQuery::Bundles(server, user_id) => self.serve_bundles(origin, &server, user_id),
            query => {
                let links = self.links.clone();
                let read = async move { links.serve(&origin, query).await };
                Box::pin(read.into_actor(self))
            }
        };
        Box::pin(served.map(|served, _, _| {
            to_canonical_value(served?).map_err(|error| KeyError::TooLarge(error.to_string()))
        }))
    }
}
