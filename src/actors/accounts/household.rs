//! The people of this node: registering, passwords, and the end of an account.

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, MessageResult, WrapFuture as _,
};
use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState, server_name};

use super::{
    actor::{AccountsActor, AccountsLinks},
    credentials::{
        CheckName, Deactivate, LeaveRooms, ListPeople, LocalPerson, LogOut, Register, Registered,
        SetPassword, Whose,
    },
    login::{Answering, NewTokens, default_push_rules, ensured, new_device_id, refused},
    messages::AccountError,
    passwords,
    people::{Ended, Person, named},
    sessions::{Rows, Session, to_json},
};
use crate::{
    actors::{
        admission::Admission,
        clock::now_ms,
        device_keys::ForgetDevices,
        error::AskError,
        room::Leave,
        room_state::{ListRooms, ToRoom, UserGone},
        store::{AckToDevice, Row, RowKind},
    },
    config::{ASK_WAIT, Registration},
};

/// Why nobody can register.
pub(super) const NO_REGISTRATION: &str =
    "nobody can register here (accounts.registration is false)";
/// Why the owner cannot be deactivated.
pub(super) const OWNER_STAYS: &str =
    "this node is its owner's: to end that account, stop the node and delete its data folder";

impl AccountsActor {
    fn check_name(&self, localpart: &str) -> Result<OwnedUserId, AccountError> {
        // Before there is an identity nobody has a name.
        let server = self.owner.as_ref().map(|owner| owner.server_name());
        let server = server.unwrap_or(server_name!("nobody.invalid"));
        self.people.new_id(localpart, server, |user| self.is_ours(user))
    }

