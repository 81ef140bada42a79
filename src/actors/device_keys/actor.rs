//! The shell of DeviceKeys: asks the Store, writes, and sees to it that other servers learn of what
//! changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Recipient, ResponseActFuture,
    ResponseFuture, WrapFuture as _, fut,
};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    bundle_handlers::{OwnBundle, Wanted},
    bundles::{Bundles, Kept as KeptBundle},
    claim_shares::ClaimShares,
    keyring::Keyring,
    list::{GivenSignatures, KeyList},
    messages::{KeyError, KeysIssued},
    remote::{self, Told},
};
use crate::{
    actors::{
        clock::now_ms,
        cpu::Cpu,
        error::AskError,
        identity::FindServerKeys,
        outbox::{Debt, Form, Matter, Owe},
        rendezvous::ReadProven,
        store::{
            FindRoommates, ReadRow, ReadRows, ReadServersOf, ReadServersWith, Roommates, Row,
            RowKind, RowPage, ScanPage, ScanRows, StoreError, WriteRows,
        },
        turn::{Turn, Turns},
        upward::SendFederation,
    },
    config::{ASK_WAIT, limits},
    proto::{key_bundle, signer::Signer},
};

/// How often it is looked what other servers have not been told, and whose lists may be old.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// Rows to be written.
pub(super) type Rows = Vec<(Row, Option<Vec<u8>>)>;

/// Whom DeviceKeys talks to.
#[derive(Debug, Clone)]
pub struct DeviceKeysLinks {
    /// Store.
    pub write_rows: Recipient<WriteRows>,
    /// Store.
    pub read_row: Recipient<ReadRow>,
    /// Store.
    pub read_rows: Recipient<ReadRows>,
    /// Store.
    pub scan_rows: Recipient<ScanRows>,
    /// Store.
    pub scan_page: Recipient<ScanPage>,
    /// Store: who shares a room with us.
    pub roommates: Recipient<FindRoommates>,
    /// Store: which servers have to do with a user.
    pub servers_of: Recipient<ReadServersOf>,
    /// Store: which servers are in a room with somebody.
    pub servers_with: Recipient<ReadServersWith>,
    /// Identity: server_keys of others.
    pub find_keys: Recipient<FindServerKeys>,
    /// Rendezvous: who is connected.
    pub proven: Recipient<ReadProven>,
    /// Meeting: when keys of our users were signed.
    pub keys_issued: Recipient<KeysIssued>,
    /// Signatures of bundles.
    pub cpu: Cpu,
    /// RelayRequest: asking other servers.
    pub federation: Recipient<SendFederation>,
    /// Outbox: telling them.
    pub owe: Recipient<Owe>,
}

/// Returns the bytes of a row.
pub(super) fn bytes(value: &impl Serialize) -> Result<Option<Vec<u8>>, KeyError> {
    let bytes = serde_json::to_vec(value).map_err(|_| StoreError::Corrupt { what: "keys" })?;
    Ok(Some(bytes))
}

/// Reads the bytes of a row.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, KeyError> {
    Ok(serde_json::from_slice(bytes).map_err(|_| StoreError::Corrupt { what: "keys" })?)
}

impl DeviceKeysLinks {
    pub(super) async fn write(&self, rows: Rows) -> Result<(), KeyError> {
        if !rows.is_empty() {
            let asked = self.write_rows.send(WriteRows(rows)).timeout(ASK_WAIT).await;
            asked.map_err(AskError::from)??;
        }
        Ok(())
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, row: Row) -> Result<Option<T>, KeyError> {
        let asked = self.read_row.send(ReadRow(row)).timeout(ASK_WAIT).await;
        asked.map_err(AskError::from)??.map(|value| parse(&value)).transpose()
    }

