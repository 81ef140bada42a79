//! Coming in and letting in: state that other servers give, templates that we give.
//!
//! State is never taken from one server's word: every event of an answer was verified like any
//! other, and is checked here against its own auth events before it may count.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    state_res::{check_state_dependent_auth_rules, check_state_independent_auth_rules},
};

use super::{Change, Machine, Stop, ingest::FetchedState, state::StateIds};
use crate::{
    actors::{
        room::messages::RoomError,
        store::{Extremity, InviteData, NewEvent, NewGroup, OwnMembership, Place},
    },
    config::limits,
    proto::pdu::{self, Draft, Pdu, Received, StateKey},
};

/// A room state that another server gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenState {
    /// The state before an event.
    pub state: Vec<Received>,
    /// The auth chain of the state.
    pub auth_chain: Vec<Received>,
}

/// Events of a [`GivenState`], with whether their copies are spoilt.
pub(super) struct Accepted {
    /// Those that passed.
    pub(super) events: HashMap<OwnedEventId, (Arc<Pdu>, bool)>,
    rejected: Vec<(Arc<Pdu>, bool)>,
}

impl Machine {
    /// Checks given events, each by its auth events, parents first.
    pub(super) fn accept_events(&self, given: &GivenState, create: &Arc<Pdu>) -> Accepted {
        let all = given.all();
        let mut events: HashMap<OwnedEventId, (Arc<Pdu>, bool)> = HashMap::new();
        let mut rejected: Vec<(Arc<Pdu>, bool)> = Vec::new();
        let mut refused: HashSet<OwnedEventId> = HashSet::new();
        for id in parents_first(&all) {
            let Some(received) = all.get(&id) else { continue };
            // What was rejected here for the state before it stays so, whoever has it in a state.
            if self.known(&id).is_some_and(|known| known.place == Place::Rejected) {
                continue;
            }
            let mut pdu = received.pdu.clone();
            // An answer with holes condemns no event: what cannot be checked is left out.
            let here = |id: &OwnedEventId| {
                create.event_id == *id || events.contains_key(id) || self.known(id).is_some()
            };
            if !pdu.auth_events.iter().all(|id| here(id) || refused.contains(id)) {
                log::debug!(event_id:% = id; "event of a given state lacks its auth events");
                continue;
            }
            if let Err(error) = self.check_outlier(&pdu, &events, create) {
                log::debug!(event_id:% = id; "event of a given state rejected: {error}");
                pdu.rejected = true;
                refused.insert(id);
                rejected.push((Arc::new(pdu), received.spoilt));
                continue;
            }
            events.insert(id, (Arc::new(pdu), received.spoilt));
        }
        Accepted { events, rejected }
    }

    /// Checks a given state: one create event, the one of this room, and each event by its auth
    /// events.
    fn accept_state(&self, given: &GivenState) -> Result<(Accepted, StateIds), RoomError> {
        let create = self.find_create(&given.all())?;
        let accepted = self.accept_events(given, &create);
        let mut state = StateIds::new();
        for received in &given.state {
            let Some((pdu, _)) = accepted.events.get(&received.pdu.event_id) else { continue };
            let Some(place) = pdu.state_place() else { continue };
            if state.insert(place, pdu.event_id.clone()).is_some() {
                return Err(RoomError::BadRequest(
                    "the given state fills a place twice".to_owned(),
                ));
            }
        }
        let at_create = state.get(&(StateEventType::RoomCreate, String::new()));
        if at_create != Some(&create.event_id) {
            return Err(RoomError::BadRequest(
                "the given state lacks the create event of the room".to_owned(),
            ));
        }
        Ok((accepted, state))
    }

