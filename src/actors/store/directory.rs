//! The user directory: people of shared rooms.
//!
//! Invariant: one entry a person, as the room that changed last has it.

use ruma::OwnedUserId;

use super::{
    DirectoryEntry, StoreError,
    database::{Database, WriteSet},
    schema::{Key, Parts, family},
};

/// Most entries that one search looks at: about 50 ms.
const SCANNED: usize = 50_000;

/// Writes or removes an entry.
pub(super) fn write(
    writes: &mut WriteSet<'_>,
    user_id: &OwnedUserId,
    entry: Option<&DirectoryEntry>,
) -> Result<(), StoreError> {
    let key = Key::new(family::DIRECTORY).text(user_id.as_str()).done();
    match entry {
        Some(entry) => {
            let value = serde_json::to_vec(entry);
            writes.put(key, value.map_err(|_| StoreError::Corrupt { what: "directory" })?);
        }
        None => writes.remove(key),
    }
    Ok(())
}

/// Answers [`super::SearchDirectory`].
pub(super) fn search(
    database: &Database,
    term: &str,
    limit: usize,
) -> Result<Vec<(OwnedUserId, DirectoryEntry)>, StoreError> {
    let term = term.to_lowercase();
    let has_term = |text: &str| text.to_lowercase().contains(&term);
    let mut found = Vec::new();
    for row in database.scan_prefix(&[family::DIRECTORY]).take(SCANNED) {
        if found.len() >= limit {
            break;
        }
        let (key, value) = row?;
        let parse = || {
            let mut parts = Parts(&key);
            parts.byte()?;
            let user_id = OwnedUserId::try_from(parts.text()?).ok()?;
            Some((user_id, serde_json::from_slice::<DirectoryEntry>(&value).ok()?))
        };
        let (user_id, entry) = parse().ok_or(StoreError::Corrupt { what: "directory" })?;
        if has_term(user_id.as_str()) || entry.displayname.as_deref().is_some_and(has_term) {
            found.push((user_id, entry));
        }
    }
    Ok(found)
}
