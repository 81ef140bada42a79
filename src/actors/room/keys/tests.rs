//! Whole groups of nodes, each with its keys, its view of who has joined, and nothing else.

use proptest::prelude::*;
use ruma::room_id;

use super::*;

const NOW: u64 = 1_790_000_000_000;

fn server(name: &str) -> OwnedServerName {
    OwnedServerName::try_from(name).unwrap()
}

/// The keys of `own`, who sees `joined`.
fn keys(own: &str, joined: &[&str]) -> Keys {
    let mut keys = Keys::new(room_id!("!r:x").to_owned(), server(own));
    see(&mut keys, joined);
    keys
}

fn see(keys: &mut Keys, joined: &[&str]) -> Vec<OwnedServerName> {
    let joined: Vec<_> = joined.iter().map(|name| server(name)).collect();
    keys.set_joined(joined.iter(), NOW)
}

/// Hands all that `from` may give to `to`.
fn hand(from: &Keys, to: &mut Keys) -> usize {
    let ids: Vec<KeyId> = from.held.keys().copied().collect();
    let given = from.give(&to.own, &ids, NOW);
    to.take(&from.own, given, NOW).len()
}

#[test]
fn a_key_seals_for_exactly_those_who_have_joined() {
    let mut ann = keys("ann", &["ann", "bob"]);
    assert_eq!(ann.sealing(NOW), None);
    let first = ann.make(Secret([1; 32]), NOW);
    assert_eq!(ann.sealing(NOW), Some(first));
    assert_eq!(see(&mut ann, &["ann", "bob", "carl"]), Vec::<OwnedServerName>::new());
    assert_eq!(ann.sealing(NOW), None, "carl has not read what was said before");
    let second = ann.make(Secret([2; 32]), NOW);
    assert_eq!(see(&mut ann, &["ann", "carl"]), [server("bob")]);
    assert_eq!(ann.sealing(NOW), None, "bob has left");
    assert_eq!(ann.opening(&second.id()), Some(second), "what is on its way still opens");
    assert_eq!(see(&mut ann, &["carl"]), [server("ann")]);
    assert_eq!(ann.opening(&second.id()), None, "whoever leaves lets go of all");
}

#[test]
fn a_key_seals_a_week_and_opens_a_while_longer() {
    let mut ann = keys("ann", &["ann", "bob"]);
    let key = ann.make(Secret([1; 32]), NOW);
    assert_eq!(ann.sealing(NOW + LIFE_MS - 1), Some(key));
    assert_eq!(ann.sealing(NOW + LIFE_MS), None);
    ann.make(Secret([2; 32]), NOW + LIFE_MS);
    assert!(ann.opening(&key.id()).is_some());
    ann.make(Secret([3; 32]), NOW + LIFE_MS + OPENS_MS);
    assert!(ann.opening(&key.id()).is_none());
    let future =
        Given { key: Secret([9; 32]), made_ts: NOW + SKEW_MS + 1, servers: ann.joined.clone() };
    assert_eq!(ann.take(&server("bob"), vec![future], NOW), []);
}

#[test]
fn who_gives_and_who_is_given() {
    let mut ann = keys("ann", &["ann", "bob", "carl"]);
    let key = ann.make(Secret([1; 32]), NOW);
    let given = |to: &str, ids: &[KeyId]| ann.give(&server(to), ids, NOW).len();
    assert_eq!(given("bob", &[key.id()]), 1);
    assert_eq!(given("bob", &[]), 1, "that which seals now");
    assert_eq!(given("eve", &[key.id()]), 0, "a stranger");
    let old = ann.give(&server("bob"), &[], NOW);
    see(&mut ann, &["ann", "carl", "dora"]);
    assert!(ann.give(&server("bob"), &[key.id()], NOW).is_empty(), "who left");
    assert!(ann.give(&server("dora"), &[key.id()], NOW).is_empty(), "who came later");
    assert_eq!(ann.give(&server("carl"), &[key.id()], NOW), old, "who lags behind");

    let mut carl = keys("carl", &["ann", "bob", "carl"]);
    assert!(carl.take(&server("eve"), old.clone(), NOW).is_empty(), "from a stranger");
    let mut not_for_me = old.clone();
    not_for_me[0].servers.remove(&server("carl"));
    assert!(carl.take(&server("ann"), not_for_me, NOW).is_empty());
    let mut not_theirs = old.clone();
    not_theirs[0].servers.remove(&server("ann"));
    assert!(carl.take(&server("ann"), not_theirs, NOW).is_empty());
    assert_eq!(carl.take(&server("ann"), old.clone(), NOW), [key]);
    assert!(carl.take(&server("ann"), old, NOW).is_empty(), "it is no news");
}

/// The one who was away while bob was banned makes a key for bob, too, and hands out the old one.
#[test]
fn a_key_of_somebody_who_lags_behind_seals_nothing() {
    let mut ann = keys("ann", &["ann", "bob", "carl"]);
    let old = ann.make(Secret([1; 32]), NOW);
    let mut carl = keys("carl", &["ann", "bob", "carl"]);
    hand(&ann, &mut carl);
    see(&mut ann, &["ann", "carl"]);
    let late = carl.make(Secret([0; 32]), NOW);
    assert_eq!(hand(&carl, &mut ann), 1, "what carl says can be read");
    assert!(ann.opening(&late.id()).is_some() && ann.opening(&old.id()).is_some());
    assert_eq!(ann.sealing(NOW), None);
    let new = ann.make(Secret([2; 32]), NOW);
    assert_eq!(hand(&ann, &mut carl), 1, "and carl reads what ann says");
    assert_eq!(carl.sealing(NOW).map(|key| key.id()), [old.id(), late.id()].into_iter().min());
    see(&mut carl, &["ann", "carl"]);
    assert_eq!(carl.sealing(NOW), Some(new), "no third key is needed once carl knows");
}

