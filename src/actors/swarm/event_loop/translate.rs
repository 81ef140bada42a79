//! What the Swarm says, in our words.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, mdns,
    request_response::{self, Message, OutboundFailure},
    swarm::{ConnectionId, DialError, SwarmEvent},
};

use super::{
    super::{
        address::Reach,
        behaviour::{BehaviourEvent, IDENTITY, KAD_LAN, KAD_WAN},
    },
    Answered, Connection, Discovery, Event, EventLoop, Frame, GossipReceived, GossipTicket,
    IDENTITY_BURST, ReplyTicket, RequestFailed, RequestReceived, address,
};
use crate::actors::room::TransactionVerdict;

/// Addresses of ours that others saw and that are remembered.
const OBSERVED_MAX: usize = 16;
/// Peers that have to see the same address before it is told to others.
const OBSERVERS: usize = 2;
/// Nodes of one mDNS answer that are dialled.
const MDNS_MAX: usize = 64;

type Exchanged = request_response::Event<Frame, Vec<u8>>;

impl EventLoop {
    pub(super) fn translate(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identity(event)) => self.on_identity(event),
            SwarmEvent::Behaviour(BehaviourEvent::Federation(event)) => self.on_federation(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::KadLan(event)) => self.on_lan(event),
            SwarmEvent::Behaviour(BehaviourEvent::KadWan(event)) => self.on_wan(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_mdns(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                if let (Some(peer), Ok(rtt)) = (self.peers.get_mut(&event.peer), event.result) {
                    peer.rtt = Some(rtt);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_dial_error(peer, &error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.reserved(listener_id);
                self.on_listening(&address);
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                for relay in &mut self.relays {
                    relay.listener = relay.listener.filter(|listener| *listener != listener_id);
                }
                for address in addresses {
                    log::warn!(address:%, reason:?; "not listening any more");
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                log::debug!(error:%; "a listener failed");
            }
            _ => {}
        }
    }

    fn on_listening(&mut self, at: &Multiaddr) {
        match address::reach(at) {
            Reach::Loopback => log::debug!(address:% = at; "listening on"),
            _ => log::info!(address:% = at; "listening on"),
        }
        // Without an external address the public DHT does not take our provider records.
        if address::reach(at) == Reach::Global {
            self.swarm.add_external_address(at.clone());
        }
    }

    fn on_connected(&mut self, id: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let at = endpoint.get_remote_address();
        let relayed = endpoint.is_relayed();
        if !endpoint.is_dialer() && !relayed && address::reach(at) == Reach::Global {
            self.reached = true;
        }
        if endpoint.is_dialer() {
            self.anchor_known(id, at);
        }
        let peer = self.peers.entry(id).or_default();
        if peer.connections.is_empty() {
            peer.identity_budget = IDENTITY_BURST;
        }
        peer.connections.push(Connection {
            id: connection,
            address: at.clone(),
            dialled: endpoint.is_dialer(),
            relayed,
        });
    }

    fn on_closed(&mut self, id: PeerId, connection: ConnectionId, remaining: u32) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.retain(|open| open.id != connection);
        }
        if remaining > 0 {
            return;
        }
        self.anchor_changed(id);
        // A proof counts for the connections that there were: it is asked for again on the next.
        self.swarm.behaviour_mut().gossip.dismiss(&id);
        let ours = self.peers.remove(&id).is_some_and(|peer| peer.ours);
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
        if self.wanted.remove(&peer) {
            self.news(Discovery::DialFailed(peer));
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, peer_id, info } = event else { return };
        let Some(peer) = self.peers.get_mut(&peer_id) else { return };
        let at = peer.connections.iter().find(|connection| connection.id == connection_id);
        let Some(at) = at else { return };
        let addresses = address::usable(&info.listen_addrs, &at.address, at.dialled);
        let direct = !at.relayed;
        peer.identified = true;
        peer.ours = info.protocols.contains(&IDENTITY);
        peer.addresses.clone_from(&addresses);
        let ours = peer.ours;
        let behaviour = self.swarm.behaviour_mut();
        if info.protocols.contains(&KAD_LAN) {
            for address in &addresses {
                behaviour.kad_lan.add_address(&peer_id, address.clone());
            }
        }
        if let Some(kad) = behaviour.kad_wan.as_mut()
            && info.protocols.contains(&KAD_WAN)
        {
            for address in addresses.iter().filter(|one| address::reach(one) == Reach::Global) {
                kad.add_address(&peer_id, address.clone());
            }
        }
        if direct {
            self.on_observed(peer_id, &info.observed_addr);
        }
        self.anchor_changed(peer_id);
        if self.wanted.remove(&peer_id) || ours {
            self.news(Discovery::PeerSeen { peer: peer_id, ours, addresses });
        }
    }

