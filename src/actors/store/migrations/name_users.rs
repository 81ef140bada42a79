//! Layout 4: what a user has is kept by user. Before, a node had one user, whom no key named.

use ruma::{ServerName, UserId};

use crate::{
    actors::store::{
        StoreError,
        database::WriteSet,
        schema::{HASH_LEN, Key, Parts, after, family},
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

/// Length of what keys of rooms begin with: family and room.
const ROOM: usize = 5;
/// Length of the unread counts, of which those of the room were the rest.
const UNREAD_LEN: usize = 16;

/// Returns a key with the user after its family.
fn owned(key: &[u8], user_id: &UserId) -> Option<Vec<u8>> {
    let (family, rest) = key.split_first()?;
    let mut owned = Key::new(*family).text(user_id.as_str()).done();
    owned.extend_from_slice(rest);
    Some(owned)
}

/// Returns the key of a to-device transaction of a device of ours. Its id is written here as Accounts
/// writes it today: what a step does never changes again.
fn own_txn(key: &[u8], user_id: &UserId) -> Option<Vec<u8>> {
    let mut parts = Parts(key.get(1..)?);
    let (device_id, id) = (parts.text()?, parts.text()?);
    let (txn_id, kind) = id.rsplit_once(' ')?;
    let id = serde_json::json!([device_id, txn_id, kind]).to_string();
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
        // Those of users of other servers are right as they are.
        let sender = key.get(1..).and_then(|rest| Parts(rest).text());
        if sender.is_none_or(|sender| UserId::parse(sender).is_err()) {
            if let Some(owned) = own_txn(&key, &user_id) {
                writes.put(owned, value);
            }
            writes.remove(key);
        }
    }
    for (position, change) in all(writes, family::LOG)? {
        match change.first() {
            Some(family) if OWN.contains(family) => {
                writes.put(position, owned(&change, &user_id).ok_or_else(corrupt)?);
            }
            Some(&family::MEMBERSHIP) => {
                writes.put(position, of_room(&change, ROOM, &user_id).ok_or_else(corrupt)?);
            }
            _ => {}
        }
    }
    // What rooms keep of the user. Long rows have the number of the piece behind the room.
    let hash = ROOM + HASH_LEN;
    for (family, at) in [
        (family::MEMBERSHIP, ROOM),
        (family::INVITE, ROOM),
        (family::NOTIFY, ROOM),
        (family::ANNOTATION, hash),
    ] {
        for (key, value) in all(writes, family)? {
            writes.put(of_room(&key, at, &user_id).ok_or_else(corrupt)?, value);
            writes.remove(key);
        }
    }
    for (key, value) in all(writes, family::COUNTS)? {
        let (unread, counts) = value.split_at_checked(UNREAD_LEN).ok_or_else(corrupt)?;
        if unread.iter().any(|byte| *byte != 0) {
            let mut of_user = of_room(&key, ROOM, &user_id).ok_or_else(corrupt)?;
            of_user.splice(..1, [family::UNREAD]);
            writes.put(of_user, unread.to_vec());
        }
        writes.put(key, counts.to_vec());
    }
    Ok(())
}

/// Returns a key with the user at a place of it.
fn of_room(key: &[u8], at: usize, user_id: &UserId) -> Option<Vec<u8>> {
    let (before, after) = key.split_at_checked(at)?;
    let mut named = before.to_vec();
    // As every text in a key, without the family that a key begins with.
    named.extend_from_slice(Key::new(0).text(user_id.as_str()).done().get(1..)?);
    named.extend_from_slice(after);
    Some(named)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        actors::store::{
            Row, Unread,
            database::Database,
            rooms::{InviteRow, MembershipRow},
            rows,
            unread::{self, Counts},
        },
        proto::server_keys::tests::secret_keys,
    };

    #[test]
    fn keys_of_before_become_those_of_a_user() {
        let user = user_id!("@p2p:x");
        let device = Key::new(family::DEVICE).text("D").done();
        let row = rows::row_of(&owned(&device, user).unwrap()).unwrap();
        assert_eq!(row, Row::Device(user.to_owned(), "D".to_owned()));
        let txn = |sender: &str, id: &str| Key::new(family::TO_DEVICE_TXN).text(sender).text(id);
        let own = own_txn(&txn("D", "a b m.dummy").done(), user).unwrap();
        let own_id = r#"["D","a b","m.dummy"]"#.to_owned();
        assert_eq!(own, txn(user.as_str(), &own_id).done());
    }

    #[test]
    fn what_a_room_keeps_of_the_user_is_the_users() {
        let folder = tempfile::tempdir().unwrap();
        let sled = sled::Config::new().path(folder.path()).open().unwrap();
        let database = Database::new(sled, "db".to_owned());
        let server = secret_keys(1).server_name();
        let user = server_name::user_of(&server);
        let room = |family| Key::room(family, 7);
        let mut writes = WriteSet::new(&database);
        let membership = r#"{"membership":"invite","event_id":null,"order":3}"#;
        writes.put(room(family::MEMBERSHIP).done(), membership.into());
        let via: Vec<String> = (0..20_000).map(|number| format!("s{number}.org")).collect();
        let invite = serde_json::json!({
            "event_id": "$e", "event": {}, "stripped_state": [], "via": via,
        });
        writes.put_long(&room(family::INVITE).done(), invite.to_string().as_bytes()).unwrap();
        let counts = [1, 1, 5, 6, 7_u64].map(u64::to_be_bytes).concat();
        writes.put(room(family::COUNTS).done(), counts);
        writes.put(room(family::NOTIFY).order(9).done(), vec![1]);
        let txn = |sender: &str, id: &str| Key::new(family::TO_DEVICE_TXN).text(sender).text(id);
        for (sender, id) in [("@eve:y", "1"), ("D", "1 m.dummy"), ("D", "nonsense")] {
            writes.put(txn(sender, id).done(), Vec::new());
        }
        step(&mut writes, Some(&server)).unwrap();

        let row = MembershipRow::read(&writes, 7, &user).unwrap().unwrap();
        assert_eq!((row.membership.as_str(), row.order), ("invite", 3));
        let row = InviteRow::read(&writes, 7, &user).unwrap().unwrap();
        assert_eq!(row.via, via, "all pieces of a long row");
        let wanted = Counts { joined: 5, invited: 6, txns: 7 };
        assert_eq!(Counts::read(&writes, 7).unwrap(), wanted);
        let wanted = Unread { notifications: 1, highlights: 1 };
        assert_eq!(unread::read(&writes, 7, &user).unwrap(), wanted);
        unread::clear(&mut writes, (7, &user), 9, unread::Scope::All).unwrap();
        assert_eq!(unread::read(&writes, 7, &user).unwrap(), Unread::default());
        for (family, left) in [(family::NOTIFY, 0), (family::MEMBERSHIP, 1)] {
            let rows = writes.scan(vec![family], after(&[family])).unwrap();
            assert_eq!(rows.len(), left, "{}", char::from(family));
        }
        let txns = writes.scan(vec![family::TO_DEVICE_TXN], after(&[family::TO_DEVICE_TXN]));
        let txns: Vec<Vec<u8>> = txns.unwrap().into_iter().map(|(key, _)| key).collect();
        let own = txn(user.as_str(), r#"["D","1","m.dummy"]"#).done();
        assert_eq!(txns.len(), 2);
        assert!(txns.contains(&own) && txns.contains(&txn("@eve:y", "1").done()), "{txns:?}");
    }
}
