//! The checks on receipt of a PDU that need the room (Server-Server API, "Checks performed on
//! receipt of a PDU", 4 to 6), in their order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, ServerName,
    events::{TimelineEventType, room::member::MembershipState},
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
    },
};

use super::{
    Change, Machine, MemberContent, Stop,
    state::{Before, View},
};
use crate::{
    actors::{
        room::messages::RoomError,
        store::{ClientTxn, Extremity, NewEvent, NewGroup, Place},
    },
    config::limits,
    proto::pdu::{MAX_PREV_EVENTS, Pdu, Received, StateKey},
};

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Ingested {
    /// It is new; store this.
    New(Box<Change>, Place),
    /// It was here before.
    Duplicate,
    /// It waits for events that are not here: [`Machine::next_fetch`].
    Parked,
    /// Too many events wait; it comes again with the next head exchange.
    Full,
}

/// Forward extremities of one server.
const FORKS_SERVER: usize = 20;

/// Rejected and soft-failed events that are walked through for what they follow.
const UNSEEN_WALK: usize = 100;

/// All that is known of an event once it was checked, before anything is changed.
pub(super) struct Plan {
    pub(super) place: Place,
    before: Before,
    front: Option<super::state::Front>,
    state_group: u64,
    new_groups: Vec<NewGroup>,
    next_group: u64,
    /// What it follows and is not here, where its state was fetched.
    gaps: Vec<OwnedEventId>,
}

/// Fills a place of the state before an event that has no state of its own here: a state that
/// was fetched, instead of one computed from prev events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchedState(pub(super) u64);

impl Machine {
    /// Takes in an event that is well formed and signed.
    ///
    /// `fetched` gives the state before it where its prev events cannot be had.
    pub(crate) fn ingest(
        &mut self,
        received: &Received,
        fetched: Option<FetchedState>,
    ) -> Result<Ingested, Stop> {
        let pdu = &received.pdu;
        if self.extremities.is_empty() {
            return Err(RoomError::NotFound.into());
        }
        self.require(std::slice::from_ref(&pdu.event_id))?;
        self.require_target(pdu)?;
        self.require_levels(std::slice::from_ref(&received.pdu.event_id))?;
        if let Some(known) = self.known(&pdu.event_id).cloned()
            && known.place != Place::Outlier
        {
            if known.spoilt && !received.spoilt {
                let levels = self.levels_of(&known);
                return Ok(self.mend(received, &known, levels));
            }
            return Ok(Ingested::Duplicate);
        }
        let mut missing = self.missing_of(&pdu.auth_events)?;
        if fetched.is_none() {
            let without_state: Vec<_> = {
                self.require(&pdu.prev_events)?;
                let unusable =
                    |id: &&OwnedEventId| self.known(id).is_none_or(|known| known.group.is_none());
                pdu.prev_events.iter().filter(unusable).cloned().collect()
            };
            missing.extend(without_state);
        }
        // An outlier is from before our time here, and so is what others followed already: their
        // place is in backfilled history. The create event, which nothing precedes, is one too.
        let is_history = self.backward.contains_key(&pdu.event_id) && fetched.is_none();
        if is_history && (!missing.is_empty() || pdu.prev_events.is_empty()) {
            return self.ingest_history(received);
        }
        let older = self.known(&pdu.event_id).is_some();
        if older && fetched.is_none() && (!missing.is_empty() || pdu.prev_events.is_empty()) {
            return Ok(Ingested::Duplicate);
        }
        if !missing.is_empty() {
            return Ok(self.park(received, missing));
        }
        let mut plan = self.plan(pdu, fetched)?;
        // What others followed before it came is no news, and nothing goes on from it.
        if is_history && plan.place != Place::Rejected {
            plan.place = Place::Backfilled;
        }
        Ok(self.commit_plan(received, plan))
    }

    /// Takes in an event that was missing before others, without the state before it.
    fn ingest_history(&mut self, received: &Received) -> Result<Ingested, Stop> {
        let change = self.backfilled(std::slice::from_ref(received))?;
        Ok(match change.commit.events.is_empty() {
            true => Ingested::Duplicate,
            false => Ingested::New(Box::new(change), Place::Backfilled),
        })
    }

