//! What other servers ask of our users' keys.
//!
//! Who asks has to have something to do with the user: a server in one of the user's rooms, one that
//! was invited there, or one that invited the user.

use std::collections::BTreeMap;

use actix::{Context, Handler, ResponseFuture};
use ruma::{CanonicalJsonValue, OwnedServerName, UserId, canonical_json::to_canonical_value};
use serde_json::json;

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks},
    list::KeyList,
    messages::{Claims, KeyError, KeysQuery, ServeKeys},
    query::{check_count, fallbacks, shown_device},
    remote,
};

impl DeviceKeysLinks {
    /// Reads the list of a user of ours for another server; none where it may not have it, or there is
    /// none. A user without a list costs a look, so that names that were made up cost nothing more.
    async fn list_for(
        &self,
        origin: &OwnedServerName,
        user_id: &UserId,
    ) -> Result<Option<KeyList>, KeyError> {
        let list = self.list(user_id).await?.filter(|list| list.position.is_none());
        let Some(list) = list else { return Ok(None) };
        let may_ask = self.servers_of(user_id, true).await?.contains(origin);
        Ok(Some(list).filter(|_| may_ask))
    }

    async fn serve(&self, msg: ServeKeys) -> Result<serde_json::Value, KeyError> {
        let ServeKeys { origin, query } = msg;
        match query {
            KeysQuery::Devices(user_id) => {
                let Some(list) = self.list_for(&origin, &user_id).await? else {
                    return match self.list(&user_id).await? {
                        Some(list) if list.position.is_none() => {
                            Err(KeyError::Forbidden("you share no room with that user"))
                        }
                        _ => Err(KeyError::NotFound("device with keys")),
                    };
                };
                let fallbacks = fallbacks(self, &user_id, &list).await?;
                let answer = remote::devices_answer(&user_id, &list, &fallbacks);
                answer.map(Into::into).map_err(KeyError::TooLarge)
            }
            KeysQuery::Keys(wanted) => {
                check_count(wanted.values().map(Vec::len).sum::<usize>() + wanted.len())?;
                let mut devices = BTreeMap::new();
                let (mut master, mut self_signing) = (BTreeMap::new(), BTreeMap::new());
                for (user_id, ids) in wanted {
                    let Some(list) = self.list_for(&origin, &user_id).await? else { continue };
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
            KeysQuery::Claim(wanted) => {
                check_count(wanted.values().map(BTreeMap::len).sum::<usize>() + wanted.len())?;
                let mut claims = Claims::new();
                for (user_id, devices) in wanted {
                    if self.list_for(&origin, &user_id).await?.is_some() {
                        claims.insert(user_id, devices);
                    }
                }
                Ok(json!({"one_time_keys": self.claim_own(&claims).await?}))
            }
        }
    }
}

impl Handler<ServeKeys> for DeviceKeysActor {
    type Result = ResponseFuture<Result<CanonicalJsonValue, KeyError>>;

    /// What is only read takes no turn: others who ask for much do not keep our own clients waiting.
    fn handle(&mut self, msg: ServeKeys, _: &mut Context<Self>) -> Self::Result {
        let served: ResponseFuture<Result<_, KeyError>> = match msg.query {
            KeysQuery::Claim(_) => {
                self.in_turn(async |links: DeviceKeysLinks| links.serve(msg).await)
            }
            KeysQuery::Devices(_) | KeysQuery::Keys(_) => {
                let links = self.links.clone();
                Box::pin(async move { links.serve(msg).await })
            }
        };
        Box::pin(async move {
            to_canonical_value(served.await?).map_err(|error| KeyError::TooLarge(error.to_string()))
        })
    }
}
