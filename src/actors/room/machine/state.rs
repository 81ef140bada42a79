//! The state before and after events: groups, their resolution, the current state.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::{Change, Machine, MemberContent, Need, Stop};
use crate::{
    actors::{
        room::messages::RoomError,
        store::{DirectoryEntry, Extremity, InviteData, NewGroup, OwnMembership},
    },
    config::limits,
    proto::{
        client_event,
        names::{shown_avatar, shown_name},
        pdu::{MAX_PREV_EVENTS, Pdu, StateKey},
    },
};

/// A room state by event id.
pub(crate) type StateIds = HashMap<StateKey, OwnedEventId>;

/// Changes from one state to another; `None` removes.
pub(super) type StateDiff = Vec<(StateKey, Option<OwnedEventId>)>;

/// A state to check events against: the current one, or another by id.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// The current state.
    Current,
    /// Another state.
    Ids(Arc<StateIds>),
}

/// A state with its group. The group is new where it has changes.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub(super) view: View,
    pub(super) group: u64,
    /// Set when the group has yet to be stored.
    pub(super) new: Option<NewGroup>,
}

/// Other extremities, and how the current state becomes theirs.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) extremities: Vec<Extremity>,
    pub(super) group: u64,
    pub(super) diff: StateDiff,
    /// States have to be resolved: until then the current state is the one before.
    pub(super) unsettled: bool,
}

/// Returns what leads from one state to another, in a stable order.
pub(super) fn diff(from: &StateIds, to: &StateIds) -> StateDiff {
    let mut diff: StateDiff = to
        .iter()
        .filter(|(place, id)| from.get(*place) != Some(*id))
        .map(|(place, id)| (place.clone(), Some(id.clone())))
        .chain(
            from.keys().filter(|place| !to.contains_key(*place)).map(|place| (place.clone(), None)),
        )
        .collect();
    diff.sort();
    diff
}

