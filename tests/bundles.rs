//! Key bundles: whoever shares a room with somebody encrypts for all devices of that person, though the
//! person's node is off and the two never met.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod common;

use common::{Client, Home, PATIENCE, device::Device, eventually, home};

/// How long a client waits for keys, as Element does.
const WAIT_MS: u64 = 10_000;

async fn query(me: &Client, of: &str) -> Value {
    let asked = json!({"device_keys": {of: []}, "timeout": WAIT_MS});
    me.post("v3/keys/query", asked).await.ok()
}

async fn claim(me: &Client, of: &Device) -> Value {
    let wanted = json!({&of.user_id: {&of.device_id: "signed_curve25519"}});
    let asked = json!({"one_time_keys": wanted, "timeout": WAIT_MS});
    let answer = me.post("v3/keys/claim", asked).await.ok();
    answer["one_time_keys"][&of.user_id][&of.device_id].clone()
}

/// Ann, who has published keys, and Bob in a room; Bob's node says what it does with bundles.
async fn two() -> (Home, Home, Device, String) {
    let mut ann = home(&[]).await;
    let device = Device::publish(&ann.me, 5).await;
    let mut bob = home(&[&ann.node]).await;
    bob.node.stop().await;
    bob.node.log_as("info,messagehub::actors::device_keys=debug");
    bob.node.start_again().await;
    bob.node.connected_to(&ann.me).await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    (ann, bob, device, room)
}

/// Waits until a node has kept so many bundles.
async fn keeps(home: &Home, count: usize) {
    let kept = || home.node.log().matches("a key bundle is kept").count();
    eventually("a key bundle kept", async || (kept() >= count).then_some(())).await;
}

#[tokio::test]
async fn who_never_met_somebody_who_is_off_encrypts_for_all_devices_of_that_person() {
    let (mut ann, mut bob, device, room) = two().await;
    // Nobody at Bob's asked for Ann's keys: heads were compared, and said that there are some.
    keeps(&bob, 1).await;
    // Ann has one more device, and goes off for some days.
    let base = ann.node.base();
    let tablet = Client::log_in(&base, &ann.node.login_token().await).await;
    let second = Device::publish(&tablet, 0).await;
    tablet
        .put(&format!("v3/devices/{}", tablet.device_id), json!({"display_name": "Ann's own"}))
        .await
        .ok();
    query(&bob.me, &ann.me.user_id).await;
    keeps(&bob, 2).await;
    ann.node.stop().await;

    let mut cleo = home(&[&bob.node]).await;
    cleo.node.connected_to(&bob.me).await;
    bob.me.invite(&room, &cleo.me.user_id).await.ok();
    cleo.me.is(&room, "invite").await;
    cleo.me.join(&room).await.ok();
    bob.me.sees_member(&room, &cleo.me.user_id, "join").await;

    let asked = Instant::now();
    let of = async |me: &Client| {
        let answer = query(me, &device.user_id).await;
        let devices = answer["device_keys"][&device.user_id].clone();
        (devices.as_object().is_some_and(|devices| devices.len() == 2)).then_some(devices)
    };
    let devices = eventually("both devices of Ann's", async || of(&cleo.me).await).await;
    eprintln!("the keys of somebody who is off were there after {:?}", asked.elapsed());
    for one in [&device, &second] {
        let mut shown = devices[&one.device_id].clone();
        let of_server = shown.as_object_mut().unwrap().remove("unsigned");
        assert_eq!(of_server, None, "names of devices are not handed on");
        assert_eq!(shown, one.keys());
        // Fallback keys: no two people get the same one-time key from two room-mates.
        let key = claim(&cleo.me, one).await;
        assert_eq!(key["signed_curve25519:again"], one.one_time("again"), "{key}");
    }
    // It is on Cleo's disk, and hers to hand on: Bob goes off too, and she starts anew.
    bob.node.stop().await;
    cleo.node.kill();
    cleo.node.start_again().await;
    eventually("both devices again", async || of(&cleo.me).await).await;

    let body = json!({"messages": {&device.user_id: {"*": {"said": "while you were off"}}}});
    cleo.me.put("v3/sendToDevice/m.room.encrypted/1", body).await.ok();
    // Through Bob they find each other.
    bob.node.start_again().await;
    ann.node.start_again().await;
    for me in [&mut ann.me, &mut { tablet }] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{} hears nothing", me.device_id);
            let news = me.sync(Duration::from_secs(1)).await;
            let events = news["to_device"]["events"].as_array().cloned().unwrap_or_default();
            if events.iter().any(|event| event["content"]["said"] == "while you were off") {
                break;
            }
        }
    }
    // Now that Ann is there, she is asked herself, and tells the name.
    let name = "Ann's own";
    eventually("the name of the device", async || {
        let answer = query(&cleo.me, &device.user_id).await;
        let shown = &answer["device_keys"][&device.user_id][&second.device_id];
        (shown["unsigned"]["device_display_name"] == name).then_some(())
    })
    .await;
}
