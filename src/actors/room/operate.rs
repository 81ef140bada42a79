//! Operations on the machine: queued, run one after another, each given what it needs.
//!
//! An operation is a closure that completes or stops with a `Need`; the actor provides the need
//! and runs it again. Its result is handed back once what it changed is durable, so nothing is
//! answered or published before the Store has it.

use tokio::sync::oneshot;

use super::{
    machine::{Change, Machine, Need, Stop},
    messages::RoomError,
};
use crate::actors::error::AskError;

/// An operation, whatever it answers.
pub(super) trait Operation: Send {
    /// Runs it, from its begin.
    fn run(&mut self, machine: &mut Machine) -> Step;

    /// Ends it without a result.
    fn fail(self: Box<Self>, error: RoomError);

    /// Hands the result of a completed run back.
    fn finish(self: Box<Self>);
}

/// How a run ended.
pub(super) enum Step {
    /// Provide this and run it again.
    Need(Need),
    /// Store the change, if any, then finish.
    Done(Option<Box<Change>>),
    /// It cannot be done.
    Refused(RoomError),
}

struct Closure<T, F> {
    closure: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, RoomError>>,
}

impl<T, F> Operation for Closure<T, F>
where
    T: Send,
    F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), Stop> + Send,
{
    fn run(&mut self, machine: &mut Machine) -> Step {
        match (self.closure)(machine) {
            Ok((value, change)) => {
                self.value = Some(value);
                Step::Done(change)
            }
            Err(Stop::Need(need)) => Step::Need(need),
            Err(Stop::Refused(error)) => Step::Refused(error),
        }
    }

    fn fail(self: Box<Self>, error: RoomError) {
        let _ = self.reply.send(Err(error));
    }

    fn finish(self: Box<Self>) {
        if let Some(value) = self.value {
            let _ = self.reply.send(Ok(value));
        }
    }
}

/// What comes of an operation.
pub(super) type Outcome<T> = oneshot::Receiver<Result<T, RoomError>>;

/// Makes an operation of a closure, and the promise of its result.
pub(super) fn operation<T, F>(closure: F) -> (Box<dyn Operation>, Outcome<T>)
where
    T: Send + 'static,
    F: FnMut(&mut Machine) -> Result<(T, Option<Box<Change>>), Stop> + Send + 'static,
{
    let (reply, outcome) = oneshot::channel();
    (Box::new(Closure { closure, value: None, reply }), outcome)
}

/// Awaits the result of an operation.
pub(super) async fn outcome<T>(outcome: Outcome<T>) -> Result<T, RoomError> {
    outcome.await.unwrap_or(Err(RoomError::Ask(AskError::Ended)))
}
