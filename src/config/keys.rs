//! What may stand where in the configuration, and what is said where something else does. Pure.
//!
//! Every key is in one table with the kind of value that it takes. What was read is checked against
//! it before anything is made of it, so that a mistake is told in words and with an example.
//! Invariants: a null says the same as a missing key, but for [`NULL_MEANS_OFF`]; the value of a
//! secret is never repeated.

use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde_json::{Map, Value};

use super::{PRIVATE_NETWORK_SECRET, Previews, local_accounts, registration};

/// The one key whose null is a choice: Element is not served.
const NULL_MEANS_OFF: &str = "element.listenAddress";
/// Longest part of a wrong value that is repeated, in characters.
const SHOWN_MAX: usize = 60;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys of its own.
    Folder,
    /// An IP address and a port.
    Socket,
    /// A path of the file system.
    Path,
    /// true or false.
    Bool,
    /// A whole number up to this.
    Number(u64),
    /// One of some words.
    Word(&'static [&'static str]),
    /// A text, such as this one.
    Text(&'static str),
    /// A text that is shown to nobody.
    Secret,
    /// Addresses of libp2p.
    Addresses,
    /// Addresses of libp2p that say whom they lead to.
    Relays,
    /// PeerIds.
    Peers,
    /// Accounts of this machine.
    Accounts,
    /// Who may register; shown to nobody, since a token may be in it.
    Registration,
}

const COUNT: Kind = Kind::Number(u32::MAX as u64);
const BYTES: Kind = Kind::Number(i64::MAX as u64);

/// Every key.
const KEYS: [(&str, Kind); 43] = [
    ("listenAddress", Kind::Socket),
    ("login", Kind::Folder),
    ("login.localAccounts", Kind::Accounts),
    ("accounts", Kind::Folder),
    ("accounts.registration", Kind::Registration),
    ("element", Kind::Folder),
    ("element.listenAddress", Kind::Socket),
    ("element.path", Kind::Path),
    ("element.fetch", Kind::Bool),
    ("element.version", Kind::Text("1.12.24")),
    ("element.url", Kind::Text("https://releases.example/element.tar.gz")),
    ("element.sha256", Kind::Text("0123456789abcdef…")),
    ("media", Kind::Folder),
    ("media.maxUploadBytes", BYTES),
    ("media.maxBytes", BYTES),
    ("media.maxUserBytes", BYTES),
    ("media.remoteDays", COUNT),
    ("media.previews", Kind::Word(&Previews::WORDS)),
    ("push", Kind::Folder),
    ("push.allowPrivateAddresses", Kind::Bool),
    ("metrics", Kind::Folder),
    ("metrics.listenAddress", Kind::Socket),
    ("libp2p", Kind::Folder),
    ("libp2p.listenAddresses", Kind::Addresses),
    ("libp2p.mdns", Kind::Bool),
    ("libp2p.staticRelays", Kind::Relays),
    ("libp2p.externalAddresses", Kind::Addresses),
    ("libp2p.portMapping", Kind::Bool),
    (PRIVATE_NETWORK_SECRET, Kind::Secret),
    ("libp2p.freshPeerId", Kind::Bool),
    ("libp2p.blockedPeers", Kind::Peers),
    ("libp2p.relay", Kind::Folder),
    ("libp2p.relay.serve", Kind::Word(&["auto", "members", "always", "off"])),
    ("libp2p.relay.maxReservations", COUNT),
    ("libp2p.relay.maxCircuits", COUNT),
    ("libp2p.relay.memberCircuitSeconds", COUNT),
    ("libp2p.relay.memberCircuitBytes", BYTES),
    ("libp2p.relay.strangerCircuits", COUNT),
    ("libp2p.relay.strangerCircuitSeconds", COUNT),
    ("libp2p.relay.strangerCircuitBytes", BYTES),
    ("libp2p.dht", Kind::Folder),
    ("libp2p.dht.bootstrapPeers", Kind::Addresses),
    ("libp2p.dht.advertise", Kind::Bool),
];

