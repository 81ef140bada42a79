//! What a person does about a refusal, on this system. Pure: the system is an argument.

use std::net::{IpAddr, SocketAddr};

/// A system, as far as its people do things differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Linux, and what is much like it.
    Linux,
    /// macOS.
    Mac,
    /// Windows.
    Windows,
}

impl System {
    /// The one that this was compiled for.
    pub const HERE: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::Mac
    } else {
        Self::Linux
    };

    /// Says what to do where the system refuses an address to this account.
    pub fn port_refused(self, address: SocketAddr, key: &str) -> String {
        let port = address.port();
        match self {
            Self::Linux => format!(
                "set {key} to a port of 1024 or more, or allow low ones: {}",
                self.allow_port(port, "PROGRAM")
            ),
            Self::Mac => {
                format!("set {key} to a port of 1024 or more: macOS keeps lower ones for root")
            }
            // IIS, or what Hyper-V set aside.
            Self::Windows => format!(
                "another program keeps it for itself, or Windows has set it aside: `netstat -ano` and \
                 `netsh interface ipv4 show excludedportrange tcp` tell; end that program, or set \
                 {key} to another port"
            ),
        }
    }

    /// Says how this program is allowed to listen on a low port.
    pub fn allow_port(self, port: u16, program: &str) -> String {
        match self {
            Self::Linux => format!(
                "`sudo setcap cap_net_bind_service=+p {program}` allows it to this program, `sudo sysctl \
                 net.ipv4.ip_unprivileged_port_start={port}` to all"
            ),
            Self::Mac => "macOS keeps those for root".to_owned(),
            Self::Windows => "another program has it, or Windows set it aside".to_owned(),
        }
    }

    /// Says what to do where a port is taken.
    pub fn port_taken(self, address: SocketAddr, key: &str) -> String {
        let port = address.port();
        let find = match self {
            Self::Linux => format!("sudo ss -ltnp 'sport = :{port}'"),
            Self::Mac => format!("sudo lsof -nP -iTCP:{port} -sTCP:LISTEN"),
            Self::Windows => format!("netstat -ano | findstr :{port}"),
        };
        format!(
            "perhaps by another MessageHub (`{find}` tells): stop it, or set {key} to another address"
        )
    }

    /// Says what to do where this machine does not have an address.
    pub fn address_missing(self, address: SocketAddr, key: &str) -> String {
        match (self, address.ip()) {
            (Self::Mac, IpAddr::V4(ip)) if ip.is_loopback() => format!(
                "macOS has no {ip} of its own: `sudo ifconfig lo0 alias {ip}` after each start of the \
                 machine, or set {key} to 127.0.0.1 and a port"
            ),
            _ => format!("set {key} to an address of this machine"),
        }
    }

    /// Says what the files are called that say how names are looked up.
    pub fn names_are_looked_up(self) -> &'static str {
        match self {
            Self::Linux | Self::Mac => {
                "look at /etc/resolv.conf: names of nodes are looked up as it says"
            }
            Self::Windows => "look at `ipconfig /all`: names of nodes are looked up as it says",
        }
    }

    /// Says how a folder is given to the account that needs it.
    pub fn take_folder(self) -> &'static str {
        match self {
            Self::Linux | Self::Mac => "make it yours (chown), or name another folder with --data",
            Self::Windows => {
                "allow yourself to change it (Properties, Security), or name another folder with --data"
            }
        }
    }

    /// Says what tells how full a disk is.
    pub fn look_at_space(self) -> &'static str {
        match self {
            Self::Linux | Self::Mac => "look at it by `df`",
            Self::Windows => "look at it in the Explorer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_its_remedy() {
        let at: SocketAddr = "127.84.48.2:80".parse().unwrap();
        for (system, refused, taken, missing) in [
            (System::Linux, "setcap", "ss -ltnp", "address of this machine"),
            (System::Mac, "1024", "lsof", "sudo ifconfig lo0 alias 127.84.48.2"),
            (System::Windows, "excludedportrange", "netstat -ano", "address of this machine"),
        ] {
            let key = "listenAddress";
            for (said, word) in [
                (system.port_refused(at, key), refused),
                (system.port_taken(at, key), taken),
                (system.address_missing(at, key), missing),
            ] {
                assert!(said.contains(word) && said.contains(key), "{system:?}: {said}");
                assert!(!said.contains('\n'));
            }
        }
        let six = System::Mac.address_missing("[fd00::1]:80".parse().unwrap(), "k");
        assert!(!six.contains("ifconfig"), "{six}");
    }
}
