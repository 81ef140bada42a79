//! What is missing in one room, in its order: what is to be asked of whom, what came, what goes to the
//! room next. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

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
    Asked(OwnedServerName),
    Here(OwnedServerName, E),
}

/// One room.
#[derive(Debug)]
pub(super) struct Room<E> {
    /// What is here, and the heads that are to be reached.
    gap: Gap,
    /// Who names what is missing, as long as there is more to be named.
    teller: Option<OwnedServerName>,
    /// Who named something, and whether they gave some of that: until then nobody else is asked for it.
    tellers: Vec<(OwnedServerName, bool)>,
    /// Who has the heads, and was not asked yet to name what leads to them.
    untold: BTreeSet<OwnedServerName>,
    /// The last ids that were named.
    tail: Vec<OwnedEventId>,
    pages: usize,
    named: usize,
    line: VecDeque<Wanted<E>>,
    in_line: HashSet<OwnedEventId>,
    /// Who has the heads, and so all before them, less what each turned out not to give.
    sources: BTreeMap<OwnedServerName, HashSet<OwnedEventId>>,
    /// Events are with the room.
    pub(super) is_taking: bool,
    /// Servers that have other heads.
    pub(super) others: BTreeMap<OwnedServerName, Vec<OwnedEventId>>,
}

impl<E> Room<E> {
    pub(super) fn new(teller: OwnedServerName, gap: Gap) -> Self {
        Self {
            gap,
            teller: Some(teller),
            tellers: Vec::new(),
            untold: BTreeSet::new(),
            tail: Vec::new(),
            pages: 0,
            named: 0,
            line: VecDeque::new(),
            in_line: HashSet::new(),
            sources: BTreeMap::new(),
            is_taking: false,
            others: BTreeMap::new(),
        }
    }

    /// A server has these heads. Where they are those that are being worked for, it is asked too;
    /// else it waits for its turn.
    pub(super) fn has(&mut self, server: &OwnedServerName, heads: Vec<OwnedEventId>) {
        let known = |id| self.gap.latest_events.contains(id) || self.in_line.contains(id);
        if self.teller.as_ref() == Some(server) {
            // It is being asked.
        } else if heads.iter().all(known) {
            self.sources.entry(server.clone()).or_default();
            if self.tellers.iter().all(|(teller, _)| teller != server) {
                self.untold.insert(server.clone());
            }
        } else {
            self.others.insert(server.clone(), heads);
        }
    }

