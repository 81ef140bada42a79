//! What can be wrong with bytes from outside, and what that means for them.

/// Why bytes were not accepted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ProtoError {
    /// Not JSON, or not the JSON that the format asks for.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The format.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// Larger than its limit.
    #[error("{what} of {len} bytes is over its limit of {limit}")]
    TooLarge {
        /// The format.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A server name that is not the CID of an Ed25519 key.
    #[error("{0:?} is no server name of this network: {1}")]
    BadServerName(String, &'static str),
    /// The server_keys do not certify what they should.
    #[error("server_keys refused: {0}")]
    BadServerKeys(String),
    /// Nothing certifies the key that should have signed.
    #[error("no valid server_keys for {0}")]
    MissingServerKeys(String),
    /// A signature does not verify.
    #[error("bad signature: {0}")]
    BadSignature(String),
    /// Signed too long ago, or in the future.
    #[error("signed {0} ms away from now, which is more than is allowed")]
    NotFresh(u64),
    /// Addressed to somebody else.
    #[error("addressed to {0}")]
    Misaddressed(String),
    /// The auth rules of the room do not allow it.
    #[error("not allowed: {0}")]
    NotAllowed(String),
}

/// What becomes of an event (Server-Server API, "Checks performed on receipt of a PDU").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Not kept at all.
    Drop,
    /// Kept, but never part of the state, the timeline or the extremities.
    Reject,
    /// Kept and usable as a prev event, but not shown and not an extremity.
    SoftFail,
}

impl ProtoError {
    /// Makes the error for a parser's complaint.
    pub fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    /// What becomes of an event with this fault.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NotAllowed(_) => Disposition::Reject,
            _ => Disposition::Drop,
        }
    }
}
