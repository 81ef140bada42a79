//! New rooms of our users: the create event, then all that a room begins with.
//!
//! Invariant: no two rooms get one id. In version 12 it is the hash of the create event, which has
//! nothing in it that differs between two rooms of the same settings but the time.

use std::{collections::HashSet, sync::Arc};

use actix::{AsyncContext as _, Context, Handler, ResponseFuture};
use rand::{RngExt as _, distr::Alphanumeric};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    events::TimelineEventType,
};

use super::{
    actor::RoomStateActor,
    messages::{CreateRoom, ForgetRoom},
};
use crate::{
    actors::{
        admission::Admission,
        clock::now_ms,
        room::{ChangeMembership, CreateInRoom, Leave, MemberChange, RoomError, invitee},
    },
    proto::{
        pdu::{self, Draft, Position},
        server_name::check_user,
        signer::Author,
    },
};

/// The room version of new rooms: the newest that ruma and current clients support.
pub const DEFAULT_VERSION: RoomVersionId = RoomVersionId::V12;
/// How far the time of a new room runs ahead of the clock: more rooms than are ever made at once. A
/// clock that is set back by more is believed.
const AHEAD_MS: u64 = 10_000;

/// When our last room was made.
#[derive(Debug, Default)]
pub(super) struct Births(u64);

impl Births {
    /// Returns the time of a room that is made now: a later one each time.
    fn next(&mut self, now: u64) -> u64 {
        let ahead = self.0.checked_sub(now).is_some_and(|ahead| ahead < AHEAD_MS);
        self.0 = if ahead { self.0.saturating_add(1) } else { now };
        self.0
    }
}

impl RoomStateActor {
    /// Composes the create event of a room that does not exist yet. That its time is new is not
    /// enough: a clock may have been set back between two starts, and whoever guesses the event can
    /// invite our user to a room of its id before there is one.
    fn compose_create(
        &mut self,
        version: &RoomVersionId,
        content: &CanonicalJsonObject,
        author: Author<'_>,
    ) -> Result<pdu::Pdu, RoomError> {
        loop {
            let ts = self.births.next(now_ms());
            let create = compose(version, content.clone(), author, ts)?;
            if !self.is_taken(&create.room_id) {
                return Ok(create);
            }
        }
    }
}

fn compose(
    version: &RoomVersionId,
    mut content: CanonicalJsonObject,
    author: Author<'_>,
    origin_server_ts: u64,
) -> Result<pdu::Pdu, RoomError> {
    let rules =
        pdu::rules_of(version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
    let text = |value: &str| CanonicalJsonValue::String(value.to_owned());
    content.insert("room_version".to_owned(), text(version.as_str()));
    if rules.authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".to_owned(), text(author.user_id().as_str()));
    }
    let room_id = if rules.authorization.room_create_event_id_as_room_id {
        None
    } else {
        let opaque: String =
            rand::rng().sample_iter(Alphanumeric).take(18).map(char::from).collect();
        let room_id = RoomId::parse(format!("!{opaque}:{}", author.user_id().server_name()));
        Some(room_id.map_err(RoomError::internal)?)
    };
    let draft = Draft {
        kind: TimelineEventType::RoomCreate,
        state_key: Some(String::new()),
        content,
        redacts: None,
    };
    let position = Position {
        room_id,
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts,
    };
    Ok(pdu::compose(draft, &position, author, &rules)?)
}

impl Handler<CreateRoom> for RoomStateActor {
    type Result = ResponseFuture<Result<OwnedRoomId, RoomError>>;

