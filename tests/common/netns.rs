//! Machines on a network of their own: network namespaces around one bridge. Needs root.
//!
//! Nothing of it reaches the network of this machine, and all of it is gone with the [`Network`].

use std::{
    path::Path,
    process::{Command, Output},
};

use super::{node, skip};

/// Some machines, each with one address, that all reach one another.
#[derive(Debug)]
pub(crate) struct Network {
    names: Vec<String>,
}

impl Network {
    /// Makes a machine for each of the addresses (with prefix length); none where this cannot be
    /// done here, which it says.
    pub(crate) fn new(addresses: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("network namespaces need root");
            return None;
        }
        let made = Command::new("unshare").args(["--net", "true"]).status();
        if !made.is_ok_and(|status| status.success())
            || Command::new("ip").arg("-V").output().is_err()
        {
            skip("this machine lets root make no network namespaces");
            return None;
        }
        let name = |part: &str| format!("mh-{}-{part}", std::process::id());
        let bridge = name("net");
        let mut network = Self { names: vec![bridge.clone()] };
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for (number, address) in addresses.iter().enumerate() {
            let machine = name(&number.to_string());
            network.names.push(machine.clone());
            let port = format!("port{number}");
            ip(&["netns", "add", &machine]);
            ip(&["-n", &machine, "link", "set", "lo", "up"]);
            ip(&[
                "link", "add", "lan", "netns", &machine, "type", "veth", "peer", "name", &port,
                "netns", &bridge,
            ]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &machine, "addr", "add", address, "dev", "lan"]);
            ip(&["-n", &machine, "link", "set", "lan", "up"]);
            // mDNS: multicast has to know its way out.
            ip(&["-n", &machine, "route", "add", "224.0.0.0/4", "dev", "lan"]);
        }
        Some(network)
    }

    /// Parts two machines, of which these are the addresses: neither finds a way to the other.
    pub(crate) fn part(&self, one: (usize, &str), other: (usize, &str)) {
        for ((machine, _), (_, address)) in [(one, other), (other, one)] {
            ip(&["-n", self.machine(machine), "route", "add", "blackhole", address]);
        }
    }

    /// Returns the name of a machine's namespace.
    pub(crate) fn machine(&self, number: usize) -> &str {
        &self.names[number + 1]
    }

    /// Returns a command that runs a program on a machine.
    pub(crate) fn command(&self, number: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.machine(number)]).arg(program);
        command
    }

    /// Runs `messagehub` on a machine, over the data folder in `folder`, and waits for its end.
    pub(crate) fn run(&self, number: usize, folder: &Path, arguments: &[&str]) -> Output {
        let mut command = self.messagehub(number, folder);
        command.args(arguments).env("RUST_LOG", "error").output().unwrap()
    }

    /// Returns a command for `messagehub` on a machine, with nothing inherited that could
    /// configure it, over the data folder in `folder`.
    pub(crate) fn messagehub(&self, number: usize, folder: &Path) -> Command {
        let mut command = self.command(number, node::binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MESSAGEHUB") {
                command.env_remove(name);
            }
        }
        command.current_dir(folder).env("HOME", folder).arg("--data").arg(folder.join("data"));
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}

/// A process that ends with this.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
