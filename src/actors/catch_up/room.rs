//! What is missing in one room, in its order: what is to be asked of whom, what came, what goes to the
//! room next. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry};

use ruma::{OwnedEventId, OwnedServerName};

use crate::{config::limits, proto::heads::Gap};

/// Pages of ids that are asked for in one go, however little is in each.
const PAGES: usize = 64;

/// An event that is missing.
#[derive(Debug)]
struct Wanted<E> {
    id: OwnedEventId,
    /// Who named it, in [`Room::tellers`].
    by: usize,
    state: State<E>,
}

#[derive(Debug)]
enum State<E> {
    Open,
    Asked,
    Here(OwnedServerName, E),
    /// Nobody gives it.
    Gone,
}

/// Somebody who named what is missing.
#[derive(Debug)]
struct Teller {
    server: OwnedServerName,
    /// It gave some of that: until then nobody else is asked for it.
    is_true: bool,
    /// The places of what it named and nobody was asked for yet.
    open: BTreeSet<usize>,
}

/// How many events a room has to do with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Those that were named and are not with the room.
    pub(super) in_line: usize,
    /// Those of them that were asked for, or are here and wait.
    pub(super) held: usize,
}

/// One room.
#[derive(Debug)]
pub(super) struct Room<E> {
    /// What is here, and the heads that are to be reached.
    gap: Gap,
    /// Who names what is missing, as long as there is more to be named.
    teller: Option<OwnedServerName>,
    /// Who named something; what each named stands behind what those before it did.
    tellers: Vec<Teller>,
    /// Who has the heads, and was not asked yet to name what leads to them.
    untold: BTreeSet<OwnedServerName>,
    /// The last ids that were named.
    tail: Vec<OwnedEventId>,
    pages: usize,
    named: usize,
    /// Most that are named before the next one is asked.
    most: usize,
    /// What is missing, in its order. A place is counted from the first that ever stood here.
    line: VecDeque<Wanted<E>>,
    /// The place of the first in line.
    first: usize,
    /// The place of each that was named, those that are with the room already among them.
    places: HashMap<OwnedEventId, usize>,
    load: Load,
    /// The places of what each server was asked for.
    asked: BTreeMap<OwnedServerName, Vec<usize>>,
    /// Who has the heads, and so all before them, less what each turned out not to give.
    sources: BTreeMap<OwnedServerName, HashSet<OwnedEventId>>,
    /// Events are with the room.
    pub(super) is_taking: bool,
    /// Servers that have other heads.
    pub(super) others: BTreeMap<OwnedServerName, Vec<OwnedEventId>>,
}

impl<E> Room<E> {
    /// Makes a room of which so many events are fetched at most.
    pub(super) fn new(teller: OwnedServerName, gap: Gap, most: usize) -> Self {
        Self {
            gap,
            teller: Some(teller),
            tellers: Vec::new(),
            untold: BTreeSet::new(),
            tail: Vec::new(),
            pages: 0,
            named: 0,
            most,
            line: VecDeque::new(),
            first: 0,
            places: HashMap::new(),
            load: Load::default(),
            asked: BTreeMap::new(),
            sources: BTreeMap::new(),
            is_taking: false,
            others: BTreeMap::new(),
        }
    }

    /// A server has these heads. Where they are those that are being worked for, it is asked too;
    /// else it waits for its turn.
    pub(super) fn has(&mut self, server: &OwnedServerName, heads: Vec<OwnedEventId>) {
        let known = |id| self.gap.latest_events.contains(id) || self.places.contains_key(id);
        if self.teller.as_ref() == Some(server) {
            // It is being asked.
        } else if heads.iter().all(known) {
            self.sources.entry(server.clone()).or_default();
            if self.tellers.iter().all(|teller| teller.server != *server) {
                self.untold.insert(server.clone());
            }
        } else {
            self.others.insert(server.clone(), heads);
        }
    }

    /// Returns what is to be named next, if that is due and this server is who names it.
    pub(super) fn next_page(&self, server: &OwnedServerName) -> Option<Gap> {
        if self.teller.as_ref() != Some(server) {
            return None;
        }
        // Of whom nothing came yet no second page is asked for while there is something to give.
        let is_true =
            self.tellers.last().is_some_and(|teller| teller.is_true && teller.server == *server);
        let Load { in_line, held } = self.load;
        let is_due = in_line == 0 || (is_true && in_line - held < limits::MISSING_EVENTS);
        is_due.then(|| {
            let earliest = self.gap.earliest_events.iter().take(2 * limits::HEADS);
            Gap {
                earliest_events: earliest.chain(&self.tail).cloned().collect(),
                latest_events: self.gap.latest_events.clone(),
            }
        })
    }

