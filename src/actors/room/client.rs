//! What our users do in the room: send, change memberships, type, read.

use actix::{AsyncContext as _, Context, Handler, ResponseFuture};
use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::{
    actor::{RoomActor, operate},
    edus,
    invite::invite,
    links::Links,
    machine::{Ingested, Machine},
    messages::{
        ChangeMembership, CreateInRoom, Forget, MemberChange, ProfileChanged, Publish, RoomError,
        SendEvent, SetTyping, ShownAs,
    },
};
use crate::{
    actors::{clock::now_ms, ephemera::Typing, store::Place},
    proto::pdu::{Draft, Pdu, Received},
};

impl Handler<SendEvent> for RoomActor {
    type Result = ResponseFuture<Result<OwnedEventId, RoomError>>;

    fn handle(&mut self, msg: SendEvent, ctx: &mut Context<Self>) -> Self::Result {
        let SendEvent { by, kind, state_key, mut content, redacts, txn, permit } = msg;
        let (mut invited, mut other) = (None, None);
        if kind == TimelineEventType::RoomMember {
            match member_of(state_key.as_deref()) {
                Err(error) => return Box::pin(async move { Err(error) }),
                // A client that sets its own membership leaves name and avatar to the server.
                Ok(user) if user == by => {
                    fill_profile(&mut content, &self.links.shown(&by));
                }
                Ok(user) => {
                    let membership = content.get("membership").and_then(|value| value.as_str());
                    invited = Some(user.clone()).filter(|_| membership == Some("invite"));
                    other = Some(user);
                }
            }
        }
        let signer = std::sync::Arc::clone(&self.signer);
        let draft = Draft { kind, state_key, content, redacts };
        // Whoever is invited has to hear of it, whichever way a client says so.
        if let Some(user_id) = invited {
            let inviting = self.inviting.begin(user_id.clone());
            let (room, links) = (ctx.address(), self.links.clone());
            return Box::pin(async move {
                let _held = (inviting, permit);
                invite(&room, &links, (by, user_id), draft, None, signer).await
            });
        }
        // One time for all runs of the operation: it has to compose the same event in each.
        let now = now_ms();
        let sent = self.operate(ctx, move |machine| {
            if let Some(known) = txn.as_ref().and_then(|txn| machine.txn(&by, txn)) {
                return Ok((known.clone(), None));
            }
            // The same state again is no news (Client-Server API, "PUT state").
            if let Some(same) = machine.unchanged(&draft, &by) {
                return Ok((same, None));
            }
            if let Some(user) = &other {
                machine.check_somebody(user)?;
            }
            let author = signer.author(&by)?;
            let (id, change) = machine.send(draft.clone(), txn.clone(), author, now)?;
            Ok((id, Some(Box::new(change))))
        });
        Box::pin(async move {
            let sent = sent.await;
            drop(permit);
            sent
        })
    }
}

/// Returns whose membership a state key names.
fn member_of(state_key: Option<&str>) -> Result<OwnedUserId, RoomError> {
    OwnedUserId::try_from(state_key.unwrap_or_default())
        .map_err(|error| RoomError::BadRequest(format!("the state key is no user: {error}")))
}

pub(super) fn fill_profile(content: &mut ruma::CanonicalJsonObject, profile: &ShownAs) {
    let fields = [("displayname", &profile.displayname), ("avatar_url", &profile.avatar_url)];
    for (key, value) in fields {
        if let Some(value) = value {
            content
                .entry(key.to_owned())
                .or_insert_with(|| CanonicalJsonValue::String(value.clone()));
        }
    }
}

impl Handler<CreateInRoom> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: CreateInRoom, ctx: &mut Context<Self>) -> Self::Result {
        let CreateInRoom { by, version, create, mut drafts } = msg;
        let join = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(by.to_string()),
            content: own_content(&MembershipState::Join, &self.links.shown(&by), None),
            redacts: None,
        };
        drafts.insert(0, join);
        let signer = std::sync::Arc::clone(&self.signer);
        let (operation, done) = super::operate::operation(move |machine: &mut Machine| {
            let change =
                machine.create((*create).clone(), drafts.clone(), signer.author(&by)?, now_ms())?;
            Ok(((), Some(Box::new(change))))
        });
        self.enqueue(operation, version, ctx);
        Box::pin(super::operate::outcome(done))
    }
}

/// Makes the content of the membership event of a user of ours.
pub(super) fn own_content(
    membership: &MembershipState,
    profile: &ShownAs,
    reason: Option<&str>,
) -> ruma::CanonicalJsonObject {
    Machine::member_content(
        membership,
        profile.displayname.as_deref(),
        profile.avatar_url.as_deref(),
        reason,
    )
}

impl Handler<ChangeMembership> for RoomActor {
    type Result = ResponseFuture<Result<OwnedEventId, RoomError>>;

