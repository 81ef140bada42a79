//! Who is verified, for how long, and what searches are after. Pure; peers and addresses are
//! opaque.
//!
//! Invariants: a proof is live server_keys that name the peer, and ends with them, with newer
//! ones of the same verify key that do not name it, or with the connection; only a proof ends a hunt with a result; who
//! gossips has a proof, of a server that shares a room with us.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Display,
    hash::Hash,
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use ruma::{OwnedServerName, OwnedUserId, ServerName};

use super::{
    FoundPerson,
    hunt::{Goal, Hunt, Profile, Progress},
    places::{Forgotten, Place, Places},
};
use crate::proto::{certificates::CertificateCache, rendezvous, server_keys::VerifiedServerKeys};

/// How long a server that was not found is not looked for again.
const FAILED_MS: u64 = 10_000;
/// How long a network that came up takes to know whom it can reach: until then nobody counts as not
/// found, and whoever asks waits.
const SETTLING_MS: u64 = 10_000;
/// After this, a row of the address book is no place to look any more.
const BOOK_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Rows that are dialled at start.
const BOOK_DIALS: usize = 20;
/// Hunts at once.
const HUNTS_MAX: usize = 256;
/// Newest server_keys of others that are remembered, each counted by verify key.
const NEWEST_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Servers of which it is remembered that they were not found.
const SERVERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What happened.
#[derive(Debug)]
pub(super) enum Input<P, A> {
    /// We are this server; again when our server_keys are new.
    Signer(OwnedServerName),
    /// The stored address book.
    Book(Vec<(OwnedServerName, Place<P, A>)>),
    /// The stored server_keys of servers.
    Newest(Vec<VerifiedServerKeys>),
    /// A node is connected.
    Seen { peer: P, ours: bool, addresses: Vec<A> },
    /// It has one connection more, or less, and is still there.
    PathChanged(P),
    /// It is gone.
    Gone(P),
    /// It cannot be connected.
    DialFailed(P),
    /// It sent server_keys, which are being verified.
    KeysCame(P),
    /// The server_keys of a node were verified; none: they are no good.
    Keys { peer: P, keys: Option<VerifiedServerKeys> },
    /// It did not answer ours.
    IdentityFailed(P),
    /// A query made progress.
    Found { ticket: u64, peers: Vec<P>, done: bool },
    /// Somebody wants the node of a server.
    Resolve { ticket: u64, server: OwnedServerName },
    /// Somebody wants people.
    Search { ticket: u64, goal: Goal<P>, addresses: Vec<A>, limit: usize },
    /// A profile was answered, or not.
    Profile { ticket: u64, user: OwnedUserId, profile: Option<Profile> },
    /// A round of queries is to be repeated.
    Retry(u64),
    /// A search that had something to show was left alone for a while.
    Settled { ticket: u64, stirred: u64 },
    /// Whoever asked waits no longer.
    TimeUp(u64),
    /// These servers share a room with us from now on, and those no longer.
    Shared { added: Vec<OwnedServerName>, removed: Vec<OwnedServerName> },
    /// The shown name of our owner, and the names of those who registered here.
    Advertise { display_name: String, others: Vec<String> },
    /// Time went by.
    Tick,
    /// All connections and provided keys are lost.
    Restarted,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Effect<P, A> {
    /// Somebody else shows server_keys of ours.
    Own(Box<VerifiedServerKeys>),
    /// Send our server_keys and ask for theirs.
    Exchange(P),
    /// A node proved who it is; `first` on this connection.
    Proven { peer: P, keys: Box<VerifiedServerKeys>, first: bool },
    /// Gossip with a proven node: it is of this member of a room of ours.
    Admit(P, OwnedServerName),
    /// No more gossip with it: it is of no member any more.
    Part(P),
    /// What was said to or by a server may have been lost: the ways to its node changed.
    Reconnected(OwnedServerName),
    /// The last node that was proven to speak for a server does so no longer.
    Offline(OwnedServerName),
    /// A proof is over; `disconnect` where the node is still there.
    Over { peer: P, disconnect: bool },
    /// Connect a node.
    Dial { peer: P, addresses: Vec<A> },
    /// Look for providers of a rendezvous string.
    FindProviders { ticket: u64, rendezvous: Vec<String> },
    /// Look for a node.
    FindNode { ticket: u64, peer: P },
    /// Ask for a profile.
    AskProfile { ticket: u64, user: OwnedUserId },
    /// Come back with [`Input::Retry`].
    RetryLater(u64),
    /// Come back with [`Input::Settled`].
    SettleLater { ticket: u64, stirred: u64 },
    /// Answer a [`Input::Resolve`].
    Resolved { ticket: u64, peer: Option<P> },
    /// Answer a [`Input::Search`].
    Searched { ticket: u64, found: Vec<FoundPerson> },
    /// Write a row of the address book, or drop it.
    Write { server: OwnedServerName, peer: P, place: Option<Place<P, A>> },
    /// Be a provider of these strings only.
    Provide(Vec<String>),
}

/// A connected node that speaks our protocols.
#[derive(Debug)]
struct Node<A> {
    addresses: Vec<A>,
    exchanging: bool,
    proof: Option<Proof>,
}

impl<A> Default for Node<A> {
    fn default() -> Self {
        Self { addresses: Vec::new(), exchanging: false, proof: None }
    }
}

#[derive(Debug)]
struct Proof {
    server: OwnedServerName,
    valid_until_ts: u64,
}

/// Who is where.
#[derive(Debug)]
pub(super) struct Machine<P, A> {
    us: Option<OwnedServerName>,
    display_name: Option<String>,
    /// Who registered here.
    others: Vec<String>,
    /// Servers that share a room with us.
    shared: HashSet<OwnedServerName>,
    nodes: HashMap<P, Node<A>>,
    newest: CertificateCache,
    book: Places<P, A>,
    book_loaded: bool,
    book_dialled: bool,
    failed: LruCache<OwnedServerName, u64>,
    hunts: BTreeMap<u64, Hunt<P>>,
    /// When the network has settled after it came up.
    settled: u64,
    /// When the input in hand came.
    now: u64,
}

impl<P, A> Default for Machine<P, A> {
    fn default() -> Self {
        Self {
            us: None,
            display_name: None,
            others: Vec::new(),
            shared: HashSet::new(),
            nodes: HashMap::new(),
            newest: CertificateCache::new(NEWEST_MAX),
            book: Places::default(),
            book_loaded: false,
            book_dialled: false,
            failed: LruCache::new(SERVERS_MAX),
            hunts: BTreeMap::new(),
            settled: 0,
            now: 0,
        }
    }
}

type Effects<P, A> = Vec<Effect<P, A>>;

impl<P: Copy + Eq + Hash + Display, A: Clone + PartialEq> Machine<P, A> {
    /// Returns the server that a node speaks for.
    pub(super) fn server_of(&self, peer: &P) -> Option<&OwnedServerName> {
        Some(&self.nodes.get(peer)?.proof.as_ref()?.server)
    }

