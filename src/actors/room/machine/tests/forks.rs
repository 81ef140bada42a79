//! Servers that fork the room: many events beside one another, where each should follow the last.

use super::{
    attacks::{own_member, placed},
    *,
};
use crate::actors::store::InviteData;

/// Members, of whom the last forks.
fn members() -> [Replica; 3] {
    let mut ann = room(&RoomVersionId::V12, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    bob.ingest(&received(&own_member(&eve), &eve.signer));
    [ann, bob, eve]
}

/// State events of Eve that all follow her join.
fn forks(eve: &Replica, count: u64) -> Vec<Received> {
    let joined = own_member(eve);
    let fork = |number: u64| {
        let content = json!({"membership": "join", "displayname": format!("eve {number}")});
        let draft = draft("m.room.member", Some(eve.me.as_str()), content);
        // Each deeper than most before it.
        let event = placed(eve, draft, &[&joined], |position| {
            position.depth = 1000 + number * 7 % 50 + number;
            position.origin_server_ts = NOW + number;
        });
        received(&event, &eve.signer)
    };
    (0..count).map(fork).collect()
}

#[test]
fn attack_13_of_the_forks_of_one_server_few_count_and_the_same_everywhere() {
    let [mut ann, mut bob, eve] = members();
    let all = forks(&eve, 200);
    let said = bob.send(draft("m.room.topic", Some(""), json!({"topic": "no"})));
    assert!(said.is_err(), "Bob has no power");
    let said = bob.send(message("Bob is heard all the same")).unwrap();
    let mut before = ann.resolved;
    for event in &all {
        let taken = ann.ingest_among(event);
        assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
    }
    assert_eq!(ann.resolved, before, "nothing is resolved while more comes");
    ann.ingest(&received(&said, &bob.signer));
    assert!(ann.resolved - before <= 1, "all at once is resolved once");
    before = bob.resolved;
    for (number, event) in all.iter().rev().enumerate() {
        bob.ingest_among(event);
        if number % 50 == 0 {
            bob.settle();
        }
    }
    bob.settle();
    assert!(bob.resolved - before <= 5);
    assert_eq!(ann.view(), bob.view());
    let heads = ann.view().1;
    assert!(heads.len() <= 21 && heads.contains(&said.event_id), "{} heads", heads.len());
    // What comes once more of the same kind changes nothing, and costs nothing.
    before = ann.resolved;
    ann.ingest(&forks(&eve, 1)[0]);
    assert_eq!(ann.resolved, before);
    // The next event ties them together: first those of others, and with them some of hers.
    let next = ann.send(message("enough")).unwrap();
    assert!(next.prev_events.contains(&said.event_id));
    bob.ingest(&received(&next, &ann.signer));
    assert_eq!(ann.view(), bob.view());
    let last = bob.send(message("yes")).unwrap();
    ann.ingest(&received(&last, &bob.signer));
    assert_eq!(ann.view(), bob.view());
    assert_eq!(ann.view().1.len(), 1);
}

#[test]
fn what_a_restart_finds_unsettled_is_settled() {
    let [mut ann, _, eve] = members();
    let mut all = forks(&eve, 3).into_iter();
    // The first one forks nothing.
    ann.ingest(&all.next().unwrap());
    let before = ann.machine.current_ids();
    for event in all {
        ann.ingest_among(&event);
    }
    assert!(ann.machine.is_unsettled());
    assert_eq!(ann.machine.current_ids(), before, "the state is that of its group");
    let heads = Heads {
        extremities: ann.machine.extremities.clone(),
        current_group: ann.machine.current_group,
        next_group: ann.machine.next_group,
    };
    let stored = |pdu: &Arc<Pdu>| StoredEvent {
        event_id: pdu.event_id.clone(),
        json: pdu.json.clone().into(),
        place: Place::Live,
        state_group: None,
        order: None,
        spoilt: false,
        txn: None,
        redacted_because: None,
    };
    let loaded = LoadedRoom {
        version: ann.machine.version.clone(),
        heads: Some(heads),
        state: ann.machine.state().map(stored).collect(),
        memberships: std::collections::BTreeMap::new(),
        backward_extremities: Vec::new(),
        txns: Vec::new(),
        room_keys: None,
    };
    let room_id = ann.machine.room_id.clone();
    ann.machine = Machine::load(room_id, own_of(&ann.signer), loaded).unwrap();
    assert!(ann.machine.is_unsettled());
    ann.settle();
    let [mut other, ..] = members();
    for event in forks(&eve, 3) {
        other.ingest(&event);
    }
    assert_eq!(ann.machine.current_ids(), other.machine.current_ids());
}

#[test]
fn whoever_invites_second_takes_no_invite_away() {
    let ann = room(&RoomVersionId::V11, 1);
    let (bob, eve, me) = (signer(2), signer(3), signer(4));
    let room_id = ann.machine.room_id.clone();
    let invite = |by: &Arc<Signer>, name: &str, via: &[&str]| {
        let content = draft(
            "m.room.member",
            Some(me.user_id().as_str()),
            json!({"membership": "invite", "reason": name}),
        );
        let position = Position {
            room_id: Some(room_id.clone()),
            prev_events: vec![],
            auth_events: vec![],
            depth: 5,
            origin_server_ts: NOW,
        };
        let event = pdu::compose(content, &position, by.owner(), ann.machine.rules()).unwrap();
        let name = serde_json::value::to_raw_value(&json!({"name": name})).unwrap();
        let others = via.iter().map(|name| OwnedServerName::try_from(*name).unwrap());
        let via = std::iter::once(by.server_name().clone()).chain(others).collect();
        InviteData { event: Arc::new(event), stripped_state: vec![name], via, notify: None }
    };
    let mut machine = Machine::new(room_id.clone(), RoomVersionId::V11, own_of(&me)).unwrap();
    let mut shown = |by: &Arc<Signer>, name: &str, version, via: &[&str]| {
        machine.invited(&version, me.user_id().clone(), invite(by, name, via)).unwrap();
        let own = machine.membership(me.user_id()).unwrap().invite.clone().unwrap();
        let via: Vec<_> = own.via.iter().map(ToString::to_string).collect();
        (own.stripped_state[0].to_string(), via, machine.version().clone())
    };
    let names = |signers: &[&Arc<Signer>], more: &[&str]| -> Vec<String> {
        let signers = signers.iter().map(|signer| signer.server_name().to_string());
        signers.chain(more.iter().map(ToString::to_string)).collect()
    };
    let (first, via, _) = shown(&bob, "real", RoomVersionId::V11, &["one"]);
    assert_eq!((first.as_str(), via), (r#"{"name":"real"}"#, names(&[&bob], &["one"])));
    // Who knows the id of the room: what waits stays, and her server is one more to ask.
    let (second, via, version) = shown(&eve, "forged", RoomVersionId::V12, &["two"]);
    assert_eq!(second, first);
    assert_eq!(via, names(&[&bob, &eve], &["one", "two"]));
    assert_eq!(version, RoomVersionId::V11);
    // The inviter may say it anew.
    let (third, via, _) = shown(&bob, "renamed", RoomVersionId::V11, &[]);
    assert_eq!(third, r#"{"name":"renamed"}"#);
    assert_eq!(via, names(&[&bob, &eve], &["one", "two"]));
    // However many there are.
    let many: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (_, via, _) = shown(&eve, "again", RoomVersionId::V11, &many);
    assert_eq!(via.len(), 8);
    assert_eq!(via[..4], names(&[&bob, &eve], &["one", "two"]));
}
