//! What a malicious or merely unlucky member must not be able to do to a room.

use ruma::room_version_rules::RoomVersionRules;

use super::*;
use crate::{actors::room::messages::MemberChange, config::limits};

/// An event of a replica's user that stands where the test wants it.
pub(super) fn placed(
    by: &Replica,
    draft: Draft,
    prev: &[&Arc<Pdu>],
    change: impl FnOnce(&mut Position),
) -> Arc<Pdu> {
    let mut position = by.machine.position(&draft, &by.me, by.clock).unwrap();
    position.prev_events = prev.iter().map(|pdu| pdu.event_id.clone()).collect();
    change(&mut position);
    Arc::new(pdu::compose(draft, &position, by.signer.owner(), by.machine.rules()).unwrap())
}

pub(super) fn own_member(replica: &Replica) -> Arc<Pdu> {
    let me = replica.me.as_str();
    Arc::clone(replica.machine.state_event(&StateEventType::RoomMember, me).unwrap())
}

fn named_join(replica: &Replica, name: &serde_json::Value) -> Draft {
    let content = json!({"membership": "join", "displayname": name});
    draft("m.room.member", Some(replica.me.as_str()), content)
}

fn heads(replica: &Replica) -> BTreeSet<OwnedEventId> {
    replica.view().1
}

/// A message of nobody knows where: it has to wait.
fn lost(by: &Replica, number: usize) -> Received {
    let event = placed(by, message(&number.to_string()), &[], |position| {
        let prev = format!("$unknown{number}");
        position.prev_events = vec![OwnedEventId::try_from(prev).unwrap()];
        position.depth = 1;
    });
    received(&event, &by.signer)
}

impl Replica {
    /// Forgets an event that a join answer of these tests has beside the state.
    fn lose(&mut self, event: &Pdu) {
        assert!(event.state_key.is_none());
        self.events.remove(&event.event_id);
        self.forget();
    }
}

/// Bob takes the state before an event as Ann would give it, changed by the test.
fn take(bob: &mut Replica, event: &Received, given: &GivenState) -> Ingested {
    assert!(matches!(bob.ingest(event), Ingested::Parked));
    let (state, change) =
        bob.run(|machine| machine.take_state(&event.pdu, given)).expect("a good state");
    bob.store(&change);
    let taken = bob.run(|machine| machine.ingest(event, Some(state))).unwrap();
    if let Ingested::New(change, _) = &taken {
        bob.store(change);
    }
    bob.settle();
    bob.machine.unpark(&event.pdu.event_id);
    taken
}

#[test]
fn a_given_state_without_its_auth_chain_condemns_no_event() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let all = [Arc::clone(&ann.signer), Arc::clone(&bob.signer)];
    let me = ann.me.clone();
    let levels = |level: i64| {
        let users = json!({"users": {me.as_str(): 100}, "events_default": level});
        draft("m.room.power_levels", Some(""), users)
    };
    let first = ann.send(levels(0)).unwrap();
    let second = ann.send(levels(-1)).unwrap();
    let sent = ann.send(message("after")).unwrap();
    let mut given = ann.given(&all);
    given.auth_chain.retain(|received| received.pdu.event_id != first.event_id);
    bob.forget();
    take(&mut bob, &received(&sent, &ann.signer), &given);
    bob.ingest(&received(&first, &ann.signer));
    bob.ingest(&received(&second, &ann.signer));
    let known = bob.known_event(&second.event_id).unwrap();
    assert_ne!(known.place, Place::Rejected, "nobody may make others reject a good event");
}

#[test]
fn a_rejected_event_enters_no_state_by_another_servers_word() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let mut eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    let all = [Arc::clone(&ann.signer), Arc::clone(&bob.signer), Arc::clone(&eve.signer)];
    bob.ingest(&received(&own_member(&eve), &eve.signer));
    let eve_id = eve.me.clone();
    let ban = draft("m.room.member", Some(eve_id.as_str()), json!({"membership": "ban"}));
    let ban = ann.send(ban).unwrap();
    bob.ingest(&received(&ban, &ann.signer));
    // By its auth events it is fine; by the state before it is not.
    eve.clock += 1;
    let back = placed(&eve, named_join(&eve, &json!("eve")), &[&ban], |_| {});
    let back = received(&back, &eve.signer);
    assert!(matches!(bob.ingest(&back), Ingested::New(_, Place::Rejected)));

    let mut given = ann.given(&all);
    given.state.retain(|received| received.pdu.event_id != ban.event_id);
    given.state.push(back.clone());
    let next = lost(&ann, 1);
    take(&mut bob, &next, &given);
    for (group, state) in &bob.groups {
        assert!(!state.values().any(|id| *id == back.pdu.event_id), "it is in state group {group}");
    }
}

