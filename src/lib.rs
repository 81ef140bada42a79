//! MessageHub: a Matrix homeserver with no server in the middle.
//!
//! | part | what is there |
//! |---|---|
//! | [`proto`] | bytes and rules, pure: names, keys, PDUs, signed requests, state resolution |
//! | [`actors`] | the actors: each alone owns its state, all talk by typed messages |
//! | [`arguments`] | what the program can be told |
//! | [`http`] | the Client-Server API and Element, as messages to the actors |
//! | [`config`] | configuration, and every limit by name |
//! | [`node`] | the only wiring, and the end of the node |
//! | [`control`] | how the command line speaks to the running node |
//! | [`status`] | what a person is told of a node: the first lines of its log, `messagehub status` |
//! | [`doctor`] | what is wrong with this machine, configuration or network |
//! | [`platform`] | all that differs from one operating system to another |
//! | [`network_secret`] | a secret for a private network |
//! | [`safekeeping`] | backups, and the identity in 24 words |
//! | [`web_client`] | asking web servers: what has to come from one |
//! | [`new_password`] | reads a password from a terminal |
//! | [`web_ask`] | asking web servers that somebody else chose, at addresses that were checked |
//! | [`log_lines`] | how a line of the log is written |
//!
//! ARCHITECTURE.md has the map; docs/walks.md walks a PDU in, a message out, a `/sync` and a join
//! through this tree.

pub mod actors;
pub mod arguments;
pub mod config;
pub mod control;
pub mod data_folder;
pub mod doctor;
pub mod http;
pub mod log_lines;
pub mod meters;
pub mod metrics;
pub mod network_secret;
pub mod new_password;
pub mod node;
pub mod platform;
pub mod proto;
pub mod safekeeping;
pub mod status;
pub mod web_ask;
pub mod web_client;

#[cfg(test)]
mod fuzz;