    /// Returns all servers whose node is connected and proven.
    pub(super) fn proven_now(&self, now: u64) -> Vec<(OwnedServerName, P)> {
        let proven = self.nodes.iter().filter_map(|(peer, node)| {
            let proof = node.proof.as_ref().filter(|proof| now <= proof.valid_until_ts)?;
            Some((proof.server.clone(), *peer))
        });
        proven.collect()
    }

    /// Takes what happened; `now` is in milliseconds.
    pub(super) fn handle(&mut self, input: Input<P, A>, now: u64) -> Effects<P, A> {
        let mut out = Vec::new();
        self.now = now;
        match input {
            Input::Signer(us) => self.signer(us, &mut out),
            Input::Book(rows) => self.load_book(rows, &mut out),
            Input::Newest(all) => {
                for keys in all {
                    let server = keys.server_name().to_owned();
                    self.supersede(&server, &keys, &mut out);
                }
            }
            Input::Seen { peer, ours, addresses } => self.seen(peer, ours, addresses, &mut out),
            Input::PathChanged(peer) => {
                let server = self.server_of(&peer).cloned();
                out.extend(server.map(Effect::Reconnected));
            }
            Input::Gone(peer) | Input::DialFailed(peer) => {
                if let Some(proof) = self.nodes.remove(&peer).and_then(|node| node.proof) {
                    out.push(Effect::Over { peer, disconnect: false });
                    self.ended(proof.server, &mut out);
                }
                self.settle(&peer, &mut out);
            }
            Input::KeysCame(peer) => {
                self.nodes.entry(peer).or_default();
            }
            Input::Keys { peer, keys } => self.keys(peer, keys, now, &mut out),
            Input::IdentityFailed(peer) => self.unproven(&peer, &mut out),
            Input::Found { ticket, peers, done } => self.found(ticket, peers, done, &mut out),
            Input::Resolve { ticket, server } => self.resolve(ticket, server, now, &mut out),
            Input::Search { ticket, goal, addresses, limit } => {
                self.search(ticket, goal, addresses, limit, now, &mut out);
            }
            Input::Profile { ticket, user, profile } => {
                if let Some(hunt) = self.hunts.get_mut(&ticket) {
                    hunt.profile(&user, profile);
                }
                self.check(ticket, &mut out);
            }
            Input::Retry(ticket) => self.round(ticket, Vec::new(), &mut out),
            Input::Settled { ticket, stirred } => {
                if self.hunts.get(&ticket).is_some_and(|hunt| hunt.settled_since(stirred)) {
                    self.end(ticket, &mut out);
                }
            }
            Input::TimeUp(ticket) => self.time_up(ticket, &mut out),
            Input::Shared { added, removed } => self.share(added, removed, &mut out),
            Input::Advertise { display_name, others } => {
                self.display_name = Some(display_name);
                self.others = others;
                self.provide(&mut out);
            }
            Input::Tick => self.tick(now, &mut out),
            Input::Restarted => {
                self.settled = now.saturating_add(SETTLING_MS);
                let nodes = std::mem::take(&mut self.nodes);
                for (peer, node) in nodes {
                    if let Some(proof) = node.proof {
                        out.push(Effect::Over { peer, disconnect: false });
                        self.ended(proof.server, &mut out);
                    }
                }
                self.provide(&mut out);
            }
        }
        out
    }

