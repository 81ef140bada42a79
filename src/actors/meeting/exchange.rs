//! One exchange with a server: one message for hundreds of rooms, then what is not here of its heads.
//!
//! Invariants: what it answers about rooms that were not asked for is not looked at; every further round
//! got on since the one before.

use std::collections::{BTreeMap, HashMap, HashSet};

use actix::{Addr, Recipient};
use futures::StreamExt as _;
use ruma::{OwnedRoomId, OwnedServerName};
use serde_json::{json, value::RawValue};

use super::{
    actor::{MeetingActor, MeetingLinks},
    spreading::Compared,
};
use crate::{
    actors::{
        catch_up::{CatchUp, CatchUpActor, CaughtUp},
        clock::uptime_ms,
        device_keys::KeysHeard,
        room::{FollowHeads, RoomError, TakeDeparture, ask, federation, read},
        room_state::{Briefly, ToRoom},
        store::{FindLacking, ReadHeads, RoomEvents},
    },
    config::limits,
    proto::{
        endpoint::Endpoint,
        heads::{ComparedHeads, Gap, fingerprint},
    },
};

/// Rooms that follow the heads of one server at the same time: a node in many rooms must not be
/// flooded by itself, nor use up what the other lets it ask.
const FOLLOWED_AT_ONCE: usize = 4;

/// An exchange with one server.
pub(super) struct Exchange {
    pub(super) links: MeetingLinks,
    pub(super) meeting: Addr<MeetingActor>,
    pub(super) server: OwnedServerName,
    pub(super) catch_up: Option<Addr<CatchUpActor>>,
    pub(super) keys_heard: Option<Recipient<KeysHeard>>,
}

impl Exchange {
    pub(super) async fn run(&self, shared: Vec<OwnedRoomId>) -> Result<(), RoomError> {
        let mut result = Ok(());
        for part in shared.chunks(limits::HEADS_ROOMS) {
            result = result.and(self.compare(part.to_vec()).await?);
        }
        result
    }

    /// Compares rooms that fit into one message. The inner error is that of a room; the others go on.
    pub(super) async fn compare(
        &self,
        room_ids: Vec<OwnedRoomId>,
    ) -> Result<Result<(), RoomError>, RoomError> {
        let asked_at = uptime_ms();
        let ours = ask(&self.links.read_heads, ReadHeads(room_ids)).await?;
        let asked: HashSet<&OwnedRoomId> = ours.iter().map(|(room_id, _)| room_id).collect();
        let prints: BTreeMap<&OwnedRoomId, String> =
            ours.iter().map(|(room_id, heads)| (room_id, fingerprint(heads))).collect();
        let content = json!({"rooms": prints});
        let request =
            federation(&self.server, Endpoint::heads(), content, limits::FEDERATION_WAIT)?;
        let mut answer: ComparedHeads =
            read(&self.server, ask(&self.links.federation, request).await?)?;
        if let (Some(heard), Some(keys_ts)) = (&self.keys_heard, answer.keys_ts) {
            heard.do_send(KeysHeard { server: self.server.clone(), keys_ts });
        }
        let left = asked.iter().map(|room_id| ((*room_id).clone(), answer.left_in(room_id)));
        self.take_departures(left.filter(|(_, events)| !events.is_empty()).collect()).await;
        let theirs = answer.rooms.into_iter().filter(|(room_id, _)| asked.contains(room_id));
        let theirs = theirs.map(|(room_id, mut heads)| {
            heads.truncate(limits::HEADS);
            (room_id, heads)
        });
        let theirs: RoomEvents = theirs.collect();
        let differ: HashSet<OwnedRoomId> = theirs.iter().map(|(id, _)| id.clone()).collect();
        // Rooms that it is not in, as it sees it, are left out like those that are the same.
        let mut same: RoomEvents =
            ours.into_iter().filter(|(room_id, _)| !differ.contains(room_id)).collect();
        if answer.same != Some(same.len()) {
            same.clear();
        }
        let others = theirs.clone();
        let server = self.server.clone();
        self.meeting.do_send(Compared { server, asked_at, same, others });
        self.fetch(theirs).await
    }

