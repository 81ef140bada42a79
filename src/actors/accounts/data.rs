//! Profile, account data, filters and push rules: what is in their rows and how it changes.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedRoomId, OwnedUserId, UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{
    messages::{AccountError, Profile, ProfileField, PushRuleEdit},
    sessions::to_json,
};
use crate::{
    actors::store::Row,
    proto::{names, push_rules, server_name::LOCALPART},
};

/// The account data that holds the push rules.
pub(super) const PUSH_RULES: &str = "m.push_rules";
/// The account data that says whom the user ignores.
pub(super) const IGNORED: &str = "m.ignored_user_list";
/// The room account data that holds the tags.
pub(super) const TAGS: &str = "m.tag";

impl ProfileField {
    fn key(self) -> &'static str {
        match self {
            Self::Displayname => "displayname",
            Self::AvatarUrl => "avatar_url",
        }
    }
}

/// The profiles of our users, as far as they were chosen.
pub(super) type Profiles = BTreeMap<OwnedUserId, Profile>;

impl Profile {
    /// The profile of somebody who has not chosen anything.
    pub(super) fn unchosen(user_id: &UserId) -> Self {
        let displayname = Some(user_id.localpart().to_owned());
        Self { displayname, avatar_url: None, fields: BTreeMap::new() }
    }

    fn field(&mut self, field: ProfileField) -> &mut Option<String> {
        match field {
            ProfileField::Displayname => &mut self.displayname,
            ProfileField::AvatarUrl => &mut self.avatar_url,
        }
    }

    /// Reads the profiles from their rows: JSON strings, or null for what was taken away.
    pub(super) fn load(rows: Vec<(Row, Vec<u8>)>) -> Result<Profiles, &'static str> {
        let mut profiles = Profiles::new();
        for (row, value) in rows {
            let Row::Profile(user_id, key) = row else { continue };
            let profile = profiles.entry(user_id).or_insert_with_key(|user| Self::unchosen(user));
            let own = [ProfileField::Displayname, ProfileField::AvatarUrl];
            let read = match own.into_iter().find(|field| key == field.key()) {
                Some(field) => {
                    serde_json::from_slice(&value).map(|value| *profile.field(field) = value)
                }
                None => serde_json::from_slice(&value)
                    .map(|value| drop(profile.fields.insert(key, value))),
            };
            read.map_err(|_| "profile")?;
        }
        Ok(profiles)
    }

    /// Returns the profile of `user_id` with one field changed, and the row that says so.
    pub(super) fn with(
        &self,
        user_id: &UserId,
        field: ProfileField,
        value: Option<String>,
    ) -> Result<(Self, Row, Vec<u8>), AccountError> {
        let value = value.filter(|value| !value.is_empty());
        // They go into every membership event.
        let checked = match (field, &value) {
            (_, None) => Ok(()),
            (ProfileField::Displayname, Some(name)) => names::check_name(name),
            (ProfileField::AvatarUrl, Some(url)) => names::check_avatar(url),
        };
        checked.map_err(AccountError::BadRequest)?;
        let mut profile = self.clone();
        let row = to_json(&value);
        *profile.field(field) = value;
        Ok((profile, Row::Profile(user_id.to_owned(), field.key().to_owned()), row))
    }

    /// Returns the name under which the node is found.
    pub(super) fn advertised(&self) -> String {
        self.displayname.clone().unwrap_or_else(|| LOCALPART.to_owned())
    }
}

/// Returns the row of some account data.
pub(super) fn account_data_row(
    user_id: OwnedUserId,
    room_id: Option<OwnedRoomId>,
    kind: String,
) -> Row {
    match room_id {
        None => Row::AccountData(user_id, kind),
        Some(room_id) => Row::RoomAccountData(user_id, room_id, kind),
    }
}

/// Returns the id of a filter: a hash, so that the same filter is stored once.
pub(super) fn filter_id(filter: &RawValue) -> String {
    let digest = Sha256::digest(filter.get().as_bytes());
    URL_SAFE_NO_PAD.encode(digest.get(..12).unwrap_or_default())
}

/// Returns the content of `m.tag` with one tag changed.
pub(super) fn edit_tags(
    content: Option<&[u8]>,
    tag: String,
    info: Option<Box<RawValue>>,
) -> Result<Vec<u8>, AccountError> {
    let mut content: Map<String, Value> =
        content.and_then(|content| serde_json::from_slice(content).ok()).unwrap_or_default();
    let tags = content.entry("tags").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(tags) = tags else {
        return Err(AccountError::BadRequest("m.tag holds no object `tags`".to_owned()));
    };
    match info {
        Some(info) => {
            let info = serde_json::from_str(info.get())
                .map_err(|error| AccountError::BadRequest(error.to_string()))?;
            tags.insert(tag, info);
        }
        None => {
            tags.remove(&tag);
        }
    }
    Ok(to_json(&content))
}

/// The content of `m.push_rules`.
#[derive(Serialize, Deserialize)]
struct PushRules {
    global: Ruleset,
}

/// Writes push rules.
pub(super) fn push_rules_row(rules: Ruleset) -> Vec<u8> {
    to_json(&PushRules { global: rules })
}

/// Reads push rules: those of the spec unless there are others.
pub(super) fn push_rules(content: Option<&[u8]>, user_id: &UserId) -> Ruleset {
    content.and_then(|content| serde_json::from_slice::<PushRules>(content).ok()).map_or_else(
        || push_rules::predefined(user_id),
        |PushRules { global: mut rules }| {
            // What an older version knew of may have grown; what the user chose stays.
            rules.update_with_server_default(push_rules::predefined(user_id));
            rules
        },
    )
}

