//! Who is in which room: joining, inviting, leaving, and showing others out.

use actix_web::Responder;
use ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    api::client::membership::{
        ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias,
        joined_rooms, kick_user, leave_room, unban_user,
    },
    events::room::member::MembershipState,
};
use serde_json::json;

use crate::{
    actors::{
        admission::Permit,
        room::{ChangeMembership, Join, Leave, MemberChange},
        room_directory::FindAlias,
        room_state::{ForgetRoom, ListRooms},
    },
    http::{
        error::HttpError,
        gateway::{Gateway, ask, ask_room},
        ruma_glue::{Authed, Empty, Json},
    },
};

/// Lists the rooms that the user is in.
pub async fn joined(
    request: Authed<joined_rooms::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let rooms = ask(&request.gateway.rooms.list, ListRooms(request.session.user_id)).await?;
    let joined: Vec<OwnedRoomId> = rooms
        .into_iter()
        .filter(|(_, membership)| *membership == MembershipState::Join)
        .map(|(room_id, _)| room_id)
        .collect();
    Ok(Json(json!({"joined_rooms": joined})))
}

async fn join(
    gateway: &Gateway,
    by: OwnedUserId,
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    reason: Option<String>,
    permit: Permit,
) -> Result<impl Responder + use<>, HttpError> {
    let answer = json!({"room_id": room_id});
    ask_room(&gateway.rooms.join, room_id, Join { by, via, reason, permit }).await?;
    Ok(Json(answer))
}

/// Joins a room by id.
pub async fn join_by_id(
    request: Authed<join_room_by_id::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    join(&gateway, session.user_id, body.room_id, Vec::new(), body.reason, permit).await
}

/// Joins a room by id or alias.
pub async fn join_by_id_or_alias(
    request: Authed<join_room_by_id_or_alias::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let (named, mut via) = (body.room_id_or_alias, body.via);
    let room_id = match OwnedRoomAliasId::try_from(named.as_str()) {
        Ok(alias) => {
            let found = ask(&gateway.directory.find_alias, FindAlias(alias)).await??;
            via.extend(found.servers);
            found.room_id
        }
        Err(_) => RoomId::parse(named.as_str())
            .map_err(|_| HttpError::invalid_param("this is neither a room id nor an alias"))?,
    };
    join(&gateway, session.user_id, room_id, via, body.reason, permit).await
}

async fn alter(
    gateway: &Gateway,
    room_id: OwnedRoomId,
    (by, user_id): (OwnedUserId, OwnedUserId),
    change: MemberChange,
    reason: Option<String>,
    permit: Permit,
) -> Result<Json<Empty>, HttpError> {
    let (is_direct, invitee) = (false, None);
    let message = ChangeMembership { by, user_id, change, reason, is_direct, invitee, permit };
    let _: OwnedEventId = ask_room(&gateway.rooms.change_membership, room_id, message).await?;
    Ok(Json(Empty {}))
}

/// Invites somebody.
pub async fn invite(
    request: Authed<invite_user::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let invite_user::v3::InvitationRecipient::UserId(invite) = body.recipient else {
        return Err(HttpError::forbidden("people are invited by user id only"));
    };
    let change = MemberChange::Invite;
    alter(&gateway, body.room_id, (session.user_id, invite.user_id), change, invite.reason, permit)
        .await
}

/// Shows somebody out.
pub async fn kick(request: Authed<kick_user::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    alter(
        &gateway,
        body.room_id,
        (session.user_id, body.user_id),
        MemberChange::Kick,
        body.reason,
        permit,
    )
    .await
}

/// Keeps somebody out.
pub async fn ban(request: Authed<ban_user::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    alter(
        &gateway,
        body.room_id,
        (session.user_id, body.user_id),
        MemberChange::Ban,
        body.reason,
        permit,
    )
    .await
}

/// Ends a ban.
pub async fn unban(request: Authed<unban_user::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    alter(
        &gateway,
        body.room_id,
        (session.user_id, body.user_id),
        MemberChange::Unban,
        body.reason,
        permit,
    )
    .await
}

/// Leaves a room, or refuses an invite.
pub async fn leave(request: Authed<leave_room::v3::Request>) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, permit } = request;
    let message = Leave { by: session.user_id, reason: body.reason, permit };
    let () = ask_room(&gateway.rooms.leave, body.room_id, message).await?;
    Ok(Json(Empty {}))
}

/// Forgets a room that was left.
pub async fn forget(
    request: Authed<forget_room::v3::Request>,
) -> Result<impl Responder, HttpError> {
    let Authed { body, session, gateway, .. } = request;
    let forget = ForgetRoom { user_id: session.user_id, room_id: body.room_id };
    ask(&gateway.rooms.forget, forget).await??;
    Ok(Json(Empty {}))
}
