//! Rendezvous strings and their keys in the DHT (`docs/PROTOCOL.md` §6).

use cid::{Cid, multihash::Multihash};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use sha2::{Digest, Sha256};

use super::server_name;

/// The suffix lengths that are advertised beside a display name.
pub const SUFFIX_LENGTHS: std::ops::RangeInclusive<usize> = 7..=10;

/// Returns the five strings under which a person can be found.
pub fn strings(display_name: &str, name: &ServerName) -> Vec<String> {
    let name = name.as_str();
    let suffixes = SUFFIX_LENGTHS
        .filter_map(|length| name.len().checked_sub(length).and_then(|at| name.get(at..)))
        .map(|suffix| format!("{display_name}:{suffix}"));
    std::iter::once(format!("{}:{name}", server_name::LOCALPART)).chain(suffixes).collect()
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
    /// A full user id, server name, or `p2p:<server name>`: exactly one server can answer.
    Server(OwnedServerName),
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
            return Self::Server(user.server_name().to_owned());
        }
        let name = term.strip_prefix("p2p:").unwrap_or(term);
        if let Ok(name) = OwnedServerName::try_from(name)
            && server_name::digest(&name).is_ok()
        {
            return Self::Server(name);
        }
        if let Some((display_name, suffix)) = term.rsplit_once(':')
            && SUFFIX_LENGTHS.contains(&suffix.len())
            && suffix.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
        {
            return Self::Suffix {
                display_name: display_name.to_owned(),
                suffix: suffix.to_owned(),
            };
        }
        Self::Text(term.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna";

    #[test]
    fn the_five_strings_of_the_seed() {
        let name = OwnedServerName::try_from(NAME).unwrap();
        assert_eq!(
            strings("Ann", &name),
            [
                format!("p2p:{NAME}").as_str(),
                "Ann:iwqjdna",
                "Ann:6iwqjdna",
                "Ann:i6iwqjdna",
                "Ann:ni6iwqjdna",
            ]
        );
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
        for term in [NAME.to_owned(), format!("p2p:{NAME}"), format!(" @p2p:{NAME} ")] {
            assert_eq!(SearchTerm::parse(&term), SearchTerm::Server(name.clone()), "{term}");
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
