//! Coming into a room through other servers, and refusing an invite.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext as _, Context, Handler, ResponseFuture};
use futures::{StreamExt as _, stream::FuturesUnordered};
use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::{RoomActor, operate},
    asking::{CANDIDATES, bad_answer, each_wait, federation, read},
    client::own_content,
    keys::Given,
    links::{Links, ask},
    machine::GivenState,
    messages::{Join, Publish, RoomError, ShownAs},
    sealing::TakeKeys,
};
use crate::{
    actors::clock::now_ms,
    proto::{
        endpoint::Endpoint,
        pdu::{self, Draft, Pdu, Position},
        server_name,
        signer::Signer,
    },
};

/// The next server is asked this long after one that has not answered yet.
const NEXT_AFTER: Duration = Duration::from_secs(1);
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
    /// Keys of the room. None is no harm: the first message of ours has one made.
    #[serde(default, rename = "messagehub.room_keys")]
    room_keys: Vec<Given>,
}

/// Whether and how to come in.
enum Entrance {
    /// Already in.
    Joined,
    /// The auth rules can be checked here: others of us are in the room, or nobody is.
    Here,
    /// Through one of these.
    Through(Vec<OwnedServerName>),
}

impl Handler<Join> for RoomActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: Join, ctx: &mut Context<Self>) -> Self::Result {
        let Join { by, via, reason, permit } = msg;
        let links = self.links.clone();
        let signer = Arc::clone(&self.signer);
        let room = ctx.address();
        let room_id = self.room_id.clone();
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(by.to_string()),
            content: own_content(&MembershipState::Join, &links.shown(&by), reason.as_deref()),
            redacts: None,
        };
        let known = self.machine.is_some();
        let impossible = via.iter().find_map(|server| server_name::digest(server).err());
        Box::pin(async move {
            let _permit = permit;
            let (first, user) = (via.clone(), by.clone());
            let way = if known {
                operate(&room, None, move |machine| {
                    let way = if machine.has_in(&user) {
                        Entrance::Joined
                    } else if machine.is_resident()
                        || (machine.servers().next().is_none() && machine.has_state())
                    {
                        Entrance::Here
                    } else {
                        let first = [&*first, &*machine.invited_through(&user)].concat();
                        Entrance::Through(machine.candidates(&first))
                    };
                    Ok((way, None))
                })
                .await?
            } else {
                Entrance::Through(via)
            };
            match way {
                Entrance::Joined => Ok(()),
                Entrance::Here => {
                    let now = now_ms();
                    operate(&room, None, move |machine| {
                        let pdu = machine.compose(draft.clone(), signer.author(&by)?, now)?;
                        Ok(((), Some(Box::new(machine.send_composed(pdu, None)?))))
                    })
                    .await
                }
                Entrance::Through(mut servers) => {
                    servers.retain(|server| server != signer.server_name());
                    servers.retain(|server| server_name::digest(server).is_ok());
                    servers.truncate(CANDIDATES);
                    if let (true, Some(error)) = (servers.is_empty(), impossible) {
                        return Err(error.into());
                    }
                    let wait = each_wait(servers.len());
                    let (links, room_id, signer, by) = (&links, &room_id, &signer, &by);
                    let asker = Asker { links, room_id, signer, by, wait };
                    asker.join_through_any(&room, servers, &draft).await
                }
            }
        })
    }
}

/// Speaks to other servers about one room, for a user of ours.
pub(super) struct Asker<'a> {
    pub(super) links: &'a Links,
    pub(super) room_id: &'a OwnedRoomId,
    pub(super) signer: &'a Arc<Signer>,
    /// For whom.
    pub(super) by: &'a OwnedUserId,
    /// Longest wait for each answer.
    pub(super) wait: Duration,
}

