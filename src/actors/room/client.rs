//! What our users do in the room: send, change memberships, type, read.

use std::{collections::HashMap, time::Duration};

use actix::{AsyncContext as _, Context, Handler, Recipient, ResponseFuture};
use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::watch;

use super::{
    actor::{RoomActor, operate},
    edus,
    links::{Links, ask},
    machine::{Ingested, Machine},
    messages::{
        ChangeMembership, CreateInRoom, Forget, Invitee, Leave, MemberChange, ProfileChanged,
        Publish, RoomError, SendEvent, SetTyping, ShownAs,
    },
};
use crate::{
    actors::{
        clock::now_ms,
        ephemera::Typing,
        outbox::{Debt, Decided, Form, InviteRefused, LeaveThrough, Matter, Owe},
        store::{OwnMembership, Place},
        upward::{FederationError, SendFederation},
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        pdu::{Draft, Pdu, Received},
        server_name,
    },
};

/// How long an invited server is looked for, and its answers count.
const INVITE_WAIT: Duration = Duration::from_secs(20);
/// How long our user waits for the profile of who is invited: the invite says without it what matters,
/// and who is not found by then is told later.
const PROFILE_WAIT: Duration = Duration::from_secs(1);
/// How long our user waits for a server that is there to take an invite, or to refuse it.
const TAKEN_WAIT: Duration = Duration::from_millis(1500);
/// Longest name and address of a picture that an invite takes over, in characters.
const NAME_LEN: usize = 255;
/// Servers that are to take somebody out of a room who turned an invite down; one of them is enough.
const LEAVE_SERVERS: usize = 4;

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

