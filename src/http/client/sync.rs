//! `/sync`: mark the watches as seen, read, wait. In that order, or a wake-up is lost.

use std::time::Duration;

use actix_web::{HttpRequest, Responder, web};
use ruma::{
    api::client::{
        filter::{EventFormat, FilterDefinition},
        sync::sync_events::v3::{Filter, Request},
    },
    presence::PresenceState,
};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    account_data::check_filter,
    is_lazy, known_presence,
    profile::check_presence,
    render::{Form, Sieve as _},
    sync_body::{Body, Reader, StateAt},
};
use crate::{
    actors::{
        accounts::{ReadFilter, Session, TakeWaitingPlace},
        clock::now_ms,
        ephemera::{EphemeralRows, Presence, ReadEphemera, ReadPresence, WatchEphemera},
        store::{AckToDevice, ReadSync, SyncRows, WatchStream},
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::{Gateway, Place, ask},
        ruma_glue::{Authed, Json},
    },
    meters::Timed,
    proto::stream::SyncToken,
};

/// Timeline events a room where the filter does not say.
const TIMELINE_LIMIT: usize = 10;

/// What ruma's request does not have.
#[derive(Deserialize)]
struct Unstable {
    /// `use_state_after`, as clients that were written before version 1.16 of the specification
    /// call it.
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_state_after: bool,
}

fn state_at(request: &HttpRequest, body: &Request) -> StateAt {
    if body.use_state_after {
        return StateAt::End;
    }
    match web::Query::<Unstable>::from_query(request.query_string()) {
        Ok(unstable) if unstable.use_state_after => StateAt::UnstableEnd,
        _ => StateAt::Begin,
    }
}

/// Answers what changed since the last answer, as soon as anything did.
pub async fn sync(
    request: Authed<Request>,
    place: web::Data<Place>,
    http: HttpRequest,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let state_at = state_at(&http, &body);
    known_presence(&body.set_presence)?;
    let since = body.since.as_deref().map(str::parse::<SyncToken>).transpose()?;
    let filter = read_filter(&gateway, &session, body.filter).await?;
    tell_presence(&gateway, &session, body.set_presence).await?;
    if let Some(since) = since {
        // What came with the last answer has arrived, or it would not be named.
        let Session { user_id, device_id } = session.clone();
        let ack = AckToDevice { user_id, device_id, position: since.to_device };
        gateway.store.ack_to_device.do_send(ack);
    }
    // Those who wait do no work: they must not keep others out.
    drop(permit);
    let asked = body.timeout.unwrap_or_default().min(limits::SYNC_WAIT);
    let at_once = since.is_none() || body.full_state;
    let wait = Wait {
        gateway: &gateway,
        session: &session,
        wanted: || ReadSync {
            state_after: state_at != StateAt::Begin,
            ..wanted(&session, since, body.full_state, &filter)
        },
        ephemeral_since: since.filter(|since| since.boot == gateway.boot).map(|s| s.ephemeral),
        timeout: if at_once { Duration::ZERO } else { asked },
        stopping: place.stopping.clone(),
    };
    let (rows, ephemeral) = wait.run().await?;
    let next_batch = SyncToken {
        position: rows.position,
        to_device: rows.to_device_until.unwrap_or(rows.position),
        ephemeral: ephemeral.position,
        boot: gateway.boot,
    };
    let federation = filter.event_format == EventFormat::Federation;
    let reader = Reader {
        now: now_ms(),
        user_id: &session.user_id,
        device_id: &session.device_id,
        filter: &filter,
        form: Form::new(federation, filter.event_fields.as_deref()),
        state_at,
    };
    let body: Body = reader.body(rows, ephemeral, next_batch);
    Ok(Json(body))
}

/// Says what is read from the Store.
fn wanted(
    session: &Session,
    since: Option<SyncToken>,
    full_state: bool,
    filter: &FilterDefinition,
) -> ReadSync {
    let room = &filter.room;
    let limit = room.timeline.limit.map_or(TIMELINE_LIMIT, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(usize::MAX).min(limits::SYNC_TIMELINE)
    });
    ReadSync {
        device_id: session.device_id.clone(),
        user_id: session.user_id.clone(),
        since: since.map(|since| since.position),
        to_device_since: since.map(|since| since.to_device),
        full_state,
        state_after: false,
        timeline_limit: limit,
        timeline_filter: room.timeline.parts(),
        state_filter: room.state.parts(),
        lazy_load_members: is_lazy(&room.state) || is_lazy(&room.timeline),
        include_leave: room.include_leave,
        rooms: room.rooms.clone(),
        not_rooms: room.not_rooms.clone(),
    }
}

