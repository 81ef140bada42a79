//! The shell of Pushers: rows, the watch of the Store, the gateways.

use std::{collections::BTreeMap, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Message, MessageResult,
    Recipient, ResponseActFuture, ResponseFuture, SpawnHandle, WrapFuture as _, fut,
};
use ruma::{
    OwnedUserId,
    api::client::push::{Pusher, PusherIds},
};

use super::{
    machine::{Kept, Outcome, Push, body, check, next, outcome, pause_ms},
    messages::*,
};
use crate::{
    actors::{
        accounts::Session,
        clock::{now_ms, uptime_ms},
        error::AskError,
        store::{
            Notifications, ReadNotifications, ReadRow, Row, RowKind, ScanRows, StoreError,
            WatchStream, WriteRows,
        },
    },
    config::{ASK_WAIT, limits},
    web_ask::{WebClient, WebError},
};

/// How long changes gather before they are looked at.
const GATHER: Duration = Duration::from_millis(300);
/// Notifications that are read for one push.
const READ: usize = 8;

/// Whom Pushers talks to.
#[derive(Debug, Clone)]
pub struct PushersLinks {
    /// Store: writes.
    pub write_rows: Recipient<WriteRows>,
    /// Store: whether a device is there.
    pub read_row: Recipient<ReadRow>,
    /// Store: all pushers, at start.
    pub scan_rows: Recipient<ScanRows>,
    /// Store: what notified a user.
    pub notifications: Recipient<ReadNotifications>,
    /// Store: the watch of what changes.
    pub watch: Recipient<WatchStream>,
}

impl PushersLinks {
    async fn write(&self, row: Row, value: Option<Vec<u8>>) -> Result<(), PusherError> {
        let written = self.write_rows.send(WriteRows(vec![(row, value)])).timeout(ASK_WAIT).await;
        written.map_err(AskError::from)??;
        Ok(())
    }

    async fn read(&self, kept: &Kept) -> Result<Notifications, PusherError> {
        let wanted = ReadNotifications {
            user_id: kept.user_id.clone(),
            up_to: None,
            after: kept.pushed,
            only_highlights: false,
            only_unread: true,
            count: true,
            limit: READ,
        };
        let read = self.notifications.send(wanted).timeout(ASK_WAIT).await;
        Ok(read.map_err(AskError::from)??)
    }

    /// Tells whether the device that set a pusher is still there.
    async fn has_device(&self, kept: &Kept) -> Result<bool, PusherError> {
        let row = Row::Device(kept.user_id.clone(), kept.device_id.clone());
        let read = self.read_row.send(ReadRow(row)).timeout(ASK_WAIT).await;
        Ok(read.map_err(AskError::from)??.is_some())
    }
}

/// A pusher by user, app and key.
type Key = (OwnedUserId, String, String);

fn key_of(user_id: &OwnedUserId, ids: &PusherIds) -> Key {
    (user_id.clone(), ids.app_id.clone(), ids.pushkey.clone())
}

fn row_of((user_id, app_id, pushkey): &Key) -> Row {
    Row::Pusher(user_id.clone(), app_id.clone(), pushkey.clone())
}

#[derive(Debug)]
struct State {
    kept: Kept,
    failures: u32,
    /// Not before, in milliseconds of the uptime.
    due: u64,
    busy: bool,
}

impl State {
    fn new(kept: Kept) -> Self {
        Self { kept, failures: 0, due: 0, busy: false }
    }
}

/// What one try did.
#[derive(Debug)]
enum Tried {
    /// There was nothing to push.
    Idle,
    /// The gateway took it: up to which notification, and the number of unread ones.
    Delivered { pushed: u64, badge: u64 },
    /// The pusher is over.
    Gone,
    /// To be tried again.
    Failed,
}

/// What is to be done where a gateway cannot be asked.
fn in_words(error: WebError) -> String {
    match error {
        WebError::Private(_) => {
            format!("{error}; if it is your own gateway, set push.allowPrivateAddresses")
        }
        error => error.to_string(),
    }
}

/// Something may have changed.
#[derive(Message)]
#[rtype(result = "()")]
struct Look;

/// Owns the pushers of our users.
#[derive(Debug)]
pub struct PushersActor {
    links: PushersLinks,
    client: WebClient,
    pushers: BTreeMap<Key, State>,
    planned: Option<SpawnHandle>,
}

