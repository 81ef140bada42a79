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
    hasty::Hasty,
    zone::Zoned,
};

/// Streams of one TCP connection. Each may fill a window of 256 KiB before anybody reads it, so this
/// bounds what a peer can have us buffer; all our protocols together use far fewer.
const STREAMS_MAX: usize = 256;
/// Streams that a peer opens on one QUIC connection, and what it may send unread on one of them and
/// on all.
const QUIC_STREAMS_MAX: u32 = 256;
const QUIC_STREAM_DATA_MAX: u32 = 4 * 1024 * 1024;
const QUIC_DATA_MAX: u32 = 8 * 1024 * 1024;
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
        .with_quic_config(|mut config| {
            config.max_concurrent_stream_limit = QUIC_STREAMS_MAX;
            config.max_stream_data = QUIC_STREAM_DATA_MAX;
            config.max_connection_data = QUIC_DATA_MAX;
            config
        })
        .with_other_transport(|key| {
            let noise = noise::Config::new(key)?;
            let tcp = tcp_transport().upgrade(Version::V1Lazy).authenticate(noise);
            let tcp = tcp.multiplex(muxer()).map(|(peer, inner), _| (peer, Hasty::new(inner)));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(tcp)
        })
        .map_err(failed)?
        .with_dns()
        .map_err(failed)?
        .with_relay_client(noise::Config::new, muxer)
        .map_err(failed)?
        .with_behaviour(|key, relay| behaviour::build(key, relay, choices))
        .map_err(failed)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE).with_smart_dial())
        .build();
    Ok(swarm)
}

fn tcp_transport() -> Zoned<tcp::tokio::Transport> {
    Zoned(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)))
}

fn muxer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

/// The network of tests that run many nodes in one process: no sockets, everything else as it is.
#[cfg(test)]
pub(super) fn in_memory(key: Keypair, choices: &Choices) -> Result<Swarm<Behaviour>, SwarmError> {
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            let noise = noise::Config::new(key)?;
            let transport = libp2p::core::transport::MemoryTransport::new()
                .upgrade(Version::V1Lazy)
                .authenticate(noise)
                .multiplex(muxer());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(transport)
        })
        .map_err(failed)?
        .with_relay_client(noise::Config::new, muxer)
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
    log::info!("private network; its secret has the fingerprint {}", shared.fingerprint());
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            let noise = noise::Config::new(key)?;
            let transport = PrivateOnly(tcp_transport())
                .and_then(move |socket, _| PnetConfig::new(shared).handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(noise)
                .multiplex(muxer())
                .map(|(peer, inner), _| (peer, Hasty::new(inner)));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(transport)
        })
        .map_err(failed)?
        .with_dns()
        .map_err(failed)?
        .with_relay_client(noise::Config::new, muxer)
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

    /// A transport to which everybody connects.
    struct Busy(Vec<Multiaddr>);

    impl Transport for Busy {
        type Output = ();
        type Error = std::io::Error;
        type ListenerUpgrade = std::future::Ready<std::io::Result<()>>;
        type Dial = std::future::Ready<std::io::Result<()>>;

        fn listen_on(
            &mut self,
            _: ListenerId,
            _: Multiaddr,
        ) -> Result<(), TransportError<Self::Error>> {
            Ok(())
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            true
        }

        fn dial(
            &mut self,
            _: Multiaddr,
            _: DialOpts,
        ) -> Result<Self::Dial, TransportError<Self::Error>> {
            Ok(std::future::ready(Ok(())))
        }

        fn poll(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
            let Some(send_back_addr) = self.0.pop() else { return Poll::Pending };
            Poll::Ready(TransportEvent::Incoming {
                listener_id: ListenerId::next(),
                upgrade: std::future::ready(Ok(())),
                local_addr: "/ip4/10.0.0.1/tcp/1".parse().unwrap(),
                send_back_addr,
            })
        }
    }

    #[test]
    fn attack_15_a_private_network_accepts_no_public_address() {
        let from = ["/ip4/8.8.8.8/tcp/1", "/ip4/10.0.0.2/tcp/1", "/ip6/2001:db8::1/tcp/1"];
        let mut transport = PrivateOnly(Busy(from.map(|at| at.parse().unwrap()).into()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut accepted = Vec::new();
        while let Poll::Ready(TransportEvent::Incoming { send_back_addr, .. }) =
            Pin::new(&mut transport).poll(&mut cx)
        {
            accepted.push(send_back_addr.to_string());
        }
        assert_eq!(accepted, ["/ip4/10.0.0.2/tcp/1"]);
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
