//! DeviceKeys: what devices publish so that others can encrypt for them, and backups of room keys.
//!
//! Of our users it keeps the keys of devices, one-time and fallback keys, cross-signing keys and what
//! they signed of others; of users of other servers what their servers say of their devices. Nothing
//! here can decrypt: keys are public, and backups are encrypted by clients. Invariants:
//!
//! - What was answered is on disk; a one-time key is gone from the disk before it is handed out.
//! - What a user published is changed by that user's own devices alone; what comes of another server is
//!   about its own users, and every signature in it that matters here is checked.
//! - Every change of a user's devices is in the log for `/sync`, in the same write, and other servers
//!   are told; until they are, the list says so on disk.
//! - What a server signs of its users' keys for others to hand on has a date that never goes back, and no one-time
//!   keys in it.
//! - A list of another server's user counts only while a room has been shared since it was asked for.
//!
//! | file | what |
//! |---|---|
//! | `list` | the devices and cross-signing keys of a user; what one signed of others |
//! | `keyring` | one-time and fallback keys of a device |
//! | `claim_shares` | how many one-time keys another server may claim |
//! | `remote` | what other servers say, checked, and what they are told |
//! | `bundles` | which key bundles of others are kept |
//! | `bundle_asks`, `bundle_handlers` | key bundles: signed, fetched, handed on |
//! | `backup` | backups of room keys |
//! | `upload`, `query`, `serve`, `follow` | handlers: our clients upload, ask; other servers ask, tell |

mod actor;
mod backup;
mod backup_handlers;
mod bundle_asks;
mod bundle_handlers;
mod bundles;
mod claim_shares;
mod follow;
mod keyring;
mod list;
mod messages;
mod query;
mod remote;
mod serve;
mod upload;

pub use actor::{DeviceKeysActor, DeviceKeysLinks};
pub use messages::*;
