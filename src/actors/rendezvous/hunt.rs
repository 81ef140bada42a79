//! One search, from the first hint to the answer. Pure; part of the machine.
//!
//! Invariant: a hunt ends as soon as nothing more can come: no query is open, no candidate is
//! being connected or proven, no profile is being asked, and no further try is left. One that has
//! something to show does not wait for the slow and the dead.

use std::{collections::HashSet, hash::Hash};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::FoundPerson;
use crate::proto::{rendezvous, server_name};

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
    /// One user of a server.
    User(OwnedUserId),
    /// Everybody who shows this name, or registered by it, and whose server name ends so.
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
            Self::User(user) => user.server_name() == server,
            Self::Suffix { suffix, .. } => server.as_str().ends_with(suffix.as_str()),
            Self::Node(node) => node == peer,
        }
    }

    /// Returns the one server that can answer, where that is known.
    pub(super) fn server(&self) -> Option<&ServerName> {
        match self {
            Self::Server(name) => Some(name),
            Self::User(user) => Some(user.server_name()),
            Self::Suffix { .. } | Self::Node(_) => None,
        }
    }

    /// Returns whose profiles a server is asked for that matches.
    fn users_of(&self, server: &ServerName) -> Vec<OwnedUserId> {
        let owner = server_name::user_of(server);
        match self {
            Self::User(user) => vec![user.clone()],
            Self::Suffix { display_name, .. } => {
                let named = rendezvous::user_named(display_name, server);
                std::iter::once(owner).chain(named).collect()
            }
            Self::Server(_) | Self::Node(_) => vec![owner],
        }
    }

    /// Returns the rendezvous strings to look for, if there are any.
    pub(super) fn rendezvous(&self) -> Vec<String> {
        match self {
            Self::Server(_) | Self::User(_) => {
                let server = self.server().into_iter();
                server.map(|name| format!("{}:{name}", server_name::LOCALPART)).collect()
            }
            Self::Suffix { display_name, suffix } => rendezvous::looked_for(display_name, suffix),
            Self::Node(_) => Vec::new(),
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
    asking: HashSet<OwnedUserId>,
    met: HashSet<OwnedUserId>,
    /// Counts what happened.
    stirred: u64,
    /// How far it had come when somebody began to wait whether more happens.
    settling: Option<u64>,
    pub(super) found: Vec<FoundPerson>,
}

/// How a hunt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
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
            stirred: 0,
            settling: None,
            found: Vec::new(),
        }
    }

    /// A round of queries begins.
    pub(super) fn began(&mut self, queries: usize) {
        self.queries += queries;
        self.waiting_to_retry = false;
        self.tries = self.tries.saturating_add(1);
        self.stirred += 1;
    }

    /// A query ended.
    pub(super) fn query_ended(&mut self) {
        self.queries = self.queries.saturating_sub(1);
    }

    /// Somebody may be who is hunted; they are being connected.
    pub(super) fn candidate(&mut self, peer: P) {
        if self.candidates.len() < CANDIDATES_MAX && self.candidates.insert(peer) {
            self.stirred += 1;
        }
    }

    /// A candidate was proven, or cannot be.
    pub(super) fn settled(&mut self, peer: &P) -> bool {
        let waited = self.candidates.remove(peer);
        self.stirred += u64::from(waited);
        waited
    }

    /// Somebody was proven who matches: tells whose profiles are to be asked.
    pub(super) fn meet(&mut self, server: &ServerName) -> Vec<OwnedUserId> {
        if self.found.len() + self.asking.len() >= self.limit {
            return Vec::new();
        }
        let mut users = self.goal.users_of(server);
        users.retain(|user| self.met.insert(user.clone()));
        if !users.is_empty() {
            self.stirred += 1;
            self.asking.extend(users.iter().cloned());
        }
        users
    }

    /// The profile of somebody came, or did not.
    pub(super) fn profile(&mut self, user: &UserId, profile: Option<Profile>) {
        if !self.asking.remove(user) {
            return;
        }
        self.stirred += 1;
        let is_owner = user.localpart() == server_name::LOCALPART;
        let shown = match (&self.goal, profile) {
            // Whose server knows them by this name are who was looked for, whatever they show.
            (_, Some(profile)) if !is_owner => profile,
            (_, None) if !is_owner => return,
            (Goal::Suffix { display_name, .. }, Some(profile)) => {
                let name = profile.displayname.as_deref().unwrap_or(server_name::LOCALPART);
                // Provider records outlive a name by hours: only the shown one counts.
                if !rendezvous::same_name(name, display_name) {
                    return;
                }
                profile
            }
            (Goal::Suffix { .. }, None) => return,
            (_, profile) => profile.unwrap_or_default(),
        };
        if self.found.len() >= self.limit {
            return;
        }
        self.found.push(FoundPerson {
            user_id: user.to_owned(),
            displayname: shown.displayname,
            avatar_url: shown.avatar_url,
        });
    }

    /// Tells, once for each thing that happened, how far it has come, where there is something to
    /// show and nobody is being asked: if nothing more happens for a while, that is the answer.
    pub(super) fn settle(&mut self) -> Option<u64> {
        let ready = self.people && !self.found.is_empty() && self.asking.is_empty();
        if !ready || self.settling == Some(self.stirred) {
            return None;
        }
        self.settling = Some(self.stirred);
        self.settling
    }

    /// Tells whether nothing happened since.
    pub(super) fn settled_since(&self, stirred: u64) -> bool {
        self.stirred == stirred
    }

    /// Tells whether anything can still come. While the network settles, a server is looked for as long
    /// as somebody waits.
    pub(super) fn progress(&mut self, settling: bool) -> Progress {
        if self.people && self.found.len() >= self.limit {
            return Progress::Over;
        }
        let busy = self.queries > 0
            || self.waiting_to_retry
            || !self.candidates.is_empty()
            || !self.asking.is_empty();
        if busy {
            return Progress::Open;
        }
        let patient = settling && !self.people;
        if self.found.is_empty() && (patient || self.tries < TRIES) {
            self.waiting_to_retry = true;
            return Progress::Retry;
        }
        Progress::Over
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::proto::server_name::user_of;

    fn suffix() -> Goal<u8> {
        Goal::Suffix { display_name: "Ann".into(), suffix: "abcdefg".into() }
    }

    fn asked(hunt: &mut Hunt<u8>, server: &ServerName) -> Vec<String> {
        hunt.meet(server).iter().map(|user| user.localpart().to_owned()).collect()
    }

    fn shown(name: &str) -> Option<Profile> {
        Some(Profile { displayname: Some(name.into()), avatar_url: None })
    }

    #[test]
    fn goals() {
        let ann = server_name!("xxabcdefg");
        for (goal, peer, server, expected) in [
            (Goal::Server(ann.to_owned()), 1, ann, true),
            (Goal::Server(ann.to_owned()), 1, server_name!("other"), false),
            (suffix(), 1, ann, true),
            (suffix(), 1, server_name!("abcdefgx"), false),
            (Goal::Node(1), 1, ann, true),
            (Goal::Node(1), 2, ann, false),
        ] {
            assert_eq!(goal.matches(&peer, server), expected, "{goal:?} {peer} {server}");
        }
        assert_eq!(suffix().rendezvous(), ["Ann:abcdefg", "ann:abcdefg"]);
        assert_eq!(Goal::Server::<u8>(ann.to_owned()).rendezvous(), ["p2p:xxabcdefg"]);
        assert!(Goal::Node(1).rendezvous().is_empty());
    }

    #[test]
    fn all_who_match_are_shown_under_the_name_that_they_show() {
        let names = ["1abcdefg", "2abcdefg", "3abcdefg", "4abcdefg"];
        let servers = names.map(|name| OwnedServerName::try_from(name).unwrap());
        let mut hunt = Hunt::<u8>::new(suffix(), true, 20);
        hunt.began(1);
        for server in &servers {
            assert_eq!(asked(&mut hunt, server), ["p2p", "ann"]);
            assert_eq!(asked(&mut hunt, server), [""; 0], "nobody is asked twice");
        }
        hunt.query_ended();
        assert_eq!(hunt.progress(false), Progress::Open, "profiles are being asked");
        for (server, profile) in
            servers.iter().zip([shown("Ann"), shown("ANN"), shown("Anna"), None])
        {
            hunt.profile(&user_of(server), profile);
            let other = OwnedUserId::try_from(format!("@ann:{server}")).unwrap();
            let registered = *server == servers[3];
            hunt.profile(&other, registered.then(|| shown("Whoever").unwrap()));
        }
        assert_eq!(hunt.progress(false), Progress::Over);
        let found: Vec<_> = hunt.found.iter().map(|person| person.user_id.as_str()).collect();
        assert_eq!(found, ["@p2p:1abcdefg", "@p2p:2abcdefg", "@ann:4abcdefg"]);
        hunt.profile(&user_of(&servers[0]), shown("Ann"));
        assert_eq!(hunt.found.len(), 3, "an answer that nobody waits for");
    }

    #[test]
    fn who_never_chose_a_name_is_found_under_the_first_one() {
        let goal = Goal::Suffix { display_name: "p2p".into(), suffix: "abcdefg".into() };
        let mut hunt = Hunt::<u8>::new(goal, true, 10);
        hunt.meet(server_name!("1abcdefg"));
        hunt.profile(&user_of(server_name!("1abcdefg")), Some(Profile::default()));
        assert_eq!(hunt.found.len(), 1);
    }

    #[test]
    fn who_is_looked_for_by_id_is_found_or_nobody() {
        let server = server_name!("1abcdefg");
        for (name, known, found) in
            [("bob", true, 1), ("bob", false, 0), ("p2p", true, 1), ("p2p", false, 1)]
        {
            let user = OwnedUserId::try_from(format!("@{name}:{server}")).unwrap();
            let mut hunt = Hunt::<u8>::new(Goal::User(user.clone()), true, 1);
            assert_eq!(hunt.goal.rendezvous(), ["p2p:1abcdefg"]);
            assert!(hunt.goal.matches(&1, server) && !hunt.goal.matches(&1, server_name!("x")));
            assert_eq!(hunt.meet(server), std::slice::from_ref(&user));
            hunt.profile(&user, known.then(Profile::default));
            assert_eq!(hunt.found.len(), found, "{name} {known}");
        }
    }

    #[test]
    fn a_hunt_ends_when_nothing_more_can_come() {
        let mut hunt = Hunt::<u8>::new(suffix(), true, 1);
        for tried in 1..=TRIES {
            hunt.began(1);
            assert_eq!(hunt.progress(false), Progress::Open);
            hunt.candidate(7);
            hunt.query_ended();
            assert_eq!(hunt.progress(false), Progress::Open, "somebody is being connected");
            assert!(hunt.settled(&7));
            assert!(!hunt.settled(&7));
            let expected = if tried < TRIES { Progress::Retry } else { Progress::Over };
            assert_eq!(hunt.progress(false), expected);
        }
    }

    #[test]
    fn who_was_found_need_not_wait_for_the_dead() {
        let mut hunt = Hunt::<u8>::new(suffix(), true, 10);
        hunt.began(2);
        hunt.candidate(7);
        assert_eq!(hunt.settle(), None, "there is nothing to show");
        let (owner, other) = (user_of(server_name!("1abcdefg")), "@ann:1abcdefg");
        let other = OwnedUserId::try_from(other).unwrap();
        assert_eq!(hunt.meet(server_name!("1abcdefg")), [owner.clone(), other.clone()]);
        assert_eq!(hunt.settle(), None, "profiles are being asked");
        hunt.profile(&owner, shown("Ann"));
        hunt.profile(&other, None);
        let stirred = hunt.settle().unwrap();
        assert_eq!(hunt.settle(), None, "told once");
        assert!(hunt.settled_since(stirred));
        hunt.candidate(8);
        assert!(!hunt.settled_since(stirred), "somebody else may match too");
        let stirred = hunt.settle().unwrap();
        hunt.candidate(8);
        hunt.query_ended();
        assert!(hunt.settled_since(stirred), "that is no news");
        assert_eq!(hunt.progress(false), Progress::Open);
        let mut node = Hunt::<u8>::new(suffix(), false, 10);
        node.profile(&user_of(server_name!("1abcdefg")), shown("Ann"));
        assert_eq!(node.settle(), None, "only searches for people have something to show");
    }

    #[test]
    fn a_full_hunt_ends_at_once() {
        let mut hunt = Hunt::<u8>::new(suffix(), true, 1);
        hunt.began(1);
        assert_eq!(hunt.meet(server_name!("1abcdefg")).len(), 2);
        assert!(hunt.meet(server_name!("2abcdefg")).is_empty(), "one is enough");
        hunt.profile(&user_of(server_name!("1abcdefg")), shown("Ann"));
        assert_eq!(hunt.progress(false), Progress::Over);
    }
}