    /// Takes a page of ids in: those that are not here, how many were named, the last of them.
    pub(super) fn name(
        &mut self,
        server: &OwnedServerName,
        missing: Vec<OwnedEventId>,
        named: usize,
        tail: Vec<OwnedEventId>,
        more: bool,
    ) {
        self.pages += 1;
        self.named += named;
        self.tail = tail;
        if self.tellers.last().is_none_or(|teller| teller.server != *server) {
            let (server, open) = (server.clone(), BTreeSet::new());
            self.tellers.push(Teller { server, is_true: false, open });
        }
        let by = self.tellers.len() - 1;
        let lacks = self.sources.entry(server.clone()).or_default();
        let mut lacked = Vec::new();
        for id in missing {
            let place = self.first + self.line.len();
            if lacks.contains(&id) {
                lacked.push(place);
            }
            if let Entry::Vacant(vacant) = self.places.entry(id.clone()) {
                vacant.insert(place);
                self.line.push_back(Wanted { id, by, state: State::Open });
                self.load.in_line += 1;
                if let Some(teller) = self.tellers.last_mut() {
                    teller.open.insert(place);
                }
            }
        }
        let goes_on = more && named > 0 && self.pages < PAGES && self.named < self.most;
        if !goes_on {
            self.teller = None;
        }
        // It may name what it did not give before.
        self.drop_orphans(Some(&lacked));
    }

    /// Where nobody names anything more and the heads were not reached, the next one is asked who has
    /// them.
    fn pass_on(&mut self) {
        let is_named = |id: &OwnedEventId| self.places.contains_key(id);
        if self.teller.is_none() && !self.gap.latest_events.iter().all(is_named) {
            self.teller = self.untold.pop_first();
            self.tail.clear();
            (self.pages, self.named) = (0, 0);
        }
    }

    fn wanted(&mut self, place: usize) -> Option<&mut Wanted<E>> {
        self.line.get_mut(place.checked_sub(self.first)?)
    }

    /// Chooses events to ask a server for.
    pub(super) fn ask(&mut self, server: &OwnedServerName, most: usize) -> Vec<OwnedEventId> {
        let Some(lacks) = self.sources.get(server) else { return Vec::new() };
        let may = |teller: &&Teller| teller.is_true || teller.server == *server;
        let open = self.tellers.iter().filter(may).flat_map(|teller| &teller.open);
        let wanted = |place: &usize| self.line.get(place.checked_sub(self.first)?);
        let asked: Vec<(usize, OwnedEventId)> = open
            .filter_map(|place| Some((*place, wanted(place)?.id.clone())))
            .filter(|(_, id)| !lacks.contains(id))
            .take(most)
            .collect();
        if asked.is_empty() {
            return Vec::new();
        }
        for (place, _) in &asked {
            self.hold(*place, State::Asked);
        }
        let (places, ids) = asked.into_iter().unzip();
        self.asked.insert(server.clone(), places);
        ids
    }

    /// An open event is open no more.
    fn hold(&mut self, place: usize, state: State<E>) {
        let Some(wanted) = self.wanted(place) else { return };
        let is_gone = matches!(state, State::Gone);
        wanted.state = state;
        let by = wanted.by;
        if let Some(teller) = self.tellers.get_mut(by) {
            teller.open.remove(&place);
        }
        match is_gone {
            true => self.load.in_line -= 1,
            false => self.load.held += 1,
        }
    }

    /// An event that was asked for did not come.
    fn reopen(&mut self, place: usize) {
        let Some(wanted) = self.wanted(place) else { return };
        wanted.state = State::Open;
        let by = wanted.by;
        if let Some(teller) = self.tellers.get_mut(by) {
            teller.open.insert(place);
        }
        self.load.held -= 1;
    }

