//! Entering the network and the DHTs: anchors, relays, provider records.
//!
//! Invariant: only addresses that reach everywhere enter the public DHT.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId, kad,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

use super::{
    super::address::Reach, Dht, Discovery, EventLoop, IDENTITY_BURST, IDENTITY_TICKS, address,
};

/// Rendezvous strings are published again after this (`docs/PROTOCOL.md` §6).
const REPUBLISH: Duration = Duration::from_secs(10 * 60);
/// A new node in the table may be closer to our strings than those that have them.
const REPUBLISH_SOON: Duration = Duration::from_millis(300);
/// In the public DHT nodes come all the time: only the first ones count.
const REPUBLISH_SOON_WAN: Duration = Duration::from_secs(10);
/// Peers of one search that are dialled.
const PROVIDERS_MAX: usize = 20;
/// A node that is not one of ours is asked again after this: it only has to open the DHT.
const ANCHOR_REST: Duration = Duration::from_secs(5 * 60);

impl EventLoop {
    /// Puts the anchors with an address of the whole world into the public DHT.
    pub(super) fn enter_dht(&mut self) {
        let Some(kad) = self.swarm.behaviour_mut().kad_wan.as_mut() else { return };
        for anchor in &self.anchors {
            if let Some(peer) = anchor.peer
                && address::reach(&anchor.address) == Reach::Global
            {
                kad.add_address(&peer, address::without_peer(&anchor.address));
            }
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        if self.identity.is_none() {
            return;
        }
        let now = Instant::now();
        self.redial(now);
        self.reserve(now);
        self.dial_through(now);
        self.give_up(now);
        self.announce();
        if self.publish_lan.is_some_and(|due| due <= now) {
            self.publish_lan = Some(now + REPUBLISH);
            self.publish_records(Dht::Lan);
        }
        if self.publish_wan.is_some_and(|due| due <= now) {
            self.publish_wan = Some(now + REPUBLISH);
            self.publish_records(Dht::Wan);
        }
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(IDENTITY_TICKS) {
            for peer in self.peers.values_mut() {
                peer.identity_budget = (peer.identity_budget + 1).min(IDENTITY_BURST);
            }
        }
    }

    fn redial(&mut self, now: Instant) {
        let me = *self.swarm.local_peer_id();
        for anchor in &mut self.anchors {
            if anchor.peer == Some(me) {
                continue;
            }
            if anchor.peer.is_some_and(|peer| self.swarm.is_connected(&peer))
                || !anchor.backoff.fire(now, rand::random())
            {
                continue;
            }
            let options = match anchor.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(vec![address::without_peer(&anchor.address)])
                    .build(),
                None => DialOpts::unknown_peer_id().address(anchor.address.clone()).build(),
            };
            if let Err(error) = self.swarm.dial(options) {
                log::debug!(address:% = anchor.address, error:%; "cannot dial a bootstrap node");
            }
        }
    }

    /// An anchor is connected, or is not any more.
    pub(super) fn anchor_changed(&mut self, peer: PeerId) {
        let now = Instant::now();
        let ours = self.peers.get(&peer).is_some_and(|peer| peer.ours);
        for anchor in self.anchors.iter_mut().filter(|anchor| anchor.peer == Some(peer)) {
            let rest = if ours { Duration::from_millis(500) } else { ANCHOR_REST };
            anchor.backoff.rest(now, rest);
        }
    }

    /// An anchor that was given without its PeerId turned out to be this one.
    pub(super) fn anchor_known(&mut self, peer: PeerId, at: &libp2p::Multiaddr) {
        let at = address::without_peer(at);
        for anchor in self.anchors.iter_mut().filter(|anchor| anchor.address == at) {
            anchor.peer.get_or_insert(peer);
        }
    }

    pub(super) fn provide(&mut self, keys: Vec<Vec<u8>>) {
        let keys: BTreeSet<Vec<u8>> = keys.into_iter().collect();
        let behaviour = self.swarm.behaviour_mut();
        for key in self.provided.difference(&keys) {
            let key = kad::RecordKey::new(key);
            behaviour.kad_lan.stop_providing(&key);
            if let Some(kad) = behaviour.kad_wan.as_mut() {
                kad.stop_providing(&key);
            }
        }
        self.provided = keys;
        let now = Instant::now();
        self.publish_lan = Some(now);
        self.publish_wan = self.swarm.behaviour().kad_wan.is_enabled().then_some(now);
    }

