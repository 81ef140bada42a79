//! Push rules: does an event notify our user?

use futures::FutureExt as _;
use ruma::{
    OwnedUserId,
    events::{AnySyncTimelineEvent, StateEventType},
    push::{Action, HighlightTweakValue, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Tweak},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::Machine;
use crate::{
    actors::store::Notify,
    proto::{pdu::Pdu, push_rules},
};

impl Machine {
    /// Evaluates the user's push rules for an event of somebody else, and says who is notified.
    pub(super) fn notify(&self, pdu: &Pdu) -> Option<(OwnedUserId, Notify)> {
        if pdu.sender == self.me {
            return None;
        }
        let raw: Raw<AnySyncTimelineEvent> =
            Raw::from_json(RawValue::from_string(pdu.json.to_string()).ok()?);
        let name = self.member(&self.me).and_then(|member| member.displayname);
        let members: usize = self.joined.values().sum();
        let mut context = PushConditionRoomCtx::new(
            self.room_id.clone(),
            ruma::UInt::try_from(members).unwrap_or(ruma::UInt::MAX),
            self.me.clone(),
            name.unwrap_or_else(|| self.me.localpart().to_owned()),
        );
        context.power_levels = self.push_power_levels();
        // Made anew each time: it takes microseconds, and some KiB would be held by each room.
        let rules = push_rules::predefined(&self.me);
        let actions = rules.get_actions(&raw, &context).now_or_never()?;
        actions.iter().any(Action::should_notify).then(|| {
            let highlight = actions.iter().any(|action| {
                matches!(action, Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)))
            });
            (self.me.clone(), Notify { highlight })
        })
    }

    fn push_power_levels(&self) -> Option<PushConditionPowerLevelsCtx> {
        let levels = self.state_event(&StateEventType::RoomPowerLevels, "")?;
        let content: ruma::events::room::power_levels::RoomPowerLevelsEventContent =
            serde_json::from_str(levels.content.get()).ok()?;
        let creators: Vec<OwnedUserId> = self.creators();
        let rules = &self.rules.authorization;
        Some(PushConditionPowerLevelsCtx::new(
            content.users,
            content.users_default,
            content.notifications,
            ruma::events::room::power_levels::RoomPowerLevels::new(
                ruma::events::room::power_levels::RoomPowerLevelsSource::None,
                rules,
                creators,
            )
            .rules,
        ))
    }
}
