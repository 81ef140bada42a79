//! The rules of one room, without I/O: which PDUs count, and what the state is.
//!
//! Every operation is a function that either completes or stops with a [`Need`]: something of the
//! Store, or a state resolution, that has to be provided before it is called again. Nothing is
//! changed before an operation has all it needs, so calling it again is safe; whoever drives the
//! machine (the actor, or a test) runs one operation to its end before the next.
//!
//! Invariants: never without a forward extremity once the create event is in; the current state
//! is always that of `current_group`; a rejected event is never part of a state; of one server there
//! are few forward extremities.
//!
//! The current state is that after the first forward extremities, as many as an event may follow
//! ([`Machine::front`]). Where an event came for which states have to be resolved, the room is
//! *unsettled* until [`Machine::settle`] has done so: once for all that came until then.

mod acl;
mod departure;
mod ingest;
mod join;
mod notify;
mod parked;
mod redact;
mod send;
mod state;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    RoomVersionId, ServerName, UserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;

pub(super) use self::departure::departure;
pub(crate) use self::{ingest::Ingested, join::GivenState, state::StateIds};
use super::messages::RoomError;
use crate::{
    actors::store::{
        BackwardExtremity, ClientTxn, CommitRoom, Extremity, Heads, LoadedRoom, Lookup, NewEvent,
        OwnMembership, Place, StoredEvent,
    },
    config::limits,
    proto::{
        acl::Acl,
        annotation::Annotation,
        pdu::{self, Draft, Pdu, StateKey},
        push_rules::Listeners,
        server_name,
        state_res::EventMap,
    },
};

/// Events that stay in memory beside the current state.
const CACHED_EVENTS: usize = 4096;
/// Bytes of these events: the largest are 64 KiB each.
const CACHED_LEN: usize = 16 * 1024 * 1024;
/// State groups that stay in memory beside the current one.
const CACHED_GROUPS: usize = 32;
/// Resolutions that stay in memory: forks of one place in the graph ask for the same one.
const CACHED_RESOLVED: usize = 32;
/// Missing events that are remembered: beyond that, history is left out.
const GAPS: usize = 1000;
/// Client transactions that are remembered.
const CACHED_TXNS: usize = 1000;

/// What an operation has to be given before it is called again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// Events by id: [`Machine::provide_events`].
    Events(Vec<OwnedEventId>),
    /// The state of a group: [`Machine::provide_state`].
    State(u64),
    /// The resolution of the states of these groups: [`Machine::provide_resolved`].
    Resolve(Vec<u64>),
    /// Whether a user of ours has an annotation: [`Machine::provide_annotation`].
    Annotation(OwnedUserId, Annotation),
}

/// Why an operation did not complete.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Provide this and call again.
    Need(Need),
    /// It cannot be done.
    Refused(RoomError),
}

impl<E: Into<RoomError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// What an operation changed: to be stored, and what may happen once it is.
#[derive(Debug)]
pub(crate) struct Change {
    /// For the Store.
    pub commit: CommitRoom,
    /// For the other members.
    pub publish: Vec<Arc<Pdu>>,
    /// Parked events that may be ingested now.
    pub unparked: Vec<OwnedEventId>,
}

/// An event id as far as the room knows it.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// An event.
    Event(Arc<KnownEvent>),
    /// Only that these events redact it, as far as they may.
    RedactedBy(Vec<OwnedEventId>),
    /// Nothing.
    Absent,
}

/// An event of the room.
#[derive(Debug)]
pub(crate) struct KnownEvent {
    pub pdu: Arc<Pdu>,
    pub place: Place,
    /// State group after it; none for outliers and backfilled events.
    pub group: Option<u64>,
    pub spoilt: bool,
}

/// The part of a membership event that the room looks at.
#[derive(Debug, Deserialize)]
pub(crate) struct MemberContent {
    pub membership: MembershipState,
    #[serde(default, deserialize_with = "text")]
    pub displayname: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub avatar_url: Option<String>,
}

/// Reads a text, or nothing where something else stands: the auth rules look at the membership
/// alone, and whoever joins with an odd name has joined.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    })
}

/// Reads a stored event.
fn parse(stored: &StoredEvent, rules: &RoomVersionRules) -> Result<Pdu, RoomError> {
    let mut pdu = Pdu::from_json(stored.event_id.clone(), &stored.json, rules)?;
    pdu.rejected = stored.place == Place::Rejected;
    Ok(pdu)
}

