//! The push rules that everybody has.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedUserId, UserId,
    power_levels::NotificationPowerLevelsKey,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        HighlightTweakValue, PredefinedOverrideRuleId, PushCondition, Ruleset,
        SenderNotificationPermissionConditionData, SoundTweakValue, Tweak,
    },
};
use serde::{Deserialize, de::IgnoredAny};

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

/// What decides of a user of ours whether an event notifies.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The user's push rules.
    pub rules: Ruleset,
    /// Whose events notify of nothing.
    pub ignored: HashSet<OwnedUserId>,
}

/// The listeners by user.
pub type Listeners = Arc<HashMap<OwnedUserId, Arc<Listener>>>;

impl Listener {
    /// Somebody who has changed nothing.
    pub fn unchosen(user_id: &UserId) -> Self {
        Self { rules: predefined(user_id), ignored: HashSet::new() }
    }
}

/// Reads whom a user ignores out of `m.ignored_user_list`; nobody where it makes no sense.
pub fn ignored(content: &[u8]) -> HashSet<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        ignored_users: HashMap<String, IgnoredAny>,
    }
    let content = serde_json::from_slice::<Content>(content).ok();
    let users = content.into_iter().flat_map(|content| content.ignored_users.into_keys());
    users.filter_map(|user| OwnedUserId::try_from(user).ok()).collect()
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
    fn who_is_ignored_is_read_where_it_makes_sense() {
        let content = br#"{"ignored_users":{"@a:x":{},"@b:x":7,"nobody":{}}}"#;
        assert_eq!(
            ignored(content),
            HashSet::from(["@a:x", "@b:x"].map(|u| u.try_into().unwrap()))
        );
        for none in [&b"{}"[..], b"", b"7", br#"{"ignored_users":[]}"#] {
            assert_eq!(ignored(none), HashSet::new());
        }
    }

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
