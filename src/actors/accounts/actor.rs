//! The shell of Accounts: asks the Store, then changes memory, then answers.

use std::collections::BTreeSet;

use actix::{
    Actor, ActorFutureExt as _, Addr, Context, Handler, MessageResult, Recipient,
    ResponseActFuture, ResponseFuture, WrapFuture as _, fut,
};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    data::{self, Profiles},
    login_tokens::LoginTokens,
    messages::*,
    polls::Polls,
    sessions::{Device, LoggedIn, Rows, Session, Sessions, TokenHash, token},
    to_device,
    txns::{Txn, Txns},
    waiting::Waiting,
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        device_keys::{DeviceRenamed, ForgetDevices},
        error::AskError,
        identity::EnsureIdentity,
        rendezvous::Advertise,
        room::ShownAs,
        room_state::ProfileUpdated,
        store::{
            AckToDevice, CountToDevice, DropToDevice, ReadRow, Row, RowKind, ScanRows, StoreError,
            WriteRows,
        },
        turn::{Turn, Turns},
        upward::FindSharing,
    },
    config::{ASK_WAIT, limits},
    proto::server_name::user_of,
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
    login_tokens: LoginTokens,
    /// Whose node it is, once somebody has logged in.
    owner: Option<OwnedUserId>,
    profiles: Profiles,
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
    ) -> Result<Addr<Self>, AccountError> {
        let corrupt = |what| StoreError::Corrupt { what };
        let devices = links.scan(RowKind::Devices).await?;
        let tokens = links.scan(RowKind::AccessTokens).await?;
        let sessions = Sessions::load(devices, tokens).map_err(corrupt)?;
        let profiles = Profile::load(links.scan(RowKind::Profiles).await?).map_err(corrupt)?;
        let users: BTreeSet<&OwnedUserId> = sessions.users().chain(&owner).collect();
        for user_id in users {
            renew_push_rules(&links, user_id).await?;
        }
        let (txns, gone) = Txns::load(links.scan(RowKind::ToDeviceSeen).await?);
        links.write(gone.into_iter().map(|txn| (txn, None)).collect()).await?;
        let login_tokens = LoginTokens::new(rand::random());
        let (waiting, polls, turns) = (Waiting::default(), Polls::default(), Turns::default());
        let accounts =
            Self { links, sessions, login_tokens, owner, profiles, polls, turns, txns, waiting };
        Ok(accounts.start())
    }

    pub(super) fn turn(&mut self) -> Turn {
        self.turns.take()
    }

    /// Runs a change of memory and disk when its turn comes: `plan` says what is written, `apply`
    /// what changes in memory once it is.
    fn change<Planned, Plan, Apply, Out>(
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
    fn tell_profile(&self, user_id: &OwnedUserId, changed: bool) {
        let profile = self.chosen(user_id);
        let display_name = profile.advertised();
        let Profile { displayname, avatar_url } = profile;
        self.links.profile_updated.do_send(ProfileUpdated {
            user_id: user_id.clone(),
            shown: ShownAs { displayname, avatar_url },
            changed,
        });
        if self.owner.as_ref() == Some(user_id) {
            self.links.advertise.do_send(Advertise { display_name });
        }
    }

    /// Returns all users of ours.
    fn users(&self) -> BTreeSet<&OwnedUserId> {
        self.sessions.users().chain(&self.owner).chain(self.profiles.keys()).collect()
    }

    /// Returns the profile of a user of ours.
    fn chosen(&self, user_id: &UserId) -> Profile {
        let chosen = self.profiles.get(user_id).cloned();
        chosen.unwrap_or_else(|| Profile::unchosen(user_id))
    }

    fn is_ours(&self, user_id: &UserId) -> bool {
        self.owner.as_deref() == Some(user_id)
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

impl Handler<Authenticate> for AccountsActor {
    type Result = MessageResult<Authenticate>;

    fn handle(&mut self, msg: Authenticate, _: &mut Context<Self>) -> Self::Result {
        let found = self.sessions.authenticate(&msg.0, now_ms());
        MessageResult(found.map(|(session, rows)| {
            if let Some(rows) = rows {
                self.links.write_rows.do_send(WriteRows(rows));
            }
            session
        }))
    }
}

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

impl Handler<LogIn> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<LoggedIn, AccountError>>;

    fn handle(&mut self, msg: LogIn, _: &mut Context<Self>) -> Self::Result {
        let LogIn { login_token, device_id, initial_display_name } = msg;
        // Used up before anything is awaited: of two at the same time only one gets in.
        if !self.login_tokens.take(&login_token, uptime_ms()) {
            return Box::pin(fut::ready(Err(AccountError::BadLoginToken)));
        }
        let links = self.links.clone();
        let prepared = async move {
            let asked = links.ensure_identity.send(EnsureIdentity).timeout(ASK_WAIT).await;
            let signer = asked.map_err(AskError::from)??;
            let user_id = user_of(signer.server_name());
            let fresh = links.read(push_rules_of(&user_id)).await?.is_none();
            Ok((user_id, fresh))
        };
        Box::pin(prepared.into_actor(self).then(
            move |prepared: Result<(OwnedUserId, bool), AccountError>, act, _| {
                let (user_id, fresh) = match prepared {
                    Ok(prepared) => prepared,
                    Err(error) => {
                        let failed: ResponseActFuture<Self, _> = Box::pin(fut::ready(Err(error)));
                        return failed;
                    }
                };
                let access_token = token(rand::random());
                let hash = TokenHash::of(&access_token);
                let device_id = device_id.unwrap_or_else(new_device_id);
                let session = Session { user_id, device_id };
                let plan_session = session.clone();
                act.change(
                    move |act| {
                        let (mut rows, device) = act.sessions.begin(
                            hash,
                            &plan_session,
                            initial_display_name,
                            now_ms(),
                        )?;
                        if fresh {
                            rows.push(default_push_rules(&plan_session.user_id));
                        }
                        Ok((rows, device))
                    },
                    move |act, device| {
                        let name = device.display_name.as_ref().unwrap_or(&device.device_id);
                        log::info!("a device is logged in: {name}");
                        act.sessions.open(hash, session.clone(), device);
                        if act.owner.is_none() {
                            act.owner = Some(session.user_id.clone());
                        }
                        act.tell_profile(&session.user_id, false);
                        LoggedIn { session, access_token }
                    },
                )
            },
        ))
    }
}

/// Makes a device id: ten letters, as people see and compare them.
fn new_device_id() -> String {
    let random: [u8; 10] = rand::random();
    random.iter().map(|byte| char::from(b'A' + byte % 26)).collect()
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

/// Returns the row of a user's push rules.
fn push_rules_of(user_id: &UserId) -> Row {
    Row::AccountData(user_id.to_owned(), data::PUSH_RULES.to_owned())
}

/// Clients expect push rules from the first `/sync` on.
fn default_push_rules(user_id: &UserId) -> (Row, Option<Vec<u8>>) {
    let rules = data::push_rules_row(data::push_rules(None, user_id));
    (push_rules_of(user_id), Some(rules))
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
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: DeleteDevices, _: &mut Context<Self>) -> Self::Result {
        let DeleteDevices { user_id, device_ids } = msg;
        let device_ids = device_ids.unwrap_or_else(|| {
            let devices = self.sessions.devices_of(&user_id);
            devices.map(|device| device.device_id.clone()).collect()
        });
        let links = self.links.clone();
        let forget = ForgetDevices { user_id: user_id.clone(), device_ids: device_ids.clone() };
        // Their keys first: nobody is to encrypt for a device that nobody has.
        let forgot = async move {
            let asked = links.forget_devices.send(forget).timeout(ASK_WAIT).await;
            asked.map_err(AskError::from)?.map_err(AccountError::from)
        };
        let devices: Vec<Session> = device_ids
            .into_iter()
            .map(|device_id| Session { user_id: user_id.clone(), device_id })
            .collect();
        Box::pin(forgot.into_actor(self).then(move |forgot: Result<(), AccountError>, act, _| {
            act.change(
                move |act| {
                    forgot?;
                    Ok((act.sessions.delete(&devices), devices))
                },
                |act, devices| {
                    for Session { user_id, device_id } in devices {
                        // Beyond any position, and far from where adding one overflows.
                        let position = u64::MAX / 2;
                        let ack = AckToDevice { user_id, device_id, position };
                        act.links.ack_to_device.do_send(ack);
                    }
                },
            )
        }))
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
        Box::pin(async move { links.write(vec![(row, Some(value))]).await })
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
            links.write(vec![(row, Some(data::push_rules_row(rules)))]).await
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
