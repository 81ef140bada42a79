//! Two homes on one LAN with default settings and mDNS, in network namespaces of their own:
//! runs `tests/netns/two_homes.sh`, which prints how long each step took. Needs root.

use std::process::Command;

mod common;

use common::{namespaces_missing, node::binary, skip};

#[test]
fn two_homes_on_one_lan_find_each_other_and_talk() {
    if let Some(why) = namespaces_missing(&["ip", "python3"]) {
        return skip(why);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/two_homes.sh");
    let status = Command::new(script).arg(binary()).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
