//! Layout 7: the address book has a row for each node of a server. Before, it had the one seen last.

use ruma::ServerName;
use serde::Deserialize;

use crate::actors::store::{
    StoreError,
    database::WriteSet,
    schema::{Key, Parts, after, family},
};

#[derive(Deserialize)]
struct Address {
    peer_id: String,
}

/// Puts the node into the key of each row.
pub(super) fn step(writes: &mut WriteSet<'_>, _: Option<&ServerName>) -> Result<(), StoreError> {
    let family = family::ADDRESS;
    for (key, value) in writes.scan(vec![family], after(&[family]))? {
        let server = key.get(1..).and_then(|rest| Parts(rest).text());
        let server = server.ok_or(StoreError::Corrupt { what: "key" })?;
        writes.remove(key);
        // What nobody can read leads nowhere.
        if let Ok(Address { peer_id }) = serde_json::from_slice(&value) {
            writes.put(Key::new(family).text(&server).text(&peer_id).done(), value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::{Row, database::Database, rows};

    #[test]
    fn the_node_of_a_row_becomes_part_of_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let sled = sled::Config::new().path(folder.path()).open().unwrap();
        let database = Database::new(sled, "db".to_owned());
        let mut writes = WriteSet::new(&database);
        let old = |server: &str| Key::new(family::ADDRESS).text(server).done();
        let value = br#"{"peer_id":"12D3KooW","addresses":[],"valid_until_ts":1,"seen_ts":2}"#;
        writes.put(old("a.example"), value.to_vec());
        writes.put(old("b.example"), b"{}".to_vec());
        step(&mut writes, None).unwrap();
        let rows = writes.scan(vec![family::ADDRESS], after(&[family::ADDRESS])).unwrap();
        let [(key, kept)] = rows.try_into().unwrap();
        let row = Row::Address("a.example".try_into().unwrap(), "12D3KooW".to_owned());
        assert_eq!((rows::row_of(&key).unwrap(), kept), (row, value.to_vec()));
    }
}
