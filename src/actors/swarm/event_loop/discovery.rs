//! Entering the network and the DHTs: anchors, relays, provider records.
//!
//! Invariants: only addresses that reach everywhere enter the public DHT (`kademlia.rs` sees to it);
//! queries are bounded in number, and so is whom one of them has us dial.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, kad,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

use super::{
    super::{
        good_peers::{self, GoodPeer},
        kademlia::Kademlia,
    },
    Adverts, Dht, DhtStatus, Discovery, EventLoop, IDENTITY_TICKS, Query, address,
};
use crate::actors::clock::now_ms;

/// Queries in both DHTs at once; who searches more gets nothing, and tries again.
const QUERIES_MAX: usize = 64;
/// A new node in the table may be closer to our strings than those that have them.
const REPUBLISH_SOON: Duration = Duration::from_millis(300);
/// A key that is still going out is not published once more at the same time.
const REPUBLISH_BUSY: Duration = Duration::from_secs(3);
/// And once there are many, each new one is hardly closer.
const REPUBLISH_LATER: Duration = Duration::from_secs(10);
/// In the public DHT nodes come all the time: only the first ones count.
pub(super) const REPUBLISH_SOON_WAN: Duration = Duration::from_secs(10);
/// Peers of one query that are dialled: whoever forges providers of a key gets no more of us.
const PROVIDERS_MAX: usize = 32;
/// Good nodes of the public DHT are written down first after this, and then so often.
pub(super) const GOOD_FIRST: Duration = Duration::from_secs(30);
const GOOD_EVERY: Duration = Duration::from_secs(5 * 60);
/// A node that is not one of ours is asked again after this: it only has to open the DHT.
const ANCHOR_REST: Duration = Duration::from_secs(5 * 60);

impl EventLoop {
    /// Puts the anchors with an address of the whole world into the public DHT.
    pub(super) fn enter_dht(&mut self) {
        let Some(kad) = self.swarm.behaviour_mut().kad_wan.as_mut() else { return };
        for anchor in &self.anchors {
            if let Some(peer) = anchor.peer {
                kad.add_address(&peer, address::without_peer(&anchor.address));
            }
        }
        self.dial_good();
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
        self.feel_pulses(now);
        self.mend_gossip(now);
        self.meet_near(now);
        self.meet_again(now);
        self.punch_again(now);
        self.give_up(now);
        self.tell_ways();
        self.test_again(now);
        self.announce();
        self.advertise(now);
        self.tend_the_door();
        self.keep_good(now);
        self.forgive(now);
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(IDENTITY_TICKS) {
            self.peers.forgive_introductions();
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
        let ours = self.peers.is_ours(&peer);
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
        let now = Instant::now();
        let behaviour = self.swarm.behaviour_mut();
        for key in self.adverts_lan.set(&keys, now) {
            behaviour.kad_lan.kad().stop_providing(&kad::RecordKey::new(&key));
        }
        if let Some(kad) = behaviour.kad_wan.as_mut() {
            for key in self.adverts_wan.set(&keys, now) {
                kad.kad().stop_providing(&kad::RecordKey::new(&key));
            }
        }
    }

    /// Publishes what is due.
    fn advertise(&mut self, now: Instant) {
        for key in self.adverts_lan.take(now, rand::random()) {
            self.publish_key(Dht::Lan, key);
        }
        // Servers of the public DHT refuse a record without addresses, and libp2p says that all
        // went well.
        let found_at = self.swarm.external_addresses().any(address::worldwide);
        let room = self.queries.len() < QUERIES_MAX;
        if found_at && room && self.swarm.behaviour_mut().kad_wan.as_mut().is_some() {
            for key in self.adverts_wan.take(now, rand::random()) {
                self.publish_key(Dht::Wan, key);
            }
        }
    }

    fn publish_key(&mut self, dht: Dht, key: Vec<u8>) {
        let same = |(open, query): (&(Dht, kad::QueryId), &Query)| {
            open.0 == dht && matches!(query, Query::Publish(other) if *other == key)
        };
        // While it still goes out, those who came since are asked by the next round.
        if self.queries.iter().any(same) {
            return self.adverts(dht).hurry(Instant::now() + REPUBLISH_BUSY);
        }
        let Some(kad) = self.kad(dht) else { return };
        match kad.kad().start_providing(kad::RecordKey::new(&key)) {
            Ok(id) => {
                self.queries.insert((dht, id), Query::Publish(key));
            }
            Err(error) => log::warn!(error:%; "cannot advertise"),
        }
    }

    fn kad(&mut self, dht: Dht) -> Option<&mut Kademlia> {
        let behaviour = self.swarm.behaviour_mut();
        match dht {
            Dht::Lan => Some(&mut behaviour.kad_lan),
            Dht::Wan => behaviour.kad_wan.as_mut(),
        }
    }

    pub(super) fn find_providers(&mut self, ticket: u64, keys: &[Vec<u8>]) {
        self.hunt(ticket, keys, |kad, key| kad.get_providers(kad::RecordKey::new(key)));
    }

    pub(super) fn find_node(&mut self, ticket: u64, peer: PeerId) {
        self.hunt(ticket, &[peer], |kad, peer| kad.get_closest_peers(*peer));
    }

    /// Asks every DHT for each of some things; done when all of them have answered.
    fn hunt<T>(
        &mut self,
        ticket: u64,
        things: &[T],
        start: impl Fn(&mut kad::Behaviour<kad::store::MemoryStore>, &T) -> kad::QueryId,
    ) {
        if self.queries.len() >= QUERIES_MAX {
            log::debug!("too many searches at once");
            return self.news(Discovery::Found { ticket, peers: Vec::new(), done: true });
        }
        for dht in [Dht::Lan, Dht::Wan] {
            // A public DHT that never answered, as on a LAN without the Internet, would only have
            // whoever searches wait.
            if let Some(kad) = self.kad(dht).filter(|kad| dht == Dht::Lan || kad.is_alive()) {
                let ids: Vec<_> = things.iter().map(|thing| start(kad.kad(), thing)).collect();
                let begun = ids.into_iter().map(|id| ((dht, id), Query::Hunt { ticket, found: 0 }));
                self.queries.extend(begun);
            }
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
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                // What our own store says proves nothing of what others keep.
                let others = stats.num_successes() > 0;
                self.on_query(dht, id, result, others, step.last);
            }
            _ => {}
        }
    }

