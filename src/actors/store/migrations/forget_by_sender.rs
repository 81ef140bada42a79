//! Layout 6: handled to-device transactions are kept by server and time, with the hash of their id. Before,
//! they were kept by user and id, whatever their number.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{ServerName, UserId};
use sha2::{Digest as _, Sha256};

use crate::actors::store::{
    StoreError,
    database::WriteSet,
    schema::{Key, Parts, after, family},
};

/// Bytes of a hash that are kept.
const ID_LEN: usize = 16;

/// Returns the key of today for one of before. What a step does never changes again, so it is written
/// here as Accounts writes it today.
fn seen(key: &[u8], came: u64) -> Option<Vec<u8>> {
    let mut parts = Parts(key.get(1..)?);
    let (sender, id) = (parts.text()?, parts.text()?);
    let server = <&UserId>::try_from(sender.as_str()).ok()?.server_name();
    let digest = Sha256::digest([sender.as_str(), "\0", &id].concat().as_bytes());
    let id = URL_SAFE_NO_PAD.encode(digest.first_chunk::<ID_LEN>()?);
    Some(Key::new(family::TO_DEVICE_SEEN).text(server.as_str()).number(came).text(&id).done())
}

/// Rewrites the rows. Those without a time were written long ago, and nobody sends them again.
pub(super) fn step(writes: &mut WriteSet<'_>, _: Option<&ServerName>) -> Result<(), StoreError> {
    let family = family::TO_DEVICE_TXN;
    for (key, value) in writes.scan(vec![family], after(&[family]))? {
        let came = value.try_into().ok().map(u64::from_be_bytes);
        if let Some(seen) = came.and_then(|came| seen(&key, came)) {
            writes.put(seen, Vec::new());
        }
        writes.remove(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::{Row, database::Database, rows};

    #[test]
    fn what_was_handled_is_known_by_the_hash_of_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let sled = sled::Config::new().path(folder.path()).open().unwrap();
        let database = Database::new(sled, "db".to_owned());
        let mut writes = WriteSet::new(&database);
        let old = |sender: &str| Key::new(family::TO_DEVICE_TXN).text(sender).text("7").done();
        writes.put(old("@eve:eve.org"), 1_790_000_000_000_u64.to_be_bytes().to_vec());
        writes.put(old("@old:eve.org"), Vec::new());
        writes.put(old("nonsense"), 5_u64.to_be_bytes().to_vec());
        step(&mut writes, None).unwrap();
        let all = |family| writes.scan(vec![family], after(&[family])).unwrap();
        assert_eq!(all(family::TO_DEVICE_TXN), []);
        let rows = all(family::TO_DEVICE_SEEN);
        let found: Vec<Row> = rows.iter().map(|(key, _)| rows::row_of(key).unwrap()).collect();
        let digest = Sha256::digest(b"@eve:eve.org\x007");
        let id = URL_SAFE_NO_PAD.encode(&digest[..16]);
        assert_eq!(
            found,
            [Row::ToDeviceSeen("eve.org".try_into().unwrap(), 1_790_000_000_000, id)]
        );
    }
}
