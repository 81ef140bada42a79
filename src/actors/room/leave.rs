//! How our users leave, and turn invites down: where only others can take them out of the room, that is
//! owed to these.

use actix::{Context, Handler, ResponseFuture};
use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use super::{
    actor::{RoomActor, operate},
    client::own_content,
    join::Asker,
    messages::{Leave, RoomError, ShownAs},
    worker::Worker,
};
use crate::{
    actors::{
        clock::now_ms,
        outbox::{Debt, Decided, Form, LeaveThrough, Matter, Owe},
        store::OwnMembership,
        upward::FederationError,
    },
    config::limits,
    proto::pdu::Draft,
};

/// Servers that are to take somebody out of a room who turned an invite down; one of them is enough.
const LEAVE_SERVERS: usize = 4;

impl Handler<Leave> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: Leave, ctx: &mut Context<Self>) -> Self::Result {
        let Leave { by, reason, permit } = msg;
        let worker = self.worker(ctx);
        let now = now_ms();
        let content = own_content(&MembershipState::Leave, &ShownAs::default(), reason.as_deref());
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(by.to_string()),
            content,
            redacts: None,
        };
        Box::pin(async move {
            let _permit = permit;
            let owed = worker.owe_leave(&by).await?;
            let author = std::sync::Arc::clone(&worker.signer);
            let left = operate(&worker.room, None, move |machine| {
                let Some(own) = machine.membership(&by).cloned() else {
                    return Err(RoomError::NotFound.into());
                };
                match own.membership {
                    MembershipState::Join => {
                        let author = author.author(&by)?;
                        let (_, change) = machine.send(draft.clone(), None, author, now)?;
                        Ok(((), Some(Box::new(change))))
                    }
                    // While others of us are in the room, he is in its state.
                    MembershipState::Invite if machine.is_resident() => {
                        let author = author.author(&by)?;
                        let pdu = machine.compose(draft.clone(), author, now)?;
                        Ok(((), Some(Box::new(machine.send_composed(pdu, None)?))))
                    }
                    MembershipState::Invite | MembershipState::Knock => {
                        // Kept in mind, so that it is not shown again when it is sent again.
                        let invite = turned_down(&own);
                        let left = MembershipState::Leave;
                        let change = machine.set_membership(by.clone(), left, invite, None);
                        Ok(((), Some(Box::new(change))))
                    }
                    _ => Ok(((), None)),
                }
            })
            .await;
            for (destination, event_id) in owed {
                let stands = left.is_ok();
                worker.links.decided.do_send(Decided { destination, event_id, stands });
            }
            left
        })
    }
}

/// Returns the event that somebody turns down: his invite, or his knock.
fn turned_down(own: &OwnMembership) -> Option<OwnedEventId> {
    let invite = own.invite.as_ref().map(|invite| invite.event.event_id.clone());
    invite.or_else(|| own.event_id.clone())
}

impl Worker {
    /// Where only others can take a user of ours out of the room, that is owed to them before it is so
    /// here. Returns to whom, and for which invite.
    async fn owe_leave(
        &self,
        user: &OwnedUserId,
    ) -> Result<Vec<(OwnedServerName, OwnedEventId)>, RoomError> {
        let who = user.clone();
        let away = operate(&self.room, None, move |machine| {
            let own = machine.membership(&who).filter(|own| {
                matches!(own.membership, MembershipState::Invite | MembershipState::Knock)
            });
            let Some(own) = own.filter(|_| !machine.is_resident()) else { return Ok((None, None)) };
            let invite = turned_down(own);
            let servers = machine.candidates(&machine.invited_through(&who));
            Ok((Some((servers, machine.version().clone(), invite)), None))
        });
        let Some((servers, version, invite)) = away.await? else { return Ok(Vec::new()) };
        let once = invite.clone().map(|event_id| (self.room_id.clone(), event_id));
        let servers: Vec<_> = servers.into_iter().take(LEAVE_SERVERS).collect();
        let debt = |destination: &OwnedServerName| Debt {
            destination: destination.clone(),
            matter: Matter::Declined {
                room_id: self.room_id.clone(),
                user_id: user.clone(),
                event_id: invite.clone(),
            },
            form: Form::Leave { version: version.clone() },
            once: once.clone(),
        };
        let owe = Owe(servers.iter().map(debt).collect());
        // He is out of it here in any case; the others learn of it when they ask whether the invite stands.
        match self.links.owe.send(owe).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!(room_id:% = self.room_id; "a leave is not owed: {error}"),
            Err(error) => return Err(RoomError::Ask(error.into())),
        }
        Ok(invite.map_or_else(Vec::new, |invite| {
            servers.into_iter().map(|server| (server, invite.clone())).collect()
        }))
    }
}

impl Handler<LeaveThrough> for RoomActor {
    type Result = ResponseFuture<Result<(), FederationError>>;

    fn handle(&mut self, msg: LeaveThrough, ctx: &mut Context<Self>) -> Self::Result {
        let worker = self.worker(ctx);
        let server = msg.server_name.clone();
        Box::pin(async move {
            worker.leave_through(msg).await.map_err(|error| match error {
                RoomError::Federation(error) => error,
                RoomError::Ask(_) => FederationError::Offline,
                error => FederationError::BadAnswer { server, why: error.to_string() },
            })
        })
    }
}

impl Worker {
    /// Has a server take a user of ours out of the room, unless that is not wanted any more.
    async fn leave_through(&self, msg: LeaveThrough) -> Result<(), RoomError> {
        let LeaveThrough { server_name, user_id, event_id, version, .. } = msg;
        let who = user_id.clone();
        let is_wanted = operate(&self.room, None, move |machine| {
            let Some(own) = machine.membership(&who) else { return Ok((true, None)) };
            // Invited anew, or not decided when this node was killed: then he still sees it.
            let is_wanted = own.membership == MembershipState::Leave && own.event_id == event_id;
            Ok((is_wanted, None))
        });
        match is_wanted.await {
            Ok(false) => return Ok(()),
            // A room that was forgotten.
            Ok(true) | Err(RoomError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let asker = Asker {
            links: &self.links,
            room_id: &self.room_id,
            signer: &self.signer,
            by: &user_id,
            wait: limits::FEDERATION_WAIT,
        };
        asker.refuse(&server_name, &version).await
    }
}
