//! What DeviceKeys is asked and told.

use std::{collections::BTreeMap, time::Duration};

use actix::Message;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::value::RawValue;

use crate::{
    actors::{error::AskError, store::StoreError},
    proto::ProtoError,
};

/// Why DeviceKeys refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// A signature is wrong, or not there.
    #[error("bad signature: {0}")]
    BadSignature(String),
    /// It replaces cross-signing keys, for which an access token is not enough.
    #[error("cross-signing keys are there already: to replace them needs a second proof")]
    NeedsAuth,
    /// Not for who asks.
    #[error("{0}")]
    Forbidden(&'static str),
    /// What was asked for is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The backup is not the newest one.
    #[error("the newest backup is version {0}")]
    WrongBackupVersion(String),
    /// There is no place for it.
    #[error("too many {0}")]
    Full(&'static str),
    /// It is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl From<ProtoError> for KeyError {
    fn from(error: ProtoError) -> Self {
        match error {
            ProtoError::BadSignature(why) => Self::BadSignature(why),
            ProtoError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            _ => Self::BadRequest(error.to_string()),
        }
    }
}

// ---------------------------------------------------------------- from http: keys

/// Takes keys of a device; answered with how many one-time keys of each algorithm wait.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeMap<String, u64>, KeyError>")]
pub struct UploadKeys {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The device that uploads.
    pub device_id: String,
    /// Its name.
    pub display_name: Option<String>,
    /// Its keys.
    pub device_keys: Option<CanonicalJsonObject>,
    /// One-time keys by id.
    pub one_time_keys: BTreeMap<String, CanonicalJsonValue>,
    /// Fallback keys by id.
    pub fallback_keys: BTreeMap<String, CanonicalJsonValue>,
}

/// Asks for the keys of users, ours and others.
#[derive(Message, Debug)]
#[rtype(result = "Result<FoundKeys, KeyError>")]
pub struct QueryKeys {
    /// Our user who asks.
    pub by: OwnedUserId,
    /// Whose, and which devices; without any, all.
    pub device_keys: BTreeMap<OwnedUserId, Vec<String>>,
    /// How long to wait for other servers.
    pub timeout: Duration,
}

/// The keys of users.
#[derive(Debug, Clone, Default)]
pub struct FoundKeys {
    /// Those of devices, by user and device.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<String, CanonicalJsonObject>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    /// The user-signing key of who asks.
    pub user_signing_keys: BTreeMap<OwnedUserId, CanonicalJsonObject>,
    /// Servers that could not be asked, and why.
    pub failures: BTreeMap<OwnedServerName, String>,
}

/// One-time keys by user, device and id.
pub type OneTimeKeys =
    BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, CanonicalJsonValue>>>;

/// The algorithms of the one-time keys that are claimed, by user and device.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

/// Claims one-time keys of devices of users, ours and others.
#[derive(Message, Debug)]
#[rtype(result = "Result<ClaimedKeys, KeyError>")]
pub struct ClaimKeys {
    /// Our user who asks.
    pub by: OwnedUserId,
    /// Of which devices, and which algorithm.
    pub one_time_keys: Claims,
    /// How long to wait for other servers.
    pub timeout: Duration,
}

/// Keys that were claimed.
#[derive(Debug, Clone, Default)]
pub struct ClaimedKeys {
    /// The keys.
    pub one_time_keys: OneTimeKeys,
    /// Servers that could not be asked, and why.
    pub failures: BTreeMap<OwnedServerName, String>,
}

/// Takes cross-signing keys of a user.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<(), KeyError>")]
pub struct UploadSigningKeys {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The master key.
    pub master_key: Option<CanonicalJsonObject>,
    /// The self-signing key.
    pub self_signing_key: Option<CanonicalJsonObject>,
    /// The user-signing key.
    pub user_signing_key: Option<CanonicalJsonObject>,
    /// Whether the user has proven that keys may be replaced.
    pub may_replace: bool,
}

/// Takes what a user signed: objects by their user, and by device id or public key. Answered with what
/// was not taken, and why.
#[derive(Message, Debug)]
#[rtype(result = "Result<BTreeMap<OwnedUserId, BTreeMap<String, KeyError>>, KeyError>")]
pub struct UploadSignatures {
    /// Who signed.
    pub by: OwnedUserId,
    /// What.
    pub signed: BTreeMap<OwnedUserId, BTreeMap<String, CanonicalJsonObject>>,
}

// ---------------------------------------------------------------- from http: backups

/// What is known of a backup.
#[derive(Debug, Clone)]
pub struct BackupInfo {
    /// Its version.
    pub version: String,
    /// Its algorithm.
    pub algorithm: String,
    /// What the algorithm wants kept.
    pub auth_data: Box<RawValue>,
    /// How many room keys.
    pub count: u64,
    /// Another one after each change.
    pub etag: String,
}

/// Begins a new backup, which is the newest from now on; answered with its version.
#[derive(Message, Debug)]
#[rtype(result = "Result<String, KeyError>")]
pub struct CreateBackup {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Its algorithm.
    pub algorithm: String,
    /// What the algorithm wants kept.
    pub auth_data: Box<RawValue>,
}

/// Asks about a backup.
#[derive(Message, Debug)]
#[rtype(result = "Result<BackupInfo, KeyError>")]
pub struct ReadBackup {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which; none: the newest.
    pub version: Option<String>,
}

/// Changes what the algorithm of a backup wants kept.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), KeyError>")]
pub struct UpdateBackup {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub version: String,
    /// Its algorithm, which is the same.
    pub algorithm: String,
    /// What it wants kept.
    pub auth_data: Box<RawValue>,
}

/// Deletes a backup with its keys.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), KeyError>")]
pub struct DeleteBackup {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub version: String,
}

/// Room keys by room and session.
pub type BackedUp = BTreeMap<OwnedRoomId, BTreeMap<String, Box<RawValue>>>;

/// How much is in a backup after a change, and its new tag.
pub type BackupState = (u64, String);

/// Which room keys of a backup.
#[derive(Debug, Clone)]
pub enum BackupScope {
    /// All.
    All,
    /// Those of a room.
    Room(OwnedRoomId),
    /// One.
    Session(OwnedRoomId, String),
}

/// Puts room keys into the newest backup. One that is there already stays where it is the better one.
#[derive(Message, Debug)]
#[rtype(result = "Result<BackupState, KeyError>")]
pub struct BackUp {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Into which.
    pub version: String,
    /// The keys.
    pub keys: BackedUp,
}

/// Reads room keys of a backup.
#[derive(Message, Debug)]
#[rtype(result = "Result<BackedUp, KeyError>")]
pub struct ReadBackedUp {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Of which.
    pub version: String,
    /// Which keys.
    pub scope: BackupScope,
}

/// Deletes room keys of a backup.
#[derive(Message, Debug)]
#[rtype(result = "Result<BackupState, KeyError>")]
pub struct DeleteBackedUp {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Of which.
    pub version: String,
    /// Which keys.
    pub scope: BackupScope,
}

// ---------------------------------------------------------------- from Accounts

/// Forgets the keys of devices that are deleted. Sent before they are gone, so that no key is left of a
/// device that nobody has.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), KeyError>")]
pub struct ForgetDevices {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_ids: Vec<String>,
}

/// A device has another name.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct DeviceRenamed {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: String,
    /// The name.
    pub display_name: Option<String>,
}

