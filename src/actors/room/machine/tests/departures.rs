//! Who was shown out while away learns it by what one member tells, and by no lie.

use super::*;

struct Away {
    ann: Replica,
    bob: Replica,
    eve: Replica,
    signers: Vec<Arc<Signer>>,
}

/// Bob is away: nothing reaches him.
fn away() -> Away {
    let mut ann = room(&RoomVersionId::V11, 1);
    let mut bob = outside(&ann, 2);
    let mut eve = outside(&ann, 3);
    let signers = vec![Arc::clone(&ann.signer), Arc::clone(&bob.signer), Arc::clone(&eve.signer)];
    let joined = come_in(&mut ann, &mut eve, &signers);
    ann.ingest(&joined);
    let joined = come_in(&mut ann, &mut bob, &signers);
    ann.ingest(&joined);
    eve.ingest(&joined);
    Away { ann, bob, eve, signers }
}

fn shows_out(whom: &Replica, membership: &str) -> Draft {
    draft("m.room.member", Some(whom.me.as_str()), json!({"membership": membership}))
}

/// Bob is told, with what `of` has for an auth chain.
fn told(bob: &mut Replica, of: &mut Replica, kick: &Received, signers: &[Arc<Signer>]) -> bool {
    if bob.run(|machine| machine.departs_from(&kick.pdu)).unwrap().is_none() {
        return false;
    }
    let mut todo = kick.pdu.auth_events.clone();
    let mut chain: BTreeMap<OwnedEventId, Received> = BTreeMap::new();
    while let Some(id) = todo.pop() {
        let Some(known) = of.known_event(&id) else { continue };
        let name = known.pdu.sender.server_name();
        let signer = signers.iter().find(|signer| signer.server_name() == name).unwrap();
        if chain.insert(id, received(&known.pdu, signer)).is_none() {
            todo.extend(known.pdu.auth_events.iter().cloned());
        }
    }
    let given = GivenState { state: vec![], auth_chain: chain.into_values().collect() };
    let Ok((named, change)) = bob.run(|machine| machine.name_departure(&kick.pdu, &given)) else {
        return false;
    };
    bob.store(&change);
    let Ok(change) = bob.run(|machine| machine.depart(kick, named)) else { return false };
    bob.store(&change);
    !bob.machine.has_in(&bob.me)
}

#[test]
fn a_kick_counts_though_nothing_before_it_is_known() {
    let Away { mut ann, mut bob, signers, .. } = away();
    for n in 0..3 {
        ann.send(message(&n.to_string())).unwrap();
    }
    let kick = ann.send(shows_out(&bob, "ban")).unwrap();
    let kick = received(&kick, &ann.signer);
    assert!(told(&mut bob, &mut ann, &kick, &signers));
    let own = bob.machine.membership(&bob.me).unwrap();
    assert_eq!(
        (&own.membership, &own.event_id),
        (&MembershipState::Ban, &Some(kick.pdu.event_id.clone()))
    );
    assert!(!told(&mut bob, &mut ann, &kick, &signers), "it is no news any more");
}

#[test]
fn who_was_given_power_meanwhile_may_show_out() {
    let Away { mut ann, mut bob, mut eve, signers } = away();
    let users = json!({ann.me.as_str(): 100, eve.me.as_str(): 50});
    let raised = ann.send(draft("m.room.power_levels", Some(""), json!({"users": users}))).unwrap();
    eve.ingest(&received(&raised, &ann.signer));
    let kick = eve.send(shows_out(&bob, "leave")).unwrap();
    let kick = received(&kick, &eve.signer);
    assert!(told(&mut bob, &mut eve, &kick, &signers));
}

#[test]
fn attack_06_nobody_without_power_makes_others_believe_that_they_were_shown_out() {
    let Away { mut ann, mut bob, mut eve, signers } = away();
    // Without power at all.
    let forged = attacks::placed(&eve, shows_out(&bob, "leave"), &[], |_| {});
    let forged = received(&forged, &eve.signer);
    assert!(!told(&mut bob, &mut eve, &forged, &signers));
    // With power that was taken away, of which Bob knows, at a place from before that.
    let users = |level: i64| {
        let users = json!({ann.me.as_str(): 100, eve.me.as_str(): level});
        draft("m.room.power_levels", Some(""), json!({"users": users}))
    };
    let (raise, lower) = (users(50), users(0));
    let raised = received(&ann.send(raise).unwrap(), &ann.signer);
    eve.ingest(&raised);
    bob.ingest(&raised);
    let lowered = received(&ann.send(lower).unwrap(), &ann.signer);
    bob.ingest(&lowered);
    let backdated = eve.send(shows_out(&bob, "leave")).unwrap();
    let backdated = received(&backdated, &eve.signer);
    assert!(!told(&mut bob, &mut eve, &backdated, &signers));
    assert!(bob.machine.has_in(&bob.me));
}

#[test]
fn an_old_departure_says_nothing_about_who_came_back() {
    let Away { mut ann, mut bob, signers, .. } = away();
    let kick = ann.send(shows_out(&bob, "leave")).unwrap();
    let kick = received(&kick, &ann.signer);
    assert!(told(&mut bob, &mut ann, &kick, &signers));
    let back = come_in(&mut ann, &mut bob, &signers);
    ann.ingest(&back);
    bob.forget();
    assert!(!told(&mut bob, &mut ann, &kick, &signers));
    assert!(bob.machine.has_in(&bob.me));
    assert_eq!(bob.view().0, ann.view().0);
}
