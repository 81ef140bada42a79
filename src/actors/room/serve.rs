//! What the room answers to other servers (Server-Server API).

use std::{collections::HashSet, sync::Arc};

use actix::{
    ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _,
};
use ruma::{
    CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomVersionId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    actor::{RoomActor, operate_for},
    keys::Given,
    links::ask,
    machine::{Ingested, Machine, MemberContent},
    messages::{RoomError, RoomQuery, RoomRequest},
    operate::Whose,
    sealing::{GiveKeys, TakeKeys},
    worker::Worker,
};
use crate::{
    actors::{
        clock::now_ms,
        store::{InviteData, LoadAuthChain, LoadEvents, LoadState, Lookup, Place, StoredEvent},
    },
    config::limits,
    proto::{
        client_event, json,
        pdu::{self, Pdu, Received},
        room_key::KeyId,
    },
};

/// Most stripped state events of an invite, and most bytes of all of them.
const INVITE_STATE_EVENTS: usize = 100;
const INVITE_STATE_LEN: usize = 64 * 1024;

impl Handler<RoomRequest> for RoomActor {
    type Result = ResponseFuture<Result<CanonicalJsonValue, RoomError>>;

    fn handle(&mut self, msg: RoomRequest, ctx: &mut Context<Self>) -> Self::Result {
        let RoomRequest { origin, query, permit } = msg;
        let worker = self.worker_for(Whose::Theirs, ctx);
        let invited = match &query {
            RoomQuery::MakeJoin { user_id, .. } => Some(self.inviting.end(user_id)),
            _ => None,
        };
        Box::pin(async move {
            let _permit = permit;
            if let Some(invited) = invited {
                invited.await;
            }
            let server = origin.clone();
            // Of a room of which nothing is known yet, an invite is the first that comes.
            let denied = worker.operate(move |machine| Ok((machine.denies(&server), None))).await;
            if denied.unwrap_or(false) {
                return Err(RoomError::Forbidden("the room keeps your server out".to_owned()));
            }
            if !query.open_to_strangers() {
                let server = origin.clone();
                // Who was shown out may see why he is.
                let authorized = match &query {
                    RoomQuery::EventAuth { event_id } => Some(event_id.clone()),
                    _ => None,
                };
                let may = move |machine: &mut Machine| {
                    if machine.has_joined(&server) {
                        return Ok((true, None));
                    }
                    let departed = |id| machine.is_departure_of(&server, id);
                    Ok((authorized.as_ref().map(departed).transpose()?.unwrap_or(false), None))
                };
                if !worker.operate(may).await? {
                    return Err(RoomError::NotFound);
                }
            }
            let answer = worker.answer(origin, query).await?;
            CanonicalJsonValue::try_from(answer).map_err(RoomError::internal)
        })
    }
}

/// An invite waited so long that its place is free for another.
#[derive(actix::Message, Debug)]
#[rtype(result = "()")]
pub struct ExpireInvite(pub OwnedUserId);

impl Handler<ExpireInvite> for RoomActor {
    type Result = ();

    fn handle(&mut self, ExpireInvite(user): ExpireInvite, ctx: &mut Context<Self>) {
        let expired = self.operate_for(Whose::Theirs, ctx, move |machine| {
            let waits = machine.membership(&user).map(|own| &own.membership);
            let change = (waits == Some(&MembershipState::Invite))
                .then(|| machine.set_membership(user.clone(), MembershipState::Leave, None, None));
            Ok(((), change.map(Box::new)))
        });
        ctx.spawn(expired.into_actor(self).map(|expired, act, _| {
            if let Err(error) = expired {
                log::warn!(room_id:% = act.room_id; "an old invite stays: {error}");
            }
        }));
    }
}

