//! Layout 8: there is an index of which events relate to which. Before, there was none.

use ruma::ServerName;

use crate::actors::store::{
    StoreError,
    database::WriteSet,
    events::read_known,
    relations,
    schema::{Parts, family},
    timeline,
};
use crate::proto::stream::Order;

/// Puts the events of all timelines into the index.
pub(super) fn step(writes: &mut WriteSet<'_>, _: Option<&ServerName>) -> Result<(), StoreError> {
    let database = writes.database();
    for row in database.scan_prefix(&[family::ROOM_INFO]) {
        let room = row?.0.get(1..).and_then(|key| Parts(key).room());
        let room = room.ok_or(StoreError::Corrupt { what: "key" })?;
        for row in timeline::scan(database, room, Order::FIRST, Order::LAST) {
            let (order, hash) = row?;
            let record = read_known(database, room, &hash)?;
            relations::add(writes, room, (&hash, order), &record.json)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::store::{
        Place,
        database::{Database, Rows as _},
        events::{EventRecord, event_key},
        rooms::RoomInfo,
        schema::{Key, event_id_of},
    };

    #[test]
    fn events_that_are_there_are_put_into_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let sled = sled::Config::new().path(folder.path()).open().unwrap();
        let mut database = Database::new(sled, "db".to_owned());
        let mut writes = WriteSet::new(&database);
        let info = br#"{"room_id":"!r:x","version":"11"}"#;
        writes.put(RoomInfo::key(7), info.to_vec());
        let root = event_id_of(&[1; 32]);
        for (number, relates) in [
            String::new(),
            format!(r#""m.relates_to":{{"rel_type":"m.thread","event_id":"{root}"}}"#),
        ]
        .iter()
        .enumerate()
        {
            let order = Order::live(3 + i64::try_from(number).unwrap());
            let hash = [u8::try_from(number).unwrap() + 1; 32];
            let json = format!(
                r#"{{"type":"m.x","sender":"@a:x","origin_server_ts":1,"content":{{{relates}}}}}"#
            );
            let record = EventRecord {
                place: Place::Live,
                spoilt: false,
                state_group: None,
                order: Some(order),
                txn: None,
                redacted_because: None,
                replaces: None,
                json: json.into(),
            };
            writes.put(event_key(7, &hash), record.encode().unwrap());
            writes.put(timeline::key(7, order), hash.to_vec());
        }
        let changes = writes.finish().unwrap();
        database.add(changes);
        let mut writes = WriteSet::new(&database);
        step(&mut writes, None).unwrap();
        let key = Key::room(family::RELATIONS, 7).text(root.as_str()).done();
        assert!(writes.get(&key).unwrap().is_some());
    }
}
