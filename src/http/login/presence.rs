//! Who is at the other end of a connection: an account of this machine that may log in, another one,
//! or somebody who cannot be told.
//!
//! On loopback both ends are sockets of this machine, and Linux shows in `/proc/net/tcp` which account
//! each of them belongs to. Nothing that a request says counts. Invariants: who is not told for certain
//! is nobody: an address that is not loopback (also ours: `0.0.0.0` is where containers forward
//! strangers to), a socket that nobody holds any more (the kernel then shows root's number), an account
//! that has no number here (a user namespace shows the same one for all of them).

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use actix_web::{HttpRequest, web};

use crate::config::local_accounts::{LocalAccounts, name_of};

/// Connections over IPv4 and over IPv6; the latter can be of either kind.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A table changes while it is read, and a row can slip through: it is looked at this often.
const LOOKS: usize = 3;
/// Where the system says which number stands for accounts without one, and what it is by default.
const NO_ACCOUNT: &str = "/proc/sys/kernel/overflowuid";
const NO_ACCOUNT_DEFAULT: u32 = 65534;

/// Finds the account that holds the socket `of`, which is connected to the other one.
pub type FindAccount = fn(of: SocketAddr, connected_to: SocketAddr) -> io::Result<Option<u32>>;

/// Who asks for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Visitor {
    /// Somebody at this machine, in an account that may log in.
    Person,
    /// Somebody at this machine, in another account.
    OtherAccount,
    /// Somebody elsewhere, as far as can be told.
    Elsewhere,
}

/// Whom this node takes for its person.
#[derive(Debug, Clone)]
pub struct Persons {
    /// The account whose node this is.
    owner: u32,
    accounts: LocalAccounts,
    find: FindAccount,
    listen: SocketAddr,
}

impl Persons {
    /// Those who run this process, and `others`; at a homeserver that listens at `listen`.
    pub fn at(listen: SocketAddr, others: &LocalAccounts) -> Self {
        let me = rustix::process::geteuid().as_raw();
        let sudo = std::env::var("SUDO_UID").ok();
        let mut these = own_accounts(me, sudo.as_deref());
        let owner = these.last().copied().unwrap_or(me);
        let accounts = match others {
            LocalAccounts::Any => LocalAccounts::Any,
            LocalAccounts::These(others) => {
                these.extend(others);
                LocalAccounts::These(these)
            }
        };
        Self { owner, accounts, find: find_account, listen }
    }

    #[cfg(test)]
    pub(in crate::http) fn for_test(listen: SocketAddr, these: &[u32], find: FindAccount) -> Self {
        let owner = these.first().copied().unwrap_or_default();
        Self { owner, accounts: LocalAccounts::These(these.to_vec()), find, listen }
    }

    /// Tells by presence whether somebody may log in.
    pub(in crate::http) async fn visitor(&self, request: &HttpRequest) -> Visitor {
        let Some(peer) = request.peer_addr().map(plain) else { return Visitor::Elsewhere };
        let listen = plain(self.listen);
        if !(peer.ip().is_loopback() && listen.ip().is_loopback()) {
            return Visitor::Elsewhere;
        }
        let LocalAccounts::These(these) = &self.accounts else { return Visitor::Person };
        let find = self.find;
        let found = web::block(move || find(peer, listen)).await;
        match found {
            Ok(Ok(Some(uid))) if these.contains(&uid) => Visitor::Person,
            Ok(Ok(Some(_))) => Visitor::OtherAccount,
            Ok(Ok(None)) => Visitor::Elsewhere,
            Ok(Err(error)) => {
                log::warn!(error:%; "this system does not tell who connects; logging in needs a token");
                Visitor::Elsewhere
            }
            Err(error) => {
                log::error!(error:%; "cannot look who connects");
                Visitor::Elsewhere
            }
        }
    }

    /// Returns what the account is called whose node this is.
    pub(in crate::http) fn owner(&self) -> String {
        name_of(self.owner)
    }
}

/// Returns the account that runs this process, and, where root does so for somebody by sudo, theirs.
fn own_accounts(me: u32, sudo_uid: Option<&str>) -> Vec<u32> {
    let by_sudo = (me == 0).then(|| sudo_uid?.parse().ok()).flatten();
    std::iter::once(me).chain(by_sudo).collect()
}

/// Finds an account by the kernel's tables. Blocks.
fn find_account(of: SocketAddr, connected_to: SocketAddr) -> io::Result<Option<u32>> {
    let no_account = std::fs::read_to_string(NO_ACCOUNT).ok();
    let no_account = no_account.and_then(|text| text.trim().parse().ok());
    let no_account = no_account.unwrap_or(NO_ACCOUNT_DEFAULT);
    for _ in 0..LOOKS {
        for table in TABLES {
            let table = match File::open(table) {
                Ok(table) => table,
                // A machine without IPv6 has no second table.
                Err(error) if error.kind() == io::ErrorKind::NotFound && table == TABLES[1] => {
                    continue;
                }
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{table}: {error}")));
                }
            };
            for line in BufReader::new(table).lines() {
                let Some(row) = Row::read(&line?) else { continue };
                if row.socket == of && row.connected_to == connected_to && row.is_held {
                    return Ok(Some(row.uid).filter(|uid| *uid != no_account));
                }
            }
        }
    }
    Ok(None)
}