    fn signer(&mut self, us: OwnedServerName, out: &mut Effects<P, A>) {
        if self.us.replace(us).is_none() {
            self.settled = self.now.saturating_add(SETTLING_MS);
        }
        self.provide(out);
        // Whoever is there gets the new ones.
        for (peer, node) in &mut self.nodes {
            node.exchanging = true;
            out.push(Effect::Exchange(*peer));
        }
        // The clock may have been set: who could not be believed, or found, until now can be. Whoever
        // is connected is not dialled again.
        self.failed.clear();
        self.book_dialled = false;
        self.dial_book(out);
    }

    fn provide(&self, out: &mut Effects<P, A>) {
        if let (Some(us), Some(name)) = (&self.us, &self.display_name) {
            let others = self.others.iter();
            let others = others.flat_map(|name| rendezvous::strings_of_user(name, us));
            let mut strings = rendezvous::strings(name, us);
            strings.extend(others);
            // Somebody may be called as the owner is shown.
            let mut seen = HashSet::new();
            strings.retain(|string| seen.insert(string.clone()));
            out.push(Effect::Provide(strings));
        }
    }

    fn load_book(&mut self, rows: Vec<(OwnedServerName, Place<P, A>)>, out: &mut Effects<P, A>) {
        // Old rows stay: it may be our clock that is wrong, and nothing brings a row back.
        let gone = self.book.load(rows);
        forgotten(gone, out);
        self.book_loaded = true;
        self.dial_book(out);
    }

    /// Once there are both an identity and a book, goes where people were last.
    fn dial_book(&mut self, out: &mut Effects<P, A>) {
        if self.us.is_none() || !self.book_loaded || self.book_dialled {
            return;
        }
        self.book_dialled = true;
        let oldest = self.now.saturating_sub(BOOK_AGE_MS);
        let places = self.book.last_seen(oldest).into_iter().take(BOOK_DIALS);
        out.extend(
            places
                .map(|place| Effect::Dial { peer: place.peer, addresses: place.addresses.clone() }),
        );
    }

    fn seen(&mut self, peer: P, ours: bool, addresses: Vec<A>, out: &mut Effects<P, A>) {
        if !ours {
            return self.settle(&peer, out);
        }
        let node = self.nodes.entry(peer).or_default();
        node.addresses.clone_from(&addresses);
        if let Some(proof) = &node.proof {
            let (server, until) = (proof.server.clone(), proof.valid_until_ts);
            self.remember(&server, peer, addresses, until, out);
            // A hunt may have dialled it between its proof and now.
            self.settle(&peer, out);
        } else if !node.exchanging {
            node.exchanging = true;
            out.push(Effect::Exchange(peer));
        }
    }

    /// A node did not prove anything.
    fn unproven(&mut self, peer: &P, out: &mut Effects<P, A>) {
        let Some(node) = self.nodes.get_mut(peer) else { return };
        node.exchanging = false;
        if node.proof.is_none() {
            self.settle(peer, out);
        }
    }