#[test]
fn a_flood_of_keys_pushes_none_out_that_seals() {
    let mut ann = keys("ann", &["ann", "bob"]);
    for byte in 0..200 {
        let mut servers = ann.joined.clone();
        if byte % 2 == 0 {
            servers.insert(server("gone"));
        }
        let given = Given { key: Secret([byte; 32]), made_ts: NOW, servers };
        ann.take(&server("bob"), vec![given], NOW);
        assert!(ann.held.len() <= HELD);
    }
    let mut all: Vec<_> = (0..200_u8)
        .filter(|byte| byte % 2 == 1)
        .map(|byte| RoomKey::new(room_id!("!r:x"), Secret([byte; 32])))
        .collect();
    all.sort_by_key(RoomKey::id);
    assert_eq!(ann.sealing(NOW), Some(all[0]), "the smallest, whatever else came");
}

#[test]
fn a_restart_keeps_what_seals_and_what_was() {
    let mut ann = keys("ann", &["ann", "bob", "carl"]);
    let old = ann.make(Secret([1; 32]), NOW);
    see(&mut ann, &["ann", "carl"]);
    let new = ann.make(Secret([2; 32]), NOW);
    let mut again = Keys::new(room_id!("!r:x").to_owned(), server("ann"));
    again.load(&ann.store().unwrap()).unwrap();
    see(&mut again, &["ann", "carl"]);
    assert_eq!(again.sealing(NOW), Some(new));
    assert_eq!(again.opening(&old.id()), Some(old));
    assert!(again.load(b"rubbish").is_err());
}

const NAMES: [&str; 5] = ["ann", "bob", "carl", "dora", "emil"];

/// What happens to a group, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody publishes, and makes a key where none seals.
    Publish(usize),
    /// Somebody hands all keys to somebody else.
    Hand(usize, usize),
    /// Somebody learns who has joined by now.
    Learn(usize),
    /// The last who is there goes, or is shown out.
    Leave,
    /// One more comes, and learns it.
    Join,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..NAMES.len();
    prop_oneof![
        who.clone().prop_map(Step::Publish),
        (who.clone(), who.clone()).prop_map(|(from, to)| Step::Hand(from, to)),
        who.prop_map(Step::Learn),
        Just(Step::Leave),
        Just(Step::Join),
    ]
}

proptest! {
    #[test]
    fn nobody_outside_holds_what_seals_and_all_agree_in_the_end(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        // The first two stay; of the others, the first so many are in the room.
        let mut size = NAMES.len();
        let mut group: Vec<Keys> = NAMES.iter().map(|name| keys(name, &NAMES)).collect();
        // Whoever leaves is malicious: they keep every key that they were ever given.
        let mut known: Vec<BTreeSet<KeyId>> = vec![BTreeSet::new(); NAMES.len()];
        let mut secret = 0_u8;
        let note = |group: &[Keys], known: &mut [BTreeSet<KeyId>]| {
            for (keys, known) in group.iter().zip(known) {
                known.extend(keys.held.keys());
            }
        };
        for step in steps {
            match step {
                Step::Publish(who) if who < size => {
                    let sealing = group[who].sealing(NOW).unwrap_or_else(|| {
                        secret += 1;
                        group[who].make(Secret([secret; 32]), NOW)
                    });
                    for (other, name) in NAMES.iter().enumerate() {
                        let outside = !group[who].joined.contains(&server(name));
                        let reads = known[other].contains(&sealing.id());
                        prop_assert!(!(outside && reads), "{name} reads what {who} says");
                    }
                }
                Step::Hand(from, to) if from != to => {
                    let mut taker = std::mem::replace(&mut group[to], keys("nobody", &[]));
                    hand(&group[from], &mut taker);
                    group[to] = taker;
                }
                Step::Learn(who) if who < size => {
                    see(&mut group[who], &NAMES[..size]);
                }
                Step::Leave if size > 2 => {
                    size -= 1;
                    // Who goes does not tell their node: it acts as if nothing were.
                }
                Step::Join if size < NAMES.len() => {
                    size += 1;
                    let came = size - 1;
                    group[came] = keys(NAMES[came], &NAMES[..size]);
                }
                _ => {}
            }
            note(&group, &mut known);
        }
        // The cut ends: all learn who is there, those who publish do, and all exchange.
        for keys in &mut group[..size] {
            see(keys, &NAMES[..size]);
        }
        for keys in &mut group[..size] {
            if keys.sealing(NOW).is_none() {
                secret += 1;
                keys.make(Secret([secret; 32]), NOW);
            }
        }
        for _ in 0..2 {
            for from in 0..size {
                for to in (0..size).filter(|to| *to != from) {
                    let mut taker = std::mem::replace(&mut group[to], keys("nobody", &[]));
                    hand(&group[from], &mut taker);
                    group[to] = taker;
                }
            }
        }
        let chosen: BTreeSet<_> =
            group[..size].iter().map(|keys| keys.sealing(NOW).map(|key| key.id())).collect();
        prop_assert_eq!(chosen.len(), 1, "{:?}", chosen);
        let sealing = chosen.into_iter().next().flatten().unwrap();
        for (name, known) in NAMES.iter().zip(&known).skip(size) {
            prop_assert!(!known.contains(&sealing), "{name} left and reads on");
        }
    }
}
