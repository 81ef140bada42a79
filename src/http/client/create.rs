//! Making rooms: a request becomes the first events of a room, in their order.

use actix_web::Responder;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedUserId, RoomAliasId,
    RoomVersionId, UserId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    canonical, canonical_of,
    directory::{check_free, in_use},
};
use crate::{
    actors::{
        admission::Permit,
        room_directory::{DirectoryError, Publish, SetAlias},
        room_state::{CreateRoom, DEFAULT_VERSION},
    },
    http::{
        error::HttpError,
        gateway::ask,
        ruma_glue::{Authed, Json},
    },
    proto::pdu::{ROOM_VERSIONS, rules_of},
};

const POWER_LEVELS: &str = "m.room.power_levels";
/// Most invites in one request.
const INVITES: usize = 100;

/// Makes a room.
pub async fn create_room(request: Authed<Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let alias = alias_of(&body, &session.user_id)?;
    if let Some(alias) = &alias {
        check_free(&gateway, alias).await?;
    }
    let is_public = body.visibility == Visibility::Public;
    let message = compose(body, &session.user_id, alias.as_deref(), permit)?;
    let room_id = ask(&gateway.rooms.create, message).await??;
    if let Some(alias) = alias {
        let set = SetAlias { alias, room_id: room_id.clone(), by: session.user_id };
        match ask(&gateway.directory.set_alias, set).await? {
            // Somebody was quicker. The room is there all the same.
            Err(DirectoryError::Taken) => return Err(in_use()),
            set => set?,
        }
    }
    if is_public {
        let publish = Publish { room_id: room_id.clone(), is_public };
        ask(&gateway.directory.publish, publish).await??;
    }
    Ok(Json(json!({"room_id": room_id})))
}

/// State events in the order in which they are sent; one that comes again takes the place of the
/// first.
struct State(Vec<(String, String, CanonicalJsonObject)>);

impl State {
    fn set(&mut self, kind: &str, state_key: &str, content: CanonicalJsonObject) {
        let known = self.0.iter_mut().find(|(k, s, _)| k == kind && s == state_key);
        match known {
            Some((_, _, old)) => *old = content,
            None => self.0.push((kind.to_owned(), state_key.to_owned(), content)),
        }
    }
}