    /// Returns the create event of a given state: there is exactly one, and it is of this room.
    pub(super) fn find_create(
        &self,
        all: &HashMap<OwnedEventId, &Received>,
    ) -> Result<Arc<Pdu>, RoomError> {
        let mut creates = all
            .values()
            .map(|received| &received.pdu)
            .filter(|pdu| pdu.kind == TimelineEventType::RoomCreate);
        let bad = |why: &str| RoomError::BadRequest(format!("the given state {why}"));
        let create = creates.next().ok_or_else(|| bad("has no create event"))?;
        if creates.next().is_some() {
            return Err(bad("has two create events"));
        }
        if let Some(ours) = self.create_event()
            && ours.event_id != create.event_id
        {
            return Err(bad("has another create event than the room"));
        }
        if create.room_id != self.room_id {
            return Err(bad("is of another room"));
        }
        let content: CreateContent = serde_json::from_str(create.content.get())
            .map_err(|_| bad("has an unreadable create event"))?;
        if content.room_version.unwrap_or(RoomVersionId::V1) != self.version {
            return Err(bad("is of another room version"));
        }
        Ok(Arc::new(create.clone()))
    }

    pub(super) fn check_outlier(
        &self,
        pdu: &Pdu,
        events: &HashMap<OwnedEventId, (Arc<Pdu>, bool)>,
        create: &Arc<Pdu>,
    ) -> Result<(), String> {
        let rules = &self.rules.authorization;
        let by_id = |id: &ruma::EventId| {
            if create.event_id == id {
                return Some(Arc::clone(create));
            }
            let known = || self.known(id).map(|known| Arc::clone(&known.pdu));
            events.get(id).map(|(pdu, _)| Arc::clone(pdu)).or_else(known)
        };
        check_state_independent_auth_rules(rules, pdu, by_id)?;
        let auth: HashMap<StateKey, Arc<Pdu>> = pdu
            .auth_events
            .iter()
            .filter_map(|id| by_id(id))
            .chain(std::iter::once(Arc::clone(create)))
            .filter_map(|pdu| Some((pdu.state_place()?, pdu)))
            .collect();
        check_state_dependent_auth_rules(rules, pdu, |kind: &StateEventType, key: &str| {
            auth.get(&(kind.clone(), key.to_owned())).cloned()
        })
    }

    /// Adds accepted events as outliers.
    pub(super) fn store_events(&mut self, change: &mut Change, accepted: &Accepted) {
        let outliers = accepted.events.values().map(|event| (event, Place::Outlier));
        let rejected = accepted.rejected.iter().map(|event| (event, Place::Rejected));
        for ((pdu, spoilt), place) in outliers.chain(rejected) {
            // What is here already stands as it stands.
            if self.known(&pdu.event_id).is_some() {
                continue;
            }
            let new = NewEvent {
                pdu: Arc::clone(pdu),
                place,
                state_group: None,
                spoilt: *spoilt,
                txn: None,
                notify: Vec::new(),
            };
            let redacted_by = self.redacted_by(&pdu.event_id);
            self.remember(&new);
            change.commit.events.push(new);
            self.redact_late(change, pdu, redacted_by);
        }
    }

    /// Adds the events of an accepted state, and the state as a group of its own.
    fn store_state(&mut self, change: &mut Change, accepted: &Accepted, state: &StateIds) -> u64 {
        self.store_events(change, accepted);
        let group = self.next_group;
        self.next_group += 1;
        let mut changes: Vec<_> =
            state.iter().map(|(place, id)| (place.clone(), Some(id.clone()))).collect();
        changes.sort();
        change.commit.groups.push(NewGroup { id: group, parent: None, changes });
        self.groups.insert(group, Arc::new(state.clone()));
        group
    }

    /// Makes sure it is known which of the given events, and of their auth events, are here already.
    pub(super) fn require_given(&mut self, given: &GivenState) -> Result<(), Stop> {
        let ids: Vec<_> = given
            .auth_chain
            .iter()
            .chain(&given.state)
            .flat_map(|received| {
                std::iter::once(&received.pdu.event_id).chain(&received.pdu.auth_events)
            })
            .cloned()
            .collect();
        self.require(&ids)?;
        self.require_levels(&ids)
    }

