//! The actors: each alone owns its state, all talk by messages only.

pub mod admission;
pub mod clock;
pub mod cpu;
pub mod ephemera;
pub mod error;
pub mod gossip;
pub mod identity;
pub mod network;
pub mod relay_request;
pub mod rendezvous;
pub mod replay;
pub mod room;
pub mod room_state;
pub mod store;
pub mod swarm;
