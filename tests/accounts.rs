//! Accounts of real nodes: passwords from the command line and from clients, people who register and who
//! leave, and what is left of either after a crash.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::time::Duration;

use serde_json::json;

mod common;

use common::{
    Client, Node,
    client::{open, password_login, segment},
    eventually, home, homes,
};

async fn available(base: &str, name: &str) -> bool {
    let url = format!("{base}/_matrix/client/v3/register/available?username={name}");
    reqwest::get(url).await.unwrap().status() == 200
}

async fn is_in(client: &Client) -> bool {
    client.get("v3/account/whoami").await.status == 200
}

#[tokio::test]
async fn a_password_of_the_command_line_logs_in_and_is_changed_in_a_client() {
    let mut node = Node::start(&[]).await;
    let weak = node.run_with(&["password"], "short\n").await;
    assert!(!weak.status.success());
    assert!(String::from_utf8(weak.stderr).unwrap().contains("8 characters"));
    let nobody = node.run_with(&["password", "bob"], "the first one\n").await;
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no such person"));
    // Nobody has logged in yet: this makes who the person is.
    let set = node.run_with(&["password"], "the first one\n").await;
    let said = String::from_utf8(set.stdout).unwrap();
    assert!(set.status.success() && said.contains("the password of @p2p:"), "{said}");
    let base = node.base();
    let first = Client::by_password(&base, "p2p", "the first one").await;
    let second = Client::by_password(&base, &first.user_id, "the first one").await;
    let change = json!({
        "new_password": "the second one",
        "auth": password_login("p2p", "the first one"),
    });
    first.post("v3/account/password", change).await.ok();
    assert!(is_in(&first).await && !is_in(&second).await);

    node.stop().await;
    node.start_again().await;
    assert!(is_in(&first).await);
    let old = password_login("p2p", "the first one");
    open(&base, "v3/login", &old).await.refused(403, "M_FORBIDDEN");
    let third = Client::by_password(&base, "p2p", "the second one").await;
    let devices = third.get("v3/devices").await.ok();
    let seen = devices["devices"].as_array().unwrap().iter();
    let seen: Vec<_> = seen.filter_map(|device| device["last_seen_ip"].as_str()).collect();
    assert!(!seen.is_empty() && seen.iter().all(|ip| ip.starts_with("127.")), "{devices}");
    let set = node.run_with(&["password", "p2p", "--log-out"], "the third one\n").await;
    assert!(set.status.success());
    assert!(!is_in(&first).await && !is_in(&third).await);
    assert!(!node.log().contains("the first one") && !node.log().contains("the third one"));
    assert_eq!(node.status().await.unwrap()["has_password"], true);
}

