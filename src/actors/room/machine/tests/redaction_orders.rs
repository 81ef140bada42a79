//! Redactions: in whichever order and by whichever way a redaction, its target and copies of both
//! come, every replica shows the same in the end.

use super::{attacks::placed, *};

/// What a replica is given next. The first four come one by one, the last ones as history.
#[derive(Debug, Clone, Copy)]
enum Given {
    /// The target as it was sent.
    Whole,
    /// A copy that somebody redacted on the way.
    Spoilt,
    /// The redaction of who may.
    Allowed,
    /// A redaction of who may not.
    Powerless,
    /// As history: all of it, the target whole.
    History,
    /// As history: all of it, the target redacted on the way.
    SpoiltHistory,
    /// As history: one of the three.
    OneOfHistory(usize),
    /// A restart.
    Forget,
}

fn given() -> impl Strategy<Value = Given> {
    prop_oneof![
        3 => Just(Given::Whole),
        2 => Just(Given::Spoilt),
        2 => Just(Given::Allowed),
        2 => Just(Given::Powerless),
        1 => Just(Given::History),
        1 => Just(Given::SpoiltHistory),
        2 => (0..3_usize).prop_map(Given::OneOfHistory),
        1 => Just(Given::Forget),
    ]
}

/// A target of Bob, Ann's redaction of it and Eve's, and what follows all of them.
struct Story {
    /// Somebody who is there from before, and has nothing of it yet.
    early: Replica,
    /// Somebody who comes when all is said, and has nothing of it but the state.
    late: Replica,
    target: Received,
    spoilt: Received,
    allowed: Received,
    powerless: Received,
    last: Received,
}

/// `state`: the target is a state event. `apart`: none of the three follows another, so that none
/// waits for another.
fn story(version: &RoomVersionId, state: bool, apart: bool) -> Story {
    let mut ann = room(version, 1);
    let mut bob = join(&mut ann, 2, &[]);
    let mut eve = join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
    let early = join(&mut ann, 4, &[Arc::clone(&bob.signer), Arc::clone(&eve.signer)]);
    let (eves, begin) = (attacks::own_member(&eve), attacks::own_member(&early));
    bob.ingest(&received(&eves, &eve.signer));
    bob.ingest(&received(&begin, &early.signer));
    eve.ingest(&received(&begin, &early.signer));
    let content = match state {
        true => {
            let content = json!({"membership": "join", "displayname": "rude"});
            draft("m.room.member", Some(bob.me.as_str()), content)
        }
        false => message("rude"),
    };
    let target = placed(&bob, content, &[&begin], |_| {});
    let redact = |by: &Replica| {
        let mut redact = draft("m.room.redaction", None, json!({}));
        redact.redacts = Some(target.event_id.clone());
        let prev = if apart { &begin } else { &target };
        received(&placed(by, redact, &[prev], |_| {}), &by.signer)
    };
    let (allowed, powerless) = (redact(&ann), redact(&eve));
    let mut spoilt = received(&target, &bob.signer);
    spoilt.pdu = target.redacted(ann.machine.rules()).unwrap();
    spoilt.spoilt = true;
    let target = received(&target, &bob.signer);
    for event in [&target, &powerless, &allowed] {
        ann.ingest(event);
    }
    let last = received(&ann.send(message("the last word")).unwrap(), &ann.signer);
    let others = [&bob, &eve, &early].map(|replica| Arc::clone(&replica.signer));
    let mut late = join(&mut ann, 5, &others);
    // The helper gives all that Ann has; a real answer has the state alone.
    for event in [&target, &powerless, &allowed, &last] {
        if event.pdu.state_key.is_none() {
            late.events.remove(&event.pdu.event_id);
        }
    }
    if let Some(known) = late.known_event(&target.pdu.event_id).cloned() {
        let known = KnownEvent {
            pdu: Arc::clone(&known.pdu),
            place: known.place,
            group: known.group,
            spoilt: true,
        };
        late.events.insert(target.pdu.event_id.clone(), Known::Event(Arc::new(known)));
    }
    late.forget();
    Story { early, late, target, spoilt, allowed, powerless, last }
}

/// Gives one event after another as history, last one first.
fn backfill(replica: &mut Replica, events: &[&Received]) {
    let events: Vec<Received> = events.iter().map(|event| (*event).clone()).collect();
    let change = replica.run(|machine| machine.backfilled(&events)).unwrap();
    replica.store(&change);
}

