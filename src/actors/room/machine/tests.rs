//! Machines on their own: replicas of one room in memory, fed in every order.

mod acls;
mod attacks;
mod departures;
mod forks;
mod fuzz;
mod locals;
mod redaction_orders;
mod redactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use ruma::{
    CanonicalJsonObject, OwnedEventId, RoomVersionId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::json;

use super::{Change, Ingested, Known, KnownEvent, Machine, Need, Stop, join::GivenState, *};
use crate::{
    actors::{room::messages::RoomError, store::Redaction},
    proto::{
        pdu::{self, Draft, Position, ROOM_VERSIONS, Received},
        server_keys::{VerifiedServerKeys, tests::secret_keys},
        signer::Signer,
        state_res,
    },
};

pub(crate) const NOW: u64 = 1_790_000_000_000;

/// What states resolve to: of the same states, the same for all.
pub(crate) type Resolutions = HashMap<Vec<Vec<(StateKey, OwnedEventId)>>, StateIds>;

/// A machine with a store of its own, in memory.
pub(crate) struct Replica {
    pub(crate) machine: Machine,
    pub(crate) signer: Arc<Signer>,
    /// Who speaks, of the users of this server.
    pub(crate) me: OwnedUserId,
    events: HashMap<OwnedEventId, Known>,
    /// The same that are events, for resolutions.
    pdus: state_res::EventMap,
    groups: HashMap<u64, StateIds>,
    clock: u64,
    /// The state is checked after so many changes.
    check_every: usize,
    changes: usize,
    /// Resolutions that others computed.
    pub(crate) shared: Resolutions,
    /// Resolutions that were computed.
    resolved: usize,
    /// What was stored, in order, for a real Store.
    pub(crate) commits: Vec<CommitRoom>,
}

pub(crate) fn signer(seed: u8) -> Arc<Signer> {
    Arc::new(Signer::new(&secret_keys(seed), &["peer".to_owned()], NOW).unwrap())
}

pub(crate) fn own_of(signer: &Signer) -> OwnedServerName {
    signer.server_name().clone()
}

pub(crate) fn object(value: serde_json::Value) -> CanonicalJsonObject {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn draft(kind: &str, state_key: Option<&str>, content: serde_json::Value) -> Draft {
    Draft {
        kind: TimelineEventType::from(kind),
        state_key: state_key.map(ToOwned::to_owned),
        content: object(content),
        redacts: None,
    }
}

pub(crate) fn message(body: &str) -> Draft {
    draft("m.room.message", None, json!({"msgtype": "m.text", "body": body}))
}

pub(crate) fn received(pdu: &Pdu, signer: &Signer) -> Received {
    let server_keys = VerifiedServerKeys::verify(signer.server_keys().clone(), NOW).unwrap();
    Received { pdu: pdu.clone(), spoilt: false, server_keys }
}

impl Replica {
    fn new(machine: Machine, signer: Arc<Signer>, clock: u64) -> Self {
        Self {
            machine,
            me: signer.user_id().clone(),
            signer,
            events: HashMap::new(),
            pdus: HashMap::new(),
            groups: HashMap::new(),
            clock,
            check_every: 1,
            changes: 0,
            shared: HashMap::new(),
            resolved: 0,
            commits: Vec::new(),
        }
    }

    /// Runs an operation to its end, giving it what it needs.
    pub(crate) fn run<T>(
        &mut self,
        mut operation: impl FnMut(&mut Machine) -> Result<T, Stop>,
    ) -> Result<T, RoomError> {
        for _ in 0..100 {
            match operation(&mut self.machine) {
                Ok(value) => return Ok(value),
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Need(need)) => self.provide(need),
            }
        }
        panic!("the operation never completes");
    }

    fn provide(&mut self, need: Need) {
        match need {
            Need::Events(ids) => {
                for id in ids {
                    let known = self.events.get(&id).cloned().unwrap_or(Known::Absent);
                    self.machine.known.insert(id, known);
                }
            }
            Need::Annotation(by, annotation) => {
                self.machine.provide_annotation(by, annotation, false);
            }
            Need::State(group) => {
                self.machine.provide_state(group, self.groups[&group].clone());
            }
            Need::Resolve(groups) => {
                let states = self.machine.states_of(&groups);
                let states = match states {
                    Ok(states) => states,
                    Err(Stop::Need(need)) => return self.provide(need),
                    Err(Stop::Refused(error)) => panic!("{error}"),
                };
                let sorted = |state: &Arc<StateIds>| {
                    let mut places: Vec<_> =
                        state.iter().map(|(place, id)| (place.clone(), id.clone())).collect();
                    places.sort();
                    places
                };
                let mut key: Vec<_> = states.iter().map(sorted).collect();
                key.sort();
                let resolved = match self.shared.get(&key) {
                    Some(resolved) => resolved.clone(),
                    None => {
                        let states: Vec<_> = states.iter().map(|state| (**state).clone()).collect();
                        let rules = self.machine.rules();
                        let resolved = state_res::resolve(&states, &self.pdus, rules).unwrap();
                        self.shared.insert(key, resolved.clone());
                        resolved
                    }
                };
                self.machine.provide_resolved(groups, resolved);
                self.resolved += 1;
            }
        }
    }

    /// Stores a change.
    pub(crate) fn store(&mut self, change: &Change) {
        for group in &change.commit.groups {
            let mut state =
                group.parent.map_or_else(HashMap::new, |parent| self.groups[&parent].clone());
            for (place, id) in &group.changes {
                match id {
                    Some(id) => state.insert(place.clone(), id.clone()),
                    None => state.remove(place),
                };
            }
            assert!(self.groups.insert(group.id, state).is_none(), "a group is stored twice");
        }
        for new in &change.commit.events {
            let known = KnownEvent {
                pdu: Arc::clone(&new.pdu),
                place: new.place,
                group: new.state_group,
                spoilt: new.spoilt,
            };
            self.pdus.insert(new.pdu.event_id.clone(), Arc::clone(&new.pdu));
            self.events.insert(new.pdu.event_id.clone(), Known::Event(Arc::new(known)));
        }
        for redaction in &change.commit.redactions {
            match redaction {
                Redaction::Applies { redacted, .. } => {
                    let old = Arc::clone(self.known_event(&redacted.event_id).unwrap());
                    let (pdu, place, group) = (Arc::clone(redacted), old.place, old.group);
                    self.pdus.insert(redacted.event_id.clone(), Arc::clone(&pdu));
                    let event = KnownEvent { pdu, place, group, spoilt: false };
                    self.events.insert(redacted.event_id.clone(), Known::Event(Arc::new(event)));
                }
                Redaction::Waits { target, .. } if self.known_event(target).is_some() => {}
                Redaction::Waits { target, because } => {
                    self.events.insert(target.clone(), Known::RedactedBy(because.clone()));
                }
            }
        }
        self.commits.push(change.commit.clone());
        self.machine.tidy();
        self.changes += 1;
        if self.changes.is_multiple_of(self.check_every) {
            self.check_invariants();
        }
    }

    fn check_invariants(&self) {
        assert!(!self.machine.extremities.is_empty());
        assert_eq!(
            self.machine.current_ids(),
            self.groups[&self.machine.current_group],
            "the current state is that of its group"
        );
        for known in self.machine.state.values() {
            assert!(!known.rejected, "a rejected event in the state");
        }
        let mut joined = BTreeMap::<OwnedServerName, usize>::new();
        for pdu in
            self.machine.state.values().filter(|pdu| pdu.kind == TimelineEventType::RoomMember)
        {
            let content: MemberContent = serde_json::from_str(pdu.content.get()).unwrap();
            if content.membership == MembershipState::Join {
                let user = OwnedUserId::try_from(pdu.state_key.as_deref().unwrap()).unwrap();
                *joined.entry(user.server_name().to_owned()).or_default() += 1;
            }
        }
        assert_eq!(joined, self.machine.joined);
    }

    /// Forgets everything that is only in memory, as a restart does.
    pub(crate) fn forget(&mut self) {
        self.machine.known.clear();
        self.machine.groups.clear();
        self.machine.parked.clear();
    }

    /// Is checked only now and then: there is much to do.
    pub(crate) fn check_seldom(&mut self) {
        self.check_every = 64;
    }

    /// Has the time of day be at least this.
    pub(crate) fn at(&mut self, now: u64) {
        self.clock = self.clock.max(now);
    }

    /// Says several things at one place, each as if there were no other.
    pub(crate) fn fork(&mut self, drafts: Vec<Draft>) -> Vec<Arc<Pdu>> {
        self.clock += 1;
        let compose = |draft: Draft| {
            let position = self.machine.position(&draft, &self.me, self.clock).unwrap();
            let rules = self.machine.rules();
            Arc::new(pdu::compose(draft, &position, self.signer.owner(), rules).unwrap())
        };
        let forks: Vec<_> = drafts.into_iter().map(compose).collect();
        for pdu in &forks {
            let taken = self.ingest(&received(pdu, &Arc::clone(&self.signer)));
            assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
        }
        forks
    }

    /// Stores a change, and takes in what waited for it.
    fn take_up(&mut self, change: &Change) {
        self.store(change);
        for id in &change.unparked {
            if let Some(parked) = self.machine.unpark(id) {
                self.ingest_among(&parked);
            }
        }
    }

    /// Goes on behind a gap: takes an event that waits, with the state before it.
    pub(crate) fn step_over(&mut self, event_id: &OwnedEventId, given: &GivenState) -> bool {
        let Some(event) = self.machine.parked_event(event_id) else { return false };
        let Ok((state, change)) = self.run(|machine| machine.take_state(&event.pdu, given)) else {
            return false;
        };
        self.take_up(&change);
        let taken = self.run(|machine| machine.ingest(&event, Some(state)));
        self.machine.unpark(event_id);
        let Ok(Ingested::New(change, _)) = taken else { return false };
        self.take_up(&change);
        self.settle();
        true
    }

    /// Takes in history that is missing. Tells whether any of it was.
    pub(crate) fn backfill(&mut self, events: &[Received]) -> bool {
        let change = self.run(|machine| machine.backfilled(events)).unwrap();
        if change.commit.events.is_empty() {
            return false;
        }
        self.take_up(&change);
        self.settle();
        true
    }

    /// Returns what is missing, and the events of the timeline that follow it.
    pub(crate) fn gaps(&self) -> &BTreeMap<OwnedEventId, BTreeSet<OwnedEventId>> {
        &self.machine.backward
    }

    /// Makes what another member of the room has who was there all the time.
    pub(crate) fn copy(&self, signer: Arc<Signer>, check_every: usize) -> Self {
        let stored = |pdu: &Arc<Pdu>| StoredEvent {
            event_id: pdu.event_id.clone(),
            json: pdu.json.as_ref().into(),
            place: Place::Live,
            state_group: None,
            order: None,
            spoilt: false,
            txn: None,
            redacted_because: None,
        };
        let machine = &self.machine;
        let me = signer.user_id().clone();
        let member = machine.state_event(&StateEventType::RoomMember, me.as_str()).unwrap();
        let own = OwnMembership {
            membership: MembershipState::Join,
            event_id: Some(member.event_id.clone()),
            invite: None,
            forgotten: false,
        };
        let loaded = LoadedRoom {
            version: machine.version.clone(),
            heads: Some(Heads {
                extremities: machine.extremities.clone(),
                current_group: machine.current_group,
                next_group: machine.next_group,
            }),
            state: machine.state().map(stored).collect(),
            memberships: BTreeMap::from([(me, own)]),
            backward_extremities: Vec::new(),
            room_keys: None,
            txns: Vec::new(),
        };
        let machine = Machine::load(machine.room_id.clone(), own_of(&signer), loaded).unwrap();
        // What comes next follows what stands at the front.
        let front = self.machine.extremities.iter().map(|head| head.state_group);
        let front = front.chain([self.machine.current_group]);
        let groups = front.map(|group| (group, self.groups[&group].clone())).collect();
        let (events, pdus) = (self.events.clone(), self.pdus.clone());
        Self { events, pdus, groups, check_every, ..Self::new(machine, signer, self.clock) }
    }

    pub(crate) fn send(&mut self, draft: Draft) -> Result<Arc<Pdu>, RoomError> {
        self.clock += 1;
        let (now, signer, me) = (self.clock, Arc::clone(&self.signer), self.me.clone());
        let (_, change) = self
            .run(|machine| machine.send(draft.clone(), None, signer.author(&me).unwrap(), now))?;
        self.store(&change);
        self.settle();
        Ok(Arc::clone(&change.publish[0]))
    }

    /// Takes an event in by itself, as if no other one came with it.
    pub(crate) fn ingest(&mut self, received: &Received) -> Ingested {
        let ingested = self.ingest_among(received);
        self.settle();
        ingested
    }

    /// Takes an event in of many that come at once.
    fn ingest_among(&mut self, received: &Received) -> Ingested {
        let ingested = self.run(|machine| machine.ingest(received, None)).unwrap();
        if let Ingested::New(change, _) = &ingested {
            self.take_up(change);
        }
        ingested
    }

    fn settle(&mut self) {
        if let Some(change) = self.run(Machine::settle).unwrap() {
            self.store(&change);
        }
        assert!(!self.machine.is_unsettled());
    }

    fn given(&self, of: &[Arc<Signer>]) -> GivenState {
        let verified = |signer: &Arc<Signer>| {
            let keys = VerifiedServerKeys::verify(signer.server_keys().clone(), NOW).unwrap();
            (signer.server_name().to_owned(), keys)
        };
        let keys: HashMap<OwnedServerName, VerifiedServerKeys> = of.iter().map(verified).collect();
        let received = |pdu: &Pdu| Received {
            pdu: pdu.clone(),
            spoilt: false,
            server_keys: keys[pdu.sender.server_name()].clone(),
        };
        let all = self.events.values().filter_map(|known| match known {
            Known::Event(event) if !event.pdu.rejected => Some(&event.pdu),
            _ => None,
        });
        let state = self.machine.state().map(|pdu| received(pdu)).collect();
        GivenState { state, auth_chain: all.map(|pdu| received(pdu)).collect() }
    }

    /// Returns how many events wait for others.
    pub(crate) fn parked(&self) -> usize {
        self.machine.parked.len()
    }

    /// Returns the events that wait for others.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Pdu> {
        self.machine.parked.values().map(|parked| &parked.received.pdu)
    }

