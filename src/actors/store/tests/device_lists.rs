//! Whose devices a client hears of, and who shares a room with whom.

use std::collections::BTreeSet;

use super::*;

const ANN: &str = "@ann:a.org";
const BOB: &str = "@bob:b.org";

/// A membership; the number makes another event of it.
fn is(room_id: &OwnedRoomId, user: &str, membership: &str, number: u32) -> Arc<Pdu> {
    let content = json!({ "membership": membership, "n": number });
    event(room_id, user, "m.room.member", Some(user), content, &[])
}

fn users(names: &str) -> BTreeSet<OwnedUserId> {
    let of = |name: &str| {
        user(match name {
            "ann" => ANN,
            "bob" => BOB,
            _ => OWN,
        })
    };
    names.split_whitespace().map(of).collect()
}

/// What happened of somebody between two answers, and who is told as changed and as left.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str, &'static str)],
    &'static str,
    &'static str,
);

#[actix::test]
async fn clients_hear_of_who_comes_who_goes_and_whose_devices_changed() {
    let cases: [Case; 13] = [
        ("nothing", &[], "", ""),
        ("devices of a member", &[("", ANN, "keys")], "ann", ""),
        ("own devices", &[("", OWN, "keys")], "own", ""),
        ("devices of a stranger", &[("", BOB, "keys")], "", ""),
        ("another name", &[("r", ANN, "join")], "", ""),
        ("somebody new", &[("r", BOB, "join")], "bob", ""),
        ("an invite, for whom others encrypt", &[("r", BOB, "invite")], "bob", ""),
        ("gone", &[("r", ANN, "leave")], "", "ann"),
        ("banned", &[("r", ANN, "ban")], "", "ann"),
        ("gone and back", &[("r", ANN, "leave"), ("r", ANN, "join")], "ann", ""),
        ("gone from one of two rooms", &[("s", ANN, "join"), ("r", ANN, "leave")], "ann", ""),
        ("we left", &[("r", OWN, "leave")], "", "ann"),
        ("a room of a stranger", &[("t", BOB, "join"), ("t", BOB, "keys")], "", ""),
    ];
    for (what, steps, changed, left) in cases {
        let world = World::new();
        let (r, s) = (room("r"), room("s"));
        world.commit(live(&r, &[&is(&r, OWN, "join", 0), &is(&r, ANN, "join", 0)])).await;
        world.commit(live(&s, &[&is(&s, OWN, "join", 0)])).await;
        let since = world.sync(None).await;
        assert!(since.device_lists.is_empty(), "a first answer says nothing");
        for (number, (at, who, how)) in steps.iter().enumerate() {
            if *how == "keys" {
                world.write(vec![(Row::DeviceList(user(who)), None)]).await;
                continue;
            }
            let at = room(at);
            let event = is(&at, who, how, u32::try_from(number).unwrap() + 1);
            world.commit(live(&at, &[&event])).await;
        }
        let sync = world.sync(Some(since.position)).await;
        let lists = DeviceLists { changed: users(changed), left: users(left) };
        assert_eq!(sync.device_lists, lists, "{what}");
        let (user_id, from, to) = (user(OWN), since.position, sync.position);
        let asked = world.ask(ReadDeviceLists { user_id, from, to }).await.unwrap();
        assert_eq!(asked, lists, "{what}: keys/changes says the same");
        assert!(world.sync(Some(sync.position)).await.device_lists.is_empty(), "told once: {what}");
    }
}

#[actix::test]
async fn who_joins_a_room_hears_of_all_that_are_in_it() {
    let world = World::new();
    let (r, s) = (room("r"), room("s"));
    let bob = "@bob:example.org";
    let both = [&is(&r, OWN, "join", 0), &is(&r, ANN, "join", 0)];
    world.commit(live(&r, &both)).await;
    let since = world.sync(None).await.position;
    world.commit(live(&s, &[&is(&s, ANN, "join", 1), &is(&s, BOB, "invite", 1)])).await;
    world.commit(live(&s, &[&is(&s, OWN, "join", 1)])).await;
    let sync = world.sync(Some(since)).await;
    assert_eq!(sync.device_lists.changed, users("ann bob"));
    // Another user of ours who is in none of the rooms hears of nobody.
    world.write(vec![(Row::DeviceList(user(ANN)), None)]).await;
    let of_bob = ReadDeviceLists { user_id: user(bob), from: since, to: u64::MAX };
    assert!(world.ask(of_bob).await.unwrap().is_empty());
    world.commit(live(&s, &[&is(&s, OWN, "leave", 2)])).await;
    let sync = world.sync(Some(sync.position)).await;
    let lists = DeviceLists { changed: users("ann"), left: users("bob") };
    assert_eq!(sync.device_lists, lists, "ann is in the other room still");
}