#[test]
fn an_event_that_follows_some_of_many_heads_has_the_same_state_everywhere() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let mut carl = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    bob.ingest(&received(&own_member(&carl), &carl.signer));
    let all: Vec<_> = (0..26)
        .map(|number: u32| {
            let by = if number.is_multiple_of(2) { &mut bob } else { &mut carl };
            by.clock += 1;
            let joined = own_member(by);
            let draft = named_join(by, &json!(format!("name {number}")));
            // What wins is what the next event of Ann does not follow.
            let depth = joined.depth + 1 + u64::from(25 - number);
            let event = placed(by, draft, &[&joined], |position| position.depth = depth);
            received(&event, &by.signer)
        })
        .collect();
    for event in &all {
        ann.ingest(event);
        bob.ingest(event);
    }
    assert_eq!(heads(&ann).len(), 26);
    for body in ["one", "two", "three"] {
        let sent = ann.send(message(body)).unwrap();
        let taken = bob.ingest(&received(&sent, &ann.signer));
        assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
        let group = |replica: &Replica| {
            let group = replica.known_event(&sent.event_id).unwrap().group.unwrap();
            replica.groups[&group].clone()
        };
        assert_eq!(group(&ann), group(&bob), "after {body}");
        assert_eq!(ann.view(), bob.view(), "after {body}");
    }
    assert_eq!(heads(&ann).len(), 1, "the heads grow together again");
}

#[test]
fn what_a_soft_failed_event_follows_is_no_head_once_the_room_goes_on_after_it() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let mut eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    let eve_joined = own_member(&eve);
    bob.ingest(&received(&eve_joined, &eve.signer));
    let fork = bob.send(message("before the ban")).unwrap();
    eve.ingest(&received(&fork, &bob.signer));
    let eve_id = eve.me.clone();
    let ban = draft("m.room.member", Some(eve_id.as_str()), json!({"membership": "ban"}));
    let ban = ann.send(ban).unwrap();
    ann.ingest(&received(&fork, &bob.signer));
    let said = eve.send(message("said")).unwrap();
    let taken = ann.ingest(&received(&said, &eve.signer));
    assert!(matches!(taken, Ingested::New(_, Place::SoftFailed)), "{taken:?}");
    bob.ingest(&received(&said, &eve.signer));
    let next = bob.send(message("heard")).unwrap();
    ann.ingest(&received(&next, &bob.signer));
    assert_eq!(heads(&ann), BTreeSet::from([ban.event_id.clone(), next.event_id.clone()]));
}

#[test]
fn an_event_that_others_followed_already_is_no_head_when_it_comes() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let first = ann.send(message("first")).unwrap();
    let second = ann.send(message("second")).unwrap();
    let given = ann.given(&[Arc::clone(&ann.signer), Arc::clone(&bob.signer)]);
    let taken = take(&mut bob, &received(&second, &ann.signer), &given);
    assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
    assert!(bob.machine.backward.contains_key(&first.event_id));
    let taken = bob.ingest(&received(&first, &ann.signer));
    assert!(matches!(taken, Ingested::New(_, Place::Backfilled)), "{taken:?}");
    assert_eq!(heads(&bob), BTreeSet::from([second.event_id.clone()]));
    assert!(!bob.machine.backward.contains_key(&first.event_id), "it is here now");
}

#[test]
fn a_rejected_event_makes_no_gap() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let given = ann.given(&[Arc::clone(&ann.signer), Arc::clone(&bob.signer)]);
    let raise = draft("m.room.power_levels", Some(""), json!({"users": {}}));
    let forged = placed(&bob, raise, &[], |position| {
        position.prev_events = vec![OwnedEventId::try_from("$unknown").unwrap()];
    });
    let before = ann.machine.backward.clone();
    let taken = take(&mut ann, &received(&forged, &bob.signer), &given);
    assert!(matches!(taken, Ingested::New(_, Place::Rejected)), "{taken:?}");
    assert_eq!(ann.machine.backward, before);
}

