//! What Accounts is asked.

use std::{collections::BTreeMap, time::Duration};

use actix::Message;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId,
    push::{Action, NewPushRule, RuleKind, Ruleset},
};
use serde_json::{Value, value::RawValue};
use tokio::sync::oneshot;

use super::sessions::{Device, Session};
use crate::{
    actors::{device_keys::KeyError, error::AskError, identity::IdentityError, store::StoreError},
    config::limits,
    proto::edu::ToDevice,
};

/// Why Accounts refuses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccountError {
    /// The login token is unknown, used up or too old.
    #[error("the login token is wrong, was used, or is older than two minutes")]
    BadLoginToken,
    /// The name or the password is wrong; which of them is told to nobody.
    #[error("the user name or the password is wrong")]
    BadPassword,
    /// The refresh token is unknown, or was used.
    #[error("the refresh token is not valid")]
    BadRefreshToken,
    /// It is not allowed.
    #[error("{0}")]
    Denied(String),
    /// The account ended.
    #[error("this account was deactivated")]
    Deactivated,
    /// A password is too short.
    #[error("a password has {min} characters at least", min = limits::PASSWORD_CHARS)]
    WeakPassword,
    /// Nobody can be called so.
    #[error("{0}")]
    InvalidName(String),
    /// Somebody is called so, or was.
    #[error("this name is taken")]
    NameTaken,
    /// It was tried too often.
    #[error("this was tried too often: try again in {} s", .0.as_secs().saturating_add(1))]
    TooOften(Duration),
    /// What was asked for is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A field of a profile has too long a name.
    #[error("a field has a name of {0} bytes at most")]
    KeyTooLarge(usize),
    /// A profile is too large.
    #[error("a profile has {0} bytes at most")]
    ProfileTooLarge(usize),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// A to-device message is larger than it may be.
    #[error("a to-device message of {0} bytes is too large: {max} are the most", max = limits::TO_DEVICE_LEN)]
    TooLarge(usize),
    /// There is no place for it.
    #[error("too many {0}")]
    Full(&'static str),
    /// The identity could not be made or read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The keys of devices could not be changed.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

// ---------------------------------------------------------------- from http: sessions

/// Asks for a place among the requests of a device that wait.
#[derive(Message, Debug)]
#[rtype(result = "WaitingPlace")]
pub struct TakeWaitingPlace(pub Session);

/// A place among those who wait. When it closes it is lost, and what was asked has to be answered:
/// the device waits too often at once.
#[derive(Debug, actix::dev::MessageResponse)]
pub struct WaitingPlace(pub oneshot::Receiver<()>);

/// Asks for a login token: single use, two minutes. Whoever asks has made sure that the person in
/// front of this node wants it. Sent by the login pages and by the control socket.
#[derive(Message, Debug)]
#[rtype(result = "String")]
pub struct MintLoginToken;

/// Trades a login token for a new one: somebody showed it on a login page, whose client gets the new
/// one. The old one is used up.
#[derive(Message)]
#[rtype(result = "Result<String, AccountError>")]
pub struct RenewLoginToken(pub String);

/// Asks for all devices of a user.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Device>")]
pub struct ListDevices(pub OwnedUserId);

/// Gives a device another name; none keeps the one it has.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct RenameDevice {
    /// Which.
    pub device: Session,
    /// The name.
    pub display_name: Option<String>,
}

/// Deletes devices of a user with their tokens and queued messages. Unknown ones are passed over.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct DeleteDevices {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Their ids; none: all of them.
    pub device_ids: Option<Vec<String>>,
}

// ---------------------------------------------------------------- from http: profile and data

/// What people see of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The shown name.
    pub displayname: Option<String>,
    /// The avatar, `mxc://`.
    pub avatar_url: Option<String>,
    /// Other fields.
    pub fields: BTreeMap<String, Value>,
}

/// A field of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileField {
    /// The shown name.
    Displayname,
    /// The avatar.
    AvatarUrl,
}

