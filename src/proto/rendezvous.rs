//! Rendezvous strings and their keys in the DHT (`docs/PROTOCOL.md` §6).

use std::iter::once;

use caseless::Caseless as _;
use cid::{Cid, multihash::Multihash};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization as _;

use super::{names, server_name};

/// The suffix lengths that are advertised beside a display name.
pub const SUFFIX_LENGTHS: std::ops::RangeInclusive<usize> = 7..=10;

/// Returns the strings under which a person can be found: five, and four more where the name does not
/// look the same in all cases.
pub fn strings(display_name: &str, name: &ServerName) -> Vec<String> {
    let whole = format!("{}:{name}", server_name::LOCALPART);
    let name = name.as_str();
    let suffixes = SUFFIX_LENGTHS
        .filter_map(|length| name.len().checked_sub(length).and_then(|at| name.get(at..)));
    let suffixes: Vec<&str> = suffixes.collect();
    let named = spellings(display_name);
    let named = named
        .iter()
        .flat_map(|shown| suffixes.iter().map(move |suffix| format!("{shown}:{suffix}")));
    once(whole).chain(named).collect()
}

/// Returns the strings of somebody who registered on the server: by the name that is part of the id, since
/// it is asked for when they are found. `p2p:<server name>` is the owner's.
pub fn strings_of_user(localpart: &str, name: &ServerName) -> Vec<String> {
    let name = name.as_str();
    let suffixes = SUFFIX_LENGTHS
        .filter_map(|length| name.len().checked_sub(length).and_then(|at| name.get(at..)));
    suffixes.map(|suffix| format!("{localpart}:{suffix}")).collect()
}

/// Returns the user of a server whom somebody may mean who looks for this name; the owner is found by
/// the name that they show.
pub fn user_named(name: &str, server: &ServerName) -> Option<OwnedUserId> {
    let localpart = name.to_ascii_lowercase();
    let user = OwnedUserId::try_from(format!("@{localpart}:{server}")).ok()?;
    let is_good = names::check_user_id(&user).is_ok() && user.localpart() == localpart;
    (is_good && localpart != server_name::LOCALPART).then_some(user)
}

/// Returns the strings under which somebody with a name is looked for.
pub fn looked_for(display_name: &str, suffix: &str) -> Vec<String> {
    spellings(display_name).iter().map(|shown| format!("{shown}:{suffix}")).collect()
}

/// Tells whether two names are the same but for their case, or for how their letters are written.
pub fn same_name(one: &str, other: &str) -> bool {
    folded(one) == folded(other)
}

/// Returns a name as it is, and folded where that differs.
fn spellings(display_name: &str) -> Vec<String> {
    let folded = folded(display_name);
    let differs = folded != display_name;
    once(display_name.to_owned()).chain(differs.then_some(folded)).collect()
}

/// Unicode's compatibility caseless matching (D146), as one text: case folded, NFKC.
fn folded(name: &str) -> String {
    name.chars().nfd().default_case_fold().nfkd().default_case_fold().nfkc().collect()
}

/// Returns the key of a provider record: the sha2-256 multihash of the string (34 bytes).
pub fn record_key(rendezvous: &str) -> Vec<u8> {
    multihash(rendezvous).to_bytes()
}

/// Returns the CIDv1 (raw) of a rendezvous string, as other tools print it.
pub fn cid(rendezvous: &str) -> Cid {
    Cid::new_v1(0x55, multihash(rendezvous))
}

fn multihash(rendezvous: &str) -> Multihash<64> {
    Multihash::wrap(0x12, &Sha256::digest(rendezvous.as_bytes()))
        .unwrap_or_else(|_| unreachable!("a sha2-256 digest fits 64 bytes"))
}

/// What a search term asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchTerm {
    /// A server name, or `p2p:<server name>`: exactly one server can answer.
    Server(OwnedServerName),
    /// A full user id: exactly one server can answer, too.
    User(OwnedUserId),
    /// `<display name>:<suffix>`: everybody who matches is shown.
    Suffix {
        /// The name that the person must show.
        display_name: String,
        /// The last 7 to 10 characters of the server name.
        suffix: String,
    },
    /// `/p2p/<PeerId>` or a full multiaddress that ends so.
    Address(String),
    /// Anything else: a part of the name of somebody known already.
    Text(String),
}

