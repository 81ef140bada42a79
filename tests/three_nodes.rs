//! Three people: a third joins through whoever is there, and everybody hears everybody.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not covered by allow-*-in-tests")]

use serde_json::{Value, json};

mod common;

use common::{Home, client::segment, eventually, homes};

/// Ann and Bob in a room; Cleo not yet.
async fn two_of_three() -> ([Home; 3], String) {
    let mut all: [Home; 3] = homes().await;
    let [ann, bob, _] = &mut all;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    ann.me.send(&room, "before Cleo").await;
    bob.me.reads(&room, "before Cleo").await;
    (all, room)
}

#[tokio::test]
async fn everybody_hears_everybody() {
    let ([mut ann, mut bob, mut cleo], room) = two_of_three().await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    for person in [&mut ann, &mut bob] {
        person.me.sees_member(&room, &cleo.me.user_id, "join").await;
    }
    for text in ["one", "two", "three"] {
        ann.me.send(&room, &format!("ann {text}")).await;
        bob.me.send(&room, &format!("bob {text}")).await;
        cleo.me.send(&room, &format!("cleo {text}")).await;
    }
    for person in [&mut ann, &mut bob, &mut cleo] {
        for name in ["ann", "bob", "cleo"] {
            for text in ["one", "two", "three"] {
                person.me.reads(&room, &format!("{name} {text}")).await;
            }
        }
    }
    let state = ann.me.whole_state(&room).await;
    assert_eq!(bob.me.whole_state(&room).await, state);
    assert_eq!(cleo.me.whole_state(&room).await, state);
}

/// Cleo joins by Bob's invitation while Ann, who made the room, is away.
#[tokio::test]
async fn a_third_joins_while_the_creator_is_away() {
    let ([mut ann, mut bob, mut cleo], room) = two_of_three().await;
    ann.node.stop().await;
    bob.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    bob.me.sees_member(&room, &cleo.me.user_id, "join").await;
    cleo.me.send(&room, "hello Bob").await;
    bob.me.reads(&room, "hello Bob").await;
    eventually("the history from before the join", async || {
        cleo.me.texts(&room).await.contains(&"before Cleo".to_owned()).then_some(())
    })
    .await;

    ann.node.start_again().await;
    ann.me.reads(&room, "hello Bob").await;
    ann.me.send(&room, "hello Cleo").await;
    cleo.me.reads(&room, "hello Cleo").await;
    let states = async || {
        let state = ann.me.whole_state(&room).await;
        let same =
            bob.me.whole_state(&room).await == state && cleo.me.whole_state(&room).await == state;
        same.then_some(())
    };
    eventually("one state for all three", states).await;
}

/// Ann's events reach Cleo though Ann is away when Cleo comes back: any member can hand them on.
#[tokio::test]
async fn a_member_hands_on_what_another_said() {
    let ([mut ann, mut bob, mut cleo], room) = two_of_three().await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    bob.me.sees_member(&room, &cleo.me.user_id, "join").await;
    cleo.node.stop().await;
    let event = ann.me.send(&room, "remember me").await;
    bob.me.reads(&room, "remember me").await;
    ann.node.stop().await;
    cleo.node.start_again().await;
    bob.me.send(&room, "Cleo is back").await;
    cleo.me.reads(&room, "Cleo is back").await;
    let got: Value = cleo.me.reads(&room, "remember me").await;
    assert_eq!(got["event_id"], event);
    assert_eq!(got["sender"], ann.me.user_id);
}

/// All three in a room; Cleo is away.
async fn cleo_is_away() -> ([Home; 3], String) {
    let ([mut ann, mut bob, mut cleo], room) = two_of_three().await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    for person in [&mut ann, &mut bob] {
        person.me.sees_member(&room, &cleo.me.user_id, "join").await;
    }
    ann.me.send(&room, "hello Cleo").await;
    cleo.me.reads(&room, "hello Cleo").await;
    cleo.node.stop().await;
    ([ann, bob, cleo], room)
}

async fn show_out(by: &Home, whom: &Home, room: &str, how: &str) {
    let path = format!("v3/rooms/{}/{how}", segment(room));
    by.me.post(&path, json!({"user_id": whom.me.user_id, "reason": "so"})).await.ok();
}

/// Checks that somebody is shown that he is out, and by what.
async fn learns(person: &mut Home, room: &str, membership: &str) {
    person.me.is(room, "leave").await;
    person.me.sees_member(room, &person.me.user_id.clone(), membership).await;
    let sent = person.me.try_send(room, "late", "still here?").await.unwrap();
    assert_eq!(sent.status, 403, "{}", sent.body);
}

