//! Whether connections are alive, and what is done where one is not.
//!
//! A connection can be dead for long before the system says so: a cut that began on one side, a peer
//! that was killed and is back, an address that is ours no longer. What goes over it is lost, and the
//! library chooses among several connections without asking. Invariants: only nodes of our kind are
//! asked; a connection that answers is never closed here, but for what came from a lost address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    swarm::{ConnectionId, dial_opts::PeerCondition},
};
use rand::seq::IteratorRandom as _;

use super::{
    super::{
        address::{self, Reach},
        pulse::{Beat, Beaten},
        reachability::ip_of,
        schedule::jittered,
    },
    Connection, Discovery, EventLoop, Peer,
};

/// How often each connection to a node of our kind is asked whether it is alive.
const EVERY: Duration = Duration::from_secs(5);
/// How long the answer may take: a slow line may be full of something large, and whoever is merely busy
/// would be the busier for having to connect anew.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where the peer has another connection, so that little is lost.
const PATIENCE_BESIDE: Duration = Duration::from_secs(3);
/// The same where there is a reason to doubt it: the peer has just come by another one, or lost one.
const DOUBT: Duration = Duration::from_millis(1500);
/// The same where it has not answered for as long already.
const DOUBT_SILENT: Duration = Duration::from_millis(500);
/// After this without an answer, `status` says so.
const SILENT: Duration = Duration::from_secs(2);
/// How often a member that is silent is dialled beside its connections.
const BESIDE: Duration = Duration::from_secs(2);
/// After so long between two ticks it is we who were silent.
const BUSY: Duration = Duration::from_secs(1);
/// A member that shares no topic with us for so long, with nothing under way, has lost ours, or we
/// its: both begin anew.
const DEAF: Duration = Duration::from_secs(5);
/// The same peer is not disconnected for that again before this, doubling: it may have left our rooms
/// and not be able to say so.
const DEAF_AGAIN: Duration = Duration::from_secs(60);
const DEAF_RAREST: Duration = Duration::from_secs(60 * 60);
/// Peers that are remembered for it.
const DEAF_MAX: usize = 256;
/// Ticks between two looks at who is deaf: it takes a walk over all topics of all peers.
const DEAF_TICKS: u32 = 4;
/// Ways into the network are tried again this soon after it changed.
const CHANGED: Duration = Duration::from_millis(500);

/// A member that shares no topic with us.
#[derive(Debug)]
pub(super) struct Deaf {
    since: Instant,
    /// It is not disconnected before this.
    next: Instant,
    wait: Duration,
}

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

/// Tells whether a connection may be alive though a beat did not come back: where the peer answers on
/// no other one either, it may just be busy.
fn is_alive(asked: Instant, answered_on_others: Option<Instant>, now: Instant) -> bool {
    answered_on_others.is_none_or(|at| at <= asked) && now.duration_since(asked) < PATIENCE
}

/// How long a connection has left to answer that there is a reason to doubt.
fn doubted_for(asked: Option<Instant>, now: Instant) -> Duration {
    let silent = asked.is_some_and(|since| now.duration_since(since) >= DOUBT);
    if silent { DOUBT_SILENT } else { DOUBT }
}

impl Connection {
    /// Tells whether what was asked last waits for an answer for too long to call it alive.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.asked.is_some_and(|since| now.duration_since(since) >= SILENT)
    }
}

impl Peer {
    /// Tells whether it is asked all the time: members are, and others that the library could ask on a
    /// dead connection beside a good one.
    fn counts(&self) -> bool {
        self.ours && (self.admitted.is_some() || self.connections.len() > 1)
    }

    /// Tells whether none of its connections answers.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.connections.iter().all(|open| open.is_silent(now))
    }
}

