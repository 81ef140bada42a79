//! Room: one Matrix room each. Validates PDUs, keeps the event graph and the state, publishes on
//! the room's gossip topic.
//!
//! `machine/` has the rules and does no I/O; the files beside it are the shell: `actor` (queue,
//! needs, effects), `client` (what our user does), `invite` and `leave` (two of these at length), `departure` (how he
//! learns that he was shown out), `reads` (what our user reads), `receive` (PDUs from others), `fetch` (what they miss),
//! `catch_up` (much of it), `whole` (whole copies of spoilt ones), `serve` (what other servers ask),
//! `join`, `edus`, `receipts` (who read how far), `sealing` (what is published, and the keys for it,
//! by the rules of `keys`), `spoilt` (copies of which whole ones are looked for), `asking` (what
//! a request to another server is made of), `worker` (what works for a room in a future).
//!
//! Invariant: nothing is answered or published before it is durable in the Store.

mod actor;
mod asking;
mod catch_up;
mod client;
#[cfg(test)]
mod convergence;
mod departure;
mod edus;
mod fetch;
mod fresh;
mod invite;
mod join;
mod keys;
mod leave;
mod links;
pub(in crate::actors) mod machine;
mod messages;
mod operate;
mod reads;
mod receipts;
mod receive;
mod related;
mod sealing;
mod serve;
mod spoilt;
mod whole;
mod worker;

pub use actor::RoomActor;
pub(super) use asking::{federation, read};
pub(super) use invite::invitee;
pub use keys::Given;
pub(super) use links::ask;
pub use links::{Links, StoreLink};
pub use messages::*;
pub use serve::ExpireInvite;
