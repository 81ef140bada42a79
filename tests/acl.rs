//! A server that a room keeps out (`m.room.server_acl`): at every door of real nodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::time::Duration;

use serde_json::json;

mod common;

use common::{client::segment, homes};

#[tokio::test]
async fn who_is_kept_out_hears_and_says_nothing_and_comes_back() {
    let [mut ann, mut bob, mut eve] = homes().await;
    let room = ann.me.create_with(&[&bob.me, &eve.me]).await;
    for guest in [&mut bob.me, &mut eve.me] {
        guest.is(&room, "invite").await;
        guest.join(&room).await.ok();
    }
    for user in [&bob.me.user_id, &eve.me.user_id] {
        ann.me.sees_member(&room, user, "join").await;
    }
    eve.me.send(&room, "hello from eve").await;
    bob.me.reads(&room, "hello from eve").await;
    ann.me.reads(&room, "hello from eve").await;

    let deny = |servers: &[&str]| json!({"allow": ["*"], "deny": servers});
    let out = deny(&[&eve.me.server_name().to_uppercase()]);
    ann.me.set_state(&room, "m.room.server_acl", "", out).await.ok();
    bob.me
        .until("the list", |seen| seen.event(&room, |event| event["type"] == "m.room.server_acl"))
        .await;
    // Eve's own node is told why, and what she says now reaches nobody.
    eve.me
        .until("the list", |seen| seen.event(&room, |event| event["type"] == "m.room.server_acl"))
        .await;
    eve.me.send(&room, "kept out").await;
    ann.me.send(&room, "she does not hear that").await;
    bob.me.reads(&room, "she does not hear that").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!eve.me.texts(&room).await.contains(&"she does not hear that".to_owned()));
    for of in [&ann.me, &bob.me] {
        assert!(!of.texts(&room).await.contains(&"kept out".to_owned()));
    }
    // Her people leave and come back neither.
    eve.me.leave(&room).await.ok();
    let path = format!("v3/join/{}?via={}", segment(&room), ann.me.server_name());
    eve.me.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
    let members = ann.me.get(&format!("v3/rooms/{}/joined_members", segment(&room))).await.ok();
    assert!(members["joined"].get(&eve.me.user_id).is_some(), "her leave was not heard either");

    ann.me.set_state(&room, "m.room.server_acl", "", deny(&[])).await.ok();
    ann.me.invite(&room, &eve.me.user_id).await;
    eve.me.post(&path, json!({})).await.ok();
    eve.me.send(&room, "here again").await;
    ann.me.reads(&room, "here again").await;
    bob.me.reads(&room, "here again").await;
    bob.me.send(&room, "welcome").await;
    eve.me.reads(&room, "welcome").await;
}
