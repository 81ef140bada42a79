//! Layout 5: server_keys are kept by server and verify key. Before, of a server the newest were kept.

use std::collections::BTreeMap;

use ruma::ServerName;
use serde::{Deserialize, de::IgnoredAny};

use crate::actors::store::{
    StoreError,
    database::WriteSet,
    schema::{Key, Parts, after, family},
};

/// Most verify keys that server_keys could have before this layout.
const KEYS_MAX: usize = 16;

#[derive(Deserialize)]
struct ServerKeys {
    verify_keys: BTreeMap<String, IgnoredAny>,
}

/// Writes a row for each verify key in the place of the one row of a server.
pub(super) fn step(writes: &mut WriteSet<'_>, _: Option<&ServerName>) -> Result<(), StoreError> {
    let family = family::SERVER_KEYS;
    for (key, value) in writes.scan(vec![family], after(&[family]))? {
        let server = key.get(1..).and_then(|rest| Parts(rest).text());
        let server = server.ok_or(StoreError::Corrupt { what: "key" })?;
        // What nobody can read certifies nothing.
        let found = serde_json::from_slice::<ServerKeys>(&value);
        let key_ids = found.map(|found| found.verify_keys).unwrap_or_default().into_keys();
        writes.remove(key);
        for key_id in key_ids.filter(|id| id != "ed25519:identity").take(KEYS_MAX) {
            writes.put(Key::new(family).text(&server).text(&key_id).done(), value.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::store::{Row, database::Database, rows},
        proto::server_keys::{issue, tests::secret_keys},
    };

    #[test]
    fn each_verify_key_gets_a_row_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let sled = sled::Config::new().path(folder.path()).open().unwrap();
        let database = Database::new(sled, "db".to_owned());
        let keys = secret_keys(1);
        let json = serde_json::to_vec(&issue(&keys, &[], 1_790_000_000_000).unwrap()).unwrap();
        let mut writes = WriteSet::new(&database);
        let old = |server: &str| Key::new(family::SERVER_KEYS).text(server).done();
        let server = keys.server_name();
        writes.put(old(server.as_str()), json.clone());
        writes.put(old("b"), br#"{"verify_keys":{"ed25519:1":{},"ed25519:2":{}}}"#.to_vec());
        writes.put(old("nonsense"), b"{}".to_vec());
        step(&mut writes, None).unwrap();

        let rows = writes.scan(vec![family::SERVER_KEYS], after(&[family::SERVER_KEYS])).unwrap();
        let rows: BTreeMap<String, Vec<u8>> = rows
            .into_iter()
            .map(|(key, value)| match rows::row_of(&key).unwrap() {
                Row::ServerKeys(server, key_id) => (format!("{server} {key_id}"), value),
                row => panic!("{row:?}"),
            })
            .collect();
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert!(rows.contains_key("b ed25519:1") && rows.contains_key("b ed25519:2"));
        let own = rows.iter().find(|(key, _)| key.starts_with(server.as_str())).unwrap();
        assert_eq!(own.1, &json);
    }
}
