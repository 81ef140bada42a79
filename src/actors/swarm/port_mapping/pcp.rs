//! The task that asks the router for ports by PCP, and by NAT-PMP where it knows no PCP.
//!
//! Invariants: one request at a time; a port that was opened is renewed at half of its time and
//! closed when the task is told to end, as far as the router answers in time; where there is no
//! router, or one that does not answer, that is said and asked again rarely.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{
    GATEWAY_PORT, InternetProtocol, MappingFailure, PortMapping, PortMappingOptions,
    PortMappingType, TimeoutConfig, natpmp, pcp,
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::super::MappingProtocol;
use crate::platform::network::{Router, router};

/// How long a router keeps a port open for us: an hour, so that none stays open for long after a
/// crash.
const LIFETIME_SECONDS: u32 = 60 * 60;
/// A request is sent three times within 1.75 s.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// A router that did not open a port is asked again after this.
const RETRY: Duration = Duration::from_secs(15 * 60);
/// A router that did not renew one is asked again after this.
const RETRY_RENEWAL: Duration = Duration::from_secs(30);
/// A renewal comes between this share of the lifetime and half of it, so that the nodes of a LAN
/// do not all come at once.
const EARLIEST_RENEWAL: f64 = 0.4;
/// Longest wait for the router when the node stops.
const CLOSE_WAIT: Duration = Duration::from_millis(800);
/// Ports that are open at once: one for each protocol and address of this machine.
const PORTS_MAX: usize = 16;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Carrier {
    Tcp,
    Udp,
}

/// A port of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Port {
    pub(super) carrier: Carrier,
    pub(super) ip: Ipv4Addr,
    pub(super) port: NonZeroU16,
}

/// What the task is told.
#[derive(Debug)]
pub(super) enum Order {
    Open(Port),
    Close(Port),
}

/// What it tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The router sends to us what comes there.
    Opened(Port, SocketAddrV4, MappingProtocol),
    /// It does so no longer.
    Closed(Port),
    /// It said no, and why.
    Refused(String),
    /// It does not answer by either protocol.
    Silent,
    /// There is no router on the side of this port.
    Elsewhere,
}

/// A port that is to be open.
#[derive(Debug, Default)]
struct Wish {
    due: Option<Instant>,
    mapping: Option<PortMapping>,
    external: Option<SocketAddrV4>,
}

/// Runs until the orders end.
pub(super) async fn run(mut orders: mpsc::Receiver<Order>, told: mpsc::Sender<Told>) {
    let mut task = Task { wishes: HashMap::new(), told };
    loop {
        let due = task.wishes.iter().filter_map(|(port, wish)| Some((wish.due?, *port)));
        let next = due.min_by_key(|(due, _)| *due);
        let wait = async {
            match next {
                Some((due, port)) => {
                    sleep_until(due).await;
                    port
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Open(port)) => task.open(port),
                Some(Order::Close(port)) => task.close(port).await,
                None => break,
            },
            port = wait => task.ask(port).await,
        }
    }
    task.close_all().await;
}

struct Task {
    wishes: HashMap<Port, Wish>,
    told: mpsc::Sender<Told>,
}

impl Task {
    fn open(&mut self, port: Port) {
        if self.wishes.len() < PORTS_MAX {
            self.wishes.entry(port).or_default().due = Some(Instant::now());
        }
    }

    /// Asks the router for a port, or for more time.
    async fn ask(&mut self, port: Port) {
        let Some(wish) = self.wishes.get_mut(&port) else { return };
        let known = wish.mapping.take();
        let renewal = known.is_some();
        match request(port, known).await {
            Asked::Open(mapping, external) => {
                let protocol = match mapping.mapping_type() {
                    PortMappingType::Pcp { .. } => MappingProtocol::Pcp,
                    PortMappingType::NatPmp => MappingProtocol::NatPmp,
                };
                let lifetime = Duration::from_secs(mapping.lifetime().into());
                let share = EARLIEST_RENEWAL + rand::random::<f64>() * (0.5 - EARLIEST_RENEWAL);
                // A router that gives no time at all is not asked all the time.
                wish.due = Some(Instant::now() + lifetime.mul_f64(share).max(RETRY_RENEWAL));
                wish.mapping = Some(*mapping);
                let before = wish.external.replace(external);
                if before != Some(external) {
                    if before.is_some() {
                        self.tell(Told::Closed(port)).await;
                    }
                    self.tell(Told::Opened(port, external, protocol)).await;
                }
            }
            Asked::Elsewhere => {
                wish.due = Some(Instant::now() + RETRY);
                if wish.external.take().is_some() {
                    self.tell(Told::Closed(port)).await;
                } else {
                    self.tell(Told::Elsewhere).await;
                }
            }
            Asked::Denied(denied) => {
                log::debug!(port:?, denied:?; "the router opened no port by PCP or NAT-PMP");
                wish.due = Some(Instant::now() + if renewal { RETRY_RENEWAL } else { RETRY });
                if wish.external.take().is_some() {
                    self.tell(Told::Closed(port)).await;
                } else {
                    self.tell(match denied {
                        Denied::Refused(why) => Told::Refused(why),
                        Denied::Silent => Told::Silent,
                    })
                    .await;
                }
            }
        }
    }