    /// Returns what is to be named next, if that is due and this server is who names it.
    pub(super) fn next_page(&self, server: &OwnedServerName) -> Option<Gap> {
        // Of whom nothing came yet no second page is asked for while there is something to give.
        let is_true =
            self.tellers.last().is_some_and(|(teller, is_true)| *is_true && teller == server);
        let is_due = self.line.is_empty() || (is_true && self.open() < limits::MISSING_EVENTS);
        (self.teller.as_ref() == Some(server) && is_due).then(|| {
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
        if self.tellers.last().is_none_or(|(teller, _)| teller != server) {
            self.tellers.push((server.clone(), false));
        }
        let by = self.tellers.len() - 1;
        for id in missing {
            if self.in_line.insert(id.clone()) {
                self.line.push_back(Wanted { id, by, state: State::Open });
            }
        }
        self.sources.entry(server.clone()).or_default();
        let goes_on = more && named > 0 && self.pages < PAGES && self.named < limits::CATCH_UP_ROOM;
        if !goes_on {
            self.teller = None;
            self.pass_on();
        }
    }

    /// Where nobody names anything more and the heads were not reached, the next one is asked who has
    /// them.
    fn pass_on(&mut self) {
        let is_named = |id: &OwnedEventId| self.in_line.contains(id);
        if self.teller.is_none() && !self.gap.latest_events.iter().all(is_named) {
            self.teller = self.untold.pop_first();
            self.tail.clear();
            (self.pages, self.named) = (0, 0);
        }
    }

    /// Events that nobody was asked for yet.
    fn open(&self) -> usize {
        self.line.iter().filter(|wanted| matches!(wanted.state, State::Open)).count()
    }

    /// Chooses events to ask a server for.
    pub(super) fn ask(&mut self, server: &OwnedServerName, most: usize) -> Vec<OwnedEventId> {
        let Some(lacks) = self.sources.get(server) else { return Vec::new() };
        let mut asked = Vec::new();
        for wanted in &mut self.line {
            if asked.len() >= most {
                break;
            }
            let teller = self.tellers.get(wanted.by);
            let may = teller.is_some_and(|(teller, is_true)| *is_true || teller == server);
            if may && matches!(wanted.state, State::Open) && !lacks.contains(&wanted.id) {
                wanted.state = State::Asked(server.clone());
                asked.push(wanted.id.clone());
            }
        }
        asked
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
        let lacks: HashSet<&OwnedEventId> =
            asked.iter().take(cut).filter(|id| !given.contains_key(*id)).collect();
        if let Some(source) = self.sources.get_mut(server) {
            source.extend(lacks.into_iter().cloned());
        }
        for wanted in &mut self.line {
            if matches!(&wanted.state, State::Asked(of) if of == server) {
                wanted.state = match given.remove(&wanted.id) {
                    Some(event) => {
                        let teller = self.tellers.get_mut(wanted.by);
                        if let Some((_, is_true)) = teller.filter(|(teller, _)| teller == server) {
                            *is_true = true;
                        }
                        State::Here(server.clone(), event)
                    }
                    None => State::Open,
                };
            }
        }
        // Whoever names what he does not give is asked no more. Whoever does not give what others named
        // may still have what leads to the heads.
        if gave_none {
            self.sources.remove(server);
            if self.teller.as_ref() == Some(server) {
                self.teller = None;
            }
        }
        self.drop_orphans();
    }

    /// A server is asked no more.
    pub(super) fn lose(&mut self, server: &OwnedServerName) {
        self.sources.remove(server);
        self.untold.remove(server);
        self.others.remove(server);
        if self.teller.as_ref() == Some(server) {
            self.teller = None;
        }
        for wanted in &mut self.line {
            if matches!(&wanted.state, State::Asked(of) if of == server) {
                wanted.state = State::Open;
            }
        }
        self.drop_orphans();
    }

    /// Lets go of events that nobody gives, and of those behind them: they would have to wait. Somebody
    /// else may name them again.
    fn drop_orphans(&mut self) {
        let (sources, tellers) = (&self.sources, &self.tellers);
        let has_source = |wanted: &Wanted<E>| {
            let teller = tellers.get(wanted.by);
            sources.iter().any(|(server, lacks)| {
                let may = teller.is_some_and(|(teller, is_true)| *is_true || teller == server);
                may && !lacks.contains(&wanted.id)
            })
        };
        let is_orphan =
            |wanted: &Wanted<E>| matches!(wanted.state, State::Open) && !has_source(wanted);
        if let Some(hole) = self.line.iter().position(is_orphan) {
            let mut behind = self.line.split_off(hole);
            behind.retain(|wanted| {
                let is_open = matches!(wanted.state, State::Open);
                if is_open {
                    self.in_line.remove(&wanted.id);
                }
                !is_open
            });
            self.line.append(&mut behind);
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
            match self.line.pop_front() {
                Some(Wanted { state: State::Here(from, event), id, by }) => match &mut taken {
                    None => taken = Some((from, vec![event])),
                    Some((server, events)) if *server == from => events.push(event),
                    Some(_) => {
                        self.line.push_front(Wanted { id, by, state: State::Here(from, event) });
                        break;
                    }
                },
                Some(other) => {
                    self.line.push_front(other);
                    break;
                }
                None => break,
            }
        }
        self.is_taking = taken.is_some();
        taken
    }

    /// Tells whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        self.line.is_empty() && self.teller.is_none() && !self.is_taking
    }

    /// Events that were asked for, or are here and wait.
    pub(super) fn held(&self) -> usize {
        self.line.len() - self.open()
    }

    /// Events that were named and are not with the room.
    pub(super) fn in_line(&self) -> usize {
        self.line.len()
    }
}