#[test]
fn what_was_said_just_before_our_join_is_history() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let sent = ann.send(message("before")).unwrap();
    let mut bob = join(&mut ann, 2, &[]);
    bob.lose(&sent);
    let taken = bob.ingest(&received(&sent, &ann.signer));
    assert!(matches!(taken, Ingested::New(_, Place::Backfilled)), "{taken:?}");
    assert!(bob.machine.parked.is_empty());
    assert!(!bob.machine.backward.contains_key(&sent.event_id), "it is here now");
}

#[test]
fn backfill_brings_no_redacted_content_back() {
    for (version, outlier) in
        ROOM_VERSIONS.into_iter().flat_map(|v| [(v.clone(), true), (v, false)])
    {
        let mut ann = room(&version, 1);
        let sent = ann.send(message("secret")).unwrap();
        let mut bob = join(&mut ann, 2, &[]);
        if !outlier {
            bob.lose(&sent);
        }
        let mut redact = draft("m.room.redaction", None, json!({}));
        redact.redacts = Some(sent.event_id.clone());
        let redaction = ann.send(redact).unwrap();
        bob.ingest(&received(&redaction, &ann.signer));
        bob.forget();
        let full = [received(&sent, &ann.signer)];
        let change = bob.run(|machine| machine.backfilled(&full)).unwrap();
        bob.store(&change);
        let known = bob.known_event(&sent.event_id).unwrap();
        assert_eq!(known.place, Place::Backfilled);
        assert_eq!(known.pdu.content.get(), "{}", "{version}");
    }
}

#[test]
fn backfill_swallows_nothing_that_is_new() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let old = ann.send(message("old")).unwrap();
    let mut bob = join(&mut ann, 2, &[]);
    bob.lose(&old);
    let name = ann.send(draft("m.room.name", Some(""), json!({"name": "new"}))).unwrap();
    let answer = [received(&name, &ann.signer), received(&old, &ann.signer)];
    let change = bob.run(|machine| machine.backfilled(&answer)).unwrap();
    bob.store(&change);
    assert_eq!(bob.known_event(&old.event_id).unwrap().place, Place::Backfilled);
    let taken = bob.ingest(&answer[0]);
    assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
    assert_eq!(bob.view(), ann.view());
}

#[test]
fn attack_13_one_server_cannot_fill_the_places_of_waiting_events() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    for number in 0..limits::ROOM_PARKED {
        assert!(matches!(ann.ingest(&lost(&eve, number)), Ingested::Parked));
    }
    assert!(matches!(ann.ingest(&lost(&eve, limits::ROOM_PARKED)), Ingested::Full));
    assert!(matches!(ann.ingest(&lost(&bob, 0)), Ingested::Parked));
    assert!(ann.machine.parked.len() <= limits::ROOM_PARKED);
}

#[test]
fn a_room_that_cannot_be_made_leaves_nothing_behind() {
    let ann = room(&RoomVersionId::V11, 1);
    let create = ann.machine.create_event().unwrap();
    let me = ann.me.clone();
    let mut machine =
        Machine::new(ann.machine.room_id.clone(), RoomVersionId::V11, own_of(&ann.signer)).unwrap();
    let drafts = vec![
        draft("m.room.member", Some(me.as_str()), json!({"membership": "join"})),
        draft("m.room.power_levels", Some(""), json!({"users": {"no user": 1}})),
    ];
    assert!(machine.create((*create).clone(), drafts, ann.signer.owner(), NOW).is_err());
    assert!(!machine.has_state() && !machine.is_resident());
}

#[test]
fn the_newest_client_transactions_are_remembered() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let signer = Arc::clone(&ann.signer);
    let endpoint = crate::actors::store::TxnEndpoint::Send;
    let txn =
        |number: usize| ClientTxn { device_id: "D".into(), endpoint, txn_id: number.to_string() };
    let last = 2 * CACHED_TXNS;
    for number in 0..=last {
        let sent =
            ann.run(|machine| machine.send(message("x"), Some(txn(number)), signer.owner(), NOW));
        sent.unwrap();
        ann.machine.tidy();
    }
    assert!(ann.machine.txn(&ann.me, &txn(last)).is_some());
    assert!(ann.machine.txn(&ann.me, &txn(last - CACHED_TXNS / 2)).is_some());
    assert!(ann.machine.txn(&ann.me, &txn(0)).is_none());
}

