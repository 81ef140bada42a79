//! Configuration: `config.json`, then the environment; and every limit and default by name.
//!
//! A key of the file is an environment variable too, in upper snake case with `__` for each dot:
//! `libp2p.dht.bootstrapPeers` is `MESSAGEHUB__LIBP2P__DHT__BOOTSTRAP_PEERS`, its items separated
//! by commas. What may stand where is in `config/keys.rs`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{File, FileFormat};
use libp2p::{Multiaddr, PeerId};
use serde::Deserialize;
use serde_json::{Map, Value};

mod element;
mod keys;
pub mod limits;
pub mod local_accounts;
mod media;
mod registration;
mod secret;

pub use self::element::{ElementConfig, Release};
use self::local_accounts::LocalAccounts;
pub use self::media::{MediaConfig, Previews};
pub use self::registration::Registration;

/// The key of the secret of a private network.
pub const PRIVATE_NETWORK_SECRET: &str = "libp2p.privateNetworkSecret";
/// Where the homeserver listens unless it is configured.
pub const DEFAULT_LISTEN: &str = "127.84.48.2:80";
/// Where Element is served unless it is configured.
pub const DEFAULT_ELEMENT_LISTEN: &str = "127.84.48.1:80";
/// The port that takes the place of 80 where that is not permitted.
pub const FALLBACK_PORT: u16 = 8480;
/// Where libp2p listens unless it is configured: TCP and QUIC on the same number.
pub const DEFAULT_LIBP2P_LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/4848",
    "/ip4/0.0.0.0/udp/4848/quic-v1",
    "/ip6/::/tcp/4848",
    "/ip6/::/udp/4848/quic-v1",
];
/// Bootstrap nodes of the public IPFS DHT.
pub const DEFAULT_BOOTSTRAP: [&str; 5] = [
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
    "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
];

/// The configuration of a node, checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The file that it was read from; none where there was none.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Where the homeserver listens.
    #[serde(default)]
    pub listen_address: Option<SocketAddr>,
    /// Logging in.
    #[serde(default)]
    pub login: LoginConfig,
    /// The people of the node.
    #[serde(default)]
    pub accounts: AccountsConfig,
    /// Element.
    #[serde(default)]
    pub element: ElementConfig,
    /// Pictures and files.
    #[serde(default)]
    pub media: MediaConfig,
    /// Notifications of devices.
    #[serde(default)]
    pub push: PushConfig,
    /// Figures for who watches the node.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// The network.
    #[serde(default)]
    pub libp2p: Libp2pConfig,
}

/// `metrics.*`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where Prometheus may ask for figures; nowhere where it is missing.
    #[serde(default)]
    pub listen_address: Option<SocketAddr>,
}

/// `login.*`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginConfig {
    /// Accounts of this machine that may log in without a token, besides the one that runs the node.
    #[serde(default)]
    pub local_accounts: LocalAccounts,
}

/// `accounts.*`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountsConfig {
    /// Who may register, besides the owner of the node.
    #[serde(default)]
    pub registration: Registration,
}

/// `push.*`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PushConfig {
    /// Whether push gateways at home are asked too, not those of the Internet alone.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// `libp2p.*`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Libp2pConfig {
    /// Where libp2p listens.
    #[serde(default = "default_listen")]
    pub listen_addresses: Vec<Multiaddr>,
    /// Whether nodes of the same LAN are found by mDNS.
    #[serde(default = "yes")]
    pub mdns: bool,
    /// Relays that carry connections to us where none can be made directly.
    #[serde(default)]
    pub static_relays: Vec<Multiaddr>,
    /// Carrying connections for others.
    #[serde(default)]
    pub relay: RelayConfig,
    /// Addresses by which this node can be reached from everywhere; told to others as they are.
    #[serde(default)]
    pub external_addresses: Vec<Multiaddr>,
    /// Whether the router is asked to send to us what comes to our ports.
    #[serde(default = "yes")]
    pub port_mapping: bool,
    /// With a secret, only nodes with the same one can be talked to.
    #[serde(default)]
    pub private_network_secret: Option<String>,
    /// A new PeerId at each start.
    #[serde(default)]
    pub fresh_peer_id: bool,
    /// Nodes that are never connected, by their PeerId.
    #[serde(default, deserialize_with = "peer_ids")]
    pub blocked_peers: Vec<PeerId>,
    /// The DHT.
    #[serde(default)]
    pub dht: DhtConfig,
}