    /// What two replicas with the same events must agree on.
    pub(crate) fn view(&self) -> (BTreeMap<StateKey, OwnedEventId>, BTreeSet<OwnedEventId>) {
        let state = self.machine.current_ids().into_iter().collect();
        let heads = self.machine.extremities.iter().map(|head| head.event_id.clone()).collect();
        (state, heads)
    }

    /// Returns the events that are known, those first that come before others.
    fn known_events(&self) -> Vec<Arc<Pdu>> {
        let known = self.events.values().filter_map(|known| match known {
            Known::Event(event) => Some(Arc::clone(&event.pdu)),
            _ => None,
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|pdu| pdu.depth);
        known
    }

    pub(crate) fn known_event(&self, id: &ruma::EventId) -> Option<&Arc<KnownEvent>> {
        match self.events.get(id) {
            Some(Known::Event(event)) => Some(event),
            _ => None,
        }
    }
}

/// Makes a public room of `version` with its creator.
pub(crate) fn room(version: &RoomVersionId, seed: u8) -> Replica {
    room_of(version, signer(seed), NOW)
}

/// The same of somebody, at some time.
pub(crate) fn room_of(version: &RoomVersionId, signer: Arc<Signer>, now: u64) -> Replica {
    let rules = pdu::rules_of(version).unwrap();
    let v12 = rules.authorization.room_create_event_id_as_room_id;
    let mut content = json!({"room_version": version});
    if !rules.authorization.use_room_create_sender {
        content["creator"] = json!(signer.user_id());
    }
    let position = Position {
        room_id: (!v12)
            .then(|| OwnedRoomId::try_from(format!("!room:{}", signer.server_name())).unwrap()),
        prev_events: vec![],
        auth_events: vec![],
        depth: 1,
        origin_server_ts: now,
    };
    let create =
        pdu::compose(draft("m.room.create", Some(""), content), &position, signer.owner(), &rules)
            .unwrap();
    let me = signer.user_id().clone();
    let machine = Machine::new(create.room_id.clone(), version.clone(), own_of(&signer)).unwrap();
    let mut replica = Replica::new(machine, signer, now);
    let users = if v12 { json!({}) } else { json!({me.as_str(): 100}) };
    let drafts = vec![
        draft("m.room.member", Some(me.as_str()), json!({"membership": "join"})),
        draft("m.room.power_levels", Some(""), json!({"users": users})),
        draft("m.room.join_rules", Some(""), json!({"join_rule": "public"})),
    ];
    let change = replica.machine.create(create, drafts, replica.signer.owner(), NOW).unwrap();
    replica.store(&change);
    replica
}

/// Returns the state before an event as `host` has it, and the auth chain of that.
pub(crate) fn given_before(host: &mut Replica, pdu: &Pdu, of: &[Arc<Signer>]) -> GivenState {
    let by = |pdu: &Pdu| {
        let name = pdu.sender.server_name();
        let signer = of.iter().find(|signer| signer.server_name() == name).unwrap();
        received(pdu, signer)
    };
    given_by(host, pdu, by).unwrap()
}

/// The same, of events that somebody makes ready; none where it is not known.
pub(crate) fn given_by(
    host: &mut Replica,
    pdu: &Pdu,
    by: impl Fn(&Pdu) -> Received,
) -> Option<GivenState> {
    let ids = host.run(|machine| machine.ids_before(pdu)).ok()?;
    let event = |id: &OwnedEventId| Arc::clone(&host.known_event(id).unwrap().pdu);
    let state: Vec<Received> = ids.values().map(|id| by(&event(id))).collect();
    let mut todo: Vec<OwnedEventId> = ids.values().cloned().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if seen.insert(id.clone()) {
            todo.extend(event(&id).auth_events.iter().cloned());
        }
    }
    Some(GivenState { state, auth_chain: seen.iter().map(|id| by(&event(id))).collect() })
}

