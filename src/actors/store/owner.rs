//! Whether keys, mark and database belong together: nobody goes on with what is left of a folder,
//! or with somebody else's.
//!
//! Pure. In the order in which they are made, so that a crash leaves nothing that is refused: the
//! mark, the version in the database, the keys of the first login, their name in the database.

use std::path::Path;

use ruma::{OwnedServerName, ServerName};

use super::{StoreError, mark::Marked, schema::SCHEMA_VERSION};

/// The first layout that has a mark beside it.
const MARKED_SINCE: u32 = 2;

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its layout; none in a database that was just made.
    pub(super) layout: Option<u32>,
    /// Whose it is.
    pub(super) owner: Option<OwnedServerName>,
    /// Its last position.
    pub(super) position: u64,
}

/// Compares what was found in a data folder. `keys` is the server name of the key file, where
/// there is one.
pub(super) fn judge(
    data: &Path,
    keys: Option<&ServerName>,
    marked: &Marked,
    found: &Found,
) -> Result<(), StoreError> {
    let path = |name: &str| data.join(name).display().to_string();
    let (db, key_file, mark) = (path("db"), path("keys.json"), path("db.mark"));
    let Some(layout) = found.layout else {
        return match (keys, marked.position()) {
            (Some(_), _) => Err(StoreError::DatabaseLost { db, witness: key_file }),
            (None, 1..) => Err(StoreError::DatabaseLost { db, witness: mark }),
            (None, 0) => Ok(()),
        };
    };
    if layout > SCHEMA_VERSION {
        let known = SCHEMA_VERSION;
        return Err(StoreError::NewerSchema { folder: db, found: layout, known });
    }
    match (keys, found.owner.as_deref()) {
        (None, Some(owner)) => {
            return Err(StoreError::KeysLost { keys: key_file, db, owner: owner.to_owned() });
        }
        (Some(keys), Some(owner)) if keys != owner => {
            let (found, owner) = (keys.to_owned(), owner.to_owned());
            return Err(StoreError::ForeignKeys { keys: key_file, found, db, owner });
        }
        _ => {}
    }
    match marked {
        Marked::Absent if layout >= MARKED_SINCE => Err(StoreError::MarkLost { mark }),
        _ if marked.position() > found.position => Err(StoreError::DatabaseOlder {
            db,
            found: found.position,
            known: marked.position(),
            mark,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_used_and_nothing_else() {
        let name = |name: &str| OwnedServerName::try_from(name).unwrap();
        let (ann, bob) = (name("ann"), name("bob"));
        let found = |layout, owner: Option<&OwnedServerName>, position| Found {
            layout,
            owner: owner.cloned(),
            position,
        };
        let at = |position| Marked::At { position, closed: None };
        let said = |keys: Option<&OwnedServerName>, marked: &Marked, found: &Found| {
            let keys = keys.map(|keys| &**keys);
            judge(Path::new("/data"), keys, marked, found).map_err(|error| error.to_string())
        };
        let newest = Some(SCHEMA_VERSION);
        for (keys, marked, found) in [
            // A new folder, and the crashes of its first minutes.
            (None, Marked::Absent, found(None, None, 0)),
            (None, at(0), found(None, None, 0)),
            (None, at(0), found(newest, None, 0)),
            (Some(&ann), at(0), found(newest, None, 0)),
            // An old one, with and without a login.
            (None, Marked::Absent, found(Some(1), None, 0)),
            (Some(&ann), Marked::Absent, found(Some(1), Some(&ann), 300)),
            (Some(&ann), at(300), found(Some(1), Some(&ann), 300)),
            // The mark lags after a crash.
            (Some(&ann), at(300), found(newest, Some(&ann), 300)),
            (Some(&ann), at(299), found(newest, Some(&ann), 300)),
            (Some(&ann), Marked::Adopt, found(newest, Some(&ann), 3)),
        ] {
            assert_eq!(said(keys, &marked, &found), Ok(()), "{keys:?} {marked:?} {found:?}");
        }
        for (keys, marked, found, culprit) in [
            (Some(&ann), at(9), found(None, None, 0), "/data/db is missing or empty"),
            (Some(&ann), Marked::Absent, found(None, None, 0), "/data/db is missing or empty"),
            (Some(&ann), Marked::Adopt, found(None, None, 0), "/data/db is missing or empty"),
            (None, at(9), found(None, None, 0), "/data/db is missing or empty"),
            (None, at(9), found(newest, Some(&ann), 9), "/data/keys.json is missing"),
            (None, Marked::Absent, found(Some(1), Some(&ann), 9), "/data/keys.json is missing"),
            (Some(&bob), at(9), found(newest, Some(&ann), 9), "/data/keys.json belongs to bob"),
            (Some(&bob), Marked::Absent, found(Some(1), Some(&ann), 9), "belongs to bob"),
            (Some(&ann), Marked::Absent, found(newest, Some(&ann), 9), "/data/db.mark is missing"),
            (Some(&ann), at(10), found(newest, Some(&ann), 9), "/data/db lacks the newest"),
            (Some(&ann), at(9), found(Some(SCHEMA_VERSION + 1), Some(&ann), 9), "newer"),
        ] {
            let said = said(keys, &marked, &found).unwrap_err();
            assert!(said.contains(culprit) && said.lines().count() == 1, "{culprit}: {said}");
        }
    }
}
