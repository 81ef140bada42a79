//! Who may see what a room shows of itself. Pure.

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, RoomId,
    events::room::member::MembershipState,
    room::{JoinRuleSummary, RoomSummary},
};

/// What somebody of ours is, in which room.
pub(super) type Memberships = BTreeMap<OwnedRoomId, MembershipState>;

/// Returns rooms whose members may come in.
pub(super) fn allowed(room: &RoomSummary) -> &[OwnedRoomId] {
    match &room.join_rule {
        JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule) => {
            &rule.allowed_room_ids
        }
        _ => &[],
    }
}

/// Tells whether a room is shown to everybody: whoever can come in, ask to be let in, or read there.
pub(super) fn is_open(room: &RoomSummary) -> bool {
    use JoinRuleSummary::{Knock, KnockRestricted, Public};
    room.world_readable || matches!(room.join_rule, Public | Knock | KnockRestricted(_))
}

/// Tells whether a room is shown to a user of ours.
pub(super) fn by_user(room: &RoomSummary, own: &Memberships) -> bool {
    use MembershipState::{Invite, Join, Knock};
    let is = |room_id: &RoomId| own.get(room_id);
    is_open(room)
        || matches!(is(&room.room_id), Some(Join | Invite | Knock))
        || allowed(room).iter().any(|allowed| is(allowed) == Some(&Join))
}

#[cfg(test)]
mod tests {
    use ruma::{UInt, room::RestrictedSummary};

    use super::*;

    #[test]
    fn a_room_is_shown_to_whom_it_lets_in() {
        let (room_id, space): (OwnedRoomId, OwnedRoomId) =
            ("!r:x".try_into().unwrap(), "!s:x".try_into().unwrap());
        let shown = |rule: JoinRuleSummary, world_readable, own: &[(&OwnedRoomId, &str)]| {
            let summary =
                RoomSummary::new(room_id.clone(), rule, false, UInt::from(1_u32), world_readable);
            let own = own.iter().map(|(room, is)| ((*room).clone(), MembershipState::from(*is)));
            by_user(&summary, &own.collect())
        };
        let members = || JoinRuleSummary::Restricted(RestrictedSummary::new(vec![space.clone()]));
        for (rule, readable, own, expected) in [
            (JoinRuleSummary::Public, false, vec![], true),
            (JoinRuleSummary::Knock, false, vec![], true),
            (JoinRuleSummary::Invite, false, vec![], false),
            (JoinRuleSummary::Invite, true, vec![], true),
            (JoinRuleSummary::Invite, false, vec![(&room_id, "invite")], true),
            (JoinRuleSummary::Invite, false, vec![(&room_id, "leave")], false),
            (JoinRuleSummary::Private, false, vec![], false),
            (members(), false, vec![], false),
            (members(), false, vec![(&space, "join")], true),
            (members(), false, vec![(&space, "invite")], false),
        ] {
            assert_eq!(shown(rule.clone(), readable, &own), expected, "{rule:?} {own:?}");
        }
    }
}