impl Worker {
    async fn answer(
        &self,
        origin: OwnedServerName,
        query: RoomQuery,
    ) -> Result<serde_json::Value, RoomError> {
        match query {
            RoomQuery::MakeJoin { user_id, versions } => {
                self.make(&origin, user_id, MembershipState::Join, Some(versions)).await
            }
            RoomQuery::MakeLeave { user_id } => {
                self.make(&origin, user_id, MembershipState::Leave, None).await
            }
            RoomQuery::SendJoin { event_id, pdu } => self.send_join(&origin, event_id, pdu).await,
            RoomQuery::SendLeave { event_id, pdu } => {
                let received = self.membership_event(&origin, &event_id, pdu, "leave").await?;
                self.take_membership(received).await?;
                Ok(json!({}))
            }
            RoomQuery::Invite { user_id, event_id, pdu, version, stripped_state, via } => {
                let invite = Invite { user_id, event_id, pdu, version, stripped_state, via };
                self.invited(&origin, invite).await
            }
            RoomQuery::Backfill { from, limit } => {
                let events = self.walk_back(&origin, from, &[], limit).await?;
                self.transaction(&events).await
            }
            RoomQuery::MissingEvents { earliest, latest, limit } => {
                let starts = self.load(&latest).await?;
                let prevs = starts.iter().flat_map(|pdu| pdu.prev_events.clone()).collect();
                let mut events = self.walk_back(&origin, prevs, &earliest, limit).await?;
                events.sort_by_key(|pdu| pdu.depth);
                Ok(json!({"events": self.wire(&events).await?}))
            }
            RoomQuery::Event { event_id } => {
                let events = self.visible(&origin, std::slice::from_ref(&event_id)).await?;
                if events.is_empty() {
                    return Err(RoomError::EventNotFound);
                }
                self.transaction(&events).await
            }
            RoomQuery::StateIds { event_id } => {
                let (state, chain) = self.state_before(&event_id).await?;
                let ids = |pdus: &[Arc<Pdu>]| {
                    pdus.iter().map(|pdu| pdu.event_id.clone()).collect::<Vec<_>>()
                };
                Ok(json!({"pdu_ids": ids(&state), "auth_chain_ids": ids(&chain)}))
            }
            RoomQuery::State { event_id } => {
                let (state, chain) = self.state_before(&event_id).await?;
                Ok(json!({
                    "pdus": self.wire(&state).await?,
                    "auth_chain": self.wire(&chain).await?,
                }))
            }
            RoomQuery::EventAuth { event_id } => {
                let pdus = self.load(std::slice::from_ref(&event_id)).await?;
                let pdu = pdus.first().ok_or(RoomError::EventNotFound)?;
                // From version 12 on no event names the create event, and all hang on it.
                let create = self.operate(|machine| Ok((machine.create_event(), None))).await?;
                let roots = create.iter().map(|create| &create.event_id).chain(&pdu.auth_events);
                let chain = self.auth_chain(roots.cloned().collect()).await?;
                Ok(json!({"auth_chain": self.wire(&chain).await?}))
            }
            RoomQuery::TakeKeys { keys } => {
                self.room.do_send(TakeKeys { from: origin, keys });
                Ok(json!({}))
            }
            RoomQuery::FindKeys { ids } => Ok(json!({"keys": self.give_keys(&origin, ids).await?})),
        }
    }

    async fn give_keys(
        &self,
        to: &OwnedServerName,
        ids: Vec<KeyId>,
    ) -> Result<Vec<Given>, RoomError> {
        let give = GiveKeys { to: to.clone(), ids };
        self.room.send(give).await.map_err(|error| RoomError::Ask(error.into()))
    }

    async fn transaction(&self, events: &[Arc<Pdu>]) -> Result<serde_json::Value, RoomError> {
        Ok(json!({
            "origin": self.signer.server_name(),
            "origin_server_ts": now_ms(),
            "pdus": self.wire(events).await?,
        }))
    }

    /// Puts events into the form in which they travel. One from before there was a limit of depth
    /// goes redacted: nobody would take it whole, and those that it allows would be left without it.
    pub(super) async fn wire(&self, events: &[Arc<Pdu>]) -> Result<Vec<Box<RawValue>>, RoomError> {
        if events.iter().all(|pdu| pdu.fits()) {
            return Ok(self.links.wire(events, &self.signer).await);
        }
        let events = events.to_vec();
        let events = self.operate(move |machine| {
            let handed_on = |pdu: &Arc<Pdu>| match pdu.fits() {
                true => Arc::clone(pdu),
                // What is deep even so is left out.
                false => pdu.redacted(machine.rules()).map_or_else(|_| Arc::clone(pdu), Arc::new),
            };
            Ok((events.iter().map(handed_on).collect::<Vec<_>>(), None))
        });
        Ok(self.links.wire(&events.await?, &self.signer).await)
    }

