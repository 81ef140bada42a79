//! The shell of Accounts: asks the Store, then changes memory, then answers.

use std::collections::BTreeSet;

use actix::{
    Actor, ActorFutureExt as _, Addr, Context, Handler, MessageResult, Recipient,
    ResponseActFuture, ResponseFuture, WrapFuture as _,
};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    data::{self, Profiles},
    login::{Answering, push_rules_of},
    login_tokens::LoginTokens,
    messages::*,
    passwords::Tries,
    people::People,
    polls::Polls,
    sessions::{Device, Rows, Session, Sessions},
    to_device,
    txns::{Txn, Txns},
    uia,
    waiting::Waiting,
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        device_keys::{DeviceRenamed, ForgetDevices},
        error::AskError,
        identity::EnsureIdentity,
        rendezvous::Advertise,
        room::{Leave, ShownAs},
        room_state::{ListRooms, Listens, ProfileUpdated, ToRoom, UserGone},
        store::{
            AckToDevice, CountToDevice, DropToDevice, ReadRow, Row, RowKind, ScanRows, StoreError,
            WriteRows,
        },
        turn::{Turn, Turns},
        upward::FindSharing,
    },
    config::{ASK_WAIT, Registration, limits},
    proto::{
        push_rules::{self, Listener},
        server_name::LOCALPART,
    },
};

/// Whom Accounts talks to.
#[derive(Debug, Clone)]
pub struct AccountsLinks {
    /// Store: writes.
    pub write_rows: Recipient<WriteRows>,
    /// Store: one row.
    pub read_row: Recipient<ReadRow>,
    /// Store: rows of a kind, at start.
    pub scan_rows: Recipient<ScanRows>,
    /// Store: drops the queue of a deleted device.
    pub ack_to_device: Recipient<AckToDevice>,
    /// Store: what waits, by server.
    pub count_to_device: Recipient<CountToDevice>,
    /// Store: drops what waited too long.
    pub drop_to_device: Recipient<DropToDevice>,
    /// Identity: made at the first login.
    pub ensure_identity: Recipient<EnsureIdentity>,
    /// RoomState: tells the rooms of a new name.
    pub profile_updated: Recipient<ProfileUpdated>,
    /// RoomState: the rooms of somebody whose account ended.
    pub list_rooms: Recipient<ListRooms>,
    /// RoomState: leaves them.
    pub leave: Recipient<ToRoom<Leave>>,
    /// RoomState: there is no such user any more.
    pub user_gone: Recipient<UserGone>,
    /// RoomState: tells the rooms of what a user is notified.
    pub listens: Recipient<Listens>,
    /// Rendezvous: tells the network of it.
    pub advertise: Recipient<Advertise>,
    /// RoomState: who shares a room with us.
    pub sharing: Recipient<FindSharing>,
    /// DeviceKeys: devices that are deleted.
    pub forget_devices: Recipient<ForgetDevices>,
    /// DeviceKeys: names of devices.
    pub device_renamed: Recipient<DeviceRenamed>,
}

impl AccountsLinks {
    pub(super) async fn write(&self, rows: Rows) -> Result<(), AccountError> {
        if rows.is_empty() {
            return Ok(());
        }
        let asked = self.write_rows.send(WriteRows(rows)).timeout(ASK_WAIT).await;
        asked.map_err(AskError::from)??;
        Ok(())
    }

    pub(super) async fn read(&self, row: Row) -> Result<Option<Vec<u8>>, AccountError> {
        Ok(self.read_row.send(ReadRow(row)).timeout(ASK_WAIT).await.map_err(AskError::from)??)
    }

    pub(super) async fn scan(&self, kind: RowKind) -> Result<Vec<(Row, Vec<u8>)>, AccountError> {
        Ok(self
            .scan_rows
            .send(ScanRows(kind))
            .timeout(ASK_WAIT)
            .await
            .map_err(AskError::from)??)
    }

    async fn read_json(&self, row: Row) -> Result<Option<Box<RawValue>>, AccountError> {
        let Some(value) = self.read(row).await? else { return Ok(None) };
        let value = serde_json::from_slice(&value)
            .map_err(|_| StoreError::Corrupt { what: "account data" })?;
        Ok(Some(value))
    }
}