/// `libp2p.relay.*`.
///
/// What strangers get is what the library gives everybody. A member gets a circuit for as long as a
/// reservation lasts, and enough for a long conversation with pictures.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayConfig {
    /// For whom this node relays.
    pub serve: RelayServe,
    /// Nodes for which connections are taken at once.
    pub max_reservations: u32,
    /// Circuits at once, of everybody.
    pub max_circuits: u32,
    /// How long a circuit that a member opened may last.
    pub member_circuit_seconds: u32,
    /// What such a circuit may carry each way.
    pub member_circuit_bytes: u64,
    /// Circuits of strangers at once, so that they leave room for members.
    pub stranger_circuits: u32,
    /// How long a circuit that a stranger opened may last.
    pub stranger_circuit_seconds: u32,
    /// What such a circuit may carry each way.
    pub stranger_circuit_bytes: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            serve: RelayServe::default(),
            max_reservations: 128,
            max_circuits: 128,
            member_circuit_seconds: 60 * 60,
            member_circuit_bytes: 256 * 1024 * 1024,
            stranger_circuits: 16,
            stranger_circuit_seconds: 2 * 60,
            stranger_circuit_bytes: 128 * 1024,
        }
    }
}

impl RelayConfig {
    /// Names the first limit that would have the relay serve nobody, or cannot be kept.
    fn check(&self) -> Result<(), String> {
        const OFF: &str = "set libp2p.relay.serve to \"off\" where nobody is to be carried";
        const MEMBERS: &str =
            "set libp2p.relay.serve to \"members\" where no stranger is to be carried";
        for (key, value, instead) in [
            ("maxReservations", u64::from(self.max_reservations), OFF),
            ("maxCircuits", u64::from(self.max_circuits), OFF),
            ("memberCircuitSeconds", u64::from(self.member_circuit_seconds), OFF),
            ("memberCircuitBytes", self.member_circuit_bytes, OFF),
            ("strangerCircuits", u64::from(self.stranger_circuits), MEMBERS),
            ("strangerCircuitSeconds", u64::from(self.stranger_circuit_seconds), MEMBERS),
            ("strangerCircuitBytes", self.stranger_circuit_bytes, MEMBERS),
        ] {
            if value == 0 {
                return Err(format!("libp2p.relay.{key} is 0: {instead}"));
            }
        }
        if self.stranger_circuits > self.max_circuits {
            return Err(format!(
                "libp2p.relay.strangerCircuits is {}, more than libp2p.relay.maxCircuits, which \
                 is {}: strangers are part of everybody",
                self.stranger_circuits, self.max_circuits
            ));
        }
        Ok(())
    }
}

/// For whom this node carries connections (circuit relay v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayServe {
    /// While it can be reached from everywhere: for members of shared rooms, and a little for
    /// everybody else.
    #[default]
    Auto,
    /// While it can be reached from everywhere: for members of shared rooms alone.
    Members,
    /// For everybody and at once: for a node whose addresses are known to be good.
    Always,
    /// For nobody.
    Off,
}

/// `libp2p.dht.*`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DhtConfig {
    /// Nodes through which the DHT is entered: null is the built-in list, `[]` none.
    #[serde(default)]
    pub bootstrap_peers: Option<Vec<Multiaddr>>,
    /// Whether the rendezvous strings are advertised.
    #[serde(default = "yes")]
    pub advertise: bool,
}

impl Default for Libp2pConfig {
    fn default() -> Self {
        Self {
            listen_addresses: default_listen(),
            mdns: true,
            static_relays: Vec::new(),
            relay: RelayConfig::default(),
            external_addresses: Vec::new(),
            port_mapping: true,
            private_network_secret: None,
            fresh_peer_id: false,
            blocked_peers: Vec::new(),
            dht: DhtConfig::default(),
        }
    }
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self { bootstrap_peers: None, advertise: true }
    }
}

