//! MessageHub.
pub mod actors;
pub mod config;
pub mod proto;
