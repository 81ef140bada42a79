//! All that differs from one operating system to another, and nothing else of this program does.
//!
//! | file | what |
//! |---|---|
//! | `folders.rs` | where data are kept unless a person says otherwise |
//! | `files.rs` | files and folders of one account, and what it takes until they are on disk |
//! | `control_socket.rs` | the way from the command line to the running node |
//! | `signals.rs` | how the system says that this process is to end |
//! | `clock.rs` | the time since the machine was started |
//! | `network.rs` | addresses and router of this machine |
//! | `low_ports.rs` | who may listen on port 80 |
//! | `accounts.rs` | which account holds a connection |
//! | `desktop.rs` | whether somebody sits in front of a screen, and their browser |
//! | `service.rs` | what a service manager is told |
//! | `words.rs` | what a person does about a refusal, on this system |
//!
//! Each function stands there once for each system, under one name. Where a system has no counterpart it
//! says so in its documentation, and does what is safe.

pub mod accounts;
pub mod clock;
pub mod control_socket;
pub mod desktop;
pub mod files;
pub mod folders;
pub mod low_ports;
pub mod network;
pub mod service;
pub mod signals;
pub mod words;
