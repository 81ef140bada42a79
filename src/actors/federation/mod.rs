//! Federation: the one door by which other servers reach this one.
//!
//! What comes here was verified by RelayRequest or Gossip. `routes` is the allow-list from method
//! and path to a typed query; each goes as a message to the actor that owns what it asks for.
//! Invariant: nothing here opens a connection, reads a file or calls the client API.

mod actor;
#[cfg(test)]
mod first_release;
mod routes;
mod shares;

pub use actor::{FederationActor, FederationLinks};
