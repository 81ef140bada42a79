//! The rules of the Outbox: what is sent next to whom, when it is tried again, and what gives way.
//! Pure; what is sent stands on disk, here is what has to be known of it.
//!
//! Invariants: of one server one request is under way, and nothing is sent before what was owed to it
//! earlier in the same lane came to an end; nothing is sent that is not on disk; number and bytes are
//! bounded. What a server has no place for now holds back its lane, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::{End, Ended, Form, Matter, OutboxStatus, OwedCount, ServerOwed, Waiting, kept::Kept};
use crate::config::limits;

/// A server that was not reached is tried again after this long, in milliseconds; doubled each time.
const AGAIN_MS: u64 = 60_000;
/// Longest pause between two tries.
const AGAIN_MAX_MS: u64 = 60 * 60_000;
/// A lane of which a server has no place for something is tried again after this long; doubled each time.
const BUSY_MS: u64 = 5_000;
/// The next lane is tried this long after a server had no place; doubled each time, up to
/// [`STEP_MAX_MS`].
const STEP_MS: u64 = 1_000;
const STEP_MAX_MS: u64 = 60_000;
/// The pause after a try that failed although the server was met meanwhile.
const MET_MS: u64 = 1_000;
/// How long after it was met a server has to fetch what it lacks of rooms, before it is sent it.
const FETCH_MS: u64 = 10_000;
/// The same where it lacks more than is sent: of that it could place nothing before it has the rest.
const FETCH_LONG_MS: u64 = 5 * 60_000;
/// How long it may take until an event is part of its room, before it is looked whether it is.
const DECIDE_MS: u64 = 5 * 60_000;
/// Servers, and items of each, that are told of.
const SHOWN_SERVERS: usize = 200;
const SHOWN_ITEMS: usize = 10;

/// How an item travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Put,
    Pdu,
    Edu,
    Leave,
    Events,
}

impl From<&Form> for Shape {
    fn from(form: &Form) -> Self {
        match form {
            Form::Put { .. } => Self::Put,
            Form::Pdu(_) => Self::Pdu,
            Form::Edu(_) => Self::Edu,
            Form::Leave { .. } => Self::Leave,
            Form::Events { .. } => Self::Events,
        }
    }
}

/// What has to arrive in the order in which it was owed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// What happened in a room.
    Room(OwnedRoomId),
    /// Messages to devices.
    ToDevice,
    /// Device lists.
    DeviceLists,
    /// Events that nobody else has: the graph of their room has their order.
    Events,
}

impl From<&Matter> for Lane {
    fn from(matter: &Matter) -> Self {
        match matter {
            Matter::Invite { room_id, .. }
            | Matter::Membership { room_id, .. }
            | Matter::Declined { room_id, .. } => Self::Room(room_id.clone()),
            Matter::ToDevice { .. } => Self::ToDevice,
            Matter::DeviceList { .. } => Self::DeviceLists,
            Matter::Events { .. } => Self::Events,
        }
    }
}

/// A lane of which a server had no place for something.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// It is tried again then, by the uptime.
    until: u64,
    /// How often in a row there was no place.
    times: u32,
}

/// What is to be known of an item that is owed.
#[derive(Debug, Clone)]
pub(super) struct New {
    pub(super) matter: Matter,
    pub(super) shape: Shape,
    pub(super) len: usize,
    pub(super) made_ts: u64,
    pub(super) once: Option<(OwnedRoomId, OwnedEventId)>,
}

#[derive(Debug)]
struct Item {
    number: u64,
    matter: Matter,
    lane: Lane,
    shape: Shape,
    len: usize,
    made_ts: u64,
    expires_ts: u64,
    tries: u32,
    is_on_disk: bool,
    is_decided: bool,
}

impl Item {
    /// Makes an item that is not on disk yet.
    fn new(number: u64, new: &New, expires_ts: u64) -> Self {
        Self {
            number,
            matter: new.matter.clone(),
            lane: Lane::from(&new.matter),
            shape: new.shape,
            len: new.len,
            made_ts: new.made_ts,
            expires_ts,
            tries: 0,
            is_on_disk: false,
            is_decided: new.once.is_none(),
        }
    }