/// Lets a server join through `host`, which is told what it said.
pub(crate) fn add(host: &mut Replica, signer: &Signer, keys: &VerifiedServerKeys) {
    let me = signer.user_id();
    let content = draft("m.room.member", Some(me.as_str()), json!({"membership": "join"}));
    host.clock += 1;
    let position = host.machine.position(&content, me, host.clock).unwrap();
    let pdu = pdu::compose(content, &position, signer.owner(), host.machine.rules()).unwrap();
    let taken = host.ingest(&Received { pdu, spoilt: false, server_keys: keys.clone() });
    assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
}

/// Lets a replica, which may have been in the room before, join through `host` and know no more
/// than the answer tells. Returns the join.
pub(crate) fn come_in(host: &mut Replica, replica: &mut Replica, of: &[Arc<Signer>]) -> Received {
    let me = replica.me.clone();
    replica.clock = replica.clock.max(host.clock) + 1;
    let content = draft("m.room.member", Some(me.as_str()), json!({"membership": "join"}));
    let position = host.machine.position(&content, &me, replica.clock).unwrap();
    let event =
        pdu::compose(content, &position, replica.signer.owner(), host.machine.rules()).unwrap();
    let given = given_before(host, &event, of);
    let change = replica.run(|machine| machine.joined(event.clone(), &given)).unwrap();
    replica.store(&change);
    received(&event, &replica.signer)
}

