//! State resolution: what it takes to bring two sides of a room together that went apart.
//!
//! `cargo bench --bench state_res`. It runs only where states really differ, off the actor
//! threads; the room waits for it. So the cost that counts is that of a large room.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use messagehub::proto::{
    pdu::{Draft, Pdu, Position, StateKey, compose, rules_of},
    server_name::user_of,
    signer::{SecretKeys, Signer},
    state_res::{EventMap, resolve},
};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomVersionId, events::TimelineEventType,
    room_version_rules::RoomVersionRules, state_res::StateMap,
};
use serde_json::{Value, json};

const NOW: u64 = 1_790_000_000_000;

/// A room whose members are servers of their own, and the state that grows with its events.
#[derive(Clone)]
struct Room {
    rules: RoomVersionRules,
    room_id: Option<OwnedRoomId>,
    state: StateMap<OwnedEventId>,
    events: EventMap,
    depth: u64,
}

fn server(number: u16) -> Signer {
    let seed = |kind: u8| {
        let mut seed = [kind; 32];
        seed.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of)| *byte = of);
        seed
    };
    let keys = SecretKeys { identity: seed(1), verify: seed(2), encryption: seed(3) };
    Signer::new(&keys, &["peer".to_owned()], NOW).unwrap()
}

impl Room {
    /// A public room of `members`, its creator included.
    fn new(version: &RoomVersionId, members: &[Signer]) -> Self {
        let mut room = Self {
            rules: rules_of(version).unwrap(),
            room_id: None,
            state: StateMap::new(),
            events: EventMap::new(),
            depth: 0,
        };
        let creator = members.first().unwrap();
        let v12 = room.rules.authorization.room_create_event_id_as_room_id;
        let mut create = json!({"room_version": version});
        if !v12 {
            let room_id = format!("!room:{}", creator.server_name());
            room.room_id = Some(room_id.as_str().try_into().unwrap());
        }
        if !room.rules.authorization.use_room_create_sender {
            create = json!({"room_version": version, "creator": user_of(creator.server_name())});
        }
        let create = room.send(creator, "m.room.create", "", create);
        room.room_id = Some(create.room_id.clone());
        room.join(creator, "creator");
        let users =
            if v12 { json!({}) } else { json!({user_of(creator.server_name()).as_str(): 100}) };
        room.send(creator, "m.room.power_levels", "", json!({"users": users}));
        room.send(creator, "m.room.join_rules", "", json!({"join_rule": "public"}));
        for member in members.iter().skip(1) {
            room.join(member, "member");
        }
        room
    }

    fn join(&mut self, member: &Signer, name: &str) {
        let content = json!({"membership": "join", "displayname": name});
        self.send(member, "m.room.member", user_of(member.server_name()).as_str(), content);
    }

    fn send(&mut self, signer: &Signer, kind: &str, key: &str, content: Value) -> Arc<Pdu> {
        let draft = Draft {
            kind: TimelineEventType::from(kind),
            state_key: Some(key.to_owned()),
            content: serde_json::from_value(content).unwrap(),
            redacts: None,
        };
        let create = kind == "m.room.create";
        let v12 = self.rules.authorization.room_create_event_id_as_room_id;
        let user = user_of(signer.server_name());
        let me = user.as_str();
        let mut auth = vec![("m.room.power_levels", ""), ("m.room.member", me)];
        if kind == "m.room.member" {
            auth.push(("m.room.join_rules", ""));
        }
        if !v12 {
            auth.push(("m.room.create", ""));
        }
        let at = |(kind, key): (&str, &str)| {
            self.state.get(&StateKey::from((kind.into(), key.to_owned()))).cloned()
        };
        self.depth += 1;
        let position = Position {
            room_id: self.room_id.clone().filter(|_| !(create && v12)),
            prev_events: Vec::new(),
            auth_events: auth.into_iter().filter_map(at).collect(),
            depth: self.depth,
            origin_server_ts: NOW + self.depth,
        };
        let author = signer.author(&user).unwrap();
        let pdu = Arc::new(compose(draft, &position, author, &self.rules).unwrap());
        self.state.insert(pdu.state_place().unwrap(), pdu.event_id.clone());
        self.events.insert(pdu.event_id.clone(), Arc::clone(&pdu));
        pdu
    }

    /// Two sides: on each the power levels, the name, and the names of `changes` members change.
    fn diverge(
        &self,
        members: &[Signer],
        changes: usize,
    ) -> (Vec<StateMap<OwnedEventId>>, EventMap) {
        let creator = members.first().unwrap();
        let mut events = EventMap::new();
        let mut states = Vec::new();
        for side in ["here", "there"] {
            let mut room = self.clone();
            let creator_name = user_of(creator.server_name());
            let v12 = self.rules.authorization.room_create_event_id_as_room_id;
            let users = if v12 { json!({}) } else { json!({creator_name.as_str(): 100}) };
            let default = i64::from(side == "here");
            let levels = json!({"users": users, "state_default": 50 + default});
            room.send(creator, "m.room.power_levels", "", levels);
            room.send(creator, "m.room.name", "", json!({"name": side}));
            for member in members.iter().skip(1).take(changes) {
                room.join(member, side);
            }
            events.extend(room.events);
            states.push(room.state);
        }
        (states, events)
    }
}

fn state_res(c: &mut Criterion) {
    let members: Vec<Signer> = (0..1000).map(server).collect();
    let mut group = c.benchmark_group("resolve two states");
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        for (size, changes) in [(10, 2), (1000, 0), (1000, 10), (1000, 500)] {
            let members = members.get(..size).unwrap();
            let room = Room::new(&version, members);
            let (states, events) = room.diverge(members, changes);
            let name = format!("version {version}, {size} members, {changes} differ");
            group.bench_function(name, |b| {
                b.iter(|| {
                    let resolved = resolve(&states, &events, &room.rules).unwrap();
                    assert_eq!(resolved.len(), room.state.len() + 1);
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = state_res
}
criterion_main!(benches);