    fn is_ready(&self) -> bool {
        self.is_on_disk && self.is_decided
    }
}

/// What one server is owed.
#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    len: usize,
    /// What is under way.
    flight: Vec<u64>,
    /// What goes one by one, since one of them was refused.
    singly: BTreeSet<u64>,
    /// Lanes that wait, since the server has no place for what comes first in them.
    held: BTreeMap<Lane, Held>,
    /// How often in a row the server had no place for something.
    busy: u32,
    failures: u32,
    /// When it is tried again, by the uptime.
    due: u64,
    /// Its place in the agenda.
    planned: Option<u64>,
    /// It was met while a request was under way.
    is_met: bool,
}

/// A row that changes: to what came to an end, or it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) server: OwnedServerName,
    pub(super) number: u64,
    pub(super) ended: Option<Ended>,
}

/// An item was taken over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its number; none where it waits already.
    pub(super) number: Option<u64>,
    /// What it takes the place of.
    pub(super) changes: Vec<Change>,
}

/// There is no place for an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The server is owed too much.
    Server,
    /// All servers together are.
    All,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) server: OwnedServerName,
    /// A request of its own, or the parts of one transaction.
    pub(super) numbers: Vec<u64>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Refused {
        status: u16,
        errcode: String,
    },
    /// The server has no place for it now.
    Busy,
    /// The server was not reached, or what it answered is of no use.
    Unreached,
}

/// What waits for an event to be part of its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undecided {
    pub(super) server: OwnedServerName,
    pub(super) number: u64,
    pub(super) room_id: OwnedRoomId,
    pub(super) event_id: OwnedEventId,
    since: u64,
}

/// All that is owed.
#[derive(Debug, Default)]
pub(super) struct Machine {
    queues: BTreeMap<OwnedServerName, Queue>,
    /// When to send to whom.
    agenda: BTreeSet<(u64, OwnedServerName)>,
    undecided: BTreeMap<u64, Undecided>,
    /// What came to an end lately, by number; the newest last.
    ended: VecDeque<(u64, Ended)>,
    last: u64,
    items: usize,
    len: usize,
    in_flight: usize,
}

/// What makes an item the same as, or the successor of, one that waits.
fn same(one: &Matter, other: &Matter) -> bool {
    use Matter::{Declined, DeviceList, Events, Invite, Membership, ToDevice};
    match (one, other) {
        (Invite { event_id: one, .. }, Invite { event_id: other, .. }) => one == other,
        (
            Membership { room_id: one_room, user_id: one, .. },
            Membership { room_id: other_room, user_id: other, .. },
        ) => one_room == other_room && one == other,
        (ToDevice { message_id: one }, ToDevice { message_id: other }) => one == other,
        (DeviceList { user_id: one }, DeviceList { user_id: other }) => one == other,
        (Declined { .. }, Declined { .. }) => one == other,
        (Events { room_id: one, .. }, Events { room_id: other, .. }) => one == other,
        _ => false,
    }
}

/// Tells whether an item is about events that nobody else has.
fn is_events(matter: &Matter) -> bool {
    matches!(matter, Matter::Events { .. })
}

/// Tells whether a matter comes to its end for all when one server has it.
fn is_one_enough(matter: &Matter) -> bool {
    matches!(matter, Matter::Events { .. } | Matter::Declined { .. })
}

/// Tells whether an item is out of date once there is a newer one of the same.
fn is_superseded(matter: &Matter) -> bool {
    use Matter::{DeviceList, Events, Membership};
    matches!(matter, Membership { .. } | DeviceList { .. } | Events { .. })
}

impl Queue {
    /// Returns the first item of each lane that can be sent at some time.
    fn fronts(&self) -> impl Iterator<Item = (usize, &Item)> {
        let mut seen = BTreeSet::new();
        let items = self.items.iter().enumerate();
        items.filter(move |(_, item)| seen.insert(&item.lane) && item.is_ready())
    }

