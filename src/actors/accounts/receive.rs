//! To-device messages from other servers: each once, and no more than there are places for
//! (`waiting.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _, fut};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::{
    actor::{AccountsActor, AccountsLinks},
    messages::{AccountError, ReceiveToDevice},
    sessions::Rows,
    to_device,
    txns::Txn,
    waiting::Share,
};
use crate::{
    actors::{
        clock::now_ms,
        error::AskError,
        store::{CountToDevice, DropToDevice, ToDeviceCount},
        upward::FindSharing,
    },
    config::{ASK_WAIT, limits},
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

    /// Counts what waits for all devices, by server. What strangers left there too long ago goes: a
    /// device that is never used again would have them hold their places for ever.
    async fn count_waiting(&self) -> Result<HashMap<OwnedServerName, Share>, AccountError> {
        let before = now_ms().saturating_sub(limits::STRANGER_KEPT_MS);
        let count = CountToDevice { old_before: before };
        let asked = self.count_to_device.send(count).timeout(ASK_WAIT).await;
        let counts = asked.map_err(AskError::from)??;
        let members = self.sharing(counts.keys().cloned().collect()).await?;
        let left = |(server, count): (&OwnedServerName, &ToDeviceCount)| {
            (count.old.0 > 0 && !members.contains(server)).then(|| server.clone())
        };
        let of: HashSet<_> = counts.iter().filter_map(left).collect();
        if !of.is_empty() {
            let dropped = self.drop_to_device.send(DropToDevice { of, before });
            dropped.timeout(ASK_WAIT).await.map_err(AskError::from)??;
        }
        let shares = counts.into_iter().map(|(server, ToDeviceCount { all, old })| {
            let member = members.contains(&server);
            let gone = if member { (0, 0) } else { old };
            let (messages, len) = (all.0.saturating_sub(gone.0), all.1.saturating_sub(gone.1));
            (server, Share { messages, len, member })
        });
        Ok(shares.collect())
    }
}

/// A message on its way in.
struct Incoming {
    server: OwnedServerName,
    member: bool,
    txn: Txn,
    rows: Rows,
}

impl Incoming {
    /// Returns how many messages it has, and how many bytes.
    fn size(&self) -> (usize, usize) {
        let lens = self.rows.iter().filter_map(|(_, value)| value.as_ref().map(Vec::len));
        (self.rows.len(), lens.sum())
    }
}

impl Handler<ReceiveToDevice> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: ReceiveToDevice, _: &mut Context<Self>) -> Self::Result {
        let ReceiveToDevice { sender, message_id, kind, messages } = msg;
        let by_target = |messages: BTreeMap<String, Box<RawValue>>| {
            let messages = messages.into_iter();
            messages.map(|(device, content)| (to_device::target(device), content)).collect()
        };
        let messages = messages.into_iter();
        let messages = messages.map(|(user, messages)| (user, by_target(messages))).collect();
        let rows = match to_device::queue(&self.sessions, &sender, &kind, &messages) {
            Ok(rows) if rows.is_empty() => return Box::pin(fut::ready(Ok(()))),
            Ok(rows) => rows,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let txn = Txn::of(&sender, &message_id);
        let server = sender.server_name().to_owned();
        let (links, mut turn) = (self.links.clone(), self.turn());
        let asked = async move {
            turn.wait().await;
            let member = links.sharing(vec![server.clone()]).await?.contains(&server);
            Ok::<_, AccountError>((turn, Incoming { server, member, txn, rows }))
        };
        let taken = asked.into_actor(self).then(|asked: Result<_, AccountError>, act, _| {
            // What is known was on disk before its turn ended.
            let now = now_ms();
            let is_new = |(_, new): &(_, Incoming)| !act.txns.knows(&new.txn, now);
            let asked = asked.map(|asked| Some(asked).filter(is_new));
            let full = matches!(&asked, Ok(Some((_, incoming))) if !act.has_place(incoming));
            let links = act.links.clone();
            let recount = act.waiting.is_worth_counting(full, now_ms());
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
                let size = incoming.size();
                let Incoming { server, member, txn, rows } = incoming;
                act.waiting.add(&server, member, size);
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
        self.waiting.fits(server, incoming.member, incoming.size())
    }
}
