//! What Pushers is asked.

use actix::Message;
use ruma::{
    OwnedUserId,
    api::client::push::{Pusher, PusherIds},
};

use crate::actors::{accounts::Session, error::AskError, store::StoreError};

/// Sets a pusher for the device that asks.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), PusherError>")]
pub struct SetPusher {
    /// Whose, and which device's.
    pub session: Session,
    /// What a client says of it.
    pub pusher: Box<Pusher>,
    /// Others may have one with this key and app, too.
    pub append: bool,
}

/// Takes a pusher away.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), PusherError>")]
pub struct DeletePusher {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub ids: PusherIds,
}

/// Lists the pushers of a user.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Pusher>")]
pub struct ListPushers(pub OwnedUserId);

/// Why a pusher was not set.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PusherError {
    /// It cannot be what a client says.
    #[error("{0}")]
    BadRequest(String),
    /// There are too many.
    #[error("there are {0} pushers of this user: take one away first")]
    TooMany(usize),
    /// The Store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}
