//! The key files: `<data>/keys.json` has the secret keys of this node.
//!
//! Invariants: never changed in place (a lost identity key is a lost user id), and of what is in it only the
//! keys that others seal to ever change;
//! readable by its owner only (`data_folder.rs` closes one that is not); whole or absent, since it is
//! renamed into place after an fsync.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rand::Rng as _;
use ruma::{
    OwnedServerName,
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};

use super::{IdentityError, encryption::EncryptionKeys};
use crate::{platform::files, proto::signer::SecretKeys};

/// Name of the file in the data folder.
const FILE: &str = "keys.json";

/// The format that this program writes.
const VERSION: u32 = 2;

/// The keys of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeKeys {
    secret: SecretKeys,
    /// What others seal to; that of today is in `secret` too.
    encryption: EncryptionKeys,
}

impl NodeKeys {
    /// Returns the keys that sign, and the one of today to seal to.
    pub(super) fn secret(&self) -> &SecretKeys {
        &self.secret
    }

    /// Returns the keys of before that what was sealed to them is opened with.
    pub(super) fn former_encryption(&self) -> Vec<[u8; 32]> {
        self.encryption.former()
    }

    /// Makes a new key to seal to and destroys old ones, where it is time before server_keys are issued at
    /// `now` (milliseconds). Tells whether anything changed: then it has to be written first.
    pub(super) fn advance(&mut self, now: u64, random: [u8; 32]) -> bool {
        let changed = self.encryption.advance(now, random);
        if let Some(today) = self.encryption.today() {
            self.secret.encryption = today;
        }
        changed
    }
}

/// The file of today.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    version: u32,
    identity_key: Base64<Standard>,
    verify_key: Base64<Standard>,
    encryption_keys: EncryptionKeys,
}

/// The file of the first release, which had no version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysOfBefore {
    identity_key: Base64<Standard>,
    verify_key: Base64<Standard>,
    encryption_key: Base64<Standard>,
}

fn failed(path: &Path, why: impl std::fmt::Display) -> IdentityError {
    IdentityError::KeyFile { file: path.display().to_string(), why: why.to_string() }
}

fn seed(key: &Base64<Standard>) -> Option<[u8; 32]> {
    key.as_bytes().try_into().ok()
}

/// Reads the file, of whichever version.
fn parse(text: &str) -> Option<NodeKeys> {
    let keys = match serde_json::from_str::<KeysOfBefore>(text) {
        // When its key was made nobody knows: a new one is made with the next server_keys.
        Ok(before) => Keys {
            version: VERSION,
            identity_key: before.identity_key,
            verify_key: before.verify_key,
            encryption_keys: EncryptionKeys::new(seed(&before.encryption_key)?, 0),
        },
        Err(_) => serde_json::from_str(text).ok()?,
    };
    if keys.version != VERSION || !keys.encryption_keys.are_sound() {
        return None;
    }
    Some(NodeKeys {
        secret: SecretKeys {
            identity: seed(&keys.identity_key)?,
            verify: seed(&keys.verify_key)?,
            encryption: keys.encryption_keys.today()?,
        },
        encryption: keys.encryption_keys,
    })
}

/// Reads the keys of a data folder, if there are any.
pub(super) fn read(data: &Path) -> Result<Option<NodeKeys>, IdentityError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let path = data.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, error)),
    };
    if let Ok(Versioned { version }) = serde_json::from_str(&text)
        && version > VERSION
    {
        let newer = "a newer MessageHub wrote it; start that one";
        return Err(failed(&path, newer));
    }
    let restore = "it holds no keys of MessageHub; restore it from a backup (a new one would be a \
                   new user)";
    parse(&text).map(Some).ok_or_else(|| failed(&path, restore))
}

/// Reads whose keys a data folder has, if it has any.
pub fn read_server_name(data: &Path) -> Result<Option<OwnedServerName>, IdentityError> {
    Ok(read(data)?.map(|keys| keys.secret.server_name()))
}

/// Reads the secret of the identity key of a data folder, if it has one: for whoever writes it down.
pub fn read_seed(data: &Path) -> Result<Option<[u8; 32]>, IdentityError> {
    Ok(read(data)?.map(|keys| keys.secret.identity))
}

/// Makes new keys for an identity that was written down, in a folder without keys. Returns whose they are.
pub fn create_from_seed(
    data: &Path,
    identity: [u8; 32],
    now: u64,
) -> Result<OwnedServerName, IdentityError> {
    let path = data.join(FILE);
    if path.exists() {
        return Err(failed(&path, "it is there already"));
    }
    let mut secret = SecretKeys { identity, verify: [0; 32], encryption: [0; 32] };
    for seed in [&mut secret.verify, &mut secret.encryption] {
        rand::rng().fill_bytes(seed);
    }
    let encryption = EncryptionKeys::new(secret.encryption, now);
    let keys = NodeKeys { secret, encryption };
    keep(data, &keys)?;
    Ok(keys.secret.server_name())
}