/// Makes a replica of a room that it is not in.
pub(crate) fn outside(host: &Replica, seed: u8) -> Replica {
    let signer = signer(seed);
    let (room_id, version) = (host.machine.room_id.clone(), host.machine.version.clone());
    let machine = Machine::new(room_id, version, own_of(&signer)).unwrap();
    Replica::new(machine, signer, host.clock)
}

/// Lets another server join through `host`, as send_join does.
pub(crate) fn join(host: &mut Replica, seed: u8, others: &[Arc<Signer>]) -> Replica {
    let signer = signer(seed);
    let me = signer.user_id().clone();
    let machine =
        Machine::new(host.machine.room_id.clone(), host.machine.version.clone(), own_of(&signer))
            .unwrap();
    let content = draft("m.room.member", Some(me.as_str()), json!({"membership": "join"}));
    let position = host.machine.position(&content, &me, host.clock).unwrap();
    let event = pdu::compose(content, &position, signer.owner(), host.machine.rules()).unwrap();
    let mut known = others.to_vec();
    known.push(Arc::clone(&host.signer));
    let given = host.given(&known);
    let mut replica = Replica::new(machine, signer, host.clock);
    let change = replica.run(|machine| machine.joined(event.clone(), &given)).unwrap();
    replica.store(&change);
    let taken = host.ingest(&received(&event, &replica.signer));
    assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
    replica
}