#[actix::test]
async fn room_mates_and_their_servers() {
    let world = World::new();
    let (r, s) = (room("r"), room("s"));
    let ask = async |who: &str, latest: u64| {
        let users = [(user(who), latest)].into();
        world.ask(FindRoommates { users }).await.unwrap().since.get(&user(who)).copied()
    };
    let servers = async |inviters| {
        let read = ReadServersOf { user_id: user(OWN), inviters };
        let found = world.ask(read).await.unwrap();
        found.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let with = async |who: &str| {
        let found = world.ask(ReadServersWith(user(who))).await.unwrap();
        found.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ask(ANN, 0).await, None);
    assert_eq!(servers(true).await, "");
    let mut first = live(&r, &[&is(&r, OWN, "join", 0), &is(&r, ANN, "join", 0)]);
    first.servers = Some(vec!["example.org".try_into().unwrap(), "a.org".try_into().unwrap()]);
    let position = world.commit(first).await;
    let first = ask(ANN, 0).await.unwrap();
    assert!((1..=position).contains(&first));
    world.commit(live(&r, &[&is(&r, BOB, "invite", 0)])).await;
    assert_eq!(servers(false).await, "a.org b.org example.org");
    assert_eq!(with(ANN).await, "a.org example.org", "of joined members");
    assert_eq!(with(BOB).await, "a.org example.org", "who is invited is encrypted for too");
    assert_eq!(with("@eve:e.org").await, "");
    // The first of two shared rooms counts.
    let later = world.commit(live(&s, &[&is(&s, OWN, "join", 1), &is(&s, ANN, "join", 1)])).await;
    assert!(later > position);
    assert_eq!(ask(ANN, 0).await, Some(first));
    world.commit(live(&r, &[&is(&r, ANN, "leave", 2)])).await;
    let second = ask(ANN, 0).await.unwrap();
    assert!((position + 1..=later).contains(&second), "what was before that counts no more");
    assert_eq!(with(ANN).await, "", "nobody is known to be in the other room");
    world.commit(live(&s, &[&is(&s, OWN, "leave", 2)])).await;
    assert_eq!(ask(ANN, 0).await, None);

    let t = room("t");
    let invited = is(&t, OWN, "invite", 0);
    let mut step = step(&t);
    let data = InviteData {
        event: Arc::clone(&invited),
        stripped_state: Vec::new(),
        via: vec!["c.org".try_into().unwrap(), "d.org".try_into().unwrap()],
        notify: None,
    };
    let membership = OwnMembership { invite: Some(data), ..own(&invited) };
    step.memberships = [(user(OWN), membership)].into();
    world.commit(step).await;
    assert_eq!(servers(false).await, "a.org b.org example.org", "those of room r");
    assert_eq!(servers(true).await, "a.org b.org c.org example.org", "and who invites");
}

#[actix::test]
async fn a_sync_shows_what_is_left_of_the_devices_keys() {
    let mut world = World::new();
    let none = world.sync(None).await;
    assert_eq!(none.key_counts, KeyCounts::default());
    let counts = KeyCounts {
        one_time: [("signed_curve25519".to_owned(), 7)].into(),
        unused_fallback: [("signed_curve25519".to_owned(), 9)].into(),
    };
    let row = |device: &str| Row::KeyCounts(user(OWN), device.to_owned());
    let long = json!({"x": "x".repeat(300_000)});
    world
        .write(vec![
            (row("DEVICE"), Some(serde_json::to_value(&counts).unwrap())),
            (row("OTHER"), Some(json!({"one_time": {}, "unused_fallback": {}}))),
            (Row::KeyList(user(OWN)), Some(long.clone())),
        ])
        .await;
    world.restart().await;
    assert_eq!(world.sync(Some(none.position)).await.key_counts, counts);
    let list = world.ask(ReadRow(Row::KeyList(user(OWN)))).await.unwrap();
    assert_eq!(list, Some(bytes(long)), "a list may be long");
}