    fn handle(&mut self, msg: CreateRoom, ctx: &mut Context<Self>) -> Self::Result {
        let CreateRoom { by, version, creation_content, initial_state, .. } = msg;
        let (mut invite, is_direct, permit) = (msg.invite, msg.is_direct, msg.permit);
        let Some(signer) = self.signer.as_ref().map(Arc::clone) else {
            return Box::pin(async { Err(RoomError::NotFound) });
        };
        // Who makes the room is in it, and nobody is invited twice.
        let mut named = HashSet::from([by.clone()]);
        invite.retain(|user_id| named.insert(user_id.clone()));
        if let Err(error) = invite.iter().try_for_each(|user_id| check_user(user_id)) {
            return Box::pin(async move { Err(error.into()) });
        }
        let version = version.unwrap_or(DEFAULT_VERSION);
        let created = signer
            .author(&by)
            .map_err(RoomError::from)
            .and_then(|author| self.compose_create(&version, &creation_content, author))
            .and_then(|create| Ok((self.room(&create.room_id, ctx)?, create)));
        let (room, create) = match created {
            Ok(created) => created,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let drafts = initial_state
            .into_iter()
            .map(|(kind, state_key, content)| Draft {
                kind: kind.into(),
                state_key: Some(state_key),
                content,
                redacts: None,
            })
            .collect();
        let room_id = create.room_id.clone();
        let invites = Admission::new(invite.len().max(1));
        let federation = self.links.federation.clone();
        let rooms = ctx.address();
        Box::pin(async move {
            let _permit = permit;
            // All at once, so that nobody waits for somebody who is off; invited one after another.
            let own = signer.server_name();
            let found = invite.iter().map(async |user_id| match user_id.server_name() == own {
                true => None,
                false => Some(invitee(&federation, user_id).await),
            });
            let found = futures::future::join_all(found).await;
            let ask = CreateInRoom { by: by.clone(), version, create: Box::new(create), drafts };
            room.send(ask).await.map_err(|error| RoomError::Ask(error.into()))??;
            let mut refused = Vec::new();
            for (user_id, found) in invite.iter().zip(found) {
                let change = ChangeMembership {
                    by: by.clone(),
                    user_id: user_id.clone(),
                    change: MemberChange::Invite,
                    reason: None,
                    is_direct,
                    invitee: found,
                    permit: invites.admit()?,
                };
                let invited = room.send(change).await.map_err(|error| RoomError::Ask(error.into()));
                if let Err(error) = invited.and_then(|invited| invited) {
                    refused.push((user_id.clone(), error));
                }
            }
            if refused.is_empty() {
                return Ok(room_id);
            }
            // A room without anybody in it would swallow what is said there first.
            let outcome = if refused.len() < invite.len() {
                "the room was made without everybody in it"
            } else {
                let leave = Leave { by: by.clone(), reason: None, permit: invites.admit()? };
                room.send(leave).await.map_err(|error| RoomError::Ask(error.into()))??;
                let room_id = room_id.clone();
                let _ = rooms.send(ForgetRoom { user_id: by, room_id }).await;
                "no room was made"
            };
            not_invited(refused, outcome).map(|()| room_id)
        })
    }
}

fn not_invited(
    refused: Vec<(OwnedUserId, RoomError)>,
    outcome: &'static str,
) -> Result<(), RoomError> {
    let (users, mut why): (Vec<_>, Vec<_>) = refused.into_iter().unzip();
    if why.is_empty() {
        return Ok(());
    }
    Err(RoomError::NotInvited { users, outcome, why: Box::new(why.swap_remove(0)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{server_keys::tests::secret_keys, signer::Signer};

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn equal_rooms_of_one_moment_have_ids_of_their_own() {
        let signer = Signer::new(&secret_keys(1), &["peer".to_owned()], NOW).unwrap();
        let content = CanonicalJsonObject::new();
        for version in pdu::ROOM_VERSIONS {
            let mut births = Births::default();
            let ids: HashSet<_> = (0..1000)
                .map(|_| {
                    compose(&version, content.clone(), signer.owner(), births.next(NOW)).unwrap()
                })
                .map(|create| create.room_id)
                .collect();
            assert_eq!(ids.len(), 1000, "{version}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed() {
        let mut births = Births::default();
        let times = [NOW, NOW, NOW - 1, NOW + 5, NOW + 5, NOW - AHEAD_MS - 10, NOW - AHEAD_MS - 10];
        let expected =
            [NOW, NOW + 1, NOW + 2, NOW + 5, NOW + 6, NOW - AHEAD_MS - 10, NOW - AHEAD_MS - 9];
        assert_eq!(times.map(|now| births.next(now)), expected);
    }
}
