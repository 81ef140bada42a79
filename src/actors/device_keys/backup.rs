//! Backups of room keys. Pure.
//!
//! Invariants: a version is never used twice; of two copies of a key the better one stays (the
//! specification says which); count, bytes and tag of a backup are what its changes add up to.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::messages::{BackupInfo, KeyError};
use crate::{actors::store::Row, config::limits};

/// A backup: the value of `Row::Backup`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Backup {
    pub(super) algorithm: String,
    pub(super) auth_data: Box<RawValue>,
    /// How many keys.
    pub(super) count: u64,
    /// Bytes of these.
    pub(super) len: u64,
    /// Another number after each change.
    pub(super) etag: u64,
    /// It was deleted; the row is there so that its version is not used again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

impl Backup {
    pub(super) fn new(algorithm: String, auth_data: Box<RawValue>) -> Self {
        Self { algorithm, auth_data, count: 0, len: 0, etag: 0, deleted: false }
    }

    pub(super) fn info(self, version: u64) -> BackupInfo {
        BackupInfo {
            version: version.to_string(),
            algorithm: self.algorithm,
            auth_data: self.auth_data,
            count: self.count,
            etag: self.etag.to_string(),
        }
    }
}

/// All backups of a user, by version.
#[derive(Debug, Default)]
pub(super) struct Backups(Vec<(u64, Backup)>);

impl Backups {
    /// Reads the rows of a user.
    pub(super) fn load(rows: Vec<(Row, Vec<u8>)>) -> Option<Self> {
        let backup = |(row, value): (Row, Vec<u8>)| {
            let Row::Backup(_, version) = row else { return None };
            Some((version, serde_json::from_slice(&value).ok()?))
        };
        let mut backups = rows.into_iter().map(backup).collect::<Option<Vec<_>>>()?;
        backups.sort_by_key(|(version, _)| *version);
        Some(Self(backups))
    }

    fn living(&self) -> impl DoubleEndedIterator<Item = &(u64, Backup)> {
        self.0.iter().filter(|(_, backup)| !backup.deleted)
    }

    /// Returns the newest backup, or the one of a version.
    pub(super) fn get(&self, version: Option<&str>) -> Result<(u64, Backup), KeyError> {
        let mut living = self.living();
        let found = match version {
            None => living.next_back(),
            Some(version) => living.find(|(number, _)| number.to_string() == version),
        };
        found.cloned().ok_or(KeyError::NotFound("backup"))
    }

    /// Returns the newest backup, which has to be of a version.
    pub(super) fn newest(&self, version: &str) -> Result<(u64, Backup), KeyError> {
        let (number, backup) = self.get(None)?;
        if number.to_string() == version {
            return Ok((number, backup));
        }
        Err(KeyError::WrongBackupVersion(number.to_string()))
    }

    /// Returns the version of a new backup, and those of deleted ones that nothing reminds of any more.
    pub(super) fn next(&self) -> Result<(u64, Vec<u64>), KeyError> {
        if self.living().count() >= limits::BACKUPS {
            return Err(KeyError::Full("backups: delete an old one"));
        }
        let newest = self.0.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let gone = self.0.iter().filter(|(_, backup)| backup.deleted).map(|(number, _)| *number);
        Ok((newest.saturating_add(1), gone.collect()))
    }

    /// Returns how many bytes all of them take.
    pub(super) fn len(&self) -> u64 {
        self.living().fold(0, |len, (_, backup)| len.saturating_add(backup.len))
    }
}

/// What says which of two copies of a key is better.
#[derive(Deserialize)]
struct Quality {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
}

/// Checks a room key, and tells whether it is better than the one that is there.
pub(super) fn is_better(new: &RawValue, old: Option<&[u8]>) -> Result<bool, KeyError> {
    if new.get().len() > limits::BACKED_UP_LEN {
        return Err(KeyError::TooLarge(format!(
            "a room key of {} bytes is too large: {} are the most",
            new.get().len(),
            limits::BACKED_UP_LEN
        )));
    }
    let read = serde_json::from_str::<Quality>(new.get());
    let new = read.map_err(|error| KeyError::BadRequest(format!("no room key: {error}")))?;
    let old = old.and_then(|old| serde_json::from_slice::<Quality>(old).ok());
    Ok(old.is_none_or(|old| {
        let rank = |one: &Quality| (!one.is_verified, one.first_message_index, one.forwarded_count);
        rank(&new) < rank(&old)
    }))
}

/// Returns the row of a backup.
pub(super) fn row(user_id: &OwnedUserId, version: u64) -> Row {
    Row::Backup(user_id.clone(), version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn key(index: u64, forwarded: u64, verified: bool) -> Box<RawValue> {
        raw(&format!(
            r#"{{"first_message_index":{index},"forwarded_count":{forwarded},"is_verified":{verified},"session_data":{{}}}}"#
        ))
    }

    #[test]
    fn the_better_key_stays() {
        for (new, old, better) in [
            (key(5, 5, true), key(0, 0, false), true),
            (key(0, 0, false), key(5, 5, true), false),
            (key(3, 9, true), key(4, 0, true), true),
            (key(4, 0, true), key(4, 1, true), true),
            (key(4, 1, true), key(4, 1, true), false),
            (key(5, 0, true), key(4, 1, true), false),
        ] {
            assert_eq!(is_better(&new, Some(old.get().as_bytes())).unwrap(), better, "{new} {old}");
        }
        assert!(is_better(&key(9, 9, false), None).unwrap());
        for bad in [raw("{}"), raw("5"), raw(&format!("\"{}\"", "x".repeat(limits::BACKED_UP_LEN)))]
        {
            assert!(is_better(&bad, None).is_err());
        }
    }

    #[test]
    fn a_version_is_used_once() {
        let user = ruma::user_id!("@ann:x").to_owned();
        let backup = |deleted| Backup { deleted, ..Backup::new("x".into(), raw("{}")) };
        let load = |list: &[(u64, bool)]| {
            let rows = list.iter().map(|(number, deleted)| {
                (row(&user, *number), serde_json::to_vec(&backup(*deleted)).unwrap())
            });
            Backups::load(rows.collect()).unwrap()
        };
        assert_eq!(load(&[]).next().unwrap(), (1, vec![]));
        assert!(load(&[]).get(None).is_err());
        let backups = load(&[(1, true), (2, false), (3, true)]);
        assert_eq!(backups.next().unwrap(), (4, vec![1, 3]));
        assert_eq!(backups.get(None).unwrap().0, 2);
        assert!(backups.get(Some("3")).is_err() && backups.get(Some("2")).is_ok());
        assert!(backups.newest("2").is_ok());
        let other = load(&[(2, false), (3, false)]).newest("2");
        assert!(matches!(&other, Err(KeyError::WrongBackupVersion(newest)) if newest == "3"));
        let many: Vec<_> = (0..limits::BACKUPS as u64).map(|number| (number, false)).collect();
        assert!(matches!(load(&many).next(), Err(KeyError::Full(_))));
    }
}