#[test]
fn an_odd_display_name_hides_no_member() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let eve = signer(3);
    let me = eve.user_id().clone();
    let content = json!({"membership": "join", "displayname": 5, "avatar_url": {}});
    let content = draft("m.room.member", Some(me.as_str()), content);
    let position = ann.machine.position(&content, &me, NOW).unwrap();
    let event = pdu::compose(content, &position, eve.owner(), ann.machine.rules()).unwrap();
    let taken = ann.ingest(&received(&event, &eve));
    assert!(matches!(taken, Ingested::New(_, Place::Live)), "{taken:?}");
    assert!(ann.machine.has_joined(eve.server_name()));
    assert!(ann.machine.member(&me).is_some());
}

#[test]
fn a_mended_redaction_redacts() {
    // In version 10 a redacted redaction does not name its target any more.
    let mut ann = room(&RoomVersionId::V10, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let sent = ann.send(message("secret")).unwrap();
    bob.ingest(&received(&sent, &ann.signer));
    let mut redact = draft("m.room.redaction", None, json!({}));
    redact.redacts = Some(sent.event_id.clone());
    let redaction = ann.send(redact).unwrap();
    let mut spoilt = received(&redaction, &ann.signer);
    spoilt.pdu = redaction.redacted(bob.machine.rules()).unwrap();
    spoilt.spoilt = true;
    bob.ingest(&spoilt);
    assert_ne!(bob.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}");
    bob.ingest(&received(&redaction, &ann.signer));
    assert_eq!(bob.known_event(&sent.event_id).unwrap().pdu.content.get(), "{}");
}

#[test]
fn events_that_others_parked_do_not_hide_what_an_event_waits_for() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    for number in 0..30 {
        ann.ingest(&lost(&eve, number));
    }
    let said: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|body| received(&bob.send(message(body)).unwrap(), &bob.signer))
        .collect();
    let ids: Vec<_> = said.iter().map(|received| received.pdu.event_id.clone()).collect();
    ann.ingest(&said[2]);
    assert_eq!(ann.machine.frontier_of(&ids[2]), [ids[2].clone()]);
    ann.ingest(&said[1]);
    assert_eq!(ann.machine.frontier_of(&ids[2]), [ids[1].clone()], "what is missing moves back");
    ann.ingest(&said[0]);
    assert!(ids.iter().all(|id| !ann.machine.is_parked(id)), "all are in");
}

#[test]
fn attack_13_a_parked_event_that_nobody_completes_gives_its_place_up() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let (one, two) = (lost(&bob, 1), lost(&bob, 2));
    ann.ingest(&one);
    ann.ingest(&two);
    let first = ann.machine.next_fetch(true).unwrap();
    ann.machine.tried(&first);
    let second = ann.machine.next_fetch(true).unwrap();
    assert_ne!(first, second, "what was not tried comes first");
    ann.machine.tried(&second);
    assert_eq!(ann.machine.next_fetch(true), None, "no storm of fetches");
    for _ in 0..20 {
        if let Some(next) = ann.machine.next_fetch(false) {
            ann.machine.tried(&next);
        }
    }
    assert!(ann.machine.parked.is_empty());
}

#[test]
fn a_strangers_invite_does_not_fix_the_version_of_a_room() {
    let mut ann = room(&RoomVersionId::V12, 1);
    let bob = signer(2);
    let (room_id, me) = (ann.machine.room_id.clone(), bob.user_id().clone());
    let mut machine = Machine::new(room_id, RoomVersionId::V10, own_of(&bob)).unwrap();
    machine.set_membership(me.clone(), MembershipState::Invite, None, None);
    machine.set_version(&RoomVersionId::V12).unwrap();
    assert_eq!(*machine.version(), RoomVersionId::V12);
    let content = draft("m.room.member", Some(me.as_str()), json!({"membership": "join"}));
    let position = ann.machine.position(&content, &me, NOW).unwrap();
    let join = pdu::compose(content, &position, bob.owner(), ann.machine.rules()).unwrap();
    let given = ann.given(&[Arc::clone(&ann.signer)]);
    let mut replica = Replica::new(machine, bob, NOW);
    replica.run(|machine| machine.joined(join.clone(), &given)).unwrap();
    assert!(replica.machine.set_version(&RoomVersionId::V10).is_err(), "now it is known");
    ann.forget();
}

