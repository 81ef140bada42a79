//! Backups of room keys (`room_keys`).

use std::collections::BTreeMap;

use actix_web::Responder;
use ruma::{
    OwnedUserId,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys,
        delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    actors::device_keys::{
        BackUp, BackedUp, BackupInfo, BackupScope, BackupState, CreateBackup, DeleteBackedUp,
        DeleteBackup, ReadBackedUp, ReadBackup, UpdateBackup,
    },
    http::{
        error::HttpError,
        gateway::Gateway,
        ruma_glue::{Authed, Empty, Json},
    },
};

#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    auth_data: Box<RawValue>,
}

fn algorithm_of(algorithm: &Raw<BackupAlgorithm>) -> Result<Algorithm, HttpError> {
    let read: Algorithm = serde_json::from_str(algorithm.json().get())
        .map_err(|error| HttpError::bad_json(format!("no description of a backup: {error}")))?;
    if !read.auth_data.get().trim_start().starts_with('{') {
        return Err(HttpError::bad_json("auth_data has to be an object"));
    }
    Ok(read)
}

fn shown(info: BackupInfo) -> Json<Value> {
    let BackupInfo { version, algorithm, auth_data, count, etag } = info;
    Json(json!({
        "version": version, "algorithm": algorithm, "auth_data": auth_data, "count": count,
        "etag": etag,
    }))
}

fn state((count, etag): BackupState) -> Json<Value> {
    Json(json!({"count": count, "etag": etag}))
}

/// Begins a new backup.
pub async fn create(
    request: Authed<create_backup_version::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let Algorithm { algorithm, auth_data } = algorithm_of(&body.algorithm)?;
    let message = CreateBackup { user_id: session.user_id, algorithm, auth_data };
    let version = gateway.ask_device_keys(message).await??;
    Ok(Json(json!({"version": version})))
}

/// Tells about the newest backup.
pub async fn latest(
    request: Authed<get_latest_backup_info::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let message = ReadBackup { user_id: request.session.user_id, version: None };
    Ok(shown(request.gateway.ask_device_keys(message).await??))
}

/// Tells about a backup.
pub async fn info(
    request: Authed<get_backup_info::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let version = Some(request.body.version);
    let message = ReadBackup { user_id: request.session.user_id, version };
    Ok(shown(request.gateway.ask_device_keys(message).await??))
}

/// Changes what is kept for the algorithm of a backup.
pub async fn update(
    request: Authed<update_backup_version::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let Algorithm { algorithm, auth_data } = algorithm_of(&body.algorithm)?;
    let (user_id, version) = (session.user_id, body.version);
    let message = UpdateBackup { user_id, version, algorithm, auth_data };
    gateway.ask_device_keys(message).await??;
    Ok(Json(Empty {}))
}

/// Deletes a backup.
pub async fn delete(
    request: Authed<delete_backup_version::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let message = DeleteBackup { user_id: request.session.user_id, version: request.body.version };
    request.gateway.ask_device_keys(message).await??;
    Ok(Json(Empty {}))
}

fn raw_keys(keys: BTreeMap<String, Raw<KeyBackupData>>) -> BTreeMap<String, Box<RawValue>> {
    keys.into_iter().map(|(session, key)| (session, key.into_json())).collect()
}

async fn back_up(
    gateway: &Gateway,
    user_id: OwnedUserId,
    version: String,
    keys: BackedUp,
) -> Result<Json<Value>, HttpError> {
    Ok(state(gateway.ask_device_keys(BackUp { user_id, version, keys }).await??))
}

/// Backs up room keys.
pub async fn put(
    request: Authed<add_backup_keys::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let rooms = body.rooms.into_iter();
    let keys = rooms.map(|(room_id, room)| (room_id, raw_keys(room.sessions))).collect();
    back_up(&gateway, session.user_id, body.version, keys).await
}

/// Backs up room keys of a room.
pub async fn put_room(
    request: Authed<add_backup_keys_for_room::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let keys = BackedUp::from([(body.room_id, raw_keys(body.sessions))]);
    back_up(&gateway, session.user_id, body.version, keys).await
}

/// Backs up a room key.
pub async fn put_session(
    request: Authed<add_backup_keys_for_session::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let key = BTreeMap::from([(body.session_id, body.session_data.into_json())]);
    let keys = BackedUp::from([(body.room_id, key)]);
    back_up(&gateway, session.user_id, body.version, keys).await
}

async fn read(
    gateway: &Gateway,
    user_id: OwnedUserId,
    version: String,
    scope: BackupScope,
) -> Result<BackedUp, HttpError> {
    Ok(gateway.ask_device_keys(ReadBackedUp { user_id, version, scope }).await??)
}

/// Hands back all room keys of a backup.
pub async fn get(
    request: Authed<get_backup_keys::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let found = read(&gateway, session.user_id, body.version, BackupScope::All).await?;
    let rooms = found.into_iter().map(|(room_id, keys)| (room_id, json!({"sessions": keys})));
    Ok(Json(json!({"rooms": rooms.collect::<BTreeMap<_, _>>()})))
}

/// Hands back those of a room.
pub async fn get_room(
    request: Authed<get_backup_keys_for_room::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let scope = BackupScope::Room(body.room_id);
    let mut found = read(&gateway, session.user_id, body.version, scope).await?;
    let keys = found.pop_first().map(|(_, keys)| keys).unwrap_or_default();
    Ok(Json(json!({"sessions": keys})))
}

/// Hands back one.
pub async fn get_session(
    request: Authed<get_backup_keys_for_session::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let scope = BackupScope::Session(body.room_id, body.session_id);
    let found = read(&gateway, session.user_id, body.version, scope).await?;
    let key = found.into_values().flat_map(BTreeMap::into_values).next();
    key.map(Json).ok_or_else(|| HttpError::not_found("no such room key in the backup"))
}

async fn drop_keys(
    gateway: &Gateway,
    user_id: OwnedUserId,
    version: String,
    scope: BackupScope,
) -> Result<Json<Value>, HttpError> {
    Ok(state(gateway.ask_device_keys(DeleteBackedUp { user_id, version, scope }).await??))
}

/// Deletes all room keys of a backup.
pub async fn clear(
    request: Authed<delete_backup_keys::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    drop_keys(&gateway, session.user_id, body.version, BackupScope::All).await
}

/// Deletes those of a room.
pub async fn clear_room(
    request: Authed<delete_backup_keys_for_room::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let scope = BackupScope::Room(body.room_id);
    drop_keys(&gateway, session.user_id, body.version, scope).await
}

/// Deletes one.
pub async fn clear_session(
    request: Authed<delete_backup_keys_for_session::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let scope = BackupScope::Session(body.room_id, body.session_id);
    drop_keys(&gateway, session.user_id, body.version, scope).await
}
