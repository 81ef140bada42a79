//! Carries out what is known of connections that may be dead (`peers/alive.rs`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, swarm::dial_opts::PeerCondition};

use super::{
    super::{
        address::{self, Reach},
        peers::{After, Ask},
        pulse::Beaten,
        reachability::ip_of,
    },
    Discovery, EventLoop,
};

/// Ticks between two looks at who is deaf: it takes a walk over all topics of all peers.
const DEAF_TICKS: u32 = 4;
/// Ways into the network are tried again this soon after it changed.
const CHANGED: Duration = Duration::from_millis(500);

/// Returns the address of ours from which a connection comes, as far as that can be told.
pub(super) fn source_of(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    if endpoint.is_relayed() {
        return None;
    }
    if let ConnectedPoint::Listener { local_addr, .. } = endpoint
        && let Some(ip) = ip_of(local_addr).filter(|ip| !ip.is_unspecified())
    {
        return Some(ip);
    }
    route_to(ip_of(endpoint.get_remote_address())?)
}

/// Asks the system from which address it would send there. Nothing is sent.
fn route_to(target: IpAddr) -> Option<IpAddr> {
    const ANY_PORT: u16 = 9;
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::from((target, ANY_PORT))).ok()?;
    socket.local_addr().ok().map(|at| at.ip())
}

impl EventLoop {
    /// Asks connections whose turn it is, and dials members that answer on none.
    pub(super) fn feel_pulses(&mut self, now: Instant) {
        for ask in self.peers.due(now) {
            self.ask_pulse(ask);
        }
        let Some((id, addresses)) = self.peers.silent_member(now, rand::random) else { return };
        if let Err(error) = self.connect(id, addresses, PeerCondition::Always) {
            log::debug!(peer:% = id, error:%; "cannot dial a member that is silent");
        }
    }

    /// Asks all connections of a peer, soon to be answered.
    pub(super) fn doubt(&mut self, id: &PeerId) {
        for ask in self.peers.doubt(id, Instant::now()) {
            self.ask_pulse(ask);
        }
    }

    fn ask_pulse(&mut self, Ask { peer, connection, beat }: Ask) {
        self.swarm.behaviour_mut().pulse.beat(peer, connection, beat);
    }

    pub(super) fn on_beaten(&mut self, beaten: &Beaten) {
        match self.peers.beaten(beaten, Instant::now(), rand::random()) {
            Some(After::Ask(ask)) => self.ask_pulse(ask),
            Some(After::Close(address)) => {
                log::debug!(peer:% = beaten.peer, address:%; "closing a dead connection");
                self.swarm.close_connection(beaten.connection);
            }
            None => {}
        }
    }

    /// An address is ours no longer: what was connected from it is dead, and is made anew from what
    /// is left.
    pub(super) fn address_lost(&mut self, at: &Multiaddr) {
        let Some(ip) = ip_of(at).filter(|_| address::reach(at) != Reach::Relayed) else { return };
        let dead = self.peers.come_from(ip);
        if !dead.is_empty() {
            log::info!("the address {ip} is gone; connecting anew what was connected from it");
        }
        for connection in dead {
            self.swarm.close_connection(connection);
        }
    }

    /// We are in another network, or in one more: whoever was lost may be there.
    pub(super) fn hurry_all(&mut self, now: Instant) {
        self.reunions.hurry(now);
        for anchor in &mut self.anchors {
            anchor.backoff.hurry(now, CHANGED);
        }
        for relay in &mut self.relays {
            relay.hurry(now, CHANGED);
        }
    }

    /// Begins anew with members that gossip with us and share no topic with us.
    pub(super) fn mend_gossip(&mut self, now: Instant) {
        if !self.ticks.is_multiple_of(DEAF_TICKS) {
            return;
        }
        let deaf = self.swarm.behaviour().gossip.deaf();
        for id in self.peers.too_deaf(&deaf, now) {
            log::info!("nothing is heard of the rooms of node {id}; connecting it anew");
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    /// A connection beside others was lost: where it was dead, the peer could not be told over it, and
    /// would go on sending there.
    pub(super) fn tell_loss(&mut self, id: PeerId) {
        if self.peers.is_ours(&id) {
            self.swarm.behaviour_mut().identify.push([id]);
        }
    }

    /// A connection beside others was made or lost: what was said meanwhile may have gone astray.
    pub(super) fn path_changed(&mut self, id: PeerId) {
        if self.peers.is_ours(&id) {
            self.news(Discovery::PathChanged(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_known_by_the_address_that_they_come_from() {
        let remote: Multiaddr = "/ip4/127.0.0.9/udp/4848/quic-v1".parse().unwrap();
        let local: Multiaddr = "/ip4/10.0.0.7/tcp/4848".parse().unwrap();
        let listener = |local_addr: &Multiaddr| ConnectedPoint::Listener {
            local_addr: local_addr.clone(),
            send_back_addr: remote.clone(),
        };
        assert_eq!(source_of(&listener(&local)), Some(Ipv4Addr::new(10, 0, 0, 7).into()));
        // QUIC says nothing, and the system does.
        let any = "/ip4/0.0.0.0/udp/4848/quic-v1".parse().unwrap();
        assert_eq!(source_of(&listener(&any)), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
