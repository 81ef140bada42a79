//! Layout 4: what a user has is kept by user. Before, a node had one user, whom no key named.

use ruma::{ServerName, UserId};

use crate::{
    actors::{
        accounts,
        store::{
            StoreError,
            database::WriteSet,
            schema::{Key, Parts, after, family},
        },
    },
    proto::server_name,
};

/// The families whose keys begin with a user from now on.
const OWN: [u8; 6] = [
    family::DEVICE,
    family::PROFILE,
    family::FILTER,
    family::ACCOUNT_DATA,
    family::ROOM_ACCOUNT_DATA,
    family::TO_DEVICE,
];

/// Returns a key with the user after its family.
fn owned(key: &[u8], user_id: &UserId) -> Option<Vec<u8>> {
    let (family, rest) = key.split_first()?;
    let mut owned = Key::new(*family).text(user_id.as_str()).done();
    owned.extend_from_slice(rest);
    Some(owned)
}

/// Returns the key of a to-device transaction of a device of ours; none of one of somebody else's.
fn own_txn(key: &[u8], user_id: &UserId) -> Option<Vec<u8>> {
    let mut parts = Parts(key.get(1..)?);
    let (sender, id) = (parts.text()?, parts.text()?);
    if <&UserId>::try_from(sender.as_str()).is_ok() {
        return None;
    }
    let (txn_id, kind) = id.rsplit_once(' ')?;
    let id = accounts::own_txn_id(&sender, txn_id, kind);
    Some(Key::new(family::TO_DEVICE_TXN).text(user_id.as_str()).text(&id).done())
}

/// Rewrites the rows and what the log says of them.
pub(super) fn step(writes: &mut WriteSet<'_>, keys: Option<&ServerName>) -> Result<(), StoreError> {
    // Without keys nobody has logged in, and nobody has anything.
    let Some(user_id) = keys.map(server_name::user_of) else { return Ok(()) };
    let corrupt = || StoreError::Corrupt { what: "key" };
    let all = |writes: &WriteSet<'_>, family| writes.scan(vec![family], after(&[family]));
    for family in OWN {
        for (key, value) in all(writes, family)? {
            writes.put(owned(&key, &user_id).ok_or_else(corrupt)?, value);
            writes.remove(key);
        }
    }
    for (key, value) in all(writes, family::TO_DEVICE_TXN)? {
        if let Some(owned) = own_txn(&key, &user_id) {
            writes.put(owned, value);
            writes.remove(key);
        }
    }
    for (position, change) in all(writes, family::LOG)? {
        if change.first().is_some_and(|family| OWN.contains(family)) {
            writes.put(position, owned(&change, &user_id).ok_or_else(corrupt)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::actors::store::{Row, rows};

    #[test]
    fn keys_of_before_become_those_of_a_user() {
        let user = user_id!("@p2p:x");
        let device = Key::new(family::DEVICE).text("D").done();
        let row = rows::row_of(&owned(&device, user).unwrap()).unwrap();
        assert_eq!(row, Row::Device(user.to_owned(), "D".to_owned()));
        let txn = |sender: &str, id: &str| Key::new(family::TO_DEVICE_TXN).text(sender).text(id);
        let own = own_txn(&txn("D", "a b m.dummy").done(), user).unwrap();
        let own_id = r#"["D","a b","m.dummy"]"#.to_owned();
        let wanted = Row::ToDeviceTxn(user.to_owned(), own_id);
        assert_eq!(rows::row_of(&own).unwrap(), wanted);
        assert_eq!(own_txn(&txn("@eve:y", "id").done(), user), None, "it is right as it is");
    }
}