    async fn tell(&self, told: Told) {
        // Nobody listens any more when the node stops.
        let _ = self.told.send(told).await;
    }

    async fn close(&mut self, port: Port) {
        let Some(wish) = self.wishes.remove(&port) else { return };
        if wish.external.is_some() {
            self.tell(Told::Closed(port)).await;
        }
        if let Some(mapping) = wish.mapping {
            drop_mapping(mapping).await;
        }
    }

    async fn close_all(self) {
        let open = self.wishes.into_values().filter_map(|wish| wish.mapping);
        let end = Instant::now() + CLOSE_WAIT;
        let all = futures::future::join_all(open.map(drop_mapping));
        if timeout_at(end, all).await.is_err() {
            log::debug!("the router did not say that it closed our ports");
        }
    }
}

async fn drop_mapping(mapping: PortMapping) {
    if let Err((error, _)) = mapping.try_drop().await {
        log::debug!(error:%; "the router did not close a port");
    }
}

/// What came of a request.
enum Asked {
    Open(Box<PortMapping>, SocketAddrV4),
    /// The router is not on the side of this address.
    Elsewhere,
    Denied(Denied),
}

/// Why a port is not open.
#[derive(Debug)]
enum Denied {
    /// The router said so.
    Refused(String),
    /// It said nothing.
    Silent,
}

impl From<natpmp::Failure> for Denied {
    fn from(failure: natpmp::Failure) -> Self {
        match failure {
            natpmp::Failure::Socket(_) | natpmp::Failure::Timeout => Self::Silent,
            failure => Self::Refused(failure.to_string()),
        }
    }
}

impl From<MappingFailure> for Denied {
    fn from(failure: MappingFailure) -> Self {
        match failure {
            MappingFailure::NatPmp(failure) => failure.into(),
            MappingFailure::Pcp(pcp::Failure::Socket(_) | pcp::Failure::Timeout) => Self::Silent,
            MappingFailure::Pcp(failure) => Self::Refused(failure.to_string()),
        }
    }
}

async fn request(port: Port, known: Option<PortMapping>) -> Asked {
    let router = match tokio::task::spawn_blocking(router).await {
        Ok(Router::At(router)) => router,
        Ok(Router::None) => return Asked::Elsewhere,
        Ok(Router::Unknown) | Err(_) => return Asked::Denied(Denied::Silent),
    };
    if local_address(router).await != Some(port.ip) {
        return Asked::Elsewhere;
    }
    let mapping = match known {
        Some(mut known) if IpAddr::from(known.gateway()) == IpAddr::from(router) => {
            known.renew().await.map(|()| known).map_err(Denied::from)
        }
        _ => new_mapping(router, port).await,
    };
    let mapping = match mapping {
        Ok(mapping) => mapping,
        Err(denied) => return Asked::Denied(denied),
    };
    let external = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip: IpAddr::V4(ip), .. } => Ok(ip),
        PortMappingType::Pcp { external_ip: IpAddr::V6(ip), .. } => {
            let why = || Denied::Refused(format!("the router is at {ip}"));
            ip.to_ipv4_mapped().ok_or_else(why)
        }
        PortMappingType::NatPmp => {
            natpmp::external_address(router.into(), Some(PATIENCE)).await.map_err(Denied::from)
        }
    };
    match external {
        Ok(ip) => {
            let external = SocketAddrV4::new(ip, mapping.external_port().get());
            Asked::Open(Box::new(mapping), external)
        }
        Err(denied) => {
            drop_mapping(mapping).await;
            Asked::Denied(denied)
        }
    }
}

async fn new_mapping(router: Ipv4Addr, port: Port) -> Result<PortMapping, Denied> {
    let protocol = match port.carrier {
        Carrier::Tcp => InternetProtocol::Tcp,
        Carrier::Udp => InternetProtocol::Udp,
    };
    let options = PortMappingOptions {
        // The same port outside: who knows our address may guess it.
        external_port: Some(port.port),
        lifetime_seconds: Some(LIFETIME_SECONDS),
        timeout_config: Some(PATIENCE),
    };
    let first = PortMapping::new(router.into(), port.ip.into(), protocol, port.port, options).await;
    match first {
        Ok(mapping) => Ok(mapping),
        // Old routers do not answer what they do not know.
        Err(first) => natpmp::port_mapping(router.into(), protocol, port.port, options)
            .await
            .map_err(|second| match (Denied::from(first), Denied::from(second)) {
                // What it knows, it answers; its word counts.
                (Denied::Refused(why), Denied::Silent) => Denied::Refused(why),
                (_, second) => second,
            }),
    }
}

/// Returns the address that this machine has towards the router; nothing is sent.
async fn local_address(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket.connect((router, GATEWAY_PORT)).await.ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
