//! Bytes and rules, without I/O, clock or log: what MessageHub speaks.
//!
//! Time, randomness and keys are arguments everywhere, so each rule can be tested from a table.
//! Formats: `docs/PROTOCOL.md`. Everything Matrix is ruma's; this folder holds what ruma has no
//! notion of (self-certifying server names, `server_keys`, signed requests without HTTPS) and the
//! thin types that carry PDUs through the actors.

pub mod acl;
pub mod annotation;
pub mod behind;
pub mod certificates;
pub mod client_event;
pub mod delegation;
pub mod device_keys;
pub mod edu;
pub mod endpoint;
pub mod error;
pub mod heads;
pub mod json;
pub mod key_bundle;
pub mod media;
pub mod names;
pub mod pdu;
pub mod public_address;
pub mod push_rules;
pub mod relation;
pub mod rendezvous;
pub mod room_key;
pub mod sealed;
pub mod server_keys;
pub mod server_name;
pub mod signed;
pub mod signer;
pub mod state_res;
pub mod stream;
pub mod topic;

pub use error::ProtoError;

#[cfg(test)]
pub(crate) mod first_release;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod fuzz;
