//! Finding out whether somebody else has what was said here, and letting it be owed where nobody does.
//!
//! Invariant: that another server has something is written down, so that it is not owed anew after a start.

use std::collections::BTreeMap;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};

use super::{
    actor::MeetingActor,
    messages::{CountHolders, Holders},
    unspread::{Has, Todo},
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        outbox::{Debt, EventsSpread, Form, Matter, Owe},
        room::{RoomError, Said, ask},
        room_state::{ReadServers, ServersIn},
        store::{FindUnspread, RoomEvents, Row, WriteRows},
    },
    config::limits,
};

/// What another server has, told by whoever compared heads with it.
#[derive(actix::Message, Debug)]
#[rtype(result = "()")]
pub(super) struct Compared {
    /// Which server.
    pub(super) server: OwnedServerName,
    /// When ours were read, by the uptime.
    pub(super) asked_at: u64,
    /// Rooms of which it has the heads that we have: these.
    pub(super) same: RoomEvents,
    /// Rooms of which it has others: these.
    pub(super) others: RoomEvents,
}

/// Another server was given these events.
#[derive(actix::Message, Debug)]
#[rtype(result = "()")]
pub(super) struct Gave {
    pub(super) server: OwnedServerName,
    pub(super) rooms: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
}

impl MeetingActor {
    /// Looks at rooms where it is time to.
    pub(super) fn look_for_unspread(&mut self, ctx: &mut Context<Self>) {
        let Some(signer) = &self.signer else { return };
        let room_ids = self.unspread.due(uptime_ms());
        if room_ids.is_empty() {
            return;
        }
        let since_ts = now_ms().saturating_sub(limits::OWED_MS);
        let server_name = signer.server_name().to_owned();
        let links = self.links.clone();
        let looked = async move {
            let servers = links.read_servers.send(ReadServers(room_ids.clone())).await;
            let find = FindUnspread { server_name, since_ts, room_ids: room_ids.clone() };
            let found = match servers {
                Ok(servers) => ask(&links.find_unspread, find).await.map(|found| (found, servers)),
                Err(error) => Err(RoomError::Ask(error.into())),
            };
            (room_ids, found)
        };
        ctx.spawn(looked.into_actor(self).map(|(room_ids, found), act, ctx| match found {
            Ok((found, servers)) => act.looked(room_ids, found, servers, ctx),
            Err(error) => {
                log::debug!("not looked for what nobody else has: {error}");
                let now = uptime_ms();
                room_ids.iter().for_each(|room_id| act.unspread.not_looked(room_id, now));
            }
        }));
    }

    fn looked(
        &mut self,
        room_ids: Vec<OwnedRoomId>,
        found: RoomEvents,
        servers: Vec<ServersIn>,
        ctx: &mut Context<Self>,
    ) {
        let mut found: BTreeMap<OwnedRoomId, Vec<OwnedEventId>> = found.into_iter().collect();
        let mut servers: BTreeMap<OwnedRoomId, ServersIn> =
            servers.into_iter().map(|servers| (servers.room_id.clone(), servers)).collect();
        let (mut asks, mut debts) =
            (BTreeMap::<OwnedServerName, Vec<OwnedRoomId>>::new(), Vec::new());
        let now = uptime_ms();
        for room_id in room_ids {
            let events = found.remove(&room_id).unwrap_or_default();
            let Some(ServersIn { servers, is_joined, .. }) = servers.remove(&room_id) else {
                self.unspread.looked(&room_id, None, 0, &[], now);
                continue;
            };
            // Whoever left a room does not learn who else has what.
            let met = servers.iter().filter(|server| is_joined && self.online.is_met(server));
            let met: Vec<OwnedServerName> = met.cloned().collect();
            let last = events.last().cloned();
            match self.unspread.looked(&room_id, last, servers.len(), &met, now) {
                Some(Todo::Ask(server)) => asks.entry(server).or_default().push(room_id),
                Some(Todo::Owe) => debts.extend(debts_of(&room_id, &events, servers)),
                Some(Todo::Settle) => self.links.settle.do_send(EventsSpread(room_id)),
                None => {}
            }
        }
        for (server, room_ids) in asks {
            let exchange = self.exchange(server, ctx);
            let asked = async move {
                if let Err(error) | Ok(Err(error)) = exchange.compare(room_ids).await {
                    log::debug!(server:% = exchange.server; "heads not compared: {error}");
                }
            };
            ctx.spawn(asked.into_actor(self));
        }
        if !debts.is_empty() {
            let owed = self.links.owe.send(Owe(debts));
            let owed = async move {
                // Whoever is owed too much learns of it when heads are compared.
                if let Ok(Err(error)) = owed.await {
                    log::debug!("what nobody else has is not owed: {error}");
                }
            };
            ctx.spawn(owed.into_actor(self));
        }
    }

