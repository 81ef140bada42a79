//! Ports: free, taken by our own node, or taken by somebody else.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::Finding;
use crate::{
    actors::{element::Work, http_gateway::WebStatus},
    config::{Config, DEFAULT_ELEMENT_LISTEN, DEFAULT_LISTEN, FALLBACK_PORT, is_default_listen},
    platform::{
        network::{no_such_family, take_port_anew},
        words::System,
    },
    status::Status,
};

/// Longest wait for an answer on loopback.
const HTTP_WAIT: Duration = Duration::from_secs(2);
/// Largest answer that is read.
const HTTP_MAX: u64 = 64 * 1024;

/// Looks at the port of the homeserver, and at that of Element.
pub(super) async fn homeserver(config: &Config, node: Option<&Status>) -> Vec<Finding> {
    let server = node.and_then(|node| node.server_name.as_ref()).map(ToString::to_string);
    let is_ours = |answer: Value| match &server {
        Some(name) => answer.get("server_name").is_some_and(|said| said == name.as_str()),
        // Nobody has logged in: it has no name to show, and says so as a homeserver does.
        None => answer.get("errcode").is_some_and(Value::is_string),
    };
    let path = "/_matrix/key/v2/server";
    let (address, default) = (config.listen_address, DEFAULT_LISTEN);
    let port = Port { check: "homeserver", key: "listenAddress", path };
    let mut found = vec![port.look(address, default, node.is_some(), is_ours).await];
    found.extend(exposed(address.or_else(|| default.parse().ok())));
    match config.element.listen_address {
        Some(None) => found.push(Finding::ok("Element", "it is turned off")),
        configured => {
            let port =
                Port { check: "Element", key: "element.listenAddress", path: "/config.json" };
            let is_ours = |answer: Value| {
                answer
                    .pointer("/default_server_config/m.homeserver/base_url")
                    .is_some_and(Value::is_string)
            };
            let address = configured.flatten();
            let default = DEFAULT_ELEMENT_LISTEN;
            found.push(port.look(address, default, node.is_some(), is_ours).await);
        }
    }
    found
}

/// Says what it means to listen where other machines can come.
fn exposed(address: Option<SocketAddr>) -> Option<Finding> {
    let homeserver = address?;
    let web = WebStatus {
        homeserver,
        homeserver_url: String::new(),
        element_url: None,
        element_missing: None,
        element_work: Work::None,
    };
    let advice = "set listenAddress to an address that begins with 127, unless other devices of \
                  yours use this node; and then to one that only they can reach, as in a VPN";
    Some(Finding::warning("homeserver", web.exposure()?, advice))
}

/// A port for HTTP.
struct Port {
    check: &'static str,
    key: &'static str,
    /// What is asked of whoever has the port.
    path: &'static str,
}

impl Port {
    async fn look(
        &self,
        configured: Option<SocketAddr>,
        default: &str,
        node_runs: bool,
        is_ours: impl Fn(Value) -> bool,
    ) -> Finding {
        let Ok(default) = default.parse::<SocketAddr>() else {
            return Finding::not_tested(self.check, "no address", "report this");
        };
        let wanted = configured.unwrap_or(default);
        let mut address = wanted;
        let mut bound = TcpListener::bind(address);
        // As a start does it: only the default gives way.
        if wanted == default
            && bound.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
        {
            address.set_port(FALLBACK_PORT);
            bound = TcpListener::bind(address);
        }
        let error = match bound {
            Ok(_) if !node_runs => {
                let instead = if address == wanted { "" } else { ", in place of port 80" };
                return Finding::ok(self.check, format!("{address} is free{instead}"));
            }
            Ok(_) => {
                return Finding::warning(
                    self.check,
                    format!("the node runs, but not on {address}"),
                    "run the doctor with the configuration and environment of the node, or start \
                     the node anew",
                );
            }
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                if node_runs && ask(address, self.path).await.is_some_and(is_ours) {
                    return Finding::ok(self.check, format!("the node serves on http://{address}"));
                }
                let text = format!("{address} is taken by another program");
                Finding::problem(self.check, text, System::HERE.port_taken(address, self.key))
            }
            io::ErrorKind::PermissionDenied => {
                let text = format!("you may not listen on {address}");
                Finding::problem(self.check, text, System::HERE.port_refused(address, self.key))
            }
            _ => {
                let text = format!("{address}: {error}");
                Finding::problem(self.check, text, System::HERE.address_missing(address, self.key))
            }
        }
    }
}