impl SearchTerm {
    /// Reads what a person typed.
    pub fn parse(term: &str) -> Self {
        let term = term.trim();
        if term.starts_with('/') && term.contains("/p2p/") {
            return Self::Address(term.to_owned());
        }
        if let Ok(user) = OwnedUserId::try_from(term)
            && server_name::digest(user.server_name()).is_ok()
        {
            return Self::User(user);
        }
        let name = term.strip_prefix("p2p:").unwrap_or(term);
        if let Ok(name) = OwnedServerName::try_from(name)
            && server_name::digest(&name).is_ok()
        {
            return Self::Server(name);
        }
        if let Some((display_name, suffix)) = term.rsplit_once(':')
            && SUFFIX_LENGTHS.contains(&suffix.len())
            && suffix.bytes().all(|b| matches!(b.to_ascii_lowercase(), b'a'..=b'z' | b'2'..=b'7'))
        {
            return Self::Suffix {
                display_name: display_name.to_owned(),
                suffix: suffix.to_ascii_lowercase(),
            };
        }
        Self::Text(term.to_owned())
    }

    /// Tells whether somebody of our own node is meant, who is shown by this name.
    pub fn means(&self, user: &UserId, display_name: Option<&str>) -> bool {
        let (localpart, server) = (user.localpart(), user.server_name());
        let is_owner = localpart == server_name::LOCALPART;
        match self {
            Self::User(wanted) => wanted == user,
            Self::Server(wanted) => wanted == server && is_owner,
            Self::Suffix { display_name: wanted, suffix } => {
                let shown = display_name.unwrap_or(localpart);
                let named = (is_owner && same_name(shown, wanted))
                    || user_named(wanted, server).is_some_and(|named| named == *user);
                server.as_str().ends_with(suffix.as_str()) && named
            }
            Self::Text(part) => {
                let part = folded(part);
                let names = once(localpart).chain(display_name);
                !part.is_empty() && names.into_iter().any(|name| folded(name).contains(&part))
            }
            Self::Address(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna";

    #[test]
    fn the_five_strings_of_the_seed_and_those_without_case() {
        let name = OwnedServerName::try_from(NAME).unwrap();
        let whole = format!("p2p:{NAME}");
        let five = ["ann:iwqjdna", "ann:6iwqjdna", "ann:i6iwqjdna", "ann:ni6iwqjdna"];
        let expected: Vec<String> = once(whole.clone()).chain(five.map(str::to_owned)).collect();
        assert_eq!(strings("ann", &name), expected);
        let exact = five.map(|string| string.replace("ann", "Ann"));
        let expected: Vec<String> =
            once(whole).chain(exact).chain(five.map(str::to_owned)).collect();
        assert_eq!(strings("Ann", &name), expected);
    }

    /// Whoever is published under one spelling is looked for under every other.
    #[test]
    fn a_name_is_found_whatever_its_case() {
        let name = OwnedServerName::try_from(NAME).unwrap();
        for spellings in [
            &["Ann", "ann", "ANN", "aNN"][..],
            &["Straße", "STRASSE", "strasse"],
            &["Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ", "ὀδυσσεύσ"],
            &["José", "Jose\u{301}", "JOSÉ"],
            &["Ａｎｎ", "ann"],
            &["ﬁona", "FIONA"],
            &["李", "李"],
        ] {
            for shown in spellings {
                let published = strings(shown, &name);
                for typed in spellings {
                    let term = SearchTerm::parse(&format!("{typed}:IWQJDNA"));
                    let SearchTerm::Suffix { display_name, suffix } = term else {
                        panic!("{term:?}")
                    };
                    let wanted = looked_for(&display_name, &suffix);
                    assert!(
                        wanted.iter().any(|one| published.contains(one)),
                        "{typed} finds no {shown}: {wanted:?} {published:?}"
                    );
                    assert!(same_name(shown, typed), "{shown} {typed}");
                    assert!(published.contains(&format!("{shown}:iwqjdna")), "exact: {shown}");
                }
            }
        }
        assert!(!same_name("Ann", "Anna"));
        assert_eq!(folded(&folded("ẞ ΐ ŉ ǰ ᾳ İ")), folded("ẞ ΐ ŉ ǰ ᾳ İ"), "folding ends");
    }

    #[test]
    fn who_registered_is_found_by_the_name_in_the_id() {
        let name = OwnedServerName::try_from(NAME).unwrap();
        let published = strings_of_user("bob", &name);
        assert_eq!(published, ["bob:iwqjdna", "bob:6iwqjdna", "bob:i6iwqjdna", "bob:ni6iwqjdna"]);
        for (typed, found) in [
            ("bob", Some("@bob")),
            ("Bob", Some("@bob")),
            ("p2p", None),
            ("Bob Byte", None),
            ("Zoë", None),
            ("", None),
            ("bob:x", None),
        ] {
            let user = user_named(typed, &name);
            let found = found.map(|found| format!("{found}:{NAME}"));
            assert_eq!(user.map(|user| user.to_string()), found, "{typed}");
        }
    }

    #[test]
    fn who_is_at_home_here_is_found_by_the_same_terms() {
        let user = |name: &str| OwnedUserId::try_from(format!("@{name}:{NAME}")).unwrap();
        let (ann, bob) = (user("p2p"), user("bob"));
        for (term, owner, other) in [
            (NAME, true, false),
            (ann.as_str(), true, false),
            (bob.as_str(), false, true),
            ("ANN:iwqjdna", true, false),
            ("Bob:iwqjdna", false, true),
            ("Robert:iwqjdna", false, false),
            ("bob:iwqjdnb", false, false),
            ("rob", false, true),
            ("b", false, true),
            ("nn", true, false),
            ("", false, false),
        ] {
            let term = SearchTerm::parse(term);
            let found = (term.means(&ann, Some("Ann")), term.means(&bob, Some("Robert")));
            assert_eq!(found, (owner, other), "{term:?}");
        }
    }

    #[test]
    fn the_vectors_of_the_protocol_document() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let full = format!("p2p:{NAME}");
        assert_eq!(
            cid(&full).to_string(),
            "bafkreia5seh36rfdv3qp57ldpwx5du73ua334repu6dyifolskc4bml5yy"
        );
        assert_eq!(
            hex(record_key(&full)),
            "12201d910fbf44a3aee0fefd637dafd1d3fba037be448fa7878415cb9285c0b17dc6"
        );
        assert_eq!(
            hex(record_key("p2p:iwqjdna")),
            "122040e969f691eb16086a1bb8cd5e0d886f3068c27d0f92e639777e0e92466b5b1c"
        );
    }

    #[test]
    fn terms() {
        let name = OwnedServerName::try_from(NAME).unwrap();
        for term in [NAME.to_owned(), format!("p2p:{NAME}")] {
            assert_eq!(SearchTerm::parse(&term), SearchTerm::Server(name.clone()), "{term}");
        }
        for user in ["p2p", "bob"] {
            let user = OwnedUserId::try_from(format!("@{user}:{NAME}")).unwrap();
            assert_eq!(SearchTerm::parse(&format!(" {user} ")), SearchTerm::User(user));
        }
        assert_eq!(
            SearchTerm::parse("Ann: the 1st:iwqjdna"),
            SearchTerm::Suffix { display_name: "Ann: the 1st".into(), suffix: "iwqjdna".into() }
        );
        assert_eq!(SearchTerm::parse("ann"), SearchTerm::Text("ann".into()));
        assert_eq!(SearchTerm::parse("a:b"), SearchTerm::Text("a:b".into()));
        assert!(matches!(SearchTerm::parse("/ip4/127.0.0.1/tcp/1/p2p/Qm"), SearchTerm::Address(_)));
    }
}
