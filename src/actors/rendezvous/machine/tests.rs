//! Who is believed and found, by table.

use super::*;
use crate::{
    config::limits,
    proto::{
        certificates::tests::{issued_by, node_keys},
        server_keys::{self, LIFETIME_MS, tests::secret_keys},
        signer::Signer,
    },
};

const NOW: u64 = 1_790_000_000_000;

type M = Machine<u8, &'static str>;

fn server(seed: u8) -> OwnedServerName {
    secret_keys(seed).server_name()
}

fn issued(seed: u8, peers: &[u8], at: u64) -> VerifiedServerKeys {
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let json = server_keys::issue(&secret_keys(seed), &peers, at).unwrap();
    VerifiedServerKeys::verify(json, at).unwrap()
}

/// A machine with an identity, and `peers` connected.
fn machine(peers: &[u8]) -> M {
    let mut machine = M::default();
    machine.handle(Input::Signer(server(100)), NOW - SETTLING_MS);
    for peer in peers {
        machine.handle(seen(*peer), NOW);
    }
    machine
}

fn seen(peer: u8) -> Input<u8, &'static str> {
    Input::Seen { peer, ours: true, addresses: vec!["here"] }
}

fn prove(machine: &mut M, peer: u8, keys: VerifiedServerKeys, now: u64) -> Vec<String> {
    machine.handle(Input::KeysCame(peer), now);
    told(machine.handle(Input::Keys { peer, keys: Some(keys) }, now))
}

/// Effects in short.
fn told(effects: Vec<Effect<u8, &'static str>>) -> Vec<String> {
    let short = effects.into_iter().map(|effect| match effect {
        Effect::Exchange(peer) => format!("exchange {peer}"),
        Effect::Own(_) => "own".to_owned(),
        Effect::Proven { peer, first, .. } => format!("proven {peer} {first}"),
        Effect::Reconnected(_) => "reconnected".to_owned(),
        Effect::Offline(_) => "offline".to_owned(),
        Effect::Admit(peer, _) => format!("admit {peer}"),
        Effect::Part(peer) => format!("part {peer}"),
        Effect::Over { peer, disconnect } => format!("over {peer} {disconnect}"),
        Effect::Dial { peer, .. } => format!("dial {peer}"),
        Effect::FindProviders { ticket, .. } => format!("providers {ticket}"),
        Effect::FindNode { ticket, peer } => format!("node {ticket} {peer}"),
        Effect::AskProfile { ticket, .. } => format!("profile {ticket}"),
        Effect::RetryLater(ticket) => format!("retry {ticket}"),
        Effect::SettleLater { ticket, stirred } => format!("settle {ticket} {stirred}"),
        Effect::Resolved { ticket, peer } => format!("resolved {ticket} {peer:?}"),
        Effect::Searched { ticket, found } => format!("searched {ticket} {}", found.len()),
        Effect::Write { place, .. } => format!("write {}", place.is_some()),
        Effect::Provide(strings) => format!("provide {}", strings.len()),
    });
    short.collect()
}

fn resolve(ticket: u64, seed: u8) -> Input<u8, &'static str> {
    Input::Resolve { ticket, server: server(seed) }
}

fn found(ticket: u64, peers: &[u8]) -> Input<u8, &'static str> {
    Input::Found { ticket, peers: peers.to_vec(), done: true }
}

#[test]
fn a_node_is_asked_once_and_counts_once_proven() {
    let mut machine = machine(&[]);
    assert_eq!(told(machine.handle(seen(1), NOW)), ["exchange 1"]);
    assert_eq!(told(machine.handle(seen(1), NOW)), [""; 0]);
    assert_eq!(prove(&mut machine, 1, issued(1, &[1], NOW), NOW), ["write true", "proven 1 true"]);
    assert_eq!(machine.server_of(&1), Some(&server(1)));
    // Both sides ask, so the same comes twice.
    assert_eq!(prove(&mut machine, 1, issued(1, &[1], NOW), NOW), ["proven 1 false"]);
    assert_eq!(told(machine.handle(Input::Gone(1), NOW)), ["over 1 false", "offline"]);
    assert_eq!(machine.server_of(&1), None);
    let foreign = Input::Seen { peer: 2, ours: false, addresses: vec![] };
    assert_eq!(told(machine.handle(foreign, NOW)), [""; 0]);
}

