//! Servers that a room keeps out (`m.room.server_acl`).

use super::*;
use crate::{actors::room::keys::Keys, proto::room_key::Secret};

/// A room of Ann with Bob and Eve in it, and the signers of all.
fn three() -> (Replica, Replica, Replica) {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    for event in ann.known_events() {
        let by = if event.sender == eve.me { &eve.signer } else { &ann.signer };
        if event.sender != bob.me {
            bob.ingest(&received(&event, by));
        }
    }
    (ann, bob, eve)
}

fn acl(deny: &[&str]) -> Draft {
    draft("m.room.server_acl", Some(""), json!({"allow": ["*"], "deny": deny}))
}

fn servers(replica: &Replica) -> Vec<OwnedServerName> {
    replica.machine.servers().cloned().collect()
}

fn placed(replica: &mut Replica, event: &Arc<Pdu>, by: &Signer) -> Option<Place> {
    match replica.ingest(&received(event, by)) {
        Ingested::New(_, place) => Some(place),
        _ => None,
    }
}

#[test]
fn who_is_kept_out_takes_part_no_more_and_then_again() {
    let (mut ann, mut bob, eve) = three();
    let all = servers(&ann);
    assert_eq!(all.len(), 3);
    let out = ann.send(acl(&[eve.signer.server_name().as_str()])).unwrap();
    assert_eq!(placed(&mut bob, &out, &ann.signer), Some(Place::Live));
    for replica in [&ann, &bob] {
        assert_eq!(servers(replica).len(), 2, "no key of the room is for it any more");
        assert!(!replica.machine.has_joined(eve.signer.server_name()));
        assert!(replica.machine.denies(eve.signer.server_name()));
        assert_eq!(replica.machine.candidates(&[own_of(&eve.signer)]).len(), 1);
        let told = replica.commits.last().unwrap().servers.as_ref().unwrap();
        assert_eq!(told.len(), 2, "RoomState hears of it");
        let member = replica.machine.member(&eve.me).unwrap();
        assert_eq!(member.membership, MembershipState::Join, "its users are members all the same");
    }
    // It survives a restart.
    let back = ann.send(acl(&[])).unwrap();
    assert_eq!(placed(&mut bob, &back, &ann.signer), Some(Place::Live));
    assert_eq!(servers(&bob), all);
}

#[test]
fn attack_04_the_key_changes_with_the_list_as_with_a_ban() {
    let (mut ann, _, eve) = three();
    let server = own_of(&eve.signer);
    let mut keys = Keys::new(ann.machine.room_id.clone(), own_of(&ann.signer));
    keys.set_joined(ann.machine.servers(), NOW);
    let for_all = keys.make(Secret([1; 32]), NOW);
    assert_eq!(keys.sealing(NOW), Some(for_all));
    ann.send(acl(&[server.as_str()])).unwrap();
    let gone = keys.set_joined(ann.machine.servers(), NOW);
    assert_eq!((gone, keys.sealing(NOW)), (vec![server.clone()], None));
    let without = keys.make(Secret([2; 32]), NOW);
    let ids = [for_all.id(), without.id()];
    assert!(keys.give(&server, &ids, NOW).is_empty() && keys.give(&server, &[], NOW).is_empty());
    // What was said without her stays so.
    ann.send(acl(&[])).unwrap();
    keys.set_joined(ann.machine.servers(), NOW);
    assert_ne!(keys.sealing(NOW), Some(without));
    let given = keys.give(&server, &ids, NOW);
    assert_eq!(given.iter().map(|given| given.key).collect::<Vec<_>>(), [for_all.secret()]);
}

#[test]
fn what_the_denied_say_fails_softly_whoever_brings_it() {
    let (mut ann, mut bob, mut eve) = three();
    let before = eve.send(message("before she knows")).unwrap();
    let out = ann.send(acl(&[&eve.signer.server_name().as_str().to_uppercase()])).unwrap();
    placed(&mut bob, &out, &ann.signer);
    placed(&mut eve, &out, &ann.signer);
    let after = eve.send(message("after")).unwrap();
    for event in [&before, &after] {
        // Bob hands it on: he is a member, and the event is Eve's.
        assert_eq!(placed(&mut ann, event, &eve.signer), Some(Place::SoftFailed));
        assert!(!ann.machine.may_gossip(event));
    }
    assert_eq!(ann.view().0, eve.view().0, "the state is one all the same");
    // What was said while she was kept out stays what it was; what she says then is heard.
    let open = ann.send(acl(&[])).unwrap();
    placed(&mut eve, &open, &ann.signer);
    placed(&mut bob, &open, &ann.signer);
    assert_eq!(placed(&mut bob, &before, &eve.signer), Some(Place::Live));
    assert_eq!(placed(&mut bob, &after, &eve.signer), Some(Place::SoftFailed), "by the state then");
    let heard = eve.send(message("again")).unwrap();
    assert_eq!(placed(&mut ann, &heard, &eve.signer), Some(Place::Live));
}

#[test]
fn attack_5_a_list_of_a_thousand_globs_is_no_work() {
    let (mut ann, _, eve) = three();
    let globs: Vec<String> = (0..1000).map(|n| format!("*{n}?evil.example")).collect();
    let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
    ann.send(acl(&globs)).unwrap();
    // Members are looked up; only who is new is compared with the list.
    assert_eq!(servers(&ann).len(), 3);
    assert!(!ann.machine.denies(eve.signer.server_name()));
    let evil = OwnedServerName::try_from("x999-EVIL.example").unwrap();
    assert!(ann.machine.denies(&evil));
}