    fn held(&self, lane: &Lane) -> Held {
        self.held.get(lane).copied().unwrap_or(Held { until: 0, times: 0 })
    }

    /// Returns when something is to be sent next.
    fn next(&self) -> Option<u64> {
        if !self.flight.is_empty() {
            return None;
        }
        let fronts = self.fronts().map(|(_, item)| self.held(&item.lane).until.max(self.due));
        if self.held.is_empty() { self.fronts().next().map(|_| self.due) } else { fronts.min() }
    }

    /// Returns the numbers of what is sent now: a request, or as much as fits into a transaction. What
    /// there was no place for comes after what was not tried yet.
    fn batch(&self, now: u64) -> Vec<u64> {
        let is_open = |item: &Item| self.held(&item.lane).until <= now;
        let fronts = self.fronts().filter(|(_, item)| is_open(item));
        let Some((start, first)) =
            fronts.min_by_key(|(at, item)| (self.held(&item.lane).times, *at))
        else {
            return Vec::new();
        };
        let most = match first.shape {
            _ if self.singly.contains(&first.number) => 1,
            Shape::Put | Shape::Leave | Shape::Events => 1,
            Shape::Pdu => limits::TRANSACTION_PDUS,
            Shape::Edu => limits::TRANSACTION_EDUS,
        };
        // Nothing overtakes what is before it in its lane.
        let passed: BTreeSet<&Lane> =
            self.items.iter().take(start).map(|item| &item.lane).collect();
        let (mut batch, mut len) = (vec![first.number], first.len);
        let times = self.held(&first.lane).times;
        let goes_on = |item: &&Item| {
            !passed.contains(&item.lane) && is_open(item) && self.held(&item.lane).times == times
        };
        for item in self.items.iter().skip(start + 1).filter(goes_on) {
            len = len.saturating_add(item.len);
            let fits = item.shape == first.shape
                && item.is_ready()
                && len <= limits::OWED_LEN
                && !self.singly.contains(&item.number);
            if batch.len() >= most || !fits {
                break;
            }
            batch.push(item.number);
        }
        batch
    }

    fn remove(&mut self, number: u64) -> Option<Item> {
        let at = self.items.iter().position(|item| item.number == number)?;
        let item = self.items.remove(at)?;
        self.singly.remove(&number);
        self.flight.retain(|other| *other != number);
        self.len = self.len.saturating_sub(item.len);
        if !self.items.iter().any(|other| other.lane == item.lane) {
            self.held.remove(&item.lane);
        }
        Some(item)
    }

    fn is_flying(&self, number: u64) -> bool {
        self.flight.contains(&number)
    }
}

impl Machine {
    /// Takes over an item that is stored. Those of one server come in their order.
    pub(super) fn load(&mut self, server: &OwnedServerName, number: u64, kept: Kept, len: usize) {
        let Kept { matter, form, made_ts, expires_ts, once, .. } = kept;
        let shape = Shape::from(&form);
        let new = New { matter, shape, len, made_ts, once };
        self.push(server, Item::new(number, &new, expires_ts), new.once, 0);
        self.stored(server, number);
    }

    /// Takes over one that came to an end.
    pub(super) fn load_ended(&mut self, number: u64, ended: Ended) {
        self.last = self.last.max(number);
        let at = self.ended.partition_point(|(_, other)| other.ended_ts <= ended.ended_ts);
        self.ended.insert(at, (number, ended));
    }

    /// Puts an item at the end of what its server is owed. `since` is when it began to wait for its
    /// event, where it does.
    fn push(
        &mut self,
        server: &OwnedServerName,
        item: Item,
        once: Option<(OwnedRoomId, OwnedEventId)>,
        since: u64,
    ) {
        let number = item.number;
        if let Some((room_id, event_id)) = once {
            let open = Undecided { server: server.clone(), number, room_id, event_id, since };
            self.undecided.insert(number, open);
        }
        self.last = self.last.max(number);
        self.items = self.items.saturating_add(1);
        self.len = self.len.saturating_add(item.len);
        let queue = self.queues.entry(server.clone()).or_default();
        queue.len = queue.len.saturating_add(item.len);
        queue.items.push_back(item);
        self.plan(server);
    }

