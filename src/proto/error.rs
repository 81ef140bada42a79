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
    /// server_keys that were issued in the future: so many milliseconds from now. Whoever sent them
    /// may be right, and our clock behind.
    #[error("server_keys issued {0} ms in the future")]
    KeysAhead(i64),
    /// Nothing certifies the key that should have signed.
    #[error("no valid server_keys for {0}")]
    MissingServerKeys(String),
    /// A signature does not verify.
    #[error("bad signature: {0}")]
    BadSignature(String),
    /// Signed too long ago (below zero), or in the future: so many milliseconds from now.
    #[error("signed {0} ms away from now, which is more than is allowed")]
    NotFresh(i64),
    /// A seal that does not open.
    #[error("bad seal: {0}")]
    BadSeal(&'static str),
    /// Addressed to somebody else.
    #[error("addressed to {0}")]
    Misaddressed(String),
}

impl ProtoError {
    /// Makes the error for a parser's complaint.
    pub fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}