#[test]
fn whoever_is_proven_is_compared_with_when_its_connections_change() {
    let mut machine = machine(&[1]);
    assert_eq!(told(machine.handle(Input::PathChanged(1), NOW)), [""; 0], "a stranger");
    prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(told(machine.handle(Input::PathChanged(1), NOW)), ["reconnected"]);
}

#[test]
fn what_proves_nothing() {
    for (what, peer, keys, now, told) in [
        ("another node's", 2, issued(1, &[1], NOW), NOW, vec![]),
        ("expired", 1, issued(1, &[1], NOW), NOW + LIFETIME_MS + 1, vec![]),
        ("our own", 1, issued(100, &[1], NOW), NOW, vec!["own"]),
    ] {
        let mut machine = machine(&[1, 2]);
        assert_eq!(prove(&mut machine, peer, keys, now), told, "{what}");
        assert_eq!(machine.server_of(&peer), None, "{what}");
    }
    let mut machine = machine(&[]);
    let late = Input::Keys { peer: 1, keys: Some(issued(1, &[1], NOW)) };
    assert_eq!(told(machine.handle(late, NOW)), [""; 0], "gone while it was verified");
}

#[test]
fn nodes_of_one_server_with_keys_of_their_own_do_not_end_each_other() {
    let keys = |node: u8, peer: &str, at| issued_by(&node_keys(1, node), &[peer], at);
    let mut machine = machine(&[1, 2, 3]);
    prove(&mut machine, 1, keys(1, "1", NOW), NOW);
    let second = prove(&mut machine, 2, keys(2, "2", NOW + 10), NOW + 10);
    assert_eq!(second, ["write true", "proven 2 true"]);
    let again = prove(&mut machine, 1, keys(1, "1", NOW), NOW + 20);
    assert_eq!(again, ["proven 1 false"], "each has a row of its own");
    assert_eq!(machine.nodes_of(&server(1)).count(), 2);
    // Newer ones of a key end its own node alone; only with the last one is the server gone.
    let moved = prove(&mut machine, 3, keys(1, "3", NOW + 30), NOW + 30);
    assert_eq!(moved, ["over 1 true", "write true", "write false", "proven 3 true"]);
    assert_eq!(told(machine.handle(Input::Gone(3), NOW + 40)), ["over 3 false"]);
    assert_eq!(told(machine.handle(Input::Gone(2), NOW + 40)), ["over 2 false", "offline"]);
}

#[test]
fn a_proof_ends_with_its_time_and_with_newer_keys() {
    let mut machine = machine(&[1, 2, 3]);
    prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    let later = NOW + LIFETIME_MS + 1;
    let in_time = told(machine.handle(Input::Tick, NOW + LIFETIME_MS));
    assert!(!in_time.contains(&"over 1 true".to_owned()), "{in_time:?}");
    let over = told(machine.handle(Input::Tick, later));
    assert!(over.contains(&"over 1 true".to_owned()), "{over:?}");

    let moved = issued(1, &[2], NOW + 10);
    prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    let moved = prove(&mut machine, 2, moved, NOW + 10);
    assert_eq!(moved, ["over 1 true", "offline", "write true", "write false", "proven 2 true"]);
    assert_eq!(prove(&mut machine, 1, issued(1, &[1], NOW), NOW + 20), [""; 0], "superseded");
    assert_eq!(machine.server_of(&2), Some(&server(1)));
}

