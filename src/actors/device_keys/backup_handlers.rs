//! Keeping and handing back backups of room keys, which clients encrypt.

use actix::{Context, Handler, ResponseFuture};
use ruma::OwnedUserId;
use serde_json::value::RawValue;

use super::{
    actor::{DeviceKeysActor, DeviceKeysLinks, Rows, bytes},
    backup::{Backup, Backups, is_better, row},
    messages::{
        BackUp, BackedUp, BackupInfo, BackupScope, BackupState, CreateBackup, DeleteBackedUp,
        DeleteBackup, KeyError, ReadBackedUp, ReadBackup, UpdateBackup,
    },
};
use crate::{
    actors::store::{Row, RowKind, RowPage, StoreError},
    config::limits,
};

/// Longest id of a session, in bytes.
const SESSION_LEN: usize = 255;
/// Longest description of a backup, in bytes.
const AUTH_DATA_LEN: usize = 64 * 1024;

fn check_auth_data(algorithm: &str, auth_data: &RawValue) -> Result<(), KeyError> {
    if algorithm.len() > SESSION_LEN || auth_data.get().len() > AUTH_DATA_LEN {
        return Err(KeyError::TooLarge("algorithm or auth_data of the backup is too long".into()));
    }
    Ok(())
}

impl DeviceKeysLinks {
    async fn backups(&self, user_id: &OwnedUserId) -> Result<Backups, KeyError> {
        let rows = self.scan(RowKind::Backups(user_id.clone())).await?;
        Ok(Backups::load(rows).ok_or(StoreError::Corrupt { what: "backup" })?)
    }

    async fn create(&self, msg: CreateBackup) -> Result<String, KeyError> {
        let CreateBackup { user_id, algorithm, auth_data } = msg;
        check_auth_data(&algorithm, &auth_data)?;
        let (version, gone) = self.backups(&user_id).await?.next()?;
        for version in &gone {
            // The node may have been killed while it was being deleted.
            self.purge(&user_id, *version).await?;
        }
        let mut rows: Rows =
            gone.into_iter().map(|version| (row(&user_id, version), None)).collect();
        rows.push((row(&user_id, version), bytes(&Backup::new(algorithm, auth_data))?));
        self.write(rows).await?;
        Ok(version.to_string())
    }

    async fn about(&self, msg: ReadBackup) -> Result<BackupInfo, KeyError> {
        let (number, backup) = self.backups(&msg.user_id).await?.get(msg.version.as_deref())?;
        Ok(backup.info(number))
    }

    async fn update(&self, msg: UpdateBackup) -> Result<(), KeyError> {
        let UpdateBackup { user_id, version, algorithm, auth_data } = msg;
        check_auth_data(&algorithm, &auth_data)?;
        let (number, backup) = self.backups(&user_id).await?.get(Some(&version))?;
        if backup.algorithm != algorithm {
            return Err(KeyError::BadRequest(
                "the algorithm of a backup stays as it is".to_owned(),
            ));
        }
        self.write(vec![(row(&user_id, number), bytes(&Backup { auth_data, ..backup })?)]).await
    }

    /// Takes a backup away; its keys are still there.
    async fn delete(&self, msg: &DeleteBackup) -> Result<u64, KeyError> {
        let DeleteBackup { user_id, version } = msg;
        let (number, backup) = self.backups(user_id).await?.get(Some(version))?;
        let gone = Backup { deleted: true, count: 0, len: 0, ..backup };
        self.write(vec![(row(user_id, number), bytes(&gone)?)]).await?;
        Ok(number)
    }

    /// Deletes the keys of a backup that was taken away, some at a time.
    async fn purge(&self, user_id: &OwnedUserId, number: u64) -> Result<(), KeyError> {
        loop {
            let page = self.page(RowKind::BackedUp(user_id.clone(), number), None).await?;
            self.write(page.rows.into_iter().map(|(row, _)| (row, None)).collect()).await?;
            if page.is_last {
                return Ok(());
            }
        }
    }

    async fn back_up(&self, msg: BackUp) -> Result<BackupState, KeyError> {
        let BackUp { user_id, version, keys } = msg;
        let backups = self.backups(&user_id).await?;
        let (number, mut backup) = backups.newest(&version)?;
        let mut all = backups.len();
        let mut new = Vec::new();
        for (room_id, sessions) in keys {
            for (session, key) in sessions {
                if session.len() > SESSION_LEN {
                    return Err(KeyError::TooLarge("the id of a session is too long".to_owned()));
                }
                new.push((Row::BackedUp(user_id.clone(), number, room_id.clone(), session), key));
            }
        }
        let there = self.read_all(new.iter().map(|(row, _)| row.clone()).collect()).await?;
        let mut rows = Rows::new();
        for ((row, key), old) in new.into_iter().zip(there) {
            if !is_better(&key, old.as_deref())? {
                continue;
            }
            let (new_len, old_len) =
                (key.get().len() as u64, old.as_ref().map_or(0, Vec::len) as u64);
            backup.count = backup.count.saturating_add(u64::from(old.is_none()));
            backup.len = backup.len.saturating_add(new_len).saturating_sub(old_len);
            all = all.saturating_add(new_len).saturating_sub(old_len);
            rows.push((row, Some(key.get().as_bytes().to_vec())));
        }
        if all > limits::BACKUP_LEN {
            return Err(KeyError::Full("room keys are backed up: delete an old backup"));
        }
        if !rows.is_empty() {
            backup.etag = backup.etag.saturating_add(1);
            rows.push((row(&user_id, number), bytes(&backup)?));
            self.write(rows).await?;
        }
        Ok((backup.count, backup.etag.to_string()))
    }