    /// Joins the room with the state of a send_join answer: it becomes the state before our join
    /// event, which becomes the only forward extremity.
    pub(crate) fn joined(&mut self, join: Pdu, given: &GivenState) -> Result<Change, Stop> {
        self.require_given(given)?;
        self.require(std::slice::from_ref(&join.event_id))?;
        self.require(&join.prev_events)?;
        let (accepted, state) = self.accept_state(given)?;
        let place =
            join.state_place().ok_or_else(|| RoomError::internal("a join is a state event"))?;
        let auth = |kind: &StateEventType, key: &str| {
            let id = state.get(&(kind.clone(), key.to_owned()))?;
            accepted.events.get(id).map(|(pdu, _)| Arc::clone(pdu))
        };
        check_state_dependent_auth_rules(&self.rules.authorization, &join, auth)
            .map_err(RoomError::Forbidden)?;

        let mut change = self.change();
        let before = self.store_state(&mut change, &accepted, &state);
        let group = self.next_group;
        self.next_group += 1;
        let join = Arc::new(join);
        change.commit.groups.push(NewGroup {
            id: group,
            parent: Some(before),
            changes: vec![(place.clone(), Some(join.event_id.clone()))],
        });
        let new = NewEvent {
            pdu: Arc::clone(&join),
            place: Place::Live,
            state_group: Some(group),
            spoilt: false,
            txn: None,
            notify: Vec::new(),
        };
        self.remember(&new);
        change.commit.events.push(new);
        let mut after = state;
        after.insert(place, join.event_id.clone());
        let diff = super::state::diff(&self.current_ids(), &after);
        self.extremities = vec![Extremity {
            event_id: join.event_id.clone(),
            depth: join.depth,
            state_group: group,
        }];
        self.current_group = group;
        self.unsettled = false;
        self.apply_diff(&mut change, diff);
        self.note_heads(&mut change);
        let gaps = self.gaps_before(&join);
        self.note_gaps(&join.event_id, gaps);
        self.note_backward(&mut change);
        self.note_unparked(&mut change);
        Ok(change)
    }

    /// Takes the state before an event from another server, where its prev events cannot be had.
    /// The event can be ingested with what is returned; its prev events then become a gap.
    pub(crate) fn take_state(
        &mut self,
        event: &Pdu,
        given: &GivenState,
    ) -> Result<(FetchedState, Change), Stop> {
        self.require_given(given)?;
        self.require(&event.prev_events)?;
        let (accepted, state) = self.accept_state(given)?;
        let mut change = self.change();
        let group = self.store_state(&mut change, &accepted, &state);
        self.note_heads(&mut change);
        self.note_unparked(&mut change);
        change.unparked.retain(|id| *id != event.event_id);
        Ok((FetchedState(group), change))
    }

    /// Adds history that was fetched: last one first. Events are checked by their own auth events;
    /// they change neither state nor extremities.
    ///
    /// Only what comes before a gap is history. Anything else may be new, and would never count
    /// if it were taken for old.
    pub(crate) fn backfilled(&mut self, events: &[Received]) -> Result<Change, Stop> {
        let events: Vec<&Received> = self.behind_gaps(events);
        if events.is_empty() {
            return Ok(self.change());
        }
        let ids: Vec<_> = events
            .iter()
            .flat_map(|received| {
                let pdu = &received.pdu;
                std::iter::once(&pdu.event_id).chain(&pdu.auth_events).chain(&pdu.prev_events)
            })
            .cloned()
            .collect();
        self.require(&ids)?;
        for received in &events {
            self.require_target(&received.pdu)?;
        }
        let own: Vec<_> = events.iter().map(|received| received.pdu.event_id.clone()).collect();
        self.require_levels(&own)?;
        let create = self.create_event().ok_or(RoomError::NotFound)?;
        let mut batch: HashMap<OwnedEventId, (Arc<Pdu>, bool)> = events
            .iter()
            .map(|received| {
                (received.pdu.event_id.clone(), (Arc::new(received.pdu.clone()), received.spoilt))
            })
            .collect();
        let all: HashMap<OwnedEventId, &Received> =
            events.iter().map(|received| (received.pdu.event_id.clone(), *received)).collect();
        for id in parents_first(&all) {
            let refused = batch
                .get(&id)
                .is_some_and(|(pdu, _)| self.check_outlier(pdu, &batch, &create).is_err());
            if refused {
                batch.remove(&id);
            }
        }
        let mut change = self.change();
        for received in children_first(&events) {
            let pdu = &received.pdu;
            let followers = self.backward.remove(&pdu.event_id).unwrap_or_default();
            let known = self.known(&pdu.event_id).filter(|known| known.place != Place::Outlier);
            let placed = match (known, batch.get(&pdu.event_id).cloned()) {
                (Some(_), _) => continue,
                // Where it was refused, what follows it follows what is before it.
                (None, None) => false,
                (None, Some((pdu, spoilt))) => {
                    self.add_history(&mut change, pdu, spoilt);
                    true
                }
            };
            let gaps = self.gaps_before(pdu);
            match placed {
                true => self.note_gaps(&pdu.event_id, gaps),
                false => {
                    for follower in &followers {
                        self.note_gaps(follower, gaps.clone());
                    }
                }
            }
        }
        self.note_backward(&mut change);
        self.note_unparked(&mut change);
        Ok(change)
    }

