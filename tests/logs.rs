//! The log: how much of it there is can be set for each part, and whatever is set, nothing of it is anybody's
//! secret.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test may panic")]

use std::fs;

use serde_json::{Value, json};

mod common;

use common::{
    Client, Home, Node,
    client::{open, password_login},
};

const PASSWORD: &str = "violet-otter-quantum";
const TEXT: &str = "meet me under the ninth oak";
const REPLY: &str = "bring the crimson ledger";
const ROOM_NAME: &str = "conspiracy of gardeners";

/// A node that logs as `filter` says, and its person.
async fn home_with(filter: &str, known: &[&Node]) -> Home {
    let mut addresses = Vec::new();
    for node in known {
        addresses.extend(node.addresses().await);
    }
    let mut node = Node::new(&addresses);
    node.log_as(filter);
    node.start_again().await;
    let me = node.log_in().await;
    Home { node, me }
}

/// Collects the texts of a JSON value that are long enough to be secrets.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.len() >= 16 => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn at_trace_the_log_has_no_token_key_password_or_text() {
    let mut ann = home_with("trace", &[]).await;
    let mut bob = home_with("trace", &[&ann.node]).await;
    ann.node.connected_to(&bob.me).await;
    let login_token = ann.node.login_token().await;
    let second = Client::log_in(&ann.node.base(), &login_token).await;
    let output = ann.node.run_with(&["password"], &format!("{PASSWORD}\n")).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let third = Client::by_password(&ann.node.base(), "p2p", PASSWORD).await;
    let (base, wrong) = (ann.node.base(), password_login("p2p", "wrong-otter-quantum"));
    open(&base, "v3/login", &wrong).await.refused(403, "M_FORBIDDEN");

    let room = ann.me.create_with(&[&bob.me]).await;
    ann.me.set_state(&room, "m.room.name", "", json!({"name": ROOM_NAME})).await.ok();
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    ann.me.send(&room, TEXT).await;
    bob.me.reads(&room, TEXT).await;
    bob.me.send(&room, REPLY).await;
    ann.me.reads(&room, REPLY).await;
    let search = ann.me.search(bob.me.user_id.as_str()).await;
    assert_eq!(search.len(), 1);
    ann.node.stop().await;
    bob.node.stop().await;

    let mut secrets: Vec<String> =
        [PASSWORD, "wrong-otter-quantum", TEXT, REPLY, ROOM_NAME].map(str::to_owned).to_vec();
    secrets.push(login_token);
    secrets.extend([&ann.me, &bob.me, &second, &third].map(|client| client.token().to_owned()));
    for home in [&ann, &bob] {
        let keys = fs::read(home.node.data().join("keys.json")).unwrap();
        let keys: Value = serde_json::from_slice(&keys).unwrap();
        let mut found = Vec::new();
        texts(&keys, &mut found);
        // What is public stands there too.
        found.retain(|text| !home.me.server_name().contains(text.as_str()));
        assert!(!found.is_empty(), "keys.json has no keys");
        secrets.extend(found);
    }
    for home in [&ann, &bob] {
        let log = home.node.log();
        assert!(log.contains("TRACE") && log.lines().count() > 1000, "this is no trace");
        for secret in &secrets {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{secret}: {}", line.unwrap());
        }
        // Bytes are written as numbers too.
        for text in [TEXT, REPLY, PASSWORD] {
            let numbers = text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!log.contains(&numbers) && !log.contains(&hex), "{text} in numbers");
        }
    }
}

#[tokio::test]
async fn how_much_is_logged_is_set_for_each_part() {
    let ann = home_with("warn,messagehub::actors::accounts=trace,actix_http=off", &[]).await;
    let quiet = home_with("error", &[]).await;
    let parts = |log: &str, level: &str| -> Vec<String> {
        let lines = log.lines().filter(|line| line.contains(level));
        lines.map(str::to_owned).collect()
    };
    for line in parts(&ann.node.log(), "DEBUG") {
        assert!(line.contains("messagehub::actors::accounts"), "{line}");
    }
    assert!(parts(&ann.node.log(), "INFO").iter().all(|line| !line.contains("libp2p")));
    assert!(parts(&quiet.node.log(), "INFO").is_empty(), "{}", quiet.node.log());
}
