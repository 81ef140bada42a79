//! What becomes of what is owed when either side is killed between any two steps of it: it arrives, once
//! in effect and in its order, whatever its kind; of what nobody was answered for, nothing or all.

use ruma::{CanonicalJsonValue, owned_room_id, owned_server_name};

use super::*;
use crate::actors::outbox::kept::{self, Read};

const TS: u64 = 1_790_000_000_000;
const HOUR_MS: u64 = 60 * 60_000;

/// A node was killed.
#[derive(Debug)]
struct Killed;

/// The disk of one side, what lives in its memory, and the other side.
struct World {
    rows: BTreeMap<u64, Vec<u8>>,
    /// Events that became part of their room.
    events: BTreeSet<OwnedEventId>,
    machine: Machine,
    /// What the other side has on its disk, each once.
    has: Vec<String>,
    /// Steps until somebody is killed.
    left: usize,
    killed: usize,
    /// Whether it is the other side.
    theirs: bool,
    now: u64,
}

/// Something that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Invite,
    Membership,
    ToDevice,
    DeviceList,
    Events,
    Declined,
}

fn bob() -> OwnedServerName {
    owned_server_name!("bob.org")
}

/// Returns what is owed for the `n`th wish of a client, at its `attempt`th try.
fn wish(
    kind: Kind,
    n: usize,
    attempt: usize,
) -> (Matter, Form, Option<(OwnedRoomId, OwnedEventId)>) {
    let room_id = owned_room_id!("!r:x");
    let user_id = format!("@u{n}:bob.org").try_into().unwrap();
    // An event that never came to be is composed anew.
    let event_id: OwnedEventId = format!("$e{n}-{attempt}").try_into().unwrap();
    let content = CanonicalJsonValue::String(n.to_string());
    match kind {
        Kind::Invite => {
            let once = Some((room_id.clone(), event_id.clone()));
            let form = Form::Put { uri: "/invite".to_owned(), content };
            (Matter::Invite { room_id, user_id, event_id }, form, once)
        }
        Kind::Membership => {
            (Matter::Membership { room_id, user_id, event_id }, Form::Pdu(content), None)
        }
        Kind::ToDevice => {
            (Matter::ToDevice { message_id: n.to_string() }, Form::Edu(content), None)
        }
        Kind::Declined => {
            // The invite was there before.
            let event_id: OwnedEventId = format!("$i{n}").try_into().unwrap();
            let once = Some((room_id.clone(), event_id.clone()));
            let form = Form::Leave { version: n.to_string().as_str().try_into().unwrap() };
            (Matter::Declined { room_id, user_id, event_id: Some(event_id) }, form, once)
        }
        Kind::Events => {
            let room_id: OwnedRoomId = format!("!r{n}:x").try_into().unwrap();
            let event_ids = vec![event_id.clone(); n];
            let form = Form::Events { room_id: room_id.clone(), event_ids };
            (Matter::Events { room_id, event_id, count: n }, form, None)
        }
        Kind::DeviceList => (Matter::DeviceList { user_id }, Form::Edu(content), None),
    }
}

impl World {
    fn new(left: usize, theirs: bool) -> Self {
        Self {
            rows: BTreeMap::new(),
            events: BTreeSet::new(),
            machine: Machine::default(),
            has: Vec::new(),
            left,
            killed: 0,
            theirs,
            now: 1_000_000,
        }
    }

    /// Between two steps: somebody may be killed here, once.
    fn step(&mut self) -> Result<(), Killed> {
        if self.killed == 0 && self.left == 0 {
            self.killed += 1;
            return Err(Killed);
        }
        self.left = self.left.saturating_sub(1);
        Ok(())
    }

    fn ours(&mut self) -> Result<(), Killed> {
        if self.theirs { Ok(()) } else { self.step() }
    }

    fn write(&mut self, changes: Vec<Change>) {
        for Change { number, ended, .. } in changes {
            match ended {
                Some(ended) => self.rows.insert(number, kept::ended(&ended).unwrap()),
                None => self.rows.remove(&number),
            };
        }
    }

    /// Does what a client asks for; it is answered when this comes back.
    fn owe(&mut self, kind: Kind, n: usize, attempt: usize) -> Result<(), Killed> {
        let (matter, form, once) = wish(kind, n, attempt);
        self.ours()?;
        let kept = Kept {
            request_id: format!("{n}-{attempt}"),
            matter: matter.clone(),
            form: form.clone(),
            made_ts: TS,
            expires_ts: TS + limits::OWED_MS,
            once: once.clone(),
        };
        let row = kept::waiting(kept).unwrap();
        let shape = Shape::from(&form);
        let new = New { matter, shape, len: row.len(), made_ts: TS, once: once.clone() };
        let taken = self.machine.owe(&bob(), new, self.now).unwrap();
        self.ours()?;
        // One group of writes.
        self.write(taken.changes);
        self.rows.extend(taken.number.map(|number| (number, row)));
        self.ours()?;
        if let Some(number) = taken.number {
            self.machine.stored(&bob(), number);
        }
        if let Some((_, event_id)) = once {
            self.ours()?;
            self.events.insert(event_id.clone());
            self.ours()?;
            for number in self.machine.waiting_for(&bob(), &event_id) {
                let changes = self.machine.decide(&bob(), number, true);
                self.write(changes.into_iter().collect());
            }
        }
        self.ours()
    }

