//! Which connections are asked whether they are alive, and what follows where one is not.
//!
//! A connection can be dead for long before the system says so: a cut that began on one side, a peer
//! that was killed and is back, an address that is ours no longer. What goes over it is lost, and the
//! library chooses among several connections without asking. Invariants: only nodes of our kind are
//! asked; a connection that answers is never closed for it.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::{
    super::{
        address,
        pulse::{Beat, Beaten},
        schedule::jittered,
    },
    Peer, Peers,
    peer::SILENT,
};

/// How often each connection to a node of our kind is asked whether it is alive.
const EVERY: Duration = Duration::from_secs(5);
/// How often a connection over TCP that answers is asked by a beat that fills a packet. In between, what
/// gets lost because it is large holds up the short beats behind it.
const WHOLE_EVERY: Duration = Duration::from_secs(60);
/// How long the answer may take: a slow line may be full of something large, and whoever is merely busy
/// would be the busier for having to connect anew.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where the peer has another connection, so that little is lost.
const PATIENCE_BESIDE: Duration = Duration::from_secs(3);
/// The same where there is a reason to doubt it: the peer has just come by another one, or lost one.
const DOUBT: Duration = Duration::from_millis(1500);
/// The same where it has not answered for as long already.
const DOUBT_SILENT: Duration = Duration::from_millis(500);
/// How often a member that is silent is dialled beside its connections.
const BESIDE: Duration = Duration::from_secs(2);
/// After so long between two looks it is we who were silent.
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

/// When a member that is silent is dialled next.
#[derive(Debug, Default)]
pub(super) struct Beside {
    due: Option<Instant>,
    /// The last look.
    looked: Option<Instant>,
}

/// A member that shares no topic with us.
#[derive(Debug)]
pub(super) struct Deaf {
    since: Instant,
    /// It is not disconnected before this.
    next: Instant,
    wait: Duration,
}

/// A connection is to be asked.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Ask {
    pub(in super::super) peer: PeerId,
    pub(in super::super) connection: ConnectionId,
    pub(in super::super) beat: Beat,
}

/// What follows from a beat that did not come back.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum After {
    /// It is asked once more.
    Ask(Ask),
    /// It is dead.
    Close(Multiaddr),
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

impl Peer {
    /// Tells whether it is asked all the time: members are, and others that the library could ask on a
    /// dead connection beside a good one.
    fn counts(&self) -> bool {
        self.ours && (self.admitted.is_some() || self.connections.len() > 1)
    }
}

impl Peers {
    /// Returns the connections whose turn it is to be asked.
    pub(in super::super) fn due(&mut self, now: Instant) -> Vec<Ask> {
        let mut due = Vec::new();
        for (id, peer) in self.all.iter().filter(|(_, peer)| peer.counts()) {
            let within = if peer.connections.len() > 1 { PATIENCE_BESIDE } else { PATIENCE };
            let open = peer.connections.iter();
            let open = open.filter(|open| open.asked.is_none() && open.ask_due <= now);
            due.extend(open.map(|open| (*id, open.id, within)));
        }
        due.into_iter().filter_map(|(id, open, within)| self.ask(id, open, within, now)).collect()
    }

    /// There is a reason to doubt the connections of a peer: they answer soon, or are dead.
    pub(in super::super) fn doubt(&mut self, id: &PeerId, now: Instant) -> Vec<Ask> {
        let Some(peer) = self.all.get(id).filter(|peer| peer.ours) else { return Vec::new() };
        let open = peer.connections.iter();
        let doubted: Vec<_> = open.map(|open| (open.id, doubted_for(open.asked, now))).collect();
        let asked =
            doubted.into_iter().filter_map(|(open, within)| self.ask_whole(*id, open, within, now));
        asked.collect()
    }

    /// Asks a connection whether whole packets go over it too.
    fn ask_whole(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        within: Duration,
        now: Instant,
    ) -> Option<Ask> {
        self.connection_mut(&peer, connection)?.whole_due = now;
        self.ask(peer, connection, within, now)
    }

    fn ask(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        within: Duration,
        now: Instant,
    ) -> Option<Ask> {
        if self.closing.contains(&connection) {
            return None;
        }
        let open = self.connection_mut(&peer, connection)?;
        // QUIC finds by itself how large a packet may be, and a circuit has its own limits.
        let wide = open.whole_due <= now && address::is_plain_tcp(&open.address);
        if open.asked.is_none() {
            open.asked = Some(now);
            open.asked_whole = wide;
        }
        Some(Ask { peer, connection, beat: Beat { wide, within } })
    }

