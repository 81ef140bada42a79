//! Coming into a room through other servers, and refusing an invite.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext as _, Context, Handler, ResponseFuture};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::{RoomActor, operate},
    client::{CANDIDATES, bad_answer, each_wait, federation, own_content, read},
    links::{Links, ask},
    machine::GivenState,
    messages::{Join, RoomError},
};
use crate::{
    actors::{clock::now_ms, gossip::PublishTransaction, room_state::ProfileUpdated},
    proto::{
        pdu::{self, Draft, Pdu, Position, Received},
        signer::Signer,
    },
};

/// Room versions that we take part in, as a query.
const VERSIONS: &str = "ver=10&ver=11&ver=12";
/// Most prev and auth events that are taken over from a template.
const TEMPLATE_PREV: usize = 20;
const TEMPLATE_AUTH: usize = 10;

/// What is taken over from a make_join or make_leave template: where the event stands, and
/// nothing that it says (CVE-2026-24471).
#[derive(Deserialize)]
struct Template {
    room_version: Option<RoomVersionId>,
    event: TemplateEvent,
}

#[derive(Deserialize)]
struct TemplateEvent {
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    depth: u64,
}

#[derive(Deserialize)]
struct SendJoinAnswer {
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
}

/// Whether and how to come in.
enum Way {
    /// Already in.
    Joined,
    /// The auth rules can be checked here: nobody else is in the room.
    Alone,
    /// Through one of these.
    Through(Vec<OwnedServerName>),
}

impl Handler<Join> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: Join, ctx: &mut Context<Self>) -> Self::Result {
        let Join { via, reason, permit } = msg;
        let links = self.links.clone();
        let signer = Arc::clone(&self.signer);
        let room = ctx.address();
        let room_id = self.room_id.clone();
        let profile = self.profile.clone();
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(signer.user_id().to_string()),
            content: own_content(&MembershipState::Join, &profile, reason.as_deref()),
            redacts: None,
        };
        let known = self.machine.is_some();
        Box::pin(async move {
            let _permit = permit;
            let first = via.clone();
            let way = if known {
                operate(&room, None, move |machine| {
                    let way = if machine.is_joined() {
                        Way::Joined
                    } else if machine.servers().next().is_none() && machine.has_state() {
                        Way::Alone
                    } else {
                        Way::Through(machine.candidates(&first))
                    };
                    Ok((way, None))
                })
                .await?
            } else {
                Way::Through(via)
            };
            match way {
                Way::Joined => Ok(()),
                Way::Alone => {
                    operate(&room, None, move |machine| {
                        let pdu = machine.compose(draft.clone(), &signer, now_ms())?;
                        Ok(((), Some(Box::new(machine.send_composed(pdu, None)?))))
                    })
                    .await
                }
                Way::Through(mut servers) => {
                    servers.retain(|server| server != signer.server_name());
                    servers.truncate(CANDIDATES);
                    let wait = each_wait(servers.len());
                    let mut last = RoomError::NotFound;
                    for server in servers {
                        let through =
                            join_through(&room, &links, &server, &room_id, &draft, &signer, wait);
                        match through.await {
                            Ok(()) => return Ok(()),
                            Err(error) => {
                                log::debug!(room_id:%, server:%; "join failed: {error}");
                                last = error;
                            }
                        }
                    }
                    Err(last)
                }
            }
        })
    }
}

/// Asks for a template and composes our event where it stands.
async fn compose_at(
    links: &Links,
    server: &OwnedServerName,
    uri: String,
    room_id: &OwnedRoomId,
    known: Option<&RoomVersionId>,
    draft: Draft,
    signer: &Signer,
    wait: Duration,
) -> Result<(Pdu, RoomVersionId), RoomError> {
    let request = federation(server, "GET", uri, json!({}), wait)?;
    let template: Template = read(server, ask(&links.federation, request).await?)?;
    let version = template
        .room_version
        .or_else(|| known.cloned())
        .ok_or_else(|| bad_answer(server, "the template names no room version"))?;
    let rules =
        pdu::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
    let TemplateEvent { prev_events, auth_events, depth } = template.event;
    if prev_events.len() > TEMPLATE_PREV || auth_events.len() > TEMPLATE_AUTH {
        return Err(bad_answer(server, "the template names too many events"));
    }
    let position = Position {
        room_id: Some(room_id.clone()),
        prev_events,
        auth_events,
        depth: depth.min((1 << 53) - 1),
        origin_server_ts: now_ms(),
    };
    Ok((pdu::compose(draft, &position, signer, &rules)?, version))
}