    /// Something is owed. It is sent once [`Self::stored`] said that it is on disk; `now` is the uptime.
    pub(super) fn owe(
        &mut self,
        server: &OwnedServerName,
        new: New,
        now: u64,
    ) -> Result<Taken, Full> {
        let queue = self.queues.get(server);
        let items = || queue.into_iter().flat_map(|queue| &queue.items);
        if is_events(&new.matter) && items().any(|item| item.matter == new.matter) {
            return Ok(Taken { number: None, changes: Vec::new() });
        }
        let alike: Vec<(u64, usize)> = items()
            .filter(|item| same(&item.matter, &new.matter))
            .map(|item| (item.number, item.len))
            .collect();
        let mut replaced = Vec::new();
        if is_superseded(&new.matter) {
            let is_flying = |number| queue.is_some_and(|queue| queue.is_flying(number));
            replaced = alike.into_iter().filter(|(number, _)| !is_flying(*number)).collect();
        } else if !alike.is_empty() {
            return Ok(Taken { number: None, changes: Vec::new() });
        }
        let gives_way = self.make_place(server, &new, &replaced)?;
        let mut changes = Vec::new();
        for (number, _) in replaced {
            self.drop_item(server, number);
            changes.push(Change { server: server.clone(), number, ended: None });
        }
        for number in gives_way {
            changes.extend(self.end(server, number, End::GaveWay, new.made_ts));
        }
        let number = self.last.saturating_add(1);
        let expires_ts = new.made_ts.saturating_add(limits::OWED_MS);
        self.push(server, Item::new(number, &new, expires_ts), new.once, now);
        Ok(Taken { number: Some(number), changes })
    }

    /// Finds a place for an item. Returns what gives way to it: messages to devices to newer ones, and to
    /// all else what the graph of a room brings anyway.
    fn make_place(
        &self,
        server: &ServerName,
        new: &New,
        replaced: &[(u64, usize)],
    ) -> Result<Vec<u64>, Full> {
        let queue = self.queues.get(server);
        let freed: usize = replaced.iter().map(|(_, len)| len).sum();
        let mut number = queue.map_or(0, |queue| queue.items.len()) - replaced.len();
        let mut len = queue.map_or(0, |queue| queue.len).saturating_sub(freed);
        let mut all = self.items - replaced.len();
        let mut all_len = self.len.saturating_sub(freed);
        let is_to_device = |matter: &Matter| matches!(matter, Matter::ToDevice { .. });
        let gives_place = |old: &Matter| match is_events(old) {
            true => !is_events(&new.matter),
            false => is_to_device(old) && is_to_device(&new.matter),
        };
        let mut old = queue
            .into_iter()
            .flat_map(|queue| queue.items.iter().filter(move |item| !queue.is_flying(item.number)));
        let mut gives_way = Vec::new();
        loop {
            let full = if number >= limits::OWED_SERVER
                || len.saturating_add(new.len) > limits::OWED_SERVER_LEN
            {
                Full::Server
            } else if all >= limits::OWED_ALL
                || all_len.saturating_add(new.len) > limits::OWED_ALL_LEN
            {
                Full::All
            } else {
                return Ok(gives_way);
            };
            let oldest = old.find(|item| gives_place(&item.matter) && item.is_on_disk);
            let Some(oldest) = oldest else { return Err(full) };
            gives_way.push(oldest.number);
            number -= 1;
            all -= 1;
            len = len.saturating_sub(oldest.len);
            all_len = all_len.saturating_sub(oldest.len);
        }
    }

    /// An item is on disk.
    pub(super) fn stored(&mut self, server: &OwnedServerName, number: u64) {
        self.touch(server, number, |item| item.is_on_disk = true);
    }

