//! Our own events: composed, checked by the auth rules, signed and put at the front of the graph.

use std::sync::Arc;

use ruma::{OwnedEventId, UserId, events::TimelineEventType, state_res::auth_types_for_event};

use super::{
    Change, Machine, Need, Stop,
    state::{Before, View},
};
use crate::{
    actors::{
        room::messages::{MemberChange, RoomError},
        store::{ClientTxn, Extremity, NewEvent, NewGroup, Place},
    },
    proto::{
        annotation::Annotation,
        pdu::{self, Draft, MAX_PREV_EVENTS, Pdu, Position},
        relation::Relation,
        server_name,
        signer::Author,
    },
};

impl Machine {
    /// Returns where a new event of the current state stands: after the first forward extremities,
    /// as many as it may follow.
    pub(super) fn position(
        &self,
        draft: &Draft,
        sender: &UserId,
        now: u64,
    ) -> Result<Position, RoomError> {
        let content =
            serde_json::value::to_raw_value(&draft.content).map_err(RoomError::internal)?;
        let places = auth_types_for_event(
            &draft.kind,
            sender,
            draft.state_key.as_deref(),
            &content,
            &self.rules.authorization,
        )
        .map_err(RoomError::BadRequest)?;
        let auth_events = places
            .iter()
            .filter_map(|place| self.state.get(place))
            .map(|pdu| pdu.event_id.clone())
            .collect();
        let heads: Vec<&Extremity> = self.extremities.iter().take(MAX_PREV_EVENTS).collect();
        let depth = heads.iter().map(|head| head.depth).max().unwrap_or(0);
        Ok(Position {
            room_id: Some(self.room_id.clone()),
            prev_events: heads.iter().map(|head| head.event_id.clone()).collect(),
            auth_events,
            // Depth is a hint that others chose: it must not be able to stop us.
            depth: depth.saturating_add(1).min((1 << 53) - 1),
            origin_server_ts: now,
        })
    }

    /// Composes an event of a user of ours at the front of the room, if the auth rules allow it.
    pub(crate) fn compose(&self, draft: Draft, author: Author<'_>, now: u64) -> Result<Pdu, Stop> {
        if self.extremities.is_empty() {
            return Err(RoomError::NotFound.into());
        }
        let position = self.position(&draft, author.user_id(), now)?;
        let pdu = pdu::compose(draft, &position, author, &self.rules)?;
        self.check_current(&pdu)?.map_err(RoomError::Forbidden)?;
        Ok(pdu)
    }

    /// Sends an event of a user of ours.
    pub(crate) fn send(
        &mut self,
        draft: Draft,
        txn: Option<ClientTxn>,
        author: Author<'_>,
        now: u64,
    ) -> Result<(OwnedEventId, Change), Stop> {
        let by = author.user_id();
        if !self.has_in(by) {
            let known = self.membership(by).is_some();
            return Err(if known {
                RoomError::Forbidden("you are not in the room".to_owned())
            } else {
                RoomError::NotFound
            }
            .into());
        }
        if draft.kind == TimelineEventType::RoomCreate {
            return Err(RoomError::Forbidden("a room is created once".to_owned()).into());
        }
        self.require(draft.redacts.as_slice())?;
        self.check_annotation(&draft, by)?;
        self.check_thread(&draft)?;
        let pdu = self.compose(draft, author, now)?;
        self.check_redaction(&pdu)?;
        let event_id = pdu.event_id.clone();
        let change = self.send_composed(pdu, txn)?;
        Ok((event_id, change))
    }

    /// Checks that a user can exist. Who is in the room under an impossible name, from a time when
    /// that was let in, can be shown out.
    pub(crate) fn check_somebody(&self, user: &UserId) -> Result<(), RoomError> {
        if self.member(user).is_none() {
            server_name::check_user(user)?;
        }
        Ok(())
    }

    /// Refuses a redaction of ours that would not apply: the auth rules let it in all the same.
    fn check_redaction(&self, pdu: &Pdu) -> Result<(), RoomError> {
        let Some(target) = &pdu.redacts else { return Ok(()) };
        let known = self.known(target).ok_or(RoomError::EventNotFound)?;
        if self.may_redact(pdu, &known.pdu, self.levels_in(&View::Current).as_ref()) {
            return Ok(());
        }
        Err(RoomError::Forbidden("that takes the power to redact the events of others".to_owned()))
    }

    /// Refuses an annotation that its author has made already.
    fn check_annotation(&self, draft: &Draft, by: &UserId) -> Result<(), Stop> {
        if !draft.content.contains_key("m.relates_to") {
            return Ok(());
        }
        let content = serde_json::to_string(&draft.content)
            .map_err(|error| RoomError::BadRequest(error.to_string()))?;
        let Some(annotation) = Annotation::of(&draft.kind.to_string(), &content) else {
            return Ok(());
        };
        let wanted = (by.to_owned(), annotation);
        match self.annotations.get(&wanted) {
            Some(true) => Err(RoomError::DuplicateAnnotation.into()),
            Some(false) => Ok(()),
            None => Err(Stop::Need(Need::Annotation(wanted.0, wanted.1))),
        }
    }

