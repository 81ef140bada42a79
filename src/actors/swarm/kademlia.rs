//! Kademlia that believes no address it should not.
//!
//! libp2p's own takes whatever it is told: private addresses of others enter the public DHT, and
//! whoever answers a query names machines of our LAN that we then dial. This wrapper filters both.
//! Invariants: in the public DHT only addresses that reach everywhere are kept, dialled or handed
//! on; in that of our family a private address is dialled only where it may be near; records of
//! others are bounded and never displace our own; at most [`DIALS_MAX`] nodes are being connected
//! for queries at once, so that people find the dialler free.

use std::{
    collections::{HashSet, VecDeque},
    num::NonZeroUsize,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad::{
        self, Event, InboundRequest,
        store::{MemoryStore, MemoryStoreConfig, RecordStore as _},
    },
    swarm::{
        ConnectionDenied, ConnectionId, ExternalAddrExpired, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ExternalAddrConfirmed,
        dial_opts::DialOpts,
    },
};
use lru::LruCache;

use super::address::{self, Reach};

/// Nodes that are being connected for queries at once. The Swarm connects 64 in all.
const DIALS_MAX: usize = 24;
/// Nodes that wait for that; the queries take others where one is dropped here.
const DIALS_WAITING_MAX: usize = 256;
/// Keys of others that we keep providers of; 20 providers each, so some 40 MiB at worst.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Keys of our own: nine of the owner, four of each of the 31 others, and room for a change of names.
const KEYS_OURS_MAX: usize = 160;
/// Keys of one other provider, who has them for the same: whoever has more pushes out its own, and not
/// those by which others are found.
const KEYS_OF_ONE_MAX: usize = KEYS_OURS_MAX;
/// Addresses of one provider that are kept.
const PROVIDER_ADDRESSES_MAX: usize = 8;
/// Values of others that the public DHT has us keep, and their size: 4 MiB at most.
const VALUES_MAX: usize = 512;
const VALUE_LEN_MAX: usize = 8 * 1024;
/// Peers whose signs of life wait to be asked for: as many as there are connections.
const HEARD_MAX: usize = 512;

/// A DHT that nobody was heard of in for so long is out of reach: longer than the time after which
/// the table is refreshed.
const SILENT: Duration = Duration::from_secs(30 * 60);

type Inner = kad::Behaviour<MemoryStore>;

/// Whom a DHT is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everybody.
    World,
    /// Nodes of our family, on a LAN or not.
    Family,
    /// A private network, whose transport refuses every other address.
    Closed,
}

/// A DHT.
pub(super) struct Kademlia {
    me: PeerId,
    inner: Inner,
    scope: Scope,
    /// Where we listen.
    listening: HashSet<Multiaddr>,
    /// Queries are connecting these.
    dialling: HashSet<ConnectionId>,
    waiting: VecDeque<DialOpts>,
    /// Who answered or asked since it was last looked at.
    heard: HashSet<PeerId>,
    /// When anybody last did.
    alive: Option<Instant>,
    /// Keys of others, the last used last.
    others: LruCache<kad::RecordKey, ()>,
    /// Those of each of them, oldest first.
    by_provider: LruCache<PeerId, VecDeque<kad::RecordKey>>,
}

/// The store of a DHT.
pub(super) fn store(me: PeerId, scope: Scope) -> MemoryStore {
    let config = MemoryStoreConfig {
        // Among ourselves nobody stores values.
        max_records: if scope == Scope::World { VALUES_MAX } else { 0 },
        max_value_bytes: VALUE_LEN_MAX,
        max_provided_keys: KEYS_MAX.get() + KEYS_OURS_MAX,
        ..MemoryStoreConfig::default()
    };
    MemoryStore::with_config(me, config)
}