impl PushersActor {
    /// Reads what is stored, and starts on the Arbiter that this is called on.
    pub async fn start_loaded(
        links: PushersLinks,
        client: WebClient,
    ) -> Result<Addr<Self>, PusherError> {
        let rows = links.scan_rows.send(ScanRows(RowKind::Pushers)).timeout(ASK_WAIT).await;
        let mut pushers = BTreeMap::new();
        for (row, value) in rows.map_err(AskError::from)?? {
            let Row::Pusher(user_id, app_id, pushkey) = row else { continue };
            let kept = serde_json::from_slice(&value)
                .map_err(|_| StoreError::Corrupt { what: "pusher" })?;
            pushers.insert((user_id, app_id, pushkey), State::new(kept));
        }
        Ok(Self { links, client, pushers, planned: None }.start())
    }

    /// Begins what is due, as much as may be in work at once.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = uptime_ms();
        let busy = self.pushers.values().filter(|state| state.busy).count();
        let due = self.pushers.iter_mut().filter(|(_, state)| !state.busy && state.due <= now);
        let begun = due.take(limits::PUSHES_AT_ONCE.saturating_sub(busy)).map(|(key, state)| {
            state.busy = true;
            (key.clone(), state.kept.clone(), state.failures)
        });
        let begun: Vec<_> = begun.collect();
        for (key, kept, failures) in begun {
            let (links, client) = (self.links.clone(), self.client.clone());
            let tried = async move { attempt(&links, &client, kept, failures).await };
            ctx.spawn(
                tried.into_actor(self).map(move |tried, act, ctx| act.tried(&key, tried, ctx)),
            );
        }
        self.plan(ctx);
    }

    /// Looks again when the next one is due.
    fn plan(&mut self, ctx: &mut Context<Self>) {
        if let Some(planned) = self.planned.take() {
            ctx.cancel_future(planned);
        }
        let now = uptime_ms();
        let waiting = self.pushers.values().filter(|state| !state.busy && state.due > now);
        self.planned = waiting.map(|state| state.due).min().map(|due| {
            ctx.run_later(Duration::from_millis(due.saturating_sub(now)), |act, ctx| {
                act.planned = None;
                act.look(ctx);
            })
        });
    }

    fn tried(&mut self, key: &Key, tried: Tried, ctx: &mut Context<Self>) {
        let Some(state) = self.pushers.get_mut(key) else { return };
        state.busy = false;
        match tried {
            Tried::Idle => {
                state.failures = 0;
                // Whatever changed meanwhile is looked at with the next change.
                return self.plan(ctx);
            }
            Tried::Delivered { pushed, badge } => {
                (state.failures, state.due) = (0, 0);
                // The client may have set it anew meanwhile.
                state.kept.pushed = state.kept.pushed.max(pushed);
                state.kept.badge = badge;
                let (kept, row) = (state.kept.clone(), row_of(key));
                self.write_down(row, Some(&kept), ctx);
            }
            Tried::Gone => {
                self.pushers.remove(key);
                self.write_down(row_of(key), None, ctx);
            }
            Tried::Failed => {
                state.failures = state.failures.saturating_add(1);
                let pause = pause_ms(state.failures, rand::random());
                state.due = uptime_ms().saturating_add(pause);
            }
        }
        self.look(ctx);
    }

    /// Keeps what is in memory on disk as well. Where that fails, something is pushed twice.
    fn write_down(&self, row: Row, kept: Option<&Kept>, ctx: &mut Context<Self>) {
        let value = kept.map(serde_json::to_vec).transpose();
        let links = self.links.clone();
        let written = async move {
            let written = match value {
                Ok(value) => links.write(row, value).await,
                Err(_) => Err(unwritable()),
            };
            if let Err(error) = written {
                log::error!("how far a pusher got is not written down: {error}");
            }
        };
        ctx.spawn(written.into_actor(self));
    }

    fn of_user(&self, user_id: &OwnedUserId) -> impl Iterator<Item = &Kept> {
        let own = self.pushers.iter().filter(move |((user, ..), _)| user == user_id);
        own.map(|(_, state)| &state.kept)
    }
}

/// Pushes what is next, if anything is.
async fn attempt(links: &PushersLinks, client: &WebClient, kept: Kept, failures: u32) -> Tried {
    match try_once(links, client, kept, failures).await {
        Ok(tried) => tried,
        Err(error) => {
            log::error!("what is to be pushed cannot be read: {error}");
            Tried::Failed
        }
    }
}

