//! How our users invite somebody: counted here at once, handed to a server that is there, owed to one that is
//! off, and taken back where it is refused.

use std::{collections::HashMap, time::Duration};

use actix::{Context, Handler, Recipient, ResponseFuture};
use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::watch;

use super::{
    actor::{RoomActor, operate},
    asking::{bad_answer, federation, read},
    client::{fill_profile, send_checked},
    links::{Links, ask},
    machine::Machine,
    messages::{Invitee, RoomError, ShownAs},
};
use crate::{
    actors::{
        clock::now_ms,
        outbox::{Debt, Decided, Form, InviteRefused, Matter, Owe},
        upward::{FederationError, SendFederation},
    },
    proto::{
        endpoint::Endpoint,
        pdu::{Draft, Pdu},
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

/// Our invites on their way. The invited server shows one to its user before its answer has come
/// back to us, and the user may be quicker than the answer: the join waits for it here.
#[derive(Default)]
pub(super) struct Inviting(HashMap<OwnedUserId, watch::Receiver<()>>);

impl Inviting {
    /// Notes an invite, which lasts until what is returned is dropped.
    pub(super) fn begin(&mut self, user_id: OwnedUserId) -> watch::Sender<()> {
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
pub(super) async fn invite(
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
