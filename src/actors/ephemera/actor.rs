//! The shell of Ephemera: the clock, the timer and the watch.

use std::time::Duration;

use actix::{Actor, AsyncContext as _, Context, Handler, MessageResult, SpawnHandle};
use tokio::sync::watch;

use super::{machine::Machine, messages::*};
use crate::{actors::clock::uptime_ms, config::limits};

/// Owns typing and presence.
#[derive(Debug)]
pub struct EphemeraActor {
    machine: Machine,
    watch: watch::Sender<u64>,
    timer: Option<SpawnHandle>,
}

impl Default for EphemeraActor {
    fn default() -> Self {
        Self { machine: Machine::default(), watch: watch::channel(0).0, timer: None }
    }
}

impl EphemeraActor {
    fn tell(&mut self, changed: bool) {
        if changed {
            self.watch.send_replace(self.machine.position());
        }
    }

    /// Sets the timer for the next one who stops typing without saying so.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = self.machine.next_expiry().map(|at| {
            let wait = Duration::from_millis(at.saturating_sub(uptime_ms()));
            ctx.run_later(wait, |act, ctx| {
                act.timer = None;
                let changed = act.machine.expire(uptime_ms());
                act.tell(changed);
                act.arm(ctx);
            })
        });
    }
}

impl Actor for EphemeraActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
    }
}

impl Handler<Typing> for EphemeraActor {
    type Result = ();

    fn handle(&mut self, msg: Typing, ctx: &mut Context<Self>) {
        let changed = self.machine.typing(msg, uptime_ms());
        self.tell(changed);
        self.arm(ctx);
    }
}

impl Handler<Presence> for EphemeraActor {
    type Result = ();

    fn handle(&mut self, msg: Presence, _: &mut Context<Self>) {
        let changed = self.machine.presence(msg, uptime_ms());
        self.tell(changed);
    }
}

impl Handler<ReadEphemera> for EphemeraActor {
    type Result = EphemeralRows;

    fn handle(&mut self, msg: ReadEphemera, _: &mut Context<Self>) -> EphemeralRows {
        // A flood of messages keeps timers waiting: what has expired is not shown in any case.
        let changed = self.machine.expire(uptime_ms());
        self.tell(changed);
        self.machine.read(msg.since, uptime_ms())
    }
}

impl Handler<ReadPresence> for EphemeraActor {
    type Result = MessageResult<ReadPresence>;

    fn handle(&mut self, msg: ReadPresence, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.machine.read_presence(&msg.0, uptime_ms()))
    }
}

impl Handler<WatchEphemera> for EphemeraActor {
    type Result = MessageResult<WatchEphemera>;

    fn handle(&mut self, _: WatchEphemera, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.watch.subscribe())
    }
}
