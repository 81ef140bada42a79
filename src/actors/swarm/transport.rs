//! How bytes travel: TCP and QUIC in the open, or TCP behind a shared key.
//!
//! Invariant: with a private network's key, no connection is made without it, and none to or from
//! an address that is not private.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hkdf::Hkdf;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, Transport,
    core::{
        transport::{DialOpts, ListenerId, TransportError, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    tcp, yamux,
};
use sha2::Sha256;

use super::{
    address,
    behaviour::{self, Behaviour, Choices},
};

/// Connections that nothing uses are closed after this; people who proved an identity are kept.
const IDLE: Duration = Duration::from_secs(60);

/// Why there is no network.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SwarmError {
    /// The libp2p key cannot be read, written or understood.
    #[error("{file}: {why}")]
    KeyFile {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The Swarm cannot be built.
    #[error("the network cannot be started: {0}")]
    Build(String),
}

/// The key of a private network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkKey(pub(super) [u8; 32]);

impl NetworkKey {
    /// Derives the key from the configured secret.
    pub(super) fn derive(secret: &str) -> Self {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(None, secret.as_bytes())
            .expand(b"libp2p", &mut key)
            .unwrap_or_else(|_| unreachable!("32 bytes are within the limit of HKDF"));
        Self(key)
    }
}

impl std::fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

pub(super) fn build(
    key: Keypair,
    network: Option<NetworkKey>,
    choices: &Choices,
) -> Result<Swarm<Behaviour>, SwarmError> {
    match network {
        None => open(key, choices),
        Some(network) => closed(key, network, choices),
    }
}

fn failed(error: impl std::fmt::Display) -> SwarmError {
    SwarmError::Build(error.to_string())
}

fn open(key: Keypair, choices: &Choices) -> Result<Swarm<Behaviour>, SwarmError> {
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(failed)?
        .with_quic()
        .with_dns()
        .map_err(failed)?
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(failed)?
        .with_behaviour(|key, relay| behaviour::build(key, relay, choices))
        .map_err(failed)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE).with_smart_dial())
        .build();
    Ok(swarm)
}

fn closed(
    key: Keypair,
    network: NetworkKey,
    choices: &Choices,
) -> Result<Swarm<Behaviour>, SwarmError> {
    let shared = PreSharedKey::new(network.0);
    log::info!(fingerprint:% = shared.fingerprint(); "private network");
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            let noise = noise::Config::new(key)?;
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
            let transport = PrivateOnly(tcp)
                .and_then(move |socket, _| PnetConfig::new(shared).handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(noise)
                .multiplex(yamux::Config::default());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(transport)
        })
        .map_err(failed)?
        .with_dns()
        .map_err(failed)?
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(failed)?
        .with_behaviour(|key, relay| behaviour::build(key, relay, choices))
        .map_err(failed)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE).with_smart_dial())
        .build();
    Ok(swarm)
}

/// A transport that neither dials nor accepts an address that is not private.
pub(super) struct PrivateOnly<T>(pub(super) T);

impl<T: Transport + Unpin> Transport for PrivateOnly<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !address::is_private(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.0.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        loop {
            match Pin::new(&mut self.0).poll(cx) {
                Poll::Ready(TransportEvent::Incoming { send_back_addr, .. })
                    if !address::is_private(&send_back_addr) => {}
                event => return event,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_protocol_document() {
        let hex: String =
            NetworkKey::derive("secret").0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "2c9a301b9ebcd73f3ed3874c68b098bf121154f6a4b4d9d39217d3d1269e345b");
        let shared = PreSharedKey::new(NetworkKey::derive("secret").0);
        assert_eq!(shared.fingerprint().to_string(), "c9e23816dc6f07a83b649924961ddfd2");
    }

    #[tokio::test]
    async fn a_private_network_dials_no_public_address() {
        let mut transport = PrivateOnly(tcp::tokio::Transport::new(tcp::Config::default()));
        let options = || DialOpts {
            role: libp2p::core::Endpoint::Dialer,
            port_use: libp2p::core::transport::PortUse::Reuse,
        };
        let public = transport.dial("/ip4/8.8.8.8/tcp/1".parse().unwrap(), options());
        assert!(matches!(public, Err(TransportError::MultiaddrNotSupported(_))));
        assert!(transport.dial("/ip4/127.0.0.1/tcp/1".parse().unwrap(), options()).is_ok());
    }
}