/// Owns our users' devices, tokens and data.
#[derive(Debug)]
pub struct AccountsActor {
    pub(super) links: AccountsLinks,
    pub(super) sessions: Sessions,
    pub(super) login_tokens: LoginTokens,
    /// Whose node it is, once somebody has logged in.
    pub(super) owner: Option<OwnedUserId>,
    pub(super) people: People,
    /// Who may register.
    pub(super) registration: Registration,
    /// Sessions of user-interactive authentication.
    pub(super) uia: uia::Sessions,
    /// How often passwords and tokens were tried.
    pub(super) tries: Tries,
    /// Passwords that are being hashed, or wait for it.
    pub(super) hashing: usize,
    pub(super) hash_turns: Turns,
    pub(super) profiles: Profiles,
    polls: Polls,
    turns: Turns,
    /// To-device transactions that were handled; each is on disk when its turn ends.
    pub(super) txns: Txns,
    /// To-device messages of other servers.
    pub(super) waiting: Waiting,
}

impl AccountsActor {
    /// Reads what is stored, and starts on the Arbiter that this is called on.
    pub async fn start_loaded(
        links: AccountsLinks,
        owner: Option<OwnedUserId>,
        registration: Registration,
    ) -> Result<Addr<Self>, AccountError> {
        let corrupt = |what| StoreError::Corrupt { what };
        let devices = links.scan(RowKind::Devices).await?;
        let access = links.scan(RowKind::AccessTokens).await?;
        let refresh = links.scan(RowKind::RefreshTokens).await?;
        let sessions = Sessions::load(devices, access, refresh).map_err(corrupt)?;
        let people = People::load(links.scan(RowKind::Accounts).await?).map_err(corrupt)?;
        let profiles = Profile::load(links.scan(RowKind::Profiles).await?).map_err(corrupt)?;
        let registered = people.all_living().map(|(user_id, _)| user_id);
        let users: BTreeSet<&OwnedUserId> =
            sessions.users().chain(&owner).chain(registered).collect();
        for user_id in users {
            renew_push_rules(&links, user_id).await?;
            tell_listener(&links, user_id).await?;
        }
        let (txns, gone) = Txns::load(links.scan(RowKind::ToDeviceSeen).await?);
        links.write(gone.into_iter().map(|txn| (txn, None)).collect()).await?;
        let login_tokens = LoginTokens::new(rand::random());
        let (waiting, polls, turns) = (Waiting::default(), Polls::default(), Turns::default());
        let accounts = Self {
            links,
            sessions,
            login_tokens,
            owner,
            people,
            registration,
            uia: uia::Sessions::new(rand::random()),
            tries: Tries::default(),
            hashing: 0,
            hash_turns: Turns::default(),
            profiles,
            polls,
            turns,
            txns,
            waiting,
        };
        Ok(accounts.start())
    }

    pub(super) fn turn(&mut self) -> Turn {
        self.turns.take()
    }

    /// Runs a change of memory and disk when its turn comes: `plan` says what is written, `apply`
    /// what changes in memory once it is.
    pub(super) fn change<Planned, Plan, Apply, Out>(
        &mut self,
        plan: Plan,
        apply: Apply,
    ) -> ResponseActFuture<Self, Result<Out, AccountError>>
    where
        Planned: 'static,
        Out: 'static,
        Plan: FnOnce(&mut Self) -> Result<(Rows, Planned), AccountError> + 'static,
        Apply: FnOnce(&mut Self, Planned) -> Out + 'static,
    {
        let mut turn = self.turn();
        let turned = async move {
            turn.wait().await;
            turn
        };
        Box::pin(turned.into_actor(self).then(|turn, act: &mut Self, _| {
            let planned = plan(act);
            let links = act.links.clone();
            let written = async move {
                let (rows, planned) = planned?;
                links.write(rows).await?;
                Ok((turn, planned))
            };
            written.into_actor(act).map(|written: Result<_, AccountError>, act, _| {
                let (_turn, planned) = written?;
                Ok(apply(act, planned))
            })
        }))
    }