impl Kademlia {
    /// Wraps a DHT whose inserts are filtered: `StoreInserts::FilterBoth`.
    pub(super) fn new(me: PeerId, inner: Inner, scope: Scope) -> Self {
        Self {
            me,
            inner,
            scope,
            listening: HashSet::new(),
            dialling: HashSet::new(),
            waiting: VecDeque::new(),
            heard: HashSet::new(),
            alive: None,
            others: LruCache::new(KEYS_MAX),
            by_provider: LruCache::new(KEYS_MAX),
        }
    }

    /// Returns libp2p's own. Addresses go in by [`Self::add_address`] alone.
    pub(super) fn kad(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// Puts an address into the table, if it belongs there.
    pub(super) fn add_address(&mut self, peer: &PeerId, at: Multiaddr) {
        if self.routable(&at) {
            self.inner.add_address(peer, at);
        }
    }

    /// Returns how many nodes are in the table.
    pub(super) fn known(&mut self) -> usize {
        self.inner.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Returns who was heard of since the last time.
    pub(super) fn heard(&mut self) -> HashSet<PeerId> {
        std::mem::take(&mut self.heard)
    }

    /// Tells whether there is anybody to ask.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.is_some_and(|at| at.elapsed() < SILENT)
    }

    /// Tells whether an address that the DHT named may be dialled.
    pub(super) fn dialable(&self, at: &Multiaddr) -> bool {
        match (self.scope, address::reach(at)) {
            (Scope::World, _) => address::worldwide(at),
            (_, Reach::Global) => true,
            (_, Reach::None) => false,
            (Scope::Closed, _) => true,
            (Scope::Family, Reach::Relayed) => true,
            // One machine with several nodes on it, as in a test; else it is a trap.
            (Scope::Family, Reach::Loopback) => {
                self.listening.iter().all(|ours| address::reach(ours) == Reach::Loopback)
            }
            (Scope::Family, Reach::Private) => {
                self.listening.iter().any(|ours| address::near(ours, at))
            }
        }
    }

    /// Tells whether an address belongs into the table.
    fn routable(&self, at: &Multiaddr) -> bool {
        match self.scope {
            Scope::World => address::reach(at) == Reach::Global,
            Scope::Family | Scope::Closed => !matches!(address::reach(at), Reach::None),
        }
    }

    fn keep_provider(&mut self, mut record: kad::ProviderRecord) {
        record.addresses.retain(|at| self.dialable(at));
        record.addresses.truncate(PROVIDER_ADDRESSES_MAX);
        // As others in the public DHT do: nobody could be sent there.
        if self.scope == Scope::World && record.addresses.is_empty() {
            return;
        }
        let (key, provider) = (record.key.clone(), record.provider);
        if self.inner.store_mut().add_provider(record).is_err() {
            return;
        }
        self.bound(provider, &key);
        if let Some((old, ())) = self.others.push(key.clone(), ())
            && old != key
        {
            let me = self.me;
            let store = self.inner.store_mut();
            for record in store.providers(&old).into_iter().filter(|one| one.provider != me) {
                store.remove_provider(&old, &record.provider);
            }
        }
    }

    /// Takes the oldest key of a provider away where this one is too many.
    fn bound(&mut self, provider: PeerId, key: &kad::RecordKey) {
        let keys = self.by_provider.get_or_insert_mut(provider, VecDeque::new);
        keys.retain(|known| known != key);
        keys.push_back(key.clone());
        if keys.len() <= KEYS_OF_ONE_MAX {
            return;
        }
        let Some(old) = keys.pop_front() else { return };
        let store = self.inner.store_mut();
        store.remove_provider(&old, &provider);
        if store.providers(&old).is_empty() {
            self.others.pop(&old);
        }
    }

    /// Takes out of the table what connecting put there.
    fn clean(&mut self, peer: &PeerId, addresses: &kad::Addresses) {
        let wrong: Vec<_> = addresses.iter().filter(|at| !self.routable(at)).cloned().collect();
        for at in wrong {
            self.inner.remove_address(peer, &at);
        }
    }

    fn dialled(&mut self, connection: ConnectionId) {
        self.dialling.remove(&connection);
    }
}

impl NetworkBehaviour for Kademlia {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let told =
            self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)?;
        let good = told.into_iter().filter(|at| self.dialable(at));
        Ok(good.take(address::ADDRESSES_MAX).collect())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        at: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, at, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(made) => self.dialled(made.connection_id),
            FromSwarm::DialFailure(failed) => self.dialled(failed.connection_id),
            FromSwarm::NewListenAddr(new) => {
                self.listening.insert(new.addr.clone());
                // Kademlia gives external addresses alone to those who look for us, and a LAN
                // knows of none.
                if self.scope != Scope::World {
                    let confirmed = ExternalAddrConfirmed { addr: new.addr };
                    self.inner.on_swarm_event(FromSwarm::ExternalAddrConfirmed(confirmed));
                }
            }
            FromSwarm::ExpiredListenAddr(old) => {
                self.listening.remove(old.addr);
                if self.scope != Scope::World {
                    let expired = ExternalAddrExpired { addr: old.addr };
                    self.inner.on_swarm_event(FromSwarm::ExternalAddrExpired(expired));
                }
            }
            // What we tell the public DHT is filtered as well.
            FromSwarm::ExternalAddrConfirmed(new)
                if self.scope == Scope::World && !address::worldwide(new.addr) =>
            {
                return;
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.alive = Some(Instant::now());
        if self.heard.len() < HEARD_MAX {
            self.heard.insert(peer);
        }
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if self.dialling.len() < DIALS_MAX
                && let Some(opts) = self.waiting.pop_front()
            {
                self.dialling.insert(opts.connection_id());
                return Poll::Ready(ToSwarm::Dial { opts });
            }
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::Dial { opts }) => {
                    if self.waiting.len() < DIALS_WAITING_MAX {
                        self.waiting.push_back(opts);
                    }
                }
                Poll::Ready(ToSwarm::NewExternalAddrOfPeer { address, .. })
                    if !self.dialable(&address) => {}
                Poll::Ready(ToSwarm::GenerateEvent(Event::InboundRequest { request })) => {
                    match request {
                        InboundRequest::AddProvider { record: Some(record) } => {
                            self.keep_provider(record);
                        }
                        InboundRequest::PutRecord { record: Some(record), .. } => {
                            // Full is full: others of the 20 closest nodes have it too.
                            let _ = self.inner.store_mut().put(record);
                        }
                        _ => {}
                    }
                }
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    if let Event::RoutingUpdated { peer, addresses, .. } = &event {
                        self.clean(peer, addresses);
                    }
                    return Poll::Ready(ToSwarm::GenerateEvent(event));
                }
                action => return action,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::StreamProtocol;

    use super::*;

    fn dht(scope: Scope, listen: &[&str]) -> Kademlia {
        let me = PeerId::random();
        let config = kad::Config::new(StreamProtocol::new("/test/kad"));
        let inner = Inner::with_config(me, store(me, scope), config);
        let mut kad = Kademlia::new(me, inner, scope);
        kad.listening = listen.iter().map(|at| at.parse().unwrap()).collect();
        kad
    }

    const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/1";
    const LAN: &str = "/ip4/192.168.7.9/tcp/1";
    const OTHER_LAN: &str = "/ip4/10.0.0.9/tcp/1";
    const LINK: &str = "/ip6/fe80::1/tcp/1";
    const WORLD: &str = "/ip4/104.131.131.82/tcp/4001";
    const CIRCUIT: &str = "/ip4/104.131.131.82/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
    const LAN_CIRCUIT: &str = "/ip4/192.168.7.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";

    #[test]
    fn what_a_dht_may_have_us_dial() {
        let all = [LOOPBACK, LAN, OTHER_LAN, LINK, WORLD, CIRCUIT, LAN_CIRCUIT];
        for (scope, listen, expected) in [
            (Scope::World, vec![LAN, WORLD], vec![WORLD, CIRCUIT]),
            (Scope::Family, vec![WORLD], vec![WORLD, CIRCUIT, LAN_CIRCUIT]),
            (
                Scope::Family,
                vec![LOOPBACK, "/ip4/192.168.1.1/tcp/1"],
                vec![LAN, WORLD, CIRCUIT, LAN_CIRCUIT],
            ),
            (Scope::Family, vec![LOOPBACK], vec![LOOPBACK, WORLD, CIRCUIT, LAN_CIRCUIT]),
        ] {
            let kad = dht(scope, &listen);
            let dialable: Vec<_> =
                all.iter().filter(|at| kad.dialable(&at.parse().unwrap())).copied().collect();
            assert_eq!(dialable, expected, "{scope:?} {listen:?}");
        }
    }

    #[test]
    fn no_private_address_enters_the_table_of_the_public_dht() {
        let mut kad = dht(Scope::World, &[]);
        let peer = PeerId::random();
        for at in [LOOPBACK, LAN, OTHER_LAN, LINK, CIRCUIT] {
            kad.add_address(&peer, at.parse().unwrap());
        }
        assert_eq!(kad.known(), 0);
        kad.add_address(&peer, WORLD.parse().unwrap());
        assert_eq!(kad.known(), 1);
        // As libp2p does by itself when a node of the table is connected on the LAN.
        kad.inner.add_address(&peer, LAN.parse().unwrap());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while kad.poll(&mut cx).is_ready() {}
        let id = ConnectionId::new_unchecked(1);
        let told =
            kad.inner.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer);
        let told: Vec<_> = told.unwrap().iter().map(address::without_peer).collect();
        assert_eq!(told, [WORLD.parse().unwrap()]);
    }

    #[test]
    fn records_of_others_are_filtered_and_bounded() {
        let mut kad = dht(Scope::World, &[]);
        let me = kad.me;
        let record = |number: u32, addresses: &[&str]| kad::ProviderRecord {
            key: kad::RecordKey::new(&number.to_be_bytes()),
            provider: PeerId::random(),
            expires: None,
            addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
        };
        kad.keep_provider(record(1, &[LAN, LOOPBACK]));
        assert!(kad.inner.store_mut().providers(&record(1, &[]).key).is_empty());
        kad.keep_provider(record(1, &[LAN, WORLD]));
        let kept = kad.inner.store_mut().providers(&record(1, &[]).key);
        assert_eq!(kept[0].addresses, [WORLD.parse::<Multiaddr>().unwrap()]);
        for number in 0..6000 {
            kad.keep_provider(record(number, &[WORLD]));
        }
        assert!(kad.inner.store_mut().providers(&record(1, &[]).key).is_empty(), "the oldest");
        assert_eq!(kad.inner.store_mut().providers(&record(5999, &[]).key).len(), 1);
        // One that publishes more than anybody needs pushes out its own.
        let eve = PeerId::random();
        for number in 20_000..40_000 {
            kad.keep_provider(kad::ProviderRecord { provider: eve, ..record(number, &[WORLD]) });
        }
        let kept = |kad: &mut Kademlia, number| {
            kad.inner.store_mut().providers(&record(number, &[]).key).len()
        };
        let hers = (20_000..40_000).filter(|number| kept(&mut kad, *number) > 0).count();
        assert_eq!(hers, KEYS_OF_ONE_MAX);
        let others = (0..6000).filter(|number| kept(&mut kad, *number) > 0).count();
        assert!(others >= KEYS_MAX.get() - KEYS_OF_ONE_MAX - 1, "{others}");
        let ours = kad::RecordKey::new(b"ours");
        assert!(kad.inner.start_providing(ours.clone()).is_ok(), "there is always room for ours");
        for number in 6000..12_000 {
            kad.keep_provider(record(number, &[WORLD]));
        }
        assert_eq!(kad.inner.store_mut().providers(&ours)[0].provider, me);
    }
}
