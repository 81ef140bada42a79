//! Real nodes for the tests: processes on loopback, driven through their Matrix API.
//!
//! A node lives in a temporary folder, on a loopback address that belongs to this test process
//! alone, and knows only the nodes that it was told of: no mDNS, no public DHT. It dies with its
//! [`Node`]. Tests wait for conditions ([`eventually`], [`Client::until`]), never for time; every
//! wait ends at [`PATIENCE`] with what it waited for and, on failure, the end of each node's log.

#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

pub(crate) mod client;
pub(crate) mod device;
pub(crate) mod netns;
pub(crate) mod node;
pub(crate) mod scenario;

use std::{
    fmt::Display,
    process::Command,
    time::{Duration, Instant},
};

pub(crate) use client::Client;
pub(crate) use node::Node;

/// Longest wait for anything: far beyond what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition that cannot be awaited.
const PAUSE: Duration = Duration::from_millis(40);

/// A running node and its person's client.
#[derive(Debug)]
pub(crate) struct Home {
    /// The process.
    pub(crate) node: Node,
    /// The client, logged in.
    pub(crate) me: Client,
}

/// Starts `N` nodes that know one another, logged in and connected.
pub(crate) async fn homes<const N: usize>() -> [Home; N] {
    let mut homes: Vec<Home> = Vec::new();
    for _ in 0..N {
        let known: Vec<&Node> = homes.iter().map(|home| &home.node).collect();
        homes.push(home(&known).await);
    }
    for home in &homes {
        for other in &homes {
            if other.me.user_id != home.me.user_id {
                home.node.connected_to(&other.me).await;
            }
        }
    }
    homes.try_into().unwrap()
}

/// Starts one node that knows `known`, and logs in.
pub(crate) async fn home(known: &[&Node]) -> Home {
    let node = Node::start(known).await;
    let me = node.log_in().await;
    Home { node, me }
}

/// Looks again and again until there is something; panics with `what` when patience ends.
pub(crate) async fn eventually<T>(
    what: impl Display,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says aloud that a test did not run, and why. With `MESSAGEHUB_TEST_ALL` set, as in CI, that is
/// a failure.
pub(crate) fn skip(why: impl Display) {
    assert!(std::env::var_os("MESSAGEHUB_TEST_ALL").is_none(), "this must run here, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// Tells why no network namespaces can be made here, or which of the tools is not there.
pub(crate) fn namespaces_missing(tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        let how = "sudo -E env PATH=\"$PATH\" ./tests/run";
        return Some(format!("network namespaces need root: {how}"));
    }
    let missing = tools.iter().find(|tool| Command::new(tool).arg("-V").output().is_err());
    if let Some(tool) = missing {
        return Some(format!("{tool} is not installed"));
    }
    let made = Command::new("unshare").args(["--net", "true"]).status();
    if !made.is_ok_and(|status| status.success()) {
        return Some("this machine lets root make no network namespaces".to_owned());
    }
    None
}
