//! Fuzz target: a member without power sends what it likes, and the room goes on.

use super::*;

#[test]
fn fuzz_what_a_member_sends() {
    let own = signer(2).user_id().to_string();
    let other = signer(1).user_id().to_string();
    let good = vec![
        json!(["m.room.message", null, {"body": "hi"}, null]),
        json!(["m.room.member", own, {"membership": "join", "displayname": "Bob"}, null]),
        json!(["m.room.member", own, {"membership": "leave"}, null]),
        json!(["m.room.member", other, {"membership": "ban"}, null]),
        json!(["m.room.power_levels", "", {"users": {&own: 100}}, null]),
        json!(["m.room.join_rules", "", {"join_rule": "invite"}, null]),
        json!(["m.room.create", "", {"room_version": "11"}, null]),
        json!(["m.room.redaction", null, {"redacts": "$x"}, "$x"]),
        json!(["m.room.third_party_invite", "token", {"public_key": "x"}, null]),
        json!(["m.reaction", null, {"m.relates_to": {"event_id": "$x", "key": "+"}}, null]),
    ];
    crate::fuzz::json("room", good, |value| {
        let Ok(content) = serde_json::from_value::<CanonicalJsonObject>(value[2].clone()) else {
            return "no content".to_owned();
        };
        let draft = Draft {
            kind: TimelineEventType::from(value[0].as_str().unwrap_or("x")),
            state_key: value[1].as_str().map(ToOwned::to_owned),
            content,
            redacts: value[3].as_str().and_then(|id| id.try_into().ok()),
        };
        let mut ann = room(&RoomVersionId::V12, 1);
        let bob = join(&mut ann, 2, &[]);
        let stands = attacks::own_member(&bob);
        let mut position = match bob.machine.position(&draft, &bob.me, bob.clock) {
            Ok(position) => position,
            Err(stop) => return format!("{stop:?}"),
        };
        position.prev_events = vec![stands.event_id.clone()];
        let Ok(event) = pdu::compose(draft, &position, bob.signer.owner(), bob.machine.rules())
        else {
            return "not composed".to_owned();
        };
        let received = received(&event, &bob.signer);
        let taken = match ann.run(|machine| machine.ingest(&received, None)) {
            Ok(taken) => taken,
            Err(error) => return error.to_string(),
        };
        let said = match &taken {
            Ingested::New(change, place) => {
                ann.store(change);
                ann.settle();
                format!("{place:?}")
            }
            other => format!("{other:?}"),
        };
        // Whatever it was, Ann goes on, and others can still come in.
        ann.send(message("after")).unwrap();
        join(&mut ann, 3, &[Arc::clone(&bob.signer)]);
        said
    });
}