/// Asks an HTTP server for JSON.
async fn ask(address: SocketAddr, path: &str) -> Option<Value> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(HTTP_MAX).read_to_end(&mut answer).await.ok()?;
        let text = String::from_utf8(answer).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    };
    timeout(HTTP_WAIT, asked).await.ok().flatten()
}

/// A port where other nodes connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listen {
    ip: IpAddr,
    port: u16,
    tcp: bool,
}

impl Listen {
    fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => ip.into(),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        match parts.next()? {
            Protocol::Tcp(port) => Some(Self { ip, port, tcp: true }),
            Protocol::Udp(port) => Some(Self { ip, port, tcp: false }),
            _ => None,
        }
    }

    /// Whether a node that was told to listen here says that it listens there.
    fn covers(&self, other: &Self) -> bool {
        let same_ip = self.ip == other.ip
            || (self.ip.is_unspecified() && self.ip.is_ipv4() == other.ip.is_ipv4());
        let same_port = self.port == other.port || self.port == 0;
        same_ip && same_port && self.tcp == other.tcp
    }

    fn name(&self) -> String {
        let kind = if self.tcp { "TCP" } else { "UDP" };
        format!("{kind} {}", SocketAddr::new(self.ip, self.port))
    }

    /// Takes the port and lets it go again.
    fn try_out(&self) -> io::Result<()> {
        let at = SocketAddr::new(self.ip, self.port);
        let kind = if self.tcp { Type::STREAM } else { Type::DGRAM };
        let socket = Socket::new(Domain::for_address(at), kind, None)?;
        if self.ip.is_ipv6() {
            // Else the port of IPv4 would be taken as well.
            socket.set_only_v6(true)?;
        }
        if self.tcp {
            // Connections that were closed a moment ago do not count.
            take_port_anew(&socket)?;
        }
        socket.bind(&at.into())?;
        if self.tcp {
            socket.listen(1)?;
        }
        Ok(())
    }
}

/// Looks at the ports where other nodes connect.
pub(super) fn libp2p(config: &Config, node: Option<&Status>) -> Vec<Finding> {
    let closed = config.libp2p.private_network_secret.is_some();
    let wanted = config.libp2p.listen_addresses.iter().filter_map(Listen::of);
    let wanted: Vec<Listen> = wanted.filter(|listen| listen.tcp || !closed).collect();
    match node {
        Some(node) => vec![taken(&wanted, node)],
        None => free(&wanted, is_default_listen(&config.libp2p.listen_addresses)),
    }
}

const CHECK: &str = "libp2p ports";

/// The node runs: it says where it listens.
fn taken(wanted: &[Listen], node: &Status) -> Finding {
    let listens: Vec<Listen> =
        node.network.listen_addresses.iter().filter_map(Listen::of).collect();
    if listens.is_empty() {
        let text = "the node does not listen yet";
        return Finding::not_tested(CHECK, text, "log in first: the network begins with that");
    }
    let missing: Vec<&Listen> =
        wanted.iter().filter(|want| !listens.iter().any(|at| want.covers(at))).collect();
    // A machine without IPv6 is no fault of the ports.
    let missing: Vec<String> = missing
        .iter()
        .filter(|want| {
            want.ip.is_ipv4() || !matches!(want.try_out(), Err(error) if is_no_ipv6(&error))
        })
        .map(|want| want.name())
        .collect();
    if missing.is_empty() {
        let names: Vec<String> = wanted.iter().map(Listen::name).collect();
        return Finding::ok(CHECK, format!("the node listens: {}", names.join(", ")));
    }
    let missing = missing.join(", ");
    Finding::warning(
        CHECK,
        format!("the node does not listen on {missing}"),
        "another program had the port when the node started: stop that program and start the node \
         anew, or set libp2p.listenAddresses; until then a port that your router forwards leads \
         nowhere",
    )
}

