//! One node alone: login, a room of one's own, restart, and the clean stop.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};

mod common;

use common::{
    Client, Node, client, eventually, home,
    node::{free_port, own_address},
};

#[tokio::test]
async fn a_login_token_makes_the_identity_and_counts_once() {
    let node = Node::start(&[]).await;
    let token = node.login_token().await;
    let me = Client::log_in(&node.base(), &token).await;
    assert!(me.user_id.starts_with("@p2p:bahwqcera"), "{}", me.user_id);
    assert_eq!(me.server_name().len(), 61);
    let again = json!({"type": "m.login.token", "token": token});
    me.post("v3/login", again).await.refused(403, "M_FORBIDDEN");
    let guess = json!({"type": "m.login.token", "token": "let me in"});
    me.post("v3/login", guess).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn requests_without_a_valid_access_token_are_refused() {
    let node = Node::start(&[]).await;
    let http = reqwest::Client::new();
    let url = format!("{}/_matrix/client/v3/account/whoami", node.base());
    client::ask(http.get(&url), "whoami").await.refused(401, "M_MISSING_TOKEN");
    let wrong = http.get(&url).bearer_auth("wrong");
    client::ask(wrong, "whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    let unknown = http.get(format!("{}/_matrix/client/v3/nothing", node.base()));
    client::ask(unknown, "nothing").await.refused(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn a_logged_out_device_is_out_and_the_others_stay() {
    let home = home(&[]).await;
    let other = home.node.log_in().await;
    assert_ne!(home.me.device_id, other.device_id);
    other.post("v3/logout", json!({})).await.ok();
    other.get("v3/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    let me = home.me.get("v3/account/whoami").await.ok();
    assert_eq!(me["user_id"], home.me.user_id);
}

#[tokio::test]
async fn every_device_gets_every_message_once() {
    let mut home = home(&[]).await;
    let mut other = home.node.log_in().await;
    let room = home.me.create(json!({"name": "mine"})).await;
    let mut sent = Vec::new();
    for n in 0..30 {
        let from = if n % 2 == 0 { &home.me } else { &other };
        sent.push(from.send(&room, &format!("message {n}")).await);
    }
    for device in [&mut home.me, &mut other] {
        device.reads(&room, "message 29").await;
        let texts = device.seen.timeline[&room].iter().filter(|e| e["type"] == "m.room.message");
        let got: Vec<&str> = texts.map(|event| event["event_id"].as_str().unwrap()).collect();
        assert_eq!(got, sent, "each once, in the order of sending");
    }
}

#[tokio::test]
async fn a_sync_waits_for_news_and_answers_at_once_when_they_come() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    home.me.sync(Duration::ZERO).await;
    let writer = home.me.clone();
    let mut waiting = home.me;
    let asked = Instant::now();
    let (news, _) = tokio::join!(waiting.sync(Duration::from_secs(30)), writer.send(&room, "x"));
    assert!(news["rooms"]["join"][&room].is_object(), "{news}");
    assert!(asked.elapsed() < Duration::from_secs(10), "it slept through the message");
}

#[tokio::test]
async fn a_transaction_id_sent_twice_is_one_event() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    let first = home.me.try_send(&room, "t1", "once").await.unwrap().ok();
    let second = home.me.try_send(&room, "t1", "once").await.unwrap().ok();
    assert_eq!(first, second);
    let other = home.me.try_send(&room, "t2", "once").await.unwrap().ok();
    assert_ne!(first, other, "equal words, another transaction");
    home.node.stop().await;
    home.node.start_again().await;
    let third = home.me.try_send(&room, "t1", "once").await.unwrap().ok();
    assert_eq!(first, third, "a restart forgets no transaction");
    assert_eq!(home.me.texts(&room).await, ["once", "once"]);
}

/// Room ids of version 12 and event ids are hashes, and all that is hashed may be equal but for the
/// time.
#[tokio::test]
async fn what_is_made_in_the_same_moment_is_not_the_same() {
    let home = home(&[]).await;
    let made = join_all((0..100).map(|_| home.me.create(json!({"name": "same"})))).await;
    let rooms: HashSet<&String> = made.iter().collect();
    assert_eq!(rooms.len(), made.len());
    let room = &made[0];
    let txns: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let sent = join_all(txns.iter().map(|txn| home.me.try_send(room, txn, "same"))).await;
    let sent: HashSet<String> = sent
        .into_iter()
        .map(|sent| sent.unwrap().ok()["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sent.len(), txns.len());
    assert_eq!(home.me.texts(room).await.len(), txns.len());
}

#[tokio::test]
async fn identity_sessions_and_rooms_survive_a_restart() {
    let mut home = home(&[]).await;
    let room = home.me.create(json!({"name": "kept", "topic": "what stays"})).await;
    home.me.call_oneself("Ann").await;
    let before = home.me.send(&room, "before").await;
    home.me.reads(&room, "before").await;
    let state = home.me.whole_state(&room).await;
    let peer_id = home.node.addresses().await;

    let (status, _) = home.node.stop().await;
    assert!(status.success(), "{status}");
    home.node.start_again().await;

    let me = home.me.get("v3/account/whoami").await.ok();
    assert_eq!(me["user_id"], home.me.user_id, "the access token still counts");
    assert_eq!(home.node.addresses().await, peer_id, "the PeerId stays");
    assert_eq!(home.me.whole_state(&room).await, state);
    assert_eq!(home.me.event(&room, &before).await.ok()["content"]["body"], "before");
    home.me.send(&room, "after").await;
    home.me.reads(&room, "after").await;
    let timeline = &home.me.seen.timeline[&room];
    let texts: Vec<&Value> = timeline.iter().filter(|e| e["type"] == "m.room.message").collect();
    assert_eq!(texts.len(), 2, "the sync goes on where it was: {texts:?}");
    let later = home.node.log_in().await;
    assert_eq!(later.user_id, home.me.user_id);
    let profile = later.get(&format!("v3/profile/{}", client::segment(&later.user_id))).await;
    assert_eq!(profile.ok()["displayname"], "Ann");
}

#[tokio::test]
async fn history_is_paged_to_its_end() {
    let home = home(&[]).await;
    let room = home.me.create(json!({})).await;
    let sent: Vec<String> = (0..250).map(|n| format!("message {n}")).collect();
    for text in &sent {
        home.me.send(&room, text).await;
    }
    assert_eq!(home.me.texts(&room).await, sent, "each once, in order");
    let history = home.me.messages(&room).await;
    assert_eq!(history.last().unwrap()["type"], "m.room.create");
}

#[tokio::test]
async fn sigterm_stops_within_five_seconds_though_a_sync_waits() {
    let mut home = home(&[]).await;
    home.me.sync(Duration::ZERO).await;
    let since = home.me.next_batch.clone().unwrap();
    let waiting = home.me.clone();
    let path = format!("v3/sync?timeout=60000&since={}", client::segment(&since));
    let sync = tokio::spawn(async move {
        // Ends by an answer or by the end of the connection: both are fine.
        let _ = waiting.try_request(reqwest::Method::GET, &path, None).await;
    });
    // A request made after the sync shows that the node is at work.
    home.me.get("v3/account/whoami").await.ok();
    let (status, took) = home.node.stop().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    sync.await.unwrap();
}

#[tokio::test]
async fn status_tells_who_the_node_is_and_fails_when_none_runs() {
    let mut home = home(&[]).await;
    home.me.create(json!({})).await;
    let status = home.node.status().await.unwrap();
    assert_eq!(status["user_id"], home.me.user_id);
    assert_eq!(status["server_name"], home.me.server_name());
    assert_eq!(status["rooms"]["joined"], 1);
    assert_eq!(status["peers"], json!([]));
    let text = home.node.run(&["status"]).await;
    assert!(String::from_utf8_lossy(&text.stdout).contains(home.me.server_name()));

    home.node.stop().await;
    for command in ["status", "login-token"] {
        let output = home.node.run(&[command]).await;
        assert!(!output.status.success(), "{command} of a node that does not run");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
    }
}

#[tokio::test]
async fn a_node_says_what_to_open_who_one_is_and_that_it_stopped() {
    let mut node = Node::new(&[]);
    let element = format!("{}:{}", own_address(), free_port());
    node.configure(|config| config["element"] = json!({"listenAddress": element, "fetch": false}));
    node.start_again().await;
    let config = node.config_file();
    let (open, from) =
        (format!("open http://{element}"), format!("configured by {}", config.display()));
    let missing = format!("its files belong into {}/element", node.data().display());
    let first = node.log();
    for words in [&from, "nobody has logged in yet", &open, &node.base(), &missing] {
        assert!(first.contains(words), "{words} is not said: {first}");
    }
    let status = async |node: &Node| String::from_utf8(node.run(&["status"]).await.stdout).unwrap();
    let early = status(&node).await;
    assert!(early.lines().next().unwrap().contains(&open), "{early}");
    assert!(early.contains("nobody yet") && !early.contains("peer id"), "{early}");

    fs::create_dir(node.data().join("element")).unwrap();
    fs::write(node.data().join("element/index.html"), "x").unwrap();
    let me = node.log_in().await;
    me.call_oneself("Ann").await;
    let found = format!("Ann:{}", &me.server_name()[54..]);
    let later = status(&node).await;
    assert!(later.lines().next().unwrap().contains(&open) && later.contains(&found), "{later}");
    assert!(later.contains(&format!("p2p:{}", me.server_name())), "{later}");
    assert!(!later.contains("belong into"), "{later}");
    let (exit, _) = node.stop().await;
    assert!(exit.success());
    assert!(node.log().lines().last().unwrap().contains("stopped"), "{}", node.log());
    node.start_again().await;
    eventually("by what others find one", async || node.log().contains(&found).then_some(())).await;
    let again = node.log();
    let again = again.rsplit("--- start").next().unwrap();
    assert!(!again.contains("nobody has logged in"), "{again}");
}