    /// Adds one event of history.
    fn add_history(&mut self, change: &mut Change, mut pdu: Arc<Pdu>, mut spoilt: bool) {
        // An outlier may be redacted already: it stays what it is.
        if let Some(known) = self.known(&pdu.event_id).filter(|known| !known.spoilt) {
            (pdu, spoilt) = (Arc::clone(&known.pdu), false);
        }
        let redacted_by = self.redacted_by(&pdu.event_id);
        let new = NewEvent {
            pdu: Arc::clone(&pdu),
            place: Place::Backfilled,
            state_group: None,
            spoilt,
            txn: None,
            notify: Vec::new(),
        };
        self.parked.remove(&pdu.event_id);
        self.remember(&new);
        change.commit.events.push(new);
        // What others followed is no end of the graph, now that it is known.
        let follows = |head: &Extremity| pdu.prev_events.contains(&head.event_id);
        if self.extremities.iter().any(follows) && !self.extremities.iter().all(follows) {
            self.extremities.retain(|head| !follows(head));
            self.unsettled = true;
            self.note_heads(change);
        }
        let levels = self.known(&pdu.event_id).and_then(|known| self.levels_of(known));
        self.redact(change, &pdu, levels);
        self.redact_late(change, &pdu, redacted_by);
    }

    /// Returns the events that a gap leads to, itself or through others of them.
    pub(super) fn behind_gaps<'a>(&self, events: &'a [Received]) -> Vec<&'a Received> {
        let mut all: HashMap<&OwnedEventId, &'a Received> =
            events.iter().map(|received| (&received.pdu.event_id, received)).collect();
        let mut behind = Vec::with_capacity(all.len());
        let mut todo: Vec<&OwnedEventId> = self.backward.keys().collect();
        while let Some(id) = todo.pop() {
            if let Some(received) = all.remove(id) {
                todo.extend(&received.pdu.prev_events);
                behind.push(received);
            }
        }
        behind
    }

    /// Takes the version that a room turns out to have. Before we are in it, it is only what the
    /// first invite claimed, which anybody can send.
    pub(crate) fn set_version(&mut self, version: &RoomVersionId) -> Result<(), RoomError> {
        if *version != self.version {
            if self.has_state() {
                return Err(RoomError::BadRequest("the room has another version".to_owned()));
            }
            self.rules = crate::proto::pdu::rules_of(version)
                .ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
            self.version = version.clone();
        }
        Ok(())
    }

    /// Takes an invite of a user of ours from another server.
    ///
    /// One that waits stays what it is, or whoever knows the id of a room could put his own in its
    /// place; but its inviter may send another. Whoever else invites is one more to join through.
    pub(crate) fn invited(
        &mut self,
        version: &RoomVersionId,
        user: OwnedUserId,
        mut invite: InviteData,
    ) -> Result<Change, RoomError> {
        if self.has_in(&user) {
            return Err(RoomError::Forbidden("the user is in the room already".into()));
        }
        if !self.locals.contains_key(&user) && self.locals.len() >= limits::ROOM_USERS_OF_SERVER {
            return Err(RoomError::Full("people of this server are in the room"));
        }
        invite.notify = self.notify_invited(&user, &invite.event);
        let waits = self.locals.get(&user).cloned();
        let waits = waits.filter(|own| own.membership == MembershipState::Invite);
        if let Some(mut first) = waits.and_then(|own| own.invite) {
            let others = std::mem::take(&mut invite.via);
            let known = std::mem::take(&mut first.via);
            let another = first.event.sender != invite.event.sender;
            if another {
                invite = first;
            } else {
                self.set_version(version)?;
            }
            // Who invites before who is only said to be in the room.
            let mut via: Vec<OwnedServerName> = Vec::with_capacity(limits::INVITE_VIA);
            let (one, other) = (known.iter().take(1), others.iter().take(1));
            for server in one.chain(other).chain(&known).chain(&others) {
                if via.len() < limits::INVITE_VIA && !via.contains(server) {
                    via.push(server.clone());
                }
            }
            invite.via = via;
        } else {
            self.set_version(version)?;
        }
        let id = Some(invite.event.event_id.clone());
        Ok(self.set_membership(user, MembershipState::Invite, id, Some(invite)))
    }

    /// Tells whether anybody may come into the room.
    pub(crate) fn is_public(&self) -> bool {
        let rules = self.state_event(&StateEventType::RoomJoinRules, "");
        rules.is_some_and(|pdu| pdu::is_public(&pdu.content))
    }

    /// Notes an invite of a user of ours, or the end of one, in a room that he is not in.
    pub(crate) fn set_membership(
        &mut self,
        user: OwnedUserId,
        membership: MembershipState,
        event_id: Option<OwnedEventId>,
        invite: Option<InviteData>,
    ) -> Change {
        let mut change = self.change();
        let own = OwnMembership { membership, event_id, invite, forgotten: false };
        self.locals.insert(user.clone(), own.clone());
        change.commit.memberships.insert(user, own);
        change
    }

    /// Takes the room out of every list of a user of ours who has left it. History stays, for the
    /// day on which he comes back.
    pub(crate) fn forget(&mut self, user: &UserId) -> Option<Change> {
        let left = self.locals.get(user).filter(|own| own.membership != MembershipState::Join);
        let own = OwnMembership { forgotten: true, ..left?.clone() };
        let mut change = self.change();
        self.locals.remove(user);
        change.commit.memberships.insert(user.to_owned(), own);
        Some(change)
    }

    /// Makes the template for somebody's membership event, if the auth rules would allow it.
    pub(crate) fn template(
        &self,
        user: &OwnedUserId,
        membership: &MembershipState,
        now: u64,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let draft = Draft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user.to_string()),
            content: Self::member_content(membership, None, None, None),
            redacts: None,
        };
        let position = self.position(&draft, user, now)?;
        let template = serde_json::json!({
            "type": "m.room.member",
            "room_id": self.room_id,
            "sender": user,
            "state_key": user,
            "content": draft.content,
            "prev_events": position.prev_events,
            "auth_events": position.auth_events,
            "depth": position.depth,
            "origin_server_ts": now,
        });
        let text = template.to_string();
        // The auth rules look at no signature or hash, so a template can be checked as it is.
        let unsigned_id = ruma::EventId::parse("$template").map_err(RoomError::internal)?;
        let pdu = Pdu::from_json(unsigned_id, &text, &self.rules)?;
        match self.check_current(&pdu) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(RoomError::Forbidden(error)),
            Err(_) => return Err(RoomError::NotFound),
        }
        serde_json::from_str(&text).map_err(RoomError::internal)
    }

    /// Returns the stripped state that goes with an invite (`invite_room_state`), as PDUs.
    pub(crate) fn invite_state(&self, inviter: &UserId) -> Vec<Arc<Pdu>> {
        const SHOWN: [StateEventType; 7] = [
            StateEventType::RoomCreate,
            StateEventType::RoomJoinRules,
            StateEventType::RoomName,
            StateEventType::RoomAvatar,
            StateEventType::RoomTopic,
            StateEventType::RoomCanonicalAlias,
            StateEventType::RoomEncryption,
        ];
        let by = self.state_event(&StateEventType::RoomMember, inviter.as_str()).cloned();
        SHOWN.iter().filter_map(|kind| self.state_event(kind, "").cloned()).chain(by).collect()
    }

    /// Returns the servers that can let somebody in beside ours, who is not in the room himself.
    pub(crate) fn via_for(&self, invited: &OwnedServerName) -> Vec<OwnedServerName> {
        let others = |server: &&OwnedServerName| self.server != **server && invited != *server;
        self.servers.iter().filter(others).take(limits::INVITE_VIA).cloned().collect()
    }

    /// Returns the servers that can be asked about the invite of a user of ours.
    pub(crate) fn invited_through(&self, user: &UserId) -> Vec<OwnedServerName> {
        let invite = self.locals.get(user).and_then(|own| own.invite.as_ref());
        invite.map_or_else(Vec::new, |invite| invite.via.clone())
    }

    /// Returns the servers that could be asked about the room, `first` before all others.
    pub(crate) fn candidates(&self, first: &[OwnedServerName]) -> Vec<OwnedServerName> {
        let mut seen = HashSet::new();
        first
            .iter()
            .chain(&self.servers)
            .filter(|server| self.server != **server && !self.denies(server))
            .filter(|server| seen.insert((*server).clone()))
            .cloned()
            .collect()
    }
}