    /// Returns the events of a list that are not here.
    fn missing_of(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, Stop> {
        self.require(ids)?;
        Ok(ids.iter().filter(|id| self.known(id).is_none()).cloned().collect())
    }

    /// Returns the state before an event by id.
    pub(crate) fn ids_before(&mut self, pdu: &Pdu) -> Result<Arc<super::StateIds>, Stop> {
        self.require(&pdu.prev_events)?;
        // The states before some of them are not the state before the event.
        let groups: Option<Vec<u64>> =
            pdu.prev_events.iter().map(|id| self.known(id).and_then(|known| known.group)).collect();
        let before = self.merge(&groups.ok_or(RoomError::EventNotFound)?, self.next_group)?;
        Ok(match before.view {
            View::Current => Arc::new(self.current_ids()),
            View::Ids(ids) => ids,
        })
    }

    /// A full copy takes the place of one that was changed on its way, unless a redaction
    /// explains the difference.
    fn mend(
        &mut self,
        received: &Received,
        known: &super::KnownEvent,
        levels: Option<Arc<Pdu>>,
    ) -> Ingested {
        let mut change = self.change();
        let mut pdu = received.pdu.clone();
        pdu.rejected = known.pdu.rejected;
        let new = NewEvent {
            pdu: Arc::new(pdu),
            place: known.place,
            state_group: known.group,
            spoilt: false,
            txn: None,
            notify: Vec::new(),
        };
        self.remember(&new);
        let pdu = Arc::clone(&new.pdu);
        change.commit.events.push(new);
        // A spoilt redaction may have lost the name of its target.
        if matches!(known.place, Place::Live | Place::Backfilled) {
            self.redact(&mut change, &pdu, levels);
        }
        Ingested::New(Box::new(change), known.place)
    }

    /// Checks the auth rules and works out what the event does to the room. Changes nothing.
    pub(super) fn plan(&mut self, pdu: &Pdu, fetched: Option<FetchedState>) -> Result<Plan, Stop> {
        let mut next_group = self.next_group;
        let mut new_groups = Vec::new();
        let groups: Vec<u64> = match fetched {
            Some(FetchedState(group)) => vec![group],
            None => pdu
                .prev_events
                .iter()
                .filter_map(|id| self.known(id).and_then(|known| known.group))
                .collect(),
        };
        let before = self.merge(&groups, next_group)?;
        if let Some(new) = &before.new {
            next_group = new.id + 1;
            new_groups.push(new.clone());
        }
        if let Err(error) = self.check_auth(pdu, &before.view)? {
            log::debug!(room_id:% = self.room_id, event_id:% = pdu.event_id; "event rejected: {error}");
            let state_group = before.group;
            let (place, gaps) = (Place::Rejected, Vec::new());
            return Ok(Plan {
                place,
                before,
                front: None,
                state_group,
                new_groups,
                next_group,
                gaps,
            });
        }
        let after = match pdu.state_place() {
            None => Before { new: None, ..before.clone() },
            Some(place) => {
                let changes = vec![(place.clone(), Some(pdu.event_id.clone()))];
                let new = NewGroup { id: next_group, parent: Some(before.group), changes };
                next_group += 1;
                new_groups.push(new.clone());
                let view = match &before.view {
                    View::Current => View::Current,
                    View::Ids(ids) => {
                        let mut ids = (**ids).clone();
                        ids.insert(place, pdu.event_id.clone());
                        View::Ids(Arc::new(ids))
                    }
                };
                Before { view, group: new.id, new: Some(new) }
            }
        };
        let allowed = match self.is_denied(pdu, &before.view)? {
            true => Err("the room keeps its server out".to_owned()),
            false => self.check_current(pdu)?,
        };
        if let Err(error) = allowed {
            log::debug!(room_id:% = self.room_id, event_id:% = pdu.event_id; "event soft-failed: {error}");
            let (place, state_group) = (Place::SoftFailed, after.group);
            let gaps = Vec::new();
            return Ok(Plan {
                place,
                before,
                front: None,
                state_group,
                new_groups,
                next_group,
                gaps,
            });
        }
        let extremities = self.heads_after(pdu, after.group)?;
        let front = if extremities == self.extremities {
            None
        } else {
            let front = self.front(extremities, &after);
            self.require_diff(&front.diff, Some(pdu))?;
            Some(front)
        };
        let gaps = if fetched.is_some() { self.gaps_before(pdu) } else { Vec::new() };
        Ok(Plan {
            place: Place::Live,
            before,
            state_group: after.group,
            front,
            new_groups,
            next_group,
            gaps,
        })
    }

    /// Returns the forward extremities once an event is in: less what it follows, and less what
    /// rejected and soft-failed events between follow; without itself where others followed it
    /// before it came.
    fn heads_after(&self, pdu: &Pdu, state_group: u64) -> Result<Vec<Extremity>, Stop> {
        let mut followed: HashSet<OwnedEventId> = HashSet::new();
        let mut level: Vec<OwnedEventId> = pdu.prev_events.clone();
        while !level.is_empty() && followed.len() < UNSEEN_WALK {
            level.retain(|id| followed.insert(id.clone()));
            self.require(&level)?;
            level = level
                .iter()
                .filter_map(|id| self.known(id))
                .filter(|known| matches!(known.place, Place::SoftFailed | Place::Rejected))
                .flat_map(|known| known.pdu.prev_events.iter().cloned())
                .collect();
        }
        let mut heads: Vec<Extremity> = self
            .extremities
            .iter()
            .filter(|head| !followed.contains(&head.event_id))
            .cloned()
            .collect();
        if heads.is_empty() || !self.backward.contains_key(&pdu.event_id) {
            let (event_id, depth) = (pdu.event_id.clone(), pdu.depth);
            heads.push(Extremity { event_id, depth, state_group });
        }
        self.in_order(heads, pdu)
    }

    /// Puts forward extremities, `newest` perhaps among them, in the order in which they are
    /// followed, and forgets what one server has too much of. Where they are few nothing is done.
    ///
    /// A server that is honest follows what it said before, so it has one extremity, or two. One
    /// that has many forks all the time, and would have their states resolved for ever; so of each
    /// server few count, and those of others first. The order follows from the events alone: who
    /// has the same ones chooses the same.
    pub(super) fn in_order(
        &self,
        mut heads: Vec<Extremity>,
        newest: &Pdu,
    ) -> Result<Vec<Extremity>, Stop> {
        if heads.len() <= MAX_PREV_EVENTS {
            return Ok(heads);
        }
        let ids: Vec<OwnedEventId> = heads
            .iter()
            .map(|head| head.event_id.clone())
            .filter(|id| *id != newest.event_id)
            .collect();
        self.require(&ids)?;
        heads.sort_by(|one, other| {
            other.depth.cmp(&one.depth).then_with(|| one.event_id.cmp(&other.event_id))
        });
        let mut forks: HashMap<&ServerName, usize> = HashMap::new();
        let mut ranked: Vec<(usize, Extremity)> = Vec::with_capacity(heads.len());
        for head in heads {
            let sender = match self.known(&head.event_id) {
                Some(known) => &known.pdu.sender,
                None => &newest.sender,
            };
            let rank = forks.entry(sender.server_name()).or_default();
            if *rank < FORKS_SERVER {
                ranked.push((*rank, head));
            }
            *rank += 1;
        }
        // Sorted already by depth and id, and this keeps the order of equals.
        ranked.sort_by_key(|(rank, _)| *rank);
        Ok(ranked.into_iter().map(|(_, head)| head).collect())
    }

    /// Returns the prev events of an event that are not here, or here as outliers only.
    pub(super) fn gaps_before(&self, pdu: &Pdu) -> Vec<OwnedEventId> {
        let missing =
            |id: &&OwnedEventId| self.known(id).is_none_or(|known| known.place == Place::Outlier);
        pdu.prev_events.iter().filter(missing).cloned().collect()
    }

    /// Checks the auth rules against the event's own auth events, and the state before it.
    fn check_auth(&mut self, pdu: &Pdu, before: &View) -> Result<Result<(), String>, Stop> {
        let rules = &self.rules.authorization;
        let create = self.create_event();
        let by_id = |id: &EventId| {
            self.known(id)
                .map(|known| Arc::clone(&known.pdu))
                .or_else(|| create.clone().filter(|create| create.event_id == id))
        };
        if let Err(error) = check_state_independent_auth_rules(rules, pdu, by_id) {
            return Ok(Err(error));
        }
        let auth: HashMap<StateKey, Arc<Pdu>> = pdu
            .auth_events
            .iter()
            .filter_map(|id| self.known(id))
            .filter_map(|known| Some((known.pdu.state_place()?, Arc::clone(&known.pdu))))
            .chain(create.clone().and_then(|create| Some((create.state_place()?, create))))
            .collect();
        let by_auth = |kind: &ruma::events::StateEventType, key: &str| {
            auth.get(&(kind.clone(), key.to_owned())).cloned()
        };
        if let Err(error) = check_state_dependent_auth_rules(rules, pdu, by_auth) {
            return Ok(Err(format!("by its auth events: {error}")));
        }
        self.check_state(pdu, before)
            .map(|checked| checked.map_err(|error| format!("by the state before it: {error}")))
    }

    /// Checks the auth rules against a state.
    pub(super) fn check_state(&self, pdu: &Pdu, view: &View) -> Result<Result<(), String>, Stop> {
        let rules = &self.rules.authorization;
        let mut places = match auth_types_for_event(
            &pdu.kind,
            &pdu.sender,
            pdu.state_key.as_deref(),
            &pdu.content,
            rules,
        ) {
            Ok(places) => places,
            Err(error) => return Ok(Err(error)),
        };
        places.push((ruma::events::StateEventType::RoomCreate, String::new()));
        self.require_places(view, &places)?;
        let fetch = |kind: &ruma::events::StateEventType, key: &str| self.event_in(view, kind, key);
        Ok(check_state_dependent_auth_rules(rules, pdu, fetch))
    }

    /// Checks the auth rules against the current state: failing means soft-fail.
    pub(super) fn check_current(&self, pdu: &Pdu) -> Result<Result<(), String>, Stop> {
        if self.is_crowded_by(pdu) {
            return Ok(Err("its server has as many users here as it may have".to_owned()));
        }
        self.check_state(pdu, &View::Current)
    }

    /// Tells whether an event would bring one user more of a server into the room than it may have
    /// there. No auth rule says so, and two nodes may count at different moments: such an event
    /// fails softly, so that a room which went on after it is the same everywhere.
    fn is_crowded_by(&self, pdu: &Pdu) -> bool {
        let joins = pdu.kind == TimelineEventType::RoomMember
            && serde_json::from_str::<MemberContent>(pdu.content.get())
                .is_ok_and(|content| content.membership == MembershipState::Join);
        let user = pdu.state_key.as_deref().and_then(|key| <&ruma::UserId>::try_from(key).ok());
        let Some(user) = user.filter(|_| joins) else { return false };
        let count = self.joined.get(user.server_name()).copied().unwrap_or_default();
        let is_in =
            || self.member(user).is_some_and(|member| member.membership == MembershipState::Join);
        count >= limits::ROOM_USERS_OF_SERVER && !is_in()
    }

    /// Returns the create event.
    pub(crate) fn create_event(&self) -> Option<Arc<Pdu>> {
        self.state_event(&ruma::events::StateEventType::RoomCreate, "").cloned()
    }

    /// Carries a plan out: from here on nothing can fail.
    fn commit_plan(&mut self, received: &Received, plan: Plan) -> Ingested {
        let full = self.known(&received.pdu.event_id).filter(|known| !known.spoilt);
        // An outlier may be redacted already: it stays what it is.
        let spoilt = received.spoilt && full.is_none();
        let pdu = full.map_or_else(|| received.pdu.clone(), |known| (*known.pdu).clone());
        let place = plan.place;
        Ingested::New(Box::new(self.commit_planned(pdu, spoilt, None, plan)), place)
    }

    pub(super) fn commit_planned(
        &mut self,
        mut pdu: Pdu,
        spoilt: bool,
        txn: Option<ClientTxn>,
        plan: Plan,
    ) -> Change {
        let mut change = self.change();
        pdu.rejected = plan.place == Place::Rejected;
        let pdu = Arc::new(pdu);
        let redacted_by = self.redacted_by(&pdu.event_id);
        let levels = self.levels_in(&plan.before.view);
        let new = NewEvent {
            pdu: Arc::clone(&pdu),
            place: plan.place,
            state_group: Some(plan.state_group),
            spoilt,
            txn,
            notify: if plan.place == Place::Live { self.notify(&pdu) } else { Vec::new() },
        };
        self.append(&mut change, new, plan.new_groups, plan.next_group, plan.front);
        drop(plan.before);
        if matches!(plan.place, Place::Live | Place::Backfilled) {
            self.redact(&mut change, &pdu, levels);
        }
        self.redact_late(&mut change, &pdu, redacted_by);
        let filled = self.backward.remove(&pdu.event_id).is_some();
        let gaps = !plan.gaps.is_empty();
        self.note_gaps(&pdu.event_id, plan.gaps);
        if filled || gaps {
            self.note_backward(&mut change);
        }
        self.parked.remove(&pdu.event_id);
        self.note_unparked(&mut change);
        change
    }

    /// Adds one event to a change and to the room.
    pub(super) fn append(
        &mut self,
        change: &mut Change,
        new: NewEvent,
        new_groups: Vec<NewGroup>,
        next_group: u64,
        front: Option<super::state::Front>,
    ) {
        self.next_group = next_group;
        self.remember(&new);
        if let Some(txn) = &new.txn {
            let by = new.pdu.sender.clone();
            self.remember_txn((by, txn.clone()), new.pdu.event_id.clone());
        }
        if !new_groups.is_empty() {
            change.commit.groups.extend(new_groups);
            self.note_heads(change);
        }
        change.commit.events.push(new);
        if let Some(front) = front {
            self.extremities = front.extremities;
            self.current_group = front.group;
            self.unsettled = front.unsettled;
            self.apply_diff(change, front.diff);
            self.note_heads(change);
        }
    }

    /// Tells whether an event that a member gossips is of a server that has joined, or joins by it:
    /// then it may be handed on.
    pub(crate) fn may_gossip(&self, pdu: &Pdu) -> bool {
        self.has_joined(pdu.sender.server_name())
            || (!self.denies(pdu.sender.server_name())
                && pdu.kind == TimelineEventType::RoomMember
                && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
                && serde_json::from_str::<MemberContent>(pdu.content.get())
                    .is_ok_and(|content| content.membership == MembershipState::Join))
    }
}