    /// A beat came back, or did not.
    pub(in super::super) fn beaten(
        &mut self,
        beaten: &Beaten,
        now: Instant,
        chance: f64,
    ) -> Option<After> {
        let Beaten { peer: id, connection, took } = *beaten;
        if let Some(took) = took {
            let open = self.connection_mut(&id, connection)?;
            open.asked = None;
            if open.asked_whole {
                open.whole_due = now + jittered(WHOLE_EVERY, chance);
            }
            open.ask_due = now + jittered(EVERY, chance);
            self.answered(&id, connection, took, now);
            return None;
        }
        let peer = self.all.get(&id)?;
        let others = peer.connections.iter().filter(|open| open.id != connection);
        let last_of_others = others.filter_map(|open| open.answered).max();
        let open = self.connection(&id, connection)?;
        match open.asked {
            Some(since) if is_alive(since, last_of_others, now) => {
                self.ask_whole(id, connection, DOUBT, now).map(After::Ask)
            }
            _ => Some(After::Close(open.address.clone())),
        }
    }

    /// A peer answered on a connection.
    pub(in super::super) fn answered(
        &mut self,
        id: &PeerId,
        connection: ConnectionId,
        took: Duration,
        now: Instant,
    ) {
        if let Some(open) = self.connection_mut(id, connection) {
            open.answered = Some(now);
        }
        if let Some(peer) = self.all.get_mut(id) {
            peer.rtt = Some(took);
        }
    }

    /// Returns a member to dial that answers on none of its connections. They may come back to life; but
    /// after a cut of some seconds TCP and QUIC wait for as long again before they try, and a new one is
    /// there at once. One member at a time: where all are silent it is our network that is cut, or we are
    /// busy.
    pub(in super::super) fn silent_member(
        &mut self,
        now: Instant,
        mut chance: impl FnMut() -> f64,
    ) -> Option<(PeerId, Vec<Multiaddr>)> {
        let looked = self.beside.looked.replace(now);
        if looked.is_some_and(|looked| now.duration_since(looked) >= BUSY) {
            self.beside.due = Some(now + SILENT);
        }
        if self.beside.due.is_some_and(|due| now < due) {
            return None;
        }
        let members = self.all.iter().filter(|(_, peer)| peer.is_member());
        let silent: Vec<_> = members.filter(|(_, peer)| peer.is_silent(now)).collect();
        let at = (chance() * silent.len() as f64) as usize;
        let (id, peer) = silent.get(at).or(silent.last())?;
        let reached = (**id, peer.addresses.clone());
        self.beside.due = Some(now + jittered(BESIDE, chance()));
        Some(reached)
    }

    /// Returns the connections that come from an address of ours.
    pub(in super::super) fn come_from(&self, ip: IpAddr) -> Vec<ConnectionId> {
        let all = self.all.values().flat_map(|peer| &peer.connections);
        all.filter(|open| open.from == Some(ip)).map(|open| open.id).collect()
    }

    /// Returns with whom to begin anew, of those who gossip with us and share no topic with us.
    pub(in super::super) fn too_deaf(
        &mut self,
        deaf: &HashSet<PeerId>,
        now: Instant,
    ) -> Vec<PeerId> {
        self.deaf.retain(|peer, known| deaf.contains(peer) || known.next > now);
        let mut anew = Vec::new();
        for id in deaf {
            if self.deaf.len() >= DEAF_MAX && !self.deaf.contains_key(id) {
                continue;
            }
            let new = Deaf { since: now, next: now, wait: DEAF_AGAIN };
            let known = self.deaf.entry(*id).or_insert(new);
            let Some(peer) = self.all.get(id) else { continue };
            let long =
                |since: Option<Instant>| since.is_some_and(|at| now.duration_since(at) >= DEAF);
            let calm = !self.work.contains_key(id) && long(peer.calm_since);
            if calm && long(peer.admitted) && long(Some(known.since)) && known.next <= now {
                known.next = now + known.wait;
                known.wait = (known.wait * 2).min(DEAF_RAREST);
                anew.push(*id);
            }
        }
        anew
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
}
