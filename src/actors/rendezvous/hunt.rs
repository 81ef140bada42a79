//! One search, from the first hint to the answer. Pure; part of the machine.
//!
//! Invariant: a hunt ends as soon as nothing more can come: no query is open, no candidate is
//! being connected or proven, no profile is being asked, and no further try is left.

use std::{collections::HashSet, hash::Hash};

use ruma::{OwnedServerName, ServerName};

use super::FoundPerson;
use crate::proto::server_name;

/// Tries of a DHT that answers nothing: queries may end early, and tables fill in the first
/// seconds of a node.
const TRIES: u8 = 3;
/// Candidates of one hunt.
const CANDIDATES_MAX: usize = 64;

/// Whom a hunt is after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal<P> {
    /// One server.
    Server(OwnedServerName),
    /// Everybody who shows this name and whose server name ends so.
    Suffix { display_name: String, suffix: String },
    /// Whoever this node speaks for.
    Node(P),
}

impl<P: PartialEq> Goal<P> {
    /// Tells whether a proven identity may be what is hunted. A suffix is not the whole truth: the
    /// shown name is asked for later.
    pub(super) fn matches(&self, peer: &P, server: &ServerName) -> bool {
        match self {
            Self::Server(name) => name == server,
            Self::Suffix { suffix, .. } => server.as_str().ends_with(suffix.as_str()),
            Self::Node(node) => node == peer,
        }
    }

    /// Returns the rendezvous string to look for, if there is one.
    pub(super) fn rendezvous(&self) -> Option<String> {
        match self {
            Self::Server(name) => Some(format!("{}:{name}", server_name::LOCALPART)),
            Self::Suffix { display_name, suffix } => Some(format!("{display_name}:{suffix}")),
            Self::Node(_) => None,
        }
    }
}

/// A profile as its owner answered it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) displayname: Option<String>,
    pub(super) avatar_url: Option<String>,
}

/// A search that goes on.
#[derive(Debug)]
pub(super) struct Hunt<P> {
    pub(super) goal: Goal<P>,
    /// Profiles are asked and people answered; else the node is all that is wanted.
    pub(super) people: bool,
    limit: usize,
    queries: usize,
    tries: u8,
    waiting_to_retry: bool,
    candidates: HashSet<P>,
    asking: HashSet<OwnedServerName>,
    met: HashSet<OwnedServerName>,
    pub(super) found: Vec<FoundPerson>,
}

/// How a hunt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Something may still come.
    Open,
    /// Nothing came; it is to be tried once more, later.
    Retry,
    /// Nothing more can come.
    Over,
}

impl<P: Copy + Eq + Hash> Hunt<P> {
    pub(super) fn new(goal: Goal<P>, people: bool, limit: usize) -> Self {
        Self {
            goal,
            people,
            limit,
            queries: 0,
            tries: 0,
            waiting_to_retry: false,
            candidates: HashSet::new(),
            asking: HashSet::new(),
            met: HashSet::new(),
            found: Vec::new(),
        }
    }

    /// A round of queries begins.
    pub(super) fn began(&mut self, queries: usize) {
        self.queries += queries;
        self.waiting_to_retry = false;
        self.tries += 1;
    }

    /// A query ended.
    pub(super) fn query_ended(&mut self) {
        self.queries = self.queries.saturating_sub(1);
    }

    /// Somebody may be who is hunted; they are being connected.
    pub(super) fn candidate(&mut self, peer: P) {
        if self.candidates.len() < CANDIDATES_MAX {
            self.candidates.insert(peer);
        }
    }

    /// A candidate was proven, or cannot be.
    pub(super) fn settled(&mut self, peer: &P) -> bool {
        self.candidates.remove(peer)
    }

    /// Somebody was proven who matches: tells whether their profile is to be asked.
    pub(super) fn meet(&mut self, server: &ServerName) -> bool {
        let room = self.found.len() + self.asking.len() < self.limit;
        let ask = room && self.met.insert(server.to_owned());
        if ask {
            self.asking.insert(server.to_owned());
        }
        ask
    }

    /// The profile of somebody came, or did not.
    pub(super) fn profile(&mut self, server: &ServerName, profile: Option<Profile>) {
        if !self.asking.remove(server) {
            return;
        }
        let shown = match (&self.goal, profile) {
            (Goal::Suffix { display_name, .. }, Some(profile)) => {
                let name = profile.displayname.as_deref().unwrap_or(server_name::LOCALPART);
                // Provider records outlive a name by hours: only the shown one counts.
                if name != display_name {
                    return;
                }
                profile
            }
            (Goal::Suffix { .. }, None) => return,
            (_, profile) => profile.unwrap_or_default(),
        };
        self.found.push(FoundPerson {
            user_id: server_name::user_of(server),
            displayname: shown.displayname,
            avatar_url: shown.avatar_url,
        });
    }

    /// Tells whether anything can still come.
    pub(super) fn standing(&mut self) -> Standing {
        if self.people && self.found.len() >= self.limit {
            return Standing::Over;
        }
        let busy = self.queries > 0
            || self.waiting_to_retry
            || !self.candidates.is_empty()
            || !self.asking.is_empty();
        if busy {
            return Standing::Open;
        }
        if self.found.is_empty() && self.tries < TRIES {
            self.waiting_to_retry = true;
            return Standing::Retry;
        }
        Standing::Over
    }
}
