//! How an actor shows that it gets on with its work.
//!
//! Whether an actor is there says little: one whose thread waits for ever is there. So the node
//! sends a [`Beat`] through the mailbox of each, and only who answers gets on.

use actix::Message;

/// Asks an actor to answer, which is all it does.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Beat;

/// A part of the node that has not answered a [`Beat`] yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silent {
    /// Which one, as it is called in the log.
    pub part: &'static str,
    /// For how long, in seconds.
    pub seconds: u32,
}

/// Asks which parts of the node are [`Silent`].
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Vec<Silent>")]
pub struct ReadSilent;
