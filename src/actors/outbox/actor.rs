//! The shell of the Outbox: asks the Store, sends what is due, and keeps what became of it.

use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Recipient,
    ResponseActFuture, WrapFuture as _,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt as _;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName,
    RoomVersionId,
};
use sha2::{Digest as _, Sha256};

use super::{
    Debt, End, Ended, Form, Matter,
    kept::{self, Kept, Read},
    machine::{Change, Full, Machine, New, Outcome, Send, Shape, Undecided},
    messages::{
        CountOwed, Decided, EventsSpread, InviteRefused, LeaveThrough, OutboxError, OutboxStatus,
        Owe, OwedCount, ReadOutbox, ServerReached, TellRooms,
    },
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        error::AskError,
        identity::{FindServerKeys, ReadSigner},
        store::{
            LoadEvents, Lookup, Place, ReadRow, Row, RowKind, ScanRows, StoreError, WriteRows,
        },
        upward::{FederationError, SendFederation, ServerOnline},
    },
    config::{ASK_WAIT, limits},
    proto::{certificates::text_for, endpoint::Endpoint, pdu::with_server_keys, signer::Signer},
};

/// How often it is looked who is to be tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked what is too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Whom the Outbox talks to.
#[derive(Debug, Clone)]
pub struct OutboxLinks {
    /// Store.
    pub write_rows: Recipient<WriteRows>,
    /// Store.
    pub read_row: Recipient<ReadRow>,
    /// Store.
    pub scan_rows: Recipient<ScanRows>,
    /// Store: whether an event came to be.
    pub load_events: Recipient<LoadEvents>,
    /// Identity: who we are.
    pub signer: Recipient<ReadSigner>,
    /// Identity: what certifies events of ours.
    pub find_keys: Recipient<FindServerKeys>,
    /// RelayRequest.
    pub federation: Recipient<SendFederation>,
}

/// Owns what is owed to other servers.
#[derive(Debug)]
pub struct OutboxActor {
    links: OutboxLinks,
    machine: Machine,
    rooms: Option<TellRooms>,
}

/// Rows to be written.
type Rows = Vec<(Row, Option<Vec<u8>>)>;

impl OutboxLinks {
    /// Writes rows; without any, waits until what was written before is on disk.
    async fn write(&self, rows: Rows) -> Result<(), OutboxError> {
        self.write_rows.send(WriteRows(rows)).timeout(ASK_WAIT).await.map_err(AskError::from)??;
        Ok(())
    }

    /// Reads what is to be sent. A row that is gone is left out.
    async fn load(&self, send: &Send) -> Result<Vec<Kept>, OutboxError> {
        let mut items = Vec::new();
        for number in &send.numbers {
            let row = Row::Outbox(send.server.clone(), *number);
            let asked = self.read_row.send(ReadRow(row)).timeout(ASK_WAIT).await;
            let Some(value) = asked.map_err(AskError::from)?? else { continue };
            match kept::read(&send.server, &value) {
                Ok(Read::Waiting(item)) => items.push(item),
                Ok(Read::Ended(_)) => {}
                Err(_) => return Err(StoreError::Corrupt { what: "outbox" }.into()),
            }
        }
        Ok(items)
    }

    /// Sends what is due to one server. What it answers is not looked at: what it has, it has.
    async fn send(&self, send: &Send, rooms: Option<&TellRooms>) -> Outcome {
        let items = match self.load(send).await {
            Ok(items) => items,
            Err(error) => {
                log::error!(server:% = send.server; "what is owed cannot be read: {error}");
                return Outcome::Unreached;
            }
        };
        if let [Kept { matter, form: Form::Leave { version }, .. }] = items.as_slice() {
            return leave(&send.server, matter, version, rooms).await;
        }
        let Some((endpoint, content)) = self.compose(items).await else {
            return Outcome::Unreached;
        };
        let request = SendFederation {
            destination: send.server.clone(),
            endpoint,
            content,
            timeout: limits::FEDERATION_WAIT,
        };
        match self.federation.send(request).await {
            Ok(answer) => outcome(answer.map(drop)),
            Err(_) => Outcome::Unreached,
        }
    }