    /// Reads some rows of a scope, those after a row.
    async fn backed_up(
        &self,
        user_id: &OwnedUserId,
        number: u64,
        scope: &BackupScope,
        after: Option<Row>,
    ) -> Result<RowPage, KeyError> {
        let user_id = user_id.clone();
        match scope {
            BackupScope::All => self.page(RowKind::BackedUp(user_id, number), after).await,
            BackupScope::Room(room) => {
                self.page(RowKind::BackedUpOfRoom(user_id, number, room.clone()), after).await
            }
            BackupScope::Session(room, session) => {
                let row = Row::BackedUp(user_id, number, room.clone(), session.clone());
                let found = self.read_all(vec![row.clone()]).await?.into_iter().flatten();
                let rows = found.map(|value| (row.clone(), value)).collect();
                Ok(RowPage { rows, is_last: true })
            }
        }
    }

    async fn read_backed_up(&self, msg: ReadBackedUp) -> Result<BackedUp, KeyError> {
        let ReadBackedUp { user_id, version, scope } = msg;
        let (number, _) = self.backups(&user_id).await?.get(Some(&version))?;
        let mut found = BackedUp::new();
        let mut last = None;
        loop {
            let page = self.backed_up(&user_id, number, &scope, last).await?;
            last = page.rows.last().map(|(row, _)| row.clone());
            for (row, value) in page.rows {
                let Row::BackedUp(_, _, room_id, session) = row else { continue };
                let key = serde_json::from_slice(&value);
                let key = key.map_err(|_| StoreError::Corrupt { what: "backed up key" })?;
                found.entry(room_id).or_default().insert(session, key);
            }
            if page.is_last {
                break;
            }
        }
        if matches!(scope, BackupScope::Session(..)) && found.is_empty() {
            return Err(KeyError::NotFound("room key in the backup"));
        }
        Ok(found)
    }

    /// Deletes some keys at a time; what is said of the backup is right after each time.
    async fn delete_backed_up(&self, msg: DeleteBackedUp) -> Result<BackupState, KeyError> {
        let DeleteBackedUp { user_id, version, scope } = msg;
        let (number, mut backup) = self.backups(&user_id).await?.get(Some(&version))?;
        loop {
            let page = self.backed_up(&user_id, number, &scope, None).await?;
            if !page.rows.is_empty() {
                let mut rows = Rows::new();
                for (row, value) in page.rows {
                    backup.count = backup.count.saturating_sub(1);
                    backup.len = backup.len.saturating_sub(value.len() as u64);
                    rows.push((row, None));
                }
                backup.etag = backup.etag.saturating_add(1);
                rows.push((row(&user_id, number), bytes(&backup)?));
                self.write(rows).await?;
            }
            if page.is_last {
                return Ok((backup.count, backup.etag.to_string()));
            }
        }
    }
}

impl Handler<CreateBackup> for DeviceKeysActor {
    type Result = ResponseFuture<Result<String, KeyError>>;

    fn handle(&mut self, msg: CreateBackup, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.create(msg).await)
    }
}

impl Handler<ReadBackup> for DeviceKeysActor {
    type Result = ResponseFuture<Result<BackupInfo, KeyError>>;

    fn handle(&mut self, msg: ReadBackup, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.about(msg).await)
    }
}

impl Handler<UpdateBackup> for DeviceKeysActor {
    type Result = ResponseFuture<Result<(), KeyError>>;

    fn handle(&mut self, msg: UpdateBackup, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.update(msg).await)
    }
}

impl Handler<DeleteBackup> for DeviceKeysActor {
    type Result = ResponseFuture<Result<(), KeyError>>;

    fn handle(&mut self, msg: DeleteBackup, _: &mut Context<Self>) -> Self::Result {
        let (links, mut turn) = (self.links.clone(), self.turn());
        Box::pin(async move {
            turn.wait().await;
            let number = links.delete(&msg).await?;
            // Nobody can ask for its keys any more: others have their turn while they go.
            drop(turn);
            links.purge(&msg.user_id, number).await
        })
    }
}

impl Handler<BackUp> for DeviceKeysActor {
    type Result = ResponseFuture<Result<BackupState, KeyError>>;

    fn handle(&mut self, msg: BackUp, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.back_up(msg).await)
    }
}

impl Handler<ReadBackedUp> for DeviceKeysActor {
    type Result = ResponseFuture<Result<BackedUp, KeyError>>;

    fn handle(&mut self, msg: ReadBackedUp, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.read_backed_up(msg).await)
    }
}

impl Handler<DeleteBackedUp> for DeviceKeysActor {
    type Result = ResponseFuture<Result<BackupState, KeyError>>;

    fn handle(&mut self, msg: DeleteBackedUp, _: &mut Context<Self>) -> Self::Result {
        self.in_turn(async |links: DeviceKeysLinks| links.delete_backed_up(msg).await)
    }
}