#[test]
fn a_room_begins_and_others_join_it() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut bob = join(&mut ann, 2, &[]);
        assert_eq!(ann.view().0, bob.view().0, "{version}");
        let sent = bob.send(message("hi")).unwrap();
        let taken = ann.ingest(&received(&sent, &bob.signer));
        assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
        let again = ann.ingest(&received(&sent, &bob.signer));
        assert!(matches!(again, Ingested::Duplicate));
        assert_eq!(ann.view(), bob.view());
        assert_eq!(ann.machine.servers().count(), 2);
    }
}

#[test]
fn two_sends_of_equal_body_in_one_millisecond_are_two_events() {
    let mut ann = room(&RoomVersionId::V12, 1);
    let bob = join(&mut ann, 2, &[]);
    let signer = Arc::clone(&ann.signer);
    let mut ids = BTreeSet::new();
    let mut send = |ann: &mut Replica, count: usize| {
        for _ in 0..count {
            let (id, change) = ann
                .run(|machine| machine.send(message("same"), None, signer.owner(), NOW))
                .unwrap();
            ann.store(&change);
            ann.settle();
            assert!(ids.insert(id));
        }
    };
    send(&mut ann, 50);
    // An event follows 20 heads at most: where there are more, some stay heads as they were.
    let mut others = vec![Arc::clone(&bob.signer)];
    let mut talkers = vec![bob];
    for seed in 3..5 {
        let talker = join(&mut ann, seed, &others);
        others.push(Arc::clone(&talker.signer));
        talkers.push(talker);
    }
    for talker in &talkers {
        let joined = attacks::own_member(talker);
        for number in 0..pdu::MAX_PREV_EVENTS {
            let fork = attacks::placed(talker, message(&number.to_string()), &[&joined], |_| {});
            ann.ingest(&received(&fork, &talker.signer));
        }
    }
    assert!(ann.view().1.len() > 2 * pdu::MAX_PREV_EVENTS, "there are many heads");
    send(&mut ann, 10);
}

