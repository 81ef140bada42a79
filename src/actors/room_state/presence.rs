//! The presence of a user of ours: shown here, and told to everybody who shares a room, once each.
//!
//! Presence goes by gossip like everything else, and gossip goes to rooms. A server that shares
//! several rooms would hear it in each, so a small set of rooms is chosen that reaches everybody.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedServerName, presence::PresenceState};
use serde_json::{json, value::RawValue};

use crate::actors::ephemera::Presence;

/// Without a sign of life from a client for this long, a user counts as away.
const AWAY_AFTER: Duration = Duration::from_secs(5 * 60);
/// What did not change is told again after this long, for those who came since.
const AGAIN_AFTER: Duration = Duration::from_secs(4 * 60);

/// What was told of a user last.
#[derive(Debug, Default)]
pub(super) struct OwnPresence {
    told: Option<(Presence, Instant)>,
    seen: Option<Instant>,
}

impl OwnPresence {
    /// Takes a sign of life. Tells whether others have to hear of it.
    pub(super) fn sign(&mut self, presence: &Presence, now: Instant) -> bool {
        self.seen = Some(now);
        let same = |(told, at): &(Presence, Instant)| {
            told.presence == presence.presence
                && told.status_msg == presence.status_msg
                && now.duration_since(*at) < AGAIN_AFTER
        };
        if self.told.as_ref().is_some_and(same) {
            return false;
        }
        self.told = Some((presence.clone(), now));
        true
    }

    /// Returns the presence of a user who was here and gave no sign for a while.
    pub(super) fn lapse(&mut self, now: Instant) -> Option<Presence> {
        let silent = self.seen.is_some_and(|seen| now.duration_since(seen) >= AWAY_AFTER);
        let (told, at) = self.told.as_mut().filter(|_| silent)?;
        if told.presence == PresenceState::Offline {
            return None;
        }
        told.presence = PresenceState::Offline;
        told.currently_active = false;
        *at = now;
        Some(told.clone())
    }
}

/// Returns rooms that together reach every server, given the servers of each joined room.
pub(super) fn cover<'a>(
    rooms: &BTreeMap<&'a OwnedRoomId, &HashSet<OwnedServerName>>,
    own: &OwnedServerName,
) -> Vec<&'a OwnedRoomId> {
    let mut reached: HashSet<&OwnedServerName> = HashSet::from([own]);
    let mut by_size: Vec<_> = rooms.iter().collect();
    // The largest room first; the order of ids decides between equals.
    by_size.sort_by_key(|(_, servers)| std::cmp::Reverse(servers.len()));
    let mut chosen = Vec::new();
    for (room_id, servers) in by_size {
        let before = reached.len();
        reached.extend(servers.iter());
        if reached.len() > before {
            chosen.push(*room_id);
        }
    }
    chosen
}

/// Makes the EDU (Server-Server API, "Presence").
pub(super) fn edu(presence: &Presence) -> serde_json::Result<Box<RawValue>> {
    let mut update = json!({
        "user_id": presence.user_id,
        "presence": presence.presence,
        "last_active_ago": presence.last_active_ago.unwrap_or_default(),
        "currently_active": presence.currently_active,
    });
    if let (Some(status), Some(fields)) = (&presence.status_msg, update.as_object_mut()) {
        fields.insert("status_msg".to_owned(), json!(status));
    }
    serde_json::value::to_raw_value(
        &json!({"edu_type": "m.presence", "content": {"push": [update]}}),
    )
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn online() -> Presence {
        Presence {
            user_id: user_id!("@p2p:x").to_owned(),
            presence: PresenceState::Online,
            status_msg: None,
            last_active_ago: Some(0),
            currently_active: true,
        }
    }

    #[test]
    fn what_did_not_change_is_told_once_and_silence_means_away() {
        let (mut own, start) = (OwnPresence::default(), Instant::now());
        assert!(own.sign(&online(), start));
        assert!(!own.sign(&online(), start + Duration::from_secs(30)));
        let busy = Presence { status_msg: Some("busy".into()), ..online() };
        assert!(own.sign(&busy, start + Duration::from_secs(31)));
        assert!(own.sign(&busy, start + Duration::from_secs(31) + AGAIN_AFTER));
        let seen = start + Duration::from_secs(31) + AGAIN_AFTER;
        assert!(own.lapse(seen + Duration::from_secs(1)).is_none());
        let away = own.lapse(seen + AWAY_AFTER).unwrap();
        assert_eq!(away.presence, PresenceState::Offline);
        assert!(own.lapse(seen + 2 * AWAY_AFTER).is_none(), "told once");
        assert!(own.sign(&busy, seen + 2 * AWAY_AFTER), "and back again");
    }

    #[test]
    fn everybody_is_reached_by_few_rooms() {
        let name = |name: &str| OwnedServerName::try_from(name).unwrap();
        let id = |id: &str| OwnedRoomId::try_from(id).unwrap();
        let ids = [id("!a:x"), id("!b:x"), id("!c:x"), id("!alone:x")];
        let sets = [
            HashSet::from([name("me"), name("one"), name("two")]),
            HashSet::from([name("me"), name("one")]),
            HashSet::from([name("me"), name("three")]),
            HashSet::from([name("me")]),
        ];
        let rooms: BTreeMap<_, _> = ids.iter().zip(&sets).collect();
        assert_eq!(cover(&rooms, &name("me")), [&ids[0], &ids[2]]);
    }
}