    /// Tells of a user's profile. The node is found by the name of its owner.
    pub(super) fn tell_profile(&self, user_id: &OwnedUserId, changed: bool) {
        let Profile { displayname, avatar_url, .. } = self.chosen(user_id);
        self.links.profile_updated.do_send(ProfileUpdated {
            user_id: user_id.clone(),
            shown: ShownAs { displayname, avatar_url },
            changed,
        });
        if self.owner.as_ref() == Some(user_id) {
            self.advertise();
        }
    }

    /// Tells the network by what the people of this node are found: the owner by the shown name, all
    /// others by the names that they registered with.
    pub(super) fn advertise(&self) {
        let Some(owner) = &self.owner else { return };
        let display_name = self.chosen(owner).advertised();
        let others = self.people.all_living().map(|(user_id, _)| user_id.localpart());
        let others = others.filter(|name| *name != LOCALPART).map(str::to_owned).collect();
        self.links.advertise.do_send(Advertise { display_name, others });
    }

    /// Returns all users of ours.
    pub(super) fn users(&self) -> BTreeSet<&OwnedUserId> {
        let registered = self.people.all_living().map(|(user_id, _)| user_id);
        let users = self.sessions.users().chain(&self.owner).chain(self.profiles.keys());
        // Until the rooms of somebody are left, the rooms know them.
        users.chain(registered).collect()
    }

    /// Returns the profile of a user of ours.
    pub(super) fn chosen(&self, user_id: &UserId) -> Profile {
        let chosen = self.profiles.get(user_id).cloned();
        chosen.unwrap_or_else(|| Profile::unchosen(user_id))
    }

    /// Tells whether this node has such a user.
    pub(super) fn is_ours(&self, user_id: &UserId) -> bool {
        if self.people.has_ended(user_id) {
            return false;
        }
        self.owner.as_deref() == Some(user_id)
            || self.people.living(user_id).is_some()
            || self.profiles.contains_key(user_id)
            || self.sessions.devices_of(user_id).next().is_some()
    }
}

impl Actor for AccountsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        // Neither the rooms nor the network keep them.
        for user_id in self.users() {
            self.tell_profile(user_id, false);
        }
    }
}

// ---------------------------------------------------------------- sessions

impl Handler<TakeWaitingPlace> for AccountsActor {
    type Result = WaitingPlace;

    fn handle(&mut self, msg: TakeWaitingPlace, _: &mut Context<Self>) -> Self::Result {
        WaitingPlace(self.polls.begin(msg.0))
    }
}

impl Handler<MintLoginToken> for AccountsActor {
    type Result = String;

    fn handle(&mut self, _: MintLoginToken, _: &mut Context<Self>) -> String {
        self.login_tokens.mint(rand::random(), uptime_ms())
    }
}

impl Handler<RenewLoginToken> for AccountsActor {
    type Result = Result<String, AccountError>;

    fn handle(&mut self, msg: RenewLoginToken, _: &mut Context<Self>) -> Self::Result {
        let now = uptime_ms();
        if !self.login_tokens.take(&msg.0, now) {
            return Err(AccountError::BadLoginToken);
        }
        Ok(self.login_tokens.mint(rand::random(), now))
    }
}

/// Gives the stored push rules what an older version did not have: clients read them as they are
/// stored.
async fn renew_push_rules(links: &AccountsLinks, user_id: &UserId) -> Result<(), AccountError> {
    let row = push_rules_of(user_id);
    let Some(stored) = links.read(row.clone()).await? else { return Ok(()) };
    let renewed = data::push_rules_row(data::push_rules(Some(&stored), user_id));
    if renewed == stored {
        return Ok(());
    }
    links.write(vec![(row, Some(renewed))]).await
}

