//! What our clients publish: keys of devices, cross-signing keys, signatures; and the end of devices.
//!
//! Each reads, changes by the rules and writes in its turn, so that no two undo each other.

use std::collections::BTreeMap;

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseActFuture, WrapFuture as _,
};
use ruma::{OwnedUserId, UserId};

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks, Rows, bytes, forget_rows},
    keyring::Keyring,
    list::{KeyList, NewCrossSigning},
    messages::{
        DeviceRenamed, ForgetDevices, KeyError, UploadKeys, UploadSignatures, UploadSigningKeys,
    },
    remote::Told,
};
use crate::{
    actors::{clock::now_ms, store::Row},
    config::limits,
};

/// Whose list changed, and what other servers are to hear.
type Changed = Option<(OwnedUserId, Told)>;

/// Returns the rows of a list that clients are to see anew.
fn list_rows(user_id: &UserId, list: &KeyList) -> Result<Rows, KeyError> {
    Ok(vec![
        (Row::KeyList(user_id.to_owned()), bytes(list)?),
        (Row::DeviceList(user_id.to_owned()), Some(Vec::new())),
    ])
}

/// Returns the rows of a keyring.
pub(super) fn keyring_rows(user: &UserId, device: &str, ring: &Keyring) -> Result<Rows, KeyError> {
    Ok(vec![
        (Row::Keyring(user.to_owned(), device.to_owned()), bytes(ring)?),
        (Row::KeyCounts(user.to_owned(), device.to_owned()), bytes(&ring.counts())?),
    ])
}

impl DeviceKeysLinks {
    async fn upload(&self, msg: UploadKeys) -> Result<(BTreeMap<String, u64>, Changed), KeyError> {
        let UploadKeys { user_id, device_id, display_name, .. } = msg;
        let now = now_ms();
        let mut ring = self.keyring(&user_id, &device_id).await?;
        let before = ring.clone();
        let mut rows = Rows::new();
        let mut list = self.list(&user_id).await?.unwrap_or_default();
        let mut told = None;
        if let Some(keys) = msg.device_keys {
            let (changed, new_identity) =
                list.upload(&user_id, &device_id, keys, display_name, now)?;
            if new_identity {
                // Nobody could read what others encrypt for keys of the old one.
                ring = Keyring::default();
            }
            if changed {
                rows = list_rows(&user_id, &list)?;
                told = Some((user_id.clone(), Told::Device(device_id.clone())));
            }
        }
        let is_new = ring.upload(msg.one_time_keys, msg.fallback_keys, now)?;
        if is_new && told.is_none() && list.devices.contains_key(&device_id) {
            // Room-mates keep fallback keys; for clients nothing changed.
            list.touch(now);
            rows.push((Row::KeyList(user_id.clone()), bytes(&list)?));
            told = Some((user_id.clone(), Told::Device(device_id.clone())));
        }
        if ring != before {
            rows.extend(keyring_rows(&user_id, &device_id, &ring)?);
        }
        self.write(rows).await?;
        Ok((ring.counts().one_time, told))
    }

    async fn upload_signing(&self, msg: UploadSigningKeys) -> Result<((), Changed), KeyError> {
        let UploadSigningKeys {
            user_id,
            master_key,
            self_signing_key,
            user_signing_key,
            may_replace,
        } = msg;
        let mut list = self.list(&user_id).await?.unwrap_or_default();
        let new = NewCrossSigning { master_key, self_signing_key, user_signing_key };
        if !list.set_cross_signing(&user_id, new, may_replace, now_ms())? {
            return Ok(((), None));
        }
        self.write(list_rows(&user_id, &list)?).await?;
        Ok(((), Some((user_id, Told::CrossSigning))))
    }

    async fn upload_signatures(
        &self,
        msg: UploadSignatures,
    ) -> Result<(BTreeMap<OwnedUserId, BTreeMap<String, KeyError>>, Changed), KeyError> {
        let UploadSignatures { by, signed } = msg;
        let mut own = self.list(&by).await?.unwrap_or_default();
        let mut given = self.given(&by).await?;
        let (mut own_changed, mut given_changed) = (None, false);
        let mut failures: BTreeMap<OwnedUserId, BTreeMap<String, KeyError>> = BTreeMap::new();
        let mut rows = Rows::new();
        for (of, objects) in signed {
            let theirs = if of == by { None } else { self.list(&of).await? };
            let known = theirs.as_ref().and_then(|list| list.master_key.as_ref());
            let mut seen_anew = false;
            for (name, object) in objects {
                let taken = if of == by {
                    own.sign_own(&by, &name, &object, now_ms()).map(|changed| {
                        if changed {
                            own_changed = Some(match own.devices.contains_key(&name) {
                                true => Told::Device(name.clone()),
                                false => Told::CrossSigning,
                            });
                        }
                    })
                } else {
                    given.sign(&by, &own, &of, known, &object).map(|changed| {
                        seen_anew |= changed;
                        given_changed |= changed;
                    })
                };
                if let Err(error) = taken {
                    failures.entry(of.clone()).or_default().insert(name, error);
                }
            }
            if seen_anew {
                // The other devices of who signed see it; others look, and find nothing new.
                rows.push((Row::DeviceList(of), Some(Vec::new())));
            }
        }
        if own_changed.is_some() {
            rows.extend(list_rows(&by, &own)?);
        }
        if given_changed {
            rows.push((Row::KeySignatures(by.clone()), bytes(&given)?));
        }
        self.write(rows).await?;
        Ok((failures, own_changed.map(|told| (by, told))))
    }

