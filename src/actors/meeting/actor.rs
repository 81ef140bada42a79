//! The shell of Meeting: whom it talks to, and what it knows of all servers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use actix::{Actor, Addr, AsyncContext as _, Context, Handler, Recipient, ResponseFuture};
use ruma::{OwnedRoomId, OwnedServerName};
use tokio::sync::watch;

use super::{
    distant::{AFTER_CHANGE, AFTER_START, Distant, LOOK_EVERY},
    heard::Heard,
    held::Held,
    meetings::{Meetings, Reason},
    messages::TellKeys,
    unspread::Unspread,
};
use crate::{
    actors::{
        catch_up::{CatchUpActor, CatchUpLinks, FillGap, TakeIn},
        clock::uptime_ms,
        cpu::Cpu,
        device_keys::{KeysHeard, KeysIssued},
        identity::{FindServerKeys, UseSigner},
        outbox::{EventsSpread, Owe, ServerReached},
        room::{Carried, FetchHistory, FollowHeads, RoomError, TakeDeparture, TakeMissing, ask},
        room_state::{
            Briefly, ReadServers, ReadShared, SharesTurned, SiftShared, SiftedRooms, ToRoom,
        },
        store,
        upward::SendFederation,
    },
    config::limits,
    proto::signer::Signer,
};

/// Whom Meeting may talk to.
#[derive(Clone)]
pub struct MeetingLinks {
    /// RoomState: which rooms are shared with a server.
    pub read_shared: Recipient<ReadShared>,
    /// RoomState: which servers are in a room.
    pub read_servers: Recipient<ReadServers>,
    /// RoomState: which of some are.
    pub sift_shared: Recipient<SiftShared>,
    /// RoomState: events for a room.
    pub take_missing: Recipient<Briefly<TakeMissing>>,
    /// RoomState: our users who were shown out of a room.
    pub take_departure: Recipient<Briefly<TakeDeparture>>,
    /// RoomState: what a room fetches by itself.
    pub follow_heads: Recipient<Briefly<FollowHeads>>,
    /// RoomState: a page of history of a room.
    pub fetch_history: Recipient<Briefly<FetchHistory>>,
    /// Store.
    pub read_heads: Recipient<store::ReadHeads>,
    /// Store: what nobody else is known to have.
    pub find_unspread: Recipient<store::FindUnspread>,
    /// Store: what others have.
    pub write_rows: Recipient<store::WriteRows>,
    /// Store.
    pub read_departures: Recipient<store::ReadDepartures>,
    /// Store.
    pub find_lacking: Recipient<store::FindLacking>,
    /// Store.
    pub read_missing: Recipient<store::ReadMissing>,
    /// Store.
    pub missing_walk: Recipient<store::MissingWalk>,
    /// Store.
    pub read_events: Recipient<store::ReadEvents>,
    /// Store.
    pub sift_ids: Recipient<store::SiftIds>,
    /// Store.
    pub find_gaps: Recipient<store::FindGaps>,
    /// Store.
    pub find_gap: Recipient<store::FindGap>,
    /// RelayRequest.
    pub federation: Recipient<SendFederation>,
    /// Outbox: who is reached through others.
    pub reached: Recipient<ServerReached>,
    /// Outbox: what nobody else has.
    pub owe: Recipient<Owe>,
    /// Outbox: what somebody has.
    pub settle: Recipient<EventsSpread>,
    /// Identity.
    pub find_keys: Recipient<FindServerKeys>,
    /// Event ids.
    pub cpu: Cpu,
}

/// Owns what is known of the servers that we meet.
pub struct MeetingActor {
    pub(super) links: MeetingLinks,
    pub(super) signer: Option<Arc<Signer>>,
    /// Servers with which a joined room is shared.
    pub(super) shared: HashSet<OwnedServerName>,
    /// Servers that are met: those that are connected, and those that others carry to.
    pub(super) online: Meetings,
    /// Members' servers that are not connected.
    pub(super) distant: Distant,
    /// What members' servers announced.
    pub(super) heard: Heard,
    /// Rooms with something of ours that nobody else is known to have.
    pub(super) unspread: Unspread,
    /// What servers told of their heads last.
    pub(super) held: Held,
    /// Servers for which it is being looked what they lack.
    pub(super) walking: HashSet<OwnedServerName>,
    /// Fetches what is missing here.
    pub(super) catch_up: Option<Addr<CatchUpActor>>,
    /// When the newest bundle of our users' keys was signed.
    pub(super) keys_ts: Option<u64>,
    /// DeviceKeys: when those of others were.
    pub(super) keys_heard: Option<Recipient<KeysHeard>>,
}