    fn handle(&mut self, msg: ChangeMembership, ctx: &mut Context<Self>) -> Self::Result {
        let ChangeMembership { by, user_id, change, reason, is_direct, invitee, permit } = msg;
        let signer = std::sync::Arc::clone(&self.signer);
        let links = self.links.clone();
        let room = ctx.address();
        let membership = match change {
            MemberChange::Invite => MembershipState::Invite,
            MemberChange::Kick | MemberChange::Unban => MembershipState::Leave,
            MemberChange::Ban => MembershipState::Ban,
        };
        let mut content = Machine::member_content(&membership, None, None, reason.as_deref());
        if is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user_id.to_string()),
            content,
            redacts: None,
        };
        let now = now_ms();
        let inviting =
            (change == MemberChange::Invite).then(|| self.inviting.begin(user_id.clone()));
        Box::pin(async move {
            let _permit = permit;
            let _inviting = inviting;
            if change == MemberChange::Invite {
                return invite(&room, &links, (by, user_id), draft, invitee, signer).await;
            }
            operate(&room, None, move |machine| {
                machine.check_change(&user_id, change)?;
                let (id, change) = machine.send(draft.clone(), None, signer.author(&by)?, now)?;
                Ok((id, Some(Box::new(change))))
            })
            .await
        })
    }
}

/// Makes room for an event of ours that was composed a moment ago, and publishes it. The room may
/// have moved on meanwhile, so it takes the way of any event.
pub(super) async fn send_checked(
    room: &actix::Addr<RoomActor>,
    links: &Links,
    pdu: Pdu,
    signer: &crate::proto::signer::Signer,
) -> Result<(), RoomError> {
    let server_keys = crate::proto::server_keys::VerifiedServerKeys::verify(
        signer.server_keys().clone(),
        now_ms(),
    )?;
    let received = Received { pdu, spoilt: false, server_keys };
    let published = std::sync::Arc::new(received.pdu.clone());
    let accepted = operate(room, None, move |machine| match machine.ingest(&received, None)? {
        Ingested::New(change, place) => Ok((place == Place::Live, Some(change))),
        Ingested::Duplicate => {
            Ok((machine.place(&received.pdu.event_id) == Some(Place::Live), None))
        }
        Ingested::Parked | Ingested::Full => Ok((false, None)),
    })
    .await?;
    if !accepted {
        return Err(RoomError::Forbidden("the room changed meanwhile".into()));
    }
    room.do_send(Publish::new(links.wire(&[published], signer).await, Vec::new()));
    Ok(())
}

impl Handler<Forget> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: Forget, ctx: &mut Context<Self>) -> Self::Result {
        let forget = move |machine: &mut Machine| Ok(((), machine.forget(&msg.0).map(Box::new)));
        let forgotten = self.operate(ctx, forget);
        Box::pin(forgotten)
    }
}

impl Handler<ProfileChanged> for RoomActor {
    type Result = ();

    fn handle(&mut self, msg: ProfileChanged, ctx: &mut Context<Self>) {
        let by = msg.0;
        let signer = std::sync::Arc::clone(&self.signer);
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(by.to_string()),
            content: own_content(&MembershipState::Join, &self.links.shown(&by), None),
            redacts: None,
        };
        let now = now_ms();
        let sent = self.operate(ctx, move |machine| {
            if !machine.has_in(&by) || machine.unchanged(&draft, &by).is_some() {
                return Ok(((), None));
            }
            let (_, change) = machine.send(draft.clone(), None, signer.author(&by)?, now)?;
            Ok(((), Some(Box::new(change))))
        });
        let room_id = self.room_id.clone();
        actix::spawn(async move {
            if let Err(error) = sent.await {
                log::warn!(room_id:%; "the new profile could not be shown in a room: {error}");
            }
        });
    }
}

impl RoomActor {
    /// Returns what one works with who is joined; the user has to be.
    pub(super) fn joined(
        &mut self,
        by: OwnedUserId,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(std::sync::Arc<Links>, OwnedRoomId, OwnedUserId), RoomError>> + use<>
    {
        let user = by.clone();
        let joined = self.operate(ctx, move |machine| Ok((machine.has_in(&user), None)));
        let (links, room_id) = (self.links.clone(), self.room_id.clone());
        async move { if joined.await? { Ok((links, room_id, by)) } else { Err(RoomError::NotFound) } }
    }
}

impl Handler<SetTyping> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: SetTyping, ctx: &mut Context<Self>) -> Self::Result {
        let joined = self.joined(msg.by.clone(), ctx);
        let room = ctx.address();
        Box::pin(async move {
            let (links, room_id, user_id) = joined.await?;
            let edu = edus::typing(&room_id, &user_id, msg.timeout_ms.is_some())?;
            let typing = Typing { room_id: room_id.clone(), user_id, timeout_ms: msg.timeout_ms };
            links.typing.do_send(typing);
            room.do_send(Publish::new(Vec::new(), vec![edu]));
            Ok(())
        })
    }
}

/// Returns the name of a state event type for lookups.
pub(super) fn state_type(kind: &str) -> StateEventType {
    StateEventType::from(kind)
}
