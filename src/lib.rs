//! MessageHub.
pub mod actors;
pub mod config;
pub mod http;
pub mod proto;
