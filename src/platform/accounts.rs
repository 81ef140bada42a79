//! Which account of this machine holds a connection.
//!
//! Accounts go by number. On Windows they have none: what runs in the same account as this program is
//! [`this_account`], and everything else another one. On macOS and other systems nobody tells: whoever wants to
//! be let in by being there needs a token.

#[cfg(not(target_os = "linux"))]
use std::io;
use std::net::SocketAddr;

#[cfg(target_os = "linux")]
mod tables;

#[cfg(target_os = "linux")]
pub use tables::find_account;

/// Returns the account that this process runs in.
#[cfg(unix)]
pub fn this_account() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns what stands for the account that this process runs in.
#[cfg(windows)]
pub fn this_account() -> u32 {
    0
}

/// What stands for every account but that of this process.
#[cfg(windows)]
const ANOTHER: u32 = u32::MAX;

/// Returns the name of this account, on systems that have no table of all (`/etc/passwd`).
pub fn own_name() -> Option<String> {
    std::env::var("USERNAME").ok().filter(|_| cfg!(windows))
}

/// Finds the account that holds the socket `of`, which is connected to the other one. Blocks.
#[cfg(windows)]
pub fn find_account(of: SocketAddr, connected_to: SocketAddr) -> io::Result<Option<u32>> {
    use netstat2::{AddressFamilyFlags, ProtocolFlags, ProtocolSocketInfo, get_sockets_info};
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
    let all =
        get_sockets_info(AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6, ProtocolFlags::TCP);
    let all = all.map_err(io::Error::other)?;
    let held = all.into_iter().find_map(|socket| match &socket.protocol_socket_info {
        ProtocolSocketInfo::Tcp(tcp) => {
            let here = plain(SocketAddr::new(tcp.local_addr, tcp.local_port));
            let there = plain(SocketAddr::new(tcp.remote_addr, tcp.remote_port));
            let process = socket.associated_pids.first().copied().filter(|process| *process != 0);
            process.filter(|_| here == of && there == connected_to)
        }
        ProtocolSocketInfo::Udp(_) => None,
    });
    let Some(process) = held else { return Ok(None) };
    let (theirs, ours) = (Pid::from_u32(process), Pid::from_u32(std::process::id()));
    let mut system = System::new().map_err(io::Error::other)?;
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[theirs, ours]),
        false,
        ProcessRefreshKind::nothing().with_user(UpdateKind::Always),
    );
    let account = |process| system.process(process).and_then(|process| process.user_id());
    // Of a process of somebody else Windows may tell nothing.
    Ok(match (account(ours), account(theirs)) {
        (None, _) => None,
        (Some(ours), Some(theirs)) if ours == theirs => Some(this_account()),
        (Some(_), _) => Some(ANOTHER),
    })
}

/// Finds the account that holds the socket `of`, which is connected to the other one: nobody tells.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn find_account(_: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes an IPv4 address that goes through an IPv6 socket as what it is.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
