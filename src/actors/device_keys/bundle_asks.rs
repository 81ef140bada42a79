//! Key bundles (`proto::key_bundle`): what is signed, read, asked for and written. The shell around it is
//! `bundle_handlers`.
//!
//! Invariant: what others hand on counts for its signatures alone, whoever handed it on.

use std::{collections::BTreeSet, time::Duration};

use futures::{
    StreamExt as _,
    future::{Either, select},
    stream,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, ServerName, UserId,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::{DeviceKeysLinks, Rows, bytes},
    bundle_handlers::Wanted,
    bundles::{Kept, learned},
    list::KeyList,
    messages::KeyError,
    query::fallbacks,
};
use crate::{
    actors::{
        clock::now_ms,
        error::AskError,
        identity::FindServerKeys,
        rendezvous::ReadProven,
        store::{ReadServersWith, Row},
        upward::{FederationError, SendFederation},
    },
    config::{ASK_WAIT, limits},
    proto::{
        endpoint::Endpoint,
        key_bundle::{BundledDevice, KeyBundle, next_issued_ts},
        signer::Signer,
    },
};

/// How many room-mates are asked at once.
const ASKED_AT_ONCE: usize = 3;

/// A bundle that was checked, with its bytes.
#[derive(Debug, Clone)]
pub(super) struct SignedBundle {
    pub(super) bundle: KeyBundle,
    text: String,
    /// It is not on disk yet.
    pub(super) is_new: bool,
}

impl SignedBundle {
    pub(super) fn kept(&self) -> Kept {
        let KeyBundle { issued_ts, stream_id, .. } = self.bundle;
        Kept { issued_ts, stream_id, len: self.text.len() }
    }
}

/// What was found out about a user's devices.
#[derive(Debug)]
pub(super) struct Found {
    /// The list, or why the user's server did not tell it.
    pub(super) list: Result<KeyList, String>,
    /// Then, what is handed on.
    pub(super) bundle: Option<SignedBundle>,
}

impl SignedBundle {
    /// Returns the row that it is kept in.
    pub(super) fn row(self) -> (Row, Option<Vec<u8>>) {
        (Row::KeyBundle(self.bundle.user_id), Some(self.text.into_bytes()))
    }
}

impl DeviceKeysLinks {
    /// Signs what is known of the keys of a user of ours. Returns when.
    pub(super) async fn issue(
        &self,
        signer: &Signer,
        user_id: &UserId,
        last: Option<u64>,
    ) -> Result<Option<u64>, KeyError> {
        let list = self.list(user_id).await?.filter(|list| list.position.is_none());
        let Some(list) = list else { return Ok(None) };
        let mut fallbacks = fallbacks(self, user_id, &list).await?;
        let devices = list.devices.into_iter().map(|(device_id, device)| {
            let fallback_keys = fallbacks.remove(&device_id).unwrap_or_default();
            (device_id, BundledDevice { keys: device.keys, fallback_keys })
        });
        let bundle = KeyBundle {
            user_id: user_id.to_owned(),
            issued_ts: next_issued_ts(last, now_ms()),
            stream_id: list.stream_id,
            devices: devices.collect(),
            master_key: list.master_key,
            self_signing_key: list.self_signing_key,
        };
        let signed = bytes(&bundle.sign(signer)?)?;
        self.write(vec![(Row::KeyBundle(user_id.to_owned()), signed)]).await?;
        Ok(Some(bundle.issued_ts))
    }