/// Resolves the filter of a request: in line, by id, or none.
async fn read_filter(
    gateway: &Gateway,
    session: &Session,
    filter: Option<Filter>,
) -> Result<FilterDefinition, HttpError> {
    match filter {
        Some(Filter::FilterDefinition(filter)) => {
            check_filter(&filter)?;
            Ok(filter)
        }
        Some(Filter::FilterId(filter_id)) => {
            let read = ReadFilter { user_id: session.user_id.clone(), filter_id };
            let filter = gateway.ask_accounts(read).await??;
            let filter = filter.ok_or_else(|| HttpError::invalid_param("no such filter"))?;
            serde_json::from_str(filter.get()).map_err(HttpError::internal)
        }
        _ => Ok(FilterDefinition::default()),
    }
}

/// A client that syncs is there, unless it says otherwise. What the user says of themselves stays.
async fn tell_presence(
    gateway: &Gateway,
    session: &Session,
    presence: PresenceState,
) -> Result<(), HttpError> {
    check_presence(&presence)?;
    if presence == PresenceState::Offline {
        return Ok(());
    }
    let read = ReadPresence(session.user_id.clone());
    let known = ask(&gateway.ephemera.read_presence, read).await?;
    let online = presence == PresenceState::Online;
    let presence = Presence {
        user_id: session.user_id.clone(),
        presence,
        status_msg: known.and_then(|known| known.status_msg),
        last_active_ago: online.then_some(0),
        currently_active: online,
    };
    // Awaited, so that what is read next has it already and does not take it for news.
    ask(&gateway.ephemera.set_presence, presence).await?;
    Ok(())
}

struct Wait<'a, Wanted> {
    gateway: &'a Gateway,
    session: &'a Session,
    /// What is read, after each wake-up anew.
    wanted: Wanted,
    ephemeral_since: Option<u64>,
    timeout: Duration,
    stopping: watch::Receiver<bool>,
}

impl<Wanted: Fn() -> ReadSync> Wait<'_, Wanted> {
    async fn run(mut self) -> Result<(SyncRows, EphemeralRows), HttpError> {
        let deadline = Instant::now() + self.timeout;
        let mut place = None;
        let mut stream = ask(&self.gateway.store.watch, WatchStream).await?;
        let mut typing = ask(&self.gateway.ephemera.watch, WatchEphemera).await?;
        loop {
            let since = Instant::now();
            stream.borrow_and_update();
            typing.borrow_and_update();
            let rows = ask(&self.gateway.store.read_sync, (self.wanted)()).await??;
            let read = ReadEphemera { since: self.ephemeral_since.unwrap_or(0) };
            let ephemeral = ask(&self.gateway.ephemera.read, read).await?;
            let stopping = *self.stopping.borrow_and_update();
            let news =
                !rows.is_empty() || !ephemeral.typing.is_empty() || !ephemeral.presence.is_empty();
            if news {
                self.gateway.meters.took(Timed::Sync, since.elapsed());
            }
            if news || stopping || Instant::now() >= deadline {
                return Ok((rows, ephemeral));
            }
            // Where one client waits too often at once, the oldest of its requests are answered.
            let place = match &mut place {
                Some(place) => place,
                none => {
                    let wait = TakeWaitingPlace(self.session.clone());
                    none.insert(self.gateway.ask_accounts(wait).await?.0)
                }
            };
            // A watch whose sender is gone never changes again: its branch ends the wait, since
            // the node is stopping.
            let ended = tokio::select! {
                changed = stream.changed() => changed.is_err(),
                changed = typing.changed() => changed.is_err(),
                changed = self.stopping.changed() => changed.is_err(),
                () = sleep_until(deadline) => false,
                _ = place => true,
            };
            if ended {
                return Ok((rows, ephemeral));
            }
        }
    }
}