#[test]
fn the_book_is_written_at_most_once_a_minute_and_dialled_with_each_signer() {
    let mut machine = machine(&[1]);
    let keys = || issued(1, &[1], NOW);
    for (at, expected) in [(0, true), (59_999, false), (60_000, true)] {
        let told = prove(&mut machine, 1, keys(), NOW + at);
        assert_eq!(told.contains(&"write true".to_owned()), expected, "{at}");
    }
    let place =
        |peer, seen_ts| Place { peer, addresses: vec!["there"], valid_until_ts: NOW + 1, seen_ts };
    let rows = || {
        let old = (server(9), place(9, NOW - BOOK_AGE_MS - 1));
        let new = (0..30).map(|n| (server(n), place(n, NOW - u64::from(n))));
        std::iter::once(old).chain(new).collect::<Vec<_>>()
    };
    let mut machine = M::default();
    assert_eq!(told(machine.handle(Input::Book(rows()), NOW)), [""; 0], "no identity yet");
    let dialled = told(machine.handle(Input::Signer(server(100)), NOW));
    assert_eq!(dialled.len(), BOOK_DIALS);
    assert_eq!(dialled.first().map(String::as_str), Some("dial 0"), "the last seen come first");
    let again = told(machine.handle(Input::Signer(server(100)), NOW));
    assert_eq!(again, dialled, "our server_keys are new: the clock may have been set");
}

#[test]
fn the_book_has_all_nodes_of_a_server_that_its_server_keys_name() {
    let mut machine = machine(&[1, 2, 3]);
    let of_node = |node: u8, peers: &[&str], at| issued_by(&node_keys(1, node), peers, at);
    let server = server(1);
    let book = |machine: &M| {
        let mut peers: Vec<u8> = machine.book.of(&server).map(|place| place.peer).collect();
        peers.sort_unstable();
        peers
    };
    prove(&mut machine, 1, of_node(1, &["1"], NOW), NOW);
    prove(&mut machine, 2, of_node(2, &["2"], NOW), NOW);
    assert_eq!(book(&machine), [1, 2]);
    for peer in [1, 2] {
        machine.handle(Input::Gone(peer), NOW);
    }
    let dialled = told(machine.handle(resolve(1, 1), NOW));
    assert!(["dial 1", "dial 2"].iter().all(|dial| dialled.contains(&(*dial).to_owned())));
    // One of them moved: its row goes, that of the other node stays.
    prove(&mut machine, 3, of_node(2, &["3"], NOW + 10), NOW + 10);
    assert_eq!(book(&machine), [1, 3]);
    // The other is off for so long that its server_keys run out: it may come back.
    let later = NOW + LIFETIME_MS + 1;
    prove(&mut machine, 3, of_node(2, &["3"], later), later);
    assert_eq!(book(&machine), [1, 3]);
}

#[test]
fn a_clock_that_was_wrong_leaves_nothing_behind() {
    // A day ahead: a row of the book is written, and a search fails.
    let ahead = NOW + 24 * 60 * 60 * 1000;
    let mut machine = M::default();
    let place = Place { peer: 9, addresses: vec!["there"], valid_until_ts: ahead, seen_ts: NOW };
    machine.handle(Input::Book(vec![(server(9), place)]), ahead);
    machine.handle(Input::Signer(server(100)), ahead);
    machine.handle(seen(1), ahead);
    prove(&mut machine, 1, issued(1, &[1], NOW), ahead);
    machine.handle(Input::Gone(1), ahead);
    machine.handle(resolve(1, 2), ahead);
    machine.handle(Input::TimeUp(1), ahead);
    // It is put right, and our server_keys are issued anew.
    let dialled = told(machine.handle(Input::Signer(server(100)), NOW));
    assert!(dialled.contains(&"dial 9".to_owned()), "{dialled:?}");
    assert_eq!(told(machine.handle(resolve(2, 2), NOW)), ["providers 2"], "looked for again");
    machine.handle(seen(1), NOW);
    let written = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert!(written.contains(&"write true".to_owned()), "{written:?}");
    // A year ahead, nobody is dialled, and nothing is forgotten.
    let mut machine = M::default();
    let place = Place { peer: 9, addresses: vec!["there"], valid_until_ts: NOW, seen_ts: NOW };
    let year = NOW + 365 * 24 * 60 * 60 * 1000;
    machine.handle(Input::Signer(server(100)), year);
    assert_eq!(told(machine.handle(Input::Book(vec![(server(9), place)]), year)), [""; 0]);
    assert_eq!(told(machine.handle(Input::Signer(server(100)), NOW)), ["dial 9"]);
}