    /// The strings were published to hardly anybody while the table was empty.
    fn republish_soon(&mut self, dht: Dht) {
        let now = Instant::now();
        let known = self.kad(dht).map_or(0, Kademlia::known);
        let few = known < kad::K_VALUE.get();
        match dht {
            Dht::Lan => {
                let wait = if few { REPUBLISH_SOON } else { REPUBLISH_LATER };
                self.adverts_lan.hurry(now + wait);
            }
            Dht::Wan if few => self.adverts_wan.hurry(now + REPUBLISH_SOON_WAN),
            Dht::Wan => {}
        }
    }

    fn on_query(
        &mut self,
        dht: Dht,
        id: kad::QueryId,
        result: kad::QueryResult,
        others: bool,
        last: bool,
    ) {
        let Some(mut query) = self.queries.remove(&(dht, id)) else { return };
        match &mut query {
            Query::Hunt { ticket, found } => {
                let ticket = *ticket;
                let peers = self.answers(dht, result, PROVIDERS_MAX.saturating_sub(*found));
                *found += peers.len();
                if !last {
                    self.queries.insert((dht, id), query);
                }
                let same = |query: &Query| matches!(query, Query::Hunt { ticket: open, .. } if *open == ticket);
                // Told first, so that whoever waits knows of the peer before the dial has failed.
                let done = !self.queries.values().any(same);
                let names: Vec<PeerId> = peers.iter().map(|(peer, _)| *peer).collect();
                if done || !names.is_empty() {
                    self.news(Discovery::Found { ticket, peers: names, done });
                }
                for (peer, addresses) in peers {
                    self.dial(peer, addresses);
                }
            }
            Query::Publish(key) => {
                let key = std::mem::take(key);
                self.adverts(dht).published(&key);
                // Among ourselves nobody tells us of ourselves.
                if let (Dht::Wan, Some(kad)) = (dht, self.kad(dht)) {
                    let id = kad.kad().get_providers(kad::RecordKey::new(&key));
                    self.queries.insert((dht, id), Query::ReadBack { key, seen: false });
                }
            }
            Query::ReadBack { key, seen } => {
                let me = *self.swarm.local_peer_id();
                if let kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
                    providers,
                    ..
                })) = result
                {
                    *seen |= others && providers.contains(&me);
                }
                if !last {
                    self.queries.insert((dht, id), query);
                    return;
                }
                let (key, seen) = (std::mem::take(key), *seen);
                log::debug!(seen; "a string was read back from the public DHT");
                if self.adverts(dht).read_back(&key, seen, Instant::now()) {
                    log::info!("found by others in the public DHT");
                }
            }
        }
    }

    fn adverts(&mut self, dht: Dht) -> &mut Adverts {
        match dht {
            Dht::Lan => &mut self.adverts_lan,
            Dht::Wan => &mut self.adverts_wan,
        }
    }

    /// Returns who was found, and where a node said that they are.
    fn answers(
        &mut self,
        dht: Dht,
        result: kad::QueryResult,
        limit: usize,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let me = *self.swarm.local_peer_id();
        let found: Vec<(PeerId, Vec<Multiaddr>)> = match result {
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
        let Some(kad) = self.kad(dht) else { return Vec::new() };
        let others = found.into_iter().filter(|(peer, _)| *peer != me);
        let good = others.map(|(peer, mut addresses)| {
            addresses.retain(|at| kad.dialable(at));
            (peer, addresses)
        });
        good.take(limit).collect()
    }

    /// Who was heard of is in use; relays of ours are needed.
    fn tend_the_door(&mut self) {
        let relays = self.relays.iter().filter(|relay| relay.accepted);
        let relays = relays.map(|relay| relay.peer).collect();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.door.keep(relays);
        let mut heard = behaviour.kad_lan.heard();
        heard.extend(behaviour.kad_wan.as_mut().map(Kademlia::heard).unwrap_or_default());
        for peer in heard {
            behaviour.door.used(&peer);
        }
    }

    /// Dials the nodes of the public DHT that were good the last time.
    fn dial_good(&mut self) {
        let Some(data) = self.settings.data.clone() else { return };
        if self.swarm.behaviour_mut().kad_wan.as_mut().is_none() {
            return;
        }
        self.good = good_peers::load(&data, now_ms());
        let places: Vec<_> = self.good.iter().filter_map(GoodPeer::place).collect();
        for (peer, addresses) in places {
            if let Some(kad) = self.swarm.behaviour_mut().kad_wan.as_mut() {
                for at in addresses {
                    kad.add_address(&peer, at.clone());
                }
            }
            let options = DialOpts::peer_id(peer).addresses(addresses.to_vec()).build();
            if let Err(error) = self.swarm.dial(options) {
                log::debug!(peer:%, error:%; "cannot dial a node of the public DHT");
            }
        }
    }

    /// Notes who is good now: servers of the public DHT that we connected ourselves.
    fn note_good(&mut self) {
        let Some(kad) = self.swarm.behaviour_mut().kad_wan.as_mut() else { return };
        let servers: HashSet<PeerId> = kad
            .kad()
            .kbuckets()
            .flat_map(|bucket| {
                let peers = bucket.iter().map(|entry| *entry.node.key.preimage());
                peers.collect::<Vec<_>>()
            })
            .collect();
        let now = now_ms();
        let good = self.peers.iter().filter(|(peer, _)| servers.contains(peer));
        let good = good.filter_map(|(peer, known)| {
            let dialled = known.connections.iter().filter(|one| one.dialled && !one.relayed());
            let at: Vec<_> = dialled.map(|one| address::without_peer(&one.address)).collect();
            GoodPeer::new(*peer, &at, now)
        });
        let known: Vec<_> = good.chain(self.good.iter().cloned()).collect();
        self.good = good_peers::choose(known, now);
    }

    /// Writes good nodes down when that is due.
    fn keep_good(&mut self, now: Instant) {
        if now < self.good_due {
            return;
        }
        self.good_due = now + GOOD_EVERY;
        self.note_good();
        if let (Some(data), false) = (self.settings.data.clone(), self.good.is_empty()) {
            let good = self.good.clone();
            // The loop does not wait for a disk.
            tokio::task::spawn_blocking(move || write_down(&data, &good));
        }
    }

    /// Writes good nodes down, at the end.
    pub(super) fn write_good_down(&mut self) {
        self.note_good();
        if let (Some(data), false) = (&self.settings.data, self.good.is_empty()) {
            write_down(data, &self.good);
        }
    }

    pub(super) fn dht_status(&mut self) -> Vec<DhtStatus> {
        let mut all = Vec::new();
        for (dht, name) in [(Dht::Lan, "family"), (Dht::Wan, "public")] {
            let (strings, published, read_back) = self.adverts(dht).counts();
            let Some(kad) = self.kad(dht) else { continue };
            all.push(DhtStatus {
                name: name.to_owned(),
                server: kad.kad().mode() == kad::Mode::Server,
                nodes: kad.known(),
                strings,
                published,
                read_back,
            });
        }
        all
    }
}

fn write_down(data: &std::path::Path, good: &[GoodPeer]) {
    if let Err(error) = good_peers::save(data, good) {
        log::warn!(error:%; "nodes of the public DHT were not written down");
    }
}
