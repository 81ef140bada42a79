//! The wiring of the four actors of the network, on an Arbiter of their own.
//!
//! The Arbiter has a runtime with several threads: the actors share one of them, libp2p's
//! connections use the others.

use std::{path::PathBuf, sync::Arc};

use actix::prelude::*;

use super::{
    admission::Admission,
    cpu::Cpu,
    gossip::{DeliverTo, GossipActor, GossipParts},
    identity,
    relay_request::{AnswerWith, CarryWith, InboundRequest, RelayRequestActor, RelayRequestParts},
    rendezvous::{AskWith, RendezvousActor, RendezvousParts},
    store::{ScanRows, WriteRows},
    swarm::{
        self, Bind, GivePiecesWith, NodeKey, StopSwarm, SwarmActor, SwarmFailed, SwarmSettings,
    },
};
use crate::{
    actors::{
        identity::KeysSeen,
        upward::{ServerOffline, ServerOnline},
    },
    config::Config,
    meters::Meters,
    proto::{delegation::Generations, signer::Signer},
};
use tokio::sync::watch;

/// Threads for connections, besides that of the actors.
const WORKERS: usize = 2;

/// What the network is made of.
pub struct NetworkParts<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// From [`swarm::load_or_create_key`].
    pub keypair: NodeKey,
    /// The data folder, for what the network writes down itself.
    pub data: Option<PathBuf>,
    /// The processor pool.
    pub cpu: Cpu,
    /// The work budget for what others send.
    pub admission: Admission,
    /// What is counted.
    pub meters: Meters,
    /// Store.
    pub write_rows: Recipient<WriteRows>,
    /// Store.
    pub scan_rows: Recipient<ScanRows>,
    /// Identity.
    pub keys_seen: Recipient<KeysSeen>,
    /// Identity: of which generation servers are.
    pub generations: watch::Receiver<Generations>,
    /// RoomState.
    pub server_online: Recipient<ServerOnline>,
    /// RoomState.
    pub server_offline: Recipient<ServerOffline>,
    /// Whoever ends the node: a configured address cannot be listened on.
    pub failed: Recipient<SwarmFailed>,
}

/// The running network. It listens and dials once it was given a signer.
#[derive(Debug)]
pub struct Network {
    /// Owns the libp2p node.
    pub swarm: Addr<SwarmActor>,
    /// Takes topics and publications.
    pub gossip: Addr<GossipActor>,
    /// Finds servers and people.
    pub rendezvous: Addr<RendezvousActor>,
    /// Asks other servers.
    pub relay_request: Addr<RelayRequestActor>,
    /// The PeerId of this node, as it goes into server_keys.
    pub peer_id: String,
    arbiter: Arbiter,
}

/// Starts the network.
pub fn start(parts: NetworkParts<'_>) -> std::io::Result<Network> {
    let NetworkParts { config, keypair, cpu, admission, keys_seen, generations, .. } = parts;
    let peer_id = swarm::peer_id(&keypair);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("net")
        .enable_all()
        .build()?;
    let arbiter = Arbiter::with_tokio_rt(move || runtime);
    let handle = arbiter.handle();

    let settings = SwarmSettings::new(config, keypair, parts.failed).with_data(parts.data);
    let settings = settings.with_meters(parts.meters.clone());
    let swarm = Supervisor::start_in_arbiter(&handle, move |_| SwarmActor::new(settings));

    let gossip_parts = GossipParts {
        cpu: cpu.clone(),
        admission: admission.clone(),
        keys_seen: keys_seen.clone(),
        generations: generations.clone(),
        subscribe: swarm.clone().recipient(),
        unsubscribe: swarm.clone().recipient(),
        publish: swarm.clone().recipient(),
        report: swarm.clone().recipient(),
        meshes: swarm.clone().recipient(),
        meters: parts.meters,
    };
    let gossip = Supervisor::start_in_arbiter(&handle, move |_| GossipActor::new(gossip_parts));

    let rendezvous_parts = RendezvousParts {
        cpu: cpu.clone(),
        advertise: config.libp2p.dht.advertise,
        keys_seen: keys_seen.clone(),
        server_online: parts.server_online,
        server_offline: parts.server_offline,
        write_rows: parts.write_rows,
        scan_rows: parts.scan_rows,
        verified: gossip.clone().recipient(),
        forgotten: gossip.clone().recipient(),
        set_identity: swarm.clone().recipient(),
        exchange: swarm.clone().recipient(),
        keep: swarm.clone().recipient(),
        admit: swarm.clone().recipient(),
        dismiss: swarm.clone().recipient(),
        dial: swarm.clone().recipient(),
        find_providers: swarm.clone().recipient(),
        find_node: swarm.clone().recipient(),
        provide: swarm.clone().recipient(),
        read: swarm.clone().recipient(),
    };
    let rendezvous =
        Supervisor::start_in_arbiter(&handle, move |_| RendezvousActor::new(rendezvous_parts));

    let relay_parts = RelayRequestParts {
        cpu,
        admission,
        keys_seen,
        generations,
        resolve: rendezvous.clone().recipient(),
        proven: rendezvous.clone().recipient(),
        send: swarm.clone().recipient(),
        reply: swarm.clone().recipient(),
    };
    let relay_request =
        Supervisor::start_in_arbiter(&handle, move |_| RelayRequestActor::new(relay_parts));

    rendezvous.do_send(AskWith {
        federation: relay_request.clone().recipient(),
        clock_seen: relay_request.clone().recipient(),
    });
    swarm.do_send(Bind {
        gossip: gossip.clone().recipient(),
        requests: relay_request.clone().recipient(),
        discovery: rendezvous.clone().recipient(),
        restarted: vec![gossip.clone().recipient(), rendezvous.clone().recipient()],
    });
    Ok(Network { swarm, gossip, rendezvous, relay_request, peer_id, arbiter })
}

impl Network {
    /// Sets who takes gossip and who answers other servers. Called once, before the first signer.
    pub fn bind(&self, deliver: DeliverTo, answer: Recipient<InboundRequest>) {
        self.gossip.do_send(deliver);
        self.relay_request.do_send(AnswerWith(answer));
    }

    /// Sets who gives pieces of media to others.
    pub fn give_pieces(&self, with: GivePiecesWith) {
        self.swarm.do_send(with);
    }

    /// Sets who knows what carrying requests for others needs. Without it, nothing is carried.
    pub fn carry(&self, with: CarryWith) {
        self.relay_request.do_send(with);
    }

    /// Hands a signer to all who sign; the first one starts listening and dialling.
    pub fn use_signer(&self, signer: &Arc<Signer>) {
        self.gossip.do_send(identity::UseSigner(Arc::clone(signer)));
        self.relay_request.do_send(identity::UseSigner(Arc::clone(signer)));
        // Last: from here on others may ask.
        self.rendezvous.do_send(identity::UseSigner(Arc::clone(signer)));
    }

    /// Closes all connections and ends the actors.
    pub async fn stop(self) {
        let _ = self.swarm.send(StopSwarm).await;
        self.arbiter.stop();
    }
}
