//! What Identity is asked.

use std::{collections::HashMap, sync::Arc};

use actix::Message;
use ruma::OwnedServerName;

use crate::{
    actors::{error::AskError, store::StoreError},
    proto::{certificates::Certificates, server_keys::VerifiedServerKeys, signer::Signer},
};

/// Why there is no identity.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// A key file cannot be read, written or understood.
    #[error("{file}: {why}")]
    KeyFile {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Store did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Asks for the signer; makes the identity if this is the first login ever, which starts the
/// network too.
#[derive(Message, Debug)]
#[rtype(result = "Result<Arc<Signer>, IdentityError>")]
pub struct EnsureIdentity;

/// Asks for the signer, if there is an identity.
#[derive(Message, Debug)]
#[rtype(result = "Option<Arc<Signer>>")]
pub struct ReadSigner;

/// Asks for the server_keys of some servers, the newest of each of their verify keys; servers of which
/// none are known are left out.
#[derive(Message, Debug)]
#[rtype(result = "HashMap<OwnedServerName, Certificates>")]
pub struct FindServerKeys(pub Vec<OwnedServerName>);

/// server_keys that a room needs: they certify events of it, or an invite to it. They are kept on disk,
/// and so are those of all verify keys of the same server from then on; those of whoever else comes along stay in
/// memory, for as long as there is a place.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct KeepKeys(pub VerifiedServerKeys);

/// Told each time a signer is issued: at the first login, at each start and at each rotation.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct SignerIssued(pub Arc<Signer>);

/// Sets who is told of new signers. Sent once by `node.rs`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SubscribeSigner(pub actix::Recipient<SignerIssued>);

/// Told when newer server_keys of this very server turn up that this node did not issue: a copy of
/// its data folder runs elsewhere, and from now on others listen to that one. Two such nodes would
/// take each other's messages for ever, so this one ends, and the newer one goes on.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct UsedElsewhere {
    /// Whose keys.
    pub server_name: OwnedServerName,
    /// The libp2p nodes that the others' server_keys name.
    pub peer_ids: Vec<String>,
}

impl std::fmt::Display for UsedElsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server_name, peer_ids } = self;
        write!(
            f,
            "a copy of this data folder was started elsewhere and is {server_name} now \
             (PeerId {}); two of them would lose messages, so this one ends. Keep one of them: stop \
             the other and delete its data folder, then start this one again, or leave this one off",
            peer_ids.join(", ")
        )
    }
}

/// server_keys that came with something verified. Sent to Identity, which keeps the newest.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct KeysSeen(pub VerifiedServerKeys);

/// Sets the signer; again whenever server_keys were issued anew. The first one starts the rooms.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct UseSigner(pub Arc<Signer>);