    /// Makes a request of what is sent together; none as long as nobody is there in whose name.
    async fn compose(&self, items: Vec<Kept>) -> Option<(Endpoint, CanonicalJsonValue)> {
        let signer = self.signer.send(ReadSigner).await.ok().flatten()?;
        let (mut pdus, mut edus, mut ids) = (Vec::new(), Vec::new(), Sha256::new());
        for item in items {
            ids.update(item.request_id.as_bytes());
            match item.form {
                Form::Put { uri, content } => {
                    return Some((Endpoint { method: "PUT", uri }, content));
                }
                Form::Pdu(pdu) => pdus.push(pdu),
                // It is no request of ours.
                Form::Leave { .. } => {}
                Form::Events { room_id, event_ids } => {
                    pdus.extend(self.events(&signer, room_id, event_ids).await?);
                }
                Form::Edu(edu) => edus.push(edu),
            }
        }
        // The same each time that the same is sent.
        let txn = URL_SAFE_NO_PAD.encode(ids.finalize().get(..16).unwrap_or_default());
        let origin_server_ts = ruma::Int::new_saturating(now_ms().cast_signed());
        let transaction: CanonicalJsonObject = [
            ("origin", CanonicalJsonValue::String(signer.server_name().to_string())),
            ("origin_server_ts", CanonicalJsonValue::Integer(origin_server_ts)),
            ("pdus", CanonicalJsonValue::Array(pdus)),
            ("edus", CanonicalJsonValue::Array(edus)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        Some((Endpoint::send(txn), CanonicalJsonValue::Object(transaction)))
    }

    /// Reads events of ours, as they go on the wire.
    async fn events(
        &self,
        signer: &Signer,
        room_id: OwnedRoomId,
        event_ids: Vec<OwnedEventId>,
    ) -> Option<Vec<CanonicalJsonValue>> {
        let load = LoadEvents { room_id, event_ids };
        let found = self.load_events.send(load).timeout(ASK_WAIT).await.ok()?.ok()?;
        let server = signer.server_name();
        let find = FindServerKeys(vec![server.to_owned()]);
        let known = self.find_keys.send(find).timeout(ASK_WAIT).await.ok()?;
        let to_wire = |found| {
            let Lookup::Found(event) = found else { return None };
            let keys = text_for(signer, &known, server, &event.json)?;
            serde_json::from_str(with_server_keys(&event.json, keys).get()).ok()
        };
        Some(found.into_iter().filter_map(to_wire).collect())
    }

    /// Tells whether an event is part of its room; none where it cannot be known.
    async fn stands(&self, open: &Undecided) -> Option<bool> {
        let room_id = open.room_id.clone();
        let load = LoadEvents { room_id, event_ids: vec![open.event_id.clone()] };
        let found = self.load_events.send(load).timeout(ASK_WAIT).await.ok()?.ok()?;
        Some(
            found
                .iter()
                .any(|found| matches!(found, Lookup::Found(event) if event.place == Place::Live)),
        )
    }
}

/// Says what an answer means for what was sent.
fn outcome(answer: Result<(), FederationError>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Delivered,
        Err(FederationError::Refused { status: 408, .. }) => Outcome::Unreached,
        Err(FederationError::Refused { status: 429, .. }) => Outcome::Busy,
        Err(FederationError::Refused { status, errcode, .. }) if (400..500).contains(&status) => {
            Outcome::Refused { status, errcode }
        }
        Err(_) => Outcome::Unreached,
    }
}

impl OutboxActor {
    /// Reads what is stored, and starts on the Arbiter that this is called on.
    pub async fn start_loaded(links: OutboxLinks) -> Result<Addr<Self>, OutboxError> {
        let scan = links.scan_rows.send(ScanRows(RowKind::Outbox)).timeout(ASK_WAIT);
        let stored = scan.await.map_err(AskError::from)??;
        let mut machine = Machine::default();
        for (row, value) in stored {
            let Row::Outbox(server, number) = row else { continue };
            match kept::read(&server, &value) {
                Ok(Read::Waiting(kept)) => machine.load(&server, number, kept, value.len()),
                Ok(Read::Ended(ended)) => machine.load_ended(number, ended),
                Err(_) => return Err(StoreError::Corrupt { what: "outbox" }.into()),
            }
        }
        Ok(Self { links, machine, rooms: None }.start())
    }

    /// Makes rows of changes.
    fn rows(changes: Vec<Change>) -> Rows {
        let mut rows = Vec::new();
        for Change { server, number, ended } in changes {
            // So that it is not owed anew after a start.
            if let Some(Ended { matter: Matter::Events { room_id, event_id, .. }, end, .. }) =
                &ended
                && *end == End::Delivered
                && let Ok(value) = serde_json::to_vec(&[event_id])
            {
                rows.push((Row::Spread(room_id.clone()), Some(value)));
            }
            if let Ok(value) = ended.as_ref().map(kept::ended).transpose() {
                rows.push((Row::Outbox(server, number), value));
            }
        }
        rows
    }

