//! Who holds a connection, from Linux' tables of them (`/proc/net/tcp`).
//!
//! Invariant: who is not told for certain is nobody: a socket that nobody holds any more (the kernel then
//! shows root's number), an account that has no number here (a user namespace shows the same one for all
//! of them).

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::plain;

/// Connections over IPv4 and over IPv6; the latter can be of either kind.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A table changes while it is read, and a row can slip through: it is looked at this often.
const LOOKS: usize = 3;
/// Where the system says which number stands for accounts without one, and what it is by default.
const NO_ACCOUNT: &str = "/proc/sys/kernel/overflowuid";
const NO_ACCOUNT_DEFAULT: u32 = 65534;

/// Finds the account that holds the socket `of`, which is connected to the other one. Blocks.
pub fn find_account(of: SocketAddr, connected_to: SocketAddr) -> io::Result<Option<u32>> {
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::platform::accounts::this_account;

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
            let me = this_account();
            assert_eq!(find_account(ends.0, ends.1).unwrap(), Some(me), "{listen}");
            assert_eq!(find_account(ends.0, plain("127.0.0.9:9".parse().unwrap())).unwrap(), None);
            drop(client);
            assert_eq!(find_account(ends.0, ends.1).unwrap(), None, "nobody holds it any more");
        }
    }
}
