//! Operations on the machine: queued, run one after another, each given what it needs.
//!
//! An operation is a closure that completes or stops with a `Need`; the actor provides the need
//! and runs it again. Its result is handed back once what it changed is durable, so nothing is
//! answered or published before the Store has it.
//!
//! What our user asks for comes first: others can queue up what they like.

use std::collections::VecDeque;

use ruma::RoomVersionId;
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

/// Whose turn an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Our user's: before all others. Runs on a settled room.
    Ours,
    /// That of another server that asks for the state. Runs on a settled room.
    Theirs,
    /// That of events that others said, and of what does not look at the state: many may come
    /// before the room is settled again.
    Events,
}

/// An operation that waits for its turn.
pub(super) struct Queued {
    pub(super) operation: Box<dyn Operation>,
    /// Makes the machine of a room of which nothing is stored.
    pub(super) begin: Option<RoomVersionId>,
    pub(super) turn: Whose,
}

/// What runs next.
pub(super) enum Next {
    /// An operation.
    Run(Queued),
    /// Settle the room first.
    Settle,
    /// There is something to do once the room may be settled.
    Later,
    /// There is nothing to do.
    Nothing,
}

/// The operations that wait for their turn. They are as many as there are permits.
#[derive(Default)]
pub(super) struct Queue {
    ours: VecDeque<Queued>,
    others: VecDeque<Queued>,
}

impl Queue {
    pub(super) fn push(&mut self, queued: Queued) {
        match queued.turn {
            Whose::Ours => self.ours.push_back(queued),
            Whose::Theirs | Whose::Events => self.others.push_back(queued),
        }
    }

    /// Takes out what runs next. `unsettled`: the current state is not that of the newest events.
    /// `due`: it may be resolved again for others; our user waits for nobody's sake.
    pub(super) fn next(&mut self, unsettled: bool, due: bool) -> Next {
        if unsettled && (due || !self.ours.is_empty()) {
            return Next::Settle;
        }
        if let Some(next) = self.ours.pop_front() {
            return Next::Run(next);
        }
        let first = self.others.front().map(|next| next.turn);
        if unsettled && first != Some(Whose::Events) {
            return Next::Later;
        }
        self.others.pop_front().map_or(Next::Nothing, Next::Run)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    impl Operation for Named {
        fn run(&mut self, _: &mut Machine) -> Step {
            Step::Done(None)
        }
        fn fail(self: Box<Self>, _: RoomError) {}
        fn finish(self: Box<Self>) {}
    }

    fn queue(turns: &[Whose]) -> Queue {
        let mut queue = Queue::default();
        for &turn in turns {
            queue.push(Queued { operation: Box::new(Named), begin: None, turn });
        }
        queue
    }

    fn what(next: Next) -> &'static str {
        match next {
            Next::Run(queued) => match queued.turn {
                Whose::Ours => "ours",
                Whose::Theirs => "theirs",
                Whose::Events => "events",
            },
            Next::Settle => "settle",
            Next::Later => "later",
            Next::Nothing => "nothing",
        }
    }

    #[test]
    fn our_user_comes_first_and_a_burst_is_settled_once() {
        use Whose::{Events, Ours, Theirs};
        let mut settled = queue(&[Events, Theirs, Events, Ours]);
        let order: Vec<_> = (0..5).map(|_| what(settled.next(false, false))).collect();
        assert_eq!(order, ["ours", "events", "theirs", "events", "nothing"]);
        for (turns, unsettled, due, expected) in [
            (&[Events, Ours][..], true, false, "settle"),
            (&[Events][..], true, true, "settle"),
            (&[Events][..], true, false, "events"),
            (&[Theirs, Events][..], true, false, "later"),
            (&[][..], true, false, "later"),
            (&[][..], true, true, "settle"),
            (&[][..], false, true, "nothing"),
        ] {
            let next = what(queue(turns).next(unsettled, due));
            assert_eq!(next, expected, "{turns:?} {unsettled} {due}");
        }
    }
}
