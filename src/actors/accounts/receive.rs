//! To-device messages from other servers: each once, and no more than there are places for
//! (`waiting.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};

use actix::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _, fut};
use ruma::OwnedServerName;
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
    proto::edu::ToDevice,
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

/// Messages of one server, in their order, and what is wrong with the first one that is too large.
struct Batch {
    server: OwnedServerName,
    messages: Vec<Incoming>,
    refused: Option<AccountError>,
}

impl AccountsActor {
    /// Makes rows of messages; what is for none of our devices makes none.
    fn batch(&self, msg: ReceiveToDevice) -> Batch {
        let ReceiveToDevice { origin, messages } = msg;
        let mut batch = Batch { server: origin, messages: Vec::new(), refused: None };
        for ToDevice { sender, message_id, kind, messages } in messages {
            // An EDU speaks for users of its origin only (CVE-2024-6301 and others).
            if sender.server_name() != batch.server {
                continue;
            }
            let by_target = |messages: BTreeMap<String, Box<RawValue>>| {
                let messages = messages.into_iter();
                messages.map(|(device, content)| (to_device::target(device), content)).collect()
            };
            let messages = messages.into_iter();
            let messages = messages.map(|(user, messages)| (user, by_target(messages))).collect();
            match to_device::queue(&self.sessions, &sender, &kind, &messages) {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => {
                    let txn = Txn::of(&sender, &message_id);
                    batch.messages.push(Incoming { txn, rows });
                }
                Err(error) => batch.refused = batch.refused.take().or(Some(error)),
            }
        }
        batch
    }

    /// Tells whether there is no place for all that is new of a batch.
    fn is_full_for(&self, batch: &Batch, member: bool) -> bool {
        let new = batch.messages.iter().filter(|one| !self.txns.knows(&one.txn, now_ms()));
        let size = new.map(Incoming::size).fold((0_usize, 0_usize), |(all, len), one| {
            (all.saturating_add(one.0), len.saturating_add(one.1))
        });
        !self.waiting.fits(&batch.server, member, size)
    }

    /// Takes what is new of a batch, as much as there is a place for. Returns the rows, and why not all of it
    /// was taken.
    fn take(&mut self, batch: Batch, member: bool) -> (Rows, Option<AccountError>) {
        let Batch { server, messages, mut refused } = batch;
        let mut taken = Rows::new();
        for incoming in messages {
            if self.txns.knows(&incoming.txn, now_ms()) {
                continue;
            }
            let size = incoming.size();
            if !self.waiting.fits(&server, member, size) {
                // What comes after it stays behind it.
                let full = "to-device messages wait already; send again later";
                refused = Some(AccountError::Full(full));
                break;
            }
            self.waiting.add(&server, member, size);
            let Incoming { txn, rows } = incoming;
            taken.extend(self.remember(txn, rows));
        }
        (taken, refused)
    }
}

impl Handler<ReceiveToDevice> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: ReceiveToDevice, _: &mut Context<Self>) -> Self::Result {
        let mut batch = self.batch(msg);
        if batch.messages.is_empty() {
            return Box::pin(fut::ready(batch.refused.take().map_or(Ok(()), Err)));
        }
        let (links, server, mut turn) = (self.links.clone(), batch.server.clone(), self.turn());
        let asked = async move {
            turn.wait().await;
            let member = links.sharing(vec![server.clone()]).await?.contains(&server);
            Ok::<_, AccountError>((turn, member))
        };
        let counted = asked.into_actor(self).then(|asked: Result<_, AccountError>, act, _| {
            // What is known was on disk before its turn ended.
            let full = matches!(&asked, Ok((_, member)) if act.is_full_for(&batch, *member));
            let links = act.links.clone();
            let recount = act.waiting.is_worth_counting(full, now_ms());
            let counted = async move {
                let (turn, member) = asked?;
                let counted = if recount { Some(links.count_waiting().await?) } else { None };
                Ok::<_, AccountError>((turn, member, batch, counted))
            };
            counted.into_actor(act)
        });
        let written = counted.then(|counted: Result<_, AccountError>, act, _| {
            let taken = counted.map(|(turn, member, batch, counted)| {
                if let Some(counted) = counted {
                    act.waiting.count(counted, now_ms());
                }
                (turn, act.take(batch, member))
            });
            let links = act.links.clone();
            let write = async move {
                // The turn lasts until they are on disk: all of a batch by one write.
                let (_turn, (rows, refused)) = taken?;
                if !rows.is_empty() {
                    links.write(rows).await?;
                }
                refused.map_or(Ok(()), Err)
            };
            write.into_actor(act)
        });
        Box::pin(written)
    }
}