    /// Writes changes down. What a crash loses of it happens once more.
    fn keep(&self, changes: Vec<Change>, ctx: &mut Context<Self>) {
        for ended in changes.iter().filter_map(|change| change.ended.as_ref()) {
            log::debug!(server:% = ended.server_name, end:? = ended.end; "{}", ended.matter);
        }
        let rows = Self::rows(changes);
        if rows.is_empty() {
            return;
        }
        let links = self.links.clone();
        let written = async move {
            if let Err(error) = links.write(rows).await {
                log::error!("what became of what is owed was not written down: {error}");
            }
        };
        ctx.spawn(written.into_actor(self));
    }

    /// Sends what is due.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        while let Some(send) = self.machine.next(uptime_ms()) {
            let links = self.links.clone();
            let invite = match send.numbers.as_slice() {
                [number] => self.machine.matter(&send.server, *number).cloned(),
                _ => None,
            };
            let rooms = self.rooms.clone();
            let sent = async move {
                let outcome = links.send(&send, rooms.as_ref()).await;
                let outcome = tell_refused(rooms, invite, outcome).await;
                (send.server, outcome)
            };
            ctx.spawn(sent.into_actor(self).map(|(server, outcome), act, ctx| {
                let (now, now_ts) = (uptime_ms(), now_ms());
                let chance = rand::rng().random();
                let changes = act.machine.answered(&server, outcome, now, now_ts, chance);
                act.keep(changes, ctx);
                act.pump(ctx);
            }));
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        for open in self.machine.undecided(uptime_ms()) {
            // Whether that still stands is looked at when it is done.
            let matter = self.machine.matter(&open.server, open.number);
            let is_left = matches!(matter, Some(Matter::Declined { .. }));
            let links = self.links.clone();
            let looked = async move {
                if is_left {
                    return (open, Some(true));
                }
                let stands = links.stands(&open).await;
                (open, stands)
            };
            ctx.spawn(looked.into_actor(self).map(|(open, stands), act, ctx| {
                let Some(stands) = stands else { return };
                let changes = act.machine.decide(&open.server, open.number, stands);
                act.keep(changes.into_iter().collect(), ctx);
                act.pump(ctx);
            }));
        }
        self.pump(ctx);
    }

    fn expire(&mut self, ctx: &mut Context<Self>) {
        let changes = self.machine.expire(now_ms());
        self.keep(changes, ctx);
    }

    fn met(&mut self, server: &OwnedServerName, ctx: &mut Context<Self>) {
        self.machine.met(server, uptime_ms());
        self.pump(ctx);
    }

    /// Finds a place for something that is owed, and makes its row.
    fn take(&mut self, debt: Debt, rows: &mut Rows) -> Result<Option<Owed>, OutboxError> {
        let Debt { destination, matter, form, once } = debt;
        let made_ts = now_ms();
        let shape = Shape::from(&form);
        let kept = Kept {
            request_id: format!("{:032x}", rand::random::<u128>()),
            matter: matter.clone(),
            form,
            made_ts,
            expires_ts: made_ts.saturating_add(limits::OWED_MS),
            once: once.clone(),
        };
        let value = kept::waiting(kept).map_err(|_| StoreError::Corrupt { what: "outbox" })?;
        if value.len() > limits::OWED_LEN {
            return Err(OutboxError::TooLarge(value.len()));
        }
        let new = New { matter, shape, len: value.len(), made_ts, once };
        let taken =
            self.machine.owe(&destination, new, uptime_ms()).map_err(|full| match full {
                Full::Server => OutboxError::ServerFull(destination.clone()),
                Full::All => OutboxError::Full,
            })?;
        rows.extend(Self::rows(taken.changes));
        let Some(number) = taken.number else { return Ok(None) };
        rows.push((Row::Outbox(destination.clone(), number), Some(value)));
        Ok(Some((destination, number)))
    }
}

/// Whom an item is owed to, and its number.
type Owed = (OwnedServerName, u64);

