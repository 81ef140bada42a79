//! From older layouts to that of today, a step at a time.
//!
//! Invariant: a step and the number of the layout that it leads to are one group of writes, so
//! that a crash leaves the database at one layout or the other, and the next start goes on there.

mod forget_by_sender;
mod index_relations;
mod name_users;
mod split_addresses;
mod split_server_keys;

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::Deserialize;

use super::{
    StoreError,
    database::{Database, Rows, WriteSet},
    disk::Disk,
    history,
    schema::{Key, Parts, SCHEMA_VERSION, family},
};

/// Changes rows to those of the next layout, for the owner of the key file.
type Change = fn(&mut WriteSet<'_>, Option<&ServerName>) -> Result<(), StoreError>;

/// The steps by the layout that they lead to, in order.
const STEPS: &[(u32, Change)] = &[
    (2, name_owner),
    (3, history::name_followers),
    (4, name_users::step),
    (5, split_server_keys::step),
    (6, forget_by_sender::step),
    (7, split_addresses::step),
    (8, index_relations::step),
];

fn meta(name: &str) -> Vec<u8> {
    Key::new(family::META).text(name).done()
}

/// Returns the layout of a database; none of one that was just made.
pub(super) fn layout(rows: &impl Rows) -> Result<Option<u32>, StoreError> {
    let corrupt = StoreError::Corrupt { what: "layout" };
    let found = rows.get(&meta("schema_version"))?;
    found.map(|found| Parts(&found).room().ok_or(corrupt)).transpose()
}

/// Returns whose database it is. Before layout 2 it did not say so: then it is that of the user
/// in its rooms, or of who logged in.
pub(super) fn owner(database: &Database) -> Result<Option<OwnedServerName>, StoreError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(alias = "user_id")]
        user: Option<OwnedUserId>,
    }
    if let Some(found) = database.get(&meta("owner"))? {
        let owner = String::from_utf8(found).ok().and_then(|name| name.try_into().ok());
        return owner.map(Some).ok_or(StoreError::Corrupt { what: "owner" });
    }
    if layout(database)? == Some(1) {
        for family in [family::ROOM_INFO, family::ACCESS_TOKEN] {
            for row in database.scan_prefix(&[family]) {
                let named = serde_json::from_slice::<Named>(&row?.1).ok();
                if let Some(user) = named.and_then(|named| named.user) {
                    return Ok(Some(user.server_name().to_owned()));
                }
            }
        }
    }
    Ok(None)
}

/// Writes whose database it is.
pub(super) fn write_owner(writes: &mut WriteSet<'_>, owner: &ServerName) {
    writes.put(meta("owner"), owner.as_bytes().to_vec());
}

/// Layout 2: the database names its owner, so that it is never used with the keys of another.
fn name_owner(writes: &mut WriteSet<'_>, keys: Option<&ServerName>) -> Result<(), StoreError> {
    if let Some(keys) = keys {
        write_owner(writes, keys);
    }
    Ok(())
}

/// Brings a database to the layout of today.
pub(super) fn run(
    database: &mut Database,
    disk: &mut Disk,
    keys: Option<&ServerName>,
) -> Result<(), StoreError> {
    run_steps(database, disk, keys, STEPS)?;
    let mut writes = WriteSet::new(database);
    writes.put(meta("schema_version"), SCHEMA_VERSION.to_be_bytes().to_vec());
    let app_version = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
    if database.get(&meta("app_version"))?.as_ref() != Some(&app_version) {
        writes.put(meta("app_version"), app_version);
    }
    // The node may have ended between the making of the keys and this.
    if let Some(keys) = keys {
        write_owner(&mut writes, keys);
    }
    write(database, disk, writes.finish()?)
}

fn run_steps(
    database: &mut Database,
    disk: &mut Disk,
    keys: Option<&ServerName>,
    steps: &[(u32, Change)],
) -> Result<(), StoreError> {
    // A database that was just made has nothing to change.
    let Some(from) = layout(database)? else { return Ok(()) };
    for (to, change) in steps.iter().filter(|(to, _)| *to > from) {
        let mut writes = WriteSet::new(database);
        change(&mut writes, keys)?;
        writes.put(meta("schema_version"), to.to_be_bytes().to_vec());
        let writes = writes.finish()?;
        write(database, disk, writes)?;
        log::info!("the database has layout {to} now");
    }
    Ok(())
}

fn write(
    database: &mut Database,
    disk: &mut Disk,
    changes: super::database::Changes,
) -> Result<(), StoreError> {
    database.add(changes);
    disk.write(&database.next_group())?;
    database.group_written();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn open(folder: &std::path::Path) -> (Database, Disk) {
        let sled = sled::Config::new().path(folder).open().unwrap();
        let file = File::open(folder.join("db")).unwrap();
        let disk = Disk::new(sled.clone(), file, "db".to_owned(), None);
        (Database::new(sled, "db".to_owned()), disk)
    }

    fn put(writes: &mut WriteSet<'_>, name: &str) {
        writes.put(meta(name), name.as_bytes().to_vec());
    }

    #[test]
    fn a_step_that_fails_leaves_the_layout_before_it_and_is_done_at_the_next_start() {
        let second: Change = |writes, _| {
            put(writes, "second");
            Ok(())
        };
        let breaks: Change = |writes, _| {
            put(writes, "third");
            Err(StoreError::Closed)
        };
        let third: Change = |writes, _| {
            // A step sees what the one before it wrote, and was not begun before.
            assert!(
                writes.get(&meta("second"))?.is_some() && writes.get(&meta("third"))?.is_none()
            );
            put(writes, "third");
            Ok(())
        };
        let folder = tempfile::tempdir().unwrap();
        let (mut database, mut disk) = open(folder.path());
        run_steps(&mut database, &mut disk, None, &[(2, second)]).unwrap();
        assert_eq!(layout(&database).unwrap(), None, "a new database has nothing to change");
        let one = [(meta("schema_version"), Some(1_u32.to_be_bytes().to_vec()))];
        write(&mut database, &mut disk, one.into()).unwrap();
        run_steps(&mut database, &mut disk, None, &[(2, second), (3, breaks)]).unwrap_err();
        assert_eq!(layout(&database).unwrap(), Some(2));
        assert!(database.get(&meta("third")).unwrap().is_none());
        run_steps(&mut database, &mut disk, None, &[(2, breaks), (3, third)]).unwrap();
        assert_eq!(layout(&database).unwrap(), Some(3));
        assert!(database.get(&meta("third")).unwrap().is_some());
    }

    #[test]
    fn the_steps_lead_to_the_layout_of_today() {
        let to: Vec<u32> = STEPS.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, (2..=SCHEMA_VERSION).collect::<Vec<_>>());
    }
}