#[test]
fn a_moderator_cannot_raise_himself_nor_set_state_keyed_to_another() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut bob = join(&mut ann, 2, &[]);
        let (ann_id, bob_id) = (ann.me.clone(), bob.me.clone());
        let mut users = json!({bob_id.as_str(): 50});
        if version != RoomVersionId::V12 {
            users[ann_id.as_str()] = json!(100);
        }
        let levels =
            ann.send(draft("m.room.power_levels", Some(""), json!({"users": users}))).unwrap();
        bob.ingest(&received(&levels, &ann.signer));
        users[bob_id.as_str()] = json!(100);
        let raise = draft("m.room.power_levels", Some(""), json!({"users": users}));
        assert!(matches!(bob.send(raise.clone()), Err(RoomError::Forbidden(_))), "{version}");
        let keyed = draft("org.example.mine", Some(ann_id.as_str()), json!({}));
        assert!(matches!(bob.send(keyed), Err(RoomError::Forbidden(_))), "{version}");

        // And if his server does not check, ours does.
        let position = bob.machine.position(&raise, &bob_id, NOW).unwrap();
        let forged =
            pdu::compose(raise, &position, bob.signer.owner(), bob.machine.rules()).unwrap();
        let taken = ann.ingest(&received(&forged, &bob.signer));
        assert!(matches!(taken, Ingested::New(_, Place::Rejected)), "{taken:?}");
        let current = ann.machine.state_event(&StateEventType::RoomPowerLevels, "").unwrap();
        assert_eq!(current.event_id, levels.event_id);
    }
}

#[test]
fn a_second_create_event_changes_nothing() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let bob = join(&mut ann, 2, &[]);
        let before = ann.view();
        let again =
            draft("m.room.create", Some(""), json!({"room_version": version, "creator": bob.me}));
        let mut position = bob.machine.position(&message("x"), &bob.me, NOW).unwrap();
        position.auth_events.clear();
        let forged =
            pdu::compose(again, &position, bob.signer.owner(), bob.machine.rules()).unwrap();
        let taken = ann.ingest(&received(&forged, &bob.signer));
        assert!(matches!(taken, Ingested::New(_, Place::Rejected)), "{version}: {taken:?}");
        assert_eq!(ann.view(), before);
    }
}

#[test]
fn a_join_answer_with_a_forged_or_second_create_event_is_refused() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let eve = room(&RoomVersionId::V11, 3);
    let signer = signer(2);
    let me = signer.user_id().clone();
    let content = draft("m.room.member", Some(me.as_str()), json!({"membership": "join"}));
    let position = ann.machine.position(&content, &me, NOW).unwrap();
    let event = pdu::compose(content, &position, signer.owner(), ann.machine.rules()).unwrap();
    let given = ann.given(&[Arc::clone(&ann.signer)]);
    let evil = eve.given(&[Arc::clone(&eve.signer)]);
    let mut both = given.clone();
    both.auth_chain.extend(evil.auth_chain.clone());
    let mut none = given.clone();
    for list in [&mut none.state, &mut none.auth_chain] {
        list.retain(|received| received.pdu.kind != TimelineEventType::RoomCreate);
    }
    let fresh = || {
        Machine::new(ann.machine.room_id.clone(), RoomVersionId::V11, own_of(&ann.signer)).unwrap()
    };
    for (what, given, good) in
        [("two", both, false), ("none", none, false), ("the right one", given, true)]
    {
        let mut replica = Replica::new(fresh(), Arc::clone(&signer), NOW);
        let joined = replica.run(|machine| machine.joined(event.clone(), &given));
        assert_eq!(joined.is_ok(), good, "{what}: {joined:?}");
    }
    let _ = &mut ann;
}

#[test]
fn redactions_really_redact_in_whichever_order_they_come() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut bob = join(&mut ann, 2, &[]);
        let mut eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
        let eve_joined = eve.machine.state_event(&StateEventType::RoomMember, eve.me.as_str());
        let eve_joined = Arc::clone(eve_joined.unwrap());
        bob.ingest(&received(&eve_joined, &eve.signer));
        let sent = ann.send(message("secret")).unwrap();
        let mut redact = draft("m.room.redaction", None, json!({}));
        redact.redacts = Some(sent.event_id.clone());
        let redaction = ann.send(redact.clone()).unwrap();
        assert_eq!(ann.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}");

        // The redaction first: it waits for its prev event, and the target is redacted at once.
        bob.ingest(&received(&redaction, &ann.signer));
        bob.ingest(&received(&sent, &ann.signer));
        assert_eq!(bob.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}", "{version}");

        // Without power, of another's event: the event counts, the redaction does not apply.
        eve.ingest(&received(&sent, &ann.signer));
        let forged = attacks::placed(&eve, redact, &[&sent], |_| ());
        eve.ingest(&received(&forged, &eve.signer));
        assert_ne!(eve.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}");
        ann.ingest(&received(&forged, &eve.signer));
    }
}