    /// Logs devices of a user out, with `more` written in the same moment. Their keys go first: nobody is
    /// to encrypt for a device that nobody has. Which devices they are is asked again when it is done:
    /// one may have logged in meanwhile.
    pub(super) fn log_out(
        &mut self,
        user_id: OwnedUserId,
        which: impl Fn(&Self) -> Vec<String> + 'static,
        more: impl FnOnce(&mut Self) -> Result<Rows, AccountError> + 'static,
    ) -> Answering<()> {
        let links = self.links.clone();
        let device_ids = which(self);
        let forget = ForgetDevices { user_id: user_id.clone(), device_ids };
        let forgot = async move {
            if forget.device_ids.is_empty() {
                return Ok(());
            }
            let asked = links.forget_devices.send(forget).timeout(ASK_WAIT).await;
            asked.map_err(AskError::from)?.map_err(AccountError::from)
        };
        Box::pin(forgot.into_actor(self).then(move |forgot: Result<(), AccountError>, act, _| {
            act.change(
                move |act| {
                    forgot?;
                    let mut rows = more(act)?;
                    let devices = which(act).into_iter();
                    let devices: Vec<Session> = devices
                        .map(|device_id| Session { user_id: user_id.clone(), device_id })
                        .collect();
                    rows.extend(act.sessions.delete(&devices));
                    Ok((rows, devices))
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

    pub(super) fn device_ids(&self, user_id: &OwnedUserId) -> Vec<String> {
        let devices = self.sessions.devices_of(user_id);
        devices.map(|device| device.device_id.clone()).collect()
    }

    fn set_password(
        &mut self,
        user_id: OwnedUserId,
        hash: String,
        log_out: LogOut,
    ) -> Answering<OwnedUserId> {
        let (user, kept) = (user_id.clone(), hash.clone());
        let of = user_id.clone();
        let which = move |act: &Self| {
            let mut device_ids = act.device_ids(&of);
            device_ids.retain(|device_id| match &log_out {
                LogOut::Nobody => false,
                LogOut::AllBut(this) => device_id != this,
                LogOut::Everybody => true,
            });
            device_ids
        };
        let done = self.log_out(user_id.clone(), which, move |act| {
            if !act.is_ours(&user) {
                return Err(AccountError::NotFound("person here"));
            }
            let person = Person { password: Some(kept), ..act.person(&user) };
            Ok(vec![account_row(user, &person)])
        });
        Box::pin(done.map(move |done, act, _| {
            done?;
            let person = Person { password: Some(hash), ..act.person(&user_id) };
            act.people.put(user_id.clone(), person);
            Ok(user_id)
        }))
    }

    fn person(&self, user_id: &OwnedUserId) -> Person {
        self.people.get(user_id)
    }

    /// Leaves the rooms of somebody whose account ended, and takes away what was kept for him.
    fn clear_out(&mut self, user_id: OwnedUserId, ctx: &mut Context<Self>) {
        let links = self.links.clone();
        let user = user_id.clone();
        let left = async move { leave_all(&links, &user).await };
        ctx.spawn(left.into_actor(self).map(move |left, act, ctx| {
            let rows = match left {
                Ok(rows) => rows,
                Err(error) => {
                    return log::warn!(
                        user_id:%, error:%; "not all rooms of an ended account are left yet; the next \
                         start tries again"
                    );
                }
            };
            let person = Person { ended: Some(Ended::Gone), password: None, ..act.person(&user_id) };
            let gone = act.change(
                move |_| {
                    let mut rows = rows;
                    rows.push(account_row(user_id.clone(), &person));
                    Ok((rows, (user_id, person)))
                },
                |act, (user_id, person)| {
                    act.profiles.remove(&user_id);
                    act.people.put(user_id, person);
                },
            );
            ctx.spawn(gone.map(|gone, _, _| {
                if let Err(error) = gone {
                    log::warn!(error:%; "what was kept for an ended account is not gone yet");
                }
            }));
        }));
    }
}

fn account_row(user_id: OwnedUserId, person: &Person) -> (Row, Option<Vec<u8>>) {
    (Row::Account(user_id), Some(to_json(person)))
}

/// Leaves all rooms of somebody and turns invites down; returns the rows that are to go then.
async fn leave_all(links: &AccountsLinks, user_id: &OwnedUserId) -> Result<Rows, AccountError> {
    use MembershipState::{Invite, Join, Knock};
    let budget = Admission::new(1);
    let rooms = links.list_rooms.send(ListRooms(user_id.clone())).timeout(ASK_WAIT).await;
    let rooms: Vec<(OwnedRoomId, MembershipState)> = rooms.map_err(AskError::from)?;
    let mut failed = None;
    for (room_id, membership) in rooms {
        if !matches!(membership, Join | Invite | Knock) {
            continue;
        }
        let message = Leave { by: user_id.clone(), reason: None, permit: budget.admit()? };
        let asked = links.leave.send(ToRoom { room_id: room_id.clone(), message });
        match asked.timeout(ASK_WAIT).await.map_err(AskError::from)? {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => {
                log::debug!(room_id:%, error:%; "a room of an ended account is not left");
                failed.get_or_insert(error.to_string());
            }
        }
    }
    if let Some(why) = failed {
        return Err(AccountError::BadRequest(why));
    }
    links.user_gone.do_send(UserGone(user_id.clone()));
    let mut rows = vec![
        Row::Profile(user_id.clone(), "displayname".to_owned()),
        Row::Profile(user_id.clone(), "avatar_url".to_owned()),
    ];
    for kind in [RowKind::AccountData(user_id.clone()), RowKind::Filters(user_id.clone())] {
        rows.extend(links.scan(kind).await?.into_iter().map(|(row, _)| row));
    }
    Ok(rows.into_iter().map(|row| (row, None)).collect())
}

impl Handler<SetPassword> for AccountsActor {
    type Result = Answering<OwnedUserId>;

    fn handle(&mut self, msg: SetPassword, _: &mut Context<Self>) -> Self::Result {
        let SetPassword { whose, password, log_out } = msg;
        if let Err(error) = passwords::check_password(&password) {
            return refused(error);
        }
        let salt = rand::random();
        let hashed = self.slowly(move || passwords::hashed(&password, salt));
        let links = self.links.clone();
        Box::pin(hashed.then(move |hash, act, _| {
            let found = async move {
                let hash = hash??;
                let owner = ensured(links).await?;
                let user_id = match whose {
                    Whose::User(user_id) => user_id,
                    Whose::Named(None) => owner.clone(),
                    Whose::Named(Some(name)) => named(&name, owner.server_name())
                        .ok_or(AccountError::NotFound("person here"))?,
                };
                Ok((owner, user_id, hash))
            };
            found.into_actor(act).then(move |found: Result<_, AccountError>, act, _| match found {
                Ok((owner, user_id, hash)) => {
                    act.belongs_to(&owner);
                    act.set_password(user_id, hash, log_out)
                }
                Err(error) => refused(error),
            })
        }))
    }
}

impl Handler<CheckName> for AccountsActor {
    type Result = Result<(), AccountError>;

    fn handle(&mut self, msg: CheckName, _: &mut Context<Self>) -> Self::Result {
        if self.registration == Registration::Off {
            return Err(AccountError::Denied(NO_REGISTRATION.to_owned()));
        }
        self.check_name(&msg.0)?;
        self.people.check_place()
    }
}

impl Handler<Register> for AccountsActor {
    type Result = Answering<Registered>;

    fn handle(&mut self, msg: Register, _: &mut Context<Self>) -> Self::Result {
        let Register { localpart, password, device } = msg;
        if let Err(error) = passwords::check_password(&password) {
            return refused(error);
        }
        let localpart = localpart.unwrap_or_else(|| new_device_id().to_ascii_lowercase());
        let salt = rand::random();
        let hashed = self.slowly(move || passwords::hashed(&password, salt));
        let links = self.links.clone();
        Box::pin(hashed.then(move |hash, act, _| {
            let prepared = async move { Ok((ensured(links).await?, hash??)) };
            prepared.into_actor(act).then(
                move |prepared: Result<(OwnedUserId, String), AccountError>, act, _| {
                    let (owner, hash) = match prepared {
                        Ok(prepared) => prepared,
                        Err(error) => return refused(error),
                    };
                    act.belongs_to(&owner);
                    act.register(localpart, hash, device)
                },
            )
        }))
    }
}

impl AccountsActor {
    /// All or nothing: one write has the account, its push rules, and its device.
    fn register(
        &mut self,
        localpart: String,
        hash: String,
        device: Option<super::NewDevice>,
    ) -> Answering<Registered> {
        let now = now_ms();
        let person = Person { password: Some(hash), registered_ts: Some(now), ended: None };
        let tokens = device.as_ref().map(|device| NewTokens::random(device.refreshes));
        let pair = tokens.as_ref().map(NewTokens::pair);
        self.change(
            move |act| {
                // Of two at once who want the same name, the second one's turn comes here.
                let user_id = act.check_name(&localpart)?;
                act.people.check_place()?;
                let mut rows =
                    vec![account_row(user_id.clone(), &person), default_push_rules(&user_id)];
                let mut begun = None;
                if let (Some(device), Some(pair)) = (device, pair) {
                    let device_id = device.device_id.unwrap_or_else(new_device_id);
                    let session = Session { user_id: user_id.clone(), device_id };
                    let (more, new) =
                        act.sessions.begin(pair, &session, device.display_name, now)?;
                    rows.extend(more);
                    begun = Some((session, new));
                }
                Ok((rows, (user_id, person, begun)))
            },
            move |act, (user_id, person, begun)| {
                log::info!("{user_id} registered");
                act.people.put(user_id.clone(), person);
                act.tell_profile(&user_id, false);
                act.advertise();
                let session = begun.zip(tokens).map(|((session, begun), tokens)| {
                    act.let_in(session.clone(), begun);
                    tokens.of(session)
                });
                Registered { user_id, session }
            },
        )
    }
}

impl Handler<Deactivate> for AccountsActor {
    type Result = Answering<()>;

    fn handle(&mut self, msg: Deactivate, _: &mut Context<Self>) -> Self::Result {
        let user_id = msg.0;
        if self.owner.as_ref() == Some(&user_id) {
            return refused(AccountError::Denied(OWNER_STAYS.to_owned()));
        }
        let person = Person {
            ended: Some(Ended::Leaving),
            password: None,
            registered_ts: self.person(&user_id).registered_ts.or(Some(0)),
        };
        let (planned, user) = (person.clone(), user_id.clone());
        let of = user_id.clone();
        let all = move |act: &Self| act.device_ids(&of);
        let ended =
            self.log_out(user_id.clone(), all, move |_| Ok(vec![account_row(user, &planned)]));
        Box::pin(ended.map(move |ended, act, ctx| {
            ended?;
            log::info!("the account of {user_id} ended");
            act.people.put(user_id.clone(), person);
            act.advertise();
            act.clear_out(user_id, ctx);
            Ok(())
        }))
    }
}

impl Handler<LeaveRooms> for AccountsActor {
    type Result = ();

    fn handle(&mut self, _: LeaveRooms, ctx: &mut Context<Self>) {
        for user_id in self.people.leaving() {
            self.clear_out(user_id, ctx);
        }
    }
}

impl Handler<ListPeople> for AccountsActor {
    type Result = MessageResult<ListPeople>;

    fn handle(&mut self, _: ListPeople, _: &mut Context<Self>) -> Self::Result {
        let people = self.users().into_iter().filter(|user_id| !self.people.has_ended(user_id));
        let people = people.map(|user_id| LocalPerson {
            user_id: user_id.clone(),
            profile: self.chosen(user_id),
            devices: self.sessions.devices_of(user_id).count(),
            has_password: self.people.password(user_id).is_some(),
        });
        MessageResult(people.collect())
    }
}
