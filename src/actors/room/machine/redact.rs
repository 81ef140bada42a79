//! Redactions: who may, and what becomes of the target.
//!
//! The auth rules let any redaction event in (room version 3 and later); whether it applies is
//! decided here, once both events are known, in whichever order they came: by the power levels at
//! the redaction, which are the same for whoever learns of it, and whenever.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType},
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use super::{Change, Known, KnownEvent, Machine, Stop, state::View};
use crate::{
    actors::store::Redaction,
    proto::pdu::{Pdu, StateKey},
};

/// Redactions that wait for one target.
const WAITING: usize = 64;

fn power_levels() -> StateKey {
    (StateEventType::RoomPowerLevels, String::new())
}

impl Machine {
    /// Returns the creators, whose power nothing limits (room version 12).
    pub(super) fn creators(&self) -> Vec<OwnedUserId> {
        let rules = &self.rules.authorization;
        if !rules.explicitly_privilege_room_creators {
            return Vec::new();
        }
        self.create_event()
            .and_then(|create| RoomCreateEvent::new(create).creators(rules).ok())
            .map(|creators| creators.into_iter().collect())
            .unwrap_or_default()
    }

    /// Makes sure that the target of a redaction is in memory, and what redacts that already.
    pub(super) fn require_target(&self, pdu: &Pdu) -> Result<(), Stop> {
        self.require(pdu.redacts.as_slice())?;
        let others: Vec<_> = pdu.redacts.iter().flat_map(|id| self.redacted_by(id)).collect();
        self.require(&others)
    }

    /// Makes sure that redactions which came before their targets, some of `ids`, are in memory, and
    /// the power levels by which these redactions, and `ids` themselves, may redact.
    pub(super) fn require_levels(&mut self, ids: &[OwnedEventId]) -> Result<(), Stop> {
        let waiting: Vec<_> = ids.iter().flat_map(|id| self.redacted_by(id)).collect();
        self.require(&waiting)?;
        let redactions: Vec<Arc<KnownEvent>> = waiting
            .iter()
            .chain(ids)
            .filter_map(|id| self.known(id).cloned())
            .filter(|known| known.pdu.kind == TimelineEventType::RoomRedaction)
            .collect();
        for redaction in redactions {
            match redaction.group.filter(|_| !self.has_current_levels(&redaction.pdu)) {
                Some(group) => {
                    let view = View::Ids(self.state_of(group)?);
                    self.require_places(&view, &[power_levels()])?;
                }
                None => self.require(&redaction.pdu.auth_events)?,
            }
        }
        Ok(())
    }

    /// Returns what redacts an event that is not here.
    pub(super) fn redacted_by(&self, id: &ruma::EventId) -> Vec<OwnedEventId> {
        match self.known.get(id) {
            Some(Known::RedactedBy(because)) => because.clone(),
            _ => Vec::new(),
        }
    }

    /// Returns the power levels of a state.
    pub(super) fn levels_in(&self, view: &View) -> Option<Arc<Pdu>> {
        let (kind, key) = power_levels();
        self.event_in(view, &kind, &key)
    }

    fn has_current_levels(&self, redaction: &Pdu) -> bool {
        let current = self.levels_in(&View::Current);
        current.is_some_and(|levels| redaction.auth_events.contains(&levels.event_id))
    }

    /// Returns the power levels at a redaction that was required before: those of the state there,
    /// or, where that is not known, those that it names itself.
    pub(super) fn levels_of(&self, redaction: &KnownEvent) -> Option<Arc<Pdu>> {
        if self.has_current_levels(&redaction.pdu) {
            return self.levels_in(&View::Current);
        }
        match redaction.group {
            Some(group) => self.levels_in(&View::Ids(Arc::clone(self.groups.get(&group)?))),
            None => {
                let mut named = redaction.pdu.auth_events.iter().filter_map(|id| self.known(id));
                let levels = named.find(|known| known.pdu.state_place() == Some(power_levels()));
                levels.map(|known| Arc::clone(&known.pdu))
            }
        }
    }