    /// Remembers how others see us; an address that several agree on is told to the network.
    fn on_observed(&mut self, peer: PeerId, at: &Multiaddr) {
        if address::reach(at) != Reach::Global
            || (self.observed.len() >= OBSERVED_MAX && !self.observed.contains_key(at))
        {
            return;
        }
        let observers = self.observed.entry(at.clone()).or_default();
        observers.insert(peer);
        if observers.len() == OBSERVERS {
            self.swarm.add_external_address(at.clone());
        }
    }

    fn on_identity(&mut self, event: Exchanged) {
        match event {
            Exchanged::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    let ours = self.identity.clone().unwrap_or_default();
                    let _ = self.swarm.behaviour_mut().identity.send_response(channel, ours);
                    let Some(known) = self.peers.get_mut(&peer) else { return };
                    known.ours = true;
                    // Each costs a signature check, so nobody may send them without end.
                    if let Some(left) = known.identity_budget.checked_sub(1) {
                        known.identity_budget = left;
                        self.news(Discovery::IdentityReceived { peer, bytes: request.bytes });
                    }
                }
                Message::Response { response, .. } => {
                    self.news(Discovery::IdentityReceived { peer, bytes: response });
                }
            },
            Exchanged::OutboundFailure { peer, error, .. } => {
                log::debug!(peer:%, error:%; "no server_keys");
                self.news(Discovery::IdentityFailed(peer));
            }
            Exchanged::InboundFailure { .. } | Exchanged::ResponseSent { .. } => {}
        }
    }

    fn on_federation(&mut self, event: Exchanged) {
        match event {
            Exchanged::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    let Frame { bytes, budget } = request;
                    let ticket = ReplyTicket(channel);
                    let received = RequestReceived { peer, bytes, ticket, budget };
                    if self.work(Event::Request(received), 4).is_some() {
                        log::debug!(peer:%; "a request was dropped: too much is waiting");
                    }
                }
                Message::Response { request_id, response } => {
                    if let Some(reply) = self.requests.remove(&request_id) {
                        let _ = reply.send(Ok(response));
                    }
                }
            },
            Exchanged::OutboundFailure { request_id, error, .. } => {
                if let Some(reply) = self.requests.remove(&request_id) {
                    let _ = reply.send(failure(&error));
                }
            }
            Exchanged::InboundFailure { peer, error, .. } => {
                log::debug!(peer:%, error:%; "a request was not answered");
            }
            Exchanged::ResponseSent { .. } => {}
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

    fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        if self.identity.is_none() {
            return;
        }
        for (peer, at) in found.into_iter().take(MDNS_MAX) {
            if !self.swarm.is_connected(&peer) {
                self.dial(peer, vec![address::without_peer(&at)]);
            }
        }
    }
}

fn failure(error: &OutboundFailure) -> Answered {
    Err(match error {
        OutboundFailure::Timeout => RequestFailed::TimedOut,
        OutboundFailure::ConnectionClosed => RequestFailed::Broken,
        error => RequestFailed::Unreachable(error.to_string()),
    })
}