impl Story {
    /// Gives something to who is late, or to who was there.
    fn give(&mut self, late: bool, given: Given) {
        let Self { early, late: latecomer, target, spoilt, allowed, powerless, last } = self;
        let replica = if late { latecomer } else { early };
        match given {
            Given::Whole => drop(replica.ingest(target)),
            Given::Spoilt => drop(replica.ingest(spoilt)),
            Given::Allowed => drop(replica.ingest(allowed)),
            Given::Powerless => drop(replica.ingest(powerless)),
            Given::History => backfill(replica, &[last, powerless, allowed, target]),
            Given::SpoiltHistory => backfill(replica, &[last, allowed, powerless, spoilt]),
            Given::OneOfHistory(0) => backfill(replica, &[last, target]),
            Given::OneOfHistory(1) => backfill(replica, &[last, allowed]),
            Given::OneOfHistory(_) => backfill(replica, &[last, powerless]),
            Given::Forget => replica.forget(),
        }
    }

    /// Whoever has both the target and the redaction shows nothing of it, from then on and for good.
    fn check(&self, late: bool, when: impl std::fmt::Debug) {
        let replica = if late { &self.late } else { &self.early };
        let shown = |event: &Received| {
            let known = replica.known_event(&event.pdu.event_id);
            known.filter(|known| matches!(known.place, Place::Live | Place::Backfilled)).cloned()
        };
        let Some(target) = replica.known_event(&self.target.pdu.event_id) else { return };
        let content = target.pdu.content.get();
        let redacted = shown(&self.allowed).is_some();
        if redacted {
            assert_eq!(content, self.spoilt.pdu.content.get(), "{when:?}");
            assert!(!target.spoilt, "{when:?}: a whole copy would bring it back");
        } else if !target.spoilt {
            assert!(content.contains("rude"), "{when:?}: no redaction applies");
        }
        if let Some(place) = target.pdu.state_place()
            && let Some(current) = replica.machine.state_event(&place.0, &place.1)
            && current.event_id == target.pdu.event_id
        {
            assert_eq!(current.content.get(), content, "{when:?}: the state shows the same");
        }
    }
}

fn play(version: &RoomVersionId, state: bool, apart: bool, steps: &[Given]) {
    let mut story = story(version, state, apart);
    let all = [Given::History, Given::Whole, Given::Allowed, Given::Powerless, Given::Whole];
    for late in [false, true] {
        for step in steps.iter().chain(&all) {
            story.give(late, *step);
            story.check(late, (step, steps));
        }
        let replica = if late { &story.late } else { &story.early };
        let known = replica.known_event(&story.target.pdu.event_id).unwrap();
        assert!(matches!(known.place, Place::Live | Place::Backfilled), "{late} {steps:?}");
        assert_eq!(known.pdu.content.get(), story.spoilt.pdu.content.get(), "{late} {steps:?}");
    }
}

/// Returns all orders of the steps.
fn orders(steps: &[Given]) -> Vec<Vec<Given>> {
    if steps.len() < 2 {
        return vec![steps.to_vec()];
    }
    let mut orders = Vec::new();
    for at in 0..steps.len() {
        let mut rest = steps.to_vec();
        let first = rest.remove(at);
        orders.extend(self::orders(&rest).into_iter().map(|mut order| {
            order.insert(0, first);
            order
        }));
    }
    orders
}

#[test]
fn a_redaction_holds_in_every_order() {
    let steps = [Given::Whole, Given::Allowed, Given::Powerless, Given::Spoilt, Given::Forget];
    for order in orders(&steps) {
        play(&RoomVersionId::V11, false, true, &order);
    }
}

#[test]
fn a_powerless_redaction_takes_nothing_away() {
    let Story { mut early, target, powerless, .. } = story(&RoomVersionId::V12, false, true);
    early.ingest(&powerless);
    early.ingest(&target);
    let known = early.known_event(&target.pdu.event_id).unwrap();
    assert!(known.pdu.content.get().contains("rude"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_redaction_holds_whichever_way_it_and_its_target_come(
        steps in proptest::collection::vec(given(), 1..9),
        version in 0..ROOM_VERSIONS.len(),
        state in any::<bool>(),
        apart in any::<bool>(),
    ) {
        play(&ROOM_VERSIONS[version], state, apart, &steps);
    }
}