/// Makes new keys and keeps them for good.
pub(super) fn create(data: &Path, now: u64) -> Result<NodeKeys, IdentityError> {
    let mut secret = SecretKeys { identity: [0; 32], verify: [0; 32], encryption: [0; 32] };
    for seed in [&mut secret.identity, &mut secret.verify, &mut secret.encryption] {
        rand::rng().fill_bytes(seed);
    }
    let encryption = EncryptionKeys::new(secret.encryption, now);
    let keys = NodeKeys { secret, encryption };
    keep(data, &keys)?;
    Ok(keys)
}

/// Writes the keys: after a kill or a power cut the file has these or those of before. It blocks.
pub(super) fn keep(data: &Path, keys: &NodeKeys) -> Result<(), IdentityError> {
    let encode = |seed: &[u8; 32]| Base64::new(seed.to_vec());
    let file = Keys {
        version: VERSION,
        identity_key: encode(&keys.secret.identity),
        verify_key: encode(&keys.secret.verify),
        encryption_keys: keys.encryption.clone(),
    };
    let path = data.join(FILE);
    let text = serde_json::to_string_pretty(&file).map_err(|error| failed(&path, error))?;
    write(&path, text.as_bytes()).map_err(|error| failed(&path, error))
}

/// Writes a secret file: whole or not at all, for its owner only, safe from a power cut.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    // One that was left behind halfway may be open to others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = files::owner_only(OpenOptions::new().write(true).create_new(true)).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        files::sync_folder(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn text(data: &Path) -> String {
        fs::read_to_string(data.join(FILE)).unwrap()
    }

    #[test]
    fn keys_are_made_once_and_kept_from_others() {
        let data = tempfile::tempdir().unwrap();
        assert!(read(data.path()).unwrap().is_none());
        let keys = create(data.path(), NOW).unwrap();
        assert!(read(data.path()).unwrap() == Some(keys));
        let path = data.path().join(FILE);
        assert_eq!(files::open_mode(&fs::metadata(&path).unwrap()), None);
    }

    #[test]
    fn the_file_of_the_first_release_is_read_and_becomes_one_of_today() {
        let data = tempfile::tempdir().unwrap();
        let encode = |byte: u8| Base64::<Standard>::new(vec![byte; 32]).encode();
        let before = serde_json::json!({
            "identity_key": encode(1), "verify_key": encode(2), "encryption_key": encode(3),
        });
        fs::write(data.path().join(FILE), before.to_string()).unwrap();
        let mut keys = read(data.path()).unwrap().unwrap();
        let secret = SecretKeys { identity: [1; 32], verify: [2; 32], encryption: [3; 32] };
        assert!(*keys.secret() == secret);
        assert!(keys.advance(NOW, [4; 32]));
        // Killed before it is written, or while it is: all is as before.
        fs::write(data.path().join("keys.new"), "{\"versi").unwrap();
        assert!(*read(data.path()).unwrap().unwrap().secret() == secret);
        keep(data.path(), &keys).unwrap();
        let again = read(data.path()).unwrap().unwrap();
        assert!(again == keys && again.secret().encryption == [4; 32]);
        assert_eq!(again.former_encryption(), [[3; 32]]);
        assert!(!data.path().join("keys.new").exists());
        let path = data.path().join(FILE);
        assert_eq!(files::open_mode(&fs::metadata(&path).unwrap()), None);
    }

    #[test]
    fn what_a_newer_program_wrote_is_named_and_what_nobody_wrote_is_refused() {
        let data = tempfile::tempdir().unwrap();
        create(data.path(), NOW).unwrap();
        let good: serde_json::Value = serde_json::from_str(&text(data.path())).unwrap();
        for (field, value, why) in [
            ("version", serde_json::json!(3), "newer"),
            ("version", serde_json::json!(1), "backup"),
            ("identity_key", serde_json::json!("AAAA"), "backup"),
            ("encryption_keys", serde_json::json!([]), "backup"),
            (
                "encryption_keys",
                serde_json::json!([{"key": "AAAA", "made_ts": 1, "certified_ts": 1}]),
                "backup",
            ),
            ("another", serde_json::json!(1), "backup"),
        ] {
            let mut changed = good.clone();
            changed[field] = value;
            fs::write(data.path().join(FILE), changed.to_string()).unwrap();
            let error = read(data.path()).unwrap_err().to_string();
            assert!(error.contains("keys.json") && error.contains(why), "{field}: {error}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FILE), "{}").unwrap();
        let error = read(data.path()).unwrap_err().to_string();
        assert!(error.contains("keys.json") && error.contains("backup"), "{error}");
        assert_eq!(fs::read_to_string(data.path().join(FILE)).unwrap(), "{}");
    }
}
