//! Accounts: our users, with their devices, tokens, profiles and account data.
//!
//! Devices and tokens are kept in memory, since every request asks for them, and written through:
//! what was answered is on disk. Invariants: an access token is kept as its SHA-256 only; a login
//! token works once and for two minutes; a device that was deleted is gone from memory before its
//! deletion is on disk, never the other way round.

mod actor;
mod confirm;
mod credentials;
mod data;
mod fields;
mod household;
mod login;
mod login_tokens;
mod messages;
mod passwords;
mod people;
mod polls;
mod receive;
mod sessions;
mod to_device;
mod tokens;
mod txns;
mod uia;
mod waiting;

pub use actor::{AccountsActor, AccountsLinks};
pub use credentials::*;
pub use login_tokens::LOGIN_TOKEN_MS;
pub use messages::*;
pub use passwords::check_password;
pub use sessions::{Device, LoggedIn, Session};
pub use tokens::{NoSession, TokenHash};
pub use uia::{Matter, Operation, Stage};