async fn join_through(
    room: &actix::Addr<RoomActor>,
    links: &Links,
    server: &OwnedServerName,
    room_id: &OwnedRoomId,
    draft: &Draft,
    signer: &Arc<Signer>,
    wait: Duration,
) -> Result<(), RoomError> {
    let user = signer.user_id();
    let uri = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?{VERSIONS}");
    let (join, version) =
        compose_at(links, server, uri, room_id, None, draft.clone(), signer, wait).await?;
    let rules =
        pdu::rules_of(&version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
    let join = Arc::new(join);
    let wire = links.wire(std::slice::from_ref(&join), signer).await;
    let uri = format!("/_matrix/federation/v2/send_join/{room_id}/{}", join.event_id);
    let content = serde_json::to_value(wire.first())
        .map_err(|error| RoomError::BadRequest(error.to_string()))?;
    let request = federation(server, "PUT", uri, content, wait)?;
    let answer: SendJoinAnswer = read(server, ask(&links.federation, request).await?)?;

    let given =
        receive_state(links, room_id, &rules, server, answer.state, answer.auth_chain).await?;
    let joined = Arc::clone(&join);
    operate(room, Some(version), move |machine| {
        if machine.is_joined() {
            return Ok(((), None));
        }
        let change = machine.joined((*joined).clone(), &given)?;
        Ok(((), Some(Box::new(change))))
    })
    .await?;
    // The server that let us in publishes the join too; that one may be gone before it does.
    let room_id = room_id.clone();
    links.publish.do_send(PublishTransaction { room_id, pdus: wire, edus: Vec::new() });
    Ok(())
}

/// Checks the events of a given state up to the content hash; what fails is left out.
pub(super) async fn receive_state(
    links: &Links,
    room_id: &OwnedRoomId,
    rules: &ruma::room_version_rules::RoomVersionRules,
    server: &OwnedServerName,
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
) -> Result<GivenState, RoomError> {
    let of_state = state.len();
    let mut raws = state;
    raws.extend(auth_chain);
    let received =
        links.receive(raws, room_id.clone(), rules.clone(), vec![server.clone()]).await?;
    let mut given = GivenState::default();
    for (at, received) in received.into_iter().enumerate() {
        match received {
            Ok(received) if at < of_state => given.state.push(received),
            Ok(received) => given.auth_chain.push(received),
            Err(error) => {
                log::debug!(room_id:%, server:%; "event of a given state refused: {error}")
            }
        }
    }
    Ok(given)
}

/// Tells a server that our user refuses its invite.
pub(super) async fn refuse(
    links: &Links,
    server: &OwnedServerName,
    room_id: &OwnedRoomId,
    version: &RoomVersionId,
    signer: &Arc<Signer>,
    wait: Duration,
) -> Result<(), RoomError> {
    let user = signer.user_id();
    let draft = Draft {
        kind: TimelineEventType::RoomMember,
        state_key: Some(user.to_string()),
        content: own_content(&MembershipState::Leave, &ProfileUpdated::default(), None),
        redacts: None,
    };
    let uri = format!("/_matrix/federation/v1/make_leave/{room_id}/{user}");
    let (leave, _) =
        compose_at(links, server, uri, room_id, Some(version), draft, signer, wait).await?;
    let leave = Arc::new(leave);
    let wire = links.wire(std::slice::from_ref(&leave), signer).await;
    let uri = format!("/_matrix/federation/v2/send_leave/{room_id}/{}", leave.event_id);
    let content = serde_json::to_value(wire.first())
        .map_err(|error| RoomError::BadRequest(error.to_string()))?;
    ask(&links.federation, federation(server, "PUT", uri, content, wait)?).await?;
    Ok(())
}

/// Returns the events of a list of results, logging what was refused.
pub(super) fn accepted(
    room_id: &OwnedRoomId,
    results: Vec<Result<Received, crate::proto::ProtoError>>,
) -> Vec<Received> {
    let keep = |result: Result<Received, _>| {
        result.inspect_err(|error| log::debug!(room_id:%; "event refused: {error}")).ok()
    };
    results.into_iter().filter_map(keep).collect()
}
