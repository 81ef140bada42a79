//! Push rules: whom of our users does an event notify?

use futures::FutureExt as _;
use ruma::{
    OwnedUserId, UserId,
    events::{AnySyncTimelineEvent, StateEventType, room::member::MembershipState},
    push::{Action, HighlightTweakValue, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Tweak},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::Machine;
use crate::{
    actors::store::Notify,
    proto::{pdu::Pdu, push_rules::Listener},
};

impl Machine {
    /// Evaluates the push rules of our users in the room for an event of somebody else, and says
    /// which of them are notified.
    pub(super) fn notify(&self, pdu: &Pdu) -> Vec<(OwnedUserId, Notify)> {
        let told = self
            .locals
            .iter()
            .filter(|(user, own)| own.membership == MembershipState::Join && **user != pdu.sender);
        let mut told = told.map(|(user, _)| user).peekable();
        if told.peek().is_none() {
            return Vec::new();
        }
        let Ok(raw) = RawValue::from_string(pdu.json.to_string()) else { return Vec::new() };
        let raw: Raw<AnySyncTimelineEvent> = Raw::from_json(raw);
        told.filter_map(|user| Some((user.clone(), self.notify_one(user, &pdu.sender, &raw)?)))
            .collect()
    }

    /// Evaluates the push rules of a user of ours for an invite of him.
    pub(super) fn notify_invited(&self, user: &UserId, invite: &Pdu) -> Option<Notify> {
        let raw = RawValue::from_string(invite.json.to_string()).ok()?;
        self.notify_one(user, &invite.sender, &Raw::from_json(raw))
    }

    fn notify_one(
        &self,
        user: &UserId,
        sender: &UserId,
        raw: &Raw<AnySyncTimelineEvent>,
    ) -> Option<Notify> {
        let unchosen;
        let listener = match self.listeners.get(user) {
            Some(listener) => &**listener,
            None => {
                unchosen = Listener::unchosen(user);
                &unchosen
            }
        };
        if listener.ignored.contains(sender) {
            return None;
        }
        let name = self.member(user).and_then(|member| member.displayname);
        let members: usize = self.joined.values().sum();
        let mut context = PushConditionRoomCtx::new(
            self.room_id.clone(),
            ruma::UInt::try_from(members).unwrap_or(ruma::UInt::MAX),
            user.to_owned(),
            name.unwrap_or_else(|| user.localpart().to_owned()),
        );
        context.power_levels = self.push_power_levels();
        let actions = listener.rules.get_actions(raw, &context).now_or_never()?;
        actions.iter().any(Action::should_notify).then(|| {
            let highlight = actions.iter().any(|action| {
                matches!(action, Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)))
            });
            Notify { highlight, actions: serde_json::to_string(actions).unwrap_or_default() }
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