fn yes() -> bool {
    true
}

/// Tells whether these are the addresses of a node where none were configured.
pub fn is_default_listen(addresses: &[Multiaddr]) -> bool {
    *addresses == *default_listen()
}

fn default_listen() -> Vec<Multiaddr> {
    DEFAULT_LIBP2P_LISTEN.iter().filter_map(|address| address.parse().ok()).collect()
}

/// Reads PeerIds.
fn peer_ids<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<PeerId>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let read = |text: &String| {
        let wrong = |_| format!("libp2p.blockedPeers: {text:?} is no PeerId");
        text.parse().map_err(wrong).map_err(serde::de::Error::custom)
    };
    texts.iter().map(read).collect()
}

/// Tells a null apart from a missing key.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// What is wrong with the configuration: one line that names the key or file and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {0}: {1}")]
    File(PathBuf, String),
    /// A key or value is wrong.
    #[error("configuration: {0}")]
    Key(String),
}

impl Config {
    /// Reads `file`, or `config.json` of the working folder where there is one, then the
    /// environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        let path = match file {
            Some(path) => Some(path.to_owned()),
            None => Some(PathBuf::from("config.json")).filter(|path| path.exists()),
        };
        if let Some(path) = &path {
            let wrong = |why: String| ConfigError::File(path.clone(), why);
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            serde_json::from_str::<Map<String, Value>>(&text).map_err(|error| {
                wrong(format!("it is no JSON object, such as {{\"libp2p\": {{}}}}: {error}"))
            })?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Json));
        }
        let environment = environment(std::env::vars_os());
        for Variable { name, key, value } in &environment {
            let wrong = |why: &dyn std::fmt::Display| ConfigError::Key(format!("{name}: {why}"));
            let value: config::Value =
                serde_json::from_value(value.clone()).map_err(|error| wrong(&error))?;
            builder = builder.set_override(key, value).map_err(|error| wrong(&one_line(&error)))?;
        }
        let read = builder.build().and_then(config::Config::try_deserialize);
        let read: Map<String, Value> = read.map_err(|error| ConfigError::Key(one_line(&error)))?;
        let place = |key: &str| {
            let variable = environment.iter().find(|variable| variable.key == key);
            match (variable, &path) {
                (Some(variable), _) => format!(" ({} in the environment)", variable.name),
                (None, Some(path)) => format!(" (in {})", path.display()),
                (None, None) => String::new(),
            }
        };
        let checked = keys::check(read, &place).map_err(ConfigError::Key)?;
        let config: Self = serde_json::from_value(Value::Object(checked))
            .map_err(|error| ConfigError::Key(one_line(&error)))?;
        Self { file: path, ..config }.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        if let Some(secret) = &self.libp2p.private_network_secret {
            if secret.is_empty() {
                return Err(ConfigError::Key(
                    "libp2p.privateNetworkSecret is empty, which everybody could guess: set a \
                     secret, or null for the public network"
                        .to_owned(),
                ));
            }
            if let Some(why) = self.secret_weakness() {
                log::warn!(
                    "libp2p.privateNetworkSecret is weak ({why}): whoever records one connection \
                     can guess it offline; set one that `messagehub network-secret` prints"
                );
            }
        }
        if self.libp2p.listen_addresses.is_empty() {
            return Err(ConfigError::Key(
                "libp2p.listenAddresses is empty: name at least one address, such as \
                 /ip4/0.0.0.0/tcp/4848"
                    .to_owned(),
            ));
        }
        self.libp2p.relay.check().map_err(ConfigError::Key)?;
        self.element.release().map_err(ConfigError::Key)?;
        self.media.check().map_err(ConfigError::Key)?;
        Ok(self)
    }

    /// Returns what makes the secret of the private network easy to guess, if anything does.
    pub fn secret_weakness(&self) -> Option<&'static str> {
        secret::weakness(self.libp2p.private_network_secret.as_deref()?)
    }

    /// Returns the nodes through which the DHT is entered.
    pub fn bootstrap_peers(&self) -> Vec<Multiaddr> {
        if self.libp2p.private_network_secret.is_some() && self.libp2p.dht.bootstrap_peers.is_none()
        {
            return Vec::new();
        }
        self.libp2p.dht.bootstrap_peers.clone().unwrap_or_else(|| {
            DEFAULT_BOOTSTRAP.iter().filter_map(|address| address.parse().ok()).collect()
        })
    }
}