/// Changes push rules.
pub(super) fn edit_push_rules(rules: &mut Ruleset, edit: PushRuleEdit) -> Result<(), AccountError> {
    let bad = |error: &dyn std::fmt::Display| AccountError::BadRequest(error.to_string());
    let missing = |_| AccountError::NotFound("push rule");
    match edit {
        PushRuleEdit::Put { rule, after, before } => {
            rules.insert(*rule, after.as_deref(), before.as_deref()).map_err(|error| bad(&error))
        }
        PushRuleEdit::Delete(kind, id) => {
            if rules.get(kind.clone(), &id).is_none() {
                return Err(AccountError::NotFound("push rule"));
            }
            rules.remove(kind, &id).map_err(|error| bad(&error))
        }
        PushRuleEdit::Enable(kind, id, on) => rules.set_enabled(kind, &id, on).map_err(missing),
        PushRuleEdit::SetActions(kind, id, actions) => {
            rules.set_actions(kind, &id, actions).map_err(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{NewPatternedPushRule, NewPushRule, RuleKind},
        user_id,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_is_p2p_until_it_is_chosen() {
        let user = user_id!("@p2p:x");
        let profile = Profile::unchosen(user);
        assert_eq!(profile.displayname.as_deref(), Some("p2p"));
        let (ann, row, value) =
            profile.with(user, ProfileField::Displayname, Some("Ann".into())).unwrap();
        let loaded = |row, value| Profile::load(vec![(row, value)]).unwrap().remove(user).unwrap();
        assert_eq!(loaded(row, value), ann);
        let (none, row, value) =
            ann.with(user, ProfileField::Displayname, Some(String::new())).unwrap();
        assert_eq!(none.displayname, None, "an empty name takes it away");
        assert_eq!(none.advertised(), "p2p");
        assert_eq!(loaded(row, value), none, "and it stays away");
        for (field, bad) in [
            (ProfileField::Displayname, "x".repeat(60_000)),
            (ProfileField::Displayname, "a\u{202e}b".to_owned()),
            (ProfileField::Displayname, "a\nb".to_owned()),
            (ProfileField::AvatarUrl, "http://example.org/a.png".to_owned()),
            (ProfileField::AvatarUrl, "javascript:alert(1)".to_owned()),
        ] {
            let found = none.with(user, field, Some(bad.clone()));
            assert!(matches!(found, Err(AccountError::BadRequest(_))), "{bad:.40}");
        }
        assert!(none.with(user, ProfileField::AvatarUrl, Some("mxc://x/y".to_owned())).is_ok());
    }

    #[test]
    fn tags_come_and_go() {
        let info = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        let one = edit_tags(None, "m.favourite".into(), info(r#"{"order":0.5}"#)).unwrap();
        let two = edit_tags(Some(&one), "u.x".into(), info("{}")).unwrap();
        let three = edit_tags(Some(&two), "m.favourite".into(), None).unwrap();
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(read(&two), json!({"tags": {"m.favourite": {"order": 0.5}, "u.x": {}}}));
        assert_eq!(read(&three), json!({"tags": {"u.x": {}}}));
    }

    #[test]
    fn the_same_filter_has_the_same_id() {
        let filter = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(filter_id(&filter("{}")), filter_id(&filter("{}")));
        assert_ne!(filter_id(&filter("{}")), filter_id(&filter(r#"{"a":1}"#)));
    }

    #[test]
    fn rules_of_an_older_version_get_what_is_new_and_keep_what_was_chosen() {
        let user = user_id!("@p2p:x");
        let mut old = Ruleset::server_default(user);
        old.set_enabled(RuleKind::Underride, ".m.rule.message", false).unwrap();
        let word = NewPatternedPushRule::new("word".into(), "cake".into(), Vec::new());
        old.insert(NewPushRule::Content(word), None, None).unwrap();
        let new = push_rules(Some(&push_rules_row(old)), user);
        assert!(new.get(RuleKind::Override, ".m.rule.roomnotif").is_some());
        assert!(!new.get(RuleKind::Underride, ".m.rule.message").unwrap().enabled());
        assert!(new.get(RuleKind::Content, "word").is_some());
        let row = push_rules_row(new);
        assert_eq!(push_rules_row(push_rules(Some(&row), user)), row, "once is enough");
    }

    #[test]
    fn push_rules_can_be_edited() {
        let user = user_id!("@p2p:x");
        let mut rules = push_rules(None, user);
        let word = NewPatternedPushRule::new("word".into(), "cake".into(), Vec::new());
        let put = PushRuleEdit::Put {
            rule: Box::new(NewPushRule::Content(word)),
            after: None,
            before: None,
        };
        edit_push_rules(&mut rules, put).unwrap();
        let off = PushRuleEdit::Enable(RuleKind::Content, "word".into(), false);
        edit_push_rules(&mut rules, off).unwrap();
        let rules = push_rules(Some(&push_rules_row(rules)), user);
        assert!(!rules.get(RuleKind::Content, "word").unwrap().enabled());
        let mut rules = rules;
        let gone = || PushRuleEdit::Delete(RuleKind::Content, "word".into());
        edit_push_rules(&mut rules, gone()).unwrap();
        assert!(matches!(
            edit_push_rules(&mut rules, gone()),
            Err(AccountError::NotFound("push rule"))
        ));
        let master = PushRuleEdit::Delete(RuleKind::Override, ".m.rule.master".into());
        assert!(matches!(edit_push_rules(&mut rules, master), Err(AccountError::BadRequest(_))));
    }
}