#[test]
fn attack_13_strangers_push_no_member_out_of_the_book() {
    let mut machine = machine(&[1]);
    let name = |name: &str| OwnedServerName::try_from(name).unwrap();
    let row = |server, age| {
        let place =
            Place { peer: 9, addresses: vec!["there"], valid_until_ts: NOW, seen_ts: NOW - age };
        (server, place)
    };
    let strangers = (1..).take(limits::BOOK_STRANGERS);
    let mut rows: Vec<_> = strangers.map(|age| row(name(&format!("stranger{age}")), age)).collect();
    rows.push(row(name("friend"), 1_000_000));
    machine.handle(Input::Book(rows), NOW);
    machine.handle(Input::Shared { added: vec![name("friend")], removed: Vec::new() }, NOW);
    let told = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(told, ["write true", "write false", "proven 1 true"]);
    let oldest = name(&format!("stranger{}", limits::BOOK_STRANGERS));
    let has = |server: &OwnedServerName| machine.book.of(server).next().is_some();
    assert!(!has(&oldest) && has(&name("stranger1")) && has(&name("friend")) && has(&server(1)));
}

#[test]
fn a_server_is_resolved_by_proof_only() {
    let mut machine = machine(&[]);
    assert_eq!(told(machine.handle(resolve(1, 1), NOW)), ["providers 1"]);
    // An impostor provides the victim's string, with its own good server_keys.
    assert_eq!(told(machine.handle(found(1, &[66]), NOW)), [""; 0]);
    machine.handle(seen(66), NOW);
    let impostor = prove(&mut machine, 66, issued(66, &[66], NOW), NOW);
    assert_eq!(impostor, ["write true", "proven 66 true", "retry 1"]);
    assert_eq!(told(machine.handle(Input::Retry(1), NOW)), ["providers 1"]);
    assert_eq!(told(machine.handle(found(1, &[66]), NOW)), ["retry 1"]);
    assert_eq!(told(machine.handle(Input::Retry(1), NOW)), ["providers 1"]);
    assert_eq!(told(machine.handle(found(1, &[66, 1]), NOW)), [""; 0]);
    machine.handle(seen(1), NOW);
    let real = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(real, ["write true", "proven 1 true", "resolved 1 Some(1)"]);
    assert_eq!(told(machine.handle(resolve(2, 1), NOW)), ["resolved 2 Some(1)"]);
}

#[test]
fn failures_are_remembered_for_a_while_and_shared() {
    let mut machine = machine(&[]);
    machine.handle(resolve(1, 1), NOW);
    assert_eq!(told(machine.handle(resolve(2, 1), NOW)), [""; 0], "it is looked for already");
    for _ in 1..3 {
        assert_eq!(told(machine.handle(found(1, &[]), NOW)), ["retry 1"]);
        machine.handle(Input::Retry(1), NOW);
    }
    let failed = told(machine.handle(found(1, &[]), NOW));
    assert_eq!(failed, ["resolved 1 None", "resolved 2 None"]);
    assert_eq!(told(machine.handle(resolve(3, 1), NOW + 9_999)), ["resolved 3 None"]);
    assert_eq!(told(machine.handle(resolve(4, 1), NOW + 10_000)), ["providers 4"]);
    assert_eq!(told(machine.handle(Input::TimeUp(4), NOW + 11_000)), ["resolved 4 None"]);
    assert_eq!(told(machine.handle(found(4, &[]), NOW + 12_000)), [""; 0], "too late");
    assert_eq!(told(machine.handle(resolve(5, 1), NOW + 12_000)), ["resolved 5 None"]);
}

#[test]
fn nothing_is_looked_for_before_there_is_an_identity() {
    let mut machine = M::default();
    assert_eq!(told(machine.handle(resolve(1, 1), NOW)), ["resolved 1 None"]);
    let search = Input::Search { ticket: 2, goal: Goal::Node(1), addresses: vec![], limit: 10 };
    assert_eq!(told(machine.handle(search, NOW)), ["searched 2 0"]);
    let advertise = |others: &[&str]| Input::Advertise {
        display_name: "Ann".into(),
        others: others.iter().map(ToString::to_string).collect(),
    };
    machine.handle(advertise(&[]), NOW);
    assert_eq!(told(machine.handle(Input::Signer(server(100)), NOW)), ["provide 9"]);
    assert_eq!(told(machine.handle(advertise(&["bob", "carl"]), NOW)), ["provide 17"]);
    assert_eq!(told(machine.handle(advertise(&["ann"]), NOW)), ["provide 9"], "called the same");
}

