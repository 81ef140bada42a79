//! Logging in: by login tokens and passwords, and refreshing.

use std::net::IpAddr;

use actix::{
    ActorFutureExt as _, Context, Handler, MessageResult, ResponseActFuture, WrapFuture as _, fut,
};
use ruma::{OwnedUserId, UserId};

use super::{
    actor::{AccountsActor, AccountsLinks},
    credentials::{AnyPassword, Authenticate, LogIn, LogInBy, NewDevice, RefreshTokens},
    data,
    messages::AccountError,
    passwords::{self, Guessed},
    people::named,
    sessions::{Begun, LoggedIn, Rows, Session},
    tokens::{Pair, TokenHash, token},
};
use crate::{
    actors::{
        clock::{now_ms, uptime_ms},
        error::AskError,
        identity::EnsureIdentity,
        store::{Row, WriteRows},
    },
    config::{ASK_WAIT, limits},
    proto::server_name::user_of,
};

/// An answer of Accounts that takes a while.
pub(super) type Answering<T> = ResponseActFuture<AccountsActor, Result<T, AccountError>>;

/// Answers at once that it cannot be.
pub(super) fn refused<T: 'static>(error: impl Into<AccountError>) -> Answering<T> {
    Box::pin(fut::ready(Err(error.into())))
}

/// Tokens as a client gets them, once.
pub(super) struct NewTokens {
    access: String,
    refresh: Option<String>,
}

impl NewTokens {
    pub(super) fn random(refreshes: bool) -> Self {
        let refresh = refreshes.then(|| token(rand::random()));
        Self { access: token(rand::random()), refresh }
    }

    pub(super) fn pair(&self) -> Pair {
        let refresh = self.refresh.as_deref().map(TokenHash::of);
        Pair { access: TokenHash::of(&self.access), refresh }
    }

    pub(super) fn of(self, session: Session) -> LoggedIn {
        LoggedIn { session, access_token: self.access, refresh_token: self.refresh }
    }
}

/// Makes a device id: ten letters, as people see and compare them.
pub(super) fn new_device_id() -> String {
    let random: [u8; 10] = rand::random();
    random.iter().map(|byte| char::from(b'A' + byte % 26)).collect()
}

/// Makes the identity, where there is none yet; returns the owner of the node.
pub(super) async fn ensured(links: AccountsLinks) -> Result<OwnedUserId, AccountError> {
    let asked = links.ensure_identity.send(EnsureIdentity).timeout(ASK_WAIT).await;
    let signer = asked.map_err(AskError::from)??;
    Ok(user_of(signer.server_name()))
}

impl AccountsActor {
    /// Does what takes the processor its time, off this thread: one at a time, so that a flood of it
    /// leaves the other processors alone, and only so many wait.
    pub(super) fn slowly<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Answering<T> {
        if self.hashing >= limits::HASHES_WAITING {
            return refused(AskError::Overloaded);
        }
        self.hashing += 1;
        let mut turn = self.hash_turns.take();
        let done = async move {
            turn.wait().await;
            let done = tokio::task::spawn_blocking(job).await;
            drop(turn);
            done.map_err(|_| AccountError::from(AskError::Ended))
        };
        Box::pin(done.into_actor(self).map(|done, act: &mut Self, _| {
            act.hashing = act.hashing.saturating_sub(1);
            done
        }))
    }

    /// Compares a password with that of somebody, who may be nobody.
    pub(super) fn compare(
        &mut self,
        user: Option<OwnedUserId>,
        password: String,
        from: IpAddr,
    ) -> Answering<OwnedUserId> {
        let user = user.filter(|user| self.people.password(user).is_some());
        let guessed = user.clone().map_or(Guessed::Nobody, Guessed::Of);
        if let Err(wait) = self.tries.count(guessed.clone(), from, uptime_ms()) {
            return refused(AccountError::TooOften(wait));
        }
        let kept = user.as_ref().and_then(|user| self.people.password(user)).map(str::to_owned);
        let known = kept.clone();
        let right = self.slowly(move || passwords::is_right(&password, kept.as_deref()));
        Box::pin(right.map(move |right, act, _| {
            let user = user.filter(|_| right.as_ref().is_ok_and(|right| *right));
            right?;
            // It may have been changed meanwhile.
            let user = user.filter(|user| act.people.password(user) == known.as_deref());
            let user = user.ok_or(AccountError::BadPassword)?;
            act.tries.succeeded(guessed, from);
            Ok(user)
        }))
    }