    /// Reads many rows, so many at a time.
    pub(super) async fn read_all(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, KeyError> {
        let mut read = Vec::with_capacity(rows.len());
        for some in rows.chunks(limits::ROWS_READ) {
            let asked = self.read_rows.send(ReadRows(some.to_vec())).timeout(ASK_WAIT).await;
            read.extend(asked.map_err(AskError::from)??);
        }
        Ok(read)
    }

    /// Reads some rows of a kind, those after a row.
    pub(super) async fn page(
        &self,
        kind: RowKind,
        after: Option<Row>,
    ) -> Result<RowPage, KeyError> {
        let ask = ScanPage { kind, after, len: limits::ROWS_PAGE };
        let asked = self.scan_page.send(ask).timeout(ASK_WAIT).await;
        Ok(asked.map_err(AskError::from)??)
    }

    pub(super) async fn scan(&self, kind: RowKind) -> Result<Vec<(Row, Vec<u8>)>, KeyError> {
        let asked = self.scan_rows.send(ScanRows(kind)).timeout(ASK_WAIT).await;
        Ok(asked.map_err(AskError::from)??)
    }

    /// Reads what is known of a user's devices.
    pub(super) async fn list(&self, user_id: &UserId) -> Result<Option<KeyList>, KeyError> {
        self.read(Row::KeyList(user_id.to_owned())).await
    }

    /// Reads what is known of the devices of users, of those of whom something is.
    pub(super) async fn lists_of(
        &self,
        users: Vec<OwnedUserId>,
    ) -> Result<BTreeMap<OwnedUserId, KeyList>, KeyError> {
        let rows = users.iter().cloned().map(Row::KeyList).collect();
        let read = users.into_iter().zip(self.read_all(rows).await?);
        let known = read.filter_map(|(user_id, list)| Some((user_id, list?)));
        known.map(|(user_id, list)| Ok((user_id, parse(&list)?))).collect()
    }

    pub(super) async fn keyring(&self, user: &UserId, device: &str) -> Result<Keyring, KeyError> {
        let ring = self.read(Row::Keyring(user.to_owned(), device.to_owned())).await?;
        Ok(ring.unwrap_or_default())
    }

    /// Reads the keyrings of devices, in their order.
    pub(super) async fn keyrings(
        &self,
        devices: impl Iterator<Item = (OwnedUserId, String)>,
    ) -> Result<Vec<Keyring>, KeyError> {
        let rows = devices.map(|(user_id, device_id)| Row::Keyring(user_id, device_id)).collect();
        let read = self.read_all(rows).await?.into_iter();
        read.map(|ring| ring.as_deref().map_or_else(|| Ok(Keyring::default()), parse)).collect()
    }

    pub(super) async fn given(&self, by: &UserId) -> Result<GivenSignatures, KeyError> {
        Ok(self.read(Row::KeySignatures(by.to_owned())).await?.unwrap_or_default())
    }

    pub(super) async fn roommates(
        &self,
        users: BTreeMap<OwnedUserId, u64>,
    ) -> Result<Roommates, KeyError> {
        let asked = self.roommates.send(FindRoommates { users }).timeout(ASK_WAIT).await;
        Ok(asked.map_err(AskError::from)??)
    }

    /// Reads which other servers have to do with a user of ours.
    pub(super) async fn servers_of(
        &self,
        user_id: &UserId,
        inviters: bool,
    ) -> Result<BTreeSet<OwnedServerName>, KeyError> {
        let read = ReadServersOf { user_id: user_id.to_owned(), inviters };
        let asked = self.servers_of.send(read).timeout(ASK_WAIT).await;
        let mut servers = asked.map_err(AskError::from)??;
        servers.remove(user_id.server_name());
        Ok(servers)
    }

    /// Has other servers told of a list. Whether it is on its way to all of them.
    async fn tell(&self, user_id: &UserId, told: Told) -> Result<u64, KeyError> {
        let list = self.list(user_id).await?.unwrap_or_default();
        let edu = remote::edu(user_id, &list, &told).map_err(KeyError::TooLarge)?;
        let debts = self.servers_of(user_id, false).await?.into_iter().map(|destination| Debt {
            destination,
            matter: Matter::DeviceList { user_id: user_id.to_owned() },
            form: Form::Edu(edu.clone()),
            once: None,
        });
        let debts: Vec<Debt> = debts.collect();
        if !debts.is_empty() {
            let owed = self.owe.send(Owe(debts)).timeout(ASK_WAIT).await.map_err(AskError::from)?;
            owed.map_err(|error| KeyError::BadRequest(error.to_string()))?;
        }
        Ok(list.stream_id)
    }
}

/// Owns the keys of devices.
#[derive(Debug)]
pub struct DeviceKeysActor {
    pub(super) links: DeviceKeysLinks,
    turns: Turns,
    /// Users of ours of whose lists other servers have yet to be told.
    untold: BTreeSet<OwnedUserId>,
    /// Users of other servers whose lists are kept.
    pub(super) kept: BTreeSet<OwnedUserId>,
    /// Those of them whose lists may be old, and how often it was said.
    pub(super) stale: BTreeMap<OwnedUserId, u64>,
    /// Those whose servers are being asked.
    pub(super) asking: BTreeSet<OwnedUserId>,
    /// What other servers may claim.
    pub(super) shares: ClaimShares,
    /// Signs bundles.
    pub(super) signer: Option<Arc<Signer>>,
    /// Users of ours that have keys, and when these were signed for others to hand on.
    pub(super) own: BTreeMap<OwnedUserId, OwnBundle>,
    /// What other servers signed of their users' keys.
    pub(super) bundles: Bundles,
    /// When they said that they signed the newest one, as far as it was asked for.
    pub(super) heard: BTreeMap<OwnedServerName, u64>,
    /// Who is to be asked for bundles.
    pub(super) wanted: BTreeSet<Wanted>,
    /// How many are being asked.
    pub(super) fetching: usize,
    /// Users of whom room-mates handed a bundle on, and when.
    pub(super) told_by_others: BTreeMap<OwnedUserId, Instant>,
}

impl DeviceKeysActor {
    /// Reads what is stored, and starts on the Arbiter that this is called on.
    pub async fn start_loaded(links: DeviceKeysLinks) -> Result<Addr<Self>, KeyError> {
        let devices = links.scan(RowKind::Devices).await?.into_iter();
        let devices: BTreeSet<(OwnedUserId, String)> = devices
            .filter_map(|(row, _)| match row {
                Row::Device(user_id, device_id) => Some((user_id, device_id)),
                _ => None,
            })
            .collect();
        let (mut untold, mut kept) = (BTreeSet::new(), BTreeSet::new());
        let (mut stale, mut rows) = (BTreeMap::new(), Rows::new());
        let (mut own, mut bundles) = (BTreeMap::new(), Bundles::default());
        for (row, value) in links.scan(RowKind::KeyLists).await? {
            let Row::KeyList(user_id) = row else { continue };
            let mut list: KeyList = parse(&value)?;
            if list.position.is_some() {
                if list.stale {
                    stale.insert(user_id.clone(), 0);
                }
                kept.insert(user_id);
                continue;
            }
            // The node was killed while a device was being deleted, or its client was too late.
            let is_gone = |id: &&String| !devices.contains(&(user_id.clone(), (*id).clone()));
            let gone: Vec<String> = list.devices.keys().filter(is_gone).cloned().collect();
            if list.forget(&gone, now_ms()) {
                rows.extend(forget_rows(&user_id, &gone, &list)?);
            }
            if list.untold {
                untold.insert(user_id.clone());
            }
            own.insert(user_id, (OwnBundle { issued_ts: None, due: true }, list.stream_id));
        }
        for (row, text) in links.scan(RowKind::KeyBundles).await? {
            let Row::KeyBundle(user_id) = row else { continue };
            let dates = key_bundle::dates(&text).ok_or(StoreError::Corrupt { what: "keys" })?;
            let (issued_ts, stream_id) = dates;
            if let Some((own, listed)) = own.get_mut(&user_id) {
                *own = OwnBundle { issued_ts: Some(issued_ts), due: stream_id != *listed };
                continue;
            }
            let bundle = KeptBundle { issued_ts, stream_id, len: text.len() };
            let gone = bundles.put(&user_id, bundle).unwrap_or_default().into_iter();
            rows.extend(gone.map(|user_id| (Row::KeyBundle(user_id), None)));
        }
        links.write(rows).await?;
        let own = own.into_iter().map(|(user_id, (own, _))| (user_id, own)).collect();
        let actor = Self {
            links,
            turns: Turns::default(),
            untold,
            kept,
            stale,
            asking: BTreeSet::new(),
            shares: ClaimShares::default(),
            signer: None,
            own,
            bundles,
            heard: BTreeMap::new(),
            wanted: BTreeSet::new(),
            fetching: 0,
            told_by_others: BTreeMap::new(),
        };
        Ok(actor.start())
    }