    fn keys(
        &mut self,
        peer: P,
        keys: Option<VerifiedServerKeys>,
        now: u64,
        out: &mut Effects<P, A>,
    ) {
        // Gone while they were verified.
        if !self.nodes.contains_key(&peer) {
            return;
        }
        if let Some(keys) =
            keys.as_ref().filter(|keys| self.us.as_deref() == Some(keys.server_name()))
        {
            out.push(Effect::Own(Box::new(keys.clone())));
        }
        let good = keys.filter(|keys| {
            let ours = self.us.as_deref() == Some(keys.server_name());
            !ours && keys.speaks(&peer.to_string(), now)
        });
        let Some(keys) = good else { return self.unproven(&peer, out) };
        let server = keys.server_name().to_owned();
        self.supersede(&server, &keys, out);
        if !self.speaks(&peer, &server) {
            return self.unproven(&peer, out);
        }
        let Some(node) = self.nodes.get_mut(&peer) else { return };
        node.exchanging = false;
        let first = node.proof.as_ref().is_none_or(|proof| proof.server != server);
        let proof = Proof { server: server.clone(), valid_until_ts: keys.valid_until_ts() };
        node.proof = Some(proof);
        let addresses = node.addresses.clone();
        self.failed.pop(&server);
        self.remember(&server, peer, addresses, keys.valid_until_ts(), out);
        out.push(Effect::Proven { peer, keys: Box::new(keys), first });
        if first && self.shared.contains(&server) {
            out.push(Effect::Admit(peer, server.clone()));
        }
        self.proven(peer, &server, out);
    }

    fn share(
        &mut self,
        added: Vec<OwnedServerName>,
        removed: Vec<OwnedServerName>,
        out: &mut Effects<P, A>,
    ) {
        for server in removed {
            if self.shared.remove(&server) {
                out.extend(self.nodes_of(&server).map(Effect::Part));
            }
        }
        for server in added {
            if self.shared.insert(server.clone()) {
                let admit = |peer| Effect::Admit(peer, server.clone());
                out.extend(self.nodes_of(&server).map(admit));
            }
        }
    }

    /// Returns the nodes that are proven to speak for a server.
    fn nodes_of(&self, server: &OwnedServerName) -> impl Iterator<Item = P> {
        let of_it =
            move |node: &Node<A>| node.proof.as_ref().is_some_and(|proof| proof.server == *server);
        self.nodes.iter().filter(move |(_, node)| of_it(node)).map(|(peer, _)| *peer)
    }

    /// Takes server_keys of a server. They end the proofs of its nodes for which none speak now: those of
    /// each verify key speak for themselves alone, so several nodes of a server do not end each other.
    fn supersede(
        &mut self,
        server: &OwnedServerName,
        keys: &VerifiedServerKeys,
        out: &mut Effects<P, A>,
    ) {
        if self.newest.get(server).is_some_and(|known| !known.certificates.lacks(keys)) {
            return;
        }
        let now = self.now;
        self.newest.change(server, |known| known.certificates.add(&Arc::new(keys.clone())));
        let Some(known) = self.newest.peek(server) else { return };
        let mut over = false;
        for (peer, node) in &mut self.nodes {
            let proves = node.proof.as_ref().is_some_and(|proof| proof.server == *server);
            if proves && !known.certificates.speaks(&peer.to_string(), now) {
                node.proof = None;
                over = true;
                out.push(Effect::Over { peer: *peer, disconnect: true });
            }
        }
        if over {
            self.ended(server.clone(), out);
        }
    }

    /// Tells whether a node speaks for a server, by the newest server_keys of any of its verify keys.
    fn speaks(&self, peer: &P, server: &ServerName) -> bool {
        let known = self.newest.peek(server);
        known.is_some_and(|known| known.certificates.speaks(&peer.to_string(), self.now))
    }

    fn remember(
        &mut self,
        server: &OwnedServerName,
        peer: P,
        addresses: Vec<A>,
        valid_until_ts: u64,
        out: &mut Effects<P, A>,
    ) {
        let now = self.now;
        let place = Place { peer, addresses, valid_until_ts, seen_ts: now };
        if !self.book.lacks(server, &place) {
            return;
        }
        let mut gone = self.book.put(server, place.clone());
        out.push(Effect::Write { server: server.clone(), peer, place: Some(place) });
        // Nodes that its server_keys name no more. Where they ran out, another node may only be off.
        let known = self.newest.peek(server);
        let speaks =
            |peer: &P| known.is_none_or(|known| known.certificates.speaks(&peer.to_string(), now));
        gone.extend(self.book.forget(server, |place| {
            place.peer != peer && place.valid_until_ts >= now && !speaks(&place.peer)
        }));
        gone.extend(self.book.forget_strangers(|server| !self.shared.contains(server)));
        forgotten(gone, out);
    }

