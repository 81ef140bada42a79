//! Profiles, presence, and finding people.

use std::collections::BTreeMap;

use actix_web::Responder;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId,
    api::client::{
        presence::{get_presence, set_presence},
        profile::{delete_profile_field, get_profile, get_profile_field, set_profile_field},
        user_directory::search_users,
    },
    presence::PresenceState,
    profile::{ProfileFieldName, ProfileFieldValue},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::check_own;
use crate::{
    actors::{
        accounts::{
            ListPeople, LocalPerson, LocalProfile, Profile, ProfileField, Session, SetProfile,
            SetProfileField,
        },
        ephemera::{Presence, ReadPresence},
        rendezvous::SearchPeople,
        store::{DirectoryEntry, SearchDirectory},
        upward::{FederationError, SendFederation},
    },
    config::limits,
    http::{
        error::HttpError,
        gateway::{Gateway, ask},
        ruma_glue::{Authed, Empty, Json},
    },
    proto::{endpoint::Endpoint, names, rendezvous::SearchTerm, server_name},
};

/// Longest search term, in bytes: what names a person, an address included, is shorter.
const SEARCH_TERM: usize = 1024;

/// Reads a profile: ours from Accounts, another one from its server.
async fn profile_of(
    gateway: &Gateway,
    session: &Session,
    user_id: &UserId,
) -> Result<Profile, HttpError> {
    if user_id.server_name() == session.user_id.server_name() {
        let known = gateway.ask_accounts(LocalProfile(user_id.to_owned())).await?;
        return known.ok_or_else(|| HttpError::not_found("nobody here has this name"));
    }
    // A name that is no hash of a key is nobody's, and never will be.
    if server_name::digest(user_id.server_name()).is_err() {
        return Err(HttpError::not_found("there can be nobody of this name"));
    }
    let request = SendFederation {
        destination: user_id.server_name().to_owned(),
        endpoint: Endpoint::profile(user_id),
        content: CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        timeout: limits::FEDERATION_WAIT,
    };
    let answer = match ask(&gateway.send_federation, request).await? {
        Ok(answer) => answer,
        Err(why) => return known_profile(gateway, user_id, why).await,
    };
    let field = |key: &str| answer.as_object()?.get(key)?.as_str();
    let mut profile = shown(field("displayname"), field("avatar_url"));
    if let Ok(Value::Object(fields)) = serde_json::to_value(&answer)
        && answer.to_string().len() <= limits::PROFILE_LEN
    {
        profile.fields = fields.into_iter().collect();
        profile.fields.retain(|key, _| !matches!(key.as_str(), "displayname" | "avatar_url"));
    }
    Ok(profile)
}

/// Returns what others call themselves as it is shown.
fn shown(displayname: Option<&str>, avatar_url: Option<&str>) -> Profile {
    Profile {
        displayname: displayname.map(|name| names::shown_name(name).into_owned()),
        avatar_url: avatar_url.and_then(names::shown_avatar).map(ToOwned::to_owned),
        fields: BTreeMap::new(),
    }
}

/// The profile of somebody who cannot be asked, as shared rooms have it. Failing that, nobody can tell
/// whether there is such a person: clients have words for a profile that is not disclosed, and let
/// one invite all the same.
async fn known_profile(
    gateway: &Gateway,
    user_id: &UserId,
    why: FederationError,
) -> Result<Profile, HttpError> {
    if matches!(why, FederationError::Refused { .. }) {
        return Err(why.into());
    }
    let known = SearchDirectory { term: user_id.to_string(), limit: 1 };
    let known = ask(&gateway.store.search_directory, known).await??;
    match known.into_iter().find(|(known, _)| known == user_id) {
        Some((_, DirectoryEntry { displayname, avatar_url })) => {
            Ok(shown(displayname.as_deref(), avatar_url.as_deref()))
        }
        None => Err(HttpError::forbidden(format!("{user_id} is not known here: {why}"))),
    }
}

#[derive(Serialize)]
struct ShownProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

/// Shows a profile.
pub async fn profile(
    request: Authed<get_profile::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let profile = profile_of(&gateway, &session, &body.user_id).await?;
    let Profile { displayname, avatar_url, fields } = profile;
    Ok(Json(ShownProfile { avatar_url, displayname, fields }))
}

/// Shows a field of a profile.
pub async fn profile_field(
    request: Authed<get_profile_field::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let mut profile = profile_of(&gateway, &session, &body.user_id).await?;
    let value = match &body.field {
        ProfileFieldName::DisplayName => profile.displayname.map(Value::String),
        ProfileFieldName::AvatarUrl => profile.avatar_url.map(Value::String),
        name => profile.fields.remove(name.as_str()),
    };
    let value = value.ok_or_else(|| HttpError::not_found("no such profile field"))?;
    Ok(Json(BTreeMap::from([(body.field.to_string(), value)])))
}

/// Sets a field of our profile.
pub async fn set_field(
    request: Authed<set_profile_field::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    let (field, value) = match body.value {
        ProfileFieldValue::DisplayName(name) => (ProfileField::Displayname, name),
        ProfileFieldValue::AvatarUrl(url) => (ProfileField::AvatarUrl, url.to_string()),
        other => {
            let (name, value) = (other.field_name().to_string(), other.value().into_owned());
            let field = SetProfileField { user_id: body.user_id, name, value: Some(value) };
            gateway.ask_accounts(field).await??;
            return Ok(Json(Empty {}));
        }
    };
    gateway.ask_accounts(SetProfile { user_id: body.user_id, field, value: Some(value) }).await??;
    Ok(Json(Empty {}))
}