    /// A server answered. What it did not give of what comes before `cut` it has not.
    pub(super) fn give(
        &mut self,
        server: &OwnedServerName,
        asked: &[OwnedEventId],
        mut given: BTreeMap<OwnedEventId, E>,
        cut: usize,
    ) {
        let gave_none = given.is_empty() && cut == asked.len();
        if let Some(source) = self.sources.get_mut(server) {
            let lacks = asked.iter().take(cut).filter(|id| !given.contains_key(*id));
            source.extend(lacks.cloned());
        }
        let mut reopened = Vec::new();
        for place in self.asked.remove(server).unwrap_or_default() {
            let Some(wanted) = self.wanted(place) else { continue };
            let Some(event) = given.remove(&wanted.id) else {
                self.reopen(place);
                reopened.push(place);
                continue;
            };
            wanted.state = State::Here(server.clone(), event);
            let by = wanted.by;
            let teller = self.tellers.get_mut(by);
            if let Some(teller) = teller.filter(|teller| teller.server == *server) {
                teller.is_true = true;
            }
        }
        // Whoever names what he does not give is asked no more. Whoever does not give what others named
        // may still have what leads to the heads.
        if gave_none {
            self.sources.remove(server);
            if self.teller.as_ref() == Some(server) {
                self.teller = None;
            }
            return self.drop_orphans(None);
        }
        self.drop_orphans(Some(&reopened));
    }

    /// A server is asked no more.
    pub(super) fn lose(&mut self, server: &OwnedServerName) {
        let was_source = self.sources.remove(server).is_some();
        self.untold.remove(server);
        self.others.remove(server);
        if self.teller.as_ref() == Some(server) {
            self.teller = None;
        }
        for place in self.asked.remove(server).unwrap_or_default() {
            self.reopen(place);
        }
        self.drop_orphans((!was_source).then_some(&[]));
    }

    /// Lets go of events that nobody gives, and of those behind them: they would have to wait. Somebody
    /// else may name them again. Where it is known which may be such, the others are not looked at.
    fn drop_orphans(&mut self, among: Option<&[usize]>) {
        let is_orphan = |place: &usize| {
            let wanted = place.checked_sub(self.first).and_then(|at| self.line.get(at));
            let Some(wanted) = wanted.filter(|it| matches!(it.state, State::Open)) else {
                return false;
            };
            let teller = self.tellers.get(wanted.by);
            !self.sources.iter().any(|(server, lacks)| {
                let may = teller.is_some_and(|it| it.is_true || it.server == *server);
                may && !lacks.contains(&wanted.id)
            })
        };
        let hole = match among {
            Some(among) => among.iter().copied().filter(is_orphan).min(),
            None => self.tellers.iter().flat_map(|it| &it.open).copied().find(is_orphan),
        };
        if let Some(hole) = hole {
            let open = self.tellers.iter().flat_map(|teller| teller.open.range(hole..));
            for place in open.copied().collect::<Vec<_>>() {
                if let Some(wanted) = place.checked_sub(self.first).and_then(|at| self.line.get(at))
                {
                    self.places.remove(&wanted.id);
                }
                self.hold(place, State::Gone);
            }
        }
        self.pass_on();
    }

    /// Returns the events that the room takes in next, all of one server, unless it is at work.
    pub(super) fn next_events(&mut self) -> Option<(OwnedServerName, Vec<E>)> {
        if self.is_taking {
            return None;
        }
        let mut taken: Option<(OwnedServerName, Vec<E>)> = None;
        while taken.as_ref().is_none_or(|(_, events)| events.len() < limits::MISSING_EVENTS) {
            let is_next = |wanted: &mut Wanted<E>| match &wanted.state {
                State::Here(from, _) => taken.as_ref().is_none_or(|(server, _)| server == from),
                State::Gone => true,
                State::Open | State::Asked => false,
            };
            let Some(next) = self.line.pop_front_if(is_next) else { break };
            self.first += 1;
            if let State::Here(from, event) = next.state {
                self.load.held -= 1;
                self.load.in_line -= 1;
                taken.get_or_insert_with(|| (from, Vec::new())).1.push(event);
            }
        }
        self.is_taking = taken.is_some();
        taken
    }

    /// Tells whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        self.load.in_line == 0 && self.teller.is_none() && !self.is_taking
    }

    /// Returns how many events are being waited for.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// What the counts must be.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let count = |is: fn(&State<E>) -> bool| self.line.iter().filter(|it| is(&it.state)).count();
        let open = count(|state| matches!(state, State::Open));
        let held = count(|state| matches!(state, State::Asked | State::Here(..)));
        assert_eq!(self.load, Load { in_line: open + held, held });
        assert_eq!(self.tellers.iter().map(|teller| teller.open.len()).sum::<usize>(), open);
        let asked: usize = self.asked.values().map(Vec::len).sum();
        assert_eq!(count(|state| matches!(state, State::Asked)), asked);
        for (at, wanted) in self.line.iter().enumerate() {
            let is_gone = matches!(wanted.state, State::Gone);
            assert!(is_gone || self.places.get(&wanted.id) == Some(&(self.first + at)));
        }
    }
}