    /// Refuses a thread that would begin with what is about something else.
    fn check_thread(&self, draft: &Draft) -> Result<(), Stop> {
        if !draft.content.contains_key("m.relates_to") {
            return Ok(());
        }
        let content = serde_json::to_string(&draft.content)
            .map_err(|error| RoomError::BadRequest(error.to_string()))?;
        let Some(relation) = Relation::of_content(&content).filter(Relation::is_thread) else {
            return Ok(());
        };
        self.require(std::slice::from_ref(&relation.event_id))?;
        let root = self.known(&relation.event_id);
        if root.is_some_and(|root| Relation::of_content(root.pdu.content.get()).is_some()) {
            let why = "a thread begins with an event that is about no other one";
            return Err(RoomError::BadRequest(why.to_owned()).into());
        }
        Ok(())
    }

    /// Tells whether a change fits somebody's membership. The auth rules take a leave of any kind
    /// for both kick and unban; who meant the one must not get the other.
    pub(crate) fn check_change(
        &self,
        user: &UserId,
        change: MemberChange,
    ) -> Result<(), RoomError> {
        use ruma::events::room::member::MembershipState::{Ban, Invite, Join, Knock};
        let known = self.member(user).map(|member| member.membership);
        match (change, known) {
            (MemberChange::Invite | MemberChange::Ban, _) => self.check_somebody(user),
            (MemberChange::Kick, Some(Join | Invite | Knock))
            | (MemberChange::Unban, Some(Ban)) => Ok(()),
            (MemberChange::Kick, _) => {
                Err(RoomError::Forbidden("the user is not in the room".to_owned()))
            }
            (MemberChange::Unban, _) => {
                Err(RoomError::Forbidden("the user is not banned".to_owned()))
            }
        }
    }

    /// Puts an event of ours at the front, composed just before by [`Self::compose`] or by hand.
    pub(crate) fn send_composed(
        &mut self,
        pdu: Pdu,
        txn: Option<ClientTxn>,
    ) -> Result<Change, Stop> {
        self.require_target(&pdu)?;
        let pdu = Arc::new(pdu);
        let mut change = self.change();
        self.append_own(&mut change, Arc::clone(&pdu), txn)?;
        change.publish.push(pdu);
        Ok(change)
    }

    /// Adds an event of ours that follows the first forward extremities: the state before it is the
    /// current one, of which the room has to be settled. Where there are more, they stay.
    fn append_own(
        &mut self,
        change: &mut Change,
        pdu: Arc<Pdu>,
        txn: Option<ClientTxn>,
    ) -> Result<(), Stop> {
        let mut next_group = self.next_group;
        let mut groups = Vec::new();
        let mut after = Before { view: View::Current, group: self.current_group, new: None };
        if let Some(place) = pdu.state_place() {
            let new = NewGroup {
                id: next_group,
                parent: (!self.state.is_empty()).then_some(self.current_group),
                changes: vec![(place, Some(pdu.event_id.clone()))],
            };
            next_group += 1;
            after.group = new.id;
            after.new = Some(new.clone());
            groups.push(new);
        }
        let mut extremities: Vec<Extremity> =
            self.extremities.iter().skip(MAX_PREV_EVENTS).cloned().collect();
        extremities.push(Extremity {
            event_id: pdu.event_id.clone(),
            depth: pdu.depth,
            state_group: after.group,
        });
        let extremities = self.in_order(extremities, &pdu)?;
        let mut front = self.front(extremities, &after);
        if front.unsettled {
            // The others are resolved with it; until then what is said now counts.
            front.group = after.group;
            front.diff = after.new.map_or_else(Vec::new, |new| new.changes);
        }
        let notify = self.notify(&pdu);
        let new = NewEvent {
            pdu,
            place: Place::Live,
            state_group: Some(after.group),
            spoilt: false,
            txn,
            // One of us may have others of us in the room.
            notify,
        };
        let redaction = Arc::clone(&new.pdu);
        self.append(change, new, groups, next_group, Some(front));
        let levels = self.levels_in(&View::Current);
        self.redact(change, &redaction, levels);
        Ok(())
    }

    /// Makes the room: the create event, then drafts of whoever makes it one after another, all in one
    /// change. Drafts that the auth rules refuse fail the whole.
    pub(crate) fn create(
        &mut self,
        create: Pdu,
        drafts: Vec<Draft>,
        author: Author<'_>,
        now: u64,
    ) -> Result<Change, RoomError> {
        if !self.extremities.is_empty() {
            return Err(RoomError::BadRequest("the room exists already".to_owned()));
        }
        let made = self.create_all(create, drafts, author, now);
        if made.is_err() {
            // The first events are in memory and nowhere else.
            *self = Self::new(self.room_id.clone(), self.version.clone(), self.server.clone())?;
        }
        made
    }

    fn create_all(
        &mut self,
        create: Pdu,
        drafts: Vec<Draft>,
        author: Author<'_>,
        now: u64,
    ) -> Result<Change, RoomError> {
        let mut change = self.change();
        let unmade = || RoomError::BadRequest("the create event cannot begin a room".to_owned());
        self.append_own(&mut change, Arc::new(create), None).map_err(|_| unmade())?;
        for draft in drafts {
            let kind = draft.kind.clone();
            let made = self
                .compose(draft, author, now)
                .and_then(|pdu| self.append_own(&mut change, Arc::new(pdu), None));
            match made {
                Ok(()) => {}
                Err(Stop::Refused(RoomError::Forbidden(why))) => {
                    return Err(RoomError::BadRequest(format!("{kind}: {why}")));
                }
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Need(_)) => {
                    return Err(RoomError::BadRequest(format!("{kind} cannot begin a room")));
                }
            }
        }
        Ok(change)
    }
}
