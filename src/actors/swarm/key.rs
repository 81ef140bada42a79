//! The libp2p key: a file in the data folder, so that address books and provider records survive
//! a restart. Invariant: the file is never readable by others (`data_folder.rs` closes one that is) and
//! never half written.

use std::{fs, io::Write as _, path::Path};

use libp2p::identity::Keypair;

use super::SwarmError;
use crate::platform::files;

const FILE: &str = "libp2p.key";

/// Reads the libp2p key of a data folder, or makes it. A `fresh` one is never written.
pub fn load_or_create_key(data: &Path, fresh: bool) -> Result<Keypair, SwarmError> {
    if fresh {
        return Ok(Keypair::generate_ed25519());
    }
    let path = data.join(FILE);
    let failed = |why: String| SwarmError::KeyFile { file: path.display().to_string(), why };
    match fs::read(&path) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes).map_err(|_| {
            failed("it is no libp2p key; restore it, or delete it for a new PeerId".to_owned())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = Keypair::generate_ed25519();
            let bytes = key
                .to_protobuf_encoding()
                .map_err(|error| failed(format!("the key cannot be encoded: {error}")))?;
            write(data, &path, &bytes)
                .map_err(|error| failed(format!("it cannot be written: {error}")))?;
            Ok(key)
        }
        Err(error) => Err(failed(format!("it cannot be read: {error}"))),
    }
}

/// Returns the PeerId of a key, as it stands in server_keys.
pub fn peer_id(key: &Keypair) -> String {
    key.public().to_peer_id().to_string()
}

fn write(data: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(data)?;
    let draft = path.with_extension("key.new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = files::owner_only(&mut options).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    files::sync_folder(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_survives_and_is_private() {
        let data = tempfile::tempdir().unwrap();
        let first = load_or_create_key(data.path(), false).unwrap();
        let again = load_or_create_key(data.path(), false).unwrap();
        assert_eq!(peer_id(&first), peer_id(&again));
        let path = data.path().join(FILE);
        assert_eq!(files::open_mode(&fs::metadata(&path).unwrap()), None);
        let fresh = load_or_create_key(data.path(), true).unwrap();
        assert_ne!(peer_id(&first), peer_id(&fresh));
    }

    #[test]
    fn a_broken_file_is_named_and_kept() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FILE), b"nonsense").unwrap();
        let error = load_or_create_key(data.path(), false).unwrap_err().to_string();
        assert!(error.contains("libp2p.key"), "{error}");
        assert_eq!(fs::read(data.path().join(FILE)).unwrap(), b"nonsense");
    }
}