#[test]
fn a_search_for_a_node_goes_by_address_and_ends_with_its_failure() {
    let mut machine = machine(&[]);
    let search = Input::Search { ticket: 1, goal: Goal::Node(1), addresses: vec!["x"], limit: 10 };
    assert_eq!(told(machine.handle(search, NOW)), ["dial 1", "node 1 1"]);
    assert_eq!(told(machine.handle(found(1, &[]), NOW)), [""; 0], "it is being dialled");
    assert_eq!(told(machine.handle(Input::DialFailed(1), NOW)), ["retry 1"]);
    machine.handle(Input::Retry(1), NOW);
    machine.handle(seen(1), NOW);
    let proven = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(proven, ["write true", "proven 1 true", "profile 1"]);
    let user = crate::proto::server_name::user_of(&server(1));
    let profile = Input::Profile { ticket: 1, user, profile: None };
    assert_eq!(told(machine.handle(profile, NOW)), ["searched 1 1"]);
}

#[test]
fn known_people_are_asked_at_once() {
    let mut machine = machine(&[1]);
    prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    let goal = |seed| Goal::Server(server(seed));
    let search = |ticket, goal| Input::Search { ticket, goal, addresses: vec![], limit: 10 };
    assert_eq!(told(machine.handle(search(1, goal(1)), NOW)), ["profile 1"]);
    let suffix = server(1).as_str()[54..].to_owned();
    let suffix = Goal::Suffix { display_name: "Ann".into(), suffix };
    assert_eq!(
        told(machine.handle(search(2, suffix), NOW)),
        ["profile 2", "profile 2", "providers 2"]
    );
    assert_eq!(told(machine.handle(search(3, goal(100)), NOW)), ["searched 3 0"], "ourselves");
    assert_eq!(told(machine.handle(Input::TimeUp(2), NOW)), ["searched 2 0"]);
}

/// Two nodes whose server names end alike, as somebody could forge.
fn lookalikes() -> (u8, u8, String) {
    let last = |seed| server(seed).as_str()[60..].to_owned();
    let other = (2..200).find(|seed| last(*seed) == last(1)).unwrap();
    (1, other, last(1))
}

#[test]
fn two_people_behind_one_string_are_both_shown_and_the_dead_are_not_waited_for() {
    let (one, other, suffix) = lookalikes();
    let mut machine = machine(&[one]);
    prove(&mut machine, one, issued(one, &[one], NOW), NOW);
    let goal = Goal::Suffix { display_name: "Ann".into(), suffix };
    let search = Input::Search { ticket: 1, goal, addresses: vec![], limit: 10 };
    assert_eq!(told(machine.handle(search, NOW)), ["profile 1", "profile 1", "providers 1"]);
    let shown = |seed| Input::Profile {
        ticket: 1,
        user: crate::proto::server_name::user_of(&server(seed)),
        profile: Some(Profile { displayname: Some("Ann".into()), avatar_url: None }),
    };
    let nobody_else = |seed| Input::Profile {
        ticket: 1,
        user: format!("@ann:{}", server(seed)).try_into().unwrap(),
        profile: None,
    };
    assert!(told(machine.handle(nobody_else(one), NOW)).is_empty());
    let settle = told(machine.handle(shown(one), NOW));
    let [settle] = &settle[..] else { panic!("{settle:?}") };
    let stirred = settle.strip_prefix("settle 1 ").unwrap().parse().unwrap();
    // A second one comes, and somebody who never answers.
    let progress = Input::Found { ticket: 1, peers: vec![other, 250], done: false };
    machine.handle(progress, NOW);
    let early = machine.handle(Input::Settled { ticket: 1, stirred }, NOW);
    assert!(told(early).is_empty(), "there was news");
    machine.handle(seen(other), NOW);
    let proven = prove(&mut machine, other, issued(other, &[other], NOW), NOW);
    assert!(proven.contains(&"profile 1".to_owned()), "{proven:?}");
    assert!(told(machine.handle(nobody_else(other), NOW)).is_empty());
    let settle = told(machine.handle(shown(other), NOW));
    let stirred = settle[0].strip_prefix("settle 1 ").unwrap().parse().unwrap();
    let answered = machine.handle(Input::Settled { ticket: 1, stirred }, NOW);
    let [Effect::Searched { found, .. }] = &answered[..] else { panic!("{answered:?}") };
    let ids: Vec<_> = found.iter().map(|person| person.user_id.clone()).collect();
    assert_eq!(ids, [one, other].map(|seed| crate::proto::server_name::user_of(&server(seed))));
}

