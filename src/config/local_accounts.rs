//! Accounts of this machine: who may log in by sitting at it (`login.localAccounts`).
//!
//! Names are those of `/etc/passwd`. An account that is kept elsewhere (LDAP, systemd-homed) is named
//! by its number.

use std::fs;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::platform::accounts::{own_name, this_account};

/// Says "whoever uses this machine".
const ANY: &str = "any";

/// Whom the node takes for its person where they sit at this machine, besides the account that runs
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAccounts {
    /// Everybody who uses this machine.
    Any,
    /// These, by uid.
    These(Vec<u32>),
}

impl Default for LocalAccounts {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl<'de> Deserialize<'de> for LocalAccounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let items = match &value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        if items.iter().any(|item| item == ANY) {
            return Ok(Self::Any);
        }
        let uid = |item: &Value| match item {
            Value::String(name) => uid_of(name),
            number => number.as_u64().and_then(|uid| u32::try_from(uid).ok()),
        };
        let known = |item: &Value| {
            uid(item).ok_or_else(|| {
                D::Error::custom(format!(
                    "login.localAccounts names {item}, which is no account in /etc/passwd: write \
                     its name as `id -un` prints it there, or its number, as `id -u` prints it"
                ))
            })
        };
        items.iter().map(known).collect::<Result<_, _>>().map(Self::These)
    }
}

/// Tells whether a value of the configuration names accounts; whether they are there is seen later.
pub(super) fn is_well_formed(value: &Value) -> bool {
    let one = |item: &Value| match item {
        Value::String(name) => !name.is_empty() && !name.contains([':', ' ', '\n']),
        number => number.as_u64().is_some_and(|uid| u32::try_from(uid).is_ok()),
    };
    match value {
        Value::Array(items) => items.iter().all(one),
        single => single == ANY,
    }
}

/// Returns the uid of an account by its name, or by the uid itself as a text.
fn uid_of(name: &str) -> Option<u32> {
    let by_name = in_passwd(|known, uid| (known == name).then_some(uid));
    by_name.or_else(|| name.parse().ok())
}

/// Returns what an account is called: its name, or `uid 1000` where it has none here.
pub fn name_of(uid: u32) -> String {
    let name = in_passwd(|name, known| (known == uid).then(|| name.to_owned()));
    let own = || own_name().filter(|_| uid == this_account());
    name.or_else(own).unwrap_or_else(|| format!("uid {uid}"))
}

/// Returns the first thing that `look` finds in name and uid of an account.
fn in_passwd<T>(look: impl Fn(&str, u32) -> Option<T>) -> Option<T> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        look(name, uid)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accounts_go_by_name_and_by_number() {
        let read = |value: Value| serde_json::from_value::<LocalAccounts>(value);
        assert_eq!(read(json!("any")).unwrap(), LocalAccounts::Any);
        assert_eq!(read(json!(["root", "any"])).unwrap(), LocalAccounts::Any);
        let these = LocalAccounts::These(vec![0, 1001, 1002]);
        assert_eq!(read(json!(["root", 1001, "1002"])).unwrap(), these);
        assert_eq!(read(json!([])).unwrap(), LocalAccounts::default());
        let unknown = read(json!(["nobody-of-that-name"])).unwrap_err().to_string();
        assert!(unknown.contains("\"nobody-of-that-name\""), "{unknown}");
        assert_eq!(
            (name_of(0).as_str(), name_of(4_000_000_001).as_str()),
            ("root", "uid 4000000001")
        );
    }

    #[test]
    fn what_names_no_accounts_is_told_apart() {
        for (value, good) in [
            (json!("any"), true),
            (json!(["ann", 7]), true),
            (json!("ann"), false),
            (json!([""]), false),
            (json!([-1]), false),
            (json!([[]]), false),
            (json!(7), false),
        ] {
            assert_eq!(is_well_formed(&value), good, "{value}");
        }
    }
}
