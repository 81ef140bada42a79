//! The actors: each alone owns its state, all talk by typed messages only.
//!
//! Asks go down (http → RoomState → Room → RelayRequest → Rendezvous and Gossip → Swarm; Identity
//! and Store serve all); upward there are tells, and a few asks that no handler waits for. `ARCHITECTURE.md`
//! has the map.

pub mod accounts;
pub mod admission;
pub mod beat;
pub mod catch_up;
pub mod clock;
pub mod cpu;
pub mod device_keys;
pub mod down;
pub mod element;
pub mod ephemera;
pub mod error;
pub mod federation;
pub mod gossip;
pub mod http_gateway;
pub mod identity;
pub mod media;
pub mod meeting;
pub mod network;
pub mod outbox;
pub mod previews;
pub mod pushers;
pub mod rate;
pub mod relay_request;
pub mod rendezvous;
pub mod replay;
pub mod room;
pub mod room_directory;
pub mod room_state;
pub mod status_page;
pub mod store;
pub mod swarm;
pub mod turn;
pub mod upward;