    /// An item could not be written, so it is not owed.
    pub(super) fn not_stored(&mut self, server: &OwnedServerName, number: u64) {
        self.drop_item(server, number);
    }

    /// The event that an item waits for is part of its room, or will not be.
    pub(super) fn decide(
        &mut self,
        server: &OwnedServerName,
        number: u64,
        stands: bool,
    ) -> Option<Change> {
        self.undecided.remove(&number)?;
        if stands {
            self.touch(server, number, |item| item.is_decided = true);
            return None;
        }
        self.drop_item(server, number)?;
        Some(Change { server: server.clone(), number, ended: None })
    }

    /// Returns the numbers of what waits for an event, of one server.
    pub(super) fn waiting_for(&self, server: &ServerName, event_id: &EventId) -> Vec<u64> {
        let open = self.undecided.values();
        let open = open.filter(|open| open.event_id == event_id && open.server == server);
        open.map(|open| open.number).collect()
    }

    /// Returns what waits for its event for so long that it has to be looked for; at the next time, it
    /// waits anew.
    pub(super) fn undecided(&mut self, now: u64) -> Vec<Undecided> {
        let old = self.undecided.values_mut();
        let old = old.filter(|open| open.since == 0 || now.saturating_sub(open.since) >= DECIDE_MS);
        let looked_for = |open: &mut Undecided| {
            open.since = now.max(1);
            open.clone()
        };
        old.map(looked_for).collect()
    }

    fn touch(&mut self, server: &OwnedServerName, number: u64, change: impl FnOnce(&mut Item)) {
        let queue = self.queues.get_mut(server);
        let item =
            queue.and_then(|queue| queue.items.iter_mut().find(|item| item.number == number));
        if let Some(item) = item {
            change(item);
        }
        self.plan(server);
    }

    /// Puts a server where it belongs in the agenda.
    fn plan(&mut self, server: &OwnedServerName) {
        let Some(queue) = self.queues.get_mut(server) else { return };
        let due = queue.next();
        if due != queue.planned {
            if let Some(old) = std::mem::replace(&mut queue.planned, due) {
                self.agenda.remove(&(old, server.clone()));
            }
            if let Some(due) = due {
                self.agenda.insert((due, server.clone()));
            }
        }
        if queue.items.is_empty() && queue.flight.is_empty() && queue.failures == 0 {
            self.queues.remove(server);
        }
    }