    /// Begins a session of a user, who has push rules from the first one on.
    fn begin_whole(&mut self, user_id: OwnedUserId, device: NewDevice) -> Answering<LoggedIn> {
        let links = self.links.clone();
        let of = user_id.clone();
        let fresh = async move {
            let fresh = links.read(push_rules_of(&of)).await?.is_none();
            Ok(fresh.then(|| default_push_rules(&of)).into_iter().collect())
        };
        Box::pin(fresh.into_actor(self).then(
            |rows: Result<Rows, AccountError>, act, _| match rows {
                Ok(rows) => act.begin(user_id, device, rows),
                Err(error) => refused(error),
            },
        ))
    }

    /// Begins a session of a user, with `rows` beside it.
    fn begin(
        &mut self,
        user_id: OwnedUserId,
        device: NewDevice,
        rows: Rows,
    ) -> Answering<LoggedIn> {
        let tokens = NewTokens::random(device.refreshes);
        let pair = tokens.pair();
        let device_id = device.device_id.unwrap_or_else(new_device_id);
        let session = Session { user_id, device_id };
        let planned = session.clone();
        self.change(
            move |act| {
                if act.people.has_ended(&planned.user_id) {
                    return Err(AccountError::Deactivated);
                }
                let begun = act.sessions.begin(pair, &planned, device.display_name, now_ms());
                let (mut more, begun) = begun?;
                more.extend(rows);
                Ok((more, begun))
            },
            move |act, begun| {
                act.let_in(session.clone(), begun);
                act.tell_profile(&session.user_id, false);
                tokens.of(session)
            },
        )
    }

    /// Lets a session in that is on disk.
    pub(super) fn let_in(&mut self, session: Session, begun: Begun) {
        let device = &begun.device;
        let name = device.display_name.as_ref().unwrap_or(&device.device_id);
        log::info!("a device is logged in: {name}");
        self.sessions.open(session, begun);
    }

    /// Learns whose node it is.
    pub(super) fn belongs_to(&mut self, owner: &OwnedUserId) {
        if self.owner.is_none() {
            self.owner = Some(owner.clone());
            self.tell_profile(owner, false);
        }
    }
}

impl Handler<Authenticate> for AccountsActor {
    type Result = MessageResult<Authenticate>;

    fn handle(&mut self, msg: Authenticate, _: &mut Context<Self>) -> Self::Result {
        let found = self.sessions.authenticate(&msg.token, msg.from, now_ms());
        MessageResult(found.map(|(session, rows)| {
            if !rows.is_empty() {
                self.links.write_rows.do_send(WriteRows(rows));
            }
            session
        }))
    }
}

impl Handler<LogIn> for AccountsActor {
    type Result = Answering<LoggedIn>;

    fn handle(&mut self, msg: LogIn, _: &mut Context<Self>) -> Self::Result {
        let LogIn { by, device } = msg;
        match by {
            LogInBy::Token(login_token) => {
                // Used up before anything is awaited: of two at the same time only one gets in.
                if !self.login_tokens.take(&login_token, uptime_ms()) {
                    return refused(AccountError::BadLoginToken);
                }
                let owner = ensured(self.links.clone());
                Box::pin(owner.into_actor(self).then(|owner, act, _| match owner {
                    Ok(owner) => {
                        act.belongs_to(&owner);
                        act.begin_whole(owner, device)
                    }
                    Err(error) => refused(error),
                }))
            }
            LogInBy::Password { user, password, from } => {
                let server = self.owner.as_ref().map(|owner| owner.server_name().to_owned());
                let user = server.and_then(|server| named(&user, &server));
                let right = self.compare(user, password, from);
                Box::pin(right.then(|right, act, _| match right {
                    Ok(user) => act.begin_whole(user, device),
                    Err(error) => refused(error),
                }))
            }
        }
    }
}

impl Handler<RefreshTokens> for AccountsActor {
    type Result = Answering<LoggedIn>;

    fn handle(&mut self, msg: RefreshTokens, _: &mut Context<Self>) -> Self::Result {
        let by = TokenHash::of(&msg.0);
        let tokens = NewTokens::random(true);
        let pair = tokens.pair();
        self.change(
            move |act| act.sessions.tokens().refresh(by, pair, now_ms()),
            move |act, issued| {
                let session = issued.session().clone();
                act.sessions.tokens().open(issued);
                tokens.of(session)
            },
        )
    }
}

impl Handler<AnyPassword> for AccountsActor {
    type Result = MessageResult<AnyPassword>;

    fn handle(&mut self, _: AnyPassword, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.people.any_password())
    }
}

/// Returns the row of a user's push rules.
pub(super) fn push_rules_of(user_id: &UserId) -> Row {
    Row::AccountData(user_id.to_owned(), data::PUSH_RULES.to_owned())
}

/// Clients expect push rules from the first `/sync` on.
pub(super) fn default_push_rules(user_id: &UserId) -> (Row, Option<Vec<u8>>) {
    let rules = data::push_rules_row(data::push_rules(None, user_id));
    (push_rules_of(user_id), Some(rules))
}
