//! The push rules that everybody has.

use ruma::{
    UserId,
    power_levels::NotificationPowerLevelsKey,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        HighlightTweakValue, PredefinedOverrideRuleId, PushCondition, Ruleset,
        SenderNotificationPermissionConditionData, SoundTweakValue, Tweak,
    },
};

/// Returns the predefined rules of the specification, those for mentions by text included: clients
/// that do not write `m.mentions` yet are answered by them.
///
/// There is no rule for one's own localpart: that is the same for everybody in this network.
pub fn predefined(user_id: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user_id);
    let mut ordered = Vec::with_capacity(rules.override_.len().saturating_add(2));
    for rule in std::mem::take(&mut rules.override_) {
        let follows = [
            (PredefinedOverrideRuleId::IsUserMention, contains_display_name as fn() -> _),
            (PredefinedOverrideRuleId::IsRoomMention, room_notification),
        ];
        let next = follows.iter().find(|(after, _)| rule.rule_id == after.as_str());
        ordered.push(rule);
        ordered.extend(next.map(|(_, make)| make()));
    }
    rules.override_ = ordered.into_iter().collect();
    rules
}

fn mention(
    rule_id: &str,
    conditions: Vec<PushCondition>,
    sound: Option<SoundTweakValue>,
) -> ConditionalPushRule {
    let mut actions = vec![Action::Notify];
    actions.extend(sound.map(|sound| Action::SetTweak(Tweak::Sound(sound))));
    actions.push(Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)));
    let rule_id = rule_id.to_owned();
    ConditionalPushRuleInit { actions, default: true, enabled: true, rule_id, conditions }.into()
}

#[expect(deprecated, reason = "clients that write no `m.mentions` are what it is for")]
fn contains_display_name() -> ConditionalPushRule {
    let conditions = vec![PushCondition::ContainsDisplayName];
    mention(".m.rule.contains_display_name", conditions, Some(SoundTweakValue::Default))
}

fn room_notification() -> ConditionalPushRule {
    let conditions = vec![
        PushCondition::EventMatch(EventMatchConditionData::new(
            "content.body".to_owned(),
            "@room".to_owned(),
        )),
        PushCondition::SenderNotificationPermission(
            SenderNotificationPermissionConditionData::new(NotificationPowerLevelsKey::Room),
        ),
    ];
    mention(".m.rule.roomnotif", conditions, None)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn mentions_by_text_stand_where_the_specification_has_them() {
        let rules = predefined(user_id!("@p2p:x"));
        let ids: Vec<&str> = rules.override_.iter().map(|rule| rule.rule_id.as_str()).collect();
        assert_eq!(
            ids,
            [
                ".m.rule.master",
                ".m.rule.suppress_notices",
                ".m.rule.invite_for_me",
                ".m.rule.member_event",
                ".m.rule.is_user_mention",
                ".m.rule.contains_display_name",
                ".m.rule.is_room_mention",
                ".m.rule.roomnotif",
                ".m.rule.tombstone",
                ".m.rule.reaction",
                ".m.rule.room.server_acl",
                ".m.rule.suppress_edits",
            ]
        );
        let mention = serde_json::to_value(rules.override_.get(".m.rule.contains_display_name"));
        let mention = mention.unwrap();
        assert_eq!(mention["conditions"], serde_json::json!([{"kind": "contains_display_name"}]));
        assert_eq!(
            mention["actions"],
            serde_json::json!([
                "notify",
                {"set_tweak": "sound", "value": "default"},
                {"set_tweak": "highlight"},
            ])
        );
    }
}