/// Tells the rooms of what a user is notified. Done when they know: what is judged after a change is
/// judged by it.
async fn tell_listener(links: &AccountsLinks, user_id: &UserId) -> Result<(), AccountError> {
    let rules = links.read(push_rules_of(user_id)).await?;
    let ignored = Row::AccountData(user_id.to_owned(), data::IGNORED.to_owned());
    let ignored = links.read(ignored).await?;
    let listener = Listener {
        rules: data::push_rules(rules.as_deref(), user_id),
        ignored: ignored.map(|content| push_rules::ignored(&content)).unwrap_or_default(),
    };
    let listens = Listens { user_id: user_id.to_owned(), listener };
    links.listens.send(listens).timeout(ASK_WAIT).await.map_err(AskError::from)?;
    Ok(())
}

impl Handler<ListDevices> for AccountsActor {
    type Result = MessageResult<ListDevices>;

    fn handle(&mut self, msg: ListDevices, _: &mut Context<Self>) -> Self::Result {
        let devices: Vec<Device> = self.sessions.devices_of(&msg.0).cloned().collect();
        MessageResult(devices)
    }
}

impl Handler<RenameDevice> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: RenameDevice, _: &mut Context<Self>) -> Self::Result {
        let RenameDevice { device, display_name } = msg;
        self.change(
            move |act| {
                let rows = act.sessions.rename(&device, display_name.clone())?;
                Ok((rows, (device, display_name)))
            },
            |act, (Session { user_id, device_id }, display_name)| {
                if display_name.is_some() {
                    let renamed = DeviceRenamed { user_id, device_id, display_name };
                    act.links.device_renamed.do_send(renamed);
                }
            },
        )
    }
}

impl Handler<DeleteDevices> for AccountsActor {
    type Result = Answering<()>;

    fn handle(&mut self, msg: DeleteDevices, _: &mut Context<Self>) -> Self::Result {
        let DeleteDevices { user_id, device_ids } = msg;
        let of = user_id.clone();
        let which = move |act: &Self| device_ids.clone().unwrap_or_else(|| act.device_ids(&of));
        self.log_out(user_id, which, |_| Ok(Rows::new()))
    }
}

// ---------------------------------------------------------------- profile and data

impl Handler<LocalProfile> for AccountsActor {
    type Result = MessageResult<LocalProfile>;

    fn handle(&mut self, msg: LocalProfile, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.is_ours(&msg.0).then(|| self.chosen(&msg.0)))
    }
}

impl Handler<SetProfile> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: SetProfile, _: &mut Context<Self>) -> Self::Result {
        let SetProfile { user_id, field, value } = msg;
        self.change(
            move |act| {
                let known = act.chosen(&user_id);
                let (profile, row, value) = known.with(&user_id, field, value)?;
                Ok((vec![(row, Some(value))], (user_id, profile)))
            },
            |act, (user_id, profile)| {
                let is_new = act.chosen(&user_id) != profile;
                act.profiles.insert(user_id.clone(), profile);
                if is_new {
                    act.tell_profile(&user_id, true);
                }
            },
        )
    }
}

impl Handler<SetAccountData> for AccountsActor {
    type Result = ResponseFuture<Result<(), AccountError>>;

    fn handle(&mut self, msg: SetAccountData, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        let row = data::account_data_row(msg.user_id, msg.room_id, msg.kind);
        let value = msg.content.get().as_bytes().to_vec();
        let ignores = match &row {
            Row::AccountData(user_id, kind) if kind == data::IGNORED => Some(user_id.clone()),
            _ => None,
        };
        let Some(user_id) = ignores else {
            return Box::pin(async move { links.write(vec![(row, Some(value))]).await });
        };
        let mut turn = self.turn();
        Box::pin(async move {
            turn.wait().await;
            links.write(vec![(row, Some(value))]).await?;
            tell_listener(&links, &user_id).await
        })
    }
}

impl Handler<ReadAccountData> for AccountsActor {
    type Result = ResponseFuture<Result<Option<Box<RawValue>>, AccountError>>;

    fn handle(&mut self, msg: ReadAccountData, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        let row = data::account_data_row(msg.user_id, msg.room_id, msg.kind);
        Box::pin(async move { links.read_json(row).await })
    }
}

impl Handler<EditTag> for AccountsActor {
    type Result = ResponseFuture<Result<(), AccountError>>;