    /// Somebody was proven: they may be whom hunts are after.
    fn proven(&mut self, peer: P, server: &ServerName, out: &mut Effects<P, A>) {
        let tickets: Vec<u64> = self.hunts.keys().copied().collect();
        for ticket in tickets {
            if let Some(hunt) = self.hunts.get_mut(&ticket) {
                hunt.settled(&peer);
            }
            self.consider(ticket, peer, server, out);
            self.check(ticket, out);
        }
    }

    fn consider(&mut self, ticket: u64, peer: P, server: &ServerName, out: &mut Effects<P, A>) {
        let Some(hunt) = self.hunts.get_mut(&ticket) else { return };
        if !hunt.goal.matches(&peer, server) {
            return;
        }
        if !hunt.people {
            self.hunts.remove(&ticket);
            out.push(Effect::Resolved { ticket, peer: Some(peer) });
        } else {
            let users = hunt.meet(server).into_iter();
            out.extend(users.map(|user| Effect::AskProfile { ticket, user }));
        }
    }

    /// Nothing more comes of a candidate than what its proof, if any, already gave.
    fn settle(&mut self, peer: &P, out: &mut Effects<P, A>) {
        let tickets: Vec<u64> = self.hunts.keys().copied().collect();
        let server = self.server_of(peer).cloned();
        for ticket in tickets {
            let waited = self.hunts.get_mut(&ticket).is_some_and(|hunt| hunt.settled(peer));
            if waited {
                if let Some(server) = &server {
                    self.consider(ticket, *peer, server, out);
                }
                self.check(ticket, out);
            }
        }
    }

    fn found(&mut self, ticket: u64, peers: Vec<P>, done: bool, out: &mut Effects<P, A>) {
        for peer in peers {
            if let Some(server) = self.server_of(&peer).cloned() {
                self.consider(ticket, peer, &server, out);
            } else if let Some(hunt) = self.hunts.get_mut(&ticket) {
                hunt.candidate(peer);
            }
        }
        if done && let Some(hunt) = self.hunts.get_mut(&ticket) {
            hunt.query_ended();
        }
        self.check(ticket, out);
    }

    fn resolve(&mut self, ticket: u64, server: OwnedServerName, now: u64, out: &mut Effects<P, A>) {
        let live = self.nodes.iter().find(|(_, node)| {
            let proof = node.proof.as_ref();
            proof.is_some_and(|proof| proof.server == server && now <= proof.valid_until_ts)
        });
        let live = live.map(|(peer, _)| *peer);
        let failed = self.failed.peek(&server).is_some_and(|until| now < *until);
        let refused = failed || self.us.is_none() || self.us.as_ref() == Some(&server);
        if live.is_some() || refused || self.hunts.len() >= HUNTS_MAX {
            out.push(Effect::Resolved { ticket, peer: live });
            return;
        }
        let goal = Goal::Server(server);
        let follows = self.hunts.values().any(|hunt| !hunt.people && hunt.goal == goal);
        let mut hunt = Hunt::new(goal, false, 1);
        if follows {
            // Another hunt looks already: what it finds counts here too, and so does its end.
            hunt.began(1);
            self.hunts.insert(ticket, hunt);
        } else {
            self.hunts.insert(ticket, hunt);
            self.round(ticket, Vec::new(), out);
        }
    }

    fn search(
        &mut self,
        ticket: u64,
        goal: Goal<P>,
        addresses: Vec<A>,
        limit: usize,
        now: u64,
        out: &mut Effects<P, A>,
    ) {
        let ourselves = goal.server().is_some() && goal.server() == self.us.as_deref();
        if limit == 0 || ourselves || self.us.is_none() || self.hunts.len() >= HUNTS_MAX {
            out.push(Effect::Searched { ticket, found: Vec::new() });
            return;
        }
        let exact = !matches!(goal, Goal::Suffix { .. });
        let limit = if exact { 1 } else { limit };
        self.hunts.insert(ticket, Hunt::new(goal, true, limit));
        let mut known = false;
        for (server, peer) in self.proven_now(now) {
            let before = out.len();
            self.consider(ticket, peer, &server, out);
            known |= out.len() > before;
        }
        // One proven answer is the answer; behind a suffix there may be others.
        if !(exact && known) {
            self.round(ticket, addresses, out);
        }
    }

