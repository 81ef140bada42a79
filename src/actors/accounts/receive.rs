//! To-device messages from other servers: each once, and no more than there are places for
//! (`waiting.rs`).

use std::collections::{HashMap, HashSet};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _, fut};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::Deserialize;

use super::{
    actor::{AccountsActor, AccountsLinks},
    messages::{AccountError, ReceiveToDevice},
    to_device,
    waiting::Share,
};
use crate::{
    actors::{
        clock::now_ms,
        error::AskError,
        room_state::FindSharing,
        store::{Row, RowKind},
    },
    config::ASK_WAIT,
};

impl AccountsLinks {
    /// Returns which of some servers were let into one of our rooms: a public one anybody can join.
    async fn sharing(
        &self,
        servers: Vec<OwnedServerName>,
    ) -> Result<HashSet<OwnedServerName>, AccountError> {
        let find = FindSharing { servers, with: None };
        let found = self.sharing.send(find).timeout(ASK_WAIT).await.map_err(AskError::from)?;
        let close = found.into_iter().filter(|sharing| sharing.close);
        Ok(close.map(|sharing| sharing.server_name).collect())
    }

    /// Counts what waits for all devices, by server.
    async fn count_waiting(&self) -> Result<HashMap<OwnedServerName, Share>, AccountError> {
        #[derive(Deserialize)]
        struct Sender {
            sender: OwnedUserId,
        }
        let mut shares: HashMap<OwnedServerName, Share> = HashMap::new();
        for (_, value) in self.scan(RowKind::ToDevice).await? {
            let Ok(Sender { sender }) = serde_json::from_slice(&value) else { continue };
            let share = Share { messages: 0, member: false };
            shares.entry(sender.server_name().to_owned()).or_insert(share).messages += 1;
        }
        for server in self.sharing(shares.keys().cloned().collect()).await? {
            if let Some(share) = shares.get_mut(&server) {
                share.member = true;
            }
        }
        Ok(shares)
    }
}

/// A message on its way in.
struct Incoming {
    server: OwnedServerName,
    member: bool,
    txn: Row,
    rows: super::sessions::Rows,
}

impl Handler<ReceiveToDevice> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: ReceiveToDevice, _: &mut Context<Self>) -> Self::Result {
        let ReceiveToDevice { sender, message_id, kind, mut messages } = msg;
        let mine = self.sessions.any_user().and_then(|user| messages.remove(&user));
        let mine = mine.unwrap_or_default().into_iter();
        let mine = mine.map(|(device, content)| (to_device::target(device), content)).collect();
        let devices = self.sessions.devices().map(|device| device.device_id.as_str());
        let rows = to_device::queue(devices, &sender, &kind, &mine);
        if rows.is_empty() {
            return Box::pin(fut::ready(Ok(())));
        }
        let txn = Row::ToDeviceTxn(sender.to_string(), message_id);
        let server = sender.server_name().to_owned();
        let (links, mut turn) = (self.links.clone(), self.turn());
        let asked = async move {
            turn.wait().await;
            if links.read(txn.clone()).await?.is_some() {
                return Ok(None);
            }
            let member = links.sharing(vec![server.clone()]).await?.contains(&server);
            Ok::<_, AccountError>(Some((turn, Incoming { server, member, txn, rows })))
        };
        let taken = asked.into_actor(self).then(|asked, act, _| {
            let full = matches!(&asked, Ok(Some((_, incoming))) if !act.has_place(incoming));
            let links = act.links.clone();
            let recount = full && act.waiting.is_stale(now_ms());
            let counted = async move {
                let counted = if recount { Some(links.count_waiting().await?) } else { None };
                Ok::<_, AccountError>((asked?, counted))
            };
            counted.into_actor(act)
        });
        let written = taken.then(|taken: Result<_, AccountError>, act, _| {
            let written = taken.and_then(|(incoming, counted)| {
                if let Some(counted) = counted {
                    act.waiting.count(counted, now_ms());
                }
                let Some((turn, incoming)) = incoming else { return Ok(None) };
                if !act.has_place(&incoming) {
                    return Err(AccountError::Full(
                        "to-device messages wait already; send again later",
                    ));
                }
                let Incoming { server, member, txn, rows } = incoming;
                act.waiting.add(&server, member, rows.len());
                Ok(Some((turn, act.remember(txn, rows))))
            });
            let links = act.links.clone();
            let write = async move {
                match written? {
                    // The turn lasts until they are on disk.
                    Some((_turn, rows)) => links.write(rows).await,
                    None => Ok(()),
                }
            };
            write.into_actor(act)
        });
        Box::pin(written)
    }
}

impl AccountsActor {
    fn has_place(&self, incoming: &Incoming) -> bool {
        let server: &ServerName = &incoming.server;
        self.waiting.fits(server, incoming.member, incoming.rows.len())
    }
}