/// Asks for the profile of somebody; none of whoever is not one of our users. For http, and for the
/// `query/profile` of other servers.
#[derive(Message, Debug)]
#[rtype(result = "Option<Profile>")]
pub struct LocalProfile(pub OwnedUserId);

/// Changes a profile; rooms and network are told.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct SetProfile {
    /// Whose.
    pub user_id: OwnedUserId,
    /// What.
    pub field: ProfileField,
    /// The new value; none takes it away.
    pub value: Option<String>,
}

/// Sets another field of a profile.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct SetProfileField {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub name: String,
    /// The new value; none takes it away.
    pub value: Option<Value>,
}

/// Stores account data, of a room or global.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct SetAccountData {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The room; none: global.
    pub room_id: Option<OwnedRoomId>,
    /// The event type.
    pub kind: String,
    /// The content.
    pub content: Box<RawValue>,
}

/// Reads account data, of a room or global.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<Box<RawValue>>, AccountError>")]
pub struct ReadAccountData {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The room; none: global.
    pub room_id: Option<OwnedRoomId>,
    /// The event type.
    pub kind: String,
}

/// Sets or removes a tag of a room.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct EditTag {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The tag.
    pub tag: String,
    /// What is known of it, a JSON object; none removes it.
    pub info: Option<Box<RawValue>>,
}

/// Stores a filter and tells its id; the same filter of the same user has the same id.
#[derive(Message, Debug)]
#[rtype(result = "Result<String, AccountError>")]
pub struct SaveFilter {
    /// Whose.
    pub user_id: OwnedUserId,
    /// What clients sent.
    pub filter: Box<RawValue>,
}

/// Reads a filter.
#[derive(Message, Debug)]
#[rtype(result = "Result<Option<Box<RawValue>>, AccountError>")]
pub struct ReadFilter {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub filter_id: String,
}

/// Reads the push rules of a user.
#[derive(Message, Debug)]
#[rtype(result = "Result<Ruleset, AccountError>")]
pub struct ReadPushRules(pub OwnedUserId);

/// Changes the push rules of a user.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct EditPushRules {
    /// Whose.
    pub user_id: OwnedUserId,
    /// How.
    pub edit: PushRuleEdit,
}

/// Changes one push rule.
#[derive(Debug)]
pub enum PushRuleEdit {
    /// Adds or replaces a rule.
    Put {
        /// The rule.
        rule: Box<NewPushRule>,
        /// It comes right after this one.
        after: Option<String>,
        /// It comes right before this one.
        before: Option<String>,
    },
    /// Deletes a rule of the user.
    Delete(RuleKind, String),
    /// Switches a rule on or off.
    Enable(RuleKind, String, bool),
    /// Says what a rule does.
    SetActions(RuleKind, String, Vec<Action>),
}

// ---------------------------------------------------------------- to-device messages

/// For whom a to-device message is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToDeviceTarget {
    /// All devices (`*`).
    All,
    /// One device.
    One(String),
}

/// Queues to-device messages of one of our users for devices of our users. The same transaction of
/// the same device is handled once.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct SendToDevice {
    /// The device that sends.
    pub from: Session,
    /// Its transaction.
    pub txn_id: String,
    /// The event type.
    pub kind: String,
    /// The contents, by user.
    pub messages: BTreeMap<OwnedUserId, ToDevices>,
}

/// The contents of to-device messages for one user.
pub type ToDevices = BTreeMap<ToDeviceTarget, Box<RawValue>>;

/// Queues to-device messages that another server sent (`m.direct_to_device`), in their order. Sent by
/// Federation once the request is verified. Each message is handled once, by its sender and id; those of
/// users of other servers are passed over.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), AccountError>")]
pub struct ReceiveToDevice {
    /// Who signed them.
    pub origin: OwnedServerName,
    /// What they are.
    pub messages: Vec<ToDevice>,
}
