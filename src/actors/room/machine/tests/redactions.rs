//! Redactions hold in whichever order they and their targets come.

use super::*;

fn redacts(target: &Pdu) -> Draft {
    let mut redact = draft("m.room.redaction", None, json!({"redacts": target.event_id}));
    redact.redacts = Some(target.event_id.clone());
    redact
}

fn is_redacted(replica: &Replica, id: &ruma::EventId) -> bool {
    replica.known_event(id).is_some_and(|known| known.pdu.content.get() == "{}")
}

#[test]
fn a_redaction_that_comes_with_history_applies_and_the_original_changes_nothing() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let said = ann.send(message("secret")).unwrap();
        let redaction = ann.send(redacts(&said)).unwrap();
        let mut bob = outside(&ann, 2);
        let signers = [Arc::clone(&ann.signer), Arc::clone(&bob.signer)];
        come_in(&mut ann, &mut bob, &signers);
        let mut spoilt = received(&said.redacted(bob.machine.rules()).unwrap(), &ann.signer);
        spoilt.spoilt = true;
        let history = [received(&redaction, &ann.signer), spoilt];
        let change = bob.run(|machine| machine.backfilled(&history)).unwrap();
        bob.store(&change);
        assert!(is_redacted(&bob, &said.event_id), "{version}");
        // Somebody without power sends the original.
        bob.ingest(&received(&said, &ann.signer));
        assert!(is_redacted(&bob, &said.event_id), "{version}: the original came back");
    }
}

#[test]
fn all_redactions_that_came_before_their_target_are_tried() {
    for version in ROOM_VERSIONS {
        let mut ann = room(&version, 1);
        let mut eve = join(&mut ann, 3, &[]);
        let mut bob = join(&mut ann, 2, &[Arc::clone(&eve.signer)]);
        let said = ann.send(message("secret")).unwrap();
        eve.ingest(&received(&said, &ann.signer));
        let powerless = attacks::placed(&eve, redacts(&said), &[&said], |_| ());
        let moderator = ann.send(redacts(&said)).unwrap();
        let given =
            ann.given(&[Arc::clone(&ann.signer), Arc::clone(&eve.signer), Arc::clone(&bob.signer)]);
        let mut given = given;
        let target = said.event_id.clone();
        for list in [&mut given.state, &mut given.auth_chain] {
            list.retain(|received| received.pdu.state_key.is_some());
        }
        for (redaction, by) in [(&moderator, &ann.signer), (&powerless, &eve.signer)] {
            let event = received(redaction, by);
            bob.ingest(&event);
            let (state, change) =
                bob.run(|machine| machine.take_state(&event.pdu, &given)).unwrap();
            bob.store(&change);
            let taken = bob.run(|machine| machine.ingest(&event, Some(state))).unwrap();
            let Ingested::New(change, _) = taken else { panic!("{taken:?}") };
            bob.store(&change);
            bob.machine.unpark(&event.pdu.event_id);
        }
        bob.forget();
        bob.ingest(&received(&said, &ann.signer));
        assert!(is_redacted(&bob, &target), "{version}");
    }
}

/// A moderator redacts and is none any more; who learns of it later sees what all the others see.
#[test]
fn what_counts_is_the_power_at_the_redaction() {
    let version = RoomVersionId::V11;
    let mut ann = room(&version, 1);
    let mut eve = join(&mut ann, 3, &[]);
    let (ann_id, eve_id) = (ann.me.clone(), eve.me.clone());
    let levels = |level: i64| {
        let users = json!({ann_id.as_str(): 100, eve_id.as_str(): level});
        draft("m.room.power_levels", Some(""), json!({"users": users}))
    };
    let said = ann.send(message("secret")).unwrap();
    let raised = ann.send(levels(50)).unwrap();
    for event in [&said, &raised] {
        eve.ingest(&received(event, &ann.signer));
    }
    let redaction = eve.send(redacts(&said)).unwrap();
    ann.ingest(&received(&redaction, &eve.signer));
    assert!(is_redacted(&ann, &said.event_id));
    ann.send(levels(0)).unwrap();
    let late = ann.send(message("later")).unwrap();
    let mut bob = outside(&ann, 2);
    let signers = [Arc::clone(&ann.signer), Arc::clone(&bob.signer), Arc::clone(&eve.signer)];
    come_in(&mut ann, &mut bob, &signers);
    let lowered = ann.machine.state_event(&StateEventType::RoomPowerLevels, "").unwrap().clone();
    let history = [
        received(&late, &ann.signer),
        received(&lowered, &ann.signer),
        received(&redaction, &eve.signer),
        received(&raised, &ann.signer),
        received(&said, &ann.signer),
    ];
    let change = bob.run(|machine| machine.backfilled(&history)).unwrap();
    bob.store(&change);
    assert!(is_redacted(&bob, &said.event_id));
}
