//! HttpGateway: binds, runs and stops the http servers.
//!
//! Binding comes first and apart from running, so that a node that cannot listen says so before it
//! starts anything.

mod actor;
mod bind;

pub use actor::{Drain, HttpGatewayActor, start};
pub use bind::{BindError, Bound, WebPlaces, WebStatus, bind};
