//! The status page: in a browser (`tests/status_page/scenario.mjs`), and how many windows may show it.
//!
//! `tests/npm_install tests/status_page` brings what drives the browser.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::{env, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

mod common;

use common::{Home, eventually, home, homes, scenario::run, skip};

/// Where the scenario is.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/status_page");
/// The browser, where `CHROMIUM` names no other one.
const CHROMIUM: &str = "/usr/bin/chromium";
/// Windows that may show it (`limits::STATUS_WINDOWS`).
const WINDOWS: usize = 8;

/// Opens a window, as a program of the same account does.
async fn window(home: &Home) -> reqwest::Response {
    let url = format!("{}/_messagehub/status/events", home.node.base());
    reqwest::get(url).await.unwrap()
}

/// Reads until the next event of this name, and returns what it says.
async fn next(window: &mut reqwest::Response, name: &str) -> Value {
    let begin = format!("event: {name}\ndata: ");
    let mut text = String::new();
    loop {
        let chunk = tokio::time::timeout(Duration::from_secs(30), window.chunk()).await;
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap().unwrap()));
        if let Some((_, rest)) = text.split_once(&begin)
            && let Some((json, _)) = rest.split_once("\n\n")
        {
            return serde_json::from_str(json).unwrap();
        }
    }
}

/// Waits until what is shown is as it should be; heads are compared every few minutes at the latest.
async fn until(window: &mut reqwest::Response, what: &str, is: impl Fn(&Value) -> bool) {
    let shown = async {
        loop {
            if is(&next(window, "shown").await) {
                break;
            }
        }
    };
    let patience = Duration::from_secs(240);
    assert!(tokio::time::timeout(patience, shown).await.is_ok(), "never happened: {what}");
}

#[tokio::test]
async fn so_many_windows_show_it_and_one_that_is_closed_makes_room() {
    let home = home(&[]).await;
    let mut windows = Vec::new();
    for _ in 0..WINDOWS {
        let mut window = window(&home).await;
        assert_eq!(window.status(), 200);
        let shown = next(&mut window, "shown").await;
        assert_eq!(shown["you"]["user_id"], home.me.user_id.as_str());
        assert_eq!(shown["reach"]["level"], "fair", "{shown}");
        assert!(shown["storage"]["database"].as_u64().unwrap() > 0, "{shown}");
        windows.push(window);
    }
    assert_eq!(window(&home).await.status(), 429);
    windows.pop();
    // A window that is gone is noticed when there is something to tell, or after a while.
    eventually("a place", async || (window(&home).await.status() == 200).then_some(())).await;
}

#[tokio::test]
async fn it_shows_rooms_with_who_is_there_and_who_has_all_of_it() {
    let [mut ann, mut bob] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    let name = json!({"name": "Garden"});
    ann.me.set_state(&room, "m.room.name", "", name).await.ok();
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let mut window = window(&ann).await;
    bob.me.send(&room, "hello").await;
    ann.me.reads(&room, "hello").await;
    until(&mut window, "both are there, and hand on what they say", |shown| {
        let garden = &shown["rooms"][0];
        let (people, nodes) = (json!([2, 2]), json!([1, 1]));
        garden["name"] == "Garden"
            && json!([garden["people"], garden["here"]]) == people
            && json!([garden["nodes"], garden["met"]]) == nodes
            && garden["mesh"].as_array().unwrap().len() == 1
            && shown["headline"]["level"] == "good"
    })
    .await;
    bob.node.kill();
    until(&mut window, "he is gone", |shown| {
        shown["rooms"][0]["here"] == 1 && shown["peers"].as_array().unwrap().is_empty()
    })
    .await;
    ann.me.send(&room, "are you there?").await;
    bob.node.start_again().await;
    bob.me.reads(&room, "are you there?").await;
    // He is asked for his heads once he was given what he lacked, or some minutes later.
    until(&mut window, "he has all of it", |shown| shown["rooms"][0]["have"] == 1).await;
}

#[tokio::test]
async fn people_look_at_it_in_a_browser() {
    let chromium = env::var("CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
    if !Path::new(&chromium).exists() {
        return skip(format_args!("there is no {chromium}: install chromium"));
    }
    if !Path::new(FOLDER).join("node_modules/.installed").exists() {
        return skip("run tests/npm_install tests/status_page");
    }
    let [mut ann, mut bob, mut eve] = homes().await;
    for (home, name) in [(&ann, "Ann"), (&bob, "Bob"), (&eve, "Eve")] {
        home.me.call_oneself(name).await;
    }
    for name in ["Garden", "Sunday hikes", "<b>bold</b>"] {
        let room = ann.me.create(json!({"preset": "private_chat", "name": name})).await;
        for guest in [&mut bob.me, &mut eve.me] {
            ann.me.invite(&room, &guest.user_id).await.ok();
            guest.is(&room, "invite").await;
            guest.join(&room).await.ok();
            ann.me.sees_member(&room, &guest.user_id, "join").await;
        }
        for (home, text) in [(&ann, "who waters it?"), (&bob, "I do"), (&eve, "thank you")] {
            home.me.send(&room, text).await;
        }
        ann.me.reads(&room, "thank you").await;
    }
    let mut command = Command::new("node");
    command.arg("scenario.mjs").current_dir(FOLDER).env("CHROMIUM", chromium);
    run(command, &mut [&mut ann.node, &mut bob.node, &mut eve.node]).await;
}