    fn publish_records(&mut self, dht: Dht) {
        let behaviour = self.swarm.behaviour_mut();
        for key in &self.provided {
            let key = kad::RecordKey::new(key);
            let result = match (dht, behaviour.kad_wan.as_mut()) {
                (Dht::Lan, _) => behaviour.kad_lan.start_providing(key),
                (Dht::Wan, Some(kad)) => kad.start_providing(key),
                (Dht::Wan, None) => return,
            };
            if let Err(error) = result {
                log::warn!(error:%; "cannot advertise");
            }
        }
    }

    pub(super) fn find_providers(&mut self, ticket: u64, key: Vec<u8>) {
        let key = kad::RecordKey::new(&key);
        let behaviour = self.swarm.behaviour_mut();
        let lan = behaviour.kad_lan.get_providers(key.clone());
        self.queries.insert((Dht::Lan, lan), ticket);
        if let Some(kad) = behaviour.kad_wan.as_mut() {
            let wan = kad.get_providers(key);
            self.queries.insert((Dht::Wan, wan), ticket);
        }
    }

    pub(super) fn find_node(&mut self, ticket: u64, peer: PeerId) {
        let behaviour = self.swarm.behaviour_mut();
        let lan = behaviour.kad_lan.get_closest_peers(peer);
        self.queries.insert((Dht::Lan, lan), ticket);
        if let Some(kad) = behaviour.kad_wan.as_mut() {
            let wan = kad.get_closest_peers(peer);
            self.queries.insert((Dht::Wan, wan), ticket);
        }
    }

    pub(super) fn on_lan(&mut self, event: kad::Event) {
        self.on_kad(Dht::Lan, event);
    }

    pub(super) fn on_wan(&mut self, event: kad::Event) {
        self.on_kad(Dht::Wan, event);
    }

    fn on_kad(&mut self, dht: Dht, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => self.republish_soon(dht),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_query(dht, id, result, step.last);
            }
            _ => {}
        }
    }

    fn republish_soon(&mut self, dht: Dht) {
        let now = Instant::now();
        match dht {
            Dht::Lan => {
                let due = self.publish_lan.map(|due| due.min(now + REPUBLISH_SOON));
                self.publish_lan = due;
            }
            Dht::Wan => {
                // The strings were published to hardly anybody while the table was empty.
                let kad = self.swarm.behaviour_mut().kad_wan.as_mut();
                let known = kad.map_or(0, |kad| kad.kbuckets().map(|b| b.num_entries()).sum());
                if known < 20usize {
                    let due = self.publish_wan.map(|due| due.min(now + REPUBLISH_SOON_WAN));
                    self.publish_wan = due;
                }
            }
        }
    }

    fn on_query(&mut self, dht: Dht, id: kad::QueryId, result: kad::QueryResult, last: bool) {
        let Some(ticket) = self.queries.get(&(dht, id)).copied() else { return };
        if last {
            self.queries.remove(&(dht, id));
        }
        let me = *self.swarm.local_peer_id();
        let found: Vec<(PeerId, Vec<libp2p::Multiaddr>)> = match result {
            kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
                providers,
                ..
            })) => providers.into_iter().map(|peer| (peer, Vec::new())).collect(),
            kad::QueryResult::GetClosestPeers(Ok(kad::GetClosestPeersOk { key, peers })) => peers
                .into_iter()
                .filter(|info| info.peer_id.to_bytes() == key)
                .map(|info| (info.peer_id, info.addrs))
                .collect(),
            _ => Vec::new(),
        };
        let found: Vec<_> =
            found.into_iter().filter(|(peer, _)| *peer != me).take(PROVIDERS_MAX).collect();
        // Told first, so that whoever waits knows of the peer before the dial has failed.
        let done = !self.queries.values().any(|open| *open == ticket);
        let peers: Vec<PeerId> = found.iter().map(|(peer, _)| *peer).collect();
        if done || !peers.is_empty() {
            self.news(Discovery::Found { ticket, peers, done });
        }
        for (peer, addresses) in found {
            self.dial(peer, addresses);
        }
    }
}
