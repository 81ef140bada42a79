//! How a user of ours learns that he was shown out, or that an invite was taken back, while he was away.
//!
//! Nobody sends him the room any more, so the event that shows him out comes alone, with what
//! authorizes it. It counts if the auth rules allow it in the state that is here, resolved with the
//! state that the event itself names: who was given power meanwhile may use it, and who was stripped
//! of it, or never had it, may not, whoever hands the event over. What is known already is no news:
//! an old departure says nothing about a user who has come back since.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId, ServerName,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::{
    Change, GivenState, Machine, MemberContent, Stop,
    join::Accepted,
    state::{Before, Front, View, diff},
};
use crate::{
    actors::{
        room::messages::RoomError,
        store::{Extremity, NewEvent, NewGroup, Place},
    },
    proto::pdu::{Pdu, Received},
};

/// The state that a departure names, where it differs from ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named(Option<u64>);

impl Machine {
    /// Returns what the user of ours whom an event shows out of the room was in it, or whose invite
    /// it takes back; none if it does neither, or is known here.
    pub(crate) fn departs_from(&self, pdu: &Pdu) -> Result<Option<MembershipState>, Stop> {
        let Some(user) = departing(pdu).filter(|user| self.is_local(user)) else {
            return Ok(None);
        };
        let was = self.membership(&user).map(|own| own.membership.clone()).filter(|membership| {
            matches!(membership, MembershipState::Join | MembershipState::Invite)
        });
        self.require(std::slice::from_ref(&pdu.event_id))?;
        Ok(was.filter(|_| self.known(&pdu.event_id).is_none()))
    }

    /// Tells whether an event shows the last user of ours out who is in the room, or takes an invite
    /// back while none is in it.
    pub(crate) fn departs_with_all(&self, pdu: &Pdu) -> Result<bool, Stop> {
        let others = |user: &OwnedUserId| {
            let others = self.locals().filter(|(other, _)| *other != user);
            others.filter(|(_, own)| own.membership == MembershipState::Join).count()
        };
        let alone = departing(pdu).is_some_and(|user| others(&user) == 0);
        Ok(alone && self.departs_from(pdu)?.is_some())
    }

    /// Tells whether an event is the one by which a user of a server is out of the room: then that
    /// server may ask what authorizes it.
    pub(crate) fn is_departure_of(
        &self,
        server: &ServerName,
        event_id: &OwnedEventId,
    ) -> Result<bool, Stop> {
        self.require(std::slice::from_ref(event_id))?;
        let Some(known) = self.known(event_id) else { return Ok(false) };
        let Some(user) = departing(&known.pdu) else { return Ok(false) };
        let member = self.state_event(&StateEventType::RoomMember, user.as_str());
        Ok(user.server_name() == server && member.is_some_and(|pdu| pdu.event_id == *event_id))
    }

    /// Returns whether all auth events of an event are here.
    pub(crate) fn has_auth_events(&self, pdu: &Pdu) -> Result<bool, Stop> {
        self.require(&pdu.auth_events)?;
        Ok(pdu.auth_events.iter().all(|id| self.known(id).is_some()))
    }

    /// Takes in what authorizes a departure from a room that our user is in.
    pub(crate) fn name_departure(
        &mut self,
        pdu: &Pdu,
        given: &GivenState,
    ) -> Result<(Named, Change), Stop> {
        self.require_given(given)?;
        self.require(&pdu.auth_events)?;
        let create = self.create_event().ok_or(RoomError::NotFound)?;
        let accepted = self.accept_events(given, &create);
        self.check_departure(pdu, &accepted, &create)?;
        let mut changes = Vec::new();
        for id in &pdu.auth_events {
            let given = accepted.events.get(id).map(|(pdu, _)| Arc::clone(pdu));
            let event = given.or_else(|| self.known(id).map(|known| Arc::clone(&known.pdu)));
            if let Some(place) = event.and_then(|event| event.state_place())
                && self.state.get(&place).is_none_or(|ours| ours.event_id != *id)
            {
                changes.push((place, Some(id.clone())));
            }
        }
        changes.sort();
        let mut change = self.change();
        self.store_events(&mut change, &accepted);
        let mut named = None;
        if !changes.is_empty() {
            let group = self.next_group;
            self.next_group += 1;
            let parent = Some(self.current_group);
            change.commit.groups.push(NewGroup { id: group, parent, changes });
            self.note_heads(&mut change);
            named = Some(group);
        }
        self.note_unparked(&mut change);
        change.unparked.retain(|id| *id != pdu.event_id);
        Ok((Named(named), change))
    }