/// No node runs: what it would find. Of default ports those that are taken are not needed.
fn free(wanted: &[Listen], is_default: bool) -> Vec<Finding> {
    let mut good = Vec::new();
    let mut found = Vec::new();
    for want in wanted {
        match want.try_out() {
            Ok(()) => good.push(want.name()),
            Err(error) if is_no_ipv6(&error) && want.ip.is_ipv6() => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_default => {
                found.push(Finding::warning(
                    CHECK,
                    format!("{} is taken by another program", want.name()),
                    "the node takes another port, to which no router is set up by hand: stop that \
                     program, or set libp2p.listenAddresses to another port",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => found.push(Finding::problem(
                CHECK,
                format!("{} is taken by another program", want.name()),
                "stop that program, or set libp2p.listenAddresses to another port",
            )),
            Err(error) => found.push(Finding::problem(
                CHECK,
                format!("{}: {error}", want.name()),
                "set libp2p.listenAddresses to addresses of this machine",
            )),
        }
    }
    if !good.is_empty() {
        found.push(Finding::ok(CHECK, format!("free: {}", good.join(", "))));
    }
    found
}

fn is_no_ipv6(error: &io::Error) -> bool {
    // What a socket of a kind that the system does not have is refused with has no name in std.
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || no_such_family(error)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::doctor::Level;

    fn listen_of(text: &str) -> Listen {
        Listen::of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_taken_port_is_a_problem_and_a_free_one_is_none() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let wanted = [
            listen_of(&format!("/ip4/127.0.0.1/tcp/{}", tcp_at.port())),
            listen_of(&format!("/ip4/127.0.0.1/udp/{}/quic-v1", udp_at.port())),
        ];
        let found = free(&wanted, true);
        assert!(found.iter().all(|finding| finding.level == Level::Warning), "{found:?}");
        let found = free(&wanted, false);
        assert_eq!(found.len(), 2, "{found:?}");
        for (finding, at) in found.iter().zip([tcp_at, udp_at]) {
            assert_eq!(finding.level, Level::Problem);
            assert!(finding.text.contains(&at.to_string()), "{finding:?}");
        }
        drop((tcp, udp));
        let found = free(&wanted, false);
        assert!(found.iter().all(|finding| finding.level == Level::Ok), "{found:?}");
    }

    #[test]
    fn listening_where_others_come_is_a_warning() {
        let look = |at: &str| exposed(at.parse().ok());
        assert_eq!(look("127.84.48.2:80"), None);
        assert_eq!(look("[::1]:80"), None);
        for at in ["0.0.0.0:8008", "192.168.1.5:80", "[::]:80", "[fd00::1]:80"] {
            let finding = look(at).unwrap();
            assert_eq!(finding.level, Level::Warning);
            assert!(finding.text.contains(at) && finding.text.contains("token"), "{finding:?}");
        }
    }

    #[test]
    fn what_a_node_was_told_and_where_it_listens() {
        let any = listen_of("/ip4/0.0.0.0/tcp/4848");
        assert!(any.covers(&listen_of("/ip4/192.168.1.2/tcp/4848")));
        assert!(!any.covers(&listen_of("/ip4/192.168.1.2/tcp/4849")));
        assert!(!any.covers(&listen_of("/ip4/192.168.1.2/udp/4848/quic-v1")));
        assert!(!any.covers(&listen_of("/ip6/fd00::1/tcp/4848")));
        assert!(listen_of("/ip4/127.0.0.1/tcp/0").covers(&listen_of("/ip4/127.0.0.1/tcp/3")));
    }
}