#[derive(Deserialize)]
struct Initial {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

/// Returns the alias that is wanted for the room.
fn alias_of(request: &Request, by: &UserId) -> Result<Option<OwnedRoomAliasId>, HttpError> {
    let Some(name) = &request.room_alias_name else { return Ok(None) };
    let bad = || HttpError::invalid_param("room_alias_name is what is between # and : in an alias");
    if name.is_empty() || name.contains([':', '#', '\0']) || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    let alias = format!("#{name}:{}", by.server_name());
    alias.try_into().map(Some).map_err(|_| bad())
}

/// Composes the message to RoomState.
fn compose(
    request: Request,
    creator: &UserId,
    alias: Option<&RoomAliasId>,
    permit: Permit,
) -> Result<CreateRoom, HttpError> {
    let version = request.room_version.clone().unwrap_or(DEFAULT_VERSION);
    let rules = rules_of(&version).ok_or_else(|| unsupported(&version))?;
    refuse_what_is_not_here(&request)?;
    let preset = preset_of(&request);
    let trusted = preset == RoomPreset::TrustedPrivateChat;

    let mut creation_content = match &request.creation_content {
        Some(content) => canonical_of(content)?,
        None => CanonicalJsonObject::new(),
    };
    // The Room sets these; a client that does would make another room than it was told.
    creation_content.remove("creator");
    creation_content.remove("room_version");
    let v12 = rules.authorization.explicitly_privilege_room_creators;
    if v12 && trusted && !request.invite.is_empty() {
        add_creators(&mut creation_content, &request.invite)?;
    }

    let mut state = State(Vec::new());
    let mut levels = power_levels(creator, &request.invite, trusted, &rules)?;
    if let Some(overrides) = &request.power_level_content_override {
        levels.extend(canonical_of(overrides)?);
    }
    state.set(POWER_LEVELS, "", levels);
    for (kind, content) in preset_state(&preset) {
        state.set(kind, "", object(content)?);
    }
    if let Some(alias) = alias {
        state.set("m.room.canonical_alias", "", object(json!({"alias": alias}))?);
    }
    for event in &request.initial_state {
        let event: Initial = serde_json::from_str(event.json().get())
            .map_err(|error| HttpError::bad_json(format!("initial_state: {error}")))?;
        if matches!(event.kind.as_str(), "m.room.create" | "m.room.member") {
            let why = format!("{} cannot be in initial_state", event.kind);
            return Err(HttpError::invalid_param(why));
        }
        state.set(&event.kind, &event.state_key, canonical(&event.content)?);
    }
    if let Some(name) = request.name {
        state.set("m.room.name", "", object(json!({"name": name}))?);
    }
    if let Some(topic) = request.topic {
        let text = json!({"topic": topic, "m.topic": {"m.text": [{"body": topic}]}});
        state.set("m.room.topic", "", object(text)?);
    }
    if v12 {
        check_creators(&state, creator, &creation_content)?;
    }
    Ok(CreateRoom {
        by: creator.to_owned(),
        version: Some(version),
        creation_content,
        initial_state: state.0,
        invite: request.invite,
        is_direct: request.is_direct,
        permit,
    })
}

fn unsupported(version: &RoomVersionId) -> HttpError {
    HttpError::new(
        actix_web::http::StatusCode::BAD_REQUEST,
        "M_UNSUPPORTED_ROOM_VERSION",
        format!(
            "room version {version} is not supported: use one of {}",
            ROOM_VERSIONS.map(|version| version.to_string()).join(", ")
        ),
    )
}

fn refuse_what_is_not_here(request: &Request) -> Result<(), HttpError> {
    use RoomPreset::{PrivateChat, PublicChat, TrustedPrivateChat};
    if !matches!(request.preset, None | Some(PrivateChat | PublicChat | TrustedPrivateChat)) {
        return Err(HttpError::invalid_param(
            "preset is private_chat, public_chat or trusted_private_chat",
        ));
    }
    if !matches!(request.visibility, Visibility::Private | Visibility::Public) {
        return Err(HttpError::invalid_param("visibility is private or public"));
    }
    if !request.invite_3pid.is_empty() {
        return Err(HttpError::invalid_param("people are invited by user id only"));
    }
    if request.invite.len() > INVITES {
        let why = format!("more than {INVITES} invites: send the others once the room stands");
        return Err(HttpError::invalid_param(why));
    }
    Ok(())
}

fn preset_of(request: &Request) -> RoomPreset {
    request.preset.clone().unwrap_or(match request.visibility {
        Visibility::Public => RoomPreset::PublicChat,
        _ => RoomPreset::PrivateChat,
    })
}

fn preset_state(preset: &RoomPreset) -> [(&'static str, Value); 3] {
    let (join_rule, guests) = match preset {
        RoomPreset::PublicChat => ("public", "forbidden"),
        _ => ("invite", "can_join"),
    };
    [
        ("m.room.join_rules", json!({"join_rule": join_rule})),
        ("m.room.history_visibility", json!({"history_visibility": "shared"})),
        ("m.room.guest_access", json!({"guest_access": guests})),
    ]
}

/// Returns the power levels of a new room. From version 12 on creators are above all levels and
/// may not be named.
fn power_levels(
    creator: &UserId,
    invited: &[OwnedUserId],
    trusted: bool,
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonObject, HttpError> {
    let v12 = rules.authorization.explicitly_privilege_room_creators;
    let mut users = serde_json::Map::new();
    if !v12 {
        users.insert(creator.to_string(), Value::from(100));
        if trusted {
            users.extend(invited.iter().map(|user| (user.to_string(), Value::from(100))));
        }
    }
    object(json!({
        "ban": 50,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            // Only a creator may end a room of version 12.
            "m.room.tombstone": if v12 { 150 } else { 100 },
        },
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "notifications": {"room": 50},
        "redact": 50,
        "state_default": 50,
        "users": users,
        "users_default": 0,
    }))
}

fn add_creators(
    content: &mut CanonicalJsonObject,
    invited: &[OwnedUserId],
) -> Result<(), HttpError> {
    let known = content
        .entry("additional_creators".to_owned())
        .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
    let CanonicalJsonValue::Array(creators) = known else {
        return Err(HttpError::bad_json("additional_creators has to be a list"));
    };
    for user in invited {
        let user = CanonicalJsonValue::String(user.to_string());
        if !creators.contains(&user) {
            creators.push(user);
        }
    }
    Ok(())
}

/// Refuses power levels that name a creator: no server would let them into a version 12 room.
fn check_creators(
    state: &State,
    creator: &UserId,
    creation_content: &CanonicalJsonObject,
) -> Result<(), HttpError> {
    let additional = creation_content.get("additional_creators").and_then(|v| v.as_array());
    let additional = additional.into_iter().flatten().filter_map(|user| user.as_str());
    let mut creators = additional.chain([creator.as_str()]);
    let levels = state.0.iter().find(|(kind, key, _)| kind == POWER_LEVELS && key.is_empty());
    let users = levels.and_then(|(_, _, content)| content.get("users")?.as_object());
    match users.and_then(|users| creators.find(|creator| users.contains_key(*creator))) {
        None => Ok(()),
        Some(named) => Err(HttpError::invalid_param(format!(
            "{named} creates the room and may not be in power_levels.users of room version 12"
        ))),
    }
}

fn object(content: Value) -> Result<CanonicalJsonObject, HttpError> {
    match CanonicalJsonValue::try_from(content) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        _ => Err(HttpError::bad_json("the content has to be a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{serde::Raw, user_id};

    use super::*;
    use crate::actors::admission::Admission;

    fn composed(change: impl FnOnce(&mut Request)) -> Result<CreateRoom, HttpError> {
        let mut request = Request::default();
        change(&mut request);
        let permit = Admission::new(1).admit().unwrap();
        let by = user_id!("@p2p:me");
        let alias = alias_of(&request, by)?;
        compose(request, by, alias.as_deref(), permit)
    }

    fn raw<T>(value: &Value) -> Raw<T> {
        Raw::from_json(serde_json::value::to_raw_value(value).unwrap())
    }

    fn content<'a>(room: &'a CreateRoom, kind: &str) -> &'a CanonicalJsonObject {
        &room.initial_state.iter().find(|(k, _, _)| k == kind).unwrap().2
    }

    fn kinds(room: &CreateRoom) -> Vec<&str> {
        room.initial_state.iter().map(|(kind, _, _)| kind.as_str()).collect()
    }

    #[test]
    fn the_default_is_a_private_room_of_version_12() {
        let room = composed(|_| ()).unwrap();
        assert_eq!(room.version, Some(RoomVersionId::V12));
        assert_eq!(
            kinds(&room),
            [POWER_LEVELS, "m.room.join_rules", "m.room.history_visibility", "m.room.guest_access"]
        );
        let users = content(&room, POWER_LEVELS)["users"].as_object().unwrap();
        assert!(users.is_empty(), "creators are not named in version 12");
        assert_eq!(content(&room, "m.room.join_rules")["join_rule"].as_str(), Some("invite"));
    }

    #[test]
    fn name_and_topic_come_last_and_initial_state_overrides_the_preset() {
        let room = composed(|request| {
            request.name = Some("N".into());
            request.topic = Some("T".into());
            request.visibility = Visibility::Public;
            request.initial_state = vec![
                raw(&json!({"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}})),
                raw(&json!({"type": "m.x", "state_key": "k", "content": {}})),
            ];
        })
        .unwrap();
        assert_eq!(
            kinds(&room),
            [
                POWER_LEVELS,
                "m.room.join_rules",
                "m.room.history_visibility",
                "m.room.guest_access",
                "m.x",
                "m.room.name",
                "m.room.topic"
            ]
        );
        let visibility = &content(&room, "m.room.history_visibility")["history_visibility"];
        assert_eq!(visibility.as_str(), Some("joined"));
        assert_eq!(content(&room, "m.room.join_rules")["join_rule"].as_str(), Some("public"));
    }

    #[test]
    fn those_who_are_trusted_get_the_power_of_the_creator() {
        let friend = user_id!("@p2p:friend").to_owned();
        let trusted = |version: RoomVersionId| {
            composed(|request| {
                request.preset = Some(RoomPreset::TrustedPrivateChat);
                request.room_version = Some(version);
                request.invite = vec![friend.clone()];
            })
            .unwrap()
        };
        let old = trusted(RoomVersionId::V11);
        let users = content(&old, POWER_LEVELS)["users"].as_object().unwrap();
        assert!(users.contains_key("@p2p:friend") && users.contains_key("@p2p:me"));
        let new = trusted(RoomVersionId::V12);
        let creators = new.creation_content["additional_creators"].as_array().unwrap();
        assert_eq!(creators[0].as_str(), Some("@p2p:friend"));
        assert!(content(&new, POWER_LEVELS)["users"].as_object().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(composed(|r| r.room_version = Some(RoomVersionId::V5)).is_err());
        for no_alias in ["", "a:b", "#a", "a b"] {
            assert!(composed(|r| r.room_alias_name = Some(no_alias.into())).is_err(), "{no_alias}");
        }
        let called = composed(|r| r.room_alias_name = Some("tea".into())).unwrap();
        assert_eq!(content(&called, "m.room.canonical_alias")["alias"], "#tea:me");
        let named = json!({"users": {"@p2p:me": 100}});
        let overridden = |r: &mut Request| r.power_level_content_override = Some(raw(&named));
        assert!(composed(overridden).is_err(), "a creator in power_levels of version 12");
        let eleven = composed(|r| {
            overridden(r);
            r.room_version = Some(RoomVersionId::V11);
        });
        assert!(eleven.is_ok());
        let forged = json!({"type": "m.room.create", "content": {}});
        assert!(composed(|r| r.initial_state = vec![raw(&forged)]).is_err());
        let encrypted = json!({"type": "m.room.encryption", "content": {"algorithm": "x"}});
        assert!(composed(|r| r.initial_state = vec![raw(&encrypted)]).is_ok());
        assert!(composed(|r| r.preset = Some("nonsense".into())).is_err());
        assert!(composed(|r| r.visibility = "nonsense".into()).is_err());
        let float = json!({"type": "m.x", "content": {"a": 0.5}});
        assert!(composed(|r| r.initial_state = vec![raw(&float)]).is_err());
    }

    #[test]
    fn the_create_event_cannot_be_talked_into_another_version() {
        let lie = json!({"room_version": "1", "creator": "@x:y", "m.federate": true});
        let room = composed(|r| r.creation_content = Some(raw(&lie))).unwrap();
        assert_eq!(room.creation_content.keys().collect::<Vec<_>>(), ["m.federate"]);
    }
}