/// A variable of the environment that sets a key.
#[derive(Debug)]
struct Variable {
    name: String,
    key: String,
    value: Value,
}

/// Returns what the environment sets.
///
/// The config crate's own source turns `LIBP2P` into `libp2P`, and cannot say null.
fn environment(
    variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Vec<Variable> {
    let mut set = Vec::new();
    for (name, value) in variables {
        let (Ok(name), Ok(text)) = (name.into_string(), value.into_string()) else { continue };
        let Some(path) = name.strip_prefix("MESSAGEHUB__") else { continue };
        let key = path.split("__").map(camel).collect::<Vec<_>>().join(".");
        let kind = keys::kind_of(&key).unwrap_or(keys::Kind::Secret);
        let value = kind.of_text(&text);
        set.push(Variable { name, key, value });
    }
    set
}

/// Makes `LISTEN_ADDRESS` `listenAddress`.
fn camel(part: &str) -> String {
    let mut words = part.split('_').map(str::to_ascii_lowercase);
    let first = words.next().unwrap_or_default();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

/// Makes an error one line.
fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Longest wait of one actor for another: far beyond any healthy answer.
pub const ASK_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn load(json: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(json.as_bytes()).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_shipped_file_is_the_default() {
        let shipped = load(include_str!("../config.json")).unwrap();
        assert_eq!(shipped.listen_address, DEFAULT_LISTEN.parse().ok());
        assert_eq!(shipped.element.listen_address, Some(DEFAULT_ELEMENT_LISTEN.parse().ok()));
        assert_eq!(shipped.bootstrap_peers().len(), DEFAULT_BOOTSTRAP.len());
        assert_eq!(shipped.libp2p.listen_addresses.len(), DEFAULT_LIBP2P_LISTEN.len());
    }

    /// Files of the first MessageHub are full of nulls.
    #[test]
    fn null_is_the_default() {
        let nulls = load(
            r#"{"listenAddress":null,"login":null,"accounts":{"registration":null},"element":{"path":null},"libp2p":{
                "listenAddresses":null,"mdns":null,"staticRelays":null,"relay":{"serve":null,
                "maxCircuits":null},"blockedPeers":null,"dht":null}}"#,
        );
        let (nulls, none) = (nulls.unwrap(), load("{}").unwrap());
        let shown = |config: &Config| format!("{:?}", Config { file: None, ..config.clone() });
        assert_eq!(shown(&nulls), shown(&none));
        assert!(load(r#"{"libp2p":null}"#).is_ok());
    }

    #[test]
    fn who_may_register_is_said() {
        let of = |json: &str| load(json).unwrap().accounts.registration;
        assert_eq!(of("{}"), Registration::Off);
        assert_eq!(of(r#"{"accounts":{"registration":true}}"#), Registration::Open);
        let token = of(r#"{"accounts":{"registration":{"token":"come in"}}}"#);
        assert_eq!(token, Registration::Token("come in".to_owned()));
    }

    #[test]
    fn null_turns_element_off() {
        assert_eq!(load("{}").unwrap().element.listen_address, None);
        let off = load(r#"{"element":{"listenAddress":null}}"#).unwrap();
        assert_eq!(off.element.listen_address, Some(None));
        let none = load(r#"{"libp2p":{"dht":{"bootstrapPeers":[]}}}"#).unwrap();
        assert!(none.bootstrap_peers().is_empty());
    }

    #[test]
    fn attack_15_a_private_network_has_a_secret_and_no_public_door() {
        let with = |more: &str| load(&format!(r#"{{"libp2p":{{"privateNetworkSecret":{more}}}}}"#));
        assert!(with(r#""""#).unwrap_err().to_string().contains("privateNetworkSecret"));
        let private = with(r#""qT7vW0hLkz3XyP9sBd2mRg""#).unwrap();
        assert!(private.bootstrap_peers().is_empty(), "no public node is asked");
        let own = with(r#""weak","dht":{"bootstrapPeers":["/ip4/10.0.0.1/tcp/1"]}"#).unwrap();
        assert_eq!(own.bootstrap_peers().len(), 1, "one's own are");
        assert_eq!(with("null").unwrap().bootstrap_peers().len(), DEFAULT_BOOTSTRAP.len());
    }

    #[test]
    fn the_environment_names_every_key() {
        let set = environment(
            [
                ("MESSAGEHUB__LISTEN_ADDRESS", "127.0.0.1:1"),
                ("MESSAGEHUB__ELEMENT__LISTEN_ADDRESS", "null"),
                ("MESSAGEHUB__LIBP2P__DHT__BOOTSTRAP_PEERS", ""),
                ("MESSAGEHUB__LIBP2P__STATIC_RELAYS", "/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.5/tcp/1"),
                ("MESSAGEHUB__LIBP2P__MDNS", "false"),
                ("MESSAGEHUB__LIBP2P__RELAY__MAX_CIRCUITS", "7"),
                ("MESSAGEHUB__LIBP2P__PRIVATE_NETWORK_SECRET", "12345"),
                ("MESSAGEHUB__LOGIN__LOCAL_ACCOUNTS", "any"),
                ("MESSAGEHUB__LIBP2P__FRESH_PEER_ID", "yes"),
                ("MESSAGEHUB__ACCOUNTS__REGISTRATION", "come in"),
                ("PATH", "/bin"),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .into_iter(),
        );
        let set: Vec<(&str, Value)> =
            set.iter().map(|set| (set.key.as_str(), set.value.clone())).collect();
        assert_eq!(
            set,
            [
                ("listenAddress", json!("127.0.0.1:1")),
                ("element.listenAddress", json!(null)),
                ("libp2p.dht.bootstrapPeers", json!([])),
                ("libp2p.staticRelays", json!(["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.5/tcp/1"])),
                ("libp2p.mdns", json!(false)),
                ("libp2p.relay.maxCircuits", json!(7)),
                ("libp2p.privateNetworkSecret", json!("12345")),
                ("login.localAccounts", json!(["any"])),
                ("libp2p.freshPeerId", json!("yes")),
                ("accounts.registration", json!({"token": "come in"})),
            ]
        );
    }

    #[test]
    fn mistakes_name_the_key_in_one_line() {
        for (json, needle) in [
            (r#"{"listenAdress":"127.0.0.1:80"}"#, "listenAdress"),
            (r#"{"listenAddress":"here"}"#, "listenAddress"),
            (r#"{"element":{"port":80}}"#, "port"),
            (r#"{"element":{"version":"1.2.3"}}"#, "element.sha256"),
            (r#"{"element":{"url":"nowhere"}}"#, "element.url"),
            (r#"{"libp2p":{"staticRelays":["nowhere"]}}"#, "staticRelays"),
            (r#"{"libp2p":{"blockedPeers":["somebody"]}}"#, "blockedPeers"),
            (r#"{"libp2p":{"privateNetworkSecret":""}}"#, "privateNetworkSecret"),
            (r#"{"libp2p":{"listenAddresses":[]}}"#, "listenAddresses"),
            (r#"{"accounts":{"registration":"yes"}}"#, "accounts.registration"),
            (r#"{"accounts":{"registration":{"token":""}}}"#, "accounts.registration"),
            (r#"{"login":{"localAccounts":["no such account"]}}"#, "login.localAccounts"),
            (r#"{"login":{"localAccounts":["no-such-account"]}}"#, "no-such-account"),
            (r#"{"libp2p":{"relay":{"strangerCircuits":0}}}"#, "strangerCircuits"),
            ("[]", "no JSON object"),
            ("{", "no JSON"),
        ] {
            let error = load(json).unwrap_err().to_string();
            assert!(error.contains(needle), "{json}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
