//! How simulated nodes fetch what they miss: by the real machine; and what that leaves, as a room does
//! by itself: the ancestors of an event that waits, the state before them, and history.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, OwnedServerName};

use super::{
    super::{
        filling::Came,
        machine::{Effect, Failure, Given, Page},
    },
    messages::{Answer, Asked, Ids, Message, Request},
    node::{Behaves, Fetch},
    world::{ANSWER, Action, FILL_EVERY, PAGE, SECOND, World},
};
use crate::{
    actors::room::machine::tests::given_by,
    config::limits,
    proto::{
        heads::{MissingIds, fingerprint},
        pdu::Received,
    },
};

/// Ancestors that are asked for at once, and how often before the state is.
const BEFORE: usize = 8;
const ROUNDS: usize = 3;
/// Who is asked for history, one after another.
const CANDIDATES: usize = 8;
/// Who else is asked for what an event waits for.
const OTHERS: usize = 2;
/// Events whose ancestors are fetched at the same time, as a room does it.
const FETCHES: usize = 8;

impl World {
    pub(super) fn hear(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Gossip(envelope) => self.heard(to, from, envelope),
            Message::Heads(heads) => self.catch_up(to, from, heads),
            Message::Compare(theirs) => {
                let ours = self.nodes[to].heads();
                let differs = fingerprint(&ours) != fingerprint(&theirs);
                if differs && self.nodes[to].way != Behaves::Silent {
                    self.send(to, from, Message::Heads(Arc::new(ours)));
                }
            }
            Message::Request(number, Request::Owed(names)) => {
                if let Some(status) = self.told(from, to, names) {
                    self.send(to, from, Message::Answer(number, Answer::Status(status)));
                }
            }
            Message::Request(number, request) => {
                if let Some(answer) = self.answer(to, number, request) {
                    self.send(to, from, Message::Answer(number, answer));
                }
            }
            Message::Answer(number, answer) => {
                if let Some(asked) = self.nodes[to].pending.remove(&number) {
                    self.answered(to, asked, Some(answer));
                }
            }
        }
    }

    fn answer(&mut self, node: usize, number: u64, request: Request) -> Option<Answer> {
        let way = self.nodes[node].way;
        if way == Behaves::Silent {
            return None;
        }
        let gives = way.gives();
        Some(match request {
            Request::Ids(_) if way == Behaves::Invents => {
                let made_up = |it| OwnedEventId::try_from(format!("$no_{number}_{it}")).unwrap();
                Answer::Ids(MissingIds { ids: (0..PAGE).map(made_up).collect(), more: true })
            }
            Request::Ids(gap) => Answer::Ids(self.nodes[node].name(&gap, PAGE)),
            Request::Events(_) | Request::Before { .. } if !gives => {
                Answer::Events(Vec::new(), false)
            }
            Request::Events(ids) => {
                let here = ids.iter().filter(|id| self.nodes[node].has(id));
                let mut given: Vec<_> = here.cloned().collect();
                let is_full = given.len() > ANSWER;
                given.truncate(ANSWER);
                Answer::Events(given, is_full)
            }
            Request::Before { latest, earliest } => {
                let page = if earliest.is_empty() { ANSWER } else { BEFORE };
                Answer::Events(self.nodes[node].walk_back(&latest, &earliest, page), false)
            }
            Request::State(_) if !gives => Answer::Status(404),
            Request::State(id) => {
                let said = std::mem::take(&mut self.said);
                let given = self.with(node, |node| {
                    let pdu = said.get(&id).filter(|_| node.has(&id))?.pdu.clone();
                    given_by(&mut node.replica, &pdu, |pdu| said[&pdu.event_id].clone())
                });
                self.said = said;
                given.map_or(Answer::Status(404), |given| Answer::State(Arc::new(given)))
            }
            Request::Owed(_) => return None,
        })
    }

    /// What was asked came to this; nothing where it was given up.
    pub(super) fn answered(&mut self, node: usize, asked: Asked, answer: Option<Answer>) {
        let name = |of: usize, world: &Self| world.names[of].clone();
        if let Some(Answer::Events(ids, _)) = &answer {
            self.nodes[node].came += ids.len();
        }
        match (asked, answer) {
            (Asked::Ids(of), answer) => {
                let pages = match answer {
                    Some(Answer::Ids(MissingIds { ids, more })) => {
                        let named = ids.len();
                        let tail = ids[named.saturating_sub(20)..].to_vec();
                        let here = |id: &OwnedEventId| self.nodes[node].has(id);
                        let missing = ids.into_iter().filter(|id| !here(id)).collect();
                        let page = Page { missing, named, tail, more };
                        Ok(BTreeMap::from([(self.room_id.clone(), page)]))
                    }
                    _ => Err(Failure::NoAnswer),
                };
                let name = name(of, self);
                let effects = self.nodes[node].machine.named(&name, pages);
                self.carry_out(node, effects);
            }
            (Asked::Events(of), answer) => {
                let given = match answer {
                    Some(Answer::Events(ids, is_full)) => {
                        let events = ids.into_iter().map(|id| (id.clone(), id)).collect();
                        let rooms = BTreeMap::from([(self.room_id.clone(), events)]);
                        Ok(Given { rooms, is_full })
                    }
                    _ => Err(Failure::NoAnswer),
                };
                let name = name(of, self);
                let effects = self.nodes[node].machine.given(&name, given);
                self.carry_out(node, effects);
            }
            (Asked::Head(of), Some(Answer::Events(ids, _))) => {
                self.take(node, &ids);
                for id in ids {
                    if self.nodes[node].replica.machine.is_parked(&id) {
                        self.fetch(node, &id, of);
                    }
                }
            }
            (Asked::Before(of, event), Some(Answer::Events(ids, _))) => {
                self.take_before(node, of, event, ids);
            }
            (Asked::State(event, oldest), Some(Answer::State(given))) => {
                let stepped = self.with(node, |node| {
                    let stepped = node.replica.step_over(&oldest, &given);
                    node.keep();
                    stepped
                });
                self.nodes[node].jumps += usize::from(stepped);
                self.fill_soon(node);
                self.fetch_from_another(node, event);
            }
            (Asked::Before(_, event) | Asked::State(event, _), _) => {
                self.fetch_from_another(node, event);
            }
            (Asked::History(others), answer) => {
                let ids = match answer {
                    Some(Answer::Events(ids, _)) => ids,
                    _ => Vec::new(),
                };
                self.fill_with(node, others, &ids);
            }
            (Asked::Head(_), _) => {}
            (Asked::Owed(server), answer) => {
                let status = match answer {
                    Some(Answer::Status(status)) => Some(status),
                    _ => None,
                };
                self.sent(node, &server, status);
            }
        }
    }

    fn events(&self, ids: &[OwnedEventId]) -> Vec<Received> {
        ids.iter().filter_map(|id| self.said.get(id)).cloned().collect()
    }

    /// A node takes events in, and what waited for them.
    pub(super) fn take(&mut self, node: usize, ids: &[OwnedEventId]) {
        let events = self.events(ids);
        self.with(node, |node| node.take(&events));
    }

    pub(super) fn catch_up(&mut self, node: usize, of: usize, heads: Ids) {
        let Some(gap) = self.nodes[node].lacking(&heads) else { return };
        self.nodes[node].theirs.insert(of, heads);
        let (rooms, name) = ([self.room_id.clone()], self.names[of].clone());
        let gaps = vec![(self.room_id.clone(), gap)];
        let effects = self.nodes[node].machine.looked(&name, &rooms, gaps);
        self.carry_out(node, effects);
    }

    pub(super) fn carry_out(&mut self, node: usize, effects: Vec<Effect<OwnedEventId>>) {
        for effect in effects {
            match effect {
                Effect::AskIds(server, rooms) => {
                    let of = self.index[&server];
                    let gap = rooms.into_values().next().unwrap();
                    self.request(node, of, Asked::Ids(of), Request::Ids(gap));
                }
                Effect::AskEvents(server, rooms) => {
                    let of = self.index[&server];
                    let ids = Arc::new(rooms.into_values().next().unwrap());
                    self.request(node, of, Asked::Events(of), Request::Events(ids));
                }
                Effect::Look(server, heads) => {
                    let rooms: Vec<_> = heads.iter().map(|(id, _)| id.clone()).collect();
                    let gaps = heads
                        .into_iter()
                        .filter_map(|(id, heads)| Some((id, self.nodes[node].lacking(&heads)?)));
                    let gaps = gaps.collect();
                    let effects = self.nodes[node].machine.looked(&server, &rooms, gaps);
                    self.carry_out(node, effects);
                }
                Effect::Take(_, _, ids) => {
                    self.take(node, &ids);
                    let starts = self.nodes[node].starts;
                    let wait = 1 + self.dice.below(50);
                    self.after(wait, Action::Taken { node, starts });
                }
                Effect::Done(server, done) => self.done(node, &server, done.is_ok()),
            }
        }
    }

    /// No more comes by ids: what is lacking still is followed.
    fn done(&mut self, node: usize, server: &OwnedServerName, is_ok: bool) {
        let of = self.index[server];
        let Some(heads) = self.nodes[node].theirs.remove(&of).filter(|_| is_ok) else { return };
        for id in heads.iter().take(limits::HEADS) {
            let here = &self.nodes[node];
            if !here.has(id) && !here.replica.machine.is_parked(id) {
                let request = Request::Events(Arc::new(vec![id.clone()]));
                self.request(node, of, Asked::Head(of), request);
            }
        }
        self.fetch_parked(node, of);
    }

    /// Fetches what an event waits for.
    pub(super) fn fetch(&mut self, node: usize, event: &OwnedEventId, of: usize) {
        let fetching = &mut self.nodes[node].fetching;
        if fetching.len() >= FETCHES || fetching.contains_key(event) {
            return;
        }
        fetching.insert(event.clone(), Fetch { round: 0, latest: Vec::new(), others: Vec::new() });
        let mut others = self.others_of(node);
        others.retain(|other| *other != of);
        others.truncate(OTHERS);
        if let Some(fetch) = self.nodes[node].fetching.get_mut(event) {
            fetch.others = others;
        }
        self.fetch_before(node, event.clone(), of);
    }

    /// Goes on with another member where an event waits still.
    fn fetch_from_another(&mut self, node: usize, event: OwnedEventId) {
        let here = &mut self.nodes[node];
        let waits = here.replica.machine.is_parked(&event);
        let fetch = here.fetching.get_mut(&event).filter(|_| waits);
        let next = fetch.and_then(|fetch| {
            fetch.round = 0;
            fetch.others.pop()
        });
        match next {
            Some(of) => self.fetch_before(node, event, of),
            None => self.fetched(node, &event),
        }
    }

    /// Returns all other nodes, by chance.
    fn others_of(&mut self, node: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        for at in 1..others.len() {
            others.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
        others
    }

    /// What could not be had before, this server may have.
    pub(super) fn fetch_parked(&mut self, node: usize, of: usize) {
        if let Some(event) = self.nodes[node].replica.machine.next_fetch(false) {
            self.fetch(node, &event, of);
        }
    }

    fn fetch_before(&mut self, node: usize, event: OwnedEventId, of: usize) {
        let here = &mut self.nodes[node];
        let mut latest = here.replica.machine.frontier_of(&event);
        latest.truncate(limits::HEADS);
        let earliest = here.heads();
        let Some(fetch) = here.fetching.get_mut(&event) else { return };
        fetch.latest.clone_from(&latest);
        if latest.is_empty() {
            return self.fetched(node, &event);
        }
        let request = Request::Before { latest, earliest };
        self.request(node, of, Asked::Before(of, event), request);
    }

    fn take_before(
        &mut self,
        node: usize,
        of: usize,
        event: OwnedEventId,
        mut ids: Vec<OwnedEventId>,
    ) {
        ids.retain(|id| self.said.contains_key(id) && !self.nodes[node].has(id));
        ids.sort_by_key(|id| self.said[id].pdu.depth);
        self.take(node, &ids);
        let here = &mut self.nodes[node];
        let waits = here.replica.machine.frontier_of(&event);
        let Some(fetch) = here.fetching.get_mut(&event) else { return };
        fetch.round += 1;
        let is_stuck = waits.iter().take(limits::HEADS).eq(&fetch.latest);
        match waits.into_iter().next() {
            Some(oldest) if is_stuck || fetch.round >= ROUNDS => {
                let request = Request::State(oldest.clone());
                self.request(node, of, Asked::State(event, oldest), request);
            }
            Some(_) => self.fetch_before(node, event, of),
            None => self.fetched(node, &event),
        }
    }

    /// The fetch for an event has ended; those that found no place before come next.
    fn fetched(&mut self, node: usize, event: &OwnedEventId) {
        let here = &mut self.nodes[node];
        here.fetching.remove(event);
        here.replica.machine.tried(event);
        let next = here.replica.machine.next_fetch(true);
        let from = next.as_ref().and_then(|next| here.replica.machine.sender_of_parked(next));
        if let (Some(next), Some(from)) = (next, from) {
            let of = self.index[&from];
            self.fetch(node, &next, of);
        }
    }

    /// What is behind a gap comes in the background.
    pub(super) fn fill_soon(&mut self, node: usize) {
        let starts = self.nodes[node].starts;
        if !self.nodes[node].replica.gaps().is_empty() {
            let wait = FILL_EVERY + self.dice.below(SECOND);
            self.after(wait, Action::Fill { node, starts });
        }
    }

    /// Asks somebody for a page of what is missing behind a gap.
    pub(super) fn fill(&mut self, node: usize) {
        self.fill_soon(node);
        let here = &mut self.nodes[node];
        if !here.is_up || here.replica.gaps().is_empty() {
            return;
        }
        here.filling.found(self.room_id.clone(), self.now);
        if here.filling.next(self.now).is_none() {
            return;
        }
        let mut others = self.others_of(node);
        others.truncate(CANDIDATES);
        self.ask_history(node, others);
    }

    fn ask_history(&mut self, node: usize, mut others: Vec<usize>) {
        let latest = self.nodes[node].replica.gaps().keys().take(limits::HEADS).cloned().collect();
        let Some(of) = others.pop() else {
            let (room_id, now) = (self.room_id.clone(), self.now);
            return self.nodes[node].filling.done(&room_id, Came::Nothing, now);
        };
        let request = Request::Before { latest, earliest: Vec::new() };
        self.request(node, of, Asked::History(others), request);
    }

    /// Takes a page of history in; where none came, the next one is asked.
    fn fill_with(&mut self, node: usize, others: Vec<usize>, ids: &[OwnedEventId]) {
        let events = self.events(ids);
        let some = self.with(node, |node| {
            let some = node.replica.backfill(&events);
            node.keep();
            some
        });
        let here = &mut self.nodes[node];
        let is_whole = here.replica.gaps().is_empty();
        match (is_whole, some) {
            (true, _) => here.filling.done(&self.room_id, Came::Whole, self.now),
            (_, true) => here.filling.done(&self.room_id, Came::Some, self.now),
            _ => self.ask_history(node, others),
        }
    }
}