    pub(super) fn turn(&mut self) -> Turn {
        self.turns.take()
    }

    /// Does what reads before it writes, when all that came before is done.
    pub(super) fn in_turn<Out: 'static, Work>(
        &mut self,
        work: impl FnOnce(DeviceKeysLinks) -> Work + 'static,
    ) -> ResponseFuture<Result<Out, KeyError>>
    where
        Work: Future<Output = Result<Out, KeyError>> + 'static,
    {
        let (links, mut turn) = (self.links.clone(), self.turn());
        Box::pin(async move {
            turn.wait().await;
            work(links).await
        })
    }

    /// Tells other servers of a list that changed and is on disk. What fails is tried again.
    pub(super) fn tell(&mut self, user_id: OwnedUserId, told: Told, ctx: &mut Context<Self>) {
        self.untold.insert(user_id.clone());
        let links = self.links.clone();
        let telling = async move { (links.tell(&user_id, told).await, user_id) };
        ctx.spawn(telling.into_actor(self).map(|(told, user_id), act, ctx| match told {
            Ok(stream_id) => act.was_told(user_id, stream_id, ctx),
            Err(error) => {
                log::warn!(user_id:%; "other servers do not know of new keys yet: {error}");
            }
        }));
    }

    fn was_told(&mut self, user_id: OwnedUserId, stream_id: u64, ctx: &mut Context<Self>) {
        let (links, mut turn) = (self.links.clone(), self.turn());
        let written = async move {
            turn.wait().await;
            let list = links.list(&user_id).await?;
            // Else it changed meanwhile, and is being told anew.
            if let Some(mut list) = list.filter(|list| list.stream_id == stream_id && list.untold) {
                list.untold = false;
                links.write(vec![(Row::KeyList(user_id.clone()), bytes(&list)?)]).await?;
                return Ok(Some(user_id));
            }
            Ok(None)
        };
        ctx.spawn(written.into_actor(self).map(
            |written: Result<_, KeyError>, act, _| match written {
                Ok(Some(user_id)) => drop(act.untold.remove(&user_id)),
                Ok(None) => {}
                Err(error) => log::warn!("what was told cannot be noted: {error}"),
            },
        ));
    }

