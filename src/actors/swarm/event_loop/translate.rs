//! What the Swarm says, in our words.

use std::{collections::HashMap, time::Instant};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, mdns, ping,
    swarm::{ConnectionId, DialError, SwarmEvent},
};

use super::{
    super::{
        address::Reach,
        behaviour::{AUTONAT, BehaviourEvent, HOP, IDENTITY, KAD_LAN, KAD_WAN},
        peers::{Connection, Identified, Told},
        pulse::PULSE,
    },
    Discovery, Event, EventLoop, GossipReceived, GossipTicket, address,
    alive::source_of,
};
use crate::actors::upward::TransactionVerdict;

/// Addresses of one mDNS answer that are dialled.
const MDNS_MAX: usize = 64;

impl EventLoop {
    pub(super) fn translate(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identity(event)) => self.on_identity(event),
            SwarmEvent::Behaviour(BehaviourEvent::Federation(event)) => self.on_federation(event),
            SwarmEvent::Behaviour(BehaviourEvent::Media(event)) => self.on_pieces(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::KadLan(event)) => self.on_lan(event),
            SwarmEvent::Behaviour(BehaviourEvent::KadWan(event)) => self.on_wan(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event) | BehaviourEvent::MdnsSix(event)) => {
                self.on_mdns(event)
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Pulse(event)) => self.on_beaten(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.on_relay(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Probe(event)) => self.on_probe(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => self.on_dcutr(&event),
            SwarmEvent::Behaviour(BehaviourEvent::PortMapping(event)) => {
                self.on_port_mapping(&event);
            }
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_confirmed(&address),
            SwarmEvent::ExternalAddrExpired { address } => self.on_expired(&address),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.dials_back.remove(&connection_id);
                self.measured(connection_id);
                if let Some(peer) = peer_id {
                    self.on_dial_error(peer, &error);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.relay_closed(listener_id);
                for address in addresses {
                    if address::reach(&address) != Reach::Relayed {
                        log::warn!(address:%, reason:?; "not listening any more");
                    }
                    self.on_not_listening(&address);
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                log::debug!(error:%; "a listener failed");
            }
            _ => {}
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => self.peers.answered(&event.peer, event.connection, rtt, Instant::now()),
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                // TCP would wait for a quarter of an hour, and requests with it.
                log::debug!(peer:% = event.peer, error:%; "closing a dead connection");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn on_connected(&mut self, id: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let at = endpoint.get_remote_address();
        self.on_met(id, endpoint);
        if endpoint.is_dialer() && !endpoint.is_relayed() {
            self.anchor_known(id, at);
        }
        self.found(&id, Instant::now());
        let way = self.way_of(&id, connection, endpoint);
        // Whoever comes a second time may have lost its end of the first.
        self.doubt(&id);
        let at = (at.clone(), endpoint.is_dialer());
        let open = Connection::new(connection, at, way, source_of(endpoint), Instant::now());
        self.peers.opened(id, open);
    }

    fn on_closed(&mut self, id: PeerId, connection: ConnectionId, remaining: u32) {
        let known = self.peers.closed(&id, connection, remaining);
        self.circuit_gone(id);
        if remaining > 0 {
            self.peers.direct_lost(&id, Instant::now());
            self.doubt(&id);
            self.tell_loss(id);
            return self.path_changed(id);
        }
        self.anchor_changed(id);
        // A proof counts for the connections that there were: it is asked for again on the next.
        self.swarm.behaviour_mut().gossip.dismiss(&id);
        if let Some(known) = &known {
            self.lost(id, known, Instant::now());
        }
        let ours = known.is_some_and(|peer| peer.ours);
        if self.wanted.remove(&id) {
            self.news(Discovery::DialFailed(id));
        } else if ours {
            self.news(Discovery::PeerGone(id));
        }
    }

    fn on_dial_error(&mut self, peer: PeerId, error: &DialError) {
        log::debug!(peer:%, error:%; "cannot connect");
        if matches!(error, DialError::DialPeerConditionFalse(_)) || self.swarm.is_connected(&peer) {
            return;
        }
        self.relay_unreachable(peer);
        self.dial_failed(peer);
    }

    fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, peer_id, info } = event else { return };
        let Some(at) = self.peers.connection(&peer_id, connection_id) else { return };
        let addresses = address::usable(&info.listen_addrs, &at.address, at.dialled);
        let (dialled, seen_from) = (at.dialled, at.address.clone());
        let direct = !at.relayed();
        let ours = info.protocols.contains(&IDENTITY);
        let known = self.peers.get(&peer_id).is_some_and(|peer| peer.identified.is_some());
        if ours && !known && !info.protocols.contains(&PULSE) {
            log::info!(
                "{peer_id} runs the first release of MessageHub, which hears what is said only minutes \
                 later; it has to be updated"
            );
        }
        let told = Told {
            ours,
            relays: info.protocols.contains(&HOP),
            tests: info.protocols.contains(&AUTONAT),
            addresses: addresses.clone(),
        };
        let identified = self.peers.identified(&peer_id, connection_id, told, Instant::now());
        let Some(Identified { first, beside }) = identified else { return };
        if ours {
            // For whoever sends requests to it when it is gone.
            for address in &addresses {
                self.swarm.add_peer_address(peer_id, address.clone());
            }
        }
        let behaviour = self.swarm.behaviour_mut();
        if info.protocols.contains(&KAD_LAN) {
            for address in &addresses {
                behaviour.kad_lan.add_address(&peer_id, address.clone());
            }
        }
        if let Some(kad) = behaviour.kad_wan.as_mut()
            && info.protocols.contains(&KAD_WAN)
        {
            for address in &addresses {
                kad.add_address(&peer_id, address.clone());
            }
        }
        if direct {
            self.on_observed(dialled, &seen_from, &info.observed_addr);
            self.measured(connection_id);
            if dialled {
                self.measure(peer_id, &seen_from);
            }
        } else {
            self.dial_back(peer_id);
        }
        self.anchor_changed(peer_id);
        if self.wanted.remove(&peer_id) || ours {
            self.news(Discovery::PeerSeen { peer: peer_id, ours, addresses });
        }
        if first && beside {
            self.path_changed(peer_id);
        } else if beside {
            // It moved, or lost one of its connections, of which the end may still stand here.
            self.doubt(&peer_id);
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source, message_id, message } = event else {
            return;
        };
        let ticket = GossipTicket { message_id, source: propagation_source };
        let received = GossipReceived {
            ticket,
            source: propagation_source,
            topic: message.topic.into_string(),
            bytes: message.data,
        };
        if let Some(Event::Gossip(received)) = self.work(Event::Gossip(received), 2) {
            self.report(&received.ticket, TransactionVerdict::Ignore);
        }
    }

    /// Also before there is an identity: it is not told again once there is one.
    fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        let now = Instant::now();
        let mut places: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, at) in found.into_iter().take(MDNS_MAX) {
            places.entry(peer).or_default().push(address::without_peer(&at));
        }
        for (peer, addresses) in places {
            if !self.swarm.is_connected(&peer) {
                self.near.found(peer, addresses, now);
            }
        }
        if self.identity.is_some() {
            self.meet_near(now);
        }
    }
}