impl Asker<'_> {
    /// Asks for a template and composes our event where it stands.
    async fn compose_at(
        &self,
        server: &OwnedServerName,
        endpoint: Endpoint,
        known: Option<&RoomVersionId>,
        draft: Draft,
    ) -> Result<(Pdu, RoomVersionId), RoomError> {
        let request = federation(server, endpoint, json!({}), self.wait)?;
        let template: Template = read(server, ask(&self.links.federation, request).await?)?;
        let version = template
            .room_version
            .or_else(|| known.cloned())
            .ok_or_else(|| bad_answer(server, "the template names no room version"))?;
        let rules = pdu::rules_of(&version)
            .ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        let TemplateEvent { prev_events, auth_events, depth } = template.event;
        if prev_events.len() > TEMPLATE_PREV || auth_events.len() > TEMPLATE_AUTH {
            return Err(bad_answer(server, "the template names too many events"));
        }
        let position = Position {
            room_id: Some(self.room_id.clone()),
            prev_events,
            auth_events,
            depth: depth.min((1 << 53) - 1),
            origin_server_ts: now_ms(),
        };
        Ok((pdu::compose(draft, &position, self.signer.author(self.by)?, &rules)?, version))
    }

    /// Hands our composed event to the server.
    async fn hand_over(
        &self,
        server: &OwnedServerName,
        endpoint: Endpoint,
        event: &Arc<Pdu>,
    ) -> Result<(CanonicalJsonValue, Vec<Box<RawValue>>), RoomError> {
        let wire = self.links.wire(std::slice::from_ref(event), self.signer).await;
        let content = serde_json::to_value(wire.first()).map_err(RoomError::internal)?;
        let request = federation(server, endpoint, content, self.wait)?;
        Ok((ask(&self.links.federation, request).await?, wire))
    }

    /// Joins through the first server that lets him in. Asking for a template changes nothing,
    /// so the next one is asked while one that may be off is still waited for.
    async fn join_through_any(
        &self,
        room: &actix::Addr<RoomActor>,
        servers: Vec<OwnedServerName>,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        let room_id = self.room_id;
        let template = Endpoint::make_join(room_id, self.by);
        let mut begin = Duration::ZERO;
        let mut composed: FuturesUnordered<_> = servers
            .into_iter()
            .map(|server| {
                let (after, template) = (begin, template.clone());
                begin += NEXT_AFTER;
                async move {
                    tokio::time::sleep(after).await;
                    let composed = self.compose_at(&server, template, None, draft.clone()).await;
                    (server, composed)
                }
            })
            .collect();
        let mut refused: Option<RoomError> = None;
        while let Some((server, composed)) = composed.next().await {
            let joined = match composed {
                Ok((join, version)) => self.join_through(room, &server, join, version).await,
                Err(error) => Err(error),
            };
            let Err(error) = joined else { return Ok(()) };
            log::debug!(room_id:%, server:%; "join failed: {error}");
            // What somebody answers says more than that somebody is off.
            if refused.as_ref().is_none_or(RoomError::is_unreachable) {
                refused = Some(error);
            }
        }
        Err(refused.unwrap_or(RoomError::NotFound))
    }

    /// Joins through one server, by an event composed at its template.
    async fn join_through(
        &self,
        room: &actix::Addr<RoomActor>,
        server: &OwnedServerName,
        join: Pdu,
        version: RoomVersionId,
    ) -> Result<(), RoomError> {
        let room_id = self.room_id;
        let rules = pdu::rules_of(&version)
            .ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        let (join, user) = (Arc::new(join), self.by.clone());
        let (answer, wire) =
            self.hand_over(server, Endpoint::send_join(room_id, &join.event_id), &join).await?;
        let SendJoinAnswer { state, auth_chain, room_keys } = read(server, answer)?;
        let given = receive_state(self.links, room_id, &rules, server, state, auth_chain).await?;
        operate(room, Some(version.clone()), move |machine| {
            if machine.has_in(&user) {
                return Ok(((), None));
            }
            machine.set_version(&version)?;
            let change = machine.joined((*join).clone(), &given)?;
            Ok(((), Some(Box::new(change))))
        })
        .await?;
        // The server that let us in publishes the join too; it may be gone before it does.
        room.do_send(TakeKeys { from: server.clone(), keys: room_keys });
        room.do_send(Publish::new(wire, Vec::new()));
        Ok(())
    }

    /// Tells a server that our user refuses its invite.
    pub(super) async fn refuse(
        &self,
        server: &OwnedServerName,
        version: &RoomVersionId,
    ) -> Result<(), RoomError> {
        let (room_id, user) = (self.room_id, self.by);
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user.to_string()),
            content: own_content(&MembershipState::Leave, &ShownAs::default(), None),
            redacts: None,
        };
        let template = Endpoint::make_leave(room_id, user);
        let (leave, _) = self.compose_at(server, template, Some(version), draft).await?;
        let endpoint = Endpoint::send_leave(room_id, &leave.event_id);
        self.hand_over(server, endpoint, &Arc::new(leave)).await?;
        Ok(())
    }
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

/// Returns the events of a list of results, logging what was refused.
pub(super) fn accepted<T>(
    room_id: &OwnedRoomId,
    results: Vec<Result<T, crate::proto::ProtoError>>,
) -> Vec<T> {
    let keep = |result: Result<T, _>| {
        result.inspect_err(|error| log::debug!(room_id:%; "event refused: {error}")).ok()
    };
    results.into_iter().filter_map(keep).collect()
}