#[test]
fn a_full_copy_mends_a_spoilt_one() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let sent = ann.send(message("whole")).unwrap();
    let mut spoilt = received(&sent, &ann.signer);
    spoilt.pdu = sent.redacted(bob.machine.rules()).unwrap();
    spoilt.spoilt = true;
    bob.ingest(&spoilt);
    assert_eq!(bob.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}");
    bob.ingest(&received(&sent, &ann.signer));
    assert_eq!(bob.known_event(&sent.event_id).unwrap().pdu.json, sent.json);
}

/// What one of the replicas does next.
#[derive(Debug, Clone)]
enum Step {
    /// Send a message.
    Talk(usize),
    /// Set a state event that everybody with power may set.
    Name(usize, u8),
    /// Change power levels: give or take power of somebody.
    Power(usize, usize, u8),
    /// Kick or ban somebody.
    Remove(usize, usize, bool),
    /// Come back.
    Rejoin(usize),
    /// Give everything that one has to another.
    Sync(usize, usize),
    /// Lose all that is only in memory.
    Forget(usize),
}

fn step(replicas: usize) -> impl Strategy<Value = Step> {
    let who = 0..replicas;
    prop_oneof![
        3 => who.clone().prop_map(Step::Talk),
        3 => (who.clone(), any::<u8>()).prop_map(|(who, name)| Step::Name(who, name)),
        2 => (who.clone(), who.clone(), 0..3_u8).prop_map(|(a, b, level)| Step::Power(a, b, level)),
        1 => (who.clone(), who.clone(), any::<bool>()).prop_map(|(a, b, ban)| Step::Remove(a, b, ban)),
        1 => who.clone().prop_map(Step::Rejoin),
        2 => (who.clone(), who.clone()).prop_map(|(a, b)| Step::Sync(a, b)),
        1 => who.prop_map(Step::Forget),
    ]
}