#[test]
fn kick_and_unban_are_not_each_other() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let bob_id = bob.me.clone();
    let fits = |ann: &Replica, change| ann.machine.check_change(&bob_id, change).is_ok();
    assert!(fits(&ann, MemberChange::Kick) && !fits(&ann, MemberChange::Unban));
    for (membership, kick, unban) in
        [("ban", false, true), ("leave", false, false), ("invite", true, false)]
    {
        let content = json!({"membership": membership});
        ann.send(draft("m.room.member", Some(bob_id.as_str()), content)).unwrap();
        assert_eq!(fits(&ann, MemberChange::Kick), kick, "{membership}");
        assert_eq!(fits(&ann, MemberChange::Unban), unban, "{membership}");
    }
    let again = draft("m.room.member", Some(bob_id.as_str()), json!({"membership": "ban"}));
    ann.send(again).unwrap();
    let invite = draft("m.room.member", Some(bob_id.as_str()), json!({"membership": "invite"}));
    assert!(matches!(ann.send(invite), Err(RoomError::Forbidden(_))), "who is banned");
}

#[test]
fn who_left_sends_nothing_and_is_told_why() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let me = ann.me.clone();
    let name = draft("m.room.name", Some(""), json!({"name": "x"}));
    ann.send(name.clone()).unwrap();
    ann.send(draft("m.room.member", Some(me.as_str()), json!({"membership": "leave"}))).unwrap();
    assert!(matches!(ann.send(message("x")), Err(RoomError::Forbidden(_))));
    assert!(ann.machine.unchanged(&name, &ann.me).is_none());
}

/// The same event with other prev events, as no hash allows.
fn following(event: &Received, prev: &[&OwnedEventId], rules: &RoomVersionRules) -> Received {
    let mut object: CanonicalJsonObject = serde_json::from_str(&event.pdu.json).unwrap();
    object.insert("prev_events".to_owned(), serde_json::from_value(json!(prev)).unwrap());
    let json = serde_json::to_string(&object).unwrap();
    let pdu = Pdu::from_json(event.pdu.event_id.clone(), &json, rules).unwrap();
    Received { pdu, ..event.clone() }
}

#[test]
fn attack_13_a_cycle_of_events_waits_and_hangs_nothing() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let rules = ann.machine.rules().clone();
    let lost: Vec<_> = (0..4).map(|number| lost(&bob, number)).collect();
    let ids: Vec<_> = lost.iter().map(|event| event.pdu.event_id.clone()).collect();
    // Three in a circle, and one that follows itself.
    for (event, prev) in lost.iter().zip([&ids[1], &ids[2], &ids[0], &ids[3]]) {
        let taken = ann.ingest(&following(event, &[prev], &rules));
        assert!(matches!(taken, Ingested::Parked), "{taken:?}");
    }
    for id in &ids {
        assert!(ann.machine.frontier_of(id).is_empty(), "nobody can be asked for anything");
    }
    assert_eq!(ann.machine.next_fetch(true), None);
    let said = ann.send(message("still here")).unwrap();
    assert_eq!(heads(&ann), BTreeSet::from([said.event_id.clone()]));
}

/// Twenty rows of twenty events, each of which follows all of the row before: more ways back than
/// could ever be walked.
#[test]
fn attack_13_a_lattice_of_events_is_walked_once() {
    let mut ann = room(&RoomVersionId::V11, 1);
    let bob = join(&mut ann, 2, &[]);
    let rows = 20;
    let mut before = vec![OwnedEventId::try_from("$unknown").unwrap()];
    for row in 0..rows {
        let mut ids = Vec::new();
        for number in 0..pdu::MAX_PREV_EVENTS {
            let event = placed(&bob, message(&format!("{row} {number}")), &[], |position| {
                position.prev_events.clone_from(&before);
                position.depth = 10 + row;
            });
            let taken = ann.ingest(&received(&event, &bob.signer));
            assert!(matches!(taken, Ingested::Parked), "{taken:?}");
            ids.push(event.event_id.clone());
        }
        before = ids;
    }
    let frontier = ann.machine.frontier_of(&before[0]);
    assert_eq!(frontier.len(), pdu::MAX_PREV_EVENTS, "the oldest row waits for what is unknown");
}

