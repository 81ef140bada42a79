//! Three people: a third joins through whoever is there, and everybody hears everybody.

use serde_json::Value;

mod common;

use common::{Home, eventually, homes};

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