    /// Tells whether a redaction applies to whatever it names: its sender has the power to redact.
    fn has_power(&self, redaction: &Pdu, levels: Option<&Arc<Pdu>>) -> bool {
        if self.creators().contains(&redaction.sender) {
            return true;
        }
        let rules = &self.rules.authorization;
        let Some(levels) = levels else { return false };
        let levels = RoomPowerLevelsEvent::new(Arc::clone(levels));
        let needed = levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules);
        let has = levels.user_power_level(&redaction.sender, rules);
        matches!((has, needed), (Ok(has), Ok(needed)) if has >= needed)
    }

    /// Tells whether a redaction applies to an event: its sender wrote it (or his server did), or
    /// had the power to redact.
    pub(super) fn may_redact(
        &self,
        redaction: &Pdu,
        target: &Pdu,
        levels: Option<&Arc<Pdu>>,
    ) -> bool {
        redaction.sender.server_name() == target.sender.server_name()
            || self.has_power(redaction, levels)
    }

    /// Applies a redaction that was just accepted; anything else changes nothing.
    pub(super) fn redact(
        &mut self,
        change: &mut Change,
        redaction: &Pdu,
        levels: Option<Arc<Pdu>>,
    ) {
        if redaction.kind != TimelineEventType::RoomRedaction {
            return;
        }
        let Some(target) = redaction.redacts.clone() else { return };
        match self.known(&target).cloned() {
            Some(known) if self.may_redact(redaction, &known.pdu, levels.as_ref()) => {
                self.redact_known(change, &known, redaction.event_id.clone());
            }
            Some(_) => {}
            None => self.redact_later(change, redaction, target, levels),
        }
    }

    /// Keeps a redaction until its target comes: of each server one, since either its own event is
    /// meant or it takes power, and one that has the power before all others.
    fn redact_later(
        &mut self,
        change: &mut Change,
        redaction: &Pdu,
        target: OwnedEventId,
        levels: Option<Arc<Pdu>>,
    ) {
        let mut waiting = self.redacted_by(&target);
        let server = redaction.sender.server_name();
        let of_server = |id: &OwnedEventId| {
            self.known(id).is_some_and(|known| known.pdu.sender.server_name() == server)
        };
        if self.has_power(redaction, levels.as_ref()) {
            waiting.retain(|id| !of_server(id));
            waiting.insert(0, redaction.event_id.clone());
            waiting.truncate(WAITING);
        } else if waiting.len() < WAITING && !waiting.iter().any(of_server) {
            waiting.push(redaction.event_id.clone());
        } else {
            return;
        }
        self.known.insert(target.clone(), Known::RedactedBy(waiting.clone()));
        change.commit.redactions.push(Redaction::Waits { target, because: waiting });
    }

    /// Applies the redactions that came before their target, now that the target is here.
    pub(super) fn redact_late(
        &mut self,
        change: &mut Change,
        target: &Arc<Pdu>,
        waiting: Vec<OwnedEventId>,
    ) {
        for because in waiting {
            let Some(redaction) = self.known(&because).cloned() else { continue };
            let levels = self.levels_of(&redaction);
            if let Some(known) = self.known(&target.event_id).cloned()
                && self.may_redact(&redaction.pdu, target, levels.as_ref())
            {
                return self.redact_known(change, &known, because);
            }
        }
    }

    fn redact_known(
        &mut self,
        change: &mut Change,
        known: &Arc<KnownEvent>,
        because: OwnedEventId,
    ) {
        let redacted = match known.pdu.redacted(&self.rules) {
            Ok(redacted) => Arc::new(redacted),
            Err(error) => {
                log::error!(event_id:% = known.pdu.event_id; "cannot redact a stored event: {error}");
                return;
            }
        };
        let target = redacted.event_id.clone();
        if let Some(place) = redacted.state_place()
            && let Some(current) = self.state.get_mut(&place)
            && current.event_id == target
        {
            *current = Arc::clone(&redacted);
        }
        let event = KnownEvent {
            pdu: Arc::clone(&redacted),
            place: known.place,
            group: known.group,
            spoilt: false,
        };
        self.known.insert(target, Known::Event(Arc::new(event)));
        change.commit.redactions.push(Redaction::Applies { because, redacted });
    }
}
