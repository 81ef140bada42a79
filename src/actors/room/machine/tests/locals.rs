//! Several people of one server in one room.

use super::*;

fn user(name: &str, of: &Replica) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:{}", of.signer.server_name())).unwrap()
}

fn member(of: &ruma::UserId, membership: &str) -> Draft {
    draft("m.room.member", Some(of.as_str()), json!({"membership": membership}))
}

fn send_as(replica: &mut Replica, me: &OwnedUserId, draft: Draft) -> Result<Arc<Pdu>, RoomError> {
    let before = std::mem::replace(&mut replica.me, me.clone());
    let sent = replica.send(draft);
    replica.me = before;
    sent
}

/// Lets one of us in, as the room does when others of us are there already.
fn come(replica: &mut Replica, user: &OwnedUserId) {
    let (signer, draft) = (Arc::clone(&replica.signer), member(user, "join"));
    replica.clock += 1;
    let now = replica.clock;
    let composed = |machine: &mut Machine| {
        let join = machine.compose(draft.clone(), signer.author(user).unwrap(), now)?;
        machine.send_composed(join, None)
    };
    let change = replica.run(composed).unwrap();
    replica.store(&change);
    replica.settle();
}

/// A room of Ann, and Bob and Carl, who are people of her server; and of Dora on another one.
fn household() -> (Replica, [OwnedUserId; 3], Replica) {
    let mut home = room(&RoomVersionId::V11, 1);
    let people = [home.me.clone(), user("bob", &home), user("carl", &home)];
    for guest in &people[1..] {
        home.send(member(guest, "invite")).unwrap();
        come(&mut home, guest);
    }
    let dora = join(&mut home, 2, &[]);
    (home, people, dora)
}

fn of(replica: &Replica, user: &OwnedUserId) -> Option<MembershipState> {
    replica.machine.membership(user).map(|own| own.membership.clone())
}

#[test]
fn people_of_one_server_come_and_go_apart_from_each_other() {
    let (mut home, [ann, bob, carl], mut dora) = household();
    let server = home.signer.server_name().clone();
    assert_eq!(home.machine.joined[&server], 3);
    for someone in [&ann, &bob, &carl] {
        assert_eq!(of(&home, someone), Some(MembershipState::Join));
    }
    let left = send_as(&mut home, &bob, member(&bob, "leave")).unwrap();
    dora.ingest(&received(&left, &home.signer));
    assert_eq!(of(&home, &bob), Some(MembershipState::Leave));
    assert!(home.machine.is_resident() && home.machine.has_in(&carl));
    assert!(dora.machine.has_joined(&server), "the others are there");
    assert!(matches!(send_as(&mut home, &bob, message("x")), Err(RoomError::Forbidden(_))));

    // Dora gets the power, bans one and leaves the others alone.
    let levels = json!({"users": {ann.as_str(): 100, dora.me.as_str(): 90}});
    let levels = home.send(draft("m.room.power_levels", Some(""), levels)).unwrap();
    dora.ingest(&received(&levels, &home.signer));
    let ban = dora.send(member(&carl, "ban")).unwrap();
    home.ingest(&received(&ban, &dora.signer));
    assert_eq!(of(&home, &carl), Some(MembershipState::Ban));
    assert!(home.machine.has_in(&ann) && home.machine.is_resident());
    let told = home.commits.last().unwrap();
    assert_eq!(told.memberships.keys().collect::<Vec<_>>(), [&carl], "it is told of him alone");
    assert!(matches!(send_as(&mut home, &carl, message("x")), Err(RoomError::Forbidden(_))));
    home.send(message("still here")).unwrap();
    assert_eq!(home.machine.joined[&server], 1);

    // The last one of us takes the server along.
    home.send(member(&ann, "leave")).unwrap();
    assert!(!home.machine.is_resident());
}