/// Takes a field of our profile away.
pub async fn delete_field(
    request: Authed<delete_profile_field::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    let field = match body.field {
        ProfileFieldName::DisplayName => ProfileField::Displayname,
        ProfileFieldName::AvatarUrl => ProfileField::AvatarUrl,
        name => {
            let (user_id, name) = (body.user_id, name.to_string());
            gateway.ask_accounts(SetProfileField { user_id, name, value: None }).await??;
            return Ok(Json(Empty {}));
        }
    };
    gateway.ask_accounts(SetProfile { user_id: body.user_id, field, value: None }).await??;
    Ok(Json(Empty {}))
}

/// Shows somebody's presence, as far as it is known here.
pub async fn presence(
    request: Authed<get_presence::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let is_own = body.user_id == session.user_id;
    match ask(&gateway.ephemera.read_presence, ReadPresence(body.user_id)).await? {
        Some(presence) => Ok(Json(shown_presence(&presence))),
        None if is_own => Ok(Json(json!({"presence": "offline"}))),
        None => Err(HttpError::not_found("nothing is known of this person's presence")),
    }
}

/// Returns presence as clients get it.
pub(super) fn shown_presence(presence: &Presence) -> Value {
    let mut shown = json!({
        "presence": presence.presence,
        "currently_active": presence.currently_active,
    });
    if let Some(fields) = shown.as_object_mut() {
        if let Some(message) = &presence.status_msg {
            fields.insert("status_msg".to_owned(), Value::from(message.as_str()));
        }
        if let Some(ago) = presence.last_active_ago {
            fields.insert("last_active_ago".to_owned(), Value::from(ago));
        }
    }
    shown
}

/// Refuses a state of presence that is none.
pub(super) fn check_presence(presence: &PresenceState) -> Result<(), HttpError> {
    match presence {
        PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline => Ok(()),
        _ => Err(HttpError::invalid_param("presence is online, unavailable or offline")),
    }
}

/// Sets our presence.
pub async fn set_own_presence(
    request: Authed<set_presence::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    check_own(&session, &body.user_id)?;
    check_presence(&body.presence)?;
    if let Some(message) = &body.status_msg {
        names::check_status(message).map_err(HttpError::invalid_param)?;
    }
    let online = body.presence == PresenceState::Online;
    let presence = Presence {
        user_id: session.user_id,
        presence: body.presence,
        status_msg: body.status_msg,
        last_active_ago: online.then_some(0),
        currently_active: online,
    };
    ask(&gateway.ephemera.set_presence, presence).await?;
    Ok(Json(Empty {}))
}

#[derive(Serialize)]
struct ShownPerson {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// Finds people: on the network by rendezvous string, and among those in shared rooms.
///
/// All who match are shown, with their full ids: a suffix finds people, it does not prove who they
/// are.
pub async fn search_people(
    request: Authed<search_users::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit: _permit } = request;
    let limit = usize::try_from(u64::from(body.limit)).unwrap_or(usize::MAX).clamp(1, 50);
    let term = body.search_term;
    if term.len() > SEARCH_TERM {
        let why = format!("a search term has {SEARCH_TERM} bytes at most");
        return Err(HttpError::invalid_param(why));
    }
    // One more than is shown tells whether there are more.
    let network =
        SearchPeople { term: term.clone(), limit: limit + 1, timeout: limits::SEARCH_WAIT };
    let network = ask(&gateway.search_people, network);
    let here = SearchTerm::parse(&term);
    let known = ask(&gateway.store.search_directory, SearchDirectory { term, limit: limit + 1 });
    let (network, known) = futures::future::join(network, known).await;
    let mut people: Vec<ShownPerson> = Vec::new();
    let mut add = |person: ShownPerson| {
        let seen = people.iter().any(|seen| seen.user_id == person.user_id);
        if !seen && person.user_id != session.user_id {
            people.push(person);
        }
    };
    // The people of this node know one another.
    for LocalPerson { user_id, profile, .. } in gateway.ask_accounts(ListPeople).await? {
        if here.means(&user_id, profile.displayname.as_deref()) {
            let Profile { displayname: display_name, avatar_url, .. } = profile;
            add(ShownPerson { user_id, display_name, avatar_url });
        }
    }
    // The network may be down while people in shared rooms are still found, but not both.
    let known = known?;
    match network {
        Ok(found) => found.into_iter().for_each(|found| {
            add(ShownPerson {
                user_id: found.user_id,
                display_name: found.displayname,
                avatar_url: found.avatar_url,
            });
        }),
        Err(why) => log::debug!(why:%; "the network was not searched"),
    }
    for (user_id, entry) in known? {
        let Profile { displayname: display_name, avatar_url, .. } =
            shown(entry.displayname.as_deref(), entry.avatar_url.as_deref());
        add(ShownPerson { user_id, display_name, avatar_url });
    }
    let limited = people.len() > limit;
    people.truncate(limit);
    Ok(Json(json!({"results": people, "limited": limited})))
}
