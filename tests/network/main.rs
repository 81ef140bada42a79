//! Real nodes over loopback: who is believed, who is heard, who is found.
//!
//! Nothing here leaves the machine: loopback addresses, port 0, no mDNS, and no bootstrap nodes
//! but each other. Nothing waits for time, only for conditions; except where nothing may happen.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test may panic"
)]

mod carriers;
mod carry;
mod fifty;
mod gossip;
mod identity;
mod people;
mod reach;
mod requests;
mod strangers;
mod world;