/// Reads stored events for a resolution. Of a large room they are many: not for the room's thread.
pub(crate) fn event_map(
    stored: &[StoredEvent],
    rules: &RoomVersionRules,
) -> Result<EventMap, RoomError> {
    let parse =
        |event: &StoredEvent| parse(event, rules).map(|pdu| (pdu.event_id.clone(), Arc::new(pdu)));
    stored.iter().map(parse).collect()
}

/// The room.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) room_id: OwnedRoomId,
    /// Our server: its users are the locals.
    server: OwnedServerName,
    version: RoomVersionId,
    rules: RoomVersionRules,
    /// Forward extremities; none before we joined. Where they are more than an event may follow,
    /// those that it does come first.
    extremities: Vec<Extremity>,
    /// The current state is not that of the forward extremities yet.
    unsettled: bool,
    current_group: u64,
    next_group: u64,
    /// The events of the current state.
    state: HashMap<StateKey, Arc<Pdu>>,
    /// Joined users of each server.
    joined: BTreeMap<OwnedServerName, usize>,
    /// Those servers of them that the room does not keep out.
    servers: BTreeSet<OwnedServerName>,
    /// Whom the room keeps out.
    acl: Option<Arc<Acl>>,
    /// Those of our users who have to do with the room.
    locals: BTreeMap<OwnedUserId, OwnMembership>,
    /// Of what our users are notified.
    listeners: Listeners,
    /// What events of the timeline follow and is not here, with what follows it.
    backward: BTreeMap<OwnedEventId, BTreeSet<OwnedEventId>>,
    txns: HashMap<(OwnedUserId, ClientTxn), OwnedEventId>,
    /// The same, oldest first.
    txn_order: VecDeque<(OwnedUserId, ClientTxn)>,
    known: HashMap<OwnedEventId, Known>,
    /// Bytes of all that came into `known` since it was last emptied.
    known_len: usize,
    groups: HashMap<u64, Arc<StateIds>>,
    resolved: HashMap<Vec<u64>, Arc<StateIds>>,
    /// Whether a user of ours has an annotation that is being sent.
    annotations: HashMap<(OwnedUserId, Annotation), bool>,
    /// Events whose prev or auth events are not here, by id.
    parked: BTreeMap<OwnedEventId, parked::Parked>,
}

impl Machine {
    /// Makes the machine of a room of which nothing is stored.
    pub(crate) fn new(
        room_id: OwnedRoomId,
        version: RoomVersionId,
        server: OwnedServerName,
    ) -> Result<Self, RoomError> {
        let rules = pdu::rules_of(&version)
            .ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        Ok(Self {
            room_id,
            server,
            version,
            rules,
            extremities: Vec::new(),
            unsettled: false,
            current_group: 0,
            next_group: 1,
            state: HashMap::new(),
            joined: BTreeMap::new(),
            servers: BTreeSet::new(),
            acl: None,
            locals: BTreeMap::new(),
            listeners: Listeners::default(),
            backward: BTreeMap::new(),
            txns: HashMap::new(),
            txn_order: VecDeque::new(),
            known: HashMap::new(),
            known_len: 0,
            groups: HashMap::new(),
            resolved: HashMap::new(),
            annotations: HashMap::new(),
            parked: BTreeMap::new(),
        })
    }

    /// Makes the machine of a stored room.
    pub(crate) fn load(
        room_id: OwnedRoomId,
        server: OwnedServerName,
        loaded: LoadedRoom,
    ) -> Result<Self, RoomError> {
        let mut machine = Self::new(room_id, loaded.version, server)?;
        if let Some(heads) = loaded.heads {
            machine.extremities = heads.extremities;
            machine.current_group = heads.current_group;
            machine.next_group = heads.next_group;
            // The node may have ended between an event and the resolution that it called for.
            let groups = machine.front_groups();
            machine.unsettled = !groups.is_empty() && groups != [machine.current_group];
        }
        for stored in &loaded.state {
            let pdu = Arc::new(machine.parse(stored)?);
            if let Some(place) = pdu.state_place() {
                machine.count_member(None, Some(&pdu));
                machine.state.insert(place, pdu);
            }
        }
        machine.take_acl();
        machine.locals = loaded.memberships;
        let missing = loaded.backward_extremities.into_iter();
        machine.backward = missing
            .map(|event| (event.event_id, event.followed_by.into_iter().collect()))
            .collect();
        for (user_id, txn, event_id) in loaded.txns {
            // Rows from a time when there was one user name none.
            let user_id = user_id.unwrap_or_else(|| server_name::user_of(&machine.server));
            machine.remember_txn((user_id, txn), event_id);
        }
        Ok(machine)
    }

