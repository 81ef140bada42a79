//! Carries out what leads from a relayed connection to a direct one (`peers/upgrade.rs`): dialling
//! back, hole punching, and giving the circuit up.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    dcutr,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    super::{Way, peers::Arrival},
    EventLoop,
};

impl EventLoop {
    /// Tells how a new connection came about.
    pub(super) fn way_of(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) -> Way {
        let back = self.dials_back.remove(&connection);
        let arrival = match () {
            () if endpoint.is_relayed() => Arrival::Relayed,
            () if back => Arrival::DialledBack,
            () if endpoint.is_dialer() => Arrival::Dialled,
            () => Arrival::Received,
        };
        self.peers.way_of(peer, arrival, self.visibility)
    }

    /// Hole punching succeeded, or did not.
    pub(super) fn on_dcutr(&mut self, event: &dcutr::Event) {
        let peer = event.remote_peer_id;
        match &event.result {
            Ok(connection) => self.peers.punched(&peer, *connection),
            Err(error) => log::debug!(peer:%, error:%; "no hole could be punched"),
        }
    }

    /// Calls a peer back that is connected through a relay alone, where it says that it is.
    pub(super) fn dial_back(&mut self, id: PeerId) {
        let Some(addresses) = self.peers.call_back(&id, Instant::now()) else { return };
        if let Some(connection) = self.dial_beside(id, addresses) {
            self.dials_back.insert(connection);
        }
    }

    /// Makes new circuits where a hole is to be punched anew.
    pub(super) fn punch_again(&mut self, now: Instant) {
        for (id, address) in self.peers.new_circuits(now, rand::random) {
            self.dial_beside(id, vec![address]);
        }
    }

    /// Dials a peer beside the connections that there are.
    fn dial_beside(&mut self, id: PeerId, addresses: Vec<Multiaddr>) -> Option<ConnectionId> {
        let options =
            DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => Some(connection),
            Err(error) => {
                log::debug!(peer:% = id, error:%; "cannot dial a better connection");
                None
            }
        }
    }

    /// Closes connections that are not needed beside a better one.
    pub(super) fn give_up(&mut self, now: Instant) {
        let me = *self.swarm.local_peer_id();
        let not_needed = self.peers.not_needed(&me, now);
        for peer in not_needed.ripe {
            self.hold_back(peer, now);
        }
        for connection in not_needed.close {
            log::debug!(connection:%; "closing a connection that is not needed any more");
            self.swarm.close_connection(connection);
        }
    }

    /// Says how members are connected where that changes.
    pub(super) fn tell_ways(&mut self) {
        for (id, way) in self.peers.changed_ways(Instant::now()) {
            log::info!("how node {id} is connected now: {way}");
        }
    }
}