/// Checks that somebody who was shown out comes back by a new invite.
async fn comes_back(by: &mut Home, whom: &mut Home, room: &str) {
    by.me.invite(room, &whom.me.user_id).await.ok();
    whom.me.is(room, "invite").await;
    whom.me.join(room).await.ok();
    by.me.sees_member(room, &whom.me.user_id, "join").await;
    by.me.send(room, "welcome back").await;
    whom.me.reads(room, "welcome back").await;
    whom.me.send(room, "thank you").await;
    by.me.reads(room, "thank you").await;
    assert_eq!(by.me.whole_state(room).await, whom.me.whole_state(room).await);
}

#[tokio::test]
async fn who_was_kicked_while_away_learns_it_of_the_kicker_and_comes_back() {
    let ([mut ann, bob, mut cleo], room) = cleo_is_away().await;
    ann.me.send(&room, "Cleo is gone").await;
    show_out(&ann, &cleo, &room, "kick").await;
    drop(bob);
    cleo.node.start_again().await;
    learns(&mut cleo, &room, "leave").await;
    comes_back(&mut ann, &mut cleo, &room).await;
}

#[tokio::test]
async fn who_was_banned_while_away_learns_it_of_a_third() {
    let ([mut ann, mut bob, mut cleo], room) = cleo_is_away().await;
    show_out(&ann, &cleo, &room, "ban").await;
    bob.me.sees_member(&room, &cleo.me.user_id, "ban").await;
    ann.node.stop().await;
    cleo.node.start_again().await;
    learns(&mut cleo, &room, "ban").await;
    assert!(matches!(cleo.me.join(&room).await.status, 403 | 404));
    ann.node.start_again().await;
    show_out(&ann, &cleo, &room, "unban").await;
    comes_back(&mut ann, &mut cleo, &room).await;
}

/// Whoever was made a moderator while one was away may show one out, though nothing is known of that.
#[tokio::test]
async fn who_got_the_power_meanwhile_may_use_it_and_nobody_else() {
    let ([mut ann, mut bob, mut cleo], room) = cleo_is_away().await;
    let mut levels = ann.me.state(&room, "m.room.power_levels", "").await;
    levels["users"] = json!({bob.me.user_id.as_str(): 50});
    ann.me.set_state(&room, "m.room.power_levels", "", levels).await.ok();
    let bobs = bob.me.user_id.clone();
    eventually("Bob's power", async || {
        let levels = bob.me.state(&room, "m.room.power_levels", "").await;
        (levels["users"][&bobs] == 50).then_some(())
    })
    .await;
    show_out(&bob, &cleo, &room, "kick").await;
    ann.me.sees_member(&room, &cleo.me.user_id, "leave").await;
    ann.node.stop().await;
    cleo.node.start_again().await;
    learns(&mut cleo, &room, "leave").await;
    comes_back(&mut bob, &mut cleo, &room).await;
}

#[tokio::test]
async fn an_invite_that_was_taken_back_while_one_was_away_is_gone() {
    let ([mut ann, bob, mut cleo], room) = two_of_three().await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.node.stop().await;
    show_out(&ann, &cleo, &room, "kick").await;
    ann.me.sees_member(&room, &cleo.me.user_id, "leave").await;
    // Told by who did not invite, too.
    let mut bob = bob;
    bob.me.sees_member(&room, &cleo.me.user_id, "leave").await;
    ann.node.stop().await;
    cleo.node.start_again().await;
    cleo.me.is(&room, "leave").await;
    cleo.me.sees_member(&room, &cleo.me.user_id.clone(), "leave").await;
    ann.node.start_again().await;
    comes_back(&mut ann, &mut cleo, &room).await;
}

#[tokio::test]
async fn an_invite_that_is_taken_back_while_one_is_there_is_gone_at_once() {
    let ([ann, _bob, mut cleo], room) = two_of_three().await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    show_out(&ann, &cleo, &room, "kick").await;
    cleo.me.is(&room, "leave").await;
}

/// The new invite comes before anybody said that the old membership is over.
#[tokio::test]
async fn a_new_invite_brings_who_was_kicked_while_away_back() {
    let ([mut ann, _bob, mut cleo], room) = cleo_is_away().await;
    show_out(&ann, &cleo, &room, "kick").await;
    cleo.node.start_again().await;
    let user = cleo.me.user_id.clone();
    eventually("the new invite", async || {
        (ann.me.invite(&room, &user).await.status == 200).then_some(())
    })
    .await;
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    ann.me.sees_member(&room, &user, "join").await;
    ann.me.send(&room, "again").await;
    cleo.me.reads(&room, "again").await;
}