    /// `make_join` and `make_leave`.
    async fn make(
        &self,
        origin: &OwnedServerName,
        user_id: OwnedUserId,
        membership: MembershipState,
        versions: Option<Vec<RoomVersionId>>,
    ) -> Result<serde_json::Value, RoomError> {
        if user_id.server_name() != *origin {
            return Err(RoomError::Forbidden("the user is of another server".into()));
        }
        self.operate(move |machine| {
            if !machine.is_resident() {
                return Err(RoomError::NotFound.into());
            }
            let version = machine.version().clone();
            if versions.as_ref().is_some_and(|versions| !versions.contains(&version)) {
                return Err(RoomError::UnsupportedVersion(version).into());
            }
            let event = machine.template(&user_id, &membership, now_ms())?;
            Ok((json!({"room_version": version, "event": event}), None))
        })
        .await
    }

    /// Checks a membership event that another server composed for its own user.
    async fn membership_event(
        &self,
        origin: &OwnedServerName,
        event_id: &OwnedEventId,
        pdu: Box<RawValue>,
        membership: &str,
    ) -> Result<Received, RoomError> {
        let rules = self
            .operate(|machine| {
                if !machine.is_resident() {
                    return Err(RoomError::NotFound.into());
                }
                Ok((machine.rules().clone(), None))
            })
            .await?;
        let received =
            self.links.check(vec![pdu], self.room_id.clone(), rules, vec![origin.clone()]).await?;
        let received = received.into_iter().next().ok_or(RoomError::EventNotFound)??;
        let pdu = &received.pdu;
        let content: MemberContent = serde_json::from_str(pdu.content.get())
            .map_err(|error| RoomError::BadRequest(error.to_string()))?;
        let right = pdu.event_id == *event_id
            && !received.spoilt
            && pdu.kind == TimelineEventType::RoomMember
            && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
            && pdu.sender.server_name() == *origin
            && content.membership.as_str() == membership;
        if right {
            Ok(received)
        } else {
            Err(RoomError::BadRequest(format!(
                "this is no {membership} event of a user of {origin}"
            )))
        }
    }

    /// Takes such an event in; it has to become part of the room.
    async fn take_membership(&self, received: Received) -> Result<(), RoomError> {
        let published = Arc::new(received.pdu.clone());
        let server_keys = received.server_keys.clone();
        let place = self
            .operate(move |machine| match machine.ingest(&received, None)? {
                Ingested::New(change, place) => Ok((Some(place), Some(change))),
                // What was refused once is refused again.
                Ingested::Duplicate => Ok((machine.place(&received.pdu.event_id), None)),
                Ingested::Parked | Ingested::Full => Ok((None, None)),
            })
            .await?;
        match place {
            Some(Place::Live) => self.links.keep(&server_keys),
            Some(_) => return Err(RoomError::Forbidden("the room does not allow it".into())),
            None => return Err(RoomError::BadRequest("it follows events unknown here".into())),
        }
        self.publish(self.links.wire(&[published], &self.signer).await);
        Ok(())
    }

    async fn send_join(
        &self,
        origin: &OwnedServerName,
        event_id: OwnedEventId,
        pdu: Box<RawValue>,
    ) -> Result<serde_json::Value, RoomError> {
        let received = self.membership_event(origin, &event_id, pdu, "join").await?;
        let event = Arc::new(received.pdu.clone());
        let (state, chain) = self.state_before_pdu(Arc::clone(&event)).await?;
        self.take_membership(received).await?;
        // An old join event comes again after a ban as well.
        let server = origin.clone();
        if !self.operate(move |machine| Ok((machine.has_joined(&server), None))).await? {
            return Err(RoomError::Forbidden("the user is not in the room any more".into()));
        }
        let wire = self.links.wire(&[event], &self.signer).await;
        Ok(json!({
            "origin": self.signer.server_name(),
            "members_omitted": false,
            "state": self.wire(&state).await?,
            "auth_chain": self.wire(&chain).await?,
            "event": wire.first(),
            "messagehub.room_keys": self.give_keys(origin, Vec::new()).await?,
        }))
    }