impl MeetingActor {
    /// Makes the actor; `carried` tells the rooms who is reached through others alone.
    pub fn new(links: MeetingLinks, carried: watch::Sender<Carried>) -> Self {
        Self {
            links,
            signer: None,
            shared: HashSet::new(),
            online: Meetings::default(),
            distant: Distant::new(carried),
            heard: Heard::default(),
            unspread: Unspread::default(),
            held: Held::default(),
            walking: HashSet::new(),
            catch_up: None,
            keys_ts: None,
            keys_heard: None,
        }
    }
}

impl MeetingLinks {
    /// Tells which of some rooms are shared with a server.
    pub(super) async fn sift(
        &self,
        server: &OwnedServerName,
        room_ids: Vec<OwnedRoomId>,
    ) -> Result<SiftedRooms, RoomError> {
        let sift = SiftShared { server: server.clone(), room_ids };
        self.sift_shared.send(sift).await.map_err(|error| RoomError::Ask(error.into()))
    }

    /// Leaves those of some rooms that are shared with a server.
    pub(super) async fn keep_shared<T>(
        &self,
        server: &OwnedServerName,
        rooms: &mut BTreeMap<OwnedRoomId, T>,
    ) -> Result<(), RoomError> {
        let sifted = self.sift(server, rooms.keys().cloned().collect()).await?;
        rooms.retain(|room_id, _| sifted.shared.contains(room_id));
        Ok(())
    }
}

impl Actor for MeetingActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::MAILBOX);
        ctx.run_interval(LOOK_EVERY, |act, ctx| {
            act.look_for_absent(ctx);
            act.look_for_unspread(ctx);
        });
        let links = CatchUpLinks {
            federation: self.links.federation.clone(),
            find_lacking: self.links.find_lacking.clone(),
            sift_ids: self.links.sift_ids.clone(),
            find_gaps: self.links.find_gaps.clone(),
            find_gap: self.links.find_gap.clone(),
            take_in: ctx.address().recipient(),
            fill: ctx.address().recipient(),
            cpu: self.links.cpu.clone(),
        };
        self.catch_up = Some(CatchUpActor::new(links).start());
    }
}

impl Handler<UseSigner> for MeetingActor {
    type Result = ();

    fn handle(&mut self, UseSigner(signer): UseSigner, _: &mut Self::Context) {
        self.signer = Some(signer);
    }
}

impl Handler<TellKeys> for MeetingActor {
    type Result = ();

    fn handle(&mut self, TellKeys(heard): TellKeys, _: &mut Self::Context) {
        self.keys_heard = Some(heard);
    }
}

impl Handler<KeysIssued> for MeetingActor {
    type Result = ();

    fn handle(&mut self, KeysIssued(at): KeysIssued, _: &mut Self::Context) {
        self.keys_ts = self.keys_ts.max(Some(at));
    }
}

impl Handler<SharesTurned> for MeetingActor {
    type Result = ();

    fn handle(&mut self, msg: SharesTurned, ctx: &mut Self::Context) {
        let SharesTurned { gained, lost, at_start, entered } = msg;
        for server in &lost {
            self.shared.remove(server);
            self.held.forget(server);
        }
        self.shared.extend(gained.iter().cloned());
        for server in &gained {
            self.plan_meeting(server, ctx);
        }
        for server in &entered {
            self.compare_soon(server, Reason::Lost, ctx);
        }
        self.miss(&gained, if at_start.is_empty() { AFTER_CHANGE } else { AFTER_START });
        // What was said before the start may be nowhere else.
        for room_id in at_start {
            self.unspread.said(room_id, uptime_ms());
        }
    }
}

impl Handler<TakeIn> for MeetingActor {
    type Result = ResponseFuture<Result<(), RoomError>>;

    fn handle(&mut self, msg: TakeIn, _: &mut Self::Context) -> Self::Result {
        let TakeIn { room_id, server_name, pdus } = msg;
        let message = TakeMissing { server_name, pdus };
        let take = self.links.take_missing.clone();
        Box::pin(async move { ask(&take, Briefly(ToRoom { room_id, message })).await? })
    }
}

impl Handler<FillGap> for MeetingActor {
    type Result = ResponseFuture<Result<bool, RoomError>>;

    fn handle(&mut self, msg: FillGap, _: &mut Self::Context) -> Self::Result {
        let FillGap { room_id, before } = msg;
        let message = FetchHistory { before };
        let fetch = self.links.fetch_history.clone();
        Box::pin(async move { ask(&fetch, Briefly(ToRoom { room_id, message })).await? })
    }
}