impl Kind {
    /// Returns what is to be written.
    fn wanted(self) -> String {
        const AT: &str = "/ip4/203.0.113.7/tcp/4848";
        const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        match self {
            Self::Folder => "write keys in braces, such as {}".to_owned(),
            Self::Socket => "write an IP address and a port, such as \"127.0.0.1:8480\"".to_owned(),
            Self::Path => "write a folder, such as \"/home/ann/element\"".to_owned(),
            Self::Bool => "write true or false, without quotes".to_owned(),
            Self::Number(most) => {
                format!("write a whole number up to {most}, without quotes, such as 128")
            }
            Self::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                format!("write one of {}", words.join(", "))
            }
            Self::Text(example) => format!("write a text in quotes, such as \"{example}\""),
            Self::Secret => {
                "write a text in quotes, such as one that `messagehub network-secret` prints"
                    .to_owned()
            }
            Self::Addresses => format!("write a list of multiaddresses, such as [\"{AT}\"]"),
            Self::Relays => format!(
                "write a list of multiaddresses that end with whose they are, such as \
                 [\"{AT}/p2p/{PEER}\"]"
            ),
            Self::Peers => format!("write a list of PeerIds, such as [\"{PEER}\"]"),
            Self::Accounts => {
                "write a list of accounts of this machine by name or uid, such as [\"ann\", 1001], \
                 or \"any\""
                    .to_owned()
            }
            Self::Registration => {
                "write true, false, or the token that lets people in, such as {\"token\": \
                 \"correct horse\"}"
                    .to_owned()
            }
        }
    }

    /// Tells whether a value is of this kind; where it is not, which part of it.
    fn check(self, value: &Value) -> Result<(), &Value> {
        let text = |good: fn(&str) -> bool| value.as_str().is_some_and(good);
        let good = match self {
            Self::Folder => value.is_object(),
            Self::Socket => text(|text| text.parse::<SocketAddr>().is_ok()),
            Self::Path => text(|text| !text.is_empty()),
            Self::Bool => value.is_boolean(),
            Self::Number(most) => value.as_u64().is_some_and(|number| number <= most),
            Self::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Self::Text(_) => text(|text| !text.is_empty()),
            Self::Secret => value.is_string(),
            Self::Addresses => return all(value, |text| text.parse::<Multiaddr>().is_ok()),
            Self::Relays => return all(value, leads_to_somebody),
            Self::Peers => return all(value, |text| text.parse::<PeerId>().is_ok()),
            Self::Accounts => local_accounts::is_well_formed(value),
            Self::Registration => registration::is_well_formed(value),
        };
        if good { Ok(()) } else { Err(value) }
    }

    /// Makes of a text of the environment what the file would hold.
    pub(super) fn of_text(self, text: &str) -> Value {
        let word = || Value::from(text);
        match self {
            _ if text == "null" => Value::Null,
            Self::Bool | Self::Number(_) => match serde_json::from_str::<Value>(text) {
                Ok(value) if value.is_boolean() || value.is_number() => value,
                _ => word(),
            },
            Self::Addresses | Self::Relays | Self::Peers | Self::Accounts => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(Value::from).collect()
            }
            Self::Folder
            | Self::Socket
            | Self::Path
            | Self::Word(_)
            | Self::Text(_)
            | Self::Secret => word(),
            Self::Registration => registration::of_text(text),
        }
    }
}

fn all(value: &Value, good: fn(&str) -> bool) -> Result<(), &Value> {
    let Some(items) = value.as_array() else { return Err(value) };
    match items.iter().find(|item| !item.as_str().is_some_and(good)) {
        Some(wrong) => Err(wrong),
        None => Ok(()),
    }
}

fn leads_to_somebody(text: &str) -> bool {
    let address = text.parse::<Multiaddr>();
    address.is_ok_and(|address| matches!(address.iter().last(), Some(Protocol::P2p(_))))
}

/// Returns what a key takes; none where there is no such key.
pub(super) fn kind_of(key: &str) -> Option<Kind> {
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, kind)| *kind)
}

/// Checks what was read and leaves the nulls out. `place` says where a key was set. The error is a
/// sentence.
pub(super) fn check(
    read: Map<String, Value>,
    place: &dyn Fn(&str) -> String,
) -> Result<Map<String, Value>, String> {
    folder("", read, place)
}

fn folder(
    within: &str,
    read: Map<String, Value>,
    place: &dyn Fn(&str) -> String,
) -> Result<Map<String, Value>, String> {
    let mut checked = Map::new();
    for (name, value) in read {
        let key = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
        let Some(kind) = kind_of(&key) else {
            let known = names_in(within).join(", ");
            return Err(format!("there is no key {key}{}: there are {known}", place(&key)));
        };
        if value.is_null() && key != NULL_MEANS_OFF {
            continue;
        }
        if !value.is_null()
            && let Err(wrong) = kind.check(&value)
        {
            let shown = match kind {
                Kind::Secret => "no text".to_owned(),
                Kind::Registration => "none of these".to_owned(),
                _ => short(wrong),
            };
            return Err(format!("{key}{} is {shown}: {}", place(&key), kind.wanted()));
        }
        let value = match value {
            Value::Object(inner) if kind == Kind::Folder => {
                Value::Object(folder(&key, inner, place)?)
            }
            value => value,
        };
        checked.insert(name, value);
    }
    Ok(checked)
}

