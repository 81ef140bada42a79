//! Redactions: who may, and what becomes of the target.
//!
//! The auth rules let any redaction event in (room version 3 and later); whether it applies is
//! decided here, once both events are known, in whichever order they came.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedUserId,
    events::StateEventType,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use super::{Change, Known, KnownEvent, Machine, Stop};
use crate::{actors::store::Redaction, proto::pdu::Pdu};

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

    /// Makes sure that the target of a redaction is in memory.
    pub(super) fn require_target(&self, pdu: &Pdu) -> Result<(), Stop> {
        self.require(pdu.redacts.as_slice())
    }

    /// Makes sure that redactions which came before their targets, some of `ids`, are in memory.
    pub(super) fn require_redactions(&self, ids: &[OwnedEventId]) -> Result<(), Stop> {
        let redactions: Vec<_> = ids.iter().filter_map(|id| self.redacted_by(id)).collect();
        self.require(&redactions)
    }

    /// Returns what redacted an event that is not here.
    pub(super) fn redacted_by(&self, id: &ruma::EventId) -> Option<OwnedEventId> {
        match self.known.get(id) {
            Some(Known::RedactedBy(because)) => Some(because.clone()),
            _ => None,
        }
    }

    /// Tells whether a redaction applies to an event: its sender wrote it (or his server did), or
    /// has the power to redact.
    pub(super) fn may_redact(&self, redaction: &Pdu, target: &Pdu) -> bool {
        if redaction.sender.server_name() == target.sender.server_name() {
            return true;
        }
        if self.creators().contains(&redaction.sender) {
            return true;
        }
        let rules = &self.rules.authorization;
        let Some(levels) = self.state_event(&StateEventType::RoomPowerLevels, "") else {
            return false;
        };
        let levels = RoomPowerLevelsEvent::new(Arc::clone(levels));
        let needed = levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules);
        let has = levels.user_power_level(&redaction.sender, rules);
        matches!((has, needed), (Ok(has), Ok(needed)) if has >= needed)
    }

    /// Applies a redaction that was just accepted.
    pub(super) fn redact(&mut self, change: &mut Change, redaction: &Pdu) {
        let Some(target) = redaction.redacts.clone() else { return };
        match self.known(&target).cloned() {
            Some(known) if self.may_redact(redaction, &known.pdu) => {
                self.redact_known(change, &known, redaction.event_id.clone());
            }
            Some(_) => {}
            None => {
                let because = redaction.event_id.clone();
                self.known.insert(target.clone(), Known::RedactedBy(because.clone()));
                change.commit.redactions.push(Redaction { target, because, redacted: None });
            }
        }
    }

    /// Applies a redaction that came before its target, now that the target is here.
    pub(super) fn redact_late(
        &mut self,
        change: &mut Change,
        target: &Arc<Pdu>,
        because: OwnedEventId,
    ) {
        let Some(redaction) = self.known(&because).map(|known| Arc::clone(&known.pdu)) else {
            return;
        };
        if let Some(known) = self.known(&target.event_id).cloned()
            && self.may_redact(&redaction, target)
        {
            self.redact_known(change, &known, because);
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
        self.known.insert(target.clone(), Known::Event(Arc::new(event)));
        change.commit.redactions.push(Redaction { target, because, redacted: Some(redacted) });
    }
}
