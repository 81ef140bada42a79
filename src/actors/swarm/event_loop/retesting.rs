//! Testing an address of ours once more that nobody could connect us at.
//!
//! Invariants: nothing is tested again once we are known to be reachable from everywhere, nor an
//! address that no router could forward to us: behind one that takes another port towards everybody,
//! what was observed is only worth it where it is a port of ours.

use std::{collections::BTreeSet, time::Instant};

use libp2p::{
    Multiaddr, PeerId, autonat,
    multiaddr::Protocol,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use rand::seq::IteratorRandom as _;

use super::{
    super::{NatKind, probing::Probing, retest::Step},
    EventLoop, Visibility,
    address::{self, Reach},
};

/// Returns the port of a TCP or QUIC address.
fn port_of(at: &Multiaddr) -> Option<Protocol<'static>> {
    let port = at.iter().nth(1)?.acquire();
    matches!(port, Protocol::Tcp(_) | Protocol::Udp(_)).then_some(port)
}

/// Tells whether somebody could ever reach us here, as far as our router is known.
fn is_worthwhile(at: &Multiaddr, nat: NatKind, listening: &[Multiaddr]) -> bool {
    let port = port_of(at);
    let ours = || port.is_some() && listening.iter().any(|one| port_of(one) == port);
    nat != NatKind::Symmetric || ours()
}

impl EventLoop {
    pub(super) fn test_again(&mut self, now: Instant) {
        if self.visibility == Visibility::Public {
            return;
        }
        let probe = self.swarm.behaviour().probe.as_ref();
        for at in probe.into_iter().flat_map(Probing::given_up) {
            self.retests.failed(at, now, rand::random());
        }
        match self.retests.step(now, rand::random()) {
            Some(Step::Offer(failed)) => {
                let listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
                let worth = |at: &&Multiaddr| is_worthwhile(at, self.nat, &listening);
                // What is being tested now is begun anew too.
                let probe = self.swarm.behaviour().probe.as_ref();
                let open = probe.into_iter().flat_map(Probing::unconfirmed);
                let offered: BTreeSet<Multiaddr> =
                    failed.iter().chain(open).filter(worth).cloned().collect();
                let offered: Vec<Multiaddr> = offered.into_iter().collect();
                log::debug!(addresses:? = offered; "testing again whether we can be reached as");
                if let Some(probe) = self.swarm.behaviour_mut().probe.as_mut() {
                    probe.renew(autonat::v2::client::Behaviour::default(), &offered);
                }
            }
            Some(Step::Connect) => self.connect_tester(),
            None => {}
        }
    }

    /// Connects a node once more that tests addresses: the renewed behaviour knows of no connection
    /// that is older than itself.
    fn connect_tester(&mut self) {
        let testers = self.peers.iter().filter(|(_, peer)| peer.tests);
        let known = testers.filter_map(|(id, peer)| {
            let mut open = peer.connections.iter();
            let good = |at: &Multiaddr| address::reach(at) == Reach::Global;
            let open = open.find(|open| open.dialled && good(&open.address))?;
            Some((*id, address::without_peer(&open.address)))
        });
        let chosen: Option<(PeerId, Multiaddr)> = known.choose(&mut rand::rng());
        let Some((peer, at)) = chosen else { return };
        let options =
            DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![at]).build();
        if let Err(error) = self.swarm.dial(options) {
            log::debug!(peer:%, error:%; "cannot be tested by");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_router_forwards_is_not_tested_again() {
        let at = |text: &str| text.parse::<Multiaddr>().unwrap();
        let listening = [at("/ip4/10.0.1.2/tcp/4848"), at("/ip4/10.0.1.2/udp/4848/quic-v1")];
        for (text, nat, worth) in [
            ("/ip4/203.0.113.2/tcp/4848", NatKind::Symmetric, true),
            ("/ip4/203.0.113.2/udp/4848/quic-v1", NatKind::Symmetric, true),
            ("/ip4/203.0.113.2/tcp/50123", NatKind::Symmetric, false),
            ("/ip4/203.0.113.2/udp/50123/quic-v1", NatKind::Symmetric, false),
            ("/ip4/203.0.113.2/udp/50123/quic-v1", NatKind::Cone, true),
            ("/ip4/203.0.113.2/udp/50123/quic-v1", NatKind::Unknown, true),
        ] {
            assert_eq!(is_worthwhile(&at(text), nat, &listening), worth, "{text} {nat}");
        }
    }
}
