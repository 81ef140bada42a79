//! State resolution over events that were loaded before: ruma's algorithm, fed from maps.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};

use super::{ProtoError, pdu::Pdu};

/// Events by id.
pub type EventMap = HashMap<OwnedEventId, Arc<Pdu>>;

/// Returns the ids of the state events in which `states` differ.
pub fn conflicted(states: &[&StateMap<OwnedEventId>]) -> HashSet<OwnedEventId> {
    let mut conflicted = HashSet::new();
    for state in states {
        for (key, id) in *state {
            if states.iter().any(|other| other.get(key) != Some(id)) {
                conflicted.insert(id.clone());
            }
        }
    }
    conflicted
}

/// Returns everything that can be reached from `roots` along auth events, roots included.
fn closure<'a>(
    roots: impl Iterator<Item = &'a OwnedEventId>,
    events: &EventMap,
) -> EventIdSet<OwnedEventId> {
    let mut seen = EventIdSet::new();
    let mut todo: Vec<OwnedEventId> = roots.cloned().collect();
    while let Some(id) = todo.pop() {
        if seen.contains(&id) {
            continue;
        }
        if let Some(event) = events.get(&id) {
            todo.extend(event.auth_events.iter().cloned());
        }
        seen.insert(id);
    }
    seen
}

/// Returns the conflicted state subgraph (room version 12): all events on a path along auth events
/// from one conflicted event to another.
fn subgraph(
    conflicted: &StateMap<Vec<OwnedEventId>>,
    events: &EventMap,
) -> EventIdSet<OwnedEventId> {
    let targets: HashSet<&OwnedEventId> = conflicted.values().flatten().collect();
    let above = closure(targets.iter().copied(), events);
    // An event of the closure is on a path if a conflicted event can be reached from it. Auth
    // edges point from children to parents, so walk them in reverse from the conflicted events.
    let mut children: HashMap<&EventId, Vec<&OwnedEventId>> = HashMap::new();
    for id in above.iter() {
        for parent in events.get(id).into_iter().flat_map(|event| &event.auth_events) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = EventIdSet::new();
    let mut todo: Vec<&OwnedEventId> = targets.into_iter().collect();
    while let Some(id) = todo.pop() {
        if found.contains(id) {
            continue;
        }
        found.insert(id.clone());
        todo.extend(children.get(&**id).into_iter().flatten().copied());
    }
    found
}

/// Resolves diverged states of one room.
///
/// `events` must hold the full auth chain of every event in `states`. The cost follows the size
/// of the states and of that chain, so this runs only where states really differ.
pub fn resolve(
    states: &[StateMap<OwnedEventId>],
    events: &EventMap,
    rules: &RoomVersionRules,
) -> Result<StateMap<OwnedEventId>, ProtoError> {
    let StateResolutionVersion::V2(state_res_rules) = &rules.state_res else {
        return Err(ProtoError::malformed("room version", "state resolution v1 is not supported"));
    };
    let auth_chains = states.iter().map(|state| closure(state.values(), events)).collect();
    state_res::resolve(
        &rules.authorization,
        state_res_rules,
        states,
        auth_chains,
        |id| events.get(id).cloned(),
        |conflicted| Some(subgraph(conflicted, events)),
    )
    .map_err(|error| ProtoError::malformed("room state", error))
}