    /// Another server has something.
    fn is_known(&mut self, room_id: OwnedRoomId, has: Has<'_>, heads: &[OwnedEventId]) {
        let Some(todo) = self.unspread.has(&room_id, has) else { return };
        if todo == Some(Todo::Settle) {
            self.links.settle.do_send(EventsSpread(room_id.clone()));
        }
        match serde_json::to_vec(heads) {
            Ok(value) => {
                let row = (Row::Spread(room_id), Some(value));
                self.links.write_rows.do_send(WriteRows(vec![row]));
            }
            Err(error) => log::error!("heads cannot be written: {error}"),
        }
    }
}

/// Makes what is owed to each of some servers.
fn debts_of(
    room_id: &OwnedRoomId,
    event_ids: &[OwnedEventId],
    servers: Vec<OwnedServerName>,
) -> Vec<Debt> {
    let Some(event_id) = event_ids.last().cloned() else { return Vec::new() };
    let (room_id, count) = (room_id.clone(), event_ids.len());
    let matter = Matter::Events { room_id: room_id.clone(), event_id, count };
    let form = Form::Events { room_id, event_ids: event_ids.to_vec() };
    let debt =
        |destination| Debt { destination, matter: matter.clone(), form: form.clone(), once: None };
    servers.into_iter().map(debt).collect()
}

impl Handler<Said> for MeetingActor {
    type Result = ();

    fn handle(&mut self, Said(room_id): Said, _: &mut Self::Context) {
        self.unspread.said(room_id, uptime_ms());
    }
}

impl Handler<Compared> for MeetingActor {
    type Result = ();

    fn handle(&mut self, msg: Compared, _: &mut Self::Context) {
        for (room_id, heads) in msg.same.iter().chain(&msg.others) {
            self.held.told(&msg.server, room_id, heads);
        }
        for (room_id, heads) in msg.same {
            self.is_known(room_id, Has::Ours(msg.asked_at), &heads);
        }
        for (room_id, heads) in msg.others {
            self.is_known(room_id, Has::Heads(&heads), &heads);
        }
    }
}

impl Handler<CountHolders> for MeetingActor {
    type Result = Vec<Holders>;

    fn handle(&mut self, CountHolders(rooms): CountHolders, _: &mut Self::Context) -> Self::Result {
        let count = |(room_id, heads, servers): (OwnedRoomId, String, Vec<OwnedServerName>)| {
            let have = self.held.holders(&room_id, &heads, servers.iter());
            Holders {
                have,
                met: servers.iter().filter(|server| self.online.is_met(server)).count(),
            }
        };
        rooms.into_iter().map(count).collect()
    }
}

impl Handler<Gave> for MeetingActor {
    type Result = ();

    fn handle(&mut self, Gave { server, rooms }: Gave, _: &mut Self::Context) {
        let now = uptime_ms();
        for (room_id, events) in rooms {
            self.unspread.gave(&room_id, &server, &events, now);
        }
    }
}
