//! The address book: where the nodes of servers were last reached. Pure.
//!
//! A server may have several nodes, each of which may be elsewhere. Invariants: a place is where to
//! look, never a proof; of one server there are at most [`limits::BOOK_NODES`] places, and of servers
//! that share no room with us [`limits::BOOK_STRANGERS`] in all, those that were seen last.

use std::{cmp::Reverse, collections::HashMap, fmt::Display};

use ruma::OwnedServerName;

use crate::config::limits;

/// A place is not written more often than this.
const EVERY_MS: u64 = 60_000;
/// Nor than this where its addresses changed: a relay may have been found, or lost.
const CHANGED_MS: u64 = 300;

/// Where a node of a server was last reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place<P, A> {
    pub(super) peer: P,
    pub(super) addresses: Vec<A>,
    /// Until when the proof was good.
    pub(super) valid_until_ts: u64,
    pub(super) seen_ts: u64,
}

/// A place that is no more.
pub(super) type Forgotten<P> = (OwnedServerName, P);

/// Where servers are looked for.
#[derive(Debug)]
pub(super) struct Places<P, A> {
    /// Those of a server, the last seen first.
    servers: HashMap<OwnedServerName, Vec<Place<P, A>>>,
}

impl<P, A> Default for Places<P, A> {
    fn default() -> Self {
        Self { servers: HashMap::new() }
    }
}

impl<P: Copy + Eq + Display, A: PartialEq> Places<P, A> {
    /// Adds what was written down. Returns what is too much of it.
    pub(super) fn load(&mut self, rows: Vec<(OwnedServerName, Place<P, A>)>) -> Vec<Forgotten<P>> {
        let mut gone = Vec::new();
        for (server, place) in rows {
            // What was seen since the start is newer.
            if !self.of(&server).any(|known| known.peer == place.peer) {
                gone.extend(self.put(&server, place));
            }
        }
        gone
    }

