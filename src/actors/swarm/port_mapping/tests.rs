//! What a router says, and what is made of it; real routers are in `tests/nat`.

use super::*;

fn parse(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn tcp() -> Port {
    port_of(&parse("/ip4/192.168.1.2/tcp/4848")).unwrap()
}

/// Returns all that is done without waiting.
fn done(behaviour: &mut Behaviour) -> Vec<ToSwarm<Event, Infallible>> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut actions = Vec::new();
    while let Poll::Ready(action) = behaviour.poll(&mut cx) {
        actions.push(action);
    }
    actions
}

#[test]
fn only_ports_behind_a_router_are_asked_for() {
    for (text, carrier) in [
        ("/ip4/192.168.1.2/tcp/4848", Some(Carrier::Tcp)),
        ("/ip4/10.0.1.2/udp/4848/quic-v1", Some(Carrier::Udp)),
        ("/ip4/100.64.1.2/tcp/4848", Some(Carrier::Tcp)),
        ("/ip4/127.0.0.1/tcp/4848", None),
        ("/ip4/169.254.1.2/tcp/4848", None),
        ("/ip4/203.0.113.2/tcp/4848", None),
        ("/ip6/fd00::1/tcp/4848", None),
        ("/ip4/10.0.1.2/udp/4848", None),
        ("/ip4/10.0.1.2/tcp/4848/ws", None),
        ("/ip4/10.0.1.2/tcp/0", None),
        ("/ip4/203.0.113.10/tcp/1/p2p-circuit", None),
    ] {
        assert_eq!(port_of(&parse(text)).map(|port| port.carrier), carrier, "{text}");
    }
}

#[test]
fn what_a_router_claims_is_a_candidate_and_no_more() {
    let mut behaviour = Behaviour::default();
    let external = "203.0.113.2:50000".parse().unwrap();
    behaviour.on_told(Told::Opened(tcp(), external, MappingProtocol::Pcp));
    let there = parse("/ip4/203.0.113.2/tcp/50000");
    match done(&mut behaviour).as_slice() {
        [
            ToSwarm::NewExternalAddrCandidate(candidate),
            ToSwarm::GenerateEvent(Event::Opened(opened)),
        ] => assert_eq!((candidate, opened), (&there, &there)),
        other => panic!("{other:?}"),
    }
    behaviour.on_upnp(ToSwarm::ExternalAddrConfirmed(there.clone()));
    assert!(done(&mut behaviour).is_empty(), "nobody but AutoNAT confirms");
    behaviour.on_told(Told::Closed(tcp()));
    match done(&mut behaviour).as_slice() {
        [ToSwarm::ExternalAddrExpired(expired), ToSwarm::GenerateEvent(Event::Closed(_))] => {
            assert_eq!(expired, &there);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_router_behind_a_router_opens_nothing() {
    let mut behaviour = Behaviour::default();
    let carrier = "100.64.1.2:4848".parse().unwrap();
    behaviour.on_told(Told::Opened(tcp(), carrier, MappingProtocol::Pcp));
    assert!(done(&mut behaviour).is_empty());
    behaviour.on_told(Told::Closed(tcp()));
    assert!(done(&mut behaviour).is_empty());
}

#[test]
fn upnp_reports_the_same() {
    let mut behaviour = Behaviour::default();
    let (local_addr, external_addr) =
        (parse("/ip4/10.0.1.2/udp/4848/quic-v1"), parse("/ip4/203.0.113.2/udp/4848/quic-v1"));
    let (local, external) = (local_addr.clone(), external_addr.clone());
    let new = upnp::Event::NewExternalAddr { local_addr: local, external_addr: external };
    behaviour.on_upnp(ToSwarm::GenerateEvent(new));
    let candidates = done(&mut behaviour);
    assert!(
        matches!(candidates.first(), Some(ToSwarm::NewExternalAddrCandidate(at)) if *at == external_addr)
    );
    let old = upnp::Event::ExpiredExternalAddr { local_addr, external_addr };
    behaviour.on_upnp(ToSwarm::GenerateEvent(old));
    assert_eq!(done(&mut behaviour).len(), 2);
    assert!(behaviour.is_idle());
}

#[tokio::test]
async fn a_task_that_has_nothing_open_ends_at_once() {
    let mut behaviour = Behaviour::default();
    // No address of this machine, so nothing is sent.
    let at = parse("/ip4/10.255.255.254/tcp/4848");
    behaviour.listens(ListenerId::next(), &at);
    assert!(!behaviour.is_idle());
    behaviour.close();
    let ended = std::future::poll_fn(|cx| behaviour.poll(cx));
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.unwrap();
    assert!(matches!(ended, ToSwarm::GenerateEvent(Event::Ended)));
    assert!(behaviour.is_idle());
}

#[tokio::test]
async fn what_came_of_it_is_told() {
    let now = Instant::now();
    let later = now + 2 * UPNP_WAIT;
    let at = parse("/ip4/10.255.255.254/tcp/4848");
    let mut behaviour = Behaviour::default();
    assert_eq!(behaviour.status(now), PortMapping::NoRouter, "we listen nowhere");
    behaviour.listening.push((ListenerId::next(), at));
    assert_eq!(behaviour.status(now), PortMapping::Asked);
    behaviour.on_told(Told::Elsewhere);
    assert_eq!(behaviour.status(now), PortMapping::NoRouter);
    behaviour.on_told(Told::Silent);
    assert_eq!(behaviour.status(now), PortMapping::Asked, "now by UPnP");
    behaviour.on_upnp(ToSwarm::GenerateEvent(upnp::Event::GatewayNotFound));
    assert_eq!(behaviour.status(now), PortMapping::Silent);
    behaviour.on_told(Told::Silent);
    let refused = |why: &str| PortMapping::Refused { why: why.to_owned() };
    assert_eq!(behaviour.status(later), refused(UPNP_REFUSED));
    behaviour.on_told(Told::Refused("no".to_owned()));
    behaviour.on_told(Told::Silent);
    behaviour.on_told(Told::Elsewhere);
    assert_eq!(behaviour.status(later), refused("no"));
    let carrier = "100.64.1.2:4848".parse().unwrap();
    behaviour.on_told(Told::Opened(tcp(), carrier, MappingProtocol::NatPmp));
    let address = parse("/ip4/100.64.1.2/tcp/4848");
    assert_eq!(behaviour.status(later), PortMapping::NotPublic { address });
    let public = "8.8.8.8:4848".parse().unwrap();
    behaviour.on_told(Told::Opened(tcp(), public, MappingProtocol::NatPmp));
    let addresses = vec![parse("/ip4/8.8.8.8/tcp/4848")];
    let protocol = MappingProtocol::NatPmp;
    assert_eq!(behaviour.status(later), PortMapping::Granted { protocol, addresses });
}

#[tokio::test]
async fn a_router_that_is_not_public_says_so_by_upnp() {
    let mut behaviour = Behaviour::default();
    behaviour.listening.push((ListenerId::next(), parse("/ip4/10.255.255.254/tcp/4848")));
    behaviour.on_told(Told::Silent);
    behaviour.on_upnp(ToSwarm::GenerateEvent(upnp::Event::NonRoutableGateway));
    let why = UPNP_NOT_PUBLIC.to_owned();
    assert_eq!(behaviour.status(Instant::now()), PortMapping::Refused { why });
}