#[derive(serde::Deserialize)]
struct CreateContent {
    room_version: Option<RoomVersionId>,
}

/// Orders events so that each comes after its auth events. Hash ids allow no cycle; the walk is
/// iterative all the same, since chains can be long.
fn parents_first(all: &HashMap<OwnedEventId, &Received>) -> Vec<OwnedEventId> {
    let mut order = Vec::with_capacity(all.len());
    let mut done: HashSet<&OwnedEventId> = HashSet::new();
    let mut ids: Vec<&OwnedEventId> = all.keys().collect();
    ids.sort();
    for root in ids {
        let mut stack = vec![(root, false)];
        while let Some((id, expanded)) = stack.pop() {
            if done.contains(id) {
                continue;
            }
            let Some((id, received)) = all.get_key_value(id) else { continue };
            if expanded {
                done.insert(id);
                order.push(id.clone());
                continue;
            }
            stack.push((id, true));
            stack.extend(received.pdu.auth_events.iter().map(|parent| (parent, false)));
        }
    }
    order
}

/// Orders events so that each comes before those that it follows; of several the deepest first.
fn children_first<'a>(events: &[&'a Received]) -> Vec<&'a Received> {
    let all: HashMap<&OwnedEventId, &'a Received> =
        events.iter().map(|received| (&received.pdu.event_id, *received)).collect();
    let mut children: HashMap<&OwnedEventId, usize> = HashMap::new();
    for received in all.values() {
        let prevs: HashSet<&OwnedEventId> = received.pdu.prev_events.iter().collect();
        for prev in prevs {
            *children.entry(prev).or_default() += 1;
        }
    }
    let key = |received: &'a Received| (received.pdu.depth, &received.pdu.event_id);
    let mut ready: BTreeMap<_, _> = all
        .values()
        .filter(|received| !children.contains_key(&received.pdu.event_id))
        .map(|received| (key(received), *received))
        .collect();
    let mut order = Vec::with_capacity(all.len());
    while let Some((_, received)) = ready.pop_last() {
        order.push(received);
        let prevs: HashSet<&OwnedEventId> = received.pdu.prev_events.iter().collect();
        for prev in prevs {
            let Some(left) = children.get_mut(prev) else { continue };
            *left = left.saturating_sub(1);
            if *left == 0
                && let Some(received) = all.get(prev)
            {
                ready.insert(key(received), *received);
            }
        }
    }
    order
}
