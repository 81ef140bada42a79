//! The shell of StatusPage: gathers while somebody looks, and reads the counters.

use std::{sync::Arc, time::Instant};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, MessageResult, ResponseFuture,
    WrapFuture as _,
};
use tokio::sync::{Semaphore, watch};

pub use super::gather::StatusPageLinks;
use super::{
    ReadFigures, WatchStatus, Watched, WindowsFull,
    gather::{self, Known},
    history::History,
    view,
};
use crate::{actors::clock::now_ms, config::limits, meters::Meters, metrics::Figures};

/// Owns what the status page shows.
pub struct StatusPageActor {
    links: StatusPageLinks,
    meters: Meters,
    /// What is said of the settings, which do not change while the node runs.
    settings: Vec<view::Setting>,
    history: History,
    shown: watch::Sender<Arc<str>>,
    places: Arc<Semaphore>,
    known: Known,
    /// Whether a look is under way, or comes.
    looks: bool,
}

impl StatusPageActor {
    /// Makes the actor; `settings` are pairs of what is set and how, in words.
    pub fn new(
        links: StatusPageLinks,
        meters: Meters,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            links,
            meters,
            settings: settings.into_iter().map(view::Setting::from).collect(),
            history: History::default(),
            shown: watch::Sender::new(Arc::from("")),
            places: Arc::new(Semaphore::new(limits::STATUS_WINDOWS)),
            known: Known::default(),
            looks: false,
        }
    }

    /// Looks at everything, again and again for as long as anybody is shown it.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.shown.receiver_count() == 0 {
            self.looks = false;
            self.known = Known::default();
            self.shown.send_replace(Arc::from(""));
            return;
        }
        let (links, mut known) = (self.links.clone(), std::mem::take(&mut self.known));
        let looked = Box::pin(async move {
            let look = gather::look(&links, &mut known, Instant::now()).await;
            (look, known)
        });
        ctx.spawn(looked.into_actor(self).map(|(look, known), act, ctx| {
            act.known = known;
            let shown = match look {
                Ok(look) => view::View::of(&look, &act.settings, act.history.newest(), now_ms()),
                Err(why) => view::View::trouble(why),
            };
            match serde_json::to_string(&shown) {
                Ok(json) => {
                    act.shown.send_if_modified(|shown| {
                        let changed = **shown != *json;
                        if changed {
                            *shown = Arc::from(json);
                        }
                        changed
                    });
                }
                Err(error) => log::error!(error:%; "the status page cannot be written"),
            }
            ctx.run_later(limits::STATUS_EVERY, Self::look);
        }));
    }
}

impl Actor for StatusPageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        self.history.read(now_ms(), self.meters.read());
        ctx.run_interval(limits::STATUS_SAMPLE, |act, _| {
            act.history.read(now_ms(), act.meters.read());
        });
    }
}

impl Handler<WatchStatus> for StatusPageActor {
    type Result = MessageResult<WatchStatus>;

    fn handle(&mut self, _: WatchStatus, ctx: &mut Self::Context) -> Self::Result {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return MessageResult(Err(WindowsFull));
        };
        let watched =
            Watched { history: self.history.to_json(), shown: self.shown.subscribe(), place };
        if !std::mem::replace(&mut self.looks, true) {
            self.look(ctx);
        }
        MessageResult(Ok(watched))
    }
}

impl Handler<ReadFigures> for StatusPageActor {
    type Result = ResponseFuture<Result<Box<Figures>, String>>;

    fn handle(&mut self, _: ReadFigures, _: &mut Self::Context) -> Self::Result {
        let figures = gather::figures(self.links.clone(), self.meters.clone());
        Box::pin(async move { figures.await.map(Box::new) })
    }
}