/// Whoever is no moderator any more gains nothing by dating an event before that, with keys that
/// were good then: where an event stands counts, never when it claims to be from.
#[test]
fn attack_08_a_backdated_event_has_no_rights_of_its_date() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut bob = join(&mut ann, 2, &[]);
        let (ann_id, bob_id) = (ann.me.clone(), bob.me.clone());
        let levels = |level: u64| {
            let mut users = json!({bob_id.as_str(): level});
            if version != RoomVersionId::V12 {
                users[ann_id.as_str()] = json!(100);
            }
            draft("m.room.power_levels", Some(""), json!({"users": users}))
        };
        let granted = ann.send(levels(50)).unwrap();
        bob.ingest(&received(&granted, &ann.signer));
        let name = |name: &str| draft("m.room.name", Some(""), json!({"name": name}));
        let long_ago = |position: &mut Position| position.origin_server_ts = NOW - 1_000_000_000;
        // Composed while he may, so that it names what allowed it then.
        let old = placed(&bob, name("old"), &[&granted], long_ago);
        let taken = ann.send(levels(0)).unwrap();
        let new = placed(&bob, name("new"), &[&taken], long_ago);
        let before = ann.view().0;
        for (event, expected) in [(&old, Place::SoftFailed), (&new, Place::Rejected)] {
            let got = ann.ingest(&received(event, &bob.signer));
            assert!(
                matches!(&got, Ingested::New(_, place) if *place == expected),
                "{version}: {got:?}"
            );
        }
        assert_eq!(ann.view().0, before, "{version}");
    }
}

/// A membership event of one of the users that a server makes up.
fn of_made_up_user(host: &Replica, server: &Signer, number: usize, membership: &str) -> Received {
    let user = OwnedUserId::try_from(format!("@u{number}:{}", server.server_name())).unwrap();
    let content =
        json!({"membership": membership, "displayname": format!("{number} {membership}")});
    let draft = draft("m.room.member", Some(user.as_str()), content);
    let (rules, clock) = (host.machine.rules(), host.clock);
    let position = host.machine.position(&draft, &user, clock).unwrap();
    // Composed as the server's first user, and then signed as that one.
    let event = pdu::compose(draft, &position, server.owner(), rules).unwrap();
    let mut object: CanonicalJsonObject = serde_json::from_str(&event.json).unwrap();
    object.insert("sender".to_owned(), serde_json::from_value(json!(user)).unwrap());
    server.hash_and_sign(&mut object, &rules.redaction).unwrap();
    let json = serde_json::to_string(&object).unwrap();
    let event = Pdu::from_json(event.event_id, &json, rules).unwrap();
    received(&pdu::countersigned(&event, server, rules).unwrap(), server)
}

/// Names cost nothing to make up, and each would be in every list of members for good.
#[test]
fn attack_13_a_server_brings_no_crowd_into_a_room() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let eve = join(&mut ann, 2, &[]);
        let places = limits::ROOM_USERS_OF_SERVER;
        let joined = |ann: &Replica| ann.machine.joined[eve.signer.server_name()];
        let come = |ann: &mut Replica, number: usize, membership: &str| {
            let event = of_made_up_user(ann, &eve.signer, number, membership);
            ann.clock += 1;
            match ann.ingest(&event) {
                Ingested::New(_, place) => place,
                other => panic!("{version} {number} {membership}: {other:?}"),
            }
        };
        // She is one of them.
        for number in 1..places {
            assert_eq!(come(&mut ann, number, "join"), Place::Live, "{version} {number}");
        }
        assert_eq!(joined(&ann), places);
        let before = ann.view().0;
        for number in places..places + 3 {
            assert_eq!(come(&mut ann, number, "join"), Place::SoftFailed, "{version} {number}");
            let user = format!("@u{number}:{}", eve.signer.server_name());
            let asked =
                ann.machine.template(&user.try_into().unwrap(), &MembershipState::Join, NOW);
            assert!(matches!(asked, Err(RoomError::Forbidden(_))), "{version}: {asked:?}");
        }
        assert_eq!((joined(&ann), ann.view().0), (places, before), "{version}");

        // Who is in may change a name, who leaves frees a place, and others are not concerned.
        assert_eq!(come(&mut ann, 1, "join"), Place::Live, "{version}");
        assert_eq!(come(&mut ann, 1, "leave"), Place::Live, "{version}");
        assert_eq!(joined(&ann), places - 1, "{version}");
        assert_eq!(come(&mut ann, places, "join"), Place::Live, "{version}");
        assert_eq!(come(&mut ann, 1, "join"), Place::SoftFailed, "{version}");
        join(&mut ann, 3, &[Arc::clone(&eve.signer)]);
        assert_eq!(joined(&ann), places, "{version}");
    }
}
