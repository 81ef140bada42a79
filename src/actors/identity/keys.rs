//! The key files: `<data>/keys.json` has the secret keys of this node.
//!
//! Invariants: written once and never changed in place (a lost identity key is a lost user id);
//! readable by its owner only (`data_folder.rs` closes one that is not); whole or absent, since it is
//! renamed into place after an fsync.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rand::Rng as _;
use ruma::{
    OwnedServerName,
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};

use super::IdentityError;
use crate::proto::signer::SecretKeys;

/// Name of the file in the data folder.
const FILE: &str = "keys.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    identity_key: Base64<Standard>,
    verify_key: Base64<Standard>,
    encryption_key: Base64<Standard>,
}

fn failed(path: &Path, why: impl std::fmt::Display) -> IdentityError {
    IdentityError::KeyFile { file: path.display().to_string(), why: why.to_string() }
}

/// Reads the keys of a data folder, if there are any.
pub(super) fn read(data: &Path) -> Result<Option<SecretKeys>, IdentityError> {
    let path = data.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, error)),
    };
    let restore = "it holds no keys of MessageHub; restore it from a backup (a new one would be a \
                   new user)";
    let keys: Keys = serde_json::from_str(&text).map_err(|_| failed(&path, restore))?;
    let seed = |key: &Base64<Standard>| {
        <[u8; 32]>::try_from(key.as_bytes()).map_err(|_| failed(&path, restore))
    };
    Ok(Some(SecretKeys {
        identity: seed(&keys.identity_key)?,
        verify: seed(&keys.verify_key)?,
        encryption: seed(&keys.encryption_key)?,
    }))
}

/// Reads whose keys a data folder has, if it has any.
pub fn read_server_name(data: &Path) -> Result<Option<OwnedServerName>, IdentityError> {
    Ok(read(data)?.map(|keys| keys.server_name()))
}

/// Makes new keys and keeps them for good.
pub(super) fn create(data: &Path) -> Result<SecretKeys, IdentityError> {
    let mut keys = SecretKeys { identity: [0; 32], verify: [0; 32], encryption: [0; 32] };
    for seed in [&mut keys.identity, &mut keys.verify, &mut keys.encryption] {
        rand::rng().fill_bytes(seed);
    }
    let encode = |seed: &[u8; 32]| Base64::new(seed.to_vec());
    let file = Keys {
        identity_key: encode(&keys.identity),
        verify_key: encode(&keys.verify),
        encryption_key: encode(&keys.encryption),
    };
    let path = data.join(FILE);
    let text = serde_json::to_string_pretty(&file).map_err(|error| failed(&path, error))?;
    write(&path, text.as_bytes()).map_err(|error| failed(&path, error))?;
    Ok(keys)
}

/// Writes a secret file: whole or not at all, for its owner only, safe from a power cut.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_from_others() {
        let data = tempfile::tempdir().unwrap();
        assert!(read(data.path()).unwrap().is_none());
        let keys = create(data.path()).unwrap();
        assert!(read(data.path()).unwrap() == Some(keys));
        let path = data.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
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