fn play(version: &RoomVersionId, steps: &[Step], shuffle: u64) {
    let mut ann = room(version, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let mut eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    let joins: Vec<_> = [&bob, &eve]
        .iter()
        .map(|replica| {
            let event =
                replica.machine.state_event(&StateEventType::RoomMember, replica.me.as_str());
            received(event.unwrap(), &replica.signer)
        })
        .collect();
    for replica in [&mut bob, &mut eve] {
        for join in &joins {
            replica.ingest(join);
        }
    }
    let mut replicas = [ann, bob, eve];
    let mut all: Vec<Received> = joins;
    let ids: Vec<_> = replicas.iter().map(|replica| replica.me.clone()).collect();
    for step in steps {
        let (who, draft) = match step {
            Step::Talk(who) => (*who, message("hello")),
            Step::Name(who, name) => {
                (*who, draft("m.room.name", Some(""), json!({"name": name.to_string()})))
            }
            Step::Power(who, of, level) => {
                let mut users = serde_json::Map::new();
                for (index, id) in ids.iter().enumerate() {
                    let creator = index == 0;
                    if creator && *version == RoomVersionId::V12 {
                        continue;
                    }
                    let level = if creator {
                        100
                    } else if index == *of {
                        i64::from(*level) * 50
                    } else {
                        50
                    };
                    users.insert(id.to_string(), json!(level));
                }
                (*who, draft("m.room.power_levels", Some(""), json!({"users": users})))
            }
            Step::Remove(who, of, ban) => {
                let membership = if *ban { "ban" } else { "leave" };
                (
                    *who,
                    draft(
                        "m.room.member",
                        Some(ids[*of].as_str()),
                        json!({"membership": membership}),
                    ),
                )
            }
            Step::Rejoin(who) => (
                *who,
                draft("m.room.member", Some(ids[*who].as_str()), json!({"membership": "join"})),
            ),
            Step::Sync(from, to) => {
                let from: Vec<_> = all
                    .iter()
                    .filter(|received| {
                        replicas[*from].known_event(&received.pdu.event_id).is_some()
                    })
                    .cloned()
                    .collect();
                for received in &from {
                    replicas[*to].ingest(received);
                }
                continue;
            }
            Step::Forget(who) => {
                replicas[*who].forget();
                continue;
            }
        };
        let replica = &mut replicas[who];
        replica.clock += 1;
        let (now, signer) = (replica.clock, Arc::clone(&replica.signer));
        let sent = replica.run(|machine| {
            let pdu = machine.compose(draft.clone(), signer.owner(), now)?;
            machine.send_composed(pdu, None)
        });
        if let Ok(change) = sent {
            replica.store(&change);
            replica.settle();
            all.push(received(&change.publish[0], &signer));
        }
    }
    // Everybody gets everything, each in another order, some of it twice.
    for (index, replica) in replicas.iter_mut().enumerate() {
        let mut order: Vec<_> = all.iter().chain(all.iter().take(all.len() / 2)).collect();
        let mut seed = shuffle.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for at in (1..order.len()).rev() {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            order.swap(at, (seed % (at as u64 + 1)) as usize);
        }
        for received in order {
            replica.ingest(received);
        }
        assert!(replica.machine.parked.is_empty(), "events still wait");
    }
    // The state after an event follows from the event alone, whoever computes it and whenever.
    for (index, one) in replicas.iter().enumerate() {
        for other in replicas.iter().skip(index + 1) {
            for (id, known) in &one.events {
                let Known::Event(known) = known else { continue };
                let (Some(group), Some(others)) =
                    (known.group, other.known_event(id).and_then(|event| event.group))
                else {
                    continue;
                };
                assert_eq!(
                    one.groups[&group], other.groups[&others],
                    "the states after {id} differ"
                );
            }
        }
    }
    // What is soft-failed depends on what was current when it came (that is what soft-failing is
    // for), and with it the forward extremities. Where nothing was, all see the same room.
    let soft_failed = |replica: &Replica| {
        replica.events.values().any(|known| match known {
            Known::Event(event) => event.place == Place::SoftFailed,
            _ => false,
        })
    };
    let first = replicas[0].view();
    for replica in &replicas[1..] {
        let view = replica.view();
        if view.1 == first.1 || !replicas.iter().any(soft_failed) {
            assert_eq!(view, first, "the rooms differ");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_with_the_same_events_agree(
        steps in proptest::collection::vec(step(3), 1..24),
        shuffle in any::<u64>(),
        version in 0..ROOM_VERSIONS.len(),
    ) {
        play(&ROOM_VERSIONS[version], &steps, shuffle);
    }
}

#[test]
fn the_create_event_and_older_state_come_again_and_do_no_harm() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let before = bob.view();
    let all: Vec<_> = ann.given(&[Arc::clone(&ann.signer), Arc::clone(&bob.signer)]).auth_chain;
    for received in &all {
        let taken = bob.ingest(received);
        let harmless = matches!(taken, Ingested::Duplicate | Ingested::New(_, Place::Backfilled));
        assert!(harmless, "{taken:?}");
    }
    assert_eq!(bob.view(), before);
}

#[test]
fn a_redaction_that_would_not_apply_is_refused_to_our_user() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut bob = join(&mut ann, 2, &[]);
        let hers = ann.send(message("hers")).unwrap();
        bob.ingest(&received(&hers, &ann.signer));
        let redact = |target: &str| {
            let mut redact = draft("m.room.redaction", None, json!({}));
            redact.redacts = Some(OwnedEventId::try_from(target).unwrap());
            redact
        };
        let refused = bob.send(redact(hers.event_id.as_str()));
        assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{version}: {refused:?}");
        let his = bob.send(message("his")).unwrap();
        assert!(bob.send(redact(his.event_id.as_str())).is_ok(), "{version}: his own");
        ann.ingest(&received(&his, &bob.signer));
        assert!(ann.send(redact(his.event_id.as_str())).is_ok(), "{version}: with power");
        assert!(matches!(bob.send(redact("$nothing")), Err(RoomError::EventNotFound)));
    }
}

#[test]
fn our_user_annotates_once() {
    let mut ann = room(&RoomVersionId::V12, 1);
    let said = ann.send(message("said")).unwrap();
    let relation = json!({"rel_type": "m.annotation", "event_id": said.event_id, "key": "+"});
    let reaction = draft("m.reaction", None, json!({"m.relates_to": relation}));
    let signer = Arc::clone(&ann.signer);
    for is_there in [false, true] {
        let mut asked = 0;
        let sent = loop {
            match ann.machine.send(reaction.clone(), None, signer.owner(), NOW) {
                Err(Stop::Need(Need::Annotation(by, annotation))) => {
                    asked += 1;
                    ann.machine.provide_annotation(by, annotation, is_there);
                }
                Err(Stop::Need(need)) => ann.provide(need),
                done => break done,
            }
        };
        assert_eq!(asked, 1);
        match sent {
            Ok((_, change)) => {
                assert!(!is_there);
                ann.store(&change);
            }
            Err(Stop::Refused(RoomError::DuplicateAnnotation)) => assert!(is_there),
            other => panic!("{other:?}"),
        }
        ann.machine.tidy();
    }
}