impl EventLoop {
    /// Asks connections whose turn it is, and dials members that answer on none.
    pub(super) fn feel_pulses(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.counts()) {
            let within = if peer.connections.len() > 1 { PATIENCE_BESIDE } else { PATIENCE };
            let open = peer.connections.iter();
            let open = open.filter(|open| open.asked.is_none() && open.ask_due <= now);
            due.extend(open.map(|open| (*id, open.id, within)));
        }
        for (peer, connection, within) in due {
            self.beat(peer, connection, within, now);
        }
        self.connect_beside(now);
    }

    /// Dials a member that answers on none of its connections. They may come back to life; but after a
    /// cut of some seconds TCP and QUIC wait for as long again before they try, and a new one is there at
    /// once. One member at a time: where all are silent it is our network that is cut, or we are busy.
    fn connect_beside(&mut self, now: Instant) {
        if now.duration_since(self.ticked) >= BUSY {
            self.beside_due = now + SILENT;
        }
        self.ticked = now;
        if now < self.beside_due {
            return;
        }
        let members = self.peers.iter().filter(|(_, peer)| peer.ours && peer.admitted.is_some());
        let silent = members.filter(|(_, peer)| peer.is_silent(now));
        let chosen = silent.choose(&mut rand::rng());
        let Some((id, addresses)) = chosen.map(|(id, peer)| (*id, peer.addresses.clone())) else {
            return;
        };
        self.beside_due = now + jittered(BESIDE, rand::random());
        if let Err(error) = self.connect(id, addresses, PeerCondition::Always) {
            log::debug!(peer:% = id, error:%; "cannot dial a member that is silent");
        }
    }

    /// Asks all connections of a peer but one, soon to be answered.
    pub(super) fn doubt(&mut self, id: &PeerId, except: Option<ConnectionId>) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.ours) else { return };
        let now = Instant::now();
        let open = peer.connections.iter().filter(|open| Some(open.id) != except);
        let doubted: Vec<_> = open.map(|open| (open.id, doubted_for(open.asked, now))).collect();
        for (connection, within) in doubted {
            self.beat(*id, connection, within, now);
        }
    }

    fn beat(&mut self, id: PeerId, connection: ConnectionId, within: Duration, now: Instant) {
        if self.closing.contains(&connection) {
            return;
        }
        let open = self.peers.get_mut(&id).map(|peer| peer.connections.iter_mut());
        let Some(open) = open.into_iter().flatten().find(|open| open.id == connection) else {
            return;
        };
        open.asked.get_or_insert(now);
        // QUIC finds by itself how large a packet may be, and a circuit has its own limits.
        let wide = address::is_plain_tcp(&open.address);
        self.swarm.behaviour_mut().pulse.beat(id, connection, Beat { wide, within });
    }

    pub(super) fn on_beaten(&mut self, Beaten { peer: id, connection, took }: Beaten) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let now = Instant::now();
        let others = peer.connections.iter().filter(|open| open.id != connection);
        let last_of_others = others.filter_map(|open| open.answered).max();
        let Some(open) = peer.connections.iter_mut().find(|open| open.id == connection) else {
            return;
        };
        match (took, open.asked) {
            (Some(took), _) => {
                open.asked = None;
                open.ask_due = now + jittered(EVERY, rand::random());
                open.answered = Some(now);
                peer.rtt = Some(took);
            }
            (None, Some(since)) if is_alive(since, last_of_others, now) => {
                self.beat(id, connection, DOUBT, now);
            }
            (None, _) => {
                log::debug!(peer:% = id, address:% = open.address; "closing a dead connection");
                self.swarm.close_connection(connection);
            }
        }
    }

    /// An address is ours no longer: what was connected from it is dead, and is made anew from what
    /// is left.
    pub(super) fn address_lost(&mut self, at: &Multiaddr) {
        let Some(ip) = ip_of(at).filter(|_| address::reach(at) != Reach::Relayed) else { return };
        let all = self.peers.values().flat_map(|peer| &peer.connections);
        let dead: Vec<ConnectionId> =
            all.filter(|open| open.from == Some(ip)).map(|open| open.id).collect();
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
        self.deaf.retain(|peer, known| deaf.contains(peer) || known.next > now);
        for id in deaf {
            if self.deaf.len() >= DEAF_MAX && !self.deaf.contains_key(&id) {
                continue;
            }
            let new = Deaf { since: now, next: now, wait: DEAF_AGAIN };
            let known = self.deaf.entry(id).or_insert(new);
            let Some(peer) = self.peers.get(&id) else { continue };
            let calm = !self.work.contains_key(&id)
                && peer.calm_since.is_some_and(|since| now.duration_since(since) >= DEAF);
            let admitted = peer.admitted.is_some_and(|at| now.duration_since(at) >= DEAF);
            if !(calm && admitted && now.duration_since(known.since) >= DEAF && known.next <= now) {
                continue;
            }
            known.next = now + known.wait;
            known.wait = (known.wait * 2).min(DEAF_RAREST);
            log::info!("nothing is heard of the rooms of node {id}; connecting it anew");
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    /// A connection beside others was lost: where it was dead, the peer could not be told over it, and
    /// would go on sending there.
    pub(super) fn tell_loss(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| peer.ours) {
            self.swarm.behaviour_mut().identify.push([id]);
        }
    }

    /// A connection beside others was made or lost: what was said meanwhile may have gone astray.
    pub(super) fn path_changed(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| peer.ours) {
            self.news(Discovery::PathChanged(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_dead_where_another_answers_or_none_does_for_long() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for (answered_on_others, now, alive) in [
            (Some(1200), 2500, false),
            (Some(900), 2500, true),
            (None, 2500, true),
            (None, 1000 + 19_999, true),
            (None, 1000 + 20_000, false),
            (Some(900), 1000 + 20_000, false),
        ] {
            let answered = answered_on_others.map(at);
            assert_eq!(
                is_alive(at(1000), answered, at(now)),
                alive,
                "{answered_on_others:?} {now}"
            );
        }
    }

    #[test]
    fn who_has_been_silent_already_has_less_time_left() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for (asked, now, left) in [
            (None, 9000, DOUBT),
            (Some(9000), 9000, DOUBT),
            (Some(7501), 9000, DOUBT),
            (Some(7500), 9000, DOUBT_SILENT),
        ] {
            assert_eq!(doubted_for(asked.map(at), at(now)), left, "{asked:?}");
        }
    }

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
