//! The NAT lab: real nodes behind real NAT rules, in network namespaces. Runs cases of
//! `tests/nat/run`, which prints how the nodes were connected and how fast; all cases, and the table
//! of `docs/nat-table.md`, come from that command. Needs root, nftables, conntrack and miniupnpd.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::process::Command;

mod common;

use common::{namespaces_missing, node::binary, skip};

/// Runs one case of the lab.
fn case(case: &str) {
    let mut tools = vec!["ip", "python3", "nft", "conntrack"];
    if case == "mapped" {
        tools.push("miniupnpd");
    }
    if let Some(why) = namespaces_missing(&tools) {
        return skip(why);
    }
    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nat/run");
    let status = Command::new(lab).arg(binary()).arg(case).status().unwrap();
    assert!(status.success(), "{lab} {case}: {status}");
}

#[test]
fn two_port_restricted_routers_are_punched_through() {
    case("port:port");
}

#[test]
fn a_symmetric_and_a_port_restricted_router_leave_the_relay() {
    case("sym:port");
}

#[test]
fn a_symmetric_listener_dials_back_to_a_full_cone() {
    case("full:sym");
}

#[test]
fn a_router_that_changes_the_port_is_punched_through() {
    case("remap:port");
}

#[test]
fn without_udp_there_is_tcp() {
    case("udpblock:port");
}

#[test]
fn two_routers_in_a_row_are_punched_through() {
    case("double:port");
}

#[test]
fn who_loses_the_direct_path_goes_on_by_the_relay() {
    case("port:port:parted");
}

#[test]
fn a_router_that_is_asked_opens_its_ports() {
    case("mapped");
}

#[test]
fn two_homes_with_ipv6_are_punched_through_its_firewalls() {
    case("dual:dual");
}

#[test]
fn a_home_with_ipv6_alone_meets_one_that_has_both() {
    case("six:dual");
}

#[test]
fn a_relay_is_found_in_the_dht_and_a_hole_is_punched_by_it() {
    case("dht:port:port");
}

#[test]
fn a_relay_that_is_found_in_the_dht_carries_a_little() {
    case("dht:sym:port");
}

#[test]
fn the_node_of_a_room_mate_carries_members_and_no_strangers() {
    case("member:sym:port");
}

#[test]
fn a_port_that_is_forwarded_later_is_noticed() {
    case("forwarded");
}

#[test]
fn what_was_said_during_a_cut_is_heard_after_it() {
    case("cut:15");
}