fn fill_profile(content: &mut ruma::CanonicalJsonObject, profile: &ShownAs) {
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

/// Our invites on their way. The invited server shows one to its user before its answer has come
/// back to us, and the user may be quicker than the answer: the join waits for it here.
#[derive(Default)]
pub(super) struct Inviting(HashMap<OwnedUserId, watch::Receiver<()>>);

impl Inviting {
    /// Notes an invite, which lasts until what is returned is dropped.
    fn begin(&mut self, user_id: OwnedUserId) -> watch::Sender<()> {
        self.0.retain(|_, invite| invite.has_changed().is_ok());
        let (sender, receiver) = watch::channel(());
        self.0.insert(user_id, receiver);
        sender
    }

    /// Waits until no invite of the user is on its way.
    pub(super) fn end(&self, user_id: &OwnedUserId) -> impl Future<Output = ()> + use<> {
        let invite = self.0.get(user_id).cloned();
        async move {
            if let Some(mut invite) = invite {
                // Nothing is ever sent: the sender is dropped.
                let _ = invite.changed().await;
            }
        }
    }
}

/// What somebody's server says of him.
#[derive(Deserialize)]
struct ProfileAnswer {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

/// Asks somebody's server for his profile: shown are a name of a sensible length and a picture that
/// a Matrix client can fetch.
async fn profile_of(
    links: &Recipient<SendFederation>,
    user_id: &OwnedUserId,
    wait: Duration,
) -> Result<ShownAs, RoomError> {
    let server = user_id.server_name().to_owned();
    let request = federation(&server, Endpoint::profile(user_id), json!({}), wait)?;
    let ProfileAnswer { displayname, avatar_url } = read(&server, ask(links, request).await?)?;
    let is_name =
        |name: &String| name.chars().count() <= NAME_LEN && !name.chars().any(char::is_control);
    Ok(ShownAs {
        displayname: displayname.filter(is_name),
        avatar_url: avatar_url.filter(|url| url.starts_with("mxc://") && url.len() <= NAME_LEN),
    })
}

/// Finds out whether the server of somebody who is to be invited is there, and what it says of him.
pub(in crate::actors) async fn invitee(
    federation: &Recipient<SendFederation>,
    user_id: &OwnedUserId,
) -> Invitee {
    // It is looked for for longer: a look-up that ends early would count as one that found nobody.
    let asked = profile_of(federation, user_id, INVITE_WAIT);
    match tokio::time::timeout(PROFILE_WAIT, asked).await {
        Ok(Ok(profile)) => Invitee::There(profile),
        Ok(Err(error)) if error.is_unreachable() => Invitee::Away,
        Ok(Err(RoomError::Federation(FederationError::Refused { status: 404, .. }))) => {
            Invitee::Nobody
        }
        // Whoever answers is there, whatever he says of himself.
        Ok(Err(_)) => Invitee::There(ShownAs::default()),
        Err(_) => Invitee::Away,
    }
}

#[derive(Deserialize)]
struct InviteAnswer {
    event: Box<RawValue>,
}

/// Invites somebody. A server that is there may refuse the invite before it counts, and signs it too;
/// where it is off, the invite counts at once, and is owed.
async fn invite(
    room: &actix::Addr<RoomActor>,
    links: &Links,
    (by, user_id): (OwnedUserId, OwnedUserId),
    mut draft: Draft,
    known: Option<Invitee>,
    signer: std::sync::Arc<crate::proto::signer::Signer>,
) -> Result<OwnedEventId, RoomError> {
    server_name::check_user(&user_id)?;
    let is_local = user_id.server_name() == signer.server_name();
    if is_local && !links.is_here(&user_id) {
        return Err(RoomError::NoSuchUser(user_id));
    }
    let server = user_id.server_name().to_owned();
    let (author, now) = (std::sync::Arc::clone(&signer), now_ms());
    // What the room refuses is refused at once, without looking for anybody.
    let (refused, inviter) = (draft.clone(), by.clone());
    operate(room, None, move |machine| {
        if !machine.has_in(&inviter) {
            return Err(RoomError::NotFound.into());
        }
        machine.compose(refused.clone(), author.author(&inviter)?, now)?;
        Ok(((), None))
    })
    .await?;
    let known = match known {
        _ if is_local => Invitee::There(links.shown(&user_id)),
        Some(known) => known,
        None => invitee(&links.federation, &user_id).await,
    };
    // Until he joins, the room shows him by what the invite says.
    let is_there = match known {
        Invitee::There(profile) => {
            fill_profile(&mut draft.content, &profile);
            true
        }
        Invitee::Away => false,
        Invitee::Nobody => return Err(RoomError::NoSuchUser(user_id)),
    };
    let author = std::sync::Arc::clone(&signer);
    let now = now_ms();
    let (pdu, state, version, rules, via) = operate(room, None, move |machine| {
        if !machine.has_in(&by) {
            return Err(RoomError::NotFound.into());
        }
        let via = (!machine.has_joined(&server)).then(|| machine.via_for(&server));
        let pdu = machine.compose(draft.clone(), author.author(&by)?, now)?;
        let state = machine.invite_state(&by);
        Ok(((pdu, state, machine.version().clone(), machine.rules().clone(), via), None))
    })
    .await?;
    let event_id = pdu.event_id.clone();
    let Some(via) = via else {
        send_checked(room, links, pdu, &signer).await?;
        return Ok(event_id);
    };
    let event = links.wire(&[std::sync::Arc::new(pdu.clone())], &signer).await;
    let state = links.wire(&state, &signer).await;
    let content = json!({
        "event": event.first(),
        "invite_room_state": state,
        "room_version": version,
        "messagehub.via": via,
    });
    let order = Order {
        user_id,
        content: CanonicalJsonValue::try_from(content).map_err(RoomError::internal)?,
    };
    if is_there && let Some(signed) = order.hand_over(links, &pdu, rules, &signer).await? {
        send_checked(room, links, signed, &signer).await?;
        return Ok(event_id);
    }
    // On disk before the event is, so that no crash leaves an invite of which nobody is told.
    ask(&links.owe, Owe(vec![order.debt(&pdu)])).await?;
    let sent = send_checked(room, links, pdu, &signer).await;
    let stands = match &sent {
        Ok(()) => true,
        Err(RoomError::Forbidden(_)) => false,
        // It may be on disk all the same; the Outbox looks for it.
        Err(_) => return sent.map(|()| event_id),
    };
    let destination = order.user_id.server_name().to_owned();
    links.decided.do_send(Decided { destination, event_id: event_id.clone(), stands });
    sent.map(|()| event_id)
}

/// An invite as its server gets it.
struct Order {
    user_id: OwnedUserId,
    content: CanonicalJsonValue,
}

impl Order {
    /// Hands the invite to a server that is there. Returns the event as it signed it; none where it
    /// took too long, and may have it or not.
    async fn hand_over(
        &self,
        links: &Links,
        pdu: &Pdu,
        rules: ruma::room_version_rules::RoomVersionRules,
        signer: &crate::proto::signer::Signer,
    ) -> Result<Option<Pdu>, RoomError> {
        let server = self.user_id.server_name().to_owned();
        let request = SendFederation {
            destination: server.clone(),
            endpoint: Endpoint::invite(&pdu.room_id, &pdu.event_id),
            content: self.content.clone(),
            timeout: INVITE_WAIT,
        };
        let asked = ask(&links.federation, request);
        let answer: InviteAnswer = match tokio::time::timeout(TAKEN_WAIT, asked).await {
            Ok(Ok(answer)) => read(&server, answer)?,
            Ok(Err(error)) if error.is_unreachable() => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let servers = vec![signer.server_name().clone()];
        let received =
            links.receive(vec![answer.event], pdu.room_id.clone(), rules, servers).await?;
        match received.into_iter().next() {
            Some(Ok(received)) if received.pdu.event_id == pdu.event_id && !received.spoilt => {
                Ok(Some(received.pdu))
            }
            _ => Err(bad_answer(&server, "it signed another event than the invite")),
        }
    }

    /// Returns what is owed to the server once the event is part of the room.
    fn debt(&self, pdu: &Pdu) -> Debt {
        let (room_id, event_id) = (pdu.room_id.clone(), pdu.event_id.clone());
        Debt {
            destination: self.user_id.server_name().to_owned(),
            matter: Matter::Invite {
                room_id: room_id.clone(),
                user_id: self.user_id.clone(),
                event_id: event_id.clone(),
            },
            form: Form::Put {
                uri: Endpoint::invite(&pdu.room_id, &pdu.event_id).uri,
                content: self.content.clone(),
            },
            once: Some((room_id, event_id)),
        }
    }
}

impl Handler<InviteRefused> for RoomActor {
    type Result = ResponseFuture<bool>;

    /// Takes an invite back that its server does not want, if it is what counts of him still.
    fn handle(&mut self, msg: InviteRefused, ctx: &mut Context<Self>) -> Self::Result {
        let InviteRefused { room_id, user_id, event_id, why } = msg;
        let reason = format!("the invite was refused: {why}");
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user_id.to_string()),
            content: Machine::member_content(&MembershipState::Leave, None, None, Some(&reason)),
            redacts: None,
        };
        let (signer, now) = (std::sync::Arc::clone(&self.signer), now_ms());
        let taken_back = self.operate(ctx, move |machine| {
            let member = machine.state_event(&StateEventType::RoomMember, user_id.as_str());
            let invite = member.filter(|pdu| pdu.event_id == event_id);
            let Some(inviter) = invite.map(|pdu| pdu.sender.clone()) else {
                return Ok(((), None));
            };
            if !machine.has_in(&inviter) {
                return Ok(((), None));
            }
            let author = signer.author(&inviter)?;
            let (_, change) = machine.send(draft.clone(), None, author, now)?;
            Ok(((), Some(Box::new(change))))
        });
        Box::pin(async move {
            match taken_back.await {
                Ok(()) => true,
                // Our user has not the power any more.
                Err(RoomError::Forbidden(why)) => {
                    log::debug!(room_id:%, why:%; "a refused invite stays");
                    true
                }
                Err(error) => {
                    log::warn!(room_id:%; "a refused invite could not be taken back yet: {error}");
                    false
                }
            }
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

/// Makes a request to another server.
pub(in crate::actors) fn federation(
    destination: &OwnedServerName,
    endpoint: Endpoint,
    content: serde_json::Value,
    timeout: Duration,
) -> Result<SendFederation, RoomError> {
    let content = CanonicalJsonValue::try_from(content).map_err(RoomError::internal)?;
    Ok(SendFederation { destination: destination.clone(), endpoint, content, timeout })
}

/// Reads the body of an answer.
pub(in crate::actors) fn read<T: serde::de::DeserializeOwned>(
    server: &OwnedServerName,
    answer: CanonicalJsonValue,
) -> Result<T, RoomError> {
    let text =
        serde_json::to_string(&answer).map_err(|error| bad_answer(server, &error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| bad_answer(server, &error.to_string()))
}

/// Says that an answer is of no use.
pub(super) fn bad_answer(server: &OwnedServerName, why: &str) -> RoomError {
    RoomError::Federation(crate::actors::upward::FederationError::BadAnswer {
        server: server.clone(),
        why: why.to_owned(),
    })
}

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

impl super::worker::Worker {
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

impl super::worker::Worker {
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
        let asker = super::join::Asker {
            links: &self.links,
            room_id: &self.room_id,
            signer: &self.signer,
            by: &user_id,
            wait: crate::config::limits::FEDERATION_WAIT,
        };
        asker.refuse(&server_name, &version).await
    }
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

/// Most servers that are asked one after another.
pub(super) const CANDIDATES: usize = 8;

/// Longest wait for one server when several can be asked.
pub(super) fn each_wait(servers: usize) -> Duration {
    if servers > 1 { limits::FEDERATION_WAIT / 2 } else { limits::FEDERATION_WAIT }
}