    /// Hands rooms the events by which users of ours are out of them, as the other server sees it.
    async fn take_departures(&self, left: Vec<(OwnedRoomId, Vec<Box<RawValue>>)>) {
        let taken = left.into_iter().map(|(room_id, pdus)| async move {
            for pdu in pdus {
                let message = TakeDeparture { server_name: self.server.clone(), pdu };
                let room_id = room_id.clone();
                let take = &self.links.take_departure;
                let asked = take.send(Briefly(ToRoom { room_id, message }));
                if let Ok(Ok(Err(error))) = asked.await {
                    log::debug!("not taken for a departure: {error}");
                }
            }
        });
        let taken: Vec<_> = taken.collect();
        let taken = futures::stream::iter(taken).buffer_unordered(FOLLOWED_AT_ONCE);
        taken.collect::<Vec<()>>().await;
    }

    /// Fetches what is not here of the heads of another server. The inner error is that of a room.
    pub(super) async fn fetch(
        &self,
        theirs: RoomEvents,
    ) -> Result<Result<(), RoomError>, RoomError> {
        // Where we are ahead, or refused what they have, there is no need to wake a room.
        let mut lacking = ask(&self.links.find_lacking, FindLacking(theirs.clone())).await?;
        let mut rounds = limits::MISSING_ROUNDS;
        if !lacking.is_empty()
            && let Some(catch_up) = &self.catch_up
        {
            let heads = lacking.iter().map(|(id, gap)| (id.clone(), gap.latest_events.clone()));
            let ask_for = CatchUp { server: self.server.clone(), heads: heads.collect() };
            let asked = catch_up.send(ask_for).await.map_err(|error| RoomError::Ask(error.into()));
            match asked.flatten() {
                Ok(CaughtUp::Unknown) => {}
                Err(error) if error.is_unreachable() || matches!(error, RoomError::Ask(_)) => {
                    return Err(error);
                }
                // What it refuses all rooms together it may give to one.
                Ok(CaughtUp::Done) | Err(_) => {
                    rounds = 0;
                    lacking = ask(&self.links.find_lacking, FindLacking(theirs)).await?;
                }
            }
        }
        let mut left = Vec::new();
        // A node of the first release is asked for events at once. Of what is more than a page the
        // first part comes first, and the rest on top of that.
        for _ in 0..rounds {
            if lacking.is_empty() {
                break;
            }
            let heads = lacking.iter().map(|(id, gap)| (id.clone(), gap.latest_events.clone()));
            let heads = FindLacking(heads.collect());
            let before: HashMap<_, _> = lacking.iter().cloned().collect();
            if let Err(error) = self.fetch_missing(lacking).await {
                log::debug!(server:% = self.server; "missing events not fetched: {error}");
            }
            let still = ask(&self.links.find_lacking, heads).await?;
            let got_on = |(id, gap): &(_, Gap)| before.get(id) != Some(gap);
            let (further, stuck): (Vec<_>, Vec<_>) = still.into_iter().partition(got_on);
            (lacking, left) = (further, [left, stuck].concat());
        }
        // What did not come so, each room fetches by itself.
        left.extend(lacking);
        let followed = left.into_iter().map(|(room_id, gap)| {
            let extremities = gap.latest_events;
            let server_name = self.server.clone();
            let message = FollowHeads { server_name, extremities };
            async move { ask(&self.links.follow_heads, Briefly(ToRoom { room_id, message })).await? }
        });
        let results = futures::stream::iter(followed).buffer_unordered(FOLLOWED_AT_ONCE);
        Ok(results.collect::<Vec<Result<(), RoomError>>>().await.into_iter().collect())
    }
}