/// Returns the names of the keys right inside of a folder.
fn names_in(within: &str) -> Vec<&'static str> {
    let inside = |key: &'static str| match within {
        "" => Some(key),
        _ => key.strip_prefix(within)?.strip_prefix('.'),
    };
    KEYS.iter().filter_map(|(key, _)| inside(key)).filter(|name| !name.contains('.')).collect()
}

/// Returns a value as it is written, or its beginning.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(value: Value) -> Result<Value, String> {
        let Value::Object(read) = value else { panic!("{value}") };
        check(read, &|_| String::new()).map(Value::Object)
    }

    #[test]
    fn null_says_what_a_missing_key_says() {
        for (key, kind) in KEYS {
            let mut value = Value::Null;
            for name in key.rsplit('.') {
                value = json!({name: value});
            }
            let kept = said(value.clone()).unwrap();
            assert_eq!(kept == value, key == NULL_MEANS_OFF, "{key}: {kind:?} {kept}");
        }
        assert_eq!(said(json!({"libp2p": {"dht": null}})).unwrap(), json!({"libp2p": {}}));
    }

    /// Whatever kind of value stands where another should is refused, by the name of the key.
    #[test]
    fn wrong_kinds_are_refused_at_every_key() {
        let values = [
            json!(true),
            json!(7),
            json!(-1),
            json!(1.5),
            json!("x y"),
            json!([]),
            json!([7]),
            json!([{}]),
            json!({"zzz": 1}),
        ];
        for (key, kind) in KEYS {
            for value in &values {
                let good = match kind {
                    Kind::Path | Kind::Text(_) | Kind::Secret => value.is_string(),
                    Kind::Bool | Kind::Registration => value.is_boolean(),
                    Kind::Number(_) => value.as_u64().is_some(),
                    Kind::Accounts => *value == json!([]) || *value == json!([7]),
                    Kind::Addresses | Kind::Relays | Kind::Peers => *value == json!([]),
                    Kind::Folder | Kind::Socket | Kind::Word(_) => false,
                };
                let mut whole = value.clone();
                for name in key.rsplit('.') {
                    whole = json!({name: whole});
                }
                let said = said(whole.clone());
                assert_eq!(said.is_ok(), good, "{whole}: {said:?}");
                let Err(why) = said else { continue };
                assert!(why.contains(key) && !why.contains('\n'), "{whole}: {why}");
                let example = ["such as", "write one of", "true or false", "there are"];
                assert!(example.iter().any(|words| why.contains(words)), "no example: {why}");
            }
        }
    }

    #[test]
    fn mistakes_are_told_in_words_and_with_an_example() {
        for (value, words) in [
            (
                json!({"listenAddress": "localhost:80"}),
                "listenAddress is \"localhost:80\": write an IP address and a port, such as \
                 \"127.0.0.1:8480\"",
            ),
            (
                json!({"libp2p": {"relay": {"serve": "always "}}}),
                "libp2p.relay.serve is \"always \": write one of \"auto\", \"members\", \
                 \"always\", \"off\"",
            ),
            (
                json!({"libp2p": {"mdns": "yes"}}),
                "libp2p.mdns is \"yes\": write true or false, without quotes",
            ),
            (
                json!({"libp2p": {"privateNetworkSecret": 12345}}),
                "libp2p.privateNetworkSecret is no text: write a text in quotes",
            ),
            (
                json!({"libp2p": {"staticRelays": ["/ip4/1.2.3.4/tcp/4848"]}}),
                "libp2p.staticRelays is \"/ip4/1.2.3.4/tcp/4848\": write a list of \
                 multiaddresses that end with whose they are",
            ),
            (
                json!({"listenAdress": "127.0.0.1:80"}),
                "there is no key listenAdress: there are listenAddress, login, accounts, element, \
                 media, push, metrics, libp2p",
            ),
            (
                json!({"libp2p": {"dht": {"advertize": true}}}),
                "there is no key libp2p.dht.advertize: there are bootstrapPeers, advertise",
            ),
        ] {
            let why = said(value.clone()).unwrap_err();
            assert!(why.starts_with(words), "{value}: {why}");
        }
    }
}
