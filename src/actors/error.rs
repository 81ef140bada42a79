//! How asking another actor can fail.

use actix::MailboxError;

/// An actor did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The work budget is used up; try again later.
    #[error("too much work is waiting")]
    Overloaded,
    /// The actor ended before it answered.
    #[error("the actor restarted before it answered")]
    Ended,
    /// No answer within the time that `config.rs` gives.
    #[error("no answer in time")]
    TimedOut,
}

impl From<MailboxError> for AskError {
    fn from(error: MailboxError) -> Self {
        match error {
            MailboxError::Closed => Self::Ended,
            MailboxError::Timeout => Self::TimedOut,
        }
    }
}