#[test]
fn whoever_is_wanted_before_the_network_has_settled_is_looked_for_until_then() {
    let mut machine = M::default();
    machine.handle(Input::Signer(server(100)), NOW);
    assert_eq!(told(machine.handle(resolve(1, 1), NOW)), ["providers 1"]);
    for round in 0..10 {
        let at = NOW + round * SETTLING_MS / 10;
        assert_eq!(told(machine.handle(found(1, &[]), at)), ["retry 1"], "{round}");
        assert_eq!(told(machine.handle(Input::Retry(1), at)), ["providers 1"], "{round}");
    }
    // A wait that ends early says nothing about who is there.
    assert_eq!(told(machine.handle(resolve(2, 2), NOW)), ["providers 2"]);
    assert_eq!(told(machine.handle(Input::TimeUp(2), NOW + 1)), ["resolved 2 None"]);
    assert_eq!(told(machine.handle(resolve(3, 2), NOW + 2)), ["providers 3"]);
    let over = told(machine.handle(found(1, &[]), NOW + SETTLING_MS));
    assert_eq!(over, ["resolved 1 None"]);
    machine.handle(Input::Restarted, NOW + SETTLING_MS);
    let again = NOW + SETTLING_MS + FAILED_MS - 1;
    assert_eq!(told(machine.handle(found(3, &[]), again)), ["retry 3"], "the network is new");
}

#[test]
fn a_new_signer_goes_to_everybody() {
    let mut machine = machine(&[1]);
    machine.handle(Input::Book(Vec::new()), NOW);
    prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    let signer = Signer::new(&secret_keys(100), &[], NOW).unwrap();
    let told = told(machine.handle(Input::Signer(signer.server_name().clone()), NOW));
    assert_eq!(told, ["exchange 1", "dial 1"], "whoever is connected is not dialled again");
}

#[test]
fn an_old_node_stays_dead_after_a_restart() {
    let mut machine = machine(&[1, 2]);
    machine.handle(Input::Newest(vec![issued(1, &[2], NOW)]), NOW);
    assert_eq!(prove(&mut machine, 1, issued(1, &[1], NOW - 1), NOW), [""; 0]);
    assert!(!prove(&mut machine, 2, issued(1, &[2], NOW), NOW).is_empty());
}

#[test]
fn gossip_is_for_proven_nodes_of_servers_that_share_a_room() {
    let shared = |added: &[u8], removed: &[u8]| Input::Shared {
        added: added.iter().map(|seed| server(*seed)).collect(),
        removed: removed.iter().map(|seed| server(*seed)).collect(),
    };
    let mut machine = machine(&[1, 2, 3]);
    assert_eq!(told(machine.handle(shared(&[1], &[]), NOW)), [""; 0], "not proven yet");
    let first = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(first, ["write true", "proven 1 true", "admit 1"]);
    assert_eq!(prove(&mut machine, 1, issued(1, &[1], NOW), NOW), ["proven 1 false"], "once");
    let stranger = prove(&mut machine, 2, issued(2, &[2], NOW), NOW);
    assert_eq!(stranger, ["write true", "proven 2 true"]);
    assert_eq!(told(machine.handle(shared(&[2], &[]), NOW)), ["admit 2"], "it joined");
    assert_eq!(told(machine.handle(shared(&[2], &[]), NOW)), [""; 0]);
    assert_eq!(
        told(machine.handle(shared(&[], &[1, 3]), NOW)),
        ["part 1"],
        "the last room is left"
    );
    machine.handle(Input::Gone(1), NOW);
    machine.handle(seen(1), NOW);
    let again = prove(&mut machine, 1, issued(1, &[1], NOW), NOW);
    assert_eq!(again, ["proven 1 true"], "back, and a stranger now");
}