/// Returns the groups of those extremities that the next event follows, each once.
fn groups_of(extremities: &[Extremity]) -> Vec<u64> {
    let followed = extremities.iter().take(MAX_PREV_EVENTS);
    let mut groups: Vec<u64> = followed.map(|head| head.state_group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

impl Machine {
    /// Returns the current state by event id.
    pub(super) fn current_ids(&self) -> StateIds {
        self.state.iter().map(|(place, pdu)| (place.clone(), pdu.event_id.clone())).collect()
    }

    /// Returns the state of a group, or the need for it.
    pub(super) fn state_of(&mut self, group: u64) -> Result<Arc<StateIds>, Stop> {
        if let Some(state) = self.groups.get(&group) {
            return Ok(Arc::clone(state));
        }
        if group == self.current_group {
            let state = Arc::new(self.current_ids());
            self.groups.insert(group, Arc::clone(&state));
            return Ok(state);
        }
        Err(Stop::Need(Need::State(group)))
    }

    /// Returns the resolution of several groups, or the need for it.
    fn resolve(&mut self, groups: &[u64]) -> Result<Arc<StateIds>, Stop> {
        if let Some(state) = self.resolved.get(groups) {
            return Ok(Arc::clone(state));
        }
        let states = self.states_of(groups)?;
        // The same state can have several groups; only real differences are resolved.
        if let Some(first) = states.first()
            && states.iter().all(|state| state == first)
        {
            return Ok(Arc::clone(first));
        }
        Err(Stop::Need(Need::Resolve(groups.to_vec())))
    }

    /// Returns the state after all events of which the groups are given.
    ///
    /// `next_group` is the number of a group that may be made for it.
    pub(super) fn merge(&mut self, groups: &[u64], next_group: u64) -> Result<Before, Stop> {
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        groups.dedup();
        let Some(&first) = groups.first() else {
            return Err(
                RoomError::BadRequest("an event without known state before it".into()).into()
            );
        };
        if groups.len() == 1 {
            let view = if first == self.current_group {
                View::Current
            } else {
                View::Ids(self.state_of(first)?)
            };
            return Ok(Before { view, group: first, new: None });
        }
        let merged = self.resolve(&groups)?;
        if *merged == self.current_ids() {
            return Ok(Before { view: View::Current, group: self.current_group, new: None });
        }
        for &group in &groups {
            if *self.state_of(group)? == *merged {
                return Ok(Before { view: View::Ids(merged), group, new: None });
            }
        }
        let changes = diff(&*self.state_of(first)?, &merged);
        let new = NewGroup { id: next_group, parent: Some(first), changes };
        Ok(Before { view: View::Ids(merged), group: next_group, new: Some(new) })
    }

    /// Takes other forward extremities.
    ///
    /// `after` is the state after the newest event, whose group is not stored yet. The newest event
    /// is not always an extremity itself.
    pub(super) fn front(&self, extremities: Vec<Extremity>, after: &Before) -> Front {
        if groups_of(&extremities) != [after.group] {
            let (group, diff) = (self.current_group, Vec::new());
            return Front { extremities, group, diff, unsettled: true };
        }
        let diff = match &after.view {
            View::Current => after.new.as_ref().map_or_else(Vec::new, |new| new.changes.clone()),
            View::Ids(ids) => diff(&self.current_ids(), ids),
        };
        Front { extremities, group: after.group, diff, unsettled: false }
    }

    /// Returns the groups of which the current state is the resolution.
    pub(super) fn front_groups(&self) -> Vec<u64> {
        groups_of(&self.extremities)
    }

    /// Tells whether the current state is not that of the forward extremities yet.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Lets the current state be that of the forward extremities.
    pub(crate) fn settle(&mut self) -> Result<Option<Box<Change>>, Stop> {
        if !self.unsettled {
            return Ok(None);
        }
        let groups = self.front_groups();
        let merged = self.resolve(&groups)?;
        let diff = diff(&self.current_ids(), &merged);
        self.require_diff(&diff, None)?;
        self.unsettled = false;
        if diff.is_empty() {
            return Ok(None);
        }
        let mut same = None;
        for &group in &groups {
            if *self.state_of(group)? == *merged {
                same = Some(group);
            }
        }
        let mut change = self.change();
        let group = same.unwrap_or_else(|| {
            let (id, parent) = (self.next_group, Some(self.current_group));
            change.commit.groups.push(NewGroup { id, parent, changes: diff.clone() });
            self.next_group += 1;
            id
        });
        self.current_group = group;
        self.apply_diff(&mut change, diff);
        self.note_heads(&mut change);
        Ok(Some(Box::new(change)))
    }

    /// Goes on with the current state as it is, where that of the forward extremities cannot be
    /// computed: the next event tries again.
    pub(crate) fn leave_unsettled(&mut self) {
        self.unsettled = false;
    }

    /// Returns the event at a place of a state.
    pub(super) fn event_in(
        &self,
        view: &View,
        kind: &StateEventType,
        key: &str,
    ) -> Option<Arc<Pdu>> {
        let place = (kind.clone(), key.to_owned());
        match view {
            View::Current => self.state.get(&place).cloned(),
            View::Ids(ids) => {
                let id = ids.get(&place)?;
                if let Some(current) = self.state.get(&place).filter(|pdu| pdu.event_id == *id) {
                    return Some(Arc::clone(current));
                }
                self.known(id).map(|event| Arc::clone(&event.pdu))
            }
        }
    }

    /// Makes sure that the events at some places of a state are in memory.
    pub(super) fn require_places(&self, view: &View, places: &[StateKey]) -> Result<(), Stop> {
        let View::Ids(ids) = view else { return Ok(()) };
        let current = |place: &StateKey, id: &OwnedEventId| {
            self.state.get(place).is_some_and(|pdu| pdu.event_id == *id)
        };
        let wanted: Vec<_> = places
            .iter()
            .filter_map(|place| Some((place, ids.get(place)?)))
            .filter(|(place, id)| !current(place, id))
            .map(|(_, id)| id.clone())
            .collect();
        self.require(&wanted)
    }

    /// Makes sure that the events of a change of the current state are in memory.
    pub(super) fn require_diff(&self, diff: &StateDiff, newest: Option<&Pdu>) -> Result<(), Stop> {
        let wanted: Vec<_> = diff
            .iter()
            .filter_map(|(_, id)| id.clone())
            .filter(|id| newest.is_none_or(|newest| *id != newest.event_id))
            .collect();
        self.require(&wanted)
    }

    /// Makes a diff the current state, and notes in the change what hangs on it.
    pub(super) fn apply_diff(&mut self, change: &mut Change, diff: StateDiff) {
        let mut servers_changed = false;
        let mut locals = Vec::new();
        for (place, id) in &diff {
            let new = id.as_ref().and_then(|id| self.known(id)).map(|known| Arc::clone(&known.pdu));
            let old = match &new {
                Some(pdu) => self.state.insert(place.clone(), Arc::clone(pdu)),
                None => self.state.remove(place),
            };
            servers_changed |= self.count_member(old.as_ref(), new.as_ref());
            if place.0 == StateEventType::RoomMember {
                locals.extend(self.note_member(change, &place.1, new));
            }
        }
        if diff.iter().any(|(place, _)| place.0 == StateEventType::RoomServerAcl) {
            servers_changed |= self.take_acl();
        }
        for (user, content, pdu) in locals {
            self.note_local(change, user, content, pdu);
        }
        if servers_changed {
            self.note_servers(change);
        }
        change.commit.state_changes.extend(diff);
    }

    /// Notes for the user directory what somebody is in the room now. Returns what is to be noted
    /// beside, if it is a user of ours.
    fn note_member(
        &self,
        change: &mut Change,
        state_key: &str,
        pdu: Option<Arc<Pdu>>,
    ) -> Option<(OwnedUserId, MembershipState, Option<Arc<Pdu>>)> {
        let user = OwnedUserId::try_from(state_key).ok()?;
        let content = pdu.as_ref().filter(|pdu| pdu.kind == TimelineEventType::RoomMember);
        let content: Option<MemberContent> =
            content.and_then(|pdu| serde_json::from_str(pdu.content.get()).ok());
        let membership =
            content.as_ref().map_or(MembershipState::Leave, |content| content.membership.clone());
        let entry =
            content.filter(|_| membership == MembershipState::Join).map(|content| DirectoryEntry {
                displayname: content.displayname.map(|name| shown_name(&name).into_owned()),
                avatar_url: content.avatar_url.filter(|url| shown_avatar(url).is_some()),
            });
        let is_local = self.is_local(&user);
        change.commit.directory.push((user.clone(), entry));
        is_local.then_some((user, membership, pdu))
    }

    /// Notes what a user of ours is in the room now. That there is such a user, nobody here knows:
    /// whoever has the power can invite and ban as many as he likes, so few of those are noted who
    /// never were in the room.
    fn note_local(
        &mut self,
        change: &mut Change,
        user: OwnedUserId,
        membership: MembershipState,
        pdu: Option<Arc<Pdu>>,
    ) {
        if !self.locals.contains_key(&user) {
            let is_out = matches!(membership, MembershipState::Leave | MembershipState::Ban);
            let crowded = self.locals.len() >= limits::ROOM_USERS_OF_SERVER;
            if is_out || (crowded && membership != MembershipState::Join) {
                return;
            }
        }
        // Who is invited by somebody while others of us are in the room is shown it as it is here.
        let invite = pdu.as_ref().filter(|_| membership == MembershipState::Invite);
        let invite = invite.map(|pdu| {
            let shown = self.invite_state(&pdu.sender).into_iter().chain([Arc::clone(pdu)]);
            let stripped = shown.filter_map(|pdu| client_event::stripped(&pdu.json).ok());
            let (event, stripped_state) = (Arc::clone(pdu), stripped.collect());
            let from = pdu.sender.server_name();
            let via = (*from != self.server).then(|| from.to_owned()).into_iter().collect();
            let notify = self.notify_invited(&user, pdu);
            InviteData { event, stripped_state, via, notify }
        });
        let event_id = pdu.map(|pdu| pdu.event_id.clone());
        let own = OwnMembership { membership, event_id, invite, forgotten: false };
        self.locals.insert(user.clone(), own.clone());
        change.commit.memberships.insert(user, own);
    }
}