    /// Looks wherever there may be something.
    fn round(&mut self, ticket: u64, addresses: Vec<A>, out: &mut Effects<P, A>) {
        let Some(hunt) = self.hunts.get_mut(&ticket) else { return };
        hunt.began(1);
        let rendezvous = hunt.goal.rendezvous();
        if !rendezvous.is_empty() {
            out.push(Effect::FindProviders { ticket, rendezvous });
        }
        match &hunt.goal {
            Goal::Server(_) | Goal::User(_) => {
                let Some(server) = hunt.goal.server().map(ToOwned::to_owned) else { return };
                let live = |place: &&Place<P, A>| self.now <= place.valid_until_ts;
                for place in self.book.of(&server).filter(live) {
                    let (peer, addresses) = (place.peer, place.addresses.clone());
                    hunt.candidate(peer);
                    out.push(Effect::Dial { peer, addresses });
                }
            }
            Goal::Suffix { .. } => {}
            Goal::Node(peer) => {
                let peer = *peer;
                hunt.candidate(peer);
                out.push(Effect::Dial { peer, addresses });
                out.push(Effect::FindNode { ticket, peer });
            }
        }
    }

    fn check(&mut self, ticket: u64, out: &mut Effects<P, A>) {
        let settling = self.is_settling();
        let Some(hunt) = self.hunts.get_mut(&ticket) else { return };
        match hunt.progress(settling) {
            Progress::Open => {
                if let Some(stirred) = hunt.settle() {
                    out.push(Effect::SettleLater { ticket, stirred });
                }
            }
            Progress::Retry => out.push(Effect::RetryLater(ticket)),
            Progress::Over => {
                let goal = hunt.goal.clone();
                let people = hunt.people;
                self.end(ticket, out);
                if let (false, Goal::Server(server)) = (people, &goal) {
                    let until = self.now.saturating_add(FAILED_MS);
                    self.failed.put(server.clone(), until);
                    let same =
                        self.hunts.iter().filter(|(_, hunt)| !hunt.people && hunt.goal == goal);
                    let followers: Vec<u64> = same.map(|(ticket, _)| *ticket).collect();
                    for follower in followers {
                        self.end(follower, out);
                    }
                }
            }
        }
    }

    fn is_settling(&self) -> bool {
        self.now < self.settled
    }

    fn time_up(&mut self, ticket: u64, out: &mut Effects<P, A>) {
        // Another long search for a server that is off would end like this one.
        if let Some(hunt) = self.hunts.get(&ticket)
            && !hunt.people
            && !self.is_settling()
            && let Goal::Server(server) = &hunt.goal
        {
            self.failed.put(server.clone(), self.now.saturating_add(FAILED_MS));
        }
        self.end(ticket, out);
    }

    /// Answers with what there is.
    fn end(&mut self, ticket: u64, out: &mut Effects<P, A>) {
        let Some(hunt) = self.hunts.remove(&ticket) else { return };
        out.push(match hunt.people {
            true => Effect::Searched { ticket, found: hunt.found },
            false => Effect::Resolved { ticket, peer: None },
        });
    }

    fn tick(&mut self, now: u64, out: &mut Effects<P, A>) {
        let mut over = Vec::new();
        for (peer, node) in &mut self.nodes {
            if let Some(proof) = node.proof.take_if(|proof| proof.valid_until_ts < now) {
                over.push(proof.server);
                out.push(Effect::Over { peer: *peer, disconnect: true });
            } else if node.proof.is_none() && !node.exchanging {
                // It had no identity yet, or was too busy to answer.
                node.exchanging = true;
                out.push(Effect::Exchange(*peer));
            }
        }
        for server in over {
            self.ended(server, out);
        }
    }

    /// A proof of a server ended: tells whether it was the last.
    fn ended(&self, server: OwnedServerName, out: &mut Effects<P, A>) {
        if self.nodes_of(&server).next().is_none() {
            out.push(Effect::Offline(server));
        }
    }
}

/// Has the rows of places dropped that are no more.
fn forgotten<P, A>(gone: Vec<Forgotten<P>>, out: &mut Effects<P, A>) {
    out.extend(gone.into_iter().map(|(server, peer)| Effect::Write { server, peer, place: None }));
}

#[cfg(test)]
mod tests;