#[tokio::test]
async fn people_of_a_household_are_found_from_elsewhere_and_talk() {
    let [mut home, mut away] = homes().await;
    home.node.stop().await;
    home.node
        .configure(|config| config["accounts"] = json!({"registration": {"token": "come in"}}));
    home.node.start_again().await;
    home.node.connected_to(&away.me).await;
    let base = home.node.base();
    let mut body = json!({"username": "bob", "password": "Bob's password", "device_id": "HOME",
        "auth": {"type": "m.login.dummy"}});
    open(&base, "v3/register", &body).await.refused(401, "M_FORBIDDEN");
    body["auth"] = json!({"type": "m.login.registration_token", "token": "come in"});
    open(&base, "v3/register", &body).await.ok();
    let mut bob = Client::by_password(&base, "bob", "Bob's password").await;

    let server = home.me.server_name().to_owned();
    let suffix = &server[server.len() - 7..];
    let owner = home.me.user_id.clone();
    for (term, found) in [
        (format!("bob:{suffix}"), &bob.user_id),
        (format!("Bob:{suffix}"), &bob.user_id),
        (bob.user_id.clone(), &bob.user_id),
        (owner.clone(), &owner),
    ] {
        eventually(format_args!("{term} is found"), async || {
            (away.me.search(&term).await == [found.clone()]).then_some(())
        })
        .await;
    }
    let nobody = away.me.search(&format!("@nobody:{server}")).await;
    assert!(nobody.is_empty(), "{nobody:?}");
    let profile = format!("v3/profile/{}", segment(&bob.user_id));
    assert_eq!(away.me.get(&profile).await.ok()["displayname"], "bob");

    let room = away.me.create_with(&[&bob]).await;
    bob.is(&room, "invite").await;
    assert!(home.me.get("v3/sync").await.ok()["rooms"]["invite"].get(&room).is_none());
    bob.join(&room).await.ok();
    away.me.sees_member(&room, &bob.user_id, "join").await;
    bob.send(&room, "here I am").await;
    away.me.reads(&room, "here I am").await;
    let status = home.node.status().await.unwrap();
    assert_eq!(status["user_id"], owner);
    assert_eq!(status["people"][0]["user_id"], bob.user_id);
    assert_eq!(status["people"][0]["devices"], 2);
    let told = home.node.run(&["status"]).await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("others here   bob, with 2 devices"), "{told}");

    // All of that outlives a crash.
    home.node.kill();
    home.node.start_again().await;
    home.node.connected_to(&away.me).await;
    bob.send(&room, "still here").await;
    away.me.reads(&room, "still here").await;
    Client::by_password(&base, "bob", "Bob's password").await;

    // He goes, and so does his name.
    let gone = json!({"auth": password_login("bob", "Bob's password")});
    bob.post("v3/account/deactivate", gone).await.ok();
    away.me.sees_member(&room, &bob.user_id, "leave").await;
    assert!(!is_in(&bob).await);
    away.me.invite(&room, &bob.user_id).await.refused(404, "M_NOT_FOUND");
    away.me.get(&profile).await.refused(404, "M_NOT_FOUND");
    home.node.stop().await;
    home.node.start_again().await;
    assert!(!available(&base, "bob").await);
    let people = home.node.status().await.unwrap()["people"].clone();
    assert_eq!(people, json!([]));
}

#[tokio::test]
async fn who_registers_while_the_node_is_killed_is_there_as_a_whole_or_not_at_all() {
    let mut home = home(&[]).await;
    home.node.stop().await;
    home.node.configure(|config| config["accounts"] = json!({"registration": true}));
    home.node.start_again().await;
    let base = home.node.base();
    let (mut whole, mut none) = (0, 0);
    for round in 0..6_u64 {
        let names = [0, 1, 2].map(|at| format!("u{round}-{at}"));
        let tries = names.clone().map(|name| {
            let body = json!({"username": name, "password": "secret word",
                "auth": {"type": "m.login.dummy"}});
            let url = format!("{base}/_matrix/client/v3/register");
            tokio::spawn(async move {
                let answer = reqwest::Client::new().post(url).json(&body).send().await;
                answer.is_ok_and(|answer| answer.status() == 200)
            })
        });
        tokio::time::sleep(Duration::from_millis(80 * round)).await;
        home.node.kill();
        home.node.start_again().await;
        for (name, answered) in names.iter().zip(tries) {
            let answered = answered.await.unwrap();
            if available(&base, name).await {
                assert!(!answered, "{name} was answered, and is not there");
                none += 1;
                continue;
            }
            let client = Client::by_password(&base, name, "secret word").await;
            client.get("v3/pushrules/").await.ok();
            let profile = format!("v3/profile/{}", segment(&client.user_id));
            assert_eq!(client.get(&profile).await.ok()["displayname"], name.as_str());
            let devices = client.get("v3/devices").await.ok()["devices"].clone();
            assert_eq!(devices.as_array().unwrap().len(), 2, "with the device: {devices}");
            whole += 1;
        }
    }
    assert_eq!(whole + none, 18);
    assert!(is_in(&home.me).await, "and the owner is in");
}
