//! Asking all who know what the page shows.
//!
//! Invariant: what costs much is asked for where it changed: what a room looks like, when its heads are others
//! than at the last look; the disk, every 30 s.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use actix::Recipient;
use ruma::{OwnedRoomId, OwnedServerName, events::room::member::MembershipState};

use super::disk::{Disk, database_bytes};
use crate::{
    actors::{
        admission::Admission,
        clock::uptime_ms,
        gossip::ReadRoomMeshes,
        meeting::{CountHolders, Holders},
        outbox::{OutboxStatus, ReadOutbox},
        room_state::{ListRooms, ReadServers, ServersIn},
        store::{ReadFaces, ReadHeads, RoomFace},
        swarm::ReadQueues,
    },
    config::limits,
    meters::Meters,
    metrics::Figures,
    proto::heads::fingerprint,
    status::{self, Status, StatusLinks},
};

/// How often the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(30);

/// Whom the page asks.
#[derive(Clone)]
pub struct StatusPageLinks {
    /// All who know what the node is at.
    pub status: StatusLinks,
    /// Outbox: what is owed.
    pub outbox: Recipient<ReadOutbox>,
    /// RoomState: the owner's rooms.
    pub list_rooms: Recipient<ListRooms>,
    /// RoomState: who is in which.
    pub read_servers: Recipient<ReadServers>,
    /// Store: how far each room is.
    pub read_heads: Recipient<ReadHeads>,
    /// Store: what it looks like.
    pub read_faces: Recipient<ReadFaces>,
    /// Meeting: who else has it.
    pub holders: Recipient<CountHolders>,
    /// Gossip: through whom it is said.
    pub meshes: Recipient<ReadRoomMeshes>,
    /// Swarm: what waits there.
    pub queues: Recipient<ReadQueues>,
    /// The work of clients.
    pub of_clients: Admission,
    /// The work of others.
    pub of_others: Admission,
    /// The folder with the node's data.
    pub data: PathBuf,
}

/// What is known from the look before.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What rooms look like, with the fingerprint of the heads that they had.
    faces: HashMap<OwnedRoomId, (String, RoomFace)>,
    disk: Option<(Instant, Disk)>,
}

/// One room.
#[derive(Debug, Clone)]
pub(super) struct RoomLook {
    pub(super) face: RoomFace,
    /// The other servers in it, as far as they are counted.
    pub(super) servers: Vec<OwnedServerName>,
    pub(super) holders: Holders,
    /// PeerIds of those to whom we hand on what is said there.
    pub(super) mesh: Vec<String>,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) status: Status,
    pub(super) outbox: OutboxStatus,
    pub(super) rooms: Vec<RoomLook>,
    pub(super) disk: Disk,
}

/// Looks at everything. Fails with a line that names the part which does not answer.
pub(super) async fn look(
    links: &StatusPageLinks,
    known: &mut Known,
    now: Instant,
) -> Result<Look, String> {
    let status = status::read(&links.status).await?;
    let outbox = links.outbox.send(ReadOutbox).await.map_err(gone("Outbox"))?;
    let rooms = match &status.user_id {
        Some(user_id) => {
            let listed = links.list_rooms.send(ListRooms(user_id.clone())).await;
            let listed = listed.map_err(gone("RoomState"))?;
            let joined = listed.into_iter().filter(|(_, own)| *own == MembershipState::Join);
            let room_ids = joined.map(|(room_id, _)| room_id).take(limits::STATUS_ROOMS).collect();
            look_at_rooms(links, known, room_ids).await?
        }
        None => Vec::new(),
    };
    let disk = match known.disk {
        Some((at, disk)) if now.saturating_duration_since(at) < DISK_EVERY => disk,
        _ => {
            let data = links.data.clone();
            let looked = tokio::task::spawn_blocking(move || Disk::look(&data)).await;
            let disk = looked.map_err(|error| format!("the disk was not looked at: {error}"))?;
            known.disk = Some((now, disk));
            disk
        }
    };
    Ok(Look { status, outbox, rooms, disk })
}

/// Reads all figures.
pub(super) async fn figures(links: StatusPageLinks, meters: Meters) -> Result<Figures, String> {
    let status = status::read(&links.status).await?;
    let queues = links.queues.send(ReadQueues).await.map_err(gone("Swarm"))?;
    let data = links.data;
    let store_bytes = tokio::task::spawn_blocking(move || database_bytes(&data)).await;
    Ok(Figures {
        status,
        reading: meters.read(),
        clients: links.of_clients.count(),
        others: links.of_others.count(),
        queues,
        store_bytes: store_bytes.map_err(|error| error.to_string())?,
        uptime_ms: uptime_ms(),
    })
}

fn gone<E>(part: &'static str) -> impl Fn(E) -> String {
    move |_| format!("{part} is gone; this node ends")
}

async fn look_at_rooms(
    links: &StatusPageLinks,
    known: &mut Known,
    room_ids: Vec<OwnedRoomId>,
) -> Result<Vec<RoomLook>, String> {
    let failed = |error: crate::actors::store::StoreError| error.to_string();
    let heads = links.read_heads.send(ReadHeads(room_ids.clone())).await;
    let heads = heads.map_err(gone("Store"))?.map_err(failed)?;
    let prints: HashMap<OwnedRoomId, String> =
        heads.into_iter().map(|(room_id, heads)| (room_id, fingerprint(&heads))).collect();
    let is_known = |room_id: &OwnedRoomId| {
        known.faces.get(room_id).map(|(print, _)| print) == prints.get(room_id)
    };
    let changed: Vec<_> = prints.keys().filter(|room_id| !is_known(room_id)).cloned().collect();
    if !changed.is_empty() {
        let faces = links.read_faces.send(ReadFaces(changed)).await;
        for face in faces.map_err(gone("Store"))?.map_err(failed)? {
            if let Some(print) = prints.get(&face.room_id) {
                known.faces.insert(face.room_id.clone(), (print.clone(), face));
            }
        }
    }
    known.faces.retain(|room_id, _| prints.contains_key(room_id));
    let servers = links.read_servers.send(ReadServers(room_ids.clone())).await;
    let servers = servers.map_err(gone("RoomState"))?.into_iter();
    let mut servers: HashMap<OwnedRoomId, Vec<OwnedServerName>> =
        servers.map(|ServersIn { room_id, servers, .. }| (room_id, servers)).collect();
    let shown: Vec<(RoomFace, String, Vec<OwnedServerName>)> = room_ids
        .into_iter()
        .filter_map(|room_id| {
            let (print, face) = known.faces.get(&room_id)?.clone();
            Some((face, print, servers.remove(&room_id).unwrap_or_default()))
        })
        .collect();
    let asked = shown
        .iter()
        .map(|(face, print, servers)| (face.room_id.clone(), print.clone(), servers.clone()));
    let holders = links.holders.send(CountHolders(asked.collect())).await;
    let holders = holders.map_err(gone("Meeting"))?;
    let asked = shown.iter().map(|(face, ..)| face.room_id.clone()).collect();
    // While the network is built anew there is none.
    let meshes = links.meshes.send(ReadRoomMeshes(asked)).await.map_err(gone("Gossip"))?;
    let meshes = meshes.into_iter().chain(std::iter::repeat(Vec::new()));
    let rooms = shown.into_iter().zip(holders).zip(meshes);
    let room = |(((face, _, servers), holders), mesh)| RoomLook { face, servers, holders, mesh };
    Ok(rooms.map(room).collect())
}