    async fn forget(&self, msg: ForgetDevices) -> Result<((), Changed), KeyError> {
        let ForgetDevices { user_id, device_ids } = msg;
        let mut list = self.list(&user_id).await?.unwrap_or_default();
        if list.forget(&device_ids, now_ms()) {
            self.write(forget_rows(&user_id, &device_ids, &list)?).await?;
            let told = device_ids.into_iter().next().map(|device_id| {
                let told = Told::Device(device_id);
                (user_id, told)
            });
            return Ok(((), told));
        }
        // One-time keys may be there without the keys of a device.
        let mut rows = Rows::new();
        for device_id in device_ids {
            rows.push((Row::Keyring(user_id.clone(), device_id.clone()), None));
            rows.push((Row::KeyCounts(user_id.clone(), device_id), None));
        }
        self.write(rows).await?;
        Ok(((), None))
    }

    async fn rename(&self, msg: DeviceRenamed) -> Result<((), Changed), KeyError> {
        let DeviceRenamed { user_id, device_id, display_name } = msg;
        let mut list = self.list(&user_id).await?.unwrap_or_default();
        if !list.rename(&device_id, display_name, now_ms()) {
            return Ok(((), None));
        }
        self.write(list_rows(&user_id, &list)?).await?;
        Ok(((), Some((user_id, Told::Device(device_id)))))
    }
}

impl DeviceKeysActor {
    /// Changes something in its turn, and tells other servers of it.
    fn change<Out: 'static, Work>(
        &mut self,
        work: impl FnOnce(DeviceKeysLinks) -> Work + 'static,
    ) -> ResponseActFuture<Self, Result<Out, KeyError>>
    where
        Work: Future<Output = Result<(Out, Changed), KeyError>> + 'static,
    {
        let done = self.in_turn(work);
        Box::pin(done.into_actor(self).map(|done, act, ctx| {
            let (out, told) = done?;
            if let Some((user_id, told)) = told {
                act.publish(user_id, told, ctx);
            }
            Ok(out)
        }))
    }
}

impl Handler<UploadKeys> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<BTreeMap<String, u64>, KeyError>>;

    fn handle(&mut self, msg: UploadKeys, _: &mut Context<Self>) -> Self::Result {
        self.change(async |links: DeviceKeysLinks| links.upload(msg).await)
    }
}

impl Handler<UploadSigningKeys> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<(), KeyError>>;

    fn handle(&mut self, msg: UploadSigningKeys, _: &mut Context<Self>) -> Self::Result {
        self.change(async |links: DeviceKeysLinks| links.upload_signing(msg).await)
    }
}

impl Handler<UploadSignatures> for DeviceKeysActor {
    type Result = ResponseActFuture<
        Self,
        Result<BTreeMap<OwnedUserId, BTreeMap<String, KeyError>>, KeyError>,
    >;

    fn handle(&mut self, msg: UploadSignatures, _: &mut Context<Self>) -> Self::Result {
        if msg.signed.values().map(BTreeMap::len).sum::<usize>() > limits::KEYS_ASKED {
            return Self::refuse(KeyError::Full("signatures at once"));
        }
        self.change(async |links: DeviceKeysLinks| links.upload_signatures(msg).await)
    }
}

impl Handler<ForgetDevices> for DeviceKeysActor {
    type Result = ResponseActFuture<Self, Result<(), KeyError>>;

    fn handle(&mut self, msg: ForgetDevices, _: &mut Context<Self>) -> Self::Result {
        self.change(async |links: DeviceKeysLinks| links.forget(msg).await)
    }
}

impl Handler<DeviceRenamed> for DeviceKeysActor {
    type Result = ();

    fn handle(&mut self, msg: DeviceRenamed, ctx: &mut Context<Self>) {
        let changed = self.change(async |links: DeviceKeysLinks| links.rename(msg).await);
        ctx.spawn(changed.map(|changed, _, _| {
            if let Err(error) = changed {
                log::warn!("a new name of a device is not shown to others: {error}");
            }
        }));
    }
}
