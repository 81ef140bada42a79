//! Two homes on one LAN with default settings and mDNS, in network namespaces of their own:
//! runs `tests/netns/two_homes.sh`, which prints how long each step took, and
//! `tests/netns/whole_again.py`, which prints how long it takes after a bad day until everything flows
//! again. Needs root.

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

#[test]
fn after_a_bad_day_everything_flows_both_ways_again() {
    if let Some(why) = namespaces_missing(&["ip", "python3", "nft", "ethtool", "cc"]) {
        return skip(why);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/whole_again.py");
    let status = Command::new("python3").arg(script).arg(binary()).arg("--short").status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