    /// Reads bundles for another server: those of users with whom it has to do.
    pub(super) async fn read_bundles(
        &self,
        origin: &OwnedServerName,
        users: Vec<OwnedUserId>,
        are_ours: bool,
    ) -> Result<serde_json::Value, KeyError> {
        let (mut bundles, mut len) = (Vec::new(), 0);
        for user_id in users {
            let servers = match are_ours {
                true => self.servers_of(&user_id, true).await?,
                false => self.servers_with(&user_id).await?,
            };
            if !servers.contains(origin) {
                continue;
            }
            let Some(text) = self.read::<Box<RawValue>>(Row::KeyBundle(user_id)).await? else {
                continue;
            };
            len += text.get().len();
            bundles.push(text);
            if bundles.len() >= limits::KEY_BUNDLES_SERVER || len >= limits::KEY_BUNDLES_LEN {
                break;
            }
        }
        if bundles.is_empty() {
            return Err(KeyError::NotFound("key bundle"));
        }
        serde_json::to_value(json!({ "bundles": bundles }))
            .map_err(|error| KeyError::TooLarge(error.to_string()))
    }

    async fn servers_with(&self, user_id: &UserId) -> Result<BTreeSet<OwnedServerName>, KeyError> {
        let read = ReadServersWith(user_id.to_owned());
        let asked = self.servers_with.send(read).timeout(ASK_WAIT).await;
        Ok(asked.map_err(AskError::from)??)
    }

    /// Asks a server for the bundles of users of a server, its own or another one, and checks them.
    async fn ask_bundles(
        &self,
        asked: &ServerName,
        of: &OwnedServerName,
        user_id: Option<&UserId>,
        timeout: Duration,
    ) -> Result<Vec<SignedBundle>, String> {
        #[derive(Deserialize)]
        struct Answer {
            bundles: Vec<Box<RawValue>>,
        }
        let request = SendFederation {
            destination: asked.to_owned(),
            endpoint: Endpoint::key_bundles(of, user_id),
            content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
            timeout,
        };
        let answer = match self.federation.send(request).await {
            Ok(Ok(answer)) => answer,
            // It has none of anybody in a room with us, or is of the first release.
            Ok(Err(FederationError::Refused { status: 404, .. })) => return Ok(Vec::new()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(error) => return Err(error.to_string()),
        };
        let text = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
        let Answer { bundles } = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let most = user_id.map_or(limits::KEY_BUNDLES_SERVER, |_| 1);
        let texts = bundles.into_iter().take(most).map(|text| text.get().to_owned()).collect();
        let mut bundles = self.check_bundles(of, texts).await?;
        bundles.retain(|one| user_id.is_none_or(|user_id| one.bundle.user_id == user_id));
        Ok(bundles)
    }

    /// Checks bundles of users of a server, off this thread; those that are not right are left out.
    async fn check_bundles(
        &self,
        of: &OwnedServerName,
        texts: Vec<String>,
    ) -> Result<Vec<SignedBundle>, String> {
        let find = FindServerKeys(vec![of.clone()]);
        let known = self.find_keys.send(find).timeout(ASK_WAIT).await;
        let known = known.map_err(|error| error.to_string())?.remove(of);
        let (of, now) = (of.clone(), now_ms());
        let checked = self.cpu.run_for_others(move || {
            let check = |text: String| match KeyBundle::verify(&text, &of, known.as_ref(), now) {
                Ok(bundle) => Some(SignedBundle { bundle, text, is_new: false }),
                Err(error) => {
                    log::debug!(server:% = of; "a key bundle is passed over: {error}");
                    None
                }
            };
            texts.into_iter().filter_map(check).collect()
        });
        checked.await.map_err(|error| error.to_string())
    }

    /// Asks a user's server for all devices of the user; and where it does not answer, looks at what it signed
    /// before, here and, where `ask_others` than our own server `own`, at room-mates'.
    pub(super) async fn find_list(
        &self,
        own: &ServerName,
        user_id: &UserId,
        ask_others: bool,
        timeout: Duration,
    ) -> Found {
        let asked = std::pin::pin!(self.fetch(user_id, timeout));
        let later = std::pin::pin!(tokio::time::sleep(limits::KEY_BUNDLE_AFTER));
        let asked = match select(asked, later).await {
            Either::Left((Ok(list), _)) => return Found { list: Ok(list), bundle: None },
            Either::Left((Err(why), _)) => {
                let bundle = self.find_bundle(own, user_id, ask_others).await;
                return Found { list: Err(why), bundle };
            }
            Either::Right(((), asked)) => asked,
        };
        let bundle = std::pin::pin!(self.find_bundle(own, user_id, ask_others));
        match select(asked, bundle).await {
            Either::Left((Ok(list), _)) => Found { list: Ok(list), bundle: None },
            Either::Left((Err(why), bundle)) => Found { list: Err(why), bundle: bundle.await },
            Either::Right((None, asked)) => Found { list: asked.await, bundle: None },
            Either::Right((bundle, _)) => {
                let slow = format!("{} did not answer at once", user_id.server_name());
                Found { list: Err(slow), bundle }
            }
        }
    }

    /// Finds what the server of a user signed of the user's keys: here, or at room-mates'.
    async fn find_bundle(
        &self,
        own: &ServerName,
        user_id: &UserId,
        ask_others: bool,
    ) -> Option<SignedBundle> {
        let of = user_id.server_name().to_owned();
        let kept = self.read::<Box<RawValue>>(Row::KeyBundle(user_id.to_owned())).await;
        if let Some(text) = kept.ok().flatten() {
            let checked = self.check_bundles(&of, vec![text.get().to_owned()]).await;
            if let Some(one) = checked.ok().and_then(|mut all| all.pop()) {
                return Some(one);
            }
        }
        if !ask_others {
            return None;
        }
        let mut others = self.servers_with(user_id).await.ok()?;
        others.retain(|server| *server != of && server != own);
        let proven = self.proven.send(ReadProven).await.unwrap_or_default();
        let there: BTreeSet<OwnedServerName> =
            proven.into_iter().map(|(server, _)| server).collect();
        let (first, then): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|server| there.contains(server));
        let others = [first, then].concat().into_iter().take(limits::KEY_BUNDLE_ASKED);
        let asked: Vec<_> = others
            .map(|server| {
                let of = &of;
                async move {
                    let wait = limits::KEY_BUNDLE_WAIT;
                    let asked = self.ask_bundles(&server, of, Some(user_id), wait).await;
                    asked.ok().and_then(|mut bundles| bundles.pop())
                }
            })
            .collect();
        let mut found = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        while let Some(one) = found.next().await {
            if one.is_some() {
                return one;
            }
        }
        None
    }