    fn handle(&mut self, msg: EditTag, _: &mut Context<Self>) -> Self::Result {
        let (links, mut turn) = (self.links.clone(), self.turn());
        Box::pin(async move {
            turn.wait().await;
            let row = Row::RoomAccountData(msg.user_id, msg.room_id, data::TAGS.to_owned());
            let content = links.read(row.clone()).await?;
            let content = data::edit_tags(content.as_deref(), msg.tag, msg.info)?;
            links.write(vec![(row, Some(content))]).await
        })
    }
}

impl Handler<SaveFilter> for AccountsActor {
    type Result = ResponseFuture<Result<String, AccountError>>;

    fn handle(&mut self, msg: SaveFilter, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        Box::pin(async move {
            let SaveFilter { user_id, filter } = msg;
            let id = data::filter_id(&filter);
            let row = Row::Filter(user_id, id.clone());
            if links.read(row.clone()).await?.is_none() {
                links.write(vec![(row, Some(filter.get().as_bytes().to_vec()))]).await?;
            }
            Ok(id)
        })
    }
}

impl Handler<ReadFilter> for AccountsActor {
    type Result = ResponseFuture<Result<Option<Box<RawValue>>, AccountError>>;

    fn handle(&mut self, msg: ReadFilter, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        Box::pin(async move { links.read_json(Row::Filter(msg.user_id, msg.filter_id)).await })
    }
}

impl Handler<ReadPushRules> for AccountsActor {
    type Result = ResponseFuture<Result<ruma::push::Ruleset, AccountError>>;

    fn handle(&mut self, msg: ReadPushRules, _: &mut Context<Self>) -> Self::Result {
        let links = self.links.clone();
        Box::pin(async move {
            let content = links.read(push_rules_of(&msg.0)).await?;
            Ok(data::push_rules(content.as_deref(), &msg.0))
        })
    }
}

impl Handler<EditPushRules> for AccountsActor {
    type Result = ResponseFuture<Result<(), AccountError>>;

    fn handle(&mut self, msg: EditPushRules, _: &mut Context<Self>) -> Self::Result {
        let (links, mut turn) = (self.links.clone(), self.turn());
        Box::pin(async move {
            turn.wait().await;
            let row = push_rules_of(&msg.user_id);
            let content = links.read(row.clone()).await?;
            let mut rules = data::push_rules(content.as_deref(), &msg.user_id);
            data::edit_push_rules(&mut rules, msg.edit)?;
            links.write(vec![(row, Some(data::push_rules_row(rules)))]).await?;
            tell_listener(&links, &msg.user_id).await
        })
    }
}

// ---------------------------------------------------------------- to-device messages

impl AccountsActor {
    /// Queues messages unless the transaction was handled already.
    fn queue_once(&mut self, txn: Txn, rows: Rows) -> ResponseFuture<Result<(), AccountError>> {
        // What is known may be on its way to the disk: wait for it.
        let rows =
            if self.txns.knows(&txn, now_ms()) { Rows::new() } else { self.remember(txn, rows) };
        let (links, mut turn) = (self.links.clone(), self.turn());
        Box::pin(async move {
            turn.wait().await;
            links.write(rows).await
        })
    }

    /// Adds to rows that are queued that their transaction was handled.
    pub(super) fn remember(&mut self, txn: Txn, mut rows: Rows) -> Rows {
        let (row, gone) = self.txns.add(txn, now_ms());
        rows.extend(gone.into_iter().map(|row| (row, None)));
        rows.push((row, Some(Vec::new())));
        rows
    }
}

impl Handler<SendToDevice> for AccountsActor {
    type Result = ResponseFuture<Result<(), AccountError>>;

    fn handle(&mut self, msg: SendToDevice, _: &mut Context<Self>) -> Self::Result {
        let Session { user_id, device_id } = msg.from;
        let rows = match to_device::queue(&self.sessions, &user_id, &msg.kind, &msg.messages) {
            Ok(rows) => rows,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        // One transaction id may be used by each device, and with each event type.
        let txn = Txn::own(&user_id, &device_id, &msg.txn_id, &msg.kind);
        self.queue_once(txn, rows)
    }
}
