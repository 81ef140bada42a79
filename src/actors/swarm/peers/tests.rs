//! Peers over simulated time.

use std::time::Duration;

use super::{
    super::{Way, pulse::Beaten, reachability::Visibility},
    upgrade::NotNeeded,
    *,
};

/// Peers at a time that only the test moves.
struct World {
    peers: Peers,
    start: Instant,
    now: u64,
    opened: usize,
}

impl World {
    fn new() -> Self {
        Self { peers: Peers::default(), start: Instant::now(), now: 0, opened: 0 }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn after(&mut self, ms: u64) -> Instant {
        self.now += ms;
        self.now()
    }

    fn open(&mut self, id: PeerId, at: &str, arrival: Arrival) -> ConnectionId {
        self.opened += 1;
        let connection = ConnectionId::new_unchecked(self.opened);
        let way = self.peers.way_of(&id, arrival, Visibility::Hidden);
        let dialled = arrival != Arrival::Received;
        let from = Some("10.0.0.1".parse().unwrap());
        let open =
            Connection::new(connection, (at.parse().unwrap(), dialled), way, from, self.now());
        self.peers.opened(id, open);
        connection
    }

    fn identify(&mut self, id: PeerId, connection: ConnectionId, addresses: &[&str]) -> Identified {
        let told = Told {
            ours: true,
            relays: false,
            tests: false,
            addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
        };
        let now = self.now();
        self.peers.identified(&id, connection, told, now).unwrap()
    }

    /// A member by a direct connection over TCP.
    fn member(&mut self) -> (PeerId, ConnectionId) {
        let id = PeerId::random();
        let connection = self.open(id, DIRECT, Arrival::Dialled);
        self.identify(id, connection, &[DIRECT]);
        let now = self.now();
        assert!(self.peers.admitted(&id, now));
        (id, connection)
    }

    fn beaten(&mut self, peer: PeerId, connection: ConnectionId, ms: Option<u64>) -> Option<After> {
        let took = ms.map(Duration::from_millis);
        let now = self.now();
        self.peers.beaten(&Beaten { peer, connection, took }, now, 0.5)
    }
}

const DIRECT: &str = "/ip4/203.0.113.2/tcp/4848";
const QUIC: &str = "/ip4/203.0.113.2/udp/4848/quic-v1";
const CIRCUIT: &str =
    "/ip4/203.0.113.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";

#[test]
fn a_peer_is_here_as_long_as_a_connection_is() {
    let mut world = World::new();
    let (id, first) = world.member();
    let second = world.open(id, QUIC, Arrival::Received);
    assert_eq!(world.identify(id, second, &[QUIC]), Identified { first: true, beside: true });
    assert_eq!(world.identify(id, second, &[QUIC]), Identified { first: false, beside: true });
    assert!(world.peers.closed(&id, first, 1).is_none());
    assert!(world.peers.get(&id).unwrap().is_member());
    assert!(world.peers.closed(&id, second, 0).unwrap().is_member());
    assert!(world.peers.is_empty() && world.peers.closed(&id, second, 0).is_none());
    let now = world.now();
    assert!(!world.peers.admitted(&id, now), "who is gone is not let in");
}

#[test]
fn members_are_asked_again_and_again_and_strangers_are_not() {
    let mut world = World::new();
    let (id, connection) = world.member();
    let stranger = PeerId::random();
    world.open(stranger, DIRECT, Arrival::Received);
    let now = world.now();
    let asked = world.peers.due(now);
    assert_eq!(asked.len(), 1);
    assert!(asked[0].peer == id && asked[0].beat.wide, "TCP is asked with a whole packet");
    assert!(world.peers.due(now).is_empty(), "one beat at a time");
    assert_eq!(world.beaten(id, connection, Some(3)), None);
    assert!(!world.peers.get(&id).unwrap().is_silent(now));
    let soon = world.after(1000);
    assert!(world.peers.due(soon).is_empty());
    let later = world.after(10_000);
    assert_eq!(world.peers.due(later).len(), 1);
}

#[test]
fn whole_packets_are_tried_first_and_in_doubt_and_seldom_besides() {
    let mut world = World::new();
    let (id, connection) = world.member();
    let mut whole = 0;
    for _ in 0..105 {
        let now = world.after(6_000);
        let asked = world.peers.due(now);
        whole += usize::from(asked[0].beat.wide);
        assert_eq!(world.beaten(id, connection, Some(3)), None);
    }
    assert!((5..=12).contains(&whole), "{whole} of 105 beats in 630 s fill a packet");
    // A short one is under way when a doubt comes: it says nothing of whole packets.
    let now = world.after(6_000);
    world.peers.due(now);
    let now = world.now();
    let doubted = world.peers.doubt(&id, now);
    assert!(doubted[0].beat.wide);
    world.beaten(id, connection, Some(3));
    let now = world.after(8_000);
    assert!(world.peers.due(now)[0].beat.wide);
    // What got lost is asked for with whole packets.
    world.beaten(id, connection, Some(3));
    let now = world.after(8_000);
    assert!(!world.peers.due(now)[0].beat.wide);
    world.after(100);
    let Some(After::Ask(again)) = world.beaten(id, connection, None) else { panic!("not asked") };
    assert!(again.beat.wide);
}

#[test]
fn of_two_connections_the_one_that_does_not_answer_is_closed() {
    let mut world = World::new();
    let (id, dead) = world.member();
    let alive = world.open(id, QUIC, Arrival::Received);
    let now = world.now();
    assert_eq!(world.peers.doubt(&id, now).len(), 2);
    world.after(100);
    assert_eq!(world.beaten(id, alive, Some(100)), None);
    world.after(1400);
    let close = After::Close(DIRECT.parse().unwrap());
    assert_eq!(world.beaten(id, dead, None), Some(close));
    // Where none answers, both are asked on: the peer may be busy.
    let (id, one) = world.member();
    world.open(id, QUIC, Arrival::Received);
    let now = world.now();
    world.peers.doubt(&id, now);
    world.after(1500);
    assert!(matches!(world.beaten(id, one, None), Some(After::Ask(_))));
    world.after(20_000);
    assert!(matches!(world.beaten(id, one, None), Some(After::Close(_))));
}

#[test]
fn one_member_at_a_time_is_dialled_beside_its_silence() {
    let mut world = World::new();
    let members = [world.member().0, world.member().0];
    let now = world.now();
    world.peers.due(now);
    assert!(world.peers.silent_member(now, || 0.0).is_none(), "they have time to answer");
    for _ in 0..8 {
        let now = world.after(250);
        let silent = world.peers.silent_member(now, || 0.0);
        assert_eq!(silent.is_some(), world.now == 2000, "at {} ms", world.now);
        assert!(
            silent.is_none_or(|(id, at)| members.contains(&id) && at == [DIRECT.parse().unwrap()])
        );
    }
    let now = world.after(250);
    assert!(world.peers.silent_member(now, || 0.0).is_none(), "not two at once");
    // After we were busy ourselves, everybody has time again.
    let now = world.after(60_000);
    assert!(world.peers.silent_member(now, || 0.0).is_none());
}

#[test]
fn what_is_given_up_is_not_asked_and_work_keeps_it() {
    let mut world = World::new();
    let id = PeerId::random();
    let circuit = world.open(id, CIRCUIT, Arrival::Relayed);
    world.identify(id, circuit, &[QUIC]);
    assert_eq!(world.peers.get(&id).unwrap().connections[0].way, Way::Relayed);
    let direct = world.open(id, QUIC, Arrival::Received);
    world.identify(id, direct, &[QUIC]);
    assert_eq!(world.peers.get(&id).unwrap().connections[1].way, Way::Punched);
    world.peers.begin(id);
    let now = world.after(2000);
    let me = PeerId::random();
    let busy = NotNeeded { ripe: vec![id], close: Vec::new() };
    assert_eq!(world.peers.not_needed(&me, now), busy);
    world.peers.over(&id, now);
    let calm = world.after(200);
    let idle = NotNeeded { ripe: vec![id], close: vec![circuit] };
    assert_eq!(world.peers.not_needed(&me, calm), idle);
    assert!(world.peers.is_closing(&circuit));
    assert_eq!(world.peers.not_needed(&me, calm), NotNeeded::default(), "once");
    let asked: Vec<_> = world.peers.due(calm).into_iter().map(|ask| ask.connection).collect();
    assert_eq!(asked, [direct]);
    assert!(world.peers.closed(&id, circuit, 1).is_none());
    assert!(!world.peers.is_closing(&circuit));
}

#[test]
fn holes_are_punched_anew_more_and_more_rarely() {
    let mut world = World::new();
    let id = PeerId::random();
    let circuit = world.open(id, CIRCUIT, Arrival::Relayed);
    world.identify(id, circuit, &[]);
    let now = world.now();
    world.peers.admitted(&id, now);
    let mut at = Vec::new();
    while at.len() < 4 {
        let now = world.after(1000);
        if !world.peers.new_circuits(now, || 0.5).is_empty() {
            at.push(world.now / 1000);
        }
    }
    assert_eq!(at, [31, 91, 211, 451]);
    // A direct connection that was there and is lost is missed sooner.
    let direct = world.open(id, QUIC, Arrival::Received);
    let now = world.after(1000);
    assert!(world.peers.new_circuits(now, || 0.5).is_empty());
    world.peers.closed(&id, direct, 1);
    world.peers.direct_lost(&id, now);
    let now = world.after(2000);
    let circuit = (id, CIRCUIT.parse().unwrap());
    assert_eq!(world.peers.new_circuits(now, || 0.5), [circuit]);
}

#[test]
fn who_called_through_a_relay_is_called_back_where_it_says_that_it_is() {
    let mut world = World::new();
    let id = PeerId::random();
    let circuit = world.open(id, CIRCUIT, Arrival::Relayed);
    world.identify(id, circuit, &[QUIC, "/ip4/192.168.1.1/tcp/80"]);
    let now = world.now();
    assert_eq!(world.peers.call_back(&id, now).unwrap(), [QUIC.parse::<Multiaddr>().unwrap()]);
    assert_eq!(world.peers.call_back(&id, now), None, "not again");
    world.identify(id, circuit, &[QUIC, DIRECT]);
    assert_eq!(world.peers.call_back(&id, now).unwrap().len(), 2, "it names another");
    let later = world.after(30_000);
    assert!(world.peers.call_back(&id, later).is_some());
    world.open(id, QUIC, Arrival::DialledBack);
    assert_eq!(world.peers.call_back(&id, later), None, "it is connected directly");
    assert_eq!(world.peers.get(&id).unwrap().connections[1].way, Way::Reversed);
}

#[test]
fn a_way_is_told_once_and_when_it_changes() {
    let mut world = World::new();
    let (id, direct) = world.member();
    let now = world.now();
    assert!(world.peers.changed_ways(now).is_empty(), "directly is as it should be");
    world.open(id, CIRCUIT, Arrival::Relayed);
    assert!(world.peers.changed_ways(now).is_empty(), "the direct one is the better");
    world.peers.closed(&id, direct, 1);
    assert_eq!(world.peers.changed_ways(now), [(id, Way::Relayed)]);
    assert!(world.peers.changed_ways(now).is_empty());
    assert_eq!(world.peers.come_from("10.0.0.1".parse().unwrap()).len(), 1);
    assert!(world.peers.come_from("10.0.0.2".parse().unwrap()).is_empty());
}

#[test]
fn who_shares_no_topic_for_long_is_connected_anew_and_not_all_the_time() {
    let mut world = World::new();
    let (id, _) = world.member();
    let deaf = HashSet::from([id]);
    world.peers.begin(id);
    let now = world.now();
    world.peers.over(&id, now);
    let mut at = Vec::new();
    while at.len() < 3 {
        let now = world.after(1000);
        if !world.peers.too_deaf(&deaf, now).is_empty() {
            at.push(world.now / 1000);
        }
    }
    assert_eq!(at, [6, 66, 186], "a first look, and 5 s; then after 60 s, doubling");
}

#[test]
fn nobody_sends_server_keys_without_end() {
    let mut world = World::new();
    let (id, _) = world.member();
    let taken = (0..100).filter(|_| world.peers.may_introduce_itself(&id)).count();
    assert_eq!(taken, usize::from(IDENTITY_BURST));
    world.peers.forgive_introductions();
    assert!(world.peers.may_introduce_itself(&id) && !world.peers.may_introduce_itself(&id));
}