#[test]
fn who_is_invited_while_others_of_us_are_in_the_room_is_shown_the_room() {
    let (mut home, [ann, bob, _], mut dora) = household();
    home.send(draft("m.room.name", Some(""), json!({"name": "Kitchen"}))).unwrap();
    send_as(&mut home, &bob, member(&bob, "leave")).unwrap();
    for event in home.known_events() {
        dora.ingest(&received(&event, &home.signer));
    }
    let again = dora.send(member(&bob, "invite")).unwrap();
    home.ingest(&received(&again, &dora.signer));
    let own = home.machine.membership(&bob).unwrap();
    assert_eq!(own.membership, MembershipState::Invite);
    let invite = own.invite.as_ref().unwrap();
    assert_eq!(invite.event.event_id, again.event_id);
    let shown: Vec<_> = invite.stripped_state.iter().map(|event| event.get()).collect();
    assert!(shown.iter().any(|event| event.contains("Kitchen")), "{shown:?}");
    assert!(shown.iter().any(|event| event.contains(r#""membership":"invite""#)), "{shown:?}");
    assert_eq!(of(&home, &ann), Some(MembershipState::Join));
}

#[test]
fn each_of_us_is_notified_but_for_who_says_it() {
    let (mut home, [ann, bob, carl], mut dora) = household();
    let notified = |replica: &Replica| {
        let told = &replica.commits.last().unwrap().events[0].notify;
        told.iter().map(|(user, notify)| (user.clone(), notify.highlight)).collect::<Vec<_>>()
    };
    let said = dora.send(message("hello bob")).unwrap();
    home.ingest(&received(&said, &dora.signer));
    assert_eq!(
        notified(&home),
        [(bob.clone(), true), (carl.clone(), false), (ann.clone(), false)],
        "he is called by his name"
    );
    send_as(&mut home, &bob, message("to you all")).unwrap();
    assert_eq!(notified(&home), [(carl, false), (ann, false)]);
}

#[test]
fn a_transaction_and_a_reaction_are_of_one_person() {
    let (mut home, [ann, bob, _], _) = household();
    let txn = ClientTxn {
        device_id: "D".to_owned(),
        endpoint: crate::actors::store::TxnEndpoint::Send,
        txn_id: "1".to_owned(),
    };
    let signer = Arc::clone(&home.signer);
    let (id, change) = home
        .run(|machine| {
            machine.send(message("x"), Some(txn.clone()), signer.author(&ann).unwrap(), NOW)
        })
        .unwrap();
    home.store(&change);
    assert_eq!(home.machine.txn(&ann, &txn), Some(&id));
    assert_eq!(home.machine.txn(&bob, &txn), None, "another person's device of the same name");

    let relation = json!({"rel_type": "m.annotation", "event_id": id, "key": "+"});
    let reaction = draft("m.reaction", None, json!({"m.relates_to": relation}));
    let react = |home: &mut Replica, user: &OwnedUserId| loop {
        match home.machine.send(reaction.clone(), None, signer.author(user).unwrap(), NOW) {
            Err(Stop::Need(Need::Annotation(by, annotation))) => {
                let has = by == ann;
                home.machine.provide_annotation(by, annotation, has);
            }
            Err(Stop::Need(need)) => home.provide(need),
            done => break done.map(drop),
        }
    };
    let twice = react(&mut home, &ann);
    assert!(matches!(twice, Err(Stop::Refused(RoomError::DuplicateAnnotation))), "{twice:?}");
    react(&mut home, &bob).unwrap();
}

#[test]
fn attack_13_nobody_fills_the_room_with_our_people() {
    let (mut home, [ann, bob, _], mut dora) = household();
    let levels = json!({"users": {ann.as_str(): 100, dora.me.as_str(): 90}});
    let levels = home.send(draft("m.room.power_levels", Some(""), levels)).unwrap();
    dora.ingest(&received(&levels, &home.signer));
    for number in 0..2 * limits::ROOM_USERS_OF_SERVER {
        let nobody = user(&format!("nobody{number}"), &home);
        let what = if number % 2 == 0 { "invite" } else { "ban" };
        let event = dora.send(member(&nobody, what)).unwrap();
        home.ingest(&received(&event, &dora.signer));
    }
    assert!(home.machine.locals().count() <= limits::ROOM_USERS_OF_SERVER);
    // A real one still comes in.
    send_as(&mut home, &bob, member(&bob, "leave")).unwrap();
    come(&mut home, &bob);
    let erin = user("erin", &home);
    send_as(&mut home, &erin, member(&erin, "join")).unwrap_err();
    come(&mut home, &erin);
    assert!(home.machine.has_in(&erin));
}
