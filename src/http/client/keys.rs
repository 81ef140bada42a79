//! Keys for end-to-end encryption: what clients publish, and what they ask of others.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, Responder};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId,
    api::client::keys::{
        claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::canonical_of;
use crate::{
    actors::{
        accounts::{ListDevices, Matter},
        device_keys::{
            ClaimKeys, ClaimedKeys, FoundKeys, KeyError, QueryKeys, UploadKeys, UploadSignatures,
            UploadSigningKeys,
        },
        store::ReadDeviceLists,
    },
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Empty, Json},
        uia::Guarded,
    },
    proto::stream::SyncToken,
};

/// How long other servers are waited for where the client does not say.
const TIMEOUT: Duration = Duration::from_secs(10);

fn value_of<T>(key: &Raw<T>) -> Result<CanonicalJsonValue, HttpError> {
    serde_json::from_str(key.json().get())
        .map_err(|error| HttpError::bad_json(format!("no key: {error}")))
}

fn object_of(key: &RawValue) -> Result<CanonicalJsonObject, HttpError> {
    super::canonical(key)
}

fn by_id<K: ToString, T>(
    keys: BTreeMap<K, Raw<T>>,
) -> Result<BTreeMap<String, CanonicalJsonValue>, HttpError> {
    keys.into_iter().map(|(id, key)| Ok((id.to_string(), value_of(&key)?))).collect()
}

/// Takes keys of the device.
pub async fn upload(
    request: Authed<upload_keys::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let device_keys = body.device_keys.as_ref().map(canonical_of).transpose()?;
    let mut display_name = None;
    if device_keys.is_some() {
        let devices = gateway.ask_accounts(ListDevices(session.user_id.clone())).await?;
        let this = devices.into_iter().find(|device| device.device_id == session.device_id);
        display_name = this.and_then(|device| device.display_name);
    }
    let message = UploadKeys {
        user_id: session.user_id,
        device_id: session.device_id,
        display_name,
        device_keys,
        one_time_keys: by_id(body.one_time_keys)?,
        fallback_keys: by_id(body.fallback_keys)?,
    };
    let counts = gateway.ask_device_keys(message).await??;
    Ok(Json(json!({"one_time_key_counts": counts})))
}

#[derive(Serialize)]
struct Failed {
    failures: BTreeMap<String, Value>,
}

fn failures(failures: BTreeMap<ruma::OwnedServerName, String>) -> BTreeMap<String, Value> {
    let shown = failures.into_iter();
    shown
        .map(|(server, why)| {
            (server.to_string(), json!({"error": why, "errcode": "M_UNREACHABLE"}))
        })
        .collect()
}

#[derive(Serialize)]
struct ShownKeys {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, CanonicalJsonObject>>,
    master_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    self_signing_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    user_signing_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    #[serde(flatten)]
    failed: Failed,
}

/// Tells the keys of users.
pub async fn query(request: Authed<get_keys::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let wanted = body.device_keys.into_iter();
    let device_keys = wanted.map(|(user, devices)| {
        (user, devices.into_iter().map(|device| device.to_string()).collect())
    });
    let message = QueryKeys {
        by: session.user_id,
        device_keys: device_keys.collect(),
        timeout: body.timeout.unwrap_or(TIMEOUT),
    };
    let found = gateway.ask_device_keys(message).await??;
    let FoundKeys { device_keys, master_keys, self_signing_keys, user_signing_keys, .. } = found;
    Ok(Json(ShownKeys {
        device_keys,
        master_keys,
        self_signing_keys,
        user_signing_keys,
        failed: Failed { failures: failures(found.failures) },
    }))
}

/// Claims one-time keys.
pub async fn claim(request: Authed<claim_keys::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let of_user = |devices: BTreeMap<ruma::OwnedDeviceId, ruma::OneTimeKeyAlgorithm>| {
        let devices = devices.into_iter();
        devices.map(|(device, algorithm)| (device.to_string(), algorithm.to_string())).collect()
    };
    let claims = body.one_time_keys.into_iter();
    let message = ClaimKeys {
        by: session.user_id,
        one_time_keys: claims.map(|(user, devices)| (user, of_user(devices))).collect(),
        timeout: body.timeout.unwrap_or(TIMEOUT),
    };
    let ClaimedKeys { one_time_keys, failures: failed } =
        gateway.ask_device_keys(message).await??;
    Ok(Json(json!({"one_time_keys": one_time_keys, "failures": failures(failed)})))
}

/// Tells whose keys changed between two answers of `/sync`.
pub async fn changes(
    request: Authed<get_key_changes::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let position = |token: &str| Ok::<_, HttpError>(token.parse::<SyncToken>()?.position);
    let message = ReadDeviceLists {
        user_id: session.user_id,
        from: position(&body.from)?,
        to: position(&body.to)?,
    };
    let lists = ask(&gateway.store.read_device_lists, message).await??;
    Ok(Json(json!({"changed": lists.changed, "left": lists.left})))
}

/// Takes cross-signing keys. The first need no second proof, nor does it to say the same again; to replace
/// them does.
pub async fn upload_signing(
    guarded: Guarded<Authed<upload_signing_keys::v3::Request>>,
) -> Result<HttpResponse, HttpError> {
    let Guarded { request, asked } = guarded;
    let Authed { body, session, gateway, permit: _permit } = request;
    let key = |key: Option<Raw<_>>| key.as_ref().map(canonical_of).transpose();
    let message = UploadSigningKeys {
        user_id: session.user_id.clone(),
        master_key: key(body.master_key)?,
        self_signing_key: key(body.self_signing_key)?,
        user_signing_key: key(body.user_signing_key)?,
        may_replace: false,
    };
    let proven = UploadSigningKeys { may_replace: true, ..message.clone() };
    match gateway.ask_device_keys(message).await? {
        Err(KeyError::NeedsAuth) => {}
        done => {
            done?;
            return Ok(HttpResponse::Ok().json(Empty {}));
        }
    }
    if let Some(wanted) = asked.confirm(&gateway, Matter::ReplaceKeys, Some(&session)).await? {
        return Ok(wanted);
    }
    gateway.ask_device_keys(proven).await??;
    Ok(HttpResponse::Ok().json(Empty {}))
}

/// Takes what the user signed.
pub async fn upload_signatures(
    request: Authed<upload_signatures::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let mut signed: BTreeMap<OwnedUserId, BTreeMap<String, CanonicalJsonObject>> = BTreeMap::new();
    for (user_id, keys) in body.signed_keys {
        let keys = serde_json::to_string(&keys).map_err(HttpError::internal)?;
        let keys: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&keys).map_err(HttpError::internal)?;
        for (name, key) in keys {
            signed.entry(user_id.clone()).or_default().insert(name, object_of(&key)?);
        }
    }
    let message = UploadSignatures { by: session.user_id, signed };
    let failed = gateway.ask_device_keys(message).await??;
    let failed = failed.into_iter().map(|(user_id, keys)| {
        let shown = |error: KeyError| {
            let errcode = match error {
                KeyError::BadSignature(_) => "M_INVALID_SIGNATURE",
                KeyError::NotFound(_) => "M_NOT_FOUND",
                _ => "M_UNKNOWN",
            };
            json!({"errcode": errcode, "error": error.to_string()})
        };
        let keys = keys.into_iter().map(|(name, error)| (name, shown(error)));
        (user_id, keys.collect::<BTreeMap<_, _>>())
    });
    let failed: BTreeMap<_, _> = failed.collect();
    Ok(Json(json!({"failures": failed})))
}