/// Has a server take a user of ours out of a room.
async fn leave(
    server: &OwnedServerName,
    matter: &Matter,
    version: &RoomVersionId,
    rooms: Option<&TellRooms>,
) -> Outcome {
    let (Matter::Declined { room_id, user_id, event_id }, Some(rooms)) = (matter, rooms) else {
        return Outcome::Unreached;
    };
    let leave = LeaveThrough {
        server_name: server.clone(),
        room_id: room_id.clone(),
        user_id: user_id.clone(),
        event_id: event_id.clone(),
        version: version.clone(),
    };
    match rooms.leave.send(leave).await {
        // What it has to say of this says nothing of what else it is owed.
        Ok(Err(FederationError::BadAnswer { .. })) => Outcome::Busy,
        Ok(answer) => outcome(answer),
        Err(_) => Outcome::Unreached,
    }
}

/// Has an invite taken back that was refused. As long as that cannot be done, it counts as not answered.
async fn tell_refused(
    rooms: Option<TellRooms>,
    matter: Option<Matter>,
    outcome: Outcome,
) -> Outcome {
    let (Outcome::Refused { errcode, .. }, Some(Matter::Invite { room_id, user_id, event_id })) =
        (&outcome, matter)
    else {
        return outcome;
    };
    let refused = InviteRefused { room_id, user_id, event_id, why: errcode.clone() };
    let told = match rooms {
        Some(rooms) => rooms.refused.send(refused).await,
        None => return Outcome::Unreached,
    };
    if matches!(told, Ok(true)) { outcome } else { Outcome::Unreached }
}

impl Actor for OutboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        let trimmed = self.machine.trim();
        self.keep(trimmed, ctx);
        self.expire(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
        ctx.run_interval(EXPIRE_EVERY, Self::expire);
    }
}

impl Handler<Owe> for OutboxActor {
    type Result = ResponseActFuture<Self, Result<(), OutboxError>>;

    fn handle(&mut self, Owe(debts): Owe, _: &mut Context<Self>) -> Self::Result {
        let (mut rows, mut places, mut failed) = (Vec::new(), Vec::new(), None);
        for debt in debts {
            match self.take(debt, &mut rows) {
                Ok(place) => places.extend(place),
                Err(error) => failed = Some(error),
            }
        }
        let links = self.links.clone();
        // Without a row as well: what waits already may be on its way to the disk.
        let written = async move { links.write(rows).await };
        Box::pin(written.into_actor(self).map(move |written, act, ctx| {
            for (server, number) in places {
                match &written {
                    Ok(()) => act.machine.stored(&server, number),
                    Err(_) => act.machine.not_stored(&server, number),
                }
            }
            written?;
            act.pump(ctx);
            failed.map_or(Ok(()), Err)
        }))
    }
}

impl Handler<Decided> for OutboxActor {
    type Result = ();

    fn handle(&mut self, msg: Decided, ctx: &mut Context<Self>) {
        let Decided { destination, event_id, stands } = msg;
        for number in self.machine.waiting_for(&destination, &event_id) {
            let changes = self.machine.decide(&destination, number, stands);
            self.keep(changes.into_iter().collect(), ctx);
        }
        self.pump(ctx);
    }
}

impl Handler<ServerOnline> for OutboxActor {
    type Result = ();

    fn handle(&mut self, ServerOnline(server): ServerOnline, ctx: &mut Context<Self>) {
        self.met(&server, ctx);
    }
}

impl Handler<ServerReached> for OutboxActor {
    type Result = ();

    fn handle(&mut self, ServerReached(server): ServerReached, ctx: &mut Context<Self>) {
        self.met(&server, ctx);
    }
}

impl Handler<EventsSpread> for OutboxActor {
    type Result = ();

    fn handle(&mut self, EventsSpread(room_id): EventsSpread, ctx: &mut Context<Self>) {
        let changes = self.machine.spread(&room_id);
        self.keep(changes, ctx);
    }
}

impl Handler<TellRooms> for OutboxActor {
    type Result = ();

    fn handle(&mut self, msg: TellRooms, _: &mut Context<Self>) {
        self.rooms = Some(msg);
    }
}

impl Handler<CountOwed> for OutboxActor {
    type Result = OwedCount;

    fn handle(&mut self, _: CountOwed, _: &mut Context<Self>) -> OwedCount {
        self.machine.count()
    }
}

impl Handler<ReadOutbox> for OutboxActor {
    type Result = OutboxStatus;

    fn handle(&mut self, _: ReadOutbox, _: &mut Context<Self>) -> OutboxStatus {
        self.machine.status(uptime_ms())
    }
}