    /// Has a user of ours be out of a room that he was in. What the others said before is a gap.
    pub(crate) fn depart(&mut self, received: &Received, named: Named) -> Result<Change, Stop> {
        let pdu = &received.pdu;
        let place = pdu.state_place().ok_or_else(no_departure)?;
        self.require(&pdu.auth_events)?;
        self.require(&pdu.prev_events)?;
        let mut groups = vec![self.current_group];
        groups.extend(named.0);
        let mut next_group = self.next_group;
        let before = self.merge(&groups, next_group)?;
        self.check_state(pdu, &before.view)?.map_err(RoomError::Forbidden)?;
        let mut new_groups: Vec<NewGroup> = before.new.iter().cloned().collect();
        next_group += u64::from(before.new.is_some());
        let group = next_group;
        next_group += 1;
        let changes = vec![(place.clone(), Some(pdu.event_id.clone()))];
        new_groups.push(NewGroup { id: group, parent: Some(before.group), changes });
        let Before { view, .. } = before;
        let mut after = match view {
            View::Current => self.current_ids(),
            View::Ids(ids) => (*ids).clone(),
        };
        after.insert(place, pdu.event_id.clone());
        let diff = diff(&self.current_ids(), &after);
        self.require_diff(&diff, Some(pdu))?;

        let mut change = self.change();
        let pdu = Arc::new(pdu.clone());
        let (event_id, depth) = (pdu.event_id.clone(), pdu.depth);
        let extremities = vec![Extremity { event_id, depth, state_group: group }];
        let gaps = self.gaps_before(&pdu);
        let gone = pdu.event_id.clone();
        self.parked.remove(&pdu.event_id);
        let new = NewEvent {
            pdu,
            place: Place::Live,
            state_group: Some(group),
            spoilt: received.spoilt,
            txn: None,
            notify: Vec::new(),
        };
        let front = Front { extremities, group, diff, unsettled: false };
        self.append(&mut change, new, new_groups, next_group, Some(front));
        self.note_gaps(&gone, gaps);
        self.note_backward(&mut change);
        Ok(change)
    }

    /// Takes an invite of a user of ours for taken back. It follows the very invite that waits, so it is
    /// of the same room, and of nobody who makes another one up under its name.
    pub(crate) fn uninvited(
        &mut self,
        received: &Received,
        given: &GivenState,
    ) -> Result<Change, Stop> {
        let pdu = &received.pdu;
        self.require_given(given)?;
        self.require(&pdu.auth_events)?;
        let membership = departure(pdu).ok_or_else(no_departure)?;
        let user = departing(pdu).ok_or_else(no_departure)?;
        let invite = self.membership(&user).and_then(|own| own.invite.as_ref());
        let invite = invite.map(|invite| Arc::clone(&invite.event)).ok_or_else(no_departure)?;
        if !pdu.auth_events.contains(&invite.event_id) {
            return Err(RoomError::Forbidden("it does not follow the invite".to_owned()).into());
        }
        let create = match self.create_event() {
            Some(create) => create,
            None => self.find_create(&given.all())?,
        };
        let by_name = self.rules.authorization.room_create_event_id_as_room_id;
        if !by_name && !invite.auth_events.contains(&create.event_id) {
            return Err(RoomError::Forbidden("the invite is of another room".to_owned()).into());
        }
        let accepted = self.accept_events(given, &create);
        self.check_departure(pdu, &accepted, &create)?;
        let mut change = self.set_membership(user, membership, Some(pdu.event_id.clone()), None);
        let new = NewEvent {
            pdu: Arc::new(pdu.clone()),
            place: Place::Outlier,
            state_group: None,
            spoilt: received.spoilt,
            txn: None,
            notify: Vec::new(),
        };
        self.remember(&new);
        change.commit.events.push(new);
        Ok(change)
    }

    /// Checks a departure against its own auth events, all of which have to be here or given.
    fn check_departure(
        &self,
        pdu: &Pdu,
        accepted: &Accepted,
        create: &Arc<Pdu>,
    ) -> Result<(), RoomError> {
        let here = |id: &OwnedEventId| {
            create.event_id == *id
                || accepted.events.contains_key(id)
                || self.known(id).is_some_and(|known| known.place != Place::Rejected)
        };
        if !pdu.auth_events.iter().all(here) {
            return Err(RoomError::Forbidden("what authorizes it is not here".to_owned()));
        }
        self.check_outlier(pdu, &accepted.events, create).map_err(RoomError::Forbidden)
    }
}

impl GivenState {
    /// Returns the events by id.
    pub(super) fn all(&self) -> HashMap<OwnedEventId, &Received> {
        let all = self.auth_chain.iter().chain(&self.state);
        all.map(|received| (received.pdu.event_id.clone(), received)).collect()
    }
}

/// Returns who is out by an event.
pub(in crate::actors::room) fn departing(pdu: &Pdu) -> Option<OwnedUserId> {
    departure(pdu)?;
    OwnedUserId::try_from(pdu.state_key.as_deref()?).ok()
}

/// Returns the membership of somebody who is out by an event.
pub(in crate::actors::room) fn departure(pdu: &Pdu) -> Option<MembershipState> {
    let member = pdu.kind == TimelineEventType::RoomMember && pdu.state_key.is_some();
    let content: MemberContent = serde_json::from_str(pdu.content.get()).ok().filter(|_| member)?;
    let is_out = matches!(content.membership, MembershipState::Leave | MembershipState::Ban);
    is_out.then_some(content.membership)
}

fn no_departure() -> RoomError {
    RoomError::BadRequest("it shows nobody out".to_owned())
}