    /// An invite of a user of ours, from another server.
    async fn invited(
        &self,
        origin: &OwnedServerName,
        invite: Invite,
    ) -> Result<serde_json::Value, RoomError> {
        let Invite { user_id: user, event_id, pdu, version, stripped_state, mut via } = invite;
        let rules = pdu::rules_of(&version)
            .ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        let received = self
            .links
            .check(vec![pdu], self.room_id.clone(), rules.clone(), vec![origin.clone()])
            .await?;
        let received = received.into_iter().next().ok_or(RoomError::EventNotFound)??;
        let pdu = received.pdu;
        let content: MemberContent = serde_json::from_str(pdu.content.get())
            .map_err(|error| RoomError::BadRequest(error.to_string()))?;
        let right = pdu.event_id == event_id
            && !received.spoilt
            && pdu.kind == TimelineEventType::RoomMember
            && pdu.state_key.as_deref() == Some(user.as_str())
            && user.server_name() == self.signer.server_name()
            && pdu.sender.server_name() == *origin
            && content.membership == MembershipState::Invite;
        if !right {
            return Err(RoomError::BadRequest("this is no invite of a user of this server".into()));
        }
        if !self.links.is_here(&user) {
            return Err(RoomError::NoSuchUser(user));
        }
        let signed = Arc::new(pdu::countersigned(&pdu, &self.signer, &rules)?);
        let keys =
            serde_json::to_string(received.server_keys.json()).map_err(RoomError::internal)?;
        // The inviter's server_keys go back on, and not ours: they certify the event's author.
        let answer = json!({"event": signed.to_wire(&keys)});
        // Our first answer was lost: our user has answered the invite, and does not see it again.
        let (id, who) = (event_id.clone(), user.clone());
        let begin = Some(version.clone());
        let is_refused = operate_for(Whose::Theirs, &self.room, begin, move |machine| {
            let own = machine.membership(&who);
            let left = own.filter(|own| own.membership == MembershipState::Leave);
            Ok((left.is_some_and(|own| own.event_id.as_ref() == Some(&id)), None))
        });
        if is_refused.await? || !self.load(&[event_id]).await?.is_empty() {
            return Ok(answer);
        }
        let mut shown = shown_state(stripped_state);
        shown.push(client_event::stripped(&signed.json)?);
        via.retain(|server| server != origin && server != self.signer.server_name());
        via.insert(0, origin.clone());
        let invite =
            InviteData { event: Arc::clone(&signed), stripped_state: shown, via, notify: None };
        // Who invites one of us may not see those in the room any more who are in it here.
        let _ = self.ask_for_departure(origin).await;
        operate_for(Whose::Theirs, &self.room, Some(version.clone()), move |machine| {
            let change = machine.invited(&version, user.clone(), invite.clone())?;
            Ok(((), Some(Box::new(change))))
        })
        .await?;
        self.links.keep(&received.server_keys);
        Ok(answer)
    }

    // ------------------------------------------------------------ history

    /// Reads events that are part of the room.
    async fn load(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let room_id = self.room_id.clone();
        let event_ids: Vec<_> = ids.iter().take(limits::MISSING_PAGE).cloned().collect();
        let found = ask(&self.links.store.load_events, LoadEvents { room_id, event_ids }).await?;
        let stored: Vec<StoredEvent> = found
            .into_iter()
            .filter_map(|found| match found {
                Lookup::Found(event) if event.place != Place::Rejected => Some(event),
                _ => None,
            })
            .collect();
        self.parse(stored).await
    }

    async fn parse(&self, stored: Vec<StoredEvent>) -> Result<Vec<Arc<Pdu>>, RoomError> {
        self.operate(move |machine| {
            let parsed: Result<Vec<_>, RoomError> =
                stored.iter().map(|event| machine.parse(event).map(Arc::new)).collect();
            Ok((parsed?, None))
        })
        .await
    }

