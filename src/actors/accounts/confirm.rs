//! The shell of user-interactive authentication: who has to prove what, and whether they did.

use actix::{ActorFutureExt as _, Context, Handler, MessageResult};
use ruma::OwnedUserId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    actor::AccountsActor,
    credentials::{
        Approve, Attempt, Challenge, CheckRegistrationToken, Confirm, Confirmed, Proof, ReadMatter,
    },
    household::{NO_REGISTRATION, OWNER_STAYS},
    login::{Answering, refused},
    messages::AccountError,
    passwords::Guessed,
    people::named,
    sessions::Session,
    uia::{Matter, Open, Operation, Stage, stages_of},
};
use crate::{actors::clock::uptime_ms, config::Registration};

/// Why a session of a client does not count.
const OVER: &str = "this session is over, or was begun for something else: begin again";

impl AccountsActor {
    /// Returns by what somebody can prove that it is them. Only the owner can be told by presence.
    fn stages(&self, matter: Matter, by: Option<&Session>) -> Result<Vec<Stage>, AccountError> {
        let Some(by) = by else {
            return match &self.registration {
                Registration::Off => Err(AccountError::Denied(NO_REGISTRATION.to_owned())),
                Registration::Open => Ok(vec![Stage::Dummy]),
                Registration::Token(_) => Ok(vec![Stage::RegistrationToken]),
            };
        };
        let password = self.people.password(&by.user_id).map(|_| Stage::Password);
        let is_owner = self.owner.as_ref() == Some(&by.user_id);
        if is_owner && matter == Matter::Deactivate {
            return Err(AccountError::Denied(OWNER_STAYS.to_owned()));
        }
        let sso = is_owner.then_some(Stage::Sso);
        let stages: Vec<Stage> = password.into_iter().chain(sso).collect();
        if stages.is_empty() {
            let why = format!(
                "this wants a password, and you have none: have `messagehub password {}` run where \
                 this node runs",
                by.user_id.localpart()
            );
            return Err(AccountError::Denied(why));
        }
        Ok(stages)
    }

    /// Asks for a proof, in the session that there is or in a new one.
    fn challenge(
        &self,
        operation: &Operation,
        stages: Vec<Stage>,
        session: Option<String>,
        error: Option<&'static str>,
    ) -> Confirmed {
        let session = session
            .unwrap_or_else(|| self.uia.begin(operation, &stages, rand::random(), uptime_ms()));
        Confirmed::NotYet(Challenge { session, stages, error })
    }

    /// Tells whether a session is the owner's to approve, and still counts.
    fn to_approve(&self, session: &str) -> Option<Open> {
        let open = self.uia.read(session, uptime_ms())?;
        stages_of(&open).contains(&Stage::Sso).then_some(open)
    }

    /// Tells whether a token lets people register; guesses are counted.
    fn is_registration_token(
        &mut self,
        token: &str,
        from: std::net::IpAddr,
    ) -> Result<bool, AccountError> {
        let Registration::Token(wanted) = &self.registration else { return Ok(false) };
        // Of equal length whatever was sent.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        let right = bool::from(hash(wanted).ct_eq(&hash(token)));
        let counted = self.tries.count(Guessed::RegistrationToken, from, uptime_ms());
        counted.map_err(AccountError::TooOften)?;
        if right {
            self.tries.succeeded(Guessed::RegistrationToken, from);
        }
        Ok(right)
    }
}

impl Handler<Confirm> for AccountsActor {
    type Result = Answering<Confirmed>;

    fn handle(&mut self, msg: Confirm, _: &mut Context<Self>) -> Self::Result {
        let Confirm { operation, by, attempt, from } = msg;
        let stages = match self.stages(operation.matter, by.as_ref()) {
            Ok(stages) => stages,
            Err(error) => return refused(error),
        };
        let answered =
            |confirmed| -> Answering<Confirmed> { Box::pin(actix::fut::ready(Ok(confirmed))) };
        let Some(Attempt { session, proof }) = attempt else {
            return answered(self.challenge(&operation, stages, None, None));
        };
        // Clients that know what will be asked send the proof at once, without a session.
        let open = session.as_deref().and_then(|session| self.uia.read(session, uptime_ms()));
        let open = open.filter(|open| open.is_for(&operation));
        if session.is_some() && open.is_none() {
            return answered(self.challenge(&operation, stages, None, Some(OVER)));
        }
        let is_offered = |stage: Stage| {
            stages.contains(&stage) && open.as_ref().is_none_or(|open| open.allows(stage))
        };
        let right = match proof {
            Proof::Page => {
                // Nothing was done on the page yet, or the client asks how far it is.
                let approved = open.as_ref().is_some_and(|open| self.uia.is_approved(open));
                if approved { Ok(()) } else { Err(None) }
            }
            Proof::Dummy if is_offered(Stage::Dummy) => Ok(()),
            Proof::RegistrationToken(token) if is_offered(Stage::RegistrationToken) => {
                match self.is_registration_token(&token, from) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Some("this is not the token that lets people register here")),
                    Err(error) => return refused(error),
                }
            }
            Proof::Password { user, password } if is_offered(Stage::Password) => {
                let is_them = |by: &Session| {
                    let named = named(&user, by.user_id.server_name());
                    named.as_ref() == Some(&by.user_id)
                };
                let Some(by) = by.filter(is_them) else {
                    let why = Some("the password of another user proves nothing");
                    return answered(self.challenge(&operation, stages, session, why));
                };
                let right = self.compare(Some(by.user_id), password, from);
                return Box::pin(right.map(
                    move |right: Result<OwnedUserId, _>, act, _| match right {
                        Ok(_) if act.pass(open.as_ref()) => Ok(Confirmed::Yes),
                        Ok(_) => Ok(act.challenge(&operation, stages, None, Some(OVER))),
                        Err(AccountError::BadPassword) => {
                            let why = Some("the password is wrong");
                            Ok(act.challenge(&operation, stages, session, why))
                        }
                        Err(error) => Err(error),
                    },
                ));
            }
            _ => Err(Some("this is not one of the ways to prove it here")),
        };
        answered(match right {
            Ok(()) if self.pass(open.as_ref()) => Confirmed::Yes,
            Ok(()) => self.challenge(&operation, stages, None, Some(OVER)),
            Err(why) => self.challenge(&operation, stages, session, why),
        })
    }
}

impl AccountsActor {
    /// Uses a session up, where there is one.
    fn pass(&mut self, open: Option<&Open>) -> bool {
        open.is_none_or(|open| self.uia.take(open, uptime_ms()))
    }
}

impl Handler<ReadMatter> for AccountsActor {
    type Result = MessageResult<ReadMatter>;

    fn handle(&mut self, msg: ReadMatter, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.to_approve(&msg.0).map(|open| open.matter()))
    }
}

impl Handler<Approve> for AccountsActor {
    type Result = bool;

    fn handle(&mut self, msg: Approve, _: &mut Context<Self>) -> bool {
        let open = self.to_approve(&msg.0);
        open.is_some_and(|open| self.uia.approve(&open, uptime_ms()))
    }
}

impl Handler<CheckRegistrationToken> for AccountsActor {
    type Result = Result<bool, AccountError>;

    fn handle(&mut self, msg: CheckRegistrationToken, _: &mut Context<Self>) -> Self::Result {
        self.is_registration_token(&msg.token, msg.from)
    }
}
