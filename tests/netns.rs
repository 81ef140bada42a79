//! Two homes on one LAN with default settings and mDNS, in network namespaces of their own:
//! runs `tests/netns/two_homes.sh`, which prints how long each step took. Needs root.

use std::process::Command;

mod common;

use common::{node::binary, skip};

#[test]
fn two_homes_on_one_lan_find_each_other_and_talk() {
    if !rustix::process::geteuid().is_root() {
        return skip("network namespaces need root: sudo -E env PATH=\"$PATH\" ./tests/run");
    }
    for tool in ["ip", "python3"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return skip(format_args!("{tool} is not installed"));
        }
    }
    let made = Command::new("unshare").args(["--net", "true"]).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("this machine lets root make no network namespaces");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/two_homes.sh");
    let status = Command::new(script).arg(binary()).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