    /// Reads events, less those that the origin may not see.
    async fn visible(
        &self,
        origin: &OwnedServerName,
        ids: &[OwnedEventId],
    ) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let mut events = self.load(ids).await?;
        let visibility = self.operate(|machine| Ok((machine.history_visibility(), None))).await?;
        if matches!(visibility, HistoryVisibility::Invited | HistoryVisibility::Joined) {
            let mut seen = Vec::with_capacity(events.len());
            for event in events {
                // State is part of every join answer; only what was said is kept from later ones.
                if event.state_key.is_some() || self.was_joined(origin, &event).await? {
                    seen.push(event);
                }
            }
            events = seen;
        }
        Ok(events)
    }

    /// Tells whether a user of a server was joined when an event was sent.
    async fn was_joined(&self, server: &OwnedServerName, event: &Pdu) -> Result<bool, RoomError> {
        if event.sender.server_name() == *server {
            return Ok(true);
        }
        let id = event.event_id.clone();
        let group = self.operate(move |machine| {
            machine.require(std::slice::from_ref(&id))?;
            Ok((machine.known(&id).and_then(|known| known.group), None))
        });
        let Some(group) = group.await? else { return Ok(false) };
        let room_id = self.room_id.clone();
        let state = ask(&self.links.store.load_state, LoadState { room_id, group }).await?;
        let of_server =
            |key: &str| ruma::UserId::parse(key).is_ok_and(|user| user.server_name() == *server);
        let members: Vec<_> = state
            .into_iter()
            .filter(|((kind, key), _)| *kind == StateEventType::RoomMember && of_server(key))
            .map(|(_, id)| id)
            .collect();
        let joined = |pdu: &Arc<Pdu>| {
            serde_json::from_str::<MemberContent>(pdu.content.get())
                .is_ok_and(|content| content.membership == MembershipState::Join)
        };
        Ok(self.load(&members).await?.iter().any(joined))
    }

    /// Walks the graph backwards from some events, breadth first, at most `limit` of them.
    async fn walk_back(
        &self,
        origin: &OwnedServerName,
        from: Vec<OwnedEventId>,
        until: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let limit = limit.min(limits::MISSING_PAGE);
        let mut seen: HashSet<OwnedEventId> = until.iter().cloned().collect();
        let mut level: Vec<OwnedEventId> = from;
        let mut events: Vec<Arc<Pdu>> = Vec::new();
        while events.len() < limit && !level.is_empty() {
            level.retain(|id| seen.insert(id.clone()));
            level.truncate(limit - events.len());
            let found = self.visible(origin, &level).await?;
            level = found.iter().flat_map(|pdu| pdu.prev_events.clone()).collect();
            events.extend(found);
        }
        Ok(events)
    }

    async fn auth_chain(&self, roots: Vec<OwnedEventId>) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let room_id = self.room_id.clone();
        let chain =
            ask(&self.links.store.load_auth_chain, LoadAuthChain { room_id, roots }).await?;
        self.parse(chain).await
    }

    /// Returns the state before an event and its auth chain.
    async fn state_before(
        &self,
        event_id: &EventId,
    ) -> Result<(Vec<Arc<Pdu>>, Vec<Arc<Pdu>>), RoomError> {
        let pdus = self.load(&[event_id.to_owned()]).await?;
        let pdu = pdus.into_iter().next().ok_or(RoomError::EventNotFound)?;
        self.state_before_pdu(pdu).await
    }

    async fn state_before_pdu(
        &self,
        pdu: Arc<Pdu>,
    ) -> Result<(Vec<Arc<Pdu>>, Vec<Arc<Pdu>>), RoomError> {
        let ids = self
            .operate(move |machine: &mut Machine| Ok((machine.ids_before(&pdu)?, None)))
            .await?;
        let in_state: HashSet<OwnedEventId> = ids.values().cloned().collect();
        let all = self.auth_chain(in_state.iter().cloned().collect()).await?;
        Ok(all.into_iter().partition(|pdu| in_state.contains(&pdu.event_id)))
    }
}

/// An invite as it came.
struct Invite {
    user_id: OwnedUserId,
    event_id: OwnedEventId,
    pdu: Box<RawValue>,
    version: RoomVersionId,
    stripped_state: Vec<Box<RawValue>>,
    via: Vec<OwnedServerName>,
}

/// Keeps of the stripped state of an invite what is stripped state at all, within limits. It is
/// the inviter's word: shown to the user, never acted on.
pub(super) fn shown_state(given: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the shape is looked at")]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        sender: OwnedUserId,
        content: serde_json::Map<String, serde_json::Value>,
    }
    let mut len = 0;
    given
        .into_iter()
        .take(INVITE_STATE_EVENTS)
        .filter(|event| json::check_object(event.get().as_bytes()).is_ok())
        .filter(|event| serde_json::from_str::<Stripped>(event.get()).is_ok())
        .filter_map(|event| client_event::stripped(event.get()).ok())
        .take_while(|event| {
            len += event.get().len();
            len <= INVITE_STATE_LEN
        })
        .collect()
}