async fn try_once(
    links: &PushersLinks,
    client: &WebClient,
    kept: Kept,
    failures: u32,
) -> Result<Tried, PusherError> {
    if !links.has_device(&kept).await? {
        return Ok(Tried::Gone);
    }
    let news = links.read(&kept).await?;
    let event = match next(&kept, failures, &news) {
        Push::Nothing => return Ok(Tried::Idle),
        Push::Event(event) => Some(event),
        Push::Badge => None,
    };
    let unread = news.unread.notifications;
    let Some(url) = kept.url() else { return Ok(Tried::Gone) };
    let answer = match client.post(&url, body(&kept, event, unread)).await {
        Ok(answer) => answer,
        Err(why) => {
            if failures == 0 {
                log::warn!("a notification waits: {}", in_words(why));
            }
            return Ok(Tried::Failed);
        }
    };
    match outcome(answer.status, &answer.body, &kept.pusher.ids.pushkey) {
        Outcome::Delivered => {
            let pushed = event.map_or(kept.pushed, |event| event.number);
            Ok(Tried::Delivered { pushed, badge: unread })
        }
        Outcome::Rejected => Ok(Tried::Gone),
        Outcome::Failed => {
            if failures == 0 {
                let (name, status) = (url.host_str().unwrap_or_default(), answer.status);
                log::warn!("a notification waits: {name} answers {status}");
            }
            Ok(Tried::Failed)
        }
    }
}

fn unwritable() -> PusherError {
    PusherError::BadRequest("the pusher cannot be written down".to_owned())
}

impl Actor for PushersActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        let (watch, pushers) = (self.links.watch.clone(), ctx.address().downgrade());
        actix::spawn(async move {
            let Ok(mut stream) = watch.send(WatchStream).await else { return };
            while let Some(pushers) = pushers.upgrade() {
                pushers.do_send(Look);
                drop(pushers);
                tokio::time::sleep(GATHER).await;
                if stream.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Handler<Look> for PushersActor {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Context<Self>) {
        if !self.pushers.is_empty() {
            self.look(ctx);
        }
    }
}

impl Handler<ListPushers> for PushersActor {
    type Result = MessageResult<ListPushers>;

    fn handle(&mut self, msg: ListPushers, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.of_user(&msg.0).map(|kept| kept.pusher.clone()).collect::<Vec<Pusher>>())
    }
}

impl Handler<SetPusher> for PushersActor {
    type Result = ResponseActFuture<Self, Result<(), PusherError>>;

    fn handle(&mut self, msg: SetPusher, _: &mut Context<Self>) -> Self::Result {
        let SetPusher { session: Session { user_id, device_id }, pusher, append } = msg;
        let key = key_of(&user_id, &pusher.ids);
        let set_ts = now_ms() / 1000;
        let mut kept =
            Kept { pusher: *pusher, user_id, device_id, set_ts, pushed: u64::MAX, badge: 0 };
        let checked = check(&kept)
            .and_then(|url| self.client.check(&url).map_err(in_words))
            .map_err(PusherError::BadRequest);
        let most = limits::PUSHERS;
        let is_full =
            !self.pushers.contains_key(&key) && self.of_user(&kept.user_id).count() >= most;
        let checked = checked.and(if is_full { Err(PusherError::TooMany(most)) } else { Ok(()) });
        if let Err(error) = checked {
            return Box::pin(fut::ready(Err(error)));
        }
        // Who takes over a device takes its key over, unless both are told of.
        let is_same =
            |other: &&Key| !append && *other != &key && other.1 == key.1 && other.2 == key.2;
        let others: Vec<Key> = self.pushers.keys().filter(is_same).cloned().collect();
        let links = self.links.clone();
        let read = async move {
            // What was before is no news.
            kept.pushed = 0;
            let news = links.read(&kept).await?;
            (kept.pushed, kept.badge) = (news.newest, news.unread.notifications);
            let value = serde_json::to_vec(&kept).map_err(|_| unwritable())?;
            Ok((key, kept, others, value))
        };
        Box::pin(read.into_actor(self).then(|read: Result<_, PusherError>, act: &mut Self, _| {
            // In memory first: whoever writes down how far the older one got writes before this.
            let links = act.links.clone();
            let rows = read.map(|(key, kept, others, value)| {
                let mut rows = vec![(row_of(&key), Some(value))];
                rows.extend(others.iter().map(|other| (row_of(other), None)));
                act.pushers.insert(key, State::new(kept));
                act.pushers.retain(|key, _| !others.contains(key));
                rows
            });
            async move {
                for (row, value) in rows? {
                    links.write(row, value).await?;
                }
                Ok(())
            }
            .into_actor(act)
        }))
    }
}

impl Handler<DeletePusher> for PushersActor {
    type Result = ResponseFuture<Result<(), PusherError>>;

    fn handle(&mut self, msg: DeletePusher, _: &mut Context<Self>) -> Self::Result {
        let key = key_of(&msg.user_id, &msg.ids);
        // What is not there is gone, as was asked for.
        if self.pushers.remove(&key).is_none() {
            return Box::pin(async { Ok(()) });
        }
        let links = self.links.clone();
        Box::pin(async move { links.write(row_of(&key), None).await })
    }
}
