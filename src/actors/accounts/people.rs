//! The people of this node beside what they chose: who registered, whose account ended, and the passwords.
//! Pure.
//!
//! The owner is there without a row; a row comes with a password. Invariant: a name that somebody had is
//! never given to somebody else.

use std::{collections::BTreeMap, fmt};

use ruma::{OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use super::messages::AccountError;
use crate::{
    actors::store::Row,
    config::limits,
    proto::{names, server_name::LOCALPART},
};

/// How an account ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// Nobody can log in any more; rooms are to be left, and what was kept is to go.
    Leaving,
    /// Only the name is left.
    Gone,
}

/// The value of [`Row::Account`].
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Person {
    /// The password, hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
    /// When they registered, in milliseconds; none of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) registered_ts: Option<u64>,
    /// Whether the account ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { password, registered_ts, ended } = self;
        f.debug_struct("Person")
            .field("has_password", &password.is_some())
            .field("registered_ts", registered_ts)
            .field("ended", ended)
            .finish()
    }
}

/// All who have a row.
#[derive(Debug, Default)]
pub(super) struct People(BTreeMap<OwnedUserId, Person>);

impl People {
    /// Reads them from their rows.
    pub(super) fn load(rows: Vec<(Row, Vec<u8>)>) -> Result<Self, &'static str> {
        let mut people = BTreeMap::new();
        for (row, value) in rows {
            let Row::Account(user_id) = row else { continue };
            people.insert(user_id, serde_json::from_slice(&value).map_err(|_| "account")?);
        }
        Ok(Self(people))
    }

    /// Returns somebody whose account did not end.
    pub(super) fn living(&self, user_id: &UserId) -> Option<&Person> {
        self.0.get(user_id).filter(|person| person.ended.is_none())
    }

    /// Returns all whose account did not end.
    pub(super) fn all_living(&self) -> impl Iterator<Item = (&OwnedUserId, &Person)> {
        self.0.iter().filter(|(_, person)| person.ended.is_none())
    }

    /// Returns what is known of somebody.
    pub(super) fn get(&self, user_id: &UserId) -> Person {
        self.0.get(user_id).cloned().unwrap_or_default()
    }

    /// Returns those whose account ended, and whose rooms are to be left yet.
    pub(super) fn leaving(&self) -> Vec<OwnedUserId> {
        let leaving = self.0.iter().filter(|(_, person)| person.ended == Some(Ended::Leaving));
        leaving.map(|(user_id, _)| user_id.clone()).collect()
    }

    /// Returns the password of somebody, hashed.
    pub(super) fn password(&self, user_id: &UserId) -> Option<&str> {
        self.living(user_id)?.password.as_deref()
    }

    /// Tells whether anybody has a password.
    pub(super) fn any_password(&self) -> bool {
        self.0.values().any(|person| person.ended.is_none() && person.password.is_some())
    }

    /// Tells whether somebody's account ended.
    pub(super) fn has_ended(&self, user_id: &UserId) -> bool {
        self.0.get(user_id).is_some_and(|person| person.ended.is_some())
    }

    /// Takes what is on disk by now.
    pub(super) fn put(&mut self, user_id: OwnedUserId, person: Person) {
        self.0.insert(user_id, person);
    }

    /// Returns the id of somebody who wants to register by this name. Whether there is place for them
    /// is [`Self::check_place`]'s to say.
    pub(super) fn new_id(
        &self,
        localpart: &str,
        server: &ServerName,
        is_here: impl Fn(&UserId) -> bool,
    ) -> Result<OwnedUserId, AccountError> {
        let invalid = |why: &str| AccountError::InvalidName(why.to_owned());
        if localpart.is_empty() || localpart.len() > limits::LOCALPART_LEN {
            let why = format!("a name has 1 to {} characters", limits::LOCALPART_LEN);
            return Err(AccountError::InvalidName(why));
        }
        if localpart.starts_with('_') {
            return Err(invalid("a name does not begin with _: such are for programs"));
        }
        // Somebody who is called by digits alone looks as if the name said nothing.
        if localpart.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid("a name has a letter in it"));
        }
        let user_id = UserId::parse(format!("@{localpart}:{server}"))
            .ok()
            .filter(|user_id| user_id.localpart() == localpart)
            .filter(|user_id| names::check_user_id(user_id).is_ok());
        let user_id =
            user_id.ok_or_else(|| invalid("a name has only a-z, 0-9 and . _ = - / + in it"))?;
        if localpart == LOCALPART || self.0.contains_key(&user_id) || is_here(&user_id) {
            return Err(AccountError::NameTaken);
        }
        Ok(user_id)
    }

    /// Refuses one more where there is no place. Ended accounts keep theirs: their names are kept.
    pub(super) fn check_place(&self) -> Result<(), AccountError> {
        let registered = self.0.values().filter(|person| person.registered_ts.is_some());
        let living = registered.clone().filter(|person| person.ended.is_none()).count();
        if living >= limits::REGISTERED || registered.count() >= limits::REGISTERED_EVER {
            return Err(AccountError::Full("people are registered here"));
        }
        Ok(())
    }
}