    /// Returns what is to be sent now; the answer comes by [`Self::answered`].
    pub(super) fn next(&mut self, now: u64) -> Option<Send> {
        if self.in_flight >= limits::OWED_AT_ONCE {
            return None;
        }
        let (due, server) = self.agenda.first().cloned()?;
        if due > now {
            return None;
        }
        let queue = self.queues.get_mut(&server)?;
        let numbers = queue.batch(now);
        queue.flight = numbers.clone();
        queue.is_met = false;
        for item in queue.items.iter_mut().filter(|item| numbers.contains(&item.number)) {
            item.tries = item.tries.saturating_add(1);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.plan(&server);
        Some(Send { server, numbers })
    }

    /// What was sent to a server came to this. `now` is the uptime, `now_ts` the time of day, `chance`
    /// between 0 and 1.
    pub(super) fn answered(
        &mut self,
        server: &OwnedServerName,
        outcome: Outcome,
        now: u64,
        now_ts: u64,
        chance: f64,
    ) -> Vec<Change> {
        let Some(queue) = self.queues.get_mut(server).filter(|queue| !queue.flight.is_empty())
        else {
            return Vec::new();
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        let sent = std::mem::take(&mut queue.flight);
        let is_met = std::mem::take(&mut queue.is_met);
        if outcome == Outcome::Unreached {
            queue.due = now.saturating_add(match is_met {
                true => MET_MS,
                false => pause(AGAIN_MS, AGAIN_MAX_MS, queue.failures, chance),
            });
            queue.failures = if is_met { 0 } else { queue.failures.saturating_add(1) };
            self.plan(server);
            return Vec::new();
        }
        queue.failures = 0;
        queue.due = now;
        let lanes = queue.items.iter().filter(|item| sent.contains(&item.number));
        let lanes: BTreeSet<Lane> = lanes.map(|item| item.lane.clone()).collect();
        let end = match outcome {
            Outcome::Delivered => End::Delivered,
            Outcome::Refused { status, errcode } if sent.len() == 1 => {
                End::Refused { status, errcode }
            }
            // Which of them it does not want is found out by sending them one by one.
            Outcome::Refused { .. } => {
                queue.singly = sent.into_iter().collect();
                self.plan(server);
                return Vec::new();
            }
            Outcome::Busy | Outcome::Unreached => {
                for lane in lanes {
                    let Held { times, .. } = queue.held(&lane);
                    let until = now.saturating_add(pause(BUSY_MS, AGAIN_MAX_MS, times, chance));
                    queue.held.insert(lane, Held { until, times: times.saturating_add(1) });
                }
                queue.due = now.saturating_add(pause(STEP_MS, STEP_MAX_MS, queue.busy, chance));
                queue.busy = queue.busy.saturating_add(1);
                self.plan(server);
                return Vec::new();
            }
        };
        queue.busy = 0;
        queue.held.retain(|lane, _| !lanes.contains(lane));
        let mut changes = Vec::new();
        for number in sent {
            let matter = self.matter(server, number).cloned();
            changes.extend(self.end(server, number, end.clone(), now_ts));
            // Whoever has it gives it to the others.
            if let Some(matter) = matter.filter(|it| end == End::Delivered && is_one_enough(it)) {
                changes.extend(self.settle(|other| *other == matter));
            }
        }
        self.plan(server);
        changes
    }

    /// A server is there: it is tried at once.
    pub(super) fn met(&mut self, server: &OwnedServerName, now: u64) {
        let Some(queue) = self.queues.get_mut(server) else { return };
        queue.is_met = true;
        queue.failures = 0;
        queue.due = now;
        queue.held.values_mut().for_each(|held| held.until = now);
        // When two meet they compare heads, and fetch what they lack.
        let counts = queue.items.iter().filter_map(|item| match &item.matter {
            Matter::Events { count, .. } => Some(*count),
            _ => None,
        });
        if let Some(most) = counts.max() {
            let times = queue.held(&Lane::Events).times;
            let long = most >= limits::OWED_EVENTS;
            let until = now.saturating_add(if long { FETCH_LONG_MS } else { FETCH_MS });
            queue.held.insert(Lane::Events, Held { until, times });
        }
        self.plan(server);
    }

    /// Somebody else has the events of a room: they are owed to nobody any more.
    pub(super) fn spread(&mut self, room_id: &RoomId) -> Vec<Change> {
        self.settle(|matter| matches!(matter, Matter::Events { room_id: of, .. } if of == room_id))
    }

    /// Something is owed to nobody any more. What is under way comes to its own end.
    fn settle(&mut self, is_settled: impl Fn(&Matter) -> bool) -> Vec<Change> {
        let settled: Vec<_> = self
            .queues
            .iter()
            .flat_map(|(server, queue)| {
                let items = queue.items.iter();
                let items = items.filter(|item| is_settled(&item.matter) && item.is_on_disk);
                let items = items.filter(|item| !queue.is_flying(item.number));
                items.map(|item| (server.clone(), item.number))
            })
            .collect();
        let mut changes = Vec::new();
        for (server, number) in settled {
            self.drop_item(&server, number);
            self.forget_failures(&server);
            self.plan(&server);
            changes.push(Change { server, number, ended: None });
        }
        changes
    }

    /// Ends what was owed for too long; `now_ts` is the time of day.
    pub(super) fn expire(&mut self, now_ts: u64) -> Vec<Change> {
        let old: Vec<_> = self
            .queues
            .iter()
            .flat_map(|(server, queue)| {
                let waiting = queue.items.iter().filter(|item| !queue.is_flying(item.number));
                let old = waiting.filter(|item| item.expires_ts <= now_ts && item.is_on_disk);
                old.map(|item| (server.clone(), item.number))
            })
            .collect();
        let mut changes = Vec::new();
        for (server, number) in old {
            changes.extend(self.end(&server, number, End::Expired, now_ts));
            self.forget_failures(&server);
            self.plan(&server);
        }
        changes
    }

    /// Nothing is remembered of a server that is owed nothing.
    fn forget_failures(&mut self, server: &OwnedServerName) {
        if let Some(queue) = self.queues.get_mut(server)
            && queue.items.is_empty()
        {
            queue.failures = 0;
        }
    }

    fn drop_item(&mut self, server: &OwnedServerName, number: u64) -> Option<Item> {
        self.undecided.remove(&number);
        let item = self.queues.get_mut(server)?.remove(number)?;
        self.items = self.items.saturating_sub(1);
        self.len = self.len.saturating_sub(item.len);
        self.plan(server);
        Some(item)
    }

    /// An item comes to an end; returns its row, and that which is not shown any more for it.
    fn end(
        &mut self,
        server: &OwnedServerName,
        number: u64,
        end: End,
        ended_ts: u64,
    ) -> Vec<Change> {
        let Some(item) = self.drop_item(server, number) else { return Vec::new() };
        let Item { matter, made_ts, .. } = item;
        let ended = Ended { server_name: server.clone(), matter, made_ts, ended_ts, end };
        self.ended.push_back((number, ended.clone()));
        let mut changes = vec![Change { server: server.clone(), number, ended: Some(ended) }];
        changes.extend(self.trim());
        changes
    }

    /// Forgets what came to an end before the last few.
    pub(super) fn trim(&mut self) -> Vec<Change> {
        let over = self.ended.len().saturating_sub(limits::OWED_ENDED);
        let gone = self.ended.drain(..over);
        gone.map(|(number, ended)| Change { server: ended.server_name, number, ended: None })
            .collect()
    }

    /// Returns what an item that is under way is about.
    pub(super) fn matter(&self, server: &ServerName, number: u64) -> Option<&Matter> {
        let items = self.queues.get(server)?.items.iter();
        items.into_iter().find(|item| item.number == number).map(|item| &item.matter)
    }

    /// Counts what is owed.
    pub(super) fn count(&self) -> OwedCount {
        let servers = self.queues.values().filter(|queue| !queue.items.is_empty()).count();
        OwedCount { items: self.items, bytes: self.len, servers }
    }

    /// Tells what is owed, and what became of what was.
    pub(super) fn status(&self, now: u64) -> OutboxStatus {
        let mut queues: Vec<_> =
            self.queues.iter().filter(|(_, queue)| !queue.items.is_empty()).collect();
        queues.sort_by_key(|(server, queue)| (std::cmp::Reverse(queue.items.len()), *server));
        let servers = queues.into_iter().take(SHOWN_SERVERS).map(|(server, queue)| ServerOwed {
            server_name: server.clone(),
            items: queue.items.len(),
            bytes: queue.len,
            in_flight: !queue.flight.is_empty(),
            failures: queue.failures,
            next_try_ms: queue.next().unwrap_or(queue.due).saturating_sub(now),
            waiting: queue.items.iter().take(SHOWN_ITEMS).map(Item::shown).collect(),
        });
        let ended = self.ended.iter().map(|(_, ended)| ended.clone()).collect();
        OutboxStatus { owed: self.count(), servers: servers.collect(), ended }
    }
}

impl Item {
    fn shown(&self) -> Waiting {
        Waiting {
            matter: self.matter.clone(),
            bytes: self.len,
            made_ts: self.made_ts,
            expires_ts: self.expires_ts,
            tries: self.tries,
        }
    }
}

/// Returns how long to wait after so many failures before: doubled each time, a quarter of it at most
/// less by chance.
fn pause(first: u64, most: u64, failures: u32, chance: f64) -> u64 {
    let pause = first.saturating_mul(1 << failures.min(16)).min(most);
    pause - (pause as f64 / 4.0 * chance.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
