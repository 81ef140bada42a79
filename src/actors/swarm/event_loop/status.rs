//! What `status` tells.

use std::time::Instant;

use libp2p::PeerId;

use super::{
    super::{NetworkStatus, PeerStatus, PortMapping, Reachability, RelayStatus, address},
    EventLoop, Visibility,
    address::Reach,
};

impl EventLoop {
    pub(super) fn status(&mut self) -> NetworkStatus {
        let dht = self.dht_status();
        let now = Instant::now();
        let silent = |peer: &PeerId| self.peers.get(peer).is_none_or(|peer| peer.is_silent(now));
        let behaviour = self.swarm.behaviour();
        let gate = &behaviour.gossip;
        let peers = self.peers.iter().filter(|(_, peer)| peer.ours).filter_map(|(id, peer)| {
            let best = peer.best(now)?;
            Some(PeerStatus {
                peer_id: id.to_string(),
                server_name: None,
                address: best.address.clone(),
                way: best.way,
                relayed: best.relayed(),
                relay: address::relay_of(&best.address).map(|relay| relay.to_string()),
                near: matches!(address::reach(&best.address), Reach::Private | Reach::Loopback),
                gossips: gate.is_admitted(id),
                answers: !peer.is_silent(now),
                rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            })
        });
        let mut external: Vec<_> =
            self.swarm.external_addresses().map(address::without_peer).collect();
        external.sort();
        external.dedup();
        NetworkStatus {
            peer_id: self.swarm.local_peer_id().to_string(),
            listen_addresses: self.swarm.listeners().cloned().collect(),
            external_addresses: external,
            confirmed_addresses: self.reach.direct(),
            reachability: self.reachability(),
            nat: self.nat,
            port_mapping: self.port_mapping(),
            relays: self.relays_in_use().collect(),
            topics: gate.topics(silent),
            peers: peers.collect(),
            strangers: self.swarm.behaviour().door.strangers(),
            dht,
        }
    }

    fn reachability(&self) -> Reachability {
        if self.visibility > Visibility::Hidden {
            return Reachability::Public;
        }
        if self.relays.iter().any(|relay| relay.accepted) {
            return Reachability::Relayed;
        }
        let told = self.settings.network.is_some()
            || self.reach.was_observed()
            || self.swarm.listeners().any(|at| address::reach(at) == Reach::Private);
        if told { Reachability::Private } else { Reachability::Unknown }
    }

    fn port_mapping(&self) -> PortMapping {
        let mapping = self.swarm.behaviour().port_mapping.as_ref();
        mapping.map(|mapping| mapping.status(Instant::now())).unwrap_or_default()
    }

    fn relays_in_use(&self) -> impl Iterator<Item = RelayStatus> {
        self.relays.iter().filter(|relay| relay.accepted).map(|relay| RelayStatus {
            peer_id: relay.peer.to_string(),
            address: relay.address.clone(),
            kind: relay.kind,
        })
    }
}