/// Returns whom a client means who logs in: a name, or a whole id, in any case.
pub(super) fn named(identifier: &str, server: &ServerName) -> Option<OwnedUserId> {
    let identifier = identifier.trim().to_ascii_lowercase();
    if identifier.starts_with('@') {
        let user_id = UserId::parse(identifier).ok()?;
        return (user_id.server_name() == server).then_some(user_id);
    }
    UserId::parse(format!("@{identifier}:{server}")).ok()
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    fn person(registered: bool) -> Person {
        Person { registered_ts: registered.then_some(1), ..Person::default() }
    }

    #[test]
    fn names_are_of_the_grammar_and_free() {
        let server = server_name!("x");
        let mut people = People::default();
        people.put(user_id!("@bob:x").to_owned(), person(true));
        let gone = Person { ended: Some(Ended::Gone), ..person(true) };
        people.put(user_id!("@gone:x").to_owned(), gone);
        let is_here = |user: &UserId| user == user_id!("@here:x");
        let found = |name: &str| people.new_id(name, server, is_here);
        for good in ["carl", "c", "a-b.c=d_e/f+0", "0x", &"x".repeat(limits::LOCALPART_LEN)] {
            assert_eq!(found(good).unwrap().localpart(), good);
        }
        for taken in ["p2p", "bob", "gone", "here"] {
            assert!(matches!(found(taken), Err(AccountError::NameTaken)), "{taken}");
        }
        for bad in [
            "",
            "Carl",
            "carl:y",
            "@carl",
            "carl carl",
            "zoë",
            "a\u{0}b",
            "_bot",
            "123",
            "a\nb",
            &"x".repeat(limits::LOCALPART_LEN + 1),
        ] {
            assert!(matches!(found(bad), Err(AccountError::InvalidName(_))), "{bad:?}");
        }
    }

    #[test]
    fn there_is_place_for_so_many() {
        let mut people = People::default();
        let id = |at: usize| UserId::parse(format!("@u{at}:x")).unwrap();
        people.put(user_id!("@p2p:x").to_owned(), person(false));
        for at in 0..limits::REGISTERED {
            people.check_place().unwrap();
            people.put(id(at), person(true));
        }
        assert!(people.check_place().is_err());
        let gone = || Person { ended: Some(Ended::Leaving), ..person(true) };
        people.put(id(0), gone());
        people.check_place().unwrap();
        assert_eq!(people.leaving(), [id(0)]);
        for at in limits::REGISTERED..limits::REGISTERED_EVER {
            people.put(id(at), gone());
        }
        assert!(people.check_place().is_err(), "names without end");
    }

    #[test]
    fn a_login_names_people_by_name_or_id_in_any_case() {
        let server = server_name!("x");
        for (text, expected) in [
            ("bob", Some("@bob:x")),
            (" Bob ", Some("@bob:x")),
            ("@bob:x", Some("@bob:x")),
            ("@BOB:X", Some("@bob:x")),
            ("@bob:y", None),
            ("@bob", None),
            ("bob@example.org", Some("@bob@example.org:x")),
        ] {
            let found = named(text, server);
            assert_eq!(found.as_ref().map(|user| user.as_str()), expected, "{text}");
        }
    }

    #[test]
    fn rows_come_back_and_older_ones_are_read() {
        let bob = user_id!("@bob:x");
        let whole = Person {
            password: Some("$argon2id$".into()),
            registered_ts: Some(5),
            ended: Some(Ended::Leaving),
        };
        let row = |value: &[u8]| {
            People::load(vec![(Row::Account(bob.to_owned()), value.to_vec())])
                .map(|all| all.get(bob))
        };
        assert_eq!(row(&serde_json::to_vec(&whole).unwrap()), Ok(whole.clone()));
        assert_eq!(row(b"{}"), Ok(Person::default()));
        assert!(row(b"x").is_err());
        assert!(!format!("{whole:?}").contains("argon2"));
    }
}
