//! The settings of a node, in plain words. Pure.
//!
//! Invariant: no secret is repeated, neither that of a private network nor the token that lets people
//! register.

use crate::config::{Config, Registration, RelayServe, local_accounts::LocalAccounts};

/// Says what matters of the settings: what each is about, and how it is.
pub fn settings_in_words(config: &Config) -> Vec<(&'static str, String)> {
    let Config { login, accounts, element, media, push, libp2p, .. } = config;
    let mut words = Vec::new();
    words.push((
        "Read from",
        match &config.file {
            Some(file) => file.display().to_string(),
            None => "no config.json: everything is as by default".to_owned(),
        },
    ));
    words.push((
        "Who logs in without a token",
        match &login.local_accounts {
            LocalAccounts::Any => "every account of this computer".to_owned(),
            LocalAccounts::These(these) if these.is_empty() => {
                "the account that runs this node, and nobody else".to_owned()
            }
            LocalAccounts::These(these) => {
                format!("the account that runs this node, and {} more", these.len())
            }
        },
    ));
    let registration = match &accounts.registration {
        Registration::Off => "nobody but you",
        Registration::Open => "whoever reaches this node",
        Registration::Token(_) => "whoever has the token that you set",
    };
    words.push(("Who may register here", registration.to_owned()));
    let element = match (element.listen_address, element.fetch) {
        (Some(None), _) => "not served",
        (_, true) => "served, and fetched from its project where it is missing",
        (_, false) => "served, and never fetched",
    };
    words.push(("Element", element.to_owned()));
    words.push((
        "Pictures and files",
        format!(
            "{} at most, {} each; of others, those that nobody looked at for {} days go",
            size(media.max_bytes),
            size(media.max_upload_bytes),
            media.remote_days
        ),
    ));
    let gateways = match push.allow_private_addresses {
        true => "gateways at home too",
        false => "gateways on the Internet alone",
    };
    words.push(("Push notifications", gateways.to_owned()));
    let network = match libp2p.private_network_secret {
        Some(_) => "a network of your own: only nodes with the same secret",
        None => "everybody who uses MessageHub",
    };
    words.push(("Who can be connected", network.to_owned()));
    let mdns = if libp2p.mdns { "are found by mDNS" } else { "are not looked for (mDNS is off)" };
    words.push(("Nodes on your network", mdns.to_owned()));
    let found = match (config.bootstrap_peers().is_empty(), libp2p.dht.advertise) {
        (_, false) => "you are not advertised: others need your node's address",
        (true, true) => "through nodes that you are connected to (no public DHT)",
        (false, true) => "through the public DHT, by your name and id",
    };
    words.push(("How others find you", found.to_owned()));
    let serve = match libp2p.relay.serve {
        RelayServe::Auto => "for members of your rooms, and a little for strangers",
        RelayServe::Members => "for members of your rooms",
        RelayServe::Always => "for everybody, always",
        RelayServe::Off => "for nobody",
    };
    words.push(("You carry connections", serve.to_owned()));
    words
}

/// Writes bytes in the largest unit of which there is one.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_and_secrets_are_not() {
        let config = serde_json::json!({
            "accounts": {"registration": {"token": "correct horse"}},
            "libp2p": {"privateNetworkSecret": "battery staple 22 characters", "mdns": false},
        });
        let config: Config = serde_json::from_value(config).unwrap();
        let words: Vec<String> = settings_in_words(&config)
            .into_iter()
            .map(|(name, words)| format!("{name}: {words}"))
            .collect();
        let words = words.join("\n");
        assert!(words.contains("the token that you set") && words.contains("same secret"));
        assert!(words.contains("not looked for") && words.contains("20 GiB at most, 1 GiB each"));
        assert!(!words.contains("horse") && !words.contains("staple"), "{words}");
    }
}