/// Ann invites Cleo and goes; Bob is there, and the invite names him.
#[tokio::test]
async fn an_invite_is_accepted_while_the_inviter_is_away() {
    let ([mut ann, mut bob, mut cleo], room) = two_of_three().await;
    cleo.me.call_oneself("Cleo").await;
    ann.me.invite(&room, &cleo.me.user_id).await.ok();
    let shown = ann.me.state(&room, "m.room.member", &cleo.me.user_id).await;
    assert_eq!(shown["displayname"], "Cleo", "an invite shows who is invited");
    cleo.me.is(&room, "invite").await;
    bob.me.sees_member(&room, &cleo.me.user_id, "invite").await;
    ann.node.stop().await;
    cleo.me.join(&room).await.ok();
    bob.me.sees_member(&room, &cleo.me.user_id, "join").await;
}

#[tokio::test]
async fn who_does_not_exist_is_invited_nowhere_and_who_is_away_all_the_same() {
    let ([ann, mut bob, cleo], room) = two_of_three().await;
    let server = cleo.me.server_name().to_owned();
    for nobody in [format!("@cleo:{server}"), "@p2p:example.org".to_owned(), "@a:b".to_owned()] {
        let doors = [
            ann.me.invite(&room, &nobody).await,
            ann.me.post("v3/createRoom", json!({"invite": [nobody]})).await,
            ann.me
                .set_state(&room, "m.room.member", &nobody, json!({"membership": "invite"}))
                .await,
        ];
        let ban = json!({"membership": "ban"});
        let ban = ann.me.set_state(&room, "m.room.member", &nobody, ban).await;
        // Whoever may come to be one day can be kept out before.
        assert_eq!(ban.status, if nobody.ends_with(&server) { 200 } else { 400 }, "{}", ban.body);
        for door in doors {
            assert!(matches!(door.status, 400 | 404), "{nobody}: {} {}", door.what, door.body);
        }
    }
    // Who is off is invited all the same, and nobody waits for him; oneself is in it anyway.
    bob.node.stop().await;
    let asked = std::time::Instant::now();
    let invite = json!({"invite": [cleo.me.user_id, bob.me.user_id, ann.me.user_id]});
    let made = ann.me.post("v3/createRoom", invite).await.ok();
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
    let room = made["room_id"].as_str().unwrap();
    for user in [&cleo.me.user_id, &bob.me.user_id] {
        let member = ann.me.state(room, "m.room.member", user).await;
        assert_eq!(member["membership"], "invite", "{user}");
    }
    let join = "v3/join/!nowhere?via=example.org&server_name=example.org";
    let join = ann.me.post(join, json!({})).await;
    assert_eq!(join.status, 400, "{}", join.body);
}

/// Who answers but takes no more invites leaves no empty room behind either.
#[tokio::test]
async fn a_room_whose_only_guest_refuses_is_not_made() {
    let [ann, bob] = homes().await;
    let invite = json!({"invite": [bob.me.user_id], "is_direct": true});
    let mut made = 0;
    let refused = loop {
        let answer = ann.me.post("v3/createRoom", invite.clone()).await;
        if answer.status != 200 {
            break answer;
        }
        made += 1;
        assert!(made < 100, "strangers have few places for invites");
    };
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.body["error"].as_str().unwrap().contains(&bob.me.user_id));
    let rooms = ann.me.get("v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"].as_array().unwrap().len(), made);
}

/// Who has just come back knows nobody yet: an invite waits until the other is found.
#[tokio::test]
async fn an_invite_in_the_first_second_waits_for_the_network() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create(json!({"preset": "private_chat"})).await;
    for _ in 0..3 {
        bob.node.stop().await;
        ann.node.stop().await;
        bob.node.spawn();
        ann.node.start_again().await;
        ann.me.invite(&room, &bob.me.user_id).await.ok();
        bob.node.serves().await;
        bob.me.is(&room, "invite").await;
        bob.me.leave(&room).await.ok();
        ann.me.sees_member(&room, &bob.me.user_id, "leave").await;
    }
}

/// Who is invited by a state event hears of it like anybody.
#[tokio::test]
async fn a_state_event_invites_too() {
    let ([ann, _bob, mut cleo], room) = two_of_three().await;
    let content = json!({"membership": "invite"});
    ann.me.set_state(&room, "m.room.member", &cleo.me.user_id, content).await.ok();
    cleo.me.is(&room, "invite").await;
}