/// A row of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    socket: SocketAddr,
    connected_to: SocketAddr,
    uid: u32,
    /// Whether a process has the socket open.
    is_held: bool,
}

impl Row {
    /// Reads number, socket, other socket, state, queues, timer, retries, uid, timeout, inode, …
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let (socket, connected_to) = (fields.next()?, fields.next()?);
        let (uid, inode) = (fields.nth(4)?, fields.nth(1)?);
        Some(Self {
            socket: address(socket)?,
            connected_to: address(connected_to)?,
            uid: uid.parse().ok()?,
            is_held: inode != "0",
        })
    }
}

/// Reads `0100007F:0050`: words of 32 bits as this machine holds them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(plain(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

/// Writes an IPv4 address that goes through an IPv6 socket as what it is.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn rows_of_the_kernel() {
        let of = |line: &str| Row::read(line);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        if cfg!(target_endian = "little") {
            let row = "  12: 0100007F:D431 0230547F:0050 01 00000000:00000000 00:00000000 00000000 \
                        1000        0 31337 2 0000000000000000 20 4 30 10 -1";
            let expected = Row {
                socket: at("127.0.0.1:54321"),
                connected_to: at("127.84.48.2:80"),
                uid: 1000,
                is_held: true,
            };
            assert_eq!(of(row), Some(expected));
            let mapped = "   0: 0000000000000000FFFF00000100007F:D431 \
                0000000000000000FFFF00000230547F:0050 01 00000000:00000000 00:00000000 00000000  0 \
                0 0 1";
            let row = of(mapped).unwrap();
            assert_eq!(
                (row.socket, row.connected_to),
                (at("127.0.0.1:54321"), at("127.84.48.2:80"))
            );
            assert!(!row.is_held, "a socket without an inode is nobody's, though it says 0");
            let six = of("0: 00000000000000000000000001000000:0001 \
                00000000000000000000000001000000:0002 01 a b c 7 0 9");
            assert_eq!(six.unwrap().socket, at("[::1]:1"));
        }
        for none in ["", "  sl  local_address rem_address   st", "0: x y 01 a b c 7 0 9", "0: 1"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn the_kernel_knows_our_own_sockets() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else {
                eprintln!("SKIPPED: no {listen} here");
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let ends = (plain(peer), plain(server.local_addr().unwrap()));
            let me = rustix::process::geteuid().as_raw();
            assert_eq!(find_account(ends.0, ends.1).unwrap(), Some(me), "{listen}");
            assert_eq!(find_account(ends.0, plain("127.0.0.9:9".parse().unwrap())).unwrap(), None);
            drop(client);
            assert_eq!(find_account(ends.0, ends.1).unwrap(), None, "nobody holds it any more");
        }
    }

    #[test]
    fn who_runs_it_and_whom_root_runs_it_for() {
        assert_eq!(own_accounts(1000, None), [1000]);
        assert_eq!(own_accounts(1000, Some("1001")), [1000], "anybody can set a variable");
        assert_eq!(own_accounts(0, Some("1001")), [0, 1001]);
        assert_eq!(own_accounts(0, Some("ann")), [0]);
    }

    #[actix_web::test]
    async fn only_an_account_on_loopback_that_may_is_the_person() {
        let by_port: FindAccount = |of, _| match of.port() {
            1 => Err(io::ErrorKind::PermissionDenied.into()),
            2 => Ok(None),
            port => Ok(Some(port.into())),
        };
        let at = |listen: &str| Persons::for_test(listen.parse().unwrap(), &[1000], by_port);
        let loopback = "127.84.48.2:80";
        for (listen, peer, expected) in [
            (loopback, "127.0.0.1:1000", Visitor::Person),
            (loopback, "[::ffff:127.0.0.1]:1000", Visitor::Person),
            ("[::1]:80", "[::1]:1000", Visitor::Person),
            (loopback, "127.0.0.1:1001", Visitor::OtherAccount),
            (loopback, "127.0.0.1:1", Visitor::Elsewhere),
            (loopback, "127.0.0.1:2", Visitor::Elsewhere),
            (loopback, "192.168.1.9:1000", Visitor::Elsewhere),
            ("0.0.0.0:80", "127.0.0.1:1000", Visitor::Elsewhere),
            ("192.168.1.5:80", "192.168.1.5:1000", Visitor::Elsewhere),
            ("[::]:80", "[::1]:1000", Visitor::Elsewhere),
        ] {
            let request = TestRequest::get().peer_addr(peer.parse().unwrap()).to_http_request();
            assert_eq!(at(listen).visitor(&request).await, expected, "{peer} at {listen}");
            let any = Persons { accounts: LocalAccounts::Any, ..at(listen) };
            let here = listen != "0.0.0.0:80" && listen != "[::]:80" && !peer.starts_with("192");
            let expected = if here { Visitor::Person } else { Visitor::Elsewhere };
            assert_eq!(any.visitor(&request).await, expected, "any: {peer} at {listen}");
        }
        let unknown = TestRequest::get().to_http_request();
        assert_eq!(at(loopback).visitor(&unknown).await, Visitor::Elsewhere);
    }
}
