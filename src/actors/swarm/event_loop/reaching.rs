//! How we can be reached: what peers saw, what AutoNAT confirmed, and what follows from it.
//!
//! Invariant: whether we are a server of the public DHT, a relay, or dial back for AutoNAT, follows
//! from direct addresses alone; the library would take one through a relay for as good.

use std::time::Instant;

use libp2p::{Multiaddr, PeerId, autonat, core::ConnectedPoint, kad};

use super::{
    super::{NatKind, reachability::ip_of},
    EventLoop, Visibility,
    address::{self, Reach},
    discovery::REPUBLISH_SOON_WAN,
};
use crate::config::RelayServe;

impl EventLoop {
    pub(super) fn on_listening(&mut self, at: &Multiaddr) {
        let near = self.settings.listen.iter().all(|at| address::reach(at) == Reach::Loopback);
        match address::reach(at) {
            Reach::Loopback if !near => log::debug!("listening on {at}"),
            Reach::Relayed => log::debug!("listening on {at}"),
            _ => log::info!("listening on {at}"),
        }
        self.reach.listening(at, true);
        self.network_changed(at);
        let behaviour = self.swarm.behaviour_mut();
        if address::reach(at) == Reach::Global
            && let Some(observed) = behaviour.observed.as_mut()
        {
            // Most likely nothing is in the way; it is tested.
            observed.offer(at);
        }
        let wanted = match address::reach(at) {
            Reach::Loopback => near,
            Reach::Private | Reach::Global => true,
            Reach::Relayed | Reach::None => false,
        };
        if wanted
            && self.settings.relay.serve == RelayServe::Always
            && self.settings.external.is_empty()
            && let Some(relay) = behaviour.relay_server.as_mut()
        {
            relay.known_at(at);
        }
        self.weigh();
    }

    pub(super) fn on_not_listening(&mut self, at: &Multiaddr) {
        self.reach.listening(at, false);
        self.address_lost(at);
        self.network_changed(at);
        self.weigh();
    }

    /// We listen elsewhere: on another network, another router may let others in.
    fn network_changed(&mut self, at: &Multiaddr) {
        if matches!(address::reach(at), Reach::Private | Reach::Global) {
            let now = Instant::now();
            self.retests.changed(now);
            self.hurry_all(now);
        }
    }

    /// A peer is connected: it may be somebody who found us without our help.
    pub(super) fn on_met(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let at = endpoint.get_remote_address();
        if endpoint.is_relayed() || address::reach(at) != Reach::Global {
            return;
        }
        // Whoever is connected through a relay may be punching.
        let known = self.peers.contains(&peer);
        if let Some(host) = ip_of(at)
            && self.reach.met(host, endpoint.is_listener() && !known)
        {
            self.weigh();
        }
    }

    /// A peer told how it sees us, over a direct connection.
    pub(super) fn on_observed(&mut self, dialled: bool, peer_at: &Multiaddr, observed: &Multiaddr) {
        if let Some(candidates) = self.swarm.behaviour_mut().observed.as_mut() {
            candidates.offer(observed);
        }
        // Only what we dialled left through the router by a mapping of its own.
        if let (true, Some(host)) = (dialled, ip_of(peer_at)) {
            self.reach.observed(host, &address::without_peer(observed));
            for at in self.reach.outdated() {
                log::info!("not reachable any more as {at}");
                self.swarm.remove_external_address(&at);
                self.reach.expired(&at);
                self.tell_addresses = true;
            }
            self.weigh();
        }
    }

    pub(super) fn on_probe(&mut self, event: &autonat::v2::client::Event) {
        match &event.result {
            Ok(()) => {
                self.retests.passed(&event.tested_addr);
                self.reach.confirmed(&event.tested_addr);
                self.reach.witnessed(&event.tested_addr, event.server);
                self.weigh();
            }
            Err(error) => {
                log::debug!(address:% = event.tested_addr, error:%; "cannot be reached as");
                self.retests.failed(&event.tested_addr, Instant::now(), rand::random());
            }
        }
    }

    pub(super) fn on_confirmed(&mut self, at: &Multiaddr) {
        if address::reach(at) == Reach::Global {
            if self.reach.confirmed(at) {
                log::info!("reachable as {at}");
            }
            self.weigh();
        }
        self.tell_addresses = true;
    }

    pub(super) fn on_expired(&mut self, at: &Multiaddr) {
        self.reach.expired(at);
        self.tell_addresses = true;
        self.weigh();
    }

    /// Does what follows from what is known.
    pub(super) fn weigh(&mut self) {
        let nat = self.reach.nat();
        if nat != self.nat {
            self.nat = nat;
            match nat {
                NatKind::None => log::info!("no router is in the way (NAT: none)"),
                NatKind::Cone => {
                    log::info!("a router is in the way, and lets itself be punched (NAT: cone)")
                }
                NatKind::Symmetric => log::info!(
                    "a router is in the way that cannot be punched (NAT: symmetric): others are \
                     reached where they are reachable, and through relays"
                ),
                NatKind::Unknown => {}
            }
        }
        let visibility = self.reach.visibility();
        if visibility == self.visibility {
            return;
        }
        self.visibility = visibility;
        let public = visibility == Visibility::Public;
        log::debug!(visibility:?; "reachability changed");
        let behaviour = self.swarm.behaviour_mut();
        if let Some(kad) = behaviour.kad_wan.as_mut() {
            kad.kad().set_mode(Some(kad_mode(visibility)));
        }
        if let Some(relay) = behaviour.relay_server.as_mut() {
            relay.set_reachable(public);
        }
        if let Some(probed) = behaviour.probed.as_mut() {
            probed.serve(public);
        }
    }

    /// Tells peers and DHTs where we are now, where that changed.
    pub(super) fn announce(&mut self) {
        if !std::mem::take(&mut self.tell_addresses) {
            return;
        }
        // identify pushes by itself where we listen elsewhere, not where we are reached elsewhere.
        let peers: Vec<PeerId> = self.peers.iter().map(|(id, _)| *id).collect();
        self.swarm.behaviour_mut().identify.push(peers);
        let now = Instant::now();
        self.adverts_lan.hurry(now);
        // Addresses may change several times in a row, and each time costs strangers something.
        self.adverts_wan.hurry(now + REPUBLISH_SOON_WAN);
    }
}

/// Only who can be reached directly serves the public DHT.
fn kad_mode(visibility: Visibility) -> kad::Mode {
    match visibility {
        Visibility::Public => kad::Mode::Server,
        Visibility::Hidden | Visibility::Reachable => kad::Mode::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_serve_the_public_dht() {
        for (visibility, mode) in [
            (Visibility::Hidden, kad::Mode::Client),
            (Visibility::Reachable, kad::Mode::Client),
            (Visibility::Public, kad::Mode::Server),
        ] {
            assert_eq!(kad_mode(visibility), mode, "{visibility:?}");
        }
    }
}