    fn tell_all(&mut self, ctx: &mut Context<Self>) {
        for user_id in self.untold.clone() {
            // Whatever it was that changed: who hears of it asks for all.
            self.tell(user_id, Told::CrossSigning, ctx);
        }
    }

    /// Answers with an error at once.
    pub(super) fn refuse<T: 'static>(
        error: KeyError,
    ) -> ResponseActFuture<Self, Result<T, KeyError>> {
        Box::pin(fut::ready(Err(error)))
    }
}

/// Returns the rows by which devices are forgotten: the list is what is left.
pub(super) fn forget_rows(
    user_id: &UserId,
    device_ids: &[String],
    list: &KeyList,
) -> Result<Rows, KeyError> {
    let mut rows = vec![
        (Row::KeyList(user_id.to_owned()), bytes(list)?),
        (Row::DeviceList(user_id.to_owned()), Some(Vec::new())),
    ];
    for device_id in device_ids {
        rows.push((Row::Keyring(user_id.to_owned(), device_id.clone()), None));
        rows.push((Row::KeyCounts(user_id.to_owned(), device_id.clone()), None));
    }
    Ok(rows)
}

impl Actor for DeviceKeysActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        self.tell_all(ctx);
        if let Some(newest) = self.own.values().filter_map(|own| own.issued_ts).max() {
            self.links.keys_issued.do_send(KeysIssued(newest));
        }
        ctx.run_interval(LOOK_EVERY, |act, ctx| {
            act.tell_all(ctx);
            act.follow_some(ctx);
            act.issue_due(ctx);
            act.forget_old_bundles(ctx);
        });
    }
}
