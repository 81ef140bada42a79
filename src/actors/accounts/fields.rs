//! Fields of a profile beside name and avatar (Client-Server API, "Profiles"): whatever a client
//! likes, within bounds. Rooms and the network are told nothing of them; who asks for a profile gets
//! them.

use actix::{Context, Handler, ResponseActFuture};
use serde_json::Value;

use super::{
    AccountsActor,
    messages::{AccountError, Profile, SetProfileField},
    sessions::to_json,
};
use crate::{actors::store::Row, config::limits};

/// Longest name of a field, in bytes.
const NAME_LEN: usize = 255;

impl Profile {
    /// Returns the profile with a field set, or taken away.
    pub(super) fn with_field(
        &self,
        name: &str,
        value: Option<Value>,
    ) -> Result<Self, AccountError> {
        if name.len() > NAME_LEN {
            return Err(AccountError::KeyTooLarge(NAME_LEN));
        }
        if name.is_empty() {
            return Err(AccountError::BadRequest("a field has a name".to_owned()));
        }
        let mut profile = self.clone();
        match value {
            Some(value) => drop(profile.fields.insert(name.to_owned(), value)),
            None => drop(profile.fields.remove(name)),
        }
        if profile.len() > limits::PROFILE_LEN {
            return Err(AccountError::ProfileTooLarge(limits::PROFILE_LEN));
        }
        Ok(profile)
    }

    /// Returns how many bytes it has, as JSON.
    pub(super) fn len(&self) -> usize {
        let Self { displayname, avatar_url, fields } = self;
        to_json(&(displayname, avatar_url, fields)).len()
    }
}

impl Handler<SetProfileField> for AccountsActor {
    type Result = ResponseActFuture<Self, Result<(), AccountError>>;

    fn handle(&mut self, msg: SetProfileField, _: &mut Context<Self>) -> Self::Result {
        let SetProfileField { user_id, name, value } = msg;
        self.change(
            move |act| {
                let row = Row::Profile(user_id.clone(), name.clone());
                let written = value.as_ref().map(to_json);
                let profile = act.chosen(&user_id).with_field(&name, value)?;
                Ok((vec![(row, written)], (user_id, profile)))
            },
            |act, (user_id, profile)| drop(act.profiles.insert(user_id, profile)),
        )
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_come_and_go_within_bounds() {
        let profile = Profile::unchosen(user_id!("@p2p:x"));
        let zone = profile.with_field("m.tz", Some(json!("Europe/Paris"))).unwrap();
        assert_eq!(zone.fields["m.tz"], "Europe/Paris");
        assert_eq!(zone.with_field("m.tz", None).unwrap(), profile);
        let long = "x".repeat(NAME_LEN + 1);
        assert!(matches!(
            profile.with_field(&long, Some(json!(1))),
            Err(AccountError::KeyTooLarge(_))
        ));
        assert!(matches!(profile.with_field("", Some(json!(1))), Err(AccountError::BadRequest(_))));
        let half = json!("x".repeat(limits::PROFILE_LEN / 2));
        let one = profile.with_field("a", Some(half.clone())).unwrap();
        assert!(matches!(
            one.with_field("b", Some(half.clone())),
            Err(AccountError::ProfileTooLarge(_))
        ));
        assert!(one.with_field("a", Some(half)).is_ok(), "it takes the place of the other");
    }
}