    /// Returns where a server was, the last seen first.
    pub(super) fn of<'a>(
        &'a self,
        server: &OwnedServerName,
    ) -> impl Iterator<Item = &'a Place<P, A>> + use<'a, P, A> {
        self.servers.get(server).into_iter().flatten()
    }

    /// Returns the last seen of all that were seen since then: that of each server, then the second of
    /// each, and so on.
    pub(super) fn last_seen(&self, since: u64) -> Vec<&Place<P, A>> {
        let ranked = self.servers.values().flat_map(|places| places.iter().enumerate());
        let mut ranked: Vec<_> = ranked.filter(|(_, place)| place.seen_ts >= since).collect();
        ranked.sort_by_key(|(rank, place)| (*rank, Reverse(place.seen_ts)));
        ranked.into_iter().map(|(_, place)| place).collect()
    }

    /// Tells whether a place is to be written anew.
    pub(super) fn lacks(&self, server: &OwnedServerName, place: &Place<P, A>) -> bool {
        let recent = self.of(server).find(|known| known.peer == place.peer).is_some_and(|known| {
            let every = if known.addresses == place.addresses { EVERY_MS } else { CHANGED_MS };
            // A place from the future is of a time when our clock was wrong.
            let since = place.seen_ts.checked_sub(known.seen_ts);
            since.is_some_and(|since| since < every)
        });
        !place.addresses.is_empty() && !recent
    }

    /// Takes a place in. Returns which of the server gave way to it.
    pub(super) fn put(
        &mut self,
        server: &OwnedServerName,
        place: Place<P, A>,
    ) -> Vec<Forgotten<P>> {
        let places = self.servers.entry(server.clone()).or_default();
        places.retain(|known| known.peer != place.peer);
        // What comes now is the last seen, unless the clock was set back.
        let at = places.partition_point(|known| known.seen_ts > place.seen_ts);
        places.insert(at, place);
        let gone = places.split_off(places.len().min(limits::BOOK_NODES));
        gone.into_iter().map(|place| (server.clone(), place.peer)).collect()
    }

    /// Forgets the places of a server that are no more. Returns them.
    pub(super) fn forget(
        &mut self,
        server: &OwnedServerName,
        is_gone: impl Fn(&Place<P, A>) -> bool,
    ) -> Vec<Forgotten<P>> {
        let Some(places) = self.servers.get_mut(server) else { return Vec::new() };
        let gone = places.extract_if(.., |place| is_gone(place));
        let gone = gone.map(|place| (server.clone(), place.peer)).collect();
        if places.is_empty() {
            self.servers.remove(server);
        }
        gone
    }

    /// Identities cost nothing: of servers that share no room with us those stay that were seen last.
    /// Returns what goes.
    pub(super) fn forget_strangers(
        &mut self,
        is_stranger: impl Fn(&OwnedServerName) -> bool,
    ) -> Vec<Forgotten<P>> {
        let strangers = self.servers.iter().filter(|(server, _)| is_stranger(server));
        let mut seen: Vec<(u64, &OwnedServerName, P)> = strangers
            .flat_map(|(server, places)| places.iter().map(move |place| (server, place)))
            .map(|(server, place)| (place.seen_ts, server, place.peer))
            .collect();
        let surplus = seen.len().saturating_sub(limits::BOOK_STRANGERS);
        if surplus == 0 {
            return Vec::new();
        }
        seen.sort_by_cached_key(|(seen_ts, server, peer)| {
            (*seen_ts, (*server).clone(), peer.to_string())
        });
        let surplus = seen.into_iter().take(surplus);
        let gone: Vec<Forgotten<P>> =
            surplus.map(|(_, server, peer)| (server.clone(), peer)).collect();
        for (server, peer) in &gone {
            self.forget(server, |place| place.peer == *peer);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(n: usize) -> OwnedServerName {
        format!("server{n}").try_into().unwrap()
    }

    fn place(peer: usize, seen_ts: u64) -> Place<usize, &'static str> {
        Place { peer, addresses: vec!["there"], valid_until_ts: u64::MAX, seen_ts }
    }

    fn peers<'a>(places: impl IntoIterator<Item = &'a Place<usize, &'static str>>) -> Vec<usize> {
        places.into_iter().map(|place| place.peer).collect()
    }

    #[test]
    fn a_server_has_some_nodes_and_those_seen_last() {
        let mut book = Places::default();
        for n in 0..limits::BOOK_NODES {
            assert_eq!(book.put(&server(1), place(n, 10 + n as u64)), []);
        }
        assert_eq!(peers(book.of(&server(1))), (0..limits::BOOK_NODES).rev().collect::<Vec<_>>());
        assert_eq!(book.put(&server(1), place(0, 100)), [], "it was there");
        assert_eq!(book.put(&server(1), place(9, 101)), [(server(1), 1)]);
        // What is read from the disk is older than what was seen, and bounded too.
        assert_eq!(book.load(vec![(server(1), place(9, 1)), (server(1), place(8, 1))]).len(), 1);
        assert_eq!(book.of(&server(1)).next(), Some(&place(9, 101)));
        assert_eq!(book.of(&server(1)).count(), limits::BOOK_NODES);
        assert_eq!(book.forget(&server(1), |_| true).len(), limits::BOOK_NODES);
        assert!(book.servers.is_empty());
    }

    #[test]
    fn one_place_of_each_server_comes_before_the_second_of_any() {
        let mut book = Places::default();
        for (n, peer, seen_ts) in [(1, 11, 100), (1, 12, 99), (2, 21, 50), (3, 31, 60), (4, 41, 9)]
        {
            book.put(&server(n), place(peer, seen_ts));
        }
        assert_eq!(peers(book.last_seen(10)), [11, 31, 21, 12]);
    }

    #[test]
    fn attack_13_strangers_with_many_nodes_take_no_more_places_than_others() {
        let mut book = Places::default();
        let many = limits::BOOK_STRANGERS / limits::BOOK_NODES + 1;
        for n in 0..many {
            for node in 0..limits::BOOK_NODES {
                book.put(&server(n), place(n * 100 + node, (n * 100 + node) as u64));
            }
        }
        book.put(&server(99_999), place(1, 0));
        let gone = book.forget_strangers(|server| server.as_str() != "server99999");
        assert_eq!(gone.len(), many * limits::BOOK_NODES - limits::BOOK_STRANGERS);
        assert!(gone.iter().all(|(of, _)| *of == server(0)), "the last seen stay: {gone:?}");
        assert_eq!(book.of(&server(99_999)).count(), 1);
        assert_eq!(book.forget_strangers(|server| server.as_str() != "server99999"), []);
    }
}