    /// Reads a stored event.
    pub(crate) fn parse(&self, stored: &StoredEvent) -> Result<Pdu, RoomError> {
        parse(stored, &self.rules)
    }

    // ------------------------------------------------------------ what others ask

    /// Takes note of what our users are notified of from now on.
    pub(crate) fn listen(&mut self, listeners: &Listeners) {
        if !Arc::ptr_eq(&self.listeners, listeners) {
            self.listeners = Arc::clone(listeners);
        }
    }

    pub(crate) fn version(&self) -> &RoomVersionId {
        &self.version
    }

    pub(crate) fn rules(&self) -> &RoomVersionRules {
        &self.rules
    }

    /// Returns what a user of ours is in the room.
    pub(crate) fn membership(&self, user: &UserId) -> Option<&OwnMembership> {
        self.locals.get(user)
    }

    /// Returns those of our users who have to do with the room, and what they are in it.
    pub(crate) fn locals(&self) -> impl Iterator<Item = (&OwnedUserId, &OwnMembership)> {
        self.locals.iter()
    }

    /// Tells whether a user is of our server.
    pub(crate) fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server
    }

    /// Tells whether a user of ours is joined.
    pub(crate) fn has_in(&self, user: &UserId) -> bool {
        self.membership(user).is_some_and(|own| own.membership == MembershipState::Join)
    }

    /// Tells whether any of our users is joined: then the room is kept up with, and the others count
    /// our server among its servers.
    pub(crate) fn is_resident(&self) -> bool {
        self.locals.values().any(|own| own.membership == MembershipState::Join)
    }

    /// Returns the servers that take part: they have a joined user, and are not kept out.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.servers.iter()
    }

    /// Tells whether a server takes part.
    pub(crate) fn has_joined(&self, server: &ServerName) -> bool {
        self.servers.contains(server)
    }

    pub(crate) fn extremities(&self) -> &[Extremity] {
        &self.extremities
    }

    /// Returns what is missing before an event, or before any where that is not said.
    pub(crate) fn missing_before(&self, event_id: Option<&EventId>) -> Vec<OwnedEventId> {
        let is_before = |followers: &BTreeSet<OwnedEventId>| {
            event_id.is_none_or(|event_id| followers.iter().any(|id| id == event_id))
        };
        let missing = self.backward.iter().filter(|(_, followers)| is_before(followers));
        missing.take(limits::HEADS).map(|(id, _)| id.clone()).collect()
    }

    /// Returns the event at a place of the current state.
    pub(crate) fn state_event(&self, kind: &StateEventType, state_key: &str) -> Option<&Arc<Pdu>> {
        // A borrowed pair cannot be looked up in a map of owned pairs.
        self.state.get(&(kind.clone(), state_key.to_owned()))
    }

    /// Returns all events of the current state.
    pub(crate) fn state(&self) -> impl Iterator<Item = &Arc<Pdu>> {
        self.state.values()
    }

    /// Returns somebody's membership in the current state.
    pub(crate) fn member(&self, user: &UserId) -> Option<MemberContent> {
        let pdu = self.state_event(&StateEventType::RoomMember, user.as_str())?;
        serde_json::from_str(pdu.content.get()).ok()
    }

    /// Returns the event that a client transaction of a user of ours made.
    pub(crate) fn txn(&self, by: &UserId, txn: &ClientTxn) -> Option<&OwnedEventId> {
        self.txns.get(&(by.to_owned(), txn.clone()))
    }

    /// Tells whether there is a state: we were in the room once.
    pub(crate) fn has_state(&self) -> bool {
        !self.extremities.is_empty()
    }

    /// Returns the event of the current state by which a user of ours said just what a draft says.
    pub(crate) fn unchanged(&self, draft: &Draft, by: &UserId) -> Option<OwnedEventId> {
        let place = (StateEventType::from(draft.kind.to_string()), draft.state_key.clone()?);
        let joined = self.has_in(by);
        let current = self.state.get(&place).filter(|pdu| joined && pdu.sender == by)?;
        let content: CanonicalJsonObject = serde_json::from_str(current.content.get()).ok()?;
        (content == draft.content).then(|| current.event_id.clone())
    }

    /// Returns who may read history that is older than their join.
    pub(crate) fn history_visibility(&self) -> HistoryVisibility {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        self.state_event(&StateEventType::RoomHistoryVisibility, "")
            .and_then(|pdu| serde_json::from_str::<Content>(pdu.content.get()).ok())
            .map_or(HistoryVisibility::Shared, |content| content.history_visibility)
    }

    // ------------------------------------------------------------ what was needed

    /// Provides events that were needed, in the order of the ids.
    pub(crate) fn provide_events(
        &mut self,
        ids: Vec<OwnedEventId>,
        found: Vec<Lookup>,
    ) -> Result<(), RoomError> {
        for (id, found) in ids.into_iter().zip(found) {
            let known = match found {
                Lookup::Found(stored) => Known::Event(Arc::new(KnownEvent {
                    pdu: self.shared(self.parse(&stored)?),
                    place: stored.place,
                    group: stored.state_group,
                    spoilt: stored.spoilt,
                })),
                Lookup::RedactedBy(because) => Known::RedactedBy(because),
                Lookup::Absent => Known::Absent,
            };
            if let Known::Event(event) = &known {
                self.known_len += event.pdu.json.len();
            }
            self.known.insert(id, known);
        }
        Ok(())
    }

    /// Returns the copy of the current state where an event is part of it, so that it is in memory
    /// once.
    fn shared(&self, pdu: Pdu) -> Arc<Pdu> {
        let current = pdu.state_place().and_then(|place| self.state.get(&place));
        match current {
            Some(same) if same.event_id == pdu.event_id && same.json == pdu.json => {
                Arc::clone(same)
            }
            _ => Arc::new(pdu),
        }
    }

    /// Provides a state that was needed.
    pub(crate) fn provide_state(&mut self, group: u64, state: StateIds) {
        self.groups.insert(group, Arc::new(state));
    }

    /// Returns what a needed resolution resolves: the states of the groups. Their auth chains
    /// have to be loaded beside.
    pub(crate) fn states_of(&mut self, groups: &[u64]) -> Result<Vec<Arc<StateIds>>, Stop> {
        groups.iter().map(|group| self.state_of(*group)).collect()
    }

    /// Provides a resolution that was needed.
    pub(crate) fn provide_resolved(&mut self, groups: Vec<u64>, state: StateIds) {
        self.resolved.insert(groups, Arc::new(state));
    }

    /// Provides whether a user of ours has an annotation.
    pub(crate) fn provide_annotation(
        &mut self,
        by: OwnedUserId,
        annotation: Annotation,
        is_there: bool,
    ) {
        self.annotations.insert((by, annotation), is_there);
    }

    /// Forgets what is only cached, where that has grown large. Called between operations.
    pub(crate) fn tidy(&mut self) {
        if self.known.len() > CACHED_EVENTS || self.known_len > CACHED_LEN {
            self.known.clear();
            self.known_len = 0;
        }
        if self.groups.len() > CACHED_GROUPS {
            self.groups.clear();
        }
        if self.resolved.len() > CACHED_RESOLVED {
            self.resolved.clear();
        }
        self.annotations.clear();
    }

    /// Keeps the event that a client transaction made, and forgets the oldest one.
    fn remember_txn(&mut self, txn: (OwnedUserId, ClientTxn), event_id: OwnedEventId) {
        if self.txns.insert(txn.clone(), event_id).is_none() {
            self.txn_order.push_back(txn);
        }
        while self.txn_order.len() > CACHED_TXNS {
            if let Some(oldest) = self.txn_order.pop_front() {
                self.txns.remove(&oldest);
            }
        }
    }

    /// Notes which parked events may go on once a change is made.
    fn note_unparked(&self, change: &mut Change) {
        let new = change.commit.events.iter().map(|new| &new.pdu.event_id).collect();
        change.unparked = self.waiting_for(&new);
    }

    /// Returns the events that are known of `ids`, or what has to be loaded first.
    pub(crate) fn require(&self, ids: &[OwnedEventId]) -> Result<(), Stop> {
        let missing: Vec<_> =
            ids.iter().filter(|id| !self.known.contains_key(*id)).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Stop::Need(Need::Events(missing))) }
    }

    /// Returns where an event that was required before stands in the room.
    pub(crate) fn place(&self, id: &EventId) -> Option<Place> {
        self.known(id).map(|known| known.place)
    }

    /// Returns what is known of an event that was required before.
    pub(crate) fn known(&self, id: &EventId) -> Option<&Arc<KnownEvent>> {
        match self.known.get(id) {
            Some(Known::Event(event)) => Some(event),
            _ => None,
        }
    }

    /// Tells whether an event that was required before is part of the room and whole: no other copy of
    /// it can change anything.
    pub(crate) fn is_whole(&self, id: &EventId) -> bool {
        self.known(id).is_some_and(|known| known.place != Place::Outlier && !known.spoilt)
    }

    // ------------------------------------------------------------ bookkeeping

    /// Begins a change.
    fn change(&self) -> Change {
        Change {
            commit: CommitRoom::new(self.room_id.clone(), self.version.clone()),
            publish: Vec::new(),
            unparked: Vec::new(),
        }
    }

    /// Notes the front of the graph in a change.
    fn note_heads(&self, change: &mut Change) {
        change.commit.heads = Some(Heads {
            extremities: self.extremities.clone(),
            current_group: self.current_group,
            next_group: self.next_group,
        });
    }

    /// Notes that an event of the timeline follows others that are not in it.
    fn note_gaps(&mut self, event_id: &OwnedEventId, missing: Vec<OwnedEventId>) {
        for id in missing {
            if self.backward.contains_key(&id) || self.backward.len() < GAPS {
                self.backward.entry(id).or_default().insert(event_id.clone());
            }
        }
    }

    /// Notes in a change what is missing.
    fn note_backward(&self, change: &mut Change) {
        let missing = self.backward.iter().map(|(id, followers)| BackwardExtremity {
            event_id: id.clone(),
            followed_by: followers.iter().cloned().collect(),
        });
        change.commit.backward_extremities = Some(missing.collect());
    }

    /// Keeps an event in memory as it will be stored.
    fn remember(&mut self, new: &NewEvent) {
        let known = KnownEvent {
            pdu: Arc::clone(&new.pdu),
            place: new.place,
            group: new.state_group,
            spoilt: new.spoilt,
        };
        self.known_len += new.pdu.json.len();
        self.known.insert(new.pdu.event_id.clone(), Known::Event(Arc::new(known)));
        // The current state shows the copy that is stored, not one that was changed on its way.
        if let Some(place) = new.pdu.state_place()
            && let Some(current) = self.state.get_mut(&place)
            && current.event_id == new.pdu.event_id
        {
            *current = Arc::clone(&new.pdu);
        }
    }

    /// Counts joined users of servers when one state event takes the place of another. Returns
    /// whether the set of servers changed.
    fn count_member(&mut self, old: Option<&Arc<Pdu>>, new: Option<&Arc<Pdu>>) -> bool {
        let joined = |pdu: Option<&Arc<Pdu>>| {
            let pdu = pdu.filter(|pdu| pdu.kind == ruma::events::TimelineEventType::RoomMember)?;
            let content: MemberContent = serde_json::from_str(pdu.content.get()).ok()?;
            let user = OwnedUserId::try_from(pdu.state_key.as_deref()?).ok()?;
            (content.membership == MembershipState::Join).then(|| user.server_name().to_owned())
        };
        let (left, came) = (joined(old), joined(new));
        if left == came {
            return false;
        }
        let mut changed = false;
        if let Some(server) = came {
            let count = self.joined.entry(server.clone()).or_default();
            *count += 1;
            changed |= *count == 1;
            self.count_server(&server);
        }
        if let Some(server) = left
            && let Some(count) = self.joined.get_mut(&server)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.joined.remove(&server);
                self.count_server(&server);
                changed = true;
            }
        }
        changed
    }

    /// Makes the content of a membership event of somebody.
    pub(crate) fn member_content(
        membership: &MembershipState,
        displayname: Option<&str>,
        avatar_url: Option<&str>,
        reason: Option<&str>,
    ) -> CanonicalJsonObject {
        let fields = [
            ("membership", Some(membership.as_str())),
            ("displayname", displayname),
            ("avatar_url", avatar_url),
            ("reason", reason),
        ];
        let text = |value: &str| ruma::CanonicalJsonValue::String(value.to_owned());
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), text(value?)))).collect()
    }
}