// ---------------------------------------------------------------- from Federation and Meeting

/// What another server asks. Answered only where it has to do with each user: is in a room with them,
/// or invited them, or is invited by them.
#[derive(Message, Debug)]
#[rtype(result = "Result<CanonicalJsonValue, KeyError>")]
pub struct ServeKeys {
    /// Who asks.
    pub origin: OwnedServerName,
    /// What for.
    pub query: KeysQuery,
}

/// What another server can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysQuery {
    /// The keys of devices of our users; without any device, of all.
    Keys(BTreeMap<OwnedUserId, Vec<String>>),
    /// One-time keys of devices of our users.
    Claim(Claims),
    /// All devices of a user of ours.
    Devices(OwnedUserId),
    /// The key bundles of users of a server, ours or another one, or of one of them.
    Bundles(OwnedServerName, Option<OwnedUserId>),
}

/// A server says when it signed the newest bundle of its users' keys.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct KeysHeard {
    /// Who says it.
    pub server: OwnedServerName,
    /// When, in milliseconds.
    pub keys_ts: u64,
}

/// Told Meeting when a bundle of the keys of a user of ours was signed, in milliseconds.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct KeysIssued(pub u64);

/// Another server says that the devices or cross-signing keys of a user of its own changed.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct DeviceListChanged {
    /// Who says it.
    pub origin: OwnedServerName,
    /// Whose.
    pub user_id: OwnedUserId,
    /// The number of the list, where it is said.
    pub stream_id: Option<u64>,
}