    /// Sends what is due.
    fn deliver(&mut self) -> Result<(), Killed> {
        while let Some(send) = self.machine.next(self.now) {
            self.ours()?;
            let mut outcome = Outcome::Delivered;
            // The other side is killed before it has it, or before it says so.
            if self.theirs && self.step().is_err() {
                outcome = Outcome::Unreached;
            } else {
                for number in &send.numbers {
                    let Ok(Read::Waiting(item)) = kept::read(&bob(), &self.rows[number]) else {
                        panic!("what is sent is on disk");
                    };
                    let content = match item.form {
                        Form::Leave { version } => CanonicalJsonValue::String(version.to_string()),
                        Form::Events { event_ids, .. } => {
                            CanonicalJsonValue::String(event_ids.len().to_string())
                        }
                        Form::Put { content, .. } | Form::Pdu(content) | Form::Edu(content) => {
                            content
                        }
                    };
                    let what = format!("{:?} {content:?}", item.matter);
                    if !self.has.contains(&what) {
                        self.has.push(what);
                    }
                }
                if self.theirs && self.step().is_err() {
                    outcome = Outcome::Unreached;
                }
            }
            self.ours()?;
            let changes = self.machine.answered(&bob(), outcome, self.now, TS, 0.0);
            self.ours()?;
            self.write(changes);
            self.ours()?;
        }
        Ok(())
    }

    /// Starts again with what is on disk.
    fn restart(&mut self) {
        self.machine = Machine::default();
        for (number, row) in &self.rows {
            match kept::read(&bob(), row).unwrap() {
                Read::Waiting(kept) => self.machine.load(&bob(), *number, kept, row.len()),
                Read::Ended(ended) => self.machine.load_ended(*number, ended),
            }
        }
        for open in self.machine.undecided(self.now) {
            let stands = self.events.contains(&open.event_id);
            let changes = self.machine.decide(&bob(), open.number, stands);
            self.write(changes.into_iter().collect());
        }
    }

    fn waiting(&self) -> usize {
        let rows = self.rows.values().map(|row| kept::read(&bob(), row).unwrap());
        rows.filter(|row| matches!(row, Read::Waiting(_))).count()
    }
}

/// Has three wishes of a kind and one message fulfilled, with somebody killed after so many steps. Returns
/// false where there are fewer.
fn killed_after(steps: usize, theirs: bool, kind: Kind) -> bool {
    let mut world = World::new(steps, theirs);
    let mut expected = Vec::new();
    for (kind, n) in [(kind, 1), (Kind::ToDevice, 9), (kind, 2), (kind, 3)] {
        for attempt in 0.. {
            let event = wish(kind, n, attempt).2.map(|(_, event_id)| event_id);
            let done = world.owe(kind, n, attempt);
            if done.is_err() {
                world.restart();
            }
            // Whoever is invited is not invited again.
            let stands = event.is_some_and(|event_id| world.events.contains(&event_id));
            if done.is_ok() || stands {
                expected.push((kind, n, attempt));
                break;
            }
        }
        if world.deliver().is_err() {
            world.restart();
        }
    }
    for _ in 0..10 {
        world.now += HOUR_MS;
        if world.deliver().is_err() {
            world.restart();
        }
    }
    let case = format!("{kind:?}, {steps} steps, theirs: {theirs}");
    assert_eq!(world.machine.count().items, 0, "{case}");
    assert_eq!(world.waiting(), 0, "{case}");
    for lane in [true, false] {
        let is_of_it = |what: &&String| what.starts_with("ToDevice") == lane;
        let has: Vec<String> = world.has.iter().filter(is_of_it).cloned().collect();
        let wanted = expected.iter().filter(|(kind, ..)| (*kind == Kind::ToDevice) == lane);
        let wanted: Vec<String> = wanted
            .map(|(kind, n, attempt)| {
                let matter = wish(*kind, *n, if *kind == Kind::Invite { *attempt } else { 0 }).0;
                let matter = match matter {
                    // The event of a membership is there before it is owed.
                    Matter::Membership { .. } | Matter::Events { .. } => {
                        wish(*kind, *n, *attempt).0
                    }
                    matter => matter,
                };
                format!("{matter:?} {:?}", CanonicalJsonValue::String(n.to_string()))
            })
            .collect();
        assert_eq!(has, wanted, "{case}");
    }
    world.killed > 0
}

#[test]
fn whoever_is_killed_between_any_two_steps_nothing_is_lost_or_doubled() {
    for kind in [
        Kind::Invite,
        Kind::Membership,
        Kind::ToDevice,
        Kind::DeviceList,
        Kind::Events,
        Kind::Declined,
    ] {
        for theirs in [false, true] {
            let steps = (0..).take_while(|steps| killed_after(*steps, theirs, kind)).count();
            // Each of four wishes has its own.
            assert!(steps >= if theirs { 8 } else { 28 }, "{kind:?} {steps}");
        }
    }
}