    /// Asks a server for bundles of its own users, and leaves those who share a room with us.
    pub(super) async fn fetch_bundles(
        &self,
        (server, user_id): &Wanted,
    ) -> Result<Vec<SignedBundle>, String> {
        let wait = limits::FEDERATION_WAIT;
        let mut bundles = self.ask_bundles(server, server, user_id.as_deref(), wait).await?;
        let users = bundles.iter().map(|one| (one.bundle.user_id.clone(), u64::MAX)).collect();
        let shared = self.roommates(users).await.map_err(|error| error.to_string())?.since;
        bundles.retain(|one| shared.contains_key(&one.bundle.user_id));
        Ok(bundles)
    }

    /// Writes bundles, and what follows from them for lists that are kept; returns whose lists those are.
    pub(super) async fn keep_bundles(
        &self,
        bundles: Vec<SignedBundle>,
        gone: Vec<OwnedUserId>,
    ) -> Result<Vec<OwnedUserId>, KeyError> {
        let mut rows: Rows = gone.into_iter().map(|user| (Row::KeyBundle(user), None)).collect();
        let mut newer = Vec::new();
        for one in bundles {
            let user_id = one.bundle.user_id.clone();
            if let Some(known) = self.list(&user_id).await?
                && let Some(list) = learned(Some(&known), &one.bundle)
            {
                rows.push((Row::KeyList(user_id.clone()), bytes(&list)?));
                if !list.shows_same(&known) {
                    rows.push((Row::DeviceList(user_id.clone()), Some(Vec::new())));
                }
                newer.push(user_id);
            }
            rows.push(one.row());
        }
        self.write(rows).await?;
        Ok(newer)
    }
}
